"""Tables as spreadsheets save them: commas, semicolons or tabs between cells, UTF-8 with or without a byte order
mark."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ..core.files import natural_order
from .records import Inventory, Problem, replace_record

EYE_COLUMNS = ("pair_id", "eye_id")


def read_rows(path: Path, needed: Sequence[str], hint: str = "") -> list[tuple[int, dict[str, str]]]:
    """(line number, cells by column) of every row that is not empty, outer blanks cut; whichever separator the header
    has most of counts.

    ValueError, with the hint, when it is no table of UTF-8 text or lacks one of the ``needed`` columns.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        separator = max(",;\t", key=text.lstrip().partition("\n")[0].count)
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="", delimiter=separator)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        rows = [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text; save the table as 'CSV UTF-8'") from error
    except csv.Error as error:
        raise ValueError(f"{path}: no table of text ({error}); save it as 'CSV UTF-8'") from error
    missing = [name for name in needed if name not in reader.fieldnames]
    if missing:
        raise ValueError(f"{path}: the columns {', '.join(missing)} are missing{hint}")
    cells = [(line, {key: (cell or "").strip() for key, cell in row.items() if key}) for line, row in rows]
    return [(line, row) for line, row in cells if any(row.values())]


def name_eyes(found: Inventory, path: Path) -> Inventory:
    """Give the pairs of an inventory the eye ids of a table with the columns EYE_COLUMNS, where there is such a file.

    Several pairs of one eye, or of one patient, are no independent trials, and no layout but pairs.csv can say which
    they are. Pairs without a row keep what the layout says, and a Problem counts them; rows of other pairs are passed
    over. ValueError as `read_rows`, and when two rows contradict each other.
    """
    if not path.is_file():
        return found
    eyes: dict[str, str] = {}
    for line, row in read_rows(path, EYE_COLUMNS, f"; a table of eyes has {' and '.join(EYE_COLUMNS)}"):
        if eyes.setdefault(row["pair_id"], row["eye_id"]) != row["eye_id"]:
            raise ValueError(f"{path}, line {line}: pair {row['pair_id']!r} has another eye in a line before")
    found.records = [replace_record(r, eye_id=eyes.get(r.pair_id) or r.eye_id) for r in found.records]
    without = sorted((r.pair_id for r in found.records if not eyes.get(r.pair_id)), key=natural_order)
    if without:
        found.problems.append(
            Problem(str(path), f"no eye for {len(without)} pairs, such as {without[0]!r}: they keep the layout's")
        )
    return found
