"""Transfer, the paper's first future work: what the frozen features of G, of the networks retrained
from its mask and of their references are worth on other data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psplib.analysis import entropy, psp
from psplib.analysis.ridge import Outputs, draw_images, read_out
from psplib.core.artefact import Artefact, Parents, Parts
from psplib.core.config import setting
from psplib.core.errors import PsplibError, one_of, whole_number
from psplib.core.schema import ANY, COUNT, NAME, NUMBER, SHARE, SIZE, Column, Files, Table
from psplib.core.seeds import derive
from psplib.experiments.solutions import (
    OfRetraining,
    best_replica,
    first_images,
    solutions,
    with_weights,
)
from psplib.nn import data as data_sets
from psplib.nn import models
from psplib.nn.compact import compact
from psplib.nn.data import Data, Split
from psplib.nn.masks import Mask, unpack_bits
from psplib.pruning.magnitude import Magnitude
from psplib.pruning.retraining import Retraining
from psplib.training.fit import Checkpoint
from psplib.training.trainer import flat

# What is read out: the inputs of the last linear layer, and of the last two, by how many they are.
DEPTHS = (1, 2)
# ITU-R BT.601: the brightness of red, green, blue.
LUMA = (0.299, 0.587, 0.114)
SIDE = 28
ORDERS = ("first", "joint", "mutual", "agreement")


class Network(NamedTuple):
    """A network of an arm: weights (P,), zero where the mask has pruned."""

    arm: str
    replica: int
    mask: Mask
    weights: Tensor


@dataclass(frozen=True)
class Transfer(OfRetraining):
    """Ridge read-outs of frozen features on other data sets, of every replica of a retraining whose
    weights were kept, else of its best one; beside them of the gradual network with the same mask
    (arm `lobster`) and of the mask with its initial values (`untrained`), or, of the dense arm,
    which has no mask, of the raw pixels (`pixels`). Of networks pruned by magnitude, which were
    kept, there is nothing beside them."""

    retraining: Retraining | Magnitude = setting(
        "paper", "Sec. 6: sparse architectures, gradual and one-shot"
    )
    targets: tuple[str, ...] = setting("ours", "the data sets that features are read out on")
    shots: tuple[int, ...] = setting(
        "ours", "labelled images of each class", default=(5, 10, 50, 100)
    )
    draws: int = setting(
        "ours", "times that these images are drawn, the same for all networks", default=20
    )
    samples: int = setting(
        "ours",
        "training images of a target that are drawn from and standardised by; of the source, that "
        "entropies are measured on",
        default=10_000,
    )
    validation: int = setting(
        "ours", "validation images of a target that the penalty is chosen on", default=2_000
    )

    def __post_init__(self) -> None:
        check_features(self.retraining)
        check_targets(self.targets)
        check_different("shots", self.shots)
        for each in self.shots:
            whole_number("shots", each, 1)
        for name in ("draws", "samples", "validation"):
            whole_number(name, getattr(self, name), 1)

    @property
    def beside(self) -> tuple[str, ...]:
        """The arms beside the one that was retrained."""
        if isinstance(self.retraining, Magnitude):
            return ()
        return ("lobster", "untrained") if self.retraining.point else ("pixels",)

    @property
    def title(self) -> str:
        return f"transfer of {self.retraining.title}"

    @property
    def cost(self) -> float:
        each = 60.0 if self.retraining.lobster.architecture == "lenet-5" else 15.0
        return each * (2 + len(self.retraining.replicas)) * self.draws / 20

    def make(self, data: Data, parents: Parents, checkpoint: Checkpoint) -> Parts:
        """The tables of `analyse`."""
        targets = [
            target(name, data.train.x.device, self.samples, self.validation)
            for name in self.targets
        ]
        return {**self.analyse(data, targets, networks(self.retraining, parents), checkpoint)}

    def analyse(
        self,
        data: Data,
        targets: Sequence[Data],
        found: Sequence[Network],
        checkpoint: Checkpoint | None = None,
    ) -> dict[str, pd.DataFrame]:
        """`networks`: a row for each network with its test error on the source and its entropies in
        bits on the source's training images; `probes`: for each network, target, number of `layers`
        that are read and of `shots` the test error of the read-out, mean and standard deviation
        over draws, the `neurons` that vary, and the mean decimal logarithm of the penalties;
        `targets`: what each is, to the byte, and its numbers of images."""
        checkpoint = checkpoint or Checkpoint()
        rows: list[dict[str, Any]] = []
        probes: list[dict[str, Any]] = []
        model = models.build(self.retraining.lobster.architecture, self.retraining.lobster.seed)
        drawn = {t.name: list(draws(t, self.shots, self.draws)) for t in targets}
        named: list[tuple[str, int, Network | None]] = [(n.arm, n.replica, n) for n in found]
        if "pixels" in self.beside:
            named += [("pixels", -1, None)]
        todo = checkpoint.each(named, rows, probes, note=lambda one: f"{self.title}, {one[0]}")
        for arm, replica, network in todo:
            name = {"arm": arm, "replica": replica}
            rows.append(name | (self._source(model, network, data) if network else {}))
            for target in targets:
                for layers, own in features(model, network, target):
                    label = f"the last {layers} layers of {arm} {replica}"
                    own = own.standardised(f"{label} on {target.name}")
                    for each in self.shots:
                        reads = read_out(own, [d[each] for d in drawn[target.name]])
                        errors = pd.Series([r.error for r in reads])
                        penalties = torch.tensor([r.penalty for r in reads]).log10()
                        probes.append(
                            name
                            | {"target": target.name, "layers": layers, "shots": each}
                            | {"error": float(errors.mean()), "sd": float(errors.std(ddof=0))}
                            | {"neurons": own.width, "penalty": float(penalties.mean())}
                        )
        return {
            "networks": pd.DataFrame(rows),
            "probes": pd.DataFrame(probes),
            "targets": pd.DataFrame([_described(t) for t in targets]),
        }

    def _source(self, model: nn.Module, network: Network, data: Data) -> dict[str, float]:
        model = with_weights(model, network.weights)
        pairs, test = entropy.SecondOrder(), psp.LossAndError()
        psp.observe(model, first_images(data.train, self.samples), pairs, mask=network.mask)
        psp.observe(model, data.test, test, mask=network.mask)
        bits = {"first": pairs.first.entropy(), **pairs.entropies()}
        return {"test_error": test.error} | {order: e.mean for order, e in bits.items()}

    @property
    def writes(self) -> Files:
        """See `analyse`; raw pixels have no error and no entropies on the source."""
        name = {"arm": NAME, "replica": ANY}
        source = {"test_error": Column(float, 0, 1, has_gaps=True)}
        source |= {order: Column(float, has_gaps=True) for order in ORDERS}
        probes = {"target": NAME, "layers": COUNT, "shots": COUNT, "error": SHARE, "sd": SIZE}
        probes |= {"neurons": COUNT, "penalty": NUMBER}
        images = {n: COUNT for n in ("pool", "validation", "test")}
        most = len(self.beside) + len(self.retraining.replicas)
        each = len(self.targets) * len(self.shots) * len(DEPTHS)
        return {
            "networks": Table(name | source, range(1 + len(self.beside), most + 1)),
            "probes": Table(name | probes, range(most * each + 1)),
            "targets": Table(
                {"target": NAME, "variant": NAME, "sha256": NAME, **images}, len(self.targets)
            ),
        }

    def check(self, artefact: Artefact, parents: Parents) -> None:
        """Insist that every network was read out on every target with every number of images, and
        that the targets are the data sets that they are called."""
        networks, targets = artefact.table("networks"), artefact.table("targets")
        arms = {*self.beside, self.retraining.arm}
        artefact.insist(set(networks["arm"]) == arms, "the table of arms")
        names = ["arm", "replica", "target", "layers", "shots"]
        asked = [
            (arm, replica, *place)
            for arm, replica in networks[["arm", "replica"]].itertuples(index=False)
            for place in product(self.targets, DEPTHS[: 1 if arm == "pixels" else None], self.shots)
        ]
        artefact.insist_rows("probes", names, asked)
        artefact.insist_rows("targets", ["target"], zip(self.targets))
        for name, variant, digest in targets[["target", "variant", "sha256"]].to_numpy().tolist():
            known = data_sets.DIGESTS[name].get(variant)
            artefact.insist(known == digest, f"the target {name}")

    shown = (("transfer networks", "networks"), ("transfer probes", "probes"))

    @property
    def row_labels(self) -> dict[str, Any]:
        """`of` is the arm that was retrained."""
        of = self.retraining
        return {"of": of.arm, "point": of.point, "lobster_seed": of.lobster.seed}


def check_features(retraining: Retraining | Magnitude) -> None:
    """Refuse a network without linear layers to read."""
    architecture = retraining.lobster.architecture
    if architecture not in ("lenet-300", "lenet-5"):
        raise PsplibError(
            f"Features are those that linear layers read, in LeNets; got {architecture!r}."
        )
    if isinstance(retraining, Magnitude) and not retraining.kept:
        raise PsplibError("Features of magnitude pruning need its networks kept; kept is False.")


def check_different(name: str, values: Sequence[Any]) -> None:
    """Insist on at least one value, and on no two alike."""
    if not values or len(set(values)) < len(values):
        raise PsplibError(f"{name} must be different and at least one; got {values}.")


def check_targets(names: Sequence[str]) -> None:
    """Insist on data sets that are known, each once."""
    check_different("targets", names)
    for name in names:
        one_of("a target", name, data_sets.NAMES)


def networks(retraining: Retraining | Magnitude, parents: Parents) -> list[Network]:
    """The networks that a retraining's transfer is of; see `Transfer`."""
    lobster, point, artefact = retraining.lobster, retraining.point, parents[retraining]
    mask = lobster.mask(point, parents)
    if isinstance(retraining, Magnitude):
        each = zip(retraining.replicas, *retraining.networks(artefact), strict=True)
        return [Network(retraining.arm, n, mask.with_flat(own), w) for n, own, w in each]
    found = []
    if point:
        start = flat(models.build(lobster.architecture, lobster.seed)) * mask.flat
        found.append(Network("lobster", -1, mask, lobster.weights(point, parents)))
        found.append(Network("untrained", -1, mask, start))

    if "survivors.safetensors" in artefact.provenance["files"]:
        kept = solutions(retraining, parents)
        replicas = zip(kept.numbers, kept.replicas, strict=True)
        return found + [Network(retraining.arm, number, mask, w) for number, w in replicas]
    best, table = artefact.tensors("best"), artefact.table("replicas")
    mask = mask.with_flat(unpack_bits(best["packed"], len(mask.flat)))
    weights = torch.zeros(len(mask.flat)).masked_scatter_(mask.flat, best["weights"])
    return [
        *found,
        Network(retraining.arm, int(table["replica"][best_replica(table)]), mask, weights),
    ]


