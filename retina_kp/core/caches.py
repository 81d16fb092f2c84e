"""What a process keeps in memory so as not to compute or read it again: bounded in bytes, arrays in a compact form."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable

import numpy as np


class ByteCache:
    """Values by key, ``max_bytes`` of them at most: those not used for longest go first. A value is made anew when it
    is gone."""

    def __init__(self, max_bytes: int):
        self.max_bytes, self.bytes = max_bytes, 0
        self._values: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], object]):
        """The value of a key, from ``make`` unless it is there. One that is larger than the cache is not kept."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key][0]
        value = make()
        size = size_of(value)
        if size <= self.max_bytes:
            self._values[key] = value, size
            self.bytes += size
        while self.bytes > self.max_bytes:
            self.bytes -= self._values.popitem(last=False)[1][1]
        return value


def size_of(value) -> int:
    """Bytes of the arrays, tensors and bytes in a value: nested lists, tuples, and objects with fields. Small things
    count as 64."""
    if isinstance(value, bytes):
        return len(value) + 64
    if hasattr(value, "nbytes"):
        return max(value.nbytes, getattr(getattr(value, "base", None), "nbytes", 0)) + 128  # a slice keeps the whole
    if isinstance(value, (list, tuple)):
        return 64 + sum(map(size_of, value))
    return 64 + sum(map(size_of, vars(value).values())) if hasattr(value, "__dict__") else 64


def pack(layers: Iterable[np.ndarray]) -> list[bytes]:
    """Layers (H, W) uint8, mostly empty, compressed one by one; an empty one takes no bytes."""
    return [zlib.compress(layer.tobytes(), 1) if layer.any() else b"" for layer in layers]


def unpack(packed: list[bytes], hw: tuple[int, int]) -> np.ndarray:
    """(N, H, W) uint8 of what `pack` has compressed."""
    layers = np.zeros((len(packed), *hw), np.uint8)
    for layer, content in zip(layers, packed, strict=True):
        if content:
            layer[:] = np.frombuffer(zlib.decompress(content), np.uint8).reshape(hw)
    return layers


def pack_masks(masks: Iterable[np.ndarray]) -> bytes:
    """Masks of one size, bool, as compressed bits."""
    return zlib.compress(np.packbits(np.stack(list(masks))).tobytes(), 1)


def unpack_masks(packed: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """(N, H, W) bool of what `pack_masks` has compressed."""
    bits = np.frombuffer(zlib.decompress(packed), np.uint8)
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


def pack_gray(image: np.ndarray) -> np.ndarray:
    """Gray values in [0, 1] in 16 bits: exact for 8-bit and 16-bit pictures, else to within 1e-5."""
    return np.rint(image * np.float32(65535)).astype(np.uint16)


def unpack_gray(packed: np.ndarray) -> np.ndarray:
    """float32 in [0, 1] of what `pack_gray` has packed."""
    return packed / np.float32(65535)
