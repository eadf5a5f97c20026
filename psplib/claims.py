"""The paper's claims as tests on the tables.

The unit is a replica (a seed): means with 95 % t-intervals, differences in pairs where arms share
their seeds. "A is higher than B" holds when the interval of the difference lies above zero; "A and
B are comparable" when it lies inside a margin written down beforehand, 5 % of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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

    `effect`, `low` and `high` are in percentage points of test error; `n` counts replicas.
    """

    claim: str
    section: str
    test: str
    verdict: str
    effect: float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: int = 0


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


def densities(figure: Figure1) -> pd.Series:
    """Share of surviving parameters at each point of the gradual run that is retrained from."""
    first = figure.panel.lobsters[0].seed
    rows = figure.table[
        (figure.table["arm"] == "lobster") & (figure.table["lobster_seed"] == first)
    ]
    return 1 - rows.set_index("point")["sparsity"].sort_index()


def figure_1(figure: Figure1) -> list[Verdict]:
    """Every claim of section 5.1 on one panel, with its verdict."""
    unpruned = errors(figure, "dense")
    dense = unpruned.loc[0] if len(unpruned) else pd.Series(dtype=float)
    arms = {arm: errors(figure, arm) for arm in ("rewound", "reinitialised")}
    density = densities(figure)
    verdicts = []
    for arm, label in (("rewound", "original"), ("reinitialised", "new random")):
        verdicts.append(_recovers(arms[arm], dense, density, label))
    for arm, label in (("rewound", "original"), ("reinitialised", "new random")):
        verdicts.append(_fails(arms[arm], dense, density, label))
    verdicts.append(_gradual_is_better(figure, arms["rewound"], density))
    verdicts += _initial_values(arms["rewound"], arms["reinitialised"])
    return verdicts


def recovers(retrained: pd.Series, dense: pd.Series) -> bool:
    """Whether retraining is at most 5 % worse than the dense network, pair by pair."""
    difference = interval((retrained - dense).dropna())
    return at_most(difference, MARGIN * dense.mean()) == HOLDS


def _recovers(arm: pd.DataFrame, dense: pd.Series, density: pd.Series, label: str) -> Verdict:
    claim = f"At low compression, retraining from {label} values recovers the dense error."
    if arm.empty or dense.empty:
        return Verdict(claim, "5.1", "", NOT_RUN)
    point = arm.index[0]
    difference = interval((arm.loc[point] - dense).dropna())
    margin = MARGIN * dense.mean()
    return Verdict(
        claim,
        "5.1",
        f"retrained − dense at {_percent(1 - density[point])} sparsity is at most "
        f"{margin:.2f} points (5 % of the dense error)",
        at_most(difference, margin),
        difference.mean,
        difference.low,
        difference.high,
        difference.n,
    )


def _fails(arm: pd.DataFrame, dense: pd.Series, density: pd.Series, label: str) -> Verdict:
    claim = f"Above 95 % sparsity, retraining from {label} values fails to recover the dense error."
    points = [p for p in arm.index if density[p] < 1 - HIGH_SPARSITY]
    if not points or dense.empty:
        return Verdict(claim, "5.1", "", NOT_RUN)
    differences = [interval((arm.loc[p] - dense).dropna()) for p in points]
    last = differences[-1]
    return Verdict(
        claim,
        "5.1",
        f"retrained − dense is above zero at each of {len(points)} points; effect at "
        f"{_percent(1 - density[points[-1]])}",
        everywhere([higher(d) for d in differences]),
        last.mean,
        last.low,
        last.high,
        last.n,
    )


def _gradual_is_better(figure: Figure1, rewound: pd.DataFrame, density: pd.Series) -> Verdict:
    claim = "Above 95 % sparsity, gradual pruning has a lower error than one-shot rewinding."
    points = [p for p in rewound.index if density[p] < 1 - HIGH_SPARSITY]
    if not points:
        return Verdict(claim, "5.1", "", NOT_RUN)
    first = figure.panel.lobsters[0].seed
    gradual = (
        figure.table[
            (figure.table["arm"] == "lobster") & (figure.table["lobster_seed"] == first)
        ].set_index("point")["test_error"]
        * 100
    )
    differences = [interval((rewound.loc[p] - gradual[p]).dropna()) for p in points]
    last = differences[-1]
    return Verdict(
        claim,
        "5.1",
        f"rewound − LOBSTER with the same mask is above zero at each of {len(points)} points; "
        f"effect at {_percent(1 - density[points[-1]])}; one LOBSTER run",
        everywhere([higher(d) for d in differences]),
        last.mean,
        last.low,
        last.high,
        last.n,
    )


def _initial_values(rewound: pd.DataFrame, reinitialised: pd.DataFrame) -> list[Verdict]:
    minor = "The gap between original and random initial values is minor."
    better = "The original values are slightly better than random ones."
    both = rewound.index.intersection(reinitialised.index)
    if not len(both):
        return [Verdict(claim, "5.1", "", NOT_RUN) for claim in (minor, better)]
    gap = interval((reinitialised.loc[both] - rewound.loc[both]).mean().dropna())
    margin = MARGIN * rewound.loc[both].to_numpy().mean()
    where = f"random − original, mean over {len(both)} points"
    numbers = (gap.mean, gap.low, gap.high, gap.n)
    return [
        Verdict(
            minor,
            "5.1",
            f"{where}, lies within ±{margin:.2f} points (5 % of the mean error)",
            comparable(gap, margin),
            *numbers,
        ),
        Verdict(better, "5.1", f"{where}, is above zero", higher(gap), *numbers),
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


def table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """The verdicts as a table, a row per claim."""
    return pd.DataFrame([asdict(v) for v in verdicts])
