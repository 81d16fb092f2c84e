"""What both pictures of a pair have printed on them: frames, text, scale bars. Two different eyes share these, too."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from ..core.geometry import resize_matrix
from ..core.images import fitted_hw, resized
from ..mapping.result import Registration
from .closeup import Warped, Window, common_frame
from .views import ImageViews

SIDE_PX = 15  # of the neighbourhoods that are compared
SAME, STEEP = 0.9, 0.1  # correlation, and change of gray level per px, from which both pictures show the same print
BRIGHT, DIM = 0.5, 0.6  # gray level around from which STEEP holds, and the share of it that is left in the dark
FAINT = 0.01  # standard deviation of gray levels below which a neighbourhood shows nothing
# of what either picture shows apart from steep edges, if that is so much of it, or else of all that is shown: where as
# much is the same, it is one picture given twice
SAME_PICTURE, APART = 0.5, 0.1
# pages are compared at that longer side, where their proportions differ no more; outlines of fields are no print
PAGE_PX, SAME_SHAPE, RIM_PX = 768, 0.005, 31
LITTLE = 0.003  # share of a picture, as a time of day covers: less is chance and left alone
BLANK = 1e-5, 0.01  # variance, and difference of gray levels, of paper
CLUTCH_PX = 4  # print reaches so far into what the network makes of places beside it


def common_print(gray0: np.ndarray, gray1: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(h, w) bool: where two aligned pictures, gray (h, w) float32 in [0, 1], show the same steep edges.

    valid: (h, w) bool, where both show something. Vessels of two modalities, or of one at another time, correlate less
    or are less steep. One picture given twice is the same all over, so that nothing of it counts as print.
    """
    bright = np.maximum(_mean(gray0), _mean(gray1))
    steep = np.minimum(_steepest(gray0), _steepest(gray1)) > STEEP * (bright / BRIGHT).clip(DIM, 1)
    edges = cv2.dilate(steep.astype(np.uint8), np.ones((9, 9))) > 0
    if not edges.any():
        return edges
    gray0, gray1 = (cv2.GaussianBlur(gray, (0, 0), 1.0) for gray in (gray0, gray1))
    mean0, mean1 = _mean(gray0), _mean(gray1)
    variance0, variance1 = _mean(gray0**2) - mean0**2, _mean(gray1**2) - mean1**2
    scale = np.sqrt(np.maximum(variance0, FAINT**2 / 10) * np.maximum(variance1, FAINT**2 / 10))
    same = valid & ((_mean(gray0 * gray1) - mean0 * mean1) > SAME * scale)
    shown = valid & (np.maximum(variance0, variance1) > FAINT**2)
    apart = shown & (cv2.dilate(edges.astype(np.uint8), np.ones((SIDE_PX, SIDE_PX))) == 0)
    if apart.sum() > APART * valid.sum():  # pages may have much in common beside two eyes
        shown = apart
    if (same & shown).sum() > SAME_PICTURE * shown.sum():
        return np.zeros_like(edges)
    return cv2.dilate((same & edges).astype(np.uint8), np.ones((2 * CLUTCH_PX + 1,) * 2)) > 0


