"""The two engines: on a CPU a network in its own compact form, on a GPU many networks stacked in
one program."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.core.errors import PsplibError
from psplib.nn.batched import Linear, Unstackable, replicate
from psplib.nn.compact import compact, linear_layers, whole
from psplib.nn.data import Data, Split, crop
from psplib.nn.faithful import ROWS, Own, agrees, as_it_was, first_line
from psplib.nn.masks import Mask
from psplib.nn.wiring import wire
from psplib.training.cuda_graph import CapturedSteps
from psplib.training.gradient import LinearChain, gradient
from psplib.training.precision import of_activations
from psplib.training.trainer import (
    EVALUATION_BATCH,
    Score,
    Trainer,
    channels_last,
    evaluate,
    evaluate_each,
    flatten_,
    pool_first,
)
from psplib.training.update import Update, stack_updates

# Images an evaluation passes through all stacked networks at once, times their number.
STACKED_EVALUATION = 40_000


def stacks(device: torch.device) -> bool:
    """Whether networks are trained stacked: on a GPU. On a CPU networks in their own compact form,
    one a core, are faster than any number of them in one program."""
    return device.type == "cuda"


def trainers(
    model: nn.Module,
    masks: Sequence[Mask],
    data: Data,
    batch_size: int,
    precision: str = "float32",
    alone: bool = False,
) -> list[tuple[Trainer, int]]:
    """For each of the networks like `model` under `masks`, its trainer and its number there;
    `alone`, each has one of its own."""
    if stacks(data.train.x.device) and not alone:
        with suppress(Unstackable):
            team = StackedTrainer(model, masks, data, batch_size, precision)
            return [(team, number) for number in range(len(masks))]
    return [(CompactTrainer(model, [m], data, batch_size, precision), 0) for m in masks]


IN_PLACE = ": it can be trained in place only, by psplib.prune or psplib.retrain"


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # of any kind: what is copied is the user's
        raise PsplibError(
            f"{_named(model)} cannot be copied ({first_line(error)}){IN_PLACE}."
        ) from error


def _named(model: nn.Module) -> str:
    """Its class, and the modules with a `forward` put on them."""
    odd = [name or "itself" for name, m in model.named_modules() if "forward" in vars(m)]
    return type(model).__name__ + (f", with a forward put on {', '.join(odd)}," if odd else "")


class Rewritten(Trainer):
    """Networks that are trained in another form than their author's, which is checked: the form's
    outputs and gradient must be the network's own."""

    @abstractmethod
    def _learn(self, rows: Tensor) -> Tensor:
        """What every network puts out (R, B, C) for some samples (B,); leaves the gradient."""

    def _is_itself(self) -> bool:
        """Whether the form is the network: on the first samples, at weights that silence no unit,
        and in float64, where rounding opens no ReLU."""
        Own(self.full)  # refuses what cannot be looked into
        for name, p in self.full.named_parameters():
            if not p.requires_grad:
                raise PsplibError(f"{name} is frozen; psplib.prune and psplib.retrain leave it so.")
            if p._backward_hooks:
                raise PsplibError(f"The gradient of {name} is hooked{IN_PLACE}.")
        with as_it_was(self.full):  # its random numbers, too
            try:
                return self._agrees(torch.float64)
            except PsplibError:  # this network knows one type only
                return self._agrees(self._initial().dtype)

    def _agrees(self, dtype: torch.dtype) -> bool:
        x, y = self.data.train.x[: max(ROWS, self.batch_size)], self.data.train.y[:ROWS]
        x = x.to(dtype) if x.is_floating_point() else x
        few = Split(x[:ROWS], y)
        form, start = copy.copy(self), self._initial().to(dtype)
        form.full, form.precision = _copy(self.full).to(dtype), "float32"
        form.data = replace(self.data, train=few, validation=few, test=few)
        noise = torch.randn(len(start), generator=torch.Generator().manual_seed(0))
        weights, own = start + 0.1 * noise.to(start), Own(self.full)
        ends = sorted({0, len(self) - 1})
        masks = [self.masks[i].flat.to(start.device) for i in ends]
        expected = [own.learns(weights * mask, few.x, few.y) for mask in masks]
        with torch.no_grad(), own.at(weights * masks[0], dtype):
            own.check_samples(few.x)
            own.check_minibatch(own(x.to(own.device)), x)
        try:
            Trainer._begin(form)
            form.weights = weights
            form.model.train()
            outputs = form._learn(torch.arange(len(y), device=self.device))
        except PsplibError:
            raise
        except Exception:  # a form that cannot compute what the network can is no form of it
            return False
        none = start.new_zeros(len(form._idle))
        for i, (logits, slopes) in zip(ends, expected, strict=True):
            survives = form._within[i]
            at = torch.cat([form._index[survives], form._idle]).to(slopes.device)
            learnt = torch.cat([form._gradient[i][survives].to(none), none])
            if not (agrees(outputs[i].to(logits), logits) and agrees(learnt, slopes[at])):
                return False
        return True


