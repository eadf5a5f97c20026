"""The first page: what was asked, what was found, how sure that is; as a picture and five rows."""

from __future__ import annotations

import html
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from contourpy import FillType, contour_generator

from psplib.core.errors import PsplibError
from psplib.paper import display
from psplib.paper.display import percent
from psplib.paper.figure_1 import Figure1
from psplib.paper.ledger import Entry, survives
from psplib.paper.minima import Figures2to4, collect_minima
from psplib.paper.plane import SOLUTIONS, at, grid
from psplib.paper.statistics import NOT_RUN, interval
from psplib.paper.style import ARMS
from psplib.paper.tables import largest_published
from psplib.runs.store import published

# --- five rows --------------------------------------------------------------------------------


class Headline(NamedTuple):
    """What the paper says, the claim of the ledger that this is (a part of its words), and of what
    the effect is."""

    says: str
    claim: str
    effect: str


ROWS = (
    Headline(
        "Gradual pruning keeps its accuracy where one-shot pruning loses it.",
        "gradual pruning has a lower error than one-shot rewinding",
        "test error, one-shot − gradual",
    ),
    Headline(
        "For one-shot pruning, original or new random initial values hardly matter.",
        "gap between original and random initial values is minor",
        "test error, random − original",
    ),
    Headline(
        "Gradual pruning ends in a narrower minimum.",
        "narrower minimum than the one-shot solution: surviving coordinates",
        "largest eigenvalue, gradual / one-shot",
    ),
    Headline(
        "The potentials of its hidden neurons are smaller.",
        "lower PSP magnitudes",
        "mean z², one-shot / gradual",
    ),
    Headline(
        "Its neurons are less specialised to classes: a higher PSP-entropy of second order.",
        "higher second-order entropy: mutual",
        "mutual entropy, gradual − one-shot",
    ),
)


def five_rows(found: Sequence[Entry]) -> str:
    """`ROWS` with verdict, effect and chapter, from the ledger, as an HTML table."""
    names = ("the paper says", "we find", "how large, 95 % interval", "see")
    return display.cards(names, [_cells(row, _entry(row, found)) for row in ROWS])


def _entry(row: Headline, found: Sequence[Entry]) -> Entry:
    for entry in found:
        if row.claim in entry.verdict.claim:
            return entry
    raise PsplibError(f"The first page quotes a claim that the ledger lacks: {row.claim!r}.")


def _cells(row: Headline, entry: Entry) -> tuple[str, ...]:
    v = entry.verdict
    network = v.claim.rstrip(".").rpartition("(")[2].removesuffix(")")
    what = f"{row.effect}, {network}; n\u00a0=\u00a0{v.n}"
    size = f"{display.effect_in_words(v)} <small>{what}</small>"
    chapter = f'<a href="{entry.chapter}.html">{entry.chapter.replace("figure_", "Fig.&nbsp;")}</a>'
    label = display.verdict_label(v.verdict)
    return row.says, label, size if v.verdict != NOT_RUN else "–", chapter


def how_sure(found: Sequence[Entry]) -> str:
    """How many tests came to what, and how many verdicts survive Holm's correction."""
    parts = display.tally([e.verdict.verdict for e in found], "{} <em>{}</em>")
    sure = sum(answer == "yes" for answer in survives(found))
    return (
        f"<strong>How sure?</strong> Of {len(found)} tests {parts}; {sure} verdicts survive Holm’s "
        "correction for their number."
    )


def first_screen(figure: Figure1, minima: Figures2to4, found: Sequence[Entry]) -> Any:
    """The picture, how sure its findings are, three ways on, and the five rows, as HTML."""
    from IPython.display import HTML

    ways = (
        ("claims.html", "See the evidence"),
        ("playground.html", "Play"),
        ("#how-to-run-it-again", "Run a chapter"),
    )
    links = " ".join(f'<a href="{where}">{name}</a>' for where, name in ways)
    return HTML(
        f'<div class="psplib-front">{two_pictures(figure, minima)}'
        f'<div><p>{how_sure(found)}</p><p class="psplib-buttons">{links}</p></div></div>'
        f"{five_rows(found)}"
    )


# --- the picture --------------------------------------------------------------------------------

HEIGHT = 262
# Two panels: left, top, width, height.
_CURVES, _MAP = (46, 34, 372, 186), (480, 34, 186, 186)
# Where each begins in the picture, and how wide it is with its words.
_SPANS = (0, 440), (470, 290)
_DRAWN = ("lobster", "rewound", "reinitialised")
_NAMES = {arm: ARMS[arm].name for arm in _DRAWN}


