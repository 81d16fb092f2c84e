"""A registration as files: JSON, a transform that ITK (SimpleITK, elastix, 3D Slicer) reads, and a matrix as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.files import read_json, write_json, write_text
from .displacement import Displacement

ABOUT = "unit spacing, origin at the first pixel centre"


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
    transform = itk_text(plain.H_0to1, plain.displacement, result.fixed_hw)
    return [*written, write_text(itk, transform), write_text(matrix, "\n".join(rows) + "\n")]


def read_result(path: str | Path, wanted: set[str]) -> dict:
    """What `write_result` wrote into a JSON file; ValueError when it lacks something of what is wanted."""
    d = read_json(path)
    missing = sorted(wanted - set(d)) if isinstance(d, dict) else ["everything"]
    if missing:
        raise ValueError(f"{path} was not written by Registration.save: {', '.join(missing)} missing")
    return d


def saved_files(path: str | Path) -> tuple[Path, Path, Path]:
    """What `Registration.save` may write for ``path``: JSON, ITK transform, matrix."""
    path = Path(path).expanduser()
    path = path if path.suffix.lower() == ".json" else path.with_name(path.name + ".json")
    return path, path.with_name(path.stem + ".tfm"), path.with_name(path.stem + "_transformation.txt")


def itk_text(H_0to1: np.ndarray, displacement: Displacement | None, fixed_hw) -> str:
    """An ITK transform file: the affine H_0to1 (3, 3), after a displacement of fixed px if there is one.

    ITK resamples by mapping fixed points to moving ones. It leaves points outside a B-spline's grid where they are, so
    the grid is spread over the fixed image of fixed_hw px.
    """
    affine = _numbers(H_0to1[:2, :2].ravel(), H_0to1[:2, 2])
    parts = [("AffineTransform_double_2_2", affine, "0 0")]
    if displacement is not None:
        rim = 2 * displacement.spacing_xy
        spline = displacement.spread(-rim, np.array(fixed_hw[::-1]) + rim)
        size = spline.knots.shape[1::-1]
        layout = _numbers(size, spline.origin_xy, spline.spacing_xy, np.eye(2).ravel())
        values = _numbers(*spline.knots.reshape(-1, 2).T)
        # what is last in the list acts first
        parts = [("CompositeTransform_double_2_2", "", ""), *parts, ("BSplineTransform_double_2_2", values, layout)]
    lines = ["#Insight Transform File V1.0", f"# fixed to moving, {ABOUT}"]
    for number, (kind, parameters, fixed) in enumerate(parts):
        lines += [f"#Transform {number}", f"Transform: {kind}"]
        lines += [f"Parameters: {parameters}", f"FixedParameters: {fixed}"] if fixed else []
    return "\n".join(lines) + "\n"


def _numbers(*parts) -> str:
    return " ".join(f"{value:.12g}" for part in parts for value in part)
