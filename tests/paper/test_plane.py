"""Maps of the plane are drawn as the tables have them."""

from worlds import world

from psplib.paper import figure_3


def test_maps_are_drawn_as_the_table_has_them() -> None:
    found = world()
    (ax, _) = figure_3.magnitude_map(found).axes
    drawn = ax.collections[0].get_array().reshape(9, 9)
    points = found.map().set_index(["beta", "alpha"])["magnitude"]
    assert drawn[0, 0] == points[-1.0, -0.5]
    assert drawn[8, 2] == points[1.0, 0.0]
    labels = {t.get_text(): t.xy for t in ax.texts}
    assert labels == {"G": (0.0, 0), "1-S": (1.0, 0)}
