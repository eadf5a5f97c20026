"""The command line by a seeded generator: whatever is typed, set or lying about, it ends in a
result or in a sentence, never in a traceback.

200 command lines; `PSPLIB_FUZZ=10` makes ten times as many.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from psplib.__main__ import cli
from psplib.book import build
from psplib.core.errors import PsplibError
from psplib.experiments import sweep

pytestmark = pytest.mark.slow
TIMES = int(os.environ.get("PSPLIB_FUZZ", "1"))
WORDS = ["", " ", "nan", "-inf", "0", "-1", "1e400", "9" * 400, "1_0", "\u0661", "true", "None"]
WORDS += ["smoke", "paper", "published", "cpu", "cuda", "ray", "figure_1a", "minima", "a" * 300]
WORDS += ["ä ö", "日本", "a\nb", "\x1b[31m", "%s", "{0}", "--", "-x", "~", "*", ";", "'"]
WORDS += ["localhost:1", "ray://[::1]:1", "127.0.0.1:99999", "auto "]
FINE = {"scale": "smoke", "device": "cpu", "jobs": "1", "seed": "0", "budget": "1e-9"}
VARIABLES = ("PSPLIB_RUNS", "PSPLIB_RESULTS", "PSPLIB_DATA", "XDG_CACHE_HOME", "RAY_ADDRESS")


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """Paths of every kind that a user may name."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.tar").mkdir()
    for name in ("file", "file.tar", "file.tar.gz", "ü b.tar"):
        (tmp_path / name).write_text("epoch,loss\n" * 99)
    (tmp_path / "empty.tar").touch()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "runs" / "lobster").mkdir(parents=True)
    (tmp_path / "runs" / "lobster" / ("0" * 16)).touch()
    (tmp_path / "runs" / "retraining").write_text("a file")
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / ".work").write_text("a file")
    inside = ("file/x.tar", "none/x.tar", "x.tar", "x.tgz", f"{'a' * 300}.tar")
    found = [str(p) for p in sorted(tmp_path.iterdir())] + [str(tmp_path / n) for n in inside]
    return [*found, "/dev/null", "/dev/full", "/proc/x.tar", "/proc/self/mem", "/", ".", "x.tar"]


def line(rng: random.Random, places: list[str]) -> tuple[list[str], dict[str, str]]:
    """A command line, and what is set in the environment."""
    name = rng.choice([*cli.commands, "reproduce"])
    words, odd = [name], [*WORDS, *places]
    for option in cli.commands[name].params:
        if isinstance(option, click.Argument):
            words += rng.sample(places, rng.choice([0, 1, 1, 1, 2]))
        elif option.is_flag:
            words += [option.opts[0]] * (rng.random() < 0.2 and option.name != "worker")
        elif rng.random() < 0.3:
            words += [option.opts[0], rng.choice(odd)]
        elif option.name in FINE:
            words += [option.opts[0], FINE[option.name]]
    words += [rng.choice(odd)] * (rng.random() < 0.1)
    return words, {n: rng.choice(odd) for n in VARIABLES if rng.random() < 0.4}


def stop(*_: object) -> None:
    raise PsplibError("So far.")


def test_whatever_is_typed_there_is_no_traceback(
    places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is computed or built: no budget is left, and the build ends where it would begin."""
    run = sweep.run
    monkeypatch.setattr(sweep, "run", lambda *given: run(*given[:3], 1, 0.0, True))
    monkeypatch.setattr(build, "apart", stop)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=stop, shutdown=lambda: None))
    ended: Counter[str] = Counter()
    wrong = []
    here = tmp_path / "here"
    for number in range(200 * TIMES):
        rng = random.Random(f"line {number}")
        words, variables = line(rng, places)
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        monkeypatch.chdir(here)
        environment = dict.fromkeys(VARIABLES) | {"PSPLIB_RUNS": str(here)} | variables
        done = CliRunner().invoke(cli, words, env=environment)
        ended[f"{words[0]} {done.exit_code}"] += 1
        is_said = done.stderr.startswith("Usage: ") or (
            done.stderr.startswith("psplib: ") and done.stderr.count("\n") == 1
        )
        is_fine = isinstance(done.exception, SystemExit | None) and done.exit_code in (0, 2)
        if not is_fine or is_said == (done.exit_code == 0) or len(done.stderr) > 2000:
            wrong.append((words, variables, repr(done.exception), done.stderr[-500:]))
    print(dict(sorted(ended.items())))
    assert not wrong, wrong
