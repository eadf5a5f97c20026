"""Finished runs as one tar, from a machine that made them to the one that publishes them.

Whoever opens a tar trusts nothing in it: only files `<experiment>/<key>/<file>` are taken out, into
a folder of their own and no more than fits, and a run counts when its digests and its tables are
right.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from psplib.core import files
from psplib.core.artefact import LARGEST, Artefact
from psplib.core.config import kind
from psplib.core.errors import PsplibError, reason
from psplib.runs.store import Store

_Stream = BinaryIO | gzip.GzipFile
_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_GZIP = b"\x1f\x8b"
# Who sends more sends it in several tars: bytes, files, and how many bytes one compressed byte may
# become (runs: about 3).
MOST_BYTES, MOST_FILES, MOST_RATIO = 2**33, 2**13, 50
_BLOCK, _PIECE = tarfile.BLOCKSIZE, 2**20


def check_name(path: Path) -> None:
    """Raise `PsplibError` unless a tar may have this name."""
    if not path.name.endswith(_SUFFIXES):
        raise PsplibError(f"A tar is called *{', *'.join(_SUFFIXES)}; got {str(path)!r}.")


def pack_runs(artefacts: Iterable[Artefact], path: Path) -> None:
    """Write runs to a tar, compressed if it is called so; the same runs give the same bytes."""
    check_name(path)
    with files.replacing(path) as file, contextlib.ExitStack() as stack:
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
                member = tarfile.TarInfo(f"{folder.parent.name}/{folder.name}/{name}")
                member.size = (folder / name).stat().st_size
                # A tar has no sum over what its files hold, and a plain file no use for this field.
                member.linkname = files.sha256(folder / name) or ""
                with (folder / name).open("rb") as content:
                    tar.addfile(member, content)


@contextlib.contextmanager
def unpack_runs(path: Path, kinds: Sequence[type]) -> Iterator[Store]:
    """The runs of a tar as a store, for as long as the context lasts; not checked yet.

    `PsplibError` unless the tar is whole, every member is a file of a run of these kinds, and none
    of them nor all together are larger than runs are.
    """
    with files.scratch(Path(tempfile.gettempdir())) as folder:
        store = Store(folder / path.name)
        try:
            store.root.mkdir()
            if path.exists() and not path.is_file():
                raise PsplibError(f"{path} is not a file.")
            with contextlib.ExitStack() as stack:
                stream: _Stream = stack.enter_context(path.open("rb"))
                most = MOST_BYTES
                if stream.read(2) == _GZIP:
                    most = min(most, MOST_RATIO * path.stat().st_size + _PIECE)
                    stream.seek(0)
                    stream = stack.enter_context(gzip.GzipFile(fileobj=stream, mode="rb"))
                stream.seek(0)
                _extract(stream, path, store.root, kinds, most)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise PsplibError(f"{path} is not a whole tar: {error}; send it again.") from None
        except OSError as error:
            raise PsplibError(f"{path} could not be unpacked: {reason(error)}.") from None
        yield store


def _extract(stream: _Stream, path: Path, root: Path, kinds: Sequence[type], most: int) -> None:
    """Take the files out of a tar that holds `most` bytes at most; its headers are read one by one,
    for the tar module would follow links, extensions and holes to any size."""
    names = "|".join(kind(cls).lower() for cls in kinds)
    run_file = re.compile(rf"(?:{names})/[0-9a-f]{{16}}/[\w-]+\.(?:json|csv|safetensors)", re.ASCII)
    seen = 0
    while any(block := stream.read(_BLOCK)):
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        name = member.name
        is_plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if not is_plain or not run_file.fullmatch(name):
            raise PsplibError(
                f"{path} holds {name!r}, which is not a file of a run "
                "(<experiment>/<key>/<file>); make the tar with psplib pack."
            )
        most -= member.size + _BLOCK
        seen += 1
        if not 0 <= member.size <= LARGEST[PurePosixPath(name).suffix] or most < 0:
            raise PsplibError(f"{path} holds more bytes than runs have, up to {name!r}.")
        if seen > MOST_FILES:
            raise PsplibError(f"{path} holds more than {MOST_FILES:,} files; make several tars.")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            with (root / name).open("xb") as file:
                for part in _pieces(stream, member.size):
                    file.write(part)
        except FileExistsError:
            raise PsplibError(f"{path} holds {name!r} twice.") from None
        for _ in _pieces(stream, -member.size % _BLOCK):
            pass
        if member.linkname not in ("", files.sha256(root / name)):
            raise tarfile.ReadError(f"{name} is not what was packed")
    # A tar that was cut between two members looks whole but for its end: two blocks of zeros, and
    # as many more as fill up a record.
    end = block + stream.read(_PIECE)
    if len(end) < 2 * _BLOCK or any(end) or stream.read(1):
        raise tarfile.ReadError("it has no end")


def _pieces(stream: _Stream, size: int) -> Iterator[bytes]:
    while size:
        part = stream.read(min(size, _PIECE))
        if not part:
            raise tarfile.ReadError("unexpected end of data")
        size -= len(part)
        yield part
