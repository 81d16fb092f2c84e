"""Oracles for matching: hand-made descriptors with known partners, point sets with a known transform and known
outliers."""

import numpy as np
import pytest

from retina_kp.core.geometry import similarity, warp_points
from retina_kp.mapping.transforms import (
    apply_quadratic,
    fit_transform,
    implausible,
)
from retina_kp.registration.keypoints import Features, guided_matches, mutual_matches, spread_count

TRUTH = {
    "similarity": similarity(37, 1.4, (200, 150), (260, 240)),
    "affine": np.array([[1.1, 0.25, 20], [-0.1, 0.9, -15], [0, 0, 1.0]]),
    "homography": np.array([[1.05, 0.1, 20], [-0.1, 0.97, -15], [2e-4, -1.5e-4, 1.0]]),
    "quadratic": np.array([[30, -20], [105, 6], [-4, 97], [0.5, -0.3], [0.2, 0.4], [-0.3, 0.4]]),
}
MODELS = list(TRUTH)
NONE = Features(np.zeros((0, 2), np.float32), np.zeros(0), np.zeros((0, 2)), (100, 100))


def carry(points1, model):
    return apply_quadratic(points1, TRUTH[model]) if model == "quadratic" else warp_points(points1, TRUTH[model])


def matches(model, count=300, noise_px=0.0, outliers=0.4, seed=0):
    """points0, points1 and which of them belong together."""
    rng = np.random.default_rng(seed)
    points1 = rng.uniform(0, 500, (count, 2))
    points0 = carry(points1, model) + rng.normal(0, 1, (count, 2)) * noise_px
    good = np.arange(count) >= outliers * count
    points0[~good] = rng.uniform(0, 600, ((~good).sum(), 2))
    return points0, points1, good


def error_px(fit, model):
    """Distances from the truth over a lattice that the points cover."""
    grid = np.stack(np.meshgrid(np.linspace(20, 480, 9), np.linspace(20, 480, 9)), -1).reshape(-1, 2)
    found = warp_points(grid, fit.H_1to0) if fit.quadratic_1to0 is None else apply_quadratic(grid, fit.quadratic_1to0)
    return np.linalg.norm(found - carry(grid, model), axis=1)


def features(angles_deg, places=None):
    """Features whose descriptors are unit vectors at these angles."""
    a = np.radians(angles_deg)
    places = np.zeros((len(a), 2)) if places is None else places
    return Features(
        np.asarray(places, np.float32).reshape(-1, 2), np.ones(len(a)), np.stack([np.cos(a), np.sin(a)], 1), (100, 100)
    )


# ------------------------------------------------------------------ correspondences


def test_mutual_matches_pair_what_is_nearest_both_ways():
    assert mutual_matches(features([0, 90, 200]), features([95, 5, 7])).tolist() == [[0, 1], [1, 0]]


def test_mutual_matches_leave_out_one_sided_love():
    assert mutual_matches(features([0, 10]), features([4])).tolist() == [[0, 0]]


def test_ratio_test_drops_what_has_a_baseline():
    first, second = features([0, 90]), features([1, 2, 91, 180])
    assert mutual_matches(first, second, 0.8).tolist() == [[0, 0], [1, 2]]
    assert mutual_matches(first, second, 0.4).tolist() == [[1, 2]]


def test_ratio_test_needs_a_second_best():
    assert mutual_matches(features([0]), features([3]), 0.5).tolist() == [[0, 0]]


@pytest.mark.parametrize("pair", [(NONE, features([0])), (features([0]), NONE), (NONE, NONE)])
def test_no_features_give_no_matches(pair):
    assert mutual_matches(*pair).shape == guided_matches(*pair, np.eye(3), 5).shape == (0, 2)


def test_guided_matches_look_only_where_the_transform_points():
    first, second = features([0, 0], [(10, 10), (50, 50)]), features([0, 20], [(30, 30), (11, 30)])
    assert guided_matches(first, second, np.diag([1.0, 1 / 3, 1]), radius_px=3).tolist() == [[0, 1]]


def test_guided_matches_want_a_likeness():
    first, second = features([0], [(10, 10)]), features([85], [(10, 10)])
    assert guided_matches(first, second, np.eye(3), 5).tolist() == []
    assert guided_matches(first, second, np.eye(3), 5, min_similarity=0.05).tolist() == [[0, 0]]


def test_guided_matches_ignore_points_behind_the_horizon():
    first, second = features([0], [(10, 10)]), features([0], [(150, 10)])
    assert len(guided_matches(first, second, np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1]]), 1e4)) == 0


# ------------------------------------------------------------------ transforms


@pytest.mark.parametrize("model", MODELS)
def test_fit_is_exact_with_40_percent_outliers(model):
    points0, points1, good = matches(model)
    fit = fit_transform(points0, points1, model, 3.0)
    assert fit.model == model and error_px(fit, model).max() < 1e-3 and (fit.inliers == good).all()


@pytest.mark.parametrize("model", MODELS)
def test_fit_stands_noise_and_outliers(model):
    fit = fit_transform(*matches(model, noise_px=0.5)[:2], model, 3.0)
    assert error_px(fit, model).mean() < 0.3


@pytest.mark.parametrize("model", MODELS)
def test_fit_is_reproducible(model):
    points0, points1, _ = matches(model, noise_px=1.0)
    first, second = (fit_transform(points0, points1, model, 3.0) for _ in range(2))
    assert (first.H_1to0 == second.H_1to0).all() and (first.inliers == second.inliers).all()


