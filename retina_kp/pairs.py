"""Image files as training pairs: records → the batches that `dataset.SyntheticPairs` makes (but for true_keypoints, which nobody knows), on
square images of one size.

Beside the keys listed in `dataset`, a batch holds points0, points1 (B, N, 2): annotated point pairs in px of image 0 and 1, perhaps outside
the frame of image 1, NaN-padded and all NaN where a record has none; and sample_ids, the pair ids. vessel_keypoints1 are the
vessel_keypoints that image 1 sees too. Batch number i depends on records, options and seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch

from .annotation import true_homography
from .augment import AppearanceRange, apply_field_of_view, randomise_appearance
from .dataset import pad_points
from .geometry import (
    TransformRange,
    inside,
    overlap_fraction,
    random_homographies,
    rescale_homography,
    resize_matrix,
    sample_map,
    translation,
    warp_image,
    warp_points,
)
from .images import as_array, read_image, to_gray
from .records import PairRecord
from .vessels import field_of_view_mask, skeleton_junctions, vessel_mask

MIN_OVERLAP = 0.25  # of image 1 inside image 0 after the random transform; of 20 draws the first that has it is taken
POINT_KEYS = ("vessel_keypoints", "vessel_keypoints1", "points0", "points1")
VESSEL_POLARITY = {"CF": "dark", "OCT": "dark", "FA": "bright", "OCTA": "bright"}


def letterbox(image: np.ndarray, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit an image (H, W) float32 into the middle of a black square of size_px, proportions kept to within half a pixel.

    Returns the square and the (3, 3) matrix, px of the image → px of the square.
    """
    hw = tuple(max(round(n * size_px / max(image.shape)), 1) for n in image.shape)
    small = cv2.resize(image, hw[::-1], interpolation=cv2.INTER_AREA if max(hw) < max(image.shape) else cv2.INTER_LINEAR)
    top, left = (size_px - hw[0]) // 2, (size_px - hw[1]) // 2
    square = np.zeros((size_px, size_px), np.float32)
    square[top : top + hw[0], left : left + hw[1]] = small
    return square, translation(left, top) @ resize_matrix(image.shape, hw)


@dataclass(frozen=True)
class _Pair:
    """A pair on squares, before any random change: images and masks (1, 1, S, S); keypoints and points (N, 2) px; H_0to1 (3, 3)."""

    image0: torch.Tensor
    image1: torch.Tensor
    valid0: torch.Tensor
    valid1: torch.Tensor
    vessel_mask0: torch.Tensor
    keypoints0: torch.Tensor
    points0: torch.Tensor
    points1: torch.Tensor
    H_0to1: torch.Tensor


