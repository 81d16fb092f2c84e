"""Intervals for pairs of which several show one eye: eyes are resampled, each with all of its pairs.

Pairs of one eye resemble each other, so resampling pairs would claim more certainty than there is (cluster bootstrap:
Davison and Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8). All intervals of a table come from
the same resamples, so differences of two methods are paired. Intervals are NaN with fewer than two eyes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.stats import beta

ROUNDS = 2000
LEVEL = 0.95
COVERAGE_PX = (5.0, 10.0, 20.0)  # limits that errors to be expected are checked at
UNKNOWN = (float("nan"), float("nan"))


def eye_weights(eyes: Sequence[str], rounds: int = ROUNDS, seed: int = 0) -> np.ndarray:
    """(rounds, P) how often each of P pairs counts in each resample of as many eyes, drawn with replacement."""
    return _eye_weights(tuple(map(str, eyes)), rounds, seed)


@lru_cache(maxsize=8)  # a table asks for the same ones again and again
def _eye_weights(eyes: tuple[str, ...], rounds: int, seed: int) -> np.ndarray:
    names, index = np.unique(np.array(eyes, str), return_inverse=True)
    if not len(names):
        return np.zeros((rounds, 0))
    shares = np.full(len(names), 1 / len(names))
    return np.random.default_rng(seed).multinomial(len(names), shares, size=rounds)[:, index]


def interval(values, eyes: Sequence[str], seed: int = 0, verdicts: bool = False, level: float = LEVEL):
    """Percentile interval (low, high) of the mean of ``values`` (P,), finite.

    verdicts: the values are 0 or 1. Resampling says too little when nearly all of those agree. The interval is then its
    union with `binomial_limits` for as many trials as there are eyes.
    """
    values, n_eyes = np.asarray(values, np.float64), len(set(eyes))
    if n_eyes < 2:
        return UNKNOWN
    low, high = _ends(_resampled_means(values, eyes, seed), level)
    if not verdicts:
        return low, high
    least, most = binomial_limits(float(values.mean()), n_eyes, level)
    return min(low, least), max(high, most)


def binomial_limits(share: float, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact limits of a share (Clopper and Pearson 1934); share x trials need not be whole."""
    right, tail = share * trials, (1 - level) / 2
    low = beta.ppf(tail, right, trials - right + 1) if right > 0 else 0.0
    high = beta.ppf(1 - tail, right + 1, trials - right) if right < trials else 1.0
    return float(low), float(high)


def median_interval(values, eyes: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the median of ``values`` (P,), among which infinity may be."""
    values = np.asarray(values, np.float64)
    if len(set(eyes)) < 2:
        return UNKNOWN
    order = np.argsort(values)
    counts = np.cumsum(eye_weights(eyes, seed=seed)[:, order], axis=1)
    total = counts[:, -1:]
    low, high = ((counts > place).argmax(1) for place in ((total - 1) // 2, total // 2))
    return _ends(values[order][np.stack([low, high])].mean(0))


def paired_difference(a, b, eyes: Sequence[str], seed: int = 0, verdicts: bool = False) -> tuple[float, float, float]:
    """Mean of a - b over pairs (P,) that both methods saw, and its interval.

    verdicts: both are 0 or 1. The interval is then the union with a second one: methods that never differ on a few eyes
    may do so on others. That one follows from the exact limits of two shares: of pairs on which only a is 1, and of
    those on which only b is (square-and-add: Zou and Donner 2008).
    """
    gap, n_eyes = np.asarray(a, np.float64) - np.asarray(b, np.float64), len(set(eyes))
    middle = float(gap.mean()) if gap.size else float("nan")
    if n_eyes < 2:
        return middle, *UNKNOWN
    low, high = _ends(_resampled_means(gap, eyes, seed))
    if verdicts:
        shares = [float((sign * gap > 0).mean()) for sign in (1, -1)]
        (l0, h0), (l1, h1) = (binomial_limits(share, n_eyes) for share in shares)
        low = min(low, max(middle - float(np.hypot(shares[0] - l0, h1 - shares[1])), -1.0))
        high = max(high, min(middle + float(np.hypot(h0 - shares[0], shares[1] - l1)), 1.0))
    return middle, low, high


def mean_of_groups(values, groups: Sequence[str], eyes: Sequence[str], seed: int = 0) -> tuple[float, float, float]:
    """Plain mean over groups of their means, as FIRE's mAUC is, and its interval; eyes are resampled in each group."""
    values, groups, eyes = np.asarray(values, np.float64), np.asarray(groups), np.asarray(eyes, str)
    own = [groups == name for name in dict.fromkeys(groups.tolist())]
    rounds = [_resampled_means(values[k], eyes[k], seed + number) for number, k in enumerate(own)]
    return float(np.mean([values[k].mean() for k in own])), *_ends(np.mean(rounds, axis=0))


def _resampled_means(values: np.ndarray, eyes: Sequence[str], seed: int) -> np.ndarray:
    weights = eye_weights(eyes, seed=seed)
    return weights @ values / weights.sum(1)


def _ends(resampled: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], method="closest_observation")
    return float(low), float(high)


# ------------------------------------------------------------------ errors that were to be expected


def expected_and_errors(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(N,) px each at 768: the error that was to be expected, and the one that came out, at all true points of rows of
    `runner.measure` where both are known."""
    known = [(row.expected_px, row.errors_px) for row in rows.itertuples() if isinstance(row.expected_px, list)]
    told = np.array([pair for expected, errors in known for pair in zip(expected, errors, strict=True)], np.float64)
    told = told.reshape(-1, 2)
    return tuple(told[np.isfinite(told).all(1)].T)


def coverage(rows: pd.DataFrame, limits_px: Sequence[float] = COVERAGE_PX) -> pd.DataFrame:
    """One line per limit: how many true points were told to be off by no more, and which share of them kept to it; a
    last line for all points and their own bounds. The share is to be `expected_error.COVERAGE` or more."""
    expected, errors = expected_and_errors(rows)
    lines = [(f"≤ {limit:g} px", expected <= limit, errors <= limit) for limit in limits_px]
    lines.append(("its own bound", np.ones(len(expected), bool), errors <= expected))
    told = [(name, int(own.sum()), float(kept[own].mean()) if own.any() else np.nan) for name, own, kept in lines]
    return pd.DataFrame(told, columns=["told to be off by", "points", "kept to it"])
