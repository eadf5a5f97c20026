"""What Figs. 2 to 4 share: their tables, and every gradual network (G) beside its one-shot ones."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psplib.experiments.census import Census
from psplib.experiments.curvature import Curvature
from psplib.experiments.designs import Design, Minima, Panel, Replication
from psplib.experiments.plane import Map
from psplib.experiments.profile import Profile
from psplib.experiments.scales import figure_1b
from psplib.experiments.selectivity import Selectivity
from psplib.experiments.sharpness import Sharpness
from psplib.paper import figure_1_claims
from psplib.paper.display import effect_in_words, plus_minus, ranges, runs_and_replicas
from psplib.paper.figure_1 import Figure1
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
from psplib.paper.tables import divide, together
from psplib.pruning.retraining import Retraining
from psplib.runs.run import Run
from psplib.runs.store import Artefact, Store

# The networks under one mask, in the order of their drawing.
COMPARED = ("lobster", "rewound", "reinitialised")
# Hidden neurons of each layer: in a convolution every channel, row and column is one.
NEURONS = {
    "lenet-300": {"relu1": 300, "relu2": 100},
    "lenet-5": {"relu1": 11_520, "relu2": 3_200, "relu3": 500},
}
# What is made of the networks of a retraining.
Measure = Census | Selectivity | Sharpness
Measured = Mapping[Retraining, Mapping[Measure, Artefact]]
# What identifies a network in the tables of the censuses.
NETWORK = ["lobster_seed", "arm", "replica"]


@dataclass(frozen=True)
class Censuses:
    """The censuses of one architecture on one data set, at the last point of its gradual runs.

    `table`: a row per network, see `Census.analyse`, with `lobster_seed`; `neurons`: the same by
    layer and class; `unequal`: why G and the one-shot networks had unequal chances, if so.
    """

    panel: Design
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

    @cached_property
    def by_run(self) -> Mapping[int, Mapping[str, pd.DataFrame]]:
        """The networks of each gradual run, by its seed, and of each arm."""
        if self.table.empty:
            return {}
        runs = self.table.groupby("lobster_seed")
        return {int(seed): dict(iter(rows.groupby("arm"))) for seed, rows in runs}


@dataclass(frozen=True)
class Figures2to4(Censuses):
    """What Figs. 2 to 4 are made of: the censuses of LeNet-5 on MNIST, and `maps` and `lines`, the
    table of each map and each line of eigenvalues that is there; `profile`: the tables of
    `Profile.analyse`, none if it is not there; `others`: the censuses of other networks."""

    panel: Minima
    maps: Mapping[Map, pd.DataFrame]
    lines: Mapping[Curvature, pd.DataFrame]
    missing: tuple[Run, ...]
    artefacts: tuple[Artefact, ...]
    profile: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    others: tuple[Censuses, ...] = ()

    @property
    def networks(self) -> tuple[Censuses, ...]:
        """The censuses of every network: LeNet-5 on MNIST, then the others."""
        return (self, *self.others)

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


def collect_minima(
    panel: Minima, store: Store, others: Sequence[Panel | Replication] = ()
) -> Figures2to4:
    """The tables of Figs. 2 to 4 from the runs that a store has.

    Of the networks of `others`, all of which anything is measured as in `panel`: what is there.
    Whether a network's chances were equal is what the panel of Fig. 1 with its title says, at its
    scale.
    """
    maps: dict[Map, pd.DataFrame] = {}
    lines: dict[Curvature, pd.DataFrame] = {}
    profile: dict[str, pd.DataFrame] = {}
    done, missing = divide(panel, store)
    for config, artefact in done.items():
        if isinstance(config, Map):
            maps[config] = artefact.table("points")
        elif isinstance(config, Curvature):
            lines[config] = artefact.table("points")
        elif isinstance(config, Profile):
            profile = {name: artefact.table(name) for name in ("neurons", "layers", "classes")}
    found: dict[str, list[Censuses]] = {}
    artefacts = list(done.values())
    for other in others:
        measured = _measured(panel, _last(other, store), store)
        artefacts += [a for measures in measured.values() for a in measures.values()]
        if measured:
            found.setdefault(other.title, []).append(Censuses(other, *_tables(measured, store)))
    panels = [other for other in others if isinstance(other, Panel)]
    chances = {p.title: why_unequal(p, store) for p in panels if p.title in found}
    own = _measured(panel, [run for run in done if isinstance(run, Retraining)], store)
    return Figures2to4(
        panel,
        *_tables(own, store),
        maps,
        lines,
        missing,
        tuple(artefacts),
        profile,
        tuple(
            replace(_joined(same), unequal=chances.get(title, "")) for title, same in found.items()
        ),
        unequal=why_unequal(figure_1b(panel.scale, panel.seed), store),
    )


def _last(other: Panel | Replication, store: Store) -> Iterator[Retraining]:
    """What an experiment retrains, under the last mask of its gradual runs, and a store has."""
    retrained = (run for run in other.runs(store) if isinstance(run, Retraining))
    for run in retrained:
        is_there = run.arm in COMPARED and store.has(run)
        if is_there and run.point == len(store.load(run.lobster).table("points")) - 1:
            yield run


def _measured(panel: Minima, runs: Iterable[Retraining], store: Store) -> Measured:
    """What a store has of the networks of each retraining: their census, how class-specific they
    are, how narrow their minima. None of which it has nothing."""
    found = {}
    for run in runs:
        wanted: list[Measure] = [panel.census(run), Selectivity(run, panel.samples)]
        if run.arm == "rewound":
            wanted.append(panel.sharpness(run))
        found[run] = {measure: store.load(measure) for measure in wanted if store.has(measure)}
    return {run: measures for run, measures in found.items() if measures}


def _tables(measured: Measured, store: Store) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables of the networks of one architecture. To those of the censuses are added
    `first_pooled`, the `best_epoch` of those retrained, and the other measures; NaN where one is
    not there."""
    parts: dict[str, list[pd.DataFrame]] = {"networks": [], "census": [], "neurons": []}
    for run, measures in measured.items():
        parts["networks"].append(_errors(run, store))
        for measure, artefact in measures.items():
            for name, table in measure.tables(artefact).items():
                parts.setdefault(name, []).append(table)
    networks = _once(parts.pop("networks"), NETWORK)
    neurons = _once(parts.pop("neurons"), [*NETWORK, "layer", "class"])
    if len(neurons):
        architecture = next(iter(measured)).lobster.architecture
        parts["pooled"] = [pooled(neurons, NEURONS.get(architecture, {}))]
    for frames in filter(None, parts.values()):
        columns = _once(frames, NETWORK)
        new = [c for c in columns if c in NETWORK or c not in networks]
        networks = networks.merge(columns[new], on=NETWORK, how="left")
    return _narrow(networks) if "lambda_1" in networks else networks, neurons


