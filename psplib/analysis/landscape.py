"""The plane through two solutions, and what probes see over a grid of it (Fig. 2a, 3 and 4)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from psplib.analysis import entropy, psp
from psplib.analysis.psp import Compacted, Observation, Probe, compacted, watching
from psplib.core import files
from psplib.core.errors import PsplibError, one_of, whole_number
from psplib.core.seeds import derive
from psplib.nn.compact import check_belongs
from psplib.nn.data import Split
from psplib.nn.faithful import ROWS, Own, as_it_was, numbers_as_they_were
from psplib.nn.masks import SUBSPACES, Mask
from psplib.nn.minibatches import Minibatches, gather
from psplib.training.fit import Checkpoint
from psplib.training.trainer import flat

LAYERS = nn.Conv2d | nn.Linear
# On a CPU as `psp.observe` does it; a GPU wants more work at once.
BATCH = {"cpu": psp.BATCH, "cuda": 2000}

Probes = Mapping[str, Callable[[], Probe]]
Columns = Callable[[str, Any], dict[str, float]]


@dataclass(frozen=True, eq=False)
class Plane:
    """The points `origin + alpha (end - origin) + beta second` of weight space: vectors (P,)
    float64 on the CPU, zero wherever `mask` prunes."""

    origin: Tensor
    end: Tensor
    second: Tensor
    mask: Mask

    @property
    def first(self) -> Tensor:
        """The direction of alpha (P,)."""
        return self.end - self.origin

    def at(self, alpha: float, beta: float) -> Tensor:
        """The weights (P,) float64 of a point; `origin` at (0, 0) and `end` at (1, 0) to the bit.

        >>> one, two = torch.tensor([0.1, 0.0, 0.5]), torch.tensor([0.3, 0.0, 0.7])
        >>> through = plane(one, two, Mask(one != 0, (("weight", (3,)),)), seed=0)
        >>> torch.equal(through.at(1, 0).float(), two)
        True
        """
        there = torch.lerp(self.origin, self.end, float(alpha))
        return there + beta * self.second if beta else there


def plane(
    gradual: Tensor, one_shot: Tensor, mask: Mask, seed: int, subspace: str = "surviving"
) -> Plane:
    """The plane through two networks (P,) that share a mask: G at (0, 0), 1-S at (1, 0).

    Its second axis is a random direction, orthogonal to 1-S − G and as long, in the `surviving`
    coordinates or in `all` of them: then points with beta ≠ 0 are dense networks. `PsplibError` if
    the weights are not finite, differ in size from the mask, are not zero where it prunes, or span
    no plane.
    """
    one_of("subspace", subspace, SUBSPACES)
    origin, end = _point("gradual", gradual, mask), _point("one-shot", one_shot, mask)
    within = mask if subspace == "surviving" else mask.with_flat(torch.ones_like(mask.flat))
    first = end - origin
    length = first.norm()
    if not length:
        raise PsplibError("The gradual and the one-shot weights are equal: they span no plane.")
    unit = first / length
    generator = torch.Generator().manual_seed(derive("plane", seed))
    noise = torch.randn(within.kept, generator=generator, dtype=first.dtype)
    second = torch.zeros_like(first).masked_scatter_(within.flat, noise)
    drawn = second.norm()
    # What the first projection leaves over by rounding, the second takes.
    for _ in range(2):
        second = (second - (second @ unit) * unit) * within.flat
    if float(second.norm()) <= 1e-9 * float(drawn):
        raise PsplibError(
            f"A second axis needs at least 2 coordinates; the mask keeps {within.kept}."
        )
    return Plane(origin, end, second * (length / second.norm()), within)


def _point(name: str, weights: Tensor, mask: Mask) -> Tensor:
    """Weights (P,) that suit a mask, as float64 on the CPU."""
    weights = weights.detach().cpu().double()
    if weights.shape != mask.flat.shape:
        raise PsplibError(
            f"The {name} weights must be of shape ({len(mask.flat)},), as the mask is; "
            f"got {tuple(weights.shape)}."
        )
    if not bool(weights.isfinite().all()):
        raise PsplibError(f"The {name} weights are not finite.")
    if outside := int(weights[~mask.flat].count_nonzero()):
        raise PsplibError(
            f"The {name} weights must be zero where the mask prunes; {outside} are not."
        )
    return weights


PROBES: Probes = {
    "score": psp.LossAndError,
    "magnitude": psp.MeanSquare,
    "first_order": entropy.FirstOrder,
    "agreement": entropy.Agreement,
}


def columns(name: str, probe: Any) -> dict[str, float]:
    """The columns that a probe becomes: loss (nats) and error (share) of a score; else the average
    over the layers under the probe's name and each layer's value under `name.layer`; of pairs
    their three entropies under their own names. Entropies are in bits."""
    if isinstance(probe, psp.LossAndError):
        return {"loss": probe.loss, "error": probe.error}
    found: dict[str, Any] = {name: probe}
    if isinstance(probe, entropy.SecondOrder):
        found = dict(probe.entropies())
    elif isinstance(probe, entropy.FirstOrder | entropy.Agreement):
        found = {name: probe.entropy()}
    row = {}
    for what, values in found.items():
        row[what] = values.mean
        row |= {f"{what}.{layer}": v for layer, v in values.by_layer.items()}
    return row


@numbers_as_they_were()
def sweep(
    model: nn.Module,
    plane: Plane,
    data: Minibatches,
    alphas: Sequence[float],
    betas: Sequence[float],
    probes: Probes = PROBES,
    checkpoint: Checkpoint | None = None,
    jobs: int | None = None,
    batch: int | None = None,
    columns: Columns = columns,
) -> pd.DataFrame:
    """Observe data at every point of a grid: a table with `alpha`, `beta` and the columns that
    `columns` makes of each probe; alpha runs fastest.

    The model gives the architecture; BatchNorm statistics are those of the split at each point
    (see `recompute_`). Rows (constant beta) are the unit of resumption and of parallel work: each
    is computed by one of `jobs` threads (as many as PyTorch may use; one on a GPU) in the same way,
    so that the table depends neither on their number nor on interruptions. `PsplibError` if the
    plane or the checkpoint belongs to something else, or potentials are not finite.
    """
    Own(model)  # refuses what cannot be looked into
    weights = flat(model)
    split = gather(data, data.x.device if isinstance(data, Split) else weights.device)
    device = split.x.device
    if weights.shape != plane.origin.shape:
        raise PsplibError(
            f"The plane is of networks with {len(plane.origin)} parameters; "
            f"the model has {len(weights)}."
        )
    for name, values in (("alphas", alphas), ("betas", betas)):
        if not len(values) or not all(math.isfinite(v) for v in values):
            raise PsplibError(f"{name} must be at least one finite number; got {list(values)}.")
    if not len(split):
        raise PsplibError("A landscape is of data; the split has no samples.")
    checkpoint = checkpoint or Checkpoint()
    jobs = (torch.get_num_threads() if device.type == "cpu" else 1) if jobs is None else jobs
    whole_number("jobs", jobs, 1)
    batch = BATCH[device.type] if batch is None else batch
    whole_number("batch", batch, 1)
    alphas, betas = [float(a) for a in alphas], [float(b) for b in betas]
    check_belongs(plane.mask, model)
    start = _weights(plane, 0.0, 0.0, model)
    rewritten = compacted(model, split.x[:ROWS], plane.mask, start) is not None
    jobs = jobs if rewritten else 1
    of_map = _Map(model, plane, split, alphas, probes, batch, rewritten)
    digest, rows, names = of_map.digest(betas), {}, []
    if (saved := checkpoint.load()) is not None:
        tensors, state = saved
        if not isinstance(state, dict) or state.get("map") != digest:
            raise PsplibError(
                f"{checkpoint.path} is of another map; remove it or use another folder."
            )
        rows, names = {int(i): t for i, t in tensors.items()}, state["columns"]

    def row(index: int) -> tuple[int, pd.DataFrame]:
        points = of_map.row(betas[index])
        return index, pd.DataFrame(
            {k: v for name, probe in point.items() for k, v in columns(name, probe).items()}
            for point in points
        )

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        jobs, initializer=torch.set_num_threads, initargs=(1 if rewritten else threads,)
    )
    try:
        missing = [i for i in range(len(betas)) if i not in rows]
        for future in as_completed([pool.submit(row, i) for i in missing]):
            index, found = future.result()
            rows[index] = torch.tensor(found.to_numpy(dtype="float64"))
            names = list(found.columns)
            if checkpoint.due:
                kept = {str(i): t for i, t in rows.items()}
                checkpoint.save(kept, {"map": digest, "columns": names})
            checkpoint.report(len(rows), len(betas), f"beta {betas[index]:+.3g}")
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
    table = pd.DataFrame(torch.cat([rows[i] for i in range(len(betas))]), columns=names)
    table.insert(0, "alpha", alphas * len(betas))
    table.insert(1, "beta", [b for b in betas for _ in alphas])
    return table


def loss_landscape(
    model: nn.Module,
    one: Tensor,
    other: Tensor,
    data: Minibatches,
    alphas: Sequence[float],
    betas: Sequence[float] = (0.0,),
    *,
    mask: Mask | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Loss and error of a network on the plane through the weights `one` and `other` (P,), at
    (0, 0) and (1, 0): `sweep` of a `plane` in the coordinates that survive in `mask`, all by
    default."""
    through = plane(one, other, Mask.dense(model) if mask is None else mask, seed)
    return sweep(model, through, data, alphas, betas, {"score": psp.LossAndError})


