"""Learning by PSP-entropy: do features transfer better where their entropy is kept?

Registered before any of these runs was there: if the paper is right, transfer rises with gamma at
equal source error. The gamma of a claim is the largest whose mean validation error is at most 1.05
times that of gamma 0; the unit is a replica, the same initial values and order for every gamma.
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from psplib.experiments.entropy_learning import EntropyLearning, Learning
from psplib.paper.display import NOT_THERE, counted, plus_minus, unbroken
from psplib.paper.statistics import (
    FAILS,
    HOLDS,
    NOT_RUN,
    UNDECIDED,
    Tested,
    Verdict,
    interval,
    is_above,
    reported,
)
from psplib.paper.style import STYLE
from psplib.paper.tables import divide, together
from psplib.paper.transfer import SMALLEST, is_worthwhile
from psplib.runs.run import Run
from psplib.runs.store import Artefact, Store

WORSE = 1.05  # validation error of a claim's gamma, at most times that of gamma 0
QUANTITIES = {
    "test_error": ("test error on the source [%]", 100),
    "first": ("first-order entropy [bits]", 1),
    "joint": ("joint entropy [bits]", 1),
    "mutual": ("mutual information of pairs [bits]", 1),
    "probe_error": ("probe error on the targets [%]", 100),
}
LOOKS = {
    "classes": ("#0072B2", "o", "given the class"),
    "permuted": ("#D55E00", "s", "given shuffled classes"),
    "none": ("#009E73", "^", "unconditional"),
}
COLUMNS = ("gamma", "labels", "point", "replica", "validation_error", *QUANTITIES)


@dataclass(frozen=True)
class FigureLearning:
    """What the chapter on learning by entropy is made of.

    `table`: a row for each replica of each `gamma`, `labels` and `point` (0 is dense), see
    `EntropyLearning.analyse`; `probe_error` is the mean over targets. `missing` and `artefacts` as
    in `Figure1`.
    """

    panel: Learning
    table: pd.DataFrame
    missing: tuple[Run, ...]
    artefacts: tuple[Artefact, ...]

    @classmethod
    def collect(cls, panel: Learning, store: Store) -> FigureLearning:
        """The table from the runs that a store has."""
        done, missing = divide(panel, store)
        frames = [c.tables(a)["learnt"] for c, a in done.items() if isinstance(c, EntropyLearning)]
        table = together(frames, COLUMNS)
        return cls(panel, table[list(COLUMNS)], missing, tuple(done.values()))

    @property
    def seeds(self) -> str:
        """How many replicas there are of each gamma."""
        return counted(len(self.panel.template.replicas), "replica")

    def values(self, quantity: str, labels: str = "classes", dense: bool = True) -> pd.DataFrame:
        """A quantity: a row for each gamma, a column for each replica. Gamma 0, which knows no
        labels, is among those of all."""
        t = self.table[(self.table["point"] == 0) == dense]
        t = t[(t["labels"] == labels) | (t["gamma"] == 0)]
        return t.pivot(index="gamma", columns="replica", values=quantity).sort_index()


def chosen(figure: FigureLearning, dense: bool = True) -> float | None:
    """The gamma of the claims: the largest above zero whose mean validation error is at most
    `WORSE` times that of gamma 0; None if there is none."""
    errors = figure.values("validation_error", dense=dense).mean(axis=1)
    if 0.0 not in errors.index:
        return None
    good = [g for g in errors.index if g > 0 and errors[g] <= WORSE * errors[0.0]]
    return float(max(good)) if good else None


def learning_claims(figure: FigureLearning) -> list[Verdict]:
    """The registered prediction, dense and under a rewound mask; its decisive control; and whether
    what was rewarded rose at all."""
    at = "at the largest gamma of equal validation error"
    claims = (
        f"Learning to keep PSP-entropy makes features more general: transfer is better {at} "
        "(dense).",
        f"It is the classes that matter: transfer is better {at} than where they are shuffled in "
        "the penalty (dense).",
        f"Learning to keep PSP-entropy raises it {at} (dense).",
        f"Learning to keep PSP-entropy makes features more general: transfer is better {at} "
        "(rewound mask).",
        f"It is the entropy given the class: transfer is better {at} than where the unconditional "
        "one is rewarded (dense).",
        "Holding PSP-entropy down makes features less general: transfer is worse where that gamma "
        "is negative (dense).",
    )
    gamma, sparse = chosen(figure), chosen(figure, dense=False)
    probes = {dense: 100 * figure.values("probe_error", dense=dense) for dense in (True, False)}
    controls = {1: ("permuted", "shuffled − classes"), 4: ("none", "unconditional − classes")}
    bits = figure.values("first")
    found: list[tuple[Tested, str, str] | None] = [None] * len(claims)
    if gamma is not None:
        gap = (probes[True].loc[0.0] - probes[True].loc[gamma]).dropna()
        found[0] = is_worthwhile(interval(gap)), _test("gamma 0 − it", gamma), "points"
        rise = (bits.loc[gamma] - bits.loc[0.0]).dropna()
        test = f"first-order entropy, gamma {gamma:g} − gamma 0, replica by replica, is above zero"
        found[2] = is_above(interval(rise)), test, "bits"
        if -gamma in probes[True].index:
            gap = (probes[True].loc[-gamma] - probes[True].loc[0.0]).dropna()
            test = _test("it − gamma 0", -gamma)
            found[5] = is_worthwhile(interval(gap)), test, "points"
        for place, (labels, what) in controls.items():
            theirs = 100 * figure.values("probe_error", labels)
            if gamma in theirs.index:
                gap = (theirs.loc[gamma] - probes[True].loc[gamma]).dropna()
                found[place] = is_worthwhile(interval(gap)), _test(what, gamma), "points"
    if sparse is not None:
        gap = (probes[False].loc[0.0] - probes[False].loc[sparse]).dropna()
        found[3] = is_worthwhile(interval(gap)), _test("gamma 0 − it", sparse), "points"
    return [
        Verdict(claim, "6", "", UNDECIDED if _is_barred(figure, k != 3) else NOT_RUN)
        if one is None
        else reported(claim, "6", one[1], one[0], f"{figure.panel.scale}, {figure.seeds}", one[2])
        for k, (claim, one) in enumerate(zip(claims, found, strict=True))
    ]


def _is_barred(figure: FigureLearning, dense: bool) -> bool:
    """Whether every gamma above zero was run and costs accuracy."""
    run = set(figure.values("validation_error", dense=dense).index)
    return {g for g in figure.panel.gammas if g >= 0} <= run and chosen(figure, dense) is None


def _test(what: str, gamma: float) -> str:
    return (
        f"probe error, mean over targets, {what}, at gamma {gamma:g}, replica by replica, is above "
        f"zero and at least {SMALLEST} points"
    )


def learning_answer(figure: FigureLearning) -> str:
    """The chapter's first sentences (Markdown)."""
    gamma = chosen(figure)
    if gamma is None:
        return NOT_THERE
    first = learning_claims(figure)[0]
    word = {HOLDS: "**Yes**", FAILS: "**No**"}.get(first.verdict, "**Undecided**")
    errors = figure.values("probe_error")
    gap = 100 * (errors.loc[0.0] - errors.loc[gamma])
    bits = figure.values("first")
    rise = bits.loc[gamma] - bits.loc[0.0]
    return unbroken(
        f"{word}, in the dense network: with gamma {gamma:g}, the largest that costs no accuracy, "
        f"first-order entropy changes by {plus_minus(rise)} bits, and the probe error falls by "
        f"{plus_minus(gap)} points ({counted(len(gap), 'replica')})."
    )


