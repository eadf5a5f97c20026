"""LOBSTER against a transcription of the published rule, brute force and its own records."""

import copy
from collections.abc import Callable
from dataclasses import replace
from math import ceil, inf, log2, nan

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from single import Single
from torch import Tensor, nn

from psplib.analysis import psp
from psplib.analysis.entropy import FirstOrder
from psplib.core.errors import PsplibError
from psplib.experiments.solutions import with_weights
from psplib.nn.data import Data, Split
from psplib.nn.masks import Mask
from psplib.nn.models import build
from psplib.pruning import lobster
from psplib.pruning.lobster import (
    GradualResult,
    Lobster,
    Plateau,
    largest_threshold,
    prune_gradually,
)
from psplib.training import engines
from psplib.training.entropy_learning import WAIT
from psplib.training.fit import Checkpoint, order
from psplib.training.trainer import Score, Trainer, evaluate, flat
from psplib.training.update import LobsterStep

CONFIG = Lobster(
    "lenet-300", "digits", 0,
    learning_rate=0.3, batch_size=20, shrinkage=0.015, tolerance=0.2, patience=2,
    target_sparsity=0.9, max_epochs=80,
)  # fmt: skip


def run(config: Lobster, data: Data, checkpoint: Checkpoint | None = None) -> GradualResult:
    return prune_gradually([config], data, checkpoint)[0]


def published(w: np.ndarray, g: np.ndarray, rate: float, shrinkage: float) -> np.ndarray:
    """Tartaglione et al. (arXiv 2011.09905), parameter by parameter: gradient descent, then a
    shrinking in proportion to the insensitivity max(0, 1 - |dL/dw|)."""
    new = np.empty_like(w)
    for i in range(len(w)):
        descended = w[i] - rate * g[i]
        insensitivity = max(0.0, 1.0 - abs(g[i]))
        new[i] = descended - shrinkage * descended * insensitivity
    return new


reals = st.floats(-3, 3, width=32)
rates = st.sampled_from([0.0, 0.01, 0.1, 1.0])
shrinkages = st.sampled_from([0.0, 1e-4, 5e-3, 0.5])


@given(st.lists(st.tuples(reals, reals), min_size=1, max_size=20), rates, shrinkages)
def test_a_step_is_the_published_rule(
    pairs: list[tuple[float, float]], rate: float, shrinkage: float
) -> None:
    w, g = np.array(pairs, dtype=np.float64).T
    weights = torch.tensor(w, dtype=torch.float32)
    LobsterStep(rate, shrinkage).step(weights, torch.tensor(g, dtype=torch.float32))
    np.testing.assert_allclose(weights, published(w, g, rate, shrinkage), rtol=1e-5, atol=1e-6)


@given(st.lists(st.tuples(reals, reals), min_size=1, max_size=20), rates, shrinkages)
def test_without_sensitivity_a_step_is_plain_decoupled_weight_decay(
    pairs: list[tuple[float, float]], rate: float, shrinkage: float
) -> None:
    w, g = np.array(pairs, dtype=np.float64).T
    weights = torch.tensor(w, dtype=torch.float32)
    LobsterStep(rate, shrinkage, sensitivity=False).step(
        weights, torch.tensor(g, dtype=torch.float32)
    )
    expected = (w - rate * g) - shrinkage * (w - rate * g)
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sensitivity", [True, False])
def test_idle_weights_shrink_as_they_would_step_by_step(sensitivity: bool) -> None:
    update = LobsterStep(0.1, 1e-3, sensitivity)
    start = torch.randn(50, generator=torch.Generator().manual_seed(0))
    at_once, stepwise = start.clone(), start.double()
    update.idle(at_once, 540)
    for _ in range(540):
        update.step(stepwise, torch.zeros(50).double())
    torch.testing.assert_close(at_once.double(), stepwise, rtol=1e-5, atol=0)
    assert float((at_once / start).mean()) == pytest.approx(0.999**540, rel=1e-5)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.02])
