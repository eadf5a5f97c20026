"""Verdicts: intervals against scipy, the rules on hand-written tables."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from worlds import ARMS, noise, panel, papers_world

from psplib.paper import statistics
from psplib.paper.figure_1 import Figure1
from psplib.paper.figure_1_claims import common_claims, unequal
from psplib.paper.statistics import FAILS, HOLDS, NOT_RUN, UNDECIDED, Interval


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


def test_every_claim_holds_in_the_papers_world() -> None:
    found = common_claims(panel(papers_world, ARMS))
    assert len(found) == 7
    assert {v.verdict for v in found} == {HOLDS}
    gap = found[-1]
    assert gap.effect == pytest.approx(0.02), "percentage points"
    assert gap.n == 6


def test_claims_fail_in_the_opposite_world() -> None:
    def error(arm: str, density: float, replica: int) -> float:
        if density < 0.05:
            return {"rewound": 0.008, "reinitialised": 0.006}.get(arm, 0.03) + noise(replica)
        return {"rewound": 0.03, "reinitialised": 0.01}.get(arm, 0.02) + noise(replica)

    verdicts = [v.verdict for v in common_claims(panel(error, ARMS))]
    recovers = [FAILS, HOLDS]  # the original values never do, the random ones at once
    assert verdicts == [*recovers, FAILS, FAILS, FAILS, FAILS, FAILS]


def shortened(control: float) -> Callable[[str, float, int], float]:
    """The paper's world, but what is retrained, and its dense control, errs more by a factor."""

    def error(arm: str, density: float, replica: int) -> float:
        return papers_world(arm, density, replica) * (1 if arm == "lobster" else control)

    return error


@pytest.mark.parametrize(("control", "verdict"), [(1.0, HOLDS), (1.04, HOLDS), (1.06, UNDECIDED)])
def test_lobster_is_not_set_against_networks_trained_too_briefly(
    control: float, verdict: str
) -> None:
    """Too briefly is: their dense control errs 5 % more than LOBSTER's network before pruning."""
    found = common_claims(panel(shortened(control), ARMS))
    gradual = [v for v in found if "gradual pruning has a lower error" in v.claim]
    assert [v.verdict for v in gradual] == [verdict]
    assert gradual[0].effect > 0
    assert ("trained as long" in gradual[0].test) == (verdict == UNDECIDED)
    others = [v.verdict for v in found if v not in gradual]
    assert others == [HOLDS] * 6, "arms of one budget are compared as before"


def test_what_was_not_run_is_not_reserved() -> None:
    without = panel(shortened(1.5), ("dense",))
    assert unequal(without)
    assert {v.verdict for v in common_claims(without)} == {NOT_RUN}
    assert unequal(panel(shortened(1.5), ("rewound",))) == "", "there is no control"


def test_missing_arms_are_not_run() -> None:
    found = common_claims(panel(papers_world, ("dense",)))
    assert {v.verdict for v in found} == {NOT_RUN}
    assert all(math.isnan(v.effect) for v in found)


def test_differences_are_taken_replica_by_replica() -> None:
    """Between-replica spread that both arms share must not blur their difference."""

    def error(arm: str, density: float, replica: int) -> float:
        return 0.02 + 0.004 * replica + {"reinitialised": 3e-4}.get(arm, 0) + noise(replica) / 100

    better = common_claims(panel(error, ARMS))[-1]
    assert better.verdict == HOLDS
    assert better.high - better.low < 1e-3


@pytest.mark.parametrize("name", ["figure_1b", "figure_1c", "figure_1d"])
def test_without_a_number_from_the_paper_high_compression_is_the_last_point(name: str) -> None:
    """Between 95 % and the last point retraining may still succeed; in Fig. 1a it must not."""

    def error(arm: str, density: float, replica: int) -> float:
        return papers_world(arm, 0.4 if density > 0.01 else density, replica)

    found = common_claims(panel(error, ARMS, name))
    assert {v.verdict for v in found} == {HOLDS}
    assert sum("At the highest compression" in v.claim for v in found) == 3
    assert UNDECIDED in {v.verdict for v in common_claims(panel(error, ARMS))}


def test_a_point_that_is_not_there_is_not_replaced_by_another() -> None:
    whole = panel(papers_world, ARMS, "figure_1b")
    averaged = ("minor", "slightly better")
    for gone, words in ((1, ("low compression",)), (2, ()), (3, ("highest",))):
        retrained = whole.table["arm"].isin(["rewound", "reinitialised"])
        rest = whole.table[~(retrained & (whole.table["point"] == gone))]
        for v in common_claims(Figure1(whole.panel, rest, (), ())):
            touched = any(word in v.claim for word in (*words, *averaged))
            assert (v.verdict == NOT_RUN) == touched, v.claim


def test_above_95_percent_means_every_point_there() -> None:
    whole = panel(papers_world, ARMS)
    rest = whole.table[(whole.table["arm"] != "rewound") | (whole.table["point"] != 2)]
    found = common_claims(Figure1(whole.panel, rest, (), ()))
    not_run = [v.claim for v in found if v.verdict == NOT_RUN]
    assert len([c for c in not_run if c.startswith("Above 95 %")]) == 2, (
        "rewound; gradual is better"
    )
