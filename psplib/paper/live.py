"""Figures that answer: drawn in the browser, by `live.js`, from the numbers in the page.

They need no kernel, no network and no widgets, so that they are the same in the built page and in
JupyterLab. Where scripts do not run, in print and in a preview, a picture stands for
them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from psplib.experiments.designs import spread
from psplib.experiments.profile import entropies
from psplib.experiments.scales import TITLES
from psplib.experiments.solutions import SUBSPACES, solutions
from psplib.experiments.transfer import DEPTHS
from psplib.paper import figure_1_slides
from psplib.paper.entropy_learning import FURTHER, QUANTITIES, FigureLearning, plot_learning
from psplib.paper.entropy_learning import LOOKS as LEARNT_LOOKS
from psplib.paper.figure_1 import Figure1, plot_panel
from psplib.paper.figure_2 import eigenvalues_plot
from psplib.paper.figure_4 import ORDERS
from psplib.paper.minima import NETWORK, Figures2to4, present
from psplib.paper.plane import ALL_LAYERS, LABELS, SOLUTIONS, layer_columns, map_plot
from psplib.paper.slide import Slide, draw_slide
from psplib.paper.style import ARMS, STYLE, Look
from psplib.paper.transfer import LOOKS as TRANSFER_LOOKS
from psplib.paper.transfer import FigureTransfer, levels, plot_errors
from psplib.pruning.lobster import Lobster
from psplib.pruning.thresholds import Thresholds
from psplib.runs.store import Store

_ENDS = [{"alpha": a, "color": color, "name": name} for a, color, name in SOLUTIONS]
MISSING = "The runs of this figure are not there yet."
GRADUAL = "-1"  # the replica's place of a network that has none


@dataclass(frozen=True)
class Live:
    """A figure's numbers, which `live.js` draws, and the picture that stands for it; without any
    numbers it says that its runs are missing."""

    numbers: dict[str, Any]
    still: Slide | None

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        if self.still is None:
            return {"text/html": f'<p class="psplib-badge">{MISSING}</p>', "text/plain": MISSING}
        return {"text/html": self.page, "text/plain": self.still.alt}

    @property
    def page(self) -> str:
        """The figure as HTML, its script with it."""
        assert self.still is not None
        text = json.dumps(self.numbers, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text = text.replace("</", "<\\/")
        name = f"live-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return (
            f'<figure class="psplib-live" id="{name}"><div>{self.still.picture}</div>'
            f'<script type="application/json">{text}</script></figure>'
            f'<script>{_script()}</script><script>psplibLive("{name}")</script>'
        )


@cache
def _script() -> str:
    return Path(__file__).with_name("live.js").read_text(encoding="utf-8")


def _chosen_panel(
    knobs: Mapping[str, Sequence[str]], panels: list[dict[str, Any]], still: Slide | None
) -> Live:
    """A panel for each setting of the knobs, `at` positions among their options: categories `x`, or
    numbers along lines, `series` of values by position among these, and `levels`, lines across."""
    most = max(
        (len(v) for p in panels for s in p["series"] for v in s["points"].values()), default=0
    )
    numbers = {
        "kind": "panels",
        "t": _quantiles(most),
        "knobs": [{"name": name, "options": list(options)} for name, options in knobs.items()],
        "panels": panels,
    }
    return Live(numbers, still) if still else Live({}, None)


def _quantiles(most: int) -> list[float]:
    """t-quantiles of 95 % intervals over 2, 3, ... values."""
    return [float(stats.t.ppf(0.975, n - 1)) for n in range(2, most + 1)]


def _series(look: Look, values: Mapping[Any, Sequence[float]]) -> dict[str, Any]:
    """`values`: by place on the axis those of all runs in their order, NaN where one has none."""
    points = {
        str(place): [None if np.isnan(v) else float(f"{v:.5g}") for v in row]
        for place, row in values.items()
    }
    return {"name": look.name, "color": look.color, "marker": look.marker, "points": points}


def gammas(figure: FigureLearning) -> Live:
    """Learning by entropy: a quantity of a network against gamma, by what the entropy is
    conditional on."""
    networks = [n for n in figure.networks if len(figure.values("test_error", n)) > 1]
    quantities = QUANTITIES | FURTHER
    panels = []
    for i, network in enumerate(networks):
        asked = sorted({gamma for gamma, _ in figure.cases(network)})
        runs = sorted(set(figure.table["replica"][figure.table["network"] == network]))
        for j, (quantity, (name, factor)) in enumerate(quantities.items()):
            series = []
            for labels, look in LEARNT_LOOKS.items():
                rows = (factor * figure.values(quantity, network, labels)).dropna(how="all")
                if len(rows) > (labels != "classes"):
                    by_run = rows.reindex(columns=runs)
                    by_place = {asked.index(gamma): row for gamma, row in by_run.iterrows()}
                    series.append(_series(Look(*look), by_place))
            if series:
                x = [f"{gamma:g}" for gamma in asked]
                panels.append(
                    {"at": [i, j], "x": x, "xlabel": "gamma", "ylabel": name}
                    | {"levels": [], "series": series}
                )
    knobs = {"network": networks, "quantity": [name for name, _ in quantities.values()]}
    drawn = plot_learning(figure)
    alt = "Error, entropies and transfer against gamma."
    return _chosen_panel(knobs, panels, draw_slide(drawn, alt) if drawn else None)


def probes(figure: FigureTransfer) -> Live:
    """Transfer: the probe error by sparsity and arm on a target, a value for each gradual run, for
    each depth that is read and number of labelled images; the dense network and the raw pixels as
    lines."""
    ways = [(s, t) for s in figure.panel.networks if len(figure.at_last(s)) for t in s.targets]
    all_shots = sorted(figure.panel.shots, reverse=True)
    panels = []
    for i, (source, on) in enumerate(ways):
        for j, layers in enumerate(DEPTHS):
            for k, shots in enumerate(all_shots):
                rows = figure.rows(source, layers, shots)
                rows = rows[rows["target"] == on]
                pruned = rows[rows["point"] > 0]
                near, x = levels(pruned, source.goals)
                by_run = pruned.groupby(["arm", near.map(x.index), "lobster_seed"])["error"].mean()
                by_run = 100 * by_run.unstack()
                series = []
                for arm, look in TRANSFER_LOOKS.items():
                    if arm in by_run.index:
                        series.append(_series(look, dict(by_run.loc[arm].iterrows())))
                lines = [
                    {"name": TRANSFER_LOOKS[arm].name, "value": round(100 * float(its.mean()), 4)}
                    for arm in ("dense", "pixels")
                    if len(its := rows[rows["arm"] == arm]["error"])
                ]
                panels.append(
                    {"at": [i, j, k], "x": x, "xlabel": "sparsity", "ylabel": "probe error [%]"}
                    | {"levels": lines, "series": series}
                )
    knobs = {
        "from → to": [f"{source.title} → {TITLES[on]}" for source, on in ways],
        "read": ["the last hidden layer", "the last two"],
        "images a class": [str(shots) for shots in all_shots],
    }
    drawn = plot_errors(figure)
    alt = "Probe error by sparsity and arm, a panel for each source and target."
    return _chosen_panel(knobs, panels, draw_slide(drawn, alt) if drawn else None)


def curves(figures: Sequence[Figure1]) -> Live:
    """Test error against density of panels of Fig. 1: each arm's replicas, their mean and 95 %
    interval; or the difference to another arm, replica by replica, where the gradual network is
    compared with each replica. Panels without runs are left out."""
    there = [figure for figure in figures if not figure.gradual.empty]
    if not there:
        return Live({}, None)
    most = max(len(figure.panel.retrained.replicas) for figure in there)
    numbers = {
        "kind": "curves",
        "t": _quantiles(most),
        "panels": [_panel(figure) for figure in there],
    }
    drawn = plot_panel(there[0])
    assert drawn is not None
    alt = f"{there[0].title}: test error against sparsity, every arm with its 95 % interval."
    return Live(numbers, draw_slide(drawn, alt))


def _panel(figure: Figure1) -> dict[str, Any]:
    errors = {arm: figure.errors(arm) for arm in ARMS if arm != "dense"}
    gradual = 100 * figure.gradual[["test_error"]]
    errors["lobster"] = gradual.set_axis([GRADUAL], axis=1)
    dense = figure.errors("dense")
    return {
        "title": figure.title,
        "density": {str(p): 100 * float(d) for p, d in figure.densities.items()},
        "dense": float(dense.loc[0].mean()) if len(dense) else None,
        "arms": [
            {
                "name": ARMS[arm].name,
                "color": ARMS[arm].color,
                "marker": ARMS[arm].marker,
                "points": _points(found),
            }
            for arm, found in errors.items()
            if len(found)
        ],
    }


def _points(errors: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Errors in per cent by point and replica."""
    return {
        str(point): {str(r): round(float(v), 6) for r, v in row.dropna().items()}
        for point, row in errors.iterrows()
    }


