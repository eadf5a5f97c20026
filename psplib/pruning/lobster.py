"""LOBSTER: train with a regulariser that shrinks the weights the loss is insensitive to, prune at
every plateau (Tartaglione et al., arXiv 2011.09905)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import inf, log
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from psplib.core.artefact import Artefact, Parents, Parts
from psplib.core.config import setting
from psplib.core.errors import PsplibError, one_of, whole_number
from psplib.core.schema import COUNT, NAME, SHARE, SIZE, Column, Files, Shape, Table, Tensors
from psplib.nn import data as data_sets
from psplib.nn import models
from psplib.nn.data import NAMES, Data
from psplib.nn.masks import Mask, nest
from psplib.pruning.kind import TOGETHER, Program, Run
from psplib.training.engines import trainers
from psplib.training.entropy_learning import RISE, WAIT, EntropyTerm, Reward, ramp
from psplib.training.fit import HISTORY, Checkpoint, Progress, Trial, fit
from psplib.training.precision import PRECISIONS
from psplib.training.trainer import Score, Trainer, flat
from psplib.training.update import LobsterStep, Update

# The weights of networks are kept where they are few.
KEPT_ABOVE = 0.95
# The last point has none; a run of one point has no column of them.
_THRESHOLD = Column(float, 0, has_gaps=True, is_needed=False)
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
class Lobster(Run):
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
    gamma: float = setting(
        "ours",
        f"weight of the entropy in bits that is rewarded (EntropyTerm): none for {WAIT} "
        f"epochs, then rising for {RISE}; its gradient is in the sensitivity",
        default=0.0,
        added=True,
    )

    def __post_init__(self) -> None:
        one_of("architecture", self.architecture, models.NAMES)
        one_of("data", self.data, NAMES)
        one_of("precision", self.precision, PRECISIONS)
        for name, least in (("batch_size", 1), ("patience", 0), ("max_epochs", 1)):
            whole_number(name, getattr(self, name), least)
        ramp(self.gamma, 1, WAIT, RISE)  # refuses what is not finite
        if self.gamma and self.architecture != "lenet-300":
            raise PsplibError(f"A gamma is for lenet-300; got {self.architecture!r}.")
        if not 0 < self.target_sparsity < 1:
            raise PsplibError(
                f"target_sparsity must lie between 0 and 1; got {self.target_sparsity}."
            )

    @property
    def arm(self) -> str:
        """Its name among the arms: `lobster`, or `decay` where the sensitivity term is left out."""
        return "lobster" if self.sensitivity else "decay"

    @property
    def title(self) -> str:
        rewarded = f", gamma {self.gamma:g}" if self.gamma else ""
        return (
            f"{'LOBSTER' if self.sensitivity else 'weight decay only'}, seed {self.seed}{rewarded}"
        )

    @property
    def share(self) -> float:
        """The images it uses, of those on which its architecture's cost was measured."""
        whole = _IMAGES["cifar10" if self.architecture.startswith("resnet") else "mnist"]
        images = _IMAGES[self.data]
        return min(self.samples or images, images) / whole

    @property
    def _seconds(self) -> tuple[float, float, float]:
        whole, dense, sparse = _SECONDS.get(self.architecture, _SECONDS["resnet-32"])
        faster = 2 if self.precision == "bfloat16" else 1
        return whole / faster, dense / faster, sparse / faster

    @property
    def cost(self) -> float:
        whole, dense, _ = self._seconds
        slower = 2 if self.gamma else 1
        return slower * self.share * min(whole, dense * self.max_epochs)

    def epoch_cost(self, is_dense: bool) -> float:
        """Seconds of one core for an epoch of one of its networks, about."""
        return self.share * self._seconds[1 if is_dense else 2]

    @property
    def update(self) -> LobsterStep:
        """The rule of its steps."""
        return LobsterStep(
            self.learning_rate, self.shrinkage, self.sensitivity, self.momentum, self.weight_decay
        )

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
        image = models.IMAGE[self.architecture]
        return _load(self.data, device, self.split_seed, image, self.samples)

    @property
    def writes(self) -> Files:
        """Its points, its history, and masks and weights of the points."""
        scores = {
            f"{s}_{n}": c
            for s in ("validation", "test")
            for n, c in (("loss", SIZE), ("error", SHARE))
        }
        points = {"point": COUNT, "epoch": COUNT, "best_epoch": COUNT, "kept": COUNT}
        points |= {"sparsity": SHARE, "weight_sparsity": SHARE, "units": NAME, **scores}
        epochs = range(1, self.max_epochs + 1)
        size = sum(models.sizes(self.architecture))
        return {
            "points": Table(points | {"threshold": _THRESHOLD}, epochs),
            "history": Table(HISTORY | {"sparsity": SHARE}, epochs),
            "masks": Tensors({"survived": Shape("I16", (size,))}),
            "weights": Tensors({"point*": Shape("F32", (None,))}),
        }

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that points, masks, weights and history belong together, and that the run has come
        to its end."""
        points, history = artefact.table("points"), artefact.table("history")
        survived = artefact.tensors("masks")["survived"]
        is_counted = int(survived.min()) >= 0 and int(survived.max()) == len(points)
        artefact.insist(is_counted, "the masks")
        kept = [int((survived > k).sum()) for k in range(len(points))]
        artefact.insist(points["kept"].tolist() == kept, "the table of points")
        weights = Tensors(
            {f"point{k}": Shape("F32", (kept[k],)) for k in points_with_weights(kept)}
        )
        weights.insist(artefact, "weights")
        is_in_order = points["point"].tolist() == [*range(len(points))]
        is_in_order &= bool((points["epoch"].diff()[1:] > 0).all())
        is_in_order &= points["sparsity"].tolist() == [1 - k / len(survived) for k in kept]
        artefact.insist(is_in_order, "the table of points")
        last = points.iloc[-1]
        is_sparse = last["sparsity"] >= self.target_sparsity
        artefact.insist(is_sparse or last["epoch"] == self.max_epochs, "the table of points")
        is_whole = history["epoch"].equals(pd.Series(range(1, len(history) + 1)))
        artefact.insist(is_whole and len(history) == last["epoch"], "the history")
        best = history.set_index("epoch").reindex(points["best_epoch"])
        # The loss of a point was measured again, elsewhere in another shape.
        is_same = np.isclose(best["validation_loss"], points["validation_loss"], rtol=1e-3)
        artefact.insist(bool(is_same.all()), "the history")

    shown = (("networks", "points"),)

    @property
    def row_labels(self) -> dict[str, Any]:
        return {"arm": self.arm, "lobster_seed": self.seed}

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


class OfLobster(Run):
    """What all that is made from a gradual run has in common."""

    lobster: Lobster

    @property
    def parents(self) -> tuple[Lobster, ...]:
        return (self.lobster,)

    def load(self, device: torch.device) -> Data:
        return self.lobster.load(device)

    def kept_weights(self, parents: Parents) -> dict[int, Tensor]:
        """The weights (P,) of the gradual run by its points, where they were kept."""
        names = parents[self.lobster].shapes("weights")
        points = sorted(int(name.removeprefix("point")) for name in names)
        return {point: self.lobster.weights(point, parents) for point in points}


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
    return data_sets.load_data(name, device=device, seed=seed, image=image, samples=samples)


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
        for result in prune_gradually(configs, data, checkpoint)
    ]


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
    sizes: Tensor, losses: Callable[[list[float]], list[float]], bound: float, at_once: int = 1
) -> float:
    """The largest T, among the magnitudes `sizes` (n,), with loss(T) <= bound; 0 if there is none.

    `losses` gives the loss without the weights of `|w| <= T`, for some T at once. It changes only
    where T passes a weight, so the bisection runs over the rank of `|w|`: at most ceil(log2 n)
    steps. Where `at_once` losses cost no more than one, the next steps are asked for as well,
    whichever way the bisection turns: the same T, sooner. It assumes what holds nearly always, that
    the loss grows with T; in any case the loss at the T returned is within the bound, and at the
    next larger magnitude it is not (but for the largest, which is never pruned).
    """
    ranked = torch.unique(sizes)
    within, beyond = 0, len(ranked)
    while beyond - within > 1:
        ranks = _ahead(within, beyond, (at_once + 1).bit_length() - 1)
        found = losses([float(ranked[rank - 1]) for rank in ranks])
        known = dict(zip(ranks, found, strict=True))
        while (middle := (within + beyond) // 2) in known:
            if known.pop(middle) <= bound:
                within = middle
            else:
                beyond = middle
    return float(ranked[within - 1]) if within else 0.0


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


class Gradual(Trial):
    """LOBSTER at work on a network: `train_epoch`; at a plateau, `settle` and `prune`.

    `best` is the state at `best_epoch`, the lowest validation loss since the last pruning, and
    `plateau` the wait for the next.
    """

    def __init__(
        self,
        trainer: Trainer,
        number: int,
        seed: int,
        update: Update,
        epochs: int,
        *,
        tolerance: float,
        patience: int,
    ) -> None:
        super().__init__(trainer, number, seed, lambda epoch: update, epochs)
        self.tolerance, self.patience, self.plateau = tolerance, patience, Plateau()

    @property
    def is_at_plateau(self) -> bool:
        """Whether the wait is over: `patience` (PWE) bad epochs in a row."""
        return self.plateau.bad >= self.patience

    def is_better(self, score: Score) -> bool:
        return score.loss < self.plateau.best

    def observe(self, score: Score) -> None:
        sparsity = self.mask.sparsity
        super().observe(score)
        self.plateau = self.plateau.after(score.loss)
        row = self.history[-1]
        self.history[-1] = {"epoch": row.pop("epoch"), "sparsity": sparsity, **row}

    def prune(self) -> float:
        """Prune by the largest threshold that raises the validation loss by at most the share
        `tolerance` (TWT), which is returned; a new wait begins at `best` without the pruned."""
        weights = self.trainer.state(self.number)["weights"]
        survives = self.mask.flat.to(weights.device)
        bound = (1 + self.tolerance) * self.score("validation").loss

        def losses(thresholds: list[float]) -> list[float]:
            size = weights.new_tensor(thresholds)[:, None]
            candidates = weights * (weights.abs() > size)
            return self.trainer.losses(self.number, candidates, "validation")

        sizes = weights[survives].abs()
        threshold = largest_threshold(sizes, losses, bound, len(self.trainer))
        self._set_mask((survives & (weights.abs() > threshold)).cpu())
        self.settle()
        self.plateau = Plateau()
        return threshold

    def tensors(self) -> dict[str, Tensor]:
        return {"mask": self.mask.flat} | super().tensors()

    def state(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "epoch": self.epoch,
            "plateau": [self.plateau.best, self.plateau.bad],
            "best_epoch": self.best_epoch,
        }

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self._set_mask(tensors["mask"])
        self.load_tensors(tensors)
        self.epoch, self.best_epoch, self.history = (
            state[name] for name in ("epoch", "best_epoch", "history")
        )
        self.plateau = Plateau(*state["plateau"])

    def _set_mask(self, survives: Tensor) -> None:
        self.trainer.set_mask(self.number, self.mask.with_flat(survives))


@dataclass(frozen=True)
class GradualResult:
    """`points`: a row per point; `history`: a row per epoch; `weights`, `masks`: a row (P,) per
    point, the weights those of the plateau's best epoch on the validation set."""

    points: pd.DataFrame
    history: pd.DataFrame
    weights: Tensor
    masks: Tensor


