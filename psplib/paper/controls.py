"""The controls: what remains between gradual and one-shot networks where both are trained alike?

G and 1-S differ in two things: the path on which the mask was found, and the regulariser that was
at work. Here 1-S is retrained with it, G goes on without it, and 1-S is trained for long. The unit
is the gradual run: one difference a run, of means over replicas. Conditions, tests and the rule of
unequal chances were written down before any of these runs was there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psplib.experiments.census import Census
from psplib.experiments.designs import Controlled, Controls, Panel
from psplib.experiments.scales import CONTROLS, experiment
from psplib.paper.display import (
    NOT_THERE,
    counted,
    percent,
    plus_minus,
    ranges,
    unbroken,
)
from psplib.paper.statistics import (
    HOLDS,
    MARGIN,
    NOT_RUN,
    Interval,
    Tested,
    Verdict,
    interval,
    is_above,
    is_comparable,
    reported,
    reserved,
)
from psplib.paper.style import ARMS, STYLE, Look, plain_ticks
from psplib.paper.tables import divide, together
from psplib.pruning.lobster import Lobster
from psplib.pruning.retraining import Retraining
from psplib.runs.run import Run
from psplib.runs.store import Artefact, Store

SECTION = "controls"
# What tells a network from others.
NETWORK = ["network", "lobster_seed", "control", "replica"]
MEASURED = ["z2", "first", "joint", "mutual", "lambda_1", "norm"]
ERRORS = ["best_epoch", "sparsity", "validation_error", "test_error", "last_test_error"]
HISTORY = [*NETWORK, "epoch", "validation_error"]
# A control gives the one-shot networks what only the gradual one had. Chances were unequal where it
# takes away more than this share of the gap.
CLOSED = 0.5


@dataclass(frozen=True)
class FigureControls:
    """What the chapter on the controls is made of.

    `table`: a row per network: `network` (the title of its experiment), `lobster_seed`, `control`
    (`gradual` or one of `CONTROLS`), `replica`, the best epoch, test errors there and at the last
    epoch, and what its census measured, if it has one; `history`: the validation error of every
    epoch. `missing` and `artefacts` as in `Figure1`.
    """

    panel: Controls
    table: pd.DataFrame
    history: pd.DataFrame
    missing: tuple[Run, ...]
    artefacts: tuple[Artefact, ...]

    @classmethod
    def collect(cls, panel: Controls, store: Store) -> FigureControls:
        """The tables of the controls from the runs that a store has."""
        done, missing = divide(panel, store)
        errors, measured, history = [], [], []
        for network in panel.networks:
            for config in network.runs(store):
                if config not in done:
                    continue
                artefact, label = done[config], dict[str, Any](network=network.title)
                if isinstance(config, Lobster):
                    last = artefact.table("points").tail(1)
                    label |= {"lobster_seed": config.seed, "control": "gradual", "replica": -1}
                    errors.append(last.assign(**label).reindex(columns=[*NETWORK, *ERRORS]))
                elif isinstance(config, Retraining):
                    label |= {"lobster_seed": config.lobster.seed, "control": name(network, config)}
                    rows = artefact.table("replicas").assign(**label)
                    errors.append(rows[[*NETWORK, *ERRORS]])
                    history.append(artefact.table("history").assign(**label)[HISTORY])
                elif isinstance(config, Census):
                    rows = artefact.table("networks")
                    label |= {"lobster_seed": config.retraining.lobster.seed}
                    is_gradual = rows["arm"] == "lobster"
                    of = np.where(is_gradual, "gradual", name(network, config.retraining))
                    measured.append(rows.assign(**label, control=of)[[*NETWORK, *MEASURED]])
        table = together(errors, [*NETWORK, *ERRORS])
        census = together(measured, [*NETWORK, *MEASURED]).drop_duplicates(NETWORK)
        return cls(
            panel,
            table.merge(census, "left", NETWORK),
            together(history, HISTORY),
            missing,
            tuple(done.values()),
        )

    @property
    def seeds(self) -> str:
        """How many gradual runs each network has."""
        parts = (
            f"{n.title}: {counted(len(n.lobsters), 'gradual run')}" for n in self.panel.networks
        )
        return "; ".join(parts)

    def means(self, network: str, control: str, column: str) -> pd.Series:
        """A quantity's mean over the replicas of a control: a value per gradual run, by seed."""
        table = self.table[(self.table["network"] == network) & (self.table["control"] == control)]
        return table.groupby("lobster_seed")[column].mean().dropna()


