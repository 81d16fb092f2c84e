"""Register many pairs and keep everything: one pair, two folders, or a data set of any layout → a table, and files per
pair."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np

from ..core.dicom import add_identities
from ..core.files import as_spelled, natural_order, sweep
from ..core.image_files import IMAGE_SUFFIXES
from ..core.images import ImageError, shrink, write_image
from ..core.pages import numbered
from ..data.annotation import read_number_rows
from ..data.layouts import load_layout
from ..data.layouts.files import left_out
from ..data.pairing import pair_files
from ..data.records import PairRecord
from ..mapping.result import Registration
from ..mapping.saving import saved_files
from ..registration.large import Copy, register_copies, warp_file
from ..registration.registrar import Registrar
from .metrics import judge, point_errors
from .real_pairs import truth_points

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A pair to be registered, with its truth where there is one; its files bear its name. With an error it has one
    image or none."""

    name: str
    fixed: Path | None
    moving: Path | None
    record: PairRecord | None = None
    error: str = ""

    def row(self) -> dict:
        """One line of the table that says which image belongs to which."""
        fixed, moving = (None if path is None else "/".join(path.parts[-2:]) for path in (self.fixed, self.moving))
        return {"pair": self.name, "fixed": fixed, "moving": moving}


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a registration, or the error that its images raised."""

    job: Job
    result: Registration | None
    error: str
    seconds: float
    errors_px: np.ndarray | None  # at truth points, fixed px rescaled to a longer side of 768

    @property
    def ok(self) -> bool:
        """Whether the pair was registered: neither refused nor failed."""
        return self.result is not None and self.result.ok

    def row(self) -> dict:
        """One line of the table."""
        r = self.result
        row = {"pair": self.job.name, "status": f"failed: {self.error}" if self.error else r.status}
        turn_deg = round(r.angle_deg, 1) if self.ok else None
        row |= {"confidence": round(r.confidence, 3) if r else 0.0, "turn_deg": turn_deg}
        row |= {"inliers": int(r.inliers.sum()) if r else 0, "seconds": round(self.seconds, 2)}
        if r is not None and "points_given" in r.evidence:
            row["points"] = int(r.evidence["points_given"])
        if self.job.record is not None and has_truth(self.job.record):
            mean = None if self.errors_px is None else round(float(self.errors_px.mean()), 2)
            row |= {"mean_error_px": mean, "verdict": judge(self.errors_px)}
        return row


def has_truth(record: PairRecord) -> bool:
    """Whether a record says where points of one image lie in the other."""
    return record.points0_xy is not None or record.H_0to1 is not None


def find_jobs(fixed: str | Path, moving: str | Path = "", pair_by: str = "name") -> list[Job]:
    """Jobs from two image files, or from two folders whose images are paired as `pair_files` says.

    Without ``moving`` they come from a pairs.csv or a folder of any layout. An unusable pair, and an image without a
    partner, is a job with an error. Names of jobs differ and are fit for files. FileNotFoundError or ValueError says
    what was missing or unequal.
    """
    if not str(fixed):
        raise ValueError("fixed: no path given; name an image, a folder or a pairs.csv")
    fixed, moving = as_spelled(fixed), as_spelled(moving) if str(moving) else None
    for name, path in (("fixed", fixed), ("moving", moving)):
        if path is not None and not numbered(path)[0].exists():
            raise FileNotFoundError(f"{name}: there is no file or folder {str(path.absolute())!r}")
    if moving is None:
        return _named(_data_set(fixed))
    if fixed.suffix.lower() == ".csv":
        raise ValueError(f"moving: {fixed.name} names the moving images already; leave moving empty")
    if fixed.is_dir() != moving.is_dir():
        raise ValueError(f"fixed and moving are both files or both folders; here {fixed} and {moving} differ")
    if not fixed.is_dir():
        return _named([_job(fixed, moving)])
    left, right = _images_in(fixed), _images_in(moving)
    found = pair_files(left, right, pair_by)
    if not found.pairs:
        raise ValueError(f"{fixed} and {moving} hold no two images that belong together")
    if found.warning:
        log.warning("%s", found.warning)
    sides = [(path, None) if path in left else (None, path) for path, _ in found.alone]
    alone = [Job(path.stem, *side, error=why) for side, (path, why) in zip(sides, found.alone, strict=True)]
    return _named([_job(*pair) for pair in found.pairs] + alone)


def _job(fixed: Path, moving: Path) -> Job:
    """The job of two files, named after both."""
    return Job(fixed.stem if fixed.stem == moving.stem else f"{moving.stem}-on-{fixed.stem}", fixed, moving)


def _data_set(path: Path) -> list[Job]:
    """Jobs from a pairs.csv or a folder of any layout, first those that can be done."""
    table = path.suffix.lower() == ".csv"
    if path.is_file() and not table:
        raise ValueError(f"moving: no path given; which image is to be registered to {path}?")
    try:
        found = load_layout(path)
    except ValueError as error:
        told = error if table else f"moving: no path given, so fixed must be a data set, but {error}"
        raise ValueError(told) from None
    for problem in found.problems:
        log.warning("%s", problem)
    if not found.records:
        reasons = "; ".join(map(str, found.problems[:3]))
        raise ValueError(f"{path} holds no usable pair: {reasons}")
    left_out = [Job(p.pair, None, None, error=f"{Path(p.source).name}: {p.reason}") for p in found.problems if p.pair]
    return [Job(r.pair_id, r.image0, r.image1, r) for r in found.records] + left_out


def _images_in(folder: Path) -> list[Path]:
    if words := left_out(folder):
        log.warning("%s: %s", folder, words)
    images = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    return sorted(images, key=lambda path: (natural_order(path.stem), path.suffix))


def _named(jobs: list[Job]) -> list[Job]:
    """The jobs with names fit for files. They differ, whatever their capitals, also from the run's metrics.json."""
    named, taken = [], {"metrics"}
    for job in jobs:
        name = plain = re.sub(r"[^\w.+ -]+", "_", job.name).strip(". ")[:80] or "pair"
        numbers = count(2)
        while name.casefold() in taken:
            name = f"{plain}-{next(numbers)}"
        taken.add(name.casefold())
        named.append(replace(job, name=name))
    return named


