"""Seeds of independent streams of random numbers."""

from __future__ import annotations

import hashlib


def derive(*names: object) -> int:
    """A seed for the stream of random numbers called `names`: independent of every other."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