def maps(figures: Figures2to4, quantities: Sequence[str]) -> Live:
    """Maps of the plane through G and 1-S: some quantities of `plane.LABELS`, by layer, with the
    random direction in surviving or in all coordinates. The finer grid comes first."""
    tables = sorted(
        ((m.subspace, t) for m, t in figures.maps.items()),
        key=lambda m: (m[0] == "all", -len(m[1])),
    )
    present = [q for q in quantities if any(layer_columns(t, q) for _, t in tables)]
    if not present:
        return Live({}, None)
    numbers = {
        "kind": "plane",
        "labels": LABELS,
        "quantities": present,
        "solutions": _ENDS,
        "maps": [_map(subspace, table, present) for subspace, table in tables],
    }
    first = next(t for _, t in tables if layer_columns(t, present[0]))
    column = layer_columns(first, present[0])[0]
    drawn = map_plot(first, column)
    alt = f"Map of {LABELS[present[0]]} over the plane through G and 1-S."
    return Live(numbers, draw_slide(drawn, alt, 128))


def _map(subspace: str, table: pd.DataFrame, quantities: Sequence[str]) -> dict[str, Any]:
    table = table.sort_values(["beta", "alpha"])
    if "error" in table:
        table = table.assign(error=100 * table["error"])
    whole = [q for q in LABELS if q in table]
    columns = dict.fromkeys([*whole, *(c for q in quantities for c in layer_columns(table, q))])
    return {
        "coordinates": subspace,
        "alpha": sorted(set(table["alpha"])),
        "beta": sorted(set(table["beta"])),
        "columns": {
            c: base64.b64encode(table[c].to_numpy(np.dtype("<f4"))).decode() for c in columns
        },
    }