def _errors(run: Retraining, store: Store) -> pd.DataFrame:
    """The test errors of G and of what is retrained under its mask; the best epochs of these."""
    points = run.lobster.tables(store.load(run.lobster))["networks"]
    gradual = points[points["point"] == run.point].assign(replica=-1)
    retrained = run.tables(store.load(run))["networks"]
    own = [*NETWORK, "sparsity", "test_error"]
    table = pd.concat([gradual[own], retrained[[*own, "best_epoch"]]])
    return table.astype({"replica": int, "lobster_seed": int})


def _narrow(networks: pd.DataFrame) -> pd.DataFrame:
    """The networks with the census's own λ₁ for `narrow`, `narrow_all` and `narrow_global` (on one
    sample of images, surviving coordinates on more than all) unless every census has its
    `Sharpness`: within a comparison the number of images is one."""
    seeds = networks.loc[networks["arm"] == "rewound", "lobster_seed"]
    compared = networks["arm"].isin(["lobster", "rewound"]) & networks["lobster_seed"].isin(seeds)
    compared &= networks["lambda_1"].notna()
    if "narrow" in networks and networks.loc[compared, "narrow"].notna().all():
        return networks
    parts = [c for c in networks if "." in c and not c.startswith("narrow_relative")]
    return networks.drop(columns=parts).assign(
        narrow=networks["lambda_1"],
        narrow_all=networks["lambda_1_all"],
        narrow_global=networks["lambda_1"] * networks["norm"] ** 2,
    )


def pooled(neurons: pd.DataFrame, sizes: Mapping[str, int]) -> pd.DataFrame:
    """First-order entropy averaged over all hidden neurons, of layers of these `sizes`, as the
    authors' first-order code has it: a row per network, the entropy in `first_pooled`."""
    layers = neurons.groupby([*NETWORK, "layer"], sort=False)["first"].sum().unstack("layer")
    weights = pd.Series(sizes, dtype=float).reindex(layers.columns)
    mean = (layers * weights).sum(axis=1, min_count=1) / weights.sum()
    return mean.rename("first_pooled").reset_index()


