"""The maps of Figs. 2 to 4: a grid in the plane through G and 1-S."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pandas as pd

from psplib.analysis import entropy, landscape
from psplib.core.artefact import Artefact, Parents
from psplib.core.config import setting
from psplib.core.schema import NUMBER, SHARE, SIZE, Files, Table
from psplib.experiments.solutions import OnLine, Solutions, first_images, with_weights
from psplib.nn.data import Data
from psplib.training.fit import Checkpoint


@dataclass(frozen=True)
class Map(OnLine):
    """A grid in the plane through G and 1-S: `steps` from G to 1-S, `margin` more beyond each, and
    as many to both sides of the line, half of them to each."""

    subspace: str = setting(
        "ours", "whether the random direction may leave the surviving coordinates: both"
    )
    steps: int = setting("ours", "steps of the grid from G to 1-S", default=26)
    margin: int = setting("ours", "steps of the grid beyond G and beyond 1-S", default=12)
    pairs: bool = setting(
        "ours", "count all pairs of neurons, too: joint and mutual entropy", default=False
    )
    samples: int = setting("ours", "training images", default=10_000)
    direction: int = setting("ours", "draws the random direction", default=0)

    @property
    def betas(self) -> list[float]:
        """Where the grid's rows are; 0 on the line through G and 1-S."""
        half = (self.steps + 2 * self.margin) // 2
        return [k / self.steps for k in range(-half, half + 1)]

    @property
    def title(self) -> str:
        size, pairs = len(self.alphas), ", all pairs" if self.pairs else ""
        return f"map, {self.subspace} coordinates, {size} × {size}{pairs}"

    def analyse(
        self, data: Data, solutions: Solutions, checkpoint: Checkpoint | None = None
    ) -> dict[str, pd.DataFrame]:
        """`points`: a row for each point of the grid, see `landscape.sweep`."""
        plane = landscape.plane(
            solutions.gradual, solutions.one_shot, solutions.mask, self.direction, self.subspace
        )
        probes = dict(landscape.PROBES)
        if self.pairs:
            probes["pairs"] = entropy.SecondOrder
        points = landscape.sweep(
            with_weights(solutions.model, solutions.gradual),
            plane,
            first_images(data.train, self.samples),
            self.alphas,
            self.betas,
            probes,
            checkpoint,
        )
        return {"points": points}

    @property
    def writes(self) -> Files:
        """`points`: see `landscape.sweep`; of each quantity also the mean of every layer."""
        pairs = ("joint", "mutual") if self.pairs else ()
        names = ("magnitude", "first_order", "agreement", *pairs)
        means = {column: NUMBER for name in names for column in (name, f"{name}.*")}
        place = {"alpha": NUMBER, "beta": NUMBER, "loss": SIZE, "error": SHARE}
        side = self.steps + 2 * self.margin
        return {"points": Table(place | means, (side + 1) * (side // 2 * 2 + 1))}

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that the points are those of the grid, and that each quantity has all layers."""
        artefact.insist_rows("points", ["beta", "alpha"], product(self.betas, self.alphas))
        layers: dict[str, list[str]] = {}
        for quantity, _, layer in (column.partition(".") for column in artefact.table("points")):
            layers.setdefault(quantity, []).extend([layer] if layer else [])
        have_all = [of for of in layers.values() if of and of != layers["magnitude"]] == []
        artefact.insist(have_all, "the columns of the table of points")

    shown = (("map", "points"),)
