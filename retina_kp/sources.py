"""Where training batches come from: drawn pairs, image files, or a fixed mix of both. All answer ``batch(index, batch_size, strength)``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .annotation import screen
from .augment import AppearanceRange
from .dataset import SyntheticPairs
from .geometry import TransformRange
from .layouts import load_layout
from .pairs import PairDataset
from .records import Problem, replace_record, split_by_eye


@dataclass(frozen=True)
class FileOptions:
    """Pairs of image files and how they are used for training. Sizes in px, angles in degrees."""

    root: str = ""  # a folder of any layout, or a pairs.csv
    layout: str = "auto"
    mode: str = ""  # keep one kind of pair, e.g. "cffa"; "" keeps all
    share: float = 0.0  # of the pairs of every batch that are files; the rest is drawn (replay)
    size_px: int = 256  # side of the squares that images are fitted into
    prealign: bool = False  # draw image 1 in the frame of image 0 by its H before the random transform
    ranges: TransformRange = TransformRange()  # random transform of image 1 on top of the pair's own
    appearance: AppearanceRange = AppearanceRange()
    max_residual_px: float = 25.0  # leave-one-out residual (px at 768) above which a pair's points are not trusted
    validation_share: float = 0.2  # of the eyes, unless some are marked "val"; 0: none validates

    def __post_init__(self):
        if not 0 <= self.share <= 1 or (self.share > 0 and not self.root):
            raise ValueError(
                f"files.share: takes a number from 0 to 1, and a root when it is above 0; not {self.share!r} with {self.root!r}"
            )
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"files.validation_share: takes a number from 0 to below 1, not {self.validation_share!r}")


@dataclass(frozen=True)
class FileSplit:
    """Screened records: train and validation hold no eye in common; annotation has one row per pair; problems say what was left out."""

    train: list
    validation: list
    annotation: list[dict] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ids(self) -> dict[str, list[str]]:
        """Pair ids of both parts, in their order."""
        return {"train": [r.pair_id for r in self.train], "validation": [r.pair_id for r in self.validation]}

    def changes(self, before: dict[str, list[str]] | None) -> str:
        """How these files differ from earlier `ids`, in words; "" when they do not, or nothing is known of earlier ones."""
        if before is None or before == self.ids:
            return ""
        old, new = ({name for part in ids.values() for name in part} for ids in (before, self.ids))
        words = [f"{verb}: {', '.join(sorted(names)[:5])}" for verb, names in (("gone", old - new), ("new", new - old)) if names]
        return "; ".join(words) or "the same pairs, in another order or split"

    def some_validation(self, count: int, seed: int) -> list:
        """At most ``count`` validation records, drawn by seed, in their order."""
        return [self.validation[k] for k in sorted(np.random.default_rng([seed, 11]).permutation(len(self.validation))[:count])]


def load_files(options: FileOptions, seed: int = 0) -> FileSplit:
    """Read, screen and split by eye; eyes marked as test stay out. ValueError when nothing is left to train on."""
    inventory = load_layout(options.root, options.layout, options.mode or None)
    tested = {r.eye_id for r in inventory.records if r.split == "test"}
    records = [r for r in inventory.records if r.eye_id not in tested]
    used, rows, problems = screen(records, options.max_residual_px)
    if kept_out := len(inventory.records) - len(records):
        problems = [*problems, Problem(options.root, f"{kept_out} pairs of eyes marked as test: not trained on, nor validated on")]
    if not used:
        reasons = "; ".join(f"{p.source}: {p.reason}" for p in (inventory.problems + problems)[:3]) or "it holds no pairs"
        raise ValueError(f"{options.root}: no pair to train on ({reasons})")
    train, validation = hold_out(used, options.validation_share, seed)
    if not validation and options.validation_share > 0:
        problems = [*problems, Problem(options.root, "all pairs show one eye: none is left to validate on")]
    return FileSplit(train, validation, rows, inventory.problems + problems)


def hold_out(records: list, share: float, seed: int) -> tuple[list, list]:
    """(training, validation) records without an eye in common. Eyes of which a pair is marked "val" validate; where none is, that share of
    all: at least one eye on either side where there are two and the share is above 0. A lonely eye is trained on."""
    eyes, marked = {r.eye_id for r in records}, {r.eye_id for r in records if r.split == "val"}
    if share > 0 and marked and marked < eyes:
        parts = {eye: "val" if eye in marked else "train" for eye in eyes}
        split = [replace_record(r, split=parts[r.eye_id]) for r in records]
    else:
        share = float(np.clip(share, 1 / len(eyes), 1 - 1 / len(eyes))) if len(eyes) > 1 and share > 0 else 0.0
        split = split_by_eye(records, {"train": 1 - share, "val": share}, seed)
    return [r for r in split if r.split == "train"], [r for r in split if r.split == "val"]


class MixedPairs:
    """Every batch holds files and drawn pairs in fixed numbers: of n pairs so far, round(share · n) are files."""

    def __init__(self, files: PairDataset, drawn: SyntheticPairs, share: float):
        self.files, self.drawn, self.share = files, drawn, share

    def counts(self, index: int, batch_size: int) -> tuple[int, int]:
        """How many pairs of batch ``index`` are files and how many are drawn. The numbers follow the share exactly over time, and to
        within one pair in every batch."""
        before, after = (int(self.share * batch_size * n + 0.5) for n in (index, index + 1))
        return after - before, batch_size - after + before

    def batch(self, index: int, batch_size: int, strength: float = 1.0) -> dict:
        """Files first, then drawn pairs."""
        n_files, n_drawn = self.counts(index, batch_size)
        first = int(self.share * batch_size * index + 0.5)
        parts = [self.files.batch_from(first, n_files, strength)] if n_files else []
        parts += [self.drawn.batch(index, n_drawn, strength)] if n_drawn else []
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


def stream(source, indices: list[int], batch_size: int, strengths: list[float], workers: int = 0) -> Iterator[dict]:
    """Batches by number, in order, each with its strength, prepared by ``workers`` processes: as many as you like, for a batch depends on
    its number alone."""
    return iter(DataLoader(_Batches(source, indices, batch_size, strengths), batch_size=None, num_workers=workers))
