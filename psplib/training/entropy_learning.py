"""Learning by PSP-entropy, the paper's second future work: a loss term that rewards neurons whose
state tells little about the class.

The loss is CE - gamma * R, R = mean over live neurons of sum_c H(p_c) / C in bits, p_c how often a
neuron is active on class c. Forward, a state is what the paper counts, [z > 0], so that R is the
exact entropy (Eq. 4 and 5); backward it is sigma(z / (tau sd)), sd the neuron's standard deviation
over the batch, held fixed: a soft state alone is uncertain where z is small, and shrinking z would
be all that is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from psplib.core.errors import PsplibError, one_of

LABELS = ("classes", "none", "permuted")
# The slope of H is infinite where a neuron never changes: no steeper than at this rate.
LEAST_RATE = 0.01


def soft_states(z: Tensor, temperature: float) -> Tensor:
    """What the states of potentials (B, n) are to the backward pass: sigma(z / (tau sd))."""
    spread = z.detach().std(0, correction=0).clamp_min(torch.finfo(z.dtype).tiny)
    return torch.sigmoid(z / (temperature * spread))


def states(z: Tensor, temperature: float) -> Tensor:
    """The states [z > 0] of potentials (B, n), with the gradient of `soft_states`."""
    soft = soft_states(z, temperature)
    return (z > 0).to(z.dtype) + (soft - soft.detach())


def bits(p: Tensor) -> Tensor:
    """The entropy in bits of states that are active with probability p, 0 log 0 = 0; its slope is
    that of the nearest p between `LEAST_RATE` and 1 - `LEAST_RATE`."""
    q = p.detach()
    exact = (torch.special.entr(q) + torch.special.entr(1 - q)) / math.log(2)
    near = q.clamp(LEAST_RATE, 1 - LEAST_RATE)
    return exact + (p - q) * torch.log2((1 - near) / near)


@dataclass
class EntropyTerm:
    """The reward R of the minibatches of a training, one after another.

    The rates of a class are averaged over minibatches, the new one with weight `rate`; the gradient
    is that of the new one. `labels` says what a neuron's rate is conditional on: the `classes`;
    `none`, its unconditional entropy; `permuted`, classes that are shuffled within the minibatch,
    which have the same sizes and mean nothing.
    """

    classes: int
    labels: str = "classes"
    temperature: float = 1.0
    rate: float = 0.1
    rates: list[Tensor] = field(default_factory=list)  # of each layer (C, n)
    seen: Tensor | None = None  # whether a class has been there (C,)

    def __post_init__(self) -> None:
        one_of("labels", self.labels, LABELS)
        for name in ("temperature", "rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise PsplibError(f"{name} must be above 0; got {getattr(self, name)}.")

    def __call__(
        self, potentials: Sequence[Tensor], y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """R of a minibatch, in bits: potentials (B, n) of each layer, labels y (B,).

        `PsplibError` if no neuron is alive: its potential is zero for every image.
        """
        if self.labels == "none":
            y = torch.zeros_like(y)
        elif self.labels == "permuted":
            y = y[torch.randperm(len(y), generator=generator).to(y.device)]
        count = 1 if self.labels == "none" else self.classes
        onehot = F.one_hot(y, count).to(potentials[0].dtype)
        sizes = onehot.sum(0)
        there = sizes > 0
        known = there if self.seen is None else self.seen | there
        found = []
        for layer, z in enumerate(potentials):
            new = onehot.T @ states(z, self.temperature) / sizes.clamp_min(1)[:, None]
            mean = new.detach()
            if self.seen is not None:
                old = self.rates[layer]
                both = torch.lerp(old, mean, self.rate)
                mean = torch.where((self.seen & there)[:, None], both, mean)
                mean = torch.where((self.seen & ~there)[:, None], old, mean)
                self.rates[layer] = mean
            else:
                self.rates.append(mean)
            of_class = bits(mean + (new - new.detach()))[known]
            found.append(of_class.mean(0)[(z != 0).any(0)])
        self.seen = known
        each = torch.cat(found)
        if not len(each):
            raise PsplibError("No neuron is alive: the network has no states to reward.")
        return each.mean()


def ramp(gamma: float, epoch: int, wait: int, rise: int) -> float:
    """Gamma in an epoch, counted from 1: zero while it waits, then rising to its value.

    >>> [ramp(0.1, e, wait=2, rise=2) for e in (1, 2, 3, 4, 5)]
    [0.0, 0.0, 0.05, 0.1, 0.1]

    `PsplibError` if gamma is not finite.
    """
    if not math.isfinite(gamma):
        raise PsplibError(f"gamma must be finite; got {gamma}.")
    return gamma * min(1.0, max(0, epoch - wait) / max(1, rise))
