"""Only what has changed is done again, and what is done again replaces the old when it is whole."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import Markdown
from IPython.utils.capture import capture_output

from psplib.book import build as book
from psplib.book import freshness, rendering
from psplib.core.errors import PsplibError
from psplib.experiments import scales
from psplib.experiments.plan import planned
from psplib.paper import tables
from psplib.runs import store as runs
from psplib.runs.store import Store

ROOT = Path(__file__).parents[2]
SMOKE = scales.figure_1a("smoke")


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The names of the chapters that are executed; a chapter asks for one run and leaves itself."""
    names: list[str] = []

    def execute(template: Path, target: Path, parameters: dict) -> None:
        names.append(template.name)
        Store(tmp_path / "runs").has(SMOKE.dense)
        shutil.copy(template, target)

    monkeypatch.setattr(book, "execute", execute)
    return names


@pytest.fixture
def refresh(tmp_path: Path, executed: list[str]):
    template, kept = tmp_path / "page.ipynb", tmp_path / "kept"
    template.write_text("one")
    kept.mkdir()
    return lambda scale="smoke", source="a": book.refresh(
        template, kept / template.name, {"scale": scale}, source
    )


def test_a_chapter_is_executed_again_only_if_something_changed(refresh, tmp_path: Path) -> None:
    assert refresh()
    assert not refresh()
    assert refresh(scale="quick"), "another parameter"
    assert refresh(scale="quick", source="b"), "another psplib"
    (tmp_path / "page.ipynb").write_text("two")
    assert refresh(scale="quick", source="b"), "another template"
    assert (tmp_path / "kept" / "page.ipynb").read_text() == "two"
    assert not refresh(scale="quick", source="b")


def test_a_run_that_appears_or_changes_makes_its_chapter_anew(refresh, tmp_path: Path) -> None:
    assert refresh()
    folder = Store(tmp_path / "runs").folder(SMOKE.dense)
    folder.mkdir(parents=True)
    (folder / "points.csv").write_text("1")
    assert refresh(), "the run is there now"
    assert not refresh()
    (folder / "points.csv").write_text("2")
    assert refresh(), "its table is another"
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "points.csv").write_text("3")
    assert not refresh(), "a run that the chapter does not show"


