"""What section 5.1 says of Fig. 1, as tests: of every panel, of single ones, of one against others.

Claims that set gradual against one-shot networks have the gradual run as their unit: one difference
a run. Claims about one mask have its replicas, and say so in their words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from psplib.paper.display import counted, percent, ranges
from psplib.paper.figure_1 import Figure1
from psplib.paper.statistics import (
    MARGIN,
    NOT_RUN,
    Tested,
    Verdict,
    all_of,
    any_of,
    interval,
    is_above,
    is_at_most,
    is_comparable,
    reported,
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
VALUES = {"rewound": "original", "reinitialised": "new random"}
STRUCTURES = {"restructured-layer": "layer by layer", "restructured-global": "global"}


def complete(arm: pd.DataFrame, points: list[int]) -> list[int]:
    """`points`, if the arm has all of them, else none: no claim is tested on whatever happens to be
    done."""
    return points if set(points) <= set(arm.index) else []


def panel_claims(figure: Figure1) -> list[Verdict]:
    """Every claim of section 5.1 on one panel, with its verdict: the common ones, then its own."""
    own = {"a": _strives, "b": _still_99, "c": _already}.get(figure.letter)
    found = [
        *(_recovers(figure, arm) for arm in VALUES),
        _gradual_is_better(figure),
        *_initial_values(figure),
        *(_structure_matters(figure, arm) for arm in STRUCTURES),
        *(own(figure) if own else []),
    ]
    return [reserved(v, part_of_the_data(figure)) for v in found]


def part_of_the_data(figure: Figure1) -> str:
    """Why nothing is said of a panel that saw a part of its data set only, if so."""
    samples = figure.panel.lobsters[0].samples
    if not samples:
        return ""
    return f"({figure.letter}) saw {samples:,} images: a rule that was made after its numbers"


def unequal(figure: Figure1) -> str:
    """Why LOBSTER and the retrained arms of a panel cannot be set against each other, if so.

    The dense network is trained as long as they are. Where its error is higher by more than the
    margin than that of LOBSTER's network before its first pruning, their training was too short;
    where LOBSTER's lowest error of all points is higher than that of the dense network by more than
    the margin, LOBSTER's was. A gap would be that of the budgets.
    """
    dense, own = figure.errors("dense"), figure.gradual
    if dense.empty or own.empty:
        return ""
    control, start = float(dense.loc[0].mean()), 100 * float(own["test_error"].iloc[0])
    lowest = 100 * float(own["test_error"].min())
    if control > (1 + MARGIN) * start:
        theirs = f"LOBSTER's before any pruning {start:.2f} %"
    elif lowest > (1 + MARGIN) * control:
        theirs = f"LOBSTER's at its best point {lowest:.2f} %"
    else:
        return ""
    return (
        f"in {figure.panel.title} the dense network, trained as long as the retrained ones, has a "
        f"test error of {control:.2f} %, {theirs}"
    )


def _high(figure: Figure1) -> tuple[str, list[int]]:
    """High compression in words, and its points: above 95 % in Fig. 1a, as the paper says of it; in
    the others, of which it gives no number, the last point."""
    if figure.letter == "a":
        return "Above 95 % sparsity", [p for p in figure.planned if _sparse(figure, p)]
    return "At the highest compression", figure.planned[-1:]


def _sparse(figure: Figure1, point: int) -> bool:
    return bool(figure.densities[point] < 1 - HIGH_SPARSITY)


def _first(figure: Figure1, sparsity: float) -> list[int]:
    """Of the points that are to be retrained from, the least sparse one that is so sparse."""
    return [p for p in figure.planned if 1 - figure.densities[p] > sparsity - 1e-9][:1]


def _at(figure: Figure1, point: int) -> str:
    return f"{percent(1 - figure.densities[point])} sparsity"


def _one_mask(figure: Figure1) -> str:
    """The runs that enter a claim about one gradual run's masks."""
    replicas = counted(len(figure.panel.retrained.replicas), "replica")
    return f"masks of gradual run {figure.panel.lobsters[0].seed}, {replicas}"


def _against_dense(figure: Figure1, arm: str, points: list[int]) -> list[tuple[int, pd.Series]]:
    """Retrained minus dense, replica by replica in points, at each of `points`; none unless all are
    there."""
    dense, errors = figure.errors("dense"), figure.errors(arm)
    if dense.empty:
        return []
    return [(p, (errors.loc[p] - dense.loc[0]).dropna()) for p in complete(errors, points)]


def _worse_than_dense(figure: Figure1, arm: str, points: list[int]) -> list[Tested]:
    where = f"{VALUES[arm]} values, {{}}"
    return [
        is_above(interval(gap), where.format(_at(figure, p)))
        for p, gap in _against_dense(figure, arm, points)
    ]


