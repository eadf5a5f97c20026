"""A compact network against the full one, and its units against removal one at a time."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from problems import linear_chain
from single import Single
from torch import Tensor, nn

from psplib.core.errors import PsplibError
from psplib.nn import compact
from psplib.nn.compact import SparseLinear
from psplib.nn.data import Data
from psplib.nn.masks import Mask
from psplib.nn.models import build
from psplib.training import gradient as chain
from psplib.training import trainer as training
from psplib.training.fit import order
from psplib.training.trainer import evaluate, flat
from psplib.training.update import Sgd


def conv_chain() -> nn.Sequential:
    """LeNet-5 in small: each of the last maps is 2x2."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 3, 3), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(3, 4, 2), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(16, 5), relu3=nn.ReLU(),
            fc2=nn.Linear(5, 3),
        )
    )  # fmt: skip


# Any size of image will do for a ResNet; at 8x8 the last maps are 2x2.
RESNET = (("resnet-8", (3, 8, 8)),)
IMAGE = {linear_chain: (1, 3, 4), conv_chain: (1, 12, 12)}


def random_mask(model: nn.Module, densities: list[float], seed: int) -> Mask:
    """Each parameter tensor has its own density."""
    generator = torch.Generator().manual_seed(seed)
    dense = Mask.dense(model)
    parts = [
        torch.rand(m.numel(), generator=generator) < density
        for (_, m), density in zip(dense.items(), densities, strict=True)
    ]
    return dense.with_flat(torch.cat(parts))


def removed_one_by_one(model: nn.Sequential, mask: Mask) -> list[set[int]]:
    """The live units before, between and after the layers: go through the units and remove each
    that nothing feeds or nothing reads, until there is none."""
    masks = {name: m.numpy() for name, m in mask.items()}
    layers = [n for n, m in model.named_children() if isinstance(m, nn.Linear | nn.Conv2d)]
    biases = [masks[f"{name}.bias"] for name in layers]
    links: list[np.ndarray] = []
    for name, bias in zip(layers, biases, strict=True):
        units_in = len(links[-1]) if links else model.get_submodule(name).weight.shape[1]
        links.append(masks[f"{name}.weight"].reshape(len(bias), units_in, -1).any(2))
    live = [set(range(links[0].shape[1])), *(set(range(len(b))) for b in biases)]

    def is_dead(level: int, unit: int) -> bool:
        fed = level == 0 or biases[level - 1][unit]
        fed = fed or any(links[level - 1][unit, below] for below in live[level - 1])
        return not fed or not any(links[level][above, unit] for above in live[level + 1])

    first = int(isinstance(model.get_submodule(layers[0]), nn.Conv2d))  # images are read whole
    removed = True
    while removed:
        removed = False
        for level in range(first, len(layers)):
            for unit in sorted(live[level]):
                if is_dead(level, unit):
                    live[level].remove(unit)
                    removed = True
    return live


def loaded(
    model: nn.Module, mask: Mask, sparse: bool = True
) -> tuple[compact.Compact, Tensor, Tensor]:
    """The compact form with the model's values, as views of one vector; and its gradient."""
    form = compact.compact(copy.deepcopy(model), mask, sparse)
    weights, gradient = training.flatten_(form.model.parameters())
    weights.copy_((flat(model) * mask.flat)[form.index])
    return form, weights, gradient


def check_equal_function_and_gradient(model: nn.Module, mask: Mask, image: tuple[int, ...]) -> None:
    # In float64: the gradient may be smaller than what softmax loses by rounding in float32.
    model = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, *image, generator=generator).double()
    form, _, gradient = loaded(model, mask)
    full = copy.deepcopy(model)
    mask.apply_(full)
    logits = full(x)
    y = torch.randint(logits.shape[1], (16,), generator=generator)

    scale = float(logits.detach().abs().max())
    found = form.model(form.read(x))
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5 * scale)

    chain.gradient(form.model)(form.read(x), y)
    F.cross_entropy(logits, y).backward()
    expected = torch.cat([p.grad.flatten() for p in full.parameters()]) * mask.flat
    scale = float(expected.abs().max())
    mapped = form.expand(gradient) * mask.flat
    torch.testing.assert_close(mapped, expected, rtol=1e-5, atol=1e-5 * scale)


