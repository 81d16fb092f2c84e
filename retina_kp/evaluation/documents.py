"""What an evaluation leaves behind: the table of pairs, and metrics.json with the meaning of every name in both; a test
holds the meanings complete. Those of scores stand beside them in `metrics.SCORES`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from .intervals import LEVEL, ROUNDS
from .methods import ORACLE
from .metrics import FIRE_SIDE_PX, LONGER_SIDE_PX, SCORES
from .pairs import FIT
from .summary import (
    AREAS,
    RATES,
    claims_nothing,
    dice_table,
    differences,
    fire_table,
    method_table,
    outcomes,
    reliability,
    stress_table,
    with_truth,
)

SCHEMA = "retina_kp/real-evaluation/3"
NOT_FINITE = {"NaN": None, "Infinity": "inf", "-Infinity": "-inf"}  # in metrics.json, which has no numbers for them

COUNTS = {
    "pairs": "pairs with truth, the denominator of every share",
    "eyes": "eyes among them, the units of the intervals",
}
METHOD = {
    "method": "what registered; …, oracle keypoints: the oracle of that method (GT alignment): its descriptors read at "
    "the true points of both images (with a matrix alone: at the keypoints of the fixed image and where the matrix takes "
    "them), matched, and its model fitted to the matches, the moving image drawn in the fixed frame by the truth, as it "
    "is once the search has ended; annotation fit: the annotation's own transform, the given matrix or else the one "
    "fitted to its points, judged at its points (with a matrix alone at the moving image's corners, where it is right by "
    "definition); annotation residual is the floor: what clicked points leave open (distance of each from where the "
    "others put it, median of a pair, px of the fixed image at 768); computed points leave nothing open and are not in it"
}
KIND = {"kind": "modalities, fixed-moving; all: every pair together"}
MEANINGS = {name: SCORES[name].meaning for name in (*RATES, *AREAS)} | {
    "inlier_rate": "MIR: mean share of a pair's matches that lie within 5 px, at 768, of the truth; refused pairs count "
    "with the matches they had, with none as 0; a fourth number counts the pairs. Of ours, whose matches are those of the "
    "last, guided pass; of true keypoints all mutual matches. Matching score and repeatability need every detection, "
    "which a registration does not keep: training validates them (history.csv)",
    "median_px": "median over pairs of the mean error, px at 768; infinite when half of them failed",
    "seconds": "median per pair, longer when many run side by side",
}
TABLES = {
    "metrics.json": {
        "schema": "name and version of this form",
        "columns": "these explanations",
        "figure": "how a number with its interval is written",
        "normalisation": "longer side of the fixed image, px, that errors are given at; at FIRE's; the factor of each pair",
        "about": "what was measured with what",
        "pairs": "evaluated pairs by kind",
        "pairs_with_truth": "those that could be judged",
        "annotation_residual_px": "the floor: pairs with clicked points and with computed ones, median and largest "
        "residual of the former",
        "methods": "one line per method and kind of pair, as taken",
        "differences": "the first method minus each other one",
        "vessels": "Dice of vessel maps",
        "fire": "FIRE's own protocol, for FIRE alone",
        "stress": "one line per method, factor and value",
        "reliability": "confidence of the first method against truth, pairs as taken",
    },
    "about": {
        "versions": "of this package, its git commit where known, and what it computes with",
        "date": "local time and its distance from UTC",
        "methods": "name, model fitted and first twelve digits of the SHA-256 of the weights, of each",
        "data": "name of the data set's folder; empty where names are hidden",
        "layout": "shape of the data set",
        "mode": "kind of pair that was asked for, empty: all",
        "split": "split that was asked for, empty: all",
        "pairs": "pairs to evaluate",
        "eyes": "eyes among them",
        "aside": "usable pairs that mode and split leave aside",
        "model": "transform that ours fit",
        "accept_confidence": "answers with less count as given with a warning",
        "seed": "of the intervals",
        "stresses": "states of each moving image",
        "missing": "methods that could not run, and why",
        "left_out": "pairs that could not be used, and why",
        "incomplete": "what is amiss with pairs that were used",
    },
    "methods": METHOD | KIND | COUNTS | MEANINGS,
    "differences": KIND
    | {"against": "the other method; values are the first one's minus its", "pairs": "pairs that both saw, as taken"}
    | {name: MEANINGS[name] for name in ("acceptable", "wrong_accepted", "auc25", "auc@5")}
    | {
        "closer": "pairs on which the first method's mean error is the smaller one",
        "farther": "pairs on which it is the larger one",
    },
    "vessels": METHOD
    | {
        "pairs": "pairs as taken, with and without truth",
        "compared": "those that dice is the mean of: where truths exist, pairs that the method and the annotation fit "
        "both have",
        "dice": "mean Dice of the two vessel maps on the overlap; a fourth number counts the pairs",
        "dice_fit": "the same of the annotation fit, on the same pairs",
    },
    "fire": METHOD
    | {"pairs": "of FIRE; published tables have 133"}
    | {name: f"AUC25 at 2912 px in category {name}" for name in "SPA"}
    | {f"{name}_pairs": f"pairs in category {name}" for name in "SPA"}
    | {
        "mAUC": "plain mean over the three categories; null where one is missing",
        "all": "AUC25 at 2912 px over all pairs in one pot",
    },
    "stress": METHOD
    | {
        "factor": "what was done to the moving image; one factor at a time",
        "value": "how much of it, in the units of retina_kp.evaluation.stress.Stress",
        "state": "both in words",
    }
    | COUNTS
    | MEANINGS,
    "reliability": {
        "from": "lower end of a bin of confidence",
        "to": "upper end",
        "n": "answers in it, refused ones included as they would have been",
        "confidence": "their mean confidence",
        "right": "share that was acceptable; of refused ones, with mean error at most 20 px",
        "low": "exact binomial limit of it for as many trials as there are eyes",
        "high": "the upper one",
    },
    "pairs.csv": {
        "pair": "id, or number where names are hidden",
        "eye": "id, or number",
        **KIND,
        "category": "FIRE's S, P or A",
        **METHOD,
        "stress": "what was done to the moving image",
        "outcome": "acceptable, inaccurate (warned of), wrongly accepted, refused, failed; answered: no truth to judge by",
        "status": "the method's own word",
        "confidence": "in [0, 1]; empty where the method gives none",
        "points_mean_px": "mean over the truth's points of the error, px of the fixed image at 768; inf where one lies "
        "behind the horizon",
        "points_median_px": "median over the points",
        "points_max_px": "largest",
        "points_mean_px_fire": "the mean at 2912 px",
        "annotation_fit_mean_px": "mean error of the annotation's own transform at its points, px at 768",
        "oracle_mean_px": "mean error of this method with true keypoints, as taken; empty where that failed, and for "
        "others than ours",
        "annotation_residual_px": "leave-one-out residual of clicked points, px at 768; empty where they were computed",
        "truth": "points (clicked or computed), matrix, or none",
        "inlier_rate": "share of the matches that lie within 5 px, at 768, of the truth",
        "true_turn_deg": "true turn of the altered moving image against the fixed one, 0 to 180°",
        "true_scale": "true scale, altered moving image → fixed one",
        "dice": "of the two vessel maps on the overlap, pairs as taken",
        "seconds": "for this registration",
    },
}


def pair_table(rows: pd.DataFrame, accept_confidence: float = 0.5) -> pd.DataFrame:
    """What pairs.csv holds: one line per pair, method and stress, with the annotation's values beside; no paths."""
    answered = rows.outcome.isin(("acceptable", "inaccurate"))
    table = rows.assign(outcome=outcomes(rows, accept_confidence))
    for name in ("mean", "median", "max"):
        table[f"points_{name}_px"] = rows[f"{name}_px"].where(answered).round(3)
    table["points_mean_px_fire"] = (rows.mean_px.where(answered) * FIRE_SIDE_PX / LONGER_SIDE_PX).round(3)
    fits = table[rows.method == FIT].set_index("pair")
    facts = {"annotation_fit_mean_px": "points_mean_px", "annotation_residual_px": "residual_px", "truth": "truth"}
    for name, column in facts.items():
        table[name] = table.pair.map(fits[column])
    told = table[rows.method.map(claims_nothing).astype(bool)]
    oracles = dict(zip(zip(told.pair, told.method, strict=True), told.points_mean_px, strict=True))
    asked = zip(table.pair, table.method + ORACLE, strict=True)
    table["oracle_mean_px"] = [oracles.get(place) for place in asked]
    return table.reindex(columns=list(TABLES["pairs.csv"]))