def name(network: Controlled, retraining: Retraining) -> str:
    """Which of `CONTROLS` a retraining is."""
    first = network.arms[0]
    template = dataclasses.replace(retraining, lobster=first.lobster, point=first.point)
    return CONTROLS[network.arms.index(template)]


class Measured(NamedTuple):
    """A column of the table, what the paper says of the gradual network there, and its unit; `sign`
    1 where it says that the one-shot networks have more."""

    column: str
    words: str
    unit: str
    sign: int


QUANTITIES = (
    Measured("test_error", "the gradual network has the lower test error", "points", 1),
    Measured("joint", "the gradual network has the higher second-order entropy", "bits", -1),
    Measured("z2", "the gradual network has the lower z²", "×", 1),
    Measured("lambda_1", "the gradual network lies in the narrower minimum (λ₁)", "×", -1),
)


class Condition(NamedTuple):
    """Two networks under one mask that are trained alike, and how."""

    one_shot: str
    gradual: str
    words: str
    test: str


CONDITIONS = (
    Condition(
        "one_shot_shrinking",
        "gradual",
        "Where both are trained with the regulariser",
        "1-S retrained with shrinking against G",
    ),
    Condition(
        "one_shot",
        "gradual_plain",
        "Where neither is trained with the regulariser at the end",
        "1-S against G continued without shrinking",
    ),
    Condition(
        "one_shot_long",
        "gradual",
        "Where the one-shot network is trained for long",
        "1-S of many epochs against G",
    ),
)


def gaps_by_run(figure: FigureControls, network: str, pair: Condition, of: Measured) -> pd.Series:
    """By how much two networks differ in the direction that the paper says, a value per gradual
    run: in points, in bits, or as a logarithm where the unit is a factor."""
    one, other = (figure.means(network, c, of.column) for c in (pair.one_shot, pair.gradual))
    if of.unit == "×":
        one, other = np.log(one), np.log(other)
    factor = 100 if of.unit == "points" else 1
    return (factor * of.sign * (one - other)).dropna().astype(float)


def controls_claims(figure: FigureControls) -> list[Verdict]:
    """Every claim, network by network."""
    found = []
    for network in (n.title for n in figure.panel.networks):
        found.append(_fails_to_recover(figure, network))
        found += [_remains(figure, network, c, q) for c in CONDITIONS for q in QUANTITIES]
        found.append(_selection(figure, network))
    return found


def _basis(values: pd.Series) -> str:
    return f"gradual run{'s' * (len(values) > 1)} {ranges(list(values.index))}"


def _remains(figure: FigureControls, network: str, pair: Condition, of: Measured) -> Verdict:
    claim = f"{pair.words}, {of.words} ({network})."
    gap = gaps_by_run(figure, network, pair, of)
    if gap.empty:
        return Verdict(claim, SECTION, "", NOT_RUN)
    found = is_above(interval(gap))
    how, bound = ("ratio", "1") if of.unit == "×" else ("difference", "zero")
    test = f"{pair.test}, means over replicas, a {how} per gradual run, is above {bound}"
    return reported(claim, SECTION, test, in_unit(found, of.unit), _basis(gap), of.unit)


def in_unit(found: Tested, unit: str) -> Tested:
    """A test whose effect, if it is a factor, is no logarithm any more."""
    if unit != "×":
        return found
    mean, low, high = np.exp([found.effect.mean, found.effect.low, found.effect.high]).tolist()
    return dataclasses.replace(found, effect=Interval(mean, low, high, found.effect.n))


_AS_PUBLISHED = Condition("one_shot", "gradual", "", "1-S − G")


def _fails_to_recover(figure: FigureControls, network: str) -> Verdict:
    claim = f"At the last mask, one-shot pruning fails to recover the gradual error ({network})."
    gap = gaps_by_run(figure, network, _AS_PUBLISHED, QUANTITIES[0])
    if gap.empty:
        return Verdict(claim, SECTION, "", NOT_RUN)
    test = "1-S (mean of replicas) − G, a difference per gradual run, is above zero"
    verdict = reported(claim, SECTION, test, is_above(interval(gap)), _basis(gap))
    return reserved(verdict, unequal_chances(figure, network))