def test_an_epoch_of_a_learner_is_the_published_rule_on_the_full_network(
    density: float, tiny: Data
) -> None:
    """The oracle knows no compact form: float64, autograd, every parameter, idle ones too."""
    oracle = build("lenet-300", 0).double()
    dense = Mask.dense(oracle)
    kept = torch.rand(len(dense.flat), generator=torch.Generator().manual_seed(0)) < density
    mask = dense.with_flat(kept)
    nn.utils.vector_to_parameters(flat(oracle) * kept / density**0.5, oracle.parameters())
    learner = Single(build("lenet-300", 0), mask, tiny, 50)
    learner.weights = initial = flat(oracle).float()
    assert bool(len(learner._idle)) == (density == 0.02)

    for epoch in range(3):
        rows = order(len(tiny.train), 0, epoch)
        learner.train(rows, LobsterStep(0.1, 5e-3))
        for some in rows.split(50):
            oracle.zero_grad()
            F.cross_entropy(oracle(tiny.train.x[some].double()), tiny.train.y[some]).backward()
            with torch.no_grad():
                for p in oracle.parameters():
                    p -= 0.1 * p.grad
                    p -= 5e-3 * p * (1 - p.grad.abs()).clamp_min(0)
            mask.apply_(oracle)
    torch.testing.assert_close(learner.weights, flat(oracle).float(), rtol=1e-4, atol=1e-5)
    assert float((learner.weights - initial).abs().max()) > 0.02


@pytest.mark.parametrize(
    ("losses", "bad"),
    [
        ([1.0, 0.9, 0.8], [0, 0, 0]),
        ([1.0, 2.0, 3.0, 4.0], [0, 1, 2, 3]),
        ([1.0, 1.02, 1.02, 0.9, 1.0], [0, 1, 2, 0, 1]),  # bad epochs count in a row
        ([1.0, 1.009, 1.009, 1.009], [0, 0, 0, 0]),  # within 1 % of the best is no worsening
        ([1.0, 1.005, 1.009, 1.013], [0, 0, 0, 1]),  # nor does the best creep up
        ([1.0, 1.01], [0, 1]),  # not *below* 1.01 x the best
        ([1.0, 1.02, 1.0], [0, 1, 0]),
        ([1.0, nan, inf, 0.5], [0, 1, 2, 0]),
        ([nan, 1.0], [1, 0]),
    ],
)
def test_bad_epochs_are_counted_as_by_hand(losses: list[float], bad: list[int]) -> None:
    plateau, counted, best = Plateau(), [], []
    for loss in losses:
        plateau = plateau.after(loss)
        counted.append(plateau.bad)
        best.append(plateau.best)
    assert counted == bad
    assert best == [
        min([x for x in losses[: i + 1] if x == x], default=inf) for i in range(len(losses))
    ]


sizes_with_ties = st.lists(st.integers(1, 30), min_size=1, max_size=60)


@given(sizes_with_ties, st.integers(1, 9), st.data())
def test_a_threshold_is_within_the_bound_and_the_next_is_not_whatever_the_loss(
    sizes: list[int], at_once: int, draw: st.DataObject
) -> None:
    levels = sorted(set(sizes))
    table = {float(s): draw.draw(st.integers(0, 4)) for s in levels}
    asked: list[list[float]] = []

    def losses(thresholds: list[float]) -> list[float]:
        asked.append(thresholds)
        return [table[t] for t in thresholds]

    values = torch.tensor(sizes, dtype=torch.float32)
    found = largest_threshold(values, losses, 2.0, at_once)
    every = [t for thresholds in asked for t in thresholds]
    assert len(every) == len(set(every))
    assert all(1 <= len(thresholds) <= at_once for thresholds in asked)
    steps = int(log2(at_once + 1))
    assert len(asked) <= ceil(ceil(log2(len(sizes))) / steps)
    # Asking ahead changes nothing but the number of rounds.
    assert found == largest_threshold(values, losses, 2.0)
    assert found == 0 or table[found] <= 2
    larger = [s for s in levels if s > found]
    assert larger  # the largest weight stays
    assert len(larger) == 1 or table[larger[0]] > 2


