"""The configurations: runs that were made keep their keys, panels share what is the same."""

import dataclasses
import re
from pathlib import Path

import pytest

from psplib.core.config import key
from psplib.core.errors import PsplibError
from psplib.experiments import designs, scales
from psplib.experiments.progress import seconds
from psplib.paper import choices, tables
from psplib.pruning.retraining import Retraining
from psplib.runs import store as runs
from psplib.runs.run import Run
from psplib.runs.store import Store

# Runs that were made, by arm and point.
MADE_1B = {
    ("dense", 0): "8cf2f09560d88aa2",
    ("rewound", 1): "83140841c57cb0f6",
    ("rewound", 9): "ca4a9357a255f92a",
    ("rewound", 20): "ad959fec1bf9c35e",
    ("rewound", 43): "26b5d78ddc14e1bb",
    ("rewound", 93): "594dee62392937b2",
    ("reinitialised", 1): "32dfefefe0e5aafe",
    ("reinitialised", 93): "cf5d5a8339f708aa",
    ("restructured-layer", 20): "1f3911050ab83d1c",
    ("restructured-global", 93): "1c6f3773370ab3ea",
}


def test_the_quick_runs_of_fig_1b_are_those_that_were_made() -> None:
    panel = scales.figure_1b("quick")
    made = {
        (arm, point): key(dataclasses.replace(panel.retrained, arm=arm, point=point))
        for arm, point in MADE_1B
        if arm != "dense"
    }
    assert made | {("dense", 0): key(panel.dense)} == MADE_1B
    published = runs.published()
    gradual = panel.lobsters[0]
    assert key(gradual) == "9b6250d02d1e9de4"
    densities = [1 - s for s in published.load(gradual).table("points")["sparsity"]]
    points = sorted({r.point for r in panel.retrainings(densities)})
    assert points == [1, 9, 20, 43, 93]
    assert len(panel.retrainings(densities)) == 5 * 4


def test_the_gradual_run_of_fig_1c_is_the_one_that_was_made() -> None:
    for scale in ("quick", "paper"):
        assert key(scales.figure_1c(scale).lobsters[0]) == "65630857140cde3e"


@pytest.mark.parametrize("scale", scales.SCALES)
def test_fig_1b_shares_its_gradual_runs_with_figs_2_to_4(scale: str) -> None:
    panel, minima = scales.figure_1b(scale), scales.minima(scale)
    assert panel.lobsters == minima.lobsters
    last = max(panel.retrainings([1.0, 0.5, 0.1]), key=lambda r: (r.arm == "rewound", r.point))
    assert last == minima.retraining(minima.lobsters[0], 3, "rewound")


def test_at_smoke_scale_fig_1c_computes_nothing_of_its_own() -> None:
    b, c = scales.figure_1b("smoke"), scales.figure_1c("smoke")
    assert dataclasses.replace(c, name="figure_1b") == b


def test_fig_1d_is_retrained_as_its_reference_says() -> None:
    for scale, last, sizes in (
        ("quick", ("restructured-layer", (0,)), (1, 2, 20, 2)),
        ("paper", ("restructured-global", tuple(range(10))), (3, 10, 182, 8)),
    ):
        panel = scales.figure_1d(scale)
        retrained = panel.retrainings([1.0, 0.5, 0.2, 0.1])[-1]
        assert (retrained.arm, retrained.replicas, retrained.point) == (*last, 3)
        assert (retrained.momentum, retrained.weight_decay, retrained.batch_size) == (
            0.9,
            1e-4,
            128,
        )
        assert (retrained.learning_rate, retrained.steps) == (0.1, (0.5, 0.75))
        rates = [retrained.update(e).learning_rate for e in (1, retrained.epochs)]
        assert rates == pytest.approx([0.1, 0.001])
        assert {lobster.samples for lobster in panel.lobsters} == {None}
        replicas = len(panel.retrained.replicas)
        found = (len(panel.lobsters), replicas, retrained.epochs, panel.most_points)
        assert found == sizes


@pytest.mark.parametrize("name", scales.PANELS)
def test_no_two_seeds_or_panels_share_a_run_by_chance(name: str) -> None:
    densities = [1.0, 0.5, 0.1]
    for scale in scales.SCALES:
        panels = [scales.PANELS[name](scale, seed) for seed in (0, 1)]
        configs = [c for p in panels for c in (*p.lobsters, p.dense, *p.retrainings(densities))]
        assert len({key(c) for c in configs}) == len(configs)


def test_a_bad_scale_or_seed_is_named() -> None:
    with pytest.raises(PsplibError, match="scale must be one of smoke, quick, paper; got 'huge'"):
        scales.figure_1d("huge")
    with pytest.raises(PsplibError, match="seed must be a whole number of at least 0; got -1"):
        scales.figure_1b("quick", -1)


