"""Beyond the paper: LOBSTER, weight decay only, and magnitude pruning, side by side.

Gradual runs are compared seed by seed, along a fixed range of sparsities; retrained networks
replica by replica, at the points that they share. Tests and margins were written down before any of
these runs was there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psplib.experiments.designs import Beyond
from psplib.paper import figure_1
from psplib.paper.display import NOT_THERE, counted, percent, plus_minus, styled, unbroken
from psplib.paper.figure_1_claims import HIGH_SPARSITY
from psplib.paper.statistics import (
    MARGIN,
    NOT_RUN,
    Interval,
    Verdict,
    comparable,
    decided,
    everywhere,
    higher,
    interval,
)
from psplib.paper.style import ARMS, DENSITY, RIVALS, STYLE, curve, gradual_line, scale_axes
from psplib.paper.tables import divide, together
from psplib.runs.run import Run
from psplib.runs.store import Artefact, Store

# Surviving shares along which gradual runs are compared: from point to point their errors jump, and
# the mean from 80 to 98 % sparsity, in equal steps of log density, is steadier than any of them.
RANGE = tuple(0.2 * 10 ** (-k / 24) for k in range(25))
# Those that the table gives: 80, 90, 95 and 98 % sparsity.
GRID = (0.2, 0.1, 0.05, 0.02)
SECTION = "beyond"
COLUMNS = ("network", *figure_1.COLUMNS, "epoch")
LAYERS = (
    "network",
    "arm",
    "replica",
    "point",
    "parameter",
    "size",
    "kept",
    "lobster",
    "shared",
)


@dataclass(frozen=True)
class FigureBeyond:
    """What "beyond the paper" is made of.

    `table`: a row per network, with the columns of Fig. 1, `network` (its title) and
    `epoch` (of a gradual run, when the point was reached); the arms are `lobster`, `decay`,
    `rewound`, `magnitude`, `iterative` and those of `RENDA`, the trained dense network of all but
    the first three being point 0.
    `layers`: see `MagnitudeResult`, with `network` and `arm`; `gradients`: see
    `measure_sensitivity`, with `network`. `missing` and `artefacts` as in `Figure1`.
    """

    panel: Beyond
    table: pd.DataFrame
    layers: pd.DataFrame
    gradients: pd.DataFrame
    missing: tuple[Run, ...]
    artefacts: tuple[Artefact, ...]

    @classmethod
    def collect(cls, panel: Beyond, store: Store) -> FigureBeyond:
        """The tables of "beyond the paper" from the runs that a store has."""
        networks, layers, gradients = [], [], []
        done, missing = divide(panel, store)
        for rivals in panel.networks:
            for config in rivals.runs(store):
                found = config.tables(done[config]) if config in done else {}
                named = {rows: table.assign(network=rivals.title) for rows, table in found.items()}
                if "networks" in named:
                    networks.append(named["networks"].reindex(columns=list(COLUMNS)))
                if "layers" in named:
                    layers.append(named["layers"][list(LAYERS)])
                if "gradients" in named:
                    gradients.append(named["gradients"])
        return cls(
            panel,
            together(networks, COLUMNS).astype(
                {n: "Int64" for n in ("replica", "point", "lobster_seed", "epoch")}
            ),
            together(layers, LAYERS),
            together(gradients, ("network", "point")),
            missing,
            tuple(done.values()),
        )

    @property
    def seeds(self) -> str:
        """How many gradual runs and replicas each network has."""
        return "; ".join(
            f"{r.title}: {counted(len(r.lobsters), 'gradual run')}, {len(r.decays)} by weight "
            f"decay only, {counted(len(r.replicas), 'replica')}"
            for r in self.panel.networks
        )

    def rows(self, network: str, arm: str) -> pd.DataFrame:
        """A network's rows of an arm."""
        table = self.table
        return table[(table["network"] == network) & (table["arm"] == arm)]

    def errors(self, network: str, arm: str) -> pd.DataFrame:
        """Test errors in per cent: a row per point, a column per replica; empty if not run."""
        rows = self.rows(network, arm)
        return rows.pivot(index="point", columns="replica", values="test_error").sort_index() * 100

    def gradual(self, network: str, arm: str = "lobster") -> dict[int, pd.DataFrame]:
        """The points of each gradual run, by its seed; sparser from row to row."""
        runs = self.rows(network, arm).groupby("lobster_seed")
        return {int(seed): run.set_index("point").sort_index() for seed, run in runs}


