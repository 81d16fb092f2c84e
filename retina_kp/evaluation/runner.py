"""The one way to measure: methods on pairs, one row each, on disk as soon as it is done, so that a run can be killed.

Units run in parallel by joblib, wherever ``joblib.parallel_config`` says: on cores or on a dask cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed, parallel_config
from joblib.parallel import get_active_backend

from ..core.compute import bfloat16_is_fast, code_version, decide_bfloat16, progress
from ..core.files import to_plain
from ..core.geometry import describe
from ..data.records import PairRecord, Problem
from ..mapping.result import Registration, refused
from .methods import NOT_FOUND, AnnotationFit, Method, Oracle, as_methods
from .metrics import LONGER_SIDE_PX, error_columns, inlier_rate, judge, point_errors
from .pairs import FIT, Pair, Seen
from .real_pairs import RealPair, Stress

CRASHED = "error: "  # how the status of a method begins that raised an exception
RIGHT_MATCH_PX = 5.0  # at 768, from the truth
WINGS = ("core", "data", "networks", "synthetic", "registration", "evaluation")  # that rows depend on
NUMBERS = ("mean_px", "median_px", "max_px", "tried_px", "true_turn_deg", "true_scale", "inlier_rate")  # need a truth
Unit = tuple[Pair, Method]


def measure(
    pairs: Sequence[Pair],
    methods: Sequence[Method | Callable],
    keep: str | Path | None = None,
    processes: int | None = None,
) -> pd.DataFrame:
    """Every method on every pair: one row each, see `run_unit`.

    methods: functions too, see `methods.Function`. keep: a JSONL file, or a folder for one, to which each finished row
    is appended at once. Its rows are computed again only if images, truth, weights, options, a function's source or the
    code have changed, or after an error. processes: side by side here; without it as joblib says.
    """
    named = as_methods(methods)
    units = [(pair, method) for pair in pairs for method in named]
    if processes is None:
        return run(units, keep)
    with side_by_side(processes):
        return run(units, keep)


def run(units: Sequence[Unit], keep: str | Path | None = None, what: str = "registrations") -> pd.DataFrame:
    """Rows of the units, in their order; those not kept yet are computed, and kept by this process alone."""
    keep = Path(keep) / "rows.jsonl" if keep and Path(keep).suffix != ".jsonl" else keep
    done, keys = read_ledger(keep), _keys(units) if keep else list(map(str, range(len(units))))
    rest = {key: unit for key, unit in zip(keys, units, strict=True) if key not in done}
    bar = progress(len(units), len(units) - sum(key in rest for key in keys), what)
    # a worker gets all methods of a pair at once, so the pair is read or drawn once
    batch, how = len({method.name for _, method in units}) or 1, _of_this_process()
    parallel = Parallel(return_as="generator_unordered", batch_size=batch)
    for row in parallel(delayed(run_unit)(*unit, key, how) for key, unit in rest.items()):
        done[row["key"]] = row
        if not row["status"].startswith(CRASHED):  # what ran out of memory once may go well next time
            append_row(keep, row)
        bar.update()
    bar.close()
    rows = [done[key] | pair.about() | {"method": m.name} for key, (pair, m) in zip(keys, units, strict=True)]
    return pd.DataFrame(rows)


def _keys(units: Sequence[Unit]) -> list[str]:
    """Of rows in the ledger; rows of other code, or of another torch or OpenCV, are never taken for them."""
    code, methods = code_version(WINGS), {method.name: method.fingerprint() for _, method in units}
    pairs = {id(pair): pair.fingerprint() for pair, _ in units}
    parts = [f"{code} {pairs[id(pair)]} {methods[method.name]}" for pair, method in units]
    return [hashlib.sha256(part.encode()).hexdigest()[:32] for part in parts]


def _of_this_process() -> tuple[int, bool] | None:
    """Threads and precision for workers on this machine, so that they share its threads and compute alike."""
    backend, jobs = get_active_backend()
    if "Dask" in type(backend).__name__:
        return None
    workers = backend.effective_n_jobs(jobs)
    return max(torch.get_num_threads() // workers, 1), bfloat16_is_fast(torch.device("cpu"))


@contextmanager
def side_by_side(processes: int = 1, cluster: str = "") -> Iterator[None]:
    """Where joblib works within the block: in so many processes here (-1: one per core), or on the dask cluster at an
    address."""
    if not cluster:
        with parallel_config(n_jobs=processes):
            yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError('cluster: dask is not installed: pip install "retina-kp[cluster]"') from error
    with Client(cluster), parallel_config("dask"):
        yield


# ------------------------------------------------------------------ one unit


def run_unit(pair: Pair, method: Method, key: str = "", how: tuple[int, bool] | None = None) -> dict:
    """The row of a method's answer to a pair, in JSON's types: what the pair is about; ``problem``: why it cannot be
    used, or ""; status, confidence (NaN where a method gives none), evidence, seconds; outcome ("acceptable",
    "inaccurate", "refused", "failed", or "answered" without truth); errors at 768, see `metrics.error_columns` (NaN
    without truth); expected_px: errors that were to be expected at the same places, or None; tried_px: mean error of
    what was found even if it was refused; inlier_rate of its matches; true turn and scale."""
    if how is not None:
        torch.set_num_threads(how[0])
        decide_bfloat16("cpu", how[1])
    row = {"key": key, **pair.about(), "method": method.name, "problem": "", "status": "", "outcome": ""}
    row |= {"errors_px": None, "expected_px": None, **dict.fromkeys(NUMBERS, float("nan"))}
    try:
        seen = pair.load()
    except (ValueError, OSError) as error:
        return row | {"problem": str(error)}
    result, more, seconds = _answer(method, seen)
    row |= _judged(method, seen, result) | {"seconds": None if method.told_truth else seconds}
    return to_plain(row | more | pair.more(seen, result, method.name))


def _answer(method: Method, seen: Seen) -> tuple[Registration, dict, float]:
    """What a method makes of a pair, and the seconds that it took."""
    started = time.perf_counter()
    try:
        method.prepare()
        started = time.perf_counter()
        result, more = method.answer(seen)
    except Exception as error:  # whatever it is, it is the answer of this method to this pair, and the others go on
        why = f"{CRASHED}{type(error).__name__}: {str(error).strip():.200}"
        result, more = refused(why, seen.fixed.shape[:2], seen.moving.shape[:2]), {}
    return result, more, time.perf_counter() - started


def _judged(method: Method, seen: Seen, result: Registration) -> dict:
    """Columns that follow from an answer and the truth."""
    claims = result.ok or method.ours  # a failed baseline is sure of nothing
    sure = result.confidence if claims and not method.told_truth else float("nan")
    row = {"status": result.status, "confidence": sure, "evidence": result.evidence}
    broken = method.told_truth or result.status == NOT_FOUND or result.status.startswith(CRASHED)
    silent = "answered" if seen.truth is None and method.told_truth else "failed" if broken else "refused"
    row["outcome"] = "answered" if result.ok else silent
    if seen.truth is None:
        return row
    truth, fixed_hw = seen.truth, seen.fixed.shape[:2]
    points, errors = (truth.points1, truth.points0), None
    if result.ok:
        errors = point_errors(np.eye(3), result.map_to_fixed(points[0]), points[1], fixed_hw)
        row["outcome"] = judge(errors)
    if result.expected is not None:
        row["expected_px"] = result.expected.at(points[1]) * LONGER_SIDE_PX / max(fixed_hw)
    tried = errors if result.ok else point_errors(result.H_tried, *points, fixed_hw)
    shape = describe(np.linalg.inv(truth.H_0to1), seen.moving.shape[:2])
    row |= error_columns(errors) | {"tried_px": float("nan") if tried is None else tried.mean()}
    row |= {"true_turn_deg": abs(shape.angle_deg), "true_scale": shape.scale}
    if method.ours:  # MIR, of refused answers too
        limit_px = RIGHT_MATCH_PX * max(fixed_hw) / LONGER_SIDE_PX
        row["inlier_rate"] = inlier_rate(result.matches0, truth.to_fixed(result.matches1), np.eye(3), limit_px)
    return row


# ------------------------------------------------------------------ real pairs with everything beside


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. rows: of usable pairs, the annotation's fit first, then oracles, then methods;
    problems: what was left out, or is incomplete, and why."""

    records: dict[str, PairRecord]
    rows: pd.DataFrame
    problems: list[Problem]

    @property
    def facts(self) -> pd.DataFrame:
        """One row per usable pair: that of its annotation fit, with what is known of the pair."""
        return self.rows[self.rows.method == FIT]


