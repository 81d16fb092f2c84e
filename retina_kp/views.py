"""One image made ready for the network: gray, field of view, brought to a working size, and looked at turned and scaled on demand."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from .geometry import resize_matrix, similarity, translation, warp_points
from .images import to_gray
from .keypoints import Features, KeypointOptions, extract
from .vessels import field_of_view_mask


class ImageViews:
    """Turned and scaled views of one image with their features, computed once each.

    working_px is the square root of the area of the field of view in the "base" image (scale 1), so the base does not depend on how
    large a black canvas surrounds the retina or how it is turned.
    """

    def __init__(self, image: np.ndarray, network, options: KeypointOptions, working_px: float, max_enlarge: float = 2.0):
        self.network, self.options = network, options
        self.original_hw = tuple(image.shape[:2])
        gray = to_gray(image)
        valid = field_of_view_mask(gray)
        self.contrast = float(gray[valid].std())
        self.scale = min(working_px / np.sqrt(valid.sum()), max_enlarge)
        self.original = gray
        self.base, self.base_from_original = _resized(gray, self.scale)
        self.valid = cv2.resize(valid.astype(np.float32), self.base.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
        outline = cv2.convexHull(np.argwhere(self.valid)[:, ::-1].astype(np.int32))
        self.outline = outline.reshape(-1, 2).astype(np.float64)
        self._features: dict[tuple[float, float], Features] = {}

    @property
    def base_hw(self) -> tuple[int, int]:
        return self.base.shape

    def features(self, angle_deg: float = 0.0, scale: float = 1.0) -> Features:
        """Features of the view turned by angle_deg (clockwise) and scaled, given in base px."""
        key = (angle_deg, scale)
        if key not in self._features:
            gray, level_from_base = (self.base, np.eye(3)) if scale == 1 else _resized(self.base, scale)
            turn = similarity(angle_deg, 1.0, (0, 0), (0, 0))
            box = warp_points(self.outline, turn @ level_from_base)
            low, high = np.floor(box.min(0)), np.ceil(box.max(0))
            view_from_level = translation(*-low) @ turn
            view_hw = tuple(int(n) + 1 for n in (high - low)[::-1])
            features = self._extract(gray, view_from_level, view_from_level @ level_from_base, view_hw)
            self._features[key] = features.mapped(np.linalg.inv(view_from_level @ level_from_base), self.base_hw)
        return self._features[key]

    def aligned(self, H_to_frame: np.ndarray, frame_hw) -> Features:
        """Features of this image redrawn in another frame; H_to_frame: base px → px of that frame. Given in px of that frame."""
        shrink = min(1.0, float(np.sqrt(abs(np.linalg.det(H_to_frame[:2, :2])))))
        gray, level_from_base = (self.base, np.eye(3)) if shrink > 0.8 else _resized(self.base, shrink)
        return self._extract(gray, H_to_frame @ np.linalg.inv(level_from_base), H_to_frame, frame_hw)

    def _extract(self, gray, H_from_level, H_from_base, frame_hw) -> Features:
        size = (frame_hw[1], frame_hw[0])
        picture = cv2.warpPerspective(gray, H_from_level, size, flags=cv2.INTER_LINEAR)
        valid = cv2.warpPerspective(self.valid.astype(np.float32), H_from_base, size, flags=cv2.INTER_LINEAR) > 0.99
        device = next(self.network.parameters()).device
        image, mask = (torch.from_numpy(x)[None, None].to(device) for x in (picture, valid))
        return extract(self.network, image, mask, self.options)[0]


def _resized(gray: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A scaled copy and the matrix from px of the input to px of the copy."""
    hw = tuple(max(int(round(n * scale)), 16) for n in gray.shape)
    small = cv2.resize(gray, hw[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return small, resize_matrix(gray.shape, hw)
