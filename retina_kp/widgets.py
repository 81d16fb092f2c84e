"""Explorers for JupyterLab, built on viz: every one has a static twin for reports."""

from __future__ import annotations

import cv2
import ipywidgets as ipw
import numpy as np

from .images import shrink
from .viz import overlay, show


def to_png(image: np.ndarray, longer_side_px: int = 560) -> bytes:
    """An image as PNG bytes at most longer_side_px wide or high: float in [0, 1] or uint8, gray or RGB."""
    picture = image if image.dtype == np.uint8 else (np.clip(image, 0, 1) * 255).astype(np.uint8)
    picture = shrink(picture, longer_side_px)
    return cv2.imencode(".png", picture[..., ::-1] if picture.ndim == 3 else picture)[1].tobytes()


def swipe_image(fixed: np.ndarray, warped: np.ndarray, position: float) -> np.ndarray:
    """The fixed image left of a vertical line at ``position`` (0 to 1 of the width), the warped one right of it: (H, W, 3) uint8."""
    left, right = (_rgb(x) for x in (fixed, warped))
    column = int(round(np.clip(position, 0, 1) * left.shape[1]))
    picture = np.concatenate([left[:, :column], right[:, column:]], 1)
    picture[:, max(column - 1, 0) : column + 1] = (255, 255, 255)
    return picture


def compare(fixed: np.ndarray, warped: np.ndarray) -> ipw.VBox:
    """Swipe, flicker, blend or overlay two aligned images: a mode switch, a slider and a play button that flickers."""
    shades = overlay(fixed, warped)
    left, right = (_rgb(x) for x in (fixed, warped))
    mode = ipw.ToggleButtons(options=["swipe", "blend", "flicker", "overlay"], value="swipe", style={"button_width": "80px"})
    slider = ipw.FloatSlider(value=0.5, min=0, max=1, step=0.01, readout=False, description="position", layout={"width": "440px"})
    play = ipw.Play(min=0, max=1_000_000, interval=500, show_repeat=False)
    picture = ipw.Image(format="png")

    def draw(_=None):
        slider.layout.display = "" if mode.value in ("swipe", "blend") else "none"
        play.layout.display = "" if mode.value == "flicker" else "none"
        if mode.value == "swipe":
            shown = swipe_image(left, right, slider.value)
        elif mode.value == "blend":
            shown = cv2.addWeighted(left, 1 - slider.value, right, slider.value, 0)
        else:
            shown = shades if mode.value == "overlay" else (left, right)[play.value % 2]
        picture.value = to_png(shown)

    for control in (mode, slider, play):
        control.observe(draw, "value")
    draw()
    return ipw.VBox([mode, ipw.HBox([slider, play]), picture])


def compare_static(fixed: np.ndarray, warped: np.ndarray, positions=(0.25, 0.5, 0.75)):
    """The swipe at a few positions as one figure: the twin of `compare` for reports. Returns the figure."""
    import matplotlib.pyplot as plt

    h, w = np.asarray(fixed).shape[:2]
    figure, axes = plt.subplots(1, len(positions), figsize=(10, 10 / len(positions) * h / w + 0.3), layout="constrained")
    for ax, position in zip(axes, positions, strict=True):
        show(swipe_image(fixed, warped, position), ax, f"fixed ◂ {position:.0%} ▸ moving")
    return figure


def _rgb(image: np.ndarray) -> np.ndarray:
    """Any 8-, 16-bit or float image as (H, W, 3) uint8, stretched to its own range when it is not 8-bit."""
    image = np.asarray(image)
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image.astype(np.float32) - low) / max(high - low, 1e-9) * 255).astype(np.uint8)
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]