def evaluate(
    records: Sequence[PairRecord],
    methods: Sequence[Method],
    stresses: Sequence[Stress] = (Stress(),),
    keep: str | Path | None = None,
    stressed: Sequence[str] | None = None,
) -> Evaluation:
    """Run every method on every pair as taken, and those named in ``stressed`` (default: all) under the other stresses
    too; keep as in `measure`. Pairs whose files or truth are unusable become problems."""
    facts = run([(RealPair(record), AnnotationFit()) for record in records], keep, "pairs")
    told = list(zip(records, facts.problem, strict=True))
    problems = [Problem(str(record.image1), why, record.pair_id) for record, why in told if why]
    usable, facts = [record for record, why in told if not why], facts[facts.problem == ""]
    if not usable:
        return Evaluation({}, facts, problems)
    masks = zip(usable, facts.mask_problem, strict=True)
    problems += [Problem(str(record.vessel_mask0), why) for record, why in masks if why]
    judged = [record for record, truth in zip(usable, facts.truth, strict=True) if truth != "none"]
    oracles = [(RealPair(record), Oracle(method)) for record in judged for method in methods if method.ours]
    units = [
        (RealPair(record, stress), method)
        for stress in stresses
        for record in usable
        for method in methods
        if stress == Stress() or stressed is None or method.name in stressed
    ]
    parts = [facts, run(oracles, keep, "oracles"), run(units, keep)]
    rows = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return Evaluation({record.pair_id: record for record in usable}, rows, problems)


# ------------------------------------------------------------------ the ledger


def read_ledger(path: str | Path | None) -> dict[str, dict]:
    """Rows by key; a last line that a killed run left unfinished is passed over."""
    return {row["key"]: row for row in _lines(path)} if path is not None and Path(path).is_file() else {}


def _lines(path: str | Path) -> Iterator[dict]:
    for line in Path(path).read_bytes().split(b"\n"):
        try:
            yield json.loads(line)
        except ValueError:  # empty, or torn
            continue


def append_row(path: str | Path | None, row: dict) -> None:
    """Add one line, on disk before this returns; it starts on a line of its own whatever a killed run left behind."""
    if path is None:
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