def _joined(parts: Sequence[Censuses]) -> Censuses:
    """Censuses of one network from several experiments, which share no gradual run."""
    return replace(
        parts[0],
        table=pd.concat([part.table for part in parts], ignore_index=True),
        neurons=pd.concat([part.neurons for part in parts], ignore_index=True),
    )


def why_unequal(panel: Panel, store: Store) -> str:
    """Why LOBSTER's networks and those retrained had unequal chances in a panel, if so."""
    figure = Figure1.collect(panel, store)
    chances = figure_1_claims.unequal(figure) or figure.chances
    return "; ".join(filter(None, (chances, figure_1_claims.part_of_the_data(figure))))


def _once(frames: list[pd.DataFrame], by: list[str]) -> pd.DataFrame:
    """All frames; G, which every census has, once."""
    table = together(frames, by)
    return table.drop_duplicates(by, ignore_index=True)


class Beside(NamedTuple):
    """A quantity of the gradual network of a run, by its seed, and of the replicas of its mask."""

    seed: int
    gradual: float
    replicas: pd.Series


def beside(
    censuses: Censuses, column: str, arm: str = "rewound", seeds: Collection[int] | None = None
) -> Iterator[Beside]:
    """For each gradual run whose replicas are there, or those of `seeds`: a column of the
    censuses."""
    for seed, arms in censuses.by_run.items() if column in censuses.table else ():
        if {"lobster", arm} <= arms.keys() and (seeds is None or seed in seeds):
            gradual, replicas = (arms[a][column].dropna() for a in ("lobster", arm))
            if len(gradual) and len(replicas):
                yield Beside(seed, float(gradual.iloc[0]), replicas)


def both_in_words(censuses: Censuses, column: str, digits: int, scale: float = 1) -> str:
    """A quantity of G and, in brackets, the mean of the networks rewound under its mask: of each
    gradual run, or their mean ± half of the 95 % interval; empty where there is none."""
    found = list(beside(censuses, column))
    own, others = (
        pd.Series([f.gradual for f in found]),
        pd.Series([f.replicas.mean() for f in found]),
    )
    shown = f"{plus_minus(scale * own, digits)} ({plus_minus(scale * others, digits)})"
    return shown if found else ""


class Effects(NamedTuple):
    """What sets G apart from each replica of a gradual run, by its seed: differences, or logarithms
    of ratios; `level` is the mean of G and its replicas."""

    seed: int
    values: pd.Series
    level: float


def _logarithms(found: Beside) -> pd.Series:
    """Of G over each replica."""
    return np.log(found.gradual) - np.log(found.replicas)


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
    def effect(self) -> str:
        """What over or minus what."""
        names = ("gradual", "one-shot")[:: self.sign]
        return (" / " if self.unit == "×" else " − ").join(names)

    @property
    def test(self) -> str:
        """The test, in words."""
        bound = "is above 1" if self.unit == "×" else "is above zero"
        if self.margin:
            bound = f"lies within ±{100 * self.margin:.0f} % of their mean"
        return f"{self.quantity}, {self.effect}, {bound}"

    def judge(self, effect: Interval, level: float, where: str = "") -> Tested:
        """What the interval of the effects (logarithms of ratios) says; `level` is the mean of G
        and its replicas."""
        if self.margin:
            return is_comparable(effect, self.margin * level, where)
        return is_above(effect, where)

    def measure(self, censuses: Censuses, seeds: Collection[int] | None = None) -> list[Effects]:
        """The effects of every gradual run that has replicas, or of those of `seeds`."""
        scale = 100 if self.unit == "points" else 1
        return [
            Effects(
                found.seed,
                self.sign * _logarithms(found)
                if self.unit == "×"
                else self.sign * scale * (found.gradual - found.replicas),
                scale * float(found.gradual + found.replicas.mean()) / 2,
            )
            for found in beside(censuses, self.column, seeds=seeds)
        ]

    def over(self, found: Sequence[Effects], censuses: Censuses) -> Interval:
        """The interval of the effects of these runs: one a run; of a single run, its replicas'."""
        (first, *more) = found
        return interval([float(e.values.mean()) for e in found] if more else first.values)

    def in_unit(self, found: Tested) -> Tested:
        """A test of logarithms, its effect as a factor."""
        if self.unit != "×":
            return found
        mean, low, high = np.exp([found.effect.mean, found.effect.low, found.effect.high]).tolist()
        return replace(found, effect=replace(found.effect, mean=mean, low=low, high=high))


