"""What is done to a moving image is known: a dot lands where the matrix says, and the turn is that of the evaluation
tool."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from retina_kp.core.geometry import warp_points
from retina_kp.evaluation.real_pairs import NEUTRAL, Stress, alter, stresses

TOOL = Path(__file__).resolve().parents[2] / "shared" / "tools" / "evaluate_real.py"
GEOMETRIC = [
    Stress(turn=30),
    Stress(turn=-75, scale=0.5),
    Stress(scale=1.6),
    Stress(shift=0.2),
    Stress(crop=0.7),
    Stress(turn=180, scale=2, shift=-0.1, crop=0.9),
]


def dotted(hw=(141, 201), xy=(93, 61), sigma=3.0):
    y, x = np.mgrid[: hw[0], : hw[1]]
    return np.exp(-((x - xy[0]) ** 2 + (y - xy[1]) ** 2) / (2 * sigma**2)).astype(np.float32)


@pytest.mark.parametrize("stress", GEOMETRIC, ids=lambda s: s.label)
def test_a_dot_lands_where_the_matrix_says(stress):
    altered, R = alter(dotted(), stress)
    y, x = np.mgrid[: altered.shape[0], : altered.shape[1]]
    middle = (altered * x).sum() / altered.sum(), (altered * y).sum() / altered.sum()
    assert middle == pytest.approx(tuple(warp_points([[93, 61]], R)[0]), abs=0.1)


def test_a_quarter_turn_by_hand():
    altered, R = alter(dotted((40, 60), (50, 5)), Stress(turn=90))  # counter-clockwise: the right edge becomes the top
    assert altered.shape[0] == 60 and warp_points([[50, 5]], R)[0] == pytest.approx(
        (5, 9), abs=0.51
    )  # half a pixel: the canvas is rounded up
    assert np.argwhere(altered == altered.max())[0] == pytest.approx((9, 5), abs=0.51)


def test_the_untouched_image_is_the_same_array():
    image = dotted()
    altered, R = alter(image, Stress())
    assert altered is image and (R == np.eye(3)).all() and Stress().label == "as taken"


def test_gray_levels_by_hand():
    image = np.full((40, 60), 64, np.uint8)
    assert (alter(image, Stress(gamma=2))[0] == round(255 * (64 / 255) ** 2)).all()
    assert (
        alter(image.astype(np.uint16) * 257, Stress(gamma=0.5))[0] == round(65535 * (64 * 257 / 65535) ** 0.5)
    ).all()
    noisy, again, other = (alter(image, Stress(noise=0.1), text)[0].astype(float) for text in ("a", "a", "b"))
    assert (noisy == again).all() and (noisy != other).any() and noisy.std() / 255 == pytest.approx(0.1, rel=0.05)
    wide = np.zeros((768, 768), np.float32)
    wide[384, 384] = 1
    assert alter(wide, Stress(blur=4))[0].max() == pytest.approx(1 / (2 * np.pi * 16), rel=0.01)
    assert alter(cv2.resize(wide, (384, 384), interpolation=cv2.INTER_AREA), Stress(blur=4))[0].dtype == np.float32


def test_plans_start_with_the_untouched_image_and_change_one_thing_at_a_time():
    plan = stresses({"turn": [0, 30], "gamma": [1, 2.0], "crop": []})
    assert plan == [Stress(), Stress(turn=30), Stress(gamma=2)]
    assert [s.label for s in plan] == ["as taken", "turn 30°", "gamma 2"] and plan[1].changed() == {"turn": 30}
    assert all(Stress(**{name: value}) == Stress() for name, value in NEUTRAL.items())


@pytest.mark.parametrize(
    ("given", "word"),
    [({"scale": 0}, "scale"), ({"crop": 1.5}, "crop"), ({"noise": -1}, "noise"), ({"gamma": 0}, "gamma")],
)
def test_values_without_sense_are_refused(given, word):
    with pytest.raises(ValueError, match=word):
        Stress(**given)
    with pytest.raises(ValueError, match="no stress 'rotation'; there are turn"):
        stresses({"rotation": [3]})


@pytest.mark.skipif(not TOOL.is_file(), reason=f"the evaluation tool is not at {TOOL}")
@pytest.mark.parametrize("scale", [1, 0.6, 2])
@pytest.mark.parametrize("angle", [0, 15, 30, 60, 90, 150, 180])
def test_the_turn_is_that_of_the_evaluation_tool(angle, scale):
    spec = importlib.util.spec_from_file_location("evaluate_real", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    image = np.random.default_rng(0).integers(0, 256, (61, 83, 3), np.uint8)
    (altered, R), (expected, M) = alter(image, Stress(turn=angle, scale=scale)), tool.turn(image, angle, scale)
    assert np.array_equal(altered, expected) and np.array_equal(R, M)
