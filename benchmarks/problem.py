"""The two LeNet-5 that the benchmarks share: dense after an epoch, and as sparse as the paper's."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from psplib.core.errors import PsplibError
from psplib.nn import data, models
from psplib.nn.masks import Mask, magnitude
from psplib.pruning.lobster import Lobster
from psplib.runs.store import Store, local, published
from psplib.training.engines import CompactTrainer
from psplib.training.fit import order
from psplib.training.trainer import flat
from psplib.training.update import Sgd

SPARSITY = 0.995
# Live units of the stand-in: gradual pruning, too, leaves few.
UNITS = (8, 15, 60)


@dataclass(frozen=True)
class Network:
    """Weights (P,) under a mask, and where they come from."""

    where: str
    mask: Mask
    weights: Tensor

    def model(self) -> nn.Module:
        model = models.build("lenet-5", 0)
        nn.utils.vector_to_parameters(self.weights.clone(), model.parameters())
        return model

    @property
    def title(self) -> str:
        return f"LeNet-5, {self.mask.sparsity:.2%} pruned ({self.where})"


def dense() -> Network:
    """Nothing pruned, an epoch of SGD."""
    model = models.build("lenet-5", 0)
    return _trained("an epoch of SGD", Mask.dense(model), flat(model))


def sparse() -> Network:
    """The gradual solution at 99.5 % sparsity or more, published or of this machine; where there is
    none, a stand-in: the largest weights of the largest units, trained for another epoch."""
    stores = [local()]
    with contextlib.suppress(PsplibError):
        stores.insert(0, published())
    for store in stores:
        if found := _gradual(store):
            return found
    before = dense()
    mask = _few_units(before)
    return _trained("a stand-in, two epochs of SGD", mask, before.weights)


def _gradual(store: Store) -> Network | None:
    for path in sorted(store.root.glob("lobster/*/config.json")):
        fields = json.loads(path.read_text())
        if (fields["architecture"], fields["data"]) != ("lenet-5", "mnist"):
            continue
        config = Lobster(**{k: v for k, v in fields.items() if k != "type"})
        points = store.load(config).table("points")
        found = points.loc[points["sparsity"] >= SPARSITY, "point"]
        if len(found):
            point = int(found.iloc[0])
            mask = config.mask(point, store)
            weights = config.weights(point, store)
            return Network(f"LOBSTER, seed {config.seed}, point {point}", mask, weights)
    return None


def _trained(where: str, mask: Mask, weights: Tensor) -> Network:
    loaded = data.load_data("mnist")
    trainer = CompactTrainer(models.build("lenet-5", 0), [mask], loaded, 100)
    trainer.set_weights(0, weights)
    trainer.epoch([order(len(loaded.train), 0, 1)], [Sgd(0.1)])
    return Network(where, mask, trainer.weights[0])


def _few_units(network: Network) -> Mask:
    parts = dict(network.mask.split(network.weights))
    live = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in parts.items()}

    def largest(weight: Tensor, units: int) -> Tensor:
        return weight.flatten(1).norm(dim=1).topk(units).indices

    conv1 = largest(parts["conv1.weight"], UNITS[0])
    conv2 = largest(parts["conv2.weight"][:, conv1], UNITS[1])
    maps = (conv2[:, None] * 16 + torch.arange(16)).flatten()
    fc1 = largest(parts["fc1.weight"][:, maps], UNITS[2])
    live["conv1.weight"][conv1] = live["conv1.bias"][conv1] = True
    live["conv2.weight"][conv2[:, None], conv1] = live["conv2.bias"][conv2] = True
    live["fc1.weight"][fc1[:, None], maps] = live["fc1.bias"][fc1] = True
    live["fc2.weight"][:, fc1] = live["fc2.bias"][:] = True
    within = network.mask.with_flat(torch.cat([m.flatten() for m in live.values()]))
    return magnitude(network.weights, within, round((1 - SPARSITY) * len(within.flat)))