@dataclass(frozen=True)
class OfTheBetter(Comparison):
    """The same of whichever generalises better: a ratio, that of the solution with the higher test
    error over that of the lower one, G against its replicas' mean."""

    @property
    def effect(self) -> str:
        """What over what."""
        return "the one of higher / the one of lower test error"

    def measure(self, censuses: Censuses, seeds: Collection[int] | None = None) -> list[Effects]:
        """The effects of every gradual run, whose `sign` its test errors give."""
        errors = {found.seed: found for found in beside(censuses, "test_error", seeds=seeds)}
        return [
            effects._replace(
                values=effects.values
                * np.sign(errors[effects.seed].gradual - errors[effects.seed].replicas.mean())
            )
            for effects in super().measure(censuses, seeds)
        ]


def by_mask(comparison: Comparison, censuses: Censuses) -> dict[int, Tested]:
    """The comparison under the mask of each gradual run, by its seed: over the replicas, which
    share that mask."""
    return {
        e.seed: comparison.judge(comparison.over([e], censuses), e.level, f"run {e.seed}")
        for e in comparison.measure(censuses)
    }


def mean_of_runs(comparison: Comparison, censuses: Censuses) -> Tested:
    """The comparison over gradual runs: one effect a run, that of G and the mean of its
    replicas."""
    found = comparison.measure(censuses)
    level = float(np.mean([e.level for e in found]))
    return comparison.judge(comparison.over(found, censuses), level)


def over_runs(comparison: Comparison, censuses: Censuses) -> Tested:
    """The same; where it is undecided and some masks by themselves say yes and some no, it is
    mixed, and the effect is that of the mask which says no most clearly. Needs two runs or
    more."""
    over = mean_of_runs(comparison, censuses)
    masks = all_of(list(by_mask(comparison, censuses).values()))
    return masks if (over.verdict, masks.verdict) == (UNDECIDED, MIXED) else over


def decide(comparison: Comparison, censuses: Censuses) -> Tested:
    """The comparison over gradual runs; where there is only one, over the replicas of its mask."""
    masks = by_mask(comparison, censuses)
    return over_runs(comparison, censuses) if len(masks) > 1 else all_of(list(masks.values()))


