"""Slides say what the tables say, and pages stay small."""

import base64
import dataclasses
import io
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from problems import make_one
from worlds import world

from psplib.nn import masks, models
from psplib.nn.data import Data
from psplib.paper import choices, figure_1_slides, live, style
from psplib.paper.minima import Figures2to4
from psplib.pruning.lobster import Lobster, points_with_weights
from psplib.runs.store import Store

GRADUAL = Lobster("lenet-300", "digits", 0)
KEPT = [266_610, 80_000, 30_000, 8_000, 1_000]


@pytest.fixture(scope="module")
def gradual(tiny: Data, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one gradual run, whose largest weights survive four prunings."""
    weights = torch.nn.utils.parameters_to_vector(models.build("lenet-300", 0).parameters())
    weights = weights.detach()
    falling = weights.abs().sort(descending=True, stable=True).indices
    flat = torch.zeros(len(KEPT), len(weights), dtype=torch.bool)
    for row, kept in zip(flat, KEPT, strict=True):
        row[falling[:kept]] = True
    sizes = weights.abs()[falling]
    thresholds = [float(sizes[kept]) for kept in KEPT[1:]] + [float("nan")]
    points = pd.DataFrame(
        {
            "point": range(5),
            "epoch": [10, 20, 30, 40, 50],
            "best_epoch": [8, 18, 28, 38, 48],
            "kept": KEPT,
            "sparsity": [1 - k / KEPT[0] for k in KEPT],
            "validation_loss": [0.3, 0.31, 0.32, 0.33, 0.34],
            "test_error": [0.02, 0.021, 0.022, 0.023, 0.024],
            "threshold": thresholds,
        }
    )
    history = pd.DataFrame({"epoch": range(1, 51), "validation_loss": np.linspace(2, 0.3, 50)})
    kept = {f"point{p}": weights[flat[p]] for p in points_with_weights(KEPT)}
    parts: Any = {
        "points": points,
        "history": history,
        "masks": {"survived": masks.nest(flat)},
        "weights": kept,
    }
    store = Store(tmp_path_factory.mktemp("gradual"))
    make_one(store, GRADUAL, lambda checkpoint: (parts, tiny))
    return store


@pytest.fixture(scope="module")
def minima() -> Figures2to4:
    """Figs. 2 to 4 of a world in which each neuron of G is a fair coin for class 0 only."""
    found = world(runs=2, replicas=3)
    pairs, everywhere = (
        choices.map_of(*which)(found.panel) for which in (("surviving", True), ("all",))
    )
    maps = {m: t for m, t in found.maps.items() if m != pairs}
    maps[everywhere] = found.maps[pairs].drop(columns=["joint", "mutual"])
    active = {f"active_{c}": [50 * (c == 0)] * 3 for c in range(10)}
    neurons = pd.DataFrame({"arm": ["lobster", "lobster", "rewound"], "replica": [-1, -1, 0]})
    neurons = neurons.assign(layer="relu1", neuron=[3, 5, 3], **active)
    neurons.loc[2, "active_0"] = 25
    tables = {
        "neurons": neurons,
        "layers": pd.DataFrame({"layer": ["relu1"], "neurons": [40]}),
        "classes": pd.DataFrame({"class": range(10), "samples": 100}),
    }
    return dataclasses.replace(found, maps=maps, profile=tables)


def test_survivors_are_those_of_the_runs_points(gradual: Store) -> None:
    found = figure_1_slides.survivors_slides(GRADUAL, gradual)
    assert list(found) == ["69.99 %", "88.75 %", "97.00 %", "99.62 %"]
    alt = found["97.00 %"].alt
    mask = GRADUAL.mask(3, gradual)
    first = next(m for _, m in mask.items())
    assert f"{int(first.sum()):,} of 235,200 weights of its first layer, fc1, survive" in alt
    assert f"in {int(first.any(1).sum())} of 300 units" in alt
    assert "Test error 2.30 %, 2.00 % before any pruning." in alt


def test_pruned_weights_are_grey_and_signs_have_colours() -> None:
    squares = np.array([[[np.nan, 0.5], [-0.5, 0.0]]])
    grey, blue, red, white = figure_1_slides._mosaic(squares, 0.5).reshape(4, 3)
    assert grey == pytest.approx([0.9] * 3)
    assert blue[2] > 2 * blue[0]
    assert red[0] > 2 * red[2]
    assert min(white) > 0.95


def test_classes_and_neurons_hold_their_tables(minima: Figures2to4) -> None:
    numbers = live.classes(minima).numbers
    _, layers, runs = (knob["options"] for knob in numbers["knobs"])
    found = {tuple(p["at"]): p for p in numbers["panels"]}
    assert len(found) == 4 * (1 + 3) * 2
    joint = found[1, layers.index("relu2"), runs.index("1")]
    rows = minima.neurons[minima.neurons["lobster_seed"] == 1]
    for arm, series in zip(("lobster", "rewound"), joint["series"], strict=False):
        own = rows[(rows["layer"] == "relu2") & (rows["arm"] == arm)]
        assert series["name"] == style.ARMS[arm].name
        for c, values in series["points"].items():
            assert values == pytest.approx(own[own["class"] == int(c)]["joint"].tolist(), rel=1e-4)
    first, only = live.neurons(minima).numbers["panels"]
    assert (first["at"], only["at"]) == ([0, 0], [0, 1]), "of other classes no neuron varies"
    assert first["x"] == [1, 2]
    g, s = first["series"]
    assert (g["name"], s["name"]) == (
        "G: 2 vary, mean 0.0500 bits",
        "1-S: 1 vary, mean 0.0203 bits",
    )
    assert g["points"] == {"0": [1.0], "1": [1.0]}
    assert s["points"] == {"0": [pytest.approx(0.811278, rel=1e-4)]}


@pytest.mark.slow
def test_pictures_have_words_and_fit_the_page(gradual: Store) -> None:
    found = figure_1_slides.survivors_slides(GRADUAL, gradual)
    again = figure_1_slides.survivors_slides(GRADUAL, gradual)
    assert found == again, "the same runs, the same bytes"
    for slide in found.values():
        text = slide.picture
        alt, encoded = re.search(r'alt="([^"]*)"', text), re.search(r'base64,([^"]*)"', text)
        assert alt
        assert encoded
        assert alt[1] == slide.alt
        with Image.open(io.BytesIO(base64.b64decode(encoded[1]))) as picture:
            assert picture.size == slide.size
            assert f'width="{picture.size[0]}" height="{picture.size[1]}"' in text
        assert len(text) < 40_000
        assert "max-width: 100%" in text
