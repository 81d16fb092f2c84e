"""``make benchmark``: success, error and time on synthetic pairs over turn, scale and overlap, ours beside other
methods on the same pairs.

python -m retina_kp.evaluation.benchmark                                                              the grids
python -m retina_kp.evaluation.benchmark --tables usual,wide --pairs 500 --ours-only --processes 2    instead tables of pairs at any turn
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch

from ..core.compute import choose_device
from ..networks.checkpoints import find_weights, weights_sha256
from ..registration.registrar import Registrar
from ..synthetic.pairs import PairOptions, SamplePair, draw_pair
from .baselines.classical import BASELINES, Baseline, choose_baselines
from .calibration import calibration_error
from .grid_run import UPRIGHT, measure_grids, save_figures, start_figures
from .grid_tables import crossed_rows, pivot
from .grids import FACTORS, GRID_SEED, OURS, TOGETHER, grid_jobs
from .trials import (
    FOUND_PX,
    MOVING,
    RIGHT_PX,
    USUAL,
    VALIDATION_SEED,
    WIDE,
    Trial,
    error_px,
    gather_trials,
    kept_trials,
    kind_of,
    modalities,
    print_table,
    run_trial,
    summarise_trials,
)

TABLES = {
    "upright": ("turn ±10°, scale 0.9–1.1, overlap ≥ 0.7", UPRIGHT),
    "usual": ("turn ±180°, scale 0.5–2, overlap ≥ 0.5", USUAL),
    "wide": ("turn ±180°, scale 0.33–3, overlap ≥ 0.25", WIDE),
}


def print_start(figures: Mapping[str, float]) -> None:
    """`start_figures` in a line."""
    print("\na new process: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()))


# ------------------------------------------------------------------ tables


def compare(
    registrar: Registrar, options: PairOptions, pairs: int, seed: int, kind: str, baselines: Mapping[str, Baseline]
) -> dict[str, list[Trial]]:
    """Trials of ours and the baselines, all on the same pairs of a kind."""
    trials: dict[str, list[Trial]] = {}
    for index in range(pairs):
        pair = draw_pair(seed, index, modalities(kind), options)
        trials.setdefault(OURS, []).append(run_trial(registrar, pair))
        for name, baseline in baselines.items():
            trials.setdefault(name, []).append(run_baseline(baseline, pair))
    return trials


def run_baseline(baseline: Baseline, pair: SamplePair) -> Trial:
    """A baseline's answer as a trial: it is sure whenever it has one."""
    started = time.perf_counter()
    H_1to0 = baseline(pair.fixed, pair.moving)
    seconds, error = time.perf_counter() - started, error_px(H_1to0, pair)
    return Trial(kind_of(pair), H_1to0 is not None, error, error, float(H_1to0 is not None), seconds, True, {})


def table_trials(args, name: str, kind: str, baselines: Mapping[str, Baseline]) -> dict[str, list[Trial]]:
    """Trials by method on the pairs of a kind in a table, kept in a file of --out."""
    options, weights = TABLES[name][1], find_weights(args.weights)

    def gather() -> dict[str, list[Trial]]:
        if not baselines:
            return {
                OURS: gather_trials(weights, args.seed, args.pairs, options, moving=(kind,), processes=args.processes)
            }
        registrar = Registrar.from_pretrained(weights)
        registrar(*[draw_pair(1, 1).fixed] * 2)  # the first call loads and plans
        return compare(registrar, options, args.pairs, args.seed, kind, baselines)

    about = {
        "weights_sha256": weights_sha256(weights),
        "seed": args.seed,
        "pairs": args.pairs,
        "kind": kind,
        "options": asdict(options),
        "baselines": list(baselines),
        "processes": args.processes,
    }
    return kept_trials(Path(args.out) / "tables", f"{name} {'-'.join(modalities(kind))}", about, gather)


def print_tables(args, baselines: Mapping[str, Baseline]) -> None:
    """The tables asked for, of ours alone or beside baselines."""
    judged = []
    for name in args.tables:
        print(f"\n{name}: {TABLES[name][0]}, 768x768 px   (success = mean corner error ≤ {RIGHT_PX:g} px)", flush=True)
        found = [table_trials(args, name, kind, baselines) for kind in args.moving]
        print_table(
            [{"method": method, **summarise_trials(own)[0]} for trials in found for method, own in trials.items()]
        )
        judged += [trial for trials in found for trial in trials[OURS]]
    told, right = np.array([t.confidence for t in judged]), np.array([t.would_be_px <= FOUND_PX for t in judged], float)
    off = calibration_error(told, right)
    print(
        f"\n{OURS}: expected calibration error over these {len(told)} pairs: {off:.3f}   (right = mean corner error ≤ {FOUND_PX:g} px)"
    )
    print(f"every trial: {Path(args.out) / 'tables'}")
    print_start(start_figures(args.weights, args.seed))


