"""Beyond the paper: the experiment's runs, verdicts on hand-written tables, figure and chapter."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from psplib.core.errors import PsplibError
from psplib.experiments import scales
from psplib.experiments.kinds import KINDS
from psplib.experiments.progress import seconds
from psplib.paper import beyond, display
from psplib.paper.beyond import COLUMNS, FigureBeyond
from psplib.paper.statistics import FAILS, HOLDS, MIXED, NOT_RUN, UNDECIDED, Verdict
from psplib.pruning.lobster import Lobster
from psplib.pruning.magnitude import Magnitude
from psplib.pruning.retraining import Retraining
from psplib.runs.run import check_run
from psplib.runs.store import Store

PANEL = scales.beyond("paper")
NETWORKS = [rivals.title for rivals in PANEL.networks]
DENSITIES = (1.0, 0.3, 0.04, 0.01)
Error = Callable[[str, float, int], float]


def noise(replica: int) -> float:
    return 1e-5 * (-1) ** replica


def world(
    error: Error,
    epoch: Callable[[str, float, int], float] = lambda arm, density, seed: 10 / density,
    seeds: int = 4,
    arms: tuple[str, ...] = ("decay", "rewound", "magnitude", "iterative"),
) -> FigureBeyond:
    """Both networks with test errors `error(arm, density, seed or replica)`."""
    rows: list[dict[str, object]] = []
    for network in NETWORKS:
        for arm in ("lobster", *arms):
            for point, density in enumerate(DENSITIES):
                shared = {"network": network, "arm": arm, "point": point, "sparsity": 1 - density}
                if arm in ("lobster", "decay"):
                    rows += [
                        {
                            "lobster_seed": s,
                            "test_error": error(arm, density, s),
                            "epoch": epoch(arm, density, s),
                        }
                        | shared
                        for s in range(seeds)
                    ]
                elif point or arm != "rewound":
                    rows += [
                        {"replica": r, "lobster_seed": 0, "test_error": error(arm, density, r)}
                        | shared
                        for r in range(5)
                    ]
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    nothing = pd.DataFrame(columns=["network", "point"])
    return FigureBeyond(PANEL, table, nothing, nothing, (), ())


def same(arm: str, density: float, number: int) -> float:
    """Without the term everything is as with it; masks of magnitude pruning are worse."""
    bad = {"magnitude": 0.02, "iterative": 0.01, "rewound": 0.002}.get(arm, 0)
    return 0.018 + bad * (density < 0.05) + noise(number + len(arm)) / 10


def verdicts(figure: FigureBeyond) -> list[str]:
    return [v.verdict for v in claims(figure)[:7]]


def claims(figure: FigureBeyond) -> list[Verdict]:
    """Those of one network: both have the same."""
    found = beyond.beyond_claims(figure)
    assert [v.verdict for v in found[:11]] == [v.verdict for v in found[11:]]
    return found[:11]


def test_verdicts_where_the_term_does_nothing_and_masks_differ() -> None:
    helps, alike, _, *masks = verdicts(world(same))
    assert (helps, alike) == (UNDECIDED, HOLDS)
    assert masks == [HOLDS] * 4


def test_verdicts_where_the_term_helps_and_saves_epochs() -> None:
    def error(arm: str, density: float, number: int) -> float:
        return same(arm, density, number) + 0.004 * (arm == "decay")

    figure = world(error, lambda arm, d, s: (12 if arm == "decay" else 10) / d + s)
    assert verdicts(figure)[:3] == [HOLDS, FAILS, HOLDS]
    gap, _, epochs = beyond.beyond_claims(figure)[:3]
    assert (gap.effect, gap.n, gap.unit) == (pytest.approx(0.4, abs=1e-3), 4, "points")
    # 98 % sparsity lies half way, in log density, between 96 and 99 %.
    assert (epochs.effect, epochs.unit) == (pytest.approx(1.2, abs=0.01), "×")


def test_verdicts_where_the_term_harms_and_every_mask_is_the_other_way_round() -> None:
    bad = {"decay": -0.004, "iterative": 0.01, "rewound": 0.02, "lobster": 0.03}

    def error(arm: str, density: float, number: int) -> float:
        return 0.018 + bad.get(arm, 0.0) + noise(number)

    figure = world(error, lambda arm, d, s: (8 if arm == "decay" else 10) / d + s)
    assert verdicts(figure) == [FAILS] * 7


def test_a_claim_about_several_points_is_mixed_where_one_of_them_fails() -> None:
    def error(arm: str, density: float, number: int) -> float:
        if density == 0.04 and arm == "rewound":
            return 0.05 + noise(number)
        return same(arm, density, number)

    masks = verdicts(world(error))[3:]
    assert masks == [MIXED, MIXED, HOLDS, HOLDS]


def test_only_points_above_95_per_cent_count() -> None:
    def error(arm: str, density: float, number: int) -> float:
        return 0.05 if density == 0.3 and arm == "rewound" else same(arm, density, number)

    assert verdicts(world(error))[3:] == [HOLDS] * 4


def test_masks_are_compared_replica_by_replica() -> None:
    """Spread that both arms share must not blur their difference."""
    found = beyond.beyond_claims(world(lambda a, d, n: same(a, d, n) + 0.01 * n))
    assert found[3].verdict == HOLDS
    assert found[3].high - found[3].low < 0.01


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        ((), [NOT_RUN] * 7),
        (("decay",), [UNDECIDED, HOLDS, UNDECIDED] + [NOT_RUN] * 4),
        (("rewound", "magnitude"), [NOT_RUN] * 3 + [HOLDS] + [NOT_RUN] * 3),
        (("iterative",), [NOT_RUN] * 6 + [HOLDS]),
    ],
)
def test_what_is_not_there_is_not_run(arms: tuple[str, ...], expected: list[str]) -> None:
    assert verdicts(world(same, arms=arms)) == expected


def renda(arm: str, density: float, number: int) -> float:
    """As Renda et al. say; LOBSTER is as good as the best of theirs, but for a little."""
    bad = {"weight rewinding": 0.003, "learning-rate rewinding": 0.001, "fine-tuning": 0.005}
    return 0.018 + bad.get(arm, 0) + noise(number)


@pytest.mark.parametrize(
    ("arm", "change", "expected"),
    [
        ("", 0.0, [HOLDS] * 4),
        ("learning-rate rewinding", 0.010, [FAILS, FAILS, HOLDS, HOLDS]),
        ("learning-rate rewinding", -0.005, [HOLDS, HOLDS, FAILS, HOLDS]),
        ("fine-tuning", -0.005, [HOLDS, FAILS, HOLDS, UNDECIDED]),
        ("fine-tuning", -0.010, [HOLDS, FAILS, HOLDS, FAILS]),
        ("learning-rate rewinding", 0.002, [UNDECIDED, HOLDS, HOLDS, HOLDS]),
        ("learning-rate rewinding", 0.004, [FAILS, UNDECIDED, HOLDS, HOLDS]),
        ("learning-rate rewinding", -0.001, [HOLDS, HOLDS, UNDECIDED, HOLDS]),
    ],
)
def test_rewinding_of_the_learning_rate_and_fine_tuning(
    arm: str, change: float, expected: list[str]
) -> None:
    def error(name: str, density: float, number: int) -> float:
        return renda(name, density, number) + (change + noise(number // 2)) * (name == arm)

    found = claims(world(error, arms=beyond.RENDA))[7:]
    assert [v.verdict for v in found] == expected
    assert {v.verdict for v in claims(world(error))[7:]} == {NOT_RUN}
    table = beyond.retrained_masks(world(error, arms=beyond.RENDA))
    assert "magnitude in steps, fine-tuned" in table.columns


def test_what_renda_et_al_rewind_is_planned_at_the_sparsest_points() -> None:
    densities = [0.9**k for k in range(40)]
    for rivals, replicas in zip(PANEL.networks, (5, 3), strict=True):
        found = rivals.renda(densities)
        assert [m.arm for m in found] == [beyond.RENDA[i] for i in (1, 2, 0)]
        for one in found:
            assert one.points == rivals.points(densities)[-3:]
            assert (len(one.replicas), one.steps) == (replicas, (0.5, 0.75))


def test_one_seed_decides_nothing() -> None:
    figure = world(lambda a, d, n: same(a, d, n) + (a == "decay"), seeds=1)
    assert verdicts(figure)[:3] == [UNDECIDED] * 3


def test_gradual_runs_are_interpolated_in_log_density_between_their_points() -> None:
    run = pd.DataFrame({"sparsity": [0.0, 0.9, 0.99], "test_error": [0.01, 0.02, 0.06]})
    found = beyond.between(run, "test_error", [1.0, 0.1, 0.1**1.5, 0.01, 0.005])
    np.testing.assert_allclose(found, [0.01, 0.02, 0.04, 0.06, np.nan])


def test_a_sparsity_that_one_run_has_not_reached_is_left_out() -> None:
    figure = world(same)
    short = (figure.table["arm"] == "decay") & (figure.table["point"] == 3)
    found = beyond.beyond_claims(dataclasses.replace(figure, table=figure.table[~short]))
    assert "mean from 80 to 95.7 % sparsity" in found[0].test
    assert "epochs to 95.7 % sparsity" in found[2].test


def test_the_figure_draws_every_arm_in_both_panels() -> None:
    drawn = beyond.plot_rivals(world(same))
    assert drawn is not None
    for ax, network in zip(drawn.axes, NETWORKS, strict=True):
        assert ax.get_title() == network
        lines = {line.get_label(): line.get_xydata() for line in ax.lines}
        assert lines["gradual (G)"][:, 0] == pytest.approx([100, 30, 4, 1])
        assert lines["magnitude, one-shot, rewound"][1] == pytest.approx([4, 3.8], rel=1e-3)
        assert len(lines["LOBSTER's mask, rewound"]) == 3
        assert ax.get_xlim()[0] > ax.get_xlim()[1], "sparser to the right"
    names = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert len(names) == len(set(names)) == 6


def test_the_tables_and_the_reading_quote_the_errors() -> None:
    figure = world(same)
    row = beyond.retrained_masks(figure).iloc[-1]
    assert row["sparsity"] == "99.00 %"
    assert row["magnitude, one-shot, rewound"] == "3.80\u00a0±\u00a00.00"
    assert row["gradual (G)"] == row["gradual, weight decay only"] == "1.80"
    html = beyond.masks_turned(figure).data.replace("\u2011", "-")
    head, first, second, *_ = re.findall("<tr>(.*?)</tr>", html, re.S)
    names, of_g, of_decay = (re.findall("<t[hd].*?>(.*?)<", line) for line in (head, first, second))
    assert (names[0], names[-1]) == ("LeNet-300", "99.00 %")
    assert (of_g[0], of_g[-1]) == ("gradual (G)", "1.80")
    assert (of_decay[0], of_decay[-1]) == ("gradual, weight decay only", "1.80")
    decay = beyond.gradual_runs(figure)
    assert len(decay) == 8
    assert decay.iloc[0]["test error, decay only"] == "1.80\u00a0±\u00a00.00"
    text = beyond.rivals_in_words(figure).replace("\u00a0", " ")
    assert "magnitude, iterative, rewound 2.80, " in text
    assert "changes by" in text


def test_without_runs_there_is_no_figure_and_nothing_fails(store: Store) -> None:
    figure = FigureBeyond.collect(PANEL, store)
    assert beyond.plot_rivals(figure) is None
    assert beyond.rivals_in_words(figure) == display.NOT_THERE
    for table in (beyond.gradual_runs, beyond.retrained_masks, beyond.survivors_by_layer):
        assert len(table(figure)) in (0, 8)
    assert beyond.gradient_sizes(figure).empty
    assert verdicts(figure) == [NOT_RUN] * 7


@pytest.mark.parametrize("scale", ["quick", "paper"])
def test_what_other_figures_have_is_not_made_again(scale: str) -> None:
    small, large = scales.beyond(scale).networks
    panel = scales.figure_1a(scale)
    assert small.lobsters == panel.lobsters
    densities = [0.9**k for k in range(30)]
    rewound = [r for r in panel.retrainings(densities) if r.arm == "rewound"]
    assert small.rewound(densities) == rewound
    assert small.points(densities) == tuple(r.point for r in rewound)
    for magnitude in small.magnitudes(densities):
        assert set(magnitude.replicas) <= set(rewound[0].replicas)
        assert magnitude.epochs == rewound[0].epochs
    assert large.lobsters == scales.minima(scale).lobsters
    gradual = Lobster("lenet-5", "mnist", 0, target_sparsity=0.9957)
    expected = Retraining(gradual, 1, "rewound", (0, 1, 2), epochs=20)
    assert large.rewound(densities)[0] == expected
    assert [d.target_sparsity for d in large.decays] == [0.985] * len(large.lobsters)
    assert not any(d.sensitivity for r in (small, large) for d in r.decays)


def test_the_experiment_is_made_and_collected(smoke_beyond: Store) -> None:
    figure = FigureBeyond.collect(scales.beyond("smoke"), smoke_beyond)
    assert figure.missing == ()
    arms = {"lobster", "decay", "rewound", "magnitude", "iterative", *beyond.RENDA}
    assert set(figure.table["arm"]) == arms
    assert figure.table["network"].nunique() == 2
    for network, table in figure.table.groupby("network"):
        kept = table[(table["arm"] == "rewound")].groupby("point")["kept"].first()
        for arm in ("magnitude", "iterative", *beyond.RENDA):
            found = table[(table["arm"] == arm) & (table["point"] > 0)]
            assert found.groupby("point")["kept"].first().to_dict() == kept.to_dict(), network
    for rivals in figure.panel.networks:
        for arm, run in (("lobster", rivals.lobsters[0]), ("decay", rivals.decays[0])):
            (found,) = figure.gradual(rivals.title, arm).values()
            expected = smoke_beyond.load(run).table("points")["test_error"]
            assert found["test_error"].tolist() == expected.tolist()
    assert figure.gradients.groupby("network")["factor"].max().between(0.9, 1).all()
    assert figure.table.equals(figure.table.drop_duplicates())


def test_only_its_own_runs_belong_to_a_configuration(smoke_beyond: Store, tmp_path: Path) -> None:
    done = [c for c in scales.beyond("smoke").runs(smoke_beyond)]
    for config in done:
        check_run(smoke_beyond.load(config), KINDS, smoke_beyond)
    one, other = (
        smoke_beyond.load(c) for c in done if isinstance(c, Magnitude) and c.arm == "magnitude"
    )
    stranger = dataclasses.replace(one, config=other.config)
    with pytest.raises(PsplibError, match="does not belong to its configuration"):
        check_run(stranger, KINDS, smoke_beyond)


def test_every_run_has_an_estimate_of_its_cost(smoke_beyond: Store, tmp_path: Path) -> None:
    nothing = Store(tmp_path)
    for config in scales.beyond("smoke").runs(smoke_beyond):
        assert 0 < seconds(config, nothing) < 300
    real = PANEL.networks[1].magnitudes(list(DENSITIES))[0]
    assert 1800 < seconds(real, nothing) < 7200


@pytest.mark.thorough
def test_interrupted_by_its_budget_it_goes_on_to_the_same_bits(
    psplib: Callable, smoke_beyond: Store, tmp_path: Path
) -> None:
    mine = Store(tmp_path / "runs")
    words = ("reproduce", "--only", "beyond", "--scale", "smoke", "--jobs", "1")
    # What takes longest is there already.
    for config in scales.beyond("smoke").runs(smoke_beyond):
        if not isinstance(config, Magnitude) or config.lobster.architecture == "lenet-5":
            mine.adopt(smoke_beyond.load(config))
    states = []
    for budget in (0.02, 5):
        done = psplib(*words, "--budget", budget, runs=mine.root)
        assert done.exit_code == 0, done.stderr
        states.append("not complete" in done.stdout)
    assert states == [True, False]
    for config in scales.beyond("smoke").runs(smoke_beyond):
        for theirs in smoke_beyond.folder(config).iterdir():
            if theirs.name != "provenance.json":
                ours = mine.folder(config) / theirs.name
                assert ours.read_bytes() == theirs.read_bytes(), ours


def test_the_badge_names_the_seeds_of_each_network(smoke_beyond: Store) -> None:
    seeds = display.facts(FigureBeyond.collect(scales.beyond("smoke"), smoke_beyond))["seeds"]
    assert "LeNet-300, digits: 1 gradual run, 1 by weight decay only, 2 replicas" in seeds
    assert "LeNet-5, digits: 1 gradual run, 1 by weight decay only, 2 replicas" in seeds
