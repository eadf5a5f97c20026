"""Executed chapters for a place that runs no scripts and takes no drawings in HTML, as GitHub's
view of notebooks: each picture is a PNG beside its text."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nbformat

from psplib.book.printed import chromium
from psplib.core import files

_PICTURE = re.compile(
    r'<img src="data:image/[^"]*" alt="([^"]*)"[^>]*>'
    r'|<svg [^>]*role="img"[^>]*><title>(.*?)</title>.*?</svg>',
    re.DOTALL,
)
# The lines of a forest plot are drawings, too: their numbers stand beside them.
_GONE = re.compile(r'<(script|style|svg)\b.*?</\1>|<p class="psplib-downloads">.*?</p>', re.DOTALL)


def release(executed: Iterable[Path], folder: Path) -> None:
    """Write executed chapters to a folder, with PNG pictures; `PsplibError` without Chromium."""
    files.make_folder(folder)
    with chromium(scale=2) as page:

        def png(image: str) -> bytes:
            page.set_content(f'<body style="margin: 0; width: 720px">{image}')
            return page.locator("img, svg").first.screenshot()

        for path in executed:
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs = [o for shown in cell.outputs for o in plain(shown, png)]
            files.write(folder / path.name, nbformat.writes(notebook).encode())


def plain(shown: Any, png: Callable[[str], bytes]) -> list[Any]:
    """An output as its pictures, each from its HTML by `png`, and its HTML without them."""
    page = shown.get("data", {}).get("text/html", "")
    outputs = []
    for found in _PICTURE.finditer(page):
        content = base64.b64encode(png(found[0])).decode()
        data = {"image/png": content, "text/plain": html.unescape(found[1] or found[2])}
        outputs.append(nbformat.v4.new_output("display_data", data))
    if page:
        shown["data"]["text/html"] = _GONE.sub("", _PICTURE.sub("", page))
    return [*outputs, shown]
