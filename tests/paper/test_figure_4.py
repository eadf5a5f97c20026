"""Fig. 4: the claims on PSP-entropy, by each definition, and its sentences."""

import re

from worlds import PAPER, world

from psplib.paper import display, figure_4, forest
from psplib.paper.statistics import FAILS, HOLDS, UNDECIDED


def test_in_the_opposite_world_no_claim_holds() -> None:
    turned = {name: PAPER[name][::-1] for name in (*figure_4.SECOND, "information", "selectivity")}
    turned |= {"first": (1.0, 1.2), "first_pooled": (1.0, 1.2)}
    opposite = world(**turned)
    opposite.map()["loss"] *= -1
    assert {v.verdict for v in figure_4.claims_of_figure_4(opposite)} == {FAILS}


def test_where_there_is_no_difference_nothing_is_higher_and_all_is_comparable() -> None:
    alike = {column: (PAPER[column][0],) * 2 for column in PAPER}
    figures = world(**alike)
    for seed, factor in ((0, 1.001), (1, 0.999)):
        g = (figures.table["lobster_seed"] == seed) & (figures.table["arm"] == "lobster")
        figures.table.loc[g, list(PAPER)] *= factor
    found = figure_4.claims_of_figure_4(figures)
    said = {v.verdict: v for v in found if "regions" not in v.claim}
    assert set(said) == {HOLDS, UNDECIDED}
    assert "comparable" in said[HOLDS].claim
    comparable = [v for v in found if v.verdict == HOLDS and "comparable" in v.claim]
    assert len(comparable) == 2


def test_a_map_without_a_lower_region_says_nothing_of_one() -> None:
    found = world()
    found.map()["first_order"] = 2 + found.map()["alpha"].abs()
    (claim,) = (v for v in figure_4.claims_of_figure_4(found) if "regions" in v.claim)
    assert claim.verdict == UNDECIDED


def test_definitions_that_disagree_are_named_and_joint_is_no_witness() -> None:
    found = figure_4.claims_of_figure_4(world(mutual=(0.04, 0.05)))
    said = display.in_one_sentence(found, figure_4.ANSWER)
    assert "by *mutual* does **not hold** in" in said
    assert "by *agreement* **holds** in" in said
    joint = figure_4.claims_of_figure_4(world())[-3]
    assert "joint, which is 2 · first order − mutual and so no further witness" in joint.claim


def test_the_reading_quotes_the_censuses() -> None:
    assert "joint 2.0000 / 2.0000 (1.9000 / 1.9000);" in figure_4.reading_of_figure_4(world())


def test_a_difference_is_bold_where_its_interval_excludes_zero() -> None:
    table = figure_4.entropy_by_layer(world(first=(1.0, 1.0)))
    assert table["layer"].tolist() == ["relu1", "relu2", "relu3"] * 2
    assert table["joint"][0] == "<b>+0.1000</b>"
    assert table["first order"][0] == "+0.0000"


def test_bits_stand_beside_the_effects() -> None:
    html = forest.forest_plot(figure_4.claims_of_figure_4(world()), "quick").data
    assert re.search(r"\+0\.10\d\d \[.*\] bits", html)