def check_units(model: nn.Sequential, mask: Mask, form: compact.Compact) -> None:
    live = removed_one_by_one(model, mask)
    position = dict(zip(form.index.tolist(), range(len(form.index)), strict=True))
    start, found = 0, []
    for name, shape in mask.shapes:
        if name.endswith("bias"):
            found.append({unit for unit in range(shape[0]) if start + unit in position})
        start += int(np.prod(shape))
    # Where a layer has died out, one idle unit stands in for it.
    assert [len(units) for units in found] == [max(1, len(units)) for units in live[1:]]
    assert all(f == units for f, units in zip(found, live[1:], strict=True) if units)
    if form.inputs is not None:
        assert set(form.inputs.tolist()) == live[0] or (not live[0] and len(form.inputs) == 1)
    if form.units:
        before = [] if form.inputs is None else [len(form.inputs)]
        assert list(form.units) == before + [len(units) for units in found]


def densities(layers: int) -> st.SearchStrategy[list[float]]:
    density = st.sampled_from([0.0, 0.03, 0.1, 0.25, 0.5, 1.0])
    return st.lists(density, min_size=2 * layers, max_size=2 * layers)


@given(densities(3), st.integers(0, 999))
@example([0.0] * 6, 0)
@example([1.0] * 6, 0)
@example([1.0, 1.0, 0.0, 0.0, 1.0, 1.0], 0)  # the middle layer is fed by nothing
@example([0.5, 1.0, 0.5, 1.0, 0.0, 1.0], 0)  # only the last biases are read
@example([0.0, 1.0, 0.5, 0.0, 0.5, 0.0], 0)  # no input is read, constants flow
def test_a_chain_of_linear_layers_keeps_its_function_gradient_and_live_units(
    shares: list[float], seed: int
) -> None:
    model = linear_chain()
    mask = random_mask(model, shares, seed)
    check_equal_function_and_gradient(model, mask, IMAGE[linear_chain])
    check_units(model, mask, compact.compact(model, mask))


@given(densities(4), st.integers(0, 999))
@example([0.0] * 8, 0)
@example([1.0] * 8, 0)
@example([1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], 0)  # the second convolution is fed by nothing
@example([0.5, 1.0, 0.5, 1.0, 0.0, 1.0, 1.0, 1.0], 0)  # no map is read
def test_a_convolutional_chain_keeps_its_function_gradient_and_live_units(
    shares: list[float], seed: int
) -> None:
    model = conv_chain()
    mask = random_mask(model, shares, seed)
    check_equal_function_and_gradient(model, mask, IMAGE[conv_chain])
    check_units(model, mask, compact.compact(model, mask))


@pytest.mark.parametrize("density", [1.0, 0.5, 0.1, 0.01, 0.002, 0.0])
@pytest.mark.parametrize("name", ["lenet-300", "lenet-5"])
def test_a_lenet_keeps_its_function_and_gradient_at_density(name: str, density: float) -> None:
    model = build(name, 0)
    mask = random_mask(model, [density] * len(list(model.parameters())), 1)
    check_equal_function_and_gradient(model, mask, (1, 28, 28))


@pytest.mark.parametrize("name", ["lenet-300", "lenet-5"])
def test_the_live_units_of_a_sparse_lenet_are_those_left_by_removal(name: str) -> None:
    model = build(name, 0)
    count = len(list(model.parameters()))
    mask = random_mask(model, [0.004] * (count - 2) + [0.05, 1.0], 2)
    form = compact.compact(model, mask)
    assert len(form.index) < 0.2 * len(mask.flat)
    check_units(model, mask, form)


