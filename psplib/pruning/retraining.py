"""What is retrained from the mask of a gradual pruning run, without its regulariser.

`rewound`: the initial values of the pruned network (Frankle & Carbin, 2019; the paper's
"one-shot"). `reinitialised`: new initial values (Liu et al., 2019). `restructured-layer` and
`restructured-global`: new initial values and a random mask of the same count, layer by layer or
over the whole network. `dense`: nothing pruned, new initial values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from psplib.core.artefact import Artefact, Parents, Parts
from psplib.core.config import setting
from psplib.core.errors import PsplibError, one_of, whole_number
from psplib.core.seeds import derive
from psplib.nn import models
from psplib.nn.data import Data
from psplib.nn.masks import Mask, pack, random_structure, unpack
from psplib.pruning.lobster import KEPT_ABOVE, Lobster
from psplib.pruning.program import TOGETHER, Program
from psplib.training.precision import PRECISIONS
from psplib.training.replicas import Replica, Replicas
from psplib.training.trainer import Checkpoint, Learner, Score, Sgd, flat, samples, under

ARMS = (
    "dense",
    "rewound",
    "reinitialised",
    "restructured-layer",
    "restructured-global",
)


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
    precision: str = setting("ours", "as in the LOBSTER run", default="float32", added=True)

    def __post_init__(self) -> None:
        one_of("arm", self.arm, ARMS)
        one_of("precision", self.precision, PRECISIONS)
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

    @property
    def parents(self) -> tuple[Lobster, ...]:
        """The gradual run whose mask it has; the dense arm has none."""
        return (self.lobster,) if self.point else ()

    @property
    def title(self) -> str:
        """What it is, in a table's words."""
        source = f"{self.arm} from seed {self.lobster.seed}, point {self.point}"
        return f"{source}, × {len(self.replicas)}"

    @property
    def cost(self) -> float:
        """Seconds of one core, about."""
        return len(self.replicas) * self.epochs * self.lobster.epoch_cost(self.point < 4)

    @property
    def program(self) -> Program:
        """Arms and points of one panel can be made together: they have one number of epochs."""
        shared = (self.batch_size, self.epochs, self.precision)
        recipe = ("retraining", *self.lobster.inputs, *shared)
        most = TOGETHER[self.lobster.architecture]
        return Program(recipe, len(self.replicas), most, _make_together)

    def load(self, device: torch.device) -> Data:
        """The images of the gradual run."""
        return self.lobster.load(device)

    def make(self, data: Data, parents: Parents, checkpoint: Checkpoint) -> Parts:
        """The replicas' table and history, the best one's mask and weights, and all `survivors`."""
        if data.train.x.device.type == "cpu" and self.precision == "float32":
            mask = self.lobster.mask(self.point, parents)
            return _parts(run(self, data, mask, checkpoint))
        return _make_together([self], data, parents, checkpoint)[0]

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that the replicas and their numbers of survivors are those that were asked for."""
        replicas = artefact.table("replicas")
        found = replicas["replica"].tolist()
        artefact.insist(found == list(self.replicas), "the table of replicas")
        is_within = bool(replicas["best_epoch"].between(1, self.epochs).all())
        artefact.insist(is_within, "the best epoch")
        best = artefact.tensors("best")
        survivors = len(best["weights"])
        is_same = bool((replicas["kept"] == survivors).all())
        artefact.insist(is_same, "the number of survivors")
        bits = unpack(best["packed"], 8 * len(best["packed"]))
        artefact.insist(int(bits.sum()) == survivors, "the best replica's mask")
        if self.lobster in parents and self.point:
            kept = parents[self.lobster].table("points").set_index("point")["kept"]
            artefact.insist(kept.get(self.point) == survivors, "the number of survivors")

    def tables(self, artefact: Artefact) -> dict[str, pd.DataFrame]:
        """`networks`: a row per replica, with `arm`, `lobster_seed` and `point`."""
        labels = {"arm": self.arm, "lobster_seed": self.lobster.seed, "point": self.point}
        return {"networks": artefact.table("replicas").assign(**labels)}


def _make_together(
    configs: Sequence[Retraining], data: Data, parents: Parents, checkpoint: Checkpoint
) -> list[Parts]:
    masks = [config.lobster.mask(config.point, parents) for config in configs]
    return [_parts(result) for result in run_together(configs, data, masks, checkpoint)]


def _parts(result: Result) -> Parts:
    return {
        "replicas": result.replicas,
        "history": result.history,
        "best": {"packed": pack(result.mask), "weights": result.weights[result.mask]},
        **({"survivors": {"weights": result.survivors}} if len(result.survivors) else {}),
    }


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
    seed = config.lobster.seed if rewinds else derive("replica", replica)
    if config.arm.startswith("restructured"):
        generator = torch.Generator().manual_seed(
            derive("structure", config.arm, config.point, replica)
        )
        mask = random_structure(mask, config.arm.removeprefix("restructured-"), generator)
    return flat(models.build(architecture, seed)), mask


class Trial:
    """A network trained epoch by epoch, alone or as one of several, its best state kept: lowest
    validation error, of equal ones lowest validation loss. `seed` draws the order of the samples.
    """

    def __init__(self, learner: Learner | Replica, data: Data, seed: int) -> None:
        self.learner, self.data, self.seed = learner, data, seed
        self.state = learner.state()
        self.error, self.loss, self.best_epoch = inf, inf, 0
        self.epoch = 0

    def samples(self) -> tuple[Tensor, Tensor | None]:
        """The order of the next epoch (N,), and its crops (N, 3) if the data are augmented."""
        self.epoch += 1
        return samples(self.data, self.seed, self.epoch)

    def observe(self, score: Score) -> dict[str, Any]:
        """Take notice of an epoch's score on the validation set; a row of it."""
        if (score.error, score.loss) < (self.error, self.loss):
            self.state = self.learner.state()
            self.error, self.loss, self.best_epoch = score.error, score.loss, self.epoch
        return {
            "epoch": self.epoch,
            "validation_loss": score.loss,
            "validation_error": score.error,
        }

    def train(self, update: Sgd) -> dict[str, Any]:
        """One epoch of a network that is alone; its number and its scores on the validation set."""
        assert isinstance(self.learner, Learner)
        rows, cuts = self.samples()
        self.learner.epoch(rows, update, cuts)
        return self.observe(self.learner.score("validation"))

    def finish(self) -> dict[str, Any]:
        """Return to the best epoch; what there is to say of it, and the test of the last epoch."""
        last = self.learner.score("test")
        self.settle()
        return self.describe(last, self.learner.score("test"))

    def settle(self) -> None:
        """Return to the best epoch."""
        self.learner.load(self.state)

    def describe(self, last: Score, best: Score) -> dict[str, Any]:
        """What there is to say of the best epoch, by the tests of the last one and of itself."""
        mask = self.learner.mask
        return {
            "best_epoch": self.best_epoch,
            "kept": mask.kept,
            "sparsity": mask.sparsity,
            "weight_sparsity": mask.weight_sparsity,
            "validation_loss": self.loss,
            "validation_error": self.error,
            "test_loss": best.loss,
            "test_error": best.error,
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
        self.learner.load(under("now.", tensors))
        self.state = under("best.", tensors)
        self.epoch, (self.error, self.loss, self.best_epoch) = epoch, best


class _Record:
    """What is kept of a configuration's replicas."""

    def __init__(self, config: Retraining, mask: Mask) -> None:
        self.config, self.mask = config, mask
        self.rows: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.champion: dict[str, Tensor] = {}
        self.survivors: list[Tensor] = []

    def add(self, row: dict[str, Any], trial: Trial) -> None:
        """A replica that is trained, at its best epoch."""
        if all(
            (trial.error, trial.loss) < (r["validation_error"], r["validation_loss"])
            for r in self.rows
        ):
            mask = trial.learner.mask
            self.champion = {"weights": trial.learner.weights.cpu(), "mask": mask.flat}
        if self.config.arm in ("rewound", "reinitialised") and self.mask.sparsity >= KEPT_ABOVE:
            self.survivors.append(trial.learner.weights.cpu()[self.mask.flat])
        self.rows.append(row)

    @property
    def stack(self) -> Tensor:
        """The surviving weights of every replica (R, kept), where they are kept."""
        kept = self.mask.kept
        return torch.stack(self.survivors) if self.survivors else torch.zeros(0, kept)

    @property
    def result(self) -> Result:
        return Result(
            pd.DataFrame(self.rows),
            pd.DataFrame(self.history),
            self.champion["weights"],
            self.champion["mask"],
            self.stack,
        )


def run(config: Retraining, data: Data, mask: Mask, checkpoint: Checkpoint | None = None) -> Result:
    """Retrain every replica of the configuration from the mask of its point, one after another."""
    checkpoint = checkpoint or Checkpoint()
    model = models.build(config.lobster.architecture, config.lobster.seed)
    record = _Record(config, mask)
    resumed: tuple[dict[str, Tensor], Any] | None = checkpoint.load()
    if resumed:
        tensors, state = resumed
        record.rows, record.history = state["rows"], state["history"]
        record.champion = under("champion.", tensors)
        record.survivors = list(tensors["survivors"])

    for position, replica in enumerate(config.replicas):
        if position < len(record.rows):
            continue
        weights, own_mask = initial(config, mask, replica)
        learner = Learner(model, own_mask, data, config.batch_size, config.precision)
        learner.weights = weights.to(data.train.x.device)
        trial = Trial(learner, data, derive("replica", replica))
        if resumed and resumed[1]["replica"] == replica:
            tensors, state = resumed
            trial.load(tensors, state["epoch"], state["best"])
        while trial.epoch < config.epochs:
            row = trial.train(config.update(trial.epoch + 1))
            record.history.append({"replica": replica} | row)
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
                        **{f"champion.{n}": t for n, t in record.champion.items()},
                        "survivors": record.stack,
                    },
                    {
                        "rows": record.rows,
                        "history": record.history,
                        "replica": replica,
                        "epoch": trial.epoch,
                        "best": [trial.error, trial.loss, trial.best_epoch],
                    },
                )
        record.add({"replica": replica} | trial.finish(), trial)
    return record.result


