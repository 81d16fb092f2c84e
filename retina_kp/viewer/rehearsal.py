"""What notebook 08 stands on: the pairs to annotate, a table of how far they are, and a rehearsal by known truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..core.geometry import image_center, warp_points
from ..core.images import image_size
from ..data.clicks import read_bigwarp
from ..data.records import PairRecord
from ..evaluation.batch import find_jobs
from ..evaluation.methods import as_registration
from ..mapping.result import Registration
from .session import Session


def pairs_to_annotate(fixed, moving="", modalities=("CF", "FA"), landmarks: str | Path = "") -> list[PairRecord]:
    """Records of two images, two folders or a data set, see `find_jobs`; pairs without readable images are left out.

    modalities: of images that no data set tells about; landmarks: a folder with BigWarp's <pair id>.csv, whose points
    stand in for those of the data set. ValueError without any usable pair.
    """
    records = []
    for job in find_jobs(fixed, moving):
        if not job.error:
            record = job.record or PairRecord(job.name, job.name, *modalities, job.fixed, job.moving)
            file = Path(landmarks) / f"{record.pair_id}.csv"
            if str(landmarks) and file.is_file():
                points0, points1 = read_bigwarp(file)
                record = replace(record, points0_xy=points0, points1_xy=points1)
            records.append(record)
    if not records:
        raise ValueError(f"{fixed}: no pair whose images can be read")
    return records


def progress_rows(session: Session) -> list[dict]:
    """One line per pair: how many points, the verdict, and why it is not in pairs.csv."""
    rows = []
    for record in session.records:
        clicks, files = session.files[record.pair_id], session.files
        row = {"pair": record.pair_id, "points": int(clicks.complete.sum()), "verdict": clicks.verdict or None}
        rows.append(row | {"not in pairs.csv because": files.why_not(record.pair_id) or None})
    return rows


def rehearse(record: PairRecord, folder: str | Path, clicks: int = 9, noise_px: float = 1.0, wrong_px: float = 15.0):
    """A `Session` on one pair with known H_0to1, clicked by a script: each time where a point would help most, and its
    partner off by some noise, the fifth by wrong_px more, inwards. It is the same as clicking by hand."""
    H_1to0, rng = np.linalg.inv(record.H_0to1), np.random.default_rng(0)

    def truth(fixed: Path, moving: Path) -> Registration:
        return as_registration(H_1to0, image_size(fixed), image_size(moving))

    session = Session([replace(record, points0_xy=None, points1_xy=None)], folder, truth)
    while len(session.pair.points):
        session.act({"do": "delete", "k": 0})
    for k in range(clicks):
        place = session.pair.suggestions(session.pair.start)[0]
        partner = warp_points(place[None], record.H_0to1)[0] + rng.normal(0, noise_px, 2)
        if k == 4:
            inwards = np.array(image_center(session.pair.sizes[1])) - partner
            partner += wrong_px * inwards / np.linalg.norm(inwards)
        session.act({"do": "click", "side": 0, "xy": place.tolist()})
        session.act({"do": "click", "side": 1, "xy": partner.tolist()})
    return session
