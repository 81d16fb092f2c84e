"""The folder layouts users already have, each turned into an `Inventory` of pair records; nothing downstream knows a
layout.

One bad pair never stops a load: it is left out and becomes a Problem that names file and reason. Images are checked by
header only.
"""

from __future__ import annotations

import re
from pathlib import Path

from .layout_files import (
    MODALITIES,
    cf_octa_record,
    checked_hw,
    csv_record,
    find_folder,
    fire_truths,
    generated_files,
    generated_folders,
    generated_record,
    images_in,
    leading_number,
    masked_fundus_in,
    need_image,
    operation_sets,
    report_resized,
    reporting,
    rescaled_points,
    subfolders,
)
from .records import CSV_COLUMNS, Inventory, PairRecord, Problem, check_points, read_points
from .spreadsheets import name_eyes, read_rows

GENERATED_MODES = ("cffa", "cfoct", "octfa", "cfocta")
FIRE_HW = (2912, 2912)
FIRE_PAIR = re.compile(r"([SPA]\d+)_1_2")
FIRE_EXCLUDED = {"P37_1_2": "its control points are known to be wrong; published FIRE tables leave it out (133 pairs)"}
SHAPES = """the shapes looked for are:
  pairs_csv   a .csv file, or a folder with pairs.csv, as written by write_pairs_csv
  generated   <id>/<id>_cf_512.png + <id>_fa_gen.png, <id>_oct_gen.png, <id>_seg.png, ... with ids like 1_A
  operation   operation_pre_filtered_{cffa,cfoct,octfa,cfocta,fa_cf}/<folder>/<name>_01.png + _01.txt + _02.png + _02.txt
  cf_octa_v2  CF_train|CF_ts + OCTA_train|OCTA_ts + GT_CF_to_OCTA|GT_OCTA_to_CF
  fire        Images/<c>_1.jpg + <c>_2.jpg + Ground Truth/control_points_<c>_1_2.txt
FIVES, DRIVE, CHASE_DB1 and HRF hold single images with masks: see load_masked_fundus"""


