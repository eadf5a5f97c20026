"""Networks that are not ours: the value that a plain implementation gives, or a clear refusal.

The oracles are written out: states by hooks and counting, losses by the network itself, Hessians by
autograd through `functional_call`.
"""

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from networks import (
    DOUBLE,
    NETWORKS,
    REFUSED,
    SHAPE,
    Attention,
    Block,
    Cached,
    Functional,
    Quartered,
    Words,
    images,
    mlp,
)
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import psplib
from psplib.analysis import eigen, hessian, landscape, psp
from psplib.analysis.entropy import FirstOrder, SecondOrder
from psplib.core.errors import PsplibError
from psplib.nn.data import Split
from psplib.nn.masks import Mask
from psplib.training.trainer import flat


def full_hessian(model: nn.Module, split: Split) -> Tensor:
    """By autograd, written out, of every parameter in their order."""
    sizes = {n: p.shape for n, p in model.named_parameters()}

    def loss(weights: Tensor) -> Tensor:
        start, parts = 0, {}
        for n, s in sizes.items():
            parts[n] = weights[start : start + s.numel()].view(s)
            start += s.numel()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return F.cross_entropy(functional_call(model, parts, (split.x,)), split.y)

    return torch.autograd.functional.hessian(loss, flat(model))


def difference(model: nn.Module, split: Split, v: Tensor, step: float = 1e-6) -> Tensor:
    """The product of the Hessian and v (P,), by moving the parameters themselves to and fro."""
    before, found = flat(model), []
    for sign in (step, -step):
        nn.utils.vector_to_parameters(before + sign * v, model.parameters())
        model.scale = None  # what `Cached` has made
        loss = F.cross_entropy(model(split.x), split.y)
        gradient = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
        found.append(torch.cat([g.flatten() for g in gradient]))
    nn.utils.vector_to_parameters(before, model.parameters())
    return (found[0] - found[1]) / (2 * step)


# Of these `functional_call` knows nothing (the weights are in a list, or in a closure), or PyTorch
# has a wrong second derivative.
DIFFERENCES = ("recurrent", "forward that holds a parameter", "cache", "weight norm")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_its_own_values_or_is_refused(name: str) -> None:
    torch.manual_seed(3)
    model, split = NETWORKS[name]().double(), images(12, *SHAPE[name])
    model.train()
    state = copy.deepcopy({n: t.clone() for n, t in model.state_dict().items()})
    score, squares, first, pairs = psp.LossAndError(), psp.MeanSquare(), FirstOrder(), SecondOrder()
    psp.observe(model, split, score, squares, first, pairs, batch=5)
    operator = hessian.hessian(model, split, batch_size=5)
    v = torch.randn(operator.size, dtype=DOUBLE)
    product = operator @ v
    assert all(m.training for m in model.modules())
    for n, t in model.state_dict().items():
        assert torch.equal(t, state[n]), n

    model.eval()
    expected: list[Tensor] = []
    relu = F.relu

    def spy(z: Tensor, inplace: bool = False) -> Tensor:
        expected.append(z.detach().clone())
        return relu(z, inplace)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        if name not in ("module, function, method", "attention, position first"):
            patch.setattr(F, "relu", spy)
        logits = model(split.x)
    assert score.loss == pytest.approx(float(F.cross_entropy(logits, split.y)), rel=1e-9)
    if expected and len(expected) == len(squares.neurons):
        for z, found, counted in zip(
            expected, squares.by_layer.values(), first.counts.values(), strict=True
        ):
            z = z.flatten(1)
            assert found == pytest.approx(float(z.square().mean()), rel=1e-9)
            active = F.one_hot(split.y, 3).T @ (z > 0).long()
            assert sorted(counted.sum(1).tolist()) == sorted(active.sum(1).tolist())
    if name in DIFFERENCES:
        expected_product, rtol = difference(model, split, v), 1e-5
    else:
        expected_product, rtol = full_hessian(model, split) @ v, 1e-6
    scale = float(expected_product.abs().max())
    torch.testing.assert_close(product, expected_product, rtol=rtol, atol=1e-3 * rtol * scale)


