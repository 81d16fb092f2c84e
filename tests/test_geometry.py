"""Oracles for geometry: known transform in, known place out; OpenCV and arithmetic by hand are the judges."""

import cv2
import numpy as np
import pytest
import torch

from retina_kp.core import geometry as g

ODD = (313, 471)  # h, w
TURN = g.similarity(30, 1.5, (200, 150), (210, 160))
TILT = np.array([[1.02, 0.05, 8], [-0.04, 0.98, -6], [2e-4, -1e-4, 1]])
ZOOM_OUT = np.diag([0.5, 0.5, 1])
POINTS = np.array([[0, 0], [470, 312], [100.25, 200.75], [-3, 5]])


def blob(hw, center_xy, sigma=4.0):
    y, x = np.mgrid[: hw[0], : hw[1]]
    return np.exp(-((x - center_xy[0]) ** 2 + (y - center_xy[1]) ** 2) / (2 * sigma**2)).astype(np.float32)


def centroid(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(x * image).sum(), (y * image).sum()]) / image.sum()


def warp(image, H, out_hw):
    warped, valid = g.warp_image(
        torch.from_numpy(image)[None, None], torch.from_numpy(np.asarray(H, float))[None], out_hw
    )
    return warped[0, 0].numpy(), valid[0, 0].numpy()


def wave(hw, period=40.0):
    y, x = np.mgrid[: hw[0], : hw[1]]
    return (0.5 + 0.25 * np.sin(x / period * 2 * np.pi) + 0.25 * np.cos(y / period * 2 * np.pi)).astype(np.float32)


# ------------------------------------------------------------------ points and matrices


@pytest.mark.parametrize("H", [np.eye(3), TURN, TILT, np.diag([-1.0, 1, 1])])
def test_warp_points_round_trip(H):
    assert g.warp_points(g.warp_points(POINTS, H), np.linalg.inv(H)) == pytest.approx(POINTS)


def test_warp_points_divides_by_w():
    assert g.warp_points([[10, 20]], [[1, 0, 0], [0, 1, 0], [0.1, 0, 1]]).tolist() == [[5, 10]]


