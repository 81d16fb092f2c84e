"""TIFF: the tags are read before anything is decoded, so that pixels are right or the reason is named."""

from __future__ import annotations

import logging
import struct
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tifffile

from .codecs import file_bytes, opencv_pixels
from .pages import RESAVE, ImageError, Page, chosen

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 274
JPEG = 7
PLAIN = (1, 8, 32946, 32773)  # compressions that tifffile decodes by itself: none, deflate, packbits
OPENCV = (5, JPEG)  # that OpenCV decodes where imagecodecs is missing: LZW
LONGER_THAN = 1.02  # ratio of proportions, from which two pages are no copies of one picture
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its remarks on odd tags would stand in reports


def tiff_page(path: Path, number: int | None) -> Page:
    """A page by its number, or the one large picture of a file. ImageError names what is odd."""
    try:
        with tifffile.TiffFile(path) as tif:
            if not len(tif.pages):
                raise ValueError("it has no page")
            index = _index(tif, number, path)
            page = tif.pages[index]
            _check(page, path)
            bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
            hw, pixel_bytes = (page.imagelength, page.imagewidth), page.samplesperpixel * max(bits // 8, 1)
            stored = sum(page.databytecounts)
    except ImageError:
        raise
    except Exception as error:  # a reader may raise anything at bytes that it was not made for
        raise ImageError(f"{path}: damaged, its TIFF header cannot be read ({error}); {RESAVE}") from error
    return Page(hw, pixel_bytes, stored, partial(_decoded, path, index))


def _index(tif, number: int | None, path: Path) -> int:
    """Of the page that is meant: by number, or the largest one where all others are small copies or masks of it."""
    stack = (tif.imagej_metadata or {}).get("images", 1)
    if len(tif.pages) == 1 and stack > 1:  # written by ImageJ beyond 4 GB: one header for all
        raise ImageError(f"{path}: a stack of {stack} pictures; save the one that is meant as PNG or TIFF")
    if number is not None or len(tif.pages) == 1:
        return chosen(number, len(tif.pages), path)
    whole = [i for i, page in enumerate(tif.pages) if not int(page.subfiletype) & 5]  # 1: reduced, 4: mask
    sizes = [(tif.pages[i].imagewidth, tif.pages[i].imagelength) for i in whole]
    areas = [w * h for w, h in sizes]
    ratios = [w / max(h, 1) for w, h in sizes]
    if areas and sorted(areas)[-2:].count(max(areas)) == 1 and max(ratios) < LONGER_THAN * min(ratios):
        return whole[areas.index(max(areas))]
    return chosen(None, len(tif.pages), path)


def _check(page, path: Path) -> None:
    """ImageError for kinds of pixels that are no picture here, and for pixels beyond the file's end."""
    photometric, samples = int(page.photometric), page.samplesperpixel
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR):
        kind = getattr(page.photometric, "name", photometric)
        raise ImageError(f"{path}: its colours are {kind}; save it as gray or RGB")
    if samples > 4 or (samples == 4 and photometric != RGB) or page.imagedepth > 1:
        what = f"{samples} channels" if page.imagedepth == 1 else f"a volume of {page.imagedepth} layers"
        raise ImageError(f"{path}: {what}, where a picture has one (gray) or three (RGB); save those that are meant")
    if page.dtype is None or page.dtype.kind not in "buf" or page.dtype.itemsize > (8 if page.dtype.kind == "f" else 2):
        kind = page.dtype or f"{page.bitspersample} bits, sample format {page.sampleformat}"
        raise ImageError(f"{path}: pixels of type {kind} have no known white; save it as 8-bit or 16-bit unsigned")
    places, counts = page.dataoffsets, page.databytecounts
    end = path.stat().st_size
    cut = sum(place + count > end or not count for place, count in zip(places, counts, strict=False))
    if cut or len(places) < np.prod(page.chunked):
        raise ImageError(f"{path}: damaged, {cut or 'many'} of its {len(places)} strips or tiles are not in the file")


def _decoded(path: Path, index: int, divisor: int) -> np.ndarray:
    """`Page.decode`; TIFF is decoded whole."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[index]
        compression, together = int(page.compression), page.samplesperpixel == 1 or page.planarconfig == 1
        codecs, ycbcr = find_spec("imagecodecs") is not None, int(page.photometric) == YCBCR
        # the only decoder that complains about JPEG, or turns other YCbCr into RGB
        if together and (compression == JPEG or ycbcr or (compression in OPENCV and not codecs)):
            return opencv_pixels(_upright(path, page, tif.byteorder), path, index=index)
        if not codecs and (compression not in PLAIN or page.bitspersample not in (1, 8, 16, 32, 64)):
            planes = "" if together else " with its colours in planes"
            way = f"pip install imagecodecs, or {RESAVE}"
            name = getattr(page.compression, "name", compression)
            raise ImageError(f"{path}: sound, but {name} compression{planes} needs a library: {way}")
        try:
            pixels = page.asarray(maxworkers=1)
        except Exception as error:  # a codec may raise anything at bytes that it was not made for
            why = str(error).partition("\n")[0][:160]
            raise ImageError(f"{path}: damaged, its codec says {why!r}; copy it again from its source") from error
        return _as_shown(pixels, page)


def _upright(path: Path, page, byteorder: str) -> np.ndarray:
    """The file's bytes without its orientation, which OpenCV would apply."""
    content, tag = file_bytes(path), page.tags.get(ORIENTATION)
    if tag is not None:
        content[tag.valueoffset : tag.valueoffset + 2] = np.frombuffer(struct.pack(byteorder + "H", 1), np.uint8)
    return content


def _as_shown(pixels: np.ndarray, page) -> np.ndarray:
    """HxW or HxWx3 of stored pixels: planes put together, alpha dropped, palette expanded, black made 0."""
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
    photometric, bits = int(page.photometric), page.bitspersample
    if photometric == PALETTE:
        return np.ascontiguousarray((page.colormap >> 8).astype(np.uint8).T[pixels])
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype == np.uint8 and bits < 8:
        pixels = np.rint(pixels * (255 / (2**bits - 1))).astype(np.uint8)
    if photometric == WHITE_IS_ZERO and pixels.dtype.kind == "u":
        pixels = (255 if bits <= 8 else 2**bits - 1) - pixels
    return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))