@pytest.mark.parametrize("density", [0.0, 0.004, 0.05])
def test_a_sparse_first_layer_equals_a_dense_one(density: float) -> None:
    model = build("lenet-300", 0)
    mask = random_mask(model, [density, 1.0, 0.5, 1.0, 1.0, 1.0], 1)
    x = torch.randn(30, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    y = torch.arange(30) % 10
    found = {}
    for sparse, kind in ((True, SparseLinear), (False, nn.Linear)):
        form, weights, gradient = loaded(model, mask, sparse)
        assert type(form.model.fc1) is kind
        differentiate = chain.gradient(form.model)
        for _ in range(20):
            differentiate(form.read(x), y)
            weights.sub_(0.1 * gradient).mul_(mask.flat[form.index])
        trained = torch.zeros(len(mask.flat))
        trained[form.index] = weights
        found[sparse] = (trained, form.model(form.read(x)).detach())
    torch.testing.assert_close(found[True], found[False], rtol=1e-5, atol=1e-6)


def test_a_dense_network_keeps_its_shape_and_values() -> None:
    for name, image in (("lenet-300", (1, 28, 28)), ("lenet-5", (1, 28, 28)), *RESNET):
        model = build(name, 0)
        form = compact.compact(model, Mask.dense(model))
        assert form.inputs is None
        assert torch.equal(form.index, torch.arange(len(flat(model))))
        x = torch.randn(2, *image)
        assert torch.equal(form.model.eval()(form.read(x)), model.eval()(x))


@pytest.mark.parametrize("name", ["lenet-300", "lenet-5", "resnet-8"])
def test_the_full_network_is_not_changed(name: str) -> None:
    model = build(name, 0)
    before = copy.deepcopy(model.state_dict())
    mask = random_mask(model, [0.05] * len(Mask.dense(model).shapes), 0)
    form = compact.compact(model, mask)
    with torch.no_grad():
        for tensor in form.model.state_dict().values():
            tensor.fill_(7)
    modules = set(model.modules())
    assert not any(m in modules for m in form.model.modules())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())


@pytest.mark.parametrize("name", ["lenet-300", "lenet-5"])
def test_a_network_without_a_weight_answers_the_first_class(name: str, tiny: Data) -> None:
    model = build(name, 0)
    dense = Mask.dense(model)
    learner = Single(model, dense.with_flat(torch.zeros_like(dense.flat)), tiny, 100)
    learner.weights = flat(model)
    learner.train(torch.arange(300), Sgd(0.1))
    assert int(learner.weights.count_nonzero()) == 0
    score = learner.score("test")
    assert score.loss == pytest.approx(np.log(10), rel=1e-6)
    assert score.error == float((tiny.test.y != 0).double().mean())


# ResNets


