"""Steps of training that a GPU replays without a word from the host."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from psplib.training.update import Update


def apply_update(
    update: Update, weights: Tensor, gradient: Tensor, velocity: Tensor | None, mask: Tensor
) -> None:
    """The update of a step and the mask, in place."""
    update.step(weights, gradient, velocity)
    weights.mul_(mask)


# Weights, gradient, velocity and mask, as they lie in memory.
Operands = tuple[Tensor, Tensor, "Tensor | None", Tensor]
Apply = Callable[[Update, Tensor, Tensor, "Tensor | None", Tensor], None]


def fused(update: Update, *tensors: Tensor | None) -> Apply:
    """`apply_update` as one kernel, where this machine has a compiler that makes it do the same;
    else `apply_update`."""

    def after(apply: Any) -> list[Tensor]:
        copies = [t if t is None else t.clone() for t in tensors]
        apply(copy.deepcopy(update), *copies)
        return [t for t in copies[::2] if t is not None]

    try:
        compiled = torch.compile(apply_update, dynamic=False)
        for mine, its in zip(after(compiled), after(apply_update), strict=True):
            torch.testing.assert_close(mine, its)
    except Exception as error:  # a compiler may be absent, or fail, in many ways
        warnings.warn(f"The update is not fused ({type(error).__name__}).", stacklevel=2)
        return apply_update
    return compiled


class CapturedSteps:
    """Steps of stacked networks that take everything from memory of their own: on a GPU they are
    captured once, as a CUDA graph, and replayed without a word from the host.

    `differentiate` leaves the gradient of a minibatch (R, B) of each network; an update is applied
    to the `operands`: weights, gradient, velocity, mask. A pass changes the `buffers`, too.
    """

    def __init__(
        self,
        differentiate: Callable[[Tensor, Tensor | None], None],
        operands: Operands,
        buffers: Iterable[Tensor],
        batch_size: int,
        rows: Tensor,
        update: Update,
        crops: Tensor | None,
    ) -> None:
        self.differentiate, self.operands, self.buffers = differentiate, operands, [*buffers]
        self.rows, self.crops = rows.clone(), None if crops is None else crops.clone()
        self.update = copy.deepcopy(update)
        self.apply: Apply = apply_update
        self.position = torch.zeros(1, dtype=torch.int64, device=rows.device)
        self.reach = torch.arange(batch_size, device=rows.device)
        self.again: Callable[[], None] = self._next
        if rows.device.type == "cuda" and rows.shape[1] >= batch_size:
            self._capture()

    def fits(self, rows: Tensor, update: Update, crops: Tensor | None, operands: Operands) -> bool:
        """Whether the captured steps serve these inputs."""
        return (
            rows.shape == self.rows.shape
            and type(update) is type(self.update)
            and (crops is None) == (self.crops is None)
            and all(a is b for a, b in zip(operands, self.operands, strict=True))
        )

    def play(self, rows: Tensor, update: Update, crops: Tensor | None, steps: int) -> None:
        """Make the first `steps` steps of an epoch."""
        self.rows.copy_(rows)
        if self.crops is not None and crops is not None:
            self.crops.copy_(crops)
        for name, value in vars(update).items():
            if isinstance(value, Tensor):
                getattr(self.update, name).copy_(value)
        self.position.zero_()
        for _ in range(steps):
            self.again()

    def step(self, rows: Tensor, update: Update, crops: Tensor | None) -> None:
        """A minibatch (R, B) of each network; nothing of it waits for the device."""
        self.differentiate(rows, crops)
        self.apply(update, *self.operands)

    def _next(self) -> None:
        at = self.position + self.reach
        crops = None if self.crops is None else self.crops.index_select(1, at)
        self.step(self.rows.index_select(1, at), self.update, crops)
        self.position.add_(len(self.reach))

    def _capture(self) -> None:
        self.apply = fused(self.update, *self.operands)
        weights, _, velocity, _ = self.operands
        changed = [weights, *([] if velocity is None else [velocity]), *self.buffers]
        before = [t.clone() for t in changed]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Libraries choose and allocate at their first calls, which must not be captured.
            for _ in range(3):
                self.position.zero_()
                self._next()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._next()
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)
        self.again = graph.replay
