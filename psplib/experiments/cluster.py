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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from psplib.core import errors as checks
from psplib.core import files
from psplib.core.checkout import named
from psplib.core.errors import PsplibError
from psplib.experiments import sweep
from psplib.experiments.designs import Design
from psplib.experiments.plan import lacking
from psplib.runs.store import Store

# Ray reads these when it is imported: listen on the loopback, answer who has the token.
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
_ADDRESS = re.compile(r"auto|([^\s:/]+|\[[0-9A-Fa-f:]+\]):([0-9]{1,5})")
# What opens HTTP/2, which Ray speaks, and the type of the frame that answers (RFC 9113, 3.4).
_GREETING, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", b"\4"


def work(
    panels: Sequence[Design], store: Store, sign: Path, device: str, deadline: float | None
) -> str:
    """What a worker does: sweep until nothing lacks or the deadline has come; returns what went
    wrong, if anything. The folder `sign` shows that it sees the store that the others see."""
    if not sign.exists():
        return (
            f"A worker on {socket.gethostname()} does not see {sign}: the runs must be on a file "
            "system that all machines share."
        )
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
    reach. `jobs` runs share a GPU; on CPUs it is the number of workers, one for each unless given.
    """
    if not lacking(panels, store):
        return True
    checks.one_of("device", device, checks.DEVICES)
    if jobs is not None:
        checks.whole_number("jobs", jobs, 1)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":  # another cluster's device is not this machine's
        device = checks.device(device).type
    shared = Store(store.root.resolve())
    with (
        _joined(address, jobs) as ray,
        files.scratch(shared.root / ".work") as sign,
    ):
        where, count, share = _places(ray.cluster_resources(), device, jobs)
        loop = ray.remote(num_cpus=1, num_gpus=share)(work)
        loops = [loop.remote(panels, shared, sign, where, deadline) for _ in range(count)]

        def is_going() -> bool:
            nonlocal loops
            ended, loops = ray.wait(loops, timeout=1)
            for wrong in filter(None, map(ray.get, ended)):
                raise PsplibError(wrong)
            return bool(loops and lacking(panels, store))  # some may never get their place

        try:
            sweep.follow(panels, store, is_going, quiet)
        except ray.exceptions.RayError as error:
            said = (str(error).strip().splitlines() or ["nothing"])[-1]
            raise PsplibError(f"A worker of Ray failed ({type(error).__name__}: {said}).") from None
    return not lacking(panels, store)


def _places(resources: dict[str, float], device: str, jobs: int | None) -> tuple[str, int, float]:
    """The device of a cluster's runs (`auto` is CUDA where it has a GPU), how many loops it has a
    place for now (one, where machines are yet to come), and the share of a GPU that each has."""
    processors, cards = int(resources.get("CPU", 0)), resources.get("GPU", 0)
    if device == "cuda" and not cards:
        raise PsplibError(
            "device 'cuda' was asked for, but the Ray cluster has no GPU; use cpu or auto."
        )
    if device == "cpu" or not cards:
        return "cpu", max(1, min(processors, jobs or processors)), 0
    return "cuda", max(1, min(processors, int(cards * (jobs or 1)))), 1 / (jobs or 1)


@contextlib.contextmanager
def _joined(address: str, jobs: int | None) -> Iterator[Any]:
    """Ray, joined to a cluster or to one of this machine that is started; left or ended then."""
    folders = {name: named(name) for name in ("PSPLIB_DATA", "XDG_CACHE_HOME")}
    given = sweep.environment() | {name: str(path) for name, path in folders.items() if path}
    asked = {}
    with contextlib.ExitStack() as stack:
        if address == "local":
            short = Path("/tmp" if os.name == "posix" else tempfile.gettempdir())
            os.environ |= _ALONE | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
            asked = {
                "num_cpus": max(os.cpu_count() or 1, checks.jobs(checks.device("cpu"), jobs)),
                "include_dashboard": False,
                "object_store_memory": 80 * 2**20,  # about the least: a few names go through it
                # Its sockets lie there, and their paths may have a hundred letters.
                "_temp_dir": str(stack.enter_context(files.scratch(short))),
            }
        else:
            _reach(address)
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        try:
            ray = importlib.import_module("ray")
        except ImportError:
            raise PsplibError("The engine ray needs the extra psplib[cluster].") from None
        stack.callback(ray.shutdown)  # of what has started, should the rest not
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        try:
            ray.init(address, runtime_env={"env_vars": given}, **quiet, **asked)
        except Exception as error:  # Ray raises plain ones, too, where its processes do not start
            hint = "" if asked else "; one with a token needs RAY_AUTH_MODE=token here too"
            raise PsplibError(
                f"The Ray cluster at {address!r} could not be used ({checks.brief(error)}){hint}."
            ) from None
        yield ray


def _reach(address: str) -> None:
    """Raise `PsplibError` for no address, or where nobody speaks as Ray does: that would try for
    minutes."""
    found = _ADDRESS.fullmatch(address)
    if not found:
        raise PsplibError(f"address must be HOST:PORT or auto; got {address!r}.")
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
