"""Training at scale: two processes, workers and five kills give the weights that one quiet process gives.

Runs are forked from a warm server (multiprocessing's "forkserver") with one thread each: real processes, which can be
killed, without seconds of imports. What is compared across processes is computed in float64 throughout, where another
order of summing leaves 1e-12: in float32 it leaves what the CPU's instruction set and AdamW make of it. Differences are
shares of a tensor's largest value.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from test_sources import write_pair

import retina_kp.cli.train
import retina_kp.training.processes
import retina_kp.training.trainer
from retina_kp.cli.train import main
from retina_kp.core.config import to_dict
from retina_kp.core.geometry import TransformRange, warp_points
from retina_kp.data.sources import join_batches
from retina_kp.data.training_files import FileOptions
from retina_kp.synthetic.pairs import write_aligned_folder
from retina_kp.synthetic.training_pairs import SyntheticOptions, SyntheticPairs
from retina_kp.training.config import TrainConfig
from retina_kp.training.losses import PHASES
from retina_kp.training.pke import PkeOptions, view_filter
from retina_kp.training.processes import learning_norms
from retina_kp.training.run_data import ValidationSet
from retina_kp.training.trainer import GUARDED, Trainer

# Pairs so easy and filters so open that an untrained network confirms points, which are labels at once.
EASY = SyntheticOptions(
    size_px=64,
    frames_per_retina=1,
    relative=TransformRange().scaled(0.05),
    zoom=(0.7, 0.9),
    fixed=("OCT",),
    moving=("OCT",),
)
OPEN = PkeOptions(
    candidate_min_probability=0.0,
    pke_min_probability=0.0,
    content_ratio_max=1.0,
    content_radius_px=4.0,
    nms_radius_px=3.0,
    annotation_radius_px=2.0,
    border_px=1.0,
    promotion_value=1.0,
    demotion_value=0.5,
)
TINY = TrainConfig(
    network_options={"width": 0.25, "descriptor_dim": 16},
    epochs=2,
    steps_per_epoch=3,
    batch_size=2,
    micro_batches=2,
    learning_rate=3e-3,
    rise_steps=1,
    pool_size=2,
    extra_points=16,
    label_sigma_px=3.0,
    validation_pairs=0,
    pke=OPEN,
    data=EASY,
)
PATIENCE = 150  # s until a run counts as hung


# ------------------------------------------------------------------ runs in processes of their own


@pytest.fixture(scope="module")
def server():
    """multiprocessing's fork server with everything imported and one thread per process."""
    wanted = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parents[1], Path(__file__).parent))),
    }
    before = {k: os.environ.get(k) for k in wanted}
    os.environ.update(wanted)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    yield context
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def accuracy(self, network, device="cpu") -> dict[str, float]:
    """Stands in for validation: a figure that falls and rises with the batches that the network has seen."""
    return {GUARDED: (0.9, 0.88, 0.7)[int(network.level1[0][1].num_batches_tracked) // 5 % 3]}


def without_pictures() -> None:
    """Spare a run what takes longer than its steps and decides nothing; its workers are forked."""
    retina_kp.cli.train.keep_keypoint_figures = None
    ValidationSet.evaluate = accuracy
    retina_kp.training.trainer.allowed_drop = lambda *args: 0.05
    multiprocessing.set_start_method("fork", force=True)


def in_double_precision() -> None:
    """All that this process computes from here on, pictures included, is float64, also where the code asks for
    float32."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double


def train_chain(folder: Path, configs: list[TrainConfig], workers: int = 0, late: float = 0.0) -> None:
    """Train one run per configuration and keep all that decides how it goes on in ``folder``/<phase>.<rank>.pt; late: s
    before each run."""
    without_pictures()
    in_double_precision()
    for config in configs:
        trainer, losses = Trainer(config, folder / config.phase, workers=workers), []
        if config.phase == "warmup":
            even_terms(trainer)
        step = trainer.step
        trainer.step = lambda losses=losses, step=step: losses.append(step()) or losses[-1]
        time.sleep(late)
        trainer.fit()
        torch.save({"losses": losses, **memory(trainer)}, folder / f"{config.phase}.{os.environ.get('RANK', 0)}.pt")


def memory(trainer: Trainer) -> dict:
    """Weights with running statistics, the optimiser's moments (linear in the gradient; AdamW's steps are not), and
    what PKE remembers."""
    moments = {k: v["exp_avg"] for k, v in trainer.optimiser.state_dict()["state"].items()}
    return {"weights": trainer.network.state_dict(), "moments": moments, "pke": trainer.objective.state_dict()}


def train_rank(rank: int, port: int, folder: Path, configs: list[TrainConfig]) -> None:
    """One of two processes, as a launcher would start it; the second comes late to every run."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    train_chain(folder, configs, late=0.5 * rank)
    torch.distributed.destroy_process_group()


def run(context, *calls) -> None:
    """Run calls (function, arguments ...) side by side, each in a process of its own."""
    processes = [context.Process(target=function, args=arguments) for function, *arguments in calls]
    for process in processes:
        process.start()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
    ended = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert ended == [0] * len(ended), f"exit codes {ended}; None is a hung process"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# ------------------------------------------------------------------ comparisons


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Over all tensors, the largest difference as a share of the tensor's largest value."""
    assert a.keys() == b.keys()
    return max(
        float((a[k].double() - b[k].double()).abs().max() / b[k].double().abs().max().clamp_min(1e-12)) for k in a
    )


def same(a, b) -> bool:
    """Equal to the bit: dicts, lists, tensors and plain values; NaN equals NaN."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else repr(a) == repr(b)


def promoted(pke: dict) -> int:
    return sum(int(record[:, 3].sum()) for record in pke["value_map"]["records"])


def assert_equal_steps(got: dict, wanted: dict, tolerance: float = 1e-9) -> None:
    """The same losses in every step, weights and moments to the tolerance."""
    assert len(got["losses"]) == len(wanted["losses"]) == TINY.total_steps
    for a, b in zip(got["losses"], wanted["losses"], strict=True):
        assert {k: a[k] for k in b} == pytest.approx(b, rel=tolerance, nan_ok=True)
    for part in ("weights", "moments"):
        assert largest_difference(got[part], wanted[part]) < tolerance, part


# ------------------------------------------------------------------ the doubled batch


class EvenPairs(SyntheticPairs):
    """Pairs with eight points each that both images see, so that the mean over two batches is the mean over their join.
    A batch of four is the join of two batches of two."""

    def batch(self, index: int, batch_size: int, strength: float = 1.0) -> dict:
        if batch_size == 4:
            return join_batches([self.batch(2 * index + k, 2, strength) for k in (0, 1)])
        batch = super().batch(index, batch_size, strength)
        xy = torch.from_numpy(np.random.default_rng(index).uniform(8, 56, (batch_size, 400, 2))).float()
        seen = view_filter(xy, batch["valid0"]) & view_filter(
            warp_points(xy.double(), batch["H_0to1"]).float(), batch["valid1"]
        )
        points = torch.stack([row[s][:8] for row, s in zip(xy, seen, strict=True)])
        return {k: v for k, v in batch.items() if "_keypoints" not in k} | {"vessel_keypoints": points}


def even_terms(trainer: Trainer) -> None:
    """Make a loss over a batch the mean of the losses of its parts: as many points in each pair, and batch
    normalisation that does not look at the batch."""
    trainer.data = EvenPairs(0, 2, trainer.config.data)
    for norm in learning_norms(trainer.network):
        norm.eval()


# ------------------------------------------------------------------ two processes, workers

EVEN = replace(TINY, phase="warmup", extra_points=0, clip_norm=1e6)  # clipped gradients would hide their scale
CHAIN = [EVEN, replace(TINY, phase="geometric", micro_batches=4, batch_size=1), replace(TINY, phase="pke")]


@pytest.fixture(scope="module")
def runs(server, tmp_path_factory) -> dict[str, Path]:
    """The same three phases in one process, in two, and in one with two workers; the first also with the batch
    doubled."""
    folders, port = {name: tmp_path_factory.mktemp(name) for name in ("one", "two", "workers", "doubled")}, free_port()
    run(server, (train_chain, folders["one"], CHAIN))
    run(server, *((train_rank, rank, port, folders["two"], CHAIN) for rank in (0, 1)))
    run(server, (train_chain, folders["workers"], CHAIN[1:], 2))
    run(server, (train_chain, folders["doubled"], [replace(EVEN, batch_size=4, micro_batches=1)]))
    return folders


@pytest.mark.parametrize("phase", ["geometric", "pke"])
def test_two_processes_take_the_steps_of_one(runs, phase):
    one, first, second = (
        torch.load(runs[name] / f"{phase}.{rank}.pt") for name, rank in (("one", 0), ("two", 0), ("two", 1))
    )
    assert same(first, second)
    assert one["weights"]["detect.weight"].dtype == torch.float64
    assert_equal_steps(first, one)


@pytest.mark.parametrize("name", ["one", "two"])
def test_shared_steps_are_those_of_one_process_with_the_doubled_batch(runs, name):
    shared, doubled = torch.load(runs[name] / "warmup.0.pt"), torch.load(runs["doubled"] / "warmup.0.pt")
    for row in (*shared["losses"], *doubled["losses"]):
        row.pop("points_used")  # counted per batch
    assert_equal_steps(shared, doubled)


def test_all_processes_keep_the_value_map_of_one(runs):
    one, first, second = (
        torch.load(runs[name] / f"pke.{rank}.pt")["pke"] for name, rank in (("one", 0), ("two", 0), ("two", 1))
    )
    assert promoted(one) > 0 and same(first, one) and same(second, one)


@pytest.mark.parametrize("phase", ["geometric", "pke"])
def test_workers_leave_no_trace(runs, phase):
    one, workers = (torch.load(runs[name] / f"{phase}.0.pt") for name in ("one", "workers"))
    assert same(workers, one)


def test_batches_can_be_sent_to_workers_that_are_not_forked(tmp_path):
    trainer = Trainer(TINY, tmp_path, workers=1)
    batches = retina_kp.data.sources._Batches(trainer.data, [0, 1], 2, [1.0, 0.5])
    assert same(pickle.loads(pickle.dumps(batches))[1]["image0"], trainer.data.batch(1, 2, 0.5)["image0"])


# ------------------------------------------------------------------ killed

LONG = replace(TINY, epochs=4, steps_per_epoch=5, batch_size=5, micro_batches=1)
# Each kill, one at least in every phase: how many steps the process may take first, and where it is then held until it
# is shot ("" = nowhere, it runs on).
KILLS = ((12, ""), (12, "half a state.pt"), (20, ""), (16, "between two files"), (12, ""))


def command(folder: Path, reports=None, stop: tuple[int, str] = (0, "")) -> None:
    """What a user runs phase after phase; reports: end of a pipe that gets a message per step and at the place where it
    is held."""
    os.chdir(folder)
    without_pictures()
    steps, step, hold = [], Trainer.step, lambda: (reports.send("held"), time.sleep(PATIENCE))

    def reported_step(self):
        steps.append(step(self))
        if reports:
            reports.send("step")
        return steps[-1]

    def half_a_file(state, path):
        torch.save(state, path)
        if len(steps) >= stop[0]:
            os.truncate(path, os.path.getsize(path) // 2)
            hold()

    def table(path, rows):
        write_csv(path, rows)
        if len(steps) >= stop[0]:
            hold()

    Trainer.step, write_csv = reported_step, retina_kp.training.trainer.write_csv
    if stop[1] == "half a state.pt":
        retina_kp.training.processes.torch = SimpleNamespace(**vars(torch) | {"save": half_a_file})
    if stop[1] == "between two files":
        retina_kp.training.trainer.write_csv = table
    for phase in PHASES:
        main(["--config", f"{phase}.yaml", "--run-dir", phase, "--device", "cpu"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[str, str]:
    """A user's generated eyes and real pairs."""
    root = tmp_path_factory.mktemp("own folders")
    for eye in range(5):
        write_pair(root / "real", f"{eye:03d}_01")
    return str(write_aligned_folder(root / "generated", 5, size_px=96)), str(root / "real")


def write_configs(folder: Path, folders: tuple[str, str]) -> Path:
    """The four phases on files: the generated ones first, then four fifths real ones."""
    generated, real = (FileOptions(root, mode=("cffa",), size_px=64, ranges=EASY.relative) for root in folders)
    for phase, before in zip(PHASES, ("", *PHASES), strict=False):
        files = {"files": replace(generated, share=1.0)}
        if phase == "sim2real":
            files = {"files": replace(real, share=0.8), "replay": replace(generated, share=0.2)}
        config = replace(LONG, phase=phase, init_from=before and f"{before}/checkpoint.safetensors", **files)
        (folder / f"{phase}.yaml").write_text(yaml.safe_dump(to_dict(config)))
    return folder


def run_and_kill(context, folder: Path, stop: tuple[int, str], delay: float) -> None:
    """Start the command and SIGKILL it, delay s after it has taken so many steps, or where it is held."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=command, args=(folder, sender, stop))
    process.start()
    sender.close()  # a process that dies by itself ends the pipe
    seen = {"step": 0, "held": 0}
    while not (seen["held"] if stop[1] else seen["step"] >= stop[0]):
        assert receiver.poll(PATIENCE), f"no step for {PATIENCE} s"
        seen[receiver.recv()] += 1
    time.sleep(0 if stop[1] else delay)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_five_kills_of_a_chain_on_files_leave_no_trace(server, folders, tmp_path):
    quiet, killed = (
        write_configs(tmp_path / name, folders) for name in ("quiet", "killed") if not (tmp_path / name).mkdir()
    )
    rng, leftovers = random.Random(5), 0
    run(server, (command, quiet))
    for stop in KILLS:
        run_and_kill(server, killed, stop, rng.uniform(0, 0.05))
        leftovers += len(list(killed.rglob(".*.tmp")))
    run(server, (command, killed))
    assert leftovers > 0, "no kill fell into the writing of a file"
    for phase in PHASES:
        a, b = quiet / phase, killed / phase
        assert (a / "checkpoint.safetensors").read_bytes() == (b / "checkpoint.safetensors").read_bytes(), phase
        one, other = (torch.load(folder / "state.pt") for folder in (a, b))
        for row in (*one["history"], *other["history"]):
            del row["seconds_per_step"], row["waiting_share"]
        assert len(one["history"]) == LONG.epochs and same(one, other), phase
        assert {p.name for p in a.iterdir()} == {p.name for p in b.iterdir()}, "something half-written is left"
        if phase == "pke":
            assert promoted(one["objective"]) > 0 and {row["pke_active"] for row in one["history"]} == {0.0, 1.0}


# ------------------------------------------------------------------ the state on disk


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Path:
    """The folder of a PKE run that stopped after its first epoch, in which PKE had found points and the guard had
    paused it."""

    def stop(history):
        raise KeyboardInterrupt

    folder, accuracies = tmp_path_factory.mktemp("interrupted"), iter((0.9, 0.7))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ValidationSet, "evaluate", lambda *args: {GUARDED: next(accuracies)})
        Trainer(CHAIN[2], folder).fit(stop)
    return folder


def copy_of(interrupted: Path, folder: Path) -> Path:
    (folder / "state.pt").write_bytes((interrupted / "state.pt").read_bytes())
    return folder / "state.pt"


def test_value_map_and_guard_come_back(interrupted):
    trainer = Trainer(CHAIN[2], interrupted)
    assert trainer.resume() and trainer.step_index == CHAIN[2].steps_per_epoch
    assert promoted(trainer.objective.state_dict()) > 0
    assert not trainer.objective.guard.active and trainer.objective.guard.best == {"synthetic pairs": 0.9}
    assert not any(k.startswith("pke_") for k in trainer.step()), "PKE was paused, and works again"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    """Of the middle byte, which belongs to a tensor."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [truncate, flip_a_bit, lambda path: path.write_bytes(b"")], ids=["truncated", "flipped", "empty"]
)
def test_a_damaged_state_is_refused(interrupted, tmp_path, damage):
    damage(copy_of(interrupted, tmp_path))
    with pytest.raises(ValueError, match=r"state\.pt is damaged.*delete it to train this phase from its start"):
        Trainer(CHAIN[2], tmp_path).fit()


