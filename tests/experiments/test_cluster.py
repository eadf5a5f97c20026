"""The sweep on Ray: two worker processes on this machine, one of them killed in the middle."""

import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from psplib.__main__ import cli
from psplib.core import files
from psplib.core.config import key
from psplib.core.errors import PsplibError
from psplib.experiments import cluster, scales
from psplib.runs.store import Store

ROOT = Path(__file__).parents[2]
PANEL = scales.figure_1a("smoke")

DRIVER = """
import functools, os, sys
from psplib import __main__
from psplib.experiments import cluster

log = sys.argv.pop(1)

def watched(*arguments):
    # In a worker: save at every epoch, and write down what is begun and what is done.
    from psplib.core.config import key
    from psplib.experiments import cluster, sweep
    from psplib.runs import store
    from psplib.training.fit import Checkpoint
    store.Checkpoint = functools.partial(Checkpoint, interval=0.0)
    compute = sweep.compute_batch

    def note(word, batch):
        with open(log, "a") as file:
            file.write(f"{word} {os.getpid()} {' '.join(map(key, batch))}\\n")

    def noted(batch, store, *others):
        def report(*facts):
            if batch not in begun:
                begun.add(batch)
                note("began", batch)
        there = all(map(store.has, batch))
        done = compute(batch, store, others[0], report, *others[2:])
        if done and not there:
            note("done", batch)
        return done

    begun = set()
    sweep.compute_batch = noted
    return cluster.work(*arguments)

cluster.work = watched
__main__.cli()
"""


ENGINE = ("reproduce", "--scale", "smoke", "--only", "figure_1a", "--engine", "ray")
# Ray is polite by default: beside other work its workers would hardly get on.
BUSY = {"RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "300"}


@contextmanager
def reproducing(runs: Path, log: Path, *words: str, **given: str) -> Iterator[subprocess.Popen]:
    """Fig. 1a at smoke scale is being reproduced by two workers of Ray."""
    surroundings = {
        "PYTHONPATH": str(ROOT),
        "PSPLIB_RUNS": str(runs),
        "TMPDIR": str(runs.parent / ("long" * 25)),  # no socket can lie there
    }
    environment = os.environ | BUSY | surroundings | given
    Path(environment["TMPDIR"]).mkdir(exist_ok=True)
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(log), *ENGINE, "--jobs", "2", *words],
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def notes(log: Path) -> list[tuple[str, int, str]]:
    """What the workers wrote down: a word, a process, a run."""
    if not log.exists():
        return []
    found = [line.split() for line in log.read_text().splitlines()]
    return [(word, int(process), run) for word, process, run in found]


