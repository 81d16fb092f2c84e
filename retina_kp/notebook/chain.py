"""``retina-kp train`` and ``finetune``: the four training notebooks, each from the checkpoint of the one before it, with
reports. All four configurations and both folders are looked at before the first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import torch

from ..core.compute import choose_device
from ..core.config import from_dict
from ..core.files import notebooks_folder
from ..data.training_files import FileSplit, load_files
from ..networks.checkpoints import read_metadata
from ..training.config import TrainConfig
from .report import (
    NotebookError,
    accepted_parameters,
    count_figures,
    from_here,
    read_parameter_file,
    run_notebook,
    typed,
)
from .runs import NOTEBOOKS, Plan, Settings, plan, pseudo_real_folder

TAKEN = {"run_name": "--name", "resume": "--name", "data_root": "--generated or --real", "replay_root": "--generated"}


def parameters_of(given: Mapping[str, Any], name: str, generated: str, real: str) -> dict[str, dict[str, Any]]:
    """The parameters of each notebook: the given ones, texts converted to their types; init_from goes to the first
    notebook only. ValueError for one that no notebook has, or that one notebook alone may have."""
    if clash := next((key for key in given if key in TAKEN), ""):
        raise ValueError(f"{clash} belongs to one notebook; for all four give {TAKEN[clash]}")
    known = {p: accepted_parameters(notebooks_folder() / f"{stem}.ipynb") for p, stem in NOTEBOOKS.items()}
    if unknown := sorted(set(given) - {key for has in known.values() for key in has}):
        where = "see `Settings` in retina_kp/training/settings.py"
        raise ValueError(f"no training notebook has a parameter {unknown[0]!r}; {where}")
    chosen = {}
    for phase, has in known.items():
        own = {key: typed(value, has[key]) if isinstance(value, str) else value for key, value in given.items()}
        if chosen:
            own.pop("init_from", None)
        folders = {"data_root": generated} if phase != "sim2real" else {"data_root": real, "replay_root": generated}
        chosen[phase] = own | {"run_name": name, "resume": True} | {k: v for k, v in folders.items() if v}
    return chosen


def rehearse(chosen: Mapping[str, Mapping[str, Any]], tell: Callable[[str], None] = print) -> list[Plan]:
    """Look at all four phases without a step: settings, device, folders, and what each of them would train on.
    ValueError names the phase and what cannot be."""
    plans: list[Plan] = []
    read = lru_cache(load_files)  # most phases have the same folders
    for phase, parameters in chosen.items():
        try:
            settings = from_dict(Settings, dict(parameters))
            if phase == "sim2real" and not settings.data_root:
                settings = replace(settings, data_root=pseudo_real_folder(8, 0))
            plans.append(plan(phase, settings, plans[-1].config if plans else None))
            config = plans[-1].config
            _check(settings, config)
            splits = [read(replace(o, share=0.0, size_px=0)) for o in (config.files, config.replay) if o.root]
        except (ValueError, OSError) as error:
            raise ValueError(f"{NOTEBOOKS[phase]}: {error}") from None
        tell(f"{NOTEBOOKS[phase]}: {plans[-1].words()[0 if config.shortfalls() else 1]}")
        for line in (line for split in splits for line in _in_words(split)):
            tell(f"    {line}")
    return plans


def _check(settings: Settings, config: TrainConfig) -> None:
    """ValueError for a GPU that is not there, processes that cannot share the work, or weights of another network."""
    device, processes, start = choose_device(settings.device), settings.processes, config.init_from
    config.own_batches(max(processes, 1))
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise ValueError(f"processes: {processes}, but PyTorch sees {torch.cuda.device_count()} GPUs")
    if Path(start or ".").is_file() and (network := read_metadata(start)["network"]) != config.network:
        raise ValueError(f"{start} holds network {network!r}, not {config.network!r}")


def _in_words(split: FileSplit) -> list[str]:
    """What is trained and validated on, by kind, and how much was left out."""
    told = (
        "{kind}: {pairs to train on} pairs of {their eyes} eyes train, {pairs to validate on} of {eyes to validate on}"
    )
    lines = [f"{told.format_map(row)} validate" for row in split.counts()]
    first = [f"{Path(p.source).name}: {p.reason}" for p in split.problems[:3]]
    more = f" (and {len(split.problems) - 3} more)" if len(split.problems) > 3 else ""
    return [*lines, *([f"left out or incomplete: {'; '.join(first)}{more}"] if first else [])]


def run_all(name: str, given: Mapping[str, Any], generated: str = "", real: str = "", tell=print) -> list[Path]:
    """Check all four, then run the notebooks under one run name, which continues what is there already; returns the
    reports."""
    chosen, reports = parameters_of(given, name, generated, real), []
    rehearse(chosen, tell)
    for phase, parameters in chosen.items():
        result = run_notebook(NOTEBOOKS[phase], parameters)
        tell(f"{NOTEBOOKS[phase]}: {result.seconds:.0f} s, {count_figures(result.executed)} figures, {result.html}")
        reports.append(result.html)
    return reports


def _options(command):
    for option in (
        click.option("--name", default="", help="Run name; the same name again continues [the time]."),
        click.option("--real", default="", metavar="FOLDER", help="Pairs with point files, for phase 4 [a rehearsal]."),
        click.option("--generated", default="", metavar="FOLDER", help="Aligned pairs, for all phases [synthetic]."),
        click.option("-f", "file", metavar="FILE", help="YAML file of parameters, or its name in notebooks/params."),
        click.option("-p", "given", nargs=2, multiple=True, metavar="NAME VALUE", help="One parameter; overrules -f."),
    ):
        command = option(command)
    return command


@click.command()
@_options
def train(given: Sequence[tuple[str, str]], file: str | None, generated: str, real: str, name: str) -> None:
    """Train a network of your own in four phases.

    Runs the notebooks 01 to 04, each from the weights of the one before, each with its report. Without options it is a
    try of a few minutes; -f full is the paper's training, for a GPU.
    """
    name = name or f"{datetime.now():train_%Y-%m-%d_%H%M%S}"
    print(f"run {name}; to continue after an interruption: the same command with --name {name}", flush=True)
    if (file or generated) and not real:
        print("phase 4 takes a few pseudo-real pairs, a rehearsal; name your own with --real FOLDER", flush=True)
    parameters = read_parameter_file(file) if file else {}
    parameters |= {key: from_here(value, "") if key == "init_from" else value for key, value in given}
    try:
        run_all(name, parameters, *(str(Path(f).expanduser().resolve()) if f else "" for f in (generated, real)))
    except NotebookError as error:
        goes_on = "" if "TrainingStopped" in str(error) else f"\nTo continue: the same command with --name {name}"
        raise ValueError(f"{error}{goes_on}") from None


@click.command()
@_options
def finetune(given: Sequence[tuple[str, str]], **options) -> None:
    """Train on from the shipped weights with your own pairs.

    The same four phases as retina-kp train, but few steps at a low rate, on a CPU too. Afterwards: retina-kp calibrate.
    """
    train.callback(given=(("recipe", "finetune"), *given), **options)
