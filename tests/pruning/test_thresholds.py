"""The loss at other thresholds, against LOBSTER's own search and networks pruned by hand."""

import pytest
import torch
import torch.nn.functional as F

from psplib.core.errors import PsplibError
from psplib.nn.data import Data
from psplib.nn.models import build
from psplib.pruning.lobster import Lobster
from psplib.pruning.thresholds import Thresholds, measure_thresholds
from psplib.training.trainer import flat

CONFIG = Thresholds(Lobster("lenet-300", "digits", 7), 12)


def loss_above(weights: torch.Tensor, threshold: float, data: Data) -> float:
    model = build("lenet-300", 0)
    left = weights * (weights.abs() > threshold)
    torch.nn.utils.vector_to_parameters(left, model.parameters())
    with torch.no_grad():
        return float(F.cross_entropy(model(data.validation.x), data.validation.y))


@pytest.fixture(scope="module")
def weights() -> torch.Tensor:
    values = flat(build("lenet-300", 7))
    return values * (torch.rand(len(values), generator=torch.Generator().manual_seed(0)) < 0.01)


def test_each_loss_is_that_of_the_network_without_what_is_taken(
    tiny: Data, weights: torch.Tensor
) -> None:
    own = float(weights[weights != 0].abs().sort().values[500])
    found = measure_thresholds(CONFIG, tiny, {3: weights}, {3: own})
    assert found["threshold"].is_monotonic_increasing
    assert found["kept"].iloc[0] == int((weights != 0).sum())
    assert found["kept"].iloc[-1] >= 1
    assert len(found) == 2 + CONFIG.ranks, "none, the run's own, the ranks"
    for row in found.itertuples():
        assert row.kept == int((weights.abs() > row.threshold).sum())
        assert row.loss == pytest.approx(loss_above(weights, row.threshold, tiny), rel=1e-5)
    assert found.loc[found["is_own"], "threshold"].tolist() == [own]


def test_a_scan_of_one_rank_is_refused() -> None:
    with pytest.raises(PsplibError, match="ranks must be a whole number of at least 2; got 1"):
        Thresholds(CONFIG.lobster, 1)