def test_half_a_state_under_its_temporary_name_is_swept_away(interrupted, tmp_path):
    state = copy_of(interrupted, tmp_path)
    truncate(state)
    state.rename(tmp_path / ".state.pt.0123abcd.tmp")
    trainer = Trainer(replace(EVEN, epochs=1, steps_per_epoch=1), tmp_path)
    trainer.fit()
    assert trainer.step_index == 1 and not list(tmp_path.glob(".*"))
    assert (tmp_path / "state.pt").is_file()


def test_another_configuration_is_refused_with_its_keys(interrupted):
    with pytest.raises(
        ValueError, match="micro_batches: 2 → 1; pke.max_new_points: 300 → 200.*batch_size may change where"
    ):
        Trainer(replace(CHAIN[2], micro_batches=1, pke=replace(OPEN, max_new_points=200)), interrupted).fit()


def test_a_run_goes_on_with_its_pairs_split_up_otherwise(interrupted, tmp_path):
    """As on another machine with less memory: half as many pairs at once, twice as many times."""
    copy_of(interrupted, tmp_path)
    trainer = Trainer(replace(CHAIN[2], batch_size=1, micro_batches=4), tmp_path)
    trainer.fit()
    assert trainer.step_index == TINY.total_steps and len(trainer.history) == TINY.epochs
    assert trainer.splits == [[0, 2, 2], [TINY.steps_per_epoch, 1, 4]]
    again = Trainer(replace(CHAIN[2], batch_size=4, micro_batches=1), tmp_path)
    assert again.resume() and again.splits[-1] == [TINY.total_steps, 4, 1]


def test_processes_that_cannot_share_the_batches_are_told_so(monkeypatch, tmp_path):
    two = type("Two", (), {"device": torch.device("cpu"), "num_processes": 2})()
    monkeypatch.setattr(retina_kp.training.trainer, "new_accelerator", lambda *args: two)
    with pytest.raises(ValueError, match="micro_batches: 3 cannot be shared out among 2 processes"):
        Trainer(replace(TINY, micro_batches=3), tmp_path)
