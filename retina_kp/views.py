"""One image made ready for the network: gray, field of view, brought to a working size, and looked at turned and scaled on demand."""

from __future__ import annotations

import copy
from functools import lru_cache

import cv2
import numpy as np
import torch

from .geometry import resize_matrix, similarity, translation, warp_points
from .images import to_gray
from .keypoints import Features, KeypointOptions, extract
from .vessels import field_of_view_mask

MAX_ENLARGE = 2.0  # small images are not blown up further


class ImageViews:
    """Turned and scaled views of one image with their features, computed once each.

    working_px is the square root of the area of the field of view in the "base" image (scale 1), so the base does not depend on how
    large a black canvas surrounds the retina or how it is turned. fast: layers in bfloat16 where the device computes in it.
    """

    def __init__(self, image: np.ndarray, network, options: KeypointOptions, working_px: float, fast: bool = True):
        self.network, self.options, self.device = network, options, next(network.parameters()).device
        self.fast = fast and bfloat16_is_fast(self.device)
        self.original, self.original_hw = to_gray(image), tuple(image.shape[:2])
        self.original_valid = field_of_view_mask(self.original)
        self.contrast = float(self.original[self.original_valid].std())
        self._set_base(working_px)

    def _set_base(self, working_px: float) -> None:
        scale = min(working_px / np.sqrt(self.original_valid.sum()), MAX_ENLARGE)
        self.base, self.base_from_original = _resized(self.original, scale)
        self.valid = cv2.resize(self.original_valid.astype(np.float32), self.base.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
        contours = cv2.findContours(self.valid.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        self.outline = cv2.convexHull(np.concatenate(contours)).reshape(-1, 2).astype(np.float64)
        self._features: dict[tuple[float, float], Features] = {}

    def at(self, working_px: float) -> ImageViews:
        """The same image with a base of another size."""
        views = copy.copy(self)
        views._set_base(working_px)
        return views

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
        image, mask = (torch.from_numpy(x)[None, None].to(self.device) for x in (picture, valid))
        return extract(self.network, image, mask, self.options, self.fast)[0]


@lru_cache
def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively; elsewhere it is emulated, slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _resized(gray: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A scaled copy and the matrix from px of the input to px of the copy."""
    hw = tuple(max(int(round(n * scale)), 16) for n in gray.shape)
    small = cv2.resize(gray, hw[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return small, resize_matrix(gray.shape, hw)
