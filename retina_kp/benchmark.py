"""``make benchmark``: success, error and time on drawn pairs, ours beside OpenCV SIFT + MAGSAC on the same pairs."""

from __future__ import annotations

import argparse
import platform
import resource
import time
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from .evaluation import MOVING, RIGHT_PX, VALIDATION_SEED, gather_trials, run_trial, summarise_trials
from .images import to_gray
from .keypoints import Features
from .matching import fit_transform, mutual_matches
from .metrics import mace
from .registration import Registrar
from .samples import PairOptions, SamplePair, draw_pair

UPRIGHT = PairOptions(rotation_deg=10.0, scale=(0.9, 1.1), min_overlap=0.7)


def sift_magsac(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """The classical baseline: SIFT on equalised images, mutual matches with ratio 0.9, MAGSAC affine; H_1to0 or None."""
    features = []
    for image in (fixed, moving):
        gray = cv2.createCLAHE(4.0, (8, 8)).apply((to_gray(image) * 255).astype(np.uint8))
        points, descriptors = cv2.SIFT_create(2000).detectAndCompute(gray, None)
        if descriptors is None or len(points) < 4:
            return None
        unit = descriptors / np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-9)
        features.append(Features(np.array([p.pt for p in points], np.float32), np.ones(len(points)), unit, gray.shape))
    index = mutual_matches(*features, ratio_max=0.9)
    fit = fit_transform(features[0].keypoints_xy[index[:, 0]], features[1].keypoints_xy[index[:, 1]], "affine", 3.0)
    return None if fit is None else fit.H_1to0


def compare(registrar: Registrar, options: PairOptions, per_modality: int, seed: int, moving: Sequence[str] = MOVING) -> list[dict]:
    """Rows of ours and SIFT + MAGSAC per modality on the same pairs."""
    rows = []
    for modality in moving:
        trials, errors, seconds = [], [], []
        for index in range(per_modality):
            pair = draw_pair(seed, index, ("CF", modality), options)
            trials.append(run_trial(registrar, pair))
            started = time.perf_counter()
            errors.append(_error(sift_magsac(pair.fixed, pair.moving), pair))
            seconds.append(time.perf_counter() - started)
        ours = summarise_trials(trials)[0]
        errors = np.array(errors)
        rows += [{"method": "retina_kp", **ours},
                 {"method": "SIFT+MAGSAC", "pair": ours["pair"], "n": len(errors), "success": round(float((errors <= RIGHT_PX).mean()), 3),
                  "wrong_accepted": round(float((np.isfinite(errors) & (errors > RIGHT_PX)).mean()), 3),
                  "refused": round(float(np.isinf(errors).mean()), 3),
                  "within_2px": round(float((errors <= 2).mean()), 3), "median_px": round(float(np.median(errors)), 2),
                  "median_s": round(float(np.median(seconds)), 2)}]  # fmt: skip
    return rows


def _error(H_1to0: np.ndarray | None, pair: SamplePair) -> float:
    return np.inf if H_1to0 is None else mace(H_1to0, np.linalg.inv(pair.H_0to1), pair.moving.shape[:2], pair.fixed.shape[:2])


def print_table(rows: list[dict]) -> None:
    """Rows of equal keys as aligned text."""
    widths = {k: max(len(k), *(len(str(r[k])) for r in rows)) for k in rows[0]}
    print("  " + "  ".join(k.ljust(w) for k, w in widths.items()))
    for row in rows:
        print("  " + "  ".join(str(row[k]).ljust(w) for k, w in widths.items()))


TABLES = {
    "upright": ("turn ±10°, scale 0.9–1.1, overlap ≥ 0.7", UPRIGHT),
    "any": ("turn ±180°, scale 0.6–1.7, overlap ≥ 0.5", PairOptions()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12, help="pairs per modality and table")
    parser.add_argument("--tables", default="upright,any", help="which tables: upright, any")
    parser.add_argument("--moving", default=",".join(MOVING), help="modalities of the moving image")
    parser.add_argument("--ours-only", action="store_true", help="leave the baseline out")
    parser.add_argument(
        "--processes", type=int, default=1, help="with --ours-only: processes that share the threads; times are then longer"
    )
    parser.add_argument("--weights", default="lite")
    parser.add_argument("--seed", type=int, default=VALIDATION_SEED)
    args = parser.parse_args()
    registrar, moving = Registrar.from_pretrained(args.weights), args.moving.split(",")
    where = f"{platform.machine()}, {torch.get_num_threads()} threads, {registrar.device}"
    print(f"{where}, torch {torch.__version__}, OpenCV {cv2.__version__}")
    registrar(*[draw_pair(1, 1).fixed] * 2)  # the first call loads and plans
    for name in args.tables.split(","):
        title, options = TABLES[name]
        print(f"\n{name}: {title}, 768x768 px   (success = mean corner error ≤ {RIGHT_PX:g} px)", flush=True)
        if args.ours_only:
            print_table(
                summarise_trials(gather_trials(args.weights, args.seed, args.pairs, options, moving=moving, processes=args.processes))
            )
        else:
            print_table(compare(registrar, options, args.pairs, args.seed, moving))
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
