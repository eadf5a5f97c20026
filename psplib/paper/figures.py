"""Table -> figure, in one style for the whole book; a figure's badge and its downloads."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from psplib.core.config import canonical
from psplib.experiments.scales import Beyond, Experiment
from psplib.paper import claims
from psplib.paper.tables import Figure1, FigureBeyond, Figures2to4

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
# What the chapter "beyond the paper" has besides.
BEYOND = {
    "decay": ("#56B4E9", "h", "gradual, weight decay only"),
    "magnitude": ("#999933", "P", "magnitude, one-shot, rewound"),
    "iterative": ("#000000", "X", "magnitude, iterative, rewound"),
}
DENSITY = "surviving parameters [%]  (sparser →)"
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
        curve(ax, arm, claims.errors(figure, arm), density, size)
    _gradual(ax, figure, size)
    scale_axes(ax, figure.table)


def scale_axes(ax: Axes, table: pd.DataFrame) -> None:
    """Logarithmic axes for errors over density, the sparsest network on the right."""
    ax.set(xscale="log", yscale="log")
    seen = 100 * table["test_error"]
    if len(seen):
        # An interval of few replicas may reach below zero; the networks set the ranges.
        ax.set_ylim(0.85 * seen[seen > 0].min(), 1.15 * seen.max())
        ax.set_xlim(110, 100 * (1 - table["sparsity"].max()) * 0.88)
    plain_ticks(ax.xaxis)
    plain_ticks(ax.yaxis)
    if len(seen) and seen.max() < 5 * seen[seen > 0].min():
        ax.yaxis.set_major_locator(MaxNLocator(6))


def dense_line(ax: Axes, figure: Figure1) -> None:
    """The mean test error of the dense networks, with its 95 % interval."""
    dense = claims.errors(figure, "dense")
    if dense.empty:
        return
    color, _, name = ARMS["dense"]
    mean = claims.interval(dense.loc[0].dropna())
    ax.axhline(mean.mean, color=color, lw=1.2, ls="--", label=f"{name} ({mean.mean:.2f} %)")
    if np.isfinite(mean.low):
        ax.axhspan(mean.low, mean.high, color=color, alpha=0.12, lw=0)


def curve(
    ax: Axes,
    arm: str,
    errors: pd.DataFrame,
    density: pd.Series,
    size: float = 1.0,
    label: str | None = None,
) -> None:
    """An arm's test errors (points, replicas) in per cent over density: single networks, their
    mean, its 95 % interval."""
    if errors.empty:
        return
    color, marker, name = (ARMS | BEYOND)[arm]
    x = 100 * density.loc[errors.index].to_numpy(dtype=float)
    for replica in errors.columns:
        ax.plot(x, errors[replica], marker, ms=2.5, color=color, alpha=0.35, mew=0)
    intervals = [claims.interval(row.dropna()) for _, row in errors.iterrows()]
    mean = [i.mean for i in intervals]
    ax.plot(x, mean, marker=marker, ms=5 * size, lw=1.6 * size, color=color, label=label or name)
    band(ax, x, intervals, color, lowest=float(errors.min(axis=None)))


def band(
    ax: Axes,
    x: Sequence[float] | np.ndarray,
    intervals: Sequence[claims.Interval],
    color: str,
    lowest: float,
) -> None:
    """Intervals as an area. An interval of few replicas may reach below zero, where a logarithmic
    axis ends in a wall: the area ends at half of the `lowest` value seen."""
    low = np.maximum([i.low for i in intervals], lowest / 2)
    ax.fill_between(x, low, [i.high for i in intervals], color=color, alpha=0.2, lw=0)


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
    for point in sorted({*density.index[:1], *density.index[-1:]} | retrained & {*density.index}):
        row = {
            "sparsity": f"{100 * gradual.loc[point, 'sparsity']:.2f} %",
            "weights only": f"{100 * gradual.loc[point, 'weight_sparsity']:.2f} %",
            "LOBSTER": f"{100 * gradual.loc[point, 'test_error']:.2f}",
        }
        for arm in arms:
            errors = claims.errors(figure, arm)
            row[ARMS[arm][2]] = _plus_minus(errors.loc[point]) if point in errors.index else ""
        rows.append(row)
    names = ["sparsity", "weights only", "LOBSTER", *(ARMS[arm][2] for arm in arms)]
    return pd.DataFrame(rows, columns=names)


def _plus_minus(values: pd.Series) -> str:
    i = claims.interval(values.dropna())
    return f"{i.mean:.2f}\u00a0±\u00a0{i.high - i.mean:.2f}" if i.n > 1 else f"{i.mean:.2f}"


Panel = Figure1 | Figures2to4 | FigureBeyond


def facts(figure: Panel) -> dict[str, str]:
    """What the badge says: scale, seeds, device, date, commit, and what is missing."""
    provenance = [a.provenance for a in figure.artefacts]
    if not provenance:
        return {"runs": "not there yet"}
    commits = sorted({p["commit"][:10] + ("+" if p["modified"] else "") for p in provenance})
    panel = figure.panel
    samples = None if isinstance(panel, Beyond) else panel.lobsters[0].samples
    return {
        "scale": panel.scale,
        **({"images": f"{samples:,} of the data set"} if samples else {}),
        "seeds": _seeds(figure),
        "device": ", ".join(sorted({p["device"] for p in provenance})),
        "finished": max(p["finished"][:10] for p in provenance),
        "commit": ", ".join(commits),
        "core hours": f"{sum(p['seconds'] for p in provenance) / 3600:.2f}",
        **({"missing runs": str(len(figure.missing))} if figure.missing else {}),
    }


def _seeds(figure: Panel) -> str:
    panel = figure.panel
    if isinstance(panel, Beyond):
        return "; ".join(
            f"{r.title}: {len(r.lobsters)} LOBSTER, {len(r.decays)} decay, "
            f"{len(r.replicas)} replicas"
            for r in panel.networks
        )
    return f"{len(panel.lobsters)} LOBSTER × {len(panel.retrained.replicas)} replicas"


def titled(figure: Figure1) -> str:
    """A panel of Fig. 1 with its letter: "(a) LeNet-300, MNIST"."""
    return f"({figure.panel.name[-1]}) {figure.panel.title}"


def basis(panel: Experiment) -> str:
    """What a panel's verdicts rest on: scale, images, gradual runs, replicas."""
    samples = panel.lobsters[0].samples
    parts = [
        panel.scale,
        f"{samples:,} images" if samples else "",
        counted(len(panel.lobsters), "gradual run"),
        counted(len(panel.retrained.replicas), "replica"),
    ]
    return ", ".join(part for part in parts if part)


