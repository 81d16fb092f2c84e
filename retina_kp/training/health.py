"""Whether a run can still come to any good: it is stopped, with advice, when it cannot."""

from __future__ import annotations

import math

import numpy as np

from .config import TrainConfig

SILENT = 0.02  # a detector whose mean answer is below this share of its labels' mean has gone silent
WATCHED_STEPS, LAST_STEPS = 20, 3


class TrainingStopped(RuntimeError):
    """A run that cannot come to any good; the message says why and what to do."""


class DetectorWatch:
    """Watches the fixed detector's answers. A silent one would not come back: its Dice loss has no gradient there."""

    def __init__(self, config: TrainConfig):
        self.config, self.answers = config, []

    def verdict(self, step: int, mean_answer: float, labels: float) -> str:
        """What is wrong after ``step`` steps, "" if nothing: mean_answer of det0, labels per image. Judged by the
        median of the last WATCHED_STEPS, and at the end of an epoch, so that nothing silent is saved, by that of
        LAST_STEPS."""
        c = self.config
        label_mean = labels * 2 * math.pi * c.label_sigma_px**2 / c.size_px**2
        if label_mean > 0:
            self.answers = [*self.answers, mean_answer / label_mean][-WATCHED_STEPS:]
        ends_epoch = step % c.steps_per_epoch == 0
        judged = self.answers[-LAST_STEPS:] if ends_epoch else self.answers
        if len(judged) < (LAST_STEPS if ends_epoch else WATCHED_STEPS) or np.median(judged) >= SILENT:
            return ""
        share = f"{np.median(judged):.1%} of its labels'"
        return f"the fixed detector has gone silent: at step {step} its mean answer is {mean_answer:.2g}, {share}"
