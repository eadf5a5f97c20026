"""The book's tables of settings, with the source of each value, and of the runs behind figures."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from psplib.core import config as configuration
from psplib.core.config import Origin, key, read
from psplib.experiments import scales
from psplib.experiments.curvature import Curvature
from psplib.experiments.designs import Beyond, Design, Learning, Minima, Rivals, Transfers
from psplib.experiments.kinds import KINDS
from psplib.experiments.plane import Map
from psplib.paper import entropy_learning, transfer
from psplib.paper.display import Results, cards, counted, fold
from psplib.pruning.lobster import Lobster
from psplib.pruning.retraining import Retraining
from psplib.pruning.sensitivity import Sensitivity
from psplib.runs.run import Run

# What tells the runs of an experiment apart is no choice.
HIDDEN = (
    "lobster",
    "point",
    "points",
    "arm",
    "iterative",
    "retraining",
    "subspace",
    "definition",
    "pairs",
)

_HE = "He et al. (2016), section 4.2, for CIFAR-10; the code that the paper names has it too"
_STEP = Origin("reference", _HE)
_PART = "a part of the training images and of the test images at smoke scale, all of them elsewhere"
_BFLOAT16 = Origin(
    "ours", "at quick scale an epoch takes half as long on a CPU that multiplies in bfloat16"
)
_HIGHEST = Origin(
    "paper",
    "Sec. 5.2: the highest compression of Fig. 1b; the run ends at the first plateau that is at "
    "least this sparse",
)
_FASHION = Origin(
    "ours",
    "far beyond the 80 % at which the paper sees a degradation; the run ends at the first plateau "
    "that is at least this sparse",
)
_RESNET_RUN = {
    "learning_rate": Origin(
        "ours",
        "a tenth of He et al.'s: the rate of a gradual run never falls, so it is small throughout",
    ),
    "batch_size": _STEP,
    "momentum": _STEP,
    "weight_decay": _STEP,
    "shrinkage": Origin(
        "ours",
        "lambda; 3.5 % per epoch of 352 steps for a weight to which the loss is insensitive, where "
        "LeNet-5's published value makes it 5.3 % per epoch of 540; at quick scale half as much "
        "again, so that 80 epochs come to 90 %: with 3e-5, which was tried first, 29 of them came "
        "to 63 %, and each pruning took about a twentieth of what was left",
    ),
    "tolerance": Origin(
        "ours",
        "TWT; at the paper's scale LOBSTER's published value for LeNet-5 on MNIST, elsewhere more, "
        "so that fewer prunings are needed",
    ),
    "patience": Origin("ours", "PWE; at the paper's scale as for the LeNets, elsewhere less"),
    "target_sparsity": Origin(
        "ours",
        "the paper's text gives none; the run ends at the first plateau that is at least this "
        "sparse",
    ),
    "samples": Origin("ours", _PART),
    "precision": _BFLOAT16,
}
_RESNET_RETRAINING = {
    "epochs": Origin(
        "reference",
        "He et al. (2016), section 4.2: 64,000 steps, which are 182 epochs of 352; the code that "
        "the paper names has 200; at quick scale what a CPU can pay",
    ),
    "replicas": Origin(
        "paper",
        "Sec. 5: 10 initialisations, 10 structures; ours also repeats the rewound network; at "
        "quick scale two, and one structure layer by layer",
    ),
    "precision": _BFLOAT16,
    "learning_rate": _STEP,
    "batch_size": _STEP,
    "momentum": _STEP,
    "weight_decay": _STEP,
    "steps": Origin(
        "reference",
        "He et al. (2016), section 4.2: the learning rate falls tenfold after 32,000 and 48,000 of "
        "64,000 steps, here after these shares of the epochs; so has the code that the paper names",
    ),
}
# A field of a configuration says where its value comes from. Where it has another source in an
# experiment, that is here: the learning rate of ResNet-32 is not that of LeNet-5.
SOURCES: dict[tuple[str, type[Run]], dict[str, Origin]] = {
    ("minima", Lobster): {"target_sparsity": _HIGHEST},
    ("figure_1b", Lobster): {"target_sparsity": _HIGHEST},
    ("figure_1c", Lobster): {"target_sparsity": _FASHION},
    ("figure_1d", Lobster): _RESNET_RUN,
    ("figure_1d", Retraining): _RESNET_RETRAINING,
}


class Deviation(NamedTuple):
    """A choice that could change a verdict: what the paper or its authors' code has, what is done
    here; the verdicts that hang on it."""

    what: str
    theirs: str
    ours: str
    verdicts: str


_LOSS_OR_ERROR = (
    "G is the epoch of the lowest validation loss since the last pruning, from which LOBSTER goes "
    "on; a retrained network that of the lowest validation error. The weights of no other epoch "
    "are kept, so that one rule for both needs the runs again: among the controls is G with "
    "LOBSTER's shrinking, chosen by the rule of the retrained ones"
)
DEVIATIONS = (
    Deviation(
        "how long a plateau is waited for",
        "PWE 20 (LOBSTER's published value for LeNet-5 on MNIST)",
        "PWE 5, what a CPU can pay: each pruning comes earlier, and a mask is of a network less "
        "settled",
        "all that rest on LOBSTER's masks",
    ),
    Deviation(
        "the learning rate of a gradual run",
        "LOBSTER's code, as published since, lets it fall tenfold where the validation loss stands "
        "still (PyTorch's ReduceLROnPlateau, 10 epochs, then 50 of rest); the paper says nothing",
        "it stays as it is",
        "G generalises better, lies lower, lies in a narrower minimum",
    ),
    Deviation(
        "the threshold of a pruning",
        "bisects T itself, from the mean |w| of the layers, until the losses at both ends differ "
        "by less than 5 % of the bound, and takes the middle, whose loss is not looked at",
        "bisects the rank of |w|: the largest T whose validation loss is within the bound, exactly",
        "all that rest on LOBSTER's masks: a pruning may go further or less far",
    ),
    Deviation(
        "the point of Fig. 1 at a sparsity",
        "their log keeps, of all epochs since the last pruning, that of the best validation "
        "accuracy",
        "the state at the plateau, of the lowest validation loss, from which the next pruning "
        "begins",
        "gradual against one-shot pruning, Fig. 1",
    ),
    Deviation(
        "which epoch a network is taken from",
        "by accuracy, gradual; not said of the others",
        _LOSS_OR_ERROR,
        "G generalises better, lies lower, lies in a narrower minimum, has the lower z²",
    ),
    Deviation(
        "what z² is averaged over",
        "hidden layers, by Eq. (2); the authors' code watches every layer, the logits too",
        "both averages are reported: their signs differ in LeNet-5",
        "lower PSP magnitudes",
    ),
    Deviation(
        "what narrow means",
        "the five largest eigenvalues; not said whether pruned coordinates count",
        "λ₁ in surviving and in all coordinates, λ₁ · ‖θ‖² and λmax of |w|·H·|w|, which a "
        "rescaling leaves alone; on the same number of images, on several samples of them",
        "narrower minimum; not all narrow minima generalise worse",
    ),
    Deviation(
        "when a region of low z², or entropy, may be left out",
        '"they correspond to high-loss values"',
        "its loss is higher than that of 1-S, the worse of the two solutions. This rule came after "
        "the numbers: before it the lowest point of the grid was the measure, and nothing could "
        "fail",
        "regions of lower magnitude, of lower entropy",
    ),
    Deviation(
        "the average of first-order entropy",
        "all neurons in one mean, so that the first layer counts most",
        "layers of equal weight; the pooled mean beside it",
        "comparable first-order entropies",
    ),
    Deviation(
        "second order",
        "no formula in the paper",
        "joint entropy, mutual information, and the agreement of the authors' code",
        "higher second-order entropy",
    ),
    Deviation(
        "layers of PSP-entropy",
        "the authors' code watches the output layer too",
        "hidden layers: the paper speaks of neurons before a ReLU",
        "comparable first-order entropies",
    ),
    Deviation(
        "the split into training and validation",
        "drawn by the seed of the run",
        "one split, seed 0, for all runs: what another split would change is in no interval",
        "all that are over gradual runs",
    ),
    Deviation(
        "pixels of Fashion-MNIST",
        "divided by 0.3205 in LOBSTER's code",
        "divided by their standard deviation over the training set, 0.3530",
        "Fig. 1c",
    ),
    Deviation(
        "how long ResNet-32 is pruned",
        "not said",
        "at quick scale 80 epochs at most, at a rate that never falls, and a plateau after 2 "
        "without improvement: where LOBSTER never comes to the dense error, it is not set against "
        "networks whose rate falls (a rule that was made before any of them was scored)",
        "Fig. 1d",
    ),
    Deviation(
        "initial values of ResNets",
        "He's in the code that the paper names; PyTorch's defaults in LOBSTER's",
        "He's, as in the code that the paper names",
        "Fig. 1d",
    ),
)


def deviations_table() -> Any:
    """The choices that could change a verdict, whether a setting holds them or not. An HTML
    table."""
    return as_html(["what", "paper, authors' code", "here", "verdicts that hang on it"], DEVIATIONS)


def settings(asked: Mapping[str, tuple[str, Callable[[Any], Run]]]) -> Any:
    """A fold with a table for each configuration, by what it is called: an experiment's, which a
    function takes from it. HTML."""
    from IPython.display import HTML

    parts = []
    for name, (experiment, pick) in asked.items():
        rows = _settings(experiment, pick)
        table = as_html(["setting", *scales.SCALES, "from", "why"], rows).data
        parts.append(fold(f"{name}: {counted(len(rows), 'setting')}", f"<div>{table}</div>"))
    return HTML("".join(parts))


def _settings(experiment: str, pick: Callable[[Any], Run]) -> list[list[str]]:
    """Every setting of a configuration: its value at each scale, where that comes from, and why."""
    panels = {scale: scales.experiment(experiment, scale) for scale in scales.SCALES}
    picked = {scale: pick(panel) for scale, panel in panels.items()}
    rows = []
    for name, origin in _origins(experiment, picked["paper"]).items():
        if name in HIDDEN:
            continue
        values = [_value(getattr(config, name)) for config in picked.values()]
        if name == "seed":
            values = [_value(_seeds(panels[scale], config)) for scale, config in picked.items()]
        rows.append([name.replace("_", " "), *values, origin.source, origin.why])
    return rows


def _origins(experiment: str, config: Run) -> dict[str, Origin]:
    return configuration.origins(config) | SOURCES.get((experiment, type(config)), {})


def gradual_pruning(panel: Design) -> Lobster:
    """The first gradual run of an experiment."""
    return panel.lobsters[0]


def retrained(panel: Design) -> Retraining:
    """How an experiment retrains."""
    return panel.retrained


def narrowness(panel: Minima) -> Run:
    """The sharpness of G and the rewound networks of Figs. 2 to 4."""
    return panel.sharpness(panel.retrained)


def each_network(panel: Minima) -> Run:
    """The census of Figs. 2 to 4."""
    return panel.census(panel.retrained)


def single_neurons(panel: Minima) -> Run:
    """The profile of the neurons of Fig. 4."""
    return panel.profile(panel.retrained)


def class_selectivity(panel: Minima) -> Run:
    """How class-specific the networks of Fig. 4 are."""
    return panel.selectivity(panel.retrained)


def map_of(subspace: str, pairs: bool = False) -> Callable[[Minima], Run]:
    """A map of the plane of Figs. 2 to 4."""
    return lambda panel: next(
        a
        for a in panel.analyses(panel.retrained).values()
        if isinstance(a, Map) and (a.subspace, a.pairs) == (subspace, pairs)
    )


def line_of(subspace: str, definition: str = "converged") -> Callable[[Minima], Run]:
    """The eigenvalues along the line of Fig. 2b."""
    return lambda panel: next(
        a
        for a in panel.analyses(panel.retrained).values()
        if isinstance(a, Curvature) and (a.subspace, a.definition) == (subspace, definition)
    )


def transferred(panel: Transfers) -> Run:
    """What the features of the first source's networks are read out on."""
    source = panel.networks[0]
    return panel.transfer(source, source.retrained)


