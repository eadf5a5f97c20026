"""A sweep on a Ray cluster: the loop of `sweep.run`, once for each place that the cluster has.

All loops share one store. Its locks, its renaming and its checkpoints make what is true of one
machine true of many: each run is made once. A loop whose worker was killed is begun anew by Ray,
and goes on from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from psplib.core import errors as checks
from psplib.core import files
from psplib.core.checkout import named
from psplib.core.errors import PsplibError
from psplib.experiments import sweep
from psplib.experiments.designs import Design
from psplib.experiments.plan import lacking
from psplib.runs.store import Store

# How often Ray begins a loop anew whose worker was killed.
_RETRIES = 3
# Seconds after which every machine sees a new file of a shared file system.
_PATIENCE = 60.0
_OBJECTS = 80 * 2**20  # bytes, near the least that Ray takes: what goes through it is a few names
# What opens HTTP/2, which Ray speaks, and the type of the frame that answers (RFC 9113, 3.4).
_GREETING, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", b"\4"
_ADDRESS = re.compile(r"auto|(?:ray://)?([^\s:/]+|\[[0-9A-Fa-f:]+\]):([0-9]{1,5})")


def work(
    panels: Sequence[Design], store: Store, sign: Path, device: str, deadline: float | None
) -> str:
    """What a worker does: sweep until nothing lacks or the deadline has come; returns what went
    wrong, if anything. The folder `sign` shows that it sees the store that the others see."""
    start = time.monotonic()
    while not sign.exists():
        if time.monotonic() - start > _PATIENCE:
            return (
                f"A worker on {socket.gethostname()} does not see {sign}: the runs must be on a "
                "file system that all machines share."
            )
        time.sleep(1)
    try:
        sweep.run(panels, store, checks.device(device), deadline=deadline, quiet=True)
    except PsplibError as error:
        return str(error)
    return ""


def run_on_ray(
    panels: Sequence[Design],
    store: Store,
    device: str = "auto",
    jobs: int | None = None,
    deadline: float | None = None,
    quiet: bool = False,
    address: str | None = None,
) -> bool:
    """Make what experiments of one scale and seed lack in workers of Ray, like `sweep.run`.

    `address` is that of an existing cluster, else `$RAY_ADDRESS`; without either a cluster of this
    machine is started for the time of the sweep, which no other machine and no other user can
    reach. `jobs` runs share a GPU; on this machine's CPU it is the number of workers.
    """
    if not lacking(panels, store):
        return True
    shared = Store(store.root.resolve())
    with (
        _cluster(address, device, jobs) as (ray, where),
        files.scratch(shared.root / ".work") as sign,
    ):
        share = 1 / checks.jobs(where, jobs) if where.type == "cuda" else 0
        loop = ray.remote(num_cpus=1, num_gpus=share, max_retries=_RETRIES)(work)
        asked = panels, shared, sign, where.type, deadline
        loops = [loop.remote(*asked) for _ in range(_places(ray.cluster_resources(), share))]

        def is_going() -> bool:
            nonlocal loops
            ended, loops = ray.wait(loops, timeout=1)
            for wrong in filter(None, map(ray.get, ended)):
                raise PsplibError(wrong)
            return bool(loops)

        try:
            sweep.follow(panels, store, is_going, quiet)
        except ray.exceptions.RayError as error:
            said = (str(error).strip().splitlines() or ["nothing"])[-1]
            raise PsplibError(f"A worker of Ray failed ({type(error).__name__}: {said}).") from None
    return not lacking(panels, store)


def _places(resources: dict[str, float], share: float) -> int:
    """How many loops a cluster has a place for now; one, where machines are yet to come."""
    processors = int(resources.get("CPU", 0))
    return max(1, min(processors, round(resources.get("GPU", 0) / share)) if share else processors)


@contextlib.contextmanager
def _cluster(
    address: str | None, device: str, jobs: int | None
) -> Iterator[tuple[Any, torch.device]]:
    """Join a cluster, or start one of this machine; leave or end it afterwards. Ray itself, and
    the device of the runs."""
    checks.one_of("device", device, checks.DEVICES)
    if jobs is not None:
        checks.whole_number("jobs", jobs, 1)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    here, asked = None, dict[str, Any]()
    with contextlib.ExitStack() as stack:
        if address == "local":
            here = checks.device(device)  # another cluster's is not this machine's
            # Its sockets lie there, and their paths may have a hundred letters.
            short = Path("/tmp" if os.name == "posix" else tempfile.gettempdir())
            asked = {"include_dashboard": False, "object_store_memory": _OBJECTS}
            asked["_temp_dir"] = str(stack.enter_context(files.scratch(short)))
            if here.type == "cpu":
                asked |= {"num_cpus": checks.jobs(here, jobs), "num_gpus": 0}
            # Ray reads these when it is imported: listen on the loopback, answer who has the token.
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        else:
            _reach(address)
        ray = _import()
        stack.callback(ray.shutdown)  # of what has started, should the rest not
        try:
            ray.init(
                address,
                runtime_env={"env_vars": _environment()},
                logging_level=logging.ERROR,
                log_to_driver=False,
                **asked,
            )
        except Exception as error:  # Ray raises plain ones, too, where its processes do not start
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            hint = "" if here else " (one with a token needs RAY_AUTH_MODE=token here too)"
            raise PsplibError(
                f"The Ray cluster at {address!r} could not be used: {said.rstrip('.')}{hint}."
            ) from None
        yield ray, here or _device(device, ray.cluster_resources(), jobs)


def _reach(address: str) -> None:
    """Raise `PsplibError` for no address, or where nobody speaks as Ray does: that would try for
    minutes."""
    found = _ADDRESS.fullmatch(address)
    if not found:
        raise PsplibError(f"address must be HOST:PORT, ray://HOST:PORT or auto; got {address!r}.")
    host, port = found.groups()
    is_encrypted = os.environ.get("RAY_USE_TLS", "0") not in ("", "0")
    try:
        if host:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as link:
                link.sendall(_GREETING)
                if not is_encrypted and link.makefile("rb").read(4)[3:] != _SETTINGS:
                    raise OSError("what is there is something else")
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
    folders = {name: named(name) for name in ("PSPLIB_DATA", "XDG_CACHE_HOME")}
    return sweep.environment() | {name: str(folder) for name, folder in folders.items() if folder}


def _import() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads it when it starts
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise PsplibError("The engine ray needs the extra psplib[cluster].") from None
