"""Image files as training pairs: records → batches of square images of one size.

A batch holds what a batch of `synthetic.training_pairs` holds, but for true_keypoints, which nobody knows. It also has
points0 and points1 (B, N, 2), annotated point pairs in px of image 0 and 1, NaN-padded. Those of image 1 may lie
outside its frame. vessel_keypoints1 are the vessel_keypoints that image 1 sees too. Batch number i depends on records,
options and seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from ..core import geometry
from ..core.images import as_array, letterbox, read_image, to_gray
from ..core.vessels import field_of_view_mask, junction_widths, skeleton_junctions, vessel_mask
from .annotation import true_homography
from .augment import AppearanceRange, FrameRange, apply_field_of_view, random_place, randomise_appearance
from .records import PairRecord
from .sources import ByteCache, pack, pack_gray, unpack, unpack_gray

MIN_WIDTH_PX = 1.2  # junctions of thinner vessels are no labels where a part of a pair is shown, as of synthetic pairs
MIN_OVERLAP = 0.25  # of image 1 inside image 0 after the random transform; of 20 draws the first that has it is taken
POINT_KEYS = ("vessel_keypoints", "vessel_keypoints1", "points0", "points1")
VESSEL_POLARITY = {"CF": "dark", "OCT": "dark", "FA": "bright", "OCTA": "bright"}


@dataclass(frozen=True)
class _Labels:
    """What is known of a pair on squares beside its pictures, before any random change.

    masks: fields of view of image 0 and 1 and the vessels of image 0, packed; keypoints and points (N, 2) px; widths0
    (N,) px of the thinner vessel at each keypoint; H_0to1 (3, 3).
    """

    masks: tuple
    keypoints0: torch.Tensor
    widths0: torch.Tensor
    points0: torch.Tensor
    points1: torch.Tensor
    H_0to1: torch.Tensor


class PairDataset:
    """Pairs of a list of records, shuffled anew for every epoch, each time transformed and exposed differently.

    ranges: random transform of image 1, None = none; appearance: random look of either image, None = as stored. frames:
    which part of the pair is shown. prealign: draw image 1 in the frame of image 0 before all that. cache_bytes: of
    decoded pictures in memory (4 per pixel of the square and pair). ValueError names records without truth.
    """

    def __init__(
        self,
        records: Sequence[PairRecord],
        size_px: int = 512,
        ranges: geometry.TransformRange | None = None,
        appearance: AppearanceRange | None = None,
        seed: int = 0,
        prealign: bool = False,
        cache_bytes: int = 2**28,
        frames: FrameRange = FrameRange(),
    ):
        self.records, self.size_px, self.ranges, self.appearance = list(records), size_px, ranges, appearance
        self.seed, self.prealign, self.frames, self.square_px = seed, prealign, frames, frames.cached_px(size_px)
        if not self.records:
            raise ValueError("no records: a data set needs at least one pair")
        self._H_0to1 = [true_homography(record) for record in self.records]
        self._pictures, self._labels = ByteCache(cache_bytes), {}

    def __getstate__(self) -> dict:
        """Without what is in memory: a worker process is not sent pictures."""
        return vars(self) | {"_pictures": ByteCache(self._pictures.max_bytes), "_labels": {}}

    def __len__(self) -> int:
        return len(self.records)

    def order(self, epoch: int) -> np.ndarray:
        """(N,) indices of the records in the order of an epoch, a function of (seed, epoch)."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.records))

    def batch(self, step: int, batch_size: int, strength: float = 1.0) -> dict:
        """Batch ``step`` of an endless run through the epochs; strength in [0, 1] narrows the random transform."""
        return self.batch_from(step * batch_size, batch_size, strength)

    def batch_from(self, first: int, count: int, strength: float = 1.0) -> dict:
        """``count`` pairs from place ``first`` of the endless run on."""
        places = [divmod(first + k, len(self)) for k in range(count)]
        items = [self.item(int(self.order(epoch)[place]), epoch, strength) for epoch, place in places]
        batch = {key: [item[key] for item in items] for key in items[0]}
        for key, values in batch.items():
            if torch.is_tensor(values[0]):
                batch[key] = geometry.pad_points(values) if key in POINT_KEYS else torch.stack(values)
        return batch

    def item(self, index: int, epoch: int = 0, strength: float = 1.0) -> dict:
        """Record ``index`` as it looks in an epoch: entries of a batch without their first axis, points unpadded."""
        (images, masks, labels), record = self._pair(index), self.records[index]
        g = torch.Generator().manual_seed(int(np.random.default_rng([self.seed, epoch, index, 1]).integers(2**62)))
        (image0, image1), (valid0, valid1, vessels) = images.split(1), masks.split(1)
        keypoints0, points0, points1, H_0to1 = labels.keypoints0, labels.points0, labels.points1, labels.H_0to1
        to_frame1, name = torch.eye(3, dtype=torch.float64), record.pair_id
        if not self.frames.whole:
            to_frame0, to_frame1, number = self._frames(index, epoch, labels)
            image0, valid0, vessels = self._cut(image0, valid0, to_frame0, vessels)
            wide = labels.widths0 * float(torch.linalg.det(to_frame0[:2, :2])) ** 0.5 >= MIN_WIDTH_PX
            keypoints0 = _carried(keypoints0[wide], to_frame0, valid0)
            points0 = _mapped(points0, to_frame0)
            points0 = torch.where(_seen(points0, valid0)[:, None], points0, torch.nan)
            H_0to1 = to_frame1 @ H_0to1 @ torch.linalg.inv(to_frame0)
            name = f"{name}.{number}" if self.frames.per_pair else ""
        if self.ranges is not None:
            H_turn = self._random_transform(H_0to1, strength, g)
            to_frame1, H_0to1 = H_turn @ to_frame1, H_turn @ H_0to1
        if self.ranges is not None or not self.frames.whole:
            image1, valid1, _ = self._cut(image1, valid1, to_frame1)
            points1 = _mapped(points1, to_frame1)
        images, valid = torch.cat([image0, image1]), torch.cat([valid0, valid1])
        if self.appearance is not None:
            images = apply_field_of_view(randomise_appearance(images, g, self.appearance), valid, g, self.appearance)
        return {
            "image0": images[0],
            "image1": images[1],
            "valid0": valid[0],
            "valid1": valid[1],
            "H_0to1": H_0to1 / H_0to1[2, 2],
            "vessel_mask0": vessels[0],
            "vessel_keypoints": keypoints0,
            "vessel_keypoints1": _carried(keypoints0, H_0to1, valid1),
            "points0": points0,
            "points1": points1,
            "modalities": (record.modality0, record.modality1),
            "sample_ids": name,
        }

    def _frames(self, index: int, epoch: int, labels: _Labels) -> tuple[torch.Tensor, torch.Tensor, int]:
        """(3, 3) square px → px of the frame for image 0, for image 1 around the same place, and the frame's number."""
        number = epoch % max(self.frames.per_pair, 1)
        when = [2, index, number] if self.frames.per_pair else [3, epoch, index]
        rng, side, whole = np.random.default_rng([self.seed, *when]), self.square_px, self.size_px / self.square_px
        points, middle = labels.keypoints0.double().numpy(), geometry.image_center((self.size_px, self.size_px))
        center, zoom, angle = random_place(rng, points, self.frames.zoom, self.frames.turn_deg, side, side)
        there = geometry.warp_points(torch.tensor([center], dtype=torch.float64), labels.H_0to1)[0]
        places = (center, there.numpy().clip(0, side - 1))
        frames = (geometry.similarity(angle, zoom * whole, place, middle) for place in places)
        return *(torch.from_numpy(frame) for frame in frames), number

    def _cut(self, image: torch.Tensor, valid: torch.Tensor, H: torch.Tensor, mask: torch.Tensor | None = None):
        """An image (1, 1, S, S), its field of view and perhaps another mask, both bool, in the frame H leads to."""
        layers = torch.cat([image, valid.float(), *([] if mask is None else [mask.float()])], 1)
        warped, known = geometry.warp_image(layers, H[None], (self.size_px, self.size_px))
        seen = known & (warped[:, 1:2] > 0.99)
        return warped[:, :1], seen, None if mask is None else (warped[:, 2:] > 0.5) & seen

    def _random_transform(self, H_0to1: torch.Tensor, strength: float, g: torch.Generator) -> torch.Tensor:
        """(3, 3) square px of image 1 → px of its new frame: of 20 draws the first with MIN_OVERLAP, or with most."""
        hw = (self.size_px, self.size_px)
        draws, overlaps = geometry.random_homographies(20, hw, self.ranges.scaled(strength), g), []
        for H in draws:
            overlaps.append(geometry.overlap_fraction((H @ H_0to1).numpy(), hw, hw, 8))
            if overlaps[-1] >= MIN_OVERLAP:
                return H
        return draws[int(np.argmax(overlaps))]

    def _pair(self, index: int) -> tuple[torch.Tensor, torch.Tensor, _Labels]:
        """Images (2, 1, S, S), masks (3, 1, S, S) bool as in `_Labels`, and labels, from memory or from the files."""
        grays = [] if index in self._labels else self._read(index)
        if grays:
            self._labels[index] = self._find_labels(index, grays)
        packed = self._pictures.get(index, lambda: self._fit(index, grays or self._read(index)))
        labels = self._labels[index]
        return torch.from_numpy(unpack_gray(packed)), torch.from_numpy(unpack(*labels.masks)), labels

    def _read(self, index: int) -> list[np.ndarray]:
        record = self.records[index]
        return [to_gray(as_array(path)) for path in (record.image0, record.image1)]

    def _fit(self, index: int, grays: list[np.ndarray]) -> np.ndarray:
        """(2, 1, S, S) both images on their squares, packed."""
        (image0, to0), (image1, to1) = (letterbox(gray, self.square_px) for gray in grays)
        if self.prealign:
            back = torch.linalg.inv(self._square_transform(index, to0, to1))
            warped, _ = geometry.warp_image(torch.from_numpy(image1)[None, None], back[None], image1.shape)
            image1 = warped[0, 0].numpy()
        return pack_gray(np.stack([image0, image1])[:, None])

    def _square_transform(self, index: int, to0: np.ndarray, to1: np.ndarray) -> torch.Tensor:
        """(3, 3) px of the square of image 0 → px of that of image 1."""
        return torch.from_numpy(geometry.rescale_homography(self._H_0to1[index], to0, to1))

    def _find_labels(self, index: int, grays: list[np.ndarray]) -> _Labels:
        """Fields of view, vessels and junctions of a pair's gray images, and its points on the squares."""
        record, (image0, to0), (_, to1) = self.records[index], *(letterbox(gray, self.square_px) for gray in grays)
        fields = [field_of_view_mask(gray).astype(np.float32) for gray in grays]
        valid0, valid1 = (letterbox(shown, self.square_px)[0] > 0.99 for shown in fields)
        if record.vessel_mask0 is None:
            vessels = vessel_mask(image0, valid0, VESSEL_POLARITY.get(record.modality0, "both"))
        else:
            vessels = read_vessel_mask(record.vessel_mask0, grays[0].shape, self.square_px)
        vessels &= valid0
        keypoints = torch.from_numpy(skeleton_junctions(vessels)[0]).float()
        keypoints = keypoints[_seen(keypoints, torch.from_numpy(valid0)[None, None], 2.0)]
        widths = np.zeros(0) if self.frames.whole else junction_widths(vessels, keypoints.numpy())
        H_0to1 = self._square_transform(index, to0, to1)
        frames = ((record.points0_xy, to0), (record.points1_xy, to1))
        points = [np.zeros((0, 2)) if xy is None else geometry.warp_points(xy, to) for xy, to in frames]
        points = [torch.from_numpy(xy).float() for xy in points]
        if self.prealign:
            back, layer = torch.linalg.inv(H_0to1), torch.from_numpy(valid1)[None, None].float()
            warped, known = geometry.warp_image(layer, back[None], valid1.shape)
            valid1, points[1] = (known & (warped > 0.99))[0, 0].numpy(), _mapped(points[1], back)
            H_0to1 = torch.eye(3, dtype=torch.float64)
        masks = pack(np.stack([valid0, valid1, vessels])[:, None])
        return _Labels(masks, keypoints, torch.from_numpy(widths).float(), *points, H_0to1)


