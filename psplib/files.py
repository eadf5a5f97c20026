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
from torch import Tensor

from .checks import PsplibError


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


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, tensors: dict[str, Tensor], state: Any = None) -> None:
    """Write tensors as safetensors, with `state` (JSON) in the header; atomic."""
    # safetensors refuses tensors that share memory, as a mask and its copy may.
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write(path, safetensors.torch.save(plain, {"state": json.dumps(state)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """What `write_tensors` wrote; `PsplibError` if the file is not whole."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {}).get("state", "null"))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise PsplibError(f"{path} is damaged: {error}; remove it.") from None
