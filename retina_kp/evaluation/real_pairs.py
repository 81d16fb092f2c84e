"""Real pairs, as taken or under stress: images, truth in the forms that metrics need, vessel maps, and what is known of
them. Errors are px of a fixed image whose longer side measures 768."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np

from ..core.geometry import corners, pixel_grid, resize_matrix, warp_points
from ..core.images import as_array, to_gray
from ..core.vessels import field_of_view_mask, vessel_mask
from ..data.annotation import fixed_residuals, true_homography
from ..data.layouts import FIRE_PAIR
from ..data.records import PairRecord
from ..registration.result import Registration
from .metrics import LONGER_SIDE_PX, vessel_dice
from .pairs import FIT, Pair, Seen, Truth, digest, names_of
from .stress import Stress, alter

COMPUTED_PX = 0.01  # nobody clicks so well: points that leave less open, at 768, were computed from a transform
DICE_SIDE_PX, DICE_SIGMAS_PX = 384, (1.0, 2.0)  # longer side of the copies that ridges are looked for on; their widths


@dataclass(frozen=True)
class RealPair(Pair):
    """A record, its moving image altered by a stress; the truth follows."""

    record: PairRecord
    stress: Stress = Stress()

    def about(self) -> dict:
        r = self.record
        category = FIRE_PAIR.fullmatch(r.pair_id) if r.modality0 == r.modality1 == "CF" else None
        kind = f"{r.modality0}-{r.modality1}"
        return names_of(r.pair_id, r.eye_id, kind, category[1][0] if category else "", self.stress)

    def load(self) -> Seen:
        fixed, moving = read_pair(self.record)
        points = truth_points(self.record, moving.shape[:2])
        H_0to1 = None if points is None else true_homography(self.record)
        moving, R = alter(moving, self.stress, self.record.pair_id)
        if points is None:
            return Seen(fixed, moving, None)
        return Seen(fixed, moving, Truth(warp_points(points[0], R), points[1], R @ H_0to1, self.annotated))

    @property
    def annotated(self) -> bool:
        return self.record.points0_xy is not None

    def more(self, seen: Seen, result: Registration, method: str) -> dict:
        """Of the pair as taken: the registration and the Dice of vessel maps; of its annotation fit also the facts."""
        if self.stress != Stress():
            return {}
        row = {"registration": result.to_dict(), "dice": self.dice(result)}
        return row | self.facts(seen) if method == FIT else row

    def facts(self, seen: Seen) -> dict:
        """What is known of a pair before any method sees it: sizes, kind of truth, leave-one-out residual (median of
        its points; None where they were computed), and why its vessel mask cannot be used, or ""."""
        r, sizes = self.record, (seen.fixed.shape[:2], seen.moving.shape[:2])
        residuals = fixed_residuals(r) if self.annotated else ()
        residual_px = float(np.median(residuals)) if len(residuals) else None
        computed = residual_px is not None and residual_px < COMPUTED_PX
        truth = [f"{len(r.points0_xy)} {'computed ' * computed}point pairs"] if self.annotated else []
        return {
            **dict(zip(("size_fixed", "size_moving"), sizes, strict=True)),
            "rescale": LONGER_SIDE_PX / max(sizes[0]),
            "truth": " + ".join(truth + ["matrix"] * (r.H_0to1 is not None)) or "none",
            "residual_px": None if computed else residual_px,
            "mask_problem": self._mask()[1],
        }

    def fingerprint(self) -> str:
        r = self.record
        files = [p and _file_digest(*_version(p)) for p in (r.image0, r.image1, r.vessel_mask0)]
        return digest([*self.about().values()], files, r.points0_xy, r.points1_xy, r.H_0to1)

    def dice(self, result: Registration) -> float | None:
        """Dice of vessel maps; the mask that a record has goes before the ridges of its fixed image. None without a
        transform, and where the mask cannot be read."""
        mask0, problem = self._mask()
        if not result.ok or problem:
            return None
        maps0, maps1 = (_maps(*_version(path)) for path in (self.record.image0, self.record.image1))
        if mask0 is not None:
            maps0 = maps0[0], cv2.resize(mask0, maps0[0].shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
        return vessel_agreement(maps0, maps1, result)

    def _mask(self) -> tuple[np.ndarray | None, str]:
        """Gray (h, w) in [0, 1] of the vessel mask, None for a record without one, and what is wrong with it."""
        try:
            path = self.record.vessel_mask0
            return (None if path is None else to_gray(_image(*_version(path)))), ""
        except (ValueError, OSError) as error:
            return None, f"evaluated without vessel mask, so without Dice: {error}"


def truth_points(record: PairRecord, moving_hw) -> tuple[np.ndarray, np.ndarray] | None:
    """Points of the moving image and where they belong in the fixed one, (N, 2) px each; None without truth. The
    annotated points; with a matrix alone the corners of the moving image."""
    if record.points0_xy is not None:
        return record.points1_xy, record.points0_xy
    if record.H_0to1 is None:
        return None
    return corners(moving_hw), warp_points(corners(moving_hw), np.linalg.inv(record.H_0to1))


def read_pair(record: PairRecord) -> tuple[np.ndarray, np.ndarray]:
    """Fixed and moving image (H, W, 3), gray ones repeated, as image libraries read files by default; ImageError when
    one is unreadable."""
    return _image(*_version(record.image0)), _image(*_version(record.image1))


def _version(path: Path) -> tuple[str, int]:
    return str(path), path.stat().st_mtime_ns if path.is_file() else 0


@lru_cache(maxsize=4)
def _image(path: str, changed_ns: int) -> np.ndarray:
    image = as_array(path)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


@cache
def _file_digest(path: str, changed_ns: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if changed_ns else "missing"


# ------------------------------------------------------------------ do vessels lie on vessels?

Maps = tuple[np.ndarray, np.ndarray]  # field of view and vessels, (h, w) bool each, of one size


@lru_cache(maxsize=8)
def _maps(path: str, changed_ns: int) -> Maps:
    return vessel_maps(_image(path, changed_ns))


def vessel_maps(image: np.ndarray) -> Maps:
    """Field of view and vessels (ridge filter, both polarities) of an image HxW or HxWx3, on a copy whose longer side
    is DICE_SIDE_PX."""
    gray = to_gray(image)
    size = tuple(max(round(n * DICE_SIDE_PX / max(gray.shape)), 8) for n in gray.shape)[::-1]
    gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA if DICE_SIDE_PX < max(gray.shape) else cv2.INTER_LINEAR)
    valid = field_of_view_mask(gray)
    return valid, vessel_mask(gray, valid, sigmas_px=DICE_SIGMAS_PX)


def vessel_agreement(maps0: Maps, maps1: Maps, result: Registration) -> float:
    """Dice of two images' vessel maps (any resolution) in the fixed frame, on what both fields of view show; in [0, 1],
    NaN without a vessel there. Ridges of two modalities never agree fully: compare with the Dice of the truth."""
    hw = maps0[0].shape
    points0 = warp_points(pixel_grid(hw).reshape(-1, 2).numpy().astype(np.float64), resize_matrix(hw, result.fixed_hw))
    places1 = warp_points(result.map_to_moving(points0), resize_matrix(result.moving_hw, maps1[0].shape))
    places1 = np.nan_to_num(places1, nan=-1e6).astype(np.float32).reshape(*hw, 2)
    seen1, vessels1 = (cv2.remap(mask.astype(np.float32), places1, None, cv2.INTER_LINEAR) > 0.5 for mask in maps1)
    return vessel_dice(maps0[1], vessels1, maps0[0] & seen1)
