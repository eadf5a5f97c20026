"""A run kind: what a class must have so that its configurations are made, kept, checked and shown.

A kind is one frozen dataclass in one file; nothing else knows it but the tuple of kinds
(`psplib.experiments.kinds`), by which a `config.json` becomes a configuration again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from psplib.core.artefact import Artefact, Parents, Parts
from psplib.core.schema import Files
from psplib.nn import models
from psplib.nn.data import Data
from psplib.training.fit import Checkpoint

# How many networks are trained together, by the memory that one H200 (139 GiB) has for them.
TOGETHER = {"lenet-300": 400, "lenet-5": 300} | dict.fromkeys(models.RESNETS, 60)


@dataclass(frozen=True)
class Program:
    """What makes runs at once whose networks are trained together on a GPU: those of one `recipe`
    can be made by `make`, which gives the parts of each; a run has so many `networks`, and all of
    them `most` at most."""

    recipe: tuple[Any, ...]
    networks: int
    most: int
    make: Callable[[Sequence[Any], Data, Parents, Checkpoint], list[Parts]]


class Run(ABC):
    """A configuration of a run."""

    # Its tables as figures read them: what their rows are, and the name of the file.
    shown: tuple[tuple[str, str], ...] = ()

    @property
    def parents(self) -> tuple[Any, ...]:
        """The runs whose artefacts this one is made from."""
        return ()

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is, in a table's words."""

    @property
    @abstractmethod
    def cost(self) -> float:
        """Seconds of one core, about."""

    @property
    def program(self) -> Program | None:
        """How it is made together with others; None if it is always made alone."""
        return None

    @abstractmethod
    def load(self, device: torch.device) -> Data:
        """The images that it reads."""

    def make(self, data: Data, parents: Parents, checkpoint: Checkpoint) -> Parts:
        """Its tables and tensors, by name, going on from the checkpoint."""
        assert self.program is not None
        return self.program.make([self], data, parents, checkpoint)[0]

    @property
    @abstractmethod
    def writes(self) -> Files:
        """What its files hold: columns, types, numbers of rows, shapes; `check_run` compares."""

    @abstractmethod
    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Raise `PsplibError` unless its tables say what it asked for; see `Artefact.insist`.

        It is asked when the files are such as it `writes`.
        Of its parents only those that are in the store are given.
        """

    @property
    def row_labels(self) -> dict[str, Any]:
        """What every row that is shown is labelled with, such as arm and seed."""
        return {}

    def tables(self, artefact: Artefact) -> dict[str, pd.DataFrame]:
        """Its tables as figures read them, by what their rows are; labelled."""
        return {name: artefact.table(file).assign(**self.row_labels) for name, file in self.shown}
