"""The plane through G and 1-S, as maps in colours (Figs. 2a, 3 and 4), and as slides."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from psplib.paper.statistics import FAILS, HOLDS, NOT_RUN, UNDECIDED, Verdict
from psplib.paper.style import ARMS, STYLE

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


def layer_columns(points: pd.DataFrame, quantity: str) -> dict[str, str]:
    """The columns of a map that hold a quantity of single layers, by the layer."""
    named = f"{quantity}."
    return {c.removeprefix(named): c for c in points.columns if c.startswith(named)}


def maps_plot(shown: Sequence[Shown], columns: int = 2) -> Figure | None:
    """Maps with the contours of the training loss over them; None if none of them is there."""
    there = [(points, column) for points, column in shown if points is not None]
    if not there:
        return None
    columns = min(columns, len(there))
    rows = -(-len(there) // columns)
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(4.7 * columns, 4.2 * rows), layout="constrained")
        axes = fig.subplots(rows, columns, squeeze=False)
        for ax, (points, column) in zip(axes.flat, there, strict=False):
            heat(ax, points, column)
        for ax in axes.flat[len(there) :]:
            ax.set_axis_off()
    return fig


def grid(points: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """alpha, beta and a quantity as matrices, a row for each beta."""
    table = points.pivot(index="beta", columns="alpha", values=column)
    x, y = np.meshgrid(table.columns, table.index)
    return x, y, table.to_numpy()


def heat(ax: Axes, points: pd.DataFrame, column: str) -> None:
    """A map's column in colours, the contours of the training loss in white, G and 1-S as dots."""
    x, y, z = grid(points, column)
    _, _, loss = grid(points, "loss")
    positive = z.min() > 0 and column in ("loss", "magnitude")
    norm = LogNorm(z.min(), z.max()) if positive else Normalize(z.min(), z.max())
    drawn = ax.pcolormesh(x, y, z, norm=norm, cmap="viridis", shading="nearest", rasterized=True)
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.85)
    if positive and z.max() / z.min() < 20:
        bar.ax.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))
    levels = np.geomspace(loss.min() * 1.15, loss.max() * 0.9, 7)
    if levels[0] < levels[-1]:
        ax.contour(x, y, loss, levels=levels, colors="white", linewidths=0.8, alpha=0.85)
    for alpha, color, label in SOLUTIONS:
        ax.plot(alpha, 0, "o", ms=7, color=color, mec="white", mew=1.5, zorder=5)
        ax.annotate(
            label,
            (alpha, 0),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            color="white",
            weight="bold",
            zorder=6,
        )
    ax.grid(False)
    ax.set(xlabel="α", ylabel="β", title=map_title(column), aspect="equal")


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
