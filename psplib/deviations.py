"""The book's tables of choices and of provenance, made from the configurations and the runs."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from . import scales
from .checks import one_of
from .config import key, origins
from .experiments import Config, Figure1
from .lobster import Lobster

HIDDEN = ("lobster", "point", "arm")


def table(experiment: str, part: str) -> Any:
    """Every setting of an experiment's gradual runs (`lobster`) or retrainings (`retraining`):
    its value at each scale, where that comes from, and why. An HTML table."""
    one_of("part", part, ("lobster", "retraining"))
    panels = {scale: scales.panel(experiment, scale) for scale in scales.SCALES}
    configs: dict[str, Config] = {
        scale: panel.lobsters[0] if part == "lobster" else panel.retrained
        for scale, panel in panels.items()
    }
    rows = []
    for name, origin in origins(configs["paper"]).items():
        if name in HIDDEN:
            continue
        values = [_value(getattr(configs[scale], name)) for scale in scales.SCALES]
        if name == "seed":
            values = [_value(tuple(x.seed for x in p.lobsters)) for p in panels.values()]
        rows.append([name.replace("_", " "), *values, origin.source, origin.why])
    return as_html(["setting", *scales.SCALES, "from", "why"], rows)


def provenance(figure: Figure1) -> Any:
    """A row for each run behind a figure. An HTML table."""
    rows = []
    for artefact in figure.artefacts:
        config, facts = artefact.config, artefact.provenance
        gradual = config["type"] == Lobster.__name__
        rows.append(
            [
                f"LOBSTER, seed {config['seed']}"
                if gradual
                else f"{config['arm']}, point {config['point']}, × {len(config['replicas'])}",
                artefact.folder.name,
                facts["commit"][:10] + (" (modified)" if facts["modified"] else ""),
                facts["finished"][:16].replace("T", " "),
                f"{facts['device']}, {facts['threads']} thread{'s'[: facts['threads'] > 1]}",
                facts["torch"],
                f"{facts['seconds'] / 60:.1f}",
                "{name} ({variant}) {sha256:.10}".format(**facts["data"]),
            ]
        )
    rows += [[_name(c), key(c), "not run", *[""] * 5] for c in figure.missing]
    head = ["run", "key", "commit", "finished (UTC)", "device", "torch", "minutes", "data, SHA-256"]
    return as_html(head, rows)


def _name(config: Config) -> str:
    if isinstance(config, Lobster):
        return f"LOBSTER, seed {config.seed}"
    return f"{config.arm}, point {config.point}"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        first, last = value[0], value[-1]
        return str(first) if first == last else f"{first} to {last}"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def as_html(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Any:
    """A plain HTML table in the book's style; every cell is escaped."""
    from IPython.display import HTML

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return HTML(f'<table class="psplib"><thead>{line("th", head)}</thead>{body}</table>')
