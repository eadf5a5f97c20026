"""Potentials in front of ReLUs against plain hooks, and probes of one pass over the data."""

import copy
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.analysis.entropy import Agreement, FirstOrder, SecondOrder, Subsets
from psplib.analysis.psp import LossAndError, MeanSquare, Observation, Probe, observe, watching
from psplib.core.errors import PsplibError
from psplib.nn.data import Data, Split
from psplib.nn.masks import Mask
from psplib.nn.models import build
from psplib.training import trainer as training
from psplib.training.trainer import flat


def plain(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each ReLU of the whole network receives (B, N), by hooks on a copy."""
    model, found = copy.deepcopy(model).eval(), {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):

            def hook(_: nn.Module, z: tuple[Tensor], name: str = name) -> None:
                found[name] = z[0].flatten(1).clone()

            module.register_forward_pre_hook(hook)
    with torch.no_grad():
        model(x)
    return found


def thin(model: nn.Module, density: float, seed: int = 0) -> Mask:
    """A random mask, put on the model."""
    dense = Mask.dense(model)
    generator = torch.Generator().manual_seed(seed)
    mask = dense.with_flat(torch.rand(len(dense.flat), generator=generator) < density)
    mask.apply_(model)
    return mask


def small(**relus: nn.Module) -> nn.Sequential:
    relus = {"relu1": nn.ReLU(), "relu2": nn.ReLU()} | relus
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(6, 5), relu1=relus["relu1"], fc2=nn.Linear(5, 4), relu2=relus["relu2"],
            fc3=nn.Linear(4, 3),
        )
    )  # fmt: skip


def samples(count: int = 50) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split(torch.randn(count, 6, generator=generator), torch.arange(count) % 3)


@pytest.mark.parametrize("density", [1.0, 0.3, 0.01])
@pytest.mark.parametrize("architecture", ["lenet-300", "lenet-5", "resnet-8"])
def test_potentials_are_those_of_the_whole_network(
    architecture: str, density: float, tiny: Data, tiny_colour: Data
) -> None:
    model, generator = build(architecture, 0), torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    mask = thin(model, density)
    split = (tiny_colour if architecture == "resnet-8" else tiny).test
    expected = plain(model, split.x)
    with torch.no_grad(), watching(model, split.x, mask) as watched:
        seen = watched.see(watched.read(split.x), split.y)
        again = watched.see(watched.read(split.x[:7]), split.y[:7])
    assert [layer.name for layer in seen.layers] == list(expected)
    for layer, z, part in zip(seen.layers, seen.z, again.z, strict=True):
        full = expected[layer.name]
        assert layer.neurons == full.shape[1]
        assert len(layer.watched.unique()) == z.shape[1]
        torch.testing.assert_close(layer.expand(z), full, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(z[:7], part, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.logits, model.eval()(split.x), rtol=1e-4, atol=1e-5)
    left_out = sum(layer.neurons - len(layer.watched) for layer in seen.layers)
    assert left_out == 0 if density == 1 else left_out > 0 or density > 0.1


def test_the_mean_square_of_the_logits_is_averaged_in_only_where_it_is_asked_for(
    tiny: Data,
) -> None:
    """z = 3 at every hidden neuron, logits 2, 0, ..., 0 of ten: (9 + 9 + 0.4) / 3."""
    model = build("lenet-300", 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.fc1.bias.fill_(3)
        model.fc2.bias.fill_(-3)
        model.fc3.bias[0] = 2
    found = MeanSquare()
    observe(model, tiny.test, found, batch=7)
    assert (found.mean, found.logits) == pytest.approx((9.0, 0.4))
    assert found.mean_with_logits == pytest.approx(18.4 / 3)


def test_every_relu_of_resnet_32_and_no_output(tiny_colour: Data) -> None:
    magnitude = MeanSquare()
    observe(build("resnet-32", 0), tiny_colour.test, magnitude)
    neurons = list(magnitude.neurons.values())
    assert neurons == [16 * 32 * 32] * 11 + [32 * 16 * 16] * 10 + [64 * 8 * 8] * 10


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("architecture", ["lenet-5", "resnet-8"])
def test_the_model_is_as_it_was(
    architecture: str, fails: bool, tiny: Data, tiny_colour: Data
) -> None:
    model = build(architecture, 0)
    model.train()
    next(m for m in model.modules() if isinstance(m, nn.ReLU)).eval()
    split = (tiny_colour if architecture == "resnet-8" else tiny).test
    state = {n: t.clone() for n, t in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    modules = list(model.modules())
    generator = torch.get_rng_state()

    class Stops(LossAndError):
        def update(self, seen: Observation) -> None:
            raise KeyboardInterrupt

    try:
        observe(model, split, Stops() if fails else LossAndError())
    except KeyboardInterrupt:
        assert fails
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert list(model.modules()) == modules
    assert not any(m._forward_pre_hooks for m in modules)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_relu_that_overwrites_its_input_is_seen_before() -> None:
    model, split = small(), samples()
    overwriting = small(relu1=nn.ReLU(inplace=True), relu2=nn.ReLU(inplace=True))
    overwriting.load_state_dict(model.state_dict())
    with torch.no_grad(), watching(overwriting, split.x) as watched:
        found = watched.see(watched.read(split.x), split.y)
    for z, expected in zip(found.z, plain(model, split.x).values(), strict=True):
        torch.testing.assert_close(z, expected)
        assert bool((z < 0).any())


def test_weights_that_the_mask_prunes_count_as_zero() -> None:
    model, split = small(), samples()
    pruned = copy.deepcopy(model)
    mask = thin(pruned, 0.6)
    with torch.no_grad(), watching(model, split.x, mask) as watched:
        found = watched.see(watched.read(split.x), split.y)
    torch.testing.assert_close(found.logits, pruned(split.x))


def test_other_weights_can_be_watched() -> None:
    model, other, split = small(), small(), samples()
    mask = thin(model, 0.6)
    mask.apply_(other)
    with torch.no_grad(), watching(model, split.x, mask) as watched:
        before = watched.see(watched.read(split.x), split.y)
        watched.load_(flat(other))
        after = watched.see(watched.read(split.x), split.y)
    assert after.layers == before.layers
    torch.testing.assert_close(after.logits, other(split.x))
    assert not torch.equal(after.logits, before.logits)


def test_one_pass_feeds_every_probe() -> None:
    class Counted(nn.ReLU):
        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            Counted.passes += 1
            return super().forward(x)

    score, again, magnitude = LossAndError(), LossAndError(), MeanSquare()
    observe(small(relu1=Counted()), samples(), score, magnitude, again, batch=20)
    assert Counted.passes == 3 + 3, "the first samples, in two sizes, and beside all, are a check"
    assert score == again
    assert score.samples == magnitude.samples == 50


def test_score_and_magnitude_are_those_of_the_whole_split(tiny: Data) -> None:
    model = build("lenet-300", 0)
    score, magnitude = LossAndError(), MeanSquare()
    observe(model, tiny.train, score, magnitude, batch=77)
    expected = training.evaluate(model, tiny.train)
    assert score.loss == pytest.approx(expected.loss, rel=1e-6)
    assert score.error == expected.error
    means = {n: float(z.double().square().mean()) for n, z in plain(model, tiny.train.x).items()}
    assert magnitude.by_layer == pytest.approx(means, rel=1e-6)
    assert magnitude.mean == pytest.approx(sum(means.values()) / 2, rel=1e-6)


def test_neurons_of_constant_zero_count_in_the_magnitude(tiny: Data) -> None:
    model = build("lenet-5", 0)
    thin(model, 0.01)
    magnitude = MeanSquare()
    observe(model, tiny.test, magnitude)
    means = {n: float(z.double().square().mean()) for n, z in plain(model, tiny.test.x).items()}
    assert magnitude.by_layer == pytest.approx(means, rel=1e-5)


def whole_numbers(split: Split) -> tuple[nn.Sequential, Split]:
    """A network and data that float32 computes without rounding, whatever the order of sums."""
    model, generator = small(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randint(-2, 3, p.shape, generator=generator))
    return model, Split((3 * split.x).round(), split.y)


def numbers(probe: Probe) -> list[object]:
    """All that a probe has counted."""
    if isinstance(probe, SecondOrder):
        return [
            n11.tolist()
            for tally in probe.tallies.values()
            for c in range(3)
            for *_, n11 in tally.blocks(c)
        ]
    if isinstance(probe, FirstOrder | Agreement | Subsets):
        return [probe.samples.tolist(), *(c.tolist() for c in probe.counts.values())]
    if isinstance(probe, LossAndError):
        return [probe.samples, probe.wrong, pytest.approx(probe.total)]
    assert isinstance(probe, MeanSquare)
    return [probe.samples, probe.sums]


PROBES = [LossAndError, MeanSquare, FirstOrder, Agreement, SecondOrder, lambda: Subsets(3, limit=5)]


@pytest.mark.parametrize("make", PROBES)
def test_batches_and_their_order_change_nothing(make: Callable[[], Probe]) -> None:
    model, split = whole_numbers(samples())
    whole = make()
    observe(model, split, whole, batch=50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    shuffled = Split(split.x[order], split.y[order])
    for batch in (1, 7, 200):
        probe = make()
        observe(model, shuffled, probe, batch=batch)
        assert numbers(probe) == numbers(whole)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_counts_are_exact_in_every_precision(kind: torch.dtype) -> None:
    """600 of one state are not a number of bfloat16's 8 bits of precision plus one."""
    model, split = whole_numbers(samples())
    counted, expected = FirstOrder(), FirstOrder()
    repeated = Split(split.x.repeat(20, 1), split.y.repeat(20))
    observe(model, repeated, expected)
    observe(model.to(kind), Split(repeated.x.to(kind), repeated.y), counted, batch=1000)
    assert numbers(counted) == numbers(expected)
    assert max(int(c.max()) for c in counted.counts.values()) > 257


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x))


