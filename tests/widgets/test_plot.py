"""The picture of a training: what is drawn, in whose colours, and that nobody's settings are touched."""

from __future__ import annotations

import io
import re
import threading
import xml.etree.ElementTree as ET

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from gridkit.errors import UsageError
from gridkit.widgets.plot import PALETTE, PageFigure, draw, live_picture
from tests.runs import Source, made
from tests.widgets.test_html import EVIL, Reader

mpl.use("Agg")


def frame(rounds: int) -> pd.DataFrame:
    at = np.arange(rounds)
    columns = {"accuracy": 1 - np.exp(-at / 4), "loss": np.exp(-at / 5), "accepted": at * 0 + 2}
    return pd.DataFrame(columns, pd.Index(at + 1, name="round"))


def parsed(svg: str) -> ET.Element:
    """Inline SVG happens to be XML too, so mistakes in it are found by a strict reader."""
    return ET.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in parsed(svg).iter("text")]


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("ground", ["#ffffff", "#111111"])
@pytest.mark.parametrize("colour", PALETTE)
def test_lines_can_be_told_from_a_light_and_from_a_dark_ground(colour: str, ground: str) -> None:
    """WCAG 2 asks a contrast of 3 of graphics."""
    dark, light = sorted([luminance(colour), luminance(ground)])
    assert (light + 0.05) / (dark + 0.05) >= 3


def test_text_and_axes_have_the_colour_of_the_page_and_no_ground_is_painted() -> None:
    svg = live_picture(frame(5), "digits 1.0")
    root = parsed(svg)
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg))
    assert colours == {"none", "currentColor", PALETTE[0], PALETTE[1], "#b0b0b0"}  # the last one is the grid
    assert {node.get("fill") for node in root.iter("text")} == {"currentColor"}
    assert {"accuracy", "loss", "round", "digits 1.0", "1", "5"} <= set(texts(svg))
    assert "<style" not in svg and "<script" not in svg


def test_a_training_without_a_loss_says_so_in_place_of_made_up_axes() -> None:
    """Workers of the syft family report a diff and no more."""
    silent = frame(3)[["loss"]].assign(loss=np.nan)
    assert texts(live_picture(silent, "guests 1.0")) == ["round", "no loss was reported", "guests 1.0", "loss"]
    assert "no loss was reported" not in texts(live_picture(silent[:0], "guests 1.0"))  # nothing can be said yet


def test_lines_differ_by_more_than_colour() -> None:
    svg = live_picture(frame(5), "digits 1.0")
    lines = [node for node in parsed(svg).iter("path") if node.get("stroke") in PALETTE and node.get("fill") is None]
    dashes = {node.get("stroke"): node.get("stroke-dasharray") for node in lines}
    assert dashes[PALETTE[0]] is None and dashes[PALETTE[1]] is not None
    uses = {node.get("href") for node in parsed(svg).iter("use")}
    shapes = {node.get("id"): node.get("d") for node in parsed(svg).iter("path") if node.get("id")}
    assert uses == {f"#{name}" for name in shapes} and len(set(shapes.values())) == 2


def test_a_screen_reader_is_told_the_newest_values() -> None:
    root = parsed(live_picture(frame(17), "digits 1.0"))
    assert root.get("role") == "img"
    assert root.get("aria-label") == "digits 1.0, 17 rounds: accuracy 0.982, loss 0.0408"
    unknown = frame(2).assign(accuracy=np.nan)
    assert "accuracy: no value yet" in str(parsed(live_picture(unknown, "d")).get("aria-label"))


@pytest.mark.parametrize("rounds", [0, 1, 2, 40, 41, 300, 3000])
def test_a_picture_is_small_however_long_the_training(rounds: int) -> None:
    svg = live_picture(frame(rounds), "digits 1.0")
    assert len(svg) <= 15_000
    assert parsed(svg).tag == "svg"


def test_every_element_lies_within_the_picture() -> None:
    root = parsed(live_picture(frame(30), "digits 1.0"))
    width, height = map(float, str(root.get("viewBox")).split()[2:])
    for node in root.iter():
        if node.tag in ("text", "use"):
            assert 0 <= float(str(node.get("x"))) <= width and 0 <= float(str(node.get("y"))) <= height
        if node.tag == "text" and node.text in ("accuracy", "loss"):  # the legend: its text grows to the right
            assert float(str(node.get("x"))) + 9 * len(node.text) <= width


