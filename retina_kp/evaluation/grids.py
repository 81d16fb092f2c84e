"""Grids of synthetic pairs on which the turn, the scale or the overlap gets harder, one at a time and all three
together, and what each method makes of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.compute import worker_pool
from ..core.geometry import describe
from ..registration.registrar import Registrar
from ..synthetic.pairs import PairOptions, draw_pair
from .baselines.classical import BASELINES, Baseline
from .timing import STAGES, timed_call
from .trials import MOVING, answer_px, error_px, modalities

OURS = "retina_kp"
GRID_SEED = 77_007  # never used for training or calibration
# What does not vary is easy; no shear, so that a method whose model is a similarity can reach the truth too.
EASY = PairOptions(rotation_deg=10.0, scale=(0.9, 1.1), min_overlap=0.7, shear=0.0)
WIDER_DEG, WIDER_MACULAR_DEG = (45.0, 55.0), (30.0, 40.0)  # fields of view of the wider image where scales differ
ANGLES = (0.0, 15.0, 30.0, 60.0, 90.0, 135.0, 180.0)  # deg, to either side
# size of a structure in the moving image over its size in the fixed one
SCALES = (1 / 3, 1 / 2, 1 / 1.5, 1.0, 1.5, 2.0, 3.0)
OVERLAPS = (0.25, 0.5, 0.75, 1.0)  # limits of bins: common area over the smaller field of view
# turns, scales, limits of overlap
CROSSED = ((0.0, 30.0, 90.0, 180.0), (1 / 3, 1 / 2, 1.0, 2.0, 3.0), (0.25, 0.5, 1.0))
TOGETHER, AND = "all three", ", "


@dataclass(frozen=True)
class Cell:
    """One place of a grid: factor is one of FACTORS; label names the bin, e.g. "90°", "1/2", "25–50 %", or all three,
    AND between them."""

    factor: str
    label: str
    options: PairOptions


def angle_cells(angles_deg: Iterable[float] = ANGLES, easy: PairOptions = EASY) -> list[Cell]:
    """Cells of exactly these turns."""
    return [
        Cell("angle", f"{angle:g}°", replace(easy, rotation_deg=angle, min_rotation_deg=angle))
        for angle in map(float, angles_deg)
    ]


def scale_cells(scales: Iterable[float] = SCALES, easy: PairOptions = EASY) -> list[Cell]:
    """Cells of exactly these scales. The wider image keeps a camera's usual field, the other one shows a part of it,
    enlarged."""
    cells = []
    for scale in map(float, scales):
        fixed, macular = (tuple(deg * min(scale, 1.0) for deg in wider) for wider in (WIDER_DEG, WIDER_MACULAR_DEG))
        label = f"{scale:.3g}" if scale >= 1 else f"1/{1 / scale:.3g}"
        cells.append(
            Cell("scale", label, replace(easy, scale=(scale, scale), fixed_field_deg=fixed, macular_field_deg=macular))
        )
    return cells


def overlap_cells(limits: Sequence[float] = OVERLAPS, easy: PairOptions = EASY) -> list[Cell]:
    """Cells between neighbouring limits; the least common area comes first."""
    cells = []
    for low, high in zip(limits[:-1], limits[1:], strict=True):
        shift = easy.max_shift if low >= 0.5 else 0.6  # so far apart do images with little in common lie
        label = f"{100 * low:g}–{100 * high:g} %"
        cells.append(Cell("overlap", label, replace(easy, min_overlap=low, max_overlap=high, max_shift=shift)))
    return cells


def crossed_cells(
    angles_deg: Iterable[float] = CROSSED[0],
    scales: Iterable[float] = CROSSED[1],
    limits: Sequence[float] = CROSSED[2],
    easy: PairOptions = EASY,
) -> list[Cell]:
    """Cells of every turn with every scale and every overlap."""
    cells = []
    for scale in scale_cells(scales, easy):
        for angle in angle_cells(angles_deg, scale.options):
            for overlap in overlap_cells(limits, angle.options):
                cells.append(Cell(TOGETHER, AND.join((angle.label, scale.label, overlap.label)), overlap.options))
    return cells


FACTORS = {"angle": angle_cells, "scale": scale_cells, "overlap": overlap_cells, TOGETHER: crossed_cells}

# ------------------------------------------------------------------ measuring

# a cell, a kind of pairs (`evaluation.modalities`), a pair's number; one number is one retina in all cells
Job = tuple[Cell, str, int]


def measure_pair(registrar: Registrar | None, baselines: Mapping[str, Baseline], job: Job, seed: int) -> list[dict]:
    """One row per method on a job's pair: error (mean corner error, px at 768; inf when the method finds nothing),
    seconds, and how hard the pair is; ours also seconds by stage, confidence, and tried_px: the error of what was found
    even if it was refused. Without a registrar only the baselines run."""
    cell, kind, index = job
    pair = draw_pair(seed, index, modalities(kind), cell.options)
    shape = describe(pair.H_0to1, pair.fixed.shape[:2])
    about = dict(zip(("factor", "bin", "pair", "index"), place_of(job), strict=True))
    truth = {"angle_deg": abs(shape.angle_deg), "scale": shape.scale, "overlap": pair.overlap}
    rows = []
    if registrar is not None:
        result, seconds = timed_call(registrar, pair.fixed, pair.moving)
        stages = {f"{stage}_s": seconds[stage] for stage in STAGES}
        sure = {
            "confidence": result.confidence,
            "tried_px": answer_px(result, pair) if result.ok else error_px(result.H_tried, pair),
        }
        rows.append(
            {"method": OURS, "error_px": answer_px(result, pair), "seconds": sum(seconds.values()), **sure, **stages}
        )
    for name, baseline in baselines.items():
        started = time.perf_counter()
        H_1to0 = baseline(pair.fixed, pair.moving)
        rows.append({"method": name, "error_px": error_px(H_1to0, pair), "seconds": time.perf_counter() - started})
    return [about | row | truth for row in rows]


def fits(row: Mapping, options: PairOptions) -> bool:
    """Whether a measured pair is as a cell's options ask: turn, scale and overlap within their limits."""
    turned = options.min_rotation_deg - 0.01 <= row["angle_deg"] <= options.rotation_deg + 0.01
    scaled = options.scale[0] * 0.999 <= row["scale"] <= options.scale[1] * 1.001
    return turned and scaled and options.min_overlap <= row["overlap"] <= options.max_overlap


