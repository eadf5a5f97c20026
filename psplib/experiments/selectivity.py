"""How class-specific the features of G and of every replica retrained from its mask are."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pandas as pd

from psplib.analysis import features, psp
from psplib.core.artefact import Artefact, Parents
from psplib.core.config import setting
from psplib.core.schema import ANY, COUNT, NAME, SIZE, Files, Table
from psplib.experiments.solutions import Analysis, Solutions, first_images, with_weights
from psplib.nn.data import Data
from psplib.pruning.retraining import Retraining
from psplib.training.fit import Checkpoint


@dataclass(frozen=True)
class Selectivity(Analysis):
    """How far the neurons of G, and of every replica of a retraining, tell the class, each network
    by itself."""

    retraining: Retraining = setting(
        "paper", "Sec. 5.3 speaks of the highest compression, the abstract of none"
    )
    samples: int = setting("ours", "training images, as in the censuses", default=10_000)

    @property
    def title(self) -> str:
        return f"class selectivity of {self.retraining.title}"

    @property
    def cost(self) -> float:
        """Seconds of one core, about: the images pass through every network once."""
        return 5.0 * (1 + len(self.retraining.replicas)) * self.retraining.lobster.share

    def analyse(
        self, data: Data, solutions: Solutions, checkpoint: Checkpoint | None = None
    ) -> dict[str, pd.DataFrame]:
        """`layers`: a row for each hidden layer of G (arm `lobster`) and of each replica: its
        `neurons`, how many are `active` on any image, and over these the mean `information` of
        their state on the class, in bits, and `selectivity`, see `psplib.analysis.features`."""
        images = first_images(data.train, self.samples)
        rows = []
        for arm, replica, weights in self.networks(solutions):
            probe = features.Features()
            psp.observe(with_weights(solutions.model, weights), images, probe, mask=solutions.mask)
            rows += [
                {"arm": arm, "replica": replica, "layer": layer} | found
                for layer, found in probe.by_layer().items()
            ]
        return {"layers": pd.DataFrame(rows)}

    @property
    def writes(self) -> Files:
        """See `analyse`."""
        name = {"arm": NAME, "replica": ANY, "layer": NAME}
        found = {"neurons": COUNT, "active": COUNT, "information": SIZE, "selectivity": SIZE}
        return {"layers": Table(name | found, range(1, 10**6))}

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that G and every replica have their layers."""
        layers = artefact.table("layers")["layer"].unique()
        whole = product([-1, *self.retraining.replicas], layers)
        artefact.insist_rows("layers", ["replica", "layer"], whole)

    def tables(self, artefact: Artefact) -> dict[str, pd.DataFrame]:
        """`selectivity`: a row per network, the means over its layers, with `lobster_seed`."""
        layers = artefact.table("layers")
        by_network = layers.groupby(["arm", "replica"], sort=False)
        table = by_network[["information", "selectivity"]].mean().reset_index()
        return {"selectivity": table.assign(lobster_seed=self.retraining.lobster.seed)}
