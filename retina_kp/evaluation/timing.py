"""Where the time and the memory of a registration go."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ..core.compute import worker_pool
from ..mapping.result import Registration
from ..registration.registrar import Registrar

# What lies outside all other stages is "prepare": gray, field of view, first keypoints.
STAGES = ("prepare", "search", "close-up", "refinement")
LARGE_PX = 2000  # longer side of large images


def staged(stage: str, method: Callable) -> Callable:
    """A method that adds its seconds to those of a stage. A stage within it takes its own off, so the sum over the
    stages is the whole time."""

    def timed(self, *given):
        outside, self.within, started = self.within, 0.0, time.perf_counter()
        try:
            return method(self, *given)
        finally:
            spent = time.perf_counter() - started
            self.seconds[stage] += spent - self.within
            self.within = outside + spent

    return timed


class TimedRegistrar(Registrar):
    """A `Registrar` that tells the seconds of each of STAGES in its last call."""

    within = 0.0
    _prepare = staged("prepare", Registrar.__call__)
    find = staged("search", Registrar.find)
    is_mirrored = staged("search", Registrar.is_mirrored)
    look_closely = staged("close-up", Registrar.look_closely)
    refine = staged("refinement", Registrar.refine)

    def __call__(self, fixed, moving) -> Registration:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        return self._prepare(fixed, moving)


def peak_memory_gb() -> float:
    """Most memory this process has held, in GiB (resident); NaN where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # since exec; ru_maxrss would include the parent's
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) / 2**20
    try:
        import resource
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def cold_start(weights: str | Path, fixed: np.ndarray, moving: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """What a new process needs, on as many threads as here, and its peak memory (GiB, with Python and torch in it).

    Seconds to load the weights, of the first call on a pair, of a later one, and of the pair at LARGE_PX. The last is a
    refusal: other is an image of another eye.
    """
    with worker_pool(1) as pool:
        return pool.submit(_start_cold, str(weights), fixed, moving, other).result()


def _start_cold(weights: str, fixed: np.ndarray, moving: np.ndarray, other: np.ndarray) -> dict[str, float]:
    large = []
    for image in (fixed, moving):
        zoom = LARGE_PX / max(image.shape[:2])
        large.append(cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC))
    marks, registrar = [time.perf_counter()], Registrar.from_pretrained(weights)
    marks.append(time.perf_counter())
    for pair in ((fixed, moving), (fixed, moving), large, (fixed, other)):
        registrar(*pair)
        marks.append(time.perf_counter())
    names = ("load_s", "first_call_s", "later_call_s", f"{LARGE_PX}_px_s", "two_eyes_s")
    return dict(zip(names, map(float, np.diff(marks)), strict=True)) | {"peak_memory_gb": peak_memory_gb()}
