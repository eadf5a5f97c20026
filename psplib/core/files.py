"""Files that are whole or absent: written aside, then renamed into place."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
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


def write_tensors(path: Path, tensors: dict[str, Tensor], **header: str) -> None:
    """Write tensors as safetensors, with texts in the header; atomic."""
    # safetensors refuses tensors that share memory, as a mask and its copy may.
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write(path, safetensors.torch.save(plain, {"state": "null"} | header))


def digest(tensors: dict[str, Tensor], *texts: str) -> str:
    """SHA-256 of names, types, shapes and contents, and of texts."""
    found = hashlib.sha256(json.dumps(texts).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(tensor.dtype), tensor.shape]).encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `write_tensors` wrote: tensors, and the header's texts.

    `PsplibError` if the file is not whole.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor of a file; no more than its header is read."""
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            yield file
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise PsplibError(f"{path} is damaged: {error}; move it away.") from None
