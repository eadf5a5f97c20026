"""Learning by PSP-entropy, the paper's second future work: networks trained to keep the entropy of
their states, and what their features are worth on other data sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.analysis import entropy, psp
from psplib.analysis.features import Features
from psplib.analysis.ridge import read_out
from psplib.core.artefact import Artefact, Parents, Parts
from psplib.core.config import setting
from psplib.core.errors import PsplibError, one_of, whole_number
from psplib.core.schema import COUNT, NAME, NUMBER, SHARE, SIZE, Files, Table
from psplib.core.seeds import derive
from psplib.experiments.sharpness import curvature_of
from psplib.experiments.solutions import first_images
from psplib.experiments.transfer import Network, draws, features, target
from psplib.nn import models
from psplib.nn.data import Data
from psplib.nn.masks import Mask
from psplib.pruning.lobster import Lobster, OfLobster
from psplib.training.entropy_learning import LABELS, RISE, WAIT, EntropyTerm, ramp
from psplib.training.fit import Checkpoint, order
from psplib.training.trainer import evaluate, flat

# In bits, an index, and of curvature.
MEASURED = ("information", "selectivity", "narrow", "narrow_global", "narrow_relative")
SHARP_ON = 2_000  # training images: as everywhere


@dataclass(frozen=True)
class EntropyLearning(OfLobster):
    """Replicas trained with the loss CE - gamma * R, R the entropy of their neurons' states given
    the class (`EntropyTerm`), dense or rewound under a mask, and read out on other data sets.

    They are scored at their last epoch: to choose one would be to choose a gamma.
    """

    lobster: Lobster = setting("paper", "Sec. 6: PSP-entropy maximization-based learning")
    gamma: float = setting("ours", "weight of the entropy in bits; below zero it is held down")
    labels: str = setting(
        "ours",
        "what the entropy is conditional on; controls: none, and classes that are shuffled in the "
        "penalty",
        default="classes",
    )
    point: int = setting("ours", "of the gradual run whose mask is rewound; 0 is dense", default=0)
    replicas: tuple[int, ...] = setting(
        "ours", "draw initial values and order, the same for every gamma", default=(0, 1, 2, 3, 4)
    )
    epochs: int = setting("ours", "5 without, 10 of rising, 5 of full gamma", default=20)
    wait: int = setting("ours", "epochs without the entropy", default=WAIT)
    rise: int = setting("ours", "epochs in which gamma rises", default=RISE)
    batch_size: int = setting("ours", "50 images of a class, to estimate its rates", default=500)
    learning_rate: float = setting("ours", "as everywhere", default=0.1)
    rate: float = setting("ours", "weight of a minibatch in the running rates", default=0.1)
    temperature: float = setting(
        "ours", "softness of a state backwards, in its standard deviations", default=1.0
    )
    targets: tuple[str, ...] = setting(
        "ours", "the data sets that features are read out on", default=("fashion-mnist", "digits")
    )
    shots: int = setting("ours", "labelled images of each class", default=100)
    draws: int = setting("ours", "times that these are drawn", default=20)
    samples: int = setting("ours", "images as for transfer", default=10_000)
    pairs: int = setting(
        "ours",
        "of each layer and minibatch whose mutual information counts against the entropy; without "
        "any it is of first order",
        default=0,
        added=True,
    )
    measured: bool = setting(
        "ours",
        "whether I(state; class), class selectivity and sharpness are measured, too",
        default=False,
        added=True,
    )

    def __post_init__(self) -> None:
        ramp(self.gamma, 1, self.wait, self.rise)  # refuses what is not finite
        one_of("labels", self.labels, LABELS)
        if self.lobster.architecture not in ("lenet-300", "lenet-5"):
            raise PsplibError(
                f"Learning by entropy is for LeNets; got {self.lobster.architecture!r}."
            )
        least = {"point": 0, "wait": 0, "rise": 0, "pairs": 0, "epochs": 1, "draws": 1}
        for name, bound in least.items():
            # No file of a run tells how long it was: no more than anybody would wait for.
            whole_number(name, getattr(self, name), bound, 10**6)
        if not self.replicas or len(set(self.replicas)) < len(self.replicas):
            raise PsplibError(f"replicas must be different numbers; got {self.replicas}.")

    @property
    def parents(self) -> tuple[Lobster, ...]:
        return (self.lobster,) if self.point else ()

    @property
    def title(self) -> str:
        where = f"point {self.point}" if self.point else "dense"
        order = ", second order" if self.pairs else ""
        what = f"{self.labels}{order}{', measured' if self.measured else ''}"
        return f"gamma {self.gamma:g} ({what}), {where}, × {len(self.replicas)}"

    @property
    def cost(self) -> float:
        slower = 4 if self.pairs else 2
        return len(self.replicas) * (self.epochs * slower * self.lobster.epoch_cost(True) + 2)

    def make(self, data: Data, parents: Parents, checkpoint: Checkpoint) -> Parts:
        """The tables of `analyse`."""
        mask = self.lobster.mask(self.point, parents)
        device = data.train.x.device
        targets = [target(name, device, self.samples, 2_000) for name in self.targets]
        return {**self.analyse(data, targets, mask, checkpoint)}

    def analyse(
        self,
        data: Data,
        targets: Sequence[Data],
        mask: Mask,
        checkpoint: Checkpoint | None = None,
    ) -> dict[str, pd.DataFrame]:
        """`networks`: a row for each replica with its validation and test error and its entropies
        in bits on training images, and the columns of `MEASURED` where it is `measured`; `probes`:
        for each replica and target the test error of the read-out of the last hidden layer, mean
        over draws."""
        checkpoint = checkpoint or Checkpoint()
        rows: list[dict[str, Any]] = []
        probes: list[dict[str, Any]] = []
        drawn = {t.name: list(draws(t, (self.shots,), self.draws)) for t in targets}
        for replica in checkpoint.each(self.replicas, rows, probes, note=lambda _: self.title):
            model = self.train(data, mask, replica)
            pairs, tell = entropy.SecondOrder(), Features()
            psp.observe(model, first_images(data.train, self.samples), pairs, tell, mask=mask)
            bits = {"first": pairs.first.entropy(), **pairs.entropies()}
            rows.append(
                {"replica": replica}
                | {
                    f"{name}_error": evaluate(model, getattr(data, name)).error
                    for name in ("validation", "test")
                }
                | {order: bits[order].mean for order in ("first", "joint", "mutual")}
                | (measured(model, mask, tell, data) if self.measured else {})
            )
            network = Network(self.labels, replica, mask, flat(model).cpu())
            for t in targets:
                _, own = next(features(model, network, t))
                own = own.standardised(f"the last hidden layer of replica {replica} on {t.name}")
                reads = read_out(own, [d[self.shots] for d in drawn[t.name]])
                error = sum(r.error for r in reads) / len(reads)
                probes.append({"replica": replica, "target": t.name, "error": error})
        return {"networks": pd.DataFrame(rows), "probes": pd.DataFrame(probes)}

    def train(self, data: Data, mask: Mask, replica: int) -> nn.Module:
        """A replica after its last epoch, in evaluation mode."""
        seed = self.lobster.seed if self.point else derive("replica", replica)
        x, y = data.train.x, data.train.y
        model = models.build(self.lobster.architecture, seed)
        model = model.to(x.device).to(memory_format=torch.channels_last)  # for convolutions
        mask.apply_(model)
        kept = {name: m.to(x.device) for name, m in mask.items()}
        term = EntropyTerm(data.classes, self.labels, self.temperature, self.rate, self.pairs)
        generator = torch.Generator().manual_seed(derive("permuted", replica))
        parameters = dict(model.named_parameters())
        for epoch in range(1, self.epochs + 1):
            gamma = ramp(self.gamma, epoch, self.wait, self.rise)
            shuffled = order(len(y), derive("replica", replica), epoch).to(x.device)
            for batch in shuffled.split(self.batch_size):
                logits, potentials = forward(model, x[batch])
                loss = F.cross_entropy(logits, y[batch])
                if gamma:
                    loss = loss - gamma * term(potentials, y[batch], generator)
                gradients = torch.autograd.grad(loss, list(parameters.values()))
                with torch.no_grad():
                    for (name, p), g in zip(parameters.items(), gradients, strict=True):
                        p.sub_(self.learning_rate * g * kept[name])
            if not math.isfinite(loss.item()):
                raise PsplibError(f"The training with gamma {self.gamma:g} diverged.")
        return model.eval()

    @property
    def writes(self) -> Files:
        """See `analyse`."""
        errors = {"validation_error": SHARE, "test_error": SHARE}
        bits = {order: SIZE for order in ("first", "joint", "mutual")}
        bits |= dict.fromkeys(MEASURED, NUMBER) if self.measured else {}
        count = len(self.replicas)
        probes = {"replica": COUNT, "target": NAME, "error": SHARE}
        return {
            "networks": Table({"replica": COUNT, **errors, **bits}, count),
            "probes": Table(probes, count * len(self.targets)),
        }

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that every replica was trained, and read out on every target."""
        artefact.insist_rows("networks", ["replica"], zip(self.replicas))
        artefact.insist_rows("probes", ["replica", "target"], product(self.replicas, self.targets))

    def tables(self, artefact: Artefact) -> dict[str, pd.DataFrame]:
        """`learnt`: a row for each replica, its probe error the mean over targets, with `gamma`,
        `labels` and `point`."""
        errors = artefact.table("probes").groupby("replica")["error"].mean()
        table = artefact.table("networks").assign(
            gamma=self.gamma, labels=self.labels, point=self.point
        )
        return {"learnt": table.assign(probe_error=table["replica"].map(errors))}


def measured(model: nn.Module, mask: Mask, tell: Features, data: Data) -> dict[str, float]:
    """The columns of `MEASURED`: what the states and activities of neurons tell of the class, means
    over layers; and how sharp the minimum is, by the largest eigenvalue of the Hessian in the
    surviving coordinates, that times the squared norm of the weights, and that of `|w|·H·|w|`."""
    layers = pd.DataFrame(tell.by_layer().values()).mean()
    weights = flat(model)
    found = curvature_of(model, first_images(data.train, SHARP_ON), mask, weights.cpu())
    whole = found["lambda_1"] * float(weights.norm()) ** 2
    tells = float(layers["information"]), float(layers["selectivity"])
    values = (*tells, found["lambda_1"], whole, found["lambda_1_relative"])
    return dict(zip(MEASURED, values, strict=True))


def forward(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The logits of a chain of layers, and the potentials (B, n) in front of each of its ReLUs."""
    potentials = []
    for module in model.children():
        if isinstance(module, nn.ReLU):
            potentials.append(x.flatten(1))
        x = module(x)
    return x, potentials
