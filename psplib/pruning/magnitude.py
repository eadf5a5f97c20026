"""Magnitude pruning to the sparsities of a gradual run.

A dense network is trained; the largest of its weights survive (Han et al., 2015), return to their
initial values and are trained again (Frankle & Carbin, 2019). One-shot: every mask comes from the
trained dense network. Iterative: each comes from the network that was trained under the last one.
Renda et al. (2020) let the survivors keep their trained values, and rewind the learning rate's
schedule alone, or nothing: fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from psplib.core.artefact import Artefact, Parents, Parts
from psplib.core.config import setting
from psplib.core.errors import PsplibError, one_of, whole_number
from psplib.core.schema import COUNT, NAME, Files, Shape, Table, Tensors
from psplib.core.seeds import derive
from psplib.nn import models
from psplib.nn.data import Data
from psplib.nn.masks import Mask, magnitude, pack_bits, unpack_bits
from psplib.pruning.lobster import Lobster, OfLobster
from psplib.training.engines import trainers
from psplib.training.fit import (
    HISTORY,
    SCORES,
    Checkpoint,
    Trial,
    by_epochs,
    finish,
    fit,
    is_finished,
)
from psplib.training.trainer import flat
from psplib.training.update import Sgd, check_steps, fallen

# What returns to its beginning when a mask is retrained, and the arm's name.
REWINDS = {
    "weights": "weight rewinding",
    "learning rate": "learning-rate rewinding",
    "nothing": "fine-tuning",
}
# An epoch under its masks, which free few units, of the dense one's time.
_SPARSE_EPOCH = 0.7


@dataclass(frozen=True)
class Magnitude(OfLobster):
    """Replicas of magnitude pruning at points of a gradual run: as many survivors as it has there.

    Every replica begins with the initial values of that run; its number draws its order of samples,
    as in a `Retraining`, so that the two can be compared in pairs.
    """

    lobster: Lobster = setting("ours", "LOBSTER's run fixes the initial values and the sparsities")
    points: tuple[int, ...] = setting("ours", "points of the run that are retrained from as well")
    iterative: bool = setting("reference", "Frankle & Carbin do both: one-shot and iterative")
    replicas: tuple[int, ...] = setting("ours", "the first of those of the rewound arm")
    epochs: int = setting("ours", "of the dense network and of each mask; as in the rewound arm")
    learning_rate: float = setting("ours", "as in the LOBSTER run", default=0.1)
    batch_size: int = setting("ours", "as in the LOBSTER run", default=100)
    rewinds: str = setting(
        "reference",
        "Renda et al. compare rewinding of the weights, of the learning rate alone, and of nothing",
        default="weights",
        added=True,
    )
    steps: tuple[float, ...] = setting(
        "ours",
        "shares of the epochs after which the learning rate falls tenfold; where nothing is "
        "rewound, a mask is retrained at the last rate",
        default=(),
        added=True,
    )
    kept: bool = setting(
        "ours", "the networks at the last point are kept, to be transferred", False, added=True
    )

    def __post_init__(self) -> None:
        one_of("rewinds", self.rewinds, REWINDS)
        check_steps(self.steps)
        if self.rewinds != "weights" and (self.iterative or not self.steps):
            raise PsplibError(
                "What rewinds the learning rate or nothing is one-shot and has steps; got "
                f"iterative {self.iterative} and steps {self.steps}."
            )
        for name in ("epochs", "batch_size"):
            whole_number(name, getattr(self, name), 1)
        if not self.replicas or len(set(self.replicas)) < len(self.replicas):
            raise PsplibError(f"replicas must be different numbers; got {self.replicas}.")
        if list(self.points) != sorted(set(self.points)) or not all(p > 0 for p in self.points):
            raise PsplibError(f"points must be rising numbers from 1 on; got {self.points}.")

    @property
    def point(self) -> int:
        """The last point, whose networks may be kept."""
        return max(self.points, default=0)

    @property
    def arm(self) -> str:
        """Its name among the arms; without steps there is no schedule to rewind."""
        if self.iterative:
            return "iterative"
        return REWINDS[self.rewinds] if self.steps else "magnitude"

    def update(self, epoch: int, point: int) -> Sgd:
        """The rule of an epoch, counted from 1, of the dense network (point 0) or under a mask."""
        is_tuned = point and self.rewinds == "nothing"
        now = self.epochs if is_tuned else epoch
        return Sgd(fallen(self.learning_rate, self.steps, now, self.epochs))

    @property
    def title(self) -> str:
        return (
            f"magnitude, {self._way}, from seed {self.lobster.seed}, {len(self.points)} points, "
            f"× {len(self.replicas)}"
        )

    @property
    def _way(self) -> str:
        return {"magnitude": "one-shot"}.get(self.arm, self.arm)

    @property
    def cost(self) -> float:
        epochs = len(self.replicas) * self.epochs * (1 + _SPARSE_EPOCH * len(self.points))
        return epochs * self.lobster.epoch_cost(is_dense=True)

    def make(self, data: Data, parents: Parents, checkpoint: Checkpoint) -> Parts:
        """The tables of `MagnitudeResult`, and, if they are kept, its networks."""
        masks = [self.lobster.mask(point, parents) for point in self.points]
        found = prune_by_magnitude(self, data, masks, checkpoint)
        parts: Parts = {n: getattr(found, n) for n in ("replicas", "layers", "history")}
        if self.kept:
            survivors = found.weights[found.masks].view(len(found.masks), -1)
            parts["networks"] = {"packed": pack_bits(found.masks), "weights": survivors}
        return parts

    def networks(self, artefact: Artefact) -> tuple[Tensor, Tensor]:
        """Masks and weights (R, P) of the replicas at the last point, if they were kept."""
        found = artefact.tensors("networks")
        masks = unpack_bits(found["packed"], sum(models.sizes(self.lobster.architecture)))
        return masks, torch.zeros(masks.shape).masked_scatter_(masks, found["weights"])

    @property
    def writes(self) -> Files:
        """The tables of `MagnitudeResult`, and the masks and survivors of its networks."""
        labels, rounds = {"replica": COUNT, "point": COUNT}, len(self.replicas) * len(self.points)
        whole = rounds + len(self.replicas)
        counts = {"size": COUNT, "kept": COUNT, "lobster": COUNT, "shared": COUNT}
        sizes = models.sizes(self.lobster.architecture)
        bits = Shape("U8", (len(self.replicas), -(-sum(sizes) // 8)))
        networks = {"packed": bits, "weights": Shape("F32", (len(self.replicas), None))}
        return {
            **({"networks": Tensors(networks)} if self.kept else {}),
            "replicas": Table({**labels, **SCORES, "units": NAME}, whole),
            "layers": Table({**labels, "parameter": NAME, **counts}, rounds * len(sizes)),
            "history": Table({**labels, **HISTORY}, whole * self.epochs),
        }

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that the rounds and their numbers of survivors are those that were asked for."""
        replicas = artefact.table("replicas")
        labels, history = ["replica", "point"], artefact.table("history")
        artefact.insist_rows("replicas", labels, product(self.replicas, (0, *self.points)))
        is_whole = is_finished(replicas, history, labels, self.epochs)
        artefact.insist(is_whole, "the best epoch")
        layers = artefact.table("layers").groupby(labels)[["kept", "lobster"]].sum()
        kept = replicas[replicas["point"] > 0].set_index(labels)["kept"]
        for column in ("kept", "lobster"):
            is_same = layers[column].to_dict() == kept.to_dict()
            artefact.insist(is_same, "the table of layers")
        if self.kept:
            found, size = artefact.tensors("networks"), sum(models.sizes(self.lobster.architecture))
            survivors = unpack_bits(found["packed"], size).sum(1).tolist()
            asked = replicas.loc[replicas["point"] == self.point, "kept"].tolist()
            is_same = survivors == asked == [found["weights"].shape[1]] * len(asked)
            artefact.insist(is_same, "the networks that are kept")
        if self.lobster in parents:
            points = parents[self.lobster].table("points").set_index("point")["kept"]
            is_same = bool((replicas["point"].map(points) == replicas["kept"]).all())
            artefact.insist(is_same, "the number of survivors")

    shown = (("networks", "replicas"), ("layers", "layers"))

    @property
    def row_labels(self) -> dict[str, Any]:
        return {"arm": self.arm, "lobster_seed": self.lobster.seed}


