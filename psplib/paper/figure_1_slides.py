"""What the widgets of Fig. 1 show: two arms side by side, and a gradual run pruning by pruning.

Every function gives a slide for each setting of the controls, and none where the runs are not
there. The numbers are those of the figure's own table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from psplib.experiments import scales
from psplib.nn.masks import Mask
from psplib.paper.figure_1 import Figure1, dense_line
from psplib.paper.slide import Slide, Slides, draw_slide
from psplib.paper.statistics import interval
from psplib.paper.style import ARMS, DENSITY, STYLE, curve, plain_ticks
from psplib.pruning.lobster import Lobster, points_with_weights
from psplib.runs.store import Store

_PRUNED, _GAP, _TAKEN = 0.90, 1.0, "#999999"


def arms_slides(figure: Figure1) -> Slides:
    """By two arms: their test errors against density, and their difference replica by replica. A
    pair has the same slide in both orders."""
    if figure.gradual.empty:
        return {}
    names = [a for a in ARMS if a != "dense" and len(_errors(figure, a))]
    if len(names) < 2:
        return {}
    found: Slides = {}
    for i, one in enumerate(names):
        for other in names[i:]:
            slide = _alone(figure, one) if one == other else _pair(figure, one, other)
            found[ARMS[one].name, ARMS[other].name] = found[ARMS[other].name, ARMS[one].name] = (
                slide
            )
    # In the order of the arms, for the controls' options.
    titles = [ARMS[name].name for name in names]
    return {(one, other): found[one, other] for one in titles for other in titles}


def _errors(figure: Figure1, arm: str) -> pd.DataFrame:
    """Test errors in per cent, a row per point; of the gradual run one column."""
    if arm == "lobster":
        return 100 * figure.gradual[["test_error"]]
    return figure.errors(arm)


def _differences(figure: Figure1, one: str, other: str) -> pd.DataFrame:
    """`other` minus `one` in points, a row per point, a column per replica; the gradual network of
    a point is compared with each replica."""
    if one == "lobster":
        retrained = _errors(figure, other)
        return retrained.sub(_errors(figure, one)["test_error"].loc[retrained.index], axis=0)
    return (_errors(figure, other) - _errors(figure, one)).dropna(how="all")


def _draw(ax: Axes, figure: Figure1, names: Sequence[str]) -> None:
    """Curves of some arms over density, on a logarithmic scale where they are far apart."""
    density = figure.densities
    dense_line(ax, figure)
    drawn = []
    for arm in names:
        errors = _errors(figure, arm)
        drawn.append(errors.to_numpy(dtype=float))
        if arm == "lobster":
            color, marker, title = ARMS[arm]
            ax.plot(100 * density, errors, marker=marker, ms=4, color=color, label=title)
        else:
            curve(ax, ARMS[arm], errors, density)
    seen = np.concatenate([d[np.isfinite(d)] for d in drawn])
    ax.set(xscale="log", ylabel="test error [%]")
    ax.set_ylim(0.93 * seen.min(), 1.07 * seen.max())
    if seen.min() > 0 and seen.max() > 5 * seen.min():
        ax.set_yscale("log")
        plain_ticks(ax.yaxis)
    ax.set_xlim(110, 88 * density.min())
    plain_ticks(ax.xaxis)
    ax.legend(fontsize=9, loc="upper left")


def _alone(figure: Figure1, arm: str) -> Slide:
    title, errors = ARMS[arm].name, _errors(figure, arm)
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 5.2))
        ax = fig.add_axes((0.1, 0.1, 0.87, 0.82))
        _draw(ax, figure, [arm])
        ax.set(xlabel=DENSITY, title="twice the same arm")
        first, last = errors.index[0], errors.index[-1]
        alt = (
            f"{figure.panel.title}: test error of {title} by sparsity: {_mean(errors, first)} % at "
            f"{_sparsity(figure, first)}, {_mean(errors, last)} % at {_sparsity(figure, last)}. "
            "Both controls name this arm; choose another one for their difference."
        )
        return draw_slide(fig, alt)


def _pair(figure: Figure1, one: str, other: str) -> Slide:
    first, second = ARMS[one].name, ARMS[other].name
    differences = _differences(figure, one, other)
    intervals = {p: interval(row.dropna()) for p, row in differences.iterrows()}
    x = [100 * figure.densities[p] for p in intervals]
    color = ARMS[other].color
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 5.2))
        above, below = fig.add_axes((0.1, 0.42, 0.87, 0.55)), fig.add_axes((0.1, 0.1, 0.87, 0.24))
        _draw(above, figure, [one, other])
        for replica in differences.columns:
            below.plot(x, differences[replica], "o", ms=2.5, color=color, alpha=0.4, mew=0)
        below.plot(x, [i.mean for i in intervals.values()], color=color, marker=ARMS[other].marker)
        low, high = ([getattr(i, end) for i in intervals.values()] for end in ("low", "high"))
        if np.isfinite([*low, *high]).all():
            below.fill_between(x, low, high, color=color, alpha=0.2, lw=0)
        below.axhline(0, color="black", lw=0.9)
        below.set(xscale="log", xlim=above.get_xlim(), ylabel="[points]")
        below.set_xlabel(DENSITY)
        plain_ticks(below.xaxis)
        below.set_title(f"{second} minus {first}", fontsize=10)
        above.tick_params(labelbottom=False)
        alt = (
            f"{figure.panel.title}: test error of {first} and of {second}, and the second minus "
            f"the first with its 95 % interval: {_in_words(figure, one, other, intervals)}"
        )
        return draw_slide(fig, alt)


def _in_words(figure: Figure1, one: str, other: str, differences: dict) -> str:
    a, b = _errors(figure, one), _errors(figure, other)
    return "; ".join(
        f"at {_sparsity(figure, point)} sparsity {_mean(a, point)} % and {_mean(b, point)} %, "
        f"difference {d.mean:+.2f}"
        + (f" [{d.low:+.2f}, {d.high:+.2f}]" if np.isfinite(d.low) else "")
        for point, d in differences.items()
    )


def _mean(errors: pd.DataFrame, point: int) -> str:
    return f"{errors.loc[point].mean():.2f}"


def _sparsity(figure: Figure1, point: int) -> str:
    return f"{100 * (1 - figure.densities[point]):.1f} %"


@dataclass(frozen=True, eq=False)
class State:
    """A point of a gradual run: its row of the table of points, the number of parameters that the
    next pruning takes (0 at the last point), and the weights (P,), zero where `mask` is false."""

    row: dict[str, Any]
    taken: int
    mask: Mask
    weights: Tensor

    @property
    def sparsity(self) -> str:
        return f"{100 * self.row['sparsity']:.2f} %"


def states(config: Lobster, store: Store, most: int) -> list[State]:
    """At most `most` points whose weights a gradual run kept, in equal steps of log density as
    nearly as can be; none if the run is not there."""
    if not store.has(config):
        return []
    points = store.load(config).table("points")
    kept = points["kept"].tolist()
    stored = points_with_weights(kept)
    chosen = [stored[i] for i in scales.spread([kept[p] / kept[0] for p in stored], most)]
    rows = points.to_dict("records")
    return [
        State(
            rows[p],
            kept[p] - kept[p + 1] if p + 1 < len(kept) else 0,
            config.mask(p, store),
            config.weights(p, store),
        )
        for p in chosen
    ]


def survivors_slides(config: Lobster, store: Store, most: int = 10, units: int = 24) -> Slides:
    """By sparsity: the first layer's weights of the `units` units that keep most of them in the
    end, one square each, and the share that survives in every layer."""
    found = states(config, store, most)
    if not found:
        return {}
    before = store.load(config).table("points")["test_error"][0]
    squares = [_squares(state) for state in found]
    count = np.isfinite(squares[-1]).sum((1, 2))
    order = np.argsort(-count, kind="stable")[:units]
    squares = [s[order] for s in squares]
    limit = max(float(np.nanquantile(np.abs(s), 0.99)) for s in squares if np.isfinite(s).any())
    return {
        (state.sparsity,): _survivors(config, state, drawn, limit, before)
        for state, drawn in zip(found, squares, strict=True)
    }


def _squares(state: State) -> np.ndarray:
    """The weights into each unit of the first layer as (units, rows, columns), NaN where pruned."""
    (_, weights), (_, mask) = (
        next((n, p) for n, p in state.mask.split(flat) if p.ndim > 1)
        for flat in (state.weights, state.mask.flat)
    )
    values = np.where(mask.numpy(), weights.numpy(), np.nan)
    if values.ndim > 2:
        return values[:, 0]
    side = round(values.shape[1] ** 0.5)
    return values.reshape(-1, side, side)


def _survivors(
    config: Lobster, state: State, squares: np.ndarray, limit: float, before: float
) -> Slide:
    layers = [(n.removesuffix(".weight"), m) for n, m in state.mask.items() if m.ndim > 1]
    shares = {name: 100 * float(m.float().mean()) for name, m in layers}
    name, first = layers[0]
    live = int(first.flatten(1).any(1).sum())
    errors = f"test error {100 * state.row['test_error']:.2f} %"
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 3.9))
        left, right = fig.add_axes((0.01, 0.02, 0.64, 0.84)), fig.add_axes((0.74, 0.14, 0.23, 0.66))
        left.imshow(_mosaic(squares, limit), interpolation="nearest")
        left.set_axis_off()
        right.barh(list(shares), list(shares.values()), color=ARMS["lobster"].color)
        for i, share in enumerate(shares.values()):
            right.text(max(share, 0.1) * 1.15, i, f"{share:.1f} %", va="center", fontsize=9)
        right.set(xscale="log", xlim=(0.1, 1000), xlabel="surviving weights [%]")
        right.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"], fontsize=9)
        right.invert_yaxis()
        right.grid(False, axis="y")
        fig.text(0.02, 0.93, f"{state.sparsity} pruned: {state.row['kept']:,} left", weight="bold")
        fig.text(0.98, 0.93, f"{errors} (unpruned {100 * before:.2f} %)", ha="right")
        alt = (
            f"{scales.TITLES[config.architecture]} at {state.sparsity} sparsity: "
            f"{int(first.sum()):,} of {first.numel():,} weights of its first layer, {name}, "
            f"survive, in {live} of {len(first)} units; each square shows one of the "
            f"{len(squares)} units with the most survivors in the end. Surviving weights by layer: "
            f"{', '.join(f'{n} {share:.2f} %' for n, share in shares.items())}. "
            f"{errors.capitalize()}, {100 * before:.2f} % before any pruning."
        )
        return draw_slide(fig, alt, 128)


def _mosaic(squares: np.ndarray, limit: float) -> np.ndarray:
    """Squares (n, h, w) side by side as RGB: red and blue for the sign, grey where pruned."""
    n, height, width = squares.shape
    columns = max(1, round((1.5 * n) ** 0.5))
    rows = -(-n // columns)
    picture = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), _GAP)
    colours = mpl.colormaps["RdBu"](np.clip(squares, -limit, limit) / (2 * limit) + 0.5)[..., :3]
    colours[~np.isfinite(squares)] = _PRUNED
    for i, square in enumerate(colours):
        top, start = (i // columns) * (height + 1), (i % columns) * (width + 1)
        picture[top : top + height, start : start + width] = square
    return picture


def prunings_slides(config: Lobster, store: Store, most: int = 12) -> Slides:
    """By sparsity: the sizes of the surviving parameters with the next pruning's threshold, and
    where in the run's validation loss that is."""
    found = states(config, store, most)
    if not found:
        return {}
    artefact = store.load(config)
    history, points = artefact.table("history"), artefact.table("points")
    sizes = [np.abs(s.weights[s.mask.flat].numpy()) for s in found]
    largest = max(float(s.max()) for s in sizes)
    bins = np.geomspace(1e-3 * largest, largest, 61)
    return {
        (state.sparsity,): _pruning(state, size, bins, history, points["epoch"].tolist())
        for state, size in zip(found, sizes, strict=True)
    }


