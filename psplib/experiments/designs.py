"""What the experiments are made of, and in which order of worth."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple, Protocol

import pandas as pd

from psplib.experiments.census import Census
from psplib.experiments.curvature import Curvature
from psplib.experiments.entropy_learning import EntropyLearning
from psplib.experiments.fine_tuning import FineTuning
from psplib.experiments.plane import Map
from psplib.experiments.profile import Profile
from psplib.experiments.selectivity import Selectivity
from psplib.experiments.sharpness import Sharpness
from psplib.experiments.transfer import Transfer
from psplib.pruning.lobster import KEPT_ABOVE, Lobster, points_with_weights
from psplib.pruning.magnitude import Magnitude
from psplib.pruning.retraining import Retraining
from psplib.pruning.sensitivity import Sensitivity
from psplib.pruning.thresholds import Thresholds
from psplib.runs.run import Run
from psplib.runs.store import Store

RETRAINED = ("rewound", "reinitialised", "restructured-layer", "restructured-global")
NEAR = 0.035  # of a sparsity that is asked for, where the weights of few points were kept


class Design(Protocol):
    """An experiment: what it is made of, at one scale and seed."""

    @property
    def name(self) -> str: ...
    @property
    def scale(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def title(self) -> str: ...
    @property
    def lobsters(self) -> tuple[Lobster, ...]:
        """Its gradual runs."""

    @property
    def retrained(self) -> Retraining:
        """What (the first of) their masks are retrained by."""

    def runs(self, store: Store) -> list[Run]:
        """Its runs, in the order of their worth.

        How many points a gradual run has is known only when it is done: until then the retrainings
        from its masks are not in the list; nor is what analyses a retraining that is not done.
        """


@dataclass(frozen=True)
class _Named:
    name: str
    scale: str
    seed: int
    title: str


class _Examined:
    """What is examined at a mask, on `samples` training images."""

    samples: int

    def census(self, retraining: Retraining) -> Census:
        """The census of a retraining."""
        return Census(retraining, self.samples, min(self.samples, 2_000))

    def sharpness(self, rewound: Retraining) -> Sharpness:
        """How narrow the minima of G and the rewound networks are."""
        return Sharpness(rewound, min(self.samples, 2_000))

    def selectivity(self, rewound: Retraining) -> Selectivity:
        """How class-specific the features of G and the rewound networks are."""
        return Selectivity(rewound, self.samples)


@dataclass(frozen=True)
class _Several(_Named):
    """An experiment on several networks, each with runs of its own."""

    networks: tuple[Any, ...]

    @property
    def lobsters(self) -> tuple[Lobster, ...]:
        """LOBSTER's runs of all networks."""
        return tuple(run for network in self.networks for run in network.lobsters)

    @property
    def retrained(self) -> Retraining:
        """What the first network's masks are retrained by."""
        return self.networks[0].retrained

    def runs(self, store: Store) -> list[Run]:
        """Its runs in the order of their worth, see `Design.runs`."""
        return [run for network in self.networks for run in network.runs(store)]


@dataclass(frozen=True)
class Panel(_Named):
    """One panel of Fig. 1: gradual pruning runs, and what is retrained from the first one's masks,
    the most telling arm first.

    The masks of the later runs are not retrained from: they show how much LOBSTER itself varies.
    """

    lobsters: tuple[Lobster, ...]
    dense: Retraining
    arms: tuple[Retraining, ...]
    most_points: int

    @property
    def retrained(self) -> Retraining:
        """The rewound arm."""
        return self.arms[0]

    @property
    def thresholds(self) -> tuple[Thresholds, ...]:
        """What the reader prunes by hand: the first gradual run of LeNet-300."""
        first = self.lobsters[0]
        return (Thresholds(first),) if first.architecture == "lenet-300" else ()

    def retrainings(self, densities: list[float]) -> list[Retraining]:
        """All arms along the first gradual run.

        `densities` are those of its points, the dense one first. At most `most_points` are
        retrained from: those nearest to equal steps of log density, the first pruned one and the
        last always among them.
        """
        points = spread(densities[1:], self.most_points)
        return [dataclasses.replace(arm, point=point + 1) for arm in self.arms for point in points]

    def runs(self, store: Store) -> list[Run]:
        """Its runs in the order of their worth, see `Design.runs`."""
        gradual: list[Run] = [*self.lobsters[:1], self.dense, *self.lobsters[1:]]
        densities = [1 - s for s in sparsities(self.lobsters[0], store)]
        if not densities:
            return gradual
        return [*gradual, *self.thresholds, *self.retrainings(densities)]