class PairDataset:
    """Pairs of a list of records, in an order shuffled anew for every epoch, each time transformed and exposed differently.

    ranges: random transform of the moving image, None = none; appearance: random look of either image, None = as stored.
    prealign: draw image 1 in the frame of image 0 before that, so that H_0to1 is the random transform alone. cache_pairs: how many decoded
    pairs are kept in memory (11 bytes per pixel of the square). ValueError names records without truth.
    """

    def __init__(self, records: Sequence[PairRecord], size_px: int = 512, ranges: TransformRange | None = None,
                 appearance: AppearanceRange | None = None, seed: int = 0, prealign: bool = False, cache_pairs: int = 200):  # fmt: skip
        self.records, self.size_px, self.ranges, self.appearance = list(records), size_px, ranges, appearance
        self.seed, self.prealign = seed, prealign
        if not self.records:
            raise ValueError("no records: a data set needs at least one pair")
        self._H_0to1 = [true_homography(record) for record in self.records]
        self._cache_pairs = cache_pairs
        self._pair = lru_cache(maxsize=cache_pairs)(self._read)

    def __getstate__(self) -> dict:
        """Without the cache, which cannot be sent to a worker process."""
        return {name: value for name, value in vars(self).items() if name != "_pair"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._pair = lru_cache(maxsize=self._cache_pairs)(self._read)

    def __len__(self) -> int:
        return len(self.records)

    def order(self, epoch: int) -> np.ndarray:
        """(N,) indices of the records in the order of an epoch, a function of (seed, epoch)."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.records))

    def batch(self, step: int, batch_size: int, strength: float = 1.0) -> dict:
        """Batch number ``step`` of an endless run through the epochs; ``strength`` in [0, 1] narrows the random transform."""
        return self.batch_from(step * batch_size, batch_size, strength)

    def batch_from(self, first: int, count: int, strength: float = 1.0) -> dict:
        """``count`` pairs from place ``first`` of the endless run on."""
        places = [divmod(first + k, len(self)) for k in range(count)]
        items = [self.item(int(self.order(epoch)[place]), epoch, strength) for epoch, place in places]
        batch = {}
        for key in items[0]:
            values = [item[key] for item in items]
            batch[key] = pad_points(values) if key in POINT_KEYS else torch.stack(values) if torch.is_tensor(values[0]) else values
        return batch

    def item(self, index: int, epoch: int = 0, strength: float = 1.0) -> dict:
        """Record ``index`` as it looks in an epoch: the entries of a batch without their first axis, points without padding."""
        pair, hw, record = self._pair(index), (self.size_px, self.size_px), self.records[index]
        g = torch.Generator().manual_seed(int(np.random.default_rng([self.seed, epoch, index, 1]).integers(2**62)))
        H_0to1, image1, valid1, points1 = pair.H_0to1, pair.image1, pair.valid1, pair.points1
        if self.ranges is not None:
            H_turn = self._random_transform(H_0to1, strength, g)
            image1, known = warp_image(image1, H_turn[None], hw)
            valid1 = known & (warp_image(valid1.float(), H_turn[None], hw)[0] > 0.99)
            points1, H_0to1 = warp_points(points1.double(), H_turn).float(), H_turn @ H_0to1
        images, valid = torch.cat([pair.image0, image1]), torch.cat([pair.valid0, valid1])
        if self.appearance is not None:
            images = apply_field_of_view(randomise_appearance(images, g, self.appearance), valid, g, self.appearance)
        keypoints1 = warp_points(pair.keypoints0.double(), H_0to1).float()
        return {"image0": images[0], "image1": images[1], "valid0": valid[0], "valid1": valid[1], "H_0to1": H_0to1 / H_0to1[2, 2],
                "vessel_mask0": pair.vessel_mask0[0], "vessel_keypoints": pair.keypoints0, "vessel_keypoints1": _seen(keypoints1, valid1),
                "points0": pair.points0, "points1": points1, "modalities": (record.modality0, record.modality1),
                "sample_ids": record.pair_id}  # fmt: skip

    def _random_transform(self, H_0to1: torch.Tensor, strength: float, g: torch.Generator) -> torch.Tensor:
        """(3, 3) square px of image 1 → px of its new frame; of 20 draws the first with MIN_OVERLAP, else the one with most."""
        hw = (self.size_px, self.size_px)
        draws = random_homographies(20, hw, self.ranges.scaled(strength), g)
        overlaps = np.array([overlap_fraction((H @ H_0to1).numpy(), hw, hw, 8) for H in draws])
        enough = np.flatnonzero(overlaps >= MIN_OVERLAP)
        return draws[int(enough[0]) if len(enough) else int(overlaps.argmax())]

    def _read(self, index: int) -> _Pair:
        """Decode, letterbox, and find vessels and junctions. ImageError names an unreadable file."""
        record = self.records[index]
        gray0, gray1 = (to_gray(as_array(path)) for path in (record.image0, record.image1))
        (image0, to0), (image1, to1) = letterbox(gray0, self.size_px), letterbox(gray1, self.size_px)
        valid0, valid1 = (letterbox(field_of_view_mask(x).astype(np.float32), self.size_px)[0] > 0.99 for x in (gray0, gray1))
        if record.vessel_mask0 is None:
            mask = vessel_mask(image0, valid0, VESSEL_POLARITY.get(record.modality0, "both"))
        else:
            mask = letterbox(_read_mask(record, gray0.shape), self.size_px)[0] > 0.5
        mask &= valid0
        frames = ((record.points0_xy, to0), (record.points1_xy, to1))
        points = [torch.from_numpy(warp_points(np.zeros((0, 2)) if xy is None else xy, to)).float() for xy, to in frames]
        tensors = [torch.from_numpy(x)[None, None] for x in (image0, image1, valid0, valid1, mask)]
        keypoints = _seen(torch.from_numpy(skeleton_junctions(mask)[0]).float(), tensors[2])
        H_0to1 = torch.from_numpy(rescale_homography(self._H_0to1[index], to0, to1))
        if self.prealign:
            back, hw = torch.linalg.inv(H_0to1), (self.size_px, self.size_px)
            tensors[1], known = warp_image(tensors[1], back[None], hw)
            tensors[3] = known & (warp_image(tensors[3].float(), back[None], hw)[0] > 0.99)
            points[1], H_0to1 = warp_points(points[1].double(), back).float(), torch.eye(3, dtype=torch.float64)
        return _Pair(*tensors, keypoints, *points, H_0to1)


def _read_mask(record: PairRecord, image_hw) -> np.ndarray:
    """The vessel mask of a record as (H, W) float32 of 0 and 1, brought to the size of image 0; any colour or level counts as vessel."""
    strength = read_image(record.vessel_mask0)
    strength = strength.max(-1) if strength.ndim == 3 else strength
    mask = (strength > strength.max() / 2).astype(np.float32)
    return mask if mask.shape == tuple(image_hw) else cv2.resize(mask, tuple(image_hw)[::-1], interpolation=cv2.INTER_NEAREST)


def _seen(xy: torch.Tensor, valid: torch.Tensor, border_px: float = 2.0) -> torch.Tensor:
    """The points (N, 2) px that lie in a field of view (1, 1, S, S) and not on the frame."""
    keep = inside(xy, valid.shape[-2:], border_px)
    return xy[keep & (sample_map(valid.float(), xy[None])[0, :, 0] > 0.99)] if len(xy) else xy
