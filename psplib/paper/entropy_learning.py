"""Learning by PSP-entropy: do features transfer better where their entropy is kept?

Registered before any of these runs was there: if the paper is right, transfer rises with gamma at
equal source error. The gamma of a claim is the largest whose mean validation error is at most 1.05
times that of gamma 0; the unit is a replica, the same initial values and order for every gamma, or,
of LOBSTER, a gradual run.
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from psplib.experiments.designs import Learning
from psplib.experiments.entropy_learning import MEASURED, EntropyLearning
from psplib.experiments.transfer import Transfer
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
    reserved,
)
from psplib.paper.style import STYLE
from psplib.paper.tables import divide, together
from psplib.paper.transfer import LAYERS, SMALLEST, is_worthwhile
from psplib.runs.run import Run
from psplib.runs.store import Artefact, Store

WORSE = 1.05  # validation error of a claim's gamma, at most times that of gamma 0
QUANTITIES = {
    "test_error": ("test error on the source [%]", 100),
    "first": ("first-order entropy [bits]", 1),
    "joint": ("joint entropy [bits]", 1),
    "mutual": ("mutual information of pairs [millibits]", 1000),
    "probe_error": ("probe error on the targets [%]", 100),
}
# What is drawn of them; the others can be looked up.
DRAWN = ("test_error", "first", "probe_error")
# What `MEASURED` says, where it was.
FURTHER = {
    "information": ("I(state; class) [bits]", 1),
    "selectivity": ("class selectivity", 1),
    "narrow": ("λ₁", 1),
    "narrow_global": ("λ₁ · ‖θ‖²", 1),
    "narrow_relative": ("λmax of |w|·H·|w|", 1),
}
LOOKS = {
    "classes": ("#0072B2", "o", "given the class"),
    "permuted": ("#D55E00", "s", "given shuffled classes"),
    "none": ("#009E73", "^", "unconditional"),
}
KEY = ("network", "gamma", "labels", "replica")
COLUMNS = (*KEY, "validation_error", *QUANTITIES, *MEASURED)


@dataclass(frozen=True)
class FigureLearning:
    """What the chapter on learning by entropy is made of.

    `table`: a row for each replica of each `network` (its title; a rewound mask says so), `gamma`
    and kind of `labels`, see `EntropyLearning.analyse`; `probe_error` is the mean over targets. Of
    LOBSTER the replica is the seed of a gradual run, and the network G at its last point. `missing`
    and `artefacts` as in `Figure1`.
    """

    panel: Learning
    table: pd.DataFrame
    missing: tuple[Run, ...]
    artefacts: tuple[Artefact, ...]

    @classmethod
    def collect(cls, panel: Learning, store: Store) -> FigureLearning:
        """The table from the runs that a store has."""
        done, missing = divide(panel, store)
        frames = []
        for learner in panel.networks:
            for config in learner.runs(store):
                if isinstance(config, EntropyLearning) and config in done:
                    name = _rewound(learner.title) if config.point else learner.title
                    frames.append(config.tables(done[config])["learnt"].assign(network=name))
        (source,) = panel.gradual.networks
        for config in panel.gradual.runs(store):
            if isinstance(config, Transfer) and config.retraining.point and config in done:
                row = _gradual(config, done[config], store)
                frames.append(row.assign(network=source.title))
        table = together(frames, COLUMNS).reindex(columns=list(COLUMNS))
        # Networks that were measured were trained twice, to the same bits: the fuller row stays.
        fuller = table.sort_values(MEASURED[0], kind="stable").drop_duplicates(list(KEY))
        return cls(panel, fuller.sort_index(), missing, tuple(done.values()))

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that learn, in the order of the chapter."""
        found = [
            name
            for n in self.panel.networks
            for name in (n.title, *([_rewound(n.title)] if n.rewinds else []))
        ]
        return tuple(dict.fromkeys([*found, self.panel.gradual.networks[0].title]))

    @property
    def seeds(self) -> str:
        """How many replicas there are of each gamma."""
        return counted(len(self.panel.networks[0].template.replicas), "replica")

    def cases(self, network: str) -> set[tuple[float, str]]:
        """The gammas and kinds of labels that a network is asked for."""
        (source,) = self.panel.gradual.networks
        if network == source.title:
            return {(run.gamma, "classes") for run in source.lobsters}
        own = [n for n in self.panel.networks if network in (n.title, _rewound(n.title))]
        return {c for n in own for c in n.cases if network == n.title or c[1] == "classes"}

    def values(self, quantity: str, network: str, labels: str = "classes") -> pd.DataFrame:
        """A quantity: a row for each gamma, a column for each replica. Gamma 0, which knows no
        labels, is among those of all."""
        t = self.table[self.table["network"] == network]
        t = t[(t["labels"] == labels) | (t["gamma"] == 0)]
        return t.pivot(index="gamma", columns="replica", values=quantity).sort_index()


