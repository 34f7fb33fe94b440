"""A matplotlib renderer that writes small inline SVG for a page: text as text, the page's colour for ink.

matplotlib's own SVG backend isn't used: it writes a ``<style>`` that would apply to the whole page, fixed colours, and
five times the bytes; and whether it writes text as text hangs on rcParams, which belong to the user.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.colors import to_hex
from matplotlib.font_manager import FontProperties
from matplotlib.image import imsave
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Bbox, Transform

from gridkit.widgets.html import Html, tag

_LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
_WIDE = "\u2e80"  # Chinese, Japanese, Korean, emoji
_ANCHORS = {"center": ("middle", 0.5), "right": ("end", 1.0)}


class SvgRenderer(RendererBase):
    """Draws into a list of elements; `svg` gives the picture. Units are pixels, y downwards.

    Args:
        width, height: of the canvas (pixels).
        dpi: pixels an inch.
        ink: colours (hex) that become ``currentColor``.
    """

    def __init__(self, width: float, height: float, dpi: float, ink: set[str]) -> None:
        super().__init__()
        self.width, self.height, self.dpi = width, height, dpi
        self._ink = ink
        self._parts: list[Html] = []
        self._flip = Affine2D().scale(1, -1).translate(0, height)

    def svg(self, described: str) -> Html:
        """The picture, for a screen reader an image that is `described`."""
        return tag(
            "svg",
            *self._parts,
            viewBox=f"0 0 {_n(self.width)} {_n(self.height)}",
            role="img",
            aria_label=described,
            fill="none",
            stroke_linejoin="round",
            style=f"width:100%;max-width:{_n(self.width)}px;height:auto;font-family:inherit;color:inherit",
        )

    # ---- what matplotlib asks of a renderer

    def get_canvas_width_height(self) -> tuple[float, float]:
        return self.width, self.height

    def points_to_pixels(self, points: Any) -> Any:
        return points * self.dpi / 72

    def get_text_width_height_descent(self, s: str, prop: FontProperties, ismath: Any) -> tuple[float, float, float]:
        if not ismath:  # matplotlib's font lacks letters that the page's may have; they are as wide as a dash
            s = "".join("—" if c >= _WIDE else c for c in s)
        return super().get_text_width_height_descent(s, prop, ismath)

    def draw_path(self, gc: GraphicsContextBase, path: Path, transform: Transform, rgbFace: Any = None) -> None:
        window = (0.0, 0.0, self.width, self.height) if rgbFace is None else None
        d = self._d(path, transform + self._flip, window, gc)
        if d:
            self._add(gc, [tag("path", d=d, **self._look(gc, rgbFace))], path.get_extents(transform))

    def draw_markers(
        self,
        gc: GraphicsContextBase,
        marker_path: Path,
        marker_trans: Transform,
        path: Path,
        trans: Transform,
        rgbFace: Any = None,
    ) -> None:
        places = [points[-2:] for points, _ in path.iter_segments(trans, simplify=False)]
        if len(places) == 1:
            self.draw_path(gc, marker_path, marker_trans + Affine2D().translate(*places[0]), rgbFace)
        elif places:
            shape = self._d(marker_path, marker_trans + Affine2D().scale(1, -1), None, gc)
            # The same shape has the same name everywhere on a page, so it doesn't matter whose is used.
            name = f"gridkit-{hashlib.sha256(shape.encode()).hexdigest()[:8]}"
            spots = [tag("use", href=f"#{name}", x=_n(x), y=_n(self.height - y)) for x, y in places]
            marks = tag("g", *spots, **self._look(gc, rgbFace))
            extent = Bbox([np.min(places, axis=0), np.max(places, axis=0)])
            self._add(gc, [tag("defs", tag("path", id=name, d=shape)), marks], extent)

    def draw_image(
        self, gc: GraphicsContextBase, x: float, y: float, im: Any, transform: Transform | None = None
    ) -> None:
        data = io.BytesIO()
        imsave(data, np.asarray(im)[::-1], format="png")
        height, width = im.shape[:2]
        url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
        shown = tag("image", href=url, x=_n(x), y=_n(self.height - y - height), width=width, height=height)
        self._add(gc, [shown], Bbox.from_bounds(x, y, width, height))

    def draw_text(
        self,
        gc: GraphicsContextBase,
        x: float,
        y: float,
        s: str,
        prop: FontProperties,
        angle: float,
        ismath: Any = False,
        mtext: Text | None = None,
    ) -> None:
        if ismath:
            super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
            return
        # A page's font has other widths than the one that matplotlib measured: hold the text where it is aligned.
        anchor, part = _ANCHORS.get(mtext.get_horizontalalignment() if mtext else "left", (None, 0.0))
        along = part * self.get_text_width_height_descent(s, prop, ismath)[0]
        x, y = x + along * np.cos(np.radians(angle)), y - along * np.sin(np.radians(angle))
        colour, opacity = self._colour(gc.get_rgb(), gc)
        weight, style = str(prop.get_weight()), prop.get_style()
        text = tag(
            "text",
            s,
            x=_n(x),
            y=_n(y),
            fill=colour,
            fill_opacity=opacity,
            font_size=_n(self.points_to_pixels(prop.get_size_in_points())),
            font_weight=None if weight in ("normal", "400") else weight,
            font_style=None if style == "normal" else style,
            text_anchor=anchor,
            transform=f"rotate({_n(-angle)} {_n(x)} {_n(y)})" if angle else None,
        )
        self._add(gc, [text], None)

    # ---- how it is written

    def _add(self, gc: GraphicsContextBase, parts: list[Html], extent: Bbox | None) -> None:
        """Add parts, cut to the clip of `gc` where their extent (pixels, y upwards) leaves it."""
        window = gc.get_clip_rectangle()
        if window is not None and extent is not None and not _within(extent, window):
            x, y, w, h = _n(window.x0), _n(self.height - window.y1), _n(window.width), _n(window.height)
            parts = [tag("svg", *parts, x=x, y=y, width=w, height=h, viewBox=f"{x} {y} {w} {h}")]
        path, transform = cast("tuple[Path | None, Transform]", gc.get_clip_path())  # the stubs say otherwise
        if path is not None:
            d = self._d(path, transform + self._flip, None, gc)
            name = f"gridkit-{hashlib.sha256(d.encode()).hexdigest()[:8]}"
            parts = [tag("clipPath", tag("path", d=d), id=name), tag("g", *parts, clip_path=f"url(#{name})")]
        self._parts += parts

    def _look(self, gc: GraphicsContextBase, face: Any) -> dict[str, object]:
        look: dict[str, object] = {}
        if face is not None:
            look["fill"], look["fill_opacity"] = self._colour(face, gc)
        width = gc.get_linewidth()
        if width and gc.get_rgb()[3]:
            look["stroke"], look["stroke_opacity"] = self._colour(gc.get_rgb(), gc)
            look["stroke_width"] = _n(self.points_to_pixels(width))
            offset, dashes = cast("tuple[float, Sequence[float] | None]", gc.get_dashes())
            if dashes is not None:
                look["stroke_dasharray"] = " ".join(_n(self.points_to_pixels(d)) for d in dashes)
                look["stroke_dashoffset"] = _n(self.points_to_pixels(offset)) if offset else None
            if gc.get_capstyle() != "butt":
                look["stroke_linecap"] = {"projecting": "square"}.get(gc.get_capstyle(), gc.get_capstyle())
            if gc.get_joinstyle() != "round":
                look["stroke_linejoin"] = gc.get_joinstyle()
        return look

    def _colour(self, rgba: Sequence[float], gc: GraphicsContextBase) -> tuple[str, str | None]:
        alpha = gc.get_alpha() if gc.get_forced_alpha() or len(rgba) < 4 else rgba[3]
        colour = to_hex((rgba[0], rgba[1], rgba[2]))
        return ("currentColor" if colour in self._ink else colour), (None if alpha >= 1 else f"{alpha:.2g}")

    def _d(
        self, path: Path, transform: Transform, clip: tuple[float, float, float, float] | None, gc: GraphicsContextBase
    ) -> str:
        segments = path.iter_segments(transform, clip=clip, sketch=gc.get_sketch_params())
        return "".join(
            _LETTERS[code] + ("" if code == Path.CLOSEPOLY else " ".join(map(_n, points))) for points, code in segments
        )


def _within(extent: Bbox, window: Bbox) -> bool:
    return bool(
        extent.x0 >= window.x0 - 1
        and extent.x1 <= window.x1 + 1
        and extent.y0 >= window.y0 - 1
        and extent.y1 <= window.y1 + 1
    )


def _n(value: float) -> str:
    """A length in pixels, as short as it gets: a tenth is less than anyone can see."""
    return f"{value:.1f}".removesuffix(".0")
