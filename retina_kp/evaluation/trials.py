"""Measure a registrar on synthetic pairs with exact truth: success, error, refusals, time."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..core.compute import worker_pool
from ..core.files import to_plain, write_json
from ..core.geometry import corners, warp_points
from ..core.versions import code_version
from ..registration.registrar import Registrar
from ..registration.result import Registration
from ..synthetic.pairs import PairOptions, SamplePair, draw_pair
from ..synthetic.render import RENDERERS
from .metrics import LONGER_SIDE_PX, auc25, mace

MOVING = ("FA", "OCT", "OCTA")  # kinds of pairs by the moving image beside CF; "OCT-FA" is a pair without CF
RIGHT_PX = 5.0  # mean corner error (longer side 768) up to which a registration counts as right
# confidence is the probability of a mean corner error up to this, the limit of "acceptable" for a median
FOUND_PX = 20.0
VALIDATION_SEED = 77_001  # never used for training or calibration
# any turn
USUAL, WIDE = PairOptions(scale=(0.5, 2.0), min_overlap=0.5), PairOptions(scale=(1 / 3, 3.0), min_overlap=0.25)


def modalities(kind: str) -> tuple[str, str]:
    """Fixed and moving modality of a kind of pairs: CF and FA of "FA", OCT and FA of "OCT-FA". ValueError for one that
    cannot be drawn."""
    fixed, _, moving = kind.rpartition("-")
    unknown = [name for name in (fixed or "CF", moving) if name not in RENDERERS]
    if unknown:
        raise ValueError(
            f"no modality {unknown[0]!r}; there are {', '.join(RENDERERS)}, and pairs of them such as OCT-FA"
        )
    return fixed or "CF", moving


@dataclass(frozen=True)
class Trial:
    """One registration of a synthetic pair. moving: its kind (`modalities`); error_px: mean corner error at 768, inf
    when refused; genuine: False for images of two eyes."""

    moving: str
    ok: bool
    error_px: float
    # error of the transform even if it was refused afterwards (of a quadratic then without that part); inf: none
    would_be_px: float
    confidence: float
    seconds: float
    genuine: bool
    evidence: dict


def run_trial(registrar: Registrar, pair: SamplePair, moving_image: np.ndarray | None = None) -> Trial:
    """Register one pair, or its fixed image with somebody else's moving image."""
    genuine = moving_image is None
    started = time.perf_counter()
    result = registrar(pair.fixed, pair.moving if genuine else moving_image)
    seconds = time.perf_counter() - started
    error = answer_px(result, pair) if genuine else np.inf
    tried = error if result.ok else error_px(result.H_tried, pair) if genuine else np.inf
    return Trial(kind_of(pair), result.ok, error, tried, result.confidence, seconds, genuine, result.evidence)


def error_px(H_1to0: np.ndarray | None, pair: SamplePair) -> float:
    """Mean corner error (px, fixed image's longer side 768); inf without a transform."""
    return (
        float("inf")
        if H_1to0 is None
        else mace(H_1to0, np.linalg.inv(pair.H_0to1), pair.moving.shape[:2], pair.fixed.shape[:2])
    )


def answer_px(result: Registration, pair: SamplePair) -> float:
    """`error_px` of a registration, its quadratic part included; inf when refused."""
    if not result.ok or result.quadratic is None:
        return error_px(result.H_1to0, pair)
    places = corners(result.moving_hw)
    apart = np.linalg.norm(result.map_to_fixed(places) - warp_points(places, np.linalg.inv(pair.H_0to1)), axis=1)
    return float(apart.mean()) * LONGER_SIDE_PX / max(result.fixed_hw)


def kind_of(pair: SamplePair) -> str:
    """The opposite of `modalities`."""
    fixed, moving = pair.modalities
    return moving if fixed == "CF" else f"{fixed}-{moving}"


