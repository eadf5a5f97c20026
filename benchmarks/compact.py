"""Forward and backward of LeNet-5 at 99.5 % sparsity, batch 100: dense against compact.

Both go the way of `CompactTrainer`: images channels last, pooling before ReLU. `python -m
benchmarks.compact` prints milliseconds and their ratio; the contenders take turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks import problem
from psplib.nn import models
from psplib.nn.data import Data, Split
from psplib.nn.masks import Mask
from psplib.training.engines import CompactTrainer
from psplib.training.gradient import gradient

BATCH, STEPS, ROUNDS = 100, 4, 7


def differentiate(mask: Mask) -> tuple[CompactTrainer, Callable[[], None]]:
    """A trainer, and one forward and backward pass of it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 1, 28, 28, generator=generator)
    split = Split(images, torch.arange(BATCH) % 10)
    model = models.build("lenet-5", 0)
    noise = Data("noise", "benchmark", "0" * 64, (0.0,), (1.0,), split, split, split)
    trainer = CompactTrainer(model, [mask], noise, BATCH)
    batch = trainer.splits["train"]
    backward = gradient(trainer.model)
    return trainer, lambda: backward(batch.x, batch.y)


def milliseconds(contenders: list[Callable[[], None]]) -> list[float]:
    """Median time of a call of each, over rounds in which they take turns."""
    found: list[list[float]] = [[] for _ in contenders]
    for _ in range(ROUNDS):
        for call, times in zip(contenders, found, strict=True):
            call()
            start = time.perf_counter()
            for _ in range(STEPS):
                call()
            times.append(1000 * (time.perf_counter() - start) / STEPS)
    return [statistics.median(times) for times in found]


def main() -> None:
    network = problem.sparse()
    _, dense = differentiate(Mask.dense(models.build("lenet-5", 0)))
    trainer, small = differentiate(network.mask)
    units = "-".join(map(str, trainer.compact.units))
    print(f"LeNet-5, forward and backward, batch {BATCH}; torch {torch.__version__}")
    print(f"{network.title}, live units {units}")
    print(f"{'threads':>8}{'dense, ms':>12}{'compact, ms':>14}{'ratio':>8}")
    threads = torch.get_num_threads()
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        full, compact = milliseconds([dense, small])
        print(f"{count:8}{full:12.2f}{compact:14.2f}{full / compact:8.1f}", flush=True)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
