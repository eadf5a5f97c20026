"""The paper's experiments: from a panel's configuration to runs, from runs to a tidy table."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
import torch

from . import data, lobster, magnitude, minima, models, sensitivity, tickets
from .checks import PsplibError
from .config import key
from .lobster import Lobster
from .magnitude import Magnitude
from .masks import Mask, nest, pack, unpack
from .minima import Analysis, Census, Curvature, Map, Profile
from .runs import Artefact, Parts, Store
from .scales import EXPERIMENTS, SCALES, Beyond, Experiment, Minima, Panel, Rivals, panel
from .sensitivity import Sensitivity
from .tickets import Retraining
from .training import Checkpoint, Report

Config = Lobster | Retraining | Analysis | Magnitude | Sensitivity


def known(panel: Experiment, store: Store) -> list[Config]:
    """The runs of an experiment, in the order of their worth.

    How many points a gradual run has is known only when it is done: until then the retrainings
    from its masks are not in the list; nor is what analyses a retraining that is not done.
    """
    if isinstance(panel, Beyond):
        return [c for rivals in panel.networks for c in known_rivals(rivals, store)]
    return _known_minima(panel, store) if isinstance(panel, Minima) else _known(panel, store)


def known_rivals(rivals: Rivals, store: Store) -> list[Config]:
    """The runs of one network of "beyond the paper"."""
    first, *others = rivals.lobsters
    if not store.has(first):
        return [first, *rivals.decays, *others]
    densities = [1 - s for s in store.load(first).table("points")["sparsity"]]
    return [
        first,
        Sensitivity(first),
        *rivals.decays[:1],
        *rivals.magnitudes(densities),
        *rivals.rewound(densities),
        *rivals.decays[1:],
        *others,
    ]


def _known_minima(panel: Minima, store: Store) -> list[Config]:
    found: list[Config] = []
    later: list[Config] = []
    last: list[Config] = []
    for gradual in panel.lobsters:
        found.append(gradual)
        if not store.has(gradual):
            continue
        points = len(store.load(gradual).table("points"))
        for arm in panel.arms(gradual):
            retraining = panel.retraining(gradual, points, arm)
            found.append(retraining)
            if store.has(retraining):
                found.append(panel.census(retraining))
                if gradual == panel.lobsters[0] and arm == "rewound":
                    later = list(panel.analyses(retraining).values())
                    last = [panel.profile(retraining)]
    # The first run's map and curvature come before everything that is not there yet.
    there = [c for c in found if store.has(c)]
    return [*there, *later, *(c for c in found if c not in there), *last]


def _known(panel: Panel, store: Store) -> list[Config]:
    gradual: list[Config] = [*panel.lobsters[:1], panel.dense, *panel.lobsters[1:]]
    if not store.has(panel.lobsters[0]):
        return gradual
    points = store.load(panel.lobsters[0]).table("points")
    return gradual + list(panel.retrainings([1 - s for s in points["sparsity"]]))


Batch = tuple[Config, ...]


# How many networks are trained together, by the memory that one H200 (139 GiB) has for them.
TOGETHER = {"lenet-300": 400, "lenet-5": 300} | dict.fromkeys(models.RESNETS, 60)


def batches(
    missing: Sequence[Config], device: torch.device, begun: Sequence[tuple[str, ...]] = ()
) -> list[Batch]:
    """Runs that one program makes at once on a device, in the order of their worth.

    On a GPU, gradual runs, and retrainings, of one architecture, data set and recipe go together,
    so that all arms and sparsities of a panel share a program; those `begun` together (their keys)
    stay together. On a CPU every run is alone: networks in their own compact form, one a core, are
    faster than any number of them in one program (`python -m benchmarks.replicas`).
    """
    if device.type == "cpu":
        return [(config,) for config in missing]
    left = {key(config): config for config in missing}
    found = [tuple(left.pop(k) for k in keys) for keys in begun if all(k in left for k in keys)]
    alike: dict[Any, list[Config]] = {}
    for config in left.values():
        places = alike.setdefault(_recipe(config), [])
        places.append(config)
    for recipe, configs in alike.items():
        most = TOGETHER[_gradual(configs[0]).architecture] if recipe[0] is not None else 1
        batch: list[Config] = []
        for config in configs:
            if batch and sum(map(_networks_of, [*batch, config])) > most:
                found.append(tuple(batch))
                batch = []
            batch.append(config)
        found.append(tuple(batch))
    worth = {config: place for place, config in enumerate(missing)}
    return sorted(found, key=lambda batch: worth[batch[0]])


def _recipe(config: Config) -> tuple[Any, ...]:
    """What configurations must share to be computed together; (None, ...) is like nothing else."""
    gradual = _gradual(config)
    data = (gradual.architecture, gradual.data, gradual.samples, gradual.split_seed)
    if isinstance(config, Lobster):
        return ("lobster", *data, config.batch_size, config.sensitivity, config.precision)
    if isinstance(config, Retraining):
        return ("retraining", *data, config.batch_size, config.epochs, config.precision)
    return (None, key(config))


def _networks_of(config: Config) -> int:
    return len(config.replicas) if isinstance(config, Retraining) else 1


def compute_batch(
    batch: Batch,
    store: Store,
    device: torch.device,
    report: Report = lambda done, total, note: None,
    wait: bool = True,
    deadline: float | None = None,
) -> bool:
    """Make the runs of a batch; false if another process has one of them and `wait` is false.

    `OutOfTime` if the deadline (seconds since the epoch) came first.
    """

    def make(checkpoint: Checkpoint) -> tuple[list[Parts], data.Data]:
        loaded = _data(batch[0], device)
        with _one_thread(device):
            return _make(batch, loaded, store, checkpoint), loaded

    return store.compute_together(batch, make, report, wait, deadline) is not None


def compute(
    config: Config,
    store: Store,
    device: torch.device,
    report: Report = lambda done, total, note: None,
    wait: bool = True,
    deadline: float | None = None,
) -> Artefact | None:
    """Make a run, or load it if it is there; None if another process has it and `wait` is false."""
    made = compute_batch((config,), store, device, report, wait, deadline)
    return store.load(config) if made else None


def _make(batch: Batch, data: data.Data, store: Store, checkpoint: Checkpoint) -> list[Parts]:
    """The parts of each run of a batch; several are all gradual runs, or all retrainings."""
    gradual = [c for c in batch if isinstance(c, Lobster)]
    retrained = [c for c in batch if isinstance(c, Retraining)]
    if gradual:
        results = lobster.run_together(gradual, data, checkpoint)
        return [_gradual_parts(result) for result in results]
    if retrained:
        masks = [point_mask(c.lobster, c.point, store) for c in retrained]
        is_plain = data.train.x.device.type == "cpu" and retrained[0].precision == "float32"
        if len(batch) > 1 or not is_plain:
            found = tickets.run_together(retrained, data, masks, checkpoint)
        else:
            found = [tickets.run(retrained[0], data, masks[0], checkpoint)]
        return [_retraining_parts(result) for result in found]
    (config,) = batch
    if isinstance(config, Analysis):
        return [dict(minima.run(config, data, solutions(config, store), checkpoint))]
    if isinstance(config, Magnitude):
        masks = [point_mask(config.lobster, point, store) for point in config.points]
        return [_magnitude_parts(magnitude.run(config, data, masks, checkpoint))]
    assert isinstance(config, Sensitivity)
    networks = _networks(config.lobster, store)
    return [{"points": sensitivity.run(config, data, *networks, checkpoint.report)}]


def _data(config: Config, device: torch.device) -> data.Data:
    gradual = _gradual(config)
    image = models.IMAGE[gradual.architecture]
    return _load(gradual.data, device, gradual.split_seed, image, gradual.samples)


def _gradual(config: Config) -> Lobster:
    """The gradual run that a run hangs on, or is."""
    while not isinstance(config, Lobster):
        config = config.retraining if isinstance(config, Analysis) else config.lobster
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


def _networks(config: Lobster, store: Store) -> tuple[dict[int, torch.Tensor], dict[int, float]]:
    """By its point, the weights (P,) of each network that a gradual run keeps, and the threshold of
    the pruning that follows."""
    artefact = store.load(config)
    kept = sorted(int(n.removeprefix("point")) for n in artefact.tensors("weights"))
    thresholds = artefact.table("points").set_index("point")["threshold"].dropna()
    return {p: point_weights(config, p, store) for p in kept}, thresholds.to_dict()


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
def _load(
    name: str, device: torch.device, seed: int, image: tuple[int, int, int], samples: int | None
) -> data.Data:
    return data.load(name, device=device, seed=seed, image=image, samples=samples)


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


def _magnitude_parts(result: magnitude.Result) -> Parts:
    return {"replicas": result.replicas, "layers": result.layers, "history": result.history}


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


def collect_beyond(panel: Beyond, store: Store) -> FigureBeyond:
    """The tables of "beyond the paper" from the runs that a store has."""
    networks, layers, gradients = [], [], []
    done, missing = _divide(panel, store)
    titles = {r.lobsters[0].architecture: r.title for r in panel.networks}
    for config, artefact in done.items():
        title = titles[_gradual(config).architecture]
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


class _Cost(NamedTuple):
    """Seconds of one core, about: a gradual run to the sparsity of the paper's scale, an epoch of
    it where it is dense, and one where it is sparse; measured on the whole data set."""

    gradual: float
    dense: float
    sparse: float


_COSTS = {
    "lenet-300": _Cost(750.0, 1.0, 0.5),
    "lenet-5": _Cost(10_000.0, 12.0, 4.0),
    "resnet-8": _Cost(16_000.0, 56.0, 40.0),
    "resnet-32": _Cost(80_000.0, 280.0, 200.0),
}
_IMAGES = {"digits": 1_500, "cifar10": 50_000, "mnist": 60_000, "fashion-mnist": 60_000}
# Seconds of one core for LeNet-5 on MNIST, about; that of single neurons passes the images through
# two networks once.
_ANALYSIS, _PROFILE = 900.0, 10.0
# An epoch under a mask of magnitude pruning, which frees few units, of the dense one's time; all
# minibatches of the gradients.
_MAGNITUDE, _GRADIENTS = 0.7, 60.0


def seconds(config: Config, store: Store) -> float:
    """What a run costs in seconds of one core: measured if it is done, else estimated."""
    if store.has(config):
        return store.seconds(config)
    gradual = _gradual(config)
    cost = _COSTS.get(gradual.architecture, _COSTS["resnet-32"])
    whole = _IMAGES["cifar10" if gradual.architecture.startswith("resnet") else "mnist"]
    images = _IMAGES[gradual.data]
    share = min(gradual.samples or images, images) / whole
    if isinstance(config, Lobster):
        return share * min(cost.gradual, cost.dense * config.max_epochs)
    if isinstance(config, Analysis):
        return share * (_PROFILE if isinstance(config, Profile) else _ANALYSIS)
    if isinstance(config, Sensitivity):
        return share * _GRADIENTS
    if isinstance(config, Magnitude):
        epochs = len(config.replicas) * config.epochs
        return share * epochs * cost.dense * (1 + _MAGNITUDE * len(config.points))
    epoch = cost.dense if config.point < 4 else cost.sparse
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


def progress(panels: Sequence[Experiment], store: Store) -> tuple[float, str]:
    """The share of the experiments' known work that is done, and what is being made now."""
    configs = list(dict.fromkeys(c for panel in panels for c in known(panel, store)))
    cost = {c: seconds(c, store) for c in configs}
    done = sum(cost[c] * (1.0 if store.has(c) else _share(c, store)) for c in configs)
    now = [p["note"] for c in configs if not store.has(c) and (p := store.progress(c))]
    ready = sum(store.has(c) for c in configs)
    return done / sum(cost.values()), f"{ready} of {len(configs)} runs; {'; '.join(now)}"