def until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def of(runs: Path) -> list[int]:
    """The processes of a sweep of these runs, those of Ray itself too."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if f"PSPLIB_RUNS={runs}\0".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def listening(processes: list[int]) -> set[str]:
    """The addresses, in hexadecimal as the kernel has them, at which processes listen."""
    sockets = set()
    for process in processes:
        with suppress(OSError):
            for link in Path(f"/proc/{process}/fd").iterdir():
                with suppress(OSError):
                    sockets.add(os.readlink(link))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.thorough
def test_nobody_else_is_let_in_what_another_process_has_is_left_to_it_and_ctrl_c_ends_the_sweep(
    store: Store, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with store.lock(PANEL.dense), reproducing(store.root, log) as process:
        until(lambda: any(word == "done" for word, *_ in notes(log)), process)
        everyone = of(store.root)
        told = b"".join(Path(f"/proc/{p}/environ").read_bytes() for p in everyone)
        assert b"RAY_AUTH_MODE=token" in told
        found = listening(everyone)
        assert found
        assert found <= LOOPBACK
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does on Ctrl-C
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.count("psplib: interrupted. Nothing is lost: the same command goes on") == 1
    assert "Traceback" not in errors
    assert output == ""
    assert store.has(PANEL.lobsters[0])
    assert not [n for n in notes(log) if n[2] == key(PANEL.dense)], "another process has it"
    workers = {process for _, process, _ in notes(log)}
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


HEAD = """
import sys, ray
ray.init("local", num_cpus=2, include_dashboard=False, _temp_dir=sys.argv[1], log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def head(surroundings: dict[str, str]) -> Iterator[str]:
    """The address of a cluster that runs already."""
    with files.scratch(Path("/tmp")) as short:
        process = subprocess.Popen(
            [sys.executable, "-c", HEAD, str(short)],
            env=os.environ | surroundings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout
            yield process.stdout.readline().strip()


@pytest.mark.thorough
def test_on_a_cluster_that_runs_already_a_worker_killed_in_the_middle_costs_nothing(
    smoke: Store, store: Store, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    gradual, log = PANEL.lobsters[0], tmp_path / "log"
    alone = BUSY | cluster._ALONE | {"RAY_AUTH_TOKEN": "0" * 64}
    with head(alone) as address:
        assert address.startswith("127.0.0.1:")
        with reproducing(store.root, log, "--address", address, **alone) as process:
            until((store.work(gradual) / "checkpoint.safetensors").exists, process)
            (victim,) = [p for word, p, run in notes(log) if (word, run) == ("began", key(gradual))]
            os.kill(victim, signal.SIGKILL)
            assert not store.has(gradual), "it was killed too late"
            output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    # Ray itself may say before that a worker died.
    assert output.endswith(f"figure_1a at smoke scale is complete ({store.root}).\n")

    configs = PANEL.runs(store)
    assert sorted(store.all()) == sorted(map(store.folder, configs))
    written = notes(log)
    done = Counter(run for word, _, run in written if word == "done")
    assert done == Counter(map(key, configs)), "each run is made once"
    attempts = [process for word, process, run in written if (word, run) == ("began", key(gradual))]
    assert len(attempts) > 1
    assert victim not in attempts[1:]
    assert len({process for word, process, _ in written if word == "done"}) == 2

    for config in configs:
        one, other = smoke.load(config), store.load(config)
        assert one.provenance["files"] == other.provenance["files"]
        names = {p.name for p in one.folder.iterdir()}
        assert names == {p.name for p in other.folder.iterdir()}
        for name in names - {"provenance.json"}:
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes(), name


def test_a_worker_sweeps_until_nothing_lacks_and_says_what_is_wrong(
    smoke: Store, store: Store, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    sign.touch()
    assert cluster.work([PANEL], smoke, sign, "cpu", None) == ""
    assert cluster.work([PANEL], store, sign, "cpu", 0.0) == ""
    assert not store.root.exists(), "the deadline had come"
    wrong = cluster.work([PANEL], store, sign, "tpu", None)
    assert wrong == "device must be one of auto, cpu, cuda; got 'tpu'."
    wrong = cluster.work([PANEL], store, tmp_path / "elsewhere", "cpu", None)
    assert wrong.endswith("the runs must be on a file system that all machines share.")
    assert not store.root.exists()


class Rehearsal:
    """Ray in this process: a worker works when it is waited for."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self, answer: Callable[[], str]) -> None:
        self.answer, self.begun, self.waited, self.places = answer, 0, 0, 3

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.places), "GPU": 1.0}

    def remote(self, *arguments: object, **options: object) -> Any:
        if options:
            return lambda work: self
        self.begun += 1
        return self.begun

    def wait(self, workers: list[int], timeout: float) -> tuple[list[int], list[int]]:
        self.waited += 1
        return workers[:1], workers[1:]

    def get(self, worker: int) -> str:
        return self.answer()


def rehearse(
    monkeypatch: pytest.MonkeyPatch, store: Store, answer: Callable[[], str]
) -> tuple[bool, Rehearsal]:
    rehearsal = Rehearsal(answer)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # so a GPU is none to torch
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_joined", lambda *_: nullcontext(rehearsal))
    return cluster.run_on_ray([PANEL], store, quiet=True), rehearsal


def test_every_place_of_the_cluster_has_a_worker_until_nothing_lacks(
    smoke: Store, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adopt() -> str:
        for config in PANEL.runs(smoke):
            if not store.has(config):
                store.adopt(smoke.load(config))
        return ""

    is_complete, rehearsal = rehearse(monkeypatch, store, adopt)
    assert is_complete
    assert rehearsal.begun == 3
    assert rehearsal.waited == 1, "the others may never get their place"
    assert not list((store.root / ".work").glob("psplib-*"))


def test_what_a_worker_says_is_wrong_ends_the_sweep(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> str:
        raise RuntimeError("lost\nthe node died")

    with pytest.raises(PsplibError, match="no data"):
        rehearse(monkeypatch, store, lambda: "no data")
    with pytest.raises(PsplibError, match=r"failed \(RuntimeError: the node died\)"):
        rehearse(monkeypatch, store, fail)


def test_a_cluster_has_a_place_for_every_cpu_or_share_of_a_gpu() -> None:
    resources = {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}
    assert cluster._places(resources, "cpu", None) == ("cpu", 8, 0)
    assert cluster._places({"CPU": 8.0}, "auto", None) == ("cpu", 8, 0)
    assert cluster._places({"CPU": 8.0}, "auto", 3) == ("cpu", 3, 0)
    assert cluster._places({"CPU": 8.0}, "auto", 10**9) == ("cpu", 8, 0)
    assert cluster._places({}, "auto", None) == ("cpu", 1, 0), "its machines come when work waits"
    assert cluster._places(resources, "auto", None) == ("cuda", 2, 1)
    assert cluster._places(resources, "cuda", 3) == ("cuda", 6, 1 / 3)
    assert cluster._places(resources, "cuda", 6) == ("cuda", 8, 1 / 6)
    with pytest.raises(PsplibError, match="'cuda' was asked for, but the Ray cluster has no GPU"):
        cluster._places({"CPU": 8.0}, "cuda", None)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--engine", "dask"), "engine must be one of local, ray; got 'dask'."),
        (("--address", "here:1"), "address is that of a Ray cluster: 'here:1' needs --engine ray."),
        (
            ("--engine", "ray", "--device", "tpu"),
            "device must be one of auto, cpu, cuda; got 'tpu'.",
        ),
        (("--engine", "ray", "--jobs", "0"), "jobs must be a whole number of at least 1; got 0."),
        (
            ("--engine", "ray", "--address", "localhost:1"),
            "No Ray cluster answers at 'localhost:1': ",
        ),
        (
            ("--engine", "ray", "--address", "localhost:99999"),
            "No Ray cluster answers at 'localhost:99999': ",
        ),
        *(
            (
                ("--engine", "ray", "--address", address),
                f"address must be HOST:PORT or auto; got {address!r}.",
            )
            for address in (
                "localhost",
                "localhost:port",
                "http://localhost:1",
                "ray://localhost:1",
                "a b:1",
            )
        ),
    ],
)
def test_a_bad_argument_is_one_sentence(
    words: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    environment = {"PSPLIB_RUNS": str(tmp_path / "runs")}
    done = CliRunner().invoke(cli, ["reproduce", "--scale", "smoke", *words], env=environment)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"psplib: {sentence}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The address of something that says this to whoever comes."""

    class Say(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(100)
            self.request.sendall(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Say) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_answers_and_is_not_ray_is_refused_at_once(answer: bytes, tmp_path: Path) -> None:
    start = time.process_time()
    with answering(answer) as address:
        words = ["reproduce", "--scale", "smoke", "--engine", "ray", "--address", address]
        done = CliRunner().invoke(cli, words, env={"PSPLIB_RUNS": str(tmp_path / "runs")})
    sentence = f"psplib: No Ray cluster answers at {address!r}: what is there is something else.\n"
    assert (done.exit_code, done.stderr) == (2, sentence)
    assert time.process_time() - start < 10
    with answering(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) as address:  # as every server of HTTP/2
        cluster._reach(address)


def test_without_ray_its_engine_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["reproduce", "--scale", "smoke", "--engine", "ray"]
    done = CliRunner().invoke(cli, words, env={"PSPLIB_RUNS": str(tmp_path / "runs")})
    assert done.exit_code == 2
    assert done.stderr == "psplib: The engine ray needs the extra psplib[cluster].\n"
