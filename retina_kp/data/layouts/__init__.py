"""Folder layouts, each turned into an `Inventory` of pair records; nothing downstream knows a layout.

A layout is a module, or any object, that does what `Layout` says. To add one, copy `fire.py` and name it in NAMES.
One bad pair never stops a load: it is left out and becomes a Problem that names file and reason.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Protocol

from ...core.files import composed, natural_order
from ..records import Inventory, Problem
from .files import MODES, left_out, read_rows


class Layout(Protocol):
    """What a layout has to offer."""

    SHAPE: str  # what its files are called, for error messages

    def fits(self, root: Path, mode: str | None) -> bool:
        """Whether ``root`` has this layout; mode: a key of MODES, when only one kind of pair is wanted."""

    def load(self, root: Path, mode: str | None) -> Inventory:
        """All pairs of a root that fits. It may ignore the mode: `load_layout` drops records of other modalities."""


NAMES = (  # modules beside this one
    "pairs_csv",
    "generated",
    "operation",
    "cf_octa_v2",
    "fire",
)
LAYOUTS: dict[str, Layout] = {name: import_module(f".{name}", __name__) for name in NAMES}
EYE_COLUMNS = ("pair_id", "eye_id")


def load_layout(root: str | Path, layout: str = "auto", mode: str | None = None) -> Inventory:
    """Load a data set of any known layout: "auto" or a name out of LAYOUTS.

    mode keeps one kind of pair, e.g. "cffa" (a key of MODES). A pairs.csv in a folder wins over its other contents;
    an eyes.csv there says which pairs are of one eye, see `name_eyes`. ValueError, with the shapes looked for, when
    root is missing, unknown or fits several layouts.
    """
    root = Path(root).expanduser()
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown; choose one of {', '.join(MODES)}")
    if not root.exists():
        raise ValueError(f"{root}: no such file or folder; {_shapes()}")
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"layout {layout!r} is unknown; choose auto or one of {', '.join(LAYOUTS)}; {_shapes()}")
    layout = detect_layout(root) if layout == "auto" else layout
    if not LAYOUTS[layout].fits(root, mode):
        raise ValueError(f"{root}: no {layout} data{f' for mode {mode}' if mode else ''} in here; {_shapes()}")
    found = LAYOUTS[layout].load(root, mode)
    if root.is_dir() and layout != "pairs_csv" and (words := left_out(root, "**/*")):
        found.problems.append(Problem(str(root), words))
    if mode is not None:
        found.records = [r for r in found.records if (r.modality0, r.modality1) == MODES[mode]]
    return name_eyes(found, (root.parent if root.is_file() else root) / "eyes.csv")


def detect_layout(root: str | Path) -> str:
    """The name of the layout at ``root``; ValueError, with the shapes looked for, when none or several fit."""
    root = Path(root)
    fitting = [name for name, layout in LAYOUTS.items() if layout.fits(root, None)]
    if "pairs_csv" in fitting:
        return "pairs_csv"
    if len(fitting) != 1:
        several = f"fits several layouts, {' and '.join(fitting)}: pass layout=..., or the folder of one of them"
        raise ValueError(f"{root}: {several if fitting else 'nothing known is in here'}; {_shapes()}")
    return fitting[0]


def _shapes() -> str:
    lines = [f"  {name:<11} {layout.SHAPE}" for name, layout in LAYOUTS.items()]
    plain = "two folders of plain images need none: retina-kp report 07_register -p fixed FOLDER -p moving FOLDER"
    return "\n".join(["the shapes looked for are:", *lines, f"{plain}; else write a pairs.csv, see data/README.md"])


def name_eyes(found: Inventory, path: Path) -> Inventory:
    """Give pairs the eye ids of a table with the columns EYE_COLUMNS, where there is such a file.

    Several pairs of one eye, or of one patient, are no independent trials, and few layouts can say which they are.
    Pairs without a row keep what the layout says, and a Problem counts them; rows of other pairs are passed over.
    ValueError as `read_rows`, and when two rows contradict each other.
    """
    if not path.is_file():
        return found
    eyes: dict[str, str] = {}
    for line, row in read_rows(path, EYE_COLUMNS, f"; a table of eyes has {' and '.join(EYE_COLUMNS)}"):
        if eyes.setdefault(composed(row["pair_id"]), row["eye_id"]) != row["eye_id"]:
            raise ValueError(f"{path}, line {line}: pair {row['pair_id']!r} has another eye in a line before")
    without = sorted((r.pair_id for r in found.records if not eyes.get(r.pair_id)), key=natural_order)
    found.records = [replace(r, eye_id=eyes.get(r.pair_id) or r.eye_id) for r in found.records]
    if without:
        words = f"no eye for {len(without)} pairs, such as {without[0]!r}: they keep the layout's"
        found.problems.append(Problem(str(path), words))
    return found
