"""The Hessian of a network's training loss, and its leading eigenvalues along a line of weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.analysis.eigen import check_exact, check_finite, leading, legacy
from psplib.analysis.rop import Autograd, Loss, Product, ROperator, chain_of
from psplib.core.errors import PsplibError, one_of, whole_number
from psplib.nn.compact import compact
from psplib.nn.data import Split
from psplib.nn.masks import Mask

SUBSPACES = ("surviving", "all")
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
    _engine: Product
    # The engine's p parameters that are coordinates, and which coordinates these are.
    _inside: Tensor
    _where: Tensor
    _engine_size: int

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
        return self._out(self._engine.product(self._in(vector)), vector)

    def expand(self, vectors: Tensor) -> Tensor:
        """Vectors (..., D) in full coordinates (..., P); zero elsewhere."""
        full = vectors.new_zeros(*vectors.shape[:-1], self.parameters)
        full[..., self.coordinates] = vectors
        return full

    def matrix(self) -> Tensor:
        """All of it, (D, D) in `dtype`.

        A column of a layer needs no work in the layers below: what is missing follows by symmetry.
        Most parameters belong to the upper, cheap layers.
        """
        check_exact(self.size)
        layer_of = torch.bucketize(
            self._inside, torch.tensor(self._engine.layers[1:-1], device=self.device), right=True
        )
        full = torch.zeros(self.size, self.size, dtype=self.dtype, device=self.device)
        unit = torch.zeros(self._engine_size, dtype=self.dtype, device=self.device)
        for i, layer in zip(self._inside.tolist(), layer_of.tolist(), strict=True):
            unit[i] = 1
            column = self._engine.product(unit, layer)[self._inside]
            unit[i] = 0
            at = self._where[self._inside == i]
            full[at, self._where] = torch.where(layer_of >= layer, column, 0)
        # Within a layer both halves are there; between two layers only the lower one's rows.
        layer_at = torch.full((self.size,), -1, device=self.device)
        layer_at[self._where] = layer_of
        mirrored = layer_at[:, None] > layer_at
        return torch.where(mirrored, full.T, full)

    def _in(self, vector: Tensor) -> Tensor:
        inside = torch.zeros(self._engine_size, dtype=self.dtype, device=self.device)
        inside[self._inside] = vector[self._where].to(self.dtype)
        return inside

    def _out(self, product: Tensor, like: Tensor) -> Tensor:
        out = torch.zeros_like(like)
        out[self._where] = product[self._inside].to(like.dtype)
        return out


def hessian(
    model: nn.Module,
    split: Split,
    mask: Mask | None = None,
    subspace: str = "surviving",
    *,
    loss: Loss = F.cross_entropy,
    dtype: torch.dtype | None = None,
    batch_size: int | None = None,
) -> Hessian:
    """The Hessian of the mean loss over `split` at the model's weights, pruned ones set to zero.

    Its coordinates are those that survive in `mask` (`surviving`: the network runs in its compact
    form), or all P (`all`: a pruned weight is zero, but its curvature counts). BatchNorm is in
    evaluation mode. Every sample has the same weight, however the batches fall. Products are
    computed in `dtype` (default: the model's) on the device of the split. Another `loss` takes
    outputs, `split.y` and `reduction="sum"`. The model is not changed.

    Chains of Conv2d, Linear, ReLU, MaxPool2d under cross-entropy use Pearlmutter's R-operator
    (Neural Computation 6, 1994) written out; other networks and losses, double backpropagation.

    Raises `PsplibError` for a mask of another network, no survivors, weights or images that are not
    finite, a split without samples, and labels that are no class.
    """
    one_of("subspace", subspace, SUBSPACES)
    if batch_size is not None:
        whole_number("batch_size", batch_size, 1)
    everything = Mask.dense(model)
    mask = everything if mask is None else mask
    if mask.shapes != everything.shapes:
        raise PsplibError(
            f"The mask is for a network of {len(mask.flat)} parameters in {len(mask.shapes)} "
            f"tensors; this one has {len(everything.flat)} in {len(everything.shapes)}, "
            "or other shapes."
        )
    if not mask.kept:
        raise PsplibError("The mask prunes every parameter; a Hessian needs at least one.")
    weights = torch.cat([p.detach().cpu().flatten() for p in model.parameters()]) * mask.flat
    check_finite("The weights of the network", weights)
    _check_split(split)

    device = split.x.device
    dtype = dtype or weights.dtype
    seen = mask if subspace == "surviving" else everything
    form = compact(model, seen, sparse=False)
    small = copy.deepcopy(form.model).to(device, dtype).eval()
    start, values = 0, weights[form.index].to(device, dtype)
    with torch.no_grad():
        for p in small.parameters():
            p.copy_(values[start : start + p.numel()].view_as(p))
            start += p.numel()
    x = form.read(split.x)
    batch_size = batch_size or BATCH.get(device.type, 250)
    with torch.inference_mode():
        classes = small(x[:1].to(dtype)).shape[-1]
    layers = chain_of(small)
    engine: Product
    if loss is F.cross_entropy:
        _check_labels(split.y, classes)
    if layers is not None and loss is F.cross_entropy:
        engine = ROperator(layers, x.to(dtype), split.y, batch_size)
    else:
        engine = Autograd(small, x.to(dtype), split.y, batch_size, loss)
    survives = seen.flat[form.index]
    rank = torch.cumsum(seen.flat, 0) - 1
    return Hessian(
        seen.flat.nonzero().flatten().to(device),
        len(seen.flat),
        dtype,
        engine,
        survives.nonzero().flatten().to(device),
        rank[form.index[survives]].to(device),
        len(form.index),
    )


def eigenvalues_along(
    model: nn.Module,
    split: Split,
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
    prepare: Callable[[nn.Module], None] | None = None,
) -> Iterator[pd.DataFrame]:
    """The leading eigenvalues at `first` + α·(`second` − `first`) (Fig. 2b), point after point.

    Each α yields a table with a row for each eigenvalue: `alpha`, `rank`, `eigenvalue`, `residual`,
    `products`, `converged`. `first` and `second` (P,) are full
    vectors. No point knows another (the eigenvectors of the last would save 3 products of 17): to
    resume, ask for the rest. `prepare` is called with the network at a point, to recompute the
    statistics of its BatchNorm, say.
    """
    one_of("definition", definition, DEFINITIONS)
    model = copy.deepcopy(model)
    size, like = sum(p.numel() for p in model.parameters()), next(model.parameters())
    for name, end in (("first", first), ("second", second)):
        if end.shape != (size,):
            raise PsplibError(f"{name} must have shape ({size},); got {tuple(end.shape)}.")
    for alpha in alphas:
        point = torch.lerp(first.double(), second.double(), alpha)
        nn.utils.vector_to_parameters(point.to(like), model.parameters())
        if prepare is not None:
            prepare(model)
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


def _check_split(split: Split) -> None:
    if not len(split.y) or len(split.x) != len(split.y):
        raise PsplibError(
            "A Hessian needs as many labels as images, and at least one; "
            f"got {len(split.x)} images and {len(split.y)} labels."
        )
    check_finite("The images", split.x)


def _check_labels(y: Tensor, classes: int) -> None:
    if y.dtype != torch.int64 or y.ndim != 1 or int(y.min()) < 0 or int(y.max()) >= classes:
        raise PsplibError(
            f"Labels must be int64 of shape (N,) from 0 to {classes - 1}; got {y.dtype} of shape "
            f"{tuple(y.shape)} from {y.min()} to {y.max()}."
        )
