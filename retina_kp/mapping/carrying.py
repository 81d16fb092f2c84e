"""What a registration carries from one image into the frame of the other: pictures, points, boxes, polygons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

SIDE = np.column_stack([np.linspace(0, 1, 17), np.zeros(17)])  # carried sides may bulge
RIM = np.concatenate([SIDE, 1 - SIDE[::-1, ::-1], 1 - SIDE, SIDE[::-1, ::-1]])  # once round the unit square
# keys under which annotations hold places; GeoJSON has the third
SHAPES = ("points", "polygons", "coordinates", "boxes")


def carry(result, data, to: str, labels: bool):
    """`Registration.apply_to`."""
    if to not in ("fixed", "moving"):
        raise ValueError(f"to: takes 'fixed' or 'moving', the image whose frame is wanted, not {to!r}")
    if isinstance(data, dict):
        return carry_annotations(result, data, to)
    if isinstance(data, (list, tuple)) and not _regular(data):
        return [carry(result, each, to, labels) for each in data]
    if isinstance(data, (str, Path)) or not _places(np.asarray(data)):
        return (result if to == "fixed" else result.inverse()).warp(data, labels)
    data = np.asarray(data, np.float64)
    move = result.map_to_fixed if to == "fixed" else result.map_to_moving
    return boxes_around(data, move) if data.shape[-1] == 4 else move(data.reshape(-1, 2)).reshape(data.shape)


def carry_annotations(result, tree, to: str):
    """The same nest of dicts and lists with the numbers under SHAPES carried, rounded to 0.001 px, and all else kept:
    plain JSON as of ``{"points": [[x, y], …], "polygons": […], "boxes": [[x0, y0, x1, y1], …]}``, or GeoJSON. What has
    no place there is null. ValueError, with what is understood, where nothing of it is there."""
    found = []

    def walk(branch):
        if isinstance(branch, dict):
            return {key: place(value) if key in SHAPES else walk(value) for key, value in branch.items()}
        return [walk(each) for each in branch] if isinstance(branch, list) else branch

    def place(value):
        if not isinstance(value, (list, np.ndarray)) or any(isinstance(each, dict) for each in value):
            return walk(value)
        found.append(value)
        return _plain(value, lambda places: carry(result, places, to, False))

    carried = walk(tree)
    if not found:
        raise ValueError(f"no annotations: places are looked for under {', '.join(SHAPES)}, as lists of numbers")
    return carried


def boxes_around(boxes: np.ndarray, move: Callable) -> np.ndarray:
    """(N, 4) px, the upright boxes x0 y0 x1 y1 around what ``move``, a map of points, makes of boxes (N, 4)."""
    boxes = np.reshape(boxes, (-1, 2, 2))
    outline = boxes[:, None, 0] + RIM * (boxes[:, None, 1] - boxes[:, None, 0])
    moved = move(outline.reshape(-1, 2)).reshape(outline.shape)
    return np.concatenate([moved.min(1), moved.max(1)], 1)


def _plain(value, move: Callable):
    """Lists of numbers, nested to any depth, carried as lists again; one pair of numbers is a point."""
    if len(value) == 0:
        return []
    if _regular(value) and _places(np.atleast_2d(value)):
        moved = np.reshape(move(np.atleast_2d(value)), np.shape(value)).round(3)
        return np.where(np.isfinite(moved), moved, None).tolist()
    if not isinstance(value, (list, np.ndarray)) or not all(isinstance(each, (list, np.ndarray)) for each in value):
        raise ValueError(f"a place is x y, a box x0 y0 x1 y1; this is neither: {str(value)[:60]}")
    return [_plain(each, move) for each in value]


def _regular(data) -> bool:
    """Whether lists of numbers nest as an array does."""
    try:
        return np.asarray(data).dtype.kind in "iuf"
    except ValueError:
        return False


def _places(data: np.ndarray) -> bool:
    """Whether an array holds points (…, 2) or boxes (N, 4), and no picture."""
    return data.shape[-1:] == (2,) or data.shape[1:] == (4,)