def run_trials(
    registrar: Registrar,
    seed: int,
    per_kind: int,
    options: PairOptions = PairOptions(),
    impostors: bool = False,
    moving: Iterable[str] = MOVING,
    start: int = 0,
) -> Iterator[Trial]:
    """Yield trials on new pairs number ``start`` and on, one kind of ``moving`` after the other; with ``impostors``
    each pair but the first is followed by one trial on two different eyes: its fixed image with the moving image
    before."""
    for kind in moving:
        previous = None
        for index in range(start, start + per_kind):
            pair = draw_pair(seed, index, modalities(kind), options)
            yield run_trial(registrar, pair)
            if impostors and previous is not None:
                yield run_trial(registrar, pair, previous.moving)
            previous = pair


_worker_registrar: Registrar | None = None


def _start_worker(weights: str, device: str) -> None:
    global _worker_registrar
    _worker_registrar = Registrar.from_pretrained(weights, device)


def _run_chunk(seed, count, options, impostors, modality, start) -> list[Trial]:
    return list(run_trials(_worker_registrar, seed, count, options, impostors, (modality,), start))


def gather_trials(
    weights: str | Path,
    seed: int,
    per_kind: int,
    options: PairOptions = PairOptions(),
    impostors: bool = False,
    moving: Iterable[str] = MOVING,
    processes: int = 2,
    chunk: int = 10,
    device: str = "auto",
) -> list[Trial]:
    """The trials of `run_trials` on runs of ``chunk`` pairs (so the first pair of each has no impostor), spread over
    processes that share the threads of this one, or its GPU; the same whatever their number."""
    jobs = [
        (seed, min(chunk, per_kind - start), options, impostors, m, start)
        for m in moving
        for start in range(0, per_kind, chunk)
    ]
    with worker_pool(processes, _start_worker, str(weights), device) as pool:
        return [trial for trials in pool.map(_run_chunk, *zip(*jobs, strict=True)) for trial in trials]


def kept_trials(
    folder: str | Path, name: str, about: dict, gather: Callable[[], dict[str, list[Trial]]]
) -> dict[str, list[Trial]]:
    """Trials by method: those that an earlier call with equal ``about`` and code has left in the folder, or new ones,
    kept there in a JSON file of this name and a mark."""
    about = to_plain(about | {"code": code_version()})  # another search finds other evidence
    path = Path(folder) / f"{name} {hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]}.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))["trials"]
        revived = {
            name: [{k: np.inf if v is None else v for k, v in t.items()} for t in own] for name, own in kept.items()
        }
        return {name: [Trial(**t) for t in own] for name, own in revived.items()}
    trials = gather()
    write_json(path, {"about": about, "trials": {name: [asdict(t) for t in own] for name, own in trials.items()}})
    return trials


def summarise_trials(trials: list[Trial]) -> list[dict]:
    """One row per kind: n, success, share within 2 px, AUC25, accepted and wrong, accepted and beyond FOUND_PX,
    refused, median error (px at 768) and seconds. Of all pairs; what is refused counts as no success."""
    rows = []
    for kind in dict.fromkeys(t.moving for t in trials):
        own = [t for t in trials if t.moving == kind and t.genuine]
        error = np.array([t.error_px for t in own])
        rows.append(
            {
                "pair": "-".join(modalities(kind)),
                "n": len(own),
                "success": round(float((error <= RIGHT_PX).mean()), 3),
                "within_2px": round(float((error <= 2).mean()), 3),
                "auc25": round(auc25(error), 3),
                "wrong_accepted": round(float(np.mean([t.ok and t.error_px > RIGHT_PX for t in own])), 3),
                "far_accepted": round(float(np.mean([t.ok and t.error_px > FOUND_PX for t in own])), 3),
                "refused": round(float(np.mean([not t.ok for t in own])), 3),
                "median_px": round(float(np.median(error)), 2),
                "median_s": round(float(np.median([t.seconds for t in own])), 2),
            }
        )
    return rows


def print_table(rows: list[dict]) -> None:
    """Rows as aligned text, blank where a row lacks a column."""
    lines = [{k: str(row.get(k, "")) for k in dict.fromkeys(k for r in rows for k in r)} for row in rows]
    widths = {k: max(len(k), *(len(line[k]) for line in lines)) for k in lines[0]} if lines else {}
    for line in [{k: k for k in widths}, *lines]:
        print("  " + "  ".join(text.ljust(widths[k]) for k, text in line.items()))
