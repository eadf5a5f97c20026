"""Table -> figure, in one style for the whole book; a figure's badge and its downloads."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from . import claims
from .config import canonical
from .experiments import Figure1, Figures2to4

# Okabe and Ito's palette, told apart by every kind of colour vision; an arm keeps its colour, its
# marker and its name in every chapter.
ARMS = {
    "lobster": ("#0072B2", "o", "gradual (LOBSTER)"),
    "dense": ("#555555", "", "dense"),
    "rewound": ("#D55E00", "s", "one-shot, original values"),
    "reinitialised": ("#E69F00", "^", "one-shot, new random values"),
    "restructured-layer": ("#009E73", "D", "random structure, layer by layer"),
    "restructured-global": ("#CC79A7", "v", "random structure, global"),
}
STYLE: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "figure.facecolor": "white",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "psplib",
    "svg.fonttype": "path",
}


def figure_1(figure: Figure1) -> Figure | None:
    """Test error against density: arms with mean, 95 % interval and single replicas (faint).

    Above, everything; below, the range of the networks that keep LOBSTER's masks. None, here and
    in `convergence`, where what it is made of is not there yet.
    """
    if claims.gradual(figure).empty:
        return None
    with mpl.rc_context(STYLE):
        fig, (whole, near) = plt.subplots(
            2, 1, figsize=(8.6, 8.4), sharex=True, layout="constrained", height_ratios=(3, 2)
        )
        density = claims.densities(figure)
        for ax in (whole, near):
            _dense_line(ax, figure)
            for arm in ("restructured-global", "restructured-layer", "reinitialised", "rewound"):
                _arm(ax, arm, claims.errors(figure, arm), density)
            _gradual(ax, figure)
            ax.set_ylabel("test error [%]")
        # An interval of few replicas may reach below zero; the networks set the ranges.
        seen = 100 * figure.table["test_error"]
        structured = seen[~figure.table["arm"].str.startswith("restructured")]
        whole.set(yscale="log", title=figure.panel.title)
        whole.set_ylim(0.85 * seen[seen > 0].min(), 1.15 * seen.max())
        plain_ticks(whole.yaxis)
        margin = 0.05 * (structured.max() - structured.min())
        near.set_ylim(structured.min() - margin, structured.max() + margin)
        near.set(xscale="log", xlabel="surviving parameters [%]  (sparser →)")
        near.set_xlim(110, 100 * (1 - figure.table["sparsity"].max()) * 0.88)
        plain_ticks(near.xaxis)
        whole.legend(fontsize=9, loc="upper left")
        plt.close(fig)
    return fig


def _dense_line(ax: Axes, figure: Figure1) -> None:
    dense = claims.errors(figure, "dense")
    if dense.empty:
        return
    color, _, name = ARMS["dense"]
    mean = claims.interval(dense.loc[0].dropna())
    ax.axhline(mean.mean, color=color, lw=1.2, ls="--", label=f"{name} ({mean.mean:.2f} %)")
    if np.isfinite(mean.low):
        ax.axhspan(mean.low, mean.high, color=color, alpha=0.12, lw=0)


def _arm(ax: Axes, arm: str, errors: pd.DataFrame, density: pd.Series) -> None:
    if errors.empty:
        return
    color, marker, name = ARMS[arm]
    x = 100 * density.loc[errors.index].to_numpy(dtype=float)
    for replica in errors.columns:
        ax.plot(x, errors[replica], marker, ms=2.5, color=color, alpha=0.35, mew=0)
    intervals = [claims.interval(row.dropna()) for _, row in errors.iterrows()]
    mean = [i.mean for i in intervals]
    low, high = [i.low for i in intervals], [i.high for i in intervals]
    ax.plot(x, mean, marker=marker, ms=5, lw=1.6, color=color, label=name)
    ax.fill_between(x, low, high, color=color, alpha=0.2, lw=0)


def _gradual(ax: Axes, figure: Figure1) -> None:
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
            ms=4 if i == 0 else 2.5,
            lw=2 if i == 0 else 1,
            alpha=1 if i == 0 else 0.55,
            color=color,
            label=name + count if i == 0 else None,
            zorder=3,
        )


def plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 of each decade, without powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


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
    for point in sorted(retrained | {density.index[0], density.index[-1]}):
        row = {
            "sparsity": f"{100 * gradual.loc[point, 'sparsity']:.2f} %",
            "weights only": f"{100 * gradual.loc[point, 'weight_sparsity']:.2f} %",
            "LOBSTER": f"{100 * gradual.loc[point, 'test_error']:.2f}",
        }
        for arm in arms:
            errors = claims.errors(figure, arm)
            row[ARMS[arm][2]] = _plus_minus(errors.loc[point]) if point in errors.index else ""
        rows.append(row)
    return pd.DataFrame(rows)


def _plus_minus(values: pd.Series) -> str:
    i = claims.interval(values.dropna())
    return f"{i.mean:.2f}\u00a0±\u00a0{i.high - i.mean:.2f}" if i.n > 1 else f"{i.mean:.2f}"


Panel = Figure1 | Figures2to4


def facts(figure: Panel) -> dict[str, str]:
    """What the badge says: scale, seeds, device, date, commit, and what is missing."""
    provenance = [a.provenance for a in figure.artefacts]
    commits = sorted({p["commit"][:10] + ("+" if p["modified"] else "") for p in provenance})
    replicas = len(figure.panel.retrained.replicas)
    return {
        "scale": figure.panel.scale,
        "seeds": f"{len(figure.panel.lobsters)} LOBSTER × {replicas} replicas",
        "device": ", ".join(sorted({p["device"] for p in provenance})),
        "finished": max((p["finished"][:10] for p in provenance), default=""),
        "commit": ", ".join(commits),
        "core hours": f"{sum(p['seconds'] for p in provenance) / 3600:.2f}",
        **({"missing runs": str(len(figure.missing))} if figure.missing else {}),
    }


def badge(figure: Panel) -> str:
    """The facts as one line of HTML."""
    items = "".join(
        f"<span><b>{html.escape(k)}</b> {html.escape(v)}</span>" for k, v in facts(figure).items()
    )
    return f'<p class="psplib-badge">{items}</p>'


def downloads(name: str, fig: Figure, table: pd.DataFrame, config: Any) -> str:
    """Links, as HTML, to the SVG, the CSV behind it and the configuration; they carry their
    content, so that they work in a live notebook, in the static page and without a network."""
    svg = io.BytesIO()
    with mpl.rc_context(STYLE):
        fig.savefig(svg, format="svg", metadata={"Date": None})
    files: Sequence[tuple[str, str, bytes]] = (
        ("svg", "image/svg+xml", svg.getvalue()),
        ("csv", "text/csv", table.to_csv(index=False).encode()),
        ("json", "application/json", canonical(config).encode()),
    )
    links = " ".join(
        f'<a download="{name}.{ending}" '
        f'href="data:{kind};base64,{base64.b64encode(content).decode()}">{ending.upper()}</a>'
        for ending, kind, content in files
    )
    return f'<p class="psplib-downloads">Download: {links}</p>'


def show(name: str, fig: Figure | None, figure: Panel, table: pd.DataFrame | None = None) -> None:
    """Display a figure as PNG, with its badge and its downloads; `table` is the one behind it, the
    panel's own unless given. Of a figure whose runs are not there, it says so."""
    from IPython.display import HTML, Image, display

    if fig is None:
        display(HTML('<p class="psplib-badge">The runs of this figure are not there yet.</p>'))
        return
    png = io.BytesIO()
    with mpl.rc_context(STYLE):
        fig.savefig(png, format="png", metadata={"Software": None})
    display(Image(png.getvalue(), width=int(100 * fig.get_figwidth()), alt=describe(fig)))
    links = downloads(name, fig, figure.table if table is None else table, figure.panel)
    display(HTML(badge(figure) + links))


