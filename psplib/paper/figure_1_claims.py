"""What section 5.1 says of Fig. 1, as tests: of every panel, of single ones, of one against others.

The unit is a replica (a seed); differences are taken in pairs where arms share their seeds.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from psplib.paper.display import percent, verdict_label
from psplib.paper.figure_1 import Figure1, recovers
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
    welch,
)

HIGH_SPARSITY = 0.95
# "around 99.20 %" at 98 % sparsity. Over 10,000 test images 0.80 % has a standard error of 0.09
# points: an error of at most 0.90 % is "around" that or better.
AROUND, SPARSITY_B, ABOUT = 0.80, 0.98, 0.10
# "removing 80 % of the parameters already leads to performance degradation"
SPARSITY_C = 0.80
ARM = {"rewound": "rewound", "reinitialised": "re-initialised"}


def complete(arm: pd.DataFrame, points: list[int]) -> list[int]:
    """`points`, if the arm has all of them, else none: no claim is tested on whatever happens to be
    done."""
    return points if set(points) <= set(arm.index) else []


def common_claims(figure: Figure1) -> list[Verdict]:
    """The claims of section 5.1 that every panel is asked, with their verdicts.

    High compression is what lies above 95 % sparsity in Fig. 1a, as the paper says of that panel;
    in the others, of which it gives no such number, the last point of the gradual run.
    """
    unpruned = figure.errors("dense")
    dense = unpruned.loc[0] if len(unpruned) else pd.Series(dtype=float)
    rewound, reinitialised = figure.errors("rewound"), figure.errors("reinitialised")
    density, points = figure.densities, figure.planned
    arms = (("original", rewound), ("new random", reinitialised))
    recover = [_recovers(arm, dense, density, points[:1], label) for label, arm in arms]
    where, high = "At the highest compression", points[-1:]
    if figure.letter == "a":
        where = "Above 95 % sparsity"
        high = [p for p in points if density[p] < 1 - HIGH_SPARSITY]
    fail = [
        worse(
            f"{where}, retraining from {label} values fails to recover the dense error.",
            "retrained − dense is above zero at {}",
            [(p, interval((arm.loc[p] - dense).dropna())) for p in complete(arm, high)]
            if len(dense)
            else [],
            density,
        )
        for label, arm in arms
    ]
    reference = 100 * figure.gradual["test_error"]
    better = worse(
        f"{where}, gradual pruning has a lower error than one-shot rewinding.",
        "rewound − LOBSTER with the same mask is above zero at {}; one LOBSTER run",
        [(p, interval((rewound.loc[p] - reference[p]).dropna())) for p in complete(rewound, high)],
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
    dense, own = figure.errors("dense"), figure.gradual
    if dense.empty or own.empty:
        return ""
    control, start = float(dense.loc[0].mean()), 100 * float(own["test_error"].iloc[0])
    if control <= (1 + MARGIN) * start:
        return ""
    return (
        f"not to be decided in {figure.panel.title}: the dense network, trained as long as the "
        f"retrained ones, errs on {control:.2f} %, LOBSTER's before any pruning on {start:.2f} %"
    )


def _recovers(
    arm: pd.DataFrame, dense: pd.Series, density: pd.Series, first: list[int], label: str
) -> Verdict:
    claim = f"At low compression, retraining from {label} values recovers the dense error."
    if dense.empty or not complete(arm, first):
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
    both = complete(rewound, complete(reinitialised, points))
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


def panel_claims(figure: Figure1) -> list[Verdict]:
    """Every claim of section 5.1 on one panel, with its verdict: the common ones, then its own."""
    found = common_claims(figure)
    if figure.letter == "b":
        found += _still_99(figure)
    if figure.letter == "c":
        found += _already(figure)
    return found


def _first(figure: Figure1, arm: pd.DataFrame, sparsity: float) -> list[int]:
    """Of the points that are to be retrained from, the least sparse one that is at least so sparse,
    if the arm is there."""
    density = figure.densities
    enough = [p for p in figure.planned if 1 - density[p] > sparsity - 1e-9]
    return complete(arm, enough[:1])


def _still_99(figure: Figure1) -> list[Verdict]:
    """Accuracy at 98 % sparsity: of the networks that are retrained, and of LOBSTER itself."""
    claim = "With 98 % of its parameters pruned, the network {} has an accuracy of about 99.20 %."
    density = figure.densities
    found = []
    for arm, label in (("rewound", "original"), ("reinitialised", "new random")):
        errors = figure.errors(arm)
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
    density, dense = figure.densities, figure.errors("dense")
    found = []
    for arm, label in (("rewound", "original"), ("reinitialised", "new random")):
        errors = figure.errors(arm)
        found.append(
            worse(
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


def claims_across(panels: Sequence[Figure1]) -> list[Verdict]:
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
            panels,
            "d",
            "reinitialised",
            1,
        ),
        _extreme(
            "The gap between gradual and one-shot pruning is lowest for LeNet-5 on MNIST.",
            "5.2",
            panels,
            "b",
            "rewound",
            -1,
        ),
    ]


def _gap(figure: Figure1, arm: str) -> np.ndarray:
    """`arm` minus LOBSTER at the last point, in points, a value per replica; empty if not run."""
    errors = figure.errors(arm)
    last = complete(errors, figure.planned[-1:])
    if not last:
        return np.array([])
    reference = 100 * figure.gradual["test_error"][last[0]]
    return (errors.loc[last[0]].dropna() - reference).to_numpy(dtype=float)


def _extreme(
    claim: str, section: str, panels: Sequence[Figure1], letter: str, arm: str, sign: int
) -> Verdict:
    """The verdict on "the gap of a panel is the largest" (sign 1) or "the smallest" (-1);
    the largest gap must also be above zero."""
    gaps = {figure.letter: _gap(figure, arm) for figure in panels}
    missing = [n for n, gap in gaps.items() if not len(gap)]
    if missing:
        test = f"needs the last point of every panel, and that of {_letters(missing)} is not there"
        return Verdict(claim, section, test, NOT_RUN)
    own = gaps.pop(letter)
    differences = {n: welch(own, gap) if sign > 0 else welch(gap, own) for n, gap in gaps.items()}
    worst = min(differences, key=lambda n: differences[n].mean)
    verdicts = [higher(d) for d in differences.values()]
    if sign > 0:
        verdicts.append(higher(interval(own)))
    sparsest = ", ".join(
        f"{_letters(f.letter)} {percent(1 - f.densities.iloc[-1])}" for f in panels
    )
    of, minus = _letters(letter), _letters(gaps)
    if sign < 0:
        of, minus = minus, of
    test = (
        f"{ARM[arm]} − LOBSTER at the last point (sparsity: {sparsest}): that of {of} minus that "
        f"of {minus} is above zero{' in each case' if len(gaps) > 1 else ''}"
        f"{', and so is that of ' + of if sign > 0 else ''}; effect against {_letters(worst)}"
    )
    found = decided(claim, section, test, everywhere(verdicts), differences[worst])
    return reserved(found, "; ".join(filter(None, map(unequal, panels))))


def _letters(letters: Iterable[str]) -> str:
    return ", ".join(f"({letter})" for letter in letters)


def answer(panels: Sequence[Figure1]) -> Any:
    """The verdicts of all panels as one HTML table: a row for each claim, a column for each panel,
    a dash where the claim is not about that panel."""
    from IPython.display import HTML

    letters = [figure.letter for figure in panels]
    found: dict[str, dict[str, str]] = {}
    for letter, figure in zip(letters, panels, strict=True):
        for v in panel_claims(figure):
            found.setdefault(v.claim, {})[letter] = verdict_label(v.verdict)
    rows = {
        claim: "".join(f"<td>{labels.get(letter, '–')}</td>" for letter in letters)
        for claim, labels in found.items()
    }
    for v in claims_across(panels):
        label = verdict_label(v.verdict)
        rows[v.claim] = f'<td colspan="{len(letters)}">{label}, of all together</td>'
    head = "".join(f"<th>({letter})</th>" for letter in letters)
    body = "".join(f"<tr><td>{html.escape(c)}</td>{cells}</tr>" for c, cells in rows.items())
    return HTML(
        '<table class="psplib"><thead><tr><th>claim of the paper</th>'
        f"{head}</tr></thead>{body}</table>"
    )
