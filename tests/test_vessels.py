"""Oracles for classical analysis: drawn fields of view, drawn junctions, drawn vessels."""

import cv2
import numpy as np
import pytest

from retina_kp.core.vessels import (
    BIFURCATION,
    CROSSING,
    field_of_view_mask,
    junction_widths,
    skeleton_junctions,
    vessel_mask,
    vesselness,
)

SIZES = [(313, 471), (768, 768), (100, 90)]


def retina(hw, level=0.45, vessel=-0.12, noise=0.02, seed=0, lines=25):
    """A frame full of retina: uneven light, vessels, noise."""
    h, w = hw
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    drawn = np.zeros(hw, np.uint8)
    for _ in range(lines):
        cv2.polylines(drawn, [rng.uniform(0, [w, h], (4, 2)).astype(np.int32)], False, 255, max(2, w // 100))
    light = level * (1 + 0.2 * np.sin(3 * x / w) + 0.1 * np.cos(4 * y / h))
    return np.clip(light + vessel * cv2.GaussianBlur(drawn, (0, 0), 1) / 255 + rng.normal(0, noise, hw), 0, 1).astype(
        np.float32
    )


def disc(hw, center_x, center_y, radius):
    """Filled circle; all three in shares of width, height and the shorter side."""
    y, x = np.mgrid[: hw[0], : hw[1]]
    return (x - center_x * hw[1]) ** 2 + (y - center_y * hw[0]) ** 2 <= (radius * min(hw)) ** 2


def agreement(a, b):
    return (a & b).sum() / (a | b).sum()


# ------------------------------------------------------------------ field of view


@pytest.mark.parametrize("hw", SIZES)
@pytest.mark.parametrize("surround", [0.0, 0.03, 1.0])
@pytest.mark.parametrize(
    "where", [(0.5, 0.5, 0.45), (0.5, 0.5, 0.6), (0.2, 0.5, 0.4)], ids=["disc", "cut above and below", "cut left"]
)
def test_field_of_view_of_discs(hw, surround, where):
    truth = disc(hw, *where)
    assert agreement(field_of_view_mask(np.where(truth, retina(hw), surround)), truth) > 0.97


def test_field_of_view_of_a_disc_in_a_noisy_black_surround():
    truth = disc((313, 471), 0.5, 0.5, 0.45)
    noise = np.abs(np.random.default_rng(0).normal(0, 0.005, truth.shape))
    assert agreement(field_of_view_mask(np.where(truth, retina(truth.shape), noise)), truth) > 0.97


@pytest.mark.parametrize("surround", [0.0, 0.5, 1.0])
def test_field_of_view_of_a_square(surround):
    truth = np.zeros((313, 471), bool)
    truth[50:-60, 70:-50] = True
    assert agreement(field_of_view_mask(np.where(truth, retina(truth.shape), surround)), truth) > 0.97


@pytest.mark.parametrize("surround", [0.0, 0.5])
@pytest.mark.parametrize("angle_deg", [15, 45, 80])
def test_field_of_view_of_a_turned_canvas(angle_deg, surround):
    hw = (313, 471)
    turn = cv2.getRotationMatrix2D((235, 156), angle_deg, 0.7)
    truth = cv2.warpAffine(np.ones(hw, np.float32), turn, hw[::-1]) > 0.5
    assert agreement(field_of_view_mask(cv2.warpAffine(retina(hw), turn, hw[::-1], borderValue=surround)), truth) > 0.95


@pytest.mark.parametrize("gray", [0.0, 0.5, 1.0])
def test_field_of_view_leaves_out_a_painted_pad(gray):
    image, truth = retina((313, 471)), np.ones((313, 471), bool)
    truth[:, :110] = False
    assert agreement(field_of_view_mask(np.where(truth, image, gray)), truth) > 0.97


@pytest.mark.parametrize("hw", [*SIZES, (1200, 1600)])
def test_field_of_view_without_a_surround_is_the_whole_frame(hw):
    assert field_of_view_mask(retina(hw)).all()


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_field_of_view_of_a_constant_image_is_the_whole_frame(level):
    assert field_of_view_mask(np.full((60, 50), level, np.float32)).all()


def test_field_of_view_of_a_smooth_ramp_is_the_whole_frame():
    assert field_of_view_mask(np.tile(np.linspace(0.4, 0.6, 471, dtype=np.float32), (313, 1))).all()


def test_field_of_view_of_a_dark_retina_is_the_whole_frame_where_vessels_enclose_some_of_it():
    image = np.full((300, 400), 0.09, np.float32)
    for center, radius in (((110, 150), 60), ((300, 160), 40)):  # two loops; the dark between them runs to every corner
        cv2.circle(image, center, radius, 0.3, 12)
    assert field_of_view_mask(image).all()


def test_field_of_view_of_a_dark_retina_with_bright_vessels_is_the_whole_frame():
    assert field_of_view_mask(retina((313, 471), level=0.03, vessel=0.6, noise=0, lines=8)).all()


# ------------------------------------------------------------------ vesselness


@pytest.mark.parametrize(
    ("level", "line", "polarity"), [(0.6, 0.4, "dark"), (0.3, 0.6, "bright"), (0.6, 0.4, "both"), (0.3, 0.6, "both")]
)
def test_vesselness_peaks_on_a_line_of_its_polarity(level, line, polarity):
    image = np.full((80, 120), level, np.float32)
    image[39:42] = line
    strength = vesselness(image, polarity=polarity)
    assert (strength[:, 20:-20].argmax(0) == 40).all() and strength[40, 20:-20].min() > 0.9


def test_vesselness_ignores_the_other_polarity():
    image = np.full((80, 120), 0.6, np.float32)
    image[39:42] = 0.4
    assert vesselness(image, polarity="bright")[40, 20:-20].max() < 0.05


def test_vesselness_of_nothing_is_zero():
    assert not vesselness(np.full((50, 60), 0.4, np.float32)).any()


def test_vesselness_refuses_an_unknown_polarity():
    with pytest.raises(ValueError, match="polarity"):
        vesselness(np.zeros((50, 60), np.float32), polarity="light")


def test_vessel_mask_drops_specks_and_the_edge_of_the_field():
    image = np.full((100, 160), 0.6, np.float32)
    image[49:52] = 0.4
    image[20, 20] = 0.4
    valid = np.ones(image.shape, bool)
    valid[:, :60] = False
    mask = vessel_mask(image, valid, polarity="dark")
    assert mask[50, 70:].all() and not mask[:, :60].any() and not mask[15:25].any()


# ------------------------------------------------------------------ junctions


def drawn(*segments, width=3, hw=(131, 131)):
    canvas = np.zeros(hw, np.uint8)
    for a, b in segments:
        cv2.line(canvas, a, b, 1, width)
    return canvas > 0


WIDTHS = pytest.mark.parametrize("width", [1, 3, 7])


@WIDTHS
def test_a_cross_is_one_crossing(width):
    points, kinds = skeleton_junctions(drawn(((20, 60), (110, 60)), ((65, 10), (65, 110)), width=width))
    assert kinds.tolist() == [CROSSING] and np.abs(points - [65, 60]).max() <= 1


@WIDTHS
def test_a_slanted_cross_is_one_crossing(width):
    points, kinds = skeleton_junctions(drawn(((25, 20), (105, 100)), ((105, 20), (25, 100)), width=width))
    assert kinds.tolist() == [CROSSING] and np.abs(points - [65, 60]).max() <= 1


@WIDTHS
def test_a_t_is_a_bifurcation(width):
    points, kinds = skeleton_junctions(drawn(((20, 60), (110, 60)), ((65, 60), (65, 110)), width=width))
    assert kinds.tolist() == [BIFURCATION] and np.abs(points - [65, 60]).max() <= 1


@WIDTHS
def test_a_y_is_a_bifurcation(width):
    points, kinds = skeleton_junctions(
        drawn(((65, 5), (65, 60)), ((65, 60), (100, 95)), ((65, 60), (30, 95)), width=width)
    )
    assert kinds.tolist() == [BIFURCATION] and np.abs(points - [65, 60]).max() <= 1 + width / 2


def test_several_junctions_keep_their_places_in_an_odd_frame():
    mask = drawn(((10, 50), (460, 50)), ((100, 10), (100, 90)), ((300, 50), (300, 200)), hw=(313, 471))
    points, kinds = skeleton_junctions(mask)
    order = points[:, 0].argsort()
    assert np.abs(points[order] - [[100, 50], [300, 50]]).max() <= 1 and kinds[order].tolist() == [
        CROSSING,
        BIFURCATION,
    ]


def test_a_short_spur_is_no_branch():
    assert len(skeleton_junctions(drawn(((10, 30), (110, 30)), ((60, 30), (60, 35))))[0]) == 0


@pytest.mark.parametrize(
    "mask", [np.zeros((20, 30), bool), np.ones((20, 30), bool), np.eye(40, dtype=bool)], ids=["empty", "full", "line"]
)
def test_no_junctions_keep_their_shape(mask):
    points, kinds = skeleton_junctions(mask)
    assert points.shape == (0, 2) and kinds.shape == (0,)


def test_a_ring_has_no_junction():
    assert len(skeleton_junctions(cv2.circle(np.zeros((100, 100), np.uint8), (50, 50), 30, 1, 3) > 0)[0]) == 0


def test_a_junction_is_as_wide_as_its_thinner_vessel():
    mask = np.zeros((120, 160), bool)
    mask[56:65, 10:150] = True  # 9 px
    mask[60:110, 79:82] = True  # 3 px
    mask[10:60, 37:44] = True  # 7 px
    junctions, _ = skeleton_junctions(mask)
    wide, thin = junction_widths(mask, junctions[junctions[:, 0].argsort()])
    assert wide == pytest.approx(7, abs=0.5) and thin == pytest.approx(3, abs=0.5)
    assert len(junction_widths(mask, np.zeros((0, 2)))) == 0
    assert junction_widths(np.zeros((20, 20), bool), np.array([[5.0, 5.0]])).tolist() == [0.0]
