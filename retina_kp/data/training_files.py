"""A folder of image files as training data: which pairs train, which validate, and what is left out and why."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..core.geometry import TransformRange
from ..core.images import as_array, read_image, to_gray
from .annotation import screen
from .augment import AppearanceRange, FrameRange
from .layouts import MODES, load_layout
from .records import Inventory, PairRecord, Problem

ALL_MODES = "all"
FLAT = 2 / 255  # an image whose gray levels vary less shows nothing


@dataclass(frozen=True)
class FileOptions:
    """Pairs of image files and how they are used for training. Sizes in px, angles in degrees."""

    root: str = ""  # a folder of any layout, or a pairs.csv
    layout: str = "auto"
    mode: tuple[str, ...] = ()  # kinds of pairs, e.g. ("cffa", "cfoct"); () all with a CF as fixed image; ("all",) all
    share: float = 0.0  # of the pairs of every batch
    size_px: int = 256  # side of the squares that images are fitted into
    frames: FrameRange = FrameRange()  # which part of a pair is shown, and how it is turned
    prealign: bool = False  # draw image 1 in the frame of image 0 by its H before the random transform
    ranges: TransformRange = TransformRange()  # random transform of image 1 on top of the pair's own
    appearance: AppearanceRange = AppearanceRange()
    max_residual_px: float = 25.0  # leave-one-out residual (px at 768) above which a pair's points are not trusted
    validation_share: float = 0.2  # of the eyes, unless some are marked "val"; 0: none validates
    split_seed: int = 0  # which eyes validate; no part of the run's seed, so that all phases hold out the same

    def __post_init__(self):
        if not 0 <= self.share <= 1 or (self.share > 0 and not self.root):
            takes = "a number from 0 to 1, and a root when it is above 0"
            raise ValueError(f"files.share: takes {takes}; not {self.share!r} with {self.root!r}")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"files.validation_share: takes a number from 0 to below 1, not {self.validation_share!r}")
        for name in self.mode:
            if name not in (*MODES, ALL_MODES):
                known = ", ".join(MODES)
                raise ValueError(f"files.mode: {name!r} is unknown; name some of {known}, or {ALL_MODES!r}")


@dataclass(frozen=True)
class FileSplit:
    """Screened records: train and validation hold no eye in common, annotation has one row per pair of `screen`."""

    train: list[PairRecord] = field(default_factory=list)
    validation: list[PairRecord] = field(default_factory=list)
    annotation: list[dict] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ids(self) -> dict[str, list[str]]:
        """Pair ids of both parts, in their order."""
        return {"train": [r.pair_id for r in self.train], "validation": [r.pair_id for r in self.validation]}

    def changes(self, before: dict[str, list[str]] | None) -> str:
        """How these files differ from earlier `ids`, in words; "" when they do not, or without earlier ones."""
        if before is None or before == self.ids:
            return ""
        old, new = ({name for part in ids.values() for name in part} for ids in (before, self.ids))
        told = (("gone", old - new), ("new", new - old))
        words = [f"{verb}: {', '.join(sorted(names)[:5])}" for verb, names in told if names]
        return "; ".join(words) or "the same pairs, in another order or split"

    def some_validation(self, count: int, seed: int) -> list[PairRecord]:
        """At most ``count`` validation records, drawn by seed, in their order."""
        order = np.random.default_rng([seed, 11]).permutation(len(self.validation))[:count]
        return [self.validation[k] for k in sorted(order)]

    def counts(self) -> list[dict]:
        """One row per kind of pair: pairs and eyes of both parts, and how many have clicked points or a vessel mask."""
        rows = []
        for kind in dict.fromkeys(_kind(r) for r in [*self.train, *self.validation]):
            train, validation = ([r for r in part if _kind(r) == kind] for part in (self.train, self.validation))
            row = {"kind": kind, "pairs to train on": len(train), "their eyes": len({r.eye_id for r in train})}
            row |= {"pairs to validate on": len(validation), "eyes to validate on": len({r.eye_id for r in validation})}
            row["with clicked points"] = sum(r.points0_xy is not None for r in train + validation)
            rows.append(row | {"with a vessel mask": sum(r.vessel_mask0 is not None for r in train + validation)})
        return rows


def load_files(options: FileOptions) -> FileSplit:
    """Read, screen and split by eye; eyes marked as test stay out. ValueError when nothing is left to train on."""
    found = _inventory(options)
    tested, problems = {r.eye_id for r in found.records if r.split == "test"}, list(found.problems)
    kept = [r for r in found.records if r.eye_id not in tested]
    if len(kept) < len(found.records):
        words = f"{len(found.records) - len(kept)} pairs of eyes marked as test: not trained on, nor validated on"
        problems.append(Problem(options.root, words))
    visible, unfit = look_through(kept)
    used, rows, distrusted = screen(visible, options.max_residual_px)
    problems += [*unfit, *distrusted]
    if not used:
        reasons = "; ".join(map(str, problems[:3])) or "it holds no pairs"
        raise ValueError(f"{options.root}: no pair to train on ({reasons})")
    train, validation = hold_out(used, options.validation_share, options.split_seed)
    if not validation and options.validation_share > 0:
        problems.append(Problem(options.root, "all pairs show one eye: none is left to validate on"))
    return FileSplit(train, validation, rows, problems)


def _kind(record: PairRecord) -> str:
    return f"{record.modality0}–{record.modality1}"


def _inventory(options: FileOptions) -> Inventory:
    """The pairs of the wanted kinds; how many are left out becomes a problem."""
    if not options.mode or ALL_MODES in options.mode:
        found = load_layout(options.root, options.layout)
        others = Counter(_kind(r) for r in found.records if r.modality0 != "CF" and not options.mode)
        for kind, count in others.items():
            words = f"{count} {kind} pairs left out, since a CF is the fixed image; to train on them name them in mode"
            found.problems.append(Problem(options.root, words))
        found.records = [r for r in found.records if _kind(r) not in others]
        return found
    return _joined_modes(options)


def _joined_modes(options: FileOptions) -> Inventory:
    """The pairs of several modes, each once."""
    joined, failed = Inventory(), []
    for mode in dict.fromkeys(options.mode):
        try:
            part = load_layout(options.root, options.layout, mode)
        except ValueError as error:
            failed.append(error)
            continue
        known = {r.pair_id: r for r in joined.records}
        shown = {(r.image0, r.image1): _kind(r) for r in joined.records}
        for record in part.records:
            if shown.get((record.image0, record.image1), _kind(record)) != _kind(record):
                words = f"its folders do not say which kind of pairs they hold, and {len(options.mode)} were named"
                raise ValueError(f"{options.root}: {words}; name one mode")
            if record.pair_id not in known:
                joined.add(record)
        joined.problems += [p for p in part.problems if p not in joined.problems]
        if not part.records:
            joined.problems.append(Problem(options.root, f"mode {mode}: no pair of this kind"))
    if len(failed) == len(set(options.mode)):
        raise failed[0]
    joined.problems += [Problem(options.root, str(error)) for error in failed]
    return joined


def look_through(records: Sequence[PairRecord]) -> tuple[list[PairRecord], list[Problem]]:
    """Records whose pixels can teach something, and why the others are left out.

    Left out are pairs with an image that cannot be decoded or has one gray level, or with a mask without vessels. So is
    a pair without mask and clicked points where others of its kind have masks.
    """
    masked = {_kind(r) for r in records if r.vessel_mask0 is not None}
    is_mask = {path: False for r in records for path in (r.image0, r.image1)}
    is_mask |= {r.vessel_mask0: True for r in records if r.vessel_mask0 is not None}
    with ThreadPoolExecutor(4) as pool:
        why_not = dict(zip(is_mask, pool.map(_flaw, is_mask, is_mask.values()), strict=True))
    fit, problems = [], []
    for record in records:
        paths = (record.image0, record.image1, record.vessel_mask0)
        source = next((path for path in paths if path is not None and why_not[path]), record.image0)
        why = why_not.get(source, "")
        if not why and record.vessel_mask0 is None and record.points0_xy is None and _kind(record) in masked:
            why = "has no usable vessel mask, which other pairs have, and so no labels"
        if why:
            problems.append(Problem(str(source), f"{record.pair_id}: {why}; left out", record.pair_id))
        else:
            fit.append(record)
    return fit, problems


def _flaw(path: Path, is_mask: bool) -> str:
    """Why nothing can be seen in a file, "" where something can."""
    try:
        image = read_image(path) if is_mask else to_gray(as_array(path))
    except (ValueError, OSError) as error:
        return str(error)
    if is_mask:
        return "" if image.max() > image.min() else f"its vessel mask {path.name} shows no vessel"
    low, high = np.percentile(image[::4, ::4], (0.5, 99.5))
    return "" if high - low >= FLAT else f"its image {path.name} is of one gray level ({high:.2f})"


def _place(eye: str, seed: int) -> float:
    """A number in [0, 1) that an eye keeps, whatever other eyes there are."""
    return int(hashlib.sha256(f"{seed}:{eye}".encode()).hexdigest()[:13], 16) / 16**13


def hold_out(records: list[PairRecord], share: float, seed: int) -> tuple[list[PairRecord], list[PairRecord]]:
    """(training, validation) records without an eye in common.

    Eyes of which a pair is marked "val" validate. Where none is, about that share of all does, each by its name alone:
    an eye that comes or goes moves no other. Both sides have an eye where there are two and the share is above 0.
    """
    eyes = sorted({r.eye_id for r in records}, key=lambda eye: _place(eye, seed))
    held = {r.eye_id for r in records if r.split == "val"}
    if not held or len(held) == len(eyes):
        count = sum(_place(eye, seed) < share for eye in eyes)
        held = set(eyes[: min(max(count, 1), len(eyes) - 1)])
    if not share > 0 or len(eyes) < 2:
        held = set()
    train = [replace(r, split="train") for r in records if r.eye_id not in held]
    return train, [replace(r, split="val") for r in records if r.eye_id in held]
