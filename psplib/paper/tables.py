"""From the runs of an experiment to its tidy tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from psplib.experiments.minima import Census, Curvature, Map, Profile
from psplib.experiments.plan import Config, gradual_run, known, solutions
from psplib.experiments.scales import SCALES, Beyond, Experiment, Minima, Panel, panel
from psplib.paper.display import runs_and_replicas
from psplib.pruning.lobster import Lobster
from psplib.pruning.magnitude import Magnitude
from psplib.pruning.retraining import Retraining
from psplib.pruning.sensitivity import Sensitivity
from psplib.runs.store import Artefact, Store


@dataclass(frozen=True)
class Figure1:
    """A panel's tidy table: a row per network.

    Columns: `arm`, `lobster_seed`, `replica`, `point`, `kept`, `sparsity`, `weight_sparsity`,
    `validation_loss`, `validation_error`, `test_loss`, `test_error` (shares, not per cent),
    `best_epoch`. `missing` holds the runs that are not there; `artefacts` those that are.
    """

    panel: Panel
    table: pd.DataFrame
    missing: tuple[Config, ...]
    artefacts: tuple[Artefact, ...]

    @property
    def seeds(self) -> str:
        """How many gradual runs and replicas there are."""
        return runs_and_replicas(self.panel)


COLUMNS = (
    "arm",
    "lobster_seed",
    "replica",
    "point",
    "kept",
    "sparsity",
    "weight_sparsity",
    "validation_loss",
    "validation_error",
    "test_loss",
    "test_error",
    "best_epoch",
)


def collect(panel: Panel, store: Store) -> Figure1:
    """The panel's table from the runs that a store has."""
    frames = []
    done, missing = _divide(panel, store)
    for config, artefact in done.items():
        assert isinstance(config, Lobster | Retraining)
        if isinstance(config, Lobster):
            frame = artefact.table("points").assign(arm="lobster", lobster_seed=config.seed)
        else:
            frame = artefact.table("replicas").assign(
                arm=config.arm, lobster_seed=config.lobster.seed, point=config.point
            )
        frames.append(frame.reindex(columns=list(COLUMNS)))
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))
    table = table.astype({"replica": "Int64", "point": "Int64", "lobster_seed": "Int64"})
    return Figure1(panel, table, missing, tuple(done.values()))


def _divide(panel: Experiment, store: Store) -> tuple[dict[Config, Artefact], tuple[Config, ...]]:
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
    done, missing = _divide(panel, store)
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


@dataclass(frozen=True)
class FigureBeyond:
    """What "beyond the paper" is made of.

    `table`: a row per network, with the columns of `Figure1.table`, `network` (its title) and
    `epoch` (of a gradual run, when the point was reached); the arms are `lobster`, `decay`,
    `rewound`, `magnitude` and `iterative`, the trained dense network of the last two being point 0.
    `layers`: see `magnitude.Result`, with `network` and `arm`; `gradients`: see `sensitivity.run`,
    with `network`. `missing` and `artefacts` as in `Figure1`.
    """

    panel: Beyond
    table: pd.DataFrame
    layers: pd.DataFrame
    gradients: pd.DataFrame
    missing: tuple[Config, ...]
    artefacts: tuple[Artefact, ...]

    @property
    def seeds(self) -> str:
        """How many gradual runs and replicas each network has."""
        return "; ".join(
            f"{r.title}: {len(r.lobsters)} LOBSTER, {len(r.decays)} decay, "
            f"{len(r.replicas)} replicas"
            for r in self.panel.networks
        )


def collect_beyond(panel: Beyond, store: Store) -> FigureBeyond:
    """The tables of "beyond the paper" from the runs that a store has."""
    networks, layers, gradients = [], [], []
    done, missing = _divide(panel, store)
    titles = {r.lobsters[0].architecture: r.title for r in panel.networks}
    for config, artefact in done.items():
        title = titles[gradual_run(config).architecture]
        if isinstance(config, Sensitivity):
            gradients.append(artefact.table("points").assign(network=title))
            continue
        if isinstance(config, Lobster):
            arm = "lobster" if config.sensitivity else "decay"
            frame = artefact.table("points").assign(lobster_seed=config.seed)
        else:
            assert isinstance(config, Retraining | Magnitude)
            frame = artefact.table("replicas").assign(lobster_seed=config.lobster.seed)
            arm = "rewound"
            if isinstance(config, Magnitude):
                arm = "iterative" if config.iterative else "magnitude"
                table = artefact.table("layers").assign(network=title, arm=arm)
                layers.append(table[list(LAYERS)])
            else:
                frame = frame.assign(point=config.point)
        networks.append(frame.assign(network=title, arm=arm).reindex(columns=list(BEYOND)))
    return FigureBeyond(
        panel,
        _together(networks, BEYOND).astype(
            {n: "Int64" for n in ("replica", "point", "lobster_seed", "epoch")}
        ),
        _together(layers, LAYERS),
        _together(gradients, ("network", "point")),
        missing,
        tuple(done.values()),
    )


BEYOND = ("network", *COLUMNS, "epoch")


LAYERS = (
    "network",
    "arm",
    "replica",
    "point",
    "parameter",
    "size",
    "kept",
    "lobster",
    "shared",
)


def _together(frames: list[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(columns))


def _once(frames: list[pd.DataFrame], by: list[str]) -> pd.DataFrame:
    """All frames; G, which every census has, once."""
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=by)
    return table.drop_duplicates(by, ignore_index=True)


def history(figure: Figure1, arms: tuple[str, ...] = ("rewound", "reinitialised")) -> pd.DataFrame:
    """Epoch by epoch, the retraining of some arms at the sparsest point that the figure has.

    Columns: `arm`, `point`, `replica`, `epoch`, `validation_loss`, `validation_error`.
    """
    frames = []
    for arm in arms:
        if runs := [a for a in figure.artefacts if a.config.get("arm") == arm]:
            last = max(runs, key=lambda a: a.config["point"])
            frame = last.table("history")
            frame.insert(0, "arm", arm)
            frame.insert(1, "point", last.config["point"])
            frames.append(frame)
    columns = ["arm", "point", "replica", "epoch", "validation_loss", "validation_error"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


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
