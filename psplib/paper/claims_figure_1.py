"""What section 5.1 says of single panels of Fig. 1, and of one panel against the others, as tests.

What every panel is asked is in `claims.figure_1`, with the rules.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from psplib.paper import claims
from psplib.paper.display import percent
from psplib.paper.statistics import (
    NOT_RUN,
    Verdict,
    at_most,
    decided,
    everywhere,
    higher,
    interval,
    reserved,
    welch,
)
from psplib.paper.tables import Figure1

# "around 99.20 %" at 98 % sparsity. Over 10,000 test images 0.80 % has a standard error of 0.09
# points: an error of at most 0.90 % is "around" that or better.
AROUND, SPARSITY_B, ABOUT = 0.80, 0.98, 0.10
# "removing 80 % of the parameters already leads to performance degradation"
SPARSITY_C = 0.80
ARM = {"rewound": "rewound", "reinitialised": "re-initialised"}


def panel(figure: Figure1) -> list[Verdict]:
    """Every claim of section 5.1 on one panel, with its verdict: the common ones, then its own."""
    found = claims.figure_1(figure)
    if figure.panel.name == "figure_1b":
        found += _still_99(figure)
    if figure.panel.name == "figure_1c":
        found += _already(figure)
    return found


def _first(figure: Figure1, arm: pd.DataFrame, sparsity: float) -> list[int]:
    """Of the points that are to be retrained from, the least sparse one that is at least so sparse,
    if the arm is there."""
    density = claims.densities(figure)
    enough = [p for p in claims.planned(figure) if 1 - density[p] > sparsity - 1e-9]
    return claims.there(arm, enough[:1])


def _still_99(figure: Figure1) -> list[Verdict]:
    """Accuracy at 98 % sparsity: of the networks that are retrained, and of LOBSTER itself."""
    claim = "With 98 % of its parameters pruned, the network {} has an accuracy of about 99.20 %."
    density = claims.densities(figure)
    found = []
    for arm, label in (("rewound", "original"), ("reinitialised", "new random")):
        errors = claims.errors(figure, arm)
        points = _first(figure, errors, SPARSITY_B)
        found.append(
            _about(
                claim.format(f"retrained from {label} values"),
                f"({percent(1 - density[points[0]])})" if points else "",
                errors.loc[points[0]].dropna() if points else pd.Series(dtype=float),
            )
        )
    rows = figure.table[figure.table["arm"] == "lobster"].sort_values("point")
    rows = rows[rows["sparsity"] >= SPARSITY_B].groupby("lobster_seed").first()
    left = 100 * rows["test_error"]
    return [*found, _about(claim.format("that LOBSTER left"), "(n counts gradual runs)", left)]


def _about(claim: str, where: str, errors: pd.Series) -> Verdict:
    if not len(errors):
        return Verdict(claim, "5.1", "", NOT_RUN)
    excess = interval(errors - AROUND)
    test = (
        f"test error − {AROUND:.2f} is at most {ABOUT:.2f} points (a standard error of 10,000 "
        f"images) at the first point from 98 % up {where}"
    )
    return decided(claim, "5.1", test, at_most(excess, ABOUT), excess)


def _already(figure: Figure1) -> list[Verdict]:
    """Degradation where 80 % are removed."""
    density, dense = claims.densities(figure), claims.errors(figure, "dense")
    found = []
    for arm, label in (("rewound", "original"), ("reinitialised", "new random")):
        errors = claims.errors(figure, arm)
        found.append(
            claims.worse(
                f"Removing 80 % already degrades the network retrained from {label} values.",
                "retrained − dense is above zero at {}, the first point from 80 % up",
                [
                    (p, interval((errors.loc[p] - dense.loc[0]).dropna()))
                    for p in _first(figure, errors, SPARSITY_C)
                ]
                if len(dense)
                else [],
                density,
            )
        )
    return found


def across(figures: Sequence[Figure1]) -> list[Verdict]:
    """The claims that set one of the four panels against the three others.

    A gap is that of a retrained arm to LOBSTER with the same mask, at the highest compression of
    its panel, replica by replica. Panels share no seeds: the intervals of their differences are
    Welch's. The effect is the difference that is worst for the claim.
    """
    return [
        _extreme(
            "The gap becomes extremely evident where an even more complex network is "
            "re-initialised, ResNet-32 on CIFAR-10.",
            "5.1",
            figures,
            "figure_1d",
            "reinitialised",
            1,
        ),
        _extreme(
            "The gap between gradual and one-shot pruning is lowest for LeNet-5 on MNIST.",
            "5.2",
            figures,
            "figure_1b",
            "rewound",
            -1,
        ),
    ]


def _gap(figure: Figure1, arm: str) -> np.ndarray:
    """`arm` minus LOBSTER at the last point, in points, a value per replica; empty if not run."""
    errors = claims.errors(figure, arm)
    last = claims.there(errors, claims.planned(figure)[-1:])
    if not last:
        return np.array([])
    reference = 100 * claims.gradual(figure)["test_error"][last[0]]
    return (errors.loc[last[0]].dropna() - reference).to_numpy(dtype=float)


def _extreme(
    claim: str, section: str, figures: Sequence[Figure1], name: str, arm: str, sign: int
) -> Verdict:
    """The verdict on "the gap of the panel `name` is the largest" (sign 1) or "the smallest" (-1);
    the largest gap must also be above zero."""
    gaps = {figure.panel.name: _gap(figure, arm) for figure in figures}
    missing = [n for n, gap in gaps.items() if not len(gap)]
    if missing:
        test = f"needs the last point of every panel, and that of {_letters(missing)} is not there"
        return Verdict(claim, section, test, NOT_RUN)
    own = gaps.pop(name)
    differences = {n: welch(own, gap) if sign > 0 else welch(gap, own) for n, gap in gaps.items()}
    worst = min(differences, key=lambda n: differences[n].mean)
    verdicts = [higher(d) for d in differences.values()]
    if sign > 0:
        verdicts.append(higher(interval(own)))
    sparsest = ", ".join(
        f"{_letters([f.panel.name])} {percent(1 - claims.densities(f).iloc[-1])}" for f in figures
    )
    of, minus = _letters([name]), _letters(list(gaps))
    if sign < 0:
        of, minus = minus, of
    test = (
        f"{ARM[arm]} − LOBSTER at the last point (sparsity: {sparsest}): that of {of} minus that "
        f"of {minus} is above zero{' in each case' if len(gaps) > 1 else ''}"
        f"{', and so is that of ' + of if sign > 0 else ''}; effect against {_letters([worst])}"
    )
    found = decided(claim, section, test, everywhere(verdicts), differences[worst])
    return reserved(found, "; ".join(filter(None, map(claims.unequal, figures))))


def _letters(names: Sequence[str]) -> str:
    return ", ".join(f"({name[-1]})" for name in names)
