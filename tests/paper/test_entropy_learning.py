"""Learning by entropy: which gamma counts, and verdicts on made-up tables."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
from problems import make_one

from psplib.experiments import scales
from psplib.experiments.entropy_learning import MEASURED
from psplib.nn import data
from psplib.paper import entropy_learning as learning
from psplib.paper import live
from psplib.paper.entropy_learning import COLUMNS, FigureLearning
from psplib.paper.statistics import FAILS, HOLDS, NOT_COMPARABLE, NOT_RUN, UNDECIDED
from psplib.runs.store import Store

PANEL = scales.entropy_learning("paper")
DENSE, REWOUND, SECOND, LARGE, GRADUAL = (
    "LeNet-300, MNIST",
    "LeNet-300, MNIST, rewound mask",
    "LeNet-300, MNIST, second order",
    "LeNet-5, MNIST",
    "LeNet-300, MNIST, LOBSTER",
)
EMPTY = FigureLearning(PANEL, pd.DataFrame(columns=list(COLUMNS)), (), ())


def world(
    probe: Callable[[float, str, str], float],
    cost: Callable[[float], float] = lambda gamma: 0.0 if gamma < 0.3 else 0.01,
    networks: tuple[str, ...] = (DENSE, REWOUND, SECOND, LARGE, GRADUAL),
    rise: Callable[[float, int], float] = lambda gamma, replica: gamma,
) -> FigureLearning:
    """Probe errors `probe(gamma, labels, network)` but for noise; gammas of 0.3 cost accuracy; the
    entropies are those of gamma 0 plus a `rise(gamma, replica)`."""
    rows = [
        {"network": network, "gamma": gamma, "labels": labels, "replica": r}
        | {"validation_error": 0.02 + cost(gamma), "test_error": 0.02}
        | {"first": 2 + rise(gamma, r) + 1e-3 * r, "joint": 4 + rise(gamma, r), "mutual": 0.1}
        | {"probe_error": probe(gamma, labels, network) + 1e-4 * (-1) ** r + 1e-2 * r}
        for network in networks
        for gamma, labels in sorted(EMPTY.cases(network))
        for r in range(5)
    ]
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    return FigureLearning(PANEL, table, (), ())


def verdicts(figure: FigureLearning, network: str = DENSE) -> list[str]:
    found = [v for v in learning.learning_claims(figure) if v.claim.endswith(f"({network}).")]
    return [v.verdict for v in found]


def test_the_gamma_of_a_claim_is_the_largest_that_costs_no_accuracy() -> None:
    assert learning.chosen(world(lambda g, labels, network: 0.2), DENSE) == 0.1
    assert learning.chosen(world(lambda g, labels, network: 0.2, lambda g: 0.0), DENSE) == 0.3


def test_verdicts_where_the_paper_is_right() -> None:
    figure = world(lambda g, labels, network: 0.2 - 0.2 * g * (labels == "classes"))
    numbers = {DENSE: 5, REWOUND: 3, SECOND: 3, LARGE: 4, GRADUAL: 2}
    assert figure.networks == tuple(numbers)
    for network, number in numbers.items():
        assert verdicts(figure, network) == [HOLDS] * number
    first, second, *rest = learning.learning_claims(figure)[:5]
    shown = [any(words in v.claim for words in learning.ANSWER) for v in (first, second, *rest)]
    assert shown == [True] * 2 + [False] * 3
    assert (first.effect, first.n) == (pytest.approx(2.0), 5)
    assert learning.learning_answer(figure).startswith("**Yes**")
    assert len(learning.learning_in_words(figure).splitlines()) == 5


def test_verdicts_where_any_penalty_does_as_well_and_where_none_does() -> None:
    any_does = world(lambda g, labels, network: 0.2 - 0.2 * g)
    assert verdicts(any_does) == [HOLDS, FAILS, HOLDS, FAILS, HOLDS]
    none_does = world(lambda g, labels, network: 0.2 + 0.1 * g)
    assert verdicts(none_does) == [FAILS, FAILS, HOLDS, FAILS, FAILS]
    assert learning.learning_answer(none_does).startswith("**No**")
    assert "the probe error by 1.00" in learning.learning_answer(none_does)


@pytest.mark.parametrize("network", [DENSE, SECOND])
def test_what_was_rewarded_rises_falls_or_scatters(network: str) -> None:
    def raised(rise: Callable[[float, int], float]) -> str:
        figure = world(lambda g, labels, network: 0.2, rise=rise)
        found = [
            v for v in learning.learning_claims(figure) if learning.CLAIMS["raised"] in v.claim
        ]
        return next(v.verdict for v in found if v.claim.endswith(f"({network})."))

    assert raised(lambda gamma, r: gamma) == HOLDS
    assert raised(lambda gamma, r: -gamma - 1e-3 * gamma * r) == FAILS
    assert raised(lambda gamma, r: gamma * (-1) ** r) == UNDECIDED


def test_a_control_that_costs_accuracy_is_not_comparable() -> None:
    held = world(lambda g, labels, network: 0.2 - 0.2 * g, lambda g: 0.01 * (g in (-0.1, 0.3)))
    assert verdicts(held) == [HOLDS, FAILS, HOLDS, FAILS, NOT_COMPARABLE]


def test_what_was_not_run_and_what_costs_accuracy_is_told_apart() -> None:
    dense = world(lambda g, labels, network: 0.2, networks=(DENSE,))
    assert set(verdicts(dense, REWOUND)) == set(verdicts(dense, GRADUAL)) == {NOT_RUN}
    costly = world(lambda g, labels, network: 0.2, lambda g: 0.01 * (g > 0))
    assert verdicts(costly) == [UNDECIDED] * 5
    assert "no gamma that raises the entropy keeps the accuracy" in learning.learning_answer(costly)
    assert verdicts(EMPTY) == [NOT_RUN] * 5
    assert learning.plot_learning(EMPTY) is None
    assert "not there yet" in learning.learning_answer(EMPTY)


def test_the_figure_and_the_table_show_every_gamma() -> None:
    figure = world(lambda g, labels, network: 0.2)
    fig = learning.plot_learning(figure)
    assert fig is not None
    assert len(fig.axes) == 5 * len(learning.DRAWN)
    assert len(learning.by_gamma(figure)) == len(figure.table) / 5
    assert learning.further(figure).empty


def test_the_live_figure_has_every_replica_of_every_gamma() -> None:
    figure = world(lambda g, labels, network: 0.2 - 0.1 * g)
    numbers = live.gammas(figure).numbers
    networks, quantities = (knob["options"] for knob in numbers["knobs"])
    at = [networks.index(LARGE), quantities.index("probe error on the targets [%]")]
    panel = next(p for p in numbers["panels"] if p["at"] == at)
    assert panel["x"] == ["-0.3", "-0.1", "0", "0.1", "0.3"]
    values = 100 * figure.values("probe_error", LARGE)
    (classes, permuted) = panel["series"]
    assert classes["points"]["4"] == pytest.approx(values.loc[0.3].tolist())
    assert [*permuted["points"]] == ["2", "3", "4"]
    assert live.gammas(EMPTY).still is None


def test_of_networks_that_were_trained_twice_the_measured_ones_stay(store: Store) -> None:
    """And gradual runs are beside them, by their transfer."""
    panel = scales.entropy_learning("smoke")
    learner = panel.networks[0]
    rows = {"replica": [0, 1], "validation_error": 0.1, "test_error": 0.1}
    rows |= {order: 1.0 for order in ("first", "joint", "mutual")}
    probes = {"replica": [0, 1], "target": "digits", "error": 0.2}
    twice = replace(learner, template=replace(learner.template, measured=True))
    for one, own in ((learner, {}), (twice, dict.fromkeys(MEASURED, 3.0))):
        parts = {"networks": pd.DataFrame(rows | own), "probes": pd.DataFrame(probes)}
        made = parts, data.load_data("digits")
        make_one(store, one.learnt(0.3, "classes"), lambda _, made=made: made)
    both = replace(panel, networks=(learner, twice))
    table = FigureLearning.collect(both, store).table
    assert table["replica"].tolist() == [0, 1]
    assert table["information"].tolist() == [3.0, 3.0]
