"""What section 5.1 says of single panels, on hand-written tables; Welch against scipy."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from worlds import ARMS, noise, panel, papers_world

from psplib.experiments import scales
from psplib.paper import statistics
from psplib.paper.figure_1 import Figure1
from psplib.paper.figure_1_claims import claims_across, common_claims, panel_claims
from psplib.paper.statistics import FAILS, HOLDS, NOT_RUN, UNDECIDED, Verdict

POINTS = (1.0, 0.3, 0.15, 0.05, 0.015, 0.004)
VALUES = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=9)


@given(VALUES, VALUES)
def test_welch_is_scipys(a: list[float], b: list[float]) -> None:
    found = statistics.welch(np.array(a), np.array(b))
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b), abs=1e-9)
    if np.var(a) + np.var(b) > 1e-9:
        expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_welch_of_one_value_decides_nothing() -> None:
    found = statistics.welch(np.array([1.0]), np.array([0.0, 0.1]))
    assert (found.mean, found.low, found.high, found.n) == (0.95, -math.inf, math.inf, 1)


def own(figure: Figure1) -> list[Verdict]:
    """The claims that the panel alone is asked."""
    found = panel_claims(figure)
    assert found[:7] == common_claims(figure)
    return found[7:]


@pytest.mark.parametrize(
    ("at_98", "verdict"), [(0.0085, HOLDS), (0.0095, FAILS), (0.0090, UNDECIDED)]
)
def test_about_99_20_is_at_most_a_tenth_of_a_point_less(at_98: float, verdict: str) -> None:
    def error(arm: str, density: float, replica: int) -> float:
        return {0.05: 0.001, 0.015: at_98, 0.004: 0.1}.get(density, 0.008) + noise(replica)

    original, random, gradual = own(panel(error, ARMS, "figure_1b", POINTS))
    assert original.verdict == random.verdict == verdict, "98.5 %, neither 95 % nor 99.6 %"
    assert original.effect == pytest.approx(100 * at_98 - 0.8)
    assert "98.5 %" in original.test
    assert gradual.verdict == UNDECIDED, "one gradual run has no interval"
    assert gradual.effect == pytest.approx(100 * at_98 - 0.8 + 1e-3)
    assert gradual.n == 1


def test_removing_80_percent_is_tested_at_the_first_such_point() -> None:
    def error(arm: str, density: float, replica: int) -> float:
        worse = {"rewound": 0.004, "reinitialised": -0.004}.get(arm, 0)
        return 0.08 + (worse if density == 0.15 else 0) + noise(replica // 2)

    original, random = own(panel(error, ARMS, "figure_1c", POINTS))
    assert (original.verdict, random.verdict) == (HOLDS, FAILS)
    assert original.effect == pytest.approx(0.4)
    assert "85.0 %" in original.test


def test_exactly_80_percent_is_80_percent() -> None:
    figure = panel(papers_world, ARMS, "figure_1c", (1.0, 0.3, 0.2, 0.1))
    assert "80.0 %" in own(figure)[0].test


def test_a_planned_point_that_is_missing_is_not_replaced_by_a_sparser_one() -> None:
    whole = panel(papers_world, ARMS, "figure_1b", POINTS)
    rest = whole.table[(whole.table["point"] != 4) | (whole.table["arm"] == "lobster")]
    original, random, gradual = own(replace(whole, table=rest))
    assert (original.verdict, random.verdict) == (NOT_RUN, NOT_RUN)
    assert gradual.verdict == UNDECIDED


def gaps(**last: float) -> list[Figure1]:
    """The four panels; at the last point retraining is worse than LOBSTER by so many points."""

    def one(name: str) -> Figure1:
        def error(arm: str, density: float, replica: int) -> float:
            retrained = arm in ("rewound", "reinitialised") and density == POINTS[-1]
            return 0.02 + (last[name[-1]] / 100 if retrained else 0) + noise(replica)

        return panel(error, ARMS, name, POINTS)

    return [one(name) for name in scales.PANELS]


def test_one_panels_gap_against_the_others() -> None:
    evident, lowest = claims_across(gaps(a=1.0, b=0.5, c=2.0, d=6.0))
    assert (evident.verdict, lowest.verdict) == (HOLDS, HOLDS)
    assert evident.effect == pytest.approx(4.0), "against (c), the largest of the others"
    assert lowest.effect == pytest.approx(0.5), "against (a), the smallest of the others"
    assert (evident.section, lowest.section) == ("5.1", "5.2")
    assert evident.test.endswith("effect against (c)")
    assert evident.low < evident.effect < evident.high

    evident, lowest = claims_across(gaps(a=1.0, b=1.5, c=7.0, d=6.0))
    assert (evident.verdict, lowest.verdict) == (FAILS, FAILS)
    assert (evident.effect, lowest.effect) == (pytest.approx(-1.0), pytest.approx(-0.5))

    evident, _ = claims_across(gaps(a=-3.0, b=-3.0, c=-3.0, d=-1.0))
    assert evident.verdict == FAILS, "the largest gap, but none"


def test_no_gap_is_compared_if_one_panel_was_trained_too_briefly() -> None:
    panels = gaps(a=1.0, b=0.5, c=2.0, d=6.0)
    table = panels[3].table.copy()
    table.loc[table["arm"] == "dense", "test_error"] *= 1.2
    panels[3] = replace(panels[3], table=table)
    for verdict in claims_across(panels):
        assert verdict.verdict == UNDECIDED
        assert verdict.test.count("not to be decided in ResNet-32, CIFAR-10") == 1


def test_panels_are_compared_only_if_all_are_there() -> None:
    panels = gaps(a=1.0, b=0.5, c=2.0, d=6.0)
    panels[2] = replace(panels[2], table=panels[2].table[:0])
    for verdict in claims_across(panels):
        assert verdict.verdict == NOT_RUN
        assert "(c) is not there" in verdict.test
