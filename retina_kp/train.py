"""Train from a shell: ``python -m retina_kp.train lite`` trains the shipped weights again, phase after phase, resumable."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import torch

from .trainer import TrainConfig, Trainer

LITE = TrainConfig(steps_per_epoch=100, pool_size=600, validation_pairs=32)
RECIPES: dict[str, list[TrainConfig]] = {
    "lite": [
        replace(LITE, phase="warmup", epochs=4, curriculum_steps=400),
        replace(LITE, phase="geometric", epochs=16, seed=1, rise_steps=1, final_rate_ratio=0.02),
    ],
}  # fmt: skip


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--run-dir", default="", help="default: outputs/runs/train-<recipe>")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shorten", type=float, default=1.0, help="fraction of the steps, for trying out")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    run_recipe(args.recipe, args.run_dir or f"outputs/runs/train-{args.recipe}", args.device, args.shorten)


if __name__ == "__main__":
    main()
