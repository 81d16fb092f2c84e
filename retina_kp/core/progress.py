"""How far long work is: a bar where somebody watches, a line now and then in a notebook that runs headless."""

from __future__ import annotations

import os
import sys
import time

from tqdm.auto import tqdm

HEADLESS = "RETINA_KP_HEADLESS"  # environment variable by which the runner of notebooks asks for lines
MARK = "progress: "  # what such a line begins with; the runner passes it on and keeps it out of the executed copy
EVERY_S = 10.0  # between two lines


def progress(total: int, done: int, what: str):
    """A counter of ``total`` pieces of work, of which ``done`` are finished: ``update()`` after each other piece, then
    ``close()``. The first and the last piece always make a line."""
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
