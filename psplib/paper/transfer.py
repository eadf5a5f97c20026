"""Transfer: are the features of gradually pruned networks worth more on other data sets?

The unit is the gradual run: one difference d = mean(1-S) - G for each, in points of the test error
of a ridge read-out of the last hidden layer, from 100 labelled images of each class, mean over the
targets, at the run's last point; a t-interval over runs. Endpoint, tests and the smallest effect of
interest were written down before any of these runs was there; those of fine-tuning and of 1-S with
LOBSTER's shrinking before any of theirs, but after the first of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psplib.experiments.designs import Source, Transfers
from psplib.experiments.fine_tuning import FineTuning
from psplib.experiments.scales import TITLES
from psplib.experiments.transfer import Transfer
from psplib.paper.display import NOT_THERE, counted, percent, plus_minus, unbroken
from psplib.paper.statistics import (
    FAILS,
    HOLDS,
    NOT_RUN,
    UNDECIDED,
    Interval,
    Tested,
    Verdict,
    any_of,
    interval,
    is_above,
    reported,
)
from psplib.paper.style import ARMS, RIVALS, STYLE, Look
from psplib.paper.tables import divide, together
from psplib.pruning.retraining import Retraining
from psplib.runs.run import Run
from psplib.runs.store import Artefact, Store

SMALLEST = 0.5  # points: the smallest effect of interest
LAYERS = 1  # read out: the last hidden layer
ORDERS = ("joint", "mutual", "first")
LOOKS = ARMS | {
    "rewound-shrinking": Look("#B5477F", "s", "rewound (1-S), with shrinking"),
    "continued": Look("#56B4E9", "o", "gradual (G), without shrinking"),
    "iterative": RIVALS["iterative"],
    "narrow": Look("#999933", "v", "dense of the live widths"),
    "untrained": Look("#888888", "x", "the mask, not trained"),
    "pixels": Look("#000000", "", "raw pixels"),
}
# Under one mask, and trained as Fig. 1 has them: those that a correlation is over.
ALIKE = ("lobster", "rewound", "reinitialised")
COMPARED = (
    "rewound",
    "rewound-shrinking",
    "reinitialised",
    "continued",
    "restructured-layer",
    "iterative",
    "narrow",
)
# Of the claims those that the chapter's first sentence rests on.
ANSWER = ("than those of one-shot networks (", "Potentially", "raw pixels")
TUNED = ("network", "arm", "replica", "lobster_seed", "target", "error")
KEY = ("network", "arm", "replica", "lobster_seed", "point", "target", "layers", "shots")
COLUMNS = (*KEY, "sparsity", "error", "sd", "neurons", "penalty", "test_error", *ORDERS)


@dataclass(frozen=True)
class FigureTransfer:
    """What the chapter on transfer is made of.

    `table`: a row for each network of a source (`network`, its title), target, number of `layers`
    that are read and of `shots` (images of each class), see `Transfer.analyse`; with `sparsity`,
    and of the network its `test_error` on the source and its entropies. `tuned`: a row for each
    network and target, fine-tuned. Arms are those of `LOOKS`. `missing` and `artefacts` as in
    `Figure1`.
    """

    panel: Transfers
    table: pd.DataFrame
    tuned: pd.DataFrame
    missing: tuple[Run, ...]
    artefacts: tuple[Artefact, ...]

    @classmethod
    def collect(cls, panel: Transfers, store: Store) -> FigureTransfer:
        """The table from the runs that a store has."""
        done, missing = divide(panel, store)
        frames, tuned = [], []
        for source in panel.networks:
            for config in panel.runs_of(source, store):
                if isinstance(config, Transfer) and config in done:
                    frames.append(_labelled(config, done[config], source, store))
                elif isinstance(config, FineTuning) and config in done:
                    rows = config.tables(done[config])["fine-tuned"]
                    tuned.append(rows.assign(network=source.title)[list(TUNED)])
        table = together(frames, COLUMNS)
        table = table.reindex(columns=list(COLUMNS)).drop_duplicates(list(KEY), ignore_index=True)
        return cls(panel, table, together(tuned, TUNED), missing, tuple(done.values()))

    @property
    def seeds(self) -> str:
        """How many gradual runs each source has, of those that are there."""
        return "; ".join(
            f"{s.title}: {counted(runs, 'gradual run')}"
            for s in self.panel.networks
            if (runs := self.at_last(s)["lobster_seed"].nunique())
        )

    @property
    def most(self) -> int:
        """The number of labelled images of each class of the endpoint."""
        return max(self.panel.shots)

    def rows(self, source: Source, layers: int = LAYERS, shots: int | None = None) -> pd.DataFrame:
        """The rows of a source that are read from so many layers and images of each class."""
        t = self.table
        asked = (t["layers"] == layers) & (t["shots"] == (shots or self.most))
        return t[asked & (t["network"] == source.title)]

    def at_last(self, source: Source, layers: int = LAYERS) -> pd.DataFrame:
        """The rows of a source at the last point of each gradual run, pruned networks only."""
        rows = self.rows(source, layers)
        rows = rows[rows["point"] > 0]
        return rows[rows["point"] == rows.groupby("lobster_seed")["point"].transform("max")]

    @property
    def last(self) -> pd.DataFrame:
        """What the comparisons at the last points rest on: their rows of every source, and those of
        fine-tuning, of which only `error` is known."""
        tuned = self.tuned.assign(layers="fine-tuned")
        return pd.concat([*(self.at_last(s) for s in self.panel.networks), tuned])


def _labelled(config: Transfer, artefact: Artefact, source: Source, store: Store) -> pd.DataFrame:
    tables = config.tables(artefact)
    probes = tables["transfer probes"]
    networks = tables["transfer networks"].reindex(
        columns=["arm", "replica", "test_error", *ORDERS]
    )
    sparsity, retraining = 0.0, config.retraining
    if isinstance(retraining, Retraining) and retraining.shrinkage:
        for table in (probes, networks):
            table["arm"] = table["arm"].replace(retraining.arm, f"{retraining.arm}-shrinking")
    if retraining.point:
        points = store.load(retraining.lobster).table("points")
        sparsity = points["sparsity"][retraining.point]
    return probes.merge(networks, on=["arm", "replica"], validate="many_to_one").assign(
        network=source.title, sparsity=sparsity
    )


def differences(figure: FigureTransfer, source: Source, arm: str, layers: int = LAYERS) -> Any:
    """By how many points of probe error an arm is worse than G, mean of its networks: a row for
    each gradual run that has both, a column for each target."""
    return _worse(figure.at_last(source, layers), source, arm)


def tuned_differences(figure: FigureTransfer, source: Source, arm: str = "rewound") -> pd.DataFrame:
    """The same of the test error after fine-tuning."""
    return _worse(figure.tuned[figure.tuned["network"] == source.title], source, arm)


def _worse(rows: pd.DataFrame, source: Source, arm: str) -> pd.DataFrame:
    if not {arm, "lobster"} <= set(rows["arm"]):
        return pd.DataFrame(columns=list(source.targets), dtype=float)
    means = 100 * rows.pivot_table(
        index=["arm", "lobster_seed"], columns="target", values="error", aggfunc="mean"
    )
    return (means.loc[arm] - means.loc["lobster"]).dropna()[list(source.targets)]


def beyond_pixels(figure: FigureTransfer, source: Source) -> pd.DataFrame:
    """By how many points of probe error raw pixels are worse than G: a row for each gradual run, a
    column for each target."""
    rows = figure.rows(source)
    pixels = 100 * rows[rows["arm"] == "pixels"].set_index("target")["error"]
    rows = figure.at_last(source)
    own = rows[rows["arm"] == "lobster"]
    if pixels.empty or own.empty:
        return pd.DataFrame(columns=list(source.targets), dtype=float)
    own = 100 * own.pivot(index="lobster_seed", columns="target", values="error")
    return (pixels - own)[list(source.targets)]


def correlations(figure: FigureTransfer, source: Source, order: str) -> pd.Series:
    """For each gradual run the partial correlation, over the networks with its last mask, of an
    entropy with the probe error (mean over targets), given the error on the source and the number
    of neurons that are read; of runs with at least three networks more than it takes away."""
    rows = figure.at_last(source)
    rows = rows[rows["arm"].isin(ALIKE)]
    found = {}
    for seed, run in rows.groupby("lobster_seed"):
        means = run.groupby(["arm", "replica"])[["error", "neurons", "test_error", order]].mean()
        given = means[["test_error", "neurons"]].to_numpy(dtype=float)
        x, y = means[order].to_numpy(dtype=float), means["error"].to_numpy(dtype=float)
        if len(means) >= 3 + 1 + given.shape[1]:
            found[int(seed)] = partial_correlation(x, y, given)
    return pd.Series(found, dtype=float)


def partial_correlation(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """The correlation of x and y (n,) without what is linear in `given` (n, k); 0 where one of them
    is."""
    base = np.column_stack([np.ones(len(x)), given - given.mean(0)])
    left = [v - base @ np.linalg.lstsq(base, v, rcond=None)[0] for v in (x, y)]
    size = [np.linalg.norm(v) for v in left]
    scale = [1e-9 * (np.linalg.norm(v) + 1e-300) for v in (x, y)]
    if any(s <= least for s, least in zip(size, scale, strict=True)):
        return 0.0
    return float(left[0] @ left[1] / (size[0] * size[1]))


def correlation(values: pd.Series) -> Interval:
    """The mean correlation and its interval over gradual runs, by Fisher's z."""
    z = interval(np.arctanh(values.clip(-0.999, 0.999)))
    mean, low, high = np.tanh([z.mean, z.low, z.high])
    return replace(z, mean=float(mean), low=float(low), high=float(high))


