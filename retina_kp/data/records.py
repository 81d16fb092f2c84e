"""The one form all data takes: pair records, the problems met on the way, and what an inventory of them holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.files import composed
from ..core.geometry import as_homography, inside, warp_points
from ..core.images import ImageError, as_array, to_gray
from ..core.vessels import field_of_view_mask, skeleton_junctions, vessel_mask

IDS = ("pair_id", "eye_id", "modality0", "modality1")


@dataclass(frozen=True, eq=False)
class PairRecord:
    """One pair of images and whatever truth exists for it; image 0 is fixed, image 1 moves.

    points0_xy, points1_xy: (N, 2) float64 in original px of their image, same order, both or neither. H_0to1: (3, 3)
    float64, original px of image 0 → original px of image 1, None when unknown. Paths become absolute, ids lose outer
    blanks and are NFC. ValueError for empty ids or modalities and for points or H of a wrong form.
    """

    pair_id: str
    eye_id: str
    modality0: str
    modality1: str
    image0: Path
    image1: Path
    points0_xy: np.ndarray | None = None
    points1_xy: np.ndarray | None = None
    H_0to1: np.ndarray | None = None
    vessel_mask0: Path | None = None
    split: str = ""

    def __post_init__(self) -> None:
        if (self.points0_xy is None) != (self.points1_xy is None):
            raise ValueError(f"{self.pair_id}: points belong to both images or to none")
        for names, clean in (
            ((*IDS, "split"), lambda text: composed(str(text).strip())),
            (("image0", "image1", "vessel_mask0"), lambda path: Path(path).absolute()),
            (("H_0to1",), as_homography),
            (("points0_xy", "points1_xy"), lambda points: np.array(points, np.float64)),
        ):
            for name in names:
                if getattr(self, name) is not None:
                    object.__setattr__(self, name, clean(getattr(self, name)))
        if not all(getattr(self, name) for name in IDS):
            raise ValueError(f"pair {self.pair_id!r} of eye {self.eye_id!r}: ids and modalities must not be empty")
        if self.points0_xy is not None:
            shapes = self.points0_xy.shape, self.points1_xy.shape
            if shapes[0] != shapes[1] or shapes[0][1:] != (2,):
                raise ValueError(f"{self.pair_id}: points of shapes {shapes[0]} and {shapes[1]}; both must be (N, 2)")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PairRecord) and all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )

    def __hash__(self) -> int:
        return hash((self.pair_id, self.image0, self.image1))


@dataclass(frozen=True)
class Problem:
    """What could not be used: source is the file, folder or row; pair is the one left out, "" where it is kept."""

    source: str
    reason: str
    pair: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


@dataclass
class Inventory:
    """The usable pairs of a data set and the list of what was left out or is incomplete."""

    records: list[PairRecord] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids = {r.pair_id for r in self.records}

    def add(self, record: PairRecord) -> None:
        """Append a record; ValueError when one with the same pair id is there already."""
        if record.pair_id in self._ids:
            raise ValueError(f"duplicate pair id {record.pair_id!r}: the first one is kept, this one is left out")
        self._ids.add(record.pair_id)
        self.records.append(record)

    def summary(self) -> pd.DataFrame:
        """One row per modality pair: how many pairs and eyes, and how many pairs have points, H and a vessel mask."""
        table = pd.DataFrame(
            {
                "modalities": [f"{r.modality0}-{r.modality1}" for r in self.records],
                "pairs": 1,
                "eyes": [r.eye_id for r in self.records],
                "with_points": [r.points0_xy is not None for r in self.records],
                "with_H": [r.H_0to1 is not None for r in self.records],
                "with_mask": [r.vessel_mask0 is not None for r in self.records],
            }
        )
        how = dict.fromkeys(table.columns[1:], "sum") | {"eyes": "nunique"}
        return table.groupby("modalities", as_index=False).agg(how)


# ------------------------------------------------------------------ a look at the images

PLACEHOLDER_PX = 96
ROW = ("pair", "side", "modality", "height", "width", "type", "gray 2 %", "median", "98 %", "field of view")


def image_rows(records: Sequence[PairRecord]) -> tuple[pd.DataFrame, list[Problem]]:
    """One row per image, with the columns ROW: gray levels inside the field of view, and that field's share of the
    frame. Images that the registrar would refuse become problems instead."""
    rows, problems = [], []
    for record, side in product(records, ("fixed", "moving")):
        path, modality = (record.image0, record.modality0) if side == "fixed" else (record.image1, record.modality1)
        try:
            image = as_array(path)
        except ImageError as error:
            problems.append(Problem(str(path), str(error)))
            continue
        gray = to_gray(image)
        valid = field_of_view_mask(gray)
        levels = np.percentile(gray[valid], (2, 50, 98)).round(3).tolist()
        kind = f"{image.dtype}{' RGB' if image.ndim == 3 else ''}"
        rows.append([record.pair_id, side, modality, *image.shape[:2], kind, *levels, round(float(valid.mean()), 3)])
    return pd.DataFrame(rows, columns=ROW), problems


def pictures(records: Sequence[PairRecord]) -> list[np.ndarray]:
    """The images of records, fixed and moving in turn; a crossed field in place of one that cannot be used."""
    shown = []
    for path in (path for record in records for path in (record.image0, record.image1)):
        try:
            shown.append(as_array(path))
        except ImageError:
            cross = np.eye(PLACEHOLDER_PX, dtype=bool)
            shown.append(np.where(cross | cross[::-1], 0, 200).astype(np.uint8))
    return shown


def with_sound_images(records: Sequence[PairRecord], problems: Sequence[Problem]) -> list[PairRecord]:
    """The records of which no image is the source of a problem."""
    sources = {problem.source for problem in problems}
    return [r for r in records if not sources & {str(r.image0), str(r.image1)}]


def landmarks(record: PairRecord) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Points worth looking at, fixed px and moving px (None when unknown), and what they are.

    Hand-picked ones where the record has them, else the junctions of its vessel mask or of a ridge filter, and those of
    them that H_0to1 carries into the moving image's field of view.
    """
    if record.points0_xy is not None:
        return record.points0_xy, record.points1_xy, "point pairs"
    gray = to_gray(as_array(record.vessel_mask0 or record.image0))
    if record.vessel_mask0 is not None:
        mask, what = gray > 0.5, "junctions of the mask"
    else:
        mask, what = vessel_mask(gray, field_of_view_mask(gray)), "junctions of a ridge filter"
    points0 = skeleton_junctions(mask)[0]
    if record.H_0to1 is None:
        return points0, None, what
    points1, seen = warp_points(points0, record.H_0to1), field_of_view_mask(to_gray(as_array(record.image1)))
    points1 = points1[inside(points1, seen.shape)]
    x, y = np.rint(points1).astype(int).T
    return points0, points1[seen[y, x]], what


def gray_histograms(records: Sequence[PairRecord], bins: int = 64) -> dict[str, np.ndarray]:
    """Share of pixels per gray level inside the field of view, (bins,) per modality, all images of it together."""
    counts: dict[str, np.ndarray] = {}
    for record in records:
        for modality, path in ((record.modality0, record.image0), (record.modality1, record.image1)):
            gray = to_gray(as_array(path))
            histogram = np.histogram(gray[field_of_view_mask(gray)], bins, (0, 1))[0]
            counts[modality] = counts.get(modality, np.zeros(bins)) + histogram
    return {modality: c / max(c.sum(), 1) for modality, c in counts.items()}
