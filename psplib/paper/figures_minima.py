"""Figs. 2 to 4: maps of the plane, eigenvalues along the line, G against the one-shot networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from psplib.paper import claims_minima
from psplib.paper.display import NOT_THERE, plus_minus, unbroken
from psplib.paper.statistics import UNDECIDED, interval
from psplib.paper.style import ARMS, STYLE, plain_ticks
from psplib.paper.tables import Figures2to4

LABELS = {
    "loss": "training loss [nats]",
    "error": "training error [%]",
    "magnitude": "mean z²",
    "first_order": "first order [bits]",
    "joint": "second order, joint [bits]",
    "mutual": "second order, mutual [bits]",
    "agreement": "second order, agreement [bits]",
}
SHORT = {
    "z2": "mean z²",
    "first": "first order",
    "joint": "joint",
    "mutual": "mutual",
    "agreement": "agreement",
}
QUANTITIES = {
    "train_loss": "training loss",
    "test_error": "test error",
    "lambda_1": "λ₁, surviving",
    "lambda_1_all": "λ₁, all",
    "norm": "norm of the weights",
}
_G, _S = ARMS["lobster"][0], ARMS["rewound"][0]
# One hue for each rank, from the largest to the smallest eigenvalue.
_RANKS = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, 5))


def loss_map(figures: Figures2to4, name: str = "map") -> Figure | None:
    """Fig. 2a: the training loss on the plane through G and 1-S, from above and as a surface.

    None, here and below, where what it is made of is not there yet.
    """
    if name not in figures.maps:
        return None
    points = figures.maps[name]
    with mpl.rc_context(STYLE):
        fig = plt.figure(figsize=(9.4, 4.6))
        # The constrained layout clips titles beside a surface: it does not know how high that is.
        above = fig.add_axes((0.09, 0.1, 0.44, 0.8))
        heat(above, points, "loss")
        surface: Any = fig.add_axes((0.54, 0.04, 0.44, 0.86), projection="3d")
        x, y, z = grid(points, "loss")
        height = np.log10(z)
        surface.plot_surface(
            x, y, height, cmap="viridis", rstride=1, cstride=1, lw=0, antialiased=True, alpha=0.95
        )
        for alpha, color, label in ((0.0, _G, "G"), (1.0, _S, "1-S")):
            bottom = np.log10(claims_minima.at(points, alpha)["loss"])
            surface.plot(
                [alpha, alpha], [0, 0], [bottom, height.max()], color=color, lw=1.5, zorder=9
            )
            surface.text(alpha, 0, height.max(), label, color=color, weight="bold", zorder=10)
        for axis in (surface.xaxis, surface.yaxis, surface.zaxis):
            axis.set_major_locator(MaxNLocator(5))
        surface.zaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{10**v:.2g}"))
        surface.set(xlabel="α", ylabel="β", title=LABELS["loss"])
        surface.set_box_aspect(None, zoom=0.88)
        surface.view_init(elev=38, azim=-60)
        plt.close(fig)
    return fig


def plane_maps(
    figures: Figures2to4, shown: Sequence[tuple[str, str]], columns: int = 2
) -> Figure | None:
    """Maps of some quantities, (map, column) each, with the contours of the training loss over
    them (Figs. 3 and 4)."""
    shown = [(name, column) for name, column in shown if name in figures.maps]
    if not shown:
        return None
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(
            rows,
            columns,
            figsize=(4.7 * columns, 4.2 * rows),
            layout="constrained",
            squeeze=False,
        )
        for ax, (name, column) in zip(axes.flat, shown, strict=False):
            heat(ax, figures.maps[name], column)
        for ax in axes.flat[len(shown) :]:
            ax.set_axis_off()
        plt.close(fig)
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
    for alpha, color, label in ((0.0, _G, "G"), (1.0, _S, "1-S")):
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
    ax.set(xlabel="α", ylabel="β", title=quantity_title(column), aspect="equal")


def quantity_title(column: str) -> str:
    """What a map's column holds: a quantity of `LABELS`, of a single layer where it names one."""
    quantity, _, layer = column.partition(".")
    return LABELS[quantity] + (f", {layer}" if layer else "")


