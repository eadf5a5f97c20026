"""How much of plain weight decay LOBSTER's sensitivity term takes away.

The term shrinks a weight by the factor `max(0, 1 - |dL/dw|)` of what decay alone would. Where
nearly every `|dL/dw|` is small, the two are nearly the same: here the factor is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.core.artefact import Artefact, Parents, Parts
from psplib.core.config import setting
from psplib.core.errors import whole_number
from psplib.core.schema import COUNT, SHARE, Column, Files, Table
from psplib.nn import models
from psplib.nn.data import Data
from psplib.pruning.lobster import Lobster, OfLobster
from psplib.training.fit import Checkpoint, Report, order

SMALL = 0.01
_SECONDS = 60.0  # of one core, all minibatches of the gradients on a whole data set, about


@dataclass(frozen=True)
class Sensitivity(OfLobster):
    """The gradients of a gradual run's networks, at the points whose weights it keeps."""

    lobster: Lobster = setting("ours", "LOBSTER's run, its networks at the plateaus")
    minibatches: int = setting("ours", "of the size that the run has trained with", default=20)

    def __post_init__(self) -> None:
        whole_number("minibatches", self.minibatches, 1)

    @property
    def title(self) -> str:
        return f"gradients of {self.lobster.title}"

    @property
    def cost(self) -> float:
        return self.lobster.share * _SECONDS

    def make(self, data: Data, parents: Parents, checkpoint: Checkpoint) -> Parts:
        """`points`: see `measure_sensitivity`."""
        weights, points = self.kept_weights(parents), parents[self.lobster].table("points")
        thresholds = points.set_index("point")["threshold"].dropna().to_dict()
        return {"points": measure_sensitivity(self, data, weights, thresholds, checkpoint.report)}

    @property
    def writes(self) -> Files:
        """`points`: see `measure_sensitivity`."""
        factors = {"factor": SHARE, "factor_stay": SHARE, "factor_low": SHARE}
        some = Column(float, 0, 1, has_gaps=True)  # no weight goes at the last point
        columns = {"point": COUNT, "kept": COUNT, "sparsity": SHARE, "small": SHARE, **factors}
        return {"points": Table(columns | {"factor_go": some}, range(1, 2**15))}

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that sparsity rises, and that the points are those of which the gradual run kept
        the weights."""
        points = artefact.table("points")
        is_rising = bool((points["sparsity"].diff().dropna() > 0).all())
        artefact.insist(is_rising, "the table of points")
        if self.lobster in parents:
            kept = {f"point{point}" for point in points["point"]}
            is_same = kept == parents[self.lobster].shapes("weights").keys()
            artefact.insist(is_same, "the table of points")

    shown = (("gradients", "points"),)


def measure_sensitivity(
    config: Sensitivity,
    data: Data,
    weights: Mapping[int, Tensor],
    thresholds: Mapping[int, float],
    report: Report = lambda done, total, note: None,
) -> pd.DataFrame:
    """A row per point of `weights` (P,), over all minibatches and surviving weights: `small`, the
    share of `|dL/dw| <= 0.01`; `factor`, the mean of `max(0, 1 - |dL/dw|)`; `factor_go` and
    `factor_stay`, the same for the weights that the threshold of the next pruning takes and for the
    others; `factor_low`: 99 % of the weights have a higher mean than this."""
    gradual = config.lobster
    model = models.build(gradual.architecture, gradual.seed).to(data.train.x.device)
    rows_of_epoch = order(len(data.train), gradual.seed, 1).to(data.train.x.device)
    batches = rows_of_epoch.split(gradual.batch_size)[: config.minibatches]
    rows: list[dict[str, Any]] = []
    for point, values in weights.items():
        report(len(rows), len(weights), f"gradients of point {point}")
        nn.utils.vector_to_parameters(values.to(data.train.x.device), model.parameters())
        survives = values != 0
        small, factor = torch.zeros(len(values)), torch.zeros(len(values))
        for batch in batches:
            loss = F.cross_entropy(model(data.train.x[batch]), data.train.y[batch])
            parts = torch.autograd.grad(loss, list(model.parameters()))
            size = torch.cat([p.flatten() for p in parts]).abs().cpu()
            small += size <= SMALL
            factor += (1 - size).clamp_min(0)
        small, factor = small / len(batches), factor / len(batches)
        goes = survives & (values.abs() <= thresholds.get(point, 0.0))
        rows.append(
            {
                "point": point,
                "kept": int(survives.sum()),
                "sparsity": 1 - int(survives.sum()) / len(values),
                "small": float(small[survives].mean()),
                "factor": float(factor[survives].mean()),
                "factor_go": float(factor[goes].mean()),
                "factor_stay": float(factor[survives & ~goes].mean()),
                "factor_low": float(factor[survives].quantile(0.01)),
            }
        )
    return pd.DataFrame(rows)
