"""What speaks for a registration, as numbers, and the probability that they make."""

from __future__ import annotations

import math

from ..mapping.transforms import Fit
from .keypoints import Features


def measure_evidence(settled_share: float, fit: Fit, features0: Features, aligned: Features) -> dict[str, float]:
    """What speaks for a registration, as numbers, before the maps refine it.

    Share of matches that agree in a wide neighbourhood; inliers among matches close by; their share of these matches,
    and of the keypoints that could have matched. `refinement.refine` adds map_correlation.
    """
    return {
        "settled_share": settled_share,
        "inliers": float(fit.n_inliers),
        "inlier_share": fit.n_inliers / max(len(fit.inliers), 1),
        "keypoint_share": fit.n_inliers / max(min(len(features0), len(aligned)), 1),
    }


DEFAULT_CALIBRATION = {
    "bias": -10.0,
    "log_inliers": 4.0,
    "settled_share": 5.0,
    "inlier_share": 0.0,
    "keypoint_share": 8.0,
    "log_correlation": 4.0,
}


AGAIN = "again"  # terms for the evidence of `judging.looked_at_again`, within a calibration


def checked(calibration: dict | None) -> dict:
    """A calibration, or DEFAULT_CALIBRATION instead of none; with terms AGAIN, its own ones if it has no others.
    ValueError when it is one of other terms, or holds what is no finite number."""
    anew = "fit it anew, retina-kp calibrate"
    calibration = calibration or DEFAULT_CALIBRATION
    first = {name: weight for name, weight in calibration.items() if name != AGAIN}
    again = calibration.get(AGAIN, first)
    differing = sorted(set(first) ^ set(DEFAULT_CALIBRATION) | set(again) ^ set(DEFAULT_CALIBRATION))
    if differing:
        raise ValueError(f"calibration of another version ({', '.join(differing)}): {anew}")
    for name, weight in (*first.items(), *again.items()):
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
            raise ValueError(f"calibration: {name} is {weight!r}, no finite number: {anew}")
    return {**first, AGAIN: again}


def calibration_inputs(evidence: dict[str, float]) -> dict[str, float]:
    """The terms of the logistic model of `confidence`."""
    shares = {name: evidence[name] for name in ("settled_share", "inlier_share", "keypoint_share")}
    # many matches by chance, as of noise, must not make up for it
    log_correlation = math.log(max(evidence["map_correlation"], 1e-3))
    return {"bias": 1.0, "log_inliers": math.log1p(evidence["inliers"]), **shares, "log_correlation": log_correlation}


def confidence(evidence: dict[str, float], calibration: dict[str, float] | None) -> float:
    """Probability in [0, 1] that a registration with this evidence is right: corners within 20 px on average, at 768.

    A logistic model, fitted by `calibration.publish` on synthetic pairs; DEFAULT_CALIBRATION, set by hand, for weights
    without a fit. 0 where the detector's maps do not correlate: they could not be laid on each other, or the model does
    not fit. ValueError for a fit to other evidence.
    """
    if evidence["map_correlation"] <= 0:
        return 0.0
    weights = calibration or DEFAULT_CALIBRATION
    z = sum(weights[name] * value for name, value in calibration_inputs(evidence).items())
    return 1 / (1 + math.exp(-max(min(z, 30), -30)))
