"""The command line: `psplib`, or `python -m psplib`."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from psplib.core import errors as checks
from psplib.core.errors import PsplibError
from psplib.core.processes import end_when
from psplib.experiments.names import ENGINES, PUBLISHED, SCALES

# A command imports what it needs: torch takes seconds, and the help needs none of it.
if TYPE_CHECKING:
    from psplib.experiments.designs import Design
    from psplib.runs.run import Run
    from psplib.runs.store import Store

SCALE = click.option("--scale", default="paper", show_default=True, help=", ".join(SCALES))
ONLY = click.option("--only", multiple=True, help="An experiment; may be repeated. Default: all.")
DEVICE = click.option("--device", default="auto", show_default=True, help=", ".join(checks.DEVICES))
# How too little memory is told: by the loader of libraries, by torch on a CPU and on a GPU.
_LACK = re.compile("failed to map segment|can(no|')t allocate memory|out of memory", re.IGNORECASE)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Reproduce the paper, show how far it is, publish and verify results, build the book."""


def _fail(error: OSError) -> None:
    """Say what the system refused, as to write to standard output, and end with exit code 2."""
    if isinstance(error, BrokenPipeError):
        raise error  # click ends quietly when nobody reads on
    what = error.filename or "The output"
    with contextlib.suppress(OSError):
        click.echo(f"psplib: {what} could not be used: {checks.reason(error)}.", err=True)
    with contextlib.suppress(OSError, AttributeError):
        # What is still to be flushed at the end must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(2) from None


def command(function: Callable[..., None]) -> Any:
    """A subcommand whose foreseeable failures end in one sentence and exit code 2 (130: Ctrl-C)."""

    @wraps(function)
    def guarded(**options: Any) -> None:
        try:
            function(**options)
        except PsplibError as error:
            click.echo(f"psplib: {error}", err=True)
            raise SystemExit(2) from None
        except ModuleNotFoundError as error:
            if not error.name or error.name.startswith("psplib"):
                raise
            sentence = f"{error.name} is not installed; pip install 'psplib[book]' brings it."
            click.echo(f"psplib: {sentence}", err=True)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            message = "psplib: interrupted. Nothing is lost: the same command goes on from here."
            if not options.get("worker"):
                click.echo(f"\n{message}", err=True)
            raise SystemExit(130) from None
        except OSError as error:
            _fail(error)
        except (ImportError, MemoryError, RuntimeError) as error:
            if not (isinstance(error, MemoryError) or _LACK.search(str(error))):
                raise
            click.echo(f"psplib: There is too little memory ({checks.brief(error)}).", err=True)
            raise SystemExit(2) from None

    return cli.command()(guarded)


@command
@click.option("--scale", default=PUBLISHED, show_default=True)
@DEVICE
@click.option("--pdf", is_flag=True, help="Print it to _build/html/psplib.pdf, too, by Chromium.")
@click.option("--release", is_flag=True, help="Write executed chapters to _build/release, too.")
def book(scale: str, device: str, pdf: bool, release: bool) -> None:
    """Run the chapters and build _build/html/index.html."""
    if sys.flags.optimize > 1:
        raise PsplibError("Python -OO leaves out what the pages of the library show; unset it.")
    from psplib.book import build as book

    first = book.build_book(scale, device, pdf=pdf, release=release)
    click.echo(f"The book is ready: {os.path.relpath(first)}")


@command
@SCALE
@ONLY
@DEVICE
@click.option("--seed", default=0, show_default=True, help="Shifts every seed.")
@click.option("--budget", type=float, metavar="MINUTES", help="Stop in time; what is done is kept.")
@click.option("--jobs", type=int, help="Runs side by side. Default: the cores, or 1 on a GPU.")
@click.option("--engine", default="local", show_default=True, help=", ".join(ENGINES))
@click.option("--address", help="Of a Ray cluster. Default: $RAY_ADDRESS, or one of this machine.")
@click.option("--deadline", type=float, hidden=True)
@click.option("--worker", is_flag=True, hidden=True)  # says nothing, ends when its input does
def reproduce(
    scale: str,
    only: tuple[str, ...],
    device: str,
    seed: int,
    budget: float | None,
    jobs: int | None,
    engine: str,
    address: str | None,
    deadline: float | None,
    worker: bool,
) -> None:
    """Compute what is missing, the most valuable first; go on where it was stopped."""
    if worker:
        end_when(lambda: os.read(0, 1))
    from psplib.experiments import cluster, sweep
    from psplib.experiments.plan import lacking
    from psplib.runs import store as runs

    panels = _experiments(scale, only, seed)
    checks.one_of("engine", engine, ENGINES)
    if address is not None and engine != "ray":
        raise PsplibError(f"address is that of a Ray cluster: {address!r} needs --engine ray.")
    if budget is not None:
        if not 0 < budget < math.inf:
            raise PsplibError(f"budget must be a positive number of minutes; got {budget:g}.")
        deadline = time.time() + 60 * budget
    store = runs.local()
    store.sweep()
    if engine == "ray":
        cluster.run_on_ray(panels, store, device, jobs, deadline, worker, address)
    else:
        where = checks.device(device)
        sweep.run(panels, store, where, checks.jobs(where, jobs), deadline, worker)
    for panel in () if worker else panels:
        is_left = bool(lacking([panel], store))
        state = "not complete: the same command goes on from here" if is_left else "complete"
        click.echo(f"{panel.name} at {scale} scale is {state} ({store.root}).")


def _experiments(scale: str, only: tuple[str, ...], seed: int = 0) -> list[Design]:
    from psplib.experiments.scales import EXPERIMENTS, experiment

    return [experiment(name, scale, seed) for name in only or EXPERIMENTS]


