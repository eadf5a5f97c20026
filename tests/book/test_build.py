"""The book: chapters refuse bad parameters, run from anywhere, and render without a warning."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from pybtex.database import parse_file

from psplib.book import build, references
from psplib.book.chapter import begin
from psplib.core.errors import PsplibError
from psplib.experiments.plane import Map
from psplib.paper import forest, tables
from psplib.runs.store import Store

ROOT = Path(__file__).parents[2]
CHAPTER = ROOT / "book" / "figure_3.ipynb"  # the lightest one with a figure and verdicts


def papermill(cwd: Path, *words: str, **surroundings: str) -> subprocess.CompletedProcess:
    tool = Path(sys.executable).with_name("papermill")
    command = [str(tool), *words, "--no-progress-bar"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | surroundings
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


# What a user may have set for other purposes.
HOSTILE = {
    "LC_ALL": "C",  # plain ASCII, as Python reads files without being told how
    "MPLBACKEND": "pdf",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONHASHSEED": "7",
    "PYTHONUTF8": "0",
    "TZ": "Asia/Kathmandu",
}
RC = "font.size: 30\naxes.facecolor: red\nlines.linewidth: 9\n"


def test_a_chapter_shows_the_same_from_any_folder_and_whatever_its_user_has_set(
    smoke_minima: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cwd, rc = tmp_path / "any where", tmp_path / "matplotlibrc"
    cwd.mkdir()
    rc.write_text(RC)
    deep = tmp_path / ("long" * 25)  # no socket can lie there
    deep.mkdir()
    surroundings = HOSTILE | {"MATPLOTLIBRC": str(rc), "TMPDIR": str(deep)}
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", None)
    words = (str(CHAPTER), "out.ipynb", "-p", "scale", "smoke", "--inject-paths")
    done = papermill(cwd, *words, **surroundings)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in cwd.iterdir()) == ["out.ipynb"]
    by_papermill = nbformat.read(cwd / "out.ipynb", as_version=4)
    assert "PAPERMILL_INPUT_PATH" in str(by_papermill.cells)
    made = tmp_path / CHAPTER.name
    build.execute_all({CHAPTER: made}, {"scale": "smoke", "device": "auto"})
    by_the_build = nbformat.read(made, as_version=4)
    one, other = shown(by_papermill), shown(by_the_build)
    assert one == other
    assert any("psplib-verdict" in text for _, _, text in one)
    assert any("data:image/svg+xml" in text for _, _, text in one)
    assert any("data:image/png" in text for _, _, text in one)


def sources(folder: Path) -> Path:
    """A clone, with a psplib of its own: that does not run."""
    (folder / "psplib").mkdir(parents=True)
    (folder / "psplib" / "__init__.py").touch()
    (folder / "_toc.yml").touch()
    (folder / "book").mkdir()
    return Path(shutil.copy(CHAPTER, folder / "book"))


@pytest.mark.slow
@pytest.mark.parametrize("is_far", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_the_chapter_of_another_clone_is_refused_wherever_papermill_is_called(
    is_far: bool, tmp_path: Path
) -> None:
    clone = tmp_path / "a clone"
    words = [str(sources(clone).relative_to(tmp_path)), str(tmp_path / "out.ipynb")]
    if is_far:  # its kernel runs where nothing is known of the clone
        (tmp_path / "far").mkdir()
        words += ["--cwd", str(tmp_path / "far")]
    done = papermill(tmp_path, *words, PWD=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"PsplibError: {clone} has a psplib of its own, but the one of {ROOT} runs: "
        f"install this one (pip install -e {clone}) or go to another folder."
    )


def shown(notebook: nbformat.NotebookNode) -> list[tuple[str, str, str]]:
    """What a reader sees: cell, kind, content."""
    return [
        (
            cell.id,
            kind,
            str(content).replace(f' <a download href="{CHAPTER.name}">notebook</a>', ""),
        )
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind, content in output.get("data", {}).items()
        if kind != "text/plain"
    ]


def test_a_chapter_with_a_bad_parameter_fails_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSPLIB_RUNS", str(tmp_path / "runs"))
    sentence = "parameter must be one of scale, device, seed; got 'scal'"
    with pytest.raises(PsplibError, match=rf"^figure_3\.ipynb: cell 3 failed: .*{sentence}\."):
        build.execute_all({CHAPTER: tmp_path / "out.ipynb"}, {"scal": "smoke"})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("scale", "device", "seed", "sentence"),
    [
        ("hugee", "cpu", 0, "scale must be one of published, smoke, quick, paper; got 'hugee'."),
        ("smoke", "tpu", 0, "device must be one of auto, cpu, cuda; got 'tpu'."),
        ("smoke", "cpu", -1, "seed must be a whole number of at least 0; got -1."),
        ("smoke", "cpu", "1", "seed must be a whole number of at least 0; got '1'."),
        ("published", "cpu", 1, "The published results have seed 0; got seed 1."),
    ],
)
def test_a_chapter_refuses_bad_values(scale: str, device: str, seed: int, sentence: str) -> None:
    with pytest.raises(PsplibError) as refused:
        begin(scale, device, seed)
    assert str(refused.value) == sentence


def test_the_templates_hold_no_outputs_and_start_at_smoke_scale() -> None:
    chapters = sorted(CHAPTER.parent.glob("*.ipynb"))
    assert chapters
    for path in chapters:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        code = [c for c in notebook.cells if c.cell_type == "code"]
        assert not any(c.outputs or c.execution_count for c in code), path.name
        assert code[0].metadata.tags[0] == "parameters"
        assert code[0].source == 'scale = "smoke"\ndevice = "auto"\nseed = 0'
        assert notebook.metadata.kernelspec.name == "python3", path.name
        for cell in code:
            if {"hide-cell", "hide-input"} & {*cell.metadata.get("tags", [])}:
                assert "code_prompt_show" in cell.metadata.mystnb, "what is folded has a title"
            if "hide-cell" in cell.metadata.get("tags", []):  # an answer, folded in JupyterLab too
                folded = {"outputs_hidden": True, "source_hidden": True}
                assert cell.metadata.get("jupyter") == folded, (path.name, cell.id)


def test_chapters_are_readable_where_nothing_is_rendered_but_markdown() -> None:
    for path in CHAPTER.parent.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                found = re.search(r"\{[\w:-]+\}`|^:::", cell.source, re.MULTILINE)
                assert not found, (path, cell.id)


def test_sections_become_tabs() -> None:
    text = "## Method\n\nAs it is done:\n\n### One\n\n$$\na\n$$\n\n### Two\n\nb\n"
    assert references.in_tabs(text) == (
        "## Method\n\nAs it is done:\n\n::::{tab-set}\n:::{tab-item} One\n\n$$\na\n$$\n\n\n:::\n"
        ":::{tab-item} Two\n\nb\n\n:::\n::::\n"
    )


def test_a_work_is_cited_by_its_authors_and_its_year() -> None:
    works = parse_file(ROOT / "book" / "references.bib").entries
    assert references.cited(works["frankle2019lottery"]) == (
        "Frankle and Carbin (2019)",
        "Frankle and Carbin, 2019",
    )
    assert references.cited(works["he2016deep"])[1] == "He et al., 2016"
    assert references.cited(works["krizhevsky2009learning"])[0] == "Krizhevsky (2009)"
    said = [words for work in works.values() for words in references.cited(work)]
    assert len(said) == len(set(said))


def test_signatures_have_short_types_and_fields_of_tuples_are_left_out() -> None:
    said = "(mask: ~psplib.nn.masks.Mask, buffers: dict[str, ~torch.Tensor] = <factory>)"
    short = "(mask: Mask, buffers: dict[str, Tensor] = <factory>)"
    assert references.short_types("class", "Compact", said, None) == (short, None)
    assert references.is_alias(None, "class", "verdict", forest.Row.verdict, False, None)
    assert not references.is_alias(None, "module", "Row", forest.Row, False, None)


def test_every_figure_has_a_caption_with_a_number_of_its_own() -> None:
    numbers, asked = [], 0
    for path in CHAPTER.parent.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        for cell, below in pairwise(cells):
            numbers += re.findall(r"^\*\*(Fig\. \w+)\.\*\*", cell.source, re.MULTILINE)
            is_drawn = re.search(r"\.show_(figure|panels)\(", cell.source)
            if is_drawn and "hide-input" in cell.metadata.tags:
                asked += 1
                assert references.CAPTION.match(below.source.removeprefix("**")), (path, cell.id)
    assert len(numbers) == len(set(numbers)) == asked + 1, "of one picture two panels, 4a and 4b"


@pytest.mark.slow
def test_the_published_book_needs_no_data_computes_nothing_and_says_what_was_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is, and without the plane that the figure and its last claim rest on."""
    results, less = Store(ROOT / "results"), Store(tmp_path / "results")
    asked = tables.largest_published("minima", results).runs(results)
    plane = next(c for c in asked if isinstance(c, Map) and results.has(c))
    shutil.copytree(results.root, less.root)
    shutil.rmtree(less.folder(plane))
    monkeypatch.setenv("PSPLIB_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("PSPLIB_RUNS", str(tmp_path / "runs"))
    found = []
    for store in (results, less):
        monkeypatch.setenv("PSPLIB_RESULTS", str(store.root))
        made = tmp_path / str(len(found)) / "out.ipynb"
        build.execute_all({CHAPTER: made}, {"scale": "published"})
        text = "".join(content for _, kind, content in shown(nbformat.read(made, as_version=4)))
        verdicts = re.findall(r"psplib-verdict ([\w-]+)", text)
        missing = [int(n) for n in re.findall(r"<b>missing runs</b> (\d+)", text)]
        # Beside the box that counts the runs of each scale.
        absent = re.findall(r"(?<!\d runs )(?:is|are) not there yet", text)
        found.append((verdicts, missing[0] if missing else 0, len(absent)))
    (whole, lacks, silent), (part, lacks_more, said) = found
    assert Counter(part) - Counter(whole) == {"not-run": 1}
    assert len(part) == len(whole)
    assert lacks_more == lacks + 1
    assert (silent, said) == (lacks > 0, 2)  # how many runs lack; and the figure
    assert not (tmp_path / "runs").exists()


def test_every_file_of_the_library_is_on_the_page_of_its_room() -> None:
    said = {
        name
        for page in (ROOT / "book" / "api").glob("*.md")
        for name in re.findall(r"automodule:: psplib\.(\S+)", page.read_text())
    }
    files = {f"{p.parent.name}.{p.stem}" for p in (ROOT / "psplib").glob("*/*.py")}
    assert said == {name for name in files if not name.endswith("__init__")}