def _recovers(figure: Figure1, arm: str) -> Verdict:
    """Existential: somewhere up to 95 % sparsity retraining comes back."""
    claim = (
        f"There is a low compression regime in which retraining from {VALUES[arm]} values recovers "
        "the dense error."
    )
    points = [p for p in figure.planned if not _sparse(figure, p)] or figure.planned[:1]
    gaps = _against_dense(figure, arm, points)
    if not gaps:
        return Verdict(claim, "5.1", "", NOT_RUN)
    margin = MARGIN * figure.errors("dense").loc[0].mean()
    best = any_of([is_at_most(interval(gap), margin, _at(figure, p)) for p, gap in gaps])
    test = (
        f"retrained − dense is at most {margin:.2f} points (5 % of the dense error) at one of "
        f"{counted(len(gaps), 'point')} up to 95 % sparsity (Bonferroni); effect at {best.where}"
    )
    return reported(claim, "5.1", test, best, _one_mask(figure))


def _gradual_is_better(figure: Figure1) -> Verdict:
    """The unit is the gradual run: the mean of its replicas minus its own error."""
    where = _high(figure)[0]
    claim = f"{where}, gradual pruning has a lower error than one-shot rewinding."
    gaps = run_gaps(figure, "rewound")
    if gaps.empty:
        return Verdict(claim, "5.1", "", NOT_RUN)
    found = is_above(interval(gaps))
    which = "its points above 95 % sparsity" if figure.letter == "a" else "its last point"
    test = (
        "rewound (mean of replicas) − LOBSTER with the same mask, one difference a gradual run, "
        f"mean over {which}, is above zero"
    )
    if found.effect.n == 1:
        test += "; one run has no interval"
    basis = f"gradual run{'s' * (len(gaps) > 1)} {ranges(list(gaps.index))}"
    why = unequal(figure) or figure.chances
    return reserved(reported(claim, "5.1", test, found, basis), why)


def run_gaps(figure: Figure1, arm: str) -> pd.Series:
    """For each gradual run that an arm is retrained from, by its seed: the arm's mean minus the
    gradual network with the same mask, in points, averaged over the run's own points of high
    compression (`_high`; points of different runs have different sparsities). No run whose last
    point is missing; of the panel's own run no planned point may be missing."""
    table = pd.concat([figure.table, figure.replicated]).dropna(subset=["point"])
    keys = ["lobster_seed", "point"]
    own = table[table["arm"] == "lobster"].drop_duplicates(keys).set_index(keys).sort_index()
    if own.empty or not complete(figure.errors(arm), _high(figure)[1]):
        return pd.Series(dtype=float)
    arms = table[table["arm"] == arm].drop_duplicates([*keys, "replica"])
    gap = (100 * (arms.groupby(keys)["test_error"].mean() - own["test_error"])).dropna()
    found = {}
    for seed, points in gap.groupby("lobster_seed"):
        points = points.droplevel("lobster_seed")
        sparsity = own.loc[seed, "sparsity"]
        last = sparsity.index[-1]
        if last not in points.index:
            continue
        is_high = sparsity[points.index] > HIGH_SPARSITY
        found[seed] = points[is_high].mean() if figure.letter == "a" else points[last]
    return pd.Series(found, dtype=float)


def _initial_values(figure: Figure1) -> list[Verdict]:
    minor = "The gap between original and random initial values is minor."
    better = "The original values are slightly better than random ones."
    gap, where, mean = _difference(figure, "reinitialised", "rewound")
    if gap.empty:
        return [Verdict(claim, "5.1", "", NOT_RUN) for claim in (minor, better)]
    margin, where = MARGIN * mean, f"random − original, {where}"
    within = is_comparable(interval(gap), margin)
    test = f"{where}, lies within ±{margin:.2f} points (5 % of the mean error)"
    above = is_above(interval(gap))
    return [
        reported(minor, "5.1", test, within, _one_mask(figure)),
        reported(better, "5.1", f"{where}, is above zero", above, _one_mask(figure)),
    ]


def _difference(figure: Figure1, worse: str, better: str) -> tuple[pd.Series, str, float]:
    """Two arms' difference replica by replica, averaged over the points that are planned; in words;
    the better arm's mean error. Empty unless both have them all."""
    a, b = figure.errors(worse), figure.errors(better)
    both = complete(b, complete(a, figure.planned))
    if not both:
        return pd.Series(dtype=float), "", np.nan
    where = f"mean over {len(both)} points" if len(both) > 1 else "at the only point"
    return (a.loc[both] - b.loc[both]).mean().dropna(), where, float(b.loc[both].to_numpy().mean())


