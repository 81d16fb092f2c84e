"""Do vessels lie on vessels? The Dice of two vessel maps after a registration: the one figure that needs no annotated
truth."""

from __future__ import annotations

import cv2
import numpy as np

from ..core.geometry import pixel_grid, resize_matrix, warp_points
from ..core.images import to_gray
from ..core.vessels import field_of_view_mask, vessel_mask
from ..registration.result import Registration
from .metrics import vessel_dice

SIDE_PX = 384  # longer side of the copies that ridges are looked for on
SIGMAS_PX = (1.0, 2.0)  # of their ridges


Maps = tuple[np.ndarray, np.ndarray]  # field of view and vessels, (h, w) bool each, of one size


def vessel_maps(image: np.ndarray) -> Maps:
    """Field of view and vessels (ridge filter, both polarities) of an image HxW or HxWx3, on a copy whose longer side
    is SIDE_PX."""
    gray = to_gray(image)
    size = tuple(max(round(n * SIDE_PX / max(gray.shape)), 8) for n in gray.shape)[::-1]
    gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA if SIDE_PX < max(gray.shape) else cv2.INTER_LINEAR)
    valid = field_of_view_mask(gray)
    return valid, vessel_mask(gray, valid, sigmas_px=SIGMAS_PX)


def vessel_agreement(maps0: Maps, maps1: Maps, result: Registration) -> float:
    """Dice of two images' vessel maps in the fixed frame, on what both fields of view show; in [0, 1], NaN without a
    vessel there.

    maps0, maps1: of the fixed and the moving image, at any resolution; result: an accepted registration of the two.
    Ridges of two modalities never agree fully: compare with the same figure under the true transform.
    """
    hw = maps0[0].shape
    points0 = warp_points(pixel_grid(hw).reshape(-1, 2).numpy().astype(np.float64), resize_matrix(hw, result.fixed_hw))
    places1 = warp_points(result.map_to_moving(points0), resize_matrix(result.moving_hw, maps1[0].shape))
    places1 = np.nan_to_num(places1, nan=-1e6).astype(np.float32).reshape(*hw, 2)
    seen1, vessels1 = (cv2.remap(mask.astype(np.float32), places1, None, cv2.INTER_LINEAR) > 0.5 for mask in maps1)
    return vessel_dice(maps0[1], vessels1, maps0[0] & seen1)
