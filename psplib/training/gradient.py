"""Chains of layers with their gradient written out: no graph is recorded, and every product lands
where the optimiser reads it. For linear layers this takes half the time of autograd. Convolutions
of few surviving weights become sparse matrices: two thirds of the time of dense ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.nn.compact import SparseLinear, linear_layers
from psplib.nn.wiring import wire
from psplib.training.precision import of_activations

Gradient = Callable[[Tensor, Tensor], None]

# A mask that keeps more of the parameters than this is not worth a look at sparse convolutions.
SPARSE_BELOW = 0.3


def gradient(
    model: nn.Module, survives: Tensor | None = None, precision: str = "float32"
) -> Gradient:
    """A function of a batch (x, y) that leaves the gradient of the mean cross-entropy in the
    `.grad` of the model's parameters: in closed form for a chain, by autograd for the rest and in
    bfloat16.

    `survives` (p,) bool tells which parameters count: the gradient of the others may be left zero.
    """
    if precision == "bfloat16":
        return _autograd(model, precision)
    layers = linear_layers(model)
    if layers:
        return Chain(layers)
    few = survives is not None and float(survives.float().mean()) < SPARSE_BELOW
    if few and isinstance(model, nn.Sequential) and _is_convolutional(model):
        assert survives is not None
        return _Convolutions(model, survives)
    return _autograd(model)


def _autograd(model: nn.Module, precision: str = "float32") -> Gradient:
    parameters = list(model.parameters())

    def backward(x: Tensor, y: Tensor) -> None:
        for p in parameters:
            if p.grad is not None:
                p.grad.zero_()
        with of_activations(precision, x.device):
            logits = model(x)
        F.cross_entropy(logits.to(parameters[-1]), y).backward()

    return backward


class Chain:
    """The gradient of linear layers with ReLUs between them; `layers` have a `weight` (out, in) and
    a `bias` (out,) or, of R networks side by side, (R, out, in) and (R, out).

    It is a function of images (batch, ...), or (R, batch, features), and labels (batch,), or
    (R, batch); the loss is each network's own.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.first = layers[0]
        self.weights = [m.get_parameter("weight") for m in layers]
        self.biases = [m.get_parameter("bias") for m in layers]
        self.is_single = self.biases[0].ndim == 1
        self.product = torch.mm if self.is_single else torch.bmm
        self.affine = torch.addmm if self.is_single else torch.baddbmm

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor) -> None:
        x = x.flatten(1) if self.is_single else x
        pattern = self.first.pattern() if isinstance(self.first, SparseLinear) else None
        last = len(self.weights) - 1
        activations = [x]
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i == 0 and pattern is not None:
                z = (pattern @ x.t().contiguous()).add_(bias[:, None]).t()
            else:
                z = self.affine(bias.unsqueeze(-2), activations[-1], weight.mT)
            activations.append(z if i == last else z.clamp_min_(0))
        # d: the gradient with respect to the potentials of the layer, (..., batch, units).
        d = torch.softmax(activations.pop(), -1)
        d.scatter_add_(-1, y[..., None], d.new_full((*y.shape, 1), -1.0)).div_(y.shape[-1])
        for i in range(last, -1, -1):
            weight, bias, below = self.weights[i], self.biases[i], activations[i]
            assert weight.grad is not None
            assert bias.grad is not None
            torch.sum(d, -2, out=bias.grad)
            if i == 0 and pattern is not None:
                columns = d.t().contiguous()
                product = torch.sparse.sampled_addmm(pattern, columns, x, beta=0.0)
                weight.grad.copy_(product.values())
            else:
                self.product(d.mT, below, out=weight.grad)
            if i:
                d = self.product(d, weight)
                d = torch.ops.aten.threshold_backward(d, below, 0)


