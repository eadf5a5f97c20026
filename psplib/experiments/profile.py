"""The single neurons of Fig. 4: on how many images of each class those of G and 1-S are active."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from psplib.analysis import entropy, psp
from psplib.core.artefact import Artefact, Parents
from psplib.core.config import setting
from psplib.core.schema import ANY, COUNT, NAME, Files, Table
from psplib.experiments.solutions import Analysis, Solutions, first_images, with_weights
from psplib.nn.data import Data
from psplib.pruning.retraining import Retraining
from psplib.training.fit import Checkpoint


@dataclass(frozen=True)
class Profile(Analysis):
    """The single neurons of G and of the best replica: on how many images of each class they are
    active."""

    retraining: Retraining = setting("paper", "Sec. 5.3: G and 1-S at the highest compression")
    samples: int = setting("ours", "training images", default=10_000)

    @property
    def title(self) -> str:
        return f"neurons of {self.retraining.title}"

    @property
    def cost(self) -> float:
        """Seconds of one core, about: the images pass through two networks once."""
        return 10.0 * self.retraining.lobster.share

    def analyse(
        self, data: Data, solutions: Solutions, checkpoint: Checkpoint | None = None
    ) -> dict[str, pd.DataFrame]:
        """`neurons`: a row for each hidden neuron of G (arm `lobster`) and of the best replica
        whose state is not the same for all images of every class: its number in its `layer`, and
        the images of each class that it is active on, `active_0`, ...; `layers`: the `neurons` of
        each layer, those that never change counted too; `classes`: the images (`samples`) of each
        class.

        Counts and not bits: they are exact, and shorter. `entropies` makes bits of them.
        """
        images = first_images(data.train, self.samples)
        networks = [
            ("lobster", -1, solutions.gradual),
            (self.retraining.arm, solutions.number, solutions.one_shot),
        ]
        frames = []
        for arm, replica, weights in networks:
            first = entropy.FirstOrder()
            psp.observe(with_weights(solutions.model, weights), images, first, mask=solutions.mask)
            for name, active in first.counts.items():
                table = _varying(first.layers[name], active.cpu(), first.samples.cpu())
                table.insert(0, "layer", name)
                table.insert(0, "replica", replica)
                table.insert(0, "arm", arm)
                frames.append(table)
        sizes = [(name, layer.neurons) for name, layer in first.layers.items()]
        samples = list(enumerate(first.samples.tolist()))
        return {
            "neurons": pd.concat(frames, ignore_index=True),
            "layers": pd.DataFrame(sizes, columns=["layer", "neurons"]),
            "classes": pd.DataFrame(samples, columns=["class", "samples"]),
        }

    @property
    def writes(self) -> Files:
        """See `analyse`."""
        name = {"arm": NAME, "replica": ANY, "layer": NAME, "neuron": COUNT}
        return {
            "neurons": Table(name | {"active_*": COUNT}, range(10**6)),
            "layers": Table({"layer": NAME, "neurons": COUNT}, range(1, 1000)),
            "classes": Table({"class": COUNT, "samples": COUNT}, range(1, 1000)),
        }

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that networks, layers and images are those that were asked for."""
        neurons, classes = artefact.table("neurons"), artefact.table("classes")
        networks = set(zip(neurons["arm"], neurons["replica"], strict=True))
        replicas = {(self.retraining.arm, r) for r in self.retraining.replicas}
        is_ours = networks <= {("lobster", -1), *replicas} and len(networks) <= 2
        artefact.insist(is_ours, "the table of neurons")
        are_different = not neurons.duplicated(["arm", "replica", "layer", "neuron"]).any()
        artefact.insist(are_different, "the table of neurons")
        is_known = set(neurons["layer"]) <= set(
            layers := artefact.table("layers")["layer"].tolist()
        )
        artefact.insist(is_known and len(set(layers)) == len(layers), "the table of layers")
        are_classes = classes["class"].tolist() == [*range(len(classes))]
        are_classes &= bool(classes["samples"].sum() <= self.samples)
        artefact.insist(are_classes, "the table of classes")
        counted = [column for column in neurons if column.startswith("active_")]
        artefact.insist(len(counted) == len(classes), "the table of classes")
        active = neurons[[f"active_{c}" for c in classes["class"]]].to_numpy()
        is_within = bool((active <= classes["samples"].to_numpy()).all())
        artefact.insist(is_within, "the table of neurons")

    shown = tuple((f"profile {name}", name) for name in ("neurons", "layers", "classes"))


def _varying(layer: psp.Layer, active: Tensor, samples: Tensor) -> pd.DataFrame:
    """The neurons that are `active` (C, n) on some of a class and not on all of it, by number."""
    chosen = ((active > 0) & (active < samples[:, None])).any(0)
    counts = {f"active_{c}": row for c, row in enumerate(active[:, chosen].tolist())}
    table = pd.DataFrame({"neuron": layer.watched[chosen].tolist(), **counts})
    return table.sort_values("neuron", ignore_index=True)


def entropies(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The first-order entropies behind a profile's tables: a row for each of its `neurons` with
    `arm`, `replica`, `layer`, `neuron` and the bits of each class, 0, 1, ... (Eq. 4)."""
    names = ["arm", "replica", "layer", "neuron"]
    neurons, samples = tables["neurons"], torch.tensor(tables["classes"]["samples"].tolist())
    active = torch.tensor(neurons.drop(columns=names).to_numpy(copy=True).T)
    bits = entropy.given_class(active, samples)
    return neurons[names].join(pd.DataFrame(bits.T.numpy(), neurons.index))