def test_quadratic_follows_bends_beyond_the_threshold_of_its_affine_start():
    strong, rng = TRUTH["quadratic"] * [[1], [1], [1], [2.5], [2.5], [2.5]], np.random.default_rng(0)
    points1 = rng.uniform(0, 500, (300, 2))
    truth = apply_quadratic(points1, strong)
    fit = fit_transform(truth + rng.normal(0, 0.5, (300, 2)), points1, "quadratic", 3.0)
    assert np.linalg.norm(apply_quadratic(points1, fit.quadratic_1to0) - truth, axis=1).max() < 0.5


@pytest.mark.parametrize(("model", "count"), [("similarity", 2), ("affine", 3), ("homography", 7), ("quadratic", 3)])
def test_too_few_points_give_none(model, count):
    assert fit_transform(*matches(model, count, outliers=0)[:2], model, 3.0) is None


def test_too_few_points_for_a_quadratic_give_an_affine():
    points = matches("affine", 19, outliers=0)[:2]
    fit = fit_transform(*points, "quadratic", 3.0)
    assert (
        fit.model == "affine"
        and fit.quadratic_1to0 is None
        and fit.n_inliers == 19
        and error_px(fit, "affine").max() < 0.01
    )


@pytest.mark.parametrize("model", MODELS)
def test_no_points_give_none(model):
    assert fit_transform(np.zeros((0, 2)), np.zeros((0, 2)), model, 3.0) is None


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("count", [8, 50, 200])
def test_random_points_give_no_transform_that_could_pass(model, count):
    for seed in range(5):
        points0, points1 = np.random.default_rng(seed).uniform(0, 500, (2, count, 2))
        fit = fit_transform(points0, points1, model, 3.0)
        assert fit is None or fit.n_inliers < 7 or implausible(fit.H_1to0, (500, 500))


@pytest.mark.parametrize("model", ["affine", "homography", "quadratic"])
def test_points_on_a_line_fix_no_transform(model):
    t = np.random.default_rng(0).uniform(0, 500, 60)
    for noise in (0, 0.5):
        points0 = np.stack([t, 0.5 * t + 3], 1) + np.random.default_rng(1).normal(0, 1, (60, 2)) * noise
        fit = fit_transform(points0, np.stack([t, 2 * t], 1), model, 3.0)
        assert fit is None or implausible(fit.H_1to0, (500, 500))


@pytest.mark.parametrize("model", MODELS)
def test_one_place_seen_many_times_fixes_no_transform(model):
    here, anywhere = np.full((60, 2), 7.0), np.random.default_rng(0).uniform(0, 500, (60, 2))
    assert fit_transform(here, anywhere, model, 3.0) is None and fit_transform(anywhere, here, model, 3.0) is None


def test_an_outlier_behind_the_horizon_does_no_harm():
    points0, points1, _ = matches("homography", 60, outliers=0)
    H = np.array([[1, 0.02, 3], [0.01, 1, 4], [-4e-4, 1e-4, 1]])
    points0 = np.vstack([warp_points(points1, H), [[0, 0], [1, 1]]])
    fit = fit_transform(points0, np.vstack([points1, [[4000, 0], [5000, 10]]]), "homography", 3.0)
    assert np.abs(fit.H_1to0 - H).max() < 1e-6 and fit.n_inliers == 60


def test_a_homography_may_have_any_upper_left_block():
    # a plain turn-free view near x = 0, yet H[:2, :2] is singular
    H = np.array([[0.0, 0, 2000], [0, 1, 0], [-5e-4, 0, 1]])
    points1 = np.random.default_rng(0).uniform(-200, 200, (80, 2))
    assert np.abs(fit_transform(warp_points(points1, H), points1, "homography", 3.0).H_1to0 - H).max() < 1e-3


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="similarity, affine"):
        fit_transform(np.zeros((9, 2)), np.zeros((9, 2)), "rigid", 3.0)


def test_apply_quadratic_by_hand():
    coefficients = np.arange(12.0).reshape(6, 2)
    assert apply_quadratic([[200, 300]], coefficients).tolist() == [
        [0 + 4 + 12 + 24 + 48 + 90, 1 + 6 + 15 + 28 + 54 + 99]
    ]


# ------------------------------------------------------------------ judgement


@pytest.mark.parametrize(
    "H", [np.eye(3), TRUTH["similarity"], TRUTH["affine"], TRUTH["homography"], similarity(180, 0.3, (0, 0), (9, 9))]
)
def test_a_possible_transform_is_not_implausible(H):
    assert implausible(H, (500, 500)) == ""


@pytest.mark.parametrize(
    ("H", "reason"),
    [
        (np.diag([-1.0, 1, 1]), "mirror"),
        (np.diag([5.0, 5, 1]), "scale"),
        (np.diag([0.2, 0.2, 1]), "scale"),
        (np.diag([2.0, 1, 1]), "stretch"),
        (np.diag([1.0, 1e-9, 1]), "scale"),
        (np.array([[1, 0, 0], [0, 1, 0], [8e-4, 8e-4, 1]]), "perspective"),
    ],
)
def test_implausible_names_the_reason(H, reason):
    assert reason in implausible(H, (500, 500))


def test_spread_counts_cells():
    assert spread_count([[0, 0], [3, 9], [10, 0], [-1, 0]], 10) == 3 and spread_count(np.zeros((0, 2)), 10) == 0