class Grid(NamedTuple):
    """Steps from G to 1-S, and beyond each of them."""

    steps: int
    margin: int


@dataclass(frozen=True)
class Minima(_Examined, _Named):
    """Figs. 2 to 4: at the last point of each gradual run, what is retrained from its mask, and the
    analyses of the two. Maps, curvature, single neurons and re-initialised networks belong to the
    first run; G and the rewound networks of every run have their census and their sharpness."""

    lobsters: tuple[Lobster, ...]
    retrained: Retraining
    grids: dict[str, Grid]
    samples: int

    def arms(self, lobster: Lobster) -> tuple[str, ...]:
        """What is retrained from the last mask of a gradual run."""
        return ("rewound", "reinitialised") if lobster == self.lobsters[0] else ("rewound",)

    def retraining(self, lobster: Lobster, points: int, arm: str) -> Retraining:
        """An arm at the last of a gradual run's points."""
        return dataclasses.replace(self.retrained, lobster=lobster, point=points - 1, arm=arm)

    def profile(self, retraining: Retraining) -> Profile:
        """The single neurons of G and of a retraining's best network."""
        return Profile(retraining, self.samples)

    def analyses(self, rewound: Retraining) -> dict[str, Map | Curvature]:
        """What is made of G and 1-S, the most telling first; by a short name."""

        def plane(grid: str, subspace: str, pairs: bool = False) -> Map:
            return Map(rewound, subspace, *self.grids[grid], pairs, self.samples)

        def line(grid: str, subspace: str, definition: str = "converged") -> Curvature:
            return Curvature(rewound, subspace, definition, *self.grids[grid], self.samples)

        return {
            "map": plane("map", "surviving"),
            "line": line("line", "surviving"),
            "line, all": line("line, all", "all"),
            "pairs": plane("pairs", "surviving", pairs=True),
            "line, legacy": line("line, legacy", "surviving", "legacy"),
            "line, all, legacy": line("line, legacy", "all", "legacy"),
            "map, all": plane("map, all", "all"),
        }

    def runs(self, store: Store) -> list[Run]:
        """Its runs in the order of their worth, see `Design.runs`."""
        found: list[Run] = []
        later: list[Run] = []
        last: list[Run] = []
        for gradual in self.lobsters:
            found.append(gradual)
            points = len(sparsities(gradual, store))
            for arm in self.arms(gradual) if points else ():
                retraining = self.retraining(gradual, points, arm)
                found.append(retraining)
                if store.has(retraining):
                    found.append(self.census(retraining))
                    if arm == "rewound":
                        found += [self.sharpness(retraining), self.selectivity(retraining)]
                    if gradual == self.lobsters[0] and arm == "rewound":
                        later = list(self.analyses(retraining).values())
                        last = [self.profile(retraining)]
        # The first run's map and curvature come before everything that is not there yet.
        there = [c for c in found if store.has(c)]
        return [*there, *later, *(c for c in found if c not in there), *last]