def read_vessel_mask(path: Path, image_hw: tuple[int, int], size_px: int) -> np.ndarray:
    """(S, S) bool vessels on the square of image 0, whose size is image_hw; any colour or level of the file is vessel.

    A mask that is larger than its image is averaged straight onto the square: junctions survive that best.
    """
    strength = read_image(path)
    strength = strength.max(-1) if strength.ndim == 3 else strength
    mask = (strength > strength.max() / 2).astype(np.float32)
    if mask.size < image_hw[0] * image_hw[1]:
        mask = cv2.resize(mask, image_hw[::-1], interpolation=cv2.INTER_NEAREST)
    return letterbox(mask, size_px, image_hw)[0] > 0.5


def _mapped(xy: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    """Points (N, 2) float32 px mapped in double precision."""
    return geometry.warp_points(xy.double(), H).float()


def _carried(xy: torch.Tensor, H: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Those points that lie in a field of view, and not at its frame, when mapped."""
    xy = _mapped(xy, H)
    return xy[_seen(xy, valid, 2.0)]


def _seen(xy: torch.Tensor, valid: torch.Tensor, border_px: float = 0.0) -> torch.Tensor:
    """(N,) bool: points (N, 2) px in a field of view (1, 1, S, S), at least border_px from the frame."""
    shown = geometry.sample_map(valid.float(), xy[None])[0, :, 0] > 0.99
    return geometry.inside(xy, valid.shape[-2:], border_px) & shown
