"""From dense maps to keypoints with descriptors, and from two sets of these to correspondences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F

from ..core.geometry import from_cells, inside, pixel_grid, sample_map, warp_points
from ..networks import DenseOutput

STEERED_DEG = (45.0, 90.0, 135.0, 180.0)  # clockwise turns that have a steerer; turns the other way take it transposed


@dataclass(frozen=True)
class KeypointOptions:
    """How keypoints are picked from a detector map; lengths in px of the image that the network saw."""

    max_keypoints: int = 1024
    min_probability: float = 0.02
    nms_radius_px: float = 4.0
    border_px: float = 4.0  # distance that keypoints keep from the frame and from the edge of the field of view


@dataclass(frozen=True)
class Features:
    """Keypoints of one image; N may be 0. keypoints_xy: (N, 2) float32 px; scores: (N,) detector probability, falling;
    descriptors: (N, D) unit vectors; image_hw: size of the image the pixels belong to. detector: (h, w) float32, the
    map in the network's cells, 0 outside the field of view; None once the places were mapped."""

    keypoints_xy: np.ndarray
    scores: np.ndarray
    descriptors: np.ndarray
    image_hw: tuple[int, int]
    detector: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keypoints_xy)

    def mapped(self, H: np.ndarray, image_hw) -> Features:
        """The same features with their places given in another frame."""
        return Features(
            warp_points(self.keypoints_xy, H).astype(np.float32), self.scores, self.descriptors, tuple(image_hw)
        )

    def without(self, places: np.ndarray, stride: int) -> Features:
        """The same features but for keypoints at places (h, w) bool, px of the picture, and with a map that is 0 there;
        stride: px per cell of the map."""
        x, y = np.rint(self.keypoints_xy).astype(int).T
        keep, (h, w) = ~places[y, x], self.detector.shape
        padded = np.pad(places, [(0, n * stride - k) for n, k in zip((h, w), places.shape, strict=True)])
        detector = self.detector * ~padded.reshape(h, stride, w, stride).any((1, 3))
        return Features(self.keypoints_xy[keep], self.scores[keep], self.descriptors[keep], self.image_hw, detector)

    def steered(self, steerers: np.ndarray, angle_deg: float) -> Features:
        """The same features with descriptors as they would be, about, had the picture been turned clockwise by
        angle_deg, a multiple of 45. steerers: (4, D, D), for STEERED_DEG, see `calibration.fit_steerers`. In torch for
        the reason given in `similarities`."""
        turn = angle_deg % 360
        if turn % 45:
            raise ValueError(f"descriptors are steered by multiples of 45°, not by {angle_deg:g}°")
        if turn == 0:
            return self
        matrix = steerers[STEERED_DEG.index(turn)] if turn <= 180 else steerers[STEERED_DEG.index(360 - turn)].T
        return replace(self, descriptors=(torch.from_numpy(self.descriptors) @ torch.from_numpy(matrix)).numpy())


def seen_cells(valid: torch.Tensor, stride: int, radius_px: float) -> torch.Tensor:
    """(B, 1, h, w) bool: cells of stride px that lie inside the field of view (B, 1, H, W) with all cells within
    radius_px (square); the frame itself does not count as an edge."""
    h, w = valid.shape[-2:]
    outside = F.pad(~valid, (0, -w % stride, 0, -h % stride))
    parts = (outside[..., y::stride, x::stride] for y in range(stride) for x in range(stride))
    return ~_largest_around(reduce(torch.maximum, parts), int(round(radius_px / stride)))


def suppress(detector: torch.Tensor, radius_cells: int) -> torch.Tensor:
    """(B, 1, h, w) bool: cells that are the largest within radius_cells; of equal neighbours the first in reading order
    wins."""
    b, _, h, w = detector.shape
    order = torch.arange(h * w, 0, -1, device=detector.device, dtype=torch.float64).reshape(1, 1, h, w) * 1e-12
    value = detector.double() + order
    return value == _largest_around(value, radius_cells)