@pytest.mark.parametrize(
    ("experiment", "part", "setting", "source", "words"),
    [
        ("figure_1a", "lobster", "learning rate", "reference", "LeNet-5 on MNIST"),
        ("figure_1a", "lobster", "target sparsity", "ours", "at least this sparse"),
        ("figure_1b", "lobster", "target sparsity", "paper", "highest compression"),
        ("minima", "lobster", "target sparsity", "paper", "highest compression"),
        ("figure_1c", "lobster", "target sparsity", "ours", "80 %"),
        ("figure_1d", "lobster", "learning rate", "ours", "a tenth of He et al."),
        ("figure_1d", "lobster", "shrinkage", "ours", "352 steps"),
        ("figure_1d", "lobster", "momentum", "reference", "He et al. (2016)"),
        ("figure_1d", "retraining", "learning rate", "reference", "He et al. (2016)"),
        ("figure_1d", "retraining", "epochs", "reference", "64,000 steps"),
        ("figure_1a", "retraining", "momentum", "ours", "as in the LOBSTER run"),
    ],
)
def test_a_source_is_that_of_the_panel(
    experiment: str, part: str, setting: str, source: str, words: str
) -> None:
    rows = cells_of(experiment, part).split("<tr>")
    (row,) = [r for r in rows if r.startswith(f"<td>{setting}</td>")]
    cells = row.replace("&#x27;", "'").split("<td>")
    assert cells[-2] == f"{source}</td>"
    assert words in cells[-1]


def cells_of(experiment: str, part: str) -> str:
    """A table of deviations without the names that its cells carry."""
    picks = {"lobster": choices.gradual_pruning, "retraining": choices.retrained}
    table = choices.settings({part: (experiment, picks[part])}).data
    return re.sub(r' data-name="[^"]*"', "", table)


def test_values_of_every_kind_can_be_read_in_the_table() -> None:
    gradual = cells_of("figure_1d", "lobster")
    assert "<td>samples</td><td>200</td><td>all</td><td>all</td>" in gradual
    retrained = cells_of("figure_1d", "retraining")
    assert "<td>replicas</td><td>0, 1</td><td>0, 1</td><td>0 to 9</td>" in retrained
    assert "<td>steps</td><td>0.5, 0.75</td>" in retrained
    assert "<td>steps</td><td>none</td>" in cells_of("figure_1a", "retraining")


class Pretended(Store):
    """A store that has some runs, by their configuration alone."""

    def __init__(self, root: Path, *present: Run) -> None:
        super().__init__(root)
        object.__setattr__(self, "present", present)

    def has(self, config: Run) -> bool:
        return config in self.present


def test_the_largest_complete_scale_is_shown_else_that_with_most_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradual run is the same at quick and at paper scale: by itself it tells nothing."""
    densities = [1.0, 0.5, 0.3, 0.1, 0.03]

    def runs(panel: designs.Panel, store: Store) -> list[Run]:
        return [*panel.lobsters, panel.dense, *panel.retrainings(densities)]

    monkeypatch.setattr(designs.Panel, "runs", runs)
    quick, paper = (scales.figure_1b(s).runs(Store(tmp_path)) for s in ("quick", "paper"))

    def shown(*present: Run) -> str:
        return tables.largest_published("figure_1b", Pretended(tmp_path, *present)).scale

    assert shown() == "paper"
    assert shown(quick[0]) == "paper"
    assert shown(*quick[:3]) == "quick"
    assert shown(*quick, *paper[:-1]) == "quick"
    assert shown(*quick[:-1], *paper[:4]) == "quick"
    assert shown(*quick, *paper) == "paper"


def test_every_run_has_a_cost(tmp_path: Path) -> None:
    store = Store(tmp_path)
    hours = {
        (name, scale): sum(
            seconds(c, store)
            for p in [scales.PANELS[name](scale, 0)]
            for c in (*p.lobsters, p.dense, *p.retrainings([1.0, 0.3, 0.1, 0.03, 0.01]))
        )
        / 3600
        for name in scales.PANELS
        for scale in scales.SCALES
    }
    for name in scales.PANELS:
        assert 0 < hours[name, "smoke"] < 0.05
        assert hours[name, "smoke"] < hours[name, "quick"] < hours[name, "paper"]
    assert hours["figure_1d", "quick"] < 12, "half a day, as README says"


def test_a_replication_retrains_at_90_and_95_per_cent_and_at_the_end_of_every_later_run() -> None:
    panel = scales.replication("paper")
    assert panel.lobsters[:3] == scales.figure_1a("paper").lobsters
    assert [run.seed for run in panel.lobsters] == list(range(10))
    found = panel.retrainings(panel.lobsters[4], [0.0, 0.8, 0.91, 0.93, 0.955, 0.97, 0.99])
    assert [(r.arm, r.point) for r in found] == [
        (arm, point) for arm in ("rewound", "reinitialised") for point in (6, 4, 2)
    ]
    assert found[0] == Retraining(panel.lobsters[4], 6, "rewound", (0, 1, 2, 3, 4), epochs=40)
    assert panel.census(found[0]).samples == 10_000


def test_the_first_replicated_run_is_that_of_the_figure(smoke: Store) -> None:
    (only,) = scales.replication("smoke").runs(smoke)
    assert smoke.has(only)
