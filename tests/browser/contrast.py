"""How well what is drawn stands out from what lies behind it: WCAG 2.2, from the page's computed styles."""

from __future__ import annotations

from dataclasses import dataclass

from playwright.sync_api import Locator

TEXT, GRAPHICS = 4.5, 3.0
"""The least contrast that WCAG 2.2 asks for: success criteria 1.4.3 and 1.4.11, level AA."""

_MEASURE = """area => {
    const pixel = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgba = colour => {  // whatever way of writing a colour the browser knows
        pixel.clearRect(0, 0, 1, 1);
        pixel.fillStyle = colour;
        pixel.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pixel.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (front, back, opacity) => front.slice(0, 3).map((c, i) => {
        const alpha = front[3] * opacity;
        return c * alpha + back[i] * (1 - alpha);
    });
    const luminance = colour => {
        const [r, g, b] = colour.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = element => {
        const layers = [];
        for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
        return layers.reverse().reduce((back, layer) => over(layer, back, 1), [255, 255, 255]);
    };
    const opacity = element => {
        let all = 1;
        for (let e = element; e; e = e.parentElement) all *= getComputedStyle(e).opacity;
        return all;
    };
    const contrast = (element, colour, own) => {
        const back = behind(element), front = over(rgba(colour), back, opacity(element) * own);
        const [light, dark] = [luminance(front), luminance(back)].sort((a, b) => b - a);
        return (light + 0.05) / (dark + 0.05);
    };
    const found = [];
    for (const element of area.querySelectorAll('*')) {
        if (!element.getClientRects().length || element.matches(':disabled, :disabled *')) continue;
        const style = getComputedStyle(element), drawn = element instanceof SVGElement;
        const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('').trim();
        if (text && !element.closest('style, title, desc, option'))
            found.push({ kind: 'text', what: text, ratio: contrast(element, drawn ? style.fill : style.color, 1) });
        if (drawn && ['path', 'line', 'polyline', 'use'].includes(element.tagName) && !element.closest('defs')
            && style.stroke !== 'none' && parseFloat(style.strokeWidth) > 0
            && style.strokeOpacity >= 0.5)  // a grid is faint on purpose: the axes say the same
            found.push({ kind: 'graphics', what: element.closest('g[id]')?.id ?? element.tagName,
                         ratio: contrast(element, style.stroke, style.strokeOpacity) });
    }
    return found;
}"""


@dataclass(frozen=True)
class Drawn:
    """A text or a line, and its contrast with what is behind it: 1 (can't be seen) to 21 (black on white)."""

    kind: str
    what: str
    ratio: float


def drawn_in(area: Locator) -> list[Drawn]:
    """The texts and the lines of pictures that are visible there; what is disabled may be pale."""
    return [Drawn(**found) for found in area.evaluate(_MEASURE)]


def too_pale(drawn: list[Drawn]) -> list[Drawn]:
    """Those that can't be made out well."""
    return [one for one in drawn if one.ratio < (TEXT if one.kind == "text" else GRAPHICS)]
