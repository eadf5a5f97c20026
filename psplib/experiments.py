"""The paper's experiments: from a panel's configuration to runs, from runs to a tidy table."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from . import data, lobster, minima, models, tickets
from .checks import PsplibError
from .config import key
from .lobster import Lobster
from .masks import Mask, nest, pack, unpack
from .minima import Analysis, Census, Curvature, Map
from .runs import Artefact, Parts, Store
from .scales import EXPERIMENTS, MINIMA_ARMS, SCALES, Experiment, Minima, Panel, panel
from .tickets import Retraining
from .training import Checkpoint, Report

Config = Lobster | Retraining | Analysis


def known(panel: Experiment, store: Store) -> list[Config]:
    """The runs of an experiment, in the order of their worth.

    How many points a gradual run has is known only when it is done: until then the retrainings
    from its masks are not in the list; nor is what analyses a retraining that is not done.
    """
    return _known_minima(panel, store) if isinstance(panel, Minima) else _known(panel, store)


def _known_minima(panel: Minima, store: Store) -> list[Config]:
    found: list[Config] = []
    later: list[Config] = []
    for gradual in panel.lobsters:
        found.append(gradual)
        if not store.has(gradual):
            continue
        points = len(store.load(gradual).table("points"))
        for arm in MINIMA_ARMS:
            retraining = panel.retraining(gradual, points, arm)
            found.append(retraining)
            if store.has(retraining):
                found.append(panel.census(retraining))
                if gradual == panel.lobsters[0] and arm == "rewound":
                    later = list(panel.analyses(retraining).values())
    # The first run's map and curvature come before everything that is not there yet.
    return [*(c for c in found if store.has(c)), *later, *(c for c in found if not store.has(c))]


def _known(panel: Panel, store: Store) -> list[Config]:
    gradual: list[Config] = [*panel.lobsters[:1], panel.dense, *panel.lobsters[1:]]
    if not store.has(panel.lobsters[0]):
        return gradual
    points = store.load(panel.lobsters[0]).table("points")
    return gradual + list(panel.retrainings([1 - s for s in points["sparsity"]]))


def compute(
    config: Config,
    store: Store,
    device: torch.device,
    report: Report = lambda done, total, note: None,
    wait: bool = True,
) -> Artefact | None:
    """Make a run, or load it if it is there; None if another process has it and `wait` is false."""

    def make(checkpoint: Checkpoint) -> tuple[Parts, data.Data]:
        gradual = _gradual(config)
        loaded = _load(gradual.data, device, gradual.split_seed, gradual.architecture)
        with _one_thread(device):
            if isinstance(config, Lobster):
                return _gradual_parts(lobster.run(config, loaded, checkpoint)), loaded
            if isinstance(config, Analysis):
                return dict(
                    minima.run(config, loaded, solutions(config, store), checkpoint)
                ), loaded
            mask = point_mask(config.lobster, config.point, store)
            return _retraining_parts(tickets.run(config, loaded, mask, checkpoint)), loaded

    return store.compute(config, make, report, wait)


def _gradual(config: Config) -> Lobster:
    """The gradual run that a run hangs on, or is."""
    while not isinstance(config, Lobster):
        config = config.lobster if isinstance(config, Retraining) else config.retraining
    return config


def solutions(config: Analysis, store: Store) -> minima.Solutions:
    """G and the replicas that an analysis is of, from the runs of a store."""
    retraining = config.retraining
    artefact = store.load(retraining)
    mask = point_mask(retraining.lobster, retraining.point, store)
    replicas = artefact.table("replicas")
    try:
        survivors = artefact.tensors("survivors")["weights"]
    except PsplibError:
        raise PsplibError(
            f"The run {key(retraining)} kept no weights of its replicas: they are kept at "
            f"{tickets.KEPT_ABOVE:.0%} sparsity and above, and it has {mask.sparsity:.1%}."
        ) from None
    best = replicas.sort_values(["validation_error", "validation_loss"], kind="stable").index[0]
    return minima.Solutions(
        models.build(retraining.lobster.architecture, retraining.lobster.seed),
        mask,
        point_weights(retraining.lobster, retraining.point, store),
        torch.zeros(len(survivors), len(mask.flat)).masked_scatter_(mask.flat, survivors),
        tuple(replicas["replica"]),
        int(best),
    )


def point_mask(config: Lobster, point: int, store: Store) -> Mask:
    """The mask at a point of a gradual run; point 0 is dense and needs no run."""
    dense = Mask.dense(models.build(config.architecture, config.seed))
    if point == 0:
        return dense
    survived = store.load(config).tensors("masks")["survived"]
    if point >= (points := int(survived.max())):
        raise PsplibError(f"The gradual run has {points} points; point {point} was asked for.")
    return dense.with_flat(survived > point)


def point_weights(config: Lobster, point: int, store: Store) -> torch.Tensor:
    """The weights (P,) of a gradual run at a point, pruned ones zero.

    `PsplibError` at a point of which they were not kept, see `points_with_weights`.
    """
    mask = point_mask(config, point, store)
    survivors = store.load(config).tensors("weights")
    if f"point{point}" not in survivors:
        raise PsplibError(
            f"The gradual run kept no weights of point {point}, at {mask.sparsity:.1%} sparsity; "
            f"it has those of points {', '.join(n.removeprefix('point') for n in survivors)}."
        )
    return torch.zeros(len(mask.flat)).masked_scatter_(mask.flat, survivors[f"point{point}"])


def points_with_weights(kept: list[int]) -> list[int]:
    """The points whose weights a gradual run keeps, by how many parameters each `kept`.

    The last, all from 95 % sparsity up, and below, where they are large, the first of every
    halving. Not the dense network: nothing is made from it, and the dense arm keeps its own.

    >>> points_with_weights([1000, 900, 400, 300, 200, 50, 49])
    [2, 4, 5, 6]
    """
    chosen, smallest = [], kept[0]
    for point, count in enumerate(kept[1:], 1):
        is_last = point == len(kept) - 1
        if is_last or count <= (1 - tickets.KEPT_ABOVE) * kept[0] or count <= smallest / 2:
            chosen.append(point)
            smallest = count
    return chosen


@functools.lru_cache(maxsize=1)
def _load(name: str, device: torch.device, seed: int, architecture: str) -> data.Data:
    return data.load(name, device=device, seed=seed, image=models.IMAGE[architecture])


@contextlib.contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU a run has one thread: its bits do not depend on the number of cores, and several
    runs side by side use them better."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _gradual_parts(result: lobster.Result) -> Parts:
    return {
        "points": result.points,
        "history": result.history,
        "masks": {"survived": nest(result.masks)},
        "weights": {
            f"point{k}": result.weights[k][result.masks[k]]
            for k in points_with_weights(result.points["kept"].tolist())
        },
    }


def _retraining_parts(result: tickets.Result) -> Parts:
    return {
        "replicas": result.replicas,
        "history": result.history,
        "best": {"packed": pack(result.mask), "weights": result.weights[result.mask]},
        **({"survivors": {"weights": result.survivors}} if len(result.survivors) else {}),
    }


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
    there, by its name; `best`: the replica that is 1-S.
    """

    panel: Minima
    table: pd.DataFrame
    neurons: pd.DataFrame
    maps: dict[str, pd.DataFrame]
    lines: dict[str, pd.DataFrame]
    best: int | None
    missing: tuple[Config, ...]
    artefacts: tuple[Artefact, ...]


