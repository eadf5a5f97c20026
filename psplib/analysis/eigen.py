"""Eigenpairs of a symmetric operator that is known by its products: the leading ones, or all.

Nothing here knows of networks: an operator has a `size`, a `device` and `@` for vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from psplib.core.errors import PsplibError, whole_number
from psplib.core.seeds import derive

# A matrix of this size takes 3.2 GB, and as much again for its eigenvectors.
LARGEST_EXACT = 20_000


class Operator(Protocol):
    """A symmetric matrix known by its products."""

    @property
    def size(self) -> int:
        """The dimension D."""

    @property
    def device(self) -> torch.device:
        """Where vectors live."""

    def __matmul__(self, vector: Tensor) -> Tensor:
        """The product with a vector (D,), in the vector's own dtype."""


@dataclass(frozen=True, eq=False)
class Scaled:
    """`factor`·diag(s)·A·diag(s) of an operator A; `scale` s is a vector (D,), or 1.

    With `s = |w|` and A the Hessian at weights w it is the curvature for *relative* changes of
    single weights (Kwon et al., 2021, measure sharpness so). Where a unit's incoming weights and
    bias are multiplied by c > 0 and its outgoing weights by 1/c, a ReLU network stays the same
    function and this operator the same matrix. `factor` -1 turns the smallest eigenvalue into the
    largest.
    """

    operator: Operator
    scale: Tensor | float = 1.0
    factor: float = 1.0

    @property
    def size(self) -> int:
        """The dimension D."""
        return self.operator.size

    @property
    def device(self) -> torch.device:
        """Where vectors live."""
        return self.operator.device

    def __matmul__(self, vector: Tensor) -> Tensor:
        """The product with a vector (D,)."""
        scale = torch.as_tensor(self.scale).to(vector)
        return self.factor * scale * (self.operator @ (scale * vector))


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """The k leading eigenpairs of an operator of dimension D.

    `values` (k,) float64, `vectors` (k, D) float64 of length 1 in the operator's coordinates (see
    `Hessian.expand`), `residuals` (k,) = ‖Hv − λv‖; `products`: how many Hessian-vector products
    they took; `converged`: whether every residual is within the tolerance.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    converged: bool


def exact(operator: Operator) -> Eigenpairs:
    """All eigenpairs, the largest first: the whole spectrum, from the matrix in float64.

    It takes D products; make a Hessian for it with `dtype=torch.float64`.

    `PsplibError` if the operator has more than `LARGEST_EXACT` coordinates.
    """
    size = operator.size
    if size > LARGEST_EXACT:
        raise PsplibError(
            f"An exact spectrum is for at most {LARGEST_EXACT} coordinates; this Hessian has "
            f"{size}: use leading."
        )
    matrix = torch.empty(size, size, dtype=torch.float64, device=operator.device)
    unit = torch.zeros(size, dtype=torch.float64, device=operator.device)
    for row, position in zip(matrix, range(size), strict=True):
        unit[position] = 1
        row.copy_(_apply(operator, unit))
        unit[position] = 0
    matrix = (matrix + matrix.T) / 2
    values, vectors = (t.flip(-1) for t in torch.linalg.eigh(matrix))
    residuals = (matrix @ vectors - values * vectors).norm(dim=0)
    return Eigenpairs(values.cpu(), vectors.T, residuals.cpu(), size, True)


def leading(
    operator: Operator,
    k: int = 5,
    tolerance: float = 1e-3,
    *,
    seed: int = 0,
    most: int = 500,
) -> Eigenpairs:
    """The k algebraically largest eigenpairs, to residuals ‖Hv − λv‖ of at most `tolerance·|λ₁|`.

    Lanczos with full reorthogonalisation, in float64 whatever the products are computed in, from a
    random vector. The recurrence only tells when to look: the residuals that decide, and are given,
    come from the products themselves, which are kept (2·D·8 bytes a step). Stops at `most` products
    in any case, and says so in `converged`. As any Krylov method it sees an eigenvalue that occurs
    twice only once.
    """
    size = operator.size
    _check_k(k, size)
    whole_number("most", most, k)
    if not 0 < tolerance < 1:
        raise PsplibError(f"tolerance must lie between 0 and 1; got {tolerance}.")
    generator = _generator("lanczos", seed)
    capacity = min(most, size)
    basis = torch.empty(min(capacity, 32), size, dtype=torch.float64, device=operator.device)
    images = torch.empty_like(basis)
    small = torch.zeros(capacity, capacity, dtype=torch.float64)
    q, used = _random(operator, generator), 0
    q /= q.norm()
    while True:
        if used == len(basis):
            more = min(capacity, 2 * used) - used
            basis, images = (torch.cat([t, torch.empty_like(t[:more])]) for t in (basis, images))
        basis[used], images[used] = q, _apply(operator, q)
        image, used = images[used], used + 1
        rest, along = _orthogonal(image, basis[:used])
        small[used - 1, :used] = small[:used, used - 1] = along.cpu()
        found, mixtures = torch.linalg.eigh(small[:used, :used])
        values, mixtures = found.flip(0)[:k], mixtures.flip(1)[:, :k].T
        length, bound = float(rest.norm()), tolerance * float(values[0].abs())
        seems = used >= k and bool((length * mixtures[:, -1].abs() <= bound).all())
        if seems or used == capacity:
            mixtures = mixtures.to(basis.device)
            vectors = mixtures @ basis[:used]
            vectors /= vectors.norm(dim=1, keepdim=True)
            scaled = values.to(basis.device)[:, None] * vectors
            residuals = (mixtures @ images[:used] - scaled).norm(dim=1).cpu()
            converged = used >= k and bool((residuals <= bound).all())
            if converged or used == capacity:
                return Eigenpairs(values.clone(), vectors, residuals, used, converged)
        while length <= 1e-10 * float(image.norm()):  # an invariant subspace: go on elsewhere
            image = _random(operator, generator)
            rest, _ = _orthogonal(image, basis[:used])
            length = float(rest.norm())
        q = rest / length


def legacy(operator: Operator, k: int = 5, *, steps: int = 20, seed: int = 0) -> Eigenpairs:
    """What the paper's tool computed: power iteration with deflation.

    pytorch-hessian-eigenthings of October 2018 (`power_iter.py`): at most 20 steps a pair, fewer
    once the estimate changes by less than 1e-4 of itself; each pair begins with the eigenvector of
    the last, the first with uniform numbers; the value belongs to the vector one step before. Its
    pairs are the largest in magnitude, and not converged as a rule: `converged` asks for residuals
    of `1e-3·|λ₁|`. The residuals cost one product more for each pair.
    """
    _check_k(k, operator.size)
    whole_number("steps", steps, 1)
    vector = torch.rand(operator.size, generator=_generator("legacy", seed), dtype=torch.float64)
    vector = vector.to(operator.device)
    values: list[float] = []
    vectors: list[Tensor] = []
    residuals, products = [], 0
    for _ in range(k):
        value, before = 0.0, 0.0
        for _ in range(steps):
            image = _apply(operator, vector)
            products += 1
            for found, along in zip(values, vectors, strict=True):
                image -= found * (along @ vector) * along
            value = float(vector @ image)
            length = image.norm()
            if not length > 0:  # the vector was an eigenvector of what is already deflated
                break
            vector = image / length
            if value and abs((value - before) / value) < 1e-4:
                break
            before = value
        values.append(value)
        vectors.append(vector)
        residuals.append(float((_apply(operator, vector) - value * vector).norm()))
        products += 1
    return Eigenpairs(
        torch.tensor(values, dtype=torch.float64),
        torch.stack(vectors),
        torch.tensor(residuals, dtype=torch.float64),
        products,
        max(residuals) <= 1e-3 * abs(values[0]),
    )


def _orthogonal(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """The part of a vector (D,) orthogonal to the rows of `basis` (m, D), and its coefficients (m,)
    along them. Twice is enough (Giraud et al., 2005)."""
    along = basis @ vector
    rest = vector - basis.T @ along
    return rest - basis.T @ (basis @ rest), along


def _apply(operator: Operator, vector: Tensor) -> Tensor:
    image = operator @ vector
    check_finite("A Hessian-vector product", image)
    return image


def _generator(stream: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive("hessian", stream, seed))


def _random(operator: Operator, generator: torch.Generator) -> Tensor:
    vector = torch.randn(operator.size, generator=generator, dtype=torch.float64)
    return vector.to(operator.device)


def _check_k(k: int, size: int) -> None:
    whole_number("k", k, 1)
    if k > size:
        raise PsplibError(f"k must be at most {size}, the dimension of the Hessian; got {k}.")


def check_finite(what: str, values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise PsplibError(f"{what} must be finite; got NaN or infinity.")
