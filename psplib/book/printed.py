"""The book as one PDF: its pages, in their order, put together and printed by Chromium."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from posixpath import normpath
from typing import Any

from psplib.core.errors import PsplibError

NAME = "psplib.pdf"
BUTTON = f' <a href="../{NAME}">PDF</a></p>'
_ARTICLE = re.compile(r'<article class="bd-article".*?>(.*)</article>', re.DOTALL)
_SCRIPT = re.compile(r"<(script|noscript)\b.*?</\1>", re.DOTALL)
_HIDDEN = re.compile(r'<p class="psplib-(?:downloads|buttons)">.*?</p>', re.DOTALL)
_HEAD = re.compile(
    r"<link [^>]*stylesheet[^>]*>|<script>window.MathJax.*?</script>"
    r"|<script [^>]*tex-svg[^>]*></script>"
)


def print_book(site: Path, pages: Sequence[str]) -> None:
    """Print a site's pages, `book/x.html`, to `psplib.pdf` in it, and link that from the first one;
    `PsplibError` without Chromium."""
    together = site / "printed.html"
    together.write_text(put_together(site, pages), encoding="utf-8")
    foot = '<p style="font-size: 8px; width: 100%; text-align: center" class="pageNumber"></p>'
    try:
        with chromium() as page:
            page.goto(together.as_uri(), wait_until="load")
            page.evaluate("window.MathJax?.startup ? MathJax.startup.promise : null")
            page.pdf(
                path=site / NAME,
                format="A4",
                margin={"top": "16mm", "bottom": "18mm", "left": "15mm", "right": "15mm"},
                display_header_footer=True,
                header_template="<p></p>",
                footer_template=foot,
                print_background=True,
                outline=True,
                tagged=True,
            )
    finally:
        together.unlink()
    first = site / pages[0]
    text = first.read_text(encoding="utf-8")
    start = text.index('class="psplib-buttons"')
    first.write_text(text[:start] + text[start:].replace("</p>", BUTTON, 1), encoding="utf-8")


@contextmanager
def chromium(scale: float = 1) -> Iterator[Any]:
    """A page of Chromium, `scale` pixels for one of CSS; `PsplibError` if that fails."""
    from playwright.sync_api import Error, sync_playwright

    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=next(found, None))
            yield browser.new_page(device_scale_factor=scale)
            browser.close()
    except Error as error:
        raise PsplibError(f"Chromium fails: {str(error).splitlines()[0]}") from None


def put_together(site: Path, pages: Sequence[str]) -> str:
    """The articles of pages as one page beside them: nothing of it moves or is folded but code, and
    a link to another page leads to its place here."""
    texts = {path: (site / path).read_text(encoding="utf-8") for path in pages}
    head = "\n".join(dict.fromkeys(m[0] for text in texts.values() for m in _HEAD.finditer(text)))
    head = head.replace("../../_static", "_static").replace("../_static", "_static")
    body = "".join(_section(path, text, pages) for path, text in texts.items())
    return (
        f'<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f"<title>{_title(texts[pages[0]])}</title>{head}</head>"
        f'<body class="psplib-printed"><main class="bd-content">{body}</main></body></html>'
    )


def _title(text: str) -> str:
    return re.sub("<.*", "", text.partition("<h1>")[2], count=1, flags=re.DOTALL)


def _section(path: str, text: str, pages: Sequence[str]) -> str:
    found = _ARTICLE.search(text)
    assert found, path
    article = _HIDDEN.sub("", _SCRIPT.sub("", found[1]))
    article = article.replace(' loading="lazy"', "").replace("<details", "<details open")
    folder = path.rpartition("/")[0]

    def name(anchor: str, of: str = path) -> str:
        return f"{of.removesuffix('.html').replace('/', '-')}--{anchor}"

    def address(attribute: re.Match[str]) -> str:
        kind, target = attribute[1], html.unescape(attribute[2])
        if re.match(r"[a-z]+:", target):
            return attribute[0]
        file, _, anchor = target.partition("#")
        where = normpath(f"{folder}/{file}") if file else path
        if kind == "href" and where in pages:
            return f'href="#{name(anchor, where)}"'
        return f'{kind}="{html.escape(where)}"'

    article = re.sub(r'(?<= )(href|src)="([^"]*)"', address, article)
    article = re.sub(
        r'(?<= )(id|for|aria-labelledby|aria-describedby|name)="([^"]*)"',
        lambda m: f'{m[1]}="{name(m[2])}"',
        article,
    )
    return f'<article class="bd-article" id="{name("")}">{article}</article>'