@dataclass(frozen=True, eq=False)
class _Map:
    """What all rows of a map have in common; `rewritten`: the compact form is the network."""

    model: nn.Module
    plane: Plane
    split: Split
    alphas: list[float]
    probes: Probes
    batch: int
    rewritten: bool

    @property
    def minibatches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Those that are shown at every point."""
        x, y = self.split.x, self.split.y
        return zip(x.split(self.batch), y.split(self.batch), strict=True)

    def digest(self, betas: list[float]) -> str:
        """What a map depends on."""
        numbers = {"alphas": self.alphas, "betas": betas, "batch": [self.batch]}
        return files.digest(
            {name: getattr(self.plane, name) for name in ("origin", "end", "second")}
            | {name: torch.tensor(values, dtype=torch.float64) for name, values in numbers.items()}
            | {"images": self.split.x, "labels": self.split.y}
            | {f"probes {' '.join(self.probes)}": torch.empty(0)}
        )

    @torch.no_grad()
    def row(self, beta: float) -> list[dict[str, Probe]]:
        """The probes of each point of a row."""
        found = [{name: make() for name, make in self.probes.items()} for _ in self.alphas]
        model, mask = self.model, self.plane.mask
        if self.rewritten:
            self._see(Compacted(model, mask, _weights(self.plane, 0.0, beta, model)), beta, found)
            return found
        with watching(model, self.split.x[:ROWS], mask, probes=found[0].values()) as whole:
            for alpha, of_point in zip(self.alphas, found, strict=True):
                with as_it_was(model):  # what a pass keeps is not the next point's
                    whole.load_(_weights(self.plane, alpha, beta, model))
                    recompute_(model, whole.read(self.split.x))
                    for x, y in self.minibatches:
                        x = whole.read(x)
                        _show(whole.see(x, y.to(x.device)), of_point, alpha, beta)
        return found

    def _see(self, watched: Compacted, beta: float, found: list[dict[str, Probe]]) -> None:
        """Batches outside, points inside: what the points share, the images and the first layer's
        potentials, is at hand."""
        x = watched.read(self.split.x)
        tensors = [*watched.model.parameters(), *watched.model.buffers()]

        def state(alpha: float) -> list[Tensor]:
            watched.load_(self.plane.at(alpha, beta).to(x.device, x.dtype))
            recompute_(watched.model, x)
            return [t.clone() for t in tensors]

        def move(point: list[Tensor]) -> None:
            for tensor, value in zip(tensors, point, strict=True):
                tensor.data = value

        points, ends = [state(alpha) for alpha in self.alphas], [state(0.0), state(1.0)]
        first = _take_first(watched, x[:1])
        for images, y in zip(x.split(self.batch), self.split.y.split(self.batch), strict=True):
            if first is not None:
                for end, point in enumerate(ends):
                    move(point)
                    first.measure(end, images)
            for alpha, point, of_point in zip(self.alphas, points, found, strict=True):
                move(point)
                if first is not None:
                    first.go(alpha)
                _show(watched.see(images, y), of_point, alpha, beta)


def _weights(plane: Plane, alpha: float, beta: float, model: nn.Module) -> Tensor:
    like = next(model.parameters())
    return plane.at(alpha, beta).to(like.device, like.dtype)


def _show(seen: Observation, probes: dict[str, Probe], alpha: float, beta: float) -> None:
    try:
        seen.check()
    except PsplibError as error:
        raise PsplibError(f"At alpha {alpha:g}, beta {beta:g}: {error}") from None
    for probe in probes.values():
        probe.update(seen)


class _First(nn.Module):
    """Stands where a network's first layer was and puts out potentials that are known already.

    They are linear in the weights: a row's lie between those at alpha 0 and 1, and are those to
    the bit there. Two convolutions a row instead of one a point.
    """

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.shape = layer, shape
        self.ends, self.z = [torch.empty(0), torch.empty(0)], torch.empty(0)

    def measure(self, end: int, images: Tensor) -> None:
        """Take in the potentials of images under the layer's weights, those of alpha = `end`."""
        # A view in the same shape may have other strides, and be multiplied in another order.
        same = images.shape[1:] == self.shape
        self.ends[end] = self.layer(images if same else images.reshape(-1, *self.shape))

    def go(self, alpha: float) -> None:
        """Put out the potentials at `alpha` from now on."""
        if self.z.shape != self.ends[0].shape:
            self.z = torch.empty_like(self.ends[0])
        # New memory of this size for every point would cost a tenth of the time in page faults.
        torch.lerp(self.ends[0], self.ends[1], alpha, out=self.z)

    def forward(self, x: Tensor) -> Tensor:
        return self.z


