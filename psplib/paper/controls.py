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

import numpy as np
import pandas as pd

from psplib.experiments.census import Census
from psplib.experiments.plan import plan_controlled
from psplib.experiments.scales import CONTROLS, Controlled, Controls
from psplib.paper.display import percent
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
from psplib.paper.tables import divide
from psplib.pruning.lobster import Lobster
from psplib.pruning.retraining import Retraining
from psplib.runs.run import Run
from psplib.runs.store import Artefact, Store

SECTION = "controls"
# What tells a network from others.
NETWORK = ["network", "lobster_seed", "control", "replica"]
MEASURED = ["z2", "first", "joint", "mutual", "lambda_1", "norm"]
ERRORS = ["best_epoch", "sparsity", "test_error", "last_test_error"]
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
            for config in plan_controlled(network, store):
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
        table = _together(errors, [*NETWORK, *ERRORS])
        census = _together(measured, [*NETWORK, *MEASURED]).drop_duplicates(NETWORK)
        return cls(
            panel,
            table.merge(census, "left", NETWORK),
            _together(history, HISTORY),
            missing,
            tuple(done.values()),
        )

    @property
    def seeds(self) -> str:
        """How many gradual runs each network has."""
        return "; ".join(f"{n.title}: {len(n.lobsters)} LOBSTER" for n in self.panel.networks)

    def means(self, network: str, control: str, column: str) -> pd.Series:
        """A quantity's mean over the replicas of a control: a value per gradual run, by seed."""
        table = self.table[(self.table["network"] == network) & (self.table["control"] == control)]
        return table.groupby("lobster_seed")[column].mean().dropna()


def _together(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def name(network: Controlled, retraining: Retraining) -> str:
    """Which of `CONTROLS` a retraining is."""
    first = network.arms[0]
    template = dataclasses.replace(retraining, lobster=first.lobster, point=first.point)
    return CONTROLS[network.arms.index(template)]


class Quantity(NamedTuple):
    """A column of the table, what the paper says of the gradual network there, and its unit; `sign`
    1 where it says that the one-shot networks have more."""

    column: str
    words: str
    unit: str
    sign: int


QUANTITIES = (
    Quantity("test_error", "the gradual network has the lower test error", "points", 1),
    Quantity("joint", "the gradual network has the higher second-order entropy", "bits", -1),
    Quantity("z2", "the gradual network has the lower z²", "×", 1),
    Quantity("lambda_1", "the gradual network lies in the narrower minimum (λ₁)", "×", -1),
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


def gaps(figure: FigureControls, network: str, pair: Condition, of: Quantity) -> pd.Series:
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
    return f"gradual run{'s' * (len(values) > 1)} {', '.join(map(str, values.index))}"


def _remains(figure: FigureControls, network: str, pair: Condition, of: Quantity) -> Verdict:
    claim = f"{pair.words}, {of.words} ({network})."
    gap = gaps(figure, network, pair, of)
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
    gap = gaps(figure, network, _AS_PUBLISHED, QUANTITIES[0])
    if gap.empty:
        return Verdict(claim, SECTION, "", NOT_RUN)
    test = "1-S (mean of replicas) − G, a difference per gradual run, is above zero"
    verdict = reported(claim, SECTION, test, is_above(interval(gap)), _basis(gap))
    return reserved(verdict, unequal_chances(figure, network))


def unequal_chances(figure: FigureControls, network: str) -> str:
    """Why a gap between the errors of G and 1-S says nothing of them, if so: the regulariser or
    more epochs take away more than half of it, with a 95 % interval over gradual runs."""
    gap = gaps(figure, network, _AS_PUBLISHED, QUANTITIES[0])
    if is_above(interval(gap)).verdict != HOLDS:
        return ""
    for pair, what in ((CONDITIONS[0], "the regulariser"), (CONDITIONS[2], "long training")):
        left = gaps(figure, network, pair, QUANTITIES[0])
        before = gap[gap.index.intersection(left.index)]
        if is_above(interval((1 - CLOSED) * before - left[before.index])).verdict == HOLDS:
            share = percent(1 - left.mean() / before.mean(), 0)
            return f"{what} alone takes {share} of the gap away: the chances were unequal"
    return ""


def _selection(figure: FigureControls, network: str) -> Verdict:
    """G is the plateau's lowest loss, all others the lowest validation error."""
    claim = f"That G is chosen by another rule than the others matters little ({network})."
    pair = Condition("gradual_shrinking", "gradual", "", "")
    gap = gaps(figure, network, pair, QUANTITIES[0])
    if gap.empty:
        return Verdict(claim, SECTION, "", NOT_RUN)
    margin = MARGIN * 100 * figure.means(network, "gradual", "test_error").mean()
    test = (
        "G continued with shrinking, chosen by validation error, − G, a difference per gradual "
        f"run, lies within ±{margin:.2f} points (5 % of G's mean error)"
    )
    return reported(claim, SECTION, test, is_comparable(interval(gap), margin), _basis(gap))
