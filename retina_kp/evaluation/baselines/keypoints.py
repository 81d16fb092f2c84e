"""Baselines by keypoints: SIFT and AKAZE on equalised images, SIFT on vessel ridges; MAGSAC fits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from ...core.images import to_gray
from ...core.vessels import field_of_view_mask, vesselness
from ...mapping.transforms import Fit, fit_transform
from ...registration.keypoints import Features, matched_points, mutual_matches
from . import SIDE_PX, checked, copied


def sift_magsac(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """OpenCV SIFT on equalised images, mutual matches with ratio 0.9, MAGSAC affine."""
    return by_keypoints(partial(_keypoints, cv2.SIFT_create(2000)), _ratio_matches, fixed, moving, SIDE_PX)


def akaze_magsac(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """OpenCV AKAZE (binary descriptors), the rest as for SIFT."""
    create = getattr(cv2, "AKAZE_create", None) or cv2.xfeatures2d.AKAZE_create
    detector = create(threshold=3e-4, max_points=2000)
    return by_keypoints(partial(_keypoints, detector), _ratio_matches, fixed, moving, 768)


def ridges_sift(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """SIFT on the strength of vessel ridges, dark and bright ones alike (Sato filter, `vessels.vesselness`), the rest
    as for SIFT."""
    (ridges0, S0), (ridges1, S1) = _ridges(fixed), _ridges(moving)
    features0, features1 = (_keypoints(cv2.SIFT_create(2000), ridges) for ridges in (ridges0, ridges1))
    fit = _fit(features0, features1, _ratio_matches(features0, features1))
    return None if fit is None else checked(np.linalg.inv(S0) @ fit.H_1to0 @ S1, moving)


def _ridges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge strength inside the field of view, uint8, longer side SIDE_PX; matrix original px → its px."""
    gray, S = copied(to_gray(image), SIDE_PX)
    inside = cv2.erode(field_of_view_mask(gray).astype(np.uint8), np.ones((9, 9)), borderValue=0)
    return (vesselness(gray, sigmas_px=(1.5, 2.5)) * inside * 255).astype(np.uint8), S


def _ratio_matches(features0: Features, features1: Features) -> np.ndarray:
    return mutual_matches(features0, features1, ratio_max=0.9)


def _fit(features0: Features, features1: Features, index: np.ndarray) -> Fit | None:
    return fit_transform(*matched_points(features0, features1, index), "affine", 3.0)


def by_keypoints(
    find: Callable, match: Callable, fixed: np.ndarray, moving: np.ndarray, side_px: int
) -> np.ndarray | None:
    """H_1to0 (3, 3) with most inliers of the moving image as it is and inverted, a MAGSAC affine; None without any.

    find: equalised gray copy (h, w) uint8, longer side side_px → `Features`; match: two of these → (M, 2) index pairs.
    """
    (gray0, S0), (gray1, S1) = _equalised(fixed, side_px), _equalised(moving, side_px)
    features0, best = find(gray0), None
    for picture in (gray1, 255 - gray1):
        features1 = find(picture)
        fit = _fit(features0, features1, match(features0, features1))
        if fit is not None and (best is None or fit.n_inliers > best.n_inliers):
            best = fit
    return None if best is None else checked(np.linalg.inv(S0) @ best.H_1to0 @ S1, moving)


def _keypoints(detector, gray: np.ndarray) -> Features:
    points, descriptors = detector.detectAndCompute(gray, None)
    if descriptors is None:
        descriptors = np.zeros((0, 8), np.float32)
    if descriptors.dtype == np.uint8:  # bits as ±1: their cosine falls with the Hamming distance
        descriptors = np.unpackbits(descriptors, axis=1).astype(np.float32) * 2 - 1
    unit = descriptors / np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-9)
    return Features(np.array([p.pt for p in points], np.float32).reshape(-1, 2), np.ones(len(unit)), unit, gray.shape)


def _equalised(image: np.ndarray, side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Gray copy with local contrast equalised, uint8, longer side side_px; matrix original px → its px."""
    gray, S = copied(to_gray(image), side_px)
    return cv2.createCLAHE(4.0, (8, 8)).apply((gray * 255).astype(np.uint8)), S


BASELINES = {"SIFT+MAGSAC": sift_magsac, "AKAZE+MAGSAC": akaze_magsac, "ridges+SIFT": ridges_sift}
MISSING = {}
if not (hasattr(cv2, "AKAZE_create") or hasattr(getattr(cv2, "xfeatures2d", None), "AKAZE_create")):
    MISSING["AKAZE+MAGSAC"] = f"OpenCV {cv2.__version__} has no AKAZE: it is in 4.x, and in opencv-contrib from 5 on"
