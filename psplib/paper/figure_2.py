"""Fig. 2 and section 5.2: loss, error and curvature of G and of the one-shot networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psplib.experiments.sharpness import MEASURES
from psplib.paper.display import (
    NOT_THERE,
    effect_in_words,
    plus_minus,
    unbroken,
)
from psplib.paper.minima import (
    Censuses,
    Comparison,
    Effects,
    Figures2to4,
    Quantity,
    beside,
    both_in_words,
    by_arm,
    compare,
    decide,
    in_each,
    networks_plot,
    runs_plot,
    runs_that_enter,
)
from psplib.paper.plane import SOLUTIONS, at, heat, mark_solutions
from psplib.paper.statistics import (
    FAILS,
    HOLDS,
    NOT_RUN,
    UNDECIDED,
    Interval,
    Tested,
    Verdict,
    any_of,
    interval,
    reported,
    widened,
)
from psplib.paper.style import STYLE, plain_ticks
from psplib.paper.tables import together

QUANTITIES = {
    "train_loss": Quantity("training loss", 4, log=True),
    "test_error": Quantity("test error [%]", 2, scale=100),
    "lambda_1": Quantity("λ₁, surviving", 2),
    "lambda_1_all": Quantity("λ₁, all", 1),
    "norm": Quantity("norm", 2),
}
# One hue for each rank, from the largest to the smallest eigenvalue, seen on light and dark pages.
_RANKS = mpl.colormaps["viridis"](np.linspace(0.36, 0.66, 5))


def loss_map(figures: Figures2to4) -> Figure | None:
    """Fig. 2a: the training loss on the plane through G and 1-S, and along the line through them;
    None, here and below, where what it is made of is not there yet."""
    points = figures.map()
    if points is None:
        return None
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 3.4), layout="constrained")
        plane, along = fig.subplots(1, 2)
        heat(plane, points, "loss")
        line = points[points["beta"] == 0]
        along.plot(line["alpha"], line["loss"], color="black", lw=1.6)
        along.set(yscale="log", title="along the line, β = 0")
        plain_ticks(along.yaxis)
        mark_solutions(along)
    return fig


def eigenvalues_plot(figures: Figures2to4) -> Figure | None:
    """Fig. 2b: the five leading eigenvalues along the line from G to 1-S, surviving coordinates and
    all; crosses: what the paper's tool computes."""
    shown = [s for s in ("surviving", "all") if figures.line(s) is not None]
    if not shown:
        return None
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(3.6 * len(shown), 3.6), layout="constrained")
        axes = fig.subplots(1, len(shown), squeeze=False)
        for ax, subspace in zip(axes.flat, shown, strict=True):
            _draw_line(ax, figures, subspace)
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
            color = _RANKS[int(rank) - 1]
            ax.plot(rows["alpha"], rows["eigenvalue"], color=color, **look)
            if definition == "converged":
                end = rows["alpha"].iloc[-1], rows["eigenvalue"].iloc[-1]
                name, where = f"λ{'₁₂₃₄₅'[int(rank) - 1]}", "offset points"
                ax.annotate(name, end, (6, 0), textcoords=where, va="center")
    mark_solutions(ax)
    ax.set(ylabel="eigenvalue", title=f"{subspace} coordinates")
    ax.margins(x=0.08)
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
    return together(frames)


