"""What a registration is worth: definitions in plain numpy.

Errors are distances in fixed-image pixels after rescaling the fixed image's longer side to a stated length: 768 px
unless told otherwise. A pair without a transform has a mean error of infinity, so it sits in every denominator. The
scores of keypoints (repeatability, inlier rate, matching score) measure in unscaled pixels of the fixed image, image 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..core.geometry import inside, warp_points

LONGER_SIDE_PX = 768  # the length errors are normalised to
STRICT_SIDE_PX = 512  # the length the strict limits belong to
FIRE_SIDE_PX = 2912  # the length of FIRE's own tables
MEDIAN_LIMIT_PX, MAX_LIMIT_PX = 20.0, 50.0  # acceptable, at 768
STRICT_MEAN_LIMIT_PX, STRICT_MAX_LIMIT_PX = 5.0, 10.0  # SR_ME and SR_MAE, at 512
FIRE_CATEGORIES = ("S", "P", "A")
RIGHT_PX = 5.0  # mean error of the corners up to which a registration of a synthetic pair is a success
FOUND_PX = 20.0  # the confidence is the probability of a mean error up to this

# ------------------------------------------------------------------ one pair


def point_errors(H_1to0, points1_xy, points0_xy, fixed_hw, longer_side: float = LONGER_SIDE_PX) -> np.ndarray | None:
    """Distances between moved and true points, as if the fixed image's longer side measured ``longer_side`` px.

    H_1to0: (3, 3) moving px → fixed px, or None when there is no transform (the answer is None too). points1_xy,
    points0_xy: (N, 2) px in the moving and the fixed image, N ≥ 1; fixed_hw: size of the fixed image. Returns (N,) px;
    a point behind the horizon has an infinite error. ValueError when the two point lists do not pair up.
    """
    points1_xy, points0_xy = np.asarray(points1_xy, np.float64), np.asarray(points0_xy, np.float64)
    if points1_xy.shape != points0_xy.shape or points0_xy.shape[1:] != (2,) or len(points0_xy) == 0:
        raise ValueError(
            f"point pairs need two lists of shape (N, 2) with N >= 1, not {points1_xy.shape} and {points0_xy.shape}"
        )
    if H_1to0 is None:
        return None
    distances = np.linalg.norm(warp_points(points1_xy, H_1to0) - points0_xy, axis=1)
    return np.nan_to_num(distances, nan=np.inf, posinf=np.inf) * longer_side / max(fixed_hw)


def judge(errors: np.ndarray | None) -> str:
    """SuperRetina's verdict: failed without a transform, inaccurate when median > 20 or max > 50, else acceptable.

    errors: (N,) px at longer side 768, or None. A non-finite error is beyond every limit.
    """
    if errors is None:
        return "failed"
    return "acceptable" if np.median(errors) <= MEDIAN_LIMIT_PX and np.max(errors) <= MAX_LIMIT_PX else "inaccurate"


def error_columns(errors: np.ndarray | None) -> dict:
    """What a row of a table holds of a pair's errors (N,): all, mean, median and largest, infinite without errors."""
    if errors is None:
        return {"errors_px": None, "mean_px": np.inf, "median_px": np.inf, "max_px": np.inf}
    means = {f"{name}_px": float(f(errors)) for name, f in (("mean", np.mean), ("median", np.median), ("max", np.max))}
    return {"errors_px": errors, **means}


# ------------------------------------------------------------------ many pairs


def auc25(mean_errors) -> np.ndarray:
    """FIRE's score of each pair: share of the limits i = 1…25 px that its mean error is below; the table's is the mean.

    mean_errors: (P,) px, infinite or NaN for failed pairs. Returns (P,) in [0, 1]. FIRE (Hernandez-Matas et al. 2017)
    takes errors at 2912 px (`FIRE_SIDE_PX`), this project's own tables at 768.
    """
    return (np.asarray(mean_errors, np.float64)[:, None] < np.arange(1, 26)).mean(1)