def draws(target: Data, shots: Sequence[int], times: int) -> Iterator[dict[int, Tensor]]:
    """The examples of each draw, by how many of a class: the same for every network."""
    for number in range(times):
        yield {
            each: draw_images(
                target.train.y,
                each,
                target.classes,
                torch.Generator().manual_seed(derive("transfer", target.name, number)),
                target.name,
            )
            for each in shots
        }


@lru_cache(maxsize=len(data_sets.NAMES))
def target(name: str, device: torch.device, samples: int, validation: int) -> Data:
    """A data set as grey images of 28 x 28, normalised by its training images; of these the first
    `samples`, of those for validation the first `validation`."""
    data = data_sets.load_data(name)
    if data.train.x.shape[1:] != (1, SIDE, SIDE):
        data = grey(data)

    def put(split: Split, most: int) -> Split:
        return Split(split.x[:most].clone().to(device), split.y[:most].clone().to(device))

    return replace(
        data,
        train=put(data.train, samples),
        validation=put(data.validation, validation),
        test=put(data.test, len(data.test)),
    )


def grey(data: Data) -> Data:
    """A data set in colour as grey images of 28 x 28: the brightness of the pixels, averaged down,
    normalised by the training images."""
    std, mean = torch.tensor(data.std), torch.tensor(data.mean)
    luma = torch.tensor(LUMA)

    def shrink(split: Split) -> Tensor:
        pixels = torch.cat(
            [
                torch.einsum("nchw,c->nhw", x, luma * std)[:, None] + float(luma @ mean)
                for x in split.x.split(1000)
            ]
        )
        return F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)

    splits = (data.train, data.validation, data.test)
    parts = [shrink(split) for split in splits]
    middle, spread = float(parts[0].mean()), float(parts[0].std())
    train, validation, test = (
        Split((x - middle) / spread, split.y) for x, split in zip(parts, splits, strict=True)
    )
    return replace(
        data, mean=(middle,), std=(spread,), train=train, validation=validation, test=test
    )


