"""What PKE remembered of a few samples after each of their visits: the pages that `notebooks/05_pke_diagnostics`
reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

WATCHED_SAMPLES = 4
MAX_PAGES = 200  # per sample: a full label_history takes 1 to 10 MB of state.pt


@dataclass(frozen=True)
class Page:
    """A sample just after a visit, which counts from 1, in a step of the run, which counts from 0. record: (N, 4)
    float32: x, y px of image 0, value, 1 if promoted else 0."""

    visit: int
    step: int
    record: torch.Tensor


class LabelHistory:
    """Pages on the samples that a run meets first. When a sample has max_pages, every second one is torn out, and from
    then on only every second (fourth, ...) visit makes a page. Part of the run's checkpoint."""

    def __init__(self, samples: int = WATCHED_SAMPLES, max_pages: int = MAX_PAGES):
        self.samples, self.max_pages = samples, max_pages
        self._visits: dict[int | str, int] = {}
        self._pages: dict[int | str, list[Page]] = {}

    @property
    def sample_ids(self) -> list[int | str]:
        """The samples that are watched, in the order in which they came."""
        return list(self._pages)

    def pages(self, sample_id: int | str) -> list[Page]:
        """What is known of a sample, oldest first; empty for one that is not watched."""
        return list(self._pages.get(sample_id, ()))

    def note(self, sample_id: int | str, step: int, record: torch.Tensor) -> None:
        """Write down the record (N, 4) that `ValueMap` holds just after a visit; an id "" never returns and is not
        watched."""
        if sample_id == "" or (sample_id not in self._pages and len(self._pages) >= self.samples):
            return
        visit, pages = self._visits.get(sample_id, 0) + 1, self._pages.setdefault(sample_id, [])
        self._visits[sample_id] = visit
        every = pages[1].visit - pages[0].visit if len(pages) > 1 else 1
        if (visit - 1) % every:
            return
        pages.append(Page(visit, step, record.detach().cpu().float().clone()))
        if len(pages) > self.max_pages:
            del pages[1::2]

    def state_dict(self) -> dict:
        """Plain values and tensors: `torch.load(weights_only=True)` reads it."""
        pages = {k: [[p.visit, p.step, p.record] for p in pages] for k, pages in self._pages.items()}
        return {"visits": dict(self._visits), "pages": pages}

    def load_state_dict(self, state: dict) -> None:
        """Take over a `state_dict`."""
        self._visits = dict(state["visits"])
        self._pages = {k: [Page(*page) for page in pages] for k, pages in state["pages"].items()}


@dataclass(frozen=True)
class Life:
    """A place in the value map from its first find on: xy px, and an entry per page: visit, value, is_label. forgotten:
    it vanished."""

    xy: tuple[float, float]
    visit: np.ndarray
    value: np.ndarray
    is_label: np.ndarray
    forgotten: bool


def lives(pages: Sequence[Page]) -> list[Life]:
    """Every place that a sample's pages tell of; one that is found again after it was forgotten begins a new life."""
    going, ended = {}, []
    for page in pages:
        present = {(x, y): (page.visit, value, label > 0) for x, y, value, label in page.record.tolist()}
        ended += [(xy, going.pop(xy), True) for xy in list(going) if xy not in present]
        for xy, entry in present.items():
            going.setdefault(xy, []).append(entry)
    told = ended + [(xy, entries, False) for xy, entries in going.items()]
    return [Life(xy, *(np.array(column) for column in zip(*entries, strict=True)), gone) for xy, entries, gone in told]


def telling_lives(all_lives: Sequence[Life]) -> dict[str, Life]:
    """Up to three lives worth a look: a place that became a label and is one at the end, one that lost it again, one
    that never got there. Of several the one that was a label longest, then with the highest value, then the longest."""
    kinds = {
        "kept": lambda life: life.is_label[-1] and not life.forgotten,
        "never a label": lambda life: not life.is_label.any(),
        "label lost": lambda life: life.is_label.any() and (life.forgotten or not life.is_label[-1]),
    }
    best = {}
    for name in ("kept", "label lost", "never a label"):
        if candidates := [life for life in all_lives if kinds[name](life)]:
            best[name] = max(candidates, key=lambda life: (life.is_label.sum(), life.value.max(), len(life.visit)))
    return best
