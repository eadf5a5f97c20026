"""PSP-entropy (section 4 of the paper): how uncertain the states of neurons are, given the class.

The state of a neuron is s = [z > 0], z its post-synaptic potential. From the class-conditional
frequencies of the joint states of k neurons (k = 1 in Eq. 4) comes an entropy in bits; it is summed
over the classes (Eq. 5), averaged over the neurons, pairs or subsets of a layer, then over the
layers. 0 log 0 is 0, and nothing is clamped.

The classes below are probes for `psp.observe`. They hold integers, and the neurons that a pruned
network has lost count as what they are: constant.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from psplib.analysis.pairs import Tally, pack_states
from psplib.analysis.psp import Layer, Observation, observe
from psplib.core.errors import PsplibError, whole_number
from psplib.core.seeds import derive
from psplib.nn.minibatches import Minibatches

# A joint state of k neurons is one of 2^k, and each is counted.
MAX_ORDER = 12
# Pairs are counted in 32 bits.
MAX_SAMPLES = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Entropy:
    """An entropy in bits: `by_class` holds (C,) float64 for each layer, averaged over the layer.

    `errors` are the standard errors of `by_layer` where a layer was sampled, zero where it was not.
    """

    by_class: dict[str, Tensor]
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def by_layer(self) -> dict[str, float]:
        """The sum over the classes, for each layer."""
        return {name: float(bits.sum()) for name, bits in self.by_class.items()}

    @property
    def mean(self) -> float:
        """The average over the layers."""
        return sum(self.by_layer.values()) / len(self.by_class)

    @property
    def error(self) -> float:
        """The standard error of `mean`."""
        return math.hypot(*self.errors.values()) / len(self.by_class)


@dataclass(kw_only=True)
class _Counts(ABC):
    """A probe that adds up integers: how many `samples` (C,) there were of each class, and a tensor
    of `counts` for each of the `layers`, int64."""

    layers: dict[str, Layer] = field(default_factory=dict)
    samples: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    counts: dict[str, Tensor] = field(default_factory=dict)

    @abstractmethod
    def count(self, layer: Layer, states: Tensor, seen: Observation) -> Tensor:
        """The counts of a minibatch's states (B, n) in a layer."""

    def update(self, seen: Observation) -> None:
        """Take in a minibatch. `PsplibError` if it is of other neurons than those before."""
        layers = {layer.name: layer for layer in seen.layers}
        self._expect(layers, seen.logits.shape[1])
        self.layers = layers
        self.samples = _plus(self.samples, seen.onehot.sum(0).long())
        for layer, states in zip(seen.layers, seen.states, strict=True):
            new = self.count(layer, states, seen)
            self.counts[layer.name] = _plus(self.counts.get(layer.name, new[:0]), new)

    def _expect(self, layers: dict[str, Layer], classes: int) -> None:
        if not self.layers:
            return
        same = len(self.samples) == classes and list(layers) == list(self.layers)
        if not (same and all(_same(layers[n], layer) for n, layer in self.layers.items())):
            raise PsplibError(
                "A probe counts the states of one network under one mask; "
                "these neurons are not those it has seen before."
            )

    def _finish(self, order: int = 1) -> None:
        """Raise `PsplibError` if the counts are not enough for an entropy of this order."""
        if not self.layers:
            raise PsplibError(
                "The probe has seen no data; pass it to psplib.analysis.psp.observe first."
            )
        absent = (self.samples == 0).nonzero().flatten().tolist()
        if absent:
            raise PsplibError(
                "An entropy given the class needs samples of every class; "
                f"there is none of {', '.join(map(str, absent))}."
            )
        for layer in self.layers.values():
            _check_size(layer, order)


