"""Pictures in a notebook's output, each with its alt text, and explorers, each with a static twin for reports."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from html import escape

import cv2
import ipywidgets as ipw
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, Image
from matplotlib.figure import Figure

from ..core.images import shrink
from ..core.overlays import overlay
from .registrations import show

REPORT_BYTES = 7_500_000  # of all pictures of pairs together; base64 adds a third


def as_png(figure: Figure | str, alt: str, dpi: int = 100) -> Image | HTML:
    """A chart as PNG, closed afterwards; what a chart says instead of being drawn, a sentence, as text. alt: what the
    picture shows, for those who cannot see it."""
    if isinstance(figure, str):
        return HTML(f"<p><i>{escape(figure)}</i></p>")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.1)
    plt.close(figure)
    return Image(data=content.getvalue(), format="png", alt=alt)


def as_jpeg(figure: Figure, alt: str, share: int = 1, dpi: int = 84) -> Image:
    """A figure as JPEG, closed afterwards; of ``share`` pictures each gets its part of REPORT_BYTES."""
    for smaller, quality in ((1, 88), (1, 78), (1, 66), (1, 52), (1, 38), (0.8, 45), (0.6, 45), (0.4, 45)):
        content = io.BytesIO()
        figure.savefig(content, format="jpeg", dpi=smaller * dpi, pil_kwargs={"quality": quality})
        if content.tell() <= REPORT_BYTES / share:
            break
    plt.close(figure)
    return Image(data=content.getvalue(), format="jpeg", alt=alt)


# ------------------------------------------------------------------ explorers


def to_png(image: np.ndarray, longer_side_px: int = 560) -> bytes:
    """An image as PNG bytes at most longer_side_px wide or high: float in [0, 1] or uint8, gray or RGB."""
    picture = image if image.dtype == np.uint8 else (np.clip(image, 0, 1) * 255).astype(np.uint8)
    picture = shrink(picture, longer_side_px)
    return cv2.imencode(".png", picture[..., ::-1] if picture.ndim == 3 else picture)[1].tobytes()


def swipe_image(fixed: np.ndarray, warped: np.ndarray, position: float) -> np.ndarray:
    """The fixed image left of a vertical line at ``position`` (0 to 1 of the width), the warped one right of it: (H, W,
    3) uint8."""
    left, right = (_rgb(x) for x in (fixed, warped))
    column = int(round(np.clip(position, 0, 1) * left.shape[1]))
    picture = np.concatenate([left[:, :column], right[:, column:]], 1)
    picture[:, max(column - 1, 0) : column + 1] = (255, 255, 255)
    return picture


def compare(fixed: np.ndarray, warped: np.ndarray) -> ipw.VBox:
    """Swipe, flicker, blend or overlay two aligned images: a mode switch, a slider and a play button that flickers."""
    shades = overlay(fixed, warped)
    left, right = (_rgb(x) for x in (fixed, warped))
    mode = ipw.ToggleButtons(
        options=["swipe", "blend", "flicker", "overlay"], value="swipe", style={"button_width": "80px"}
    )
    slider = ipw.FloatSlider(
        value=0.5, min=0, max=1, step=0.01, readout=False, description="position", layout={"width": "440px"}
    )
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
    h, w = np.asarray(fixed).shape[:2]
    figure, axes = plt.subplots(
        1, len(positions), figsize=(10, 10 / len(positions) * h / w + 0.3), layout="constrained"
    )
    for ax, position in zip(axes, positions, strict=True):
        show(swipe_image(fixed, warped, position), ax, f"fixed ◂ {position:.0%} ▸ moving")
    return figure


def step_through(titles: Sequence[str], draw: Callable[[int], bytes]) -> ipw.VBox:
    """One picture at a time out of many: click a line of the list, drag the slider, or use the buttons.

    draw: number of a picture → its PNG or JPEG bytes; called when it is first looked at. ValueError without titles."""
    if not titles:
        raise ValueError("nothing to step through")
    last, seen = len(titles) - 1, {}
    chooser = ipw.Select(
        options=[(title, k) for k, title in enumerate(titles)], rows=min(len(titles), 8), layout={"width": "640px"}
    )
    slider = ipw.IntSlider(value=0, min=0, max=last, description="picture", layout={"width": "440px"})
    back, on = (ipw.Button(description=text, layout={"width": "90px"}) for text in ("◂ before", "next ▸"))
    picture = ipw.Image(layout={"max_width": "100%"})

    def look(_=None):
        chooser.value = number = slider.value
        if number not in seen:
            seen[number] = draw(number)
        picture.value = seen[number]

    slider.observe(look, "value")
    chooser.observe(lambda change: setattr(slider, "value", change["new"]), "value")
    back.on_click(lambda _: setattr(slider, "value", max(slider.value - 1, 0)))
    on.on_click(lambda _: setattr(slider, "value", min(slider.value + 1, last)))
    look()
    return ipw.VBox([chooser, ipw.HBox([back, slider, on]), picture])


def _rgb(image: np.ndarray) -> np.ndarray:
    """Any 8-, 16-bit or float image as (H, W, 3) uint8, stretched to its own range when it is not 8-bit."""
    image = np.asarray(image)
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image.astype(np.float32) - low) / max(high - low, 1e-9) * 255).astype(np.uint8)
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]