def is_worthwhile(effect: Interval, smallest: float = SMALLEST) -> Tested:
    """Of "the effect is above zero and large enough to matter": it holds where the interval is
    above zero and the mean at least the smallest effect of interest, and fails where the interval
    is below that effect."""
    if effect.low > 0 and effect.mean >= smallest:
        return Tested(HOLDS, effect.p(), effect)
    if effect.high < smallest:
        return Tested(FAILS, effect.p(smallest), effect)
    return Tested(UNDECIDED, effect.p(), effect)


def transfer_claims(figure: FigureTransfer) -> list[Verdict]:
    """Every claim, source by source."""
    return [v for source in figure.panel.networks for v in _claims(figure, source)]


def _claims(figure: FigureTransfer, source: Source) -> list[Verdict]:
    claims = (
        (
            "6",
            "The features of gradually pruned networks are a better match for transfer learning "
            f"than those of one-shot networks ({source.title}).",
        ),
        (
            "abstract",
            "Potentially, on some data set, gradually pruned networks are a better fit for "
            f"transfer learning ({source.title}).",
        ),
        (
            "6",
            "The features of gradually pruned networks are a good match for transfer learning: "
            f"they are worth more than the raw pixels ({source.title}).",
        ),
        (
            "5.3",
            "Of networks with one mask and equal source error, those of higher second-order "
            f"entropy have the more general features ({source.title}).",
        ),
        (
            "6",
            "Fine-tuned under their mask, gradually pruned networks are a better match for "
            f"transfer learning than one-shot networks ({source.title}).",
        ),
        (
            "6",
            "It is the path that makes the features of gradually pruned networks a better match: "
            f"also than those of one-shot networks trained with shrinking ({source.title}).",
        ),
    )
    shrunk = differences(figure, source, "rewound-shrinking")
    tuned = tuned_differences(figure, source)
    d, pixels = differences(figure, source, "rewound"), beyond_pixels(figure, source)
    related = correlations(figure, source, "joint")
    where = (
        f"probe error, last hidden layer, {figure.most} images a class, last point of each "
        "gradual run"
    )
    tests = (
        (
            d,
            lambda: is_worthwhile(interval(d.mean(axis=1))),
            f"mean(1-S) − G of the {where}, mean over targets, is above zero and at least "
            f"{SMALLEST} points",
            "points",
        ),
        (
            d,
            lambda: any_of([is_above(interval(d[t]), TITLES[t]) for t in d]),
            f"mean(1-S) − G of the {where}, is above zero on one target, corrected for their "
            "number",
            "points",
        ),
        (
            pixels,
            lambda: is_above(interval(pixels.mean(axis=1))),
            f"raw pixels − G of the {where}, mean over targets, is above zero",
            "points",
        ),
        (
            related,
            lambda: _is_below(correlation(related)),
            "the partial correlation of the joint entropy with the probe error, over the networks "
            "with the last mask of a run, given source error and neurons, is below zero",
            "r",
        ),
        (
            tuned,
            lambda: is_worthwhile(interval(tuned.mean(axis=1))),
            "mean(1-S) − G of the test error on the target after fine-tuning, last point of each "
            f"gradual run, mean over targets, is above zero and at least {SMALLEST} points",
            "points",
        ),
        (
            shrunk,
            lambda: is_worthwhile(interval(shrunk.mean(axis=1))),
            f"1-S with LOBSTER's shrinking − G of the {where}, mean over targets, is above zero "
            f"and at least {SMALLEST} points",
            "points",
        ),
    )
    return [
        reported(
            claim,
            section,
            test,
            found(),
            f"{figure.panel.scale}, {counted(len(values), 'gradual run')}",
            unit,
        )
        if len(values)
        else Verdict(claim, section, "", NOT_RUN)
        for (section, claim), (values, found, test, unit) in zip(claims, tests, strict=True)
    ]


