"""Hessians against closed forms, autograd's full matrix and another library; algorithms against
matrices whose spectrum is known."""

import copy
import functools
import itertools
import math
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import linear_chain
from torch import Tensor, nn
from torch.func import functional_call

from psplib.analysis import eigen, rop
from psplib.analysis import hessian as h
from psplib.core.errors import PsplibError
from psplib.core.seeds import derive
from psplib.nn.data import Split, load_data
from psplib.nn.masks import Mask
from psplib.nn.models import ResNet, build

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def conv_chain() -> nn.Sequential:
    """Both orders of ReLU and pooling, a pooling that leaves a rim, padding, a stride, a bare
    convolution, two maps between the last convolution and the linear layer."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 3, 3), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(3, 4, 3, padding=1), pool2=nn.MaxPool2d(2), relu2=nn.ReLU(),
            conv3=nn.Conv2d(4, 2, 2, stride=1), relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(2, 4), relu4=nn.ReLU(),
            fc2=nn.Linear(4, 3),
        )
    )  # fmt: skip


def small_resnet() -> nn.Module:
    """A ResNet-8 of few channels, its statistics not the initial ones."""
    model = ResNet(8, classes=3)
    model.conv, model.bn = nn.Conv2d(3, 2, 3, 1, 1, bias=False), nn.BatchNorm2d(2)
    model.stage1 = copy.deepcopy(nn.Sequential(type(model.stage1[0])(2, 2, 1)))
    model.stage2, model.stage3 = nn.Identity(), nn.Identity()
    model.fc = nn.Linear(2, 3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
    return model


RESNET = pytest.param(small_resnet, marks=pytest.mark.slow)
IMAGE = {linear_chain: (1, 3, 4), conv_chain: (1, 11, 11), small_resnet: (3, 6, 6)}


def samples(image: tuple[int, ...], n: int = 11, classes: int = 3) -> Split:
    return Split(torch.randn(n, *image), torch.randint(classes, (n,)))


def full_matrix(model: nn.Module, split: Split) -> Tensor:
    """The Hessian from torch.func, in float64 and in evaluation mode."""
    model = copy.deepcopy(model).double().eval()
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    sizes = [s.numel() for s in shapes]

    def loss(flat: Tensor) -> Tensor:
        parts = {n: v.view(s) for n, s, v in zip(names, shapes, flat.split(sizes), strict=True)}
        return F.cross_entropy(functional_call(model, parts, (split.x.double(),)), split.y)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return torch.func.hessian(loss)(flat)


def dense(operator: eigen.Operator) -> Tensor:
    """Column by column, through products alone."""
    return torch.stack([operator @ unit for unit in torch.eye(operator.size, dtype=DOUBLE)], 1)


def close(found: Tensor, expected: Tensor, rtol: float = 1e-8) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * scale)


class Matrix:
    """A symmetric matrix as an operator."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.size, self.device, self.products = matrix, len(matrix), matrix.device, 0

    def __matmul__(self, vector: Tensor) -> Tensor:
        self.products += 1
        return self.matrix @ vector


def known(values: list[float] | Tensor) -> tuple[Matrix, Tensor]:
    """A matrix with these eigenvalues, and its eigenvectors, one a row."""
    values = torch.as_tensor(values, dtype=DOUBLE)
    q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=DOUBLE)).Q
    return Matrix(q @ torch.diag(values) @ q.T), q.T


# --- the operator


