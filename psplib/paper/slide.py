"""A slide: one of the pictures between which a reader chooses, and its words."""

from __future__ import annotations

import base64
import html
import io
import struct
from dataclasses import dataclass

from matplotlib.figure import Figure

DPI = 100


@dataclass(frozen=True)
class Slide:
    """A picture as PNG, and what it shows in words and numbers."""

    alt: str
    png: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the PNG's header."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height

    @property
    def picture(self) -> str:
        """The slide as HTML, which carries it."""
        width, height = self.size
        source = f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        return (
            f'<img src="{source}" alt="{html.escape(self.alt)}" width="{width}" height="{height}" '
            'style="max-width: 100%; height: auto; background: white">'
        )


def draw_slide(fig: Figure, alt: str, colours: int = 64) -> Slide:
    """A palette of `colours` makes a picture a quarter as large: a page has about a hundred."""
    return Slide(alt.replace("\u00a0", " "), drawn_png(fig, colours, DPI))


def drawn_png(fig: Figure, colours: int, dpi: float | None = None) -> bytes:
    """A figure as PNG with a palette of `colours`; matplotlib sets its resolution, unless `dpi`."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=dpi, metadata={"Software": None})
    with Image.open(drawn) as picture:
        # Median cut, the default, would turn the few pixels of a rare colour into another one.
        method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
        palette = picture.convert("RGB").quantize(colours, method, dither=dither)
    palette.save(small, format="PNG", optimize=True)
    return small.getvalue()
