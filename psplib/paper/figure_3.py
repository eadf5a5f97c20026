"""Fig. 3 and section 5.3: the magnitude of the potentials of G and of the one-shot networks."""

from __future__ import annotations

from matplotlib.figure import Figure

from psplib.paper.display import NOT_THERE, plus_minus
from psplib.paper.minima import (
    NETWORK,
    Comparison,
    Figures2to4,
    Quantity,
    beside,
    in_each,
    layer_differences,
    networks_plot,
)
from psplib.paper.plane import layer_columns, lossy_below, maps_plot
from psplib.paper.statistics import Verdict


def magnitude_map(figures: Figures2to4) -> Figure | None:
    """Fig. 3: mean z² on the plane; None, here and below, where it is not there yet."""
    return maps_plot([(figures.map(), "magnitude")])


def magnitude_maps(figures: Figures2to4) -> Figure | None:
    """The same layer by layer."""
    points = figures.map()
    if points is None:
        return None
    return maps_plot([(points, c) for c in layer_columns(points, "magnitude").values()], columns=3)


def networks_of_figure_3(figures: Figures2to4) -> Figure | None:
    """Mean z² of every network, over all hidden layers and layer by layer."""
    if figures.neurons.empty:
        return None
    wide = figures.neurons.groupby([*NETWORK, "layer"], sort=False)["z2"].first().unstack("layer")
    layers = list(dict.fromkeys(figures.neurons["layer"]))
    table = figures.table[[*NETWORK, "z2"]].merge(wide[layers].reset_index(), on=NETWORK)
    titles = {"z2": "all layers"} | {name: name for name in layers}
    return networks_plot(table, {column: Quantity(title, 2) for column, title in titles.items()})


LOWER_MAGNITUDE = Comparison(
    "The gradual solution has lower PSP magnitudes than the one-shot solution.",
    "5.3",
    "mean z²",
    "z2",
    -1,
    "×",
)


def claims_of_figure_3(figures: Figures2to4) -> list[Verdict]:
    """Section 5.3: the magnitude of the potentials."""
    return [
        *in_each(LOWER_MAGNITUDE, figures),
        lossy_below(
            "There are regions with even lower magnitudes, but their loss is higher.",
            figures.map(),
            "magnitude",
        ),
    ]


def reading_of_figure_3(figures: Figures2to4) -> str:
    """What Fig. 3 shows, in sentences (Markdown)."""
    layers = layer_differences(figures, "z2")
    sentences = []
    for seed, gradual, replicas in beside(figures, "z2"):
        rows = layers[layers["lobster_seed"] == seed]
        lower = rows.loc[rows["low"] > rows["G"], "layer"]
        higher = rows.loc[rows["high"] < rows["G"], "layer"]
        sentences.append(
            f"**Run {seed}**: mean z² is {gradual:.4f} for G and "
            f"{plus_minus(replicas, 4)} for the rewound networks. Layer by layer G lies "
            f"below their interval in {', '.join(lower) or 'none'}, above it in "
            f"{', '.join(higher) or 'none'}."
        )
    return "\n\n".join(sentences or [NOT_THERE])
