"""What Figs. 2 to 4 share: their tables, and every gradual network (G) beside its one-shot ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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
from psplib.experiments.scales import Minima
from psplib.paper.display import plus_minus, runs_and_replicas
from psplib.paper.statistics import (
    NOT_RUN,
    Interval,
    Verdict,
    decided,
    everywhere,
    higher,
    interval,
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
class Figures2to4:
    """What Figs. 2 to 4 are made of.

    `table`: the censuses, a row per network, see `Census.analyse`, with `lobster_seed`; `neurons`:
    the same by layer and class; `maps` and `lines`: the table of each map and each line of
    eigenvalues that is there; `profile`: the tables of `Profile.analyse`, none if it is not there.
    """

    panel: Minima
    table: pd.DataFrame
    neurons: pd.DataFrame
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


def beside(figures: Figures2to4, column: str, arm: str = "rewound") -> Iterator[Beside]:
    """For each gradual run whose replicas are there: a column of the censuses."""
    for seed, rows in figures.table.groupby("lobster_seed") if len(figures.table) else []:
        gradual, replicas = (rows.loc[rows["arm"] == a, column] for a in ("lobster", arm))
        if len(gradual) and len(replicas):
            yield Beside(int(seed), float(gradual.iloc[0]), replicas)


def compare(
    figures: Figures2to4,
    column: str,
    effect: Callable[[pd.Series, float], pd.Series],
    judge: Callable[[Interval, float], str] = lambda difference, _: higher(difference),
) -> tuple[str, Interval, str]:
    """The verdict for all runs on an effect of (replicas, G); the effect of the run that is worst
    for the claim; which runs, in words. `judge` takes the interval of the effects and the mean of
    G and the replicas."""
    rows = []
    for _, gradual, replicas in beside(figures, column):
        found = interval(effect(replicas, gradual))
        rows.append((judge(found, float(replicas.mean() + gradual) / 2), found))
    which = f", for each of {len(rows)} gradual runs" if len(rows) > 1 else ", one gradual run"
    if not rows:
        return NOT_RUN, Interval(np.nan, np.nan, np.nan, 0), which
    total = everywhere([verdict for verdict, _ in rows])
    return total, min(rows, key=lambda row: (row[0] != total, row[1].low))[1], which


def ratio_above_one(
    claim: str, section: str, test: str, figures: Figures2to4, column: str, sign: int
) -> Verdict:
    """Of "the ratio of G and the one-shot network is above one"; sign -1: one-shot over G."""
    verdict, effect, which = compare(
        figures, column, lambda replicas, g: sign * (np.log(g) - np.log(replicas))
    )
    mean, low, high = np.exp([effect.mean, effect.low, effect.high]).tolist()
    factor = Interval(mean, low, high, effect.n)
    return decided(claim, section, f"{test} is above 1{which}", verdict, factor, "×")


def difference_above_zero(
    claim: str, section: str, test: str, figures: Figures2to4, column: str, unit: str, sign: int
) -> Verdict:
    """Of "G minus the one-shot network is above zero"; sign -1: one-shot minus G."""
    scale = sign * (100 if unit == "points" else 1)
    verdict, effect, which = compare(figures, column, lambda replicas, g: scale * (g - replicas))
    return decided(claim, section, f"{test} is above zero{which}", verdict, effect, unit)


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
