"""Real pairs, as taken or under stress: images, truth in the forms that metrics need, and vessel maps; and what a
stress does to the moving image, whose truth follows. Errors are px of a fixed image whose longer side measures 768."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np

from ..core.geometry import corners, pixel_grid, resize_matrix, translation, warp_points
from ..core.images import as_array, fitted_hw, resized, to_gray
from ..core.vessels import field_of_view_mask, vessel_mask
from ..data.annotation import fixed_residuals, true_homography
from ..data.layouts.fire import FIRE_PAIR
from ..data.records import PairRecord
from ..mapping.result import Registration
from .metrics import LONGER_SIDE_PX, vessel_dice
from .pairs import AS_TAKEN, FIT, Pair, Seen, Truth, digest, names_of

COMPUTED_PX = 0.01  # nobody clicks so well: points that leave less open, at 768, were computed from a transform
DICE_SIDE_PX, DICE_SIGMAS_PX = 384, (1.0, 2.0)  # longer side of the copies that ridges are looked for on; their widths

# ------------------------------------------------------------------ stress


@dataclass(frozen=True)
class Stress:
    """What is done to a moving image, in this order; the defaults do nothing. ValueError for values without sense."""

    turn: float = 0.0  # deg, as cv2.getRotationMatrix2D takes it: positive = counter-clockwise on screen
    scale: float = 1.0  # size of the new image over that of the old one
    # along x and, half as far, along y, in widths; what leaves the frame is lost, what enters is black
    shift: float = 0.0
    crop: float = 1.0  # share of each side that is left, about the centre
    blur: float = 0.0  # sigma of a Gaussian, px of an image whose longer side is LONGER_SIDE_PX
    gamma: float = 1.0  # exponent on gray levels in [0, 1]
    noise: float = 0.0  # standard deviation of Gaussian noise, gray levels in [0, 1]

    def __post_init__(self):
        positive, not_negative = self.scale > 0 and self.gamma > 0, self.blur >= 0 and self.noise >= 0
        if not (positive and not_negative and 0 < self.crop <= 1 and abs(self.shift) < 1):
            raise ValueError(f"{self.label} makes no sense; see retina_kp.evaluation.real_pairs.Stress for the units")

    @property
    def label(self) -> str:
        """E.g. "turn 75°, scale ×0.5"; AS_TAKEN when nothing is done."""
        return ", ".join(in_words(*item) for item in self.changed().items()) or AS_TAKEN

    def changed(self) -> dict[str, float]:
        """Factors that differ from doing nothing, with their values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


NEUTRAL = {f.name: f.default for f in fields(Stress)}
UNITS = {"turn": "{:g}°", "scale": "×{:g}", "shift": "{:.0%}", "crop": "to {:.0%}", "blur": "{:g} px"}


def in_words(factor: str, value: float) -> str:
    return f"{factor} {UNITS.get(factor, '{:g}').format(value)}"


def stresses(wanted: Mapping[str, Iterable[float]]) -> list[Stress]:
    """The untouched image first, then one factor at a time: {"turn": [30, 90], "gamma": [2]} → 4 stresses."""
    if unknown := [factor for factor in wanted if factor not in NEUTRAL]:
        raise ValueError(f"no stress {unknown[0]!r}; there are {', '.join(NEUTRAL)}")
    found = [Stress(**{factor: float(value)}) for factor, values in wanted.items() for value in values]
    return list(dict.fromkeys([Stress(), *found]))


def alter(image: np.ndarray, stress: Stress, seed_text: str = "") -> tuple[np.ndarray, np.ndarray]:
    """The altered image, of its dtype, and R (3, 3): px of the image → px of the altered one.

    image: HxW(x3) of uint8, uint16 or float in [0, 1]. seed_text makes the noise: one text, one noise.
    """
    image, R = _turned(image, stress.turn, stress.scale)
    if stress.shift:
        h, w = image.shape[:2]
        move = translation(stress.shift * w, 0.5 * stress.shift * h)
        image, R = cv2.warpPerspective(image, move, (w, h), flags=cv2.INTER_LINEAR), move @ R
    if stress.crop < 1:
        h, w = image.shape[:2]
        high, wide = max(round(h * stress.crop), 1), max(round(w * stress.crop), 1)
        top, left = (h - high) // 2, (w - wide) // 2
        image, R = np.ascontiguousarray(image[top : top + high, left : left + wide]), translation(-left, -top) @ R
    return _exposed(image, stress, seed_text), R


