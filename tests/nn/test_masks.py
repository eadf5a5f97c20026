"""Masks against counts by hand, brute force and frequencies."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from psplib.core.errors import PsplibError
from psplib.nn.masks import Mask, magnitude, nest, pack_bits, random_structure, unpack_bits
from psplib.nn.models import build


def net(*sizes: int) -> nn.Sequential:
    return nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise(sizes)])


DENSE = Mask.dense(net(4, 3, 2))  # 12 weights, 3 biases, 6 weights, 2 biases
flats = st.lists(st.booleans(), min_size=23, max_size=23).map(torch.tensor)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["lenet-300", "lenet-5", "resnet-8"])
def test_a_dense_mask_covers_every_parameter_in_order(name: str) -> None:
    model = build(name, 0)
    mask = Mask.dense(model)
    assert mask.shapes == tuple((n, tuple(p.shape)) for n, p in model.named_parameters())
    assert mask.kept == len(mask.flat) == sum(p.numel() for p in model.parameters())
    assert mask.sparsity == mask.weight_sparsity == 0


@given(flats)
def test_sparsity_counts_everything_and_weight_sparsity_no_biases(flat: torch.Tensor) -> None:
    mask = DENSE.with_flat(flat)
    pruned = [not kept for kept in flat.tolist()]
    assert mask.kept == 23 - sum(pruned)
    assert mask.sparsity == pytest.approx(sum(pruned) / 23)
    assert mask.weight_sparsity == pytest.approx(sum(pruned[:12] + pruned[15:21]) / 18)


def test_the_weights_counted_in_a_resnet_are_those_of_convolutions_and_the_last_layer() -> None:
    model = build("resnet-8", 0)
    dense = Mask.dense(model)
    marks = [
        torch.full_like(p, not isinstance(m, nn.BatchNorm2d) and p.ndim > 1, dtype=torch.bool)
        for m in model.modules() for p in m.parameters(recurse=False)
    ]  # fmt: skip
    only_weights = dense.with_flat(torch.cat([m.flatten() for m in marks]))
    assert only_weights.weight_sparsity == 0
    assert only_weights.sparsity > 0
    assert dense.with_flat(~only_weights.flat).weight_sparsity == 1


def test_items_are_views_in_each_parameters_shape() -> None:
    mask = DENSE.with_flat(torch.arange(23) % 3 == 0)
    items = dict(mask.items())
    assert {n: tuple(m.shape) for n, m in items.items()} == dict(DENSE.shapes)
    assert torch.equal(torch.cat([m.flatten() for m in items.values()]), mask.flat)
    items["1.weight"].zero_()
    assert mask.flat[15:21].tolist() == [False] * 6


@given(flats)
def test_applying_a_mask_zeroes_what_it_prunes_and_nothing_else(flat: torch.Tensor) -> None:
    model = net(4, 3, 2)
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    for _ in range(2):
        DENSE.with_flat(flat).apply_(model)
        after = nn.utils.parameters_to_vector(model.parameters()).detach()
        np.testing.assert_array_equal(after, np.where(flat, before, 0))


@pytest.mark.parametrize("other", [net(4, 3), net(2, 2, 2, 2, 2), net(3, 4, 1), nn.Linear(22, 1)])
def test_a_mask_is_refused_by_another_architecture(other: nn.Module) -> None:
    before = nn.utils.parameters_to_vector(other.parameters()).detach()
    with pytest.raises(PsplibError, match="another architecture"):
        DENSE.with_flat(torch.zeros(23, dtype=torch.bool)).apply_(other)
    assert torch.equal(nn.utils.parameters_to_vector(other.parameters()), before)


@pytest.mark.parametrize(
    ("flat", "got"),
    [
        (torch.ones(22, dtype=torch.bool), "bool of shape \\(22,\\)"),
        (torch.ones(1, 23, dtype=torch.bool), "bool of shape \\(1, 23\\)"),
        (torch.ones(23), "float32 of shape \\(23,\\)"),
    ],
)
def test_a_vector_that_is_no_mask_is_refused_with_its_shape(flat: torch.Tensor, got: str) -> None:
    with pytest.raises(PsplibError, match=f"23 parameters.*got torch.{got}"):
        DENSE.with_flat(flat)


def kept_by_parameter(mask: Mask) -> list[int]:
    return [int(m.sum()) for _, m in mask.items()]


@given(flats, st.sampled_from(["layer", "global"]), st.integers(0, 9))
def test_a_random_structure_has_exactly_the_requested_counts(
    flat: torch.Tensor, scope: str, seed: int
) -> None:
    mask = DENSE.with_flat(flat.clone())
    drawn = random_structure(mask, scope, rng(seed))
    assert drawn.kept == mask.kept
    if scope == "layer":
        assert kept_by_parameter(drawn) == kept_by_parameter(mask)
    assert torch.equal(drawn.flat, random_structure(mask, scope, rng(seed)).flat)
    assert torch.equal(mask.flat, flat)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_random_structures_of_a_real_network_differ_between_seeds(scope: str) -> None:
    dense = Mask.dense(build("lenet-300", 0))
    mask = dense.with_flat(torch.arange(len(dense.flat)) < 10_000)
    one, other = (random_structure(mask, scope, rng(seed)) for seed in (0, 1))
    # All survivors are in the first layer; two independent draws of k from n share about k²/n.
    shared = 10_000**2 / (784 * 300 if scope == "layer" else len(dense.flat))
    assert int((one.flat & other.flat).sum()) == pytest.approx(shared, rel=0.2)
    assert (kept_by_parameter(one) == kept_by_parameter(mask)) == (scope == "layer")


@pytest.mark.parametrize(("scope", "structures"), [("layer", 6 * 2), ("global", 20)])
def test_every_structure_of_a_count_is_equally_likely(scope: str, structures: int) -> None:
    dense = Mask.dense(net(2, 2))  # 2 of 4 weights and 1 of 2 biases; or 3 of all 6
    mask = dense.with_flat(torch.tensor([True, True, False, False, True, False]))
    generator = rng(0)
    counts = Counter(
        tuple(random_structure(mask, scope, generator).flat.tolist())
        for _ in range(200 * structures)
    )
    assert len(counts) == structures
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.01


def test_an_unknown_scope_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PsplibError, match="layer, global; got 'local'"):
        random_structure(DENSE, "local", rng(0))


@given(st.lists(st.integers(-3, 3), min_size=23, max_size=23), flats, st.data())
def test_magnitude_keeps_the_largest_survivors_and_of_equals_the_first(
    weights: list[int], flat: torch.Tensor, draw: st.DataObject
) -> None:
    mask = DENSE.with_flat(flat)
    kept = draw.draw(st.integers(0, mask.kept))
    survivors = np.flatnonzero(flat)
    size = -np.abs(np.array(weights))[survivors]
    expected = survivors[np.argsort(size, kind="stable")][:kept]
    found = magnitude(torch.tensor(weights, dtype=torch.float32, requires_grad=True), mask, kept)
    assert sorted(expected) == np.flatnonzero(found.flat).tolist()


@pytest.mark.parametrize("kept", [-1, 23])
def test_magnitude_cannot_keep_more_than_survive(kept: int) -> None:
    mask = DENSE.with_flat(torch.arange(23) > 0)
    with pytest.raises(PsplibError, match=f"between 0 and 22.*got {kept}"):
        magnitude(torch.ones(23), mask, kept)
    assert magnitude(torch.zeros(23), mask, 22).flat.tolist() == mask.flat.tolist()


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 9))
def test_nested_masks_come_back_from_how_many_each_parameter_survives(
    count: int, size: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = (torch.rand(count, size, generator=generator) < 0.7).int().cumprod(0).bool()
    survived = nest(masks)
    assert torch.equal(torch.stack([survived > k for k in range(count)]), masks)
    assert torch.equal(unpack_bits(pack_bits(masks), size), masks)


def test_masks_that_win_a_parameter_are_not_nested() -> None:
    with pytest.raises(PsplibError, match="one of these has won some"):
        nest(torch.tensor([[True, False], [True, True]]))
