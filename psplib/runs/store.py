"""The run store: configuration -> key -> artefact; atomic, resumable, with provenance.

`<root>/<experiment>/<key>/` holds `config.json`, `provenance.json`, tables (CSV) and tensors
(safetensors); the experiment is the configuration's type, the key the hash of its canonical JSON.
Work in progress lives under `<root>/.work/` and is renamed into place when it is whole.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from psplib import __version__
from psplib.core import files
from psplib.core.artefact import Artefact, Parts, open_artefact
from psplib.core.checkout import check_here, checkout, git, named
from psplib.core.config import canonical, key, kind, record
from psplib.core.errors import PsplibError, reason
from psplib.nn.data import Data
from psplib.training.fit import Checkpoint, Report


@dataclass(frozen=True)
class Told:
    """How far a run has come at a time (seconds since the epoch)."""

    done: float
    total: float
    note: str
    time: float


@dataclass(frozen=True)
class Store:
    """All runs under one root folder."""

    root: Path

    def folder(self, config: Any) -> Path:
        """Where the run of `config` is or will be."""
        return self.root / kind(config).lower() / key(config)

    def work(self, config: Any) -> Path:
        """Where the run of `config` is being made."""
        return self.root / ".work" / key(config)

    def has(self, config: Any) -> bool:
        """Whether the run is there (not whether it is whole: that is checked when it is read)."""
        return self.folder(config).exists()

    def __contains__(self, config: object) -> bool:
        return self.has(config)

    def __getitem__(self, config: Any) -> Artefact:
        return self.load(config)

    def load(self, config: Any) -> Artefact:
        """The finished run of `config`."""
        if not self.has(config):
            raise PsplibError(f"There is no run {key(config)} under {self.root}.")
        return open_artefact(self.folder(config))

    def seconds(self, config: Any) -> float:
        """What a finished run took."""
        return float(self.load(config).provenance["seconds"])

    def all(self) -> Iterator[Path]:
        """Every finished run's folder, in a fixed order."""
        if self.root.exists():
            yield from sorted(p for p in self.root.glob("[!.]*/*") if p.is_dir())

    def adopt(self, *artefacts: Artefact) -> int:
        """Copy finished runs of other stores into this one, all of them or none; how many were new.

        They are copied aside, checked, and renamed into place. `PsplibError` names a run that is
        here already with another content.
        """
        new = [(a, place) for a in artefacts if not self._has_same(place := _place(a), a)]
        moved: list[Path] = []
        with files.scratch(self.root / ".work") as aside:
            try:
                for artefact, place in new:
                    (self.root / place).parent.mkdir(parents=True, exist_ok=True)
                    (aside / place).mkdir(parents=True)
                    for name in artefact.names:
                        shutil.copy2(artefact.folder / name, aside / place)
                    open_artefact(aside / place).check_digests()
                for artefact, place in new:
                    try:
                        (aside / place).rename(self.root / place)
                    except OSError:  # has somebody else copied it in the meantime?
                        if not self._has_same(place, artefact):
                            raise
                    else:
                        moved.append(place)
            except BaseException as error:
                for place in moved:
                    (self.root / place).rename(aside / place)
                if not isinstance(error, OSError):
                    raise
                raise PsplibError(
                    f"{self.root} could not be written: {reason(error)}; no run was copied."
                ) from error
        return len(moved)

    def _has_same(self, place: Path, artefact: Artefact) -> bool:
        """Whether a run is here; `PsplibError` if it is another one."""
        if not (self.root / place).exists():
            return False
        ours, other = (a.provenance["files"] for a in (open_artefact(self.root / place), artefact))
        if names := sorted(name for name, _ in ours.items() ^ other.items()):
            raise PsplibError(
                f"{self.root / place} is there already with another content "
                f"({', '.join(dict.fromkeys(names))}), so no run was copied; move one of the two "
                "away."
            )
        return True

    def lock(self, config: Any, wait: bool = True) -> contextlib.AbstractContextManager[bool]:
        """Hold the only right to make this run; yields False if another process holds it."""
        return self._lock(key(config), wait)

    def _lock(self, name: str, wait: bool) -> contextlib.AbstractContextManager[bool]:
        return files.locked(self.root / ".work" / f"{name}.lock", wait)

    def sweep(self) -> None:
        """Remove what a process that was killed at the end of its runs has left of the work on
        them. The locks stay: they are empty, and somebody may be about to take one."""
        together = {self.batch(keys).name: keys for keys in self.begun()}
        for work in sorted(self.root.glob(f".work/{'[0-9a-f]' * 16}/")):
            keys = together.get(work.name, (work.name,))
            if not all(any(self.root.glob(f"[!.]*/{k}")) for k in keys):
                continue
            with contextlib.ExitStack() as stack:
                if all(stack.enter_context(self._lock(k, wait=False)) for k in sorted(keys)):
                    shutil.rmtree(work, ignore_errors=True)

    def running(self, config: Any) -> bool:
        """Whether a process is making this run now."""
        if not self.work(config).with_suffix(".lock").exists():
            return False
        with self.lock(config, wait=False) as free:
            return not free

    def progress(self, config: Any) -> dict[str, Any] | None:
        """How far an unfinished run has come: done, total, note."""
        with contextlib.suppress(OSError, ValueError, RecursionError, PsplibError):
            written = json.loads((self.work(config) / "progress.json").read_bytes())
            told = record(Told, written, "progress.json")
            if told.total > 0:
                return {"done": told.done, "total": told.total, "note": told.note}
        return None

    def compute_together(
        self,
        configs: Sequence[Any],
        make: Callable[[Checkpoint], tuple[list[Parts], Data]],
        report: Report = lambda done, total, note: None,
        wait: bool = True,
        deadline: float | None = None,
    ) -> list[Artefact] | None:
        """The runs of configurations, each an artefact of its own: loaded if all are there, else
        made by one program, going on from their checkpoint.

        None if another process is making one and `wait` is false. `OutOfTime` if the deadline came
        first: see `Checkpoint`.
        """
        if all(self.has(config) for config in configs):
            return [self.load(config) for config in configs]
        with contextlib.ExitStack() as stack:
            # Everyone asks for locks in one order, so that no two wait for each other.
            for config in sorted(configs, key=key):
                if not stack.enter_context(self.lock(config, wait)):
                    return None
            if all(self.has(config) for config in configs):
                return [self.load(config) for config in configs]
            work = self.batch(tuple(map(key, configs)))
            works = [self.work(config) for config in configs]
            for folder in {work, *works}:
                files.make_folder(folder)
            if len(configs) > 1:
                names = json.dumps([key(config) for config in configs])
                files.write(work / "batch.json", names.encode())
            keys = tuple(map(key, configs))
            checkpoint = Checkpoint(work, _reporter(works, report), deadline=deadline, keys=keys)
            parts, data = make(checkpoint)
            facts = provenance(data) | {"seconds": round(checkpoint.elapsed / len(configs), 1)}
            if len(configs) > 1:
                facts["together"] = len(configs)
            for config, its in zip(configs, parts, strict=True):
                if not self.has(config):
                    self._finish(config, its, facts)
            for folder in {work, *works}:
                shutil.rmtree(folder, ignore_errors=True)
        return [self.load(config) for config in configs]

    def batch(self, keys: tuple[str, ...]) -> Path:
        """Where the runs of these keys are being made together."""
        name = (
            keys[0] if len(keys) == 1 else hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        )
        return self.root / ".work" / name

    def begun(self) -> list[tuple[str, ...]]:
        """The keys of runs that were begun together and not finished."""
        found = []
        for path in sorted((self.root / ".work").glob("*/batch.json")):
            with contextlib.suppress(OSError, ValueError, RecursionError):
                keys = json.loads(path.read_bytes())
                if isinstance(keys, list) and all(isinstance(k, str) for k in keys):
                    found.append(tuple(keys))
        return found

    def _finish(self, config: Any, parts: Parts, facts: dict[str, Any]) -> None:
        folder, whole = self.folder(config), self.work(config) / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        try:
            whole.mkdir(parents=True)
            digests = {n: files.sha256(whole / n) for n in _write_parts(whole, parts)}
            text = json.dumps(facts | {"files": digests}, indent=1)
            files.write(whole / "config.json", canonical(config).encode())
            files.write(whole / "provenance.json", text.encode())
            folder.parent.mkdir(parents=True, exist_ok=True)
            whole.rename(folder)
        except OSError as error:
            raise PsplibError(f"{folder} could not be written: {reason(error)}.") from error


