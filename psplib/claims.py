"""The paper's claims as tests on the tables.

The unit is a replica (a seed): means with 95 % t-intervals, differences in pairs where arms share
their seeds. "A is higher than B" holds when the interval of the difference lies above zero; "A and
B are comparable" when it lies inside a margin written down beforehand, 5 % of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import pandas as pd

from .experiments import Figure1

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
MARGIN = 0.05
HIGH_SPARSITY = 0.95


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
    from scipy import stats

    x = np.asarray(values, dtype=float)
    n = len(x)
    if n < 2:
        return Interval(float(x.mean()) if n else np.nan, -np.inf, np.inf, n)
    half = float(stats.t.ppf(0.975, n - 1)) * float(x.std(ddof=1)) / sqrt(n)
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, n)


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


def errors(figure: Figure1, arm: str) -> pd.DataFrame:
    """Test errors in per cent: a row per point, a column per replica; empty if not run."""
    rows = figure.table[figure.table["arm"] == arm]
    table = rows.pivot(index="point", columns="replica", values="test_error") * 100
    return table.sort_index()


def gradual(figure: Figure1) -> pd.DataFrame:
    """The points of the gradual run whose masks are retrained from, indexed by their number."""
    first = figure.panel.lobsters[0].seed
    rows = figure.table
    rows = rows[(rows["arm"] == "lobster") & (rows["lobster_seed"] == first)]
    return rows.set_index("point").sort_index()


def densities(figure: Figure1) -> pd.Series:
    """Share of surviving parameters at each point of that gradual run."""
    return 1 - gradual(figure)["sparsity"]


def figure_1(figure: Figure1) -> list[Verdict]:
    """Every claim of section 5.1 on one panel, with its verdict."""
    unpruned = errors(figure, "dense")
    dense = unpruned.loc[0] if len(unpruned) else pd.Series(dtype=float)
    rewound, reinitialised = errors(figure, "rewound"), errors(figure, "reinitialised")
    density = densities(figure)
    arms = (("original", rewound), ("new random", reinitialised))
    recover = [_recovers(arm, dense, density, label) for label, arm in arms]
    fail = [
        _worse(
            f"Above 95 % sparsity, retraining from {label} values fails to recover "
            "the dense error.",
            "retrained − dense is above zero at each of {} points; effect at {}",
            [(p, interval((arm.loc[p] - dense).dropna())) for p in _sparse(arm, density)]
            if len(dense)
            else [],
            density,
        )
        for label, arm in arms
    ]
    reference = 100 * gradual(figure)["test_error"]
    better = _worse(
        "Above 95 % sparsity, gradual pruning has a lower error than one-shot rewinding.",
        "rewound − LOBSTER with the same mask is above zero at each of {} points; effect at {}; "
        "one LOBSTER run",
        [
            (p, interval((rewound.loc[p] - reference[p]).dropna()))
            for p in _sparse(rewound, density)
        ],
        density,
    )
    return [*recover, *fail, better, *_initial_values(rewound, reinitialised)]


def recovers(retrained: pd.Series, dense: pd.Series) -> tuple[str, Interval, float]:
    """The verdict on "retraining is at most 5 % worse than the dense network", pair by pair; the
    difference and the margin."""
    difference, margin = interval((retrained - dense).dropna()), MARGIN * dense.mean()
    return at_most(difference, margin), difference, margin


def _recovers(arm: pd.DataFrame, dense: pd.Series, density: pd.Series, label: str) -> Verdict:
    claim = f"At low compression, retraining from {label} values recovers the dense error."
    if arm.empty or dense.empty:
        return Verdict(claim, "5.1", "", NOT_RUN)
    point = arm.index[0]
    verdict, difference, margin = recovers(arm.loc[point], dense)
    test = (
        f"retrained − dense at {_percent(1 - density[point])} sparsity is at most "
        f"{margin:.2f} points (5 % of the dense error)"
    )
    return _verdict(claim, test, verdict, difference)


def _sparse(arm: pd.DataFrame, density: pd.Series) -> list[int]:
    return [p for p in arm.index if density[p] < 1 - HIGH_SPARSITY]


def _worse(
    claim: str, test: str, differences: list[tuple[int, Interval]], density: pd.Series
) -> Verdict:
    """The verdict on "above zero at every point"; the effect is that at the last point."""
    if not differences:
        return Verdict(claim, "5.1", "", NOT_RUN)
    point, last = differences[-1]
    test = test.format(len(differences), _percent(1 - density[point]))
    return _verdict(claim, test, everywhere([higher(d) for _, d in differences]), last)


def _verdict(claim: str, test: str, verdict: str, effect: Interval) -> Verdict:
    return Verdict(claim, "5.1", test, verdict, effect.mean, effect.low, effect.high, effect.n)


def _initial_values(rewound: pd.DataFrame, reinitialised: pd.DataFrame) -> list[Verdict]:
    minor = "The gap between original and random initial values is minor."
    better = "The original values are slightly better than random ones."
    both = rewound.index.intersection(reinitialised.index)
    if not len(both):
        return [Verdict(claim, "5.1", "", NOT_RUN) for claim in (minor, better)]
    gap = interval((reinitialised.loc[both] - rewound.loc[both]).mean().dropna())
    margin = MARGIN * rewound.loc[both].to_numpy().mean()
    where = f"random − original, mean over {len(both)} points"
    within = f"{where}, lies within ±{margin:.2f} points (5 % of the mean error)"
    return [
        _verdict(minor, within, comparable(gap, margin), gap),
        _verdict(better, f"{where}, is above zero", higher(gap), gap),
    ]


def in_short(verdicts: Sequence[Verdict]) -> str:
    """The verdicts in one sentence for each outcome (Markdown)."""
    sentences = []
    for outcome in (HOLDS, FAILS, UNDECIDED, NOT_RUN):
        these = [v.claim for v in verdicts if v.verdict == outcome]
        if these:
            sentences.append(
                f"- **{outcome}** ({len(these)} of {len(verdicts)}): {' '.join(these)}"
            )
    return "\n".join(sentences)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