@pytest.mark.parametrize(
    "name", [EVIL, "$x_", r"$\nonsense{$", "_hidden", "a\0b\nc", "損失", "x" * 300, "", "50 % & <b>"]
)
def test_foreign_names_are_drawn_as_they_are_or_shortened(name: str, recwarn: pytest.WarningsRecorder) -> None:
    data = pd.DataFrame({name: [1.0, 2.0], "loss": [3.0, 4.0]})
    svg = live_picture(data, name)
    read = Reader(svg)
    assert not {"img", "script", "b"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    if name == EVIL:
        assert texts(svg).count(EVIL) == 2  # title and legend
    elif name == "損失":
        assert not recwarn.list  # matplotlib's font has no such letters; the page's may
    figure = Figure()
    draw(data, name, figure.subplots())
    figure.savefig(io.BytesIO(), format="png")  # and matplotlib's own way doesn't take it for mathematics either


def test_a_metric_that_there_isnt_is_refused_before_anything_is_drawn() -> None:
    ax = Figure().subplots()
    with pytest.raises(UsageError, match="no metric 'nonsense'"):
        draw(frame(2), "t", ax, ["loss", "nonsense"])
    assert not ax.lines


def test_only_what_was_asked_for_is_drawn_and_other_columns_only_then() -> None:
    assert [line.get_label() for line in draw(frame(3), "t", Figure().subplots()).lines] == ["accuracy", "loss"]
    ax = draw(frame(3), "t", Figure().subplots(), ["accepted"])
    assert [list(line.get_ydata()) for line in ax.lines] == [[2, 2, 2]]


# ---- whose settings, whose thread


def test_the_users_settings_hold_and_stay() -> None:
    before = dict(mpl.rcParams)
    live_picture(frame(3), "t")
    assert dict(mpl.rcParams) == before
    with mpl.rc_context({"axes.prop_cycle": mpl.cycler(color=["#123456", "#654321"]), "text.color": "#aa0000"}):
        svg = live_picture(frame(3), "t")
    assert "#123456" in svg and "#654321" in svg and PALETTE[0] not in svg
    assert "#aa0000" not in svg  # the user's ink is ink
    with plt.style.context("dark_background"):
        dark = live_picture(frame(3), "t")
    assert {node.get("fill") for node in parsed(dark).iter("text")} == {"currentColor"} and "#000000" not in dark


def test_a_colour_that_the_user_gave_stays() -> None:
    figure = PageFigure()
    ax = draw(frame(3), "t", figure.subplots())
    ax.set_facecolor("#ffeecc")
    ax.axhline(0.5, color="#ff0000")
    ax.set_title("mine", color="#00ff00")
    svg = figure.to_svg()
    assert all(colour in svg for colour in ("#ffeecc", "#ff0000", "#00ff00"))
    assert "mine, 3 rounds" in svg


def test_a_picture_of_the_panel_leaves_pyplot_alone() -> None:
    plt.close("all")
    worker = threading.Thread(target=live_picture, args=(frame(3), "t"))
    worker.start(), worker.join()
    assert plt.get_fignums() == []


def test_plot_makes_a_page_figure_through_pyplot_or_draws_where_it_is_told() -> None:
    plt.close("all")
    source = Source()
    run = made(source)
    source.round(1)
    ax = run.plot()
    assert isinstance(ax.figure, PageFigure) and plt.gcf() is ax.figure
    assert ax.figure._repr_html_() == ax.figure.to_svg()
    saved = io.BytesIO()
    ax.figure.savefig(saved, format="png")
    assert saved.getvalue().startswith(b"\x89PNG")
    plt.close(ax.figure)
    mine = Figure().subplots()
    assert run.plot(ax=mine) is mine and plt.get_fignums() == []


# ---- the renderer, with what users may add to a figure


def test_what_leaves_the_axes_is_cut_off() -> None:
    figure = PageFigure()
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1])
    ax.set_xlim(0, 0.5)
    root = parsed(figure.to_svg())
    window = root.find("svg")
    assert window is not None and window.find("path") is not None
    assert window.get("viewBox") == " ".join(str(window.get(name)) for name in ("x", "y", "width", "height"))


