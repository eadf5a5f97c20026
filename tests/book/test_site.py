"""The built book in a browser: offline, from files, on a wide and a narrow screen, light and dark.

The first tests look at its files. The others open it, and are skipped where there is no Chromium.
All are in this file: a process takes whole files of tests, and so builds the site once.
"""

from __future__ import annotations

import base64
import html
import os
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import browsing
import nbformat
import pandas as pd
import pytest
from playwright.sync_api import Browser, sync_playwright

from psplib.book import build, markup, printed
from psplib.book.release import release
from psplib.experiments import scales

VENDOR = Path(__file__).parents[2] / "book" / "_static" / "vendor"
needs_chromium = pytest.mark.skipif(
    browsing.CHROMIUM is None, reason="there is no Chromium on this machine to open the book with"
)


def test_the_smoke_book_is_built_without_a_warning(site: Path) -> None:
    pages = {p.stem: p.read_text() for p in (site / "book").glob("*.html")}
    chapters = {"figure_1", "figure_2", "figure_3", "figure_4", "controls", "beyond_lobster"}
    assert {"index", *chapters, "claims", "deviations", "provenance", "references"} <= set(pages)
    for chapter in chapters:
        assert "psplib-verdict" in pages[chapter], chapter
        assert "not there yet" not in pages[chapter], chapter
    for name in ("figure_1", *scales.PANELS):
        assert f'download="{name}.csv.gz"' in pages["figure_1"]
    assert "injected" not in pages["figure_1"]
    for chapter in chapters:
        assert pages[chapter].count('href="glossary.html#term-LOBSTER" data-preview="') == 1, (
            chapter
        )
    assert pages["provenance"].count('data-name="key"') == 15 + 3 * 10 + 19 + 21 + 17 + 11 + 17
    assert "Frankle" in pages["references"]
    assert 'href="figure_2.html#fig-2a" data-preview="<strong>Fig. 2a' in html.unescape(
        pages["index"]
    )


@needs_chromium
def test_chapters_are_printed_and_released_with_their_pictures(site: Path, tmp_path: Path) -> None:
    names = ["book/index.html", "book/figure_2.html"]
    shutil.copytree(site, tmp_path / "site")
    chapters = list((site.parent / "executed").glob("*/figure_2.ipynb"))
    build.apart(
        [(printed.print_book, tmp_path / "site", names), (release, chapters, tmp_path / "released")]
    )
    content = (tmp_path / "site" / printed.NAME).read_bytes()
    assert content.startswith(b"%PDF")
    assert content.count(b"/Type /Page\n") > 3
    assert 'data-name="the paper says"' in printed.put_together(site, names)
    assert f'href="../{printed.NAME}"' in (tmp_path / "site" / names[0]).read_text()

    def shown_by(chapter: Path) -> list[dict[str, str]]:
        cells = nbformat.read(chapter, as_version=4).cells
        return [o.data for cell in cells for o in cell.get("outputs", []) if "data" in o]

    shown = shown_by(tmp_path / "released" / "figure_2.ipynb")
    pictures = [data for data in shown if "image/png" in data]
    text = "".join(data.get("text/html", "") for data in shown_by(chapters[0]))
    assert len(pictures) == text.count('<img src="') > 3
    for data in pictures:
        png = base64.b64decode(data["image/png"])
        assert png.startswith(b"\x89PNG")
        assert int.from_bytes(png[16:20], "big") > 500  # pixels wide
        assert len(data["text/plain"]) > 20
    left = "".join(data.get("text/html", "") for data in shown)
    assert not re.search("<(img|script|svg)|base64", left)
    assert left.count("<table") == text.count("<table") > 0


def test_pages_load_nothing_from_outside(site: Path) -> None:
    loaded = re.compile(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="(https?:|//)[^"]*"')
    for page in site.rglob("*.html"):
        assert not loaded.findall(page.read_text()), page.name


# The site first: papermill wants the event loop that an open browser occupies.
@pytest.fixture(scope="module")
def browser(site: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browsing.CHROMIUM)
        yield opened
        opened.close()


def pages(site: Path) -> list[Path]:
    """All that are looked at; of the library's long ones, made alike, one is enough locally."""
    found = sorted((site / "book").rglob("*.html"))
    if not os.environ.get("CI"):
        found = [p for p in found if p.parent.name != "api" or p.stem == "core"]
    assert len(found) >= 20
    return [*found, site / "search.html", site / "genindex.html"]


