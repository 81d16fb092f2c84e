"""Carry files by a saved result: images and masks, tables of points or boxes, annotations in JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..core.files import as_spelled, read_json, write_csv, write_json, write_text
from ..core.geometry import inside
from ..core.images import as_array, write_image
from ..mapping.carrying import carry_annotations
from ..mapping.result import Registration

COLUMNS = (("x0", "y0", "x1", "y1"), ("x", "y"))  # of tables with a header
# endings of images that are kept; others become .png, which keeps the values of masks, too
LOSSLESS = (".tif", ".tiff")


def carry_files(
    result: str, files: Sequence[str], to: str = "fixed", mask: bool = False, out: str | None = None
) -> Iterator[str]:
    """Write each file carried by the result file into the frame of "fixed" or "moving"; yields a line about each.

    out: the file to write, or the folder of several. ValueError as in `carry_file`.
    """
    registration = _read_registration(result)
    if not registration.ok:
        raise ValueError(f"{result}: nothing to carry by, this registration was refused ({registration.status})")
    folder = Path(out).expanduser() if out and len(files) > 1 else _result_file(result).parent
    for file in map(as_spelled, files):
        kept = file.suffix if file.suffix.lower() in (*LOSSLESS, ".txt", ".csv", ".json", ".geojson") else ".png"
        target = Path(out).expanduser() if out and len(files) == 1 else folder / f"{file.stem}_in_{to}{kept}"
        yield f"{target}: {carry_file(registration, file, target, to, mask)}"


def carry_file(result: Registration, file: Path, target: Path, to: str, mask: bool) -> str:
    """Write one file, carried; returns what it holds. ValueError for a file that is none, or an image of another size."""
    ending = file.suffix.lower()
    if ending in (".txt", ".csv"):
        return _carry_table(result, file, target, to)
    if ending in (".json", ".geojson"):
        try:
            write_json(target, carry_annotations(result, read_json(file), to))
        except (ValueError, OSError) as error:
            raise ValueError(f"{file}: {error}") from None
        return "annotations"
    image = as_array(file)
    sizes = (result.moving_hw, result.fixed_hw) if to == "fixed" else (result.fixed_hw, result.moving_hw)
    if image.shape[:2] != sizes[0]:
        (height, width), (h, w) = image.shape[:2], sizes[0]
        raise ValueError(f"{file} is {width} x {height} px, but the result is for an image of {w} x {h} px")
    carried = result.apply_to(image, to, labels=mask)
    write_image(target, carried)
    return f"{carried.shape[1]} x {carried.shape[0]} px, {'nearest' if mask else 'interpolated'} pixels"


def _carry_table(result: Registration, file: Path, target: Path, to: str) -> str:
    """Points or boxes, one a row: all cells are kept where a header names the columns, and other tables have none."""
    from ..data.annotation import read_number_rows  # which loads pandas; a pair needs none

    first = file.read_text(encoding="utf-8-sig").lstrip().partition("\n")[0] if file.is_file() else ""
    if any(letter.isalpha() for letter in first.replace("e", "")):
        return _carry_columns(result, file, target, to)
    count = 4 if len(first.replace(",", " ").split()) == 4 else 2
    carried = result.apply_to(read_number_rows(file, count), to)
    parted = "," if target.suffix.lower() == ".csv" else " "
    write_text(target, "".join(parted.join(f"{number:.3f}" for number in row) + "\n" for row in carried))
    return _counted(result, carried, to)


def _carry_columns(result: Registration, file: Path, target: Path, to: str) -> str:
    from ..data.annotation import parse_numbers
    from ..data.layouts.files import read_rows

    rows = read_rows(file, ())
    named = next((names for names in COLUMNS if rows and {*names} <= {*rows[0][1]}), None)
    if named is None:
        raise ValueError(f"{file}: no columns x y, nor x0 y0 x1 y1, or no rows below them")
    places = np.empty((len(rows), len(named)))
    for number, (line, row) in enumerate(rows):
        try:
            places[number] = parse_numbers(" ".join(row[name] for name in named), len(named))
        except ValueError as error:
            raise ValueError(f"{file}, line {line}: {error}") from None
    carried = result.apply_to(places, to)
    moved = [dict(zip(named, numbers, strict=True)) for numbers in carried.round(3)]
    write_csv(target, [row | new for (_, row), new in zip(rows, moved, strict=True)])
    return _counted(result, carried, to)


def _counted(result: Registration, carried: np.ndarray, to: str) -> str:
    hw = result.fixed_hw if to == "fixed" else result.moving_hw
    outside = int((~inside(carried.reshape(len(carried), -1, 2), hw, -0.5)).any(-1).sum())
    return f"{len(carried)} {'boxes' if carried.shape[1] == 4 else 'points'}, {outside} of them outside the {to} image"


def _result_file(path: str) -> Path:
    file = Path(path).expanduser()
    return file / "result.json" if file.is_dir() else file


def _read_registration(path: str) -> Registration:
    """A saved registration, or that in a folder of `register_pair`; ValueError where the file is something else."""
    file = _result_file(path)
    if not file.is_file():
        raise ValueError(f"{file}: no such file: give the result.json that retina-kp register has written")
    try:
        return Registration.load(file)
    except ValueError as error:
        raise ValueError(f"{error}; give the result.json that retina-kp register has written") from None
