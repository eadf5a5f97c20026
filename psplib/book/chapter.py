"""What a chapter calls first: its parameters checked, and the results that it shows."""

from __future__ import annotations

import ast
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import matplotlib as mpl
import psutil
import torch
from IPython.display import HTML

from psplib.core import checkout, errors
from psplib.experiments import designs, scales, sweep
from psplib.paper import display, ledger, tables
from psplib.paper.beyond import FigureBeyond
from psplib.paper.controls import FigureControls
from psplib.paper.entropy_learning import FigureLearning
from psplib.paper.figure_1 import Figure1
from psplib.paper.ledger import Entry
from psplib.paper.minima import Figures2to4, collect_minima
from psplib.paper.transfer import FigureTransfer
from psplib.runs import store as runs

PARAMETERS = ("scale", "device", "seed")
PATHS = ("PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH")  # papermill's --inject-paths
D = TypeVar("D", bound=designs.Design)


@dataclass(frozen=True)
class Chapter:
    """The parameters of a chapter, checked."""

    scale: str
    device: torch.device
    seed: int

    @property
    def store(self) -> runs.Store:
        """Where the chapter's runs are: among the published results, or on this machine."""
        return store_of(self.scale)

    def figure_1(self, name: str) -> Figure1:
        """A panel of Fig. 1: published, or computed here from what is not there yet."""
        return Figure1.collect(*self._runs(name, designs.Panel))

    def panels(self) -> tuple[Figure1, ...]:
        """The four panels of Fig. 1, in their order."""
        return tuple(self.figure_1(name) for name in scales.PANELS)

    def minima(self) -> Figures2to4:
        """What Figs. 2 to 4 are made of: published, or computed here; of the other networks, the
        censuses that are there."""
        panel, store = self._runs("minima", designs.Minima)
        others = [self._experiment(name) for name in scales.PANELS if name != "figure_1b"]
        further = scales.replication(others[0].scale, self.seed)
        panels = [other for other in others if isinstance(other, designs.Panel)]
        return collect_minima(panel, store, [further, *panels])

    def beyond(self) -> FigureBeyond:
        """What "beyond the paper" is made of: published, or computed here."""
        return FigureBeyond.collect(*self._runs("beyond", designs.Beyond))

    def controls(self) -> FigureControls:
        """What the controls are made of: published, or computed here."""
        return FigureControls.collect(*self._runs("controls", designs.Controls))

    def learning(self) -> FigureLearning:
        """What the chapter on learning by entropy is made of: published, or computed here."""
        return FigureLearning.collect(*self._runs("entropy_learning", designs.Learning))

    def transfer(self) -> FigureTransfer:
        """What the chapter on transfer is made of: published, or computed here."""
        return FigureTransfer.collect(*self._runs("transfer", designs.Transfers))

    def entries(self) -> list[Entry]:
        """Every claim of the ledger, with its verdict: from what is published, or computed here."""
        found = self.panels(), self.minima(), self.beyond()
        return ledger.entries(*found, self.transfer(), self.learning())

    def run_again(self, notebook: str, *experiments: str) -> HTML:
        """How to run a chapter's notebook again, and what that took: its experiments' runs that are
        there, by scale."""
        took = [
            f"<li><code>{scale}</code>: {minutes}</li>"
            for scale in ("quick", "paper")
            if (minutes := self._took(scale, experiments))
        ]
        return HTML(
            '<div class="psplib-panel"><p><strong>Run this chapter again</strong></p>'
            f"<pre>papermill book/{notebook}.ipynb out.ipynb -p scale smoke</pre>"
            "<ul><li><code>smoke</code>: a minute or two of a laptop, on small images; it "
            "shows that everything works, and its verdicts mean nothing</li>"
            f"{''.join(took)}</ul></div>"
        )

    def _took(self, scale: str, experiments: Sequence[str]) -> str:
        asked = [scales.experiment(name, scale, self.seed) for name in experiments]
        every = dict.fromkeys(run for design in asked for run in design.runs(self.store))
        done = [run for run in every if self.store.has(run)]
        if not done:
            return ""
        lacking = len(every) - len(done)
        are = "are" if lacking > 1 else "is"
        missing = f"; {display.counted(lacking, 'run')} {are} not there yet" if lacking else ""
        minutes = sum(self.store.seconds(run) for run in done) / 60
        over = display.counted(len(done), "run")
        return f"{minutes:,.0f} minutes of computing, measured over {over}{missing}"

    def _runs(self, name: str, kind: type[D]) -> tuple[D, runs.Store]:
        panel, store = self._experiment(name), self.store
        assert isinstance(panel, kind)
        if self.scale != scales.PUBLISHED:
            sweep.run([panel], store, self.device)
        return panel, store

    def _experiment(self, name: str) -> designs.Design:
        if self.scale == scales.PUBLISHED:
            return tables.largest_published(name, self.store)
        return scales.experiment(name, self.scale, self.seed)


def store_of(scale: str) -> runs.Store:
    """Where the runs of a scale are: among the published results, or on this machine."""
    return runs.published() if scale == scales.PUBLISHED else runs.local()


def begin(scale: str, device: str, seed: int) -> Chapter:
    """Begin a chapter: `PsplibError` for an unknown or a bad parameter, or for the chapter of
    another psplib, before anything is computed. Figures do not follow the user's own matplotlibrc.
    """
    for name in injected():
        if name not in PATHS:
            errors.one_of("parameter", name, PARAMETERS)
    checkout.check_here()
    if notebook := read_by_papermill():
        checkout.check_here(notebook.parent)
    scales.check_scale(scale, seed)
    mpl.rcdefaults()
    return Chapter(scale, errors.device(device), seed)


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


def read_by_papermill() -> Path | None:
    """The notebook that the command papermill was told to read: it runs one in any folder."""
    for process in psutil.Process().parents():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(Path(word).stem == "papermill" for word in words):
                # It may have gone to another folder since (--cwd).
                places = Path(process.cwd()), Path(os.environ.get("PWD", ""))
                paths = (p / word for word in words for p in places if word.endswith(".ipynb"))
                return next((path.absolute() for path in paths if path.is_file()), None)
    return None