# Axe looks at every page once; at these also in the dark and on a narrow screen.
SEEN_TWICE = {"index", "figure_1", "figure_4", "claims", "playground"}


@needs_chromium
@pytest.mark.parametrize(
    "widths",
    [
        (browsing.NARROW, browsing.WIDE),
        pytest.param((browsing.WIDE,), marks=pytest.mark.thorough),
    ],
)
def test_every_page_works_offline_fits_and_can_be_read(
    site: Path, browser: Browser, widths: tuple[int, ...]
) -> None:
    """It is opened on a screen of the first of these widths, which then becomes the next."""
    faults = {}
    for path in pages(site):
        with browsing.visit(browser, path.as_uri(), site, widths[0]) as (page, wrong):
            wrong += browsing.mathematics(page) + browsing.pictures(page)
            for width in widths:
                page.set_viewport_size({"width": width, "height": 900})
                for theme in ("light", "dark"):
                    page.emulate_media(color_scheme=theme)
                    page.wait_for_function(
                        "theme => document.documentElement.dataset.theme === theme", arg=theme
                    )
                    seen = browsing.overflow(page) + browsing.contrast(page)
                    if len(widths) > 1 and (
                        (width, theme) == (browsing.WIDE, "light")
                        or (path.stem in SEEN_TWICE and (width, theme) != (browsing.NARROW, "dark"))
                    ):
                        seen += browsing.accessibility(page)
                    wrong += [f"{width} px, {theme}: {fault}" for fault in seen]
            wrong += browsing.controls(page)[1] + browsing.sideways(page)
        faults[path.name] = wrong
    assert {name: wrong for name, wrong in faults.items() if wrong} == {}


@needs_chromium
def test_the_pages_hold_what_was_looked_at(site: Path, browser: Browser) -> None:
    with browsing.visit(browser, (site / "book" / "figure_2.html").as_uri(), site) as (page, _):
        assert page.locator("mjx-container").count() >= 5
        assert page.locator("article img").count() >= 1
        assert page.locator("article .psplib-figure").count() >= 3


@needs_chromium
def test_a_download_is_unpacked_and_a_link_shows_what_it_leads_to(
    site: Path, browser: Browser, tmp_path: Path
) -> None:
    with browsing.visit(browser, (site / "book" / "figure_4.html").as_uri(), site) as (page, _):
        for name in ("figure_4.csv", "figure_4.ipynb", "figure_4_runs.svg"):
            with page.expect_download() as saved:
                page.locator(f'.psplib-downloads a[download^="{name}"]').first.click()
            assert saved.value.suggested_filename == name
            saved.value.save_as(tmp_path / name)
        link, shown = page.locator("a[data-preview]").first, page.locator("#psplib-preview")
        assert not shown.is_visible()
        link.focus()
        assert shown.is_visible()
        assert link.get_attribute("aria-describedby") == "psplib-preview"
        assert len(shown.inner_text()) > 20
        assert browsing.accessibility(page) == []
        page.keyboard.press("Escape")
        assert not shown.is_visible()
    assert nbformat.read(tmp_path / "figure_4.ipynb", as_version=4).cells
    assert len(pd.read_csv(tmp_path / "figure_4.csv")) > 1
    assert ElementTree.parse(tmp_path / "figure_4_runs.svg").getroot().tag.endswith("svg")


@needs_chromium
@pytest.mark.parametrize("theme", [pytest.param("light", marks=pytest.mark.thorough), "dark"])
def test_on_paper_every_page_is_black_on_white(site: Path, browser: Browser, theme: str) -> None:
    seen = """() => {
      const style = e => getComputedStyle(e);
      const texts = [...document.querySelectorAll("article p, article a, article pre span, h1")];
      return {
        ground: [document.documentElement, document.body].map(e => style(e).backgroundColor),
        ink: [...new Set(texts.map(e => style(e).color))],
        verdicts: [...document.querySelectorAll(".psplib-verdict.holds")]
          .map(e => style(e).borderTopColor + style(e).borderTopStyle),
      };
    }"""
    for name in ("figure_2", "claims", "lab"):
        with browsing.visit(browser, (site / "book" / f"{name}.html").as_uri(), site) as (page, _):
            page.emulate_media(media="print", color_scheme=theme)
            page.wait_for_function(
                "theme => document.documentElement.dataset.theme === theme", arg=theme
            )
            assert browsing.contrast(page) == []
            found = page.evaluate(seen)
        assert set(found["ground"]) == {"rgb(255, 255, 255)"}
        assert found["ink"] == ["rgb(0, 0, 0)"]
        assert set(found["verdicts"]) <= {"rgb(0, 102, 77)solid"}


