"""A point of a map of LeNet-5 at 99.5 % sparsity over 10,000 MNIST training images: psplib against
PyPI's loss-landscapes.

`python -m benchmarks.landscape` prints seconds a point and what a map of 51 x 51 points takes; with
`map`, it makes that map.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import problem
from psplib.analysis import landscape, psp
from psplib.nn import compact, data, models
from psplib.nn.data import Split
from psplib.training.trainer import flat

try:
    import loss_landscapes
    from loss_landscapes.metrics import Loss
except ImportError:
    loss_landscapes = None

SAMPLES, ROUNDS, PEER_STEPS = 10_000, 3, 2
GRID = [k / 26 for k in range(-12, 39)]


def moved(weights: torch.Tensor) -> nn.Module:
    """LeNet-5 with other weights (P,)."""
    model = models.build("lenet-5", 0)
    nn.utils.vector_to_parameters(weights.float().clone(), model.parameters())
    return model


def contenders(plane: landscape.Plane, split: Split) -> dict[str, Callable[[], tuple[float, int]]]:
    """Each computes some points; returns the loss at the one that is half a step beyond G, in the
    second direction, and their number."""
    model, betas = moved(plane.origin), [1 / PEER_STEPS, 0.0]
    loss_only: landscape.Probes = {"score": psp.LossAndError}

    def ours(probes: landscape.Probes) -> tuple[float, int]:
        table = landscape.sweep(model, plane, split, GRID, betas, probes)
        return float(table["loss"][GRID.index(0.0)]), len(table)

    def peer(small: bool) -> tuple[float, int]:
        ends = [moved(plane.at(*at)) for at in ((0, 0), (1, 0), (0, 1))]
        if small:
            forms = [compact.compact(end, plane.mask, sparse=False) for end in ends]
            for form, end in zip(forms, ends, strict=True):
                form.load_(flat(end))
            ends = [form.model for form in forms]
        found = loss_landscapes.planar_interpolation(
            *ends, Loss(F.cross_entropy, split.x, split.y), steps=PEER_STEPS
        )
        return float(found[0][0]), found.size

    found: dict[str, Callable[[], tuple[float, int]]] = {
        "psplib, loss and error": lambda: ours(loss_only),
        "psplib, all of Figs. 2a to 4": lambda: ours(landscape.PROBES),
    }
    if loss_landscapes:
        found["loss-landscapes, loss"] = lambda: peer(False)
        found["the same, compact network"] = lambda: peer(True)
    return found


def main(whole: bool = False) -> None:
    network = problem.sparse()
    # From G to the initial values under its mask.
    initial = flat(models.build("lenet-5", 0)) * network.mask.flat
    plane = landscape.plane(network.weights, initial, network.mask, 0)
    images = data.load_data("mnist").train
    split = Split(images.x[:SAMPLES], images.y[:SAMPLES])
    units = compact.compact(network.model(), network.mask, sparse=False).units
    points = len(GRID) ** 2
    print(f"{network.title}, live units {'-'.join(map(str, units))};")
    print(f"{SAMPLES} images; torch {torch.__version__}, {torch.get_num_threads()} threads")
    if whole:
        start = time.perf_counter()
        landscape.sweep(moved(plane.origin), plane, split, GRID, GRID)
        seconds = time.perf_counter() - start
        print(f"all of Figs. 2a to 4 at {points} points: {seconds:.0f} s")
        return
    if not loss_landscapes:
        print("loss-landscapes is not installed: psplib only")
    rounds: dict[str, list[float]] = {}
    losses: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, run in contenders(plane, split).items():
            start = time.perf_counter()
            losses[name], count = run()
            rounds.setdefault(name, []).append((time.perf_counter() - start) / count)
    print(f"median of {ROUNDS} rounds in turn")
    print(f"{'':30}{'s a point':>10}{'ratio':>8}{'loss':>10}{'51 x 51, s':>12}")
    seconds = {name: statistics.median(found) for name, found in rounds.items()}
    for name, each in seconds.items():
        ratio = each / seconds["psplib, loss and error"]
        print(f"{name:30}{each:10.3f}{ratio:8.1f}{losses[name]:10.6f}{each * points:12.0f}")


if __name__ == "__main__":
    main("map" in sys.argv[1:])
