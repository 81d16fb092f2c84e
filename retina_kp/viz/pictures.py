"""Pictures in a notebook's output, each with its alt text."""

from __future__ import annotations

import io
from html import escape

import matplotlib.pyplot as plt
from IPython.display import HTML, Image
from matplotlib.figure import Figure

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
