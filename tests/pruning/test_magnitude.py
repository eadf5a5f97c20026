"""Magnitude pruning: whose weights it ranks, what it rewinds to, and how it goes on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from psplib.core.config import key
from psplib.core.errors import PsplibError
from psplib.core.seeds import derive
from psplib.nn.data import Data
from psplib.nn.masks import Mask
from psplib.nn.masks import magnitude as ranked
from psplib.nn.models import build
from psplib.pruning import magnitude
from psplib.pruning import retraining as tickets
from psplib.pruning.lobster import Lobster
from psplib.pruning.magnitude import Magnitude, MagnitudeResult
from psplib.pruning.retraining import Retraining
from psplib.training.engines import trainers
from psplib.training.fit import finish, order
from psplib.training.trainer import evaluate, flat

# Trained hard enough for the best epoch not always to be the last, whose weights are ranked.
CONFIG = Magnitude(
    Lobster("lenet-300", "digits", 7),
    (1, 3, 4),
    False,
    (0, 1),
    epochs=4,
    learning_rate=0.6,
    batch_size=20,
)


@pytest.fixture(scope="module")
def masks() -> list[Mask]:
    """Random ones: 30, 5 and 2 of a hundred weights, each within the one before."""
    dense = Mask.dense(build("lenet-300", 0))
    chance = torch.rand(len(dense.flat), generator=torch.Generator().manual_seed(4))
    return [dense.with_flat(chance < share) for share in (0.3, 0.05, 0.02)]


@pytest.fixture(scope="module", params=[False, True], ids=["one-shot", "iterative"])
def config(request: pytest.FixtureRequest) -> Magnitude:
    return replace(CONFIG, iterative=request.param)


@pytest.fixture(scope="module")
def result(config: Magnitude, tiny: Data, masks: list[Mask]) -> MagnitudeResult:
    return magnitude.prune_by_magnitude(config, tiny, masks)


def trained(mask: np.ndarray, replica: int, tiny: Data) -> np.ndarray:
    """The plain loop: the network of the gradual run, rewound and trained under a mask."""
    model, survives = build("lenet-300", 7), torch.from_numpy(mask)
    Mask.dense(model).with_flat(survives).apply_(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.6)
    for epoch in (1, 2, 3, 4):
        for rows in order(len(tiny.train), derive("replica", replica), epoch).split(20):
            optimiser.zero_grad()
            F.cross_entropy(model(tiny.train.x[rows]), tiny.train.y[rows]).backward()
            optimiser.step()
            Mask.dense(model).with_flat(survives).apply_(model)
    return flat(model).numpy()


def test_the_largest_weights_survive_of_the_network_that_was_trained_last(
    config: Magnitude, tiny: Data, masks: list[Mask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One-shot, that is always the dense one; the plain loop ranks with numpy."""
    used: list[Tensor] = []

    def noted(model: torch.nn.Module, masks: list[Mask], *rest: Any) -> list:
        used.append(masks[0].flat)
        return trainers(model, masks, *rest)

    monkeypatch.setattr(magnitude, "trainers", noted)
    magnitude.prune_by_magnitude(replace(config, replicas=(1,)), tiny, masks)
    assert used[0].all()
    dense = trained(used[0].numpy(), 1, tiny)
    for before, now, asked in zip(used[:-1], used[1:], masks, strict=True):
        assert int(now.sum()) == asked.kept
        last = trained(before.numpy(), 1, tiny) if config.iterative else dense
        size = np.where(before.numpy(), np.abs(last), -1.0)
        threshold = np.sort(size)[-asked.kept]
        clear = np.abs(size - threshold) > 1e-4  # of those at the threshold, rounding decides
        np.testing.assert_array_equal(now.numpy()[clear], (size > threshold)[clear])
        assert clear.mean() > 0.99


def test_until_the_second_mask_both_ways_are_the_same(tiny: Data, masks: list[Mask]) -> None:
    short = replace(CONFIG, points=(1, 3), epochs=2)
    one_shot = magnitude.prune_by_magnitude(short, tiny, masks[:2]).replicas
    iterative = magnitude.prune_by_magnitude(
        replace(short, iterative=True), tiny, masks[:2]
    ).replicas
    first = one_shot["point"] < 3
    pd.testing.assert_frame_equal(one_shot[first], iterative[first], check_exact=True)
    assert (one_shot["validation_loss"] != iterative["validation_loss"])[~first].all()


