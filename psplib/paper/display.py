"""How a chapter shows a figure and a table: badge, downloads, alternative text, HTML; and how its
verdicts are said in one sentence."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psplib.core.config import canonical
from psplib.experiments.designs import Design, Minima, Panel
from psplib.paper.slide import drawn_png
from psplib.paper.statistics import (
    FAILS,
    HOLDS,
    MIXED,
    NOT_COMPARABLE,
    NOT_RUN,
    UNDECIDED,
    VERDICTS,
    Interval,
    Verdict,
    interval,
)
from psplib.paper.style import STYLE
from psplib.runs.run import Run
from psplib.runs.store import Artefact

NOT_THERE = "The runs that this rests on are not there yet; `psplib reproduce` makes them."


class Results(Protocol):
    """The tables of an experiment, and the runs that they come from."""

    @property
    def panel(self) -> Design: ...
    @property
    def table(self) -> pd.DataFrame: ...
    @property
    def missing(self) -> tuple[Run, ...]: ...
    @property
    def artefacts(self) -> tuple[Artefact, ...]: ...
    @property
    def seeds(self) -> str: ...


def runs_and_replicas(panel: Panel | Minima) -> str:
    """How many gradual runs and replicas an experiment has, for its badge."""
    return (
        f"{counted(len(panel.lobsters), 'gradual run')} × {len(panel.retrained.replicas)} replicas"
    )


def facts(results: Results) -> dict[str, str]:
    """What the badge says: scale, seeds, device, date, commit, and what is missing."""
    provenance = [a.provenance for a in results.artefacts]
    if not provenance:
        return {"runs": "not there yet"}
    commits = sorted({p["commit"][:10] + ("+" if p["modified"] else "") for p in provenance})
    samples = results.panel.lobsters[0].samples
    return {
        "scale": results.panel.scale,
        **({"images": f"{samples:,} of the data set"} if samples else {}),
        "seeds": results.seeds,
        "device": ", ".join(sorted({p["device"] for p in provenance})),
        "finished": max(p["finished"][:10] for p in provenance),
        "commit": commits[0] + (f" and {len(commits) - 1} more" if len(commits) > 1 else ""),
        "core hours": f"{sum(p['seconds'] for p in provenance) / 3600:.2f}",
        **({"missing runs": str(len(results.missing))} if results.missing else {}),
    }


def badge(results: Results, title: str = "") -> str:
    """The facts as one line of HTML, after a title if there is one."""
    items = "".join(
        f"<span><b>{html.escape(k)}</b> {html.escape(v)}</span>" for k, v in facts(results).items()
    )
    head = f"<span><b>{html.escape(title)}</b></span>" if title else ""
    return f'<p class="psplib-badge">{head}{items}</p>'


def basis(panel: Design) -> str:
    """What a panel's verdicts rest on: scale, images, gradual runs, replicas."""
    samples = panel.lobsters[0].samples
    parts = [
        panel.scale,
        f"{samples:,} images" if samples else "",
        counted(len(panel.lobsters), "gradual run"),
        counted(len(panel.retrained.replicas), "replica"),
    ]
    return ", ".join(part for part in parts if part)


def missing_runs(results: Results) -> str:
    """Whether all runs behind a figure are there (Markdown)."""
    missing, panel = len(results.missing), results.panel
    if not missing:
        return "All runs of this figure are there."
    are = f"{counted(missing, 'run')} of this figure {'are' if missing > 1 else 'is'} not there yet"
    if panel.lobsters[0] in results.missing:
        are = (
            "The gradual run of this figure is not there yet, and so nothing that is made from its "
            "masks"
        )
    command = f"psplib reproduce --scale {panel.scale} --only {panel.name}"
    return f"{are}; `{command}` makes what is missing."