def walk(figures: Figures2to4, store: Store) -> Live:
    """The line from G to 1-S, to be walked along: the five leading eigenvalues in surviving and in
    all coordinates, raw or times the squared norm of the weights, and what the map has there."""
    points = figures.map()
    lines = {s: table for s in SUBSPACES if (table := figures.line(s)) is not None}
    if points is None or not lines:
        return Live({}, None)
    ends = solutions(next(iter(figures.lines)).retraining, store)
    g, one_shot = ends.gradual.double(), ends.one_shot.double()
    first = max(table["alpha"].min() for table in lines.values())
    last = min(table["alpha"].max() for table in lines.values())
    line = points[(points["beta"] == 0) & points["alpha"].between(first, last)]
    line = line.sort_values("alpha").assign(error=100 * line["error"])
    numbers = {
        "kind": "walk",
        "labels": LABELS,
        "solutions": _ENDS,
        "map": _map("surviving", points[["alpha", "beta", "loss"]], []),
        "lines": [_eigenvalues(subspace, table) for subspace, table in lines.items()],
        "alpha": line["alpha"].tolist(),
        "along": {q: line[q].tolist() for q in LABELS if q in line},
        "products": [float(a @ b) for a, b in ((g, g), (g, one_shot), (one_shot, one_shot))],
    }
    drawn = eigenvalues_plot(figures)
    assert drawn is not None
    alt = "The five largest eigenvalues of the Hessian along the line through G and 1-S."
    return Live(numbers, draw_slide(drawn, alt))


