"""What the rows of `grids.measure_pair` come to: figures per cell, per method and per stage, as tables."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .grids import AND, OURS, TOGETHER
from .metrics import auc25
from .timing import STAGES
from .trials import RIGHT_PX

# of `figures`
MEASURES = {"success": f"registered within {RIGHT_PX:g} px", "auc25": "AUC25", "within_2px": "registered within 2 px"}


def _share(values) -> float:
    return round(float(np.mean(values)), 3)


def figures(rows: Sequence[Mapping]) -> dict:
    """n, success (error ≤ 5 px), AUC25, within 2 px, wrong (a transform beyond 5 px), none (no transform), median error
    and seconds."""
    errors = np.array([row["error_px"] for row in rows], float)
    return {
        "n": len(rows),
        "success": _share(errors <= RIGHT_PX),
        "auc25": round(auc25(errors), 3),
        "within_2px": _share(errors <= 2),
        "wrong": _share(np.isfinite(errors) & (errors > RIGHT_PX)),
        "none": _share(np.isinf(errors)),
        "median_px": round(float(np.median(errors)), 2),
        "median_s": round(float(np.median([row["seconds"] for row in rows])), 2),
    }


def summarise(rows: Sequence[Mapping], *keys: str) -> list[dict]:
    """`figures` of the rows that agree in these keys, in order of first appearance."""
    groups: dict[tuple, list] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [dict(zip(keys, group, strict=True)) | figures(own) for group, own in groups.items()]


def pivot(cells: Sequence[Mapping], factor: str) -> list[dict]:
    """One row per pair of modalities and method, one column per bin of a factor: "success (AUC25)"; cells come from
    `summarise(rows, "factor", "bin", "pair", "method")`."""
    table: dict[tuple, dict] = {}
    for cell in cells:
        if cell["factor"] == factor:
            line = table.setdefault((cell["pair"], cell["method"]), {"pair": cell["pair"], "method": cell["method"]})
            line[cell["bin"]] = f"{cell['success']:.2f} ({cell['auc25']:.2f})"
    return sorted(table.values(), key=lambda line: line["pair"])


def crossed_rows(cells: Sequence[Mapping], measure: str = "success") -> list[dict]:
    """One row per method, overlap and turn of TOGETHER, one column per scale: a key of `figures`, over pairs of all
    modalities."""
    table: dict[tuple, dict] = {}
    for cell in cells:
        if cell["factor"] == TOGETHER:
            turn, scale, overlap = cell["bin"].split(AND)
            table.setdefault((cell["method"], overlap, turn), {}).setdefault(scale, []).append(cell)
    rows, methods, overlaps = [], *(list(dict.fromkeys(key[place] for key in table)) for place in (0, 1))
    for (method, overlap, turn), scales in sorted(
        table.items(), key=lambda line: (methods.index(line[0][0]), overlaps.index(line[0][1]))
    ):
        means = {
            scale: sum(c[measure] * c["n"] for c in own) / sum(c["n"] for c in own) for scale, own in scales.items()
        }
        rows.append(
            {
                "method": method,
                "overlap": overlap,
                "turn": turn,
                **{scale: round(mean, 3) for scale, mean in means.items()},
            }
        )
    return rows


def method_rows(rows: Sequence[Mapping], missing: Mapping[str, str]) -> list[dict]:
    """One row per method over all cells: success per factor, AUC25 and seconds; methods that could not run say why."""
    table = []
    for summary in summarise(rows, "method"):
        own = [row for row in rows if row["method"] == summary["method"]]
        success = {f"success, {part['factor']}": part["success"] for part in summarise(own, "factor")}
        table.append(
            {
                "method": summary["method"],
                "pairs": summary["n"],
                **success,
                **{key: summary[key] for key in ("auc25", "wrong", "none", "median_s")},
                "note": "",
            }
        )
    absent = {name: why for name, why in missing.items() if name not in [line["method"] for line in table]}
    columns = table[0] if table else {}
    return table + [
        {**dict.fromkeys(columns), "method": name, "note": f"left out: {why}"} for name, why in absent.items()
    ]


def stage_rows(rows: Sequence[Mapping]) -> list[dict]:
    """Mean seconds of each stage of ours, per bin; those of TOGETHER are one bin."""
    own = [row | {"bin": "all"} if row["factor"] == TOGETHER else row for row in rows if row["method"] == OURS]
    table = []
    for cell in summarise(own, "factor", "bin"):
        same = [row for row in own if (row["factor"], row["bin"]) == (cell["factor"], cell["bin"])]
        means = {stage: round(float(np.mean([row[f"{stage}_s"] for row in same])), 3) for stage in STAGES}
        table.append({"factor": cell["factor"], "bin": cell["bin"], "n": cell["n"], **means})
    return table


def read_rows(path: str | Path) -> list[dict]:
    """Rows as `files.write_csv` wrote them; numbers are numbers again, empty cells are left out."""
    words = {"factor", "bin", "pair", "method"}
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = [{k: v if k in words else float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
    return [row | {"index": int(row["index"])} for row in rows]