def test_what_computes_no_activation_is_refused() -> None:
    for model in (nn.Linear(6, 3), nn.Sequential(nn.Linear(6, 3), nn.Tanh())):
        with pytest.raises(PsplibError, match=rf"{type(model).__name__} computes none"):
            observe(model, samples(), LossAndError(), MeanSquare())
        score, data = LossAndError(), samples()  # which needs none
        observe(model, data, score)
        with torch.no_grad():
            assert score.loss == pytest.approx(float(F.cross_entropy(model(data.x), data.y)))
    functional = MeanSquare()
    observe(Functional(), samples(), functional)
    assert list(functional.neurons) == ["relu"]


def test_a_mask_of_another_network_is_refused() -> None:
    # As many parameters, but elsewhere.
    other = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 3))
    with pytest.raises(PsplibError, match=r"another network: .* \(6, 5\) .* \(5, 6\)\.$"):
        observe(small(), samples(), LossAndError(), mask=Mask.dense(other))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_potentials_must_be_finite(bad: float) -> None:
    model, split = small(), samples()
    with torch.no_grad():
        model.fc2.bias[1] = bad
    with pytest.raises(PsplibError, match="potentials in front of relu2 are not finite"):
        observe(model, split, LossAndError())
    split.x[31, 2] = bad
    with pytest.raises(PsplibError, match="potentials in front of relu1 are not finite"):
        observe(small(), split, LossAndError(), batch=10)


def test_data_must_fit_the_network() -> None:
    split = samples()
    with pytest.raises(PsplibError, match="has no samples"):
        observe(small(), Split(split.x[:0], split.y[:0]), LossAndError())
    for bad in (3, -1):
        split.y[4] = bad
        with pytest.raises(PsplibError, match=rf"0 to 2, the network's outputs; got .*{bad}"):
            observe(small(), split, LossAndError())
    with pytest.raises(PsplibError, match="batch must be a whole number of at least 1; got 0"):
        observe(small(), samples(), LossAndError(), batch=0)
