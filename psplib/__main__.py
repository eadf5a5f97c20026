"""The command line: `python -m psplib`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from . import checks, experiments, runs, scales
from .checks import PsplibError

SCALE = click.option("--scale", default="paper", show_default=True, help=", ".join(scales.SCALES))
ONLY = click.option("--only", multiple=True, help="An experiment; may be repeated. Default: all.")
DEVICE = click.option("--device", default="auto", show_default=True, help=", ".join(checks.DEVICES))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Reproduce the paper, show how far it is, publish and verify results, build the book."""


def command(function: Callable[..., None]) -> Any:
    """A subcommand whose foreseeable failures end in one sentence and exit code 2 (130: Ctrl-C)."""

    @wraps(function)
    def guarded(**options: Any) -> None:
        try:
            function(**options)
        except PsplibError as error:
            click.echo(f"psplib: {error}", err=True)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            click.echo(
                "\npsplib: interrupted. Nothing is lost: the same command goes on from here.",
                err=True,
            )
            # A worker thread or a kernel must not keep the shell waiting.
            raise SystemExit(130) from None

    return cli.command()(guarded)


@command
@click.option("--scale", default=scales.PUBLISHED, show_default=True)
@DEVICE
def book(scale: str, device: str) -> None:
    """Run the chapters and build _build/html/index.html."""
    from . import book

    click.echo(f"The book is ready: {os.path.relpath(book.build(scale, device))}")


@command
@SCALE
@ONLY
@DEVICE
@click.option("--seed", default=0, show_default=True, help="Shifts every seed.")
@click.option("--budget", type=float, metavar="MINUTES", help="Stop in time; what is done is kept.")
@click.option("--jobs", type=int, help="Runs side by side. Default: the cores, or 1 on a GPU.")
@click.option("--deadline", type=float, hidden=True)
def reproduce(
    scale: str,
    only: tuple[str, ...],
    device: str,
    seed: int,
    budget: float | None,
    jobs: int | None,
    deadline: float | None,
) -> None:
    """Compute what is missing, the most valuable first; go on where it was stopped."""
    panels = _panels(scale, only, seed)
    where = checks.device(device)
    if budget is not None and budget <= 0:
        raise PsplibError(f"budget must be a positive number of minutes; got {budget:g}.")
    if jobs is None:
        jobs = 1 if where.type == "cuda" else os.cpu_count() or 1
    checks.whole_number("jobs", jobs, 1)
    if budget is not None:
        deadline = time.time() + 60 * budget
    store = runs.local()
    for panel in panels:
        if jobs == 1:
            complete = _work(panel, store, where, deadline)
        else:
            complete = _side_by_side(panel, store, where, seed, jobs, deadline)
        state = "complete" if complete else "not complete: the same command goes on from here"
        if not os.environ.get(_QUIET):
            click.echo(f"{panel.name} at {scale} scale is {state} ({store.root}).")


def _panels(scale: str, only: tuple[str, ...], seed: int = 0) -> list[scales.Panel]:
    names = only or tuple(scales.EXPERIMENTS)
    return [scales.panel(name, scale, seed) for name in names]


class _OutOfTime(Exception):
    pass


def _work(panel: scales.Panel, store: runs.Store, where: Any, deadline: float | None) -> bool:
    """Make the panel's runs in this process until none is missing or the time is up; runs that
    another process is making are left to it, and waited for at the end."""
    from .book import Bar

    def checked(report: Callable[[float, float, str], None]) -> Callable[[float, float, str], None]:
        def tell(done: float, total: float, note: str) -> None:
            report(done, total, note)
            if deadline is not None and time.time() > deadline:
                raise _OutOfTime

        return tell

    try:
        while missing := [c for c in experiments.known(panel, store) if not store.has(c)]:
            for config in missing:
                with Bar(hidden=bool(os.environ.get(_QUIET))) as bar:
                    if experiments.compute(config, store, where, checked(bar.report), wait=False):
                        break
            else:
                time.sleep(1)
                if deadline is not None and time.time() > deadline:
                    raise _OutOfTime
    except _OutOfTime:
        return False
    return True


_QUIET = "PSPLIB_QUIET"


def _side_by_side(
    panel: scales.Panel,
    store: runs.Store,
    where: Any,
    seed: int,
    jobs: int,
    deadline: float | None,
) -> bool:
    """Let `jobs` processes make the panel's runs; show how far they are together."""
    from tqdm import tqdm

    words = [sys.executable, "-m", "psplib", "reproduce", "--jobs", "1", "--scale", panel.scale]
    words += ["--only", panel.name, "--device", where.type, "--seed", str(seed)]
    if deadline is not None:
        words += ["--deadline", str(deadline)]
    if not any(not store.has(c) for c in experiments.known(panel, store)):
        return True
    package = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    quiet = os.environ | {_QUIET: "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    workers = [subprocess.Popen(words, env=quiet) for _ in range(jobs)]
    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    try:
        with tqdm(total=1.0, bar_format=layout, desc=panel.name) as bar:
            while any(w.poll() is None for w in workers):
                share, note = experiments.progress(panel, store)
                bar.set_description_str(f"{panel.name}: {note}", refresh=False)
                bar.n = max(bar.n, share)
                bar.update(0)
                time.sleep(1)
    except KeyboardInterrupt:
        for worker in workers:
            worker.wait()
        raise
    if failed := next((w.returncode for w in workers if w.returncode), 0):
        raise SystemExit(failed)
    return all(store.has(c) for c in experiments.known(panel, store))


@command
def status() -> None:
    """Every experiment at every scale: done, running, missing, its cost."""
    try:
        shown = runs.published()
    except PsplibError:
        shown = runs.local()
    click.echo(experiments.status(runs.local(), shown).to_string(index=False))
    click.echo(f"\nRuns: {runs.local().root}. To compute what is missing: psplib reproduce.")


@command
@SCALE
@ONLY
def publish(scale: str, only: tuple[str, ...]) -> None:
    """Copy finished runs from runs/ to results/, digests checked."""
    local, shown = runs.local(), runs.published()
    copied = present = 0
    for panel in _panels(scale, only):
        for config in experiments.known(panel, local):
            if shown.has(config):
                present += 1
            elif local.has(config):
                shown.adopt(local.load(config))
                copied += 1
    click.echo(f"{copied} runs published, {present} were there already ({shown.root}).")


@command
@click.option("--local", is_flag=True, help="Check this machine's runs, not the published results.")
def verify(local: bool) -> None:
    """Recompute every digest; check that each table belongs to its configuration."""
    store = runs.local() if local else runs.published()
    wrong = []
    folders = list(store.all())
    for folder in folders:
        try:
            experiments.check_belongs(runs.open_artefact(folder), store)
        except PsplibError as error:
            wrong.append(str(error))
    for sentence in wrong:
        click.echo(f"psplib: {sentence}", err=True)
    click.echo(f"{len(folders) - len(wrong)} of {len(folders)} runs are whole ({store.root}).")
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    cli(prog_name="psplib")
