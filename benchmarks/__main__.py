"""Run every benchmark, each in a process of its own; `python -m benchmarks.NAME` runs one."""

from __future__ import annotations

import subprocess
import sys

NAMES = ("lobster_epoch", "replicas", "compact", "entropy", "landscape", "hessian")


def main() -> None:
    for name in NAMES:
        print(f"\n=== {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"])
        if done.returncode:
            raise SystemExit(f"The benchmark {name} ended with code {done.returncode}.")


if __name__ == "__main__":
    main()
