"""What runs cost, and how far they have come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from psplib.experiments.minima import Analysis, Profile
from psplib.experiments.plan import Config, gradual_run, known
from psplib.experiments.scales import EXPERIMENTS, SCALES, Experiment, panel
from psplib.pruning.lobster import Lobster
from psplib.pruning.magnitude import Magnitude
from psplib.pruning.sensitivity import Sensitivity
from psplib.runs.store import Store


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
    gradual = gradual_run(config)
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