def _eigenvalues(subspace: str, table: pd.DataFrame) -> dict[str, Any]:
    by_rank = table.pivot(index="alpha", columns="rank", values="eigenvalue")
    values = by_rank.to_numpy().tolist()
    return {"coordinates": subspace, "alpha": by_rank.index.tolist(), "values": values}


def prune_by_hand(config: Thresholds, store: Store, most: int = 6) -> Live:
    """The networks of a gradual run before a pruning, at most `most` of them: sizes of the weights
    and the validation loss against the threshold, which the reader sets before LOBSTER's is shown.
    """
    if config not in store or config.lobster not in store:
        return Live({}, None)
    losses = store.load(config).table("losses")
    by_point = dict(tuple(losses.groupby("point")))
    kept = {point: int(rows["kept"].iloc[0]) for point, rows in by_point.items()}
    shown = [list(kept)[i] for i in spread([float(k) for k in kept.values()], most)]
    run = store.load(config.lobster)
    sparsity = run.table("points").set_index("point")["sparsity"]
    points = []
    for point in shown:
        rows = by_point[point]
        sizes = np.abs(run.tensors("weights")[f"point{point}"].numpy())
        edges = np.geomspace(1e-3 * sizes.max(), sizes.max() * 1.0001, 61)
        counts, _ = np.histogram(sizes.clip(edges[0]), edges)
        points.append(
            {
                "name": f"{100 * sparsity[point]:.2f} % pruned, {kept[point]:,} left",
                "threshold": rows["threshold"].tolist(),
                "kept": rows["kept"].tolist(),
                "loss": rows["loss"].tolist(),
                "own": int(rows["is_own"].to_numpy().argmax()),
                "edges": edges.tolist(),
                "counts": counts.tolist(),
            }
        )
    numbers = {
        "kind": "threshold",
        "tolerance": config.lobster.tolerance,
        "color": ARMS["lobster"].color,
        "points": points,
    }
    return Live(numbers, _losses_still(by_point[shown[0]], points[0]["name"]))


def _losses_still(rows: pd.DataFrame, name: str) -> Slide:
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 3.6), layout="constrained")
        ax = fig.subplots()
        share = 100 * (1 - rows["kept"] / rows["kept"].iloc[0])
        ax.plot(share, rows["loss"], color=ARMS["lobster"].color)
        own = rows["is_own"].to_numpy().argmax()
        ax.axvline(share.iloc[own], color="black", ls="--")
        ax.set(yscale="log", xlabel="pruned of these parameters [%]", ylabel="validation loss")
        ax.set_title(name)
        alt = (
            f"{name}: the validation loss against the share that a threshold takes; LOBSTER's own "
            f"takes {share.iloc[own]:.1f} %, at a loss of {rows['loss'].iloc[own]:.4f}, "
            f"{rows['loss'].iloc[0]:.4f} before."
        )
        return draw_slide(fig, alt)


def survivors(config: Lobster, store: Store) -> Live:
    """What survives of a gradual run's first layer, by sparsity."""
    return _slid(figure_1_slides.survivors_slides(config, store), "sparsity")


