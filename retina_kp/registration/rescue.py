"""A pair that the search has missed, registered from a few points that a person has clicked in both images.

Clicks say where to look and nothing more: what is found there is judged as any other hypothesis. Who clicks wants a
result to rely on, or to know that there is none: what the images do not confirm is refused, clicks or not. The plain
fit of the clicks is for those who ask for it, `points_only`, and has no confidence at all.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain

import numpy as np
from scipy.stats import chi2

from ..core.geometry import describe, resize_matrix, warp_points
from ..mapping.result import Registration
from ..mapping.transforms import Fit, implausible, least_squares
from .retries import square_pairs
from .search import starts
from .views import ImageViews

NOT_CONFIRMED = "points not confirmed"
HAND_PX, SIDE_PX = 9.0, 768  # σ of a click and of what a round eye adds, along either axis, at that longer side
CHANCE = 1e-3  # that clicks which are right count as contradicting
MIN_APART = 0.1  # of an image's longer side, between the two points farthest apart: below it they tell no turn
AFFINE_POINTS = 6  # from so many on clicks tell more than a similarity


class Contradiction(ValueError):
    """No turn and scale brings the points of one image to those of the other."""


def rescue(registrar, views0: ImageViews, views1: ImageViews, points0, points1) -> Registration:
    """`Registrar.__call__` with points: the same stages, begun where points (N, 2) of the fixed and of the moving image
    put it, N ≥ 2; evidence["points_given"] is N. Where that is in vain, pixels may not be square.

    Where the images do not confirm it, the status begins with NOT_CONFIRMED and H_tried is the plain fit of the points.
    ValueError as `points_only`.
    """
    refusal = contradicted = None
    for own0, own1 in chain([(views0, views1)], square_pairs(registrar, views0, views1)):
        try:
            result = _begun(registrar, own0, own1, _in_copy(points0, views0, own0), _in_copy(points1, views1, own1))
        except Contradiction as error:
            contradicted = contradicted or error
            continue
        if own0 is not views0 or own1 is not views1:
            result = result.resized(views0.original_hw, views1.original_hw)
        if result.ok:
            return result
        refusal = refusal or result
    if refusal is None:
        raise contradicted
    return refusal


def _in_copy(points, views: ImageViews, copy: ImageViews):
    """Points of an image in px of a copy of another size."""
    return (
        points if copy is views else warp_points(np.asarray(points), resize_matrix(views.original_hw, copy.original_hw))
    )


def _begun(registrar, views0: ImageViews, views1: ImageViews, points0, points1) -> Registration:
    """The result for two images as they are, their pixels taken for square."""
    plain = points_only(points0, points1, views0.original_hw, views1.original_hw)
    H = views0.base_from_original @ plain.H_1to0 @ np.linalg.inv(views1.base_from_original)
    result = registrar.attempt(views0, views1, starts(views0, views1, registrar.options.search, H))
    evidence = result.evidence | plain.evidence
    if result.ok:
        return replace(result, evidence=evidence)
    return replace(plain.refuse(f"{NOT_CONFIRMED}, {result.status}"), confidence=result.confidence, evidence=evidence)


def points_only(points0, points1, fixed_hw, moving_hw) -> Registration:
    """The plain fit of points (N, 2) of the fixed and of the moving image, N ≥ 2: a similarity, from AFFINE_POINTS on an
    affine. No image is looked at, so its confidence is NaN; evidence["points_given"] is N.

    ValueError says which points are outside, too close, too few, or contradict the others.
    """
    from ..data.annotation import check_points  # which loads pandas; a pair needs none

    if points0 is None or points1 is None:
        raise ValueError("points belong to both images or to none")
    points0, points1 = (np.asarray(points, np.float64).reshape(-1, 2) for points in (points0, points1))
    check_points(points0, points1, fixed_hw, moving_hw, minimum=2)
    for name, points, hw in (("fixed", points0, fixed_hw), ("moving", points1, moving_hw)):
        apart = np.linalg.norm(points[:, None] - points, axis=-1).max()
        if apart < MIN_APART * max(hw):
            raise ValueError(f"points in the {name} image lie {apart:.0f} px apart at most; click farther apart")
    if why := contradiction(points0, points1, fixed_hw, moving_hw):
        raise Contradiction(why)
    model = "similarity" if len(points0) < AFFINE_POINTS else "affine"
    fit = Fit(model, _fit(points0, points1, model), np.ones(len(points0), bool))
    result = Registration.from_fit(fit, np.eye(3), np.eye(3), points0, points1, fixed_hw, moving_hw)
    angle_deg = describe(result.H_1to0, moving_hw).angle_deg
    return replace(result, confidence=math.nan, angle_deg=angle_deg, evidence={"points_given": float(len(points0))})


def contradiction(points0: np.ndarray, points1: np.ndarray, fixed_hw, moving_hw) -> str:
    """Why no similarity brings points1 (N, 2) to points0 as well as hands click, and which point is to blame where the
    others agree; "" where one does. A test of χ² with 2N - 4 degrees of freedom."""
    scale = np.sqrt(points0.var(0).sum() / points1.var(0).sum())
    hand_px = HAND_PX / SIDE_PX * np.hypot(max(fixed_hw), scale * max(moving_hw))

    def agree(kept: np.ndarray, flip=(1, 1)) -> bool:
        off = _off(points0[kept], points1[kept] * flip)
        return not len(off) > 2 or (off**2).sum() < chi2.isf(CHANCE, 2 * len(off) - 4) * hand_px**2

    everyone = np.arange(len(points0))
    if agree(everyone):
        why = implausible(_fit(points0, points1), moving_hw)
        return f"the points contradict each other: {why}" if why else ""
    if agree(everyone, (-1, 1)):
        return "the points mirror the image: flip one of the two images, or check the order of the points"
    others = [np.delete(everyone, k) for k in everyone]
    worst = int(np.argmin([(_off(points0[kept], points1[kept]) ** 2).sum() for kept in others]))
    kept = others[worst]
    if len(everyone) > 3 and agree(kept):
        put = warp_points(points1[[worst]], _fit(points0[kept], points1[kept]))[0]
        off = np.linalg.norm(put - points0[worst])
        return f"point {worst + 1} contradicts the others, which put it {off:.0f} px away in the fixed image"
    off = ", ".join(f"{px:.0f}" for px in _off(points0, points1))
    more = "; click another one, which tells which of them is wrong" if len(everyone) == 3 else ""
    return f"the points contradict each other: at best they are {off} px off in the fixed image{more}"


def _fit(points0: np.ndarray, points1: np.ndarray, model: str = "similarity") -> np.ndarray:
    return least_squares(points0, points1, np.ones(len(points0)), model, np.eye(3))


def _off(points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
    """(N,) px by which the best similarity misses points0."""
    return np.linalg.norm(warp_points(points1, _fit(points0, points1)) - points0, axis=1)