def plot_learning(figure: FigureLearning) -> Figure | None:
    """Error, entropies and transfer of the dense network against gamma, for each kind of labels:
    means with 95 % intervals, single replicas faint. None without runs."""
    if figure.values("test_error").empty:
        return None
    gammas = sorted(figure.panel.gammas)
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(1, len(QUANTITIES), figsize=(11, 3.4), layout="constrained")
        for ax, (quantity, (name, factor)) in zip(axes, QUANTITIES.items(), strict=True):
            for labels, (color, marker, label) in LOOKS.items():
                values = factor * figure.values(quantity, labels)
                places = np.array([gammas.index(g) for g in values.index])
                found = [interval(row.dropna()) for _, row in values.iterrows()]
                ax.plot(places, values, marker, ms=2.5, color=color, alpha=0.35, mew=0)
                half = [i.high - i.mean if i.n > 1 else 0.0 for i in found]
                means = [i.mean for i in found]
                ax.errorbar(places, means, half, color=color, marker=marker, ms=4, label=label)
            ax.set_xticks(range(len(gammas)), [f"{g:g}" for g in gammas], fontsize=7)
            ax.set_title(name, fontsize=8)
            ax.set_xlabel("gamma", fontsize=8)
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
        plt.close(fig)
    return fig


def by_gamma(figure: FigureLearning) -> pd.DataFrame:
    """Every quantity by network, labels and gamma: mean with half of the 95 % interval."""
    rows = []
    for (point, labels, gamma), its in figure.table.groupby(["point", "labels", "gamma"]):
        row = {
            "network": "rewound mask" if point else "dense",
            "entropy": LOOKS[labels][2],
            "gamma": f"{gamma:g}",
        }
        for quantity, (name, factor) in QUANTITIES.items():
            row[name] = plus_minus(factor * its[quantity], 2 if factor > 1 else 3)
        rows.append(row)
    return pd.DataFrame(rows)
