"""Replicas side by side against the same networks one by one."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from single import Single
from torch import nn

from psplib.core.errors import PsplibError
from psplib.nn.batched import Conv2d, replicate
from psplib.nn.data import Data, Split
from psplib.nn.masks import Mask
from psplib.nn.models import build
from psplib.training import cuda_graph
from psplib.training.cuda_graph import fused
from psplib.training.engines import StackedTrainer
from psplib.training.fit import crops, order
from psplib.training.trainer import flat
from psplib.training.update import LobsterStep, Sgd, stack_updates

R, BATCH = 3, 4
W = torch.zeros(3, 1)
RATES, DENSITIES = (1.0, 2.0, 0.5), (1.0, 0.6, 0.2)
# Slow in float32: where rounding opens or closes a ReLU, the gradient jumps.
RATE = {"lenet-300": 0.02, "lenet-5": 5e-4, "resnet-8": 1e-4, "resnet-32": 5e-5}
STEPS = {"lenet-300": 100, "lenet-5": 50, "resnet-8": 50, "resnet-32": 10}


def as_double(data: Data) -> Data:
    """The same images in float64."""
    splits = {n: getattr(data, n) for n in ("train", "validation", "test")}
    return replace(data, **{n: Split(s.x.double(), s.y) for n, s in splits.items()})


def networks(name: str, dtype: torch.dtype) -> tuple[list[nn.Module], list[Mask]]:
    """R networks with initial values and masks of their own; the first is dense."""
    models = [build(name, r).to(dtype) for r in range(R)]
    dense, generator = Mask.dense(models[0]), torch.Generator().manual_seed(0)
    return models, [
        dense.with_flat(torch.rand(len(dense.flat), generator=generator) < density)
        for density in DENSITIES
    ]


def side_by_side_and_alone(
    name: str, data: Data, updates: list[Any], steps: int, dtype: torch.dtype = torch.float32
) -> tuple[StackedTrainer, list[Single]]:
    models, masks = networks(name, dtype)
    team = StackedTrainer(models[0], masks, data, BATCH)
    team.weights = torch.stack([flat(m) for m in models])
    alone = [Single(m, mask, data, BATCH) for m, mask in zip(models, masks, strict=True)]
    for learner, model in zip(alone, models, strict=True):
        learner.weights = flat(model)
    for epoch in range(-(-steps * BATCH // len(data.train))):
        orders = [order(len(data.train), r, epoch) for r in range(R)]
        cuts = [crops(data, r, epoch) for r in range(R)]
        known = [c for c in cuts if c is not None]
        team.epoch(orders, updates, known or None)
        for r, learner in enumerate(alone):
            learner.train(orders[r], updates[r], cuts[r])
    return team, alone


UPDATES: dict[str, Callable[[float], Any]] = {
    "sgd": lambda rate: Sgd(rate),
    "momentum and weight decay": lambda rate: Sgd(rate, 0.5, 0.1),
    "lobster": lambda rate: LobsterStep(rate, rate / 20),
    "lobster without sensitivity": lambda rate: LobsterStep(rate, rate / 20, sensitivity=False),
    "lobster with momentum": lambda rate: LobsterStep(rate, rate / 20, True, 0.5, 0.01),
}


def colour(name: str, tiny: Data, tiny_colour: Data) -> Data:
    """Few images, so that the steps are whole epochs."""
    if name.startswith("resnet"):
        return replace(tiny_colour, name="cifar10")
    return replace(tiny, train=Split(tiny.train.x[:42], tiny.train.y[:42]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *(("lenet-300", rule) for rule in UPDATES),
        *(
            pytest.param(name, rule, marks=pytest.mark.slow)
            for name, rule in (
                ("lenet-5", "sgd"),
                ("lenet-5", "lobster"),
                ("resnet-8", "sgd"),
                ("resnet-8", "lobster with momentum"),
                ("resnet-32", "momentum and weight decay"),
            )
        ),
    ],
)
def test_steps_side_by_side_equal_those_alone(
    name: str, rule: str, tiny: Data, tiny_colour: Data
) -> None:
    """Own weights, masks, orders, crops, learning rates and shrinkages, in float32."""
    data = colour(name, tiny, tiny_colour)
    updates = [UPDATES[rule](RATE[name] * factor) for factor in RATES]
    team, alone = side_by_side_and_alone(name, data, updates, STEPS[name])
    weights = team.weights
    for r, learner in enumerate(alone):
        torch.testing.assert_close(weights[r], learner.weights, rtol=0, atol=1e-5)
        assert float((weights[r] - flat(build(name, r)) * learner.mask.flat).abs().max()) > 5e-5
        score, other = team.scores("validation")[r], learner.score("validation")
        assert score.loss == pytest.approx(other.loss, rel=1e-3)
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("lenet-5", "momentum and weight decay"),
        ("lenet-5", "lobster without sensitivity"),
        ("resnet-8", "sgd"),
        ("resnet-8", "lobster with momentum"),
    ],
)
def test_in_float64_they_equal_to_the_last_digits_at_full_speed_of_learning(
    name: str, rule: str, tiny: Data, tiny_colour: Data
) -> None:
    data = as_double(colour(name, tiny, tiny_colour))
    updates = [UPDATES[rule](0.02 * factor) for factor in RATES]
    team, alone = side_by_side_and_alone(name, data, updates, 15, torch.float64)
    for r, learner in enumerate(alone):
        torch.testing.assert_close(team.weights[r], learner.weights, rtol=1e-9, atol=1e-11)
        state, other = team.state(r), learner.state(0)
        assert state.keys() == other.keys()
        alive = learner.mask.flat
        for entry in state.keys() - {"weights"}:
            mine, its = state[entry], other[entry]
            if entry == "velocity":  # that of a pruned weight means nothing
                mine, its = mine[alive], its[alive]
            if learner.mask.sparsity == 0:  # else channels that are gone keep old statistics
                torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-11)
        for split in ("train", "validation", "test"):
            assert team.scores(split)[r].loss == pytest.approx(learner.score(split).loss, rel=1e-9)
            assert team.scores(split)[r].error == learner.score(split).error


def test_replicas_of_one_mask_are_trained_in_compact_form(tiny: Data) -> None:
    """Idle weights, too, shrink; the first layer is smaller."""
    models, masks = networks("lenet-300", torch.float64)
    generator = torch.Generator().manual_seed(0)
    mask = masks[0].with_flat(torch.rand(len(masks[0].flat), generator=generator) < 0.004)
    data = as_double(tiny)
    team = StackedTrainer(models[0], [mask] * R, data, 50)
    assert team.model[1].weight.shape[2] < 784
    team.weights = torch.stack([flat(m) for m in models])
    updates = [LobsterStep(0.1 * f, 1e-2 * f, True, 0.5, 0.01) for f in RATES]
    for epoch in range(2):
        orders = [order(300, r, epoch) for r in range(R)]
        team.epoch(orders, updates)
    for r, model in enumerate(models):
        learner = Single(model, mask, data, 50)
        learner.weights = flat(model)
        for epoch in range(2):
            learner.train(order(300, r, epoch), updates[r])
        assert bool(len(learner._idle))
        torch.testing.assert_close(team.weights[r], learner.weights, rtol=1e-9, atol=1e-12)
        assert team.scores("test")[r].error == learner.score("test").error
    with pytest.raises(PsplibError, match="share one mask"):
        team.set_mask(0, masks[0])


@pytest.mark.parametrize(("stride", "padding", "bias"), [(1, 0, True), (2, 1, False)])
def test_a_convolution_is_that_of_each_replica(stride: int, padding: int, bias: bool) -> None:
    torch.manual_seed(0)
    singles = [nn.Conv2d(2, 5, 3, stride, padding, bias=bias).double() for _ in range(R)]
    layer = replicate(nn.Sequential(singles[0]), R)[0]
    assert isinstance(layer, Conv2d)
    for r, single in enumerate(singles):
        for name, p in single.named_parameters():
            layer.get_parameter(name).data[r] = p.detach()
    x = torch.randn(4, 2 * R, 9, 7, dtype=torch.float64, requires_grad=True)
    out = layer(x)
    expected = torch.cat([m(part) for m, part in zip(singles, x.chunk(R, 1), strict=True)], 1)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    mine = torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])
    theirs = torch.autograd.grad(
        (expected * weight).sum(), [x, *(p for m in singles for p in m.parameters())]
    )
    torch.testing.assert_close(mine[0], theirs[0])
    parts = len(list(singles[0].parameters()))
    for i in range(parts):
        torch.testing.assert_close(mine[1 + i], torch.stack(theirs[1 + i :: parts]))


def test_a_replica_goes_on_from_the_state_of_a_learner_and_the_other_way(
    tiny_colour: Data,
) -> None:
    models, masks = networks("resnet-8", torch.float64)
    data, update = as_double(tiny_colour), Sgd(0.01, 0.9, 1e-3)
    learner = Single(models[0], masks[0], data, BATCH)
    learner.weights = flat(models[0])
    learner.train(order(40, 0, 1), update)
    team = StackedTrainer(models[0], masks, data, BATCH)
    team.weights = torch.stack([flat(m) for m in models])
    team.load(0, learner.state(0))
    team.epoch([order(40, r, 2) for r in range(R)], [update] * R)
    learner.train(order(40, 0, 2), update)
    torch.testing.assert_close(team.weights[0], learner.weights, rtol=1e-9, atol=1e-12)
    learner.load(0, team.state(1))
    assert torch.equal(learner.weights, team.weights[1])
    assert learner.score("test").loss == pytest.approx(team.scores("test")[1].loss)


def test_losses_of_candidates_leave_everything_as_it_was(tiny_colour: Data) -> None:
    models, masks = networks("resnet-8", torch.float64)
    data = as_double(tiny_colour)
    team = StackedTrainer(models[0], masks, data, BATCH)
    team.weights = torch.stack([flat(m) for m in models])
    team.epoch([order(40, r, 1) for r in range(R)], [Sgd(0.05)] * R)
    states = [{n: t.clone() for n, t in team.state(r).items()} for r in range(R)]
    candidates = torch.stack([states[1]["weights"] * (1 - k / 10) for k in range(5)])
    found = team.losses(1, candidates, "validation")
    for r in range(R):
        assert all(torch.equal(t, states[r][n]) for n, t in team.state(r).items())
    learner = Single(models[1], masks[1], data, BATCH)
    learner.load(0, states[1])
    assert learner.losses(0, candidates, "validation") == pytest.approx(found, rel=1e-9)
    assert torch.equal(learner.weights, states[1]["weights"])
    assert len(set(found)) == 5


def test_under_another_mask_a_replica_loses_the_pruned_weights_for_good(tiny: Data) -> None:
    models, masks = networks("lenet-5", torch.float32)
    team = StackedTrainer(models[0], masks, tiny, BATCH)
    team.weights = torch.stack([flat(m) for m in models])
    before = team.weights
    team.set_mask(0, masks[2])
    assert torch.equal(team.weights[0], before[0] * masks[2].flat)
    assert torch.equal(team.weights[1:], before[1:])
    team.epoch([order(300, r, 1)[:40] for r in range(R)], [Sgd(0.1)] * R)
    assert int(team.weights[0][~masks[2].flat].count_nonzero()) == 0
    assert int(team.weights[1][masks[1].flat].count_nonzero()) == masks[1].kept


def test_what_replicas_cannot_do_is_refused(tiny: Data) -> None:
    models, masks = networks("lenet-300", torch.float32)
    with pytest.raises(PsplibError, match="one kind; got LobsterStep, Sgd"):
        stack_updates([Sgd(0.1), LobsterStep(0.1, 0.1)], W)
    with pytest.raises(PsplibError, match="one value of sensitivity"):
        stack_updates([LobsterStep(0.1, 0.1, True), LobsterStep(0.1, 0.1, False)], W)
    with pytest.raises(PsplibError, match=r"precision.*float32, tf32, bfloat16; got 'float16'"):
        StackedTrainer(models[0], masks, tiny, BATCH, "float16")
    with pytest.raises(PsplibError, match="Replicas of a PReLU are not known"):
        replicate(nn.Sequential(nn.Linear(3, 3), nn.PReLU()), 2)
    with pytest.raises(PsplibError, match=r"plain convolutions only; got Conv2d.*groups=2"):
        replicate(nn.Conv2d(2, 2, 3, groups=2), 2)
    team = StackedTrainer(models[0], masks, tiny, BATCH)
    team.weights = torch.stack([flat(m) for m in models])
    with pytest.raises(PsplibError, match=r"networks \[1\] diverged"):
        team.epoch([order(300, 0, 1)] * R, [Sgd(0.1), Sgd(1e30), Sgd(0.1)])


@pytest.mark.parametrize("name", ["lenet-300", "lenet-5"])
def test_in_bfloat16_the_result_is_another_but_near(name: str, tiny: Data) -> None:
    models, masks = networks(name, torch.float32)
    found = {}
    for precision in ("float32", "bfloat16"):
        team = StackedTrainer(models[0], masks, tiny, BATCH, precision)
        team.weights = torch.stack([flat(m) for m in models])
        team.epoch([order(300, r, 1)[:80] for r in range(R)], [Sgd(0.02)] * R)
        found[precision] = team.weights
    far = float((found["float32"] - found["bfloat16"]).abs().max())
    assert 1e-6 < far < 0.02


@pytest.mark.thorough  # a compiler is called
def test_the_fused_update_is_the_update_and_does_not_touch_what_it_is_tried_on() -> None:
    torch.manual_seed(0)
    update = stack_updates([LobsterStep(0.1 * k, 1e-3 * k, True, 0.9, 1e-4) for k in (1, 2, 3)], W)
    tensors = [torch.randn(3, 500) for _ in range(3)] + [(torch.rand(3, 500) < 0.5).float()]
    before = [t.clone() for t in tensors]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        apply = fused(update, *tensors)
    assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))
    assert apply is not cuda_graph.apply_update
    apply(update, *tensors)
    cuda_graph.apply_update(update, *before)
    torch.testing.assert_close(tensors[0], before[0])
    torch.testing.assert_close(tensors[2], before[2])


def test_without_a_compiler_the_update_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.warns(UserWarning, match=r"not fused \(RuntimeError\)"):
        assert fused(Sgd(0.1), W, W, None, W) is cuda_graph.apply_update
