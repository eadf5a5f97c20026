"""What one program makes at once: runs whose networks are trained together on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from psplib.core.artefact import Parents, Parts
from psplib.nn import models
from psplib.nn.data import Data
from psplib.training.fit import Checkpoint

# How many networks are trained together, by the memory that one H200 (139 GiB) has for them.
TOGETHER = {"lenet-300": 400, "lenet-5": 300} | dict.fromkeys(models.RESNETS, 60)


@dataclass(frozen=True)
class Program:
    """Runs of one `recipe` can be made together by `make`, which gives the parts of each; a run has
    so many `networks`, and all of them `most` at most."""

    recipe: tuple[Any, ...]
    networks: int
    most: int
    make: Callable[[Sequence[Any], Data, Parents, Checkpoint], list[Parts]]