def describe(fig: Figure) -> str:
    """A figure in words, for who does not see it: of each panel its title, its axes, its legend."""
    fig.draw_without_rendering()  # layouts and offsets write their texts only now
    panels = [text for ax in fig.axes if (text := _panel(ax))]
    names = [text.get_text() for legend in fig.legends for text in legend.get_texts()]
    return ". ".join([*panels, *(["Shown: " + "; ".join(names)] if names else [])]) + "."


def _panel(ax: Axes) -> str:
    if ax.get_label() == "<colorbar>" or not ax.axison:
        return ""
    vertical = ax.get_zlabel() if hasattr(ax, "get_zlabel") else ""
    axes = [vertical, ax.get_ylabel(), ax.get_xlabel()]
    legend = ax.get_legend()
    names = [text.get_text() for text in legend.get_texts()] if legend else []
    parts = [
        ax.get_title(),
        " against ".join(label for label in axes if label),
        "; ".join(names),
    ]
    return ": ".join(part for part in parts if part)


NOT_THERE = "The runs that this rests on are not there yet; `psplib reproduce` makes them."


def state(figure: Panel) -> str:
    """Whether all runs behind a figure are there (Markdown)."""
    missing = len(figure.missing)
    if not missing:
        return "All runs of this figure are there."
    return (
        f"{_counted(missing, 'run')} of this figure {'are' if missing > 1 else 'is'} not there "
        "yet; `psplib reproduce` makes them."
    )


