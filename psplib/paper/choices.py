"""The book's tables of settings, with the source of each value, and of the runs behind figures."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from psplib.core import config as configuration
from psplib.core.config import Origin, key, read
from psplib.experiments import scales
from psplib.experiments.curvature import Curvature
from psplib.experiments.kinds import KINDS
from psplib.experiments.plane import Map
from psplib.experiments.scales import Beyond, Experiment, Minima, Rivals
from psplib.experiments.transfer import Transfers
from psplib.paper.display import Results, cards
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
_PART = (
    "a part of the training images and of the test images at quick scale, that a CPU can pay it; "
    "all of them at the paper's"
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
        "LeNet-5's published value makes it 5.3 % per epoch of 540; a part of the data has fewer "
        "steps per epoch, and so a larger lambda",
    ),
    "tolerance": Origin(
        "ours",
        "TWT; at the paper's scale LOBSTER's published value for LeNet-5 on MNIST, on a part of "
        "the data more, so that fewer prunings are needed",
    ),
    "patience": Origin("ours", "PWE; as for the LeNets, on a part of the data less"),
    "target_sparsity": Origin(
        "ours",
        "the paper's text gives none; the run ends at the first plateau that is at least this "
        "sparse",
    ),
    "samples": Origin("ours", _PART),
}
_RESNET_RETRAINING = {
    "epochs": Origin(
        "reference",
        "He et al. (2016), section 4.2: 64,000 steps, which are 182 epochs of 352; the code that "
        "the paper names has 200",
    ),
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


def settings_table(experiment: str, pick: Callable[[Any], Run]) -> Any:
    """Every setting of one configuration of an experiment, which `pick` takes from it: its value at
    each scale, where that comes from, and why. An HTML table."""
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
    return as_html(["setting", *scales.SCALES, "from", "why"], rows)


def _origins(experiment: str, config: Run) -> dict[str, Origin]:
    return configuration.origins(config) | SOURCES.get((experiment, type(config)), {})


def gradual_pruning(panel: Experiment) -> Lobster:
    """The first gradual run of an experiment."""
    return panel.lobsters[0]


def retrained(panel: Experiment) -> Retraining:
    """How an experiment retrains."""
    return panel.retrained


def each_network(panel: Minima) -> Run:
    """The census of Figs. 2 to 4."""
    return panel.census(panel.retrained)


def single_neurons(panel: Minima) -> Run:
    """The profile of the neurons of Fig. 4."""
    return panel.profile(panel.retrained)


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
    source = panel.sources[0]
    return panel.transfer(source, source.retrained)


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


def _seeds(panel: Experiment, config: Run) -> tuple[int, ...]:
    """The seeds of the gradual runs that differ from one by nothing else."""
    assert isinstance(config, Lobster)
    runs = list(panel.lobsters)
    if isinstance(panel, Beyond):
        runs += [run for rivals in panel.networks for run in rivals.decays]
    alike = {run.seed for run in runs if replace(run, seed=config.seed) == config}
    return tuple(sorted(alike))


def runs_table(results: Results) -> Any:
    """A row for each run behind a figure. An HTML table."""
    rows = []
    for artefact in results.artefacts:
        facts = artefact.provenance
        rows.append(
            [
                read(artefact.config, KINDS).title,
                artefact.folder.name,
                facts["commit"][:10] + (" (modified)" if facts["modified"] else ""),
                facts["finished"][:16].replace("T", " "),
                f"{facts['device']}, {facts['threads']} thread{'s'[: facts['threads'] > 1]}, "
                f"torch {facts['torch']}",
                f"{facts['seconds'] / 60:.1f}",
                "{name} ({variant}) {sha256:.10}".format(**facts["data"]),
            ]
        )
    rows += [[c.title, key(c), "not run", *[""] * 4] for c in results.missing]
    head = ["run", "key", "commit", "finished (UTC)", "computed with", "minutes", "data, SHA-256"]
    return as_html(head, rows)


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
