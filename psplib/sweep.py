"""A sweep: the runs that a panel lacks, made in this process or by several side by side."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from . import experiments
from .checks import PsplibError
from .experiments import Config
from .runs import Store
from .scales import Experiment

_LAYOUT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


def run(
    panel: Experiment,
    store: Store,
    device: torch.device,
    jobs: int = 1,
    deadline: float | None = None,
    quiet: bool = False,
) -> bool:
    """Make what the panel lacks, the most valuable first, and show how far it is.

    Returns whether the panel is complete: it is not when `deadline` (seconds since the epoch)
    came first. What was begun goes on from its checkpoint next time.
    """
    if not _missing(panel, store):
        return True
    if jobs > 1:
        return _side_by_side(panel, store, device, jobs, deadline)
    try:
        while missing := _missing(panel, store):
            if not _make_one(missing, store, device, deadline, quiet):
                # What is left is being made by other processes.
                time.sleep(1)
                _check(deadline)
    except _OutOfTime:
        return False
    return True


class _OutOfTime(Exception):
    pass


def _check(deadline: float | None) -> None:
    if deadline is not None and time.time() > deadline:
        raise _OutOfTime


def _missing(panel: Experiment, store: Store) -> list[Config]:
    return [c for c in experiments.known(panel, store) if not store.has(c)]


def _make_one(
    missing: list[Config], store: Store, device: torch.device, deadline: float | None, quiet: bool
) -> bool:
    """Make the first of these runs that no other process has; false if there is none."""
    for config in missing:
        with tqdm(total=1.0, bar_format=_LAYOUT, leave=False, disable=quiet) as bar:

            def report(done: float, total: float, note: str, bar: tqdm = bar) -> None:
                _show(bar, done / total, note)
                _check(deadline)

            if experiments.compute(config, store, device, report, wait=False):
                return True
    return False


def _show(bar: tqdm, share: float, note: str) -> None:
    bar.set_description_str(note, refresh=False)
    bar.n = max(bar.n, min(1.0, share))
    bar.update(0)


def _side_by_side(
    panel: Experiment, store: Store, device: torch.device, jobs: int, deadline: float | None
) -> bool:
    """Let `jobs` processes make the panel's runs; show how far they are together."""
    words = [sys.executable, "-m", "psplib", "reproduce", "--quiet", "--jobs", "1"]
    words += ["--scale", panel.scale, "--only", panel.name, "--seed", str(panel.seed)]
    words += ["--device", device.type]
    if deadline is not None:
        words += ["--deadline", str(deadline)]
    package = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    environment = os.environ | {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "PSPLIB_RUNS": str(store.root.resolve()),
    }
    with contextlib.ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(jobs)]
        workers = [subprocess.Popen(words, env=environment, stderr=file) for file in said]
        try:
            with tqdm(total=1.0, bar_format=_LAYOUT, leave=False) as bar:
                while any(worker.poll() is None for worker in workers):
                    share, note = experiments.progress(panel, store)
                    _show(bar, share, f"{panel.name}: {note}")
                    time.sleep(1)
        except KeyboardInterrupt:
            for worker in workers:
                worker.wait()
            raise
        missing = _missing(panel, store)
        for worker, file in zip(workers, said, strict=True):
            if missing and worker.returncode:
                file.seek(0)
                last = (file.read().strip().splitlines() or ["nothing"])[-1]
                raise PsplibError(
                    last.removeprefix("psplib: ")
                    if last.startswith("psplib: ")
                    else f"A worker process ended with code {worker.returncode}; it said: {last}"
                )
    return not missing
