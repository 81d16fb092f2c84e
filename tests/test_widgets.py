"""Widgets answer to their controls; their static twins draw."""

import io

import matplotlib
import numpy as np
from PIL import Image

from retina_kp.widgets import compare, compare_static, swipe_image, to_png

FIXED = np.full((60, 80, 3), 200, np.uint8)
WARPED = np.full((60, 80), 50, np.uint8)


def shown(box):
    return np.array(Image.open(io.BytesIO(box.children[-1].value)))


def test_swipe_shows_left_and_right():
    picture = swipe_image(FIXED, WARPED, 0.25)
    assert (picture[:, :18] == 200).all() and (picture[:, 22:] == 50).all()
    assert (swipe_image(FIXED, WARPED, 0.0)[:, 2:] == 50).all() and (swipe_image(FIXED, WARPED, 1.0)[:, :78] == 200).all()


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
