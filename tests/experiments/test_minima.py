"""The analyses of G and its one-shot networks, against the modules that they are made of."""

import copy
import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from problems import synthetic
from sklearn.metrics import mutual_info_score
from torch import nn

from psplib.analysis import eigen, entropy, hessian, psp
from psplib.core.errors import PsplibError
from psplib.experiments import scales
from psplib.experiments.census import Census
from psplib.experiments.curvature import Curvature
from psplib.experiments.plane import Map
from psplib.experiments.profile import Profile, entropies
from psplib.experiments.selectivity import Selectivity
from psplib.experiments.sharpness import Sharpness
from psplib.experiments.solutions import Solutions
from psplib.experiments.solutions import solutions as solutions_of
from psplib.nn.data import Data
from psplib.nn.masks import Mask
from psplib.paper.minima import collect_minima
from psplib.pruning.lobster import Lobster
from psplib.pruning.retraining import Retraining
from psplib.runs.store import Store
from psplib.training import trainer as training

REWOUND = Retraining(Lobster("lenet-5", "mnist", 0), 3, "rewound", (4, 7))


@pytest.fixture(scope="module")
def data() -> Data:
    return synthetic((1, 12, 12), (80, 20, 20))


@pytest.fixture(scope="module")
def solutions() -> Solutions:
    """Three networks under one mask; LeNet-5 in small."""
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 3, 3), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(75, 12), relu2=nn.ReLU(),
            fc2=nn.Linear(12, 10),
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    dense = Mask.dense(model)
    mask = dense.with_flat(torch.rand(len(dense.flat), generator=generator) < 0.2)
    weights = 0.5 * torch.randn(3, len(mask.flat), generator=generator) * mask.flat
    return Solutions(model, mask, weights[0], weights[1:], (4, 7), 1)


def at(solutions: Solutions, weights: torch.Tensor) -> nn.Module:
    model = copy.deepcopy(solutions.model)
    nn.utils.vector_to_parameters(weights, model.parameters())
    return model


def test_the_census_is_what_the_modules_say(data: Data, solutions: Solutions) -> None:
    tables = Census(REWOUND, samples=50, samples_all=30).analyse(data, solutions)
    networks, neurons = tables["networks"], tables["neurons"]
    assert networks[["arm", "replica"]].to_numpy().tolist() == [
        ["lobster", -1], ["rewound", 4], ["rewound", 7]
    ]  # fmt: skip
    model = at(solutions, solutions.replicas[1])
    images = type(data.train)(data.train.x[:50], data.train.y[:50])
    row = networks.iloc[2]
    test = training.evaluate(model, data.test)
    assert (row["test_error"], row["test_loss"]) == (test.error, pytest.approx(test.loss))
    assert row["train_loss"] == pytest.approx(training.evaluate(model, images).loss)
    operator = hessian.hessian(model, images, solutions.mask, dtype=torch.float64)
    exact = eigen.exact(operator).values
    found = row[[f"lambda_{i}" for i in range(1, 6)]].tolist()
    assert found == pytest.approx(exact[:5].tolist(), rel=2e-3)
    assert row["residual"] <= 1e-3
    assert row["norm"] == pytest.approx(float(solutions.replicas[1].norm()))
    everywhere = hessian.hessian(
        model, type(images)(images.x[:30], images.y[:30]), solutions.mask, "all"
    )
    assert row["lambda_1_all"] == pytest.approx(float(eigen.leading(everywhere, 1).values[0]))
    magnitude, first, second = psp.MeanSquare(), entropy.FirstOrder(), entropy.SecondOrder()
    psp.observe(model, images, magnitude, first, second)
    assert row["z2"] == pytest.approx(magnitude.mean)
    assert row["first"] == pytest.approx(first.entropy().mean)
    by_layer = neurons[neurons["replica"] == 7].groupby("layer")["joint"].sum()
    assert by_layer.to_dict() == pytest.approx(second.entropies()["joint"].by_layer)
    assert len(neurons) == 3 * 2 * 10, "a row for each network, layer and class"


