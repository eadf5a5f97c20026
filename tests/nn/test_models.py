"""The networks against their published counts and shapes, and a hand-written shortcut."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from psplib.core.errors import PsplibError
from psplib.core.seeds import derive
from psplib.nn import models
from psplib.nn.models import Block, ResNet, build

# LeCun et al. (1998), Caffe's example, and He et al. (2016, table 6) with option A.
PARAMETERS = {
    "lenet-300": 266_610,
    "lenet-5": 431_080,
    "resnet-32": 464_154,
    "resnet-44": 658_586,
    "resnet-56": 853_018,
    "resnet-110": 1_727_962,
}


def images(name: str, count: int = 2) -> Tensor:
    return torch.randn(count, *models.IMAGE[name], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameters_are_as_many_as_published(name: str, count: int) -> None:
    assert sum(p.numel() for p in build(name, 0).parameters()) == count


@pytest.mark.parametrize(("name", "depth"), models.RESNETS.items())
def test_a_resnet_of_depth_6n_plus_2_has_as_many_layers_and_a_closed_count(
    name: str, depth: int
) -> None:
    n = (depth - 2) // 6
    modules = list(build(name, 0).modules())
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in modules) == depth
    # A convolution of c channels has 9c weights for each channel it reads; its BatchNorm has 2c.
    convolutions = [(3, 16), *[(16, 16)] * 2 * n]
    for c in (32, 64):
        convolutions += [(c // 2, c), *[(c, c)] * (2 * n - 1)]
    expected = sum(9 * c_in * c + 2 * c for c_in, c in convolutions) + 65 * 10
    assert sum(p.numel() for m in modules for p in m.parameters(recurse=False)) == expected


@pytest.mark.parametrize("depth", [-4, 0, 2, 7, 9, 31, 33])
def test_a_resnet_of_another_depth_is_refused(depth: int) -> None:
    with pytest.raises(PsplibError, match=rf"6n\+2.*got {depth}\."):
        ResNet(depth)


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PsplibError, match=r"lenet-300, lenet-5, resnet-8.*got 'resnet-9'"):
        build("resnet-9", 0)


def test_the_layers_of_the_lenets_have_the_published_shapes() -> None:
    shapes = {
        name: {
            n.removesuffix(".weight"): tuple(p.shape)
            for n, p in build(name, 0).named_parameters()
            if n.endswith("weight")
        }
        for name in ("lenet-300", "lenet-5")
    }
    assert shapes["lenet-300"] == {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}
    assert shapes["lenet-5"] == {
        "conv1": (20, 1, 5, 5),
        "conv2": (50, 20, 5, 5),
        "fc1": (500, 800),
        "fc2": (10, 500),
    }


def seen(model: nn.Module, x: Tensor, kind: type[nn.Module]) -> dict[str, list[tuple[int, ...]]]:
    """The shapes, without the batch, of what each module of a kind reads in one pass."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, kind):
            shapes[name] = []
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: shapes[name].append(tuple(inputs[0].shape[1:]))
            )
    assert model.eval()(x).shape == (len(x), 10)
    return shapes


HIDDEN = {
    "lenet-300": [300, 100],
    "lenet-5": [11_520, 3_200, 500],
    "resnet-8": [16 * 32**2] * 3 + [32 * 16**2] * 2 + [64 * 8**2] * 2,
    "resnet-32": [16 * 32**2] * 11 + [32 * 16**2] * 10 + [64 * 8**2] * 10,
}


@pytest.mark.parametrize(("name", "neurons"), HIDDEN.items())
def test_every_relu_is_a_module_of_its_own_and_sees_its_layer_once(
    name: str, neurons: list[int]
) -> None:
    shapes = seen(build(name, 0), images(name), nn.ReLU)
    assert [[int(np.prod(s)) for s in calls] for calls in shapes.values()] == [[n] for n in neurons]


@pytest.mark.parametrize("name", HIDDEN)
def test_without_its_relus_and_maxima_a_network_is_affine(name: str) -> None:
    model = build(name, 0).double().eval()
    for module in list(model.modules()):
        for child, part in module.named_children():
            if isinstance(part, nn.ReLU):
                setattr(module, child, nn.Identity())
            elif isinstance(part, nn.MaxPool2d):
                setattr(module, child, nn.AvgPool2d(part.kernel_size))
    x, y = images(name).double().split(1)
    torch.testing.assert_close(model(x + y) + model(0 * x), model(x) + model(y))


def test_the_stages_of_a_resnet_halve_the_image_twice() -> None:
    shapes = seen(build("resnet-8", 0), images("resnet-8"), nn.Conv2d)
    assert shapes == {
        "conv": [(3, 32, 32)],
        "stage1.0.conv1": [(16, 32, 32)], "stage1.0.conv2": [(16, 32, 32)],
        "stage2.0.conv1": [(16, 32, 32)], "stage2.0.conv2": [(32, 16, 16)],
        "stage3.0.conv1": [(32, 16, 16)], "stage3.0.conv2": [(64, 8, 8)],
    }  # fmt: skip


def test_the_option_a_shortcut_takes_every_other_pixel_and_centres_the_channels() -> None:
    block = Block(4, 8, 2).eval()
    nn.init.zeros_(block.bn2.weight)  # the residual is nothing: what is left is the shortcut
    x = torch.rand(2, 4, 6, 6)
    expected = np.zeros((2, 8, 3, 3), dtype=np.float32)
    for image in range(2):
        for channel in range(4):
            for row in range(3):
                for column in range(3):
                    value = x[image, channel, 2 * row, 2 * column]
                    expected[image, 2 + channel, row, column] = value
    np.testing.assert_array_equal(block(x).detach(), expected)


def test_an_identity_shortcut_adds_the_input_before_the_last_relu() -> None:
    block = Block(4, 4, 1).eval()
    nn.init.zeros_(block.bn2.weight)
    nn.init.constant_(block.bn2.bias, -0.5)
    x = torch.rand(2, 4, 6, 6)
    torch.testing.assert_close(block(x), (x - 0.5).clamp_min(0))


@pytest.mark.parametrize("name", ["lenet-300", "lenet-5", "resnet-8"])
def test_a_seed_draws_the_initial_values_and_leaves_the_global_state(name: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = dict(build(name, 5).named_parameters())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    same, other = (dict(build(name, seed).named_parameters()) for seed in (5, 6))
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not any(torch.equal(one[n], other[n]) for n in one if one[n].ndim > 1)


def test_building_a_network_leaves_the_random_state_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    build("lenet-300", 0)
    assert seeded == []


def test_lenets_start_uniform_and_resnets_as_he_has_it() -> None:
    for weight, fan_in in (
        (build("lenet-300", 0).fc1.weight, 784),
        (build("lenet-5", 0).conv2.weight, 500),
    ):
        limit = fan_in**-0.5
        assert 0.999 * limit < float(weight.detach().abs().max()) <= limit
        assert float(weight.detach().std()) == pytest.approx(limit / 3**0.5, rel=0.02)
    weight = build("resnet-8", 0).stage3[0].conv2.weight
    assert float(weight.detach().std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


NAMES = st.lists(st.one_of(st.integers(), st.text(max_size=3)), min_size=1, max_size=3).map(tuple)


@given(NAMES, NAMES)
def test_streams_of_other_names_have_other_seeds(one: tuple, other: tuple) -> None:
    assert 0 <= derive(*one) < 2**63
    assert (derive(*one) == derive(*other)) == (one == other)
