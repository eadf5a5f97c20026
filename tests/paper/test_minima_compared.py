"""What Figs. 2 to 4 share: their tables, and G beside its one-shot networks."""

import numpy as np
import pytest
from worlds import noise_factor, world

from psplib.experiments import scales
from psplib.paper import figure_2, figure_3, figure_4, minima
from psplib.paper.figure_2 import claims_of_figure_2
from psplib.paper.statistics import FAILS, HOLDS, MIXED, NOT_RUN, UNDECIDED, interval
from psplib.runs.store import Store


def test_without_runs_every_claim_is_not_run(tmp_path) -> None:
    nothing = minima.collect_minima(scales.minima("paper"), Store(tmp_path))
    claims = [
        *claims_of_figure_2(nothing),
        *figure_3.claims_of_figure_3(nothing),
        *figure_4.claims_of_figure_4(nothing),
    ]
    assert {v.verdict for v in claims} == {NOT_RUN}
    assert len(nothing.missing) == 2, "until they are there, nothing hangs on the gradual runs"
    for figure in (
        figure_2.loss_map,
        figure_2.eigenvalues_plot,
        figure_2.networks_of_figure_2,
        figure_3.magnitude_map,
        figure_3.magnitude_maps,
        figure_3.networks_of_figure_3,
        figure_4.first_order_map,
        figure_4.second_order_maps,
        figure_4.layers_of_figure_4,
    ):
        assert figure(nothing) is None
    tables = (
        figure_2.eigenvalues_table(nothing),
        figure_2.residuals(nothing),
        figure_2.table_of_figure_2(nothing),
        figure_4.table_of_figure_4(nothing),
        figure_4.entropy_by_layer(nothing),
    )
    assert all(table.empty for table in tables)


def test_a_claim_that_one_gradual_run_contradicts_is_mixed() -> None:
    found = world()
    other = (found.table["lobster_seed"] == 1) & (found.table["arm"] == "lobster")
    found.table.loc[other, "lambda_1"] = 9.0
    narrow = figure_2.narrower(found)
    assert narrow.verdict == MIXED
    assert narrow.effect == pytest.approx(0.9, rel=1e-3), "the effect of the run that fails"
    found.table.loc[other, "lambda_1"] = 10.0
    assert figure_2.narrower(found).verdict == UNDECIDED


def test_ratios_and_differences_are_those_of_the_table() -> None:
    lower, better, _, narrow, _ = claims_of_figure_2(world())
    assert (lower.effect, lower.unit) == (pytest.approx(2.0, rel=1e-3), "×")
    assert (narrow.effect, narrow.unit) == (pytest.approx(3.0, rel=1e-3), "×")
    assert (better.effect, better.unit) == (pytest.approx(0.2, rel=1e-2), "points")
    assert lower.low < lower.effect < lower.high
    assert lower.n == 6
    expected = interval(np.log([0.04 * noise_factor(r) for r in range(6)]))
    assert lower.high == pytest.approx(np.exp(expected.high) / 0.02)


def test_layers_are_compared_one_by_one() -> None:
    found = world(joint=(2.0, 2.0), mutual=(0.04, 0.05))
    joint, mutual = (
        minima.layer_differences(found, order).set_index(["lobster_seed", "layer"])
        for order in ("joint", "mutual")
    )
    assert len(joint) == 2 * 3
    assert joint.loc[(0, "relu2"), "verdict"] == UNDECIDED
    row = mutual.loc[(1, "relu3")]
    assert (row["G"], row["verdict"]) == (pytest.approx(0.01), FAILS)
    assert row["difference"] == pytest.approx(0.25 * (0.04 - 0.05), rel=1e-3)


def test_every_network_is_drawn() -> None:
    found = world()
    (ax, *_) = figure_2.networks_of_figure_2(found).axes
    drawn = np.concatenate([ln.get_ydata() for ln in ax.lines])
    assert sorted(drawn) == pytest.approx(sorted(found.table["train_loss"]))


def test_in_the_papers_world_every_claim_holds() -> None:
    found = world()
    claims = [
        *claims_of_figure_2(found),
        *figure_3.claims_of_figure_3(found),
        *figure_4.claims_of_figure_4(found),
    ]
    assert {v.verdict for v in claims} == {HOLDS}
