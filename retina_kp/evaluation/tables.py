"""From the rows of `real_evaluation` to tables: figures with intervals over eyes, paired differences, FIRE's protocol,
stress, reliability.

Every figure is a share or mean over *all* pairs with truth, failed ones included; intervals are those of `bootstrap`. A
table is a list of dicts in which a figure is [value, low, high]; `evaluation_files` makes text and files of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from . import intervals as bootstrap
from .metrics import FIRE_CATEGORIES, MEDIAN_LIMIT_PX, VERDICTS, PairResult, scores
from .pairs import FIT, claims_nothing
from .real import as_taken
from .stress import NEUTRAL, UNITS

ALL, FLOOR = "all", "annotation residual"
OUTCOMES = ("acceptable", "inaccurate, warned of", "wrongly accepted", "refused", "failed")  # exclusive and complete


# ------------------------------------------------------------------ rows as results


def with_truth(rows: Iterable[dict]) -> list[dict]:
    """Rows whose outcome could be judged."""
    return [row for row in rows if "errors_px" in row]


def pair_result(row: dict, accept_confidence: float = 0.5) -> PairResult:
    """A row as the metrics take it. A transform with a confidence below accept_confidence counts as given with a
    warning; one of a method without confidence is trusted, but for oracles, which claim nothing."""
    confidence = row.get("confidence")
    errors = None if row["errors_px"] is None else np.array([np.inf if e is None else e for e in row["errors_px"]])
    sure = float("nan") if confidence is None else confidence
    trusted = not claims_nothing(row["method"]) and not sure < accept_confidence
    return PairResult(row["pair"], row["kind"], row["outcome"] == "refused", errors, sure, trusted)


def outcome(row: dict, accept_confidence: float = 0.5) -> str:
    """One of OUTCOMES."""
    if row["outcome"] != "inaccurate":
        return row["outcome"]
    return "wrongly accepted" if pair_result(row, accept_confidence).trusted else "inaccurate, warned of"


# ------------------------------------------------------------------ tables


def figures(rows: Sequence[dict], accept_confidence: float = 0.5, seed: int = 0) -> dict:
    """The figures of rows with truth, one per pair: n and, for each of the scores, [value, low, high]."""
    eyes, results = [row["eye"] for row in rows], [pair_result(row, accept_confidence) for row in rows]
    own = [scores(result) for result in results]
    line: dict = {"pairs": len(rows), "eyes": len(set(eyes))}
    for name in own[0] if own else ():
        values = [score[name] for score in own]
        line[name] = [float(np.mean(values)), *bootstrap.interval(values, eyes, seed=seed, verdicts=name in VERDICTS)]
    if own:
        means = [result.mean_error for result in results]
        line["inlier_rate"] = _mean_of_known(rows, "inlier_rate", seed)
        line["median_px"] = [float(np.median(means)), *bootstrap.median_interval(means, eyes, seed=seed)]
    return line


def method_table(
    facts: Sequence[dict], rows: Sequence[dict], accept_confidence: float = 0.5, seed: int = 0
) -> list[dict]:
    """One line per method and kind of pair, pairs as taken, all kinds together last; annotation fit, its floor and the
    oracles stand first in each."""
    judged, table = with_truth(facts) + with_truth(as_taken(rows)), []
    for kind, of_kind in _by_kind(judged):
        for method in dict.fromkeys(row["method"] for row in judged):
            own = [row for row in of_kind if row["method"] == method]
            line = {"method": method, "kind": kind, **figures(own, accept_confidence, seed)}
            seconds = [row["seconds"] for row in own if row.get("seconds") is not None]
            table.append(line | {"seconds": float(np.median(seconds)) if seconds else None})
            if method == FIT and (floor := _floor(own, seed)):
                table.append({"method": FLOOR, "kind": kind, **floor})
    return table


def _by_kind(rows: Sequence[dict]) -> list[tuple[str, list[dict]]]:
    """(kind, its rows) for each kind of pair, and all together last, as ALL; where all are of one kind that kind
    alone."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    apart = [(kind, [row for row in rows if row["kind"] == kind]) for kind in kinds]
    return apart + [(ALL, list(rows))] if len(kinds) > 1 else apart


