"""Train from a shell.

python -m retina_kp.cli.train --config run.yaml --run-dir outputs/runs/x   one phase: a `TrainConfig`, but its defaults
python -m retina_kp.cli.train lite                                         the shipped recipe, steerers and confidence

Both continue where they were interrupted. A phase runs on n devices too: accelerate launch -m retina_kp.cli.train
--config ..., with micro_batches a multiple of n. A recipe runs on one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from accelerate import PartialState

from ..core.compute import code_version, commit, share
from ..core.config import from_dict
from ..core.files import write_csv, write_json
from ..evaluation.calibration import publish
from ..training.config import ROUNDED, TrainConfig, get_recipe
from ..training.processes import is_main, read_history
from ..training.trainer import Trainer
from ..viz.training import keep_keypoint_figures

log = logging.getLogger(__name__)
PUBLISHED = ("lite", "full")  # recipes from nothing
STAGES = ("warmup", "geometric", "pke")  # of a recipe that ends in published weights; phase 4 needs somebody's pairs
LAST = {"lite": (ROUNDED,)}  # what follows them


def read_config(path: str | Path) -> TrainConfig:
    """A `TrainConfig` from YAML or JSON, for instance the config.json of a run; missing fields take their defaults.

    ValueError names the file, the field, what it takes and the nearest name."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = json.loads(text) if Path(path).suffix == ".json" else yaml.safe_load(text)
        return from_dict(TrainConfig, {} if values is None else values)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from None


def train_phase(
    config: TrainConfig, run_dir: str | Path, device: str = "auto", workers: int = 0, tensorboard: bool = False
) -> Path:
    """Train one phase to its end from wherever it was interrupted; returns its checkpoint."""
    on_epoch = None
    if tensorboard and is_main():
        from ..notebook.monitoring import tensorboard as open_tensorboard

        on_epoch = open_tensorboard(Path(run_dir))
    Trainer(config, run_dir, device, workers=workers, on_validation=keep_keypoint_figures).fit(on_epoch)
    return Path(run_dir) / "checkpoint.safetensors"


def run_recipe(name: str, run_dir: str | Path, device: str = "cpu", shorten: float = 1.0, **how) -> Path:
    """Run the phases of a recipe one after the other; finished phases are skipped, an interrupted one continues.

    shorten < 1 runs that fraction of the steps, for trying out; how: the other options of `train_phase`. Returns the
    last checkpoint. ValueError for an unknown recipe.
    """
    recipe, checkpoint = get_recipe(name), ""
    for place, config in enumerate((*(recipe[phase] for phase in STAGES), *LAST.get(name, ())), 1):
        steps = max(int(config.steps_per_epoch * shorten), 1)
        config = replace(config, steps_per_epoch=steps, init_from=str(checkpoint or config.init_from))
        checkpoint = train_phase(config, Path(run_dir) / f"{place}_{config.phase}", device, **how)
    return Path(checkpoint)


def history_of(run_dir: Path) -> list[dict]:
    """The epochs of all phases of a recipe's run, in their order."""
    paths = sorted(run_dir.glob("[0-9]*_*/history.csv"))
    return [{"stage": path.parent.name, **row} for path in paths for row in read_history(path)]


def train_recipe(args: argparse.Namespace) -> None:
    """Train a recipe, then calibrate and publish its weights."""
    run_dir = Path(args.run_dir or f"outputs/runs/train-{args.recipe}")
    how = {"workers": args.workers, "tensorboard": args.tensorboard}
    checkpoint = run_recipe(args.recipe, run_dir, args.device, args.shorten, **how)
    history = history_of(run_dir)
    write_csv(run_dir / "history.csv", history)
    minutes = sum(row["seconds_per_step"] * row["step"] / row["epoch"] for row in history) / 60  # of all sittings
    about = {
        "recipe": args.recipe,
        "shortened_to": args.shorten,
        "training_minutes": round(minutes, 1),
        "commit": commit(),
        "code": code_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    target = Path(args.target or run_dir / f"{args.recipe}.safetensors")
    log.info("fitting steerers, and the confidence on %d pairs per kind", args.calibration_pairs)
    metrics = publish(checkpoint, target, args.calibration_pairs, about, run_dir, args.device)
    write_json(run_dir / "published.json", {**about, **metrics})
    log.info("%s  %s", target, metrics)


def make_parser() -> argparse.ArgumentParser:
    how = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("retina_kp.cli.train", **how)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("recipe", nargs="?", choices=PUBLISHED)
    what.add_argument("--config", help="YAML or JSON file of a TrainConfig")
    add = parser.add_argument
    add("--run-dir", default="", help="default: outputs/runs/train-<name of the recipe or file>")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--workers", type=int, default=0, help="processes that prepare data; the result does not depend on it")
    add("--tensorboard", action="store_true", help="write scalars and pictures for TensorBoard into the run folder")
    add = parser.add_argument_group("of a recipe only").add_argument
    add("--shorten", type=share, default=1.0, help="fraction of the steps, for trying out")
    add("--target", default="", help="where the finished weights go; default: <run folder>/<recipe>.safetensors")
    add("--calibration-pairs", type=int, default=20, help="per kind and set")
    return parser


def main(argv: list[str] | None = None) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    level = logging.INFO if is_main() else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    if args.recipe:
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            parser.error("a recipe runs in one process, on one device; several train a phase each: --config")
        train_recipe(args)
    else:
        for name in ("shorten", "target", "calibration_pairs"):
            if getattr(args, name) != parser.get_default(name):
                option = name.replace("_", "-")
                parser.error(f"--{option} belongs to a recipe; with --config the number of steps is in the file")
        try:
            config = read_config(args.config)
        except ValueError as error:
            parser.error(str(error))
        run_dir = Path(args.run_dir or f"outputs/runs/train-{Path(args.config).stem}")
        checkpoint = train_phase(config, run_dir, args.device, args.workers, args.tensorboard)
        log.info("%s after %d steps: %s", config.phase, config.total_steps, checkpoint)
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
