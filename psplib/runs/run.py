"""A run kind: what a class must have so that its configurations are made, kept, checked and shown.

A kind is one frozen dataclass in one file; nothing else knows it but the tuple of kinds
(`psplib.experiments.kinds`), by which a `config.json` becomes a configuration again. Kinds need not
import this file: they have these names, and that makes them runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Protocol

import pandas as pd
import torch

from psplib.core.artefact import Artefact, Parents, Parts
from psplib.core.config import key, kind, read
from psplib.core.errors import PsplibError, brief
from psplib.core.schema import Files, insist
from psplib.nn.data import DIGESTS, Data
from psplib.pruning.program import Program
from psplib.runs.store import Store
from psplib.training.fit import Checkpoint, Report


class Run(Hashable, Protocol):
    """A configuration of a run."""

    @property
    def parents(self) -> tuple[Any, ...]:
        """The runs whose artefacts this one is made from."""

    @property
    def title(self) -> str:
        """What it is, in a table's words."""

    @property
    def cost(self) -> float:
        """Seconds of one core, about."""

    @property
    def program(self) -> Program | None:
        """How it is made together with others; None if it is always made alone."""

    def load(self, device: torch.device) -> Data:
        """The images that it reads."""

    def make(self, data: Data, parents: Parents, checkpoint: Checkpoint) -> Parts:
        """Its tables and tensors, by name, going on from the checkpoint."""

    @property
    def writes(self) -> Files:
        """What its files hold: columns, types, numbers of rows, shapes; `check_run` compares."""

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Raise `PsplibError` unless its tables say what it asked for; see `Artefact.insist`.

        It is asked when the files are such as it `writes`.
        Of its parents only those that are in the store are given.
        """

    def tables(self, artefact: Artefact) -> dict[str, pd.DataFrame]:
        """Its tables as figures read them, by what their rows are; labelled with arm and seed."""


Batch = tuple[Run, ...]


def compute_batch(
    batch: Batch,
    store: Store,
    device: torch.device,
    report: Report = lambda done, total, note: None,
    wait: bool = True,
    deadline: float | None = None,
) -> bool:
    """Make the runs of a batch; false if another process has one of them and `wait` is false.

    `OutOfTime` if the deadline (seconds since the epoch) came first.
    """
    first = batch[0]

    def make(checkpoint: Checkpoint) -> tuple[list[Parts], Data]:
        parents = {parent: store.load(parent) for config in batch for parent in config.parents}
        data = first.load(device)
        with _one_thread(device):
            if len(batch) == 1:
                return [first.make(data, parents, checkpoint)], data
            assert first.program is not None
            return first.program.make(batch, data, parents, checkpoint), data

    return store.compute_together(batch, make, report, wait, deadline) is not None


def compute(
    config: Run,
    store: Store,
    device: torch.device,
    report: Report = lambda done, total, note: None,
    wait: bool = True,
    deadline: float | None = None,
) -> Artefact | None:
    """Make a run, or load it if it is there; None if another process has it and `wait` is false."""
    made = compute_batch((config,), store, device, report, wait, deadline)
    return store.load(config) if made else None


@contextlib.contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU a run has one thread: its bits do not depend on the number of cores, and several
    runs side by side use them better."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check_run(artefact: Artefact, kinds: Sequence[type], *stores: Store) -> None:
    """Raise `PsplibError` unless every file of a run is what it wrote and such as its kind writes,
    and its tables say what its configuration asked for, of the data set that it named; each store
    may have some of its parents."""
    artefact.check_digests()
    try:
        config = read(artefact.config, kinds)
        artefact.insist(key(config) == artefact.folder.name, "config.json")
        artefact.insist(kind(config).lower() == artefact.folder.parent.name, "the folder")
        data = artefact.provenance["data"]
        is_ours = data["sha256"] == DIGESTS.get(data["name"], {}).get(data["variant"])
        artefact.insist(is_ours and data["name"] in _data_sets(config), "the data set")
        insist(artefact, config.writes)
        for store in stores:
            parents = {p: store.load(p) for p in config.parents if store.has(p)}
            config.check(artefact, parents)
    except PsplibError as error:
        where = "" if str(artefact.folder) in str(error) else f"{artefact.folder}: "
        what = str(error)
        raise PsplibError(f"{where}{what if len(what) < 800 else f'{what[:500]} ...'}") from None
    except Exception as error:  # whatever somebody else's file made pandas or torch raise
        artefact.insist(False, f"what it holds ({brief(error)})")


def _data_sets(config: Any) -> set[str]:
    """The data sets that a configuration names, itself or in those that it is made from."""
    if not dataclasses.is_dataclass(config):
        return set()
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    own = {values["data"]} if isinstance(values.get("data"), str) else set()
    return own.union(*map(_data_sets, values.values()))
