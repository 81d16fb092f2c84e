"""Files that are written whole or not at all, and where the project's files lie."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:
    fcntl = None

PACKAGE = Path(__file__).resolve().parents[1]
FORMULA = re.compile(r"'*([=@\t\r]|[+-](?![\d.]*$))")  # how a cell begins that a spreadsheet would work out
NOT_WRITTEN = "cannot be written; is the disk full?"
PROJECT = "RETINA_KP_PROJECT"  # environment variable by which the runner tells a notebook where its caller stands


def natural_order(name: str) -> tuple[str, str]:
    """Sorting key for file names that puts 2_A before 10_A."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(9), name), name


def composed(text: str) -> str:
    """Text with every accent in one character with its letter (NFC): file systems and tables spell é in two ways."""
    return unicodedata.normalize("NFC", text)


def as_spelled(path: str | Path) -> Path:
    """A path, ~ expanded; where there is no such file, that of the same name with accents spelled otherwise."""
    path = Path(path).expanduser()
    if path.exists() or path.name.isascii() or not path.parent.is_dir():
        return path
    return next((file for file in path.parent.iterdir() if composed(file.name) == composed(path.name)), path)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside the target, which replaces the target when the block ends well and is removed otherwise.

    The target's folder is created when missing. A reader sees the old file or the new one, never half of one. OSError
    names the target, also where the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror or f"cannot be written ({error})", str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write bytes atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically, newlines as given."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, obj: Any) -> Path:
    """Write obj as JSON, atomically; NaN and infinities become null; TypeError for what has no JSON form."""
    return write_text(path, json.dumps(to_plain(obj, lambda name: None), indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a DataFrame, or rows, as CSV, atomically; NaN, None and missing values are empty cells, texts `no_formula`."""
    import pandas as pd  # slow to import, and who registers a pair needs no tables

    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(to_plain(list(rows)), dtype=object)
    for name in table.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]]:
        table = table.assign(**{name: [no_formula(cell) if isinstance(cell, str) else cell for cell in table[name]]})
    return write_text(path, table.to_csv(index=False, lineterminator="\n"))


def no_formula(text: str) -> str:
    """Text that no spreadsheet takes for a formula: with an apostrophe ahead where it begins like one."""
    return f"'{text}" if FORMULA.match(text) else text


def without_apostrophe(text: str) -> str:
    """What `no_formula` was given."""
    return text[1:] if text[:1] == "'" and FORMULA.match(text) else text


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8; ValueError for anything else, UTF-16 included."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        why = "it has zero bytes" if "\0" in text else ""
    except UnicodeDecodeError as error:
        text, why = "", error.reason
    if why:
        raise ValueError(f"{path}: not a plain text file ({why}); save it as UTF-8 text, a table as 'CSV UTF-8'")
    return text


def _encode(value: Any) -> Any:
    """What json does not know: dataclasses, numpy and torch values, paths; TypeError for the rest."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"cannot write {type(value).__name__} ({value!r:.60}): convert it to a number, text, list or dict")


def to_plain(value: Any, not_finite: Callable[[str], Any] = float) -> Any:
    """Same value in JSON's types; `not_finite` maps "NaN", "Infinity" and "-Infinity"."""
    return json.loads(json.dumps(value, default=_encode), parse_constant=not_finite)


@contextmanager
def held(path: str | Path) -> Iterator[None]:
    """Keep a file or folder to this process for a while; ValueError where another one has it. A process that dies lets
    go. Where the system knows no such locks, as on Windows, nothing is kept."""
    descriptor = os.open(path, os.O_RDONLY) if fcntl else None
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ValueError(f"{path}: another run is at work here; wait for its end, or take another run_name") from None
    finally:
        if fcntl:
            os.close(descriptor)


def sweep(folder: str | Path) -> None:
    """Remove what `replacing` had half written below a folder when its process was killed."""
    for path in Path(folder).rglob(".*.????????.tmp"):
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------ where things lie


def in_project(path: str | Path) -> Path:
    """A path as typed, ~ expanded; one that does not exist from here is taken from the project's folder.

    So a path means the same in a shell in that folder and in a notebook, which runs in notebooks/.
    """
    typed = as_spelled(path)
    return typed if typed.exists() else as_spelled(project_root() / typed)


def notebooks_folder() -> Path:
    """Where the notebooks lie: beside the package in a clone, inside it when it was installed from a wheel."""
    inside = PACKAGE / "notebooks"
    return inside if inside.is_dir() else PACKAGE.parent / "notebooks"


def project_root() -> Path:
    """The folder of data/ and outputs/: the clone; without one that of the variable RETINA_KP_PROJECT, else the
    present one."""
    if notebooks_folder().parent != PACKAGE:
        return PACKAGE.parent
    return Path(os.environ.get(PROJECT) or Path.cwd())


def runs_root(given: str = "") -> Path:
    """Where run folders lie: the given folder, that of the environment variable RETINA_KP_RUNS, or outputs/runs."""
    return project_root() / (Path(given or os.environ.get("RETINA_KP_RUNS") or "outputs/runs").expanduser())


def new_run_folder(notebook: str | Path, run_name: str = "", root: Path | None = None, make: bool = True) -> Path:
    """Create outputs/runs/<notebook>/<run name or local time>, or with make=False only name it.

    A named folder may exist already. An absolute run name is the folder itself. ValueError for an odd name.
    """
    if Path(run_name).is_absolute():
        folder = Path(run_name)
    elif run_name and not re.fullmatch(r"\w[\w.+ -]*", run_name):
        raise ValueError(f"run name {run_name!r}: use letters, digits, dot, plus, minus, underscore, and no slash")
    else:
        base = (runs_root() if root is None else Path(root)) / Path(notebook).name.removesuffix(".ipynb")
        folder = base / (run_name or f"{datetime.now():%Y-%m-%d_%H%M%S_%f}")
    if make:
        folder.mkdir(parents=True, exist_ok=bool(run_name))
    return folder
