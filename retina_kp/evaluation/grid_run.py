"""Measuring the grids of the benchmark, for its command and for notebook 09: kept as it comes, continued, saved as
figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.compute import progress
from ..core.config import differences
from ..core.files import in_project, write_csv, write_json
from ..core.versions import code_version
from ..networks.checkpoints import weights_sha256
from ..synthetic.pairs import PairOptions, draw_pair
from .grid_tables import MEASURES, method_rows, read_rows, stage_rows, summarise
from .grids import EASY, OURS, Cell, Job, angle_cells, crossed_cells, overlap_cells, place_of, run_grid, scale_cells
from .timing import cold_start

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
    baselines: list[str]
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


def measure_grids(
    folder: Path, jobs: Sequence[Job], weights: str, baselines: Sequence[str], seed: int, processes: int
) -> list[dict]:
    """Rows of ours and the baselines on the pairs of ``jobs``, in this order. All that is measured is kept in
    ``folder``/trials.csv as it comes; what earlier calls with the same weights, seed, size and code have left there is
    not measured again, nor lost. ValueError when the folder is another run's."""
    methods, sha256 = [OURS, *baselines], weights_sha256(weights)[:12]
    sizes = sorted({cell.options.size_px for cell, _, _ in jobs})
    rows = resume(folder, {"weights": sha256, "seed": seed, "sizes_px": sizes, "code": code_version()[:12]})
    done = {(*_place(row), row["method"]) for row in rows}
    missing = [(job, [name for name in methods if (*place_of(job), name) not in done]) for job in jobs]
    work = [(job, names) for job, names in missing if names]
    print(f"{len(jobs)} pairs, {len(jobs) - len(work)} of them measured before", flush=True)
    bar = progress(len(jobs), len(jobs) - len(work), "pairs")
    for count, found in enumerate(run_grid(weights, work, seed, processes), 1):
        rows += found
        if count % 10 == 0 or count == len(work):
            write_csv(folder / "trials.csv", rows)
        bar.update()
    bar.close()
    kept = {(*_place(row), row["method"]): row for row in rows}
    return [kept[(*place_of(job), name)] for job in jobs for name in methods]


def resume(folder: Path, settings: dict) -> list[dict]:
    """Rows that runs with the same settings left in a folder; ValueError when the settings differ, or are not known."""
    noted, trials = folder / "settings.json", folder / "trials.csv"
    before = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else {} if trials.is_file() else settings
    if differing := differences(before, settings):
        raise ValueError(
            f"{folder} holds another run ({'; '.join(differing)}): take another folder, with --out or run_name, or delete it"
        )
    write_json(noted, settings)
    return read_rows(trials) if trials.is_file() else []


def earlier_run(trials: str | Path) -> tuple[list[dict], dict[str, float]]:
    """The rows of a trials.csv of `measure_grids`, and the cold start that was measured with them; {} where no
    figures.json tells it."""
    figures = Path(trials).with_name("figures.json")
    return read_rows(trials), json.loads(figures.read_text(encoding="utf-8"))["cold_start"] if figures.is_file() else {}


def _place(row: Mapping) -> tuple:
    return row["factor"], row["bin"], row["pair"], row["index"]


def save_figures(folder: Path, rows: Sequence[Mapping], missing: Mapping[str, str], start: Mapping[str, float]) -> dict:
    """Write cells.csv and figures.json into a folder; returns what the latter holds: methods, cells, stages, cold
    start."""
    cells = summarise(rows, "factor", "bin", "pair", "method")
    found = {
        "methods": method_rows(rows, missing),
        "stages_s": stage_rows(rows),
        "cold_start": dict(start),
        "cells": cells,
    }
    write_csv(folder / "cells.csv", cells)
    write_json(folder / "figures.json", found)
    return found


def start_figures(weights: str, seed: int) -> dict[str, float]:
    """`timing.cold_start` on an upright pair of 768 x 768 px, and on its fixed image with another eye's moving one."""
    own, other = (draw_pair(seed, index, ("CF", "FA"), UPRIGHT) for index in (0, 1))
    return cold_start(weights, own.fixed, own.moving, other.moving)
