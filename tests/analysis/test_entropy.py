"""Entropies of neurons, pairs and subsets against counting them one by one."""

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from torch import Tensor

from psplib.analysis import entropy, pairs, psp
from psplib.analysis.entropy import Agreement, FirstOrder, SecondOrder, Subsets
from psplib.analysis.psp import Layer, Observation, Probe
from psplib.core.errors import PsplibError
from psplib.nn.data import Data
from psplib.nn.masks import Mask
from psplib.nn.models import build


def seen(states: Tensor, y: Tensor, classes: int = 2, watched: list[int] | None = None):
    """Potentials that have the full `states` (B, N) of a single layer; only `watched` neurons are
    shown."""
    at = torch.arange(states.shape[1]) if watched is None else torch.tensor(watched)
    layer = Layer("relu", states.shape[1], at)
    z = (states[:, at] - 0.5) * torch.linspace(0.1, 3, len(at))
    return Observation(y, torch.zeros(len(y), classes), (layer,), (z,))


def fed(probe: Probe, *observations: Observation) -> Probe:
    for observation in observations:
        probe.update(observation)
    return probe


def cut(observation: Observation, places: list[int]) -> list[Observation]:
    """The minibatches between places; empty ones are left out."""
    edges = sorted({0, *places, len(observation.y)})
    return [
        Observation(
            observation.y[a:b],
            observation.logits[a:b],
            observation.layers,
            tuple(z[a:b] for z in observation.z),
        )
        for a, b in pairwise(edges)
    ]


def both_active(second: SecondOrder, layer: str, label: int) -> Tensor:
    """How many samples of a class have both neurons of a pair active (N, N) int64."""
    tally, expand = second.tallies[layer], second.first.layers[layer].expand
    gram = torch.zeros(tally.neurons, tally.neurons, dtype=torch.int64)
    for _, rows, columns, n11 in tally.blocks(label):
        gram[rows[:, None], columns] = n11.long()
        gram[columns[:, None], rows] = n11.long().t()
    return expand(expand(gram).t())


def joint_entropy(states: np.ndarray) -> float:
    """Bits of the rows of (M, k), from the number of times each is seen."""
    return scipy_entropy(list(Counter(map(tuple, states.tolist())).values()), base=2)


def by_hand(states: np.ndarray, y: np.ndarray, order: int, classes: int = 2) -> np.ndarray:
    """H of each class and subset of neurons (C, subsets)."""
    members = list(combinations(range(states.shape[1]), order))
    return np.array(
        [[joint_entropy(states[y == c][:, list(m)]) for m in members] for c in range(classes)]
    )


def agreement_by_hand(states: np.ndarray, y: np.ndarray, classes: int = 2) -> list[float]:
    """The definition, with the matrix of all pairs."""
    values = []
    n = states.shape[1]
    for c in range(classes):
        own = states[y == c].astype(bool)
        agree = (own[:, :, None] == own[:, None, :]).mean(0)
        f = np.tril(agree).sum() / (n**2 / 2)
        values.append(0.0 if f >= 1 else -(1 - f) * np.log2(1 - f))
    return values


@st.composite
def binary_states(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[int], list[int]]:
    """States (B, N) with constant, duplicate and complementary neurons among them, labels of two
    classes, the neurons watched (the others are off), places to cut."""
    samples, neurons = draw(st.integers(2, 14)), draw(st.integers(3, 6))
    y = torch.tensor(draw(st.lists(st.integers(0, 1), min_size=samples, max_size=samples)))
    y[0], y[-1] = 0, 1
    columns: list[Tensor] = []
    for kind in draw(st.lists(st.sampled_from("roidc"), min_size=neurons, max_size=neurons)):
        if kind == "o" or kind == "i":
            columns.append(torch.full((samples,), float(kind == "i")))
        elif kind == "r" or not columns:
            bits = st.lists(st.integers(0, 1), min_size=samples, max_size=samples)
            columns.append(torch.tensor(draw(bits)).float())
        else:
            columns.append(columns[-1] if kind == "d" else 1 - columns[-1])
    watched = draw(st.lists(st.integers(0, neurons - 1), min_size=1, unique=True))
    states = torch.stack(columns, 1)
    off = torch.ones(neurons, dtype=torch.bool)
    off[watched] = False
    states[:, off] = 0
    places = draw(st.lists(st.integers(1, samples - 1), max_size=4))
    return states, y, watched, places


