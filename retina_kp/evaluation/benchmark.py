"""``retina-kp benchmark``: success, error and time on synthetic pairs, ours beside other methods on the same pairs.
Every row is kept as soon as it is measured; a second call goes on."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import click
import cv2
import pandas as pd
import torch

from ..core.compute import choose_device
from ..core.files import in_project, read_json, write_csv, write_json
from ..networks.checkpoints import find_weights
from ..synthetic.cameras import RoundOptions
from ..synthetic.pairs import ULTRAWIDE, PairOptions, draw_pair
from .calibration import calibration_error
from .methods import BASELINES, Function, Ours, choose_baselines
from .metrics import FOUND_PX, RIGHT_PX
from .pairs import AND, AS_TAKEN, EASY, FACTORS, GRID_SEED, MOVING, TOGETHER, grid_pairs, modalities, synthetic_pairs
from .runner import measure
from .summary import SYNTHETIC, as_text, summarise
from .timing import STAGES, cold_start

OURS = "retina_kp"
VALIDATION_SEED = 77_001  # of tables; never used for training or calibration
TABLES = {
    "upright": PairOptions(rotation_deg=10.0, scale=(0.9, 1.1), min_overlap=0.7),
    "usual": PairOptions(scale=(0.5, 2.0), min_overlap=0.5),
    "wide": PairOptions(scale=(1 / 3, 3.0), min_overlap=0.25),
    "round": PairOptions(scale=(0.5, 2.0), min_overlap=0.5, eye=RoundOptions()),
    "deformed": PairOptions(scale=(0.5, 2.0), min_overlap=0.5, eye=RoundOptions(deformation_px=(0.0, 6.0))),
    "ultrawide": ULTRAWIDE,
}
TOLD = f"{', '.join(TABLES)}; the last three of round eyes, judged all over the overlap"
MEASURES = {"success": f"registered within {RIGHT_PX:g} px", "auc25": "AUC25", "within_2px": "registered within 2 px"}


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

    def cells(self) -> list:
        """The places of the grids that are asked for."""
        wanted = {"angle": [self.angles], "scale": [self.scales], "overlap": [self.overlaps], TOGETHER: self.together}
        easy = replace(EASY, size_px=self.image_size)
        return [cell for factor, values in wanted.items() if values for cell in FACTORS[factor](*values, easy)]


# ------------------------------------------------------------------ measuring


def measure_beside(folder: Path, pairs: list, weights: str, baselines: list[Function], processes: int) -> pd.DataFrame:
    """Rows of ours and of baselines; all that was ever measured is kept in rows.jsonl of the folder."""
    return measure(pairs, [Ours(OURS, weights), *baselines], folder, processes)


def start_seconds(weights: str, seed: int) -> dict[str, float]:
    """`timing.cold_start` on an upright pair of 768 x 768 px, and on its fixed image with another eye's moving one."""
    own, other = (draw_pair(seed, index, ("CF", "FA"), TABLES["upright"]) for index in (0, 1))
    return cold_start(weights, own.fixed, own.moving, other.moving)


def save_tables(folder: Path, rows: pd.DataFrame, missing: Mapping[str, str], start: Mapping[str, float]) -> dict:
    """Write trials.csv (the rows), cells.csv and summary.json; returns the tables, and the cold start."""
    cells = _summary(rows, "factor", "bin", "kind", "method")
    found = {"methods": method_table(rows, missing), "stages_s": stage_table(rows), "cells": cells}
    columns = ["factor", "bin", "kind", "index", "eye", "method", "outcome", "mean_px", "tried_px", "confidence"]
    columns += ["seconds", *(f"{stage}_s" for stage in STAGES), "angle_deg", "scale", "overlap"]
    write_csv(folder / "trials.csv", rows.reindex(columns=columns))
    write_csv(folder / "cells.csv", cells)
    records = {name: table.to_dict("records") for name, table in found.items()}
    write_json(folder / "summary.json", {**records, "cold_start": dict(start)})
    return {**found, "cold_start": dict(start)}