def full_matrix(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The Hessian from torch.func, in float64."""
    model = copy.deepcopy(model).double()
    shapes = {n: p.shape for n, p in model.named_parameters()}

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([s.numel() for s in shapes.values()])
        weights = {n: v.view(s) for (n, s), v in zip(shapes.items(), parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, weights, (x.double(),)), y)

    return torch.func.hessian(loss)(nn.utils.parameters_to_vector(model.parameters()).detach())


def test_sharpness_is_that_of_the_whole_matrix_on_each_part_of_the_images(
    data: Data, solutions: Solutions
) -> None:
    tables = Sharpness(REWOUND, samples=12, parts=2).analyse(data, solutions)
    networks, curvature = tables["networks"], tables["curvature"]
    assert curvature[["replica", "part"]].to_numpy().tolist() == [
        [r, part] for r in (-1, 4, 7) for part in (0, 1)
    ]
    weights, mask = solutions.replicas[1], solutions.mask.flat
    model = at(solutions, weights)
    for part in (0, 1):
        its = slice(12 * part, 12 * (part + 1))
        whole = full_matrix(model, data.train.x[its], data.train.y[its])
        surviving = whole[mask][:, mask]
        size = weights[mask].abs().double()
        values = torch.linalg.eigvalsh(surviving)
        row = curvature.iloc[4 + part]
        found = [row[c] for c in ("lambda_1", "lambda_1_all", "lambda_1_relative")]
        largest = (surviving, whole, size[:, None] * surviving * size)
        expected = [float(torch.linalg.eigvalsh(m)[-1]) for m in largest]
        assert found == pytest.approx(expected, rel=1e-3)
        assert row["residual"] <= 1e-2
        if part == 0:
            ends = networks.iloc[2]
            assert ends["lambda_5"] == pytest.approx(float(values[-5]), rel=1e-2)
            assert abs(ends["lambda_min"] - values[0]) <= ends["residual_min"]
            assert ends["residual_min"] <= 0.01 * abs(ends["lambda_min"])
    images = type(data.train)(data.train.x[:24], data.train.y[:24])
    row = networks.iloc[2]
    square = psp.MeanSquare()
    psp.observe(model, images, square, mask=solutions.mask)
    assert row["z2"] == pytest.approx(square.mean, rel=1e-6)
    assert row["norm"] == pytest.approx(float(weights.norm()))
    logits = model(images.x).detach().square().mean()
    assert row["z2_logits"] == pytest.approx(float(logits))
    assert row["z2_with_logits"] == pytest.approx(float(2 * row["z2"] + logits) / 3)


def test_parts_have_no_image_in_common_so_there_must_be_enough(
    data: Data, solutions: Solutions
) -> None:
    with pytest.raises(PsplibError, match="need 90 training images; synthetic has 80"):
        Sharpness(REWOUND, samples=30, parts=3).analyse(data, solutions)


def test_the_profile_holds_the_entropy_of_every_neuron_that_varies(
    data: Data, solutions: Solutions
) -> None:
    tables = Profile(REWOUND, samples=50).analyse(data, solutions)
    bits = entropies(tables)
    assert tables["layers"].to_numpy().tolist() == [["relu1", 300], ["relu2", 12]]
    images = type(data.train)(data.train.x[:50], data.train.y[:50])
    labels = images.y.bincount(minlength=10)
    assert tables["classes"]["samples"].tolist() == labels.tolist()
    # 1-S is replica 7, the second one: `solutions` says that it is the best.
    for replica, weights in ((-1, solutions.gradual), (7, solutions.replicas[1])):
        probe = entropy.FirstOrder()
        psp.observe(at(solutions, weights), images, probe)
        for layer, expected in probe.neurons().items():
            rows = bits[(bits["replica"] == replica) & (bits["layer"] == layer)]
            found = torch.zeros_like(expected)
            found[:, rows["neuron"].to_numpy(copy=True)] = torch.tensor(
                rows[list(range(10))].to_numpy(copy=True).T
            )
            assert torch.equal(found, expected)
            assert rows["neuron"].is_monotonic_increasing
            assert len(rows) == int((expected > 0).any(0).sum()), "constant neurons are left out"
    assert set(bits["arm"]) == {"lobster", "rewound"}


def test_the_profile_comes_after_all_else_and_is_collected(smoke_minima: Store) -> None:
    panel = scales.minima("smoke")
    configs = panel.runs(smoke_minima)
    assert [isinstance(c, Profile) for c in configs] == [False] * (len(configs) - 1) + [True]
    assert isinstance(scales.minima("paper").runs(smoke_minima)[-1], Lobster)
    found = collect_minima(panel, smoke_minima)
    bits = entropies(found.profile)
    best = solutions_of(configs[-1].retraining, smoke_minima).number
    assert set(bits["replica"]) == {-1, best}
    neurons = found.profile["layers"].set_index("layer")["neurons"]
    census = found.neurons[found.neurons["replica"] == -1].groupby("layer")["first"].sum()
    mean = bits[bits["replica"] == -1].groupby("layer")[list(range(10))].sum().sum(axis=1) / neurons
    assert mean.dropna().to_dict() == pytest.approx(census[census > 0].to_dict())


def test_selectivity_is_of_every_network_and_layer(data: Data, solutions: Solutions) -> None:
    table = Selectivity(REWOUND, samples=50).analyse(data, solutions)["layers"]
    assert table["replica"].tolist() == [-1, -1, 4, 4, 7, 7]
    assert table["layer"].tolist() == ["relu1", "relu2"] * 3
    assert table["neurons"].tolist() == [300, 12] * 3
    images = type(data.train)(data.train.x[:50], data.train.y[:50])
    model = at(solutions, solutions.replicas[0])
    z = model.fc1(model.flatten(model.pool1(model.relu1(model.conv1(images.x)))))
    states = (z > 0).T
    nats = [mutual_info_score(s.tolist(), images.y.tolist()) for s in states if s.any()]
    row = table.iloc[3]
    assert row["active"] == len(nats)
    assert row["information"] == pytest.approx(sum(nats) / len(nats) / math.log(2))


def test_selectivity_joins_the_censuses(smoke_minima: Store) -> None:
    found = collect_minima(scales.minima("smoke"), smoke_minima)
    is_compared = found.table["arm"] != "reinitialised"
    assert (found.table[["information", "selectivity"]].notna().all(axis=1) == is_compared).all()
    assert not found.table.duplicated(["lobster_seed", "arm", "replica"]).any()


def test_g_and_1_s_are_points_of_the_map(data: Data, solutions: Solutions) -> None:
    config = Map(REWOUND, "surviving", steps=4, margin=2, pairs=True, samples=50)
    assert config.alphas[config.margin] == 0
    assert config.alphas[config.margin + config.steps] == 1
    assert 0 in config.betas
    table = config.analyse(data, solutions)["points"]
    assert len(table) == 81
    census = Census(REWOUND, 50, 10).analyse(data, solutions)["networks"]
    for alpha, network in ((0.0, 0), (1.0, 2)):
        point = table[(table["alpha"] == alpha) & (table["beta"] == 0)].iloc[0]
        found = [point[c] for c in ("loss", "error", "magnitude", "first_order", "joint")]
        row = census.iloc[network]
        expected = [row[c] for c in ("train_loss", "train_error", "z2", "first", "joint")]
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("definition", hessian.DEFINITIONS)
def test_the_curvature_runs_from_g_to_1_s(
    data: Data, solutions: Solutions, definition: str
) -> None:
    config = Curvature(REWOUND, "surviving", definition, steps=2, margin=1, samples=50)
    table = config.analyse(data, solutions)["points"]
    assert sorted(set(table["alpha"])) == config.alphas == [-0.5, 0.0, 0.5, 1.0, 1.5]
    images = type(data.train)(data.train.x[:50], data.train.y[:50])
    one_shot = hessian.hessian(at(solutions, solutions.one_shot), images, solutions.mask)
    solve = eigen.legacy if definition == "legacy" else eigen.leading
    expected = solve(one_shot, 5).values.tolist()
    assert table[table["alpha"] == 1]["eigenvalue"].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        Census(REWOUND, 40, 10),
        Curvature(REWOUND, "all", steps=2, margin=0, samples=30),
        Sharpness(REWOUND, samples=20, parts=2),
        Map(REWOUND, "all", steps=2, margin=1, samples=50),
    ],
    ids=lambda c: type(c).__name__,
)
def test_an_interrupted_analysis_ends_with_the_same_tables(
    config: Any, data: Data, solutions: Solutions, in_pieces: Callable
) -> None:
    whole = config.analyse(data, solutions)
    pieces, interruptions = in_pieces(lambda c: config.analyse(data, solutions, c))
    assert interruptions >= 1
    assert whole.keys() == pieces.keys()
    assert all(whole[name].equals(pieces[name]) for name in whole)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Map(REWOUND, "some"), "subspace must be one of surviving, all; got 'some'."),
        (lambda: Curvature(REWOUND, "all", "new"), "definition must be one of converged, legacy"),
        (lambda: Profile(REWOUND, 0), "samples must be a whole number of at least 1; got 0."),
        (lambda: Sharpness(REWOUND, parts=0), "parts must be a whole number of at least 1; got 0."),
        (lambda: Selectivity(REWOUND, 0), "samples must be a whole number of at least 1; got 0."),
        (lambda: Census(REWOUND, 0), "samples must be a whole number of at least 1; got 0."),
        (lambda: Map(REWOUND, "all", steps=0), "steps must be a whole number of at least 1"),
        (
            lambda: Census(Retraining(REWOUND.lobster, 3, "restructured-layer", (0,))),
            "the arm must be one of rewound, reinitialised, continued; got 'restructured-layer'.",
        ),
    ],
)
def test_bad_configurations_are_named(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(PsplibError, match=sentence.replace("(", r"\(")):
        make()


def test_every_scale_has_g_and_1_s_on_its_grids() -> None:
    for scale in scales.SCALES:
        panel = scales.minima(scale)
        for analysis in panel.analyses(panel.retrained).values():
            assert {0.0, 1.0} <= set(analysis.alphas)


def test_the_solutions_of_a_store_are_its_networks(smoke_minima: Store) -> None:
    panel = scales.minima("smoke")
    points = smoke_minima.load(panel.lobsters[0]).table("points")
    retraining = panel.retraining(panel.lobsters[0], len(points), "rewound")
    found = solutions_of(retraining, smoke_minima)
    table = smoke_minima.load(retraining).table("replicas")
    assert found.mask.kept == points["kept"].iloc[-1] == table["kept"].iloc[0]
    images = retraining.load(torch.device("cpu"))
    for weights, row in zip(found.replicas, table.itertuples(), strict=True):
        assert training.evaluate(at(found, weights), images.test).error == row.test_error
    gradual = training.evaluate(at(found, found.gradual), images.test)
    assert gradual.error == points["test_error"].iloc[-1]
    best = table.sort_values(["validation_error", "validation_loss"]).iloc[0]
    assert found.number == best["replica"]


def test_what_was_not_kept_is_said(smoke: Store) -> None:
    panel = scales.figure_1a("smoke")
    retraining = panel.retrainings([1.0, 0.5, 0.1, 0.05])[0]
    with pytest.raises(PsplibError, match="kept no weights of its replicas"):
        solutions_of(retraining, smoke)


def test_the_sharpness_of_a_store_insists_on_every_network_and_part(smoke_minima: Store) -> None:
    configs = scales.minima("smoke").runs(smoke_minima)
    (config,) = (c for c in configs if isinstance(c, Sharpness))
    artefact = smoke_minima.load(config)
    config.check(artefact, smoke_minima)
    (table,) = config.tables(artefact).values()
    assert set(table["lobster_seed"]) == {config.retraining.lobster.seed}
    on_parts = artefact.table("curvature").groupby("replica")["lambda_1_relative"]
    row = table[table["replica"] == -1].iloc[0]
    found = [row[f"narrow_relative.{part}"] for part in range(config.parts)]
    assert found == on_parts.get_group(-1).tolist()
    assert row["narrow_relative"] == pytest.approx(float(np.exp(np.mean(np.log(found)))))
    assert row["narrow_global"] == pytest.approx(row["narrow"] * row["norm"] ** 2)
    fewer = dataclasses.replace(config, parts=config.parts - 1)
    with pytest.raises(PsplibError, match="the table of curvature does not belong"):
        fewer.check(artefact, smoke_minima)