def _is_below(effect: Interval) -> Tested:
    """Of "the correlation is below zero"; its p-value is that of Fisher's z."""
    verdict = HOLDS if effect.high < 0 else FAILS if effect.low > 0 else UNDECIDED
    at = replace(effect, mean=float(np.arctanh(effect.mean)))
    return Tested(verdict, at.p(), effect)


def answer_of_transfer(figure: FigureTransfer) -> str:
    """The chapter's first sentences (Markdown): does the paper's conjecture come true?"""
    said = []
    for source in figure.panel.networks:
        d, pixels = differences(figure, source, "rewound"), beyond_pixels(figure, source)
        if d.empty:
            continue
        sparsity = figure.at_last(source)["sparsity"].mean()
        effect = interval(d.mean(axis=1))
        words = {
            HOLDS: "**Yes**: gradual pruning gives the features that transfer better",
            FAILS: "**No**: gradual pruning gives no features that transfer better",
            UNDECIDED: "**Undecided**: whether gradual pruning gives features that transfer better",
        }[is_worthwhile(effect).verdict]
        text = (
            f"{words} ({source.title}, {percent(sparsity)} sparsity): the probe error of "
            f"one-shot networks minus that of gradual ones is {plus_minus(effect)} points "
            f"({counted(effect.n, 'gradual run')})"
        )
        if len(tuned := tuned_differences(figure, source)):
            text += f", where the networks are fine-tuned {plus_minus(tuned.mean(axis=1))}"
        if len(pixels):
            gap = interval(pixels.mean(axis=1))
            ahead = "worse" if gap.mean > 0 else "better"
            size = replace(gap, mean=abs(gap.mean), high=abs(gap.mean) + gap.high - gap.mean)
            text += f"; raw pixels are {plus_minus(size)} points {ahead} than the gradual networks"
        said.append(f"{text}.")
    return unbroken("\n\n".join(said or [NOT_THERE]))


