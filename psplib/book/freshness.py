"""What something was made from, as digests: it is made again only when that has changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from psplib.core import files
from psplib.runs import store as runs


def digest(*parts: object) -> str:
    """SHA-256 of some values, each told from the next."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def contents(paths: Iterable[Path], root: Path) -> dict[str, str | None]:
    """The digest of each file, by its path below `root`."""
    return {p.relative_to(root).as_posix(): files.sha256(p) for p in sorted(paths)}


def tree(folder: Path) -> str | None:
    """The digest of all that lies in a folder, hidden names left out; None if there is none."""
    if not folder.is_dir():
        return None
    inside = (p for p in folder.rglob("*") if p.is_file())
    return digest(contents((p for p in inside if not _hidden(p.relative_to(folder))), folder))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def library() -> str:
    """The digest of psplib's own source."""
    here = Path(__file__).parents[1]
    return digest(contents(here.rglob("*.py"), here))


def packages() -> str:
    """The digest of what is installed beside it."""
    return digest(sorted({f"{d.name}=={d.version}" for d in metadata.distributions()}))


@contextlib.contextmanager
def watch(log: Path) -> Iterator[dict[str, str | None]]:
    """`with watch(log) as asked:` afterwards `asked` has, for each run that this process or one
    that it started has asked a store for, the digest of its folder, or None if it was not there."""
    asked: dict[str, str | None] = {}
    before = os.environ.get(runs.ASKED)
    os.environ[runs.ASKED] = str(log)
    try:
        yield asked
    finally:
        del os.environ[runs.ASKED]
        if before is not None:
            os.environ[runs.ASKED] = before
    lines = log.read_text().splitlines() if log.exists() else []
    # The last answer counts: a chapter may make the run that it has not found.
    for folder, there in {line[2:]: line[0] == "+" for line in lines}.items():
        asked[folder] = tree(Path(folder)) if there else None


def unchanged(asked: dict[str, str | None]) -> bool:
    """Whether all runs are as they were when they were asked for."""
    return all(tree(Path(folder)) == was for folder, was in asked.items())


def read(record: Path) -> dict[str, Any]:
    """A record that `write` wrote; empty if there is none, or half of one."""
    try:
        found = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(record: Path, facts: dict[str, Any]) -> None:
    """Keep what something was made from beside it; atomic."""
    files.write(record, json.dumps(facts, indent=1).encode())
