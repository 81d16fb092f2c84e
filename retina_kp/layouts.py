"""The folder layouts users already have, each turned into an `Inventory` of pair records; nothing downstream knows a layout.

One bad pair never stops a load: it is left out and becomes a Problem that names file and reason. Images are checked by header only.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .geometry import as_homography, corners, rescale_homography, resize_matrix, warp_points
from .images import MIN_SIDE_PX, ImageError, image_size
from .records import CSV_COLUMNS, Inventory, PairRecord, Problem, check_points, parse_numbers, read_number_rows, read_points

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm")
MODALITIES = {"cffa": ("CF", "FA"), "cfoct": ("CF", "OCT"), "octfa": ("OCT", "FA"), "cfocta": ("CF", "OCTA"), "fa_cf": ("CF", "FA")}
GENERATED_MODES = ("cffa", "cfoct", "octfa", "cfocta")
GENERATED_ENDINGS = {"CF": ("cf_512", "cf"), "FA": ("fa_gen", "fa"), "OCT": ("oct_gen", "oct"), "mask": ("seg",)}
MACULAR_ENDINGS = {"CF": ("cf_clip_512", "cf_clip"), "OCTA": ("octa_gen", "octa"), "mask": ("seg_clip",)}
OPERATION_NAME = re.compile(r"operation_pre_filtered_(?P<set>(?P<mode>fa_cf|cffa|cfocta|cfoct|octfa)(?:_.*)?)", re.IGNORECASE)
AFFINE_HW = (256, 256)  # the frame of all truth in CF_OCTA_v2
AFFINE_DISAGREEMENT_PX = 5.0  # at most, in the 256 px frame, between one affine and the inverse of the other
FIRE_HW = (2912, 2912)
FIRE_EXCLUDED = {"P37_1_2": "its control points are known to be wrong; published FIRE tables leave it out (133 pairs)"}
MASKED_FUNDUS = (  # image folder, mask folder, image stem → mask stem
    ("Original", "Ground truth", lambda stem: stem),  # FIVES
    ("images", "1st_manual", lambda stem: stem.split("_")[0] + "_manual1"),  # DRIVE
    ("images", "manual1", lambda stem: stem),  # HRF
    (".", ".", lambda stem: stem + "_1stHO"),  # CHASE_DB1
    ("Images", "Masks", lambda stem: stem + "_1stHO"),  # CHASE_DB1, sorted into folders
)
SHAPES = """the shapes looked for are:
  pairs_csv   a .csv file, or a folder with pairs.csv, as written by write_pairs_csv
  generated   <id>/<id>_cf_512.png + <id>_fa_gen.png, <id>_oct_gen.png, <id>_seg.png, ... with ids like 1_A
  operation   operation_pre_filtered_{cffa,cfoct,octfa,cfocta,fa_cf}/<folder>/<name>_01.png + _01.txt + _02.png + _02.txt
  cf_octa_v2  CF_train|CF_ts + OCTA_train|OCTA_ts + GT_CF_to_OCTA|GT_OCTA_to_CF
  fire        Images/<c>_1.jpg + <c>_2.jpg + Ground Truth/control_points_<c>_1_2.txt