def fine_tuned(panel: Transfers) -> Run:
    """How the first source's networks are fine-tuned."""
    source = panel.networks[0]
    return panel.fine_tuning(source, source.retrained)


def learnt(panel: Learning) -> Run:
    """How networks learn by entropy."""
    return panel.networks[0].template


def weight_decay(architecture: str) -> Callable[[Beyond], Run]:
    """The gradual run without the sensitivity term, of "beyond the paper"."""
    return lambda panel: _rivals(panel, architecture).decays[0]


def magnitude_pruning(architecture: str) -> Callable[[Beyond], Run]:
    """Magnitude pruning, of "beyond the paper"."""
    return lambda panel: _rivals(panel, architecture).magnitudes([1.0, 0.5])[0]


def gradients(panel: Beyond) -> Run:
    """What the size of the gradients is measured on, of "beyond the paper"."""
    return Sensitivity(panel.lobsters[0])


def _rivals(panel: Beyond, architecture: str) -> Rivals:
    return next(r for r in panel.networks if r.lobsters[0].architecture == architecture)


def _seeds(panel: Design, config: Run) -> tuple[int, ...]:
    """The seeds of the gradual runs that differ from one by nothing else."""
    assert isinstance(config, Lobster)
    runs = list(panel.lobsters)
    if isinstance(panel, Beyond):
        runs += [run for rivals in panel.networks for run in rivals.decays]
    alike = {run.seed for run in runs if replace(run, seed=config.seed) == config}
    return tuple(sorted(alike))