def test_softmax_regression_has_the_hessian_of_the_textbook() -> None:
    """Σ (diag p − pp') ⊗ x̃x̃' / N: catches a factor, a transposition, a mean of batch means."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 4))
    split = samples((1, 1, 5), n=13, classes=4)
    x = torch.cat([split.x.flatten(1), torch.ones(13, 1)], 1).double()
    p = torch.softmax(model.double()(split.x.double()), 1).detach()
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("nab,ni,nj->aibj", curvature, x, x) / 13
    # Parameters are the weight (4, 5), then the bias (4,).
    order = torch.cat([torch.arange(24).view(4, 6)[:, :5].flatten(), torch.arange(24)[5::6]])
    expected = expected.reshape(24, 24)[order][:, order]
    operator = h.hessian(model, split, dtype=DOUBLE, batch_size=4)
    close(dense(operator), expected)


def test_linear_regression_has_the_hessian_of_the_textbook() -> None:
    """Σ over outputs of squares: 2·x̃x̃'/N for each; catches a loss averaged over outputs."""
    model = nn.Linear(4, 2, bias=False)
    x, y = torch.randn(9, 4), torch.randn(9, 2)
    operator = h.hessian(model, Split(x, y), loss=F.mse_loss, dtype=DOUBLE, batch_size=4)
    expected = torch.block_diag(*[2 * x.double().T @ x.double() / 9] * 2)
    close(dense(operator), expected)


@pytest.mark.parametrize("make", [linear_chain, conv_chain, RESNET])
def test_products_are_those_of_the_full_matrix(make) -> None:
    model, split = make(), samples(IMAGE[make])
    operator = h.hessian(model, split, dtype=DOUBLE, batch_size=4)
    assert isinstance(operator._engine, rop.Autograd if make is small_resnet else rop.ROperator)
    expected = full_matrix(model, split)
    close(dense(operator), expected)
    single = h.hessian(model, split, batch_size=4)
    v = torch.randn(operator.size, dtype=DOUBLE)
    close(single @ v, expected @ v, rtol=1e-4)


@pytest.mark.parametrize("make", [linear_chain, conv_chain, RESNET])
@given(density=st.sampled_from([0.05, 0.2, 0.5, 0.9]), seed=st.integers(0, 99))
@settings(max_examples=4, deadline=None)
def test_surviving_coordinates_are_a_submatrix(make, density: float, seed: int) -> None:
    """Also where layers die out or survivors are cut off: their rows are zero, but they count."""
    torch.manual_seed(seed)
    model, split = make(), samples(IMAGE[make])
    mask = Mask.dense(model)
    mask = mask.with_flat(torch.rand(len(mask.flat)) < density)
    if not mask.kept:
        return
    pruned = copy.deepcopy(model)
    mask.apply_(pruned)
    expected = full_matrix(pruned, split)
    surviving = h.hessian(model, split, mask, dtype=DOUBLE, batch_size=4)
    assert surviving.size == mask.kept
    close(dense(surviving), expected[mask.flat][:, mask.flat])
    v = torch.randn(mask.kept, dtype=DOUBLE)
    close(surviving @ v, expected[mask.flat][:, mask.flat] @ v)
    everything = h.hessian(model, split, mask, "all", dtype=DOUBLE)
    v = surviving.expand(v)
    assert torch.equal(v != 0, mask.flat)
    close(everything @ v, expected @ v)


def test_every_sample_counts_the_same_in_batches_of_any_size() -> None:
    for make in (conv_chain, small_resnet):
        model, split = make(), samples(IMAGE[make], n=10)
        v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=DOUBLE)
        whole = h.hessian(model, split, dtype=DOUBLE, batch_size=10) @ v
        for batch_size in (1, 3, 7):
            close(h.hessian(model, split, dtype=DOUBLE, batch_size=batch_size) @ v, whole, 1e-12)


def test_what_does_not_fit_is_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = conv_chain(), samples(IMAGE[conv_chain])
    kept = h.hessian(model, split, batch_size=4)
    monkeypatch.setattr(rop, "MEMORY", 0)
    recomputed = h.hessian(model, split, batch_size=4)
    assert recomputed._engine.kept is None
    v = torch.randn(kept.size, dtype=DOUBLE)
    assert torch.equal(kept @ v, recomputed @ v)


