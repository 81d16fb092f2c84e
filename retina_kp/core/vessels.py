"""Classical image analysis: field of view, local contrast, vesselness, and junctions from a vessel mask."""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage import filters, morphology  # both load what is used when it is used: sato alone takes half a second

from .images import resized

BIFURCATION, CROSSING = 0, 1


def field_of_view_mask(gray: np.ndarray, tolerance: float = 0.02) -> np.ndarray:
    """Where an image shows retina: (H, W) bool for gray (H, W) float in [0, 1], any size.

    Cameras' fields are convex, so the inside is the hull of what the outside leaves. The whole frame counts where there
    is no outside, or where what it leaves is in pieces (dark retina between bright vessels). Works on a copy of at most
    256 px.
    """
    h, w = gray.shape
    scale = min(1.0, 256 / max(h, w))
    small = resized(gray.astype(np.float32), (max(round(h * scale), 8), max(round(w * scale), 8)))[0]
    outside = _outside(cv2.medianBlur(np.clip(small * 255, 0, 255).astype(np.uint8), 3), tolerance)
    if outside.mean() < 0.01:
        return np.ones((h, w), bool)
    outside = cv2.dilate(outside.astype(np.uint8), np.ones((3, 3)))
    inside = cv2.morphologyEx(1 - outside, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    labels, count = ndimage.label(inside)
    sizes = ndimage.sum_labels(inside, labels, range(1, count + 1))
    if not count or sizes.max() < 0.04 * inside.size:
        return np.ones((h, w), bool)
    outline = np.argwhere(labels == 1 + np.argmax(sizes))[:, ::-1].astype(np.int32)
    hull = cv2.fillConvexPoly(np.zeros(small.shape, np.float32), cv2.convexHull(outline), 1.0)
    if sizes.max() < max(0.7 * hull.sum(), 4 * (sizes.sum() - sizes.max())):
        return np.ones((h, w), bool)
    return cv2.resize(hull, (w, h), interpolation=cv2.INTER_LINEAR) > 0.5


def _outside(levels: np.ndarray, tolerance: float) -> np.ndarray:
    """What is smooth, connected to a dark corner or a painted border and equal to it within ``tolerance``, (h, w) bool:
    black surrounds, gray pads, canvases of a turned image. levels: (h, w) uint8."""
    smooth = levels.astype(np.float32) / 255
    flat = cv2.morphologyEx(smooth, cv2.MORPH_GRADIENT, np.ones((3, 3))) < 2 * tolerance
    outside = np.zeros(smooth.shape, bool)
    middle_y, middle_x = smooth.shape[0] // 2, smooth.shape[1] // 2
    for y, x in (*product((0, -1), (0, -1)), (0, middle_x), (-1, middle_x), (middle_y, 0), (middle_y, -1)):
        dark_corner = smooth[y, x] < 0.12 and y in (0, -1) and x in (0, -1)
        if outside[y, x] or not (dark_corner or _is_pad(smooth, y, x)):
            continue
        labels, _ = ndimage.label((np.abs(smooth - smooth[y, x]) < tolerance) & flat)
        if labels[y, x] and (dark_corner or smooth[labels == labels[y, x]].std() <= 1.5 / 255):
            outside |= labels == labels[y, x]
    return outside


def _is_pad(smooth: np.ndarray, y: int, x: int, span: int = 6) -> bool:
    """Whether the place at a border is painted: exactly constant over span x span pixels."""
    top, left = (n - span if k == -1 else max(k - span // 2, 0) for k, n in zip((y, x), smooth.shape, strict=True))
    return float(np.ptp(smooth[top : top + span, left : left + span])) <= 1 / 255


def local_contrast(gray: np.ndarray, mask: np.ndarray, sigma_px: float) -> np.ndarray:
    """(H, W): difference from the local mean over the local spread, both within the mask; 0 outside it.

    gray, mask: (H, W) float32, the mask of 0 and 1; sigma_px: of the Gaussian neighbourhood.
    """
    weight = cv2.GaussianBlur(mask, (0, 0), sigma_px) + 1e-6
    detail = (gray - cv2.GaussianBlur(gray * mask, (0, 0), sigma_px) / weight) * mask
    return detail / (np.sqrt(cv2.GaussianBlur(detail**2, (0, 0), sigma_px) / weight) + 0.01)


def vesselness(gray: np.ndarray, sigmas_px=(1.0, 1.5, 2.5, 4.0), polarity: str = "both") -> np.ndarray:
    """Ridge strength (H, W) float32 in [0, 1] (Sato et al. 1998, multi-scale Hessian).

    polarity: "dark" vessels (colour fundus, OCT), "bright" ones (FA, OCTA), or the stronger of "both".
    """
    if polarity not in ("dark", "bright", "both"):
        raise ValueError(f"polarity is 'dark', 'bright' or 'both', not {polarity!r}")
    image = gray.astype(np.float32) - cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 12)
    ridges = [
        filters.sato(image, sigmas_px, black_ridges=dark)
        for dark in (True, False)
        if polarity == "both" or dark == (polarity == "dark")
    ]
    strength = np.max(ridges, axis=0).astype(np.float32)
    top = float(np.percentile(strength, 99.5))
    return np.clip(strength / top, 0, 1) if top > 1e-6 else np.zeros_like(strength)


def vessel_mask(
    gray: np.ndarray, valid: np.ndarray | None = None, polarity="both", threshold=0.25, sigmas_px=(1.0, 1.5, 2.5, 4.0)
) -> np.ndarray:
    """A rough vessel mask (H, W) bool from `vesselness`, without specks below 40 px and the field of view's edge."""
    mask = vesselness(gray, sigmas_px, polarity) > threshold
    if valid is not None:
        mask &= cv2.erode(valid.astype(np.uint8), np.ones((9, 9)), borderValue=1) > 0
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    return mask & (np.bincount(labels[mask], minlength=count + 1) >= 40)[labels]


def skeleton_junctions(mask: np.ndarray, merge_px: float = 5.0, spur_px: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Bifurcations and crossings of a vessel mask (H, W) bool, from its skeleton.

    Returns points (J, 2) xy px and kinds (J,): BIFURCATION for three branches, CROSSING for four or more. Spurs shorter
    than spur_px are cut first; branch cells closer than merge_px are one junction, as a crossing's skeleton is two.
    """
    skeleton = _cut_spurs(morphology.skeletonize(np.asarray(mask, bool)), spur_px)
    nodes = skeleton & (_neighbours(skeleton) >= 3)
    if not nodes.any():
        return np.zeros((0, 2)), np.zeros(0, int)
    reach = int(np.ceil(merge_px / 2))
    zone = cv2.dilate(nodes.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)) > 0
    labels, count = ndimage.label(zone, np.ones((3, 3)))
    rows, columns = np.nonzero(nodes)
    sums = [np.bincount(labels[nodes], weights, count + 1)[1:] for weights in (columns, rows, None)]
    centers = np.stack(sums[:2], 1) / sums[2][:, None]
    rim = skeleton & ~zone
    kinds, keep = np.zeros(count, int), np.zeros(count, bool)
    for k, window in enumerate(ndimage.find_objects(labels)):
        window = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in window)
        around = cv2.dilate((labels[window] == k + 1).astype(np.uint8), np.ones((3, 3)))
        branches = cv2.connectedComponents(rim[window] & around, connectivity=8)[0] - 1  # the background is one, too
        kinds[k], keep[k] = (CROSSING if branches >= 4 else BIFURCATION), branches >= 3
    return centers[keep], kinds[keep]


def junction_widths(mask: np.ndarray, junctions_xy: np.ndarray, reach_px: float = 14.0) -> np.ndarray:
    """(J,) px: width of the thinner vessels that meet at each junction (J, 2) px of a mask (H, W) bool.

    It is read off the mask's skeleton within reach_px. It is at least 1: thinner vessels cannot be seen.
    """
    rows, columns = np.nonzero(morphology.skeletonize(np.asarray(mask, bool)))
    if not len(rows) or not len(junctions_xy):
        return np.zeros(len(junctions_xy))
    width = 2 * cv2.distanceTransform(np.asarray(mask, np.uint8), cv2.DIST_L2, 5)[rows, columns] - 1
    around = cKDTree(np.stack([columns, rows], 1)).query_ball_point(np.asarray(junctions_xy), reach_px)
    return np.array([np.percentile(width[near], 10) if near else 0.0 for near in around]).clip(1)


def _neighbours(skeleton: np.ndarray) -> np.ndarray:
    ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
    return cv2.filter2D(skeleton.astype(np.uint8), -1, ring, borderType=cv2.BORDER_CONSTANT)


def _cut_spurs(skeleton: np.ndarray, length_px: int) -> np.ndarray:
    """Remove side branches of at most length_px that end freely; whole isolated lines stay."""
    nodes = cv2.dilate((skeleton & (_neighbours(skeleton) >= 3)).astype(np.uint8), np.ones((3, 3))) > 0
    count, labels = cv2.connectedComponents((skeleton & ~nodes).astype(np.uint8), connectivity=8)

    def pixels(mask: np.ndarray) -> np.ndarray:
        return np.bincount(labels[mask], minlength=count)

    beside_nodes = cv2.dilate(nodes.astype(np.uint8), np.ones((3, 3))) > 0
    ends_freely = pixels(skeleton & (_neighbours(skeleton) == 1)) > 0
    spur = (pixels(skeleton) <= length_px) & ends_freely & (pixels(beside_nodes) > 0)
    spur[0] = False
    return morphology.skeletonize(skeleton & ~spur[labels]) if spur.any() else skeleton
