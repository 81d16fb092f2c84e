"""Explorers on the viewer: matches and why each was kept or dropped, labels of PKE as they grow, pairs of an
evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_hex

from ..core.geometry import known_points, warp_points
from ..core.images import as_array, shrink
from ..evaluation.metrics import MEDIAN_LIMIT_PX
from ..mapping.result import Registration
from ..registration.closeup import common_window
from ..registration.keypoints import similarities
from ..registration.registrar import Registrar
from ..training.diagnosis import WatchedSample
from ..training.pke import PkeOptions
from ..viz.evaluation import OUTCOME_LOOKS
from ..viz.gallery import ANSWERED, Shown, title
from .scenes import layer, pair_scene

MIN_SIMILARITY = 0.2  # of `guided_matches`
PAGES = 60  # of a sample's label history, at most
LOW_PX, HIGH_PX, NO_TRANSFORM_PX = 0.3, 100.0, 250.0  # of the axis of errors, and where pairs without a transform stand


# ------------------------------------------------------------------ matches


def matches_scene(
    registrar: Registrar, fixed, moving, result: Registration, modalities=("", ""), side_px: int | None = None
) -> dict:
    """The pair with all that was considered in its last close-up: for every keypoint of the fixed image its most similar
    one nearby in the moving image, and its fate. Arguments as of `pair_scene`, the result being this registrar's.
    Without any transform, found or only tried, there is nothing to tell."""
    fixed, moving = as_array(fixed, "fixed image"), as_array(moving, "moving image")
    if side_px:
        fixed, moving = shrink(fixed, side_px), shrink(moving, side_px)
        result = result.resized(fixed.shape[:2], moving.shape[:2])
    scene = pair_scene(fixed, moving, result, modalities)
    return scene | {"kind": "matches", "matches": explained(registrar, fixed, moving, result)}


def explained(registrar: Registrar, fixed: np.ndarray, moving: np.ndarray, result: Registration) -> list[dict]:
    """The candidates of `matches_scene`: fixed and moving px, similarity, fate (kept, far, taken, unlike), why."""
    if result.H_tried is None:
        return []
    views0, views1, options = registrar.views(fixed), registrar.views(moving), registrar.options.closeup
    H = views0.base_from_original @ result.H_tried @ np.linalg.inv(views1.base_from_original)
    window = common_window(views0, views1, H, options.close_px)
    if window is None:
        return []
    features0, features1 = window.features0, window.warped(views1, H).features1
    original0 = warp_points(features0.keypoints_xy, np.linalg.inv(window.from_base @ views0.base_from_original))
    original1 = warp_points(features1.keypoints_xy, np.linalg.inv(window.from_base @ H @ views1.base_from_original))
    put = result.map_to_fixed(original1) if result.ok else warp_points(original1, result.H_tried)
    px_per_base = 1 / views0.base_from_original[0, 0]
    off = np.linalg.norm(original0[:, None] - put, axis=-1)
    alike = np.where(off <= options.wide_radius_px * px_per_base, similarities(features0, features1), -1.0)
    return _fates(original0, original1, off, alike, options.close_threshold_px * px_per_base)


def _fates(points0, points1, off: np.ndarray, alike: np.ndarray, limit_px: float) -> list[dict]:
    """off, alike: (N0, N1) distance px of the fixed image, and similarity, -1 for what is out of reach."""
    told = []
    if not alike.size:
        return told
    for k, j in enumerate(alike.argmax(1)):
        similarity, distance, rival = float(alike[k, j]), float(off[k, j]), int(alike[:, j].argmax())
        if similarity < 0:
            continue
        if similarity <= MIN_SIMILARITY:
            fate, why = "unlike", f"dropped: nothing nearby is more similar than {MIN_SIMILARITY:g}"
        elif rival != k:
            fate, why = "taken", f"dropped: its partner is more similar to another point ({alike[rival, j]:.2f})"
        elif distance > limit_px:
            fate, why = "far", f"dropped: {distance:.1f} px off the transform, {limit_px:.1f} px are allowed"
        else:
            fate, why = "kept", f"kept: {distance:.1f} px off the transform"
        places = {"fixed": points0[k].round(1).tolist(), "moving": points1[j].round(1).tolist()}
        told.append(places | {"similarity": similarity, "fate": fate, "why": why})
    return told


# ------------------------------------------------------------------ labels of PKE


def labels_scene(sample: WatchedSample, steps_per_epoch: int, options: PkeOptions = PkeOptions()) -> dict:
    """A watched sample over its visits. Of a long history PAGES pages are shown, evenly chosen. ValueError for a sample
    without any."""
    if not sample.pages:
        raise ValueError("this sample was never visited")
    chosen = sorted({round(k) for k in np.linspace(0, len(sample.pages) - 1, min(PAGES, len(sample.pages)))})
    pages = []
    for page in (sample.pages[k] for k in chosen):
        places = page.record.double().numpy().round(1)
        pages.append({"visit": page.visit, "epoch": (page.step + 1) / steps_per_epoch, "places": places.tolist()})
    limits = {"promotion": options.promotion_value, "demotion": options.demotion_value, "value_max": options.value_max}
    annotated = known_points(sample.annotated).numpy().round(1).tolist()
    layers = {"fixed": layer(sample.image)}
    return {"kind": "labels", "layers": layers, "names": ["sample"], "pages": pages, "annotated": annotated, **limits}


# ------------------------------------------------------------------ pairs of an evaluation


def pairs_scene(pairs: Sequence[Shown], chosen: int, side_px: int) -> dict:
    """All pairs as dots, mean error against confidence, and the chosen one to compare, as copies of side_px. ValueError
    without pairs."""
    if not pairs:
        raise ValueError("there is no pair to look at")
    shown = pairs[chosen]
    fixed, moving = shown.record.image0, shown.record.image1
    scene = pair_scene(fixed, moving, shown.result, (shown.record.modality0, shown.record.modality1), side_px)
    used = {pair.outcome for pair in pairs}
    ticks = [[px, f"{px:g}"] for px in (0.5, 1, 2, 5, 10, 20, 50, 100)]
    y = {"label": "mean error (px at 768)", "low": LOW_PX, "high": NO_TRANSFORM_PX, "log": True}
    y |= {"ticks": [*ticks, [NO_TRANSFORM_PX, "none"]], "level": [MEDIAN_LIMIT_PX, ""]}
    x = {"label": "confidence", "low": 0, "high": 1, "ticks": [[v, f"{v:g}"] for v in (0, 0.25, 0.5, 0.75, 1)]}
    looks = OUTCOME_LOOKS | {"answered": ANSWERED}
    chart = {"x": x, "y": y}
    chart["looks"] = {k: {"color": to_hex(c), "shape": shape} for k, (c, _, _, shape) in looks.items() if k in used}
    return scene | {"kind": "pairs", "dots": list(map(_dot, pairs)), "chosen": chosen, "chart": chart}


def _dot(pair: Shown) -> dict:
    """Pairs without truth lie at the bottom, those without a transform at the top."""
    errors, confidence = pair.row["errors_px"], pair.row["confidence"]
    height = LOW_PX if pair.result.ok else NO_TRANSFORM_PX
    if errors is not None:
        height = float(np.clip(pair.row["mean_px"], LOW_PX, HIGH_PX))
    x = float(confidence) if np.isfinite(confidence) else 0.0
    return {"x": x, "y": height, "outcome": pair.outcome, "title": title(pair)}
