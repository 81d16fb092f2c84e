"""Where things lie: the project, its runs, and paths as people type them."""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path


def in_project(path: str | Path) -> Path:
    """A path as people type it, ~ expanded: as seen from here or, where nothing is there, from the project's folder. So
    a text means the same in a shell in that folder and in a notebook, which runs in notebooks/."""
    typed = Path(path).expanduser()
    return typed if typed.exists() else Path(__file__).resolve().parents[2] / typed


def project_root() -> Path:
    """Folder that holds notebooks/, found from the package's own place; FileNotFoundError when it was installed without
    them."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "notebooks").is_dir():
        raise FileNotFoundError(
            f"{root} has no notebooks/ folder: work in a clone of the project, installed with pip install -e ."
        )
    return root


def runs_root(given: str = "") -> Path:
    """Where run folders lie, by notebook: the given folder, that of the environment variable RETINA_KP_RUNS, or
    outputs/runs."""
    return project_root() / (Path(given or os.environ.get("RETINA_KP_RUNS") or "outputs/runs").expanduser())


def new_run_folder(notebook: str | Path, run_name: str = "", root: Path | None = None, make: bool = True) -> Path:
    """Create outputs/runs/<notebook>/<run name or local time>, or with make=False only name it; a named one may exist
    already; ValueError for an odd name.

    An absolute path as run name is the folder itself: so the runner gives a notebook the folder of its report."""
    if Path(run_name).is_absolute():
        if make:
            Path(run_name).mkdir(parents=True, exist_ok=True)
        return Path(run_name)
    if run_name and not re.fullmatch(r"\w[\w.+ -]*", run_name):
        raise ValueError(f"run name {run_name!r}: use letters, digits, dot, plus, minus, underscore, and no slash")
    base = (runs_root() if root is None else Path(root)) / Path(notebook).name.removesuffix(".ipynb")
    folder = base / (run_name or f"{datetime.now():%Y-%m-%d_%H%M%S_%f}")
    if make:
        folder.mkdir(parents=True, exist_ok=bool(run_name))
    return folder
