"""Template -> executed chapter, by papermill, in this very process.

The build forks a process for each chapter from one that has imported all this, so that torch,
pandas and matplotlib are loaded once for the whole book. So a chapter needs no kernel here: IPython
runs its cells. Wherever else papermill runs a chapter, it does so in a kernel.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nbformat
import pandas.io.formats.style
import papermill
import papermill.engines
import scipy.stats
import seaborn
import sklearn.datasets
import sympy
import torch
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import publish_display_data
from IPython.utils.capture import RichOutput, capture_output
from traitlets.config import Config

from psplib.book import lab_panel
from psplib.core.errors import PsplibError
from psplib.paper import ledger, live

# What several chapters import; torch asks for sympy where it makes a layer without values.
PRELOADED = (
    *(pandas.io.formats.style, scipy.stats, seaborn, sklearn.datasets, sympy),
    *(lab_panel, ledger, live),
)


class Hook(DisplayHook):
    """Puts a cell's result where `display` puts what it shows."""

    def write_output_prompt(self) -> None:
        """Say nothing before a result."""

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        """Publish a result."""
        publish_display_data(format_dict, md_dict)

    def finish_displayhook(self) -> None:
        """Say nothing after it."""


class Here(papermill.engines.Engine):
    """Runs a notebook's cells in this process."""

    @classmethod
    def execute_managed_notebook(cls, manager: Any, kernel_name: str, **_: Any) -> None:
        """Run every cell; an exception of a cell ends the notebook."""
        InteractiveShell.clear_instance()
        without_history = Config(HistoryManager={"enabled": False})
        shell = InteractiveShell.instance(config=without_history, displayhook_class=Hook)
        for index, cell in enumerate(manager.nb.cells):
            if cell.cell_type != "code":
                continue
            manager.cell_start(cell, index)
            with capture_output() as said:
                done = shell.run_cell(cell.source, store_history=True)
            cell.execution_count = done.execution_count
            cell.outputs = outputs(said.stdout, said.outputs)
            if error := done.error_before_exec or done.error_in_exec:
                raise PsplibError(
                    f"cell {done.execution_count} failed: {type(error).__name__}: {error}"
                )
            manager.cell_complete(cell, index)


papermill.engines.papermill_engines.register("here", Here)


def outputs(printed: str, shown: list[RichOutput]) -> list[Any]:
    """What a cell printed and displayed, as a notebook keeps it."""
    new = nbformat.v4.new_output
    text = [new("stream", name="stdout", text=printed)] if printed else []
    return text + [new("display_data", data=o.data, metadata=o.metadata or {}) for o in shown]


def executed(template: Path, parameters: dict[str, Any]) -> bytes:
    """A chapter executed for its page; `PsplibError` names it, and the cell that fails.

    It runs in this interpreter, whatever kernel it names, in its own folder. The page does not show
    the injected parameters, and offers the notebook beside it.
    """
    torch.set_num_threads(1)  # chapters run side by side
    mpl.use("agg")  # whatever $MPLBACKEND says
    try:
        notebook = papermill.execute_notebook(
            nbformat.read(template, as_version=4),
            None,
            parameters,
            engine_name="here",
            kernel_name="python3",
            language="python",
            cwd=template.parent,
            progress_bar=False,
        )
    except Exception as error:
        what = "" if isinstance(error, PsplibError) else f"{type(error).__name__}: "
        raise PsplibError(f"{template.name}: {what}{error}") from None
    notebook.metadata.pop("papermill", None)  # paths and times of this machine
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-cell")
        for output in cell.get("outputs", []):
            if html := output.get("data", {}).get("text/html"):
                output["data"]["text/html"] = with_notebook(html, template.name)
    return nbformat.writes(notebook).encode()


def with_notebook(html: str, name: str) -> str:
    """A figure's first downloads with the notebook that draws it, which lies beside its page."""
    link = f'<a download href="{name}">notebook</a>'
    return re.sub(r'(<p class="psplib-downloads">.*?)</p>', rf"\1 {link}</p>", html, count=1)
