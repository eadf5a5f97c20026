"""The claims of sections 5.2 and 5.3 as tests on the tables of Figs. 2 to 4.

The unit is a replica of the rewound network, compared with the gradual network whose mask it has.
A claim is tested for every gradual run, and holds where it holds for each; the effect given is that
of the run which is worst for the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from psplib.paper.statistics import (
    FAILS,
    HOLDS,
    MARGIN,
    NOT_RUN,
    Interval,
    Verdict,
    comparable,
    everywhere,
    higher,
    interval,
)
from psplib.paper.tables import Figures2to4

SECOND_ORDER = ("joint", "mutual", "agreement")
ORDERS = ("first", *SECOND_ORDER)


def pairs(figures: Figures2to4, column: str, arm: str = "rewound") -> dict[int, pd.Series]:
    """For each gradual run, by its seed: a value of the replicas, and of G under the key -1."""
    table = figures.table
    found = {}
    for seed, rows in table.groupby("lobster_seed") if len(table) else []:
        values = rows[rows["arm"].isin(["lobster", arm])].set_index("replica")[column]
        if len(values) > 1:
            found[int(seed)] = values
    return found


def _compare(
    figures: Figures2to4,
    column: str,
    effect: Callable[[pd.Series, float], pd.Series],
    verdict: Callable[[Interval, float], str] = lambda difference, _: higher(difference),
) -> tuple[str, Interval, int]:
    """The verdict for all runs; the effect of the run that is worst for the claim; the runs."""
    rows = []
    for values in pairs(figures, column).values():
        difference = interval(effect(values.drop(-1), values[-1]))
        mean = float(values.drop(-1).mean() + values[-1]) / 2
        rows.append((verdict(difference, mean), difference))
    if not rows:
        return NOT_RUN, Interval(np.nan, np.nan, np.nan, 0), 0
    outcomes = [v for v, _ in rows]
    total = everywhere(outcomes)
    worst = min(rows, key=lambda row: (row[0] != total, row[1].low))[1]
    return total, worst, len(rows)


def _ratio(
    claim: str, section: str, test: str, figures: Figures2to4, column: str, sign: int
) -> Verdict:
    """Of "the ratio of G and the one-shot network is above one"; sign -1: one-shot over G."""
    verdict, effect, runs = _compare(
        figures, column, lambda shots, g: sign * (np.log(g) - np.log(shots))
    )
    return Verdict(
        claim,
        section,
        f"{test} is above 1{_each(runs)}",
        verdict,
        float(np.exp(effect.mean)),
        float(np.exp(effect.low)),
        float(np.exp(effect.high)),
        effect.n,
        "×",
    )


def _difference(
    claim: str, section: str, test: str, figures: Figures2to4, column: str, unit: str, sign: int
) -> Verdict:
    scale = 100 if unit == "points" else 1
    verdict, effect, runs = _compare(figures, column, lambda shots, g: sign * scale * (g - shots))
    return Verdict(
        claim,
        section,
        f"{test} is above zero{_each(runs)}",
        verdict,
        effect.mean,
        effect.low,
        effect.high,
        effect.n,
        unit,
    )


def _each(runs: int) -> str:
    return f", for each of {runs} gradual runs" if runs > 1 else ", one gradual run"


def figure_2(figures: Figures2to4) -> list[Verdict]:
    """Section 5.2: loss, error and curvature."""
    narrow = "The gradual solution lies in a narrower minimum than the one-shot solution"
    return [
        _ratio(
            "The gradual solution lies in a lower region of the training loss.",
            "5.2",
            "training loss, one-shot / gradual,",
            figures,
            "train_loss",
            -1,
        ),
        _difference(
            "The gradual solution generalises slightly better.",
            "5.2",
            "test error, one-shot − gradual,",
            figures,
            "test_error",
            "points",
            -1,
        ),
        _positive(figures),
        _ratio(
            f"{narrow}: surviving coordinates.",
            "5.2",
            "largest eigenvalue, gradual / one-shot,",
            figures,
            "lambda_1",
            1,
        ),
        _ratio(
            f"{narrow}: all coordinates.",
            "5.2",
            "largest eigenvalue with pruned coordinates, gradual / one-shot,",
            figures,
            "lambda_1_all",
            1,
        ),
    ]


def _positive(figures: Figures2to4) -> Verdict:
    claim = "The five leading eigenvalues are all positive, at both solutions."
    table = figures.table[figures.table["arm"].isin(["lobster", "rewound"])]
    if table.empty:
        return Verdict(claim, "5.2", "", NOT_RUN)
    fifth = table["lambda_5"] - table["residual"] * table["lambda_1"]
    return Verdict(
        claim,
        "5.2",
        "the fifth, less its residual, is above zero for every network "
        f"(smallest: {fifth.min():.3g}; surviving coordinates)",
        HOLDS if (fifth > 0).all() else FAILS,
        n=len(table),
    )


def figure_3(figures: Figures2to4) -> list[Verdict]:
    """Section 5.3: the magnitude of the potentials."""
    return [
        _ratio(
            "The gradual solution has lower PSP magnitudes than the one-shot solution.",
            "5.3",
            "mean z², one-shot / gradual,",
            figures,
            "z2",
            -1,
        ),
        _elsewhere(
            "There are regions with even lower magnitudes, but their loss is higher.",
            figures,
            "map",
            "magnitude",
        ),
    ]


def figure_4(figures: Figures2to4) -> list[Verdict]:
    """Section 5.3: PSP-entropy of first and second order."""
    verdict, effect, runs = _compare(
        figures,
        "first",
        lambda shots, g: g - shots,
        lambda difference, mean: comparable(difference, MARGIN * mean),
    )
    first = Verdict(
        "Gradual and one-shot pruning have comparable first-order entropies.",
        "5.3",
        f"gradual − one-shot lies within ±5 % of their mean{_each(runs)}",
        verdict,
        effect.mean,
        effect.low,
        effect.high,
        effect.n,
        "bits",
    )
    elsewhere = _elsewhere(
        "There are regions of lower first-order entropy, but their loss is higher.",
        figures,
        "map",
        "first_order",
    )
    second = [
        _difference(
            f"Gradual pruning has the higher second-order entropy: {order}.",
            "5.3",
            "gradual − one-shot",
            figures,
            order,
            "bits",
            1,
        )
        for order in SECOND_ORDER
    ]
    return [first, elsewhere, *second]


def _elsewhere(claim: str, figures: Figures2to4, name: str, column: str) -> Verdict:
    """Of "the points of the map that are lower than G have a higher loss than G"."""
    if name not in figures.maps:
        return Verdict(claim, "5.3", "", NOT_RUN)
    points = figures.maps[name]
    g = at(points, 0.0)
    lower = points[points[column] < g[column]]
    share = float((lower["loss"] > g["loss"]).mean()) if len(lower) else 0.0
    return Verdict(
        claim,
        "5.3",
        f"of {len(points)} points of the plane {len(lower)} lie lower than the gradual solution; "
        f"{100 * share:.1f} % of them have a higher training loss (all of them should)",
        HOLDS if len(lower) and share == 1 else FAILS,
        n=1,
    )


def at(points: pd.DataFrame, alpha: float) -> pd.Series:
    """The row of a map at a point of the line through G and 1-S."""
    found = points[(points["alpha"] == alpha) & (points["beta"] == 0)]
    return found.iloc[0]


def by_layer(figures: Figures2to4, arm: str = "rewound") -> pd.DataFrame:
    """A row for each gradual run, quantity and layer: G, the mean and the interval of the one-shot
    networks, and what "G is higher" comes to. Columns: `lobster_seed`, `quantity`, `layer`, `G`,
    `one_shot`, `low`, `high`, `difference`, `verdict`."""
    neurons = figures.neurons
    rows = []
    if neurons.empty:
        return pd.DataFrame()
    total = neurons.groupby(["lobster_seed", "arm", "replica", "layer"], sort=False).agg(
        {"z2": "mean", **dict.fromkeys(ORDERS, "sum")}
    )
    for (seed, layer), group in total.groupby(["lobster_seed", "layer"], sort=False):
        for quantity in ("z2", *ORDERS):
            values = group[quantity].droplevel(["lobster_seed", "layer"])
            if arm not in values.index.get_level_values("arm"):
                continue
            shots, g = interval(values.loc[arm]), float(values.loc["lobster"].iloc[0])
            difference = interval(g - values.loc[arm])
            rows.append(
                {
                    "lobster_seed": seed,
                    "quantity": quantity,
                    "layer": layer,
                    "G": g,
                    "one_shot": shots.mean,
                    "low": shots.low,
                    "high": shots.high,
                    "difference": difference.mean,
                    "verdict": higher(difference),
                }
            )
    return pd.DataFrame(rows)


def signs(verdicts: Sequence[Verdict]) -> str:
    """What the three definitions of second order say together, in a sentence (Markdown)."""
    second = [v for v in verdicts if "second-order" in v.claim and v.verdict != NOT_RUN]
    if not second:
        return "The second-order entropies are not there yet."
    said = {v.claim.rpartition(": ")[2].rstrip("."): v.verdict for v in second}
    if len(set(said.values())) == 1:
        return f"The three definitions of second order agree: the claim **{second[0].verdict}**."
    each = "; ".join(f"by *{name}* it **{verdict}**" for name, verdict in said.items())
    return f"The claim on second order depends on the definition: {each}."