def between(run: pd.DataFrame, column: str, densities: Sequence[float]) -> np.ndarray:
    """A column of a gradual run at given densities, linear in their logarithm between its points;
    NaN where the run has not come."""
    level = np.log(1 - run["sparsity"].to_numpy(dtype=float))[::-1]
    values = run[column].to_numpy(dtype=float)[::-1]
    return np.interp(np.log(densities), level, values, left=np.nan, right=np.nan)


def gradual_at(
    figure: FigureBeyond,
    network: str,
    arm: str,
    column: str,
    densities: Sequence[float] = RANGE,
) -> pd.DataFrame:
    """A column of every gradual run of an arm: a row per seed, a column per density."""
    runs = figure.gradual(network, arm)
    return pd.DataFrame(
        {seed: between(run, column, densities) for seed, run in runs.items()},
        index=list(densities),
    ).T


def gaps_by_point(figure: FigureBeyond, network: str) -> pd.DataFrame:
    """By how many points of test error weight decay only is worse than LOBSTER: a row per seed that
    both have, a column per density of `RANGE` that all of these runs have reached."""
    ours, theirs = (gradual_at(figure, network, arm, "test_error") for arm in ("decay", "lobster"))
    both = ours.index.intersection(theirs.index)
    return (100 * (ours - theirs).loc[both]).dropna(axis=1)


def beyond_claims(figure: FigureBeyond) -> list[Verdict]:
    """Every claim, network by network."""
    found = []
    for rivals in figure.panel.networks:
        title = rivals.title
        found += [*_decay(figure, title), *_masks(figure, title), *_renda(figure, title)]
    return found


def _decay(figure: FigureBeyond, network: str) -> list[Verdict]:
    claims = (
        f"The sensitivity term helps: weight decay only errs more at equal sparsity ({network}).",
        f"With weight decay only the error at equal sparsity is the same ({network}).",
        f"LOBSTER needs fewer epochs than weight decay only for a sparsity ({network}).",
    )
    gap = gaps_by_point(figure, network)
    if not gap.size:
        return [Verdict(claim, SECTION, "", NOT_RUN) for claim in claims]
    difference, last = interval(gap.mean(axis=1)), gap.columns[-1]
    reference = (
        100 * gradual_at(figure, network, "lobster", "test_error").loc[gap.index, gap.columns]
    )
    margin = MARGIN * reference.to_numpy().mean()
    where = f"decay − LOBSTER, seed by seed, mean from {span(gap.columns)} sparsity"
    epochs = [gradual_at(figure, network, arm, "epoch")[last] for arm in ("decay", "lobster")]
    ratio = interval(np.log((epochs[0] / epochs[1]).dropna()))
    mean, low, high = np.exp([ratio.mean, ratio.low, ratio.high])
    factor = Interval(mean, low, high, ratio.n)
    return [
        decided(claims[0], SECTION, f"{where}, is above zero", higher(difference), difference),
        decided(
            claims[1],
            SECTION,
            f"{where}, lies within ±{margin:.2f} points (5 % of LOBSTER's mean error)",
            comparable(difference, margin),
            difference,
        ),
        decided(
            claims[2],
            SECTION,
            f"epochs to {100 * (1 - last):.3g} % sparsity, decay / LOBSTER, seed by seed, "
            "are above 1",
            higher(ratio),
            factor,
            "×",
        ),
    ]


