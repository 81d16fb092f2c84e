"""A series as files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..core.files import write_json
from ..core.images import as_array, write_image
from ..mapping.saving import saved_files
from .agreement import Series
from .mosaic import mosaic


def write_series(series: Series, images: Sequence, folder: str | Path) -> None:
    """Write into a folder mosaic.png, series.json with all tables, and for each image, a path or an array, a folder of
    its name: its result and, where it was placed, itself in the reference's frame. Files of an earlier run are replaced.
    """
    out, images = Path(folder).expanduser(), [as_array(image) for image in images]
    for name, image, result in zip(series.names, images, series.results, strict=True):
        own = out / re.sub(r"[^\w.+ -]+", "_", name)
        for old in (*saved_files(own / "result.json"), own / "registered.png"):
            old.unlink(missing_ok=True)
        result.save(own / "result.json")
        if result.ok:
            write_image(own / "registered.png", result.warp(image))
    whole = mosaic(series, images)
    write_image(out / "mosaic.png", whole.picture)
    pairs = [
        {"fixed": series.names[i], "moving": series.names[j], "status": found.status, "confidence": found.confidence}
        | {"misfit_px": series.misfit_px.get((i, j))}
        for (i, j), found in series.pairs.items()
    ]
    told = {
        "reference": series.names[series.reference],
        "images": series.rows(),
        "pairs": pairs,
        "loops": series.loops(),
    }
    where = {
        "scale": whole.scale,
        "shift_xy": whole.shift_xy,
        "convention": "reference px x is (x + 0.5) * scale - 0.5 - shift_xy",
    }
    write_json(out / "series.json", told | {"mosaic": where})
