"""The run store: keys, whole artefacts or none, damage, killed processes, full disks."""

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from problems import compute, make_one
from torch import nn

from psplib.core import files
from psplib.core.artefact import Artefact, Parts, open_artefact
from psplib.core.config import canonical, key, setting
from psplib.core.errors import PsplibError
from psplib.experiments import scales
from psplib.nn.data import Data
from psplib.nn.models import build
from psplib.pruning import lobster
from psplib.pruning.lobster import Lobster, points_with_weights
from psplib.pruning.retraining import Retraining
from psplib.runs.store import Store
from psplib.training.fit import Checkpoint
from psplib.training.trainer import evaluate

CPU = torch.device("cpu")
CONFIG = Lobster("lenet-300", "digits", 0)
Make = Callable[[Checkpoint], tuple[Parts, Data]]


@pytest.fixture
def make(tiny: Data) -> Make:
    """A run of a small table and 40 kB of tensors."""
    table = pd.DataFrame({"epoch": [1, 2], "loss": [0.1 + 0.2, 1 / 3], "units": ["all", "3-2"]})
    tensors = {"weights": torch.arange(10_000.0)}
    return lambda checkpoint: ({"table": table, "best": tensors}, tiny)


def forbidden(checkpoint: Checkpoint) -> tuple[Parts, Data]:
    pytest.fail("the run was made again")


def leftovers(store: Store) -> list[str]:
    """Files of the store that are neither in a finished run nor a lock nor work to go on from."""
    kept = {"checkpoint.safetensors", "progress.json"}
    return [
        str(p)
        for p in (store.root / ".work").rglob("*")
        if p.is_file() and p.suffix != ".lock" and p.name not in kept
    ]


@dataclass(frozen=True)
class Inner:
    name: str
    rate: float


@dataclass(frozen=True)
class Outer:
    seeds: tuple[int, ...]
    inner: Inner
    on: bool = True


def test_a_configuration_is_json_with_its_type_and_sorted_keys() -> None:
    text = """{
 "inner": {
  "name": "a",
  "rate": 0.1,
  "type": "Inner"
 },
 "on": true,
 "seeds": [
  1,
  2
 ],
 "type": "Outer"
}
"""
    config = Outer((1, 2), Inner("a", 0.1))
    assert canonical(config) == text
    assert key(config) == hashlib.sha256(text.encode()).hexdigest()[:16]