class CompactTrainer(Rewritten):
    """One network, trained in the compact form of its mask or, where that is another network, as
    it is."""

    def _begin(self) -> None:
        self._is_plain = False
        if not self._is_itself():
            self._is_plain = True
            if not self._is_itself():
                raise PsplibError(f"A copy of {_named(self.full)} is another network{IN_PLACE}.")
        super()._begin()

    def _build(self) -> None:
        (mask,) = self.masks
        if self._is_plain:
            self.compact = whole(_copy(self.full))
            self.model = self.compact.model.to(self.device)
        else:
            is_sparse = self.device.type == "cpu" and self.precision == "float32"
            self.compact = compact(self.full, mask, sparse=is_sparse)
            self.model = pool_first(self.compact.model).to(self.device)
        weights, slopes = flatten_(self.model.parameters())
        self._weights, self._gradient = weights[None], slopes[None]
        self._differentiate = gradient(self.model, self.precision)
        self._all_buffers = {n: b.clone().to(self.device) for n, b in self.full.named_buffers()}

    def _learn(self, rows: Tensor) -> Tensor:
        train = self.splits["train"]
        x, y = train.x[: len(rows)], train.y[: len(rows)]
        with torch.no_grad(), as_it_was(self.model):
            outputs = self.model(x.clone())  # it may overwrite what it reads
        self._differentiate(x.clone(), y)
        return outputs[None]

    def _read(self, x: Tensor) -> Tensor:
        return x if self._is_plain else channels_last(self.compact.read(x))

    def _buffers(self) -> dict[str, Tensor]:
        return {name: buffer[None] for name, buffer in self.model.named_buffers()}

    def _full_buffers(self, number: int) -> dict[str, Tensor]:
        return self.compact.expand_buffers(self._all_buffers)

    def _load_buffers(self, number: int, state: dict[str, Tensor]) -> None:
        for name, buffer in self._all_buffers.items():
            buffer.copy_(state[f"buffer.{name}"])
        self.compact.load_buffers_(self._all_buffers)

    def set_mask(self, number: int, mask: Mask) -> None:
        state = self.state(number)
        self.masks[number] = mask
        self._begin()
        self.load(number, state)

    def scores(self, split: str) -> list[Score]:
        if self._is_plain or wire(self.full) is None:
            return [evaluate(self.model, self.splits[split], self.precision)]
        return evaluate_each(self.model, self.splits[split], self.precision, 1, EVALUATION_BATCH)

    def _pass(
        self, orders: Sequence[Tensor], update: Update, crops: Sequence[Tensor] | None
    ) -> None:
        train = self.splits["train"]
        # A selection of rows is contiguous: selected as (N, H, W, C), it is channels last.
        is_last = train.x.ndim == 4 and not self._is_plain
        images = train.x.movedim(1, -1) if is_last else train.x
        # Memory of its own: allocated anew for every batch, it costs more than the copy.
        memory = images.new_empty(self.batch_size, *images.shape[1:])
        mask = None if bool(self._within.all()) else self._within.to(self._weights)
        for number, rows in enumerate(orders[0].to(self.device).split(self.batch_size)):
            x = torch.index_select(images, 0, rows, out=memory[: len(rows)])
            x = x.movedim(-1, 1) if is_last else x
            if crops is not None:
                x = crop(x, crops[0][number * self.batch_size :][: len(rows)].to(self.device))
                x = x.contiguous(memory_format=torch.channels_last) if is_last else x
            self._differentiate(x, train.y.index_select(0, rows), self.term)
            update.step(self._weights, self._gradient, self._velocity)
            if mask is not None:
                self._weights.mul_(mask)


