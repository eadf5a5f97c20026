"""Data, networks and interruptions small enough to be checked by brute force."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from psplib.core.artefact import Artefact
from psplib.nn.data import Data, Split
from psplib.runs.run import Run, compute_batch
from psplib.runs.store import Store
from psplib.training.fit import Checkpoint


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


def make_one(
    store: Store, config: Any, make: Callable[[Checkpoint], Any], *rest: Any, **options: Any
) -> Artefact | None:
    """A run by itself, of parts and data that `make` gives; see `Store.compute_together`."""

    def make_all(checkpoint: Checkpoint) -> Any:
        parts, data = make(checkpoint)
        return [parts], data

    made = store.compute_together([config], make_all, *rest, **options)
    return made and made[0]


def compute(config: Run, store: Store, *rest: Any) -> Artefact:
    """A run by itself."""
    compute_batch((config,), store, *rest)
    return store.load(config)