def _floor(facts: Sequence[dict], seed: int) -> dict:
    """How well clicked points agree among themselves: the median over pairs of their leave-one-out residual; {} without
    such points."""
    known = [fact for fact in facts if fact.get("residual_px") is not None]
    residuals, eyes = [fact["residual_px"] for fact in known], [fact["eye"] for fact in known]
    if not known:
        return {}
    return {
        "pairs": len(known),
        "eyes": len(set(eyes)),
        "median_px": [float(np.median(residuals)), *bootstrap.median_interval(residuals, eyes, seed=seed)],
    }


def _mean_of_known(rows: Sequence[dict], name: str, seed: int) -> list[float] | None:
    """Mean over the rows that have the value, its interval, and their number; None without any."""
    known = [row for row in rows if row.get(name) is not None]
    if not known:
        return None
    values = [row[name] for row in known]
    return [float(np.mean(values)), *bootstrap.interval(values, [row["eye"] for row in known], seed=seed), len(known)]


def dice_table(facts: Sequence[dict], rows: Sequence[dict], seed: int = 0) -> list[dict]:
    """Per method: pairs, how many have a Dice of vessel maps, and its mean. Where truths exist over the pairs that the
    method and the annotation fit both have, ``dice_fit`` being the fit's on the same ones; else over the pairs with a
    transform."""
    taken, table = [*(fact for fact in facts if "errors_px" in fact), *as_taken(rows)], []
    fits = {row["pair"]: row for row in taken if row["method"] == FIT and row.get("dice") is not None}
    for method in dict.fromkeys(row["method"] for row in taken):
        own = [row for row in taken if row["method"] == method]
        known = [row for row in own if row.get("dice") is not None and (not fits or row["pair"] in fits)]
        line = {
            "method": method,
            "pairs": len(own),
            "compared": len(known),
            "dice": _mean_of_known(known, "dice", seed),
        }
        table.append(
            line | {"dice_fit": _mean_of_known([fits[row["pair"]] for row in known] if fits else [], "dice", seed)}
        )
    return table


def differences(rows: Sequence[dict], first: str, accept_confidence: float = 0.5, seed: int = 0) -> list[dict]:
    """The method ``first`` minus each other one on the same pairs as taken, per kind of pair and over all: [difference,
    low, high] of the main scores, and on how many pairs which of the two lies closer."""
    judged = with_truth(as_taken(row for row in rows if not claims_nothing(row["method"])))
    table = []
    for kind, of_kind in _by_kind(judged):
        by_method: dict[str, dict[str, dict]] = {}
        for row in of_kind:
            by_method.setdefault(row["method"], {})[row["pair"]] = row
        ours = by_method.pop(first, {})
        for method, theirs in by_method.items():
            if pairs := [pair for pair in ours if pair in theirs]:
                line = _difference(
                    [ours[pair] for pair in pairs], [theirs[pair] for pair in pairs], accept_confidence, seed
                )
                table.append({"kind": kind, "against": method, "pairs": len(pairs), **line})
    return table


def _difference(ours: Sequence[dict], theirs: Sequence[dict], accept_confidence: float, seed: int) -> dict:
    """Of two methods' rows on the same pairs, in one order."""
    a, b = ([pair_result(row, accept_confidence) for row in own] for own in (ours, theirs))
    eyes, line = [row["eye"] for row in ours], {}
    for name in ("acceptable", "wrong_accepted", "auc25", "auc@5"):
        values = [[scores(result)[name] for result in own] for own in (a, b)]
        line[name] = list(bootstrap.paired_difference(*values, eyes, seed=seed, verdicts=name in VERDICTS))
    gaps = np.array([x.mean_error for x in a]), np.array([y.mean_error for y in b])
    return line | {"closer": int((gaps[0] < gaps[1]).sum()), "farther": int((gaps[0] > gaps[1]).sum())}