@given(sizes_with_ties, st.integers(0, 30))
def test_of_a_growing_loss_the_largest_threshold_is_found(sizes: list[int], last: int) -> None:
    values = torch.tensor(sizes, dtype=torch.float32)
    found = largest_threshold(values, lambda ts: [float(t > last) for t in ts], 0.5)
    good = [v for v in values.tolist() if v <= last and v < float(values.max())]
    assert found == max(good, default=0.0)


def test_nothing_is_pruned_from_nothing() -> None:
    assert largest_threshold(torch.zeros(0), lambda _: pytest.fail("asked"), 1.0) == 0


@pytest.mark.parametrize("bound", [0.9, 1.0, 1.05, 1.3, 2.0, 5.0, 1e9])
@pytest.mark.parametrize("seed", range(3))
def test_bisection_finds_what_trying_every_threshold_finds(seed: int, bound: float) -> None:
    """A small trained network with a few equal weights; its loss at each of its magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (60,), generator=generator)
    x = torch.randn(3, 4, generator=generator)[y] + 0.7 * torch.randn(60, 4, generator=generator)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3, weight_decay=1e-2)
    for _ in range(200):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    weights = flat(model)
    weights[3], weights[20] = weights[4], -weights[21]
    evaluations = 0

    def loss(threshold: float) -> float:
        nonlocal evaluations
        evaluations += 1
        pruned = copy.deepcopy(model)
        nn.utils.vector_to_parameters(weights * (weights.abs() > threshold), pruned.parameters())
        return float(F.cross_entropy(pruned(x), y).detach())

    limit = bound * loss(-1.0)
    every = {t: loss(t) for t in sorted(set(weights.abs().tolist()))[:-1]}
    within = [t for t, value in every.items() if value <= limit]
    evaluations = 0
    found = largest_threshold(weights.abs(), lambda ts: [loss(t) for t in ts], limit)
    assert evaluations <= ceil(log2(len(weights)))
    assert found in every or found == 0
    prefix = list(every)[: len(within)]
    if within == prefix:  # the loss passes the bound once: there is one right answer
        assert found == max(within, default=0)
    elif found:
        assert every[found] <= limit


@pytest.fixture(scope="module")
def result(tiny: Data) -> GradualResult:
    return run(CONFIG, tiny)


SEEDS = [CONFIG, replace(CONFIG, seed=1, learning_rate=0.2), replace(CONFIG, seed=2, patience=1)]


@pytest.mark.slow
def test_runs_side_by_side_are_those_alone(tiny: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own plateaus, own thresholds: each run prunes and ends at epochs of its own. In float64: a
    threshold passes another weight where rounding says so."""
    monkeypatch.setattr(lobster.models, "build", lambda *which: build(*which).double())
    parts = {n: getattr(tiny, n) for n in ("train", "validation", "test")}
    data = replace(tiny, **{n: Split(s.x.double(), s.y) for n, s in parts.items()})
    configs = [replace(config, target_sparsity=0.75) for config in SEEDS]
    alone = [run(config, data) for config in configs]
    assert all(len(run.points) == 3 for run in alone)
    monkeypatch.setattr(engines, "stacks", lambda device: True)
    side_by_side = prune_gradually(configs, data)
    assert len({len(run.history) for run in alone}) == 3
    for one, other in zip(side_by_side, alone, strict=True):
        pd.testing.assert_frame_equal(one.points, other.points, rtol=1e-7)
        pd.testing.assert_frame_equal(one.history, other.history, rtol=1e-7)
        assert torch.equal(one.masks, other.masks)
        torch.testing.assert_close(one.weights, other.weights, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_runs_side_by_side_interrupted_after_every_checkpoint_end_with_the_same_bits(
    in_pieces: Callable, tiny: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "stacks", lambda device: True)
    configs = [replace(c, max_epochs=12) for c in SEEDS[:2]]
    whole = prune_gradually(configs, tiny)
    resumed, interruptions = in_pieces(
        lambda checkpoint: prune_gradually(configs, tiny, checkpoint)
    )
    assert interruptions >= 10
    for one, other in zip(resumed, whole, strict=True):
        pd.testing.assert_frame_equal(one.points, other.points, check_exact=True)
        pd.testing.assert_frame_equal(one.history, other.history, check_exact=True)
        assert torch.equal(one.weights, other.weights)
        assert torch.equal(one.masks, other.masks)


def test_runs_side_by_side_are_of_one_architecture(tiny: Data) -> None:
    with pytest.raises(PsplibError, match="side by side need one architecture"):
        prune_gradually([CONFIG, replace(CONFIG, architecture="lenet-5")], tiny)


def test_a_run_prunes_at_every_plateau_and_nothing_comes_back(tiny: Data) -> None:
    dead = torch.zeros(266_610, dtype=torch.bool)
    epoch = Trainer.epoch

    def watched(self: Trainer, *arguments: object) -> None:
        nonlocal dead
        assert bool((~self.masks[0].flat)[dead].all())
        dead = ~self.masks[0].flat
        epoch(self, *arguments)
        assert int(self.weights[0][dead].count_nonzero()) == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "epoch", watched)
        result = run(CONFIG, tiny)
    assert int(dead.sum()) >= 0.9 * len(dead)
    assert len(result.points) > 3
    assert (result.points["sparsity"].diff()[1:] > 0).all()
    assert (result.history["sparsity"].diff()[1:] >= 0).all()
    assert result.points["sparsity"].iloc[-1] >= 0.9 > result.points["sparsity"].iloc[-2]