@dataclass(kw_only=True)
class FirstOrder(_Counts):
    """Probe of the entropy of single neurons (Eq. 4 and 5): `counts` (C, n) of active states."""

    def count(self, layer: Layer, states: Tensor, seen: Observation) -> Tensor:
        # Sums of zeros and ones in float32 are exact to 2^24; so they are if a GPU multiplies in
        # TF32 or bfloat16, which hold 0 and 1 exactly, since it adds in float32.
        return (seen.onehot.t() @ states).long()

    def neurons(self, miller_madow: bool = False) -> dict[str, Tensor]:
        """H(z | c) in bits, Eq. (4): for each layer (C, neurons) float64. Its sum over the classes
        is Eq. (5). `miller_madow` corrects the bias of small samples, see `entropy`.

        `PsplibError` if there are no data, or none of some class.
        """
        self._finish()
        found = {}
        for name, active in self.counts.items():
            bits = given_class(active, self.samples, miller_madow)
            found[name] = self.layers[name].expand(bits).cpu()
        return found

    def entropy(self, miller_madow: bool = False) -> Entropy:
        """The mean over neurons; 0 to 1 bit for each class.

        With `miller_madow`, an estimate from M samples that saw K different states is raised by
        (K - 1) / (2 M ln 2) bits (Miller, 1955). `PsplibError` as in `neurons`.
        """
        return Entropy({name: bits.mean(1) for name, bits in self.neurons(miller_madow).items()})


@dataclass(kw_only=True)
class Agreement(_Counts):
    """Probe of what the authors' code of May 2020 calls second order: `counts` (C,) of agreeing
    ordered pairs, k^2 + (n - k)^2 for a sample with k of n neurons active."""

    def count(self, layer: Layer, states: Tensor, seen: Observation) -> Tensor:
        active = states.sum(1).long()
        agreeing = active.square() + (layer.neurons - active).square()
        return agreeing.new_zeros(seen.logits.shape[1]).index_add_(0, seen.y, agreeing)

    def entropy(self) -> Entropy:
        """-(1 - f) log2(1 - f), f the share of agreeing pairs: the lower triangle *with* its
        diagonal over n^2/2. f > 1, where all neurons always agree, counts as 0.

        `PsplibError` if there are no data, or none of some class.
        """
        self._finish()
        found = {}
        for name, agreeing in self.counts.items():
            n, samples = self.layers[name].neurons, self.samples
            rest = (samples * (n**2 - n) - agreeing).clamp(min=0) / (samples * n**2).double()
            found[name] = torch.special.entr(rest).cpu() / math.log(2)
        return Entropy(found)


