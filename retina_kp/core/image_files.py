"""Image files of every kind that is read, by what their first bytes say."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from .codecs import opencv_page
from .dicom import dicom_page, is_dicom
from .pages import ImageError, Page, existing_file
from .png_strips import SIGNATURE, png_page
from .tiff import MAGIC, tiff_page

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".dcm")
SAME = ("uint8", "uint16", "float32")


def open_page(path: str | Path) -> Page:
    """The picture of a file, or one of several as in ``FILE#3``, by its header. ImageError where it is no image, or
    not one; or where it declares more pixels than are allowed."""
    path, number = existing_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror}); check its access rights") from error
    if not start:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy it again from its source")
    if is_dicom(start, path):  # first, as it may begin like a TIFF, and be one too
        return dicom_page(path, number).checked(path)
    if start[:4] in MAGIC:
        return tiff_page(path, number).checked(path)
    if number is not None:
        raise ImageError(f"{path}: only pages of TIFF and frames of DICOM are told by a number")
    return (png_page if start.startswith(SIGNATURE) else opencv_page)(path).checked(path)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) px by the file's header. ImageError as `open_page`."""
    return open_page(path).hw


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image file (PNG, TIFF, JPEG, BMP, DICOM), or one page of several, named as ``FILE#3``.

    Returns HxW or HxWx3 (RGB) as uint8, uint16 or float32, values as stored; alpha is dropped, a palette is expanded,
    black is 0. ImageError for a missing, empty, truncated, damaged or otherwise unreadable file.
    """
    page = open_page(path)
    return _usual(page.decode(1), path)


def read_reduced(path: str | Path, least_px: int) -> tuple[np.ndarray, int, tuple[int, int]]:
    """`read_image` at 1/n of its size, n a power of two; n; and the whole size (h, w). The longer side stays
    at least least_px.

    Pixel (x, y) is the mean of n x n pixels from (n x, n y) on. Less than n rows or columns at the end may be lost.
    """
    page = open_page(path)
    times = 2 ** int(np.log2(max(max(page.hw) / least_px, 1)))
    image = _usual(page.decode(times), path)
    done = round(max(page.hw) / max(image.shape[:2]))  # by the format
    h, w = (n // times for n in page.hw)
    if done < times:
        more = times // done
        image = cv2.resize(image[: h * more, : w * more], (w, h), interpolation=cv2.INTER_AREA)
    return image[:h, :w], times, page.hw


def _usual(image: np.ndarray, path: str | Path) -> np.ndarray:
    """An image as uint8, uint16 or float32; ImageError for other types."""
    if image.dtype in (np.float16, np.float64):
        return image.astype(np.float32)
    if image.dtype.name not in SAME:
        words = f"pixels of type {image.dtype} have no known white"
        raise ImageError(f"{path}: {words}; save it as 8-bit or 16-bit unsigned")
    return image
