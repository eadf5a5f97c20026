"""The paper's experiments: what runs they are made of, in the order of their worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from psplib.core.config import key
from psplib.experiments.designs import Design
from psplib.runs.run import Batch, Run
from psplib.runs.store import Store


def lacking(panels: Sequence[Design], store: Store) -> list[Run]:
    """The runs that experiments lack, the most valuable first: what is first in each of them (see
    `planned`), then what is second in each, and so on.

    So a short budget gives every figure its first verdict before any of them its last digit; and
    the gradual runs, on which everything hangs, come before all that is made from them.
    """
    places = [enumerate(panel.runs(store)) for panel in panels]
    ranked = sorted((p for place in places for p in place), key=lambda ranked: ranked[0])
    return list(dict.fromkeys(config for _, config in ranked if not store.has(config)))


def batches(
    missing: Sequence[Run], device: torch.device, begun: Sequence[tuple[str, ...]] = ()
) -> list[Batch]:
    """Runs that one program makes at once on a device, in the order of their worth.

    On a GPU, gradual runs, and retrainings, of one architecture, data set and recipe go together,
    so that all arms and sparsities of a panel share a program; those `begun` together (their keys)
    stay together. On a CPU every run is alone: networks in their own compact form, one a core, are
    faster than any number of them in one program (`python -m benchmarks.replicas`).
    """
    if device.type == "cpu":
        return [(config,) for config in missing]
    left = {key(config): config for config in missing}
    found = [tuple(left.pop(k) for k in keys) for keys in begun if all(k in left for k in keys)]
    alike: dict[Any, list[Run]] = {}
    for name, config in left.items():
        alike.setdefault(config.program.recipe if config.program else name, []).append(config)
    for configs in alike.values():
        batch: list[Run] = []
        networks = 0
        for config in configs:
            program = config.program
            if batch and program and networks + program.networks > program.most:
                found.append(tuple(batch))
                batch, networks = [], 0
            batch.append(config)
            networks += program.networks if program else 1
        found.append(tuple(batch))
    worth = {config: place for place, config in enumerate(missing)}
    return sorted(found, key=lambda batch: worth[batch[0]])
