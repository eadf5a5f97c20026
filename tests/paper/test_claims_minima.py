"""Verdicts and figures of Figs. 2 to 4 on tables written by hand."""

import dataclasses
import re

import numpy as np
import pytest
from worlds import PAPER, line, noise_factor, world

from psplib.experiments import scales
from psplib.paper import choices as deviations
from psplib.paper import claims_minima, display, figures_minima, statistics, tables
from psplib.paper.statistics import FAILS, HOLDS, NOT_RUN, UNDECIDED
from psplib.paper.tables import Figures2to4
from psplib.runs.store import Store


def verdicts(found: Figures2to4) -> list[str]:
    all_of_them = (claims_minima.figure_2, claims_minima.figure_3, claims_minima.figure_4)
    return [v.verdict for figure in all_of_them for v in figure(found)]


def test_in_the_papers_world_every_claim_holds() -> None:
    assert set(verdicts(world())) == {HOLDS}


def test_in_the_opposite_world_none_does() -> None:
    turned = {k: (b, a) for k, (a, b) in PAPER.items() if a != b} | {"first": (1.0, 1.2)}
    opposite = world(**turned)
    opposite.maps["map"]["loss"] *= -1
    # That the eigenvalues are positive is the one thing that swapping does not turn.
    assert verdicts(opposite) == [FAILS, FAILS, HOLDS, *[FAILS] * 9]


def test_without_runs_every_claim_is_not_run(tmp_path) -> None:
    nothing = tables.collect_minima(scales.minima("paper"), Store(tmp_path))
    assert set(verdicts(nothing)) == {NOT_RUN}
    assert len(nothing.missing) == 2, "until they are there, nothing hangs on the gradual runs"
    for figure in (
        figures_minima.loss_map,
        figures_minima.eigenvalues,
        figures_minima.networks,
        figures_minima.magnitudes,
        figures_minima.layers,
    ):
        assert figure(nothing) is None
    assert figures_minima.plane_maps(nothing, [("map", "magnitude")]) is None
    found = (
        figures_minima.lines(nothing),
        figures_minima.residuals(nothing),
        figures_minima.by_layer(nothing),
        figures_minima.summary(nothing, "figure_2"),
    )
    assert all(table.empty for table in found)


def test_a_claim_must_hold_for_every_gradual_run() -> None:
    found = world()
    other = (found.table["lobster_seed"] == 1) & (found.table["arm"] == "lobster")
    found.table.loc[other, "lambda_1"] = 9.0
    narrow = claims_minima.figure_2(found)[3]
    assert narrow.verdict == FAILS
    assert narrow.effect == pytest.approx(0.9, rel=1e-3), "the effect of the run that fails"
    found.table.loc[other, "lambda_1"] = 10.0
    assert claims_minima.figure_2(found)[3].verdict == UNDECIDED


def test_ratios_and_differences_are_those_of_the_table() -> None:
    lower, better, _, narrow, _ = claims_minima.figure_2(world())
    assert (lower.effect, lower.unit) == (pytest.approx(2.0, rel=1e-3), "×")
    assert (narrow.effect, narrow.unit) == (pytest.approx(3.0, rel=1e-3), "×")
    assert (better.effect, better.unit) == (pytest.approx(0.2, rel=1e-2), "points")
    assert lower.low < lower.effect < lower.high
    assert lower.n == 6
    interval = statistics.interval(np.log([0.04 * noise_factor(r) for r in range(6)]))
    assert lower.high == pytest.approx(np.exp(interval.high) / 0.02)


def test_a_negative_eigenvalue_is_noticed_even_within_its_residual() -> None:
    found = world()
    found.table.loc[3, "lambda_5"] = 5e-4  # the residual is 1e-4 of 10
    assert claims_minima.figure_2(found)[2].verdict == FAILS
    found.table.loc[3, "arm"] = "reinitialised"
    assert claims_minima.figure_2(found)[2].verdict == HOLDS, "it is about G and 1-S"


def test_one_low_point_of_low_loss_refutes_that_there_is_none() -> None:
    found = world()
    points = found.maps["map"]
    assert claims_minima.figure_3(found)[1].verdict == HOLDS
    at = (points["alpha"] == 1.0) & (points["beta"] == 0.0)
    points.loc[at, "loss"] = 0.01
    lower = claims_minima.figure_3(found)[1]
    assert lower.verdict == FAILS
    assert "of 81 points of the plane 54 lie lower" in lower.test