def other(value: Any) -> Any:
    """Another value of the same kind, as near as can be."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return float(np.nextafter(value, 1))
        case str():
            return {
                "rewound": "dense",
                "lenet-300": "lenet-5",
                "digits": "mnist",
                "float32": "tf32",
            }[value]
        case tuple():
            return (*value, 0.5)
        case None:
            return 100
    return replace(value, seed=value.seed + 1)


@pytest.mark.parametrize("config", [CONFIG, Retraining(CONFIG, 1, "rewound", (0, 1))], ids=repr)
def test_the_key_depends_on_every_field(config: Any) -> None:
    changed = [
        replace(config, **{f.name: other(getattr(config, f.name))})
        for f in dataclasses.fields(config)
    ]
    assert len({key(c) for c in [config, *changed]}) == 1 + len(changed)
    assert key(replace(config)) == key(config)


def test_a_field_that_was_added_changes_no_key_of_before() -> None:
    @dataclass(frozen=True)
    class Later:
        rate: float = setting("ours", "")
        decay: float = setting("ours", "", default=0.0, added=True)

    before = '{\n "rate": 0.1,\n "type": "Later"\n}\n'
    assert canonical(Later(0.1)) == before
    assert canonical(Later(0.1, 0.5)) == before.replace("{\n", '{\n "decay": 0.5,\n')


def test_the_published_runs_are_those_of_their_configurations() -> None:
    found = []
    for path in (Path(__file__).parents[2] / "results" / "lobster").glob("*/config.json"):
        fields = json.loads(path.read_text())
        found.append(key(Lobster(**{k: v for k, v in fields.items() if k != "type"})))
        assert found[-1] == path.parent.name
    assert found


def test_configurations_of_all_scales_and_arms_have_keys_of_their_own() -> None:
    panels = [scales.figure_1a(scale, seed) for scale in scales.SCALES for seed in (0, 1)]
    configs = {
        config
        for panel in panels
        for config in (*panel.lobsters, panel.dense, *panel.retrainings([1.0, 0.5, 0.1]))
    }
    assert len({key(c) for c in configs}) == len(configs) > 40


def test_a_run_is_made_once_and_loaded_from_then_on(store: Store, make: Make) -> None:
    assert not store.has(CONFIG)
    with pytest.raises(PsplibError, match=key(CONFIG)):
        store.load(CONFIG)
    made = make_one(store, CONFIG, make)
    assert store.has(CONFIG)
    assert made.folder == store.root / "lobster" / key(CONFIG)
    assert list(store.all()) == [made.folder]
    again = make_one(store, CONFIG, forbidden)
    assert again == made
    fields = {k: v for k, v in again.config.items() if k != "type"}
    assert Lobster(**fields) == CONFIG
    assert again.table("table")["units"].tolist() == ["all", "3-2"]
    assert not store.work(CONFIG).exists()
    assert not store.running(CONFIG)


def test_provenance_says_what_made_the_run_and_no_folder_of_this_machine(
    store: Store, make: Make
) -> None:
    run = make_one(store, CONFIG, make)
    written = b"".join(path.read_bytes() for path in run.folder.iterdir())
    for folder in (store.root, Path.cwd(), sys.prefix):
        assert str(folder).encode() not in written
    facts = run.provenance
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == 1
    assert facts["data"] == {"name": "synthetic", "variant": "tiny", "sha256": "0" * 64}
    assert set(facts["files"]) == {"table.csv", "best.safetensors"}
    assert facts["seconds"] >= 0


def test_numbers_come_back_to_the_bit(store: Store, tiny: Data) -> None:
    bits = np.random.default_rng(0).integers(0, 2**64, 5000, dtype=np.uint64)
    special = [0.0, -0.0, 5e-324, -2.2e-308, 1.7976931348623157e308, np.inf, -np.inf, 0.1]
    doubles = np.concatenate([special, bits.view(np.float64)])
    doubles = doubles[~np.isnan(doubles)]
    table = pd.DataFrame({"x": doubles, "n": np.arange(len(doubles))})
    table["sometimes"] = table["x"].where(table["n"] % 2 == 0)
    tensors = {
        "any bits, NaN too": torch.from_numpy(bits.view(np.float32).copy()),
        "mask": torch.from_numpy(bits % 2 == 0),
        "column": torch.arange(12.0).view(3, 4)[:, 1],
    }
    make_one(store, CONFIG, lambda _: ({"table": table, "tensors": tensors}, tiny))
    artefact = store.load(CONFIG)
    found = artefact.table("table")
    assert found["x"].to_numpy().tobytes() == doubles.tobytes()
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    for name, tensor in artefact.tensors("tensors").items():
        assert tensor.dtype == tensors[name].dtype
        assert tensor.numpy().tobytes() == np.ascontiguousarray(tensors[name]).tobytes()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def read(artefact: Artefact) -> None:
    artefact.table("table")
    artefact.tensors("best")


def refused(store: Store, *named: str) -> None:
    """The run is used neither where it is loaded nor where it is computed; the sentence names what
    is wrong, and nobody is told to delete a run."""
    for use in (
        lambda: read(store.load(CONFIG)),
        lambda: read(make_one(store, CONFIG, forbidden)),
        lambda: store.load(CONFIG).check_digests(),
    ):
        with pytest.raises(PsplibError) as caught:
            use()
        for part in (*named, key(CONFIG)):
            assert part in str(caught.value)
        assert str(caught.value).count("\n") == 0
        assert "remove" not in str(caught.value)
        assert "delete" not in str(caught.value)


@pytest.mark.parametrize("damage", [flip, shorten, Path.unlink, replace_by_folder])
@pytest.mark.parametrize("name", ["table.csv", "best.safetensors", "config.json"])
def test_a_damaged_file_is_refused_by_name_and_never_used(
    name: str, damage: Callable[[Path], None], store: Store, make: Make
) -> None:
    folder = make_one(store, CONFIG, make).folder
    damage(folder / name)
    refused(store, name)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"files": []}', b'{"files": {}}', b"\xff\xfe"], ids=repr
)
def test_a_damaged_provenance_is_refused(content: bytes, store: Store, make: Make) -> None:
    folder = make_one(store, CONFIG, make).folder
    (folder / "provenance.json").write_bytes(content)
    refused(store)


def test_a_file_is_hashed_once_a_process_and_again_when_it_has_changed(
    store: Store, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = make_one(store, CONFIG, make)
    hashed: list[str] = []
    sha256 = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: (hashed.append(path.name), sha256(path))[1])
    for _ in range(2):
        store.load(CONFIG).table("table")
    assert hashed == ["table.csv"], "what is not read is not hashed"
    artefact.check_digests()
    assert sorted(hashed) == ["best.safetensors", "table.csv", "table.csv"], (
        "but verify trusts none"
    )
    flip(artefact.folder / "table.csv")
    with pytest.raises(PsplibError, match=r"table\.csv is not what its run wrote .*git checkout"):
        artefact.table("table")


@pytest.mark.parametrize("litter", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_what_file_managers_leave_is_neither_refused_nor_published(
    litter: str, store: Store, make: Make
) -> None:
    artefact = make_one(store, CONFIG, make)
    (artefact.folder / litter).write_text("icons")
    other = Store(store.root.parent / "results")
    other.adopt(store.load(CONFIG))
    assert sorted(p.name for p in other.folder(CONFIG).iterdir()) == artefact.names


def test_a_foreign_file_is_refused_by_name(store: Store, make: Make) -> None:
    folder = make_one(store, CONFIG, make).folder
    (folder / "other.csv").write_text("epoch\n")
    refused(store, "other.csv")
    (folder / "other.csv").unlink()
    assert store.load(CONFIG).folder == folder


def test_a_renamed_folder_is_refused(store: Store, make: Make) -> None:
    folder = make_one(store, replace(CONFIG, seed=1), make).folder
    folder.rename(store.folder(CONFIG))
    refused(store)


@pytest.mark.parametrize("squatter", [Path.touch, Path.mkdir], ids=["a file", "an empty folder"])
def test_what_is_no_run_is_refused(squatter: Callable[[Path], None], store: Store) -> None:
    store.folder(CONFIG).parent.mkdir(parents=True)
    squatter(store.folder(CONFIG))
    refused(store)


@pytest.mark.parametrize("place", ["the root", "the work"])
def test_where_a_file_is_in_the_way_of_a_store_there_is_one_sentence(
    place: str, store: Store, make: Make
) -> None:
    path = store.root if place == "the root" else store.work(CONFIG)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with pytest.raises(PsplibError, match=r"runs.* cannot be used: .+\."):
        make_one(store, CONFIG, make)


def test_a_failed_run_leaves_no_artefact_and_frees_its_place(store: Store, make: Make) -> None:
    def failing(checkpoint: Checkpoint) -> tuple[Parts, Data]:
        checkpoint.save({"weights": torch.ones(3)}, "halfway")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_one(store, CONFIG, failing)
    assert not store.has(CONFIG)
    assert not store.running(CONFIG)

    def going_on(checkpoint: Checkpoint) -> tuple[Parts, Data]:
        tensors, state = checkpoint.load()
        assert state == "halfway"
        assert torch.equal(tensors["weights"], torch.ones(3))
        return make(checkpoint)

    assert make_one(store, CONFIG, going_on) is not None


def test_progress_is_told_and_kept(store: Store, make: Make) -> None:
    told = []

    def telling(checkpoint: Checkpoint) -> tuple[Parts, Data]:
        checkpoint.report(3, 10, "epoch 3")
        found = store.progress(CONFIG)
        assert (found["done"], found["total"], found["note"]) == (3, 10, "epoch 3")
        return make(checkpoint)

    make_one(store, CONFIG, telling, lambda *facts: told.append(facts))
    assert told == [(3, 10, "epoch 3")]
    assert store.progress(CONFIG) is None


@pytest.mark.parametrize("size", [0, 20, 4096, 30_000])
def test_on_a_full_disk_a_file_is_as_it_was(size: int, tmp_path: Path, disk_of: Callable) -> None:
    path = tmp_path / "table.csv"
    files.write(path, b"old")
    with disk_of(size), pytest.raises(PsplibError, match=r"table\.csv could not be written: .+\."):
        files.write(path, b"new" * 20_000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    files.write(path, b"new" * 20_000)
    assert path.read_bytes() == b"new" * 20_000


@pytest.mark.parametrize("size", [50, 1000, 20_000])  # fails at the table, config.json, tensors
def test_on_a_full_disk_a_run_is_not_there_until_there_is_room(
    size: int, store: Store, make: Make, disk_of: Callable
) -> None:
    with disk_of(size), pytest.raises(PsplibError, match="could not be written: File too large"):
        make_one(store, CONFIG, make)
    assert not store.has(CONFIG)
    assert [p for p in leftovers(store) if p.endswith(".part")] == []
    assert make_one(store, CONFIG, make) == store.load(CONFIG)
    assert leftovers(store) == []


def test_a_checkpoint_on_a_full_disk_stops_the_run_and_leaves_the_last_one(
    tiny: Data, tmp_path: Path, disk_of: Callable
) -> None:
    config = replace(CONFIG, batch_size=20, max_epochs=6)
    (whole,) = lobster.prune_gradually([config], tiny)
    checkpoint = Checkpoint(tmp_path, interval=0.0)
    had: list[bool] = []
    disk = contextlib.ExitStack()

    def fill(*_: object) -> None:
        had.append(checkpoint.path.exists())
        if len(had) == 4:
            disk.enter_context(disk_of(100_000))

    checkpoint.report = fill
    with disk, pytest.raises(PsplibError, match=r"checkpoint\.safetensors could not be written"):
        lobster.prune_gradually([config], tiny, checkpoint)
    assert had == [False, True, True, True]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    (resumed,) = lobster.prune_gradually([config], tiny, Checkpoint(tmp_path))
    pd.testing.assert_frame_equal(resumed.history, whole.history, check_exact=True)
    assert torch.equal(resumed.weights, whole.weights)


def test_of_two_processes_that_ask_for_one_run_one_makes_it_and_the_other_waits(
    store: Store, make: Make, tmp_path: Path
) -> None:
    fork = multiprocessing.get_context("fork")
    together, started, go_on = fork.Barrier(2), fork.Event(), fork.Event()
    log = tmp_path / "made"

    def slow(checkpoint: Checkpoint) -> tuple[Parts, Data]:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        started.set()
        assert go_on.wait(30)
        return make(checkpoint)

    def ask(answer: Path) -> None:
        together.wait(30)
        artefact = make_one(store, CONFIG, slow)
        answer.write_text(str(artefact.table("table")["loss"].tolist()))

    answers = [tmp_path / "one", tmp_path / "other"]
    processes = [fork.Process(target=ask, args=(answer,)) for answer in answers]
    for process in processes:
        process.start()
    assert started.wait(30)
    # Who does not wait is told so, and who asks sees that it is running.
    assert make_one(store, CONFIG, forbidden, wait=False) is None
    assert store.running(CONFIG)
    time.sleep(0.3)
    assert [process.exitcode for process in processes] == [None, None]
    go_on.set()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(log.read_text().split()) == 1
    assert [a.read_text() for a in answers] == [str([0.1 + 0.2, 1 / 3])] * 2
    assert not store.running(CONFIG)


DRIVER = """
import functools, sys
from pathlib import Path
import torch
from psplib.runs import store as runs
from psplib.experiments import scales
from psplib.runs.run import compute_batch

