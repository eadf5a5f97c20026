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
ADDRESS = "https://github.com/owner/psplib"


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
    assert binder.repository(tmp_path) == address


def test_a_folder_that_is_no_repository_has_none(tmp_path: Path) -> None:
    assert binder.repository(tmp_path / "none") is None


def test_jupyter_book_understands_the_configuration(tmp_path: Path) -> None:
    text = binder.configured(ROOT / "_config.yml", ADDRESS)
    before, after = yaml.safe_load((ROOT / "_config.yml").read_bytes()), yaml.safe_load(text)
    options = after["sphinx"]["config"]["html_theme_options"]
    added = options.keys() - before["sphinx"]["config"]["html_theme_options"].keys()
    (tmp_path / "_config.yml").write_text(text)
    cli = {"latex_individualpages": False}
    understood = get_final_config(
        user_yaml=tmp_path / "_config.yml", sourcedir=tmp_path, cli_config=cli, validate=True
    )[0]["html_theme_options"]
    assert understood["repository_url"] == ADDRESS
    assert understood["launch_buttons"]["binderhub_url"] == "https://mybinder.org"
    for name in added:
        del options[name]
    assert after == before, "nothing else is changed"


def test_a_downloaded_chapter_installs_psplib_only_where_it_knows_from_where() -> None:
    plain = nbformat.reads(binder.notebook(CHAPTER, None), as_version=4)
    assert plain == nbformat.read(CHAPTER, as_version=4)
    found = nbformat.reads(binder.notebook(CHAPTER, ADDRESS), as_version=4)
    nbformat.validate(found)
    added = found.cells.pop(1)
    assert found == plain
    assert f'%pip install --quiet "psplib[book] @ git+{ADDRESS}"' in added.source
