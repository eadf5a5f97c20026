"""Learning by PSP-entropy: the reward is the exact entropy, its gradient the soft surrogate's."""

import math

import pytest
import torch
from torch import Tensor, nn

from psplib.analysis import entropy, psp
from psplib.core.errors import PsplibError
from psplib.experiments.entropy_learning import forward
from psplib.nn import models
from psplib.nn.data import Data
from psplib.training.entropy_learning import (
    LEAST_RATE,
    EntropyTerm,
    bits,
    mutual,
    ramp,
    random_pairs,
    soft_states,
    states,
)


def made(n: int = 60, neurons: tuple[int, ...] = (7, 4)) -> tuple[list[Tensor], Tensor]:
    y = torch.arange(n) % 3
    shift = torch.randn(3, 1)
    return [torch.randn(n, k, dtype=torch.float64) + shift[y] for k in neurons], y


def test_the_first_value_is_the_exact_entropy_of_the_minibatch(tiny: Data) -> None:
    """Of a network, against the probe that the census is made of."""
    model = models.build("lenet-300", 0)
    probe = entropy.FirstOrder()
    psp.observe(model, tiny.train, probe)
    caught: list[Tensor] = []
    for name in ("relu1", "relu2"):
        model.get_submodule(name).register_forward_pre_hook(lambda _, x: caught.append(x[0]))
    model(tiny.train.x)
    term = EntropyTerm(10)(caught, tiny.train.y)
    exact = torch.cat([e.sum(0) for e in probe.neurons().values()])
    assert term.item() == pytest.approx(float(exact.mean()) / 10, rel=1e-5)


def test_the_gradient_is_that_of_the_soft_surrogate() -> None:
    """Finite differences of the entropy's linearisation in the soft rates, spread held fixed."""
    (z,), y = made(neurons=(5,))
    z.requires_grad_()
    EntropyTerm(3, temperature=0.7)([z], y).backward()
    spread = z.detach().std(0, correction=0)
    rates = torch.stack([(z > 0).double()[y == c].mean(0) for c in range(3)])
    near = rates.clamp(LEAST_RATE, 1 - LEAST_RATE)
    slope = torch.log2((1 - near) / near)

    def surrogate(at: Tensor) -> float:
        soft = torch.sigmoid(at / (0.7 * spread))
        mean = torch.stack([soft[y == c].mean(0) for c in range(3)])
        return float((slope * mean).sum() / (3 * 5))

    for i, k in ((0, 0), (7, 3), (59, 4)):
        step = torch.zeros_like(z)
        step[i, k] = 1e-5
        numeric = (surrogate(z.detach() + step) - surrogate(z.detach() - step)) / 2e-5
        assert float(z.grad[i, k]) == pytest.approx(numeric, rel=1e-6)


def test_of_second_order_the_mutual_information_of_the_minibatch_is_taken_off(tiny: Data) -> None:
    """Of all pairs, against the probe that the census is made of; and by the term, of those drawn,
    where all are alike."""
    model, probe = models.build("lenet-300", 0), entropy.SecondOrder()
    psp.observe(model, tiny.train, probe)
    _, potentials = forward(model, tiny.train.x)
    onehot = nn.functional.one_hot(tiny.train.y, 10).float()
    means = []
    for z in potentials:
        i, j = torch.triu_indices(z.shape[1], z.shape[1], 1)
        s = states(z, 1.0).T
        means.append(mutual(s[i], s[j], onehot).sum(1).mean().item())
    exact = probe.entropies()["mutual"].mean
    assert sum(means) / len(means) == pytest.approx(exact, abs=1e-5)

    y = torch.arange(60) % 3
    (z,) = made(neurons=(1,))[0]
    copies = z.expand(-1, 4)
    first = float(EntropyTerm(3)([copies], y))
    assert float(EntropyTerm(3, pairs=9)([copies], y)) == pytest.approx(0, abs=1e-12)
    assert first > 0.1, "copies have entropy, each by itself"


