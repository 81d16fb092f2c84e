"""One image made ready for the network: gray, field of view, and warped into any frame on demand."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import torch

from ..core.compute import bfloat16_is_fast
from ..core.geometry import image_center, jacobian, resize_matrix, similarity, translation, warp_points
from ..core.images import resized, to_gray
from ..core.vessels import field_of_view_mask
from .keypoints import Features, KeypointOptions, describe_points, detector_map, extract

MAX_ENLARGE = 2.0  # pictures of an image are not blown up further
SPARSE = 8  # px between places that tell how large a picture draws the image
EMPTY = 1e-6  # of detector's maps in the field of view where they show nothing: 0 is beyond it
LONG = 1.8  # so many times as long as wide, a field of view may be a square one with oblong pixels


class ImageViews:
    """Pictures of one image and their features.

    Places are told in base px: those of the image scaled so that its field of view covers base_px² pixels, whatever
    black canvas surrounds it and however it is turned. Every picture is drawn from a copy of the original that is
    hardly finer than the picture, which keeps it free of aliasing. fast: layers in bfloat16 where the device computes
    in it. steerers: of `calibration.fit_steerers`, for turned views without a picture.
    """

    def __init__(
        self, image: np.ndarray, network, options: KeypointOptions, base_px: float, fast: bool = True, steerers=None
    ):
        self.network, self.options, self.device = network, options, next(network.parameters()).device
        self.steerers = steerers
        self.fast = fast and bfloat16_is_fast(self.device)
        self.base_px = base_px
        self._show(to_gray(image), None)

    def _show(self, gray: np.ndarray, valid: np.ndarray | None) -> None:
        """Begin with a gray image and its field of view (H, W) bool; None: to be found."""
        self.original, self.original_hw = gray, gray.shape
        self.valid = field_of_view_mask(gray) if valid is None else valid
        self.contrast = float(cv2.meanStdDev(self.original, mask=self.valid.view(np.uint8))[1].item())
        scale = min(self.base_px / np.sqrt(self.valid.sum()), MAX_ENLARGE)
        self.finest = MAX_ENLARGE / scale  # scale of a picture, in px per base px, beyond which nothing is gained
        self.base_from_original = similarity(0, scale, (-0.5, -0.5), (-0.5, -0.5))
        self.base_hw = tuple(max(round(n * scale), 1) for n in self.original_hw)
        contours = cv2.findContours(self.valid.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        outline = cv2.convexHull(np.concatenate(contours)).reshape(-1, 2)
        self.outline = warp_points(outline, self.base_from_original)  # of the field of view, convex, base px
        sides = cv2.minAreaRect(outline.astype(np.float32))[1]
        # of the field of view: its length over its width, whatever its turn
        self.slimness = (max(sides) + 1) / (min(sides) + 1)
        self._features: dict[tuple[float, float], Features] = {}
        self._maps: dict[float, tuple[np.ndarray, np.ndarray]] = {}
        self._copies: dict[int, tuple[np.ndarray, np.ndarray]] = {0: (self.original, np.eye(3))}

    def without(self, places: np.ndarray) -> ImageViews:
        """The same image with nothing to see at places (H, W) bool; itself where these are all of it."""
        other, left = copy.copy(self), field_of_view_mask(np.where(places, np.float32(0), self.original)) & ~places
        if not left.any():
            return self
        other._show(self.original, left)
        return other

    def flipped(self) -> ImageViews:
        """The mirror image, left for right."""
        other = copy.copy(self)
        other._show(*(np.ascontiguousarray(each[:, ::-1]) for each in (self.original, self.valid)))
        return other

    def brightest(self) -> float:
        """The gray level that all but 1 % of the field of view keep below; labels are no part of it."""
        step = max(min(self.original_hw) // 256, 1)
        return float(np.percentile(self.original[::step, ::step][self.valid[::step, ::step]], 99))

    def squared_hw(self) -> tuple[int, int]:
        """The size in which pixels would be square if the image's sides were 2 or 4 times too unlike, as in scans of
        few lines; its own size where the field of view is no longer than others are."""
        length_xy = np.ptp(self.outline, axis=0) + 1
        ratio, (h, w) = max(length_xy) / min(length_xy), self.original_hw
        times = 1 if ratio < LONG else 2 if ratio < 2 * np.sqrt(2) else 4
        return (h * times, w) if length_xy[0] > length_xy[1] else (h, w * times)

    def features(self, angle_deg: float = 0.0, scale: float = 1.0) -> Features:
        """Features of the view turned by angle_deg (clockwise) at ``scale`` px per base px, given in base px;
        kept. With steerers only the upright view is warped and its descriptors are steered, which asks for a multiple of
        45."""
        key = (angle_deg, scale)
        if key not in self._features and angle_deg and self.steerers is not None:
            self._features[key] = self.features(0.0, scale).steered(self.steerers, angle_deg)
        if key not in self._features:
            turn = similarity(angle_deg, scale, (-0.5, -0.5), (-0.5, -0.5))
            box = warp_points(self.outline, turn)
            low, high = np.floor(box.min(0)), np.ceil(box.max(0))
            view_from_base = translation(*-low) @ turn
            features = self.warped(view_from_base, tuple(int(n) + 1 for n in (high - low)[::-1]))
            if not angle_deg:
                self._maps[scale] = features.detector, np.linalg.inv(view_from_base)
            self._features[key] = features.mapped(np.linalg.inv(view_from_base), self.base_hw)
        return self._features[key]

    def upright_map(self, scale: float, H_frame_from_base: np.ndarray, map_hw) -> np.ndarray:
        """The detector's map of the upright view, whose `features` are known, moved into cells map_hw of a frame."""
        detector, base_from_view = self._maps[scale]
        return moved_map(detector, H_frame_from_base @ base_from_view, self.network.detector_stride, map_hw)

    def warped(self, H_frame_from_base: np.ndarray, frame_hw) -> Features:
        """Features of this image warped into a frame of frame_hw, given in px of that frame; H: base px → px of the
        frame."""
        return self.seen(*self.picture(H_frame_from_base, frame_hw))

    def seen(self, picture: torch.Tensor, valid: torch.Tensor) -> Features:
        """Features of a picture of this image, see `picture`, in its px."""
        return extract(self.network, picture, valid, self.options, self.fast)[0]

    def detector_map(self, picture: torch.Tensor, valid: torch.Tensor) -> np.ndarray:
        """`Features.detector` of a picture of this image."""
        return detector_map(self.network, picture, valid, self.options, self.fast)

    def described(self, H_frame_from_base: np.ndarray, frame_hw, points_xy: np.ndarray) -> np.ndarray:
        """(N, D) unit descriptors at points (N, 2), px of the frame, of this image as in `warped`."""
        picture, mask = self.picture(H_frame_from_base, frame_hw)
        return describe_points(self.network, picture, mask, points_xy, self.fast)

    def picture(self, H_frame_from_base: np.ndarray, frame_hw) -> tuple[torch.Tensor, torch.Tensor]:
        """This image, gray in [0, 1], and its field of view, bool, warped into a frame: (1, 1, h, w) each, on the
        network's device."""
        H, size = H_frame_from_base @ self.base_from_original, (frame_hw[1], frame_hw[0])
        gray, copy_from_original = self._copy(H)
        picture = cv2.warpPerspective(gray, H @ np.linalg.inv(copy_from_original), size, flags=cv2.INTER_LINEAR)
        valid = cv2.warpPerspective(self.valid.view(np.uint8), H, size, flags=cv2.INTER_NEAREST) > 0
        return tuple(torch.from_numpy(x)[None, None].to(self.device) for x in (picture, valid))

    def drawn(self, places_xy: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """`picture` by places_xy (h, w, 2): the original px that each pixel of the frame shows; NaN shows nothing."""
        places = np.nan_to_num(places_xy, nan=-1e6).astype(np.float32)
        step = min(SPARSE, *(n - 1 for n in places_xy.shape[:2]))
        few = places_xy[::step, ::step]
        sides = np.diff(few[:-1], axis=1)[:, :, None], np.diff(few[:, :-1], axis=0)[:, :, None]
        # original px² that a pixel covers
        area = np.nanmedian(np.abs(np.linalg.det(np.concatenate(sides, 2)))) / step**2
        gray, copy_from_original = self._copy(np.diag([area**-0.5, area**-0.5, 1]))
        scale, shift = np.float32(np.diag(copy_from_original)[:2]), np.float32(copy_from_original[:2, 2])
        picture = cv2.remap(gray, places * scale + shift, None, cv2.INTER_LINEAR)
        valid = cv2.remap(self.valid.view(np.uint8), places, None, cv2.INTER_NEAREST) > 0
        return tuple(torch.from_numpy(x)[None, None].to(self.device) for x in (picture, valid))

    def _copy(self, H_frame_from_original: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The image shrunk by a power of √2, but no further than the frame asks for, and the matrix original px → px of
        the copy."""
        shrink = np.sqrt(abs(np.linalg.det(jacobian(H_frame_from_original, image_center(self.original_hw)))))
        level = max(int(-2 * np.log2(max(shrink, 1e-3)) + 0.2), 0)
        if level not in self._copies:
            hw = tuple(max(round(n * 0.5 ** (level / 2)), 1) for n in self.original_hw)
            self._copies[level] = resized(self.original, hw)
        return self._copies[level]


def moved_map(detector: np.ndarray, H: np.ndarray, stride: int, map_hw) -> np.ndarray:
    """A detector's map (h, w), cells of ``stride`` px, moved by H (3, 3), in px, into cells map_hw; 0 beyond it."""
    to_px = resize_matrix((1, 1), (stride, stride))
    cells, size = np.linalg.inv(to_px) @ H @ to_px, (map_hw[1], map_hw[0])
    moved = cv2.warpPerspective(detector, cells, size, flags=cv2.INTER_CUBIC)
    seen = cv2.warpPerspective(np.float32(detector > 0), cells, size, flags=cv2.INTER_NEAREST)
    return np.maximum(moved, EMPTY) * seen