def _masks(figure: FigureBeyond, network: str) -> list[Verdict]:
    arms = {a: figure.errors(network, a) for a in ("rewound", "magnitude", "iterative")}
    runs = list(figure.gradual(network).values())
    first = runs[0] if runs else pd.DataFrame({"sparsity": [], "test_error": []})
    run = 100 * first["test_error"]
    above = "Above 95 % sparsity, "
    return [
        _everywhere(
            f"{above}LOBSTER's masks retrain to a lower error than those of one-shot magnitude "
            f"pruning ({network}).",
            "one-shot magnitude − LOBSTER's mask, both rewound",
            arms["magnitude"],
            arms["rewound"],
            first["sparsity"],
        ),
        _everywhere(
            f"{above}LOBSTER's masks retrain to a lower error than those of iterative magnitude "
            f"pruning ({network}).",
            "iterative magnitude − LOBSTER's mask, both rewound",
            arms["iterative"],
            arms["rewound"],
            first["sparsity"],
        ),
        _everywhere(
            f"{above}iterative magnitude pruning errs less than one-shot ({network}).",
            "one-shot magnitude − iterative",
            arms["magnitude"],
            arms["iterative"],
            first["sparsity"],
        ),
        _everywhere(
            f"{above}LOBSTER errs less than iterative magnitude pruning with rewinding "
            f"({network}).",
            "iterative magnitude − LOBSTER's own network (one run)",
            arms["iterative"],
            pd.DataFrame({replica: run for replica in arms["iterative"].columns}),
            first["sparsity"],
        ),
    ]


def _renda(figure: FigureBeyond, network: str) -> list[Verdict]:
    """What Renda et al. (2020) say of one-shot pruning in steps, and LOBSTER beside it."""
    weights, rate, tuned = (figure.errors(network, arm) for arm in RENDA)
    runs = list(figure.gradual(network).values())
    first = runs[0] if runs else pd.DataFrame({"sparsity": [], "test_error": []})
    own = pd.DataFrame({r: 100 * first["test_error"] for r in {*rate, *tuned}})
    tests = {
        "rewinding the learning rate errs less than rewinding the weights, too": (
            "weights rewound − learning rate rewound",
            weights,
            rate,
        ),
        "rewinding the learning rate errs less than fine-tuning": (
            "fine-tuned − learning rate rewound",
            tuned,
            rate,
        ),
        "LOBSTER errs less than magnitude pruning with learning-rate rewinding": (
            "learning rate rewound − LOBSTER's own network (one run)",
            rate,
            own,
        ),
        "LOBSTER errs less than magnitude pruning with fine-tuning": (
            "fine-tuned − LOBSTER's own network (one run)",
            tuned,
            own,
        ),
    }
    return [
        _everywhere(f"Above 95 % sparsity, {claim} ({network}).", *test, first["sparsity"])
        for claim, test in tests.items()
    ]


def _everywhere(
    claim: str, what: str, worse: pd.DataFrame, better: pd.DataFrame, sparsity: pd.Series
) -> Verdict:
    """The verdict on "worse − better is above zero at every point"; the effect at the last."""
    points = [p for p in worse.index.intersection(better.index) if sparsity[p] > HIGH_SPARSITY]
    differences = [interval((worse.loc[p] - better.loc[p]).dropna()) for p in points]
    if not any(d.n for d in differences):
        return Verdict(claim, SECTION, "", NOT_RUN)
    test = (
        f"{what}, replica by replica, is above zero at each of {len(points)} points; effect at "
        f"{100 * sparsity[points[-1]]:.1f} %"
    )
    return decided(
        claim, SECTION, test, everywhere([higher(d) for d in differences]), differences[-1]
    )


def span(densities: Sequence[float]) -> str:
    """The first and the last of falling densities as sparsities: "80 to 98 %"."""
    first, last = (100 * (1 - d) for d in (densities[0], densities[-1]))
    return f"{first:.3g} to {last:.3g} %"


RETRAINED = ("magnitude", "iterative", "rewound")
RENDA = ("weight rewinding", "learning-rate rewinding", "fine-tuning")
LOOKS = ARMS | RIVALS
NAMES = {arm: look.name for arm, look in LOOKS.items()} | {"rewound": "LOBSTER's mask, rewound"}


