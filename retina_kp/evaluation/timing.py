"""Where the time and the memory of a registration go."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from ..core.compute import worker_pool
from ..registration.registrar import Registrar
from ..registration.result import Registration

# What lies outside all other stages is "prepare": gray, field of view, first keypoints.
STAGES = ("prepare", "search", "close-up", "refinement")
LARGE_PX = 2000  # longer side of large images


class Stopwatch:
    """Seconds per stage. A stage that begins inside another one pauses it, so the sum over the stages is the whole
    time."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.seconds: dict[str, float] = {}
        self._clock, self._open, self._since = clock, [], 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens in the block as ``name``."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def _book(self) -> None:
        now = self._clock()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


class TimedRegistrar(Registrar):
    """A `Registrar` that tells the seconds of each of STAGES in its last call."""

    watch = Stopwatch()

    @property
    def seconds(self) -> dict[str, float]:
        return {stage: self.watch.seconds.get(stage, 0.0) for stage in STAGES}

    def __call__(self, fixed, moving) -> Registration:
        self.watch = Stopwatch()
        with self.watch.stage("prepare"):
            return super().__call__(fixed, moving)

    def find(self, *given):
        with self.watch.stage("search"):
            return super().find(*given)

    def look_closely(self, *given):
        with self.watch.stage("close-up"):
            return super().look_closely(*given)

    def refine(self, *given):
        with self.watch.stage("refinement"):
            return super().refine(*given)


def peak_memory_gb() -> float:
    """Most memory this process has held, in GiB (resident); NaN where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # since exec; ru_maxrss would include the parent's
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) / 2**20
    try:
        import resource
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def cold_start(weights: str | Path, fixed: np.ndarray, moving: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """What a new process needs, on as many threads as here: seconds to load the weights, of the first call on a pair
    and of a later one, of the same pair at LARGE_PX, and of a refusal (other: an image of another eye); its peak memory
    after all that (GiB, with Python and torch in it)."""
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
