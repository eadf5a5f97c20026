"""Figs. 2 to 4: the solution of gradual pruning (G) beside the one-shot solutions of its mask.

1-S is the rewound network that is best on validation. Four analyses: `Census` looks at every
network by itself, `Map` at the plane through G and 1-S, `Curvature` at the Hessian along the line
from one to the other, `Profile` at their single neurons.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from psplib.analysis import eigen, entropy, hessian, landscape, psp
from psplib.core.config import setting
from psplib.core.errors import PsplibError, one_of, whole_number
from psplib.nn.data import Data, Split
from psplib.nn.masks import Mask
from psplib.pruning.retraining import Retraining
from psplib.training.fit import Checkpoint

SUBSPACES = ("surviving", "all")
DEFINITIONS = ("converged", "legacy")
ORDERS = ("joint", "mutual", "agreement")
LEADING = 5


@dataclass(frozen=True)
class Census:
    """Every replica of a retraining, and the gradual network with the same mask, by itself."""

    retraining: Retraining = setting("paper", "Sec. 5.2: the highest compression of Fig. 1b")
    samples: int = setting(
        "ours", "training images that potentials and curvature are measured on", default=10_000
    )
    samples_all: int = setting(
        "ours",
        "training images for the curvature in all coordinates, of a dense network",
        default=2_000,
    )

    def __post_init__(self) -> None:
        _check(self, samples=1, samples_all=1)


@dataclass(frozen=True)
class Map:
    """A grid in the plane through G and 1-S: `steps` from G to 1-S, `margin` more beyond each, and
    as many to both sides of the line, half of them to each."""

    retraining: Retraining = setting("paper", "Sec. 5.2: G and 1-S at the highest compression")
    subspace: str = setting(
        "ours", "whether the random direction may leave the surviving coordinates: both"
    )
    steps: int = setting("ours", "steps of the grid from G to 1-S", default=26)
    margin: int = setting("ours", "steps of the grid beyond G and beyond 1-S", default=12)
    pairs: bool = setting(
        "ours", "count all pairs of neurons, too: joint and mutual entropy", default=False
    )
    samples: int = setting("ours", "training images", default=10_000)
    direction: int = setting("ours", "draws the random direction", default=0)

    def __post_init__(self) -> None:
        _check(self, steps=1, margin=0, samples=1)

    @property
    def alphas(self) -> list[float]:
        """Where the grid's columns are; 0 at G, 1 at 1-S."""
        return [k / self.steps for k in range(-self.margin, self.steps + self.margin + 1)]

    @property
    def betas(self) -> list[float]:
        """Where the grid's rows are; 0 on the line through G and 1-S."""
        half = (self.steps + 2 * self.margin) // 2
        return [k / self.steps for k in range(-half, half + 1)]


@dataclass(frozen=True)
class Curvature:
    """The leading eigenvalues of the Hessian at points of the line through G and 1-S."""

    retraining: Retraining = setting("paper", "Sec. 5.2: G and 1-S at the highest compression")
    subspace: str = setting("ours", "whether pruned coordinates count: both")
    definition: str = setting(
        "reference",
        "legacy: what the tool that the paper used does; converged: until the residuals are small",
        default="converged",
    )
    steps: int = setting("ours", "steps from G to 1-S", default=8)
    margin: int = setting("ours", "steps beyond G and beyond 1-S", default=2)
    samples: int = setting("ours", "training images", default=10_000)

    def __post_init__(self) -> None:
        one_of("definition", self.definition, DEFINITIONS)
        _check(self, steps=1, margin=0, samples=1)

    @property
    def alphas(self) -> list[float]:
        """Where on the line; 0 at G, 1 at 1-S."""
        return [k / self.steps for k in range(-self.margin, self.steps + self.margin + 1)]


@dataclass(frozen=True)
class Profile:
    """The single neurons of G and of the best replica: on how many images of each class they are
    active."""

    retraining: Retraining = setting("paper", "Sec. 5.3: G and 1-S at the highest compression")
    samples: int = setting("ours", "training images", default=10_000)

    def __post_init__(self) -> None:
        _check(self, samples=1)


Analysis = Census | Map | Curvature | Profile