def test_images_circles_mathematics_and_log_scales_are_drawn() -> None:
    figure = PageFigure()
    left, right = figure.subplots(1, 2, subplot_kw={})
    left.imshow(np.arange(4).reshape(2, 2))
    right.set_yscale("log")
    right.plot([1, 2], [10, 1e6])
    right.set_title(r"$\alpha^2$")
    right.scatter([1, 2], [100, 1000], c=["#ff0000", "#0000ff"], alpha=0.5)
    polar = figure.add_subplot(111, projection="polar")
    polar.plot([0, 1, 2], [1, 2, 9])
    polar.set_rmax(3)
    svg = figure.to_svg()
    root = parsed(svg)
    assert str(next(root.iter("image")).get("href")).startswith("data:image/png;base64,")
    assert 'fill-opacity="0.5"' in svg
    names = {node.get("id") for node in root.iter("clipPath")}
    assert names and {f"url(#{name})" for name in names} == {
        node.get("clip-path") for node in root.iter("g") if node.get("clip-path")
    }


def test_the_picture_puts_the_figure_back_as_it_was() -> None:
    figure = PageFigure()
    ax = figure.subplots()
    figure.to_svg()
    assert figure.patch.get_visible() and ax.patch.get_visible()


# ---- workers' lines


def clinics(names: list[str], rounds: int = 3) -> tuple[pd.DataFrame, dict[str, list[tuple[str, np.ndarray]]]]:
    values = [(name, np.arange(rounds) + place) for place, name in enumerate(names)]
    mean = np.mean([value for _, value in values], axis=0)
    table = {"test_accuracy": mean, "test_accuracy_plain": mean, "loss": mean[::-1]}
    return pd.DataFrame(table, pd.RangeIndex(1, rounds + 1, name="round")), {"test_accuracy": values}


@pytest.mark.parametrize("names", [["n"], ["north", "south", "east", "west"], ["x" * 40] * 2, list("abcdefgh")])
def test_the_legend_of_workers_stands_beneath_the_lines_and_hides_none(names: list[str]) -> None:
    data, by_worker = clinics(names)
    plt.close("all")
    ax = draw(data, "t", None, None, by_worker)
    ax.figure.canvas.draw()
    box, picture = ax.get_legend().get_window_extent(), ax.figure.bbox
    assert box.y1 < ax.xaxis.get_tightbbox().y0 and box.y0 >= 0 and box.x0 >= 0 and box.x1 <= picture.x1
    plt.close(ax.figure)

    root = parsed(live_picture(data, "t", by_worker))
    width, height = map(float, str(root.get("viewBox")).split()[2:])
    assert (width, height > 350) == (600, True)
    places = {node.text: (float(str(node.get("x"))), float(str(node.get("y")))) for node in root.iter("text")}
    assert all(places["round"][1] < places[name][1] <= height and 0 < places[name][0] < width for name in names)


def test_a_figure_of_the_users_keeps_its_size_and_has_the_legend_inside() -> None:
    data, by_worker = clinics(["north", "south"])
    figure = Figure(figsize=(4, 2))
    left, _ = figure.subplots(1, 2)
    draw(data, "t", left, None, by_worker)
    assert figure.get_size_inches().tolist() == [4, 2] and len(left.get_legend().get_texts()) == 4
    mine = PageFigure(figsize=(4, 2))
    left, _ = mine.subplots(1, 2)
    draw(data, "t", left, None, by_worker)
    assert mine.get_size_inches().tolist() == [4, 2]


@pytest.mark.parametrize("name", [EVIL, "$x_", r"$\nonsense{$", "_hidden", "a\0b\nc", "損失", "x" * 300, ""])
def test_workers_may_have_any_name(name: str) -> None:
    data, by_worker = clinics([name, "south"])
    read = Reader(live_picture(data, "t", by_worker))
    assert not {"img", "script", "b"} & set(read.tags)
    if name == EVIL:
        assert EVIL in read.text
    figure = Figure()
    draw(data, "t", figure.subplots(), None, by_worker)
    figure.savefig(io.BytesIO(), format="png")


def test_the_users_colours_are_those_of_the_workers_too() -> None:
    data, by_worker = clinics(["north", "south"])
    with mpl.rc_context({"axes.prop_cycle": mpl.cycler(color=["#111111", "#222222", "#333333", "#444444"])}):
        lines = draw(data, "t", Figure().subplots(), None, by_worker).lines
    assert [line.get_color() for line in lines] == ["#111111", "#222222", "#333333", "#444444"]
    with mpl.rc_context({"axes.prop_cycle": mpl.cycler(linestyle=["-", "--"])}):
        draw(data, "t", Figure().subplots(), None, by_worker)
