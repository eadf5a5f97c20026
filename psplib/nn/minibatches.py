"""Data as minibatches (x, y): a `Split`, a data set, a loader, or any iterable of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from psplib.core.errors import PsplibError
from psplib.nn.data import Split
from psplib.nn.faithful import first_line

Minibatches = Split | Dataset | Iterable[tuple[Tensor, Tensor]]


def minibatches(data: Minibatches, size: int, axis: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels (B,), as they come, or `size` samples each from a `Split` (x, y) or a data
    set. Samples lie along `axis` of the inputs. `PsplibError` for anything else."""
    data = as_split(data)
    pairs: Iterable[Any]
    if isinstance(data, Split):
        check_pair(data.x, data.y, axis)
        pairs = zip(data.x.split(size, axis), data.y.split(size), strict=True)
        pairs = pairs if len(data.y) else ()
    elif has_numbers(data):
        pairs = loaded(data, size)
    else:
        pairs = data  # type: ignore[assignment]  # looked at below
    try:
        found: Iterator[Any] = iter(pairs)
    except TypeError:
        raise PsplibError(
            f"Data must be a Split, a data set or an iterable of minibatches (x, y); "
            f"got a {type(data).__name__}."
        ) from None
    for pair in found:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise PsplibError(
                f"A minibatch must be a pair (x, y) of tensors; got a {type(pair).__name__}"
                f"{f' of {len(pair)}' if isinstance(pair, tuple | list) else ''}."
            )
        x, y = pair
        check_pair(x, y, axis)
        if len(y):
            yield x, y


def loaded(data: Dataset, size: int, order: Sequence[int] | None = None) -> Iterator[Any]:
    """The samples of a data set, `size` at a time; `PsplibError` where it does not give them."""
    try:
        yield from DataLoader(data, size, sampler=order)
    except Exception as error:
        raise PsplibError(
            f"The samples of a {type(data).__name__} do not make minibatches: {first_line(error)}."
        ) from error


def as_split(data: Minibatches) -> Minibatches:
    """Data that are two tensors, as a `Split`; other data as they are."""
    pair = data.tensors if type(data) is TensorDataset else data
    if isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], Tensor):
        return Split(pair[0], pair[1])
    return data


def has_numbers(data: Minibatches) -> TypeGuard[Dataset]:
    """Whether the samples are a data set's, which gives each by its number."""
    is_one = isinstance(data, Dataset) and not isinstance(data, IterableDataset)
    return is_one and hasattr(data, "__len__")


def gather(data: Minibatches, device: torch.device) -> Split:
    """All samples of the data in one `Split` on a device; a `Split` there is given back."""
    if isinstance(data, Split):
        check_pair(data.x, data.y, 0)
    else:
        pairs = list(minibatches(data, 1000))
        if not pairs:
            return Split(torch.empty(0), torch.empty(0, dtype=torch.int64))
        if len({x.shape[1:] for x, _ in pairs}) > 1:
            raise PsplibError("The samples of all minibatches must have one shape.")
        data = Split(torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]))
    return Split(data.x.to(device), data.y.to(device))


def check_labels(y: Tensor, classes: int) -> None:
    """Raise `PsplibError` unless labels are int64 (N,) from 0 to `classes` - 1."""
    fits = y.dtype == torch.int64 and y.ndim == 1 and len(y)
    if not fits or int(y.min()) < 0 or int(y.max()) >= classes:
        bounds = f" from {y.min()} to {y.max()}" if y.numel() else ""
        raise PsplibError(
            f"Labels must be int64 of shape (N,) from 0 to {classes - 1}, the network's outputs; "
            f"got {y.dtype} of shape {tuple(y.shape)}{bounds}."
        )


def check_pair(x: Any, y: Any, axis: int) -> None:
    """Raise `PsplibError` unless these are inputs and as many labels as samples along `axis`."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise PsplibError(
            "A minibatch must be a pair (x, y) of tensors; "
            f"got {type(x).__name__} and {type(y).__name__}."
        )
    if any(t.layout != torch.strided or t.is_nested or t.is_meta for t in (x, y)):
        raise PsplibError(
            "A minibatch must be of dense tensors with values; call to_dense() on its own."
        )
    if not -x.ndim <= axis < x.ndim or y.ndim == 0 or x.shape[axis] != len(y):
        raise PsplibError(
            f"A minibatch needs as many labels as samples along axis {axis} of x; got x of shape "
            f"{tuple(x.shape)} and y of shape {tuple(y.shape)}. Is batch_axis right?"
        )
