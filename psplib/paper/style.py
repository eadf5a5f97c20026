"""One style for the whole book: colours and names of the arms, axes, curves with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from psplib.paper.statistics import Interval, interval


class Look(NamedTuple):
    """How an arm is drawn in every chapter, and its name."""

    color: str
    marker: str
    name: str


# Okabe and Ito's palette, told apart by every kind of colour vision.
ARMS = {
    "lobster": Look("#0072B2", "o", "gradual (LOBSTER)"),
    "dense": Look("#555555", "", "dense"),
    "rewound": Look("#D55E00", "s", "one-shot, original values"),
    "reinitialised": Look("#E69F00", "^", "one-shot, new random values"),
    "restructured-layer": Look("#009E73", "D", "random structure, layer by layer"),
    "restructured-global": Look("#CC79A7", "v", "random structure, global"),
}
# What the chapter "beyond the paper" has besides.
RIVALS = {
    "decay": Look("#56B4E9", "h", "gradual, weight decay only"),
    "magnitude": Look("#999933", "P", "magnitude, one-shot, rewound"),
    "iterative": Look("#000000", "X", "magnitude, iterative, rewound"),
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
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "psplib",
    "svg.fonttype": "path",
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
        ax.yaxis.set_major_locator(MaxNLocator(6))


def plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 of each decade, without powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def curve(
    ax: Axes,
    look: Look,
    errors: pd.DataFrame,
    density: pd.Series,
    size: float = 1.0,
) -> None:
    """An arm's test errors (points, replicas) in per cent over density: single networks, their
    mean, its 95 % interval."""
    if errors.empty:
        return
    x = 100 * density.loc[errors.index].to_numpy(dtype=float)
    for replica in errors.columns:
        ax.plot(x, errors[replica], look.marker, ms=2.5, color=look.color, alpha=0.35, mew=0)
    intervals = [interval(row.dropna()) for _, row in errors.iterrows()]
    mean = [i.mean for i in intervals]
    ax.plot(
        x, mean, marker=look.marker, ms=5 * size, lw=1.6 * size, color=look.color, label=look.name
    )
    band(ax, x, intervals, look.color, lowest=float(errors.min(axis=None)))


def band(
    ax: Axes,
    x: Sequence[float] | np.ndarray,
    intervals: Sequence[Interval],
    color: str,
    lowest: float,
) -> None:
    """Intervals as an area. An interval of few replicas may reach below zero, where a logarithmic
    axis ends in a wall: the area ends at half of the `lowest` value seen."""
    low = np.maximum([i.low for i in intervals], lowest / 2)
    ax.fill_between(x, low, [i.high for i in intervals], color=color, alpha=0.2, lw=0)
