"""The ledger: every claim of the paper, section by section, with what the results say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from psplib.experiments.names import SCALES
from psplib.paper import display, forest
from psplib.paper.beyond import FigureBeyond
from psplib.paper.conclusions import conclusions
from psplib.paper.entropy_learning import FigureLearning, learning_claims
from psplib.paper.figure_1 import Figure1
from psplib.paper.figure_1_claims import claims_across, panel_claims
from psplib.paper.figure_2 import claims_of_figure_2, sharp_and_good
from psplib.paper.figure_3 import claims_of_figure_3
from psplib.paper.figure_4 import claims_of_figure_4
from psplib.paper.minima import Figures2to4
from psplib.paper.statistics import (
    FAILS,
    HOLDS,
    LEVEL,
    MIXED,
    NOT_RUN,
    Verdict,
    holm,
)
from psplib.paper.transfer import FigureTransfer, transfer_claims

SEVERAL = "several scales"


@dataclass(frozen=True)
class Entry:
    """A verdict, the chapter that shows it, and the scale and seeds that it rests on."""

    verdict: Verdict
    chapter: str = ""
    basis: str = ""

    @property
    def scale(self) -> str:
        """The scale that the basis names, `SEVERAL`, or empty where nothing was run."""
        if self.verdict.verdict == NOT_RUN:
            return ""
        named = forest.scales_of(self.basis)
        return SEVERAL if len(named) > 1 else "".join(named)


def _untested(section: str, claim: str, why: str) -> Entry:
    return Entry(Verdict(claim, section, why, NOT_RUN))


# What no experiment here speaks of, in the order of the paper.
UNTESTED = (
    _untested(
        "6",
        "The features of gradually pruned networks make them a good match for transfer learning.",
        "the paper itself leaves it to future work",
    ),
)


def entries(
    panels: Sequence[Figure1],
    minima: Figures2to4,
    beyond: FigureBeyond | None = None,
    transfer: FigureTransfer | None = None,
    learning: FigureLearning | None = None,
) -> list[Entry]:
    """Every claim, ordered by section; what is derived from two verdicts comes after them. What
    one-shot pruning costs is not tested without the runs "beyond the paper", nor is transfer
    without its own."""
    found = [
        Entry(
            replace(v, claim=f"{v.claim} ({figure.panel.title})"),
            "figure_1",
            _basis(figure, v),
        )
        for figure in panels
        for v in panel_claims(figure)
    ]
    found += [Entry(v, "figure_1", v.basis) for v in claims_across(panels)]
    basis = display.basis(minima.panel)
    for chapter, verdicts in (
        ("figure_2", [*claims_of_figure_2(minima), *sharp_and_good(minima)]),
        ("figure_3", claims_of_figure_3(minima)),
        ("figure_4", claims_of_figure_4(minima)),
    ):
        found += [Entry(v, chapter, v.basis or basis) for v in verdicts]
    for chapter, verdicts in conclusions(minima, beyond).items():
        found += [Entry(v, chapter, v.basis) for v in verdicts]
    if transfer:
        found += [Entry(v, "transfer", v.basis) for v in transfer_claims(transfer)]
    else:
        found += UNTESTED
    if learning:
        found += [Entry(v, "entropy_learning", v.basis) for v in learning_claims(learning)]
    return sorted(found, key=lambda e: e.verdict.section)


def _basis(figure: Figure1, verdict: Verdict) -> str:
    """Scale and images of a panel, and the runs that enter a verdict on it."""
    samples = figure.panel.lobsters[0].samples
    parts = [figure.panel.scale, f"{samples:,} images" if samples else "", verdict.basis]
    return ", ".join(part for part in parts if part)


def survives(found: Sequence[Entry]) -> list[str]:
    """Whether each verdict survives Holm's correction over all tests of the ledger: yes, no, or a
    dash where nothing was decided or there is no p-value."""
    tested = [e for e in found if np.isfinite(e.verdict.p)]
    adjusted = dict(zip(map(id, tested), holm([e.verdict.p for e in tested]), strict=True))
    return [
        ("yes" if adjusted[id(e)] <= LEVEL else "no")
        if id(e) in adjusted and e.verdict.verdict in (HOLDS, FAILS, MIXED)
        else "–"
        for e in found
    ]


def count(found: Sequence[Entry]) -> str:
    """How many tests at each scale have each verdict (Markdown)."""
    lines = [f"{len(found)} tests:", ""]
    for where in (*reversed(SCALES), SEVERAL, ""):
        verdicts = [e.verdict.verdict for e in found if e.scale == where]
        name = "several scales at once" if where == SEVERAL else f"{where} scale"
        head = f"{len(verdicts)} at {name}: " if where else ""
        if verdicts:
            lines.append(f"- {head}{display.tally(verdicts, '{} *{}*')}")
    return "\n".join(lines)


# How a chapter is called here, where its name does not say it.
_CALLED = {
    "": "Several chapters",
    "beyond_lobster": "Beyond the paper",
    "transfer": "Transfer",
    "entropy_learning": "Learning by PSP-entropy",
}
_HOLM = {"yes": " <small>after Holm, too</small>", "no": " <small>not after Holm</small>", "–": ""}


def ledger_table(found: Sequence[Entry]) -> Any:
    """The ledger as HTML: a fold for each chapter, with a forest plot of its tests; each says of
    itself by what a reader can filter."""
    from IPython.display import HTML

    axes = forest.axes(e.verdict for e in found)
    chapters: dict[str, list[forest.Row]] = {}
    for entry, after_holm in zip(found, survives(found), strict=True):
        v = entry.verdict
        name = _CALLED.get(entry.chapter, entry.chapter.replace("figure_", "Fig. "))
        marks = {"chapter": name, "verdict": v.verdict, "scale": entry.scale}
        shown = replace(
            v,
            claim=f"{v.section}: {v.claim}",
            basis=entry.basis if v.verdict != NOT_RUN else "",
            test=v.test or "its runs are not there yet",
        )
        row = forest.Row(shown, entry.scale == forest.PAPER, _HOLM[after_holm], marks)
        chapters.setdefault(entry.chapter, []).append(row)
    folds = (
        display.fold(
            f"{rows[0].marks['chapter']}: {forest.tests_in_words(rows, 'test')}",
            (f'<p><a href="{chapter}.html">The chapter</a></p>' if chapter else "")
            + forest.table(rows, axes, "section and claim, and where"),
        )
        for chapter, rows in chapters.items()
    )
    return HTML(f'{forest.legend(axes)}<div class="psplib-wide filtered">{"".join(folds)}</div>')
