"""What it costs to compare a rewritten network with the network itself: seconds of the processor in
the comparison, as a share of a whole analysis, and of an epoch of training, of LeNet-5 (MNIST).

`python -m benchmarks.faithful`; to stay below 1 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks import problem
from psplib.analysis import eigen, hessian, landscape, psp
from psplib.analysis.entropy import FirstOrder
from psplib.nn import data
from psplib.nn.data import Split
from psplib.training import engines
from psplib.training.fit import order
from psplib.training.trainer import flat
from psplib.training.update import Sgd


def main() -> None:
    loaded = data.load_data("mnist")
    few = Split(loaded.train.x[:5000], loaded.train.y[:5000])
    spent = [0.0]

    def timed(compare: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            start = time.process_time()
            try:
                return compare(*args)
            finally:
                spent[0] += time.process_time() - start

        return run

    psp.compacted = landscape.compacted = timed(psp.compacted)
    hessian._agrees = timed(hessian._agrees)
    engines.Rewritten._is_itself = timed(engines.Rewritten._is_itself)
    for network in (problem.dense(), problem.sparse()):
        model, mask = network.model(), network.mask
        plane = landscape.plane(network.weights, network.weights * 1.1 + mask.flat, mask, 0)
        runs: dict[str, Callable[[], object]] = {
            "observe, first order": lambda m=model, k=mask: psp.observe(
                m, loaded.test, FirstOrder(), mask=k
            ),
            "a row of a map": lambda m=model, p=plane: landscape.sweep(
                m, p, few, [k / 10 for k in range(11)], [0.0]
            ),
            "an epoch of training": lambda m=model, k=mask: engines.CompactTrainer(
                m, [k], loaded, 100
            ).epoch([order(len(loaded.train), 0, 1)], [Sgd(0.1)]),
            "five eigenvalues": lambda m=model, k=mask: eigen.leading(
                hessian.hessian(m, few, k), 5
            ),
        }
        print(f"{network.title}, {len(flat(model))} parameters")
        for name, run in runs.items():
            spent[0], start = 0.0, time.process_time()
            run()
            whole = time.process_time() - start
            print(f"  {name:22}{whole:8.2f} s{spent[0]:8.3f} s{spent[0] / whole:8.2%}", flush=True)


if __name__ == "__main__":
    main()
