"""The laboratory's pictures and its live panel."""

from __future__ import annotations

import base64
import html
import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from psplib.book import chapter, lab
from psplib.book.lab import REACH, Setting, Snapshot
from psplib.paper.display import unbroken
from psplib.paper.style import ARMS, plain_ticks

BLUE, ORANGE, GREEN = ARMS["lobster"][0], ARMS["rewound"][0], ARMS["restructured-layer"][0]
CLASSES = LinearSegmentedColormap.from_list("classes", ["#9cc9e8", "#ffffff", "#f5c29b"])
SIZE, DPI, FONT = (4.2, 3.3), 110, 10


@dataclass(frozen=True)
class Recording:
    """A run as far as it got: its snapshots in order, the first before any training."""

    setting: Setting
    snapshots: Sequence[Snapshot]

    def upto(self, number: int) -> Recording:
        """The run as it was at a snapshot."""
        return Recording(self.setting, self.snapshots[: number + 1])


def record_run(setting: Setting) -> Recording:
    """A whole run."""
    return Recording(setting, list(lab.simulate(setting)))


# The pictures. They leave matplotlib's global state alone: a thread draws while a cell may plot.


def regions(recording: Recording) -> tuple[Figure, str]:
    """Where the network decides for which class, over the training set; and the same in words."""
    last = recording.snapshots[-1]
    fig, (ax,) = _figure(1, "decision regions, training set")
    extent = (-REACH, REACH, -REACH, REACH)
    image = last.regions.numpy()
    ax.imshow(image, CLASSES, vmin=0, vmax=1, origin="lower", extent=extent, aspect="equal")
    if image.min() < 0.5 < image.max():
        ax.contour(image, [0.5], origin="lower", extent=extent, colors="black", linewidths=1.2)
    train = lab.toy(recording.setting.toy, recording.setting.seed).train
    for label, color, marker in ((0, BLUE, "o"), (1, ORANGE, "^")):
        x = train.x[train.y == label].numpy()
        name = f"class {label}"
        ax.scatter(x[:, 0], x[:, 1], s=7, color=color, marker=marker, linewidths=0, label=name)
    ax.legend(loc="upper right", fontsize=8, handletextpad=0.1, borderpad=0.2)
    ax.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])
    ax.set_xlabel(f"test error {_percent(last.scores['test'].error)}", fontsize=FONT)
    return fig, (
        f"Decision regions after epoch {last.epoch}: "
        f"{_percent(last.scores['test'].error)} of the test set is wrong."
    )


def wires(recording: Recording) -> tuple[Figure, str]:
    """The network with what survives of it; and the same in words."""
    last = recording.snapshots[-1]
    fig, (ax,) = _figure(1, f"{last.mask.kept} of {len(last.weights)} parameters survive")
    fig.subplots_adjust(left=0.06, right=0.9)
    columns = [np.linspace(0.2, 0.8, n) for n in (2, lab.WIDTH, lab.WIDTH, 2)]
    columns[1] = columns[2] = np.linspace(0, 1, lab.WIDTH)
    weights = [w.numpy() for _, w in last.mask.split(last.weights) if w.ndim > 1]
    strongest = max(float(np.abs(w).max()) for w in weights) or 1.0
    for layer, w in enumerate(weights):
        to, source = w.nonzero()
        lines = np.stack(
            [
                np.stack([np.full(len(source), layer), columns[layer][source]], 1),
                np.stack([np.full(len(to), layer + 1), columns[layer + 1][to]], 1),
            ],
            1,
        )
        size = np.abs(w[to, source]) / strongest
        signs = np.where(w[to, source] > 0, BLUE, ORANGE)
        ax.add_collection(
            LineCollection(list(lines), colors=signs, linewidths=0.2 + 2.3 * size, alpha=0.7)
        )
    scale = Normalize(0, 2)
    for x, (name, bits) in enumerate(last.neurons.items(), start=1):
        live, y = last.live[name].numpy(), columns[x]
        ax.scatter(np.full(live.sum(), x), y[live], s=22, c=bits.numpy()[live], cmap="viridis",
                   norm=scale, edgecolors="black", linewidths=0.4, zorder=3)  # fmt: skip
        ax.scatter(np.full((~live).sum(), x), y[~live], s=5, color="#bbbbbb", zorder=3)
    for x in (0, 3):
        ax.scatter(np.full(2, x), columns[x], s=22, color="black", zorder=3)
    bar = fig.colorbar(
        ScalarMappable(scale, "viridis"), ax=ax, fraction=0.05, pad=0.02, ticks=[0, 1, 2]
    )
    bar.set_label("H(z) [bit]", fontsize=FONT - 1)
    bar.ax.tick_params(labelsize=FONT - 1)
    ax.set(xlim=(-0.15, 3.15), ylim=(-0.03, 1.03), yticks=[], xticks=range(4))
    ax.set_xticklabels(["input", "layer 1", "layer 2", "output"], fontsize=FONT - 1)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)
    ax.grid(False)
    alive = " and ".join(str(int(v.sum())) for v in last.live.values())
    return fig, (
        f"Surviving weights after epoch {last.epoch}: {last.mask.kept} of {len(last.weights)} "
        f"parameters, {_percent(last.mask.sparsity)} pruned; {alive} neurons of the hidden layers "
        "are alive."
    )


