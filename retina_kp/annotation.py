"""Hand-picked point pairs as truth: the transform they define, how well they agree with it, and which pairs are too bad to train on."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from .geometry import as_homography, jacobian, warp_points
from .images import image_size
from .records import PairRecord, Problem

HOMOGRAPHY_POINTS = 6  # with fewer point pairs, or with badly spread ones, a similarity is fitted
MIN_SPREAD = 0.05  # rms distance of the points from their best line, over the longer side of image 1
RANSAC_THRESHOLD = 0.01  # of the longer side of image 1
LONGER_SIDE_PX = 768  # residuals are given as if image 1's longer side measured so much


def true_homography(record: PairRecord) -> np.ndarray:
    """(3, 3) original px of image 0 → original px of image 1: H_0to1 of the record, else fitted to its point pairs.

    From HOMOGRAPHY_POINTS well-spread pairs on a homography by RANSAC, below a similarity (at least 3 pairs). ValueError, with the pair's
    id, when there is neither matrix nor points, or when the points define no transform of a retina (none found, or a mirrored one).
    """
    if record.H_0to1 is not None:
        return record.H_0to1
    if record.points0_xy is None:
        raise ValueError(f"{record.pair_id}: has neither H_0to1 nor point pairs, so its true transform is unknown; leave it out")
    if len(record.points0_xy) < 3:
        raise ValueError(f"{record.pair_id}: {len(record.points0_xy)} point pairs define no transform; at least 3 are needed")
    side_px = max(image_size(record.image1))
    H = _fit(record.points0_xy, record.points1_xy, side_px)
    if H is None:
        raise ValueError(f"{record.pair_id}: no transform fits its point pairs; look at them on the images")
    if np.linalg.det(jacobian(H, record.points0_xy.mean(0))) <= 0:
        raise ValueError(f"{record.pair_id}: its point pairs mirror the retina; check their order and which image is image 0")
    return H


def _fit(points0: np.ndarray, points1: np.ndarray, side_px: float) -> np.ndarray | None:
    """The transform of `true_homography`, or None when the points define none."""
    threshold_px = RANSAC_THRESHOLD * side_px
    if len(points0) < 3:
        return None
    if len(points0) >= HOMOGRAPHY_POINTS and _spread(points1) >= MIN_SPREAD * side_px:
        H, _ = cv2.findHomography(points0, points1, cv2.RANSAC, threshold_px)
    else:
        H, _ = cv2.estimateAffinePartial2D(points0, points1, method=cv2.RANSAC, ransacReprojThreshold=threshold_px)
    try:
        return None if H is None else as_homography(H)
    except ValueError:
        return None


def _spread(points: np.ndarray) -> float:
    """Root mean square distance (px) of points (N, 2) from the line that fits them best."""
    return float(np.linalg.svd(points - points.mean(0), compute_uv=False)[-1] / np.sqrt(len(points)))


def leave_one_out_residual(record: PairRecord) -> float:
    """Median distance (px, image 1 at 768) between each point and where the transform of the other points puts it: how good an annotation
    is. inf when the rest defines no transform, NaN for a record without points."""
    if record.points0_xy is None:
        return float("nan")
    side_px, errors = max(image_size(record.image1)), []
    for k in range(len(record.points0_xy)):
        rest = np.arange(len(record.points0_xy)) != k
        H = _fit(record.points0_xy[rest], record.points1_xy[rest], side_px)
        put = None if H is None else warp_points(record.points0_xy[k : k + 1], H)
        errors.append(np.inf if put is None else float(np.linalg.norm(put - record.points1_xy[k : k + 1])))
    return float(np.median(errors)) * LONGER_SIDE_PX / side_px


def screen(records: Iterable[PairRecord], max_residual_px: float) -> tuple[list[PairRecord], list[dict], list[Problem]]:
    """Records fit for training, one row per record (pair_id, points, residual_px, used), and why the others are left out.

    Left out: no transform, or a leave-one-out residual above max_residual_px (px at 768).
    """
    used, rows, problems = [], [], []
    for record in records:
        residual, why = leave_one_out_residual(record), ""
        try:
            true_homography(record)
        except ValueError as error:
            why = str(error)
        if not why and residual > max_residual_px:
            why = f"{record.pair_id}: leave-one-out residual {residual:.1f} px is above {max_residual_px:g} px; check its points"
        count = 0 if record.points0_xy is None else len(record.points0_xy)
        rows.append({"pair_id": record.pair_id, "points": count, "residual_px": round(residual, 2), "used": not why})
        if why:
            problems.append(Problem(str(record.image1), why))
        else:
            used.append(record)
    return used, rows, problems
