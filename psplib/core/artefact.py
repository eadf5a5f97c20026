"""A finished run: a folder whose every file is what its run wrote."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from torch import Tensor

from psplib.core import files
from psplib.core.config import record
from psplib.core.errors import PsplibError, brief

# What a run puts out, by the names of its files.
Parts = dict[str, "pd.DataFrame | dict[str, Tensor]"]

# Newer pandas reads floats to the bit by default, and warns of the option.
_EXACT: dict[str, Any] = (
    {} if int(pd.__version__.partition(".")[0]) >= 3 else {"float_precision": "round_trip"}
)
# What file managers leave in every folder that they show.
LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
# How large a file of a run may be, in bytes, by its suffix.
LARGEST = {".json": 2**20, ".csv": 2**26, ".safetensors": 2**30}
_FILE = re.compile(r"[\w-]+\.(?:csv|safetensors)", re.ASCII)
_MEND = "restore a published run from the repository (git checkout), move a run of your own away"


@dataclass(frozen=True)
class DataSource:
    """The data set that a run has read: `sha256` is of all its arrays, see `nn.data.DIGESTS`."""

    name: str
    variant: str
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """What made a run, as `provenance.json` says it; `files` are their SHA-256 by name."""

    psplib: str
    commit: str
    modified: bool
    python: str
    torch: str
    platform: str
    device: str
    threads: int
    finished: str
    data: DataSource
    seconds: float
    files: dict[str, str]
    together: int = 1
    repacked: str = ""

    def __post_init__(self) -> None:
        digests = [self.data.sha256, *self.files.values()]
        for truth, what in (
            (re.fullmatch(r"[0-9a-f]{40}|unknown", self.commit), "commit"),
            (min(self.threads, self.together) >= 1, "threads"),
            (self.seconds >= 0, "seconds"),
            (_is_time(self.finished), "finished"),
            (all(re.fullmatch("[0-9a-f]{64}", d) for d in digests), "sha256"),
            (self.files and all(map(_FILE.fullmatch, self.files)), "files"),
        ):
            if not truth:
                raise PsplibError(f"provenance.json: {what} is not what a run writes.")


def _is_time(text: str) -> bool:
    try:
        return datetime.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


@dataclass(frozen=True)
class Artefact:
    """A finished run. A file's digest is checked when it is read, once a process."""

    folder: Path
    config: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """Its files, sorted."""
        return sorted({"config.json", "provenance.json", *self.provenance["files"]})

    def table(self, name: str) -> pd.DataFrame:
        """The table `<name>.csv`; floats come back to the bit."""
        path = self._checked(f"{name}.csv")
        facts = path.stat()
        return _table(path, facts.st_size, facts.st_mtime_ns).copy()

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `<name>.safetensors`."""
        return files.read_tensors(self._checked(f"{name}.safetensors"))[0]

    def shapes(self, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of each tensor of `<name>.safetensors`, none of which is read."""
        return files.read_shapes(self._checked(f"{name}.safetensors"))

    def check_digests(self) -> None:
        """Hash every file, whatever was read before; `PsplibError` names one that is wrong."""
        for name, digest in self.provenance["files"].items():
            if files.sha256(self.folder / name) != digest:
                raise self._wrong(name)

    def insist(self, truth: bool, what: str) -> None:
        """Raise `PsplibError`, which names `what` is wrong, unless it is the truth."""
        if not truth:
            raise PsplibError(f"{self.folder}: {what} does not belong to its configuration.")

    def insist_rows(self, name: str, columns: list[str], rows: Iterable[Iterable[Any]]) -> None:
        """Raise `PsplibError` unless these columns of a table hold these rows."""
        found = self.table(name)[columns].to_numpy().tolist()
        self.insist(found == [list(row) for row in rows], f"the table of {name}")

    def _checked(self, name: str) -> Path:
        path, digests = self.folder / name, self.provenance["files"]
        if name not in digests:
            raise FileNotFoundError(f"the run {self.folder.name} wrote no {name}")
        try:
            facts = path.stat()
        except OSError:
            raise self._wrong(name) from None
        if _sha256(path, facts.st_size, facts.st_mtime_ns) != digests[name]:
            raise self._wrong(name)
        return path

    def _wrong(self, name: str) -> PsplibError:
        is_there = (self.folder / name).exists()
        state = "is not what its run wrote (SHA-256)" if is_there else "is missing"
        return PsplibError(f"{self.folder / name} {state}; {_MEND}.")


@functools.lru_cache(8)
def _table(path: Path, size: int, changed: int) -> pd.DataFrame:
    return pd.read_csv(path, **_EXACT)


class Parents(Protocol):
    """The artefacts that a run is made from, by their configurations: a dict, or a store."""

    def __getitem__(self, config: Any, /) -> Artefact: ...

    def __contains__(self, config: object, /) -> bool: ...


@functools.cache
def _sha256(path: Path, size: int, changed: int) -> str | None:
    """The digest of a file of this size that was changed at this time."""
    return files.sha256(path)


def open_artefact(folder: Path) -> Artefact:
    """Open a run folder; `PsplibError`, by name, unless it has all files of its run and no other.

    Their content is checked when it is read, or by `Artefact.check_digests`.
    """
    try:
        present = {p.name: p.lstat() for p in folder.iterdir() if p.name not in LITTER}
        for name, facts in present.items():
            if not stat.S_ISREG(facts.st_mode):
                raise PsplibError(f"{name} is not a file")
            if facts.st_size > LARGEST.get(Path(name).suffix, facts.st_size):
                raise PsplibError(f"{name} has {facts.st_size:,} bytes, more than any run writes")
        text = (folder / "config.json").read_bytes()
        config = json.loads(text)
        provenance = json.loads((folder / "provenance.json").read_bytes())
        record(Provenance, provenance, "provenance.json")
        artefact = Artefact(folder, config, provenance)
    except (OSError, ValueError, RecursionError, PsplibError) as error:
        why = str(error).rstrip(".") if isinstance(error, PsplibError) else brief(error)
        raise PsplibError(f"{folder} is not a whole run ({why}); {_MEND}.") from None
    if hashlib.sha256(text).hexdigest()[:16] != folder.name:
        raise PsplibError(
            f"{folder} does not belong to its configuration (config.json hashes to another key); "
            f"{_MEND}."
        )
    written = set(artefact.names)
    if foreign := present.keys() - written:
        raise PsplibError(
            f"{folder} holds {', '.join(map(repr, sorted(foreign)))}, which its run did not write; "
            "move that away."
        )
    for name in sorted(written - present.keys()):
        raise artefact._wrong(name)
    return artefact