def course(recording: Recording) -> tuple[Figure, str]:
    """Losses and surviving parameters by epoch; and the same in words."""
    shown = recording.snapshots
    epochs = [s.epoch for s in shown]
    fig, (above, below) = _figure(2, "loss [nat], surviving parameters [%]")
    for name, color in (("train", "#555555"), ("validation", BLUE)):
        _line(above, epochs, [s.scores[name].loss for s in shown], color, name)
    above.set(yscale="log", ylim=(0.02, 1))
    above.legend(fontsize=FONT - 2, frameon=False, loc="upper right", ncols=2)
    plain_ticks(above.yaxis)
    _line(below, epochs, [100 * (1 - s.mask.sparsity) for s in shown], GREEN, "density")
    below.set(yscale="log", ylim=(1, 115))
    plain_ticks(below.yaxis)
    above.tick_params(labelbottom=False)
    _epochs((above, below), recording)
    last, pruned = shown[-1], [s for s in shown if s.pruned]
    return fig, (
        f"After epoch {last.epoch} the training loss is {last.scores['train'].loss:.3f}, the "
        f"validation loss {last.scores['validation'].loss:.3f}; {len(pruned)} prunings so far"
        + (f", the last at epoch {pruned[-1].epoch}" if pruned else "")
        + "."
    )


def entropy_picture(recording: Recording) -> tuple[Figure, str]:
    """First-order PSP-entropy of each layer by epoch; and the same in words."""
    shown = recording.snapshots
    fig, (ax,) = _figure(1, "first-order PSP-entropy [bit]")
    for layer, color in zip(shown[-1].entropy, (BLUE, ORANGE), strict=True):
        values = [s.entropy[layer] for s in shown]
        _line(ax, [s.epoch for s in shown], values, color, _name(layer))
    ax.set(ylim=(0, 2), yticks=[0, 0.5, 1, 1.5, 2])
    ax.legend(fontsize=FONT - 1, frameon=False, loc="upper right", ncols=2)
    _epochs((ax,), recording)
    said = ", ".join(f"{bits:.2f} bits in {_name(n)}" for n, bits in shown[-1].entropy.items())
    return fig, f"First-order PSP-entropy after epoch {shown[-1].epoch}: {said}."


VIEWS: tuple[Callable[[Recording], tuple[Figure, str]], ...] = (
    regions,
    wires,
    course,
    entropy_picture,
)


def _figure(rows: int, title: str) -> tuple[Figure, list[Axes]]:
    fig = Figure(figsize=SIZE, dpi=DPI, facecolor="white")
    axes = list(fig.subplots(rows, 1, squeeze=False)[:, 0])
    fig.subplots_adjust(left=0.14, right=0.96, bottom=0.15, top=0.9, hspace=0.12)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
        ax.tick_params(labelsize=FONT - 1)
    axes[0].set_title(title, fontsize=FONT)
    return fig, axes


