"""A pruned network without its dead units: the same function, less work.

A unit that no surviving parameter feeds puts out zero; one that no surviving weight reads changes
nothing. Both go, along the whole network. What is left of a layer is a smaller dense layer or,
where few of its weights survive, a sparse one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor, nn

from psplib.core.errors import PsplibError
from psplib.nn.masks import Mask, shapes_of
from psplib.nn.models import Block
from psplib.nn.wiring import is_plain, letter, live_units, wire

# Below this density the sparse products of the CPU are faster than the dense ones (measured:
# 0.30 against 1.05 ms a step at 5 % of 784x300, batch 100).
SPARSE_BELOW = 0.1


@dataclass(frozen=True)
class Units:
    """The units in front of a ReLU: `live` (u,) int64 positions among the `full` network's."""

    live: Tensor
    full: int


@dataclass(frozen=True)
class Compact:
    """`model` computes what the full network computes under its mask.

    `index` (p,) int64 holds, for each of the compact model's p parameters in order, its position
    in the full network's flat vector of `size` P. `inputs` holds the input features that are read,
    or None where the model reads images whole. `units` counts what is left of each group. `relus`
    tells, by the name of the ReLU, which units are left in front of it; the others put out zero or,
    unless they were asked for, are not read. `buffers` tells, by the name of a buffer of
    normalisation, which channels (c,) int64 of the full network's it holds; a buffer without an
    entry is the same in both networks.
    """

    model: nn.Module
    index: Tensor
    size: int
    inputs: Tensor | None
    units: tuple[int, ...]
    relus: dict[str, Units]
    buffers: dict[str, Tensor] = field(default_factory=dict)

    def load_(self, full: Tensor) -> None:
        """Give the compact model the values of a full vector (P,)."""
        values, start = full[self.index.to(full.device)], 0
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(values[start : start + p.numel()].view_as(p))
                start += p.numel()

    def expand(self, values: Tensor) -> Tensor:
        """A vector of the compact model (p,), say its gradient, in full coordinates (P,); zero
        elsewhere."""
        full = values.new_zeros(self.size)
        full[self.index.to(values.device)] = values
        return full

    def load_buffers_(self, full: Mapping[str, Tensor]) -> None:
        """Give the compact model the full network's buffers, by name: running means, variances."""
        small = dict(self.model.named_buffers())
        for name, buffer in full.items():
            live = self.buffers.get(name)
            small[name].copy_(buffer if live is None else buffer[live.to(buffer.device)])

    def expand_buffers(self, full: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of the full network's buffers, renewed by the compact model's.

        Channels that the compact model does not have keep what `full` says: under the mask, nothing
        depends on them.
        """
        small, renewed = dict(self.model.named_buffers()), {}
        for name, buffer in full.items():
            live = self.buffers.get(name)
            renewed[name] = buffer.clone()
            where = ... if live is None else live.to(buffer.device)
            renewed[name][where] = small[name].to(buffer.device)
        return renewed

    def read(self, x: Tensor) -> Tensor:
        """The part of a batch of images (N, C, H, W) that the model reads."""
        if self.inputs is None:
            return x
        flattens = any(isinstance(m, nn.Flatten) for m in self.model.children())
        return (x.flatten(1) if flattens else x)[..., self.inputs]


def compact(model: nn.Module, mask: Mask, sparse: bool = True, unread: bool = False) -> Compact:
    """The compact form of a chain of layers or of a `ResNet` under a mask.

    A chain is an `nn.Sequential` of Linear, Conv2d (one group), ReLU, Identity, Flatten, max and
    average pooling. Every other network keeps its shape: also one with hooks or tied weights, and
    one with Dropout, which would draw other numbers for fewer units.

    With `sparse` (for a CPU), a first linear layer of low density becomes a `SparseLinear`.
    With `unread`, units that nothing reads stay as long as something feeds them: their potentials
    are not constant. The full `model` is not changed. Its buffers are copied, its values are not:
    give them with `load_` to a model that is all zeros until then.

    `PsplibError` if the mask belongs to another network.
    """
    check_belongs(mask, model)
    wiring = None if mask.kept == len(mask.flat) else wire(model)
    if wiring is None:
        return whole(copy.deepcopy(model))
    everything, small = torch.arange(len(mask.flat)), copy.deepcopy(model)
    masks, positions = dict(mask.split(mask.flat.cpu())), dict(mask.split(everything))
    live, full = live_units(wiring, masks, unread)
    first = wiring.links[0].layer
    inputs = live[0] if isinstance(model.get_submodule(first), nn.Linear) else None
    if inputs is None:
        live[0] = torch.arange(full[0])

    index: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for link in wiring.links:
        rows, units = live[link.target], live[link.source]
        if link.shortcut:
            block = small.get_submodule(link.shortcut)
            assert isinstance(block, Block)
            setattr(*_place(small, link.shortcut), CompactBlock(block, units, rows))
        for name in filter(None, (link.layer, link.norm)):
            module = small.get_submodule(name)
            for leaf, p in list(module.named_parameters()):
                at = positions[f"{name}.{leaf}"][rows]
                if at.ndim > 1:
                    at = at[:, _columns(units, at.shape[1] // full[link.source])]
                index[f"{name}.{leaf}"] = at
                setattr(module, leaf, nn.Parameter(p.new_zeros(at.shape), p.requires_grad))
            for leaf, buffer in list(module.named_buffers()):
                if buffer.ndim:
                    buffers[f"{name}.{leaf}"] = rows
                    setattr(module, leaf, buffer[rows.to(buffer.device)])
            _count_(module)
    weight = small.get_parameter(f"{first}.weight")
    survives = mask.flat.cpu()[index[f"{first}.weight"]]
    is_sparse = float(survives.float().mean()) < SPARSE_BELOW
    if sparse and is_sparse and weight.device.type == "cpu" and linear_layers(small):
        setattr(*_place(small, first), SparseLinear(survives, weight.dtype))
        index[f"{first}.weight"] = index[f"{first}.weight"][survives]
    return Compact(
        small,
        torch.cat([index[name].flatten() for name, _ in small.named_parameters()]),
        len(everything),
        inputs,
        tuple(len(live[group]) for group in sorted(live) if group or inputs is not None),
        {name: Units(live[group], full[group]) for name, group in wiring.relus.items()},
        buffers,
    )


def whole(model: nn.Module) -> Compact:
    """A network itself in the place of its compact form."""
    size = sum(p.numel() for p in model.parameters())
    return Compact(model, torch.arange(size), size, None, (), {})


def check_belongs(mask: Mask, model: nn.Module) -> None:
    """Raise `PsplibError` if the mask is of another network."""
    for expected, found in zip_longest(shapes_of(model), mask.shapes):
        if expected != found:
            here, there = (f"{s[0]} {s[1]}" if s else "none" for s in (expected, found))
            raise PsplibError(
                f"The mask belongs to another network: its parameter {there} stands where "
                f"this {type(model).__name__} has {here}."
            )


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The parent of a submodule and the name that it has there."""
    parent, _, leaf = name.rpartition(".")
    return model.get_submodule(parent), leaf


def _columns(units: Tensor, block: int) -> Tensor:
    """The columns of a weight that read `units`, each of which owns `block` neighbours: where a
    linear layer reads maps that were flattened, as many as a map has pixels."""
    return (units[:, None] * block + torch.arange(block)).flatten()


def _count_(module: nn.Module) -> None:
    """Make the sizes that a layer tells agree with its parameters."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = module.weight.shape[:2]
    elif isinstance(module, nn.BatchNorm2d):
        module.num_features = len(module.weight)


class CompactBlock(nn.Module):
    """A residual block of fewer channels, whose shortcut takes those that live on both sides of it.

    `before`, `behind`: the live ones (u,) among the channels of the full block's input and output.
    """

    take: Tensor | None
    put: Tensor | None

    def __init__(self, block: Block, before: Tensor, behind: Tensor) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = block.conv1, block.bn1, block.relu1
        self.conv2, self.bn2, self.relu2 = block.conv2, block.bn2, block.relu2
        self.training, self.stride = block.training, block.stride
        moved = before + block.padding // 2
        lives = torch.isin(moved, behind)
        take, put = lives.nonzero().flatten(), torch.searchsorted(behind, moved[lives])
        device = block.conv1.weight.device
        takes_all, puts_all = len(take) == len(before), len(put) == len(behind)
        self.register_buffer("take", None if takes_all else take.to(device), persistent=False)
        self.register_buffer("put", None if puts_all else put.to(device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.take is not None:
            shortcut = shortcut.index_select(1, self.take)
        x = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        x = x + shortcut if self.put is None else x.index_add(1, self.put, shortcut)
        return self.relu2(x)


def linear_layers(model: nn.Module) -> list[nn.Module] | None:
    """The layers of a chain Linear, ReLU, Linear, ..., Linear, with biases, that may begin by
    flattening; None if the model is anything else."""
    if type(model) is not nn.Sequential or not is_plain(model):
        return None
    modules = list(model)
    if modules and (letter(modules[0]) == "f" or type(modules[0]) is nn.Identity):
        del modules[0]
    layers, between = modules[::2], modules[1::2]
    is_chain = (
        len(modules) % 2 == 1
        and all(type(m) in (nn.Linear, SparseLinear) and m.bias is not None for m in layers)
        and all(type(m) is nn.ReLU for m in between)
    )
    return layers if is_chain else None


class SparseLinear(nn.Module):
    """A linear layer that stores, multiplies and learns its surviving weights only.

    It is the first layer of a chain on a CPU; `chain.gradient` knows its gradient, autograd
    does not.
    """

    def __init__(self, mask: Tensor, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        rows = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
        self.rows, self.columns = rows.int(), mask.nonzero()[:, 1].int()
        self.shape = tuple(mask.shape)
        self.weight = nn.Parameter(torch.zeros(int(mask.sum()), dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(len(mask), dtype=dtype))

    def pattern(self) -> Tensor:
        """The weights as a sparse matrix (units out, units in) that shares their memory."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                self.rows, self.columns, self.weight.detach(), self.shape, check_invariants=False
            )

    def forward(self, x: Tensor) -> Tensor:
        return (self.pattern() @ x.t().contiguous()).t() + self.bias
