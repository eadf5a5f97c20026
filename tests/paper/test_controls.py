"""The controls: their plan, what is collected, and verdicts on hand-written tables."""

import dataclasses
from collections.abc import Callable

import pandas as pd
import pytest
import worlds

from psplib.experiments import scales
from psplib.paper import controls, display
from psplib.paper.controls import CONDITIONS, FigureControls
from psplib.paper.figure_1_claims import panel_claims
from psplib.paper.statistics import FAILS, HOLDS, NOT_COMPARABLE, NOT_RUN, UNDECIDED, Verdict
from psplib.runs.store import Store

PANEL = scales.controls("paper")
SMALL, LARGE = (network.title for network in PANEL.networks)
ARMS = ("gradual", *scales.CONTROLS)
Values = Callable[[str], dict[str, float]]


def paper(arm: str) -> dict[str, float]:
    """G is better in all that the paper says, however the networks are trained."""
    if arm.startswith("gradual"):
        return {"test_error": 0.019, "joint": 2.0, "z2": 1.0, "lambda_1": 30.0}
    return {"test_error": 0.030, "joint": 1.5, "z2": 2.0, "lambda_1": 10.0}


def world(values: Values = paper, runs: int = 4, arms: tuple[str, ...] = ARMS) -> FigureControls:
    """Both networks with these values, a little different from run to run."""
    rows = [
        {"network": network, "lobster_seed": seed, "control": arm, "replica": replica}
        | {"sparsity": 0.985, "last_test_error": 0.03, "norm": 2.0, "best_epoch": 10}
        | {"validation_error": 0.02, "mutual": 0.1, "first": 1.0}
        | {k: v * (1 + 1e-3 * ((seed + i) % 3)) for k, v in values(arm).items()}
        for network in (SMALL, LARGE)
        for seed in range(runs)
        for i, arm in enumerate(arms)
        for replica in ([-1] if arm == "gradual" else [0, 1])
    ]
    history = [
        r | {"epoch": e, "validation_error": 0.02 + 0.01 / e}
        for r in rows
        for e in (1, 2)
        if r["control"] != "gradual"
    ]
    columns = [*controls.NETWORK, *controls.ERRORS, *controls.MEASURED]
    return FigureControls(
        PANEL,
        pd.DataFrame(rows).reindex(columns=columns),
        pd.DataFrame(history).reindex(columns=controls.HISTORY),
        (),
        (),
    )


def verdicts(figure: FigureControls) -> list[Verdict]:
    found = controls.controls_claims(figure)
    half = len(found) // 2
    assert [v.verdict for v in found[:half]] == [v.verdict for v in found[half:]]
    return found[:half]


def test_every_gap_remains_in_the_papers_world() -> None:
    fails, *remains, selection = verdicts(world())
    assert [v.verdict for v in (fails, *remains, selection)] == [HOLDS] * 14
    error, entropy, z2, narrow = remains[:4]
    assert (error.effect, error.unit) == (pytest.approx(1.1, abs=0.01), "points")
    assert (entropy.effect, entropy.unit) == (pytest.approx(0.5, abs=0.01), "bits")
    assert (z2.effect, z2.unit) == (pytest.approx(2.0, abs=0.01), "×")
    assert (narrow.effect, narrow.n) == (pytest.approx(3.0, abs=0.01), 4)
    assert error.basis == "gradual runs 0–3"


