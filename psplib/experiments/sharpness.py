"""How narrow the minima of G and of the one-shot networks are, by measures that a rescaling of the
network changes and by some that it does not; and their potentials with the logits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from psplib.analysis import eigen, hessian, psp
from psplib.core.artefact import Artefact, Parents
from psplib.core.config import setting
from psplib.core.errors import PsplibError
from psplib.core.schema import ANY, COUNT, NAME, NUMBER, SIZE, Files, Table
from psplib.experiments.census import LEADING
from psplib.experiments.solutions import Analysis, Solutions, first_images, with_weights
from psplib.nn.data import Data, Split
from psplib.nn.masks import Mask
from psplib.pruning.retraining import Retraining
from psplib.training.fit import Checkpoint

# Of the residuals: far less than what another sample of images changes.
TOLERANCE = 1e-2


# What "narrow" may mean, by the columns of `Sharpness.tables`.
MEASURES = {
    "narrow": "λ₁, surviving coordinates",
    "narrow_all": "λ₁, all coordinates",
    "narrow_global": "λ₁ · ‖θ‖²",
    "narrow_relative": "λmax of |w|·H·|w|",
}
_NETWORK = ["arm", "replica"]
# The census has a fifth eigenvalue of its own, on other images.
_ENDS = {"lambda_5": "fifth", "residual_5": "fifth_residual"}
_ENDS |= {"lambda_min": "smallest", "residual_min": "smallest_residual"}


@dataclass(frozen=True)
class Sharpness(Analysis):
    """How narrow a minimum G and every replica of a retraining lie in, on several samples of the
    training images."""

    retraining: Retraining = setting("paper", "Sec. 5.2: the highest compression of Fig. 1b")
    samples: int = setting(
        "ours",
        "training images of each part: the largest eigenvalue falls as they grow, so their number "
        "is the same in every comparison",
        default=2_000,
    )
    parts: int = setting(
        "ours", "parts of the training images, without an image in common", default=3
    )

    @property
    def title(self) -> str:
        return f"sharpness of {self.retraining.title}"

    @property
    def cost(self) -> float:
        """Seconds of one core, about; measured with LeNet-5 on MNIST."""
        return 40.0 * (len(self.retraining.replicas) + 1) * self.retraining.lobster.share

    def analyse(
        self, data: Data, solutions: Solutions, checkpoint: Checkpoint | None = None
    ) -> dict[str, pd.DataFrame]:
        """`curvature`: a row for G (arm `lobster`) and each replica on each part of the images:
        `lambda_1`, the largest eigenvalue of the Hessian in the surviving coordinates,
        `lambda_1_all` in all, `lambda_1_relative` of `|w|·H·|w|`, and `residual`, largest of the
        three relative to its eigenvalue. `networks`: a row for each of them: `norm` of the weights;
        `lambda_5` and `lambda_min` with `residual_5` and `residual_min`, the fifth and the smallest
        eigenvalue in the surviving coordinates on the first part; `z2`, the mean of z^2 averaged
        over the hidden layers, on all parts, `z2_with_logits` over the output layer too, and
        `z2_logits` of that alone.
        """
        checkpoint = checkpoint or Checkpoint()
        images = first_images(data.train, self.samples * self.parts)
        if len(images.y) < self.samples * self.parts:
            raise PsplibError(
                f"{self.parts} parts of {self.samples} images need {self.samples * self.parts} "
                f"training images; {data.name} has {len(images.y)}."
            )
        pairs = zip(images.x.split(self.samples), images.y.split(self.samples), strict=True)
        parts = [Split(x, y) for x, y in pairs]
        networks = self.networks(solutions)
        rows: list[dict[str, Any]] = []
        curvature: list[dict[str, Any]] = []
        todo = checkpoint.each(networks, rows, curvature, note=lambda one: f"sharpness, {one[0]}")
        for arm, replica, weights in todo:
            model = with_weights(solutions.model, weights)
            name = {"arm": arm, "replica": replica}
            curvature += [
                name | {"part": number} | curvature_of(model, part, solutions.mask, weights)
                for number, part in enumerate(parts)
            ]
            square = psp.MeanSquare()
            psp.observe(model, images, square, mask=solutions.mask)
            rows.append(
                name
                | {"norm": float(weights.norm())}
                | _ends(hessian.hessian(model, parts[0], solutions.mask))
                | {"z2": square.mean, "z2_with_logits": square.mean_with_logits}
                | {"z2_logits": square.logits}
            )
        return {"networks": pd.DataFrame(rows), "curvature": pd.DataFrame(curvature)}

    @property
    def writes(self) -> Files:
        """See `analyse`."""
        name, count = {"arm": NAME, "replica": ANY}, 1 + len(self.retraining.replicas)
        ends = {"lambda_5": NUMBER, "residual_5": SIZE, "lambda_min": NUMBER, "residual_min": SIZE}
        squares = {"z2": SIZE, "z2_with_logits": SIZE, "z2_logits": SIZE}
        measures = {"lambda_1": NUMBER, "lambda_1_all": NUMBER, "lambda_1_relative": NUMBER}
        by_part = {**name, "part": COUNT, **measures, "residual": NUMBER}
        return {
            "networks": Table({**name, "norm": SIZE, **ends, **squares}, count),
            "curvature": Table(by_part, count * self.parts),
        }

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that G and every replica have a row, and one for each part."""
        replicas = [-1, *self.retraining.replicas]
        artefact.insist_rows("networks", ["replica"], zip(replicas))
        by_part = product(replicas, range(self.parts))
        artefact.insist_rows("curvature", ["replica", "part"], by_part)

    def tables(self, artefact: Artefact) -> dict[str, pd.DataFrame]:
        """`sharpness`: a row per network, with `lobster_seed`: z^2 with the logits and of them; the
        `fifth` and the `smallest` eigenvalue, each with its `_residual`; each of `MEASURES`, its
        geometric mean over the parts, and what it is on each, in `<measure>.<part>`."""
        networks, curvature = artefact.table("networks"), artefact.table("curvature")
        both = curvature.merge(networks[[*_NETWORK, "norm"]], on=_NETWORK)
        measures = {
            "narrow": both["lambda_1"],
            "narrow_all": both["lambda_1_all"],
            "narrow_global": both["lambda_1"] * both["norm"] ** 2,
            "narrow_relative": both["lambda_1_relative"],
        }
        wide = both[[*_NETWORK, "part"]].assign(**measures).set_index([*_NETWORK, "part"])
        parts = wide.unstack("part")
        parts.columns = [f"{measure}.{part}" for measure, part in parts.columns]
        means = np.exp(np.log(wide).groupby(_NETWORK).mean())
        table = networks.merge(means.join(parts).reset_index(), on=_NETWORK).rename(columns=_ENDS)
        return {"sharpness": table.assign(lobster_seed=self.retraining.lobster.seed)}