def _rewound(title: str) -> str:
    return f"{title}, rewound mask"


def _gradual(config: Transfer, artefact: Artefact, store: Store) -> pd.DataFrame:
    """G's row: errors at its last point, entropies there, and what its features are worth."""
    lobster, tables = config.retraining.lobster, config.tables(artefact)
    probes, networks = tables["transfer probes"], tables["transfer networks"]
    own = (probes["arm"] == "lobster") & (probes["layers"] == LAYERS)
    probe = probes[own & (probes["shots"] == max(config.shots))]["error"].mean()
    last = store.load(lobster).table("points").iloc[[-1]][["validation_error", "test_error"]]
    row = networks[networks["arm"] == "lobster"][["first", "joint", "mutual"]]
    case = {"gamma": lobster.gamma, "labels": "classes", "replica": lobster.seed}
    return (
        last.reset_index(drop=True)
        .join(row.reset_index(drop=True))
        .assign(**case, probe_error=probe)
    )


def chosen(figure: FigureLearning, network: str) -> float | None:
    """The gamma of the claims: the largest above zero whose mean validation error is at most
    `WORSE` times that of gamma 0, over the replicas that both have; None if there is none."""
    errors = figure.values("validation_error", network)
    if 0.0 not in errors.index:
        return None
    good = [
        gamma
        for gamma in errors.index
        if gamma > 0 and _mean(errors.loc[gamma], errors.loc[0.0]) <= WORSE
    ]
    return float(max(good)) if good else None


def _mean(errors: pd.Series, plain: pd.Series) -> float:
    both = pd.DataFrame({"errors": errors, "plain": plain}).dropna().mean()
    return float(both["errors"] / both["plain"])


# What is registered, by what a network must have been asked for.
CLAIMS = {
    "general": "Learning to keep PSP-entropy makes features more general: transfer is better at "
    "the largest gamma of equal validation error",
    "permuted": "It is the classes that matter: transfer is better at that gamma than where they "
    "are shuffled in the penalty",
    "raised": "Learning to keep PSP-entropy raises it at that gamma",
    "none": "It is the entropy given the class: transfer is better at that gamma than where the "
    "unconditional one is rewarded",
    "negative": "Holding PSP-entropy down makes features less general: transfer is worse where "
    "that gamma is negative",
}

# Of the claims those that the chapter's first sentence rests on.
ANSWER = ("more general", "It is the classes")


def learning_claims(figure: FigureLearning) -> list[Verdict]:
    """The registered prediction of every network, its controls, and whether what was rewarded rose
    at all."""
    return [v for network in figure.networks for v in _claims(figure, network)]