def residuals(figures: Figures2to4) -> pd.DataFrame:
    """How far the eigenvalues along the line are converged: for each subspace and definition the
    points, the mean number of Hessian-vector products at a point, the worst residual over λ₁."""
    rows = []
    for line, group in figures.lines.items():
        first = group[group["rank"] == 1].set_index("alpha")["eigenvalue"]
        relative = group["residual"].to_numpy() / first.loc[group["alpha"]].to_numpy()
        rows.append(
            {
                "coordinates": line.subspace,
                "definition": line.definition,
                "points": group["alpha"].nunique(),
                "products": f"{group.groupby('alpha')['products'].first().mean():.0f}",
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


@dataclass(frozen=True)
class Narrower(Comparison):
    """A claim on a measure of curvature, which was taken on several samples of the images: what
    other images would change widens its interval."""

    def over(self, found: Sequence[Effects], censuses: Censuses) -> Interval:
        """The interval over runs, or replicas, with the standard error over samples of images."""
        seeds = [e.seed for e in found]
        columns = [c for c in censuses.table.columns if c.startswith(f"{self.column}.")]
        on_each = [
            [e.values.mean() for e in replace(self, column=c).measure(censuses, seeds)]
            for c in columns
        ]
        by_images = interval([float(np.mean(effects)) for effects in on_each])
        return widened(super().over(found, censuses), by_images)


_NARROWER = "The gradual solution lies in a narrower minimum than the one-shot solution: {}."
NARROWER = {
    column: Narrower(_NARROWER.format(name), "5.2", MEASURES[column], column, 1, "×")
    for column, name in {
        "narrow": "surviving coordinates",
        "narrow_all": "all coordinates",
        "narrow_global": "λ₁ · ‖θ‖², which a rescaling of the whole network leaves alone",
        "narrow_relative": "λmax of |w|·H·|w|, which a rescaling of single units leaves alone",
    }.items()
}
NARROWER_ALL = NARROWER["narrow_all"]


def claims_of_figure_2(figures: Figures2to4) -> list[Verdict]:
    """Section 5.2: loss, error and curvature."""
    return [
        *in_each(LOWER_LOSS, figures),
        *in_each(GENERALISES, figures),
        *(_positive(one) for one in figures.networks),
        *(v for narrower in NARROWER.values() for v in in_each(narrower, figures)),
    ]


def sharp_and_good(figures: Figures2to4) -> list[Verdict]:
    """Of "a narrow minimum can be the one that generalises better", by each measure of narrow."""
    return [_sharp_and_good(narrower, figures) for narrower in NARROWER.values()]


def _sharp_and_good(narrower: Narrower, figures: Figures2to4) -> Verdict:
    claim = f"Not all narrow minima generalise worse than wide ones: {narrower.quantity}."
    known = [one for one in figures.networks if narrower.measure(one) and not one.unequal]
    if not known:
        return Verdict(claim, "5.2", "", NOT_RUN, unit="×")
    found = any_of([_narrow_and_good(narrower, one) for one in known])
    test = (
        "in a network the solution that generalises better is the narrower one: G is better and "
        "narrower, or worse and wider; it fails where in every network the wider one is better; "
        f"{found.where} decides, {narrower.quantity}, {narrower.effect}"
    )
    basis = "; ".join(runs_that_enter(narrower, one) for one in known)
    return reported(claim, "5.2", test, found, basis, "×")


def _narrow_and_good(narrower: Narrower, censuses: Censuses) -> Tested:
    better, sharper = (decide(c, censuses) for c in (GENERALISES, narrower))
    verdict = UNDECIDED
    if {better.verdict, sharper.verdict} <= {HOLDS, FAILS}:
        verdict = HOLDS if better.verdict == sharper.verdict else FAILS
    p = max(better.p, sharper.p)
    return replace(narrower.in_unit(sharper), verdict=verdict, p=p, where=censuses.title)


def _positive(censuses: Censuses) -> Verdict:
    """Of "the five largest in magnitude are the five largest", as a tool that ranks by magnitude
    would see it: no negative eigenvalue comes near."""
    claim = f"The five leading eigenvalues are all positive, at both solutions ({censuses.title})."
    table = censuses.table
    if "fifth" not in table or table["fifth"].isna().all():
        return Verdict(claim, "5.2", "", NOT_RUN)
    table = table[table["arm"].isin(["lobster", "rewound"])].dropna(subset="fifth")
    gap = table["fifth"] - table["smallest"].abs()
    slack = table["fifth_residual"] + table["smallest_residual"]
    nearest = (table["smallest"].abs() / table["fifth"]).max()
    return Verdict(
        claim,
        "5.2",
        "|λmin| is below λ₅ by more than their residuals, for every network (largest ratio "
        f"{nearest:.2g}; surviving coordinates)",
        HOLDS if (gap > slack).all() else FAILS if (gap < -slack).any() else UNDECIDED,
        n=len(table),
        basis=runs_that_enter(NARROWER["narrow"], censuses),
    )


def narrow_plot(figures: Figures2to4) -> Figure | None:
    """How many times narrower the minimum of G is, by each measure, run by run and over runs."""
    return runs_plot(list(NARROWER.values()), figures)


def narrow_table(figures: Figures2to4) -> pd.DataFrame:
    """A row for each network and measure: G and the rewound networks, mean ± half of the 95 %
    interval over runs; their factor over runs and images; what other images change."""
    rows = []
    for one in figures.networks:
        for column, narrower in NARROWER.items():
            found = list(beside(one, column))
            if not found:
                continue
            verdict = compare(narrower, one)
            rows.append(
                {
                    "network": one.title,
                    "measure": MEASURES[column],
                    "runs": len(found),
                    "G": plus_minus(pd.Series([f.gradual for f in found]), 2),
                    "one-shot": plus_minus(pd.Series([f.replicas.mean() for f in found]), 2),
                    "G / one-shot": effect_in_words(verdict),
                    "sample to sample": _between_samples(one, column),
                }
            )
    return pd.DataFrame(rows)


def _between_samples(censuses: Censuses, column: str) -> str:
    """The standard deviation of a measure of one network between samples of images, in per cent:
    that of its logarithm, a root of the mean square over networks. A dash if there is one only."""
    parts = [c for c in censuses.table.columns if c.startswith(f"{column}.")]
    if not parts:
        return "–"
    logs = np.log(censuses.table[parts].dropna())
    return f"± {100 * np.sqrt(logs.var(axis=1).mean()):.0f} %"


# The chapter's first sentence, see `display.in_one_sentence`.
ANSWER = {
    "lower region of the training loss": "G has the lower training loss",
    "generalises slightly better": "G has the lower test error",
    "one-shot solution: surviving coordinates": "G lies in the narrower minimum (surviving "
    "coordinates)",
}


def reading_of_figure_2(figures: Figures2to4) -> str:
    """What Fig. 2 shows, in sentences (Markdown) whose numbers come from the tables."""
    parts = {
        "training loss": both_in_words(figures, "train_loss", 4),
        "test error [%]": both_in_words(figures, "test_error", 2, 100),
        "λ₁ in surviving coordinates": both_in_words(figures, "lambda_1", 2),
        "in all": both_in_words(figures, "lambda_1_all", 1),
    }
    known = "; ".join(f"{name} {numbers}" for name, numbers in parts.items() if numbers)
    if not known:
        return NOT_THERE
    said = f"**G, and in brackets the networks rewound under its mask,** by gradual run: {known}."
    points = figures.map()
    if points is not None:
        g, s = (at(points, alpha)["loss"] for alpha, _, _ in SOLUTIONS)
        between = points[(points["beta"] == 0) & points["alpha"].between(0, 1)]["loss"].max()
        said += (
            f" On the line from G to 1-S the training loss is {g:.4f} at G, at most {between:.4f}, "
            f"and {s:.4f} at 1-S."
        )
    return unbroken(said)
