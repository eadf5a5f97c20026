"""The paper's experiments: what runs they are made of, in the order of their worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from psplib.core.config import key
from psplib.experiments.scales import (
    Beyond,
    Controlled,
    Controls,
    Experiment,
    Minima,
    Panel,
    Replication,
    Rivals,
)
from psplib.experiments.transfer import Transfers
from psplib.pruning.lobster import KEPT_ABOVE, Lobster
from psplib.pruning.retraining import Retraining
from psplib.pruning.sensitivity import Sensitivity
from psplib.runs.run import Batch, Run
from psplib.runs.store import Store


def planned(panel: Experiment, store: Store) -> list[Run]:
    """The runs of an experiment, in the order of their worth.

    How many points a gradual run has is known only when it is done: until then the retrainings
    from its masks are not in the list; nor is what analyses a retraining that is not done.
    """
    if isinstance(panel, Beyond):
        return [c for rivals in panel.networks for c in plan_rivals(rivals, store)]
    if isinstance(panel, Controls):
        return [c for network in panel.networks for c in plan_controlled(network, store)]
    if isinstance(panel, Transfers):
        return [c for source in panel.sources for c in panel.plan(source, store)]
    if isinstance(panel, Replication):
        return _plan_replication(panel, store)
    return _plan_minima(panel, store) if isinstance(panel, Minima) else _plan_panel(panel, store)


def plan_rivals(rivals: Rivals, store: Store) -> list[Run]:
    """The runs of one network of "beyond the paper"."""
    first, *others = rivals.lobsters
    if not store.has(first):
        return [first, *rivals.decays, *others]
    densities = [1 - s for s in store.load(first).table("points")["sparsity"]]
    return [
        first,
        Sensitivity(first),
        *rivals.decays[:1],
        *rivals.magnitudes(densities),
        *rivals.rewound(densities),
        *rivals.renda(densities),
        *rivals.decays[1:],
        *others,
    ]


def plan_controlled(network: Controlled, store: Store) -> list[Run]:
    """The runs of one network of the controls: stage by stage, and in each of them gradual run by
    gradual run, first those whose 1-S is there."""
    sparsities = {
        run: store.load(run).table("points")["sparsity"].tolist()
        for run in network.lobsters
        if store.has(run)
    }

    def last(template: Retraining, lobster: Lobster) -> Retraining:
        point = len(sparsities[lobster]) - 1
        return dataclasses.replace(template, lobster=lobster, point=point)

    found: list[Run] = list(network.lobsters)
    one_shot = network.arms[0]
    for stage in network.stages:
        for lobster in sorted(sparsities, key=lambda run: not store.has(last(one_shot, run))):
            for retraining in (last(template, lobster) for template in stage):
                found.append(retraining)
                if store.has(retraining) and sparsities[lobster][-1] >= KEPT_ABOVE:
                    found.append(network.census(retraining))
    return found


def _plan_minima(panel: Minima, store: Store) -> list[Run]:
    found: list[Run] = []
    later: list[Run] = []
    last: list[Run] = []
    for gradual in panel.lobsters:
        found.append(gradual)
        if not store.has(gradual):
            continue
        points = len(store.load(gradual).table("points"))
        for arm in panel.arms(gradual):
            retraining = panel.retraining(gradual, points, arm)
            found.append(retraining)
            if store.has(retraining):
                found.append(panel.census(retraining))
                if arm == "rewound":
                    found += [panel.sharpness(retraining), panel.selectivity(retraining)]
                if gradual == panel.lobsters[0] and arm == "rewound":
                    later = list(panel.analyses(retraining).values())
                    last = [panel.profile(retraining)]
    # The first run's map and curvature come before everything that is not there yet.
    there = [c for c in found if store.has(c)]
    return [*there, *later, *(c for c in found if c not in there), *last]


def _plan_replication(panel: Replication, store: Store) -> list[Run]:
    found: list[Run] = list(panel.lobsters)
    for lobster in panel.lobsters[1:]:
        if store.has(lobster):
            sparsities = store.load(lobster).table("points")["sparsity"].tolist()
            for retraining in panel.retrainings(lobster, sparsities):
                found.append(retraining)
                if store.has(retraining) and sparsities[retraining.point] >= KEPT_ABOVE:
                    found.append(panel.census(retraining))
                    if retraining.arm == "rewound" and retraining.point == len(sparsities) - 1:
                        found += [panel.sharpness(retraining), panel.selectivity(retraining)]
    return found


def _plan_panel(panel: Panel, store: Store) -> list[Run]:
    gradual: list[Run] = [*panel.lobsters[:1], panel.dense, *panel.lobsters[1:]]
    if not store.has(panel.lobsters[0]):
        return gradual
    points = store.load(panel.lobsters[0]).table("points")
    retrained = panel.retrainings([1 - s for s in points["sparsity"]])
    return [*gradual, *panel.thresholds, *retrained]


def lacking(panels: Sequence[Experiment], store: Store) -> list[Run]:
    """The runs that experiments lack, the most valuable first: what is first in each of them (see
    `planned`), then what is second in each, and so on.

    So a short budget gives every figure its first verdict before any of them its last digit; and
    the gradual runs, on which everything hangs, come before all that is made from them.
    """
    places = [enumerate(planned(panel, store)) for panel in panels]
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