def test_products_agree_with_curvlinops() -> None:
    curvlinops = pytest.importorskip("curvlinops")
    model = conv_chain().double()
    split = samples(IMAGE[conv_chain], n=12)
    batches = list(zip(split.x.double().split(6), split.y.split(6), strict=True))
    peer = curvlinops.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), batches
    )
    v = torch.randn(peer.shape[0], dtype=DOUBLE)
    close(h.hessian(model, split) @ v, peer @ v)


def test_a_network_that_is_certain_keeps_its_digits_in_float32() -> None:
    """p = 1 − 1e-7: computed as p − 1 and p·(z − p·z), the float32 Hessian would be noise."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    nn.init.zeros_(model[1].weight)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([16.0, 0.0, 0.5]))
    split = Split(torch.randn(50, 1, 1, 2), torch.zeros(50, dtype=torch.int64))
    v = torch.randn(9, dtype=DOUBLE)
    exact = h.hessian(model, split, dtype=DOUBLE) @ v
    assert float(exact.abs().max()) < 1e-6
    close(h.hessian(model, split) @ v, exact, rtol=1e-5)


@pytest.mark.parametrize("subspace", h.SUBSPACES)
def test_the_model_is_left_as_it_was(subspace: str) -> None:
    for make in (conv_chain, small_resnet):
        model, split = make().train(), samples(IMAGE[make])
        state = {n: t.clone() for n, t in model.state_dict().items()}
        mask = Mask.dense(model)
        mask = mask.with_flat(torch.rand(len(mask.flat)) < 0.5)
        operator = h.hessian(model, split, mask, subspace, dtype=DOUBLE)
        _ = operator @ torch.randn(operator.size)
        assert all(m.training for m in model.modules())
        assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
        assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())


# --- the algorithms

DECAYING = [10.0, 7.0, 5.0, -6.0, *torch.linspace(1, -1, 96).tolist()]


def test_a_scaled_operator_is_the_product_of_three_matrices() -> None:
    matrix, _ = known(DECAYING)
    scale = torch.rand(100, dtype=DOUBLE)
    scaled = eigen.Scaled(matrix, scale)
    close(dense(scaled), torch.diag(scale) @ matrix.matrix @ torch.diag(scale))
    smallest = eigen.leading(eigen.Scaled(matrix, factor=-1), 1, 1e-6)
    assert -float(smallest.values) == pytest.approx(-6.0)


def test_the_relative_curvature_of_two_weights_has_a_closed_form() -> None:
    """Two classes, one input x, logits w·x: H = x²·p·q·[[1, -1], [-1, 1]], so λ₁ = 2·x²·p·q, and
    of |w|·H·|w| it is x²·p·q·(w₁² + w₂²)."""
    model = nn.Linear(1, 2, bias=False).double()
    w, x = torch.tensor([0.7, -0.4], dtype=DOUBLE), 1.5
    model.weight.data[:, 0] = w
    split = Split(torch.tensor([[x]], dtype=DOUBLE), torch.tensor([0]))
    operator = h.hessian(model, split)
    p = float(torch.sigmoid(x * (w[0] - w[1])))
    both = [eigen.leading(o, 1, 1e-6) for o in (operator, eigen.Scaled(operator, w.abs()))]
    expected = [2 * x**2 * p * (1 - p), x**2 * p * (1 - p) * float((w**2).sum())]
    assert [float(e.values) for e in both] == pytest.approx(expected)


@pytest.mark.parametrize("make", [linear_chain, conv_chain])
@given(seed=st.integers(0, 99))
@settings(max_examples=2, deadline=None)
def test_relative_curvature_is_left_alone_by_a_rescaling_of_single_units(make, seed: int) -> None:
    torch.manual_seed(seed)
    model, split = make().double(), samples(IMAGE[make])
    split = Split(split.x.double(), split.y)
    other = copy.deepcopy(model)
    layers = [m for m in other if isinstance(m, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        for lower, upper in itertools.pairwise(layers):
            c = torch.exp(torch.randn(len(lower.weight), dtype=DOUBLE))
            lower.weight *= c.view(-1, *[1] * (lower.weight.ndim - 1))
            lower.bias *= c
            read = upper.weight.view(len(upper.weight), len(c), -1)
            read /= c[None, :, None]
    close(other(split.x).detach(), model(split.x).detach())
    operators = [h.hessian(m, split) for m in (model, other)]
    sizes = [nn.utils.parameters_to_vector(m.parameters()).detach().abs() for m in (model, other)]
    relative = [dense(eigen.Scaled(o, s)) for o, s in zip(operators, sizes, strict=True)]
    close(relative[1], relative[0], 1e-7)
    plain = [float(eigen.leading(o, 1).values) for o in operators]
    assert plain[1] != pytest.approx(plain[0], rel=0.01)


def test_lanczos_finds_the_largest_with_their_true_residuals() -> None:
    matrix, vectors = known(DECAYING)
    found = eigen.leading(matrix, 3, 1e-6)
    assert found.converged
    assert found.products == matrix.products < 40
    close(found.values, torch.tensor([10.0, 7.0, 5.0], dtype=DOUBLE))
    close((found.vectors * vectors[:3]).sum(1).abs(), torch.ones(3, dtype=DOUBLE))
    residuals = (found.vectors @ matrix.matrix - found.values[:, None] * found.vectors).norm(dim=1)
    torch.testing.assert_close(found.residuals, residuals, rtol=1e-6, atol=1e-12)
    assert float(residuals.max()) <= 1e-6 * 10
    again = eigen.leading(Matrix(matrix.matrix), 3, 1e-6)
    assert torch.equal(again.vectors, found.vectors)


def test_lanczos_says_that_it_has_not_converged() -> None:
    matrix, _ = known(DECAYING)
    found = eigen.leading(matrix, 3, 1e-6, most=6)
    assert not found.converged
    assert found.products == 6
    assert float(found.residuals.max()) > 1e-5


def test_lanczos_goes_on_in_an_invariant_subspace() -> None:
    """A matrix with three distinct eigenvalues exhausts its Krylov space in three steps."""
    matrix, _ = known([3.0, 3.0, 2.0, 2.0, 1.0, 1.0])
    found = eigen.leading(matrix, 5, 1e-8)
    assert found.converged
    close(found.values, torch.tensor([3.0, 3.0, 2.0, 2.0, 1.0], dtype=DOUBLE))
    zero = eigen.leading(Matrix(torch.zeros(4, 4, dtype=DOUBLE)), 2)
    assert zero.converged
    assert not zero.values.any()


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=12), st.integers(1, 4), st.integers(0, 9)
)
@settings(max_examples=40, deadline=None)
def test_lanczos_of_a_small_matrix_converges(values: list[float], k: int, seed: int) -> None:
    """Whatever the spectrum, what is reported are eigenpairs, orthonormal and in order."""
    torch.manual_seed(seed)
    matrix, _ = known(values)
    k = min(k, len(values))
    found = eigen.leading(matrix, k, 1e-6, seed=seed)
    assert found.products <= len(values)
    close(found.vectors @ found.vectors.T, torch.eye(k, dtype=DOUBLE), 1e-8)
    scale = max(map(abs, values))
    residuals = (found.vectors @ matrix.matrix - found.values[:, None] * found.vectors).norm(dim=1)
    assert float(residuals.max()) <= 1e-6 * abs(float(found.values[0])) + 1e-9 * scale
    assert torch.equal(found.values, found.values.sort(descending=True).values)


@pytest.mark.parametrize("make", [conv_chain, RESNET])
def test_lanczos_agrees_with_the_exact_spectrum(make) -> None:
    """Products in float32, residuals in truth: against the matrix in float64."""
    model, split = make(), samples(IMAGE[make], n=40)
    matrix = full_matrix(model, split)
    exact = eigen.exact(h.hessian(model, split, dtype=DOUBLE))
    close(exact.values, torch.linalg.eigvalsh(matrix).flip(0))
    close(exact.vectors.T @ (exact.values[:, None] * exact.vectors), matrix)
    assert (exact.products, exact.converged) == (len(matrix), True)
    assert float(exact.residuals.max()) < 1e-12
    found = eigen.leading(h.hessian(model, split), 4, 1e-4)
    assert found.converged
    close(found.values, exact.values[:4], 1e-4)
    residuals = (found.vectors @ matrix - found.values[:, None] * found.vectors).norm(dim=1)
    assert float(residuals.max()) <= 1.1e-4 * float(found.values[0])


def test_legacy_is_twenty_steps_of_deflated_power_iteration() -> None:
    """Written once more, as matrices. The largest in magnitude come first, the start of a pair is
    the last one's vector (most of which is deflated: rounding is amplified)."""
    matrix, _ = known([9.0, -8.0, 4.0, *[0.5] * 20])
    found = eigen.legacy(Matrix(matrix.matrix), 3, steps=4, seed=5)
    a = matrix.matrix.clone()
    generator = torch.Generator().manual_seed(derive("hessian", "legacy", 5))
    v = torch.rand(23, generator=generator, dtype=DOUBLE)
    for i in range(3):
        for _ in range(4):
            value = float(v @ a @ v)
            v = a @ v / (a @ v).norm()
        a -= value * torch.outer(v, v)
        assert float(found.values[i]) == pytest.approx(value, rel=1e-7)
        residual = (matrix.matrix @ v - value * v).norm()
        assert float(found.residuals[i]) == pytest.approx(float(residual), rel=1e-7)
    assert found.products == 3 * 4 + 3
    assert not found.converged


