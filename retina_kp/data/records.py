"""The one form all data takes: pair records, the problems met on the way, point files, the split by eye and the pairs
table."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ..core.files import write_text
from ..core.geometry import as_homography, inside

CSV_COLUMNS = (
    "pair_id",
    "eye_id",
    "modality0",
    "modality1",
    "image0",
    "image1",
    "points0",
    "points1",
    "H_0to1",
    "vessel_mask0",
    "split",
)
DEFAULT_FRACTIONS = MappingProxyType({"train": 0.7, "val": 0.15, "test": 0.15})
COLLINEAR_RMS_PX = 0.5


@dataclass(frozen=True, eq=False)
class PairRecord:
    """One pair of images and whatever truth exists for it; image 0 is fixed (CF; OCT in octfa), image 1 moves.

    points0_xy, points1_xy: (N, 2) float64 in original px of their image, same order, both or neither. H_0to1: (3, 3)
    float64, original px of image 0 → original px of image 1, None when unknown. Paths become absolute, ids lose outer
    blanks. Raises ValueError for empty ids or modalities and for points or H of a wrong form.
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
        clean: dict = {name: Path(getattr(self, name)).absolute() for name in ("image0", "image1")}
        clean.update(
            (name, str(getattr(self, name)).strip())
            for name in ("pair_id", "eye_id", "modality0", "modality1", "split")
        )
        if not all(clean[name] for name in ("pair_id", "eye_id", "modality0", "modality1")):
            raise ValueError(f"pair {self.pair_id!r} of eye {self.eye_id!r}: ids and modalities must not be empty")
        if self.vessel_mask0 is not None:
            clean["vessel_mask0"] = Path(self.vessel_mask0).absolute()
        if self.H_0to1 is not None:
            clean["H_0to1"] = as_homography(self.H_0to1)
        if self.points0_xy is not None:
            clean.update((name, np.array(getattr(self, name), np.float64)) for name in ("points0_xy", "points1_xy"))
            shapes = clean["points0_xy"].shape, clean["points1_xy"].shape
            if shapes[0] != shapes[1] or shapes[0][1:] != (2,):
                raise ValueError(f"{self.pair_id}: points of shapes {shapes[0]} and {shapes[1]}; both must be (N, 2)")
        for name, value in clean.items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PairRecord) and all(
            _same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )

    def __hash__(self) -> int:
        return hash((self.pair_id, self.image0, self.image1))


@dataclass(frozen=True)
class Problem:
    """What could not be used: source names the file, folder or row, reason says why; pair: the one left out, "" where
    it is kept."""

    source: str
    reason: str
    pair: str = ""


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

    def summary(self) -> list[dict]:
        """One row per modality pair: how many pairs and eyes, and how many pairs have points, H and a vessel mask."""
        groups: dict[str, list[PairRecord]] = {}
        for record in self.records:
            groups.setdefault(f"{record.modality0}-{record.modality1}", []).append(record)
        return [
            {
                "modalities": name,
                "pairs": len(group),
                "eyes": len({r.eye_id for r in group}),
                "with_points": sum(r.points0_xy is not None for r in group),
                "with_H": sum(r.H_0to1 is not None for r in group),
                "with_mask": sum(r.vessel_mask0 is not None for r in group),
            }
            for name, group in sorted(groups.items())
        ]


# ------------------------------------------------------------------ points


def read_points(path: str | Path) -> np.ndarray:
    """Read a point file: one ``x y`` per line, blanks, a tab or a comma between. Returns (N, 2) float64; errors:
    `read_number_rows`."""
    return read_number_rows(path, 2)


