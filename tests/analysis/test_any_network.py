"""Networks that are not ours: the value that a plain implementation gives, or a clear refusal.

The oracles are written out: states by hooks and counting, losses by the network itself, Hessians by
autograd through `functional_call`.
"""

import copy
import types
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader, TensorDataset

from psplib.analysis import eigen, hessian, landscape, psp
from psplib.analysis.entropy import FirstOrder, SecondOrder
from psplib.core.errors import PsplibError
from psplib.nn.data import Split
from psplib.nn.masks import Mask
from psplib.training.trainer import flat

DOUBLE = torch.float64


def images(count: int = 12, *shape: int) -> Split:
    return Split(torch.randn(count, *(shape or (6,)), dtype=DOUBLE), torch.arange(count) % 3)


def mlp(*middle: nn.Module) -> list[nn.Module]:
    return [nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), *middle, nn.Linear(4, 3)]


class Quartered(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 4


class Functional(nn.Module):
    """A module, a function, an in-place function and a method of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(5))
        self.relu, self.unused, self.out = nn.ReLU(), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.layers[0](x))
        x = F.relu(self.layers[1](x))
        x = torch.relu_(self.layers[2](x))
        x = self.layers[3](x).relu()
        x = self.relu(self.layers[4](x).add_(0.1))
        return self.out(x.clamp(min=0))


class Overwritten(nn.Module):
    """The potential is written to after the ReLU has read it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.fc1(x)
        y = self.relu(z)
        z.mul_(-100)
        return self.fc2(y)


class ReadsWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.relu(self.fc1(x.to(self.fc1.weight.dtype))))


class Cached(nn.Module):
    """Keeps what it has made in the first pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
        self.scale = None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = self.fc1.weight.abs().mean() + torch.ones(5, dtype=x.dtype)
        return self.fc2(self.relu(self.fc1(x) * self.scale))


class Attention(nn.Module):
    """Words by position first inside, samples first outside."""

    def __init__(self, batch_first: bool, norm_first: bool = False) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.layer = nn.TransformerEncoderLayer(
            6, 2, 7, dropout=0.3, batch_first=batch_first, norm_first=norm_first
        )
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.batch_first:
            return self.out(self.layer(x).mean(1))
        return self.out(self.layer(x.transpose(0, 1)).mean(0))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.fc, self.out = nn.Embedding(9, 5), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.fc(self.words(x).mean(1))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc, self.out = (
            nn.LSTM(6, 4, batch_first=True),
            nn.Linear(4, 5),
            nn.Linear(5, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.fc(self.lstm(x)[0][:, -1])))


class Block(nn.Module):
    """A residual block that uses one in-place ReLU twice."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.relu = norm(3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu(self.norm(self.conv1(x))))
        y += x
        return self.relu(y)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return model


def twice() -> nn.Module:
    fc, relu = nn.Linear(6, 6), nn.ReLU()
    return nn.Sequential(fc, relu, fc, relu, nn.Linear(6, 3))


def frozen() -> nn.Module:
    model = nn.Sequential(*mlp())
    model[0].requires_grad_(False)
    return model


def closure() -> nn.Module:
    model = nn.Sequential(*mlp())
    inner = list(model)

    def forward(x: Tensor) -> Tensor:
        for layer in inner:
            x = layer(x)
        return x

    model.forward = forward
    return model


def bound() -> nn.Module:
    """A `forward` put on the network that reads a parameter itself."""
    model = nn.Sequential(*mlp())
    weight = model[0].weight
    model.forward = types.MethodType(
        lambda self, x: self[4](F.relu(self[2](F.relu(x @ weight.T)))), model
    )
    return model


def hooked(where: int, before: bool) -> nn.Module:
    model = nn.Sequential(*mlp())
    if before:
        model[where].register_forward_pre_hook(lambda _, x: (x[0] * 3 + 1,))
    else:
        model[where].register_forward_hook(lambda _, x, y: y * 3 + 1)
    return model


def hooked_pool() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    model[1].register_forward_pre_hook(lambda _, x: (x[0] * 2 - 0.3,))
    return model


def conv(*after: nn.Module, size: int = 36) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), *after, nn.Flatten(), nn.Linear(size, 3))


def pruned() -> nn.Module:
    model = nn.Sequential(*mlp())
    prune.random_unstructured(model[0], "weight", 0.4)
    return model


def normed(kind: type[nn.Module], *shape: int) -> nn.Module:
    norm = kind(2, 4) if kind is nn.GroupNorm else kind(4)
    for name, b in norm.named_buffers():
        if b.is_floating_point():
            nn.init.uniform_(b, 0.5, 2) if "var" in name else nn.init.normal_(b)
    return nn.Sequential(*mlp(norm))


