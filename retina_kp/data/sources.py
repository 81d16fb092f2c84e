"""Where training batches come from: synthetic pairs, image files, or a fixed mix of them. All answer ``batch(index,
batch_size, strength)``."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

PREFETCHED = 2  # batches that each worker prepares ahead: one of 5 pairs of 768 px takes 32 MB of shared memory
REPLAYED = "replayed "  # before the names of samples of any file source but the first


class MixedPairs:
    """Every batch holds pairs of several sources in fixed numbers: of n pairs so far, round(share · n) are of each, the
    last taking the rest. sources: (source, share), shares adding up to 1."""

    def __init__(self, *sources):
        self.sources, self.shares = [source for source, _ in sources], [share for _, share in sources]
        if abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"shares {self.shares} do not add up to 1")

    def counts(self, index: int, batch_size: int) -> tuple[int, ...]:
        """How many pairs of batch ``index`` come from each source. The numbers follow the shares exactly over time, and
        to within one pair in every batch."""
        before, after = self._so_far(index * batch_size), self._so_far((index + 1) * batch_size)
        return tuple(b - a for a, b in zip(before, after, strict=True))

    def _so_far(self, pairs: int) -> list[int]:
        """Of so many pairs, how many are of each source: the first takes its share, the next its share of the rest, and
        so on."""
        counts, left, rest = [], pairs, 1.0
        for share in self.shares[:-1]:
            counts.append(int(left * share / rest + 0.5) if rest > 1e-9 else 0)
            left, rest = left - counts[-1], rest - share
        return [*counts, left]

    def batch(self, index: int, batch_size: int, strength: float = 1.0) -> dict:
        """The sources' pairs in their order. Files go through their epochs; synthetic pairs know the batch's number
        alone."""
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
    """One batch out of several; points a part has not are NaN, point lists are padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    joined = {}
    for key in dict.fromkeys(k for part in parts for k in part):
        values = [part.get(key, torch.full((len(part["image0"]), 1, 2), torch.nan)) for part in parts]
        if not torch.is_tensor(values[0]):
            joined[key] = [v for value in values for v in value]
            continue
        if values[0].ndim == 3 and values[0].shape[-1] == 2:
            longest = max(v.shape[1] for v in values)
            values = [torch.cat([v, v.new_full((len(v), longest - v.shape[1], 2), torch.nan)], 1) for v in values]
        joined[key] = torch.cat(values)
    return joined


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

    As many workers as you like: a batch depends on its number alone. An error in one is raised here, with its message.
    pin: batches lie in pinned memory, from where a GPU copies while it computes.
    """
    settings = {"worker_init_fn": use_one_core, "prefetch_factor": PREFETCHED} if workers else {}
    batches = _Batches(source, indices, batch_size, strengths)
    loader = DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=pin, **settings)
    for batch in loader:
        if "modalities" in batch:  # pinning makes lists of tuples
            batch["modalities"] = [tuple(pair) for pair in batch["modalities"]]
        yield batch


def use_one_core(worker: int) -> None:
    """For a process among several: OpenCV works on one thread, as torch already does there.

    0, not 1: for 1 OpenCV would stop its threads, but those of the process that was forked are not here (it crashes).
    """
    cv2.setNumThreads(0)


def pad_points(points: list[torch.Tensor]) -> torch.Tensor:
    """Lists of (N_i, 2) → (B, max N, 2), the rest NaN; at least one row."""
    padded = torch.full((len(points), max([len(p) for p in points] + [1]), 2), torch.nan)
    for row, p in zip(padded, points, strict=True):
        row[: len(p)] = p
    return padded
