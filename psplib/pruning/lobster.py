"""LOBSTER: train with a regulariser that shrinks the weights the loss is insensitive to, prune at
every plateau (Tartaglione et al., arXiv 2011.09905)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import inf, log
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from psplib.core.artefact import Artefact, Parents, Parts
from psplib.core.config import setting
from psplib.core.errors import PsplibError, one_of, whole_number
from psplib.nn import data as data_sets
from psplib.nn import models
from psplib.nn.data import NAMES, Data
from psplib.nn.masks import Mask, nest
from psplib.pruning.program import TOGETHER, Program
from psplib.training.precision import PRECISIONS
from psplib.training.replicas import Replica, Replicas
from psplib.training.trainer import (
    Checkpoint,
    Learner,
    Score,
    Sgd,
    Update,
    flat,
    samples,
    still,
    under,
)

# The weights of networks are kept where they are few.
KEPT_ABOVE = 0.95
# Seconds of one core on the whole data set, about: a gradual run to the sparsity of the paper's
# scale, an epoch of it where it is dense, and one where it is sparse.
_SECONDS = {
    "lenet-300": (750.0, 1.0, 0.5),
    "lenet-5": (10_000.0, 12.0, 4.0),
    "resnet-8": (16_000.0, 56.0, 40.0),
    "resnet-32": (80_000.0, 280.0, 200.0),
}
_IMAGES = {"digits": 1_500, "cifar10": 50_000, "mnist": 60_000, "fashion-mnist": 60_000}


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
    precision: str = setting(
        "ours", "of the products in training and scoring", default="float32", added=True
    )

    def __post_init__(self) -> None:
        one_of("architecture", self.architecture, models.NAMES)
        one_of("data", self.data, NAMES)
        one_of("precision", self.precision, PRECISIONS)
        for name, least in (("batch_size", 1), ("patience", 0), ("max_epochs", 1)):
            whole_number(name, getattr(self, name), least)
        if not 0 < self.target_sparsity < 1:
            raise PsplibError(
                f"target_sparsity must lie between 0 and 1; got {self.target_sparsity}."
            )

    @property
    def parents(self) -> tuple[()]:
        """It is made from nothing."""
        return ()

    @property
    def arm(self) -> str:
        """Its name among the arms: `lobster`, or `decay` where the sensitivity term is left out."""
        return "lobster" if self.sensitivity else "decay"

    @property
    def title(self) -> str:
        """What it is, in a table's words."""
        return f"{'LOBSTER' if self.sensitivity else 'weight decay only'}, seed {self.seed}"

    @property
    def share(self) -> float:
        """The images it uses, of those on which its architecture's cost was measured."""
        whole = _IMAGES["cifar10" if self.architecture.startswith("resnet") else "mnist"]
        images = _IMAGES[self.data]
        return min(self.samples or images, images) / whole

    @property
    def _seconds(self) -> tuple[float, float, float]:
        return _SECONDS.get(self.architecture, _SECONDS["resnet-32"])

    @property
    def cost(self) -> float:
        """Seconds of one core, about."""
        whole, dense, _ = self._seconds
        return self.share * min(whole, dense * self.max_epochs)

    def epoch_cost(self, is_dense: bool) -> float:
        """Seconds of one core for an epoch of one of its networks, about."""
        return self.share * self._seconds[1 if is_dense else 2]

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The architecture and what it reads: what the networks of one program share."""
        return self.architecture, self.data, self.samples, self.split_seed

    @property
    def program(self) -> Program:
        """Gradual runs of one architecture and data set can be made together."""
        recipe = ("lobster", *self.inputs, self.batch_size, self.sensitivity, self.precision)
        return Program(recipe, 1, TOGETHER[self.architecture], _make_together)

    def load(self, device: torch.device) -> Data:
        """The images it reads."""
        image = models.IMAGE[self.architecture]
        return _load(self.data, device, self.split_seed, image, self.samples)

    def make(self, data: Data, parents: Parents, checkpoint: Checkpoint) -> Parts:
        """The tables, masks and weights of its points."""
        return _make_together([self], data, parents, checkpoint)[0]

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that the points are those of the masks, and that the run has come to its end."""
        points = artefact.table("points")
        survived = artefact.tensors("masks")["survived"]
        kept = [int((survived > k).sum()) for k in range(int(survived.max()))]
        artefact.insist(points["kept"].tolist() == kept, "the table of points")
        last = points.iloc[-1]
        is_sparse = last["sparsity"] >= self.target_sparsity
        artefact.insist(is_sparse or last["epoch"] == self.max_epochs, "the table of points")

    def tables(self, artefact: Artefact) -> dict[str, pd.DataFrame]:
        """`networks`: a row per point, with `arm` and `lobster_seed`."""
        points = artefact.table("points")
        return {"networks": points.assign(arm=self.arm, lobster_seed=self.seed)}

    def mask(self, point: int, parents: Parents) -> Mask:
        """The mask at a point; point 0 is dense and needs no run among the `parents`."""
        dense = Mask.dense(models.build(self.architecture, self.seed))
        if point == 0:
            return dense
        survived = parents[self].tensors("masks")["survived"]
        if point >= (points := int(survived.max())):
            raise PsplibError(f"The gradual run has {points} points; point {point} was asked for.")
        return dense.with_flat(survived > point)

    def weights(self, point: int, parents: Parents) -> Tensor:
        """The weights (P,) at a point, pruned ones zero.

        `PsplibError` at a point of which they were not kept, see `points_with_weights`.
        """
        mask = self.mask(point, parents)
        survivors = parents[self].tensors("weights")
        if f"point{point}" not in survivors:
            raise PsplibError(
                f"The gradual run kept no weights of point {point}, at {mask.sparsity:.1%} "
                f"sparsity; it has those of points "
                f"{', '.join(n.removeprefix('point') for n in survivors)}."
            )
        return torch.zeros(len(mask.flat)).masked_scatter_(mask.flat, survivors[f"point{point}"])


