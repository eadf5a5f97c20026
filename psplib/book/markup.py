"""What is changed in the pages that Sphinx wrote, HTML in and HTML out: names for who hears a page,
less weight, and a preview of what a link leads to."""

from __future__ import annotations

import base64
import gzip
import html
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from posixpath import normpath

from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml

FORMULA = re.compile(r'<(div|span) class="math notranslate nohighlight"[^>]*>(.*?)</\1>', re.DOTALL)
TAG = re.compile(r"\\tag\{(.*?)\}")

# The theme's names differ from what is read on the screen, or are missing, or no longer in use; and
# the index of the search would hold up every page.
_MENDED = (
    (r'(<button class="btn search-button-field[^>]*?) aria-label="[^"]*"', r"\1"),
    (r'(<i class="theme-switch [^>]*?) title="[^"]*"', r"\1"),
    (r"<summary aria-label=\"Toggle hidden content\">", "<summary>"),
    (r'<summary>(<span class="toctree-toggle")', r'<summary aria-label="Its pages">\1'),
    (r'<div (id="pst-primary-sidebar")', r'<div role="complementary" aria-label="Book" \1'),
    (r'role="doc-biblioentry"', 'role="listitem"'),
    (r'<script (src="[^"]*/?(?:searchtools|language_data|searchindex)\.js)', r"<script defer \1"),
)


def mended(page: str) -> str:
    """A page whose parts have the names and roles that who hears it needs, there before its
    search is."""
    for pattern, replacement in _MENDED:
        page = re.sub(pattern, replacement, page)
    return page


# --- without scripts ------------------------------------------------------------------------------

_NO_FORMULAS = "<noscript><style>.math { display: none !important }</style></noscript></head>"


def without_scripts(page: str) -> str:
    """A page with what stands for formulas where no script runs."""
    changed = FORMULA.sub(lambda found: f"{found[0]}<noscript>{formula(found)}</noscript>", page)
    return changed if changed == page else changed.replace("</head>", _NO_FORMULAS, 1)


def formula(found: re.Match[str]) -> str:
    """A `FORMULA` in MathML, which needs no script; as it was typed, where that fails."""
    tex = re.sub(r"^\\[(\[]|\\[)\]]$", "", html.unescape(found[2]).strip())
    number = "".join(f" ({n})" for n in TAG.findall(tex))
    try:
        said = tex2mathml(TAG.sub("", tex), as_block=found[1] == "div")
        return re.sub(r">\s+<", "><", said) + number
    except MathError:
        return f"<code>{html.escape(tex)}</code>"


_DRAWS = re.compile(r"<script>// Figures that answer.*?</script>", re.DOTALL)


def drawn_once(page: str) -> str:
    """A page in which the script of all live figures stands with the first of them only."""
    first = _DRAWS.search(page)
    return page[: first.end()] + _DRAWS.sub("", page[first.end() :]) if first else page


# --- downloads ------------------------------------------------------------------------------------

_CARRIED = re.compile(r'download="([^"]+)" href="data:[^;"]+;base64,([A-Za-z0-9+/=]+)"')
_NOTEBOOK = re.compile(r'download href="([^"/]+\.ipynb)"')
_SOURCE = re.compile(r'href="[^"]*_sources/([^"]+)" target="_blank"')


def packed(page: str, sources: Mapping[str, bytes]) -> str:
    """A page whose downloads are compressed in their links, which psplib.js undoes: its own source,
    among `sources` by their names, too."""

    def link(name: str, content: bytes) -> str:
        small = base64.b64encode(gzip.compress(content, mtime=0)).decode()
        return f'download="{name}.gz" href="data:application/gzip;base64,{small}"'

    def own(found: re.Match[str]) -> str:
        name = PurePosixPath(found[1]).name
        return link(name, sources[name])

    page = _CARRIED.sub(lambda found: link(found[1], base64.b64decode(found[2])), page)
    return _SOURCE.sub(own, _NOTEBOOK.sub(own, page))


# --- pictures -------------------------------------------------------------------------------------

_DRAWN = re.compile(r'<img src="(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+))"[^>]*>')


def with_drawings(page: str) -> str:
    """A page whose drawings are parts of it, so that they take its colour and its font; psplib.js
    saves them from there."""
    for found in _DRAWN.finditer(page):
        drawing = base64.b64decode(found[2]).decode()
        name = drawing.split('"')[1]  # its id comes first
        page = page.replace(found[0], drawing).replace(f'href="{found[1]}"', f'href="#{name}"')
    return page


# In an attribute, or in the text of a widget, where quotes are escaped.
_INLINE = re.compile(r'src=(\\?")data:image/png;base64,([A-Za-z0-9+/=]+)\\?"')


def without_pictures(page: str, put: Callable[[bytes], str]) -> str:
    """A page without its pictures, which are loaded when they are seen; `put` keeps one, and says
    where."""
    return _INLINE.sub(
        lambda f: f"loading={f[1]}lazy{f[1]} src={f[1]}{put(base64.b64decode(f[2]))}{f[1]}", page
    )


# --- previews -------------------------------------------------------------------------------------

_TERM = re.compile(r'((?:<dt id="term-[^"]+">.*?</dt>)+)<dd>(.*?)</dd>', re.DOTALL)
_ENTRY = re.compile(r'<div class="citation" id="([^"]+)".*?(<p>.*?)</div>', re.DOTALL)
_EQUATION = re.compile(
    r'<div class="math notranslate nohighlight" id="([^"]+)">.*?</div>', re.DOTALL
)
_CAPTION = re.compile(r'<p class="psplib-caption" id="([^"]+)">(.*?)</p>', re.DOTALL)
_LINK = re.compile(r'<a class="reference internal" href="([^"#]*)#([^"]+)"(?: title="[^"]*")?')


def previews(pages: Mapping[str, str]) -> dict[str, str]:
    """What terms of the glossary, references, captions and equations say, as HTML without links, by
    address; `pages` by their paths."""
    return {f"{path}#{name}": said for path, page in pages.items() for name, said in _said(page)}


def _said(page: str) -> Iterator[tuple[str, str]]:
    page = re.sub(r">\s+<(/?d[tdl])", r"><\1", page)
    found = [
        (name, f[2]) for f in _TERM.finditer(page) for name in re.findall(r'id="([^"]+)"', f[1])
    ]
    found += [(f[1], f[2]) for of in (_ENTRY, _CAPTION) for f in of.finditer(page)]
    found += [(f[1], f[0]) for f in _EQUATION.finditer(page)]
    for name, said in found:
        yield name, re.sub(r"</?(?:a|div)\b[^>]*>", "", FORMULA.sub(formula, said)).strip()


def previewed(page: str, path: str, said: Mapping[str, str]) -> str:
    """A page, by its path, whose links say what they lead to."""

    def link(found: re.Match[str]) -> str:
        where = normpath(f"{PurePosixPath(path).parent}/{found[1]}") if found[1] else path
        preview = said.get(f"{where}#{found[2]}")
        if preview is None:
            return found[0]
        start = f'<a class="reference internal" href="{found[1]}#{found[2]}"'
        return f'{start} data-preview="{html.escape(preview)}"'

    return _LINK.sub(link, page)
