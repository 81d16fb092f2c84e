"""The methods of a comparison on real pairs: our checkpoints and the baselines, each answering with a
`Registration`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..core.files import in_project
from ..core.geometry import describe
from ..networks.checkpoints import SHIPPED, find_weights, weights_sha256
from ..registration.registrar import Registrar
from ..registration.result import Registration, refused
from .baselines.classical import BASELINES, choose_baselines
from .oracle_keypoints import register_true_points

PHASE_NOTEBOOKS = ("01_warmup", "02_geometric", "03_pke", "04_sim2real")
NOT_FOUND = "found no transform"
CRASHED = "error: "  # how the status of a method begins that raised an exception


@dataclass(frozen=True)
class Method:
    """One line of the tables. source: weights (a shipped name or a path) when ours, else the name of a baseline."""

    name: str
    source: str
    ours: bool
    model: str = "affine"
    device: str = "auto"

    def fingerprint(self) -> str:
        """Changes whenever the method's answers might, with one and the same code."""
        return f"{self.weights_sha256()} {Registrar.options_for(model=self.model)}" if self.ours else self.source

    def weights_sha256(self) -> str:
        """Of the file of our weights, hexadecimal; "" of a baseline."""
        return weights_sha256(self.source) if self.ours else ""

    def register_true_points(
        self, fixed: np.ndarray, moving: np.ndarray, H_1to0: np.ndarray, points=None
    ) -> Registration:
        """The oracle of ours, see `oracle_keypoints.register_true_points`; a crash is told as in `register`."""
        try:
            return register_true_points(self._registrar(), fixed, moving, H_1to0, points)
        except Exception as error:
            return _crashed(error, fixed, moving)

    def register(self, fixed: np.ndarray, moving: np.ndarray) -> Registration:
        """The answer to a pair of images. A baseline is sure of every answer (confidence NaN); NOT_FOUND and CRASHED
        are failures of a method, every other status than "ok" is a refusal."""
        try:
            if self.ours:
                return self._registrar()(fixed, moving)
            return as_registration(BASELINES[self.source](fixed, moving), fixed.shape[:2], moving.shape[:2])
        except Exception as error:  # whatever it is, it is the answer of this method to this pair, and the others go on
            return _crashed(error, fixed, moving)

    def _registrar(self) -> Registrar:
        written = find_weights(self.source).stat()
        return _registrar(self.source, self.model, self.device, (written.st_mtime_ns, written.st_size))


def _crashed(error: Exception, fixed: np.ndarray, moving: np.ndarray) -> Registration:
    return refused(f"{CRASHED}{type(error).__name__}: {str(error).strip():.200}", fixed.shape[:2], moving.shape[:2])


def as_registration(H_1to0: np.ndarray | None, fixed_hw, moving_hw) -> Registration:
    """A bare transform (3, 3) moving px → fixed px, or None, in the form of our results."""
    if H_1to0 is None:
        return refused(NOT_FOUND, fixed_hw, moving_hw)
    none, angle = np.zeros((0, 2)), describe(H_1to0, moving_hw).angle_deg
    return Registration(
        "ok", H_1to0, float("nan"), none, none, np.zeros(0, bool), tuple(fixed_hw), tuple(moving_hw), angle_deg=angle
    )


@lru_cache(maxsize=4)
def _registrar(source: str, model: str, device: str, written: tuple[int, int]) -> Registrar:
    """One per process and file of weights as it is now; written: when, and its size."""
    return Registrar.from_pretrained(source, device=device, model=model)


def choose_methods(
    weights: Sequence[str], baselines: Sequence[str], runs: str | Path, model: str = "affine", device: str = "auto"
) -> tuple[list[Method], dict[str, str]]:
    """Methods in the order of their names, ours first, and those that cannot run here with the reason.

    weights: shipped names, checkpoint files, run folders, or "phases": the newest checkpoint of each training notebook
    in the folder ``runs``. ValueError or FileNotFoundError for names that do not exist, and without any of our weights:
    the first is compared with all others.
    """
    sources, missing = [], {}
    for given in weights:
        if given == "phases":
            found = _newest_checkpoints(Path(runs))
            sources += found.values()
            missing |= {name: "no checkpoint of it yet" for name in PHASE_NOTEBOOKS if name not in found}
        else:
            in_folder = in_project(given) / "checkpoint.safetensors"
            sources.append(str(in_folder if in_folder.is_file() else find_weights(given)))
    if not sources:
        raise ValueError('weights: name at least one of ours, e.g. "lite"')
    names = _short_names(sources := list(dict.fromkeys(sources)))
    ours = [Method(name, source, True, model, device) for name, source in zip(names, sources, strict=True)]
    usable, absent = choose_baselines(baselines)
    return ours + [Method(name, name, False) for name in usable], missing | absent


def _newest_checkpoints(runs: Path) -> dict[str, str]:
    found = {}
    for name in PHASE_NOTEBOOKS:
        files = sorted((runs / name).glob("*/checkpoint.safetensors"), key=lambda path: path.stat().st_mtime)
        if files:
            found[name] = str(files[-1])
    return found


def _short_names(sources: Sequence[str]) -> list[str]:
    """Distinct names for tables that give no more of a path away than they must: "lite", "03_pke" or, where two share
    it, "03_pke #2"."""
    names = []
    for path in map(Path, sources):
        shipped = path.parent == SHIPPED or len(path.parts) == 1
        notebook = next((part for part in path.parts if part in PHASE_NOTEBOOKS), "")
        name = path.stem if shipped else notebook or (path.parent.name if path.stem == "checkpoint" else path.stem)
        taken = sum(other == name or other.startswith(f"{name} #") for other in names)
        names.append(f"{name} #{taken + 1}" if taken else name)
    return names
