"""Only what has changed is done again, and what is done again replaces the old when it is whole."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import Markdown
from IPython.utils.capture import capture_output

from psplib.book import build, execution, markup, pages
from psplib.core import files
from psplib.core.errors import PsplibError
from psplib.experiments import scales
from psplib.paper import tables
from psplib.runs import store as runs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sources of a book of one page of prose and two chapters, with results of its own."""
    root = tmp_path / "root"
    (root / "book").mkdir(parents=True)
    (root / "_config.yml").write_text("title: small\nonly_build_toc_files: true\n")
    chapters = "chapters:\n  - file: book/a\n  - file: book/b\n"
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: book/index\n{chapters}")
    (root / "book" / "index.md").write_text("# One\n\nfirst\n")
    for name in ("a", "b"):
        chapter(root / "book" / f"{name}.ipynb", f"print('from {name}')")
    (root / "results").mkdir()
    monkeypatch.setattr(runs, "checkout", lambda: root)
    monkeypatch.setenv("PSPLIB_RESULTS", str(root / "results"))
    return root


def chapter(path: Path, source: str) -> Path:
    title = nbformat.v4.new_markdown_cell(f"# {path.stem}", id="title")
    parameters = nbformat.v4.new_code_cell(
        "scale = 'smoke'", id="given", metadata={"tags": ["parameters"]}
    )
    cells = [title, parameters, nbformat.v4.new_code_cell(source, id="code")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


@pytest.fixture
def rebuilt(book: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Builds the book; says what is done, which here is little more than copying."""
    names: list[str] = []

    def apart(tasks: list[Any], done: Callable[[], object] = lambda: None) -> None:
        for work, *arguments in tasks:
            if work is not build.make_runs:
                names.append("pages" if work is rendered else arguments[0].stem)
                work(*arguments)
            done()

    def rendered(wanted: Any, beside: Any, html: Path) -> None:
        html.mkdir(parents=True, exist_ok=True)
        for path, of in wanted.items():
            text = of if isinstance(of, bytes) else of.read_bytes()
            (html / f"{path.stem}.html").write_bytes(text)

    monkeypatch.setattr(build, "apart", apart)
    monkeypatch.setattr(pages, "render", rendered)
    monkeypatch.setattr(execution, "executed", lambda template, _: template.read_bytes())

    def again(scale: str = scales.PUBLISHED) -> list[str]:
        names.clear()
        build.build_book(scale, "cpu", book / "_build")
        return sorted(names)

    return again


ALL = ["a", "b", "pages"]


def test_nothing_is_done_again_unless_something_changed(
    book: Path, rebuilt: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rebuilt() == ALL
    assert rebuilt() == []
    chapter(book / "book" / "a.ipynb", "print('anew')")
    assert rebuilt() == ["a", "pages"]
    (book / "book" / "index.md").write_text("# One\n\nchanged\n")
    assert rebuilt() == ["pages"]
    (book / "_config.yml").write_text("title: changed\n")
    assert rebuilt() == ["pages"]
    (book / "book" / "Untitled.ipynb").write_text("no chapter of the book")
    assert rebuilt() == []
    assert "Untitled.html" not in {p.name for p in (book / "_build" / "html").iterdir()}
    monkeypatch.setattr(build, "packages", lambda: ["torch==0"])
    assert rebuilt() == ALL
    monkeypatch.setattr(build, "library", lambda: {"psplib.py": "0"})
    assert rebuilt() == ALL
    assert rebuilt() == []


def test_a_chapter_is_never_shown_from_other_results(
    book: Path,
    rebuilt: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert rebuilt() == ALL
    table = book / "results" / "lobster" / "0" / "points.csv"
    table.parent.mkdir(parents=True)
    table.write_text("1")
    assert rebuilt() == ALL, "a run has appeared"
    stat = table.stat()
    table.write_text("2")
    os.utime(table, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert rebuilt() == ALL, "its table is another one of the same size and date"
    monkeypatch.setenv("PSPLIB_RUNS", str(tmp_path / "runs"))
    assert rebuilt("smoke") == ALL, "another scale"
    assert rebuilt() == ALL, "nothing is kept of the scale before"
    monkeypatch.setenv("PSPLIB_RESULTS", str(tmp_path / "none"))
    assert rebuilt() == ALL, "another folder"


def test_what_another_tool_or_a_broken_copy_left_is_not_shown(
    book: Path, rebuilt: Callable[..., list[str]]
) -> None:
    assert rebuilt() == ALL
    html = book / "_build" / "html"
    right = (html / "a.html").read_bytes()
    (html / "a.html").write_text("by jupyter-book build")
    assert rebuilt() == ["pages"]
    assert (html / "a.html").read_bytes() == right
    (html / "more.html").write_text("by another tool")
    assert rebuilt() == ["pages"]
    (html / "b.html").unlink()
    assert rebuilt() == ["pages"]
    (html / build.MADE_FROM).write_text("0" * 64)
    assert rebuilt() == ["pages"]
    (made,) = (book / "_build" / "executed").glob("*/b.ipynb")
    made.write_bytes(made.read_bytes()[:-9])
    assert rebuilt() == ["b"], "it becomes what it was, and so do the pages"
    made.with_suffix(build.SEAL).unlink()
    assert rebuilt() == ["b"]
    assert rebuilt() == []


def test_of_two_builds_into_one_folder_one_waits(
    book: Path, rebuilt: Callable[..., list[str]]
) -> None:
    other = threading.Thread(target=rebuilt)
    with files.locked(book / "_build" / ".lock"):
        other.start()
        other.join(0.3)
        assert other.is_alive()
        assert not (book / "_build" / "html").exists()
    other.join(60)
    assert (book / "_build" / "html" / "a.html").exists()


def test_what_changes_while_the_chapters_are_executed_is_not_taken_for_what_it_was(
    book: Path, rebuilt: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pulled(template: Path, _: object) -> bytes:
        (book / "results" / "lobster").mkdir()
        (book / "results" / "lobster" / "points.csv").write_text("of another commit")
        return template.read_bytes()

    (book / "_toc.yml").write_text("format: jb-book\nroot: book/a\n")
    with monkeypatch.context() as patch:
        patch.setattr(execution, "executed", pulled)
        with pytest.raises(PsplibError, match="were changed meanwhile; build it again"):
            rebuilt()
    shutil.rmtree(book / "results" / "lobster")
    assert rebuilt() == ["a", "pages"], "nothing is kept of it"


def test_in_another_checkout_the_book_of_this_one_is_not_built(
    book: Path, rebuilt: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (book / "psplib").mkdir()
    (book / "psplib" / "__init__.py").touch()
    monkeypatch.chdir(book / "book")
    with pytest.raises(PsplibError, match="has a psplib of its own, but the one of"):
        rebuilt()


@pytest.mark.slow
def test_without_docstrings_there_are_no_pages_of_the_library() -> None:
    words = [sys.executable, "-OO", "-m", "psplib", "book"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": os.devnull}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("psplib: Python -OO leaves out what the pages")


@pytest.mark.skipif(not Path("/sys").exists(), reason="needs a file system that nobody can write")
def test_a_folder_that_cannot_be_written_and_a_page_that_is_not_there_are_one_sentence(
    book: Path, rebuilt: Callable[..., list[str]]
) -> None:
    with pytest.raises(PsplibError, match=r"^/sys/psplib cannot be used: .+\.$"):
        build.build_book(scales.PUBLISHED, "cpu", Path("/sys/psplib"))
    (book / "_build").write_text("a file")
    with pytest.raises(PsplibError, match=r"_build cannot be used: .+\.$"):
        rebuilt()
    (book / "book" / "b.ipynb").unlink()
    with pytest.raises(PsplibError, match=r"_toc\.yml names book/b, which is not there\.$"):
        rebuilt()


def test_the_digest_is_of_psplib_and_of_all_packages() -> None:
    assert {"core/errors.py", "book/build.py"} <= build.library().keys()
    assert not any("__pycache__" in name for name in build.library())
    assert any(package.startswith("torch==") for package in build.packages())


@pytest.mark.slow
def test_a_book_with_a_warning_leaves_the_old_pages(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")  # as tools that build packages set it
    (tmp_path / "docutils.conf").write_text("[general]\ninitial_header_level: 4\n")
    monkeypatch.setenv("DOCUTILSCONFIG", str(tmp_path / "docutils.conf"))
    with (book / "_config.yml").open("a") as file:
        file.write("copyright: '2026'\n")
    first = build.build_book(scales.PUBLISHED, "cpu", book / "_build")
    html = first.parent
    assert "from b" in (html / "book" / "b.html").read_text()
    page = (html / "book" / "b.html").read_text()
    assert 'download="b.ipynb.gz"' in page
    assert "Copyright 2026" in page
    assert "<h1>b<" in page
    (book / "book" / "index.md").write_text("# One\n\n[none](none.md)\n")
    with pytest.raises(PsplibError, match="Jupyter Book warns") as refused:
        build.build_book(scales.PUBLISHED, "cpu", book / "_build")
    assert "none.md" in str(refused.value)
    assert "first" in (html / "book" / "index.html").read_text()


@pytest.mark.parametrize(
    "tag", ['<script defer src="{}?v=1">', '<link rel="x" href="{}#y">', "<img alt='' src=\"{}\">"]
)
def test_a_page_that_loads_what_is_not_there_is_not_shown(tag: str, tmp_path: Path) -> None:
    page = tmp_path / "book" / "a.html"
    files.make_folder(page.parent)
    outside = '<a href="none.html"><img src="data:image/png;base64,x"><link href="https://x.org/y">'
    page.write_text(outside + tag.format("../_static/vendor/of%20it.js"))
    with pytest.raises(
        PsplibError, match=r"^book/a\.html loads \S+/of%20it\.js, which is not there"
    ):
        pages.check_loads(tmp_path)
    files.make_folder(tmp_path / "_static" / "vendor")
    (tmp_path / "_static" / "vendor" / "of it.js").touch()
    pages.check_loads(tmp_path)


def test_a_replacement_that_fails_leaves_the_old_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "html", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "index.html").write_text(folder.name)
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pages.replace(old, new)
    assert (old / "index.html").read_text() == "html"
    pages.replace(old, new)
    assert (old / "index.html").read_text() == "new"


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


# These two show none: the site executes them.
SHOWING = [
    p for p in sorted((ROOT / "book").glob("*.ipynb")) if p.stem not in {"lab", "own_network"}
]


@pytest.mark.parametrize("template", SHOWING, ids=lambda p: p.stem)
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
        assert said.count("<b>runs</b> not there yet") >= len(scales.PANELS)
    if template.stem == "beyond_lobster":
        assert "The runs of this figure, Beyond the paper, are not there yet." in said
        assert "has **not been tested** yet" in said
    if template.stem not in ("deviations", "own_network"):
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
    assert not any(store.has(c) for c in found.runs(store))


def test_a_site_has_no_source_maps_and_pages_carry_their_sources(tmp_path: Path) -> None:
    for name in ("_sources/book/a.ipynb", "_static/a.js", "_static/a.js.map", "_static/locales/x"):
        files.make_folder((tmp_path / name).parent)
        (tmp_path / name).write_text("x")
    pages.slim(tmp_path)
    assert [p.name for p in tmp_path.rglob("*.*")] == ["a.js"]
    links = '<a download href="a.ipynb">x</a> <a href="../_sources/book/a.ipynb" target="_blank"'
    found = re.findall(
        r'download="a.ipynb.gz" href="data:application/gzip;base64,([^"]+)"',
        markup.packed(links, {"a.ipynb": b"without outputs"}),
    )
    assert [gzip.decompress(base64.b64decode(f)) for f in found] == [b"without outputs"] * 2


def test_pictures_leave_a_page_for_files_the_same_one_once(tmp_path: Path) -> None:
    one, other = (base64.b64encode(b).decode() for b in (b"one", b"other"))
    image = '<img src="data:image/png;base64,{}" alt="x">'
    state = json.dumps({"value": image.format(one)})
    (tmp_path / "a.html").write_text(image.format(one) + image.format(other) + state)
    pages.prepare(tmp_path, {})
    text = (tmp_path / "a.html").read_text()
    kept = {p.read_bytes(): f"_images/{p.name}" for p in (tmp_path / "_images").iterdir()}
    assert kept.keys() == {b"one", b"other"}
    first, second = (f'<img loading="lazy" src="{kept[b]}" alt="x">' for b in (b"one", b"other"))
    assert text.startswith(first + second)
    assert json.loads(text.removeprefix(first + second)) == {"value": first}


def test_a_drawing_is_a_part_of_its_page_once(tmp_path: Path) -> None:
    drawing = '<svg id="f1-2"><title>é</title></svg>'
    data = f"data:image/svg+xml;base64,{base64.b64encode(drawing.encode()).decode()}"
    page = f'<p><img src="{data}" alt="x"></p><a download="a.svg" href="{data}">SVG</a>'
    assert markup.with_drawings(page) == f'<p>{drawing}</p><a download="a.svg" href="#f1-2">SVG</a>'


def test_links_say_what_terms_references_and_equations_are() -> None:
    math = '<{0} class="math notranslate nohighlight"{1}>\\({2}\\)</{0}>'
    there = {
        "book/glossary.html": '<dt id="term-A">A<a href="#">#</a></dt>\n<dt id="term-B">B</dt>'
        "<dd><p>" + math.format("span", "", "x") + ' <a href="x">y</a>.</p>\n</dd>',
        "book/references.html": '<div class="citation" id="id1" role="doc-biblioentry">\n'
        "<p>Z. 2020.</p>\n</div>",
        "book/four.html": math.format("div", ' id="eq-4"', "y \\tag{4}"),
    }
    said = markup.previews(there)
    assert said["book/glossary.html#term-A"] == said["book/glossary.html#term-B"]
    assert said["book/glossary.html#term-A"].endswith("<mi>x</mi></math> y.</p>")
    assert said["book/references.html#id1"] == "<p>Z. 2020.</p>"
    assert "<mi>y</mi></math> (4)" in said["book/four.html#eq-4"]
    link = '<a class="reference internal" href="{}" title="old">'
    shown = markup.previewed(link.format("../references.html#id1"), "book/api/x.html", said)
    assert 'data-preview="&lt;p&gt;Z. 2020.&lt;/p&gt;">' in shown
    assert "old" not in shown
    other = link.format("references.html#id2")
    assert markup.previewed(other, "book/x.html", said) == other


# --- processes of their own -----------------------------------------------------------------------


def note(path: Path, name: str) -> None:
    path.with_name(name).write_text(str(os.getpid()))


def test_each_task_has_a_process_of_its_own(tmp_path: Path) -> None:
    count: list[int] = []
    build.apart([(note, tmp_path / "x", n) for n in "abcde"], lambda: count.append(1))
    pids = {(tmp_path / n).read_text() for n in "abcde"}
    assert len(pids) == len(count) == 5
    assert str(os.getpid()) not in pids


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("print(1)\n1 / 0", r"^b\.ipynb: cell 3 failed: ZeroDivisionError: division by zero"),
        ("import os\nos.kill(os.getpid(), 9)", r"process of the build has died \(exit status -9"),
    ],
)
def test_a_chapter_that_fails_keeps_what_others_have_made(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    made = [tmp_path / "made" / f"{name}.ipynb" for name in "ab"]
    templates = [chapter(tmp_path / "a.ipynb", "1 + 1"), chapter(tmp_path / "b.ipynb", source)]
    with pytest.raises(PsplibError, match=message):
        build.execute_all(dict(zip(templates, made, strict=True)), {"scale": "published"})
    assert not made[1].exists()
    given, code = (c for c in nbformat.read(made[0], as_version=4).cells[2:])
    assert given.source == '# Parameters\nscale = "published"\n'
    assert "remove-cell" in given.metadata.tags
    assert code.outputs[0].data["text/plain"] == "2"


def test_a_chapter_runs_in_the_interpreter_that_builds_the_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["false"], "display_name": "another", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("MPLBACKEND", "tkagg")
    source = """import matplotlib, os, sys
print(sys.executable, os.getcwd(), matplotlib.get_backend(), sep="|")"""
    templates = [chapter(tmp_path / f"{name}.ipynb", source) for name in ("r", "{none}", "b")]
    named = nbformat.read(templates[0], as_version=4)
    named.metadata["kernelspec"] = {"name": "ir", "display_name": "R", "language": "R"}
    nbformat.write(named, templates[0])
    named.metadata.clear()
    nbformat.write(named, templates[1])
    made = [tmp_path / "made" / t.name for t in templates[:2]]
    build.execute_all(dict(zip(templates, made, strict=False)), {"scale": "published"})
    for path in made:
        found = nbformat.read(path, as_version=4)
        assert found.cells[-1].outputs[0].text == f"{sys.executable}|{tmp_path}|agg\n"
        assert str(tmp_path) not in str(found.metadata), "no path of this machine is kept"
    templates[2].write_text("{")
    with pytest.raises(PsplibError, match=r"^b\.ipynb: NotJSONError: "):
        build.execute_all({templates[2]: tmp_path / "made" / "b.ipynb"}, {"scale": "published"})


def test_a_chapter_keeps_all_that_it_shows(tmp_path: Path) -> None:
    source = """from IPython.display import HTML, display
print("printed")
display(HTML('<p class="psplib-downloads">Download: SVG</p>'))"""
    template, made = chapter(tmp_path / "a.ipynb", source), tmp_path / "made" / "a.ipynb"
    build.execute_all({template: made}, {"scale": "published"})
    found = nbformat.read(made, as_version=4)
    nbformat.validate(found)
    printed, link = found.cells[-1].outputs
    assert printed.text == "printed\n"
    assert link.data["text/html"].endswith('<a download href="a.ipynb">notebook</a></p>')
