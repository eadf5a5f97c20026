"""A sweep: the runs that experiments lack, made in this process or by several side by side."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from psplib.core.errors import PsplibError
from psplib.experiments.designs import Design
from psplib.experiments.plan import batches, lacking
from psplib.experiments.progress import progress
from psplib.runs.run import Run, compute_batch
from psplib.runs.store import Store
from psplib.training.fit import OutOfTime


def run(
    panels: Sequence[Design],
    store: Store,
    device: torch.device,
    jobs: int = 1,
    deadline: float | None = None,
    quiet: bool = False,
) -> bool:
    """Make what experiments of one scale and seed lack, the most valuable first, and show how far
    it is.

    Returns whether they are complete: they are not when `deadline` (seconds since the epoch) came
    first. What was begun goes on from its checkpoint next time.
    """
    if not lacking(panels, store):
        return True
    if jobs > 1:
        return _side_by_side(panels, store, device, jobs, deadline)
    try:
        while missing := lacking(panels, store):
            if not _make_one(missing, store, device, deadline, quiet):
                # What is left is being made by other processes.
                time.sleep(1)
    except OutOfTime:
        return False
    return True


def _make_one(
    missing: list[Run], store: Store, device: torch.device, deadline: float | None, quiet: bool
) -> bool:
    """Make the first of these batches that no other process has; false if there is none."""
    for batch in batches(missing, device, store.begun()):
        if deadline is not None and time.time() >= deadline:
            raise OutOfTime
        with bar(quiet) as shown:

            def report(done: float, total: float, note: str, shown: tqdm = shown) -> None:
                move_on(shown, done / total, note)

            if compute_batch(batch, store, device, report, False, deadline):
                return True
    return False


@contextlib.contextmanager
def bar(quiet: bool = False) -> Iterator[tqdm]:
    """A line that shows a share of work, gone when the work is done."""
    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=1.0, bar_format=layout, leave=False, disable=quiet) as shown:
        yield shown


def move_on(bar: tqdm, share: float, note: str) -> None:
    """Move a bar on; it never goes back."""
    bar.set_description_str(note, refresh=False)
    bar.n = max(bar.n, min(1.0, share))
    bar.update(0)


def follow(
    panels: Sequence[Design], store: Store, is_going: Callable[[], bool], quiet: bool = False
) -> None:
    """Show how far workers are together, as long as they are going."""
    with bar(quiet) as shown:
        while is_going():
            move_on(shown, *progress(panels, store))


def environment() -> dict[str, str]:
    """What a worker process needs in its environment: this psplib, and one thread for each run."""
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def _side_by_side(
    panels: Sequence[Design],
    store: Store,
    device: torch.device,
    jobs: int,
    deadline: float | None,
) -> bool:
    """Let `jobs` processes make the runs; show how far they are together."""
    words = [sys.executable, "-m", "psplib", "reproduce", "--worker", "--jobs", "1"]
    words += ["--scale", panels[0].scale, "--seed", str(panels[0].seed), "--device", device.type]
    for panel in panels:
        words += ["--only", panel.name]
    if deadline is not None:
        words += ["--deadline", str(deadline)]
    surroundings = os.environ | environment() | {"PSPLIB_RUNS": str(store.root.resolve())}
    with contextlib.ExitStack() as stack:
        said, workers = [], []
        for _ in range(jobs):
            said.append(stack.enter_context(tempfile.TemporaryFile()))
            # A worker ends when its input does: however this process ends, that closes it.
            worker = subprocess.Popen(
                words, env=surroundings, stdin=subprocess.PIPE, stderr=said[-1]
            )
            workers.append(stack.enter_context(worker))
        follow(panels, store, lambda: _wait(workers))
        missing = lacking(panels, store)
        for worker, file in zip(workers, said, strict=True):
            if missing and worker.returncode:
                file.seek(0)
                text = file.read().decode(errors="replace")
                last = (text.strip().splitlines() or ["nothing"])[-1]
                raise PsplibError(
                    last.removeprefix("psplib: ")
                    if last.startswith("psplib: ")
                    else f"A worker process ended with code {worker.returncode}; it said: {last}"
                )
    return not missing


def _wait(workers: Sequence[subprocess.Popen]) -> bool:
    """Whether any process is going on, after a second."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        for worker in workers:
            worker.wait(1)
    return any(worker.poll() is None for worker in workers)