class _Axis(NamedTuple):
    """A linear scale from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: Any) -> Any:
        share = (value - self.low) / (self.high - self.low)
        return np.round(self.start + share * (self.end - self.start), 1)


def two_pictures(figure: Figure1, minima: Figures2to4) -> str:
    """Fig. 1a's curves, and the loss over the plane through G and 1-S: two SVGs, of text and lines
    in the colour of the text around them, with values on hover. One without runs says so."""
    words, drawn = in_words(figure, minima), (_curves(figure), _loss(minima))
    return "".join(_svg(*parts) for parts in zip(words, drawn, _SPANS, strict=True))


def visual_abstract(figure: Figure1, minima: Figures2to4) -> str:
    """The same side by side, as a file, which asks the reader's system whether the page is dark."""
    style = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"
    drawn = style + _curves(figure) + _loss(minima)
    return _svg(" ".join(in_words(figure, minima)), drawn, (0, sum(_SPANS[1]))) + "\n"


def _svg(words: str, drawn: str, span: tuple[int, int]) -> str:
    start, width = span
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{start} 0 {width} {HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="12" fill="currentColor">'
        f"<title>{html.escape(words)}</title>{drawn}</svg>"
    )


def in_words(figure: Figure1, minima: Figures2to4) -> tuple[str, str]:
    """What the two pictures show, for who does not see them."""
    curves = plane = "The runs of this picture are not there yet."
    if not figure.gradual.empty:
        last = figure.gradual.iloc[-1]
        ends = [f"gradual {percent(last['test_error'], 2)}"]
        for arm in _DRAWN[1:]:
            errors = figure.errors(arm)
            if last.name in errors.index:
                ends.append(f"{_NAMES[arm]} {errors.loc[last.name].mean():.2f} %")
        curves = (
            f"Test error of {figure.panel.title} as parameters are pruned; at "
            f"{percent(last['sparsity'])} sparsity: {', '.join(ends)}."
        )
    points = minima.map()
    if points is not None:
        g, s = (at(points, alpha)["loss"] for alpha, _, _ in SOLUTIONS)
        plane = (
            f"Training loss of {minima.panel.title} over the plane through both solutions: {g:.4f} "
            f"at the gradual one (G), {s:.4f} at the rewound one (1-S), "
            f"up to {points['loss'].max():.1f}."
        )
    return curves, plane


def _curves(figure: Figure1) -> str:
    left, top, width, height = _CURVES
    parts = [_text(left, 14, f"Test error [%], {figure.panel.title}", weight="bold")]
    gradual = figure.gradual
    if gradual.empty:
        return "".join([*parts, _text(left, top + 20, "not there yet")])
    densities = 100 * figure.densities
    series = {"lobster": (100 * gradual["test_error"]).to_frame()}
    series |= {arm: figure.errors(arm) for arm in _DRAWN[1:]}
    series = {arm: errors for arm, errors in series.items() if len(errors)}
    seen = [float(v) for errors in series.values() for v in errors.mean(axis=1)]
    room = 0.12 * (max(seen) - min(seen) or 1)
    x = _Axis(2, float(np.log10(densities.min())), left, left + width)
    y = _Axis(min(seen) - 1.5 * room, max(seen) + 1.5 * room, top + height, top)
    for percents in (100, 50, 20, 10, 5, 2, 1):
        if percents >= densities.min():
            parts.append(_text(x(np.log10(percents)), top + height + 16, percents, "middle"))
    parts.append(_text(left + width, top + height + 33, "surviving parameters [%] →", "end"))
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if (max(seen) - min(seen)) / s < 5)
    for value in np.arange(np.ceil(y.low / step), np.floor(y.high / step) + 1) * step:
        parts.append(_line([(left, y(value)), (left + width, y(value))], "currentColor", 0.15))
        parts.append(_text(left - 6, y(value) + 4, f"{value:g}", "end"))
    if len(dense := figure.errors("dense")):
        value = float(dense.loc[0].mean())
        at_dense = y(value)
        parts.append(
            _line([(left, at_dense), (left + width, at_dense)], "currentColor", 0.6, dash="4 3")
        )
        parts.append(_text(left + 4, at_dense + 15, f"dense {value:.2f}"))
    for arm, errors in series.items():
        parts.append(_curve(arm, errors, x(np.log10(densities[errors.index])), y))
    return "".join(parts)