def runs_tables(figures: Mapping[str, Results]) -> Any:
    """The runs behind figures, by their names: a fold for each, with how many they are and what
    they took, and a row for each run. HTML."""
    from IPython.display import HTML

    folds = "".join(_runs(name, results) for name, results in figures.items())
    return HTML(f'<div class="psplib-wide">{folds}</div>')


_RUN = ("run", "key", "commit", "finished (UTC)", "minutes", "computed with", "data, SHA-256")


def _runs(name: str, results: Results) -> str:
    rows = []
    for artefact in results.artefacts:
        facts = artefact.provenance
        rows.append(
            [
                book_name(read(artefact.config, KINDS)),
                artefact.folder.name,
                facts["commit"][:10] + (" (modified)" if facts["modified"] else ""),
                facts["finished"][:16].replace("T", " "),
                f"{facts['seconds'] / 60:.1f}",
                f"{facts['device']}, {counted(facts['threads'], 'thread')}, torch {facts['torch']}",
                "{name} ({variant}) {sha256:.10}".format(**facts["data"]),
            ]
        )
    hours = sum(a.provenance["seconds"] for a in results.artefacts) / 3600
    lacking = f", {len(results.missing)} not run yet" if results.missing else ""
    alike = [i for i in (5, 6) if len({row[i] for row in rows}) == 1]
    of_all = "".join(f"<span><b>{_RUN[i]}</b> {html.escape(rows[0][i])}</span>" for i in alike)
    rows += [[book_name(c), key(c), "not run", *[""] * 4] for c in results.missing]
    shown = [i for i in range(len(_RUN)) if i not in alike]
    table = as_html([_RUN[i] for i in shown], [[row[i] for i in shown] for row in rows]).data
    summary = f"{name}: {counted(len(results.artefacts), 'run')}, {hours:,.1f} core hours{lacking}"
    return fold(html.escape(summary), f'<p class="psplib-badge">{of_all}</p><div>{table}</div>')


