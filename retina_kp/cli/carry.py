"""Carry an image, a mask or points by a saved result, from the moving frame to the fixed one or back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..core.files import write_text
from ..core.geometry import inside
from ..core.images import as_array, write_image
from ..data.records import read_points
from ..registration.result import STRIP_PX, Registration


def carry_file(result: str, file: str, to: str = "fixed", mask: bool = False, out: str | None = None) -> str:
    """Write ``file`` carried by the result file into the frame of "fixed" or "moving"; returns a line about it.

    A .txt or .csv file holds points, anything else is an image; mask: nearest pixels instead of means. ValueError for
    a refused result, a file that is none, or an image of another size.
    """
    source = Path(file).expanduser()
    registration = _read_result(result)
    if not registration.ok:
        raise ValueError(f"{result}: nothing to carry by, this registration was refused ({registration.status})")
    registration = registration if to == "fixed" else swapped(registration)
    target = Path(out).expanduser() if out else Path(result).expanduser().parent / f"{source.stem}_in_{to}.png"
    if source.suffix.lower() in (".txt", ".csv"):
        target = target if out else target.with_suffix(source.suffix)
        points = registration.map_to_fixed(read_points(source))
        write_text(target, "".join(f"{x:.3f} {y:.3f}\n" for x, y in points))
        outside = int((~inside(points, registration.fixed_hw, -0.5)).sum())
        return f"{target}: {len(points)} points, {outside} of them outside the {to} image"
    image = as_array(source)
    if image.shape[:2] != registration.moving_hw:
        (height, width), (h, w) = image.shape[:2], registration.moving_hw
        raise ValueError(f"{source} is {width} x {height} px, but the result is for an image of {w} x {h} px")
    carried = nearest(registration, image) if mask else registration.warp(image)
    write_image(target, carried)
    return f"{target}: {carried.shape[1]} x {carried.shape[0]} px, {'nearest' if mask else 'interpolated'} pixels"


def _read_result(path: str) -> Registration:
    """A saved registration; ValueError where the file is something else."""
    try:
        return Registration.load(Path(path).expanduser())
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{path} is no result: give the result.json that retina-kp register has written") from None


def swapped(result: Registration) -> Registration:
    """The same registration seen from the other side: what was fixed moves, and the other way round."""
    quadratic = result.quadratic and {
        "original0_from_frame": np.linalg.inv(result.quadratic["frame_from_original1"]),
        "frame_from_original1": np.linalg.inv(result.quadratic["original0_from_frame"]),
        "forward": result.quadratic["backward"],
        "backward": result.quadratic["forward"],
    }
    sides = {"fixed_hw": result.moving_hw, "moving_hw": result.fixed_hw}
    sides |= {"matches0": result.matches1, "matches1": result.matches0}
    H = result.H_0to1
    return replace(result, H_1to0=H, H_tried=H, angle_deg=-result.angle_deg, quadratic=quadratic, **sides)


def nearest(result: Registration, image: np.ndarray) -> np.ndarray:
    """The moving image drawn in the fixed frame by nearest pixels, so that labels stay labels; zeros elsewhere."""
    height, width = result.fixed_hw
    carried = np.zeros((height * width, *image.shape[2:]), image.dtype)
    for first in range(0, height * width, STRIP_PX):  # all coordinates at once would take gigabytes
        place = np.arange(first, min(first + STRIP_PX, height * width))
        xy = result.map_to_moving(np.stack([place % width, place // width], 1).astype(np.float64))
        seen = inside(xy, result.moving_hw, -0.5)
        x, y = np.rint(xy[seen]).astype(int).T.clip(0, np.subtract(result.moving_hw[::-1], 1)[:, None])
        carried[place[seen]] = image[y, x]
    return carried.reshape(height, width, *image.shape[2:])
