"""Register one pair, write what people want of it and a page to mail.

No notebook and no plotting library is loaded.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import cv2
import numpy as np

from ..core.dicom import add_identities
from ..core.files import as_spelled, write_text
from ..core.geometry import describe
from ..core.images import shrink, write_image
from ..core.overlays import checkerboard, displayable
from ..mapping.result import Registration
from ..mapping.saving import saved_files
from ..registration.large import Copy, copies_by_points, register_copies, warp_file
from ..registration.registrar import WHAT_TO_TRY, Registrar
from ..viewer.page import embedded
from ..viewer.scenes import PAGE_PX, pair_scene

PICTURE_PX = 1600  # longer side of overlay.png
SHOWN_PX = 900  # longer side of a picture
PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title><style>
:root {color-scheme: light dark; --quiet: #555; --good: #e6f4ea; --bad: #fff3cd; --box: #f5f5f5}
@media (prefers-color-scheme: dark) {:root {--quiet: #bbb; --good: #173a22; --bad: #4a3a08; --box: #2a2a2a}}
body {font: 16px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em}
.verdict {padding: .6em 1em; border-left: 6px solid; font-weight: 600}
.good {background: var(--good); border-color: #188038} .bad {background: var(--bad); border-color: #d39e00}
.pictures {display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1em}
figure {margin: 0} img {width: 100%; display: block; background: #000}
figcaption {font-size: .9em; color: var(--quiet)}
th {text-align: left; font-weight: 400; color: var(--quiet); padding-right: 1.5em}
td {overflow-wrap: anywhere} pre {background: var(--box); padding: .8em; overflow-x: auto}
</style></head><body>
<h1>$title</h1>
<p class="verdict $kind">$verdict</p>
$body
<h2>The run</h2><table>$about</table>
</body></html>
""")
CAPTIONS = {
    "overlay": "Vessels of the fixed image in green, of the registered one in magenta: white where they coincide.",
    "checkerboard": "Tiles of both images in turn: vessels must run on across the edges.",
    "fixed": "The fixed image.",
    "moving": "The moving image, as it was given.",
}
RESULT = Template("""<p>The confidence is the probability that the corners lie within 20 px of the truth on average,
for a fixed image whose longer side is scaled to 768 px.</p>
$viewer
<div class="pictures">$pictures</div>
<h2>The matrix</h2><pre>$matrix</pre>
<p>It maps a pixel (x, y, 1) of the moving image to the fixed one. The centre of the top-left pixel is (0, 0).</p>
<p>Written beside this page: $files. Carry other images, masks or points with
<code>retina-kp apply result.json FILE</code>.</p>""")
ADVICE = Template(f"""<p>Nothing was registered. {WHAT_TO_TRY}</p>
<div class="pictures">$pictures</div>""")


def register_pair(
    fixed: str,
    moving: str,
    folder: str,
    weights: str = "lite",
    device: str = "auto",
    model: str = "auto",
    points: str | None = None,
    points_alone: bool = False,
) -> tuple[Registration, list[Path]]:
    """Register two image files and write the results into a folder, in place of earlier ones; returns the files too.

    points: a file with x0 y0 x1 y1 in each row, px of a place in the fixed and in the moving image; points_alone: fit
    these and look at no image. ImageError, ValueError or OSError for what cannot be used.
    """
    out, started = Path(folder).expanduser(), time.perf_counter()
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: name a folder for the results")
    path0, path1 = as_spelled(fixed), as_spelled(moving)
    copy0, copy1 = _image(path0, "fixed"), _image(path1, "moving")
    clicks = _clicks(points)
    if points_alone:
        if points is None:
            raise ValueError("--points-alone needs a file of --points")
        result = copies_by_points(copy0, copy1, *clicks)
    else:
        result = register_copies(Registrar.from_pretrained(weights, device=device, model=model), copy0, copy1, *clicks)
    registered, overlay = out / "registered.png", out / "overlay.png"
    for old in (*saved_files(out / "result.json"), registered, overlay):
        old.unlink(missing_ok=True)
    files = result.save(out / "result.json")
    add_identities(out / "result.json", fixed, moving)
    small0, small1 = shrink(copy0.image, PICTURE_PX), shrink(copy1.image, PICTURE_PX)
    del copy0
    pictures = {"fixed": small0, "moving": small1}
    if result.ok:
        small = result.resized(small0.shape[:2], small1.shape[:2])
        pictures["overlay"] = small.overlay(small0, small1)
        pictures["checkerboard"] = checkerboard(small0, small.warp(small1), small.covered())
        write_image(registered, warp_file(result, moving, copy1))
        write_image(overlay, pictures["overlay"])
        files = [registered, overlay, *files]
    chosen = f"{model}: {result.model} was chosen" if result.ok and result.model != model else model
    if result.displacement is not None:
        bend_px = np.linalg.norm(result.displacement.knots, axis=-1).max()
        chosen = f"{model}: bends by up to {bend_px:.1f} px of the fixed image"
    about = {"fixed image": fixed, "moving image": moving, "weights": weights, "model": chosen}
    about["time"] = f"{time.perf_counter() - started:.1f} s"
    page = write_text(out / "report.html", pair_page(result, told(result), about, pictures, files))
    return result, [*files, page]


