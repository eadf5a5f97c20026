"""The configurations of every experiment at every scale, from first contact to the paper's size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .checks import PsplibError, one_of, whole_number
from .lobster import Lobster
from .tickets import Retraining

SCALES = {
    "smoke": "scikit-learn's digits, seconds: first contact and tests",
    "quick": "the real data, 3 replicas: a laptop's CPU",
    "paper": "the real data, 10 replicas, 3 LOBSTER seeds: the paper's size",
}
PUBLISHED = "published"
RETRAINED = ("rewound", "reinitialised", "restructured-layer", "restructured-global")


@dataclass(frozen=True)
class Panel:
    """One panel of Fig. 1: gradual pruning runs, and what is retrained from the first one's masks.

    The masks of the later runs are not retrained from: they show how much LOBSTER itself varies.
    """

    name: str
    scale: str
    seed: int
    title: str
    lobsters: tuple[Lobster, ...]
    dense: Retraining
    retrained: Retraining
    most_points: int

    def retrainings(self, densities: list[float]) -> list[Retraining]:
        """All arms along the first gradual run, the most telling arm first.

        `densities` are those of its points, the dense one first. At most `most_points` are
        retrained from: those nearest to equal steps of log density, the first pruned one and the
        last always among them.
        """
        shared = self.retrained
        points = spread(densities[1:], self.most_points)
        return [
            Retraining(
                shared.lobster,
                point + 1,
                arm,
                shared.replicas,
                shared.epochs,
                shared.learning_rate,
                shared.batch_size,
            )
            for arm in RETRAINED
            for point in points
        ]


def spread(densities: list[float], most: int) -> list[int]:
    """Positions of at most `most` of the falling `densities`, in equal steps of their logarithm as
    nearly as can be; the first and the last are always taken.

    >>> spread([0.8, 0.4, 0.39, 0.2, 0.1], 4)
    [0, 1, 3, 4]
    """
    if len(densities) <= most:
        return list(range(len(densities)))
    level = [math.log(d) for d in densities]
    chosen = {0, len(level) - 1}
    for step in range(1, most - 1):
        target = level[0] + (level[-1] - level[0]) * step / (most - 1)
        free = [i for i in range(len(level)) if i not in chosen]
        chosen.add(min(free, key=lambda i: abs(level[i] - target)))
    return sorted(chosen)


def figure_1a(scale: str, seed: int = 0) -> Panel:
    """Fig. 1a, LeNet-300 on MNIST, at a scale; `seed` shifts every seed of the panel."""
    one_of("scale", scale, SCALES)
    whole_number("seed", seed)
    if scale == "smoke":
        return _panel(
            scale,
            "LeNet-300, digits",
            seed,
            runs=1,
            replicas=2,
            epochs=10,
            points=4,
            lobster={
                "data": "digits",
                "shrinkage": 5e-3,
                "tolerance": 0.2,
                "patience": 3,
                "target_sparsity": 0.9,
                "max_epochs": 100,
            },
        )
    runs, replicas, epochs, points = {"quick": (1, 3, 20, 6), "paper": (3, 10, 40, 8)}[scale]
    return _panel(
        scale,
        "LeNet-300, MNIST",
        seed,
        runs=runs,
        replicas=replicas,
        epochs=epochs,
        points=points,
        lobster={"data": "mnist"},
    )


def _panel(
    scale: str,
    title: str,
    seed: int,
    runs: int,
    replicas: int,
    epochs: int,
    points: int,
    lobster: dict[str, Any],
) -> Panel:
    lobsters = tuple(
        Lobster(architecture="lenet-300", seed=seed * runs + i, **lobster) for i in range(runs)
    )
    numbers = tuple(seed * replicas + i for i in range(replicas))
    shared: dict[str, Any] = {"replicas": numbers, "epochs": epochs}
    return Panel(
        "figure_1a",
        scale,
        seed,
        title,
        lobsters,
        Retraining(lobsters[0], 0, "dense", **shared),
        Retraining(lobsters[0], 1, "rewound", **shared),
        points,
    )


EXPERIMENTS = {"figure_1a": figure_1a}


def panel(name: str, scale: str, seed: int = 0) -> Panel:
    """The configuration of an experiment."""
    one_of("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name](scale, seed)


def check(scale: str, seed: int) -> None:
    """Refuse, before anything is computed, a scale or a seed that no figure can be made at."""
    one_of("scale", scale, (PUBLISHED, *SCALES))
    whole_number("seed", seed)
    if scale == PUBLISHED and seed:
        raise PsplibError(f"The published results have seed 0; got seed {seed}.")