def check_belongs(artefact: Artefact, store: Store) -> None:
    """Raise `PsplibError` unless the tables of a run say what its configuration asked for."""

    def insist(truth: bool, what: str) -> None:
        if not truth:
            raise PsplibError(f"{artefact.folder}: {what} does not belong to its configuration.")

    try:
        _check_run(artefact, store, insist)
    except (LookupError, OSError, TypeError, ValueError) as error:
        # A table or a column that is not there, or of another kind.
        insist(False, f"what it holds ({type(error).__name__}: {error})")


def _check_run(artefact: Artefact, store: Store, insist: Callable[[bool, str], None]) -> None:
    config = artefact.config
    kind = config.get("type", "").lower()
    insist(kind == artefact.folder.parent.name, "the folder")
    if kind in ("census", "map", "curvature", "profile"):
        _check_analysis(artefact, insist)
        return
    if kind == "magnitude":
        _check_magnitude(artefact, store, insist)
        return
    if kind == "sensitivity":
        points = artefact.table("points")
        insist(bool((points["sparsity"].diff().dropna() > 0).all()), "the table of points")
        insist(bool(points[["small", "factor"]].stack().between(0, 1).all()), "the table of points")
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
    gradual = _lobster(config)
    if config["point"] and store.has(gradual):
        points = store.load(gradual).table("points").set_index("point")
        insist(points["kept"].get(config["point"]) == survivors, "the number of survivors")


