"""Files that are whole or absent: written aside, then renamed into place."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from psplib.core.errors import PsplibError


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless it is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PsplibError(f"{path} cannot be used: {error.strerror}.") from None


def write(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically; on failure the old file, if any, is untouched."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise PsplibError(f"{path} could not be written: {error.strerror}.") from error


def sha256(path: Path) -> str | None:
    """SHA-256 of a file's content, in hexadecimal; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def write_tensors(path: Path, tensors: dict[str, Tensor], state: Any = None) -> None:
    """Write tensors as safetensors, with `state` (JSON) in the header; atomic."""
    # safetensors refuses tensors that share memory, as a mask and its copy may.
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write(path, safetensors.torch.save(plain, {"state": json.dumps(state)}))


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names and contents."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(
            tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        )
    return found.hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """What `write_tensors` wrote; `PsplibError` if the file is not whole."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {}).get("state", "null"))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise PsplibError(f"{path} is damaged: {error}; move it away.") from None
