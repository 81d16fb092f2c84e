"""All images of a series in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..core.geometry import lattice, translation
from ..core.images import as_array, shrink, to_gray
from ..core.overlays import displayable
from ..core.vessels import field_of_view_mask
from ..mapping.result import Registration
from .agreement import Series

MAX_SIDE_PX = 2400  # of a mosaic
RIM_SAMPLES = 33  # along an image's side, by which its place is told


@dataclass(frozen=True)
class Mosaic:
    """picture: (H, W) or (H, W, 3) float32 in [0, 1], 0 where no image lies. A pixel x of the reference, centres at
    integers, is its pixel (x + 0.5) · scale - 0.5 - shift_xy."""

    picture: np.ndarray
    scale: float
    shift_xy: np.ndarray


def mosaic(series: Series, images: Sequence, max_side_px: int = MAX_SIDE_PX) -> Mosaic:
    """The images, paths or arrays, that the series places, blended where they overlap: each weighs most in the middle of
    its field of view, and all are made as bright as the reference."""
    placed = {k: as_array(images[k], series.names[k]) for k, result in enumerate(series.results) if result.ok}
    reference_hw = series.sizes[series.reference]
    rims = np.concatenate([series.results[k].map_to_fixed(lattice(series.sizes[k], RIM_SAMPLES)) for k in placed])
    low, high = np.nanmin(rims, 0), np.nanmax(rims, 0)
    scale = min(max_side_px / float((high - low).max() + 1), 1.0)
    small_hw = tuple(max(round(n * scale), 1) for n in reference_hw)
    shift, hw = np.floor(low * scale), tuple(int(n) + 1 for n in np.ceil((high - low) * scale)[::-1])
    total, weights, level = np.zeros((*hw, 3), np.float32), np.zeros((*hw, 1), np.float32), None
    for k in sorted(placed, key=lambda k: k != series.reference):  # the reference first
        image = shrink(placed[k], max_side_px)
        result = _on_canvas(series.results[k].resized(small_hw, image.shape[:2]), shift, hw)
        seen = field_of_view_mask(to_gray(image))
        picture = displayable(image).reshape(*image.shape[:2], -1)
        bright = float(np.median(picture[seen]))
        level = level or bright
        picture = np.clip(picture * (level / max(bright, 1e-3)), 0, 1) * np.ones(3, np.float32)
        inner = cv2.distanceTransform(np.pad(seen.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        weight = result.warp((inner / max(inner.max(), 1e-6)) ** 2)[..., None]
        total += weight * result.warp(picture)
        weights += weight
    picture = total / np.maximum(weights, 1e-6)
    gray = all(image.ndim == 2 for image in placed.values())
    return Mosaic(picture[..., 0] if gray else picture, scale, shift)


def _on_canvas(result: Registration, shift_xy: np.ndarray, hw: tuple[int, int]) -> Registration:
    """The same in a fixed frame of another size (h, w) that begins at shift_xy px of the old one."""
    H, bends = translation(*-shift_xy) @ result.H_1to0, result.displacement
    bends = bends and replace(bends, origin_xy=bends.origin_xy - shift_xy)
    return replace(result, H_1to0=H, H_tried=H, displacement=bends, fixed_hw=hw)
