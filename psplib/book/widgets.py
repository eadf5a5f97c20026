"""Slides -> a widget that answers in JupyterLab and, without a kernel, in the built page.

Controls are linked in the browser (`jslink`) to stacks of pictures, a `Stack` for each control
inside those of the controls before it. Where there are no widgets at all (in print, in a preview
of the notebook), the slide that the widget begins with stands for it.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as ipw

from psplib.paper import figure_1_slides, figure_4
from psplib.paper.minima import Figures2to4
from psplib.paper.slide import Slide, Slides
from psplib.pruning.lobster import Lobster
from psplib.runs.store import Store

MISSING = "The runs of this widget are not there yet."


@dataclass(frozen=True, eq=False)
class Shown:
    """A widget, and the slide that stands for it where widgets are not shown."""

    widget: ipw.DOMWidget
    still: Slide | None

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = dict(self.widget._repr_mimebundle_())
        bundle["text/plain"] = self.still.alt if self.still else MISSING
        if not self.still:
            return bundle, {}
        bundle["image/png"] = base64.b64encode(self.still.png).decode()
        return bundle, {"image/png": {"alt": self.still.alt}}


# A control's view, and its part whose `index` says which option is chosen.
Control = tuple[ipw.DOMWidget, ipw.DOMWidget]


def dropdown(name: str, options: Sequence[str], index: int) -> Control:
    """A list to choose from."""
    return _choice(ipw.Dropdown, name, options, index, "auto", "100%")


def slider(name: str, options: Sequence[str], index: int) -> Control:
    """A slider over options in their order; the arrow keys move it."""
    return _choice(ipw.SelectionSlider, name, options, index, "100%", "34rem")


def _choice(
    kind: type[ipw.DOMWidget],
    name: str,
    options: Sequence[str],
    index: int,
    width: str,
    most: str,
) -> Control:
    made = kind(
        options=list(options),
        index=index,
        description=name,
        style={"description_width": "initial"},
        layout=ipw.Layout(width=width, max_width=most),
    )
    return made, made


def explore(
    pictures: Slides,
    controls: Mapping[str, Callable[[str, Sequence[str], int], Control]],
    start: tuple[str, ...] | None = None,
) -> Shown:
    """A widget of slides: `controls`, by the names that they bear, choose the labels of a key of
    `pictures`, one each. It begins at `start`, if it is there, else at the first slide.

    A control with a single option is left out; a setting without a slide says so, and so does the
    whole widget if there are no slides.
    """
    if not pictures:
        return Shown(ipw.HTML(_sentence(MISSING)), None)
    begin = start if start in pictures else next(iter(pictures))
    options = [list(dict.fromkeys(labels)) for labels in zip(*pictures, strict=True)]
    views, sources = [], []
    for (name, make), labels, chosen in zip(controls.items(), options, begin, strict=True):
        if len(labels) > 1:
            view, source = make(name, labels, labels.index(chosen))
            views.append(view)
        sources.append(source if len(labels) > 1 else None)
    stack = _Nest(pictures, options, sources).build(())
    wrapped = ipw.Box(views, layout=ipw.Layout(display="flex", flex_flow="row wrap"))
    return Shown(ipw.VBox([wrapped, stack]), pictures[begin])


class _Nest:
    """Stacks in stacks: the n-th control chooses among the children of every n-th one."""

    def __init__(
        self, pictures: Slides, options: list[list[str]], sources: list[ipw.DOMWidget | None]
    ) -> None:
        self.pictures, self.options, self.sources = pictures, options, sources
        self.made: dict[int, ipw.HTML] = {}
        self.layout = ipw.Layout(width="auto", max_width="100%")

    def build(self, key: tuple[str, ...]) -> ipw.DOMWidget:
        """What the controls after the first `len(key)` choose from, given these labels."""
        depth = len(key)
        if depth == len(self.options):
            return self._picture(key)
        children = [self.build((*key, label)) for label in self.options[depth]]
        source = self.sources[depth]
        if source is None:
            return children[0]
        stack = ipw.Stack(children, selected_index=source.index, layout=self.layout)
        ipw.jslink((source, "index"), (stack, "selected_index"))
        return stack

    def _picture(self, key: tuple[str, ...]) -> ipw.HTML:
        slide = self.pictures.get(key)
        if slide is None:
            return ipw.HTML(_sentence(f"Not computed: {', '.join(key)}."), layout=self.layout)
        # Two settings may have the same slide: then it is in the page once.
        if id(slide) not in self.made:
            self.made[id(slide)] = ipw.HTML(_image(slide), layout=self.layout)
        return self.made[id(slide)]


def _image(slide: Slide) -> str:
    width, height = slide.size
    source = f"data:image/png;base64,{base64.b64encode(slide.png).decode()}"
    return (
        f'<img src="{source}" alt="{html.escape(slide.alt)}" width="{width}" height="{height}" '
        'style="max-width: 100%; height: auto; background: white">'
    )


def _sentence(text: str) -> str:
    return f'<p class="psplib-badge">{html.escape(text)}</p>'


def survivors(config: Lobster, store: Store) -> Shown:
    """What survives of a gradual run's first layer, by sparsity."""
    return explore(figure_1_slides.survivors_slides(config, store), {"sparsity": slider})


def classes(figures: Figures2to4) -> Shown:
    """PSP-entropy by class, for each definition and layer."""
    return explore(figure_4.class_slides(figures), {"definition": dropdown, "layer": dropdown})


def neurons(figures: Figures2to4) -> Shown:
    """The neurons of G and 1-S sorted by first-order entropy, for each layer and class."""
    return explore(figure_4.neuron_slides(figures), {"layer": dropdown, "class": dropdown})
