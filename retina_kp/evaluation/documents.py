"""What an evaluation leaves behind: the table of pairs, and metrics.json with the meaning of every name in both.

Meanings of scores stand beside them in `metrics.SCORES`, all others in glossary.json; a test holds them complete."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.files import read_json
from .intervals import LEVEL, ROUNDS
from .methods import ORACLE
from .metrics import AREAS, FIRE_SIDE_PX, LONGER_SIDE_PX, RATES, SCORES
from .pairs import FIT
from .summary import (
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


def _meanings() -> dict[str, dict[str, str]]:
    """Of every column, by table: those of glossary.json, where null stands for the shared one or for a score's."""
    tables = read_json(Path(__file__).with_name("glossary.json"))
    shared = tables.pop("shared") | {name: score.meaning for name, score in SCORES.items()}
    for name in ("methods", "stress"):
        tables[name] |= dict.fromkeys((*RATES, *AREAS))
    return {table: {name: own or shared[name] for name, own in columns.items()} for table, columns in tables.items()}


TABLES = _meanings()


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
