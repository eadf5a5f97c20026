"""What is tested beyond the paper: weight decay only, and magnitude pruning.

Gradual runs are compared seed by seed, along a fixed range of sparsities; retrained networks
replica by replica, at the points that they share. Tests and margins were written down before any of
these runs was there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from psplib.paper.claims import HIGH_SPARSITY
from psplib.paper.statistics import (
    MARGIN,
    NOT_RUN,
    Interval,
    Verdict,
    comparable,
    everywhere,
    higher,
    interval,
)
from psplib.paper.tables import FigureBeyond

# Surviving shares along which gradual runs are compared: from point to point their errors jump, and
# the mean from 80 to 98 % sparsity, in equal steps of log density, is steadier than any of them.
RANGE = tuple(0.2 * 10 ** (-k / 24) for k in range(25))
# Those that the table gives: 80, 90, 95 and 98 % sparsity.
GRID = (0.2, 0.1, 0.05, 0.02)
SECTION = "beyond"


def errors(figure: FigureBeyond, network: str, arm: str) -> pd.DataFrame:
    """Test errors in per cent: a row per point, a column per replica; empty if not run."""
    rows = _rows(figure, network, arm)
    return rows.pivot(index="point", columns="replica", values="test_error").sort_index() * 100


def gradual(figure: FigureBeyond, network: str, arm: str = "lobster") -> dict[int, pd.DataFrame]:
    """The points of each gradual run, by its seed; sparser from row to row."""
    rows = _rows(figure, network, arm)
    return {
        int(seed): run.set_index("point").sort_index() for seed, run in rows.groupby("lobster_seed")
    }


def between(run: pd.DataFrame, column: str, densities: Sequence[float]) -> np.ndarray:
    """A column of a gradual run at given densities, linear in their logarithm between its points;
    NaN where the run has not come."""
    level = np.log(1 - run["sparsity"].to_numpy(dtype=float))[::-1]
    values = run[column].to_numpy(dtype=float)[::-1]
    return np.interp(np.log(densities), level, values, left=np.nan, right=np.nan)


def along(
    figure: FigureBeyond,
    network: str,
    arm: str,
    column: str,
    densities: Sequence[float] = RANGE,
) -> pd.DataFrame:
    """A column of every gradual run of an arm: a row per seed, a column per density."""
    runs = gradual(figure, network, arm)
    return pd.DataFrame(
        {seed: between(run, column, densities) for seed, run in runs.items()},
        index=list(densities),
    ).T


def gaps(figure: FigureBeyond, network: str) -> pd.DataFrame:
    """By how many points of test error weight decay only is worse than LOBSTER: a row per seed that
    both have, a column per density of `RANGE` that all of these runs have reached."""
    ours, theirs = (along(figure, network, arm, "test_error") for arm in ("decay", "lobster"))
    both = ours.index.intersection(theirs.index)
    return (100 * (ours - theirs).loc[both]).dropna(axis=1)


def beyond(figure: FigureBeyond) -> list[Verdict]:
    """Every claim, network by network."""
    found = []
    for rivals in figure.panel.networks:
        found += [*_decay(figure, rivals.title), *_masks(figure, rivals.title)]
    return found


def _decay(figure: FigureBeyond, network: str) -> list[Verdict]:
    claims = (
        f"The sensitivity term helps: weight decay only errs more at equal sparsity ({network}).",
        f"With weight decay only the error at equal sparsity is the same ({network}).",
        f"LOBSTER needs fewer epochs than weight decay only for a sparsity ({network}).",
    )
    gap = gaps(figure, network)
    if not gap.size:
        return [Verdict(claim, SECTION, "", NOT_RUN) for claim in claims]
    difference, last = interval(gap.mean(axis=1)), gap.columns[-1]
    reference = 100 * along(figure, network, "lobster", "test_error").loc[gap.index, gap.columns]
    margin = MARGIN * reference.to_numpy().mean()
    where = f"decay − LOBSTER, seed by seed, mean from {span(gap.columns)} sparsity"
    epochs = [along(figure, network, arm, "epoch")[last] for arm in ("decay", "lobster")]
    ratio = interval(np.log((epochs[0] / epochs[1]).dropna()))
    mean, low, high = np.exp([ratio.mean, ratio.low, ratio.high])
    factor = Interval(mean, low, high, ratio.n)
    return [
        _verdict(claims[0], f"{where}, is above zero", higher(difference), difference),
        _verdict(
            claims[1],
            f"{where}, lies within ±{margin:.2f} points (5 % of LOBSTER's mean error)",
            comparable(difference, margin),
            difference,
        ),
        _verdict(
            claims[2],
            f"epochs to {100 * (1 - last):.3g} % sparsity, decay / LOBSTER, seed by seed, "
            "are above 1",
            higher(ratio),
            factor,
            "×",
        ),
    ]


def _masks(figure: FigureBeyond, network: str) -> list[Verdict]:
    arms = {a: errors(figure, network, a) for a in ("rewound", "magnitude", "iterative")}
    runs = list(gradual(figure, network).values())
    first = runs[0] if runs else pd.DataFrame({"sparsity": [], "test_error": []})
    run = 100 * first["test_error"]
    above = "Above 95 % sparsity, "
    return [
        _everywhere(
            f"{above}LOBSTER's masks retrain to a lower error than those of one-shot magnitude "
            f"pruning ({network}).",
            "one-shot magnitude − LOBSTER's mask, both rewound",
            arms["magnitude"],
            arms["rewound"],
            first["sparsity"],
        ),
        _everywhere(
            f"{above}LOBSTER's masks retrain to a lower error than those of iterative magnitude "
            f"pruning ({network}).",
            "iterative magnitude − LOBSTER's mask, both rewound",
            arms["iterative"],
            arms["rewound"],
            first["sparsity"],
        ),
        _everywhere(
            f"{above}iterative magnitude pruning errs less than one-shot ({network}).",
            "one-shot magnitude − iterative",
            arms["magnitude"],
            arms["iterative"],
            first["sparsity"],
        ),
        _everywhere(
            f"{above}LOBSTER errs less than iterative magnitude pruning with rewinding "
            f"({network}).",
            "iterative magnitude − LOBSTER's own network (one run)",
            arms["iterative"],
            pd.DataFrame({replica: run for replica in arms["iterative"].columns}),
            first["sparsity"],
        ),
    ]


def _everywhere(
    claim: str, what: str, worse: pd.DataFrame, better: pd.DataFrame, sparsity: pd.Series
) -> Verdict:
    """The verdict on "worse − better is above zero at every point"; the effect at the last."""
    points = [p for p in worse.index.intersection(better.index) if sparsity[p] > HIGH_SPARSITY]
    differences = [interval((worse.loc[p] - better.loc[p]).dropna()) for p in points]
    if not any(d.n for d in differences):
        return Verdict(claim, SECTION, "", NOT_RUN)
    test = (
        f"{what}, replica by replica, is above zero at each of {len(points)} points; effect at "
        f"{100 * sparsity[points[-1]]:.1f} %"
    )
    return _verdict(claim, test, everywhere([higher(d) for d in differences]), differences[-1])


def _verdict(claim: str, test: str, verdict: str, i: Interval, unit: str = "points") -> Verdict:
    return Verdict(claim, SECTION, test, verdict, i.mean, i.low, i.high, i.n, unit)


def span(densities: Sequence[float]) -> str:
    """The first and the last of falling densities as sparsities: "80 to 98 %"."""
    first, last = (100 * (1 - d) for d in (densities[0], densities[-1]))
    return f"{first:.3g} to {last:.3g} %"


def _rows(figure: FigureBeyond, network: str, arm: str) -> pd.DataFrame:
    table = figure.table
    return table[(table["network"] == network) & (table["arm"] == arm)]
