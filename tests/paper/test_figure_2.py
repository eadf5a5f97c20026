"""Fig. 2: its claims, eigenvalues along the line, and sentences, on tables written by hand."""

import dataclasses
import re

import pytest
from worlds import PAPER, line, world

from psplib.paper import choices, display, figure_2
from psplib.paper.figure_2 import claims_of_figure_2
from psplib.paper.statistics import FAILS, HOLDS


def test_in_the_opposite_world_nothing_holds_but_that_eigenvalues_are_positive() -> None:
    opposite = world(**{k: (b, a) for k, (a, b) in PAPER.items() if a != b})
    assert [v.verdict for v in claims_of_figure_2(opposite)] == [FAILS, FAILS, HOLDS, FAILS, FAILS]


def test_a_negative_eigenvalue_is_noticed_even_within_its_residual() -> None:
    found = world()
    found.table.loc[3, "lambda_5"] = 5e-4  # the residual is 1e-4 of 10
    assert claims_of_figure_2(found)[2].verdict == FAILS
    found.table.loc[3, "arm"] = "reinitialised"
    assert claims_of_figure_2(found)[2].verdict == HOLDS, "it is about G and 1-S"


def test_eigenvalues_are_drawn_by_rank_and_legacy_as_crosses() -> None:
    surviving, everything = figure_2.eigenvalues_plot(world()).axes
    curves = [ln for ln in surviving.lines if ln.get_marker() == "o"]
    crosses = [ln for ln in surviving.lines if ln.get_marker() == "x"]
    assert [ln.get_ydata()[0] for ln in curves] == pytest.approx([10, 8, 6, 4, 2])
    assert [ln.get_ydata()[0] for ln in crosses] == pytest.approx([9, 7.2, 5.4, 3.6, 1.8])
    assert max(everything.lines[0].get_ydata()) == pytest.approx(100)


def test_reading_and_tables_quote_the_censuses() -> None:
    found = world()
    assert "G has a training loss of 0.0200 (0.0400" in figure_2.reading_of_figure_2(found)
    table = figure_2.table_of_figure_2(found)
    assert table["λ₁, surviving"].tolist()[:2] == ["30.00", "10.00\u00a0±\u00a00.01"]
    lines = {choices.line_of("surviving")(found.panel): line()}
    (row,) = figure_2.residuals(dataclasses.replace(found, lines=lines)).to_dict("records")
    assert row["worst residual / λ₁"] == "2.0e-04"
    table = figure_2.eigenvalues_table(found)
    seen = set(zip(table["subspace"], table["definition"], strict=True))
    assert seen == {("surviving", "converged"), ("all", "converged"), ("surviving", "legacy")}


def test_units_stand_beside_the_effects() -> None:
    html = display.verdict_table(claims_of_figure_2(world())).data
    assert re.search(r"2\.00 \[2\.00, 2\.00\] ×", html)
    assert re.search(r"\+0\.20 \[\+0\.20, \+0\.20\] points", html)
