"""Well-known registration methods to measure ours against, one module per family; here is what they share.

A baseline is a function (fixed, moving) → H_1to0 (3, 3), or None when it finds none; images are arrays as `Registrar`
takes them. A module names its own in BASELINES, and in MISSING why one of them cannot run here. Settings were chosen on
synthetic pairs: gray copies of at most 512 px (AKAZE: 768), and either both polarities of the moving image or a measure
without polarity, because vessels are dark in one modality and bright in another.
"""

from __future__ import annotations

import numpy as np

from ...core.geometry import as_homography, image_center, similarity
from ...core.images import fitted_hw, resized
from ...mapping.transforms import implausible

SIDE_PX = 512  # longer side of the copies that most methods work on


def copied(image: np.ndarray, side_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Copy with its longer side side_px; matrix px of the image → px of the copy."""
    return resized(image, fitted_hw(image.shape, side_px))


def checked(H_1to0: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """The transform, or None when it is none between two images of an eye: every method is granted that knowledge."""
    return None if not np.isfinite(H_1to0).all() or implausible(H_1to0, moving.shape[:2]) else as_homography(H_1to0)


def identity(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Middle upon middle, longer side upon longer side, upright: what a pair is worth before anything is done. It
    always answers."""
    hw0, hw1 = fixed.shape[:2], moving.shape[:2]
    return similarity(0, max(hw0) / max(hw1), image_center(hw1), image_center(hw0))


BASELINES = {"identity": identity}
