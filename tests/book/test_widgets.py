"""Widgets: slides say what the tables say, controls are linked to them, pages stay small."""

import base64
import dataclasses
import io
import re
import struct
from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd
import pytest
import torch
from ipywidgets.embed import dependency_state
from PIL import Image
from worlds import world

from psplib.book import widgets
from psplib.experiments import scales
from psplib.nn import masks, models
from psplib.nn.data import Data
from psplib.paper import choices, figure_1_slides, figure_4
from psplib.paper.minima import Figures2to4, collect_minima
from psplib.paper.slide import Slide
from psplib.pruning.lobster import Lobster, points_with_weights
from psplib.runs.store import Store

GRADUAL = Lobster("lenet-300", "digits", 0)
# The head of a picture of 3 × 2 pixels.
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8) + struct.pack(">II", 3, 2)
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
    store.compute(GRADUAL, lambda checkpoint: (parts, tiny))
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


def _all() -> dict[str, ipw.Widget]:
    from ipywidgets.widgets import widget

    return widget._instances


def links(shown: widgets.Shown) -> list[tuple[ipw.Widget, str, ipw.Widget, str]]:
    """Source, trait, target, trait of every link between parts of a widget."""
    found = []
    for name in dependency_state([shown.widget]):
        part = _all()[name]
        if isinstance(part, ipw.widgets.widget_link.Link):
            found.append((*part.source, *part.target))
    return found


def pictures(shown: widgets.Shown) -> list[str]:
    """The content of every HTML part, each once."""
    parts = [_all()[name] for name in dependency_state([shown.widget])]
    return [part.value for part in parts if isinstance(part, ipw.HTML)]


LIST = widgets.dropdown


def of_maps() -> dict[tuple[str, ...], Slide]:
    """Slides by quantity, layer, coordinates; one of the settings has none."""
    layers = ("all layers", "relu1", "relu2", "relu3")
    keys = [("loss", "all layers", "surviving"), ("loss", "all layers", "all")]
    keys += [("joint", layer, where) for where in ("surviving", "all") for layer in layers]
    keys.remove(("joint", "all layers", "all"))
    return {key: Slide(", ".join(key), PNG) for key in keys}


def test_survivors_are_those_of_the_runs_points(gradual: Store) -> None:
    found = figure_1_slides.survivors_slides(GRADUAL, gradual)
    assert list(found) == [("69.99 %",), ("88.75 %",), ("97.00 %",), ("99.62 %",)]
    alt = found["97.00 %",].alt
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


@pytest.mark.slow
def test_classes_and_neurons_quote_their_tables(minima: Figures2to4) -> None:
    found = figure_4.class_slides(minima)
    assert len(found) == 4 * (3 + 1)
    alt = found["second order, joint [bits]", "relu2"].alt
    assert "Run 1: over all classes G has 1.0000 bits, the rewound networks" in alt
    neurons = figure_4.neuron_slides(minima)
    assert len(neurons) == 1 + 10
    alt = neurons["relu1", "all classes"].alt
    assert "of 40. G has 2 that vary, the highest 1.000 bits; the mean over all is 0.0500" in alt
    assert "1-S has 1 that vary, the highest 0.811 bits" in alt
    assert "G has 0 that vary; the mean" in neurons["relu1", "class 1"].alt


def test_every_control_is_linked_to_every_stack_of_its_depth() -> None:
    shown = widgets.explore(of_maps(), dict.fromkeys(("quantity", "layer", "coordinates"), LIST))
    controls, stack = shown.widget.children
    quantity, layer, coordinates = controls.children
    assert [c.description for c in controls.children] == ["quantity", "layer", "coordinates"]
    assert stack.selected_index == quantity.index == 0
    assert len(stack.children) == len(quantity.options) == 2
    expected = {(quantity.model_id, stack.model_id)}
    for inner in stack.children:
        assert len(inner.children) == len(layer.options) == 4
        expected.add((layer.model_id, inner.model_id))
        for last in inner.children:
            assert len(last.children) == len(coordinates.options) == 2
            expected.add((coordinates.model_id, last.model_id))
    found = links(shown)
    assert {(s.model_id, t.model_id) for s, _, t, _ in found} == expected
    assert {(a, b) for _, a, _, b in found} == {("index", "selected_index")}


def test_an_option_without_a_slide_says_so_and_a_single_one_needs_no_control() -> None:
    shown = widgets.explore(
        {k: s for k, s in of_maps().items() if k[0] == "joint"},
        dict.fromkeys(("quantity", "layer", "coordinates"), LIST),
    )
    assert [c.description for c in shown.widget.children[0].children] == ["layer", "coordinates"]
    (sentence,) = [p for p in pictures(shown) if "<img" not in p]
    assert "Not computed: joint, all layers, all." in sentence


def test_without_runs_a_widget_says_so(tmp_path) -> None:
    empty = Store(tmp_path)
    nothing = collect_minima(scales.minima("paper"), empty)
    for shown in (
        widgets.survivors(GRADUAL, empty),
        widgets.classes(nothing),
        widgets.neurons(nothing),
    ):
        assert pictures(shown) == [f'<p class="psplib-badge">{widgets.MISSING}</p>']
        bundle, _ = shown._repr_mimebundle_()
        assert bundle["text/plain"] == widgets.MISSING
        assert "image/png" not in bundle


@pytest.mark.slow
def test_pictures_have_words_and_fit_the_page(gradual: Store) -> None:
    found = figure_1_slides.survivors_slides(GRADUAL, gradual)
    again = figure_1_slides.survivors_slides(GRADUAL, gradual)
    assert found == again, "the same runs, the same bytes"
    html = pictures(widgets.explore(found, {"sparsity": widgets.slider}))
    assert len(html) == len(found)
    for text, slide in zip(html, found.values(), strict=True):
        alt, encoded = re.search(r'alt="([^"]*)"', text), re.search(r'base64,([^"]*)"', text)
        assert alt
        assert encoded
        assert alt[1] == slide.alt
        with Image.open(io.BytesIO(base64.b64decode(encoded[1]))) as picture:
            assert picture.size == slide.size
            assert f'width="{picture.size[0]}" height="{picture.size[1]}"' in text
        assert len(text) < 40_000
        assert "max-width: 100%" in text


def test_a_widget_embeds_with_its_links_and_a_still(gradual: Store) -> None:
    shown = widgets.survivors(GRADUAL, gradual)
    state = dependency_state([shown.widget])
    kinds = [part["model_name"] for part in state.values()]
    assert kinds.count("StackModel") == kinds.count("LinkModel") == 1
    assert kinds.count("HTMLModel") == 4
    (stack,) = [p["state"] for p in state.values() if p["model_name"] == "StackModel"]
    assert len(stack["children"]) == 4
    (link,) = [p["state"] for p in state.values() if p["model_name"] == "LinkModel"]
    assert link["target"][1] == "selected_index"
    bundle, metadata = shown._repr_mimebundle_()
    first = next(iter(figure_1_slides.survivors_slides(GRADUAL, gradual).values()))
    assert base64.b64decode(bundle["image/png"]) == first.png
    assert metadata["image/png"]["alt"] == bundle["text/plain"] == first.alt
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] in state
