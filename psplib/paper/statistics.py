"""From samples to verdicts: means with 95 % intervals, and what they say of a claim.

"A is higher than B" holds when the interval of the difference lies above zero; "A and B are
comparable" when it lies inside a margin written down beforehand, 5 % of the mean. The p-value of a
verdict is the smallest level at which it would still be reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
# Of several points or runs some say yes and some no; two arms had unequal chances.
MIXED, NOT_COMPARABLE = "mixed", "not comparable"
VERDICTS = (HOLDS, FAILS, MIXED, UNDECIDED, NOT_COMPARABLE, NOT_RUN)
MARGIN, LEVEL = 0.05, 0.05


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % t-interval over `n` values, its standard error, degrees of freedom."""

    mean: float
    low: float
    high: float
    n: int
    error: float = np.nan
    freedom: float = np.nan

    def p(self, bound: float = 0.0) -> float:
        """Two-sided p-value of "the mean is `bound`"; 1 without an interval.

        >>> round(interval([1.0, 2.0, 3.0]).p(), 4)
        0.0742
        """
        if not np.isfinite(self.low):
            return 1.0
        if not self.error:
            return float(self.mean == bound)
        return float(2 * stats.t.sf(abs(self.mean - bound) / self.error, self.freedom))


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
    return Interval(mean, float(low), float(high), n, error, n - 1)


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
        return Interval(mean, mean, mean, n, 0.0, n - 1)
    found = stats.ttest_ind(a, b, equal_var=False)
    bounds = found.confidence_interval(0.95)
    error = float(np.hypot(stats.sem(a), stats.sem(b)))
    return Interval(mean, float(bounds.low), float(bounds.high), n, error, float(found.df))


def widened(found: Interval, by: Interval) -> Interval:
    """An interval with the error of another mean added in quadrature, Welch and Satterthwaite's
    degrees of freedom; of fewer than two values it stays unbounded.

    >>> i = widened(interval([1.0, 2.0, 3.0]), interval([7.0, 7.1, 7.2]))
    >>> round(i.mean, 3), round(i.low, 3), round(i.high, 3)
    (2.0, -0.45, 4.45)
    """
    if not (np.isfinite(found.low) and np.isfinite(by.low)) or not by.error:
        return found
    error = float(np.hypot(found.error, by.error))
    freedom = error**4 / (found.error**4 / found.freedom + by.error**4 / by.freedom)
    half = float(stats.t.ppf(0.975, freedom)) * error
    return replace(
        found, low=found.mean - half, high=found.mean + half, error=error, freedom=freedom
    )


