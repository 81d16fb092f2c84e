"""Grids of drawn pairs on which one thing gets harder at a time (the turn, the scale, the overlap), and what each method makes of them."""

from __future__ import annotations

import csv
import multiprocessing
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from .evaluation import MOVING, RIGHT_PX
from .geometry import describe
from .metrics import auc25, mace
from .processes import end_with_parent
from .registration import Registrar
from .rivals import RIVALS, Rival
from .samples import PairOptions, SamplePair, draw_pair
from .timing import STAGES, timed_call

OURS = "retina_kp"
GRID_SEED = 77_007  # never used for training or calibration
# What does not vary is easy; no shear, so that a method whose model is a similarity can reach the truth too.
EASY = PairOptions(rotation_deg=10.0, scale=(0.9, 1.1), min_overlap=0.7, shear=0.0)
WIDER_DEG, WIDER_MACULAR_DEG = (45.0, 55.0), (30.0, 40.0)  # fields of view of the wider image where scales differ
ANGLES = (0.0, 15.0, 30.0, 60.0, 90.0, 135.0, 180.0)  # deg, to either side
SCALES = (1 / 3, 1 / 2, 1 / 1.5, 1.0, 1.5, 2.0, 3.0)  # size of a structure in the moving image over its size in the fixed one
OVERLAPS = (0.25, 0.5, 0.75, 1.0)  # limits of bins: common area over the smaller field of view


@dataclass(frozen=True)
class Cell:
    """One place of a grid: factor is "angle", "scale" or "overlap"; label names the bin, e.g. "90°", "1/2", "25–50 %"."""

    factor: str
    label: str
    options: PairOptions


def angle_cells(angles_deg: Iterable[float] = ANGLES, easy: PairOptions = EASY) -> list[Cell]:
    """Cells of exactly these turns."""
    return [Cell("angle", f"{angle:g}°", replace(easy, rotation_deg=angle, min_rotation_deg=angle)) for angle in map(float, angles_deg)]


def scale_cells(scales: Iterable[float] = SCALES, easy: PairOptions = EASY) -> list[Cell]:
    """Cells of exactly these scales. The wider image keeps a camera's usual field, the other one shows a part of it, enlarged."""
    cells = []
    for scale in map(float, scales):
        fixed, macular = (tuple(deg * min(scale, 1.0) for deg in wider) for wider in (WIDER_DEG, WIDER_MACULAR_DEG))
        label = f"{scale:.3g}" if scale >= 1 else f"1/{1 / scale:.3g}"
        cells.append(Cell("scale", label, replace(easy, scale=(scale, scale), fixed_field_deg=fixed, macular_field_deg=macular)))
    return cells


def overlap_cells(limits: Sequence[float] = OVERLAPS, easy: PairOptions = EASY) -> list[Cell]:
    """Cells between neighbouring limits; the least common area comes first."""
    cells = []
    for low, high in zip(limits[:-1], limits[1:], strict=True):
        shift = easy.max_shift if low >= 0.5 else 0.6  # so far apart do images with little in common lie
        label = f"{100 * low:g}–{100 * high:g} %"
        cells.append(Cell("overlap", label, replace(easy, min_overlap=low, max_overlap=high, max_shift=shift)))
    return cells


FACTORS = {"angle": angle_cells, "scale": scale_cells, "overlap": overlap_cells}

# ------------------------------------------------------------------ measuring


def measure_pair(registrar: Registrar | None, rivals: Mapping[str, Rival], cell: Cell, modality: str, index: int, seed: int) -> list[dict]:
    """One row per method on pair number ``index`` of a cell: error (mean corner error, px at 768; inf when the method finds nothing),
    seconds, and how hard the pair is; ours also seconds by stage, confidence, and tried_px: the error of what was found even if it
    was refused. Without a registrar only the rivals run."""
    pair = draw_pair(seed, index, ("CF", modality), cell.options)
    shape = describe(pair.H_0to1, pair.fixed.shape[:2])
    about = {"factor": cell.factor, "bin": cell.label, "pair": f"CF-{modality}", "index": index}
    truth = {"angle_deg": abs(shape.angle_deg), "scale": shape.scale, "overlap": pair.overlap}
    rows = []
    if registrar is not None:
        result, seconds = timed_call(registrar, pair.fixed, pair.moving)
        stages = {f"{stage}_s": seconds[stage] for stage in STAGES}
        sure = {"confidence": result.confidence, "tried_px": error_px(result.H_tried, pair)}
        rows.append({"method": OURS, "error_px": error_px(result.H_1to0, pair), "seconds": sum(seconds.values()), **sure, **stages})
    for name, rival in rivals.items():
        started = time.perf_counter()
        H_1to0 = rival(pair.fixed, pair.moving)
        rows.append({"method": name, "error_px": error_px(H_1to0, pair), "seconds": time.perf_counter() - started})
    return [about | row | truth for row in rows]


def fits(row: Mapping, options: PairOptions) -> bool:
    """Whether a measured pair is as a cell's options ask: turn, scale and overlap within their limits."""
    turned = options.min_rotation_deg - 0.01 <= row["angle_deg"] <= options.rotation_deg + 0.01
    scaled = options.scale[0] * 0.999 <= row["scale"] <= options.scale[1] * 1.001
    return turned and scaled and options.min_overlap <= row["overlap"] <= options.max_overlap


def error_px(H_1to0: np.ndarray | None, pair: SamplePair) -> float:
    """Mean corner error (px, fixed image's longer side 768); inf without a transform."""
    return float("inf") if H_1to0 is None else mace(H_1to0, np.linalg.inv(pair.H_0to1), pair.moving.shape[:2], pair.fixed.shape[:2])


