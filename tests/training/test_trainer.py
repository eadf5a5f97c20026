"""Steps, epochs and scores against PyTorch's own, and against numbers by hand."""

import copy
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from single import Single
from torch import Tensor, nn

from psplib.core.errors import PsplibError
from psplib.nn.compact import SparseLinear
from psplib.nn.data import Data, Split, crop
from psplib.nn.masks import Mask
from psplib.nn.models import build
from psplib.training import gradient as chain
from psplib.training import trainer as training
from psplib.training.fit import Checkpoint, crops, order
from psplib.training.trainer import evaluate, flat
from psplib.training.update import Sgd


def random_mask(model: nn.Module, density: float) -> Mask:
    dense = Mask.dense(model)
    generator = torch.Generator().manual_seed(3)
    return dense.with_flat(torch.rand(len(dense.flat), generator=generator) < density)


def stack(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict((f"m{i}", m) for i, m in enumerate(modules))).double()


def sparse(units: int, inputs: int, density: float) -> SparseLinear:
    layer = SparseLinear(torch.rand(units, inputs) < density)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


class Dense(nn.Module):
    """A `SparseLinear` written out, for autograd."""

    def __init__(self, layer: SparseLinear) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(p.detach().clone()) for p in layer.parameters())
        rows = torch.arange(len(layer.bias)).repeat_interleave(layer.rows.diff())
        self.at = rows, layer.columns.long()
        self.shape = layer.shape

    def forward(self, x: Tensor) -> Tensor:
        full = torch.zeros(self.shape, dtype=x.dtype).index_put(self.at, self.weight)
        return x @ full.t() + self.bias


CHAINS = {
    "three layers": lambda: stack(
        nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 4)
    ),
    "one layer": lambda: stack(nn.Flatten(), nn.Linear(12, 4)),
    "no flattening": lambda: stack(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4)),
    "a sparse first layer": lambda: stack(
        nn.Identity(), sparse(9, 12, 0.2), nn.ReLU(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 4)
    ),
    "an empty first layer": lambda: stack(
        nn.Identity(), sparse(9, 12, 0.0), nn.ReLU(), nn.Linear(9, 4)
    ),
    "a sparse layer alone": lambda: stack(nn.Identity(), sparse(4, 12, 0.3)),
}
OTHERS = {
    "a convolution": lambda: stack(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 4)),
    "a trailing ReLU": lambda: stack(nn.Flatten(), nn.Linear(12, 4), nn.ReLU()),
    "no ReLU": lambda: stack(nn.Flatten(), nn.Linear(12, 9), nn.Linear(9, 4)),
    "another activation": lambda: stack(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4)),
}