def eigenvalues(figures: Figures2to4) -> Figure | None:
    """Fig. 2b: the five leading eigenvalues along the line from G to 1-S, surviving coordinates and
    all; crosses: what the paper's tool computes."""
    shown = [n for n in ("line", "line, all") if n in figures.lines]
    titles = {"line": "surviving coordinates", "line, all": "all coordinates"}
    if not shown:
        return None
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(
            1, len(shown), figsize=(4.7 * len(shown), 3.9), layout="constrained", squeeze=False
        )
        for ax, name in zip(axes.flat, shown, strict=True):
            for rank, rows in figures.lines[name].groupby("rank"):
                color = _RANKS[int(rank) - 1]
                ax.plot(rows["alpha"], rows["eigenvalue"], "o-", ms=3.5, color=color, label=rank)
            old = figures.lines.get(f"{name}, legacy")
            if old is not None:
                for rank, rows in old.groupby("rank"):
                    ax.plot(
                        rows["alpha"],
                        rows["eigenvalue"],
                        "x",
                        ms=7,
                        mew=1.6,
                        color=_RANKS[int(rank) - 1],
                        label="legacy" if rank == 1 else None,
                    )
            for alpha, color, label in ((0.0, _G, "G"), (1.0, _S, "1-S")):
                ax.axvline(alpha, color=color, lw=1, ls="--", zorder=0)
                ax.annotate(
                    label,
                    (alpha, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(4, -12),
                    textcoords="offset points",
                    color=color,
                    weight="bold",
                )
            tables = [figures.lines[n] for n in (name, f"{name}, legacy") if n in figures.lines]
            ax.set(xlabel="α", ylabel="eigenvalue", title=titles[name])
            if min(t["eigenvalue"].min() for t in tables) > 0:
                ax.set_yscale("log")
                plain_ticks(ax.yaxis)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        fig.legend(handles, labels, title="rank", loc="outside right center", fontsize=9)
        plt.close(fig)
    return fig


def networks(
    figures: Figures2to4, columns: dict[str, str] | None = None, log: Sequence[str] = ()
) -> Figure | None:
    """Each quantity of the censuses: G of every gradual run, and each network of each arm."""
    if figures.table.empty:
        return None
    columns = QUANTITIES if columns is None else columns
    table = figures.table
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(
            1,
            len(columns),
            figsize=(2.05 * len(columns), 3.6),
            layout="constrained",
            squeeze=False,
        )
        for ax, (column, title) in zip(axes.flat, columns.items(), strict=True):
            scale = 100 if column.endswith("error") else 1
            _strips(ax, table, column, scale)
            ax.set_title(title + (" [%]" if scale == 100 else ""), fontsize=10)
            seen = scale * table[column]
            if column in log and seen.min() > 0:
                ax.set_yscale("log")
                ax.set_ylim(seen.min() / 1.3, seen.max() * 1.3)
                plain_ticks(ax.yaxis)
            else:
                _frame(ax, seen)
        _legend(fig, _arms(table))
        plt.close(fig)
    return fig


def _arms(table: pd.DataFrame) -> list[str]:
    return [a for a in ("lobster", "rewound", "reinitialised") if a in set(table["arm"])]


def _strips(ax: Axes, table: pd.DataFrame, column: str, scale: int = 1) -> None:
    """A quantity of every network: the gradual runs side by side, the arms of each beside it."""
    seeds, arms = sorted(table["lobster_seed"].unique()), _arms(table)
    for i, seed in enumerate(seeds):
        for j, arm in enumerate(arms):
            rows = table[(table["arm"] == arm) & (table["lobster_seed"] == seed)]
            if len(rows):
                strip(ax, i + 0.22 * (j - (len(arms) - 1) / 2), scale * rows[column], arm)
    ax.set_xticks(range(len(seeds)), [f"run {s}" for s in seeds], fontsize=9)
    ax.set_xlim(-0.6, len(seeds) - 0.4)
    ax.tick_params(axis="y", labelsize=8)


def _frame(ax: Axes, seen: pd.Series) -> None:
    """The networks set the range: an interval of two of them may be far wider."""
    margin = 0.08 * (seen.max() - seen.min()) or 1e-6
    ax.set_ylim(seen.min() - margin, seen.max() + margin)


def strip(ax: Axes, x: float, values: pd.Series, arm: str) -> None:
    """An arm's networks at `x`, one by one; of more than one the 95 % interval of the mean."""
    color, marker, _ = ARMS[arm]
    if arm == "lobster":
        ax.plot([x] * len(values), values, marker, ms=8, color=color, zorder=4)
        return
    jitter = np.linspace(-0.05, 0.05, len(values)) if len(values) > 1 else [0.0]
    ax.plot(x + np.asarray(jitter), values, marker, ms=3.5, color=color, alpha=0.6, mew=0)
    mean = interval(values)
    if np.isfinite(mean.low):
        ax.vlines(x + 0.09, mean.low, mean.high, color=color, lw=2.2)


def _legend(fig: Figure, arms: Sequence[str]) -> None:
    handles = [
        mpl.lines.Line2D([], [], ls="", marker=ARMS[a][1], color=ARMS[a][0], label=ARMS[a][2])
        for a in arms
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(arms), fontsize=9)


def layers(figures: Figures2to4) -> Figure | None:
    """Entropies layer by layer, a column for each layer, a row for each definition: G and each
    one-shot network of every gradual run."""
    if figures.neurons.empty:
        return None
    neurons = figures.neurons
    keys = ["lobster_seed", "arm", "replica", "layer"]
    total = neurons.groupby(keys, sort=False)[list(claims_minima.ORDERS)].sum().reset_index()
    names = list(dict.fromkeys(neurons["layer"]))
    orders = claims_minima.ORDERS
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(
            len(orders),
            len(names),
            figsize=(2.9 * len(names), 2.1 * len(orders)),
            layout="constrained",
            squeeze=False,
            sharex=True,
        )
        for r, order in enumerate(orders):
            for c, layer in enumerate(names):
                ax, rows = axes[r, c], total[total["layer"] == layer]
                _strips(ax, rows, order)
                _frame(ax, rows[order])
                if r == 0:
                    ax.set_title(layer, fontsize=10)
            axes[r, 0].set_ylabel(f"{SHORT[order]} [bits]")
        _legend(fig, _arms(total))
        plt.close(fig)
    return fig


SUMMARIES = {
    "figure_2": {
        "train_loss": ("training loss", 1, 4),
        "test_error": ("test error [%]", 100, 2),
        "lambda_1": ("λ₁, surviving", 1, 2),
        "lambda_1_all": ("λ₁, all", 1, 1),
        "norm": ("norm", 1, 2),
    },
    "figure_4": {
        "first": ("first [bits]", 1, 4),
        "joint": ("joint [bits]", 1, 4),
        "mutual": ("mutual [bits]", 1, 5),
        "agreement": ("agreement [bits]", 1, 4),
    },
}


def summary(figures: Figures2to4, figure: str) -> pd.DataFrame:
    """A row for each gradual run and arm: what the censuses found, mean ± half of the 95 %
    interval."""
    columns = SUMMARIES[figure]
    rows = []
    for (seed, arm), group in figures.table.groupby(["lobster_seed", "arm"], sort=False):
        row: dict[str, Any] = {"run": seed, "network": ARMS[arm][2], "n": len(group)}
        for column, (title, scale, digits) in columns.items():
            row[title] = plus_minus(scale * group[column], digits)
        rows.append(row)
    return pd.DataFrame(rows)


def lines(figures: Figures2to4) -> pd.DataFrame:
    """The eigenvalues along the line, all subspaces and definitions in one table."""
    frames = []
    for name, rows in figures.lines.items():
        subspace = "all" if "all" in name else "surviving"
        definition = "legacy" if "legacy" in name else "converged"
        frames.append(rows.assign(subspace=subspace, definition=definition))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def residuals(figures: Figures2to4) -> pd.DataFrame:
    """How far the eigenvalues along the line are converged: for each subspace and definition the
    points, the Hessian-vector products at a point, the worst residual relative to λ₁."""
    rows = []
    table = lines(figures)
    for (subspace, definition), group in (
        table.groupby(["subspace", "definition"], sort=False) if len(table) else []
    ):
        first = group[group["rank"] == 1].set_index("alpha")["eigenvalue"]
        relative = group["residual"].to_numpy() / first.loc[group["alpha"]].to_numpy()
        rows.append(
            {
                "coordinates": subspace,
                "definition": definition,
                "points": group["alpha"].nunique(),
                "products a point": f"{group.groupby('alpha')['products'].first().mean():.0f}",
                "worst residual / λ₁": f"{relative.max():.1e}",
            }
        )
    return pd.DataFrame(rows)


def layers_of(figures: Figures2to4, column: str, name: str = "map") -> list[tuple[str, str]]:
    """A map's columns for the single layers of a quantity, as `plane_maps` takes them."""
    columns = figures.maps[name].columns if name in figures.maps else []
    return [(name, c) for c in columns if c.startswith(f"{column}.")]


def magnitudes(figures: Figures2to4) -> Figure | None:
    """Mean z² of every network, over all hidden layers and layer by layer."""
    if figures.neurons.empty:
        return None
    each = figures.neurons.groupby(["lobster_seed", "arm", "replica", "layer"], sort=False)["z2"]
    wide = each.first().unstack("layer")
    wide = wide[list(dict.fromkeys(figures.neurons["layer"]))]
    keys = ["lobster_seed", "arm", "replica"]
    table = figures.table[[*keys, "z2"]].merge(wide.reset_index(), on=keys)
    columns = {"z2": "all layers"} | {n: n for n in wide.columns}
    return networks(dataclasses.replace(figures, table=table), columns)


def by_layer(figures: Figures2to4) -> pd.DataFrame:
    """G minus the mean of the rewound networks, a row for each run and layer, a column for each
    definition; bold (Markdown) where the 95 % interval excludes zero."""
    found = claims_minima.by_layer(figures)
    if found.empty:
        return found
    rows = []
    for (seed, layer), group in found.groupby(["lobster_seed", "layer"], sort=False):
        row: dict[str, Any] = {"run": seed, "layer": layer}
        for line in group[group["quantity"] != "z2"].itertuples():
            text = f"{line.difference:+.4f}"
            row[SHORT[line.quantity]] = text if line.verdict == UNDECIDED else f"<b>{text}</b>"
        rows.append(row)
    return pd.DataFrame(rows)


def reading_2(figures: Figures2to4) -> str:
    """What Fig. 2 shows, in sentences (Markdown) whose numbers come from the tables."""
    sentences = []
    for seed in sorted(figures.table["lobster_seed"].unique()):
        parts = []
        for column, what, scale, digits, unit in (
            ("train_loss", "a training loss of", 1, 4, ""),
            ("test_error", "a test error of", 100, 2, " %"),
            ("lambda_1", "a largest eigenvalue of", 1, 2, " in the surviving coordinates"),
            ("lambda_1_all", "and", 1, 2, " in all"),
        ):
            values = claims_minima.pairs(figures, column).get(seed)
            if values is not None:
                g, shots = scale * values[-1], scale * values.drop(-1)
                parts.append(f"{what} {g:.{digits}f} ({plus_minus(shots, digits)}){unit}")
        if parts:
            sentences.append(
                f"**Run {seed}**: G has {', '.join(parts)}; in brackets the rewound networks of "
                "its mask."
            )
    if "map" in figures.maps:
        points = figures.maps["map"]
        lowest = points.loc[points["loss"].idxmin()]
        g, s = (claims_minima.at(points, alpha)["loss"] for alpha in (0.0, 1.0))
        between = points[(points["beta"] == 0) & points["alpha"].between(0, 1)]["loss"].max()
        sentences.append(
            f"On the plane the training loss is {g:.4f} at G and {s:.4f} at 1-S; on the line "
            f"between them it rises to {between:.2f}. The lowest point of the grid, "
            f"{lowest['loss']:.4f}, is at α = {lowest['alpha']:.2f}, β = {lowest['beta']:.2f}."
        )
    return unbroken("\n\n".join(sentences or [NOT_THERE]))


def reading_3(figures: Figures2to4) -> str:
    """What Fig. 3 shows, in sentences (Markdown)."""
    sentences = []
    for seed, values in claims_minima.pairs(figures, "z2").items():
        layers = claims_minima.by_layer(figures)
        rows = layers[(layers["lobster_seed"] == seed) & (layers["quantity"] == "z2")]
        lower = [r.layer for r in rows.itertuples() if r.low > r.G]
        higher = [r.layer for r in rows.itertuples() if r.high < r.G]
        sentences.append(
            f"**Run {seed}**: mean z² is {values[-1]:.4f} for G and "
            f"{plus_minus(values.drop(-1), 4)} for the rewound networks. Layer by layer G lies "
            f"below their interval in {', '.join(lower) or 'none'}, above it in "
            f"{', '.join(higher) or 'none'}."
        )
    return "\n\n".join(sentences or [NOT_THERE])


def reading_4(figures: Figures2to4) -> str:
    """What Fig. 4 shows, in sentences (Markdown)."""
    sentences = []
    for order in claims_minima.ORDERS:
        parts = [
            f"{values[-1]:.4f} bits against {plus_minus(values.drop(-1), 4)} (run {seed})"
            for seed, values in claims_minima.pairs(figures, order).items()
        ]
        if parts:
            sentences.append(f"- **{SHORT[order]}**: G has {'; '.join(parts)}.")
    return "\n".join(sentences or [NOT_THERE])
