"""Processes end with their parent, whatever ends that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psplib.book import build

ROOT = Path(__file__).parents[2]
CHILD = """
import os, time
from psplib.core.processes import end_when
end_when(lambda: os.read(0, 1))
os.write(1, f"{os.getpid()}\\n".encode())  # at once: two children share the pipe
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
words = [sys.executable, "-c", sys.argv[1]]
children = [subprocess.Popen(words, stdin=subprocess.PIPE) for _ in range(2)]
time.sleep(600)
"""


def is_gone(process: int) -> bool:
    """Whether a process ends within ten seconds."""
    for _ in range(1000):
        try:
            os.kill(process, 0)
            state = Path(f"/proc/{process}/stat")
            if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(how: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(how)
    parent.wait()
    assert all(is_gone(worker) for worker in workers)
    parent.stdout.close()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are listed in /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_of_a_sweep_end_with_it(how: signal.Signals, tmp_path: Path) -> None:
    sweep = subprocess.Popen(
        [sys.executable, "-m", "psplib", "reproduce", "--scale", "smoke", "--jobs", "2"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PSPLIB_RUNS": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    )
    children = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children")
    while len(workers := children.read_text().split()) < 2:
        assert sweep.poll() is None
        time.sleep(0.01)
    sweep.send_signal(how)
    sweep.wait()
    assert all(is_gone(int(worker)) for worker in workers)


def asleep(note: Path) -> None:
    note.write_text(str(os.getpid()))
    time.sleep(600)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the build forks")
def test_what_a_build_has_forked_ends_with_it(tmp_path: Path) -> None:
    notes = [tmp_path / name for name in "ab"]
    parent = os.fork()
    if not parent:
        os.cpu_count = lambda: 2
        build.apart([(asleep, note) for note in notes])
        os._exit(0)
    while not all(note.exists() and note.read_text() for note in notes):
        time.sleep(0.01)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert all(is_gone(int(note.read_text())) for note in notes)
