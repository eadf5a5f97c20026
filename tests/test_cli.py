"""The command line as its users meet it: sentences, exit codes, real runs at smoke scale."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

from psplib.__main__ import cli
from psplib.core.files import sha256
from psplib.experiments import scales
from psplib.runs.store import Store

ROOT = Path(__file__).parent.parent


Psplib = Callable[..., Result]
PUBLISH = ("publish", "--scale", "smoke", "--only", "figure_1a")


@pytest.fixture(scope="module")
def published(psplib: Psplib, smoke: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("published") / "results"
    done = psplib(*PUBLISH, runs=smoke.root, results=results)
    assert "15 runs published, 0 were there already" in done.stdout
    return results


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("reproduce", "--scale", "huge"), "scale must be one of smoke, quick, paper; got 'huge'."),
        (
            ("reproduce", "--only", "figure_9"),
            "experiment must be one of figure_1a, minima, figure_1b,",
        ),
        (("reproduce", "--device", "tpu"), "device must be one of auto, cpu, cuda; got 'tpu'."),
        (("reproduce", "--jobs", "0"), "jobs must be a whole number of at least 1; got 0."),
        (("reproduce", "--seed", "-1"), "seed must be a whole number of at least 0; got -1."),
        (("reproduce", "--budget", "-3"), "budget must be a positive number of minutes; got -3."),
        (("reproduce", "--budget", "nan"), "budget must be a positive number of minutes; got nan."),
        (("reproduce", "--budget", "inf"), "budget must be a positive number of minutes; got inf."),
        (("reproduce", "--jobs", "500"), "jobs must be at most "),
        (("book", "--scale", "huge"), "scale must be one of published, smoke, quick, paper; got"),
        (("book", "--device", "tpu"), "device must be one of auto, cpu, cuda; got 'tpu'."),
        (("publish", "--scale", "published"), "scale must be one of smoke, quick, paper; got"),
    ],
)
def test_a_bad_argument_gets_one_sentence_and_nothing_is_computed(
    psplib: Psplib, words: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    done = psplib(*words, runs=tmp_path / "runs")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"psplib: {sentence}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_absent_data_are_one_sentence(
    psplib: Psplib, jobs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSPLIB_DATA", str(tmp_path / "empty"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = psplib("reproduce", "--scale", "quick", "--jobs", jobs, runs=tmp_path / "runs")
    assert done.exit_code == 2
    assert done.stderr.count("mnist was not found") == 1
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith("psplib: The data set mnist was not found (looked for ")
    assert sentence.endswith("or call psplib.load_data('mnist', download=True) once.")
    assert not [*Store(tmp_path / "runs").all()]


def test_a_real_process_says_the_same_and_ends_with_the_same_codes(
    published: Path, tmp_path: Path
) -> None:
    """The other tests call the command line in their own process."""

    def called(*words: str, results: Path) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PSPLIB_RESULTS": str(results)}
        command = [sys.executable, "-m", "psplib", *words]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True
        )

    done = called("verify", results=published)
    assert done.returncode == 0
    assert done.stdout == f"15 of 15 runs are whole ({published}).\n"
    assert done.stderr == ""
    results = tmp_path / "results"
    shutil.copytree(published, results)
    next((results / "lobster").iterdir()).joinpath("points.csv").unlink()
    done = called("verify", results=results)
    assert done.returncode == 1
    assert "points.csv is missing" in done.stderr
    done = called("reproduce", "--scale", "huge", results=results)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "psplib: scale must be one of smoke, quick, paper; got 'huge'.\n"


def python(*words: str, folder: Path, **environment: str | None) -> subprocess.CompletedProcess:
    """`python -m psplib` with variables set, or taken away where they are None."""
    given = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    kept = {name: value for name, value in given.items() if value is not None}
    command = ["sh", "-c", f'"$0" -m psplib {" ".join(words)}', sys.executable]
    return subprocess.run(command, env=kept, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "where", "code"),
    [
        ("status", ">/dev/full", 2),
        ("--help", ">/dev/full", 2),
        ("--help", ">/dev/full 2>&1", 2),
        ("--help", ">&-", 0),
        ("reproduce --scale smoke --only figure_1a --budget 0.001 --jobs 1", ">&- 2>&-", 0),
        pytest.param(
            "reproduce --scale smoke --only figure_1a --budget 0.001 --jobs 2",
            ">&- 2>&- <&-",
            0,
            marks=pytest.mark.thorough,
        ),
        ("status", "| true", 0),
    ],
)
def test_where_nothing_can_be_said_nothing_is_raised(
    words: str, where: str, code: int, tmp_path: Path
) -> None:
    done = python(words, where, folder=tmp_path, PSPLIB_RUNS=str(tmp_path / "runs"))
    assert done.returncode == code
    said = {"", "psplib: The output could not be used: No space left on device.\n"}
    assert done.stderr in said
    assert done.stdout == ""


@pytest.mark.slow
def test_a_name_in_another_encoding_is_said_as_it_can_be(tmp_path: Path) -> None:
    runs, coding = str(tmp_path / "日"), "latin-1:strict"
    done = python("status", folder=tmp_path, PSPLIB_RUNS=runs, PYTHONIOENCODING=coding)
    assert done.returncode == 0, done.stderr
    assert f"Runs: {tmp_path}/\\u65e5." in done.stdout


@pytest.mark.slow
def test_without_a_home_there_is_one_sentence(tmp_path: Path) -> None:
    """The user of the process has no entry, and its home is not named."""
    code = (
        "import os, pathlib, sys; sys.argv = 'psplib reproduce --scale quick --jobs 1'.split();"
        "pathlib.Path.home = classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError('no')));"
        "import psplib.__main__ as main; main.main()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PSPLIB_RUNS": str(tmp_path / "runs")}
    for name in ("HOME", "XDG_CACHE_HOME", "PSPLIB_DATA"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "psplib: There is no home folder; set HOME."
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="nothing else bounds the memory of a process")
@pytest.mark.parametrize("words", ["--jobs 1", "--jobs 2"])
def test_too_little_memory_for_torch_is_one_sentence(words: str, tmp_path: Path) -> None:
    asked = f"ulimit -v 500000; exec {sys.executable} -m psplib reproduce --scale smoke {words}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PSPLIB_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(["sh", "-c", asked], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("psplib: There is too little memory (ImportError: ")
    assert done.stderr.count("\n") == 1


def test_too_little_memory_for_a_tensor_is_one_sentence_and_other_faults_are_none(
    psplib: Psplib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("reproduce", "--scale", "smoke", "--jobs", "1")
    for make in (np.empty, torch.empty):
        monkeypatch.setattr("psplib.experiments.sweep.run", lambda *_, make=make: make(2**59))
        done = psplib(*words, runs=tmp_path / "runs")
        assert done.exit_code == 2
        assert done.stderr.startswith("psplib: There is too little memory (")
        assert done.stderr.count("\n") == 1
    monkeypatch.setattr("psplib.experiments.sweep.run", lambda *_: torch.eye(2) @ torch.eye(3))
    assert isinstance(psplib(*words, runs=tmp_path / "runs").exception, RuntimeError)


LONG = "a" * 300


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (("pack", "--scale", "smoke", f"{LONG}.tar"), {}),
        (("pack", "--scale", "smoke", "/proc/host.tar"), {}),
        (("publish", f"{LONG}.tar"), {}),
        (("verify", f"{LONG}.tar"), {}),
        (("verify", "--local"), {"PSPLIB_RUNS": f"/{LONG}"}),
        (("verify",), {"PSPLIB_RESULTS": f"/{LONG}"}),
        (("status",), {"PSPLIB_RUNS": f"/{LONG}"}),
        (("reproduce", "--scale", "smoke"), {"PSPLIB_RUNS": f"/{LONG}"}),
        (("reproduce", "--scale", LONG), {}),
        (("reproduce", "--only", LONG), {}),
    ],
    ids=lambda given: " ".join(given).replace(LONG, "LONG") if isinstance(given, tuple) else "",
)
def test_a_name_of_300_characters_or_a_read_only_place_is_one_sentence(
    words: tuple[str, ...],
    variables: dict[str, str],
    smoke: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"PSPLIB_RUNS": str(smoke.root), "PSPLIB_RESULTS": str(tmp_path)} | variables
    done = CliRunner().invoke(cli, list(words), env=environment)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("psplib: ")
    assert done.stderr.count("\n") == 1
    assert not [*tmp_path.iterdir()]


@pytest.mark.thorough
def test_interrupted_side_by_side_runs_go_on_to_the_same_bits(
    psplib: Psplib, smoke: Store, tmp_path: Path
) -> None:
    runs = Store(tmp_path / "runs")
    reproduce = ("reproduce", "--scale", "smoke", "--only", "figure_1a")
    words = [sys.executable, "-m", "psplib", *reproduce, "--jobs", "2"]
    # While somebody else has one of the runs, the others cannot be complete before Ctrl-C.
    with runs.lock(scales.figure_1a("smoke").dense):
        process = subprocess.Popen(
            words,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PSPLIB_RUNS": str(runs.root)},
            start_new_session=True,
            # A background job of a shell, which the tests may be, ignores Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while len([*runs.all()]) < 2 and process.poll() is None:
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = [int(p) for p in children.read_text().split()] if children.exists() else []
        os.kill(process.pid, signal.SIGINT)  # of itself alone; a terminal tells the workers, too
        _, errors = process.communicate(timeout=60)
    assert not any(Path(f"/proc/{worker}/exe").exists() for worker in workers)
    assert process.returncode == 130
    message = "psplib: interrupted. Nothing is lost: the same command goes on from here."
    assert errors.count(message) == 1
    assert "Traceback" not in errors
    first = [*runs.all()]
    assert 2 <= len(first) < 15
    assert psplib("verify", "--local", runs=runs.root).exit_code == 0

    done = psplib(*reproduce, "--jobs", "1", runs=runs.root)
    assert done.exit_code == 0, done.stderr
    assert "is complete" in done.stdout
    ours = {p.relative_to(runs.root): p.read_bytes() for p in files(runs)}
    theirs = {p.relative_to(smoke.root): p.read_bytes() for p in files(smoke)}
    assert ours == theirs


def files(store: Store) -> list[Path]:
    runs = map(store.folder, scales.figure_1a("smoke").runs(store))
    found = [p for run in runs for p in run.iterdir() if p.name != "provenance.json"]
    assert len(found) == 5 + 13 * 4 + 2
    return found


@pytest.mark.slow
def test_a_budget_stops_in_time_and_keeps_what_is_done(psplib: Psplib, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    words = ("reproduce", "--scale", "smoke", "--budget", "0.04", "--jobs", "1")
    start = time.monotonic()
    done = psplib(*words, runs=store.root)
    assert time.monotonic() - start < 30
    assert done.exit_code == 0
    assert "is not complete: the same command goes on from here" in done.stdout
    panel = scales.figure_1a("smoke")
    assert any(store.work(c).exists() or store.has(c) for c in panel.runs(store))


@pytest.mark.thorough
def test_a_budget_stops_side_by_side_workers_in_time_too(psplib: Psplib, tmp_path: Path) -> None:
    runs = Store(tmp_path / "runs")
    words = ("reproduce", "--scale", "smoke", "--budget", "0.15", "--jobs", "2")
    words += ("--only", "figure_1a", "--only", "minima")
    panels = [scales.experiment(name, "smoke") for name in ("figure_1a", "minima")]

    def begun() -> bool:
        first = [panel.lobsters[0] for panel in panels]
        return all(runs.work(run).exists() or runs.has(run) for run in first)

    # While somebody else has one of the runs, the others cannot be complete before the deadline.
    with runs.lock(scales.figure_1a("smoke").dense):
        while not begun():  # once, but where the workers wait for a busy machine
            start = time.monotonic()
            done = psplib(*words, runs=runs.root)
            assert 9 < time.monotonic() - start < 60
    assert done.exit_code == 0, done.stderr
    assert "figure_1a at smoke scale is not complete: the same command goes on" in done.stdout
    assert not any(runs.running(c) for panel in panels for c in panel.runs(runs))
    # Where the machine is busy, nothing may be finished yet, and nothing to verify is 2.
    is_any = any(True for _ in runs.all())
    assert psplib("verify", "--local", runs=runs.root).exit_code == (0 if is_any else 2)


def test_status_counts_what_is_done_and_what_is_missing(
    psplib: Psplib, smoke: Store, tmp_path: Path
) -> None:
    line = next(
        line for line in psplib("status", runs=smoke.root).stdout.splitlines() if "smoke" in line
    )
    assert line.split()[:6] == ["figure_1a", "smoke", "15", "0", "0", "0"]
    fresh = psplib("status", runs=tmp_path / "none").stdout.splitlines()
    line = next(line for line in fresh if "smoke" in line)
    assert line.split()[:6] == ["figure_1a", "smoke", "0", "0", "2", "0"]
    assert ">" in line, "the cost of what is not known yet is open"


def test_publishing_again_changes_nothing(psplib: Psplib, smoke: Store, published: Path) -> None:
    done = psplib(*PUBLISH, runs=smoke.root, results=published)
    assert "0 runs published, 15 were there already" in done.stdout
    assert not [*(published / ".work").iterdir()]


def test_verify_accepts_what_was_published(psplib: Psplib, published: Path) -> None:
    done = psplib("verify", runs=published.parent / "runs", results=published)
    assert done.exit_code == 0
    assert "15 of 15 runs are whole" in done.stdout


@pytest.mark.parametrize("victim", ["config.json", "replicas.csv", "best.safetensors"])
def test_verify_names_what_was_tampered_with(
    psplib: Psplib, published: Path, tmp_path: Path, victim: str
) -> None:
    results = tmp_path / "results"
    shutil.copytree(published, results)
    folder = sorted((results / "retraining").iterdir())[3]
    content = bytearray((folder / victim).read_bytes())
    content[-3] ^= 1
    (folder / victim).write_bytes(content)
    done = psplib("verify", runs=tmp_path / "runs", results=results)
    assert done.exit_code == 1
    assert folder.name in done.stderr
    assert "14 of 15 runs are whole" in done.stdout


def test_analyses_are_verified_and_counted_too(
    psplib: Psplib, smoke_minima: Store, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    words = ("publish", "--scale", "smoke", "--only", "minima")
    assert "15 runs published" in psplib(*words, runs=smoke_minima.root, results=results).stdout
    assert "15 of 15 runs are whole" in psplib("verify", runs=tmp_path, results=results).stdout
    status = psplib("status", runs=smoke_minima.root, results=results).stdout.splitlines()
    line = next(line for line in status if line.split()[:2] == ["minima", "smoke"])
    assert line.split()[2:6] == ["15", "0", "0", "15"]
    for kind, table, column in (
        ("census", "networks", "replica"),
        ("map", "points", "alpha"),
        ("curvature", "points", "alpha"),
        ("profile", "neurons", "replica"),
        ("selectivity", "layers", "replica"),
    ):
        folder = next((results / kind).iterdir())
        frame = pd.read_csv(folder / f"{table}.csv")
        frame.loc[0, column] += 1
        frame.to_csv(folder / f"{table}.csv", index=False)
        facts = json.loads((folder / "provenance.json").read_text())
        facts["files"][f"{table}.csv"] = sha256(folder / f"{table}.csv")
        (folder / "provenance.json").write_text(json.dumps(facts))
        found = psplib("verify", runs=tmp_path, results=results)
        assert f"{folder}: the table of {table} does not belong" in found.stderr


def test_verify_finds_a_table_of_another_configuration(
    psplib: Psplib, published: Path, tmp_path: Path
) -> None:
    """Digests alone would pass: the table and its digest are moved together."""
    results = tmp_path / "results"
    shutil.copytree(published, results)
    panel, store = scales.figure_1a("smoke"), Store(results)
    first, last = (store.folder(c) for c in panel.retrainings([1.0, 0.5, 0.1, 0.05])[:2])
    for name in ("provenance.json", "replicas.csv", "history.csv", "best.safetensors"):
        shutil.copy(first / name, last / name)
    done = psplib("verify", runs=tmp_path / "runs", results=results)
    assert done.exit_code == 1
    assert f"{last}: the number of survivors does not belong to its configuration." in done.stderr