def badge(figure: Panel, title: str = "") -> str:
    """The facts as one line of HTML, after a title if there is one."""
    items = "".join(
        f"<span><b>{html.escape(k)}</b> {html.escape(v)}</span>" for k, v in facts(figure).items()
    )
    head = f"<span><b>{html.escape(title)}</b></span>" if title else ""
    return f'<p class="psplib-badge">{head}{items}</p>'


# Set while the book executes a chapter: the notebook that lies beside its page.
NOTEBOOK = "PSPLIB_NOTEBOOK"


def downloads(name: str, fig: Figure, table: pd.DataFrame, config: Any) -> str:
    """Links, as HTML, to the SVG, the CSV behind it and the configuration; they carry their
    content, so that they work in a live notebook, in the static page and without a network. In the
    book's page, also a link to the notebook that draws it."""
    svg = io.BytesIO()
    with mpl.rc_context(STYLE):
        fig.savefig(svg, format="svg", metadata={"Date": None})
    files: Sequence[tuple[str, str, str, bytes]] = (
        ("SVG", "svg", "image/svg+xml", svg.getvalue()),
        ("CSV", "csv", "text/csv", table.to_csv(index=False).encode()),
        ("configuration", "json", "application/json", canonical(config).encode()),
    )
    links = [
        f'<a download="{name}.{ending}" '
        f'href="data:{kind};base64,{base64.b64encode(content).decode()}">{label}</a>'
        for label, ending, kind, content in files
    ]
    if notebook := os.environ.get(NOTEBOOK):
        links.append(f'<a download href="{html.escape(notebook)}">notebook</a>')
    return f'<p class="psplib-downloads">Download: {" ".join(links)}</p>'


def show(name: str, fig: Figure | None, figure: Panel, table: pd.DataFrame | None = None) -> None:
    """Display a figure as PNG, with its badge and its downloads; `table` is the one behind it, the
    panel's own unless given. Of a figure whose runs are not there, it says so."""
    from IPython.display import HTML, display

    if fig is None:
        missing = f"The runs of this figure, {figure.panel.title}, are not there yet."
        display(HTML(f'<p class="psplib-badge">{html.escape(missing)}</p>'))
        return
    display(picture(fig))
    links = downloads(name, fig, figure.table if table is None else table, figure.panel)
    display(HTML(badge(figure) + links))


