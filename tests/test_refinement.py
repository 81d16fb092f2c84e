"""Refinement on the detector's maps: drawn blobs at known places, and starts from which it must keep its hands off."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from retina_kp.geometry import corners, similarity, translation, warp_points
from retina_kp.matching import Fit, fit_transform
from retina_kp.refinement import MAX_MOVE_PX, refine

STRIDE, HW = 2, (301, 223)  # cells of the maps; 602 × 446 px
TRUE = translation(3.0, -2.0) @ similarity(3.0, 1.02, (220, 300), (220, 300)) @ np.array([[1, 0.01, 0], [0, 1, 0], [0, 0, 1]])


@pytest.fixture(scope="module")
def blobs():
    """(H_1to0) → maps (h, w) with a blob of 2 px at each of 60 places of picture 1, and where H puts them in picture 0; the places, px."""
    places1 = np.random.default_rng(3).uniform(40, [400, 560], (60, 2))

    def draw(places):
        x, y = (np.arange(n) * STRIDE + (STRIDE - 1) / 2 for n in HW[::-1])
        d2 = (x[None, None] - places[:, 0, None, None]) ** 2 + (y[None, :, None] - places[:, 1, None, None]) ** 2
        return np.exp(-d2 / 8).max(0).astype(np.float32)

    return lambda H: ((draw(warp_points(places1, H)), draw(places1)), places1)


def away(H, other=TRUE):
    places = corners([n * STRIDE for n in HW])
    return np.linalg.norm(warp_points(places, H) - warp_points(places, other), axis=1).max()


@pytest.mark.parametrize("model", ["affine", "homography"])
@pytest.mark.parametrize("drawn", [np.eye(3), translation(5, 1) @ similarity(10, 1.1, (200, 200), (200, 200))])
def test_a_start_two_px_off_is_brought_home(blobs, model, drawn):
    """Also when the moving picture was drawn elsewhere: its map then differs, and TRUE is told from where ``drawn`` puts it."""
    maps, places1 = blobs(TRUE @ drawn)
    points1 = warp_points(places1, drawn)
    start = fit_transform(warp_points(points1, translation(1.6, -1.2) @ TRUE), points1, model, 3.0)
    assert away(start.H_1to0) == pytest.approx(2.0, abs=0.1)
    better = refine(start, warp_points(points1, TRUE), points1, maps, drawn, STRIDE, 1.0)
    assert away(better.H_1to0) < 0.15 and better.n_inliers == 60 and better.model == model


def test_inliers_are_counted_anew(blobs):
    maps, points1 = blobs(TRUE)
    points0 = warp_points(points1, TRUE) + np.where(np.arange(60) < 12, 2.0, 0.0)[:, None]
    better = refine(Fit("affine", translation(1, 0) @ TRUE, np.ones(60, bool)), points0, points1, maps, np.eye(3), STRIDE, 1.0)
    assert better.inliers.tolist() == [False] * 12 + [True] * 48


def test_it_leaves_alone_what_it_cannot_better(blobs):
    maps, points1 = blobs(TRUE)
    points0, fit = warp_points(points1, TRUE), Fit("affine", translation(1, 0) @ TRUE, np.ones(60, bool))
    flat = np.zeros(HW, np.float32)
    for odd, given in (
        (replace(fit, model="similarity"), maps),
        (replace(fit, model="quadratic"), maps),
        (fit, (flat, flat)),
        (fit, (maps[0], flat)),
    ):
        assert refine(odd, points0, points1, given, np.eye(3), STRIDE, 3.0) is odd
    far = (cv2.warpAffine(maps[0], np.float32([[1, 0, 2 * MAX_MOVE_PX / STRIDE], [0, 1, 0]]), HW[::-1]), maps[1])
    assert away(refine(fit, points0, points1, far, np.eye(3), STRIDE, 3.0).H_1to0) == pytest.approx(1.0)
