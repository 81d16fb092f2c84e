"""Look at a folder of pairs before training on it: sizes, gray levels, fields of view, landmarks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.images import ImageError, read_image, to_gray
from ..core.vessels import field_of_view_mask, skeleton_junctions, vessel_mask
from .records import PairRecord, Problem


def image_rows(records: Sequence[PairRecord]) -> tuple[list[dict], list[Problem]]:
    """One row per image: pair, side, modality, size, type, gray levels inside the field of view, and that field's share
    of the frame. Images that cannot be decoded become problems instead."""
    rows, problems = [], []
    for record in records:
        for side, modality, path in (
            ("fixed", record.modality0, record.image0),
            ("moving", record.modality1, record.image1),
        ):
            try:
                image = read_image(path)
            except ImageError as error:
                problems.append(Problem(str(path), str(error)))
                continue
            gray = to_gray(image)
            valid = field_of_view_mask(gray)
            low, middle, high = np.percentile(gray[valid], (2, 50, 98))
            rows.append(
                {
                    "pair": record.pair_id,
                    "side": side,
                    "modality": modality,
                    "height": image.shape[0],
                    "width": image.shape[1],
                    "type": f"{image.dtype}{' RGB' if image.ndim == 3 else ''}",
                    "gray 2 %": round(float(low), 3),
                    "median": round(float(middle), 3),
                    "98 %": round(float(high), 3),
                    "field of view": round(float(valid.mean()), 3),
                }
            )
    return rows, problems


def landmarks(record: PairRecord) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Points worth looking at, fixed px and moving px: hand-picked ones where the record has them, else the junctions
    of the vessel mask carried over by H, else junctions found by a ridge filter (no counterpart). The string says
    which."""
    from ..core.geometry import warp_points

    if record.points0_xy is not None:
        return record.points0_xy, record.points1_xy, "point pairs"
    if record.vessel_mask0 is not None:
        mask = to_gray(read_image(record.vessel_mask0)) > 0.5
        points0, what = skeleton_junctions(mask)[0], "junctions of the mask"
    else:
        gray = to_gray(read_image(record.image0))
        points0, what = (
            skeleton_junctions(vessel_mask(gray, field_of_view_mask(gray)))[0],
            "junctions of a ridge filter",
        )
    return points0, None if record.H_0to1 is None else warp_points(points0, record.H_0to1), what


def gray_histograms(records: Sequence[PairRecord], bins: int = 64) -> dict[str, np.ndarray]:
    """Share of pixels per gray level inside the field of view, (bins,) per modality, all images of it together."""
    counts: dict[str, np.ndarray] = {}
    for record in records:
        for modality, path in ((record.modality0, record.image0), (record.modality1, record.image1)):
            gray = to_gray(read_image(path))
            histogram = np.histogram(gray[field_of_view_mask(gray)], bins, (0, 1))[0]
            counts[modality] = counts.get(modality, np.zeros(bins)) + histogram
    return {modality: c / max(c.sum(), 1) for modality, c in counts.items()}
