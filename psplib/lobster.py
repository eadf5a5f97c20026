"""LOBSTER: train with a regulariser that shrinks the weights the loss is insensitive to, prune at
every plateau (Tartaglione et al., arXiv 2011.09905)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import inf, log
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from . import models
from .checks import PsplibError, one_of, whole_number
from .config import setting
from .data import NAMES, Data
from .masks import Mask, nest
from .training import Checkpoint, Learner, Score, Sgd, Update, crops, flat, order, still


@dataclass(frozen=True)
class Lobster:
    """One gradual pruning run. Its point k is the network at the plateau after k prunings."""

    architecture: str = setting("paper", "Sec. 5: the networks of the four panels of Fig. 1")
    data: str = setting("paper", "Sec. 5: the data sets of the four panels of Fig. 1")
    seed: int = setting("ours", "draws the initial values and the order of the samples")
    learning_rate: float = setting(
        "reference", "LOBSTER's published value for LeNet-5 on MNIST", default=0.1
    )
    batch_size: int = setting(
        "reference", "LOBSTER's published value for LeNet-5 on MNIST", default=100
    )
    shrinkage: float = setting(
        "reference", "lambda, LOBSTER's published value for LeNet-5 on MNIST", default=1e-4
    )
    tolerance: float = setting(
        "reference",
        "TWT, how much worse the validation loss may get in one pruning; LOBSTER's published "
        "value for LeNet-5 on MNIST",
        default=0.05,
    )
    patience: int = setting(
        "ours",
        "PWE, epochs without improvement that make a plateau; LOBSTER's published value for "
        "LeNet-5 on MNIST is 20, 5 is what a CPU can pay",
        default=5,
    )
    sensitivity: bool = setting(
        "reference", "without it the regulariser is plain decoupled weight decay", default=True
    )
    target_sparsity: float = setting(
        "ours", "the run ends at the first plateau that is at least this sparse", default=0.985
    )
    max_epochs: int = setting("ours", "the run ends here at the latest", default=2000)
    split_seed: int = setting("ours", "draws the 90/10 split", default=0)
    momentum: float = setting(
        "reference", "LOBSTER's published value for LeNet-5 on MNIST: none", default=0.0, added=True
    )
    weight_decay: float = setting(
        "ours", "none beside LOBSTER's own shrinking", default=0.0, added=True
    )
    samples: int | None = setting(
        "ours", "training images and test images used, where not all", default=None, added=True
    )

    def __post_init__(self) -> None:
        one_of("architecture", self.architecture, models.NAMES)
        one_of("data", self.data, NAMES)
        for name, least in (("batch_size", 1), ("patience", 0), ("max_epochs", 1)):
            whole_number(name, getattr(self, name), least)
        if not 0 < self.target_sparsity < 1:
            raise PsplibError(
                f"target_sparsity must lie between 0 and 1; got {self.target_sparsity}."
            )


@dataclass(frozen=True)
class Shrink:
    """SGD, then LOBSTER's shrinking step: `w <- w - lambda * w * max(0, 1 - |dL/dw|)`.

    lambda is not multiplied by the learning rate, and dL/dw is the gradient of the minibatch alone,
    without momentum or weight decay. Without `sensitivity`: w <- w - lambda * w.
    """

    learning_rate: float | Tensor
    shrinkage: float | Tensor
    sensitivity: bool = True
    momentum: float | Tensor = 0.0
    weight_decay: float | Tensor = 0.0

    def step(self, weights: Tensor, gradient: Tensor, velocity: Tensor | None = None) -> None:
        sgd = Sgd(self.learning_rate, self.momentum, self.weight_decay)
        sgd.step(weights, gradient, velocity)
        if self.sensitivity:
            # The gradient is spent: it becomes -max(0, 1 - |g|) in its own memory.
            gradient.abs_().clamp_max_(1).sub_(1)
            if isinstance(self.shrinkage, Tensor):
                weights.addcmul_(weights, gradient.mul_(self.shrinkage))
            else:
                weights.addcmul_(weights, gradient, value=self.shrinkage)
        else:
            weights.mul_(1 - self.shrinkage)

    def idle(self, weights: Tensor, steps: int, velocity: Tensor | None = None) -> None:
        if velocity is None and not self.weight_decay:
            weights.mul_((1 - self.shrinkage) ** steps)
        else:
            still(self, weights, steps, velocity)


@dataclass(frozen=True)
class Plateau:
    """The wait for a plateau: an epoch is bad when its loss is not below 1.01 x the best so far;
    `patience` bad epochs in a row end the wait."""

    best: float = inf
    bad: int = 0

    def after(self, loss: float) -> Plateau:
        """The state after an epoch with this validation loss."""
        good = loss < 1.01 * self.best
        return Plateau(min(self.best, loss), 0 if good else self.bad + 1)


def largest_threshold(sizes: Tensor, loss: Callable[[float], float], bound: float) -> float:
    """The largest T, among the magnitudes `sizes` (n,), with loss(T) <= bound; 0 if there is none.

    loss(T) is the loss without the weights of `|w| <= T`. It changes only where T passes a weight,
    so the bisection runs over the rank of `|w|`: at most ceil(log2 n) evaluations. It assumes what
    holds nearly always, that the loss grows with T; in any case the loss at the T returned is
    within the bound, and at the next larger magnitude it is not (but for the largest, which is
    never pruned).
    """
    ranked = torch.unique(sizes).tolist()
    within, beyond = 0, len(ranked)
    while beyond - within > 1:
        middle = (within + beyond) // 2
        if loss(ranked[middle - 1]) <= bound:
            within = middle
        else:
            beyond = middle
    return ranked[within - 1] if within else 0.0


class Gradual:
    """LOBSTER at work on one network: `train` epochs; at a plateau, `settle` and `prune`.

    `learner` holds the network and its mask; `best` is its state at `best_epoch`, the best on the
    validation set since the last pruning, and `plateau` the wait for the next.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        update: Update,
        *,
        batch_size: int,
        tolerance: float,
        patience: int,
        seed: int,
    ) -> None:
        self.model, self.data, self.update = model, data, update
        self.batch_size, self.tolerance, self.patience = batch_size, tolerance, patience
        self.seed = seed
        self.learner = Learner(model, Mask.dense(model), data, batch_size)
        self.learner.weights = flat(model).to(data.train.x.device)
        self.best = self.learner.state()
        self.plateau, self.best_epoch, self.epoch = Plateau(), 0, 0

    @property
    def mask(self) -> Mask:
        """What survives."""
        return self.learner.mask

    @property
    def is_at_plateau(self) -> bool:
        """Whether the wait is over: `patience` (PWE) bad epochs in a row."""
        return self.plateau.bad >= self.patience

    def train(self) -> Score:
        """One epoch; its score on the validation set."""
        self.epoch += 1
        rows = order(len(self.data.train), self.seed, self.epoch)
        self.learner.epoch(rows, self.update, crops(self.data, self.seed, self.epoch))
        score = self.learner.score("validation")
        previous, self.plateau = self.plateau.best, self.plateau.after(score.loss)
        if self.plateau.best < previous:
            self.best, self.best_epoch = self.learner.state(), self.epoch
        return score

    def settle(self) -> None:
        """Return to the best epoch of the wait."""
        self.learner.load(self.best)

    def prune(self) -> float:
        """Prune by the largest threshold that raises the validation loss by at most the share
        `tolerance` (TWT), which is returned; a new wait begins at `best` without the pruned."""
        weights = self.learner.weights
        survives = self.mask.flat.to(weights.device)
        bound = (1 + self.tolerance) * self.learner.score("validation").loss

        def loss(threshold: float) -> float:
            self.learner.weights = weights * (weights.abs() > threshold)
            return self.learner.score("validation").loss

        threshold = largest_threshold(weights[survives].abs(), loss, bound)
        self._under((survives & (weights.abs() > threshold)).cpu())
        self.learner.load(self.best)
        self.plateau = Plateau()
        return threshold

    def tensors(self) -> dict[str, Tensor]:
        """What `load` needs besides the epoch, its best and the plateau."""
        return {
            "mask": self.mask.flat,
            **{f"now.{n}": t for n, t in self.learner.state().items()},
            **{f"best.{n}": t for n, t in self.best.items()},
        }

    def load(
        self, tensors: dict[str, Tensor], epoch: int, best_epoch: int, plateau: Plateau
    ) -> None:
        """Return to where `tensors` were taken."""
        self._under(tensors["mask"])
        self.learner.load(_under("now.", tensors))
        device = self.data.train.x.device
        self.best = {n: t.to(device) for n, t in _under("best.", tensors).items()}
        self.epoch, self.best_epoch, self.plateau = epoch, best_epoch, plateau

    def _under(self, survives: Tensor) -> None:
        mask = self.mask.with_flat(survives)
        self.learner = Learner(self.model, mask, self.data, self.batch_size)


