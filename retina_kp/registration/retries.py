"""What else is tried with a pair that was refused: other proportions of the pixels, and more light."""

from __future__ import annotations

from collections.abc import Iterator

from ..core.images import resized
from ..mapping.result import Registration
from .views import ImageViews

TOO_DARK = "too dark"
# gray levels of `ImageViews.brightest`. Dim retina may be taken for black surround, and the network sees little of it.
# In dark one five levels of 8 bits and the camera's noise are left, and most pairs of one eye fail, brightened or not
DIM, DARK = 0.12, 0.02
BRIGHT = 0.6  # the level to which the brightest parts are raised
EVEN = 1e-4  # standard deviation of gray levels, below which an image is one flat tone


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


def too_dark(name: str, views: ImageViews) -> str:
    """The refusal of an image that is too dark to show vessels, or ""."""
    level = views.brightest()
    if level >= DARK or views.contrast < EVEN:
        return ""
    told = f"the brightest parts of the {name} image reach {level:.1%} of its range"
    return f"{TOO_DARK}: {told}; take it with more light, or export it from the device without loss of levels"


def _raised(registrar, views: ImageViews) -> ImageViews:
    return registrar.views((views.original * (BRIGHT / max(views.brightest(), 1e-6))).clip(0, 1))