def points_with_weights(kept: list[int]) -> list[int]:
    """The points whose weights a gradual run keeps, by how many parameters each `kept`.

    The last, all from 95 % sparsity up, and below, where they are large, the first of every
    halving. Not the dense network: nothing is made from it, and the dense arm keeps its own.

    >>> points_with_weights([1000, 900, 400, 300, 200, 50, 49])
    [2, 4, 5, 6]
    """
    chosen, smallest = [], kept[0]
    for point, count in enumerate(kept[1:], 1):
        is_last = point == len(kept) - 1
        if is_last or count <= (1 - KEPT_ABOVE) * kept[0] or count <= smallest / 2:
            chosen.append(point)
            smallest = count
    return chosen


@lru_cache(maxsize=1)
def _load(
    name: str, device: torch.device, seed: int, image: tuple[int, int, int], samples: int | None
) -> Data:
    return data_sets.load(name, device=device, seed=seed, image=image, samples=samples)


def _make_together(
    configs: Sequence[Lobster], data: Data, parents: Parents, checkpoint: Checkpoint
) -> list[Parts]:
    return [
        {
            "points": result.points,
            "history": result.history,
            "masks": {"survived": nest(result.masks)},
            "weights": {
                f"point{k}": result.weights[k][result.masks[k]]
                for k in points_with_weights(result.points["kept"].tolist())
            },
        }
        for result in run_together(configs, data, checkpoint)
    ]


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


