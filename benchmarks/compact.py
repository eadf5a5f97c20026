"""Forward and backward of LeNet-5 at 99.5 % sparsity, batch 100: dense against compact.

Both go the way of `training.Learner`: images channels last, pooling before ReLU. `python -m
benchmarks.compact` prints milliseconds and their ratio; the contenders take turns.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch

from psplib import chain, experiments, models, runs
from psplib.data import Data, Split
from psplib.lobster import Lobster
from psplib.masks import Mask
from psplib.runs import Store
from psplib.training import Learner, flat

SPARSITY, BATCH, STEPS, ROUNDS = 0.995, 100, 4, 7


def trained_mask(store: Store) -> tuple[str, Mask] | None:
    """The first mask of at least that sparsity in a LeNet-5's gradual run, if a store has one."""
    for path in sorted(store.root.glob("lobster/*/config.json")):
        fields = json.loads(path.read_text())
        if fields["architecture"] != "lenet-5":
            continue
        config = Lobster(**{k: v for k, v in fields.items() if k != "type"})
        if not store.has(config):
            continue
        points = store.load(config).table("points")
        sparse = points.loc[points["sparsity"] >= SPARSITY, "point"]
        if len(sparse):
            where = f"{config.data}, seed {config.seed}, point {sparse.iloc[0]}"
            return where, experiments.point_mask(config, int(sparse.iloc[0]), store)
    return None


# Live units of the three hidden layers, and survivors of the four layers: near those of LOBSTER.
UNITS, SURVIVORS = (1, 8, 20, 80, 10), (100, 600, 1200, 250)


def structured_mask() -> Mask:
    """A mask of that sparsity whose survivors lie among `UNITS`, at random."""
    model = models.build("lenet-5", 0)
    dense = Mask.dense(model)
    flat_mask = torch.zeros_like(dense.flat)
    parts = dict(dense.split(flat_mask))
    generator = torch.Generator().manual_seed(0)
    for i, (name, kept) in enumerate(zip(("conv1", "conv2", "fc1", "fc2"), SURVIVORS, strict=True)):
        columns = UNITS[i] * (16 if name == "fc1" else 1)
        block = parts[f"{name}.weight"][: UNITS[i + 1], :columns]
        chance = torch.rand(block.shape, generator=generator)
        block.copy_(chance >= chance.flatten().topk(kept).values[-1])
    return dense.with_flat(flat_mask)


def differentiate(mask: Mask) -> tuple[Learner, Callable[[], None]]:
    """A learner, and one forward and backward pass of it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 1, 28, 28, generator=generator)
    split = Split(images, torch.arange(BATCH) % 10)
    model = models.build("lenet-5", 0)
    noise = Data("noise", "benchmark", "0" * 64, (0.0,), (1.0,), split, split, split)
    learner = Learner(model, mask, noise, BATCH)
    learner.weights = flat(model)
    batch = learner.splits["train"]
    gradient = chain.gradient(learner.model, mask.flat[learner.compact.index])
    return learner, lambda: gradient(batch.x, batch.y)


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
    trained = trained_mask(runs.local())
    where, mask = trained or ("no trained network at hand: a structured mask", structured_mask())
    _, dense = differentiate(Mask.dense(models.build("lenet-5", 0)))
    learner, small = differentiate(mask)
    units = "-".join(map(str, learner.compact.units))
    print(f"LeNet-5, forward and backward, batch {BATCH}; torch {torch.__version__}")
    print(f"{mask.sparsity:.2%} pruned, live units {units} ({where})")
    print(f"{'threads':>8}{'dense, ms':>12}{'compact, ms':>14}{'ratio':>8}")
    threads = torch.get_num_threads()
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        full, compact = milliseconds([dense, small])
        print(f"{count:8}{full:12.2f}{compact:14.2f}{full / compact:8.1f}", flush=True)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