def grid_jobs(cells: Iterable[Cell], pairs_per_cell: int, moving: Sequence[str] = MOVING) -> list[Job]:
    """Every pair to be measured. ValueError for a kind that cannot be drawn."""
    for kind in moving:
        modalities(kind)
    return [(cell, kind, index) for cell in cells for kind in moving for index in range(pairs_per_cell)]


def place_of(job: Job) -> tuple[str, str, str, int]:
    """What the rows of a job's pair say of it: factor, bin, pair, index."""
    cell, kind, index = job
    return cell.factor, cell.label, "-".join(modalities(kind)), index


def run_grid(
    weights: str | Path, work: Sequence[tuple[Job, Sequence[str]]], seed: int = GRID_SEED, processes: int = 1
) -> Iterator[list[dict]]:
    """Yield the rows of `measure_pair` for each job and its methods (OURS, or names of baselines), in order. With
    several processes, which share the threads of this one, the same rows come sooner, but their seconds are those of a
    busy machine."""
    if not work:
        return
    if processes == 1:
        _start_worker(str(weights))
        yield from (_run_job(job, methods, seed) for job, methods in work)
        return
    with worker_pool(processes, _start_worker, str(weights)) as pool:
        yield from pool.map(_run_job, *zip(*work, strict=True), [seed] * len(work))


_registrar: Registrar | None = None  # of this process


def _start_worker(weights: str) -> None:
    """Load a registrar and let it make its slow first call."""
    global _registrar
    _registrar = Registrar.from_pretrained(weights)
    _registrar(*[draw_pair(1, 1).fixed] * 2)


def _run_job(job: Job, methods: Sequence[str], seed: int) -> list[dict]:
    return measure_pair(
        _registrar if OURS in methods else None, {name: BASELINES[name] for name in methods if name != OURS}, job, seed
    )
