"""How far experiments have come, and what is still to spend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from psplib.experiments.designs import Design
from psplib.experiments.scales import EXPERIMENTS, SCALES, experiment
from psplib.runs.run import Run
from psplib.runs.store import Store


def seconds(config: Run, store: Store) -> float:
    """What a run costs in seconds of one core: measured if it is done, else estimated."""
    return store.seconds(config) if store.has(config) else config.cost


def overview(store: Store, shown: Store) -> pd.DataFrame:
    """A row per experiment and scale: runs done, running, missing, published; minutes of one core
    spent and still to spend."""
    rows: list[dict[str, Any]] = []
    for name in EXPERIMENTS:
        for scale in SCALES:
            asked = experiment(name, scale)
            configs = asked.runs(store)
            done = [c for c in configs if store.has(c)]
            running = [c for c in configs if not store.has(c) and store.running(c)]
            left = sum(c.cost * (1 - _share(c, store)) for c in configs if c not in done)
            open_ended = not store.has(configs[0])
            rows.append(
                {
                    "experiment": name,
                    "scale": scale,
                    "done": len(done),
                    "running": len(running),
                    "missing": len(configs) - len(done) - len(running),
                    "published": sum(shown.has(c) for c in asked.runs(shown)),
                    "core minutes spent": round(sum(store.seconds(c) for c in done) / 60, 1),
                    "core minutes left": f"{'> ' if open_ended else ''}{left / 60:.1f}",
                }
            )
    return pd.DataFrame(rows)


def _share(config: Run, store: Store) -> float:
    progress = store.progress(config)
    return min(1.0, progress["done"] / progress["total"]) if progress else 0.0


def progress(panels: Sequence[Design], store: Store) -> tuple[float, str]:
    """The share of the experiments' planned work that is done, and what is being made now."""
    configs = list(dict.fromkeys(c for panel in panels for c in panel.runs(store)))
    cost = {c: seconds(c, store) for c in configs}
    done = sum(cost[c] * (1.0 if store.has(c) else _share(c, store)) for c in configs)
    now = [p["note"] for c in configs if not store.has(c) and (p := store.progress(c))]
    ready = sum(store.has(c) for c in configs)
    return done / sum(cost.values()), f"{ready} of {len(configs)} runs; {'; '.join(now)}"