def compare(comparison: Comparison, censuses: Censuses) -> Verdict:
    """The verdict on a comparison in one network; where there is only one gradual run, the claim
    says so."""
    masks = by_mask(comparison, censuses)
    of = f" ({censuses.title}; one mask)" if len(masks) == 1 else f" ({censuses.title})"
    claim = comparison.claim + of
    if not masks:
        return Verdict(claim, comparison.section, "", NOT_RUN, unit=comparison.unit)
    found, each = decide(comparison, censuses), all_of(list(masks.values()))
    verdict = reported(
        claim,
        comparison.section,
        comparison.test,
        comparison.in_unit(found),
        runs_that_enter(comparison, censuses),
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


def runs_that_enter(comparison: Comparison, censuses: Censuses) -> str:
    """The scale, gradual runs and replicas behind a comparison in a network, in words."""
    found = comparison.measure(censuses)
    many = len(found) > 1
    return (
        f"{censuses.scale}, gradual run{'s' * many} {ranges([e.seed for e in found])} of "
        f"{censuses.title}, {ranges([len(e.values) for e in found])} replicas{' each' * many}"
    )


def in_each(comparison: Comparison, figures: Figures2to4) -> list[Verdict]:
    """The verdict on a comparison in LeNet-5 on MNIST, and in every other network that has one."""
    return [compare(comparison, network) for network in figures.networks]


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
    """A row for each network, gradual run and arm, with the number of its replicas: what the
    censuses found, mean ± half of the 95 % interval."""
    rows = []
    for one in figures.networks:
        for (seed, arm), group in one.table.groupby(["lobster_seed", "arm"], sort=False):
            replicas = f" × {len(group)}" if len(group) > 1 else ""
            row = {"network": one.title, "run": seed, "arm": ARMS[arm].name + replicas}
            for column, shown in quantities.items():
                row[shown.title] = plus_minus(shown.scale * group[column], shown.digits)
            rows.append(row)
    return pd.DataFrame(rows)


def effects_table(comparisons: Sequence[Comparison], figures: Figures2to4) -> pd.DataFrame:
    """A row for each claim, network and gradual run: the effect under its mask, with the interval
    over its replicas; and a row `all` for each network, over its runs."""
    rows = []
    for comparison in comparisons:
        for one in figures.networks:
            tests = {str(s): t for s, t in by_mask(comparison, one).items()}
            if len(tests) > 1:
                tests["all"] = mean_of_runs(comparison, one)
            for run, test in tests.items():
                effect = comparison.in_unit(test).effect
                rows.append(
                    {
                        "quantity": comparison.quantity,
                        "effect": comparison.effect,
                        "unit": comparison.unit,
                        "network": one.title,
                        "run": run,
                        "mean": effect.mean,
                        "low": effect.low,
                        "high": effect.high,
                        "n": effect.n,
                        "verdict": test.verdict,
                    }
                )
    return pd.DataFrame(rows)


def runs_plot(comparisons: Sequence[Comparison], figures: Figures2to4) -> Figure | None:
    """A row for each claim, a column for each network: the effect under the mask of every gradual
    run with the interval over its replicas, and on the right that over runs. Grey: where the claim
    is not true. None where there is no census yet."""
    networks = [one for one in figures.networks if any(c.measure(one) for c in comparisons)]
    if not networks:
        return None
    width = [2 + 0.35 * one.table["lobster_seed"].nunique() for one in networks]
    with mpl.rc_context(STYLE):
        size = (min(8.6, 1.5 + sum(width)), 0.5 + 1.4 * len(comparisons))
        fig = Figure(figsize=size, layout="constrained")
        axes = fig.subplots(len(comparisons), len(networks), squeeze=False, width_ratios=width)
        for row, comparison in zip(axes, comparisons, strict=True):
            for ax, one in zip(row, networks, strict=True):
                _draw_runs(ax, comparison, one)
            words = [*textwrap.wrap(comparison.quantity, 26), *textwrap.wrap(comparison.effect, 26)]
            row[0].set_ylabel("\n".join([*words, f"[{comparison.unit}]"]), fontsize=8)
        for top, bottom, one in zip(axes[0], axes[-1], networks, strict=True):
            top.set_title(one.title.replace(", ", ",\n"), fontsize=9)
            bottom.set_xlabel("gradual run")
    return fig


def _draw_runs(ax: Axes, comparison: Comparison, censuses: Censuses) -> None:
    shown = [comparison.in_unit(t).effect for t in by_mask(comparison, censuses).values()]
    if not shown:
        ax.set(xticks=[], yticks=[])
        return
    for x, effect in enumerate(shown):
        _bar(ax, x, effect, ARMS["rewound"].color, 5)
    names = [str(effects.seed) for effects in comparison.measure(censuses)]
    places = [float(x) for x in range(len(shown))]
    if len(shown) > 1:
        # Also where it is mixed the mean over runs is drawn.
        shown.append(comparison.in_unit(mean_of_runs(comparison, censuses)).effect)
        places.append(len(shown) - 0.6)
        _bar(ax, places[-1], shown[-1], "black", 8)
        names.append("all")
    zero = 1.0 if comparison.unit == "×" else 0.0
    # An interval of two may be far wider than all there is to see.
    ends = [end for e in shown for end in ((e.low, e.high) if e.n > 2 else (e.mean,))]
    lowest, highest = min([*ends, zero]), max([*ends, zero])
    margin = 0.2 * (highest - lowest) or 1e-6
    ax.set_xticks(places, names, fontsize=8)
    ax.set_xlim(-0.6, places[-1] + 0.6)
    ax.set_ylim(lowest - margin, highest + margin)
    ax.tick_params(axis="y", labelsize=8)
    ax.axhline(zero, color="black", lw=0.8)
    low, high = ax.get_ylim()
    if comparison.margin:
        bound = comparison.margin * float(np.mean([e.level for e in comparison.measure(censuses)]))
        ax.set_ylim(min(low, -1.3 * bound), max(high, 1.3 * bound))
        low, high = ax.get_ylim()
        ax.axhspan(low, -bound, color="black", alpha=0.07, lw=0)
        ax.axhspan(bound, high, color="black", alpha=0.07, lw=0)
    else:
        ax.axhspan(low, zero, color="black", alpha=0.07, lw=0)


def _bar(ax: Axes, x: float, effect: Interval, color: str, size: float) -> None:
    """An effect with its interval, where it has one."""
    ax.plot([x], [effect.mean], "o", ms=size, color=color)
    if effect.n > 1:
        ax.vlines(x, effect.low, effect.high, color=color, lw=size / 3)


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