def earlier_run(trials: str | Path) -> tuple[pd.DataFrame, dict[str, float]]:
    """The rows of a trials.csv, and the cold start that was measured with them; {} where no summary.json tells it."""
    rows = pd.read_csv(trials, dtype={"factor": str, "bin": str, "eye": str}).assign(stress=AS_TAKEN)
    summary = Path(trials).with_name("summary.json")
    return rows, read_json(summary)["cold_start"] if summary.is_file() else {}


# ------------------------------------------------------------------ tables


def _summary(rows: pd.DataFrame, *by: str) -> pd.DataFrame:
    return summarise(rows, by, SYNTHETIC).drop(columns=["eyes", "inlier_rate"], errors="ignore").round(3)


def pivot(cells: pd.DataFrame, factor: str) -> pd.DataFrame:
    """One row per kind of pair and method, one column per bin of a factor: "success (AUC25)"."""
    own = cells[cells.factor == factor]
    own = own.assign(text=[f"{s:.2f} ({a:.2f})" for s, a in zip(own.success, own.auc25, strict=True)])
    table = own.pivot_table("text", ["kind", "method"], "bin", aggfunc="first", sort=False)
    return table.reset_index().rename_axis(columns=None)


def crossed_table(cells: pd.DataFrame, score: str = "success") -> pd.DataFrame:
    """One row per method, overlap and turn of TOGETHER, one column per scale: a score over pairs of all kinds."""
    own = cells[cells.factor == TOGETHER]
    if not len(own):
        return own
    parts = pd.DataFrame(own.bin.str.split(AND).tolist(), columns=["turn", "scale", "overlap"], index=own.index)
    own = own.assign(**parts, hits=own[score] * own.pairs)
    for name in ("method", "overlap", "turn", "scale"):  # in order of appearance
        own[name] = pd.Categorical(own[name], own[name].unique())
    sums = own.pivot_table(["hits", "pairs"], ["method", "overlap", "turn"], "scale", "sum", observed=True)
    table = (sums["hits"] / sums["pairs"]).round(3)
    return table.set_axis(table.columns.astype(str), axis=1).reset_index().rename_axis(columns=None)


def method_table(rows: pd.DataFrame, missing: Mapping[str, str]) -> pd.DataFrame:
    """One row per method over all cells: success per factor, AUC25 and seconds; methods that could not run say why."""
    whole = _summary(rows, "method").set_index("method")
    success = _summary(rows, "method", "factor").pivot(index="method", columns="factor", values="success")
    success = success[list(rows.factor.unique())].add_prefix("success, ")
    table = whole[["pairs"]].join(success).join(whole[["auc25", "wrong", "failed", "seconds"]]).assign(note="")
    absent = {name: f"left out: {why}" for name, why in missing.items() if name not in table.index}
    notes = pd.DataFrame({"note": absent}, dtype=object).reindex(columns=table.columns)
    return (pd.concat([table.astype(object), notes]) if absent else table).rename_axis("method").reset_index()


