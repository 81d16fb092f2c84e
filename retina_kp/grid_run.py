"""Measuring the grids of the benchmark, for its command and for notebook 09: kept as it comes, continued, saved as figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .checkpoints import find_weights
from .config import differences
from .files import in_project, write_csv, write_json
from .grid_tables import MEASURES, method_rows, read_rows, stage_rows, summarise
from .grids import EASY, OURS, Cell, Job, angle_cells, crossed_cells, overlap_cells, place_of, run_grid, scale_cells
from .progress import progress
from .samples import PairOptions, draw_pair
from .timing import cold_start
from .versions import code_version

UPRIGHT = PairOptions(rotation_deg=10.0, scale=(0.9, 1.1), min_overlap=0.7)


@dataclass(frozen=True)
class BenchmarkSettings:
    """The parameters of notebook 09; see there for their meaning."""

    pairs_per_cell: int
    moving: list[str]
    angles: list[float]
    scales: list[float]
    overlaps: list[float]
    together: list[list[float]]
    rivals: list[str]
    measure: str
    weights: str
    image_size: int
    seed: int
    processes: int
    trials: str
    run_name: str

    def __post_init__(self):
        if self.measure not in MEASURES:
            raise ValueError(f"measure: no {self.measure!r}; there are {', '.join(MEASURES)}")
        if len(self.together) not in (0, 3):
            raise ValueError("together: takes three lists, of turns, scales and limits of overlap, or none")
        if self.pairs_per_cell < 1 or self.processes < 1:
            raise ValueError("pairs_per_cell and processes take whole numbers from 1")
        if self.trials and not in_project(self.trials).is_file():
            raise ValueError(f"trials: no file {in_project(self.trials)}")

    def cells(self) -> list[Cell]:
        """The places of the grids that are asked for."""
        easy = replace(EASY, size_px=self.image_size)
        single = angle_cells(self.angles, easy) + scale_cells(self.scales, easy) + overlap_cells(self.overlaps, easy)
        return single + (crossed_cells(*self.together, easy) if self.together else [])


def measure_grids(folder: Path, jobs: Sequence[Job], weights: str, rivals: Sequence[str], seed: int, processes: int) -> list[dict]:
    """Rows of ours and the rivals on the pairs of ``jobs``, kept in ``folder``/trials.csv as they come, and those that earlier calls with
    the same weights, seed, size and code have left there. ValueError when that differs."""
    sha256 = hashlib.sha256(find_weights(weights).read_bytes()).hexdigest()
    sizes = sorted({cell.options.size_px for cell, _, _ in jobs})
    rows, rest = resume(folder, {"weights": sha256, "seed": seed, "sizes_px": sizes, "code": code_version()}, rivals, jobs)
    print(f"{len(jobs)} pairs, {len(jobs) - len(rest)} of them measured before", flush=True)
    bar = progress(len(jobs), len(jobs) - len(rest), "pairs")
    for count, found in enumerate(run_grid(weights, list(rivals), rest, seed, processes), 1):
        rows += found
        if count % 10 == 0 or count == len(rest):
            write_csv(folder / "trials.csv", rows)
        bar.update()
    bar.close()
    return rows


def resume(folder: Path, settings: dict, rivals: Sequence[str], jobs: Sequence[Job]) -> tuple[list[dict], list[Job]]:
    """Rows that runs with the same settings left in a folder, and the jobs that are still to do: those of which a method is missing, whose
    rows are not returned unless another method made them. ValueError when settings differ."""
    noted, wanted = folder / "settings.json", {OURS, *rivals}
    if noted.is_file() and (differing := differences(json.loads(noted.read_text(encoding="utf-8")), settings)):
        raise ValueError(f"{folder} holds a run of another kind ({'; '.join(differing)}); choose another folder")
    write_json(noted, settings)
    rows = read_rows(folder / "trials.csv") if (folder / "trials.csv").is_file() else []
    done: dict[tuple, set] = {}
    for row in rows:
        done.setdefault(_place(row), set()).add(row["method"])
    rest = [job for job in jobs if not wanted <= done.get(place_of(job), set())]
    again = {place_of(job) for job in rest}
    return [row for row in rows if _place(row) not in again or row["method"] not in wanted], rest


def _place(row: Mapping) -> tuple:
    return row["factor"], row["bin"], row["pair"], row["index"]


def save_figures(folder: Path, rows: Sequence[Mapping], missing: Mapping[str, str], start: Mapping[str, float]) -> dict:
    """Write trials.csv, cells.csv and figures.json into a folder; returns what the last one holds: methods, cells, stages, cold start."""
    cells = summarise(rows, "factor", "bin", "pair", "method")
    found = {"methods": method_rows(rows, missing), "stages_s": stage_rows(rows), "cold_start": dict(start), "cells": cells}
    write_csv(folder / "trials.csv", rows)
    write_csv(folder / "cells.csv", cells)
    write_json(folder / "figures.json", found)
    return found


def start_figures(weights: str, seed: int) -> dict[str, float]:
    """`timing.cold_start` on an upright pair of 768 x 768 px, and on its fixed image with another eye's moving one."""
    own, other = (draw_pair(seed, index, ("CF", "FA"), UPRIGHT) for index in (0, 1))
    return cold_start(weights, own.fixed, own.moving, other.moving)
