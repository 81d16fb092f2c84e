"""The page about one pair: one HTML file to mail, pictures inside, no scripts, no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import cv2
import numpy as np

from ..core.images import shrink
from ..core.overlays import displayable
from ..registration.result import Registration

SHOWN_PX = 900  # longer side of a picture
PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title><style>
body {font: 16px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222}
.verdict {padding: .6em 1em; border-left: 6px solid; font-weight: 600}
.good {background: #e6f4ea; border-color: #188038} .bad {background: #fff3cd; border-color: #d39e00}
.pictures {display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 1em}
figure {margin: 0} img {width: 100%; display: block; background: #000}
.flicker {position: relative} .flicker img + img {position: absolute; inset: 0; opacity: 0}
.flicker:hover img + img {opacity: 1}
figcaption {font-size: .9em; color: #555} th {text-align: left; font-weight: 400; color: #555; padding-right: 1.5em}
td {overflow-wrap: anywhere} pre {background: #f5f5f5; padding: .8em; overflow-x: auto}
</style></head><body>
<h1>$title</h1>
<p class="verdict $kind">$verdict</p>
$body
<h2>The run</h2><table>$about</table>
</body></html>
""")
CAPTIONS = {
    "overlay": "Vessels of the fixed image in green, of the registered one in magenta: white where they coincide.",
    "flicker": "The fixed image; hold the pointer on it to see the registered one.",
    "checkerboard": "Tiles of both images in turn: vessels must run on across the edges.",
    "fixed": "The fixed image.",
    "moving": "The moving image, as it was given.",
}
RESULT = Template("""<p>The confidence is the probability that the corners lie within 20 px of the truth on average,
for a fixed image whose longer side is scaled to 768 px.</p>
<div class="pictures">$pictures</div>
<h2>The matrix</h2><pre>$matrix</pre>
<p>It maps a pixel (x, y, 1) of the moving image to the fixed one. The centre of the top-left pixel is (0, 0).</p>
<p>Written beside this page: $files. Carry other images, masks or points with
<code>retina-kp apply result.json FILE</code>.</p>""")
ADVICE = Template("""<p>Nothing was registered. Do both images show the same eye, and the same part of it? Are vessels
in focus? Is one of them mirrored? Where little is shared, a model with less freedom can help:
<code>--model similarity</code>.</p>
<div class="pictures">$pictures</div>""")


def pair_page(
    result: Registration, verdict: str, about: Mapping[str, str], pictures: dict[str, np.ndarray], files: Sequence[Path]
) -> str:
    """The page's HTML. pictures: "fixed", "moving" and, where registered, "registered", "overlay", "checkerboard"."""
    shown = {name: [picture] for name, picture in pictures.items()}
    if result.ok:
        shown["flicker"] = [*shown.pop("fixed"), pictures["registered"]]
    figures = "".join(_figure(name, shown[name]) for name in CAPTIONS if name in shown)
    body = ADVICE.substitute(pictures=figures)
    if result.ok:
        matrix = np.array2string(result.H_1to0, precision=6, suppress_small=True)
        names = ", ".join(f"<code>{path.name}</code>" for path in files)
        body = RESULT.substitute(pictures=figures, matrix=matrix, files=names)
    title = f"{Path(about['moving image']).name} on {Path(about['fixed image']).name}"
    rows = "".join(f"<tr><th>{name}</th><td>{escape(str(value))}</td></tr>" for name, value in about.items())
    kind = "good" if result.ok else "bad"
    return PAGE.substitute(title=escape(title), kind=kind, verdict=escape(verdict), body=body, about=rows)


def _figure(name: str, pictures: Sequence[np.ndarray]) -> str:
    """One picture with its caption, or two on one place."""
    images = "".join(f'<img alt="{name}" src="data:image/jpeg;base64,{_jpeg(picture)}">' for picture in pictures)
    return f'<figure><div class="{name}">{images}</div><figcaption>{CAPTIONS[name]}</figcaption></figure>'


def _jpeg(picture: np.ndarray) -> str:
    """A picture (H, W) or (H, W, 3) RGB of any type as JPEG in base64."""
    pixels = np.rint(displayable(shrink(picture, SHOWN_PX)) * 255).astype(np.uint8)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.ndim == 3 else cv2.COLOR_GRAY2BGR)
    return base64.b64encode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()).decode()