@command
def status() -> None:
    """Every experiment at every scale: done, running, missing, its cost."""
    from psplib.experiments.progress import overview
    from psplib.runs import store as runs

    try:
        shown = runs.published()
    except PsplibError:
        shown = runs.local()
    click.echo(overview(runs.local(), shown).to_string(index=False))
    click.echo(f"\nRuns: {runs.local().root}. To compute what is missing: psplib reproduce.")


@command
@SCALE
@ONLY
@click.argument("tar", type=Path)
def pack(scale: str, only: tuple[str, ...], tar: Path) -> None:
    """Write finished runs from runs/ to TAR (.tar, .tar.gz or .tgz), for publish elsewhere."""
    from psplib.runs import archive
    from psplib.runs import store as runs

    archive.check_name(tar)
    local = runs.local()
    found = _finished(_experiments(scale, only), local)
    if not found:
        raise PsplibError(f"There is no finished run at {scale} scale under {local.root} to pack.")
    archive.pack_runs([local.load(config) for config in found], tar)
    click.echo(f"{len(found)} runs packed ({tar}).")


@command
@click.option("--scale", help="Default: paper; of a tar everything is published.")
@ONLY
@click.option("--commit", is_flag=True, help="Commit what is new to git, under your name.")
@click.argument("tar", type=Path, required=False)
def publish(scale: str | None, only: tuple[str, ...], commit: bool, tar: Path | None) -> None:
    """Copy finished runs from runs/, or from a TAR that pack wrote, to results/.

    They are verified before, and if anything is wrong, nothing is published. Who changes a run and
    its digests together is not found out by that: only a signature tells. With --commit a commit of
    yours, which git can sign, says which runs are new, and of which code.
    """
    from psplib.core.artefact import open_artefact
    from psplib.experiments.kinds import KINDS
    from psplib.runs import store as runs
    from psplib.runs.archive import unpack_runs
    from psplib.runs.history import check_repository, commit_runs

    shown = runs.published()
    if commit:
        check_repository(shown)
    if tar is not None and (scale or only):
        raise PsplibError(f"scale and only choose from runs/; {tar} is published whole.")
    with contextlib.ExitStack() as stack:
        if tar is None:
            store = runs.local()
            found = [
                store.folder(c) for c in _finished(_experiments(scale or "paper", only), store)
            ]
        else:
            store = stack.enter_context(unpack_runs(tar, KINDS))
            found = list(store.all())
        name = tar or store.root
        if not found:
            raise PsplibError(f"There is no finished run in {name} to publish.")
        if wrong := _wrong(found, name, store, shown):
            more = f" (and {len(wrong) - 1} more of its runs are wrong)" if wrong[1:] else ""
            raise PsplibError(f"Nothing of {name} was published: {wrong[0].rstrip('.')}{more}.")
        new = [f for f in found if not (shown.root / f.relative_to(store.root)).exists()]
        copied = shown.adopt(*map(open_artefact, found))
        if commit:
            places = [shown.root / f.relative_to(store.root) for f in new]
            click.echo(commit_runs(shown, [open_artefact(place) for place in places]))
    click.echo(f"{copied} runs published, {len(found) - copied} were there already ({shown.root}).")


def _finished(panels: list[Design], store: Store) -> list[Run]:
    configs = dict.fromkeys(c for panel in panels for c in panel.runs(store))
    return [config for config in configs if store.has(config)]


@command
@click.option("--local", is_flag=True, help="Check this machine's runs, not the published results.")
@click.argument("tar", type=Path, required=False)
def verify(local: bool, tar: Path | None) -> None:
    """Recompute every digest; check that each run is what its configuration asked for.

    Of the published results, or of this machine's runs, or of those in TAR. Checked are data set,
    provenance, tables (columns, types, rows) and tensors (types, shapes), and that they agree. A
    forgery that agrees with itself, digests made anew, is not found out: only a signature tells.
    """
    from psplib.experiments.kinds import KINDS
    from psplib.runs import store as runs
    from psplib.runs.archive import unpack_runs

    if tar is not None and local:
        raise PsplibError(f"local is for runs/; {tar} was named too.")
    with contextlib.ExitStack() as stack:
        if tar is not None:
            store = stack.enter_context(unpack_runs(tar, KINDS))
        else:
            store = runs.local() if local else runs.published()
        folders, name = list(store.all()), tar or store.root
        if not folders:
            raise PsplibError(f"There is no run in {name} to verify.")
        wrong = _wrong(folders, name, store)
    for sentence in wrong:
        click.echo(f"psplib: {sentence}", err=True)
    click.echo(f"{len(folders) - len(wrong)} of {len(folders)} runs are whole ({name}).")
    if wrong:
        raise SystemExit(1)


def _wrong(folders: list[Path], name: Path, store: Store, *others: Store) -> list[str]:
    """What is wrong with runs of a store, which the user knows by this name.

    The gradual runs that they hang on are in the store or in one of the others.
    """
    from psplib.core.artefact import open_artefact
    from psplib.experiments.kinds import KINDS
    from psplib.runs.run import check_run

    wrong = []
    for folder in folders:
        try:
            check_run(open_artefact(folder), KINDS, store, *others)
        except PsplibError as error:
            wrong.append(str(error).replace(str(store.root), str(name)))
    return wrong


def main() -> None:
    """What the installed command `psplib` runs."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It was closed: the next file that is opened would take its number, and what is said
            # would be written there.
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (until the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name in another encoding
    try:
        cli(prog_name="psplib")
    except OSError as error:
        _fail(error)


if __name__ == "__main__":
    main()
