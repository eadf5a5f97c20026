"""Sweeps: what is made first, and how a run ends at its deadline."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from problems import compute

from psplib.core.config import key
from psplib.experiments import scales, sweep
from psplib.experiments.kinds import KINDS
from psplib.experiments.plan import batches, lacking
from psplib.pruning.kind import TOGETHER
from psplib.pruning.retraining import Retraining
from psplib.pruning.sensitivity import Sensitivity
from psplib.runs import store as runs
from psplib.runs.run import Run, check_run, compute_batch
from psplib.runs.store import Store
from psplib.training.fit import Checkpoint, OutOfTime

CPU = torch.device("cpu")


def test_what_is_first_in_every_experiment_comes_before_what_is_second_in_any(
    smoke: Store, smoke_minima: Store, store: Store
) -> None:
    one, two = scales.figure_1a("smoke"), scales.minima("smoke")
    assert lacking([one, two], store) == [one.lobsters[0], two.lobsters[0], one.dense]
    for panel, source in ((one, smoke), (two, smoke_minima)):
        store.adopt(source.load(panel.lobsters[0]))
    first, second = (panel.runs(store) for panel in (one, two))
    assert len(second) == 3
    assert lacking([one, two], store)[:4] == [first[1], second[1], first[2], second[2]]
    assert lacking([one, two], store)[4:] == first[3:]
    # What two experiments share is made once.
    assert lacking([one, two, one], store) == lacking([one, two], store)
    assert lacking([one, two], smoke) == []


def test_a_batch_is_made_once(store: Store) -> None:
    config = scales.figure_1a("smoke").dense
    (batch,) = batches([config], CPU)
    with store.lock(config):
        assert not compute_batch(batch, store, CPU, wait=False)
    assert compute_batch(batch, store, CPU, wait=False)
    made = (store.folder(config) / "provenance.json").stat().st_mtime_ns
    assert compute_batch(batch, store, CPU, wait=False)
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
    configs = scales.minima("smoke").runs(smoke_minima)
    config = next(c for c in configs if type(c).__name__.lower() == kind)
    _stopped_and_resumed(config, smoke_minima, store.root, 1, monkeypatch)


def _stopped_and_resumed(
    config: Run, whole: Store, root: Path, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another process may be making more runs there.
    shutil.copytree(whole.root, root, ignore=shutil.ignore_patterns(".work"))
    store = Store(root)
    shutil.rmtree(store.folder(config))
    clock = Clock(monkeypatch)
    clock.last = last
    with pytest.raises(OutOfTime):
        compute(config, store, CPU, clock.report)
    assert last <= len(clock.told) <= last + 1, "it went on beyond its next save"
    assert not store.has(config)
    assert (store.work(config) / "checkpoint.safetensors").exists()
    before, clock.told, clock.last = clock.told, [], 0
    compute(config, store, CPU, clock.report)
    assert clock.told
    assert not set(clock.told) & set(before), "an epoch was made twice"
    assert store.load(config).provenance["files"] == whole.load(config).provenance["files"]


def test_nothing_is_begun_after_the_deadline(store: Store) -> None:
    assert not sweep.run([scales.figure_1a("smoke")], store, CPU, deadline=0.0)
    assert not store.root.exists()


def test_on_a_gpu_all_that_is_alike_goes_together_and_what_was_begun_stays_so() -> None:
    panel = scales.figure_1a("paper")
    missing = [*panel.lobsters, panel.dense, *panel.retrainings([1.0, 0.5, 0.1, 0.05, 0.01])]
    small = scales.figure_1a("smoke")
    missing += [*small.lobsters, small.dense, Sensitivity(panel.lobsters[0])]
    device = torch.device("cuda")
    found = batches(missing, device)
    assert sorted(map(id, (c for batch in found for c in batch))) == sorted(map(id, missing))
    assert found[0] == panel.lobsters
    assert all(len({type(c) for c in batch}) == 1 for batch in found)
    retrained = [b for b in found if isinstance(b[0], Retraining) and b[0].epochs == 40]
    assert [len(b) for b in retrained] == [17]  # four arms at four points, and the dense one
    assert found[-1] == (missing[-1],)
    assert [len(b) for b in batches(missing, CPU)] == [1] * len(missing)

    begun = tuple(map(key, retrained[0][3:5]))
    again = batches(missing, device, [begun, ("gone", begun[0])])
    assert retrained[0][3:5] in again
    assert sorted(len(b) for b in again if isinstance(b[0], Retraining)) == [1, 2, 15]


def test_a_batch_is_no_larger_than_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOGETHER, "lenet-300", 25)
    panel = scales.figure_1a("paper")
    found = batches([panel.dense, *panel.retrainings([1.0, 0.5])], torch.device("cuda"))
    assert [len(batch) for batch in found] == [2, 2, 1]


def test_a_batch_of_several_runs_is_made_once_each_an_artefact_of_its_own(store: Store) -> None:
    panel = scales.figure_1a("smoke")
    configs = (
        replace(panel.dense, epochs=2),
        replace(panel.dense, epochs=2, replicas=(7,)),
    )
    with pytest.raises(OutOfTime):
        compute_batch(configs, store, CPU, deadline=0.0)
    assert store.begun() == [tuple(map(key, configs))]
    with store.lock(configs[1]):
        assert not compute_batch(configs, store, CPU, wait=False)
    assert compute_batch(configs, store, CPU)
    assert store.begun() == []
    assert not any(store.work(config).exists() for config in configs)
    for config in configs:
        artefact = store.load(config)
        check_run(artefact, KINDS, store)
        assert artefact.provenance["together"] == 2
        alone = compute(config, Store(store.root / "alone"), CPU)
        pd.testing.assert_frame_equal(artefact.table("history"), alone.table("history"), rtol=1e-3)
