"""Executed notebooks and prose -> pages, by Jupyter Book; only what has changed."""

from __future__ import annotations

import filecmp
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psplib.book import freshness
from psplib.core import files
from psplib.core.errors import PsplibError


def mirror(wanted: dict[Path, Path], folder: Path) -> None:
    """Make a folder hold just these files, `{path in it: original}`; equal ones keep their date,
    by which Sphinx knows what has changed."""
    for name, original in wanted.items():
        copy = folder / name
        if not copy.exists() or not filecmp.cmp(original, copy, shallow=False):
            files.make_folder(copy.parent)
            shutil.copyfile(original, copy)
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder) not in wanted:
            path.unlink()


def render(source: Path, output: Path, beside: Mapping[Path, bytes]) -> bool:
    """Render `source` to `<output>/html`, unless that is done; whether it was rendered. Files
    `beside` the pages, `{path in html: content}`, are put there as they are.

    Sphinx keeps what it has read under `<output>/sphinx`, and reads again what has changed. It
    warns of a page only when it reads it, and every page shows the titles of the others: so a build
    that did not end well, or that changes what pages have in common, leaves nothing to the next.
    """
    html, work = output / "html", output / "sphinx"
    done, begun = output / "html.json", work / "common.json"
    common = {"common": freshness.digest(shared(source), freshness.packages())}
    also = {p.as_posix(): hashlib.sha256(content).hexdigest() for p, content in beside.items()}
    all_of_it = {"pages": freshness.digest(freshness.tree(source), common, also)}
    if freshness.read(done) == all_of_it and (html / "index.html").exists():
        return False
    if freshness.read(begun) != common:
        shutil.rmtree(work, ignore_errors=True)
    files.make_folder(work)
    begun.unlink(missing_ok=True)
    tool = str(Path(sys.executable).with_name("jupyter-book"))
    command = [tool, "build", str(source), "--path-output", str(work)]
    command += ["-W", "-n", "--keep-going", "-q"]
    told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if told.returncode:
        raise PsplibError(f"Jupyter Book warns, and the book is not built:\n{told.stdout}")
    made = work / "_build" / "html"
    for path in unused_images(made):
        path.unlink()
    for path, content in beside.items():
        (made / path).write_bytes(content)
    replace(html, made)
    freshness.write(begun, common)
    freshness.write(done, all_of_it)
    return True


def shared(source: Path) -> dict[str, Any]:
    """What pages have in common: every file that is not a page, and the headings of the pages."""
    everything = [p for p in source.rglob("*") if p.is_file()]
    pages = [p for p in everything if p.suffix in (".md", ".ipynb")]
    headings = {p.relative_to(source).as_posix(): _headings(p) for p in sorted(pages)}
    others = freshness.contents((p for p in everything if p not in pages), source)
    return {"headings": headings, "others": others}


def _headings(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return re.findall(r"^#+ .*|^\(.*\)=$", text, re.MULTILINE)


def unused_images(html: Path) -> list[Path]:
    """Pictures of earlier builds that no page shows any more."""
    text = "".join(p.read_text(encoding="utf-8") for p in html.rglob("*.html"))
    return [p for p in (html / "_images").glob("*") if p.name not in text]


def replace(folder: Path, new: Path) -> None:
    """Put a copy of `new` in a folder's place; until that is whole, the old one stays."""
    fresh, old = (folder.with_name(f".{folder.name}.{what}") for what in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(new, fresh)
    if folder.exists():
        folder.rename(old)
    try:
        fresh.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