def _pruning(
    state: State, sizes: np.ndarray, bins: np.ndarray, history: pd.DataFrame, epochs: list[int]
) -> Slide:
    row, threshold = state.row, state.row["threshold"]
    color = ARMS["lobster"].color
    is_last = not state.taken
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 4.4))
        above, below = (
            fig.add_axes((0.12, 0.6, 0.85, 0.31)),
            fig.add_axes((0.12, 0.115, 0.85, 0.32)),
        )
        seen = np.clip(sizes, bins[0], None)
        cut = -np.inf if is_last else threshold
        parts = [seen[seen <= cut], seen[seen > cut]]
        above.hist(parts, bins.tolist(), stacked=True, color=[_TAKEN, color])
        above.set(xscale="log", xlabel="|w|, surviving parameters", ylabel="number")
        above.set_xlim(bins[0], bins[-1])
        plain_ticks(above.xaxis)
        above.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        then = "no further pruning" if is_last else f"T = {threshold:.4f} takes {state.taken:,}"
        if not is_last:
            above.axvline(threshold, color="black", lw=1.4)
        above.set_title(f"{state.sparsity} pruned: {row['kept']:,} left; {then}", fontsize=11)
        done = history[history["epoch"] <= row["epoch"]]
        below.plot(history["epoch"], history["validation_loss"], color=color, lw=0.7, alpha=0.3)
        below.plot(done["epoch"], done["validation_loss"], color=color, lw=1.1)
        below.vlines(
            epochs, 0, 1, transform=below.get_xaxis_transform(), color="0.85", lw=0.6, zorder=0
        )
        below.axvline(row["epoch"], color="black", lw=1.4)
        below.plot(row["best_epoch"], row["validation_loss"], "o", color=color, mec="white", ms=8)
        # The first epochs would set the range; what happens once pruning has begun is of interest.
        pruned = history.loc[history["epoch"] >= epochs[0], "validation_loss"]
        below.set(xlabel="epoch", ylabel="validation loss")
        below.set_ylim(0.95 * history["validation_loss"].min(), 1.05 * pruned.max())
        below.set_xlim(0, 1.01 * history["epoch"].max())
        alt = (
            f"Gradual pruning at epoch {row['epoch']}: {row['kept']:,} parameters survive, "
            f"{state.sparsity} are pruned. "
            + (
                "It is the last point: nothing more is pruned. "
                if is_last
                else f"The threshold T = {threshold:.4f} takes {state.taken:,} of them next. "
            )
            + f"The median size of a survivor is {np.median(sizes):.4f}. The validation loss was "
            f"lowest since the pruning before at epoch {row['best_epoch']}: "
            f"{row['validation_loss']:.4f}; the test error there is "
            f"{100 * row['test_error']:.2f} %."
        )
        return draw_slide(fig, alt, 32)
