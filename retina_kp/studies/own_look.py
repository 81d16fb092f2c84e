"""``make own-look``: what training on one's own folders brings, for pictures of a look that the shipped weights never
saw.

A simulated user owns 60 generated, aligned eyes with vessel masks (layout 1) and 24 real pairs with clicked points,
turned by 15 to 30 degrees (layout 2), of which 12 are held out. The look is that of `pseudo_real`, another renderer.
The network goes through the four phases, once from nothing and once from the shipped weights, and is measured after
each. Everything is kept in one folder per code: a second call continues.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch

from ..core.compute import from_one, worker_pool
from ..core.files import write_csv, write_json
from ..core.geometry import image_center, similarity
from ..core.versions import code_version
from ..evaluation.metrics import FOUND_PX, RIGHT_PX
from ..evaluation.pairs import SyntheticPair, synthetic_pairs
from ..evaluation.runner import measure as measure_pairs
from ..evaluation.summary import as_text
from ..networks.checkpoints import find_weights, read_metadata
from ..notebook.runs import NOTEBOOKS, Settings, plan
from ..registration.registrar import Registrar
from ..synthetic.pairs import SamplePair
from ..synthetic.pseudo_real import aligned_images, pseudo_real_pair, write_pseudo_generated, write_pseudo_real
from ..training.phases import PHASES
from ..training.recipes import get_recipe

GENERATED_EYES, REAL_PAIRS, HELD_OUT, TURN_DEG = 60, 12, 12, (15.0, 30.0)
SIZE_PX, REAL_SIZE_PX = 256, 384  # of training images in phases 1 to 3, and in phase 4
# + the trial's own
SEEDS = {"real": 500, "held out": 900, "generated": 300, "generated held out": 700, "drawn": 77_004}
# The recipe, and where it is too long for this the steps of each phase
ARMS: dict[str, tuple[str, dict[str, int]]] = {
    "from shipped": ("finetune", {}),
    "from nothing": ("lite", {"warmup": 300, "geometric": 1800, "pke": 300}),
}
BEFORE, EPOCH_STEPS = "before", 100
SHOWN = ("real", "real found", "generated", "drawn", "real px", "generated px", "drawn px")


def write_folders(folder: Path, seed: int) -> tuple[Path, Path]:
    """The user's two folders, written once."""
    generated, real, done = folder / "generated 眼底", folder / "real pairs", folder / "complete"
    if not done.is_file():
        write_pseudo_generated(generated, GENERATED_EYES, SEEDS["generated"] + seed)
        write_pseudo_real(real, REAL_PAIRS, SEEDS["real"] + seed, turn_deg=TURN_DEG)
        done.touch()
    return generated, real