def test_each_call_of_an_activation_is_a_layer_with_a_name() -> None:
    squares = psp.MeanSquare()
    psp.observe(Functional().double(), images(), squares)
    names = ["relu", "relu#2", "relu#3", "relu#4", "relu#5", "relu#6"]
    assert list(squares.neurons) == names
    deep = psp.MeanSquare()
    model = nn.Sequential(OrderedDict(a=Block(), b=Block(), f=nn.Flatten(), fc=nn.Linear(75, 3)))
    psp.observe(model.double(), images(12, 3, 5, 5), deep)
    assert list(deep.neurons) == ["a.relu", "a.relu#2", "b.relu", "b.relu#2"]
    assert set(deep.neurons.values()) == {75}


def loss_of(model: nn.Module, split: Split, weights: Tensor) -> float:
    """The mean loss with other weights, batch normalisation by the statistics of all samples."""
    before = flat(model)
    nn.utils.vector_to_parameters(weights, model.parameters())
    for m in model.modules():
        m.train(isinstance(m, nn.modules.batchnorm._BatchNorm))
    with torch.no_grad():
        found = float(F.cross_entropy(model(split.x), split.y))
    nn.utils.vector_to_parameters(before, model.parameters())
    return found


def words() -> tuple[nn.Module, Split]:
    return Words().double(), Split(torch.randint(9, (20, 4)), torch.arange(20) % 3)


@pytest.mark.parametrize(
    "name",
    [
        *("BatchNorm1d", "SyncBatchNorm", "GroupNorm", "unfrozen batch norm", "closure", "tied"),
        *("forward that holds a parameter", "sequential with a forward", "recurrent", "frozen"),
        *("module, function, method", "hook before a pool", "attention, position first", "words"),
    ],
)
def test_a_map_is_of_the_network_itself(name: str) -> None:
    torch.manual_seed(1)
    if name == "words":
        model, split = words()
    else:
        model, split = NETWORKS[name]().double(), images(20, *SHAPE[name])
    # SyncBatchNorm is trained on a GPU only.
    oracle = NETWORKS["BatchNorm1d"]().double() if name == "SyncBatchNorm" else model
    state = {n: t.clone() for n, t in model.state_dict().items()}
    modes = [m.train(i % 2 == 0).training for i, m in enumerate(model.children())]
    mask = Mask.dense(model)
    one, other = flat(model), flat(model) + 0.5 * torch.randn(len(mask.flat), dtype=DOUBLE)
    plane = landscape.plane(one, other, mask, 0)
    table = landscape.sweep(model, plane, split, [0.0, 0.5, 1.0], [0.0, 0.4], batch=7)
    assert [m.training for m in model.children()] == modes
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    for _, row in table.iterrows():
        expected = loss_of(oracle, split, plane.at(row["alpha"], row["beta"]))
        assert row["loss"] == pytest.approx(expected, rel=1e-9)
    assert table["loss"].nunique() == 6


def test_a_mask_is_kept_by_networks_that_are_not_compacted() -> None:
    model, split = Functional().double(), images()
    mask = Mask.dense(model)
    mask = mask.with_flat(torch.rand(len(mask.flat)) < 0.5)
    pruned_model = copy.deepcopy(model)
    mask.apply_(pruned_model)
    expected, found = psp.LossAndError(), psp.LossAndError()
    psp.observe(pruned_model, split, expected)
    psp.observe(model, split, found, mask=mask)
    assert found == expected
    operator = hessian.hessian(model, split, mask)
    assert operator.size == mask.kept
    v = torch.randn(operator.size, dtype=DOUBLE)
    matrix = full_hessian(pruned_model, split)[mask.flat][:, mask.flat]
    torch.testing.assert_close(operator @ v, matrix @ v)


def test_the_leading_eigenvalue_is_that_of_a_sequential_with_a_forward_of_its_own() -> None:
    model, split = Quartered(*mlp()).double(), images(30)
    found = eigen.leading(hessian.hessian(model, split), 3, 1e-8)
    expected = torch.linalg.eigvalsh(full_hessian(model, split)).flip(0)[:3]
    torch.testing.assert_close(found.values, expected)