def _lobster(config: dict[str, Any]) -> Lobster:
    return Lobster(**{k: v for k, v in config["lobster"].items() if k != "type"})


def _check_magnitude(artefact: Artefact, store: Store, insist: Callable[[bool, str], None]) -> None:
    config, replicas = artefact.config, artefact.table("replicas")
    rounds = [[r, p] for r in config["replicas"] for p in (0, *config["points"])]
    insist(replicas[["replica", "point"]].to_numpy().tolist() == rounds, "the table of replicas")
    insist(bool(replicas["best_epoch"].between(1, config["epochs"]).all()), "the best epoch")
    layers = artefact.table("layers").groupby(["replica", "point"])[["kept", "lobster"]].sum()
    kept = replicas[replicas["point"] > 0].set_index(["replica", "point"])["kept"]
    for column in ("kept", "lobster"):
        insist(layers[column].to_dict() == kept.to_dict(), "the table of layers")
    if store.has(gradual := _lobster(config)):
        points = store.load(gradual).table("points").set_index("point")["kept"]
        asked = replicas["point"].map(points)
        insist(bool((asked == replicas["kept"]).all()), "the number of survivors")


def _check_analysis(artefact: Artefact, insist: Callable[[bool, str], None]) -> None:
    config = artefact.config
    if config["type"] == "Census":
        found = artefact.table("networks")["replica"].tolist()
        insist(found == [-1, *config["retraining"]["replicas"]], "the table of networks")
        return
    if config["type"] == "Profile":
        _check_profile(artefact, insist)
        return
    points = artefact.table("points")
    steps, margin = config["steps"], config["margin"]
    alphas = [k / steps for k in range(-margin, steps + margin + 1)]
    rows = minima.LEADING if config["type"] == "Curvature" else len(points) // len(alphas)
    insist(len(points) == len(alphas) * rows, "the table of points")
    insist(sorted(points["alpha"]) == sorted(alphas * rows), "the table of points")


def _check_profile(artefact: Artefact, insist: Callable[[bool, str], None]) -> None:
    neurons, classes = artefact.table("neurons"), artefact.table("classes")
    retraining = artefact.config["retraining"]
    networks = set(zip(neurons["arm"], neurons["replica"], strict=True))
    allowed = {("lobster", -1), *((retraining["arm"], r) for r in retraining["replicas"])}
    insist(networks <= allowed and len(networks) <= 2, "the table of neurons")
    insist(set(neurons["layer"]) <= set(artefact.table("layers")["layer"]), "the table of layers")
    insist(classes["samples"].sum() <= artefact.config["samples"], "the table of classes")
    active = neurons[[f"active_{c}" for c in classes["class"]]].to_numpy()
    insist(bool((active <= classes["samples"].to_numpy()).all()), "the table of neurons")