def show_figure(
    name: str, fig: Figure | None, results: Results, table: pd.DataFrame | None = None
) -> None:
    """Display a figure with its badge and its downloads; `table` is the one behind it, that of all
    networks unless given. Of a figure whose runs are not there, it says so."""
    from IPython.display import HTML
    from IPython.display import display as put

    if fig is None:
        missing = f"The runs of this figure, {results.panel.title}, are not there yet."
        put(HTML(f'<p class="psplib-badge">{html.escape(missing)}</p>'))
        return
    behind = results.table if table is None else table
    put(HTML(in_html(name, fig, behind, results.panel, badge(results))))


def picture(fig: Figure) -> Any:
    """A figure to display without downloads."""
    from IPython.display import HTML

    return HTML(_picture(fig, drawn_svg(fig)))


def in_html(name: str, fig: Figure, table: pd.DataFrame, config: Any, between: str = "") -> str:
    """A figure as HTML, what stands between, and links to the SVG, the CSV behind it and the
    configuration; they carry their content, so that they work in a live notebook, in the static
    page and without a network."""
    svg = drawn_svg(fig)
    files: Sequence[tuple[str, str, str, str]] = (
        ("SVG", "svg", "image/svg+xml", svg),
        ("CSV", "csv", "text/csv", table.to_csv(index=False)),
        ("configuration", "json", "application/json", canonical(config)),
    )
    links = [
        f'<a download="{name}.{ending}" href="{_carried(kind, content.encode())}">{label}</a>'
        for label, ending, kind, content in files
    ]
    downloads = f'<p class="psplib-downloads">Download: {" ".join(links)}</p>'
    return _picture(fig, svg) + between + downloads


