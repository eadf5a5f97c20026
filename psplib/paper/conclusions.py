"""Claims that no figure makes alone: of the other networks, of what sharpness explains, and of what
one-shot pruning costs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from psplib.core.config import read
from psplib.experiments.kinds import KINDS
from psplib.experiments.scales import PANELS
from psplib.paper.beyond import FigureBeyond
from psplib.paper.display import counted, percent, plus_minus
from psplib.paper.figure_1_claims import HIGH_SPARSITY
from psplib.paper.figure_2 import GENERALISES, LOWER_LOSS, NARROWER_ALL
from psplib.paper.figure_3 import LOWER_MAGNITUDE
from psplib.paper.figure_4 import COMPARABLE_FIRST, HIGHER_SECOND
from psplib.paper.minima import (
    Censuses,
    Comparison,
    Figures2to4,
    OfTheBetter,
    in_each,
    over_runs,
    runs_that_enter,
)
from psplib.paper.statistics import (
    MARGIN,
    NOT_RUN,
    UNDECIDED,
    Interval,
    Tested,
    Verdict,
    all_of,
    any_of,
    both_of,
    interval,
    is_above,
    is_at_most,
    is_correlated,
    reported,
    reserved,
)
from psplib.pruning.magnitude import Magnitude

# What the paper saw on LeNet-5 and MNIST, measured as its authors' tools measure it.
OBSERVED = (
    LOWER_LOSS,
    GENERALISES,
    NARROWER_ALL,
    LOWER_MAGNITUDE,
    COMPARABLE_FIRST,
    HIGHER_SECOND["agreement"],
)
BETTER_IS_LOWER = OfTheBetter(
    "The solution that generalises better has the lower PSP magnitudes.",
    "5.3",
    "mean z²",
    "z2",
    1,
    "×",
)
# Runs that a rank correlation needs.
FEWEST = 4
NOTHING = Interval(np.nan, np.nan, np.nan, 0)


def conclusions(figures: Figures2to4, beyond: FigureBeyond | None) -> dict[str, list[Verdict]]:
    """What sections 5.2 to 6 conclude, by the chapter that has the numbers; none has those of all
    networks."""
    return {
        "": [applies_elsewhere(figures)],
        "figure_2": [sharpness_explains(one) for one in figures.networks],
        "figure_3": in_each(BETTER_IS_LOWER, figures),
        "beyond_lobster": cost_of_one_shot(beyond),
    }


def applies_elsewhere(figures: Figures2to4) -> Verdict:
    """Of "what is seen in LeNet-5 on MNIST is seen in every other network of Fig. 1": each of
    `OBSERVED`, over gradual runs. A network with fewer than two, or with unequal chances, can
    neither confirm nor refute."""
    claim = (
        "What is observed on LeNet-5 and MNIST applies also to the other architectures and data "
        "sets."
    )
    others = [panel("paper", 0).title for panel in PANELS.values()]
    known = {one.title: one for one in figures.others if len(one.table)}
    if not known:
        return Verdict(claim, "5.2", "no other network has a census yet", NOT_RUN)
    tests: list[tuple[Tested, Comparison]] = []
    for title in (t for t in others if t != figures.title):
        for comparison in OBSERVED:
            test = _elsewhere(comparison, known.get(title), title)
            tests.append((test, comparison))
    found = all_of([test for test, _ in tests])
    units = {test.where: comparison.unit for test, comparison in tests}
    quantities = ", ".join(comparison.quantity for comparison in OBSERVED)
    words = (
        f"each of the observations, as the authors' tools measure them ({quantities}), holds over "
        f"the gradual runs of each other network of Fig. 1; {found.where} decides"
    )
    basis = "; ".join(runs_that_enter(LOWER_LOSS, one) for one in known.values())
    return reported(claim, "5.2", words, found, basis, units[found.where])


def _elsewhere(comparison: Comparison, censuses: Censuses | None, title: str) -> Tested:
    where = f"{comparison.quantity} in {title}"
    nothing = Tested(UNDECIDED, 1.0, NOTHING, f"{where}, of which there are too few runs,")
    if not censuses or censuses.unequal or len(comparison.measure(censuses)) < 2:
        return nothing
    found = comparison.in_unit(over_runs(comparison, censuses))
    return Tested(found.verdict, found.p, found.effect, where)


def sharpness_explains(censuses: Censuses) -> Verdict:
    """Of "sharpness explains why retraining fails", what must be true of it: the minima are
    narrower, and the more so, the larger the gap of test error, over gradual runs."""
    claim = (
        "The sharpness of the gradual minima explains why retraining fails to reach them "
        f"({censuses.title})."
    )
    sharper = {e.seed: float(e.values.mean()) for e in NARROWER_ALL.measure(censuses)}
    errors = {e.seed: float(e.values.mean()) for e in GENERALISES.measure(censuses)}
    gaps = [errors[seed] for seed in sharper]
    if len(sharper) < FEWEST:
        why = f"needs {FEWEST} gradual runs, and there are {len(sharper)}"
        return Verdict(claim, "5.2", why, NOT_RUN)
    narrower = NARROWER_ALL.in_unit(over_runs(NARROWER_ALL, censuses))
    tests = {
        "×": Tested(narrower.verdict, narrower.p, narrower.effect, "the eigenvalue decides"),
        "r": is_correlated(list(sharper.values()), gaps, "the correlation decides"),
    }
    found = both_of(list(tests.values()))
    test = (
        f"{NARROWER_ALL.test}; and over gradual runs the rank correlation of that factor with "
        f"{GENERALISES.quantity}, {GENERALISES.effect}, is above zero (necessary, not sufficient); "
        f"{found.where}"
    )
    unit = next(unit for unit, t in tests.items() if t.where == found.where)
    basis = runs_that_enter(NARROWER_ALL, censuses)
    return reserved(reported(claim, "5.2", test, found, basis, unit), censuses.unequal)


def cost_of_one_shot(figure: FigureBeyond | None) -> list[Verdict]:
    """Of "one-shot pruning reaches moderate sparsity at a lower cost", for each network.

    The paper's one-shot networks take their masks from the gradual run, whose cost theirs contains;
    here one-shot pruning by magnitude stands for them: a dense training and one retraining.
    """
    claim = "One-shot strategies reach moderate sparsity at a lower computational cost"
    if figure is None:
        why = "needs one-shot masks that no gradual run has made, and no such run is given"
        return [Verdict(f"{claim}.", "6", why, NOT_RUN)]
    return [
        _cost(f"{claim} ({rivals.title}).", figure, rivals.title, 2 * rivals.retrained.epochs)
        for rivals in figure.panel.networks
    ]


def _cost(claim: str, figure: FigureBeyond, network: str, epochs: int) -> Verdict:
    errors, runs = figure.errors(network, "magnitude"), figure.gradual(network)
    moderate = _moderate(figure, network)
    if errors.empty or not runs or not moderate:
        return Verdict(claim, "6", "", NOT_RUN)
    dense = errors.loc[0].dropna()
    tests: list[Tested] = []
    units: dict[str, str] = {}
    for point, sparsity in moderate.items():
        at = f"at {percent(sparsity)} sparsity"
        recovers = is_at_most(
            interval((errors.loc[point] - dense).dropna()), MARGIN * dense.mean(), f"error {at}"
        )
        factors = [epoch / epochs for epoch in _reached(figure, network, sparsity).values()]
        logs = is_above(interval(np.log(factors)), f"epochs {at}")
        mean, low, high = np.exp([logs.effect.mean, logs.effect.low, logs.effect.high]).tolist()
        cheaper = Tested(logs.verdict, logs.p, Interval(mean, low, high, logs.effect.n), logs.where)
        tests.append(both_of([recovers, cheaper]))
        units |= {recovers.where: "points", cheaper.where: "×"}
    found = any_of(tests)
    test = (
        f"at one of {counted(len(tests), 'point')} up to {percent(HIGH_SPARSITY, 0)} sparsity "
        f"(Bonferroni) magnitude pruning in one shot has at most {100 * MARGIN:.0f} % more error "
        f"than its dense network, and LOBSTER, by gradual run, takes more than its {epochs} epochs "
        f"to get there; {found.where} decides"
    )
    seeds = ", ".join(map(str, runs))
    basis = (
        f"{figure.panel.scale}, gradual run{'s' * (len(runs) > 1)} {seeds}, "
        f"{counted(len(dense), 'replica')} of magnitude pruning"
    )
    return reported(claim, "6", test, found, basis, units[found.where])


def _reached(figure: FigureBeyond, network: str, sparsity: float) -> dict[int, float]:
    """The epoch at which each gradual run has come so far, by its seed."""
    found = {}
    for seed, run in figure.gradual(network).items():
        epochs = run.loc[run["sparsity"] >= sparsity - 1e-9, "epoch"]
        if len(epochs):
            found[seed] = float(epochs.iloc[0])
    return found


def cost_table(figure: FigureBeyond) -> pd.DataFrame:
    """Epochs and minutes of one core to the moderate sparsities of `cost_of_one_shot`: of the
    gradual runs, and of one network pruned in one shot. Minutes are a share of what a whole run
    took, by its epochs; the first ones, dense, take longest, so that both are a little more."""
    minutes = {read(a.config, KINDS): a.provenance["seconds"] / 60 for a in figure.artefacts}
    rows = []
    for rivals in figure.panel.networks:
        network, gradual = rivals.title, figure.gradual(rivals.title)
        (one_shot,) = [
            minutes[m] / (len(m.replicas) * (1 + len(m.points)))
            for m in minutes
            if isinstance(m, Magnitude) and m.arm == "magnitude" and m.lobster in rivals.lobsters
        ] or [np.nan]
        an_epoch = {
            r.seed: minutes.get(r, np.nan) / gradual[r.seed]["epoch"].max()
            for r in rivals.lobsters
            if r.seed in gradual
        }
        for sparsity in _moderate(figure, network).values():
            reached = pd.Series(_reached(figure, network, sparsity), dtype=float)
            rows.append(
                {
                    "network": network,
                    "sparsity": percent(sparsity),
                    "epochs, gradual": plus_minus(reached, 0),
                    "epochs, one-shot": f"{2 * rivals.retrained.epochs}",
                    "minutes, gradual": plus_minus(reached * pd.Series(an_epoch), 1),
                    "minutes, one-shot": f"{2 * one_shot:.1f}",
                }
            )
    return pd.DataFrame(rows)


def _moderate(figure: FigureBeyond, network: str) -> dict[int, float]:
    """The sparsities of the points up to 95 % that magnitude pruning was retrained at."""
    rows = figure.rows(network, "magnitude")
    sparsities = rows[rows["point"] > 0].groupby("point")["sparsity"].first()
    return {int(p): float(s) for p, s in sparsities.items() if s <= HIGH_SPARSITY}
