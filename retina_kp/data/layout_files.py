"""What stands behind `layouts`: how the files of one pair are found, checked and made a record. Names here are for
`layouts` only."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..core.files import natural_order
from ..core.geometry import (
    as_homography,
    corners,
    image_center,
    jacobian,
    rescale_homography,
    resize_matrix,
    warp_points,
)
from ..core.images import MIN_SIDE_PX, ImageError, image_size
from .records import (
    CSV_COLUMNS,
    Inventory,
    PairRecord,
    Problem,
    check_points,
    parse_numbers,
    read_number_rows,
    read_points,
)

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm")
MODALITIES = {
    "cffa": ("CF", "FA"),
    "cfoct": ("CF", "OCT"),
    "octfa": ("OCT", "FA"),
    "cfocta": ("CF", "OCTA"),
    "fa_cf": ("CF", "FA"),
}
GENERATED_ENDINGS = {"CF": ("cf_512", "cf"), "FA": ("fa_gen", "fa"), "OCT": ("oct_gen", "oct"), "mask": ("seg",)}
MACULAR_ENDINGS = {"CF": ("cf_clip_512", "cf_clip"), "OCTA": ("octa_gen", "octa"), "mask": ("seg_clip",)}
OPERATION_NAME = re.compile(
    r"operation_pre_filtered_(?P<set>(?P<mode>fa_cf|cffa|cfocta|cfoct|octfa)(?:_.*)?)", re.IGNORECASE
)
AFFINE_HW = (256, 256)  # the frame of all truth in CF_OCTA_v2
AFFINE_DISAGREEMENT_PX = 5.0  # at most, in the 256 px frame, between one affine and the inverse of the other
MASKED_FUNDUS = (  # image folder, mask folder, image stem → mask stem
    ("Original", "Ground truth", lambda stem: stem),  # FIVES
    ("images", "1st_manual", lambda stem: stem.split("_")[0] + "_manual1"),  # DRIVE
    ("images", "manual1", lambda stem: stem),  # HRF
    (".", ".", lambda stem: stem + "_1stHO"),  # CHASE_DB1
    ("Images", "Masks", lambda stem: stem + "_1stHO"),  # CHASE_DB1, sorted into folders
)
_log = logging.getLogger(__name__)


# ------------------------------------------------------------------ one pair


def generated_files(folder: Path, mode: str) -> list[Path | None]:
    """Image 0, image 1 and vessel mask of a folder; None for what is not there."""
    return [next((path for path in names if path.is_file()), None) for names in _generated_names(folder, mode)]


def _generated_names(folder: Path, mode: str) -> list[list[Path]]:
    endings = MACULAR_ENDINGS if mode == "cfocta" else GENERATED_ENDINGS
    return [[folder / f"{folder.name}_{ending}.png" for ending in endings[key]] for key in (*MODALITIES[mode], "mask")]


def generated_record(folder: Path, mode: str, found: Inventory, resized: list[Path]) -> PairRecord:
    image0, image1, mask0 = files = generated_files(folder, mode)
    names = [" or ".join(path.name for path in paths) for paths in _generated_names(folder, mode)]
    lacking = [name for name, file in zip(names, files, strict=True) if file is None]
    if image0 is None or image1 is None:
        raise ValueError(f"mode {mode}: {' and '.join(lacking)} is missing")
    image0_hw, image1_hw = checked_hw(image0), checked_hw(image1)
    why = f"{' and '.join(lacking)} is missing" if mask0 is None else mask_problem(mask0, image0_hw, resized)
    if why:
        found.problems.append(Problem(str(folder), f"mode {mode}: loaded without vessel mask: {why}"))
        mask0 = None
    H_0to1 = resize_matrix(image0_hw, image1_hw)
    return PairRecord(
        f"{mode}_{folder.name}", folder.name, *MODALITIES[mode], image0, image1, H_0to1=H_0to1, vessel_mask0=mask0
    )


def cf_octa_record(root: Path, number: str, image0: Path, image1: Path, tag: str, split: str) -> PairRecord:
    image0_hw, image1_hw = checked_hw(image0), checked_hw(image1)
    H_0to1, points = _affine_0to1(root, number), (None, None)
    if H_0to1 is not None:
        H_0to1 = rescale_homography(H_0to1, resize_matrix(AFFINE_HW, image0_hw), resize_matrix(AFFINE_HW, image1_hw))
    truth = (find_folder(root, f"Ground_Truth_{tag}") or root) / f"{number}Fundus_OCTA_points.txt"
    if truth.is_file():
        points = rescaled_points(truth, AFFINE_HW, image0_hw, image1_hw, minimum=4 if H_0to1 is None else 3)
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
        there_and_back = warp_points(corners(AFFINE_HW), known["CF_to_OCTA"] @ known["OCTA_to_CF"])
        gap_px = np.linalg.norm(there_and_back - corners(AFFINE_HW), axis=1).max()
        if not gap_px <= AFFINE_DISAGREEMENT_PX:
            raise ValueError(f"GT_CF_to_OCTA and GT_OCTA_to_CF contradict each other by {gap_px:.1f} px at 256x256")
    if "OCTA_to_CF" in known:
        known.setdefault("CF_to_OCTA", as_homography(np.linalg.inv(known["OCTA_to_CF"])))
    return known.get("CF_to_OCTA")


def csv_record(folder: Path, row: dict[str, str], found: Inventory, resized: list[Path]) -> PairRecord:
    image0_hw, image1_hw = checked_hw(folder / row["image0"]), checked_hw(folder / row["image1"])
    transform = [row[name] for name in ("H_0to1", "T_0to1") if row.get(name)]  # two names of one thing
    if len(set(transform)) > 1:
        raise ValueError("H_0to1 and T_0to1 differ; both mean the transform fixed px → moving px, so leave one out")
    H_0to1 = np.reshape(parse_numbers(transform[0], 9), (3, 3)) if transform else None
    if H_0to1 is not None and np.linalg.det(jacobian(as_homography(H_0to1), image_center(image0_hw))) <= 0:
        raise ValueError("H_0to1 mirrors the retina; check its rows, and whether it maps x y or row column")
    points = [read_points(folder / row[name]) if row.get(name) else None for name in ("points0", "points1")]
    if points[0] is not None and points[1] is not None:
        check_points(*points, image0_hw, image1_hw, minimum=4 if H_0to1 is None else 3)
    mask0 = folder / row["vessel_mask0"] if row.get("vessel_mask0") else None
    if mask0 is not None and (why := mask_problem(mask0, image0_hw, resized)):
        found.problems.append(Problem(str(mask0), f"loaded without vessel mask: {why}"))
        mask0 = None
    if (split := row.get("split", "").lower()) not in ("", "train", "val", "test"):
        raise ValueError(f"split: takes train, val, test or nothing, not {split!r}")
    ids = [row[name] for name in CSV_COLUMNS[:4]]
    return PairRecord(*ids, folder / row["image0"], folder / row["image1"], *points, H_0to1, mask0, split)


def rescaled_points(path: Path, truth_hw, image0_hw, image1_hw, minimum: int) -> list[np.ndarray]:
    """Rows ``x0 y0 x1 y1`` in the frame truth_hw as two (N, 2) arrays in original px, checked."""
    rows = read_number_rows(path, 4)
    points = [
        warp_points(xy, resize_matrix(truth_hw, hw)) for xy, hw in ((rows[:, :2], image0_hw), (rows[:, 2:], image1_hw))
    ]
    check_points(*points, image0_hw, image1_hw, minimum)
    return points


def masked_fundus_in(parent: Path) -> Iterator[tuple[Path, Path]]:
    """(image, vessel mask) of one folder of FIVES, DRIVE, CHASE_DB1 or HRF; what lacks a usable mask is logged and left
    out."""
    for image_name, mask_name, mask_stem in MASKED_FUNDUS:
        images, masks = images_in(find_folder(parent, image_name)), images_in(find_folder(parent, mask_name))
        if not any(mask_stem(stem) in masks for stem in images):
            continue
        for stem, path in images.items():
            if re.search(r"_(1stHO|2ndHO)$", stem):
                continue
            try:
                mask = need_image(masks, mask_stem(stem))
                if checked_hw(mask) != checked_hw(path):
                    raise ValueError(f"its mask {mask.name} has another size")
                yield path, mask
            except (ValueError, OSError) as error:
                _log.warning("%s: left out: %s", path, error)


# ------------------------------------------------------------------ folders, files and reports


@contextmanager
def reporting(found: Inventory, source: object, pair: str = "") -> Iterator[None]:
    """Turn what goes wrong with one pair into a Problem row; the pair is called as its file or folder unless a name is
    given."""
    try:
        yield
    except (ValueError, OSError) as error:
        found.problems.append(Problem(str(source), str(error), pair or Path(str(source)).stem))


def mask_problem(path: Path, image_hw: tuple[int, int], resized: list[Path]) -> str:
    """Why a mask cannot be used: unreadable, or of other proportions than its image; "" when it can. One of mere other
    resolution goes to ``resized``."""
    try:
        h, w = image_size(path)
    except (ValueError, OSError) as error:
        return str(error)
    if abs(h * image_hw[1] - w * image_hw[0]) > max(h, w, *image_hw):
        return f"{path.name} is {w} px wide and {h} px high, its image {image_hw[1]} and {image_hw[0]}: the proportions differ"
    if (h, w) != tuple(image_hw):
        resized.append(path)
    return ""


def report_resized(found: Inventory, masks: list[Path]) -> None:
    if masks:
        more = f" and {len(masks) - 1} more" if len(masks) > 1 else ""
        found.problems.append(
            Problem(f"{masks[0]}{more}", "mask of another resolution than its image: kept, resize it with the image")
        )


def checked_hw(path: Path) -> tuple[int, int]:
    height, width = image_size(path)
    if min(height, width) < MIN_SIDE_PX:
        raise ImageError(
            f"{path}: too small, {height} px high and {width} px wide; each side needs at least {MIN_SIDE_PX} px"
        )
    return height, width


def images_in(folder: Path | None) -> dict[str, Path]:
    """Image files of a folder by stem; of two with one stem the ending earlier in IMAGE_SUFFIXES counts."""
    files = [f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file()] if folder else []
    files.sort(key=lambda f: (natural_order(f.stem), -IMAGE_SUFFIXES.index(f.suffix.lower())))
    return {f.stem: f for f in files if not f.name.startswith(".")}


def need_image(images: dict[str, Path], stem: str) -> Path:
    if stem not in images:
        raise ValueError(f"no image {stem}.png (or another of {', '.join(IMAGE_SUFFIXES)})")
    return images[stem]


def find_folder(parent: Path, name: str) -> Path | None:
    """The subfolder of that name, in any case and with blanks or underscores; "." is the parent itself."""
    wanted = name.lower().replace(" ", "_")
    return (
        parent
        if name == "."
        else next((f for f in subfolders(parent) if f.name.lower().replace(" ", "_") == wanted), None)
    )


def subfolders(parent: Path) -> list[Path]:
    folders = [f for f in parent.iterdir() if f.is_dir() and f.name[0] not in "._"] if parent.is_dir() else []
    return sorted(folders, key=lambda f: natural_order(f.name))


def leading_number(stem: str) -> str:
    return re.match(r"\d*", stem)[0]


def generated_folders(root: Path) -> list[Path]:
    return [folder for folder in subfolders(root) if re.fullmatch(r"\d+_[A-Za-z]", folder.name)]


def operation_sets(root: Path, mode: str | None) -> list[tuple[Path, str, str]]:
    """(folder, set name, mode) of the sets at or in root; with a mode, root itself may have any name."""
    named = [(folder, OPERATION_NAME.fullmatch(folder.name)) for folder in (root.absolute(), *subfolders(root))]
    sets = [(folder, match["set"], match["mode"].lower()) for folder, match in named if match]
    if mode and not sets:
        return (
            [(root, mode, mode)] if any(any(s.endswith("_01") for s in images_in(f)) for f in subfolders(root)) else []
        )
    return [entry for entry in sets if mode in (None, entry[2])]


def fire_truths(root: Path) -> dict[str, Path]:
    """Control point files by pair id."""
    folder = find_folder(root, "Ground Truth")
    named = (
        [(path, re.fullmatch(r"control_points_([SPA]\d+_1_2)", path.stem)) for path in sorted(folder.glob("*.txt"))]
        if folder
        else []
    )
    return {match[1]: path for path, match in named if match}
