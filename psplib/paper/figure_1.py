"""Fig. 1, test error against sparsity: its table, its pictures, and what they show in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from scipy.optimize import isotonic_regression

from psplib.experiments.designs import Panel
from psplib.experiments.scales import PANELS, experiment
from psplib.paper import display
from psplib.paper.controls import chances_of
from psplib.paper.display import NOT_THERE, counted, percent, plus_minus, unbroken
from psplib.paper.statistics import interval
from psplib.paper.style import (
    ARMS,
    DENSITY,
    STYLE,
    curve,
    gradual_line,
    mean_line,
    plain_ticks,
    scale_axes,
)
from psplib.paper.tables import divide, together
from psplib.pruning.lobster import Lobster
from psplib.pruning.retraining import Retraining
from psplib.runs.run import Run
from psplib.runs.store import Artefact, Store

LETTERS = dict(zip(PANELS, "abcd", strict=True))
COLUMNS = (
    "arm",
    "lobster_seed",
    "replica",
    "point",
    "kept",
    "sparsity",
    "weight_sparsity",
    "validation_loss",
    "validation_error",
    "test_loss",
    "test_error",
    "best_epoch",
)


@dataclass(frozen=True)
class Figure1:
    """A panel of Fig. 1 and its tidy `table`: a row per network.

    Columns: `COLUMNS`; errors are shares, not per cent. `missing` holds the runs that are not
    there; `artefacts` those that are. `replicated` has the same columns: the networks of further
    gradual runs, which enter the claims whose unit is the gradual run. `chances`: why gradual and
    one-shot networks had unequal ones, if the controls show it.
    """

    panel: Panel
    table: pd.DataFrame
    missing: tuple[Run, ...]
    artefacts: tuple[Artefact, ...]
    replicated: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS)))
    chances: str = ""

    @classmethod
    def collect(cls, panel: Panel, store: Store) -> Figure1:
        """The panel's table from the runs that a store has."""
        done, missing = divide(panel, store)
        further = pd.DataFrame(columns=list(COLUMNS))
        if panel.name == "figure_1a":
            replication = experiment("replication", panel.scale, panel.seed)
            further = _networks(divide(replication, store)[0])
        chances = chances_of(panel, store)
        return cls(panel, _networks(done), missing, tuple(done.values()), further, chances)

    @property
    def seeds(self) -> str:
        """How many gradual runs and replicas there are."""
        return display.runs_and_replicas(self.panel)

    @property
    def letter(self) -> str:
        """The panel's letter in the paper."""
        return LETTERS[self.panel.name]

    @property
    def title(self) -> str:
        """The panel's title with its letter: "(a) LeNet-300, MNIST"."""
        return f"({self.letter}) {self.panel.title}"

    def errors(self, arm: str) -> pd.DataFrame:
        """Test errors of an arm retrained from the first gradual run's masks, in per cent: a row
        per point, a column per replica; empty if not run."""
        first = self.table["lobster_seed"] == self.panel.lobsters[0].seed
        rows = self.table[(self.table["arm"] == arm) & first]
        table = rows.pivot(index="point", columns="replica", values="test_error") * 100
        return table.sort_index()

    @property
    def runs(self) -> pd.DataFrame:
        """The points of all gradual runs."""
        return self.table[self.table["arm"] == "lobster"]

    @property
    def gradual(self) -> pd.DataFrame:
        """The points of the gradual run whose masks are retrained from, indexed by their number."""
        rows = self.runs[self.runs["lobster_seed"] == self.panel.lobsters[0].seed]
        return rows.set_index("point").sort_index()

    @property
    def densities(self) -> pd.Series:
        """Share of surviving parameters at each point of that gradual run."""
        return 1 - self.gradual["sparsity"]

    @property
    def planned(self) -> list[int]:
        """The points of that run that are to be retrained from, the sparsest last; none if it is
        not there."""
        densities = list(self.densities)
        return sorted({r.point for r in self.panel.retrainings(densities)}) if densities else []

    @property
    def history(self) -> pd.DataFrame:
        """Epoch by epoch, the retraining of the rewound and the re-initialised networks at the
        sparsest point that is there.

        Columns: `arm`, `point`, `replica`, `epoch`, `validation_loss`, `validation_error`.
        """
        frames = []
        for arm in ("rewound", "reinitialised"):
            if runs := [a for a in self.artefacts if a.config.get("arm") == arm]:
                last = max(runs, key=lambda a: a.config["point"])
                frame = last.table("history")
                frame.insert(0, "arm", arm)
                frame.insert(1, "point", last.config["point"])
                frames.append(frame)
        columns = ["arm", "point", "replica", "epoch", "validation_loss", "validation_error"]
        return together(frames, columns)


def _networks(done: dict[Run, Artefact]) -> pd.DataFrame:
    frames = [
        config.tables(artefact)["networks"].reindex(columns=list(COLUMNS))
        for config, artefact in done.items()
        if isinstance(config, Lobster | Retraining)
    ]
    table = together(frames, COLUMNS)
    return table.astype({"replica": "Int64", "point": "Int64", "lobster_seed": "Int64"})


