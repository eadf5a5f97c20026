"""Maps of the plane are drawn as the tables have them."""

import pytest
from worlds import world

from psplib.paper import figure_2, figure_3, figure_4, plane


def test_maps_are_drawn_against_their_value_at_g() -> None:
    found = world()
    points = found.map()
    points["magnitude"] = 2.0 + points["alpha"]
    ax = figure_3.magnitude_maps(found).axes[0]
    drawn = ax.collections[0]
    values = drawn.get_array().reshape(9, 9)
    assert (values[0, 0], values[8, 2], values[4, 6]) == (0.75, 1.0, 1.5)
    assert drawn.norm.vmin * drawn.norm.vmax == pytest.approx(1.0), "as far down as up from G"
    texts = [t.get_text() for t in ax.texts]
    assert texts == ["1-S / G = 1.50", "G", "1-S"]
    points["first_order"] = 1.0 - 0.5 * points["alpha"]
    ax = figure_4.entropy_maps(found).axes[0]
    assert ax.texts[0].get_text() == "G − 1-S = +0.5000"
    assert ax.collections[0].get_array().reshape(9, 9)[0, 0] == 0.25


def test_the_line_is_drawn_beside_the_map() -> None:
    found = world()
    line = figure_2.loss_map(found).axes[1].lines[0]
    points = found.map()
    assert line.get_ydata().tolist() == points.loc[points["beta"] == 0, "loss"].tolist()


def test_what_is_drawn_of_a_map_is_offered_and_no_more() -> None:
    points = world().map()
    shown = plane.drawn(points, "loss", "magnitude")
    expected = [c for c in points if c in ("alpha", "beta", "loss") or c.startswith("magnitude")]
    assert shown.equals(points[expected])
    assert plane.drawn(None, "loss") is None


def test_what_is_drawn_of_entropy_is_offered_on_the_grids_that_are_drawn() -> None:
    found = world()
    offered = figure_4.entropies_on_plane(found)
    for pairs, column in ((False, "first_order"), (True, "joint")):
        shown = found.map(pairs=pairs)[["alpha", "beta", column]]
        there = offered.dropna(subset=column)[["alpha", "beta", column]]
        order = ["alpha", "beta"]
        assert there.sort_values(order).values.tolist() == shown.sort_values(order).values.tolist()
