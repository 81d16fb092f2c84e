"""Reading, checking, converting, resizing and writing images, which enter the package by `as_array` and `to_gray`.

Colour order is RGB. Orientation tags in a file's header are ignored: points and masks were made on the stored pixels.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from .files import write_bytes
from .geometry import resize_matrix, translation
from .image_files import image_size as image_size  # callers find all about images here
from .image_files import read_image as read_image
from .pages import ImageError as ImageError
from .png_strips import write_png_in_strips

MIN_SIDE_PX = 32
RGB_TO_GRAY = (0.2, 0.7, 0.1)  # green carries the vessels, red is often saturated, blue is mostly noise
CACHED_VALUES = 2**18  # of an image, that a processor has at hand: larger ones are converted in such strips
STRIP_VALUES = 2**26  # of an image, from which it is written in strips
FLOAT_TOLERANCE = 1e-3  # a float image may leave [0, 1] by so much, and is clipped; what is beyond is refused


def as_array(image: str | Path | np.ndarray, name: str = "image") -> np.ndarray:
    """Check an image and bring it to a form the package works on: HxW or HxWx3, uint8, uint16 or float32.

    image: path, or HxW, HxWx1, HxWx3 (RGB), HxWx4 (alpha is dropped) of bool (becomes 0 and 255), uint8, uint16 or
    float in [0, 1]. ``name`` stands for an array in messages. ImageError for anything else.
    """
    if isinstance(image, (str, Path)):
        name, image = str(image), read_image(image)
    if not isinstance(image, np.ndarray):
        kind = f"{type(image).__module__}.{type(image).__name__}"
        way = "tensor.permute(1, 2, 0).cpu().numpy()" if kind.startswith("torch") else "numpy.asarray(image)"
        raise ImageError(f"{name}: a path or a numpy array with channels last is needed, not {kind}; try {way}")
    image = _plain_channels(image, name)
    image = image.astype(image.dtype.newbyteorder("="), copy=False)  # files written on other machines
    check_size(image.shape[:2], name)
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    if image.dtype in (np.uint8, np.uint16):
        return image
    if image.dtype in (np.float16, np.float32, np.float64):
        return _unit_floats(image, name)
    raise ImageError(f"{name}: pixels of type {image.dtype}; convert to uint8, uint16, or float in [0, 1]")


def to_gray(image: np.ndarray) -> np.ndarray:
    """The gray image that networks see, HxW float32 in [0, 1]; colour is weighted by RGB_TO_GRAY.

    image: HxW or HxWx3 RGB of bool, uint8, uint16 or float in [0, 1], as of `as_array`; ImageError otherwise. 16-bit
    files may hold 10 or 12 bits, so they are divided by a white of 2^n - 1 (`white_of`).
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ImageError(f"an image of shape {image.shape} has no gray form; pass it through as_array first")
    if image.dtype in (np.uint8, np.uint16):
        white = 255 if image.dtype == np.uint8 else white_of(image)
    elif image.dtype == bool or np.issubdtype(image.dtype, np.floating):
        white = 1
    else:
        raise ImageError(f"pixels of type {image.dtype} have no known white; pass the image through as_array first")
    gray = np.empty(image.shape[:2], np.float32)
    rows = max(CACHED_VALUES * len(image) // max(image.size, 1), 1)
    for top in range(0, len(image), rows):  # a montage as floats takes gigabytes
        gray[top : top + rows] = _gray(image[top : top + rows], white)
    return gray


def _gray(image: np.ndarray, white: float) -> np.ndarray:
    gray, white = image.astype(np.float32), np.float32(white)
    gray = gray / white if gray.ndim == 2 else cv2.transform(gray, np.float32([RGB_TO_GRAY]) / white)
    return gray.clip(0.0, 1.0)


def white_of(image: np.ndarray) -> int:
    """The white of an image of uint16, 2^n - 1 from 255 to 65535: the next one at or above its maximum.

    It is at most one bit above what 99 % of the values keep below: hot pixels and a device's labels are clipped.
    """
    most = np.percentile(image[:: max(len(image) // 256, 1), :: max(image.shape[1] // 256, 1)], 99)
    return 2 ** max(min(int(image.max()).bit_length(), int(most).bit_length() + 1), 8) - 1


def fitted_hw(image_hw, side_px: float) -> tuple[int, int]:
    """(h, w) of an image whose longer side becomes side_px, at least 1 px each."""
    return tuple(max(round(n * side_px / max(image_hw)), 1) for n in image_hw)


def resized(image: np.ndarray, hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W) or (H, W, 3) at another size, averaged where it shrinks, and the (3, 3) matrix px → px."""
    way = cv2.INTER_AREA if max(hw) < max(image.shape[:2]) else cv2.INTER_LINEAR
    return cv2.resize(image, hw[::-1], interpolation=way), resize_matrix(image.shape, hw)


def shrink(image: np.ndarray, longer_side_px: int) -> np.ndarray:
    """An image to look at, no wider or higher than longer_side_px; one that is small enough is returned as it is."""
    hw = image.shape[:2]
    return image if max(hw) <= longer_side_px else resized(image, fitted_hw(hw, longer_side_px))[0]


def letterbox(image: np.ndarray, size_px: int, like_hw: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Fit an image (H, W) float32 into the middle of a black square, proportions kept to within half a pixel.

    like_hw: size of another image of the same scene, on whose place this one goes. Returns the square and the (3, 3)
    matrix, px of the image → px of the square.
    """
    small, matrix = resized(image, fitted_hw(like_hw or image.shape, size_px))
    top, left = ((size_px - n) // 2 for n in small.shape)
    square = np.zeros((size_px, size_px), np.float32)
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square, translation(left, top) @ matrix


def write_image(path: str | Path, array: np.ndarray) -> None:
    """Write an image HxW or HxWx3 (RGB) atomically; the file's ending chooses the format.

    bool and float in [0, 1] become 8-bit, uint16 is kept (PNG and TIFF only). ImageError for what cannot be written.
    """
    path = Path(path).expanduser()
    array = _plain_channels(np.asarray(array), str(path))
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        array = np.rint(_unit_floats(array, str(path)) * 255).astype(np.uint8)
    deep = path.suffix.lower() in (".png", ".tif", ".tiff")
    if array.dtype not in ((np.uint8, np.uint16) if deep else (np.uint8,)):
        kind = path.suffix or "a file without ending"
        raise ImageError(f"{path}: {array.dtype} cannot be written as {kind}; convert it to uint8")
    if path.suffix.lower() == ".png" and array.size >= STRIP_VALUES:
        write_png_in_strips(path, array)
        return
    try:
        done, content = cv2.imencode(path.suffix, cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array)
    except cv2.error:
        done = False
    if not done:
        kind = path.suffix or "file without ending"
        raise ImageError(f"{path}: OpenCV writes no {kind}; use .png, .tif, .jpg or .bmp")
    write_bytes(path, content.tobytes())


def check_size(image_hw: tuple[int, int], name: object) -> tuple[int, int]:
    """The size (h, w) px of an image; ImageError, with the image's name, when it is too small for registration."""
    if min(image_hw) < MIN_SIDE_PX:
        size = f"{image_hw[0]} px high and {image_hw[1]} px wide"
        raise ImageError(f"{name}: too small, {size}; each side needs at least {MIN_SIDE_PX} px")
    return image_hw


def _plain_channels(image: np.ndarray, name: str) -> np.ndarray:
    """HxW or HxWx3 out of HxW, HxWx1, HxWx3, HxWx4; ImageError for other shapes."""
    if image.size and image.ndim == 2:
        return image
    if image.size and image.ndim == 3 and image.shape[2] in (1, 3, 4):
        return image[..., 0] if image.shape[2] == 1 else image[..., :3]
    channels_first = image.ndim == 3 and image.shape[0] in (1, 3, 4)
    hint = "; it looks channels-first: use array.transpose(1, 2, 0)" if channels_first else ""
    raise ImageError(f"{name}: shape {image.shape}, but HxW, HxWx1, HxWx3 or HxWx4 is needed{hint}")


def _unit_floats(image: np.ndarray, name: str) -> np.ndarray:
    """Float image as float32 in [0, 1]; ImageError when a value is not finite or beyond the range."""
    nan, infinite = int(np.isnan(image).sum()), int(np.isinf(image).sum())
    if nan or infinite:
        raise ImageError(f"{name}: {nan} NaN and {infinite} infinite of {image.size} values; replace them before use")
    low, high = float(image.min()), float(image.max())
    if low < -FLOAT_TOLERANCE or high > 1 + FLOAT_TOLERANCE:
        fix = ("" if low >= -FLOAT_TOLERANCE else "subtract the minimum, then ") + "divide by the maximum"
        raise ImageError(f"{name}: float values lie in [{low:.4g}, {high:.4g}], but must lie in [0, 1]; {fix}")
    return image.astype(np.float32).clip(0.0, 1.0)
