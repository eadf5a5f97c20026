"""The claims of section 5.1 that every panel of Fig. 1 is asked, as tests on its table.

The unit is a replica (a seed); differences are taken in pairs where arms share their seeds.
"""

from __future__ import annotations

import pandas as pd

from psplib.paper.display import percent
from psplib.paper.statistics import (
    MARGIN,
    NOT_RUN,
    Interval,
    Verdict,
    at_most,
    comparable,
    decided,
    everywhere,
    higher,
    interval,
    reserved,
)
from psplib.paper.tables import Figure1

HIGH_SPARSITY = 0.95


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


def planned(figure: Figure1) -> list[int]:
    """The points of the gradual run that are to be retrained from, the sparsest last; none if it is
    not there."""
    density = densities(figure)
    return (
        sorted({r.point for r in figure.panel.retrainings(list(density))}) if len(density) else []
    )


def there(arm: pd.DataFrame, points: list[int]) -> list[int]:
    """`points`, if the arm has all of them, else none: no claim is tested on whatever happens to be
    done."""
    return points if set(points) <= set(arm.index) else []


def figure_1(figure: Figure1) -> list[Verdict]:
    """The claims of section 5.1 that every panel is asked, with their verdicts.

    High compression is what lies above 95 % sparsity in Fig. 1a, as the paper says of that panel;
    in the others, of which it gives no such number, the last point of the gradual run.
    """
    unpruned = errors(figure, "dense")
    dense = unpruned.loc[0] if len(unpruned) else pd.Series(dtype=float)
    rewound, reinitialised = errors(figure, "rewound"), errors(figure, "reinitialised")
    density, points = densities(figure), planned(figure)
    arms = (("original", rewound), ("new random", reinitialised))
    recover = [_recovers(arm, dense, density, points[:1], label) for label, arm in arms]
    where, high = "At the highest compression", points[-1:]
    if figure.panel.name == "figure_1a":
        where = "Above 95 % sparsity"
        high = [p for p in points if density[p] < 1 - HIGH_SPARSITY]
    fail = [
        worse(
            f"{where}, retraining from {label} values fails to recover the dense error.",
            "retrained − dense is above zero at {}",
            [(p, interval((arm.loc[p] - dense).dropna())) for p in there(arm, high)]
            if len(dense)
            else [],
            density,
        )
        for label, arm in arms
    ]
    reference = 100 * gradual(figure)["test_error"]
    better = worse(
        f"{where}, gradual pruning has a lower error than one-shot rewinding.",
        "rewound − LOBSTER with the same mask is above zero at {}; one LOBSTER run",
        [(p, interval((rewound.loc[p] - reference[p]).dropna())) for p in there(rewound, high)],
        density,
    )
    better = reserved(better, unequal(figure))
    return [*recover, *fail, better, *_initial_values(rewound, reinitialised, points)]


def unequal(figure: Figure1) -> str:
    """Why LOBSTER and the retrained arms of a panel cannot be set against each other, if so.

    The dense network is trained as long as they are. Where it errs by more than the margin more
    than LOBSTER's network does before its first pruning, their training was too short, and a gap
    to LOBSTER would be the gap of the budgets.
    """
    dense, own = errors(figure, "dense"), gradual(figure)
    if dense.empty or own.empty:
        return ""
    control, start = float(dense.loc[0].mean()), 100 * float(own["test_error"].iloc[0])
    if control <= (1 + MARGIN) * start:
        return ""
    return (
        f"not to be decided in {figure.panel.title}: the dense network, trained as long as the "
        f"retrained ones, errs on {control:.2f} %, LOBSTER's before any pruning on {start:.2f} %"
    )


def recovers(retrained: pd.Series, dense: pd.Series) -> tuple[str, Interval, float]:
    """The verdict on "retraining is at most 5 % worse than the dense network", pair by pair; the
    difference and the margin."""
    difference, margin = interval((retrained - dense).dropna()), MARGIN * dense.mean()
    return at_most(difference, margin), difference, margin


def _recovers(
    arm: pd.DataFrame, dense: pd.Series, density: pd.Series, first: list[int], label: str
) -> Verdict:
    claim = f"At low compression, retraining from {label} values recovers the dense error."
    if dense.empty or not there(arm, first):
        return Verdict(claim, "5.1", "", NOT_RUN)
    verdict, difference, margin = recovers(arm.loc[first[0]], dense)
    test = (
        f"retrained − dense at {percent(1 - density[first[0]])} sparsity is at most "
        f"{margin:.2f} points (5 % of the dense error)"
    )
    return decided(claim, "5.1", test, verdict, difference)


def worse(
    claim: str, test: str, differences: list[tuple[int, Interval]], density: pd.Series
) -> Verdict:
    """The verdict on "above zero at every point"; the effect is that at the last point. `test` has
    braces where the points are to be named."""
    if not differences:
        return Verdict(claim, "5.1", "", NOT_RUN)
    point, last = differences[-1]
    where = f"{percent(1 - density[point])} sparsity"
    if len(differences) > 1:
        where = f"each of {len(differences)} points; effect at {where}"
    verdict = everywhere([higher(d) for _, d in differences])
    return decided(claim, "5.1", test.format(where), verdict, last)


def _initial_values(
    rewound: pd.DataFrame, reinitialised: pd.DataFrame, points: list[int]
) -> list[Verdict]:
    minor = "The gap between original and random initial values is minor."
    better = "The original values are slightly better than random ones."
    both = there(rewound, there(reinitialised, points))
    if not both:
        return [Verdict(claim, "5.1", "", NOT_RUN) for claim in (minor, better)]
    gap = interval((reinitialised.loc[both] - rewound.loc[both]).mean().dropna())
    margin = MARGIN * rewound.loc[both].to_numpy().mean()
    many = f"mean over {len(both)} points" if len(both) > 1 else "at the only point"
    where = f"random − original, {many}"
    within = f"{where}, lies within ±{margin:.2f} points (5 % of the mean error)"
    return [
        decided(minor, "5.1", within, comparable(gap, margin), gap),
        decided(better, "5.1", f"{where}, is above zero", higher(gap), gap),
    ]
