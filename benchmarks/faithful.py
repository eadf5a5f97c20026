"""What it costs to be sure that what is computed is the user's network: seconds of the processor in
the checks of `psplib.nn.faithful`, as a share of the whole run that they belong to; to stay below
1 % of a run of real size: of the entropies, what a census observes.

`python -m benchmarks.faithful`, about ten minutes. One thread, whose time nobody else's work
adds to; of some repetitions the median share, and the smallest and the largest. A run on a few
hundred images, as those of the smoke scale, takes milliseconds and pays more: a check costs the
same, whatever the data. That of resnet18's Hessian is a product and two gradients in float64.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import nn
from torchvision.models import resnet18

from benchmarks import problem
from psplib.analysis import eigen, hessian, landscape, psp
from psplib.analysis.entropy import FirstOrder, SecondOrder
from psplib.nn import data, models
from psplib.nn.data import Data, Split
from psplib.nn.faithful import Own
from psplib.nn.masks import Mask
from psplib.training import engines
from psplib.training.fit import order
from psplib.training.trainer import flat
from psplib.training.update import Sgd

# Repetitions of a run, unless they take longer than so many seconds of the processor.
TIMES, SECONDS = 5, 8
# Where the checks are: (owner, name).
CHECKS = (
    (Own, "same_as"),
    (Own, "check_samples"),
    (Own, "check_minibatch"),
    (hessian, "_agrees"),
    (hessian, "_check_differentiable"),
    (engines.Rewritten, "_is_itself"),
)


class Clock:
    """Seconds of the processor inside the checks, those within another counted once."""

    def __init__(self) -> None:
        self.spent, self.depth = 0.0, 0

    def around(self, check: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(check)
        def run(*args: Any, **settings: Any) -> Any:
            start, self.depth = time.process_time(), self.depth + 1
            try:
                return check(*args, **settings)
            finally:
                self.depth -= 1
                self.spent += 0 if self.depth else time.process_time() - start

        return run

    @contextmanager
    def watching(self) -> Iterator[Clock]:
        before = [(owner, name, getattr(owner, name)) for owner, name in CHECKS]
        for owner, name, check in before:
            setattr(owner, name, self.around(check))
        try:
            yield self
        finally:
            for owner, name, check in before:
                setattr(owner, name, check)


def first(split: Split, count: int) -> Split:
    return Split(split.x[:count], split.y[:count])


def runs_of(model: nn.Module, mask: Mask, loaded: Data) -> dict[str, Callable[[], object]]:
    weights = flat(model) * mask.flat
    plane = landscape.plane(weights, weights * 1.1 + mask.flat, mask, 0)
    few = first(loaded.train, 5000)
    return {
        "both entropies, 10,000 images": lambda: psp.observe(
            model, loaded.test, FirstOrder(), SecondOrder(), mask=mask
        ),
        "a row of a map, 5,000 images": lambda: landscape.sweep(
            model, plane, few, [k / 10 for k in range(11)], [0.0]
        ),
        "an epoch, 54,000 images": lambda: engines.CompactTrainer(model, [mask], loaded, 100).epoch(
            [order(len(loaded.train), 0, 1)], [Sgd(0.1)]
        ),
        "five eigenvalues, 5,000 images": lambda: eigen.leading(
            hessian.hessian(model, few, mask), 5, 1e-2
        ),
    }


def table() -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """The networks, and their runs by name."""
    mnist, colour = data.load_data("mnist"), data.load_data("cifar10")
    for network in (problem.dense(), problem.sparse()):
        yield network.title, runs_of(network.model(), network.mask, mnist)
    ours, theirs = models.build("resnet-20", 0), resnet18(num_classes=10)
    for title, model in (("ResNet-20 of psplib", ours), ("resnet18 of torchvision", theirs)):
        yield f"{title}, CIFAR-10", of_resnet(model, colour)


def of_resnet(model: nn.Module, loaded: Data) -> dict[str, Callable[[], object]]:
    seen, few = loaded.test, first(loaded.train, 2000)
    return {
        "entropy, 10,000 images": lambda: psp.observe(model, seen, FirstOrder()),
        "the top eigenvalue, 2,000 images": lambda: eigen.leading(
            hessian.hessian(model, few), 1, 1e-2
        ),
    }


def main() -> None:
    torch.set_num_threads(1)
    for title, runs in table():
        print(f"{title}\n{'':36}{'run':>9}{'checks':>10}   share (least to most, times)")
        for name, run in runs.items():
            rows: list[tuple[float, float]] = []
            with Clock().watching() as clock:
                while len(rows) < TIMES and sum(whole for _, whole in rows) < SECONDS:
                    clock.spent, start = 0.0, time.process_time()
                    run()
                    rows.append((clock.spent, time.process_time() - start))
            shares = [spent / whole for spent, whole in rows]
            spent, whole = (median(column) for column in zip(*rows, strict=True))
            print(
                f"  {name:34}{whole:7.2f} s{1e3 * spent:7.1f} ms{median(shares):8.2%} "
                f"({min(shares):.2%} to {max(shares):.2%}, {len(rows)})",
                flush=True,
            )


if __name__ == "__main__":
    main()