def load_layout(root: str | Path, layout: str = "auto", mode: str | None = None) -> Inventory:
    """Load a data set of any known layout.

    layout: "auto" or a name out of LOADERS. mode keeps one kind of pair, e.g. "cffa" (a key of MODALITIES). A pairs.csv
    in a folder goes before its other contents; an eyes.csv there says which pairs are of one eye, see `name_eyes`.
    Raises ValueError, with the shapes looked for, when root is missing, unknown or fits several layouts.
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
    found = LOADERS[layout](root, mode) if layout in ("generated", "operation") else LOADERS[layout](root)
    if mode is not None and layout not in ("generated", "operation"):
        found.records = [r for r in found.records if (r.modality0, r.modality1) == MODALITIES[mode]]
    return name_eyes(found, (root.parent if root.is_file() else root) / "eyes.csv")


def detect_layout(root: str | Path) -> str:
    """The name of the layout at ``root``; ValueError, with the shapes looked for, when none or several fit."""
    root = Path(root)
    if root.suffix.lower() == ".csv" or (root / "pairs.csv").is_file():
        return "pairs_csv"
    names = {
        "generated": any(generated_folders(root)),
        "operation": any(operation_sets(root, None)),
        "cf_octa_v2": any(find_folder(root, name) for name in ("CF_train", "CF_ts")),
        "fire": find_folder(root, "Images") is not None and any(fire_truths(root)),
    }
    fitting = [name for name, fits in names.items() if fits]
    if len(fitting) != 1:
        what = (
            "nothing known is in here"
            if not fitting
            else f"fits several layouts, {' and '.join(fitting)}: pass layout=..., or the folder of one of them"
        )
        raise ValueError(f"{root}: {what}; {SHAPES}")
    return fitting[0]


# ------------------------------------------------------------------ the layouts


def load_generated(root: str | Path, mode: str | None = None) -> Inventory:
    """Layout 1, ``<id>/<id>_cf_512.png ...``: aligned pairs, so H_0to1 is known: the resizing of image 0 to image 1.

    mode: one of GENERATED_MODES; None loads each mode that at least one folder has. The eye id is the folder's id. A
    folder without its images is left out and reported, one without a usable vessel mask is loaded without mask and
    reported. A mask of another resolution is kept and reported once: in the users' set the masks are larger than the
    images. ValueError when no folder fits.
    """
    root, found, resized = Path(root), Inventory(), []
    folders = generated_folders(root)
    if not folders:
        raise ValueError(f"{root}: no folder named like 1_A (digits, underscore, letter) in here; {SHAPES}")
    if mode is not None and mode not in GENERATED_MODES:
        raise ValueError(f"mode {mode!r} is unknown in this layout; choose one of {', '.join(GENERATED_MODES)}")
    modes = (
        [mode]
        if mode
        else [m for m in GENERATED_MODES if any(None not in generated_files(folder, m)[:2] for folder in folders)]
    )
    if not modes:
        why = f"has the images of none of the modes {', '.join(GENERATED_MODES)}"
        found.problems += [Problem(str(folder), why, folder.name) for folder in folders]
    for name in modes:
        for folder in folders:
            with reporting(found, folder, f"{name}_{folder.name}"):
                found.add(generated_record(folder, name, found, resized))
    report_resized(found, resized)
    return found


def load_operation(root: str | Path, mode: str | None = None) -> Inventory:
    """Layout 2, ``operation_pre_filtered_<set>/<folder>/<name>_01.png|txt, _02.png|txt``: real pairs with points, image
    01 is fixed.

    root: one such set, or the folder that holds several; with a mode, a set of any name. mode keeps the sets of that
    name. The eye id is what stands before the first underscore of the folder's name (003_01 → 003); the same number in
    two sets counts as one eye, so that a split can never tear an eye apart. Fewer than four pairs of points are a
    Problem. ValueError when no set is found.
    """
    found = Inventory()
    sets = operation_sets(Path(root), mode)
    if not sets:
        raise ValueError(f"{root}: no set {'for mode ' + mode if mode else 'of a known name'} in here; {SHAPES}")
    for folder, set_name, set_mode in sets:
        for pair_folder in subfolders(folder):
            images = images_in(pair_folder)
            names = [stem[:-3] for stem in images if stem.endswith("_01")]
            if not names:
                found.problems.append(
                    Problem(str(pair_folder), "has no image named <name>_01", f"{set_name}_{pair_folder.name}")
                )
            for name in names:
                pair_id = f"{set_name}_{pair_folder.name}" + (f"_{name}" if len(names) > 1 else "")
                with reporting(found, pair_folder / name, pair_id):
                    image0, image1 = need_image(images, f"{name}_01"), need_image(images, f"{name}_02")
                    points = [read_points(pair_folder / f"{name}_0{side}.txt") for side in (1, 2)]
                    check_points(*points, checked_hw(image0), checked_hw(image1))
                    found.add(
                        PairRecord(
                            pair_id, pair_folder.name.split("_")[0], *MODALITIES[set_mode], image0, image1, *points
                        )
                    )
    return found


def load_cf_octa_v2(root: str | Path) -> Inventory:
    """Layout 3, CF_OCTA_v2: CF-OCTA pairs with an affine and points, both defined on 256x256 images and converted to
    original px here.

    H_0to1 comes from GT_CF_to_OCTA, else from the inverse of GT_OCTA_to_CF; two files that contradict each other are a
    Problem, as is a pair with neither affine nor points. The eye id is the leading number; split is "train" or "test"
    as the folders say.
    """
    root, found = Path(root), Inventory()
    if not any(find_folder(root, name) for name in ("CF_train", "CF_ts")):
        raise ValueError(f"{root}: neither CF_train nor CF_ts in here; {SHAPES}")
    for tag, split in (("train", "train"), ("ts", "test")):
        cf_images, octa_images = images_in(find_folder(root, f"CF_{tag}")), images_in(find_folder(root, f"OCTA_{tag}"))
        numbers = {stem: leading_number(stem) for stem in cf_images}
        for stem, path in octa_images.items():
            if leading_number(stem) not in numbers.values():
                found.problems.append(Problem(str(path), f"no image with this number in CF_{tag}", stem))
        for stem, number in numbers.items():
            with reporting(found, cf_images[stem]):
                if not number:
                    raise ValueError("its name does not start with a number")
                found.add(
                    cf_octa_record(root, number, cf_images[stem], need_image(octa_images, f"{number}OCTA"), tag, split)
                )
    return found


def load_fire(root: str | Path) -> Inventory:
    """FIRE (CF-CF), ``Images/<c>_1.jpg, <c>_2.jpg`` and ``Ground Truth/control_points_<c>_1_2.txt``; image 0 is <c>_1.

    Points are given at 2912x2912 px and converted when an image has another size. The eye id is <c>, whose letter is
    the category: S easy, P hard, A moderate. P37_1_2 is left out and reported. ValueError when there is no folder
    Images or no control points.
    """
    root, found = Path(root), Inventory()
    truths, images = fire_truths(root), images_in(find_folder(root, "Images"))
    if not truths or not images:
        raise ValueError(f"{root}: no images or no control points in here; {SHAPES}")
    eyes = {stem[:-2] for stem in images if re.fullmatch(r"[SPA]\d+_[12]", stem)} | {pair_id[:-4] for pair_id in truths}
    for eye in sorted(eyes):
        pair_id = f"{eye}_1_2"
        with reporting(found, truths.get(pair_id, root / pair_id), pair_id):
            if pair_id in FIRE_EXCLUDED:
                raise ValueError(FIRE_EXCLUDED[pair_id])
            if pair_id not in truths:
                raise ValueError(f"no control_points_{pair_id}.txt in Ground Truth")
            image0, image1 = need_image(images, f"{eye}_1"), need_image(images, f"{eye}_2")
            points = rescaled_points(truths[pair_id], FIRE_HW, checked_hw(image0), checked_hw(image1), minimum=4)
            found.add(PairRecord(pair_id, eye, "CF", "CF", image0, image1, *points))
    return found


def load_pairs_csv(path: str | Path) -> Inventory:
    """A table with the columns CSV_COLUMNS (points0 and later may be missing); ``path`` is the file or the folder of
    pairs.csv.

    Commas, semicolons or tabs part its cells, whichever the header line has most of. Paths in it are relative to its
    folder. A defective row is a Problem, an empty one nothing; ValueError when the file or a column is missing, or when
    it is no table of UTF-8 text.
    """
    path, found = Path(path).absolute(), Inventory()
    path = path / "pairs.csv" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {SHAPES}")
    hint = f"; a pairs table has {', '.join(CSV_COLUMNS)}"
    resized: list[Path] = []
    for line, row in read_rows(path, CSV_COLUMNS[:6], hint):
        with reporting(found, f"{path}, line {line}", row["pair_id"] or f"line {line}"):
            found.add(csv_record(path.parent, row, found, resized))
    report_resized(found, resized)
    return found


def load_masked_fundus(root: str | Path) -> list[tuple[Path, Path, str]]:
    """(CF path, vessel mask path, id) of every image with a mask in FIVES, DRIVE, CHASE_DB1 or HRF, at most two folders
    below root.

    The id is the image's name with the folders above it, e.g. train_12_A. An image without mask, or with one of another
    size, is left out with a logged warning. Raises ValueError when nothing is found.
    """
    root = Path(root).expanduser()
    found: dict[str, tuple[Path, Path]] = {}
    below = subfolders(root)
    for parent in [root, *below, *(deeper for folder in below for deeper in subfolders(folder))]:
        found |= {
            "_".join([*parent.relative_to(root).parts, path.stem]): (path, mask)
            for path, mask in masked_fundus_in(parent)
        }
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
