"""From the runs of an experiment to its tidy tables."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from psplib.experiments.plan import planned
from psplib.experiments.scales import SCALES, Experiment, Minima, experiment
from psplib.experiments.solutions import solutions
from psplib.paper.display import runs_and_replicas
from psplib.pruning.retraining import Retraining
from psplib.runs.run import Run
from psplib.runs.store import Artefact, Store


def divide(panel: Experiment, store: Store) -> tuple[dict[Run, Artefact], tuple[Run, ...]]:
    """An experiment's runs that a store has, and those that it has not."""
    configs = planned(panel, store)
    done = {config: store.load(config) for config in configs if store.has(config)}
    return done, tuple(config for config in configs if config not in done)


@dataclass(frozen=True)
class Figures2to4:
    """What Figs. 2 to 4 are made of.

    `table`: the censuses, a row per network, see `Census.analyse`, with `lobster_seed`; `neurons`:
    the same by layer and class; `maps` and `lines`: a table for each of `Minima.analyses` that is
    there, by its name; `best`: the replica that is 1-S; `profile`: the tables of `Profile.analyse`,
    none if it is not there.
    """

    panel: Minima
    table: pd.DataFrame
    neurons: pd.DataFrame
    maps: dict[str, pd.DataFrame]
    lines: dict[str, pd.DataFrame]
    best: int | None
    missing: tuple[Run, ...]
    artefacts: tuple[Artefact, ...]
    profile: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def seeds(self) -> str:
        """How many gradual runs and replicas there are."""
        return runs_and_replicas(self.panel)


def collect_minima(panel: Minima, store: Store) -> Figures2to4:
    """The tables of Figs. 2 to 4 from the runs that a store has."""
    networks, neurons = [], []
    maps: dict[str, pd.DataFrame] = {}
    lines: dict[str, pd.DataFrame] = {}
    profile: dict[str, pd.DataFrame] = {}
    names: dict[Run, str] = {}
    best = None
    done, missing = divide(panel, store)
    for config, artefact in done.items():
        if not names and isinstance(config, Retraining) and config.arm == "rewound":
            names = {a: name for name, a in panel.analyses(config).items()}
            best = solutions(config, store).number
        for rows, table in config.tables(artefact).items():
            match rows:
                case "census":
                    networks.append(table)
                case "neurons":
                    neurons.append(table)
                case "map":
                    maps[names[config]] = table
                case "line":
                    lines[names[config]] = table
                case "profile neurons" | "profile layers" | "profile classes":
                    profile[rows.removeprefix("profile ")] = table
    return Figures2to4(
        panel,
        _once(networks, ["lobster_seed", "arm", "replica"]),
        _once(neurons, ["lobster_seed", "arm", "replica", "layer", "class"]),
        maps,
        lines,
        best,
        missing,
        tuple(done.values()),
        profile,
    )


def _once(frames: list[pd.DataFrame], by: list[str]) -> pd.DataFrame:
    """All frames; G, which every census has, once."""
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=by)
    return table.drop_duplicates(by, ignore_index=True)


def largest_published(name: str, store: Store) -> Experiment:
    """The experiment at the largest scale of which the store has every run; else at the scale of
    which it has most runs, the larger of equal ones.

    Where it has none at all, that is the paper's scale: the chapters say in place what is missing.
    """
    candidates = [experiment(name, scale) for scale in reversed(SCALES)]
    present = [[store.has(c) for c in planned(candidate, store)] for candidate in candidates]
    complete = [all(runs) for runs in present]
    best = complete.index(True) if any(complete) else present.index(max(present, key=sum))
    return candidates[best]
