"""Widgets answer to their controls; their static twins draw."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from retina_kp.viz.widgets import compare, compare_static, step_through, swipe_image, to_png

FIXED = np.full((60, 80, 3), 200, np.uint8)
WARPED = np.full((60, 80), 50, np.uint8)


def shown(box):
    return np.array(Image.open(io.BytesIO(box.children[-1].value)))


def test_swipe_shows_left_and_right():
    picture = swipe_image(FIXED, WARPED, 0.25)
    assert (picture[:, :18] == 200).all() and (picture[:, 22:] == 50).all()
    assert (swipe_image(FIXED, WARPED, 0.0)[:, 2:] == 50).all() and (
        swipe_image(FIXED, WARPED, 1.0)[:, :78] == 200
    ).all()


def test_png_is_scaled_to_its_limit():
    assert Image.open(io.BytesIO(to_png(np.zeros((1000, 500), np.uint8), 100))).size == (50, 100)
    assert Image.open(io.BytesIO(to_png(np.ones((30, 20, 3), float), 100))).getpixel((0, 0)) == (255, 255, 255)


def test_slider_moves_the_border():
    box = compare(FIXED, WARPED)
    before = (shown(box) == 200).mean()
    box.children[1].children[0].value = 0.9
    assert (shown(box) == 200).mean() > before + 0.3


def test_flicker_alternates():
    box = compare(FIXED, WARPED)
    box.children[0].value = "flicker"
    play = box.children[1].children[1]
    play.value = 2
    first = shown(box).mean()
    play.value = 3
    assert (first, shown(box).mean()) == (200, 50)


def test_blend_mixes_and_overlay_is_coloured():
    box = compare(FIXED, WARPED)
    box.children[0].value = "blend"
    assert abs(shown(box).mean() - 125) < 2
    box.children[0].value = "overlay"
    assert shown(box).shape == (60, 80, 3)


def test_16_bit_and_float_images(tmp_path):
    for image in (WARPED.astype(np.uint16) * 200, np.linspace(0, 1, 4800).reshape(60, 80)):
        assert swipe_image(FIXED, image, 0.5).dtype == np.uint8


def test_static_twin_has_one_picture_per_position():
    matplotlib.use("Agg")
    figure = compare_static(FIXED, WARPED)
    assert len(figure.axes) == 3 and all(ax.images for ax in figure.axes)


def test_stepping_by_click_slider_and_buttons_draws_each_picture_once():
    drawn = []
    box = step_through(
        ["worst", "middle", "best"], lambda k: drawn.append(k) or to_png(np.full((20, 30), 80 * k, np.uint8))
    )
    chooser, (back, slider, on) = box.children[0], box.children[1].children
    assert shown(box).mean() == 0 and drawn == [0]
    chooser.value = 2
    assert shown(box).mean() == 160 and slider.value == 2
    on.click()
    assert slider.value == 2
    back.click()
    assert (shown(box).mean(), chooser.value) == (80, 1)
    slider.value = 0
    assert shown(box).mean() == 0 and drawn == [0, 2, 1]
    with pytest.raises(ValueError, match="nothing"):
        step_through([], lambda k: b"")
