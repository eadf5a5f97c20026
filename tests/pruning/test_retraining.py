"""The arms: what they start from, what they share, what they report, and how they go on."""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.core.config import key
from psplib.core.errors import PsplibError
from psplib.core.seeds import derive
from psplib.nn.compact import compact
from psplib.nn.data import Data, Split
from psplib.nn.masks import Mask
from psplib.nn.models import build
from psplib.pruning import retraining as tickets
from psplib.pruning.lobster import Lobster
from psplib.pruning.retraining import ARMS, Retraining, RetrainingResult, retrain_replicas
from psplib.training import engines
from psplib.training import fit as training
from psplib.training.fit import Checkpoint, order
from psplib.training.trainer import evaluate, flat

CONFIG = Retraining(
    Lobster("lenet-300", "digits", 7),
    2,
    "rewound",
    (0, 1, 2),
    4,
    learning_rate=0.3,
    batch_size=20,
)
REDRAWN = ("dense", "reinitialised", "restructured-layer", "restructured-global")


def gradual(mask: Mask) -> Tensor:
    """Weights of a gradual network, made up."""
    return flat(build("lenet-300", 99)) * mask.flat


def run(
    config: Retraining, data: Data, mask: Mask, checkpoint: Checkpoint | None = None
) -> RetrainingResult:
    weights = gradual(mask) if config.arm == "continued" else None
    return retrain_replicas([config], data, [mask], checkpoint, [weights])[0]


def initial(config: Retraining, mask: Mask, replica: int) -> tuple[Tensor, Mask]:
    return tickets.initial(config, mask, replica, gradual(mask))


@pytest.fixture(scope="module")
def mask() -> Mask:
    """A third of the weights, more of the first layers than of the last."""
    dense = Mask.dense(build("lenet-300", 0))
    chance = torch.cat(
        [torch.full((m.numel(),), 0.5 / (1 + i)) for i, (_, m) in enumerate(dense.items())]
    )
    return dense.with_flat(
        torch.rand(len(chance), generator=torch.Generator().manual_seed(4)) < chance
    )


def mask_of(arm: str, mask: Mask) -> Mask:
    return mask.with_flat(torch.ones_like(mask.flat)) if arm == "dense" else mask


def counts(mask: Mask) -> list[int]:
    return [int(m.sum()) for _, m in mask.items()]


def test_an_unknown_arm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PsplibError, match=r"dense, rewound.*continued, narrow; got 'winning'"):
        replace(CONFIG, arm="winning")


def test_rewound_weights_are_the_initial_ones_exactly_under_the_mask(
    tiny: Data, mask: Mask
) -> None:
    still = replace(CONFIG, learning_rate=0.0, epochs=1, replicas=(0,))
    result = run(still, tiny, mask)
    assert torch.equal(result.weights[mask.flat], flat(build("lenet-300", 7))[mask.flat])
    assert int(result.weights[~mask.flat].count_nonzero()) == 0
    assert torch.equal(result.mask, mask.flat)


