"""Known alterations of the moving image of a real pair: what they do to pixels, and the matrix by which its points
follow.

The turn is that of the usual protocol: about the image's centre, on an enlarged canvas.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np

from ..core.geometry import translation

REFERENCE_PX = 768  # the longer side that blur is given for


@dataclass(frozen=True)
class Stress:
    """What is done to a moving image, in this order; the defaults do nothing. ValueError names a value that makes no
    sense."""

    turn: float = 0.0  # deg, as cv2.getRotationMatrix2D takes it: positive = counter-clockwise on screen
    scale: float = 1.0  # size of the new image over that of the old one
    # along x and, half as far, along y, in widths; what leaves the frame is lost, what enters is black
    shift: float = 0.0
    crop: float = 1.0  # share of each side that is left, about the centre
    blur: float = 0.0  # sigma of a Gaussian, px of an image whose longer side is REFERENCE_PX
    gamma: float = 1.0  # exponent on gray levels in [0, 1]
    noise: float = 0.0  # standard deviation of Gaussian noise, gray levels in [0, 1]

    def __post_init__(self):
        positive, not_negative = self.scale > 0 and self.gamma > 0, self.blur >= 0 and self.noise >= 0
        if not (positive and not_negative and 0 < self.crop <= 1 and abs(self.shift) < 1):
            raise ValueError(f"{self.label} makes no sense; see retina_kp.evaluation.stress.Stress for the units")

    @property
    def label(self) -> str:
        """E.g. "turn 75°, scale ×0.5"; AS_TAKEN when nothing is done."""
        return ", ".join(in_words(*item) for item in self.changed().items()) or AS_TAKEN

    def changed(self) -> dict[str, float]:
        """Factors that differ from doing nothing, with their values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


AS_TAKEN = "as taken"
NEUTRAL = {f.name: f.default for f in fields(Stress)}
UNITS = {"turn": "{:g}°", "scale": "×{:g}", "shift": "{:.0%}", "crop": "to {:.0%}", "blur": "{:g} px"}


def in_words(factor: str, value: float) -> str:
    """E.g. "turn 30°"."""
    return f"{factor} {UNITS.get(factor, '{:g}').format(value)}"


def stresses(wanted: Mapping[str, Iterable[float]]) -> list[Stress]:
    """The untouched image first, then one factor at a time: {"turn": [30, 90], "gamma": [2]} → 4 stresses. ValueError
    for an odd factor."""
    found = [Stress()]
    for factor, values in wanted.items():
        if factor not in NEUTRAL:
            raise ValueError(f"no stress {factor!r}; there are {', '.join(NEUTRAL)}")
        found += [replace(Stress(), **{factor: float(value)}) for value in values]
    return list(dict.fromkeys(found))


def alter(image: np.ndarray, stress: Stress, seed_text: str = "") -> tuple[np.ndarray, np.ndarray]:
    """The altered image, of its dtype, and R (3, 3): px of the image → px of the altered one.

    image: HxW or HxWx3 of uint8, uint16 or float in [0, 1]. seed_text makes the noise: one text, one noise.
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
    """Blur, gamma and noise; black surrounds stay black under gamma, and noise covers everything, as a sensor's
    does."""
    if not (stress.blur or stress.gamma != 1 or stress.noise):
        return image
    white = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1.0
    values = image.astype(np.float32) / white
    if stress.blur:
        values = cv2.GaussianBlur(values, (0, 0), stress.blur * max(image.shape[:2]) / REFERENCE_PX)
    if stress.gamma != 1:
        values = values.clip(0, 1) ** stress.gamma
    if stress.noise:
        rng = np.random.default_rng(zlib.crc32(seed_text.encode()))
        values = values + stress.noise * rng.standard_normal(values.shape, np.float32)
    values = values.clip(0, 1) * white
    return np.rint(values).astype(image.dtype) if image.dtype.kind == "u" else values.astype(image.dtype)
