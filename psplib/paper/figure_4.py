"""Fig. 4 and section 5.3: PSP-entropy of G and of the one-shot networks."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from psplib.experiments.profile import entropies
from psplib.paper.display import NOT_THERE
from psplib.paper.minima import (
    NETWORK,
    Comparison,
    Figures2to4,
    Quantity,
    arm_legend,
    both_in_words,
    by_arm,
    frame,
    in_each,
    layer_differences,
    present,
    strip,
    strips,
)
from psplib.paper.plane import ALL_LAYERS, LABELS, against_g, lossy_below
from psplib.paper.slide import Slide, Slides, draw_slide
from psplib.paper.statistics import MARGIN, UNDECIDED, Verdict
from psplib.paper.style import ARMS, STYLE

# The definitions of PSP-entropy: the columns of the censuses, and their names.
FIRST = {"first": "first order"}
SECOND = {"joint": "joint", "mutual": "mutual", "agreement": "agreement"}
ORDERS = FIRST | SECOND
QUANTITIES = {
    "first": Quantity("first [bits]", 4),
    "joint": Quantity("joint [bits]", 4),
    "mutual": Quantity("mutual [bits]", 5),
    "agreement": Quantity("agreement [bits]", 4),
}
ALL_CLASSES = "all classes"


def entropy_maps(figures: Figures2to4) -> Figure | None:
    """Figs. 4a and 4b: first-order entropy on the plane, and the definitions of second order, those
    of pairs on a coarser grid; None, here and below, where it is not there yet."""
    points, pairs = figures.map(), figures.map(pairs=True)
    shown = [(points, "first_order"), (points, "agreement"), (pairs, "joint"), (pairs, "mutual")]
    return against_g(shown)


def entropies_on_plane(figures: Figures2to4) -> pd.DataFrame:
    """What `entropy_maps` draws, by place: joint and mutual on the coarser grid of pairs, empty
    elsewhere."""
    place = ["alpha", "beta"]
    drawn = (
        (figures.map(), ["loss", "first_order", "agreement"]),
        (figures.map(pairs=True), ["joint", "mutual"]),
    )
    tables = [points[[*place, *columns]] for points, columns in drawn if points is not None]
    if len(tables) < 2:
        return tables[0] if tables else pd.DataFrame()
    return tables[0].merge(tables[1], on=place, how="outer")


def layers_of_figure_4(figures: Figures2to4) -> Figure | None:
    """Entropies layer by layer, a column for each layer, a row for each definition: G and each
    one-shot network of every gradual run."""
    if figures.neurons.empty:
        return None
    by_layer = figures.neurons.groupby([*NETWORK, "layer"], sort=False)[list(ORDERS)]
    total = by_layer.sum().reset_index()
    names = list(dict.fromkeys(figures.neurons["layer"]))
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(2.9 * len(names), 2.1 * len(ORDERS)), layout="constrained")
        axes = fig.subplots(len(ORDERS), len(names), squeeze=False, sharex=True)
        for row, (order, title) in zip(axes, ORDERS.items(), strict=True):
            for ax, layer in zip(row, names, strict=True):
                strips(ax, total[total["layer"] == layer], order)
                if order == "first":
                    ax.set_title(layer, fontsize=10)
            row[0].set_ylabel(f"{title} [bits]")
        arm_legend(fig, total)
    return fig


def table_of_figure_4(figures: Figures2to4) -> pd.DataFrame:
    """The entropies of the censuses, a row for each gradual run and arm."""
    return by_arm(figures, QUANTITIES)


def entropy_by_layer(figures: Figures2to4) -> pd.DataFrame:
    """G minus the mean of the rewound networks, a row for each run and layer, a column for each
    definition; bold (Markdown) where the 95 % interval excludes zero."""
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for order, title in ORDERS.items():
        for found in layer_differences(figures, order).itertuples():
            row = rows.setdefault(
                (found.lobster_seed, found.layer),
                {"run": found.lobster_seed, "layer": found.layer},
            )
            text = f"{found.difference:+.4f}"
            row[title] = text if found.verdict == UNDECIDED else f"<b>{text}</b>"
    return pd.DataFrame(rows.values())


_COMPARABLE = "Gradual and one-shot pruning have comparable first-order entropies: {}."
COMPARABLE_FIRST, COMPARABLE_POOLED = (
    Comparison(
        _COMPARABLE.format(mean), "5.3", f"first-order entropy, {mean}", column, 1, "bits", MARGIN
    )
    for column, mean in (("first", "layers of equal weight"), ("first_pooled", "pooled neurons"))
)
HIGHER_SECOND = {
    name: Comparison(
        f"Gradual pruning has the higher second-order entropy: {name}{note}.",
        "5.3",
        f"second-order entropy, {name}",
        column,
        1,
        "bits",
    )
    for column, (name, note) in {
        "mutual": ("mutual", ""),
        "agreement": ("agreement", ""),
        "joint": ("joint", ", which is 2 · first order − mutual and so no further witness"),
    }.items()
}
_AGNOSTIC = "The features of the gradual solution are less correlated to specific classes: {}."
AGNOSTIC = (
    Comparison(
        _AGNOSTIC.format("information of a neuron's state on the class"),
        "5.3",
        "I(state; class), mean of active neurons",
        "information",
        -1,
        "bits",
    ),
    Comparison(
        _AGNOSTIC.format("class-selectivity index"),
        "5.3",
        "class-selectivity index, mean of active neurons",
        "selectivity",
        -1,
        "index",
    ),
)
COMPARED = (COMPARABLE_FIRST, COMPARABLE_POOLED, *HIGHER_SECOND.values(), *AGNOSTIC)


def claims_of_figure_4(figures: Figures2to4) -> list[Verdict]:
    """Section 5.3: PSP-entropy of first and second order, in every network."""
    elsewhere = lossy_below(
        "There are regions of lower first-order entropy, but their loss is higher.",
        figures.map(),
        "first_order",
    )
    first = [v for c in (COMPARABLE_FIRST, COMPARABLE_POOLED) for v in in_each(c, figures)]
    second = [v for c in HIGHER_SECOND.values() for v in in_each(c, figures)]
    agnostic = [v for c in AGNOSTIC for v in in_each(c, figures)]
    return [*first, elsewhere, *second, *agnostic]


# The chapter's first sentence, see `display.in_one_sentence`.
ANSWER = {
    "first-order entropies: layers of equal weight": "G and the rewound networks have comparable "
    "entropies of first order",
    "second-order entropy: mutual": "G has the higher one of second order by *mutual*",
    "second-order entropy: agreement": "it has the higher one by *agreement*",
}


def reading_of_figure_4(figures: Figures2to4) -> str:
    """What Fig. 4 shows, in sentences (Markdown)."""
    numbers = {title: both_in_words(figures, order, 4) for order, title in ORDERS.items()}
    known = "; ".join(f"{title} {found}" for title, found in numbers.items() if found)
    if not known:
        return NOT_THERE
    return f"**Bits of G, and in brackets of the networks rewound under its mask:** {known}."


def class_slides(figures: Figures2to4) -> Slides:
    """By definition and layer: the entropy of every network, class by class, a panel for each
    gradual run."""
    neurons = figures.neurons
    if neurons.empty:
        return {}
    mean = neurons.groupby([*NETWORK, "class"], sort=False)[list(ORDERS)].mean().reset_index()
    layers = {ALL_LAYERS: mean} | dict(tuple(neurons.groupby("layer", sort=False)))
    return {
        (LABELS["first_order" if order == "first" else order], layer): _classes(rows, order, layer)
        for order in ORDERS
        for layer, rows in layers.items()
    }


def _classes(rows: pd.DataFrame, order: str, layer: str) -> Slide:
    runs = list(rows.groupby("lobster_seed"))
    sentences = []
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(3.4 + 3.8 * len(runs), 3.4), layout="constrained")
        axes = fig.subplots(1, len(runs), squeeze=False, sharey=True)[0]
        for ax, (seed, run) in zip(axes, runs, strict=True):
            arms = present(run)
            for j, arm in enumerate(arms):
                for c, values in run[run["arm"] == arm].groupby("class")[order]:
                    strip(ax, c + 0.25 * (j - (len(arms) - 1) / 2), values, arm)
            wide = run.pivot_table(index=["arm", "replica"], columns="class", values=order)
            frame(ax, rows[order])
            ax.set_xticks(sorted(run["class"].unique()))
            ax.set(xlabel="class", title=f"run {seed}, {layer}")
            sentences.append(_by_class(wide, seed))
        axes[0].set_ylabel(f"{ORDERS[order]} [bits]")
        arm_legend(fig, rows)
        alt = f"PSP-entropy by class, {ORDERS[order]}, {layer}. {' '.join(sentences)}"
        return draw_slide(fig, alt, 32)


def _by_class(wide: pd.DataFrame, seed: int) -> str:
    """A run's entropies (networks, classes) in a sentence."""
    g = wide.loc["lobster"].iloc[0]
    if "rewound" not in wide.index:
        return f"Run {seed}: G has {g.sum():.4f} bits over all classes."
    shots = wide.loc["rewound"].mean()
    widest = (g - shots).abs().idxmax()
    return (
        f"Run {seed}: over all classes G has {g.sum():.4f} bits, the rewound networks "
        f"{shots.sum():.4f} on average; they differ most in class {widest}, with {g[widest]:.4f} "
        f"against {shots[widest]:.4f}."
    )


def neuron_slides(figures: Figures2to4) -> Slides:
    """By layer and class: the neurons of G and 1-S, sorted by their first-order entropy."""
    if not figures.profile:
        return {}
    bits = entropies(dict(figures.profile))
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
