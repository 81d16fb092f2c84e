"""state.pt, all that an interrupted run needs to go on: whole, or absent, or refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from ..core.files import replacing


def write_state(path: str | Path, state: dict) -> None:
    """Write plain values and tensors, atomically."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def read_state(path: str | Path, device="cpu") -> dict:
    """What `write_state` wrote; ValueError unless every byte is as it was written (torch.load does not look at the
    check sums)."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    # the last: a flipped bit asks for a password or another compression
    except (zipfile.BadZipFile, EOFError, RuntimeError) as error:
        damaged = error
    if damaged:
        advice = "Put back a copy of the file, or delete it to train this phase from its start"
        raise ValueError(f"{path} is damaged and cannot be continued from ({damaged}). {advice}")
    return torch.load(path, map_location=device, weights_only=True)


def sweep(folder: str | Path) -> None:
    """Remove what `replacing` had half written below a folder when its process was killed."""
    for path in Path(folder).rglob(".*.????????.tmp"):
        path.unlink(missing_ok=True)
