"""Evaluate methods on real pairs, as taken and under stress: every unit of work is kept as soon as it is done, so that
a run can be killed.

A unit is one method on one pair under one stress, or the facts of a pair itself (truth, oracle, size). Its row is a
plain dict, see `measure` and `pair_facts`. Units run in parallel by joblib, wherever ``joblib.parallel_config`` says:
on cores or on a dask cluster.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from ..core.compute import progress
from ..core.files import to_plain
from ..core.geometry import warp_points
from ..core.versions import code_version
from ..data.annotation import true_homography
from ..data.records import PairRecord, Problem
from .ledger import append_row, read_ledger
from .methods import CRASHED, NOT_FOUND, Method
from .metrics import judge, point_errors
from .pairs import (
    FIT,
    ORACLE,
    about,
    pair_facts,
    pair_print,
    read_pair,
    right_matches,
    true_pose,
    truth_points,
    vessel_dice,
)
from .stress import Stress, alter


@dataclass(frozen=True)
class Unit:
    """One thing to do; without a method: the facts of the pair; at_truth: the method's oracle, with the true points for
    keypoints."""

    record: PairRecord
    method: Method | None = None
    stress: Stress = Stress()
    key: str = ""
    at_truth: bool = False

    @property
    def name(self) -> str:
        """Of the method in tables."""
        return FIT if self.method is None else self.method.name + (ORACLE if self.at_truth else "")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. facts: one row per usable pair; rows: one per method, pair and stress, the
    oracles of ours first; problems: what was left out, or is incomplete, and why."""

    records: dict[str, PairRecord]
    facts: list[dict]
    rows: list[dict]
    problems: list[Problem] = field(default_factory=list)


def evaluate(
    records: Sequence[PairRecord],
    methods: Sequence[Method],
    stresses: Sequence[Stress] = (Stress(),),
    ledger: str | Path | None = None,
    stressed: Sequence[str] | None = None,
) -> Evaluation:
    """Run every method on every pair as taken, and those named in ``stressed`` (default: all) under the other stresses
    too.

    ledger: a JSONL file to which each finished unit is appended at once; units that are in it already are not computed
    again, unless images, truth, weights, settings or the code have changed, or the method had raised an error. Pairs
    whose files or truth are unusable become problems. Parallel as `joblib.parallel_config` says; alone without it.
    """
    done = read_ledger(ledger)
    prints = [pair_print(record) for record in records]
    units = [Unit(record, key=_key(mark)) for record, mark in zip(records, prints, strict=True)]
    facts = _run(units, done, ledger, "pairs")
    usable = [k for k, fact in enumerate(facts) if not fact["problem"]]
    sighted = [k for k in usable if "errors_px" in facts[k]]
    marks = {method: method.fingerprint() for method in methods}
    oracles = [
        Unit(records[k], method, key=_key(prints[k], marks[method], ORACLE), at_truth=True)
        for k in sighted
        for method in methods
        if method.ours
    ]
    units = [
        Unit(records[k], method, stress, _key(prints[k], marks[method], stress.changed()))
        for stress in stresses
        for k in usable
        for method in methods
        if stress == Stress() or stressed is None or method.name in stressed
    ]
    rows = _run(oracles, done, ledger, "oracles") + _run(units, done, ledger, "registrations")
    problems = [
        Problem(str(record.image1), fact["problem"], fact["pair"])
        for record, fact in zip(records, facts, strict=True)
        if fact["problem"]
    ]
    problems += [Problem(str(records[k].vessel_mask0), why) for k in usable if (why := facts[k]["mask_problem"])]
    return Evaluation({records[k].pair_id: records[k] for k in usable}, [facts[k] for k in usable], rows, problems)


def _run(units: Sequence[Unit], done: dict[str, dict], ledger: str | Path | None, what: str) -> list[dict]:
    """Rows of the units, in order; those not done yet are computed and appended to the ledger by this process alone."""
    rest = list({unit.key: unit for unit in units if unit.key not in done}.values())
    bar = progress(len(units), len(units) - len(rest), what)
    for row in Parallel(return_as="generator_unordered", batch_size=1)(delayed(run_unit)(unit) for unit in rest):
        done[row["key"]] = row
        if not str(row.get("status", "")).startswith(CRASHED):  # what ran out of memory once may go well next time
            append_row(ledger, row)
        bar.update()
    bar.close()
    return [done[unit.key] | {"method": unit.name} for unit in units]


