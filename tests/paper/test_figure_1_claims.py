"""What section 5.1 says of Fig. 1, on hand-written tables: holds, fails, stays undecided."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
from worlds import ARMS, noise, panel, papers_world

from psplib.experiments import scales
from psplib.paper.figure_1 import Figure1
from psplib.paper.figure_1_claims import VALUES, claims_across, panel_claims, run_gaps
from psplib.paper.statistics import (
    FAILS,
    HOLDS,
    MIXED,
    NOT_COMPARABLE,
    NOT_RUN,
    UNDECIDED,
    Verdict,
)

POINTS = (1.0, 0.3, 0.15, 0.05, 0.015, 0.004)
EVERY = (*ARMS, "restructured-layer", "restructured-global")
Error = Callable[[str, float, int], float]


def several(error: Error, runs: int = 4, name: str = "figure_1a") -> Figure1:
    """A panel of which every gradual run is retrained from; a run's errors are shifted a little."""
    whole = panel(error, EVERY, name)
    tables = []
    for seed in range(runs):
        shifted = whole.table.assign(lobster_seed=seed)
        own = shifted["arm"] == "lobster"
        shifted.loc[own, "test_error"] += 1e-5 * seed
        tables.append(shifted)
    return replace(whole, table=pd.concat(tables, ignore_index=True))


def claim(words: str, figure: Figure1) -> Verdict:
    (found,) = (v for v in panel_claims(figure) if words in v.claim)
    return found


def structured(arm: str, density: float, replica: int) -> float:
    """The paper's world; a random structure is worse."""
    return papers_world(arm, density, replica) + 0.02 * arm.startswith("restructured")


def test_what_the_paper_says_holds_in_its_world() -> None:
    found = {v.claim: v for v in panel_claims(panel(structured, EVERY))}
    assert len(found) == 8
    undecided = [c for c, v in found.items() if v.verdict == UNDECIDED]
    assert [v.verdict for v in found.values()].count(HOLDS) == 7
    assert len(undecided) == 1
    assert "gradual pruning has a lower error" in undecided[0], "one run has no interval"


@pytest.mark.parametrize("name", ["figure_1a", "figure_1b"])
@pytest.mark.parametrize(("shift", "verdict"), [(0.01, HOLDS), (-0.01, FAILS), (1e-6, UNDECIDED)])
def test_gradual_and_one_shot_are_compared_run_by_run(
    name: str, shift: float, verdict: str
) -> None:
    def error(arm: str, density: float, replica: int) -> float:
        return 0.018 + shift * (arm == "rewound") + (arm == "rewound") * 1e-5 * 1.5

    # Replicas are many; the runs are four, and only they count.
    found = claim("gradual pruning has a lower error", several(error, name=name))
    assert (found.verdict, found.n) == (verdict, 4)
    assert found.basis == "gradual runs 0–3"


@pytest.mark.parametrize(("arm", "values"), VALUES.items())
def test_a_low_compression_regime_is_one_point_where_retraining_comes_back(
    arm: str, values: str
) -> None:
    def regime(at: dict[float, float], spread: float = 1e-5) -> str:
        def error(which: str, density: float, replica: int) -> float:
            return 0.018 + (at.get(density, 0.02) + spread * (-1) ** replica) * (which == arm)

        words = f"retraining from {values} values recovers"
        return claim(words, panel(error, ARMS, "figure_1b", POINTS)).verdict

    assert regime({}) == FAILS
    assert regime({0.15: 0.0}) == HOLDS, "not at the least sparse point, but at one"
    assert regime({0.004: 0.0}) == FAILS, "above 95 % is no low compression"
    assert regime({0.15: 0.0}, spread=0.01) == UNDECIDED


@pytest.mark.parametrize(("gap", "verdict"), [(0.01, HOLDS), (-0.01, FAILS), (0.0, UNDECIDED)])
@pytest.mark.parametrize("arm", ["restructured-layer", "restructured-global"])
def test_the_structure_matters_where_a_random_one_is_worse(
    arm: str, gap: float, verdict: str
) -> None:
    def error(which: str, density: float, replica: int) -> float:
        return 0.018 + gap * (which == arm) + noise(replica + (which == arm))

    words = {"restructured-layer": "layer by layer", "restructured-global": "global"}[arm]
    assert claim(words, panel(error, EVERY)).verdict == verdict


