"""Learning by PSP-entropy, the paper's second future work: a loss term that rewards neurons whose
state tells little about the class.

The loss is CE - gamma * R, R = mean over live neurons of sum_c H(p_c) / C in bits, p_c how often a
neuron is active on class c. Forward, a state is what the paper counts, [z > 0], so that R is the
exact entropy (Eq. 4 and 5); backward it is sigma(z / (tau sd)), sd the neuron's standard deviation
over the batch, held fixed: a soft state alone is uncertain where z is small, and shrinking z would
be all that is learnt.

Of second order, R is less the mean mutual information of pairs of neurons given the class, summed
over classes and divided by their number: first order alone is had for nothing where neurons copy
each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from psplib.core.errors import PsplibError, one_of, whole_number

LABELS = ("classes", "none", "permuted")
WAIT, RISE = 5, 10  # epochs without gamma, and in which it rises
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


def mutual(a: Tensor, b: Tensor, onehot: Tensor) -> Tensor:
    """The mutual information in bits, given each class that is there, of the states a and b (K, B)
    of K pairs, from their counts in the minibatch; `onehot` (B, C). Slopes are bounded as those of
    `bits`."""
    n = onehot.sum(0)
    one, other, both = (s @ onehot for s in (a, b, a * b))
    cells = [both, one - both, other - both, n - one - other + both]
    margins = [one, n - one, other, n - other]

    def terms(counts: list[Tensor]) -> Tensor:
        p = torch.stack(counts) / n.clamp_min(1)
        q = p.detach()
        slope = -q.clamp_min(LEAST_RATE).log2()
        return (torch.special.entr(q) / math.log(2) + (p - q) * slope).sum(0)

    return (terms(margins) - terms(cells))[:, n > 0]


def random_pairs(
    alive: Tensor, count: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Positions of `count` pairs of two different neurons that are `alive` (n,) bool."""
    living = alive.nonzero().flatten()
    n = len(living)
    left = torch.randint(n, (count,), generator=generator)
    right = (left + 1 + torch.randint(n - 1, (count,), generator=generator)) % n
    return living[left.to(alive.device)], living[right.to(alive.device)]


@dataclass
class EntropyTerm:
    """The reward R of the minibatches of a training, one after another.

    The rates of a class are averaged over minibatches, the new one with weight `rate`; the gradient
    is that of the new one. `labels` says what a neuron's rate is conditional on: the `classes`;
    `none`, its unconditional entropy; `permuted`, classes that are shuffled within the minibatch,
    which have the same sizes and mean nothing. With `pairs`, so many of each layer, drawn anew for
    every minibatch, R is of second order.
    """

    classes: int
    labels: str = "classes"
    temperature: float = 1.0
    rate: float = 0.1
    pairs: int = 0
    rates: list[Tensor] = field(default_factory=list)  # of each layer (C, n)
    seen: Tensor | None = None  # whether a class has been there (C,)

    def __post_init__(self) -> None:
        one_of("labels", self.labels, LABELS)
        for name in ("temperature", "rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise PsplibError(f"{name} must be above 0; got {getattr(self, name)}.")
        whole_number("pairs", self.pairs)

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
        found, shared = [], []
        for layer, z in enumerate(potentials):
            own = states(z, self.temperature)
            new = onehot.T @ own / sizes.clamp_min(1)[:, None]
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
            alive = (z != 0).any(0)
            found.append(of_class.mean(0)[alive])
            if self.pairs and int(alive.sum()) > 1:
                rows = own.T.contiguous()  # a neuron's states side by side: twice as fast
                drawn = random_pairs(alive, self.pairs, generator)
                one, other = (rows.index_select(0, k) for k in drawn)
                shared.append(mutual(one, other, onehot).mean())
        self.seen = known
        each = torch.cat(found)
        if not len(each):
            raise PsplibError("No neuron is alive: the network has no states to reward.")
        return each.mean() - torch.stack(shared).mean() if shared else each.mean()


@dataclass
class Reward:
    """The slopes of the loss term -gamma R of a minibatch after another, see `EntropyTerm`."""

    gamma: float
    term: EntropyTerm

    def __call__(self, potentials: Sequence[Tensor], y: Tensor) -> Sequence[Tensor]:
        """Those at the potentials (B, n) of each layer."""
        with torch.enable_grad():
            leaves = [z.detach().requires_grad_() for z in potentials]
            return torch.autograd.grad(-self.gamma * self.term(leaves, y), leaves)


def ramp(gamma: float, epoch: int, wait: int, rise: int) -> float:
    """Gamma in an epoch, counted from 1: zero while it waits, then rising to its value.

    >>> [ramp(0.1, e, wait=2, rise=2) for e in (1, 2, 3, 4, 5)]
    [0.0, 0.0, 0.05, 0.1, 0.1]

    `PsplibError` if gamma is not finite.
    """
    if not math.isfinite(gamma):
        raise PsplibError(f"gamma must be finite; got {gamma}.")
    return gamma * min(1.0, max(0, epoch - wait) / max(1, rise))
