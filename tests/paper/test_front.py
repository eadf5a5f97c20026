"""The first page says what the ledger says, and its pictures hold the numbers of their tables."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from worlds import ARMS, panel, papers_world, world

from psplib.core.errors import PsplibError
from psplib.experiments import scales
from psplib.paper import front, ledger
from psplib.paper.display import effect_in_words
from psplib.paper.figure_1 import Figure1
from psplib.paper.minima import collect_minima
from psplib.paper.statistics import FAILS, HOLDS, UNDECIDED
from psplib.runs.store import Store

ROOT = Path(__file__).parents[2]
PANELS = [panel(papers_world, ARMS, name) for name in scales.PANELS]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def found() -> list[ledger.Entry]:
    """The ledger of a world in which all that the paper says is true."""
    return ledger.entries(PANELS, world())


def rows(html: str) -> list[tuple[str, ...]]:
    """Sentence, verdict, effect and chapter of each row."""
    found = []
    for row in re.findall(r"<tr><td.*?</tr>", html):
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
        found.append(tuple(re.sub(r"<small>.*?</small>|<[^>]*>", "", c).strip() for c in cells))
    return found


def test_five_rows_say_what_the_ledger_says(found: list[ledger.Entry]) -> None:
    shown = rows(front.five_rows(found))
    assert [r[3] for r in shown] == [f"Fig.&nbsp;{n}" for n in (1, 1, 2, 3, 4)]
    for (says, verdict, effect, _), row in zip(shown, front.ROWS, strict=True):
        entry = next(e for e in found if row.claim in e.verdict.claim)
        assert says == row.says
        assert (verdict, effect) == (entry.verdict.verdict, effect_in_words(entry.verdict))


def test_a_row_names_its_network(found: list[ledger.Entry]) -> None:
    page = front.five_rows(found)
    assert page.count("LeNet-300, MNIST; n") == 2
    assert page.count("LeNet-5, MNIST; n") == 3


def test_a_row_turns_with_its_verdict() -> None:
    turned = world(z2=(0.7, 0.5), mutual=(0.04, 0.05), narrow=(10.0, 30.0))
    verdicts = [r[1] for r in rows(front.five_rows(ledger.entries(PANELS, turned)))]
    assert verdicts == [UNDECIDED, HOLDS, FAILS, FAILS, FAILS], "one gradual run decides nothing"


def test_a_row_without_its_claim_is_refused() -> None:
    with pytest.raises(PsplibError, match="lacks: 'gradual pruning has a lower error"):
        front.five_rows([])


def test_the_counts_are_those_of_the_ledger(found: list[ledger.Entry]) -> None:
    total, *parts = map(int, re.findall(r"\d+", front.how_sure(found).partition(";")[0]))
    assert total == len(found) == sum(parts)


def test_points_lie_where_their_means_are() -> None:
    figure = PANELS[0]
    drawn = ElementTree.fromstring(front.visual_abstract(figure, world()))
    seen = [
        (float(c[0].text.rpartition(": ")[2].removesuffix(" %")), float(c.get("cy")), c[0].text)
        for c in drawn.iter(f"{SVG}circle")
        if len(c) and c[0].text.endswith("%")
    ]
    means = [m for arm in ARMS[1:] for m in figure.errors(arm).mean(axis=1)]
    means += list(100 * figure.gradual["test_error"])
    assert sorted(v for v, _, _ in seen) == pytest.approx(sorted(means), abs=0.0051)
    values, heights, _ = map(np.array, zip(*seen, strict=True))
    slope, start = np.polyfit(values, heights, 1)
    assert slope < 0
    assert np.abs(slope * values + start - heights).max() < 0.051 - 0.0051 * slope


def test_each_region_of_the_map_holds_the_points_below_its_level() -> None:
    minima = world()
    points = minima.map()
    drawn = ElementTree.fromstring(front.visual_abstract(PANELS[0], minima))
    regions = [p.get("d") for p in drawn.iter(f"{SVG}path") if p.get("fill-rule")]
    levels = np.geomspace(points["loss"].min(), points["loss"].max(), 11)[1:-1][::-1]
    left, top, width, height = front._MAP
    x = left + width * (points["alpha"] - points["alpha"].min()) / np.ptp(points["alpha"])
    y = top + height * (points["beta"].max() - points["beta"]) / np.ptp(points["beta"])
    for region, level in zip(regions, levels, strict=True):
        inside = np.zeros(len(points), dtype=int)
        for ring in region.split("Z")[:-1]:
            corners = np.array(re.findall(r"[\d.]+", ring), float).reshape(-1, 2)
            inside += Outline(corners).contains_points(np.stack([x, y], 1), radius=0.0)
        clear = np.abs(np.log(points["loss"] / level)) > 0.05
        # Rounded borders: what lies on the edge of the map itself is no matter.
        clear &= points["alpha"].between(-0.5, 1.5, "neither") & points["beta"].abs().lt(1)
        assert ((inside % 2 == 1) == (points["loss"] <= level))[clear].all()


def test_without_runs_the_page_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    nothing = collect_minima(scales.minima("paper"), store)
    panels = [Figure1.collect(make("paper", 0), store) for make in scales.PANELS.values()]
    shown = front.first_screen(panels[0], nothing, ledger.entries(panels, nothing)).data
    assert shown.count("not there yet") == 4
    assert {r[1] for r in rows(shown)} == {"not run"}


def test_the_picture_of_the_readme_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    front.write_picture()
    path = ROOT / "book" / "_static" / "abstract.svg"
    assert capsys.readouterr().out == path.read_text(), "make picture draws it anew"
    assert path.stat().st_size < 30_000
    assert "(book/_static/abstract.svg)" in (ROOT / "README.md").read_text()