def features(
    model: nn.Module, network: Network | None, target: Data
) -> Iterator[tuple[int, Outputs]]:
    """The features of a target by how many layers they are read from; of no network its pixels."""
    parts = (target.train, target.validation, target.test)
    if network is None:
        read = [[part.x.flatten(1)] for part in parts]
    else:
        model = with_weights(model, network.weights)
        read = [list(reversed(inputs(model, network.mask, part.x))) for part in parts]
    for layers in DEPTHS[: len(read[0])]:
        own = [(torch.cat(x[:layers], 1), part.y) for x, part in zip(read, parts, strict=True)]
        yield layers, Outputs(own[0], own[1], own[2], target.classes)


def inputs(model: nn.Module, mask: Mask, x: Tensor, batch: int = 1000) -> list[Tensor]:
    """What the last two linear layers of a chain read of images x, (N, d) each: its compact form's
    units, also those that no surviving weight reads."""
    form = compact(model, mask, sparse=False, unread=True)
    form.load_(flat(model))
    small = form.model.to(x.device).eval()
    caught: list[Tensor] = []
    linear = [m for m in small.modules() if isinstance(m, nn.Linear)][-2:]
    for module in linear:
        module.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    with torch.no_grad():
        for part in x.split(batch):
            small(form.read(part))
    return [torch.cat(caught[k :: len(linear)]) for k in range(len(linear))]


def _described(target: Data) -> dict[str, Any]:
    return {
        "target": target.name,
        "variant": target.variant,
        "sha256": target.digest,
        "pool": len(target.train),
        "validation": len(target.validation),
        "test": len(target.test),
    }
