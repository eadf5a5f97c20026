"""Fig. 2 and section 5.2: loss, error and curvature of G and of the one-shot networks."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psplib.paper.display import NOT_THERE, plus_minus, unbroken
from psplib.paper.minima import (
    Comparison,
    Figures2to4,
    Quantity,
    beside,
    by_arm,
    compare,
    in_each,
    networks_plot,
)
from psplib.paper.plane import SOLUTIONS, at, maps_plot
from psplib.paper.statistics import FAILS, HOLDS, NOT_RUN, UNDECIDED, Verdict, everywhere
from psplib.paper.style import STYLE, plain_ticks

QUANTITIES = {
    "train_loss": Quantity("training loss", 4, log=True),
    "test_error": Quantity("test error [%]", 2, scale=100),
    "lambda_1": Quantity("λ₁, surviving", 2),
    "lambda_1_all": Quantity("λ₁, all", 1),
    "norm": Quantity("norm", 2),
}
# One hue for each rank, from the largest to the smallest eigenvalue.
_RANKS = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, 5))


def loss_map(figures: Figures2to4, subspace: str = "surviving") -> Figure | None:
    """Fig. 2a: the training loss on the plane through G and 1-S; None, here and below, where what
    it is made of is not there yet."""
    return maps_plot([(figures.map(subspace), "loss")])


def eigenvalues_plot(figures: Figures2to4) -> Figure | None:
    """Fig. 2b: the five leading eigenvalues along the line from G to 1-S, surviving coordinates and
    all; crosses: what the paper's tool computes."""
    shown = [s for s in ("surviving", "all") if figures.line(s) is not None]
    if not shown:
        return None
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(4.7 * len(shown), 3.9), layout="constrained")
        axes = fig.subplots(1, len(shown), squeeze=False)
        for ax, subspace in zip(axes.flat, shown, strict=True):
            _draw_line(ax, figures, subspace)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        fig.legend(handles, labels, title="rank", loc="outside right center", fontsize=9)
    return fig


def _draw_line(ax: Axes, figures: Figures2to4, subspace: str) -> None:
    looks: dict[str, Any] = {"converged": {"marker": "o", "ls": "-", "ms": 3.5}}
    looks["legacy"] = {"marker": "x", "ls": "", "ms": 7, "mew": 1.6}
    lowest = []
    for definition, look in looks.items():
        table = figures.line(subspace, definition)
        if table is None:
            continue
        lowest.append(table["eigenvalue"].min())
        for rank, rows in table.groupby("rank"):
            label = rank if definition == "converged" else definition if rank == 1 else None
            color = _RANKS[int(rank) - 1]
            ax.plot(rows["alpha"], rows["eigenvalue"], color=color, label=label, **look)
    for alpha, color, name in SOLUTIONS:
        ax.axvline(alpha, color=color, lw=1, ls="--", zorder=0)
        ax.annotate(
            name,
            (alpha, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -12),
            textcoords="offset points",
            color=color,
            weight="bold",
        )
    ax.set(xlabel="α", ylabel="eigenvalue", title=f"{subspace} coordinates")
    if min(lowest) > 0:
        ax.set_yscale("log")
        plain_ticks(ax.yaxis)


def networks_of_figure_2(figures: Figures2to4) -> Figure | None:
    """Loss, error, curvature and norm of every network."""
    return networks_plot(figures.table, QUANTITIES)


def table_of_figure_2(figures: Figures2to4) -> pd.DataFrame:
    """The same, a row for each gradual run and arm."""
    return by_arm(figures, QUANTITIES)


