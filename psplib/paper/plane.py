"""The plane through G and 1-S, as maps in colours (Figs. 2a, 3 and 4), and as slides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from psplib.paper.statistics import FAILS, HOLDS, NOT_RUN, UNDECIDED, Verdict
from psplib.paper.style import ARMS, STYLE, plain_ticks

LABELS = {
    "loss": "training loss [nats]",
    "error": "training error [%]",
    "magnitude": "mean z²",
    "first_order": "first order [bits]",
    "joint": "second order, joint [bits]",
    "mutual": "second order, mutual [bits]",
    "agreement": "second order, agreement [bits]",
}
# The two solutions: where they are on the line, their colours and names.
SOLUTIONS = ((0.0, ARMS["lobster"].color, "G"), (1.0, ARMS["rewound"].color, "1-S"))
ALL_LAYERS = "all layers"

# A map's table, if it is there, and the column of it that is drawn.
Shown = tuple[pd.DataFrame | None, str]


def at(points: pd.DataFrame, alpha: float) -> pd.Series:
    """The row of a map at a point of the line through G and 1-S."""
    found = points[(points["alpha"] == alpha) & (points["beta"] == 0)]
    return found.iloc[0]


def layer_columns(points: pd.DataFrame, quantity: str) -> list[str]:
    """The columns of a map that hold a quantity: of the network, then of its layers."""
    return [c for c in points.columns if c.partition(".")[0] == quantity]


def drawn(points: pd.DataFrame | None, *quantities: str) -> pd.DataFrame | None:
    """A map's places with these quantities alone; None without a map."""
    if points is None:
        return None
    return points[["alpha", "beta", *(c for q in quantities for c in layer_columns(points, q))]]


def map_plot(points: pd.DataFrame, column: str) -> Figure:
    """One map, in colours."""
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(4.7, 4.2), layout="constrained")
        heat(fig.subplots(), points, column)
    return fig


def against_g(shown: Sequence[Shown]) -> Figure | None:
    """Maps side by side of how far quantities are from their value at G, that of z² as a factor;
    in each, how far G is from 1-S. None if no map is there."""
    there = [(points, column) for points, column in shown if points is not None]
    if not there:
        return None
    rows = -(-len(there) // 2)
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 3.2 * rows), layout="constrained")
        axes = fig.subplots(rows, 2, squeeze=False, sharex=True, sharey=True)
        for ax, (points, column) in zip(axes.flat, there, strict=False):
            _draw_against_g(ax, points, column)
        for ax in axes.flat[len(there) :]:
            ax.set_axis_off()
        for ax in axes[-1]:
            ax.set_xlabel("α")
        for ax in axes[:, 0]:
            ax.set_ylabel("β")
    return fig


def _draw_against_g(ax: Axes, points: pd.DataFrame, column: str) -> None:
    x, y, z = grid(points, column)
    g, one_shot = (at(points, alpha)[column] for alpha, _, _ in SOLUTIONS)
    is_factor = column.startswith("magnitude") and z.min() > 0
    value = z / g if is_factor else z - g
    if is_factor:
        most = max(value.max(), 1 / value.min(), 1.01)
        norm: Normalize = LogNorm(1 / most, most)
    else:
        most = np.abs(value).max() or 1.0
        norm = Normalize(-most, most)
    drawn = ax.pcolormesh(x, y, value, norm=norm, cmap="BrBG", shading="nearest", rasterized=True)
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.85)
    if is_factor:
        plain_ticks(bar.ax.yaxis)
    words = f"1-S / G = {one_shot / g:.2f}" if is_factor else f"G − 1-S = {g - one_shot:+.4f}"
    box = {"facecolor": "white", "alpha": 0.75, "lw": 0}
    ax.text(0.03, 0.04, words, transform=ax.transAxes, weight="bold", fontsize=12, bbox=box)
    _over(ax, points, "black")
    over = ", over that of G" if is_factor else " − G"
    ax.set_title(map_title(column).removeprefix("second order, ") + over, fontsize=10)


def grid(points: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """alpha, beta and a quantity as matrices, a row for each beta."""
    table = points.pivot(index="beta", columns="alpha", values=column)
    x, y = np.meshgrid(table.columns, table.index)
    return x, y, table.to_numpy()


def heat(ax: Axes, points: pd.DataFrame, column: str) -> None:
    """A map's column in colours, the contours of the training loss in white, G and 1-S as dots."""
    x, y, z = grid(points, column)
    positive = z.min() > 0 and column in ("loss", "magnitude")
    norm = LogNorm(z.min(), z.max()) if positive else Normalize(z.min(), z.max())
    drawn = ax.pcolormesh(x, y, z, norm=norm, cmap="viridis", shading="nearest", rasterized=True)
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.85)
    if positive:
        plain_ticks(bar.ax.yaxis)
    _over(ax, points, "white")
    ax.set(xlabel="α", ylabel="β", title=map_title(column))


def _over(ax: Axes, points: pd.DataFrame, color: str) -> None:
    """The contours of the training loss, G and 1-S over a map."""
    x, y, loss = grid(points, "loss")
    levels = np.geomspace(loss.min() * 1.15, loss.max() * 0.9, 7)
    if levels[0] < levels[-1]:
        ax.contour(x, y, loss, levels=levels, colors=color, linewidths=0.8, alpha=0.85)
    for alpha, own, name in SOLUTIONS:
        ax.plot(alpha, 0, "o", ms=7, color=own, mec="white", mew=1.5, zorder=5)
        place: Any = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center"}
        ax.annotate(name, (alpha, 0), color=color, weight="bold", zorder=6, **place)
    ax.grid(False)
    ax.set_aspect("equal")


def mark_solutions(ax: Axes) -> None:
    """G and 1-S as upright lines, where an axis is the line through them."""
    for alpha, color, name in SOLUTIONS:
        ax.axvline(alpha, color=color, lw=1, ls="--", zorder=0)
        where: Any = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        ax.annotate(name, (alpha, 1), xytext=(4, -12), weight="bold", **where)
    ax.set_xlabel("α")


def map_title(column: str) -> str:
    """What a map's column holds: a quantity of `LABELS`, of a single layer where it names one."""
    quantity, _, layer = column.partition(".")
    return LABELS[quantity] + (f", {layer}" if layer else "")


def lossy_below(claim: str, points: pd.DataFrame | None, column: str) -> Verdict:
    """Of "the points of the map that are lower than G have a higher loss than 1-S", which is the
    worse of the two solutions: a point that is no worse than it is none that can be left out.
    Undecided where no point is lower."""
    if points is None:
        return Verdict(claim, "5.3", "", NOT_RUN)
    g, one_shot = (at(points, alpha) for alpha, _, _ in SOLUTIONS)
    lower = points[points[column] < g[column]]
    refuting = int((lower["loss"] <= one_shot["loss"]).sum())
    return Verdict(
        claim,
        "5.3",
        f"of {len(points):,} points of the plane {len(lower):,} lie lower than G; {refuting:,} of "
        "them have a training loss no higher than that of 1-S (none may)",
        UNDECIDED if lower.empty else FAILS if refuting else HOLDS,
        n=1,
    )
