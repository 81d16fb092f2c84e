"""A picture in a file, known by its header before anything is decoded: its size, what it may cost, how to decode it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RESAVE = "open it in a viewer and save it as PNG or TIFF"
LIMIT = "RETINA_KP_MAX_MEGAPIXELS"  # environment variable by which a user raises the limit
MAX_MEGAPIXELS = 225.0  # of a picture: 15 000 px square
PIXELS_PER_BYTE = 8256  # what deflate can pack at most, in pixels of one bit
SPARE_BYTES = 2**26  # that a file may hold beyond twice its pixels: colour profiles, previews, notes of the device


class ImageError(ValueError):
    """An image cannot be used; the message names it, says what is wrong and what to do."""


@dataclass(frozen=True)
class Page:
    """One picture of a file.

    hw: (h, w) px; pixel_bytes: of a decoded pixel; stored_bytes: what the file holds of it. decode: takes a divisor, 1
    or more, and returns the pixels HxW or HxWx3 (RGB); formats that can be decoded at a part of their size may do so.
    """

    hw: tuple[int, int]
    pixel_bytes: int
    stored_bytes: int
    decode: Callable[[int], np.ndarray]

    def checked(self, path: Path) -> Page:
        """The page itself; ImageError where it declares too much, or what its file cannot hold."""
        (h, w), limit = self.hw, float(os.environ.get(LIMIT) or MAX_MEGAPIXELS)
        size = f"{w} px wide and {h} px high"
        if h * w > limit * 1e6:
            way = f"if this is meant, set the environment variable {LIMIT} to {np.ceil(h * w / 1e6):.0f}"
            raise ImageError(f"{path}: too large, {size}, where {limit:g} megapixels are allowed; {way}")
        if h * w > PIXELS_PER_BYTE * max(self.stored_bytes, 128):
            raise ImageError(f"{path}: damaged, its {self.stored_bytes} bytes cannot hold a picture {size}")
        if self.stored_bytes > 2 * h * w * self.pixel_bytes + SPARE_BYTES:
            raise ImageError(f"{path}: {self.stored_bytes} bytes are too many for a picture {size}; {RESAVE}")
        return self


def numbered(path: str | Path) -> tuple[Path, int | None]:
    """A file, and the number of the page that ``FILE#3`` asks for, counted from 1."""
    path = Path(path).expanduser()
    asked = None if path.exists() else re.fullmatch(r"(.+)#(\d+)", path.name)
    return (path.with_name(asked[1]), int(asked[2])) if asked else (path, None)


def existing_file(path: str | Path) -> tuple[Path, int | None]:
    """`numbered`; ImageError where there is no such file."""
    path, number = numbered(path)
    if path.is_dir():
        raise ImageError(f"{path}: this is a folder; pass the path of one image file")
    if not path.is_file():
        raise ImageError(f"{path}: no such file; check the spelling and the working directory {Path.cwd()}")
    return path, number


def chosen(number: int | None, count: int, path: Path, what: str = "pages") -> int:
    """The index of the page that is asked for by its number; ImageError where none is, or another than there are."""
    if number is None and count == 1:
        return 0
    if number is None:
        raise ImageError(f"{path}: it holds {count} {what}; name one of them, such as {path.name}#1")
    if not 1 <= number <= count:
        raise ImageError(f"{path}: there is no number {number} among its {count} {what}")
    return number - 1
