"""Homographies, warps and grids: the only module that knows where a pixel's centre is.

Points are (x, y) px and the centre of the top-left pixel is (0, 0): an image of width W covers [-0.5, W - 0.5]. A
matrix ``H_0to1`` maps points of image 0 to points of image 1. Sizes are (height, width). Functions on points and
matrices take numpy arrays or torch tensors and return the same kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch.nn.utils.rnn import pad_sequence

# ------------------------------------------------------------------ points and matrices


def warp_points(points_xy, H):
    """Map points (..., N, 2) px by a homography (..., 3, 3); batch axes broadcast. Returns (..., N, 2).

    A point on or behind the horizon (w <= 0) becomes NaN, so that nothing downstream can mistake it for a match.
    """
    if isinstance(points_xy, torch.Tensor):
        points_xy = points_xy if points_xy.is_floating_point() else points_xy.to(H.dtype)
        H, where = H.to(points_xy), torch.where
    else:
        points_xy, H, where = np.asarray(points_xy, np.float64), np.asarray(H, np.float64), np.where
    mapped = points_xy @ H[..., :2].swapaxes(-1, -2) + H[..., None, :, 2]
    w = mapped[..., 2:]
    return mapped[..., :2] / where(w > 1e-8, w, math.nan)


def translation(x_px: float, y_px: float) -> np.ndarray:
    """(3, 3) matrix that moves every point by (x_px, y_px)."""
    return np.array([[1.0, 0, x_px], [0, 1, y_px], [0, 0, 1]])


def similarity(angle_deg: float, scale: float, source_xy, target_xy) -> np.ndarray:
    """(3, 3) matrix that turns by ``angle_deg`` (clockwise on screen), scales, and takes source_xy to target_xy."""
    c, s = scale * math.cos(math.radians(angle_deg)), scale * math.sin(math.radians(angle_deg))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return translation(*target_xy) @ turn @ translation(-source_xy[0], -source_xy[1])


def image_center(image_hw) -> tuple[float, float]:
    """(x, y) of the middle of an image, e.g. (1, 1) for 3x3 and (1.5, 0.5) for height 2, width 4."""
    return (image_hw[1] - 1) / 2, (image_hw[0] - 1) / 2


def resize_matrix(from_hw, to_hw) -> np.ndarray:
    """(3, 3) matrix, pixel of an image → the same spot after resizing it: x' = (x + 0.5) s - 0.5."""
    sx, sy = to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1.0]])


def rescale_homography(H_0to1, resize0: np.ndarray, resize1: np.ndarray) -> np.ndarray:
    """H between two images that were resized by ``resize0`` and ``resize1`` (from `resize_matrix`): R1 · H · R0⁻¹."""
    return resize1 @ np.asarray(H_0to1, np.float64) @ np.linalg.inv(resize0)


def as_homography(matrix) -> np.ndarray:
    """A 2x3 or 3x3 matrix as a normalised (3, 3) float64 homography; ValueError names what is wrong with it."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape == (2, 3):
        matrix = np.vstack([matrix, [0, 0, 1]])
    if matrix.shape != (3, 3):
        raise ValueError(f"a transform has shape (2, 3) or (3, 3), not {matrix.shape}")
    if not np.isfinite(matrix).all() or abs(matrix[2, 2]) < 1e-12 or abs(np.linalg.det(matrix)) < 1e-12:
        raise ValueError(f"this matrix is no invertible transform: {np.round(matrix, 4).tolist()}")
    return matrix / matrix[2, 2]


def corners(image_hw) -> np.ndarray:
    """(4, 2) centres of the corner pixels, clockwise from the top left."""
    h, w = image_hw
    return np.array([[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]], np.float64)


def jacobian(H, point_xy) -> np.ndarray:
    """(2, 2) derivative of the mapping H at a point: what it does to a small patch there."""
    H = np.asarray(H, np.float64)
    x, y, w = H @ np.array([*point_xy, 1.0])
    return (H[:2, :2] - np.outer([x / w, y / w], H[2, :2])) / w


@dataclass(frozen=True)
class Shape:
    """What a transform does to the middle of an image; the angle is clockwise, anisotropy at least 1."""

    angle_deg: float
    scale: float
    anisotropy: float
    mirrored: bool
    perspective: float


def describe(H, image_hw) -> Shape:
    """Shape of H at the image centre; perspective is the largest change of w over the corners."""
    J = jacobian(H, image_center(image_hw))
    u, s, vt = np.linalg.svd(J)
    mirrored = bool(np.linalg.det(J) < 0)
    R = u @ np.diag([1, -1 if mirrored else 1]) @ vt
    w = corners(image_hw) @ np.asarray(H)[2, :2] + H[2, 2]
    return Shape(
        math.degrees(math.atan2(R[1, 0], R[0, 0])),
        float(np.sqrt(s[0] * s[1])),
        float(s[0] / max(s[1], 1e-12)),
        mirrored,
        float(np.abs(w / w.mean() - 1).max()),
    )


def overlap_fraction(H_0to1, image0_hw, image1_hw, samples: int = 24) -> float:
    """Share of image 1's area that image 0 sees too, in [0, 1], by its `lattice`."""
    return float(inside(warp_points(lattice(image1_hw, samples), np.linalg.inv(H_0to1)), image0_hw).mean())


