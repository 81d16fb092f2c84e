"""``make benchmark``: success, error and time on drawn pairs, ours beside OpenCV SIFT + MAGSAC on the same pairs; with --grid, ours beside
every rival over angle, scale and overlap."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from .calibration import FOUND_PX, calibration_error
from .checkpoints import find_weights
from .evaluation import MOVING, RIGHT_PX, USUAL, VALIDATION_SEED, WIDE, Trial, gather_trials, run_trial, summarise_trials
from .files import write_csv, write_json
from .grids import FACTORS, GRID_SEED, error_px, grid_jobs, method_rows, pivot, read_rows, run_grid, stage_rows, summarise
from .registration import Registrar
from .rivals import RIVALS, Rival, choose_rivals
from .samples import PairOptions, SamplePair, draw_pair
from .timing import cold_start, peak_memory_gb

UPRIGHT = PairOptions(rotation_deg=10.0, scale=(0.9, 1.1), min_overlap=0.7)
TABLES = {
    "upright": ("turn ±10°, scale 0.9–1.1, overlap ≥ 0.7", UPRIGHT),
    "usual": ("turn ±180°, scale 0.5–2, overlap ≥ 0.5", USUAL),
    "wide": ("turn ±180°, scale 0.33–3, overlap ≥ 0.25", WIDE),
}

# ------------------------------------------------------------------ tables


def compare(registrar: Registrar, options: PairOptions, per_modality: int, seed: int, moving: Sequence[str],
            rivals: Mapping[str, Rival]) -> list[dict]:  # fmt: skip
    """Rows of ours and the rivals per modality, all on the same pairs."""
    rows = []
    for modality in moving:
        trials: dict[str, list[Trial]] = {}
        for index in range(per_modality):
            pair = draw_pair(seed, index, ("CF", modality), options)
            trials.setdefault("retina_kp", []).append(run_trial(registrar, pair))
            for name, rival in rivals.items():
                trials.setdefault(name, []).append(run_rival(rival, pair))
        rows += [{"method": name, **summarise_trials(own)[0]} for name, own in trials.items()]
    return rows


def run_rival(rival: Rival, pair: SamplePair) -> Trial:
    """A rival's answer as a trial: it is sure whenever it has one."""
    started = time.perf_counter()
    H_1to0 = rival(pair.fixed, pair.moving)
    seconds, error = time.perf_counter() - started, error_px(H_1to0, pair)
    return Trial(pair.modalities[1], H_1to0 is not None, error, error, float(H_1to0 is not None), seconds, True, {})


def print_table(rows: list[dict]) -> None:
    """Rows of equal keys as aligned text."""
    widths = {k: max(len(k), *(len(str(r[k])) for r in rows)) for k in rows[0]}
    print("  " + "  ".join(k.ljust(w) for k, w in widths.items()))
    for row in rows:
        print("  " + "  ".join(str(row[k]).ljust(w) for k, w in widths.items()))


def print_tables(args, rivals: Mapping[str, Rival]) -> None:
    """The tables asked for, of ours alone or beside rivals."""
    registrar, moving = Registrar.from_pretrained(args.weights), args.moving.split(",")
    registrar(*[draw_pair(1, 1).fixed] * 2)  # the first call loads and plans
    gathered: list[Trial] = []
    for name in args.tables.split(","):
        title, options = TABLES[name]
        print(f"\n{name}: {title}, 768x768 px   (success = mean corner error ≤ {RIGHT_PX:g} px)", flush=True)
        if args.ours_only:
            trials = gather_trials(args.weights, args.seed, args.pairs, options, moving=moving, processes=args.processes)
            gathered += trials
            print_table(summarise_trials(trials))
        else:
            print_table(compare(registrar, options, args.pairs, args.seed, moving, rivals))
    if gathered:
        told = np.array([t.confidence for t in gathered])
        error = calibration_error(told, np.array([t.would_be_px <= FOUND_PX for t in gathered], float))
        print(f"\nexpected calibration error over these {len(told)} pairs: {error:.3f}   (right = mean corner error ≤ {FOUND_PX:g} px)")
    print(f"\npeak memory {peak_memory_gb():.2f} GB")


# ------------------------------------------------------------------ grids