def collect_minima(panel: Minima, store: Store) -> Figures2to4:
    """The tables of Figs. 2 to 4 from the runs that a store has."""
    networks, neurons = [], []
    tables: dict[str, pd.DataFrame] = {}
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
    )


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
    """The experiment at the largest scale of which the store has the first gradual run.

    Where it has none, the chapters say so in place: the paper's scale, without runs.
    """
    for scale in reversed(SCALES):
        candidate = panel(name, scale)
        if store.has(candidate.lobsters[0]):
            return candidate
    return panel(name, "paper")


# Seconds of one core for LeNet-5 on MNIST, about: a gradual run to 99.57 %, and an analysis.
_GRADUAL_RUN_OF_IMAGES, _ANALYSIS = 5400.0, 900.0
# Seconds of one core for LeNet-300 on MNIST, measured: a gradual run to 98.5 %; an epoch of a dense
# network, and of one in compact form. An epoch of `digits` is a fortieth.
_GRADUAL_RUN, _DENSE_EPOCH, _COMPACT_EPOCH, _DIGITS = 750.0, 1.0, 0.5, 1 / 40


def seconds(config: Config, store: Store) -> float:
    """What a run costs in seconds of one core: measured if it is done, else estimated."""
    if store.has(config):
        return store.seconds(config)
    gradual = _gradual(config)
    share = _DIGITS if gradual.data == "digits" else 1.0
    images = gradual.architecture != "lenet-300"
    if isinstance(config, Lobster):
        return share * (_GRADUAL_RUN_OF_IMAGES if images else _GRADUAL_RUN)
    if isinstance(config, Analysis):
        return share * _ANALYSIS
    is_dense = config.point < 4 and not images
    epoch = _DENSE_EPOCH if is_dense else _COMPACT_EPOCH
    return share * len(config.replicas) * config.epochs * epoch


