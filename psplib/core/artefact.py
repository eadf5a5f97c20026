"""A finished run: a folder whose every file is what its run wrote."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from torch import Tensor

from psplib.core import files
from psplib.core.errors import PsplibError

# What a run puts out, by the names of its files.
Parts = dict[str, "pd.DataFrame | dict[str, Tensor]"]

# Newer pandas reads floats to the bit by default, and warns of the option.
_EXACT: dict[str, Any] = (
    {} if int(pd.__version__.partition(".")[0]) >= 3 else {"float_precision": "round_trip"}
)
# What file managers leave in every folder that they show.
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_MEND = "restore a published run from the repository (git checkout), move a run of your own away"


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
        return pd.read_csv(self._checked(f"{name}.csv"), **_EXACT)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `<name>.safetensors`."""
        return files.read_tensors(self._checked(f"{name}.safetensors"))[0]

    def check_digests(self) -> None:
        """Hash every file, whatever was read before; `PsplibError` names one that is wrong."""
        for name, digest in self.provenance["files"].items():
            if files.sha256(self.folder / name) != digest:
                raise self._wrong(name)

    def insist(self, truth: bool, what: str) -> None:
        """Raise `PsplibError`, which names `what` is wrong, unless it is the truth."""
        if not truth:
            raise PsplibError(f"{self.folder}: {what} does not belong to its configuration.")

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
        text = (folder / "config.json").read_bytes()
        config = json.loads(text)
        provenance = json.loads((folder / "provenance.json").read_bytes())
        artefact = Artefact(folder, config, provenance)
        written = set(artefact.names)
        provenance["files"].items()
        present = {p.name for p in folder.iterdir()} - _LITTER
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PsplibError(
            f"{folder} is not a whole run ({type(error).__name__}: {error}); {_MEND}."
        ) from None
    if hashlib.sha256(text).hexdigest()[:16] != folder.name:
        raise PsplibError(
            f"{folder} does not belong to its configuration (config.json hashes to another key); "
            f"{_MEND}."
        )
    if foreign := present - written:
        raise PsplibError(
            f"{folder} holds {', '.join(sorted(foreign))}, which its run did not write; "
            "move that away."
        )
    for name in sorted(written - present):
        raise artefact._wrong(name)
    return artefact
