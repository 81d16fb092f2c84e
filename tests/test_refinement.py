"""The gradual fit on matches with a known truth, and refinement on the detector's maps: painted blobs at known places,
and starts from which it must keep its hands off."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from retina_kp.core.geometry import corners, similarity, translation, warp_points
from retina_kp.mapping.transforms import Fit, _polish, fit_transform
from retina_kp.registration.refinement import ATTEMPTS, fit_gradually, refine, smoothed

STRIDE, HW = 2, (301, 223)  # cells of the maps; 602 × 446 px
UNTURNED = np.eye(3)
TRUE_CLOSE = similarity(1.0, 1.01, (280, 280), (284, 277))
TRUE = (
    translation(3.0, -2.0)
    @ similarity(3.0, 1.02, (220, 300), (220, 300))
    @ np.array([[1, 0.01, 0], [0, 1, 0], [0, 0, 1]])
)


@pytest.fixture(scope="module")
def blobs():
    """(H_1to0) → maps (h, w) with a blob of 2 px at each of 60 places of picture 1, and where H puts them in picture 0;
    the places, px."""
    places1 = np.random.default_rng(3).uniform(40, [400, 560], (60, 2))

    def draw(places):
        x, y = (np.arange(n) * STRIDE + (STRIDE - 1) / 2 for n in HW[::-1])
        d2 = (x[None, None] - places[:, 0, None, None]) ** 2 + (y[None, :, None] - places[:, 1, None, None]) ** 2
        return (np.exp(-d2 / 8).max(0) + 1e-3).astype(np.float32)  # 0 is what lies outside the field of view

    return lambda H: ((draw(warp_points(places1, H)), draw(places1)), places1)


def away(H, other=TRUE):
    places = corners([n * STRIDE for n in HW])
    return np.linalg.norm(warp_points(places, H) - warp_points(places, other), axis=1).max()


@pytest.mark.parametrize("model", ["affine", "homography"])
@pytest.mark.parametrize("step", [UNTURNED, translation(5, 1) @ similarity(10, 1.1, (200, 200), (200, 200))])
def test_a_start_two_px_off_is_brought_home(blobs, model, step):
    """Also when the moving picture was warped elsewhere: its map then differs, and TRUE is told from where ``step``
    puts it."""
    maps, places1 = blobs(TRUE @ step)
    points1 = warp_points(places1, step)
    start = fit_transform(warp_points(points1, translation(1.6, -1.2) @ TRUE), points1, model, 3.0)
    assert away(start.H_1to0) == pytest.approx(2.0, abs=0.1)
    better, correlation = refine(start, warp_points(points1, TRUE), points1, maps, step, STRIDE, 1.0)
    assert away(better.H_1to0) < 0.15 and better.n_inliers == 60 and better.model == model
    assert correlation > (0.98 if step is UNTURNED else 0.96)  # a turned map is read between its cells


def test_a_start_far_off_is_brought_home_by_blurred_maps(blobs):
    """Blobs of 2 px do not reach 14 px far; blurred ones do."""
    maps, points1 = blobs(TRUE)
    start = Fit("affine", translation(11, -9) @ TRUE, np.ones(60, bool))
    better, correlation = refine(start, warp_points(points1, TRUE), points1, maps, np.eye(3), STRIDE, 1.0)
    assert away(better.H_1to0) < 0.2 and correlation > 0.98 and better.n_inliers == 60


@pytest.mark.parametrize("fails", [(2, 6), (2, 3), (1, 2, 3)])
def test_a_last_step_that_fails_keeps_the_place_of_the_steps_before(blobs, monkeypatch, fails):
    """Both attempts fail at their last step, which nothing is lost by; or the second one fails at its first."""
    maps, points1 = blobs(TRUE)
    search, calls = cv2.findTransformECC, []

    def failing(*given):
        calls.append(given)
        if len(calls) in fails:
            raise cv2.error("no convergence")
        return search(*given)

    monkeypatch.setattr(cv2, "findTransformECC", failing)
    start = Fit("affine", translation(2, -1) @ TRUE, np.ones(60, bool))
    better, correlation = refine(start, warp_points(points1, TRUE), points1, maps, UNTURNED, STRIDE, 1.0)
    if fails == (2, 6):
        assert away(better.H_1to0) < 0.5 and correlation > 0.9 and better.n_inliers == 60
    else:
        assert np.array_equal(better.H_1to0, start.H_1to0) and correlation == 0


def test_inliers_are_counted_anew(blobs):
    maps, points1 = blobs(TRUE)
    points0 = warp_points(points1, TRUE) + np.where(np.arange(60) < 12, 2.0, 0.0)[:, None]
    better, _ = refine(
        Fit("affine", translation(1, 0) @ TRUE, np.ones(60, bool)), points0, points1, maps, np.eye(3), STRIDE, 1.0
    )
    assert better.inliers.tolist() == [False] * 12 + [True] * 48


def test_correlation_tells_the_same_places_from_others(blobs):
    """Of two patterns half of whose blobs are shared, about a half; of two patterns that share none, little; whatever
    the model."""
    (map0, map1), points1 = blobs(TRUE)
    points0, fit = warp_points(points1, TRUE), Fit("similarity", TRUE, np.ones(60, bool))
    half = map1.copy()
    half[: HW[0] // 2] = 0
    elsewhere = np.ascontiguousarray(map1[::-1, ::-1])
    found = [
        refine(fit, points0, points1, (map0, other), np.eye(3), STRIDE, 3.0)[1] for other in (map1, half, elsewhere)
    ]
    assert found[0] > 0.99 and 0.4 < found[1] < 0.85 and found[2] < 0.3


@pytest.mark.parametrize("step", [UNTURNED, translation(5, 1) @ similarity(10, 1.1, (200, 200), (200, 200))])
def test_correlation_of_other_models_is_that_of_the_fit_as_it_lies(blobs, step):
    """Not of a better transform nearby: it would speak for a fit that is 30 px off."""
    maps, places1 = blobs(TRUE @ step)
    points1 = warp_points(places1, step)
    points0 = warp_points(points1, TRUE)
    for model in ("similarity", "quadratic"):
        found = {}
        for off_px in (0, 3, 30):
            moved = translation(off_px, 0) @ TRUE
            fit = Fit(model, moved, np.ones(60, bool))
            if model == "quadratic":
                fit = _polish(replace(fit, H_1to0=TRUE), warp_points(points1, moved), points1, 2 * off_px + 3.0)
            found[off_px] = refine(fit, points0, points1, maps, step, STRIDE, 3.0)[1]
        assert found[0] > (0.98 if step is UNTURNED else 0.96) and 0.2 < found[3] < 0.9 and found[30] < 0.2


def test_an_outline_is_no_structure():
    """Two fields of view of one shape, each with a diffuse answer to noise of its own, have nothing in common."""
    rng, (y, x) = np.random.default_rng(4), np.mgrid[: HW[0], : HW[1]]
    disc = np.hypot(x - 110, y - 150) < 100
    maps = tuple((0.02 * cv2.GaussianBlur(rng.random(HW), (0, 0), 2) * disc).astype(np.float32) for _ in range(2))
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.9
    places = rng.uniform([60, 100], [160, 200], (60, 2))
    for model in ("affine", "similarity"):
        assert refine(Fit(model, np.eye(3), np.ones(60, bool)), places, places, maps, np.eye(3), STRIDE, 3.0)[1] < 0.1


@pytest.mark.parametrize("sigma", [2.0, 6.0, 12.0])
def test_wide_gaussians_are_those_of_opencv(sigma):
    """On a smaller copy, too, and the mean of a constant is the constant up to the edge."""
    values = np.random.default_rng(0).random((141, 173)).astype(np.float32)
    exact = cv2.GaussianBlur(values, (0, 0), sigma)
    inner = (slice(40, -40),) * 2
    assert np.abs(smoothed(values, sigma) - exact)[inner].std() < 0.15 * exact[inner].std()
    assert smoothed(np.full_like(values, 0.3), sigma) == pytest.approx(0.3, abs=1e-6)


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
        assert refine(odd, points0, points1, given, np.eye(3), STRIDE, 3.0)[0] is odd
    far = (cv2.warpAffine(maps[0], np.float32([[1, 0, 2 * ATTEMPTS[-1][1] / STRIDE], [0, 1, 0]]), HW[::-1]), maps[1])
    assert away(refine(fit, points0, points1, far, np.eye(3), STRIDE, 3.0)[0].H_1to0) == pytest.approx(1.0)


# ------------------------------------------------------------------ the gradual fit


def scattered(model_off, count=120, seed=5):
    """points0, points1 (count, 2) px that ``model_off`` (3, 3) relates but for 0.3 px of noise; a third of them is 8 to
    30 px off."""
    rng = np.random.default_rng(seed)
    points1 = rng.uniform(0, 560, (count, 2))
    wrong, turn = np.arange(count) % 3 == 0, rng.uniform(0, 2 * np.pi, count)
    off = np.where(wrong, rng.uniform(8, 30, count), 0)[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    return warp_points(points1, model_off) + rng.normal(0, 0.3, (count, 2)) + off, points1, ~wrong


@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
def test_matches_that_are_off_lose_their_say(model):
    points0, points1, right = scattered(TRUE_CLOSE)
    fit = fit_gradually(points0, points1, model, 20.0, 3.0)
    assert fit.model == model and fit.inliers.tolist() == right.tolist()
    assert away(fit.H_1to0, TRUE_CLOSE) < 0.6


def test_a_bent_eye_has_one_answer_whichever_half_has_more_matches():
    """No affine transform fits a bent eye. Consensus takes the half with more matches (60 to 50) and jumps when that is
    the other one; the gradual fit lies between and hardly moves."""
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, 500, 20), np.linspace(0, 500, 6)))
    points1 = np.stack([x, y], 1)
    points0 = points1 + np.stack([np.zeros_like(x), 14 * ((x - 250) / 250) ** 2], 1)
    sides = [np.r_[np.flatnonzero(x < 250)[: 60 - 10 * k], np.flatnonzero(x > 250)[: 50 + 10 * k]] for k in (0, 1)]
    gradual = [fit_gradually(points0[side], points1[side], "affine", 20.0, 4.0).H_1to0 for side in sides]
    consensus = [fit_transform(points0[side], points1[side], "affine", 4.0).H_1to0 for side in sides]
    assert away(*gradual) < 5 < 20 < away(*consensus)


def test_too_few_matches_are_no_fit():
    points0, points1, _ = scattered(np.eye(3))
    assert fit_gradually(points0[:3], points1[:3], "affine", 20.0, 4.0) is None
    assert fit_gradually(points0[:0], points1[:0], "homography", 20.0, 4.0) is None
    assert (
        fit_gradually(np.c_[points0[:, 0], points0[:, 0]], np.c_[points1[:, 0], points1[:, 0]], "affine", 20.0, 4.0)
        is None
    )
    assert fit_gradually(points0[1:3].repeat(10, 0), points1[1:3].repeat(10, 0), "similarity", 20.0, 4.0) is not None
    assert fit_gradually(points0, points1, "quadratic", 20.0, 4.0).model == "quadratic"