FIVES, DRIVE, CHASE_DB1 and HRF hold single images with masks: see load_masked_fundus"""
_log = logging.getLogger(__name__)


def load_layout(root: str | Path, layout: str = "auto", mode: str | None = None) -> Inventory:
    """Load a data set of any known layout.

    layout: "auto" or a name out of LOADERS. mode keeps one kind of pair, e.g. "cffa" (a key of MODALITIES). A pairs.csv in a folder goes
    before its other contents. Raises ValueError, with the shapes looked for, when root is missing, unknown or fits several layouts.
    """
    root = Path(root).expanduser()
    if mode is not None and mode not in MODALITIES:
        raise ValueError(f"mode {mode!r} is unknown; choose one of {', '.join(MODALITIES)}")
    if not root.exists():
        raise ValueError(f"{root}: no such file or folder; {SHAPES}")
    if layout == "auto":
        layout = detect_layout(root)
    if layout not in LOADERS:
        raise ValueError(f"layout {layout!r} is unknown; choose auto or one of {', '.join(LOADERS)}; {SHAPES}")
    if layout in ("generated", "operation"):
        return LOADERS[layout](root, mode)
    found = LOADERS[layout](root)
    if mode is not None:
        found.records = [r for r in found.records if (r.modality0, r.modality1) == MODALITIES[mode]]
    return found


def detect_layout(root: str | Path) -> str:
    """The name of the layout at ``root``; ValueError, with the shapes looked for, when none or several fit."""
    root = Path(root)
    if root.suffix.lower() == ".csv" or (root / "pairs.csv").is_file():
        return "pairs_csv"
    names = {
        "generated": any(_generated_folders(root)),
        "operation": any(_operation_sets(root, None)),
        "cf_octa_v2": any(_folder(root, name) for name in ("CF_train", "CF_ts")),
        "fire": _folder(root, "Images") is not None and any(_fire_truths(root)),
    }
    fitting = [name for name, fits in names.items() if fits]
    if len(fitting) != 1:
        what = "nothing known is in here" if not fitting else f"fits several layouts, {' and '.join(fitting)}: pass layout=..."
        raise ValueError(f"{root}: {what}; {SHAPES}")
    return fitting[0]


# ------------------------------------------------------------------ the layouts


def load_generated(root: str | Path, mode: str | None = None) -> Inventory:
    """Layout 1, ``<id>/<id>_cf_512.png ...``: aligned pairs, so H_0to1 is known: the resizing of image 0 to image 1.

    mode: one of GENERATED_MODES; None loads each mode that at least one folder has. The eye id is the folder's id. A folder without its
    images is left out and reported, one without a usable vessel mask is loaded without mask and reported. A mask of another resolution is
    kept and reported once: in the users' set the masks are larger than the images. ValueError when no folder fits.
    """
    root, found, resized = Path(root), Inventory(), []
    folders = _generated_folders(root)
    if not folders:
        raise ValueError(f"{root}: no folder named like 1_A (digits, underscore, letter) in here; {SHAPES}")
    if mode is not None and mode not in GENERATED_MODES:
        raise ValueError(f"mode {mode!r} is unknown in this layout; choose one of {', '.join(GENERATED_MODES)}")
    modes = [mode] if mode else [m for m in GENERATED_MODES if any(None not in _generated_files(folder, m)[:2] for folder in folders)]
    if not modes:
        found.problems += [Problem(str(folder), f"has the images of none of the modes {', '.join(GENERATED_MODES)}") for folder in folders]
    for name in modes:
        for folder in folders:
            with _reporting(found, folder):
                found.add(_generated_record(folder, name, found, resized))
    _report_resized(found, resized)
    return found


def load_operation(root: str | Path, mode: str | None = None) -> Inventory:
    """Layout 2, ``operation_pre_filtered_<set>/<folder>/<name>_01.png|txt, _02.png|txt``: real pairs with points, image 01 is fixed.

    root: one such set, or the folder that holds several; with a mode, a set of any name. mode keeps the sets of that name. The eye id is
    what stands before the first underscore of the folder's name (003_01 → 003); the same number in two sets counts as one eye, so that a
    split can never tear an eye apart. Fewer than four pairs of points are a Problem. ValueError when no set is found.
    """
    found = Inventory()
    sets = _operation_sets(Path(root), mode)
    if not sets:
        raise ValueError(f"{root}: no set {'for mode ' + mode if mode else 'of a known name'} in here; {SHAPES}")
    for folder, set_name, set_mode in sets:
        for pair_folder in _subfolders(folder):
            images = _images(pair_folder)
            names = [stem[:-3] for stem in images if stem.endswith("_01")]
            if not names:
                found.problems.append(Problem(str(pair_folder), "has no image named <name>_01"))
            for name in names:
                pair_id = f"{set_name}_{pair_folder.name}" + (f"_{name}" if len(names) > 1 else "")
                with _reporting(found, pair_folder / name):
                    image0, image1 = _need(images, f"{name}_01"), _need(images, f"{name}_02")
                    points = [read_points(pair_folder / f"{name}_0{side}.txt") for side in (1, 2)]
                    check_points(*points, _image_hw(image0), _image_hw(image1))
                    found.add(PairRecord(pair_id, pair_folder.name.split("_")[0], *MODALITIES[set_mode], image0, image1, *points))
    return found


def load_cf_octa_v2(root: str | Path) -> Inventory:
    """Layout 3, CF_OCTA_v2: CF-OCTA pairs with an affine and points, both defined on 256x256 images and converted to original px here.

    H_0to1 comes from GT_CF_to_OCTA, else from the inverse of GT_OCTA_to_CF; two files that contradict each other are a Problem, as is a
    pair with neither affine nor points. The eye id is the leading number; split is "train" or "test" as the folders say.
    """
    root, found = Path(root), Inventory()
    if not any(_folder(root, name) for name in ("CF_train", "CF_ts")):
        raise ValueError(f"{root}: neither CF_train nor CF_ts in here; {SHAPES}")
    for tag, split in (("train", "train"), ("ts", "test")):
        cf_images, octa_images = _images(_folder(root, f"CF_{tag}")), _images(_folder(root, f"OCTA_{tag}"))
        numbers = {stem: _leading_number(stem) for stem in cf_images}
        for stem, path in octa_images.items():
            if _leading_number(stem) not in numbers.values():
                found.problems.append(Problem(str(path), f"no image with this number in CF_{tag}"))
        for stem, number in numbers.items():
            with _reporting(found, cf_images[stem]):
                if not number:
                    raise ValueError("its name does not start with a number")
                found.add(_cf_octa_record(root, number, cf_images[stem], _need(octa_images, f"{number}OCTA"), tag, split))
    return found


def load_fire(root: str | Path) -> Inventory:
    """FIRE (CF-CF), ``Images/<c>_1.jpg, <c>_2.jpg`` and ``Ground Truth/control_points_<c>_1_2.txt``; image 0 is <c>_1.

    Points are given at 2912x2912 px and converted when an image has another size. The eye id is <c>, whose letter is the category: S easy,
    P hard, A moderate. P37_1_2 is left out and reported. ValueError when there is no folder Images or no control points.
    """
    root, found = Path(root), Inventory()
    truths, images = _fire_truths(root), _images(_folder(root, "Images"))
    if not truths or not images:
        raise ValueError(f"{root}: no images or no control points in here; {SHAPES}")
    eyes = {stem[:-2] for stem in images if re.fullmatch(r"[SPA]\d+_[12]", stem)} | {pair_id[:-4] for pair_id in truths}
    for eye in sorted(eyes):
        pair_id = f"{eye}_1_2"
        with _reporting(found, truths.get(pair_id, root / pair_id)):
            if pair_id in FIRE_EXCLUDED:
                raise ValueError(FIRE_EXCLUDED[pair_id])
            if pair_id not in truths:
                raise ValueError(f"no control_points_{pair_id}.txt in Ground Truth")
            image0, image1 = _need(images, f"{eye}_1"), _need(images, f"{eye}_2")
            points = _rescaled_points(truths[pair_id], FIRE_HW, _image_hw(image0), _image_hw(image1), minimum=4)
            found.add(PairRecord(pair_id, eye, "CF", "CF", image0, image1, *points))
    return found


def load_pairs_csv(path: str | Path) -> Inventory:
    """A table with the columns CSV_COLUMNS (points0 and later may be missing); ``path`` is the file or the folder of pairs.csv.

    Paths in it are relative to its folder. A defective row is a Problem; ValueError when the file or a column is missing.
    """
    path, found = Path(path).absolute(), Inventory()
    path = path / "pairs.csv" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {SHAPES}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            rows = [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text; save the table as 'CSV UTF-8'") from error
    missing = [name for name in CSV_COLUMNS[:6] if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"{path}: the columns {', '.join(missing)} are missing; a pairs table has {', '.join(CSV_COLUMNS)}")
    resized: list[Path] = []
    for line, row in rows:
        with _reporting(found, f"{path}, line {line}"):
            found.add(_csv_record(path.parent, {key: (cell or "").strip() for key, cell in row.items() if key}, resized))
    _report_resized(found, resized)
    return found


def load_masked_fundus(root: str | Path) -> list[tuple[Path, Path, str]]:
    """(CF path, vessel mask path, id) of every image with a mask in FIVES, DRIVE, CHASE_DB1 or HRF, at most two folders below root.

    The id is the image's name with the folders above it, e.g. train_12_A. An image without mask, or with one of another size, is left out
    with a logged warning. Raises ValueError when nothing is found.
    """
    root = Path(root).expanduser()
    found: dict[str, tuple[Path, Path]] = {}
    below = _subfolders(root)
    for parent in [root, *below, *(deeper for folder in below for deeper in _subfolders(folder))]:
        for image_name, mask_name, mask_stem in MASKED_FUNDUS:
            images, masks = _images(_folder(parent, image_name)), _images(_folder(parent, mask_name))
            if not any(mask_stem(stem) in masks for stem in images):
                continue
            for stem, path in images.items():
                if re.search(r"_(1stHO|2ndHO)$", stem):
                    continue
                try:
                    mask = _need(masks, mask_stem(stem))
                    if _image_hw(mask) != _image_hw(path):
                        raise ValueError(f"its mask {mask.name} has another size")
                    found["_".join([*parent.relative_to(root).parts, stem])] = (path, mask)
                except (ValueError, OSError) as error:
                    _log.warning("%s: left out: %s", path, error)
    if not found:
        raise ValueError(f"{root}: no images with vessel masks named as in FIVES, DRIVE, CHASE_DB1 or HRF")
    return [(path, mask, name) for name, (path, mask) in found.items()]


LOADERS = {
    "generated": load_generated,
    "operation": load_operation,
    "cf_octa_v2": load_cf_octa_v2,
    "fire": load_fire,
    "pairs_csv": load_pairs_csv,
}


# ------------------------------------------------------------------ one pair


def _generated_files(folder: Path, mode: str) -> list[Path | None]:
    """Image 0, image 1 and vessel mask of a folder; None for what is not there."""
    return [next((path for path in names if path.is_file()), None) for names in _generated_names(folder, mode)]


def _generated_names(folder: Path, mode: str) -> list[list[Path]]:
    endings = MACULAR_ENDINGS if mode == "cfocta" else GENERATED_ENDINGS
    return [[folder / f"{folder.name}_{ending}.png" for ending in endings[key]] for key in (*MODALITIES[mode], "mask")]


def _generated_record(folder: Path, mode: str, found: Inventory, resized: list[Path]) -> PairRecord:
    image0, image1, mask0 = files = _generated_files(folder, mode)
    names = [" or ".join(path.name for path in paths) for paths in _generated_names(folder, mode)]
    lacking = [name for name, file in zip(names, files, strict=True) if file is None]
    if image0 is None or image1 is None:
        raise ValueError(f"mode {mode}: {' and '.join(lacking)} is missing")
    image0_hw, image1_hw = _image_hw(image0), _image_hw(image1)
    try:
        if mask0 is None:
            raise ValueError(f"{' and '.join(lacking)} is missing")
        _check_mask(mask0, image0_hw, resized)
    except ValueError as error:
        found.problems.append(Problem(str(folder), f"mode {mode}: loaded without vessel mask: {error}"))
        mask0 = None
    H_0to1 = resize_matrix(image0_hw, image1_hw)
    return PairRecord(f"{mode}_{folder.name}", folder.name, *MODALITIES[mode], image0, image1, H_0to1=H_0to1, vessel_mask0=mask0)


def _cf_octa_record(root: Path, number: str, image0: Path, image1: Path, tag: str, split: str) -> PairRecord:
    image0_hw, image1_hw = _image_hw(image0), _image_hw(image1)
    H_0to1, points = _affine_0to1(root, number), (None, None)
    if H_0to1 is not None:
        H_0to1 = rescale_homography(H_0to1, resize_matrix(AFFINE_HW, image0_hw), resize_matrix(AFFINE_HW, image1_hw))
    truth = (_folder(root, f"Ground_Truth_{tag}") or root) / f"{number}Fundus_OCTA_points.txt"
    if truth.is_file():
        points = _rescaled_points(truth, AFFINE_HW, image0_hw, image1_hw, minimum=4 if H_0to1 is None else 3)
    elif H_0to1 is None:
        raise ValueError("there is neither an affine nor a file of points for it")
    return PairRecord(f"cfocta_v2_{number}", number, "CF", "OCTA", image0, image1, *points, H_0to1=H_0to1, split=split)


def _affine_0to1(root: Path, number: str) -> np.ndarray | None:
    """CF → OCTA in the 256 px frame from one or both of the two files, None without any."""
    known = {}
    for way in ("CF_to_OCTA", "OCTA_to_CF"):
        path = (_folder(root, f"GT_{way}") or root) / f"{number}_{way}_affine.txt"
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


def _csv_record(folder: Path, row: dict[str, str], resized: list[Path]) -> PairRecord:
    image0_hw, image1_hw = _image_hw(folder / row["image0"]), _image_hw(folder / row["image1"])
    H_0to1 = np.reshape(parse_numbers(row["H_0to1"], 9), (3, 3)) if row.get("H_0to1") else None
    points = [read_points(folder / row[name]) if row.get(name) else None for name in ("points0", "points1")]
    mask0 = folder / row["vessel_mask0"] if row.get("vessel_mask0") else None
    if mask0 is not None:
        _check_mask(mask0, image0_hw, resized)
    if points[0] is not None and points[1] is not None:
        check_points(*points, image0_hw, image1_hw, minimum=4 if H_0to1 is None else 3)
    ids = [row[name] for name in CSV_COLUMNS[:4]]
    return PairRecord(*ids, folder / row["image0"], folder / row["image1"], *points, H_0to1, mask0, row.get("split", ""))


def _rescaled_points(path: Path, truth_hw, image0_hw, image1_hw, minimum: int) -> list[np.ndarray]:
    """Rows ``x0 y0 x1 y1`` in the frame truth_hw as two (N, 2) arrays in original px, checked."""
    rows = read_number_rows(path, 4)
    points = [warp_points(xy, resize_matrix(truth_hw, hw)) for xy, hw in ((rows[:, :2], image0_hw), (rows[:, 2:], image1_hw))]
    check_points(*points, image0_hw, image1_hw, minimum)
    return points


# ------------------------------------------------------------------ folders, files and reports


@contextmanager
def _reporting(found: Inventory, source: object) -> Iterator[None]:
    """Turn what goes wrong with one pair into a Problem row."""
    try:
        yield
    except (ValueError, OSError) as error:
        found.problems.append(Problem(str(source), str(error)))


def _check_mask(path: Path, image_hw: tuple[int, int], resized: list[Path]) -> None:
    """ValueError for a mask that is unreadable or of other proportions than its image; one of mere other resolution goes to ``resized``."""
    h, w = image_size(path)
    if abs(h * image_hw[1] - w * image_hw[0]) > max(h, w, *image_hw):
        raise ValueError(f"{path.name} is {w} px wide and {h} px high, its image {image_hw[1]} and {image_hw[0]}: the proportions differ")
    if (h, w) != tuple(image_hw):
        resized.append(path)


def _report_resized(found: Inventory, masks: list[Path]) -> None:
    if masks:
        more = f" and {len(masks) - 1} more" if len(masks) > 1 else ""
        found.problems.append(Problem(f"{masks[0]}{more}", "mask of another resolution than its image: kept, resize it with the image"))


def _image_hw(path: Path) -> tuple[int, int]:
    height, width = image_size(path)
    if min(height, width) < MIN_SIDE_PX:
        raise ImageError(f"{path}: too small, {height} px high and {width} px wide; each side needs at least {MIN_SIDE_PX} px")
    return height, width


def _images(folder: Path | None) -> dict[str, Path]:
    """Image files of a folder by stem; of two with one stem the ending earlier in IMAGE_SUFFIXES counts."""
    files = [f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file()] if folder else []
    files.sort(key=lambda f: (_natural(f.stem), -IMAGE_SUFFIXES.index(f.suffix.lower())))
    return {f.stem: f for f in files if not f.name.startswith(".")}


def _need(images: dict[str, Path], stem: str) -> Path:
    if stem not in images:
        raise ValueError(f"no image {stem}.png (or another of {', '.join(IMAGE_SUFFIXES)})")
    return images[stem]


def _folder(parent: Path, name: str) -> Path | None:
    """The subfolder of that name, in any case and with blanks or underscores; "." is the parent itself."""
    wanted = name.lower().replace(" ", "_")
    return parent if name == "." else next((f for f in _subfolders(parent) if f.name.lower().replace(" ", "_") == wanted), None)


def _subfolders(parent: Path) -> list[Path]:
    folders = [f for f in parent.iterdir() if f.is_dir() and f.name[0] not in "._"] if parent.is_dir() else []
    return sorted(folders, key=lambda f: _natural(f.name))


def _natural(name: str) -> tuple[str, str]:
    """Sorting key that puts 2_A before 10_A."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(9), name), name


def _leading_number(stem: str) -> str:
    return re.match(r"\d*", stem)[0]


def _generated_folders(root: Path) -> list[Path]:
    return [folder for folder in _subfolders(root) if re.fullmatch(r"\d+_[A-Za-z]", folder.name)]


def _operation_sets(root: Path, mode: str | None) -> list[tuple[Path, str, str]]:
    """(folder, set name, mode) of the sets at or in root; with a mode, root itself may have any name."""
    named = [(folder, OPERATION_NAME.fullmatch(folder.name)) for folder in (root.absolute(), *_subfolders(root))]
    sets = [(folder, match["set"], match["mode"].lower()) for folder, match in named if match]
    if mode and not sets:
        return [(root, mode, mode)] if any(any(s.endswith("_01") for s in _images(f)) for f in _subfolders(root)) else []
    return [entry for entry in sets if mode in (None, entry[2])]


def _fire_truths(root: Path) -> dict[str, Path]:
    """Control point files by pair id."""
    folder = _folder(root, "Ground Truth")
    named = [(path, re.fullmatch(r"control_points_([SPA]\d+_1_2)", path.stem)) for path in sorted(folder.glob("*.txt"))] if folder else []
    return {match[1]: path for path, match in named if match}