@dataclass(kw_only=True)
class SecondOrder:
    """Probe of the entropy of pairs of neurons by the three definitions of `entropies`.

    It keeps the states themselves, eight to a byte, until counts of all pairs take less memory;
    those, n^2 / 2 for each class in 2 bytes each (4 from 32,768 up), bound what it holds, however
    long the data are. `entropies` takes as long as n^2 products over the samples.
    """

    first: FirstOrder = field(default_factory=FirstOrder)
    agreement: Agreement = field(default_factory=Agreement)
    tallies: dict[str, Tally] = field(default_factory=dict)

    def update(self, seen: Observation) -> None:
        """Take in a minibatch. `PsplibError` if it is of other neurons than those before."""
        self.first.update(seen)
        if int(self.first.samples.max()) > MAX_SAMPLES:
            raise PsplibError(f"Pairs are counted up to {MAX_SAMPLES} samples of a class.")
        self.agreement.update(seen)
        for layer, states in zip(seen.layers, seen.states, strict=True):
            tally = self.tallies.setdefault(layer.name, Tally(states.shape[1], [], []))
            tally.packed.append(pack_states(states))
            tally.labels.append(seen.y)
            tally.settle(seen.logits.shape[1])

    def entropies(self, miller_madow: bool = False) -> dict[str, Entropy]:
        """By name of the definition, averaged over the pairs i < j of a layer:

        - `joint`: the entropy H_ij of a pair's four states, 0 to 2 bits for each class;
        - `mutual`: H_i + H_j - H_ij, 0 to 1 bit for each class;
        - `agreement`: what `Agreement` counts.

        `miller_madow` corrects the first two, see `FirstOrder.entropy`. `PsplibError` if there are
        no data, or none of some class, or a layer has a single neuron.
        """
        self.first._finish(order=2)
        joint: dict[str, Tensor] = {}
        mutual: dict[str, Tensor] = {}
        for name, single in self.first.neurons(miller_madow).items():
            n = self.first.layers[name].neurons
            pairs = math.comb(n, 2)
            sums = torch.stack([self._sum(name, c, miller_madow) for c in range(len(single))]).cpu()
            # A constant neuron beside one that varies: the pair's entropy is that of the latter.
            constant = n - self._varying(name).sum(1).cpu()
            sums += constant * single.sum(1)
            joint[name] = sums / pairs
            mutual[name] = ((n - 1) * single.sum(1) - sums) / pairs
        agreement = self.agreement.entropy()
        return {"joint": Entropy(joint), "mutual": Entropy(mutual), "agreement": agreement}

    def _varying(self, name: str) -> Tensor:
        """Which watched neurons change their state within a class, (C, n) bool."""
        active = self.first.counts[name]
        return (active > 0) & (active < self.first.samples[:, None])

    def _sum(self, name: str, label: int, miller_madow: bool) -> Tensor:
        """The sum of H_ij over the pairs i < j of neurons that change their state."""
        samples = self.first.samples[label]
        active, varying = self.first.counts[name][label], self._varying(name)[label]
        # How many cells of all pairs hold m samples, for each m: exact, and as many logarithms as
        # there are samples, not as there are pairs.
        times = torch.zeros(int(samples) + 1, dtype=torch.int64, device=samples.device)
        for (_, a, b), rows, columns, n11 in self.tallies[name].blocks(label, varying):
            n1, m1 = active[rows, None].int(), active[columns].int()
            n01 = m1 - n11
            found = _times(n11, times) + _times(n01, times)
            found += _times(torch.sub(n1, n11, out=n11), times)
            found += _times(torch.sub(samples.int() - n1, n01, out=n01), times)
            if a == b:  # both i, j and j, i; and i, i, whose other two cells are empty
                found -= _times(n1, times) + _times(samples.int() - n1, times)
                found[0] -= 2 * len(rows)
                found //= 2
            times += found
        cells = _cell(torch.arange(len(times), device=times.device), samples, miller_madow)
        count = int(varying.sum())
        return (times * cells).sum() - math.comb(count, 2) * _excess(samples, miller_madow)


