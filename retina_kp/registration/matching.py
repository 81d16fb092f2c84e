"""From two sets of features to correspondences."""

from __future__ import annotations

import numpy as np
import torch

from ..core.geometry import warp_points
from .keypoints import Features


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