def resnet(seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """ResNet-8 with values and statistics of normalisation that are nothing special."""
    model = build("resnet-8", seed).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for t in (module.weight.data, module.bias.data, module.running_mean):
                t.copy_(torch.randn(t.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(t.shape, generator=generator))
    return model


def resnet_mask(model: nn.Module, shares: list[float], seed: int) -> Mask:
    """Shares of what survives of convolutions, of scales, of shifts, of the last layer."""

    def share(name: str, shape: tuple[int, ...]) -> float:
        kind = 3 if name.startswith("fc") else 0 if len(shape) > 1 else 1 + name.endswith("bias")
        return shares[kind]

    return random_mask(model, [share(*s) for s in Mask.dense(model).shapes], seed)


def resnets() -> st.SearchStrategy[list[float]]:
    """Channels die only where nearly every scale and shift does."""
    few = st.sampled_from([0.0, 0.02, 0.1, 0.4, 1.0])
    return st.tuples(st.sampled_from([0.0, 0.003, 0.03, 0.3, 1.0]), few, few, few).map(list)


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def check_resnet(model: nn.Module, mask: Mask, training: bool, tolerance: float) -> None:
    """Outputs, gradients, running statistics, and the way back to the full form."""
    generator = torch.Generator().manual_seed(0)
    dtype = flat(model).dtype
    x = torch.randn(6, 3, 8, 8, generator=generator, dtype=dtype)
    y = torch.randint(10, (6,), generator=generator)
    form = compact.compact(model.train(training), mask)
    assert form.model.training == training
    form.load_(flat(model) * mask.flat)
    before = dict(model.named_buffers())
    full = copy.deepcopy(model)
    mask.apply_(full)

    def check(found: Tensor, expected: Tensor) -> None:
        scale = max(float(expected.abs().max()), 1e-3)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)

    expected = full(x).detach()
    check(form.model(x).detach(), expected)
    found = form.expand(gradient(form.model, x, y)) * mask.flat
    check(found, gradient(full, x, y) * mask.flat)

    renewed = form.expand_buffers(before)
    assert renewed.keys() == before.keys()
    after = dict(full.named_buffers())
    masks = dict(mask.items())
    for name, buffer in after.items():
        if "running" in name:
            # What a pruned scale multiplies is of no account, nor is an idle unit.
            live = torch.zeros(len(buffer), dtype=torch.bool)
            live[form.buffers[name]] = len(form.buffers[name]) > 1
            live &= masks[f"{name.rpartition('.')[0]}.weight"]
            check(renewed[name][live], buffer[live]) if live.any() else None
        else:
            assert torch.equal(renewed[name], buffer)

    restored = build("resnet-8", 5).to(dtype)
    nn.utils.vector_to_parameters(form.expand(flat(form.model)), restored.parameters())
    for name, buffer in restored.named_buffers():
        buffer.copy_(renewed[name])
    check(restored.eval()(x).detach(), full.eval()(x).detach())


@given(resnets(), st.integers(0, 999), st.booleans())
@example([0.0, 0.0, 0.0, 0.0], 0, True)
@example([1.0, 1.0, 1.0, 0.0], 0, True)  # no channel is read
@example([1.0, 0.0, 0.0, 1.0], 0, False)  # none is fed
@example([0.0, 1.0, 0.0, 1.0], 0, False)  # constants flow
@example([1.0, 0.1, 0.1, 1.0], 1, False)
@settings(max_examples=30)
def test_a_resnet_keeps_its_function_gradient_and_statistics(
    shares: list[float], seed: int, training: bool
) -> None:
    model = resnet(seed)
    check_resnet(model, resnet_mask(model, shares, seed), training, 1e-9)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("share", [0.9, 0.3, 0.05])
def test_a_resnet_keeps_its_function_in_single_precision(share: float, training: bool) -> None:
    model = resnet(1, torch.float32)
    check_resnet(model, resnet_mask(model, [0.3, share, share, 1.0], 1), training, 1e-5)


def signed(model: nn.Module, mask: Mask) -> nn.Module:
    """The model with positive values in place of the survivors, so that nothing cancels: what is
    zero in it is zero for every value, or was pruned."""
    model = copy.deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(0)
    values = (0.5 + torch.rand(len(mask.flat), generator=generator).double()) * mask.flat
    start = 0
    for p in model.parameters():
        # Not too large: what sums n of them stays near one.
        p.data.copy_(values[start : start + p.numel()].view_as(p)).div_(max(1, p[0].numel() ** 0.5))
        start += p.numel()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(-0.5)
    return model


def fed_and_read(model: nn.Module, mask: Mask, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """For each ReLU, which units put out anything, and of which a change would change an output."""
    model, caught = signed(model, mask), {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):

            def catch(
                module: nn.Module, inputs: tuple[Tensor], z: Tensor, name: str = name
            ) -> None:
                z.retain_grad()
                caught[name] = z

            module.register_forward_hook(catch)
    model(x.double().requires_grad_()).sum().backward()

    def any_unit(t: Tensor) -> Tensor:
        return (t != 0).movedim(1, 0).flatten(1).any(1)

    return {n: (any_unit(z.detach()), any_unit(z.grad)) for n, z in caught.items()}


def check_live(model: nn.Module, mask: Mask, x: Tensor) -> None:
    if mask.sparsity == 0:
        return
    sites = fed_and_read(model, mask, x.abs() + 0.1)
    for unread in (False, True):
        form = compact.compact(model, mask, unread=unread)
        assert form.relus.keys() == sites.keys()
        for name, (fed, read) in sites.items():
            expected = (fed if unread else fed & read).nonzero().flatten().tolist()
            assert form.relus[name].live.tolist() == (expected or [0]), (name, unread)
            assert form.relus[name].full == len(fed)


@given(resnets(), st.integers(0, 999))
@example([1.0, 0.05, 0.05, 0.1], 0)
@example([0.003, 0.2, 0.2, 0.05], 0)
@settings(max_examples=30)
def test_the_live_channels_of_a_resnet_are_those_that_carry_something_to_an_output(
    shares: list[float], seed: int
) -> None:
    model = resnet(0)
    check_live(model, resnet_mask(model, shares, seed), torch.randn(1, 3, 8, 8))


@given(densities(4), st.integers(0, 999))
def test_the_live_units_of_a_chain_are_those_that_carry_something_to_an_output(
    shares: list[float], seed: int
) -> None:
    model = conv_chain()
    check_live(model, random_mask(model, shares, seed), torch.randn(1, *IMAGE[conv_chain]))


def potentials(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    caught: dict[str, Tensor] = {}
    handles = [
        m.register_forward_pre_hook(lambda m, inputs, name=name: caught.update({name: inputs[0]}))
        for name, m in model.named_modules()
        if isinstance(m, nn.ReLU)
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return caught


@given(resnets(), st.integers(0, 999), st.booleans())
@settings(max_examples=20)
def test_with_unread_units_every_potential_of_a_resnet_is_that_of_the_full_network_or_zero(
    shares: list[float], seed: int, training: bool
) -> None:
    model = resnet(seed).train(training)
    mask = resnet_mask(model, shares, seed)
    form = compact.compact(model, mask, unread=True)
    form.load_(flat(model) * mask.flat)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    mask.apply_(model)
    found, expected = potentials(form.model, x), potentials(model, x)
    assert list(found) == list(expected)
    for name, z in expected.items():
        units, full = form.relus[name], torch.zeros_like(z)
        full[:, units.live] = found[name]
        torch.testing.assert_close(full, z, rtol=1e-9, atol=1e-9)
        full[:, units.live] = z[:, units.live]
        assert torch.equal(full, z)


def test_the_potentials_of_the_compact_form_do_not_reach_the_hooks_of_the_user() -> None:
    seen: list[str] = []
    for model in (linear_chain(), resnet(0)):
        mask = random_mask(model, [0.3] * len(Mask.dense(model).shapes), 0)
        form = compact.compact(model, mask)
        for module in form.model.modules():
            module.register_forward_pre_hook(lambda *_: seen.append("compact"))
        dtype = flat(model).dtype
        model(torch.randn(2, *((3, 8, 8) if form.inputs is None else (1, 3, 4)), dtype=dtype))
        assert not seen


def test_a_state_goes_from_learner_to_learner_as_the_mask_shrinks(tiny_colour: Data) -> None:
    """The oracle is the full network, trained by hand under the same masks."""
    model = resnet(0, torch.float32)
    full = copy.deepcopy(model)
    masks = [resnet_mask(model, [0.5, 0.6, 0.5, 1.0], 0)]
    more = resnet_mask(model, [0.3, 0.3, 0.3, 0.9], 1)
    masks.append(more.with_flat(more.flat & masks[0].flat))
    state, sizes = None, []
    for epoch, mask in enumerate(masks):
        learner = Single(model, mask, tiny_colour, 20)
        sizes.append(len(learner.compact.index))
        if state is None:
            learner.weights = flat(model)
        else:
            learner.load(0, state)
        mask.apply_(full)
        rows = order(len(tiny_colour.train), 0, epoch)
        learner.train(rows, Sgd(0.02))
        full.train()
        for batch in rows.split(20):
            gradient(full, tiny_colour.train.x[batch], tiny_colour.train.y[batch])
            with torch.no_grad():
                for p in full.parameters():
                    p -= 0.02 * p.grad
            mask.apply_(full)
        state = {n: t.clone() for n, t in learner.state(0).items()}
        torch.testing.assert_close(state["weights"], flat(full), rtol=1e-3, atol=1e-4)
        expected = evaluate(full, tiny_colour.test)
        assert learner.score("test").loss == pytest.approx(expected.loss, rel=1e-3)
        # A full network with this state is the same network, and so is another learner.
        restored = copy.deepcopy(model)
        nn.utils.vector_to_parameters(state["weights"], restored.parameters())
        restored.load_state_dict(
            {n.removeprefix("buffer."): t for n, t in state.items() if n != "weights"}, strict=False
        )
        found = evaluate(restored, tiny_colour.test)
        assert found.loss == pytest.approx(learner.score("test").loss, rel=1e-5)
        learner.train(order(40, 0, 9), Sgd(0.1))
        learner.load(0, state)
        assert learner.score("test").loss == pytest.approx(found.loss, rel=1e-5)
        assert all(torch.equal(t, state[n]) for n, t in learner.state(0).items())
    assert sizes[1] < sizes[0] < len(flat(model))


# Networks of others


def tied() -> nn.Sequential:
    layer = nn.Linear(6, 6)
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), layer, nn.ReLU(), layer)


def one_relu() -> nn.Sequential:
    relu = nn.ReLU()
    return nn.Sequential(nn.Linear(6, 6), relu, nn.Linear(6, 6), relu, nn.Linear(6, 3))


def hooked() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model[1].register_forward_hook(lambda module, inputs, output: output + 1)
    return model


class Doubled(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 6), *between, nn.Linear(6, 3))


CONV = (nn.Conv2d(1, 4, 3), nn.ReLU())
STRANGERS = {
    "sigmoid": (mlp(nn.Sigmoid()), (6,)),
    "dropout": (mlp(nn.ReLU(), nn.Dropout(0.5)), (6,)),
    "normalised": (mlp(nn.BatchNorm1d(6), nn.ReLU()), (6,)),
    "nested": (mlp(nn.Sequential(nn.ReLU(), nn.Linear(6, 6))), (6,)),
    "tied": (tied(), (6,)),
    "one ReLU": (one_relu(), (6,)),
    "hooked": (hooked(), (6,)),
    "own forward": (Doubled(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)), (6,)),
    "weight norm": (
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), nn.ReLU()),
        (6,),
    ),
    "late flattening": (mlp(nn.ReLU(), nn.Flatten(), nn.Linear(12, 6)), (2, 6)),
    "groups": (
        nn.Sequential(*CONV, nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 2)),
        (1, 6, 6),
    ),
    "linear over rows": (nn.Sequential(*CONV, nn.Linear(4, 6), nn.Linear(6, 2)), (1, 6, 6)),
    "flattened maps": (nn.Sequential(*CONV, nn.Flatten(2), nn.Linear(16, 2)), (1, 6, 6)),
    "pool, then linear": (
        nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 2)),
        (1, 6, 6),
    ),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_known_chain_keeps_its_shape_and_its_function(name: str) -> None:
    model, shape = copy.deepcopy(STRANGERS[name])
    x = torch.randn(5, *shape)
    mask = random_mask(model, [0.3] * len(Mask.dense(model).shapes), 0)
    form = compact.compact(model.eval(), mask)
    assert torch.equal(form.index, torch.arange(len(mask.flat)))
    assert (form.inputs, form.units, form.relus, form.buffers) == (None, (), {}, {})
    mask.apply_(model)
    form.load_(flat(model))
    assert torch.equal(form.model(form.read(x)), model(x))
    assert compact.linear_layers(model) is None


