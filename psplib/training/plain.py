"""The engine of a network that is not ours: as its author wrote it, with any loss and any data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import nan
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.core.errors import PsplibError, whole_number
from psplib.nn.compact import Compact
from psplib.nn.data import Data, Split
from psplib.nn.faithful import Own, as_it_was, loss_of, no_gradient
from psplib.nn.masks import Mask
from psplib.nn.minibatches import (
    Minibatches,
    as_split,
    check_labels,
    check_pair,
    has_numbers,
    loaded,
    minibatches,
)
from psplib.training.trainer import Score, Trainer, flat, flatten_
from psplib.training.update import Update

# Takes what a network puts out and the labels; gives the mean over the samples of a minibatch.
Loss = Callable[[Tensor, Tensor], Tensor]


class PlainTrainer(Trainer):
    """A network trained in place, without any rewriting: the mask is applied after every step.

    Its coordinates are the parameters that require a gradient; the others are left alone. To be
    used inside `as_it_was`, which gives the network its own memory, modes and buffers back.

    `train` and `validation` are `Minibatches`: from a `Split` or a data set, `batch_size` samples
    at a time in an order drawn for each epoch; any other iterable is gone through once an epoch, as
    it comes. What is validated on is read once and kept. `called` names the modules that compute;
    the parameters of others are read by somebody else.
    """

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        train: Minibatches,
        validation: Minibatches,
        *,
        batch_size: int = 100,
        loss: Loss = F.cross_entropy,
        batch_axis: int = 0,
    ) -> None:
        whole_number("batch_size", batch_size, 1)
        self.own, self.loss, self.axis = Own(model), loss, batch_axis
        self.source = as_split(train)
        if isinstance(self.source, Iterator):
            raise PsplibError(
                "Training goes through its data once an epoch, and a generator can be gone through "
                "once only: give a loader, a list or a data set."
            )
        if isinstance(self.source, Split):
            check_pair(self.source.x, self.source.y, batch_axis)
        where = self.own.device
        self._validation = [
            (x.to(where), y.to(where)) for x, y in minibatches(validation, batch_size, batch_axis)
        ]
        if not self._validation:
            raise PsplibError("The validation data have no samples.")
        # What a pass adds, a cache, is not what is trained.
        self._names = [name for name, _ in model.named_buffers()]
        self.called: set[str] = set()
        with torch.no_grad(), self.own.at(flat(model)):
            for name, module in model.named_modules():
                module.register_forward_hook(lambda *_, name=name: self.called.add(name))
            first = self._validation[0][0]
            self.own.check_samples(first, batch_axis)
            self.own.check_minibatch(self.own(first), first, batch_axis)
        # An order is of the samples' numbers; what comes as it comes has none.
        source: Any = self.source
        is_numbered = isinstance(source, Split) or has_numbers(source)
        numbers = torch.arange(len(source) if is_numbered else 0, device=where)
        splits = [Split(numbers, numbers)] * 3
        super().__init__(model, [mask], Data("own", "", "", (), (), *splits), batch_size)

    def _build(self) -> None:
        self.model = self.full
        self._parameters = trained(self.full)
        weights, slopes = flatten_(self._parameters.values())
        self._weights, self._gradient = weights[None], slopes[None]
        everything = torch.arange(len(weights))
        self.compact = Compact(self.full, everything, len(everything), None, (), {})

    def _initial(self) -> Tensor:
        return self._weights.clone()

    def _buffers(self) -> dict[str, Tensor]:
        there = dict(self.full.named_buffers())
        return {name: there[name][None] for name in self._names}

    def _pass(
        self, orders: Sequence[Tensor], update: Update, crops: Sequence[Tensor] | None
    ) -> None:
        mask, steps = self._within.to(self._weights), 0
        for x, y in self._drawn(orders[0]):
            self._gradient.zero_()
            self._differentiate(x.to(self.device), y.to(self.device))
            update.step(self._weights, self._gradient, self._velocity)
            self._weights.mul_(mask)
            steps += 1
        if not steps:
            raise PsplibError("The training data have no samples in this epoch.")

    def _drawn(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        source: Any = self.source
        if isinstance(source, Split):
            for rows in order.to(source.y.device).split(self.batch_size) if len(order) else ():
                yield source.x.index_select(self.axis, rows), source.y.index_select(0, rows)
            return
        if has_numbers(source):
            source = loaded(source, self.batch_size, order.tolist())
        yield from minibatches(source, self.batch_size, self.axis)

    def _differentiate(self, x: Tensor, y: Tensor) -> None:
        loss = self._mean_loss(self.own(x), y)
        try:
            loss.backward()
        except RuntimeError as error:
            raise no_gradient(self.full, error) from error
        start = 0
        for name, p in self._parameters.items():
            for found, whole in ((p, self._weights), (p.grad, self._gradient)):
                if p.numel() and (found is None or found.data_ptr() != whole[0, start:].data_ptr()):
                    raise PsplibError(f"{name} has lost its gradient or its memory in a pass.")
            start += p.numel()

    def _mean_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        if self.loss is F.cross_entropy:
            if outputs.ndim != 2:
                raise PsplibError(
                    f"Cross-entropy is of logits (B, C); {type(self.full).__name__} puts out "
                    f"{tuple(outputs.shape)}: give a loss of your own."
                )
            check_labels(y, outputs.shape[1])
        return loss_of(self.loss, outputs, y)

    def scores(self, split: str) -> list[Score]:
        """Of the validation data, whatever the `split`; the error is the share of wrong answers, or
        NaN where answers are not classes."""
        total, wrong, samples = 0.0, 0.0, 0
        with as_it_was(self.full), torch.no_grad():
            self.full.eval()
            parts = [(self.own(x), y) for x, y in self._validation]
        if all(outputs.ndim == 2 for outputs, _ in parts):
            # A loss that weighs the classes, say, is no mean of those of minibatches.
            parts = [tuple(map(torch.cat, zip(*parts, strict=True)))]  # type: ignore[list-item]
        for outputs, y in parts:
            if self.loss is F.cross_entropy:  # half precision is too rough for sums
                outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
            total += float(self._mean_loss(outputs, y)) * len(y)
            samples += len(y)
            wrong += int((outputs.argmax(1) != y).sum()) if _are_classes(y, outputs) else nan
        return [Score(total / samples, wrong / samples)]


def _are_classes(y: Tensor, outputs: Tensor) -> bool:
    if outputs.ndim != 2 or outputs.shape[1] < 2 or y.ndim != 1 or y.is_floating_point():
        return False
    return int(y.min()) >= 0 and int(y.max()) < outputs.shape[1]


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient; `PsplibError` unless they are finite, and share type
    and device."""
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise PsplibError(f"{type(model).__name__} has no parameter that requires a gradient.")
    if lost := [name for name, p in found.items() if not bool(p.isfinite().all())]:
        raise PsplibError(f"{lost[0]} is not finite: there is nothing to train from.")
    kinds = {f"{p.dtype} on {p.device}".removeprefix("torch.") for p in found.values()}
    if len(kinds) > 1:
        raise PsplibError(
            f"The parameters that are trained must be of one type on one device; those of "
            f"{type(model).__name__} are {', '.join(sorted(kinds))}."
        )
    return found