def auc_at(mean_errors, limit_px: float) -> np.ndarray:
    """Each pair's part of the exact area under the recall curve (share of pairs with mean error ≤ t) up to limit_px.

    mean_errors: (P,) px, infinite or NaN for failed pairs. The curve is a staircase, so a pair adds the part of the
    interval that lies right of its error. Returns (P,) in [0, 1]; the table's score is the mean.
    """
    errors = np.nan_to_num(np.asarray(mean_errors, np.float64), nan=np.inf)
    return np.clip(1 - errors / limit_px, 0, 1)


@dataclass(frozen=True)
class Score:
    """A column of result tables: the mean over pairs of a value per pair. meaning: the sentence that explains it; of:
    DataFrame of rows (mean_px, max_px, outcome, trusted) → (P,) values; verdict: they are 0 or 1."""

    meaning: str
    of: Callable
    verdict: bool = True


def _answered(rows):
    return rows.outcome.isin(("acceptable", "inaccurate"))


def _strict_mean(rows):
    return rows.mean_px * STRICT_SIDE_PX / LONGER_SIDE_PX <= STRICT_MEAN_LIMIT_PX


def _strict_max(rows):
    return rows.max_px * STRICT_SIDE_PX / LONGER_SIDE_PX <= STRICT_MAX_LIMIT_PX


def _at_fire(rows):
    return rows.mean_px * FIRE_SIDE_PX / LONGER_SIDE_PX


RATES = {
    "acceptable": Score(
        "share with median error at most 20 px and largest at most 50 px (SuperRetina's rule)",
        lambda rows: rows.outcome == "acceptable",
    ),
    "inaccurate": Score("share with a transform that is not acceptable", lambda rows: rows.outcome == "inaccurate"),
    "wrong_accepted": Score(
        "part of inaccurate that the method called good: the worst outcome",
        lambda rows: (rows.outcome == "inaccurate") & rows.trusted,
    ),
    "failed": Score("share without a transform, refused ones included", lambda rows: ~_answered(rows)),
    "refused": Score("part of failed that the method declined to answer", lambda rows: rows.outcome == "refused"),
}
AREAS = {
    "sr_me": Score("share with mean error at most 5 px at 512", _strict_mean),
    "sr_mae": Score("share with largest error at most 10 px at 512", _strict_max),
    "strict": Score("share with both", lambda rows: _strict_mean(rows) & _strict_max(rows)),
    "auc25": Score("mean share with mean error below i = 1 to 25 px at 768", lambda rows: auc25(rows.mean_px), False),
    "auc25_fire": Score("the same at 2912 px, as in FIRE's tables", lambda rows: auc25(_at_fire(rows)), False),
    "auc@5": Score("area under the recall curve up to 5 px, over 5", lambda rows: auc_at(rows.mean_px, 5), False),
    "auc@10": Score("the same up to 10 px", lambda rows: auc_at(rows.mean_px, 10), False),
    "auc@20": Score("the same up to 20 px", lambda rows: auc_at(rows.mean_px, 20), False),
}
SCORES = {
    **RATES,
    **AREAS,
    "success": Score("share with mean error at most 5 px", lambda rows: rows.mean_px <= RIGHT_PX),
    "within_2px": Score("share with mean error at most 2 px", lambda rows: rows.mean_px <= 2),
    "wrong": Score("share with a transform beyond 5 px", lambda rows: _answered(rows) & (rows.mean_px > RIGHT_PX)),
    "far": Score("share with a transform beyond 20 px", lambda rows: _answered(rows) & (rows.mean_px > FOUND_PX)),
}

# ------------------------------------------------------------------ keypoints, matches and masks


def repeatability(points0_xy, points1_xy, H_0to1, hw0, hw1, threshold_px: float = 5.0) -> float:
    """Share of the detected points which both images see that have a detection of the other image nearby.

    points0_xy: (N, 2), points1_xy: (M, 2) px, each in its own image; H_0to1: true (3, 3); hw0, hw1: image sizes. The
    points of both images count together and all distances are taken in image 0. Returns [0, 1]; 0 when no point is
    seen by both, so that a silent detector scores nothing.
    """
    seen0, seen1 = _seen_by_both(points0_xy, points1_xy, H_0to1, hw0, hw1)
    total = int(seen0.sum() + seen1.sum())
    if total == 0 or len(seen0) == 0 or len(seen1) == 0:
        return 0.0
    points1_in0 = warp_points(points1_xy, np.linalg.inv(H_0to1))
    dx, dy = (np.subtract.outer(np.asarray(points0_xy)[:, k], points1_in0[:, k]) for k in (0, 1))
    near = np.hypot(dx, dy) <= threshold_px
    return float((near.any(1)[seen0].sum() + near.any(0)[seen1].sum()) / total)


