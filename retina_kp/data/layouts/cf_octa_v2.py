"""Layout 3, CF_OCTA_v2: CF-OCTA pairs with an affine and points, both defined on 256x256 images.

H_0to1 comes from GT_CF_to_OCTA, else from the inverse of GT_OCTA_to_CF. Two files that contradict each other are a
Problem, as is a pair with neither affine nor points. The eye id is the leading number; the folders say the split.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...core.geometry import as_homography, corners, rescale_homography, resize_matrix, warp_points
from ..annotation import read_number_rows
from ..records import Inventory, PairRecord, Problem
from .files import checked_hw, find_folder, images_in, need_image, reporting, rescaled_points

SHAPE = "CF_train|CF_ts + OCTA_train|OCTA_ts + GT_CF_to_OCTA|GT_OCTA_to_CF"
TRUTH_HW = (256, 256)  # the frame of all truth
DISAGREEMENT_PX = 5.0  # at most, in that frame, between one affine and the inverse of the other


def fits(root: Path, mode: str | None = None) -> bool:
    return any(find_folder(root, name) for name in ("CF_train", "CF_ts"))


def load(root: Path, mode: str | None = None) -> Inventory:
    found = Inventory()
    for tag, split in (("train", "train"), ("ts", "test")):
        cf_images, octa_images = images_in(find_folder(root, f"CF_{tag}")), images_in(find_folder(root, f"OCTA_{tag}"))
        numbers = {stem: _number(stem) for stem in cf_images}
        for stem, path in octa_images.items():
            if _number(stem) not in numbers.values():
                found.problems.append(Problem(str(path), f"no image with this number in CF_{tag}", stem))
        for stem, number in numbers.items():
            with reporting(found, cf_images[stem]):
                if not number:
                    raise ValueError("its name does not start with a number")
                images = cf_images[stem], need_image(octa_images, f"{number}OCTA")
                found.add(_record(root, number, *images, tag, split))
    return found


def _number(stem: str) -> str:
    return re.match(r"\d*", stem)[0]


def _record(root: Path, number: str, image0: Path, image1: Path, tag: str, split: str) -> PairRecord:
    hw0, hw1 = checked_hw(image0), checked_hw(image1)
    H_0to1, points = _affine_0to1(root, number), (None, None)
    if H_0to1 is not None:
        H_0to1 = rescale_homography(H_0to1, resize_matrix(TRUTH_HW, hw0), resize_matrix(TRUTH_HW, hw1))
    truth = (find_folder(root, f"Ground_Truth_{tag}") or root) / f"{number}Fundus_OCTA_points.txt"
    if truth.is_file():
        points = rescaled_points(truth, TRUTH_HW, hw0, hw1, minimum=4 if H_0to1 is None else 3)
    elif H_0to1 is None:
        raise ValueError("there is neither an affine nor a file of points for it")
    return PairRecord(f"cfocta_v2_{number}", number, "CF", "OCTA", image0, image1, *points, H_0to1=H_0to1, split=split)


def _affine_0to1(root: Path, number: str) -> np.ndarray | None:
    """CF → OCTA in the 256 px frame from one or both of the two files, None without any."""
    known = {}
    for way in ("CF_to_OCTA", "OCTA_to_CF"):
        path = (find_folder(root, f"GT_{way}") or root) / f"{number}_{way}_affine.txt"
        if path.is_file():
            try:
                known[way] = as_homography(read_number_rows(path, 3))
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from error
    if len(known) == 2:
        there_and_back = warp_points(corners(TRUTH_HW), known["CF_to_OCTA"] @ known["OCTA_to_CF"])
        gap_px = np.linalg.norm(there_and_back - corners(TRUTH_HW), axis=1).max()
        if not gap_px <= DISAGREEMENT_PX:
            raise ValueError(f"GT_CF_to_OCTA and GT_OCTA_to_CF contradict each other by {gap_px:.1f} px at 256x256")
    if "OCTA_to_CF" in known:
        known.setdefault("CF_to_OCTA", as_homography(np.linalg.inv(known["OCTA_to_CF"])))
    return known.get("CF_to_OCTA")
