"""Clicked point pairs on disk, written whole at every click: drafts, text files of layout 2, BigWarp's landmarks, and a
pairs.csv of all that is done."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..core.files import read_json, write_csv, write_json, write_text
from ..core.images import image_size
from .annotation import check_points, write_points
from .layouts.files import IMAGE_SUFFIXES, MODES
from .layouts.pairs_csv import CSV_COLUMNS, relative, table_row
from .records import PairRecord

VERDICTS = ("", "accepted", "rejected")


@dataclass(frozen=True)
class Clicks:
    """What people have clicked on a pair. points: (N, 4) px, x y of the fixed and x y of the moving image, NaN for a
    side that is not clicked yet; verdict: one of VERDICTS."""

    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    verdict: str = ""

    @property
    def complete(self) -> np.ndarray:
        """(N,) bool: clicked on both sides."""
        return np.isfinite(self.points).all(1)

    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """The complete pairs as points (N, 2) px of the fixed and of the moving image."""
        done = self.points[self.complete]
        return done[:, :2], done[:, 2:]


class ClickFolder:
    """A folder of annotations of some records. drafts/ has everything, also half pairs; `<name>_01.txt`, `<name>_02.txt`
    and BigWarp's csv have the complete pairs, pairs.csv those records that 04 and 06 can use. ValueError when two
    records would share their files."""

    def __init__(self, folder: str | Path, records: Sequence[PairRecord]):
        self.folder = Path(folder)
        self.names = {record.pair_id: _file_name(record) for record in records}
        if len({name.casefold() for name in self.names.values()}) < len(records):
            raise ValueError("two pairs have ids that make one file name: rename one of them")
        self._records = {record.pair_id: record for record in records}
        self._clicks = {pair_id: self._read(pair_id) for pair_id in self.names}
        self._why_not = {pair_id: self._lack(pair_id) for pair_id in self.names}

    def __getitem__(self, pair_id: str) -> Clicks:
        return self._clicks[pair_id]

    def save(self, pair_id: str, clicks: Clicks) -> None:
        """Write all files of a pair, and the tables anew."""
        self._clicks[pair_id] = clicks
        rows = [[None if np.isnan(v) else float(v) for v in row] for row in clicks.points]
        write_json(self._draft(pair_id), {"pair_id": pair_id, "points": rows, "verdict": clicks.verdict})
        write_bigwarp(self.folder / "bigwarp" / f"{self.names[pair_id]}.csv", *clicks.sides())
        for path, points in zip(self.text_files(pair_id), clicks.sides(), strict=True):
            if clicks.verdict == "rejected":
                path.unlink(missing_ok=True)
            else:
                write_points(path, points)
                self._copy_image(pair_id, path)
        self._why_not[pair_id] = self._lack(pair_id)
        self._write_tables()

    def text_files(self, pair_id: str) -> list[Path]:
        """The two files of points, where layout 2 has them if it knows the modalities."""
        record, name = self._records[pair_id], self.names[pair_id]
        mode = next((m for m, known in MODES.items() if known == (record.modality0, record.modality1)), "")
        folder = self.folder / (f"operation_pre_filtered_{mode}" if mode else "points") / name
        return [folder / f"{name}_0{side}.txt" for side in (1, 2)]

    def why_not(self, pair_id: str) -> str:
        """Why a pair is not in pairs.csv, "" when it is."""
        return self._why_not[pair_id]

    def _lack(self, pair_id: str) -> str:
        record, clicks = self._records[pair_id], self[pair_id]
        if clicks.verdict == "rejected" or not self._draft(pair_id).is_file():
            return clicks.verdict or "not annotated here"
        try:
            check_points(*clicks.sides(), image_size(record.image0), image_size(record.image1))
        except ValueError as error:
            return str(error)
        return ""

    def record(self, pair_id: str) -> PairRecord:
        """The pair with its clicked points."""
        points0, points1 = self[pair_id].sides()
        return replace(self._records[pair_id], points0_xy=points0, points1_xy=points1, H_0to1=None)

    def _draft(self, pair_id: str) -> Path:
        return self.folder / "drafts" / f"{self.names[pair_id]}.json"

    def _read(self, pair_id: str) -> Clicks:
        """The draft, or the points that the record brings along."""
        path, record = self._draft(pair_id), self._records[pair_id]
        if path.is_file():
            draft = read_json(path)
            return Clicks(np.array(draft["points"], np.float64).reshape(-1, 4), draft["verdict"])
        given = record.points0_xy is not None
        return Clicks(np.hstack([record.points0_xy, record.points1_xy])) if given else Clicks()

    def _copy_image(self, pair_id: str, text_file: Path) -> None:
        """The image beside its points, as layout 2 wants it."""
        record = self._records[pair_id]
        image = record.image0 if text_file.stem.endswith("_01") else record.image1
        copy = text_file.with_suffix(image.suffix)
        if image.suffix.lower() in IMAGE_SUFFIXES and text_file.parents[1].name != "points" and not copy.exists():
            shutil.copyfile(image, copy)

    def _write_tables(self) -> None:
        table, usable, review = self.folder / "pairs.csv", [], []
        for pair_id, record in self._records.items():
            why, clicks = self.why_not(pair_id), self[pair_id]
            row = {"pair_id": pair_id, "verdict": clicks.verdict, "points": int(clicks.complete.sum())}
            review.append(row | {"not_used_because": why})
            if not why:
                files = zip(("points0", "points1"), self.text_files(pair_id), strict=True)
                points = {name: relative(path, self.folder) for name, path in files}
                usable.append(table_row(table, replace(record, H_0to1=None)) | points)
        write_csv(self.folder / "review.csv", review)
        write_text(table, _table(usable))


def _table(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _file_name(record: PairRecord) -> str:
    """Layout 2 takes what stands before the first underscore for the eye."""
    eye, pair = re.sub(r"[^\w.-]+|_", "-", record.eye_id)[:30], re.sub(r"[^\w.-]+", "-", record.pair_id)[:60]
    return f"{eye}_{pair}"


# ------------------------------------------------------------------ BigWarp


def write_bigwarp(path: str | Path, points0_xy: np.ndarray, points1_xy: np.ndarray) -> None:
    """Write point pairs (N, 2) px as landmarks of BigWarp (Bogovic et al. 2016), a plugin of Fiji.

    A row per pair: name, whether it counts, x y of the moving and x y of the fixed image."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for k, (fixed, moving) in enumerate(zip(points0_xy, points1_xy, strict=True)):
        writer.writerow([f"Pt-{k}", "true", *(repr(float(v)) for v in (*moving, *fixed))])
    write_text(path, text.getvalue())


def read_bigwarp(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 2) px of the fixed and of the moving image out of BigWarp's landmarks; rows that do not count, or
    lack a side, are left out. ValueError with file and line for a row of another form."""
    found = []
    text = Path(path).read_text(encoding="utf-8-sig")
    for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), 1):
        try:
            _, counts, *numbers = row
            x1, y1, x0, y0 = map(float, numbers)
        except ValueError:
            words = "a landmark has a name, true or false, and four numbers"
            raise ValueError(f"{path}, line {number}: {words}, not {','.join(row)[:80]!r}") from None
        if counts.lower() == "true" and np.isfinite([x0, y0, x1, y1]).all():
            found.append([x0, y0, x1, y1])
    points = np.array(found, np.float64).reshape(-1, 4)
    return points[:, :2], points[:, 2:]