@dataclass(frozen=True)
class Rivals:
    """One network of "beyond the paper": LOBSTER's gradual runs, the same with weight decay only in
    the place of its sensitivity term, and what is retrained at sparsities of the first run: its
    own masks and those of magnitude pruning, all rewound to the same initial values."""

    title: str
    lobsters: tuple[Lobster, ...]
    decays: tuple[Lobster, ...]
    retrained: Retraining
    replicas: tuple[int, ...]
    most_points: int

    def rewound(self, densities: list[float]) -> list[Retraining]:
        """LOBSTER's masks, rewound; `densities` are those of the first run's points."""
        return [dataclasses.replace(self.retrained, point=p) for p in self.points(densities)]

    def magnitudes(self, densities: list[float]) -> list[Magnitude]:
        """Magnitude pruning to the same sparsities: one-shot, iterative."""
        shared = self.retrained
        points = self.points(densities)
        return [
            Magnitude(
                shared.lobster,
                points,
                iterative,
                self.replicas,
                shared.epochs,
                shared.learning_rate,
                shared.batch_size,
            )
            for iterative in (False, True)
        ]

    def renda(self, densities: list[float]) -> list[Magnitude]:
        """One-shot magnitude pruning to the three highest of these sparsities as Renda et al. have
        it: the learning rate falls in steps, and its schedule is rewound with the trained values
        kept; nothing is; the weights are, too."""
        one_shot = self.magnitudes(densities)[0]
        return [
            dataclasses.replace(
                one_shot, points=one_shot.points[-3:], rewinds=rewinds, steps=(0.5, 0.75)
            )
            for rewinds in ("learning rate", "nothing", "weights")
        ]

    def points(self, densities: list[float]) -> tuple[int, ...]:
        """The points of the first run that are retrained from, chosen as in Fig. 1."""
        return tuple(p + 1 for p in spread(densities[1:], self.most_points))

    def runs(self, store: Store) -> list[Run]:
        """Its runs in the order of their worth, see `Design.runs`."""
        first, *others = self.lobsters
        densities = [1 - s for s in sparsities(first, store)]
        if not densities:
            return [first, *self.decays, *others]
        return [
            first,
            Sensitivity(first),
            *self.decays[:1],
            *self.magnitudes(densities),
            *self.rewound(densities),
            *self.renda(densities),
            *self.decays[1:],
            *others,
        ]


@dataclass(frozen=True)
class Beyond(_Several):
    """Comparisons that the paper lacks: is it the sensitivity term, and are LOBSTER's masks better
    than those of magnitude pruning?"""

    networks: tuple[Rivals, ...]


@dataclass(frozen=True)
class Replication(_Examined, _Named):
    """Fig. 1a over many gradual runs: from masks of each but the first, which the figure itself
    retrains from, fewer replicas of two arms at three points; and the censuses of Figs. 2 to 4
    where the replicas' weights are kept, and the sharpness at the last."""

    lobsters: tuple[Lobster, ...]
    retrained: Retraining
    samples: int

    def retrainings(self, lobster: Lobster, sparsities: list[float]) -> list[Retraining]:
        """The arms of a gradual run, at its pruned points nearest to 90 % and to 95 % sparsity and
        at its last; `sparsities` are those of its points, the dense one first."""
        pruned = range(1, len(sparsities))
        goals = [min(pruned, key=lambda p: abs(sparsities[p] - goal)) for goal in (0.90, 0.95)]
        return [
            dataclasses.replace(self.retrained, lobster=lobster, point=point, arm=arm)
            for arm in ("rewound", "reinitialised")
            for point in sorted({*goals, pruned[-1]}, reverse=True)
        ]

    def runs(self, store: Store) -> list[Run]:
        """Its runs in the order of their worth, see `Design.runs`."""
        found: list[Run] = list(self.lobsters)
        for lobster in self.lobsters[1:]:
            pruned = sparsities(lobster, store)
            for retraining in self.retrainings(lobster, pruned) if pruned else ():
                found.append(retraining)
                if store.has(retraining) and pruned[retraining.point] >= KEPT_ABOVE:
                    found.append(self.census(retraining))
                    if retraining.arm == "rewound" and retraining.point == len(pruned) - 1:
                        found += [self.sharpness(retraining), self.selectivity(retraining)]
        return found


