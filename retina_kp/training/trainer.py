"""One trainer for every phase, on one device or many. A run is a folder: config.json, history.csv, metrics.json,
checkpoint.safetensors, state.pt, figures.

A step is made of ``micro_batches`` batches, numbered through the run and shared out among the processes, so one process
and several take the same steps on the same pairs.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from ..core.config import to_dict
from ..core.files import write_csv, write_json
from ..data.sources import stream
from ..networks import build_network
from ..networks.checkpoints import find_weights_or_none, load_network, save_network
from .config import TrainConfig
from .distributed import join_statistics, new_accelerator, statistics
from .health import DetectorWatch, TrainingStopped
from .objective import Objective
from .pke import allowed_drop
from .run_data import RunFiles, trained_on
from .state import read_state, sweep, write_state

log = logging.getLogger(__name__)
GUARDED = "gt_matched_right"  # the figure that PKE must not lower
FP16_SKIPS = 30  # steps in a row whose gradient overflows before a run in fp16 is stopped


class Trainer:
    """Train one phase; `fit` can be called again after any interruption and continues from the last complete epoch.

    on_validation(trainer, prefix, validation set) is called after each validation, by the main process.
    data: a source of batches in place of what the configuration says: it answers ``batch(index, batch_size, strength)``
    with batches as in `dataset`, where T_0to1 is taken for H_0to1, too."""

    def __init__(
        self,
        config: TrainConfig,
        run_dir: str | Path,
        device: str = "cpu",
        data=None,
        workers: int = 0,
        on_validation: Callable | None = None,
    ):
        self.config, self.run_dir, self.workers, self.on_validation = config, Path(run_dir), workers, on_validation
        self.accelerator = new_accelerator(device, config.precision, self._kept_precision())
        self.device, processes = self.accelerator.device, self.accelerator.num_processes
        if config.micro_batches % processes:
            raise ValueError(
                f"micro_batches: {config.micro_batches} cannot be shared out among {processes} processes; take a multiple"
            )
        torch.manual_seed(config.seed)  # initial weights
        self.network = self._initial_network().to(memory_format=torch.channels_last).train()
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.model, self.optimiser = self.accelerator.prepare(self.network, self.optimiser)
        self.run_files = RunFiles.of(config)
        self.files, self.replay = self.run_files.files, self.run_files.replay
        self.data = data if data is not None else self.run_files.source(config)
        self.validations = self.run_files.validation_sets(config) if self.accelerator.is_main_process else {}
        self.objective, self.watch = Objective(config), DetectorWatch(config)
        self.step_index, self.history, self._batches, self._waited, self._skipped = 0, [], None, 0.0, 0
        # from which step on steps were made of which batches
        self.splits = [[0, config.batch_size, config.micro_batches]]

    def _kept_precision(self) -> str:
        """What a begun run computes in, so that it goes on so; "" for a new one."""
        path = self.run_dir / "state.pt"
        return read_state(path).get("precision", "") if path.is_file() else ""

    def _initial_network(self):
        start, own = self.config.init_from, self.run_dir / "checkpoint.safetensors"
        if not start:
            return build_network(self.config.network, **self.config.network_options)
        # a begun run goes on without the weights that it began with
        if not find_weights_or_none(start) and own.is_file():
            start = own
        network, metadata = load_network(start)
        if metadata["network"] != self.config.network:
            raise ValueError(f"{start} holds network {metadata['network']!r}, the config wants {self.config.network!r}")
        network.steerers = None  # they belong to the weights as they were
        return network

    # ------------------------------------------------------------------ one step

    def learning_rate(self, step: int) -> float:
        """Linear rise, then a cosine down to final_rate_ratio."""
        c = self.config
        fall = 0.5 * (1 + math.cos(math.pi * min(step / c.total_steps, 1)))
        return (
            c.learning_rate
            * min(1.0, (step + 1) / max(c.rise_steps, 1))
            * (c.final_rate_ratio + (1 - c.final_rate_ratio) * fall)
        )

    def own_numbers(self, step: int) -> list[int]:
        """Numbers of the micro-batches of a step that this process works on."""
        share = self.config.micro_batches // self.accelerator.num_processes
        first = step * self.config.micro_batches + self.accelerator.process_index * share
        return list(range(first, first + share))

    def load_batch(self, number: int) -> dict:
        """Micro-batch ``number`` of the run, on the trainer's device."""
        strength = self.config.strength(number // self.config.micro_batches)
        return self._to_device(self.data.batch(number, self.config.batch_size, strength))

    def _to_device(self, batch: dict) -> dict:
        if "H_0to1" not in batch and "T_0to1" in batch:
            batch = batch | {"H_0to1": batch["T_0to1"]}
        pinned = self.device.type == "cuda"  # by `stream`: copied while the GPU computes
        return {k: v.to(self.device, non_blocking=pinned) if torch.is_tensor(v) else v for k, v in batch.items()}

    def _next_batch(self) -> dict:
        if self._batches is None:
            c = self.config
            numbers = [k for step in range(self.step_index, c.total_steps) for k in self.own_numbers(step)]
            strengths = [c.strength(k // c.micro_batches) for k in numbers]
            self._batches = stream(
                self.data, numbers, c.batch_size, strengths, self.workers, pin=self.device.type == "cuda"
            )
        started = time.perf_counter()
        batch = next(self._batches)
        self._waited += time.perf_counter() - started
        return self._to_device(batch)

    def step(self) -> dict[str, float]:
        """One update; returns the loss terms as numbers. TrainingStopped names the step when loss or gradient is not
        finite, and when the detector has gone silent."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step_index)
        self.optimiser.zero_grad(set_to_none=True)
        rows, visits, numbers, before = [], [], self.own_numbers(self.step_index), statistics(self.network)
        for k in numbers:
            # exchange gradients once per step
            with nullcontext() if k == numbers[-1] else self.accelerator.no_sync(self.model):
                judged = self.objective(self.model, self._next_batch(), k)
                if not torch.isfinite(judged.total):
                    raise TrainingStopped(self._advice(f"the loss is {judged.total.item()} at step {self.step_index}"))
                self.accelerator.backward(judged.total / len(numbers))
            rows.append(
                {name: float(v.detach()) if torch.is_tensor(v) else float(v) for name, v in judged.figures.items()}
            )
            visits += judged.visits
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self._skipped = 0 if torch.isfinite(torch.as_tensor(norm)) else self._skipped + 1
        # the scaler leaves out such a step by itself
        if self._skipped > (0 if self.accelerator.scaler is None else FP16_SKIPS):
            raise TrainingStopped(self._advice(f"the gradient is not finite at step {self.step_index}"))
        self.optimiser.step()
        join_statistics(self.accelerator, self.network, before, len(numbers))
        self.objective.book(gather_object(visits), self.step_index)
        self.step_index += 1
        row = average(gather_object(rows))
        if wrong := self.watch.verdict(self.step_index, row["mean_det0"], row["labels0"]):
            raise TrainingStopped(self._advice(wrong))
        return row

    def _advice(self, what: str) -> str:
        """What went wrong, and how to go on."""
        checkpoint, rate = self.run_dir / "checkpoint.safetensors", self.config.learning_rate
        kept = f" {checkpoint}, of the epoch before, is usable: give it as init_from." if checkpoint.is_file() else ""
        return f"{what}. Begin a new run with a lower learning_rate than {rate:g}, say {rate / 3:.1g}.{kept}"

    # ------------------------------------------------------------------ the run

    def fit(self, on_epoch: Callable[[list[dict]], None] | None = None) -> list[dict]:
        """Train to the last epoch; returns the history, one dict per epoch. on_epoch(history) is called after each, by
        the main process."""
        self._batches, main, total = None, self.accelerator.is_main_process, self.config.total_steps
        self.watch = DetectorWatch(self.config)
        if main:
            sweep(self.run_dir)
        if not self.resume():
            if self.objective.phase.pke:
                self._guard(self._validate())  # the level that PKE must hold
            self._save_state()  # an interruption within the first epoch comes back to here
        if main:
            write_json(self.run_dir / "config.json", to_dict(self.config))
        progress = {
            "total": total,
            "initial": self.step_index,
            "desc": self.config.phase,
            "unit": "step",
            "mininterval": 2,
        }
        with tqdm(**progress, leave=False, disable=not main) as bar:
            while self.step_index < total:
                row = self._epoch(bar)
                self.history.append(row)
                self.save()
                if main:
                    log.info("epoch %d/%d  %s", row["epoch"], self.config.epochs, in_words(row))
                    if on_epoch:
                        on_epoch(self.history)
        self._batches = None  # lets the workers go
        return self.history

    def _epoch(self, bar) -> dict:
        started, rows, self._waited = time.perf_counter(), [], 0.0
        for _ in range(self.config.steps_per_epoch):
            rows.append(self.step())
            bar.update()
            bar.set_postfix(loss=f"{rows[-1]['total']:.3f}", refresh=False)
        seconds = time.perf_counter() - started
        row = {"epoch": self.step_index // self.config.steps_per_epoch, "step": self.step_index, **average(rows)}
        row |= self._validate()
        row |= {
            "learning_rate": self.learning_rate(self.step_index - 1),
            "seconds_per_step": seconds / self.config.steps_per_epoch,
            "waiting_share": self._waited / seconds,
        }
        if self.objective.phase.pke:
            self._guard(row)
            row["pke_active"] = float(self.objective.guard.active)
            log.info("PKE %s", self.objective.guard.reason)
        return row

    def _validate(self) -> dict[str, float]:
        """Figures of every validation set, measured by the main process and known to all."""
        figures = [{}]
        if self.accelerator.is_main_process:
            for prefix, validation in self.validations.items():
                figures[0] |= {prefix + k: v for k, v in validation.evaluate(self.network, self.device).items()}
                if self.on_validation:
                    self.on_validation(self, prefix, validation)
        return broadcast_object_list(figures)[0]

    def _guard(self, figures: dict) -> None:
        """Let the accuracy on what the run trains on decide whether PKE goes on; the main process knows its name."""
        known, told = [p for p in trained_on(self.config) if p in self.validations], {}
        for prefix in known:
            validation = self.validations[prefix]
            allowed = allowed_drop(self.config.pke, validation.kind == "synthetic", validation.points)
            told[f"{'replay, ' if prefix else ''}{validation.title}"] = (
                figures.get(prefix + GUARDED, math.nan),
                allowed,
            )
        self.objective.guard.update(broadcast_object_list([told])[0])

    def save(self) -> None:
        """Write checkpoint, state and history; each file is complete or absent, and state.pt comes last."""
        if self.accelerator.is_main_process:
            about = {"phase": self.config.phase, "step": self.step_index, "config": to_dict(self.config)}
            save_network(self.run_dir / "checkpoint.safetensors", self.network, about)
            write_csv(self.run_dir / "history.csv", self.history)
            write_json(self.run_dir / "metrics.json", {"phase": self.config.phase, "last": self.history[-1]})
        self._save_state()

    def _save_state(self) -> None:
        if self.accelerator.is_main_process:
            state = {
                "network": self.network.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "step": self.step_index,
                "objective": self.objective.state_dict(),
                "history": self.history,
                "config": to_dict(self.config),
                "pairs": self.run_files.ids,
                "splits": self.splits,
                "precision": self.accelerator.mixed_precision,
            }
            if self.accelerator.scaler is not None:
                state["scaler"] = self.accelerator.scaler.state_dict()
            write_state(self.run_dir / "state.pt", state)
        self.accelerator.wait_for_everyone()

    def load(self) -> list[dict]:
        """Take over what other processes have trained in this folder; returns the history."""
        self.resume()
        return self.history

    def resume(self) -> bool:
        """Load state.pt if there is one; ValueError when it is damaged, or names the keys in which its configuration
        differs from ours."""
        path = self.run_dir / "state.pt"
        # of the main process: a late one might see what the main one has just written
        if not broadcast_object_list([path.is_file()])[0]:
            return False
        state = read_state(path, self.device)
        self.run_files.check_same(path, state, self.config)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.objective.load_state_dict(state["objective"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step_index, self.history, self.splits = state["step"], state["history"], state["splits"]
        now = [self.config.batch_size, self.config.micro_batches]
        if self.splits[-1][1:] != now:
            self.splits.append([self.step_index, *now])
        return True


def average(rows: list[dict]) -> dict[str, float]:
    """Mean of each figure over the rows that have it, NaN left out."""
    keys = dict.fromkeys(k for row in rows for k in row)
    values = {k: np.array([row[k] for row in rows if k in row and row[k] == row[k]], float) for k in keys}
    return {k: float(v.mean()) if len(v) else float("nan") for k, v in values.items()}


def in_words(row: dict) -> str:
    """A row of the history in one line."""
    return "  ".join(f"{k} {v:.3g}" for k, v in row.items() if k != "epoch")
