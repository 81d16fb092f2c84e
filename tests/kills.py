"""Runs that are killed at random moments, and what they leave: ``python -m tests.kills --kills 100 --seed 1``.

Kinds: training without and with a worker process, a table of trials, a folder of pairs. After each SIGKILL every file must be whole and no process
may be left. After the last one the run is gone on with to its end: its bits or its table must be those of a run that
nobody touched.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from retina_kp.core.files import read_json
from retina_kp.core.images import read_image, write_image
from retina_kp.evaluation.batch import find_jobs, run_jobs
from retina_kp.evaluation.methods import choose_baselines
from retina_kp.evaluation.pairs import SyntheticPair
from retina_kp.evaluation.runner import measure
from retina_kp.mapping.result import Registration
from retina_kp.networks.checkpoints import load_network
from retina_kp.synthetic.pairs import PairOptions
from retina_kp.training.config import TrainConfig
from retina_kp.training.processes import read_state
from retina_kp.training.trainer import Trainer

ORPHANS_GONE_S = 20  # workers look for their parent every five seconds
TINY = TrainConfig(network_options={"width": 0.25, "descriptor_dim": 16}, epochs=4, steps_per_epoch=1, batch_size=1)
TINY = replace(TINY, learning_rate=3e-3, rise_steps=1, pool_size=1, extra_points=16, validation_pairs=0)
TINY = replace(TINY, label_sigma_px=3.0, data=replace(TINY.data, size_px=64))


def train(folder: Path, workers: int = 0) -> None:
    Trainer(TINY, folder / "run", workers=workers).fit()


def trained(folder: Path) -> object:
    return (folder / "run" / "checkpoint.safetensors").read_bytes()


def trials(folder: Path) -> None:
    easy = PairOptions(size_px=96, rotation_deg=2, scale=(1, 1), min_overlap=0.9)
    measure(
        [SyntheticPair(5, k, "FA", easy) for k in range(6)], choose_baselines(["identity"])[0], folder / "trials.jsonl"
    )


def measured(folder: Path) -> object:
    rows = pd.DataFrame(
        [json.loads(line) for line in (folder / "trials.jsonl").read_text("utf-8").splitlines() if line]
    )
    return rows.sort_values("key")[["key", "pair", "status", "mean_px"]].to_csv()


def register(folder: Path) -> None:
    """Everything but the search: a fixed answer, written as for any pair."""
    for path in (folder / side / f"{name}.png" for side in ("cf", "fa") for name in "abc"):
        if not path.is_file():
            write_image(path, np.random.default_rng(ord(path.stem)).integers(0, 255, (300, 400), np.uint8))
    points = np.zeros((2, 0, 2))
    answer = Registration(
        "ok",
        np.array([[1, 0.1, 3], [-0.1, 1, 5], [0, 0, 1.0]]),
        0.9,
        *points,
        np.zeros(0, bool),
        (300, 400),
        (300, 400),
    )
    run_jobs(lambda fixed, moving: answer, find_jobs(folder / "cf", folder / "fa"), folder / "out")


def registered(folder: Path) -> object:
    return {path.name: path.read_bytes() for path in sorted((folder / "out").iterdir())}


KINDS: dict[str, tuple[Callable, Callable]] = {
    "training": (train, trained),
    "training with a worker": (partial(train, workers=1), trained),
    "table of trials": (trials, measured),
    "folder of pairs": (register, registered),
}
READERS = {".json": read_json, ".png": read_image, ".safetensors": load_network, ".csv": pd.read_csv, ".pt": read_state}


def half_written(folder: Path) -> list[str]:
    """Names of files that cannot be read; what `replacing` is still at is hidden and nobody's file."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and (read := READERS.get(path.suffix)):
            try:
                read(path)
            except (ValueError, OSError, cv2.error) as error:
                found.append(f"{path.name}: {error}")
    return found


def started(work: Callable, folder: Path) -> int:
    """The id of a forked process, head of a session of its own, that works and ends."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.environ["TQDM_DISABLE"] = "1"
        code = 1
        try:
            work(folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def left_over(session: int) -> list[int]:
    """Processes of a session that still run."""
    alive = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            alive.append(int(stat.parent.name))
    return alive


def wait(child: int) -> float:
    begun = time.monotonic()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"a run that nobody killed ended with {status}"
    return time.monotonic() - begun


def kill_at_random(kind: str, kills: int, rng: random.Random, root: Path) -> dict:
    """A row of the table: how often a kind of run was killed, and what was found."""
    work, outcome = KINDS[kind]
    (root / "whole").mkdir(parents=True)
    seconds = wait(started(work, root / "whole"))
    row, wanted, folder = {"kind": kind, "kills": 0, "to the end": 0}, outcome(root / "whole"), root / "killed"
    row |= {"half-written": [], "other bits": 0, "orphans": 0}
    while row["kills"] < kills:
        folder.mkdir(exist_ok=True)
        child = started(work, folder)
        time.sleep(rng.uniform(0, 1.1 * seconds))
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)[1]
        row["kills"] += ended == signal.SIGKILL
        limit = time.monotonic() + ORPHANS_GONE_S
        while left_over(child) and time.monotonic() < limit:
            time.sleep(0.2)
        row["orphans"] += len(left_over(child))
        row["half-written"] += half_written(folder)
        if ended == 0 or row["kills"] == kills or rng.random() < 0.1:  # to the end, then anew
            wait(started(work, folder))
            row["to the end"] += 1
            row["other bits"] += outcome(folder) != wanted
            shutil.rmtree(folder)
    return row


def main(kills: int, seed: int, kinds: Sequence[str] = tuple(KINDS)) -> pd.DataFrame:
    """The table; a kind that takes long gets a third of the kills that another gets."""
    rng, rows = random.Random(seed), []
    weights = {kind: 1 if "worker" in kind else 3 for kind in kinds}
    for kind, weight in weights.items():
        with tempfile.TemporaryDirectory() as root:
            rows.append(kill_at_random(kind, math.ceil(kills * weight / sum(weights.values())), rng, Path(root)))
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    rows = main(**vars(parser.parse_args()))
    print(rows.to_string(index=False))
    raise SystemExit(int(rows["half-written"].map(len).sum() + rows["other bits"].sum() + rows["orphans"].sum() > 0))
