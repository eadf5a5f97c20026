"""What survives of a gradual run, pruning by pruning: a slide for each, none where the run is not
there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from psplib.experiments import designs, scales
from psplib.nn.masks import Mask
from psplib.paper.slide import Slide, draw_slide
from psplib.paper.style import ARMS, STYLE
from psplib.pruning.lobster import Lobster, points_with_weights
from psplib.runs.store import Store

_PRUNED, _GAP, _TAKEN = 0.90, 1.0, "#999999"


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


def kept_states(config: Lobster, store: Store, most: int) -> list[State]:
    """At most `most` points whose weights a gradual run kept, in equal steps of log density as
    nearly as can be; none if the run is not there."""
    if not store.has(config):
        return []
    points = store.load(config).table("points")
    kept = points["kept"].tolist()
    stored = points_with_weights(kept)
    chosen = [stored[i] for i in designs.spread([kept[p] / kept[0] for p in stored], most)]
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


def survivors_slides(
    config: Lobster, store: Store, most: int = 10, units: int = 24
) -> dict[str, Slide]:
    """By sparsity: the first layer's weights of the `units` units that keep most of them in the
    end, one square each, and the share that survives in every layer."""
    found = kept_states(config, store, most)
    if not found:
        return {}
    before = store.load(config).table("points")["test_error"][0]
    squares = [_squares(state) for state in found]
    count = np.isfinite(squares[-1]).sum((1, 2))
    order = np.argsort(-count, kind="stable")[:units]
    squares = [s[order] for s in squares]
    limit = max(float(np.nanquantile(np.abs(s), 0.99)) for s in squares if np.isfinite(s).any())
    return {
        state.sparsity: _survivors(config, state, drawn, limit, before)
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
