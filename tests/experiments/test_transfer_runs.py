"""Transfer: features are what layers read, networks are those of the store, targets are grey."""

import dataclasses
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from problems import compute, synthetic
from torch import nn

from psplib.analysis import entropy, psp
from psplib.core.errors import PsplibError
from psplib.experiments import scales
from psplib.experiments.fine_tuning import FineTuning
from psplib.experiments.solutions import first_images, with_weights
from psplib.experiments.transfer import Network, Transfer, grey, inputs, networks
from psplib.nn import models
from psplib.nn.data import Data, Split
from psplib.nn.masks import Mask
from psplib.pruning.lobster import Lobster
from psplib.pruning.magnitude import Magnitude
from psplib.pruning.retraining import Retraining
from psplib.runs.run import check_run
from psplib.runs.store import Store
from psplib.training import trainer as training

REWOUND = Retraining(Lobster("lenet-300", "mnist", 0), 3, "rewound", (4, 7))
SMALL = Transfer(REWOUND, ("mnist",), (1, 2), draws=3, samples=200, validation=30)


def found(architecture: str = "lenet-300", kept: float = 0.05) -> list[Network]:
    """Two networks with one random mask."""
    model = models.build(architecture, 0)
    dense = Mask.dense(model)
    mask = dense.with_flat(torch.rand(len(dense.flat)) < kept)
    weights = 0.3 * torch.randn(2, len(mask.flat)) * mask.flat
    return [Network("lobster", -1, mask, weights[0]), Network("rewound", 4, mask, weights[1])]


@pytest.mark.parametrize(
    ("architecture", "kept", "layers"),
    [("lenet-300", 0.002, ("fc2", "fc3")), ("lenet-5", 0.006, ("fc1", "fc2"))],
)
def test_features_are_what_the_last_two_linear_layers_read(
    architecture: str, kept: float, layers: tuple[str, str], tiny: Data
) -> None:
    network = found(architecture, kept)[0]
    model = with_weights(models.build(architecture, 1), network.weights)
    seen: list[torch.Tensor] = []
    read = inputs(model, network.mask, tiny.test.x, batch=50)
    for name in layers:
        model.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    model(tiny.test.x)
    for own, full in zip(read, seen, strict=True):
        assert own.shape[1] < full.shape[1]
        active, own = full[:, (full != 0).any(0)], own[:, (own != 0).any(0)]
        assert torch.allclose(own, active, atol=1e-5)


def test_there_is_a_row_for_each_network_target_depth_and_number_of_images(tiny: Data) -> None:
    tables = SMALL.analyse(tiny, [tiny], found())
    names = ["arm", "replica", "target", "layers", "shots"]
    assert tables["probes"][names].to_numpy().tolist() == [
        [arm, replica, "synthetic", layers, shots]
        for arm, replica in (("lobster", -1), ("rewound", 4))
        for layers in (1, 2)
        for shots in (1, 2)
    ]
    assert tables["targets"][["pool", "validation", "test"]].to_numpy().tolist() == [[300, 50, 60]]


def test_entropies_and_error_on_the_source_are_those_of_the_network(tiny: Data) -> None:
    network = found()[1]
    row = SMALL.analyse(tiny, [tiny], [network])["networks"].iloc[0]
    model = with_weights(models.build("lenet-300", 0), network.weights)
    second = entropy.SecondOrder()
    psp.observe(model, first_images(tiny.train, 200), second)
    assert row["joint"] == pytest.approx(second.entropies()["joint"].mean)
    assert row["test_error"] == training.evaluate(model, tiny.test).error


def test_an_interrupted_transfer_ends_with_the_same_tables(tiny: Data, in_pieces: Callable) -> None:
    these = found()
    whole = SMALL.analyse(tiny, [tiny], these)
    pieces, interruptions = in_pieces(lambda c: SMALL.analyse(tiny, [tiny], these, c))
    assert interruptions >= 1
    assert all(whole[name].equals(pieces[name]) for name in whole)


