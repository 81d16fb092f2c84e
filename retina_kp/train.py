"""Train from a shell: ``python -m retina_kp.train lite`` trains the shipped weights again, phase after phase, resumable, then calibrates
the confidence and writes retina_kp/weights/lite.safetensors."""

from __future__ import annotations

import argparse
import logging
import platform
import time
from dataclasses import replace
from pathlib import Path

import torch

from .augment import AppearanceRange
from .checkpoints import SHIPPED, load_network, save_network
from .evaluation import CALIBRATION_SEED, calibration_error, fit_calibration, gather_trials
from .files import write_json
from .phases import TrainConfig
from .registration import confidence
from .samples import PairOptions
from .trainer import Trainer

log = logging.getLogger(__name__)
LITE = TrainConfig(steps_per_epoch=250, pool_size=1000, validation_pairs=48, moving_weight=0.5, precision="bf16", extra_points=192)
RECIPES: dict[str, list[TrainConfig]] = {
    "lite": [
        replace(LITE, phase="warmup", epochs=2, curriculum_steps=500),
        replace(LITE, phase="geometric", epochs=22, seed=1, rise_steps=1, final_rate_ratio=0.02),
    ],
}
# The confidence is fitted where registration begins to fail: beyond the training range, harsh pictures, and images of two different eyes.
HARD_PAIRS = PairOptions(scale=(0.4, 2.5), min_overlap=0.25, appearance=AppearanceRange())


def run_recipe(name: str, run_dir: str | Path, device: str = "cpu", shorten: float = 1.0) -> Path:
    """Run the phases of a recipe one after the other; finished phases are skipped, an interrupted one continues.

    shorten < 1 runs that fraction of the steps, for trying out. Returns the last checkpoint. ValueError for an unknown recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}")
    checkpoint = ""
    for config in RECIPES[name]:
        steps = max(int(config.steps_per_epoch * shorten), 1)
        folder = Path(run_dir) / config.phase
        Trainer(replace(config, steps_per_epoch=steps, init_from=str(checkpoint)), folder, device).fit()
        checkpoint = folder / "checkpoint.safetensors"
    return Path(checkpoint)


def publish(checkpoint: str | Path, target: str | Path, pairs: int, about: dict) -> dict:
    """Calibrate the confidence on ``pairs`` drawn pairs per modality and as many impostors, write the weights in half precision with the
    calibration in their header, and return the calibration's figures."""
    network, metadata = load_network(checkpoint)
    trials = gather_trials(checkpoint, CALIBRATION_SEED, pairs, HARD_PAIRS, impostors=True)
    calibration = fit_calibration(trials)
    known = [t for t in trials if t.evidence]
    right = torch.tensor([t.would_be_px <= 5 for t in known]).float().numpy()
    sure = torch.tensor([confidence(t.evidence, calibration) for t in known]).numpy()
    figures = {"trials": len(trials), "judged": len(known), "right": int(right.sum())}
    figures["calibration_error"] = round(calibration_error(sure, right), 4)
    header = {"calibration": calibration, "calibration_figures": figures, "phase": metadata.get("phase"), **about}
    save_network(target, network, header, half=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--run-dir", default="", help="default: outputs/runs/train-<recipe>")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shorten", type=float, default=1.0, help="fraction of the steps, for trying out")
    parser.add_argument("--target", default="", help="where the finished weights go; default: retina_kp/weights/<recipe>.safetensors")
    parser.add_argument("--calibration-pairs", type=int, default=100, help="per modality")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    run_dir, started = Path(args.run_dir or f"outputs/runs/train-{args.recipe}"), time.time()
    checkpoint = run_recipe(args.recipe, run_dir, args.device, args.shorten)
    about = {"recipe": args.recipe, "shortened_to": args.shorten, "seconds_this_run": round(time.time() - started),
             "machine": platform.machine(), "threads": torch.get_num_threads()}  # fmt: skip
    target = Path(args.target or SHIPPED / f"{args.recipe}.safetensors")
    log.info("calibrating the confidence on %d pairs per modality", args.calibration_pairs)
    figures = publish(checkpoint, target, args.calibration_pairs, about)
    write_json(run_dir / "published.json", {**about, **figures})
    log.info("%s  %s", target, figures)


if __name__ == "__main__":
    main()
