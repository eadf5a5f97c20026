"""Verdicts: intervals against scipy, the rules on hand-written tables."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from psplib.paper import statistics
from psplib.paper.statistics import (
    FAILS,
    HOLDS,
    MIXED,
    NOT_COMPARABLE,
    NOT_RUN,
    UNDECIDED,
    Interval,
)


@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=12))
def test_interval_is_scipys_t_interval(values: list[float]) -> None:
    found = statistics.interval(values)
    spread = np.std(values, ddof=1)
    if spread < 1e-9:
        assert found.low == pytest.approx(found.high, abs=1e-6)
        return
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
    )
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_value_decides_nothing() -> None:
    one = statistics.interval([0.3])
    assert (one.mean, one.low, one.high, one.n) == (0.3, -math.inf, math.inf, 1)
    assert (
        statistics.higher(one)
        == statistics.comparable(one, 1)
        == statistics.at_most(one, 1)
        == UNDECIDED
    )


@pytest.mark.parametrize(
    ("low", "high", "higher", "at_most", "comparable"),
    [
        (0.1, 0.2, HOLDS, HOLDS, HOLDS),
        (-0.2, -0.1, FAILS, HOLDS, HOLDS),
        (-0.1, 0.1, UNDECIDED, HOLDS, HOLDS),
        (0.1, 0.6, HOLDS, UNDECIDED, UNDECIDED),
        (0.6, 0.7, HOLDS, FAILS, FAILS),
        (-0.7, -0.6, FAILS, HOLDS, FAILS),
        (-0.7, 0.7, UNDECIDED, UNDECIDED, UNDECIDED),
    ],
)
def test_verdicts_follow_the_interval(
    low: float, high: float, higher: str, at_most: str, comparable: str
) -> None:
    difference = Interval((low + high) / 2, low, high, 10)
    assert statistics.higher(difference) == higher
    assert statistics.at_most(difference, 0.5) == at_most
    assert statistics.comparable(difference, 0.5) == comparable


def test_a_claim_about_many_points_needs_them_all() -> None:
    assert statistics.everywhere([HOLDS, HOLDS]) == HOLDS
    assert statistics.everywhere([HOLDS, UNDECIDED]) == UNDECIDED
    assert statistics.everywhere([UNDECIDED, FAILS]) == FAILS
    assert statistics.everywhere([]) == NOT_RUN


def test_a_claim_is_mixed_where_some_points_say_yes_and_some_no() -> None:
    assert statistics.everywhere([HOLDS, FAILS, UNDECIDED]) == MIXED
    yes, no = (statistics.is_above(statistics.interval([x, x + 0.1, x - 0.1])) for x in (1, -2))
    found = statistics.all_of([yes, no, no])
    assert (found.verdict, found.effect) == (MIXED, no.effect)
    assert found.p == pytest.approx(3 * max(yes.p, no.p))


@given(st.lists(st.floats(-5, 5, width=16), min_size=3, max_size=9), st.floats(-1, 1))
def test_p_is_scipys_and_agrees_with_the_verdict(values: list[float], bound: float) -> None:
    effect = statistics.interval(values)
    if np.std(values) < 1e-3:
        return
    assert effect.p(bound) == pytest.approx(stats.ttest_1samp(values, bound).pvalue, abs=1e-9)
    for found in (
        statistics.is_above(effect, bound=bound),
        statistics.is_at_most(effect, bound),
        statistics.is_comparable(effect, abs(bound)),
    ):
        if abs(found.p - 0.05) > 1e-6:
            assert (found.verdict != UNDECIDED) == (found.p < 0.05)


def test_outside_a_margin_the_nearer_bound_decides() -> None:
    effect = statistics.interval([0.9, 1.5, 2.1, 0.3])
    found = statistics.is_comparable(effect, 0.5)
    assert (found.verdict, found.p) == (UNDECIDED, effect.p(0.5))
    assert effect.p(-0.5) < 0.05 < effect.p(0.5)


def test_the_effect_that_is_shown_is_the_one_that_decides() -> None:
    clear, weak = (
        statistics.is_above(statistics.interval([1 - s, 1.0, 1 + s]), str(s)) for s in (0.1, 0.3)
    )
    assert statistics.all_of([clear, weak]) == weak
    open_ = statistics.is_above(statistics.interval([-1.0, 1.0, 2.0]))
    assert statistics.all_of([clear, open_, weak]) == open_


def test_one_of_many_holds_only_after_bonferroni() -> None:
    at = [statistics.is_above(statistics.interval([1 - s, 1.0, 1 + s])) for s in (0.3, 3.0)]
    assert at[0].p == pytest.approx(0.0285, abs=1e-3)
    assert statistics.any_of(at).verdict == UNDECIDED
    assert statistics.any_of(at[:1]).verdict == HOLDS
    fails = statistics.is_above(statistics.interval([-1.0, -1.1, -1.2]))
    assert statistics.any_of([fails, fails]).verdict == FAILS
    assert statistics.any_of([fails, at[1]]).verdict == UNDECIDED


def test_what_was_reached_is_not_comparable_where_chances_were_unequal() -> None:
    reached = statistics.Verdict("claim", "5.1", "test", HOLDS, p=0.01)
    assert statistics.reserved(reached, "") == reached
    taken = statistics.reserved(reached, "why")
    assert (taken.verdict, taken.test) == (NOT_COMPARABLE, "test; why")
    assert math.isnan(taken.p)
    not_run = statistics.Verdict("claim", "5.1", "", NOT_RUN)
    assert statistics.reserved(not_run, "why") == not_run


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


def test_rank_correlations_agree_with_scipy() -> None:
    a = [3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.0, 6.0]
    b = [2.0, 7.0, 1.0, 8.0, 2.5, 8.5, 1.8, 4.0]
    found = statistics.is_correlated(a, b)
    assert found.effect.mean == pytest.approx(stats.spearmanr(a, b).statistic)
    z, half = np.arctanh(found.effect.mean), 1.96 * np.sqrt(1.06 / 5)
    assert found.effect.low == pytest.approx(np.tanh(z - half), abs=1e-4)
    assert found.effect.high == pytest.approx(np.tanh(z + half), abs=1e-4)
    ranks = list(range(8))
    assert statistics.is_correlated(ranks, ranks).verdict == HOLDS
    assert statistics.is_correlated(ranks, ranks[::-1]).verdict == FAILS
    assert statistics.is_correlated(a, b).verdict == UNDECIDED


def test_a_conjunction_fails_where_a_part_of_it_does() -> None:
    def part(verdict: str, p: float) -> statistics.Tested:
        return statistics.Tested(verdict, p, Interval(1.0, 0.5, 1.5, 3), verdict)

    both = statistics.both_of
    assert both([part(HOLDS, 0.001), part(FAILS, 0.02)]) == part(FAILS, 0.04)
    assert both([part(UNDECIDED, 0.4), part(FAILS, 0.02)]) == part(FAILS, 0.04)
    assert both([part(HOLDS, 0.001), part(UNDECIDED, 0.4)]) == part(UNDECIDED, 0.4)
    assert both([part(HOLDS, 0.001), part(HOLDS, 0.02)]) == part(HOLDS, 0.02)
