"""Planes against their definition, maps against a network moved to each point by hand."""

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from psplib.analysis import entropy, landscape, psp
from psplib.analysis.landscape import Plane
from psplib.core.errors import PsplibError
from psplib.nn.data import Data, Split
from psplib.nn.masks import Mask
from psplib.nn.models import build
from psplib.training.fit import Checkpoint
from psplib.training.trainer import flat

ALPHAS, BETAS = [-0.5, 0.0, 0.4, 1.0], [0.0, 0.3]
COUNTS = ["error", "first_order", "agreement"]


def pair(name: str, share: float = 0.03) -> tuple[nn.Module, Tensor, Tensor, Mask]:
    """A network and two sets of weights under a random mask that kills units but no layer."""
    model, other = build(name, 0), build(name, 1)
    chance = torch.rand(len(flat(model)), generator=torch.Generator().manual_seed(2))
    mask = Mask.dense(model).with_flat(chance < share)
    for _, part in mask.items():
        part.view(-1)[:1] = True
    mask.apply_(model)
    mask.apply_(other)
    return model, flat(model), flat(other), mask


def moved(name: str, weights: Tensor) -> nn.Module:
    """A network of a kind, with other weights (P,) and of their type."""
    model = build(name, 0).to(weights.dtype)
    nn.utils.vector_to_parameters(weights, model.parameters())
    return model


def double(split: Split, size: int) -> Split:
    """The first images: exact enough that no potential's sign hangs on the order of a sum."""
    return Split(split.x[:size].double(), split.y[:size])


def by_hand(name: str, split: Split, plane: Plane, weights: Tensor, batch: int) -> dict[str, float]:
    """What `sweep` should find where the weights (P,) are."""
    model = moved(name, weights)
    landscape.recompute_(model.eval(), split.x)
    probes = {what: make() for what, make in landscape.PROBES.items()}
    psp.observe(model, split, *probes.values(), mask=plane.mask, batch=batch)
    return {k: v for what, p in probes.items() for k, v in landscape.columns(what, p).items()}


@pytest.mark.parametrize("subspace", landscape.SUBSPACES)
def test_plane_is_orthogonal_to_rounding_and_holds_both_networks(subspace: str) -> None:
    _, gradual, one_shot, mask = pair("lenet-300")
    plane = landscape.plane(gradual, one_shot, mask, 0, subspace)
    first, second = plane.first, plane.second
    assert float(first @ second) == pytest.approx(0, abs=1e-13 * float(first @ first))
    assert float(second.norm()) == pytest.approx(float(first.norm()), rel=1e-13)
    assert bool(second[mask.flat].all())
    assert bool(second[~mask.flat].any()) == (subspace == "all")
    # To the bit, also before the cast to float32.
    assert torch.equal(plane.at(0, 0), gradual.double())
    assert torch.equal(plane.at(1, 0), one_shot.double())
    assert torch.equal(plane.at(0.5, -2), 0.5 * first + plane.origin - 2 * second)


def test_second_axis_is_drawn_by_the_seed() -> None:
    _, gradual, one_shot, mask = pair("lenet-300")
    drawn = [landscape.plane(gradual, one_shot, mask, seed).second for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("name", "subspace"),
    [
        ("lenet-5", "surviving"),
        ("lenet-5", "all"),
        ("lenet-300", "surviving"),
        ("lenet-300", "all"),
        pytest.param("resnet-8", "surviving", marks=pytest.mark.slow),
    ],
)
def test_map_is_what_each_point_gives_by_itself(
    name: str, subspace: str, tiny: Data, tiny_colour: Data
) -> None:
    split = double((tiny_colour if "resnet" in name else tiny).train, 40)
    model, gradual, one_shot, mask = pair(name)
    plane = landscape.plane(gradual, one_shot, mask, 0, subspace)
    table = landscape.sweep(model.double(), plane, split, ALPHAS, BETAS, batch=15)
    expected = pd.DataFrame(
        {"alpha": a, "beta": b} | by_hand(name, split, plane, plane.at(a, b), 15)
        for b in BETAS
        for a in ALPHAS
    )
    pd.testing.assert_frame_equal(table, expected, rtol=1e-9)
    counts = [c for c in table if c.split(".")[0] in COUNTS]
    assert table[counts].equals(expected[counts])
    assert table["first_order"].nunique() > 4, "the points would be told apart"


