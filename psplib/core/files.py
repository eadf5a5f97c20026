"""Files that are whole or absent: written aside, then renamed into place."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from psplib.core.errors import PsplibError, brief, reason

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def home() -> Path:
    """The user's home folder."""
    try:
        return Path.home()
    except RuntimeError:
        raise PsplibError("There is no home folder; set HOME.") from None


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless it is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PsplibError(f"{path} cannot be used: {reason(error)}.") from None


def write(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically; on failure the old file, if any, is untouched."""
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the context ends well; else that is untouched.

    What killed processes have left of such files is removed.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            _sweep(left)
        with _held(aside) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            aside.replace(path)
    except OSError as error:
        raise PsplibError(f"{path} could not be written: {reason(error)}.") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the only right to what the file `path` stands for; yields False if another process holds
    it and `wait` is false."""
    make_folder(path.parent)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        raise PsplibError(f"{path.parent} cannot be used: {reason(error)}.") from None
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder of one's own in `parent` for as long as the context lasts; those of killed processes
    are removed."""
    make_folder(parent)
    for left in parent.glob("psplib-*.lock"):
        _sweep(left, left.with_suffix(""))
    folder = parent / f"psplib-{secrets.token_hex(8)}"
    lock = folder.with_suffix(".lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_held(lock))
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise PsplibError(f"{parent} cannot be used: {reason(error)}.") from None
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():  # else somebody still writes there, and the next one sweeps it
                with contextlib.suppress(OSError):
                    lock.unlink()


@contextlib.contextmanager
def _held(path: Path) -> Iterator[BinaryIO]:
    """A new file, locked as long as it is open: so others see that its process lives."""
    while True:
        with path.open("wb") as file:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                if not os.fstat(file.fileno()).st_nlink:
                    continue  # somebody has swept it before it was locked
            yield file
            return


def _sweep(path: Path, folder: Path | None = None) -> None:
    """Remove a file of `_held`, and the folder that it stands for, unless its process lives."""
    if fcntl is None:
        return  # nobody could tell
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        path.unlink()


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
        if not path.is_file():
            raise FileNotFoundError("it is not a file")
        with safetensors.safe_open(path, "pt") as file:
            yield file
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise PsplibError(f"{path} is damaged ({brief(error)}); move it away.") from None
