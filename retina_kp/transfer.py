"""``make transfer``: what phase 4 brings on pictures of a look that training never showed, and what it forgets, with and without replay.

The clinic is `pseudo_real`: another renderer, points 2 px off, one in twenty of them anywhere. Everything is kept in one folder per weights
and code: a second call continues, a finished run is not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from .ablation import summarise_arms
from .checkpoints import find_weights, read_metadata
from .config import from_dict
from .evaluation import RIGHT_PX, print_table, run_trial, run_trials
from .files import write_csv, write_json
from .phases import TrainConfig
from .processes import from_one, worker_pool
from .pseudo_real import pseudo_real_pair, write_pseudo_real
from .registration import Registrar
from .runs import Settings, defaults, training_config
from .trainer import Trainer
from .versions import code_version

START = "before"  # phase 3's weights as they are
ARMS = {START: None, "phase 4": 0.8, "phase 4 without replay": 1.0}  # share of every batch that is pseudo-real
EYES, SIZE_PX = 40, 384
CLINIC_SEED, HELD_OUT_SEED, DRAWN_SEED = 500, 900, 77_004  # eyes to train on (one clinic per seed), eyes to measure on, drawn pairs
SHOWN = ("clinic", "drawn", "clinic_px", "drawn_px")


def arm_config(share: float, seed: int, steps: int, weights: str, clinic: Path) -> TrainConfig:
    """Phase 4 as notebook 04 trains it, from ``weights``, with this share of pseudo-real pairs in every batch."""
    own = {"epochs": max(steps // 100, 1), "steps_per_epoch": min(steps, 100), "image_size": SIZE_PX, "pool_size": 300, "precision": "bf16",
           "validation_pairs": 12, "seed": seed, "real_share": share, "data_root": str(clinic)}  # fmt: skip
    config = training_config("sim2real", from_dict(Settings, defaults("sim2real") | own))
    return replace(config, init_from=weights)


def run_arm(arm: str, seed: int, steps: int, pairs: int, weights: str, folder: Path) -> dict:
    """Train what is not trained yet, measure what is not measured yet; figures of one arm and seed."""
    measured = folder / f"{arm}, seed {seed}.json"
    if measured.is_file():
        return json.loads(measured.read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    checkpoint = find_weights(weights)
    if ARMS[arm] is not None:
        clinic = folder / f"clinic {seed}"
        if not (clinic / "operation_pre_filtered_cffa" / f"{EYES:03d}_02" / f"{EYES:03d}_02.txt").is_file():
            write_pseudo_real(clinic, 2 * EYES, CLINIC_SEED + seed)
        run_dir = folder / f"seed {seed}" / arm
        Trainer(arm_config(ARMS[arm], seed, steps, str(checkpoint), clinic), run_dir, "cpu").fit()
        checkpoint = run_dir / "checkpoint.safetensors"
    calibration = read_metadata(find_weights(weights)).get("calibration")
    write_json(measured, {"arm": arm, "seed": seed, **measure(checkpoint, seed, pairs, calibration)})
    return json.loads(measured.read_text(encoding="utf-8"))


def measure(checkpoint: Path, seed: int, pairs: int, calibration: dict | None) -> dict[str, float]:
    """Share of ``pairs`` held-out pseudo-real pairs and of as many drawn ones (turn ±180°, three kinds) whose best transform is right,
    refused or not, and the median error of those (px at 768). The search of every arm turns pictures and is guided by one calibration,
    that of the weights before: new ones have neither steerers nor a calibration."""
    registrar = Registrar.from_pretrained(checkpoint, device="cpu")
    registrar.calibration, registrar.steerers = calibration, None
    clinic = [run_trial(registrar, pseudo_real_pair(HELD_OUT_SEED + seed, k)) for k in range(pairs)]
    drawn = list(run_trials(registrar, DRAWN_SEED + seed, max(pairs // 3, 1)))
    figures = {}
    for name, trials in (("clinic", clinic), ("drawn", drawn)):
        errors = np.array([t.would_be_px for t in trials])
        right = errors <= RIGHT_PX
        figures |= {name: float(right.mean()), f"{name}_px": float(np.median(errors[right])) if right.any() else None}
    return figures


def _run_seed(seed: int, *how) -> list[dict]:
    return [run_arm(arm, seed, *how) for arm in ARMS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="lite", help="phase 3's: a shipped name or a checkpoint")
    parser.add_argument("--seeds", type=from_one, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pairs", type=from_one, default=72, help="of either domain to measure on")
    parser.add_argument("--processes", type=from_one, default=2)
    parser.add_argument("--folder", type=Path, default=Path("outputs/transfer"))
    args = parser.parse_args()
    if args.steps < 100 or args.steps % 100:
        parser.error(f"--steps: takes whole epochs of 100 steps, not {args.steps}")
    try:
        weights = find_weights(args.weights).read_bytes()
    except (ValueError, OSError) as error:
        parser.error(str(error))
    mark = hashlib.sha256(weights + code_version().encode()).hexdigest()[:10]
    folder = args.folder.absolute() / f"{args.steps} steps, {args.pairs} pairs, {mark}"
    with worker_pool(args.processes) as pool:
        jobs = [pool.submit(_run_seed, seed, args.steps, args.pairs, args.weights, folder) for seed in range(args.seeds)]
        rows = [row for job in jobs for row in job.result()]
    write_csv(folder / "transfer.csv", rows)
    table = summarise_arms(rows, SHOWN)
    write_json(folder / "transfer.json", table)
    print_table(table)


if __name__ == "__main__":
    main()