class GradualRun(Gradual):
    """A gradual run to the `target` sparsity: `points` has a row per plateau."""

    def __init__(self, *trial: Any, target: float, **settings: Any) -> None:
        super().__init__(*trial, **settings)
        self.target = target
        self.points: list[dict[str, Any]] = []
        self.has_ended = False

    @property
    def is_done(self) -> bool:
        return self.has_ended

    def observe(self, score: Score) -> None:
        """At a plateau a point, and unless it is the last, a pruning."""
        super().observe(score)
        is_last = self.epoch == self.epochs
        if self.is_at_plateau or is_last:
            self.settle()
            self.points.append(self.record())
            self.has_ended = self.mask.sparsity >= self.target or is_last
            if not self.has_ended:
                self.points[-1]["threshold"] = self.prune()

    def record(self) -> dict[str, Any]:
        """What there is to say of the network at a plateau."""
        return self.place | self.scored("validation")

    @property
    def place(self) -> dict[str, Any]:
        """How far it is pruned, and when."""
        return {
            "point": len(self.points),
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "kept": self.mask.kept,
            "sparsity": self.mask.sparsity,
        }

    def scored(self, split: str) -> dict[str, float]:
        """Loss and error on a split, under its name."""
        return {f"{split}_{name}": value for name, value in asdict(self.score(split)).items()}

    @property
    def progress(self) -> Progress:
        """How far the run has come: the time to the target grows with the logarithm of the density,
        about."""
        sparsity = self.mask.sparsity
        note = f"LOBSTER, epoch {self.epoch}, {sparsity:.2%} pruned"
        return -log(1 - min(sparsity, self.target)), -log(1 - self.target), note


