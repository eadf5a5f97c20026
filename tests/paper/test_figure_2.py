"""Fig. 2: its claims, eigenvalues along the line, and sentences, on tables written by hand."""

import dataclasses
import re

import numpy as np
import pytest
from scipy import stats
from worlds import PAPER, censuses, line, world

from psplib.experiments.sharpness import MEASURES
from psplib.paper import choices, figure_2, forest, minima
from psplib.paper.figure_2 import claims_of_figure_2
from psplib.paper.statistics import FAILS, HOLDS, MIXED, NOT_RUN, UNDECIDED


def test_in_the_opposite_world_nothing_holds_but_that_eigenvalues_are_positive() -> None:
    opposite = world(**{k: (b, a) for k, (a, b) in PAPER.items() if a != b})
    verdicts = [v.verdict for v in claims_of_figure_2(opposite)]
    assert verdicts == [FAILS, FAILS, HOLDS, FAILS, FAILS, FAILS, FAILS]


@pytest.mark.parametrize(
    ("smallest", "verdict"),
    [(-0.5, HOLDS), (0.5, HOLDS), (-3.1, FAILS), (-2.99, UNDECIDED), (-3.01, UNDECIDED)],
)
def test_eigenvalues_are_positive_where_no_negative_one_comes_near(smallest, verdict) -> None:
    """The fifth is 3, each residual 0.01."""
    found = world()
    at = found.table.index[found.table["arm"] == "rewound"][3]
    found.table.loc[at, ["fifth", "smallest"]] = 3.0, smallest
    assert claims_of_figure_2(found)[2].verdict == verdict
    found.table.loc[at, "arm"] = "reinitialised"
    assert claims_of_figure_2(found)[2].verdict == HOLDS, "it is about G and 1-S"


@pytest.mark.parametrize("column", figure_2.NARROWER)
@pytest.mark.parametrize(
    ("factors", "verdict"),
    [([2, 2.1, 2.2], HOLDS), ([0.5, 0.45, 0.4], FAILS), ([0.5, 1.0, 2.0], MIXED)],
)
def test_narrower_by_each_measure(column, factors, verdict) -> None:
    runs = [(factor, [0.99, 1.01, 1.0]) for factor in factors]
    found = minima.compare(figure_2.NARROWER[column], censuses(**{column: runs}))
    assert (found.verdict, found.unit) == (verdict, "×")


def test_what_other_images_would_change_is_in_the_interval() -> None:
    """Three runs agree that G is 1.2 times as narrow; on one of three samples of images it is
    not."""
    on_part = [[1.3, 1.31, 1.32], [1.4, 1.41, 1.42], [0.95, 0.95, 0.96]]
    parts = {
        f"narrow.{part}": [(factor, [1.0, 1.0]) for factor in factors]
        for part, factors in enumerate(on_part)
    }
    means = [(float(np.exp(np.log(f).mean())), [1.0, 1.0]) for f in zip(*on_part, strict=True)]
    narrower = figure_2.NARROWER["narrow"]
    blind = minima.compare(narrower, censuses(narrow=means))
    found = minima.compare(narrower, censuses(narrow=means, **parts))
    assert blind.verdict == HOLDS
    assert found.verdict == UNDECIDED
    assert found.effect == pytest.approx(blind.effect)
    over_runs, over_parts = (np.log(on_part).mean(axis) for axis in (0, 1))
    error = np.hypot(stats.sem(over_runs), stats.sem(over_parts))
    freedom = error**4 / sum(stats.sem(x) ** 4 / 2 for x in (over_runs, over_parts))
    half = stats.t.ppf(0.975, freedom) * error
    assert np.log(found.high / found.low) == pytest.approx(2 * half)


