"""What is measured: checkpoints, their oracles, baselines, and functions of one's own. Each answers a pair."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from ..core.files import in_project
from ..core.geometry import describe, lattice
from ..mapping.result import Registration, refused
from ..networks.checkpoints import SHIPPED, find_weights, weights_sha256
from ..registration.options import registrar_options
from ..registration.registrar import Registrar
from ..synthetic.pairs import draw_pair
from . import baselines
from .oracle_keypoints import register_true_points
from .pairs import FIT, Seen
from .timing import TimedRegistrar

PHASE_NOTEBOOKS = ("01_warmup", "02_geometric", "03_pke", "04_sim2real")
ORACLE = ", oracle keypoints"  # what follows the name of a method where the true points were its keypoints
NOT_FOUND = "found no transform"
_FAMILIES = [import_module(f".{m.name}", baselines.__name__) for m in pkgutil.iter_modules(baselines.__path__)]
BASELINES = {name: function for family in (*_FAMILIES, baselines) for name, function in family.BASELINES.items()}
MISSING = {name: why for family in _FAMILIES for name, why in getattr(family, "MISSING", {}).items()}


@runtime_checkable
class Method(Protocol):
    """One line of the tables. ours: its confidence and its matches count; told_truth: it was given the truth."""

    name: str
    ours: bool = False
    told_truth: bool = False

    def fingerprint(self) -> str:
        """Changes whenever the answers might, with one and the same code of the package."""
        return self.name

    def provenance(self) -> dict:  # what a report says of it beside the name
        return {}

    def prepare(self) -> None:
        """Load what the first answer would have to wait for."""

    def answer(self, seen: Seen) -> tuple[Registration, dict]:
        """The answer to a pair, and further columns of its row. NOT_FOUND and exceptions are failures."""


@dataclass(frozen=True)
class Ours(Method):
    """Weights (a shipped name or a path) with a model to fit, and further (name, value) of `registrar_options`."""

    name: str
    weights: str = "lite"
    model: str = "auto"
    device: str = "auto"
    options: tuple[tuple[str, float], ...] = ()
    ours = True

    def fingerprint(self) -> str:
        return f"{weights_sha256(self.weights)} {registrar_options(model=self.model, **dict(self.options))}"

    def provenance(self) -> dict:
        return {"model": self.model, "sha256": weights_sha256(self.weights)[:12]}

    def registrar(self) -> Registrar:
        """One per process and file of weights as it is now."""
        written, how = find_weights(self.weights).stat(), (("model", self.model), *self.options)
        return _registrar(self.weights, self.device, how, (written.st_mtime_ns, written.st_size))

    def prepare(self) -> None:
        self.registrar()

    def answer(self, seen: Seen) -> tuple[Registration, dict]:
        registrar = self.registrar()
        result = registrar(seen.fixed, seen.moving)
        return result, {f"{stage}_s": seconds for stage, seconds in registrar.seconds.items()}


@lru_cache(maxsize=4)
def _registrar(weights: str, device: str, options: tuple, written: tuple[int, int]) -> TimedRegistrar:
    registrar = TimedRegistrar.from_pretrained(weights, device=device, **dict(options))
    registrar(*[draw_pair(1, 1).fixed] * 2)  # the first call is slow
    return registrar


@dataclass(frozen=True)
class Oracle(Method):
    """What ours would find if its detector were perfect (GT alignment), see `oracle_keypoints`."""

    of: Ours
    ours = told_truth = True

    @property
    def name(self) -> str:
        return self.of.name + ORACLE

    def fingerprint(self) -> str:
        return f"{self.of.fingerprint()}{ORACLE}"

    def prepare(self) -> None:
        self.of.prepare()

    def answer(self, seen: Seen) -> tuple[Registration, dict]:
        truth = seen.truth
        points = (truth.points0, truth.points1) if truth.annotated else None
        told = (np.linalg.inv(truth.H_0to1), points, truth.to_moving)
        result = register_true_points(self.of.registrar(), seen.fixed, seen.moving, *told)
        return result, {"matched": len(result.matches0)}


@dataclass(frozen=True)
class AnnotationFit(Method):
    """The annotation's own transform, judged at its points."""

    name: str = FIT
    told_truth = True

    def answer(self, seen: Seen) -> tuple[Registration, dict]:
        H = None if seen.truth is None else np.linalg.inv(seen.truth.H_0to1)
        return as_registration(H if H is None else H / H[2, 2], seen.fixed.shape[:2], seen.moving.shape[:2]), {}


