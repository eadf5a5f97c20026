"""The configurations of every experiment at every scale, from first contact to the paper's size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from psplib.core.errors import PsplibError, one_of, whole_number
from psplib.experiments.designs import (
    RETRAINED,
    Beyond,
    Controlled,
    Controls,
    Design,
    Grid,
    Learner,
    Learning,
    Minima,
    Panel,
    Replication,
    Rivals,
    Source,
    Transfers,
)
from psplib.experiments.entropy_learning import EntropyLearning
from psplib.experiments.names import PUBLISHED, SCALES
from psplib.pruning.lobster import Lobster
from psplib.pruning.magnitude import Magnitude
from psplib.pruning.retraining import Retraining
from psplib.training.entropy_learning import LABELS

TITLES = {
    "lenet-300": "LeNet-300",
    "lenet-5": "LeNet-5",
    "resnet-8": "ResNet-8",
    "resnet-32": "ResNet-32",
    "digits": "digits",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
}


class Size(NamedTuple):
    """Gradual runs, replicas, epochs of retraining, and points that are retrained from at most."""

    runs: int
    replicas: int
    epochs: int
    points: int


def figure_1a(scale: str, seed: int = 0) -> Panel:
    """Fig. 1a, LeNet-300 on MNIST, at a scale; `seed` shifts every seed of the panel."""
    sizes = {"smoke": Size(1, 2, 6, 4), "quick": Size(1, 3, 20, 6), "paper": Size(3, 10, 40, 8)}
    gradual: dict[str, Any] = {"data": "mnist"}
    if scale == "smoke":
        gradual = {
            "data": "digits",
            "shrinkage": 5e-3,
            "tolerance": 0.2,
            "patience": 3,
            "target_sparsity": 0.9,
            "max_epochs": 100,
        }
    return _panel("figure_1a", scale, seed, sizes, {"architecture": "lenet-300", **gradual})


def figure_1b(scale: str, seed: int = 0) -> Panel:
    """Fig. 1b, LeNet-5 on MNIST: its gradual runs are those of Figs. 2 to 4."""
    sizes = {"smoke": Size(1, 2, 3, 2), "quick": Size(1, 3, 20, 5), "paper": Size(2, 10, 40, 8)}
    return _panel("figure_1b", scale, seed, sizes, _lenet_5(scale))


def figure_1c(scale: str, seed: int = 0) -> Panel:
    """Fig. 1c, LeNet-5 on Fashion-MNIST; at smoke scale, where there are digits only, the same runs
    as Fig. 1b."""
    sizes = {"smoke": Size(1, 2, 3, 2), "quick": Size(1, 3, 20, 5), "paper": Size(3, 10, 40, 8)}
    gradual = _lenet_5(scale)
    if scale != "smoke":
        gradual |= {"data": "fashion-mnist", "target_sparsity": 0.98}
    return _panel("figure_1c", scale, seed, sizes, gradual)


def figure_1d(scale: str, seed: int = 0) -> Panel:
    """Fig. 1d, ResNet-32 on CIFAR-10; at quick scale, for CPUs that multiply in bfloat16, fewer
    epochs, no global structure, and of that layer by layer one replica."""
    sizes = {"smoke": Size(1, 2, 2, 2), "quick": Size(1, 2, 20, 2), "paper": Size(3, 10, 182, 8)}
    he: dict[str, Any] = {"momentum": 0.9, "weight_decay": 1e-4, "batch_size": 128}
    gradual: dict[str, Any] = {"architecture": "resnet-32", "data": "cifar10"}
    gradual |= {"learning_rate": 0.01, "target_sparsity": 0.95, "max_epochs": 600}
    if scale == "quick":
        gradual |= {
            "shrinkage": 1.5e-4,
            "tolerance": 0.5,
            "patience": 2,
            "target_sparsity": 0.9,
            "max_epochs": 80,
        }
        he["precision"] = "bfloat16"
    elif scale == "smoke":
        gradual |= {
            "architecture": "resnet-8",
            "data": "digits",
            "samples": 200,
            "learning_rate": 0.1,
            "shrinkage": 5e-3,
            "tolerance": 0.2,
            "patience": 2,
            "target_sparsity": 0.5,
            "max_epochs": 16,
        }
        he["batch_size"] = 20
    retraining = {**he, "learning_rate": 0.1, "steps": (0.5, 0.75)}
    panel = _panel("figure_1d", scale, seed, sizes, gradual | he, retraining)
    if scale != "quick":
        return panel
    rewound, renewed, structure, _ = panel.arms
    once = dataclasses.replace(structure, replicas=structure.replicas[:1])
    return dataclasses.replace(panel, arms=(rewound, renewed, once))


def _lenet_5(scale: str) -> dict[str, Any]:
    """The gradual pruning of LeNet-5 on MNIST, to the highest compression of Fig. 1b."""
    if scale != "smoke":
        return {"architecture": "lenet-5", "data": "mnist", "target_sparsity": 0.9957}
    return {
        "architecture": "lenet-5",
        "data": "digits",
        "shrinkage": 2e-2,
        "tolerance": 1.0,
        "patience": 1,
        "target_sparsity": 0.995,
        "max_epochs": 60,
    }


def _panel(
    name: str,
    scale: str,
    seed: int,
    sizes: dict[str, Size],
    gradual: dict[str, Any],
    retraining: dict[str, Any] | None = None,
) -> Panel:
    one_of("scale", scale, SCALES)
    whole_number("seed", seed)
    runs, replicas, epochs, points = sizes[scale]
    lobsters = _lobsters(gradual, seed, runs)
    shared = {"replicas": _numbers(seed, replicas), "epochs": epochs, **(retraining or {})}
    dense = Retraining(lobsters[0], 0, "dense", **shared)
    arms = tuple(Retraining(lobsters[0], 1, arm, **shared) for arm in RETRAINED)
    return Panel(name, scale, seed, _title(lobsters[0]), lobsters, dense, arms, points)


def _lobsters(gradual: dict[str, Any], seed: int, runs: int) -> tuple[Lobster, ...]:
    return tuple(Lobster(seed=number, **gradual) for number in _numbers(seed, runs))


def _numbers(seed: int, count: int) -> tuple[int, ...]:
    """Numbers that no other `seed` has at the same count."""
    return tuple(seed * count + i for i in range(count))


def _title(gradual: Lobster) -> str:
    return f"{TITLES[gradual.architecture]}, {TITLES[gradual.data]}"


def minima(scale: str, seed: int = 0) -> Minima:
    """Figs. 2 to 4, LeNet-5 on MNIST at the paper's highest compression."""
    one_of("scale", scale, SCALES)
    whole_number("seed", seed)
    if scale == "smoke":
        runs, replicas, epochs, samples = 1, 2, 3, 100
        sizes = {"map": (4, 2), "pairs": (2, 0), "map, all": (2, 0)}
        sizes |= {"line": (4, 1), "line, all": (1, 0), "line, legacy": (1, 0)}
    else:
        runs, replicas, epochs, samples = {
            "quick": (1, 3, 20, 5_000),
            "paper": (2, 10, 40, 10_000),
        }[scale]
        sizes = {"map": (26, 12), "pairs": (12, 6), "map, all": (12, 6)}
        sizes |= {"line": (8, 2), "line, all": (4, 1), "line, legacy": (2, 0)}
    lobsters = _lobsters(_lenet_5(scale), seed, runs)
    template = Retraining(lobsters[0], 1, "rewound", _numbers(seed, replicas), epochs=epochs)
    grids = {name: Grid(*size) for name, size in sizes.items()}
    return Minima("minima", scale, seed, _title(lobsters[0]), lobsters, template, grids, samples)