def _claims(figure: FigureLearning, network: str) -> list[Verdict]:
    cases, gamma = figure.cases(network), chosen(figure, network)
    asked = {"general", "raised", *(labels for _, labels in cases)} - {"classes"}
    asked |= {"negative"} if min(cases)[0] < 0 else set()
    is_barred = gamma is None and _is_whole(figure, network)
    table = figure.table[figure.table["network"] == network]
    unit = "gradual run" if network == figure.networks[-1] else "replica"
    basis = f"{figure.panel.scale}, {counted(table['replica'].nunique(), unit)}"
    found = []
    for name in (name for name in CLAIMS if name in asked):
        claim = f"{CLAIMS[name]} ({network})."
        one = None if gamma is None else _tested(figure, network, name, gamma, unit)
        verdict = Verdict(claim, "6", "", UNDECIDED if is_barred else NOT_RUN)
        if one is not None:
            measured = "bits" if name == "raised" else "points"
            verdict = reported(claim, "6", one[1], one[0], basis, measured)
            verdict = reserved(verdict, _unequal(figure, network, name, gamma))
        found.append(verdict)
    return found


def _tested(
    figure: FigureLearning, network: str, name: str, gamma: float, unit: str
) -> tuple[Tested, str] | None:
    """A claim's test at a gamma, and its words; None without its runs."""
    probes = 100 * figure.values("probe_error", network)
    if name == "raised":
        order = "joint" if network.endswith("second order") else "first"
        bits = figure.values(order, network)
        words = {"first": "first-order", "joint": "joint"}[order]
        test = f"{words} entropy, gamma {gamma:g} − gamma 0, {unit} by {unit}, is above zero"
        return is_above(interval((bits.loc[gamma] - bits.loc[0.0]).dropna())), test
    if name == "general":
        better, worse, what = probes.loc[gamma], probes.loc[0.0], "gamma 0 − it"
    elif name == "negative":
        if -gamma not in probes.index:
            return None
        better, worse, what = probes.loc[0.0], probes.loc[-gamma], "it − gamma 0"
        gamma = -gamma
    else:
        control = 100 * figure.values("probe_error", network, name)
        if gamma not in control.index:
            return None
        better, worse = probes.loc[gamma], control.loc[gamma]
        what = {"permuted": "shuffled", "none": "unconditional"}[name] + " − classes"
    test = (
        f"probe error, mean over targets, {what}, at gamma {gamma:g}, {unit} by {unit}, is above "
        f"zero and at least {SMALLEST} points"
    )
    return is_worthwhile(interval((worse - better).dropna())), test


def _unequal(figure: FigureLearning, network: str, name: str, gamma: float | None) -> str:
    """Why a control cannot be compared, if so: it has not the source error of gamma 0, at which the
    prediction is made. That it is asked of controls, too, came after the numbers."""
    if gamma is None or name in ("general", "raised"):
        return ""
    labels, at = ("classes", -gamma) if name == "negative" else (name, gamma)
    errors = figure.values("validation_error", network, labels)
    if _mean(errors.loc[at], errors.loc[0.0]) <= WORSE:
        return ""
    return f"its validation error is above {WORSE} times that of gamma 0 (a rule made afterwards)"


def _is_whole(figure: FigureLearning, network: str) -> bool:
    """Whether every gamma from zero up was run."""
    run = set(figure.values("validation_error", network).index)
    return {gamma for gamma, _ in figure.cases(network) if gamma >= 0} <= run


def learning_answer(figure: FigureLearning) -> str:
    """The chapter's first sentences (Markdown)."""
    network = figure.networks[0]
    first = learning_claims(figure)[0]
    if first.verdict == NOT_RUN:
        return NOT_THERE
    if chosen(figure, network) is None:
        return f"**Undecided**: no gamma that raises the entropy keeps the accuracy ({network})."
    words = {
        HOLDS: "**Yes**: features are more general where entropy is kept",
        FAILS: "**No**: features are not more general where entropy is kept",
        UNDECIDED: "**Undecided**: whether features are more general where entropy is kept",
    }
    return unbroken(f"{words[first.verdict]}. {_in_words(figure, network)}")


