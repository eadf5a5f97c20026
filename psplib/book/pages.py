"""Executed chapters and prose -> pages, by Jupyter Book; `markup` completes them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import jupyter_book.sphinx  # slow to import: once, before a process is forked that needs it
from jupyter_book.cli.main import main as jupyter_book_command

from psplib.book import markup
from psplib.core import files
from psplib.core.errors import PsplibError

LOADED = jupyter_book.sphinx
LOADED_FILE = re.compile(r'<(?:script|link|img)\b[^>]*?\s(?:src|href)="([^"?#:]+)[^":]*"')


def render(wanted: Mapping[Path, Path | bytes], offered: Mapping[str, bytes], site: Path) -> None:
    """Render a book from its files, `{path in its source: original or content}`, to the folder
    `site`, which is replaced when all of it is there. `offered`: notebooks that pages let download,
    by name. `PsplibError` with the warnings, if there are any, or if a page loads what is not
    there.
    """
    os.environ.pop("SOURCE_DATE_EPOCH", None)  # Sphinx would write its year for the book's
    os.environ["DOCUTILSCONFIG"] = ""  # nor does the user's own change the pages
    source, work = site.with_name("source"), site.with_name("sphinx")
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
    written = {p.name: p.read_bytes() for p in (made / "_sources").rglob("*.*")}
    prepare(made, {**written, **offered})
    slim(made)
    check_loads(made)
    replace(site, made)
    shutil.rmtree(work)


def prepare(made: Path, sources: Mapping[str, bytes]) -> None:
    """Complete the pages of a site. `sources`: what a page offers as its source, by name."""
    texts = {
        path.relative_to(made).as_posix(): path.read_text(encoding="utf-8")
        for path in made.rglob("*.html")
        if "_static" not in path.parts
    }
    said = markup.previews(texts)
    images = made / "_images"
    files.make_folder(images)
    for path, text in texts.items():
        page = made / path

        def put(png: bytes, folder: Path = page.parent) -> str:
            kept = images / f"{hashlib.sha256(png).hexdigest()[:20]}.png"
            kept.write_bytes(png)
            return Path(os.path.relpath(kept, folder)).as_posix()

        changed = markup.with_drawings(markup.mended(markup.previewed(text, path, said)))
        changed = markup.packed(markup.drawn_once(markup.without_scripts(changed)), sources)
        page.write_text(markup.without_pictures(changed, put), encoding="utf-8")


def check_loads(html: Path) -> None:
    """Raise `PsplibError` for a page that loads a file of the site that is not there."""
    for page in sorted({*html.rglob("*.html")} - {*html.glob("_static/**/*")}):  # templates
        for name in LOADED_FILE.findall(page.read_text(encoding="utf-8")):
            if not (page.parent / unquote(name)).exists():
                raise PsplibError(
                    f"{page.relative_to(html)} loads {name}, which is not there; `make assets` "
                    "fetches the browser scripts."
                )


def slim(made: Path) -> None:
    """Leave out of a site what no page opens: source maps, fonts for browsers of long ago,
    catalogues of translations, and sources, which their pages carry."""
    for path in made.rglob("*"):
        if path.suffix in (".map", ".ttf"):
            path.unlink()
    for name in ("_static/locales", "_sources"):
        shutil.rmtree(made / name, ignore_errors=True)


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
