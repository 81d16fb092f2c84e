"""What trained weights still lack: steerers, and the confidence of a registration, fitted to what came out right on
synthetic pairs and on images of two different eyes.

python -m retina_kp.evaluation.calibration --weights RUN/checkpoint.safetensors --target mine.safetensors
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from ..core.compute import choose_device, from_one
from ..core.versions import code_version, commit
from ..data.augment import AppearanceRange
from ..networks.checkpoints import find_weights, load_network, read_metadata, save_network, weights_sha256
from ..registration.confidence import calibration_inputs, confidence
from ..registration.registrar import Registrar
from ..synthetic.pairs import PairOptions
from .steering import fit_steerers
from .trials import FOUND_PX, MOVING, Trial, gather_trials, kept_trials

CALIBRATION_SEED = 77_002  # never used for training or validation
# Kinds of pairs, as of `evaluation.modalities`. Not deep OCTA: what is right there looks so much like two eyes that
# real strangers pass.
KINDS = (*MOVING, "OCT-FA")
# Where registration works, where it begins to fail, and harsh pictures beyond what cameras give; impostors of all
# three.
CALIBRATION_SETS = (
    PairOptions(),
    PairOptions(scale=(0.33, 3.0), min_overlap=0.25),
    PairOptions(scale=(0.4, 2.5), min_overlap=0.25, appearance=AppearanceRange()),
)


def publish(
    checkpoint: str | Path, target: str | Path, pairs: int, about: dict, trials_folder: str | Path, device: str = "auto"
) -> dict:
    """Fit steerers, calibrate on ``pairs`` synthetic pairs of each of KINDS and set and nearly as many impostors; write
    all in half precision, with the calibration and ``about`` in the header; return the calibration's figures. Trials
    are those of the weights as written, judged by DEFAULT_CALIBRATION whatever the checkpoint carried; they are kept in
    a folder and used again for equal weights and code."""
    network, metadata = load_network(checkpoint)
    how = {"half": True, "steerers": fit_steerers(Registrar(network, device=device))}
    draft = save_network(Path(trials_folder) / f"draft {os.getpid()}.safetensors", network, {}, **how)  # nobody else's
    try:
        trials = _kept_trials(trials_folder, draft, pairs, device)
    finally:
        draft.unlink()
    known = [t for t in trials if t.evidence]
    calibration = fit_calibration(trials)
    right = np.array([t.would_be_px <= FOUND_PX for t in known], float)
    sure = np.array([confidence(t.evidence, calibration) for t in known])
    figures = {
        "pairs": pairs,
        "trials": len(trials),
        "judged": len(known),
        "right": int(right.sum()),
        "calibration_error": round(calibration_error(sure, right), 4),
    }
    header = {"calibration": calibration, "calibration_figures": figures, "phase": metadata.get("phase"), **about}
    save_network(target, network, header, **how)
    return figures


def _kept_trials(folder: str | Path, checkpoint: str | Path, pairs: int, device: str) -> list[Trial]:
    """The trials of an earlier call when they belong to the same weights, number of pairs and code, else new ones."""
    how = {
        "impostors": True,
        "moving": KINDS,
        "device": device,
        "processes": 2 if choose_device(device).type == "cpu" else 1,
    }

    def gather() -> dict[str, list[Trial]]:
        sets = enumerate(CALIBRATION_SETS, 1)
        return {
            f"set {number}": gather_trials(checkpoint, CALIBRATION_SEED, pairs, options, **how)
            for number, options in sets
        }

    about = {"weights_sha256": weights_sha256(checkpoint), "pairs": pairs}
    return [trial for own in kept_trials(folder, "calibration trials", about, gather).values() for trial in own]


def fit_calibration(trials: list[Trial]) -> dict[str, float]:
    """Logistic regression of "found" (FOUND_PX) on the evidence, over genuine pairs and impostors that got as far as a
    transform. Evidence can only speak for it: a term that would get a negative weight gets none. ValueError when one of
    the two outcomes is missing."""
    # `confidence` asks no model about the others
    known = [t for t in trials if t.evidence and t.evidence["map_correlation"] > 0]
    right = np.array([t.would_be_px <= FOUND_PX for t in known], float)
    if not 0 < right.sum() < len(known):
        raise ValueError(
            f"calibration needs right and wrong registrations; of {len(known)} trials {int(right.sum())} were right"
        )
    inputs = [calibration_inputs(t.evidence) for t in known]
    names = list(inputs[0])
    while True:
        weights = dict(
            zip(names, _logistic_regression(np.array([[i[k] for k in names] for i in inputs]), right), strict=True)
        )
        worst = min(names[1:], key=weights.get, default="bias")
        if worst == "bias" or weights[worst] >= 0:
            return {name: round(float(weights.get(name, 0.0)), 5) for name in inputs[0]}
        names.remove(worst)


def _logistic_regression(x: np.ndarray, y: np.ndarray, steps: int = 60, ridge: float = 0.05) -> np.ndarray:
    """(K,) weights of x (N, K), whose first column is the bias, by Newton's method with a weak ridge on terms of equal
    spread."""
    center, spread = x.mean(0), x.std(0) + 1e-9
    center[0], spread[0] = 0.0, 1.0  # the bias stays as it is
    x = (x - center) / spread
    w = np.zeros(x.shape[1])
    penalty = ridge * np.diag([0.0] + [1.0] * (x.shape[1] - 1))
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        hessian = x.T @ (x * (p * (1 - p))[:, None]) + penalty + 1e-9 * np.eye(x.shape[1])
        w = w - np.linalg.solve(hessian, x.T @ (p - y) + penalty @ w)
    w = w / spread
    w[0] -= (w * center).sum()
    return w


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: mean |share right - mean confidence| over equal-width bins, weighted by their size
    (Guo et al. 2017)."""
    index = np.minimum((np.asarray(confidence) * bins).astype(int), bins - 1)
    filled = [index == b for b in range(bins) if (index == b).any()]
    return float(sum(abs(np.mean(right[own]) - np.mean(confidence[own])) * np.mean(own) for own in filled))


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K,) coverage, share of all answers that are given, and (K,) risk, share of the given ones that are wrong, for
    every limit of confidence from the highest down (El-Yaniv & Wiener 2010). confidence: (N,) in [0, 1]; right: (N,) of
    0 and 1; K: different values."""
    confidence, right = np.asarray(confidence, float), np.asarray(right, float)
    order = np.argsort(-confidence, kind="stable")
    given, wrong = np.arange(1, len(order) + 1), np.cumsum(1 - right[order])
    # of equal confidences all are given, or none
    last = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True)[: len(order)])
    return given[last] / max(len(order), 1), wrong[last] / given[last]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="lite", help="a shipped name or a checkpoint")
    parser.add_argument(
        "--target", required=True, help="file for the result, in half precision; the trials stay in its folder"
    )
    parser.add_argument("--pairs", type=from_one, default=20, help="per kind and set; nearly as many impostors")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()
    try:
        path = find_weights(args.weights)
        fitted = ("retina_kp", "network", "options", "calibration", "calibration_figures", "phase")
        about = {key: value for key, value in read_metadata(path).items() if key not in fitted}
    except (ValueError, OSError) as error:
        parser.error(str(error))
    # what the weights came with speaks of their training
    about |= {"calibration_commit": commit(), "calibration_code": code_version()}
    print(publish(path, args.target, args.pairs, about, Path(args.target).parent, args.device))


if __name__ == "__main__":
    main()
