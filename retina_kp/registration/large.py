"""Image files of any size: of montages smaller copies are registered, and only as much is decoded as is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..core.geometry import describe, resize_matrix, warp_points
from ..core.image_files import read_reduced
from ..core.images import as_array
from ..mapping.result import Registration
from ..mapping.saving import itk_spacing
from .rescue import points_only

LEAST_PX = 5000  # longer side of a copy: all that a view of the whole image can show, and more


@dataclass(frozen=True)
class Copy:
    """An image (H, W) or (H, W, 3) whose pixels are the means of times x times of its file's; whole_hw: the file's
    size; spacing: of a pixel of the file, see `saving.itk_spacing`."""

    image: np.ndarray
    times: int
    whole_hw: tuple[int, int]
    spacing: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def read(cls, path: str | Path, least_px: float = 0) -> Copy:
        """The checked image of a file, halved while its longer side stays at least least_px; ImageError as
        `as_array`."""
        image, times, hw = read_reduced(path, max(least_px, LEAST_PX))
        return cls(as_array(image, str(path)), times, hw, itk_spacing(path))

    @classmethod
    def of(cls, image: str | Path | np.ndarray, name: str = "image") -> Copy:
        """`read` of a path, or an array as it is; ImageError as `as_array`, by that name."""
        if isinstance(image, (str, Path)):
            return cls.read(image)
        image = as_array(image, name)
        return cls(image, 1, image.shape[:2])

    @property
    def from_file(self) -> np.ndarray:
        """(3, 3) matrix, px of the file → px of the copy."""
        return resize_matrix(self.covers_hw, self.image.shape[:2])

    @property
    def covers_hw(self) -> tuple[int, int]:
        """The part of the file's pixels that the copy has; less than one of its own pixels may be missing."""
        return self.image.shape[0] * self.times, self.image.shape[1] * self.times


def register_copies(registrar: Callable, fixed: Copy, moving: Copy, *points: np.ndarray) -> Registration:
    """The registration of two files, told in px of the files; so are points of the fixed and of the moving one, see
    `Registrar.__call__`."""
    copies = zip((fixed, moving), points, strict=False)  # there may be no points
    clicks = [warp_points(own, copy.from_file) for copy, own in copies]
    result = registrar(fixed.image, moving.image, *clicks)
    if fixed.times * moving.times > 1:
        result = result.resized(fixed.covers_hw, moving.covers_hw)
    return _of_files(result, fixed, moving)


def copies_by_points(fixed: Copy, moving: Copy, points0: np.ndarray, points1: np.ndarray) -> Registration:
    """`rescue.points_only` between two files."""
    return _of_files(points_only(points0, points1, fixed.whole_hw, moving.whole_hw), fixed, moving)


def _of_files(result: Registration, fixed: Copy, moving: Copy) -> Registration:
    sizes = {"fixed_hw": fixed.whole_hw, "moving_hw": moving.whole_hw}
    return replace(result, **sizes, fixed_spacing=fixed.spacing, moving_spacing=moving.spacing)


def warp_file(result: Registration, moving: str | Path, copy: Copy | None = None) -> np.ndarray:
    """`Registration.warp` of a file, of which no finer pixels are decoded than the fixed image has; by a copy of it
    that is at hand, where that is as fine."""
    coarser = min(describe(result.H_1to0, result.moving_hw).scale, 1.0)
    if copy is None or copy.times * coarser > 1:
        copy = Copy.read(moving, coarser * max(result.moving_hw))
    if copy.times == 1 or copy.whole_hw != result.moving_hw:
        return result.warp(copy.image)
    own = replace(result, moving_hw=copy.covers_hw)
    return own.resized(result.fixed_hw, copy.image.shape[:2]).warp(copy.image)
