"""Layout 2: real pairs with clicked points; image 01 is fixed, and its points are in <name>_01.txt.

root is one set or the folder that holds several; with a mode, a set of any name. The eye id is what stands before the
first underscore of the folder's name (003_01 → 003). The same number in two sets counts as one eye, so that a split can
never tear an eye apart.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..annotation import check_points, read_number_rows
from ..records import Inventory, PairRecord, Problem
from .files import MODES, checked_hw, images_in, need_image, reporting, subfolders

SHAPE = (
    "operation_pre_filtered_{cffa,cfoct,octfa,cfocta,fa_cf}/<folder>/<name>_01.png + _01.txt + <name>_02.png + _02.txt"
)
SET_NAME = re.compile(r"operation_pre_filtered_(?P<set>(?P<mode>fa_cf|cffa|cfocta|cfoct|octfa)(?:_.*)?)", re.IGNORECASE)


def fits(root: Path, mode: str | None = None) -> bool:
    return bool(_sets(root, mode))


def load(root: Path, mode: str | None = None) -> Inventory:
    found = Inventory()
    for folder, set_name, set_mode in _sets(root, mode):
        for pair_folder in subfolders(folder):
            _load_folder(found, pair_folder, f"{set_name}_{pair_folder.name}", set_mode)
    return found


def _load_folder(found: Inventory, folder: Path, pair_id: str, mode: str) -> None:
    """Add the pairs of one folder, nearly always one."""
    images = images_in(folder)
    names = [stem[:-3] for stem in images if stem.endswith("_01")]
    if not names:
        found.problems.append(Problem(str(folder), "has no image named <name>_01", pair_id))
    for name in names:
        own_id = f"{pair_id}_{name}" if len(names) > 1 else pair_id
        with reporting(found, folder / name, own_id):
            image0, image1 = need_image(images, f"{name}_01"), need_image(images, f"{name}_02")
            points = [read_number_rows(folder / f"{name}_0{side}.txt", 2) for side in (1, 2)]
            check_points(*points, checked_hw(image0), checked_hw(image1))
            found.add(PairRecord(own_id, folder.name.split("_")[0], *MODES[mode], image0, image1, *points))


def _sets(root: Path, mode: str | None) -> list[tuple[Path, str, str]]:
    """(folder, set name, mode) of the sets at or in root."""
    named = [(folder, SET_NAME.fullmatch(folder.name)) for folder in (root.absolute(), *subfolders(root))]
    sets = [(folder, match["set"], match["mode"].lower()) for folder, match in named if match]
    if mode and not sets and any(stem.endswith("_01") for folder in subfolders(root) for stem in images_in(folder)):
        return [(root, mode, mode)]
    return [entry for entry in sets if mode in (None, entry[2])]
