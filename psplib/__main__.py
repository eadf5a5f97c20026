"""The command line: `python -m psplib`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from . import checks, experiments, runs, scales, sweep
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
            message = "psplib: interrupted. Nothing is lost: the same command goes on from here."
            if not options.get("quiet"):
                click.echo(f"\n{message}", err=True)
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
@click.option("--quiet", is_flag=True, hidden=True)
def reproduce(
    scale: str,
    only: tuple[str, ...],
    device: str,
    seed: int,
    budget: float | None,
    jobs: int | None,
    deadline: float | None,
    quiet: bool,
) -> None:
    """Compute what is missing, the most valuable first; go on where it was stopped."""
    panels = _panels(scale, only, seed)
    where = checks.device(device)
    side_by_side = checks.jobs(where, jobs)
    if budget is not None:
        if budget <= 0:
            raise PsplibError(f"budget must be a positive number of minutes; got {budget:g}.")
        deadline = time.time() + 60 * budget
    store = runs.local()
    sweep.run(panels, store, where, side_by_side, deadline, quiet)
    for panel in () if quiet else panels:
        is_left = bool(sweep.lacking([panel], store))
        state = "not complete: the same command goes on from here" if is_left else "complete"
        click.echo(f"{panel.name} at {scale} scale is {state} ({store.root}).")


def _panels(scale: str, only: tuple[str, ...], seed: int = 0) -> list[scales.Experiment]:
    names = only or tuple(scales.EXPERIMENTS)
    return [scales.panel(name, scale, seed) for name in names]


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
