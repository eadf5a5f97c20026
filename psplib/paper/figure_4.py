"""Fig. 4 and section 5.3: PSP-entropy of G and of the one-shot networks."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from psplib.paper.display import NOT_THERE
from psplib.paper.minima import (
    NETWORK,
    Comparison,
    Figures2to4,
    Quantity,
    arm_legend,
    both_in_words,
    by_arm,
    in_each,
    layer_differences,
    strips,
)
from psplib.paper.plane import against_g, lossy_below
from psplib.paper.statistics import MARGIN, UNDECIDED, Verdict
from psplib.paper.style import STYLE

# The definitions of PSP-entropy: the columns of the censuses, and their names.
FIRST = {"first": "first order"}
SECOND = {"joint": "joint", "mutual": "mutual", "agreement": "agreement"}
ORDERS = FIRST | SECOND
QUANTITIES = {
    "first": Quantity("first [bits]", 4),
    "joint": Quantity("joint [bits]", 4),
    "mutual": Quantity("mutual [bits]", 5),
    "agreement": Quantity("agreement [bits]", 3),
}


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
