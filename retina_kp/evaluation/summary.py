"""From rows of the runner to tables: scores with intervals over eyes, differences, FIRE's protocol, reliability.

Every score is a share or mean over *all* pairs with truth, failed ones included. Where intervals are asked for, by a
seed, a cell is [value, low, high].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .intervals import binomial_limits, interval, mean_of_groups, median_interval, paired_difference
from .methods import ORACLE
from .metrics import AREAS, FIRE_CATEGORIES, FOUND_PX, RATES, SCORES
from .pairs import AS_TAKEN, FIT
from .real_pairs import NEUTRAL, in_words

ALL, FLOOR = "all", "annotation residual"
OUTCOMES = ("acceptable", "warned of", "wrongly accepted", "refused", "failed")  # exclusive and complete
EDGES = (0, 0.1, 0.5, 0.9, 0.97, 1.0)  # of bins of confidence
SYNTHETIC = ("success", "within_2px", "auc25", "wrong", "far", "failed")

# ------------------------------------------------------------------ which rows


def with_truth(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose outcome could be judged."""
    return rows[rows.mean_px.notna()]


def as_taken(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of pairs that nothing was done to."""
    return rows[rows.stress == AS_TAKEN]


def claims_nothing(method: str) -> bool:
    """Whether a row of this name is an oracle: an answer that was given the truth."""
    return method == FIT or method.endswith(ORACLE)


def trusted(rows: pd.DataFrame, accept_confidence: float = 0.5) -> pd.Series:
    """Whether a row's transform came without a warning (confidence below accept_confidence) and without the truth."""
    return ~rows.method.map(claims_nothing).astype(bool) & ~(rows.confidence.astype(float) < accept_confidence)


def outcomes(rows: pd.DataFrame, accept_confidence: float = 0.5) -> pd.Series:
    """One of OUTCOMES per row, or "answered"."""
    split = trusted(rows, accept_confidence).map({True: OUTCOMES[2], False: OUTCOMES[1]})
    return rows.outcome.where(rows.outcome != "inaccurate", split)


def by_kind(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(kind, its rows) for each kind of pair, and all together last, as ALL, where there are several."""
    apart = list(rows.groupby("kind", sort=False))
    return apart + [(ALL, rows)] if len(apart) > 1 else apart


# ------------------------------------------------------------------ tables


def summarise(
    rows: pd.DataFrame,
    by: Sequence[str] = (),
    scores: Sequence[str] = (*RATES, *AREAS),
    accept_confidence: float = 0.5,
    seed: int | None = None,
) -> pd.DataFrame:
    """One line per group, in order of appearance: pairs, eyes, the mean of each of `metrics.SCORES`, inlier rate,
    median of the mean errors and of the seconds. seed: of the intervals, None: without."""
    judged = with_truth(rows).reset_index(drop=True)
    judged = judged.assign(trusted=trusted(judged, accept_confidence))
    values = pd.DataFrame({name: np.asarray(SCORES[name].of(judged), float) for name in scores})
    lines = []
    groups = judged.groupby(list(by), sort=False) if by else [((), judged)]
    for place, own in groups if len(judged) else []:
        line = dict(zip(by, place, strict=True)) | {"pairs": len(own), "eyes": own.eye.nunique()}
        for name in scores:
            line[name] = _mean(values[name][own.index], own.eye, seed, SCORES[name].verdict)
        if "inlier_rate" in own:
            line["inlier_rate"] = _mean_of_known(own, "inlier_rate", seed)
        line |= {"median_px": _median(own.mean_px, own.eye, seed), "seconds": own.seconds.astype(float).median()}
        lines.append(line)
    return pd.DataFrame(lines)


def _mean(values, eyes, seed: int | None, verdicts: bool = False):
    mean = float(np.mean(values))
    return mean if seed is None else [mean, *interval(values, list(eyes), seed, verdicts)]


def _median(values, eyes, seed: int | None):
    return float(np.median(values)) if seed is None else [np.median(values), *median_interval(values, list(eyes), seed)]


def _mean_of_known(rows: pd.DataFrame, name: str, seed: int | None):
    """Mean over the rows that have the value; with a seed also its interval and their number; None without any."""
    known = rows[rows[name].notna()]
    mean = _mean(known[name].astype(float), known.eye, seed) if len(known) else None
    return mean if seed is None or mean is None else [*mean, len(known)]


def method_table(rows: pd.DataFrame, accept_confidence: float = 0.5, seed: int = 0) -> pd.DataFrame:
    """One line per method and kind of pair, pairs as taken, all kinds together last; the annotation's fit, its floor
    (median over pairs of what clicked points leave open) and the oracles stand first in each."""
    parts = []
    for kind, own in by_kind(with_truth(as_taken(rows))):
        lines = summarise(own.assign(kind=kind), ["method", "kind"], (*RATES, *AREAS), accept_confidence, seed)
        floor = own.dropna(subset=["residual_px"])
        if len(floor):
            line = {"method": FLOOR, "kind": kind, "pairs": len(floor), "eyes": floor.eye.nunique()}
            line["median_px"] = _median(floor.residual_px.astype(float), floor.eye, seed)
            lines = pd.concat([lines[lines.method == FIT], pd.DataFrame([line]), lines[lines.method != FIT]])
        parts.append(lines)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["method", "kind"])


def dice_table(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Per method: pairs, how many have a Dice of vessel maps, and its mean. Where truths exist over the pairs that the
    method and the annotation fit both have, ``dice_fit`` being the fit's on the same ones; else over the pairs with a
    transform."""
    taken = as_taken(rows)
    taken = taken[(taken.method != FIT) | taken.index.isin(with_truth(taken).index)]
    fits = taken[(taken.method == FIT) & taken.dice.notna()]
    lines = []
    for method, own in taken.groupby("method", sort=False):
        known = own[own.dice.notna() & (own.pair.isin(fits.pair) | (len(fits) == 0))]
        same = fits.set_index("pair", drop=False).loc[known.pair] if len(fits) else fits
        dice = {"dice": _mean_of_known(known, "dice", seed), "dice_fit": _mean_of_known(same, "dice", seed)}
        lines.append({"method": method, "pairs": len(own), "compared": len(known), **dice})
    return pd.DataFrame(lines)


def differences(rows: pd.DataFrame, first: str, accept_confidence: float = 0.5, seed: int = 0) -> pd.DataFrame:
    """The method ``first`` minus each other one on the same pairs as taken, per kind and over all: [difference, low,
    high] of the main scores, and on how many pairs which of the two lies closer."""
    judged = with_truth(as_taken(rows))
    judged = judged[~judged.method.map(claims_nothing).astype(bool)]
    judged = judged.assign(trusted=trusted(judged, accept_confidence))
    lines = []
    for kind, of_kind in by_kind(judged):
        apart = {method: own.set_index("pair") for method, own in of_kind.groupby("method", sort=False)}
        ours = apart.pop(first, of_kind[:0])
        for method, theirs in apart.items():
            pairs = [pair for pair in ours.index if pair in theirs.index]
            a, b = ours.loc[pairs], theirs.loc[pairs]
            line = {"kind": kind, "against": method, "pairs": len(pairs)}
            for name in ("acceptable", "wrong_accepted", "auc25", "auc@5"):
                score = SCORES[name]
                line[name] = list(paired_difference(score.of(a), score.of(b), list(a.eye), seed, score.verdict))
            line |= {"closer": int((a.mean_px < b.mean_px).sum()), "farther": int((a.mean_px > b.mean_px).sum())}
            lines += [line] if pairs else []
    return pd.DataFrame(lines)


def fire_table(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """FIRE's own protocol at 2912 px: AUC25 per category, their plain mean mAUC, and over all pairs in one pot; empty
    for other data."""
    judged = with_truth(as_taken(rows))
    judged = judged[judged.category != ""]
    judged = judged.assign(share=SCORES["auc25_fire"].of(judged))
    lines = []
    for method, own in judged.groupby("method", sort=False):
        line: dict = {"method": method, "pairs": len(own)}
        for name in FIRE_CATEGORIES:
            one = own[own.category == name]
            line |= {name: _mean(one.share, one.eye, seed) if len(one) else None, f"{name}_pairs": len(one)}
        whole = set(own.category) == set(FIRE_CATEGORIES)
        line["mAUC"] = list(mean_of_groups(own.share, own.category, own.eye, seed)) if whole else None
        lines.append(line | {"all": _mean(own.share, own.eye, seed)})
    return pd.DataFrame(lines)


def stress_table(rows: pd.DataFrame, accept_confidence: float = 0.5, seed: int = 0) -> pd.DataFrame:
    """One line per method, factor and value, with the untouched pairs as each factor's neutral value."""
    judged, parts = with_truth(rows), []
    for factor, neutral in NEUTRAL.items():
        alone = judged.factors.map(lambda factors, name=factor: set(factors) == {name}).astype(bool)
        if not alone.any():
            continue
        own = judged[alone | (judged.stress == AS_TAKEN)]
        own = own[own.method.isin(own.method[alone])]
        own = own.assign(factor=factor, value=[f.get(factor, neutral) for f in own.factors]).sort_values("value")
        own = own.assign(state=[in_words(factor, value) for value in own.value])
        parts.append(summarise(own, ["method", "factor", "value", "state"], (*RATES, *AREAS), accept_confidence, seed))
    if not parts:
        return pd.DataFrame(columns=["method", "factor", "value", "state"])
    place = {method: k for k, method in enumerate(judged.method.unique())}
    return pd.concat(parts).sort_values("method", key=lambda m: m.map(place), kind="stable", ignore_index=True)


# ------------------------------------------------------------------ confidence


def was_right(rows: pd.DataFrame) -> pd.Series:
    """Whether an answer was acceptable; for a refused one: whether its mean error would have been at most FOUND_PX."""
    return (rows.outcome == "acceptable") | ((rows.outcome == "refused") & (rows.tried_px <= FOUND_PX))


def answered_with_confidence(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with truth and a confidence, where there was a transform to be sure of, were it refused afterwards."""
    judged = with_truth(rows)
    answered = judged.outcome.isin(("acceptable", "inaccurate")) | np.isfinite(judged.tried_px.astype(float))
    return judged[answered & judged.confidence.notna()]


def reliability(rows: pd.DataFrame) -> pd.DataFrame:
    """Confidence against truth, pairs as taken, refused answers included as they would have been: per bin the number,
    the mean confidence, and the share that was right with its binomial limits for as many trials as there are eyes."""
    judged = answered_with_confidence(as_taken(rows))
    judged = judged.assign(right=was_right(judged))
    lines = []
    for low, high in zip(EDGES[:-1], EDGES[1:], strict=True):
        top = judged.confidence <= high if high == EDGES[-1] else judged.confidence < high
        own = judged[(judged.confidence >= low) & top]
        if len(own):
            line = {"from": low, "to": high, "n": len(own), "confidence": own.confidence.mean()}
            limits = zip(("low", "high"), binomial_limits(own.right.mean(), own.eye.nunique()), strict=True)
            lines.append(line | {"right": own.right.mean(), **dict(limits)})
    return pd.DataFrame(lines)


# ------------------------------------------------------------------ text


def readable(table: pd.DataFrame, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Numbers as ".88", intervals on a second line as "[.79, .95]", infinite as "∞"; the named columns, or all."""
    table = table.reindex(columns=list(columns)) if columns else table
    return table.astype(object).map(_text).astype(object)


def _text(value):
    if isinstance(value, list | tuple):
        middle, low, high = (_number(v) for v in value[:3])
        return f"{middle}\n[{low},\u00a0{high}]" if low != "–" else middle
    return None if value is None or value != value else _number(value) if isinstance(value, float) else value


def _number(value: float) -> str:
    if value is None or np.isnan(value):
        return "–"
    text = "∞" if np.isinf(value) else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    text = text.replace("0.", ".", 1) if abs(value) < 0.995 else text
    return text.replace("-", "−") if text != "-.00" else ".00"


def as_text(table: pd.DataFrame | Sequence[dict]) -> str:
    """A table for a terminal, blank where a line lacks a column."""
    return pd.DataFrame(table).to_string(index=False, na_rep="")
