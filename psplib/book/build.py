"""Run the chapters, build the book; what a chapter needs to begin."""

from __future__ import annotations

import ast
import multiprocessing
import os
import tempfile
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from psplib.book import binder as launch
from psplib.book import freshness, rendering
from psplib.core import errors as checks
from psplib.core import files
from psplib.core.errors import PsplibError
from psplib.experiments import scales, sweep
from psplib.paper import display, tables
from psplib.paper.beyond import FigureBeyond
from psplib.paper.figure_1 import Figure1
from psplib.paper.minima import Figures2to4, collect_minima
from psplib.runs import store as runs

PARAMETERS = ("scale", "device", "seed")


@dataclass(frozen=True)
class Chapter:
    """The parameters of a chapter, checked."""

    scale: str
    device: torch.device
    seed: int

    @property
    def store(self) -> runs.Store:
        """Where the chapter's runs are: among the published results, or on this machine."""
        return runs.published() if self.scale == scales.PUBLISHED else runs.local()

    def figure_1(self, name: str) -> Figure1:
        """A panel of Fig. 1: published, or computed here from what is not there yet."""
        panel, store = self._runs(name)
        assert isinstance(panel, scales.Panel)
        return Figure1.collect(panel, store)

    def panels(self) -> tuple[Figure1, ...]:
        """The four panels of Fig. 1, in their order."""
        return tuple(self.figure_1(name) for name in scales.PANELS)

    def minima(self) -> Figures2to4:
        """What Figs. 2 to 4 are made of: published, or computed here."""
        panel, store = self._runs("minima")
        assert isinstance(panel, scales.Minima)
        return collect_minima(panel, store)

    def beyond(self) -> FigureBeyond:
        """What "beyond the paper" is made of: published, or computed here."""
        panel, store = self._runs("beyond")
        assert isinstance(panel, scales.Beyond)
        return FigureBeyond.collect(panel, store)

    def _runs(self, name: str) -> tuple[scales.Experiment, runs.Store]:
        if self.scale == scales.PUBLISHED:
            return tables.largest_published(name, self.store), self.store
        panel = scales.experiment(name, self.scale, self.seed)
        sweep.run([panel], self.store, self.device)
        return panel, self.store


def chapter(scale: str, device: str, seed: int) -> Chapter:
    """Begin a chapter: refuse unknown or bad parameters before anything is computed."""
    for name in injected():
        checks.one_of("parameter", name, PARAMETERS)
    scales.check_scale(scale, seed)
    return Chapter(scale, checks.device(device), seed)


def injected() -> list[str]:
    """The names that papermill set in this notebook (it only warns of unknown ones)."""
    try:
        from IPython import get_ipython
    except ImportError:
        return []
    shell = get_ipython()
    cells = shell.user_ns.get("In", []) if shell else []
    names = []
    for cell in cells:
        if cell.startswith("# Parameters\n"):
            for node in ast.parse(cell).body:
                if isinstance(node, ast.Assign):
                    names += [t.id for t in node.targets if isinstance(t, ast.Name)]
    return names


def build(scale: str, device: str = "auto", output: Path | None = None) -> Path:
    """Make the runs of a scale, execute the chapters and render the book; its first page's path.

    Only what has changed is done again. The templates are not touched: executed chapters are kept
    in `<output>/executed`, the pages are `<output>/html`; `output` is `_build` in the checkout
    unless given. The pages are replaced when all new ones are there.
    """
    scales.check_scale(scale, 0)
    where = checks.device(device)
    root = runs.checkout()
    if root is None:
        raise PsplibError("The book is built from a checkout of the repository.")
    if scale != scales.PUBLISHED:
        panels = [scales.experiment(name, scale) for name in scales.EXPERIMENTS]
        sweep.run(panels, runs.local(), where, checks.jobs(where))
    output = (output or root / "_build").absolute()
    executed = output / "executed"
    files.make_folder(executed)
    chapters = sorted((root / "book").glob("*.ipynb"))
    made_from = freshness.digest(scale, device, freshness.library(), freshness.packages())
    parameters = {"scale": scale, "device": device}
    refresh_all(
        [(t, executed / t.name, parameters, made_from) for t in chapters], checks.jobs(where)
    )
    source = output / "source"
    pages = (p for p in (root / "book").rglob("*") if p.is_file() and not p.name.startswith("."))
    wanted = {p.relative_to(root): p for p in [root / "_toc.yml", *pages]}
    wanted |= {Path("book", t.name): executed / t.name for t in chapters}
    config, address = root / "_config.yml", launch.repository(root)
    if address:
        config = output / "_config.yml"
        files.write(config, launch.configured(root / "_config.yml", address).encode())
    rendering.mirror(wanted | {Path("_config.yml"): config}, source)
    beside = {Path("book", t.name): launch.notebook(t, address) for t in chapters}
    rendering.render(source, output, beside)
    return output / "html" / "index.html"