runs.Checkpoint = functools.partial(runs.Checkpoint, interval=0.0)
store, panel = runs.Store(Path(sys.argv[1])), scales.figure_1a("smoke")
for config in (panel.lobsters[0], panel.retrained):
    tell = lambda done, total, note: print(type(config).__name__, note, flush=True)
    compute_batch((config,), store, torch.device("cpu"), tell)
"""


def killed(root: Path, kind: str, note: str, times: int) -> None:
    """Make the smoke runs in a process that is killed when it has told something so many times."""
    command = [sys.executable, "-c", DRIVER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            times -= line.startswith(kind) and note in line
            if not times:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


def test_runs_killed_at_any_moment_end_with_the_bits_of_runs_that_were_not(
    smoke: Store, store: Store
) -> None:
    panel = scales.figure_1a("smoke")
    configs = (panel.lobsters[0], panel.retrained)
    killed(store.root, "Lobster", "", 20)
    assert not store.has(configs[0])
    assert (store.work(configs[0]) / "checkpoint.safetensors").exists()
    assert not store.running(configs[0])  # the lock died with its holder
    killed(store.root, "Retraining", "replica 2", 5)
    assert store.has(configs[0])
    assert not store.has(configs[1])
    told: list[str] = []
    for config in configs:
        compute(config, store, CPU, lambda *facts: told.append(facts[2]))
    assert 0 < len(told) < 10  # of 20 epochs: it went on where it was killed
    for config in configs:
        one, other = smoke.load(config), store.load(config)
        names = sorted(p.name for p in one.folder.iterdir())
        assert names == sorted(p.name for p in other.folder.iterdir())
        for name in set(names) - {"provenance.json"}:
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
        assert one.provenance["files"] == other.provenance["files"]
    assert leftovers(store) == []


def test_the_stored_weights_of_a_gradual_run_score_what_its_table_says(
    smoke: Store, digits: Data
) -> None:
    config = scales.figure_1a("smoke").lobsters[0]
    points = smoke.load(config).table("points")
    model = build("lenet-300", 1)
    kept = points_with_weights(points["kept"].tolist())
    assert len(kept) > 1
    assert kept[-1] == len(points) - 1
    for k, row in points.iterrows():
        mask = config.mask(k, smoke)
        assert mask.kept == row["kept"]
        if k not in kept:
            with pytest.raises(PsplibError, match=f"kept no weights of point {k}, at .* sparsity"):
                config.weights(k, smoke)
            continue
        weights = config.weights(k, smoke)
        assert torch.equal(weights != 0, mask.flat)
        nn.utils.vector_to_parameters(weights, model.parameters())
        score = evaluate(model, digits.test)
        assert score.error == row["test_error"]
        assert score.loss == pytest.approx(row["test_loss"], rel=1e-5)
    with pytest.raises(PsplibError, match=rf"has {len(points)} points; point {len(points)} was"):
        config.mask(len(points), smoke)


def test_an_artefact_can_be_opened_wherever_its_folder_was_copied(
    store: Store, make: Make, tmp_path: Path
) -> None:
    folder = make_one(store, CONFIG, make).folder
    copy = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, copy)
    assert open_artefact(copy) == Artefact(copy, *dataclasses.astuple(store.load(CONFIG))[1:])