def test_warp_points_behind_the_horizon_are_nan():
    mapped = g.warp_points([[50, 1], [100, 1], [150, 1]], [[1, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    assert mapped[0].tolist() == [100, 2] and np.isnan(mapped[1:]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_warp_points_of_tensors_equals_numpy(dtype):
    points = POINTS.round()
    mapped = g.warp_points(torch.tensor(points).to(dtype), torch.from_numpy(TILT))
    assert mapped.numpy() == pytest.approx(g.warp_points(points, TILT), rel=1e-5)


def test_warp_points_batch_axes_broadcast():
    both = g.warp_points(torch.from_numpy(POINTS)[None], torch.from_numpy(np.stack([TURN, TILT])))
    assert both.numpy() == pytest.approx(np.stack([g.warp_points(POINTS, TURN), g.warp_points(POINTS, TILT)]))


def test_similarity_turns_clockwise_on_screen():
    assert g.warp_points([[11, 10]], g.similarity(90, 2, (10, 10), (50, 60))) == pytest.approx(np.array([[50, 62]]))


@pytest.mark.parametrize(("hw", "center"), [((3, 3), (1, 1)), ((2, 4), (1.5, 0.5)), (ODD, (235, 156))])
def test_image_center(hw, center):
    assert g.image_center(hw) == center


@pytest.mark.parametrize("to_hw", [(157, 236), (626, 942), (100, 471), (313, 900)])
def test_resize_matrix_is_what_opencv_does(to_hw):
    y, x = np.mgrid[: ODD[0], : ODD[1]].astype(np.float32)
    small = np.stack([cv2.resize(ramp, to_hw[::-1], interpolation=cv2.INTER_LINEAR) for ramp in (x, y)], -1)[4:-4, 4:-4]
    grid = g.pixel_grid(to_hw).numpy()[4:-4, 4:-4]
    assert np.abs(small - g.warp_points(grid, np.linalg.inv(g.resize_matrix(ODD, to_hw)))).max() < 0.02


def test_resize_matrix_keeps_the_outline():
    outline = g.warp_points([[-0.5, -0.5], [470.5, 312.5]], g.resize_matrix(ODD, (99, 64)))
    assert outline == pytest.approx(np.array([[-0.5, -0.5], [63.5, 98.5]]))


@pytest.mark.parametrize("H", [TURN, TILT])
def test_rescaling_commutes_with_warping_of_points(H):
    resize0, resize1 = g.resize_matrix(ODD, (100, 150)), g.resize_matrix((400, 500), (801, 333))
    there = g.warp_points(g.warp_points(POINTS, H), resize1)
    assert g.warp_points(g.warp_points(POINTS, resize0), g.rescale_homography(H, resize0, resize1)) == pytest.approx(
        there
    )


def test_rescaling_commutes_with_warping_of_images():
    image, half = wave(ODD), (157, 236)
    resize = g.resize_matrix(ODD, half)
    warped, _ = warp(image, TURN, ODD)
    late = cv2.resize(warped, half[::-1], interpolation=cv2.INTER_LINEAR)
    early, valid = warp(
        cv2.resize(image, half[::-1], interpolation=cv2.INTER_LINEAR), g.rescale_homography(TURN, resize, resize), half
    )
    inner = cv2.erode(valid.astype(np.uint8), np.ones((5, 5)), borderValue=0) > 0
    assert np.abs(late - early)[inner].max() < 0.02  # half a pixel of shift would give 0.08


@pytest.mark.parametrize(
    "bad", [np.zeros((3, 3)), np.eye(2), np.diag([1.0, 0, 1]), np.diag([1.0, 1, 0]), np.full((3, 3), np.nan)]
)
def test_as_homography_refuses(bad):
    with pytest.raises(ValueError, match="transform"):
        g.as_homography(bad)


def test_as_homography_normalises_and_fills_up():
    assert g.as_homography(-2 * TILT) == pytest.approx(TILT)
    assert g.as_homography(TURN[:2]) == pytest.approx(TURN)


def test_describe_measures_what_similarity_was_given():
    shape = g.describe(g.similarity(-75, 0.6, (3, 4), (5, 6)), ODD)
    assert (shape.angle_deg, shape.scale, shape.anisotropy, shape.perspective) == pytest.approx(
        (-75, 0.6, 1, 0), abs=1e-9
    )
    assert not shape.mirrored


def test_describe_sees_flips_and_stretch():
    assert g.describe(np.diag([-1.0, 1, 1]), ODD).mirrored
    assert g.describe(np.diag([3.0, 2, 1]), ODD).anisotropy == pytest.approx(1.5)


def test_jacobian_is_the_derivative():
    at, step = np.array([120.0, 90.0]), 1e-4
    ends = g.warp_points(at + step * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]), TILT)
    numeric = np.stack([ends[0] - ends[1], ends[2] - ends[3]], 1) / (2 * step)
    assert g.jacobian(TILT, at) == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize(
    ("H_0to1", "share"),
    [
        (np.eye(3), 1),
        (g.translation(200, 0), 0.5),
        (g.translation(0, -75), 0.75),
        (g.translation(500, 0), 0),
        (ZOOM_OUT, 0.25),
    ],
)
def test_overlap_fraction_by_hand(H_0to1, share):
    assert g.overlap_fraction(H_0to1, (300, 400), (300, 400)) == pytest.approx(share, abs=0.03)


def test_corner_error_of_a_shift_is_its_length():
    assert g.corner_error(g.translation(3, 4) @ TURN, TURN, ODD) == pytest.approx(5)


def test_inside_counts_the_outermost_centres_and_not_nan():
    points = np.array([[0, 0], [470, 312], [470.1, 0], [0, -0.1], [np.nan, 5]])
    assert g.inside(points, ODD).tolist() == [True, True, False, False, False]
    assert g.inside(torch.tensor([[4.0, 4.0], [3.9, 4.0]]), ODD, 4).tolist() == [True, False]


# ------------------------------------------------------------------ maps and images


@pytest.mark.parametrize("stride", [1, 2, 8])
def test_cells_and_pixels_are_inverse(stride):
    assert g.from_cells(g.to_cells(POINTS, stride), stride) == pytest.approx(POINTS)
    assert g.from_cells(np.array([0.0, 3.0]), stride).tolist() == [(stride - 1) / 2, 3 * stride + (stride - 1) / 2]


@pytest.mark.parametrize("stride", [1, 2, 8])
def test_sample_map_reads_a_ramp_at_image_pixels(stride):
    # every cell holds the image px of its centre
    cells = g.from_cells(g.pixel_grid((320 // stride, 480 // stride)), stride)
    points = torch.tensor([[[10.0, 20.0], [123.4, 56.7], [400.5, 300.25]]])
    assert g.sample_map(cells.permute(2, 0, 1)[None], points, stride).numpy() == pytest.approx(points.numpy(), abs=1e-3)


def test_sample_map_is_zero_outside_and_at_nan():
    points = torch.tensor([[[-9.0, 5.0], [np.nan, 5.0], [5.0, 40.0]]])
    assert g.sample_map(torch.ones(1, 2, 32, 32), points).tolist() == [[[0, 0]] * 3]


def test_sample_map_of_no_points():
    assert g.sample_map(torch.ones(1, 7, 4, 4), torch.zeros(1, 0, 2), 8).shape == (1, 0, 7)


def test_warp_image_identity():
    image = wave(ODD)
    warped, valid = warp(image, np.eye(3), ODD)
    assert valid.all() and np.abs(warped - image).max() < 1e-4


def test_warp_image_flips_exactly():
    warped, valid = warp(wave(ODD), [[-1, 0, 470], [0, 1, 0], [0, 0, 1]], ODD)
    assert valid.all() and np.abs(warped - wave(ODD)[:, ::-1]).max() < 1e-4


@pytest.mark.parametrize("H", [TURN, TILT, g.similarity(-140, 0.7, (200, 150), (220, 160))])
def test_a_blob_lands_where_its_point_is_mapped(H):
    warped, _ = warp(blob(ODD, (200.3, 150.6)), H, (340, 500))
    assert centroid(warped) == pytest.approx(g.warp_points([[200.3, 150.6]], H)[0], abs=0.05)


@pytest.mark.parametrize("H", [TURN, TILT])
def test_warp_image_mask_is_where_the_source_is(H):
    _, valid = warp(wave(ODD), H, (340, 500))
    source = g.warp_points(g.pixel_grid((340, 500)).numpy(), np.linalg.inv(H))
    assert (valid == g.inside(source, ODD, -1e-3)).all() and 0.3 < valid.mean() < 1


def test_warp_image_is_zero_where_nothing_is_known():
    warped, valid = warp(np.ones(ODD, np.float32), g.translation(100, 0), ODD)
    assert not valid[:, :100].any() and valid[:, 100:].all() and (warped == valid).all()


def test_warp_image_shows_nothing_behind_the_horizon():
    H = np.linalg.inv(np.array([[1, 0, -300], [0, 1, -200], [-0.005, 0, 1]]))  # right of x = 200 lies behind
    assert not warp(wave(ODD), H, ODD)[1][:, 200:].any()


@pytest.mark.parametrize("H", [np.eye(3), TURN, TILT])
def test_warp_layers_agrees_with_warp_image(H):
    layers = (np.stack([wave(ODD), np.zeros(ODD)]) * 255).astype(np.uint8)
    fast, known = g.warp_layers(layers, H, (340, 500))
    exact, valid = warp(layers[0].astype(np.float32), H, (340, 500))
    assert np.abs(fast[0] - exact)[known & valid].max() < 1.5 and not fast[1].any()
    assert (known != valid).mean() < 0.005


# ------------------------------------------------------------------ random transforms

RANGES = g.TransformRange(rotation_deg=25, scale_ratio=1.3, shift=0.15, shear=0.0, perspective=0.02)


def draw(seed=1, ranges=RANGES, count=200):
    return g.random_homographies(count, ODD, ranges, torch.Generator().manual_seed(seed)).numpy()


def test_random_homographies_stay_within_their_ranges():
    shapes = [g.describe(H, ODD) for H in draw()]
    angles, scales = np.array([s.angle_deg for s in shapes]), np.array([s.scale for s in shapes])
    assert (
        20 < np.abs(angles).max() <= 25 and 1.25 < scales.max() <= 1.3 + 1e-9 and 1 / 1.3 - 1e-9 <= scales.min() < 0.8
    )
    assert max(s.perspective for s in shapes) <= 0.04 + 1e-3 and max(s.anisotropy for s in shapes) < 1 + 1e-6


def test_random_homographies_shift_the_centre_by_no_more_than_they_may():
    shift = g.warp_points(np.array([g.image_center(ODD)]), draw())[:, 0] - g.image_center(ODD)
    assert (np.abs(shift) <= 0.15 * np.array(ODD[::-1]) + 1e-9).all() and np.abs(shift[:, 0]).max() > 0.12 * 471


def test_random_homographies_are_reproducible():
    assert (draw(5) == draw(5)).all() and (draw(5) != draw(6)).any()


def test_no_strength_is_the_identity():
    assert draw(ranges=RANGES.scaled(0.0), count=3) == pytest.approx(np.stack([np.eye(3)] * 3), abs=1e-12)