def plot_errors(figure: FigureTransfer) -> Figure | None:
    """Probe error against sparsity, a row for each source and a panel for each target: single
    networks, their means, the dense network and the raw pixels as lines. None without runs."""
    sources = [s for s in figure.panel.networks if len(figure.at_last(s))]
    if not sources:
        return None
    width = max(len(s.targets) for s in sources)
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(
            len(sources),
            width,
            figsize=(9.4, 0.9 + 2.7 * len(sources)),
            layout="constrained",
            squeeze=False,
        )
        handles: dict[str, Any] = {}
        for line, source in zip(axes, sources, strict=True):
            for ax, target in zip(line, source.targets, strict=False):
                rows = figure.rows(source)
                _panel(ax, rows[rows["target"] == target], source.goals)
                ax.set_title(f"{source.title} → {TITLES[target]}", fontsize=9)
                handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
            for ax in line[len(source.targets) :]:
                ax.set_axis_off()
            line[0].set_ylabel("probe error [%]")
        for ax in axes[-1]:
            ax.set_xlabel("sparsity", fontsize=9)
        legend = list(handles.values()), list(handles)
        fig.legend(*legend, loc="outside lower center", ncol=3, fontsize=9)
        plt.close(fig)
    return fig


def levels(rows: pd.DataFrame, goals: Sequence[float]) -> tuple[pd.Series, list[str]]:
    """Where networks stand on the axis of sparsities, in words: at the goal that is nearest, or at
    the mean of the runs' last points; and these places in their order."""
    last = rows["point"] == rows.groupby("lobster_seed")["point"].transform("max")
    end = rows["sparsity"][last].mean()
    near = [min(goals, key=lambda goal: abs(goal - s), default=end) for s in rows["sparsity"]]
    at = pd.Series(near, rows.index, dtype=float).where(~last, end)
    return at.map(percent), [percent(level) for level in sorted(at.unique())]