def test_a_network_is_what_the_rewound_arm_makes_of_its_mask(
    tiny: Data, masks: list[Mask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same initial values, same orders, same score: with LOBSTER's mask in the place of its own."""
    monkeypatch.setattr(magnitude, "magnitude", lambda source, mask, kept: masks[1])
    found = magnitude.prune_by_magnitude(replace(CONFIG, points=(2,)), tiny, masks[1:2]).replicas
    rewound = Retraining(CONFIG.lobster, 2, "rewound", (0, 1), 4, 0.6, 20)
    expected = tickets.retrain_replicas([rewound], tiny, [masks[1]])[0].replicas
    found = found[found["point"] == 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(found[list(expected)], expected, check_exact=True)


def test_without_rewound_weights_a_run_keeps_the_key_that_it_had() -> None:
    assert key(CONFIG) == key(replace(CONFIG, rewinds="weights", steps=()))
    named = {key(replace(CONFIG, rewinds=r, steps=(0.5,))) for r in magnitude.REWINDS}
    assert len(named | {key(CONFIG)}) == 4


@pytest.mark.parametrize(
    ("rewinds", "rates"),
    [
        ("weights", [0.6, 0.6, 0.06, 0.006]),
        ("learning rate", [0.6, 0.6, 0.06, 0.006]),
        ("nothing", [0.006] * 4),
    ],
)
def test_what_is_not_rewound_goes_on_from_the_trained_network(
    rewinds: str, rates: list[float], tiny: Data, masks: list[Mask], monkeypatch: Any
) -> None:
    """The oracle is the plain loop: from the dense network at its best epoch, or from the initial
    values, with the rates of each epoch."""
    config = replace(CONFIG, points=(2, 3), replicas=(1,), rewinds=rewinds, steps=(0.5, 0.75))
    for point, expected in ((0, [0.6, 0.6, 0.06, 0.006]), (2, rates)):
        found = [config.update(epoch, point).learning_rate for epoch in range(1, 5)]
        assert found == pytest.approx(expected)
    ends: list[Tensor] = []

    def noted(trials: list[Any]) -> list[dict[str, Any]]:
        rows = finish(trials)
        ends.append(trials[0].weights)
        return rows

    monkeypatch.setattr(magnitude, "finish", noted)
    magnitude.prune_by_magnitude(config, tiny, masks[1:])
    dense, *sparse = ends
    for mask, end in zip(masks[1:], sparse, strict=True):
        survives = ranked(dense, Mask.dense(build("lenet-300", 7)), mask.kept)
        model = build("lenet-300", 7)
        if rewinds != "weights":
            torch.nn.utils.vector_to_parameters(dense.clone(), model.parameters())
        survives.apply_(model)
        near = []
        for epoch, rate in enumerate(rates, 1):
            for rows in order(len(tiny.train), derive("replica", 1), epoch).split(20):
                model.zero_grad()
                F.cross_entropy(model(tiny.train.x[rows]), tiny.train.y[rows]).backward()
                with torch.no_grad():
                    for p in model.parameters():
                        p -= rate * p.grad
                survives.apply_(model)
            near.append(float((flat(model) - end).abs().max()))
        assert min(near) < 1e-4, "it is the plain loop at one of its epochs"


def test_the_tables_have_a_row_for_every_replica_point_and_parameter(
    result: MagnitudeResult, masks: list[Mask]
) -> None:
    replicas = result.replicas
    rounds = [(r, p) for r in (0, 1) for p in (0, 1, 3, 4)]
    assert list(zip(replicas["replica"], replicas["point"], strict=True)) == rounds
    kept = [len(masks[0].flat), *(m.kept for m in masks)]
    assert replicas["kept"].tolist() == kept * 2
    assert len(result.history) == 8 * 4
    layers = result.layers
    assert len(layers) == 2 * 3 * 6
    assert layers.groupby(["replica", "point"])["kept"].sum().tolist() == kept[1:] * 2
    here = layers[(layers["replica"] == 1) & (layers["point"] == 3)]
    assert here["lobster"].tolist() == [int(m.sum()) for _, m in masks[1].items()]
    assert here["size"].sum() == len(masks[0].flat)
    assert (layers["shared"] <= layers[["kept", "lobster"]].min(axis=1)).all()
    # Random masks share what chance gives them.
    first = layers[layers["point"] == 1]
    assert first["shared"].sum() / first["kept"].sum() == pytest.approx(0.3, abs=0.01)


@pytest.mark.slow
def test_interrupted_after_every_checkpoint_it_ends_with_the_same_bits(
    config: Magnitude, result: MagnitudeResult, in_pieces: Callable, tiny: Data, masks: list[Mask]
) -> None:
    resumed, interruptions = in_pieces(
        lambda checkpoint: magnitude.prune_by_magnitude(config, tiny, masks, checkpoint)
    )
    assert interruptions >= 24
    for part in ("replicas", "layers", "history"):
        pd.testing.assert_frame_equal(
            getattr(resumed, part), getattr(result, part), check_exact=True
        )
    assert torch.equal(resumed.weights, result.weights)
    assert torch.equal(resumed.masks, result.masks)


def test_the_networks_at_the_end_are_those_that_were_scored(
    result: MagnitudeResult, tiny: Data
) -> None:
    last = result.replicas[result.replicas["point"] == 4]
    for mask, weights, (_, row) in zip(result.masks, result.weights, last.iterrows(), strict=True):
        assert int(mask.sum()) == row["kept"]
        assert not weights[~mask].any()
        model = build("lenet-300", 7)
        torch.nn.utils.vector_to_parameters(weights.clone(), model.parameters())
        assert evaluate(model, tiny.test).error == row["test_error"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"points": (0, 2)}, "points must be rising numbers from 1 on; got"),
        ({"points": (2, 1)}, "points must be rising numbers from 1 on; got"),
        ({"replicas": ()}, "replicas must be different numbers; got"),
        ({"rewinds": "time"}, "rewinds must be one of weights, learning rate, nothing; got"),
        ({"rewinds": "nothing"}, "one-shot and has steps; got iterative False and steps"),
        ({"steps": (0.7, 0.2)}, "steps must be rising shares between 0 and 1; got"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1; got 0"),
    ],
)
def test_bad_settings_are_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(PsplibError, match=sentence):
        replace(CONFIG, **changes)


def test_more_survivors_than_there_are_is_refused(tiny: Data, masks: list[Mask]) -> None:
    with pytest.raises(PsplibError, match="kept must lie between 0 and"):
        magnitude.prune_by_magnitude(
            replace(CONFIG, points=(1, 2), epochs=1), tiny, [masks[1], masks[0]]
        )
