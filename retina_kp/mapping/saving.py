"""A registration as files: JSON, a transform that ITK (SimpleITK, elastix, 3D Slicer) reads, and a matrix as text."""

from __future__ import annotations

import struct
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin

from ..core.files import read_json, write_json, write_text
from ..core.geometry import as_homography
from ..core.pages import numbered
from .displacement import Displacement

OPTIONAL = {"H_tried", "expected", "fixed_spacing", "moving_spacing"}  # not demanded of a file
MOST_PX = 10**7
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TIFF_X, TIFF_Y, TIFF_UNIT = 282, 283, 296  # tags: pixels per unit along x and y, and the unit
TIFF_MM, JFIF_MM = {2: 25.4, 3: 10.0}, {1: 25.4, 2: 10.0}  # what such a unit is
PNG_UNITS = (b"\1", b"\2")  # metre and radian; ITK takes the number for the spacing either way


def write_result(result, path: str | Path) -> list[Path]:
    """`Registration.save`."""
    path = Path(path).expanduser()
    if path.suffix.lower() in (".tfm", ".txt"):
        name = path.with_suffix(".json").name
        raise ValueError(f"{path}: give the name of the JSON file, such as {name}; the others are written beside it")
    path, itk, matrix = saved_files(path)
    written = [write_json(path, result.to_dict())]
    for old in (itk, matrix):
        old.unlink(missing_ok=True)
    if not result.ok:
        return written
    plain = result
    if np.abs(result.H_0to1[2, :2]).max() > 1e-12:  # ITK has no homography
        plain = result.bent(result.map_to_moving, (0, 0), np.array(result.fixed_hw[::-1]) - 1) or result
    rows = [" ".join(f"{v:.10g}" for v in row) for row in result.H_1to0]
    transform = itk_text(plain.H_0to1, plain.displacement, result.fixed_hw, result.fixed_spacing, result.moving_spacing)
    return [*written, write_text(itk, transform), write_text(matrix, "\n".join(rows) + "\n")]


def read_result(kind: type, path: str | Path):
    """`Registration.load`; kind: the class Registration."""
    try:
        d = read_json(path)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from None
    wanted = {f.name for f in fields(kind)} - OPTIONAL
    if missing := sorted(wanted - set(d)) if isinstance(d, dict) else ["everything"]:
        raise ValueError(f"{path} was not written by Registration.save: {', '.join(missing)} missing")
    try:
        result = kind.from_dict(d)
        wrong = _wrong(result)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as error:
        wrong = str(error)
    if wrong:
        raise ValueError(f"{path} was changed since Registration.save wrote it: {wrong}")
    return result


def _wrong(result) -> str:
    """What cannot be in a result, "" where all can. What has a wrong type may raise instead."""
    count, bends = len(result.matches0), result.displacement
    sizes = (*result.fixed_hw, *result.moving_hw)
    spacings = (*result.fixed_spacing, *result.moving_spacing)
    expected = result.expected
    checks = {
        "expected": expected is None
        or (expected.px.ndim == 2 and expected.origin_xy.shape == expected.spacing_xy.shape == (2,)),
        "status": isinstance(result.status, str) and isinstance(result.model, str),
        "H_1to0": not result.ok or np.allclose(as_homography(result.H_1to0), result.H_1to0),
        "confidence": np.isnan(result.confidence) or 0 <= result.confidence <= 1,
        "angle_deg": isinstance(result.angle_deg, (int, float)),
        "matches": count == len(result.matches1) and result.inliers.shape == (count,),
        "sizes": len(sizes) == 4 and all(isinstance(n, int) and 0 < n < MOST_PX for n in sizes),
        "spacings": len(spacings) == 4 and all(0 < n < np.inf for n in spacings),
        "evidence": isinstance(result.evidence, dict),
        "displacement": bends is None or (bends.knots.ndim == 3 and bends.knots.shape[2] == 2 and not bends.folds()),
    }
    return ", ".join(name for name, sound in checks.items() if not sound)


def saved_files(path: str | Path) -> tuple[Path, Path, Path]:
    """What `Registration.save` may write for ``path``: JSON, ITK transform, matrix."""
    path = Path(path).expanduser()
    path = path if path.suffix.lower() == ".json" else path.with_name(path.name + ".json")
    return path, path.with_name(path.stem + ".tfm"), path.with_name(path.stem + "_transformation.txt")