def table(frame: pd.DataFrame) -> Any:
    """A table in the book's style; of an empty one, that it is not there yet."""
    if frame.empty:
        from IPython.display import Markdown

        return Markdown(NOT_THERE)
    return frame.style.hide(axis="index").set_table_attributes('class="psplib"')


def verdicts(found: Sequence[claims.Verdict]) -> Any:
    """Verdicts as an HTML table: claim, verdict, effect with its interval, test."""
    from IPython.display import HTML

    rows = ""
    for v in found:
        label = verdict_label(v.verdict)
        cells = (html.escape(v.claim), label, effect(v), str(v.n or "–"), html.escape(v.test))
        rows += "<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"
    head = "".join(
        f"<th>{h}</th>"
        for h in ("claim of the paper", "verdict", "effect and 95 % interval", "n", "test")
    )
    return HTML(f'<table class="psplib"><thead><tr>{head}</tr></thead>{rows}</table>')


def effect(verdict: claims.Verdict) -> str:
    """An effect with its interval and unit; a dash where there is none."""
    numbers = (verdict.effect, verdict.low, verdict.high)
    if not np.isfinite(numbers).all():
        return "–"
    form = {"points": "+.2f", "bits": "+.4f", "×": ".2f"}[verdict.unit]
    mean, low, high = (format(x, form) for x in numbers)
    return f"{mean} [{low}, {high}] {verdict.unit}"


def verdict_label(verdict: str) -> str:
    """A verdict in its colour, as HTML."""
    return f'<span class="psplib-verdict {verdict.replace(" ", "-")}">{verdict}</span>'


def convergence(history: pd.DataFrame) -> Figure | None:
    """Validation error by epoch of retraining, from `experiments.history`: mean and 95 % interval
    of each arm."""
    if history.empty:
        return None
    with mpl.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(8.6, 3.6), layout="constrained")
        lowest = 100.0
        for arm, rows in history.groupby("arm", sort=False):
            color, _, name = ARMS[arm]
            grouped = rows.groupby("epoch")["validation_error"]
            intervals = [claims.interval(100 * values) for _, values in grouped]
            epochs = list(grouped.groups)
            lowest = min(lowest, 100 * rows["validation_error"].min())
            ax.plot(epochs, [i.mean for i in intervals], color=color, label=name)
            ax.fill_between(
                epochs,
                [i.low for i in intervals],
                [i.high for i in intervals],
                color=color,
                alpha=0.2,
                lw=0,
            )
        ax.set(xlabel="epoch of retraining", ylabel="validation error [%]", yscale="log")
        ax.set_ylim(bottom=0.85 * max(lowest, 0.1))
        plain_ticks(ax.yaxis)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(fontsize=9)
        plt.close(fig)
    return fig


def reading(figure: Figure1) -> str:
    """What the panel shows, in sentences (Markdown) whose numbers come from its table."""
    if claims.gradual(figure).empty:
        return NOT_THERE
    gradual = figure.table[figure.table["arm"] == "lobster"]
    ends = gradual.sort_values("point").groupby("lobster_seed").last()
    ended = ", ".join(
        f"{100 * row.test_error:.2f} % at {100 * row.sparsity:.2f} %" for row in ends.itertuples()
    )
    sentences = [
        f"LOBSTER ends with a test error of {ended} sparsity "
        f"({_counted(len(ends), 'run')}; weights alone counted, the first is "
        f"{100 * ends['weight_sparsity'].iloc[0]:.2f} % sparse)."
    ]
    dense = claims.errors(figure, "dense")
    if len(dense):
        sentences.append(
            f"The dense network, trained without it, errs on {_plus_minus(dense.loc[0])} %."
        )
    density = claims.densities(figure)
    arms = {arm: claims.errors(figure, arm) for arm in ARMS if arm not in ("lobster", "dense")}
    arms = {arm: errors for arm, errors in arms.items() if len(errors)}
    for arm, errors in arms.items():
        first, last = errors.index[0], errors.index[-1]
        sentence = (
            f"**{ARMS[arm][2].capitalize()}**: {_plus_minus(errors.loc[first])} % at "
            f"{_sparsity(density[first])} sparsity, {_plus_minus(errors.loc[last])} % at "
            f"{_sparsity(density[last])}."
        )
        if len(dense):
            back = [
                p
                for p in errors.index
                if claims.recovers(errors.loc[p], dense.loc[0])[0] == claims.HOLDS
            ]
            at = ", ".join(_sparsity(density[p]) for p in back) or "no point"
            sentence += (
                f" At most 5 % worse than the dense network, with its whole interval, at {at}."
            )
        sentences.append(sentence)
    gaps = [
        f"{what} by {_plus_minus(gap)} points"
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
    return "\n\n".join(sentences).replace(" %", "\u00a0%")


def _sparsity(density: float) -> str:
    return f"{100 * (1 - density):.1f} %"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n != 1 else ''}"
