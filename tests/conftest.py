"""Deterministic properties, one thread, and one store of smoke runs for all tests.

Nothing heavy is imported here: a fixture imports what it needs, so that a file of tests without
networks starts at once.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from click.testing import Result
    from playwright.sync_api import Browser

    from psplib.nn.data import Data
    from psplib.runs.store import Store
    from psplib.training.fit import Checkpoint

T = TypeVar("T")

# All tests, those of other processes too, share one store; its locks let each run be made once.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _RUNS = tempfile.TemporaryDirectory(prefix="psplib-runs-")
    os.environ["PSPLIB_RUNS"] = _RUNS.name
os.environ["OMP_NUM_THREADS"] = "1"  # of torch

settings.register_profile(
    "psplib",
    derandomize=True,
    deadline=None,
    max_examples=50 if os.environ.get("CI") else 15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("psplib")

# What takes longer than `make check` may: real runs, whole or in pieces, pages, a browser.
SLOW = {"site", "smoke", "smoke_panels", "smoke_minima", "smoke_beyond", "smoke_controls"}
SLOW |= {"in_pieces", "browser"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and begin with it, the site first: workers take whole files, in order."""

    def place(item: pytest.Item) -> int:
        return 0 if "site" in _fixtures(item) else 1 if item.get_closest_marker("slow") else 2

    for item in items:
        if SLOW & _fixtures(item) or item.get_closest_marker("thorough"):
            item.add_marker("slow")
    items.sort(key=place)


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws does not depend on the tests before it, nor repeats what they draw with a
    generator of their own: a mask of the same numbers as the weights would kill a network."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(271_828)


@pytest.fixture(scope="session")
def tiny() -> Data:
    """What a LeNet reads: 300 images for training, 50 for validation, 60 for the test."""
    from problems import synthetic

    return synthetic((1, 28, 28), (300, 50, 60))


@pytest.fixture(scope="session")
def tiny_colour() -> Data:
    """What a ResNet reads: 40 images for training, 20 for validation, 20 for the test."""
    from problems import synthetic

    return synthetic((3, 32, 32), (40, 20, 20))


@pytest.fixture(scope="session")
def digits() -> Data:
    from psplib.nn import data

    return data.load_data("digits")


def runs_of(*names: str) -> Store:
    """The shared store with every run of these experiments at smoke scale."""
    import torch

    from psplib.experiments import scales, sweep
    from psplib.runs import store as runs

    store = runs.local()
    sweep.run([scales.experiment(name, "smoke") for name in names], store, torch.device("cpu"))
    return store


@pytest.fixture(scope="session")
def smoke() -> Store:
    """Every run of Fig. 1a at smoke scale."""
    return runs_of("figure_1a")


@pytest.fixture(scope="session")
def smoke_panels() -> Store:
    """Every run of Figs. 1b to 1d at smoke scale."""
    return runs_of("figure_1b", "figure_1c", "figure_1d")


@pytest.fixture(scope="session")
def smoke_minima() -> Store:
    """Every run of Figs. 2 to 4 at smoke scale."""
    return runs_of("minima")


@pytest.fixture(scope="session")
def smoke_beyond() -> Store:
    """Every run of "beyond the paper" at smoke scale."""
    return runs_of("beyond")


@pytest.fixture(scope="session")
def smoke_controls() -> Store:
    """Every run of the controls at smoke scale."""
    return runs_of("controls")


@pytest.fixture(scope="session")
def site(
    smoke: Store,
    smoke_minima: Store,
    smoke_panels: Store,
    smoke_beyond: Store,
    smoke_controls: Store,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The pages of the book at smoke scale, built once."""
    from psplib.book import build as book

    runs_of("transfer", "entropy_learning")  # the build would begin a process a core for these
    return book.build_book("smoke", "cpu", tmp_path_factory.mktemp("build")).parent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    from psplib.runs.store import Store

    return Store(tmp_path / "runs")


@pytest.fixture(scope="session")
def psplib() -> Callable[..., Result]:
    """The command line in this process: `psplib("verify", tar, runs=..., results=...)`; `results`
    is beside `runs` unless given. What a command itself starts are other processes."""
    from click.testing import CliRunner

    from psplib.__main__ import cli

    def invoke(*words: object, runs: Path, results: Path | None = None) -> Result:
        results = results or runs.parent / "results"
        environment = {"PSPLIB_RUNS": str(runs), "PSPLIB_RESULTS": str(results)}
        return CliRunner().invoke(cli, [str(w) for w in words], env=environment)

    return invoke


@pytest.fixture
def in_pieces(tmp_path: Path) -> Callable[[Callable[[Checkpoint], T]], tuple[T, int]]:
    """Makes a run session after session; gives what it gives in the end, and the number of
    interruptions."""
    from problems import Session

    def make(run: Callable[[Checkpoint], T]) -> tuple[T, int]:
        interruptions = 0
        while True:
            try:
                return run(Session(tmp_path)), interruptions
            except KeyboardInterrupt:
                interruptions += 1

    return make


@pytest.fixture
def disk_of() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """`with disk_of(n):` the operating system fails a write where a file would pass n bytes."""

    @contextlib.contextmanager
    def full(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return full


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for the tests of a file."""
    import browsing
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browsing.CHROMIUM)
        yield opened
        opened.close()
