"""A run is made from its configuration, and checked against it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from psplib.core.artefact import Artefact, Parts
from psplib.core.config import key, kind, read
from psplib.core.errors import PsplibError, brief
from psplib.core.schema import insist
from psplib.nn.data import DIGESTS, Data
from psplib.pruning.kind import Run
from psplib.runs.store import Store
from psplib.training.fit import Checkpoint, Report

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
            if first.program is None:
                return [first.make(data, parents, checkpoint)], data
            return first.program.make(batch, data, parents, checkpoint), data

    return store.compute_together(batch, make, report, wait, deadline) is not None


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
