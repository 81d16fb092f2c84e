"""Register one pair and write what people want of it. No notebook and no plotting library is loaded."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ..core.files import write_text
from ..core.geometry import describe
from ..core.images import as_array, shrink, write_image
from ..core.overlays import checkerboard
from ..registration.registrar import Registrar
from ..registration.result import Registration
from ..registration.saving import saved_files
from .page import pair_page

PICTURE_PX = 1600  # longer side of overlay.png and of the page's pictures


def register_pair(
    fixed: str, moving: str, folder: str, weights: str = "lite", device: str = "auto", model: str = "affine"
) -> tuple[Registration, list[Path]]:
    """Register two image files and write the results into a folder, in place of earlier ones; returns the files too.

    ImageError, ValueError or OSError for what cannot be used.
    """
    out, started = Path(folder).expanduser(), time.perf_counter()
    image0, image1 = _image(fixed, "fixed"), _image(moving, "moving")
    result = Registrar.from_pretrained(weights, device=device, model=model)(image0, image1)
    registered, overlay = out / "registered.png", out / "overlay.png"
    for old in (*saved_files(out / "result.json"), registered, overlay):
        old.unlink(missing_ok=True)
    files = result.save(out / "result.json")
    small0, small1 = shrink(image0, PICTURE_PX), shrink(image1, PICTURE_PX)
    pictures = {"fixed": small0, "moving": small1}
    if result.ok:
        small = result.resized(small0.shape[:2], small1.shape[:2])
        warped = small.warp(small1)
        pictures |= {"registered": warped, "overlay": small.overlay(small0, small1)}
        pictures["checkerboard"] = checkerboard(small0, warped, small.covered())
        write_image(registered, result.warp(image1))
        write_image(overlay, pictures["overlay"])
        files = [registered, overlay, *files]
    about = {"fixed image": fixed, "moving image": moving, "weights": weights, "model": model}
    about["time"] = f"{time.perf_counter() - started:.1f} s"
    page = write_text(out / "report.html", pair_page(result, told(result), about, pictures, files))
    return result, [*files, page]


def _image(path: str, name: str) -> np.ndarray:
    """An image file as an array; ValueError with a way out where it is a folder or a table."""
    if Path(path).expanduser().is_dir() or Path(path).suffix.lower() == ".csv":
        many = "retina-kp report 07_register -p fixed FOLDER_OR_TABLE -p moving FOLDER"
        raise ValueError(f"{name}: {path} is no image file; many pairs are registered by {many}")
    return as_array(path, f"{name} image")


def told(result: Registration) -> str:
    """The outcome in a line."""
    if not result.ok:
        return f"refused: {result.status}"
    scale = describe(result.H_1to0, result.moving_hw).scale
    agree = f"{result.inliers.sum()} of {len(result.inliers)} matches agree"
    return f"registered: confidence {result.confidence:.2f}, turn {result.angle_deg:.1f}°, scale {scale:.2f}, {agree}"