def _take_first(watched: Compacted, x: Tensor) -> _First | None:
    """Put a `_First` in the place of the layer that reads the images `x`, if there is one: nothing
    else comes before it, and it is not used again."""
    called: list[tuple[str, Tensor]] = []

    def note(name: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
        called.append((name, inputs[0]))

    layers = {n: m for n, m in watched.model.named_modules() if isinstance(m, LAYERS)}
    hooks = [m.register_forward_pre_hook(functools.partial(note, n)) for n, m in layers.items()]
    watched.see(x, x.new_zeros(1, dtype=torch.int64))
    for hook in hooks:
        hook.remove()
    name, read = called[0] if called else ("", x[:0])
    is_x = read.data_ptr() == x.data_ptr() and read.numel() == x.numel()
    if not (is_x and torch.equal(read, x.reshape(read.shape))) or name in dict(called[1:]):
        return None
    first = _First(layers[name], read.shape[1:])
    watched.model.set_submodule(name, first)
    return first


def recompute_(model: nn.Module, images: Tensor) -> None:
    """Set the statistics of every BatchNorm, in evaluation mode, to the mean and the (biased)
    variance of what it receives when all `images` (N, ...) are one batch.

    So they are exact and depend on no batch size; a ResNet needs about 0.2 MB of memory an image.
    `PsplibError` if one is used twice, or normalises each sample by statistics of all.
    """
    norms: dict[nn.Module, str] = {
        m: name
        for name, m in model.named_modules()
        if isinstance(m, nn.modules.batchnorm._NormBase) and m.running_mean is not None
    }
    if not norms:
        return
    renewing = _Renewing(norms)
    handles = [norm.register_forward_pre_hook(renewing.measure) for norm in norms]
    try:
        with torch.no_grad(), renewing:
            model(images.clone())  # it may begin with an in-place ReLU
    finally:
        for handle in handles:
            handle.remove()


class _Renewing(TorchFunctionMode):
    """Sets the statistics of each of the `norms`, named, to those of what it receives, and again
    where it makes something else of that before it normalises."""

    def __init__(self, norms: dict[nn.Module, str]) -> None:
        super().__init__()
        self.norms, self.measured = norms, set[nn.Module]()
        # By the mean: the norm, and of what its statistics are.
        self.seen: dict[int, tuple[Any, Tensor]] = {}

    def measure(self, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        if norm in self.measured or not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            raise PsplibError(
                f"{self.norms[norm]} ({type(norm).__name__}) has no statistics of its own at a "
                "point of a plane: only a BatchNorm that is used once in a pass has."
            )
        self.measured.add(norm)
        self._renew(norm, inputs[0])

    def _renew(self, norm: Any, x: Tensor) -> None:
        variance, mean = torch.var_mean(x, [d for d in range(x.ndim) if d != 1], correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        self.seen[id(norm.running_mean)] = norm, x

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm and id(args[1]) in self.seen:
            norm, x = self.seen[id(args[1])]
            if args[0] is not x:
                self._renew(norm, args[0])
        return func(*args, **(kwargs or {}))
