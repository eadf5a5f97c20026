"""Figures, badges and downloads say what the tables say."""

import base64
import html
import io
import re
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from worlds import ARMS, panel, papers_world

from psplib.core.config import canonical
from psplib.experiments import scales
from psplib.paper import display, figure_1, forest, statistics, style, transfer
from psplib.paper.figure_1 import Figure1
from psplib.paper.figure_1_claims import ANSWER, all_claims, claims_across, panel_claims
from psplib.runs.store import Store


@pytest.fixture(scope="module")
def figure():
    return panel(papers_world, ARMS)


def test_the_curves_are_the_tables(figure) -> None:
    ax, near = figure_1.plot_panel(figure).axes
    drawn = {line.get_label(): line.get_xydata() for line in ax.lines}
    mean = 100 * sum(papers_world("rewound", 0.04, r) for r in range(6)) / 6
    assert drawn["rewound (1-S)"][1] == pytest.approx([4.0, mean])
    assert drawn["gradual (G)"][:, 0] == pytest.approx([100, 40, 4, 1])
    assert ax.get_xscale() == ax.get_yscale() == near.get_xscale() == "log"
    assert near.get_yscale() == "linear"
    assert ax.get_xlim()[0] > ax.get_xlim()[1], "sparser to the right"


def test_a_gradual_run_is_thin_with_dots_where_it_is_retrained_from_and_a_running_median() -> None:
    ax = Figure().add_subplot()
    run = pd.DataFrame({"sparsity": [0.0, 0.2, 0.4, 0.6, 0.8], "test_error": [1, 9, 2, 8, 3]})
    style.gradual_line(ax, style.ARMS["lobster"], run, [1, 4])
    thin, dots, median = ax.lines
    assert thin.get_ydata().tolist() == [100, 900, 200, 800, 300]
    assert dots.get_xdata().tolist() == pytest.approx([80, 20])
    assert median.get_ydata().tolist() == [200, 500, 300, 550, 300]
    assert thin.get_linewidth() < median.get_linewidth()


def test_single_replicas_are_always_drawn(figure) -> None:
    ax, _ = figure_1.plot_panel(figure).axes
    single = [line for line in ax.lines if line.get_alpha() == 0.35]
    points = sum(len(line.get_xdata()) for line in single)
    assert points == 2 * 3 * 6, "two arms, three points, six replicas"


def test_a_band_below_zero_ends_below_all_values_and_an_unbounded_one_is_not_drawn() -> None:
    ax = Figure().add_subplot()
    style.mean_line(ax, [1, 1, 2, 2, 3], np.array([1.0, 9.0, 4.0, 4.0, 2.0]), "red")
    assert ax.lines[0].get_xydata().tolist() == [[1, 5], [2, 4], [3, 2]]
    (path,) = ax.collections[0].get_paths()
    assert path.vertices[:, 0].max() == 2
    assert path.vertices[:, 1].min() == 0.5
    assert path.vertices[:, 1].max() == pytest.approx(statistics.interval([1.0, 9.0]).high)


def shown(figure: Figure1) -> str:
    return display.in_html("panel", figure_1.plot_panel(figure), figure.table, figure.panel)


def test_downloads_carry_their_content(figure) -> None:
    content = {
        ending: base64.b64decode(data)
        for ending, data in re.findall(
            r'download="panel\.(\w+)" href="data:[^,]*,([^"]*)"', shown(figure)
        )
    }
    assert ElementTree.fromstring(content["svg"]).tag == "{http://www.w3.org/2000/svg}svg"
    assert content["json"].decode() == canonical(figure.panel)
    table = pd.read_csv(io.BytesIO(content["csv"]))
    assert table["test_error"].tolist() == figure.table["test_error"].tolist()


def test_a_figure_is_deterministic(figure) -> None:
    assert shown(figure) == shown(figure)