@dataclass(frozen=True)
class Result:
    """`points`: a row per point; `history`: a row per epoch; `weights`, `masks`: a row (P,) per
    point, the weights those of the plateau's best epoch on the validation set."""

    points: pd.DataFrame
    history: pd.DataFrame
    weights: Tensor
    masks: Tensor


def run(config: Lobster, data: Data, checkpoint: Checkpoint | None = None) -> Result:
    """Prune gradually from the dense network to the target sparsity."""
    checkpoint = checkpoint or Checkpoint()
    gradual = Gradual(
        models.build(config.architecture, config.seed),
        data,
        Shrink(
            config.learning_rate,
            config.shrinkage,
            config.sensitivity,
            config.momentum,
            config.weight_decay,
        ),
        batch_size=config.batch_size,
        tolerance=config.tolerance,
        patience=config.patience,
        seed=config.seed,
    )
    points: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    kept_weights: list[Tensor] = []
    kept_masks: list[Tensor] = []

    if saved := checkpoint.load():
        tensors, state = saved
        points, history = state["points"], state["history"]
        survived = tensors["points.survived"]
        kept_masks = [survived > k for k in range(len(points))]
        survivors = tensors["points.survivors"].split([int(m.sum()) for m in kept_masks])
        kept_weights = [
            torch.zeros(len(m)).masked_scatter_(m, s)
            for m, s in zip(kept_masks, survivors, strict=True)
        ]
        gradual.load(tensors, state["epoch"], state["best_epoch"], Plateau(*state["plateau"]))

    while gradual.epoch < config.max_epochs:
        score = gradual.train()
        is_last = gradual.epoch == config.max_epochs
        history.append(
            {
                "epoch": gradual.epoch,
                "sparsity": gradual.mask.sparsity,
                "validation_loss": score.loss,
                "validation_error": score.error,
            }
        )
        if gradual.is_at_plateau or is_last:
            gradual.settle()
            points.append(
                {"point": len(points), "epoch": gradual.epoch, "best_epoch": gradual.best_epoch}
                | _describe(gradual.learner)
            )
            kept_weights.append(gradual.learner.weights.cpu())
            kept_masks.append(gradual.mask.flat)
            if gradual.mask.sparsity >= config.target_sparsity or is_last:
                break
            points[-1]["threshold"] = gradual.prune()
        # The time to the target grows with the logarithm of the density, about.
        checkpoint.report(
            -log(1 - gradual.mask.sparsity),
            -log(1 - config.target_sparsity),
            f"LOBSTER, epoch {gradual.epoch}, {gradual.mask.sparsity:.2%} pruned",
        )
        if checkpoint.due:
            checkpoint.save(
                gradual.tensors()
                | {
                    "points.survived": nest(_stack(kept_masks, gradual.mask).bool()),
                    "points.survivors": torch.cat(
                        [w[m] for w, m in zip(kept_weights, kept_masks, strict=True)]
                        or [torch.zeros(0)]
                    ),
                },
                {
                    "points": points,
                    "history": history,
                    "epoch": gradual.epoch,
                    "plateau": [gradual.plateau.best, gradual.plateau.bad],
                    "best_epoch": gradual.best_epoch,
                },
            )
    return Result(
        pd.DataFrame(points),
        pd.DataFrame(history),
        _stack(kept_weights, gradual.mask),
        _stack(kept_masks, gradual.mask).bool(),
    )


def _describe(learner: Learner) -> dict[str, Any]:
    mask = learner.mask
    validation, test = learner.score("validation"), learner.score("test")
    return {
        "kept": mask.kept,
        "sparsity": mask.sparsity,
        "weight_sparsity": mask.weight_sparsity,
        "units": "-".join(map(str, learner.compact.units)) or "all",
        **{f"validation_{n}": v for n, v in asdict(validation).items()},
        **{f"test_{n}": v for n, v in asdict(test).items()},
    }


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _stack(rows: list[Tensor], mask: Mask) -> Tensor:
    return torch.stack(rows) if rows else torch.zeros(0, len(mask.flat))


__all__ = ["Gradual", "Lobster", "Plateau", "Result", "Shrink", "largest_threshold", "run"]