def _in_words(figure: FigureLearning, network: str) -> str:
    gamma = chosen(figure, network)
    if gamma is None:
        return f"{network}: no gamma keeps the accuracy."
    errors, bits = (figure.values(what, network) for what in ("probe_error", "first"))
    change, rise = 100 * (errors.loc[gamma] - errors.loc[0.0]), bits.loc[gamma] - bits.loc[0.0]
    text = (
        f"{network}: with gamma {gamma:g}, the largest that costs no accuracy, first-order entropy "
        f"changes by {plus_minus(rise)} bits, the probe error by {plus_minus(change)} points"
    )
    control = figure.values("probe_error", network, "permuted")
    if gamma in control.index:
        change = 100 * (control.loc[gamma] - errors.loc[0.0])
        text += f", with shuffled classes by {plus_minus(change)}"
    return f"{text}."


def learning_in_words(figure: FigureLearning) -> str:
    """The chapter in a line for each network (Markdown)."""
    there = [n for n in figure.networks if _is_whole(figure, n) or chosen(figure, n) is not None]
    if not there:
        return NOT_THERE
    return unbroken("\n".join(f"- {_in_words(figure, network)}" for network in there))


def plot_learning(figure: FigureLearning) -> Figure | None:
    """Error, entropy and transfer against gamma, a row for each network: means with 95 %
    intervals for each kind of labels, single replicas faint. None without runs."""
    networks = [n for n in figure.networks if len(figure.values("test_error", n)) > 1]
    if not networks:
        return None
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(
            len(networks),
            len(DRAWN),
            figsize=(7.2, 0.8 + 2.2 * len(networks)),
            layout="constrained",
            squeeze=False,
        )
        for line, network in zip(axes, networks, strict=True):
            gammas = sorted({gamma for gamma, _ in figure.cases(network)})
            for ax, quantity in zip(line, DRAWN, strict=True):
                name, factor = QUANTITIES[quantity]
                for labels, (color, marker, label) in LOOKS.items():
                    values = factor * figure.values(quantity, network, labels)
                    if len(values) < 2:
                        continue
                    places = np.array([gammas.index(g) for g in values.index])
                    found = [interval(row.dropna()) for _, row in values.iterrows()]
                    each, dots = np.repeat(places, values.shape[1]), values.to_numpy().ravel()
                    ax.plot(each, dots, marker, ms=2.5, color=color, alpha=0.35, mew=0)
                    half = [i.high - i.mean if i.n > 1 else 0.0 for i in found]
                    means = [i.mean for i in found]
                    ax.errorbar(places, means, half, color=color, marker=marker, ms=4, label=label)
                ax.set_xticks(
                    range(len(gammas)), [f"{g:g}" for g in gammas], fontsize=7, rotation=60
                )
                whole = factor * figure.table[figure.table["network"] == network][quantity]
                room = 0.05 * (whole.max() - whole.min()) + 1e-9
                ax.set_ylim(whole.min() - room, whole.max() + room)  # intervals may reach far
                ax.set_title(name, fontsize=8)
            line[0].set_ylabel(network.replace(", ", ",\n", 1), fontsize=8)
        for ax in axes[-1]:
            ax.set_xlabel("gamma", fontsize=8)
        fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
        plt.close(fig)
    return fig


def by_gamma(figure: FigureLearning) -> pd.DataFrame:
    """Every quantity by network, labels and gamma: mean with half of the 95 % interval."""
    return _by_gamma(figure.table, QUANTITIES)


def further(figure: FigureLearning) -> pd.DataFrame:
    """The same of what was measured of some: how far states tell the class, and how sharp the
    minimum is."""
    return _by_gamma(figure.table.dropna(subset=[*FURTHER]), FURTHER)


def _by_gamma(table: pd.DataFrame, quantities: dict[str, tuple[str, int]]) -> pd.DataFrame:
    rows = []
    for (network, labels, gamma), its in table.groupby(["network", "labels", "gamma"], sort=False):
        of = f"{network}: {LOOKS[labels][2]}" if gamma else network
        row = {"network, and its entropy": of, "gamma": f"{gamma:g}"}
        for quantity, (name, factor) in quantities.items():
            few = factor > 1 or its[quantity].mean() > 1
            row[name] = plus_minus(factor * its[quantity], 2 if few else 3)
        rows.append(row)
    return pd.DataFrame(rows)