@pytest.fixture(params=["states kept", "states settled", "float32 products"])
def settling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SecondOrder` with blocks that a small layer does not fit in, and with counts early on."""
    monkeypatch.setattr(pairs, "BLOCK", 2)
    if request.param == "float32 products":
        monkeypatch.setattr(pairs, "INTEGER_PRODUCTS", ())
    if request.param == "states settled":
        monkeypatch.setattr(pairs, "KEPT", 0)


@pytest.mark.usefixtures("settling")
@given(binary_states())
def test_every_entropy_is_that_of_counting_by_hand(
    case: tuple[Tensor, Tensor, list[int], list[int]],
) -> None:
    states, y, watched, places = case
    batches = cut(seen(states, y, watched=watched), places)
    n, s, labels = states.shape[1], states.numpy(), y.numpy()
    first, second = fed(FirstOrder(), *batches), fed(SecondOrder(), *batches)
    one, two, three = (by_hand(s, labels, order) for order in (1, 2, 3))
    np.testing.assert_allclose(first.neurons()["relu"], one, atol=1e-12)
    np.testing.assert_allclose(first.entropy().by_class["relu"], one.mean(1), atol=1e-12)
    found = second.entropies()
    assert found.keys() == {"joint", "mutual", "agreement"}
    np.testing.assert_allclose(found["joint"].by_class["relu"], two.mean(1), atol=1e-12)
    sums = np.array([[h[i] + h[j] for i, j in combinations(range(n), 2)] for h in one])
    mutual = (sums - two).mean(1)
    np.testing.assert_allclose(found["mutual"].by_class["relu"], mutual, atol=1e-12)
    agreement = agreement_by_hand(s, labels)
    np.testing.assert_allclose(found["agreement"].by_class["relu"], agreement, atol=1e-12)
    alone = fed(Agreement(), *batches).entropy()
    assert torch.equal(alone.by_class["relu"], found["agreement"].by_class["relu"])
    for order, values in ((1, one), (2, two), (3, three)):
        triples = fed(Subsets(order), *batches).entropy()
        np.testing.assert_allclose(triples.by_class["relu"], values.mean(1), atol=1e-12)
        assert triples.error == 0
    for c in (0, 1):
        own = s[labels == c].astype(int)
        np.testing.assert_array_equal(both_active(second, "relu", c), own.T @ own)


def all_counts(probe: Probe) -> list[Tensor]:
    """Every integer a probe holds."""
    if isinstance(probe, SecondOrder):
        pairs = [both_active(probe, "relu", c) for c in range(len(probe.first.samples))]
        return all_counts(probe.first) + all_counts(probe.agreement) + pairs
    return [probe.samples, probe.counts["relu"]]


PROBES = (FirstOrder, Agreement, SecondOrder, lambda: Subsets(2, limit=4))


@pytest.mark.usefixtures("settling")
@pytest.mark.parametrize("make", PROBES)
@given(binary_states(), st.randoms())
def test_neither_cuts_nor_their_order_matter(make, case, random) -> None:
    states, y, watched, places = case
    whole = fed(make(), seen(states, y, watched=watched))
    batches = cut(seen(states, y, watched=watched), places)
    random.shuffle(batches)
    for count, expected in zip(all_counts(fed(make(), *batches)), all_counts(whole), strict=True):
        assert torch.equal(count, expected)


def test_closed_forms() -> None:
    """Four samples of each class; in both, the neurons are constant, balanced, its duplicate, its
    complement, and independent of it."""
    states = torch.tensor(
        [[0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 1, 1], [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 1]]
    )
    observation = seen(states.repeat(2, 1).float(), torch.tensor([0] * 4 + [1] * 4))
    bits = fed(FirstOrder(), observation).neurons()["relu"]
    assert bits.tolist() == [[0, 0, 1, 1, 1, 1]] * 2
    second = fed(SecondOrder(), observation)
    found = second.entropies()
    # 1 pair of constants; 2 x 4 of a constant and a balanced one; 3 of equals; 3 of independents.
    assert found["joint"].by_layer == {"relu": pytest.approx(2 * (0 + 8 + 3 + 6) / 15, abs=1e-14)}
    assert found["mutual"].by_layer == {"relu": pytest.approx(2 * 3 / 15, abs=1e-14)}
    corrected = fed(FirstOrder(), observation).neurons(miller_madow=True)["relu"]
    excess = 1 / (2 * 4 * np.log(2))
    assert corrected[0].tolist() == pytest.approx([0, 0, *[1 + excess] * 4], abs=1e-15)
    joint = second.entropies(miller_madow=True)["joint"].by_class["relu"][1]
    expected = 8 * (1 + excess) + 3 * (1 + excess) + 3 * (2 + 3 * excess)
    assert float(joint) == pytest.approx(expected / 15, abs=1e-14)
    triples = fed(Subsets(2), observation).entropy(miller_madow=True)
    assert float(triples.by_class["relu"][1]) == pytest.approx(expected / 15, abs=1e-14)


@pytest.mark.parametrize("state", [0.0, 1.0])
def test_neurons_that_always_agree_have_no_entropy_of_any_kind(state: float) -> None:
    observation = seen(torch.full((6, 3), state), torch.tensor([0, 1] * 3))
    for found in fed(SecondOrder(), observation).entropies().values():
        assert found.mean == 0
    assert fed(Agreement(), observation).entropy().by_class["relu"].tolist() == [0, 0]


def test_counts_are_exact_beyond_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "KEPT", 1000)
    second = SecondOrder()
    states = torch.tensor([[1.0, 1, 0], [1, 0, 1]]).repeat(500, 1)
    for _ in range(70):
        second.update(seen(states, torch.zeros(1000, dtype=torch.int64), classes=1))
    gram = torch.tensor([[2, 1, 1], [1, 1, 0], [1, 0, 1]])
    assert torch.equal(both_active(second, "relu", 0), 35_000 * gram)
    assert second.entropies()["joint"].mean == pytest.approx(1, abs=1e-14)


def test_more_samples_than_32_bits_hold_are_refused() -> None:
    second = fed(SecondOrder(), seen(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)))
    second.first.samples += 2**31 - 5
    with pytest.raises(PsplibError, match="counted up to 2147483647 samples of a class"):
        second.update(seen(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)))


def test_memory_does_not_grow_with_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "KEPT", 64)
    second, sizes = SecondOrder(), []
    states = (torch.rand(50, 20, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    for _ in range(40):
        second.update(seen(states, torch.arange(50) % 2))
        tally = second.tallies["relu"]
        held = [*tally.packed, *tally.labels, *tally.grams.values()]
        sizes.append(sum(t.numel() * t.element_size() for t in held))
    # States of 64 samples, each of 3 bytes and a label of 8; counts of 2 x 20 x 20 in 2 bytes.
    assert max(sizes) <= 64 * 11 + 2 * 20 * 20 * 2 + 100
    assert max(sizes[20:]) == max(sizes[:20])


def test_a_sample_of_subsets_estimates_all_of_them_and_its_own_error() -> None:
    generator = torch.Generator().manual_seed(3)
    frequency = torch.rand(12, generator=generator)
    states = (torch.rand(200, 12, generator=generator) < frequency).float()
    observation = seen(states, torch.arange(200) % 2)
    everything = fed(Subsets(3, limit=220), observation).entropy()
    assert everything.error == 0
    found = [fed(Subsets(3, limit=100, seed=s), observation).entropy() for s in range(60)]
    means, errors = np.array([f.mean for f in found]), np.array([f.error for f in found])
    assert abs(means.mean() - everything.mean) < 4 * means.std() / np.sqrt(60)
    assert 0.75 < means.std() / errors.mean() < 1.3
    again = fed(Subsets(3, limit=100, seed=0), observation).entropy()
    assert again.mean == found[0].mean != found[1].mean


def test_subsets_are_drawn_uniformly() -> None:
    probe = Subsets(2, limit=4000)
    drawn = probe._draw(Layer("relu", 100, torch.arange(100)))
    assert drawn.shape == (4000, 2)
    assert bool((drawn[:, 0] != drawn[:, 1]).all())
    assert int(drawn.min()) == 0
    assert int(drawn.max()) == 99
    times = drawn.flatten().bincount()  # 80 each; the standard deviation is 8.9
    assert int(times.min()) > 45
    assert int(times.max()) < 120
    few = Subsets(4, limit=10)._draw(Layer("relu", 6, torch.arange(6)))
    assert all(len(set(row)) == 4 for row in few.tolist())


def test_layers_are_averaged_with_their_errors() -> None:
    bits = {"a": torch.tensor([1.0, 0.5]), "b": torch.tensor([0.0, 0.5])}
    found = entropy.Entropy(bits, {"a": 0.3, "b": 0.4})
    assert found.by_layer == {"a": 1.5, "b": 0.5}
    assert found.mean == 1
    assert found.error == pytest.approx(0.25)


def test_a_pruned_network_in_the_coordinates_of_the_full_one(tiny: Data) -> None:
    """Against the plain states of the whole network, of which little is left."""
    model = build("lenet-5", 0)
    dense, generator = Mask.dense(model), torch.Generator().manual_seed(0)
    density = {"conv1": 0.01, "conv2": 0.005, "fc1": 0.002, "fc2": 0.1}
    parts = [
        torch.rand(m.numel(), generator=generator) < density[n[: n.index(".")]]
        for n, m in dense.items()
    ]
    mask = dense.with_flat(torch.cat(parts))
    mask.apply_(model)
    first, second, sample = FirstOrder(), SecondOrder(), Subsets(2, limit=300)
    psp.observe(model, tiny.train, first, second, sample, mask=mask, batch=37)
    joint, y = second.entropies()["joint"], tiny.train.y
    relus = [name for name, _ in model.named_children()]
    for name, layer in first.layers.items():
        assert len(layer.watched) < layer.neurons
        with torch.no_grad():
            states = (model[: relus.index(name)](tiny.train.x) > 0).flatten(1).float()
        own = [states[y == c] for c in range(10)]
        assert torch.equal(first.neurons()[name] > 0, torch.stack([s.std(0) > 0 for s in own]))
        if name != "relu3":
            continue
        total = torch.zeros(500, 500, dtype=torch.float64)
        for s in own:
            n11 = s.t() @ s
            n1 = n11.diagonal()
            for cell in (n11, n1[:, None] - n11, n1 - n11, len(s) - n1[:, None] - n1 + n11):
                total += torch.special.entr(cell.double() / len(s)) / np.log(2)
        mean = float(total.triu(1).sum()) / (500 * 499 / 2)
        assert joint.by_layer[name] == pytest.approx(mean, abs=1e-12)
        assert first.neurons()[name].sum(0) == pytest.approx(total.diagonal(), abs=1e-12)
    sampled = sample.entropy()
    for name, value in sampled.by_layer.items():
        assert 0 < abs(value - joint.by_layer[name]) < 4 * sampled.errors[name]


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="there is no CUDA device; the same counts are tested on the CPU above",
)
def test_counts_are_the_same_on_a_gpu() -> None:
    states = (torch.rand(999, 300, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    y = torch.arange(999) % 2
    for make in PROBES:
        here, there = fed(make(), seen(states, y)), fed(make(), seen(states.cuda(), y.cuda()))
        for a, b in zip(all_counts(here), all_counts(there), strict=True):
            assert torch.equal(a, b.cpu())


def test_dit_agrees() -> None:
    dit = pytest.importorskip("dit")
    states = (torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    seen_once = seen(states, torch.zeros(40, dtype=torch.int64), classes=1)
    rows = Counter("".join(map(str, row)) for row in states.int().tolist())
    distribution = dit.Distribution(list(rows), [count / 40 for count in rows.values()])
    triple = fed(Subsets(3), seen_once).entropy().mean
    assert triple == pytest.approx(dit.shannon.entropy(distribution), abs=1e-12)
    mutual = [
        dit.shannon.mutual_information(distribution, [i], [j]) for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    found = fed(SecondOrder(), seen_once).entropies()["mutual"].mean
    assert found == pytest.approx(np.mean(mutual), abs=1e-12)


LOW, HIGH = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize("make", PROBES)
def test_no_data_and_an_absent_class_are_named(make) -> None:
    def entropies(probe: Probe) -> object:
        return probe.entropies() if isinstance(probe, SecondOrder) else probe.entropy()

    with pytest.raises(PsplibError, match="has seen no data"):
        entropies(make())
    with pytest.raises(PsplibError, match=r"every class; there is none of 0, 2\.$"):
        entropies(fed(make(), seen(LOW, torch.ones_like(HIGH), classes=3)))


@pytest.mark.parametrize("make", PROBES)
@pytest.mark.parametrize(
    "other",
    [
        seen(torch.zeros(4, 5), HIGH),
        seen(LOW, HIGH, watched=[0, 2]),
        seen(LOW, HIGH, classes=3),
    ],
    ids=["other size", "other mask", "other classes"],
)
def test_a_probe_is_of_one_network(make, other: Observation) -> None:
    probe = fed(make(), seen(LOW, HIGH))
    with pytest.raises(PsplibError, match="one network under one mask"):
        probe.update(other)


def test_bad_subsets_are_refused() -> None:
    with pytest.raises(PsplibError, match="order must be a whole number of at least 1; got 0"):
        Subsets(0)
    with pytest.raises(PsplibError, match="order must be at most 12"):
        Subsets(13)
    with pytest.raises(PsplibError, match="limit must be a whole number of at least 2; got 1"):
        Subsets(2, limit=1)
    with pytest.raises(PsplibError, match=r"order 4 needs .*; relu has 3"):
        Subsets(4).update(seen(LOW, HIGH))
    with pytest.raises(PsplibError, match=r"order 2 needs .*; relu has 1"):
        fed(SecondOrder(), seen(LOW[:, :1], HIGH)).entropies()
