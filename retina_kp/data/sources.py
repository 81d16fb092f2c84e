"""Where training batches come from: a fixed mix of sources, streams that workers prepare, and what is kept in memory.

A source answers ``batch(index, batch_size, strength)``.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..core.dense import BEND, bend_nodes
from ..core.geometry import pad_points

PREFETCHED = 2  # batches that each worker prepares ahead: one of 5 pairs of 768 px takes 32 MB of shared memory
REPLAYED = "replayed "  # before the names of samples of any file source but the first


class MixedPairs:
    """Every batch holds pairs of several sources in fixed numbers, given as (source, share), shares adding up to 1.

    Of n pairs so far, round(share · n) are of each source, and the last takes the rest.
    """

    def __init__(self, *sources):
        self.sources, self.shares = [source for source, _ in sources], [share for _, share in sources]
        if abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"shares {self.shares} do not add up to 1")

    def counts(self, index: int, batch_size: int) -> tuple[int, ...]:
        """How many pairs of batch ``index`` come from each source: by their shares, to within one pair."""
        before, after = self._so_far(index * batch_size), self._so_far((index + 1) * batch_size)
        return tuple(b - a for a, b in zip(before, after, strict=True))

    def _so_far(self, pairs: int) -> list[int]:
        """Of so many pairs, how many are of each source: each takes its share of what those before have left."""
        counts, left, rest = [], pairs, 1.0
        for share in self.shares[:-1]:
            counts.append(int(left * share / rest + 0.5) if rest > 1e-9 else 0)
            left, rest = left - counts[-1], rest - share
        return [*counts, left]

    def batch(self, index: int, batch_size: int, strength: float = 1.0) -> dict:
        """The sources' pairs in their order. Files go through their epochs; synthetic pairs know the batch's number."""
        parts, counts = [], self.counts(index, batch_size)
        for place, (source, first) in enumerate(zip(self.sources, self._so_far(index * batch_size), strict=True)):
            if counts[place] and hasattr(source, "batch_from"):
                part = source.batch_from(first, counts[place], strength)
                if place:  # the same name may stand for another pair in another folder, and PKE remembers by name
                    part = part | {"sample_ids": [f"{REPLAYED}{name}" for name in part["sample_ids"]]}
                parts.append(part)
            elif counts[place]:
                parts.append(source.batch(index, counts[place], strength))
        return join_batches(parts)


def join_batches(parts: list[dict]) -> dict:
    """One batch out of several; points that a part has not are NaN, point lists are padded to the longest. Pairs of flat
    eyes are not bent."""
    if len(parts) == 1:
        return parts[0]
    joined = {}
    for key in dict.fromkeys(k for part in parts for k in part):
        values = [part[key] if key in part else _unknown(key, part) for part in parts]
        if not torch.is_tensor(values[0]):
            joined[key] = [v for value in values for v in value]
        elif values[0].ndim == 3 and values[0].shape[-1] == 2:
            joined[key] = pad_points([row for value in values for row in value])
        else:
            joined[key] = torch.cat(values)
    return joined


def _unknown(key: str, part: dict) -> torch.Tensor:
    """What stands for a key that a part has not: no points, or, as its matrix tells all, no bend."""
    count, hw = len(part["image0"]), part["image0"].shape[-2:]
    if key == BEND:
        return torch.zeros(count, 2, *bend_nodes(hw).shape[:2])
    return torch.full((count, 1, 2), torch.nan)


class _Batches(Dataset):
    def __init__(self, source, indices: list[int], batch_size: int, strengths: list[float]):
        self.source, self.indices, self.batch_size, self.strengths = source, indices, batch_size, strengths

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, k: int) -> dict:
        return self.source.batch(self.indices[k], self.batch_size, self.strengths[k])


def stream(
    source, indices: list[int], batch_size: int, strengths: list[float], workers: int = 0, pin=False
) -> Iterator[dict]:
    """Batches by number, in order, each with its strength, prepared by ``workers`` processes.

    pin: batches lie in pinned memory, from where a GPU copies while it computes. An error in a worker is raised here.
    """
    settings = {"worker_init_fn": use_one_core, "prefetch_factor": PREFETCHED} if workers else {}
    batches = _Batches(source, indices, batch_size, strengths)
    for batch in DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=pin, **settings):
        if "modalities" in batch:  # pinning makes lists of tuples
            batch["modalities"] = [tuple(pair) for pair in batch["modalities"]]
        yield batch


def use_one_core(worker: int) -> None:
    """For a process among several: OpenCV works on one thread, as torch already does there."""
    cv2.setNumThreads(0)  # for 1 OpenCV would stop threads that a forked process does not have, and crash


# ------------------------------------------------------------------ what is kept in memory


class ByteCache:
    """Values by key, ``max_bytes`` of them at most: those not used for longest go first and are made anew."""

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
    """Bytes of the arrays, tensors and bytes in a value, its lists, tuples and fields; small things count as 64."""
    if isinstance(value, bytes):
        return len(value) + 64
    if hasattr(value, "nbytes"):
        return max(value.nbytes, getattr(getattr(value, "base", None), "nbytes", 0)) + 128  # a slice keeps the whole
    if isinstance(value, (list, tuple)):
        return 64 + sum(map(size_of, value))
    return 64 + sum(map(size_of, vars(value).values())) if hasattr(value, "__dict__") else 64


def pack(array: np.ndarray) -> tuple[bytes, tuple, np.dtype]:
    """An array of uint8 or bool, compressed; one that is empty takes no bytes."""
    content = np.packbits(array) if array.dtype == bool else array
    return zlib.compress(content.tobytes(), 1) if array.any() else b"", array.shape, array.dtype


def unpack(content: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """What `pack` has compressed."""
    if not content:
        return np.zeros(shape, dtype)
    values = np.frombuffer(zlib.decompress(content), np.uint8)
    values = np.unpackbits(values, count=int(np.prod(shape))) if dtype.kind == "b" else values
    return values.reshape(shape).astype(dtype, copy=False)


def pack_gray(image: np.ndarray) -> np.ndarray:
    """Gray values in [0, 1] in 16 bits: exact for 8-bit and 16-bit pictures, else to within 1e-5."""
    return np.rint(image * np.float32(65535)).astype(np.uint16)


def unpack_gray(packed: np.ndarray) -> np.ndarray:
    """float32 in [0, 1] of what `pack_gray` has packed."""
    return packed / np.float32(65535)
