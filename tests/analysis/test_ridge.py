"""Ridge read-outs against scikit-learn's, and what must not change them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from psplib.analysis.ridge import PENALTIES, Outputs, draw_images, read_out, solve
from psplib.core.errors import PsplibError


def made(seed: int, width: int = 6, spread: float = 1.0) -> Outputs:
    """Three classes around three points."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.eye(3, width).double()

    def part(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.arange(n) % 3
        noise = torch.randn(n, width, generator=generator, dtype=torch.float64)
        return centres[y] + spread * noise, y

    return Outputs(part(60), part(30), part(90), 3)


@pytest.mark.parametrize("shape", [(40, 7), (12, 30)], ids=["few features", "many features"])
def test_one_eigendecomposition_gives_every_ridge_regression(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    y = torch.randn(shape[0], 3, dtype=torch.float64)
    weights, intercepts = solve(x, y, (1e-3, 1.0, 50.0))
    for k, penalty in enumerate((1e-3, 1.0, 50.0)):
        peer = Ridge(alpha=penalty).fit(x.numpy(), y.numpy())
        assert torch.allclose(weights[k].T, torch.tensor(peer.coef_), atol=1e-9)
        assert torch.allclose(intercepts[k], torch.tensor(peer.intercept_), atol=1e-9)


def test_the_penalty_is_the_one_of_least_validation_error_of_equal_ones_the_largest() -> None:
    features, examples = made(0, spread=3.0), torch.arange(60)
    other, found = read_out(features, [examples.flip(0), examples])
    assert other == found, "the order of the examples is nothing"
    x, y = features.pool
    wrong = {"validation": [], "test": []}
    for penalty in PENALTIES:
        peer = Ridge(alpha=penalty * 60).fit(x.numpy(), torch.eye(3)[y].numpy())
        for name, counts in wrong.items():
            z, labels = getattr(features, name)
            counts.append(int((peer.predict(z.numpy()).argmax(1) != labels.numpy()).sum()))
    least = [k for k, w in enumerate(wrong["validation"]) if w == min(wrong["validation"])][-1]
    assert found.penalty == PENALTIES[least]
    assert found.error == wrong["test"][least] / 90


@given(st.integers(0, 50), st.floats(1e-3, 1e3))
def test_the_scale_of_a_unit_and_units_that_are_constant_change_nothing(
    seed: int, factor: float
) -> None:
    features = made(seed)
    scaled = [
        (torch.cat([x * factor + 2, torch.full((len(x), 1), 0.1)], 1), y)
        for x, y in (features.pool, features.validation, features.test)
    ]
    other = Outputs(scaled[0], scaled[1], scaled[2], 3).standardised("a network")
    assert other.width == 6
    examples = torch.arange(30)
    assert read_out(other, [examples]) == read_out(features.standardised("a network"), [examples])


def test_a_network_without_a_live_neuron_is_named() -> None:
    x, y = torch.full((10, 4), 0.1), torch.arange(10) % 2
    with pytest.raises(PsplibError, match="No neuron of the last layer of 1-S is alive"):
        Outputs((x, y), (x, y), (x, y), 2).standardised("the last layer of 1-S")


def test_draws_hold_as_many_of_each_class_the_smaller_within_the_larger() -> None:
    labels = torch.randint(4, (100,))

    def drawn(each: int, seed: int = 0) -> torch.Tensor:
        return draw_images(labels, each, 4, torch.Generator().manual_seed(seed), "made")

    few, many = drawn(3), drawn(9)
    assert torch.bincount(labels[few]).tolist() == [3] * 4
    assert torch.bincount(labels[many]).tolist() == [9] * 4
    assert len(set(many.tolist())) == 36
    assert set(few.tolist()) < set(many.tolist())
    assert set(few.tolist()) != set(drawn(3, 1).tolist())


def test_a_target_without_a_class_is_named() -> None:
    with pytest.raises(PsplibError, match="made has 0 images of class 2 to draw from; 1 a class"):
        draw_images(torch.tensor([0, 1, 3]), 1, 4, torch.Generator(), "made")
