"""Several processes that train as one: how they start, and how each one's running statistics become those of one process that saw all."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.nn.modules.batchnorm import _BatchNorm

from .networks import choose_device

ACCELERATE_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def is_main() -> bool:
    """Whether this is the process that writes and logs; true as well where no launcher started several."""
    return int(os.environ.get("RANK", 0)) == 0


def new_accelerator(device: str, precision: str) -> Accelerator:
    """An `Accelerator` for "cpu", "cuda" or "auto" (CUDA where there is one); ValueError for CUDA that is not there.

    Its settings are global to the process, so those of an earlier run are dropped first; not so under several processes, whose settings
    come from the launcher."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {device!r}: takes 'auto', 'cpu' or 'cuda'")
    cpu = choose_device(device).type == "cpu"
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=cpu, mixed_precision=ACCELERATE_PRECISION[precision])


def learning_norms(network: torch.nn.Module) -> list[_BatchNorm]:
    """Batch normalisations whose running statistics move in a forward pass."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]


def statistics(network: torch.nn.Module) -> torch.Tensor:
    """(S,) a copy of the running means and variances of `learning_norms`."""
    return torch.cat([v for norm in learning_norms(network) for v in (norm.running_mean, norm.running_var)] or [torch.zeros(0)])


@torch.no_grad()
def join_statistics(accelerator: Accelerator, network: torch.nn.Module, before: torch.Tensor, passes: int) -> None:
    """Set running statistics to what one process would have that saw the batches of all, in the order of the processes.

    before: `statistics` ahead of the ``passes`` forward passes that each process made; a pass takes r to (1 - momentum) r + momentum b."""
    norms, processes = learning_norms(network), accelerator.num_processes
    if processes == 1 or not norms:
        return
    kept = torch.cat([before.new_full((2 * norm.num_features,), 1 - norm.momentum) for norm in norms]) ** passes
    joined = before
    for gain in accelerator.gather((statistics(network) - kept * before)[None]):
        joined = kept * joined + gain
    for norm, values in zip(norms, joined.split([2 * norm.num_features for norm in norms]), strict=True):
        mean, variance = values.split(norm.num_features)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.num_batches_tracked += passes * (processes - 1)
