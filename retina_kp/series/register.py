"""Every image of an eye registered to every other, and all of them to one of them, without contradiction."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from ..core.geometry import inside, lattice
from ..core.images import as_array
from ..mapping.result import Registration
from ..registration.registrar import Registrar
from ..registration.search import starts
from ..registration.views import ImageViews
from .adjustment import DEGREES, Links, Polynomial
from .agreement import MIN_PLACES, SAMPLES, Series, agree

log = logging.getLogger(__name__)
PLANE = ("similarity", "affine")  # models of a registrar that asks for no bend


def register_series(
    registrar: Registrar, images: Sequence, names: Sequence[str] | None = None, reference: str = ""
) -> Series:
    """Bring images of one eye, paths or arrays of any sizes, into the frame of one of them.

    names: of the images, all different; without, those of the files, or numbers. reference: a name; without, the image
    that most others are registered to. Pairs that were refused get a second look where the others put them. ImageError for an unusable image,
    ValueError for fewer than two, for names given twice, and for an unknown reference.
    """
    names = _checked_names(images, names, reference)
    views = [registrar.views(as_array(image, name)) for image, name in zip(images, names, strict=True)]
    pairs = {}
    for i, j in combinations(range(len(names)), 2):
        pairs[i, j] = registrar.attempt(views[i], views[j])
        log.info("%s and %s: %s", names[i], names[j], pairs[i, j].status)
    about = tuple(names), tuple(view.original_hw for view in views)
    how = names.index(reference) if reference else None, DEGREES[:1] if registrar.options.model in PLANE else DEGREES
    series = agree(*about, pairs, links_of(pairs, views), *how)
    if again := look_again(registrar, views, series):
        pairs = series.pairs | again
        series = agree(*about, pairs, links_of(pairs, views), *how)
    return series


def look_again(
    registrar: Registrar, views: Sequence[ImageViews], series: Series
) -> dict[tuple[int, int], Registration]:
    """Those of the refused pairs that are found if one begins where the series puts them."""
    found = {}
    for (i, j), pair in series.pairs.items():
        if pair.ok or not (series.results[i].ok and series.results[j].ok):
            continue
        places = lattice(series.sizes[j], SAMPLES)
        there = series.results[i].map_to_moving(series.results[j].map_to_fixed(places))
        seen = inside(there, series.sizes[i])
        if seen.sum() >= MIN_PLACES:
            H = views[i].base_from_original @ Polynomial.fitted(places[seen], there[seen], 1).H
            begin = starts(views[i], views[j], registrar.options.search, H @ np.linalg.inv(views[j].base_from_original))
            result = registrar.attempt(views[i], views[j], begin)
            log.info("%s and %s, again: %s", series.names[i], series.names[j], result.status)
            found |= {(i, j): result} if result.ok else {}
    return found


def links_of(pairs: dict[tuple[int, int], Registration], views: Sequence[ImageViews]) -> Links:
    """Places that both images of each registered pair show, where these are enough."""
    links = {
        (i, j): common_places(found, views[i].valid, views[j].valid) for (i, j), found in pairs.items() if found.ok
    }
    return {pair: places for pair, places in links.items() if len(places[0]) >= MIN_PLACES}


def _checked_names(images: Sequence, names: Sequence[str] | None, reference: str) -> list[str]:
    files = [Path(image).stem if isinstance(image, (str, Path)) else "" for image in images]
    names = list(names or (file or f"image {number}" for number, file in enumerate(files, 1)))
    twice = {name for name in names if names.count(name) > 1}
    if len(images) < 2 or len(names) != len(images) or twice:
        wrong = f"several are called {min(twice)!r}" if twice else f"there are {len(images)} with {len(names)} names"
        raise ValueError(f"a series is two images or more, each with a name of its own: {wrong}")
    if reference and reference not in names:
        raise ValueError(f"reference: no image {reference!r}; there are {', '.join(names)}")
    return names


def common_places(result: Registration, valid0: np.ndarray, valid1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, 2) px of the fixed and of the moving image, all over what both fields of view, (H, W) bool, hold."""
    places0 = lattice(valid0.shape, SAMPLES)
    places1 = result.map_to_moving(places0)
    seen = inside(places1, valid1.shape)
    for places, valid in ((places0, valid0), (places1, valid1)):
        x, y = np.rint(np.where(seen[:, None], places, 0)).astype(int).T
        seen &= valid[y, x]
    return places0[seen], places1[seen]