@pytest.mark.parametrize("kind", ["loader", "data set", "list", "generator", "pair"])
def test_data_may_be_any_minibatches(kind: str) -> None:
    model, split = nn.Sequential(*mlp()).double(), images(20)
    pairs = list(zip(split.x.split(6), split.y.split(6), strict=True))

    def data() -> object:
        return {
            "loader": DataLoader(TensorDataset(split.x, split.y), 6),
            "data set": TensorDataset(split.x, split.y),
            "list": pairs,
            "generator": (pair for pair in pairs),
            "pair": (split.x, split.y),
        }[kind]

    score, expected = psp.LossAndError(), psp.LossAndError()
    psp.observe(model, data(), score)
    psp.observe(model, split, expected)
    assert score.loss == pytest.approx(expected.loss)
    v = torch.randn(len(flat(model)), dtype=DOUBLE)
    product = hessian.hessian(model, data()) @ v
    torch.testing.assert_close(product, hessian.hessian(model, split) @ v)
    plane = landscape.plane(flat(model), flat(model) + 1, Mask.dense(model), 0)
    table = landscape.sweep(model, plane, data(), [0.0], [0.0])
    assert table["loss"][0] == pytest.approx(expected.loss)


@pytest.mark.parametrize("count", [7, 12])
def test_samples_may_lie_along_another_axis(count: int) -> None:
    """Also where there are as many positions as samples."""
    model = Attention(False).double()
    x = images(count, 7, 6).x
    split, turned = Split(x, torch.arange(count) % 3), x.transpose(0, 1).contiguous()

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.transpose(0, 1))

    expected, found = FirstOrder(), FirstOrder()
    psp.observe(model, split, expected, batch=5)
    psp.observe(Turned(), Split(turned, split.y), found, batch=5, batch_axis=1)
    assert torch.equal(
        *(
            p.entropy().by_class[n]
            for p, n in ((expected, "layer.relu"), (found, "inner.layer.relu"))
        )
    )
    with torch.no_grad():
        z = model.eval().layer.linear1(
            model.layer.norm1(
                x.transpose(0, 1) + model.layer.self_attn(*[x.transpose(0, 1)] * 3)[0]
            )
        )
    active = (z.transpose(0, 1).flatten(1) > 0).long()
    counts = F.one_hot(split.y, 3).T @ active
    assert torch.equal(expected.counts["layer.relu"], counts)
    with pytest.raises(PsplibError, match="Is batch_axis right"):
        psp.observe(Turned(), Split(turned, split.y[:7]), found)


def test_the_state_may_be_another() -> None:
    model, split = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3)).double(), images(30)
    first = FirstOrder()
    psp.observe(model, split, first, state=lambda z: z > 0.3)
    with torch.no_grad():
        active = (model[0](split.x) > 0.3).long()
    assert torch.equal(first.counts["1"], F.one_hot(split.y, 3).T @ active)
    assert first.layers["1"].activation == "gelu"
    with pytest.raises(PsplibError, match="state must make bool"):
        psp.observe(model, split, FirstOrder(), state=lambda z: z)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_sums_of_half_precision_are_not_in_it(kind: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].weight.mul_(60)
    model, split = model.to(kind), images(3000)
    x = split.x.to(kind)
    squares, score = psp.MeanSquare(), psp.LossAndError()
    psp.observe(model, Split(x, split.y), squares, score)
    with torch.no_grad():
        z, logits = model[0](x), model(x)
    assert squares.mean == pytest.approx(float(z.double().square().mean()), rel=1e-5)
    loss = F.cross_entropy(logits.double(), split.y)
    assert score.loss == pytest.approx(float(loss), rel=1e-5)


def test_large_potentials_have_a_finite_square() -> None:
    model, split = nn.Sequential(*mlp()), images()
    with torch.no_grad():
        model[0].weight.fill_(1e29)
        model[2].weight.zero_()
    squares = psp.MeanSquare()
    psp.observe(model, Split(split.x.float(), split.y), squares)
    assert 1e57 < squares.by_layer["1"] < 1e61


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_right_value_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    model = make()
    model = model if name == "lazy" else model.double()
    with pytest.raises(PsplibError, match=message):
        psp.observe(model, images(), psp.LossAndError())
    if name != "nothing":
        with pytest.raises(PsplibError, match=message):
            hessian.hessian(model, images())