def grid_jobs(cells: Iterable[Cell], pairs_per_cell: int, moving: Sequence[str] = MOVING) -> list[tuple[Cell, str, int]]:
    """Every (cell, modality of the moving image, pair number). One number is one retina in all cells. ValueError for an odd modality."""
    unknown = [modality for modality in moving if modality not in MOVING]
    if unknown:
        raise ValueError(f"no moving modality {unknown[0]!r}; there are {', '.join(MOVING)}")
    return [(cell, modality, index) for cell in cells for modality in moving for index in range(pairs_per_cell)]


def run_grid(weights: str | Path, rivals: Sequence[str], jobs: Sequence[tuple[Cell, str, int]], seed: int = GRID_SEED,
             processes: int = 1) -> Iterator[list[dict]]:  # fmt: skip
    """Yield the rows of `measure_pair` job by job, in order. weights: "" leaves ours out. With several processes, which share the threads
    of this one, the same rows come sooner, but their seconds are those of a busy machine."""
    if processes == 1:
        methods = _methods(weights, rivals)
        yield from (measure_pair(*methods, *job, seed) for job in jobs)
        return
    threads, context = max(1, torch.get_num_threads() // processes), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start_worker, (str(weights), list(rivals), threads)) as pool:
        yield from pool.map(_run_job, jobs, [seed] * len(jobs))


def _methods(weights: str | Path, rivals: Sequence[str]) -> tuple[Registrar | None, dict[str, Rival]]:
    """A registrar that has made its slow first call, and the rivals."""
    registrar = Registrar.from_pretrained(weights) if weights else None
    if registrar is not None:
        registrar(*[draw_pair(1, 1).fixed] * 2)
    return registrar, {name: RIVALS[name] for name in rivals}


_worker: tuple[Registrar | None, dict[str, Rival]] | None = None


def _start_worker(weights: str, rivals: Sequence[str], threads: int) -> None:
    global _worker
    end_with_parent()
    torch.set_num_threads(threads)
    _worker = _methods(weights, rivals)


def _run_job(job: tuple[Cell, str, int], seed: int) -> list[dict]:
    return measure_pair(*_worker, *job, seed)


# ------------------------------------------------------------------ summing up


def _share(values) -> float:
    return round(float(np.mean(values)), 3)


def figures(rows: Sequence[Mapping]) -> dict:
    """n, success (error ≤ 5 px), AUC25, within 2 px, wrong (a transform beyond 5 px), none (no transform), median error and seconds."""
    errors = np.array([row["error_px"] for row in rows], float)
    return {"n": len(rows), "success": _share(errors <= RIGHT_PX), "auc25": round(auc25(errors), 3), "within_2px": _share(errors <= 2),
            "wrong": _share(np.isfinite(errors) & (errors > RIGHT_PX)), "none": _share(np.isinf(errors)),
            "median_px": round(float(np.median(errors)), 2),
            "median_s": round(float(np.median([row["seconds"] for row in rows])), 2)}  # fmt: skip


def summarise(rows: Sequence[Mapping], *keys: str) -> list[dict]:
    """`figures` of the rows that agree in these keys, in order of first appearance."""
    groups: dict[tuple, list] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [dict(zip(keys, group, strict=True)) | figures(own) for group, own in groups.items()]


def pivot(cells: Sequence[Mapping], factor: str) -> list[dict]:
    """One row per pair of modalities and method, one column per bin of a factor: "success (AUC25)"; cells come from
    `summarise(rows, "factor", "bin", "pair", "method")`."""
    table: dict[tuple, dict] = {}
    for cell in cells:
        if cell["factor"] == factor:
            line = table.setdefault((cell["pair"], cell["method"]), {"pair": cell["pair"], "method": cell["method"]})
            line[cell["bin"]] = f"{cell['success']:.2f} ({cell['auc25']:.2f})"
    return sorted(table.values(), key=lambda line: line["pair"])


def method_rows(rows: Sequence[Mapping], missing: Mapping[str, str]) -> list[dict]:
    """One row per method over all cells: success per factor, AUC25 and seconds; methods that could not run say why."""
    table = []
    for summary in summarise(rows, "method"):
        own = [row for row in rows if row["method"] == summary["method"]]
        success = {f"success, {part['factor']}": part["success"] for part in summarise(own, "factor")}
        table.append({"method": summary["method"], "pairs": summary["n"], **success,
                      **{key: summary[key] for key in ("auc25", "wrong", "none", "median_s")}, "note": ""})  # fmt: skip
    absent = {name: why for name, why in missing.items() if name not in [line["method"] for line in table]}
    columns = table[0] if table else {}
    return table + [{**dict.fromkeys(columns), "method": name, "note": f"left out: {why}"} for name, why in absent.items()]


def stage_rows(rows: Sequence[Mapping]) -> list[dict]:
    """Mean seconds of each stage of ours, per bin."""
    own = [row for row in rows if row["method"] == OURS]
    table = []
    for cell in summarise(own, "factor", "bin"):
        same = [row for row in own if (row["factor"], row["bin"]) == (cell["factor"], cell["bin"])]
        means = {stage: round(float(np.mean([row[f"{stage}_s"] for row in same])), 3) for stage in STAGES}
        table.append({"factor": cell["factor"], "bin": cell["bin"], "n": cell["n"], **means})
    return table


def read_rows(path: str | Path) -> list[dict]:
    """Rows as `files.write_csv` wrote them; numbers are numbers again, empty cells are left out."""
    words = {"factor", "bin", "pair", "method"}
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = [{k: v if k in words else float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
    return [row | {"index": int(row["index"])} for row in rows]
