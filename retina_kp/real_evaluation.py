"""Evaluate methods on real pairs, as taken and under stress: every unit of work is kept as soon as it is done, so that a run can be killed.

A unit is one method on one pair under one stress, or the facts of a pair itself (truth, ceiling, size). Its row is a plain dict, see
`measure` and `pair_facts`. Units run in parallel by joblib, wherever ``joblib.parallel_config`` says: on cores or on a dask cluster.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from .annotation import leave_one_out_residual, true_homography
from .files import to_plain
from .geometry import corners, describe, warp_points
from .images import as_array, to_gray
from .layouts import FIRE_PAIR
from .ledger import append_row, read_ledger
from .methods import NOT_FOUND, Method, as_registration
from .metrics import judge, point_errors
from .privacy import burned_in_text
from .records import PairRecord, Problem
from .result import Registration
from .stress import Stress, alter
from .vessel_overlap import Maps, vessel_agreement, vessel_maps

CEILING = "GT alignment"  # the transform fitted to the annotated points themselves
VERSION = 1  # of the rows; raising it makes old ones be computed again


@dataclass(frozen=True)
class Unit:
    """One thing to do; without a method: the facts of the pair."""

    record: PairRecord
    method: Method | None = None
    stress: Stress = Stress()
    key: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. facts: one row per usable pair; rows: one per method, pair and stress; problems: what was left out, why."""

    records: dict[str, PairRecord]
    facts: list[dict]
    rows: list[dict]
    problems: list[Problem] = field(default_factory=list)


def evaluate(records: Sequence[PairRecord], methods: Sequence[Method], stresses: Sequence[Stress] = (Stress(),),
             ledger: str | Path | None = None, stressed: Sequence[str] | None = None) -> Evaluation:  # fmt: skip
    """Run every method on every pair as taken, and those named in ``stressed`` (default: all) under the other stresses too.

    ledger: a JSONL file to which each finished unit is appended at once; units that are in it already are not computed again, unless
    images, truth, weights or settings have changed. Pairs whose files or truth are unusable become problems. Parallel as
    `joblib.parallel_config` says; alone without it.
    """
    done = read_ledger(ledger)
    prints = [_pair_print(record) for record in records]
    units = [Unit(record, key=_key(mark)) for record, mark in zip(records, prints, strict=True)]
    facts = _run(units, done, ledger, "pairs")
    sound = [k for k, fact in enumerate(facts) if not fact["problem"]]
    marks = {method: method.fingerprint() for method in methods}
    units = [
        Unit(records[k], method, stress, _key(prints[k], marks[method], stress.changed()))
        for stress in stresses
        for k in sound
        for method in methods
        if stress == Stress() or stressed is None or method.name in stressed
    ]
    rows = _run(units, done, ledger, "registrations")
    problems = [Problem(str(records[k].image1), fact["problem"], fact["pair"]) for k, fact in enumerate(facts) if fact["problem"]]
    return Evaluation({records[k].pair_id: records[k] for k in sound}, [facts[k] for k in sound], rows, problems)


def _run(units: Sequence[Unit], done: dict[str, dict], ledger: str | Path | None, what: str) -> list[dict]:
    """Rows of the units, in order; those not done yet are computed and appended to the ledger by this process alone."""
    rest = list({unit.key: unit for unit in units if unit.key not in done}.values())
    bar = tqdm(total=len(units), initial=len(units) - len(rest), desc=what, unit="", smoothing=0.1)
    for row in Parallel(return_as="generator_unordered", batch_size=1)(delayed(run_unit)(unit) for unit in rest):
        done[row["key"]] = row
        append_row(ledger, row)
        bar.update()
    bar.close()
    return [done[unit.key] | {"method": CEILING if unit.method is None else unit.method.name} for unit in units]


def run_unit(unit: Unit) -> dict:
    """The row of one unit, in JSON's types (NaN and infinity are None)."""
    row = pair_facts(unit.record) if unit.method is None else measure(unit.record, unit.method, unit.stress)
    return to_plain({"key": unit.key, **row}, lambda name: None)


# ------------------------------------------------------------------ one unit


def measure(record: PairRecord, method: Method, stress: Stress = Stress()) -> dict:
    """What a method makes of a pair: outcome ("acceptable", "inaccurate", "refused", "failed", or "answered" without truth), status,
    confidence (None where the method gives none), seconds, errors_px of the truth's points at 768 (None without transform), tried_px: mean
    error of what was refused, true turn and scale; for the pair as taken also the registration and the Dice of vessel maps."""
    fixed, moving = read_pair(record)
    truth = truth_points(record, moving.shape[:2])
    moving, R = alter(moving, stress, record.pair_id)
    started = time.perf_counter()
    result = method.register(fixed, moving)
    seconds = time.perf_counter() - started
    row = _about(record) | {"method": method.name, "stress": stress.label, "factors": stress.changed(), "status": result.status}
    row |= {"confidence": result.confidence if method.ours else None, "seconds": seconds}
    broken = result.status == NOT_FOUND or result.status.startswith("error: ")
    row["outcome"] = "answered" if result.ok else "failed" if broken else "refused"
    if truth is not None:
        points1, points0 = warp_points(truth[0], R), truth[1]
        errors = point_errors(np.eye(3), result.map_to_fixed(points1), points0, fixed.shape[:2]) if result.ok else None
        tried = None if result.ok or result.H_tried is None else point_errors(result.H_tried, points1, points0, fixed.shape[:2])
        row |= {"errors_px": errors, "tried_px": None if tried is None else tried.mean(), **true_pose(record, R, moving.shape[:2])}
        row["outcome"] = judge(errors) if result.ok else row["outcome"]
    if stress == Stress():
        row |= {"registration": result.to_dict(), "dice": _dice(record, result)}
    return row


