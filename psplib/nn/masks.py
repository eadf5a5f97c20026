"""`Mask`: which parameters of a network survive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from psplib.core.errors import PsplibError, one_of

SCOPES = ("layer", "global")
# Whether pruned coordinates count.
SUBSPACES = ("surviving", "all")


@dataclass(frozen=True, eq=False)
class Mask:
    """One bit per prunable parameter (Linear, Conv2d and BatchNorm2d, biases included).

    `flat` (P,) bool runs through the parameters in the model's own order; true survives. `shapes`
    gives each parameter's name and shape.
    """

    flat: Tensor
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        size = sum(prod(shape) for _, shape in self.shapes)
        if self.flat.dtype != torch.bool or self.flat.shape != (size,):
            raise PsplibError(
                f"A mask for {size} parameters must be bool of shape ({size},); "
                f"got {self.flat.dtype} of shape {tuple(self.flat.shape)}."
            )

    @classmethod
    def dense(cls, model: nn.Module) -> Mask:
        """The mask under which everything survives."""
        shapes = shapes_of(model)
        return cls(torch.ones(sum(prod(s) for _, s in shapes), dtype=torch.bool), shapes)

    def with_flat(self, flat: Tensor) -> Mask:
        """Another mask for the same network."""
        return Mask(flat, self.shapes)

    def split(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and part of each parameter, in its own shape, of any vector (P,); views of it."""
        start = 0
        for name, shape in self.shapes:
            yield name, flat[start : start + prod(shape)].view(shape)
            start += prod(shape)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Name and mask of each parameter."""
        return self.split(self.flat)

    @property
    def kept(self) -> int:
        """How many parameters survive."""
        return int(self.flat.sum())

    @property
    def sparsity(self) -> float:
        """Share of pruned parameters among all of them, biases included."""
        return 1 - self.kept / len(self.flat)

    @property
    def weight_sparsity(self) -> float:
        """The other usual count: share of pruned weights of Linear and Conv2d only."""
        weights = [mask for name, mask in self.items() if mask.ndim > 1]
        if not weights:
            raise PsplibError("The mask has no weights of a Linear or Conv2d to count.")
        return 1 - sum(int(m.sum()) for m in weights) / sum(m.numel() for m in weights)

    def apply_(self, model: nn.Module) -> None:
        """Set the pruned parameters of `model` to zero, in place."""
        if shapes_of(model) != self.shapes:
            raise PsplibError("The mask belongs to a network of another architecture.")
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, mask in self.items():
                parameters[name].mul_(mask.to(parameters[name].device))


def shapes_of(model: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Name and shape of each parameter; `PsplibError` where a lazy module has not made its own."""
    for name, module in model.named_modules():
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(map(nn.parameter.is_lazy, own)):
            raise PsplibError(
                f"{name or 'the network'} ({type(module).__name__}) is lazy; compute one minibatch "
                "with the network first."
            )
    return tuple((name, tuple(p.shape)) for name, p in model.named_parameters())


def nest(masks: Tensor) -> Tensor:
    """How many of K nested masks (K, P) bool a parameter survives, (P,) int16.

    Gradual pruning takes parameters away and gives none back: mask k is `nest(masks) > k`.
    """
    if bool((masks[1:] & ~masks[:-1]).any()):
        raise PsplibError("Nested masks only lose parameters; one of these has won some.")
    return masks.sum(0, dtype=torch.int16)


def pack_bits(flat: Tensor) -> Tensor:
    """Bits (..., P) bool as bytes (..., ceil(P / 8)) uint8, the first bit the highest."""
    return torch.from_numpy(np.packbits(flat.cpu().numpy(), axis=-1))


def unpack_bits(packed: Tensor, size: int) -> Tensor:
    """The bits (..., size) bool that `pack_bits` made bytes of."""
    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1, count=size)).bool()


def random_structure(mask: Mask, scope: str, generator: torch.Generator) -> Mask:
    """A random mask with as many survivors as `mask`: in each parameter tensor (`layer`), or over
    the whole network (`global`), every structure of that count equally likely."""
    one_of("scope", scope, SCOPES)

    def shuffle(flat: Tensor) -> Tensor:
        return flat[torch.randperm(len(flat), generator=generator)]

    if scope == "global":
        return mask.with_flat(shuffle(mask.flat))
    return mask.with_flat(torch.cat([shuffle(m.flatten()) for _, m in mask.items()]))


def magnitude(weights: Tensor, mask: Mask, kept: int) -> Mask:
    """The mask of the `kept` largest `|w|` of the flat `weights` (P,) among the survivors of `mask`
    (Han et al., 2015); of equal magnitudes the earlier parameter survives."""
    if not 0 <= kept <= mask.kept:
        raise PsplibError(f"kept must lie between 0 and {mask.kept}, the survivors; got {kept}.")
    size = torch.where(mask.flat, weights.detach().cpu().abs(), -1.0)
    flat = torch.zeros_like(mask.flat)
    flat[torch.sort(size, descending=True, stable=True).indices[:kept]] = True
    return mask.with_flat(flat)