@dataclass(frozen=True)
class Verdict:
    """A claim of the paper and what the results say of it.

    `effect`, `low` and `high` are in `unit`: percentage points of test error, bits, a factor (×),
    a correlation (r), or an index from 0 to 1. `n` counts what the interval is over; `basis`
    names the runs that enter; `p` is the p-value of the verdict, NaN where there is no interval.
    `region` is where the claim would have the effect, see `Tested`.
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
    basis: str = ""
    p: float = np.nan
    region: tuple[float, float] = (np.nan, np.nan)


def decided(
    claim: str, section: str, test: str, verdict: str, effect: Interval, unit: str = "points"
) -> Verdict:
    """A `Verdict` with its effect, in percentage points unless said otherwise."""
    return Verdict(
        claim, section, test, verdict, effect.mean, effect.low, effect.high, effect.n, unit
    )


def reported(
    claim: str, section: str, test: str, found: Tested, basis: str, unit: str = "points"
) -> Verdict:
    """A `Verdict` from a test, with the runs that enter it."""
    verdict = decided(claim, section, test, found.verdict, found.effect, unit)
    return replace(verdict, basis=basis, p=found.p, region=found.region)


def reserved(verdict: Verdict, why: str) -> Verdict:
    """A verdict that has been reached, taken back because two arms had unequal chances, if so."""
    if not why or verdict.verdict == NOT_RUN:
        return verdict
    return replace(verdict, verdict=NOT_COMPARABLE, test=f"{verdict.test}; {why}", p=np.nan)


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
    """The verdict on a claim about several points or runs: it holds where it holds at each; it is
    mixed where some say yes and some no."""
    if not verdicts:
        return NOT_RUN
    if FAILS in verdicts:
        return MIXED if HOLDS in verdicts else FAILS
    return HOLDS if set(verdicts) == {HOLDS} else UNDECIDED


@dataclass(frozen=True)
class Tested:
    """What a test came to: its verdict, the p-value of that, the effect that decided, and where;
    `region` (from, to) is where the claim would have that effect, of a factor its logarithm."""

    verdict: str
    p: float
    effect: Interval
    where: str = ""
    region: tuple[float, float] = (np.nan, np.nan)


def is_above(effect: Interval, where: str = "", bound: float = 0.0) -> Tested:
    """Of "the effect is above `bound`"."""
    shifted = replace(effect, low=effect.low - bound, high=effect.high - bound)
    return Tested(higher(shifted), effect.p(bound), effect, where, (bound, np.inf))


def is_at_most(effect: Interval, margin: float, where: str = "") -> Tested:
    """Of "the effect is at most `margin`"."""
    return Tested(at_most(effect, margin), effect.p(margin), effect, where, (-np.inf, margin))


def is_comparable(effect: Interval, margin: float, where: str = "") -> Tested:
    """Of "the effect lies within +-`margin`": two one-sided tests, of which the nearer bound's
    decides, inside as outside."""
    p = max(effect.p(-margin), effect.p(margin))
    return Tested(comparable(effect, margin), p, effect, where, (-margin, margin))


def is_correlated(a: Sequence[float], b: Sequence[float], where: str = "") -> Tested:
    """Of "the rank correlation of pairs is above zero": Spearman's, with Fisher's transformation
    and the error of Fieller, Hartley and Pearson (1957). Needs four pairs.

    >>> is_correlated([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 6, 5]).verdict
    'holds'
    """
    n, r = len(a), float(stats.spearmanr(a, b).statistic)
    error = math.sqrt(1.06 / (n - 3))
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, r)))
    half = error * float(stats.norm.ppf(0.975))
    effect = Interval(r, math.tanh(z - half), math.tanh(z + half), n)
    p = float(2 * stats.norm.sf(abs(z) / error))
    return Tested(higher(effect), p, effect, where, (0.0, np.inf))


def all_of(tests: Sequence[Tested]) -> Tested:
    """Of a claim that is made of every test: it holds where each does. The effect is that which
    decides: the weakest of those that hold, the clearest of those that do not, the least certain
    of those that are undecided."""
    verdict = everywhere([t.verdict for t in tests])
    if verdict in (HOLDS, UNDECIDED):
        return replace(max(tests, key=lambda t: t.p), verdict=verdict)
    first = min((t for t in tests if t.verdict == FAILS), key=lambda t: t.p)
    p = first.p
    if verdict == MIXED:
        p = max(p, min(t.p for t in tests if t.verdict == HOLDS))
    return replace(first, verdict=verdict, p=min(1.0, p * len(tests)))


def both_of(tests: Sequence[Tested]) -> Tested:
    """Of a claim that is true only if several different things are: as `all_of`, but where one of
    them does not hold, it fails."""
    fails = [t for t in tests if t.verdict == FAILS]
    if not fails:
        return all_of(tests)
    first = min(fails, key=lambda t: t.p)
    return replace(first, p=min(1.0, first.p * len(tests)))


def any_of(tests: Sequence[Tested]) -> Tested:
    """Of "there is one that holds": the clearest of them, its p-value times their number
    (Bonferroni); it fails where all do."""
    if {t.verdict for t in tests} == {FAILS}:
        return max(tests, key=lambda t: t.p)
    best = min((t for t in tests if t.verdict == HOLDS), key=lambda t: t.p, default=None)
    if best is None:
        return max((t for t in tests if t.verdict == UNDECIDED), key=lambda t: t.p)
    p = min(1.0, best.p * len(tests))
    return replace(best, verdict=HOLDS if p <= LEVEL else UNDECIDED, p=p)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values of a family of tests.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    stepped = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return [float(x) for x in adjusted]
