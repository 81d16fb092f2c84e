"""The oracle of a network: with the true points for keypoints, only descriptors and geometry can be wrong, and they are
seen to be."""

from dataclasses import replace

import numpy as np
import pytest

from retina_kp import PairOptions, Registrar
from retina_kp.core.geometry import similarity, warp_points
from retina_kp.evaluation.metrics import point_errors
from retina_kp.evaluation.oracle_keypoints import align_true_points, register_true_points
from retina_kp.synthetic.pairs import draw_pair

POINTS = np.array([[20.0, 30], [350, 40], [200, 150], [40, 260], [360, 270], [120, 90], [280, 200], [210, 40]])
H_1to0 = similarity(30, 1.5, (100, 80), (140, 90))


def test_points_are_told_apart_by_their_descriptors_alone():
    """Two points with exchanged descriptors are matched to each other, whatever their places; the fit leaves them
    out."""
    descriptors = np.eye(len(POINTS), dtype=np.float32)
    index, fit = align_true_points(warp_points(POINTS, H_1to0), POINTS, descriptors, descriptors, "similarity", 4.0)
    assert index.tolist() == [[k, k] for k in range(8)] and np.allclose(fit.H_1to0, H_1to0, atol=1e-3)
    exchanged = descriptors[[1, 0, *range(2, 8)]]
    index, fit = align_true_points(warp_points(POINTS, H_1to0), POINTS, descriptors, exchanged, "similarity", 4.0)
    assert index[:2].tolist() == [[0, 1], [1, 0]] and fit.inliers.tolist() == [False] * 2 + [True] * 6
    assert np.allclose(fit.H_1to0, H_1to0, atol=1e-3)


def test_without_descriptors_that_tell_there_is_no_fit():
    same = np.ones((len(POINTS), 4), np.float32) / 2
    index, fit = align_true_points(POINTS, POINTS, same, same, "affine", 4.0)
    assert len(index) <= 1 and fit is None


@pytest.fixture(scope="module")
def drawn():
    """A synthetic pair turned by 140°, with 24 true points, and a registrar; the moving image is half as large."""
    pair = draw_pair(5, 1, ("CF", "FA"), PairOptions(size_px=480, rotation_deg=140, scale=(0.6, 0.7), min_overlap=0.8))
    grid = np.stack(np.meshgrid(np.linspace(130, 350, 6), np.linspace(150, 330, 4)), -1).reshape(-1, 2)
    return pair, grid, warp_points(grid, pair.H_0to1), Registrar.from_pretrained("lite")


def test_turn_and_scale_cost_the_oracle_nothing(drawn):
    pair, points0, points1, registrar = drawn
    result = register_true_points(registrar, pair.fixed, pair.moving, np.linalg.inv(pair.H_0to1), (points0, points1))
    errors = point_errors(result.H_1to0, points1, points0, pair.fixed.shape[:2])
    assert result.ok and errors.max() < 1 and len(result.matches0) >= 16 and result.model == "affine"


def test_without_annotated_points_the_keypoints_of_the_fixed_image_stand_for_them(drawn):
    pair, points0, points1, registrar = drawn
    result = register_true_points(registrar, pair.fixed, pair.moving, np.linalg.inv(pair.H_0to1))
    assert (
        point_errors(result.H_1to0, points1, points0, pair.fixed.shape[:2]).max() < 1
        and 50 < len(result.matches0) <= 200
    )


def test_a_richer_model_than_the_points_allow_is_replaced(drawn):
    pair, points0, points1, registrar = drawn
    rich = Registrar(registrar.network, replace(registrar.options, model="quadratic"), "cpu")
    few = slice(0, 24, 4)
    result = register_true_points(
        rich, pair.fixed, pair.moving, np.linalg.inv(pair.H_0to1), (points0[few], points1[few])
    )
    assert result.ok and result.model == "affine" and len(result.matches0) <= 6


def test_a_detector_that_is_perfect_does_not_save_an_image_without_retina(drawn):
    pair, points0, points1, registrar = drawn
    blank = np.random.default_rng(0).integers(90, 110, pair.moving.shape, np.uint8)
    result = register_true_points(registrar, pair.fixed, blank, np.linalg.inv(pair.H_0to1), (points0, points1))
    assert not result.ok or len(result.inliers) < 12
    away = register_true_points(
        registrar, pair.fixed, pair.moving, similarity(0, 1, (0, 0), (9000, 0)), (points0, points1)
    )
    assert away.status.startswith("too few matches")
