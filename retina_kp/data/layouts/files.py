"""What layouts share: names of modes, finding files, checking them by their headers, and reporting what is wrong."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...core.files import natural_order, read_text, without_apostrophe
from ...core.geometry import resize_matrix, warp_points
from ...core.image_files import IMAGE_SUFFIXES
from ...core.images import check_size, image_size
from ..annotation import check_points, read_number_rows
from ..records import Inventory, Problem

COMPANIONS = (".csv", ".txt", ".json", ".md", ".yaml", ".html", ".tfm")  # files that no one takes for images
MODES = {
    "cffa": ("CF", "FA"),
    "cfoct": ("CF", "OCT"),
    "octfa": ("OCT", "FA"),
    "cfocta": ("CF", "OCTA"),
    "fa_cf": ("CF", "FA"),
}


@contextmanager
def reporting(found: Inventory, source: object, pair: str = "") -> Iterator[None]:
    """Turn what goes wrong with one pair into a Problem; without a name the pair is called as its file or folder."""
    try:
        yield
    except (ValueError, OSError) as error:
        found.problems.append(Problem(str(source), str(error), pair or Path(str(source)).stem))


def subfolders(parent: Path) -> list[Path]:
    """Folders below a folder in natural order, without hidden ones."""
    folders = [f for f in parent.iterdir() if f.is_dir() and f.name[0] not in "._"] if parent.is_dir() else []
    return sorted(folders, key=lambda f: natural_order(f.name))


def find_folder(parent: Path, name: str) -> Path | None:
    """The subfolder of that name, in any case and with blanks or underscores."""
    wanted = name.lower().replace(" ", "_")
    return next((f for f in subfolders(parent) if f.name.lower().replace(" ", "_") == wanted), None)


def images_in(folder: Path | None) -> dict[str, Path]:
    """Image files of a folder by stem; of two with one stem the ending earlier in IMAGE_SUFFIXES counts."""
    files = [f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file()] if folder else []
    files.sort(key=lambda f: (natural_order(f.stem), -IMAGE_SUFFIXES.index(f.suffix.lower())))
    return {f.stem: f for f in files if not f.name.startswith(".")}


def left_out(folder: Path, pattern: str = "*") -> str:
    """How many files of a folder are of no kind that is read, and of which kinds; "" for none."""
    known = (*IMAGE_SUFFIXES, *COMPANIONS)
    files = [f for f in folder.glob(pattern) if f.suffix.lower() not in known and f.name[0] not in "._" and f.is_file()]
    kinds = Counter(f.suffix.lower() or "without ending" for f in files)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
    return (
        f"{len(files)} files left out, of kinds that are not read: {told}; export them as PNG, TIFF or DICOM"
        if files
        else ""
    )


def need_image(images: dict[str, Path], stem: str) -> Path:
    """The image of that stem; ValueError when there is none."""
    if stem not in images:
        raise ValueError(f"no image {stem}.png (or another of {', '.join(IMAGE_SUFFIXES)})")
    return images[stem]


def checked_hw(path: Path) -> tuple[int, int]:
    """(h, w) px by the image's header; ImageError when it is unreadable or too small."""
    return check_size(image_size(path), path)


def mask_problem(path: Path, image_hw: tuple[int, int], resized: list[Path]) -> str:
    """Why a mask cannot be used, "" when it can; one of another resolution than its image goes to ``resized``."""
    try:
        h, w = image_size(path)
    except (ValueError, OSError) as error:
        return str(error)
    if abs(h * image_hw[1] - w * image_hw[0]) > max(h, w, *image_hw):
        sizes = f"{w} px wide and {h} px high, its image {image_hw[1]} and {image_hw[0]}"
        return f"{path.name} is {sizes}: the proportions differ"
    if (h, w) != tuple(image_hw):
        resized.append(path)
    return ""


def report_resized(found: Inventory, masks: list[Path]) -> None:
    """Tell once of masks of another resolution."""
    if masks:
        more = f" and {len(masks) - 1} more" if len(masks) > 1 else ""
        words = "mask of another resolution than its image: kept, resize it with the image"
        found.problems.append(Problem(f"{masks[0]}{more}", words))


def read_rows(path: Path, needed: Sequence[str], hint: str = "") -> list[tuple[int, dict[str, str]]]:
    """(line number, cells by column) of every row of a table that is not empty; outer blanks are cut.

    Commas, semicolons or tabs part the cells, whichever the header has most of. ValueError, with the hint, when it is
    no table of text, lacks one of the ``needed`` columns, or has one twice.
    """
    text = read_text(path)
    try:
        separator = max(",;\t", key=text.lstrip().partition("\n")[0].count)
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="", delimiter=separator)
        names = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}: no table of text ({error}); save it as 'CSV UTF-8'") from error
    if missing := [name for name in needed if name not in names]:
        raise ValueError(f"{path}: the columns {', '.join(missing)} are missing{hint}")
    if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        raise ValueError(f"{path}: the column {twice[0]} is there twice: rename or delete one")
    cells = [(line, {key: (cell or "").strip() for key, cell in row.items() if key}) for line, row in rows]
    return [
        (line, {key: without_apostrophe(cell) for key, cell in row.items()}) for line, row in cells if any(row.values())
    ]


def rescaled_points(path: Path, truth_hw, image0_hw, image1_hw, minimum: int = 4) -> list[np.ndarray]:
    """Rows ``x0 y0 x1 y1`` in the frame truth_hw as two (N, 2) arrays in original px, checked."""
    rows = read_number_rows(path, 4)
    frames = ((rows[:, :2], image0_hw), (rows[:, 2:], image1_hw))
    points = [warp_points(xy, resize_matrix(truth_hw, hw)) for xy, hw in frames]
    check_points(*points, image0_hw, image1_hw, minimum)
    return points
