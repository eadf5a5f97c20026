"""From samples to verdicts: means with 95 % intervals, and what they say of a claim.

"A is higher than B" holds when the interval of the difference lies above zero; "A and B are
comparable" when it lies inside a margin written down beforehand, 5 % of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
VERDICTS = (HOLDS, FAILS, UNDECIDED, NOT_RUN)
MARGIN = 0.05


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % t-interval over `n` values."""

    mean: float
    low: float
    high: float
    n: int


def interval(values: Sequence[float] | np.ndarray | pd.Series) -> Interval:
    """Mean and 95 % t-interval; with a single value the interval is unbounded.

    >>> i = interval([1.0, 2.0, 3.0])
    >>> round(i.mean, 3), round(i.low, 3), round(i.high, 3)
    (2.0, -0.484, 4.484)
    """
    x = np.asarray(values, dtype=float)
    n = len(x)
    if n < 2:
        return Interval(float(x.mean()) if n else np.nan, -np.inf, np.inf, n)
    mean, error = float(x.mean()), float(stats.sem(x))
    low, high = stats.t.interval(0.95, n - 1, mean, error) if error else (mean, mean)
    return Interval(mean, float(low), float(high), n)


def welch(a: np.ndarray, b: np.ndarray) -> Interval:
    """Mean of `a` minus mean of `b`, two samples without pairs, with Welch's 95 % t-interval; `n`
    is the size of the smaller one, and of fewer than two values the interval is unbounded.

    >>> i = welch(np.array([2.0, 3.0, 4.0]), np.array([1.0, 1.0, 1.0]))
    >>> round(i.mean, 3), round(i.low, 3), round(i.high, 3), i.n
    (2.0, -0.484, 4.484, 3)
    """
    mean, n = float(a.mean() - b.mean()), min(len(a), len(b))
    if n < 2:
        return Interval(mean, -np.inf, np.inf, n)
    if not (np.ptp(a) or np.ptp(b)):
        return Interval(mean, mean, mean, n)
    found = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return Interval(mean, float(found.low), float(found.high), n)


@dataclass(frozen=True)
class Verdict:
    """A claim of the paper and what the results say of it.

    `effect`, `low` and `high` are in `unit`: percentage points of test error, bits, or a factor
    (×); `n` counts replicas.
    """

    claim: str
    section: str
    test: str
    verdict: str
    effect: float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: int = 0
    unit: str = "points"


def decided(
    claim: str, section: str, test: str, verdict: str, effect: Interval, unit: str = "points"
) -> Verdict:
    """A `Verdict` with its effect, in percentage points unless said otherwise."""
    return Verdict(
        claim, section, test, verdict, effect.mean, effect.low, effect.high, effect.n, unit
    )


def reserved(verdict: Verdict, why: str) -> Verdict:
    """A verdict that has been reached, taken back for a reason, if there is one."""
    if not why or verdict.verdict == NOT_RUN:
        return verdict
    return replace(verdict, verdict=UNDECIDED, test=f"{verdict.test}; {why}")


def higher(difference: Interval) -> str:
    """The verdict on "the difference is above zero"."""
    if difference.low > 0:
        return HOLDS
    return FAILS if difference.high < 0 else UNDECIDED


def at_most(difference: Interval, margin: float) -> str:
    """The verdict on "the difference is at most `margin`"."""
    if difference.high <= margin:
        return HOLDS
    return FAILS if difference.low > margin else UNDECIDED


def comparable(difference: Interval, margin: float) -> str:
    """The verdict on "the difference lies within +-`margin`"."""
    if -margin <= difference.low and difference.high <= margin:
        return HOLDS
    return FAILS if difference.low > margin or difference.high < -margin else UNDECIDED


def everywhere(verdicts: Sequence[str]) -> str:
    """The verdict on a claim about several points: it holds where it holds at each."""
    if not verdicts:
        return NOT_RUN
    if FAILS in verdicts:
        return FAILS
    return HOLDS if set(verdicts) == {HOLDS} else UNDECIDED
