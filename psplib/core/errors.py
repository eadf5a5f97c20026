"""Arguments from outside: every bad one ends in one sentence that names it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class PsplibError(Exception):
    """Something the user can mend; the message is one sentence that says what and how."""


def reason(error: OSError) -> str:
    """What the system says of an error; some have no words of their own."""
    return error.strerror or str(error) or type(error).__name__


def brief(error: Exception) -> str:
    """What somebody else's error says, in one line that is not long."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def one_of(what: str, value: object, choices: Iterable[object]) -> None:
    """Raise `PsplibError` unless `value` is among `choices`.

    >>> one_of("scale", "huge", ["smoke", "paper"])
    Traceback (most recent call last):
    psplib.core.errors.PsplibError: scale must be one of smoke, paper; got 'huge'.
    """
    choices = list(choices)
    if value not in choices:
        listed = ", ".join(map(str, choices))
        raise PsplibError(f"{what} must be one of {listed}; got {value!r}.")


def whole_number(what: str, value: object, least: int = 0, most: float = math.inf) -> None:
    """Raise `PsplibError` unless `value` is an int of at least `least` and at most `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        is_large = isinstance(value, int) and value > most
        bound = f"at most {most}" if is_large else f"at least {least}"
        raise PsplibError(f"{what} must be a whole number of {bound}; got {value!r}.")


DEVICES = ("auto", "cpu", "cuda")


def device(name: str = "auto") -> torch.device:
    """The torch device called `name`; `auto` is CUDA where there is one, else the CPU."""
    import torch  # not before a command runs: it takes seconds

    one_of("device", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise PsplibError(
            "device 'cuda' was asked for, but torch sees no CUDA device; use cpu or auto."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def jobs(device: torch.device, asked: int | None = None) -> int:
    """How many runs to make side by side: as asked, else one on a GPU, one a core on a CPU."""
    if asked is None:
        return 1 if device.type == "cuda" else os.cpu_count() or 1
    whole_number("jobs", asked, 1)
    # More only wait for the same memory: a run takes half a gigabyte.
    if asked > (most := 4 * (os.cpu_count() or 1)):
        raise PsplibError(f"jobs must be at most {most}, four a core of this machine; got {asked}.")
    return asked
