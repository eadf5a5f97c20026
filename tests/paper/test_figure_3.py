"""Fig. 3: the claims on the magnitude of potentials, and its sentences."""

from worlds import PAPER, world

from psplib.paper import figure_3
from psplib.paper.statistics import FAILS, HOLDS


def test_in_the_opposite_world_neither_claim_holds() -> None:
    opposite = world(z2=PAPER["z2"][::-1])
    opposite.map()["loss"] *= -1
    assert [v.verdict for v in figure_3.claims_of_figure_3(opposite)] == [FAILS, FAILS]


def test_one_low_point_of_low_loss_refutes_that_there_is_none() -> None:
    found = world()
    points = found.map()
    assert figure_3.claims_of_figure_3(found)[1].verdict == HOLDS
    at = (points["alpha"] == 1.0) & (points["beta"] == 0.0)
    points.loc[at, "loss"] = 0.01
    lower = figure_3.claims_of_figure_3(found)[1]
    assert lower.verdict == FAILS
    assert "of 81 points of the plane 54 lie lower" in lower.test


def test_the_reading_quotes_the_censuses() -> None:
    text = figure_3.reading_of_figure_3(world())
    assert "mean z² is 0.5000 for G" in text
    assert "G lies below their interval in relu1, relu2, relu3, above it in none" in text