def status(store: Store, shown: Store) -> pd.DataFrame:
    """A row per experiment and scale: runs done, running, missing, published; hours of one core
    spent and still to spend."""
    rows: list[dict[str, Any]] = []
    for name in EXPERIMENTS:
        for scale in SCALES:
            configs = known(panel(name, scale), store)
            done = [c for c in configs if store.has(c)]
            running = [c for c in configs if not store.has(c) and store.running(c)]
            left = sum(seconds(c, store) * (1 - _share(c, store)) for c in configs if c not in done)
            open_ended = not store.has(configs[0])
            rows.append(
                {
                    "experiment": name,
                    "scale": scale,
                    "done": len(done),
                    "running": len(running),
                    "missing": len(configs) - len(done) - len(running),
                    "published": sum(shown.has(c) for c in known(panel(name, scale), shown)),
                    "core minutes spent": round(sum(seconds(c, store) for c in done) / 60, 1),
                    "core minutes left": f"{'> ' if open_ended else ''}{left / 60:.1f}",
                }
            )
    return pd.DataFrame(rows)


def _share(config: Config, store: Store) -> float:
    progress = store.progress(config)
    return min(1.0, progress["done"] / progress["total"]) if progress else 0.0


def progress(panel: Experiment, store: Store) -> tuple[float, str]:
    """The share of a panel's known work that is done, and what is being made now."""
    configs = known(panel, store)
    cost = {c: seconds(c, store) for c in configs}
    done = sum(cost[c] * (1.0 if store.has(c) else _share(c, store)) for c in configs)
    now = [p["note"] for c in configs if not store.has(c) and (p := store.progress(c))]
    ready = sum(store.has(c) for c in configs)
    return done / sum(cost.values()), f"{ready} of {len(configs)} runs; {'; '.join(now)}"


def check_belongs(artefact: Artefact, store: Store) -> None:
    """Raise `PsplibError` unless the tables of a run say what its configuration asked for."""
    config = artefact.config

    def insist(truth: bool, what: str) -> None:
        if not truth:
            raise PsplibError(f"{artefact.folder}: {what} does not belong to its configuration.")

    kind = config.get("type", "").lower()
    insist(kind == artefact.folder.parent.name, "the folder")
    if kind in ("census", "map", "curvature"):
        _check_analysis(artefact, insist)
        return
    if kind == "lobster":
        points = artefact.table("points")
        survived = artefact.tensors("masks")["survived"]
        kept = [int((survived > k).sum()) for k in range(int(survived.max()))]
        insist(points["kept"].tolist() == kept, "the table of points")
        last = points.iloc[-1]
        ended = last["sparsity"] >= config["target_sparsity"]
        insist(ended or last["epoch"] == config["max_epochs"], "the table of points")
        return
    replicas = artefact.table("replicas")
    insist(replicas["replica"].tolist() == config["replicas"], "the table of replicas")
    insist(bool(replicas["best_epoch"].between(1, config["epochs"]).all()), "the best epoch")
    best = artefact.tensors("best")
    survivors = len(best["weights"])
    insist(bool((replicas["kept"] == survivors).all()), "the number of survivors")
    bits = unpack(best["packed"], 8 * len(best["packed"]))
    insist(int(bits.sum()) == survivors, "the best replica's mask")
    gradual = Lobster(**{k: v for k, v in config["lobster"].items() if k != "type"})
    if config["point"] and store.has(gradual):
        points = store.load(gradual).table("points").set_index("point")
        insist(points["kept"].get(config["point"]) == survivors, "the number of survivors")


def _check_analysis(artefact: Artefact, insist: Callable[[bool, str], None]) -> None:
    config = artefact.config
    if config["type"] == "Census":
        found = artefact.table("networks")["replica"].tolist()
        insist(found == [-1, *config["retraining"]["replicas"]], "the table of networks")
        return
    points = artefact.table("points")
    steps, margin = config["steps"], config["margin"]
    alphas = [k / steps for k in range(-margin, steps + margin + 1)]
    rows = minima.LEADING if config["type"] == "Curvature" else len(points) // len(alphas)
    insist(len(points) == len(alphas) * rows, "the table of points")
    insist(sorted(points["alpha"]) == sorted(alphas * rows), "the table of points")
