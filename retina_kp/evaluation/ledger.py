"""A file of finished work, one JSON row per line: on disk before the next unit begins, readable after a kill at any
moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path


def read_ledger(path: str | Path | None) -> dict[str, dict]:
    """Rows by key; a last line that a killed run left unfinished is passed over."""
    return {row["key"]: row for row in _lines(path)} if path is not None and Path(path).is_file() else {}


def _lines(path: str | Path) -> Iterator[dict]:
    for line in Path(path).read_bytes().split(b"\n"):
        try:
            yield json.loads(line)
        except ValueError:  # empty, or torn
            continue


def append_row(path: str | Path | None, row: dict) -> None:
    """Add one line, on disk before this returns; it starts on a line of its own whatever a killed run left behind."""
    if path is None:
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