def _line(ax: Axes, x: list[int], y: list[float], color: str, name: str) -> None:
    """A curve with a dot where it has got to."""
    ax.plot(x, y, "-o", color=color, lw=1.6, ms=4, markevery=[-1], label=name)


def _epochs(axes: Sequence[Axes], recording: Recording) -> None:
    for ax in axes:
        ax.set_xlim(-0.015 * recording.setting.epochs, 1.015 * recording.setting.epochs)
        for s in recording.snapshots:
            if s.pruned:
                ax.axvline(s.epoch, color="black", lw=0.8, ls=":")
    axes[-1].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes[-1].set_xlabel("epoch (dotted: prunings)", fontsize=FONT)


def _name(layer: str) -> str:
    return f"layer {layer.removeprefix('relu')}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def page_of(recording: Recording) -> str:
    """The four pictures of a run's last snapshot, as HTML that needs nothing else."""
    images = "".join(
        f'<img alt="{html.escape(alt)}" style="width:100%" '
        f'src="data:image/png;base64,{base64.b64encode(_png(fig)).decode()}">'
        for fig, alt in (view(recording) for view in VIEWS)
    )
    columns = "repeat(auto-fit,minmax(min(280px,100%),1fr))"
    style = f"display:grid;width:100%;gap:6px;grid-template-columns:{columns}"
    return f'<div style="{style}">{images}</div>'


def _png(fig: Figure) -> bytes:
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    # The octree keeps colours of few pixels, which a median cut gives up.
    picture = picture.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    found = io.BytesIO()
    picture.save(found, "png")
    return found.getvalue()


def compared(recordings: Mapping[str, Recording], knob: str) -> pd.DataFrame:
    """A row per run: its first pruning, and the network that it ends with."""
    rows = []
    for name, recording in recordings.items():
        last, pruned = recording.snapshots[-1], [s for s in recording.snapshots if s.pruned]
        rows.append(
            {
                knob: name,
                "prunings": len(pruned),
                "first, at epoch": str(pruned[0].epoch) if pruned else "–",
                "first, sparsity": _percent(pruned[0].mask.sparsity) if pruned else "–",
                "sparsity at the end": _percent(last.mask.sparsity),
                "test error": _percent(last.scores["test"].error),
                "live neurons": " + ".join(str(int(v.sum())) for v in last.live.values()),
                "entropy [bit]": " / ".join(f"{bits:.2f}" for bits in last.entropy.values()),
            }
        )
    return pd.DataFrame(rows)


def reading(recordings: Mapping[str, Recording], knob: str) -> str:
    """What the runs show, in sentences (Markdown) whose numbers come from them."""
    sentences = []
    for name, recording in recordings.items():
        first, last = recording.snapshots[0], recording.snapshots[-1]
        pruned = [s for s in recording.snapshots if s.pruned]
        began = (
            f"first prunes at epoch {pruned[0].epoch}, {_percent(pruned[0].mask.sparsity)} at once"
            if pruned
            else "never prunes"
        )
        sentences.append(
            f"**{knob} = {name}** {began}; after {last.epoch} epochs it has pruned "
            f"{_percent(last.mask.sparsity)} in {len(pruned)} steps and has a test error "
            f"of {_percent(last.scores['test'].error)}. The entropy of layer 2 went "
            f"from {first.entropy['relu2']:.2f} to {last.entropy['relu2']:.2f} bits; over its "
            f"{int(last.live['relu2'].sum())} live neurons alone it is {last.alive['relu2']:.2f}."
        )
    return unbroken("\n\n".join(sentences))


# The live panel.


