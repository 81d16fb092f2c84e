"""What the viewer shows, as plain values: layers of images in tiles, and maps from one image to the other."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from ..core.geometry import lattice
from ..core.images import as_array, resized, shrink
from ..core.overlays import displayable, modality_colors, overlay
from ..mapping.result import Registration

TILE_PX = 512
OVERLAP_PX = 1  # that a tile shares with the next one, so that no seam shows
QUALITY = 88  # of JPEG
MAP_SAMPLES = 49  # along either side of an image: between them a map counts as linear
OVERLAY_PX = 1200  # longer side, beyond which vessels are not drawn finer
PAGE_PX = 1400  # longer side of the layers of a page


def layer(image, frame_hw=None) -> dict:
    """An image (H, W) or (H, W, 3) RGB of any dtype as levels of JPEG tiles, from one tile to full size.

    Each level halves the next one. frame_hw: size of the frame that it covers, where it is a smaller copy.
    {"hw", "tile", "levels": [{"hw", "columns", "tiles": [bytes, row by row]}]}.
    """
    image = np.asarray(image)
    picture = image if image.dtype == np.uint8 else np.rint(displayable(image) * 255).astype(np.uint8)
    levels = [picture]
    while max(levels[0].shape[:2]) > TILE_PX:
        levels.insert(0, resized(levels[0], tuple(-(-n // 2) for n in levels[0].shape[:2]))[0])
    return {"hw": list(frame_hw or image.shape[:2]), "tile": TILE_PX, "levels": [_level(each) for each in levels]}


def _level(picture: np.ndarray) -> dict:
    rows, columns = (range(0, n, TILE_PX) for n in picture.shape[:2])
    side = TILE_PX + OVERLAP_PX
    tiles = [_jpeg(picture[y : y + side, x : x + side]) for y in rows for x in columns]
    return {"hw": list(picture.shape[:2]), "columns": len(columns), "tiles": tiles}


def _jpeg(picture: np.ndarray) -> bytes:
    pixels = picture[..., ::-1] if picture.ndim == 3 else picture
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def sampled(to_other: Callable, image_hw) -> dict:
    """A map, a function of px (N, 2) → px (N, 2) of the other image, at MAP_SAMPLES² places from corner to corner."""
    places = np.float32(to_other(lattice(image_hw, MAP_SAMPLES)))
    return {"hw": list(image_hw), "samples": MAP_SAMPLES, "xy": places.tobytes()}


def maps_of(result: Registration | None) -> dict:
    """Both maps of a registration, {"toMoving", "toFixed"}; nothing of a refused one."""
    if result is None or not result.ok:
        return {}
    maps = {"toMoving": (result.map_to_moving, result.fixed_hw), "toFixed": (result.map_to_fixed, result.moving_hw)}
    return {name: sampled(*each) for name, each in maps.items()}


def pair_scene(fixed, moving, result: Registration, modalities=("", ""), side_px: int | None = None) -> dict:
    """A pair to compare: both images, of an ok result also the moving one warped and the overlay in the colours of the
    modalities, and the maps between them. fixed, moving: paths or arrays, or smaller copies; side_px: longer side of
    the copies shown. Places are told in px of the registered sizes."""
    images = [as_array(image, name) for image, name in ((fixed, "fixed image"), (moving, "moving image"))]
    if side_px:
        images = [shrink(image, side_px) for image in images]
    layers = {"fixed": layer(images[0], result.fixed_hw), "moving": layer(images[1], result.moving_hw)}
    if result.ok:
        warped = result.resized(*(image.shape[:2] for image in images)).warp(images[1])
        layers |= {"warped": layer(warped, result.fixed_hw), "overlay": overlay_layer(*images, result, modalities)}
    names = [f"{side} {name}".strip() for side, name in zip(("fixed", "moving"), modalities, strict=True)]
    return {"kind": "compare", "layers": layers, "maps": maps_of(result), "names": names}


def overlay_layer(fixed, moving, result: Registration, modalities, side_px: int = OVERLAY_PX) -> dict:
    """The vessels of two images (arrays) in the colours of their modalities, white where they agree."""
    small0, small1 = shrink(fixed, side_px), shrink(moving, side_px)
    small = result.resized(small0.shape[:2], small1.shape[:2])
    picture = overlay(small0, small.warp(small1), small.covered(), modality_colors(*modalities))
    return layer(picture, result.fixed_hw)