def beyond(scale: str, seed: int = 0) -> Beyond:
    """Two comparisons that the paper lacks, on LeNet-300 and LeNet-5; gradual runs and rewound
    networks are those of Figs. 1 to 4, where these have them."""
    first, second = figure_1a(scale, seed), minima(scale, seed)
    most, epochs, points = {"smoke": (2, 1, 2), "quick": (3, 20, 5), "paper": (3, 20, 5)}[scale]
    numbers = tuple(seed * most + i for i in range(most))
    # LeNet-5's way to 99.57 % takes hours: decay alone is followed as far as LeNet-300's is.
    target = first.lobsters[0].target_sparsity
    networks = (
        Rivals(
            first.title,
            first.lobsters,
            tuple(dataclasses.replace(run, sensitivity=False) for run in first.lobsters),
            first.retrained,
            first.retrained.replicas[:5],
            first.most_points,
        ),
        Rivals(
            second.title,
            second.lobsters,
            tuple(
                dataclasses.replace(run, sensitivity=False, target_sparsity=target)
                for run in second.lobsters
            ),
            dataclasses.replace(second.retrained, replicas=numbers, epochs=epochs),
            numbers,
            points,
        ),
    )
    return Beyond("beyond", scale, seed, "Beyond the paper", networks)


def replication(scale: str, seed: int = 0) -> Replication:
    """LeNet-300 on MNIST: ten gradual runs at the paper's scale, of which the first are those of
    Fig. 1a."""
    first = figure_1a(scale, seed)
    runs, replicas, samples = {"smoke": (1, 2, 100), "quick": (1, 3, 5_000)}.get(
        scale, (10, 5, 10_000)
    )
    numbers = _numbers(seed, runs)
    lobsters = tuple(dataclasses.replace(first.lobsters[0], seed=number) for number in numbers)
    template = dataclasses.replace(
        first.retrained, lobster=lobsters[0], replicas=_numbers(seed, replicas)
    )
    return Replication("replication", scale, seed, first.title, lobsters, template, samples)