@pytest.mark.parametrize(
    ("rewound", "random", "minor", "better"),
    [
        (0.0, 2e-4, HOLDS, HOLDS),
        (0.0, 5e-3, FAILS, HOLDS),
        (2e-4, 0.0, HOLDS, FAILS),
        (0.0, 0.0, HOLDS, UNDECIDED),
        (0.0, 9e-4, UNDECIDED, HOLDS),
    ],
)
def test_the_gap_of_initial_values(rewound: float, random: float, minor: str, better: str) -> None:
    def error(arm: str, density: float, replica: int) -> float:
        worse = {"rewound": rewound, "reinitialised": random}.get(arm, 0)
        return 0.018 + worse + noise(replica + (arm == "rewound"))

    figure = panel(error, ARMS)
    assert claim("is minor", figure).verdict == minor
    assert claim("slightly better", figure).verdict == better


def test_differences_are_taken_replica_by_replica() -> None:
    """Between-replica spread that both arms share must not blur their difference."""

    def error(arm: str, density: float, replica: int) -> float:
        return 0.02 + 0.004 * replica + {"reinitialised": 3e-4}.get(arm, 0) + noise(replica) / 100

    better = claim("slightly better", panel(error, ARMS))
    assert better.verdict == HOLDS
    assert better.high - better.low < 1e-3


