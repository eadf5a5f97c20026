"""What Figs. 2 to 4 share: their tables, and every gradual network (G) beside its one-shot ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psplib.experiments.census import Census
from psplib.experiments.curvature import Curvature
from psplib.experiments.plane import Map
from psplib.experiments.profile import Profile
from psplib.experiments.scales import Experiment, Minima
from psplib.paper.display import effect_in_words, plus_minus, ranges, runs_and_replicas
from psplib.paper.statistics import (
    MIXED,
    NOT_RUN,
    UNDECIDED,
    Interval,
    Tested,
    Verdict,
    all_of,
    higher,
    interval,
    is_above,
    is_comparable,
    reported,
    reserved,
)
from psplib.paper.style import ARMS, STYLE, plain_ticks
from psplib.paper.tables import divide
from psplib.runs.run import Run
from psplib.runs.store import Artefact, Store

# The networks under one mask, in the order of their drawing.
COMPARED = ("lobster", "rewound", "reinitialised")
# What identifies a network in the tables of the censuses.
NETWORK = ["lobster_seed", "arm", "replica"]


@dataclass(frozen=True)
class Censuses:
    """The censuses of one architecture on one data set, at the last point of its gradual runs.

    `table`: a row per network, see `Census.analyse`, with `lobster_seed`; `neurons`: the same by
    layer and class; `unequal`: why G and the one-shot networks had unequal chances, if so.
    """

    panel: Experiment
    table: pd.DataFrame
    neurons: pd.DataFrame
    unequal: str = field(default="", kw_only=True)

    @property
    def title(self) -> str:
        """Architecture and data set, in words."""
        return self.panel.title

    @property
    def scale(self) -> str:
        """The scale of the runs."""
        return self.panel.scale


@dataclass(frozen=True)
class Figures2to4(Censuses):
    """What Figs. 2 to 4 are made of: the censuses of LeNet-5 on MNIST, and `maps` and `lines`, the
    table of each map and each line of eigenvalues that is there; `profile`: the tables of
    `Profile.analyse`, none if it is not there."""

    panel: Minima
    maps: Mapping[Map, pd.DataFrame]
    lines: Mapping[Curvature, pd.DataFrame]
    missing: tuple[Run, ...]
    artefacts: tuple[Artefact, ...]
    profile: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def seeds(self) -> str:
        """How many seeds there are, in words."""
        return runs_and_replicas(self.panel)

    def map(self, subspace: str = "surviving", pairs: bool = False) -> pd.DataFrame | None:
        """The map of a plane with the random direction in these coordinates, with pairs of neurons
        or without; None if it is not there."""
        wanted = (subspace, pairs)
        return next((t for m, t in self.maps.items() if (m.subspace, m.pairs) == wanted), None)

    def line(self, subspace: str, definition: str = "converged") -> pd.DataFrame | None:
        """The eigenvalues along the line from G to 1-S; None if they are not there."""
        wanted = (subspace, definition)
        found = self.lines.items()
        return next((t for c, t in found if (c.subspace, c.definition) == wanted), None)


def collect_minima(panel: Minima, store: Store) -> Figures2to4:
    """The tables of Figs. 2 to 4 from the runs that a store has."""
    networks, neurons = [], []
    maps: dict[Map, pd.DataFrame] = {}
    lines: dict[Curvature, pd.DataFrame] = {}
    profile: dict[str, pd.DataFrame] = {}
    done, missing = divide(panel, store)
    for config, artefact in done.items():
        if isinstance(config, Census):
            labelled = config.tables(artefact)
            networks.append(labelled["census"])
            neurons.append(labelled["neurons"])
        elif isinstance(config, Map):
            maps[config] = artefact.table("points")
        elif isinstance(config, Curvature):
            lines[config] = artefact.table("points")
        elif isinstance(config, Profile):
            profile = {name: artefact.table(name) for name in ("neurons", "layers", "classes")}
    return Figures2to4(
        panel,
        _once(networks, NETWORK),
        _once(neurons, [*NETWORK, "layer", "class"]),
        maps,
        lines,
        missing,
        tuple(done.values()),
        profile,
    )


def _once(frames: list[pd.DataFrame], by: list[str]) -> pd.DataFrame:
    """All frames; G, which every census has, once."""
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=by)
    return table.drop_duplicates(by, ignore_index=True)


class Beside(NamedTuple):
    """A quantity of the gradual network of a run, by its seed, and of the replicas of its mask."""

    seed: int
    gradual: float
    replicas: pd.Series


def beside(censuses: Censuses, column: str, arm: str = "rewound") -> Iterator[Beside]:
    """For each gradual run whose replicas are there: a column of the censuses."""
    table = censuses.table
    for seed, rows in table.groupby("lobster_seed") if len(table) else []:
        gradual, replicas = (rows.loc[rows["arm"] == a, column] for a in ("lobster", arm))
        if len(gradual) and len(replicas):
            yield Beside(int(seed), float(gradual.iloc[0]), replicas)


@dataclass(frozen=True)
class Comparison:
    """A claim that sets G against the networks rewound under its mask.

    `column` of the censuses is what is compared, `quantity` its name; `sign` is 1 for gradual over
    one-shot, -1 for one-shot over gradual; the `unit` × takes their ratio, points and bits their
    difference. The claim is that it is above 1 or zero, or, with a `margin`, that it lies within
    that share of the mean.
    """

    claim: str
    section: str
    quantity: str
    column: str
    sign: int
    unit: str
    margin: float | None = None

    @property
    def test(self) -> str:
        """The test, in words."""
        is_ratio = self.unit == "×"
        names = ("gradual", "one-shot")[:: self.sign]
        bound = "is above 1" if is_ratio else "is above zero"
        if self.margin:
            bound = f"lies within ±{100 * self.margin:.0f} % of their mean"
        return f"{self.quantity}, {(' / ' if is_ratio else ' − ').join(names)}, {bound}"

    def judge(self, effect: Interval, level: float, where: str = "") -> Tested:
        """What the interval of the effects (logarithms of ratios) says; `level` is the mean of G
        and its replicas."""
        if self.margin:
            return is_comparable(effect, self.margin * level, where)
        return is_above(effect, where)

    def effects(self, found: Beside) -> pd.Series:
        """The effect of each replica: differences in `unit`, or logarithms of ratios."""
        if self.unit == "×":
            return self.sign * (np.log(found.gradual) - np.log(found.replicas))
        return self.sign * self._scale * (found.gradual - found.replicas)

    def level(self, found: Beside) -> float:
        """The mean of G and its replicas, in `unit`."""
        return self._scale * float(found.gradual + found.replicas.mean()) / 2

    @property
    def _scale(self) -> int:
        return 100 if self.unit == "points" else 1

    def in_unit(self, found: Tested) -> Tested:
        """A test of logarithms, its effect as a factor."""
        if self.unit != "×":
            return found
        mean, low, high = np.exp([found.effect.mean, found.effect.low, found.effect.high]).tolist()
        return replace(found, effect=replace(found.effect, mean=mean, low=low, high=high))


def by_mask(comparison: Comparison, censuses: Censuses) -> dict[int, Tested]:
    """The comparison under the mask of each gradual run, by its seed: over the replicas, which
    share that mask."""
    return {
        found.seed: comparison.judge(
            interval(comparison.effects(found)), comparison.level(found), f"run {found.seed}"
        )
        for found in beside(censuses, comparison.column)
    }


def over_runs(comparison: Comparison, censuses: Censuses) -> Tested:
    """The comparison over gradual runs: one effect a run, that of G and the mean of its replicas.

    Where that is undecided and some masks by themselves say yes and some no, it is mixed, and the
    effect is that of the mask which says no most clearly. Needs two runs or more.
    """
    found = list(beside(censuses, comparison.column))
    effects = interval([float(comparison.effects(one).mean()) for one in found])
    over = comparison.judge(effects, float(np.mean([comparison.level(one) for one in found])))
    masks = all_of(list(by_mask(comparison, censuses).values()))
    return masks if (over.verdict, masks.verdict) == (UNDECIDED, MIXED) else over


def compare(comparison: Comparison, censuses: Censuses) -> Verdict:
    """The verdict on a comparison in one network. Its unit is the gradual run; where there is only
    one, the interval is over the replicas of its mask, and the claim says so."""
    masks = by_mask(comparison, censuses)
    of = f" ({censuses.title}; one mask)" if len(masks) == 1 else f" ({censuses.title})"
    claim = comparison.claim + of
    if not masks:
        return Verdict(claim, comparison.section, "", NOT_RUN, unit=comparison.unit)
    each = all_of(list(masks.values()))
    found = each if len(masks) == 1 else over_runs(comparison, censuses)
    replicas = [test.effect.n for test in masks.values()]
    basis = (
        f"{censuses.scale}, gradual run{'s' * (len(masks) > 1)} {ranges(list(masks))} of "
        f"{censuses.title}, {ranges(replicas)} replicas{' each' * (len(masks) > 1)}"
    )
    verdict = reported(
        claim,
        comparison.section,
        comparison.test,
        comparison.in_unit(found),
        basis,
        comparison.unit,
    )
    if len(masks) > 1:
        words = effect_in_words(reported("", "", "", comparison.in_unit(each), "", comparison.unit))
        test = (
            f"{verdict.test}, one effect a gradual run; each mask by itself, over its replicas: "
            f"{_outcomes(masks)}; {each.where} decides, {words}"
        )
        verdict = replace(verdict, test=test)
    return reserved(verdict, censuses.unequal)


def _outcomes(masks: Mapping[int, Tested]) -> str:
    """Which masks have which verdict, in words."""
    seeds: dict[str, list[int]] = {}
    for seed, test in masks.items():
        seeds.setdefault(test.verdict, []).append(seed)
    return ", ".join(f"{v} in {ranges(s)}" for v, s in seeds.items())


def layer_differences(figures: Figures2to4, quantity: str, arm: str = "rewound") -> pd.DataFrame:
    """A row for each gradual run and layer: G, the mean and the interval of the one-shot networks,
    and what "G is higher" comes to. Columns: `lobster_seed`, `layer`, `G`, `one_shot`, `low`,
    `high`, `difference`, `verdict`. Entropies are summed over the classes."""
    rows = []
    by_layer = figures.neurons.groupby(["lobster_seed", "layer"], sort=False)
    for (seed, layer), group in by_layer if len(figures.neurons) else []:
        by_class = group.groupby(["arm", "replica"], sort=False)[quantity]
        values = by_class.mean() if quantity == "z2" else by_class.sum()
        if arm not in values.index.get_level_values("arm"):
            continue
        replicas, gradual = values.loc[arm], float(values.loc["lobster"].iloc[0])
        found, difference = interval(replicas), interval(gradual - replicas)
        rows.append(
            {
                "lobster_seed": seed,
                "layer": layer,
                "G": gradual,
                "one_shot": found.mean,
                "low": found.low,
                "high": found.high,
                "difference": difference.mean,
                "verdict": higher(difference),
            }
        )
    columns = ["lobster_seed", "layer", "G", "one_shot", "low", "high", "difference", "verdict"]
    return pd.DataFrame(rows, columns=columns)


class Quantity(NamedTuple):
    """How a column of the censuses is shown: its title, a factor, digits after the point, whether
    on a logarithmic axis."""

    title: str
    digits: int
    scale: int = 1
    log: bool = False


def by_arm(figures: Figures2to4, quantities: Mapping[str, Quantity]) -> pd.DataFrame:
    """A row for each gradual run and arm: what the censuses found, mean ± half of the 95 %
    interval."""
    rows = []
    for (seed, arm), group in figures.table.groupby(["lobster_seed", "arm"], sort=False):
        row: dict[str, Any] = {"run": seed, "network": ARMS[arm].name, "n": len(group)}
        for column, shown in quantities.items():
            row[shown.title] = plus_minus(shown.scale * group[column], shown.digits)
        rows.append(row)
    return pd.DataFrame(rows)


def networks_plot(table: pd.DataFrame, quantities: Mapping[str, Quantity]) -> Figure | None:
    """Each quantity of the censuses: G of every gradual run, and each network of each arm. None
    where there is no census yet."""
    if table.empty:
        return None
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(2.05 * len(quantities), 3.6), layout="constrained")
        axes = fig.subplots(1, len(quantities), squeeze=False)
        for ax, (column, shown) in zip(axes.flat, quantities.items(), strict=True):
            scaled = table.assign(**{column: shown.scale * table[column]})
            strips(ax, scaled, column)
            ax.set_title(shown.title, fontsize=10)
            seen = scaled[column]
            if shown.log and seen.min() > 0:
                ax.set_yscale("log")
                ax.set_ylim(seen.min() / 1.3, seen.max() * 1.3)
                plain_ticks(ax.yaxis)
        arm_legend(fig, table)
    return fig


def present(table: pd.DataFrame) -> list[str]:
    """The arms that a table has networks of."""
    return [arm for arm in COMPARED if arm in set(table["arm"])]


def strips(ax: Axes, table: pd.DataFrame, column: str) -> None:
    """A quantity of every network: the gradual runs side by side, the arms of each beside it. The
    networks set the range: an interval of two of them may be far wider."""
    seeds, arms = sorted(table["lobster_seed"].unique()), present(table)
    for i, seed in enumerate(seeds):
        for j, arm in enumerate(arms):
            rows = table[(table["arm"] == arm) & (table["lobster_seed"] == seed)]
            if len(rows):
                strip(ax, i + 0.22 * (j - (len(arms) - 1) / 2), rows[column], arm)
    ax.set_xticks(range(len(seeds)), [f"run {s}" for s in seeds], fontsize=9)
    ax.set_xlim(-0.6, len(seeds) - 0.4)
    ax.tick_params(axis="y", labelsize=8)
    frame(ax, table[column])


def frame(ax: Axes, seen: pd.Series) -> None:
    """Let the range of an axis be that of the values seen, and a little more."""
    margin = 0.08 * (seen.max() - seen.min()) or 1e-6
    ax.set_ylim(seen.min() - margin, seen.max() + margin)


def strip(ax: Axes, x: float, values: pd.Series, arm: str) -> None:
    """An arm's networks at `x`, one by one; of more than one the 95 % interval of the mean."""
    look = ARMS[arm]
    if arm == "lobster":
        ax.plot([x] * len(values), values, look.marker, ms=8, color=look.color, zorder=4)
        return
    jitter = np.linspace(-0.05, 0.05, len(values)) if len(values) > 1 else [0.0]
    at = x + np.asarray(jitter)
    ax.plot(at, values, look.marker, ms=3.5, color=look.color, alpha=0.6, mew=0)
    mean = interval(values)
    if np.isfinite(mean.low):
        ax.vlines(x + 0.09, mean.low, mean.high, color=look.color, lw=2.2)


def arm_legend(fig: Figure, table: pd.DataFrame) -> None:
    """The arms of a table below a figure."""
    looks = [ARMS[arm] for arm in present(table)]
    handles = [
        mpl.lines.Line2D([], [], ls="", marker=a.marker, color=a.color, label=a.name) for a in looks
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(looks), fontsize=9)