def run_together(
    configs: Sequence[Retraining],
    data: Data,
    masks: Sequence[Mask],
    checkpoint: Checkpoint | None = None,
) -> list[Result]:
    """Retrain the replicas of all configurations side by side in one program: of one architecture,
    batch size and number of epochs. `masks` are those of their points."""
    checkpoint = checkpoint or Checkpoint()
    for name in ("batch_size", "epochs", "precision"):
        if len(values := {getattr(c, name) for c in configs}) > 1:
            raise PsplibError(f"Retrainings side by side need one {name}; got {values}.")
    records = [_Record(config, mask) for config, mask in zip(configs, masks, strict=True)]
    members = [(record, replica) for record in records for replica in record.config.replicas]
    starts = [initial(record.config, record.mask, replica) for record, replica in members]
    first = configs[0]
    model = models.build(first.lobster.architecture, first.lobster.seed)
    own = [mask for _, mask in starts]
    team = Replicas(model, own, data, first.batch_size, first.precision)
    team.weights = torch.stack([weights for weights, _ in starts])
    trials = [
        Trial(team[i], data, derive("replica", replica)) for i, (_, replica) in enumerate(members)
    ]
    history: list[list[dict[str, Any]]] = [[] for _ in members]
    if saved := checkpoint.load():
        tensors, state = saved
        history, team.algorithms = state["history"], state["algorithms"]
        for i, trial in enumerate(trials):
            trial.load(under(f"{i}/", tensors), state["epoch"], state["best"][i])
    for epoch in range(trials[0].epoch + 1, first.epochs + 1):
        rows, cuts = zip(*(trial.samples() for trial in trials), strict=True)
        updates = [record.config.update(epoch) for record, _ in members]
        team.epoch(rows, updates, None if cuts[0] is None else cuts)
        for i, score in enumerate(team.scores("validation")):
            history[i].append({"replica": members[i][1]} | trials[i].observe(score))
        checkpoint.report(epoch, first.epochs, f"{len(members)} networks, epoch {epoch}")
        if checkpoint.due and epoch < first.epochs:
            checkpoint.save(
                {f"{i}/{n}": t for i, one in enumerate(trials) for n, t in one.tensors().items()},
                {
                    "algorithms": team.algorithms,
                    "history": history,
                    "epoch": epoch,
                    "best": [[one.error, one.loss, one.best_epoch] for one in trials],
                },
            )
    last = team.scores("test")
    for trial in trials:
        trial.settle()
    for i, score in enumerate(team.scores("test")):
        record, replica = members[i]
        record.history += history[i]
        record.add({"replica": replica} | trials[i].describe(last[i], score), trials[i])
    return [record.result for record in records]
