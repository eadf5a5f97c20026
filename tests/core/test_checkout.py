"""No page and no number comes from another folder, another checkout or another repository."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from psplib.core import checkout
from psplib.core.errors import PsplibError
from psplib.nn import data
from psplib.runs import store as runs

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "PSPLIB_RUNS": runs.local,
    "PSPLIB_RESULTS": runs.published,
    "PSPLIB_DATA": data.folders,
    "XDG_CACHE_HOME": data.folders,
}


@pytest.mark.parametrize("variable", FOLDERS)
def test_a_folder_that_depends_on_where_one_is_is_refused(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "here/runs")
    with pytest.raises(PsplibError) as refused:
        FOLDERS[variable]()
    assert str(refused.value) == f"{variable} must be an absolute path; got 'here/runs'."
    monkeypatch.setenv(variable, str(tmp_path))
    FOLDERS[variable]()


def test_in_another_checkout_what_this_one_holds_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PSPLIB_RUNS", "PSPLIB_RESULTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT / "book")
    assert runs.local().root == ROOT / "runs"
    monkeypatch.chdir(tmp_path)
    assert runs.published().root == ROOT / "results"
    (tmp_path / "psplib").mkdir()
    (tmp_path / "psplib" / "__init__.py").touch()
    (tmp_path / "_toc.yml").touch()
    (tmp_path / "book").mkdir()
    monkeypatch.chdir(tmp_path / "book")
    for read in (runs.local, runs.published, checkout.check_here):
        with pytest.raises(PsplibError, match=f"^{tmp_path} has a psplib of its own, but the one"):
            read()


def test_the_commit_is_that_of_psplibs_own_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    git = ["git", "-C", str(tmp_path), *who]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)
    other = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    # Unpacked within another project, or installed into its virtual environment.
    package = tmp_path / "unpacked" / "psplib"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr(checkout, "_PACKAGE", package)
    assert runs._commit() == {"commit": "unknown", "modified": False}
    (package.parent / "_toc.yml").touch()
    assert checkout.checkout() == package.parent
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert runs._commit() == {"commit": "unknown", "modified": False}
    monkeypatch.delenv("GIT_DIR")
    (tmp_path / "_toc.yml").touch()
    (tmp_path / "psplib").mkdir()
    (tmp_path / "psplib" / "__init__.py").touch()
    monkeypatch.setattr(checkout, "_PACKAGE", tmp_path / "psplib")
    subprocess.run([*git, "config", "status.showUntrackedFiles", "no"], check=True)
    assert runs._commit() == {"commit": other.strip(), "modified": True}
    assert checkout.git(tmp_path, "no-such-command") is None
    monkeypatch.setenv("PATH", os.devnull)
    assert checkout.git(tmp_path, "rev-parse", "HEAD") is None