def _place(artefact: Artefact) -> Path:
    return Path(artefact.folder.parent.name, artefact.folder.name)


def _write_parts(folder: Path, parts: Parts) -> Iterator[str]:
    for name, part in parts.items():
        if isinstance(part, pd.DataFrame):
            files.write(folder / f"{name}.csv", part.to_csv(index=False).encode())
            yield f"{name}.csv"
        else:
            files.write_tensors(folder / f"{name}.safetensors", part)
            yield f"{name}.safetensors"


def _reporter(works: Sequence[Path], report: Report) -> Report:
    """Tell the caller, and once a second each `progress.json`, how far the runs have come."""
    told = 0.0

    def tell(done: float, total: float, note: str) -> None:
        nonlocal told
        if time.monotonic() - told > 1:
            told = time.monotonic()
            facts = Told(float(done), float(total), note, time.time())
            for work in works:
                files.write(work / "progress.json", json.dumps(asdict(facts)).encode())
        report(done, total, note)

    return tell


def provenance(data: Data) -> dict[str, Any]:
    """What made a run: code, versions, machine, data, date."""
    device = data.train.x.device
    return {
        "psplib": __version__,
        **_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": {"name": data.name, "variant": data.variant, "sha256": data.digest},
    }


def _commit() -> dict[str, Any]:
    """The commit of the code that runs, and whether the library differed from it."""
    root = checkout()
    commit = git(root, "rev-parse", "HEAD") if root else None
    if root is None or commit is None:
        return {"commit": "unknown", "modified": False}
    return {"commit": commit, "modified": bool(git(root, "status", "-s", "-uall", "psplib"))}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "CPU"


def local() -> Store:
    """This machine's runs: `$PSPLIB_RUNS`, `runs/` of the checkout, or the user's cache."""
    if folder := named("PSPLIB_RUNS"):
        return Store(folder)
    check_here()
    root = checkout()
    return Store(root / "runs" if root else files.home() / ".cache" / "psplib" / "runs")


def published() -> Store:
    """The runs that the book shows: `$PSPLIB_RESULTS`, or `results/` of the checkout."""
    if folder := named("PSPLIB_RESULTS"):
        return Store(folder)
    check_here()
    root = checkout()
    if not root:
        raise PsplibError(
            "Published results come with the repository; point PSPLIB_RESULTS at its results/."
        )
    return Store(root / "results")
