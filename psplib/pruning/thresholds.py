"""How the validation loss of a gradual run's networks grows with the threshold of a pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from psplib.core.artefact import Artefact, Parents, Parts
from psplib.core.config import setting
from psplib.core.errors import whole_number
from psplib.core.schema import COUNT, FLAG, SIZE, Files, Table
from psplib.nn import models
from psplib.nn.data import Data
from psplib.pruning.lobster import Lobster, OfLobster
from psplib.training.fit import Checkpoint, Report
from psplib.training.trainer import evaluate

_SECONDS = 0.05  # of one core, a loss on a whole data set, about


@dataclass(frozen=True)
class Thresholds(OfLobster):
    """The prunings of a gradual run, each with other thresholds than its own; of a network without
    normalisation, at the points whose weights the run keeps."""

    lobster: Lobster = setting("ours", "LOBSTER's run, its networks at the plateaus")
    ranks: int = setting("ours", "thresholds, at equal steps of the rank of |w|", default=200)

    def __post_init__(self) -> None:
        whole_number("ranks", self.ranks, 2)

    @property
    def title(self) -> str:
        return f"thresholds of {self.lobster.title}"

    @property
    def cost(self) -> float:
        return self.lobster.share * _SECONDS * self.ranks * 10

    def make(self, data: Data, parents: Parents, checkpoint: Checkpoint) -> Parts:
        """The table that `writes` declares."""
        own = parents[self.lobster].table("points").set_index("point")["threshold"].dropna()
        weights = {p: w for p, w in self.kept_weights(parents).items() if p in own}
        return {"losses": measure_thresholds(self, data, weights, own, checkpoint.report)}

    @property
    def writes(self) -> Files:
        """`losses`: see `measure_thresholds`."""
        columns = {"point": COUNT, "threshold": SIZE, "kept": COUNT, "loss": SIZE, "is_own": FLAG}
        return {"losses": Table(columns, range(1, 2**20))}

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that a larger threshold leaves less, and that the run's own is among them, with a
        loss that its tolerance allows."""
        losses = artefact.table("losses")
        falls = losses.groupby("point")["kept"].diff().dropna() <= 0
        artefact.insist(bool(falls.all()), "the table of losses")
        own = losses[losses["is_own"]].set_index("point")["loss"]
        # The search saw the network in its compact form, whose sums round otherwise.
        bound = (1 + self.lobster.tolerance) * losses.groupby("point")["loss"].first() * (1 + 1e-4)
        is_within = own.index.is_unique and len(own) == len(bound) and bool((own <= bound).all())
        artefact.insist(is_within, "the table of losses")

    shown = (("thresholds", "losses"),)


def measure_thresholds(
    config: Thresholds,
    data: Data,
    weights: Mapping[int, Tensor],
    own: Mapping[int, float],
    report: Report = lambda done, total, note: None,
) -> pd.DataFrame:
    """A row per point of `weights` (P,) and threshold, in rising order, the first of which takes
    nothing: `threshold`, how many parameters it leaves (`kept`), the validation `loss` without the
    others, and whether it is the run's `own` (`is_own`)."""
    gradual = config.lobster
    model = models.build(gradual.architecture, gradual.seed).to(data.train.x.device)
    rows: list[dict[str, Any]] = []
    for done, (point, values) in enumerate(weights.items()):
        report(done, len(weights), f"thresholds of point {point}")
        sizes = values[values != 0].abs().unique()
        # The largest is never taken: without any weight there is no network.
        at = np.linspace(0, len(sizes) - 2, config.ranks).round().astype(int)
        thresholds = {0.0, own[point], *sizes[at].tolist()}
        for threshold in sorted(thresholds):
            left = torch.where(values.abs() > threshold, values, 0).to(data.train.x.device)
            nn.utils.vector_to_parameters(left, model.parameters())
            rows.append(
                {
                    "point": point,
                    "threshold": threshold,
                    "kept": int((left != 0).sum()),
                    "loss": evaluate(model, data.validation).loss,
                    "is_own": threshold == own[point],
                }
            )
    return pd.DataFrame(rows)
