"""The last pixels: a transform moved until the detector's two maps lie on each other, all of their structure at once;
for models without such a search, one fit of all matches that drops those far away little by little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from ..core.geometry import as_homography, corners, from_cells, inside, pixel_grid, resize_matrix, to_cells, warp_points
from ..mapping.transforms import (
    MIN_MATCHES,
    Fit,
    apply_quadratic,
    fit_transform,
    invertible,
    least_squares,
    tukey_weights,
)

# OpenCV has no such search for the other models
MOTIONS = {"affine": cv2.MOTION_AFFINE, "homography": cv2.MOTION_HOMOGRAPHY}
# Gaussians (σ in cells) on both maps, one after the other, and how far a corner may move (px); farther away it is
# another optimum. The second attempt is for starts that are too far off for the first. The last step sees the maps as
# they are, for accuracy.
ATTEMPTS = (((1.0, 0.0), 25.0), ((4.0, 2.0, 1.0, 0.0), 60.0))
AGREED = 0.3  # correlation of blurred maps from which the last attempt has found the place, even if its last step fails
AROUND_CELLS = 2.0  # σ of the mean that maps are compared with, at least
# an affine search may end so far from a fit of a model that has no search; farther away the model does not fit
MISFIT_PX = 20.0
ROUNDS, LAST_ROUNDS = 7, 2  # of least squares while the limit falls, and at its end
LIMITS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)


def fit_gradually(
    points0: np.ndarray, points1: np.ndarray, model: str, radius_px: float, threshold_px: float
) -> Fit | None:
    """A transform near the identity that maps points1 (N, 2) to points0 (N, 2): weighted least squares while the
    distance beyond which a match counts nothing falls from 1.5 radius_px to 1.5 threshold_px; inliers agree to
    threshold_px. None when too few do.

    Graduated non-convexity (Blake & Zisserman 1987) where consensus of a few jumps between two optima: eyes bend, and
    no plane model fits all of their matches. "quadratic" is left to `fit_transform`."""
    points0, points1, H = np.asarray(points0, np.float64), np.asarray(points1, np.float64), np.eye(3)
    if model not in ("similarity", "affine", "homography"):
        return fit_transform(points0, points1, model, threshold_px)
    for limit_px in [*np.geomspace(radius_px, threshold_px, ROUNDS), *[threshold_px] * LAST_ROUNDS]:
        weight = tukey_weights(warp_points(points1, H), points0, limit_px)
        used = weight > 0
        if used.sum() < MIN_MATCHES[model]:
            return None
        H = least_squares(points0[used], points1[used], weight[used], model, H)
        if not invertible(H):
            return None
    fit = Fit(model, H, np.linalg.norm(warp_points(points1, H) - points0, axis=1) < threshold_px)
    return fit if fit.n_inliers >= MIN_MATCHES[model] else None


def refine(
    fit: Fit,
    points0: np.ndarray,
    points1: np.ndarray,
    maps: tuple[np.ndarray, np.ndarray],
    step: np.ndarray,
    stride: int,
    threshold_px: float,
) -> tuple[Fit, float]:
    """A fit of matches (N, 2) px refined on the detector's maps (h, w) of both pictures, cells of ``stride`` px,
    inliers counted anew; and the correlation of the maps then, at most 1.

    step: (3, 3) px of the moving picture → px of points1. Maximises the enhanced correlation coefficient of
    Evangelidis & Psarakis 2008 between the maps' `relief`, for the models of MOTIONS. A fit of another model comes back
    as it is, with the correlation of the maps as it lays them. The correlation is 0 where the search fails or strays.
    For another model that is an affine search which ends MISFIT_PX away: the model does not fit this pair. Inliers have
    no veto: matches near a poor fit speak against a better one far away.
    """
    to_px = resize_matrix((1, 1), (stride, stride))  # from cells
    start = np.linalg.inv(np.linalg.inv(to_px) @ fit.H_1to0 @ step @ to_px)  # OpenCV asks for 0 → 1
    places = corners([n * stride for n in maps[0].shape])
    for blurs, far_px in ATTEMPTS if fit.model in MOTIONS else ((ATTEMPTS[0][0], MISFIT_PX),):
        found, correlation = _climb(start, maps, MOTIONS.get(fit.model, cv2.MOTION_AFFINE), blurs)
        if correlation <= 0:
            continue
        H = to_px @ np.linalg.inv(found) @ np.linalg.inv(to_px) @ np.linalg.inv(step)
        moved = np.linalg.norm(warp_points(places, H) - warp_points(places, fit.H_1to0), axis=1)
        if not moved.max() <= far_px:  # also where it is not a number
            continue
        if fit.model not in MOTIONS:
            return fit, _correlation(fit, tuple(relief(m) for m in maps), step, stride)
        better = replace(fit, H_1to0=H / H[2, 2])
        return replace(better, inliers=better.residuals_px(points0, points1) < threshold_px), correlation
    return fit, 0.0


def relief(detector: np.ndarray, blur: float = 0.0) -> np.ndarray:
    """What is compared of a detector map (h, w), 0 outside the field of view: blurred (σ in cells), less a wider mean.

    Cube roots let faint junctions weigh beside bright ones. Without the mean around, neither the outline of the field
    of view nor a diffuse answer to noise is structure.
    """
    roots, seen = np.cbrt(np.maximum(detector, 0), dtype=np.float32), (detector > 0).astype(np.float32)

    def mean(sigma: float) -> np.ndarray:
        return smoothed(roots, sigma) / (smoothed(seen, sigma) + 1e-6)

    return ((mean(blur) if blur else roots) - mean(AROUND_CELLS * (1 + blur))) * seen


def smoothed(values: np.ndarray, sigma: float, border: int = cv2.BORDER_REFLECT_101) -> np.ndarray:
    """A map (h, w) smoothed by a Gaussian, σ in cells; a wide one on a smaller copy, which takes less time."""
    (h, w), times = values.shape, int(sigma / 3)
    if times < 2 or min(h, w) < 4 * times:
        return cv2.GaussianBlur(values, (0, 0), sigma, borderType=border)
    small = cv2.resize(values, (round(w / times), round(h / times)), interpolation=cv2.INTER_AREA)
    own = np.sqrt((sigma / times) ** 2 - 0.25)  # the two changes of size smooth by a σ of half a small cell
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), own, borderType=border), (w, h), interpolation=cv2.INTER_LINEAR)


def agreement(map0: np.ndarray, map1: np.ndarray, blur: float = 0.0) -> float:
    """Correlation of the reliefs of two maps (h, w) that lie on each other, where both show something; 0 where they
    have no structure or no common part. blur: as `relief`."""
    both = (map0 > 0) & (map1 > 0)
    return correlation(*(relief(m, blur)[both] for m in (map0, map1)))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of two reliefs (N,), whose means are about 0."""
    return float(one @ other) / max(float(np.sqrt((one @ one) * (other @ other))), 1e-12)