def _panel(ax: Axes, rows: pd.DataFrame, goals: Sequence[float]) -> None:
    for arm, style in (("pixels", "-"), ("dense", "--")):
        errors = rows[rows["arm"] == arm]["error"]
        if len(errors):
            color, _, name = LOOKS[arm]
            ax.axhline(100 * errors.mean(), color=color, ls=style, lw=1.2, label=name)
    pruned = rows[rows["point"] > 0]
    near, each = levels(pruned, goals)
    arms = [arm for arm in LOOKS if (pruned["arm"] == arm).any()]
    for place, arm in enumerate(arms):
        color, marker, name = LOOKS[arm]
        for number, level in enumerate(each):
            its = pruned[(pruned["arm"] == arm) & (near == level)]
            y = 100 * its["error"].to_numpy(dtype=float)
            x = number + 0.7 * (place + 0.5) / len(arms) - 0.35
            ax.plot([x] * len(y), y, marker, ms=3, color=color, alpha=0.35)
            if len(y):
                ax.plot(x, y.mean(), marker, ms=7, color=color, label=name)
    ax.set_xticks(range(len(each)), each)
    ax.set_xlim(-0.5, max(len(each), 1) - 0.5)


def plot_differences(figure: FigureTransfer) -> Figure | None:
    """By how much each arm is worse than G, mean over targets, 1-S also on each of them and after
    fine-tuning, with 95 % intervals over gradual runs; the smallest effect of interest shaded. None
    without runs."""
    bars = []
    for source in figure.panel.networks:
        for arm in COMPARED:
            color, _, name = LOOKS[arm]
            found = {f"{name}, mean": differences(figure, source, arm)}
            if arm == "rewound":
                found |= {
                    f"{name}, {TITLES[t]}": found[f"{name}, mean"][[t]] for t in source.targets
                }
                found[f"{name}, fine-tuned, mean"] = tuned_differences(figure, source)
            bars += [
                (f"{source.title}: {what}", color, d.mean(axis=1))
                for what, d in found.items()
                if len(d)
            ]
    if not bars:
        return None
    with mpl.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(9.4, 1.2 + 0.3 * len(bars)), layout="constrained")
        ax.axvspan(-SMALLEST, SMALLEST, color="#000000", alpha=0.08, lw=0)
        ax.axvline(0, color="#000000", lw=0.8)
        for place, (name, color, values) in enumerate(bars):
            i = interval(values)
            is_mean = name.endswith("mean")
            ax.plot(values, [place] * len(values), "o", ms=3, color=color, alpha=0.35, mew=0)
            if i.n > 1:
                ax.plot([i.low, i.high], [place] * 2, color=color, lw=3 if is_mean else 1.5)
            ax.plot(i.mean, place, "D" if is_mean else "o", color=color, ms=6)
        ax.set_yticks(range(len(bars)), [name for name, _, _ in bars], fontsize=8)
        ax.invert_yaxis()
        ax.set_xlabel("probe error, arm − gradual [points]  (gradual better →)")
        plt.close(fig)
    return fig