def inlier_rate(matches0_xy, matches1_xy, H_0to1, threshold_px: float = 5.0) -> float:
    """MIR: share of the matches (N, 2) px, row by row one spot, that agree with the true H_0to1 (3, 3) within
    threshold_px of image 0; 0 when there is no match."""
    correct = _correct_matches(matches0_xy, matches1_xy, H_0to1, threshold_px)
    return float(correct.mean()) if len(correct) else 0.0


def matching_score(
    matches0_xy, matches1_xy, points0_xy, points1_xy, H_0to1, hw0, hw1, threshold_px: float = 5.0
) -> float:
    """Correct matches divided by the detected points in the overlap, averaged over the two images.

    matches: (K, 2) px each, points: all detections, (N, 2) and (M, 2) px; H_0to1: true (3, 3); hw0, hw1: image sizes. A
    match counts for an image only when its point there lies in the overlap. Returns [0, 1] for one-to-one matches; an
    image without detections in the overlap adds 0. The symmetric form is SuperPoint's (DeTone et al. 2018, appendix).
    """
    correct = _correct_matches(matches0_xy, matches1_xy, H_0to1, threshold_px)
    in_overlap = _seen_by_both(matches0_xy, matches1_xy, H_0to1, hw0, hw1)
    detected = _seen_by_both(points0_xy, points1_xy, H_0to1, hw0, hw1)
    shares = [(correct & own).sum() / max(points.sum(), 1) for own, points in zip(in_overlap, detected, strict=True)]
    return float(np.mean(shares))


def vessel_dice(mask0, warped_mask1, valid) -> float:
    """Dice of two vessel maps where both images see the retina.

    mask0, warped_mask1: (H, W) vessel maps in the fixed frame, vessel where > 0.5 (or bool); valid: (H, W) bool
    overlap. Returns [0, 1], NaN when neither map has a vessel in the overlap. ValueError when the shapes differ.
    """
    mask0, mask1, valid = (np.asarray(m) for m in (mask0, warped_mask1, valid))
    if not mask0.shape == mask1.shape == valid.shape:
        raise ValueError(f"masks of one frame must have one shape, not {mask0.shape}, {mask1.shape} and {valid.shape}")
    vessels0, vessels1 = mask0[valid.astype(bool)] > 0.5, mask1[valid.astype(bool)] > 0.5
    total = int(vessels0.sum() + vessels1.sum())
    return float(2 * (vessels0 & vessels1).sum() / total) if total else float("nan")


def _correct_matches(matches0_xy, matches1_xy, H_0to1, threshold_px: float) -> np.ndarray:
    """(N,) bool: the moving end of a match, taken to image 0 by the truth, lies near the fixed end."""
    matches0_xy, matches1_xy = np.reshape(matches0_xy, (-1, 2)), np.reshape(matches1_xy, (-1, 2))
    return np.linalg.norm(warp_points(matches1_xy, np.linalg.inv(H_0to1)) - matches0_xy, axis=1) <= threshold_px


def _seen_by_both(points0_xy, points1_xy, H_0to1, hw0, hw1) -> tuple[np.ndarray, np.ndarray]:
    """Two bool arrays: which points of image 0, and of image 1, lie within the frames of both images."""
    points0_xy, points1_xy = (np.reshape(np.asarray(p, np.float64), (-1, 2)) for p in (points0_xy, points1_xy))
    seen0 = inside(points0_xy, hw0) & inside(warp_points(points0_xy, H_0to1), hw1)
    seen1 = inside(points1_xy, hw1) & inside(warp_points(points1_xy, np.linalg.inv(H_0to1)), hw0)
    return seen0, seen1
