"""What an evaluation leaves behind: tables as text, the per-pair CSV, and metrics.json with the meaning of every name in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from . import bootstrap
from .evaluation_pairs import TRUE_KEYPOINTS, claims_nothing
from .evaluation_tables import dice_table, differences, fire_table, method_table, outcome, reliability, stress_table, with_truth
from .metrics import FIRE_SIDE_PX, LONGER_SIDE_PX

SCHEMA = "retina_kp/real-evaluation/1"
COLUMNS = {
    "method": "what registered; …, true keypoints: the ceiling of that method (GT alignment): its descriptors read at the true points of "
    "both images (with a matrix alone: at the keypoints of the fixed image and where the matrix takes them), matched, and its model fitted "
    "to the matches, the moving image drawn in the fixed frame by the truth, as it is once the search has ended; annotation fit: the "
    "annotation's own transform, the given matrix or else the one fitted to its points, judged at its points (with a matrix alone at the "
    "moving image's corners, where it is right by definition); annotation residual is the floor: what clicked points leave open (distance "
    "of each from where the others put it, median of a pair, px of the fixed image at 768); computed points leave "
    "nothing open and are not in it",
    "kind": "modalities, fixed-moving; all: every pair together",
    "pairs": "pairs with truth, the denominator of every share", "eyes": "eyes among them, the units of the intervals",
    "acceptable": "share with median error at most 20 px and largest at most 50 px (SuperRetina's rule)",
    "inaccurate": "share with a transform that is not acceptable",
    "wrong_accepted": "part of inaccurate that the method called good: the worst outcome",
    "failed": "share without a transform, refused ones included", "refused": "part of failed that the method itself declined to answer",
    "sr_me": "share with mean error at most 5 px at 512", "sr_mae": "share with largest error at most 10 px at 512",
    "strict": "share with both", "auc25": "mean over i = 1 to 25 of the share with mean error below i px at 768",
    "auc25_fire": "the same with errors at 2912 px, as in FIRE's tables", "auc@5": "area under the recall curve up to 5 px, over 5",
    "auc@10": "the same up to 10 px", "auc@20": "the same up to 20 px",
    "median_px": "median over pairs of the mean error, px at 768; infinite when half of them failed",
    "inlier_rate": "MIR: mean share of a pair's matches that lie within 5 px, at 768, of the truth; refused pairs count with the "
    "matches they had, with none as 0. Of ours, whose matches are those of the last, guided pass; of true keypoints all mutual matches. "
    "Matching score and repeatability need every detection, which a registration does not keep: training validates them (history.csv)",
    "dice": "mean Dice of vessel maps on the overlap, pairs as taken", "seconds": "median per pair, longer when many run side by side",
    "state": "what was done to the moving image; one factor at a time",
}  # fmt: skip
MAIN = ("acceptable", "inaccurate", "wrong_accepted", "failed", "refused", "auc25", "auc25_fire", "median_px")
FINE = ("sr_me", "sr_mae", "strict", "auc@5", "auc@10", "auc@20", "inlier_rate")


def readable(table: Iterable[Mapping], columns: Sequence[str] = ()) -> list[dict]:
    """Figures as ".88", and on a second line "[.79, .95]"; the named columns only, or all. Infinite is "∞", unknown is None."""
    rows = [{name: line.get(name) for name in columns} if columns else dict(line) for line in table]
    return [{name: _text(value) for name, value in row.items()} for row in rows]


def _text(value):
    if isinstance(value, list | tuple):
        middle, low, high = (_number(v) for v in value[:3])
        return f"{middle}\n[{low},\u00a0{high}]" if low != "–" else middle
    return _number(value) if isinstance(value, float) else value


def _number(value: float) -> str:
    if value is None or np.isnan(value):
        return "–"
    text = "∞" if np.isinf(value) else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    text = text.replace("0.", ".", 1) if abs(value) < 0.995 else text
    return text.replace("-", "−") if text != "-.00" else ".00"


def pair_rows(facts: Sequence[dict], rows: Sequence[dict], accept_confidence: float = 0.5) -> list[dict]:
    """Rows of the per-pair CSV: one per pair, method and stress, with the annotation's figures beside; no paths in them."""
    known = {fact["pair"]: fact for fact in facts}
    ceilings = {(row["pair"], row["method"]): _mean(row["errors_px"]) for row in rows if claims_nothing(row["method"])}
    table = []
    for row in [*facts, *rows]:
        fact, errors = known.get(row["pair"], {}), row.get("errors_px")
        own = np.array([np.inf if e is None else e for e in errors]) if errors else None
        line = {name: row.get(name) for name in ("pair", "eye", "kind", "category", "method")}
        line |= {"stress": row.get("stress", "as taken"), "outcome": outcome(row, accept_confidence), "status": row.get("status", ""),
                 "confidence": row.get("confidence")}  # fmt: skip
        line |= {
            f"{name}_px": None if own is None else round(float(f(own)), 3)
            for name, f in (("mean", np.mean), ("median", np.median), ("max", np.max))
        }
        line["mean_px_fire"] = None if own is None else round(float(own.mean()) * FIRE_SIDE_PX / LONGER_SIDE_PX, 3)
        line |= {
            "annotation_fit_mean_px": _mean(fact.get("errors_px")),
            "ceiling_mean_px": ceilings.get((row["pair"], row["method"] + TRUE_KEYPOINTS)),
            "annotation_residual_px": fact.get("residual_px"),
        }
        table.append(line | {name: row.get(name) for name in ("inlier_rate", "true_turn_deg", "true_scale", "dice", "seconds")})
    return table


def _mean(errors_px: Sequence[float | None] | None) -> float | None:
    """px; infinite when a point is, None without a transform."""
    return round(float(np.mean([np.inf if e is None else e for e in errors_px])), 3) if errors_px else None


def metrics_document(
    about: Mapping, facts: Sequence[dict], rows: Sequence[dict], first: str, accept_confidence: float = 0.5, seed: int = 0
) -> dict:
    """Everything that metrics.json holds; ``columns`` explains every name in it. A figure is [value, low, high]."""
    kinds = list(dict.fromkeys(fact["kind"] for fact in facts))
    residuals = [fact["residual_px"] for fact in facts if fact.get("residual_px") is not None]
    spread = {name: float(f(residuals)) if residuals else None for name, f in (("median", np.median), ("max", np.max))}
    return {
        "schema": SCHEMA,
        "columns": COLUMNS,
        "figure": f"[value, low, high]: {bootstrap.LEVEL:.0%} interval, {bootstrap.ROUNDS} resamples of eyes; null is unknown or infinite",
        "normalisation": {
            "longer_side_px": LONGER_SIDE_PX,
            "fire_longer_side_px": FIRE_SIDE_PX,
            "rescale": {fact["pair"]: fact["rescale"] for fact in facts},
        },  # fmt: skip
        "about": dict(about) | {"accept_confidence": accept_confidence},
        "pairs": {kind: sum(fact["kind"] == kind for fact in facts) for kind in kinds},
        "pairs_with_truth": len(with_truth(facts)),
        "annotation_residual_px": {"pairs": len(residuals), "computed": sum("computed" in fact["truth"] for fact in facts), **spread},
        "methods": method_table(facts, rows, accept_confidence, seed),
        "differences": {"method": first, "lines": differences(rows, first, accept_confidence, seed)},
        "vessels": dice_table(facts, rows, seed),
        "fire": fire_table(facts, rows, seed),
        "stress": stress_table(rows, accept_confidence, seed),
        "reliability": reliability([row for row in rows if row["method"] == first]),
    }