def fire_table(facts: Sequence[dict], rows: Sequence[dict], seed: int = 0) -> list[dict]:
    """FIRE's own protocol at 2912 px: AUC25 per category, their plain mean mAUC, and over all pairs in one pot; [] for
    other data."""
    judged = [row for row in with_truth(facts) + with_truth(as_taken(rows)) if row.get("category")]
    table = []
    for method in dict.fromkeys(row["method"] for row in judged):
        own = [row for row in judged if row["method"] == method]
        shares = [scores(pair_result(row))["auc25_fire"] for row in own]
        categories, eyes = [row["category"] for row in own], [row["eye"] for row in own]
        line: dict = {"method": method, "pairs": len(own)}
        for name in FIRE_CATEGORIES:
            one = [
                (share, eye) for share, category, eye in zip(shares, categories, eyes, strict=True) if category == name
            ]
            line[name] = (
                [float(np.mean([s for s, _ in one])), *bootstrap.interval(*zip(*one, strict=True), seed=seed)]
                if one
                else None
            )
            line[f"{name}_pairs"] = len(one)
        whole = set(categories) == set(FIRE_CATEGORIES)
        line["mAUC"] = list(bootstrap.mean_of_groups(shares, categories, eyes, seed=seed)) if whole else None
        table.append(line | {"all": [float(np.mean(shares)), *bootstrap.interval(shares, eyes, seed=seed)]})
    return table


def stress_table(rows: Sequence[dict], accept_confidence: float = 0.5, seed: int = 0) -> list[dict]:
    """One line per method, factor and value, with the untouched pairs as each factor's neutral value."""
    judged, table = with_truth(rows), []
    factors = [name for name in NEUTRAL if any(set(row["factors"]) == {name} for row in judged)]
    for method in dict.fromkeys(row["method"] for row in judged):
        for factor in factors:
            own = [row for row in judged if row["method"] == method and set(row["factors"]) <= {factor}]
            values = sorted({row["factors"].get(factor, NEUTRAL[factor]) for row in own})
            for value in values if len(values) > 1 else ():
                at = [row for row in own if row["factors"].get(factor, NEUTRAL[factor]) == value]
                state = f"{factor} {UNITS[factor].format(value)}"
                table.append(
                    {
                        "method": method,
                        "factor": factor,
                        "value": value,
                        "state": state,
                        **figures(at, accept_confidence, seed),
                    }
                )
    return table


def was_right(row: dict) -> bool:
    """Whether an answer was acceptable; for a refused one: whether its mean error would have been at most
    MEDIAN_LIMIT_PX."""
    tried = row.get("tried_px")
    return row["outcome"] == "acceptable" or (tried is not None and tried <= MEDIAN_LIMIT_PX)


def answered_with_confidence(rows: Iterable[dict]) -> list[dict]:
    """Rows with truth of methods that give a confidence, where there was a transform to be sure of, were it refused
    afterwards."""
    return [
        row
        for row in with_truth(rows)
        if row.get("confidence") is not None and (row["errors_px"] or row.get("tried_px") is not None)
    ]


def reliability(rows: Sequence[dict], edges: Sequence[float] = (0, 0.1, 0.5, 0.9, 0.97, 1.0)) -> list[dict]:
    """Confidence against truth for every answer, pairs as taken, of a method that gives one, refused answers included
    as they would have been: per bin the number, the mean confidence, and the share that was right (acceptable; for a
    refused one, mean error at most 20 px) with its binomial limits for as many trials as there are eyes."""
    judged = answered_with_confidence(as_taken(rows))
    sure = np.array([row["confidence"] for row in judged])
    table = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = np.flatnonzero((sure >= low) & ((sure < high) | (high == edges[-1])))
        if not len(inside):
            continue
        share = float(np.mean([was_right(judged[k]) for k in inside]))
        least, most = bootstrap.binomial_limits(share, len({judged[k]["eye"] for k in inside}))
        table.append(
            {
                "from": low,
                "to": high,
                "n": len(inside),
                "confidence": float(sure[inside].mean()),
                "right": share,
                "low": least,
                "high": most,
            }
        )
    return table
