"""A LOBSTER epoch of LeNet-300 (54,000 MNIST images, batch 100, validation included): psplib
against the loop that one would write: DataLoader, torchvision transforms, SGD, the regulariser
parameter by parameter."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset, random_split
from torchvision import datasets, transforms

from psplib.nn import data, models
from psplib.nn.masks import Mask
from psplib.pruning.lobster import Lobster
from psplib.training.engines import CompactTrainer
from psplib.training.fit import order
from psplib.training.update import LobsterStep

CONFIG = Lobster(architecture="lenet-300", data="mnist", seed=0)


def psplib_epoch() -> Callable[[int], float]:
    """An epoch of psplib; returns the validation loss."""
    loaded = data.load_data("mnist")
    model = models.build(CONFIG.architecture, CONFIG.seed)
    trainer = CompactTrainer(model, [Mask.dense(model)], loaded, CONFIG.batch_size)
    update = LobsterStep(CONFIG.learning_rate, CONFIG.shrinkage)

    def epoch(number: int) -> float:
        trainer.epoch([order(len(loaded.train), CONFIG.seed, number)], [update])
        return trainer.scores("validation")[0].loss

    return epoch


class Mnist(datasets.MNIST):
    """torchvision's MNIST, its images taken from the same file as psplib's."""

    def __init__(self) -> None:
        arrays, _, _ = data._pinned("mnist", download=False)
        self.data = torch.from_numpy(arrays["x_train"])
        self.targets = torch.from_numpy(arrays["y_train"]).long()
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        )
        self.target_transform = None


def plain_epoch(workers: int) -> Callable[[int], float]:
    """The plain loop; returns the validation loss."""
    parts: list[Subset] = random_split(Mnist(), [54000, 6000])
    train = DataLoader(parts[0], CONFIG.batch_size, shuffle=True, num_workers=workers)
    validation = DataLoader(parts[1], CONFIG.batch_size, num_workers=workers)
    model = models.build(CONFIG.architecture, CONFIG.seed)
    optimiser = torch.optim.SGD(model.parameters(), CONFIG.learning_rate)

    def epoch(number: int) -> float:
        for x, y in train:
            optimiser.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimiser.step()
            with torch.no_grad():
                for p in model.parameters():
                    insensitivity = torch.clamp(1 - p.grad.abs(), min=0)
                    p -= CONFIG.shrinkage * p * insensitivity
        loss = 0.0
        with torch.no_grad():
            for x, y in validation:
                loss += F.cross_entropy(model(x), y, reduction="sum").item()
        return loss / len(parts[1])

    return epoch


ROUNDS = 3
EPOCHS = {"psplib": 7, "plain loop": 1, "plain loop, 2 workers": 1}
CONTENDERS = {
    "psplib": psplib_epoch,
    "plain loop": lambda: plain_epoch(0),
    "plain loop, 2 workers": lambda: plain_epoch(2),
}


def run(contender: str, epochs: int) -> None:
    """Time epochs after one that is not counted; print the median, the loss, the peak memory."""
    epoch = CONTENDERS[contender]()
    epoch(1)
    seconds, loss = [], 0.0
    for number in range(2, 2 + epochs):
        start = time.perf_counter()
        loss = epoch(number)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{np.median(seconds):.4f} {loss:.4f} {peak:.3f}")


def measure(contender: str, epochs: int) -> list[float]:
    """Median seconds of an epoch, validation loss, peak memory in GiB."""
    words = [sys.executable, "-m", "benchmarks.lobster_epoch", contender, str(epochs)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    print(f"A LOBSTER epoch of LeNet-300 on MNIST, validation included; torch {torch.__version__},")
    print(f"{torch.get_num_threads()} threads, median of {ROUNDS} rounds in turn")
    rounds: dict[str, list[list[float]]] = {name: [] for name in EPOCHS}
    for _ in range(ROUNDS):
        for name, epochs in EPOCHS.items():
            rounds[name].append(measure(name, epochs))
    seconds = {name: statistics.median(r[0] for r in found) for name, found in rounds.items()}
    print(f"{'':24}{'seconds':>8}{'ratio':>8}{'GiB':>8}{'loss':>8}")
    for name, found in rounds.items():
        ratio = seconds[name] / seconds["psplib"]
        peak = max(r[2] for r in found)
        print(f"{name:24}{seconds[name]:8.2f}{ratio:8.1f}{peak:8.2f}{found[-1][1]:8.4f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(sys.argv[1], int(sys.argv[2]))
    else:
        main()
