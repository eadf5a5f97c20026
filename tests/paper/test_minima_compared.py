"""What Figs. 2 to 4 share: their tables, and G beside its one-shot networks."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from worlds import censuses, world

from psplib.analysis import entropy, psp
from psplib.experiments import scales
from psplib.nn import models
from psplib.paper import conclusions, figure_2, figure_3, figure_4, minima
from psplib.paper.figure_2 import claims_of_figure_2
from psplib.paper.statistics import (
    FAILS,
    HOLDS,
    MIXED,
    NOT_COMPARABLE,
    NOT_RUN,
    UNDECIDED,
    interval,
)
from psplib.runs.store import Store, published


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
        figure_2.narrow_plot,
        figure_3.averages_plot,
        figure_3.training_plot,
        figure_3.magnitude_maps,
        figure_3.networks_of_figure_3,
        figure_4.entropy_maps,
        figure_4.layers_of_figure_4,
    ):
        assert figure(nothing) is None
    tables = (
        figure_2.eigenvalues_table(nothing),
        figure_2.residuals(nothing),
        figure_2.table_of_figure_2(nothing),
        figure_2.narrow_table(nothing),
        figure_4.table_of_figure_4(nothing),
        figure_4.entropy_by_layer(nothing),
    )
    assert all(table.empty for table in tables)


HIGHER = minima.Comparison("G is higher.", "5", "x", "x", 1, "bits")
RATIO = minima.Comparison("G is lower.", "5", "x", "x", -1, "×")
COMPARABLE = minima.Comparison("They are comparable.", "5", "x", "x", 1, "bits", 0.05)


@pytest.mark.parametrize(
    ("comparison", "gaps", "verdict"),
    [
        (HIGHER, [0.3, 0.4, 0.5], HOLDS),
        (HIGHER, [-0.3, -0.4, -0.5], FAILS),
        (HIGHER, [-0.1, 0.4, 0.5], MIXED),
        (HIGHER, [0.01, -0.01, 0.01], UNDECIDED),
        (RATIO, [-0.3, -0.4, -0.5], HOLDS),
        (RATIO, [0.3, 0.4, 0.5], FAILS),
        (RATIO, [0.1, -0.4, -0.5], MIXED),
        (RATIO, [0.01, -0.01, 0.01], UNDECIDED),
        (COMPARABLE, [0.01, -0.01, 0.01], HOLDS),
        (COMPARABLE, [0.3, 0.31, 0.3], FAILS),
        (COMPARABLE, [0.0, 0.0, 0.5], MIXED),
        (COMPARABLE, [0.0, 0.06, 0.06], UNDECIDED),
    ],
)
def test_the_unit_is_the_gradual_run(comparison, gaps, verdict) -> None:
    """Replicas scatter by ±0.02: a mask by itself is decided at 0.1."""
    runs = [(1 + gap, [1 - 0.02, 1 + 0.02] * 3) for gap in gaps]
    found = minima.compare(comparison, censuses(x=runs))
    assert found.verdict == verdict
    assert found.n == (6 if verdict == MIXED else 3)
    assert found.basis == "paper, gradual runs 0–2 of LeNet-5, MNIST, 6 replicas each"
    assert found.claim.endswith("(LeNet-5, MNIST)")
    if verdict in (HOLDS, FAILS):
        assert found.p < 0.05


EVERY = (
    figure_2.LOWER_LOSS,
    figure_2.GENERALISES,
    *figure_2.NARROWER.values(),
    figure_3.LOWER_MAGNITUDE,
    figure_3.LOWER_WITH_LOGITS,
    *figure_4.COMPARED,
)


@pytest.mark.parametrize("comparison", EVERY, ids=lambda c: c.column)
@pytest.mark.parametrize(
    ("gaps", "comparable", "verdict"),
    [
        ([0.3, 0.4, 0.5], [0.01, -0.01, 0.01], HOLDS),
        ([-0.3, -0.4, -0.5], [0.3, 0.31, 0.3], FAILS),
        ([0.01, -0.01, 0.01], [0.0, 0.06, 0.06], UNDECIDED),
    ],
)
def test_each_claim_holds_fails_and_stays_undecided(comparison, gaps, comparable, verdict) -> None:
    shown = comparable if comparison.margin else [comparison.sign * gap for gap in gaps]
    runs = [(1 + gap, [1 - 0.02, 1 + 0.02] * 3) for gap in shown]
    assert minima.compare(comparison, censuses(**{comparison.column: runs})).verdict == verdict


@pytest.mark.parametrize(
    ("z2", "error", "verdict"), [(0.5, 0.01, HOLDS), (0.5, 0.03, FAILS), (1.0, 0.01, UNDECIDED)]
)
def test_the_better_solution_may_have_the_lower_magnitudes(z2, error, verdict) -> None:
    found = censuses(
        z2=[(z2 * (1 + 0.01 * (-1) ** i), [0.98, 1.02] * 3) for i in range(3)],
        test_error=[(error, [0.02] * 6)] * 3,
    )
    assert minima.decide(conclusions.BETTER_IS_LOWER, found).verdict == verdict


def test_the_interval_is_over_the_runs_and_the_p_value_that_of_a_t_test() -> None:
    runs = [(1.3, [1.0, 1.1]), (1.5, [1.0, 1.2, 1.1]), (1.2, [1.0])]
    found = minima.compare(HIGHER, censuses(x=runs))
    gaps = [1.3 - 1.05, 1.5 - 1.1, 0.2]
    expected = stats.ttest_1samp(gaps, 0.0)
    low, high = expected.confidence_interval(0.95)
    assert (found.effect, found.low, found.high) == pytest.approx((np.mean(gaps), low, high))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.basis.endswith("1–3 replicas each")


def test_ratios_are_factors_of_geometric_means() -> None:
    found = minima.compare(RATIO, censuses(x=[(1.0, [2.0, 8.0]), (1.0, [4.0, 5.0])]))
    logs = [np.log([2, 8]).mean(), np.log([4, 5]).mean()]
    expected = interval(logs)
    assert (found.effect, found.low, found.high, found.unit) == (
        *(pytest.approx(np.exp(x)) for x in (expected.mean, expected.low, expected.high)),
        "×",
    )
    assert found.p == pytest.approx(expected.p())


def test_of_one_run_the_claim_is_about_its_mask() -> None:
    found = minima.compare(HIGHER, censuses(x=[(1.2, [0.99, 1.0, 1.01])]))
    assert (found.verdict, found.n) == (HOLDS, 3)
    assert found.claim == "G is higher. (LeNet-5, MNIST; one mask)"
    assert found.basis == "paper, gradual run 0 of LeNet-5, MNIST, 3 replicas"
    assert minima.compare(HIGHER, censuses(x=[(1.2, [1.0])])).verdict == UNDECIDED


def test_of_single_masks_the_one_that_decides_is_shown() -> None:
    """Of "comparable" that which is nearest to its margin, not that of the lowest bound."""
    runs = [(1.741, [1.66, 1.68, 1.70]), (1.700, [1.66, 1.68, 1.70])]
    found = minima.compare(COMPARABLE, censuses(x=runs))
    masks = minima.by_mask(COMPARABLE, censuses(x=runs))
    assert {t.verdict for t in masks.values()} == {UNDECIDED, HOLDS}
    assert "undecided in 0, holds in 1; run 0 decides, +0.0610 [" in found.test


def test_unequal_chances_take_a_verdict_back() -> None:
    short = dataclasses.replace(censuses(x=[(1.2, [1.0, 1.1]), (1.3, [1.0, 1.1])]), unequal="short")
    found = minima.compare(HIGHER, short)
    assert (found.verdict, found.test.endswith("; short")) == (NOT_COMPARABLE, True)
    assert np.isnan(found.p)


def test_the_claims_of_the_paper_are_these_comparisons() -> None:
    lower, better, _, narrow, *_ = claims_of_figure_2(world())
    assert (lower.effect, lower.unit) == (pytest.approx(2.0, rel=1e-3), "×")
    assert (narrow.effect, narrow.unit) == (pytest.approx(3.0, rel=1e-3), "×")
    assert (better.effect, better.unit) == (pytest.approx(0.2, rel=1e-2), "points")
    assert lower.n == 2


@pytest.mark.parametrize(
    ("errors", "squares", "verdict"),
    [
        ([0.01] * 3, [0.5, 0.51, 0.52], HOLDS),  # G is better, and lower
        ([0.03] * 3, [2.0, 2.1, 2.2], HOLDS),  # G is worse, and higher
        ([0.01] * 3, [2.0, 2.1, 2.2], FAILS),
        ([0.03] * 3, [0.5, 0.51, 0.52], FAILS),
        ([0.01] * 3, [1.01, 0.99, 1.01], UNDECIDED),
        ([0.01, 0.01, 0.03], [2.0, 0.5, 2.0], MIXED),
    ],
)
def test_whether_the_better_solution_is_the_lower_one(errors, squares, verdict) -> None:
    comparison = minima.OfTheBetter("The better is lower.", "5", "x", "x", 1, "×")
    found = minima.compare(
        comparison,
        censuses(
            test_error=[(e, [0.02, 0.0201]) for e in errors],
            x=[(x, [1 - 0.02, 1 + 0.02] * 3) for x in squares],
        ),
    )
    assert found.verdict == verdict
    if verdict == HOLDS:
        assert found.effect > 1.9, "of the worse over the better"


def test_pooled_neurons_weigh_layers_by_their_size() -> None:
    network = {"lobster_seed": 0, "arm": "lobster", "replica": -1}
    neurons = pd.DataFrame(
        network | {"layer": layer, "class": c, "first": bits}
        for layer, bits in (("relu1", 0.1), ("relu2", 0.5))
        for c in range(2)
    )
    (row,) = minima.pooled(neurons, {"relu1": 300, "relu2": 100}).to_dict("records")
    assert row == network | {"first_pooled": pytest.approx((300 * 0.2 + 100 * 1.0) / 400)}


@pytest.mark.parametrize("name", minima.NEURONS)
def test_layers_have_as_many_neurons_as_their_network(name) -> None:
    probe = entropy.FirstOrder()
    psp.observe(models.build(name, 0), [(torch.zeros(1, 1, 28, 28), torch.tensor([9]))], probe)
    assert minima.NEURONS[name] == {n: layer.neurons for n, layer in probe.layers.items()}


def test_joint_follows_from_first_order_and_mutual_in_every_published_census() -> None:
    found = collect(published())
    assert len(found.table) > 30
    for one in found.networks:
        table = one.table.dropna(subset="joint")
        assert np.allclose(table["joint"], 2 * table["first"] - table["mutual"], atol=1e-9)


def test_censuses_of_other_networks_join_by_their_title() -> None:
    found = collect(published())
    assert found.title == "LeNet-5, MNIST"
    for one in found.others:
        assert one.title != found.title
        assert not one.table.duplicated(minima.NETWORK).any()
        assert (one.table["first_pooled"].notna() == one.table["first"].notna()).all()
        assert one.table["test_error"].notna().all()
    assert len({one.title for one in found.networks}) == len(found.networks)


def test_narrow_is_of_the_samples_where_every_run_has_them_else_of_the_census() -> None:
    rows = [
        {"lobster_seed": seed, "arm": arm, "lambda_1": 2.0, "lambda_1_all": 20.0, "norm": 3.0}
        for seed in (0, 1)
        for arm in ("lobster", "rewound", "reinitialised")
    ]
    table = pd.DataFrame(rows)
    sampled = table["arm"] != "reinitialised"
    whole = table.assign(**{"narrow": 5.0, "narrow.0": 4.0, "narrow_relative.0": 0.1})
    whole.loc[~sampled, "narrow"] = np.nan
    assert minima._narrow(whole).loc[sampled, "narrow"].eq(5.0).all()
    whole.loc[3:, "narrow"] = np.nan
    for found in (minima._narrow(whole), minima._narrow(table)):
        assert found[["narrow", "narrow_all", "narrow_global"]].to_numpy().tolist() == (
            [[2.0, 20.0, 18.0]] * 6
        )
        assert "narrow.0" not in found
    assert "narrow_relative.0" in minima._narrow(whole), "of the runs that have it"


def collect(store: Store) -> minima.Figures2to4:
    panels = [scales.experiment(name, "paper") for name in ("figure_1a", "replication")]
    return minima.collect_minima(scales.minima("paper"), store, panels)


def test_every_gradual_run_is_drawn_and_their_mean() -> None:
    world_of_two = world()
    fig = minima.runs_plot([figure_2.GENERALISES, figure_4.COMPARABLE_FIRST], world_of_two)
    first, second = fig.axes
    assert [ln.get_ydata()[0] for ln in first.lines[:3]] == pytest.approx([0.2] * 3, rel=1e-3)
    assert [t.get_text() for t in second.get_xticklabels()] == ["0", "1", "all"]


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


def test_the_effects_of_runs_and_of_all_of_them_are_in_one_table() -> None:
    runs = [(1.3, [1.0, 1.1]), (1.5, [1.0, 1.2])]
    figures = dataclasses.replace(world(), table=censuses(x=runs).table)
    table = minima.effects_table([HIGHER], figures)
    assert table["run"].tolist() == ["0", "1", "all"]
    assert table["mean"].tolist() == pytest.approx([0.25, 0.4, 0.325])
    assert table["n"].tolist() == [2, 2, 2]
    assert minima.effects_table([RATIO], dataclasses.replace(figures, table=pd.DataFrame())).empty


def test_a_network_has_the_chances_that_its_panel_of_figure_1_says(monkeypatch) -> None:
    monkeypatch.setattr(minima, "why_unequal", lambda panel, store: f"as {panel.name} says")
    found = collect(published())
    assert found.unequal == "as figure_1b says"
    assert {one.title: one.unequal for one in found.others} == {
        "LeNet-300, MNIST": "as figure_1a says"
    }
    assert minima.compare(figure_2.GENERALISES, found).verdict == NOT_COMPARABLE
