"""What must not leave the clinic with a report: names in paths and ids. Text burned into pictures stays: look before
you share.

python -m retina_kp.notebook.privacy executed.ipynb shared.ipynb        # a copy of an executed notebook without paths
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..core.files import write_csv, write_text
from ..data.records import PairRecord
from ..evaluation.runner import CRASHED

# a path: its folders may have blanks, commas and apostrophes in them, for only a slash ends a folder's name; a blank
# ends its last part
_LAST = r"[^\s:'\"<>|,;/\\]+"
_FOLDER = rf"{_LAST}(?:(?:'(?=\w)|,? (?!\.{{1,2}}[/\\]|~|[A-Za-z]:[/\\])){_LAST})*[/\\]+"
PATH = re.compile(rf"(?<![\w.:/\\])(?:[A-Za-z]:[/\\]|~?/|\.{{1,2}}/)(?:{_FOLDER})*{_LAST}")
# what a reason is about, told without a word of it: the first pattern that it holds decides
REASON_KINDS = (
    ("duplicate pair id", "its pair id occurs twice"),
    (
        "without vessel mask|mask of another resolution|mask.*proportions differ",
        "no usable vessel mask; the pair itself was kept",
    ),
    ("mirror", "its annotation mirrors the retina"),
    ("known to be wrong", "known to be wrongly annotated"),
    ("contradict", "its two matrices contradict each other"),
    ("unequal point counts|points of shapes", "unequal numbers of points"),
    ("points? pairs?, at least|define no transform|no transform fits", "its points define no transform"),
    ("points outside", "points outside the image"),
    ("duplicate points", "several points on one spot"),
    ("collinear", "its points lie on one line"),
    ("numbers? expected|no invertible transform|a transform has shape", "numbers that cannot be read"),
    ("points belong to both", "points of one image only"),
    ("neither an affine|neither H_0to1", "no truth where this layout has one"),
    ("must not be empty|does not start with a number|no image with this number", "ids or names that make no pair"),
    ("too small", "an image that is too small"),
    (
        "damaged|header cannot be read|file is empty|not a plain text|unsupported|no known white",
        "a damaged or unreadable file",
    ),
    (
        "no such file|cannot be opened|is missing|no image |has no image|no control_points|has the images of none",
        "a missing file",
    ),
)
HIDDEN = "(hidden)"
OTHER_REASON = "another reason; it stands in the folder private"

# ------------------------------------------------------------------ names


def without_paths(text: str, root: str | Path = "") -> str:
    """Text in which every path is cut: below ``root`` to what follows it, else to its last part.

    "/home/li/clinic/003_01/a.png: empty" → "003_01/a.png: empty" with the root "/home/li/clinic", else "a.png: empty".
    """
    for name in {str(root), str(Path(root).absolute()), str(Path(root).resolve())} if str(root) else ():
        text = text.replace(f"{name}/", "").replace(f"{name}\\", "").replace(name, Path(name).name)
    return PATH.sub(lambda match: re.split(r"[/\\]+", match[0])[-1], text)


def reason_kind(reason: str) -> str:
    """Why something was left out, in words that never come from the data: one of REASON_KINDS, or OTHER_REASON."""
    return next((words for pattern, words in REASON_KINDS if re.search(pattern, reason)), OTHER_REASON)


def without_message(status: str) -> str:
    """The status of a registration without what an error says of files: "error: OSError: /a/b.png" → "error:
    OSError"."""
    return ": ".join(status.split(": ")[:2]) if status.startswith(CRASHED) else status


def pseudonyms(records: Iterable[PairRecord]) -> dict[str, tuple[str, str]]:
    """Pair id → (number of the pair, number of the eye), e.g. ("pair 003", "eye 02"), in the order of the records."""
    eyes: dict[str, str] = {}
    found = {}
    for record in records:
        eye = eyes.setdefault(record.eye_id, f"eye {len(eyes) + 1:02d}")
        found[record.pair_id] = (f"pair {len(found) + 1:03d}", eye)
    return found


def rename(rows: pd.DataFrame, names: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Rows with pair and eye by number; pairs without a number keep their names."""
    told = [names.get(pair, (pair, eye)) for pair, eye in zip(rows.pair, rows.eye, strict=True)]
    return rows.assign(pair=[pair for pair, _ in told], eye=[eye for _, eye in told])


def write_key(path: str | Path, records: Iterable[PairRecord], names: Mapping[str, tuple[str, str]]) -> Path:
    """The table that leads from numbers back to patients: keep it where the patients' data is."""
    columns = ("number", "eye_number", "pair_id", "eye_id", "image0", "image1")
    values = [(*names[r.pair_id], r.pair_id, r.eye_id, str(r.image0), str(r.image1)) for r in records]
    return write_csv(path, [dict(zip(columns, row, strict=True)) for row in values])


# ------------------------------------------------------------------ executed notebooks


def share_notebook(executed: str | Path, shared: str | Path) -> Path:
    """Write a copy of an executed notebook whose injected parameters, printed text and metadata hold no path, only the
    last part of each; where the parameter ``hide_names`` is true, not that either. Tables and pictures are left as they
    are: ours hold no path."""
    import nbformat

    notebook = nbformat.read(executed, 4)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            lines = cell.source.split("\n")
            cell.source = "\n".join(_value_without_path(line, "hide_names = True" in lines) for line in lines)
        for output in cell.get("outputs", []):
            for holder, key in ((output, "text"), (output.get("data", {}), "text/plain")):
                if isinstance(holder.get(key), str):
                    holder[key] = without_paths(holder[key])
    notebook.metadata.pop("papermill", None)
    return write_text(shared, nbformat.writes(notebook))


def _value_without_path(line: str, hidden: bool) -> str:
    """A line ``name = literal`` in which every text with a slash is cut, as a whole, to its last part, or is HIDDEN."""
    name, equals, value = line.partition(" = ")
    try:
        return f"{name}{equals}{_last_parts(ast.literal_eval(value), hidden)!r}" if equals else line
    except (ValueError, SyntaxError):  # no literal
        return f"{name}{equals}{without_paths(value)}"


def _last_parts(value, hidden: bool):
    if isinstance(value, list | tuple):
        return [_last_parts(one, hidden) for one in value]
    if not isinstance(value, str) or not re.search(r"[/\\]", value):
        return value
    return HIDDEN if hidden else re.split(r"[/\\]+", value.rstrip("/\\"))[-1]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a copy of an executed notebook without paths.")
    parser.add_argument("executed")
    parser.add_argument("shared")
    options = parser.parse_args(argv)
    print(share_notebook(options.executed, options.shared))


if __name__ == "__main__":
    main()
