"""The curvature of Fig. 2: the Hessian's leading eigenvalues along the line from G to 1-S."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from psplib.analysis import hessian
from psplib.core.artefact import Artefact, Parents
from psplib.core.config import setting
from psplib.core.errors import one_of
from psplib.core.schema import COUNT, FLAG, NUMBER, SIZE, Files, Table
from psplib.experiments.census import LEADING
from psplib.experiments.solutions import OnLine, Solutions, first_images
from psplib.nn.data import Data
from psplib.training.fit import Checkpoint


@dataclass(frozen=True)
class Curvature(OnLine):
    """The leading eigenvalues of the Hessian at points of the line through G and 1-S."""

    subspace: str = setting("ours", "whether pruned coordinates count: both")
    definition: str = setting(
        "reference",
        "legacy: what the tool that the paper used does; converged: until the residuals are small",
        default="converged",
    )
    steps: int = setting("ours", "steps from G to 1-S", default=8)
    margin: int = setting("ours", "steps beyond G and beyond 1-S", default=2)
    samples: int = setting("ours", "training images", default=10_000)

    def __post_init__(self) -> None:
        one_of("definition", self.definition, hessian.DEFINITIONS)
        super().__post_init__()

    @property
    def title(self) -> str:
        where = f"{self.subspace} coordinates, {self.definition}, {len(self.alphas)} points"
        return f"eigenvalues, {where}"

    def analyse(
        self, data: Data, solutions: Solutions, checkpoint: Checkpoint | None = None
    ) -> dict[str, pd.DataFrame]:
        """`points`: a row for each point of the line and each leading eigenvalue: `alpha`, `rank`,
        `eigenvalue`, `residual`, `products`, `converged`."""
        checkpoint = checkpoint or Checkpoint()
        images = first_images(data.train, self.samples)
        saved = checkpoint.load()
        rows: list[dict[str, Any]] = saved[1] if saved else []
        before = len(rows) // LEADING
        tables = hessian.eigenvalues_along(
            solutions.model,
            images,
            solutions.gradual,
            solutions.one_shot,
            self.alphas[before:],
            solutions.mask,
            self.subspace,
            k=LEADING,
            definition=self.definition,
        )
        for done, table in enumerate(tables, before + 1):
            rows += table.to_dict("records")
            checkpoint.report(done, len(self.alphas), f"curvature, {self.subspace} coordinates")
            if checkpoint.due:
                checkpoint.save({}, rows)
        return {"points": pd.DataFrame(rows)}

    @property
    def writes(self) -> Files:
        """`points`: see `analyse`."""
        columns = {"alpha": NUMBER, "rank": COUNT, "eigenvalue": NUMBER, "residual": SIZE}
        columns |= {"products": COUNT, "converged": FLAG}
        return {"points": Table(columns, LEADING * (self.steps + 2 * self.margin + 1))}

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that every point of the line has all its eigenvalues."""
        line = product(self.alphas, range(1, LEADING + 1))
        artefact.insist_rows("points", ["alpha", "rank"], line)

    shown = (("line", "points"),)
