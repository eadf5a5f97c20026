"""Claims that no figure makes alone, on tables in which they hold, fail and stay undecided."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from worlds import Runs, censuses, world

from psplib.core.config import canonical
from psplib.experiments import designs, scales
from psplib.paper import conclusions
from psplib.paper.beyond import COLUMNS, FigureBeyond
from psplib.paper.minima import Censuses
from psplib.paper.statistics import FAILS, HOLDS, MIXED, NOT_COMPARABLE, NOT_RUN, UNDECIDED

OTHERS = [scales.replication("paper"), scales.figure_1c("paper"), scales.figure_1d("paper")]


def around(gradual: float, replica: float, runs: int = 3) -> Runs:
    """Gradual runs that differ by a per cent."""
    return [(gradual * (1 + 0.01 * (-1) ** i), [replica, replica * 1.001]) for i in range(runs)]


def network(panel: designs.Design, runs: int = 3, **turned: tuple[float, float]) -> Censuses:
    """A network in which all that the paper observes is true, but for `turned`."""
    values = {
        "train_loss": (0.02, 0.04),
        "test_error": (0.01, 0.02),
        "narrow_all": (300.0, 100.0),
        "z2": (0.5, 0.7),
        "first": (1.0, 1.0),
        "agreement": (5.5, 5.0),
    } | turned
    return censuses(panel, **{name: around(*pair, runs) for name, pair in values.items()})


def applies(*others: Censuses) -> str:
    return conclusions.applies_elsewhere(dataclasses.replace(world(), others=others)).verdict


def test_observations_apply_elsewhere_where_each_holds_in_each_network() -> None:
    a, c, d = (network(panel) for panel in OTHERS)
    assert applies(a, c, d) == HOLDS
    assert applies(a, c) == UNDECIDED, "one network is missing"
    assert applies(a, c, network(OTHERS[2], runs=1)) == UNDECIDED, "one run is one mask"
    assert applies(a, c, dataclasses.replace(d, unequal="short")) == UNDECIDED
    assert applies(a, c, network(OTHERS[2], z2=(0.9, 0.7))) == MIXED
    assert applies(a, network(OTHERS[1], first=(1.0, 1.045)), d) == UNDECIDED
    assert applies() == NOT_RUN


def test_observations_that_are_nowhere_true_do_not_apply() -> None:
    opposite = {
        "train_loss": (0.04, 0.02),
        "test_error": (0.02, 0.01),
        "narrow_all": (100.0, 300.0),
        "z2": (0.7, 0.5),
        "first": (1.0, 2.0),
        "agreement": (5.0, 5.5),
    }
    assert applies(*(network(panel, **opposite) for panel in OTHERS)) == FAILS
    found = conclusions.applies_elsewhere(
        dataclasses.replace(world(), others=(network(OTHERS[0], **opposite),))
    )
    assert found.basis == "paper, gradual runs 0–2 of LeNet-300, MNIST, 2 replicas each"
    assert "in LeNet-300, MNIST decides" in found.test


@pytest.mark.parametrize(
    ("factors", "gaps", "verdict", "unit"),
    [
        ([2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6], HOLDS, "×"),
        ([2, 3, 4, 5, 6, 7], [6, 5, 4, 3, 2, 1], FAILS, "r"),
        ([0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [6, 5, 4, 3, 2, 1], FAILS, "r"),
        ([2, 3, 4, 5, 6, 7], [3, 1, 4, 1.5, 5, 2], UNDECIDED, "r"),
        ([2, 3, 4], [1, 2, 3], NOT_RUN, "points"),
    ],
)
def test_whether_sharpness_goes_with_the_gap(factors, gaps, verdict, unit) -> None:
    one = censuses(
        narrow_all=[(f, [1.0, 1.0]) for f in factors],
        test_error=[(0.01, [0.01 + gap / 100] * 2) for gap in gaps],
    )
    found = conclusions.sharpness_explains(one)
    assert (found.verdict, found.unit) == (verdict, unit)
    if verdict != NOT_RUN:
        short = dataclasses.replace(one, unequal="short")
        assert conclusions.sharpness_explains(short).verdict == NOT_COMPARABLE


def costs(more: float, epochs: float) -> str:
    """One-shot pruning has `more` error than its dense network at 80 %, which LOBSTER reaches after
    about so many `epochs`; one-shot pruning has 80."""
    panel = scales.beyond("paper")
    rows: list[dict[str, object]] = []
    for point, sparsity in enumerate((0.0, 0.8, 0.98)):
        shared = {"network": panel.networks[0].title, "point": point, "sparsity": sparsity}
        rows += [
            {"arm": "magnitude", "replica": r, "lobster_seed": 0}
            | {"test_error": 0.018 + more * (point > 0) + 1e-5 * (-1) ** (r + point)}
            | shared
            for r in range(5)
        ]
        rows += [
            {"arm": "lobster", "lobster_seed": s, "test_error": 0.018}
            | {"epoch": (epochs if point < 2 else 999) * (1 + 0.1 * s)}
            | shared
            for s in range(4)
        ]
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    nothing = pd.DataFrame(columns=["network", "point"])
    first, second = conclusions.cost_of_one_shot(
        FigureBeyond(panel, table, nothing, nothing, (), ())
    )
    assert second.verdict == NOT_RUN
    return first.verdict


def test_one_shot_is_cheaper_where_it_recovers_in_fewer_epochs() -> None:
    assert costs(0.0, 200) == HOLDS
    assert costs(0.01, 30) == FAILS
    assert costs(0.0, 30) == FAILS, "as good, but dearer"
    assert costs(0.0, 70) == UNDECIDED
    (unknown,) = conclusions.cost_of_one_shot(None)
    assert unknown.verdict == NOT_RUN


def test_minutes_are_a_share_of_the_whole_run_by_its_epochs() -> None:
    panel = scales.beyond("paper")
    rivals = panel.networks[0]
    one_shot = rivals.magnitudes([1.0, 0.2, 0.02])[0]
    network = {"network": rivals.title, "lobster_seed": 0}
    table = pd.DataFrame(
        [
            network | {"arm": arm, "point": p, "sparsity": s, "epoch": e, "replica": 0}
            for arm in ("lobster", "magnitude")
            for p, s, e in ((0, 0.0, 20), (1, 0.8, 50), (2, 0.98, 200))
        ]
    ).reindex(columns=list(COLUMNS))
    made = ((rivals.lobsters[0], 400), (one_shot, 60 * 3 * len(one_shot.replicas)))
    artefacts = [
        SimpleNamespace(config=json.loads(canonical(c)), provenance={"seconds": s}) for c, s in made
    ]
    nothing = pd.DataFrame(columns=["network", "point"])
    figure = FigureBeyond(panel, table, nothing, nothing, (), tuple(artefacts))
    (row,) = conclusions.cost_table(figure).to_dict("records")
    assert (row["sparsity"], row["epochs, gradual"]) == ("80.0 %", "50")
    assert row["minutes, gradual"] == f"{400 / 60 * 50 / 200:.1f}"
    # Dense and at two points: three trainings a replica, of a minute each; one-shot needs two.
    assert len(one_shot.points) == 2
    assert row["minutes, one-shot"] == "2.0"


def test_without_censuses_nothing_is_concluded() -> None:
    nothing = dataclasses.replace(world(), table=pd.DataFrame(columns=["lobster_seed", "arm"]))
    found = [v for verdicts in conclusions.conclusions(nothing, None).values() for v in verdicts]
    assert {v.verdict for v in found} == {NOT_RUN}
    assert all(np.isnan(v.effect) for v in found)