def _image(path: Path, name: str) -> Copy:
    """An image file, checked; ValueError with a way out where it is a folder or a table."""
    if path.is_dir() or path.suffix.lower() == ".csv":
        many = "retina-kp report 07_register -p fixed FOLDER_OR_TABLE -p moving FOLDER"
        raise ValueError(f"{name}: {path} is no image file; many pairs are registered by {many}")
    return Copy.read(path)


def _clicks(path: str | None) -> tuple:
    """Points (N, 2) of the fixed and of the moving image in a file, or nothing without a file."""
    if path is None:
        return ()
    from ..data.annotation import read_number_rows  # which loads pandas; a pair without points needs none

    return tuple(np.hsplit(read_number_rows(Path(path).expanduser(), 4), 2))


def told(result: Registration) -> str:
    """The outcome in a line."""
    if not result.ok:
        return f"refused: {result.status}"
    clicked = f" from {result.evidence['points_given']:.0f} points" if "points_given" in result.evidence else ""
    if np.isnan(result.confidence):
        return f"fitted{clicked} alone, which no image confirms: turn {result.angle_deg:.1f}°"
    scale = describe(result.H_1to0, result.moving_hw).scale
    agree = f"{result.inliers.sum()} of {len(result.inliers)} matches agree"
    return f"registered{clicked}: confidence {result.confidence:.2f}, turn {result.angle_deg:.1f}°, scale {scale:.2f}, {agree}"


# ------------------------------------------------------------------ the page, one HTML file that fetches nothing


def pair_page(
    result: Registration, verdict: str, about: Mapping[str, str], pictures: dict[str, np.ndarray], files: Sequence[Path]
) -> str:
    """The page's HTML. pictures: "fixed", "moving" and, where registered, "overlay" and "checkerboard"."""
    names = ("overlay", "checkerboard") if result.ok else ("fixed", "moving")
    figures = "".join(_figure(name, pictures[name]) for name in names)
    body = ADVICE.substitute(pictures=figures)
    if result.ok:
        viewer = embedded(pair_scene(pictures["fixed"], pictures["moving"], result, side_px=PAGE_PX))
        matrix = np.array2string(result.H_1to0, precision=6, suppress_small=True)
        written = ", ".join(f"<code>{path.name}</code>" for path in files)
        body = RESULT.substitute(viewer=viewer, pictures=figures, matrix=matrix, files=written)
    title = f"{Path(about['moving image']).name} on {Path(about['fixed image']).name}"
    rows = "".join(f"<tr><th>{name}</th><td>{escape(str(value))}</td></tr>" for name, value in about.items())
    kind = "good" if result.ok else "bad"
    return PAGE.substitute(title=escape(title), kind=kind, verdict=escape(verdict), body=body, about=rows)


def _figure(name: str, picture: np.ndarray) -> str:
    """A picture with its caption."""
    image = f'<img alt="{name}" src="data:image/jpeg;base64,{_jpeg(picture)}">'
    return f"<figure>{image}<figcaption>{CAPTIONS[name]}</figcaption></figure>"


def _jpeg(picture: np.ndarray) -> str:
    """A picture (H, W) or (H, W, 3) RGB of any type as JPEG in base64."""
    pixels = np.rint(displayable(shrink(picture, SHOWN_PX)) * 255).astype(np.uint8)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.ndim == 3 else cv2.COLOR_GRAY2BGR)
    return base64.b64encode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()).decode()
