"""Transfer: verdicts on made-up tables, partial correlations against a regression."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from worlds import panel, papers_world
from worlds import world as minima

from psplib.experiments import scales
from psplib.paper import ledger, live, transfer
from psplib.paper.statistics import FAILS, HOLDS, NOT_RUN, UNDECIDED
from psplib.paper.transfer import COLUMNS, TUNED, FigureTransfer

PANEL = scales.transfer("paper")
SOURCE = PANEL.networks[0]
Error = Callable[[str, str, int, int], float]


def noise(seed: int) -> float:
    return 1e-4 * (-1) ** seed


def world(
    error: Error,
    joint: Callable[[str, int, int], float] = lambda arm, seed, replica: 2.0,
    seeds: int = 4,
) -> FigureTransfer:
    """Probe errors `error(arm, target, seed, replica)` of LeNet-300 at its last point, and worse
    ones at the point before, which must not count; equal errors on the source but for the arm's."""
    arms = [("lobster", -1), ("untrained", -1)]
    arms += [(arm, r) for arm in ("rewound", "reinitialised") for r in range(5)]
    arms += [("rewound-shrinking", 0)]
    rows = []
    shared = {"network": SOURCE.title, "layers": 1, "shots": 100, "sd": 0.0, "penalty": 0.0}
    for target in SOURCE.targets:
        rows.append(
            {"arm": "pixels", "replica": -1, "lobster_seed": 0, "point": 0, "sparsity": 0.0}
            | {"target": target, "error": error("pixels", target, 0, 0)}
            | shared
        )
        for seed in range(seeds):
            for arm, replica in arms:
                for point in (3, 4 + seed):
                    worse = 0.0 if point > 3 or arm != "lobster" else 0.3
                    rows.append(
                        {"arm": arm, "replica": replica, "lobster_seed": seed, "point": point}
                        | {"sparsity": 0.95 if point == 3 else 0.985, "target": target}
                        | {"error": error(arm, target, seed, replica) + worse}
                        | {"test_error": 0.02 + 1e-3 * (replica % 3), "neurons": 40}
                        | {"joint": joint(arm, seed, replica), "mutual": 1.0, "first": 1.0}
                        | shared
                    )
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    tuned = table[(table["sparsity"] == 0.985) & (table["arm"] != "rewound-shrinking")]
    return FigureTransfer(PANEL, table, tuned[list(TUNED)], (), ())


EMPTY = FigureTransfer(
    PANEL, pd.DataFrame(columns=list(COLUMNS)), pd.DataFrame(columns=list(TUNED)), (), ()
)


def verdicts(figure: FigureTransfer) -> list[str]:
    found = transfer.transfer_claims(figure)
    assert {v.verdict for v in found[6:]} == {NOT_RUN}, "the other sources have no runs"
    return [v.verdict for v in found[:6]]


def papers(arm: str, target: str, seed: int, replica: int) -> float:
    """One-shot networks are two points worse than gradual ones, raw pixels ten."""
    return 0.2 + {"lobster": 0.0, "pixels": 0.1}.get(arm, 0.02) + noise(seed)


def test_verdicts_where_the_paper_is_right() -> None:
    figure = world(papers)
    assert verdicts(figure)[:3] == [HOLDS, HOLDS, HOLDS]
    first, _, pixels, *rest = transfer.transfer_claims(figure)[:6]
    assert sum(any(words in v.claim for words in transfer.ANSWER) for v in rest) == 0
    assert (first.effect, first.n, first.unit) == (pytest.approx(2.0), 4, "points")
    assert pixels.effect == pytest.approx(10.0, abs=0.1)
    assert transfer.answer_of_transfer(figure).startswith("**Yes**")
    assert "fine-tuned 2.00\u00a0±" in transfer.answer_of_transfer(figure)
    assert "raw pixels are 10.01" in transfer.answer_of_transfer(figure)


def test_verdicts_where_there_is_no_advantage_and_pixels_are_ahead() -> None:
    def error(arm: str, target: str, seed: int, replica: int) -> float:
        return 0.2 - 0.1 * (arm == "pixels") + noise(seed) * (1 + (arm == "lobster"))

    figure = world(error)
    assert verdicts(figure)[:3] == [FAILS, UNDECIDED, FAILS]
    assert transfer.answer_of_transfer(figure).startswith("**No**")
    assert "better than the gradual networks" in transfer.answer_of_transfer(figure)


def test_a_difference_too_small_to_matter_is_none_and_a_scattered_one_is_undecided() -> None:
    def small(arm: str, target: str, seed: int, replica: int) -> float:
        return 0.2 + (0.002 if arm == "rewound" else 0.0) + noise(seed) / 10

    def scattered(arm: str, target: str, seed: int, replica: int) -> float:
        return 0.2 + (0.01 + 100 * noise(seed)) * (arm == "rewound")

    assert verdicts(world(small))[:2] == [FAILS, HOLDS]
    assert verdicts(world(scattered))[:2] == [UNDECIDED, UNDECIDED]
    assert verdicts(world(papers, seeds=1))[:2] == [UNDECIDED, UNDECIDED]