def plot_panel(figure: Figure1) -> Figure | None:
    """Test error against density: arms with mean, 95 % interval and single replicas (faint).

    Above, everything; below, the range of the networks that keep LOBSTER's masks. None where the
    gradual run is not there.
    """
    if figure.gradual.empty:
        return None
    with mpl.rc_context(STYLE):
        fig, (whole, near) = plt.subplots(
            2, 1, figsize=(7.2, 7.4), sharex=True, layout="constrained", height_ratios=(3, 2)
        )
        for ax in (whole, near):
            draw(ax, figure)
            ax.set_ylabel("test error [%]")
        seen = 100 * figure.table["test_error"]
        structured = seen[~figure.table["arm"].str.startswith("restructured")]
        margin = 0.05 * (structured.max() - structured.min())
        near.set(yscale="linear", xlabel=DENSITY)
        near.set_ylim(structured.min() - margin, structured.max() + margin)
        near.yaxis.set_major_locator(MaxNLocator())
        near.yaxis.set_major_formatter(ScalarFormatter())
        whole.set(title=figure.panel.title)
        whole.legend(fontsize=9, loc="upper left")
        plt.close(fig)
    return fig


def draw(ax: Axes, figure: Figure1, size: float = 1.0) -> None:
    """A panel of Fig. 1, both axes logarithmic, sparser to the right; lines and markers of a
    relative `size`."""
    dense_line(ax, figure)
    for arm in ("restructured-global", "restructured-layer", "reinitialised", "rewound"):
        curve(ax, ARMS[arm], figure.errors(arm), figure.densities, size)
    for seed, run in figure.runs.groupby("lobster_seed"):
        is_own = seed == figure.panel.lobsters[0].seed
        points = figure.planned if is_own else None
        gradual_line(ax, ARMS["lobster"], run.set_index("point").sort_index(), points)
    scale_axes(ax, figure.table)


def dense_line(ax: Axes, figure: Figure1) -> None:
    """The mean test error of the dense networks, with its 95 % interval."""
    dense = figure.errors("dense")
    if dense.empty:
        return
    color, _, name = ARMS["dense"]
    mean = interval(dense.loc[0].dropna())
    ax.axhline(mean.mean, color=color, lw=1.2, ls="--", label=f"{name} ({mean.mean:.2f} %)")
    if np.isfinite(mean.low):
        ax.axhspan(mean.low, mean.high, color=color, alpha=0.12, lw=0)


# What stands beside a line's end.
_SHORT = {
    "lobster": "G",
    "dense": "dense",
    "rewound": "1-S",
    "reinitialised": "re-init.",
    "restructured-layer": "by layer",
    "restructured-global": "global",
}


def plot_panels(panels: Sequence[Figure1]) -> Figure:
    """Four panels of test error against density, an arm's name at its line's end; a panel that is
    not there says so. Above each stand its scale and its number of replicas."""
    with mpl.rc_context(STYLE | {"font.size": 10}):
        fig, axes = plt.subplots(2, 2, figsize=(7.2, 7), layout="constrained")
        for ax, panel in zip(axes.flat, panels, strict=True):
            ax.set_title(f"{panel.title}\n", loc="left", fontsize=11)
            if panel.gradual.empty:
                ax.text(0.5, 0.5, "not there yet", transform=ax.transAxes, ha="center")
                ax.set(xticks=[], yticks=[])
                continue
            ax.text(0, 1.025, _scale(panel), transform=ax.transAxes, fontsize=9)
            draw(ax, panel, size=0.6)
            _name_ends(ax, panel)
        for ax in axes[:, 0]:
            ax.set_ylabel("test error [%]")
        for ax in axes[1]:
            ax.set_xlabel(DENSITY, fontsize=9)
        plt.close(fig)
    return fig


def _name_ends(ax: Axes, figure: Figure1) -> None:
    """The arms' names right of a panel, each as near to its line's end as the others allow."""
    ends = {arm: figure.errors(arm).tail(1).stack().mean() for arm in ARMS if arm != "lobster"}
    ends["lobster"] = 100 * figure.gradual["test_error"].iloc[-1]
    there = sorted((end, arm) for arm, end in ends.items() if end > 0)
    to_axes = ax.transScale + ax.transLimits
    own = [to_axes.transform((1, end))[1] for end, _ in there]
    room = 0.06 * np.arange(len(own))
    for (_, arm), y in zip(there, isotonic_regression(own - room).x + room, strict=True):
        color, marker, _ = ARMS[arm]
        at: Any = {"transform": ax.transAxes, "clip_on": False}
        x, line = ([1.04], marker) if marker else ([1.01, 1.07], "--")
        ax.plot(x, [y] * len(x), line, color=color, ms=3.5, lw=1.2, **at)
        ax.text(1.09, y, _SHORT[arm], va="center", fontsize=9, transform=ax.transAxes)