def curvature_of(model: nn.Module, part: Split, mask: Mask, weights: Tensor) -> dict[str, float]:
    """The largest eigenvalue by each measure; the largest `residual` relative to its eigenvalue."""
    surviving = hessian.hessian(model, part, mask)
    found = {
        "lambda_1": eigen.leading(surviving, 1, TOLERANCE),
        "lambda_1_all": eigen.leading(hessian.hessian(model, part, mask, "all"), 1, TOLERANCE),
        "lambda_1_relative": eigen.leading(
            eigen.Scaled(surviving, weights[mask.flat].abs()), 1, TOLERANCE
        ),
    }
    residual = max(float(e.residuals[0] / e.values[0]) for e in found.values())
    return {name: float(e.values[0]) for name, e in found.items()} | {"residual": residual}


def _ends(operator: hessian.Hessian) -> dict[str, float]:
    """The fifth and the smallest eigenvalue, each with its residual."""
    leading = eigen.leading(operator, LEADING, TOLERANCE)
    negative = eigen.leading(eigen.Scaled(operator, factor=-1), 1, TOLERANCE)
    return {
        "lambda_5": float(leading.values[-1]),
        "residual_5": float(leading.residuals[-1]),
        "lambda_min": -float(negative.values[0]),
        "residual_min": float(negative.residuals[0]),
    }
