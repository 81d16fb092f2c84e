"""One trainer for every phase. A run is a folder: config.json, history.csv, metrics.json, checkpoint.safetensors, state.pt, figures."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .checkpoints import load_network, save_network
from .config import differences, to_dict
from .dataset import SyntheticOptions, SyntheticPairs
from .files import replacing, write_csv, write_json
from .geometry import sample_map
from .losses import DESCRIPTOR_LOSSES, dice_loss, gaussian_labels, geometric_loss
from .networks import build_network
from .phases import get_phase
from .validation import ValidationSet, save_keypoint_figures

log = logging.getLogger(__name__)
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a training run."""

    phase: str = "warmup"
    network: str = "lite"
    network_options: dict = field(default_factory=dict)
    init_from: str = ""  # weights to start from; "" = fresh
    epochs: int = 2
    steps_per_epoch: int = 20
    batch_size: int = 6  # pairs
    learning_rate: float = 1e-3
    final_rate_ratio: float = 1.0  # learning rate at the end, cosine from 1
    rise_steps: int = 50  # linear rise of the learning rate at the start
    weight_decay: float = 1e-4
    precision: str = "fp32"  # or "bf16": the network's layers in bfloat16 (twice as fast where the processor knows it), losses in float32
    clip_norm: float = 5.0
    detector_weight: float = 1.0  # λ_det; a weight counts only in phases that use its loss
    descriptor_weight: float = 1.0  # λ_des
    geometric_weight: float = 0.5  # λ_geo
    moving_weight: float = 0.0  # of the moving detector's own labels, which the plan does not use
    descriptor_loss: str = "infonce"
    exclusion_px: float = 10.0  # points nearer than this are no negatives of each other
    extra_points: int = 48  # random points per pair beside the junctions
    label_sigma_px: float = 2.0
    curriculum_steps: int = 0  # the relative transform widens from curriculum_start to full over so many steps
    curriculum_start: float = 0.4
    seed: int = 0
    pool_size: int = 600  # different retinas
    pool_seed: int = 0  # which retinas; phases that share it share the drawn pool
    data: SyntheticOptions = SyntheticOptions()
    validation_pairs: int = 24