@dataclass(frozen=True)
class Controlled(_Examined):
    """The controls of one network, at the last point of each of its gradual runs: templates of what
    is trained from there, in the order of `CONTROLS`."""

    title: str
    lobsters: tuple[Lobster, ...]
    arms: tuple[Retraining, ...]
    samples: int

    @property
    def retrained(self) -> Retraining:
        """1-S."""
        return self.arms[0]

    @property
    def stages(self) -> tuple[tuple[Retraining, ...], ...]:
        """The templates by their worth: 1-S and what takes one of the two differences away; then
        the long training; then the control of the selection."""
        return self.arms[:3], self.arms[3:4], self.arms[4:]

    def runs(self, store: Store) -> list[Run]:
        """The runs of one self of the controls: stage by stage, and in each of them gradual run by
        gradual run, first those whose 1-S is there."""
        pruned = {run: own for run in self.lobsters if (own := sparsities(run, store))}

        def last(template: Retraining, lobster: Lobster) -> Retraining:
            point = len(pruned[lobster]) - 1
            return dataclasses.replace(template, lobster=lobster, point=point)

        found: list[Run] = list(self.lobsters)
        one_shot = self.retrained
        for stage in self.stages:
            for lobster in sorted(pruned, key=lambda run: not store.has(last(one_shot, run))):
                for retraining in (last(template, lobster) for template in stage):
                    found.append(retraining)
                    if store.has(retraining) and pruned[lobster][-1] >= KEPT_ABOVE:
                        found.append(self.census(retraining))
        return found


@dataclass(frozen=True)
class Controls(_Several):
    """What tells gradual from one-shot pruning: the path or the regulariser? Networks that share a
    mask, from G or from the initial values, with LOBSTER's shrinking or without."""

    networks: tuple[Controlled, ...]


@dataclass(frozen=True)
class Source:
    """Gradual runs of one network, and how they are retrained: at the last point by `arms` and
    `others`; and, one replica each, at points near to the sparsities `goals` where the gradual
    network's weights were kept. `dense` is what they are compared with, and iterative magnitude
    pruning, a `ticket`, in at most so many `rounds` on the way of each run."""

    title: str
    lobsters: tuple[Lobster, ...]
    dense: Retraining
    retrained: Retraining
    targets: tuple[str, ...]
    arms: tuple[str, ...] = ("rewound", "reinitialised")
    others: tuple[Retraining, ...] = ()
    goals: tuple[float, ...] = ()
    ticket: Magnitude | None = None
    rounds: int = 5

    def retrainings(self, lobster: Lobster, points: pd.DataFrame) -> list[Retraining | Magnitude]:
        """What is retrained from a gradual run, the most telling first: at its last point each of
        the arms, then on the way, then the ticket; `points` are the run's."""
        last, sparsity = len(points) - 1, points["sparsity"].tolist()
        asked = [(last, dataclasses.replace(self.retrained, arm=arm)) for arm in self.arms]
        asked += [(last, other) for other in self.others]
        kept = [p for p in points_with_weights(points["kept"].tolist()) if p < last]
        one = dataclasses.replace(self.retrained, replicas=self.retrained.replicas[:1])
        near = {
            min(kept, key=lambda p: abs(sparsity[p] - goal), default=0): goal for goal in self.goals
        }
        asked += [(p, one) for p, goal in sorted(near.items()) if abs(sparsity[p] - goal) < NEAR]
        found: list[Retraining | Magnitude] = [
            dataclasses.replace(one, lobster=lobster, point=point) for point, one in asked
        ]
        if not self.ticket or not last:
            return found
        on_the_way = spread((1 - points["sparsity"][1:]).tolist(), self.rounds)
        rounds = tuple(place + 1 for place in on_the_way)
        return [*found, dataclasses.replace(self.ticket, lobster=lobster, points=rounds)]