def _carried(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _picture(fig: Figure, svg: str) -> str:
    """A figure as an image: its SVG, which a page of the book has as a part of itself; as PNG where
    that has pixels."""
    source = _carried("image/svg+xml", svg.encode())
    if "<image" in svg:
        with mpl.rc_context(STYLE):
            source = _carried("image/png", drawn_png(fig, 256))
    return (
        f'<img src="{source}" alt="{html.escape(describe(fig))}" '
        f'width="{int(100 * fig.get_figwidth())}" style="height: auto; background: white">'
    )


# What matplotlib writes in a tag, and what is enough.
_LIGHTER = (
    (r"(?<=\.\d\d)\d+", ""),
    (r"\s*\n\s*", ""),
    (r'<g id="[^"]*"', "<g"),
    (r"xlink:", ""),
    (r'; font-family: [^;"]*', ""),
    (r' transform="rotate\(-0 [^"]*"', ""),
    (r"#000000", "currentColor"),
)


def drawn_svg(fig: Figure) -> str:
    """A figure as SVG that is black on white, and in a page of the book in the colour and the font
    of its text, on its ground; no other figure has its ids."""
    drawn = io.StringIO()
    with mpl.rc_context(STYLE):
        fig.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    fig.set_layout_engine("none")  # all has its place now
    body = drawn.getvalue().partition('<g id="figure_1">')[2]
    body = re.sub(r">\s+<", "><", re.sub("<[^>]*>", _lighter, body))
    name = f"f{hashlib.sha256(body.encode()).hexdigest()[:6]}"
    names = dict[str, str]()

    def own(found: re.Match[str]) -> str:
        return found[1] + names.setdefault(found[2], f"{name}-{len(names)}")

    body = re.sub(r'(id="|#)([mp][0-9a-f]{10})\b', own, body)
    styles = {style: f"{name}_{i}" for i, style in enumerate(dict.fromkeys(_STYLED.findall(body)))}
    body = _STYLED.sub(lambda found: f' class="{styles[found[1]]}"', body)
    rules = "".join(f".{style_of}{{{style}}}" for style, style_of in styles.items())
    width, height = (100 * inches for inches in fig.get_size_inches())
    return (
        f'<svg id="{name}" xmlns="http://www.w3.org/2000/svg" class="psplib-figure" role="img" '
        f'aria-label="{html.escape(describe(fig))}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {0.72 * width:.1f} {0.72 * height:.1f}" style="{_ALONE}">'
        f"<style>{rules}</style><g>{body}"
    )


def _lighter(tag: re.Match[str]) -> str:
    text = tag[0]
    for pattern, enough in _LIGHTER:
        text = re.sub(pattern, enough, text)
    return text


_STYLED = re.compile(r' style="([^"]*)"')
_ALONE = (
    "color: black; background: white; fill: currentColor; font-family: sans-serif; "
    "stroke-linejoin: round; stroke-linecap: butt"
)


def describe(fig: Figure) -> str:
    """A drawn figure in words, for who does not see it: of each panel its title, its axes, what is
    written in it, its legend. (Only drawing writes the texts of layouts and offsets.)"""
    panels = [text for ax in fig.axes if (text := _axes_in_words(ax))]
    names = [text.get_text() for legend in fig.legends for text in legend.get_texts()]
    said = ". ".join([*panels, *(["Shown: " + "; ".join(names)] if names else [])]) + "."
    return " ".join(said.split())


def _axes_in_words(ax: Axes) -> str:
    if ax.get_label() == "<colorbar>" or not ax.axison:
        return ""
    vertical = ax.get_zlabel() if hasattr(ax, "get_zlabel") else ""
    axes = [vertical, ax.get_ylabel(), ax.get_xlabel()]
    legend = ax.get_legend()
    texts = [*ax.texts, *(legend.get_texts() if legend else [])]
    names = [text.get_text() for text in texts]
    parts = [
        ax.get_title() or ax.get_title("left"),
        " against ".join(label for label in axes if label),
        "; ".join(names),
    ]
    return ": ".join(part for part in parts if part)


def fold(summary: str, content: str, more: str = "") -> str:
    """HTML that a reader unfolds; `more`: attributes."""
    return f'<details class="psplib-panel"{more}><summary>{summary}</summary>{content}</details>'


def styled(frame: pd.DataFrame) -> Any:
    """A table in the book's style, empty where a value is missing; nothing, if it has no rows. A
    name in the first column stands once for the rows that share it."""
    if frame.empty:
        return None
    first = frame.iloc[:, 0]
    if pd.api.types.is_string_dtype(first):
        frame = frame.assign(**{first.name: first.where(first != first.shift(), "")})
    shown = frame.style.hide(axis="index").format(na_rep="", precision=3)
    return shown.set_table_attributes('class="psplib"')


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


FORMS = {"points": "+.2f", "bits": "+.4f", "×": ".2f", "r": "+.2f", "index": "+.4f"}


def effect_in_words(verdict: Verdict) -> str:
    """An effect with its interval, where it has one, and unit; a dash where there is none."""
    numbers = (verdict.effect, verdict.low, verdict.high)
    mean, low, high = (format(x, FORMS[verdict.unit]) for x in numbers)
    if not np.isfinite(numbers).all():
        return f"{mean} {verdict.unit}, no interval" if np.isfinite(verdict.effect) else "–"
    return f"{mean} [{low}, {high}] {verdict.unit}"


def tally(verdicts: Sequence[str], form: str = "{} {}") -> str:
    """How many there are of each verdict.

    >>> tally(["undecided", "holds", "undecided", "does not hold", "does not hold"])
    '1 holds, 2 do not hold, 2 undecided'
    """
    several = {HOLDS: "hold", FAILS: "do not hold"}
    counts = {v: verdicts.count(v) for v in VERDICTS if v in verdicts}
    return ", ".join(form.format(n, several.get(v, v) if n > 1 else v) for v, n in counts.items())


def verdict_label(verdict: str) -> str:
    """A verdict in its colour, as HTML."""
    return f'<span class="psplib-verdict {verdict.replace(" ", "-")}">{verdict}</span>'


def split_claim(claim: str) -> tuple[str, str]:
    """A claim, and of which network it is made, if that stands in brackets at its end.

    >>> split_claim("Its loss is lower (LeNet-5, MNIST).")
    ('Its loss is lower.', 'LeNet-5, MNIST')
    """
    found = re.fullmatch(r"(.+?)\.? \(([^()]+)\)\.?", claim)
    return (f"{found[1]}.", found[2]) if found else (claim, "")


_COMES_TO = {
    HOLDS: "**holds**",
    FAILS: "does **not hold**",
    MIXED: "is **mixed**",
    UNDECIDED: "is **undecided**",
    NOT_COMPARABLE: "is **not comparable**",
    NOT_RUN: "has **not been tested** yet",
}


def in_one_sentence(found: Sequence[Verdict], statements: Mapping[str, str]) -> str:
    """What a chapter comes to, as one sentence (Markdown): what each statement holds in, with its
    effect, and what else was found. `statements`: what is said, by a part of the claims' words."""
    clauses = []
    for words, said in statements.items():
        places: dict[str, list[str]] = {}
        for v in found:
            if words in v.claim:
                places.setdefault(v.verdict, []).append(_place(v))
        outcomes = [
            f" {_COMES_TO[verdict]}{listed([p for p in places[verdict] if p])}"
            for verdict in VERDICTS
            if verdict in places
        ]
        clauses.append(f"that {said}{listed(outcomes)}")
    return unbroken(f"**In short:** {'; '.join(clauses)}.")


def _place(v: Verdict) -> str:
    """Where a verdict is reached, and the effect of one that is decided: " in LeNet-5 (...)"."""
    network = split_claim(v.claim)[1].replace(", ", " on ").replace("; ", " with ")
    is_decided = v.verdict in (HOLDS, FAILS) and np.isfinite(v.effect)
    size = f" ({format(v.effect, FORMS[v.unit])} {v.unit})" if is_decided else ""
    return f" in {network}{size}" if network else size


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence, each with the space before it, " and" before the last.

    >>> listed([" in A", " in B", " in C"])
    ' in A, in B and in C'
    """
    return " and".join(filter(None, [",".join(parts[:-1]), *parts[-1:]]))


def plus_minus(values: Interval | pd.Series, digits: int = 2) -> str:
    """A mean and half of its 95 % interval, to one or two significant digits of this. Up to three
    values are given themselves, for their interval may be wider than all that there is to see;
    empty without any value.

    >>> plus_minus(pd.Series([3.0, 1.0, 2.0]), 0), plus_minus(pd.Series([1.0, 2.0, 3.0, 4.0]), 1)
    ('3 / 1 / 2', '2.5\\xa0±\\xa02.1')
    >>> plus_minus(Interval(1.2, 0.0, 2.4, 9)), plus_minus(Interval(1.2, 1.199, 1.201, 9))
    ('1.2\\xa0±\\xa01.2', '1.200\\xa0±\\xa00.001')
    """
    if isinstance(values, pd.Series):
        values = values.dropna()
        if len(values) < 4:
            return " / ".join(f"{value:.{digits}f}" for value in values)
        values = interval(values)
    if values.n < 2:
        return f"{values.mean:.{digits}f}"
    half = values.high - values.mean
    if half > 0:
        order = math.floor(math.log10(half))
        digits = max(0, min(digits + (order == -digits - 1), 1 - order))
    return f"{values.mean:.{digits}f}\u00a0±\u00a0{half:.{digits}f}"


def percent(share: float, digits: int = 1) -> str:
    """A share in per cent.

    >>> percent(0.9957, 2)
    '99.57 %'
    """
    return f"{100 * share:.{digits}f} %"


def unbroken(text: str) -> str:
    """The same text, in which no line ends between a number and its per cent sign."""
    return text.replace(" %", "\u00a0%")


def counted(n: int, what: str) -> str:
    """A number of things, in words."""
    return f"{n} {what}{'s' if n != 1 else ''}"


def ranges(numbers: Sequence[int]) -> str:
    """Whole numbers in words, each once.

    >>> ranges([0, 1, 2, 3, 5])
    '0–3, 5'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    ends = [(str(run[0]), str(run[-1])) for run in runs]
    return ", ".join(first if first == last else f"{first}–{last}" for first, last in ends)