@pytest.mark.parametrize("arm", ARMS[:-1])
def test_arms_start_from_the_initial_values_that_they_say(arm: str, mask: Mask) -> None:
    one, other = (initial(replace(CONFIG, arm=arm), mask, replica)[0] for replica in (0, 1))
    first_network = flat(build("lenet-300", 7))
    if arm in REDRAWN:
        # Replica by replica the same in every such arm, so that they can be compared in pairs.
        shared = initial(replace(CONFIG, arm="dense", point=0), mask, 0)[0]
        assert torch.equal(one, shared)
        assert not torch.equal(one, other)
        assert not torch.equal(one, first_network)
    else:
        start = gradual(mask) if arm == "continued" else first_network
        assert torch.equal(one, start)
        assert torch.equal(other, start)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_all_arms_see_the_samples_in_the_same_orders_replica_by_replica(
    arm: str, tiny: Data, mask: Mask, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []

    def noted(*arguments: int) -> Tensor:
        asked.append(arguments)
        return order(*arguments)

    monkeypatch.setattr(training, "order", noted)
    seen = {}
    for now in (arm, "reinitialised"):
        asked.clear()
        run(replace(CONFIG, arm=now, epochs=2), tiny, mask_of(now, mask))
        seen[now] = list(asked)
    assert seen[arm] == seen["reinitialised"]
    assert len({seed for _, seed, _ in seen[arm]}) == 3
    assert [epoch for _, _, epoch in seen[arm]] == [1, 2] * 3


@pytest.mark.parametrize("arm", ["restructured-layer", "restructured-global"])
def test_a_restructured_mask_has_the_counts_of_the_original_and_its_own_places(
    arm: str, mask: Mask
) -> None:
    config = replace(CONFIG, arm=arm)
    drawn = [initial(config, mask, replica)[1] for replica in range(3)]
    drawn.append(initial(replace(config, point=3), mask, 0)[1])
    for one, other in combinations([mask, *drawn], 2):
        assert one.kept == other.kept == mask.kept
        assert (counts(one) == counts(other)) == (arm == "restructured-layer")
        assert not torch.equal(one.flat, other.flat)
    assert torch.equal(initial(config, mask, 1)[1].flat, drawn[1].flat)


@pytest.mark.parametrize("arm", ["dense", "rewound", "reinitialised", "continued"])
def test_the_other_arms_keep_the_mask_of_their_point(arm: str, mask: Mask) -> None:
    assert initial(replace(CONFIG, arm=arm), mask, 0)[1] is mask


@pytest.mark.parametrize("arm", ARMS[:-1])
def test_what_an_arm_trains_keeps_as_many_parameters_as_its_mask(
    arm: str, tiny: Data, mask: Mask
) -> None:
    given = mask_of(arm, mask)
    result = run(replace(CONFIG, arm=arm, epochs=1), tiny, given)
    assert result.replicas["kept"].tolist() == [given.kept] * 3
    assert int(result.mask.sum()) == given.kept
    assert int(result.weights[~result.mask].count_nonzero()) == 0
    assert result.replicas["sparsity"].tolist() == pytest.approx([given.sparsity] * 3)


@pytest.mark.parametrize(("architecture", "inputs"), [("lenet-300", 784), ("lenet-5", 1)])
def test_the_narrow_arm_is_a_dense_network_of_the_live_widths(
    architecture: str, inputs: int, tiny: Data
) -> None:
    """As the sizes of its layers, and their initial values, would be had it been built so."""
    full = Mask.dense(build(architecture, 0))
    few = full.with_flat(torch.rand(len(full.flat)) < 0.02)
    config = replace(CONFIG, lobster=Lobster(architecture, "digits", 7), arm="narrow")
    values, mask = tickets.initial(config, few, 0)
    weights = [(n, m) for n, m in mask.items() if n.endswith("weight")]
    units = [inputs, *compact(build(architecture, 0), few).units[-len(weights) :]]
    parts = dict(mask.split(values))
    for (name, m), fan, own in zip(weights, units, units[1:], strict=False):
        layer = m.shape[1:].numel() // build_width(architecture, name)
        assert int(m.sum()) == own * fan * layer
        assert int(dict(mask.items())[name.replace("weight", "bias")].sum()) == own
        bound = (fan * layer) ** -0.5
        assert 0.9 * bound < float(parts[name][m].abs().max()) <= bound * (1 + 1e-6)
    result = run(replace(config, epochs=1, replicas=(0,)), tiny, few)
    assert int(result.mask.sum()) == mask.kept
    with pytest.raises(PsplibError, match="The narrow arm needs a pruned point"):
        replace(config, point=0)


def build_width(architecture: str, layer: str) -> int:
    """The units that a layer of the full network reads."""
    widths = {"lenet-300": (784, 300, 100), "lenet-5": (1, 20, 50, 500)}[architecture]
    names = [n for n, _ in build(architecture, 0).named_parameters() if n.endswith("weight")]
    return widths[names.index(layer)]


def test_the_continued_arm_goes_on_from_the_gradual_network_exactly(tiny: Data, mask: Mask) -> None:
    still = replace(CONFIG, arm="continued", learning_rate=0.0, epochs=1)
    result = run(still, tiny, mask)
    assert torch.equal(result.weights, gradual(mask))
    with pytest.raises(PsplibError, match="needs the weights of the gradual network"):
        retrain_replicas([still], tiny, [mask])
    with pytest.raises(PsplibError, match="needs a pruned point, from 1 on; got 0"):
        replace(still, point=0)


@pytest.mark.parametrize("arm", ["rewound", "continued"])
def test_shrinking_is_lobsters_step_under_the_mask(arm: str, tiny: Data, mask: Mask) -> None:
    """The oracle is the plain loop with LOBSTER's rule written out."""
    config = replace(CONFIG, arm=arm, shrinkage=3e-3, epochs=1, replicas=(1,))
    model = build("lenet-300", 0)
    nn.utils.vector_to_parameters(initial(config, mask, 1)[0], model.parameters())
    mask.apply_(model)
    for rows in order(len(tiny.train), derive("replica", 1), 1).split(20):
        model.zero_grad()
        F.cross_entropy(model(tiny.train.x[rows]), tiny.train.y[rows]).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.3 * p.grad
                p -= 3e-3 * p * (1 - p.grad.abs()).clamp_min(0)
        mask.apply_(model)
    shrunk = run(config, tiny, mask).weights
    torch.testing.assert_close(shrunk, flat(model), rtol=1e-3, atol=1e-5)
    plain = run(replace(config, shrinkage=0.0), tiny, mask).weights
    assert shrunk.norm() < 0.99 * plain.norm()


def test_without_shrinking_a_run_keeps_the_key_that_it_had() -> None:
    assert key(CONFIG) == key(replace(CONFIG, shrinkage=0.0))
    assert key(CONFIG) != key(replace(CONFIG, shrinkage=1e-4))
    with pytest.raises(PsplibError, match="shrinkage must be at least 0; got -1"):
        replace(CONFIG, shrinkage=-1.0)


def test_on_a_gpu_shrinking_networks_have_a_program_of_their_own() -> None:
    """Networks side by side need one rule."""
    shrinking = replace(CONFIG, shrinkage=1e-4)
    assert shrinking.program.recipe != CONFIG.program.recipe
    assert shrinking.program.recipe == replace(shrinking, arm="continued").program.recipe


FAST = replace(CONFIG, arm="reinitialised", learning_rate=1.0, epochs=10)


@pytest.fixture(scope="module")
def fast(tiny: Data, mask: Mask) -> RetrainingResult:
    """Learnt well before its end: the best epoch is not simply the last, and errors are tied."""
    return run(FAST, tiny, mask)


def test_a_replica_is_scored_at_its_lowest_validation_error_and_of_ties_the_lowest_loss(
    fast: RetrainingResult,
) -> None:
    decided_by_loss = 0
    for _, row in fast.replicas.iterrows():
        history = fast.history[fast.history["replica"] == row["replica"]]
        assert history["epoch"].tolist() == list(range(1, 11))
        lowest = history[history["validation_error"] == history["validation_error"].min()]
        best = lowest.sort_values("validation_loss").iloc[0]
        decided_by_loss += best["epoch"] != lowest["epoch"].iloc[0]
        assert row["best_epoch"] == best["epoch"]
        assert row["validation_error"] == best["validation_error"]
        assert row["validation_loss"] == best["validation_loss"]
    assert decided_by_loss > 0


def test_the_weights_are_those_of_the_best_replica_at_its_best_epoch(
    fast: RetrainingResult, tiny: Data
) -> None:
    champion = fast.replicas.sort_values(["validation_error", "validation_loss"]).iloc[0]
    assert champion["best_epoch"] < 10
    model = build("lenet-300", 0)
    nn.utils.vector_to_parameters(fast.weights, model.parameters())
    validation, test = evaluate(model, tiny.validation), evaluate(model, tiny.test)
    assert (champion["validation_error"], champion["test_error"]) == (validation.error, test.error)
    assert champion["validation_loss"] == pytest.approx(validation.loss, rel=1e-5)
    assert champion["test_loss"] == pytest.approx(test.loss, rel=1e-5)


def test_the_mask_of_the_best_replica_comes_with_its_weights(tiny: Data, mask: Mask) -> None:
    config = replace(CONFIG, arm="restructured-global", epochs=2)
    result = run(config, tiny, mask)
    best = result.replicas.sort_values(["validation_error", "validation_loss"])["replica"].iloc[0]
    assert torch.equal(result.mask, initial(config, mask, int(best))[1].flat)


def test_the_last_epoch_is_scored_beside_the_best(
    fast: RetrainingResult, tiny: Data, mask: Mask
) -> None:
    """The oracle is the plain loop: same initial values, orders and mask."""
    model = build("lenet-300", derive("replica", 0))
    mask.apply_(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    for epoch in range(1, 11):
        for rows in order(len(tiny.train), derive("replica", 0), epoch).split(20):
            optimiser.zero_grad()
            F.cross_entropy(model(tiny.train.x[rows]), tiny.train.y[rows]).backward()
            optimiser.step()
            mask.apply_(model)
    last = evaluate(model, tiny.test)
    assert fast.replicas["last_test_loss"][0] == pytest.approx(last.loss, rel=1e-2)
    assert fast.replicas["last_test_error"][0] == pytest.approx(last.error, abs=1 / 60)


@pytest.mark.parametrize("architecture", ["lenet-300", "lenet-5", "resnet-8"])
def test_a_replica_trained_after_others_equals_the_same_replica_alone(
    architecture: str, tiny: Data, tiny_colour: Data
) -> None:
    data = tiny_colour if architecture == "resnet-8" else tiny
    lobster = Lobster(architecture, "digits", 7)
    config = replace(CONFIG, lobster=lobster, arm="dense", replicas=(0, 1), epochs=1)
    mask = Mask.dense(build(architecture, 0))
    together = run(config, data, mask).replicas.iloc[1:].reset_index(drop=True)
    alone = run(replace(config, replicas=(1,)), data, mask).replicas
    pd.testing.assert_frame_equal(together, alone, check_exact=True)


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_interrupted_after_every_checkpoint_ends_with_the_same_bits(
    arm: str, in_pieces: Callable, tiny: Data, mask: Mask
) -> None:
    config = replace(CONFIG, arm=arm, shrinkage=1e-3 * (arm == "continued"))
    given = mask_of(arm, mask)
    whole = run(config, tiny, copy.deepcopy(given))
    resumed, interruptions = in_pieces(lambda checkpoint: run(config, tiny, given, checkpoint))
    assert interruptions >= 6
    pd.testing.assert_frame_equal(resumed.replicas, whole.replicas, check_exact=True)
    pd.testing.assert_frame_equal(resumed.history, whole.history, check_exact=True)
    assert torch.equal(resumed.weights, whole.weights)
    assert torch.equal(resumed.mask, whole.mask)


def test_the_learning_rate_falls_tenfold_after_its_shares_of_the_epochs() -> None:
    config = replace(CONFIG, epochs=8, learning_rate=0.1, steps=(0.5, 0.75), momentum=0.9)
    rates = [config.update(epoch).learning_rate for epoch in range(1, 9)]
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)
    assert config.update(1).momentum == 0.9


@pytest.mark.parametrize("steps", [(0.5, 0.5), (0.7, 0.2), (0.0,), (1.0,)])
def test_steps_are_rising_shares(steps: tuple[float, ...]) -> None:
    with pytest.raises(PsplibError, match="steps must be rising shares between 0 and 1; got"):
        replace(CONFIG, steps=steps)


@pytest.mark.parametrize("replicas", [(), (1, 1)])
def test_replicas_are_different_numbers(replicas: tuple[int, ...]) -> None:
    with pytest.raises(PsplibError, match="replicas must be different numbers; got"):
        replace(CONFIG, replicas=replicas)


TOGETHER = [
    replace(CONFIG, arm=arm, replicas=replicas, learning_rate=rate)
    for arm, replicas, rate in (
        ("rewound", (0, 1), 0.3),
        ("restructured-global", (1, 2), 0.2),
        ("restructured-layer", (0,), 0.3),
    )
] + [replace(CONFIG, arm="dense", point=0, replicas=(0,), steps=(0.5,))]


@pytest.mark.slow
def test_arms_and_points_side_by_side_are_those_one_by_one(
    tiny: Data, mask: Mask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, where rounding does not tell which of two epochs is the better."""
    monkeypatch.setattr(tickets.models, "build", lambda *which: build(*which).double())
    parts = {n: getattr(tiny, n) for n in ("train", "validation", "test")}
    data = replace(tiny, **{n: Split(s.x.double(), s.y) for n, s in parts.items()})
    sparse = mask.with_flat(mask.flat & (torch.arange(len(mask.flat)) % 10 == 0))
    masks = [sparse, mask, mask, mask_of("dense", mask)]
    every = [run(config, data, own) for config, own in zip(TOGETHER, masks, strict=True)]
    monkeypatch.setattr(tickets, "stacks", lambda device: True)
    monkeypatch.setattr(engines, "stacks", lambda device: True)
    found = retrain_replicas(TOGETHER, data, masks)
    for alone, result in zip(every, found, strict=True):
        pd.testing.assert_frame_equal(result.replicas, alone.replicas, rtol=1e-8)
        pd.testing.assert_frame_equal(result.history, alone.history, rtol=1e-8)
        assert torch.equal(result.mask, alone.mask)
        torch.testing.assert_close(result.weights, alone.weights, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(result.survivors, alone.survivors, rtol=1e-7, atol=1e-9)
    assert [len(result.survivors) for result in found] == [2, 0, 0, 0]


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.slow
def test_arms_side_by_side_interrupted_after_every_checkpoint_end_with_the_same_bits(
    stacked: bool,
    in_pieces: Callable,
    tiny: Data,
    mask: Mask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tickets, "stacks", lambda device: stacked)
    monkeypatch.setattr(engines, "stacks", lambda device: stacked)
    masks = [mask_of(config.arm, mask) for config in TOGETHER]
    whole = retrain_replicas(TOGETHER, tiny, masks)
    resumed, interruptions = in_pieces(
        lambda checkpoint: retrain_replicas(TOGETHER, tiny, masks, checkpoint)
    )
    assert interruptions >= 2
    for one, other in zip(resumed, whole, strict=True):
        pd.testing.assert_frame_equal(one.replicas, other.replicas, check_exact=True)
        pd.testing.assert_frame_equal(one.history, other.history, check_exact=True)
        assert torch.equal(one.weights, other.weights)


def test_arms_side_by_side_have_one_number_of_epochs(tiny: Data, mask: Mask) -> None:
    with pytest.raises(PsplibError, match="side by side need one epochs; got"):
        retrain_replicas([CONFIG, replace(CONFIG, epochs=9)], tiny, [mask, mask])


def test_another_precision_is_another_run_with_nearly_the_same_end(
    tiny: Data, mask: Mask, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, precision="bfloat16", replicas=(0,), learning_rate=0.1)
    assert key(config) != key(replace(config, precision="float32"))
    alone = run(config, tiny, mask)
    plain = run(replace(config, precision="float32"), tiny, mask)
    monkeypatch.setattr(engines, "stacks", lambda device: True)
    found = run(config, tiny, mask)
    far = (found.history["validation_loss"] - plain.history["validation_loss"]).abs()
    assert 0 < far.max() < 0.05
    far = (alone.history["validation_loss"] - plain.history["validation_loss"]).abs()
    assert 0 < far.max() < 0.05
    with pytest.raises(PsplibError, match=r"precision must be one of float32, tf32, bfloat16"):
        replace(config, precision="float16")
