"""Tables of a training run: its pairs, its losses, and what its metrics say. A cell that was not measured is None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..training.config import TrainConfig
from ..training.losses import PHASES
from ..training.run_data import MAIN, REPLAY
from ..training.trainer import Trainer
from .curves import DETECTOR, FUNNEL

MAX_PROBLEMS = 30  # rows; a folder may lack hundreds of files
as_table = partial(pd.DataFrame, dtype=object)  # whole numbers stay whole beside None


def pair_table(trainer: Trainer) -> pd.DataFrame:
    """What a run trains on and is validated on: a row per kind of pair of its files and replay, and a synthetic one."""
    c, rows = trainer.config, []
    for options, split in ((c.files, trainer.files), (c.replay, trainer.replay)):
        for k, row in enumerate(split.counts()):
            share = "" if k else f"{options.share:.0%}"
            rows.append({"from": Path(options.root).name, "share of a batch": share, **row})
    validated = [len(pairs) for pairs in trainer.validations.values() if pairs.kind == "synthetic"]
    if c.synthetic_share or validated:
        kinds = ("/".join(dict.fromkeys(names)) for names in (c.data.fixed, c.data.moving))
        row = {"from": "synthetic retinas", "share of a batch": f"{c.synthetic_share:.0%}", "kind": " – ".join(kinds)}
        trained = ("as many as wanted", c.pool_size) if c.synthetic_share else (0, 0)
        row |= dict(zip(("pairs to train on", "their eyes"), trained, strict=True))
        row |= dict.fromkeys(("pairs to validate on", "eyes to validate on"), sum(validated))
        rows.append(row | {"with clicked points": 0, "with a vessel mask": "all"})
    return as_table(rows)


def problem_table(trainer: Trainer, at_most: int = MAX_PROBLEMS) -> pd.DataFrame:
    """What was left out of a run's folders and why, by file name; one row says so where nothing was."""
    told = {}
    for options, split in ((trainer.config.files, trainer.files), (trainer.config.replay, trainer.replay)):
        told |= {(Path(p.source).name, p.reason.replace(f"{options.root}/", "")): None for p in split.problems}
    rows = [*told][:at_most]
    if len(told) > at_most:
        rows.append((f"and {len(told) - at_most} more", "notebook 00 lists all of them"))
    return as_table(rows or [("nothing", None)], columns=["left out", "why"])


def split_table(trainer: Trainer) -> pd.DataFrame:
    """Which eyes of a run's files train, and which validate."""
    parts = {"training": trainer.files.train, "validation": trainer.files.validation}
    eyes = [", ".join(sorted({r.eye_id for r in records})) or None for records in parts.values()]
    return as_table({"part": [*parts], "pairs": [*map(len, parts.values())], "eyes": eyes})


def phase_table(config: TrainConfig) -> pd.DataFrame:
    """All phases beside each other, with this run's weights: what a phase is."""
    rows = []
    for name, phase in PHASES.items():
        losses = config.losses if name == config.phase else phase.losses
        title = phase.title + (" ◀ this run" if name == config.phase else "")
        weighed = " + ".join(f"{loss.weight:g} · {loss.name}" for loss in losses)
        rows.append((title, weighed, "grown by PKE" if phase.pke else "annotated"))
    return as_table(rows, columns=["phase", "losses", "labels"])


@torch.no_grad()
def loss_table(trainer: Trainer, batch: Mapping) -> pd.DataFrame:
    """Each loss of a run called on one batch, and their weighted sum; the run stays as it was."""
    network, was_training, rows, total = trainer.network, trainer.network.training, [], 0.0
    batch = {key: value.to(trainer.device) if torch.is_tensor(value) else value for key, value in batch.items()}
    network.eval()
    context = trainer.objective.look(network, batch, torch.Generator().manual_seed(0))[0]
    for loss in trainer.objective.losses:
        told = (None, None)
        if (term := loss.term(context)) is not None:
            total += loss.weight * float(term.value)
            told = (f"{float(term.value):.3f}", term.n_used)
        rows.append((loss.name, f"{loss.weight:g}", *told, loss.about))
    network.train(was_training)
    rows.append(("total", None, f"{total:.3f}", None, None))
    return as_table(rows, columns=["loss", "weight", "value", "images or points used", "it asks that"])


# ------------------------------------------------------------------ metrics


def validation_metrics(trainer: Trainer) -> dict[str, float]:
    """Metrics of the network as it is now, as a row of the history will have them."""
    measured = {p: pairs.evaluate(trainer.network, trainer.device) for p, pairs in trainer.validations.items()}
    return {prefix + key: value for prefix, metrics in measured.items() for key, value in metrics.items()}


def funnel_table(history: Sequence[Mapping[str, float]], count: int = 5) -> pd.DataFrame:
    """The PKE funnel, a row per epoch (at most ``count``, spread over the run): mean points per image at each stage."""
    rows = [row for row in history if "pke_candidates" in row]
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    columns = {"mined and true": [_written(rows[k].get("pke_precision"), "{:.0%}") for k in chosen]}
    stages = {name: [round(rows[k][key], 1) for k in chosen] for key, name in FUNNEL.items()}
    return as_table({"epoch": [rows[k]["epoch"] for k in chosen], **stages, **columns})


def detector_table(row: Mapping[str, float], prefix: str = "") -> pd.DataFrame:
    """The last metrics of a run: what a perfect detector would reach, beside the real one. prefix: MAIN or REPLAY."""
    told = (
        ("pairs registered", "gt_success", "det_success", "{:.0%}"),
        ("their corner error, px", "gt_corner_px", "det_corner_px", "{:.1f}"),
        ("points matched right", "gt_matched_right", "", "{:.0%}"),
        ("matches that are right", "", "inlier_rate", "{:.0%}"),
    )
    rows = [(name, *(_written(row.get(prefix + key), form) for key in keys)) for name, *keys, form in told]
    return as_table(rows, columns=["", "perfect detector (oracle)", "own detector"])


def before_after_table(before: Mapping[str, float], after: Mapping[str, float]) -> pd.DataFrame:
    """Validation metrics before and after a run, on replayed pairs too: forgetting shows here."""
    domains = {"pairs": MAIN, "replay": REPLAY} if f"{REPLAY}gt_success" in after else {"": MAIN}
    told = {"gt_matched_right": "oracle: points matched right", **DETECTOR, "det_success": "pairs registered"}
    columns = {"": list(told.values())}
    for domain, prefix in domains.items():
        for when, metrics in {"before": before, "after": after}.items():
            columns[f"{domain} {when}".strip()] = [_written(metrics.get(prefix + key), "{:.2f}") for key in told]
    return as_table(columns)


def _written(value: float | None, form: str) -> str | None:
    """A number in words, None (a dash in a table) where nothing was measured."""
    return form.format(value) if value is not None and np.isfinite(value) else None
