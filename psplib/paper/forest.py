"""Forest plots: a line a test, with zero, the region of the claim, the effect and its interval.

In a chapter the lines of one claim stand together, a network each. A line is a small SVG for a cell
of a table, whose words beside it say the same numbers. Lines of one unit share an axis that is
nearly linear around zero and logarithmic beyond, so that 0.1 and 10 points can both be seen.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from psplib.experiments.names import SCALES
from psplib.paper.display import (
    counted,
    effect_in_words,
    fold,
    split_claim,
    tally,
    unbroken,
    verdict_label,
)
from psplib.paper.statistics import NOT_RUN, Verdict

PAPER = list(SCALES)[-1]
# Up to about which effect the axis of a unit is linear; of a factor (×), of its logarithm.
_LINEAR = {"points": 0.1, "bits": 0.01, "×": 0.1, "r": 0.5, "index": 0.01}
_TICKS = {
    "points": (0.1, 1, 10, 100),
    "bits": (0.01, 0.1, 1),
    "×": tuple(map(math.log, (1.1, 2, 10))),
    "r": (0.5, 1),
    "index": (0.01, 0.1, 1),
}
_HALF, _HEIGHT = 100, 22  # an axis reaches from -100 to 100


@dataclass(frozen=True)
class Axis:
    """The place, -100 to 100, of an effect in a unit; what is farther out lies on the border."""

    unit: str
    reach: float

    def __call__(self, effect: float) -> float:
        """The place of an effect, of a factor of its logarithm."""
        if not math.isfinite(effect):
            return math.copysign(_HALF, effect)
        share = math.asinh(effect / _LINEAR[self.unit]) / math.asinh(
            self.reach / _LINEAR[self.unit]
        )
        return round(_HALF * max(-1.0, min(1.0, share)), 1)


def axes(verdicts: Iterable[Verdict]) -> dict[str, Axis]:
    """For each unit the axis that shows every effect and interval of these verdicts."""
    reach: dict[str, float] = {}
    for v in verdicts:
        numbers = [abs(x) for x in (*_numbers(v), *v.region) if math.isfinite(x)]
        reach[v.unit] = max([reach.get(v.unit, 2 * _LINEAR[v.unit]), *(1.1 * x for x in numbers)])
    return {unit: Axis(unit, most) for unit, most in reach.items()}


def _numbers(v: Verdict) -> tuple[float, float, float]:
    """Effect and interval on the axis: logarithms of a factor."""
    if v.unit != "×":
        return v.effect, v.low, v.high
    with np.errstate(all="ignore"):
        effect, low, high = np.log([v.effect, max(v.low, 0.0), v.high]).tolist()
    return effect, low, high


def line(v: Verdict, axis: Mapping[str, Axis], is_paper_scale: bool) -> str:
    """The line of a verdict, an SVG in the verdict's colour: the mark is filled at the paper's
    scale and hollow below; dashed where there is no interval. Empty without an effect."""
    if not math.isfinite(v.effect):
        return ""
    place = axis[v.unit]
    effect, low, high = map(place, _numbers(v))
    parts = [f"<title>{html.escape(f'{v.verdict}: {effect_in_words(v)}')}</title>"]
    if not any(map(math.isnan, v.region)):
        start, end = map(place, v.region)
        parts.append(
            f'<rect x="{start:g}" y="-11" width="{end - start:g}" height="{_HEIGHT}" '
            'fill="currentColor" fill-opacity=".14"/>'
        )
    for tick in _TICKS[v.unit]:
        if tick < place.reach:
            at = place(tick)
            parts.append(
                f'<path d="M{at:g} 7v4M{-at:g} 7v4" stroke="currentColor" stroke-opacity=".4"/>'
            )
    parts.append('<path d="M0 -11v22" stroke="currentColor" stroke-opacity=".6"/>')
    dashed = "" if math.isfinite(v.low) else ' stroke-dasharray="3 4"'
    parts.append(f'<path d="M{low:g} 0H{high:g}" stroke="currentColor" stroke-width="2"{dashed}/>')
    fill = "currentColor" if is_paper_scale else "var(--pst-color-background, #fff)"
    parts.append(
        f'<circle cx="{effect:g}" r="4.5" fill="{fill}" stroke="currentColor" stroke-width="2"/>'
    )
    return (
        f'<svg class="psplib-forest {v.verdict.replace(" ", "-")}" aria-hidden="true" '
        f'viewBox="-106 -11 212 {_HEIGHT}" width="212" height="{_HEIGHT}">{"".join(parts)}</svg>'
    )


def legend(axis: Mapping[str, Axis]) -> str:
    """How the lines are read, as HTML: what is shaded, and where the ticks of each unit lie."""
    ticks = []
    for unit, place in axis.items():
        shown = [t for t in _TICKS[unit] if t < place.reach]
        if shown:
            numbers = [f"{math.exp(t) if unit == '×' else t:.3g}" for t in shown]
            ticks.append(f"{unit}: {', '.join(numbers)}" + (" and below" if unit == "×" else ""))
    return (
        '<p class="psplib-badge">The shaded side is where the claim would have the effect; the '
        "upright line is no effect. Filled: the paper’s scale; hollow: a smaller one; dashed: no "
        f"interval. Ticks on both sides: {'; '.join(ticks)}.</p>"
    )


def scales_of(basis: str) -> list[str]:
    """The scales that the basis of a verdict names."""
    words = set(basis.replace(",", " ").split())
    return [scale for scale in SCALES if scale in words]


class Row(NamedTuple):
    """A verdict in a table, and whether it is at the paper's scale; what stands beside the verdict,
    and what a reader can filter it by."""

    verdict: Verdict
    is_paper_scale: bool
    note: str = ""
    marks: Mapping[str, str] = MappingProxyType({})


def forest_plot(
    found: Sequence[Verdict],
    scale: str,
    of: str = "claim of the paper, and where",
    answer: Iterable[str] = ("",),
) -> Any:
    """Verdicts as an HTML table with a line for each. `scale` is that of verdicts whose basis names
    none. Claims without any of the words of `answer` are folded away, and counted."""
    from IPython.display import HTML

    axis = axes(found)
    rows = [Row(v, (scales_of(v.basis) or [scale]) == [PAPER]) for v in found]
    first = [row for row in rows if any(words in row.verdict.claim for words in answer)]
    rest = [row for row in rows if row not in first]
    more = fold(tests_in_words(rest, "further test"), table(rest, axis, of)) if rest else ""
    return HTML(legend(axis) + table(first, axis, of) + more)


def tests_in_words(rows: Sequence[Row], of: str) -> str:
    """How many there are, and how many of each verdict."""
    return f"{counted(len(rows), of)}: {tally([row.verdict.verdict for row in rows])}"


def table(rows: Sequence[Row], axis: Mapping[str, Axis], of: str) -> str:
    """An HTML table of a line for each verdict, those on one claim (headed `of`) together; a claim
    has an anchor, and unfolds to its tests."""
    claims: dict[str, list[tuple[str, Row]]] = {}
    for row in rows:
        claim, network = split_claim(row.verdict.claim)
        claims.setdefault(claim, []).append((network, row))
    head = "".join(f"<th>{name}</th>" for name in (of, "verdict", "effect, 95 % interval", "n"))
    body = "".join(_of_claim(claim, its, axis) for claim, its in claims.items())
    return f'<table class="psplib forest"><thead><tr>{head}</tr></thead>{body}</table>'


def _of_claim(claim: str, rows: Sequence[tuple[str, Row]], axis: Mapping[str, Axis]) -> str:
    said = ((network, row.verdict.test, row.verdict.basis) for network, row in rows)
    joined = (html.escape("; ".join(filter(None, parts))) for parts in said)
    tests = "".join(f"<p>{words}</p>" for words in joined)
    lines = "".join(_line(network, row, axis) for network, row in rows)
    anchor = re.sub(r"\W+", "-", claim.lower()).strip("-")
    return (
        f'<tbody id="{anchor}"><tr><th colspan="4" scope="rowgroup"><details><summary>'
        f"{html.escape(claim)}</summary>{unbroken(tests)}</details></th></tr>{lines}</tbody>"
    )


def _line(network: str, row: Row, axis: Mapping[str, Axis]) -> str:
    v = row.verdict
    drawn = line(v, axis, row.is_paper_scale) if v.verdict != NOT_RUN else ""
    cells = (
        html.escape(network),
        verdict_label(v.verdict) + row.note,
        f"{drawn} {html.escape(effect_in_words(v))}",
        str(v.n or "–"),
    )
    marks = "".join(f' data-{name}="{html.escape(value)}"' for name, value in row.marks.items())
    return f"<tr{marks}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