def _check(config: Any, **least: int) -> None:
    if config.retraining.arm not in ("rewound", "reinitialised"):
        raise PsplibError(
            "Networks are compared under one mask, so the arm must be rewound or reinitialised; "
            f"got {config.retraining.arm!r}."
        )
    one_of("subspace", getattr(config, "subspace", "all"), SUBSPACES)
    for name, value in least.items():
        whole_number(name, getattr(config, name), value)


@dataclass(frozen=True, eq=False)
class Solutions:
    """G and the replicas retrained from its mask: weights (P,) and (R, P), zero where pruned.

    `best` is the position of the replica that is best on validation: 1-S, of the rewound ones.
    """

    model: nn.Module
    mask: Mask
    gradual: Tensor
    replicas: Tensor
    numbers: tuple[int, ...]
    best: int

    @property
    def number(self) -> int:
        """The number of the best replica."""
        return int(self.numbers[self.best])

    @property
    def one_shot(self) -> Tensor:
        """The weights (P,) of the best replica."""
        return self.replicas[self.best]


def run(
    config: Analysis, data: Data, solutions: Solutions, checkpoint: Checkpoint | None = None
) -> dict[str, pd.DataFrame]:
    """The tables of an analysis, by name: see `census`, `plane_map`, `curvature`, `profile`."""
    checkpoint = checkpoint or Checkpoint()
    if isinstance(config, Census):
        return census(config, data, solutions, checkpoint)
    if isinstance(config, Profile):
        return profile(config, data, solutions)
    if isinstance(config, Map):
        return {"points": plane_map(config, data, solutions, checkpoint)}
    return {"points": curvature(config, data, solutions, checkpoint)}


def census(
    config: Census, data: Data, solutions: Solutions, checkpoint: Checkpoint
) -> dict[str, pd.DataFrame]:
    """`networks`: a row for G (arm `lobster`) and each replica: loss and error on the training
    images and on the test set, mean z^2, entropies in bits, the leading eigenvalues `lambda_1`, ...
    in the surviving coordinates with the largest of their residuals relative to the first,
    `lambda_1_all` in all coordinates, `norm` of the weights; `neurons`: for each of them z^2 and
    entropies by layer and class (z^2 over all classes)."""
    images = _first(data.train, config.samples)
    networks = [("lobster", -1, solutions.gradual)]
    networks += [
        (config.retraining.arm, number, weights)
        for number, weights in zip(solutions.numbers, solutions.replicas, strict=True)
    ]
    saved = checkpoint.load()
    rows, neurons = saved[1] if saved else ([], [])
    for arm, replica, weights in networks[len(rows) :]:
        model = _with(solutions.model, weights)
        name = {"arm": arm, "replica": replica}
        score, test = psp.LossAndError(), psp.LossAndError()
        square = psp.MeanSquare()
        first, second = entropy.FirstOrder(), entropy.SecondOrder()
        psp.observe(model, images, score, square, first, second, mask=solutions.mask)
        psp.observe(model, data.test, test, mask=solutions.mask)
        entropies = {"first": first.entropy(), **second.entropies()}
        found = eigen.leading(hessian.hessian(model, images, solutions.mask), LEADING)
        fewer = _first(data.train, config.samples_all)
        dense = eigen.leading(hessian.hessian(model, fewer, solutions.mask, "all"), 1)
        rows.append(
            name
            | {"train_loss": score.loss, "train_error": score.error}
            | {"test_loss": test.loss, "test_error": test.error}
            | {"z2": square.mean}
            | {order: e.mean for order, e in entropies.items()}
            | {f"lambda_{i}": v for i, v in enumerate(found.values.tolist(), 1)}
            | {"residual": float((found.residuals / found.values[0]).max())}
            | {"lambda_1_all": float(dense.values[0]), "norm": float(weights.norm())}
        )
        neurons += [
            name
            | {"layer": layer, "class": c, "z2": square.by_layer[layer]}
            | {order: float(e.by_class[layer][c]) for order, e in entropies.items()}
            for layer, bits in entropies["first"].by_class.items()
            for c in range(len(bits))
        ]
        checkpoint.report(len(rows), len(networks), f"census of {config.retraining.arm}, {arm}")
        if checkpoint.due:
            checkpoint.save({}, [rows, neurons])
    return {"networks": pd.DataFrame(rows), "neurons": pd.DataFrame(neurons)}