def lattice(image_hw, samples: int) -> np.ndarray:
    """(samples², 2) evenly spaced points from corner to corner of an image."""
    axes = (np.linspace(0, n - 1, samples) for n in image_hw[::-1])
    return np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)


def corner_error(H_estimated, H_true, image_hw) -> float:
    """Mean distance in target px between the corners of an image mapped by two transforms (MACE)."""
    c = corners(image_hw)
    return float(np.linalg.norm(warp_points(c, H_estimated) - warp_points(c, H_true), axis=1).mean())


def inside(points_xy, image_hw, border_px: float = 0.0):
    """(...,) bool: points within the frame, at least border_px from its outermost pixel centres. NaN is outside."""
    h, w = image_hw
    x, y = points_xy[..., 0], points_xy[..., 1]
    return (x >= border_px) & (y >= border_px) & (x <= w - 1 - border_px) & (y <= h - 1 - border_px)


def pad_points(points: list[torch.Tensor]) -> torch.Tensor:
    """Lists of points (N_i, D) as one tensor (B, max N, D), NaN behind the last point; at least one row."""
    return pad_sequence([*points, points[0].new_full((1, points[0].shape[1]), torch.nan)], True, torch.nan)[:-1]


def known_points(points: torch.Tensor) -> torch.Tensor:
    """(N, D) the rows of a NaN-padded list that are points."""
    return points[torch.isfinite(points).all(-1)]


# ------------------------------------------------------------------ grids and images


def pixel_grid(image_hw, device=None, dtype=torch.float32) -> torch.Tensor:
    """(H, W, 2) xy coordinates of every pixel centre."""
    y, x = torch.meshgrid(*(torch.arange(n, device=device, dtype=dtype) for n in image_hw), indexing="ij")
    return torch.stack([x, y], -1)


def to_cells(points_xy, stride: float):
    """Image px → coordinates on a map whose cells are stride x stride px (cell centre k at stride·k + (stride-1)/2)."""
    return (points_xy + 0.5) / stride - 0.5


def from_cells(cells_xy, stride: float):
    """Inverse of `to_cells`."""
    return (cells_xy + 0.5) * stride - 0.5


def sample_map(values: torch.Tensor, points_xy: torch.Tensor, stride: float = 1.0, mode="bilinear") -> torch.Tensor:
    """Read a map (B, C, h, w) at image points (B, N, 2) px → (B, N, C).

    Outside, and at NaN points, the value is 0; it fades to 0 over one cell from the outermost cell centres on.
    """
    grid = _normalised(to_cells(torch.nan_to_num(points_xy, nan=-1e6), stride), values.shape[-2:])
    read = F.grid_sample(values, grid[:, None].to(values.dtype), mode=mode, align_corners=False)
    return rearrange(read, "b c 1 n -> b n c")


