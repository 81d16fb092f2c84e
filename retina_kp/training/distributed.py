"""Several processes that train as one: how a notebook starts them, and how each one's running statistics become those
of one process that saw all."""

from __future__ import annotations

import csv
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.compute import bfloat16_is_fast, choose_device, promises_bfloat16

log = logging.getLogger(__name__)
# The last line of a traceback, without the module of its exception
REASON = r"^(?:\[rank\d+\]: )?(?:\w+\.)*(\w*(?:Error|Exception|Stopped): .*)$"
ACCELERATE_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def launch(
    config_file: Path, run_dir: Path, processes: int, device: str, workers: int, on_epoch: Callable[[list[dict]], None]
) -> None:
    """Train the phase of a configuration file on several processes, one per GPU or all on the CPU, and call
    on_epoch(history) whenever the run's history.csv has grown. RuntimeError says why they failed.

    A command of its own, not accelerate's notebook_launcher: that one forks this process, whose OpenMP threads and CUDA
    context do not survive a fork once anything has been computed."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
        "-m",
        "retina_kp.cli.train",
        "--config",
        str(config_file),
        "--run-dir",
        str(run_dir),
        "--device",
        device,
        "--workers",
        str(workers),
    ]
    cpu = choose_device(device).type == "cpu"
    shared = (
        {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(max(torch.get_num_threads() // processes, 1))}
        if cpu
        else {}
    )
    package = str(Path(__file__).resolve().parents[2])
    env = {
        **os.environ,
        **shared,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")])),
    }
    log, history, seen = run_dir / "launch.log", run_dir / "history.csv", 0.0
    with open(log, "w", encoding="utf-8") as out:
        running = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
        try:
            while (code := running.poll()) is None:
                time.sleep(0.5)
                if history.is_file() and (written := history.stat().st_mtime) > seen:
                    seen = written
                    on_epoch(read_history(history))
        finally:
            if running.poll() is None:
                running.terminate()
                running.wait()
    if code:
        said = log.read_text(encoding="utf-8")
        reasons = list(dict.fromkeys(re.findall(REASON, said, re.MULTILINE))) or [said[-1500:]]
        raise RuntimeError(
            f"{processes} processes failed (exit code {code}): {'; '.join(reasons)}. All that they said: {log}"
        )


def read_history(path: Path) -> list[dict]:
    """The rows of a history.csv as the trainer keeps them; an empty cell was not measured."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row | {key: int(row[key]) for key in ("epoch", "step")} for row in rows]


def is_main() -> bool:
    """Whether this is the process that writes and logs; true as well where no launcher started several."""
    return int(os.environ.get("RANK", 0)) == 0


def new_accelerator(device: str, precision: str, kept: str = "") -> Accelerator:
    """An `Accelerator` for "cpu", "cuda" or "auto" (CUDA where there is one); ValueError for CUDA that is not there.
    Where bfloat16 would be emulated, which takes eight times as long as float32 on a CPU, "bf16" stands for "fp32". The
    main process decides that for all. A run that was begun on such a machine has decided: kept is its
    `Accelerator.mixed_precision`.

    Its settings are global to the process, so those of an earlier run are dropped first; not so under several
    processes, whose settings come from the launcher."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {device!r}: takes 'auto', 'cpu' or 'cuda'")
    chosen = choose_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    wanted = ACCELERATE_PRECISION[precision]
    if wanted == "bf16":
        state = PartialState(cpu=chosen.type == "cpu")
        fast = (
            kept == "bf16" if kept and promises_bfloat16(chosen) else state.is_main_process and bfloat16_is_fast(chosen)
        )
        decided = ["bf16" if fast else "no"]
        wanted = broadcast_object_list(decided)[0] if state.num_processes > 1 else decided[0]
        if wanted == "no":
            log.info("This %s does not gain from bfloat16; float32 is taken instead", chosen.type.upper())
    return Accelerator(cpu=chosen.type == "cpu", mixed_precision=wanted)


def learning_norms(network: torch.nn.Module) -> list[_BatchNorm]:
    """Batch normalisations whose running statistics move in a forward pass."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]


def statistics(network: torch.nn.Module) -> torch.Tensor:
    """(S,) a copy of the running means and variances of `learning_norms`."""
    return torch.cat(
        [v for norm in learning_norms(network) for v in (norm.running_mean, norm.running_var)] or [torch.zeros(0)]
    )


@torch.no_grad()
def join_statistics(accelerator: Accelerator, network: torch.nn.Module, before: torch.Tensor, passes: int) -> None:
    """Set running statistics to what one process would have that saw the batches of all, in the order of the processes.

    before: `statistics` ahead of the ``passes`` forward passes that each process made; a pass takes r to (1 - momentum)
    r + momentum b."""
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
