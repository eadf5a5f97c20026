"""Networks that are not ours: the value that a plain implementation gives, or a clear refusal.

The oracles are written out: states by hooks and counting, losses by the network itself, Hessians by
autograd through `functional_call`.
"""

import copy
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from networks import (
    DOUBLE,
    NETWORKS,
    NOT,
    REFUSED,
    SAMPLES,
    Attention,
    Between,
    Block,
    Cached,
    Functional,
    Quartered,
    images,
    mlp,
    samples,
)
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import psplib
from psplib.analysis import eigen, hessian, landscape, psp
from psplib.analysis.entropy import FirstOrder, SecondOrder
from psplib.core.errors import PsplibError
from psplib.nn.data import Split
from psplib.nn.masks import Mask
from psplib.training.trainer import flat

T = TypeVar("T")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Spied(TorchDispatchMode):
    """What PyTorch's own kernels of activations are given, one level below functions."""

    KINDS = (
        *("relu", "leaky_relu", "_prelu_kernel", "rrelu", "rrelu_with_noise", "elu", "celu"),
        *("selu", "gelu", "silu", "mish", "hardswish", "softplus"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.z: list[Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, limits = func.overloadpacket.__name__.removesuffix("_"), list(args[1:])
        if (
            name in self.KINDS
            or (name == "threshold" and limits == [0, 0])
            or (name == "hardtanh" and limits[0] == 0)
            or (name in ("clamp", "clamp_min") and float(torch.as_tensor(limits[0]).sum()) == 0)
        ):
            self.z.append(args[0].clone())
        elif name in ("maximum", "where"):
            self.z.append(args[1].clone())
        return func(*args, **(kwargs or {}))


def full_hessian(model: nn.Module, split: Split) -> Tensor:
    """By autograd, written out, of every parameter in their order."""
    sizes = {n: p.shape for n, p in model.named_parameters()}

    def loss(weights: Tensor) -> Tensor:
        start, parts = 0, {}
        for n, s in sizes.items():
            parts[n] = weights[start : start + s.numel()].view(s)
            start += s.numel()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return F.cross_entropy(functional_call(model, parts, (split.x.clone(),)), split.y)

    return torch.autograd.functional.hessian(loss, flat(model))


def difference(model: nn.Module, split: Split, v: Tensor, step: float = 1e-6) -> Tensor:
    """The product of the Hessian and v (P,), by moving the parameters themselves to and fro."""
    before, found = flat(model), []
    for sign in (step, -step):
        nn.utils.vector_to_parameters(before + sign * v, model.parameters())
        model.scale = None  # what `Cached` has made
        loss = F.cross_entropy(model(split.x.clone()), split.y)
        gradient = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
        found.append(torch.cat([g.to_dense().flatten() for g in gradient]))
    nn.utils.vector_to_parameters(before, model.parameters())
    return (found[0] - found[1]) / (2 * step)


# Of these `functional_call` knows nothing (the weights are in a list, or in a closure), or PyTorch
# has a wrong second derivative.
DIFFERENCES = {
    *("recurrent", "GRU", "recurrent ReLU", "forward that holds a parameter", "forward of a part"),
    *("cache", "remembers", "weight norm", "weight norm by hooks", "compiled", "data parallel"),
    *("checkpointed", "sparse embedding"),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(3)
    return NETWORKS[name]().double().train()


def looked_at(name: str, column: str, look: Callable[[nn.Module, Split], T]) -> T | None:
    """What is found of a network, which is as it was, as its data are; None where it is refused."""
    model = made(name)
    torch.manual_seed(4)
    split = samples(name, 20)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    x, numbers, found = split.x.clone(), torch.get_rng_state(), None
    modes = [m.training for m in model.modules()]
    if message := NOT.get(name, {}).get(column):
        with pytest.raises(PsplibError, match=message):
            look(model, split)
    else:
        found = look(model, split)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert torch.equal(split.x, x)
    assert [m.training for m in model.modules()] == modes
    assert model.state_dict().keys() == state.keys()
    for n, t in model.state_dict().items():
        assert torch.equal(t, state[n]), n
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_observed_as_it_is_or_refused(name: str) -> None:
    probes = psp.LossAndError(), psp.MeanSquare(), FirstOrder(), SecondOrder()

    def look(model: nn.Module, split: Split) -> Split:
        psp.observe(model, split, *probes, batch=7)
        return split

    if (split := looked_at(name, "observed", look)) is None:
        return
    score, squares, first, _ = probes
    model = made(name).eval()
    with Spied() as spied:  # with gradients: otherwise attention takes another way
        logits = model(split.x.clone()).detach()
    assert score.loss == pytest.approx(float(F.cross_entropy(logits, split.y)), rel=1e-9)
    for z, found, counted in zip(
        spied.z, squares.by_layer.values(), first.counts.values(), strict=True
    ):
        assert found == pytest.approx(float(z.square().mean()), rel=1e-9)
        z = z.movedim(SAMPLES.get(name, 0), 0).flatten(1)
        active = F.one_hot(split.y, 3).T @ (z > 0).long()
        # Neurons of a convolution come in another order.
        assert torch.equal(counted.sort(1).values, active.sort(1).values)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_its_own_hessian_or_is_refused(name: str) -> None:
    def look(model: nn.Module, split: Split) -> tuple[Split, Tensor, Tensor]:
        operator = hessian.hessian(model, split, batch_size=7)
        generator = torch.Generator().manual_seed(5)
        v = torch.randn(operator.size, dtype=DOUBLE, generator=generator)
        return split, v, operator @ v

    if (found := looked_at(name, "Hessian", look)) is None:
        return
    split, v, product = found
    model = made(name).eval()
    if name in DIFFERENCES:
        expected, rtol = difference(model, split, v), 1e-5
    else:
        expected, rtol = full_hessian(model, split) @ v, 1e-6
    scale = float(expected.abs().max())
    torch.testing.assert_close(product, expected, rtol=rtol, atol=1e-3 * rtol * scale)


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
    model.scale = None  # what `Cached` has made
    model.eval()
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.training = True
    with torch.no_grad():
        found = float(F.cross_entropy(model(split.x.clone()), split.y))
    nn.utils.vector_to_parameters(before, model.parameters())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_map_is_of_the_network_itself_or_refused(name: str) -> None:
    # SyncBatchNorm is trained on a GPU only.
    oracle = made("BatchNorm1d" if name == "SyncBatchNorm" else name)
    one = flat(oracle)
    generator = torch.Generator().manual_seed(5)
    other = one + 0.5 * torch.randn(one.shape, dtype=DOUBLE, generator=generator)
    plane = landscape.plane(one, other, Mask.dense(oracle), 0)
    probes = {"score": psp.LossAndError}
    if name not in ("no activation", "recurrent ReLU"):
        probes["first_order"] = FirstOrder

    def look(model: nn.Module, split: Split) -> tuple[Split, pd.DataFrame]:
        plane_of = replace(plane, mask=Mask.dense(model))
        return split, landscape.sweep(
            model, plane_of, split, [0.0, 0.5, 1.0], [0.0, 0.4], probes, batch=7
        )

    if (found := looked_at(name, "on a map", look)) is None:
        return
    split, table = found
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


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_right_value_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    model = make()
    model = model if name == "lazy" else model.double()
    with pytest.raises(PsplibError, match=message):
        psp.observe(model, images(), psp.LossAndError())
    mask = Mask(torch.ones(5) > 0, (("of another", (5,)),))
    if name not in ("lazy", "nothing"):
        mask = Mask.dense(model)
    one = torch.full((len(mask.flat),), 0.1, dtype=DOUBLE)
    plane = landscape.Plane(one, one + 1, one, mask)
    with pytest.raises(PsplibError, match=message):
        landscape.sweep(model, plane, images(), [0.0], [0.0])
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


class Locked(dict):
    """What forbids changes."""

    def update(self, *_: object) -> None:
        raise TypeError

    clear = copy = update


class Writes(nn.Sequential):
    """Writes to what it keeps, wherever it is."""

    def __init__(self) -> None:
        super().__init__(*mlp())
        self.seen, self.deep, self.array = deque([1], 9), {"in": [[], torch.ones(2)]}, np.ones(2)
        self.generator, self.config = torch.Generator(), Locked(rate=[0.5])
        self.norm = (nn.BatchNorm1d(3),)  # no module of its own

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(0)
        self.deep["in"][0].append(0)
        self.deep["in"][1] += 1
        self.array += 1
        self.config["rate"].append(random.random() + np.random.rand())  # noqa: NPY002
        self.norm[0](torch.randn(4, 3, generator=self.generator))
        return super().forward(x)

    def kept(self) -> str:
        found = self.generator.get_state().tolist(), self.norm[0].state_dict()
        return str([self.seen, self.deep, self.array, self.config, *found])


@pytest.mark.parametrize("column", ["observe", "sweep", "hessian", "retrain", "prune"])
def test_all_that_a_network_keeps_is_as_it_was(column: str) -> None:
    model, split = Writes().double(), images()
    one, mask = flat(model), Mask.dense(model)
    before, numbers = model.kept(), (random.getstate(), str(np.random.get_state()))  # noqa: NPY002
    {
        "observe": lambda: psp.observe(model, split, FirstOrder()),
        "sweep": lambda: psplib.loss_landscape(model, one, one + 1, split, [0.0]),
        "hessian": lambda: hessian.hessian(model, split) @ one,
        "retrain": lambda: psplib.retrain(model, mask, split, split, epochs=1),
        "prune": lambda: psplib.prune(model, split, split, max_epochs=1),
    }[column]()
    assert model.kept() == before
    assert (random.getstate(), str(np.random.get_state())) == numbers  # noqa: NPY002


def test_a_loader_draws_no_numbers_of_others() -> None:
    model, split = nn.Sequential(*mlp()).double(), images()
    loader, one = DataLoader(TensorDataset(split.x, split.y), 5, shuffle=True), flat(model)
    numbers = torch.get_rng_state()
    psp.observe(model, loader, FirstOrder())
    psplib.eigenvalues(model, loader, 1)
    psplib.loss_landscape(model, one, one + 1, loader, [0.0])
    assert torch.equal(torch.get_rng_state(), numbers)


def test_a_product_that_is_not_finite_is_refused() -> None:
    model, split = Between(lambda z, _: (z * (z > 0)).sqrt()).double(), images()
    with torch.no_grad():
        model.fc1.bias.fill_(5)
    split.x[:4] *= 0.01
    split.x[-1] *= 1e3
    with pytest.raises(PsplibError, match="product with the Hessian is not finite"):
        hessian.hessian(model, split) @ flat(model)


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


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_it_matters_not_in_which_mode_of_gradients_one_asks(around: Callable[[], object]) -> None:
    torch.manual_seed(3)
    model, split = nn.Sequential(*mlp()).double(), images(30)
    mask = Mask.dense(model)

    def asked() -> list[float]:
        given = Split(split.x.clone(), split.y.clone())  # inference tensors, in their mode
        return [
            psplib.entropy(model, given).mean,
            float(psplib.eigenvalues(model, given, 1).values[0]),
            psplib.retrain(model, mask, given, given, epochs=1).points["validation_loss"][0],
            psplib.prune(model, given, given, max_epochs=1).points["validation_loss"][0],
        ]

    expected = asked()
    with around():
        assert asked() == pytest.approx(expected, rel=1e-9)


def test_what_a_network_computes_in_float32_itself_is_believed() -> None:
    """There, differences of gradients tell nothing."""
    model = Between(lambda z, _: z.float().exp().to(z.dtype)).double()
    split, v = images(30), torch.randn(len(flat(model)), dtype=DOUBLE)
    product = hessian.hessian(model, split) @ v
    torch.testing.assert_close(product, full_hessian(model, split) @ v, rtol=1e-3, atol=1e-4)


def test_activations_that_cannot_be_seen_are_refused() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.out = nn.Parameter(torch.randn(4, 6, 5)), nn.Linear(20, 3)

        def forward(self, x: Tensor) -> Tensor:
            each = torch.func.vmap(lambda w: F.relu(x @ w))(self.w)
            return self.out(each.transpose(0, 1).flatten(1))

    with pytest.raises(PsplibError, match="The potentials of Mapped cannot be watched"):
        psp.observe(Mapped().double(), images(), FirstOrder())


def test_a_loss_of_ones_own_is_refused_in_words() -> None:
    model, split = nn.Sequential(*mlp()).double(), images()
    for loss, message in (
        (nn.CrossEntropyLoss(), "The loss does not take outputs .* and reduction='sum': "),
        (lambda out, y, reduction: out, "A loss must be one number, the sum over samples"),
        (lambda out, y, reduction: F.mse_loss(out, y), "The loss does not take outputs of shape"),
    ):
        with pytest.raises(PsplibError, match=message):
            hessian.hessian(model, split, loss=loss) @ flat(model)


class Ragged(TensorDataset):
    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.tensors[0][i, i:], 0


def test_data_that_are_no_tensors_are_refused() -> None:
    model, split = nn.Sequential(*mlp()).double(), images()
    one = flat(model)
    for data, message in (
        (Split(split.x, split.y[:5]), "needs as many labels as samples"),
        (Split(split.x.numpy(), split.y.numpy()), "a pair .x, y. of tensors; got ndarray"),
        (Split(split.x.to_sparse(), split.y), "dense tensors"),
        (
            Split(torch.nested.nested_tensor([*split.x], layout=torch.jagged), split.y),
            "dense tensors",
        ),
        (Split(split.x.to("meta"), split.y), "dense tensors"),
        (TensorDataset(split.x, split.y, split.y), "got a list of 3"),
        (Ragged(split.x), "The samples of a Ragged do not make minibatches: stack expects"),
    ):
        for look in (
            lambda data: psp.observe(model, data, FirstOrder()),
            lambda data: hessian.hessian(model, data),
            lambda data: psplib.loss_landscape(model, one, one + 1, data, [0.0]),
            lambda data: psplib.retrain(model, Mask.dense(model), data, data),
        ):
            with pytest.raises(PsplibError, match=message):
                look(data)
