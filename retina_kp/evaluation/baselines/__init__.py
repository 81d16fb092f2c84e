"""Well-known registration methods to measure ours against, one module per family; here is what they share.

A baseline is a function (fixed, moving) → H_1to0 (3, 3), or None when it finds none; images are arrays as `Registrar`
takes them. A module names its own in BASELINES, and in MISSING why one of them cannot run here. Settings were chosen on
synthetic pairs: gray copies of at most 512 px (AKAZE: 768), and either both polarities of the moving image or a measure
without polarity, because vessels are dark in one modality and bright in another.
"""

from __future__ import annotations

import cv2
import numpy as np

from ...core.geometry import as_homography, image_center, resize_matrix, similarity
from ...registration.transforms import implausible

SIDE_PX = 512  # longer side of the copies that most methods work on


def resized(image: np.ndarray, side_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Copy with its longer side side_px; matrix px of the image → px of the copy."""
    hw = tuple(max(round(n * side_px / max(image.shape)), 1) for n in image.shape)
    way = cv2.INTER_AREA if side_px < max(image.shape) else cv2.INTER_LINEAR
    return cv2.resize(image, hw[::-1], interpolation=way), resize_matrix(image.shape, hw)


def checked(H_1to0: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """The transform, or None when it is none between two images of an eye: every method is granted that knowledge."""
    return None if not np.isfinite(H_1to0).all() or implausible(H_1to0, moving.shape[:2]) else as_homography(H_1to0)


def identity(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Middle upon middle, longer side upon longer side, upright: what a pair is worth before anything is done. It
    always answers."""
    hw0, hw1 = fixed.shape[:2], moving.shape[:2]
    return similarity(0, max(hw0) / max(hw1), image_center(hw1), image_center(hw0))


BASELINES = {"identity": identity}
