"""Intervals for figures on pairs of which several show one eye: eyes are resampled, each with all of its pairs.

Pairs of one eye resemble each other, so resampling pairs would claim more certainty than there is (cluster bootstrap:
Davison and Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8). All figures of a table come from the
same resamples, so differences of two methods are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.stats import beta

ROUNDS = 2000
LEVEL = 0.95


def eye_weights(eyes: Sequence[str], rounds: int = ROUNDS, seed: int = 0) -> np.ndarray:
    """(rounds, P) how often each pair counts in each resample: as many eyes as there are, drawn with replacement. eyes:
    P eye ids."""
    return _eye_weights(tuple(map(str, eyes)), rounds, seed)


@lru_cache(maxsize=8)  # a table asks for the same ones again and again
def _eye_weights(eyes: tuple[str, ...], rounds: int, seed: int) -> np.ndarray:
    names, index = np.unique(np.array(eyes, str), return_inverse=True)
    draw = np.random.default_rng(seed).multinomial
    return (
        draw(len(names), np.full(len(names), 1 / len(names)), size=rounds)[:, index]
        if len(names)
        else np.zeros((rounds, 0))
    )


def interval(
    values, eyes: Sequence[str], level: float = LEVEL, rounds: int = ROUNDS, seed: int = 0, verdicts: bool = False
):
    """Percentile interval (low, high) of the mean of ``values`` (P,), finite; NaN with fewer than two eyes.

    verdicts: the values are 0 or 1. Resampling says too little about those when nearly all pairs agree, and nothing
    when all do, so the interval is then its union with `binomial_limits` for as many trials as there are eyes, whatever
    the count: 10 of 10 eyes right is [0.69, 1], and no better count has a lower limit below a worse one's.
    """
    values = np.asarray(values, np.float64)
    n_eyes = len(set(eyes))
    if n_eyes < 2:
        return float("nan"), float("nan")
    weights = eye_weights(eyes, rounds, seed)
    low, high = _ends(weights @ values / weights.sum(1), level)
    if not verdicts:
        return low, high
    least, most = binomial_limits(float(values.mean()), n_eyes, level)
    return min(low, least), max(high, most)


def binomial_limits(share: float, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact limits of a share (Clopper and Pearson 1934); share x trials need not be whole, as when an eye has right
    and wrong pairs."""
    right, tail = share * trials, (1 - level) / 2
    low = beta.ppf(tail, right, trials - right + 1) if right > 0 else 0.0
    high = beta.ppf(1 - tail, right + 1, trials - right) if right < trials else 1.0
    return float(low), float(high)


def median_interval(
    values, eyes: Sequence[str], level: float = LEVEL, rounds: int = ROUNDS, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the median of ``values`` (P,), among which infinity may be. NaN with fewer than two
    eyes."""
    values = np.asarray(values, np.float64)
    if len(set(eyes)) < 2:
        return float("nan"), float("nan")
    order = np.argsort(values)
    counts = np.cumsum(eye_weights(eyes, rounds, seed)[:, order], axis=1)
    total = counts[:, -1:]
    low, high = ((counts > place).argmax(1) for place in ((total - 1) // 2, total // 2))
    return _ends(values[order][np.stack([low, high])].mean(0), level)


def paired_difference(
    a, b, eyes: Sequence[str], level: float = LEVEL, rounds: int = ROUNDS, seed: int = 0, verdicts: bool = False
) -> tuple[float, float, float]:
    """Mean of a - b over pairs (P,) that both methods saw, and its interval; NaN ends with fewer than two eyes.

    verdicts: both are 0 or 1, and the interval is the union with the one that follows from the exact limits of two
    shares, of the pairs on which only a is 1 and of those on which only b is (square-and-add: Zou and Donner 2008):
    methods that never differ on a few eyes may yet do so on others.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    gap, n_eyes = a - b, len(set(eyes))
    if not gap.size or n_eyes < 2:
        return float(gap.mean()) if gap.size else float("nan"), float("nan"), float("nan")
    weights, middle = eye_weights(eyes, rounds, seed), float(gap.mean())
    low, high = _ends(weights @ gap / weights.sum(1), level)
    if verdicts:
        shares = [float((sign * gap > 0).mean()) for sign in (1, -1)]
        (l0, h0), (l1, h1) = (binomial_limits(share, n_eyes, level) for share in shares)
        low = min(low, max(middle - float(np.hypot(shares[0] - l0, h1 - shares[1])), -1.0))
        high = max(high, min(middle + float(np.hypot(h0 - shares[0], shares[1] - l1)), 1.0))
    return middle, low, high


def mean_of_groups(
    values, groups: Sequence[str], eyes: Sequence[str], level: float = LEVEL, rounds: int = ROUNDS, seed: int = 0
) -> tuple[float, float, float]:
    """Plain mean over groups of the groups' means, as FIRE's mAUC is, and its interval; eyes are resampled within each
    group."""
    values, groups, eyes = np.asarray(values, np.float64), np.asarray(groups), np.asarray(eyes, str)
    means, rounds_of = [], []
    for k, name in enumerate(dict.fromkeys(groups.tolist())):
        own = groups == name
        weights = eye_weights(eyes[own], rounds, seed + k)
        means.append(values[own].mean())
        rounds_of.append(weights @ values[own] / weights.sum(1))
    return float(np.mean(means)), *_ends(np.mean(rounds_of, axis=0), level)


def _ends(resampled: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], method="closest_observation")
    return float(low), float(high)
