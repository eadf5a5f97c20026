"""A configuration: a frozen dataclass whose canonical JSON is hashed to the key of its run.

Every field says where its value comes from; the book's table of deviations is made from that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

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


def canonical(config: Any) -> str:
    """The configuration as JSON: its type's name, every field, sorted keys; see `setting` for the
    fields that are left out at their default."""

    def tells(value: Any, f: dataclasses.Field) -> bool:
        return not (f.metadata.get("added") and getattr(value, f.name) == f.default)

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            told = [f.name for f in dataclasses.fields(value) if tells(value, f)]
            fields = {name: plain(getattr(value, name)) for name in told}
            return {"type": type(value).__name__, **fields}
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        return value

    return json.dumps(plain(config), sort_keys=True, indent=1) + "\n"


def key(config: Any) -> str:
    """Sixteen hexadecimal digits that name the configuration's run."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:16]
