"""How far the states and activities of neurons tell the class: "features less correlated to
specific classes" (abstract of the paper), by two measures that may disagree."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from psplib.analysis.entropy import FirstOrder, given_class
from psplib.analysis.psp import Observation


def information(active: Tensor, samples: Tensor) -> Tensor:
    """I(state; class) in bits of neurons that are `active` (C, n) on so many of the `samples` (C,)
    of each class: the entropy of the state less its mean given the class, (n,) float64."""
    share = samples.double() / samples.sum()
    state = given_class(active.sum(0, keepdim=True), samples.sum()[None])[0]
    return (state - share @ given_class(active, samples)).clamp(min=0)


def selectivity(means: Tensor) -> Tensor:
    """Class-selectivity index of neurons with mean activities (C, n) >= 0: (a - b) / (a + b), a the
    largest mean of a class, b the mean of the others; 0 to 1, and NaN where all are zero.

    Source: Morcos et al., On the importance of single directions for generalization (2018).
    """
    largest = means.max(0).values
    others = (means.sum(0) - largest) / (len(means) - 1)
    return (largest - others) / (largest + others)


@dataclass(kw_only=True)
class Features(FirstOrder):
    """Probe of both, neuron by neuron: beside the `counts` of active states the sums of `activity`
    max(0, z) by class, (C, n) for each of the `layers`."""

    activity: dict[str, Tensor] = field(default_factory=dict)

    def update(self, seen: Observation) -> None:
        """Take in a minibatch. `PsplibError` if it is of other neurons than those before."""
        super().update(seen)
        for layer, z in zip(seen.layers, seen.z, strict=True):
            sums = seen.onehot.t().double() @ z.relu().double()
            self.activity[layer.name] = self.activity.get(layer.name, 0) + sums

    def by_layer(self) -> dict[str, dict[str, float]]:
        """For each layer its `neurons`, how many of them are `active` on any sample, and the means
        over these of `information` (bits) and `selectivity`, zero where there are none."""
        found = {}
        for name, layer in self.layers.items():
            is_active = self.counts[name].sum(0) > 0
            means = self.activity[name][:, is_active] / self.samples[:, None]
            tells = information(self.counts[name][:, is_active], self.samples)
            among = max(1, int(is_active.sum()))
            found[name] = {
                "neurons": layer.neurons,
                "active": int(is_active.sum()),
                "information": float(tells.sum()) / among,
                "selectivity": float(selectivity(means).sum()) / among,
            }
        return found