def eigenvalues_table(figures: Figures2to4) -> pd.DataFrame:
    """The eigenvalues along the line, all subspaces and definitions in one table."""
    frames = [
        rows.assign(subspace=line.subspace, definition=line.definition)
        for line, rows in figures.lines.items()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def residuals(figures: Figures2to4) -> pd.DataFrame:
    """How far the eigenvalues along the line are converged: for each subspace and definition the
    points, the Hessian-vector products at a point, the worst residual relative to λ₁."""
    rows = []
    for line, group in figures.lines.items():
        first = group[group["rank"] == 1].set_index("alpha")["eigenvalue"]
        relative = group["residual"].to_numpy() / first.loc[group["alpha"]].to_numpy()
        rows.append(
            {
                "coordinates": line.subspace,
                "definition": line.definition,
                "points": group["alpha"].nunique(),
                "products a point": f"{group.groupby('alpha')['products'].first().mean():.0f}",
                "worst residual / λ₁": f"{relative.max():.1e}",
            }
        )
    return pd.DataFrame(rows)


LOWER_LOSS = Comparison(
    "The gradual solution lies in a lower region of the training loss.",
    "5.2",
    "training loss",
    "train_loss",
    -1,
    "×",
)
GENERALISES = Comparison(
    "The gradual solution generalises slightly better.",
    "5.2",
    "test error",
    "test_error",
    -1,
    "points",
)
_NARROWER = (
    "The gradual solution lies in a narrower minimum than the one-shot solution: {} coordinates."
)
NARROWER = Comparison(
    _NARROWER.format("surviving"), "5.2", "largest eigenvalue", "lambda_1", 1, "×"
)
NARROWER_ALL = Comparison(
    _NARROWER.format("all"),
    "5.2",
    "largest eigenvalue with pruned coordinates",
    "lambda_1_all",
    1,
    "×",
)


def claims_of_figure_2(figures: Figures2to4) -> list[Verdict]:
    """Section 5.2: loss, error and curvature."""
    return [
        *in_each(LOWER_LOSS, figures),
        *in_each(GENERALISES, figures),
        _positive(figures),
        *in_each(NARROWER, figures),
        *in_each(NARROWER_ALL, figures),
    ]


def sharp_and_good(figures: Figures2to4) -> Verdict:
    """Of "a narrow minimum can be the one that generalises better", from the two claims before."""
    both = [compare(c, figures).verdict for c in (GENERALISES, NARROWER)]
    together = NOT_RUN if NOT_RUN in both else everywhere(both)
    return Verdict(
        "Not all narrow minima generalise worse than wide ones.",
        "5.2",
        "both hold: G generalises better, and its minimum is narrower (surviving coordinates)",
        together if together in (HOLDS, NOT_RUN) else UNDECIDED,
    )


def _positive(figures: Figures2to4) -> Verdict:
    claim = "The five leading eigenvalues are all positive, at both solutions."
    table = figures.table[figures.table["arm"].isin(["lobster", "rewound"])]
    if table.empty:
        return Verdict(claim, "5.2", "", NOT_RUN)
    fifth = table["lambda_5"] - table["residual"] * table["lambda_1"]
    return Verdict(
        claim,
        "5.2",
        "the fifth, less its residual, is above zero for every network "
        f"(smallest: {fifth.min():.3g}; surviving coordinates)",
        HOLDS if (fifth > 0).all() else FAILS,
        n=len(table),
    )


def reading_of_figure_2(figures: Figures2to4) -> str:
    """What Fig. 2 shows, in sentences (Markdown) whose numbers come from the tables."""
    parts: dict[int, list[str]] = {}
    for column, words in (
        ("train_loss", "a training loss of {}"),
        ("test_error", "a test error of {} %"),
        ("lambda_1", "a largest eigenvalue of {} in the surviving coordinates"),
        ("lambda_1_all", "and {} in all"),
    ):
        scale, digits = QUANTITIES[column].scale, 4 if column == "train_loss" else 2
        for seed, gradual, replicas in beside(figures, column):
            numbers = f"{scale * gradual:.{digits}f} ({plus_minus(scale * replicas, digits)})"
            parts.setdefault(seed, []).append(words.format(numbers))
    sentences = [
        f"**Run {seed}**: G has {', '.join(found)}; in brackets the rewound networks of its mask."
        for seed, found in sorted(parts.items())
    ]
    points = figures.map()
    if points is not None:
        lowest = points.loc[points["loss"].idxmin()]
        g, s = (at(points, alpha)["loss"] for alpha, _, _ in SOLUTIONS)
        between = points[(points["beta"] == 0) & points["alpha"].between(0, 1)]["loss"].max()
        sentences.append(
            f"On the plane the training loss is {g:.4f} at G and {s:.4f} at 1-S; on the line "
            f"between them it rises to {between:.2f}. The lowest point of the grid, "
            f"{lowest['loss']:.4f}, is at α = {lowest['alpha']:.2f}, β = {lowest['beta']:.2f}."
        )
    return unbroken("\n\n".join(sentences or [NOT_THERE]))