def _scale(figure: Figure1) -> str:
    panel = figure.panel
    samples = panel.lobsters[0].samples
    images = f"{samples:,} images, " if samples else ""
    missing = f", {counted(len(figure.missing), 'run')} missing" if figure.missing else ""
    return f"{panel.scale}: {images}{counted(len(panel.retrained.replicas), 'replica')}{missing}"


def panels_table(panels: Sequence[Figure1]) -> pd.DataFrame:
    """The rows of all panels, with the panel's name first."""
    frames = []
    for figure in panels:
        frame = figure.table.copy()
        frame.insert(0, "panel", figure.panel.name)
        frames.append(frame)
    return together(frames, ["panel", *COLUMNS])


def show_panels(panels: Sequence[Figure1]) -> None:
    """Display the four panels, the badge of each, and the downloads of the whole."""
    from IPython.display import HTML
    from IPython.display import display as put

    configs = [figure.panel for figure in panels]
    each = "".join(display.badge(f, f.title) for f in panels)
    badges = display.fold("Where the numbers come from", each)
    fig, table = plot_panels(panels), panels_table(panels)
    put(HTML(display.in_html("figure_1", fig, table, configs, badges)))


def plot_convergence(history: pd.DataFrame, title: str) -> Figure | None:
    """Validation error by epoch of retraining, from `Figure1.history`: mean and 95 % interval of
    each arm. None without any."""
    if history.empty:
        return None
    with mpl.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
        error = 100 * history["validation_error"]
        for arm in history["arm"].unique():
            rows, look = history["arm"] == arm, ARMS[arm]
            mean_line(ax, history["epoch"][rows], error[rows], look.color, label=look.name)
        ax.set(xlabel="epoch of retraining", ylabel="validation error [%]", yscale="log")
        ax.set(title=title)
        ax.set_ylim(bottom=0.85 * max(error.min(), 0.1))
        plain_ticks(ax.yaxis)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(fontsize=9)
        plt.close(fig)
    return fig


def errors_by_sparsity(figure: Figure1) -> pd.DataFrame:
    """Sparsity, LOBSTER's error, each arm's mean and 95 % interval: a row for the dense network,
    for each point that is retrained from, and for the last."""
    gradual = figure.gradual
    if gradual.empty:
        return pd.DataFrame()
    arms = {look.name: figure.errors(arm) for arm, look in ARMS.items() if arm != "lobster"}
    retrained = {point for errors in arms.values() for point in errors.index}
    rows = []
    for point in sorted({gradual.index[0], gradual.index[-1]} | retrained & {*gradual.index}):
        own = gradual.loc[point]
        row = {
            "sparsity": percent(own["sparsity"], 2),
            "weights only": percent(own["weight_sparsity"], 2),
            ARMS["lobster"].name: f"{100 * own['test_error']:.2f}",
        }
        for name, errors in arms.items():
            row[name] = plus_minus(errors.loc[point]) if point in errors.index else ""
        rows.append(row)
    return pd.DataFrame(rows)


def unfolded(panels: Sequence[Figure1]) -> Any:
    """The panels one by one as HTML, each folded away: its picture, its errors, and how far its
    retraining had come."""
    from IPython.display import HTML

    return HTML("".join(_unfolded(figure) for figure in panels))


def _unfolded(figure: Figure1) -> str:
    name, fig = figure.panel.name, plot_panel(figure)
    if fig is None:
        return f'<p class="psplib-badge">{figure.title}: {NOT_THERE}</p>'
    training = plot_convergence(figure.history, f"{figure.panel.title}: is it the training budget?")
    table = display.styled(errors_by_sparsity(figure)).to_html()
    errors = f'<div tabindex="0">{table}</div>'  # where it scrolls, by keyboard too
    parts = [display.in_html(name, fig, figure.table, figure.panel), errors]
    if training:
        data = f"{name}_convergence", training, figure.history, figure.panel
        parts.append(display.in_html(*data))
    head = f"{figure.title}: every number, how retraining went"
    return display.fold(head, "".join(parts), ' name="panel"')


def summary(panels: Sequence[Figure1]) -> str:
    """Where each panel ends, in a line (Markdown): the mean test error of the arms at the last
    point that is retrained from."""
    lines = []
    for figure in panels:
        if not figure.planned:
            continue
        last = figure.planned[-1]
        ends = {"G": pd.DataFrame({0: 100 * figure.gradual["test_error"]})}
        ends |= {"1-S": figure.errors("rewound"), "re-initialised": figure.errors("reinitialised")}
        parts = [f"{n} {e.loc[last].mean():.2f}" for n, e in ends.items() if last in e.index]
        if len(dense := figure.errors("dense")):
            parts.append(f"dense {dense.loc[0].mean():.2f}")
        at = percent(1 - figure.densities[last], 2)
        lines.append(f"- **({figure.letter})** at {at} sparsity: {', '.join(parts)} %.")
    return unbroken("\n".join(lines or [NOT_THERE]))