class StackedTrainer(Rewritten):
    """R networks as one module whose parameters have a first dimension, the network.

    Where all have the same mask and are chains, they are trained in compact form. A GPU replays a
    step without a word from the host.
    """

    def _build(self) -> None:
        same = all(torch.equal(m.flat, self.masks[0].flat) for m in self.masks[1:])
        is_compact = same and isinstance(self.full, nn.Sequential)
        mask = self.masks[0] if is_compact else Mask.dense(self.full)
        self.compact = compact(self.full, mask, sparse=False)
        single = pool_first(self.compact.model)
        self.model = replicate(single, len(self)).to(self.device)
        self._weights, self._gradient = flatten_(self.model.parameters(), len(self))
        self._mask = torch.ones_like(self._weights)
        self._captured: CapturedSteps | None = None
        is_chain = linear_layers(single) is not None and self.precision != "bfloat16"
        layers = [m for m in self.model.modules() if isinstance(m, Linear)]
        self._chain = LinearChain(layers) if is_chain else None

    def _begin(self) -> None:
        if not self._is_itself():
            raise Unstackable(f"Replicas of this {type(self.full).__name__} would be others.")
        super()._begin()

    def _learn(self, rows: Tensor) -> Tensor:
        x = self.splits["train"].x[rows]
        each = x[:, None].expand(-1, len(self), *x.shape[1:]).flatten(1, 2)
        with torch.no_grad(), as_it_was(self.model):
            outputs = self.model(each).view(len(rows), len(self), -1).transpose(0, 1)
        self._differentiate(rows.expand(len(self), -1), None)
        return outputs

    def _set_survivors(self) -> None:
        super()._set_survivors()
        # In its place: a captured step reads it there.
        self._mask.copy_(self._within)

    def _read(self, x: Tensor) -> Tensor:
        return self.compact.read(x)

    def _join(self, updates: Sequence[Update]) -> Update:
        return stack_updates(updates, self._weights)

    def _buffers(self) -> dict[str, Tensor]:
        return dict(self.model.named_buffers())

    def set_mask(self, number: int, mask: Mask) -> None:
        if len(self._index) < len(mask.flat):
            raise PsplibError("Stacked networks in compact form share one mask, which stays.")
        super().set_mask(number, mask)

    def scores(self, split: str) -> list[Score]:
        batch = max(1, STACKED_EVALUATION // len(self))
        return evaluate_each(self.model, self.splits[split], self.precision, len(self), batch)

    def _pass(
        self, orders: Sequence[Tensor], update: Update, crops: Sequence[Tensor] | None
    ) -> None:
        rows = torch.stack(list(orders)).to(self.device)
        cuts = None if crops is None else torch.stack(list(crops)).to(self.device)
        whole = rows.shape[1] // self.batch_size
        operands = self._weights, self._gradient, self._velocity, self._mask
        captured = self._captured
        if captured is None or not captured.fits(rows, update, cuts, operands):
            captured = self._captured = CapturedSteps(
                self._differentiate,
                operands,
                self.model.buffers(),
                self.batch_size,
                rows,
                update,
                cuts,
            )
        captured.play(rows, update, cuts, whole)
        if rest := rows.shape[1] - whole * self.batch_size:
            captured.step(rows[:, -rest:], update, None if cuts is None else cuts[:, -rest:])

    def _differentiate(self, rows: Tensor, crops: Tensor | None) -> None:
        train = self.splits["train"]
        if self._chain is not None:
            self._chain(train.x.flatten(1)[rows], train.y[rows])
        else:
            at = rows.t().flatten()
            x, y = train.x.index_select(0, at), train.y.index_select(0, at)
            if crops is not None:
                x = crop(x, crops.transpose(0, 1).flatten(0, 1))
            with of_activations(self.precision, self.device):
                logits = self.model(x.view(rows.shape[1], -1, *x.shape[2:])).view(len(y), -1)
            # A sum over networks of means over samples: no gradient reaches another network.
            loss = F.cross_entropy(logits.to(self._weights), y) * len(self)
            parts = torch.autograd.grad(loss, list(self.model.parameters()))
            torch.cat([part.flatten(1) for part in parts], 1, out=self._gradient)
