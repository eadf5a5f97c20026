"""A forest plot's lines say what their verdicts say."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import ARMS, panel, papers_world, world

from psplib.experiments import scales
from psplib.paper import display, forest, ledger
from psplib.paper.statistics import (
    FAILS,
    HOLDS,
    UNDECIDED,
    Verdict,
    all_of,
    interval,
    is_above,
    is_at_most,
    is_comparable,
    reported,
)


def test_a_sentence_has_every_statement_with_its_networks_and_decided_effects() -> None:
    found = [
        Verdict("Its loss is lower (A, a).", "5", "", HOLDS, 1.0, 0.5, 1.5, 3),
        Verdict("Its loss is lower. (B, b)", "5", "", UNDECIDED, 0.1, -1.0, 1.0, 3),
        Verdict("Its loss is lower (C, c).", "5", "", UNDECIDED, 0.1, -1.0, 1.0, 3),
        Verdict("It is narrower.", "5", "", FAILS, -1.0, -2.0, -0.5, 3),
    ]
    statements = {"loss is lower": "the loss is lower", "narrower": "the minimum is narrower"}
    assert display.in_one_sentence(found, statements) == (
        "**In short:** that the loss is lower **holds** in A on a (+1.00 points) "
        "and is **undecided** in B on b and in C on c; "
        "that the minimum is narrower does **not hold** (-1.00 points)."
    )


@pytest.mark.parametrize(
    ("basis", "scale", "filled"),
    [("", "paper", True), ("quick, 3 runs", "paper", False), ("paper; quick", "paper", False)],
)
def test_a_mark_is_filled_only_where_every_scale_is_the_papers(
    basis: str, scale: str, filled: bool
) -> None:
    one = Verdict("It is so.", "5", "", HOLDS, 1.0, 0.5, 1.5, 3, basis=basis)
    text = forest.forest_plot([one], scale).data
    assert ('r="4.5" fill="currentColor"' in text) == filled


numbers = st.lists(st.floats(-50, 50), min_size=2, max_size=6)


def parts(line: str) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Region, interval and mark of a line, as they are drawn."""
    svg = ElementTree.fromstring(line)
    rect, mark = svg.find("rect"), svg.find("circle")
    assert rect is not None
    assert mark is not None
    start, width = float(rect.get("x")), float(rect.get("width"))
    (bar,) = [p.get("d") for p in svg.iter("path") if p.get("stroke-width")]
    low, high = map(float, re.fullmatch(r"M(\S+) 0H(\S+)", bar).groups())
    return (start, start + width), (low, high), float(mark.get("cx"))


@given(numbers, st.floats(0.01, 20))
def test_the_interval_lies_in_the_shade_where_the_claim_holds(
    values: list[float], margin: float
) -> None:
    effect = interval(values)
    for test in (
        is_above(effect),
        is_above(effect, bound=margin),
        is_at_most(effect, margin),
        is_comparable(effect, margin),
    ):
        v = reported("claim", "5", "test", test, "paper")
        (start, end), (low, high), mark = parts(forest.line(v, forest.axes([v]), True))
        assert low <= mark <= high
        if v.verdict == HOLDS:  # to a tenth of a pixel
            assert start - 0.1 <= low <= high <= end + 0.1
        elif v.verdict == FAILS:
            assert high <= start + 0.1 or low >= end - 0.1


def test_an_axis_is_symmetric_rises_and_ends_at_the_border() -> None:
    axis = forest.Axis("points", 20.0)
    values = [-20.0, -3.0, -0.1, 0.0, 0.1, 3.0, 20.0]
    places = [axis(v) for v in values]
    assert places == sorted(places)
    assert places == pytest.approx([-p for p in places[::-1]])
    assert (axis(0.0), axis(20.0), axis(1e6), axis(-math.inf)) == (0, 100, 100, -100)


def test_a_factor_has_its_axis_around_one() -> None:
    v = Verdict("claim", "5", "test", UNDECIDED, 1.0, 0.5, 2.0, 9, "×", region=(0.0, math.inf))
    region, (low, high), mark = parts(forest.line(v, forest.axes([v]), True))
    assert region == (0, 100)
    assert mark == 0
    assert low == -high


def test_a_claim_of_several_tests_has_the_region_of_the_one_that_decides() -> None:
    tests = [is_above(interval([3.0, 3.1, 3.2])), is_at_most(interval([2.0, 2.1, 2.2]), 1.0)]
    assert all_of(tests).region == (-math.inf, 1.0)


def test_marks_are_filled_at_the_papers_scale_only_and_lines_without_interval_are_dashed() -> None:
    v = Verdict("claim", "5", "test", HOLDS, 1.0, 0.5, 2.0, 9)
    axes = forest.axes([v])
    assert 'r="4.5" fill="currentColor"' in forest.line(v, axes, True)
    assert 'r="4.5" fill="currentColor"' not in forest.line(v, axes, False)
    one = Verdict("claim", "5", "test", UNDECIDED, 1.0, -math.inf, math.inf, 1)
    assert "dasharray" in forest.line(one, axes, True)
    assert "dasharray" not in forest.line(v, axes, True)
    assert forest.line(Verdict("claim", "5", "test", HOLDS), axes, True) == ""


def test_the_ledger_has_a_line_and_marks_for_every_test() -> None:
    panels = [panel(papers_world, ARMS, name) for name in scales.PANELS]
    found = ledger.entries(panels, world())
    shown = ledger.ledger_table(found).data
    drawn = [e for e in found if math.isfinite(e.verdict.effect)]
    assert shown.count("<svg") == len(drawn)
    marks = re.findall(r'data-verdict="([^"]*)" data-scale="([^"]*)"', shown)
    assert sorted(marks) == sorted((e.verdict.verdict, e.scale) for e in found)
    for entry in drawn:
        assert f"<title>{entry.verdict.verdict}: " in shown
