"""What a registration is worth: definitions in plain numpy, and nothing else.

Errors are distances in fixed-image pixels after rescaling the fixed image's longer side to a stated length: 768 px
unless told otherwise. A pair without a transform has ``errors=None`` and a mean error of infinity, so it sits in every
denominator. The image-pair scores (repeatability, inlier rate, matching score) measure in unscaled pixels of image 0,
the fixed image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from retina_kp.core import geometry

LONGER_SIDE_PX = 768  # the length errors are normalised to
STRICT_SIDE_PX = 512  # the length the strict limits belong to
FIRE_SIDE_PX = 2912  # the length of FIRE's own tables
MEDIAN_LIMIT_PX, MAX_LIMIT_PX = 20.0, 50.0  # acceptable, at 768
STRICT_MEAN_LIMIT_PX, STRICT_MAX_LIMIT_PX = 5.0, 10.0  # SR_ME and SR_MAE, at 512
FIRE_CATEGORIES = ("S", "P", "A")

# the scores that are 0 or 1
VERDICTS = ("failed", "refused", "inaccurate", "acceptable", "wrong_accepted", "sr_me", "sr_mae", "strict")

Verdict = Literal["failed", "inaccurate", "acceptable"]

# ------------------------------------------------------------------ one pair, against annotated points


def point_errors(H_1to0, points1_xy, points0_xy, fixed_hw, longer_side: float = LONGER_SIDE_PX) -> np.ndarray | None:
    """Distances between moved and true points, as if the fixed image's longer side measured ``longer_side`` px.

    H_1to0: (3, 3) moving px → fixed px, or None when there is no transform (the answer is None too). points1_xy,
    points0_xy: (N, 2) px in the moving and the fixed image, N ≥ 1; fixed_hw: size of the fixed image. Returns (N,) px ≥
    0; a point that the transform sends behind the horizon has an infinite error. ValueError when the two point lists do
    not pair up.
    """
    points1_xy, points0_xy = np.asarray(points1_xy, np.float64), np.asarray(points0_xy, np.float64)
    if (
        points1_xy.shape != points0_xy.shape
        or points0_xy.ndim != 2
        or points0_xy.shape[1:] != (2,)
        or len(points0_xy) == 0
    ):
        raise ValueError(
            f"point pairs need two lists of shape (N, 2) with N >= 1, not {points1_xy.shape} and {points0_xy.shape}"
        )
    if H_1to0 is None:
        return None
    distances = np.linalg.norm(geometry.warp_points(points1_xy, H_1to0) - points0_xy, axis=1)
    return np.nan_to_num(distances, nan=np.inf, posinf=np.inf) * longer_side / max(fixed_hw)


def judge(errors: np.ndarray | None) -> Verdict:
    """SuperRetina's verdict: failed without a transform, inaccurate when median > 20 or max > 50, else acceptable.

    errors: (N,) px at longer side 768, or None. A non-finite error is beyond every limit.
    """
    if errors is None:
        return "failed"
    return "acceptable" if np.median(errors) <= MEDIAN_LIMIT_PX and np.max(errors) <= MAX_LIMIT_PX else "inaccurate"


def strict_mean(errors: np.ndarray | None, longer_side: float = LONGER_SIDE_PX) -> bool:
    """SR_ME: mean error ≤ 5 px at longer side 512; ``longer_side`` is the one the errors were measured at."""
    return errors is not None and bool(np.mean(errors) * STRICT_SIDE_PX / longer_side <= STRICT_MEAN_LIMIT_PX)


def strict_max(errors: np.ndarray | None, longer_side: float = LONGER_SIDE_PX) -> bool:
    """SR_MAE: largest error ≤ 10 px at longer side 512; ``longer_side`` is the one the errors were measured at."""
    return errors is not None and bool(np.max(errors) * STRICT_SIDE_PX / longer_side <= STRICT_MAX_LIMIT_PX)


def strict(errors: np.ndarray | None, longer_side: float = LONGER_SIDE_PX) -> bool:
    """Both strict rules of KPVSA / IR-OCT-OCTA at once: `strict_mean` and `strict_max`; False without a transform."""
    return strict_mean(errors, longer_side) and strict_max(errors, longer_side)


def mace(H_1to0, H_1to0_true, moving_hw, fixed_hw, longer_side: float = LONGER_SIDE_PX) -> float | None:
    """Mean error of the moving image's four corners against the true transform (synthetic pairs only).

    Both matrices map moving px → fixed px; the first may be None, and so is the answer then. Returns px of a fixed
    image whose longer side is ``longer_side``; infinite when a corner lands behind the horizon.
    """
    if H_1to0 is None:
        return None
    error = geometry.corner_error(H_1to0, H_1to0_true, moving_hw) * longer_side / max(fixed_hw)
    return float(error) if np.isfinite(error) else float("inf")


# ------------------------------------------------------------------ many pairs, from their mean errors


def auc25(mean_errors) -> float:
    """FIRE's score: mean over i = 1…25 of the share of pairs with mean error < i px.

    mean_errors: (P,) px, infinite or NaN for failed pairs. Returns a value in [0, 1], NaN when P = 0. FIRE
    (Hernandez-Matas et al. 2017) takes errors at 2912 px (`FIRE_SIDE_PX`), this project's own tables at 768.
    """
    mean_errors = np.asarray(mean_errors, np.float64)
    if mean_errors.size == 0:
        return float("nan")
    return float(np.mean(mean_errors[:, None] < np.arange(1, 26)))


def auc_at(mean_errors, limit_px: float) -> float:
    """Exact area under the recall curve (share of pairs with mean error ≤ t) for t in [0, limit_px], divided by
    limit_px.

    mean_errors: (P,) px, infinite or NaN for failed pairs. The curve is a staircase, so every pair adds the part of the
    interval that lies right of its error. Returns a value in [0, 1], NaN when P = 0.
    """
    mean_errors = np.asarray(mean_errors, np.float64)
    if mean_errors.size == 0:
        return float("nan")
    return float(np.mean(np.clip(1 - np.nan_to_num(mean_errors, nan=np.inf) / limit_px, 0, 1)))


def fire_mauc(by_category: Mapping[str, Sequence[float]]) -> float:
    """FIRE's mAUC: plain mean of `auc25` over the categories S, P and A, whatever their sizes.

    by_category: {"S": (P,) mean errors, "P": …, "A": …}. ValueError when the categories are not exactly these.
    """
    if set(by_category) != set(FIRE_CATEGORIES):
        raise ValueError(f"mAUC needs exactly the categories {FIRE_CATEGORIES}, got {sorted(by_category)}")
    return float(np.mean([auc25(by_category[name]) for name in FIRE_CATEGORIES]))


# ------------------------------------------------------------------ keypoints, matches and masks


def repeatability(points0_xy, points1_xy, H_0to1, hw0, hw1, threshold_px: float = 5.0) -> float:
    """Share of the detected points which both images see that have a detection of the other image nearby.

    points0_xy: (N, 2), points1_xy: (M, 2) px, each in its own image; H_0to1: true (3, 3); hw0, hw1: image sizes. The
    points of both images count together and all distances (≤ threshold_px) are taken in image 0. Returns [0, 1]; 0 when
    no point is seen by both, so that a silent detector scores nothing.
    """
    seen0, seen1 = _seen_by_both(points0_xy, points1_xy, H_0to1, hw0, hw1)
    total = int(seen0.sum() + seen1.sum())
    if total == 0 or len(seen0) == 0 or len(seen1) == 0:
        return 0.0
    points1_in0 = geometry.warp_points(points1_xy, np.linalg.inv(H_0to1))
    dx, dy = (np.subtract.outer(np.asarray(points0_xy)[:, k], points1_in0[:, k]) for k in (0, 1))
    near = np.hypot(dx, dy) <= threshold_px
    return float((near.any(1)[seen0].sum() + near.any(0)[seen1].sum()) / total)


def inlier_rate(matches0_xy, matches1_xy, H_0to1, threshold_px: float = 5.0) -> float:
    """MIR: matches that agree with the true transform within threshold_px of image 0, divided by all matches.

    matches0_xy, matches1_xy: (N, 2) px, row by row the same spot; H_0to1: true (3, 3). Returns [0, 1]; 0 when there is
    no match.
    """
    correct = _correct_matches(matches0_xy, matches1_xy, H_0to1, threshold_px)
    return float(correct.mean()) if len(correct) else 0.0


def matching_score(
    matches0_xy, matches1_xy, points0_xy, points1_xy, H_0to1, hw0, hw1, threshold_px: float = 5.0
) -> float:
    """Correct matches divided by the detected points in the overlap, averaged over the two images.

    matches: (K, 2) px each, points: all detections, (N, 2) and (M, 2) px; H_0to1: true (3, 3); hw0, hw1: image sizes. A
    match counts for an image only when its point there lies in the overlap. Returns [0, 1] for one-to-one matches; an
    image without detections in the overlap contributes 0. The symmetric form is SuperPoint's (DeTone et al. 2018,
    appendix).
    """
    correct = _correct_matches(matches0_xy, matches1_xy, H_0to1, threshold_px)
    in_overlap = _seen_by_both(matches0_xy, matches1_xy, H_0to1, hw0, hw1)
    detected = _seen_by_both(points0_xy, points1_xy, H_0to1, hw0, hw1)
    return float(
        np.mean(
            [(correct & match).sum() / max(point.sum(), 1) for match, point in zip(in_overlap, detected, strict=True)]
        )
    )


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
    """(N,) bool: the moving end of a match, taken to image 0 by the truth, lies within threshold_px of the fixed
    end."""
    matches0_xy, matches1_xy = np.reshape(matches0_xy, (-1, 2)), np.reshape(matches1_xy, (-1, 2))
    return (
        np.linalg.norm(geometry.warp_points(matches1_xy, np.linalg.inv(H_0to1)) - matches0_xy, axis=1) <= threshold_px
    )


def _seen_by_both(points0_xy, points1_xy, H_0to1, hw0, hw1) -> tuple[np.ndarray, np.ndarray]:
    """Two bool arrays: which points of image 0, and of image 1, lie within the frames of both images."""
    points0_xy, points1_xy = (np.reshape(np.asarray(p, np.float64), (-1, 2)) for p in (points0_xy, points1_xy))
    seen0 = geometry.inside(points0_xy, hw0) & geometry.inside(geometry.warp_points(points0_xy, H_0to1), hw1)
    seen1 = geometry.inside(points1_xy, hw1) & geometry.inside(
        geometry.warp_points(points1_xy, np.linalg.inv(H_0to1)), hw0
    )
    return seen0, seen1


# ------------------------------------------------------------------ tables


@dataclass(frozen=True, eq=False)
class PairResult:
    """How one pair came out; ``errors`` are `point_errors` at longer side 768, None when no transform was returned."""

    pair_id: str
    group: str
    refused: bool  # the system declined to answer; always a failure
    errors: np.ndarray | None  # (N,) px
    confidence: float = float("nan")  # in [0, 1], NaN when the system gives none
    # False for a transform that the system gave with a warning: it may be inaccurate, but not wrongly accepted
    trusted: bool = True

    def __post_init__(self):
        if self.refused and self.errors is not None:
            raise ValueError(f"pair {self.pair_id}: a refused pair returns no transform, so it cannot have errors")
        if self.errors is not None and np.size(self.errors) == 0:
            raise ValueError(f"pair {self.pair_id}: no ground-truth points, so nothing can be judged")

    @property
    def mean_error(self) -> float:
        """Mean error in px, infinite when the pair failed."""
        return float("inf") if self.errors is None else float(np.mean(self.errors))


def scores(row: PairResult) -> dict[str, float]:
    """What one pair adds to a table: the mean over pairs of each of these is the table's figure, so that they can be
    resampled.

    Verdicts are 0 or 1: failed + inaccurate + acceptable = 1; refused is the part of failed that the system declared
    itself; wrong_accepted the part of inaccurate that it trusted. sr_me, sr_mae and strict (both) are taken at 512 px,
    auc25_fire at 2912 px, everything else at 768 px.
    """
    verdict = judge(row.errors)
    return {
        "failed": float(verdict == "failed"),
        "refused": float(row.refused),
        "inaccurate": float(verdict == "inaccurate"),
        "acceptable": float(verdict == "acceptable"),
        "wrong_accepted": float(verdict == "inaccurate" and row.trusted),
        "sr_me": float(strict_mean(row.errors)),
        "sr_mae": float(strict_max(row.errors)),
        "strict": float(strict(row.errors)),
        "auc25": auc25([row.mean_error]),
        "auc25_fire": auc25([row.mean_error * FIRE_SIDE_PX / LONGER_SIDE_PX]),
        **{f"auc@{limit}": auc_at([row.mean_error], limit) for limit in (5, 10, 20)},
    }


def summarise(rows: Sequence[PairResult]) -> dict[str, float]:
    """One line of a results table: ``n`` pairs, then the means of their `scores`; failed pairs are in every
    denominator.

    median_mean_error is in px at 768 and infinite when half of the pairs failed. An empty table has n = 0 and NaN
    elsewhere.
    """
    names = scores(PairResult("", "", True, None))
    own = [scores(row) for row in rows]
    means = {name: float(np.mean([score[name] for score in own])) if own else float("nan") for name in names}
    median = float(np.median([row.mean_error for row in rows])) if rows else float("nan")
    return {"n": len(rows), **means, "median_mean_error": median}