def read_number_rows(path: str | Path, columns: int) -> np.ndarray:
    """Read a text file of numbers, (N, columns) float64; empty lines are skipped.

    Raises ValueError with file, line number and content for a row that is no ``columns`` finite numbers, or when there
    is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a plain text file ({error.reason}); save it as UTF-8 text") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(parse_numbers(line, columns))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
    return np.array(rows, np.float64).reshape(-1, columns)


def parse_numbers(text: str, count: int) -> list[float]:
    """The ``count`` finite numbers of a line, separated by blanks, tabs or single commas; ValueError quotes the line
    otherwise."""
    cells = re.split(r"\s*,\s*|\s+", text.strip())
    numeric = all(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", cell, re.ASCII) for cell in cells)
    if not numeric or len(cells) != count or not np.isfinite([float(cell) for cell in cells]).all():
        raise ValueError(f"{count} numbers expected, found {text.strip()[:80]!r}")
    return [float(cell) for cell in cells]


def check_points(points0_xy: np.ndarray, points1_xy: np.ndarray, image0_hw, image1_hw, minimum: int = 4) -> None:
    """Raise ValueError with the reason when point pairs cannot define a transform.

    points: (N, 2) px; sizes (h, w). Refused are unequal counts, fewer than ``minimum`` (4 for a homography, 3 for an
    affine), points more than half a pixel outside the outermost pixel centres, two points on one spot, and points on
    one line (from minimum 4 on: all but one).
    """
    if len(points0_xy) != len(points1_xy):
        raise ValueError(f"unequal point counts: {len(points0_xy)} in image 0, {len(points1_xy)} in image 1")
    if len(points0_xy) < minimum:
        raise ValueError(f"only {len(points0_xy)} point pairs, at least {minimum} are needed")
    for number, points_xy, image_hw in ((0, points0_xy, image0_hw), (1, points1_xy, image1_hw)):
        points_xy = np.asarray(points_xy, np.float64)
        outside = np.flatnonzero(~inside(points_xy, image_hw, -0.5))
        if len(outside):
            x, y = points_xy[outside[0]]
            frame = f"image {number}, {image_hw[1]} px wide and {image_hw[0]} px high"
            raise ValueError(
                f"{len(outside)} points outside {frame}, the first is point {outside[0] + 1} at ({x:g}, {y:g})"
            )
        _, first, counts = np.unique(points_xy, axis=0, return_index=True, return_counts=True)
        if (counts > 1).any():
            x, y = points_xy[first[counts > 1].min()]
            raise ValueError(
                f"duplicate points in image {number}: {counts.max()} points lie on one spot, ({x:g}, {y:g})"
            )
        if _rms_off_line_px(points_xy) < COLLINEAR_RMS_PX:
            raise ValueError(f"collinear points in image {number}: all lie on one line")
        if (
            minimum >= 4
            and min(_rms_off_line_px(np.delete(points_xy, i, 0)) for i in range(len(points_xy))) < COLLINEAR_RMS_PX
        ):
            raise ValueError(f"collinear points in image {number}: all but one lie on one line")


def _rms_off_line_px(points_xy: np.ndarray) -> float:
    """Root mean square distance of points from the line that fits them best."""
    spread = np.linalg.svd(points_xy - points_xy.mean(0), compute_uv=False)
    return float(spread[-1] / np.sqrt(len(points_xy)))


def _same(a, b) -> bool:
    return (
        np.array_equal(a, b)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
        else type(a) is type(b) and a == b
    )


# ------------------------------------------------------------------ split and table


def split_by_eye(
    records: Iterable[PairRecord], fractions: Mapping[str, float] = DEFAULT_FRACTIONS, seed: int = 0
) -> list[PairRecord]:
    """Copies of the records with ``split`` set so that all pairs of an eye share one split, whatever split they had.

    fractions: share of the eyes per split name, adding up to 1. Eyes are ordered by the SHA-256 of seed and eye id and
    cut at the rounded shares, so the outcome depends on neither the order of the records nor the Python run. Raises
    ValueError for wrong fractions.
    """
    records, shares = list(records), np.array(list(fractions.values()), np.float64)
    if not len(shares) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(f"fractions must not be negative and must add up to 1, not {dict(fractions)}")
    eyes = sorted({r.eye_id for r in records}, key=lambda eye: hashlib.sha256(f"{seed}:{eye}".encode()).hexdigest())
    ends = np.floor(np.cumsum(shares) * len(eyes) + 0.5).astype(int)
    split_of = {eye: list(fractions)[int(np.searchsorted(ends, i, side="right"))] for i, eye in enumerate(eyes)}
    return [replace_record(r, split=split_of[r.eye_id]) for r in records]


def replace_record(record: PairRecord, **changes) -> PairRecord:
    """A copy of a record with some fields changed."""
    return PairRecord(**{f.name: getattr(record, f.name) for f in fields(record)} | changes)


def write_pairs_csv(path: str | Path, records: Iterable[PairRecord]) -> None:
    """Write records as a UTF-8 table that `layouts.load_pairs_csv` reads back exactly.

    Columns: CSV_COLUMNS. Points go to text files in ``<name of the table>_points/``, H_0to1 is nine numbers in one
    cell, row by row; paths below the table's folder are written relative to it, others absolute. Raises ValueError when
    a pair id occurs twice.
    """
    path, records = Path(path).absolute(), list(records)
    twice = [name for name, count in Counter(r.pair_id for r in records).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: pair ids must be unique, these are not: {', '.join(twice[:5])}")
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, CSV_COLUMNS)
    writer.writeheader()
    writer.writerows(_csv_row(path, number, record) for number, record in enumerate(records, 1))
    write_text(path, table.getvalue())


def _csv_row(table: Path, number: int, record: PairRecord) -> dict[str, str]:
    row = {name: str(getattr(record, name)) for name in ("pair_id", "eye_id", "modality0", "modality1", "split")}
    row |= {name: _relative(getattr(record, name), table.parent) for name in ("image0", "image1", "vessel_mask0")}
    row["H_0to1"] = "" if record.H_0to1 is None else " ".join(repr(float(v)) for v in record.H_0to1.ravel())
    for side, points_xy in enumerate((record.points0_xy, record.points1_xy)):
        if points_xy is not None:
            safe_id = re.sub(r"[^\w.-]+", "_", record.pair_id)[:80]
            sidecar = table.parent / f"{table.stem}_points" / f"{number:05d}_{safe_id}_{side}.txt"
            write_text(sidecar, "".join(f"{float(x)!r} {float(y)!r}\n" for x, y in points_xy))
            row[f"points{side}"] = _relative(sidecar, table.parent)
    return row


def _relative(path: Path | None, folder: Path) -> str:
    return "" if path is None else path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