def _curve(arm: str, errors: pd.DataFrame, xs: Any, y: _Axis) -> str:
    """An arm's mean as a line with its 95 % interval, and its name at the end."""
    color, means = ARMS[arm].color, [interval(row.dropna()) for _, row in errors.iterrows()]
    line = [(a, y(m.mean)) for a, m in zip(xs, means, strict=True)]
    parts = []
    if all(np.isfinite(m.low) for m in means):
        ends = [(a, m.low, m.high) for a, m in zip(xs, means, strict=True)]
        area = [(a, y(low)) for a, low, _ in ends] + [(a, y(high)) for a, _, high in ends[::-1]]
        parts.append(f'<path d="{_path(area)}Z" fill="{color}" fill-opacity=".25"/>')
    parts.append(_line(line, color, 1, width=2))
    name = _NAMES[arm]
    for (a, b), m in zip(line, means, strict=True):
        parts.append(
            f'<circle cx="{a:g}" cy="{b:g}" r="2.5" fill="{color}">'
            f"<title>{name}: {m.mean:.2f} %</title></circle>"
        )
    a, b = line[-1]
    if arm == "lobster":
        b = max(b for _, b in line) + 17
    else:
        b -= 12
    parts.append(_text(a, b, name, "end"))
    parts.append(f'<circle cx="{a + 9:g}" cy="{b - 4:g}" r="5" fill="{color}"/>')
    return "".join(parts)


def _loss(minima: Figures2to4) -> str:
    left, top, width, height = _MAP
    parts = [_text(left, 14, f"Training loss, {minima.panel.title}", weight="bold")]
    points = minima.map()
    if points is None:
        return "".join([*parts, _text(left, top + 20, "not there yet")])
    alpha, beta, loss = grid(points, "loss")
    x = _Axis(alpha.min(), alpha.max(), left, left + width)
    y = _Axis(beta.min(), beta.max(), top + height, top)
    levels = np.geomspace(loss.min(), loss.max(), 11)[1:]
    colors = [
        mpl.colors.to_hex(c)
        for c in mpl.colormaps["viridis"](np.linspace(0, 1, len(levels)) ** 0.9)
    ]
    parts.append(f'<path d="M{left} {top}h{width}v{height}h-{width}Z" fill="{colors[-1]}"/>')
    # From the highest level down, each region over the larger one: no seams between them.
    drawn: Any = contour_generator(x(alpha), y(beta), np.log(loss), fill_type=FillType.OuterCode)
    for level, color in list(zip(levels, colors, strict=True))[-2::-1]:
        regions, codes = drawn.filled(-np.inf, float(np.log(level)))
        rings = [
            _path(ring) + "Z"
            for region, code in zip(regions, codes, strict=True)
            for ring in np.split(region, np.flatnonzero(code == 1)[1:])
        ]
        parts.append(f'<path fill-rule="evenodd" d="{"".join(rings)}" fill="{color}"/>')
    for a, color, name in SOLUTIONS:
        value = at(points, a)["loss"]
        parts.append(
            f'<circle cx="{x(a):g}" cy="{y(0):g}" r="5.5" fill="{color}" stroke="#fff" '
            f'stroke-width="1.5"><title>{name}: {value:.4f} nats</title></circle>'
        )
        parts.append(
            f'<text x="{x(a):g}" y="{y(0) - 11:g}" text-anchor="middle" fill="#fff" '
            f'font-weight="bold">{name}</text>'
        )
    bar, cell = left + width + 10, height / len(colors)
    for i, color in enumerate(colors):
        low = top + height - (i + 1) * cell
        parts.append(f'<path d="M{bar} {low:.1f}h12v{cell + 0.5:.1f}h-12Z" fill="{color}"/>')
    parts.append(_text(bar + 17, top + height, f"{loss.min():.3f}"))
    parts.append(_text(bar + 17, top + 10, f"{loss.max():.0f} nats"))
    parts.append(_text(left, top + height + 16, "the plane through G, gradual, and 1-S, rewound"))
    return "".join(parts)


def _text(x: float, y: float, words: Any, anchor: str = "start", weight: str = "normal") -> str:
    where = f'x="{x:g}" y="{y:g}"'
    where += f' text-anchor="{anchor}"' if anchor != "start" else ""
    where += f' font-weight="{weight}"' if weight != "normal" else ""
    return f"<text {where}>{html.escape(str(words))}</text>"


def _line(points: Any, color: str, opacity: float, width: float = 1, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<path d="{_path(points)}" fill="none" stroke="{color}" stroke-opacity="{opacity:g}" '
        f'stroke-width="{width:g}"{dashed}/>'
    )


def _path(points: Any) -> str:
    return "M" + " ".join(f"{a:.1f} {b:.1f}" for a, b in points)


def write_picture() -> None:
    """Write the picture from the published results to standard output."""
    store = published()
    figure = Figure1.collect(largest_published("figure_1a", store), store)  # type: ignore[arg-type]
    minima = collect_minima(largest_published("minima", store), store)  # type: ignore[arg-type]
    sys.stdout.write(visual_abstract(figure, minima))


if __name__ == "__main__":
    write_picture()
