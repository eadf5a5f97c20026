"""A configuration: a frozen dataclass whose canonical JSON is hashed to the key of its run.

Every field says where its value comes from; the book's table of deviations is made from that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from psplib.core.errors import PsplibError, one_of

Source = Literal["paper", "reference", "ours"]


@dataclass(frozen=True)
class Origin:
    """Where a value comes from: the paper, a reference it names, or our own choice."""

    source: Source
    why: str


def setting(
    source: Source, why: str, default: Any = dataclasses.MISSING, added: bool = False
) -> Any:
    """A dataclass field that carries its `Origin`.

    `added`: it came when runs had been published already; at its default it stays out of the
    canonical form, so that their keys remain.
    """
    assert source in get_args(Source)
    return field(default=default, metadata={"origin": Origin(source, why), "added": added})


def origins(config: Any) -> dict[str, Origin]:
    """The `Origin` of each field of a configuration that states one."""
    return {
        f.name: f.metadata["origin"] for f in dataclasses.fields(config) if "origin" in f.metadata
    }


def kind(config: Any) -> str:
    """The name of a configuration's kind, or of a class of them, as it is written in `config.json`:
    the class's own, unless its attribute `kind` says another."""
    cls = config if isinstance(config, type) else type(config)
    return getattr(cls, "kind", cls.__name__)


def canonical(config: Any) -> str:
    """The configuration as JSON: its kind, every field, sorted keys; see `setting` for the fields
    that are left out at their default."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            found = {
                f.name: plain(getattr(value, f.name))
                for f in dataclasses.fields(value)
                if not (f.metadata.get("added") and getattr(value, f.name) == f.default)
            }
            return {"type": kind(value), **found}
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        return value

    return json.dumps(plain(config), sort_keys=True, indent=1) + "\n"


def read(written: Any, kinds: Sequence[type]) -> Any:
    """The configuration that `canonical` has written as this JSON, of one of these kinds.

    `PsplibError` unless its kind is one of them and its fields are those of its kind, each of its
    own type.
    """
    name = str(written.get("type") if isinstance(written, dict) else written)[:100]
    classes = {kind(cls): cls for cls in kinds}
    one_of("the kind of a run", name, classes)
    fields = {n: value for n, value in written.items() if n != "type"}
    return record(classes[name], fields, f"A configuration of the kind {name}", kinds)


def record(cls: type, written: Any, what: str, kinds: Sequence[type] = ()) -> Any:
    """The frozen dataclass that was written as this JSON; configurations in it are of the `kinds`.

    `PsplibError` unless every field has the type that the class says: none is more than it has,
    none that has no default is missing, no number is infinite.
    """
    if not isinstance(written, dict):
        raise PsplibError(f"{what} must be an object; got {reprlib.repr(written)}.")
    known = {f.name: f for f in dataclasses.fields(cls)}
    needed = {n for n, f in known.items() if f.default is dataclasses.MISSING}
    for wrong, is_there in ((written.keys() - known, "unknown"), (needed - written.keys(), "no")):
        if wrong:
            raise PsplibError(f"{what} has {is_there} {reprlib.repr(sorted(wrong))}.")
    types = _types(cls)
    return cls(**{n: _typed(types[n], v, f"{what}: {n}", kinds) for n, v in written.items()})


@functools.cache
def _types(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _typed(wanted: Any, written: Any, what: str, kinds: Sequence[type]) -> Any:
    """A JSON value as one of the type `wanted`."""
    parts = get_args(wanted)
    if isinstance(wanted, UnionType):
        for part in parts[:-1]:
            with contextlib.suppress(PsplibError):
                return _typed(part, written, what, kinds)
        return _typed(parts[-1], written, what, kinds)
    if get_origin(wanted) is tuple and isinstance(written, list):
        return tuple(_typed(parts[0], value, what, kinds) for value in written)
    if get_origin(wanted) is dict and isinstance(written, dict):
        return {name: _typed(parts[1], value, what, kinds) for name, value in written.items()}
    if isinstance(wanted, type) and dataclasses.is_dataclass(wanted):
        is_kind = isinstance(written, dict) and "type" in written
        value = read(written, kinds) if is_kind else record(wanted, written, what)
        if isinstance(value, wanted):
            return value
    elif type(written) is wanted and (wanted is not float or isfinite(written)):
        return written
    name = getattr(wanted, "__name__", str(wanted))
    raise PsplibError(f"{what} must be of the type {name}; got {reprlib.repr(written)}.")


def key(config: Any) -> str:
    """Sixteen hexadecimal digits that name the configuration's run."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:16]
