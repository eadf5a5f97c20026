"""From the runs of an experiment to its tidy tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from psplib.experiments.designs import Design
from psplib.experiments.scales import SCALES, experiment
from psplib.runs.run import Run
from psplib.runs.store import Artefact, Store


def together(frames: Iterable[pd.DataFrame], columns: Sequence[str] = ()) -> pd.DataFrame:
    """All rows of some tables; a table of these columns where there are none."""
    full = [frame for frame in frames if len(frame)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=list(columns))


def divide(panel: Design, store: Store) -> tuple[dict[Run, Artefact], tuple[Run, ...]]:
    """An experiment's runs that a store has, and those that it has not."""
    configs = panel.runs(store)
    done = {config: store.load(config) for config in configs if store.has(config)}
    return done, tuple(config for config in configs if config not in done)


def largest_published(name: str, store: Store) -> Design:
    """The experiment at the largest scale of which the store has every run; else at the scale of
    which it has most runs, the larger of equal ones.

    Where it has none at all, that is the paper's scale: the chapters say in place what is missing.
    """
    candidates = [experiment(name, scale) for scale in reversed(SCALES)]
    present = [[store.has(c) for c in candidate.runs(store)] for candidate in candidates]
    complete = [all(runs) for runs in present]
    best = complete.index(True) if any(complete) else present.index(max(present, key=sum))
    return candidates[best]