def plot_entropy(figure: FigureTransfer) -> Figure | None:
    """Probe error (mean over targets) against second-order entropy of single networks at the last
    points, each as its difference from the mean of its gradual run. None without runs."""
    sources = [s for s in figure.panel.networks if len(figure.at_last(s))]
    if not sources:
        return None
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(
            1, len(sources), figsize=(9.4, 3.8), layout="constrained", squeeze=False
        )
        for ax, source in zip(axes[0], sources, strict=True):
            rows = figure.at_last(source)
            rows = rows[rows["arm"].isin(ALIKE)]
            keys = ["lobster_seed", "arm", "replica"]
            means = rows.groupby(keys)[["error", "joint"]].mean()
            around = means - means.groupby("lobster_seed").transform("mean")
            for arm, its in around.groupby("arm", sort=False):
                color, marker, name = LOOKS[str(arm)]
                y = 100 * its["error"]
                ax.plot(its["joint"], y, marker, ms=4, color=color, alpha=0.7, label=name)
            found = correlation(correlations(figure, source, "joint"))
            said = f", partial r = {found.mean:+.2f}" if found.n else ""
            ax.set_title(f"{source.title}{said}", fontsize=10)
            ax.set_xlabel("joint entropy − its run's mean [bits]", fontsize=9)
        axes[0][0].set_ylabel("probe error − its run's mean [points]")
        axes[0][0].legend(fontsize=8)
        plt.close(fig)
    return fig


def errors_by_shots(figure: FigureTransfer) -> pd.DataFrame:
    """Probe errors [%], mean over targets, at the last points, by arm and how much is read, a
    column for each number of images of a class: mean over gradual runs with half of the 95 %
    interval; dense network and raw pixels without."""
    rows = []
    t = figure.table
    for source in figure.panel.networks:
        last = figure.at_last(source)[["lobster_seed", "point"]].drop_duplicates()
        own = t[t["network"] == source.title]
        kept = pd.concat([own[own["point"] == 0], own.merge(last, on=["lobster_seed", "point"])])
        for layers, read in kept.groupby("layers"):
            for arm in [arm for arm in LOOKS if (read["arm"] == arm).any()]:
                row = {"network": source.title, "layers": str(layers), "arm": LOOKS[arm].name}
                for shots, its in read[read["arm"] == arm].groupby("shots"):
                    means = 100 * its.groupby("lobster_seed")["error"].mean()
                    row[f"{shots} a class"] = plus_minus(means)
                rows.append(row)
    return pd.DataFrame(rows)


def orders_table(figure: FigureTransfer) -> pd.DataFrame:
    """The partial correlation of each entropy with the probe error, mean over gradual runs and its
    95 % interval."""
    rows = []
    for source in figure.panel.networks:
        row: dict[str, str] = {}
        for order in ORDERS:
            found = correlation(correlations(figure, source, order))
            if found.n:
                bounds = f" [{found.low:+.2f}, {found.high:+.2f}]" if found.n > 1 else ""
                row |= {"gradual runs": str(found.n), order: f"{found.mean:+.2f}{bounds}"}
        if row:
            rows.append({"network": source.title} | row)
    return pd.DataFrame(rows)


def transfer_in_words(figure: FigureTransfer) -> str:
    """The chapter in a line for each source (Markdown)."""
    lines = []
    for source in figure.panel.networks:
        found = {
            "1-S − G": differences(figure, source, "rewound"),
            "fine-tuned": tuned_differences(figure, source),
            "1-S with shrinking − G": differences(figure, source, "rewound-shrinking"),
            "dense of the live widths − G": differences(figure, source, "narrow"),
            "raw pixels − G": beyond_pixels(figure, source),
        }
        said = [f"{what}: {plus_minus(d.mean(axis=1))}" for what, d in found.items() if len(d)]
        if said:
            lines.append(f"- {source.title}: {'; '.join(said)}.")
    if not lines:
        return NOT_THERE
    head = "Points of error on the targets, mean over them; above zero G is better:"
    return unbroken("\n".join([head, "", *lines]))
