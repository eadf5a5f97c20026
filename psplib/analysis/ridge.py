"""Ridge regression on frozen features: how well a linear read-out tells classes apart from few
examples. One eigendecomposition gives every penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from psplib.core.errors import PsplibError

# Times the number of samples: with features of unit variance from no penalty to nothing but one.
PENALTIES = tuple(10.0**k for k in range(-4, 4))


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs (N, d) float64 and labels (N,) of a data set: a `pool` to draw examples from,
    `validation` to choose the penalty on, `test`."""

    pool: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int

    @property
    def width(self) -> int:
        """The number of features."""
        return self.pool[0].shape[1]

    def standardised(self, what: str) -> Outputs:
        """The features that vary over the pool, shifted and scaled to mean 0 and variance 1 there:
        the scale of a unit is arbitrary, a read-out of it should not depend on it.

        `PsplibError` if none varies: no neuron of `what` is alive.
        """
        x = self.pool[0].double()
        mean, sd = x.mean(0), x.std(0)
        # A mean of equal numbers need not be that number: rounding must not become a feature.
        varies = sd > 1e-9 * (1 + mean.abs())
        if not bool(varies.any()):
            raise PsplibError(f"No neuron of {what} is alive: all its features are constant.")

        def scale(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return (part[0].double()[:, varies] - mean[varies]) / sd[varies], part[1]

        return Outputs(scale(self.pool), scale(self.validation), scale(self.test), self.classes)


@dataclass(frozen=True)
class Read:
    """The test `error` of a read-out, and the `penalty` that was chosen for it."""

    error: float
    penalty: float


def solve(x: Tensor, y: Tensor, penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Ridge regression with an intercept that is not penalised: for each penalty p the weights
    (K, d, C) and intercepts (K, C) that make `|XW + b - Y|² + p |W|²` least; x (n, d), y (n, C).

    The eigenvectors are those of the smaller of XᵀX and XXᵀ.
    """
    centre, level = x.mean(0), y.mean(0)
    x, y = x - centre, y - level
    n, d = x.shape
    values, vectors = torch.linalg.eigh(x.T @ x if d <= n else x @ x.T)
    basis, part = (vectors, vectors.T @ (x.T @ y)) if d <= n else (x.T @ vectors, vectors.T @ y)
    shrunk = values.clamp_min(0) + x.new_tensor(penalties)[:, None]
    weights = basis @ (part / shrunk[..., None])
    return weights, level - centre @ weights


def read_out(features: Outputs, draws: Sequence[Tensor]) -> list[Read]:
    """The ridge read-outs of several draws of equally many examples (n,) of the pool, by one-hot
    regression, each with the penalty of least validation error, of equal ones the largest."""
    weights, intercepts = [], []
    for examples in draws:
        x, y = (t[examples] for t in features.pool)
        onehot = F.one_hot(y, features.classes).to(x.dtype)
        w, b = solve(x, onehot, [p * len(x) for p in PENALTIES])
        weights.append(w)
        intercepts.append(b)
    all_weights, all_intercepts = torch.stack(weights), torch.stack(intercepts)
    wrong = _wrong(features.validation, all_weights.flatten(0, 1), all_intercepts.flatten(0, 1))
    fewest = wrong.view(len(draws), -1).flip(1).argmin(1)  # of equal ones the first
    best = len(PENALTIES) - 1 - fewest
    each = torch.arange(len(draws))
    errors = _wrong(features.test, all_weights[each, best], all_intercepts[each, best])
    return [
        Read(int(e) / len(features.test[1]), PENALTIES[k])
        for e, k in zip(errors, best, strict=True)
    ]


def _wrong(part: tuple[Tensor, Tensor], weights: Tensor, intercepts: Tensor) -> Tensor:
    """How many wrong answers each of K read-outs gives: weights (K, d, C), intercepts (K, C)."""
    z, labels = part
    scores = (z @ weights.transpose(0, 1).flatten(1)).view(len(z), *intercepts.shape)
    return ((scores + intercepts).argmax(2) != labels[:, None]).sum(0)


def draw_images(
    labels: Tensor, each: int, classes: int, generator: torch.Generator, what: str
) -> Tensor:
    """Positions of `each` examples of every class, at random; with one generator the examples of a
    smaller number are among those of a larger one.

    `PsplibError` if `what` has fewer of a class.
    """
    counts = torch.bincount(labels, minlength=classes)
    for label in (counts < each).nonzero().flatten().tolist():
        raise PsplibError(
            f"{what} has {int(counts[label])} images of class {label} to draw from; "
            f"{each} a class are asked for."
        )
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    onehot = F.one_hot(labels[order], classes)
    place = (onehot.cumsum(0) * onehot).sum(1)  # of its class, from 1
    return order[place <= each]
