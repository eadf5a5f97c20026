"""From the runs of an experiment to its tidy tables."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from psplib.experiments.minima import Census, Curvature, Map, Profile
from psplib.experiments.plan import Config, known, solutions
from psplib.experiments.scales import SCALES, Experiment, Minima, panel
from psplib.paper.display import runs_and_replicas
from psplib.pruning.retraining import Retraining
from psplib.runs.store import Artefact, Store


def divide(panel: Experiment, store: Store) -> tuple[dict[Config, Artefact], tuple[Config, ...]]:
    """An experiment's runs that a store has, and those that it has not."""
    configs = known(panel, store)
    done = {config: store.load(config) for config in configs if store.has(config)}
    return done, tuple(config for config in configs if config not in done)


@dataclass(frozen=True)
class Figures2to4:
    """What Figs. 2 to 4 are made of.

    `table`: the censuses, a row per network, see `minima.census`, with `lobster_seed`; `neurons`:
    the same by layer and class; `maps` and `lines`: a table for each of `Minima.analyses` that is
    there, by its name; `best`: the replica that is 1-S; `profile`: the tables of `minima.profile`,
    none if it is not there.
    """

    panel: Minima
    table: pd.DataFrame
    neurons: pd.DataFrame
    maps: dict[str, pd.DataFrame]
    lines: dict[str, pd.DataFrame]
    best: int | None
    missing: tuple[Config, ...]
    artefacts: tuple[Artefact, ...]
    profile: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def seeds(self) -> str:
        """How many gradual runs and replicas there are."""
        return runs_and_replicas(self.panel)


def collect_minima(panel: Minima, store: Store) -> Figures2to4:
    """The tables of Figs. 2 to 4 from the runs that a store has."""
    networks, neurons = [], []
    tables: dict[str, pd.DataFrame] = {}
    profile: dict[str, pd.DataFrame] = {}
    names: dict[Config, str] = {}
    best = None
    done, missing = divide(panel, store)
    for config, artefact in done.items():
        if isinstance(config, Census):
            seed = config.retraining.lobster.seed
            networks.append(artefact.table("networks").assign(lobster_seed=seed))
            neurons.append(artefact.table("neurons").assign(lobster_seed=seed))
        elif isinstance(config, Map | Curvature):
            tables[names[config]] = artefact.table("points")
        elif isinstance(config, Profile):
            profile = {name: artefact.table(name) for name in ("neurons", "layers", "classes")}
        elif isinstance(config, Retraining) and config.arm == "rewound" and not names:
            names = {a: name for name, a in panel.analyses(config).items()}
            best = solutions(panel.census(config), store).number
    return Figures2to4(
        panel,
        _once(networks, ["lobster_seed", "arm", "replica"]),
        _once(neurons, ["lobster_seed", "arm", "replica", "layer", "class"]),
        {n: t for n, t in tables.items() if "alpha" in t and "beta" in t},
        {n: t for n, t in tables.items() if "rank" in t},
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
    candidates = [panel(name, scale) for scale in reversed(SCALES)]
    present = [[store.has(c) for c in known(candidate, store)] for candidate in candidates]
    complete = [all(runs) for runs in present]
    best = complete.index(True) if any(complete) else present.index(max(present, key=sum))
    return candidates[best]
