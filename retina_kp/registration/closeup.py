"""A window of the fixed image, the moving image warped into it, and what their matches say. Search and close-up both
use it.

    original px ──base_from_original──▶ base px ──window.from_base──▶ window px ──stride──▶ cells of the network's maps
    as given                            field of view               seen by                detector, descriptors
                                        covers base_px²             the network

H always leads from the moving image's base px to the fixed one's; a step leads from window px to window px.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from ..core.geometry import corners, describe, similarity, translation, warp_points
from ..mapping.result import Registration
from ..mapping.transforms import Fit, fit_transform
from .keypoints import Features, guided_matches, matched_points
from .views import MAX_ENLARGE, ImageViews, moved_map

CELLS_PX = 32  # of a network's deepest layer
NEAR_PX = 8.0  # a window is not drawn anew for a step that moves its corners less
MIN_COMMON_PX, MARGIN_PX = 40.0, 12.0  # base px: least side of what both images show; rim around it


@dataclass(frozen=True)
class Window:
    """A part of the fixed image, as the network sees it. from_base: (3, 3) fixed base px → window px; zoom: px per base
    px."""

    from_base: np.ndarray
    hw: tuple[int, int]
    zoom: float
    features0: Features

    @property
    def frame(self) -> Frame:
        """Where it lies."""
        return Frame(self.from_base, self.hw, self.zoom)

    def around(self, places: np.ndarray, margin_px: float) -> Window:
        """The part of it around places (N, 2) base px, with a margin in its own px. The network's cells stay where they
        are: moved by half a cell they match worse."""
        places, limit = warp_points(places, self.from_base), np.array(self.hw[::-1])
        low = (places.min(0) - margin_px).clip(0, limit - 1) // CELLS_PX * CELLS_PX
        high = np.ceil(places.max(0) + margin_px).clip(low + 1, limit)
        shift, hw = translation(*-low), tuple(int(n) for n in (high - low)[::-1])
        return replace(self, from_base=shift @ self.from_base, hw=hw, features0=self.features0.mapped(shift, hw))

    def warped(self, views1: ImageViews, H: np.ndarray) -> Warped:
        """The moving image in this window, by H."""
        return Warped(self, H, views1.warped(self.from_base @ H, self.hw))


@dataclass(frozen=True)
class Warped:
    """The moving image warped into a window by H, and its features there, window px."""

    window: Window
    H: np.ndarray
    features1: Features

    def matches(self, radius_px: float, start: np.ndarray = np.eye(3)) -> tuple[np.ndarray, np.ndarray]:
        """Points (N, 2) of both images, window px, that match within radius_px once ``start`` has moved those of image
        1."""
        index = guided_matches(self.window.features0, self.features1, start, radius_px)
        return matched_points(self.window.features0, self.features1, index)

    def fit(self, model: str, radius_px: float, threshold_px: float, start: np.ndarray = np.eye(3)):
        """(`Fit` or None, its points) of matches within radius_px that agree to threshold_px.

        Radius and threshold are base px, points and fit window px."""
        zoom = self.window.zoom
        points = self.matches(radius_px * zoom, start)
        return fit_transform(*points, model, threshold_px * zoom), points

    def composed(self, step: np.ndarray) -> np.ndarray:
        """(3, 3) moving base px → fixed base px: H and then a step."""
        return np.linalg.inv(self.window.from_base) @ step @ self.window.from_base @ self.H

    def moved_px(self, step: np.ndarray) -> float:
        """How far a step moves a corner of the window."""
        places = corners(self.window.hw)
        return float(np.linalg.norm(warp_points(places, step) - places, axis=1).max())

    def told(self, fit: Fit, points, step: np.ndarray, views0: ImageViews, views1: ImageViews) -> Registration:
        """A fit of points in the window, told in original px. step: (3, 3) window px of the warped features → px of
        points[1]."""
        original0_from_window = np.linalg.inv(self.window.from_base @ views0.base_from_original)
        window_from_original1 = step @ self.window.from_base @ self.H @ views1.base_from_original
        sizes = views0.original_hw, views1.original_hw
        result = Registration.from_fit(fit, original0_from_window, window_from_original1, *points, *sizes)
        return replace(result, angle_deg=describe(result.H_tried, result.moving_hw).angle_deg)


def whole_window(views0: ImageViews, scale: float) -> Window:
    """All of the fixed image's field of view at ``scale`` px per base px; its features are those of the upright
    view."""
    box = views0.outline * scale
    low, high = np.floor(box.min(0)), np.ceil(box.max(0))
    from_base, hw = translation(*-low) @ np.diag([scale, scale, 1.0]), tuple(int(n) + 1 for n in (high - low)[::-1])
    return Window(from_base, hw, scale, views0.features(0.0, scale).mapped(from_base, hw))


class Frame(NamedTuple):
    """Where a window lies, see `Window`."""

    from_base: np.ndarray
    hw: tuple[int, int]
    zoom: float

    def axes_px(self, views0: ImageViews) -> tuple[np.ndarray, np.ndarray]:
        """Original px of the fixed image that its columns (w,) and rows (h,) show."""
        corners_xy = [[0, 0], [self.hw[1] - 1, self.hw[0] - 1]]
        low, high = warp_points(corners_xy, np.linalg.inv(self.from_base @ views0.base_from_original))
        return np.linspace(low[0], high[0], self.hw[1]), np.linspace(low[1], high[1], self.hw[0])


def common_frame(
    views0: ImageViews, views1: ImageViews, H: np.ndarray, close_px: float, enlarge: float = MAX_ENLARGE
) -> Frame | None:
    """The frame around what both fields of view share, of close_px² px, but no image larger than ``enlarge`` times its
    original; None when they share next to nothing."""
    outline1 = warp_points(views1.outline, H)
    if not np.isfinite(outline1).all():
        return None
    seen = [np.zeros(views0.base_hw, np.uint8) for _ in range(2)]
    for mask, outline in zip(seen, (views0.outline, outline1), strict=True):
        cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(outline.clip(-1e4, 1e4)).astype(np.int32)), 1)
    common = seen[0] & seen[1]
    if common.sum() < MIN_COMMON_PX**2:
        return None
    x, y, width, height = cv2.boundingRect(common)
    low, high = np.array([x, y]) - MARGIN_PX, np.array([x + width, y + height]) + MARGIN_PX
    finest = min(views0.finest, views1.finest / np.sqrt(abs(np.linalg.det(H[:2, :2])))) * enlarge / MAX_ENLARGE
    zoom = min(close_px / float(np.sqrt(np.prod(high - low))), finest)
    return Frame(similarity(0, zoom, low, (0, 0)), tuple(int(n) + 1 for n in ((high - low) * zoom)[::-1]), zoom)


def common_window(views0: ImageViews, views1: ImageViews, H: np.ndarray, close_px: float) -> Window | None:
    """The window in `common_frame`."""
    frame = common_frame(views0, views1, H, close_px)
    return None if frame is None else Window(*frame, views0.warped(frame.from_base, frame.hw))


@dataclass(frozen=True)
class Candidate:
    """A hypothesis looked at closely. step: (3, 3) window px, from where the moving features were warped to where their
    matches put them; result: the whole in original px, with its confidence."""

    warped: Warped
    step: np.ndarray
    result: Registration

    @property
    def H(self) -> np.ndarray:
        """(3, 3) moving base px → fixed base px."""
        return self.warped.composed(self.step)

    def maps(self, stride: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The detector's maps (h, w) of both images in the window, cells of ``stride`` px, the moving one's moved by the
        step; None in its place where that is so far that the image must be seen anew."""
        map0, map1 = self.warped.window.features0.detector, self.warped.features1.detector
        if not self.warped.moved_px(self.step) < NEAR_PX:
            return map0, None
        return map0, moved_map(map1, self.step, stride, map0.shape)
