"""Hessian-vector products of a network's mean loss.

The weights are the same in every product, so for a chain of layers everything that does not depend
on the vector is computed once (Pearlmutter's R-operator, Neural Computation 6, 1994). Other
networks and losses go through double backpropagation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from psplib.core.errors import PsplibError
from psplib.nn.faithful import Own, first_line, loss_of
from psplib.nn.wiring import letter
from psplib.training.trainer import channels_last

# What a chain may keep of its activations, in bytes; above it they are recomputed in each product.
# LeNet-5 in float32 takes 0.07 MB an image: 0.35 GB for 5,000 images.
MEMORY = 2 * 2**30
# Steps, as shares of the weights, between two gradients: one of them crosses no ReLU's kink.
STEPS = (1e-7, 1e-8, 1e-9)

Loss = Callable[..., Tensor]


class _TwiceDifferentiable(TorchFunctionMode):
    """Weight normalisation written out: that of PyTorch 2.11 has a wrong second derivative."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._weight_norm:
            v, g, dim = (*args, 0)[:3]
            return v * (g / torch.norm_except_dim(v, 2, dim))
        return func(*args, **(kwargs or {}))


class Autograd:
    """Any network, any loss: the gradient's gradient, of the network as its author wrote it."""

    def __init__(
        self, own: Own, weights: Tensor, x: Tensor, y: Tensor, batch_size: int, loss: Loss
    ) -> None:
        self.own, self.weights, self.loss, self.samples = own, weights, loss, len(y)
        self.sizes = [p.numel() for p in own.parameters]
        self.batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True))

    def product(self, vector: Tensor) -> Tensor:
        """The Hessian in the coordinates of the parameters, times a vector (p,)."""
        total = torch.zeros_like(vector)
        parameters = self.own.parameters
        shapes = [p.shape for p in parameters]
        parts = [v.view(s) for v, s in zip(vector.split(self.sizes), shapes, strict=True)]
        for x, y in self.batches:
            with self._loss(x, y, self.weights) as loss:
                try:
                    gradient = torch.autograd.grad(
                        loss, parameters, create_graph=True, materialize_grads=True
                    )
                    # A gradient that no parameter moves has no graph: its row is zero.
                    moving = [(g, v) for g, v in zip(gradient, parts, strict=True) if g.grad_fn]
                    product = torch.autograd.grad(
                        [g.to_dense() for g, _ in moving],
                        parameters,
                        [v for _, v in moving],
                        materialize_grads=True,
                    )
                except RuntimeError as error:
                    raise PsplibError(
                        f"{type(self.own.model).__name__} has no second derivative of its loss: "
                        f"{first_line(error)}."
                    ) from error
            total += torch.cat([p.to_dense().flatten() for p in product])
        return total

    def gradient(self, weights: Tensor) -> Tensor:
        """The gradient (P,) of the mean loss at other weights (P,)."""
        total = torch.zeros_like(weights)
        for x, y in self.batches:
            with self._loss(x, y, weights) as loss:
                total += self.own.slopes(loss)
        return total

    @contextmanager
    def _loss(self, x: Tensor, y: Tensor, weights: Tensor) -> Iterator[Tensor]:
        """A batch's part of the mean loss, to be differentiated inside."""
        # The fused kernels of attention have no second derivative.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            sdpa_kernel(SDPBackend.MATH),
            _TwiceDifferentiable(),
            self.own.at(weights, weights.dtype, differentiable=True),
        ):
            yield loss_of(self.loss, self.own(x), y.clone(), reduction="sum") / self.samples

    def check(self) -> None:
        """Raise `PsplibError` unless products are those of a symmetric matrix, and differences of
        gradients: autograd knows
        nothing of what is computed without it, and believes a backward pass written by hand."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(len(self.weights), generator=generator, dtype=torch.float64)
        # A weight of zero stays: moved, what it feeds alone would leave the kink of a dead ReLU.
        vector = self.weights * noise.to(self.weights)
        other = self.weights * noise.to(self.weights).flip(0)
        whole, turned = self.product(vector), self.product(other)
        product = whole.split(self.sizes)
        apart = float((other @ whole - vector @ turned).abs())
        for step in STEPS:
            ahead, behind = (self.gradient(self.weights + s * vector) for s in (step, -step))
            rounding = 1e3 * torch.finfo(vector.dtype).eps * (1 + float(ahead.abs().max())) / step
            differences = ((ahead - behind) / (2 * step)).split(self.sizes)
            if apart <= 1e-6 * float(other.norm() * whole.norm()) and all(
                float((d - p).abs().max()) <= 1e-3 * float(p.abs().max()) + rounding
                for d, p in zip(differences, product, strict=True)
                if len(p)
            ):
                return
        raise PsplibError(
            f"The second derivative that autograd has for the loss of "
            f"{type(self.own.model).__name__} is not that of its gradients: is a part of it "
            "computed without gradients, detached, or with a backward pass of its own?"
        )


@dataclass(frozen=True)
class _Layer:
    """A convolution or linear layer and what follows: max pooling, then ReLU, each if any.

    The order of the two in the network does not matter: both orders put out the same.
    """

    module: nn.Conv2d | nn.Linear
    pool: nn.MaxPool2d | None
    relu: bool


@dataclass(frozen=True)
class _Batch:
    """What a chain keeps of a batch of n samples: nothing of it depends on the vector.

    Per layer: its input a; the positions in its flat output (n, H, W, C) that the pooling picked;
    the shape of its output z (n, C, H, W); δ = ∂loss/∂z, except the first layer.
    """

    inputs: list[Tensor]
    picked: list[Tensor | None]
    shapes: list[torch.Size]
    deltas: list[Tensor | None]
    probability: Tensor
    y: Tensor

    @property
    def memory(self) -> int:
        """Bytes."""
        kept = [t for t in (*self.inputs, *self.picked, *self.deltas) if t is not None]
        return sum(t.numel() * t.element_size() for t in kept)


def chain_of(model: nn.Module) -> list[_Layer] | None:
    """The layers of a chain that `wire` knows; None for one that the closed form does not know."""
    if type(model) is not nn.Sequential:
        return None
    layers: list[_Layer] = []
    is_flat = False
    for module in model.children():
        last, kind = layers[-1] if layers else None, letter(module)
        if isinstance(module, nn.Linear | nn.Conv2d) and kind in ("l", "c"):
            if isinstance(module, nn.Linear):
                is_odd = last is not None and isinstance(last.module, nn.Conv2d) and not is_flat
            else:
                is_odd = module.padding_mode != "zeros" or isinstance(module.padding, str)
            if is_odd or module.bias is None:
                return None
            layers.append(_Layer(module, None, False))
        elif isinstance(module, nn.ReLU) and last and not last.relu:
            layers[-1] = replace(last, relu=True)
        elif isinstance(module, nn.MaxPool2d) and kind == "p" and last and not is_flat:
            is_plain = module.stride == module.kernel_size and module.dilation == 1
            if last.pool or not is_plain or module.return_indices:
                return None
            layers[-1] = replace(last, pool=module)
        elif kind == "f":
            is_flat = True
        elif type(module) is not nn.Identity:
            return None
    closed = layers and isinstance(layers[-1].module, nn.Linear)
    return layers if closed and not layers[-1].relu else None


class ROperator:
    """Pearlmutter's R-operator, R{f(w)} = d/dr f(w + r·v) at r = 0, through a chain of layers.

    Where the ReLUs and poolings are linear, they stay: a tangent takes the way of its activation.
    With z = W∗a + b: R{z} = W∗R{a} + V∗a + v_b; at the top R{δ} = (diag(p) − pp')R{z} / N; below
    R{∂a} = W'δR + V'δ; and R{∂W} = R{a}⋆δ + a⋆R{δ}, R{∂b} = ΣR{δ}.
    """

    def __init__(self, layers: list[_Layer], x: Tensor, y: Tensor, batch_size: int) -> None:
        self.stack = layers
        self.samples = len(y)
        self.data = list(zip(channels_last(x).split(batch_size), y.split(batch_size), strict=True))
        first = self._prepare(*self.data[0])
        fits = first.memory * len(self.data) <= MEMORY
        self.kept = [first, *(self._prepare(*d) for d in self.data[1:])] if fits else None
        parameters = [p for layer in layers for p in layer.module.parameters()]
        self.sizes = [p.numel() for p in parameters]

    @torch.no_grad()
    def product(self, vector: Tensor) -> Tensor:
        """As `Autograd.product`."""
        total = torch.zeros_like(vector)
        tangents, sums = self._parts(vector), self._parts(total)
        for i in range(len(self.data)):
            batch = self.kept[i] if self.kept else self._prepare(*self.data[i])
            self._add(batch, tangents, sums)
        return total

    def _parts(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each layer's weight and bias in a vector (p,), as views."""
        parts = iter(flat.split(self.sizes))
        return [(next(parts).view_as(layer.module.weight), next(parts)) for layer in self.stack]

    @torch.no_grad()
    def _prepare(self, x: Tensor, y: Tensor) -> _Batch:
        inputs, picked, shapes, z = [], [], [], x
        for i, layer in enumerate(self.stack):
            a = self._enter(i, z)
            z = _linear(layer, a, layer.module.weight, layer.module.bias)
            inputs.append(a)
            shapes.append(z.shape)
            chosen = None
            if layer.pool is not None:
                z, chosen = _pool(z, layer.pool)
            picked.append(chosen)
            if layer.relu:
                z = z.relu()
        probability = torch.softmax(z, 1)
        batch = _Batch(inputs, picked, shapes, [None] * len(inputs), probability, y)
        # p − 1 of the label as minus the sum of the others: small losses keep their digits.
        d = probability.scatter(1, y[:, None], 0)
        d = d.scatter(1, y[:, None], -d.sum(1, keepdim=True)) / self.samples
        for i in range(len(self.stack) - 1, 0, -1):
            batch.deltas[i] = d
            layer = self.stack[i]
            d, _, _ = _backward(layer, d, inputs[i], layer.module.weight, (True, False, False))
            d = self._down(i - 1, d, batch)
        return batch

    def _add(
        self,
        batch: _Batch,
        tangents: list[tuple[Tensor, Tensor]],
        sums: list[tuple[Tensor, Tensor]],
    ) -> None:
        """Add the product of one batch to `sums`."""
        ras: list[Tensor | None] = []
        ra: Tensor | None = None
        for i, layer in enumerate(self.stack):
            ras.append(ra)
            rz = _linear(layer, batch.inputs[i], *tangents[i])
            if ra is not None:
                rz = _linear(layer, ra, layer.module.weight, None).add_(rz)
            if i + 1 < len(self.stack):
                ra = self._up(i, rz, batch)
        # Relative to the label's, so that p near 1 cancels nothing.
        rz = rz - rz.gather(1, batch.y[:, None])
        p = batch.probability
        rd = p * (rz - (p * rz).sum(1, keepdim=True)) / self.samples
        for i in range(len(self.stack) - 1, -1, -1):
            layer, ra, delta = self.stack[i], ras[i], batch.deltas[i]
            wanted = (i > 0, True, True)
            below, weight, bias = _backward(layer, rd, batch.inputs[i], layer.module.weight, wanted)
            sums[i][0].add_(weight)
            sums[i][1].add_(bias)
            if ra is not None and delta is not None:
                wanted = (True, True, False)
                more, weight, _ = _backward(layer, delta, ra, tangents[i][0], wanted)
                sums[i][0].add_(weight)
                rd = self._down(i - 1, below.add_(more), batch)

    def _enter(self, i: int, a: Tensor) -> Tensor:
        """The output of the layer before as the input of layer i: maps are flattened if needed."""
        return a.flatten(1) if isinstance(self.stack[i].module, nn.Linear) else a

    def _up(self, i: int, rz: Tensor, batch: _Batch) -> Tensor:
        """R{a} of layer i + 1 from R{z} of layer i."""
        chosen, above = batch.picked[i], batch.inputs[i + 1]
        if chosen is not None:
            pooled = rz.movedim(1, -1).reshape(-1).index_select(0, chosen.view(-1))
            rz = pooled.view(chosen.shape).movedim(-1, 1)
        ra = self._enter(i + 1, rz)
        return torch.ops.aten.threshold_backward(ra, above, 0) if self.stack[i].relu else ra

    def _down(self, i: int, d: Tensor, batch: _Batch) -> Tensor:
        """The adjoint of `_up`: what is true of the input of layer i + 1, at the z of layer i."""
        if self.stack[i].relu:
            d = torch.ops.aten.threshold_backward(d, batch.inputs[i + 1], 0)
        chosen, shape = batch.picked[i], batch.shapes[i]
        if len(shape) == 2:
            return d
        n, channels, height, width = shape
        if chosen is None:
            return channels_last(d.reshape(shape))
        d = d.view(n, channels, *chosen.shape[1:3]) if d.ndim == 2 else d
        spread = d.new_zeros(shape.numel())
        spread.scatter_(0, chosen.view(-1), d.movedim(1, -1).reshape(-1))
        return spread.view(n, height, width, channels).movedim(-1, 1)


def _linear(layer: _Layer, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer.module, nn.Linear):
        return F.linear(a, weight, bias)
    return F.conv2d(
        a, weight, bias, layer.module.stride, layer.module.padding, layer.module.dilation
    )


def _backward(
    layer: _Layer, d: Tensor, a: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of z = weight∗a + bias with respect to a, weight and bias, where wanted."""
    m = layer.module
    if isinstance(m, nn.Conv2d):
        return torch.ops.aten.convolution_backward(
            d, a, weight, [len(weight)], m.stride, m.padding, m.dilation, False, [0, 0], 1, wanted
        )
    none = d.new_empty(0)
    return (
        d @ weight if wanted[0] else none,
        d.T @ a if wanted[1] else none,
        d.sum(0) if wanted[2] else none,
    )


def _pool(z: Tensor, pool: nn.MaxPool2d) -> tuple[Tensor, Tensor]:
    """Pooled maps (n, C, h, w), and where they come from: (n, h, w, C) positions in z (n, H, W, C)
    made flat."""
    n, channels, height, width = z.shape
    pooled, index = F.max_pool2d(
        z,
        pool.kernel_size,
        pool.stride,
        pool.padding,
        ceil_mode=pool.ceil_mode,
        return_indices=True,
    )
    image = torch.arange(n, device=z.device)[:, None, None, None] * (height * width)
    channel = torch.arange(channels, device=z.device)
    return pooled, ((image + index.movedim(1, -1)) * channels + channel).contiguous()
