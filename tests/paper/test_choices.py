"""The tables of settings list every choice, with its source."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from psplib.experiments import scales
from psplib.paper import choices
from psplib.paper.figure_1 import Figure1
from psplib.runs.store import published


def settings(experiment: str, pick: Callable[[Any], Any]) -> str:
    return choices.settings({"these": (experiment, pick)}).data


@pytest.mark.parametrize(
    ("pick", "names"),
    [
        (choices.gradual_pruning, ["seed", "target sparsity"]),
        (choices.retrained, ["epochs"]),
        (choices.each_network, ["samples", "samples all"]),
        (choices.single_neurons, ["samples"]),
        (choices.narrowness, ["samples", "parts"]),
        (choices.map_of("surviving"), ["steps", "margin", "direction"]),
        (choices.map_of("surviving", pairs=True), ["steps"]),
        (choices.line_of("all", "legacy"), ["steps"]),
    ],
)
def test_every_setting_is_listed(pick: Callable[[Any], Any], names: list[str]) -> None:
    html = settings("minima", pick)
    for name in names:
        assert f'<td data-name="setting">{name}</td>' in html
    assert "retraining</td>" not in html


def test_an_experiment_may_have_a_source_of_its_own() -> None:
    fashion, digits = (
        settings(name, choices.gradual_pruning) for name in ("figure_1c", "figure_1a")
    )
    assert "far beyond the 80 %" in fashion
    assert "far beyond the 80 %" not in digits


def test_weight_decay_has_the_seeds_of_its_own_runs() -> None:
    html = settings("beyond", choices.weight_decay("lenet-300"))
    assert '<td data-name="setting">seed</td>' in html
    assert '<td data-name="paper">0 to 2</td>' in html


def test_values_and_reasons_are_those_of_the_configurations() -> None:
    gradual = settings("figure_1a", choices.gradual_pruning)
    for text in ("learning rate", "TWT", "PWE", "0.985", "split seed", "0 to 2"):
        assert text in gradual
    retrained = settings("figure_1a", choices.retrained)
    assert "epochs" in retrained
    assert "0 to 9" in retrained
    assert str(scales.figure_1a("paper").retrained.epochs) in retrained


def test_every_run_has_a_row_and_its_arm_the_name_that_the_book_has() -> None:
    figure = Figure1.collect(scales.figure_1a("paper"), published())
    text = choices.runs_tables({"Fig. 1a": figure}).data
    rows = len(figure.artefacts) + len(figure.missing)
    assert text.count("<tr>") == rows + 1
    assert text.count("random structure, layer by layer, gradual run 0, point") == 8
    assert not re.search("restructured|reinitialised|LOBSTER|seed", text)
    for artefact in figure.artefacts:
        assert text.count(artefact.folder.name) == 1
    assert "<b>data, SHA-256</b> mnist (standard) c868f4cc70" in text
    retrained = figure.panel.retrained
    shrunk = replace(retrained, arm="rewound", shrinkage=1e-4, point=3)
    assert choices.book_name(shrunk).startswith(
        "rewound (1-S), with shrinking, gradual run 0, point 3"
    )


def test_what_could_change_a_verdict_is_listed_with_it() -> None:
    html = choices.deviations_table().data
    for deviation in choices.DEVIATIONS:
        assert all(deviation)
    for text in ("PWE 20", "the threshold of a pruning", "validation accuracy", "the logits too"):
        assert text in html
    for text in ("one split, seed 0", "0.3205", "initial values of ResNets", "the output layer"):
        assert text in html
