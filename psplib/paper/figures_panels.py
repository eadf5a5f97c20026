"""The four panels of Fig. 1 in one picture, as the paper has them, with a badge for each."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from psplib.paper import claims, claims_figure_1, figures
from psplib.paper import display as shown
from psplib.paper.style import ARMS, DENSITY, STYLE
from psplib.paper.tables import Figure1


def figure_1(panels: Sequence[Figure1]) -> Figure:
    """Four panels of test error against density, with one legend; a panel that is not there says
    so. Above each stand its scale and its number of replicas."""
    with mpl.rc_context(STYLE | {"font.size": 10}):
        fig, axes = plt.subplots(2, 2, figsize=(6.4, 7.4), layout="constrained")
        for ax, panel in zip(axes.flat, panels, strict=True):
            ax.set_title(f"{figures.titled(panel)}\n", loc="left", fontsize=11)
            if claims.gradual(panel).empty:
                ax.text(0.5, 0.5, "not there yet", transform=ax.transAxes, ha="center")
                ax.set(xticks=[], yticks=[])
                continue
            ax.text(0, 1.025, _scale(panel), transform=ax.transAxes, fontsize=9, color="0.35")
            figures.draw(ax, panel, size=0.6)
        for ax in axes[:, 0]:
            ax.set_ylabel("test error [%]")
        for ax in axes[1]:
            ax.set_xlabel(DENSITY, fontsize=9)
        drawn = {arm for panel in panels for arm in panel.table["arm"]}
        handles = [
            Line2D(
                [], [], ls="--" if arm == "dense" else "-", marker=marker, color=color, label=name
            )
            for arm, (color, marker, name) in ARMS.items()
            if arm in drawn
        ]
        fig.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=9.5)
        plt.close(fig)
    return fig


def _scale(figure: Figure1) -> str:
    panel = figure.panel
    samples = panel.lobsters[0].samples
    images = f"{samples:,} images, " if samples else ""
    missing = f", {shown.counted(len(figure.missing), 'run')} missing" if figure.missing else ""
    replicas = shown.counted(len(panel.retrained.replicas), "replica")
    return f"{panel.scale}: {images}{replicas}{missing}"


def table(panels: Sequence[Figure1]) -> pd.DataFrame:
    """The rows of all panels, with the panel's name first."""
    frames = []
    for figure in panels:
        frame = figure.table.copy()
        frame.insert(0, "panel", figure.panel.name)
        frames.append(frame)
    return pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)


def answer(panels: Sequence[Figure1]) -> Any:
    """The verdicts of all panels as one HTML table: a row for each claim, a column for each panel,
    a dash where the claim is not about that panel."""
    from IPython.display import HTML

    letters = [figure.panel.name[-1] for figure in panels]
    found: dict[str, dict[str, str]] = {}
    for letter, figure in zip(letters, panels, strict=True):
        for v in claims_figure_1.panel(figure):
            found.setdefault(v.claim, {})[letter] = shown.verdict_label(v.verdict)
    rows = {
        claim: "".join(f"<td>{labels.get(letter, '–')}</td>" for letter in letters)
        for claim, labels in found.items()
    }
    for v in claims_figure_1.across(panels):
        label = shown.verdict_label(v.verdict)
        rows[v.claim] = f'<td colspan="{len(letters)}">{label}, of all together</td>'
    head = "".join(f"<th>({letter})</th>" for letter in letters)
    body = "".join(f"<tr><td>{html.escape(c)}</td>{cells}</tr>" for c, cells in rows.items())
    return HTML(
        '<table class="psplib"><thead><tr><th>claim of the paper</th>'
        f"{head}</tr></thead>{body}</table>"
    )


def show(panels: Sequence[Figure1]) -> None:
    """Display the four panels, the badge of each, and the downloads of the whole."""
    from IPython.display import HTML, display

    fig = figure_1(panels)
    display(shown.picture(fig))
    configs = [figure.panel for figure in panels]
    badges = "".join(shown.badge(f, figures.titled(f)) for f in panels)
    display(HTML(badges + shown.downloads("figure_1", fig, table(panels), configs)))