KNOWN = {
    "no biases": (
        nn.Sequential(
            nn.Flatten(), nn.Linear(36, 9, bias=False), nn.ReLU(), nn.Linear(9, 3, bias=False)
        ),
        (1, 6, 6),
    ),
    "strides and paddings": (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), nn.ReLU(inplace=True),
            nn.Conv2d(4, 5, 3, padding=2, dilation=2, padding_mode="reflect"), nn.ReLU(),
            nn.AvgPool2d(2, padding=1), nn.Identity(), nn.ReLU(), nn.Flatten(),
            nn.Linear(45, 6), nn.ReLU(), nn.Linear(6, 3),
        ),
        (2, 8, 8),
    ),
    "only convolutions": (
        nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ),
        (2, 6, 6),
    ),
    "sequences": (mlp(nn.ReLU()), (2, 6)),
    "leading ReLU": (nn.Sequential(nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), (6,)),
}  # fmt: skip


@pytest.mark.parametrize("density", [0.1, 0.4])
@pytest.mark.parametrize("name", KNOWN)
def test_a_chain_of_known_layers_gets_smaller_and_keeps_its_function(
    name: str, density: float
) -> None:
    model, shape = copy.deepcopy(KNOWN[name])
    model = model.double()
    x = torch.randn(5, *shape, dtype=torch.float64)
    mask = random_mask(model, [density] * len(Mask.dense(model).shapes), 1)
    form = compact.compact(model, mask, sparse=False)
    form.load_(flat(model) * mask.flat)
    mask.apply_(model)
    assert len(form.index) < len(mask.flat)
    expected = model(x.clone())
    torch.testing.assert_close(form.model(form.read(x)), expected, rtol=1e-9, atol=1e-12)
    found = torch.autograd.grad(form.model(form.read(x)).square().sum(), form.model.parameters())
    full = torch.autograd.grad(expected.square().sum(), model.parameters())
    full_flat = torch.cat([g.flatten() for g in full]) * mask.flat
    mapped = form.expand(torch.cat([g.flatten() for g in found])) * mask.flat
    torch.testing.assert_close(mapped, full_flat, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["lenet-300", "lenet-5", "resnet-8"])