def test_a_dead_network_and_a_target_without_a_class_are_named(tiny: Data) -> None:
    network = found()[0]
    dead = network._replace(weights=torch.zeros_like(network.weights))
    with pytest.raises(PsplibError, match="No neuron of the last 1 layers of lobster -1 on"):
        SMALL.analyse(tiny, [tiny], [dead])
    few = Split(tiny.train.x, tiny.train.y.where(tiny.train.y != 3, 4))
    with pytest.raises(PsplibError, match="has 0 images of class 3 to draw from; 1 a class"):
        SMALL.analyse(tiny, [dataclasses.replace(tiny, train=few)], [network])


def test_colour_becomes_brightness() -> None:
    data = synthetic((3, 32, 32), (40, 20, 20))
    plain = dataclasses.replace(data, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1))
    shrunk = grey(plain)
    assert shrunk.train.x.shape == (40, 1, 28, 28)
    assert abs(float(shrunk.train.x.mean())) < 1e-5
    assert float(shrunk.train.x.std()) == pytest.approx(1)
    rgb = (
        plain.test.x * torch.tensor(plain.std)[:, None, None]
        + torch.tensor(plain.mean)[:, None, None]
    )
    y = rgb[:, 0] * 0.299 + rgb[:, 1] * 0.587 + rgb[:, 2] * 0.114
    small = nn.functional.interpolate(y[:, None], (28, 28), mode="bilinear", antialias=True)
    assert torch.allclose(shrunk.test.x * shrunk.std[0] + shrunk.mean[0], small, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"targets": ("letters",)}, "a target must be one of digits, mnist"),
        ({"targets": ()}, "targets must be different and at least one"),
        ({"shots": (5, 5)}, "shots must be different and at least one"),
        ({"shots": (0,)}, "shots must be a whole number of at least 1; got 0"),
        ({"draws": 0}, "draws must be a whole number of at least 1; got 0"),
        (
            {"retraining": Retraining(Lobster("resnet-8", "cifar10", 0), 1, "rewound", (0,))},
            "in LeNets; got 'resnet-8'",
        ),
        (
            {"retraining": Magnitude(REWOUND.lobster, (1,), True, (0,), epochs=1)},
            "magnitude pruning need its networks kept; kept is False",
        ),
    ],
)
def test_bad_configurations_are_named(changes: dict, sentence: str) -> None:
    with pytest.raises(PsplibError, match=sentence):
        dataclasses.replace(SMALL, **changes)


def test_the_networks_of_a_store_are_those_of_its_tables(smoke_minima: Store) -> None:
    panel = scales.transfer("smoke")
    (source,) = panel.networks
    retraining = next(c for c in panel.runs(smoke_minima) if isinstance(c, Retraining) and c.point)
    these = networks(retraining, smoke_minima)
    assert [(n.arm, n.replica) for n in these] == [
        ("lobster", -1), ("untrained", -1), ("rewound", 0), ("rewound", 1)
    ]  # fmt: skip
    artefact = compute(panel.transfer(source, retraining), smoke_minima, torch.device("cpu"))
    assert artefact is not None
    check_run(artefact, (Transfer, Retraining, Lobster), smoke_minima)
    errors = artefact.table("networks").set_index(["arm", "replica"])["test_error"]
    table = smoke_minima.load(retraining).table("replicas")
    assert errors["rewound"].tolist() == table["test_error"].tolist()
    points = smoke_minima.load(retraining.lobster).table("points")
    assert errors["lobster", -1] == points["test_error"].iloc[-1]
    tuned = compute(panel.fine_tuning(source, retraining), smoke_minima, torch.device("cpu"))
    assert tuned is not None
    check_run(tuned, (FineTuning, Retraining, Lobster), smoke_minima)
    assert len(tuned.table("errors")) == len(these) * len(source.targets)


