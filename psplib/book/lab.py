"""A laboratory for LOBSTER: two classes of points in the plane, a small network, and knobs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, pi, sqrt

import torch
from torch import Tensor, nn

from psplib.analysis.entropy import FirstOrder
from psplib.analysis.psp import observe
from psplib.core import errors as checks
from psplib.core.errors import PsplibError
from psplib.core.seeds import derive
from psplib.nn.data import Data, Split
from psplib.nn.masks import Mask
from psplib.pruning.lobster import Gradual
from psplib.training.engines import CompactTrainer
from psplib.training.fit import train_epoch
from psplib.training.trainer import Score
from psplib.training.update import LobsterStep

TOYS = ("moons", "rings", "spirals")
SIZES = (400, 400, 1000)
NOISE = {"moons": 0.2, "rings": 0.12, "spirals": 0.06}
WIDTH = 32
# The square in which decisions are drawn, in standard deviations, and its cells along a side.
REACH, CELLS = 2.6, 80


@dataclass(frozen=True)
class Setting:
    """What the knobs say. `shrinkage` is lambda, `tolerance` TWT, `patience` PWE in epochs."""

    toy: str = "moons"
    shrinkage: float = 1e-3
    tolerance: float = 0.05
    patience: int = 5
    seed: int = 0
    epochs: int = 150
    learning_rate: float = 0.3
    batch_size: int = 20

    def __post_init__(self) -> None:
        checks.one_of("toy", self.toy, TOYS)
        for name, least in (("patience", 0), ("seed", 0), ("epochs", 1), ("batch_size", 1)):
            checks.whole_number(name, getattr(self, name), least)
        for name, below in (("shrinkage", 1), ("tolerance", inf), ("learning_rate", inf)):
            value = getattr(self, name)
            if not 0 <= value < below:
                raise PsplibError(f"{name} must lie in [0, {below}); got {value}.")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A network after an epoch and, if there was one, its pruning: all numbers are of this network.

    `weights` (P,) under `mask`; `scores` on each split; `pruned` parameters just now, those up to
    `threshold`; `neurons` (n,) holds H(z), Eq. (5) in bits on the test set, 0 to 2, for each layer;
    `regions` (CELLS, CELLS) is the probability of class 1 in the square of side 2 x REACH, rows
    from below.
    """

    epoch: int
    weights: Tensor
    mask: Mask
    scores: dict[str, Score]
    pruned: int
    threshold: float
    neurons: dict[str, Tensor]
    regions: Tensor

    @property
    def entropy(self) -> dict[str, float]:
        """The mean over the neurons of each layer, dead ones too, in bits."""
        return {layer: float(bits.mean()) for layer, bits in self.neurons.items()}

    @property
    def alive(self) -> dict[str, float]:
        """The mean over the live neurons of each layer, in bits; 0 where none is."""
        return {
            layer: float(bits[live].mean()) if bool(live.any()) else 0.0
            for (layer, bits), live in zip(self.neurons.items(), self.live.values(), strict=True)
        }

    @property
    def live(self) -> dict[str, Tensor]:
        """Which neurons (n,) of each layer still have a weight on either side."""
        fed = {name: mask.any(1) for name, mask in self.mask.items() if mask.ndim > 1}
        read = {name: mask.any(0) for name, mask in self.mask.items() if mask.ndim > 1}
        return {
            "relu1": fed["fc1.weight"] & read["fc2.weight"],
            "relu2": fed["fc2.weight"] & read["fc3.weight"],
        }


def toy(name: str, seed: int) -> Data:
    """Two balanced classes of points (N, 2) in the plane, normalised."""
    checks.one_of("toy", name, TOYS)
    generator = torch.Generator().manual_seed(derive("toy", name, seed))

    def split(size: int) -> Split:
        y = torch.arange(size) % 2
        t = torch.rand(size, generator=generator)
        noise = NOISE[name] * torch.randn(size, 2, generator=generator)
        return Split(_curve(name, t, y) + noise, y)

    splits = [split(size) for size in SIZES]
    mean, std = splits[0].x.mean(0), splits[0].x.std(0)
    splits = [Split((s.x - mean) / std, s.y) for s in splits]
    return Data(name, f"seed {seed}", "", tuple(mean.tolist()), tuple(std.tolist()), *splits)


def _curve(name: str, t: Tensor, y: Tensor) -> Tensor:
    """The points (N, 2) at `t` (N,) in [0, 1] of the curves that the classes lie on."""
    if name == "moons":
        angle = pi * (t + y)
        x = torch.stack([angle.cos() + y, angle.sin() + 0.5 * y], 1)
    elif name == "rings":
        angle, radius = 2 * pi * t, 0.5 + 0.5 * y
        x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    else:
        angle, radius = 3 * pi * t.sqrt(), t.sqrt() * (1 - 2 * y)
        x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    return x


def network(seed: int) -> nn.Sequential:
    """2-32-32-2 with PyTorch's default initialisation; the global random state is not used."""
    generator = torch.Generator().manual_seed(derive("initial values", seed))

    def linear(inputs: int, outputs: int) -> nn.Linear:
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
        for p in (layer.weight, layer.bias):
            nn.init.uniform_(p, -1 / sqrt(inputs), 1 / sqrt(inputs), generator=generator)
        return layer

    return nn.Sequential(
        OrderedDict(
            fc1=linear(2, WIDTH),
            relu1=nn.ReLU(),
            fc2=linear(WIDTH, WIDTH),
            relu2=nn.ReLU(),
            fc3=linear(WIDTH, 2),
        )
    )


def simulate(setting: Setting) -> Iterator[Snapshot]:
    """LOBSTER on a toy, epoch by epoch; the first snapshot is the network before its training."""
    model = network(setting.seed)
    points, dense = toy(setting.toy, setting.seed), Mask.dense(model)
    gradual = Gradual(
        CompactTrainer(model, [dense], points, setting.batch_size),
        0,
        setting.seed,
        LobsterStep(setting.learning_rate, setting.shrinkage),
        setting.epochs,
        tolerance=setting.tolerance,
        patience=setting.patience,
    )
    yield _look(gradual, 0, 0.0)
    while not gradual.is_done:
        train_epoch([gradual])
        kept, threshold = gradual.mask.kept, 0.0
        if gradual.is_at_plateau:
            gradual.settle()
            threshold = gradual.prune()
        yield _look(gradual, kept - gradual.mask.kept, threshold)


def _look(gradual: Gradual, pruned: int, threshold: float) -> Snapshot:
    weights, mask, model = gradual.weights, gradual.mask, gradual.trainer.full
    nn.utils.vector_to_parameters(weights, model.parameters())
    probe = FirstOrder()
    observe(model, gradual.trainer.data.test, probe, batch=SIZES[-1])
    side = torch.linspace(-REACH, REACH, CELLS)
    grid = torch.cartesian_prod(side, side).flip(1)
    with torch.inference_mode():
        regions = model(grid).softmax(1)[:, 1].view(CELLS, CELLS).clone()
    return Snapshot(
        gradual.epoch,
        weights,
        mask,
        {name: gradual.score(name) for name in ("train", "validation", "test")},
        pruned,
        threshold,
        {name: bits.sum(0) for name, bits in probe.neurons().items()},
        regions,
    )
