"""Layers of many networks side by side.

Every parameter has a first dimension, the replica. Activations are (batch, R x channels, ...), so
that whatever treats channels alike (ReLU, pooling, normalisation) needs no change.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.core.errors import PsplibError
from psplib.nn.models import Block


class Unstackable(PsplibError):
    """A network of which replicas side by side are not known."""


class Linear(nn.Module):
    """R linear layers; (batch, R x in) -> (batch, R x out)."""

    def __init__(self, layer: nn.Linear, replicas: int) -> None:
        super().__init__()
        self.weight = _zeros(layer.weight, replicas)
        self.bias = _zeros(layer.bias, replicas)

    def forward(self, x: Tensor) -> Tensor:
        each = x.view(len(x), len(self.weight), -1).transpose(0, 1)
        z = torch.baddbmm(self.bias[:, None], each, self.weight.mT)
        return z.transpose(0, 1).flatten(1)


class Conv2d(nn.Module):
    """R convolutions; (batch, R x channels, ...) -> (batch, R x filters, ...).

    One convolution of R groups, whatever the shape: patches as columns would take K x K times the
    memory of the activations (4.5 GB a layer for 60 ResNets), and one convolution after another R
    times the kernels.
    """

    def __init__(self, layer: nn.Conv2d, replicas: int) -> None:
        super().__init__()
        if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise Unstackable(f"Replicas know plain convolutions only; got {layer}.")
        self.weight = _zeros(layer.weight, replicas)
        self.bias = None if layer.bias is None else _zeros(layer.bias, replicas)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.flatten()
        where = (self.stride, self.padding, self.dilation)
        return F.conv2d(x, self.weight.flatten(0, 1), bias, *where, groups=len(self.weight))


class BatchNorm2d(nn.Module):
    """R batch normalisations of (batch, R x channels, ...), each with statistics of its own."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layer: nn.BatchNorm2d, replicas: int) -> None:
        super().__init__()
        self.weight, self.bias = _zeros(layer.weight, replicas), _zeros(layer.bias, replicas)
        self.momentum, self.eps = layer.momentum, layer.eps
        for name, buffer in layer.named_buffers():
            self.register_buffer(name, torch.stack([buffer] * replicas))

    def forward(self, x: Tensor) -> Tensor:
        assert self.momentum is not None
        if self.training:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            x,
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.flatten(),
            self.bias.flatten(),
            self.training,
            self.momentum,
            self.eps,
        )


class ReplicatedBlock(Block):
    """R residual blocks: the zero channels of the shortcut are each replica's own."""

    def __init__(self, block: Block, replicas: int) -> None:
        nn.Module.__init__(self)
        self.replicas, self.stride, self.padding = replicas, block.stride, block.padding
        self.conv1, self.bn1, self.relu1 = block.conv1, block.bn1, block.relu1
        self.conv2, self.bn2, self.relu2 = block.conv2, block.bn2, block.relu2

    def shortcut(self, x: Tensor) -> Tensor:
        return super().shortcut(x.unflatten(1, (self.replicas, -1))).flatten(1, 2)


def _zeros(p: Tensor, replicas: int) -> nn.Parameter:
    return nn.Parameter(p.new_zeros(replicas, *p.shape), p.requires_grad)


def replicate(model: nn.Module, replicas: int) -> nn.Module:
    """R networks like `model`, as one module whose parameters (R, ...) are zero; its input and
    output are (batch, R x channels, ...)."""
    kinds: dict[type, type] = {
        nn.Linear: Linear,
        nn.Conv2d: Conv2d,
        nn.BatchNorm2d: BatchNorm2d,
        Block: ReplicatedBlock,
    }
    replicated = copy.deepcopy(model)
    for name, module in list(replicated.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if type(module) in kinds:
            new = kinds[type(module)](module, replicas)
            setattr(replicated.get_submodule(parent), leaf, new)
        elif list(module.parameters(recurse=False)):
            raise Unstackable(f"Replicas of a {type(module).__name__} are not known.")
    return replicated