def test_a_drawing_takes_the_colour_of_its_page_says_what_it_shows_and_has_ids_of_its_own() -> None:
    ids = []
    for height in (1, 2):
        fig = Figure(figsize=(3, 2))
        ax = fig.subplots()
        ax.set(title="half-\nlife", xlabel='"x" & 0.12345', ylabel="y")
        ax.plot([0, 1, 2], [0, height, 0], "s-", color="#000000")
        svg = display.drawn_svg(fig)
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert root.get("aria-label") == 'half- life: y against "x" & 0.12345.'
        assert root.get("viewBox") == "0 0 216.0 144.0"
        assert '"x" &amp; 0.12345</text>' in svg, "only coordinates are rounded"
        assert not re.search("#0{3,6}|black(?!;)", svg)
        here = re.findall(r' id="([^"]*)"', svg)
        assert set(re.findall(r'[("]#([^")]*)', svg)) == set(here[1:])
        ids += here
    assert len(ids) == len(set(ids)) >= 8


def test_a_figure_of_pixels_is_a_png(figure) -> None:
    fig = Figure()
    fig.subplots().pcolormesh([[0, 1], [2, 3]], rasterized=True)
    assert display.picture(fig).data.startswith('<img src="data:image/png;base64,')
    assert shown(figure).startswith('<img src="data:image/svg+xml;base64,')


