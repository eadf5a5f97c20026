"""G, the solution of gradual pruning, beside the one-shot solutions of its mask: what the analyses
of Figs. 2 to 4 are of. 1-S is the rewound network that is best on validation."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from psplib.core.artefact import Parents, Parts
from psplib.core.config import key, setting
from psplib.core.errors import PsplibError, one_of, whole_number
from psplib.nn import models
from psplib.nn.compact import whole
from psplib.nn.data import Data, Split
from psplib.nn.masks import SUBSPACES, Mask
from psplib.pruning.kind import Run
from psplib.pruning.lobster import KEPT_ABOVE, Lobster
from psplib.pruning.magnitude import Magnitude
from psplib.pruning.retraining import UNDER_ITS_MASK, Retraining
from psplib.training.fit import Checkpoint


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


def solutions(retraining: Retraining, parents: Parents) -> Solutions:
    """G and the replicas of a retraining, from its run and the gradual one."""
    gradual, artefact = retraining.lobster, parents[retraining]
    mask = gradual.mask(retraining.point, parents)
    replicas = artefact.table("replicas")
    if "survivors.safetensors" not in artefact.provenance["files"]:
        raise PsplibError(
            f"The run {key(retraining)} kept no weights of its replicas: they are kept at "
            f"{KEPT_ABOVE:.0%} sparsity and above, and it has {mask.sparsity:.1%}."
        )
    survivors = artefact.tensors("survivors")["weights"]
    return Solutions(
        models.build(gradual.architecture, gradual.seed),
        mask,
        gradual.weights(retraining.point, parents),
        torch.zeros(len(survivors), len(mask.flat)).masked_scatter_(mask.flat, survivors),
        tuple(replicas["replica"]),
        best_replica(replicas),
    )


def best_replica(replicas: pd.DataFrame) -> int:
    """The position of the replica that is best on validation, the first of equal ones."""
    rank = ["validation_error", "validation_loss"]
    return int(replicas.sort_values(rank, kind="stable").index[0])


class OfRetraining(Run):
    """What all that is made of a retraining has in common."""

    retraining: Retraining | Magnitude

    @property
    def parents(self) -> tuple[Retraining | Magnitude | Lobster, ...]:
        return self.retraining, *self.retraining.parents

    def load(self, device: torch.device) -> Data:
        return self.retraining.load(device)


@dataclass(frozen=True)
class Analysis(OfRetraining):
    """What the analyses of Figs. 2 to 4 have in common: they are of G and the replicas of a
    retraining from its mask."""

    retraining: Retraining = setting("paper", "Sec. 5.2: G and 1-S at the highest compression")

    def __post_init__(self) -> None:
        if self.retraining.arm not in UNDER_ITS_MASK:
            raise PsplibError(
                f"Networks are compared under one mask, so the arm must be one of "
                f"{', '.join(UNDER_ITS_MASK)}; got {self.retraining.arm!r}."
            )
        for name in ("samples", "samples_all", "parts", "steps"):
            if hasattr(self, name):
                whole_number(name, getattr(self, name), 1)

    @property
    def cost(self) -> float:
        """Seconds of one core, about; measured with LeNet-5 on MNIST."""
        return 900.0 * self.retraining.lobster.share

    def make(self, data: Data, parents: Parents, checkpoint: Checkpoint) -> Parts:
        """The tables of `analyse`."""
        return {**self.analyse(data, solutions(self.retraining, parents), checkpoint)}

    def networks(self, solutions: Solutions) -> list[tuple[str, int, Tensor]]:
        """G and every replica: the arm, the replica's number (-1 of G) and the weights (P,)."""
        replicas = zip(solutions.numbers, solutions.replicas, strict=True)
        return [
            ("lobster", -1, solutions.gradual),
            *((self.retraining.arm, number, weights) for number, weights in replicas),
        ]

    @abstractmethod
    def analyse(
        self, data: Data, solutions: Solutions, checkpoint: Checkpoint | None = None
    ) -> dict[str, pd.DataFrame]:
        """Tables by name, going on from the checkpoint."""


class OnLine(Analysis):
    """What is along the line through G and 1-S: `steps` from one to the other, and `margin` more
    beyond each of them, in a `subspace`."""

    subspace: str
    steps: int
    margin: int

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("subspace", self.subspace, SUBSPACES)
        whole_number("margin", self.margin)

    @property
    def alphas(self) -> list[float]:
        """Where on the line; 0 at G, 1 at 1-S."""
        return [k / self.steps for k in range(-self.margin, self.steps + self.margin + 1)]


def first_images(split: Split, samples: int) -> Split:
    """The first images of a split."""
    return Split(split.x[:samples], split.y[:samples])


def with_weights(model: nn.Module, weights: Tensor) -> nn.Module:
    """A copy of a model that has these weights (P,)."""
    form = whole(copy.deepcopy(model))
    form.load_(weights)
    return form.model
