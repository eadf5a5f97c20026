"""What a step does to the weights once the gradient of its minibatch is known: SGD, LOBSTER's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from psplib.core.errors import PsplibError


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent as PyTorch has it: with momentum m and weight decay d, the
    velocity is v <- m v + g + d w, then w <- w - learning rate * v.

    A setting is a number or, of R networks side by side, a tensor (R, 1). Without momentum there is
    no velocity.
    """

    learning_rate: float | Tensor
    momentum: float | Tensor = 0.0
    weight_decay: float | Tensor = 0.0

    def step(self, weights: Tensor, gradient: Tensor, velocity: Tensor | None = None) -> None:
        """Change `weights`, and `velocity`, in place; the gradient may be used up."""
        if velocity is not None:
            velocity.mul_(self.momentum).add_(gradient)
            _add_(velocity, weights, self.weight_decay)
            gradient = velocity
        elif not isinstance(self.weight_decay, float) or self.weight_decay:
            weights.mul_(1 - self.learning_rate * self.weight_decay)
        _add_(weights, gradient, -self.learning_rate)

    def idle(self, weights: Tensor, steps: int, velocity: Tensor | None = None) -> None:
        """The same for weights whose gradient was zero for `steps` steps."""
        _without_gradient(self, weights, steps, velocity)

    def frozen(self) -> Sgd:
        """The rule that leaves the weights as they are, with the same kinds of settings."""
        return replace(self, learning_rate=0.0)


@dataclass(frozen=True)
class LobsterStep:
    """SGD, then LOBSTER's shrinking step: `w <- w - lambda * w * max(0, 1 - |dL/dw|)`.

    lambda is not multiplied by the learning rate, and dL/dw is the gradient of the minibatch alone,
    without momentum or weight decay. Without `sensitivity`: w <- w - lambda * w. The methods are as
    those of `Sgd`.
    """

    learning_rate: float | Tensor
    shrinkage: float | Tensor
    sensitivity: bool = True
    momentum: float | Tensor = 0.0
    weight_decay: float | Tensor = 0.0

    def step(self, weights: Tensor, gradient: Tensor, velocity: Tensor | None = None) -> None:
        sgd = Sgd(self.learning_rate, self.momentum, self.weight_decay)
        sgd.step(weights, gradient, velocity)
        if self.sensitivity:
            # The gradient is spent: it becomes -max(0, 1 - |g|) in its own memory.
            gradient.abs_().clamp_max_(1).sub_(1)
            if isinstance(self.shrinkage, Tensor):
                weights.addcmul_(weights, gradient.mul_(self.shrinkage))
            else:
                weights.addcmul_(weights, gradient, value=self.shrinkage)
        else:
            weights.mul_(1 - self.shrinkage)

    def idle(self, weights: Tensor, steps: int, velocity: Tensor | None = None) -> None:
        if velocity is None and not bool(torch.as_tensor(self.weight_decay).any()):
            weights.mul_((1 - self.shrinkage) ** steps)
        else:
            _without_gradient(self, weights, steps, velocity)

    def frozen(self) -> LobsterStep:
        return replace(self, learning_rate=0.0, shrinkage=0.0)


# The rule of a step.
Update = Sgd | LobsterStep


def check_steps(steps: Sequence[float]) -> None:
    """Insist that the steps of a learning rate are rising shares of the epochs."""
    if list(steps) != sorted(set(steps)) or not all(0 < s < 1 for s in steps):
        raise PsplibError(f"steps must be rising shares between 0 and 1; got {tuple(steps)}.")


def fallen(learning_rate: float, steps: Sequence[float], epoch: int, epochs: int) -> float:
    """A learning rate that falls tenfold after each of `steps`, shares of the `epochs`, as it is in
    an epoch, counted from 1."""
    return learning_rate / 10 ** sum(epoch > step * epochs for step in steps)


def _add_(y: Tensor, x: Tensor, factor: float | Tensor) -> None:
    """y <- y + factor * x."""
    if isinstance(factor, Tensor):
        y.addcmul_(x, factor)
    elif factor:
        y.add_(x, alpha=factor)


def _without_gradient(update: Update, weights: Tensor, steps: int, velocity: Tensor | None) -> None:
    """`steps` steps with a gradient of zero."""
    if weights.numel():
        for _ in range(steps):
            update.step(weights, torch.zeros_like(weights), velocity)


def stack_updates(updates: Sequence[Update], weights: Tensor) -> Any:
    """The updates of R networks as one, whose settings are tensors (R, 1) like `weights` (R, P)."""
    first = updates[0]
    if any(type(u) is not type(first) for u in updates):
        names = ", ".join(sorted({type(u).__name__ for u in updates}))
        raise PsplibError(f"Networks side by side need updates of one kind; got {names}.")
    settings: dict[str, Any] = {}
    for f in dataclasses.fields(first):
        values = [getattr(u, f.name) for u in updates]
        if isinstance(values[0], bool):
            if len(set(values)) > 1:
                raise PsplibError(
                    f"Networks side by side need one value of {f.name}; got {set(values)}."
                )
            settings[f.name] = values[0]
        else:
            settings[f.name] = weights.new_tensor(values)[:, None]
    return type(first)(**settings)