def stage_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds of each stage of ours, per bin; those of TOGETHER are one bin."""
    own = rows[rows.method == OURS]
    own = own.assign(bin=own.bin.where(own.factor != TOGETHER, "all"))
    groups = own.rename(columns={f"{stage}_s": stage for stage in STAGES}).groupby(["factor", "bin"], sort=False)
    return groups.size().rename("pairs").to_frame().join(groups[list(STAGES)].mean().round(3)).reset_index()


# ------------------------------------------------------------------ the command


def run_tables(args, baselines: Sequence[Function]) -> None:
    """Measure and print the tables asked for, of ours alone or beside baselines."""
    judged = []
    for name in args.tables:
        o = TABLES[name]
        asked = f"turn ±{o.rotation_deg:g}°, scale {o.scale[0]:.2g}–{o.scale[1]:g}, overlap ≥ {o.min_overlap:g}"
        where = "all over the overlap" if o.eye else "at the corners"
        print(f"\n{name}: {asked}, 768x768 px   (success = mean error ≤ {RIGHT_PX:g} px {where})", flush=True)
        pairs = synthetic_pairs(args.seed, args.pairs, o, args.moving, ("table", name))
        rows = measure_beside(args.out, pairs, args.weights, baselines, args.processes)
        print(as_text(_summary(rows, "kind", "method")))
        judged.append(rows[rows.method == OURS])
    ours = pd.concat(judged)
    off = calibration_error(ours.confidence, ours.tried_px <= FOUND_PX)
    print(f"\n{OURS}: expected calibration error over these {len(ours)} pairs: {off:.3f}   (right = ≤ {FOUND_PX:g} px)")


def run_grids(args, baselines: Sequence[Function], missing: Mapping[str, str], start: Mapping[str, float]) -> None:
    """Measure the grids asked for, print and save the tables."""
    cells = [cell for factor in args.grid for cell in FACTORS[factor]()]
    pairs = grid_pairs(cells, args.pairs, args.moving, args.seed)
    rows = measure_beside(args.out, pairs, args.weights, baselines, args.processes)
    found = save_tables(args.out, rows, missing, start)
    for factor in args.grid:
        table = crossed_table(found["cells"]) if factor == TOGETHER else pivot(found["cells"], factor)
        print(f"\n{factor}: success{'' if factor == TOGETHER else ' (AUC25)'}, pairs per kind and cell: {args.pairs}")
        print(as_text(table))
    print(f"\nmethods, over all pairs\n{as_text(found['methods'])}")
    print(f"\nseconds of {OURS} per stage\n{as_text(found['stages_s'])}")
    print(f"\nin pictures: retina-kp report 09_benchmark -p trials {args.out / 'trials.csv'}")


def names(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip().removeprefix("CF-") for part in text.split(",") if part.strip()))


def checked(given: Mapping) -> SimpleNamespace:
    """The command's options, with the defaults that depend on others. ValueError for names that there are not."""
    args = SimpleNamespace(**given)
    usual = (12, VALIDATION_SEED, ["SIFT+MAGSAC"]) if args.tables else (2, GRID_SEED, list(BASELINES))
    args.pairs, args.seed = args.pairs or usual[0], usual[1] if args.seed is None else args.seed
    args.baselines = [] if args.ours_only else args.baselines or usual[2]
    for name, known in (("grid", FACTORS), ("tables", TABLES)):
        if unknown := [given for given in getattr(args, name) if given not in known]:
            raise ValueError(f"--{name}: no {unknown[0]!r}; there are {', '.join(known)}")
    if not args.moving or not (args.grid or args.tables):
        raise ValueError("--moving and --grid take at least one name")
    find_weights(args.weights), choose_baselines(args.baselines), [modalities(kind) for kind in args.moving]
    return args


@click.command()
@click.option("--grid", type=names, default=",".join(FACTORS), show_default=True, help="Which grids.")
@click.option("--tables", type=names, default="", help=f"Instead of grids pairs at any turn: {TOLD}.")
@click.option("--pairs", type=click.IntRange(1), help="Per kind and table [12], or per kind and cell of a grid [2].")
@click.option("--moving", type=names, default=",".join(MOVING), show_default=True, help="Beside CF; or as OCT-FA.")
@click.option("--baselines", type=names, help=f"Of {', '.join(BASELINES)} [SIFT+MAGSAC for tables, all for grids].")
@click.option("--ours-only", is_flag=True, help="Leave the baselines out.")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Times grow with them.")
@click.option("--out", type=Path, default="outputs/benchmark", show_default=True, help="Folder of the results.")
@click.option("--weights", default="lite", show_default=True, help="A shipped name or a checkpoint.")
@click.option("--seed", type=int, help="Of the pairs.")
def benchmark(**given) -> None:
    """Measure success and time on synthetic pairs.

    Grids of turn, scale and overlap, or tables of pairs at any turn: --tables usual,wide --pairs 500. Rows are kept as
    soon as they are measured: a second call goes on. Names are parted by commas.
    """
    args = checked(given)
    baselines, missing = choose_baselines(args.baselines)
    machine = f"{platform.machine()}, {choose_device('auto').type}, {torch.get_num_threads()} threads"
    print(f"{machine}, torch {torch.__version__}, OpenCV {cv2.__version__}")
    print("".join(f"{name} left out: {why}\n" for name, why in missing.items()), end="")
    start = start_seconds(args.weights, args.seed)
    run_tables(args, baselines) if args.tables else run_grids(args, baselines, missing, start)
    print("\na new process: " + ", ".join(f"{name} {value:.2f}" for name, value in start.items()))