@pytest.mark.parametrize("column", figure_2.NARROWER)
@pytest.mark.parametrize(
    ("factor", "errors", "verdict"),
    [
        (2.0, (0.01, 0.02), HOLDS),  # G is narrower, and better
        (0.5, (0.02, 0.01), HOLDS),  # 1-S is
        (0.5, (0.01, 0.02), FAILS),
        (2.0, (0.02, 0.01), FAILS),
        (1.0, (0.01, 0.02), UNDECIDED),
        (2.0, (0.01, 0.01), UNDECIDED),
    ],
)
def test_a_narrow_minimum_generalises_better_or_not(column, factor, errors, verdict) -> None:
    runs = {
        column: [(factor * f, [0.99, 1.01, 1.0]) for f in (0.98, 1.0, 1.02)],
        "test_error": [(errors[0] * f, [errors[1]] * 3) for f in (0.98, 1.0, 1.02)],
    }
    network = censuses(**runs)
    figures = dataclasses.replace(world(), table=network.table)
    found = {v.claim: v for v in figure_2.sharp_and_good(figures)}
    known = [v for v in found.values() if v.verdict != NOT_RUN]
    assert [v.verdict for v in known] == [verdict]
    assert figure_2.NARROWER[column].quantity in known[0].claim


def test_one_network_in_which_the_narrow_one_is_better_is_enough() -> None:
    def network(factor: float) -> minima.Censuses:
        return censuses(
            narrow=[(factor * f, [1.0, 1.0]) for f in (0.99, 1.0, 1.01)],
            test_error=[(0.01 * f, [0.02, 0.02]) for f in (0.99, 1.0, 1.01)],
        )

    wide, narrow = network(0.5), network(2.0)
    figures = dataclasses.replace(world(), table=wide.table, others=(narrow,))
    assert figure_2.sharp_and_good(figures)[0].verdict == HOLDS
    figures = dataclasses.replace(figures, others=(network(0.4),))
    assert figure_2.sharp_and_good(figures)[0].verdict == FAILS


def test_the_measures_are_drawn_run_by_run_and_tabled() -> None:
    found = world()
    axes = figure_2.narrow_plot(found).axes
    assert [ln.get_ydata()[0] for ln in axes[0].lines[:3]] == pytest.approx([3.0] * 3, rel=1e-2)
    table = figure_2.narrow_table(found)
    assert table["measure"].tolist() == list(MEASURES.values())
    assert table["G / one-shot"][0].startswith("3.00 [")


def test_eigenvalues_are_drawn_by_rank_and_legacy_as_crosses() -> None:
    surviving, everything = figure_2.eigenvalues_plot(world()).axes
    curves = [ln for ln in surviving.lines if ln.get_marker() == "o"]
    crosses = [ln for ln in surviving.lines if ln.get_marker() == "x"]
    assert [ln.get_ydata()[0] for ln in curves] == pytest.approx([10, 8, 6, 4, 2])
    assert [ln.get_ydata()[0] for ln in crosses] == pytest.approx([9, 7.2, 5.4, 3.6, 1.8])
    assert max(everything.lines[0].get_ydata()) == pytest.approx(100)


def test_reading_and_tables_quote_the_censuses() -> None:
    found = world()
    assert "training loss 0.0200 / 0.0200 (0.0400 / 0.0400);" in figure_2.reading_of_figure_2(found)
    table = figure_2.table_of_figure_2(found)
    assert table["λ₁, surviving"].tolist()[:2] == ["30.00", "10.00\u00a0±\u00a00.01"]
    lines = {choices.line_of("surviving")(found.panel): line()}
    (row,) = figure_2.residuals(dataclasses.replace(found, lines=lines)).to_dict("records")
    assert row["worst residual / λ₁"] == "2.0e-04"
    table = figure_2.eigenvalues_table(found)
    seen = set(zip(table["subspace"], table["definition"], strict=True))
    assert seen == {("surviving", "converged"), ("all", "converged"), ("surviving", "legacy")}


def test_units_stand_beside_the_effects() -> None:
    html = forest.forest_plot(claims_of_figure_2(world()), "quick").data
    assert re.search(r"2\.00 \[2\.00, 2\.00\] ×", html)
    assert re.search(r"\+0\.20 \[\+0\.20, \+0\.20\] points", html)