def test_bad_labels_and_types_are_named() -> None:
    model, split = nn.Sequential(*mlp()).double(), images()
    onehot = F.one_hot(split.y, 3)
    for y in (split.y.int(), split.y[:, None], onehot, onehot.double()):
        for analysis in (
            lambda data: psp.observe(model, data, FirstOrder()),
            lambda data: hessian.hessian(model, data),
        ):
            with pytest.raises(PsplibError, match=r"Labels must be int64 of shape \(N,\)"):
                analysis(Split(split.x, y))
    with pytest.raises(PsplibError, match=r"weights of float64, cannot compute .* float32"):
        psp.observe(model, Split(split.x.float(), split.y), FirstOrder())
    for data in (3, [split.x], [(split.x, 3)], [(split.x, split.y[:2])]):
        with pytest.raises(PsplibError, match=r"[Mm]inibatch"):
            psp.observe(model, data, FirstOrder())
    norm = nn.BatchNorm1d(4)
    shared = nn.Sequential(nn.Linear(6, 4), norm, nn.ReLU(), norm, nn.Linear(4, 3)).double()
    plane = landscape.plane(flat(shared), flat(shared) + 1, Mask.dense(shared), 0)
    with pytest.raises(PsplibError, match=r"1 \(BatchNorm1d\) has no statistics of its own"):
        landscape.sweep(shared, plane, split, [0.0], [0.0])


def test_the_network_is_as_it_was_also_after_an_exception() -> None:
    class Stops(psp.LossAndError):
        def update(self, seen: psp.Observation) -> None:
            raise KeyboardInterrupt

    model, split = Cached().double(), images()
    called = []
    model.relu.register_forward_hook(lambda *_: called.append(1))
    model.fc1.weight.grad = torch.ones_like(model.fc1.weight)
    model.fc2.requires_grad_(False)
    model.relu.eval()
    before = [(p, p.data_ptr(), p.requires_grad, p.grad) for p in model.parameters()]
    hooks = [len(m._forward_hooks) for m in model.modules()]
    numbers = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        psp.observe(model, split, Stops())
    hessian.hessian(model, split) @ torch.randn(len(flat(model)), dtype=DOUBLE).zero_()
    assert model.scale is None
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert [(p, p.data_ptr(), p.requires_grad, p.grad) for p in model.parameters()] == before
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert called
    torch.set_rng_state(numbers)
    F.cross_entropy(model(split.x), split.y).backward()  # nothing was made in inference mode


def test_resnet_18_of_torchvision_just_works() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(num_classes=3)
    split = Split(torch.randn(3, 3, 32, 32), torch.arange(3))
    squares, first, score = psp.MeanSquare(), FirstOrder(), psp.LossAndError()
    psp.observe(model, split, squares, first, score)
    assert list(squares.neurons)[:3] == ["relu", "layer1.0.relu", "layer1.0.relu#2"]
    assert len(squares.neurons) == 17
    with torch.no_grad():
        loss = F.cross_entropy(model.eval()(split.x), split.y)
    assert score.loss == pytest.approx(float(loss), rel=1e-6)


def test_short_ways_give_what_the_probes_give() -> None:
    model, split = nn.Sequential(*mlp()).double(), images(30)
    first, squares, score = FirstOrder(), psp.MeanSquare(), psp.LossAndError()
    psp.observe(model, split, first, squares, score)
    assert psplib.entropy(model, split).by_layer == first.entropy().by_layer
    assert psplib.psp_norm(model, split).by_layer == squares.by_layer
    here, there = flat(model), flat(model) / 2
    table = psplib.loss_landscape(model, here, there, split, [0.0, 1.0])
    assert table["loss"][0] == pytest.approx(score.loss)
    nn.utils.vector_to_parameters(there, model.parameters())
    psp.observe(model, split, score := psp.LossAndError())
    assert table["loss"][1] == pytest.approx(score.loss)