def plot_rivals(figure: FigureBeyond) -> Figure | None:
    """Test error against density, a panel per network: gradual runs as lines, one for each seed;
    retrained masks with mean, 95 % interval and single replicas (faint). None without runs."""
    if figure.table.empty:
        return None
    networks = [rivals.title for rivals in figure.panel.networks]
    with mpl.rc_context(STYLE):
        fig, axes = plt.subplots(
            1, len(networks), figsize=(9.4, 5.4), layout="constrained", squeeze=False
        )
        handles: dict[str, Any] = {}
        for ax, network in zip(axes[0], networks, strict=True):
            _panel(ax, figure, network)
            handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        axes[0][0].set_ylabel("test error [%]")
        fig.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncol=3, fontsize=9
        )
        plt.close(fig)
    return fig


def _panel(ax: Axes, figure: FigureBeyond, network: str) -> None:
    table = figure.table[figure.table["network"] == network]
    dense = figure.errors(network, "magnitude")
    if 0 in dense.index:
        color, _, name = ARMS["dense"]
        ax.axhline(dense.loc[0].mean(), color=color, lw=1.2, ls="--", label=name)
    runs = figure.gradual(network)
    retrained = sorted(figure.errors(network, "rewound").index)
    if runs:
        density = 1 - next(iter(runs.values()))["sparsity"]
        for arm in (*RETRAINED, *RENDA):
            errors = figure.errors(network, arm)
            look = LOOKS[arm]._replace(name=NAMES[arm])
            curve(ax, look, errors[errors.index > 0], density)
    # The two are often one line: the broken one lies above.
    for arm, style in (("lobster", "-"), ("decay", (0, (2, 1.5)))):
        for i, run in enumerate(figure.gradual(network, arm).values()):
            points = retrained if arm == "lobster" else []
            gradual_line(ax, LOOKS[arm], run, None if i else points, style)
    ax.set(title=network, xlabel=DENSITY)
    scale_axes(ax, table)


def gradual_runs(figure: FigureBeyond) -> pd.DataFrame:
    """Gradual runs at the sparsities of `GRID`: test error [%] and epochs, mean over seeds with
    half of the 95 % interval."""
    rows = []
    for rivals in figure.panel.networks:
        for density in GRID:
            row = {"network": _short(rivals.title), "sparsity": f"{100 * (1 - density):.0f} %"}
            for column, factor, digits in (("test_error", 100, 2), ("epoch", 1, 0)):
                for arm, name in (("lobster", "LOBSTER"), ("decay", "decay only")):
                    found = gradual_at(figure, rivals.title, arm, column, GRID)
                    values = factor * found[density]
                    what = column.replace("_", " ")
                    row[f"{what}, {name}"] = plus_minus(values.dropna(), digits)
            rows.append(row)
    return pd.DataFrame(rows)


def retrained_masks(figure: FigureBeyond) -> pd.DataFrame:
    """Test error [%] at each point that is retrained from: the gradual runs of the first seed and
    the retrained masks, mean with half of the 95 % interval."""
    rows = []
    for rivals in figure.panel.networks:
        network, seed = rivals.title, rivals.lobsters[0].seed
        arms = {arm: figure.errors(network, arm) for arm in (*RENDA, *RETRAINED)}
        runs = {arm: figure.gradual(network, arm).get(seed) for arm in ("lobster", "decay")}
        lobster = runs["lobster"]
        if lobster is None:
            continue
        for point in sorted({p for table in arms.values() for p in table.index if p > 0}):
            sparsity = lobster.loc[point, "sparsity"]
            row = {"network": _short(network), "sparsity": f"{100 * sparsity:.2f} %"}
            for arm, run in runs.items():
                error = np.nan if run is None else between(run, "test_error", [1 - sparsity])[0]
                row[NAMES[arm]] = f"{100 * error:.2f}" if np.isfinite(error) else ""
            for arm in reversed(arms):
                if point in arms[arm].index:
                    row[NAMES[arm]] = plus_minus(arms[arm].loc[point].dropna())
            rows.append(row)
    return pd.DataFrame(rows)


def masks_turned(figure: FigureBeyond) -> Any:
    """`retrained_masks` as HTML, a table for each network with a column for each point."""
    from IPython.display import HTML

    masks, parts = retrained_masks(figure), []
    for network, rows in masks.groupby("network", sort=False) if len(masks) else ():
        turned = rows.drop(columns="network").set_index("sparsity").T.dropna(how="all")
        table = turned.rename_axis(columns=None).reset_index(names=str(network))
        parts.append(styled(table).to_html())
    return HTML("".join(parts))