def test_a_network_pruned_by_magnitude_is_transferred_by_itself(smoke_minima: Store) -> None:
    cpu, panel = torch.device("cpu"), scales.transfer("smoke")
    (source,) = panel.networks
    ticket = next(c for c in panel.runs(smoke_minima) if isinstance(c, Magnitude))
    pruned = compute(ticket, smoke_minima, cpu)
    check_run(pruned, (Magnitude, Lobster), smoke_minima)
    ((arm, replica, mask, weights),) = networks(ticket, {ticket: pruned, **{
        ticket.lobster: smoke_minima.load(ticket.lobster)
    }})  # fmt: skip
    row = pruned.table("replicas").iloc[-1]
    assert (arm, replica, mask.kept) == ("iterative", 0, row["kept"])
    config = panel.transfer(source, ticket)
    artefact = compute(config, smoke_minima, cpu)
    check_run(artefact, (Transfer, Magnitude, Lobster), smoke_minima)
    assert artefact.table("networks")["arm"].tolist() == ["iterative"]
    assert artefact.table("networks")["test_error"].tolist() == [row["test_error"]]
    model = with_weights(models.build("lenet-5", ticket.lobster.seed), weights)
    assert training.evaluate(model, ticket.load(cpu).test).error == row["test_error"]


def test_where_no_weights_were_kept_the_best_network_is_taken_and_pixels_with_the_dense_one(
    smoke: Store,
) -> None:
    dense = scales.figure_1a("smoke").dense
    (best,) = networks(dense, smoke)
    table = smoke.load(dense).table("replicas")
    model = with_weights(models.build("lenet-300", 0), best.weights)
    images = dense.load(torch.device("cpu"))
    row = table[table["replica"] == best.replica].iloc[0]
    assert training.evaluate(model, images.test).error == row["test_error"]
    config = dataclasses.replace(SMALL, retraining=dense, shots=(2,), targets=("digits",))
    probes = config.analyse(images, [images], [best])["probes"]
    assert probes[["arm", "layers"]].to_numpy().tolist() == [
        ["dense", 1], ["dense", 2], ["pixels", 1]
    ]  # fmt: skip


def test_on_the_way_weights_are_asked_for_where_they_were_kept() -> None:
    """Of 89.9 % none were, for it is no halving; and nothing is near to 95 % but what is there."""
    source = scales.transfer("paper").networks[0]
    sparsity = [0.0, 0.8, 0.899, 0.925, 0.979, 0.99]
    points = pd.DataFrame({"sparsity": sparsity, "kept": [round(1e4 * (1 - s)) for s in sparsity]})
    found = source.retrainings(source.lobsters[3], points)
    last = [5] * (len(source.arms) + len(source.others))
    assert [r.point for r in found] == [*last, 3, 4, 5]
    ticket = found.pop()
    assert (ticket.arm, ticket.points, ticket.kept) == ("iterative", (1, 2, 3, 4, 5), True)
    assert (ticket.lobster, ticket.epochs) == (source.lobsters[3], source.retrained.epochs)
    assert found[0] == scales.replication("paper").retrainings(source.lobsters[3], sparsity)[0]
    assert [(r.arm, len(r.replicas)) for r in found[-2:]] == [("rewound", 1)] * 2


TUNED = FineTuning(REWOUND, ("mnist",), epochs=2, batch_size=50)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])  # grey, not cropped and flipped
def test_fine_tuning_is_descent_on_the_target_under_the_mask(name: str, tiny: Data) -> None:
    tiny = dataclasses.replace(tiny, name=name)
    network = found()[1]
    table = dataclasses.replace(TUNED, epochs=1, batch_size=300).analyse([tiny], [network])
    model = with_weights(models.build("lenet-300", 0), network.weights)
    nn.functional.cross_entropy(model(tiny.train.x), tiny.train.y).backward()
    with torch.no_grad():
        for p, m in zip(model.parameters(), dict(network.mask.items()).values(), strict=True):
            p -= 0.1 * p.grad * m
    assert table["error"].tolist() == [training.evaluate(model, tiny.test).error]


def test_an_interrupted_fine_tuning_ends_with_the_same_table(
    tiny: Data, in_pieces: Callable
) -> None:
    these = found()
    whole = TUNED.analyse([tiny], these)
    pieces, interruptions = in_pieces(lambda c: TUNED.analyse([tiny], these, c))
    assert interruptions >= 1
    assert whole.equals(pieces)
