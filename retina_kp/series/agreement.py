"""Links between images of one eye, and the series in which they agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.sparse.csgraph import connected_components, dijkstra

from ..core.geometry import describe, image_center, inside, lattice
from ..mapping.result import Registration, refused
from .adjustment import AT_PX, DEGREES, Links, Polynomial, adjust, best_adjustment, misfits

NOT_CONNECTED, CONTRADICTS = "not connected", "contradicts the other pairs"
SAMPLES, MIN_PLACES = 24, 12  # places along a side of an image, and how many of them a link or a loop needs
CONTRADICTION_PX = 10.0  # median error of a link at AT_PX, from which it is a false one
STEP_COST = 0.02  # of each pair on a chain, beside the doubt in it
RIM = 0.2  # of an image's size, by which its map is followed beyond it: corners of the box around a turned image


@dataclass(frozen=True)
class Series:
    """Images of one eye and where they lie.

    names; sizes (h, w); reference: number of the image in whose px all is told; pairs: what became of every pair, by
    (fixed, moving) number; results: of each image, fixed being the reference, refused where nothing leads to it; paths:
    numbers of the images from one to the reference, by the most trusted pairs; misfit_px: root mean square by which a
    pair disagrees with the results, at a reference of 768 px.
    """

    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    reference: int
    pairs: dict[tuple[int, int], Registration]
    results: tuple[Registration, ...]
    paths: tuple[tuple[int, ...], ...]
    misfit_px: dict[tuple[int, int], float]

    def by_series(self, here: int, there: int, points_xy: np.ndarray) -> np.ndarray:
        """Px (N, 2) of an image → px of another, both placed."""
        return self.results[there].map_to_moving(self.results[here].map_to_fixed(points_xy))

    def by_pair(self, here: int, there: int, points_xy: np.ndarray) -> np.ndarray:
        """The same by their pair alone, in either order."""
        if (here, there) in self.pairs:
            return self.pairs[here, there].map_to_moving(points_xy)
        return self.pairs[there, here].map_to_fixed(points_xy)

    def by_chain(self, image: int, points_xy: np.ndarray) -> np.ndarray:
        """Px (N, 2) of an image → px of the reference by one pair after the other, as without an adjustment."""
        path = self.paths[image]
        for here, there in zip(path, path[1:], strict=False):
            points_xy = self.by_pair(here, there, points_xy)
        return points_xy

    def rows(self) -> list[dict]:
        """A line for each image: turn and scale to the reference, trust, pairs, and how far the chain drifts from it."""
        rows = []
        for k, (name, result) in enumerate(zip(self.names, self.results, strict=True)):
            row = {"image": name, "status": "reference" if k == self.reference else result.status}
            row["pairs"] = sum(k in pair and found.ok for pair, found in self.pairs.items())
            if result.ok:
                shape = describe(result.H_1to0, result.moving_hw)
                row |= {"turn_deg": round(shape.angle_deg, 1) + 0.0, "scale": round(shape.scale, 3)}
                row |= {"confidence": round(result.confidence, 3), "drift_px": round(self.drift_px(k), 2)}
                row["path"] = " › ".join(self.names[each] for each in self.paths[k])
            rows.append(row)
        return rows

    def drift_px(self, image: int) -> float:
        """Mean distance between where the chain and where the adjustment puts an image, at a reference of 768 px."""
        places = lattice(self.sizes[image], SAMPLES)
        off = np.linalg.norm(self.by_chain(image, places) - self.results[image].map_to_fixed(places), axis=1)
        return float(np.nanmean(off)) * AT_PX / max(self.sizes[self.reference])

    def loops(self) -> list[dict]:
        """A line for each loop of three images: mean distance between places and where they come back to, px of the first
        image at 768, by pairs alone and by the results."""
        found = {pair for pair, result in self.pairs.items() if result.ok}
        rows = []
        for loop in combinations([k for k, result in enumerate(self.results) if result.ok], 3):
            start = lattice(self.sizes[loop[0]], SAMPLES)
            if not {*combinations(loop, 2)} <= found:
                continue
            (by_pairs, seen), (by_series, _) = (
                self._round(loop, start, step) for step in (self.by_pair, self.by_series)
            )
            if seen.sum() >= MIN_PLACES:
                off = (np.linalg.norm(back - start, axis=1)[seen].mean() for back in (by_pairs, by_series))
                told = (round(float(px) * AT_PX / max(self.sizes[loop[0]]), 3) for px in off)
                row = {"loop": " › ".join(self.names[k] for k in loop)}
                rows.append(row | dict(zip(("pairs_px", "series_px"), told, strict=True)))
        return rows

    def _round(self, loop: tuple[int, ...], points_xy: np.ndarray, step: Callable) -> tuple[np.ndarray, np.ndarray]:
        """Points (N, 2) px of the first image carried once round a loop, and which of them all its images show."""
        seen = np.ones(len(points_xy), bool)
        for here, there in zip(loop, (*loop[1:], loop[0]), strict=True):
            points_xy = step(here, there, points_xy)
            seen &= inside(points_xy, self.sizes[there])
        return points_xy, seen


def agree(
    names: tuple[str, ...],
    sizes: tuple[tuple[int, int], ...],
    pairs: dict[tuple[int, int], Registration],
    links: Links,
    reference: int | None = None,
    degrees: Sequence[int] = DEGREES,
) -> Series:
    """The series in which links agree best; pairs as of `Series`, links: `register.links_of` them.

    False links are dropped, the worst one first, and their pairs refused: whatever maps an eye's shape asks for,
    they lie far from what all others say.
    """
    pairs, links = dict(pairs), dict(links)
    while True:
        center = most_connected(len(names), links) if reference is None else reference
        cost, paths = chains(len(names), {pair: pairs[pair].confidence for pair in links}, center)
        own = {pair: places for pair, places in links.items() if paths[pair[0]]}
        px = max(sizes[center]) / AT_PX
        off = misfits(own, adjust(own, sizes, center, DEGREES[-1]), px)
        off = {pair: float(np.median(each)) for pair, each in off.items()}
        worst = max(off, key=off.get, default=None)
        if worst is None or off[worst] < CONTRADICTION_PX:
            break
        pairs[worst] = pairs[worst].refuse(f"{CONTRADICTS} by {off[worst]:.0f} px")
        del links[worst]
    sure = [float(np.exp(STEP_COST * max(len(path) - 1, 0) - cost[k])) for k, path in enumerate(paths)]
    none = refused(f"{NOT_CONNECTED}: no pair with an image that leads to {names[center]}", sizes[center], (1, 1))
    for most in range(len(degrees), 0, -1):  # a map that would fold far from all links asks for less freedom
        maps = best_adjustment(own, sizes, center, degrees[:most])
        results = tuple(
            placed(maps[k], sizes[center], hw, sure[k]) if paths[k] else replace(none, moving_hw=hw)
            for k, hw in enumerate(sizes)
        )
        if all(result.ok for result, path in zip(results, paths, strict=True) if path):
            break
    root = {pair: float(np.sqrt(np.mean(off**2))) for pair, off in misfits(own, maps, px).items()}
    return Series(names, sizes, center, pairs, results, paths, root)


def most_connected(count: int, links: Links) -> int:
    """The image with most links in the largest group of images, of several that with most places in common."""
    table = np.zeros((count, count))
    for (i, j), (places, _) in links.items():
        table[i, j] = table[j, i] = len(places)
    _, group = connected_components(table, directed=False)
    in_largest = group == np.bincount(group).argmax()
    return int(np.lexsort((table.sum(0), (table > 0).sum(0), in_largest))[-1])


def chains(count: int, confidence: dict[tuple[int, int], float], reference: int):
    """What the most trusted chain of pairs from each image to the reference costs (count,), and its numbers, () where
    there is none."""
    costs = np.full((count, count), np.inf)
    for (i, j), sure in confidence.items():
        costs[i, j] = costs[j, i] = STEP_COST - np.log(np.clip(sure, 1e-6, 1))
    cost, before = dijkstra(
        np.where(np.isinf(costs), 0, costs), directed=False, indices=reference, return_predecessors=True
    )
    paths = []
    for k in range(count):
        path = [k] if np.isfinite(cost[k]) else []
        while path and path[-1] != reference:
            path.append(int(before[path[-1]]))
        paths.append(tuple(path))
    return cost, tuple(paths)


def placed(to_reference: Polynomial, reference_hw, image_hw, confidence: float) -> Registration:
    """An image's map as a registration to the reference, with the confidence that its chain of pairs is right."""
    H, none = to_reference.H, np.zeros((0, 2))
    angle_deg = describe(H, image_hw).angle_deg
    result = Registration(
        "ok", H, confidence, none, none, np.zeros(0, bool), reference_hw, image_hw, angle_deg=angle_deg, H_tried=H
    )
    if to_reference.degree == 1:
        return result
    places, center = lattice(image_hw, SAMPLES), np.array(image_center(image_hw))
    beyond = (places - center) * (1 + 2 * RIM) + center
    there = to_reference(beyond)
    back = Polynomial.fitted(there, beyond, to_reference.degree + 2)
    bent = result.bent(back, there.min(0), there.max(0), over_xy=to_reference(places))
    return result.refuse("inconsistent geometry: its map would fold") if bent is None else replace(bent, model="auto")
