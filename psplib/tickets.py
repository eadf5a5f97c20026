"""What is retrained from the mask of a gradual pruning run, without its regulariser.

`rewound`: the initial values of the pruned network (Frankle & Carbin, 2019; the paper's
"one-shot"). `reinitialised`: new initial values (Liu et al., 2019). `restructured-layer` and
`restructured-global`: new initial values and a random mask of the same count, layer by layer or
over the whole network. `dense`: nothing pruned, new initial values.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from . import models
from .checks import PsplibError, one_of, whole_number
from .config import setting
from .data import Data
from .lobster import Lobster
from .masks import Mask, random_structure
from .training import Checkpoint, Learner, Sgd, crops, flat, order

ARMS = (
    "dense",
    "rewound",
    "reinitialised",
    "restructured-layer",
    "restructured-global",
)
# The weights of every replica are kept where they are few and lie under one mask.
KEPT_ABOVE = 0.95


@dataclass(frozen=True)
class Retraining:
    """Replicas of one arm at one point of a gradual pruning run.

    A replica's number draws its order of samples and, where the arm asks for them, its initial
    values and its structure: arms share them replica by replica, so that they can be compared in
    pairs.
    """

    lobster: Lobster = setting("paper", "Sec. 5: the masks are LOBSTER's")
    point: int = setting("paper", "Fig. 1: one x-value")
    arm: str = setting("paper", "Sec. 5; the paper names no scope of the random structures: both")
    replicas: tuple[int, ...] = setting(
        "paper", "Sec. 5: 10 initialisations, 10 structures; ours also repeats the rewound network"
    )
    epochs: int = setting(
        "ours",
        "Frankle & Carbin train LeNet-300 on 50,000 x 60 images, 3.0 million; 40 epochs of 54,000 "
        "are 2.2 million, and the chapter shows how little changes at their end",
        default=40,
    )
    learning_rate: float = setting("ours", "as in the LOBSTER run", default=0.1)
    batch_size: int = setting("ours", "as in the LOBSTER run", default=100)
    momentum: float = setting("ours", "as in the LOBSTER run", default=0.0, added=True)
    weight_decay: float = setting("ours", "none", default=0.0, added=True)
    steps: tuple[float, ...] = setting(
        "ours",
        "shares of the epochs after which the learning rate falls tenfold",
        default=(),
        added=True,
    )

    def __post_init__(self) -> None:
        one_of("arm", self.arm, ARMS)
        for name in ("epochs", "batch_size"):
            whole_number(name, getattr(self, name), 1)
        if not self.replicas or len(set(self.replicas)) < len(self.replicas):
            raise PsplibError(f"replicas must be different numbers; got {self.replicas}.")
        if list(self.steps) != sorted(set(self.steps)) or not all(0 < s < 1 for s in self.steps):
            raise PsplibError(f"steps must be rising shares between 0 and 1; got {self.steps}.")

    def update(self, epoch: int) -> Sgd:
        """The rule of an epoch, counted from 1."""
        fallen = sum(epoch > share * self.epochs for share in self.steps)
        return Sgd(self.learning_rate / 10**fallen, self.momentum, self.weight_decay)


@dataclass(frozen=True)
class Result:
    """`replicas`: a row per replica, scored at its best epoch (lowest validation error, of equal
    ones lowest validation loss); `history`: a row per epoch; `weights` (P,) and `mask` of the
    replica that is best on validation; `survivors` (R, kept): the surviving weights of every
    replica, (0, kept) where they are not kept."""

    replicas: pd.DataFrame
    history: pd.DataFrame
    weights: Tensor
    mask: Tensor
    survivors: Tensor


def initial(config: Retraining, mask: Mask, replica: int) -> tuple[Tensor, Mask]:
    """Initial values (P,) and mask of a replica; `mask` is that of the point."""
    architecture = config.lobster.architecture
    rewinds = config.arm == "rewound"
    seed = config.lobster.seed if rewinds else models.derive("replica", replica)
    if config.arm.startswith("restructured"):
        generator = torch.Generator().manual_seed(
            models.derive("structure", config.arm, config.point, replica)
        )
        mask = random_structure(mask, config.arm.removeprefix("restructured-"), generator)
    return flat(models.build(architecture, seed)), mask


class Trial:
    """A network trained epoch by epoch, its best state kept: lowest validation error, of equal ones
    lowest validation loss. `seed` draws the order of the samples."""

    def __init__(self, learner: Learner, data: Data, seed: int) -> None:
        self.learner, self.data, self.seed = learner, data, seed
        self.state = learner.state()
        self.error, self.loss, self.best_epoch = inf, inf, 0
        self.epoch = 0

    def train(self, update: Sgd) -> dict[str, Any]:
        """One epoch; its number and its scores on the validation set."""
        self.epoch += 1
        rows = order(len(self.data.train), self.seed, self.epoch)
        self.learner.epoch(rows, update, crops(self.data, self.seed, self.epoch))
        score = self.learner.score("validation")
        if (score.error, score.loss) < (self.error, self.loss):
            self.state = self.learner.state()
            self.error, self.loss, self.best_epoch = score.error, score.loss, self.epoch
        return {
            "epoch": self.epoch,
            "validation_loss": score.loss,
            "validation_error": score.error,
        }

    def finish(self) -> dict[str, Any]:
        """Return to the best epoch; what there is to say of it, and the test of the last epoch."""
        mask, last = self.learner.mask, self.learner.score("test")
        self.learner.load(self.state)
        test = self.learner.score("test")
        return {
            "best_epoch": self.best_epoch,
            "kept": mask.kept,
            "sparsity": mask.sparsity,
            "weight_sparsity": mask.weight_sparsity,
            "validation_loss": self.loss,
            "validation_error": self.error,
            "test_loss": test.loss,
            "test_error": test.error,
            "last_test_loss": last.loss,
            "last_test_error": last.error,
        }

    def tensors(self) -> dict[str, Tensor]:
        """What `load` needs besides the epoch, and the error, loss and number of the best one."""
        return {
            **{f"now.{n}": t for n, t in self.learner.state().items()},
            **{f"best.{n}": t for n, t in self.state.items()},
        }

    def load(self, tensors: dict[str, Tensor], epoch: int, best: list[Any]) -> None:
        """Return to where `tensors` were taken."""
        self.learner.load({n.removeprefix("now."): t for n, t in tensors.items() if "now." in n})
        self.state = {n.removeprefix("best."): t for n, t in tensors.items() if "best." in n}
        self.epoch, (self.error, self.loss, self.best_epoch) = epoch, best


def run(config: Retraining, data: Data, mask: Mask, checkpoint: Checkpoint | None = None) -> Result:
    """Retrain every replica of the configuration from the mask of its point."""
    checkpoint = checkpoint or Checkpoint()
    model = models.build(config.lobster.architecture, config.lobster.seed)
    device = data.train.x.device
    rows: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    champion: dict[str, Tensor] = {}
    survivors: list[Tensor] = []
    resumed: tuple[dict[str, Tensor], Any] | None = checkpoint.load()
    if resumed:
        tensors, state = resumed
        rows, history = state["rows"], state["history"]
        champion = {n: tensors[f"champion.{n}"] for n in ("weights", "mask") if rows}
        survivors = list(tensors["survivors"])

    for position, replica in enumerate(config.replicas):
        if position < len(rows):
            continue
        weights, own_mask = initial(config, mask, replica)
        learner = Learner(model, own_mask, data, config.batch_size)
        learner.weights = weights.to(device)
        trial = Trial(learner, data, models.derive("replica", replica))
        if resumed and resumed[1]["replica"] == replica:
            tensors, state = resumed
            trial.load(tensors, state["epoch"], state["best"])
        while trial.epoch < config.epochs:
            row = trial.train(config.update(trial.epoch + 1))
            history.append({"replica": replica} | row)
            done = position * config.epochs + trial.epoch
            checkpoint.report(
                done,
                len(config.replicas) * config.epochs,
                f"{config.arm}, point {config.point}, replica {position + 1} "
                f"of {len(config.replicas)}",
            )
            if checkpoint.due and trial.epoch < config.epochs:
                checkpoint.save(
                    {
                        **trial.tensors(),
                        **{f"champion.{n}": t for n, t in champion.items()},
                        "survivors": _stack(survivors, mask),
                    },
                    {
                        "rows": rows,
                        "history": history,
                        "replica": replica,
                        "epoch": trial.epoch,
                        "best": [trial.error, trial.loss, trial.best_epoch],
                    },
                )
        row = {"replica": replica} | trial.finish()
        if all(
            (trial.error, trial.loss) < (r["validation_error"], r["validation_loss"]) for r in rows
        ):
            champion = {"weights": learner.weights.cpu(), "mask": own_mask.flat}
        if config.arm in ("rewound", "reinitialised") and mask.sparsity >= KEPT_ABOVE:
            survivors.append(learner.weights.cpu()[mask.flat])
        rows.append(row)
    return Result(
        pd.DataFrame(rows),
        pd.DataFrame(history),
        champion["weights"],
        champion["mask"],
        _stack(survivors, mask),
    )


def _stack(survivors: list[Tensor], mask: Mask) -> Tensor:
    return torch.stack(survivors) if survivors else torch.zeros(0, mask.kept)
