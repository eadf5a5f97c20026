"""Yours against published: the numbers of a run beside those of this book."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from psplib.experiments.names import PUBLISHED
from psplib.experiments.scales import TITLES
from psplib.paper import beyond, controls, transfer
from psplib.paper.beyond import FigureBeyond
from psplib.paper.controls import FigureControls
from psplib.paper.display import fold, percent, plus_minus, styled
from psplib.paper.entropy_learning import LOOKS as LEARNT
from psplib.paper.entropy_learning import FigureLearning
from psplib.paper.figure_1 import Figure1
from psplib.paper.minima import Figures2to4, Quantity
from psplib.paper.statistics import welch
from psplib.paper.transfer import FigureTransfer

# Two masks are compared whose shares of surviving parameters differ by less than this share.
NEAR = 0.1
ERROR = {"test_error": Quantity("test error [%]", 2, 100)}
PROBE = {"error": Quantity("probe error [%]", 2, 100)}


class Numbers(NamedTuple):
    """The networks of an architecture on a data set, a row each, and the scale of their runs."""

    network: str
    scale: str
    table: pd.DataFrame


Results = (
    Sequence[Figure1]
    | Figures2to4
    | FigureBeyond
    | FigureControls
    | FigureTransfer
    | FigureLearning
)
NAMES = {arm: look.name for arm, look in (transfer.LOOKS | beyond.LOOKS).items()} | controls.NAMES


def numbers(results: Results) -> list[Numbers]:
    """The networks behind a chapter."""
    if isinstance(results, Figures2to4):
        return [Numbers(one.title, one.scale, one.table) for one in results.networks]
    if isinstance(results, FigureBeyond | FigureControls | FigureTransfer | FigureLearning):
        by_network = _labelled(results).groupby("network", sort=False)
        return [Numbers(str(name), results.panel.scale, rows) for name, rows in by_network]
    return [Numbers(figure.panel.title, figure.panel.scale, figure.table) for figure in results]


def _labelled(
    results: FigureBeyond | FigureControls | FigureTransfer | FigureLearning,
) -> pd.DataFrame:
    """A chapter's table, with `network`, `arm`, `lobster_seed` and `sparsity` of each row."""
    table = results.table
    if isinstance(results, FigureControls):
        return table.assign(arm=table["control"])
    if isinstance(results, FigureTransfer):
        asked = (table["layers"] == transfer.LAYERS) & (table["shots"] == results.most)
        table = table[asked]
        return table.assign(network=table["network"] + " → " + table["target"].map(TITLES))
    if isinstance(results, FigureLearning):
        labels = table["labels"].map({k: name for k, (_, _, name) in LEARNT.items()})
        arms = "γ " + table["gamma"].map("{:g}".format) + ", " + labels
        return table.assign(arm=arms, lobster_seed=0, sparsity=0.0)
    return table


def differences_from(
    yours: Sequence[Numbers], published: Sequence[Numbers], shown: Mapping[str, Quantity]
) -> pd.DataFrame:
    """A row for each network, arm and quantity at the last mask of the first gradual run: yours,
    the published one of the same gradual run, or of the one nearest in sparsity; how many standard
    errors (Welch) they are apart. Where the network or the sparsity is another one, it says so."""
    rows = []
    for network, scale, table in yours:
        other = next((p for p in published if p.network == network), None)
        if other is None:
            said = "scale differs: nothing of this network is published"
            rows.append({"network": network, "scale": scale, "apart": said})
            continue
        for arm, own in _last(table, table["lobster_seed"].min()):
            row = {"network": network, "networks": NAMES.get(arm, arm)}
            row["sparsity"] = percent(own["sparsity"].mean(), 2)
            theirs = _nearest(other.table, arm, own)
            if theirs is None:
                said = "scale differs: nothing published of this at that sparsity"
                rows.append(row | {"scale": scale, "apart": said})
                continue
            row["scale"] = scale if scale == other.scale else f"{scale}; {other.scale}"
            for column, quantity in shown.items():
                if column in own and column in theirs and len(own[column].dropna()):
                    a, b = (quantity.scale * t[column].dropna() for t in (own, theirs))
                    values = {"yours": plus_minus(a, quantity.digits)}
                    values["published"] = plus_minus(b, quantity.digits)
                    values["apart"] = _apart(a, b)
                    rows.append(row | {"quantity": quantity.title} | values)
    order = ["network", "networks", "sparsity", "scale", "quantity", "yours", "published", "apart"]
    return pd.DataFrame(rows).reindex(columns=order).drop_duplicates()


def _last(table: pd.DataFrame, seed: int) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each arm at the last point of a gradual run that it has."""
    own = table[(table["lobster_seed"] == seed) | table["lobster_seed"].isna()]
    parts = dict(tuple(own.groupby("arm", sort=False)))
    sparsest = {
        arm: rows[rows["sparsity"] == rows["sparsity"].max()] for arm, rows in parts.items()
    }
    return [(arm, sparsest[arm]) for arm in dict.fromkeys([*NAMES, *sparsest]) if arm in sparsest]


def _nearest(table: pd.DataFrame, arm: str, own: pd.DataFrame) -> pd.DataFrame | None:
    """The published networks of an arm under the mask that is nearest in sparsity, of the same
    gradual run if it comes near; None if none does."""
    rows = table[table["arm"] == arm].dropna(subset=["sparsity"])
    ratio = np.log((1 - rows["sparsity"]) / (1 - own["sparsity"].mean())).abs()
    near = rows[ratio <= -np.log(1 - NEAR)]
    same = near[near["lobster_seed"].eq(own["lobster_seed"].iloc[0]).fillna(False).astype(bool)]
    if near.empty:
        return None
    near = same if len(same) else near
    first = near.loc[ratio[near.index].idxmin()]
    return near[near["sparsity"] == first["sparsity"]]


def _apart(a: pd.Series, b: pd.Series) -> str:
    """By how many standard errors two means differ, if there are two values or more of each."""
    found = welch(a.to_numpy(dtype=float), b.to_numpy(dtype=float))
    if not np.isfinite(found.error):
        return f"{found.mean:+.3g}, no standard error"
    return f"{found.mean / found.error:+.1f}" if found.error else "0.0"


def against_published(
    scale: str, yours: Results, published: Callable[[], Results], shown: Mapping[str, Quantity]
) -> Any:
    """`differences_from` as HTML; None where what is shown is what is published."""
    from IPython.display import HTML

    if scale == PUBLISHED:
        return None
    table = differences_from(numbers(yours), numbers(published()), shown)
    words = f"Yours ({scale}) against published; how many standard errors they are apart"
    content = (
        styled(table).to_html(table_uuid="yours") if len(table) else "Nothing has been run yet."
    )
    return HTML(fold(words, f'<div tabindex="0">{content}</div>', " open"))