def _turned(image: np.ndarray, turn_deg: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The image turned and scaled about its centre on a canvas that holds all of it, and the matrix."""
    if turn_deg == 0 and scale == 1:
        return image, np.eye(3)
    h, w = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), turn_deg, scale)
    cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = int(np.ceil(h * sine + w * cosine)), int(np.ceil(h * cosine + w * sine))
    matrix[:, 2] += (size[0] - w) / 2, (size[1] - h) / 2
    flags = cv2.INTER_AREA if scale < 0.8 else cv2.INTER_LINEAR
    return cv2.warpAffine(image, matrix, size, flags=flags), np.vstack([matrix, [0, 0, 1]])


def _exposed(image: np.ndarray, stress: Stress, seed_text: str) -> np.ndarray:
    """Blur, gamma and noise; black surrounds stay black under gamma, and noise covers everything, as a sensor's."""
    if not (stress.blur or stress.gamma != 1 or stress.noise):
        return image
    white = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1.0
    values = image.astype(np.float32) / white
    if stress.blur:
        values = cv2.GaussianBlur(values, (0, 0), stress.blur * max(image.shape[:2]) / LONGER_SIDE_PX)
    if stress.gamma != 1:
        values = values.clip(0, 1) ** stress.gamma
    if stress.noise:
        rng = np.random.default_rng(zlib.crc32(seed_text.encode()))
        values = values + stress.noise * rng.standard_normal(values.shape, np.float32)
    values = values.clip(0, 1) * white
    return np.rint(values).astype(image.dtype) if image.dtype.kind == "u" else values.astype(image.dtype)


# ------------------------------------------------------------------ pairs


@dataclass(frozen=True)
class RealPair(Pair):
    """A record, its moving image altered by a stress; the truth follows."""

    record: PairRecord
    stress: Stress = Stress()

    def about(self) -> dict:
        r = self.record
        category = FIRE_PAIR.fullmatch(r.pair_id) if r.modality0 == r.modality1 == "CF" else None
        kind = f"{r.modality0}-{r.modality1}"
        row = names_of(r.pair_id, r.eye_id, kind, category[1][0] if category else "")
        return row | {"stress": self.stress.label, "factors": self.stress.changed()}

    def load(self) -> Seen:
        fixed, moving = read_pair(self.record)
        points = truth_points(self.record, moving.shape[:2])
        moving, R = alter(moving, self.stress, self.record.pair_id)
        truth = None
        if points is not None:
            H_0to1, annotated = R @ true_homography(self.record), self.record.points0_xy is not None
            truth = Truth(warp_points(points[0], R), points[1], H_0to1, annotated)
        return Seen(fixed, moving, truth)

    def more(self, seen: Seen, result: Registration, method: str) -> dict:
        """Of the pair as taken: the registration and the Dice of vessel maps; of its annotation fit also the facts."""
        if self.stress != Stress():
            return {}
        row = {"registration": result.to_dict(), "dice": self.dice(result)}
        return row | self.facts(seen) if method == FIT else row

    def facts(self, seen: Seen) -> dict:
        """What is known of a pair before any method sees it: sizes, kind of truth, leave-one-out residual (median of
        its points; None where they were computed), and why its vessel mask cannot be used, or ""."""
        r, residual_px, truth = self.record, None, []
        if r.points0_xy is not None:
            residuals = fixed_residuals(r)
            residual_px = float(np.median(residuals)) if len(residuals) else None
            computed = residual_px is not None and residual_px < COMPUTED_PX
            residual_px = None if computed else residual_px
            truth = [f"{len(r.points0_xy)} {'computed ' * computed}point pairs"]
        truth = " + ".join(truth + ["matrix"] * (r.H_0to1 is not None)) or "none"
        sizes = {"size_fixed": seen.fixed.shape[:2], "size_moving": seen.moving.shape[:2]}
        sizes["rescale"] = LONGER_SIDE_PX / max(sizes["size_fixed"])
        return sizes | {"truth": truth, "residual_px": residual_px, "mask_problem": self._mask()[1]}

    def fingerprint(self) -> str:
        r = self.record
        files = [p and _file_digest(*_version(p)) for p in (r.image0, r.image1, r.vessel_mask0)]
        return digest([*self.about().values()], files, r.points0_xy, r.points1_xy, r.H_0to1)

    def dice(self, result: Registration) -> float | None:
        """Dice of vessel maps; a record's mask is taken rather than the ridges of its fixed image. None without a
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
    points1 = corners(moving_hw)
    return None if record.H_0to1 is None else (points1, warp_points(points1, np.linalg.inv(record.H_0to1)))


def read_pair(record: PairRecord) -> tuple[np.ndarray, np.ndarray]:
    """Fixed and moving image (H, W, 3), gray ones repeated; ImageError when one is unreadable."""
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
    """Of an image, by ridges of both polarities, on a copy whose longer side is DICE_SIDE_PX."""
    gray = to_gray(_image(path, changed_ns))
    gray, _ = resized(gray, fitted_hw(gray.shape, DICE_SIDE_PX))
    valid = field_of_view_mask(gray)
    return valid, vessel_mask(gray, valid, sigmas_px=DICE_SIGMAS_PX)


def vessel_agreement(maps0: Maps, maps1: Maps, result: Registration) -> float:
    """Dice of two images' vessel maps (any resolution) in the fixed frame, on what both fields of view show, in [0, 1];
    NaN without a vessel. Ridges of two modalities never agree fully: compare with the Dice of the truth."""
    hw = maps0[0].shape
    points0 = warp_points(pixel_grid(hw).reshape(-1, 2).numpy().astype(np.float64), resize_matrix(hw, result.fixed_hw))
    places1 = warp_points(result.map_to_moving(points0), resize_matrix(result.moving_hw, maps1[0].shape))
    places1 = np.nan_to_num(places1, nan=-1e6).astype(np.float32).reshape(*hw, 2)
    seen1, vessels1 = (cv2.remap(mask.astype(np.float32), places1, None, cv2.INTER_LINEAR) > 0.5 for mask in maps1)
    return vessel_dice(maps0[1], vessels1, maps0[0] & seen1)
