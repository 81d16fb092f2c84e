"""Tables of a training run, as lists of rows for `viz.table`: its pairs, its losses, and what its figures say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ..training.config import TrainConfig
from ..training.phases import PHASES
from ..training.run_data import MAIN, REPLAY
from ..training.trainer import Trainer
from .history import DETECTOR, FUNNEL

MAX_PROBLEMS = 30  # rows; a folder may lack hundreds of files


# ------------------------------------------------------------------ the pairs


def pair_rows(trainer: Trainer) -> list[dict]:
    """What a run trains on and is validated on: a row per kind of pair of its files and of those it replays, and one
    for synthetic pairs."""
    c, rows = trainer.config, []
    for options, split in ((c.files, trainer.files), (c.replay, trainer.replay)):
        for k, row in enumerate(split.counts()):
            share = "" if k else f"{options.share:.0%}"
            rows.append({"from": Path(options.root).name, "share of a batch": share, **row})
    drawn = [pairs for pairs in trainer.validations.values() if pairs.kind == "synthetic"]
    if c.synthetic_share or drawn:
        rows.append(_synthetic_row(c, sum(map(len, drawn))))
    return rows


def _synthetic_row(config: TrainConfig, validated: int) -> dict:
    kinds = ("/".join(dict.fromkeys(names)) for names in (config.data.fixed, config.data.moving))
    trained = config.synthetic_share > 0
    return {
        "from": "synthetic retinas",
        "share of a batch": f"{config.synthetic_share:.0%}",
        "kind": " – ".join(kinds),
        "pairs to train on": "as many as wanted" if trained else 0,
        "their eyes": config.pool_size if trained else 0,
        "pairs to validate on": validated,
        "eyes to validate on": validated,
        "with clicked points": 0,
        "with a vessel mask": "all",
    }


def problem_rows(trainer: Trainer, at_most: int = MAX_PROBLEMS) -> list[dict]:
    """What was left out of a run's folders and why, by file name; one row says so where nothing was."""
    told = {}
    for options, split in ((trainer.config.files, trainer.files), (trainer.config.replay, trainer.replay)):
        told |= {(Path(p.source).name, p.reason.replace(f"{options.root}/", "")): None for p in split.problems}
    rows = [{"left out": name, "why": why} for name, why in [*told][:at_most]]
    if len(told) > at_most:
        rows.append({"left out": f"and {len(told) - at_most} more", "why": "notebook 00 lists all of them"})
    return rows or [{"left out": "nothing", "why": None}]


def split_rows(trainer: Trainer) -> list[dict]:
    """Which eyes of a run's files train, and which validate."""
    parts = {"training": trainer.files.train, "validation": trainer.files.validation}
    return [
        {"part": part, "pairs": len(records), "eyes": ", ".join(sorted({r.eye_id for r in records})) or None}
        for part, records in parts.items()
    ]


# ------------------------------------------------------------------ the losses


def phase_rows(config: TrainConfig) -> list[dict]:
    """All phases beside each other, with this run's weights: what a phase is."""
    rows = []
    for name, phase in PHASES.items():
        losses = config.losses if name == config.phase else phase.losses
        weighed = [f"{loss.weight:g} · {loss.name}" for loss in losses]
        mark = " ◀ this run" if name == config.phase else ""
        labels = "grown by PKE" if phase.pke else "annotated"
        rows.append({"phase": phase.title + mark, "losses": " + ".join(weighed), "labels": labels})
    return rows


@torch.no_grad()
def loss_rows(trainer: Trainer, batch: Mapping) -> list[dict]:
    """Each loss of a run called on one batch, and their weighted sum. The network is left as it was, and PKE
    remembers nothing of it."""
    network, was_training = trainer.network, trainer.network.training
    batch = {key: value.to(trainer.device) if torch.is_tensor(value) else value for key, value in batch.items()}
    network.eval()
    context = trainer.objective.look(network, batch, torch.Generator().manual_seed(0))[0]
    terms = {loss: loss.term(context) for loss in trainer.objective.losses}
    network.train(was_training)
    total = sum(loss.weight * float(term.value) for loss, term in terms.items() if term is not None)
    rows = []
    for loss, term in terms.items():
        told = (None, None) if term is None else (f"{float(term.value):.3f}", term.n_used)
        names = ("value", "images or points used")
        rows.append(
            {
                "loss": loss.name,
                "weight": f"{loss.weight:g}",
                **dict(zip(names, told, strict=True)),
                "it asks that": loss.about,
            }
        )
    last = {
        "loss": "total",
        "weight": None,
        "value": f"{total:.3f}",
        "images or points used": None,
        "it asks that": None,
    }
    return [*rows, last]


# ------------------------------------------------------------------ figures


def validation_figures(trainer: Trainer) -> dict[str, float]:
    """The figures that a row of the history will have, of the network as it is now: of each validation set, under its
    prefix."""
    figures = {}
    for prefix, pairs in trainer.validations.items():
        figures |= {prefix + key: value for key, value in pairs.evaluate(trainer.network, trainer.device).items()}
    return figures


def funnel_rows(history: Sequence[Mapping[str, float]], count: int = 5) -> list[dict]:
    """The PKE funnel as a table: one row per epoch (at most ``count``, spread over the run), mean points per image at
    each stage."""
    rows = [row for row in history if "pke_candidates" in row]
    chosen = sorted({round(k) for k in np.linspace(0, len(rows) - 1, min(count, len(rows)))}) if rows else []
    table = [
        {"epoch": rows[k]["epoch"], **{name: round(rows[k][key], 1) for key, name in FUNNEL.items()}} for k in chosen
    ]
    for line, k in zip(table, chosen, strict=True):
        line["mined and true"] = _written(rows[k].get("pke_precision", np.nan), "{:.0%}")
    return table


def detector_rows(row: Mapping[str, float], prefix: str = "") -> list[dict]:
    """The last figures of a run as a table: what a perfect detector would reach, beside the real one. prefix
    "replay_": on pairs that must not be forgotten."""
    told = (
        ("pairs registered", "gt_success", "det_success", "{:.0%}"),
        ("their corner error, px", "gt_corner_px", "det_corner_px", "{:.1f}"),
        ("points matched right", "gt_matched_right", "", "{:.0%}"),
        ("matches that are right", "", "inlier_rate", "{:.0%}"),
    )
    rows = []
    for name, *keys, form in told:
        oracle, own = (_written(row.get(prefix + key, np.nan) if key else np.nan, form) for key in keys)
        rows.append({"": name, "perfect detector (oracle)": oracle, "own detector": own})
    return rows


def before_after_rows(before: Mapping[str, float], after: Mapping[str, float]) -> list[dict]:
    """Validation figures before and after a run as a table; on replayed pairs too, when ``after`` has them:
    forgetting shows here."""
    domains = {"pairs": MAIN, "replay": REPLAY} if f"{REPLAY}gt_success" in after else {"": MAIN}
    times = {"before": before, "after": after}
    told = {"gt_matched_right": "oracle: points matched right", **DETECTOR, "det_success": "pairs registered"}
    rows = []
    for key, name in told.items():
        rows.append({"": name})
        for domain, prefix in domains.items():
            for when, figures in times.items():
                rows[-1][f"{domain} {when}".strip()] = _written(figures.get(prefix + key, np.nan), "{:.2f}")
    return rows


def _written(value: float, form: str) -> str | None:
    """A number in words, None (a dash in a table) where nothing was measured."""
    return form.format(value) if np.isfinite(value) else None
