"""Executed chapters and prose -> pages, by Jupyter Book."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Mapping
from pathlib import Path

import jupyter_book.sphinx  # slow to import: once, before a process is forked that needs it
from jupyter_book.cli.main import main as jupyter_book_command

from psplib.core import files
from psplib.core.errors import PsplibError

LOADED = jupyter_book.sphinx


def render(wanted: Mapping[Path, Path | bytes], beside: Mapping[Path, bytes], html: Path) -> None:
    """Render a book from its files, `{path in its source: original or content}`, to the folder
    `html`, which is replaced when all of it is there. `beside`: files to put beside the pages, as
    they are. `PsplibError` with the warnings, if there are any.
    """
    source, work = html.with_name("source"), html.with_name("sphinx")
    for folder in (source, work):
        shutil.rmtree(folder, ignore_errors=True)
    for path, original in wanted.items():
        files.make_folder((source / path).parent)
        content = original if isinstance(original, bytes) else original.read_bytes()
        (source / path).write_bytes(content)
    words = ["build", str(source), "--path-output", str(work), "-W", "-n", "--keep-going", "-q"]
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            jupyter_book_command.main(words, standalone_mode=False)
        except (Exception, SystemExit) as error:
            raise PsplibError(
                f"Jupyter Book warns, and the book is not built:\n{told.getvalue()}{error}"
            ) from None
    made = work / "_build" / "html"
    for path, content in beside.items():
        (made / path).write_bytes(content)
    replace(html, made)
    shutil.rmtree(work)


def replace(folder: Path, new: Path) -> None:
    """Put `new` in a folder's place; should that fail, the old one stays."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