def test_the_gradient_of_second_order_is_that_of_the_soft_surrogate() -> None:
    (z,), y = made(n=300, neurons=(4,))
    z.requires_grad_()
    onehot = nn.functional.one_hot(y, 3).double()
    i, j = torch.tensor([0, 0, 2]), torch.tensor([1, 3, 3])
    mutual(states(z, 0.7).T[i], states(z, 0.7).T[j], onehot).sum().backward()
    spread, hard = z.detach().std(0, correction=0), (z > 0).double()

    def cells(s: Tensor) -> list[Tensor]:
        a, b = s[:, i], s[:, j]
        parts = [a, 1 - a, b, 1 - b, a * b, a * (1 - b), (1 - a) * b, (1 - a) * (1 - b)]
        return [onehot.T @ part / onehot.sum(0)[:, None] for part in parts]

    rates = [p.clamp_min(LEAST_RATE) for p in cells(hard)]

    def surrogate(at: Tensor) -> float:
        """The linearisation at the hard rates; a product's slope is the other's hard state."""
        soft = torch.sigmoid(at / (0.7 * spread)) - torch.sigmoid(z.detach() / (0.7 * spread))
        total = 0.0
        for sign, p, q in zip([1] * 4 + [-1] * 4, rates, moved(soft), strict=True):
            total += sign * float((-p.log2() * q).sum())
        return total

    def moved(soft: Tensor) -> list[Tensor]:
        a, b, da, db = hard[:, i], hard[:, j], soft[:, i], soft[:, j]
        both = da * b + a * db
        parts = [da, -da, db, -db, both, da - both, db - both, both - da - db]
        return [onehot.T @ part / onehot.sum(0)[:, None] for part in parts]

    for row, k in ((0, 0), (7, 3), (59, 2)):
        step = torch.zeros_like(z)
        step[row, k] = 1e-5
        numeric = (surrogate(z.detach() + step) - surrogate(z.detach() - step)) / 2e-5
        assert float(z.grad[row, k]) == pytest.approx(numeric, rel=1e-5)


def test_pairs_are_of_two_different_living_neurons() -> None:
    alive = torch.tensor([True, False, True, True])
    left, right = random_pairs(alive, 300, torch.Generator().manual_seed(0))
    assert {*left.tolist()} == {*right.tolist()} == {0, 2, 3}
    assert not bool((left == right).any())


def test_states_are_hard_forward_and_soft_backward() -> None:
    z = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)
    s = states(z, 1.0)
    assert torch.equal(s.detach(), (z > 0).double())
    (hard,) = torch.autograd.grad(s.sum(), z)
    (soft,) = torch.autograd.grad(soft_states(z, 1.0).sum(), z)
    assert torch.equal(hard, soft)


def test_scaling_the_potentials_of_a_neuron_gains_nothing() -> None:
    potentials, y = made()
    for z in potentials:
        z.requires_grad_()
    term = EntropyTerm(3)(potentials, y)
    larger = EntropyTerm(3)([1000 * z for z in potentials], y)
    assert larger.item() == pytest.approx(term.item(), abs=1e-12)


def test_bits_are_exact_and_their_slope_is_bounded() -> None:
    p = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    found = bits(p)
    expected = [0.0, 0.25 * 2 + 0.75 * math.log2(4 / 3), 1.0, 0.0]
    assert found.tolist() == pytest.approx(expected, abs=1e-15)
    found.sum().backward()
    most = math.log2((1 - LEAST_RATE) / LEAST_RATE)
    assert p.grad.tolist() == pytest.approx([most, math.log2(3), 0.0, -most])


def test_rates_are_averaged_over_minibatches_and_a_class_that_is_not_there_keeps_its_own() -> None:
    term = EntropyTerm(3, rate=0.25)
    (z,), y = made(neurons=(5,))
    term([z], y)
    first = term.rates[0]
    keep = y != 1
    term([-z[keep]], y[keep])
    new = torch.stack([(-z > 0).double()[y == c].mean(0) for c in range(3)])
    assert torch.allclose(term.rates[0][0], 0.75 * first[0] + 0.25 * new[0])
    assert torch.equal(term.rates[0][1], first[1])


def test_controls_see_no_class_or_a_meaningless_one() -> None:
    y = torch.arange(100) % 2
    z = (2.0 * y - 1)[:, None]  # tells the classes apart: no entropy, given the class
    assert float(EntropyTerm(2)([z], y)) == 0
    assert float(EntropyTerm(2, "none")([z], y)) == pytest.approx(1)
    permuted = EntropyTerm(2, "permuted")([z], y, torch.Generator().manual_seed(0))
    assert float(permuted) == pytest.approx(1, abs=0.1)


def test_dead_neurons_do_not_count_and_a_dead_network_is_named() -> None:
    (z,), y = made(neurons=(5,))
    dead = torch.cat([z, torch.zeros(60, 3)], 1)
    assert float(EntropyTerm(3)([dead], y)) == float(EntropyTerm(3)([z], y))
    with pytest.raises(PsplibError, match="No neuron is alive"):
        EntropyTerm(3)([torch.zeros(60, 3)], y)


@pytest.mark.parametrize("gamma", [math.nan, math.inf, -math.inf])
def test_a_gamma_that_is_not_finite_is_refused(gamma: float) -> None:
    with pytest.raises(PsplibError, match="gamma must be finite; got"):
        ramp(gamma, 1, 5, 10)


def test_bad_terms_are_named() -> None:
    with pytest.raises(PsplibError, match="labels must be one of classes, none, permuted"):
        EntropyTerm(3, "some")
    with pytest.raises(PsplibError, match="temperature must be above 0; got 0"):
        EntropyTerm(3, temperature=0)