def _largest_around(values: torch.Tensor, radius: int) -> torch.Tensor:
    """Maximum of values from 0 over a square of side 2 radius + 1; pooling layers take several times as long."""
    for axis, rim in ((-1, (radius, radius)), (-2, (0, 0, radius, radius))):
        size, padded = values.shape[axis], F.pad(values, rim)
        values = reduce(torch.maximum, (padded.narrow(axis, k, size) for k in range(2 * radius + 1)))
    return values


def gated(output: DenseOutput, valid: torch.Tensor, options: KeypointOptions) -> torch.Tensor:
    """The detector's maps (B, 1, h, w), 0 outside the field of view (B, 1, H, W) bool, and along its edge and the
    frame."""
    stride, (h, w) = output.detector_stride, output.detector.shape[-2:]
    gate = seen_cells(valid, stride, options.border_px)
    gate = F.pad(gate, (0, w - gate.shape[-1], 0, h - gate.shape[-2]))
    centers = from_cells(pixel_grid((h, w), valid.device), stride)
    # refinement moves a point by half a cell at most
    gate &= inside(centers, valid.shape[-2:], options.border_px - stride / 2)
    return output.detector * gate


def find_keypoints(
    output: DenseOutput, valid: torch.Tensor, options: KeypointOptions
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pick keypoints for every image of a batch.

    valid: (B, 1, H, W) bool field of view in image px. Returns a list of (points (N, 2) px, probabilities (N,)),
    strongest first. The gate acts before suppression: neither a black border nor the frame may win against a vessel
    beside it.
    """
    return _pick(output, gated(output, valid, options), valid, options)


def _pick(output: DenseOutput, masked: torch.Tensor, valid: torch.Tensor, options: KeypointOptions) -> list:
    """`find_keypoints` in maps that are `gated` already."""
    stride, detector = output.detector_stride, output.detector
    peaks = suppress(masked, max(int(round(options.nms_radius_px / stride)), 1)) & (masked > options.min_probability)
    found = []
    for i in range(len(masked)):
        y, x = torch.nonzero(peaks[i, 0], as_tuple=True)
        score, order = masked[i, 0, y, x].sort(descending=True, stable=True)
        order = order[: options.max_keypoints]
        cells = _refine(detector[i, 0], x[order], y[order])
        points = from_cells(cells, stride)
        keep = inside(points, valid.shape[-2:], options.border_px)
        found.append((points[keep], score[: len(order)][keep]))
    return found


def _refine(probability: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Move each peak to the vertex of a parabola through its neighbours' log-probabilities, by half a cell at most. A
    Gaussian blob's logarithm is a parabola, so its centre is found exactly."""
    padded = F.pad(probability.clamp_min(1e-4).log()[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    middle = padded[y + 1, x + 1]

    def offset(before, after):
        bend = before + after - 2 * middle
        return torch.where(bend < -1e-6, (before - after) / (2 * bend.clamp_max(-1e-6)), torch.zeros_like(bend)).clamp(
            -0.5, 0.5
        )

    dx, dy = offset(padded[y + 1, x], padded[y + 1, x + 2]), offset(padded[y, x + 1], padded[y + 2, x + 1])
    return torch.stack([x + dx, y + dy], -1)


@torch.inference_mode()
def extract(
    network, image: torch.Tensor, valid: torch.Tensor, options: KeypointOptions = KeypointOptions(), fast: bool = False
):
    """A list of `Features` of gray images (B, 1, H, W) in [0, 1], given fields of view (B, 1, H, W) bool.
    fast: layers in bfloat16, which costs about a tenth of a pixel."""
    with torch.autocast(image.device.type, torch.bfloat16, enabled=fast):
        output = network(image, valid)
    features = []
    masked = gated(output, valid, options)
    for i, (points, scores) in enumerate(_pick(output, masked, valid, options)):
        keypoints, strengths = points.cpu().numpy().astype(np.float32), scores.float().cpu().numpy()
        detector = masked[i, 0].float().cpu().numpy()
        features.append(Features(keypoints, strengths, _read(output, i, points), tuple(image.shape[-2:]), detector))
    return features


@torch.inference_mode()
def detector_map(network, image: torch.Tensor, valid: torch.Tensor, options: KeypointOptions, fast=False) -> np.ndarray:
    """`Features.detector` of one gray image (1, 1, H, W) with its field of view, bool."""
    with torch.autocast(image.device.type, torch.bfloat16, enabled=fast):
        output = network(image, valid, describe=False)
    return gated(output, valid, options)[0, 0].float().cpu().numpy()


def _read(output: DenseOutput, i: int, points: torch.Tensor) -> np.ndarray:
    """(N, D) unit descriptors of image i at points (N, 2) px."""
    vectors = sample_map(output.descriptors[i, None], points[None], output.descriptor_stride)[0]
    return F.normalize(vectors, dim=-1).float().cpu().numpy()


@torch.inference_mode()
def describe_points(
    network, image: torch.Tensor, valid: torch.Tensor, points_xy: np.ndarray, fast: bool = False
) -> np.ndarray:
    """(N, D) unit descriptors at points (N, 2) px of one gray image (1, 1, H, W) with its field of view, bool."""
    with torch.autocast(image.device.type, torch.bfloat16, enabled=fast):
        output = network(image, valid)
    return _read(output, 0, torch.from_numpy(np.asarray(points_xy, np.float32)).to(image.device))


# ------------------------------------------------------------------ matches


def similarities(features0: Features, features1: Features) -> np.ndarray:
    """(N0, N1) cosine of every pair of descriptors; N may be 0.

    In torch: threads of numpy's BLAS spin on after a product and then halve the speed of the network."""
    if not len(features0) or not len(features1):  # features without keypoints need not know the length of a descriptor
        return np.zeros((len(features0), len(features1)), np.float32)
    return (torch.from_numpy(features0.descriptors) @ torch.from_numpy(features1.descriptors).T).numpy()


def mutual_matches(features0: Features, features1: Features, ratio_max: float = 1.0) -> np.ndarray:
    """(M, 2) index pairs that are each other's nearest descriptor (cosine).

    ratio_max < 1 adds Lowe's test: distance of the best over that of the second best in image 1 (Lowe 2004, 7.1)."""
    similarity = similarities(features0, features1)
    index = _mutual(similarity, -np.inf)
    if ratio_max < 1 and similarity.shape[1] > 1:
        top = -np.partition(-similarity[index[:, 0]], 1, axis=1)[:, :2]
        distance = np.sqrt(np.maximum(2 - 2 * top, 0))
        index = index[distance[:, 0] < ratio_max * distance[:, 1]]
    return index


def guided_matches(
    features0: Features, features1: Features, H_1to0: np.ndarray, radius_px: float, min_similarity: float = 0.2
):
    """(M, 2) index pairs, mutually best among those within radius_px of each other once H_1to0 has mapped image 1."""
    mapped = np.nan_to_num(warp_points(features1.keypoints_xy, H_1to0), nan=-1e6).astype(np.float32)
    distance2 = sum(np.subtract.outer(features0.keypoints_xy[:, k], mapped[:, k]) ** 2 for k in (0, 1))
    near = np.where(distance2 <= radius_px**2, similarities(features0, features1), -1.0)
    return _mutual(near, min_similarity)


def _mutual(similarity: np.ndarray, least: float) -> np.ndarray:
    """(M, 2) index pairs that are each other's best and above ``least``."""
    if not similarity.size:
        return np.zeros((0, 2), int)
    best1, best0 = similarity.argmax(1), similarity.argmax(0)
    index0 = np.flatnonzero(best0[best1] == np.arange(len(best1)))
    index0 = index0[similarity[index0, best1[index0]] > least]
    return np.stack([index0, best1[index0]], 1)


def matched_points(features0: Features, features1: Features, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points (N, 2) of index pairs (N, 2)."""
    return features0.keypoints_xy[index[:, 0]], features1.keypoints_xy[index[:, 1]]


def spread_count(points_xy: np.ndarray, cell_px: float) -> int:
    """How many cells of a cell_px grid hold a point: inliers that sit in one clump prove little."""
    return len(np.unique(np.floor(np.asarray(points_xy) / cell_px).astype(int), axis=0)) if len(points_xy) else 0