def metrics_document(
    about: Mapping, rows: pd.DataFrame, first: str, accept_confidence: float = 0.5, seed: int = 0
) -> dict:
    """Everything that metrics.json holds; ``columns`` explains every name in it. A number is [value, low, high]; what
    is not finite is a float here and NOT_FINITE in the file."""
    facts = rows[rows.method == FIT]
    residuals = facts.residual_px.dropna().astype(float)
    tables = {
        "methods": method_table(rows, accept_confidence, seed),
        "vessels": dice_table(rows, seed),
        "fire": fire_table(rows, seed),
        "stress": stress_table(rows, accept_confidence, seed),
        "reliability": reliability(rows[rows.method == first]),
    }
    lines = differences(rows, first, accept_confidence, seed).to_dict("records")
    return {
        "schema": SCHEMA,
        "columns": TABLES,
        "figure": f"[value, low, high]: {LEVEL:.0%} interval, {ROUNDS} resamples of eyes; null: unknown, inf: infinite",
        "normalisation": {
            "longer_side_px": LONGER_SIDE_PX,
            "fire_longer_side_px": FIRE_SIDE_PX,
            "rescale": dict(zip(facts.pair, facts.rescale, strict=True)),
        },
        "about": dict(about) | {"accept_confidence": accept_confidence},
        "pairs": facts.kind.value_counts(sort=False).to_dict(),
        "pairs_with_truth": len(with_truth(facts)),
        "annotation_residual_px": {
            "pairs": len(residuals),
            "computed": int(facts.truth.str.contains("computed").sum()),
            "median": float(np.median(residuals)) if len(residuals) else None,
            "max": float(residuals.max()) if len(residuals) else None,
        },
        "differences": {"method": first, "lines": lines},
        **{name: table.to_dict("records") for name, table in tables.items()},
    }