def _correlation(fit: Fit, maps: tuple[np.ndarray, np.ndarray], step: np.ndarray, stride: int) -> float:
    """Of map 0 and map 1 where both have cells once the fit has moved map 1; 0 where they have no structure or no
    common part."""
    map0, map1 = maps
    places0 = from_cells(pixel_grid(map0.shape).double().numpy(), stride).reshape(-1, 2)
    quadratic = fit.quadratic_0to1
    places1 = (
        warp_points(places0, np.linalg.inv(fit.H_1to0)) if quadratic is None else apply_quadratic(places0, quadratic)
    )
    cells = np.nan_to_num(to_cells(warp_points(places1, np.linalg.inv(step)), stride), nan=-1e6).reshape(*map0.shape, 2)
    known = inside(cells, map1.shape)
    values0, values1 = map0[known], cv2.remap(map1, cells.astype(np.float32), None, cv2.INTER_LINEAR)[known]
    flat = known.sum() < 2 or min(values0.std(), values1.std()) < 1e-9
    return 0.0 if flat else max(float(np.corrcoef(values0, values1)[0, 1]), 0.0)


def _climb(
    H_0to1: np.ndarray, maps: tuple[np.ndarray, np.ndarray], motion: int, blurs: Sequence[float]
) -> tuple[np.ndarray, float]:
    """(3, 3) cells of map 0 → cells of map 1 from H_0to1 uphill, on maps less and less blurred, and the correlation at
    the end; 0 where maps have no structure or no common part."""
    rows, correlation = 3 if motion == cv2.MOTION_HOMOGRAPHY else 2, 0.0
    for blur in blurs:
        stride = max(int(blur / 2), 1)  # blurred maps tell no more in every cell
        thin, thick = np.diag([1 / stride, 1 / stride, 1]), np.diag([stride, stride, 1])
        template, other = (np.ascontiguousarray(relief(m, blur)[::stride, ::stride]) for m in maps)
        try:
            start = thin @ (H_0to1 / H_0to1[2, 2]) @ thick
            correlation, found = cv2.findTransformECC(
                template, other, start[:rows].astype(np.float32), motion, LIMITS, None, 1
            )
            H_0to1 = thick @ as_homography(found) @ thin
        except (cv2.error, ValueError):
            if blur or correlation < AGREED or blurs != ATTEMPTS[-1][0]:
                return H_0to1, 0.0
            way = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP  # as they are, maps can be too rough for another step
            moved = cv2.warpPerspective(maps[1], H_0to1, maps[0].shape[::-1], flags=way)
            return H_0to1, max(agreement(maps[0], moved), 0.0)
    return H_0to1, float(correlation)
