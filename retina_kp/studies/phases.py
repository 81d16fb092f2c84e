"""What the training phases bring: two studies, each kept in one folder per code, where a second call goes on.

ablation   what each of the first three phases brings, on synthetic CF-FA pairs whose junctions are half annotated. An
           arm is three stages of equal length; the learning rate falls in the last one. Arms share equal beginnings.
own-look   what training on one's own folders brings, for a look that the shipped weights never saw. A simulated user
           owns aligned eyes with vessel masks and real pairs with clicked points. The network goes through the four
           phases, from nothing and from the shipped weights, and is measured after each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from ..core.compute import code_version, from_one, share, worker_pool
from ..core.files import read_json, write_csv, write_json
from ..core.geometry import image_center, similarity
from ..evaluation.metrics import FOUND_PX, RIGHT_PX
from ..evaluation.pairs import SyntheticPair, synthetic_pairs
from ..evaluation.runner import measure
from ..evaluation.summary import as_text
from ..networks.checkpoints import find_weights, load_network, read_metadata
from ..notebook.runs import NOTEBOOKS, Settings, plan
from ..registration.confidence import checked
from ..registration.keypoints import KeypointOptions, find_keypoints
from ..registration.registrar import Registrar
from ..synthetic.pairs import CLINICAL, SamplePair
from ..synthetic.pseudo_real import aligned_images, pseudo_real_pair, write_pseudo_generated, write_pseudo_real
from ..synthetic.training_pairs import SyntheticOptions
from ..training.config import TrainConfig, get_recipe
from ..training.losses import PHASES
from ..training.pke import PkeOptions, mine, mined_precision
from ..training.processes import average
from ..training.run_data import ValidationSet
from ..training.trainer import Trainer


def kept(path: Path, about: dict, make: Callable[..., dict], *arguments) -> dict:
    """A row of a study, measured once."""
    if not path.is_file():
        write_json(path, about | make(*arguments))
    return read_json(path)


def summarise(rows: list[dict], by: list[str], shown: Sequence[str], form: str) -> pd.DataFrame:
    """One row per arm, and phase: mean ± standard deviation over the seeds."""
    groups = pd.DataFrame(rows).astype(dict.fromkeys(shown, float)).groupby(by, sort=False)
    table = groups[[*shown]].agg(lambda v: form.format(v.mean(), v.std(ddof=0)) if v.notna().any() else "none")
    table.insert(0, "seeds", groups.size())
    return table.reset_index()


MADE = {"fixed": ("CF",), "moving": ("FA",), "frames_per_retina": 2, "appearance": CLINICAL}
BASE = TrainConfig(precision="bf16", extra_points=96, pool_size=60, steps_per_epoch=100, rise_steps=1)
BASE = replace(BASE, data=SyntheticOptions(size_px=192, annotated_share=0.5, **MADE))
BASE = replace(BASE, pke=PkeOptions(0.2, 0.2, promotion_value=2.0, demotion_value=1.0))
TRUTH = replace(BASE.data, annotated_share=1.0)  # validation knows every junction
LOOSE = "pke, content 0.95"  # a control: nearly any match confirms
STAGES = {
    "P1": ("warmup", "warmup", "warmup"),
    "P1+2": ("warmup", "geometric", "geometric"),
    "P1+2+3": ("warmup", "geometric", "pke"),
    "P1+2+3, content 0.95": ("warmup", "geometric", LOOSE),
    "P3 alone": ("pke", "pke", "pke"),
}
SHOWN = ("repeatability", "matching_score", "sure0", "sure1", "mined_per_image", "mined_precision", "success")
ABLATION_SEED = 77_003


def stage_config(stages: tuple[str, ...], seed: int, steps: int, init_from: str) -> TrainConfig:
    """Configuration of the last of these stages."""
    name, fall = stages[-1], 0.05 if len(stages) == 3 else 1.0
    pke = replace(BASE.pke, content_ratio_max=0.95) if name == LOOSE else BASE.pke
    length = {"steps_per_epoch": min(BASE.steps_per_epoch, steps), "epochs": max(steps // BASE.steps_per_epoch, 1)}
    alone = {"loss_mov": 0.0} if name == "geometric" else {}  # the phases as SuperRetina has them
    how = {"phase": name.split(",")[0], "seed": 10 * seed + len(stages), "init_from": init_from, "weights": alone}
    return replace(BASE, pke=pke, final_rate_ratio=fall, **how, **length)


def train_and_measure(arm: str, seed: int, steps: int, pairs: int, folder: Path) -> dict:
    """Train the stages of an arm that are not trained yet, and measure the last one."""
    torch.set_num_threads(1)
    checkpoint = ""
    for n in (1, 2, 3):
        run_dir = folder / f"seed {seed}" / " → ".join(STAGES[arm][:n])
        Trainer(stage_config(STAGES[arm][:n], seed, steps, str(checkpoint)), run_dir, "cpu").fit()
        checkpoint = run_dir / "checkpoint.safetensors"
    return measure_stage(checkpoint, pairs)


def run_ablation(seed: int, steps: int, pairs: int, folder: Path, arms: Sequence[str] = tuple(STAGES)) -> list[dict]:
    """The rows of some arms, one after the other: they share stages."""
    how = (seed, steps, pairs, folder)
    places = {arm: folder / f"{arm}, seed {seed}.json" for arm in arms}
    return [kept(path, {"arm": arm, "seed": seed}, train_and_measure, arm, *how) for arm, path in places.items()]


@torch.inference_mode()
def measure_stage(checkpoint: Path, pairs: int) -> dict[str, float]:
    """Detector and mining metrics on validation crops (sure0, sure1: keypoints per image as probable as PKE asks), and
    success: share of ``pairs`` at any turn whose best transform is right, whatever the confidence says."""
    network, validation, rows = load_network(checkpoint)[0], ValidationSet.synthetic(48, TRUTH), []
    sure = KeypointOptions(min_probability=BASE.pke.candidate_min_probability)
    for batch in validation.batches:
        hidden = batch | {"vessel_keypoints": torch.full_like(batch["vessel_keypoints"][:, :1], torch.nan)}
        outputs = [network(batch[f"image{k}"], batch[f"valid{k}"]) for k in (0, 1)]
        found = [find_keypoints(output, batch[f"valid{k}"], sure) for k, output in enumerate(outputs)]
        for i, points in enumerate(mine(*outputs, hidden, BASE.pke).points0_xy):
            row = {
                "mined_precision": mined_precision(points, batch["true_keypoints"][i]),
                "mined_per_image": len(points),
            }
            rows.append(row | {f"sure{k}": len(found[k][i][0]) for k in (0, 1)})
    whole = synthetic_pairs(ABLATION_SEED, pairs, kinds=BASE.data.moving)
    success = float((measure(whole, [Registrar(network, device="cpu")]).tried_px <= RIGHT_PX).mean())
    return validation.evaluate(network) | average(rows) | {"success": success}


GENERATED_EYES, REAL_PAIRS, HELD_OUT, TURN_DEG = 60, 12, 12, (15.0, 30.0)
SIZE_PX, REAL_SIZE_PX = 256, 384  # of training images in phases 1 to 3, and in phase 4
SEEDS = {"real": 500, "held out": 900, "generated": 300, "generated held out": 700, "synthetic": 77_004}
# The recipe, and where it is too long for this the steps of each phase
ARMS: dict[str, tuple[str, dict[str, int]]] = {
    "from shipped": ("finetune", {}),
    "from nothing": ("lite", {"warmup": 300, "geometric": 1800, "pke": 300}),
}
BEFORE, EPOCH_STEPS = "before", 100
SHOWN_LOOK = ("real", "real found", "generated", "synthetic", "real px", "generated px", "synthetic px")


def write_folders(folder: Path, seed: int) -> tuple[Path, Path]:
    """The user's two folders, written once."""
    generated, real, done = folder / "generated 眼底", folder / "real pairs", folder / ".complete"
    if not done.is_file():
        write_pseudo_generated(generated, GENERATED_EYES, SEEDS["generated"] + seed)
        write_pseudo_real(real, REAL_PAIRS, SEEDS["real"] + seed, turn_deg=TURN_DEG)
        done.touch()
    return generated, real


