"""Fig. 1: table -> figure, its summary and its reading."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from psplib.paper import claims
from psplib.paper.display import NOT_THERE, counted, percent, plus_minus, unbroken
from psplib.paper.statistics import HOLDS, interval
from psplib.paper.style import ARMS, DENSITY, STYLE, band, curve, plain_ticks, scale_axes
from psplib.paper.tables import Figure1


def figure_1(figure: Figure1) -> Figure | None:
    """Test error against density: arms with mean, 95 % interval and single replicas (faint).

    Above, everything; below, the range of the networks that keep LOBSTER's masks. None where the
    gradual run is not there.
    """
    if claims.gradual(figure).empty:
        return None
    with mpl.rc_context(STYLE):
        fig, (whole, near) = plt.subplots(
            2, 1, figsize=(7.2, 7.4), sharex=True, layout="constrained", height_ratios=(3, 2)
        )
        for ax in (whole, near):
            draw(ax, figure)
            ax.set_ylabel("test error [%]")
        seen = 100 * figure.table["test_error"]
        structured = seen[~figure.table["arm"].str.startswith("restructured")]
        margin = 0.05 * (structured.max() - structured.min())
        near.set(yscale="linear", xlabel=DENSITY)
        near.set_ylim(structured.min() - margin, structured.max() + margin)
        near.yaxis.set_major_locator(MaxNLocator())
        near.yaxis.set_major_formatter(ScalarFormatter())
        whole.set(title=figure.panel.title)
        whole.legend(fontsize=9, loc="upper left")
        plt.close(fig)
    return fig


def draw(ax: Axes, figure: Figure1, size: float = 1.0) -> None:
    """A panel of Fig. 1, both axes logarithmic, sparser to the right; lines and markers of a
    relative `size`."""
    density = claims.densities(figure)
    dense_line(ax, figure)
    for arm in ("restructured-global", "restructured-layer", "reinitialised", "rewound"):
        curve(ax, ARMS[arm], claims.errors(figure, arm), density, size)
    _gradual(ax, figure, size)
    scale_axes(ax, figure.table)


def dense_line(ax: Axes, figure: Figure1) -> None:
    """The mean test error of the dense networks, with its 95 % interval."""
    dense = claims.errors(figure, "dense")
    if dense.empty:
        return
    color, _, name = ARMS["dense"]
    mean = interval(dense.loc[0].dropna())
    ax.axhline(mean.mean, color=color, lw=1.2, ls="--", label=f"{name} ({mean.mean:.2f} %)")
    if np.isfinite(mean.low):
        ax.axhspan(mean.low, mean.high, color=color, alpha=0.12, lw=0)


def _gradual(ax: Axes, figure: Figure1, size: float = 1.0) -> None:
    color, marker, name = ARMS["lobster"]
    rows = figure.table[figure.table["arm"] == "lobster"]
    for i, (_, run) in enumerate(rows.groupby("lobster_seed")):
        count = (
            f", {rows['lobster_seed'].nunique()} runs" if rows["lobster_seed"].nunique() > 1 else ""
        )
        ax.plot(
            100 * (1 - run["sparsity"]),
            100 * run["test_error"],
            marker=marker,
            ms=(4 if i == 0 else 2.5) * size,
            lw=(2 if i == 0 else 1) * size,
            alpha=1 if i == 0 else 0.55,
            color=color,
            label=name + count if i == 0 else None,
            zorder=3,
        )


def summary(figure: Figure1) -> pd.DataFrame:
    """Sparsity, LOBSTER's error, each arm's mean and 95 % interval: a row for the dense network,
    for each point that is retrained from, and for the last."""
    density = claims.densities(figure)
    if density.empty:
        return pd.DataFrame()
    gradual = claims.gradual(figure)
    arms = [arm for arm in ARMS if arm != "lobster"]
    retrained = {p for arm in arms for p in claims.errors(figure, arm).index}
    rows = []
    for point in sorted({*density.index[:1], *density.index[-1:]} | retrained & {*density.index}):
        row = {
            "sparsity": f"{100 * gradual.loc[point, 'sparsity']:.2f} %",
            "weights only": f"{100 * gradual.loc[point, 'weight_sparsity']:.2f} %",
            "LOBSTER": f"{100 * gradual.loc[point, 'test_error']:.2f}",
        }
        for arm in arms:
            errors = claims.errors(figure, arm)
            row[ARMS[arm][2]] = plus_minus(errors.loc[point]) if point in errors.index else ""
        rows.append(row)
    names = ["sparsity", "weights only", "LOBSTER", *(ARMS[arm][2] for arm in arms)]
    return pd.DataFrame(rows, columns=names)


def titled(figure: Figure1) -> str:
    """A panel of Fig. 1 with its letter: "(a) LeNet-300, MNIST"."""
    return f"({figure.panel.name[-1]}) {figure.panel.title}"


def convergence(history: pd.DataFrame, title: str = "") -> Figure | None:
    """Validation error by epoch of retraining, from `tables.history`: mean and 95 % interval
    of each arm. None without any."""
    if history.empty:
        return None
    with mpl.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
        lowest = 100.0
        for arm, rows in history.groupby("arm", sort=False):
            color, _, name = ARMS[arm]
            grouped = rows.groupby("epoch")["validation_error"]
            intervals = [interval(100 * values) for _, values in grouped]
            epochs = list(grouped.groups)
            lowest = min(lowest, 100 * rows["validation_error"].min())
            ax.plot(epochs, [i.mean for i in intervals], color=color, label=name)
            band(ax, epochs, intervals, color, lowest=100 * rows["validation_error"].min())
        ax.set(
            xlabel="epoch of retraining", ylabel="validation error [%]", yscale="log", title=title
        )
        ax.set_ylim(bottom=0.85 * max(lowest, 0.1))
        plain_ticks(ax.yaxis)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(fontsize=9)
        plt.close(fig)
    return fig


def reading(figure: Figure1) -> str:
    """What the panel shows, in sentences (Markdown) whose numbers come from its table."""
    gradual = figure.table[figure.table["arm"] == "lobster"]
    if gradual.empty:
        return NOT_THERE
    ends = gradual.sort_values("point").groupby("lobster_seed").last()
    ended = ", ".join(
        f"{100 * row.test_error:.2f} % at {100 * row.sparsity:.2f} %" for row in ends.itertuples()
    )
    sentences = [
        f"LOBSTER ends with a test error of {ended} sparsity "
        f"({counted(len(ends), 'run')}; weights alone counted, the first is "
        f"{100 * ends['weight_sparsity'].iloc[0]:.2f} % sparse)."
    ]
    dense = claims.errors(figure, "dense")
    if len(dense):
        sentences.append(
            f"The dense network, trained without it, errs on {plus_minus(dense.loc[0])} %."
        )
    density = claims.densities(figure)
    arms = {arm: claims.errors(figure, arm) for arm in ARMS if arm not in ("lobster", "dense")}
    arms = {arm: errors for arm, errors in arms.items() if len(errors)}
    for arm, errors in arms.items():
        first, last = errors.index[0], errors.index[-1]
        sentence = (
            f"**{ARMS[arm][2].capitalize()}**: {plus_minus(errors.loc[first])} % at "
            f"{percent(1 - density[first])} sparsity"
        )
        if last != first:
            sentence += f", {plus_minus(errors.loc[last])} % at {percent(1 - density[last])}"
        sentence += "."
        if len(dense):
            back = [
                p for p in errors.index if claims.recovers(errors.loc[p], dense.loc[0])[0] == HOLDS
            ]
            at = ", ".join(percent(1 - density[p]) for p in back) or "no point"
            sentence += (
                f" At most 5 % worse than the dense network, with its whole interval, at {at}."
            )
        sentences.append(sentence)
    gaps = [
        f"{what} by {plus_minus(gap)} points"
        for what, worse, better in (
            ("new initial values raise the error", "reinitialised", "rewound"),
            (
                "a new structure of the same layer sizes raises it further",
                "restructured-layer",
                "reinitialised",
            ),
        )
        if worse in arms
        and better in arms
        and len(gap := (arms[worse] - arms[better]).dropna(how="all").mean().dropna())
    ]
    if gaps:
        sentences.append(
            f"Averaged over the points, replica by replica: {'; '.join(gaps)} "
            "(a minus sign would mean that they lower it)."
        )
    return unbroken("\n\n".join(sentences))
