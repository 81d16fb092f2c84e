"""A registration on disk: JSON, an ITK transform and a matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.files import write_json, write_text
from ..core.geometry import inside, lattice


def write_result(path: str | Path, result) -> list[Path]:
    """What `Registration.save` does for a result; returns the files."""
    path = Path(path).expanduser()
    if path.suffix.lower() in (".tfm", ".txt"):
        name = path.with_suffix(".json").name
        raise ValueError(f"{path}: give the name of the JSON file, such as {name}; the others are written beside it")
    path, itk, matrix = saved_files(path)
    written = [write_json(path, result.to_dict())]
    for old in (itk, matrix):
        old.unlink(missing_ok=True)
    if result.ok:
        rows = [" ".join(f"{v:.10g}" for v in row) for row in result.H_1to0]
        written += [write_text(itk, itk_text(result)), write_text(matrix, "\n".join(rows) + "\n")]
    return written


def saved_files(path: str | Path) -> tuple[Path, Path, Path]:
    """What `Registration.save` may write for ``path``: JSON, ITK transform, matrix."""
    path = Path(path).expanduser()
    path = path if path.suffix.lower() == ".json" else path.with_name(path.name + ".json")
    return path, path.with_name(path.stem + ".tfm"), path.with_name(path.stem + "_transformation.txt")


def itk_text(result) -> str:
    """ITK resamples by mapping fixed points to moving ones: the affine H_0to1. Another model is replaced by its best
    affine over the part of the fixed frame that the moving image covers, which a comment says."""
    H, note = result.H_0to1, "affine"
    if np.abs(H[2, :2]).max() > 1e-12 or result.quadratic is not None:
        note = f"best affine of a {result.model}"
        grid = lattice(result.fixed_hw, 25)
        target = result.map_to_moving(grid)
        seen = inside(target, result.moving_hw)
        seen = seen if seen.sum() >= 6 else np.isfinite(target).all(1)
        terms = np.column_stack([grid, np.ones(len(grid))])
        H = np.vstack([np.linalg.lstsq(terms[seen], target[seen], rcond=None)[0].T, [0, 0, 1]])
    numbers = " ".join(f"{v:.12g}" for v in (*H[0, :2], *H[1, :2], H[0, 2], H[1, 2]))
    about = f"# fixed to moving, {note}, unit spacing, origin at the first pixel centre"
    kind = "Transform: AffineTransform_double_2_2"
    lines = ("#Insight Transform File V1.0", about, "#Transform 0", kind, f"Parameters: {numbers}")
    return "\n".join((*lines, "FixedParameters: 0 0")) + "\n"
