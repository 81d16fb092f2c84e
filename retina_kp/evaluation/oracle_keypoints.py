"""GT alignment, the oracle of a network: what it would find if its detector were perfect.

Descriptors are read at the true points of both images, matched, and a transform is fitted to the matches; what is then
still wrong is not the detector's fault.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..core.geometry import inside, warp_points
from ..data.annotation import RANSAC_THRESHOLD
from ..mapping.result import Registration, refused
from ..mapping.transforms import MIN_MATCHES, Fit, fit_transform
from ..registration.closeup import Window, common_window
from ..registration.keypoints import Features, matched_points, mutual_matches
from ..registration.registrar import FEW_MATCHES, Registrar

MOST_POINTS = 200  # keypoints that stand for true ones where no points are annotated
SIMPLER = ("quadratic", "homography", "affine", "similarity")  # each needs fewer matches than the one before


def align_true_points(
    points0, points1, descriptors0, descriptors1, model: str, threshold_px: float
) -> tuple[np.ndarray, Fit | None]:
    """Match true points by their descriptors and fit a model (of `transforms.MODELS`) that maps points1 to points0.

    points0, points1: (N, 2) px, row by row one spot of the retina; descriptors: (N, D) unit vectors. Returns (M, 2)
    indices of mutually nearest ones, of which [k, k] is right, and the fit, None where the matches define none.
    """
    nowhere = (0, 0)
    features = [Features(p, np.ones(len(p)), d, nowhere) for p, d in ((points0, descriptors0), (points1, descriptors1))]
    index = mutual_matches(*features)
    return index, fit_transform(*matched_points(*features, index), model, threshold_px)


def register_true_points(
    registrar: Registrar,
    fixed: np.ndarray,
    moving: np.ndarray,
    H_1to0,
    points: tuple[np.ndarray, np.ndarray] | None = None,
    to_moving: Callable | None = None,
) -> Registration:
    """The registration of two images HxW(x3) with a perfect detector and a perfect search.

    The keypoints are true points, and the true H_1to0 warps the moving image into the fixed frame. points: annotated
    ones of the fixed and of the moving image, (N, 2) original px each, row by row one spot. Without them they are the
    keypoints of the fixed image, mapped by to_moving, without it by H_1to0. Those that a window cuts off do not count.
    The registrar's model is fitted, without its last stage, or a simpler one for few points. Matches agree within
    RANSAC_THRESHOLD of the longer side, as clicks do.
    """
    views0, views1 = registrar.views(fixed), registrar.views(moving)
    sizes = (views0.original_hw, views1.original_hw)
    H_base = views0.base_from_original @ H_1to0 @ np.linalg.inv(views1.base_from_original)
    window = common_window(views0, views1, H_base, registrar.options.closeup.close_px)
    if window is None:
        return refused(f"{FEW_MATCHES}: the true transform leaves nothing that both images show", *sizes)
    from_base = window.from_base, window.from_base @ H_base
    window_from_original = [
        own @ views.base_from_original for own, views in zip(from_base, (views0, views1), strict=True)
    ]
    points0, points1 = points or _detected(window, window_from_original[0], to_moving, H_1to0)
    warped = [warp_points(xy, H) for xy, H in zip((points0, points1), window_from_original, strict=True)]
    seen = inside(warped[0], window.hw) & inside(warped[1], window.hw) & inside(points1, sizes[1], -0.5)
    points0, points1 = points0[seen], points1[seen]
    described = [
        v.described(own, window.hw, xy[seen]) for v, own, xy in zip((views0, views1), from_base, warped, strict=True)
    ]
    model = _affordable(registrar.options.fitted, len(points0))
    index, fit = align_true_points(points0, points1, *described, model, RANSAC_THRESHOLD * max(sizes[0]))
    if fit is None:
        return refused(f"{FEW_MATCHES}: {len(index)} of {len(points0)} true points are matched", *sizes)
    return Registration.from_fit(fit, np.eye(3), np.eye(3), points0[index[:, 0]], points1[index[:, 1]], *sizes)


def _detected(window: Window, window_from_original0, to_moving, H_1to0) -> tuple[np.ndarray, np.ndarray]:
    """The strongest keypoints of the fixed image and their places in the moving one, (N, 2) original px each."""
    points0 = warp_points(window.features0.keypoints_xy[:MOST_POINTS], np.linalg.inv(window_from_original0))
    return points0, to_moving(points0) if to_moving else warp_points(points0, np.linalg.inv(H_1to0))


def _affordable(model: str, count: int) -> str:
    """The model, or the richest simpler one that so many matches define."""
    if count >= MIN_MATCHES[model]:
        return model
    return next((simpler for simpler in SIMPLER[SIMPLER.index(model) :] if count >= MIN_MATCHES[simpler]), SIMPLER[-1])
