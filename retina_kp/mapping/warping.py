"""The moving image of a registration warped into the fixed frame, each kind of map in its fastest way."""

from __future__ import annotations

import cv2
import numpy as np

from ..core.geometry import corners, describe, warp_points

FINER = 0.7  # fixed px per moving px, below which bilinear reading would skip pixels
STRIP_PX = 2**18  # pixels warped at a time: coordinates of a whole 6000 x 6000 image would take gigabytes


def warped(result, image: np.ndarray, labels: bool) -> np.ndarray:
    """`Registration.warp` of a checked image. Finer pixels than the fixed image's are averaged first: no aliasing."""
    scale = describe(result.H_1to0, result.moving_hw).scale
    small_hw = tuple(max(round(n * scale), 1) for n in result.moving_hw)
    if not labels and scale < FINER and small_hw != result.moving_hw:
        image = cv2.resize(image, small_hw[::-1], interpolation=cv2.INTER_AREA)
        result = result.resized(result.fixed_hw, small_hw)
    how, H, size = cv2.INTER_NEAREST if labels else cv2.INTER_LINEAR, result.H_0to1, result.fixed_hw[::-1]
    if result.displacement is not None or not np.isfinite(warp_points(corners(result.fixed_hw), H)).all():
        return _warped_in_strips(result, image, how)
    if H[2, :2].any():
        return cv2.warpPerspective(image, H, size, flags=how | cv2.WARP_INVERSE_MAP)
    return cv2.warpAffine(image, H[:2], size, flags=how | cv2.WARP_INVERSE_MAP)


def _warped_in_strips(result, image: np.ndarray, how: int) -> np.ndarray:
    """By a map that bends, or whose horizon crosses the fixed image."""
    picture = np.zeros((*result.fixed_hw, *image.shape[2:]), image.dtype)
    rows, x_px = max(STRIP_PX // picture.shape[1], 1), np.arange(picture.shape[1])
    for top in range(0, len(picture), rows):
        strip = picture[top : top + rows]
        source = result.map_grid(x_px, np.arange(top, top + len(strip)))
        source = np.nan_to_num(source, nan=-1e6).astype(np.float32)
        strip[:] = cv2.remap(image, source[..., 0], source[..., 1], how, borderMode=cv2.BORDER_CONSTANT)
    return picture
