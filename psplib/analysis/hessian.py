"""The Hessian of a network's training loss, and its leading eigenvalues along a line of weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from psplib.analysis.eigen import Eigenpairs, check_finite, leading, legacy
from psplib.analysis.rop import Autograd, Loss, ROperator, chain_of
from psplib.core.errors import PsplibError, one_of, whole_number
from psplib.nn.compact import check_belongs, compact
from psplib.nn.data import Split
from psplib.nn.faithful import ROWS, Own, agrees, as_it_was, numbers_as_they_were
from psplib.nn.masks import SUBSPACES, Mask
from psplib.nn.minibatches import Minibatches, check_labels, gather
from psplib.nn.wiring import live_units, wire
from psplib.training.trainer import channels_last

DEFINITIONS = ("converged", "legacy")
# Images a batch: on a CPU what a layer puts out should stay in its cache (measured).
BATCH = {"cpu": 250, "cuda": 2000}


@dataclass(frozen=True, eq=False)
class Hessian:
    """The Hessian of the mean loss of a network over a split, in D of its P coordinates.

    `coordinates` (D,) int64 holds their positions in the full vector. Those without any path from
    the input to the output are among them: their rows are zero.
    """

    coordinates: Tensor
    parameters: int
    dtype: torch.dtype
    _engine: Autograd | ROperator
    # Where the engine's p parameters stand in the full vector.
    _index: Tensor

    @property
    def size(self) -> int:
        """The dimension D."""
        return len(self.coordinates)

    @property
    def device(self) -> torch.device:
        """Where vectors live."""
        return self.coordinates.device

    def __matmul__(self, vector: Tensor) -> Tensor:
        """The product with a vector (D,), computed in `dtype`, in the dtype of the vector."""
        if vector.shape != (self.size,):
            raise PsplibError(
                f"A vector for this Hessian must have shape ({self.size},); "
                f"got {tuple(vector.shape)}."
            )
        product = self._engine.product(self.expand(vector)[self._index].to(self.dtype))
        if bool(vector.isfinite().all()) and not bool(product.isfinite().all()):
            raise PsplibError("A product with the Hessian is not finite.")
        full = vector.new_zeros(self.parameters)
        full[self._index] = product.to(vector.dtype)
        return full[self.coordinates]

    def expand(self, vectors: Tensor) -> Tensor:
        """Vectors (..., D) in full coordinates (..., P); zero elsewhere."""
        full = vectors.new_zeros(*vectors.shape[:-1], self.parameters)
        full[..., self.coordinates] = vectors
        return full


@numbers_as_they_were()
def hessian(
    model: nn.Module,
    data: Minibatches,
    mask: Mask | None = None,
    subspace: str = "surviving",
    *,
    loss: Loss = F.cross_entropy,
    dtype: torch.dtype | None = None,
    batch_size: int | None = None,
) -> Hessian:
    """The Hessian of the mean loss over `data` at the model's weights, pruned ones set to zero.

    Its coordinates are those that survive in `mask` (`surviving`: the network runs in its compact
    form), or all P (`all`: a pruned weight is zero, but its curvature counts); a frozen parameter
    is one like any other. BatchNorm is in evaluation mode. Every sample has the same weight,
    however the batches fall. Products are computed in `dtype` (default: the model's, at least
    float32) on the device of the data. Another `loss` takes outputs, labels and `reduction="sum"`.
    `data` are a `Split`, a data set or an iterable of minibatches (x, y). The model is not changed.

    Chains of Conv2d, Linear, ReLU, MaxPool2d under cross-entropy use Pearlmutter's R-operator
    (Neural Computation 6, 1994) written out; other networks and losses, double backpropagation of
    the network itself.

    Raises `PsplibError` for a mask of another network, no survivors, weights or images that are not
    finite, data without samples, labels that are no class, outputs for a sample that are not its
    own, and a loss whose gradients autograd does not differentiate right: in float64, where the
    network computes in it, a product must be the difference of two gradients.
    """
    one_of("subspace", subspace, SUBSPACES)
    if batch_size is not None:
        whole_number("batch_size", batch_size, 1)
    own, everything = Own(model), Mask.dense(model)
    mask = everything if mask is None else mask
    check_belongs(mask, model)
    if not mask.kept:
        raise PsplibError("The mask prunes every parameter; a Hessian needs at least one.")
    weights = torch.cat([p.detach().cpu().flatten() for p in model.parameters()]) * mask.flat
    check_finite("The weights of the network", weights)
    split = gather(data, data.x.device if isinstance(data, Split) else own.device)
    if not len(split):
        raise PsplibError("A Hessian is of data; they have no samples.")
    check_finite("The images", split.x)
    device = split.x.device
    dtype = dtype or torch.promote_types(weights.dtype, torch.float32)
    x = split.x.to(dtype) if split.x.is_floating_point() else split.x
    batch_size = batch_size or BATCH.get(device.type, 250)
    wanted = mask if subspace == "surviving" else everything
    seen = mask if subspace == "surviving" else _moving(own.model, mask)
    values = weights.to(dtype)
    with torch.no_grad(), own.at(values, dtype):
        outputs = own(x[:1].to(own.device))
    few, labels = _without_ties(x[:ROWS]) if x.is_floating_point() else x[:ROWS], split.y[:ROWS]
    if loss is F.cross_entropy:
        if outputs.ndim != 2:
            raise PsplibError(
                f"Cross-entropy is of logits (B, C); {type(model).__name__} puts out "
                f"{tuple(outputs.shape)}: give a loss of your own."
            )
        check_labels(split.y, outputs.shape[1])
        # Labels that it does not foresee, so that the gradient is large.
        labels = torch.arange(len(few), device=device) % outputs.shape[-1]
    found = _rewritten(own, values, seen, x, split.y, few, labels, batch_size, loss)
    if found is None:
        with torch.no_grad(), own.at(values, dtype):
            own.check_samples(x)
            first = x[:batch_size].to(own.device)
            own.check_minibatch(own(first), first)
        _check_differentiable(own, values.double(), few, labels, loss)
        index = torch.arange(len(wanted.flat))
        data_of = (x.to(own.device), split.y.to(own.device))
        found = Autograd(own, values.to(own.device), *data_of, batch_size, loss), index
        device = own.device
    engine, index = found
    coordinates = wanted.flat.nonzero().flatten()
    return Hessian(coordinates.to(device), len(wanted.flat), dtype, engine, index.to(device))


def _without_ties(x: Tensor) -> Tensor:
    """Images in float64, each number a hundredth of the way to a random one of their range: in a
    ground of one colour all patches are alike, and which of them a maximum takes, and with it the
    gradient of the pruned weights, hangs on how an algorithm rounds."""
    x = x.double()
    low, high = x.aminmax()
    drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    return torch.lerp(x, low + (high - low) * drawn.to(x.device), 0.01)


def _moving(model: nn.Module, mask: Mask) -> Mask:
    """The parameters of a network under `mask` whose rows of the Hessian in all coordinates need
    not be zero.

    A hidden unit that no surviving parameter feeds holds z = 0 for every input. ReLU has no slope
    there: neither its incoming nor its outgoing weights move the loss, to second order.
    """
    everything, wiring = Mask.dense(model), wire(model)
    if wiring is None or type(model) is not nn.Sequential:
        return everything
    fed, full = live_units(wiring, dict(mask.split(mask.flat)), unread=True)
    rectified = set(wiring.relus.values())
    moves = {
        group: torch.isin(torch.arange(units), fed[group]) | (group not in rectified)
        for group, units in full.items()
    }
    parts = dict(everything.split(everything.flat.clone()))
    for link in wiring.links:
        rows, columns = moves[link.target], moves[link.source]
        weight = parts[f"{link.layer}.weight"]
        weight &= (
            (rows[:, None] & columns)
            .repeat_interleave(weight[0].numel() // len(columns), 1)
            .view_as(weight)
        )
        if f"{link.layer}.bias" in parts:
            parts[f"{link.layer}.bias"] &= rows
    return mask.with_flat(torch.cat([part.flatten() for part in parts.values()]))


def _rewritten(
    own: Own,
    values: Tensor,
    seen: Mask,
    x: Tensor,
    y: Tensor,
    few: Tensor,
    labels: Tensor,
    batch_size: int,
    loss: Loss,
) -> tuple[Autograd | ROperator, Tensor] | None:
    """The Hessian in the compact form of a network, and the positions of its parameters; None
    where there is none, or a product over a `few` samples is not the network's own."""
    if wire(own.model) is None or not x.is_floating_point():
        return None
    try:
        form = compact(own.model, seen, sparse=False)
    except Exception:  # of any kind: what a copy of the user's modules raises
        return None
    small = form.model.to(x.device).eval()

    def engine(x: Tensor, y: Tensor) -> Autograd | ROperator:
        small.to(x.dtype)
        form.load_(values.to(x.device, x.dtype))
        layers = chain_of(small)
        if layers is not None and loss is F.cross_entropy:
            return ROperator(layers, x, y, batch_size)
        weights = values[form.index].to(x.device, x.dtype)
        return Autograd(Own(small), weights, channels_last(x), y, batch_size, loss)

    # In float64 outputs and products are the same, if the form is the network.
    vector = torch.randn(
        len(form.index), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    try:
        product = engine(form.read(few), labels).product(vector.to(x.device)).cpu()
        with torch.no_grad():
            outputs = small(form.read(x[:ROWS].double()))
    except RuntimeError:
        return None
    where = own.device
    with torch.no_grad(), own.at(values.double().to(where), torch.float64):
        same = agrees(outputs.to(where), own(x[:ROWS].double().to(where)))
    data = few.to(where), labels.to(where)
    plain = Autograd(own, values.double().to(where), *data, len(labels), loss)
    expected = plain.product(form.expand(vector).to(where)).cpu()
    if not (same and agrees(product, expected[form.index])):
        return None
    return engine(form.read(x), y), form.index


def _check_differentiable(own: Own, values: Tensor, x: Tensor, y: Tensor, loss: Loss) -> None:
    """Raise `PsplibError` unless autograd has the second derivative of a network's loss: in
    float64, where differences tell; a network that computes in another type is believed."""
    where, types = own.device, _Types()
    values, x = values.to(where), x.to(where)
    try:
        with torch.no_grad(), own.at(values, values.dtype), types:
            own(x)
    except PsplibError:
        return
    if types.seen <= {torch.float64}:
        Autograd(own, values, x, y.to(where), len(y), loss).check()


class _Types(TorchFunctionMode):
    """Collects in which types of floats a network computes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.is_floating_point():
            self.seen.add(found.dtype)
        return found


def eigenvalues(
    model: nn.Module,
    data: Minibatches,
    k: int = 5,
    mask: Mask | None = None,
    subspace: str = "surviving",
    *,
    tolerance: float = 1e-3,
    loss: Loss = F.cross_entropy,
    seed: int = 0,
) -> Eigenpairs:
    """The `k` leading eigenpairs of the Hessian of a network's mean loss, with their residuals.

    Lanczos until every residual ‖Hv − λv‖ is at most `tolerance·|λ₁|`; see `hessian` for the
    arguments and the errors, `leading` for the algorithm.
    """
    return leading(hessian(model, data, mask, subspace, loss=loss), k, tolerance, seed=seed)


def eigenvalues_along(
    model: nn.Module,
    data: Minibatches,
    first: Tensor,
    second: Tensor,
    alphas: Sequence[float],
    mask: Mask | None = None,
    subspace: str = "surviving",
    *,
    k: int = 5,
    definition: str = "converged",
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Iterator[pd.DataFrame]:
    """The leading eigenvalues at `first` + α·(`second` − `first`) (Fig. 2b), point after point.

    Each α yields a table with a row for each eigenvalue: `alpha`, `rank`, `eigenvalue`, `residual`,
    `products`, `converged`. `first` and `second` (P,) are full vectors. No point knows another (the
    eigenvectors of the last would save 3 products of 17): to resume, ask for the rest.
    """
    one_of("definition", definition, DEFINITIONS)
    own = Own(model)
    size = sum(p.numel() for p in own.parameters)
    for name, end in (("first", first), ("second", second)):
        if end.shape != (size,):
            raise PsplibError(f"{name} must have shape ({size},); got {tuple(end.shape)}.")
    split = gather(data, data.x.device if isinstance(data, Split) else own.device)
    for alpha in alphas:
        with as_it_was(model):
            own.load_(torch.lerp(first.double(), second.double(), alpha))
            operator = hessian(model, split, mask, subspace)
            if definition == "legacy":
                found = legacy(operator, k, seed=seed)
            else:
                found = leading(operator, k, tolerance, seed=seed)
        yield pd.DataFrame(
            {
                "alpha": alpha,
                "rank": range(1, k + 1),
                "eigenvalue": found.values.tolist(),
                "residual": found.residuals.tolist(),
                "products": found.products,
                "converged": found.converged,
            }
        )
