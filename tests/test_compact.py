"""A compact network against the full one, and its units against removal one at a time."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from psplib import chain, compact, training
from psplib.compact import SparseLinear
from psplib.data import Data
from psplib.masks import Mask
from psplib.models import build
from psplib.training import Learner, Sgd, flat


def linear_chain() -> nn.Sequential:
    """LeNet-300 in small: 12-7-5-3."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(12, 7), relu1=nn.ReLU(),
            fc2=nn.Linear(7, 5), relu2=nn.ReLU(),
            fc3=nn.Linear(5, 3),
        )
    )  # fmt: skip


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
    weights, gradient = training.flatten_(form.model)
    weights.copy_((flat(model) * mask.flat)[form.index])
    return form, weights, gradient


def check_equal_function_and_gradient(model: nn.Module, mask: Mask, image: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, *image, generator=generator)
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
    mapped = torch.zeros_like(expected)
    mapped[form.index] = gradient
    mapped *= mask.flat
    scale = float(expected.abs().max())
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
    x = torch.randn(30, 1, 28, 28)
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


def test_a_dense_network_and_a_resnet_keep_their_shape() -> None:
    for name, density in (("lenet-300", 1.0), ("lenet-5", 1.0), ("resnet-8", 0.1)):
        model = build(name, 0)
        mask = random_mask(model, [density] * len(list(model.parameters())), 0)
        form = compact.compact(model, mask)
        assert form.inputs is None
        assert torch.equal(form.index, torch.arange(len(mask.flat)))
        x = torch.randn(2, *(3, 32, 32) if name == "resnet-8" else (1, 28, 28))
        assert torch.equal(form.model.eval()(form.read(x)), model.eval()(x))


@pytest.mark.parametrize("name", ["lenet-300", "lenet-5"])
def test_the_full_network_is_not_changed(name: str) -> None:
    model = build(name, 0)
    before = copy.deepcopy(model.state_dict())
    mask = random_mask(model, [0.05] * len(before), 0)
    form = compact.compact(model, mask)
    with torch.no_grad():
        for p in form.model.parameters():
            p.fill_(7)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())


@pytest.mark.parametrize("name", ["lenet-300", "lenet-5"])
def test_a_network_without_a_weight_answers_the_first_class(name: str, tiny: Data) -> None:
    model = build(name, 0)
    dense = Mask.dense(model)
    learner = Learner(model, dense.with_flat(torch.zeros_like(dense.flat)), tiny, 100)
    learner.weights = flat(model)
    learner.epoch(torch.arange(300), Sgd(0.1))
    assert int(learner.weights.count_nonzero()) == 0
    score = learner.score("test")
    assert score.loss == pytest.approx(np.log(10), rel=1e-6)
    assert score.error == float((tiny.test.y != 0).double().mean())
