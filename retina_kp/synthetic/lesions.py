"""Random lesions of a retina, as rows of numbers that `drawing` turns into layers."""

from __future__ import annotations

import numpy as np

LESIONS = ("hemorrhage", "exudate", "drusen", "scar")


def random_lesions(rng: np.random.Generator, disc: np.ndarray) -> np.ndarray:
    """(L, 5) index in LESIONS, x, y, radius (deg), outline seed: random pathologies in clusters."""
    rows = []
    recipes = {0: (0.5, 25, 0.15, 2.2), 1: (0.45, 40, 0.08, 0.7), 2: (0.35, 60, 0.07, 0.4), 3: (0.35, 60, 0.3, 1.0)}
    for layer, (chance, most, small, large) in recipes.items():
        if rng.random() > chance:
            continue
        for _ in range(rng.integers(1, 4)):
            center, spread = rng.normal(0, 8, 2) - 0.1 * disc, rng.uniform(0.6, 9)
            n = rng.integers(1, most)
            radius = np.exp(rng.uniform(np.log(small), np.log(large), n)) * rng.uniform(0.5, 1.2)
            places, seeds = center + rng.normal(0, spread, (n, 2)), rng.integers(0, 2**31, n)
            rows.append(np.column_stack([np.full(n, layer), places, radius, seeds]))
    return np.concatenate(rows) if rows else np.zeros((0, 5))


def laser_scars(rng: np.random.Generator, reach_deg: float) -> np.ndarray:
    """(L, 5) rows as of `random_lesions`: scars in rough rows all around the macula, the disc's surroundings included."""
    spacing = rng.uniform(1.5, 3.0)
    xy = np.stack(np.meshgrid(*[np.arange(-reach_deg, reach_deg, spacing)] * 2), -1).reshape(-1, 2)
    xy = xy + rng.normal(0, 0.25 * spacing, xy.shape)
    away = np.hypot(*xy.T)
    xy = xy[(away > rng.uniform(7, 20)) & (away < reach_deg) & (rng.random(len(xy)) < rng.uniform(0.3, 0.9))]
    radius, seeds = rng.uniform(0.15, 0.5, len(xy)), rng.integers(0, 2**31, len(xy))
    return np.column_stack([np.full(len(xy), LESIONS.index("scar")), xy, radius, seeds])
