"""What computes and how far it is: the code's version, the device, worker processes, and progress of long work."""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache

import cv2
import numpy as np
import torch
from tqdm.auto import tqdm

from .files import PACKAGE

__version__ = "0.1.0"
HEADLESS = "RETINA_KP_HEADLESS"  # environment variable by which the runner of notebooks asks for lines
MARK = "progress: "  # what such a line begins with; the runner passes it on and keeps it out of the executed copy
EVERY_S = 10.0  # between two lines


def choose_device(device: str | torch.device) -> torch.device:
    """ "auto" (CUDA where there is one), or a device by PyTorch's name; ValueError for an unknown or absent one."""
    seen = torch.cuda.device_count()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {str(device)!r}: takes 'auto', 'cpu', 'cuda' or 'cuda:<number>'") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= seen:
        words = f'{seen or "no"} CUDA device is visible to PyTorch here; use "auto" or "cpu"'
        raise ValueError(f"device {str(device)!r}: {words}")
    return chosen


_fast: dict[str, bool] = {}  # of this process, by kind of device


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether convolutions in bfloat16 take less time than in float32.

    A GPU says so. A CPU must say so and is measured once, in about 50 ms: emulation takes many times as long.
    """
    if device.type not in _fast:
        _fast[device.type] = promises_bfloat16(device) and (device.type == "cuda" or _bfloat16_gains())
    return _fast[device.type]


def decide_bfloat16(device_type: str, fast: bool) -> None:
    """For a worker: compute as the process that started it does."""
    _fast[device_type] = fast


def promises_bfloat16(device: torch.device) -> bool:
    """Whether the device says that it computes in bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # an older torch does not tell
    capabilities = getattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})()
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@torch.inference_mode()
def _bfloat16_gains() -> bool:
    """Whether a layer like those of our networks is faster in bfloat16, by CPU time, both kinds measured in turn."""
    times = {torch.bfloat16: [], torch.float32: []}
    layers = {kind: torch.nn.Conv2d(64, 64, 3, padding=1).to(kind, memory_format=torch.channels_last) for kind in times}
    images = {kind: torch.zeros(1, 64, 96, 96, dtype=kind).to(memory_format=torch.channels_last) for kind in times}
    for _ in range(9):  # the first calls also prepare
        for kind in times:
            started = time.process_time()
            layers[kind](images[kind])
            times[kind].append(time.process_time() - started)
    return min(times[torch.bfloat16][1:]) < min(times[torch.float32][1:])


# ------------------------------------------------------------------ which code, so that results of two are never mixed


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


# ------------------------------------------------------------------ worker processes


@contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """New processes that share this one's threads, compute in its precision and end with it.

    An exception within the block, Ctrl-C too, drops the jobs that have not begun.
    """
    if processes < 1:
        raise ValueError(f"processes: takes a whole number from 1, not {processes}")
    threads = max(torch.get_num_threads() // processes, 1)
    how = (threads, bfloat16_is_fast(torch.device("cpu")))
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_worker, how)
    done = False
    try:
        yield pool
        done = True
    finally:
        pool.shutdown(cancel_futures=not done)


def from_one(text: str) -> int:
    """A whole number from 1, of an argument of a command."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a whole number from 1, not {text}")
    return int(text)


def share(text: str) -> float:
    """A fraction of the steps of a training, of an argument of a command."""
    if not 0 < (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"takes a fraction of the steps, above 0 and up to 1, not {text}")
    return value


def _start_worker(threads: int, bfloat16: bool) -> None:
    # a worker would wait for its next job without end: it ends with its parent, however that ended
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(threads)
    decide_bfloat16("cpu", bfloat16)


# ------------------------------------------------------------------ progress


def progress(total: int, done: int, what: str):
    """Something with ``update()``, for each of ``total`` pieces of work of which ``done`` are finished, and
    ``close()``.

    It is a bar where somebody watches; where a notebook is run headless, a line with the time left now and then.
    """
    if os.environ.get(HEADLESS):
        return _Lines(total, done, what)
    return tqdm(total=total, initial=done, desc=what, unit="", smoothing=0.1)


class _Lines:
    def __init__(self, total: int, done: int, what: str):
        self.total, self.done, self.before, self.what = total, done, done, what
        self.started, self.written = time.monotonic(), float("-inf")

    def update(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.written >= EVERY_S or self.done == self.total:
            self.written = now
            left_s = (self.total - self.done) * (now - self.started) / (self.done - self.before)
            sys.stderr.write(f"{MARK}{self.what} {self.done} of {self.total}, {tqdm.format_interval(left_s)} left\n")
            sys.stderr.flush()

    def close(self) -> None:
        pass