@dataclass(frozen=True)
class Transfers(_Several):
    """What the features of networks of several sources are worth on other data sets."""

    networks: tuple[Source, ...]
    shots: tuple[int, ...]
    draws: int
    samples: int
    validation: int

    def transfer(self, source: Source, retraining: Retraining | Magnitude) -> Transfer:
        """The transfer of a retraining."""
        sizes = (self.shots, self.draws, self.samples, self.validation)
        return Transfer(retraining, source.targets, *sizes)

    def fine_tuning(self, source: Source, retraining: Retraining) -> FineTuning:
        """The fine-tuning of a retraining."""
        return FineTuning(retraining, source.targets, samples=self.samples)

    def runs(self, store: Store) -> list[Any]:
        """Its runs in the order of their worth, see `Design.runs`."""
        return [run for source in self.networks for run in self.runs_of(source, store)]

    def runs_of(self, source: Source, store: Store) -> list[Any]:
        """The runs of a source: its gradual runs, then retrainings with what is made of them where
        they are there, what is most telling of every gradual run first."""
        found: list[Any] = [*source.lobsters]
        points = {run: store.load(run).table("points") for run in source.lobsters if run in store}
        each = [source.retrainings(run, table) for run, table in points.items()]
        ranked = [one for rank in zip_longest(*each) for one in rank if one]
        for place, retraining in enumerate([source.dense, *ranked]):
            found.append(retraining)
            if store.has(retraining):
                found.append(self.transfer(source, retraining))
                # Of each gradual run the most telling, and dense.
                if place <= len(each) and isinstance(retraining, Retraining):
                    found.append(self.fine_tuning(source, retraining))
        return found


@dataclass(frozen=True)
class Learner:
    """A network that learns by entropy in some `cases`, each a gamma and a kind of labels; where it
    `rewinds`, then also under the last mask of its gradual run, by the classes alone."""

    title: str
    template: EntropyLearning
    cases: tuple[tuple[float, str], ...]
    rewinds: bool = False

    @property
    def lobsters(self) -> tuple[Lobster, ...]:
        """The gradual run whose mask is rewound."""
        return (self.template.lobster,) if self.rewinds else ()

    @property
    def retrained(self) -> Retraining:
        """The dense arm, that a network without entropy is like."""
        t = self.template
        return Retraining(t.lobster, 0, "dense", t.replicas, t.epochs, t.learning_rate)

    def learnt(self, gamma: float, labels: str, point: int = 0) -> EntropyLearning:
        """The networks of a case; gamma 0 knows no labels and no pairs."""
        of = (labels, self.template.pairs) if gamma else ("classes", 0)
        return dataclasses.replace(
            self.template, gamma=gamma, labels=of[0], pairs=of[1], point=point
        )

    def runs(self, store: Store) -> list[Run]:
        """Its runs in the order of their worth, see `Design.runs`."""
        found: list[Run] = [self.learnt(*case) for case in self.cases]
        if self.rewinds:
            lobster = self.template.lobster
            found.append(lobster)
            if points := len(sparsities(lobster, store)):
                masked = [case for case in self.cases if case[1] == "classes"]
                found += [self.learnt(*case, points - 1) for case in masked]
        return found


@dataclass(frozen=True)
class Learning(_Several):
    """Networks that learn by entropy; and gradual runs that do, with their transfer."""

    networks: tuple[Learner, ...]
    gradual: Transfers

    @property
    def lobsters(self) -> tuple[Lobster, ...]:
        """LOBSTER's runs of all networks."""
        return tuple(dict.fromkeys((*super().lobsters, *self.gradual.lobsters)))

    def runs(self, store: Store) -> list[Run]:
        """Its runs in the order of their worth, see `Design.runs`."""
        return [*super().runs(store), *self.gradual.runs(store)]


def sparsities(lobster: Lobster, store: Store) -> list[float]:
    """Those of a gradual run's points, the dense one first; none while it is not done."""
    return store.load(lobster).table("points")["sparsity"].tolist() if store.has(lobster) else []


def spread(densities: list[float], most: int) -> list[int]:
    """Positions of at most `most` of the falling `densities`, in equal steps of their logarithm as
    nearly as can be; the first and the last are always taken.

    >>> spread([0.8, 0.4, 0.39, 0.2, 0.1], 4)
    [0, 1, 3, 4]
    """
    if len(densities) <= most:
        return list(range(len(densities)))
    level = [math.log(d) for d in densities]
    chosen = {0, len(level) - 1}
    for step in range(1, most - 1):
        target = level[0] + (level[-1] - level[0]) * step / (most - 1)
        free = [i for i in range(len(level)) if i not in chosen]
        chosen.add(min(free, key=lambda i: abs(level[i] - target)))
    return sorted(chosen)
