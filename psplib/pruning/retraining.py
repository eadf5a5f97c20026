"""What is retrained from the mask of a gradual pruning run; without its regulariser, unless asked.

`rewound`: the initial values of the pruned network (Frankle & Carbin, 2019; the paper's
"one-shot"). `reinitialised`: new initial values (Liu et al., 2019). `restructured-layer` and
`restructured-global`: new initial values and a random mask of the same count, layer by layer or
over the whole network. `continued`: the weights of the gradual network itself. `dense`: nothing
pruned, new initial values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from psplib.core.artefact import Artefact, Parents, Parts
from psplib.core.config import setting
from psplib.core.errors import PsplibError, one_of, whole_number
from psplib.core.schema import COUNT, Files, Shape, Table, Tensors
from psplib.core.seeds import derive
from psplib.nn import models
from psplib.nn.data import Data
from psplib.nn.masks import Mask, pack_bits, random_structure, unpack_bits
from psplib.nn.wiring import live_units, wire
from psplib.pruning.kind import TOGETHER, Program
from psplib.pruning.lobster import KEPT_ABOVE, Lobster, OfLobster
from psplib.training.engines import stacks, trainers
from psplib.training.fit import (
    HISTORY,
    SCORES,
    Checkpoint,
    Saved,
    Trial,
    by_epochs,
    finish,
    fit,
    is_finished,
    under,
)
from psplib.training.precision import PRECISIONS
from psplib.training.trainer import flat
from psplib.training.update import LobsterStep, Sgd, Update, check_steps, fallen

ARMS = (
    "dense",
    "rewound",
    "reinitialised",
    "restructured-layer",
    "restructured-global",
    "continued",
    "narrow",
)
# Those under the mask of the gradual network, which can be compared with it weight by weight.
UNDER_ITS_MASK = ("rewound", "reinitialised", "continued")


@dataclass(frozen=True)
class Retraining(OfLobster):
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
    precision: str = setting("ours", "as in the LOBSTER run", default="float32", added=True)
    shrinkage: float = setting(
        "ours",
        "lambda of LOBSTER's step while the mask stays: none, but for the controls",
        default=0.0,
        added=True,
    )

    def __post_init__(self) -> None:
        one_of("arm", self.arm, ARMS)
        one_of("precision", self.precision, PRECISIONS)
        for name in ("epochs", "batch_size"):
            whole_number(name, getattr(self, name), 1)
        if not self.replicas or len(set(self.replicas)) < len(self.replicas):
            raise PsplibError(f"replicas must be different numbers; got {self.replicas}.")
        if self.arm in ("continued", "narrow") and not self.point:
            raise PsplibError(f"The {self.arm} arm needs a pruned point, from 1 on; got 0.")
        if self.shrinkage < 0:
            raise PsplibError(f"shrinkage must be at least 0; got {self.shrinkage}.")
        check_steps(self.steps)

    def update(self, epoch: int) -> Update:
        """The rule of an epoch, counted from 1."""
        rate = fallen(self.learning_rate, self.steps, epoch, self.epochs)
        if not self.shrinkage:
            return Sgd(rate, self.momentum, self.weight_decay)
        return LobsterStep(rate, self.shrinkage, True, self.momentum, self.weight_decay)

    @property
    def parents(self) -> tuple[Lobster, ...]:
        return (self.lobster,) if self.point else ()

    @property
    def title(self) -> str:
        way = f"{self.arm} with shrinking" if self.shrinkage else self.arm
        return f"{way} from seed {self.lobster.seed}, point {self.point}, × {len(self.replicas)}"

    @property
    def cost(self) -> float:
        return len(self.replicas) * self.epochs * self.lobster.epoch_cost(self.point < 4)

    @property
    def program(self) -> Program:
        """Arms and points of one panel can be made together: they have one number of epochs."""
        shared = (self.batch_size, self.epochs, self.precision, self.shrinkage > 0)
        recipe = ("retraining", *self.lobster.inputs, *shared)
        most = TOGETHER[self.lobster.architecture]
        return Program(recipe, len(self.replicas), most, _make_together)

    @property
    def writes(self) -> Files:
        """Replicas and history, mask and weights of the best replica, survivors of all."""
        count, size = len(self.replicas), sum(models.sizes(self.lobster.architecture))
        best = {"packed": Shape("U8", (-(-size // 8),)), "weights": Shape("F32", (None,))}
        survivors = {"weights": Shape("F32", (count, None))}
        return {
            "replicas": Table({"replica": COUNT, **SCORES}, count),
            "history": Table({"replica": COUNT, **HISTORY}, count * self.epochs),
            "best": Tensors(best),
            "survivors": Tensors(survivors, is_needed=False),
        }

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that the replicas and their numbers of survivors are those that were asked for,
        and that every replica has all its epochs."""
        replicas = artefact.table("replicas")
        artefact.insist_rows("replicas", ["replica"], zip(self.replicas))
        is_whole = is_finished(replicas, artefact.table("history"), ["replica"], self.epochs)
        artefact.insist(is_whole, "the best epoch")
        best = artefact.tensors("best")
        survivors, size = len(best["weights"]), sum(models.sizes(self.lobster.architecture))
        is_same = bool((replicas["kept"] == survivors).all())
        is_same &= bool((replicas["sparsity"] == 1 - survivors / size).all())
        artefact.insist(is_same, "the number of survivors")
        bits = unpack_bits(best["packed"], size)
        artefact.insist(int(bits.sum()) == survivors, "the best replica's mask")
        if "survivors.safetensors" in artefact.names:
            _, (_, kept) = artefact.shapes("survivors")["weights"]
            artefact.insist(kept == survivors, "the survivors")
        if self.lobster in parents and self.point and self.arm != "narrow":
            kept = parents[self.lobster].table("points").set_index("point")["kept"]
            artefact.insist(kept.get(self.point) == survivors, "the number of survivors")

    shown = (("networks", "replicas"),)

    @property
    def row_labels(self) -> dict[str, Any]:
        return {"arm": self.arm, "lobster_seed": self.lobster.seed, "point": self.point}