# What is trained from a gradual run's last mask: 1-S as everywhere; 1-S with LOBSTER's shrinking; G
# without it; 1-S for long; G with it, which is chosen by the rule of all others.
CONTROLS = ("one_shot", "one_shot_shrinking", "gradual_plain", "one_shot_long", "gradual_shrinking")
# Replicas and epochs of all but the first. LeNet-300's differ less among themselves (0.06 points of
# test error) than its gradual runs do (0.13): one replica of each of many runs tells most.
_EFFORTS = {
    "smoke": {"lenet-300": ((2, 3), (2, 2), (1, 6), (2, 2))},
    "quick": {
        "lenet-300": ((1, 100), (1, 40), (1, 400), (1, 40)),
        "lenet-5": ((2, 60), (2, 20), (1, 100), (2, 20)),
    },
    "paper": {
        "lenet-300": ((1, 100), (1, 40), (1, 400), (1, 40)),
        "lenet-5": ((5, 150), (5, 80), (3, 400), (2, 80)),
    },
}


def controls(scale: str, seed: int = 0) -> Controls:
    """The controls of LeNet-300, whose gradual runs are many, and of LeNet-5 on MNIST."""
    many, few = replication(scale, seed), minima(scale, seed)
    efforts = _EFFORTS[scale]
    small = efforts["lenet-300"]
    networks = (
        _controlled(many, small, seed),
        _controlled(few, efforts.get("lenet-5", small), seed),
    )
    return Controls("controls", scale, seed, "Path or regulariser", networks)


def _controlled(
    panel: Replication | Minima, efforts: tuple[tuple[int, int], ...], seed: int
) -> Controlled:
    one_shot = panel.retrained
    shrinkage = one_shot.lobster.shrinkage
    changes = (
        ("rewound", shrinkage),
        ("continued", 0.0),
        ("rewound", 0.0),
        ("continued", shrinkage),
    )
    arms = tuple(
        dataclasses.replace(
            one_shot, arm=arm, shrinkage=shrinks, replicas=_numbers(seed, count), epochs=epochs
        )
        for (arm, shrinks), (count, epochs) in zip(changes, efforts, strict=True)
    )
    return Controlled(panel.title, panel.lobsters, (one_shot, *arms), panel.samples)


def transfer(scale: str, seed: int = 0) -> Transfers:
    """What the features of networks that other experiments made are worth on other data sets."""
    # Of LeNet-5's dense networks, and on Fashion-MNIST, three replicas are there.
    few = "smoke" if scale == "smoke" else "quick"
    controlled = controls(scale, seed).networks
    fashion, narrower = figure_1c(few, seed), figure_1b(few, seed)
    first = _source(controlled[0], figure_1a(scale, seed).dense)
    second = _source(controlled[1], narrower.dense)
    if scale == "smoke":
        assert second.ticket
        ticket = dataclasses.replace(second.ticket, epochs=1)
        second = dataclasses.replace(
            second, targets=("digits",), others=(), goals=(), ticket=ticket, rounds=1
        )
        return Transfers("transfer", scale, seed, "Transfer", (second,), (5, 10), 2, 300, 100)
    third = Source(
        fashion.title,
        fashion.lobsters,
        fashion.dense,
        fashion.retrained,
        ("mnist", "digits", "cifar10"),
        others=second.others[2:],
        goals=second.goals,
    )
    sizes = ((5, 10, 50, 100), 20, 10_000, 2_000)
    return Transfers("transfer", scale, seed, "Transfer", (first, second, third), *sizes)


def _source(network: Controlled, dense: Retraining) -> Source:
    """The networks of the controls as a source: at the last point 1-S with LOBSTER's shrinking, G
    without it, a random structure and a dense network of the live widths."""
    of = network.retrained
    one = dataclasses.replace(of, replicas=of.replicas[:1])
    recipe = (of.epochs, of.learning_rate, of.batch_size)
    ticket = Magnitude(of.lobster, (1,), True, one.replicas, *recipe, kept=True)
    further = [dataclasses.replace(one, arm=arm) for arm in ("restructured-layer", "narrow")]
    return Source(
        network.title,
        network.lobsters,
        dense,
        network.retrained,
        ("fashion-mnist", "digits", "cifar10"),
        others=(*network.arms[1:3], *further),
        goals=(0.90, 0.95, 0.98),
        ticket=ticket,
    )


