"""Finished runs as one tar, from a machine that made them to the one that publishes them.

Whoever opens a tar trusts nothing in it: only files `<experiment>/<key>/<file>` are taken out, into
a folder of their own, and a run counts when its digests and its tables are right.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from psplib.core.artefact import Artefact
from psplib.core.config import kind
from psplib.core.errors import PsplibError
from psplib.runs.store import Store

_Stream = BinaryIO | gzip.GzipFile
_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_GZIP = b"\x1f\x8b"


def check_name(path: Path) -> None:
    """Raise `PsplibError` unless a tar may have this name."""
    if not path.name.endswith(_SUFFIXES):
        raise PsplibError(f"A tar is called *{', *'.join(_SUFFIXES)}; got {str(path)!r}.")


def pack_runs(artefacts: Iterable[Artefact], path: Path) -> None:
    """Write runs to a tar, compressed if it is called so; the same runs give the same bytes."""
    check_name(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            with contextlib.ExitStack() as stack:
                stream: _Stream = file
                if not path.name.endswith(".tar"):
                    # Neither a name nor a time in the header.
                    stream = stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
                tar = stack.enter_context(
                    tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT)
                )
                for artefact in sorted(artefacts, key=lambda artefact: artefact.folder):
                    artefact.check_digests()
                    folder = artefact.folder
                    for name in artefact.names:
                        _add(tar, f"{folder.parent.name}/{folder.name}/{name}", folder / name)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise PsplibError(f"{path} could not be written: {error.strerror}.") from error
    finally:
        aside.unlink(missing_ok=True)


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    member = tarfile.TarInfo(name)
    member.size = path.stat().st_size
    with path.open("rb") as file:
        tar.addfile(member, file)


@contextlib.contextmanager
def unpack_runs(path: Path, kinds: Sequence[type]) -> Iterator[Store]:
    """The runs of a tar as a store, for as long as the context lasts; not checked yet.

    `PsplibError` unless the tar is whole and every member is a file of a run of these kinds.
    """
    with tempfile.TemporaryDirectory(prefix="psplib-") as folder:
        store = Store(Path(folder) / path.name)
        try:
            store.root.mkdir()
            with path.open("rb") as file:
                is_compressed = file.read(2) == _GZIP
            with contextlib.ExitStack() as stack:
                stream: _Stream = stack.enter_context(path.open("rb"))
                if is_compressed:
                    stream = stack.enter_context(gzip.GzipFile(fileobj=stream, mode="rb"))
                _extract(stream, path, store.root, kinds)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise PsplibError(f"{path} is not a whole tar: {error}; send it again.") from None
        except OSError as error:
            raise PsplibError(f"{path} could not be unpacked: {error.strerror}.") from None
        yield store


def _extract(stream: _Stream, path: Path, root: Path, kinds: Sequence[type]) -> None:
    names = "|".join(kind(cls).lower() for cls in kinds)
    run_file = re.compile(rf"(?:{names})/[0-9a-f]{{16}}/[\w-]+\.(?:json|csv|safetensors)", re.ASCII)
    end = 0
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            is_plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
            content = tar.extractfile(member) if is_plain else None
            if content is None or not run_file.fullmatch(member.name):
                raise PsplibError(
                    f"{path} holds {member.name!r}, which is not a file of a run "
                    "(<experiment>/<key>/<file>); make the tar with psplib pack."
                )
            target = root / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with target.open("xb") as file:
                    while part := content.read(2**20):
                        file.write(part)
            except FileExistsError:
                raise PsplibError(f"{path} holds {member.name!r} twice.") from None
            blocks = -(-member.size // tarfile.BLOCKSIZE)
            end = member.offset_data + blocks * tarfile.BLOCKSIZE
        # A tar that was cut between two members looks whole but for its end: two blocks of zeros.
        stream.seek(end)
        rest = stream.read()
        if len(rest) < 2 * tarfile.BLOCKSIZE or any(rest):
            raise tarfile.ReadError("it has no end")
