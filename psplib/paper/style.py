"""One style for the whole book: colours and names of the arms, axes, curves with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from psplib.paper.statistics import interval


class Look(NamedTuple):
    """How an arm is drawn in every chapter, and its name."""

    color: str
    marker: str
    name: str


# Okabe and Ito's palette, told apart by every kind of colour vision.
ARMS = {
    "lobster": Look("#0072B2", "o", "gradual (G)"),
    "dense": Look("#777777", "", "dense"),
    "rewound": Look("#D55E00", "s", "rewound (1-S)"),
    "reinitialised": Look("#E69F00", "^", "re-initialised"),
    "restructured-layer": Look("#009E73", "D", "random structure, layer by layer"),
    "restructured-global": Look("#CC79A7", "v", "random structure, global"),
}
# What the chapter "beyond the paper" has besides.
RIVALS = {
    "decay": Look("#56B4E9", "h", "gradual, weight decay only"),
    "magnitude": Look("#999933", "P", "magnitude, one-shot, rewound"),
    "iterative": Look("#000000", "X", "magnitude, iterative, rewound"),
    "weight rewinding": Look("#B5477F", "<", "magnitude in steps, weights rewound"),
    "learning-rate rewinding": Look("#8866CC", ">", "magnitude in steps, learning rate rewound"),
    "fine-tuning": Look("#44AA99", "*", "magnitude in steps, fine-tuned"),
}
DENSITY = "surviving parameters [%]  (sparser →)"
STYLE: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "figure.facecolor": "white",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "black",
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "svg.hashsalt": "psplib",
    "svg.fonttype": "none",
}


def scale_axes(ax: Axes, table: pd.DataFrame) -> None:
    """Logarithmic axes for errors over density, the sparsest network on the right."""
    ax.set(xscale="log", yscale="log")
    seen = 100 * table["test_error"]
    if len(seen):
        # An interval of few replicas may reach below zero; the networks set the ranges.
        ax.set_ylim(0.85 * seen[seen > 0].min(), 1.15 * seen.max())
        ax.set_xlim(110, 100 * (1 - table["sparsity"].max()) * 0.88)
    plain_ticks(ax.xaxis)
    plain_ticks(ax.yaxis)
    if len(seen) and seen.max() < 5 * seen[seen > 0].min():
        ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 of each decade, without powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def curve(
    ax: Axes, look: Look, errors: pd.DataFrame, density: pd.Series, size: float = 1.0
) -> None:
    """An arm's test errors (points, replicas) in per cent over density: single networks, their
    mean, its 95 % interval."""
    if errors.empty:
        return
    x = 100 * density.loc[errors.index].to_numpy(dtype=float)
    each, seen = np.repeat(x, errors.shape[1]), errors.to_numpy(dtype=float).ravel()
    ax.plot(each, seen, look.marker, ms=2.5, color=look.color, alpha=0.35, mew=0)
    line = {"marker": look.marker, "ms": 5 * size, "lw": 1.6 * size, "mew": 1, "label": look.name}
    mean_line(ax, each, seen, look.color, mec=look.color, **line)


def gradual_line(
    ax: Axes, look: Look, run: pd.DataFrame, retrained: Sequence[int] | None, ls: Any = "-"
) -> None:
    """A gradual run, its points by their number: a thin line; of one that is retrained from, dots
    at these points, and, thick, the running median of five points."""
    x, y = 100 * (1 - run["sparsity"]), 100 * run["test_error"]
    ax.plot(x, y, color=look.color, ls=ls, lw=0.8, alpha=0.55, zorder=3)
    if retrained is None:
        return
    dots = [p for p in retrained if p in run.index]
    ax.plot(x[dots], y[dots], look.marker, ms=4, color=look.color, zorder=3)
    median = y.rolling(5, center=True, min_periods=1).median()
    ax.plot(x, median, color=look.color, ls=ls, lw=1.8, label=look.name, zorder=3)


def mean_line(ax: Axes, x: Any, y: Any, color: str, **line: Any) -> None:
    """The mean of `y` at each `x` as a line, its 95 % interval as an area; `y` must be linear yet,
    for seaborn averages what an axis shows.

    An interval of few replicas may reach below zero, where a logarithmic axis ends in a wall: the
    area ends at half of the lowest value seen. One value has no interval.
    """
    import seaborn as sns

    lowest = np.nanmin(y) / 2

    def bounds(values: pd.Series) -> tuple[float, float]:
        found = interval(values)
        return max(found.low, lowest), found.high

    area = {"alpha": 0.2, "lw": 0}
    sns.lineplot(x=x, y=y, ax=ax, color=color, errorbar=bounds, err_kws=area, legend=False, **line)
