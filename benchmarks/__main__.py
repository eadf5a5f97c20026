"""Run every benchmark, each in a process of its own; `python -m benchmarks.NAME` runs one.

What hangs on the instructions of the CPU runs with all that it has, and with AVX2 alone.
"""

from __future__ import annotations

import os
import subprocess
import sys

import torch

NAMES = ("lobster_epoch", "replicas", "compact", "entropy", "landscape", "hessian", "faithful")
BY_CAPABILITY = ("entropy", "landscape", "hessian")
# PyTorch's own kernels, oneDNN's and MKL's each ask the CPU for themselves.
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def cpu() -> str:
    """The name of this machine's CPU: speeds of two never share a row."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return "unknown CPU"


def main() -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    for name in NAMES:
        both = name in BY_CAPABILITY and capability == "AVX512"
        for title, settings in ((capability, {}), ("AVX2 alone", AVX2))[: 1 + both]:
            print(f"\n=== {name}: {cpu()}, {title}", flush=True)
            words = [sys.executable, "-m", f"benchmarks.{name}"]
            done = subprocess.run(words, env=os.environ | settings)
            if done.returncode:
                raise SystemExit(f"The benchmark {name} ended with code {done.returncode}.")


if __name__ == "__main__":
    main()