def test_the_path_and_fine_tuning_have_verdicts_of_their_own() -> None:
    """Where shrinking makes up for everything, it is not the path."""

    def error(arm: str, target: str, seed: int, replica: int) -> float:
        return papers("lobster" if arm == "rewound-shrinking" else arm, target, seed, replica)

    assert verdicts(world(papers))[4:] == [HOLDS, HOLDS]
    assert verdicts(world(error))[4:] == [HOLDS, FAILS]
    assert verdicts(world(papers, seeds=1))[4:] == [UNDECIDED, UNDECIDED]
    assert "fine-tuned: 2.00" in transfer.transfer_in_words(world(papers))


def test_networks_stand_at_the_goal_that_is_nearest_or_at_the_end() -> None:
    rows = world(papers).rows(SOURCE)
    found, each = transfer.levels(rows[rows["point"] > 0], SOURCE.goals)
    assert each == ["95.0 %", "98.5 %"]
    assert set(found) == {*each}


def test_the_live_figure_has_a_value_for_each_gradual_run() -> None:
    numbers = live.probes(world(papers)).numbers
    panel = next(p for p in numbers["panels"] if p["at"] == [0, 0, 0])
    assert numbers["knobs"][2]["options"][0] == "100"
    assert panel["x"] == ["95.0 %", "98.5 %"]
    gradual, rewound, *_ = panel["series"]
    expected = [100 * (0.2 + noise(seed)) for seed in range(4)]
    assert gradual["points"]["1"] == pytest.approx(expected)
    assert rewound["points"]["0"] == pytest.approx([2 + e for e in expected])
    assert [(level["name"], level["value"]) for level in panel["levels"]] == [("raw pixels", 30.01)]
    assert live.probes(EMPTY).still is None


@pytest.mark.parametrize(("on_digits", "verdict"), [(0.02, HOLDS), (-0.02, FAILS)])
def test_one_target_is_enough_for_potentially(on_digits: float, verdict: str) -> None:
    def error(arm: str, target: str, seed: int, replica: int) -> float:
        one_shot = {"digits": on_digits}.get(target, -0.03) if arm == "rewound" else 0.0
        return 0.2 + one_shot + noise(seed) * (arm == "rewound")

    assert verdicts(world(error))[:2] == [FAILS, verdict]


@pytest.mark.parametrize(("sign", "verdict"), [(-1, HOLDS), (1, FAILS), (0, UNDECIDED)])
def test_entropy_predicts_transfer_or_not(sign: int, verdict: str) -> None:
    """Within a run only: between runs the relation is turned round."""
    spread = np.random.default_rng(0).normal(size=(2, 4, 2, 6))

    def drawn(what: int, arm: str, seed: int, replica: int) -> float:
        return float(spread[what, seed, int(arm == "rewound"), replica])

    def joint(arm: str, seed: int, replica: int) -> float:
        return 20.0 + drawn(0, arm, seed, replica) - 10 * seed * sign

    def error(arm: str, target: str, seed: int, replica: int) -> float:
        of = (arm, seed, replica)
        return 0.3 + 0.01 * (sign * drawn(0, *of) + 0.3 * drawn(1, *of) + seed)

    assert verdicts(world(error, joint))[3] == verdict


def test_a_partial_correlation_is_that_of_what_regressions_leave() -> None:
    rng = np.random.default_rng(1)
    given = rng.normal(size=(30, 2))
    x, y = rng.normal(size=(2, 30)) + np.array([[2.0, 1.0], [-1.0, 3.0]]) @ given.T
    inverse = np.linalg.inv(np.cov(np.column_stack([x, y, given]).T))
    expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    assert transfer.partial_correlation(x, y, given) == pytest.approx(expected)
    assert transfer.partial_correlation(given[:, 0], y, given) == 0.0


def test_what_was_not_run_is_said_and_shown_as_nothing() -> None:
    empty = EMPTY
    assert {v.verdict for v in transfer.transfer_claims(empty)} == {NOT_RUN}
    assert transfer.plot_errors(empty) is None
    assert transfer.plot_differences(empty) is None
    assert transfer.plot_entropy(empty) is None
    assert "not there yet" in transfer.answer_of_transfer(empty)


def test_figures_tables_and_ledger_show_what_is_there() -> None:
    figure = world(papers)
    for plot in (transfer.plot_errors, transfer.plot_differences, transfer.plot_entropy):
        assert plot(figure) is not None
    assert set(figure.last["point"].dropna()) == {4, 5, 6, 7}, "that of each gradual run"
    assert (figure.last["layers"] == "fine-tuned").sum() == len(figure.tuned) > 0
    shown = transfer.errors_by_shots(figure)
    fewest = shown[(shown["network"] == shown["network"][0]) & (shown["layers"] == "1")]
    errors = fewest.set_index("arm").iloc[:, 2]
    assert errors["raw pixels"] == "30.01"
    assert errors["gradual (G)"].startswith("20.00")
    assert transfer.orders_table(figure).iloc[0]["gradual runs"] == "4"
    panels = [panel(papers_world, ("dense", "rewound"), name) for name in scales.PANELS]
    listed = [e for e in ledger.entries(panels, minima(), None, figure) if e.chapter == "transfer"]
    assert len(listed) == 6 * len(PANEL.networks)