def test_legacy_stops_early_once_a_value_stands_still() -> None:
    matrix, _ = known([100.0, 10.0, 1.0])
    found = eigen.legacy(matrix, 1, steps=1000)
    assert found.products < 10
    assert float(found.values[0]) == pytest.approx(100, rel=1e-4)


def test_along_the_segment_every_point_stands_for_itself() -> None:
    model, split = conv_chain(), samples(IMAGE[conv_chain])
    mask = Mask.dense(model)
    mask = mask.with_flat(torch.rand(len(mask.flat)) < 0.6)
    first, second = (torch.randn(len(mask.flat)) * mask.flat for _ in range(2))
    middle = copy.deepcopy(model)
    nn.utils.vector_to_parameters((first + second) / 2, middle.parameters())
    for subspace in h.SUBSPACES:
        ask = functools.partial(h.eigenvalues_along, model, split, first, second)
        tables = list(ask([0.0, 0.5, 1.0], mask, subspace, k=2))
        assert [len(t) for t in tables] == [2, 2, 2]
        table = tables[1]
        assert next(ask([0.5], mask, subspace, k=2)).equals(table)
        exact = eigen.exact(h.hessian(middle, split, mask, subspace, dtype=DOUBLE))
        found = torch.tensor(table["eigenvalue"].tolist(), dtype=DOUBLE)
        close(found, exact.values[:2], 1e-4)
        rough = next(ask([0.5], mask, subspace, k=2, definition="legacy"))
        assert set(rough["products"]) != set(table["products"])