# ------------------------------------------------------------------ grids


def run_grids(args, baselines: Mapping[str, Baseline], missing: Mapping[str, str]) -> None:
    """Measure the grids asked for, print the tables."""
    folder, jobs = (
        Path(args.out),
        grid_jobs([cell for factor in args.grid for cell in FACTORS[factor]()], args.pairs, args.moving),
    )
    try:
        rows = measure_grids(folder, jobs, args.weights, list(baselines), args.seed, args.processes)
    except ValueError as error:
        sys.exit(str(error))
    figures = save_figures(folder, rows, missing, start_figures(args.weights, args.seed))
    for factor in args.grid:
        if factor == TOGETHER:
            print(f"\nturn, scale and overlap together: success, pairs per kind and cell: {args.pairs}")
            print_table(crossed_rows(figures["cells"]))
        else:
            print(f"\n{factor}: success (AUC25), pairs per kind and bin: {args.pairs}")
            print_table(pivot(figures["cells"], factor))
    print("\nmethods, over all pairs")
    print_table(figures["methods"])
    print("\nseconds of retina_kp per stage")
    print_table(figures["stages_s"])
    print_start(figures["cold_start"])
    print(f"\nin pictures: retina-kp report 09_benchmark -p trials {folder / 'trials.csv'}")


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments, checked; lists are lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="all", help=f"which grids: {', '.join(FACTORS)}; or all")
    parser.add_argument("--tables", default="", help=f"instead of grids: {', '.join(TABLES)}")
    parser.add_argument(
        "--pairs", type=int, default=0, help="per kind and table (12), or per kind and cell of a grid (2)"
    )
    parser.add_argument("--moving", default=",".join(MOVING), help="moving images beside CF, or pairs such as OCT-FA")
    parser.add_argument(
        "--baselines", default="", help=f"of {', '.join(BASELINES)}; default: SIFT+MAGSAC for tables, all for grids"
    )
    parser.add_argument("--ours-only", action="store_true", help="leave the baselines out")
    parser.add_argument(
        "--processes", type=int, default=1, help="side by side, of grids and with --ours-only; times are then longer"
    )
    parser.add_argument("--out", default="outputs/benchmark", help="folder of results; a second call goes on with them")
    parser.add_argument("--weights", default="lite")
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args(argv)
    grids = not args.tables
    args.grid, args.tables, args.moving, args.baselines = (
        _split(text) for text in (args.grid, args.tables, args.moving, args.baselines)
    )
    args.grid = list(FACTORS) if args.grid == ["all"] else args.grid
    args.moving = list(dict.fromkeys(kind.removeprefix("CF-") for kind in args.moving))
    args.baselines = [] if args.ours_only else args.baselines or ([*BASELINES] if grids else ["SIFT+MAGSAC"])
    args.pairs, args.seed = (
        args.pairs or (2 if grids else 12),
        args.seed if args.seed is not None else GRID_SEED if grids else VALIDATION_SEED,
    )
    for name, known in (("grid", FACTORS), ("tables", TABLES)):
        if unknown := [given for given in getattr(args, name) if given not in known]:
            parser.error(f"--{name}: no {unknown[0]!r}; there are {', '.join(known)}")
    if args.pairs < 1 or args.processes < 1 or not args.moving or (grids and not args.grid):
        parser.error("--pairs and --processes take whole numbers from 1, --moving and --grid at least one name")
    try:
        find_weights(args.weights), choose_baselines(args.baselines), [modalities(kind) for kind in args.moving]
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return args


def _split(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def main() -> None:
    args = read_arguments()
    baselines, missing = choose_baselines(args.baselines)
    device = choose_device("auto").type
    print(
        f"{platform.machine()}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}, OpenCV {cv2.__version__}"
    )
    for name, why in missing.items():
        print(f"{name} left out: {why}")
    print_tables(args, baselines) if args.tables else run_grids(args, baselines, missing)


if __name__ == "__main__":
    main()
