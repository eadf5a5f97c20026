"""Publishing is all or nothing; tars are bounded; what killed processes leave is swept."""

import contextlib
import gzip
import json
import multiprocessing
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from psplib.core import files
from psplib.core.artefact import Artefact, open_artefact
from psplib.core.errors import PsplibError
from psplib.experiments.kinds import KINDS
from psplib.runs.archive import MOST_FILES, pack_runs, unpack_runs
from psplib.runs.store import Store

Psplib = Callable[..., Result]
RESULTS = Store(Path(__file__).parents[2] / "results")


@pytest.fixture(scope="module")
def small() -> list[Artefact]:
    """The four smallest published runs."""
    size = {f: sum(p.stat().st_size for p in f.iterdir()) for f in RESULTS.all()}
    return [open_artefact(f) for f in sorted(size, key=lambda f: size[f])[:4]]


@pytest.fixture
def tar(small: list[Artefact], tmp_path: Path) -> Path:
    pack_runs(small, tmp_path / "host.tar")
    return tmp_path / "host.tar"


def contents(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


@pytest.mark.parametrize("share", [0, 0.2, 0.9])
def test_on_a_full_disk_nothing_is_published(
    share: float, tar: Path, small: list[Artefact], tmp_path: Path, disk_of: Callable
) -> None:
    results = tmp_path / "results"
    size = int(share * max(p.stat().st_size for a in small for p in a.folder.iterdir()))
    with unpack_runs(tar, KINDS) as store:
        found = [open_artefact(folder) for folder in store.all()]
        with disk_of(size), pytest.raises(PsplibError, match=r"no run was copied|cannot be used"):
            Store(results).adopt(*found)
        assert contents(results) == []
        assert Store(results).adopt(*found) == 4
    assert len([*Store(results).all()]) == 4


def test_where_one_cannot_be_renamed_none_is_published(
    small: list[Artefact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's error may have no words."""
    rename, left = Path.rename, iter(range(3))

    def failing(path: Path, target: Path) -> Path:
        if next(left, None) == 2:
            raise OSError
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(PsplibError, match=r"could not be written: OSError; no run was copied\."):
        Store(tmp_path).adopt(*small)
    assert contents(tmp_path) == []


def test_a_run_that_is_there_with_another_content_is_named_and_nothing_is_published(
    psplib: Psplib, tar: Path, small: list[Artefact], tmp_path: Path
) -> None:
    results = Store(tmp_path / "results")
    results.adopt(small[2])
    folder = results.root / small[2].folder.relative_to(RESULTS.root)
    table = next(folder.glob("*.csv"))
    table.write_bytes(table.read_bytes().replace(b"1", b"2", 1))
    facts = json.loads((folder / "provenance.json").read_bytes())
    facts["files"][table.name] = files.sha256(table)
    (folder / "provenance.json").write_text(json.dumps(facts))
    before = contents(results.root)
    done = psplib("publish", tar, runs=tmp_path / "runs", results=results.root)
    assert done.exit_code == 2
    assert f"{folder} is there already with another content ({table.name}), so no" in done.stderr
    assert contents(results.root) == before


def test_two_that_publish_the_same_at_once_both_succeed(
    small: list[Artefact], tmp_path: Path
) -> None:
    fork = multiprocessing.get_context("fork")
    for number in range(5):
        results, together = Store(tmp_path / str(number)), fork.Barrier(2)

        def publish(results: Store = results, together: object = together) -> None:
            together.wait(30)
            results.adopt(*small)

        both = [fork.Process(target=publish) for _ in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join(30)
        assert [process.exitcode for process in both] == [0, 0]
        assert len([*results.all()]) == 4
        assert not [p for p in contents(results.root) if ".work" in p]


def refused(path: Path, sentence: str) -> None:
    start = time.process_time()
    with pytest.raises(PsplibError, match=sentence) as caught, unpack_runs(path, KINDS):
        pass
    assert str(caught.value).count("\n") == 0
    assert time.process_time() - start < 5


def name(number: int) -> str:
    return f"lobster/{number:016x}/points.csv"


@pytest.mark.parametrize("head", [b"", b"\0" * 1024], ids=["in a file", "after the end"])
def test_what_a_small_file_unpacks_to_is_bounded(head: bytes, tmp_path: Path) -> None:
    member = tarfile.TarInfo(name(0).replace("csv", "safetensors"))
    member.size = 2**28
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=1) as file:
        file.write(head or member.tobuf())
        for _ in range(256):
            file.write(bytes(2**20))
    size = (tmp_path / "bomb.tar.gz").stat().st_size
    assert size < 2**21
    refused(tmp_path / "bomb.tar.gz", "more bytes than runs have|has no end")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_no_header_is_read_whatever_size_it_says(kind: bytes, tmp_path: Path) -> None:
    member = tarfile.TarInfo("long")
    member.type, member.size = kind, 2**40
    (tmp_path / "long.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    refused(tmp_path / "long.tar", "which is not a file of a run")


def test_a_file_with_holes_is_no_file_of_a_run(tmp_path: Path) -> None:
    member = tarfile.TarInfo(name(0))
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 512
    (tmp_path / "sparse.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    refused(tmp_path / "sparse.tar", "which is not a file of a run")


def test_no_file_is_larger_than_runs_have(tmp_path: Path) -> None:
    member = tarfile.TarInfo(name(0))
    member.size = 2**27
    (tmp_path / "large.tar").write_bytes(member.tobuf() + bytes(2048))
    refused(tmp_path / "large.tar", "holds more bytes than runs have")


def test_there_are_no_more_files_than_runs_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psplib.runs.archive.MOST_FILES", 100)
    assert len([*RESULTS.all()]) * 6 < MOST_FILES
    headers = [tarfile.TarInfo(name(number)).tobuf() for number in range(101)]
    (tmp_path / "many.tar").write_bytes(b"".join(headers) + bytes(1024))
    refused(tmp_path / "many.tar", "holds more than 100 files; make several tars")


def test_published_runs_are_far_within_the_bounds(small: list[Artefact], tmp_path: Path) -> None:
    every = [open_artefact(folder) for folder in RESULTS.all() if folder.parent.name != "lobster"]
    pack_runs(every[::10] + small, tmp_path / "host.tar.gz")
    with gzip.open(tmp_path / "host.tar.gz") as file:
        unpacked = sum(len(part) for part in iter(lambda: file.read(2**20), b""))
    assert unpacked < 10 * (tmp_path / "host.tar.gz").stat().st_size


def orphan(action: Callable[[], object]) -> None:
    """A process that dies in the middle."""
    process = multiprocessing.get_context("fork").Process(target=action)
    process.start()
    process.join()
    assert process.exitcode == 9


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_has_is_not(
    tmp_path: Path, store: Store
) -> None:
    path = tmp_path / "table.csv"

    def die() -> None:
        with files.replacing(path) as file, files.scratch(tmp_path) as folder:
            file.write(b"half")
            (folder / "half").touch()
            os._exit(9)

    orphan(die)
    assert len(contents(tmp_path)) == 3
    with files.replacing(tmp_path / "other.csv") as file, files.scratch(tmp_path) as folder:
        file.write(b"whole")
        (folder / "mine").touch()
        assert not [p for p in contents(tmp_path) if "half" in p]
        files.write(path, b"whole")
        with files.replacing(tmp_path / "other.csv") as again:
            again.write(b"first")
        with files.scratch(tmp_path) as another:
            assert another != folder
        assert (folder / "mine").exists()
    assert contents(tmp_path) == ["other.csv", "table.csv"]
    assert (tmp_path / "other.csv").read_bytes() == b"whole"


def test_a_folder_that_cannot_be_removed_yet_goes_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some process of Ray may still write into it."""
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with files.scratch(tmp_path) as folder:
            pass
    assert folder.exists()
    with files.scratch(tmp_path) as another:
        assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [another.name]
    assert not [*tmp_path.iterdir()]


def test_work_on_runs_that_are_finished_is_swept_other_work_is_not(
    small: list[Artefact], store: Store
) -> None:
    store.adopt(small[0])
    done, begun = small[0].folder.name, "0" * 16
    for key in (done, begun):
        (store.root / ".work" / key / "whole").mkdir(parents=True)
    with store._lock(done, wait=False):
        store.sweep()
        assert (store.root / ".work" / done).exists()
    store.sweep()
    assert [p.name for p in (store.root / ".work").iterdir() if p.is_dir()] == [begun]
    together = store.root / ".work" / store.batch((done, begun)).name
    together.mkdir()
    (together / "batch.json").write_text(json.dumps([done, begun]))
    store.sweep()
    assert together.exists()


@pytest.mark.parametrize("content", ["[[]]", '{"done": 1}', "[" * 10**5, "null", '["a", []]', "x"])
def test_progress_that_cannot_be_read_is_none(content: str, store: Store) -> None:
    work = store.root / ".work" / ("0" * 16)
    work.mkdir(parents=True)
    for file in ("progress.json", "batch.json"):
        (work / file).write_text(content)
    assert store.begun() == []
    store.sweep()
    with contextlib.suppress(PsplibError):
        assert store.progress(None) is None


def test_a_commit_says_what_is_new_and_of_which_code(
    psplib: Psplib, tar: Path, tmp_path: Path
) -> None:
    root = tmp_path / "repository"
    root.mkdir()

    def git(*words: str) -> str:
        done = subprocess.run(
            ("git", "-C", str(root), *words), capture_output=True, text=True, check=True
        )
        return done.stdout

    words = ("publish", "--commit", tar)
    done = psplib(*words, runs=tmp_path / "runs", results=root / "results")
    assert done.exit_code == 2
    assert "is not the top of a git repository" in done.stderr
    git("init", "-q")
    git("config", "user.name", "Reader")
    git("config", "user.email", "reader@example.org")
    (root / "notes").write_text("mine")
    git("add", "notes")
    git("commit", "-q", "-m", "Begin")
    (root / "notes").write_text("not to be committed")
    done = psplib(*words, runs=tmp_path / "runs", results=root / "results")
    assert done.exit_code == 0, done.stderr
    assert "Publish 4 runs: " in done.stdout
    assert "not a commit of this repository" in git("log", "-1", "--format=%B")
    committed = git("show", "--name-only", "--format=").split()
    assert committed == [f"results/{p}" for p in contents(root / "results")]
    assert git("status", "--short").split() == ["M", "notes"]
    assert "nothing new to commit" in psplib(*words, runs=root, results=root / "results").stdout
    shutil.rmtree(root)
