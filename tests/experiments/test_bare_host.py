"""A machine that only computes: nothing but what psplib itself needs, and no Jupyter."""

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from psplib.__main__ import cli
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
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of these packages alone, with which every child process has to do too."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(FORGET)
    for name in with_requirements(HAS + DIGITS):
        here = distribution(name)
        for top in {file.parts[0] for file in here.files or ()} - {"..", "__pycache__"}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(here.locate_file(top))).resolve())
    return folder


def python(site: Path, runs: Path, *words: str) -> subprocess.CompletedProcess:
    path = f"{site}{os.pathsep}{ROOT}"
    environment = os.environ | {"PYTHONPATH": path, "PSPLIB_RUNS": str(runs)}
    environment |= {"PSPLIB_RESULTS": str(runs.parent / "results")}
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=runs.parent, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", ["matplotlib", "IPython", "ipywidgets", "papermill", "ray"])
def test_the_bare_host_is_bare(name: str, site: Path, tmp_path: Path) -> None:
    done = python(site, tmp_path / "runs", "-c", f"import {name}")
    assert f"No module named '{name}'" in done.stderr


def test_a_bare_host_reproduces_and_packs_and_what_it_sends_back_is_published(
    site: Path, smoke: Store, tmp_path: Path
) -> None:
    def psplib(*words: str, runs: Path = tmp_path / "runs") -> str:
        done = python(site, runs, "-m", "psplib", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    chosen = ("--scale", "smoke", "--only", "figure_1a")
    said = psplib("reproduce", *chosen, "--budget", "0.03", "--jobs", "1")
    assert "figure_1a at smoke scale is" in said
    assert (tmp_path / "runs" / ".work").exists()
    assert "figure_1a" in psplib("status")

    # What it would have had with a longer budget.
    assert "runs are whole" in psplib("verify", "--local", runs=smoke.root)
    tar = tmp_path / "host.tar"
    assert psplib("pack", *chosen, str(tar), runs=smoke.root).startswith("14 runs packed")
    results = {"PSPLIB_RESULTS": str(tmp_path / "results")}
    published = CliRunner().invoke(cli, ["publish", str(tar)], env=results)
    assert published.stdout.startswith("14 runs published, 0 were there already")
    assert CliRunner().invoke(cli, ["verify"], env=results).stdout.startswith("14 of 14 runs are")
