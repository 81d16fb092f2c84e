"""Transforms: fitted to matches robustly, chosen, and judged."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from ..core.geometry import as_homography, describe, warp_points

MODELS = ("similarity", "affine", "homography", "quadratic")
MIN_MATCHES = {"similarity": 3, "affine": 4, "homography": 8, "quadratic": 20}
ESTIMATORS = {  # OpenCV's function, its method, and how many rounds it may take
    "similarity": (cv2.estimateAffinePartial2D, cv2.RANSAC, 3000),
    "affine": (cv2.estimateAffine2D, cv2.USAC_MAGSAC, 5000),
    "homography": (cv2.findHomography, cv2.USAC_MAGSAC, 5000),
}
MAX_SCALE, MAX_ANISOTROPY, MAX_PERSPECTIVE = 4.0, 1.5, 0.25  # beyond them no two pictures of one eye differ


@dataclass(frozen=True)
class Fit:
    """A transform and the matches that agree with it. H_1to0: (3, 3); inliers: (N,) bool; the quadratic model has (6,
    2) coefficients of 1, x, y, x², xy, y² on top, and H_1to0 is then its affine part."""

    model: str
    H_1to0: np.ndarray
    inliers: np.ndarray
    quadratic_1to0: np.ndarray | None = None
    quadratic_0to1: np.ndarray | None = None

    @property
    def n_inliers(self) -> int:
        return int(self.inliers.sum())

    def residuals_px(self, points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
        """(N,) distances of mapped points1 from points0."""
        quadratic = self.quadratic_1to0
        mapped = warp_points(points1, self.H_1to0) if quadratic is None else apply_quadratic(points1, quadratic)
        return np.linalg.norm(mapped - points0, axis=1)


def fit_transform(points0: np.ndarray, points1: np.ndarray, model: str, threshold_px: float) -> Fit | None:
    """Robust transform that maps points1 (N, 2) to points0 (N, 2); None without agreement, or for points on a line.

    similarity: RANSAC; affine and homography: OpenCV USAC_MAGSAC (Barath et al. 2020); quadratic: least squares on the
    affine inliers, or the affine fit where those are too few. Equal input gives equal output.
    """
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}; there are {', '.join(MODELS)}")
    points0, points1 = np.asarray(points0, np.float64), np.asarray(points1, np.float64)
    least = MIN_MATCHES["affine" if model == "quadratic" else model]
    if len(points0) < least:
        return None
    source, target = (np.ascontiguousarray(p, np.float32) for p in (points1, points0))
    estimate, method, rounds = ESTIMATORS.get(model, ESTIMATORS["affine"])
    limits = {"ransacReprojThreshold": threshold_px, "maxIters": rounds, "confidence": 0.999}
    matrix, mask = estimate(source, target, method=method, **limits)
    if not invertible(matrix) or mask.sum() < least:
        return None
    fit = _polish(Fit(model, as_homography(matrix), mask.ravel().astype(bool)), points0, points1, threshold_px)
    return fit if invertible(fit.H_1to0) and fit.n_inliers >= MIN_MATCHES[fit.model] else None


def invertible(matrix: np.ndarray | None) -> bool:
    """Whether a (2, 3) or (3, 3) matrix was found and has an inverse."""
    if matrix is None or not np.isfinite(matrix).all():
        return False
    return abs(np.linalg.det(matrix if matrix.shape == (3, 3) else matrix[:, :2])) >= 1e-6


def _polish(fit: Fit, points0, points1, threshold_px) -> Fit:
    """Three rounds of weighted least squares on the consistent matches; inliers are re-counted."""
    H, linear = fit.H_1to0, "affine" if fit.model == "quadratic" else fit.model
    for _ in range(3):
        weight = tukey_weights(warp_points(points1, H), points0, threshold_px)
        used = weight > 0
        if used.sum() < MIN_MATCHES[linear]:
            return replace(fit, model=linear)
        H = least_squares(points0[used], points1[used], weight[used], linear, H)
    mapped = warp_points(points1, H)
    inliers = np.linalg.norm(mapped - points0, axis=1) < threshold_px
    if fit.model != "quadratic" or inliers.sum() < MIN_MATCHES["quadratic"]:
        return Fit(linear, H, inliers)
    for _ in range(3):
        weight = tukey_weights(mapped, points0, threshold_px)
        used = weight > 0
        forward = _fit_quadratic(points1[used], points0[used], weight[used])
        mapped = apply_quadratic(points1, forward)
    inliers = np.linalg.norm(mapped - points0, axis=1) < threshold_px
    return Fit("quadratic", H, inliers, forward, _fit_quadratic(points0[used], points1[used], weight[used]))


def tukey_weights(mapped, points0, threshold_px) -> np.ndarray:
    """(N,) in [0, 1]: 1 for a perfect match, falling to 0 at 1.5 thresholds; 0 for a point behind the horizon."""
    residual = np.nan_to_num(np.linalg.norm(mapped - points0, axis=1), nan=np.inf)
    return np.clip(1 - (residual / (1.5 * threshold_px)) ** 2, 0, None) ** 2


def _solve(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Least-squares solution of A x = b of least norm; in torch for the reason given in `similarities`."""
    columns = torch.from_numpy(b.reshape(len(b), -1))
    solution = torch.linalg.lstsq(torch.from_numpy(A), columns, driver="gelsd").solution
    return solution.numpy().reshape(A.shape[1], *b.shape[1:])


