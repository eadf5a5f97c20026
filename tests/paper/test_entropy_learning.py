"""Learning by entropy: which gamma counts, and verdicts on made-up tables."""

from collections.abc import Callable

import pandas as pd
import pytest

from psplib.experiments import scales
from psplib.paper import entropy_learning as learning
from psplib.paper.entropy_learning import COLUMNS, FigureLearning
from psplib.paper.statistics import FAILS, HOLDS, NOT_RUN, UNDECIDED

PANEL = scales.entropy_learning("paper")


def world(
    probe: Callable[[float, str, int], float],
    cost: Callable[[float], float] = lambda gamma: 0.0 if gamma < 0.3 else 0.01,
    points: tuple[int, ...] = (0, 9),
) -> FigureLearning:
    """Probe errors `probe(gamma, labels, point)` but for noise; gammas of 0.3 cost accuracy."""
    rows = [
        {"gamma": gamma, "labels": labels, "point": point, "replica": r}
        | {"validation_error": 0.02 + cost(gamma), "test_error": 0.02}
        | {"first": 2 + gamma + 1e-3 * r, "joint": 4 + gamma, "mutual": 0.1}
        | {"probe_error": probe(gamma, labels, point) + 1e-4 * (-1) ** r + 1e-2 * r}
        for point in points
        for gamma in PANEL.gammas
        for labels in (("classes", "none", "permuted") if gamma and not point else ("classes",))
        for r in range(5)
    ]
    return FigureLearning(PANEL, pd.DataFrame(rows)[list(COLUMNS)], (), ())


def verdicts(figure: FigureLearning) -> list[str]:
    return [v.verdict for v in learning.learning_claims(figure)]


def test_the_gamma_of_a_claim_is_the_largest_that_costs_no_accuracy() -> None:
    assert learning.chosen(world(lambda g, labels, point: 0.2)) == 0.1
    assert learning.chosen(world(lambda g, labels, point: 0.2, lambda g: 0.0)) == 0.3


def test_verdicts_where_the_paper_is_right() -> None:
    figure = world(lambda g, labels, point: 0.2 - 0.2 * g * (labels == "classes"))
    assert verdicts(figure) == [HOLDS] * 6
    first = learning.learning_claims(figure)[0]
    assert (first.effect, first.n) == (pytest.approx(2.0), 5)
    assert learning.learning_answer(figure).startswith("**Yes**")


def test_verdicts_where_any_penalty_does_as_well_and_where_none_does() -> None:
    any_does = world(lambda g, labels, point: 0.2 - 0.2 * g)
    assert verdicts(any_does) == [HOLDS, FAILS, HOLDS, HOLDS, FAILS, HOLDS]
    none_does = world(lambda g, labels, point: 0.2 + 0.1 * g)
    assert verdicts(none_does) == [FAILS, FAILS, HOLDS, FAILS, FAILS, FAILS]
    assert learning.learning_answer(none_does).startswith("**No**")


def test_what_was_not_run_and_what_costs_accuracy_is_told_apart() -> None:
    dense = world(lambda g, labels, point: 0.2, points=(0,))
    assert verdicts(dense)[3] == NOT_RUN
    costly = world(lambda g, labels, point: 0.2, lambda g: 0.01 * (g > 0))
    assert verdicts(costly) == [UNDECIDED] * 6
    empty = FigureLearning(PANEL, pd.DataFrame(columns=list(COLUMNS)), (), ())
    assert verdicts(empty) == [NOT_RUN] * 6
    assert learning.plot_learning(empty) is None
    assert "not there yet" in learning.learning_answer(empty)


def test_the_figure_and_the_table_show_every_gamma() -> None:
    figure = world(lambda g, labels, point: 0.2)
    fig = learning.plot_learning(figure)
    assert fig is not None
    assert len(fig.axes) == len(learning.QUANTITIES)
    assert len(learning.by_gamma(figure)) == 9 + 2 * 8 + 9
