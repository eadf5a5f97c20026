"""Fig. 3 and section 5.3: the magnitude of the potentials of G and of the one-shot networks."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.figure import Figure

from psplib.paper.display import NOT_THERE, counted
from psplib.paper.minima import (
    NETWORK,
    Censuses,
    Comparison,
    Figures2to4,
    Quantity,
    both_in_words,
    in_each,
    layer_differences,
    networks_plot,
    runs_plot,
)
from psplib.paper.plane import against_g, layer_columns, lossy_below
from psplib.paper.statistics import Verdict
from psplib.paper.style import STYLE

# Replicas that a rank correlation needs.
FEWEST = 4


def magnitude_maps(figures: Figures2to4) -> Figure | None:
    """Fig. 3: mean z² on the plane, of all layers and layer by layer; None, here and below, where
    it is not there yet."""
    points = figures.map()
    columns = [] if points is None else layer_columns(points, "magnitude")
    return against_g([(points, column) for column in columns])


def networks_of_figure_3(figures: Figures2to4) -> Figure | None:
    """Mean z² of every network, over all hidden layers and layer by layer."""
    if figures.neurons.empty:
        return None
    wide = figures.neurons.groupby([*NETWORK, "layer"], sort=False)["z2"].first().unstack("layer")
    layers = list(dict.fromkeys(figures.neurons["layer"]))
    table = figures.table[[*NETWORK, "z2"]].merge(wide[layers].reset_index(), on=NETWORK)
    titles = {"z2": "all layers"} | {name: name for name in layers}
    return networks_plot(table, {column: Quantity(title, 2) for column, title in titles.items()})


_HIDDEN = "hidden layers"
_LOWER = "The gradual solution has lower PSP magnitudes than the one-shot solution: {}."
LOWER_MAGNITUDE, LOWER_WITH_LOGITS = (
    Comparison(_LOWER.format(mean), "5.3", f"mean z², {mean}", column, -1, "×")
    for column, mean in (
        ("z2", _HIDDEN),
        ("z2_with_logits", "hidden layers and logits, as the authors' code has it"),
    )
)


def claims_of_figure_3(figures: Figures2to4) -> list[Verdict]:
    """Section 5.3: the magnitude of the potentials."""
    return [
        *in_each(LOWER_MAGNITUDE, figures),
        *in_each(LOWER_WITH_LOGITS, figures),
        lossy_below(
            "There are regions with even lower magnitudes, but their loss is higher.",
            figures.map(),
            "magnitude",
        ),
    ]


def averages_plot(figures: Figures2to4) -> Figure | None:
    """How many times larger z² is in the one-shot networks, by both averages, run by run."""
    return runs_plot([LOWER_MAGNITUDE, LOWER_WITH_LOGITS], figures)


def training_plot(figures: Figures2to4) -> Figure | None:
    """Mean z² of each rewound network against the epoch that it was taken from: a panel for each
    network, a colour for each mask; a line at the z² of its G."""
    known = [one for one in figures.networks if "best_epoch" in one.table]
    if not known:
        return None
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 3.1), layout="constrained")
        axes = fig.subplots(1, len(known), squeeze=False)[0]
        for ax, one in zip(axes, known, strict=True):
            for i, (_, rows) in enumerate(one.table.dropna(subset="z2").groupby("lobster_seed")):
                color = mpl.colormaps["viridis"](0.36 + 0.04 * i)
                rewound, gradual = (rows[rows["arm"] == arm] for arm in ("rewound", "lobster"))
                ax.plot(rewound["best_epoch"], rewound["z2"], "o", ms=4, color=color)
                ax.axhline(gradual["z2"].iloc[0], color=color, lw=0.8, ls="--", zorder=0)
            ax.set(xlabel="best epoch", title=one.title.replace(", ", ",\n"))
        axes[0].set_ylabel("mean z², hidden layers")
    return fig


def follows_training(figures: Figures2to4) -> str:
    """That z² of a rewound network goes with how long it was trained, in a sentence for each
    network (Markdown)."""
    sentences = []
    for one in figures.networks:
        found = _by_epoch(one)
        if found:
            spread = (
                f"{min(found):.2f} to {max(found):.2f}" if len(found) > 1 else f"{found[0]:.2f}"
            )
            sentences.append(
                f"**{one.title}**: the rank correlation of z² with the best epoch, under one mask "
                f"at a time, is {spread} ({counted(len(found), 'mask')})."
            )
    few = f"No mask has {FEWEST} rewound networks of different best epochs to compare."
    return "\n\n".join(sentences or [few])


def _by_epoch(censuses: Censuses) -> list[float]:
    """The rank correlation of z² with the best epoch under each mask that has replicas enough, and
    epochs that differ."""
    if "best_epoch" not in censuses.table:
        return []
    rewound = censuses.table[censuses.table["arm"] == "rewound"]
    return [
        float(rows["best_epoch"].corr(rows["z2"], method="spearman"))
        for _, rows in rewound.groupby("lobster_seed")
        if len(rows) >= FEWEST and rows["best_epoch"].nunique() > 1
    ]


# The chapter's first sentence, see `display.in_one_sentence`.
ANSWER = {
    f"lower PSP magnitudes than the one-shot solution: {_HIDDEN}.": "the potentials of the hidden "
    "neurons are smaller in G"
}


def reading_of_figure_3(figures: Figures2to4) -> str:
    """What Fig. 3 shows, in sentences (Markdown)."""
    numbers = both_in_words(figures, "z2", 2)
    if not numbers:
        return NOT_THERE
    layers = layer_differences(figures, "z2")
    said = [f"**Mean z² of G, and in brackets of the networks rewound under its mask:** {numbers}."]
    for seed, rows in layers.groupby("lobster_seed"):
        lower = ", ".join(rows.loc[rows["low"] > rows["G"], "layer"]) or "none"
        higher = ", ".join(rows.loc[rows["high"] < rows["G"], "layer"]) or "none"
        said.append(f"Run {seed}: G is below their interval in {lower}, above it in {higher}.")
    return " ".join(said)