def _structure_matters(figure: Figure1, arm: str) -> Verdict:
    """The paper's third experiment."""
    claim = f"The structure matters: a random one, {STRUCTURES[arm]}, has a higher error."
    gap, where, _ = _difference(figure, arm, "reinitialised")
    if gap.empty:
        return Verdict(claim, "5.1", "", NOT_RUN)
    test = f"random structure − re-initialised with LOBSTER's mask, {where}, is above zero"
    basis = f"{_one_mask(figure)}, each another structure"
    return reported(claim, "5.1", test, is_above(interval(gap)), basis)


def _strives(figure: Figure1) -> list[Verdict]:
    """What is said of LeNet-300 above 95 %."""
    claim = "Above 95 % sparsity, retraining no longer reaches the dense error."
    points = _high(figure)[1]
    tests = [_worse_than_dense(figure, arm, points) for arm in VALUES]
    if not all(tests):
        return [Verdict(claim, "5.1", "", NOT_RUN)]
    found = all_of([t for one in tests for t in one])
    test = (
        f"retrained − dense is above zero at each of {len(points)} points, from original and from "
        f"new random values; effect: {found.where}"
    )
    return [reported(claim, "5.1", test, found, _one_mask(figure))]


def _still_99(figure: Figure1) -> list[Verdict]:
    """Accuracy at 98 % sparsity: of the networks that are retrained, and of LOBSTER itself."""
    claim = "With 98 % of its parameters pruned, the network {} has an accuracy of about 99.20 %."
    found = []
    for arm, label in VALUES.items():
        errors = figure.errors(arm)
        points = complete(errors, _first(figure, SPARSITY_B))
        values = errors.loc[points[0]].dropna() if points else pd.Series(dtype=float)
        where = f" ({_at(figure, points[0])})" if points else ""
        named = claim.format(f"retrained from {label} values")
        found.append(_about(named, where, values, _one_mask(figure)))
    rows = figure.runs.sort_values("point")
    left = 100 * rows[rows["sparsity"] >= SPARSITY_B].groupby("lobster_seed").first()["test_error"]
    basis = f"gradual run{'s' * (len(left) > 1)} {ranges(list(left.index))}"
    return [*found, _about(claim.format("that LOBSTER left"), "", left, basis)]


def _about(claim: str, where: str, errors: pd.Series, basis: str) -> Verdict:
    if not len(errors):
        return Verdict(claim, "5.1", "", NOT_RUN)
    test = (
        f"test error − {AROUND:.2f} is at most {ABOUT:.2f} points (a standard error of 10,000 "
        f"images) at the first point from 98 % up{where}"
    )
    return reported(claim, "5.1", test, is_at_most(interval(errors - AROUND), ABOUT), basis)


def _already(figure: Figure1) -> list[Verdict]:
    """Degradation where 80 % are removed."""
    found = []
    for arm, label in VALUES.items():
        claim = f"Removing 80 % already degrades the network retrained from {label} values."
        tests = _worse_than_dense(figure, arm, _first(figure, SPARSITY_C))
        if not tests:
            found.append(Verdict(claim, "5.1", "", NOT_RUN))
            continue
        at = tests[0].where.partition(", ")[2]
        test = f"retrained − dense is above zero at {at}, the first point from 80 % up"
        found.append(reported(claim, "5.1", test, tests[0], _one_mask(figure)))
    return found


def claims_across(panels: Sequence[Figure1]) -> list[Verdict]:
    """The claims that are made of all panels together, or set one of them against the others.

    A gap is that of a retrained arm to LOBSTER with the same mask, at the highest compression of
    its panel, replica by replica: of one mask each. Panels share no seeds: the intervals of their
    differences are Welch's.
    """
    resnet = (
        "The gap becomes extremely evident where an even more complex network is re-initialised, "
        "ResNet-32 on CIFAR-10 (one mask a panel)."
    )
    lowest = (
        "The gap between gradual and one-shot pruning is lowest for LeNet-5 on MNIST (one mask a "
        "panel)."
    )
    whole = [f for f in panels if not part_of_the_data(f)]
    left_out = "; ".join(filter(None, map(part_of_the_data, panels)))
    short = "; ".join(filter(None, (part_of_the_data(f) or unequal(f) for f in panels)))
    return [
        _noted(_fail(whole), left_out),
        reserved(_extreme(resnet, "5.1", panels, "d", "reinitialised", 1), short),
        reserved(_extreme(lowest, "5.2", panels, "b", "rewound", -1), short),
        _noted(reserved(_limit(whole), "; ".join(filter(None, map(unequal, whole)))), left_out),
    ]


def _noted(verdict: Verdict, left_out: str) -> Verdict:
    if not left_out or verdict.verdict == NOT_RUN:
        return verdict
    return replace(verdict, test=f"{verdict.test}; left out: {left_out}")