@dataclass
class Subsets(_Counts):
    """Probe of the joint entropy of `order` neurons of a layer: of all subsets of that size if they
    are at most `limit`, else of `limit` subsets that `seed` draws independently.

    `counts` (C, subsets, 2^order) of joint states.
    """

    order: int
    limit: int = 1000
    seed: int = 0
    members: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole_number("order", self.order, 1)
        whole_number("limit", self.limit, 2)
        if self.order > MAX_ORDER:
            raise PsplibError(
                f"order must be at most {MAX_ORDER}: each of 2^order joint states is counted; "
                f"got {self.order}."
            )

    def count(self, layer: Layer, states: Tensor, seen: Observation) -> Tensor:
        if layer.name not in self.members:
            column = torch.full((layer.neurons,), -1)
            column[layer.watched] = torch.arange(len(layer.watched))
            self.members[layer.name] = column[self._draw(layer)].to(states.device)
        members = self.members[layer.name]
        joint = states.new_zeros(len(states), len(members))
        for bit, column in enumerate(members.t()):
            # Neurons that are not watched are off.
            joint += states.index_select(1, column.clamp(min=0)) * ((column >= 0) * 2**bit)
        shape = seen.logits.shape[1], len(members), 2**self.order
        rows = seen.y[:, None] * len(members) + torch.arange(len(members), device=states.device)
        cells = (rows * 2**self.order + joint.long()).flatten()
        return cells.bincount(minlength=math.prod(shape)).view(shape)

    def _draw(self, layer: Layer) -> Tensor:
        """Numbers (S, order) of neurons, in every row different ones."""
        _check_size(layer, self.order)
        if math.comb(layer.neurons, self.order) <= self.limit:
            return torch.tensor(list(combinations(range(layer.neurons), self.order)))
        generator = torch.Generator().manual_seed(derive("subsets", self.seed, layer.name))
        drawn = torch.zeros(self.limit, 0, dtype=torch.int64)
        for last in range(layer.neurons - self.order, layer.neurons):  # Floyd's sampling
            new = torch.randint(last + 1, (self.limit, 1), generator=generator)
            new = torch.where((drawn == new).any(1, keepdim=True), last, new)
            drawn = torch.cat([drawn, new], 1)
        return drawn

    def entropy(self, miller_madow: bool = False) -> Entropy:
        """The mean over the subsets, 0 to `order` bits for each class, with its standard error.

        `miller_madow` as in `FirstOrder.entropy`. `PsplibError` if there are no data, or none of
        some class.
        """
        self._finish()
        by_class, errors = {}, {}
        for name, counts in self.counts.items():
            bits = _bits(counts, miller_madow).cpu()
            by_class[name], subsets = bits.mean(1), bits.shape[1]
            is_all = math.comb(self.layers[name].neurons, self.order) <= self.limit
            errors[name] = 0.0 if is_all else float(bits.sum(0).std()) / math.sqrt(subsets)
        return Entropy(by_class, errors)


def entropy(model: nn.Module, data: Minibatches, **settings: Any) -> Entropy:
    """The PSP-entropy of first order of a network on data, layer by layer (Eq. 5, in bits); the
    settings and the errors are those of `psp.observe`."""
    first = FirstOrder()
    observe(model, data, first, **settings)
    return first.entropy()


def given_class(active: Tensor, samples: Tensor, miller_madow: bool = False) -> Tensor:
    """H(z | c) in bits, Eq. (4), of neurons that are `active` (C, n) on so many of the `samples`
    (C,) of each class: (C, n) float64. `miller_madow` as in `FirstOrder.neurons`."""
    return _bits(torch.stack([active, samples[:, None] - active], -1), miller_madow)


def _cell(count: Tensor, samples: Tensor, miller_madow: bool) -> Tensor:
    """What a state adds to an entropy in bits, float64, if `count` of the samples are in it."""
    bits = torch.special.entr(count.double() / samples) / math.log(2)
    # Miller and Madow add (K - 1) of these for K occupied states.
    return bits + (count > 0) * _excess(samples, miller_madow)


def _excess(samples: Tensor, miller_madow: bool) -> Tensor:
    return miller_madow / (2 * math.log(2) * samples.double())


def _bits(counts: Tensor, miller_madow: bool) -> Tensor:
    """The entropy (...) in bits, float64, of counts (..., K) of K states."""
    samples = counts.sum(-1, keepdim=True)
    excess = _excess(samples.squeeze(-1), miller_madow)
    return _cell(counts, samples, miller_madow).sum(-1) - excess


def _times(count: Tensor, like: Tensor) -> Tensor:
    """How often each number occurs among the elements of an integer tensor."""
    return count.flatten().bincount(minlength=len(like))


def _plus(count: Tensor, new: Tensor) -> Tensor:
    """The sum; nothing has been counted yet where `count` is empty."""
    return count + new.to(count.device) if len(count) else new


def _same(one: Layer, other: Layer) -> bool:
    return one is other or (
        one.neurons == other.neurons and torch.equal(one.watched, other.watched)
    )


def _check_size(layer: Layer, order: int) -> None:
    if layer.neurons < order:
        raise PsplibError(
            f"An entropy of order {order} needs layers of at least as many neurons; "
            f"{layer.name} has {layer.neurons}."
        )