# Of what a run says of itself, the words that the book has other ones for.
_NAMES = {
    "rewound with shrinking": transfer.LOOKS["rewound-shrinking"].name,
    **{arm: look.name for arm, look in transfer.LOOKS.items()},
    **{f"({labels}": f"({name}" for labels, (_, _, name) in entropy_learning.LOOKS.items()},
    "LOBSTER, seed": "gradual run",
    " from seed": ", gradual run",
    ", from seed": ", gradual run",
}
_CODED = re.compile("|".join(map(re.escape, sorted(_NAMES, key=len, reverse=True))))


def book_name(run: Run) -> str:
    """What a run is, by the names that arms have in the book."""
    return _CODED.sub(lambda found: _NAMES[found[0]], run.title)


def _value(value: Any) -> str:
    if value is None:
        return "all"
    if isinstance(value, tuple) and any(isinstance(v, str) for v in value):
        return ", ".join(value)
    if isinstance(value, tuple):
        first, last = (value[0], value[-1]) if value else ("none", "none")
        if len(value) < 3:
            return str(first) if first == last else f"{first}, {last}"
        return f"{first} to {last}"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def as_html(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Any:
    """A table in the book's style; every cell is escaped."""
    from IPython.display import HTML

    return HTML(cards(head, [[html.escape(cell) for cell in row] for row in rows]))
