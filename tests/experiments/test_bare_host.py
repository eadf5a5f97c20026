"""A machine that only computes: psplib's wheel and what that needs, no checkout and no Jupyter."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from psplib.__main__ import cli
from psplib.experiments import scales
from psplib.runs.store import Store

ROOT = Path(__file__).parents[2]
HAS = ("torch", "numpy", "pandas", "safetensors", "click", "tqdm")
DIGITS = ("scikit-learn",)  # the data of the smoke scale
FORGET = """import sys
sys.path[:] = [p for p in sys.path if "site-packages" not in p]
"""


def with_requirements(names: tuple[str, ...]) -> set[str]:
    """These distributions and all that they require, and those in turn."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name not in found:
            found.add(name)
            asked = map(Requirement, distribution(name).requires or ())
            left += [r.name for r in asked if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of psplib, made outside the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "psplib", folder / "psplib", ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    make = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", make], cwd=folder, check=True, capture_output=True, text=True
    )
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of psplib's wheel and of these packages alone, with which every child process has to
    do too."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    (folder / "sitecustomize.py").write_text(FORGET)
    for name in with_requirements(HAS + DIGITS):
        here = distribution(name)
        for top in {file.parts[0] for file in here.files or ()} - {"..", "__pycache__"}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(here.locate_file(top))).resolve())
    return folder


def python(site: Path, home: Path, *words: str, **surroundings: str) -> subprocess.CompletedProcess:
    """Python in an empty folder, as a user who has set nothing."""
    unset = {"PSPLIB_RUNS", "PSPLIB_RESULTS", "XDG_CACHE_HOME"}
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment |= {"PYTHONPATH": str(site), "HOME": str(home)} | surroundings
    cwd = home / "empty"
    cwd.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, *words], env=environment, cwd=cwd, capture_output=True, text=True
    )
    assert not list(cwd.iterdir())
    return done


def test_the_bare_host_is_bare_and_says_in_a_sentence_what_it_lacks(
    site: Path, tmp_path: Path
) -> None:
    asked = """import importlib.util, psplib
names = ["matplotlib", "IPython", "ipywidgets", "papermill", "ray"]
print([name for name in names if importlib.util.find_spec(name)], psplib.__file__)"""
    done = python(site, tmp_path, "-c", asked)
    assert done.stdout == f"[] {site / 'psplib' / '__init__.py'}\n"
    for words, sentence in (
        ("book", "matplotlib is not installed; pip install 'psplib[book]' brings it."),
        ("verify", "Published results come with the repository; point PSPLIB_RESULTS at its"),
    ):
        done = python(site, tmp_path, "-m", "psplib", words)
        assert done.returncode == 2
        assert done.stderr.startswith(f"psplib: {sentence}")
        assert done.stderr.count("\n") == 1


def test_a_wheel_has_every_room_and_its_command(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = {p.relative_to(ROOT).as_posix() for p in (ROOT / "psplib").rglob("*.py")}
    assert source <= names
    (entry,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "psplib = psplib.__main__:main" in zipfile.ZipFile(wheel).read(entry).decode()


@pytest.mark.thorough
def test_a_wheel_reproduces_and_packs_and_what_it_sends_back_is_published(
    site: Path, smoke: Store, tmp_path: Path
) -> None:
    home = tmp_path / "home"

    def psplib(*words: str, **surroundings: str) -> str:
        done = python(site, home, "-m", "psplib", *words, **surroundings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    chosen = ("--scale", "smoke", "--only", "figure_1a")
    said = psplib("reproduce", *chosen, "--budget", "0.03", "--jobs", "1")
    assert "figure_1a at smoke scale is" in said
    assert (home / ".cache" / "psplib" / "runs" / ".work").exists()
    assert "figure_1a" in psplib("status")

    # What it would have had with a longer budget.
    assert "runs are whole" in psplib("verify", "--local", PSPLIB_RUNS=str(smoke.root))
    tar = tmp_path / "host.tar"
    packed = psplib("pack", *chosen, str(tar), PSPLIB_RUNS=str(smoke.root))
    count = len(scales.figure_1a("smoke").runs(smoke))
    assert packed.startswith(f"{count} runs packed")
    results = {"PSPLIB_RESULTS": str(tmp_path / "results")}
    published = CliRunner().invoke(cli, ["publish", str(tar)], env=results)
    assert published.stdout.startswith(f"{count} runs published, 0 were there already")
    verified = CliRunner().invoke(cli, ["verify"], env=results)
    assert verified.stdout.startswith(f"{count} of {count} runs are")
