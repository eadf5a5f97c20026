"""How far neurons tell the class: closed forms, scikit-learn, the paper of the index."""

import math

import pytest
import torch
from sklearn.metrics import mutual_info_score

from psplib.analysis import features, psp


def test_a_state_that_is_the_class_tells_it_and_a_coin_does_not() -> None:
    samples = torch.tensor([100] * 10)
    of_one_class = torch.tensor([100] + [0] * 9)
    coin, always = torch.tensor([50] * 10), torch.tensor([100] * 10)
    bits = features.information(torch.stack([of_one_class, coin, always], 1), samples)
    one_in_ten = -0.1 * math.log2(0.1) - 0.9 * math.log2(0.9)
    assert bits.tolist() == pytest.approx([one_in_ten, 0.0, 0.0], abs=1e-12)


def test_the_index_is_that_of_its_paper() -> None:
    means = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 4.0, 0.0]])
    found = features.selectivity(means.double())
    assert found[:2].tolist() == pytest.approx([1.0, (4 - 1) / (4 + 1)])
    assert math.isnan(found[2]), "never active"


def test_the_probe_counts_what_it_sees_in_any_minibatches() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (200,), generator=generator)
    z = torch.randn(200, 5, generator=generator) + 0.5 * y[:, None]
    z[:, 4] = -1.0
    layer = psp.Layer("relu", 7, torch.arange(5))
    probe = features.Features()
    for part in (slice(0, 60), slice(60, 200)):
        logits = torch.zeros(len(y[part]), 3)
        probe.update(psp.Observation(y[part], logits, (layer,), (z[part],)))
    (found,) = probe.by_layer().values()
    assert (found["neurons"], found["active"]) == (7, 4)
    nats = [mutual_info_score((z[:, i] > 0).tolist(), y.tolist()) for i in range(4)]
    assert found["information"] == pytest.approx(sum(nats) / 4 / math.log(2))
    index = []
    for i in range(4):
        by_class = [float(z[y == c, i].relu().mean()) for c in range(3)]
        a = max(by_class)
        b = (sum(by_class) - a) / 2
        index.append((a - b) / (a + b))
    assert found["selectivity"] == pytest.approx(sum(index) / 4)


def test_a_layer_that_is_never_active_tells_nothing() -> None:
    layer = psp.Layer("relu", 2, torch.arange(2))
    probe = features.Features()
    probe.update(
        psp.Observation(torch.tensor([0, 1]), torch.zeros(2, 2), (layer,), (-torch.ones(2, 2),))
    )
    (found,) = probe.by_layer().values()
    assert found["active"] == 0
    assert (found["information"], found["selectivity"]) == (0.0, 0.0)