def test_lenet_300_strives_above_95_percent_from_both_values() -> None:
    def strives(**low: float) -> str:
        def error(arm: str, density: float, replica: int) -> float:
            return 0.018 + (low.get(arm, 0) if density < 0.05 else 0) + noise(replica // 2)

        return claim("no longer reaches", panel(error, ARMS)).verdict

    assert strives(rewound=0.01, reinitialised=0.01) == HOLDS
    assert strives(rewound=0.01, reinitialised=-0.01) == MIXED
    assert strives(rewound=-0.01, reinitialised=-0.01) == FAILS
    assert strives(rewound=0.01) == UNDECIDED


@pytest.mark.parametrize(
    ("at_98", "verdict"), [(0.0085, HOLDS), (0.0095, FAILS), (0.0090, UNDECIDED)]
)
def test_about_99_20_is_at_most_a_tenth_of_a_point_less(at_98: float, verdict: str) -> None:
    def error(arm: str, density: float, replica: int) -> float:
        return {0.05: 0.001, 0.015: at_98, 0.004: 0.1}.get(density, 0.008) + noise(replica)

    figure = panel(error, ARMS, "figure_1b", POINTS)
    original, gradual = claim("retrained from original", figure), claim("LOBSTER left", figure)
    assert original.verdict == claim("retrained from new", figure).verdict == verdict
    assert original.effect == pytest.approx(100 * at_98 - 0.8)
    assert "98.5 %" in original.test
    assert (gradual.verdict, gradual.n) == (UNDECIDED, 1), "one gradual run has no interval"
    runs = several(lambda _, density, r: at_98 if density == 0.01 else 0.008, name="figure_1b")
    assert claim("LOBSTER left", runs).verdict == verdict


@pytest.mark.parametrize(("arm", "values"), VALUES.items())
@pytest.mark.parametrize(("gap", "verdict"), [(0.004, HOLDS), (-0.004, FAILS), (0.0, UNDECIDED)])
def test_removing_80_percent_is_tested_at_the_first_such_point(
    arm: str, values: str, gap: float, verdict: str
) -> None:
    def error(which: str, density: float, replica: int) -> float:
        worse = gap * (density == 0.15)
        return 0.08 + (worse + noise(replica // 2)) * (which == arm)

    found = claim(f"network retrained from {values}", panel(error, ARMS, "figure_1c", POINTS))
    assert found.verdict == verdict
    assert "85.0 %" in found.test


def test_exactly_80_percent_is_80_percent() -> None:
    figure = panel(papers_world, ARMS, "figure_1c", (1.0, 0.3, 0.2, 0.1))
    assert "80.0 %" in claim("network retrained from original", figure).test


def test_missing_arms_are_not_run_and_a_point_is_not_replaced_by_another() -> None:
    assert {v.verdict for v in panel_claims(panel(papers_world, ("dense",)))} == {NOT_RUN}
    whole = panel(papers_world, ARMS, "figure_1b", POINTS)
    rest = whole.table[(whole.table["point"] != 4) | (whole.table["arm"] == "lobster")]
    assert claim("retrained from original", replace(whole, table=rest)).verdict == NOT_RUN


def test_one_random_structure_has_no_interval() -> None:
    figure = panel(structured, EVERY)
    of_structure = figure.table["arm"].str.startswith("restructured")
    one = replace(figure, table=figure.table[~of_structure | (figure.table["replica"] == 0)])
    several, single = (claim("one, layer by layer, has", f) for f in (figure, one))
    assert several.verdict == HOLDS
    assert (single.verdict, single.effect > 0) == (UNDECIDED, True)


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [
        ((1.0, 1.0, 1.0), UNDECIDED),
        ((1.04, 1.0, 1.0), UNDECIDED),
        ((1.06, 1.0, 1.0), NOT_COMPARABLE),
        ((1.0, 1.04, 1.04), UNDECIDED),
        ((1.0, 1.2, 1.2), NOT_COMPARABLE),
        ((1.0, 1.2, 1.0), UNDECIDED),
    ],
)
def test_lobster_is_not_set_against_networks_trained_much_longer_or_more_briefly(
    factors: tuple[float, float, float], verdict: str
) -> None:
    """The error of their dense control is 5 % higher than LOBSTER's at first, or lower than its
    lowest; the factors are of the retrained networks, of LOBSTER above 50 % density and below."""

    def error(arm: str, density: float, replica: int) -> float:
        retrained, first, later = factors
        factor = retrained if arm != "lobster" else first if density > 0.5 else later
        return papers_world(arm, density, replica) * factor

    found = panel_claims(panel(error, ARMS))
    (gradual,) = (v for v in found if "gradual pruning has a lower error" in v.claim)
    assert gradual.verdict == verdict
    assert NOT_COMPARABLE not in {v.verdict for v in found if v != gradual}


def test_a_panel_of_a_part_of_its_data_is_not_comparable() -> None:
    part = replace(panel(structured, EVERY, "figure_1d"), panel=scales.figure_1d("smoke"))
    found = panel_claims(part)
    assert {v.verdict for v in found} == {NOT_COMPARABLE}
    assert all("made after its numbers" in v.test for v in found)
    panels = [*gaps(a=1, b=0.5, c=2), part]
    fail, evident, lowest, limit = claims_across(panels)
    assert evident.verdict == lowest.verdict == NOT_COMPARABLE
    assert fail.verdict == HOLDS, "of the other three"
    assert "left out: (d)" in fail.test
    assert "left out: (d)" in limit.test
    parts = [
        replace(f, panel=replace(f.panel, lobsters=(replace(f.panel.lobsters[0], samples=500),)))
        for f in panels
    ]
    fail, *_, limit = claims_across(parts)
    assert fail.verdict == limit.verdict == NOT_RUN
    assert fail.test == limit.test == "needs a panel that is trained on the whole of its data"


def gaps(**last: float) -> list[Figure1]:
    """Some panels; at the last point retraining is worse than LOBSTER by so many points."""

    def one(letter: str, gap: float) -> Figure1:
        def error(arm: str, density: float, replica: int) -> float:
            retrained = arm in ("rewound", "reinitialised") and density == POINTS[-1]
            return 0.02 + (gap / 100 if retrained else 0) + noise(replica)

        return panel(error, ARMS, f"figure_1{letter}", POINTS)

    return [one(letter, gap) for letter, gap in last.items()]


def test_one_panels_gap_against_the_others() -> None:
    _, evident, lowest, _ = claims_across(gaps(a=1.0, b=0.5, c=2.0, d=6.0))
    assert (evident.verdict, lowest.verdict) == (HOLDS, HOLDS)
    assert (evident.section, lowest.section) == ("5.1", "5.2")
    assert evident.low < evident.effect < evident.high

    _, evident, lowest, _ = claims_across(gaps(a=1.0, b=1.5, c=7.0, d=6.0))
    assert (evident.verdict, lowest.verdict) == (MIXED, MIXED)
    assert evident.effect == pytest.approx(-1.0), "against (c)"
    assert lowest.effect == pytest.approx(-0.5), "against (a)"

    _, evident, _, _ = claims_across(gaps(a=7.0, b=7.0, c=7.0, d=-1.0))
    assert evident.verdict == FAILS
    _, evident, lowest, _ = claims_across(gaps(a=1.0, b=1.0, c=1.0, d=1.0))
    assert (evident.verdict, lowest.verdict) == (UNDECIDED, UNDECIDED)


def test_retraining_fails_at_the_last_point_of_every_panel() -> None:
    def fail(**last: float) -> str:
        return claims_across(gaps(**last))[0].verdict

    assert fail(a=1.0, b=1.0, c=1.0, d=1.0) == HOLDS
    assert fail(a=1.0, b=-1.0, c=1.0, d=1.0) == MIXED
    assert fail(a=-1.0, b=-1.0, c=-1.0, d=-1.0) == FAILS
    assert fail(a=1.0, b=0.0, c=1.0, d=1.0) == UNDECIDED


def test_gradual_pruning_overcomes_the_limit_of_one_shot_pruning() -> None:
    def limit(gap: float, own: float, runs: int = 4) -> str:
        panels = []
        for figure in gaps(a=gap, b=gap, c=gap, d=gap):
            more = [figure.table]
            for seed in range(1, runs):
                rows = figure.table[figure.table["arm"] == "lobster"].assign(lobster_seed=seed)
                rows["test_error"] += 1e-6 * seed
                more.append(rows)
            table = pd.concat(more, ignore_index=True)
            last = (table["arm"] == "lobster") & (table["point"] == len(POINTS) - 1)
            table.loc[last, "test_error"] += own / 100
            panels.append(replace(figure, table=table))
        return claims_across(panels)[3].verdict

    assert limit(1.0, 0.0) == HOLDS
    assert limit(0.0, 1.0) == FAILS
    assert limit(1.0, 1.0) == MIXED, "one-shot has a limit, gradual pruning has it too"
    assert limit(1.0, 0.0, runs=1) == UNDECIDED


def test_panels_are_compared_only_if_all_are_there() -> None:
    panels = gaps(a=1.0, b=0.5, c=2.0, d=6.0)
    panels[2] = replace(panels[2], table=panels[2].table[:0])
    for verdict in claims_across(panels):
        assert verdict.verdict == NOT_RUN
        assert "(c) is not there" in verdict.test


@pytest.mark.parametrize(
    ("shifts", "verdict"),
    [
        ((0.0, 0.0, 0.001, -0.001), HOLDS),
        ((-0.02, -0.02, -0.021, -0.019), FAILS),
        ((0.0, 0.02, -0.03, 0.0), UNDECIDED),
    ],
)
def test_further_gradual_runs_enter_with_points_of_their_own(
    shifts: tuple[float, ...], verdict: str
) -> None:
    def shifted(shift: float) -> Callable[[str, float, int], float]:
        return lambda arm, d, r: papers_world(arm, d, r) + shift * (arm == "rewound")

    first, *others = (panel(shifted(shift), ARMS) for shift in shifts)
    # Points of one number have another sparsity in another run.
    tables = [
        other.table.assign(lobster_seed=seed, point=10 * other.table["point"])
        for seed, other in enumerate(others, 1)
    ]
    found = replace(first, replicated=pd.concat(tables))
    better = claim("lower error than one-shot", found)
    assert (better.verdict, better.n) == (verdict, 4)
    assert better.basis == "gradual runs 0–3"
    without_its_last = tables[1][(tables[1]["arm"] != "rewound") | (tables[1]["point"] < 30)]
    tables[1] = without_its_last
    found = replace(first, replicated=pd.concat(tables))
    assert list(run_gaps(found, "rewound").index) == [0, 1, 3]