def settings_of(arm: str, phase: str, seed: int, folder: Path, generated: Path, real: Path, shorten: float) -> Settings:
    """What the user would give notebook after notebook: a recipe, and where it is too long fewer steps."""
    recipe, shorter = ARMS[arm]
    steps = max(round(shorter.get(phase, get_recipe(recipe)[phase].total_steps) * shorten), 1)
    roots = {"data_root": str(generated), "image_size": SIZE_PX}
    if phase == "sim2real":
        roots = {"data_root": str(real), "replay_root": str(generated), "image_size": REAL_SIZE_PX}
    length = {
        "epochs": max(steps // EPOCH_STEPS, 1),
        "steps_per_epoch": min(steps, EPOCH_STEPS),
        "validation_pairs": 12,
    }
    named = {"run_name": "run", "resume": True, "runs_root": str(folder / arm), "device": "cpu"}
    return Settings(recipe=recipe, seed=100 + 10 * seed + list(PHASES).index(phase), **roots, **length, **named)


def run_own_look(arm: str, seed: int, shorten: float, pairs: int, folder: Path) -> list[dict]:
    """Train and measure what is not trained and measured yet; a row per phase."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    own, rows = folder / f"seed {seed}", []
    folders = write_folders(own, seed)
    for after in (BEFORE, *PHASES) if arm == "from shipped" else PHASES:
        checkpoint = find_weights("lite")
        if after != BEFORE:
            plan(after, settings_of(arm, after, seed, own, *folders, shorten)).open().fit()
            checkpoint = own / arm / NOTEBOOKS[after] / "run" / "checkpoint.safetensors"
        about = {"arm": arm, "after": after, "seed": seed}
        rows.append(kept(own / f"{arm}, {after}.json", about, measure_look, checkpoint, seed, pairs))
    return rows


def measure_look(checkpoint: Path, seed: int, pairs: int) -> dict[str, float | None]:
    """Of held-out real pairs, ``pairs`` generated and a third as many synthetic ones: the shares that are right
    (RIGHT_PX) and found (FOUND_PX), refused or not, and the right ones' median error (px at 768). Every turn is tried
    by turned pictures, with the shipped calibration: new weights have no steerers and no fit."""
    registrar = Registrar.from_pretrained(checkpoint, device="cpu", stages=1)
    registrar.calibration, registrar.steerers = checked(read_metadata(find_weights("lite"))["calibration"]), None
    sets = {
        "real": [SyntheticPair(given=pair) for pair in held_out_pairs(seed)],
        "generated": [SyntheticPair(given=generated_pair(seed, k)) for k in range(pairs)],
        "synthetic": synthetic_pairs(SEEDS["synthetic"] + seed, max(pairs // 3, 1)),
    }
    metrics = {}
    for name, own in sets.items():
        errors = measure(own, [registrar]).tried_px.fillna(np.inf).to_numpy()
        right = errors <= RIGHT_PX
        metrics |= {name: float(right.mean()), f"{name} px": float(np.median(errors[right])) if right.any() else None}
        metrics[f"{name} found"] = float((errors <= FOUND_PX).mean())
    return metrics


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


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("ablation", "own-look"))
    parser.add_argument("--seeds", type=from_one, default=3)
    parser.add_argument("--steps", type=int, default=400, help="of the ablation: per stage; an arm has three")
    parser.add_argument("--shorten", type=share, default=1.0, help="of own-look: fraction of the steps, for trying out")
    parser.add_argument("--pairs", type=from_one, default=0, help="to measure on; default: 48, and 24 of own-look")
    parser.add_argument("--processes", type=from_one, default=2)
    parser.add_argument("--folder", type=Path, help="default: outputs/<study>")
    args = parser.parse_args(words)
    if args.steps < 100 or args.steps % 100:
        parser.error(f"--steps: takes whole epochs of {BASE.steps_per_epoch} steps, not {args.steps}")
    if args.study == "ablation":
        length, pairs, calls = args.steps, args.pairs or 48, [partial(run_ablation, seed) for seed in range(args.seeds)]
        of, told = f"{length} steps, {pairs} pairs", (["arm"], SHOWN, "{:.3g} ± {:.2g}")
    else:
        length, pairs = args.shorten, args.pairs or 24
        calls = [partial(run_own_look, arm, seed) for arm in ARMS for seed in range(args.seeds)]
        of, told = f"{pairs} pairs, {length:g} of the steps", (["arm", "after"], SHOWN_LOOK, "{:.3f} ± {:.3f}")
    folder = (args.folder or Path("outputs") / args.study).absolute() / f"{of}, {code_version()[:10]}"
    with worker_pool(args.processes) as pool:
        jobs = [pool.submit(call, length, pairs, folder) for call in calls]
        rows = [row for job in jobs for row in job.result()]
    table, name = summarise(rows, *told), args.study.replace("-", "_")
    write_csv(folder / f"{name}.csv", rows)
    write_json(folder / f"{name}.json", table.to_dict("records"))
    print(as_text(table))


if __name__ == "__main__":
    main()