class _Run(GradualRun):
    """The gradual run of a configuration, its points kept."""

    def __init__(self, config: Lobster, trainer: Trainer, number: int) -> None:
        self.gamma = config.gamma
        super().__init__(
            trainer,
            number,
            config.seed,
            config.update,
            config.max_epochs,
            tolerance=config.tolerance,
            patience=config.patience,
            target=config.target_sparsity,
        )
        self.point_weights: list[Tensor] = []
        self.point_masks: list[Tensor] = []

    def term(self, epoch: int) -> Reward | None:
        """That of the entropy, whose running rates begin anew: a run that is resumed has its bits,
        and a pruned network other neurons."""
        gamma = ramp(self.gamma, epoch, WAIT, RISE)
        return Reward(gamma, EntropyTerm(self.trainer.data.classes)) if gamma else None

    def record(self) -> dict[str, Any]:
        self.point_weights.append(self.weights)
        self.point_masks.append(self.mask.flat)
        sizes = {"weight_sparsity": self.mask.weight_sparsity, "units": self.units}
        return self.place | sizes | self.scored("validation") | self.scored("test")

    @property
    def result(self) -> GradualResult:
        return GradualResult(
            pd.DataFrame(self.points),
            pd.DataFrame(self.history),
            torch.stack(self.point_weights),
            torch.stack(self.point_masks),
        )

    def tensors(self) -> dict[str, Tensor]:
        survivors = [w[m] for w, m in zip(self.point_weights, self.point_masks, strict=True)]
        masks = torch.stack(self.point_masks or [torch.zeros_like(self.mask.flat)])
        return super().tensors() | {
            "points.survived": nest(masks),
            "points.survivors": torch.cat(survivors or [torch.zeros(0)]),
        }

    def state(self) -> dict[str, Any]:
        return super().state() | {"points": self.points, "done": self.has_ended}

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        super().load(tensors, state)
        self.points, self.has_ended = state["points"], state["done"]
        survived = tensors["points.survived"]
        self.point_masks = [survived > k for k in range(len(self.points))]
        survivors = tensors["points.survivors"].split([int(m.sum()) for m in self.point_masks])
        self.point_weights = [
            torch.zeros(len(m), dtype=s.dtype).masked_scatter_(m, s)
            for m, s in zip(self.point_masks, survivors, strict=True)
        ]


def prune_gradually(
    configs: Sequence[Lobster], data: Data, checkpoint: Checkpoint | None = None
) -> list[GradualResult]:
    """Prune from the dense network to the target sparsity: gradual runs of one architecture side by
    side, each with plateaus and thresholds of its own."""
    checkpoint = checkpoint or Checkpoint()
    for name in ("architecture", "batch_size", "sensitivity", "precision"):
        if len(values := {getattr(c, name) for c in configs}) > 1:
            raise PsplibError(f"Gradual runs side by side need one {name}; got {values}.")
    first, networks = configs[0], [models.build(c.architecture, c.seed) for c in configs]
    masks = [Mask.dense(network) for network in networks]
    alone = any(config.gamma for config in configs)
    places = trainers(networks[0], masks, data, first.batch_size, first.precision, alone)
    runs = []
    for config, network, (trainer, number) in zip(configs, networks, places, strict=True):
        trainer.set_weights(number, flat(network))
        runs.append(_Run(config, trainer, number))

    def progress() -> Progress:
        slowest = min(runs, key=lambda one: one.progress[0] / one.progress[1])
        return slowest.progress

    fit(runs, checkpoint, progress, checkpoint.load())
    return [one.result for one in runs]