def test_lenet_5_and_resnet_run_as_they_are() -> None:
    for name, image in (("lenet-5", (1, 28, 28)), ("resnet-8", (3, 32, 32))):
        model, split = build(name, 0), samples(image, n=4)
        operator = h.hessian(model, split, batch_size=3)
        assert isinstance(operator._engine, rop.ROperator) == (name == "lenet-5")
        v, w = torch.randn(2, operator.size, dtype=DOUBLE)
        # Symmetric, also between layers.
        assert float(v @ (operator @ w)) == pytest.approx(float(w @ (operator @ v)), rel=1e-3)


# --- bad input


def bad(message: str):
    return pytest.raises(PsplibError, match=message)


def test_bad_networks_masks_and_data_are_named() -> None:
    model, split = linear_chain(), samples(IMAGE[linear_chain])
    mask = Mask.dense(model)
    with bad("subspace must be one of surviving, all; got 'some'"):
        h.hessian(model, split, mask, "some")
    with bad("The mask belongs to another network"):
        h.hessian(model, split, Mask.dense(conv_chain()))
    with bad("prunes every parameter"):
        h.hessian(model, split, mask.with_flat(torch.zeros_like(mask.flat)))
    with bad("The images must be finite"):
        h.hessian(model, Split(split.x * math.nan, split.y))
    with bad("they have no samples"):
        h.hessian(model, Split(split.x[:0], split.y[:0]))
    with bad("needs as many labels as samples along axis 0"):
        h.hessian(model, Split(split.x, split.y[:5]))
    with bad("Labels must be int64 of shape \\(N,\\) from 0 to 2"):
        h.hessian(model, Split(split.x, split.y + 1))
    with bad("batch_size must be a whole number of at least 1; got 0"):
        h.hessian(model, split, batch_size=0)
    with bad(r"must have shape \(.*\); got \(3,\)"):
        h.hessian(model, split) @ torch.ones(3)
    with torch.no_grad():
        model.fc1.bias[0] = math.nan
    with bad("The weights of the network must be finite"):
        h.hessian(model, split)