@needs_chromium
def test_the_ledger_unfolds_where_it_is_filtered_linked_to_or_printed(
    site: Path, browser: Browser
) -> None:
    address = (site / "book" / "claims.html").as_uri()
    with browsing.visit(browser, address, site) as (page, _):
        rows = page.locator("tr[data-verdict]")
        assert not any(row.is_visible() for row in rows.all())
        page.get_by_label("verdict").select_option(index=1)
        asked = page.get_by_label("verdict").input_value()
        shown = [row.get_attribute("data-verdict") for row in rows.all() if row.is_visible()]
        assert set(shown) == {asked}
        said = page.locator(".psplib-filter [role=status]").inner_text()
        assert said == f"{len(shown)} of {rows.count()} shown"
        anchor = page.locator("tbody").last.get_attribute("id")
    with browsing.visit(browser, f"{address}#{anchor}", site) as (page, _):
        assert page.locator("tbody").last.is_visible()
        assert not page.locator("tbody").first.is_visible()
        page.emulate_media(media="print")
        assert page.locator("tbody").first.is_visible()


@needs_chromium
def test_without_javascript_formulas_and_figures_have_what_stands_for_them(
    site: Path, browser: Browser
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    for name in ("figure_4", "figure_2"):
        page.goto((site / "book" / f"{name}.html").as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        formulas, figures = page.locator(".math"), page.locator(".psplib-live img")
        assert formulas.count() > 2
        assert not any(f.is_visible() for f in formulas.all())
        assert page.locator("noscript > math").count() == formulas.count()
        assert figures.count() > 1
        for still in figures.all():
            assert still.is_visible()
            assert still.get_attribute("alt")
            still.scroll_into_view_if_needed()
            still.evaluate("i => i.decode()")
            assert still.evaluate("i => i.naturalWidth") > 300
    context.close()


def test_what_is_no_mathml_is_shown_as_it_was_typed() -> None:
    formula = '<span class="math notranslate nohighlight">\\({}\\)</span>'
    page = "<head></head>" + formula.format("a &lt; b \\tag{4}") + formula.format("\\none")
    text = markup.without_scripts(page)
    assert "<mi>a</mi><mo>&lt;</mo><mi>b</mi></math> (4)</noscript>" in text
    assert "<noscript><code>\\none</code></noscript>" in text
    assert text.count("<style>") == 1


def test_the_script_of_live_figures_is_in_a_page_once(site: Path) -> None:
    for page in (site / "book").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        figures = text.count('<figure class="psplib-live"')
        assert text.count("window.psplibLive ??=") == (figures > 0), page.name


def test_the_site_offers_and_tells_no_more_than_it_should(site: Path) -> None:
    """No TeX, which is not built; and no path of the machine that it was built on, in the executed
    notebooks neither."""
    root = VENDOR.parents[2]
    here = [f"{p}".encode() for p in (root, f"{Path.home()}/", site.parent, sys.prefix)]
    assert any(path.suffix == ".ipynb" for path in site.parent.rglob("*"))
    for path in filter(Path.is_file, site.parent.rglob("*")):
        content = path.read_bytes()
        assert not [folder for folder in here if folder in content], path
        assert path.suffix != ".html" or not re.search(rb"\.tex\b", content), path


@needs_chromium
def test_the_site_opens_on_its_first_page(site: Path, browser: Browser) -> None:
    page = browser.new_page()
    page.goto((site / "index.html").as_uri(), wait_until="commit")
    page.wait_for_url("**/book/index.html")
    page.close()


@needs_chromium
def test_the_search_finds_a_term_of_the_paper(site: Path, browser: Browser) -> None:
    address = (site / "search.html").as_uri() + "?q=PSP-entropy"
    with browsing.visit(browser, address, site) as (page, faults):
        found = browsing.found(page)
    assert faults == []
    assert any("book/figure_4.html" in url for url in found)


def test_every_link_anchor_and_download_leads_somewhere(site: Path) -> None:
    assert browsing.links(site) == []


# --- each check can fail --------------------------------------------------------------------------

PIXEL = (
    "data:image/svg+xml;base64,"
    + base64.b64encode(
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9"/></svg>'
    ).decode()
)


@pytest.fixture
def page_of(tmp_path: Path, browser: Browser):
    """A page with a given body, as `browsing.visit` gives it."""

    def write(body: str, **options):
        path = tmp_path / "page.html"
        path.write_text(f'<!doctype html><html lang="en"><head></head><body>{body}</body></html>')
        return browsing.visit(browser, path.as_uri(), tmp_path, **options)

    return write


@needs_chromium
@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<img src="none.png" alt="x">', "does not load"),
        ('<script src="http://localhost:9/x.js"></script>', "is outside"),
        ("<script>console.error('broken')</script>", "console: broken"),
        ("<script>none()</script>", "error in a script"),
    ],
)
def test_what_goes_wrong_in_loading_is_noticed(page_of, body: str, fault: str) -> None:
    with page_of(body) as (_, faults):
        assert any(fault in f for f in faults), faults