def _missing(panels: Sequence[Figure1], arms: Iterable[str]) -> str:
    if not panels:
        return "needs a panel that is trained on the whole of its data"
    gone = [
        f.letter
        for f in panels
        if f.errors("dense").empty
        or not all(complete(f.errors(arm), f.planned[-1:]) for arm in arms)
    ]
    return (
        f"needs the last point of every panel, and that of {_letters(gone)} is not there"
        if gone
        else ""
    )


def _masks(panels: Sequence[Figure1]) -> str:
    return "; ".join(f"({f.letter}) {f.panel.scale}, {_one_mask(f)}" for f in panels)


def _fail(panels: Sequence[Figure1]) -> Verdict:
    claim = "From original and from random values, retraining fails at high compression rates."
    if gone := _missing(panels, VALUES):
        return Verdict(claim, "5.1", gone, NOT_RUN)
    tests = [
        Tested(t.verdict, t.p, t.effect, f"({f.letter}) {t.where}")
        for f in panels
        for arm in VALUES
        for t in _worse_than_dense(f, arm, f.planned[-1:])
    ]
    found = all_of(tests)
    test = (
        "retrained − dense is above zero at the last point of each panel, of both arms; effect: "
        f"{found.where}"
    )
    return reported(claim, "5.1", test, found, _masks(panels))


def _limit(panels: Sequence[Figure1]) -> Verdict:
    """Both: one-shot has lost the dense error at the last points, gradual pruning has not."""
    claim = (
        "There is a limit to the sparsity of one-shot pruning, and gradual pruning overcomes it."
    )
    if gone := _missing(panels, ["rewound"]):
        return Verdict(claim, "6", gone, NOT_RUN)
    tests = []
    for f in panels:
        dense = f.errors("dense").loc[0].dropna()
        margin = MARGIN * dense.mean()
        ((_, gap),) = _against_dense(f, "rewound", f.planned[-1:])
        one_shot = is_above(interval(gap), f"({f.letter}) one-shot", margin)
        ends = 100 * f.runs.sort_values("point").groupby("lobster_seed").last()["test_error"]
        gradual = interval(ends - dense.mean())
        tests += [one_shot, is_at_most(gradual, margin, f"({f.letter}) gradual, by run")]
    found = all_of(tests)
    test = (
        "at the last point of each panel rewound − dense is above 5 % of the dense error, and "
        f"LOBSTER − dense, over gradual runs, at most that; effect: {found.where}"
    )
    return reported(claim, "6", test, found, f"{_masks(panels)}; all gradual runs")


def _gap(figure: Figure1, arm: str) -> np.ndarray:
    """`arm` minus LOBSTER at the last point, in points, a value per replica."""
    last = figure.planned[-1]
    reference = 100 * figure.gradual["test_error"][last]
    return (figure.errors(arm).loc[last].dropna() - reference).to_numpy(dtype=float)


def _extreme(
    claim: str, section: str, panels: Sequence[Figure1], letter: str, arm: str, sign: int
) -> Verdict:
    """The verdict on "the gap of a panel is the largest" (sign 1) or "the smallest" (-1); the
    largest gap must also be above zero."""
    if gone := _missing(panels, [arm]):
        return Verdict(claim, section, gone, NOT_RUN)
    gaps = {figure.letter: _gap(figure, arm) for figure in panels}
    own = gaps.pop(letter)
    tests = [
        is_above(welch(own, g) if sign > 0 else welch(g, own), f"({n})") for n, g in gaps.items()
    ]
    if sign > 0:
        tests.append(is_above(interval(own), "zero"))
    found = all_of(tests)
    sparsest = ", ".join(f"({f.letter}) {percent(1 - f.densities.iloc[-1])}" for f in panels)
    of, minus = _letters(letter), _letters(gaps)
    if sign < 0:
        of, minus = minus, of
    test = (
        f"{ARM[arm]} − LOBSTER at the last point (sparsity: {sparsest}): that of {of} minus that "
        f"of {minus} is above zero in each case"
        f"{', and so is that of ' + of if sign > 0 else ''}; effect against {found.where}"
    )
    return reported(claim, section, test, found, _masks(panels))


def _letters(letters: Iterable[str]) -> str:
    return ", ".join(f"({letter})" for letter in letters)


def all_claims(panels: Sequence[Figure1]) -> list[Verdict]:
    """The claims on each panel, with its title and scale, and those on all together."""
    found = [
        replace(
            v, claim=f"{v.claim} ({figure.panel.title})", basis=f"{figure.panel.scale}, {v.basis}"
        )
        for figure in panels
        for v in panel_claims(figure)
    ]
    return [*found, *claims_across(panels)]


# The chapter's first sentence, see `display.in_one_sentence`.
ANSWER = {
    "gradual pruning has a lower error than one-shot rewinding": "gradual pruning has the lower "
    "test error at high sparsity",
    "gap between original and random initial values": "it hardly matters which initial values the "
    "survivors are trained from",
    "retraining fails at high compression rates": "retraining fails at high compression",
}
