"""Steps of training that a GPU replays without a word from the host."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from psplib.training.update import Update


def apply_update(
    update: Update, weights: Tensor, gradient: Tensor, velocity: Tensor | None, mask: Tensor
) -> None:
    """The update of a step and the mask, in place."""
    update.step(weights, gradient, velocity)
    weights.mul_(mask)


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


class Stacked(Protocol):
    """What is to be known of the networks whose steps are captured."""

    batch_size: int
    device: torch.device
    apply: Apply

    @property
    def has_velocity(self) -> bool:
        """Whether an update with momentum was made."""

    def step(self, rows: Tensor, update: Update, crops: Tensor | None) -> None:
        """A minibatch (R, B) of each network."""

    def operands(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Weights, gradient, velocity and mask, as they lie in memory."""

    def changed(self) -> list[Tensor]:
        """What a step changes, as it lies in memory."""


class CapturedSteps:
    """Steps that take everything from memory of their own: on a GPU they are captured once, as a
    CUDA graph, and replayed without a word from the host."""

    def __init__(
        self, networks: Stacked, rows: Tensor, update: Update, crops: Tensor | None
    ) -> None:
        self.networks = networks
        self.rows, self.crops = rows.clone(), None if crops is None else crops.clone()
        self.update = copy.deepcopy(update)
        self.position = torch.zeros(1, dtype=torch.int64, device=networks.device)
        self.reach = torch.arange(networks.batch_size, device=networks.device)
        self.velocity = networks.has_velocity
        self.again: Callable[[], None] = self.step
        if networks.device.type == "cuda" and rows.shape[1] >= networks.batch_size:
            self._capture()

    def fits(self, rows: Tensor, update: Update, crops: Tensor | None) -> bool:
        """Whether the captured steps serve these inputs."""
        return (
            rows.shape == self.rows.shape
            and type(update) is type(self.update)
            and (crops is None) == (self.crops is None)
            and self.networks.has_velocity == self.velocity
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

    def step(self) -> None:
        at = self.position + self.reach
        crops = None if self.crops is None else self.crops.index_select(1, at)
        self.networks.step(self.rows.index_select(1, at), self.update, crops)
        self.position.add_(len(self.reach))

    def _capture(self) -> None:
        self.networks.apply = fused(self.update, *self.networks.operands())
        changed = self.networks.changed()
        before = [t.clone() for t in changed]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Libraries choose and allocate at their first calls, which must not be captured.
            for _ in range(3):
                self.position.zero_()
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)
        self.again = graph.replay