def test_the_compact_form_is_of_the_model_s_type(name: str) -> None:
    model = build(name, 0).double()
    mask = random_mask(model, [0.05] * len(Mask.dense(model).shapes), 0)
    form = compact.compact(model, mask)
    assert {p.dtype for p in form.model.parameters()} == {torch.float64}
    form.load_(flat(model) * mask.flat)
    x = torch.randn(2, *((3, 8, 8) if name == "resnet-8" else (1, 28, 28)), dtype=torch.float64)
    mask.apply_(model)
    with torch.no_grad():
        torch.testing.assert_close(form.model(form.read(x)), model(x), rtol=1e-9, atol=1e-9)


def test_a_compact_network_knows_its_sizes() -> None:
    model = resnet(0)
    form = compact.compact(model, resnet_mask(model, [0.3, 0.2, 0.2, 1.0], 0))
    for module in form.model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels)
        if isinstance(module, nn.BatchNorm2d):
            assert len(module.running_var) == len(module.weight) == module.num_features
    assert form.units == (*(len(u.live) for u in form.relus.values()), 10)
    assert [n for n, _ in form.model.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert form.model.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("other", ["lenet-5", "resnet-8", "resnet-14"])
def test_the_mask_of_another_network_is_refused(other: str) -> None:
    model = build("lenet-300", 0)
    with pytest.raises(PsplibError, match="The mask belongs to another network") as caught:
        compact.compact(model, Mask.dense(build(other, 0)))
    assert "fc1.weight (300, 784)" in str(caught.value)
    with pytest.raises(PsplibError, match="belongs to another network"):
        compact.compact(build("resnet-8", 0), Mask.dense(build("resnet-14", 0)))
