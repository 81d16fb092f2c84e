"""FIRE (CF-CF): images <c>_1 (fixed) and <c>_2 with control points given at 2912x2912 px.

The eye id is <c>, whose letter is the category: S easy, P hard, A moderate.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..records import Inventory, PairRecord
from .files import checked_hw, find_folder, images_in, need_image, reporting, rescaled_points

SHAPE = "Images/<c>_1.jpg + <c>_2.jpg + Ground Truth/control_points_<c>_1_2.txt"
FIRE_HW = (2912, 2912)
FIRE_PAIR = re.compile(r"([SPA]\d+)_1_2")
EXCLUDED = {"P37_1_2": "its control points are known to be wrong; published FIRE tables leave it out (133 pairs)"}


def fits(root: Path, mode: str | None = None) -> bool:
    return bool(_truths(root)) and bool(images_in(find_folder(root, "Images")))


def load(root: Path, mode: str | None = None) -> Inventory:
    found, truths, images = Inventory(), _truths(root), images_in(find_folder(root, "Images"))
    eyes = {stem[:-2] for stem in images if re.fullmatch(r"[SPA]\d+_[12]", stem)} | {pair_id[:-4] for pair_id in truths}
    for eye in sorted(eyes):
        pair_id = f"{eye}_1_2"
        with reporting(found, truths.get(pair_id, root / pair_id), pair_id):
            if pair_id in EXCLUDED:
                raise ValueError(EXCLUDED[pair_id])
            if pair_id not in truths:
                raise ValueError(f"no control_points_{pair_id}.txt in Ground Truth")
            image0, image1 = need_image(images, f"{eye}_1"), need_image(images, f"{eye}_2")
            points = rescaled_points(truths[pair_id], FIRE_HW, checked_hw(image0), checked_hw(image1))
            found.add(PairRecord(pair_id, eye, "CF", "CF", image0, image1, *points))
    return found


def _truths(root: Path) -> dict[str, Path]:
    """Control point files by pair id."""
    folder = find_folder(root, "Ground Truth")
    files = (
        {path.stem.removeprefix("control_points_"): path for path in folder.glob("control_points_*.txt")}
        if folder
        else {}
    )
    return {pair_id: path for pair_id, path in files.items() if FIRE_PAIR.fullmatch(pair_id)}
