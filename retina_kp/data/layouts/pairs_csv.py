"""A table of pairs with the columns CSV_COLUMNS, read and written; those from points0 on may be missing.

Commas, semicolons or tabs part its cells. Paths in it are relative to its folder. A defective row is a Problem.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ...core.files import as_spelled, no_formula, write_text
from ...core.geometry import as_homography, image_center, jacobian
from ..annotation import check_points, parse_numbers, read_number_rows, write_points
from ..records import IDS, Inventory, PairRecord, Problem
from .files import checked_hw, mask_problem, read_rows, report_resized, reporting

SHAPE = "a .csv file, or a folder with pairs.csv, as written by write_pairs_csv"
SCALES = (0.01, 100.0)  # of a truth between two images of an eye
CSV_COLUMNS = (*IDS, "image0", "image1", "points0", "points1", "H_0to1", "vessel_mask0", "split")


def fits(root: Path, mode: str | None = None) -> bool:
    return root.is_file() or (root / "pairs.csv").is_file()


def load(root: Path, mode: str | None = None) -> Inventory:
    path, found, resized = root.absolute() if root.is_file() else root.absolute() / "pairs.csv", Inventory(), []
    for line, row in read_rows(path, CSV_COLUMNS[:6], f"; a pairs table has {', '.join(CSV_COLUMNS)}"):
        with reporting(found, f"{path}, line {line}", row["pair_id"] or f"line {line}"):
            found.add(_record(path.parent, row, found, resized))
    report_resized(found, resized)
    return found


def _record(folder: Path, row: dict[str, str], found: Inventory, resized: list[Path]) -> PairRecord:
    images = [as_spelled(folder / row[name]) for name in ("image0", "image1")]
    image0_hw, image1_hw = map(checked_hw, images)
    H_0to1 = _transform(row, image0_hw)
    points = [
        read_number_rows(as_spelled(folder / row[name]), 2) if row.get(name) else None
        for name in ("points0", "points1")
    ]
    if points[0] is not None and points[1] is not None:
        check_points(*points, image0_hw, image1_hw, minimum=4 if H_0to1 is None else 3)
    mask0 = as_spelled(folder / row["vessel_mask0"]) if row.get("vessel_mask0") else None
    if mask0 is not None and (why := mask_problem(mask0, image0_hw, resized)):
        found.problems.append(Problem(str(mask0), f"loaded without vessel mask: {why}"))
        mask0 = None
    if (split := row.get("split", "").lower()) not in ("", "train", "val", "test"):
        raise ValueError(f"split: takes train, val, test or nothing, not {split!r}")
    return PairRecord(*(row[name] for name in IDS), *images, *points, H_0to1, mask0, split)


def _transform(row: dict[str, str], image0_hw) -> np.ndarray | None:
    """The row's H_0to1, or T_0to1, which means the same; None without."""
    given = {row[name] for name in ("H_0to1", "T_0to1") if row.get(name)}
    if len(given) > 1:
        raise ValueError("H_0to1 and T_0to1 differ; both mean the transform fixed px → moving px, so leave one out")
    if not given:
        return None
    H_0to1 = as_homography(np.reshape(parse_numbers(given.pop(), 9), (3, 3)))
    area = np.linalg.det(jacobian(H_0to1, image_center(image0_hw)))
    if area <= 0:
        raise ValueError("H_0to1 mirrors the retina; check its rows, and whether it maps x y or row column")
    if not SCALES[0] ** 2 <= area <= SCALES[1] ** 2:
        raise ValueError(f"H_0to1 has scale {area**0.5:.3g}, beyond {SCALES[0]:g} to {SCALES[1]:g}; check its unit")
    return H_0to1


def write_pairs_csv(path: str | Path, records: Iterable[PairRecord]) -> None:
    """Write records as a table that `load` reads back exactly.

    Points go to text files in ``<name of the table>_points/``, H_0to1 is nine numbers in one cell, row by row. Paths
    below the table's folder are written relative to it. ValueError when a pair id occurs twice.
    """
    path, records = Path(path).absolute(), list(records)
    twice = [name for name, count in Counter(r.pair_id for r in records).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: pair ids must be unique, these are not: {', '.join(twice[:5])}")
    rows = [_row(path, number, record) for number, record in enumerate(records, 1)]
    write_text(path, pd.DataFrame(rows, columns=CSV_COLUMNS).to_csv(index=False, lineterminator="\r\n"))


def _row(table: Path, number: int, record: PairRecord) -> dict[str, str]:
    row = table_row(table, record)
    for side, points_xy in enumerate((record.points0_xy, record.points1_xy)):
        if points_xy is not None:
            safe_id = re.sub(r"[^\w.-]+", "_", record.pair_id)[:80]
            sidecar = table.parent / f"{table.stem}_points" / f"{number:05d}_{safe_id}_{side}.txt"
            write_points(sidecar, points_xy)
            row[f"points{side}"] = relative(sidecar, table.parent)
    return row


def table_row(table: Path, record: PairRecord) -> dict[str, str]:
    """A record's row in a table at that path, without its points."""
    row = {name: getattr(record, name) for name in (*IDS, "split")}
    row |= {name: relative(getattr(record, name), table.parent) for name in ("image0", "image1", "vessel_mask0")}
    row = {name: no_formula(text) for name, text in row.items()}
    row["H_0to1"] = "" if record.H_0to1 is None else " ".join(repr(float(v)) for v in record.H_0to1.ravel())
    return row


def relative(path: Path | None, folder: Path) -> str:
    return "" if path is None else path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
