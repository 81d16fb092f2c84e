"""Pictures that OpenCV decodes (PNG, JPEG, BMP and others), without believing it where its codecs complain."""

from __future__ import annotations

import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import close, dup, dup2
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from .pages import RESAVE, ImageError, Page

# Readers of headers by a file's first bytes. `Image.open` refuses large images by a limit of its own.
HEADERS = {b"\x89PNG": PngImageFile, b"\xff\xd8\xff": JpegImageFile, b"BM": BmpImageFile, b"GIF8": GifImageFile}
REDUCED = {  # decoded at a part of its size, which JPEG alone can
    2: (cv2.IMREAD_REDUCED_GRAYSCALE_2, cv2.IMREAD_REDUCED_COLOR_2),
    4: (cv2.IMREAD_REDUCED_GRAYSCALE_4, cv2.IMREAD_REDUCED_COLOR_4),
    8: (cv2.IMREAD_REDUCED_GRAYSCALE_8, cv2.IMREAD_REDUCED_COLOR_8),
}
STRIP_PX = 2**22  # pixels whose colours are put in order at a time
# how libjpeg, libpng and libtiff tell on stderr that what they return is not what was written
COMPLAINT = re.compile(
    rb"corrupt|premature|inconsistent prog|invalid sos|libpng error|crc error|_error|decod\w+ error", re.I
)
CODEC = re.compile(rb"jpe?g|libpng|tiff|decode|grfmt_|loadsave|^ *$", re.I)
_one_at_a_time = threading.Lock()


def opencv_page(path: Path) -> Page:
    """The picture of a PNG, JPEG, BMP or another file that OpenCV decodes. ImageError for animations, and for files
    that are none."""
    with path.open("rb") as file:
        start = file.read(8)
    reader = next((each for magic, each in HEADERS.items() if start.startswith(magic)), Image.open)
    try:
        with reader(path) as header:
            hw, bands, frames = (header.height, header.width), len(header.getbands()), getattr(header, "n_frames", 1)
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ImageError(f"{path}: damaged, or no image; {RESAVE}") from error
    except Exception as error:  # a reader may raise anything at bytes that it was not made for
        raise ImageError(f"{path}: its header cannot be read ({error}); {RESAVE}") from error
    if frames > 1:
        raise ImageError(f"{path}: an animation of {frames} pictures; save the one that is meant as PNG")
    jpeg = reader is JpegImageFile
    flags = {by: pair[bands > 1] | cv2.IMREAD_IGNORE_ORIENTATION for by, pair in REDUCED.items()} if jpeg else {}

    def decode(divisor: int) -> np.ndarray:
        flag = flags.get(max((by for by in flags if by <= divisor), default=1), cv2.IMREAD_UNCHANGED)
        return opencv_pixels(file_bytes(path), path, flag)

    return Page(hw, 2 * bands, path.stat().st_size, decode)


def file_bytes(path: Path) -> np.ndarray:
    """The content of a file, uint8; ImageError where it is empty or cannot be opened."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror}); check its access rights") from error
    if content.size == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy it again from its source")
    return content


def opencv_pixels(content: np.ndarray, path: Path, flags: int = cv2.IMREAD_UNCHANGED, index: int = 0) -> np.ndarray:
    """HxW or HxWx3 (RGB) pixels of a file's content, whose orientation tag is ignored; alpha is dropped.

    index: of the page. ImageError where the content is damaged: its codec complains, or returns nothing.
    """
    return as_rgb(opencv_raw(content, path, flags, index))


def opencv_raw(content: np.ndarray, path: Path, flags: int = cv2.IMREAD_UNCHANGED, index: int = 0) -> np.ndarray:
    """`opencv_pixels` as OpenCV orders channels: BGR, or BGRA."""
    images = ()
    with _heard_from_codecs() as said, suppress(cv2.error):
        if index:
            images = cv2.imdecodemulti(content, flags, range=(index, index + 1))[1]
        else:
            images = [cv2.imdecode(content, flags)]
    complaints = [line for line in said if COMPLAINT.search(line)]
    if complaints:
        words = complaints[0].decode("utf-8", "replace").strip()[-160:]
        raise ImageError(f"{path}: damaged, its codec says {words!r}; copy it again from its source, or {RESAVE}")
    if not len(images) or images[0] is None:
        raise ImageError(f"{path}: damaged, or no image that OpenCV can decode; {RESAVE}")
    return images[0]


def as_rgb(image: np.ndarray) -> np.ndarray:
    """OpenCV's pixels with red first and without alpha; in place where it can be, as montages are large."""
    if image.ndim == 2:
        return image
    if image.shape[2] != 3:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB)
    rows = max(STRIP_PX // image.shape[1], 1)
    for top in range(0, len(image), rows):
        image[top : top + rows] = cv2.cvtColor(image[top : top + rows], cv2.COLOR_BGR2RGB)
    return image


@contextmanager
def _heard_from_codecs() -> Iterator[list[bytes]]:
    """A list that holds, after the block, the lines that codecs wrote to stderr; those of others are passed on.

    Codecs in C write to the descriptor itself, and nothing else tells that they failed.
    """
    said: list[bytes] = []
    with _one_at_a_time, tempfile.TemporaryFile() as heard:
        try:
            stderr = dup(2)
        except OSError:  # a process without stderr
            yield said
            return
        try:
            dup2(heard.fileno(), 2)
            yield said
        finally:
            dup2(stderr, 2)
            close(stderr)
            heard.seek(0)
            said += heard.read().splitlines()
            for line in said:
                if not (CODEC.search(line) or COMPLAINT.search(line)):
                    print(line.decode("utf-8", "replace"), file=sys.stderr)
