"""Executed chapters and prose -> pages, by Jupyter Book.

Without JavaScript a page has MathML in the place of its formulas, and a picture in that of each
widget.
"""

from __future__ import annotations

import base64
import contextlib
import html as markup
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

import jupyter_book.sphinx  # slow to import: once, before a process is forked that needs it
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from jupyter_book.cli.main import main as jupyter_book_command

from psplib.core import files
from psplib.core.errors import PsplibError

LOADED = jupyter_book.sphinx
FORMULA = re.compile(r'<(div|span) class="math notranslate nohighlight"[^>]*>(.*?)</\1>', re.DOTALL)
LOADED_FILE = re.compile(r'<(?:script|link|img)\b[^>]*?\s(?:src|href)="([^"?#:]+)[^":]*"')
VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET = re.compile(rf'<script type="{re.escape(VIEW)}">\s*(\{{.*?\}})\s*</script>', re.DOTALL)
NO_FORMULAS = "<noscript><style>.math { display: none !important }</style></noscript></head>"


def render(wanted: Mapping[Path, Path | bytes], beside: Mapping[Path, bytes], html: Path) -> None:
    """Render a book from its files, `{path in its source: original or content}`, to the folder
    `html`, which is replaced when all of it is there. `beside`: files to put beside the pages, as
    they are. `PsplibError` with the warnings, if there are any, or if a page loads what is not
    there.
    """
    os.environ.pop("SOURCE_DATE_EPOCH", None)  # Sphinx would write its year for the book's
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
    without_scripts(made, dict(_stills(source)))
    for path, content in beside.items():
        (made / path).write_bytes(content)
    slim(made, beside)
    check_loads(made)
    replace(html, made)
    shutil.rmtree(work)


def without_scripts(made: Path, stills: Mapping[str, str | tuple[bytes, str]]) -> None:
    """Give pages what stands for formulas and widgets where no script runs. `stills`: by the name
    of a widget's model, HTML, or a PNG and its words."""

    def formula(found: re.Match[str]) -> str:
        tex = re.sub(r"^\\[(\[]|\\[)\]]$", "", markup.unescape(found[2]).strip())
        try:
            said = tex2mathml(tex, as_block=found[1] == "div")
            said = re.sub(r">\s+<", "><", said)
        except MathError:
            said = f"<code>{markup.escape(tex)}</code>"
        return f"{found[0]}<noscript>{said}</noscript>"

    for page in made.rglob("*.html"):

        def widget(found: re.Match[str], folder: Path = page.parent) -> str:
            name = str(json.loads(found[1])["model_id"])
            still = stills.get(name, "")
            if isinstance(still, tuple):
                path = made / "_images" / f"{name}.png"
                files.make_folder(path.parent)
                path.write_bytes(still[0])
                address = Path(os.path.relpath(path, folder)).as_posix()
                still = f'<img src="{address}" alt="{markup.escape(still[1])}">'
            return f"{found[0]}<noscript>{still}</noscript>"

        text = page.read_text(encoding="utf-8")
        changed = WIDGET.sub(widget, FORMULA.sub(formula, text))
        if changed != text:
            page.write_text(changed.replace("</head>", NO_FORMULAS, 1), encoding="utf-8")


def _stills(source: Path) -> Iterator[tuple[str, str | tuple[bytes, str]]]:
    """What chapters put beside their widgets."""
    for path in source.rglob("*.ipynb"):
        for cell in json.loads(path.read_bytes())["cells"]:
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                if VIEW not in data:
                    continue
                name = data[VIEW]["model_id"]
                if "image/png" in data:
                    words = output["metadata"].get("image/png", {}).get("alt", "")
                    yield name, (base64.b64decode(data["image/png"]), words)
                elif "text/html" in data:
                    yield name, "".join(data["text/html"])


def check_loads(html: Path) -> None:
    """Raise `PsplibError` for a page that loads a file of the site that is not there."""
    for page in sorted({*html.rglob("*.html")} - {*html.glob("_static/**/*")}):  # templates
        for name in LOADED_FILE.findall(page.read_text(encoding="utf-8")):
            if not (page.parent / unquote(name)).exists():
                raise PsplibError(
                    f"{page.relative_to(html)} loads {name}, which is not there; `make assets` "
                    "fetches the browser scripts."
                )


def slim(html: Path, beside: Mapping[Path, bytes]) -> None:
    """Leave out of a site what no reader opens: source maps, catalogues of translations, and the
    outputs of the notebooks that its pages let download."""
    for path in html.rglob("*.map"):
        path.unlink()
    shutil.rmtree(html / "_static" / "locales", ignore_errors=True)
    for path, content in beside.items():
        if (source := html / "_sources" / path).exists():
            source.write_bytes(content)


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
