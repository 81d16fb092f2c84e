"""Hand-picked point pairs as truth: the transform they define, how well they agree with it, and which pairs are too bad
to train on."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from ..core.geometry import as_homography, jacobian, warp_points
from ..core.images import image_size
from .records import PairRecord, Problem

HOMOGRAPHY_POINTS = 6  # with fewer point pairs, or with badly spread ones, a similarity is fitted
MIN_SPREAD = 0.05  # rms distance of the points from their best line, over the longer side of image 1
# of the longer side of image 1; at 0.01 clicks that are 2 px off bend the homography (measured)
RANSAC_THRESHOLD = 0.02
# a simpler model replaces the homography when its leave-one-out residual is below this share of the homography's
SIMPLER_WINS = 0.95
LONGER_SIDE_PX = 768  # residuals are given as if the longer side of their image measured so much


def true_homography(record: PairRecord) -> np.ndarray:
    """(3, 3) original px of image 0 → original px of image 1: H_0to1 of the record, else fitted to its point pairs by
    RANSAC.

    From HOMOGRAPHY_POINTS well-spread pairs on a homography, unless leaving each point out in turn shows that a simpler
    model predicts better (clicks are noisy, and noise bends homographies); below, a similarity (at least 3 pairs).
    ValueError, with the pair's id, when there is neither matrix nor points, or when the points define no transform of a
    retina (none found, or a mirrored one).
    """
    if record.H_0to1 is not None:
        return record.H_0to1
    if record.points0_xy is None:
        raise ValueError(
            f"{record.pair_id}: has neither H_0to1 nor point pairs, so its true transform is unknown; leave it out"
        )
    if len(record.points0_xy) < 3:
        raise ValueError(
            f"{record.pair_id}: {len(record.points0_xy)} point pairs define no transform; at least 3 are needed"
        )
    side_px = max(image_size(record.image1))
    model, _ = _choose_model(record.points0_xy, record.points1_xy, side_px)
    H = _fit(model, record.points0_xy, record.points1_xy, side_px)
    if H is None:
        raise ValueError(f"{record.pair_id}: no transform fits its point pairs; look at them on the images")
    if np.linalg.det(jacobian(H, record.points0_xy.mean(0))) <= 0:
        raise ValueError(
            f"{record.pair_id}: its point pairs mirror the retina; check their order and which image is image 0"
        )
    return H


def chosen_model(record: PairRecord) -> str:
    """ "homography", "affine" or "similarity": what `true_homography` fits to a record's points; "none" for fewer than
    three."""
    if record.points0_xy is None or len(record.points0_xy) < 3:
        return "none"
    return _choose_model(record.points0_xy, record.points1_xy, max(image_size(record.image1)))[0]


def _fit(model: str, points0: np.ndarray, points1: np.ndarray, side_px: float) -> np.ndarray | None:
    """A RANSAC transform of one model, or None when the points define none."""
    threshold_px = RANSAC_THRESHOLD * side_px
    if len(points0) < {"similarity": 3, "affine": 4, "homography": 5}[model]:
        return None
    if model == "homography":
        H, _ = cv2.findHomography(points0, points1, cv2.RANSAC, threshold_px)
    else:
        estimate = cv2.estimateAffinePartial2D if model == "similarity" else cv2.estimateAffine2D
        H, _ = estimate(points0, points1, method=cv2.RANSAC, ransacReprojThreshold=threshold_px)
    try:
        return None if H is None else as_homography(H)
    except ValueError:
        return None


def _choose_model(points0: np.ndarray, points1: np.ndarray, side_px: float) -> tuple[str, float]:
    """The model of `true_homography` and its leave-one-out residual in px of image 1."""
    spread = len(points0) >= HOMOGRAPHY_POINTS and _spread(points1) >= MIN_SPREAD * side_px
    chosen, best = "similarity", np.inf
    for model in ("homography", "affine", "similarity") if spread else ("similarity",):
        residual = _left_out(model, points0, points1, side_px)
        if residual < SIMPLER_WINS * best:
            chosen, best = model, residual
    return chosen, best


def _left_out(model: str, points0: np.ndarray, points1: np.ndarray, side_px: float) -> float:
    """Median distance (px of image 1) between each point and where the transform of the others puts it; inf where they
    define none."""
    transforms = _without_each(model, points0, points1, side_px)
    return float(
        np.median([np.inf if H is None else _gap(points0[k], points1[k], H) for k, H in enumerate(transforms)])
    )


def _without_each(model: str, points0: np.ndarray, points1: np.ndarray, side_px: float) -> list[np.ndarray | None]:
    """For each point the transform of the others, None where they define none."""
    others = [np.arange(len(points0)) != k for k in range(len(points0))]
    return [_fit(model, points0[rest], points1[rest], side_px) for rest in others]


def _gap(point_from: np.ndarray, point_to: np.ndarray, H: np.ndarray) -> float:
    """Distance (px of the frame that H leads to) between a mapped point and its partner."""
    return float(np.linalg.norm(warp_points(point_from[None], H) - point_to))


def _spread(points: np.ndarray) -> float:
    """Root mean square distance (px) of points (N, 2) from the line that fits them best."""
    return float(np.linalg.svd(points - points.mean(0), compute_uv=False)[-1] / np.sqrt(len(points)))


def leave_one_out_residual(record: PairRecord) -> float:
    """Median distance (px, image 1 at 768) between each point and where the transform of the other points puts it: how
    good an annotation is. inf when the rest defines no transform, NaN for a record without points."""
    if record.points0_xy is None:
        return float("nan")
    side_px = max(image_size(record.image1))
    return _choose_model(record.points0_xy, record.points1_xy, side_px)[1] * LONGER_SIDE_PX / side_px


def fixed_residuals(record: PairRecord) -> np.ndarray:
    """(N,) what the annotation leaves open where registrations are judged: distance between each point of the fixed
    image and where the transform of the other points puts its partner, px of a fixed image (image 0) at 768. inf where
    the others define no transform; empty for a record without points. The transform is the one whose residual
    `leave_one_out_residual` gives in px of image 1."""
    if record.points0_xy is None:
        return np.zeros(0)
    side_px = max(image_size(record.image1))
    model, _ = _choose_model(record.points0_xy, record.points1_xy, side_px)
    transforms = _without_each(model, record.points0_xy, record.points1_xy, side_px)
    pairs = zip(record.points1_xy, record.points0_xy, transforms, strict=True)
    gaps = [np.inf if H is None else _gap(point1, point0, np.linalg.inv(H)) for point1, point0, H in pairs]
    return np.array(gaps) * LONGER_SIDE_PX / max(image_size(record.image0))


def screen(records: Iterable[PairRecord], max_residual_px: float) -> tuple[list[PairRecord], list[dict], list[Problem]]:
    """Records fit for training, one row per record (pair_id, points, model of the transform, residual_px, used), and
    why the others are left out.

    Left out: no transform, or a leave-one-out residual above max_residual_px (px at 768). The model is "given" where
    the record holds a transform; below HOMOGRAPHY_POINTS well-spread points it stays a similarity.
    """
    used, rows, problems = [], [], []
    for record in records:
        residual, why, model = leave_one_out_residual(record), "", "given"
        if record.H_0to1 is None:
            model = chosen_model(record)
        try:
            true_homography(record)
        except ValueError as error:
            why = str(error)
        if not why and residual > max_residual_px:
            why = f"{record.pair_id}: leave-one-out residual {residual:.1f} px is above {max_residual_px:g} px; check its points"
        count = 0 if record.points0_xy is None else len(record.points0_xy)
        rows.append(
            {
                "pair_id": record.pair_id,
                "points": count,
                "model": model,
                "residual_px": round(residual, 2),
                "used": not why,
            }
        )
        if why:
            problems.append(Problem(str(record.image1), why))
        else:
            used.append(record)
    return used, rows, problems