def itk_text(H_0to1: np.ndarray, displacement: Displacement | None, fixed_hw, spacing0=(1, 1), spacing1=(1, 1)) -> str:
    """An ITK transform file: the affine H_0to1 (3, 3), after a displacement of fixed px if there is one.

    spacing0, spacing1: (x, y) of a pixel of the fixed and moving image, as `itk_spacing` says. ITK maps fixed points to
    moving ones. It leaves points outside a B-spline's grid where they are, so the grid is spread over the fixed image
    of fixed_hw px.
    """
    to_points0, to_points1 = np.diag([*spacing0, 1.0]), np.diag([*spacing1, 1.0])
    H = to_points1 @ H_0to1 @ np.linalg.inv(to_points0)
    affine = _numbers(H[:2, :2].ravel(), H[:2, 2])
    parts = [("AffineTransform_double_2_2", affine, "0 0")]
    if displacement is not None:
        rim = 2 * displacement.spacing_xy
        spline = displacement.spread(-rim, np.array(fixed_hw[::-1]) + rim).resized(to_points0)
        size = spline.knots.shape[1::-1]
        layout = _numbers(size, spline.origin_xy, spline.spacing_xy, np.eye(2).ravel())
        values = _numbers(*spline.knots.reshape(-1, 2).T)
        # what is last in the list acts first
        parts = [("CompositeTransform_double_2_2", "", ""), *parts, ("BSplineTransform_double_2_2", values, layout)]
    spacing = f"spacing {_numbers(spacing0)} of the fixed image, {_numbers(spacing1)} of the moving one"
    lines = ["#Insight Transform File V1.0", f"# fixed to moving, {spacing}, origin at the first pixel centre"]
    for number, (kind, parameters, fixed) in enumerate(parts):
        lines += [f"#Transform {number}", f"Transform: {kind}"]
        lines += [f"Parameters: {parameters}", f"FixedParameters: {fixed}"] if fixed else []
    return "\n".join(lines) + "\n"


def _numbers(*parts) -> str:
    return " ".join(f"{value:.12g}" for part in parts for value in part)


# ------------------------------------------------------------------ what ITK takes for the size of a pixel


def itk_spacing(image: object) -> tuple[float, float]:
    """(x, y) spacing that SimpleITK's readers give an image file: from the resolution of TIFF and JFIF and PNG's sCAL,
    mm where the unit is one of length. They pass over Exif and the resolution of PNG and BMP. (1, 1) for an array."""
    if not isinstance(image, (str, Path)):
        return 1.0, 1.0
    with numbered(image)[0].open("rb") as file:
        start = file.read(16)
        file.seek(0)
        try:
            found = _spacing_in(file, start)
        except (OSError, SyntaxError, ValueError, TypeError, struct.error, Image.DecompressionBombError):
            return 1.0, 1.0  # a damaged header, which ITK does not read either
    sound = found is not None and all(np.isfinite(found)) and min(found) > 0
    return (float(found[0]), float(found[1])) if sound else (1.0, 1.0)


def _spacing_in(file: BinaryIO, start: bytes) -> tuple[float, float] | None:
    """What the header of a file says, None where it says nothing; start: its first 16 bytes."""
    if start[:4] in TIFF_STARTS:
        tags = TiffImagePlugin.ImageFileDirectory_v2(start if start[2:3] == b"+" or start[3:4] == b"+" else start[:8])
        file.seek(tags.next)
        tags.load(file)
        return _per_pixel(TIFF_MM.get(tags.get(TIFF_UNIT)), tags.get(TIFF_X), tags.get(TIFF_Y))
    if start[:2] == b"\xff\xd8":
        info = Image.open(file, formats=("JPEG",)).info
        return _per_pixel(JFIF_MM.get(info.get("jfif_unit")), *info.get("jfif_density", (0, 0)))
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        file.seek(8)
        while (head := file.read(8))[4:] not in (b"IDAT", b""):
            content = file.read(int.from_bytes(head[:4], "big") + 4)[:-4]  # four bytes of checksum
            if head[4:] == b"sCAL" and content[:1] in PNG_UNITS:
                width, height = content[1:].split(b"\0")
                return float(width), float(height)
    return None


def _per_pixel(mm: float | None, *pixels) -> tuple[float, float] | None:
    """mm a pixel out of pixels a unit along x and y."""
    return (mm / pixels[0], mm / pixels[1]) if mm and all(pixels) else None
