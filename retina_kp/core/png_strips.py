"""PNG of montages, read at a part of its size and written without a second copy: a few rows at a time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from .codecs import as_rgb, opencv_page, opencv_raw
from .files import replacing
from .pages import RESAVE, ImageError, Page

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 6: 4}  # by colour type: gray, RGB, RGB and alpha
ORDERS = {1: slice(None), 3: [2, 1, 0], 4: [2, 1, 0, 3]}  # of channels, from OpenCV's to that of a file
STRIP_ROWS = 256
UP = 2  # the filter that tells a row as its change from the one above


def png_page(path: Path) -> Page:
    """`opencv_page` of a PNG, which is decoded in strips where less than the whole size is wanted."""
    page = opencv_page(path)

    def decode(divisor: int) -> np.ndarray:
        small = read_png_reduced(path, divisor) if divisor > 1 else None
        return page.decode(1) if small is None else small

    return replace(page, decode=decode)


def read_png_reduced(path: Path, times: int) -> np.ndarray | None:
    """A PNG at 1/times of its size, (H // times, W // times) or with three colours: the means of its pixels.

    times: a power of two, at most STRIP_ROWS. None for the kinds that are read whole: interlaced, of a palette, or of
    other than 8 or 16 bits. ImageError where the file is damaged.
    """
    with path.open("rb") as file:
        chunks = _chunks(file, path)
        _, header = next(chunks, (b"", b""))
        w, h, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
        if interlaced or colour not in CHANNELS or bits not in (8, 16):
            return None
        stride, parts = w * CHANNELS[colour] * bits // 8 + 1, []
        above = bytes(stride)
        for rows in _unpacked(chunks, stride * STRIP_ROWS, stride * h, path):
            strip = _png(w, len(rows) // stride + 1, bits, colour, [zlib.compress(above + rows, 0)])
            pixels = opencv_raw(np.frombuffer(b"".join(strip), np.uint8), path)
            last = pixels[-1].reshape(w, -1)[:, ORDERS[CHANNELS[colour]]]
            above = b"\0" + last.astype(last.dtype.newbyteorder(">")).tobytes()
            small = as_rgb(pixels[1:])[: (len(pixels) - 1) // times * times, : w // times * times]
            size = (w // times, len(small) // times)
            parts += [cv2.resize(small, size, interpolation=cv2.INTER_AREA)] if size[1] else []
            h -= len(pixels) - 1
    if h:
        raise ImageError(f"{path}: damaged, {h} of its rows are missing; copy it again from its source, or {RESAVE}")
    return np.concatenate(parts)


def _chunks(file: BinaryIO, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of a PNG's chunks, of which IHDR and IDAT are checked."""
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        data, kind = file.read(int.from_bytes(head[:4], "big")), head[4:]
        if kind in (b"IHDR", b"IDAT") and struct.pack(">I", zlib.crc32(kind + data)) != file.read(4):
            raise ImageError(f"{path}: damaged, a checksum is wrong; copy it again from its source, or {RESAVE}")
        if kind in (b"IHDR", b"IDAT"):
            yield kind, data
        else:
            file.seek(4, 1)


def _unpacked(chunks: Iterator[tuple[bytes, bytes]], size: int, whole: int, path: Path) -> Iterator[bytes]:
    """The filtered rows of all IDAT chunks, ``size`` bytes at a time and no more than ``whole`` together."""
    unpacker, ready = zlib.decompressobj(), bytearray()
    for _, packed in chunks:
        while packed and whole:
            try:
                ready += unpacker.decompress(packed, min(size, whole) - len(ready))
            except zlib.error as error:
                raise ImageError(f"{path}: damaged ({error}); copy it again from its source, or {RESAVE}") from error
            packed = unpacker.unconsumed_tail
            if len(ready) == min(size, whole):
                yield bytes(ready)
                whole -= len(ready)
                ready.clear()


def write_png_in_strips(path: Path, array: np.ndarray) -> None:
    """Write an image (H, W) or (H, W, 3) of uint8 or uint16 as PNG, atomically."""
    (h, w), stride = array.shape[:2], array[0].nbytes
    packer, above = zlib.compressobj(1), np.zeros((1, stride), np.uint8)

    def packed() -> Iterator[bytes]:
        nonlocal above
        for top in range(0, h, STRIP_ROWS):
            strip = array[top : top + STRIP_ROWS].astype(array.dtype.newbyteorder(">"), order="C")
            rows = np.vstack([above, strip.view(np.uint8).reshape(len(strip), stride)])
            changes = np.full((len(strip), stride + 1), UP, np.uint8)
            np.subtract(rows[1:], rows[:-1], out=changes[:, 1:])
            above = rows[-1:]
            yield packer.compress(changes)
        yield packer.flush()

    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(_png(w, h, 8 * array.itemsize, 2 if array.ndim == 3 else 0, packed()))


def _png(w: int, h: int, bits: int, colour: int, packed: Iterator[bytes] | list[bytes]) -> Iterator[bytes]:
    """The bytes of a PNG, part by part."""
    yield SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, bits, colour, 0, 0, 0))
    for part in packed:
        yield _chunk(b"IDAT", part)
    yield _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