def test_an_interrupted_execution_is_not_taken_for_an_older_one(
    refresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refresh(source="a")

    def interrupted(template: Path, target: Path, parameters: dict) -> None:
        target.write_text("of b")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(book, "execute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refresh(source="b")
    assert refresh(source="a"), "what is kept is of b"


def test_the_source_of_psplib_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = freshness.library()
    monkeypatch.setattr(freshness, "__file__", str(tmp_path / "freshness.py"))
    (tmp_path / "freshness.py").write_text("other")
    assert freshness.library() != before


def test_equal_files_keep_their_date_and_others_go(tmp_path: Path) -> None:
    original, folder = tmp_path / "original", tmp_path / "source"
    original.write_text("x")
    rendering.mirror({Path("a/b.md"): original, Path("c.md"): original}, folder)
    date = (folder / "a" / "b.md").stat().st_mtime_ns
    rendering.mirror({Path("a/b.md"): original}, folder)
    assert (folder / "a" / "b.md").stat().st_mtime_ns == date
    assert not (folder / "c.md").exists()


def test_a_replacement_that_fails_leaves_the_old_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "html", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "index.html").write_text(folder.name)
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == ".html.new":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rendering.replace(old, new)
    assert (old / "index.html").read_text() == "html"
    rendering.replace(old, new)
    assert (old / "index.html").read_text() == "new"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The source of a book of two pages."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "_config.yml").write_text("title: small\nonly_build_toc_files: true\n")
    (source / "_toc.yml").write_text("format: jb-book\nroot: one\nchapters:\n  - file: two\n")
    (source / "one.md").write_text("# One\n\nfirst\n")
    (source / "two.md").write_text("# Two\n\nsecond\n")
    return source


@pytest.mark.slow
def test_pages_are_rendered_again_only_if_something_changed(small: Path, tmp_path: Path) -> None:
    warm, cold = tmp_path / "warm", tmp_path / "cold"
    assert rendering.render(small, warm, {})
    assert not rendering.render(small, warm, {})
    untouched = (warm / "sphinx" / "_build" / "html" / "two.html").stat().st_mtime_ns
    (small / "one.md").write_text("# One\n\nchanged\n")
    assert rendering.render(small, warm, {})
    assert (warm / "sphinx" / "_build" / "html" / "two.html").stat().st_mtime_ns == untouched
    assert rendering.render(small, cold, {})
    for page in ("one.html", "two.html", "searchindex.js"):
        first, second = ((where / "html" / page).read_text() for where in (warm, cold))
        # myst-nb writes its style sheet after the pages: only a later build knows its checksum.
        # A word that has gone stays in the index, with no page.
        assert re.sub(r"(mystnb\.\w+\.css)\?v=\w+|\"\w+\": \[\], ", r"\1", first) == second
    (small / "two.md").write_text("# Two\n\n[none](none.md)\n")
    for _ in range(2):
        with pytest.raises(PsplibError, match="Jupyter Book warns"):
            rendering.render(small, warm, {})
    assert "second" in (warm / "html" / "two.html").read_text(), "the old pages are whole"


# --- results that are not there -------------------------------------------------------------------


@contextlib.contextmanager
def shell() -> Iterator[InteractiveShell]:
    main = sys.modules["__main__"]
    one = InteractiveShell.instance()
    try:
        yield one
    finally:
        one.reset()
        InteractiveShell.clear_instance()
        sys.modules["__main__"] = main


@pytest.mark.parametrize("template", sorted((ROOT / "book").glob("*.ipynb")), ids=lambda p: p.stem)
@pytest.mark.slow
def test_a_chapter_without_results_says_so_and_goes_on(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    monkeypatch.setenv("PSPLIB_RESULTS", str(results))
    monkeypatch.setenv("PSPLIB_RUNS", str(tmp_path / "runs"))
    if template.stem == "figure_1":
        results.mkdir()  # nothing in it is as good as nothing there
    said = ""
    with shell() as python:
        for cell in nbformat.read(template, as_version=4).cells:
            if cell.cell_type == "code":
                source = cell.source.replace('scale = "smoke"', 'scale = "published"')
                with capture_output() as shown:
                    done = python.run_cell(source)
                done.raise_error()
                said += str(getattr(done.result, "data", ""))
                said += "".join(str(output.data) for output in shown.outputs)
                if isinstance(done.result, Markdown):
                    assert done.result.data, f"shows nothing: {cell.source}"
    if template.stem.startswith("figure_"):
        assert "not there yet" in said
    if template.stem == "figure_1":
        assert said.count("The gradual run of this figure is not there yet") == 4
    if template.stem == "beyond_lobster":
        assert "The runs of this figure, Beyond the paper, are not there yet." in said
        assert "None of these claims has been tested yet." in said
    if template.stem not in ("deviations", "lab"):
        assert "not run" in said
    assert "psplib-verdict holds" not in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", scales.EXPERIMENTS)
def test_an_experiment_without_results_is_the_papers_without_runs(
    name: str, tmp_path: Path
) -> None:
    store = runs.Store(tmp_path)
    found = tables.largest_published(name, store)
    assert found == scales.experiment(name, "paper")
    assert not any(store.has(c) for c in planned(found, store))


# --- chapters side by side ------------------------------------------------------------------------


def small_chapter(folder: Path, name: str, source: str) -> tuple[Path, Path, dict, str]:
    template, kept = folder / f"{name}.ipynb", folder / "kept"
    kept.mkdir(exist_ok=True)
    cell = nbformat.v4.new_code_cell(source)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), template)
    return template, kept / template.name, {}, "a"


@pytest.mark.slow
def test_chapters_side_by_side_are_each_executed_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    source = f"with open({str(log)!r}, 'a') as log: log.write('{{}} ')"
    chapters = [small_chapter(tmp_path, n, source.format(n)) for n in ("a", "b")]
    book.refresh_all(chapters, 2)
    book.refresh_all(chapters, 2)
    assert sorted(log.read_text().split()) == ["a", "b"]
    assert all(book.is_fresh(*chapter) for chapter in chapters)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", r"b\.ipynb failed in cell 1: ZeroDivisionError"),
        ("import os\nos.kill(os.getpid(), 9)", r"not executed: Kernel died"),
    ],
)
@pytest.mark.slow
def test_a_chapter_that_fails_keeps_what_others_have_made(
    source: str, message: str, tmp_path: Path
) -> None:
    chapters = [small_chapter(tmp_path, "a", "1"), small_chapter(tmp_path, "b", source)]
    with pytest.raises(PsplibError, match=message):
        book.refresh_all(chapters, 1)
    assert book.is_fresh(*chapters[0])
    assert not book.is_fresh(*chapters[1])