@dataclass(frozen=True)
class Function(Method):
    """A baseline, or a method of one's own: a function of the fixed and the moving image (arrays HxWx3 or HxW). It
    returns a (3, 3) matrix moving px → fixed px, a function of (N, 2) points that does so, a `Registration` or None."""

    name: str
    function: Callable

    def fingerprint(self) -> str:
        """Outside the package the source, which says nothing of what it calls."""
        if self.function in BASELINES.values():
            return self.name
        try:
            return f"{self.name} {inspect.getsource(self.function)}"
        except (OSError, TypeError):
            raise ValueError(f"{self.name}: its source is not known, so no answer can be kept; use def") from None

    def answer(self, seen: Seen) -> tuple[Registration, dict]:
        found = self.function(seen.fixed, seen.moving)
        return as_registration(found, seen.fixed.shape[:2], seen.moving.shape[:2]), {}


@dataclass(frozen=True)
class Mapped(Registration):
    """An answer that is a function of points: judged by it, drawn by the homography nearest to it."""

    function: Callable | None = None

    def map_to_fixed(self, points1_xy: np.ndarray) -> np.ndarray:
        return np.asarray(self.function(points1_xy), np.float64)


def as_registration(answer, fixed_hw, moving_hw) -> Registration:
    """What a `Function` returns in the form of our results, with confidence NaN; ValueError for anything else."""
    if isinstance(answer, Registration):
        return answer
    none = replace(refused(NOT_FOUND, fixed_hw, moving_hw), confidence=float("nan"))
    if answer is None:
        return none
    H_1to0 = answer
    if callable(answer):
        grid = lattice(moving_hw, 9)
        none = Mapped(**vars(none), function=answer)
        H_1to0 = cv2.findHomography(grid, none.map_to_fixed(grid))[0]
    H_1to0 = np.asarray(H_1to0, np.float64)
    if H_1to0.shape != (3, 3) or not np.isfinite(H_1to0).all():
        raise ValueError(f"a method returns a 3x3 matrix, a function of points or None, not {answer!r:.80}")
    return replace(none, status="ok", H_1to0=H_1to0, angle_deg=describe(H_1to0, moving_hw).angle_deg)


# ------------------------------------------------------------------ which there are


def as_methods(given: Sequence[Method | Callable]) -> list[Method]:
    """With functions as methods; ValueError when two bear one name."""
    found = [m if isinstance(m, Method) else Function(getattr(m, "__name__", type(m).__name__), m) for m in given]
    names = [method.name for method in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"several methods are called {twice[0]!r}: give each a name of its own")
    return found


def choose_baselines(names: Sequence[str]) -> tuple[list[Function], dict[str, str]]:
    """Baselines that can run here, and why others cannot; ValueError for an unknown name."""
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise ValueError(f"no baseline {unknown[0]!r}; there are {', '.join(BASELINES)}")
    missing = {name: MISSING[name] for name in names if name in MISSING}
    return [Function(name, BASELINES[name]) for name in names if name not in missing], missing


def choose_methods(
    weights: Sequence[str],
    names: Sequence[str],
    runs: str | Path,
    model: str = "auto",
    device: str = "auto",
    own: Sequence[Callable] = (),
) -> tuple[list[Method], dict[str, str]]:
    """Ours, baselines by name and functions of one's own, and those that cannot run here with the reason.

    weights: shipped names, checkpoint files, run folders, or "phases": the newest checkpoint of each training notebook
    in the folder ``runs``; at least one, which is compared with all others. ValueError or FileNotFoundError for names
    that do not exist or occur twice.
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
    sources = list(dict.fromkeys(sources))
    ours = [Ours(name, path, model, device) for name, path in zip(_short_names(sources), sources, strict=True)]
    usable, absent = choose_baselines(names)
    return as_methods([*ours, *usable, *own]), missing | absent


def _newest_checkpoints(runs: Path) -> dict[str, str]:
    files = {name: list((runs / name).glob("*/checkpoint.safetensors")) for name in PHASE_NOTEBOOKS}
    return {name: str(max(own, key=lambda path: path.stat().st_mtime)) for name, own in files.items() if own}


def _short_names(sources: Sequence[str]) -> list[str]:
    """Distinct names that give no more of a path away than they must: "lite", "03_pke", and "03_pke #2"."""
    names = []
    for path in map(Path, sources):
        shipped = path.parent == SHIPPED or len(path.parts) == 1
        notebook = next((part for part in path.parts if part in PHASE_NOTEBOOKS), "")
        name = path.stem if shipped else notebook or (path.parent.name if path.stem == "checkpoint" else path.stem)
        taken = sum(other == name or other.startswith(f"{name} #") for other in names)
        names.append(f"{name} #{taken + 1}" if taken else name)
    return names
