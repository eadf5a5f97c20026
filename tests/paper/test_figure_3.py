"""Fig. 3: the claims on the magnitude of potentials, and its sentences."""

import numpy as np
import pytest
from worlds import PAPER, world

from psplib.paper import figure_3
from psplib.paper.statistics import FAILS, HOLDS, UNDECIDED


def test_in_the_opposite_world_no_claim_holds() -> None:
    opposite = world(z2=PAPER["z2"][::-1], z2_with_logits=PAPER["z2_with_logits"][::-1])
    opposite.map()["loss"] *= -1
    assert [v.verdict for v in figure_3.claims_of_figure_3(opposite)] == [FAILS, FAILS, FAILS]


def test_the_two_averages_may_disagree() -> None:
    hidden, logits, _ = figure_3.claims_of_figure_3(world(z2=PAPER["z2"][::-1]))
    assert (hidden.verdict, logits.verdict) == (FAILS, HOLDS)


def test_one_low_point_no_worse_than_1_s_refutes_that_there_is_none() -> None:
    found = world()
    points = found.map()
    (claim,) = figure_3.claims_of_figure_3(found)[2:]
    assert claim.verdict == HOLDS
    lower = points.index[points["magnitude"] < 2]
    assert f"of 81 points of the plane {len(lower)} lie lower than G; 0 of" in claim.test
    points.loc[lower[0], "loss"] = 1.02
    (claim,) = figure_3.claims_of_figure_3(found)[2:]
    assert (claim.verdict, "1 of" in claim.test) == (FAILS, True)
    points["magnitude"] = 2 + points["alpha"].abs()
    (claim,) = figure_3.claims_of_figure_3(found)[2:]
    assert claim.verdict == UNDECIDED, "the map shows no lower region"


def test_that_z2_follows_training_is_said_mask_by_mask() -> None:
    found = world()
    rewound = found.table["arm"] == "rewound"
    found.table.loc[rewound, "best_epoch"] = 10 * found.table.loc[rewound, "z2"].rank()
    found.table.loc[rewound & (found.table["lobster_seed"] == 1), "best_epoch"] *= -1
    assert "is -1.00 to 1.00 (2 masks)" in figure_3.follows_training(found)
    (ax,) = figure_3.training_plot(found).axes
    points = np.concatenate([ln.get_ydata() for ln in ax.lines if ln.get_marker() == "o"])
    assert sorted(points) == pytest.approx(sorted(found.table.loc[rewound, "z2"]))


def test_the_reading_quotes_the_censuses() -> None:
    text = figure_3.reading_of_figure_3(world())
    assert "under its mask:** 0.50 / 0.50 (0.70 / 0.70)." in text
    assert "Run 1: G is below their interval in relu1, relu2, relu3, above it in none." in text
