"""The last pixels: one fit of all matches that drops those far away little by little, then a transform moved until the detector's two maps
lie on each other, all of their structure at once."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from .geometry import as_homography, corners, similarity, warp_points
from .matching import MIN_MATCHES, Fit, fit_transform, invertible, least_squares, tukey_weights

MOTIONS = {"affine": cv2.MOTION_AFFINE, "homography": cv2.MOTION_HOMOGRAPHY}  # OpenCV has no such search for the other models
BLUR_CELLS = 1.0  # Gaussian on both maps: its basin must hold the error that matches leave
MAX_MOVE_PX = 25.0  # of the corners; farther away it is another optimum
ROUNDS, LAST_ROUNDS = 7, 2  # of least squares while the limit falls, and at its end
LIMITS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)


def fit_gradually(points0: np.ndarray, points1: np.ndarray, model: str, radius_px: float, threshold_px: float) -> Fit | None:
    """A transform near the identity that maps points1 (N, 2) to points0 (N, 2): weighted least squares while the distance beyond which a
    match counts nothing falls from 1.5 radius_px to 1.5 threshold_px; inliers agree to threshold_px. None when too few do.

    Graduated non-convexity (Blake & Zisserman 1987) where consensus of a few jumps between two optima: eyes bend, and no plane model fits
    all of their matches. "quadratic" and "auto" are left to `fit_transform`."""
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


def refine(fit: Fit, points0: np.ndarray, points1: np.ndarray, maps: tuple[np.ndarray, np.ndarray], drawn: np.ndarray, stride: int,
           threshold_px: float) -> tuple[Fit, float]:  # fmt: skip
    """A fit of matches (N, 2) px refined on the detector's maps (h, w) of both pictures, cells of ``stride`` px, inliers counted anew; and
    the correlation of the maps then, at most 1.

    drawn: (3, 3) px of the moving picture → px of points1. Maximises the enhanced correlation coefficient of Evangelidis & Psarakis 2008,
    by an affine transform where the fit's own model is not among MOTIONS. The fit comes back as it is for such a model, with correlation 0
    where the search fails, and where it strays.
    """
    px_from_cells = similarity(0, stride, (0, 0), ((stride - 1) / 2, (stride - 1) / 2))
    start = np.linalg.inv(np.linalg.inv(px_from_cells) @ fit.H_1to0 @ drawn @ px_from_cells)  # OpenCV asks for 0 → 1
    motion = MOTIONS.get(fit.model, cv2.MOTION_AFFINE)
    rows = 3 if motion == cv2.MOTION_HOMOGRAPHY else 2
    template, other = (cv2.GaussianBlur(np.asarray(m, np.float32), (0, 0), BLUR_CELLS) for m in maps)
    try:
        start = (start / start[2, 2])[:rows].astype(np.float32)
        correlation, found = cv2.findTransformECC(template, other, start, motion, LIMITS, None, 1)
        H = px_from_cells @ np.linalg.inv(as_homography(found)) @ np.linalg.inv(px_from_cells) @ np.linalg.inv(drawn)
    except (cv2.error, ValueError):  # maps without structure, or no common part
        return fit, 0.0
    places = corners([n * stride for n in template.shape])
    moved = np.linalg.norm(warp_points(places, H) - warp_points(places, fit.H_1to0), axis=1)
    if not moved.max() <= MAX_MOVE_PX:  # also where it is not a number
        return fit, 0.0
    if fit.model not in MOTIONS:
        return fit, float(correlation)
    better = replace(fit, H_1to0=H / H[2, 2])
    better = replace(better, inliers=better.residuals_px(points0, points1) < threshold_px)
    return (better, float(correlation)) if 2 * better.n_inliers >= fit.n_inliers else (fit, 0.0)
