"""Processes that train as one: how they start, how their statistics are joined, and the state that they leave."""

from __future__ import annotations

import csv
import errno
import logging
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.compute import bfloat16_is_fast, choose_device, promises_bfloat16
from ..core.files import NOT_WRITTEN, replacing
from .config import PRECISIONS

log = logging.getLogger(__name__)
# The last line of a traceback, without the module of its exception
REASON = r"^(?:\[rank\d+\]: )?(?:\w+\.)*(\w*(?:Error|Exception|Stopped): .*)$"


def launch(
    config_file: Path, run_dir: Path, processes: int, device: str, workers: int, on_epoch: Callable[[list[dict]], None]
) -> None:
    """Train the phase of a configuration file on several processes, one per GPU or all on the CPU, and call
    on_epoch(history) whenever history.csv has grown. RuntimeError says why they failed. Not by accelerate's
    notebook_launcher: it forks this process, whose threads and CUDA context would not survive that."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    given = ["--config", config_file, "--run-dir", run_dir, "--device", device, "--workers", workers]
    command = [str(word) for word in (*launcher, "-m", "retina_kp.cli.train", *given)]
    package = str(Path(__file__).resolve().parents[2])
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))}
    if choose_device(device).type == "cpu":
        threads = max(torch.get_num_threads() // processes, 1)
        env |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(threads)}
    output, history, seen = run_dir / "launch.log", run_dir / "history.csv", 0.0
    with open(output, "w", encoding="utf-8") as out:
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
        said = output.read_text(encoding="utf-8")
        reasons = "; ".join(dict.fromkeys(re.findall(REASON, said, re.MULTILINE))) or said[-1500:]
        raise RuntimeError(f"{processes} processes failed (exit code {code}): {reasons}. All that they said: {output}")


def is_main() -> bool:
    """Whether this is the process that writes and logs; true as well where no launcher started several."""
    return int(os.environ.get("RANK", 0)) == 0


def new_accelerator(device: str, precision: str, kept: str = "") -> Accelerator:
    """An `Accelerator` for "cpu", "cuda" or "auto" (CUDA where there is one); ValueError for CUDA that is not there.

    Where bfloat16 would be emulated, at an eighth of the speed, "bf16" stands for "fp32"; the main process decides that
    for all. A begun run has decided: kept is its `Accelerator.mixed_precision`."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {device!r}: takes 'auto', 'cpu' or 'cuda'")
    chosen = choose_device(device)
    on_cpu, wanted = chosen.type == "cpu", PRECISIONS[precision]
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:  # settings of an earlier run, which would stay; not a launcher's
        AcceleratorState._reset_state(reset_partial_state=True)
    if wanted == "bf16":
        state = PartialState(cpu=on_cpu)
        if kept and promises_bfloat16(chosen):
            fast = kept == "bf16"
        else:
            fast = state.is_main_process and bfloat16_is_fast(chosen)
        wanted = "bf16" if fast else "no"
        wanted = broadcast_object_list([wanted])[0] if state.num_processes > 1 else wanted
        if wanted == "no":
            log.info("This %s does not gain from bfloat16; float32 is taken instead", chosen.type.upper())
    return Accelerator(cpu=on_cpu, mixed_precision=wanted)


# ------------------------------------------------------------------ running statistics


def learning_norms(network: torch.nn.Module) -> list[_BatchNorm]:
    """Those whose running statistics move in a forward pass."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]


def statistics(network: torch.nn.Module) -> torch.Tensor:
    """(S,) a copy of the running means and variances of `learning_norms`."""
    values = [v for norm in learning_norms(network) for v in (norm.running_mean, norm.running_var)]
    return torch.cat(values or [torch.zeros(0)])


@torch.no_grad()
def join_statistics(accelerator: Accelerator, network: torch.nn.Module, before: torch.Tensor, passes: int) -> None:
    """Set running statistics to what one process would have that saw the batches of all, in their order. before:
    `statistics` ahead of the ``passes`` forward passes of each; a pass takes r to (1 - momentum) r + momentum b."""
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


# ------------------------------------------------------------------ what a run leaves


def average(rows: list[dict]) -> dict[str, float]:
    """Mean of each metric over the rows that have it, NaN left out."""
    keys = dict.fromkeys(k for row in rows for k in row)
    values = {k: np.array([row[k] for row in rows if k in row and row[k] == row[k]], float) for k in keys}
    return {k: float(v.mean()) if len(v) else float("nan") for k, v in values.items()}


def read_history(path: Path) -> list[dict]:
    """The rows of a history.csv as the trainer keeps them; an empty cell was not measured."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row | {key: int(row[key]) for key in ("epoch", "step")} for row in rows]


def write_state(path: str | Path, state: dict) -> None:
    """Write plain values and tensors, atomically; OSError with the path where that fails."""
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's word for a full disk speaks of its own code
            raise OSError(errno.EIO, NOT_WRITTEN, str(path)) from error


def read_state(path: str | Path, device="cpu") -> dict:
    """What `write_state` wrote; ValueError unless every byte is as it was (torch.load ignores the check sums)."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        state = None if damaged else torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # both raise whatever the damage leads them to
        state, damaged = None, f"{type(error).__name__}: {error}".partition(". ")[0][:200]
    if damaged or not isinstance(state, dict):
        advice = "Put back a copy of the file, or delete it to train this phase from its start"
        raise ValueError(f"{path} is damaged and cannot be continued from ({damaged}). {advice}")
    return state
