"""The census of Figs. 2 to 4: G and every replica retrained from its mask, each by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from psplib.analysis import eigen, entropy, hessian, psp
from psplib.core.artefact import Artefact, Parents
from psplib.core.config import setting
from psplib.core.schema import ANY, COUNT, NAME, NUMBER, SHARE, SIZE, Files, Table
from psplib.experiments.solutions import Analysis, Solutions, first_images, with_weights
from psplib.nn.data import Data
from psplib.pruning.retraining import Retraining
from psplib.training.fit import Checkpoint

LEADING = 5  # eigenvalues


@dataclass(frozen=True)
class Census(Analysis):
    """Every replica of a retraining, and the gradual network with the same mask, by itself."""

    retraining: Retraining = setting("paper", "Sec. 5.2: the highest compression of Fig. 1b")
    samples: int = setting(
        "ours", "training images that potentials and curvature are measured on", default=10_000
    )
    samples_all: int = setting(
        "ours",
        "training images for the curvature in all coordinates, of a dense network",
        default=2_000,
    )

    @property
    def title(self) -> str:
        return f"census of {self.retraining.title}"

    def analyse(
        self, data: Data, solutions: Solutions, checkpoint: Checkpoint | None = None
    ) -> dict[str, pd.DataFrame]:
        """`networks`: a row for G (arm `lobster`) and each replica: loss and error on the training
        images and on the test set, mean z^2, entropies in bits, the leading eigenvalues `lambda_1`,
        ... in the surviving coordinates with the largest of their residuals relative to the first,
        `lambda_1_all` in all coordinates, `norm` of the weights; `neurons`: for each of them z^2
        and entropies by layer and class (z^2 over all classes)."""
        checkpoint = checkpoint or Checkpoint()
        images = first_images(data.train, self.samples)
        networks = self.networks(solutions)
        rows: list[dict[str, Any]] = []
        neurons: list[dict[str, Any]] = []
        title = f"census of {self.retraining.arm}"
        todo = checkpoint.each(networks, rows, neurons, note=lambda one: f"{title}, {one[0]}")
        for arm, replica, weights in todo:
            model = with_weights(solutions.model, weights)
            name = {"arm": arm, "replica": replica}
            score, test = psp.LossAndError(), psp.LossAndError()
            square, pairs = psp.MeanSquare(), entropy.SecondOrder()
            psp.observe(model, images, score, square, pairs, mask=solutions.mask)
            psp.observe(model, data.test, test, mask=solutions.mask)
            entropies = {"first": pairs.first.entropy(), **pairs.entropies()}
            found = eigen.leading(hessian.hessian(model, images, solutions.mask), LEADING)
            fewer = first_images(data.train, self.samples_all)
            dense = eigen.leading(hessian.hessian(model, fewer, solutions.mask, "all"), 1)
            rows.append(
                name
                | {"train_loss": score.loss, "train_error": score.error}
                | {"test_loss": test.loss, "test_error": test.error}
                | {"z2": square.mean}
                | {order: e.mean for order, e in entropies.items()}
                | {f"lambda_{i}": v for i, v in enumerate(found.values.tolist(), 1)}
                | {"residual": float((found.residuals / found.values[0]).max())}
                | {"lambda_1_all": float(dense.values[0]), "norm": float(weights.norm())}
            )
            neurons += [
                name
                | {"layer": layer, "class": c, "z2": square.by_layer[layer]}
                | {order: float(e.by_class[layer][c]) for order, e in entropies.items()}
                for layer, bits in entropies["first"].by_class.items()
                for c in range(len(bits))
            ]
        return {"networks": pd.DataFrame(rows), "neurons": pd.DataFrame(neurons)}

    @property
    def writes(self) -> Files:
        """See `analyse`."""
        name, networks = {"arm": NAME, "replica": ANY}, 1 + len(self.retraining.replicas)
        scores = {"train_loss": SIZE, "train_error": SHARE, "test_loss": SIZE, "test_error": SHARE}
        bits = {order: NUMBER for order in ("first", "joint", "mutual", "agreement")}
        values = {f"lambda_{rank}": NUMBER for rank in range(1, LEADING + 1)}
        values |= {"lambda_1_all": NUMBER, "residual": NUMBER, "norm": SIZE}
        neurons = {**name, "layer": NAME, "class": COUNT, "z2": SIZE, **bits}
        return {
            "networks": Table({**name, **scores, "z2": SIZE, **bits, **values}, networks),
            "neurons": Table(neurons, range(networks, 10**6)),
        }

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that G and every replica have a row, and each as many by layer and class."""
        numbers = [-1, *self.retraining.replicas]
        artefact.insist_rows("networks", ["replica"], zip(numbers))
        places = artefact.table("neurons")[["layer", "class"]].drop_duplicates().to_numpy().tolist()
        whole = [(number, *place) for number in numbers for place in places]
        artefact.insist_rows("neurons", ["replica", "layer", "class"], whole)

    shown = (("census", "networks"), ("neurons", "neurons"))

    @property
    def row_labels(self) -> dict[str, Any]:
        return {"lobster_seed": self.retraining.lobster.seed}
