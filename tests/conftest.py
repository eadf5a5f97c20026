"""Deterministic properties, one thread, and data small enough to be checked by brute force."""

import contextlib
import os
import resource
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

from psplib.book import build as book
from psplib.experiments import scales, sweep
from psplib.nn import data
from psplib.nn.data import Data, Split
from psplib.runs import store as runs
from psplib.runs.store import Store
from psplib.training.trainer import Checkpoint

# The tests, and the chapters that nbval runs, share one store of their own.
_RUNS = tempfile.TemporaryDirectory(prefix="psplib-runs-")
os.environ["PSPLIB_RUNS"] = _RUNS.name

settings.register_profile(
    "psplib",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("psplib")
torch.set_num_threads(1)

T = TypeVar("T")


def synthetic(image: tuple[int, int, int], sizes: tuple[int, int, int]) -> Data:
    """Noise around ten prototypes: learnt in a few epochs, but not to the last sample."""
    generator = torch.Generator().manual_seed(1)
    prototypes = torch.randn(10, *image, generator=generator)

    def split(size: int) -> Split:
        y = torch.randint(10, (size,), generator=generator)
        return Split(0.2 * prototypes[y] + torch.randn(size, *image, generator=generator), y)

    channels = image[0]
    return Data(
        "synthetic", "tiny", "0" * 64, (0.0,) * channels, (1.0,) * channels, *map(split, sizes)
    )


def linear_chain() -> nn.Sequential:
    """LeNet-300 in small: 12-7-5-3."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(12, 7), relu1=nn.ReLU(),
            fc2=nn.Linear(7, 5), relu2=nn.ReLU(),
            fc3=nn.Linear(5, 3),
        )
    )  # fmt: skip


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws does not depend on the tests before it, nor repeats what they draw with a
    generator of their own: a mask of the same numbers as the weights would kill a network."""
    torch.manual_seed(271_828)


@pytest.fixture(scope="session")
def tiny() -> Data:
    """What a LeNet reads: 300 images for training, 50 for validation, 60 for the test."""
    return synthetic((1, 28, 28), (300, 50, 60))


@pytest.fixture(scope="session")
def tiny_colour() -> Data:
    """What a ResNet reads: 40 images for training, 20 for validation, 20 for the test."""
    return synthetic((3, 32, 32), (40, 20, 20))


@pytest.fixture(scope="session")
def digits() -> Data:
    return data.load("digits")


@pytest.fixture(scope="session")
def smoke() -> Store:
    """Every run of Fig. 1a at smoke scale, made once, in this process."""
    store = runs.local()
    sweep.run([scales.figure_1a("smoke")], store, torch.device("cpu"))
    return store


@pytest.fixture(scope="session")
def smoke_panels() -> Store:
    """Every run of Figs. 1b to 1d at smoke scale, made once, in this process."""
    store = runs.local()
    for name in ("figure_1b", "figure_1c", "figure_1d"):
        sweep.run([scales.panel(name, "smoke")], store, torch.device("cpu"))
    return store


@pytest.fixture(scope="session")
def smoke_minima() -> Store:
    """Every run of Figs. 2 to 4 at smoke scale, made once, in this process."""
    store = runs.local()
    sweep.run([scales.minima("smoke")], store, torch.device("cpu"))
    return store


@pytest.fixture(scope="session")
def site(
    smoke: Store, smoke_minima: Store, smoke_panels: Store, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The pages of the book at smoke scale, built once."""
    return book.build("smoke", "cpu", tmp_path_factory.mktemp("build")).parent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


class Session(Checkpoint):
    """A session that is interrupted at its first report after a save: an epoch's work is lost."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, self.interrupt, interval=0.0)
        self.has_saved = False

    def interrupt(self, *_: object) -> None:
        if self.has_saved:
            raise KeyboardInterrupt

    def save(self, tensors: dict[str, torch.Tensor], state: Any) -> None:
        super().save(tensors, state)
        self.has_saved = True


@pytest.fixture
def in_pieces(tmp_path: Path) -> Callable[[Callable[[Checkpoint], T]], tuple[T, int]]:
    """Makes a run session after session; gives what it gives in the end, and the number of
    interruptions."""

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