def common_page(gray0: np.ndarray, gray1: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(h, w) bool: `common_print` of two pictures, and what paper both have in common around it."""
    page = common_print(gray0, gray1, valid)
    if page.mean() < LITTLE:
        return np.zeros_like(page)
    means, squares = zip(*((_mean(gray), _mean(gray**2)) for gray in (gray0, gray1)), strict=True)
    flat = np.maximum(squares[0] - means[0] ** 2, squares[1] - means[1] ** 2) < BLANK[0]
    return page | flat & (np.abs(means[0] - means[1]) < BLANK[1])


def off_the_page(views0: ImageViews, views1: ImageViews) -> tuple[ImageViews, ImageViews, np.ndarray | None]:
    """Two images without the page that both are printed on, and the matrix (3, 3) that lays one page on the other, moving
    base px → fixed base px; as they are, and None, where there is none. Print stays where it is when an eye turns:
    it would speak for its own place and against the eye's."""
    hw0, hw1 = views0.original_hw, views1.original_hw
    if abs(hw0[0] * hw1[1] / (hw0[1] * hw1[0]) - 1) > SAME_SHAPE:
        return views0, views1, None
    hw = min(hw0, hw1, fitted_hw(hw0, PAGE_PX))
    gray0, gray1 = (resized(views.original, hw)[0] for views in (views0, views1))
    valid = np.minimum(*(_nearest(views.valid, hw) for views in (views0, views1)))
    page = common_page(gray0, gray1, cv2.erode(valid, np.ones((RIM_PX, RIM_PX))) > 0)
    if not page.any():
        return views0, views1, None
    clean0, clean1 = (views.without(_nearest(page, views.original_hw) > 0) for views in (views0, views1))
    H = views0.base_from_original @ resize_matrix(hw1, hw0) @ np.linalg.inv(views1.base_from_original)
    return clean0, clean1, H


def _nearest(mask: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    return cv2.resize(mask.view(np.uint8), hw[::-1], interpolation=cv2.INTER_NEAREST)


def without_common_print(warped: Warped, views0: ImageViews, views1: ImageViews, step: np.ndarray) -> Warped:
    """The same without keypoints and structure on common print, or as it is where there is none.

    step: (3, 3) window px, from where the moving image was warped to where its matches put it."""
    window = warped.window
    drawn = views0.picture(window.from_base, window.hw), views1.picture(step @ window.from_base @ warped.H, window.hw)
    places = _printed(*drawn)
    if not places.any():
        return warped
    moved = cv2.warpPerspective(places.view(np.uint8), np.linalg.inv(step), window.hw[::-1], flags=cv2.INTER_NEAREST)
    return _without(warped, places, moved > 0, views0.network.detector_stride)


def warped_by(result: Registration, views0: ImageViews, views1: ImageViews, close_px: float) -> Warped | None:
    """The moving image warped by all of a result's map into the window around what both images share, without common
    print; None where that is next to nothing."""
    H = views0.base_from_original @ result.H_1to0 @ np.linalg.inv(views1.base_from_original)
    frame = common_frame(views0, views1, H, close_px)
    if frame is None:
        return None
    drawn = views0.picture(frame.from_base, frame.hw), views1.drawn(result.map_grid(*frame.axes_px(views0)))
    features0, features1 = (v.seen(*picture) for v, picture in zip((views0, views1), drawn, strict=True))
    places = _printed(*drawn)
    return _without(Warped(Window(*frame, features0), H, features1), places, places, views0.network.detector_stride)


def _printed(drawn0: tuple, drawn1: tuple) -> np.ndarray:
    """`common_print` of two drawn pictures with their fields of view."""
    (gray0, valid0), (gray1, valid1) = ([x[0, 0].cpu().numpy() for x in drawn] for drawn in (drawn0, drawn1))
    return common_print(gray0, gray1, valid0 & valid1)


def _without(warped: Warped, places0: np.ndarray, places1: np.ndarray, stride: int) -> Warped:
    window = replace(warped.window, features0=warped.window.features0.without(places0, stride))
    return replace(warped, window=window, features1=warped.features1.without(places1, stride))


def _mean(values: np.ndarray) -> np.ndarray:
    return cv2.blur(values, (SIDE_PX, SIDE_PX))


def _steepest(gray: np.ndarray, reach_px: int = 5) -> np.ndarray:
    """The steepest change of gray level per px within some px; edges of two pictures need not meet exactly."""
    slope = cv2.magnitude(cv2.Sobel(gray, -1, 1, 0, scale=1 / 8), cv2.Sobel(gray, -1, 0, 1, scale=1 / 8))
    return cv2.dilate(slope, np.ones((reach_px, reach_px)))
