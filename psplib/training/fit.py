"""The epoch loop: train, score, keep the best state, report, save, resume.

Randomness is stateless: the order of epoch e is drawn from (seed, e), so that a run resumed at
any epoch sees the minibatches that it would have seen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, isnan
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from psplib.core import files
from psplib.core.errors import PsplibError
from psplib.core.schema import COUNT, SHARE, SIZE
from psplib.core.seeds import derive
from psplib.nn.compact import compact
from psplib.nn.data import Data, draw_crops
from psplib.nn.masks import Mask
from psplib.training.gradient import Term
from psplib.training.trainer import Score, Trainer
from psplib.training.update import Update

# How much is done, of how much, and what is being done.
Progress = tuple[float, float, str]
Report = Callable[[float, float, str], None]
# What a checkpoint holds: tensors, and a state that JSON can write.
Saved = tuple[dict[str, Tensor], Any]
Item = TypeVar("Item")


def order(size: int, seed: int, epoch: int) -> Tensor:
    """A permutation of `size` samples for an epoch."""
    generator = torch.Generator().manual_seed(derive("order", seed, epoch))
    return torch.randperm(size, generator=generator)


def crops(data: Data, seed: int, epoch: int) -> Tensor | None:
    """How the samples of an epoch are cropped and flipped, (N, 3); None if they are not."""
    if not data.is_augmented:
        return None
    generator = torch.Generator().manual_seed(derive("crops", seed, epoch))
    return draw_crops(len(data.train), generator)


# The columns of a trial's history, and what `finish` says of it.
HISTORY = {"epoch": COUNT, "validation_loss": SIZE, "validation_error": SHARE}
SCORES = {
    "best_epoch": COUNT,
    "kept": COUNT,
    "sparsity": SHARE,
    "weight_sparsity": SHARE,
    "validation_loss": SIZE,
    "validation_error": SHARE,
    "test_loss": SIZE,
    "test_error": SHARE,
    "last_test_loss": SIZE,
    "last_test_error": SHARE,
}


class Trial:
    """Network `number` of a trainer, trained for some epochs, its best state on the validation set
    kept: lowest validation error, of equal ones lowest validation loss.

    `seed` draws the order of the samples; `update` gives the rule of an epoch, counted from 1;
    `labels` begin every row of `history`, which has one per epoch.
    """

    def __init__(
        self,
        trainer: Trainer,
        number: int,
        seed: int,
        update: Callable[[int], Update],
        epochs: int,
        labels: dict[str, Any] | None = None,
    ) -> None:
        self.trainer, self.number, self.seed = trainer, number, seed
        self.update, self.epochs, self.labels = update, epochs, labels or {}
        self.best, self.best_score = trainer.state(number), Score(inf, inf)
        self.epoch = self.best_epoch = 0
        self.history: list[dict[str, Any]] = []

    def term(self, epoch: int) -> Term | None:
        """A term beside the cross-entropy in an epoch, counted from 1."""
        return None

    @property
    def is_done(self) -> bool:
        """Whether there is no further epoch."""
        return self.epoch >= self.epochs

    @property
    def mask(self) -> Mask:
        """What survives."""
        return self.trainer.masks[self.number]

    @property
    def weights(self) -> Tensor:
        """A copy of the weights (P,) in full coordinates, on the CPU."""
        return self.trainer.state(self.number)["weights"].cpu()

    @property
    def units(self) -> str:
        """How many units of each layer live, or `all`."""
        counts = compact(self.trainer.full, self.mask).units
        return "-".join(map(str, counts)) or "all"

    def score(self, split: str) -> Score:
        """Loss and error on `train`, `validation` or `test`."""
        return self.trainer.scores(split)[self.number]

    def is_better(self, score: Score) -> bool:
        """Whether a score on the validation set is better than the best so far; where there is no
        error (NaN), the loss tells."""
        best = self.best_score
        if isnan(score.error):
            return score.loss < best.loss
        return (score.error, score.loss) < (best.error, best.loss)

    def observe(self, score: Score) -> None:
        """Count an epoch, whose score on the validation set this is; `PsplibError` if its loss is
        not finite."""
        if not isfinite(score.loss):
            raise PsplibError(f"The validation loss is {score.loss}: the training diverged.")
        self.epoch += 1
        if self.is_better(score):
            self.best, self.best_score = self.trainer.state(self.number), score
            self.best_epoch = self.epoch
        self.history.append(
            {
                **self.labels,
                "epoch": self.epoch,
                "validation_loss": score.loss,
                "validation_error": score.error,
            }
        )

    def settle(self) -> None:
        """Return to the best epoch."""
        self.trainer.load(self.number, self.best)

    def tensors(self) -> dict[str, Tensor]:
        """What `load` needs besides the `state`."""
        now = self.trainer.state(self.number)
        return {
            **{f"now.{n}": t for n, t in now.items()},
            **{f"best.{n}": t for n, t in self.best.items()},
        }

    def state(self) -> dict[str, Any]:
        """The numbers that `load` needs."""
        best = [self.best_score.error, self.best_score.loss, self.best_epoch]
        return {"epoch": self.epoch, "best": best, "history": self.history}

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Return to where `tensors` and `state` were taken."""
        self.load_tensors(tensors)
        error, loss, self.best_epoch = state["best"]
        self.best_score = Score(loss, error)
        self.epoch, self.history = state["epoch"], state["history"]

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Return to these weights, and to those of the best epoch."""
        self.trainer.load(self.number, under("now.", tensors))
        self.best = {n: t.to(self.trainer.device) for n, t in under("best.", tensors).items()}


def train_epoch(trials: Sequence[Trial]) -> None:
    """An epoch of every trial that is not done; networks of one trainer are trained together, and
    those that are done keep their weights."""
    for trainer in {id(t.trainer): t.trainer for t in trials}.values():
        own = [t for t in trials if t.trainer is trainer]
        if all(t.is_done for t in own):
            continue
        data, updates = trainer.data, [t.update(min(t.epoch + 1, t.epochs)) for t in own]
        cuts = [c for t in own if (c := crops(data, t.seed, t.epoch + 1)) is not None]
        trainer.term = own[0].term(own[0].epoch + 1)
        trainer.epoch(
            [order(len(data.train), t.seed, t.epoch + 1) for t in own],
            [u.frozen() if t.is_done else u for t, u in zip(own, updates, strict=True)],
            cuts or None,
        )
        scores = trainer.scores("validation")
        for t in own:
            if not t.is_done:
                t.observe(scores[t.number])


def by_epochs(trials: Sequence[Trial], done: int, total: int, note: str) -> Callable[[], Progress]:
    """Progress by epochs: `done` of the `total` groups of trials are trained, these come next."""
    epochs = trials[0].epochs
    return lambda: (done * epochs + trials[0].epoch, total * epochs, note)


def fit(
    trials: Sequence[Trial],
    checkpoint: Checkpoint,
    progress: Callable[[], Progress],
    saved: Saved | None = None,
    others: Saved | None = None,
) -> None:
    """Train until every trial is done, from where they were `saved`.

    After each epoch the checkpoint is told the `progress` and, when saving is due, keeps the trials
    and the `others`.
    """
    if saved:
        tensors, state = saved
        if "runs" not in state:
            raise PsplibError(
                f"{checkpoint.path} was begun by another version of psplib; move it away, and its "
                "run begins anew."
            )
        for i, one in enumerate(trials):
            one.load(under(f"{i}/", tensors), state["runs"][i])
    while not all(one.is_done for one in trials):
        train_epoch(trials)
        checkpoint.report(*progress())
        if checkpoint.due:
            tensors, state = others or ({}, {})
            own = {f"{i}/{n}": t for i, one in enumerate(trials) for n, t in one.tensors().items()}
            checkpoint.save(own | tensors, {"runs": [one.state() for one in trials]} | state)


def finish(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return to the best epoch of each; what there is to say of it, and the test of the last."""
    last = _tests(trials)
    for one in trials:
        one.settle()
    return [
        {
            **one.labels,
            "best_epoch": one.best_epoch,
            "kept": one.mask.kept,
            "sparsity": one.mask.sparsity,
            "weight_sparsity": one.mask.weight_sparsity,
            "validation_loss": one.best_score.loss,
            "validation_error": one.best_score.error,
            "test_loss": best.loss,
            "test_error": best.error,
            "last_test_loss": end.loss,
            "last_test_error": end.error,
        }
        for one, end, best in zip(trials, last, _tests(trials), strict=True)
    ]