@dataclass(frozen=True)
class MagnitudeResult:
    """`replicas`: a row per replica and point, scored at its best epoch as in a
    `RetrainingResult`, the trained dense network being point 0; `layers`: a row per replica, point
    and parameter: how many of its elements survive here (`kept`), in the gradual run (`lobster`),
    in both (`shared`); `history`: a row per epoch; `masks` and `weights` (R, P): those of each
    replica at its last point."""

    replicas: pd.DataFrame
    layers: pd.DataFrame
    history: pd.DataFrame
    masks: Tensor
    weights: Tensor


def prune_by_magnitude(
    config: Magnitude, data: Data, masks: Sequence[Mask], checkpoint: Checkpoint | None = None
) -> MagnitudeResult:
    """Prune and retrain every replica; `masks` are those of the gradual run at the points."""
    checkpoint = checkpoint or Checkpoint()
    model = models.build(config.lobster.architecture, config.lobster.seed)
    dense = Mask.dense(model)
    matched = dict(zip(config.points, masks, strict=True))
    rounds = [*product(config.replicas, (0, *config.points))]
    rows: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    mask, source = dense, flat(model)
    last_masks = torch.zeros(0, len(source), dtype=torch.bool)
    last_weights = torch.zeros(0, len(source))
    saved = checkpoint.load()
    if saved:
        tensors, state = saved
        rows, layers, history = state["rows"], state["layers"], state["history"]
        mask, source = dense.with_flat(tensors["mask"]), tensors["source"]
        # A run begun before networks were kept has none, and needs none.
        last_masks = tensors.get("masks", last_masks)
        last_weights = tensors.get("weights", last_weights)

    for replica, point in rounds[len(rows) :]:
        if not saved:
            mask = magnitude(source, mask, matched[point].kept) if point else dense
        ((trainer, number),) = trainers(model, [mask], data, config.batch_size)
        if point and config.rewinds != "weights":
            trainer.set_weights(number, source * mask.flat)
        trial = Trial(
            trainer,
            number,
            derive("replica", replica),
            partial(config.update, point=point),
            config.epochs,
            {"replica": replica, "point": point},
        )
        note = f"{config.arm}, replica {replica}, point {point}"
        progress = by_epochs([trial], len(rows), len(rounds), note)
        others = (
            {"mask": mask.flat, "source": source, "masks": last_masks, "weights": last_weights},
            {"rows": rows, "layers": layers, "history": history},
        )
        fit([trial], checkpoint, progress, saved, others)
        saved = None
        if config.iterative or not point:
            source = trial.weights
        rows += [row | {"units": trial.units} for row in finish([trial])]
        history += trial.history
        if point == config.point:
            last_masks = torch.cat([last_masks, mask.flat[None]])
            last_weights = torch.cat([last_weights, trial.weights[None]])
        if point:
            layers += _layers(replica, point, mask, matched[point])
    tables = pd.DataFrame(rows), pd.DataFrame(layers), pd.DataFrame(history)
    return MagnitudeResult(*tables, last_masks, last_weights)


def _layers(replica: int, point: int, mask: Mask, lobster: Mask) -> list[dict[str, Any]]:
    pairs = zip(mask.items(), lobster.items(), strict=True)
    return [
        {
            "replica": replica,
            "point": point,
            "parameter": name,
            "size": ours.numel(),
            "kept": int(ours.sum()),
            "lobster": int(theirs.sum()),
            "shared": int((ours & theirs).sum()),
        }
        for (name, ours), (_, theirs) in pairs
    ]
