"""Figures -> slides: the pictures between which a widget's controls choose.

Every function gives a slide for each setting of the controls, keyed by the labels of the options,
and none at all where the runs are not there. The numbers are those of the figures' own tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from psplib.experiments.profile import entropies
from psplib.paper import claims_minima
from psplib.paper.figures_minima import LABELS, SHORT, heat, quantity_title, strip
from psplib.paper.slide import Slide, Slides, draw_slide
from psplib.paper.style import ARMS, STYLE
from psplib.paper.tables import Figures2to4

ALL_LAYERS, ALL_CLASSES = "all layers", "all classes"
# A direction's coordinates, and the maps that have it.
COORDINATES = {"surviving": ("map", "pairs"), "all": ("map, all",)}


def planes(figures: Figures2to4, quantities: Sequence[str]) -> Slides:
    """By quantity, layer and coordinates: a map of the plane through G and 1-S, with the contours
    of the training loss. Those that are there."""
    found: Slides = {}
    for quantity in quantities:
        for coordinates, names in COORDINATES.items():
            # Where two maps have a quantity, that of the finer grid, which is named first.
            for points in (figures.maps[n] for n in names if n in figures.maps):
                for column in points.columns:
                    name, _, layer = column.partition(".")
                    key = (LABELS[quantity], layer or ALL_LAYERS, coordinates)
                    if name == quantity and key not in found:
                        found[key] = _plane(points, column, coordinates)
    return found


def _plane(points: pd.DataFrame, column: str, coordinates: str) -> Slide:
    if column == "error":
        points = points.assign(error=100 * points["error"])
    at_g, at_s = (claims_minima.at(points, alpha)[column] for alpha in (0.0, 1.0))
    lowest = points.loc[points[column].idxmin()]
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(5.2, 4.2))
        heat(fig.add_axes((0.16, 0.12, 0.78, 0.79)), points, column)
        alt = (
            f"Map of {quantity_title(column)} over the plane through G and 1-S, the random "
            f"direction in {coordinates} coordinates, {points['alpha'].nunique()} × "
            f"{points['beta'].nunique()} points, with contours of the training loss: "
            f"{at_g:.4g} at G, {at_s:.4g} at 1-S; from {lowest[column]:.4g}, at "
            f"α = {lowest['alpha']:.2f}, β = {lowest['beta']:.2f}, to {points[column].max():.4g}."
        )
        return draw_slide(fig, alt, 128)


def classes(figures: Figures2to4) -> Slides:
    """By definition and layer: the entropy of every network, class by class, a panel for each
    gradual run."""
    neurons = figures.neurons
    if neurons.empty:
        return {}
    keys = ["lobster_seed", "arm", "replica", "class"]
    orders = list(claims_minima.ORDERS)
    mean = neurons.groupby(keys, sort=False)[orders].mean().reset_index()
    layers = {ALL_LAYERS: mean} | dict(tuple(neurons.groupby("layer", sort=False)))
    return {
        (LABELS["first_order" if order == "first" else order], layer): _classes(rows, order, layer)
        for order in orders
        for layer, rows in layers.items()
    }


def _classes(rows: pd.DataFrame, order: str, layer: str) -> Slide:
    runs = list(rows.groupby("lobster_seed"))
    sentences = []
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(3.4 + 3.8 * len(runs), 3.4), layout="constrained")
        axes = fig.subplots(1, len(runs), squeeze=False, sharey=True)[0]
        for ax, (seed, run) in zip(axes, runs, strict=True):
            arms = [a for a in ("lobster", "rewound", "reinitialised") if a in set(run["arm"])]
            for j, arm in enumerate(arms):
                for c, values in run[run["arm"] == arm].groupby("class")[order]:
                    strip(ax, c + 0.25 * (j - (len(arms) - 1) / 2), values, arm)
            wide = run.pivot_table(index=["arm", "replica"], columns="class", values=order)
            margin = 0.08 * (rows[order].max() - rows[order].min()) or 1e-6
            ax.set_ylim(rows[order].min() - margin, rows[order].max() + margin)
            ax.set_xticks(sorted(run["class"].unique()))
            ax.set(xlabel="class", title=f"run {seed}, {layer}")
            sentences.append(_by_class(wide, seed))
        axes[0].set_ylabel(f"{SHORT[order]} [bits]")
        handles = [
            mpl.lines.Line2D([], [], ls="", marker=ARMS[a][1], color=ARMS[a][0], label=ARMS[a][2])
            for a in arms
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
        alt = f"PSP-entropy by class, {SHORT[order]}, {layer}. {' '.join(sentences)}"
        return draw_slide(fig, alt, 32)


def _by_class(wide: pd.DataFrame, seed: int) -> str:
    """A run's entropies (networks, classes) in a sentence."""
    g = wide.loc["lobster"].iloc[0]
    if "rewound" not in wide.index:
        return f"Run {seed}: G has {g.sum():.4f} bits over all classes."
    shots = wide.loc["rewound"].mean()
    widest = (g - shots).abs().idxmax()
    return (
        f"Run {seed}: over all classes G has {g.sum():.4f} bits, the networks from original values "
        f"{shots.sum():.4f} on average; they differ most in class {widest}, with {g[widest]:.4f} "
        f"against {shots[widest]:.4f}."
    )


def neurons(figures: Figures2to4) -> Slides:
    """By layer and class: the neurons of G and 1-S, sorted by their first-order entropy."""
    if not figures.profile:
        return {}
    bits = entropies(figures.profile)
    sizes = figures.profile["layers"].set_index("layer")["neurons"]
    numbers = figures.profile["classes"]["class"].tolist()
    shown = {ALL_CLASSES: numbers} | {f"class {c}": [c] for c in numbers}
    found: Slides = {}
    for layer, size in sizes.items():
        rows = bits[bits["layer"] == layer]
        for name, columns in shown.items():
            values = rows[columns].sum(axis=1)
            g, s = (_falling(values[rows["arm"] == a]) for a in ("lobster", "rewound"))
            found[str(layer), name] = _neurons(str(layer), name, int(size), g, s)
    return found


def _falling(bits: pd.Series) -> np.ndarray:
    return np.sort(bits[bits > 0].to_numpy())[::-1]


def _neurons(layer: str, name: str, size: int, g: np.ndarray, s: np.ndarray) -> Slide:
    most = 10 if name == ALL_CLASSES else 1
    sentences = []
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(6.4, 3.4))
        ax = fig.add_axes((0.1, 0.15, 0.87, 0.74))
        for arm, which, bits in (("lobster", "G", g), ("rewound", "1-S", s)):
            color = ARMS[arm][0]
            mean = bits.sum() / size
            text = f"{which}: {len(bits):,} vary, mean {mean:.4f} bits"
            ax.plot(range(1, len(bits) + 1), bits, color=color, lw=1.8, label=text)
            highest = f", the highest {bits[0]:.3f} bits" if len(bits) else ""
            sentences.append(
                f"{which} has {len(bits):,} that vary{highest}; the mean over all is {mean:.4f} "
                "bits."
            )
        ax.set(xlabel="neurons, sorted", ylabel="first order [bits]", ylim=(0, 1.03 * most))
        ax.set_xlim(0, 1.02 * max(len(g), len(s), 1))
        ax.set_title(f"{layer}, {name}: {size:,} neurons", fontsize=11)
        ax.legend(fontsize=10, loc="upper right")
        alt = (
            f"Neurons of {layer}, sorted by first-order PSP-entropy, {name}, of {size:,}. "
            f"{' '.join(sentences)}"
        )
        return draw_slide(fig, alt, 32)
