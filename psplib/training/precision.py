"""In which precision matrices are multiplied."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from psplib.core.errors import PsplibError, one_of

PRECISIONS = {
    "float32": "every product in float32",
    "tf32": "products of matrices and convolutions with 10 bits of mantissa (NVIDIA, from Ampere)",
    "bfloat16": "activations and products in bfloat16, weights and their update in float32",
}


def check_precision(name: str, device: torch.device) -> None:
    """Raise `PsplibError` unless the device can multiply in that precision."""
    one_of("precision", name, PRECISIONS)
    if name == "tf32" and device.type != "cuda":
        raise PsplibError(f"precision 'tf32' needs a CUDA device; this one is {device.type}.")


@contextlib.contextmanager
def of_products(name: str, device: torch.device) -> Iterator[None]:
    """For a while, whether the products of a GPU may use TF32."""
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def of_activations(name: str, device: torch.device) -> Any:
    """For a while, activations in bfloat16, if that is the name."""
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16")
