"""What else is tried with a pair that was refused: the place of its print, other proportions of pixels, more light."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..core.images import resized
from ..mapping.result import Registration
from .judging import too_dark
from .search import starts
from .views import ImageViews

# gray level of `ImageViews.brightest`: dim retina may be taken for black surround, and the network sees little of it
DIM = 0.12
BRIGHT = 0.6  # the level to which the brightest parts are raised


def within_print(registrar, views0: ImageViews, views1: ImageViews, page: np.ndarray | None) -> Registration | None:
    """The result where a page, see `off_the_page`, lays the images; None where there is none. What two pictures of one
    device have in common may be the eye itself."""
    if page is None:
        return None
    result = registrar.attempt(views0, views1, starts(views0, views1, registrar.options.search, page))
    return result if result.ok else None


def square_pairs(registrar, views0: ImageViews, views1: ImageViews) -> Iterator[tuple[ImageViews, ImageViews]]:
    """Both, one with square pixels, for each that may have pixels 2 or 4 times as long as wide."""
    for own, views in ((1, views1), (0, views0)):
        if (hw := views.squared_hw()) != views.original_hw:
            square = registrar.views(resized(views.original, hw)[0])
            yield (views0, square) if own else (square, views1)


def squared(registrar, views0: ImageViews, views1: ImageViews) -> Registration | None:
    """The result with square pixels; None where there is none."""
    results = (registrar.attempt(*each) for each in square_pairs(registrar, views0, views1))
    return next((r.resized(views0.original_hw, views1.original_hw) for r in results if r.ok), None)


def brightened(registrar, views0: ImageViews, views1: ImageViews) -> Registration | None:
    """The result with dim images brightened, or its refusal where one is `too_dark` for that; else None."""
    if all(is_bright := [views.brightest() >= DIM for views in (views0, views1)]):
        return None
    pair = zip((views0, views1), is_bright, strict=True)
    result = registrar.attempt(*(views if bright else _raised(registrar, views) for views, bright in pair))
    why = too_dark("fixed", views0) or too_dark("moving", views1)
    return result if result.ok else result.refuse(why) if why else None


def _raised(registrar, views: ImageViews) -> ImageViews:
    return registrar.views((views.original * (BRIGHT / max(views.brightest(), 1e-6))).clip(0, 1))