def test_both_networks_have_their_own_values_to_the_bit(tiny: Data) -> None:
    model, gradual, one_shot, mask = pair("lenet-5")
    plane = landscape.plane(gradual, one_shot, mask, 0)
    table = landscape.sweep(model, plane, tiny.train, ALPHAS, [0.0])
    for alpha, weights in ((0.0, gradual), (1.0, one_shot)):
        own = by_hand("lenet-5", tiny.train, plane, weights, psp.BATCH)
        assert table[table["alpha"] == alpha].iloc[0].drop(["alpha", "beta"]).to_dict() == own


def test_no_count_depends_on_batches_order_or_threads(tiny: Data) -> None:
    model, gradual, one_shot, mask = pair("lenet-5")
    plane = landscape.plane(gradual, one_shot, mask, 0)
    threads = torch.get_num_threads()

    def sweep(split: Split, **options: int) -> pd.DataFrame:
        return landscape.sweep(model, plane, split, ALPHAS, BETAS, **options)

    expected = sweep(tiny.validation, batch=50, jobs=1)
    assert sweep(tiny.validation, batch=50, jobs=2).equals(expected)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    shuffled = Split(tiny.validation.x[order], tiny.validation.y[order])
    for other in (sweep(tiny.validation, batch=7), sweep(shuffled, batch=50)):
        assert other[COUNTS].equals(expected[COUNTS])
        pd.testing.assert_frame_equal(other, expected, rtol=1e-5)
    assert torch.get_num_threads() == threads
    assert torch.equal(flat(model), gradual), "the model is as it was"


def test_pairs_and_probes_of_ones_own_have_columns(tiny: Data) -> None:
    class Active:
        """The share of active neurons."""

        def __init__(self) -> None:
            self.active: dict[str, float] = {}

        def update(self, seen: psp.Observation) -> None:
            for layer, states in zip(seen.layers, seen.states, strict=True):
                self.active[layer.name] = float(states.mean())

        by_layer = property(lambda self: self.active)
        mean = property(lambda self: sum(self.active.values()) / len(self.active))

    model, gradual, one_shot, mask = pair("lenet-300")
    plane = landscape.plane(gradual, one_shot, mask, 0)
    probes = {"pairs": entropy.SecondOrder, "active": Active}
    table = landscape.sweep(model, plane, tiny.validation, [0.0], [0.0], probes)
    layers = ["relu1", "relu2"]
    names = ["joint", "mutual", "agreement", "active"]
    expected = [c for n in names for c in (n, *(f"{n}.{layer}" for layer in layers))]
    assert list(table.columns) == ["alpha", "beta", *expected]
    pairs = entropy.SecondOrder()
    psp.observe(model, tiny.validation, pairs)
    assert table["joint.relu1"][0] == pairs.entropies()["joint"].by_layer["relu1"]


def test_interrupted_map_goes_on_to_the_same_bits(tiny: Data, in_pieces) -> None:
    model, gradual, one_shot, mask = pair("lenet-300")
    plane = landscape.plane(gradual, one_shot, mask, 0)
    betas = [-1.0, 0.0, 0.5, 1.0]
    made: list[int] = []

    def run(checkpoint: Checkpoint) -> pd.DataFrame:
        made.append(0)

        def score() -> psp.LossAndError:
            made[-1] += 1
            return psp.LossAndError()

        probes = {"score": score, "first_order": entropy.FirstOrder}
        return landscape.sweep(
            model, plane, tiny.validation, ALPHAS, betas, probes, checkpoint, jobs=1
        )

    table, interruptions = in_pieces(run)
    assert interruptions == len(betas)
    # The first session begins all rows at most, the last one finds them all done.
    assert [m <= (len(betas) - i) * len(ALPHAS) for i, m in enumerate(made)] == [True] * 5
    assert made[-1] == 0
    assert table.equals(run(Checkpoint()))


def test_checkpoint_of_another_map_is_refused(tiny: Data, tmp_path) -> None:
    model, gradual, one_shot, mask = pair("lenet-300")
    for seed in (0, 1):
        plane = landscape.plane(gradual, one_shot, mask, seed)
        checkpoint = Checkpoint(tmp_path, interval=0.0)
        if seed == 0:
            landscape.sweep(model, plane, tiny.validation, [0.0], [0.0], checkpoint=checkpoint)
            continue
        with pytest.raises(PsplibError, match="another map"):
            landscape.sweep(model, plane, tiny.validation, [0.0], [0.0], checkpoint=checkpoint)


