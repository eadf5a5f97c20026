"""Masked fine-tuning: what networks are worth on other data sets that are trained on there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from psplib.core.artefact import Artefact, Parents, Parts
from psplib.core.config import setting
from psplib.core.errors import whole_number
from psplib.core.schema import ANY, NAME, SHARE, Files, Table
from psplib.core.seeds import derive
from psplib.experiments.solutions import OfRetraining
from psplib.experiments.transfer import Network, check_features, check_targets, networks, target
from psplib.nn import models
from psplib.nn.data import Data
from psplib.pruning.retraining import Retraining
from psplib.training.engines import trainers
from psplib.training.fit import Checkpoint, Trial, train_epoch
from psplib.training.update import Sgd


@dataclass(frozen=True)
class FineTuning(OfRetraining):
    """The networks of a `Transfer` trained on, all their layers, under their masks, on other data
    sets; scored at the last epoch, so that nothing is chosen."""

    retraining: Retraining = setting("paper", "Sec. 6: sparse architectures, gradual and one-shot")
    targets: tuple[str, ...] = setting("ours", "the data sets that are trained on")
    epochs: int = setting("ours", "few: it is what was learnt before that is compared", default=10)
    learning_rate: float = setting("ours", "as everywhere", default=0.1)
    batch_size: int = setting("ours", "as everywhere", default=100)
    samples: int = setting("ours", "training images of a target", default=10_000)

    def __post_init__(self) -> None:
        check_features(self.retraining)
        check_targets(self.targets)
        for name in ("epochs", "batch_size", "samples"):
            # No file of a run tells how long it was: no more than anybody would wait for.
            whole_number(name, getattr(self, name), 1, 10**6)

    @property
    def title(self) -> str:
        return f"fine-tuning of {self.retraining.title}"

    @property
    def cost(self) -> float:
        epoch = self.retraining.lobster.epoch_cost(not self.retraining.point)
        trained = (2 + len(self.retraining.replicas)) * len(self.targets) * self.epochs
        return trained * epoch * self.samples / 40_000

    def make(self, data: Data, parents: Parents, checkpoint: Checkpoint) -> Parts:
        """The table of `analyse`."""
        device = data.train.x.device
        targets = [target(name, device, self.samples, 2_000) for name in self.targets]
        return {"errors": self.analyse(targets, networks(self.retraining, parents), checkpoint)}

    def analyse(
        self,
        targets: Sequence[Data],
        found: Sequence[Network],
        checkpoint: Checkpoint | None = None,
    ) -> pd.DataFrame:
        """A row for each network and target, with its test `error` there after the last epoch; all
        see the same images in the same order."""
        checkpoint = checkpoint or Checkpoint()
        rows: list[dict[str, Any]] = []
        model = models.build(self.retraining.lobster.architecture, self.retraining.lobster.seed)
        todo = [(network, data) for network in found for data in targets]
        update = Sgd(self.learning_rate)
        for network, data in checkpoint.each(
            todo, rows, note=lambda one: f"{self.title}, {one[0].arm}"
        ):
            ((trainer, number),) = trainers(model, [network.mask], data, self.batch_size)
            trainer.set_weights(number, network.weights)
            seed = derive("fine-tuning", data.name)
            trial = Trial(trainer, number, seed, lambda epoch: update, self.epochs)
            while not trial.is_done:
                train_epoch([trial])
            row = {"arm": network.arm, "replica": network.replica, "target": data.name}
            rows.append(row | {"error": trial.score("test").error})
        return pd.DataFrame(rows)

    @property
    def writes(self) -> Files:
        """See `analyse`."""
        name = {"arm": NAME, "replica": ANY, "target": NAME}
        most = (2 + len(self.retraining.replicas)) * len(self.targets)
        return {"errors": Table(name | {"error": SHARE}, range(len(self.targets), most + 1))}

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that every network was trained on every target."""
        table = artefact.table("errors")
        each = table[["arm", "replica"]].drop_duplicates().to_numpy().tolist()
        asked = [(*network, name) for network in each for name in self.targets]
        artefact.insist_rows("errors", ["arm", "replica", "target"], asked)
        arms = {"lobster", "untrained"} if self.retraining.point else set()
        artefact.insist(set(table["arm"]) == arms | {self.retraining.arm}, "the table of arms")

    shown = (("fine-tuned", "errors"),)

    @property
    def row_labels(self) -> dict[str, Any]:
        return {"lobster_seed": self.retraining.lobster.seed, "point": self.retraining.point}
