"""Magnitude pruning with rewinding, to the sparsities of a gradual run.

A dense network is trained; the largest of its weights survive (Han et al., 2015), return to their
initial values and are trained again (Frankle & Carbin, 2019). One-shot: every mask comes from the
trained dense network. Iterative: each comes from the network that was trained under the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from psplib.core.artefact import Artefact, Parents, Parts
from psplib.core.config import setting
from psplib.core.errors import PsplibError, whole_number
from psplib.core.seeds import derive
from psplib.nn import models
from psplib.nn.data import Data
from psplib.nn.masks import Mask, magnitude
from psplib.pruning.lobster import Lobster
from psplib.pruning.retraining import Trial
from psplib.training.trainer import Checkpoint, Learner, Sgd, flat

# An epoch under its masks, which free few units, of the dense one's time.
_SPARSE_EPOCH = 0.7


@dataclass(frozen=True)
class Magnitude:
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

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            whole_number(name, getattr(self, name), 1)
        if not self.replicas or len(set(self.replicas)) < len(self.replicas):
            raise PsplibError(f"replicas must be different numbers; got {self.replicas}.")
        if list(self.points) != sorted(set(self.points)) or not all(p > 0 for p in self.points):
            raise PsplibError(f"points must be rising numbers from 1 on; got {self.points}.")

    @property
    def parents(self) -> tuple[Lobster]:
        """The gradual run whose sparsities it has."""
        return (self.lobster,)

    @property
    def title(self) -> str:
        """What it is, in a table's words."""
        return (
            f"magnitude, {'iterative' if self.iterative else 'one-shot'}, from seed "
            f"{self.lobster.seed}, {len(self.points)} points, × {len(self.replicas)}"
        )

    @property
    def cost(self) -> float:
        """Seconds of one core, about."""
        epochs = len(self.replicas) * self.epochs * (1 + _SPARSE_EPOCH * len(self.points))
        return epochs * self.lobster.epoch_cost(is_dense=True)

    program = None  # its networks are made one after another

    def load(self, device: torch.device) -> Data:
        """The images of the gradual run."""
        return self.lobster.load(device)

    def make(self, data: Data, parents: Parents, checkpoint: Checkpoint) -> Parts:
        """The tables of `Result`."""
        masks = [self.lobster.mask(point, parents) for point in self.points]
        found = run(self, data, masks, checkpoint)
        return {"replicas": found.replicas, "layers": found.layers, "history": found.history}

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that the rounds and their numbers of survivors are those that were asked for."""
        replicas = artefact.table("replicas")
        rounds = [[r, p] for r in self.replicas for p in (0, *self.points)]
        found = replicas[["replica", "point"]].to_numpy().tolist()
        artefact.insist(found == rounds, "the table of replicas")
        is_within = bool(replicas["best_epoch"].between(1, self.epochs).all())
        artefact.insist(is_within, "the best epoch")
        layers = artefact.table("layers").groupby(["replica", "point"])[["kept", "lobster"]].sum()
        kept = replicas[replicas["point"] > 0].set_index(["replica", "point"])["kept"]
        for column in ("kept", "lobster"):
            is_same = layers[column].to_dict() == kept.to_dict()
            artefact.insist(is_same, "the table of layers")
        if self.lobster in parents:
            points = parents[self.lobster].table("points").set_index("point")["kept"]
            is_same = bool((replicas["point"].map(points) == replicas["kept"]).all())
            artefact.insist(is_same, "the number of survivors")

    def tables(self, artefact: Artefact) -> dict[str, pd.DataFrame]:
        """`networks`: a row per replica and point; `layers`: see `Result`; both with `arm`, which
        is `iterative` or `magnitude`, and `lobster_seed`."""
        arm = "iterative" if self.iterative else "magnitude"
        labels = {"arm": arm, "lobster_seed": self.lobster.seed}
        names = {"networks": "replicas", "layers": "layers"}
        return {name: artefact.table(table).assign(**labels) for name, table in names.items()}


@dataclass(frozen=True)
class Result:
    """`replicas`: a row per replica and point, scored at its best epoch as in `tickets.Result`, the
    trained dense network being point 0; `layers`: a row per replica, point and parameter: how many
    of its elements survive here (`kept`), in the gradual run (`lobster`), in both (`shared`);
    `history`: a row per epoch."""

    replicas: pd.DataFrame
    layers: pd.DataFrame
    history: pd.DataFrame


def run(
    config: Magnitude, data: Data, masks: Sequence[Mask], checkpoint: Checkpoint | None = None
) -> Result:
    """Prune and retrain every replica; `masks` are those of the gradual run at the points."""
    checkpoint = checkpoint or Checkpoint()
    model = models.build(config.lobster.architecture, config.lobster.seed)
    start, dense = flat(model), Mask.dense(model)
    matched = dict(zip(config.points, masks, strict=True))
    rounds = [(r, p) for r in config.replicas for p in (0, *config.points)]
    rows: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    mask, source = dense, start
    resumed: tuple[dict[str, Tensor], Any] | None = checkpoint.load()
    if resumed:
        tensors, state = resumed
        rows, layers, history = state["rows"], state["layers"], state["history"]
        mask, source = dense.with_flat(tensors["mask"]), tensors["source"]

    for replica, point in rounds[len(rows) :]:
        if not resumed:
            mask = magnitude(source, mask, matched[point].kept) if point else dense
        learner = Learner(model, mask, data, config.batch_size)
        learner.weights = start.to(data.train.x.device)
        trial = Trial(learner, data, derive("replica", replica))
        if resumed:
            tensors, state = resumed
            trial.load(tensors, state["epoch"], state["best"])
            resumed = None
        while trial.epoch < config.epochs:
            row = trial.train(Sgd(config.learning_rate))
            history.append({"replica": replica, "point": point} | row)
            checkpoint.report(
                len(rows) * config.epochs + trial.epoch,
                len(rounds) * config.epochs,
                f"magnitude, {'iterative' if config.iterative else 'one-shot'}, replica {replica}, "
                f"point {point}",
            )
            if checkpoint.due and trial.epoch < config.epochs:
                checkpoint.save(
                    {"mask": mask.flat, "source": source, **trial.tensors()},
                    {
                        "rows": rows,
                        "layers": layers,
                        "history": history,
                        "epoch": trial.epoch,
                        "best": [trial.error, trial.loss, trial.best_epoch],
                    },
                )
        if config.iterative or not point:
            source = learner.weights.cpu()
        units = "-".join(map(str, learner.compact.units)) or "all"
        rows.append({"replica": replica, "point": point} | trial.finish() | {"units": units})
        if point:
            layers += _layers(replica, point, mask, matched[point])
    return Result(pd.DataFrame(rows), pd.DataFrame(layers), pd.DataFrame(history))


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
