"""What a reader would complain of: each check gives a list of faults, empty where there is none."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urldefrag, urlsplit

from playwright.sync_api import Browser, Error, Locator, Page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
AXE = Path(__file__).parents[1] / "book" / "_static" / "vendor" / ".axe.js"
WIDE, NARROW = 1280, 390
PATIENCE = 500  # milliseconds in which a picture changes
READABLE = 4.5  # WCAG 2.1, 1.4.3: contrast of text of normal size


@contextmanager
def visit(
    browser: Browser, address: str, root: Path, width: int = WIDE, theme: Any = "light"
) -> Iterator[tuple[Page, list[str]]]:
    """A loaded page, and what went wrong on the way: a list that grows while the page is open."""
    faults: list[str] = []
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce"
    )
    page = context.new_page()

    def requested(url: str) -> None:
        if not url.startswith((root.as_uri().rstrip("/") + "/", "data:", "blob:")):
            faults.append(f"asks for {url[:100]}, which is outside")

    page.on("request", lambda r: requested(r.url))
    page.on("requestfailed", lambda r: faults.append(f"{r.url[:100]} does not load ({r.failure})"))
    page.on("pageerror", lambda e: faults.append(f"error in a script: {e}"))
    page.on("console", lambda m: faults.append(f"console: {m.text}") if m.type == "error" else None)
    try:
        page.goto(address, wait_until="load")
        page.evaluate("window.MathJax?.startup ? MathJax.startup.promise : null")
        yield page, faults
    finally:
        context.close()


def mathematics(page: Page) -> list[str]:
    """Every formula is typeset, and none is shown as it was typed."""
    return page.evaluate(
        """() => {
          const faults = [];
          for (const e of document.querySelectorAll(".math"))
            if (!e.querySelector("mjx-container")) faults.push("not typeset: " + e.textContent);
          for (const e of document.querySelectorAll("mjx-merror, [data-mjx-error]"))
            faults.push("not understood: " + e.textContent);
          const prose = (document.querySelector("article") ?? document.body).cloneNode(true);
          for (const e of prose.querySelectorAll("pre, code, script, style, mjx-container"))
            e.remove();
          for (const raw of prose.textContent.match(/\\$\\$|\\\\[([]/g) ?? [])
            faults.push("raw " + raw);
          return faults;
        }"""
    )


def pictures(page: Page) -> list[str]:
    """Every picture has been loaded and has words for who does not see it."""
    return page.evaluate(
        """() => [...document.images].flatMap(i => {
          const name = (i.currentSrc || i.src).slice(-60), faults = [];
          if (!i.alt.trim()) faults.push(name + " has no alternative text");
          if (i.complete && !i.naturalWidth) faults.push(name + " is no picture");
          return faults;
        })"""
    )


def overflow(page: Page) -> list[str]:
    """Nothing makes the page itself wider than the window, and a wider formula can be scrolled to
    its end; the fault names what is too wide."""
    return page.evaluate(
        """() => {
          const width = document.documentElement.clientWidth;
          const cut = [...document.querySelectorAll("div.math")].filter(
            e => e.scrollWidth + 1 < e.firstElementChild?.getBoundingClientRect().width).map(
            e => `cut off: ${e.textContent}`);
          if (document.documentElement.scrollWidth <= width) return cut;
          const wide = [...document.querySelectorAll("body *")].filter(
            e => e.getBoundingClientRect().right > width + 1).slice(0, 5).map(
            e => `${e.tagName}.${e.className?.baseVal ?? e.className}`);
          return [`${document.documentElement.scrollWidth} px wide: ${wide.join(", ")}`];
        }"""
    )


def sideways(page: Page) -> list[str]:
    """Nothing of a wide screen's text, unfolded, needs to be scrolled sideways."""
    return page.evaluate(
        """() => {
          document.querySelectorAll("details").forEach(d => d.open = true);
          return [...document.querySelectorAll("article *")].filter(
            e => e.scrollWidth > e.clientWidth + 1 && e.checkVisibility()
              && ["auto", "scroll"].includes(getComputedStyle(e).overflowX)).map(
            e => `${e.scrollWidth} > ${e.clientWidth} px: ${e.innerText.slice(0, 50)}`);
        }"""
    )


def contrast(page: Page) -> list[str]:
    """All text can be read: its colour against what is painted behind it."""
    return page.evaluate(
        """readable => {
          document.getAnimations().forEach(a => a.finish());
          const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
          const rgba = colour => {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
            return [r, g, b, a / 255];
          };
          const over = ([r, g, b, a], [R, G, B]) =>
            [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
          const behind = e => {
            if (!e) return [255, 255, 255, 1];
            const colour = rgba(getComputedStyle(e).backgroundColor);
            return colour[3] === 1 ? colour : over(colour, behind(e.parentElement));
          };
          const luminance = c => {
            const [r, g, b] = c.map(v => v / 255).map(
              v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const faults = new Set();
          const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
          while (texts.nextNode()) {
            const e = texts.currentNode.parentElement, text = texts.currentNode.data.trim();
            if (!text || !e.checkVisibility({opacityProperty: true, visibilityProperty: true}))
              continue;
            if (e.closest("script, style, noscript, svg:not(.psplib-figure), mjx-assistive-mml"))
              continue;
            const ink = e.closest("svg") ? "fill" : "color";
            const ground = behind(e), colour = rgba(getComputedStyle(e)[ink]);
            for (let a = e; a; a = a.parentElement) colour[3] *= getComputedStyle(a).opacity;
            const [low, high] = [luminance(ground), luminance(over(colour, ground))]
              .sort((a, b) => a - b);
            const ratio = (high + 0.05) / (low + 0.05);
            if (ratio < readable)
              faults.add(`${ratio.toFixed(2)} ${e.tagName}.${e.className}: ${text.slice(0, 30)}`);
          }
          return [...faults];
        }""",
        READABLE,
    )


def accessibility(page: Page) -> list[str]:
    """What axe-core finds fault with: by all its rules of WCAG 2.2, A and AA, of good practice, and
    those that it still tries out."""
    assert AXE.is_file(), f"{AXE} is missing: `make assets` fetches it"
    page.add_script_tag(path=AXE)
    return page.evaluate(
        """async () => {
          const of = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
          const values = axe.getRules([...of, "experimental"]).map(rule => rule.ruleId);
          // Not preloaded: a browser forbids the page of a file to read its style sheets.
          const options = { runOnly: { type: "rule", values }, preload: false,
            resultTypes: ["violations"] };
          const { violations } = await axe.run(document, options);
          return violations.flatMap(({ id, nodes }) =>
            nodes.map(n => `${id}: ${n.target} ${n.html.slice(0, 100)}`));
        }"""
    )


def found(page: Page) -> list[str]:
    """The pages that the search has listed."""
    # Results come one by one; the summary has their number when all are there.
    page.wait_for_function(
        "() => /[0-9]/.test(document.querySelector('#search-results .search-summary')?.innerText)"
    )
    return page.locator("#search-results li a").evaluate_all("links => links.map(a => a.href)")


# --- controls -------------------------------------------------------------------------------------

KEYS = {
    "input[type=checkbox], button": ("Space",),
    "select": ("ArrowDown", "ArrowUp", "Home", "End"),
    "input[type=range]": ("ArrowRight", "ArrowLeft", "Home", "End"),
}


def controls(page: Page) -> tuple[int, list[str]]:
    """How many controls its live figures have, and those that, operated by keyboard, change no
    picture."""
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    count, faults = 0, []
    for figure in page.locator(".psplib-live").all():
        for kind, keys in KEYS.items():
            for handle in figure.locator(f":is({kind})").all():
                if handle.is_visible():
                    count += 1
                    if not any(_changes(figure, handle, key) for key in keys):
                        named = handle.evaluate("e => (e.labels?.[0] ?? e).textContent")
                        faults.append(f"{kind} {named!r} changes no picture")
    return count, faults


def _changes(figure: Locator, control: Locator, key: str) -> bool:
    before = figure.evaluate(_SEEN)
    control.press(key)
    try:
        figure.page.wait_for_function(
            f"([figure, before]) => ({_SEEN})(figure) !== before",
            arg=[figure.element_handle(), before],
            timeout=PATIENCE,
        )
    except Error:
        return False
    return True


# Only what is seen counts.
_SEEN = """figure => JSON.stringify([...figure.querySelectorAll(":is(img, svg)")]
  .filter(e => e.checkVisibility()).map(e => e.outerHTML))"""


# --- links: read from the files, no browser needed ------------------------------------------------


class _Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[tuple[str, str | None]] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.anchors |= {str(found[name]) for name in ("id", "name") if found.get(name)}
        for name in ("href", "src"):
            if found.get(name):
                self.targets.append((str(found[name]), found.get("download")))


def links(root: Path) -> list[str]:
    """Links, anchors and downloads of all pages that lead nowhere inside the site."""
    # Themes leave their templates among the static files.
    found = (p for p in sorted(root.rglob("*.html")) if "_static" not in p.parts)
    pages = {p: _Links(p.read_text(encoding="utf-8")) for p in found}
    faults = []
    for page, parsed in pages.items():
        for target, name in parsed.targets:
            where = page.relative_to(root)
            if target.startswith("data:"):
                if name is not None and (fault := download(target, name)):
                    faults.append(f"{where}: {name} {fault}")
                continue
            if urlsplit(target).scheme or target.startswith("//"):
                continue
            address, anchor = urldefrag(target)
            path = unquote(address.partition("?")[0])
            file = (page.parent / path).resolve() if path else page
            if not file.is_file():
                faults.append(f"{where}: {target} is not there")
            elif anchor and file in pages and unquote(anchor) not in pages[file].anchors:
                faults.append(f"{where}: {target} has no such anchor")
    return faults


def download(address: str, name: str) -> str:
    """What is wrong with a file that a link carries; its name says what it should be."""
    head, _, text = address.partition(",")
    try:
        content = base64.b64decode(text) if head.endswith(";base64") else unquote_to_bytes(text)
        if name.endswith(".gz"):
            content, name = gzip.decompress(content), name.removesuffix(".gz")
        if name.endswith(".svg"):
            if not ElementTree.fromstring(content).tag.endswith("svg"):
                return "is no SVG"
        elif name.endswith((".json", ".ipynb")):
            if not json.loads(content):
                return "is empty"
        elif name.endswith(".csv"):
            rows = list(csv.reader(io.StringIO(content.decode())))
            if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows):
                return "is no table"
        elif not content:
            return "is empty"
    except (ValueError, OSError, EOFError, ElementTree.ParseError) as error:
        return f"cannot be read: {error}"
    return ""
