"""Two images of one frame in one picture."""

from __future__ import annotations

import cv2
import numpy as np

from .vessels import local_contrast

GREEN_MAGENTA = ((0.0, 1.0, 0.0), (1.0, 0.0, 1.0))
# of vessels in overlays, bright on black and told apart by colour-blind readers; where two images agree the overlay is
# white
MODALITY_COLORS = {"CF": (0.0, 0.85, 0.55), "FA": (1.0, 0.55, 0.0), "OCT": (0.4, 0.6, 1.0), "OCTA": (1.0, 0.4, 0.85)}


def modality_colors(modality0: str, modality1: str) -> list[tuple[float, float, float]]:
    """RGB in [0, 1] of two modalities, told apart also where they are the same; gray for an unknown one."""
    if modality0 == modality1:
        return [MODALITY_COLORS["CF"], MODALITY_COLORS["OCTA"]]
    return [MODALITY_COLORS.get(name, (0.6, 0.6, 0.6)) for name in (modality0, modality1)]


def contrast_stretch(image, low: float = 1, high: float = 99) -> np.ndarray:
    """Spread the values between two percentiles, all channels together, over [0, 1] float32; a constant becomes 0."""
    image = checked_picture(image)
    a, b = np.percentile(image, [low, high]).astype(np.float32)
    return np.clip((image - a) / (b - a), 0, 1) if b > a else np.zeros_like(image)


def overlay(fixed, warped, valid=None, colors=GREEN_MAGENTA) -> np.ndarray:
    """Vessels of two images of one frame in green (fixed) and magenta (warped): white where they agree.

    fixed, warped: HxW(x3) of one size; valid: (H, W) bool, where the warped image covers the frame (default:
    everywhere); colors: RGB in [0, 1] of the two. Vessels of either polarity are bright, over the fixed image in faint
    grey; what only that one covers is darker. Returns (H, W, 3) float32 in [0, 1]. ValueError when sizes differ.
    """
    valid = _covered(fixed, warped, valid)
    green, magenta = _vessel_contrast(fixed, np.ones_like(valid)), _vessel_contrast(warped, valid)
    both = np.minimum(green, magenta)[..., None]
    vessels = both
    for each, color in zip((green, magenta), colors, strict=True):
        vessels = vessels + (each[..., None] - both) * np.float32(color)
    faint = 0.3 * contrast_stretch(vessel_channel(fixed), 0, 99.5)[..., None]
    return ((faint + (1 - faint) * vessels) * np.where(valid, 1, 0.45)[..., None]).astype(np.float32)


def checkerboard(fixed, warped, valid=None, tiles: int = 8) -> np.ndarray:
    """Tiles of two stretched images in turn: where they are aligned, vessels run on across the edges.

    fixed, warped: HxW(x3) of one size; valid: (H, W) bool, outside it the fixed image shows; tiles: on the longer side.
    Returns float32 in [0, 1], HxWx3 when either image has colours, else HxW. ValueError when sizes differ.
    """
    valid = _covered(fixed, warped, valid)
    rows, columns = (np.arange(n) * tiles // max(valid.shape) for n in valid.shape)
    take = ((rows[:, None] + columns) % 2 == 1) & valid
    board = np.where(take[..., None], np.atleast_3d(contrast_stretch(warped)), np.atleast_3d(contrast_stretch(fixed)))
    return board if board.shape[2] == 3 else board[..., 0]


def checked_picture(image) -> np.ndarray:
    """(H, W) or (H, W, 3) float32 without NaN and infinity, values as they were; ValueError for any other shape."""
    image = np.asarray(image)
    if image.size == 0 or image.ndim < 2 or image.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(f"an image has shape (H, W) or (H, W, 3) and at least one pixel, not {image.shape}")
    image = np.nan_to_num(image.astype(np.float32), posinf=0, neginf=0)
    return image[..., 0] if image.shape[2:] == (1,) else image


def displayable(image) -> np.ndarray:
    """Float picture in [0, 1]: uint8, bool and floats in range keep their brightness, all else is stretched."""
    dtype = np.asarray(image).dtype
    values = checked_picture(image) / (255 if dtype == np.uint8 else 1)
    kept = dtype == np.uint8 or (dtype.kind in "bf" and values.min() >= 0 and values.max() <= 1)
    return values if kept else contrast_stretch(values)


def vessel_channel(image) -> np.ndarray:
    """(H, W) float32: the green channel, where vessels have most contrast, or the gray image itself."""
    image = checked_picture(image)
    return image if image.ndim == 2 else image[..., 1]


def _covered(fixed, warped, valid) -> np.ndarray:
    valid = np.ones(np.shape(fixed)[:2], bool) if valid is None else np.asarray(valid, bool)
    if not np.shape(fixed)[:2] == np.shape(warped)[:2] == valid.shape:
        sizes = f"fixed {np.shape(fixed)}, warped {np.shape(warped)}, valid {valid.shape}"
        raise ValueError(f"one frame means one size, not {sizes}")
    return valid


def _vessel_contrast(image, valid) -> np.ndarray:
    """(H, W) in [0, 1]: local contrast, signed so that thin structures (the skewed tail) are bright."""
    grey, sigma = vessel_channel(image), max(max(valid.shape) / 60, 1)
    grey = (grey - min(grey.min(), 0)) / max(np.percentile(grey, 99.5) - min(grey.min(), 0), 1e-6)
    mask = cv2.erode((valid & (grey > 0.05)).astype(np.float32), np.ones((5, 5), np.uint8))
    detail = cv2.GaussianBlur(local_contrast(grey, mask, sigma), (0, 0), max(sigma / 10, 0.5))
    return np.clip((detail * np.sign((detail**3).sum()) - 0.3) / 2, 0, 1)