def classes(figures: Figures2to4) -> Live:
    """PSP-entropy by class: every network of a gradual run, for each definition, layer and run."""
    neurons = figures.neurons
    if neurons.empty:
        return Live({}, None)
    mean = neurons.groupby([*NETWORK, "class"], sort=False)[list(ORDERS)].mean().reset_index()
    layers = {ALL_LAYERS: mean} | dict(tuple(neurons.groupby("layer", sort=False)))
    seeds = sorted(neurons["lobster_seed"].unique())
    panels = []
    for i, (order, title) in enumerate(ORDERS.items()):
        for j, rows in enumerate(layers.values()):
            for k, seed in enumerate(seeds):
                run = rows[rows["lobster_seed"] == seed]
                names = sorted(run["class"].unique())
                series = []
                for arm in present(run):
                    by_class = run[run["arm"] == arm].groupby("class")[order]
                    points = {names.index(c): values for c, values in by_class}
                    series.append(_series(ARMS[arm], points))
                panels.append(
                    {"at": [i, j, k], "x": [str(c) for c in names], "xlabel": "class"}
                    | {"ylabel": f"{title} [bits]", "levels": [], "series": series}
                )
    runs = [str(seed) for seed in seeds]
    knobs = {"definition": list(ORDERS.values()), "layer": list(layers), "gradual run": runs}
    return _chosen_panel(knobs, panels, _panel_still(panels[0], "PSP-entropy by class"))


def neurons(figures: Figures2to4, ranks: int = 40) -> Live:
    """The neurons of G and 1-S whose state varies, sorted by first-order entropy, for each layer
    and class, drawn at so many ranks."""
    if not figures.profile:
        return Live({}, None)
    bits = entropies(dict(figures.profile))
    sizes = figures.profile["layers"].set_index("layer")["neurons"]
    numbers = figures.profile["classes"]["class"].tolist()
    shown = {"all classes": numbers} | {f"class {c}": [c] for c in numbers}
    panels = []
    for i, (layer, size) in enumerate(sizes.items()):
        for j, columns in enumerate(shown.values()):
            found = {}
            for arm, which in (("lobster", "G"), ("rewound", "1-S")):
                values = bits[(bits["layer"] == layer) & (bits["arm"] == arm)][columns].sum(axis=1)
                its = np.sort(values[values > 0])[::-1]
                name = f"{which}: {len(its):,} vary, mean {its.sum() / size:.4f} bits"
                found[ARMS[arm]._replace(name=name)] = its
            most = max(map(len, found.values()))
            if not most:
                continue
            x = sorted({round(n) for n in np.linspace(1, most, ranks)})
            series = [
                _series(look, {k: [its[n - 1]] for k, n in enumerate(x) if n <= len(its)})
                for look, its in found.items()
            ]
            panels.append(
                {"at": [i, j], "x": x, "xlabel": f"neurons of {size:,}, sorted"}
                | {"ylabel": "first order [bits]", "levels": [], "series": series}
            )
    knobs = {"layer": [str(layer) for layer in sizes.index], "class": list(shown)}
    still = _panel_still(panels[0], f"{sizes.index[0]}, all classes") if panels else None
    return _chosen_panel(knobs, panels, still)


def _panel_still(panel: dict[str, Any], title: str) -> Slide:
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 3.6), layout="constrained")
        ax = fig.subplots()
        is_line = panel["xlabel"].endswith("sorted")
        for place, series in enumerate(panel["series"]):
            look = {"color": series["color"], "label": series["name"]}
            at = [int(i) for i, values in series["points"].items() for _ in values]
            seen = [v for values in series["points"].values() for v in values]
            if is_line:
                ax.plot([panel["x"][i] for i in at], seen, **look)
                continue
            beside = 0.7 * ((place + 0.5) / len(panel["series"]) - 0.5)
            ax.plot(np.array(at) + beside, seen, series["marker"], ms=4, **look)
            ax.set_xticks(range(len(panel["x"])), panel["x"])
        ax.set(xlabel=panel["xlabel"], ylabel=panel["ylabel"], title=title)
        ax.legend(fontsize=9)
        return draw_slide(fig, f"{title}: {panel['ylabel']} by {panel['xlabel']}.", 32)


def _slid(pictures: Mapping[str, Slide], name: str) -> Live:
    """Pictures between which a slider chooses, by what it says; `name`, its own."""
    if not pictures:
        return Live({}, None)
    slides = [{"name": said, "is": slide.picture} for said, slide in pictures.items()]
    numbers = {"kind": "slides", "name": name, "slides": slides}
    return Live(numbers, next(iter(pictures.values())))