class Laboratory:
    """Knobs, Run and Stop, and the pictures of a run that a background thread makes.

    `source` makes the snapshots of a setting. `box` is what to display.
    """

    def __init__(self, source: Callable[[Setting], Iterator[Snapshot]] = lab.simulate) -> None:
        usual = Setting()
        self._source = source
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        wide: Any = {"style": {"description_width": "3.2em"}, "layout": {"width": "21em"}}
        self.toy = widgets.Dropdown(options=lab.TOYS, value=usual.toy, description="data", **wide)
        self.shrinkage = widgets.FloatLogSlider(
            usual.shrinkage,
            min=-5,
            max=-1,
            step=0.25,
            description="λ",
            readout_format=".1e",
            **wide,
        )
        self.tolerance = widgets.FloatSlider(
            usual.tolerance, min=0, max=1, step=0.05, description="TWT", **wide
        )
        self.patience = widgets.IntSlider(usual.patience, min=0, max=50, description="PWE", **wide)
        self.seed = widgets.IntSlider(usual.seed, min=0, max=20, description="seed", **wide)
        self.run_button = widgets.Button(description="Run", button_style="primary", icon="play")
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.progress = widgets.IntProgress(0, 0, usual.epochs, layout={"width": "12em"})
        self.note = widgets.HTML("Turn the knobs, then press Run.")
        self.picture = widgets.HTML(layout=_wide())
        self.run_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        self.box = widgets.VBox(
            [
                _row(*self._knobs),
                _row(self.run_button, self.stop_button, self.progress, self.note),
                self.picture,
            ],
            layout=_wide(),
        )

    @property
    def setting(self) -> Setting:
        """What the knobs say now."""
        return Setting(
            self.toy.value,
            shrinkage=self.shrinkage.value,
            tolerance=self.tolerance.value,
            patience=self.patience.value,
            seed=self.seed.value,
        )

    @property
    def is_running(self) -> bool:
        """Whether the thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> bool:
        """Run what the knobs say in the background; false, and nothing, if a run is under way."""
        if self.is_running:
            self._say("A run is under way: stop it first.")
            return False
        setting = self.setting
        self._stopped.clear()
        self._lock(True)
        self._say("Running.")
        self.progress.max = setting.epochs
        self._thread = threading.Thread(target=self._work, args=(setting,), daemon=True)
        self._thread.start()
        return True

    def stop(self) -> None:
        """End the run after its present epoch; its last picture stays."""
        self._stopped.set()

    def join(self, seconds: float | None = None) -> None:
        """Wait for the run's end."""
        if self._thread:
            self._thread.join(seconds)

    def _work(self, setting: Setting) -> None:
        snapshots: list[Snapshot] = []
        shown = 0.0
        try:
            for snapshot in self._source(setting):
                snapshots.append(snapshot)
                if self._stopped.is_set():
                    break
                if time.monotonic() - shown > 0.4:
                    self._show(Recording(setting, snapshots))
                    shown = time.monotonic()
            self._show(Recording(setting, snapshots), "Stopped. " * self._stopped.is_set())
        except Exception as error:
            # Raised here it would be lost: no cell waits for this thread.
            self._say(f"{type(error).__name__}: {error}")
        finally:
            self._lock(False)

    def _show(self, recording: Recording, state: str = "") -> None:
        last = recording.snapshots[-1]
        self.progress.value = last.epoch
        self._say(
            f"{state}Epoch {last.epoch}: {_percent(last.mask.sparsity)} pruned, "
            f"test error {_percent(last.scores['test'].error)}."
        )
        self.picture.value = page_of(recording)

    def _say(self, words: str) -> None:
        self.note.value = f'<span role="status">{html.escape(words)}</span>'

    def _lock(self, is_running: bool) -> None:
        for knob in (*self._knobs, self.run_button):
            knob.disabled = is_running
        self.stop_button.disabled = not is_running

    @property
    def _knobs(self) -> tuple[widgets.Widget, ...]:
        return self.toy, self.shrinkage, self.tolerance, self.patience, self.seed


def is_live() -> bool:
    """Whether a person sits before this notebook: it has a kernel that may ask questions, which
    papermill, nbconvert and the like forbid, and nobody has set its parameters."""
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False)) and not chapter.injected()


def show_panel(recording: Recording) -> None:
    """Display the live panel where somebody can turn its knobs, else how a run ended."""
    display(Laboratory().box if is_live() else HTML(page_of(recording)))


def _row(*children: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center"})


def _wide() -> widgets.Layout:
    return widgets.Layout(width="100%")
