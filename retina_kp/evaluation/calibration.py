"""What trained weights still lack: steerers, and the confidence of a registration, fitted to what came out right on
synthetic pairs and on images of two different eyes: ``retina-kp calibrate``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import pandas as pd
from scipy.optimize import minimize

from ..core.compute import choose_device, code_version, commit
from ..core.geometry import image_center, similarity, warp_points
from ..core.images import fitted_hw, to_gray
from ..data.augment import AppearanceRange
from ..mapping.expected_error import fit_bounds
from ..networks.checkpoints import find_weights, load_network, read_metadata, save_network
from ..registration.confidence import AGAIN, calibration_inputs, confidence
from ..registration.keypoints import STEERED_DEG
from ..registration.registrar import Registrar
from ..synthetic.cameras import RoundOptions
from ..synthetic.pages import draw_page
from ..synthetic.pairs import PairOptions, draw_pair
from .intervals import expected_and_errors
from .methods import Ours
from .metrics import FOUND_PX
from .pairs import MOVING, Pair, Seen, digest, synthetic_pairs
from .runner import measure

CALIBRATION_SEED, STEERING_SEED = 77_002, 77_060  # never used for training or validation
# Kinds of pairs, see `pairs.modalities`. Not deep OCTA: what is right there looks so much like two eyes that real
# strangers pass.
KINDS = (*MOVING, "OCT-FA", "RetCam-RetCam", "RetCam-FA", "UWF-FA")
# Where registration works, where it begins to fail, harsh pictures beyond what cameras give, and round eyes; impostors
# of all.
CALIBRATION_SETS = (
    PairOptions(),
    PairOptions(scale=(0.33, 3.0), min_overlap=0.25),
    PairOptions(scale=(0.4, 2.5), min_overlap=0.25, appearance=AppearanceRange()),
    PairOptions(scale=(0.5, 2.0), min_overlap=0.4, eye=RoundOptions()),
)
FAR_PX = 60.0  # mean error up to which a transform lies in the right place, if not well
RIDGE = 0.05  # weak, on terms of equal spread
BINS = 10  # of confidence, equally wide
OTHER, OWN_MIRRORED, OTHER_MIRRORED = "another eye", "its own, mirrored", "another eye, mirrored"  # sorts of impostors
FRAMED = "another eye, on one printed page"
FIRST = "first"  # look; the second one is AGAIN


@dataclass(frozen=True)
class ImpostorPair(Pair):
    """The fixed image of one pair with the moving image of another, or a mirrored one: nothing is right."""

    fixed: Pair
    moving: Pair
    what: str = OTHER

    def about(self) -> dict:
        names = {"fixed": self.fixed.about()["pair"], "moving": self.moving.about()["pair"], "what": self.what}
        return self.fixed.about() | names | {"pair": f"{names['fixed']} × {names['moving']}", "genuine": False}

    def load(self) -> Seen:
        moving = self.moving.load().moving
        if self.what == FRAMED:
            fixed = self.fixed.load().fixed
            page = draw_page(np.random.default_rng(int(self.fingerprint()[:12], 16)), fitted_hw(fixed.shape[:2], 640))
            return Seen(
                *(page.around(np.rint(255 * to_gray(image)).astype(np.uint8)) for image in (fixed, moving)), None
            )
        return replace(self.fixed.load(), moving=moving if self.what == OTHER else moving[:, ::-1], truth=None)

    def fingerprint(self) -> str:
        return digest(self.fixed.fingerprint(), self.moving.fingerprint(), self.what)


def publish(
    checkpoint: str | Path, target: str | Path, pairs: int, about: dict, folder: str | Path, device: str = "auto"
) -> dict:
    """Fit steerers, calibrate both looks on ``pairs`` synthetic pairs of each of KINDS and set and nearly as many
    impostors; write all in half precision, with the calibration and ``about`` in the header; return its summary. Rows are
    those of the weights as written, judged by DEFAULT_CALIBRATION whatever the checkpoint carried; they are kept in
    the folder and used again for equal weights and code."""
    network, metadata = load_network(checkpoint)
    how = {"half": True, "steerers": fit_steerers(Registrar(network, device=device))}
    draft = save_network(Path(folder) / f"draft {os.getpid()}.safetensors", network, {}, **how)  # nobody else's
    processes = 2 if choose_device(device).type == "cpu" else 1
    try:
        all_seen = ("judged_agreement", -1.0)  # what the search drops are the impostors that a fit learns from
        again = (all_seen, ("doubtful_confidence", -1.0), ("again_below", 2.0))
        methods = [
            Ours(FIRST, str(draft), "affine", device, (all_seen,)),
            Ours(AGAIN, str(draft), "auto", device, again),
        ]
        rows = measure(calibration_pairs(pairs), methods, Path(folder) / "calibration.jsonl", processes)
    finally:
        draft.unlink()
    looks = {name: rows[rows.method == name] for name in (FIRST, AGAIN)}
    calibration = {**fit_calibration(looks[FIRST]), AGAIN: fit_calibration(looks[AGAIN])}
    summary = {"pairs": pairs}
    for name, own in looks.items():
        known = own[own.evidence.map(bool) & ~own.tried_px.astype(float).between(FOUND_PX, FAR_PX, inclusive="right")]
        right = known.tried_px <= FOUND_PX
        terms = calibration if name == FIRST else calibration[AGAIN]
        sure = np.array([confidence(evidence, terms) for evidence in known.evidence])
        told = {"trials": len(own), "judged": len(known), "right": int(right.sum())}
        summary[name] = told | {"calibration_error": round(calibration_error(sure, right), 4)}
    open_px, error_px = expected_and_errors(looks[AGAIN])
    bounds = fit_bounds(open_px, error_px)
    header = {"calibration": calibration, "bounds": bounds, "calibration_figures": summary}
    header |= {"phase": metadata.get("phase"), **about}
    save_network(target, network, header, **how)
    return summary


def calibration_pairs(count: int) -> list[Pair]:
    """``count`` pairs of each set and kind, each followed by an impostor: its fixed image with the moving image before.
    Every tenth has none, as when the shipped weights were calibrated."""
    found: list[Pair] = []
    for options in CALIBRATION_SETS:
        pairs = synthetic_pairs(CALIBRATION_SEED, count, options, KINDS)
        for before, pair in zip([None, *pairs], pairs, strict=False):
            found += [pair] if pair.index % 10 == 0 else [pair, ImpostorPair(pair, before)]
    return found


def fit_calibration(rows: pd.DataFrame) -> dict[str, float]:
    """Logistic regression of "found" (tried_px ≤ FOUND_PX) on the evidence, over genuine pairs and impostors that got
    as far as a transform. Evidence can only speak for it: no weight but the bias is negative. ValueError when one of
    the two outcomes is missing.

    Pairs that are off by more, but up to FAR_PX, are left out: they lie in the right place, where bends are larger than
    the map can follow. As wrong ones beside two eyes they would teach to doubt what is seen of one eye."""
    # `confidence` asks no model about pairs without a correlation
    told = np.array([bool(evidence) and evidence["map_correlation"] > 0 for evidence in rows.evidence], bool)
    known = rows[told & ~rows.tried_px.astype(float).between(FOUND_PX, FAR_PX, inclusive="right")]
    right = (known.tried_px <= FOUND_PX).to_numpy(float)
    if not 0 < right.sum() < len(known):
        said = f"of {len(known)} trials {int(right.sum())} were right"
        raise ValueError(f"calibration needs right and wrong registrations; {said}")
    inputs = pd.DataFrame([calibration_inputs(evidence) for evidence in known.evidence])
    center, spread = inputs.mean(), inputs.std(ddof=0) + 1e-9
    bias = inputs.columns[0]
    center[bias], spread[bias] = 0.0, 1.0  # the bias stays as it is
    x, penalty = ((inputs - center) / spread).to_numpy(), RIDGE * (inputs.columns != bias)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        score = x @ w
        value = np.logaddexp(0, score).sum() - right @ score + 0.5 * penalty @ w**2
        return value, x.T @ (1 / (1 + np.exp(-score)) - right) + penalty * w

    bounds = [(None if name == bias else 0.0, None) for name in inputs]
    how = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 10_000, "maxfun": 20_000}
    weights = minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds, options=how).x / spread
    weights[bias] -= (weights * center).sum()
    return {name: round(float(weight), 5) for name, weight in weights.items()}


def fit_steerers(registrar: Registrar, pairs: int = 8) -> np.ndarray:
    """(4, D, D) float32: for each of STEERED_DEG the orthogonal matrix that best turns descriptors (Procrustes).

    It carries descriptors of keypoints to those at the same places of the turned picture. ``pairs``: synthetic ones of
    each kind, at the size that the search begins with. After Bökman, Edstedt, Felsberg and Kahl, "Steerers" (CVPR
    2024); here the network was trained without. `keypoints.Features.steered` applies them.
    """
    scale, product = registrar.options.search.coarse, [0.0] * len(STEERED_DEG)
    for index in range(pairs):
        for moving in MOVING:
            pair = draw_pair(STEERING_SEED, index, ("CF", moving))
            for views in map(registrar.views, (pair.fixed, pair.moving)):
                upright = views.features(0.0, scale)
                side = int(np.hypot(*views.base_hw) * scale) + 1
                for k, turn in enumerate(STEERED_DEG):
                    H = similarity(turn, scale, image_center(views.base_hw), image_center((side, side)))
                    turned = views.described(H, (side, side), warp_points(upright.keypoints_xy, H))
                    product[k] = product[k] + upright.descriptors.T @ turned
    return np.stack([u @ v for u, _, v in map(np.linalg.svd, product)]).astype(np.float32)


def calibration_error(confidence: Sequence[float], right: Sequence[float]) -> float:
    """Expected calibration error: mean |share right - mean confidence| over equal-width bins, weighted by their size
    (Guo et al. 2017)."""
    told, right = np.asarray(confidence, float), np.asarray(right, float)
    index = np.minimum((told * BINS).astype(int), BINS - 1)
    filled = [index == b for b in range(BINS) if (index == b).any()]
    return float(sum(abs(np.mean(right[own]) - np.mean(told[own])) * np.mean(own) for own in filled))


def risk_coverage(confidence: Sequence[float], right: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """(K,) coverage and (K,) risk for each of K limits of confidence, the highest first (El-Yaniv & Wiener 2010).

    Coverage is the share of answers that are given, risk the share of these that are wrong. confidence: (N,) in [0, 1];
    right: (N,) of 0 and 1.
    """
    told, right = np.asarray(confidence, float), np.asarray(right, float)
    order = np.argsort(-told, kind="stable")
    given, wrong = np.arange(1, len(order) + 1), np.cumsum(1 - right[order])
    # of equal confidences all are given, or none
    last = np.flatnonzero(np.append(np.diff(told[order]) != 0, True)[: len(order)])
    return given[last] / max(len(order), 1), wrong[last] / given[last]


@click.command()
@click.option("--weights", default="lite", show_default=True, help="A shipped name or a checkpoint.")
@click.option("--target", required=True, help="File for the result; the rows measured stay in its folder.")
@click.option("--pairs", type=click.IntRange(1), default=20, show_default=True, help="Per kind of pair and set.")
@click.option("--device", default="auto", show_default=True, help="Or cpu, cuda, cuda:1.")
def calibrate(weights: str, target: str, pairs: int, device: str) -> None:
    """Fit the confidence of new weights, once after training.

    Measures synthetic pairs, and nearly as many of two different eyes; also fits the matrices that turn descriptors.
    Needed for weights of your own: retina-kp calibrate --weights RUN/checkpoint.safetensors --target mine.safetensors
    """
    path = find_weights(weights)
    fitted = ("retina_kp", "network", "options", "calibration", "bounds", "calibration_figures", "phase")
    about = {key: value for key, value in read_metadata(path).items() if key not in fitted}
    # what the weights came with speaks of their training
    about |= {"calibration_commit": commit(), "calibration_code": code_version()}
    click.echo(publish(path, target, pairs, about, Path(target).parent, device))
