"""Steps of training that a GPU replays without a word from the host."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from psplib.core.errors import PsplibError
from psplib.training.trainer import Update


def together(updates: Sequence[Update], weights: Tensor) -> Any:
    """The updates of R replicas as one, whose settings are tensors (R, 1) like `weights` (R, P)."""
    first = updates[0]
    if any(type(u) is not type(first) for u in updates):
        names = ", ".join(sorted({type(u).__name__ for u in updates}))
        raise PsplibError(f"Replicas need updates of one kind; got {names}.")
    settings: dict[str, Any] = {}
    for f in dataclasses.fields(first):  # type: ignore[arg-type]
        values = [getattr(u, f.name) for u in updates]
        if isinstance(values[0], bool):
            if len(set(values)) > 1:
                raise PsplibError(f"Replicas need one value of {f.name}; got {set(values)}.")
            settings[f.name] = values[0]
        else:
            settings[f.name] = weights.new_tensor(values)[:, None]
    return type(first)(**settings)


def change(
    update: Update, weights: Tensor, gradient: Tensor, velocity: Tensor | None, mask: Tensor
) -> None:
    """The update of a step and the mask, in place."""
    update.step(weights, gradient, velocity)
    weights.mul_(mask)


Change = Callable[[Update, Tensor, Tensor, "Tensor | None", Tensor], None]


def fused(update: Update, *tensors: Tensor | None) -> Change:
    """`change` as one kernel, where this machine has a compiler that makes it do the same; else
    `change`."""

    def after(apply: Any) -> list[Tensor]:
        copies = [t if t is None else t.clone() for t in tensors]
        apply(copy.deepcopy(update), *copies)
        return [t for t in copies[::2] if t is not None]

    try:
        compiled = torch.compile(change, dynamic=False)
        for mine, its in zip(after(compiled), after(change), strict=True):
            torch.testing.assert_close(mine, its)
    except Exception as error:  # a compiler may be absent, or fail, in many ways
        warnings.warn(f"The update is not fused ({type(error).__name__}).", stacklevel=2)
        return change
    return compiled


class Team(Protocol):
    """What a recording needs to know of the networks whose steps it makes."""

    batch_size: int
    device: torch.device
    change: Change

    @property
    def has_velocity(self) -> bool:
        """Whether an update with momentum was made."""

    def step(self, rows: Tensor, update: Update, crops: Tensor | None) -> None:
        """A minibatch (R, B) of each network."""

    def changed(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Weights, gradient, velocity and mask, as they lie in memory."""

    def tensors(self) -> list[Tensor]:
        """What a step changes, as it lies in memory."""


class Recording:
    """Steps that take everything from memory of their own: on a GPU they are recorded once, as a
    graph, and replayed without a word from the host."""

    def __init__(self, team: Team, rows: Tensor, update: Update, crops: Tensor | None) -> None:
        self.team = team
        self.rows, self.crops = rows.clone(), None if crops is None else crops.clone()
        self.update = copy.deepcopy(update)
        self.position = torch.zeros(1, dtype=torch.int64, device=team.device)
        self.reach = torch.arange(team.batch_size, device=team.device)
        self.velocity = team.has_velocity
        self.again: Callable[[], None] = self.step
        if team.device.type == "cuda" and rows.shape[1] >= team.batch_size:
            self._record()

    def fits(self, rows: Tensor, update: Update, crops: Tensor | None) -> bool:
        """Whether the recorded steps serve these inputs."""
        return (
            rows.shape == self.rows.shape
            and type(update) is type(self.update)
            and (crops is None) == (self.crops is None)
            and self.team.has_velocity == self.velocity
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
        self.team.step(self.rows.index_select(1, at), self.update, crops)
        self.position.add_(len(self.reach))

    def _record(self) -> None:
        self.team.change = fused(self.update, *self.team.changed())
        changed = self.team.tensors()
        before = [t.clone() for t in changed]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Libraries choose and allocate at their first calls, which must not be recorded.
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
