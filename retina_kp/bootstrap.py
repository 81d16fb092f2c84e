"""Intervals for figures on pairs of which several show one eye: eyes are resampled, each with all of its pairs.

Pairs of one eye resemble each other, so resampling pairs would claim more certainty than there is (cluster bootstrap: Davison and Hinkley,
*Bootstrap Methods and their Application*, 1997, section 3.8). All figures of a table come from the same resamples, so differences of two
methods are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

ROUNDS = 2000
LEVEL = 0.95


def eye_weights(eyes: Sequence[str], rounds: int = ROUNDS, seed: int = 0) -> np.ndarray:
    """(rounds, P) how often each pair counts in each resample: as many eyes as there are, drawn with replacement. eyes: P eye ids."""
    return _eye_weights(tuple(map(str, eyes)), rounds, seed)


@lru_cache(maxsize=8)  # a table asks for the same ones again and again
def _eye_weights(eyes: tuple[str, ...], rounds: int, seed: int) -> np.ndarray:
    names, index = np.unique(np.array(eyes, str), return_inverse=True)
    draw = np.random.default_rng(seed).multinomial
    return draw(len(names), np.full(len(names), 1 / len(names)), size=rounds)[:, index] if len(names) else np.zeros((rounds, 0))


def interval(values, eyes: Sequence[str], level: float = LEVEL, rounds: int = ROUNDS, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` (P,), finite.

    Resampling says nothing about verdicts (0 or 1) on which all pairs agree, so there the far end is the exact binomial limit for as many
    trials as there are eyes (Clopper and Pearson 1934): 10 of 10 eyes right is [0.69, 1]. NaN with fewer than two eyes.
    """
    values = np.asarray(values, np.float64)
    n_eyes = len(set(eyes))
    if n_eyes < 2:
        return float("nan"), float("nan")
    if np.isin(values, (0, 1)).all() and np.ptp(values) == 0:
        far = ((1 - level) / 2) ** (1 / n_eyes)
        return (far, 1.0) if values[0] == 1 else (0.0, 1 - far)
    weights = eye_weights(eyes, rounds, seed)
    return _ends(weights @ values / weights.sum(1), level)


def median_interval(values, eyes: Sequence[str], level: float = LEVEL, rounds: int = ROUNDS, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the median of ``values`` (P,), among which infinity may be. NaN with fewer than two eyes."""
    values = np.asarray(values, np.float64)
    if len(set(eyes)) < 2:
        return float("nan"), float("nan")
    order = np.argsort(values)
    counts = np.cumsum(eye_weights(eyes, rounds, seed)[:, order], axis=1)
    total = counts[:, -1:]
    low, high = ((counts > place).argmax(1) for place in ((total - 1) // 2, total // 2))
    return _ends(values[order][np.stack([low, high])].mean(0), level)


def paired_difference(a, b, eyes: Sequence[str], level: float = LEVEL, rounds: int = ROUNDS, seed: int = 0) -> tuple[float, float, float]:
    """Mean of a - b over pairs (P,) that both methods saw, and its interval; NaN ends with fewer than two eyes.

    Verdicts in which the methods never differ tell that they differ on few eyes, not on none: the ends are then the binomial limits of
    `interval` for the share of eyes on which they may.
    """
    gap = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if not gap.size or len(set(eyes)) < 2:
        return float(gap.mean()) if gap.size else float("nan"), float("nan"), float("nan")
    if np.isin([a, b], (0, 1)).all() and np.ptp(gap) == 0:
        low, high = interval(np.abs(gap), eyes, level)
        return float(gap[0]), *((-high, high) if gap[0] == 0 else sorted((low * gap[0], high * gap[0])))
    weights = eye_weights(eyes, rounds, seed)
    return float(gap.mean()), *_ends(weights @ gap / weights.sum(1), level)


def mean_of_groups(values, groups: Sequence[str], eyes: Sequence[str], level: float = LEVEL, rounds: int = ROUNDS,
                   seed: int = 0) -> tuple[float, float, float]:  # fmt: skip
    """Plain mean over groups of the groups' means, as FIRE's mAUC is, and its interval; eyes are resampled within each group."""
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
