"""Carry an image, a mask or points by a saved result, from the moving frame to the fixed one or back."""

from __future__ import annotations

import json
from pathlib import Path

from ..core.files import write_text
from ..core.geometry import inside
from ..core.images import as_array, write_image
from ..data.annotation import read_number_rows
from ..registration.result import Registration


def carry_file(result: str, file: str, to: str = "fixed", mask: bool = False, out: str | None = None) -> str:
    """Write ``file`` carried by the result file into the frame of "fixed" or "moving"; returns a line about it.

    A .txt or .csv file holds points, anything else is an image; mask: nearest pixels instead of means. ValueError for
    a refused result, a file that is none, or an image of another size.
    """
    source = Path(file).expanduser()
    registration = _read_result(result)
    if not registration.ok:
        raise ValueError(f"{result}: nothing to carry by, this registration was refused ({registration.status})")
    registration = registration if to == "fixed" else registration.inverse()
    target = Path(out).expanduser() if out else Path(result).expanduser().parent / f"{source.stem}_in_{to}.png"
    if source.suffix.lower() in (".txt", ".csv"):
        target = target if out else target.with_suffix(source.suffix)
        points = registration.map_to_fixed(read_number_rows(source, 2))
        write_text(target, "".join(f"{x:.3f} {y:.3f}\n" for x, y in points))
        outside = int((~inside(points, registration.fixed_hw, -0.5)).sum())
        return f"{target}: {len(points)} points, {outside} of them outside the {to} image"
    image = as_array(source)
    if image.shape[:2] != registration.moving_hw:
        (height, width), (h, w) = image.shape[:2], registration.moving_hw
        raise ValueError(f"{source} is {width} x {height} px, but the result is for an image of {w} x {h} px")
    carried = registration.warp(image, labels=mask)
    write_image(target, carried)
    return f"{target}: {carried.shape[1]} x {carried.shape[0]} px, {'nearest' if mask else 'interpolated'} pixels"


def _read_result(path: str) -> Registration:
    """A saved registration; ValueError where the file is something else."""
    try:
        return Registration.load(Path(path).expanduser())
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{path} is no result: give the result.json that retina-kp register has written") from None