def largest_threshold(
    sizes: Tensor, losses: Callable[[list[float]], list[float]], bound: float, abreast: int = 1
) -> float:
    """The largest T, among the magnitudes `sizes` (n,), with loss(T) <= bound; 0 if there is none.

    `losses` gives the loss without the weights of `|w| <= T`, for some T at once. It changes only
    where T passes a weight, so the bisection runs over the rank of `|w|`: at most ceil(log2 n)
    steps. Where `abreast` losses cost no more than one, the next steps are asked for as well,
    whichever way the bisection turns: the same T, sooner. It assumes what holds nearly always, that
    the loss grows with T; in any case the loss at the T returned is within the bound, and at the
    next larger magnitude it is not (but for the largest, which is never pruned).
    """
    ranked = torch.unique(sizes).tolist()
    within, beyond = 0, len(ranked)
    while beyond - within > 1:
        ranks = _ahead(within, beyond, (abreast + 1).bit_length() - 1)
        known = dict(zip(ranks, losses([ranked[rank - 1] for rank in ranks]), strict=True))
        while (middle := (within + beyond) // 2) in known:
            if known.pop(middle) <= bound:
                within = middle
            else:
                beyond = middle
    return ranked[within - 1] if within else 0.0


def _ahead(within: int, beyond: int, steps: int) -> list[int]:
    """Every rank that the next `steps` of a bisection can come to."""
    if not steps or beyond - within < 2:
        return []
    middle = (within + beyond) // 2
    return [
        middle,
        *_ahead(within, middle, steps - 1),
        *_ahead(middle, beyond, steps - 1),
    ]


class Gradual:
    """LOBSTER at work on one network: `train` epochs; at a plateau, `settle` and `prune`.

    `learner` holds the network and its mask, alone or as one of several; `best` is its state at
    `best_epoch`, the best on the validation set since the last pruning, and `plateau` the wait for
    the next.
    """

    learner: Learner | Replica

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
        precision: str = "float32",
        replica: Replica | None = None,
    ) -> None:
        self.model, self.data, self.update = model, data, update
        self.tolerance, self.patience, self.seed = tolerance, patience, seed
        self.learner = replica or Learner(model, Mask.dense(model), data, batch_size, precision)
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

    def samples(self) -> tuple[Tensor, Tensor | None]:
        """The order of the next epoch (N,), and its crops (N, 3) if the data are augmented."""
        self.epoch += 1
        return samples(self.data, self.seed, self.epoch)

    def observe(self, score: Score) -> None:
        """Take notice of an epoch's score on the validation set."""
        previous, self.plateau = self.plateau.best, self.plateau.after(score.loss)
        if self.plateau.best < previous:
            self.best, self.best_epoch = self.learner.state(), self.epoch

    def train(self) -> Score:
        """One epoch of a network that is alone; its score on the validation set."""
        assert isinstance(self.learner, Learner)
        rows, cuts = self.samples()
        self.learner.epoch(rows, self.update, cuts)
        score = self.learner.score("validation")
        self.observe(score)
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

        def losses(thresholds: list[float]) -> list[float]:
            size = weights.new_tensor(thresholds)[:, None]
            return self.learner.losses(weights * (weights.abs() > size), "validation")

        sizes = weights[survives].abs()
        threshold = largest_threshold(sizes, losses, bound, self.learner.abreast)
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
        self.learner.load(under("now.", tensors))
        device = self.data.train.x.device
        self.best = {n: t.to(device) for n, t in under("best.", tensors).items()}
        self.epoch, self.best_epoch, self.plateau = epoch, best_epoch, plateau

    def _under(self, survives: Tensor) -> None:
        self.learner = self.learner.under(self.mask.with_flat(survives))


@dataclass(frozen=True)
class Result:
    """`points`: a row per point; `history`: a row per epoch; `weights`, `masks`: a row (P,) per
    point, the weights those of the plateau's best epoch on the validation set."""

    points: pd.DataFrame
    history: pd.DataFrame
    weights: Tensor
    masks: Tensor


class _Run:
    """A gradual run's record: its points and its history."""

    def __init__(self, config: Lobster, gradual: Gradual) -> None:
        self.config, self.gradual = config, gradual
        self.points: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.weights: list[Tensor] = []
        self.masks: list[Tensor] = []
        self.is_done = False

    def after(self, score: Score) -> None:
        """What follows an epoch: at a plateau a point, and unless it is the last, a pruning."""
        gradual = self.gradual
        is_last = gradual.epoch == self.config.max_epochs
        self.history.append(
            {
                "epoch": gradual.epoch,
                "sparsity": gradual.mask.sparsity,
                "validation_loss": score.loss,
                "validation_error": score.error,
            }
        )
        if gradual.is_at_plateau or is_last:
            gradual.settle()
            self.points.append(
                {
                    "point": len(self.points),
                    "epoch": gradual.epoch,
                    "best_epoch": gradual.best_epoch,
                    **_describe(gradual.learner),
                }
            )
            self.weights.append(gradual.learner.weights.cpu())
            self.masks.append(gradual.mask.flat)
            self.is_done = gradual.mask.sparsity >= self.config.target_sparsity or is_last
            if not self.is_done:
                self.points[-1]["threshold"] = gradual.prune()

    @property
    def result(self) -> Result:
        mask = self.gradual.mask
        return Result(
            pd.DataFrame(self.points),
            pd.DataFrame(self.history),
            _stack(self.weights, mask),
            _stack(self.masks, mask).bool(),
        )

    @property
    def progress(self) -> tuple[float, float, str]:
        """How far the run has come: the time to the target grows with the logarithm of the density,
        about."""
        sparsity = self.gradual.mask.sparsity
        note = f"LOBSTER, epoch {self.gradual.epoch}, {sparsity:.2%} pruned"
        return -log(1 - sparsity), -log(1 - self.config.target_sparsity), note

    def tensors(self) -> dict[str, Tensor]:
        survivors = [w[m] for w, m in zip(self.weights, self.masks, strict=True)]
        return self.gradual.tensors() | {
            "points.survived": nest(_stack(self.masks, self.gradual.mask).bool()),
            "points.survivors": torch.cat(survivors or [torch.zeros(0)]),
        }

    def state(self) -> dict[str, Any]:
        return {
            "points": self.points,
            "history": self.history,
            "epoch": self.gradual.epoch,
            "plateau": [self.gradual.plateau.best, self.gradual.plateau.bad],
            "best_epoch": self.gradual.best_epoch,
            "done": self.is_done,
        }

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.points, self.history = state["points"], state["history"]
        survived = tensors["points.survived"]
        self.masks = [survived > k for k in range(len(self.points))]
        survivors = tensors["points.survivors"].split([int(m.sum()) for m in self.masks])
        self.weights = [
            torch.zeros(len(m)).masked_scatter_(m, s)
            for m, s in zip(self.masks, survivors, strict=True)
        ]
        plateau = Plateau(*state["plateau"])
        self.gradual.load(tensors, state["epoch"], state["best_epoch"], plateau)
        self.is_done = state.get("done", False)