def run_job(registrar: Registrar, job: Job, points: Path | None = None) -> Outcome:
    """Register one pair; whatever goes wrong with it is an outcome with an error, so that the others are registered.

    points: a file with x0 y0 x1 y1 in each row, px of a place in the fixed and in the moving image, where a person
    helps."""
    if job.error:
        return Outcome(job, None, job.error, 0.0, None)
    started, result, errors_px, error = time.perf_counter(), None, None, ""
    try:
        clicks = () if points is None else np.hsplit(read_number_rows(points, 4), 2)
        result = register_copies(registrar, Copy.read(job.fixed), Copy.read(job.moving), *clicks)
        errors_px = _truth_errors(job.record, result)
    except Exception as problem:
        result, error = None, _told(job, problem)
    return Outcome(job, result, error, time.perf_counter() - started, errors_px)


def _told(job: Job, problem: Exception) -> str:
    """What stopped a pair, in words; where it is no fault of its images or points, the log has the rest."""
    if type(problem) in (ImageError, ValueError):
        return str(problem)
    log.error("%s stopped", job.name, exc_info=problem)
    return f"{type(problem).__name__}: {problem}".strip()


def run_jobs(
    registrar: Registrar, jobs: Iterable[Job], folder: str | Path, points: str | Path | None = None
) -> list[Outcome]:
    """Register every job; write <name>.json, the transform files and <name>_registered.png into ``folder``.

    They replace the files of an earlier run. points: a folder; pairs that have a <name>.txt there begin with it, see
    `run_job`. ValueError when two jobs bear one name: their files would overwrite each other. OSError, with the path,
    when a file cannot be written.
    """
    jobs, outcomes = list(jobs), []
    twice = [name for name, times in Counter(job.name.casefold() for job in jobs).items() if times > 1]
    if twice:
        raise ValueError(f"several jobs are called {twice[0]!r}, and so would their files be: rename all but one")
    sweep(folder)  # what a run that was killed has left
    for job in jobs:
        clicked = Path(points or "", f"{job.name}.txt")
        outcome = run_job(registrar, job, clicked if points and clicked.is_file() else None)
        outcomes.append(_kept(outcome, Path(folder)))
        log.info("%s: %s", job.name, outcomes[-1].error or outcomes[-1].result.status)
    return outcomes


def _kept(outcome: Outcome, folder: Path) -> Outcome:
    """The outcome with its files written, or with the error that kept the moving image from being warped."""
    job, result, pictures = outcome.job, outcome.result, []
    try:
        pictures = [warp_file(result, job.moving)] if outcome.ok else []
    except Exception as problem:
        outcome = replace(outcome, result=None, errors_px=None, error=_told(job, problem))
    target, registered = folder / f"{job.name}.json", folder / f"{job.name}_registered.png"
    for old in (*saved_files(target), registered):  # of an earlier run of this name
        old.unlink(missing_ok=True)
    if outcome.result is not None:
        result.save(target)
        add_identities(target, job.fixed, job.moving)
        for picture in pictures:
            write_image(registered, picture)
    return outcome


def display_copies(outcome: Outcome, longer_side_px: int = 1000) -> tuple[np.ndarray, np.ndarray, Registration]:
    """Both images of a registered or refused pair, shrunk to look at, and the registration between these copies."""
    fixed, moving = (shrink(Copy.read(path).image, longer_side_px) for path in (outcome.job.fixed, outcome.job.moving))
    return fixed, moving, outcome.result.resized(fixed.shape[:2], moving.shape[:2])


def _truth_errors(record: PairRecord | None, result: Registration | None) -> np.ndarray | None:
    if record is None or result is None or not result.ok or (truth := truth_points(record, result.moving_hw)) is None:
        return None
    # with the displacement, where there is one
    return point_errors(np.eye(3), result.map_to_fixed(truth[0]), truth[1], result.fixed_hw)