@needs_chromium
@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (browsing.mathematics, "<code>$$</code>", "<p>$$x$$</p>"),
        (browsing.mathematics, "", '<span class="math">\\(x\\)</span>'),
        (browsing.pictures, f'<img src="{PIXEL}" alt="a dot">', f'<img src="{PIXEL}">'),
        (
            browsing.accessibility,
            "<title>x</title><main><h1>x</h1><button>y</button></main>",
            "<title>x</title><h1>x</h1><button aria-label='x'>y</button>",
        ),
        (
            browsing.overflow,
            '<div style="overflow: auto"><pre style="width: 600px">x</pre></div>',
            '<pre style="width: 600px">x</pre>',
        ),
        (
            browsing.overflow,
            '<div class="math" style="overflow: auto"><p style="width: 600px">x</p></div>',
            '<div class="math" style="display: flex; flex-direction: row-reverse; overflow: auto; '
            'justify-content: flex-end"><p style="min-width: 600px">x</p></div>',
        ),
        (
            browsing.sideways,
            '<article style="overflow: auto">x</article>',
            '<article><details><p style="overflow: auto"><span style="padding: 300px">x</span></p>'
            "</details></article>",
        ),
        (
            browsing.contrast,
            '<p style="color: #767676">x</p>',
            '<p style="color: #777">x</p>',
        ),
        (
            browsing.contrast,
            '<p style="background: #333; color: #fff">x</p>',
            '<p style="opacity: 0.5">x</p>',
        ),
        (
            browsing.contrast,
            '<svg class="psplib-figure"><text y="20">x</text></svg>',
            '<svg class="psplib-figure"><text y="20" fill="#777">x</text></svg>',
        ),
    ],
)
def test_each_check_can_fail(page_of, check, good: str, bad: str) -> None:
    with page_of(good, width=browsing.NARROW) as (page, _):
        assert check(page) == []
    with page_of(bad, width=browsing.NARROW) as (page, _):
        assert check(page) != []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="other.html">x</a>', "is not there"),
        ('<a href="#none">x</a>', "no such anchor"),
        ('<a href="page.html#none">x</a>', "no such anchor"),
        ('<a download="t.csv" href="data:text/csv;base64,YSxiCjEK">x</a>', "is no table"),
        ('<a download="t.json" href="data:application/json,%7B">x</a>', "cannot be read"),
        ('<a download="t.svg" href="data:image/svg+xml;base64,">x</a>', "cannot be read"),
        ('<a download="t.csv.gz" href="data:application/gzip;base64,YSxi">x</a>', "cannot be read"),
    ],
)
def test_links_that_lead_nowhere_are_noticed(tmp_path: Path, body: str, fault: str) -> None:
    (tmp_path / "page.html").write_text(f"<h1 id='here'>x</h1><a href='#here'>x</a>{body}")
    (only,) = browsing.links(tmp_path)
    assert fault in only


@needs_chromium
@pytest.mark.parametrize("answers", [True, False])
def test_controls_that_change_no_picture_are_noticed(
    page_of: Callable, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "PATIENCE", 100)  # it would wait in vain at every key
    change = "onchange='draw()' oninput='draw()' onclick='draw()'" if answers else ""
    controls = (
        f"<select {change}><option>a<option>b</select><input type=range {change}>"
        f"<input type=checkbox {change}><button {change}>x</button>"
    )
    script = "<script>let n = 0; const draw = () => (drawn.alt = `picture ${n++}`)</script>"
    body = f'<figure class="psplib-live">{controls}<img id="drawn" alt="x"></figure>{script}'
    with page_of(body) as (page, _):
        count, faults = browsing.controls(page)
    assert count == 4
    assert len(faults) == (0 if answers else 4), faults
