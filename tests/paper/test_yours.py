"""Yours against published: the same networks side by side, and how far apart they are."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from worlds import ARMS, panel, papers_world, world

from psplib.experiments import scales
from psplib.experiments.names import PUBLISHED
from psplib.paper import figure_2, yours
from psplib.paper.controls import FigureControls
from psplib.paper.entropy_learning import FigureLearning
from psplib.paper.minima import Quantity
from psplib.paper.transfer import FigureTransfer
from psplib.paper.yours import Numbers, differences_from

SHOWN = {"test_error": Quantity("test error [%]", 2, 100)}


def networks(errors: list[float], sparsity: float = 0.9, seed: int = 0, arm: str = "rewound"):
    return pd.DataFrame(
        {"arm": arm, "lobster_seed": seed, "replica": range(len(errors)), "sparsity": sparsity}
        | {"test_error": errors}
    )


def beside(mine: pd.DataFrame, theirs: pd.DataFrame, network: str = "A") -> dict[str, object]:
    found = differences_from(
        [Numbers("A", "quick", mine)], [Numbers(network, "paper", theirs)], SHOWN
    )
    (row,) = found.to_dict("records")
    return row


def test_the_distance_is_welchs_statistic() -> None:
    a, b = [0.02, 0.03, 0.025, 0.027], [0.01, 0.012, 0.013, 0.011, 0.014]
    row = beside(networks(a), networks(b))
    assert row["apart"] == f"{stats.ttest_ind(a, b, equal_var=False).statistic:+.1f}"
    assert row["yours"].startswith("2.55")
    assert row["published"].startswith("1.20")
    assert row["scale"] == "quick; paper"


def test_single_networks_have_a_difference_and_no_standard_error() -> None:
    assert beside(networks([0.03]), networks([0.01]))["apart"] == "+2, no standard error"
    assert beside(networks([0.02] * 2), networks([0.02] * 2))["apart"] == "0.0"


def test_the_gradual_run_of_the_same_seed_comes_before_one_that_is_nearer() -> None:
    theirs = pd.concat([networks([0.01, 0.02], 0.901), networks([0.5, 0.6], 0.9, seed=1)])
    assert beside(networks([0.03, 0.03]), theirs)["published"] == "1.00 / 2.00"
    far = pd.concat([networks([0.01, 0.02], 0.99), networks([0.5, 0.6], 0.901, seed=1)])
    assert beside(networks([0.03, 0.03]), far)["published"] == "50.00 / 60.00"


@pytest.mark.parametrize(("network", "sparsity"), [("B", 0.9), ("A", 0.95), ("A", 0.88)])
def test_another_network_or_sparsity_is_not_compared(network: str, sparsity: float) -> None:
    row = beside(networks([0.03, 0.02]), networks([0.01, 0.02], sparsity), network)
    assert row["apart"].startswith("scale differs: nothing ")
    assert np.isnan(row["published"])


def test_only_the_last_mask_of_the_first_run_is_shown() -> None:
    mine = pd.concat([networks([0.5], 0.5), networks([0.01], 0.9), networks([0.9], 0.99, seed=1)])
    assert beside(mine, networks([0.01]))["yours"] == "1.00"


def test_a_chapter_beside_itself_is_no_standard_error_apart() -> None:
    panels = [panel(papers_world, ARMS)]
    said = yours.against_published("quick", panels, lambda: panels, SHOWN).data
    assert said.count("<tr>") == 1 + 4, "a head; dense, G and two arms"
    assert set(re.findall(r">([^<]*)</td>\s*</tr>", said)) == {"+0.0", "+0, no standard error"}
    assert yours.against_published(PUBLISHED, panels, lambda: panels, SHOWN) is None
    minima = world()
    minima.table["sparsity"] = 0.99
    shown = figure_2.QUANTITIES
    table = differences_from(yours.numbers(minima), yours.numbers(minima), shown)
    assert len(table) == 2 * len(set(shown) & set(minima.table))
    assert set(table["apart"]) == {"+0.0", "+0, no standard error"}


def learnt() -> FigureLearning:
    rows = [
        {"network": "LeNet-300, MNIST", "gamma": gamma, "labels": labels, "replica": replica}
        | {"test_error": 0.02 + gamma + 0.01 * replica}
        for gamma, labels in ((0.0, "classes"), (0.1, "classes"), (0.1, "permuted"))
        for replica in (0, 1)
    ]
    table = pd.DataFrame(rows)
    return FigureLearning(scales.entropy_learning("quick"), table, (), ())


def probed() -> FigureTransfer:
    rows = [
        {"network": "LeNet-300, MNIST", "arm": arm, "lobster_seed": 0, "replica": replica}
        | {"target": target, "layers": layers, "shots": shots, "sparsity": 0.98}
        | {"error": 0.3 + 0.1 * replica + 0.2 * (layers + shots)}
        for arm in ("lobster", "untrained")
        for target in ("digits", "fashion-mnist")
        for layers in (1, 2)
        for shots in (5, 100)
        for replica in (0, 1)
    ]
    return FigureTransfer(scales.transfer("quick"), pd.DataFrame(rows), pd.DataFrame(), (), ())


def controlled() -> FigureControls:
    rows = [
        {"network": "LeNet-300, MNIST", "control": control, "lobster_seed": 0, "replica": replica}
        | {"sparsity": 0.98, "test_error": 0.02 + 0.01 * replica}
        for control in ("gradual", "one_shot_long")
        for replica in (0, 1)
    ]
    return FigureControls(scales.controls("quick"), pd.DataFrame(rows), pd.DataFrame(), (), ())


@pytest.mark.parametrize(
    ("results", "shown", "names"),
    [
        (learnt(), yours.ERROR, {"γ 0, given the class", "γ 0.1, given shuffled classes"}),
        (probed(), yours.PROBE, {"gradual (G)", "the mask, not trained"}),
        (controlled(), yours.ERROR, {"gradual (G)", "1-S trained for long"}),
    ],
)
def test_every_chapter_has_its_networks_by_their_names(results, shown, names: set[str]) -> None:
    found = yours.numbers(results)
    table = differences_from(found, found, shown)
    assert names <= set(table["networks"])
    assert set(table["apart"]) == {"+0.0"}
    assert len(table) == sum(len(set(n.table["arm"])) for n in found)
    is_transfer = isinstance(results, FigureTransfer)
    assert [n.network for n in found] == (
        ["LeNet-300, MNIST → digits", "LeNet-300, MNIST → Fashion-MNIST"]
        if is_transfer
        else ["LeNet-300, MNIST"]
    )