def plane_map(
    config: Map, data: Data, solutions: Solutions, checkpoint: Checkpoint
) -> pd.DataFrame:
    """A row for each point of the grid, see `landscape.sweep`."""
    plane = landscape.plane(
        solutions.gradual, solutions.one_shot, solutions.mask, config.direction, config.subspace
    )
    probes = dict(landscape.PROBES)
    if config.pairs:
        probes["pairs"] = entropy.SecondOrder
    return landscape.sweep(
        _with(solutions.model, solutions.gradual),
        plane,
        _first(data.train, config.samples),
        config.alphas,
        config.betas,
        probes,
        checkpoint,
    )


def curvature(
    config: Curvature, data: Data, solutions: Solutions, checkpoint: Checkpoint
) -> pd.DataFrame:
    """A row for each point of the line and each leading eigenvalue: `alpha`, `rank`, `eigenvalue`,
    `residual`, `products`, `converged`."""
    images = _first(data.train, config.samples)
    saved = checkpoint.load()
    rows: list[dict[str, Any]] = saved[1] if saved else []
    before = len(rows) // LEADING
    tables = hessian.eigenvalues_along(
        solutions.model,
        images,
        solutions.gradual,
        solutions.one_shot,
        config.alphas[before:],
        solutions.mask,
        config.subspace,
        k=LEADING,
        definition=config.definition,
    )
    for done, table in enumerate(tables, before + 1):
        rows += table.to_dict("records")
        checkpoint.report(done, len(config.alphas), f"curvature, {config.subspace} coordinates")
        if checkpoint.due:
            checkpoint.save({}, rows)
    return pd.DataFrame(rows)


def profile(config: Profile, data: Data, solutions: Solutions) -> dict[str, pd.DataFrame]:
    """`neurons`: a row for each hidden neuron of G (arm `lobster`) and of the best replica whose
    state is not the same for all images of every class: its number in its `layer`, and the images
    of each class that it is active on, `active_0`, ...; `layers`: the `neurons` of each layer,
    those that never change counted too; `classes`: the images (`samples`) of each class.

    Counts and not bits: they are exact, and shorter. `entropies` makes bits of them.
    """
    images = _first(data.train, config.samples)
    networks = [
        ("lobster", -1, solutions.gradual),
        (config.retraining.arm, solutions.number, solutions.one_shot),
    ]
    frames = []
    for arm, replica, weights in networks:
        first = entropy.FirstOrder()
        psp.observe(_with(solutions.model, weights), images, first, mask=solutions.mask)
        for name, active in first.counts.items():
            table = _varying(first.layers[name], active.cpu(), first.samples.cpu())
            table.insert(0, "layer", name)
            table.insert(0, "replica", replica)
            table.insert(0, "arm", arm)
            frames.append(table)
    sizes = [(name, layer.neurons) for name, layer in first.layers.items()]
    samples = list(enumerate(first.samples.tolist()))
    return {
        "neurons": pd.concat(frames, ignore_index=True),
        "layers": pd.DataFrame(sizes, columns=["layer", "neurons"]),
        "classes": pd.DataFrame(samples, columns=["class", "samples"]),
    }


def _varying(layer: psp.Layer, active: Tensor, samples: Tensor) -> pd.DataFrame:
    """The neurons that are `active` (C, n) on some of a class and not on all of it, by number."""
    chosen = ((active > 0) & (active < samples[:, None])).any(0)
    counts = {f"active_{c}": row for c, row in enumerate(active[:, chosen].tolist())}
    table = pd.DataFrame({"neuron": layer.watched[chosen].tolist(), **counts})
    return table.sort_values("neuron", ignore_index=True)


def entropies(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The first-order entropies behind a profile's tables: a row for each of its `neurons` with
    `arm`, `replica`, `layer`, `neuron` and the bits of each class, 0, 1, ... (Eq. 4)."""
    names = ["arm", "replica", "layer", "neuron"]
    neurons, samples = tables["neurons"], torch.tensor(tables["classes"]["samples"].tolist())
    active = torch.tensor(neurons.drop(columns=names).to_numpy(copy=True).T)
    bits = entropy.given_class(active, samples)
    return neurons[names].join(pd.DataFrame(bits.T.numpy(), neurons.index))


def _first(split: Split, samples: int) -> Split:
    return Split(split.x[:samples], split.y[:samples])


def _with(model: nn.Module, weights: Tensor) -> nn.Module:
    model = copy.deepcopy(model)
    start = 0
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(weights[start : start + p.numel()].view_as(p))
            start += p.numel()
    return model
