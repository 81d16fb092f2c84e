"""Which code is running: for provenance in reports, and so that results of two versions are never mixed."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch

__version__ = "0.1.0"
PACKAGE = Path(__file__).resolve().parents[1]


@lru_cache
def code_version(wings: tuple[str, ...] = ("",)) -> str:
    """Changes with any source file of these wings (all of the package without them), and with the versions of what it
    computes with."""
    digest = hashlib.sha256(f"torch {torch.__version__}, OpenCV {cv2.__version__}, NumPy {np.__version__}".encode())
    for path in sorted(path for wing in wings for path in (PACKAGE / wing).rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def commit() -> str:
    """The git commit of this package's clone, with "+ changes" where its sources differ; "" without git or clone."""
    try:
        head, changes = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return ""
    return head + (" + changes" if changes else "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(PACKAGE), *words], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of this package and of what its results depend on."""
    libraries = {"torch": torch.__version__, "opencv": cv2.__version__, "numpy": np.__version__}
    return {"retina_kp": __version__, "commit": commit(), **libraries, "python": platform.python_version()}
