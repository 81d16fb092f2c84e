"""GT alignment, the oracle of a network: what it would find if its detector were perfect, with the true points for
keypoints.

Descriptors are read at the true points of both images, matched, and a transform is fitted to the matches; what is then
still wrong is not the detector's fault.
"""

from __future__ import annotations

import numpy as np

from ..core.geometry import inside, warp_points
from ..data.annotation import RANSAC_THRESHOLD
from ..registration.keypoints import Features
from ..registration.matching import MIN_MATCHES, Fit, fit_transform, mutual_matches
from ..registration.registrar import FEW_MATCHES, Closeup, Registrar
from ..registration.result import Registration, refused

MOST_POINTS = 200  # keypoints that stand for true ones where no points are annotated
SIMPLER = ("quadratic", "homography", "affine", "similarity")  # each needs fewer matches than the one before


def align_true_points(
    points0, points1, descriptors0, descriptors1, model: str, threshold_px: float
) -> tuple[np.ndarray, Fit | None]:
    """Match true points by their descriptors and fit a model (of `matching.MODELS`) that maps points1 to points0.

    points0, points1: (N, 2) px, row by row one spot of the retina; descriptors: (N, D) unit vectors. Returns (M, 2)
    indices of mutually nearest ones, of which [k, k] is right, and the fit, None where the matches define none.
    """
    nowhere = (0, 0)
    features = [Features(p, np.ones(len(p)), d, nowhere) for p, d in ((points0, descriptors0), (points1, descriptors1))]
    index = mutual_matches(*features)
    return index, fit_transform(points0[index[:, 0]], points1[index[:, 1]], model, threshold_px)


def register_true_points(
    registrar: Registrar,
    fixed: np.ndarray,
    moving: np.ndarray,
    H_1to0,
    points: tuple[np.ndarray, np.ndarray] | None = None,
) -> Registration:
    """The registration of two images HxW(x3) with a perfect detector and a perfect search: true points for keypoints,
    and the moving image drawn in the fixed frame by the true H_1to0, as the registrar draws it once its search has
    ended.

    points: annotated ones of the fixed and of the moving image, (N, 2) original px each, row by row one spot; without
    them the keypoints of the fixed image and where H_1to0 has them in the moving one. Those that a window cuts off do
    not count. The registrar's model is fitted, or a simpler one where the points are too few for it; matches agree
    within RANSAC_THRESHOLD of the longer side, as clicks do.
    """
    views0, views1 = registrar.views(fixed), registrar.views(moving)
    sizes = (views0.original_hw, views1.original_hw)
    H_base = views0.base_from_original @ H_1to0 @ np.linalg.inv(views1.base_from_original)
    closeup = registrar.closeup(views0, views1, H_base)
    if closeup is None:
        return refused(f"{FEW_MATCHES}: the true transform leaves nothing that both images show", *sizes)
    windows = closeup.window_from_base0, closeup.window_from_base0 @ H_base
    window_from_original = windows[0] @ views0.base_from_original, windows[1] @ views1.base_from_original
    points0, points1 = points or _detected(closeup, window_from_original[0], H_1to0)
    drawn = [warp_points(xy, H) for xy, H in zip((points0, points1), window_from_original, strict=True)]
    seen = inside(drawn[0], closeup.hw) & inside(drawn[1], closeup.hw) & inside(points1, sizes[1], -0.5)
    points0, points1 = points0[seen], points1[seen]
    described = [
        v.described(w, closeup.hw, xy[seen]) for v, w, xy in zip((views0, views1), windows, drawn, strict=True)
    ]
    model = _affordable(registrar.options.model, len(points0))
    index, fit = align_true_points(points0, points1, *described, model, RANSAC_THRESHOLD * max(sizes[0]))
    if fit is None:
        return refused(f"{FEW_MATCHES}: {len(index)} of {len(points0)} true points are matched", *sizes)
    return Registration.from_fit(fit, np.eye(3), np.eye(3), points0[index[:, 0]], points1[index[:, 1]], *sizes)


def _detected(closeup: Closeup, window_from_original0: np.ndarray, H_1to0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The strongest keypoints of the fixed image and their places in the moving one, (N, 2) original px each."""
    points0 = warp_points(closeup.features0.keypoints_xy[:MOST_POINTS], np.linalg.inv(window_from_original0))
    return points0, warp_points(points0, np.linalg.inv(H_1to0))


def _affordable(model: str, count: int) -> str:
    """The model, or the richest simpler one that so many matches define."""
    if model == "auto" or count >= MIN_MATCHES[model]:
        return model
    return next((simpler for simpler in SIMPLER[SIMPLER.index(model) :] if count >= MIN_MATCHES[simpler]), SIMPLER[-1])
