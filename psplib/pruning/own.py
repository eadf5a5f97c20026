"""LOBSTER, and retraining under a mask, of a network that is not ours.

Both train the network itself, in its own memory, and give it back as it was; what they found is put
into it by `Pruned.apply_`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from psplib.core.errors import PsplibError, whole_number
from psplib.core.seeds import derive
from psplib.nn.compact import check_belongs
from psplib.nn.faithful import Own, as_it_was
from psplib.nn.masks import Mask
from psplib.nn.minibatches import Minibatches
from psplib.pruning.lobster import GradualRun
from psplib.training.fit import Checkpoint, Report, Trial, by_epochs, fit, under
from psplib.training.plain import Loss, PlainTrainer, trained
from psplib.training.update import LobsterStep, Sgd


@dataclass(frozen=True, eq=False)
class Pruned:
    """What training found: for each row of `points` the mask, and the values of the parameters that
    were trained and of the buffers, by name.

    `points` has the columns point, epoch, best_epoch, kept, sparsity (of the parameters that were
    trained), validation_loss, validation_error (NaN where answers are no classes), threshold;
    `history` has a row per epoch. `called` names the modules that the network calls.
    """

    points: pd.DataFrame
    history: pd.DataFrame
    masks: tuple[Mask, ...]
    states: tuple[dict[str, Tensor], ...]
    called: frozenset[str]

    def apply_(self, model: nn.Module, point: int = -1, *, reparametrise: bool = False) -> None:
        """Put weights and buffers of a point into a network; by default those of the last.

        With `reparametrise`, pruned parameters become `<name>_orig` and `<name>_mask` as
        `torch.nn.utils.prune` has them, so that any optimiser keeps the mask. `PsplibError`, and an
        unchanged network, where they do not fit.
        """
        if not -len(self.states) <= point < len(self.states):
            raise PsplibError(f"There are {len(self.states)} points; {point} was asked for.")
        mask, state = self.masks[point], self.states[point]
        check_belongs(mask, model)
        there = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, value in state.items():
            if name not in there or there[name].shape != value.shape:
                raise PsplibError(f"The network has no {name} of shape {tuple(value.shape)}.")
        pruned = [(name, part) for name, part in mask.items() if not part.all()]
        places = [self._place(model, name) for name, _ in pruned] if reparametrise else []
        with torch.no_grad():
            for name, value in state.items():
                there[name].copy_(value)
        for (module, leaf), (_, part) in zip(places, pruned, strict=False):
            torch_prune.custom_from_mask(module, leaf, part)

    def _place(self, model: nn.Module, name: str) -> tuple[nn.Module, str]:
        """The module of a parameter, and the name that `torch.nn.utils.prune` knows it by."""
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        why = ""
        if again := [n for n, p in parameters.items() if p is parameters[name] and n != name]:
            why = f"is the same as {again[0]}"
        elif isinstance(module, nn.RNNBase):
            why = "belongs to a recurrent layer"
        elif owner not in self.called:
            why = f"is of a {type(module).__name__}, which is never called"
        if why:
            raise PsplibError(f"{name} {why}: torch.nn.utils.prune cannot mask it.")
        inner = leaf.removesuffix("_orig")
        return module, inner if hasattr(module, f"{inner}_mask") else leaf


def prune(
    model: nn.Module,
    train: Minibatches,
    validation: Minibatches,
    *,
    loss: Loss = F.cross_entropy,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    shrinkage: float = 1e-4,
    sensitivity: bool = True,
    tolerance: float = 0.05,
    patience: int = 5,
    target_sparsity: float = 0.985,
    max_epochs: int = 2000,
    batch_size: int = 100,
    batch_axis: int = 0,
    seed: int = 0,
    report: Report | None = None,
) -> Pruned:
    """Prune a network gradually, by LOBSTER, from the values that it has.

    It is trained by SGD that shrinks what the loss is insensitive to (`shrinkage`: lambda); after
    `patience` (PWE) epochs without improvement the largest threshold is taken that makes the
    validation loss worse by at most the share `tolerance` (TWT), until `target_sparsity` or
    `max_epochs`. A point is the network at a plateau, before its pruning.

    Parameters that require no gradient are left alone. `train` and `validation` are a `Split`, a
    data set, a loader or any iterable of minibatches (x, y): `train` is gone through once an epoch,
    so that a loader may augment it; `validation` is read once. `loss` takes outputs and labels and
    gives the mean over the samples, which lie along `batch_axis`. `seed` draws the order and what
    the network draws, such as dropout. `report` is told (done, whole, note) after every epoch.

    The model and torch's random state are as before; see `Pruned.apply_`. Raises `PsplibError` for
    bad settings, data or networks, and where training diverges. Warns where the first pruning, of a
    network that has not learnt yet, takes nearly everything.
    """
    _check_numbers(
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        shrinkage=shrinkage,
        tolerance=tolerance,
        target_sparsity=target_sparsity,
    )
    whole_number("patience", patience)
    whole_number("max_epochs", max_epochs, 1)
    Own(model)  # refuses what cannot be looked into
    update = LobsterStep(learning_rate, shrinkage, sensitivity, momentum, weight_decay)
    everything = Mask.dense(model)
    way = {"batch_size": batch_size, "loss": loss, "batch_axis": batch_axis}
    with _training(model, everything, train, validation, seed, **way) as (trainer, where):
        ends = {"tolerance": tolerance, "patience": patience, "target": target_sparsity}
        run = _Run(trainer, 0, seed, update, max_epochs, **ends)
        fit([run], Checkpoint(report=report or (lambda *_: None)), lambda: run.progress)
        return _pruned(trainer, run.points, run.history, run.kept, everything, where)


def retrain(
    model: nn.Module,
    mask: Mask,
    train: Minibatches,
    validation: Minibatches,
    *,
    loss: Loss = F.cross_entropy,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    epochs: int = 40,
    batch_size: int = 100,
    batch_axis: int = 0,
    seed: int = 0,
    report: Report | None = None,
) -> Pruned:
    """Train a network under a mask by SGD, from the values that it has: rewound, if these are its
    initial ones. The mask holds after every step.

    The one point of the result is the best epoch: lowest validation error, of equal ones lowest
    validation loss. All else is as in `prune`.
    """
    _check_numbers(learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
    whole_number("epochs", epochs, 1)
    Own(model)  # refuses what cannot be looked into
    check_belongs(mask, model)
    for (name, own), p in zip(mask.items(), model.parameters(), strict=True):
        if not p.requires_grad and bool(p.detach()[~own.to(p.device)].any()):
            raise PsplibError(f"{name} is frozen, and not zero where the mask prunes it.")
    update = Sgd(learning_rate, momentum, weight_decay)
    way = {"batch_size": batch_size, "loss": loss, "batch_axis": batch_axis}
    with _training(model, mask, train, validation, seed, **way) as (trainer, where):
        trial = Trial(trainer, 0, seed, lambda epoch: update, epochs)
        progress = by_epochs([trial], 0, 1, "retraining")
        fit([trial], Checkpoint(report=report or (lambda *_: None)), progress)
        trial.settle()
        point = {
            "point": 0,
            "epoch": trial.epoch,
            "best_epoch": trial.best_epoch,
            "kept": trial.mask.kept,
            "sparsity": trial.mask.sparsity,
            "validation_loss": trial.best_score.loss,
            "validation_error": trial.best_score.error,
        }
        kept = [(trial.mask, trainer.state(0))]
        return _pruned(trainer, [point], trial.history, kept, mask, where)


class _Run(GradualRun):
    """A gradual run whose points are kept, buffers and all."""

    def __init__(self, trainer: PlainTrainer, *rest: Any, **settings: Any) -> None:
        super().__init__(trainer, *rest, **settings)
        self.kept: list[tuple[Mask, dict[str, Tensor]]] = []

    def record(self) -> dict[str, Any]:
        self.kept.append((self.mask, self.trainer.state(0)))
        return super().record()

    def prune(self) -> float:
        before, threshold = self.mask.kept, super().prune()
        if len(self.points) == 1 and self.mask.kept <= before / 10:
            nothing = torch.zeros_like(self.trainer.weights)
            (blank,) = self.trainer.losses(0, nothing, "validation")
            loss = self.points[0]["validation_loss"]
            if blank - loss <= abs(blank) / 10:
                warnings.warn(
                    f"The first pruning, after epoch {self.epoch}, took "
                    f"{1 - self.mask.kept / before:.1%} of the parameters: the validation loss, "
                    f"{loss:.3g}, was hardly below that of a network without weights, "
                    f"{blank:.3g}. Let it learn before it is pruned: another learning rate, or "
                    "more patience.",
                    stacklevel=2,
                )
        return threshold


# What must lie below something; all numbers are at least 0.
_BELOW = {"momentum": 1.0, "shrinkage": 1.0, "target_sparsity": 1.0}


def _check_numbers(**settings: Any) -> None:
    for name, value in settings.items():
        below = _BELOW.get(name)
        is_number = isinstance(value, float | int) and not isinstance(value, bool)
        if not is_number or not 0 <= value < (below or float("inf")):
            bounds = f"from 0 to below {below:g}" if below else "of at least 0"
            raise PsplibError(f"{name} must be a number {bounds}; got {value!r}.")


@contextmanager
def _training(
    model: nn.Module,
    mask: Mask,
    train: Minibatches,
    validation: Minibatches,
    seed: int,
    **settings: Any,
) -> Iterator[tuple[PlainTrainer, Tensor]]:
    """A trainer of the parameters that are trained, and which of all (P,) these are. The model is
    as it was afterwards; what it and the loaders draw is drawn by `seed`."""
    whole_number("seed", seed)
    number = derive("own", seed)
    with torch.inference_mode(False), torch.enable_grad(), as_it_was(model):
        torch.default_generator.manual_seed(number)
        for device in {p.device for p in model.parameters() if p.device.type == "cuda"}:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        part, where = _of_trained(mask, model)
        yield PlainTrainer(model, part, train, validation, **settings), where


def _of_trained(mask: Mask, model: nn.Module) -> tuple[Mask, Tensor]:
    """The part of a mask for the parameters that are trained, and which of all (P,) these are."""
    names = trained(model)
    parts = [torch.full_like(part, name in names).flatten() for name, part in mask.items()]
    where = torch.cat(parts)
    shapes = tuple((name, shape) for name, shape in mask.shapes if name in names)
    return Mask(mask.flat[where], shapes), where


def _pruned(
    trainer: PlainTrainer,
    points: list[dict[str, Any]],
    history: list[dict[str, Any]],
    kept: list[tuple[Mask, dict[str, Tensor]]],
    whole: Mask,
    where: Tensor,
) -> Pruned:
    masks, states = [], []
    for mask, state in kept:
        masks.append(whole.with_flat(whole.flat.masked_scatter(where, mask.flat)))
        buffers = {name: value.cpu() for name, value in under("buffer.", state).items()}
        states.append({n: v.clone() for n, v in mask.split(state["weights"].cpu())} | buffers)
    tables, called = (pd.DataFrame(points), pd.DataFrame(history)), frozenset(trainer.called)
    return Pruned(*tables, tuple(masks), tuple(states), called)