def warp_image(image: torch.Tensor, H_src_to_dst: torch.Tensor, out_hw) -> tuple:
    """Draw images (B, C, H, W) in other frames; H_src_to_dst: (B, 3, 3) px → px.

    Returns the warped (B, C, *out_hw) and a bool mask (B, 1, *out_hw) of the pixels that the source covers; the rest is
    0. To warp a background mask, warp the foreground and invert.
    """
    grid = pixel_grid(out_hw, image.device, torch.float64).reshape(1, -1, 2)
    source = warp_points(grid, torch.linalg.inv(H_src_to_dst.double()))
    valid = rearrange(inside(source, image.shape[-2:], -1e-3), "b (h w) -> b 1 h w", h=out_hw[0])
    source = rearrange(torch.nan_to_num(source, nan=-1e6), "b (h w) d -> b h w d", h=out_hw[0])
    grid = _normalised(source, image.shape[-2:]).to(image.dtype)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False) * valid, valid


def warp_layers(layers: np.ndarray, H_src_to_dst: np.ndarray, out_hw) -> tuple[np.ndarray, np.ndarray]:
    """Draw uint8 layers (C, H, W) in another frame with OpenCV, which is fast and rounds places to 1/32 px.

    Returns (C, *out_hw) uint8 and the bool mask (*out_hw) of what the source covers. The horizon must lie outside the
    new frame: OpenCV draws what is behind it.
    """
    H = np.asarray(H_src_to_dst, np.float64)

    def draw(layer):
        return cv2.warpPerspective(layer, H, (out_hw[1], out_hw[0]), flags=cv2.INTER_LINEAR)

    warped = np.stack([draw(layer) if layer.any() else np.zeros(out_hw, np.uint8) for layer in layers])
    return warped, draw(np.full(layers.shape[1:], 255, np.uint8)) > 254


def _normalised(xy: torch.Tensor, hw) -> torch.Tensor:
    """Pixel coordinates → grid_sample's [-1, 1] range for align_corners=False."""
    return (2 * xy + 1) / torch.tensor([hw[1], hw[0]], device=xy.device, dtype=xy.dtype) - 1


# ------------------------------------------------------------------ random transforms


@dataclass(frozen=True)
class TransformRange:
    """How far random transforms may go; every range is symmetric and drawn on its own."""

    rotation_deg: float = 50.0
    scale_ratio: float = 1.5  # scale is log-uniform in [1 / ratio, ratio]
    shift: float = 0.3  # of the image's width and height
    shear: float = 0.05  # off-diagonal entry
    perspective: float = 0.02  # change of w from the centre to the border

    def scaled(self, strength: float) -> TransformRange:
        """The same ranges at a fraction of their width, strength in [0, 1]."""
        rest = (self.shift * strength, self.shear * strength, self.perspective * strength)
        return TransformRange(self.rotation_deg * strength, self.scale_ratio**strength, *rest)


def random_homographies(count: int, image_hw, ranges: TransformRange, generator: torch.Generator) -> torch.Tensor:
    """(count, 3, 3) float64 px → px of an image of that size: turn, scale, shear, tilt about its centre, then shift."""
    u = torch.rand(count, 8, generator=generator, dtype=torch.float64) * 2 - 1
    h, w = image_hw
    angle, scale = torch.deg2rad(u[:, 0] * ranges.rotation_deg), ranges.scale_ratio ** u[:, 1]
    rotation, shear, tilt, shift = torch.eye(3, dtype=torch.float64).repeat(4, count, 1, 1)
    rotation[:, 0, 0] = rotation[:, 1, 1] = scale * angle.cos()
    rotation[:, 1, 0] = scale * angle.sin()
    rotation[:, 0, 1] = -rotation[:, 1, 0]
    shear[:, 0, 1], shear[:, 1, 0] = u[:, 2] * ranges.shear, u[:, 3] * ranges.shear
    tilt[:, 2, 0], tilt[:, 2, 1] = u[:, 4] * ranges.perspective * 2 / w, u[:, 5] * ranges.perspective * 2 / h
    shift[:, 0, 2], shift[:, 1, 2] = u[:, 6] * ranges.shift * w, u[:, 7] * ranges.shift * h
    cx, cy = image_center(image_hw)
    to_center, back = torch.from_numpy(translation(-cx, -cy)), torch.from_numpy(translation(cx, cy))
    product = einsum(shift, back @ rotation, shear, tilt @ to_center, "n a b, n b c, n c d, n d e -> n a e")
    return product / product[:, 2:, 2:]
