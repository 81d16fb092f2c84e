"""Reading, checking, converting and writing images: every picture enters the package through `as_array` and `to_gray`.

Colour order is RGB everywhere. Orientation tags in a file's header are ignored, because points and masks were made on
the stored pixels.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from .files import write_bytes

MIN_SIDE_PX = 32
RGB_TO_GRAY = (0.2, 0.7, 0.1)  # green carries the vessels, red is often saturated, blue is mostly noise
# how far a float image may leave [0, 1] by rounding; what is beyond is refused, what is within is clipped
FLOAT_TOLERANCE = 1e-3


class ImageError(ValueError):
    """An image cannot be used; the message names it, says what is wrong and what to do."""


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image file (PNG, TIFF, JPEG, BMP; first page or frame).

    Returns HxW or HxWx3 (RGB) as uint8, uint16 or float32, values as stored; alpha is dropped, a palette is expanded.
    Raises ImageError for a missing, empty, truncated or otherwise unreadable file.
    """
    path = _existing_file(path)
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror}); check its access rights") from error
    if content.size == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy it again from its source")
    try:
        image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(
            f"{path}: damaged, or no image OpenCV can decode; open it in a viewer and save it as PNG or TIFF"
        )
    if image.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise ImageError(
            f"{path}: pixels of type {image.dtype} have no known white; save it as 8-bit or 16-bit unsigned"
        )
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return image.astype(np.float32) if image.dtype == np.float64 else image


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in px from the file's header; only types that Pillow does not know are decoded. Raises ImageError
    as `read_image`."""
    path = _existing_file(path)
    try:
        with Image.open(path) as header:
            return header.height, header.width
    except (UnidentifiedImageError, Image.DecompressionBombError):
        height, width = read_image(path).shape[:2]
        return height, width
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(
            f"{path}: its header cannot be read ({error}); open it in a viewer and save it as PNG or TIFF"
        ) from error


def as_array(image: str | Path | np.ndarray, name: str = "image") -> np.ndarray:
    """Check an image given as path or array and bring it to one of the forms the package works on.

    image: path, or HxW, HxWx1, HxWx3 (RGB), HxWx4 (alpha is dropped) of bool, uint8, uint16 or float in [0, 1];
    ``name`` stands for an array in messages. Returns HxW or HxWx3, uint8 (bool becomes 0 and 255), uint16 or float32.
    Raises ImageError.
    """
    if isinstance(image, (str, Path)):
        name, image = str(image), read_image(image)
    if not isinstance(image, np.ndarray):
        way = (
            "tensor.permute(1, 2, 0).cpu().numpy()"
            if type(image).__module__.startswith("torch")
            else "numpy.asarray(image)"
        )
        kind = f"{type(image).__module__}.{type(image).__name__}"
        raise ImageError(f"{name}: a path or a numpy array with channels last is needed, not {kind}; try {way}")
    image = _plain_channels(image, name)
    image = image.astype(image.dtype.newbyteorder("="), copy=False)  # files written on other machines
    if min(image.shape[:2]) < MIN_SIDE_PX:
        height, width = image.shape[:2]
        raise ImageError(
            f"{name}: too small, {height} px high and {width} px wide; each side needs at least {MIN_SIDE_PX} px"
        )
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    if image.dtype in (np.uint8, np.uint16):
        return image
    if image.dtype in (np.float16, np.float32, np.float64):
        return _unit_floats(image, name)
    raise ImageError(f"{name}: pixels of type {image.dtype}; convert to uint8, uint16, or float in [0, 1]")


def to_gray(image: np.ndarray) -> np.ndarray:
    """Turn a checked image into the gray one that networks see.

    image: HxW or HxWx3 RGB of bool, uint8, uint16 or float in [0, 1]. Returns HxW float32 in [0, 1]; colour is weighted
    by RGB_TO_GRAY. 8-bit values are divided by 255. Cameras store 10 or 12 bits in 16-bit files, so these are divided
    by a white of 2^n - 1 (`white_of`): a 12-bit image keeps its brightness unless 99 % of it is dark, and about that
    with a label in full white. Raises ImageError.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ImageError(f"an image of shape {image.shape} has no gray form; pass it through as_array first")
    if image.dtype in (np.uint8, np.uint16):
        white = 255 if image.dtype == np.uint8 else white_of(image)
    elif image.dtype == bool or np.issubdtype(image.dtype, np.floating):
        white = 1
    else:
        raise ImageError(f"pixels of type {image.dtype} have no known white; pass the image through as_array first")
    gray = image.astype(np.float32)
    gray = (
        cv2.transform(gray, np.float32([RGB_TO_GRAY]) / np.float32(white))
        if gray.ndim == 3
        else gray / np.float32(white)
    )
    return gray.clip(0.0, 1.0)


def white_of(image: np.ndarray) -> int:
    """The white of an image of uint16, 2^n - 1 from 255 to 65535: the next one at or above its maximum, but not more
    than one bit above what 99 % of the values keep below; hot pixels and labels that a device has written into a 10-bit
    image are clipped."""
    most = np.percentile(image[:: max(len(image) // 256, 1), :: max(image.shape[1] // 256, 1)], 99)
    return 2 ** max(min(int(image.max()).bit_length(), int(most).bit_length() + 1), 8) - 1


def shrink(image: np.ndarray, longer_side_px: int) -> np.ndarray:
    """An image to look at: no wider or higher than ``longer_side_px``, pixels averaged; one that is small enough is
    returned as it is."""
    scale = longer_side_px / max(image.shape[:2])
    if scale >= 1:
        return image
    hw = [max(round(n * scale), 1) for n in image.shape[:2]]
    return cv2.resize(image, hw[::-1], interpolation=cv2.INTER_AREA)


def write_image(path: str | Path, array: np.ndarray) -> None:
    """Write an image atomically, creating its folder; the file's ending chooses the format.

    array: HxW or HxWx3 (RGB) of any size; bool and float in [0, 1] become 8-bit, uint16 is kept (PNG and TIFF only).
    Raises ImageError.
    """
    path = Path(path).expanduser()
    array = _plain_channels(np.asarray(array), str(path))
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        array = np.rint(_unit_floats(array, str(path)) * 255).astype(np.uint8)
    if array.dtype not in (np.uint8, np.uint16) or (
        array.dtype == np.uint16 and path.suffix.lower() not in (".png", ".tif", ".tiff")
    ):
        raise ImageError(
            f"{path}: {array.dtype} cannot be written as {path.suffix or 'a file without ending'}; convert it to uint8"
        )
    try:
        done, content = cv2.imencode(path.suffix, cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array)
    except cv2.error:
        done = False
    if not done:
        raise ImageError(
            f"{path}: OpenCV writes no {path.suffix or 'file without ending'}; use .png, .tif, .jpg or .bmp"
        )
    write_bytes(path, content.tobytes())


def _existing_file(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if path.is_dir():
        raise ImageError(f"{path}: this is a folder; pass the path of one image file")
    if not path.is_file():
        raise ImageError(f"{path}: no such file; check the spelling and the working directory {Path.cwd()}")
    return path


def _plain_channels(image: np.ndarray, name: str) -> np.ndarray:
    """HxW or HxWx3 out of HxW, HxWx1, HxWx3, HxWx4; ImageError for other shapes."""
    if image.size and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))):
        return (
            image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image[..., :3] if image.ndim == 3 else image
        )
    hint = (
        "; it looks channels-first: use array.transpose(1, 2, 0)"
        if image.ndim == 3 and image.shape[0] in (1, 3, 4)
        else ""
    )
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
