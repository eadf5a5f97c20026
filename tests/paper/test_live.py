"""Figures that answer: their numbers are the tables', and what a reader reads off is right."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import browsing
import numpy as np
import pandas as pd
import pytest
import torch
from playwright.sync_api import Browser, Page
from worlds import ARMS, panel, papers_world, world

from psplib.experiments import scales
from psplib.paper import live, statistics
from psplib.paper.entropy_learning import COLUMNS, FigureLearning
from psplib.paper.figure_1 import Figure1
from psplib.paper.minima import Figures2to4, collect_minima
from psplib.paper.plane import LABELS
from psplib.paper.slide import Slide
from psplib.pruning.lobster import Lobster
from psplib.runs.store import Store

needs_chromium = pytest.mark.skipif(browsing.CHROMIUM is None, reason="there is no Chromium")
HERE = ("file:", "data:")
REWOUND, NEW = "rewound (1-S)", "re-initialised"


@pytest.fixture(scope="module")
def minima() -> Figures2to4:
    return world(runs=2, replicas=3)


@pytest.fixture
def page_of(browser: Browser, tmp_path: Path) -> Iterator:
    """Opens a figure in a page of its own, on a phone; whatever goes wrong is a fault."""
    context = browser.new_context(viewport={"width": browsing.NARROW, "height": 800})
    faults: list[str] = []

    def opened(figure: live.Live) -> Page:
        path = tmp_path / "figure.html"
        path.write_text(f"<!doctype html><meta charset=utf-8><body>{figure.page}", "utf-8")
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:")) else faults.append(r.url),
        )
        page.goto(path.as_uri())
        assert browsing.overflow(page) == []
        return page

    yield opened
    context.close()
    assert faults == []


def answer(page: Page) -> str:
    return page.locator("output").inner_text()


def test_curves_hold_the_table_and_its_t_quantiles() -> None:
    figure = panel(papers_world, ARMS)
    numbers = live.curves([figure]).numbers
    (found,) = numbers["panels"]
    assert [arm["name"] for arm in found["arms"]] == ["gradual (G)", REWOUND, NEW]
    for arm, name in zip(found["arms"][1:], ARMS[1:], strict=True):
        table = figure.errors(name)
        for point, row in arm["points"].items():
            assert list(row.values()) == pytest.approx(table.loc[int(point)].tolist())
    i = statistics.interval([1.0, 2.0, 3.0])
    assert numbers["t"][1] / 3**0.5 == pytest.approx(i.high - i.mean)
    assert found["dense"] == pytest.approx(figure.errors("dense").loc[0].mean())


def test_maps_hold_their_tables(minima: Figures2to4) -> None:
    numbers = live.maps(minima, ("loss", "joint")).numbers
    assert numbers["quantities"] == ["loss", "joint"]
    first = numbers["maps"][0]
    table = minima.map("surviving").sort_values(["beta", "alpha"])
    for name, text in first["columns"].items():
        values = np.frombuffer(base64.b64decode(text), "<f4")
        factor = 100 if name == "error" else 1
        assert values == pytest.approx(factor * table[name].to_numpy(), rel=1e-6)
    assert len(first["alpha"]) * len(first["beta"]) == len(table)


def test_what_stands_in_the_page_cannot_end_its_script(minima: Figures2to4) -> None:
    figure = live.Live(
        {"kind": "curves", "title": "</script><b>"}, live.maps(minima, ["loss"]).still
    )
    inside = figure.page.split('<script type="application/json">')[1].split("</script>")[0]
    assert json.loads(inside)["title"] == "</script><b>"


def test_without_runs_it_says_so(tmp_path: Path) -> None:
    empty = Store(tmp_path)
    nothing = collect_minima(scales.minima("paper"), empty)
    panels = [Figure1.collect(scales.figure_1a("paper"), empty)]
    for figure in (
        live.curves(panels),
        live.maps(nothing, tuple(LABELS)),
        live.walk(nothing, empty),
        live.survivors(Lobster("lenet-300", "digits", 0), empty),
        live.classes(nothing),
        live.neurons(nothing),
    ):
        assert live.MISSING in figure._repr_mimebundle_()["text/html"]


@needs_chromium
def test_a_reader_reads_off_means_intervals_and_differences(page_of) -> None:
    figure = panel(papers_world, ARMS)
    page = page_of(live.curves([figure]))
    svg = page.locator(".psplib-live > div > svg")
    svg.press("ArrowRight")
    assert answer(page) == "gradual (G), 0.00 % pruned: 1.80 %"
    svg.press("ArrowDown")
    i = statistics.interval(figure.errors("rewound").loc[1])
    shown = f"{REWOUND}, 60.00 % pruned: {i.mean:.2f} % [{i.low:.2f}, {i.high:.2f}], 6 replicas"
    assert answer(page) == shown
    page.get_by_role("combobox", name="show").select_option(f"difference to: {REWOUND}")
    for _ in range(2):
        svg.press("ArrowDown")
    svg.press("ArrowRight")
    gaps = (figure.errors("reinitialised") - figure.errors("rewound")).loc[2]
    i = statistics.interval(gaps)
    assert answer(page) == (
        f"{NEW}, 96.00 % pruned: {i.mean:+.2f} points [{i.low:+.2f}, {i.high:+.2f}], 6 replicas"
    )
    rows = page.locator("table tbody tr")
    page.get_by_role("checkbox", name=NEW).uncheck()
    assert rows.count() == 3, "the gradual network at three points"
    cell = rows.last.locator("td").nth(2).text_content()
    errors = 100 * figure.gradual.loc[3, "test_error"] - figure.errors("rewound").loc[3]
    assert cell == f"{errors.mean():+.2f}".replace("-", "−")


@needs_chromium
def test_a_reader_reads_off_a_point_of_the_plane(page_of, minima: Figures2to4) -> None:
    page = page_of(live.maps(minima, ("loss", "joint")))
    svg = page.locator(".psplib-live > div > svg")
    table = minima.map("surviving")
    g = table[(table["alpha"] == 0) & (table["beta"] == 0)].iloc[0]
    svg.press("ArrowUp")
    assert answer(page).startswith(f"α = 0.00, β = 0.00: training loss {g['loss']:.4g}; ")
    svg.press("ArrowRight")
    alpha = sorted(set(table["alpha"]))
    following = alpha[alpha.index(0) + 1]
    row = table[(table["alpha"] == following) & (table["beta"] == 0)].iloc[0]
    assert answer(page).startswith(
        f"α = {following:.2f}, β = 0.00: training loss {row['loss']:.4g};"
    )
    page.get_by_role("combobox", name="quantity").select_option(LABELS["joint"])
    page.get_by_role("combobox", name="layer").select_option("relu2")
    assert "joint [bits], relu2" in svg.get_attribute("aria-label")


@pytest.fixture
def walk(minima: Figures2to4, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> live.Live:
    """G = (3, 0), 1-S = (0, 4): at α the squared norm is 9 (1 − α)² + 16 α²."""
    ends = SimpleNamespace(gradual=torch.tensor([3.0, 0.0]), one_shot=torch.tensor([0.0, 4.0]))
    monkeypatch.setattr(live, "solutions", lambda retraining, store: ends)
    return live.walk(minima, Store(tmp_path))


def test_the_walk_has_the_tables_numbers(walk: live.Live, minima: Figures2to4) -> None:
    numbers = walk.numbers
    assert numbers["products"] == [9, 0, 16]
    assert numbers["alpha"] == [0, 0.25, 0.5, 0.75, 1], "as far as both lines go"
    points = minima.map().query("beta == 0 and 0 <= alpha <= 1")
    assert numbers["along"]["loss"] == pytest.approx(points["loss"].tolist())
    assert numbers["along"]["error"] == pytest.approx([10.0] * 5)
    assert [line["coordinates"] for line in numbers["lines"]] == ["surviving", "all"]
    assert numbers["lines"][1]["values"][0] == pytest.approx([100, 80, 60, 40, 20])


@needs_chromium
def test_a_reader_walks_from_g_to_1_s(page_of, walk: live.Live) -> None:
    page = page_of(walk)
    knob = page.get_by_role("slider")
    assert answer(page).startswith("α = 0.00: λ₁ 10; training loss 0.02; training error 10 %;")
    assert answer(page).endswith("‖θ‖² 9.")
    knob.press("ArrowRight")
    # Half-way between the places 0 and 0.5, where λ₁ was measured: 10 and 7.5.
    assert answer(page).startswith("α = 0.25: λ₁ 8.75; training loss 0.0825;")
    square = 9 * 0.75**2 + 16 * 0.25**2
    page.get_by_role("combobox", name="measured as").select_option("λ · ‖θ‖²")
    assert answer(page).startswith(f"α = 0.25: λ₁ · ‖θ‖² {8.75 * square:.4g};")
    page.get_by_role("combobox", name="curvature in").select_option("all coordinates")
    knob.press("End")
    assert answer(page).startswith(f"α = 1.00: λ₁ · ‖θ‖² {50 * 16};")
    assert "in all coordinates: 800, 640, 480, 320, 160." in (
        page.locator(".psplib-live > div > svg").get_attribute("aria-label")
    )
    heights = [float(r.get_attribute("height")) for r in page.locator("rect").all()]
    assert heights == sorted(heights, reverse=True)


@needs_chromium
def test_a_reader_prunes_by_hand_before_the_answer_is_shown(page_of, minima: Figures2to4) -> None:
    network = {
        "name": "90 % pruned, 100 left",
        "threshold": [0.0, 0.01, 0.02, 0.03],
        "kept": [100, 80, 60, 20],
        "loss": [0.1, 0.101, 0.1049, 0.3],
        "own": 2,
        "edges": [0.001, 0.015, 0.05],
        "counts": [40, 60],
    }
    numbers = {"kind": "threshold", "tolerance": 0.05, "color": "blue", "points": [network]}
    page = page_of(live.Live(numbers, live.maps(minima, ["loss"]).still))
    knob = page.get_by_role("slider")
    assert answer(page).startswith("T = 0 takes 0 of 100: validation loss 0.1000, 1.000 ×")
    for step, (taken, where) in enumerate([(20, "within"), (40, "within"), (80, "beyond")], 1):
        knob.press("ArrowRight")
        ratio = network["loss"][step] / 0.1
        assert answer(page) == (
            f"T = {network['threshold'][step]} takes {taken} of 100: validation loss "
            f"{network['loss'][step]:.4f}, {ratio:.3f} × that before, {where} the tolerance."
        )
    page.get_by_role("button").click()
    assert answer(page).endswith("LOBSTER takes 40, T = 0.02: loss 0.1049, 1.049 ×.")


@needs_chromium
def test_panels_answer_to_their_knobs_and_to_keys(page_of: Callable) -> None:
    rows = [
        {"network": "LeNet-300, MNIST", "gamma": gamma, "labels": labels, "replica": replica}
        | {"validation_error": 0.02, "test_error": 0.02 + gamma + 0.01 * replica}
        | {"first": 5 + gamma, "joint": 9.0, "mutual": 0.1, "probe_error": 0.3}
        for gamma, labels in ((0.0, "classes"), (0.1, "classes"), (0.1, "permuted"))
        for replica in ((0, 1) if labels == "classes" else (1,))
    ]
    for row in rows:
        row["test_error"] -= 0.005 * (row["labels"] == "permuted")
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    panel = scales.entropy_learning("quick")
    page = page_of(live.gammas(FigureLearning(panel, table, (), ())))
    svg = page.locator("svg[role=img]")
    svg.press("ArrowRight")
    low, high = statistics.interval([2.0, 3.0]).low, statistics.interval([2.0, 3.0]).high
    assert answer(page) == f"given the class, 0: 2.5 [{low:.4g}, {high:.4g}], n = 2".replace(
        "-", "−"
    )
    svg.press("ArrowRight")
    svg.press("ArrowRight")
    assert answer(page).startswith("given the class, 0.1: 12.5 ")
    page.get_by_label("quantity").select_option("first-order entropy [bits]")
    assert "Point at the figure" in answer(page)
    svg.press("ArrowRight")
    assert answer(page) == "given the class, 0: 5 [5, 5], n = 2"
    page.get_by_role("checkbox", name="given the class").uncheck()
    svg.press("ArrowRight")
    svg.press("ArrowRight")
    assert answer(page) == "given shuffled classes, 0.1: 5.1"
    page.get_by_label("quantity").select_option(index=0)
    page.get_by_role("combobox", name="show").select_option("difference to: given the class")
    svg.press("ArrowRight")
    svg.press("ArrowRight")
    assert answer(page) == "given shuffled classes, 0.1: −0.5", "replica by replica"
    page.get_by_label("quantity").select_option("first-order entropy [bits]")
    page.get_by_role("checkbox", name="given shuffled classes").uncheck()
    svg.press("ArrowRight")
    assert "Point at the figure" in answer(page), "the difference stays what is shown"
    page.get_by_label("quantity").select_option("λ₁")
    assert answer(page) == "Not computed."


@needs_chromium
def test_every_kind_of_mark_has_its_name_beside_it(page_of: Callable) -> None:
    series = [live._series(look, {0: [1.0, 2.0], 1: [3.0]}) for look in live.ARMS.values()]
    panel = {"at": [], "x": ["0", "1"], "xlabel": "class", "ylabel": "bits", "levels": []}
    numbers = {"kind": "panels", "t": [12.7], "knobs": [], "panels": [panel | {"series": series}]}
    page = page_of(live.Live(numbers, Slide("x", PNG)))
    named = page.locator("label:has(input[type=checkbox])")
    assert [name.strip() for name in named.all_inner_texts()] == [
        look.name for look in live.ARMS.values()
    ]
    drawn = {mark.get_attribute("fill") for mark in page.locator("svg[role=img] path").all()}
    assert drawn == {m.get_attribute("fill") for m in named.locator("path").all()}
    assert len(drawn) == len(live.ARMS)


# The head of a picture of 3 × 2 pixels.
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8) + struct.pack(">II", 3, 2)


@needs_chromium
def test_where_the_place_is_a_number_the_values_are_a_line(page_of: Callable) -> None:
    series = live._series(live.ARMS["lobster"], {0: [8.0], 1: [3.0], 2: [0.5]})
    panel = {"at": [0], "x": [1, 10, 100], "xlabel": "sorted", "ylabel": "y", "levels": []}
    numbers = {"kind": "panels", "t": [], "knobs": [{"name": "layer", "options": ["relu1"]}]}
    page = page_of(live.Live(numbers | {"panels": [panel | {"series": [series]}]}, Slide("x", PNG)))
    svg = page.locator("svg[role=img]")
    line = svg.locator("polyline").get_attribute("points").split()
    left, middle, right = (float(point.split(",")[0]) for point in line)
    assert (right - left) / (middle - left) == pytest.approx(11)
    svg.press("ArrowRight")
    svg.press("ArrowRight")
    assert answer(page) == "gradual (G), neuron 10: 3"


@needs_chromium
def test_slides_have_a_slider_that_says_where_it_is(page_of: Callable) -> None:
    page = page_of(live._slid({s: Slide(s, PNG) for s in ("1 %", "2 %")}, "sparsity"))
    slider = page.get_by_role("slider", name="sparsity")
    slider.press("End")
    assert slider.get_attribute("aria-valuetext") == "2 %"
    assert page.get_by_role("img").get_attribute("alt") == "2 %"