def run(config: Lobster, data: Data, checkpoint: Checkpoint | None = None) -> Result:
    """Prune gradually from the dense network to the target sparsity."""
    return run_together([config], data, checkpoint)[0]


def run_together(
    configs: Sequence[Lobster], data: Data, checkpoint: Checkpoint | None = None
) -> list[Result]:
    """Gradual runs side by side in one program, each with plateaus and thresholds of its own; of
    one architecture, trained with one size of batches."""
    checkpoint = checkpoint or Checkpoint()
    alone = data.train.x.device.type == "cpu" and len(configs) == 1
    team = None if alone else _team(configs, data)
    runs = [_Run(c, _gradual(c, data, team[i] if team else None)) for i, c in enumerate(configs)]
    if saved := checkpoint.load():
        tensors, states = saved
        for one, found, state in zip(runs, _divide(tensors, runs), states["runs"], strict=True):
            one.load(found, state)
        if team:
            team.algorithms = states["algorithms"]
    while active := [one for one in runs if not one.is_done]:
        if team:
            _train_together(team, runs)
        else:
            active[0].after(active[0].gradual.train())
        slowest = min(active, key=lambda one: one.progress[0] / one.progress[1])
        if not slowest.is_done:
            checkpoint.report(*slowest.progress)
        if checkpoint.due:
            states = {"runs": [one.state() for one in runs]}
            checkpoint.save(
                _unite(runs), states | ({"algorithms": team.algorithms} if team else {})
            )
    return [one.result for one in runs]


def _gradual(config: Lobster, data: Data, replica: Replica | None) -> Gradual:
    return Gradual(
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
        precision=config.precision,
        replica=replica,
    )


def _team(configs: Sequence[Lobster], data: Data) -> Replicas:
    for name in ("architecture", "batch_size", "sensitivity", "precision"):
        if len(values := {getattr(c, name) for c in configs}) > 1:
            raise PsplibError(f"Gradual runs side by side need one {name}; got {values}.")
    model = models.build(configs[0].architecture, configs[0].seed)
    masks = [Mask.dense(model)] * len(configs)
    return Replicas(model, masks, data, configs[0].batch_size, configs[0].precision)


def _train_together(team: Replicas, runs: list[_Run]) -> None:
    """An epoch of all runs; the networks of those that have ended stand still."""
    still = [Shrink(0.0, 0.0, one.config.sensitivity) for one in runs]
    rows, cuts = zip(*(one.gradual.samples() for one in runs), strict=True)
    updates = [s if one.is_done else one.gradual.update for one, s in zip(runs, still, strict=True)]
    team.epoch(rows, updates, None if cuts[0] is None else cuts)
    for one, score in zip(runs, team.scores("validation"), strict=True):
        if not one.is_done:
            one.gradual.observe(score)
            one.after(score)


def _unite(runs: list[_Run]) -> dict[str, Tensor]:
    return {f"{i}/{name}": t for i, one in enumerate(runs) for name, t in one.tensors().items()}


def _divide(tensors: dict[str, Tensor], runs: list[_Run]) -> list[dict[str, Tensor]]:
    return [under(f"{i}/", tensors) for i in range(len(runs))]


def _describe(learner: Learner | Replica) -> dict[str, Any]:
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


def _stack(rows: list[Tensor], mask: Mask) -> Tensor:
    return torch.stack(rows) if rows else torch.zeros(0, len(mask.flat))


__all__ = ["Gradual", "Lobster", "Plateau", "Result", "Shrink", "largest_threshold", "run"]