def _make_together(
    configs: Sequence[Retraining], data: Data, parents: Parents, checkpoint: Checkpoint
) -> list[Parts]:
    masks = [config.lobster.mask(config.point, parents) for config in configs]
    weights = [
        config.lobster.weights(config.point, parents) if config.arm == "continued" else None
        for config in configs
    ]
    return [
        {
            "replicas": result.replicas,
            "history": result.history,
            "best": {"packed": pack_bits(result.mask), "weights": result.weights[result.mask]},
            **({"survivors": {"weights": result.survivors}} if len(result.survivors) else {}),
        }
        for result in retrain_replicas(configs, data, masks, checkpoint, weights)
    ]


@dataclass(frozen=True)
class RetrainingResult:
    """`replicas`: a row per replica, scored at its best epoch (lowest validation error, of equal
    ones lowest validation loss); `history`: a row per epoch; `weights` (P,) and `mask` of the
    replica that is best on validation; `survivors` (R, kept): the surviving weights of every
    replica, (0, kept) where they are not kept."""

    replicas: pd.DataFrame
    history: pd.DataFrame
    weights: Tensor
    mask: Tensor
    survivors: Tensor


def initial(
    config: Retraining, mask: Mask, replica: int, weights: Tensor | None = None
) -> tuple[Tensor, Mask]:
    """Initial values (P,) and mask of a replica; `mask` is that of the point, `weights` (P,) those
    of the gradual network there, which the continued arm needs."""
    if config.arm == "continued":
        if weights is None:
            raise PsplibError("The continued arm needs the weights of the gradual network.")
        return weights, mask
    architecture = config.lobster.architecture
    rewinds = config.arm == "rewound"
    seed = config.lobster.seed if rewinds else derive("replica", replica)
    if config.arm.startswith("restructured"):
        generator = torch.Generator().manual_seed(
            derive("structure", config.arm, config.point, replica)
        )
        mask = random_structure(mask, config.arm.removeprefix("restructured-"), generator)
    model = models.build(architecture, seed)
    return narrow(model, mask) if config.arm == "narrow" else (flat(model), mask)


def narrow(model: nn.Module, mask: Mask) -> tuple[Tensor, Mask]:
    """A dense network of the widths that live under the mask of a chain: initial values (P,), those
    of `model` as large as its fewer inputs want them, and the mask that keeps every parameter
    between live units and all inputs."""
    wiring = wire(model)
    assert wiring is not None
    live, full = live_units(wiring, dict(mask.items()), unread=False)
    live[0] = torch.arange(full[0])
    values, kept = flat(model), torch.zeros_like(mask.flat)
    parts = dict(mask.split(kept)), dict(mask.split(values))
    for link in wiring.links:
        rows, columns = live[link.target], live[link.source]
        weight, bias = (parts[0][f"{link.layer}.{leaf}"] for leaf in ("weight", "bias"))
        weight.view(len(weight), full[link.source], -1)[rows[:, None], columns] = True
        bias[rows] = True
        for leaf in ("weight", "bias"):
            parts[1][f"{link.layer}.{leaf}"].mul_((full[link.source] / len(columns)) ** 0.5)
    return values, mask.with_flat(kept)