def test_recomputed_statistics_are_those_of_one_batch(tiny_colour: Data) -> None:
    """In training mode PyTorch normalises by the batch's own statistics: the oracle."""
    images = double(tiny_colour.train, 40).x
    model = build("resnet-8", 3).double()
    with torch.no_grad():
        expected = model.train()(images)
        landscape.recompute_(model.eval(), images)
        assert torch.allclose(model(images), expected, rtol=1e-10, atol=1e-12)
        # Statistics, not the batch: an image by itself gives what it gives among the others.
        assert torch.allclose(model(images[3:4]), expected[3:4], rtol=1e-10, atol=1e-12)


def rectified_first() -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10))


def first_used_twice() -> nn.Module:
    twice = nn.Linear(784, 784)
    return nn.Sequential(nn.Flatten(), twice, nn.ReLU(), twice, nn.ReLU(), nn.Linear(784, 10))


@pytest.mark.parametrize("build_one", [rectified_first, first_used_twice])
def test_network_that_begins_otherwise_is_mapped_too(build_one, tiny: Data) -> None:
    """What its first layer puts out is not known from two points of a row."""
    model = build_one()
    split = double(tiny.validation, 20)
    mask = Mask.dense(model)
    gradual, one_shot = (
        0.05 * torch.randn(len(mask.flat), generator=torch.Generator().manual_seed(i))
        for i in (0, 1)
    )
    plane = landscape.plane(gradual, one_shot, mask, 0)
    table = landscape.sweep(model.double(), plane, split, [0.5], [0.5], {"score": psp.LossAndError})
    nn.utils.vector_to_parameters(plane.at(0.5, 0.5), model.parameters())
    own = psp.LossAndError()
    psp.observe(model, split, own)
    assert table["loss"][0] == pytest.approx(own.loss, rel=1e-12)


def test_bad_input_is_named(tiny: Data, tiny_colour: Data) -> None:
    model, gradual, one_shot, mask = pair("lenet-300")
    plane = landscape.plane(gradual, one_shot, mask, 0)
    nan, outside = gradual.clone(), gradual.clone()
    nan[mask.flat.nonzero()[0]] = float("nan")
    outside[~mask.flat] = 1.0
    single = mask.with_flat(mask.flat & (mask.flat.cumsum(0) == 1))
    one = single.flat.float()
    bad_planes = [
        ((gradual[:-1], one_shot, mask, 0), r"gradual weights.*\(266610,\).*\(266609,\)"),
        ((gradual, one_shot[:-1], mask, 0), r"one-shot weights.*\(266610,\).*\(266609,\)"),
        ((nan, one_shot, mask, 0), "gradual weights are not finite"),
        ((gradual, outside, mask, 0), r"one-shot weights must be zero.*2\d{5} are not"),
        ((gradual, gradual, mask, 0), "equal"),
        ((one, 2 * one, single, 0), "at least 2 coordinates; the mask keeps 1"),
        ((gradual, one_shot, mask, 0, "some"), "subspace must be one of surviving, all"),
    ]
    for arguments, message in bad_planes:
        with pytest.raises(PsplibError, match=message):
            landscape.plane(*arguments)
    none = Split(tiny.train.x[:0], tiny.train.y[:0])
    bad_maps = [
        ((build("lenet-5", 0), plane, tiny.validation, [0], [0]), "266610 .*431080"),
        ((model, plane, none, [0], [0]), "no samples"),
        ((model, plane, tiny.validation, [], [0]), "alphas must be at least one"),
        ((model, plane, tiny.validation, [0], [float("nan")]), "betas must be .*nan"),
        ((model, plane, tiny.validation, [0], [1e38]), r"At alpha 0, beta 1e\+38: .*relu2"),
    ]
    for arguments, message in bad_maps:
        with pytest.raises(PsplibError, match=message):
            landscape.sweep(*arguments)
    for option in ("jobs", "batch"):
        with pytest.raises(PsplibError, match=f"{option} must be a whole number of at least 1"):
            landscape.sweep(model, plane, tiny.validation, [0], [0], **{option: 0})
