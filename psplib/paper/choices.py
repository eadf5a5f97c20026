"""The book's tables of choices and of provenance, made from the configurations and the runs."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from psplib.core.config import key, read
from psplib.core.errors import one_of
from psplib.experiments import scales
from psplib.experiments.kinds import KINDS
from psplib.paper import display, sources
from psplib.pruning.sensitivity import Sensitivity
from psplib.runs.run import Run

# What tells the runs of an experiment apart is no choice.
HIDDEN = (
    "lobster",
    "point",
    "points",
    "arm",
    "iterative",
    "retraining",
    "subspace",
    "definition",
    "pairs",
)


def table(experiment: str, part: str) -> Any:
    """Every setting of a part of an experiment: its value at each scale, where that comes from, and
    why. An HTML table. The parts are `lobster` and `retraining`; of `minima` also `census`,
    `profile` and the names of `Minima.analyses`; of `beyond` only `sensitivity` and, for
    each architecture A, `A, decay` and `A, magnitude`."""
    panels = {scale: scales.experiment(experiment, scale) for scale in scales.SCALES}
    parts = {scale: _parts(panel) for scale, panel in panels.items()}
    one_of("part", part, parts["paper"])
    rows = []
    for name, origin in sources.origins(experiment, part, parts["paper"][part]).items():
        if name in HIDDEN:
            continue
        values = [_value(getattr(parts[scale][part], name)) for scale in scales.SCALES]
        if name == "seed":
            values = [_value(_seeds(p, part)) for p in panels.values()]
        rows.append([name.replace("_", " "), *values, origin.source, origin.why])
    return as_html(["setting", *scales.SCALES, "from", "why"], rows)


def _seeds(panel: scales.Experiment, part: str) -> tuple[int, ...]:
    runs = panel.lobsters
    if isinstance(panel, scales.Beyond):
        runs = next(r.decays for r in panel.networks if part.startswith(_architecture(r)))
    return tuple(run.seed for run in runs)


def _architecture(rivals: scales.Rivals) -> str:
    return rivals.lobsters[0].architecture


def _parts(panel: scales.Experiment) -> dict[str, Run]:
    parts: dict[str, Run] = {"lobster": panel.lobsters[0], "retraining": panel.retrained}
    if isinstance(panel, scales.Minima):
        parts["census"] = panel.census(panel.retrained)
        parts["profile"] = panel.profile(panel.retrained)
        parts |= panel.analyses(panel.retrained)
    if isinstance(panel, scales.Beyond):
        parts = {"sensitivity": Sensitivity(panel.lobsters[0])}
        for rivals in panel.networks:
            parts[f"{_architecture(rivals)}, decay"] = rivals.decays[0]
            parts[f"{_architecture(rivals)}, magnitude"] = rivals.magnitudes([1.0, 0.5])[0]
    return parts


def provenance(figure: display.Results) -> Any:
    """A row for each run behind a figure. An HTML table."""
    rows = []
    for artefact in figure.artefacts:
        facts = artefact.provenance
        rows.append(
            [
                read(artefact.config, KINDS).title,
                artefact.folder.name,
                facts["commit"][:10] + (" (modified)" if facts["modified"] else ""),
                facts["finished"][:16].replace("T", " "),
                f"{facts['device']}, {facts['threads']} thread{'s'[: facts['threads'] > 1]}, "
                f"torch {facts['torch']}",
                f"{facts['seconds'] / 60:.1f}",
                "{name} ({variant}) {sha256:.10}".format(**facts["data"]),
            ]
        )
    rows += [[c.title, key(c), "not run", *[""] * 4] for c in figure.missing]
    head = ["run", "key", "commit", "finished (UTC)", "computed with", "minutes", "data, SHA-256"]
    return as_html(head, rows)


def _value(value: Any) -> str:
    if value is None:
        return "all"
    if isinstance(value, tuple):
        first, last = (value[0], value[-1]) if value else ("none", "none")
        if len(value) < 3:
            return str(first) if first == last else f"{first}, {last}"
        return f"{first} to {last}"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def as_html(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Any:
    """A table in the book's style; every cell is escaped."""
    from IPython.display import HTML

    return HTML(display.cards(head, [[html.escape(cell) for cell in row] for row in rows]))
