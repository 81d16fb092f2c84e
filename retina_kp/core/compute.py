"""What computes: the device, its precision, and worker processes that share the cores of this one and end with it."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import torch


def choose_device(device: str | torch.device) -> torch.device:
    """ "auto" (CUDA where there is one), or a device as PyTorch names it; ValueError for a name it does not know and
    for absent CUDA."""
    seen = torch.cuda.device_count()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {str(device)!r}: takes 'auto', 'cpu', 'cuda' or 'cuda:<number>'") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= seen:
        raise ValueError(
            f'device {str(device)!r}: {seen or "no"} CUDA device is visible to PyTorch here; use "auto" or "cpu"'
        )
    return chosen


_decided: dict[str, bool] = {}  # of this process, by kind of device


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether a convolution in bfloat16 takes less time than in float32. A GPU says so. A CPU must say so and is
    measured, once, in about 50 ms: its flags promise what the libraries may not use, and emulation takes many times as
    long."""
    if device.type not in _decided:
        _decided[device.type] = promises_bfloat16(device) and (device.type == "cuda" or _bfloat16_gains())
    return _decided[device.type]


def decide_bfloat16(device_type: str, fast: bool) -> None:
    """For a worker: compute as the process that started it does."""
    _decided[device_type] = fast


def promises_bfloat16(device: torch.device) -> bool:
    """Whether the device says that it computes in bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # an older torch does not tell
    capabilities = getattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})()
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@torch.inference_mode()
def _bfloat16_gains(repeats: int = 8) -> bool:
    """Whether the shortest of some times of a layer like those of our networks is shorter in bfloat16. CPU time, and
    both in turn, so that other work on the machine decides nothing."""
    kinds, times = (torch.bfloat16, torch.float32), {torch.bfloat16: [], torch.float32: []}
    layers = {
        kind: torch.nn.Conv2d(64, 64, 3, padding=1).to(kind).to(memory_format=torch.channels_last) for kind in kinds
    }
    images = {kind: torch.zeros(1, 64, 96, 96, dtype=kind).to(memory_format=torch.channels_last) for kind in kinds}
    for _ in range(repeats + 1):  # the first calls also prepare
        for kind in kinds:
            started = time.process_time()
            layers[kind](images[kind])
            times[kind].append(time.process_time() - started)
    return min(times[torch.bfloat16][1:]) < min(times[torch.float32][1:])


# ------------------------------------------------------------------ worker processes


def end_with_parent() -> None:
    """For a pool's worker: end as soon as the parent process is gone, however it went. Workers wait for their next job
    else, for ever. Nothing happens in a process that nobody's pool has started."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextmanager
def worker_pool(processes: int, start: Callable | None = None, *arguments) -> Iterator[ProcessPoolExecutor]:
    """New processes for jobs side by side, which share the threads of this one, compute in its precision and end with
    it; each calls start(*arguments) first. An exception within the block, Ctrl-C too, drops the jobs that have not
    begun."""
    if processes < 1:
        raise ValueError(f"processes: takes a whole number from 1, not {processes}")
    threads = max(torch.get_num_threads() // processes, 1)
    how = (threads, bfloat16_is_fast(torch.device("cpu")), start, arguments)
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


def _start_worker(threads: int, bfloat16: bool, start: Callable | None, arguments: tuple) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    decide_bfloat16("cpu", bfloat16)
    if start is not None:
        start(*arguments)
