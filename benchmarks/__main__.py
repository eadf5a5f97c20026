"""Print every benchmark. Contenders take turns, each in a process of its own."""

from __future__ import annotations

import statistics
import subprocess
import sys

import torch

ROUNDS = 3
CONTENDERS = {"psplib": 7, "plain loop": 1, "plain loop, 2 workers": 1}


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
    rounds: dict[str, list[list[float]]] = {name: [] for name in CONTENDERS}
    for _ in range(ROUNDS):
        for name, epochs in CONTENDERS.items():
            rounds[name].append(measure(name, epochs))
    seconds = {name: statistics.median(r[0] for r in found) for name, found in rounds.items()}
    print(f"{'':24}{'seconds':>8}{'ratio':>8}{'GiB':>8}{'loss':>8}")
    for name, found in rounds.items():
        ratio = seconds[name] / seconds["psplib"]
        peak = max(r[2] for r in found)
        print(f"{name:24}{seconds[name]:8.2f}{ratio:8.1f}{peak:8.2f}{found[-1][1]:8.4f}")


if __name__ == "__main__":
    main()