@pytest.mark.parametrize("at", range(3))
def test_a_gap_that_turns_round_under_a_condition_fails_there_alone(at: int) -> None:
    """Each condition is decided by its own two networks, for each quantity."""
    changed = {"one_shot_shrinking": 0, "gradual_plain": 1, "one_shot_long": 2}

    def values(arm: str) -> dict[str, float]:
        swapped = changed.get(arm) == at
        other = "one_shot" if arm.startswith("gradual") else "gradual"
        worse = {"test_error": 0.001, "joint": 0.1, "z2": 0.1, "lambda_1": 1.0}
        if not swapped:
            return paper(arm)
        sign = 1 if arm.startswith("gradual") else -1
        signs = {"test_error": sign, "joint": -sign, "z2": sign, "lambda_1": -sign}
        return {k: v + signs[k] * worse[k] for k, v in paper(other).items()}

    _, *remains, _ = verdicts(world(values))
    found = [v.verdict for v in remains]
    assert found == [FAILS if i // 4 == at else HOLDS for i in range(12)]


def test_a_gap_that_is_gone_is_undecided() -> None:
    def values(arm: str) -> dict[str, float]:
        return paper("gradual") if arm == "one_shot_shrinking" else paper(arm)

    fails, *remains, _ = verdicts(world(values))
    assert {v.verdict for v in remains[:4]} == {UNDECIDED}
    assert abs(remains[0].effect) < 0.01, "of 1.1 points"
    assert [v.verdict for v in remains[4:]] == [HOLDS] * 8
    assert fails.verdict == NOT_COMPARABLE
    assert "the regulariser alone takes 100 % of the gap away" in fails.test


@pytest.mark.parametrize(
    ("left", "expected"),
    [(0.9, HOLDS), (0.6, HOLDS), (0.4, NOT_COMPARABLE), (-0.2, NOT_COMPARABLE)],
)
@pytest.mark.parametrize("control", ["one_shot_shrinking", "one_shot_long"])
def test_chances_were_unequal_where_a_control_takes_more_than_half_of_the_gap(
    control: str, left: float, expected: str
) -> None:
    def values(arm: str) -> dict[str, float]:
        error = 0.019 + left * 0.011 if arm == control else paper(arm)["test_error"]
        return paper(arm) | {"test_error": error}

    assert verdicts(world(values))[0].verdict == expected


def test_where_gradual_pruning_is_no_better_one_shot_does_not_fail() -> None:
    def values(arm: str) -> dict[str, float]:
        return paper(arm) | {"test_error": 0.02 if arm.startswith("gradual") else 0.018}

    assert verdicts(world(values))[0].verdict == FAILS


def test_another_rule_of_selection_may_matter() -> None:
    def values(error: float) -> Values:
        return lambda arm: (
            paper(arm) | ({"test_error": error} if arm == "gradual_shrinking" else {})
        )

    assert verdicts(world(values(0.0192)))[-1].verdict == HOLDS
    assert verdicts(world(values(0.016)))[-1].verdict == FAILS
    assert verdicts(world(values(0.016), runs=1))[-1].verdict == UNDECIDED


def test_one_gradual_run_decides_nothing() -> None:
    assert {v.verdict for v in verdicts(world(runs=1))} == {UNDECIDED}


def test_what_is_not_there_is_not_run(store: Store) -> None:
    nothing = FigureControls.collect(PANEL, store)
    assert {v.verdict for v in verdicts(nothing)} == {NOT_RUN}
    fails, *remains, selection = verdicts(world(arms=("gradual", "one_shot", "one_shot_shrinking")))
    assert (fails.verdict, selection.verdict) == (HOLDS, NOT_RUN)
    assert [v.verdict for v in remains] == [HOLDS] * 4 + [NOT_RUN] * 8


def test_a_run_without_its_control_does_not_enter() -> None:
    table = world().table
    gone = (table["lobster_seed"] == 3) & (table["control"] == "one_shot_shrinking")
    found = verdicts(dataclasses.replace(world(), table=table[~gone]))
    assert [v.n for v in found[1:5]] == [3] * 4
    assert [v.n for v in found[5:9]] == [4] * 4


def test_the_figure_draws_each_arm_of_both_networks_and_the_gradual_network() -> None:
    drawn = controls.plot_controls(world())
    assert drawn is not None
    for ax, network in zip(drawn.axes, (SMALL, LARGE), strict=True):
        assert ax.get_title() == network
        lines = {line.get_label(): line.get_xydata() for line in ax.lines}
        assert len(lines) == 6
        assert lines[controls.NAMES["gradual_plain"]][:, 0].tolist() == [1, 2]
        assert lines[controls.NAMES["gradual_plain"]][:, 1] == pytest.approx([3.0, 2.5])
    names = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert len(names) == len(set(names)) == 6


def test_the_tables_and_the_words_quote_the_gaps() -> None:
    table = controls.networks_table(world())
    assert table.shape == (2 * 10, 2 + len(ARMS))
    of_first = table[table["network"] == table["network"][0]].set_index("measured")
    shown = of_first["1-S retrained with shrinking"]
    assert (shown["epochs"], shown["gradual runs"]) == ("100", "4")
    assert shown["test error [%]"].startswith("3.00")
    assert shown["at the last epoch"].startswith("3.00")
    assert shown["λ₁·‖θ‖²"].startswith("40")
    gap = controls.gaps_table(world()).iloc[0]
    assert gap["as published"].startswith("+1.10 [+1.10, +1.11] points")
    words = controls.controls_in_words(world()).replace("\u00a0", " ")
    assert "trained with the regulariser, 1.102 ± 0.007 of 1.10 points remain" in words
    assert "(4 gradual runs)" in words


def test_without_runs_there_is_no_figure_and_nothing_fails(store: Store) -> None:
    nothing = FigureControls.collect(PANEL, store)
    assert controls.plot_controls(nothing) is None
    assert controls.networks_table(nothing).empty
    assert controls.gaps_table(nothing).empty
    assert controls.controls_in_words(nothing) == display.NOT_THERE


def test_fig_1_takes_back_what_rests_on_unequal_chances() -> None:
    """And nothing else."""
    figure = worlds.panel(worlds.papers_world, worlds.ARMS)
    told = dataclasses.replace(figure, chances="the regulariser alone takes 80 % of the gap away")
    before, after = panel_claims(figure), panel_claims(told)
    changed = [v for v, old in zip(after, before, strict=True) if v != old]
    assert [v.verdict for v in changed] == [NOT_COMPARABLE]
    assert "gradual pruning has a lower error than one-shot" in changed[0].claim
    assert changed[0].test.endswith("takes 80 % of the gap away")


def test_only_panels_with_controls_ask_for_them(store: Store) -> None:
    found = [controls.chances_of(scales.PANELS[p]("paper", 0), store) for p in scales.PANELS]
    assert found == [""] * 4
    titles = {scales.PANELS[p]("paper", 0).title for p in ("figure_1a", "figure_1b")}
    assert titles == {SMALL, LARGE}


def test_networks_share_masks_and_differ_in_what_the_conditions_say() -> None:
    for network in PANEL.networks:
        by_name = dict(zip(scales.CONTROLS, network.arms, strict=True))
        for retraining in network.arms:
            assert controls.name(network, retraining) in by_name
            assert retraining.shrinkage in (0, network.lobsters[0].shrinkage)
        shrinks = {name: bool(r.shrinkage) for name, r in by_name.items()}
        assert shrinks == {name: name.endswith("shrinking") for name in by_name}
        arms = {name: r.arm == "continued" for name, r in by_name.items()}
        assert arms == {name: name.startswith("gradual") for name in by_name}
    assert {pair.one_shot for pair in CONDITIONS} <= set(scales.CONTROLS)
    one_shot = [scales.replication("paper").retrained, scales.minima("paper").retrained]
    assert [network.arms[0] for network in PANEL.networks] == one_shot


def test_the_experiment_is_made_and_collected(smoke_controls: Store) -> None:
    panel = scales.controls("smoke")
    figure = FigureControls.collect(panel, smoke_controls)
    assert figure.missing == ()
    assert len(panel.runs(smoke_controls)) == 2 * 6 + 5, "LeNet-5's have a census each"
    for network in panel.networks:
        rows = figure.table[figure.table["network"] == network.title]
        assert list(dict.fromkeys(rows["control"])) == list(ARMS)
        assert rows["sparsity"].nunique() == 1, "one mask"
        own = smoke_controls.load(network.lobsters[0]).table("points").iloc[-1]
        assert rows["test_error"].iloc[0] == own["test_error"]
    large = figure.table[figure.table["network"] == panel.networks[1].title]
    assert large[controls.MEASURED].notna().all(axis=None)
    assert len(figure.history) == sum(
        r.epochs * len(r.replicas) for n in panel.networks for r in n.arms
    )
