"""The engines on networks that are not ours: rewritten only where the form is the network."""

import copy

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, NOT, REFUSED, mlp, samples
from torch import nn

from psplib.core.errors import PsplibError
from psplib.nn.batched import Unstackable
from psplib.nn.data import Data, Split
from psplib.nn.masks import Mask
from psplib.training import engines
from psplib.training.engines import CompactTrainer, StackedTrainer
from psplib.training.fit import order
from psplib.training.trainer import flat
from psplib.training.update import Sgd

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def make(name: str) -> nn.Module:
    torch.manual_seed(3)
    return NETWORKS[name]().double().train()


def data(name: str) -> Data:
    torch.manual_seed(4)
    splits = (samples(name, count) for count in (30, 11, 5))
    return Data("own", "tiny", "0" * 64, (0.0,), (1.0,), *splits)


def half(model: nn.Module) -> Mask:
    generator, dense = torch.Generator().manual_seed(5), Mask.dense(model)
    return dense.with_flat(torch.rand(len(dense.flat), generator=generator) < 0.5)


def epoch_of_torch(model: nn.Module, mask: Mask, train: Split) -> None:
    """Written out: SGD, the mask after every step."""
    sgd = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.02)
    mask.apply_(model)
    for rows in order(len(train), 0, 1).split(7):
        sgd.zero_grad()
        F.cross_entropy(model(train.x[rows]), train.y[rows]).backward()
        for p in model.parameters():  # PyTorch leaves alone what has none
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad.to_dense()
        sgd.step()
        mask.apply_(model)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_engine_trains_the_network_itself_or_refuses_it(name: str) -> None:
    model, own = make(name), data(name)
    mask, x = half(model), own.validation.x.clone()
    sgd = Sgd(0.1, 0.9, 0.02)
    if message := NOT.get(name, {}).get("in a form"):
        with pytest.raises(PsplibError, match=message):
            CompactTrainer(model, [mask], own, 7).epoch([order(30, 0, 1)], [sgd])
        return
    oracle, numbers = make(name), torch.get_rng_state()
    engine = CompactTrainer(model, [mask], own, 7)
    assert torch.equal(torch.get_rng_state(), numbers)
    engine.epoch([order(30, 0, 1)], [sgd])
    torch.set_rng_state(numbers)
    epoch_of_torch(oracle, mask, own.train)
    torch.testing.assert_close(engine.weights[0], flat(oracle), rtol=1e-6, atol=1e-9)
    oracle.eval()
    with torch.no_grad():
        loss = F.cross_entropy(oracle(x.clone()), own.validation.y)
    assert engine.scores("validation")[0].loss == pytest.approx(float(loss), rel=1e-6)
    assert torch.equal(own.validation.x, x)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_right_value_is_refused(name: str) -> None:
    make_it, message = REFUSED[name]
    model, own = make_it(), data("nested")
    model = model if name == "lazy" else model.double()
    mask = Mask(torch.ones(0) > 0, ()) if name == "lazy" else Mask.dense(model)
    with pytest.raises(PsplibError, match=message):
        CompactTrainer(model, [mask], own, 7)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("density", [0.3, 0.05])
def test_a_chain_that_pools_over_the_border_is_trained_as_it_is(ceil: bool, density: float) -> None:
    def chain() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(
            *(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=ceil)),
            *(nn.Conv2d(6, 6, 2), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=ceil), nn.Flatten()),
            nn.LazyLinear(3),
        )

    own = data("ceil mode")
    model, oracle = chain(), chain()
    for one in (model, oracle):
        torch.manual_seed(2)
        one(own.train.x.float())
        one.double()
    dense = Mask.dense(model)
    mask = dense.with_flat(torch.rand(len(dense.flat)) < density)
    engine = CompactTrainer(model, [mask], own, 7)
    assert not engine._is_plain
    assert len(engine.compact.index) < len(dense.flat) or density == 0.3
    engine.epoch([order(30, 0, 1)], [Sgd(0.1, 0.9, 0.02)])
    epoch_of_torch(oracle, mask, own.train)
    torch.testing.assert_close(engine.weights[0], flat(oracle), rtol=1e-6, atol=1e-9)


class Halved(nn.Module):
    """A ReLU that passes, and teaches, half of what it should."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x) / 2


class Deaf(nn.Module):
    """A ReLU that puts out what it should, and teaches nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x).detach() + 0 * x


@pytest.mark.parametrize("wrong", [Halved, Deaf])
def test_a_form_that_is_another_network_is_not_taken(
    wrong: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its outputs, or by its gradient only."""
    own, model = data("nested"), nn.Sequential(*mlp(nn.Identity())).double()
    mask = half(model)
    oracle = copy.deepcopy(model)

    def badly(model: nn.Module) -> nn.Module:
        layers = [wrong() if type(m) is nn.ReLU else m for m in model]
        return nn.Sequential(*layers)

    monkeypatch.setattr(engines, "pool_first", badly)
    engine = CompactTrainer(model, [mask], own, 7)
    assert engine._is_plain
    engine.epoch([order(30, 0, 1)], [Sgd(0.1, 0.9, 0.02)])
    epoch_of_torch(oracle, mask, own.train)
    torch.testing.assert_close(engine.weights[0], flat(oracle), rtol=1e-6, atol=1e-9)
    with pytest.raises(Unstackable, match="would be others"):
        StackedTrainer(model, [mask, Mask.dense(model)], own, 7)


def test_where_networks_cannot_be_stacked_they_are_trained_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "stacks", lambda device: True)
    own = data("LayerNorm")
    model = make("LayerNorm")
    places = engines.trainers(model, [half(model), Mask.dense(model)], own, 7)
    assert [type(one) for one, _ in places] == [CompactTrainer, CompactTrainer]
    assert [number for _, number in places] == [0, 0]
    plain = nn.Sequential(*mlp()).double()
    ((team, _), _) = engines.trainers(plain, [half(plain), Mask.dense(plain)], own, 7)
    assert type(team) is StackedTrainer


@pytest.mark.parametrize("density", [1.0, 0.3, 0.05])
@pytest.mark.parametrize("name", ["lenet-300", "lenet-5", "resnet-8"])
def test_our_own_networks_are_rewritten(
    name: str, density: float, tiny: Data, tiny_colour: Data
) -> None:
    from psplib.nn.models import build

    model = build(name, 0)
    generator, dense = torch.Generator().manual_seed(1), Mask.dense(model)
    mask = dense.with_flat(torch.rand(len(dense.flat), generator=generator) < density)
    own = tiny_colour if name == "resnet-8" else tiny
    engine = CompactTrainer(model, [mask], own, 10)
    assert not engine._is_plain
