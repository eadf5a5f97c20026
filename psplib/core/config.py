"""A configuration: a frozen dataclass whose canonical JSON is hashed to the key of its run.

Every field says where its value comes from; the book's table of deviations is made from that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

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

    def is_written(value: Any, f: dataclasses.Field) -> bool:
        return not (f.metadata.get("added") and getattr(value, f.name) == f.default)

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [f.name for f in dataclasses.fields(value) if is_written(value, f)]
            return {"type": kind(value), **{name: plain(getattr(value, name)) for name in names}}
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        return value

    return json.dumps(plain(config), sort_keys=True, indent=1) + "\n"


def read(written: Any, kinds: Sequence[type]) -> Any:
    """The configuration that `canonical` has written as this JSON, of one of these kinds.

    `PsplibError` if its kind is none of them or it has other fields than its kind.
    """
    if isinstance(written, list):
        return tuple(read(value, kinds) for value in written)
    if not isinstance(written, dict):
        return written
    name = str(written.get("type"))
    classes = {kind(cls): cls for cls in kinds}
    one_of("the kind of a run", name, classes)
    fields = {n: read(value, kinds) for n, value in written.items() if n != "type"}
    try:
        return classes[name](**fields)
    except TypeError as error:
        raise PsplibError(f"A configuration of the kind {name} is not whole: {error}.") from None


def key(config: Any) -> str:
    """Sixteen hexadecimal digits that name the configuration's run."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:16]
