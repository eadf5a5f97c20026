"""The size of the gradients, against gradients taken weight by weight in a plain loop."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from psplib.core.errors import PsplibError
from psplib.nn.data import Data
from psplib.nn.models import build
from psplib.pruning.lobster import Lobster
from psplib.pruning.sensitivity import Sensitivity, measure_sensitivity
from psplib.training.fit import order
from psplib.training.trainer import flat

CONFIG = Sensitivity(Lobster("lenet-300", "digits", 7, batch_size=20), 3)


def test_the_factors_are_those_of_a_plain_loop(tiny: Data) -> None:
    weights = flat(build("lenet-300", 7))
    survives = torch.rand(len(weights), generator=torch.Generator().manual_seed(1)) < 0.1
    weights = 20 * weights * survives  # large gradients, too
    model = build("lenet-300", 0)
    torch.nn.utils.vector_to_parameters(weights.clone(), model.parameters())
    sizes = []
    for rows in order(len(tiny.train), 7, 1).split(20)[:3]:
        model.zero_grad()
        F.cross_entropy(model(tiny.train.x[rows]), tiny.train.y[rows]).backward()
        sizes.append(torch.cat([p.grad.flatten() for p in model.parameters()]).abs().numpy())  # type: ignore[union-attr]
    size, alive = np.array(sizes), survives.numpy()
    factor = np.maximum(0, 1 - size).mean(0)
    takes = np.abs(weights.numpy()) <= 0.4

    (row,) = measure_sensitivity(CONFIG, tiny, {4: weights}, {4: 0.4}).to_dict("records")
    assert (row["point"], row["kept"]) == (4, alive.sum())
    assert row["small"] == pytest.approx((size[:, alive] <= 0.01).mean(), abs=1e-4)
    assert row["factor"] == pytest.approx(factor[alive].mean(), rel=1e-5)
    assert row["factor_go"] == pytest.approx(factor[alive & takes].mean(), rel=1e-5)
    assert row["factor_stay"] == pytest.approx(factor[alive & ~takes].mean(), rel=1e-5)
    assert row["factor_low"] == pytest.approx(np.quantile(factor[alive], 0.01), rel=1e-4)
    assert (size[:, alive] > 1).any()


def test_the_last_point_takes_nothing(tiny: Data) -> None:
    (row,) = measure_sensitivity(CONFIG, tiny, {9: flat(build("lenet-300", 7))}, {}).to_dict(
        "records"
    )
    assert np.isnan(row["factor_go"])
    assert row["factor_stay"] == row["factor"]


def test_without_minibatches_there_is_no_gradient() -> None:
    with pytest.raises(PsplibError, match="minibatches must be a whole number of at least 1"):
        Sensitivity(CONFIG.lobster, 0)