def _is_convolutional(model: nn.Sequential) -> bool:
    """Whether `_Convolutions` knows every module of a chain: pooling 2x2, padding by zeros."""
    if wire(model) is None or not isinstance(model[-1], nn.Linear):
        return False
    for m in model:
        if isinstance(m, nn.MaxPool2d):
            known = (m.kernel_size, m.stride, m.padding, m.dilation) == (2, 2, 0, 1)
        elif isinstance(m, nn.Conv2d):
            known = m.padding_mode == "zeros" and not isinstance(m.padding, str)
        else:
            known = isinstance(m, nn.Linear | nn.ReLU | nn.Flatten | nn.Identity)
        if not known:
            return False
    return all(p.device.type == "cpu" for p in model.parameters())


class _Convolutions:
    """A chain that begins with convolutions, each a sparse matrix over pixels; autograd where too
    many weights survive. Activations are (features, batch)."""

    def __init__(self, model: nn.Sequential, survives: Tensor) -> None:
        self.model, self.survives = model, survives.cpu()
        self.by_autograd = _autograd(model)
        self.image: torch.Size | None = None
        self.steps: list[_Sparse | _Pool | None] = []
        self.is_sparse = False

    def __call__(self, x: Tensor, y: Tensor) -> None:
        if x.shape[1:] != self.image:
            self._build(x.shape[1:])
        if self.is_sparse:
            self._differentiate(x, y)
        else:
            self.by_autograd(x, y)

    def _build(self, image: torch.Size) -> None:
        """Lay out the steps for images (C, H, W); None stands for a ReLU."""
        self.image, shape = image, tuple(image)
        self.steps = []
        start = sparse = dense = 0
        step: _Sparse | _Pool
        for module in self.model:
            if isinstance(module, nn.ReLU):
                self.steps.append(None)
            elif isinstance(module, nn.MaxPool2d):
                step = _Pool(shape)
                self.steps.append(step)
                shape = step.after
            elif isinstance(module, nn.Conv2d | nn.Linear):
                survives = self.survives[start : start + module.weight.numel()]
                step = _Sparse(module, survives.view_as(module.weight), shape)
                start += sum(p.numel() for p in module.parameters())
                self.steps.append(step)
                shape = step.after
                sparse += len(step.which)
                dense += module.weight[0].numel() * prod(shape)
        self.is_sparse = sparse < _as_fast_as(dense)
        if not self.is_sparse:
            self.steps = []

    @torch.no_grad()
    def _differentiate(self, x: Tensor, y: Tensor) -> None:
        activations = [x.flatten(1).t().contiguous()]
        for step in self.steps:
            below = activations[-1]
            activations.append(below.clamp_min(0) if step is None else step.forward(below))
        # d: the gradient with respect to what a step puts out, (features, batch).
        d = torch.softmax(activations.pop(), 0)
        d.scatter_add_(0, y[None, :], d.new_full((1, len(y)), -1.0)).div_(len(y))
        first = next(i for i, step in enumerate(self.steps) if isinstance(step, _Sparse))
        for i in range(len(self.steps) - 1, first - 1, -1):
            step, below = self.steps[i], activations[i]
            if step is None:
                d = torch.ops.aten.threshold_backward(d, below, 0)
            elif isinstance(step, _Sparse):
                step.learn(d, below)
                d = step.backward(d) if i > first else d
            else:
                d = step.backward(d)


def _as_fast_as(dense: int) -> float:
    """How many multiplications an image with sparse matrices take as long as `dense` ones.

    Measured at 8 masks of LOBSTER on LeNet-5, one thread, batch 100, forward and backward: a
    million take 35 ms if sparse; if dense 7.4 ms, and 4.7 ms more however few they are.
    """
    return (4.7 + 7.4e-6 * dense) / 35e-6


