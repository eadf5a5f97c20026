"""How soon each page of the book is there, and how much it weighs: `python -m benchmarks.pages`
measures `_build/html` in Chromium, from files. No ratio: for a quiet machine."""

from __future__ import annotations

import re
import shutil
import statistics
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import Browser, sync_playwright

REPEATS = 3
# First contentful paint; then the moment at which all live figures and widgets can be operated.
MEASURE = """() => new Promise(done => {
  const views = document.querySelectorAll('script[type$="widget-view+json"]').length;
  const live = [...document.querySelectorAll(".psplib-live, #playground")];
  const look = () => {
    const drawn = document.querySelectorAll(".widget-subarea > *").length >= views
      && live.every(figure => figure.querySelector("svg, canvas, img"));
    if (!drawn) return setTimeout(look, 10);
    const paint = performance.getEntriesByName("first-contentful-paint")[0];
    done([paint ? paint.startTime : NaN, views + live.length ? performance.now() : NaN]);
  };
  look();
})"""

SCROLLED = """() => Promise.all([...document.images].map(image => {
  image.loading = "eager";
  return image.decode().catch(() => {});
}))"""


def visit(browser: Browser, page: Path) -> tuple[float, float, dict[str, int]]:
    """Milliseconds to the first paint and to the last live figure; the bytes of each file that a
    reader who scrolls to the end loads."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened, sizes = context.new_page(), dict[str, int]()

    def loaded(address: str) -> None:
        path = Path(unquote(urlsplit(address).path))
        if address.startswith("file:") and path.is_file():
            sizes[str(path)] = path.stat().st_size

    opened.on("request", lambda request: loaded(request.url))
    opened.add_init_script("addEventListener('DOMContentLoaded', () => { window.begun = 1 })")
    opened.goto(page.as_uri(), wait_until="commit")
    opened.wait_for_function("window.begun")
    paint, live = opened.evaluate(MEASURE)
    opened.evaluate(SCROLLED)
    context.close()
    return paint, live, sizes


def main(site: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    print(f"{'page':28} {'paint':>7} {'live':>7} {'own':>8} {'shared':>8}   ms, kB")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        for page in sorted((site / "book").rglob("*.html")):
            seen = [visit(browser, page) for _ in range(REPEATS)]
            paint, live = (statistics.median(s[i] for s in seen) for i in (0, 1))
            sizes = seen[-1][2]
            shared = sum(
                size for n, size in sizes.items() if re.search(r"/_static/|searchindex", n)
            )
            own = sum(sizes.values()) - shared
            name = page.relative_to(site / "book").as_posix()
            ready = "" if live != live else f"{live:.0f}"
            print(f"{name:28} {paint:7.0f} {ready:>7} {own / 1e3:8.0f} {shared / 1e3:8.0f}")
        browser.close()
    files = [p for p in site.rglob("*") if p.is_file()]
    kinds = {p.suffix or p.name: 0 for p in files}
    for path in files:
        kinds[path.suffix or path.name] += path.stat().st_size
    for kind, size in sorted(kinds.items(), key=lambda k: -k[1]):
        print(f"{kind:28} {size / 1e6:7.2f} MB")
    print(f"{'the site':28} {sum(kinds.values()) / 1e6:7.2f} MB")


if __name__ == "__main__":
    main(Path(*sys.argv[1:2] or ["_build/html"]).resolve())