def test_every_arm_is_seen_on_a_dark_page_and_the_grey_ones_on_a_light_one_too() -> None:
    def contrast(colour: str, other: str) -> float:
        high, low = sorted((luminance(colour), luminance(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    def luminance(colour: str) -> float:
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb(colour)]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    rgb = mpl.colors.to_rgb
    for look in (*style.RIVALS.values(), *transfer.LOOKS.values()):
        if look.color != "#000000":  # that of the page's text
            assert contrast(look.color, "#121212") > 3, look
            assert contrast(look.color, "#ffffff") > 3 or len({*rgb(look.color)}) > 1, look


def test_the_summary_quotes_the_table(figure) -> None:
    text = figure_1.summary([figure]).replace("\u00a0", " ")
    assert "at 99.00 % sparsity: G 1.80, 1-S " in text


def test_the_convergence_shows_each_arms_mean_by_epoch() -> None:
    rows = [
        {
            "arm": arm,
            "point": 3,
            "replica": r,
            "epoch": e,
            "validation_error": (e + r + shift) / 100,
        }
        for arm, shift in (("rewound", 1), ("reinitialised", 4))
        for r in range(3)
        for e in (1, 2)
    ]
    (ax,) = figure_1.plot_convergence(pd.DataFrame(rows), "").axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn["rewound (1-S)"] == [pytest.approx([1, 3]), pytest.approx([2, 4])]
    assert drawn["re-initialised"] == [pytest.approx([1, 6]), pytest.approx([2, 7])]


@pytest.fixture(scope="module")
def panels() -> list[Figure1]:
    return [panel(papers_world, ARMS, name) for name in scales.PANELS]


def test_each_line_of_the_four_panels_has_its_name_at_its_end_in_one_colour(
    panels: list[Figure1],
) -> None:
    fig = figure_1.plot_panels(panels)
    titles = [ax.get_title(loc="left").strip() for ax in fig.axes]
    assert titles == [
        "(a) LeNet-300, MNIST",
        "(b) LeNet-5, MNIST",
        "(c) LeNet-5, Fashion-MNIST",
        "(d) ResNet-32, CIFAR-10",
    ]
    shown = {"lobster", *ARMS}
    for ax, figure in zip(fig.axes, panels, strict=True):
        _, *names = ax.texts
        ends = {arm: figure.errors(arm).iloc[-1].mean() for arm in ARMS}
        ends["lobster"] = 100 * figure.gradual["test_error"].iloc[-1]
        order = [figure_1._SHORT[arm] for arm in sorted(ends, key=ends.get)]
        assert [name.get_text() for name in names] == order
        heights = [name.get_position()[1] for name in names]
        assert np.diff(heights).min() > 0.059
        assert heights[-1] == pytest.approx(
            (ax.transScale + ax.transLimits).transform((1, max(ends.values())))[1], abs=0.05
        )
        assert {line.get_color() for line in ax.lines} == {style.ARMS[a].color for a in shown}


def test_no_text_of_the_four_panels_is_clipped_or_covered(panels: list[Figure1]) -> None:
    part = scales.figure_1d("smoke")
    fig = figure_1.plot_panels([*panels[:3], Figure1(part, panels[3].table, (part.dense,), ())])
    renderer = FigureCanvasAgg(fig).get_renderer()
    fig.draw_without_rendering()
    above = [ax.texts[0].get_text() for ax in fig.axes]
    assert above[0] == "paper: 10 replicas"
    assert above[3] == "smoke: 200 images, 2 replicas, 1 run missing"
    # With its titles, ticks, labels and names.
    boxes = [ax.get_tightbbox(renderer) for ax in fig.axes]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= fig.bbox.width
        assert box.y1 <= fig.bbox.height
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_the_forest_has_every_verdict_once_and_every_claim(panels: list[Figure1]) -> None:
    found = all_claims(panels)
    assert len(found) == sum(len(panel_claims(f)) for f in panels) + len(claims_across(panels))
    text = forest.forest_plot(found, "quick", answer=ANSWER).data
    shown = re.findall(r'<span class="psplib-verdict [^"]*">(.*?)</span>', text)
    assert sorted(shown) == sorted(v.verdict for v in found)
    claims = [html.unescape(claim) for claim in re.findall(r"<summary>(.*?)</summary>", text)]
    assert len(claims) == 1 + len({display.split_claim(v.claim)[0] for v in found})
    shown, folded = text.split('<details class="psplib-panel">')
    answered = [v for v in found if any(words in v.claim for words in ANSWER)]
    assert shown.count("psplib-verdict") == len(answered) == 9
    assert f"{len(found) - 9} further tests: " in folded


def test_the_panels_unfold(panels: list[Figure1]) -> None:
    text = figure_1.unfolded(panels).data
    assert text.count("<details") == text.count("</details>") == len(panels)
    assert text.count("how retraining went") == len(panels)


def test_a_panel_that_is_not_there_says_so(panels: list[Figure1], tmp_path) -> None:
    empty = Figure1.collect(scales.figure_1c("paper"), Store(tmp_path))
    fig = figure_1.plot_panels([*panels[:2], empty, panels[3]])
    assert [t.get_text() for t in fig.axes[2].texts] == ["not there yet"]
    assert set(figure_1.panels_table([*panels[:2], empty])["panel"]) == {"figure_1a", "figure_1b"}
    nothing = figure_1.plot_panels([empty] * 4)
    assert len(nothing.axes) == 4
    assert figure_1.panels_table([empty]).empty
    assert figure_1.plot_panel(empty) is None
    assert figure_1.plot_convergence(empty.history, "") is None
    assert display.styled(figure_1.errors_by_sparsity(empty)) is None
    assert display.badge(empty, "(c)").count("not there yet") == 1
    assert "has **not been tested** yet in LeNet-5 on Fashion-MNIST" in display.in_one_sentence(
        all_claims([empty]), ANSWER
    )
    assert figure_1.summary([empty]) == display.NOT_THERE
    assert display.NOT_THERE in figure_1.unfolded([empty]).data
    assert display.missing_runs(empty).startswith("The gradual run of this figure is not there yet")
    assert "--scale paper --only figure_1c" in display.missing_runs(empty)
    assert {v.verdict for v in panel_claims(empty)} == {statistics.NOT_RUN}


def test_an_effect_without_an_interval_says_so() -> None:
    one = statistics.decided(
        "claim", "5.1", "test", statistics.UNDECIDED, statistics.interval([0.09])
    )
    assert display.effect_in_words(one) == "+0.09 points, no interval"
    assert (
        display.effect_in_words(statistics.Verdict("claim", "5.1", "", statistics.NOT_RUN)) == "–"
    )


def test_a_value_that_is_missing_is_an_empty_cell() -> None:
    twice = display.styled(pd.DataFrame({"arm": ["a", "a", "b", "a"], "point": [7, 7, 7, 7]}))
    assert re.findall(r"<td[^>]*>(.*)</td>", twice.to_html()) == [*"a7", "", *"7b7a7"]
    shown = display.styled(pd.DataFrame([{"arm": "rewound", "error": "1.2"}, {"arm": "dense"}]))
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", shown.to_html())
    assert cells == ["rewound", "1.2", "dense", ""]