def test_each_mask_is_the_last_one_less_the_weights_up_to_the_threshold(
    result: GradualResult,
) -> None:
    assert bool(result.masks[0].all())
    for k, threshold in enumerate(result.points["threshold"][:-1]):
        expected = result.masks[k] & (result.weights[k].abs() > threshold)
        assert torch.equal(result.masks[k + 1], expected)
        assert threshold in result.weights[k].abs().tolist()
        assert int(result.weights[k][~result.masks[k]].count_nonzero()) == 0


def scored(weights: Tensor, data: Data) -> dict[str, Score]:
    model = build("lenet-300", 1)
    nn.utils.vector_to_parameters(weights, model.parameters())
    return {name: evaluate(model, getattr(data, name)) for name in ("validation", "test")}


def test_a_point_is_the_plateau_before_its_pruning(result: GradualResult, tiny: Data) -> None:
    for k, point in result.points.iterrows():
        scores = scored(result.weights[k], tiny)
        for name, score in scores.items():
            assert point[f"{name}_loss"] == pytest.approx(score.loss, rel=1e-5)
            assert point[f"{name}_error"] == score.error
        assert point["kept"] == int(result.masks[k].sum())
        if k + 1 < len(result.points):
            pruned = scored(result.weights[k] * result.masks[k + 1], tiny)["validation"].loss
            assert pruned <= 1.2 * scores["validation"].loss * (1 + 1e-6)
            survivors = result.weights[k][result.masks[k + 1]].abs()
            further = result.weights[k] * (result.weights[k].abs() > survivors.min())
            worse = scored(further, tiny)["validation"].loss
            assert worse > 1.2 * scores["validation"].loss * (1 - 1e-6)


def test_every_wait_ends_with_its_bad_epochs_and_returns_to_its_best(result: GradualResult) -> None:
    """The history alone tells where each wait ended and which epoch was its best."""
    history = result.history.set_index("epoch")["validation_loss"]
    assert history.index.tolist() == list(range(1, len(history) + 1))
    ends, start = [], 1
    for epoch in history.index:
        wait = history.loc[start:epoch]
        best_so_far = wait.cummin().shift(fill_value=inf)
        bad = (wait >= 1.01 * best_so_far).tolist()
        if bad[-2:] == [True, True]:
            ends.append((epoch, int(wait.idxmin()), wait.min()))
            start = epoch + 1
    columns = ["epoch", "best_epoch", "validation_loss"]
    expected = pd.DataFrame(ends, columns=columns)
    pd.testing.assert_frame_equal(
        result.points[columns[:2]], expected[columns[:2]], check_dtype=False
    )
    np.testing.assert_allclose(
        result.points["validation_loss"], expected["validation_loss"], rtol=1e-5
    )


