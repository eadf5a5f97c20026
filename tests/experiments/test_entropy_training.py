"""Learning by entropy: what it rewards rises, what it is told to hold down falls; masks hold."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from psplib.core.errors import PsplibError
from psplib.core.seeds import derive
from psplib.experiments import scales
from psplib.experiments.entropy_learning import MEASURED, EntropyLearning, forward
from psplib.nn import models
from psplib.nn.data import Data
from psplib.nn.masks import Mask
from psplib.pruning.lobster import Lobster
from psplib.runs.store import Store
from psplib.training.trainer import flat

LOBSTER = Lobster("lenet-300", "mnist", 0)
SMALL = EntropyLearning(
    LOBSTER, 0.0, replicas=(0, 1), epochs=6, wait=1, rise=1, batch_size=50,
    targets=("digits",), shots=2, draws=2, samples=200,
)  # fmt: skip


def dense() -> Mask:
    return Mask.dense(models.build("lenet-300", 0))


def test_the_entropy_rises_with_gamma_and_the_rest_is_as_without(tiny: Data) -> None:
    found = {}
    for gamma in (-1.0, 0.0, 1.0):
        config = dataclasses.replace(SMALL, gamma=gamma, replicas=(0,))
        found[gamma] = config.analyse(tiny, [tiny], dense())["networks"]["first"].item()
    assert found[-1.0] < found[0.0] < found[1.0]


def test_the_objective_of_second_order_holds_mutual_information_down(tiny: Data) -> None:
    found = {}
    for pairs in (0, 64):
        config = dataclasses.replace(SMALL, gamma=1.0, pairs=pairs, replicas=(0,), measured=True)
        found[pairs] = config.analyse(tiny, [tiny], dense())["networks"].iloc[0]
    assert found[64]["mutual"] < found[0]["mutual"]
    assert all(found[64][name] > 0 for name in MEASURED)


def test_without_gamma_it_is_plain_gradient_descent(tiny: Data) -> None:
    config = dataclasses.replace(SMALL, epochs=1, batch_size=300)
    model = config.train(tiny, dense(), 0)
    plain = models.build("lenet-300", derive("replica", 0))
    loss = nn.functional.cross_entropy(plain(tiny.train.x), tiny.train.y)
    gradients = torch.autograd.grad(loss, list(plain.parameters()))
    expected = flat(plain) - 0.1 * torch.cat([g.flatten() for g in gradients])
    assert torch.allclose(flat(model), expected, atol=1e-6)


def test_the_mask_holds_and_the_initial_values_are_those_of_the_gradual_run(tiny: Data) -> None:
    mask = dense().with_flat(torch.rand(266_610) < 0.1)
    config = dataclasses.replace(SMALL, gamma=0.3, point=3, epochs=2)
    weights = flat(config.train(tiny, mask, 0))
    assert not bool(weights[~mask.flat].any())
    assert bool((weights[mask.flat] != flat(models.build("lenet-300", 0))[mask.flat]).any())


def test_an_interrupted_training_ends_with_the_same_tables(tiny: Data, in_pieces: Callable) -> None:
    config = dataclasses.replace(SMALL, gamma=0.3, epochs=3)
    whole = config.analyse(tiny, [tiny], dense())
    pieces, interruptions = in_pieces(lambda c: config.analyse(tiny, [tiny], dense(), c))
    assert interruptions >= 1
    assert all(whole[name].equals(pieces[name]) for name in whole)


def test_potentials_are_those_in_front_of_the_relus(tiny: Data) -> None:
    model = models.build("lenet-5", 0)
    logits, potentials = forward(model, tiny.test.x)
    assert torch.equal(logits, model(tiny.test.x))
    assert [z.shape[1] for z in potentials] == [11_520, 3_200, 500]


def test_every_gamma_has_its_controls_and_no_run_is_asked_for_twice(store: Store) -> None:
    panel = scales.entropy_learning("paper")
    found = [c for c in panel.runs(store) if isinstance(c, EntropyLearning)]
    first = panel.networks[0]
    assert found[0] == first.template
    small = found[: len(first.cases)]
    assert len({(c.gamma, c.labels) for c in small}) == len(small) == 1 + 8 * 3
    assert [abs(c.gamma) for c in small] == sorted(abs(c.gamma) for c in small)
    again = {c for c in found if found.count(c) > 1}
    assert {(c.gamma, c.measured) for c in again} == {(0.0, True)}, "it knows no order"
    assert {run.gamma for run in panel.gradual.lobsters} == {0.0, 0.1, 0.3}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gamma": math.nan}, "gamma must be finite; got nan"),
        ({"gamma": math.inf}, "gamma must be finite; got inf"),
        ({"labels": "some"}, "labels must be one of classes, none, permuted; got 'some'"),
        ({"replicas": (1, 1)}, "replicas must be different numbers"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1; got 0"),
        ({"epochs": 10**9}, "epochs must be a whole number of at most 1000000; got 1000000000"),
        ({"lobster": Lobster("resnet-8", "cifar10", 0)}, "is for LeNets; got 'resnet-8'"),
    ],
)
def test_bad_configurations_are_named(changes: dict, sentence: str) -> None:
    with pytest.raises(PsplibError, match=sentence):
        dataclasses.replace(SMALL, **changes)