class Trainer:
    """Train one phase; `fit` can be called again after any interruption and continues from the last complete epoch."""

    def __init__(self, config: TrainConfig, run_dir: str | Path, device: str = "cpu", data: SyntheticPairs | None = None):
        self.config, self.phase, self.run_dir, self.device = config, get_phase(config.phase), Path(run_dir), torch.device(device)
        if config.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {config.precision!r}; there are {', '.join(PRECISIONS)}")
        torch.manual_seed(config.seed)  # initial weights
        if config.init_from:
            self.network, metadata = load_network(config.init_from)
            if metadata["network"] != config.network:
                raise ValueError(f"{config.init_from} holds network {metadata['network']!r}, the config wants {config.network!r}")
        else:
            self.network = build_network(config.network, **config.network_options)
        self.network = self.network.to(self.device, memory_format=torch.channels_last).train()
        self.optimiser = torch.optim.AdamW(self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True)
        self.data = data if data is not None else SyntheticPairs(config.seed, config.pool_size, config.data, config.pool_seed)
        self.validation = ValidationSet(config.validation_pairs, config.data)
        self.step_index, self.history = 0, []

    # ------------------------------------------------------------------ one step

    def learning_rate(self, step: int) -> float:
        """Linear rise, then a cosine down to final_rate_ratio."""
        c = self.config
        total = max(c.epochs * c.steps_per_epoch, 1)
        fall = 0.5 * (1 + math.cos(math.pi * min(step / total, 1)))
        return c.learning_rate * min(1.0, (step + 1) / max(c.rise_steps, 1)) * (c.final_rate_ratio + (1 - c.final_rate_ratio) * fall)

    def load_batch(self, step: int) -> dict:
        """Batch ``step`` of the run, on the trainer's device."""
        c = self.config
        strength = 1.0 if c.curriculum_steps == 0 else min(1.0, c.curriculum_start + (1 - c.curriculum_start) * step / c.curriculum_steps)
        batch = self.data.batch(step, c.batch_size, strength)
        return {k: v.to(self.device) if torch.is_tensor(v) else v for k, v in batch.items()}

    def losses(self, batch: dict, step: int) -> dict:
        """The phase's loss terms by name, unweighted, and their weighted "total"."""
        c, n = self.config, len(batch["image0"])
        images = torch.cat([batch["image0"], batch["image1"]]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=c.precision == "bf16"):
            out0, out1 = self.network(images, torch.cat([batch["valid0"], batch["valid1"]])).split(n)
        labels = partial(gaussian_labels, map_hw=out0.detector.shape[-2:], stride=out0.detector_stride, sigma_px=c.label_sigma_px)
        points = torch.cat([batch["vessel_keypoints"], self._extra_points(batch, step)], 1)
        descriptor = DESCRIPTOR_LOSSES[c.descriptor_loss]
        frame = (batch["H_0to1"], batch["valid0"], batch["valid1"], out0.detector_stride)
        terms = {
            "loss_det": dice_loss(out0.detector, labels(batch["vessel_keypoints"])),
            "loss_des": descriptor(out0.descriptors, out1.descriptors, points, batch["H_0to1"], batch["valid1"], out0.descriptor_stride,
                                   exclusion_px=c.exclusion_px),
            "loss_geo": geometric_loss(out0.detector, out1.detector, *frame),
        }  # fmt: skip
        if "vessel_keypoints1" in batch:
            terms["loss_mov"] = dice_loss(out1.detector, labels(batch["vessel_keypoints1"]))
        weights = {"loss_det": c.detector_weight, "loss_des": c.descriptor_weight, "loss_geo": c.geometric_weight,
                   "loss_mov": c.moving_weight}  # fmt: skip
        total = sum(weights[name] * term.value for name, term in terms.items() if name in self.phase.losses and weights[name])
        return {"total": total, **{name: term.value for name, term in terms.items()}, "points_used": terms["loss_des"].n_used,
                "mean_det0": out0.detector.mean(), "mean_det1": out1.detector.mean()}  # fmt: skip

    def _extra_points(self, batch: dict, step: int) -> torch.Tensor:
        """(B, extra_points, 2) random points inside the field of view of image 0; NaN for those that fell outside."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        h, w = batch["image0"].shape[-2:]
        points = torch.rand(len(batch["image0"]), self.config.extra_points, 2, generator=generator) * torch.tensor([w - 1.0, h - 1.0])
        points = points.to(self.device)
        seen = sample_map(batch["valid0"].float(), points) > 0.99
        return torch.where(seen, points, torch.full_like(points, torch.nan))

    def step(self) -> dict[str, float]:
        """One update; returns the loss terms as numbers. FloatingPointError names the step when the loss is not finite."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step_index)
        terms = self.losses(self.load_batch(self.step_index), self.step_index)
        if not torch.isfinite(terms["total"]):
            hint = f"lower learning_rate ({self.config.learning_rate:g})"
            raise FloatingPointError(f"the loss is {terms['total'].item()} at step {self.step_index}; {hint}")
        self.optimiser.zero_grad(set_to_none=True)
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimiser.step()
        self.step_index += 1
        return {k: float(v.detach()) if torch.is_tensor(v) else float(v) for k, v in terms.items()}

    # ------------------------------------------------------------------ the run

    def fit(self, on_epoch: Callable[[list[dict]], None] | None = None) -> list[dict]:
        """Train to the last epoch; returns the history, one dict per epoch. on_epoch(history) is called after each."""
        if not self.resume():
            self._save_state()  # an interruption within the first epoch comes back to here
        write_json(self.run_dir / "config.json", to_dict(self.config))
        total = self.config.epochs * self.config.steps_per_epoch
        with tqdm(total=total, initial=self.step_index, desc=self.config.phase, unit="step", mininterval=2, leave=False) as bar:
            while self.step_index < total:
                row = self._epoch(bar)
                self.history.append(row)
                self.save()
                figures = "  ".join(f"{k} {v:.3g}" for k, v in row.items() if k != "epoch")
                log.info("epoch %d/%d  %s", row["epoch"], self.config.epochs, figures)
                if on_epoch:
                    on_epoch(self.history)
        return self.history

    def _epoch(self, bar) -> dict:
        started, sums = time.perf_counter(), {}
        for _ in range(self.config.steps_per_epoch):
            terms = self.step()
            sums = {k: sums.get(k, 0.0) + v for k, v in terms.items()}
            bar.update()
            bar.set_postfix(loss=f"{terms['total']:.3f}", refresh=False)
        seconds = time.perf_counter() - started
        row = {"epoch": self.step_index // self.config.steps_per_epoch, "step": self.step_index}
        row |= {k: v / self.config.steps_per_epoch for k, v in sums.items()}
        row |= self.validation.evaluate(self.network, self.device)
        row |= {"learning_rate": self.learning_rate(self.step_index - 1), "seconds_per_step": seconds / self.config.steps_per_epoch}
        save_keypoint_figures(self.network, self.validation, self.run_dir / "figures", self.device)
        return row

    def save(self) -> None:
        """Write checkpoint, state and history; each file is complete or absent, and state.pt comes last."""
        about = {"phase": self.config.phase, "step": self.step_index, "config": to_dict(self.config)}
        save_network(self.run_dir / "checkpoint.safetensors", self.network, about)
        write_csv(self.run_dir / "history.csv", self.history)
        write_json(self.run_dir / "metrics.json", {"phase": self.config.phase, "last": self.history[-1] if self.history else {}})
        self._save_state()

    def _save_state(self) -> None:
        state = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step_index,
                 "history": self.history, "config": to_dict(self.config), "rng": torch.get_rng_state()}  # fmt: skip
        with replacing(self.run_dir / "state.pt") as temporary:
            torch.save(state, temporary)

    def resume(self) -> bool:
        """Load state.pt if there is one; ValueError names the keys in which its configuration differs from ours."""
        path = self.run_dir / "state.pt"
        if not path.is_file():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        differing = differences(state["config"], to_dict(self.config))
        if differing:
            advice = "Use another run folder, or the old settings"
            raise ValueError(f"{path} belongs to another configuration: {'; '.join(differing)}. {advice}")
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step_index, self.history = state["step"], state["history"]
        torch.set_rng_state(state["rng"].cpu())
        return True