def least_squares(points0, points1, weight, model, H) -> np.ndarray:
    """(3, 3) weighted least-squares transform of one model; a homography is linearised about H."""
    if model == "similarity":  # a product of complex numbers
        z0, z1 = (np.ascontiguousarray(p).view(complex).ravel() for p in (points0, points1))
        mean0, mean1 = ((weight * z).sum() / weight.sum() for z in (z0, z1))
        off = (z1 - mean1).conj() * weight
        turn = (off @ (z0 - mean0)) / max((off @ (z1 - mean1)).real, 1e-12)
        shift = mean0 - turn * mean1
        return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0, 0, 1]])
    w = np.sqrt(weight)[:, None]
    x, y, one, zero = points1[:, 0], points1[:, 1], np.ones(len(points1)), np.zeros(len(points1))
    if model == "affine":
        solution = _solve(np.stack([x, y, one], 1) * w, points0 * w)
        return np.vstack([solution.T, [0, 0, 1]])
    depth = 1 / np.maximum(np.stack([x, y, one], 1) @ H[2], 1e-6)[:, None]  # turns algebraic into geometric residuals
    u, v = points0[:, 0], points0[:, 1]
    row_u = np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 1) * w * depth
    row_v = np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 1) * w * depth
    scale = np.maximum(np.abs(np.concatenate([row_u, row_v])).max(0), 1e-12)
    right = (points0 * w * depth).T.ravel()
    return np.append(_solve(np.concatenate([row_u, row_v]) / scale, right) / scale, 1).reshape(3, 3)


def _quadratic_terms(points: np.ndarray) -> np.ndarray:
    x, y = points[:, 0] / 100, points[:, 1] / 100
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)


def _fit_quadratic(source: np.ndarray, target: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
    w = np.sqrt(np.broadcast_to(weight, len(source)))[:, None]
    return _solve(_quadratic_terms(source) * w, target * w)


def apply_quadratic(points_xy: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Map (N, 2) points by (6, 2) coefficients; x and y count in hundreds of px (Can et al. 2002, eq. 1)."""
    return _quadratic_terms(np.asarray(points_xy, np.float64)) @ coefficients


def implausible(H_1to0: np.ndarray, image1_hw) -> str:
    """Why a transform cannot be one between two images of an eye: "" when it can, else a reason in words."""
    shape = describe(H_1to0, image1_hw)
    if shape.mirrored:
        return "the transform mirrors the image"
    if not 1 / MAX_SCALE <= shape.scale <= MAX_SCALE:
        return f"scale {shape.scale:.3g} is not within 1/{MAX_SCALE:g} and {MAX_SCALE:g}"
    if shape.anisotropy > MAX_ANISOTROPY:
        return f"stretch {shape.anisotropy:.2f} is beyond {MAX_ANISOTROPY:g}"
    if shape.perspective > MAX_PERSPECTIVE:
        return f"perspective {shape.perspective:.2f} is beyond {MAX_PERSPECTIVE:g}"
    return ""