@pytest.mark.parametrize("make", (CHAINS | OTHERS).values(), ids=CHAINS | OTHERS)
def test_the_gradient_is_that_of_autograd_in_float64(make: Callable[[], nn.Sequential]) -> None:
    torch.manual_seed(0)
    model = make()
    oracle = copy.deepcopy(model)
    for name, module in list(oracle.named_children()):
        if isinstance(module, SparseLinear):
            setattr(oracle, name, Dense(module))
    _, gradient = training.flatten_(model.parameters())
    differentiate = chain.gradient(model)
    for _ in range(2):  # the second call replaces what the first one left
        x = torch.randn(7, 1, 3, 4).double()
        x = x if isinstance(model[0], nn.Flatten | nn.Conv2d) else x.flatten(1)
        y = torch.randint(4, (7,))
        differentiate(x, y)
        oracle.zero_grad()
        F.cross_entropy(oracle(x), y).backward()
        expected = torch.cat([p.grad.flatten() for p in oracle.parameters()])
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
def test_a_term_beside_the_cross_entropy_adds_its_slopes(
    make: Callable[[], nn.Sequential],
) -> None:
    """Of the sum of sin z over the potentials in front of each ReLU."""
    model = make()
    oracle = copy.deepcopy(model)
    potentials: list[Tensor] = []
    for name, module in list(oracle.named_children()):
        if isinstance(module, SparseLinear):
            setattr(oracle, name, Dense(module))
        elif isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(lambda _, given: potentials.append(given[0]))
    _, gradient = training.flatten_(model.parameters())
    x, y = torch.randn(7, 12).double(), torch.arange(7) % 4
    chain.gradient(model)(x, y, lambda seen, _: [z.cos() for z in seen])
    loss = F.cross_entropy(oracle(x), y)
    (loss + sum(z.sin().sum() for z in potentials)).backward()
    expected = torch.cat([p.grad.flatten() for p in oracle.parameters()])
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_where_a_term_has_no_place_it_is_refused(make: Callable[[], nn.Sequential]) -> None:
    with pytest.raises(PsplibError, match="needs a chain of linear layers"):
        chain.gradient(make())(torch.zeros(1), torch.zeros(1), lambda seen, _: seen)


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
def test_a_chain_needs_no_autograd(
    make: Callable[[], nn.Sequential], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    training.flatten_(model.parameters())
    monkeypatch.setattr(Tensor, "backward", lambda *_: pytest.fail("autograd was used"))
    chain.gradient(model)(torch.randn(7, 12).double(), torch.arange(7) % 4)


@given(st.integers(1, 300), st.integers(0, 99), st.integers(0, 99))
def test_an_order_is_a_permutation_drawn_from_seed_and_epoch(
    size: int, seed: int, epoch: int
) -> None:
    state = torch.get_rng_state()
    rows = order(size, seed, epoch)
    assert sorted(rows.tolist()) == list(range(size))
    torch.rand(3)
    assert torch.equal(order(size, seed, epoch), rows)
    torch.set_rng_state(state)
    if size > 50:
        assert not torch.equal(order(size, seed + 1, epoch), rows)
        assert not torch.equal(order(size, seed, epoch + 1), rows)


class Affine(nn.Module):
    """Logits x·w; notes the mode and the sizes of the batches that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3))
        self.seen: list[tuple[int, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((len(x), self.training))
        return x @ self.weight


@pytest.mark.parametrize("mode", [True, False])
def test_evaluation_weighs_samples_equally_and_restores_the_mode(
    mode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "EVALUATION_BATCH", 7)
    torch.manual_seed(0)
    model = Affine().train(mode)
    x, y = 3 * torch.randn(16, 6), torch.randint(3, (16,))
    score = evaluate(model, Split(x, y))
    assert model.seen == [(7, False), (7, False), (2, False)]
    assert model.training is mode
    z = x.double().numpy() @ model.weight.detach().double().numpy()
    losses = np.log(np.exp(z).sum(1)) - z[np.arange(16), y]
    assert score.loss == pytest.approx(losses.mean(), rel=1e-6)
    assert score.error == np.count_nonzero(z.argmax(1) != y.numpy()) / 16
    assert model.weight.grad is None


def test_evaluation_is_of_any_network_or_refused() -> None:
    x, y = torch.randint(9, (12, 4)), torch.arange(12) % 3
    words = nn.Sequential(nn.Embedding(9, 5), nn.Flatten(), nn.Linear(20, 3)).to(torch.bfloat16)
    with torch.no_grad():
        loss = float(F.cross_entropy(words(x).double(), y))
    assert evaluate(words, Split(x, y)).loss == pytest.approx(loss, rel=1e-6)
    for data in (Split(x, y.int()), Split(x, y[:, None]), Split(x, y + 1)):
        with pytest.raises(PsplibError, match="Labels must be int64"):
            evaluate(words, data)
    with pytest.raises(PsplibError, match=r"logits \(B, C\); got \(12, 4, 5\)"):
        evaluate(words[0], Split(x, y))
    with pytest.raises(PsplibError, match="as many labels"):
        evaluate(words, Split(x, y[:5]))


@pytest.mark.parametrize(
    ("name", "density", "batch"),
    [("lenet-300", 1.0, 30), ("lenet-300", 0.3, 30), ("lenet-300", 0.02, 30),
     ("lenet-5", 1.0, 6), ("lenet-5", 0.05, 6)],
)  # fmt: skip
def test_a_hundred_steps_equal_those_of_plain_sgd_on_the_full_network(
    name: str, density: float, batch: int, tiny: Data
) -> None:
    plain = build(name, 0)
    mask = random_mask(plain, density)
    mask.apply_(plain)
    with torch.no_grad():
        for p in plain.parameters():
            p.div_(density**0.5)  # the sparser, the larger: the signal goes through
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1)

    initial = flat(plain)
    learner = Single(build(name, 1), mask, tiny, batch)
    learner.weights = initial
    for epoch in range(max(1, 100 * batch // len(tiny.train))):
        rows = order(len(tiny.train), 0, epoch)[: 100 * batch]
        for some in rows.split(batch):
            optimiser.zero_grad()
            F.cross_entropy(plain(tiny.train.x[some]), tiny.train.y[some]).backward()
            optimiser.step()
            mask.apply_(plain)
        learner.train(rows, Sgd(0.1))
    torch.testing.assert_close(learner.weights, flat(plain), rtol=1e-5, atol=1e-5)
    assert float((learner.weights - initial).abs().max()) > 0.02
    for split in ("train", "validation", "test"):
        expected = evaluate(plain, getattr(tiny, split))
        assert learner.score(split).loss == pytest.approx(expected.loss, rel=1e-4)
        assert learner.score(split).error == expected.error


@pytest.mark.slow
@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 0.0), (0.0, 0.3), (0.9, 0.3)])
@pytest.mark.parametrize(("name", "rate"), [("lenet-300", 0.05), ("resnet-8", 0.002)])
def test_momentum_weight_decay_and_crops_are_those_of_pytorch(
    name: str, rate: float, momentum: float, decay: float, tiny: Data, tiny_colour: Data
) -> None:
    """The oracle knows no compact form; idle weights, too, decay and roll on. A ResNet learns
    slowly here: where rounding makes a ReLU open or close, the gradient jumps."""
    data = tiny if name == "lenet-300" else replace(tiny_colour, name="cifar10")
    plain = build(name, 0).double()
    mask = random_mask(plain, 0.02 if name == "lenet-300" else 0.6)
    mask.apply_(plain)
    learner = Single(build(name, 1), mask, data, 16)
    learner.weights = flat(plain).float()
    assert bool(len(learner._idle))
    optimiser = torch.optim.SGD(plain.parameters(), rate, momentum, weight_decay=decay)
    for epoch in range(2):
        rows, drawn = order(len(data.train), 0, epoch), crops(data, 0, epoch)
        assert (drawn is None) == (name == "lenet-300")
        learner.train(rows, Sgd(rate, momentum, decay), drawn)
        for at in torch.arange(len(rows)).split(16):
            x = data.train.x[rows[at]].double()
            x = x if drawn is None else crop(x, drawn[at])
            optimiser.zero_grad()
            F.cross_entropy(plain(x), data.train.y[rows[at]]).backward()
            optimiser.step()
            mask.apply_(plain)
    torch.testing.assert_close(learner.weights, flat(plain).float(), rtol=1e-4, atol=1e-5)


class Lifting:
    """An update that would bring every pruned weight back, and looks whether one did."""

    def __init__(self, learner: Single) -> None:
        self.learner, self.steps, self.idled = learner, 0, 0

    def look(self) -> None:
        weights = self.learner.weights
        assert int(weights[~self.learner.mask.flat].count_nonzero()) == 0
        assert int(weights[self.learner.mask.flat].count_nonzero()) == self.learner.mask.kept

    momentum = 0.0

    def step(self, weights: Tensor, gradient: Tensor, velocity: Tensor | None) -> None:
        assert velocity is None
        self.look()
        self.steps += 1
        weights.add_(1)

    def idle(self, weights: Tensor, steps: int, velocity: Tensor | None) -> None:
        self.look()
        self.idled = steps
        weights.add_(steps)


@pytest.mark.parametrize("density", [0.5, 0.05, 0.003])
@pytest.mark.parametrize("name", ["lenet-300", "lenet-5"])
def test_the_mask_holds_after_every_step(name: str, density: float, tiny: Data) -> None:
    model = build(name, 0)
    learner = Single(model, random_mask(model, density), tiny, 80)
    learner.weights = torch.full((len(learner.mask.flat),), 0.5)
    update = Lifting(learner)
    learner.train(torch.arange(300), update)
    assert (update.steps, update.idled) == (4, 4)
    # Every survivor was lifted four times, whether the compact network has it or not.
    assert torch.equal(learner.weights, torch.where(learner.mask.flat, 4.5, 0.0))


def test_an_epoch_that_brings_a_pruned_weight_back_is_stopped(
    tiny: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("lenet-300", 0)
    learner = Single(model, random_mask(model, 0.5), tiny, 300)
    monkeypatch.setattr(Tensor, "mul_", lambda tensor, *_: tensor)  # the mask is not applied
    with pytest.raises(AssertionError, match="came back"):
        learner.train(torch.arange(300), Sgd(0.1))


def test_a_training_that_diverges_is_refused(tiny: Data) -> None:
    model = build("lenet-300", 0)
    learner = Single(model, Mask.dense(model), tiny, 50)
    with pytest.raises(PsplibError, match="diverged"):
        learner.train(torch.arange(300), Sgd(1e30))


def test_weights_are_read_and_set_in_full_coordinates(tiny: Data) -> None:
    model = build("lenet-300", 0)
    learner = Single(model, random_mask(model, 0.004), tiny, 100)
    full = torch.arange(1.0, 1 + len(learner.mask.flat))
    learner.weights = full
    read = learner.weights
    assert torch.equal(read, full * learner.mask.flat)
    read.zero_()
    full.zero_()
    assert int(learner.weights.count_nonzero()) == learner.mask.kept


@pytest.mark.parametrize(
    ("name", "density"), [("lenet-300", 0.01), ("lenet-5", 0.1), ("resnet-8", 0.5)]
)
def test_in_bfloat16_every_layer_puts_out_bfloat16_and_the_end_is_near(
    name: str, density: float, tiny: Data, tiny_colour: Data
) -> None:
    data = tiny_colour if name == "resnet-8" else tiny
    model, ends, kinds = build(name, 0), {}, set()
    mask = random_mask(model, density)
    for precision in ("float32", "bfloat16"):
        learner = Single(model, mask, data, 20, precision)
        learner.weights = flat(model)
        for m in learner.model.modules():
            if precision == "bfloat16" and isinstance(m, nn.Linear | nn.Conv2d):
                m.register_forward_hook(lambda _m, _x, z: kinds.add(z.dtype))
        learner.train(torch.arange(len(data.train))[:80], Sgd(0.02))
        ends[precision] = learner.weights
        assert learner.weights.dtype == torch.float32
        assert np.isfinite(learner.score("test").loss)
    assert kinds == {torch.bfloat16}
    far = float((ends["float32"] - ends["bfloat16"]).abs().max())
    assert 1e-7 < far < 0.02


def test_a_cpu_has_no_tf32(tiny: Data) -> None:
    model = build("lenet-300", 0)
    with pytest.raises(PsplibError, match="precision 'tf32' needs a CUDA device; this one is cpu"):
        Single(model, Mask.dense(model), tiny, 20, "tf32")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "density"), [("lenet-300", 0.01), ("lenet-5", 0.1), ("resnet-8", 0.5)]
)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_from_a_state_training_goes_on_to_the_same_bits(
    name: str, density: float, momentum: float, tiny: Data, tiny_colour: Data
) -> None:
    data = tiny_colour if name == "resnet-8" else tiny
    rows, update = torch.arange(len(data.train)), Sgd(0.1, momentum, 1e-3)
    states = []
    saved: dict[str, Tensor] = {}
    for _ in range(2):
        model = build(name, 0)
        learner = Single(model, random_mask(model, density), data, 20)
        learner.weights = flat(model)
        if saved:
            learner.load(0, saved)
        else:
            learner.train(rows, update)
            saved = learner.state(0)
        learner.train(rows, update)
        states.append(learner.state(0) | {"loss": torch.tensor(learner.score("test").loss)})
    assert len(states[0]) == 2 + bool(momentum) + 3 * sum(
        isinstance(m, nn.BatchNorm2d) for m in model.modules()
    )
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(t, states[1][n]) for n, t in states[0].items())
    assert not torch.equal(saved["weights"], states[0]["weights"])


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "float": torch.randint(-(2**31), 2**31 - 1, (50,), generator=generator)
        .int()
        .view(torch.float32),
        "bool": torch.rand(3, 5, generator=generator) < 0.5,
        "none": torch.zeros(0, 7),
        "scalar": torch.tensor(3),
    }
    state = {"loss": 0.1 + 0.2, "best": inf, "tiny": 5e-324, "rows": [{"epoch": 1}], "note": "α"}
    Checkpoint(tmp_path).save(tensors, state)
    found, found_state = Checkpoint(tmp_path).load()
    assert found_state == state
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_a_checkpoint_may_hold_a_tensor_twice(tmp_path: Path) -> None:
    mask = torch.arange(9) % 2 == 0
    Checkpoint(tmp_path).save({"one": mask, "two": mask}, 0)
    tensors, _ = Checkpoint(tmp_path).load()
    assert torch.equal(tensors["one"], mask)
    assert torch.equal(tensors["two"], mask)


def test_without_a_folder_nothing_is_kept() -> None:
    checkpoint = Checkpoint(interval=0.0)
    assert not checkpoint.due
    checkpoint.save({"weights": torch.ones(3)}, 0)
    assert checkpoint.load() is None


def test_saving_is_due_once_in_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path, interval=5.0)
    start = time.monotonic()
    for seconds, due in ((1, False), (8, True)):
        monkeypatch.setattr(time, "monotonic", lambda now=start + seconds: now)
        assert checkpoint.due is due
    checkpoint.save({}, 0)
    for seconds, due in ((12, False), (14, True)):
        monkeypatch.setattr(time, "monotonic", lambda now=start + seconds: now)
        assert checkpoint.due is due


def test_the_seconds_of_every_session_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for worked, expected in ((1000.0, 1000.0), (500.0, 1500.0), (20.0, 1520.0)):
        checkpoint = Checkpoint(tmp_path)
        checkpoint.load()
        now = time.monotonic()
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda now=now + worked: now)
            assert checkpoint.elapsed == pytest.approx(expected, abs=1)
            checkpoint.save({}, 0)


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save({"weights": torch.ones(100)}, {"epoch": 1})
    whole = checkpoint.path.read_bytes()
    for content in (b"", b"not a checkpoint", whole[:-1], b"\xff" * 8 + whole[8:]):
        checkpoint.path.write_bytes(content)
        with pytest.raises(PsplibError, match=r"checkpoint\.safetensors is damaged.*move it away"):
            Checkpoint(tmp_path).load()