class _Pool:
    """Max pooling over 2x2 pixels of maps (C, H, W); of equal pixels the first is the largest."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.before = shape
        self.after = (shape[0], shape[1] // 2, shape[2] // 2)

    def forward(self, z: Tensor) -> Tensor:
        _, height, width = self.after
        z = z.view(*self.before, -1)[:, : 2 * height, : 2 * width]
        left, right = z[:, :, ::2], z[:, :, 1::2]
        # Zeros and ones as floats: products with them are three times as fast as with bits.
        self.is_left = torch.ge(left, right, out=torch.empty_like(left))
        rows = torch.maximum(left, right)
        top, bottom = rows[:, ::2], rows[:, 1::2]
        self.is_top = torch.ge(top, bottom, out=torch.empty_like(top))
        return torch.maximum(top, bottom).flatten(0, 2)

    def backward(self, d: Tensor) -> Tensor:
        channels, height, width = self.after
        d = d.view(*self.after, -1)
        rows = d.new_empty(channels, 2 * height, width, d.shape[-1])
        torch.mul(d, self.is_top, out=rows[:, ::2])
        torch.sub(d, rows[:, ::2], out=rows[:, 1::2])
        below = d.new_zeros(*self.before, d.shape[-1])
        within = below[:, : 2 * height, : 2 * width]
        torch.mul(rows, self.is_left, out=within[:, :, ::2])
        torch.sub(rows, within[:, :, ::2], out=within[:, :, 1::2])
        return below.flatten(0, 2)


class _Sparse:
    """A layer as a sparse matrix (features out, features in) of its surviving weights, each as
    often as a convolution uses it. `which` tells whose value an entry has."""

    def __init__(
        self, module: nn.Conv2d | nn.Linear, survives: Tensor, shape: tuple[int, ...]
    ) -> None:
        self.weight, self.bias = module.weight, module.bias
        size = prod(shape)
        pixels = torch.arange(1, size + 1)
        if isinstance(module, nn.Conv2d):
            assert not isinstance(module.padding, str)
            # Which pixel (or 0, the padding) each weight of a filter meets at each place.
            where = (module.kernel_size, module.dilation, module.padding, module.stride)
            seen = F.unfold(pixels.view(1, *shape).double(), *where)[0].long()
            kernel, dilation, padding, stride = (n[0] for n in where)
            height = (shape[1] + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            self.after: tuple[int, ...] = (len(survives), height, seen.shape[1] // height)
        else:
            seen, self.after = pixels[:, None], (len(survives),)
        places = seen.shape[1]
        unit, tap = survives.flatten(1).nonzero(as_tuple=True)
        columns = seen[tap] - 1
        rows = unit[:, None] * places + torch.arange(places)
        which = survives.flatten().nonzero().expand_as(columns)
        rows, columns, which = (t[columns >= 0] for t in (rows, columns, which))
        features = prod(self.after)
        self.matrix, self.which = _matrix(rows, columns, which, features, size, self.weight)
        self.transposed, self.which_t = _matrix(columns, rows, which, size, features, self.weight)

    def forward(self, x: Tensor) -> Tensor:
        torch.index_select(self.weight.view(-1), 0, self.which, out=self.matrix.values())
        z = self.matrix @ x
        if self.bias is not None:
            z.view(len(self.bias), -1).add_(self.bias[:, None])
        return z

    def learn(self, d: Tensor, x: Tensor) -> None:
        """Leave the gradient of weights and biases in their `.grad`."""
        products = torch.sparse.sampled_addmm(self.matrix, d, x.t(), beta=0.0)
        assert self.weight.grad is not None
        self.weight.grad.zero_().view(-1).index_add_(0, self.which, products.values())
        if self.bias is not None:
            assert self.bias.grad is not None
            torch.sum(d.view(len(self.bias), -1), 1, out=self.bias.grad)

    def backward(self, d: Tensor) -> Tensor:
        torch.index_select(self.weight.view(-1), 0, self.which_t, out=self.transposed.values())
        return self.transposed @ d


def _matrix(
    rows: Tensor, columns: Tensor, which: Tensor, height: int, width: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """A sparse matrix with entries at (rows, columns), and `which` in the order of its values."""
    order = torch.argsort(rows * width + columns)
    ends = torch.bincount(rows, minlength=height).cumsum(0)
    pointers = torch.cat([torch.zeros(1, dtype=torch.int64), ends]).int()
    values = like.new_zeros(len(order)).detach()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(
            pointers, columns[order].int(), values, (height, width), check_invariants=False
        )
    return matrix, which[order]
