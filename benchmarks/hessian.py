"""The five leading Hessian eigenvalues of LeNet-5 over 5,000 MNIST images: psplib, to residuals of
1e-3·λ₁, against the default answer of hessian-eigenthings, which is not converged.

    python -m benchmarks.hessian

Dense, and at 99.5 % sparsity (see `benchmarks.problem`).
Contenders take turns. Residuals are ‖Hv − λv‖ / λ₁, of the peer's vectors under psplib's operator.
The peer (hessian-eigenthings 1.0.0a5) is left out where it is not installed. On a machine that does
other things too, take one thread (OMP_NUM_THREADS=1) and read the seconds of the processor.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import problem
from psplib.analysis import eigen, hessian
from psplib.nn import data
from psplib.nn.data import Split
from psplib.nn.masks import Mask

SAMPLES = 5000
K = 5
# What the peer's double backward likes best here: 1.3, 1.2, 1.4 ms an image at 100, 250, 500.
PEER_BATCH = 250


@dataclass(frozen=True)
class Answer:
    """Seconds by the clock and of the processor, products, values (k,), vectors (k, P)."""

    seconds: float
    processor: float
    products: int
    values: Tensor
    vectors: Tensor


Found = tuple[int, Tensor, Tensor]


def psplib(model: nn.Module, split: Split, mask: Mask, subspace: str) -> Found:
    operator = hessian.hessian(model, split, mask, subspace)
    found = eigen.leading(operator, K)
    return found.products, found.values, operator.expand(found.vectors)


def eigenthings(model: nn.Module, split: Split) -> Found:
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

    batches = list(zip(split.x.split(PEER_BATCH), split.y.split(PEER_BATCH), strict=True))
    operator = HessianOperator(model, batches, supervised_loss(F.cross_entropy))
    found = lanczos(operator, k=K, seed=0)
    return found.iterations, found.eigenvalues.double(), found.eigenvectors.double()


def timed(contender: Callable[[], Found]) -> Answer:
    clock, processor = time.perf_counter(), time.process_time()
    found = contender()
    return Answer(time.perf_counter() - clock, time.process_time() - processor, *found)


def worst_residual(operator: hessian.Hessian, values: Tensor, vectors: Tensor) -> float:
    """In units of the largest eigenvalue; `vectors` are in full coordinates."""
    within = vectors[:, operator.coordinates]
    errors = [(operator @ v - x * v).norm() for x, v in zip(values, within, strict=True)]
    return float(torch.stack(errors).max() / values.abs().max())


def compare(title: str, model: nn.Module, split: Split, mask: Mask, rounds: int) -> None:
    """Print a table for one network: all of its contenders, in turns."""
    mask.apply_(model)
    subspaces = ("surviving", "all") if mask.sparsity else ("all",)
    contenders: dict[str, Callable[[], Found]] = {
        f"psplib, {s}": lambda s=s: psplib(model, split, mask, s) for s in subspaces
    }
    try:
        import hessian_eigenthings  # noqa: F401

        contenders["hessian-eigenthings"] = lambda: eigenthings(model, split)
    except ImportError:
        print("hessian-eigenthings is not installed: psplib only")
    answers: dict[str, list[Answer]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            answers[name].append(timed(contender))
    ours = f"psplib, {subspaces[0]}"
    seconds = {name: statistics.median(a.seconds for a in found) for name, found in answers.items()}
    busy = {name: statistics.median(a.processor for a in found) for name, found in answers.items()}
    print(f"\n{title:22}{'seconds':>9}{'ratio':>6}{'processor':>11}{'ratio':>6}", end="")
    print(f"{'products':>10}{'residual':>10}  eigenvalues")
    for name, found in answers.items():
        subspace = "surviving" if name.endswith("surviving") else "all"
        operator = hessian.hessian(model, split, mask, subspace)
        last = found[-1]
        residual = worst_residual(operator, last.values, last.vectors)
        listed = " ".join(f"{v:.4f}" for v in last.values.tolist())
        print(f"{name:22}{seconds[name]:9.2f}{seconds[name] / seconds[ours]:6.1f}", end="")
        print(f"{busy[name]:11.2f}{busy[name] / busy[ours]:6.1f}", end="")
        print(f"{last.products:10}{residual:10.1e}  {listed}", flush=True)


def main(rounds: int = 3) -> None:
    print(f"Leading {K} Hessian eigenvalues of LeNet-5, {SAMPLES:,} MNIST images;")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds in turn")
    loaded = data.load_data("mnist")
    split = Split(loaded.train.x[:SAMPLES].clone(), loaded.train.y[:SAMPLES].clone())
    dense, sparse = problem.dense(), problem.sparse()
    compare("dense", dense.model(), split, dense.mask, rounds)
    print(f"\n{sparse.title}")
    compare(f"{sparse.mask.sparsity:.2%} sparsity", sparse.model(), split, sparse.mask, rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