def test_the_weight_decay_ablation_differs_from_the_first_epoch_on(
    result: GradualResult, tiny: Data
) -> None:
    decayed = run(replace(CONFIG, sensitivity=False), tiny)
    assert decayed.points["sparsity"].iloc[-1] >= 0.9
    assert (decayed.points["sparsity"].diff()[1:] > 0).all()
    assert decayed.history["validation_loss"][0] != result.history["validation_loss"][0]


def test_the_run_ends_at_its_last_epoch_with_a_point(tiny: Data) -> None:
    result = run(replace(CONFIG, max_epochs=3), tiny)
    assert result.history["epoch"].tolist() == [1, 2, 3]
    assert result.points["epoch"].tolist() == [3]
    assert result.weights.shape == result.masks.shape == (1, 266_610)


def test_the_seed_draws_initial_values_and_orders(tiny: Data) -> None:
    short = replace(CONFIG, max_epochs=2)
    one, same, other = (run(replace(short, seed=s), tiny) for s in (0, 0, 1))
    assert torch.equal(one.weights, same.weights)
    assert not torch.equal(one.weights, other.weights)


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, max_epochs=26),
        replace(CONFIG, sensitivity=False, max_epochs=8),
        replace(CONFIG, gamma=0.3, max_epochs=26),
        replace(CONFIG, architecture="lenet-5", max_epochs=3, patience=0),
        replace(CONFIG, architecture="resnet-8", max_epochs=5, patience=0),
    ],
    ids=["lenet-300", "weight decay", "gamma", "lenet-5", "resnet-8"],
)
@pytest.mark.slow
def test_a_run_interrupted_after_every_checkpoint_ends_with_the_same_bits(
    config: Lobster, in_pieces: Callable, tiny: Data, tiny_colour: Data
) -> None:
    data = tiny_colour if config.architecture == "resnet-8" else tiny
    whole = run(config, data)
    resumed, interruptions = in_pieces(lambda checkpoint: run(config, data, checkpoint))
    assert interruptions >= len(whole.history) - 2
    assert len(whole.points) > 1 or not config.sensitivity
    pd.testing.assert_frame_equal(resumed.points, whole.points, check_exact=True)
    pd.testing.assert_frame_equal(resumed.history, whole.history, check_exact=True)
    assert torch.equal(resumed.weights, whole.weights)
    assert torch.equal(resumed.masks, whole.masks)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("architecture", "vgg", "architecture must be one of lenet-300, lenet-5, resnet-8,"),
        ("data", "imagenet", "data must be one of digits, mnist, fashion-mnist, cifar10; got"),
        ("max_epochs", 0, "max_epochs must be a whole number of at least 1; got 0."),
        ("patience", -1, "patience must be a whole number of at least 0; got -1."),
        ("gamma", inf, "gamma must be finite; got inf."),
        ("target_sparsity", 1.0, "target_sparsity must lie between 0 and 1; got 1.0."),
    ],
)
def test_senseless_configurations_are_refused(field: str, value: object, sentence: str) -> None:
    with pytest.raises(PsplibError) as refused:
        replace(CONFIG, **{field: value})
    assert str(refused.value).startswith(sentence)


def test_a_gamma_begins_after_its_wait_and_keeps_the_entropy(tiny: Data) -> None:
    def first_order(result: GradualResult) -> float:
        model, probe = with_weights(build("lenet-300", 0), result.weights[0]), FirstOrder()
        psp.observe(model, tiny.train, probe)
        return probe.entropy().mean

    short = replace(CONFIG, max_epochs=20, patience=20)
    plain, kept, held = (run(replace(short, gamma=g), tiny) for g in (0.0, 1.0, -1.0))
    assert plain.history[:WAIT].equals(kept.history[:WAIT])
    assert not plain.history[: WAIT + 1].equals(kept.history[: WAIT + 1])
    assert first_order(held) < first_order(plain) < first_order(kept)
    with pytest.raises(PsplibError, match=r"A gamma is for lenet-300; got 'lenet-5'\."):
        replace(CONFIG, architecture="lenet-5", gamma=0.1)


def test_a_diverging_training_is_one_sentence(tiny: Data) -> None:
    with pytest.raises(PsplibError, match="The training diverged: its weights are not finite"):
        run(replace(CONFIG, learning_rate=1e30), tiny)