def resume(folder: Path, settings: dict, rivals: Sequence[str], jobs: list) -> tuple[list[dict], list]:
    """Rows that a run with the same settings left in a folder, and the jobs that are still to do; ValueError when settings differ."""
    noted = folder / "settings.json"
    if noted.is_file() and json.loads(noted.read_text(encoding="utf-8")) != settings:
        raise ValueError(f"{folder} holds a run with other weights or another seed: name another folder with --out")
    write_json(noted, settings)
    rows = read_rows(folder / "trials.csv") if (folder / "trials.csv").is_file() else []
    done: dict[tuple, set] = {}
    for row in rows:
        done.setdefault((row["factor"], row["bin"], row["pair"], row["index"]), set()).add(row["method"])
    whole = {key for key, methods in done.items() if {"retina_kp", *rivals} <= methods}
    rest = [job for job in jobs if (job[0].factor, job[0].label, f"CF-{job[1]}", job[2]) not in whole]
    return [row for row in rows if (row["factor"], row["bin"], row["pair"], row["index"]) in whole], rest


def save_figures(folder: Path, rows: Sequence[Mapping], missing: Mapping[str, str], start: Mapping[str, float]) -> dict:
    """Write trials.csv, cells.csv and figures.json into a folder; returns what the last one holds: methods, cells, stages, cold start."""
    cells = summarise(rows, "factor", "bin", "pair", "method")
    found = {"methods": method_rows(rows, missing), "stages_s": stage_rows(rows), "cold_start": dict(start), "cells": cells}
    write_csv(folder / "trials.csv", rows)
    write_csv(folder / "cells.csv", cells)
    write_json(folder / "figures.json", found)
    return found


def run_grids(args, rivals: Mapping[str, Rival], missing: Mapping[str, str]) -> None:
    """Measure the grids asked for, keep every trial as it comes, print the tables."""
    factors, folder = list(FACTORS) if args.grid == "all" else args.grid.split(","), Path(args.out)
    jobs = grid_jobs([cell for factor in factors for cell in FACTORS[factor]()], args.pairs, args.moving.split(","))
    weights = hashlib.sha256(find_weights(args.weights).read_bytes()).hexdigest()[:12]
    rows, rest = resume(folder, {"weights": weights, "seed": args.seed}, list(rivals), jobs)
    print(f"{len(jobs)} pairs, {len(jobs) - len(rest)} of them measured before; each is kept in {folder / 'trials.csv'}", flush=True)
    for count, found in enumerate(run_grid(args.weights, list(rivals), rest, args.seed, args.processes), 1):
        rows += found
        if count % 10 == 0 or count == len(rest):
            write_csv(folder / "trials.csv", rows)
            print(f"{count} of {len(rest)}", flush=True)
    sample = draw_pair(args.seed, 0, ("CF", "FA"), UPRIGHT)
    figures = save_figures(folder, rows, missing, cold_start(args.weights, sample.fixed, sample.moving))
    for factor in factors:
        print(f"\n{factor}: success (AUC25), pairs per modality and bin: {args.pairs}")
        print_table(pivot(figures["cells"], factor))
    print("\nmethods, over all pairs")
    print_table(figures["methods"])
    print("\nseconds of retina_kp per stage")
    print_table(figures["stages_s"])
    print("\nnew process: " + ", ".join(f"{name} {value:.2f}" for name, value in figures["cold_start"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12, help="pairs per modality and table, or per cell of a grid")
    parser.add_argument("--tables", default="upright,usual", help=f"which tables: {', '.join(TABLES)}")
    parser.add_argument("--grid", default="", help="instead of tables, grids over: angle,scale,overlap, some of them, or all")
    parser.add_argument("--moving", default=",".join(MOVING), help="modalities of the moving image")
    parser.add_argument("--rivals", default="", help=f"of {', '.join(RIVALS)}; default: SIFT+MAGSAC for tables, all for grids")
    parser.add_argument("--ours-only", action="store_true", help="leave the rivals out")
    parser.add_argument(
        "--processes", type=int, default=1, help="for grids, and with --ours-only: processes that share the threads; times are then longer"
    )
    parser.add_argument("--out", default="outputs/benchmark", help="folder of a grid's results; a second call goes on with them")
    parser.add_argument("--weights", default="lite")
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args()
    args.seed = args.seed if args.seed is not None else GRID_SEED if args.grid else VALIDATION_SEED
    wanted = args.rivals.split(",") if args.rivals else [*RIVALS] if args.grid else ["SIFT+MAGSAC"]
    rivals, missing = choose_rivals([] if args.ours_only else wanted)
    where = f"{platform.machine()}, {torch.get_num_threads()} threads, {'cuda' if torch.cuda.is_available() else 'cpu'}"
    print(f"{where}, torch {torch.__version__}, OpenCV {cv2.__version__}")
    for name, why in missing.items():
        print(f"{name} left out: {why}")
    run_grids(args, rivals, missing) if args.grid else print_tables(args, rivals)


if __name__ == "__main__":
    main()