def survivors_by_layer(figure: FigureBeyond) -> pd.DataFrame:
    """At the last point, how many weights of each layer survive (mean over replicas), and the share
    of LOBSTER's survivors that magnitude pruning keeps, too."""
    rows = []
    for rivals in figure.panel.networks:
        table = figure.layers[figure.layers["network"] == rivals.title]
        is_shown = table["arm"].isin(ARM_SHORT) & (table["point"] == table["point"].max())
        table = table[is_shown]
        for parameter, found in table.groupby("parameter", sort=False):
            if not str(parameter).endswith("weight"):
                continue
            first = found.iloc[0]
            row = {
                "network": _short(rivals.title),
                "weights": str(parameter).removesuffix(".weight"),
                "of": f"{first['size']}",
                "LOBSTER": f"{first['lobster']}",
            }
            for arm, these in found.groupby("arm", sort=False):
                row[NAMES[str(arm)]] = f"{these['kept'].mean():.0f}"
                shared = these["shared"].mean() / max(1, first["lobster"])
                row[f"shared, {ARM_SHORT[str(arm)]}"] = f"{100 * shared:.0f} %"
            rows.append(row)
    return pd.DataFrame(rows)


ARM_SHORT = {"magnitude": "one-shot", "iterative": "iterative"}


def gradient_sizes(figure: FigureBeyond) -> pd.DataFrame:
    """The first gradual run's gradients at a few of its points, see `measure_sensitivity`."""
    columns = {
        "small": "|∂L/∂w| ≤ 0.01",
        "factor": "factor, mean",
        "factor_low": "99 % of weights above",
        "factor_go": "of those pruned next",
        "factor_stay": "of those that stay",
    }
    rows = []
    for rivals in figure.panel.networks:
        table = figure.gradients[figure.gradients["network"] == rivals.title]
        for _, point in _few(table).iterrows():
            row = {"network": _short(rivals.title), "sparsity": f"{100 * point['sparsity']:.2f} %"}
            for column, name in columns.items():
                value = point[column]
                row[name] = f"{100 * value:.2f} %" if np.isfinite(value) else ""
            rows.append(row)
    return pd.DataFrame(rows)


def _short(title: str) -> str:
    """The network of "network, data set", on one line: the tables here are all of one data set."""
    return title.partition(",")[0].replace("-", "\u2011")


def _few(table: pd.DataFrame) -> pd.DataFrame:
    """At most four rows: the first, the last, and two between."""
    return table.iloc[
        np.unique(np.linspace(0, len(table) - 1, 4).round().astype(int))[: len(table)]
    ]


# The chapter's first sentence, see `display.in_one_sentence`.
ANSWER = {
    "The sensitivity term helps": "LOBSTER's sensitivity term lowers the error",
    "than those of iterative magnitude": "its masks retrain to a lower error than those of "
    "iterative magnitude pruning",
}


def rivals_in_words(figure: FigureBeyond) -> str:
    """What the figure shows, in sentences (Markdown) whose numbers come from its tables."""
    sentences = []
    for network in (rivals.title for rivals in figure.panel.networks):
        said = []
        gap = gaps_by_point(figure, network)
        if gap.size:
            said.append(
                "Without the sensitivity term the test error changes by "
                f"{plus_minus(gap.mean(axis=1))} points, seed by seed, from {span(gap.columns)} "
                "sparsity."
            )
        arms = {arm: figure.errors(network, arm) for arm in reversed(RETRAINED)}
        points = [p for p in arms["rewound"].index if all(p in a.index for a in arms.values())]
        runs = list(figure.gradual(network).values())
        if points and runs:
            own = runs[0].loc[points[-1]]
            means = (f"{NAMES[arm]} {e.loc[points[-1]].mean():.2f}" for arm, e in arms.items())
            said.append(
                f"At {percent(own['sparsity'], 2)}: {', '.join(means)}; LOBSTER itself "
                f"{percent(own['test_error'], 2)}."
            )
        if said:
            sentences.append(f"**{network}.** {' '.join(said)}")
    return unbroken("\n\n".join(sentences or [NOT_THERE]))
