"""Ten rewound networks side by side: psplib against its own dense trainer, one run after another,
and against the loop that one would write (DataLoader, torchvision transforms, a mask after every
step). An epoch of MNIST, validation included.

psplib trains each network in its own compact form, one process a core, as `reproduce` does; "in one
program" is the engine of a GPU (`StackedTrainer`), on this CPU. `python -m
benchmarks.replicas device` measures that engine on a GPU instead, and projects the time of the
whole paper.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, random_split

from psplib.core import errors as checks
from psplib.experiments import designs, scales
from psplib.nn import data, models
from psplib.nn.masks import Mask
from psplib.pruning.lobster import Lobster
from psplib.pruning.retraining import Retraining
from psplib.runs import store as runs
from psplib.training.engines import CompactTrainer, StackedTrainer
from psplib.training.fit import crops, order
from psplib.training.precision import PRECISIONS
from psplib.training.update import Sgd

from .lobster_epoch import Mnist

REPLICAS, BATCH, ROUNDS = 10, 100, 3
SPARSITY = {"lenet-300": 0.95, "lenet-5": 0.98}
GRADUAL = {
    "lenet-300": Lobster("lenet-300", "mnist", 0),
    "lenet-5": Lobster("lenet-5", "mnist", 0, target_sparsity=0.9957),
}


def ticket(name: str) -> Mask:
    """The mask of the published gradual run at its first point of that sparsity."""
    store = runs.published()
    points = store.load(GRADUAL[name]).table("points")
    point = int(points.loc[points["sparsity"] >= SPARSITY[name], "point"].iloc[0])
    return GRADUAL[name].mask(point, store)


Epoch = Callable[[int], None]


def learner(name: str, mask: Mask, precision: str = "float32") -> Epoch:
    """An epoch of one network in compact form."""
    model, loaded = models.build(name, 0), data.load_data("mnist")
    one = CompactTrainer(model, [mask], loaded, BATCH, precision)

    def epoch(number: int) -> None:
        one.epoch([order(len(loaded.train), number, 1)], [Sgd(0.1)])
        one.scores("validation")

    return epoch


def in_one_program(name: str) -> Epoch:
    """An epoch of all networks in one program."""
    model, loaded = models.build(name, 0), data.load_data("mnist")
    team = StackedTrainer(model, [ticket(name)] * REPLICAS, loaded, BATCH)

    def epoch(number: int) -> None:
        orders = [order(len(loaded.train), r, number) for r in range(REPLICAS)]
        team.epoch(orders, [Sgd(0.1)] * REPLICAS)
        team.scores("validation")

    return epoch


def plain(name: str) -> Epoch:
    """An epoch of one network in the plain loop."""
    train, validation = random_split(Mnist(), [54000, 6000])
    loaders = DataLoader(train, BATCH, shuffle=True), DataLoader(validation, BATCH)
    model, mask = models.build(name, 0), ticket(name)
    mask.apply_(model)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    masks = [m.float() for _, m in mask.items()]

    def epoch(_: int) -> None:
        for x, y in loaders[0]:
            optimiser.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimiser.step()
            with torch.no_grad():
                for p, m in zip(model.parameters(), masks, strict=True):
                    p.mul_(m)
        with torch.no_grad():
            for x, y in loaders[1]:
                F.cross_entropy(model(x), y, reduction="sum").item()

    return epoch


def contender(what: str, name: str) -> Epoch:
    if what in PRECISIONS:
        torch.set_num_threads(1)
        return learner(name, ticket(name), what)
    if what == "together":
        return in_one_program(name)
    if what == "dense":
        torch.set_num_threads(1)
    if what.startswith("dense"):
        return learner(name, Mask.dense(models.build(name, 0)))
    return plain(name)


def child(what: str, name: str, epochs: int) -> None:
    """Say when ready, wait for a word, time epochs."""
    epoch = contender(what, name)
    epoch(0)
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    for number in range(1, epochs + 1):
        epoch(number)
    print(time.perf_counter() - start)


def measure(what: str, name: str, epochs: int, processes: int = 1) -> float:
    """Seconds until every one of the processes, begun at once, has made its epochs."""
    words = [sys.executable, "-m", "benchmarks.replicas", what, name, str(epochs)]
    pipe = subprocess.PIPE
    workers = [
        subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) for _ in range(processes)
    ]
    for worker in workers:
        if worker.stdout is None or worker.stdout.readline() != "ready\n":
            raise SystemExit(f"The contender {what} failed.")
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return max(float(worker.communicate()[0]) for worker in workers)


def main() -> None:
    cores = checks.jobs(torch.device("cpu"), None)
    print(f"{REPLICAS} rewound networks on MNIST, seconds of an epoch of all of them, validation")
    print(f"included; torch {torch.__version__}, {cores} cores, median of {ROUNDS} rounds in turn")
    each = REPLICAS // cores
    # What is measured, in how many processes, how often, and how many networks that stands for.
    plan = {
        "psplib": ("float32", cores, each, each * cores),
        "psplib, in bfloat16": ("bfloat16", cores, each, each * cores),
        "psplib, in one program": ("together", 1, 1, REPLICAS),
        # A run has one thread, so that its bits do not depend on the machine; it could have all.
        "psplib, dense, one after another": ("dense", 1, 2, 2),
        "the same with all threads": ("dense, all threads", 1, 2, 2),
        "plain loop, one after another": ("plain", 1, 1, 1),
    }
    for name, sparsity in SPARSITY.items():
        print(f"\n{name}, {ticket(name).sparsity:.2%} pruned (at least {sparsity:.0%})")
        found: dict[str, list[float]] = {title: [] for title in plan}
        for _ in range(ROUNDS):
            for title, (what, processes, epochs, networks) in plan.items():
                seconds = measure(what, name, epochs, processes)
                found[title].append(seconds * REPLICAS / networks)
        seconds = {title: statistics.median(values) for title, values in found.items()}
        print(f"{'':36}{'seconds':>8}{'/ psplib':>10}{'/ bfloat16':>12}")
        for title, value in seconds.items():
            ratios = [value / seconds[base] for base in ("psplib", "psplib, in bfloat16")]
            print(f"{title:36}{value:8.2f}{ratios[0]:10.2f}{ratios[1]:12.2f}")
        precision(name)


def precision(name: str, epochs: int = 5, replicas: int = 3) -> None:
    """What bfloat16 does to the result: rewound networks, the same orders in both."""
    loaded, model, mask = data.load_data("mnist"), models.build(name, 0), ticket(name)
    print(f"Test error in % after {epochs} epochs, {replicas} orders of the samples")
    for precision in ("float32", "bfloat16"):
        errors = []
        for replica in range(replicas):
            one = CompactTrainer(model, [mask], loaded, BATCH, precision)
            for epoch in range(epochs):
                one.epoch([order(len(loaded.train), replica, epoch)], [Sgd(0.1)])
            errors.append(100 * one.scores("test")[0].error)
        listed = "  ".join(f"{error:.2f}" for error in errors)
        print(f"{precision:10} {listed}   mean {statistics.mean(errors):.3f}")


# Multiplications of an image, forward; a step takes three times as many.
PRODUCTS = {"lenet-5": 2_293_000, "resnet-32": 68_900_000}


def on_device(name: str = "cuda", sizes: tuple[int, ...] = (1, 10, 50)) -> None:
    """Seconds of an epoch and of a replica's epoch, the share of the device's peak, the ratio to
    the plain loop on the same device, and the projected time of the whole paper."""
    device = checks.device(name)
    side = 8192 if device.type == "cuda" else 512
    a = torch.randn(side, side, device=device)
    peak = 2 * side**3 / _seconds(lambda: a @ a, device)
    print(f"{device}: matrix products of float32 at {peak / 1e12:.1f} TFLOP/s")
    for architecture, source, batch in (("lenet-5", "mnist", 100), ("resnet-32", "cifar10", 128)):
        loaded = data.load_data(source, device=device, samples=None if side > 512 else 2 * batch)
        model = models.build(architecture, 0)
        update = Sgd(0.1, 0.9 if batch == 128 else 0.0, 1e-4 if batch == 128 else 0.0)
        plain_seconds = _plain_on(device, model, source, batch)
        for size in sizes:
            team = StackedTrainer(model, [Mask.dense(model)] * size, loaded, batch)
            orders = [order(len(loaded.train), r, 0) for r in range(size)]
            cuts = [c for r in range(size) if (c := crops(loaded, r, 0)) is not None]
            epoch = partial(team.epoch, orders, [update] * size, cuts or None)
            seconds = _seconds(epoch, device)
            rate = 6 * PRODUCTS[architecture] * len(loaded.train) * size / seconds
            ratio = plain_seconds * len(loaded.train) * size / seconds
            print(
                f"{architecture} x {size}: {seconds:.3f} s an epoch, {seconds / size:.4f} s a "
                f"replica's, {rate / peak:.1%} of the peak, {ratio:.0f}x the plain loop"
            )
        epochs = replica_epochs(architecture, source)
        print(f"{architecture}, {source}: {epochs:,} replica-epochs in the paper, ", end="")
        print(f"{epochs * seconds / size / 60:.1f} minutes at that speed")


def replica_epochs(architecture: str, source: str) -> int:
    """Epochs of single networks that the retrainings of the paper's scale take; a gradual run adds
    about 1,000 for each of its seeds."""
    total = 0
    for name in scales.EXPERIMENTS:
        panel = scales.experiment(name, "paper")
        if isinstance(panel, designs.Panel):
            lobster = panel.lobsters[0]
            if (lobster.architecture, lobster.data) == (architecture, source):
                some = [2.0**-k for k in range(panel.most_points + 1)]
                every: list[Retraining] = [panel.dense, *panel.retrainings(some)]
                total += sum(len(c.replicas) * c.epochs for c in every)
                total += 1000 * len(panel.lobsters)
    return total


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    def run() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    run()
    return min(run() for _ in range(2))


def _plain_on(device: torch.device, model: nn.Module, source: str, batch: int) -> float:
    """Seconds an image of the plain loop: images through a DataLoader, one network."""
    loaded = data.load_data(source, samples=20 * batch)
    pairs = list(zip(loaded.train.x, loaded.train.y, strict=True))
    network = models.build("lenet-5" if source == "mnist" else "resnet-32", 1).to(device)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)

    def work() -> None:
        for x, y in DataLoader(pairs, batch, shuffle=True):  # type: ignore[arg-type]
            optimiser.zero_grad()
            F.cross_entropy(network(x.to(device)), y.to(device)).backward()
            optimiser.step()

    return _seconds(work, device) / len(pairs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["device"]:
        on_device(*sys.argv[2:3])
    elif len(sys.argv) > 1:
        child(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
