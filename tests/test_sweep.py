"""Sweeps: what is made first, and how a run ends at its deadline."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from psplib import experiments, runs, scales, sweep
from psplib.runs import Store
from psplib.training import Checkpoint, OutOfTime

CPU = torch.device("cpu")


def test_what_is_first_in_every_experiment_comes_before_what_is_second_in_any(
    smoke: Store, smoke_minima: Store, store: Store
) -> None:
    one, two = scales.figure_1a("smoke"), scales.minima("smoke")
    assert sweep.lacking([one, two], store) == [one.lobsters[0], two.lobsters[0], one.dense]
    for panel, source in ((one, smoke), (two, smoke_minima)):
        store.adopt(source.load(panel.lobsters[0]))
    first, second = (experiments.known(panel, store) for panel in (one, two))
    assert len(second) == 3
    assert sweep.lacking([one, two], store)[:4] == [first[1], second[1], first[2], second[2]]
    assert sweep.lacking([one, two], store)[4:] == first[3:]
    # What two experiments share is made once.
    assert sweep.lacking([one, two, one], store) == sweep.lacking([one, two], store)
    assert sweep.lacking([one, two], smoke) == []


def test_a_batch_is_made_once(store: Store) -> None:
    config = scales.figure_1a("smoke").dense
    (batch,) = experiments.batches([config], CPU)
    with store.lock(config):
        assert not experiments.compute_batch(batch, store, CPU, wait=False)
    assert experiments.compute_batch(batch, store, CPU, wait=False)
    made = (store.folder(config) / "provenance.json").stat().st_mtime_ns
    assert experiments.compute_batch(batch, store, CPU, wait=False)
    assert (store.folder(config) / "provenance.json").stat().st_mtime_ns == made


class Clock:
    """Makes every run's deadline come at its report of a given number, and keeps all reports."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[tuple[float, str]] = []
        self.last = 0
        self.checkpoint = Checkpoint()
        monkeypatch.setattr(runs, "Checkpoint", self.watch)

    def watch(self, *arguments: Any, **options: Any) -> Checkpoint:
        self.checkpoint = Checkpoint(*arguments, **options)
        return self.checkpoint

    def report(self, done: float, total: float, note: str) -> None:
        self.told.append((done, note))
        if len(self.told) == self.last:
            self.checkpoint.deadline = 0.0


@pytest.mark.parametrize("last", [3, 10])  # a replica has ten epochs: within it, and at its end
@pytest.mark.parametrize("kind", ["lobster", "retraining"])
def test_at_the_deadline_training_is_saved_and_nothing_is_lost(
    kind: str, last: int, smoke: Store, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = scales.figure_1a("smoke")
    config = {"lobster": panel.lobsters[0], "retraining": panel.retrained}[kind]
    _stopped_and_resumed(config, smoke, store.root, last, monkeypatch)


@pytest.mark.parametrize("kind", ["census", "map", "curvature"])
def test_at_the_deadline_an_analysis_is_saved_and_nothing_is_lost(
    kind: str, smoke_minima: Store, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = experiments.known(scales.minima("smoke"), smoke_minima)
    config = next(c for c in configs if type(c).__name__.lower() == kind)
    _stopped_and_resumed(config, smoke_minima, store.root, 1, monkeypatch)


def _stopped_and_resumed(
    config: experiments.Config, whole: Store, root: Path, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole.root, root)
    store = Store(root)
    shutil.rmtree(store.folder(config))
    clock = Clock(monkeypatch)
    clock.last = last
    with pytest.raises(OutOfTime):
        experiments.compute(config, store, CPU, clock.report)
    assert last <= len(clock.told) <= last + 1, "it went on beyond its next save"
    assert not store.has(config)
    assert (store.work(config) / "checkpoint.safetensors").exists()
    before, clock.told, clock.last = clock.told, [], 0
    experiments.compute(config, store, CPU, clock.report)
    assert clock.told
    assert not set(clock.told) & set(before), "an epoch was made twice"
    assert store.load(config).provenance["files"] == whole.load(config).provenance["files"]


def test_nothing_is_begun_after_the_deadline(store: Store) -> None:
    assert not sweep.run([scales.figure_1a("smoke")], store, CPU, deadline=0.0)
    assert not store.root.exists()
