"""One trainer for every phase, on one device or many. A run is a folder: config.json, history.csv, metrics.json,
checkpoint.safetensors, state.pt, figures.

A step is made of ``micro_batches`` batches, numbered through the run and shared out among the processes. So one process
and several take the same steps on the same pairs.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from ..core.config import to_dict
from ..core.files import held, sweep, write_csv, write_json
from ..data.sources import stream
from ..networks import build_network
from ..networks.checkpoints import find_weights_or_none, load_network, save_network
from .config import TrainConfig
from .objective import DetectorWatch, Objective, TrainingStopped
from .pke import allowed_drop
from .processes import average, join_statistics, new_accelerator, read_state, statistics, write_state
from .run_data import RunFiles, ValidationSet, trained_on

log = logging.getLogger(__name__)
GUARDED = "gt_matched_right"  # the metric that PKE must not lower
FP16_SKIPS = 30  # steps in a row whose gradient overflows before a run in fp16 is stopped


class Trainer:
    """Train one phase; `fit` can be called again after any interruption and continues from the last complete epoch.

    The main process calls on_validation(trainer, prefix, validation set), and on_epoch(history) of `fit`, after each.
    data: a source of batches in place of what the configuration says: it answers ``batch(index, batch_size, strength)``
    with batches as in `synthetic.training_pairs`, where T_0to1 is taken for H_0to1, too."""

    def __init__(
        self, config: TrainConfig, run_dir: str | Path, device="cpu", data=None, workers=0, on_validation=None
    ):
        self.config, self.run_dir, self.workers, self.on_validation = config, Path(run_dir), workers, on_validation
        self.checkpoint, self.state = self.run_dir / "checkpoint.safetensors", self.run_dir / "state.pt"
        # A begun run goes on in the precision that it has
        kept = read_state(self.state).get("precision", "") if self.state.is_file() else ""
        self.accelerator = new_accelerator(device, config.precision, kept)
        self.device, self.share = self.accelerator.device, config.own_batches(self.accelerator.num_processes)
        torch.manual_seed(config.seed)  # initial weights
        self.network = self._initial_network().to(memory_format=torch.channels_last).train()
        how = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
        self.optimiser = torch.optim.AdamW(self.network.parameters(), **how)
        self.model, self.optimiser = self.accelerator.prepare(self.network, self.optimiser)
        self.run_files = RunFiles.of(config)
        self.files, self.replay = self.run_files.files, self.run_files.replay
        self.data = data if data is not None else self.run_files.source(config)
        self.objective, self.watch = Objective(config), DetectorWatch(config)
        self.step_index, self.history, self._batches, self._waited, self._skipped = 0, [], None, 0.0, 0
        self.splits = [[0, config.batch_size, config.micro_batches]]  # from which step on of which batches

    @cached_property
    def validations(self) -> dict[str, ValidationSet]:
        """What the main process validates on, by the prefix of the metrics."""
        return self.run_files.validation_sets(self.config) if self.accelerator.is_main_process else {}

    def _initial_network(self):
        start = self.config.init_from
        if not start:
            return build_network(self.config.network, **self.config.network_options)
        if not find_weights_or_none(start) and self.checkpoint.is_file():
            start = self.checkpoint  # a begun run goes on without the weights that it began with
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
        rise = min(1.0, (step + 1) / max(c.rise_steps, 1))
        return c.learning_rate * rise * (c.final_rate_ratio + (1 - c.final_rate_ratio) * fall)

    def own_numbers(self, step: int) -> list[int]:
        """Numbers of the micro-batches of a step that this process works on."""
        first = step * self.config.micro_batches + self.accelerator.process_index * self.share
        return list(range(first, first + self.share))

    def _next_batch(self) -> dict:
        pin = self.device.type == "cuda"  # pinned memory is copied while the GPU computes
        if self._batches is None:
            c = self.config
            numbers = [k for step in range(self.step_index, c.total_steps) for k in self.own_numbers(step)]
            strengths = [c.strength(k // c.micro_batches) for k in numbers]
            self._batches = stream(self.data, numbers, c.batch_size, strengths, self.workers, pin=pin)
        started = time.perf_counter()
        batch = next(self._batches)
        self._waited += time.perf_counter() - started
        if "H_0to1" not in batch and "T_0to1" in batch:
            batch = batch | {"H_0to1": batch["T_0to1"]}
        return {k: v.to(self.device, non_blocking=pin) if torch.is_tensor(v) else v for k, v in batch.items()}

    def step(self) -> dict[str, float]:
        """One update; returns its metrics. TrainingStopped when loss or gradient is not finite, or det0 silent."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step_index)
        self.optimiser.zero_grad(set_to_none=True)
        rows, visits, numbers, before = [], [], self.own_numbers(self.step_index), statistics(self.network)
        for k in numbers:
            with nullcontext() if k == numbers[-1] else self.accelerator.no_sync(self.model):  # one exchange a step
                judged = self.objective(self.model, self._next_batch(), k)
                if not torch.isfinite(judged.total):
                    self._stop(f"the loss is {judged.total.item()} at step {self.step_index}")
                self.accelerator.backward(judged.total / len(numbers))
            rows.append({k: float(v.detach() if torch.is_tensor(v) else v) for k, v in judged.metrics.items()})
            visits += judged.visits
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self._skipped = 0 if torch.isfinite(torch.as_tensor(norm)) else self._skipped + 1
        # the scaler leaves out such a step by itself
        if self._skipped > (0 if self.accelerator.scaler is None else FP16_SKIPS):
            self._stop(f"the gradient is not finite at step {self.step_index}")
        self.optimiser.step()
        join_statistics(self.accelerator, self.network, before, len(numbers))
        self.objective.book(gather_object(visits), self.step_index)
        self.step_index += 1
        row = average(gather_object(rows))
        if wrong := self.watch.verdict(self.step_index, row["mean_det0"], row["labels0"]):
            self._stop(wrong)
        return row

    def _stop(self, what: str) -> None:
        """TrainingStopped: what went wrong, and how to go on."""
        at, rate = self.checkpoint, self.config.learning_rate
        kept = f" {at}, of the epoch before, is usable: give it as init_from." if at.is_file() else ""
        advice = f"Begin a new run with a lower learning_rate than {rate:g}, say {rate / 3:.1g}.{kept}"
        raise TrainingStopped(f"{what}. {advice}")

    # ------------------------------------------------------------------ the run

    def fit(self, on_epoch: Callable[[list[dict]], None] | None = None) -> list[dict]:
        """Train to the last epoch; returns the history, a dict per epoch. ValueError where another run is at work here."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with held(self.run_dir) if self.accelerator.is_main_process else nullcontext():
            return self._fit(on_epoch)

    def _fit(self, on_epoch) -> list[dict]:
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
        shown = {"desc": self.config.phase, "unit": "step", "mininterval": 2, "leave": False, "disable": not main}
        with tqdm(total=total, initial=self.step_index, **shown) as bar:
            while self.step_index < total:
                row = self._epoch(bar)
                self.history.append(row)
                self.save()
                if main:
                    words = "  ".join(f"{k} {v:.3g}" for k, v in row.items() if k != "epoch")
                    log.info("epoch %d/%d  %s", row["epoch"], self.config.epochs, words)
                    if on_epoch:
                        on_epoch(self.history)
        self._batches = None  # lets the workers go
        return self.history

    def _epoch(self, bar) -> dict:
        started, rows, self._waited, steps = time.perf_counter(), [], 0.0, self.config.steps_per_epoch
        for _ in range(steps):
            rows.append(self.step())
            bar.update()
            bar.set_postfix(loss=f"{rows[-1]['total']:.3f}", refresh=False)
        seconds = time.perf_counter() - started
        row = {"epoch": self.step_index // steps, "step": self.step_index, **average(rows), **self._validate()}
        row["learning_rate"] = self.learning_rate(self.step_index - 1)
        row |= {"seconds_per_step": seconds / steps, "waiting_share": self._waited / seconds}
        if self.objective.phase.pke:
            self._guard(row)
            row["pke_active"] = float(self.objective.guard.active)
            log.info("PKE %s", self.objective.guard.reason)
        return row

    def _validate(self) -> dict[str, float]:
        """Metrics of every validation set, measured by the main process and known to all."""
        metrics = {}
        for prefix, validation in self.validations.items():
            metrics |= {prefix + k: v for k, v in validation.evaluate(self.network, self.device).items()}
            if self.on_validation:
                self.on_validation(self, prefix, validation)
        return broadcast_object_list([metrics])[0]

    def _guard(self, metrics: dict) -> None:
        """Let the accuracy on what the run trains on decide whether PKE goes on."""
        told = {}
        for prefix in (p for p in trained_on(self.config) if p in self.validations):
            pairs = self.validations[prefix]
            allowed = allowed_drop(self.config.pke, pairs.kind == "synthetic", pairs.points)
            told[f"{'replay, ' if prefix else ''}{pairs.title}"] = (metrics.get(prefix + GUARDED, math.nan), allowed)
        self.objective.guard.update(broadcast_object_list([told])[0])

    # ------------------------------------------------------------------ its folder

    def save(self) -> None:
        """Write checkpoint, state and history; each file is complete or absent, and state.pt comes last."""
        if self.accelerator.is_main_process:
            about = {"phase": self.config.phase, "step": self.step_index, "config": to_dict(self.config)}
            save_network(self.checkpoint, self.network, about)
            write_csv(self.run_dir / "history.csv", self.history)
            write_json(self.run_dir / "metrics.json", {"phase": self.config.phase, "last": self.history[-1]})
        self._save_state()

    def _save_state(self) -> None:
        if self.accelerator.is_main_process:
            state = {name: part.state_dict() for name, part in self._parts().items()}
            state |= {"step": self.step_index, "history": self.history, "splits": self.splits}
            state |= {"config": to_dict(self.config), "pairs": self.run_files.ids}
            write_state(self.state, state | {"precision": self.accelerator.mixed_precision})
        self.accelerator.wait_for_everyone()

    def _parts(self) -> dict:
        """What has a state, by its name in state.pt."""
        parts = {"network": self.network, "optimiser": self.optimiser, "objective": self.objective}
        return parts if self.accelerator.scaler is None else parts | {"scaler": self.accelerator.scaler}

    def resume(self) -> bool:
        """Load state.pt if there is one; ValueError when it is damaged, or of another configuration."""
        # of the main process: a late one might see what the main one has just written
        if not broadcast_object_list([self.state.is_file()])[0]:
            return False
        state = read_state(self.state, self.device)
        self.run_files.check_same(self.state, state, self.config)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step_index, self.history, self.splits = state["step"], state["history"], state["splits"]
        now = [self.config.batch_size, self.config.micro_batches]
        if self.splits[-1][1:] != now:
            self.splits.append([self.step_index, *now])
        return True