def settings_of(arm: str, phase: str, seed: int, folder: Path, generated: Path, real: Path, shorten: float) -> Settings:
    """What the user would give notebook after notebook: a recipe, and where it is too long fewer steps."""
    recipe, shorter = ARMS[arm]
    steps = max(round(shorter.get(phase, get_recipe(recipe)[phase].total_steps) * shorten), 1)
    return Settings(
        recipe=recipe,
        epochs=max(steps // EPOCH_STEPS, 1),
        steps_per_epoch=min(steps, EPOCH_STEPS),
        image_size=SIZE_PX if phase != "sim2real" else REAL_SIZE_PX,
        data_root=str(real if phase == "sim2real" else generated),
        replay_root=str(generated) if phase == "sim2real" else "",
        validation_pairs=12,
        device="cpu",
        run_name="run",
        resume=True,
        seed=100 + 10 * seed + list(PHASES).index(phase),
        runs_root=str(folder / arm),
    )


def run_arm(arm: str, seed: int, folder: Path, pairs: int, shorten: float) -> list[dict]:
    """Train and measure what is not trained and measured yet; a row per phase."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    own = folder / f"seed {seed}"
    generated, real = write_folders(own, seed)
    rows = [_kept(own, arm, seed, BEFORE, find_weights("lite"), pairs)] if arm == "from shipped" else []
    for phase in PHASES:
        plan(phase, settings_of(arm, phase, seed, own, generated, real, shorten)).open().fit()
        checkpoint = own / arm / NOTEBOOKS[phase] / "run" / "checkpoint.safetensors"
        rows.append(_kept(own, arm, seed, phase, checkpoint, pairs))
    return rows


def _kept(own: Path, arm: str, seed: int, after: str, checkpoint: Path, pairs: int) -> dict:
    """The figures of a checkpoint, measured once."""
    path = own / f"{arm}, {after}.json"
    if not path.is_file():
        write_json(path, {"arm": arm, "after": after, "seed": seed, **measure(checkpoint, seed, pairs)})
    return json.loads(path.read_text(encoding="utf-8"))


def measure(checkpoint: Path, seed: int, pairs: int) -> dict[str, float | None]:
    """Share of held-out real pairs, of ``pairs`` held-out generated ones, turned at will, and of as many synthetic ones
    whose best transform, refused or not, is right (RIGHT_PX), of real ones also found (FOUND_PX), and the median error
    of the right ones (px at 768). Every turn is tried at like scale. All are guided by the shipped calibration and turn
    pictures, since new weights have neither a calibration nor steerers."""
    registrar = Registrar.from_pretrained(checkpoint, device="cpu", stages=1)
    registrar.calibration, registrar.steerers = read_metadata(find_weights("lite"))["calibration"], None
    sets = {
        "real": [SyntheticPair(given=pair) for pair in held_out_pairs(seed)],
        "generated": [SyntheticPair(given=generated_pair(seed, k)) for k in range(pairs)],
        "drawn": synthetic_pairs(SEEDS["drawn"] + seed, max(pairs // 3, 1)),
    }
    figures = {}
    for name, own in sets.items():
        errors = measure_pairs(own, [registrar]).tried_px.fillna(np.inf).to_numpy()
        right = errors <= RIGHT_PX
        figures |= {name: float(right.mean()), f"{name} px": float(np.median(errors[right])) if right.any() else None}
        figures[f"{name} found"] = float((errors <= FOUND_PX).mean())
    return figures


def held_out_pairs(seed: int) -> Iterator[SamplePair]:
    """The pairs that the user keeps for judging, of eyes that nothing was trained on."""
    return (pseudo_real_pair(SEEDS["held out"] + seed, k, turn_deg=TURN_DEG) for k in range(HELD_OUT))


def generated_pair(seed: int, index: int) -> SamplePair:
    """An aligned eye that was not trained on, its angiogram turned by any angle, scaled and shifted."""
    fixed, moving, mask = aligned_images(SEEDS["generated held out"] + seed, index)
    rng, hw = np.random.default_rng([seed, index, 12]), moving.shape
    center = np.array(image_center(hw))
    target = tuple(center + rng.uniform(-0.1, 0.1, 2) * hw[1])
    H = similarity(rng.uniform(-180, 180), float(np.exp(rng.uniform(-0.25, 0.25))), tuple(center), target)
    turned = cv2.warpPerspective(moving, H, hw[::-1], flags=cv2.INTER_LINEAR)
    everywhere = np.ones(hw, bool)
    return SamplePair(fixed, turned, H, mask > 0, np.zeros((0, 2)), everywhere, everywhere, ("CF", "FA"), 1.0)


def summarise_phases(rows: list[Mapping]) -> list[dict]:
    """One row per arm and phase: mean ± standard deviation over the seeds."""
    table = []
    for arm, after in dict.fromkeys((row["arm"], row["after"]) for row in rows):
        own = [row for row in rows if (row["arm"], row["after"]) == (arm, after)]
        values = {k: np.array([row[k] for row in own if row[k] is not None]) for k in SHOWN}
        words = {k: f"{v.mean():.3f} ± {v.std():.3f}" if len(v) else "none" for k, v in values.items()}
        table.append({"arm": arm, "after": after, "seeds": len(own), **words})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=from_one, default=3)
    parser.add_argument("--pairs", type=from_one, default=24, help="generated and synthetic pairs to measure on, each")
    parser.add_argument("--shorten", type=float, default=1.0, help="fraction of the steps, for trying out")
    parser.add_argument("--processes", type=from_one, default=2)
    parser.add_argument("--folder", type=Path, default=Path("outputs/own-look"))
    args = parser.parse_args()
    if not 0 < args.shorten <= 1:
        parser.error(f"--shorten: takes a fraction of the steps, above 0 and up to 1, not {args.shorten:g}")
    folder = args.folder.absolute() / f"{args.pairs} pairs, {args.shorten:g} of the steps, {code_version()[:10]}"
    with worker_pool(args.processes) as pool:
        order = [(arm, seed) for arm in ARMS for seed in range(args.seeds)]
        jobs = [pool.submit(run_arm, arm, seed, folder, args.pairs, args.shorten) for arm, seed in order]
        rows = [row for job in jobs for row in job.result()]
    write_csv(folder / "own_look.csv", rows)
    table = summarise_phases(rows)
    write_json(folder / "own_look.json", table)
    print(as_text(table))


if __name__ == "__main__":
    main()
