"""PSP-entropy of LeNet-5 on the 10,000 MNIST test images: psplib against the script that one would
write, each in a process of its own.

`python -m benchmarks.entropy` measures the seconds from the loaded network to the entropies and the
peak memory of the whole process.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks import problem
from psplib.analysis.entropy import FirstOrder, SecondOrder, Subsets
from psplib.analysis.psp import observe
from psplib.nn import data, models
from psplib.nn.compact import compact

Values = dict[str, float]


def first_order(model: nn.Module, test: data.Split) -> Values:
    first = FirstOrder()
    observe(model, test, first)
    return {"first": first.entropy().mean}


def pairs(model: nn.Module, test: data.Split) -> Values:
    second = SecondOrder()
    observe(model, test, second)
    return {name: found.mean for name, found in second.entropies().items()}


def everything(model: nn.Module, test: data.Split) -> Values:
    second, triples = SecondOrder(), Subsets(3)
    observe(model, test, second, triples)
    values = {name: found.mean for name, found in second.entropies().items()}
    return {"first": second.first.entropy().mean, **values, "third": triples.entropy().mean}


def plain_script(model: nn.Module, test: data.Split) -> Values:
    """First order, joint and mutual by full matrices of pairs, class by class."""
    states: dict[str, list[Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            states[name] = []
            module.register_forward_hook(
                lambda _, z, __, name=name: states[name].append((z[0] > 0).flatten(1))
            )
    with torch.no_grad():
        for x in test.x.split(200):
            model(x)

    def cell(count: Tensor, samples: int) -> Tensor:
        p = count / samples
        return torch.where(p > 0, -p * torch.log2(p), 0.0)

    first, joint = [], []
    for seen in map(torch.cat, states.values()):
        n, bits, both = seen.shape[1], 0.0, 0.0
        for c in range(10):
            s = seen[test.y == c].float()
            m, n1, n11 = len(s), s.sum(0), s.t() @ s
            bits += float((cell(n1, m) + cell(m - n1, m)).double().mean())
            entropy = cell(n11, m)
            entropy += cell(n1[:, None] - n11, m)
            entropy += cell(n1 - n11, m)
            entropy += cell(m - n1[:, None] - n1 + n11, m)
            both += float(entropy.triu_(1).sum(dtype=torch.float64)) / (n * (n - 1) / 2)
        first.append(bits)
        joint.append(both)
    values = {"first": sum(first) / 3, "joint": sum(joint) / 3}
    return {**values, "mutual": 2 * values["first"] - values["joint"]}


# What is measured, on which network, and the seconds it may take.
CONTENDERS: dict[str, tuple[Callable[[nn.Module, data.Split], Values], str, float | None]] = {
    "first order": (first_order, "dense", 5),
    "pairs": (pairs, "dense", 45),
    "plain script": (plain_script, "dense", None),
    "everything, sparse": (everything, "sparse", 5),
}


def prepare(folder: Path) -> None:
    """Leave the weights of both networks in a folder."""
    for name, network in (("dense", problem.dense()), ("sparse", problem.sparse())):
        units = compact(network.model(), network.mask, sparse=False).units[:3] or (20, 50, 500)
        print(f"{name}: {network.title}, live units {'-'.join(map(str, units))}")
        save_file({"weights": network.weights}, folder / name)


def measure(contender: str, folder: Path) -> None:
    compute, network, _ = CONTENDERS[contender]
    test = data.load_data("mnist").test
    model = models.build("lenet-5", 0)
    weights = load_file(folder / network)["weights"]
    nn.utils.vector_to_parameters(weights, model.parameters())
    model.requires_grad_(False)
    start = time.perf_counter()
    values = compute(model, test)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    limit = CONTENDERS[contender][2]
    print(f"{contender:22}{seconds:8.2f} s{f' (<= {limit:g})' if limit else '':10}{peak:6.2f} GiB  "
          + ", ".join(f"{name} {value:.6f}" for name, value in values.items()))  # fmt: skip


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        # A child's peak memory begins with its parent's: nothing large happens here.
        for task in ("prepare", *CONTENDERS):
            words = [sys.executable, "-m", "benchmarks.entropy", task, folder]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr.strip().splitlines()[-1])
            print(done.stdout, end="", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["prepare"]:
        prepare(Path(sys.argv[2]))
    elif len(sys.argv) > 1:
        measure(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
