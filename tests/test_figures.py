"""Figures, badges and downloads say what the tables say."""

import base64
import io
import re

import pandas as pd
import pytest
from test_claims import ARMS, panel, papers_world

from psplib import deviations, figures, scales
from psplib.config import canonical


@pytest.fixture(scope="module")
def figure():
    return panel(papers_world, ARMS)


def test_the_curves_are_the_tables(figure) -> None:
    ax, near = figures.figure_1(figure).axes
    drawn = {line.get_label(): line.get_xydata() for line in ax.lines}
    mean = 100 * sum(papers_world("rewound", 0.04, r) for r in range(6)) / 6
    assert drawn["one-shot, original values"][1] == pytest.approx([4.0, mean])
    assert drawn["gradual (LOBSTER)"][:, 0] == pytest.approx([100, 40, 4, 1])
    assert ax.get_xscale() == ax.get_yscale() == near.get_xscale() == "log"
    assert near.get_yscale() == "linear"
    assert ax.get_xlim()[0] > ax.get_xlim()[1], "sparser to the right"


def test_single_replicas_are_always_drawn(figure) -> None:
    ax, _ = figures.figure_1(figure).axes
    single = [line for line in ax.lines if line.get_label().startswith("_child")]
    points = sum(len(line.get_xdata()) for line in single)
    assert points == 2 * 3 * 6, "two arms, three points, six replicas"


def test_downloads_carry_their_content(figure) -> None:
    links = figures.downloads("panel", figures.figure_1(figure), figure.table, figure.panel)
    content = {
        ending: base64.b64decode(data)
        for ending, data in re.findall(r'download="panel\.(\w+)" href="data:[^,]*,([^"]*)"', links)
    }
    assert content["svg"].lstrip().startswith(b"<?xml")
    assert content["json"].decode() == canonical(figure.panel)
    table = pd.read_csv(io.BytesIO(content["csv"]))
    assert table["test_error"].tolist() == figure.table["test_error"].tolist()


def test_the_svg_is_deterministic(figure) -> None:
    first, second = (
        figures.downloads("panel", figures.figure_1(figure), figure.table, figure.panel)
        for _ in range(2)
    )
    assert first == second


def test_the_reading_quotes_the_table(figure) -> None:
    text = figures.reading(figure)
    assert "1.80 % at 99.00 % sparsity" in text.replace("\u00a0", " ")
    assert "new initial values raise the error by 0.02 ± 0.00 points" in text.replace("\u00a0", " ")


def test_every_setting_is_in_the_deviations() -> None:
    gradual = deviations.table("figure_1a", "lobster").data
    for text in ("learning rate", "TWT", "PWE", "0.985", "split seed", "0 to 2"):
        assert text in gradual
    retrained = deviations.table("figure_1a", "retraining").data
    assert "epochs" in retrained
    assert "0 to 9" in retrained
    assert str(scales.figure_1a("paper").retrained.epochs) in retrained


def test_the_convergence_shows_each_arms_mean_by_epoch() -> None:
    rows = [
        {
            "arm": arm,
            "point": 3,
            "replica": r,
            "epoch": e,
            "validation_error": (e + r + shift) / 100,
        }
        for arm, shift in (("rewound", 1), ("reinitialised", 4))
        for r in range(3)
        for e in (1, 2)
    ]
    (ax,) = figures.convergence(pd.DataFrame(rows)).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn["one-shot, original values"] == [pytest.approx([1, 3]), pytest.approx([2, 4])]
    assert drawn["one-shot, new random values"] == [pytest.approx([1, 6]), pytest.approx([2, 7])]