def unequal_chances(figure: FigureControls, network: str) -> str:
    """Why a gap between the errors of G and 1-S says nothing of them, if so: the regulariser or
    more epochs take away more than half of it, with a 95 % interval over gradual runs."""
    gap = gaps_by_run(figure, network, _AS_PUBLISHED, QUANTITIES[0])
    if is_above(interval(gap)).verdict != HOLDS:
        return ""
    for pair, what in ((CONDITIONS[0], "the regulariser"), (CONDITIONS[2], "long training")):
        left = gaps_by_run(figure, network, pair, QUANTITIES[0])
        before = gap[gap.index.intersection(left.index)]
        if is_above(interval((1 - CLOSED) * before - left[before.index])).verdict == HOLDS:
            share = percent(1 - left.mean() / before.mean(), 0)
            return f"{what} alone takes {share} of the gap away: the chances were unequal"
    return ""


def chances_of(panel: Panel, store: Store) -> str:
    """Why gradual and one-shot networks of a panel of Fig. 1 had unequal chances, if its controls,
    at its scale, show it."""
    own = experiment("controls", panel.scale, panel.seed)
    assert isinstance(own, Controls)
    if panel.title not in (network.title for network in own.networks):
        return ""
    return unequal_chances(FigureControls.collect(own, store), panel.title)


def _selection(figure: FigureControls, network: str) -> Verdict:
    """G is the plateau's lowest loss, all others the lowest validation error."""
    claim = f"That G is chosen by another rule than the others matters little ({network})."
    pair = Condition("gradual_shrinking", "gradual", "", "")
    gap = gaps_by_run(figure, network, pair, QUANTITIES[0])
    if gap.empty:
        return Verdict(claim, SECTION, "", NOT_RUN)
    margin = MARGIN * 100 * figure.means(network, "gradual", "test_error").mean()
    test = (
        "G continued with shrinking, chosen by validation error, − G, a difference per gradual "
        f"run, lies within ±{margin:.2f} points (5 % of G's mean error)"
    )
    return reported(claim, SECTION, test, is_comparable(interval(gap), margin), _basis(gap))


NAMES = {
    "gradual": "gradual (G)",
    "one_shot": "rewound (1-S)",
    "one_shot_shrinking": "1-S retrained with shrinking",
    "gradual_plain": "G continued without shrinking",
    "one_shot_long": "1-S trained for long",
    "gradual_shrinking": "G continued with shrinking",
}
# What begins with G is blue, with the initial values red; with shrinking a broken line.
_LINES = {
    "one_shot": Look("#D55E00", "-", NAMES["one_shot"]),
    "one_shot_long": Look("#D55E00", ":", NAMES["one_shot_long"]),
    "one_shot_shrinking": Look("#D55E00", "--", NAMES["one_shot_shrinking"]),
    "gradual_plain": Look("#0072B2", "-", NAMES["gradual_plain"]),
    "gradual_shrinking": Look("#0072B2", "--", NAMES["gradual_shrinking"]),
}


def plot_controls(figure: FigureControls) -> Figure | None:
    """Validation error against epochs of training, a panel per network: the mean over gradual runs
    of the means over replicas, its 95 % interval as an area; G as a dotted line. None without any
    training."""
    if figure.history.empty:
        return None
    networks = list(dict.fromkeys(figure.history["network"]))
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(4.7 * len(networks), 4.4), layout="constrained")
        axes = fig.subplots(1, len(networks), squeeze=False)[0]
        handles: dict[str, Any] = {}
        for ax, network in zip(axes, networks, strict=True):
            rows = figure.history[figure.history["network"] == network]
            for control, look in _LINES.items():
                _training(ax, rows[rows["control"] == control], look)
            own = 100 * figure.means(network, "gradual", "validation_error").mean()
            ax.axhline(own, color=ARMS["lobster"].color, lw=1.5, ls=":", label=NAMES["gradual"])
            ax.set(title=network, xlabel="epochs of training", xscale="log", yscale="log")
            plain_ticks(ax.xaxis)
            plain_ticks(ax.yaxis)
            handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        axes[0].set_ylabel("validation error [%]")
        fig.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncol=2, fontsize=9
        )
    return fig


