"""A sweep on a Ray cluster: a task for each batch of runs, one store that all machines share.

A worker is told the names and keys of its runs and looks them up itself. The store's locks, its
renaming and its checkpoints make what is true of one machine true of many: each run is made once,
and goes on where its worker was killed.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from psplib.core import errors as checks
from psplib.core.config import key
from psplib.core.errors import PsplibError
from psplib.experiments import scales, sweep
from psplib.experiments.plan import batches, lacking, planned
from psplib.experiments.progress import progress
from psplib.experiments.scales import Experiment
from psplib.runs.run import Batch, Run, compute_batch
from psplib.runs.store import Store
from psplib.training.fit import OutOfTime

# How often Ray begins a task anew whose worker was killed.
_RETRIES = 3
# Seconds after which every machine sees a new folder of a shared file system.
_PATIENCE = 60.0
_OBJECTS = 80 * 2**20  # bytes, near the least that Ray takes: what goes through it is a few names


@dataclass(frozen=True)
class Task:
    """What a worker is told: the experiments, the keys of the runs to make, where, until when."""

    panels: tuple[str, ...]
    scale: str
    seed: int
    keys: tuple[str, ...]
    device: str
    root: str
    deadline: float | None


@dataclass(frozen=True)
class Answer:
    """What a worker says: whether its runs are there now, and what went wrong, if anything."""

    done: bool
    wrong: str = ""


def make(task: Task) -> Answer:
    """Make the runs of a task, in a worker; not done if another process has one of them."""
    try:
        store = Store(Path(task.root))
        batch, device = _look_up(task, store), checks.device(task.device)
        return Answer(compute_batch(batch, store, device, wait=False, deadline=task.deadline))
    except OutOfTime:
        return Answer(False)
    except PsplibError as error:
        return Answer(False, str(error))


def _look_up(task: Task, store: Store) -> Batch:
    panels = [scales.experiment(name, task.scale, task.seed) for name in task.panels]
    start = time.monotonic()
    while True:
        known = {key(c): c for panel in panels for c in planned(panel, store)}
        if not (strange := set(task.keys) - set(known)):
            return tuple(known[k] for k in task.keys)
        if time.monotonic() - start > _PATIENCE:
            raise PsplibError(
                f"A worker does not know the run {min(strange)}: every machine needs the same "
                f"psplib, and {task.root} on a file system that all of them share."
            )
        time.sleep(1)


def run(
    panels: Sequence[Experiment],
    store: Store,
    device: str = "auto",
    jobs: int | None = None,
    deadline: float | None = None,
    quiet: bool = False,
    address: str | None = None,
) -> bool:
    """Make what experiments of one scale and seed lack as tasks of Ray, like `sweep.run`.

    `address` is that of an existing cluster, else `$RAY_ADDRESS`; without either a cluster of this
    machine is started for the time of the sweep. `jobs` runs share a GPU; on this machine's CPU it
    is the number of workers.
    """
    if not lacking(panels, store):
        return True
    with _cluster(address, device, jobs) as cluster, sweep.bar(quiet) as shown:
        tasks: dict[Any, Batch] = {}
        while True:
            is_over = sweep.is_over(deadline)
            missing = lacking(panels, store)
            if not tasks and (is_over or not missing):
                return not missing
            free = 0 if is_over else cluster.slots() - len(tasks)
            for batch in _next(missing, tasks, store, cluster.device)[:free] if free > 0 else []:
                tasks[cluster.submit(_task(panels, batch, store, cluster, deadline))] = batch
            if is_over:
                _cancel_waiting(tasks, store, cluster)
            sweep.show(shown, *progress(panels, store))
            for ready in cluster.wait(list(tasks)):
                batch = tasks.pop(ready)
                if cluster.answer(ready, batch).done:
                    _await(batch, store)


def _next(
    missing: list[Run],
    tasks: dict[Any, Batch],
    store: Store,
    device: torch.device,
) -> list[Batch]:
    """The batches that nobody makes: neither a task nor another process, maybe a dying one."""
    begun = {config for batch in tasks.values() for config in batch}
    return batches(
        [c for c in missing if c not in begun and not store.running(c)], device, store.begun()
    )


def _task(
    panels: Sequence[Experiment],
    batch: Batch,
    store: Store,
    cluster: _Cluster,
    deadline: float | None,
) -> Task:
    return Task(
        tuple(panel.name for panel in panels),
        panels[0].scale,
        panels[0].seed,
        tuple(map(key, batch)),
        cluster.device.type,
        str(store.root.resolve()),
        deadline,
    )


def _cancel_waiting(tasks: dict[Any, Batch], store: Store, cluster: _Cluster) -> None:
    """Take back the tasks that have no worker yet; the others end at the deadline by themselves."""
    for task, batch in tasks.items():
        if not any(store.running(config) for config in batch):
            cluster.cancel(task)


def _await(batch: Batch, store: Store) -> None:
    """Wait until runs that a worker made are there for this machine too."""
    start = time.monotonic()
    for config in batch:
        while not store.has(config):
            if time.monotonic() - start > _PATIENCE:
                raise PsplibError(
                    f"A worker made the run {key(config)}, and it is not under {store.root} here: "
                    "the runs must be on a file system that all machines share."
                )
            time.sleep(1)


@dataclass(frozen=True)
class _Cluster:
    ray: Any
    device: torch.device
    share: float
    remote: Any

    def slots(self) -> int:
        """How many tasks the cluster runs at once, as it is now: machines come and go."""
        return _slots(self.ray.cluster_resources(), self.device, self.share)

    def submit(self, task: Task) -> Any:
        return self.remote.remote(task)

    def wait(self, tasks: list[Any]) -> list[Any]:
        """Tasks that have ended, after a second at most."""
        if not tasks:
            time.sleep(1)
            return []
        return self.ray.wait(tasks, timeout=1)[0]

    def cancel(self, task: Any) -> None:
        self.ray.cancel(task)

    def answer(self, task: Any, batch: Batch) -> Answer:
        try:
            answer: Answer = self.ray.get(task)
        except self.ray.exceptions.TaskCancelledError:
            return Answer(False)
        except self.ray.exceptions.RayError as error:
            said = (str(error).strip().splitlines() or ["nothing"])[-1]
            raise PsplibError(
                f"The worker of the run {', '.join(map(key, batch))} failed "
                f"({type(error).__name__}: {said})."
            ) from None
        if answer.wrong:
            raise PsplibError(answer.wrong)
        return answer


def _slots(resources: dict[str, float], device: torch.device, share: float) -> int:
    processors = int(resources.get("CPU", 0))
    if device.type == "cuda":
        return min(processors, round(resources.get("GPU", 0) / share))
    return processors


@contextlib.contextmanager
def _cluster(address: str | None, device: str, jobs: int | None) -> Iterator[_Cluster]:
    """Join a cluster, or start one of this machine; leave or end it afterwards."""
    checks.one_of("device", device, checks.DEVICES)
    if jobs is not None:
        checks.whole_number("jobs", jobs, 1)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    is_local = address == "local"
    # Only a local cluster's device is this machine's.
    here = checks.device(device) if is_local else None
    ray = _import()
    asked: dict[str, Any] = {}
    if here is not None:
        asked = {"include_dashboard": False, "object_store_memory": _OBJECTS}
        if here.type == "cpu":
            asked |= {"num_cpus": checks.jobs(here, jobs), "num_gpus": 0}
    else:
        _reach(address)
    try:
        ray.init(
            address,
            runtime_env={"env_vars": _environment()},
            logging_level=logging.ERROR,
            log_to_driver=False,
            **asked,
        )
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PsplibError(
            f"The Ray cluster at {address!r} could not be used: {said.rstrip('.')} "
            "(one that asks for a token needs RAY_AUTH_MODE=token here too)."
        ) from None
    try:
        where = here or _device(device, ray.cluster_resources(), jobs)
        share = 1 / checks.jobs(where, jobs) if where.type == "cuda" else 0
        remote = ray.remote(num_cpus=1, num_gpus=share, max_retries=_RETRIES)(make)
        yield _Cluster(ray, where, share, remote)
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise `PsplibError` where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition("//")[-1].rpartition(":")
    if not port.isdigit():
        return  # `auto`, which Ray knows how to find
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise PsplibError(f"No Ray cluster answers at {address!r}: {error}.") from None


def _device(name: str, resources: dict[str, float], jobs: int | None) -> torch.device:
    """The device of a cluster's runs: `auto` is CUDA where the cluster has a GPU."""
    has_gpu = bool(resources.get("GPU"))
    if name == "cuda" and not has_gpu:
        raise PsplibError(
            "device 'cuda' was asked for, but the Ray cluster has no GPU; use cpu or auto."
        )
    device = torch.device("cuda" if name != "cpu" and has_gpu else "cpu")
    if device.type == "cpu" and jobs is not None:
        raise PsplibError(
            f"jobs is for one machine or for GPUs; got {jobs} for an existing Ray cluster, "
            "which makes one run on each of its CPUs."
        )
    return device


def _environment() -> dict[str, str]:
    data = {
        name: str(Path(os.environ[name]).resolve())
        for name in ("PSPLIB_DATA", "XDG_CACHE_HOME")
        if os.environ.get(name)
    }
    return sweep.environment() | data


def _import() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads it when it starts
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise PsplibError("The engine ray needs the extra psplib[cluster].") from None