@dataclass
class _Record:
    """What is kept of a configuration's replicas that are trained."""

    config: Retraining
    mask: Mask
    weights: Tensor | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    # Weights and mask of the best replica, and the survivors of all (R, kept), where they are kept.
    champion: dict[str, Tensor] = field(default_factory=dict)
    survivors: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.survivors = torch.zeros(0, self.mask.kept)

    def add(self, row: dict[str, Any], trial: Trial) -> None:
        """A replica at its best epoch."""
        best = trial.best_score.error, trial.best_score.loss
        if all(best < (r["validation_error"], r["validation_loss"]) for r in self.rows):
            self.champion = {"weights": trial.weights, "mask": trial.mask.flat}
        if self.config.arm in UNDER_ITS_MASK and self.mask.sparsity >= KEPT_ABOVE:
            self.survivors = torch.cat([self.survivors, trial.weights[None, self.mask.flat]])
        self.rows.append(row)
        self.history += trial.history

    def saved(self) -> Saved:
        champion = {f"champion.{n}": t for n, t in self.champion.items()}
        rows = {"rows": self.rows, "history": self.history}
        return champion | {"survivors": self.survivors}, rows

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.rows, self.history = state["rows"], state["history"]
        self.champion, self.survivors = under("champion.", tensors), tensors["survivors"]

    @property
    def result(self) -> RetrainingResult:
        tables = pd.DataFrame(self.rows), pd.DataFrame(self.history)
        best = self.champion["weights"], self.champion["mask"]
        return RetrainingResult(*tables, *best, self.survivors)


def retrain_replicas(
    configs: Sequence[Retraining],
    data: Data,
    masks: Sequence[Mask],
    checkpoint: Checkpoint | None = None,
    weights: Sequence[Tensor | None] | None = None,
) -> list[RetrainingResult]:
    """Retrain the replicas of all configurations, of one architecture, batch size and number of
    epochs: on a GPU side by side, on a CPU one after another. `masks` are those of their points,
    `weights` (P,) those of the gradual network there, where the arm needs them."""
    checkpoint = checkpoint or Checkpoint()
    weights = weights or [None] * len(configs)
    for name in ("batch_size", "epochs", "precision"):
        if len(values := {getattr(c, name) for c in configs}) > 1:
            raise PsplibError(f"Retrainings side by side need one {name}; got {values}.")
    records = [_Record(*parts) for parts in zip(configs, masks, weights, strict=True)]
    replicas = [(record, number) for record in records for number in record.config.replicas]
    groups = [replicas] if stacks(data.train.x.device) else [[one] for one in replicas]
    saved = checkpoint.load()
    if saved:
        tensors, state = saved
        for k, (record, own) in enumerate(zip(records, state["records"], strict=True)):
            record.load(under(f"record {k}/", tensors), own)
    done = sum(len(record.rows) for record in records)
    for position, group in enumerate(groups[done:], done):
        trials = _start(group, data)
        config = group[0][0].config
        note = f"{config.arm}, point {config.point}, replica {position + 1} of {len(groups)}"
        if len(group) > 1:
            note = f"{len(group)} networks"
        progress = by_epochs(trials, position, len(groups), note)
        fit(trials, checkpoint, progress, saved, _saved(records))
        saved = None
        for (record, _), trial, row in zip(group, trials, finish(trials), strict=True):
            record.add(row, trial)
    return [record.result for record in records]


def _saved(records: Sequence[_Record]) -> Saved:
    parts = [record.saved() for record in records]
    tensors = {f"record {k}/{n}": t for k, (own, _) in enumerate(parts) for n, t in own.items()}
    return tensors, {"records": [state for _, state in parts]}


def _start(group: Sequence[tuple[_Record, int]], data: Data) -> list[Trial]:
    """Trials of replicas, each a record and a number."""
    starts = [initial(one.config, one.mask, replica, one.weights) for one, replica in group]
    first = group[0][0].config
    model = models.build(first.lobster.architecture, first.lobster.seed)
    masks = [mask for _, mask in starts]
    places = trainers(model, masks, data, first.batch_size, first.precision)
    trials = []
    for (record, replica), (weights, _), place in zip(group, starts, places, strict=True):
        trainer, number = place
        trainer.set_weights(number, weights)
        update, seed = record.config.update, derive("replica", replica)
        trials.append(Trial(*place, seed, update, first.epochs, {"replica": replica}))
    return trials
