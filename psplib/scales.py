"""The configurations of every experiment at every scale, from first contact to the paper's size."""

from __future__ import annotations

from dataclasses import dataclass

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
    title: str
    lobsters: tuple[Lobster, ...]
    dense: Retraining
    retrained: Retraining

    def retrainings(self, points: list[int]) -> list[Retraining]:
        """All arms at the given points of the first gradual run, the most telling arm first."""
        shared = self.retrained
        return [
            Retraining(
                shared.lobster, point, arm, shared.replicas,
                shared.epochs, shared.learning_rate, shared.batch_size,
            )
            for arm in RETRAINED
            for point in points
        ]


def figure_1a(scale: str, seed: int = 0) -> Panel:
    """Fig. 1a, LeNet-300 on MNIST, at a scale; `seed` shifts every seed of the panel."""
    one_of("scale", scale, SCALES)
    whole_number("seed", seed)
    if scale == "smoke":
        return _panel(
            scale, "LeNet-300, digits", seed, runs=1, replicas=2, epochs=20,
            lobster={"data": "digits", "shrinkage": 2e-3, "patience": 3, "target_sparsity": 0.95,
                     "max_epochs": 200},
        )
    runs, replicas, epochs = {"quick": (1, 3, 20), "paper": (3, 10, 60)}[scale]
    return _panel(
        scale, "LeNet-300, MNIST", seed, runs=runs, replicas=replicas, epochs=epochs,
        lobster={"data": "mnist"},
    )


def _panel(
    scale: str, title: str, seed: int, runs: int, replicas: int, epochs: int, lobster: dict
) -> Panel:
    lobsters = tuple(
        Lobster(**{"architecture": "lenet-300", "seed": seed * runs + i} | lobster)
        for i in range(runs)
    )
    numbers = tuple(seed * replicas + i for i in range(replicas))
    shared = {"replicas": numbers, "epochs": epochs}
    return Panel(
        "figure_1a", scale, title, lobsters,
        Retraining(lobsters[0], 0, "dense", **shared),
        Retraining(lobsters[0], 1, "rewound", **shared),
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