def is_finished(rows: pd.DataFrame, history: pd.DataFrame, labels: list[str], epochs: int) -> bool:
    """Whether `history` has all epochs of each row, and the best is what the row says."""
    whole = rows[labels].merge(pd.DataFrame({"epoch": range(1, epochs + 1)}), how="cross")
    if not whole.equals(history[[*labels, "epoch"]]):
        return False
    rank = ["validation_error", "validation_loss"]
    best = history.sort_values(rank, kind="stable").drop_duplicates(labels).sort_index()
    said = rows[[*labels, "best_epoch", *rank]].to_numpy()
    return np.array_equal(best[[*labels, "epoch", *rank]].to_numpy(), said)


def _tests(trials: Sequence[Trial]) -> list[Score]:
    trainers = {id(t.trainer): t.trainer for t in trials}
    scores = {name: trainer.scores("test") for name, trainer in trainers.items()}
    return [scores[id(t.trainer)][t.number] for t in trials]


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, which goes."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


class OutOfTime(Exception):
    """The deadline came first; what was begun is saved."""


@dataclass
class Checkpoint:
    """Where a run keeps its state, and whom it tells of its progress.

    Without a folder nothing is kept. What is kept has one digest over tensors, state and the `keys`
    of the configurations that are made: the state of others, or with another bit, is refused.
    Saving is due once in `interval` seconds: what is lost by an interruption is recomputed to the
    same bits. From the `deadline` (seconds since the epoch) on it is due at once, and ends the run:
    `OutOfTime`. `elapsed` counts the seconds of every session that led to this state.
    """

    folder: Path | None = None
    report: Report = lambda done, total, note: None
    interval: float = 5.0
    deadline: float | None = None
    keys: tuple[str, ...] = ()
    _before: float = 0.0
    _started: float = field(default_factory=time.monotonic)
    _saved: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> Path | None:
        return self.folder / "checkpoint.safetensors" if self.folder else None

    @property
    def elapsed(self) -> float:
        return self._before + time.monotonic() - self._started

    def load(self) -> tuple[dict[str, Tensor], Any] | None:
        """The tensors and the state last saved, if any."""
        if self.path is None or not self.path.exists():
            return None
        tensors, header = files.read_tensors(self.path)
        text = header.get("state", "")
        if header.get("sha256") != files.digest(tensors, text, *self.keys):
            raise PsplibError(
                f"{self.path} is damaged, or of another configuration or version of psplib; move "
                "it away, and its run begins anew."
            )
        kept = json.loads(text)
        self._before = kept["elapsed"]
        return tensors, kept["state"]

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        is_old = time.monotonic() - self._saved >= self.interval
        return self.path is not None and (is_old or self._is_over)

    @property
    def _is_over(self) -> bool:
        return self.deadline is not None and time.time() >= self.deadline

    def each(
        self, todo: Sequence[Item], *made: list[Any], note: Callable[[Item], str]
    ) -> Iterator[Item]:
        """What of `todo` is still to be done, one after another: the loop appends a row for each to
        the first list `made`, and any number to the others; all go on from what was saved."""
        if saved := self.load():
            for rows, kept in zip(made, saved[1] if made[1:] else [saved[1]], strict=True):
                rows += kept
        for one in todo[len(made[0]) :]:
            yield one
            self.report(len(made[0]), len(todo), note(one))
            if self.due:
                self.save({}, made if made[1:] else made[0])

    def save(self, tensors: dict[str, Tensor], state: Any) -> None:
        """Keep this state in the place of the last one."""
        if self.path:
            text = json.dumps({"elapsed": self.elapsed, "state": state})
            digest = files.digest(tensors, text, *self.keys)
            files.write_tensors(self.path, tensors, state=text, sha256=digest)
            self._saved = time.monotonic()
        if self._is_over:
            raise OutOfTime
