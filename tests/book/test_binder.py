"""Links to machines that run a chapter are made of the repository's address, where it has one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml
from jupyter_book.config import get_final_config

from psplib.book import binder

ROOT = Path(__file__).parents[2]
CHAPTER = ROOT / "book" / "figure_1.ipynb"
ADDRESS, COMMIT = "https://github.com/owner/psplib", "0123abc"


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("https://github.com/owner/psplib.git", ADDRESS),
        ("https://github.com/owner/psplib", ADDRESS),
        ("git@github.com:owner/psplib.git", ADDRESS),
        ("ssh://git@github.com/owner/psplib.git", ADDRESS),
        ("https://git.example.org/owner/psplib.git", None),
        ("../psplib", None),
        (None, None),
    ],
)
def test_only_an_origin_on_github_has_an_address(
    origin: str | None, address: str | None, tmp_path: Path
) -> None:
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    if origin:
        subprocess.run([*git, "remote", "add", "origin", origin], check=True)
    assert binder.origin(tmp_path)[0] == address


def test_links_lead_to_the_commit_of_this_checkout_and_of_no_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    git = ["git", "-C", str(tmp_path), *who]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "remote", "add", "origin", ADDRESS], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)
    # A mirror of the user's own.
    for name, value in (("COUNT", "1"), ("KEY_0", "url.https://a.example/.insteadOf")):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/")
    address, commit = binder.origin(tmp_path)
    assert address == ADDRESS
    assert len(commit) == 40
    (tmp_path / "unpacked").mkdir()
    assert binder.origin(tmp_path / "unpacked") == (None, "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as in a hook of that project
    assert binder.origin(tmp_path / "unpacked") == (None, "HEAD")
    assert binder.origin(tmp_path / "none") == (None, "HEAD")


def test_what_is_in_no_commit_has_no_links(tmp_path: Path) -> None:
    """They would lead to something else than is shown."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    git = ["git", "-C", str(tmp_path), *who]
    page = tmp_path / "book" / "a.md"
    page.parent.mkdir()
    page.touch()
    for words in (
        ("init", "--quiet"),
        ("config", "status.showUntrackedFiles", "no"),
        ("remote", "add", "origin", ADDRESS),
        ("add", "--all"),
        ("commit", "--quiet", "-m", "one"),
    ):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "notes").touch()
    assert binder.origin(tmp_path)[0] == ADDRESS
    page.write_text("changed")
    assert binder.origin(tmp_path)[0] is None
    page.write_text("")
    assert binder.origin(tmp_path)[0] == ADDRESS
    page.with_name("b.md").touch()
    assert binder.origin(tmp_path)[0] is None


def test_jupyter_book_understands_the_configuration(tmp_path: Path) -> None:
    text = binder.configured((ROOT / "_config.yml").read_bytes(), ADDRESS, COMMIT)
    before, after = yaml.safe_load((ROOT / "_config.yml").read_bytes()), yaml.safe_load(text)
    options = after["sphinx"]["config"]["html_theme_options"]
    added = options.keys() - before["sphinx"]["config"]["html_theme_options"].keys()
    (tmp_path / "_config.yml").write_bytes(text)
    cli = {"latex_individualpages": False}
    understood = get_final_config(
        user_yaml=tmp_path / "_config.yml", sourcedir=tmp_path, cli_config=cli, validate=True
    )[0]["html_theme_options"]
    assert (understood["repository_url"], understood["repository_branch"]) == (ADDRESS, COMMIT)
    assert understood["launch_buttons"]["binderhub_url"] == "https://mybinder.org"
    for name in added:
        del options[name]
    assert after == before, "nothing else is changed"


def test_a_downloaded_chapter_has_no_outputs_and_installs_what_was_built_where_it_knows_from_where(
    tmp_path: Path,
) -> None:
    original = nbformat.read(CHAPTER, as_version=4)
    saved = nbformat.read(CHAPTER, as_version=4)
    for cell in saved.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", text="of a run of mine")]
            cell.execution_count = 7
    nbformat.write(saved, tmp_path / CHAPTER.name)
    plain = nbformat.reads(binder.notebook(tmp_path / CHAPTER.name, None, ""), as_version=4)
    assert plain == original
    found = nbformat.reads(binder.notebook(CHAPTER, ADDRESS, COMMIT), as_version=4)
    nbformat.validate(found)
    added = found.cells.pop(1)
    assert found == plain
    assert f'%pip install --quiet "psplib[book] @ git+{ADDRESS}@{COMMIT}"' in added.source
