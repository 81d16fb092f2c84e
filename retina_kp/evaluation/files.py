"""What an evaluation leaves behind: tables as text, the per-pair CSV, and metrics.json with the meaning of every name
in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from . import intervals as bootstrap
from .columns import TABLES
from .metrics import FIRE_SIDE_PX, LONGER_SIDE_PX
from .pairs import ORACLE, claims_nothing
from .tables import dice_table, differences, fire_table, method_table, outcome, reliability, stress_table, with_truth

SCHEMA = "retina_kp/real-evaluation/2"
NOT_FINITE = {"NaN": None, "Infinity": "inf", "-Infinity": "-inf"}  # in metrics.json, which has no numbers for them
MAIN = ("acceptable", "inaccurate", "wrong_accepted", "failed", "refused", "auc25", "auc25_fire", "median_px")
FINE = ("sr_me", "sr_mae", "strict", "auc@5", "auc@10", "auc@20", "inlier_rate")


def readable(table: Iterable[Mapping], columns: Sequence[str] = ()) -> list[dict]:
    """Figures as ".88", and on a second line "[.79, .95]"; the named columns only, or all. Infinite is "∞", unknown is
    None."""
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
    """Rows of the per-pair CSV: one per pair, method and stress, with the annotation's figures beside; no paths in
    them."""
    known = {fact["pair"]: fact for fact in facts}
    oracles = {(row["pair"], row["method"]): _mean(row["errors_px"]) for row in rows if claims_nothing(row["method"])}
    table = []
    for row in [*facts, *rows]:
        fact, errors = known.get(row["pair"], {}), row.get("errors_px")
        own = np.array([np.inf if e is None else e for e in errors]) if errors else None
        line = {name: row.get(name) for name in ("pair", "eye", "kind", "category", "method")}
        line |= {
            "stress": row.get("stress", "as taken"),
            "outcome": outcome(row, accept_confidence),
            "status": row.get("status", ""),
            "confidence": row.get("confidence"),
        }
        line |= {
            f"points_{name}_px": None if own is None else round(float(f(own)), 3)
            for name, f in (("mean", np.mean), ("median", np.median), ("max", np.max))
        }
        line["points_mean_px_fire"] = (
            None if own is None else round(float(own.mean()) * FIRE_SIDE_PX / LONGER_SIDE_PX, 3)
        )
        line |= {
            "annotation_fit_mean_px": _mean(fact.get("errors_px")),
            "oracle_mean_px": oracles.get((row["pair"], row["method"] + ORACLE)),
            "annotation_residual_px": fact.get("residual_px"),
            "truth": fact.get("truth"),
        }
        table.append(
            line | {name: row.get(name) for name in ("inlier_rate", "true_turn_deg", "true_scale", "dice", "seconds")}
        )
    return table


def _mean(errors_px: Sequence[float | None] | None) -> float | None:
    """px; infinite when a point is, None without a transform."""
    return round(float(np.mean([np.inf if e is None else e for e in errors_px])), 3) if errors_px else None


def metrics_document(
    about: Mapping,
    facts: Sequence[dict],
    rows: Sequence[dict],
    first: str,
    accept_confidence: float = 0.5,
    seed: int = 0,
) -> dict:
    """Everything that metrics.json holds; ``columns`` explains every name in it. A figure is [value, low, high]; what
    is not finite is a float here and NOT_FINITE in the file."""
    kinds = list(dict.fromkeys(fact["kind"] for fact in facts))
    residuals = [fact["residual_px"] for fact in facts if fact.get("residual_px") is not None]
    spread = {name: float(f(residuals)) if residuals else None for name, f in (("median", np.median), ("max", np.max))}
    return {
        "schema": SCHEMA,
        "columns": TABLES,
        "figure": f"[value, low, high]: {bootstrap.LEVEL:.0%} interval, {bootstrap.ROUNDS} resamples of eyes; null: unknown, inf: infinite",
        "normalisation": {
            "longer_side_px": LONGER_SIDE_PX,
            "fire_longer_side_px": FIRE_SIDE_PX,
            "rescale": {fact["pair"]: fact["rescale"] for fact in facts},
        },
        "about": dict(about) | {"accept_confidence": accept_confidence},
        "pairs": {kind: sum(fact["kind"] == kind for fact in facts) for kind in kinds},
        "pairs_with_truth": len(with_truth(facts)),
        "annotation_residual_px": {
            "pairs": len(residuals),
            "computed": sum("computed" in fact["truth"] for fact in facts),
            **spread,
        },
        "methods": method_table(facts, rows, accept_confidence, seed),
        "differences": {"method": first, "lines": differences(rows, first, accept_confidence, seed)},
        "vessels": dice_table(facts, rows, seed),
        "fire": fire_table(facts, rows, seed),
        "stress": stress_table(rows, accept_confidence, seed),
        "reliability": reliability([row for row in rows if row["method"] == first]),
    }
