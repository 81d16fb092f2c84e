"""Layout 1: aligned images in one folder per eye, so H_0to1 is known: the resizing of image 0 to image 1.

The eye id is the folder's id, its letter the diagnosis. Without a mode, every mode that at least one folder has is
loaded. A folder without its images is left out and reported; one without a usable vessel mask is loaded without mask
and reported. A mask of another resolution is kept and reported once: users' masks are larger than their images.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...core.geometry import resize_matrix
from ..records import Inventory, PairRecord, Problem
from .files import MODES, checked_hw, mask_problem, report_resized, reporting, subfolders

SHAPE = "<id>/<id>_cf_512.png + <id>_fa_gen.png, <id>_oct_gen.png, <id>_seg.png, ... with ids like 1_A"
ENDINGS = {"CF": ("cf_512", "cf"), "FA": ("fa_gen", "fa"), "OCT": ("oct_gen", "oct"), "mask": ("seg",)}
MACULAR_ENDINGS = {"CF": ("cf_clip_512", "cf_clip"), "OCTA": ("octa_gen", "octa"), "mask": ("seg_clip",)}
ENDINGS_OF = {"cffa": ENDINGS, "cfoct": ENDINGS, "octfa": ENDINGS, "cfocta": MACULAR_ENDINGS}


def fits(root: Path, mode: str | None = None) -> bool:
    return bool(_folders(root))


def load(root: Path, mode: str | None = None) -> Inventory:
    found, resized, folders = Inventory(), [], _folders(root)
    if mode not in (None, *ENDINGS_OF):
        raise ValueError(f"mode {mode!r} is unknown in this layout; choose one of {', '.join(ENDINGS_OF)}")
    modes = [mode] if mode else [m for m in ENDINGS_OF if any(None not in _files(f, m)[:2] for f in folders)]
    if not modes:
        why = f"has the images of none of the modes {', '.join(ENDINGS_OF)}"
        found.problems += [Problem(str(folder), why, folder.name) for folder in folders]
    for name in modes:
        for folder in folders:
            with reporting(found, folder, f"{name}_{folder.name}"):
                found.add(_record(folder, name, found, resized))
    report_resized(found, resized)
    return found


def _folders(root: Path) -> list[Path]:
    return [folder for folder in subfolders(root) if re.fullmatch(r"\d+_[A-Za-z]", folder.name)]


def _names(folder: Path, mode: str) -> list[list[Path]]:
    """How image 0, image 1 and vessel mask of a folder may be called; the first name that exists counts."""
    keys = (*MODES[mode], "mask")
    return [[folder / f"{folder.name}_{ending}.png" for ending in ENDINGS_OF[mode][key]] for key in keys]


def _files(folder: Path, mode: str) -> list[Path | None]:
    return [next((path for path in names if path.is_file()), None) for names in _names(folder, mode)]


def _record(folder: Path, mode: str, found: Inventory, resized: list[Path]) -> PairRecord:
    image0, image1, mask0 = files = _files(folder, mode)
    names = [" or ".join(path.name for path in paths) for paths in _names(folder, mode)]
    lacking = " and ".join(name for name, file in zip(names, files, strict=True) if file is None)
    if image0 is None or image1 is None:
        raise ValueError(f"mode {mode}: {lacking} is missing")
    image0_hw, image1_hw = checked_hw(image0), checked_hw(image1)
    why = f"{lacking} is missing" if mask0 is None else mask_problem(mask0, image0_hw, resized)
    if why:
        found.problems.append(Problem(str(folder), f"mode {mode}: loaded without vessel mask: {why}"))
    ids, H_0to1 = (f"{mode}_{folder.name}", folder.name, *MODES[mode]), resize_matrix(image0_hw, image1_hw)
    return PairRecord(*ids, image0, image1, H_0to1=H_0to1, vessel_mask0=None if why else mask0)
