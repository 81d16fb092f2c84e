"""Pages as devices print them: a frame, titles, a scale bar and a logo, around a picture and within it.

Two eyes on one page share all of its print. Nothing of that speaks for a registration.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

LETTERS = np.array(list("ABCDEFGHIKLMNOPRSTUVZ 0123456789:./"))
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)


@dataclass(frozen=True)
class Page:
    """A page without its picture. coverage: (H, W) float32, how much ink covers a pixel, 0 to 1; paper, ink: gray
    levels, 0 to 255; corner_xy, picture_hw: where the picture lies, px."""

    coverage: np.ndarray
    paper: int
    ink: int
    corner_xy: tuple[int, int]
    picture_hw: tuple[int, int]

    def around(self, image: np.ndarray) -> np.ndarray:
        """The page with a picture, uint8 HxW or HxWx3 of any size, in its place."""
        (x, y), (h, w) = self.corner_xy, self.picture_hw
        page = np.full((*self.coverage.shape, *image.shape[2:]), self.paper, np.float32)
        page[y : y + h, x : x + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
        coverage = self.coverage if image.ndim == 2 else self.coverage[..., None]
        return np.rint(page + coverage * (self.ink - page)).astype(np.uint8)


def draw_page(rng: np.random.Generator, picture_hw=(640, 640)) -> Page:
    """A page with margins of any width: often a frame around the picture or the page, a scale bar, a logo with a
    legend, and lines of text, above, below and on the picture."""
    (h, w), (left, top, right, bottom) = picture_hw, rng.integers(0, 130, 4) * rng.integers(0, 2, 4)
    height, width = h + top + bottom, w + left + right
    paper, ink = ((0, 255), (0, 190), (255, 0), (60, 230), (200, 20))[rng.integers(5)]
    coverage = np.zeros((height, width), np.uint8)
    if rng.random() < 0.8:
        cv2.rectangle(coverage, (left, top), (left + w - 1, top + h - 1), 255, int(rng.integers(1, 7)))
    if rng.random() < 0.6:
        cv2.rectangle(coverage, (3, 3), (width - 4, height - 4), 255, int(rng.integers(1, 5)))
    for _ in range(rng.integers(2, 9)):  # on the paper or on the picture's rim
        x, y = rng.integers(0, max(width // 2, 1)), rng.choice((rng.integers(12, 90), height - rng.integers(8, 90)))
        _write(coverage, rng, (x, y))
    if rng.random() < 0.7:
        _draw_scale_bar(coverage, rng, (left + rng.integers(10, w // 2), top + h - rng.integers(20, 120)))
    if rng.random() < 0.5:
        _draw_logo(coverage, rng, (rng.integers(20, width - 60), rng.integers(20, height - 20)))
    return Page(coverage.astype(np.float32) / 255, paper, ink, (int(left), int(top)), (h, w))


def _write(coverage: np.ndarray, rng: np.random.Generator, at_xy) -> None:
    text, size = "".join(rng.choice(LETTERS, rng.integers(8, 40))), float(rng.uniform(0.5, 1.2))
    font, thickness = FONTS[rng.integers(len(FONTS))], int(rng.integers(1, 3))
    cv2.putText(coverage, text, tuple(map(int, at_xy)), font, size, 255, thickness, cv2.LINE_AA)


def _draw_scale_bar(coverage: np.ndarray, rng: np.random.Generator, at_xy) -> None:
    """A bar with ticks, and its length beside it."""
    (x, y), length = map(int, at_xy), int(rng.integers(60, 250))
    cv2.line(coverage, (x, y), (x + length, y), 255, int(rng.integers(1, 4)))
    for tick in np.linspace(x, x + length, rng.integers(2, 6)).astype(int):
        cv2.line(coverage, (int(tick), y - 6), (int(tick), y + 6), 255, 1)
    cv2.putText(coverage, f"{rng.integers(100, 2000)} um", (x + 5, y + 24), FONTS[0], 0.6, 255, 1, cv2.LINE_AA)


def _draw_logo(coverage: np.ndarray, rng: np.random.Generator, at_xy) -> None:
    """Rings with a cross, and a legend of ticks."""
    x, y = map(int, at_xy)
    for radius in range(8, int(rng.integers(10, 34)), 6):
        cv2.circle(coverage, (x, y), radius, 255, 1, cv2.LINE_AA)
    cv2.drawMarker(coverage, (x, y), 255, cv2.MARKER_CROSS, 30, 1)
    for k in range(rng.integers(0, 8)):
        cv2.line(coverage, (x + 40, y + 14 * k), (x + 52, y + 14 * k), 255, 1)