def _training(ax: Axes, rows: pd.DataFrame, look: Look) -> None:
    """An arm's validation errors in per cent, epoch by epoch."""
    if rows.empty:
        return
    runs = 100 * rows.groupby(["epoch", "lobster_seed"])["validation_error"].mean().unstack()
    ax.plot(runs.index, runs.mean(axis=1), look.marker, color=look.color, lw=1.5, label=look.name)
    if runs.shape[1] > 1:
        found = [interval(row.dropna()) for _, row in runs.iterrows()]
        # Of two runs it may reach below zero, where a logarithmic axis ends.
        low = [max(i.low, i.mean / 2) for i in found]
        high = [min(i.high, 2 * i.mean) for i in found]
        ax.fill_between(runs.index, low, high, color=look.color, alpha=0.12, lw=0)


def networks_table(figure: FigureControls) -> pd.DataFrame:
    """What was measured of each network, a column for each control: mean over gradual runs with
    half of the 95 % interval."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for network in figure.panel.networks:
        epochs = {c: str(r.epochs) for c, r in zip(CONTROLS, network.arms, strict=True)}
        for control, named in NAMES.items():
            means = {c: figure.means(network.title, control, c) for c in (*ERRORS, *MEASURED)}
            if not len(means["test_error"]):
                continue
            measured = {
                "epochs": epochs.get(control, ""),
                "gradual runs": str(len(means["test_error"])),
                "best epoch": plus_minus(means["best_epoch"], 0),
                "test error [%]": plus_minus(100 * means["test_error"]),
                "at the last epoch": plus_minus(100 * means["last_test_error"]),
                "second order [bits]": plus_minus(means["joint"], 2),
                "mutual [millibits]": plus_minus(1000 * means["mutual"], 1),
                "z²": plus_minus(means["z2"]),
                "λ₁": plus_minus(means["lambda_1"]),
                "λ₁·‖θ‖²": plus_minus(means["lambda_1"] * means["norm"] ** 2, 0),
            }
            for what, value in measured.items():
                key = network.title, what
                rows.setdefault(key, {"network": key[0], "measured": what})[named] = value
    return pd.DataFrame(rows.values())


def gaps_table(figure: FigureControls) -> pd.DataFrame:
    """A row per network and quantity: the gap between one-shot and gradual networks in the
    direction that the paper says, as published and under each condition that was run; factors as
    such."""
    columns = {"as published": _AS_PUBLISHED} | {pair.test: pair for pair in CONDITIONS}
    rows = []
    for network in (n.title for n in figure.panel.networks):
        for of in QUANTITIES:
            found = {c: gaps_by_run(figure, network, pair, of) for c, pair in columns.items()}
            if any(len(gap) for gap in found.values()):
                shown = {c: _shown(gap, of.unit) for c, gap in found.items()}
                rows.append({"network": network, "the paper": of.words, **shown})
    return pd.DataFrame(rows).replace("", None).dropna(axis="columns", how="all")


def _shown(gap: pd.Series, unit: str) -> str:
    if gap.empty:
        return ""
    found = in_unit(is_above(interval(gap)), unit).effect
    form = {"points": "+.2f", "bits": "+.3f", "×": ".2f"}[unit]
    mean, low, high = (format(x, form) for x in (found.mean, found.low, found.high))
    bounds = f" [{low}, {high}]" if found.n > 1 else ""
    return f"{mean}{bounds} {unit}"


# The chapter's first sentence, see `display.in_one_sentence`.
ANSWER = dict(
    zip(
        (f"{pair.words}, {QUANTITIES[0].words}" for pair in CONDITIONS),
        (
            "G has the lower test error where both are trained with the regulariser",
            "it still has the lower one where neither is",
            "it still has the lower one where 1-S is trained for long",
        ),
        strict=True,
    )
)


def controls_in_words(figure: FigureControls) -> str:
    """What the figure shows, in sentences (Markdown) whose numbers come from its table."""
    said = []
    for network in (n.title for n in figure.panel.networks):
        published = gaps_by_run(figure, network, _AS_PUBLISHED, QUANTITIES[0])
        parts = []
        for pair in CONDITIONS:
            left = gaps_by_run(figure, network, pair, QUANTITIES[0])
            if len(left):
                before = published[published.index.intersection(left.index)].mean()
                words = pair.words[0].lower() + pair.words[1:]
                parts.append(
                    f"{words}, {plus_minus(left)} of {before:.2f} points remain "
                    f"({counted(len(left), 'gradual run')})"
                )
        if parts:
            said.append(f"**{network}.** Of the gap in test error: {'; '.join(parts)}.")
    return unbroken("\n\n".join(said or [NOT_THERE]))