def refresh_all(chapters: list[tuple[Path, Path, dict[str, Any], str]], jobs: int) -> None:
    """`refresh` chapters, `jobs` of them side by side."""
    stale = [chapter for chapter in chapters if not is_fresh(*chapter)]
    with (
        tempfile.TemporaryDirectory() as scratch,
        tqdm(total=len(chapters), desc="chapters", unit="chapter") as bar,
    ):
        bar.update(len(chapters) - len(stale))
        context, said = multiprocessing.get_context("spawn"), Path(scratch, "said")
        with ProcessPoolExecutor(min(jobs, len(chapters)), context, _say_into, (said,)) as pool:
            # No more are handed out than are executed: what a worker holds cannot be cancelled.
            waiting = iter(stale)
            begun = {pool.submit(refresh, *chapter) for chapter in islice(waiting, jobs)}
            try:
                while begun:
                    done, begun = wait(begun, return_when=FIRST_COMPLETED)
                    for one in done:
                        one.result()
                        bar.update()
                    begun |= {pool.submit(refresh, *c) for c in islice(waiting, len(done))}
            except BaseException as error:
                pool.shutdown(cancel_futures=True)
                if isinstance(error, Exception) and not isinstance(error, PsplibError):
                    words = said.read_text().strip()
                    raise PsplibError(f"A chapter was not executed: {error}\n{words}") from None
                raise


def _say_into(path: Path) -> None:
    """Where this process and its kernels complain: they do so when they are interrupted."""
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)


def is_fresh(template: Path, target: Path, parameters: dict[str, Any], made_from: str) -> bool:
    """Whether a chapter's template, its parameters, `made_from` and the runs that it asks for are
    those of its last execution."""
    was = freshness.read(target.with_suffix(".json"))
    same = was.get("made from") == _made_from(template, parameters, made_from)
    return same and target.exists() and freshness.unchanged(was["runs"])


def _made_from(template: Path, parameters: dict[str, Any], made_from: str) -> str:
    return freshness.digest(made_from, parameters, files.sha256(template))


def refresh(template: Path, target: Path, parameters: dict[str, Any], made_from: str) -> bool:
    """Execute a chapter unless it is fresh; whether it was executed."""
    if is_fresh(template, target, parameters, made_from):
        return False
    record = target.with_suffix(".json")
    facts = {"made from": _made_from(template, parameters, made_from)}
    record.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch, freshness.watch(Path(scratch, "asked")) as asked:
        os.environ[display.NOTEBOOK] = template.name
        try:
            execute(template, target, parameters)
        finally:
            del os.environ[display.NOTEBOOK]
    freshness.write(record, facts | {"runs": asked})
    return True


def execute(template: Path, target: Path, parameters: dict[str, Any]) -> None:
    """Execute a chapter; its injected parameters are not shown in the page."""
    import nbformat
    import papermill
    from traitlets.config import Config

    with tempfile.TemporaryDirectory() as scratch:
        # Sockets of files, where there are such, need no encryption and so no warning at each
        # start; those of kernels side by side need folders of their own.
        files_of = {"transport": "ipc", "ip": str(Path(scratch, "kernel"))}
        sockets = Config(KernelManager=files_of if os.name != "nt" else {})
        done = Path(scratch) / template.name  # papermill writes after every cell
        try:
            papermill.execute_notebook(
                str(template),
                str(done),
                parameters,
                cwd=str(template.parent),
                progress_bar=False,
                config=sockets,
            )
        except papermill.PapermillExecutionError as error:
            raise PsplibError(
                f"{template.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}"
            ) from None
        notebook = nbformat.read(done, as_version=4)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-cell")
        if text := alternative_text(cell):
            cell.metadata["mystnb"] = {"image": {"alt": text}}
    files.write(target, nbformat.writes(notebook).encode())


def alternative_text(cell: Any) -> str | None:
    """What a cell's picture shows: IPython notes it in the output, myst-nb reads it in the cell."""
    for output in cell.get("outputs", []):
        for facts in output.get("metadata", {}).values():
            if isinstance(facts, dict) and "alt" in facts:
                return str(facts["alt"])
    return None
