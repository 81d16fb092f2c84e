"""Register many pairs and keep everything: one pair, two folders, or a pairs.csv → a table, and files per pair."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .geometry import corners, warp_points
from .images import ImageError, read_image, write_image
from .layouts import load_pairs_csv
from .metrics import judge, point_errors
from .records import PairRecord
from .registration import Registrar
from .result import Registration

log = logging.getLogger(__name__)
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}


@dataclass(frozen=True)
class Job:
    """A pair to be registered, with its truth where there is one."""

    name: str
    fixed: Path
    moving: Path
    record: PairRecord | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a registration, or the error that its images raised."""

    job: Job
    result: Registration | None
    error: str
    seconds: float
    errors_px: np.ndarray | None  # at truth points, fixed px rescaled to a longer side of 768

    def row(self) -> dict:
        """One line of the table."""
        r = self.result
        good = r is not None and r.ok
        row = {"pair": self.job.name, "status": self.error or r.status, "confidence": round(r.confidence, 3) if r else 0.0,
               "turn_deg": round(r.angle_deg, 1) if good else None, "inliers": int(r.inliers.sum()) if r else 0,
               "seconds": round(self.seconds, 2)}  # fmt: skip
        if self.job.record is not None and has_truth(self.job.record):
            mean = None if self.errors_px is None else round(float(self.errors_px.mean()), 2)
            row |= {"mean_error_px": mean, "verdict": judge(self.errors_px)}
        return row


def has_truth(record: PairRecord) -> bool:
    """Whether a record says where points of one image lie in the other."""
    return record.points0_xy is not None or record.H_0to1 is not None


def find_jobs(fixed: str | Path, moving: str | Path = "") -> list[Job]:
    """Jobs from a pairs.csv, from two image files, or from two folders whose sorted images belong together.

    FileNotFoundError or ValueError says what was missing or unequal.
    """
    fixed = Path(fixed)
    if fixed.suffix.lower() == ".csv":
        found = load_pairs_csv(fixed)
        for problem in found.problems:
            log.warning("%s: %s", problem.source, problem.reason)
        if not found.records:
            raise ValueError(f"{fixed} holds no usable pair: " + "; ".join(f"{p.source}: {p.reason}" for p in found.problems[:3]))
        return [Job(r.pair_id, r.image0, r.image1, r) for r in found.records]
    moving = Path(moving)
    for name, path in (("fixed", fixed), ("moving", moving)):
        if not path.exists() or path == Path():
            raise FileNotFoundError(f"{name}: there is no file or folder {str(path)!r}")
    if fixed.is_dir() != moving.is_dir():
        raise ValueError(f"fixed and moving are both files or both folders; here {fixed} and {moving} differ")
    if fixed.is_file():
        return [Job(fixed.stem, fixed, moving)]
    left, right = (sorted(p for p in d.iterdir() if p.suffix.lower() in IMAGE_ENDINGS) for d in (fixed, moving))
    if len(left) != len(right) or not left:
        raise ValueError(f"{fixed} holds {len(left)} images and {moving} {len(right)}: there must be as many, in the same order by name")
    return [Job(a.stem, a, b) for a, b in zip(left, right, strict=True)]


def run_job(registrar: Registrar, job: Job) -> Outcome:
    """Register one pair; unusable images give an outcome with an error, never an exception."""
    started = time.perf_counter()
    try:
        result, error = registrar(job.fixed, job.moving), ""
    except ImageError as problem:
        result, error = None, str(problem)
    seconds = time.perf_counter() - started
    return Outcome(job, result, error, seconds, _truth_errors(job.record, result))


def run_jobs(registrar: Registrar, jobs: Iterable[Job], folder: str | Path) -> list[Outcome]:
    """Register every job and write per pair <name>.json, the transform files and <name>_registered.png into ``folder``."""
    outcomes = []
    for job in jobs:
        outcome = run_job(registrar, job)
        if outcome.result is not None:
            outcome.result.save(Path(folder) / f"{job.name}.json")
            if outcome.result.ok:
                write_image(Path(folder) / f"{job.name}_registered.png", outcome.result.warp(read_image(job.moving)))
        log.info("%s: %s", job.name, outcome.error or outcome.result.status)
        outcomes.append(outcome)
    return outcomes


def _truth_errors(record: PairRecord | None, result: Registration | None) -> np.ndarray | None:
    if record is None or result is None or not result.ok or not has_truth(record):
        return None
    if record.points0_xy is not None:
        points1, truth = record.points1_xy, record.points0_xy
    else:
        points1 = corners(result.moving_hw)
        truth = warp_points(points1, np.linalg.inv(record.H_0to1))
    return point_errors(np.eye(3), result.map_to_fixed(points1), truth, result.fixed_hw)  # with the quadratic part, where there is one
