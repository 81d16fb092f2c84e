"""Worker processes that share the cores of this one and end with it."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import torch

from .device import bfloat16_is_fast, decide_bfloat16


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