def test_bad_arguments_of_algorithms_are_named() -> None:
    matrix, _ = known([2.0, 1.0])
    with bad("k must be at most 2, the dimension of the Hessian; got 3"):
        eigen.leading(matrix, 3)
    with bad("tolerance must lie between 0 and 1; got 0"):
        eigen.leading(matrix, 1, 0)
    with bad("A Hessian-vector product must be finite"):
        eigen.leading(Matrix(torch.full((3, 3), math.nan, dtype=DOUBLE)), 1)
    with bad("at most 20000 coordinates; this Hessian has 431080"):
        eigen.exact(h.hessian(build("lenet-5", 0), samples((1, 28, 28), n=1), dtype=DOUBLE))
    with bad("steps must be a whole number of at least 1"):
        eigen.legacy(matrix, 1, steps=0)
    model, split = linear_chain(), samples(IMAGE[linear_chain])
    ends = torch.zeros(2, 3)
    with bad("first must have shape"):
        next(h.eigenvalues_along(model, split, *ends, [0.0]))
    with bad("definition must be one of converged, legacy"):
        next(h.eigenvalues_along(model, split, *ends, [0.0], definition="new"))


class Plain(nn.Module):
    """A network that no faster form is known of."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


@pytest.mark.parametrize("is_plain", [False, True])
def test_a_ground_of_one_colour_whose_patches_are_alike_does_no_harm(is_plain: bool) -> None:
    """Of black and white images (four digits) two of a pool's numbers are equal but for how they
    are rounded; which is the larger tells what the slopes of pruned weights are."""
    digits = load_data("digits").train
    images = Split((digits.x[16:20] > 0).float(), digits.y[16:20])
    model = build("lenet-5", 4)
    dense = Mask.dense(model)
    generator = torch.Generator().manual_seed(4)
    mask = dense.with_flat(torch.rand(len(dense.flat), generator=generator) < 0.05)
    network = Plain(model) if is_plain else model
    own = Mask.dense(network).with_flat(mask.flat)
    found = h.hessian(network, images, own)
    assert isinstance(found._engine, rop.Autograd if is_plain else rop.ROperator)
    expected = h.hessian(model, images, mask)
    vector = torch.randn(len(expected.coordinates), generator=generator)
    assert torch.allclose(found @ vector, expected @ vector, rtol=1e-3, atol=1e-4)