def misordered() -> nn.Module:
    """A layer whose bias comes before its weight."""
    model = nn.Sequential(*mlp())
    weight = model[2].weight
    del model[2].weight
    model[2].weight = weight
    return model


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


NETWORKS = {
    "sequential with a forward": lambda: Quartered(*mlp()),
    "module, function, method": Functional,
    "written to later": Overwritten,
    "reads a weight": ReadsWeight,
    "cache": Cached,
    "tied": tied,
    "module twice": twice,
    "frozen": frozen,
    "closure": closure,
    "forward that holds a parameter": bound,
    "hook on the first": lambda: hooked(0, False),
    "hook before a relu": lambda: hooked(1, True),
    "hook after a relu": lambda: hooked(3, False),
    "hook on the last": lambda: hooked(4, False),
    "pruned by torch": pruned,
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 5)), *mlp()[1:]),
    "spectral norm": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 5)), *mlp()[1:]
    ),
    "subclass of linear": lambda: nn.Sequential(Doubled(6, 5), *mlp()[1:]),
    "misordered": misordered,
    "no bias": lambda: nn.Sequential(nn.Linear(6, 5, bias=False), *mlp()[1:]),
    "dropout": lambda: nn.Sequential(*mlp(nn.Dropout(0.5))),
    "in place": lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(True), *mlp()[2:]),
    "relu first": lambda: nn.Sequential(nn.ReLU(), *mlp()),
    "nested": lambda: nn.Sequential(nn.Sequential(*mlp()[:2]), nn.Sequential(*mlp()[2:])),
    "BatchNorm1d": lambda: normed(nn.BatchNorm1d),
    "SyncBatchNorm": lambda: normed(nn.SyncBatchNorm),
    "LayerNorm": lambda: normed(nn.LayerNorm),
    "GroupNorm": lambda: normed(nn.GroupNorm),
}
ACTIVATIONS = (
    *(nn.LeakyReLU(), nn.PReLU(), nn.ELU(), nn.CELU(), nn.SELU(), nn.GELU(), nn.SiLU()),
    *(nn.Mish(), nn.Hardswish(), nn.ReLU6(), nn.Threshold(0, 0)),
)
MAPS = {
    "hook before a pool": hooked_pool,
    "ceil mode": lambda: conv(nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True), size=64),
    "padded pool": lambda: conv(nn.MaxPool2d(3, 3, 1), nn.ReLU(), size=36),
    "overlapping pool": lambda: conv(nn.ReLU(), nn.MaxPool2d(3, 2)),
    "average": lambda: conv(nn.AvgPool2d(2), nn.ReLU()),
    "groups": lambda: conv(nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), size=100),
    "same padding": lambda: conv(nn.ReLU(), nn.Conv2d(4, 1, 3, padding="same"), size=49),
    "circular": lambda: conv(
        nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1, padding_mode="circular"), size=49
    ),
    "unfrozen batch norm": lambda: conv(nn.BatchNorm2d(4), nn.ReLU(), size=196),
}
SHAPE = dict.fromkeys(NETWORKS, (6,)) | dict.fromkeys(MAPS, (1, 9, 9))
for layer in ACTIVATIONS:
    name = type(layer).__name__
    NETWORKS[name] = lambda layer=layer: nn.Sequential(nn.Linear(6, 5), layer, *mlp()[2:])
    SHAPE[name] = (6,)
NETWORKS |= MAPS
NETWORKS |= {
    "attention, position first": lambda: Attention(False),
    "attention, sample first": lambda: Attention(True, True),
    "recurrent": Recurrent,
    "residual": lambda: nn.Sequential(
        Block(), Block(nn.InstanceNorm2d), nn.Flatten(), nn.Linear(75, 3)
    ),
}
SHAPE |= {"attention, position first": (12, 6), "attention, sample first": (12, 6)}
SHAPE |= {"recurrent": (4, 6), "residual": (3, 5, 5)}


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


class Tuple(nn.Sequential):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return super().forward(x), 1


class Mixing(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Random(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x))


REFUSED = {
    "a tuple": (lambda: Tuple(*mlp()), "puts out a tuple"),
    "other samples": (lambda: Mixing(*mlp()), "depend on the other samples"),
    "random": (lambda: Random(*mlp()), "are random"),
    "no statistics": (
        lambda: nn.Sequential(*mlp(nn.BatchNorm1d(4, track_running_stats=False))),
        r"4 \(BatchNorm1d\) has no running statistics",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(5), *mlp()[1:]), r"0 \(LazyLinear\) is lazy"),
    "script": (lambda: torch.jit.trace(nn.Sequential(*mlp()), torch.zeros(1, 6)), "TorchScript"),
    "wrong size": (lambda: nn.Sequential(*mlp()[2:]), r"shape \(\d+, 6\) and float64: 0 says"),
    "nothing": (lambda: nn.ReLU(), "has no parameters"),
}


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
