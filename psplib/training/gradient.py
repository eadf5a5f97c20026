"""The gradient of a minibatch. That of a chain of linear layers is written out: no graph is
recorded, and every product lands where the optimiser reads it, in half the time of autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.core.errors import PsplibError
from psplib.nn.compact import SparseLinear, linear_layers
from psplib.nn.faithful import no_gradient
from psplib.training.precision import of_activations

# Of potentials (B, n) in front of each ReLU, and labels: a loss term's slopes.
Term = Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]]


class Gradient(Protocol):
    """Leaves the gradient of a batch (x, y) in the `.grad` of a model's parameters."""

    def __call__(self, x: Tensor, y: Tensor, term: Term | None = None) -> None:
        """Of the mean cross-entropy and, where there is one, of a `term` beside it."""


def gradient(model: nn.Module, precision: str = "float32") -> Gradient:
    """The `Gradient` of a model: in closed form for a chain of linear layers, by autograd, and
    without other terms, for the rest and in bfloat16."""
    layers = linear_layers(model) if precision != "bfloat16" else None
    return LinearChain(layers) if layers else _autograd(model, precision)


def _autograd(model: nn.Module, precision: str) -> Gradient:
    parameters = list(model.parameters())

    def backward(x: Tensor, y: Tensor, term: Term | None = None) -> None:
        if term is not None:
            raise PsplibError(
                "A loss term beside the cross-entropy needs a chain of linear layers."
            )
        for p in parameters:
            if p.grad is not None:
                p.grad.zero_()
        with of_activations(precision, x.device):
            logits = model(x)
        try:
            F.cross_entropy(logits.to(parameters[-1]), y).backward()
        except RuntimeError as error:
            raise no_gradient(model, error) from error

    return backward


class LinearChain:
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
    def __call__(self, x: Tensor, y: Tensor, term: Term | None = None) -> None:
        x = x.flatten(1) if self.is_single else x
        pattern = self.first.pattern() if isinstance(self.first, SparseLinear) else None
        last = len(self.weights) - 1
        activations, potentials = [x], []
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i == 0 and pattern is not None:
                z = (pattern @ x.t().contiguous()).add_(bias[:, None]).t()
            else:
                z = self.affine(bias.unsqueeze(-2), activations[-1], weight.mT)
            if term is not None and i < last:
                potentials.append(z.clone())
            activations.append(z if i == last else z.clamp_min_(0))
        slopes = term(potentials, y) if term is not None else ()
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
                if slopes:
                    d += slopes[i - 1]
