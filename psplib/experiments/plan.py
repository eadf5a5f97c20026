"""The paper's experiments: what runs they are made of, and how a run is made."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from psplib.core.config import key
from psplib.core.errors import PsplibError
from psplib.experiments import minima
from psplib.experiments.minima import Analysis
from psplib.experiments.scales import Beyond, Experiment, Minima, Panel, Rivals
from psplib.nn import data, models
from psplib.nn.masks import Mask, nest, pack_bits
from psplib.pruning import lobster, magnitude, sensitivity
from psplib.pruning import retraining as tickets
from psplib.pruning.lobster import Lobster
from psplib.pruning.magnitude import Magnitude
from psplib.pruning.retraining import Retraining
from psplib.pruning.sensitivity import Sensitivity
from psplib.runs.store import Artefact, Parts, Store
from psplib.training.fit import Checkpoint, Report

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
        most = TOGETHER[gradual_run(configs[0]).architecture] if recipe[0] is not None else 1
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
    gradual = gradual_run(config)
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
        results = lobster.prune_gradually(gradual, data, checkpoint)
        return [_gradual_parts(result) for result in results]
    if retrained:
        masks = [point_mask(c.lobster, c.point, store) for c in retrained]
        found = tickets.retrain(retrained, data, masks, checkpoint)
        return [_retraining_parts(result) for result in found]
    (config,) = batch
    if isinstance(config, Analysis):
        return [dict(minima.run(config, data, solutions(config, store), checkpoint))]
    if isinstance(config, Magnitude):
        masks = [point_mask(config.lobster, point, store) for point in config.points]
        return [_magnitude_parts(magnitude.prune_by_magnitude(config, data, masks, checkpoint))]
    assert isinstance(config, Sensitivity)
    networks = _networks(config.lobster, store)
    return [{"points": sensitivity.measure_sensitivity(config, data, *networks, checkpoint.report)}]


def _data(config: Config, device: torch.device) -> data.Data:
    gradual = gradual_run(config)
    image = models.IMAGE[gradual.architecture]
    return _load(gradual.data, device, gradual.split_seed, image, gradual.samples)


def gradual_run(config: Config) -> Lobster:
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


def _gradual_parts(result: lobster.GradualResult) -> Parts:
    return {
        "points": result.points,
        "history": result.history,
        "masks": {"survived": nest(result.masks)},
        "weights": {
            f"point{k}": result.weights[k][result.masks[k]]
            for k in points_with_weights(result.points["kept"].tolist())
        },
    }


def _retraining_parts(result: tickets.RetrainingResult) -> Parts:
    return {
        "replicas": result.replicas,
        "history": result.history,
        "best": {"packed": pack_bits(result.mask), "weights": result.weights[result.mask]},
        **({"survivors": {"weights": result.survivors}} if len(result.survivors) else {}),
    }


def _magnitude_parts(result: magnitude.MagnitudeResult) -> Parts:
    return {"replicas": result.replicas, "layers": result.layers, "history": result.history}