def entropy_learning(scale: str, seed: int = 0) -> Learning:
    """Networks that learn to keep their entropy: LeNet-300 with every gamma and control, and under
    a rewound mask; by second order; LeNet-5; and LOBSTER's gradual runs."""
    small, large = figure_1a(scale, seed).lobsters[0], minima(scale, seed).lobsters[0]
    sizes: dict[str, Any] = {"targets": ("fashion-mnist", "digits", "cifar10")}
    if scale == "smoke":
        sizes = {"targets": ("digits",), "shots": 5, "draws": 2, "samples": 300}
        sizes |= {"epochs": 4, "wait": 1, "rise": 2, "batch_size": 100}
    replicas = _numbers(seed, {"smoke": 2, "quick": 3, "paper": 5}[scale])
    template = EntropyLearning(small, 0.0, replicas=replicas, **sizes)
    gammas = {"smoke": (0.3,), "quick": (0.1, 0.3, -0.1)}.get(
        scale, (0.01, 0.03, 0.1, 0.3, -0.01, -0.03, -0.1, -0.3)
    )
    gammas = tuple(sorted(gammas, key=lambda g: (abs(g), g < 0)))
    everything = [(0.0, "classes"), *((gamma, labels) for gamma in gammas for labels in LABELS)]
    title = _title(small)
    networks = [Learner(title, template, tuple(everything), rewinds=True)]
    if scale != "smoke":
        classes = [(gamma, "classes") for gamma in (0.0, 0.1, 0.3, -0.1)]
        shuffled = [(gamma, "permuted") for gamma in (0.1, 0.3)]
        measured = dataclasses.replace(template, measured=True)
        second = dataclasses.replace(measured, pairs=1_024)
        third = dataclasses.replace(measured, lobster=large, replicas=replicas[:3])
        networks += [
            Learner(f"{title}, second order", second, (*classes[:3], *shuffled)),
            Learner(_title(large), third, (*classes, (-0.3, "classes"), *shuffled)),
            Learner(title, measured, tuple(classes)),
        ]
    return Learning(
        "entropy_learning",
        scale,
        seed,
        "Learning by entropy",
        tuple(networks),
        _rewarded(scale, seed),
    )


def _rewarded(scale: str, seed: int) -> Transfers:
    """The first gradual runs of LeNet-300 with the entropy rewarded, and what of them is read out;
    those without are among the runs of `transfer`."""
    first = figure_1a(scale, seed)
    gammas = (0.1,) if scale == "smoke" else (0.3, 0.1)
    runs = [
        dataclasses.replace(run, gamma=gamma) for gamma in (*gammas, 0.0) for run in first.lobsters
    ]
    whole = transfer(scale, seed)
    source = Source(
        f"{first.title}, LOBSTER",
        tuple(runs),
        first.dense,
        dataclasses.replace(replication(scale, seed).retrained, lobster=runs[0]),
        whole.networks[0].targets,
        arms=("rewound",),
    )
    return dataclasses.replace(whole, networks=(source,))


PANELS: dict[str, Callable[[str, int], Panel]] = {
    "figure_1a": figure_1a,
    "figure_1b": figure_1b,
    "figure_1c": figure_1c,
    "figure_1d": figure_1d,
}
# In the order of their worth: Figs. 2 to 4 share their gradual runs with Fig. 1b, whose retrained
# networks cost more than all their analyses.
EXPERIMENTS: dict[str, Callable[[str, int], Design]] = {
    "figure_1a": figure_1a,
    "minima": minima,
    "figure_1b": figure_1b,
    "figure_1c": figure_1c,
    "figure_1d": figure_1d,
    "beyond": beyond,
    "replication": replication,
    "controls": controls,
    "transfer": transfer,
    "entropy_learning": entropy_learning,
}


def experiment(name: str, scale: str, seed: int = 0) -> Design:
    """The configuration of an experiment."""
    one_of("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name](scale, seed)


def check_scale(scale: str, seed: int) -> None:
    """Refuse, before anything is computed, a scale or a seed that no figure can be made at."""
    one_of("scale", scale, (PUBLISHED, *SCALES))
    whole_number("seed", seed)
    if scale == PUBLISHED and seed:
        raise PsplibError(f"The published results have seed 0; got seed {seed}.")
