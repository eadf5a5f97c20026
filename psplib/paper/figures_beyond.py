"""Beyond the paper: LOBSTER, weight decay only, and magnitude pruning, side by side."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psplib.paper.claims_beyond import GRID, along, between, errors, gaps, gradual, span
from psplib.paper.display import NOT_THERE, plus_minus, unbroken
from psplib.paper.style import ARMS, DENSITY, RIVALS, STYLE, curve, scale_axes
from psplib.paper.tables import FigureBeyond

RETRAINED = ("magnitude", "iterative", "rewound")
NAMES = {arm: name for arm, (_, _, name) in (ARMS | RIVALS).items()} | {
    "rewound": "LOBSTER's mask, rewound"
}


def comparison(figure: FigureBeyond) -> Figure | None:
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
    dense = errors(figure, network, "magnitude")
    if 0 in dense.index:
        color, _, name = ARMS["dense"]
        ax.axhline(dense.loc[0].mean(), color=color, lw=1.2, ls="--", label=name)
    runs = gradual(figure, network)
    if runs:
        density = 1 - next(iter(runs.values()))["sparsity"]
        for arm in RETRAINED:
            retrained = errors(figure, network, arm)
            look = (ARMS | RIVALS)[arm]._replace(name=NAMES[arm])
            curve(ax, look, retrained[retrained.index > 0], density)
    # The two are often one line: the broken one lies above.
    for arm, style in (("lobster", "-"), ("decay", (0, (2, 1.5)))):
        color, marker, name = (ARMS | RIVALS)[arm]
        for i, run in enumerate(gradual(figure, network, arm).values()):
            ax.plot(
                100 * (1 - run["sparsity"]),
                100 * run["test_error"],
                ls=style,
                marker=marker,
                ms=(4 if i == 0 else 2.5) * (1 if len(run) < 50 else 0.6),
                lw=2 if i == 0 else 1,
                alpha=1 if i == 0 else 0.55,
                color=color,
                label=name if i == 0 else None,
                zorder=3,
            )
    ax.set(title=network, xlabel=DENSITY)
    scale_axes(ax, table)


def decay(figure: FigureBeyond) -> pd.DataFrame:
    """Gradual runs at the sparsities of `GRID`: test error [%] and epochs, mean over seeds with
    half of the 95 % interval."""
    rows = []
    for rivals in figure.panel.networks:
        for density in GRID:
            row = {"network": _short(rivals.title), "sparsity": f"{100 * (1 - density):.0f} %"}
            for column, factor, digits in (("test_error", 100, 2), ("epoch", 1, 0)):
                for arm, name in (("lobster", "LOBSTER"), ("decay", "decay only")):
                    found = along(figure, rivals.title, arm, column, GRID)
                    values = factor * found[density]
                    what = column.replace("_", " ")
                    row[f"{what}, {name}"] = plus_minus(values.dropna(), digits)
            rows.append(row)
    return pd.DataFrame(rows)


def masks(figure: FigureBeyond) -> pd.DataFrame:
    """Test error [%] at each point that is retrained from: the gradual runs of the first seed and
    the retrained masks, mean with half of the 95 % interval."""
    rows = []
    for rivals in figure.panel.networks:
        network, seed = rivals.title, rivals.lobsters[0].seed
        arms = {arm: errors(figure, network, arm) for arm in RETRAINED}
        runs = {arm: gradual(figure, network, arm).get(seed) for arm in ("lobster", "decay")}
        lobster = runs["lobster"]
        if lobster is None:
            continue
        for point in sorted({p for table in arms.values() for p in table.index if p > 0}):
            sparsity = lobster.loc[point, "sparsity"]
            row = {"network": _short(network), "sparsity": f"{100 * sparsity:.2f} %"}
            for arm, run in runs.items():
                error = np.nan if run is None else between(run, "test_error", [1 - sparsity])[0]
                row[NAMES[arm]] = f"{100 * error:.2f}" if np.isfinite(error) else ""
            for arm in reversed(RETRAINED):
                if point in arms[arm].index:
                    row[NAMES[arm]] = plus_minus(arms[arm].loc[point].dropna())
            rows.append(row)
    return pd.DataFrame(rows)


def layers(figure: FigureBeyond) -> pd.DataFrame:
    """At the last point, how many weights of each layer survive (mean over replicas), and the share
    of LOBSTER's survivors that magnitude pruning keeps, too."""
    rows = []
    for rivals in figure.panel.networks:
        table = figure.layers[figure.layers["network"] == rivals.title]
        table = table[table["point"] == table["point"].max()]
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


def gradients(figure: FigureBeyond) -> pd.DataFrame:
    """The first gradual run's gradients at a few of its points, see `sensitivity.run`."""
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


def reading(figure: FigureBeyond) -> str:
    """What the figure shows, in sentences (Markdown) whose numbers come from its tables."""
    sentences = []
    for rivals in figure.panel.networks:
        network = rivals.title
        said = _said(figure, network)
        if said:
            sentences.append(f"**{network}.** " + " ".join(said))
    return unbroken("\n\n".join(sentences or [NOT_THERE]))


def _said(figure: FigureBeyond, network: str) -> list[str]:
    said = []
    gap = gaps(figure, network)
    if gap.size:
        seeds = f"{len(gap)} seeds" if len(gap) > 1 else "one seed: no interval"
        said.append(
            f"Without the sensitivity term the test error changes by "
            f"{plus_minus(gap.mean(axis=1))} points, mean from {span(gap.columns)} sparsity "
            f"({seeds})."
        )
    table = figure.gradients[figure.gradients["network"] == network]
    if len(table):
        said.append(
            f"At every point of LOBSTER's first run that has been looked at, "
            f"{100 * table['small'].min():.1f} % or more of the gradients are at most 0.01, and "
            f"the term leaves at least {100 * table['factor'].min():.2f} % of the decay on average."
        )
    arms = {arm: errors(figure, network, arm) for arm in RETRAINED}
    points = [p for p in arms["rewound"].index if all(p in a.index for a in arms.values())]
    runs = list(gradual(figure, network).values())
    if points and runs:
        for point in dict.fromkeys((points[0], points[-1])):
            values = "; ".join(
                f"{NAMES[arm]} {plus_minus(arms[arm].loc[point].dropna())} %"
                for arm in reversed(RETRAINED)
            )
            own = runs[0].loc[point]
            said.append(
                f"At {100 * own['sparsity']:.2f} % sparsity: {values}; LOBSTER's own network "
                f"{100 * own['test_error']:.2f} %."
            )
    return said
