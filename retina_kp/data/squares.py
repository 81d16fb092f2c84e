"""Pictures of any shape on squares of one size, which part of them is shown, and what of masks and points is seen
there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from ..core.geometry import inside, resize_matrix, sample_map, translation
from ..core.images import read_image


def letterbox(image: np.ndarray, size_px: int, like_hw: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Fit an image (H, W) float32 into the middle of a black square of size_px, proportions kept to within half a
    pixel.

    like_hw: size of another image of the same scene, on whose place in its square this one goes; its own by default.
    Returns the square and the (3, 3) matrix, px of the image → px of the square.
    """
    like_hw = like_hw or image.shape
    hw = tuple(max(round(n * size_px / max(like_hw)), 1) for n in like_hw)
    small = cv2.resize(
        image, hw[::-1], interpolation=cv2.INTER_AREA if max(hw) < max(image.shape) else cv2.INTER_LINEAR
    )
    top, left = (size_px - hw[0]) // 2, (size_px - hw[1]) // 2
    square = np.zeros((size_px, size_px), np.float32)
    square[top : top + hw[0], left : left + hw[1]] = small
    return square, translation(left, top) @ resize_matrix(image.shape, hw)


@dataclass(frozen=True)
class FrameRange:
    """Which part of a pair is shown, and how it is turned, before image 1 is transformed on its own. A picture as a
    whole has zoom 1."""

    zoom: tuple[float, float] = (1.0, 1.0)  # log-uniform
    turn_deg: float = 0.0  # at most, either way
    # 0: another part every time; n: one of n parts per pair, so that a sample comes back as PKE needs it
    per_pair: int = 0

    def __post_init__(self):
        if not 0 < self.zoom[0] <= self.zoom[1] or self.turn_deg < 0 or self.per_pair < 0:
            raise ValueError(f"frames: takes zoom with 0 < least <= most, turn_deg and per_pair from 0; not {self}")

    @property
    def whole(self) -> bool:
        """Whether everything is shown as it lies."""
        return self.zoom == (1.0, 1.0) and not self.turn_deg

    def cached_px(self, size_px: int) -> int:
        """Side of the squares from which frames of size_px are cut: large enough for the largest zoom."""
        return round(size_px * max(self.zoom[1], 1.0))


def read_vessel_mask(path: Path, image_hw: tuple[int, int], size_px: int) -> np.ndarray:
    """(S, S) bool vessels on the square of image 0, whose size is image_hw; any colour or level of the file is vessel.

    A mask that is larger than its image is averaged straight onto the square: junctions survive that best.
    """
    strength = read_image(path)
    strength = strength.max(-1) if strength.ndim == 3 else strength
    mask = (strength > strength.max() / 2).astype(np.float32)
    if mask.size < image_hw[0] * image_hw[1]:
        mask = cv2.resize(mask, image_hw[::-1], interpolation=cv2.INTER_NEAREST)
    return letterbox(mask, size_px, image_hw)[0] > 0.5


def or_nan(xy: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Points (N, 2) px, NaN where they lie outside a field of view (1, 1, S, S)."""
    if not len(xy):
        return xy
    seen = inside(xy, valid.shape[-2:]) & (sample_map(valid.float(), xy[None])[0, :, 0] > 0.99)
    return torch.where(seen[:, None], xy, torch.nan)


def seen_points(xy: torch.Tensor, valid: torch.Tensor, border_px: float = 2.0) -> torch.Tensor:
    """The points (N, 2) px that lie in a field of view (1, 1, S, S) and not on the frame."""
    keep = inside(xy, valid.shape[-2:], border_px)
    return xy[keep & (sample_map(valid.float(), xy[None])[0, :, 0] > 0.99)] if len(xy) else xy