def picture(fig: Figure) -> Any:
    """A figure as a PNG of the page's width."""
    from IPython.display import Image

    png = io.BytesIO()
    with mpl.rc_context(STYLE):
        fig.savefig(png, format="png", metadata={"Software": None})
    return Image(png.getvalue(), width=int(100 * fig.get_figwidth()), alt=describe(fig))


NOT_THERE = "The runs that this rests on are not there yet; `psplib reproduce` makes them."


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


def state(figure: Panel) -> str:
    """Whether all runs behind a figure are there (Markdown)."""
    missing, panel = len(figure.missing), figure.panel
    if not missing:
        return "All runs of this figure are there."
    are = f"{counted(missing, 'run')} of this figure {'are' if missing > 1 else 'is'} not there yet"
    if panel.lobsters[0] in figure.missing:
        are = (
            "The gradual run of this figure is not there yet, and so nothing that is made from its "
            "masks"
        )
    command = f"psplib reproduce --scale {panel.scale} --only {panel.name}"
    return f"{are}; `{command}` makes what is missing."


def unbroken(text: str) -> str:
    """The same text, in which no line ends between a number and its per cent sign."""
    return text.replace(" %", "\u00a0%")


def table(frame: pd.DataFrame) -> Any:
    """A table in the book's style, empty where a value is missing; nothing, if it has no rows."""
    if frame.empty:
        return None
    styled = frame.style.hide(axis="index").format(na_rep="")
    return styled.set_table_attributes('class="psplib"')


def verdicts(found: Sequence[claims.Verdict], of: str = "claim of the paper") -> Any:
    """Verdicts as an HTML table: claim (headed `of`), verdict, effect with its interval, test."""
    from IPython.display import HTML

    names = (of, "verdict", "effect and 95 % interval", "n", "test")
    rows = [
        (
            html.escape(v.claim),
            verdict_label(v.verdict),
            effect(v),
            str(v.n or "–"),
            unbroken(html.escape(v.test)),
        )
        for v in found
    ]
    return HTML(cards(names, rows))


def cards(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells with named columns; on a phone, a card for each row."""
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(
        "<tr>"
        + "".join(f'<td data-name="{n}">{cell}</td>' for n, cell in zip(names, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<table class="psplib cards"><thead><tr>{head}</tr></thead>{body}</table>'


def effect(verdict: claims.Verdict) -> str:
    """An effect with its interval, where it has one, and unit; a dash where there is none."""
    numbers = (verdict.effect, verdict.low, verdict.high)
    form = {"points": "+.2f", "bits": "+.4f", "×": ".2f"}[verdict.unit]
    mean, low, high = (format(x, form) for x in numbers)
    if not np.isfinite(numbers).all():
        return f"{mean} {verdict.unit}, no interval" if np.isfinite(verdict.effect) else "–"
    return f"{mean} [{low}, {high}] {verdict.unit}"


def verdict_label(verdict: str) -> str:
    """A verdict in its colour, as HTML."""
    return f'<span class="psplib-verdict {verdict.replace(" ", "-")}">{verdict}</span>'


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
            intervals = [claims.interval(100 * values) for _, values in grouped]
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
            f"The dense network, trained without it, errs on {_plus_minus(dense.loc[0])} %."
        )
    density = claims.densities(figure)
    arms = {arm: claims.errors(figure, arm) for arm in ARMS if arm not in ("lobster", "dense")}
    arms = {arm: errors for arm, errors in arms.items() if len(errors)}
    for arm, errors in arms.items():
        first, last = errors.index[0], errors.index[-1]
        sentence = (
            f"**{ARMS[arm][2].capitalize()}**: {_plus_minus(errors.loc[first])} % at "
            f"{_sparsity(density[first])} sparsity"
        )
        if last != first:
            sentence += f", {_plus_minus(errors.loc[last])} % at {_sparsity(density[last])}"
        sentence += "."
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
    return unbroken("\n\n".join(sentences))


def _sparsity(density: float) -> str:
    return f"{100 * (1 - density):.1f} %"


def counted(n: int, what: str) -> str:
    """A number of things, in words."""
    return f"{n} {what}{'s' if n != 1 else ''}"