def run_unit(unit: Unit) -> dict:
    """The row of one unit, in JSON's types (NaN and infinity are None)."""
    row = _row(unit)
    return to_plain({"key": unit.key, **row}, lambda name: None)


def _row(unit: Unit) -> dict:
    if unit.method is None:
        return pair_facts(unit.record)
    return measure_oracle(unit.record, unit.method) if unit.at_truth else measure(unit.record, unit.method, unit.stress)


# ------------------------------------------------------------------ one unit


def measure(record: PairRecord, method: Method, stress: Stress = Stress()) -> dict:
    """What a method makes of a pair: outcome ("acceptable", "inaccurate", "refused", "failed", or "answered" without
    truth), status, confidence (None where the method gives none), seconds, errors_px of the truth's points at 768 (None
    without transform), tried_px: mean error of what was refused, inlier_rate of its matches (None of a method that
    shows none), true turn and scale; for the pair as taken also the registration and the Dice of vessel maps."""
    fixed, moving = read_pair(record)
    truth = truth_points(record, moving.shape[:2])
    moving, R = alter(moving, stress, record.pair_id)
    started = time.perf_counter()
    result = method.register(fixed, moving)
    seconds = time.perf_counter() - started
    row = about(record) | {
        "method": method.name,
        "stress": stress.label,
        "factors": stress.changed(),
        "status": result.status,
    }
    row |= {"confidence": result.confidence if method.ours else None, "seconds": seconds}
    broken = result.status == NOT_FOUND or result.status.startswith(CRASHED)
    row["outcome"] = "answered" if result.ok else "failed" if broken else "refused"
    if truth is not None:
        points1, points0 = warp_points(truth[0], R), truth[1]
        errors = point_errors(np.eye(3), result.map_to_fixed(points1), points0, fixed.shape[:2]) if result.ok else None
        tried = (
            None
            if result.ok or result.H_tried is None
            else point_errors(result.H_tried, points1, points0, fixed.shape[:2])
        )
        row |= {
            "errors_px": errors,
            "tried_px": None if tried is None else tried.mean(),
            **true_pose(record, R, moving.shape[:2]),
        }
        row["inlier_rate"] = right_matches(record, result, R) if method.ours else None
        row["outcome"] = judge(errors) if result.ok else row["outcome"]
    if stress == Stress():
        row |= {"registration": result.to_dict(), "dice": vessel_dice(record, result)}
    return row


def measure_oracle(record: PairRecord, method: Method) -> dict:
    """The same of one of our methods when its keypoints are the true ones: errors_px at the truth's points, outcome,
    Dice. A pair whose points are too few, or not matched, is a failed one: no better detector would help there."""
    fixed, moving = read_pair(record)
    moving_hw = moving.shape[:2]
    points = None if record.points0_xy is None else (record.points0_xy, record.points1_xy)
    result = method.register_true_points(fixed, moving, np.linalg.inv(true_homography(record)), points)
    judged1, judged0 = truth_points(record, moving_hw)
    errors = point_errors(np.eye(3), result.map_to_fixed(judged1), judged0, fixed.shape[:2]) if result.ok else None
    row = about(record) | {
        "method": method.name + ORACLE,
        "stress": Stress().label,
        "factors": {},
        "status": result.status,
    }
    row |= {
        "confidence": None,
        "seconds": None,
        "errors_px": errors,
        "outcome": judge(errors),
        "matched": len(result.matches0),
    }
    row["inlier_rate"] = right_matches(record, result)
    return row | true_pose(record, np.eye(3), moving_hw) | {"dice": vessel_dice(record, result)}


# ------------------------------------------------------------------ what was done before


def _key(*parts) -> str:
    """Of a unit's row in the ledger; rows of other code, or of another torch or OpenCV, are never taken for it."""
    return hashlib.sha256(json.dumps([code_version(), *parts], sort_keys=True).encode()).hexdigest()[:32]


def as_taken(rows: Iterable[dict]) -> list[dict]:
    """Rows of pairs that nothing was done to."""
    return [row for row in rows if not row["factors"]]
