"""What the files of a run must hold: its kind declares it once, `insist` compares.

A name may end in `*`: one column or tensor or more whose names begin so.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

from psplib.core.artefact import Artefact


@dataclass(frozen=True)
class Column:
    """Finite values of one type from `least` to `most`, every one there unless it `has_gaps`.

    No quantity of ours comes near the bounds that it has unless given: what does was not measured.
    """

    type: type
    least: float = -1e12
    most: float = 1e12
    has_gaps: bool = False
    is_needed: bool = True

    def holds(self, values: pd.Series) -> bool:
        """Whether a column of a table is such a one."""
        if self.type is str:
            return pd.api.types.is_string_dtype(values) and not values.isna().any()
        array = values.to_numpy()
        if array.dtype.kind != np.dtype(self.type).kind:
            return False
        present = array[~np.isnan(array)]
        is_within = np.isfinite(present) & (self.least <= present) & (present <= self.most)
        return bool(is_within.all()) and (self.has_gaps or len(present) == len(array))


COUNT = Column(int, 0)
SHARE = Column(float, 0, 1)
SIZE = Column(float, 0)
NUMBER = Column(float)
NAME = Column(str)
FLAG = Column(bool)
ANY = Column(int, -1)  # a replica's number, or -1 where a network is none


@dataclass(frozen=True)
class Table:
    """`<name>.csv`: its columns, and how many rows it has or may have."""

    columns: Mapping[str, Column]
    rows: int | range
    is_needed: bool = True
    suffix = ".csv"

    def insist(self, artefact: Artefact, name: str) -> None:
        """Raise `PsplibError` unless the table of an artefact is such a one."""
        table = artefact.table(name)
        file = f"{name}{self.suffix}"
        rows = self.rows if isinstance(self.rows, range) else range(self.rows, self.rows + 1)
        artefact.insist(len(table) in rows, f"{file}, of {len(table):,} rows,")
        artefact.insist(table.index.equals(pd.RangeIndex(len(table))), f"the header of {file}")
        for column, declared in _matched(artefact, file, table, self.columns).items():
            artefact.insist(declared.holds(table[column]), f"column {column} of {file}")


@dataclass(frozen=True)
class Shape:
    """A tensor's type, as safetensors calls it, and its sizes; None where one is free."""

    type: str
    sizes: tuple[int | None, ...]


@dataclass(frozen=True)
class Tensors:
    """`<name>.safetensors`: what tensors it has."""

    arrays: Mapping[str, Shape]
    is_needed: bool = True
    suffix = ".safetensors"

    def insist(self, artefact: Artefact, name: str) -> None:
        """Raise `PsplibError` unless the tensors of an artefact are such, and finite."""
        file = f"{name}{self.suffix}"
        found = artefact.shapes(name)
        for array, declared in _matched(artefact, file, found, self.arrays).items():
            kind, sizes = found[array]
            is_so = kind == declared.type and len(sizes) == len(declared.sizes)
            pairs = zip(declared.sizes, sizes, strict=False)
            is_so = is_so and all(size in (None, found) for size, found in pairs)
            artefact.insist(is_so, f"{array} of {file}, {kind} of shape {sizes},")
        for array, values in artefact.tensors(name).items():
            artefact.insist(bool(values.isfinite().all()), f"{array} of {file}")


Files = Mapping[str, Table | Tensors]
Declared = TypeVar("Declared", Column, Shape, Table | Tensors)


def insist(artefact: Artefact, declared: Files) -> None:
    """Raise `PsplibError`, by name, unless an artefact has the files that its kind declares."""
    by_file = {f"{name}{part.suffix}": part for name, part in declared.items()}
    found = _matched(artefact, "the run", artefact.provenance["files"], by_file)
    for file, part in found.items():
        part.insist(artefact, file.removesuffix(part.suffix))


def _matched(
    artefact: Artefact, where: str, found: Iterable[str], declared: Mapping[str, Declared]
) -> dict[str, Declared]:
    """What is declared of each name that was found."""
    matched, missing = {}, {n for n, one in declared.items() if getattr(one, "is_needed", True)}
    for name in found:
        fitting = [n for n in declared if name == n or (n[-1] == "*" and name.startswith(n[:-1]))]
        artefact.insist(bool(fitting), f"{reprlib.repr(name)} in {where}")
        matched[name] = declared[fitting[0]]
        missing.discard(fitting[0])
    artefact.insist(not missing, f"{where}, without {', '.join(sorted(missing))},")
    return matched