def pair_facts(record: PairRecord) -> dict:
    """What is known of a pair before any method sees it: sizes, kind of truth, GT-alignment ceiling (errors_px at 768), leave-one-out
    residual (px at 768), true turn and scale, Dice under the truth, burned-in text. ``problem`` says why it cannot be used, or is ""."""
    row = _about(record) | {"method": CEILING, "problem": ""}
    try:
        fixed, moving = read_pair(record)
        hw0, hw1 = fixed.shape[:2], moving.shape[:2]
        truth = truth_points(record, hw1)
        H_1to0 = None if truth is None else np.linalg.inv(true_homography(record))
    except (ValueError, OSError) as error:
        return row | {"problem": str(error)}
    row |= {"size_fixed": list(hw0), "size_moving": list(hw1), "outcome": "answered", "rescale": 768 / max(hw0)}
    row |= {"text_fixed": len(burned_in_text(fixed)), "text_moving": len(burned_in_text(moving)), "truth": kind_of_truth(record)}
    if truth is None:
        return row
    errors = point_errors(H_1to0, *truth, hw0)
    row |= {
        "errors_px": errors,
        "outcome": judge(errors),
        "residual_px": leave_one_out_residual(record),
        **true_pose(record, np.eye(3), hw1),
    }
    return row | {"dice": _dice(record, as_registration(H_1to0 / H_1to0[2, 2], hw0, hw1))}


def kind_of_truth(record: PairRecord) -> str:
    """In words for the inventory."""
    parts = [] if record.points0_xy is None else [f"{len(record.points0_xy)} point pairs"]
    return " + ".join(parts + ([] if record.H_0to1 is None else ["matrix"])) or "none"


def truth_points(record: PairRecord, moving_hw) -> tuple[np.ndarray, np.ndarray] | None:
    """Points of the moving image and where they belong in the fixed one, (N, 2) px each; None without truth. The annotated points; with a
    matrix alone the corners of the moving image."""
    if record.points0_xy is not None:
        return record.points1_xy, record.points0_xy
    if record.H_0to1 is None:
        return None
    return corners(moving_hw), warp_points(corners(moving_hw), np.linalg.inv(record.H_0to1))


def true_pose(record: PairRecord, R: np.ndarray, moving_hw) -> dict[str, float]:
    """Turn (deg, 0 to 180) and scale of the true way from the altered moving image to the fixed one."""
    shape = describe(np.linalg.inv(R @ true_homography(record)), moving_hw)
    return {"true_turn_deg": abs(shape.angle_deg), "true_scale": shape.scale}


def read_pair(record: PairRecord) -> tuple[np.ndarray, np.ndarray]:
    """Fixed and moving image (H, W, 3), gray ones repeated, as image libraries read files by default; ImageError when one is unreadable."""
    return _image(*_version(record.image0)), _image(*_version(record.image1))


def _version(path: Path) -> tuple[str, int]:
    return str(path), path.stat().st_mtime_ns if path.is_file() else 0


@lru_cache(maxsize=4)
def _image(path: str, changed_ns: int) -> np.ndarray:
    image = as_array(path)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


@lru_cache(maxsize=8)
def _maps(path: str, changed_ns: int) -> Maps:
    return vessel_maps(_image(path, changed_ns))


def _dice(record: PairRecord, result: Registration) -> float | None:
    """Dice of vessel maps; the mask that a record has goes before the ridges of its fixed image."""
    if not result.ok:
        return None
    maps0, maps1 = (_maps(*_version(path)) for path in (record.image0, record.image1))
    if record.vessel_mask0 is not None:
        mask0 = cv2.resize(to_gray(_image(*_version(record.vessel_mask0))), maps0[0].shape[::-1], interpolation=cv2.INTER_AREA)
        maps0 = maps0[0], mask0 > 0.5
    return vessel_agreement(maps0, maps1, result)


def _about(record: PairRecord) -> dict:
    category = FIRE_PAIR.fullmatch(record.pair_id) if record.modality0 == record.modality1 == "CF" else None
    return {"pair": record.pair_id, "eye": record.eye_id, "kind": f"{record.modality0}-{record.modality1}",
            "category": category[1][0] if category else ""}  # fmt: skip


# ------------------------------------------------------------------ what was done before


def _pair_print(record: PairRecord) -> str:
    """Changes with the images, the truth or the names of a pair."""
    digest = hashlib.sha256(json.dumps([VERSION, *_about(record).values()]).encode())
    for path in filter(None, (record.image0, record.image1, record.vessel_mask0)):
        digest.update(path.read_bytes() if path.is_file() else b"missing")
    for array in (record.points0_xy, record.points1_xy, record.H_0to1):
        digest.update(b"none" if array is None else array.tobytes())
    return digest.hexdigest()


def _key(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def as_taken(rows: Iterable[dict]) -> list[dict]:
    """Rows of pairs that nothing was done to."""
    return [row for row in rows if not row["factors"]]
