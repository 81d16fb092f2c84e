"""``make ablation``: what each of the first three phases brings, measured on synthetic CF-FA pairs whose junctions are
only half annotated.

An arm is three stages of equal length; the learning rate falls in the last one. Arms that begin alike share those
stages. A sample comes back about twenty times in a stage; a mined point is promoted at its second find. Everything is
kept in one folder: a second call continues, a finished arm is not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..core.compute import from_one, worker_pool
from ..core.files import write_csv, write_json
from ..core.versions import code_version
from ..evaluation.metrics import RIGHT_PX
from ..evaluation.pairs import synthetic_pairs
from ..evaluation.runner import measure as measure_pairs
from ..evaluation.summary import as_text
from ..networks.checkpoints import load_network
from ..registration.keypoints import KeypointOptions, find_keypoints
from ..registration.registrar import Registrar
from ..synthetic.pairs import CLINICAL
from ..synthetic.training_pairs import SyntheticOptions
from ..training.config import TrainConfig
from ..training.objective import TRUE_RADIUS_PX
from ..training.pke import PkeOptions, mine
from ..training.trainer import Trainer, average
from ..training.validation import ValidationSet, mined_precision

BASE = TrainConfig(
    batch_size=6,
    precision="bf16",
    extra_points=96,
    pool_size=60,
    steps_per_epoch=100,
    validation_pairs=24,
    rise_steps=1,
    data=SyntheticOptions(
        size_px=192, fixed=("CF",), moving=("FA",), annotated_share=0.5, frames_per_retina=2, appearance=CLINICAL
    ),
    pke=PkeOptions(0.2, 0.2, promotion_value=2.0, demotion_value=1.0),
)
TRUTH = replace(BASE.data, annotated_share=1.0)  # validation knows every junction
LOOSE = "pke, content 0.95"  # a control: nearly any match confirms
ARMS = {
    "P1": ("warmup", "warmup", "warmup"),
    "P1+2": ("warmup", "geometric", "geometric"),
    "P1+2+3": ("warmup", "geometric", "pke"),
    "P1+2+3, content 0.95": ("warmup", "geometric", LOOSE),
    "P3 alone": ("pke", "pke", "pke"),
}
SHOWN = ("repeatability", "matching_score", "sure0", "sure1", "mined_per_image", "mined_precision", "success")
EVALUATION_SEED = 77_003


def stage_config(stages: tuple[str, ...], seed: int, steps: int, init_from: str) -> TrainConfig:
    """Configuration of the last of these stages."""
    name, last = stages[-1], len(stages) == 3
    pke = replace(BASE.pke, content_ratio_max=0.95) if name == LOOSE else BASE.pke
    length = {"steps_per_epoch": min(BASE.steps_per_epoch, steps), "epochs": max(steps // BASE.steps_per_epoch, 1)}
    alone = {"loss_mov": 0.0} if name == "geometric" else {}  # the phases as SuperRetina has them
    return replace(
        BASE,
        phase=name.split(",")[0],
        seed=10 * seed + len(stages),
        init_from=init_from,
        pke=pke,
        weights=alone,
        final_rate_ratio=0.05 if last else 1.0,
        **length,
    )


def run_arm(arm: str, seed: int, steps: int, pairs: int, folder: Path) -> dict:
    """Train what is not trained yet, measure what is not measured yet; figures of one arm and seed."""
    measured = folder / f"{arm}, seed {seed}.json"
    if measured.is_file():
        return json.loads(measured.read_text())
    torch.set_num_threads(1)
    checkpoint = ""
    for n in (1, 2, 3):
        stages = ARMS[arm][:n]
        run_dir = folder / f"seed {seed}" / " → ".join(stages)
        Trainer(stage_config(stages, seed, steps, str(checkpoint)), run_dir, "cpu").fit()
        checkpoint = run_dir / "checkpoint.safetensors"
    return json.loads(write_json(measured, {"arm": arm, "seed": seed, **measure(checkpoint, pairs)}).read_text())


@torch.inference_mode()
def measure(checkpoint: Path, pairs: int) -> dict[str, float]:
    """Detector and mining figures on validation crops (sure0, sure1: keypoints per image that are as probable as PKE
    asks), and success on whole pairs at any turn: share of ``pairs`` whose best transform is right, whatever the
    confidence says (it is not calibrated for these weights)."""
    network, _ = load_network(checkpoint)
    validation, sure = (
        ValidationSet.synthetic(48, TRUTH),
        KeypointOptions(min_probability=BASE.pke.candidate_min_probability),
    )
    rows = []
    for batch in validation.batches:
        hidden = batch | {"vessel_keypoints": torch.full_like(batch["vessel_keypoints"][:, :1], torch.nan)}
        outputs = [network(batch[f"image{k}"], batch[f"valid{k}"]) for k in (0, 1)]
        sure0, sure1 = (find_keypoints(output, batch[f"valid{k}"], sure) for k, output in enumerate(outputs))
        for i, points in enumerate(mine(*outputs, hidden, BASE.pke).points0_xy):
            precision = mined_precision(points, batch["true_keypoints"][i], TRUE_RADIUS_PX)
            rows.append(
                {
                    "mined_per_image": float(len(points)),
                    "mined_precision": precision,
                    "sure0": float(len(sure0[i][0])),
                    "sure1": float(len(sure1[i][0])),
                }
            )
    drawn = synthetic_pairs(EVALUATION_SEED, pairs, kinds=BASE.data.moving)
    right = measure_pairs(drawn, [Registrar(network, device="cpu")]).tried_px <= RIGHT_PX
    return validation.evaluate(network) | average(rows) | {"success": float(right.mean())}


def summarise_arms(rows: list[dict], shown: Sequence[str] = SHOWN) -> list[dict]:
    """One row per arm: mean ± standard deviation over the seeds."""
    table = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        values = {k: np.array([row[k] for row in own if row[k] is not None]) for k in shown}
        words = {k: f"{v.mean():.3g} ± {v.std():.2g}" if len(v) else "none" for k, v in values.items()}
        table.append({"arm": arm, "seeds": len(own), **words})
    return table


def _run_seed(seed: int, steps: int, pairs: int, folder: Path) -> list[dict]:
    return [run_arm(arm, seed, steps, pairs, folder) for arm in ARMS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=from_one, default=3)
    parser.add_argument("--steps", type=int, default=400, help="per stage; an arm has three")
    parser.add_argument("--pairs", type=from_one, default=48, help="whole pairs for the success")
    parser.add_argument("--processes", type=from_one, default=2)
    parser.add_argument("--folder", type=Path, default=Path("outputs/ablation"))
    args = parser.parse_args()
    if args.steps < 100 or args.steps % 100:
        parser.error(f"--steps: takes whole epochs of {BASE.steps_per_epoch} steps, not {args.steps}")
    folder = args.folder / f"{args.steps} steps, {args.pairs} pairs, {code_version()[:10]}"
    with worker_pool(args.processes) as pool:
        jobs = [pool.submit(_run_seed, seed, args.steps, args.pairs, folder) for seed in range(args.seeds)]
        rows = [row for job in jobs for row in job.result()]
    write_csv(folder / "ablation.csv", rows)
    table = summarise_arms(rows)
    write_json(folder / "ablation.json", table)
    print(as_text(table))


if __name__ == "__main__":
    main()