def test_definitions_that_disagree_are_named() -> None:
    found = claims_minima.figure_4(world(mutual=(0.04, 0.05)))
    said = claims_minima.signs(found)
    assert "by *joint* it **holds**" in said
    assert "by *mutual* it **does not hold**" in said
    assert "agree: the claim **holds**" in claims_minima.signs(claims_minima.figure_4(world()))


def test_layers_are_compared_one_by_one() -> None:
    table = claims_minima.by_layer(world(joint=(2.0, 2.0), mutual=(0.04, 0.05)))
    assert len(table) == 2 * 5 * 3
    rows = table.set_index(["lobster_seed", "quantity", "layer"])
    assert rows.loc[(0, "joint", "relu2"), "verdict"] == UNDECIDED
    row = rows.loc[(1, "mutual", "relu3")]
    assert (row["G"], row["verdict"]) == (pytest.approx(0.01), FAILS)
    assert row["difference"] == pytest.approx(0.25 * (0.04 - 0.05), rel=1e-3)


def test_maps_are_drawn_as_the_table_has_them() -> None:
    found = world()
    (ax, _) = figures_minima.plane_maps(found, [("map", "magnitude")]).axes
    drawn = ax.collections[0].get_array().reshape(9, 9)
    points = found.maps["map"].set_index(["beta", "alpha"])["magnitude"]
    assert drawn[0, 0] == points[-1.0, -0.5]
    assert drawn[8, 2] == points[1.0, 0.0]
    labels = {t.get_text(): t.xy for t in ax.texts}
    assert labels == {"G": (0.0, 0), "1-S": (1.0, 0)}


def test_eigenvalues_are_drawn_by_rank_and_legacy_as_crosses() -> None:
    surviving, everything = figures_minima.eigenvalues(world()).axes
    curves = [ln for ln in surviving.lines if ln.get_marker() == "o"]
    crosses = [ln for ln in surviving.lines if ln.get_marker() == "x"]
    assert [ln.get_ydata()[0] for ln in curves] == pytest.approx([10, 8, 6, 4, 2])
    assert [ln.get_ydata()[0] for ln in crosses] == pytest.approx([9, 7.2, 5.4, 3.6, 1.8])
    assert max(everything.lines[0].get_ydata()) == pytest.approx(100)


def test_every_network_is_drawn() -> None:
    found = world()
    (ax, *_) = figures_minima.networks(found).axes
    drawn = np.concatenate([ln.get_ydata() for ln in ax.lines])
    assert sorted(drawn) == pytest.approx(sorted(found.table["train_loss"]))


def test_readings_and_tables_quote_the_censuses() -> None:
    found = world()
    assert "G has a training loss of 0.0200 (0.0400" in figures_minima.reading_2(found)
    assert "mean z² is 0.5000 for G" in figures_minima.reading_3(found)
    assert "G has 2.0000 bits against 1.9000" in figures_minima.reading_4(found)
    table = figures_minima.summary(found, "figure_2")
    assert table["λ₁, surviving"].tolist()[:2] == ["30.00", "10.00\u00a0±\u00a00.01"]
    (row,) = figures_minima.residuals(dataclasses.replace(found, lines={"line": line()})).to_dict(
        "records"
    )
    assert row["worst residual / λ₁"] == "2.0e-04"


def test_units_stand_beside_the_effects() -> None:
    html = display.verdict_table(
        [*claims_minima.figure_2(world()), *claims_minima.figure_4(world())]
    ).data
    assert re.search(r"2\.00 \[2\.00, 2\.00\] ×", html)
    assert re.search(r"\+0\.20 \[\+0\.20, \+0\.20\] points", html)
    assert re.search(r"\+0\.10\d\d \[.*\] bits", html)


@pytest.mark.parametrize(
    "part", ["lobster", "retraining", "census", "profile", "map", "pairs", "line, all"]
)
def test_every_setting_of_the_analyses_is_listed(part: str) -> None:
    html = deviations.table("minima", part).data
    names = {"census": ["samples", "samples all"], "map": ["steps", "margin", "direction"]}
    for name in names.get(part, []):
        assert f'<td data-name="setting">{name}</td>' in html
    assert "retraining</td>" not in html
