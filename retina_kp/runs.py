"""What the notebooks 01 to 05 share: their parameters, run folders, starting weights and how a run is watched."""

from __future__ import annotations

import ast
import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from . import pseudo_real
from .checkpoints import SHIPPED, find_weights, read_metadata
from .config import from_dict, to_dict
from .dataset import SyntheticOptions
from .files import in_project, write_json, write_text
from .monitoring import combine, lines, live_figure, tensorboard
from .objective import WEIGHT_OF
from .phases import PHASES, TrainConfig
from .pke import PkeOptions
from .processes import launch
from .report import new_run_folder, notebook_parameters, project_root
from .sources import FileOptions
from .state import read_state
from .trainer import Trainer

NOTEBOOKS = {"warmup": "01_warmup", "geometric": "02_geometric", "pke": "03_pke", "sim2real": "04_sim2real"}
PLAN = {"warmup": (20, 1e-3), "geometric": (20, 1e-3), "pke": (60, 3e-4), "sim2real": (40, 1e-4)}  # epochs and learning rate
MIN_STEPS = 200  # shorter runs are tries: other runs do not start from them, unless they bear the same name
STAND_IN_STEPS = 8
S = TypeVar("S")


@dataclass(frozen=True)
class Settings:
    """The parameters of a training notebook; those with a default here belong to single phases. px of the training images."""

    epochs: int  # 0 takes the full schedule's
    steps_per_epoch: int
    batch_size: int
    micro_batches: int
    image_size: int
    learning_rate: float  # 0 takes the full schedule's
    network: str
    data_root: str  # "" draws
    layout: str
    mode: str
    pool_size: int
    validation_pairs: int
    detector_weight: float
    descriptor_weight: float
    device: str
    precision: str
    processes: int
    workers: int
    seed: int
    init_from: str
    run_name: str
    resume: bool
    runs_root: str
    tensorboard: bool
    geometric_weight: float = 0.5
    annotated_share: float = 1.0  # 0 takes all, and half in a try
    min_probability: float = 0.2
    content_ratio_max: float = 0.8
    max_new_points: int = 300
    real_share: float = 1.0
    exploration_weight: float = 0.5
    prealign: bool = False
    max_residual_px: float = 25.0


def read_settings(namespace: Mapping, kind: type[S] = Settings) -> S:
    """The settings among a notebook's variables. ValueError names one that is missing or of the wrong type, or that papermill has injected
    although the parameters cell does not know it (papermill itself only warns)."""
    cells = list(namespace.get("In", ()))
    for own, injected in zip(cells, cells[1:], strict=False):
        for name in _assigned(injected) if injected.startswith("# Parameters") else ():
            if name not in _assigned(own):
                near = difflib.get_close_matches(name, _assigned(own), 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_assigned(own))}"
                raise ValueError(f"no parameter {name!r} here; {hint}")
    return from_dict(kind, {f.name: namespace[f.name] for f in fields(kind) if f.name in namespace})


def _assigned(source: str) -> list[str]:
    nodes = ast.walk(ast.parse(source))
    return [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def training_config(phase: str, s: Settings) -> TrainConfig:
    """The configuration that a notebook's settings stand for; init_from is left open."""
    epochs, rate = (given or planned for given, planned in zip((s.epochs, s.learning_rate), PLAN[phase], strict=True))
    steps, expands = epochs * s.steps_per_epoch, PHASES[phase].pke
    share = (s.real_share if phase == "sim2real" else 1.0) if s.data_root else 0.0
    if phase == "sim2real" and not share > 0:
        raise ValueError("real_share: phase 4 needs real pairs, so take a number above 0, and name their folder in data_root")
    annotated = s.annotated_share or (0.5 if steps < MIN_STEPS else 1.0)
    root = str(in_project(s.data_root)) if s.data_root else ""
    pke = PkeOptions(s.min_probability, s.min_probability, s.content_ratio_max, max_new_points=s.max_new_points)
    drawn = SyntheticOptions(s.image_size, zoom=_zoom(s.image_size), annotated_share=annotated, frames_per_retina=int(expands))
    files = FileOptions(root, s.layout, s.mode, share, size_px=s.image_size, prealign=s.prealign, max_residual_px=s.max_residual_px)
    return TrainConfig(
        phase=phase, network=s.network, epochs=epochs, steps_per_epoch=s.steps_per_epoch, batch_size=s.batch_size,
        micro_batches=s.micro_batches, learning_rate=rate,
        final_rate_ratio=1.0 if phase == "warmup" else 0.1, rise_steps=min(50, max(steps // 5, 1)), precision=s.precision,
        detector_weight=s.detector_weight, descriptor_weight=s.descriptor_weight, geometric_weight=s.geometric_weight,
        exploration_weight=s.exploration_weight, extra_points=96, curriculum_steps=500 if phase == "warmup" and steps >= 1000 else 0,
        seed=s.seed, pool_size=s.pool_size, pke=pke, validation_pairs=s.validation_pairs, data=drawn, files=files)  # fmt: skip


def _zoom(size_px: int) -> tuple[float, float]:
    """Images show of a drawn retina what those of 256 px do; small ones less (vessels would vanish), large ones no blurred small parts."""
    scale = max(size_px / SyntheticOptions().size_px, 0.8)
    low, high = (zoom * scale for zoom in SyntheticOptions().zoom)
    return low, min(high, max(1.5, 2 * low))


def open_folder(phase: str, s: Settings) -> Path:
    """The folder of this run. ValueError when a run of this name was begun and is not to be continued, or when nothing says which one."""
    if s.resume and not s.run_name:
        raise ValueError("resume = True needs run_name: which run of this notebook is to be continued?")
    folder = new_run_folder(NOTEBOOKS[phase], s.run_name, runs_folder(s))
    if (folder / "state.pt").is_file() and not s.resume:
        raise ValueError(f"{folder} holds a run already: set resume = True to continue it, or take another run_name")
    return folder


def runs_folder(s: Settings) -> Path:
    """Where the folders of runs lie, by notebook."""
    return project_root() / (Path(s.runs_root).expanduser() if s.runs_root else Path("outputs") / "runs")


def find_checkpoint(phase: str, s: Settings) -> Path | None:
    """Checkpoint of a phase to build on: that of a run with our name, else the newest that went to its end, was no mere try (MIN_STEPS) and
    has our network and image size."""
    folder = runs_folder(s) / NOTEBOOKS[phase]
    name = Path(s.run_name).name  # the runner gives the whole path
    if name and (named := folder / name / "checkpoint.safetensors").is_file():
        return named
    for path in sorted(folder.glob("*/checkpoint.safetensors"), key=lambda p: p.stat().st_mtime, reverse=True):
        about = read_metadata(path)
        config, size_px = about["config"], about["config"]["data"]["size_px"]
        if about["step"] == config["epochs"] * config["steps_per_epoch"] >= MIN_STEPS and (about["network"], size_px) == (
            s.network,
            s.image_size,
        ):
            return path
    return None


def starting_weights(config: TrainConfig, s: Settings, folder: Path) -> tuple[TrainConfig, str]:
    """The configuration with its starting weights filled in, and a sentence about them: those that a continued run began with; init_from;
    the previous phase's checkpoint; or a stand-in for it, trained here in a few steps."""
    previous = list(PHASES)[: list(PHASES).index(config.phase)]
    if (folder / "state.pt").is_file():
        begun = read_state(folder / "state.pt")
        start, said = begun["config"]["init_from"], f"continues at step {begun['step']} of {config.total_steps}"
        start = find_weights(s.init_from) if s.init_from else start  # other weights than it began with are refused by `Trainer.resume`
    elif s.init_from:
        start = find_weights(s.init_from)
        said = f"starts from {s.init_from}, as asked"
    elif not previous:
        start, said = "", "starts from random weights"
    elif found := find_checkpoint(previous[-1], s):
        start, said = found, f"starts from {_short(found)}, {read_metadata(found)['step']} steps of {NOTEBOOKS[previous[-1]]}"
    else:
        start, said = _stand_in(config, previous, folder, s.device)
    return replace(config, init_from=str(start)), said


def _stand_in(config: TrainConfig, previous: Sequence[str], folder: Path, device: str) -> tuple[Path | str, str]:
    """Weights in place of the previous phase's: a few steps of it on drawn pairs, from the shipped weights where the network has some."""
    shipped = SHIPPED / f"{config.network}.safetensors"
    start = shipped if shipped.is_file() else ""
    for phase in (phases := previous[-1:] if start else previous):
        frames = replace(config.data, frames_per_retina=1 if PHASES[phase].pke else 0)
        short = replace(config, phase=phase, epochs=1, steps_per_epoch=STAND_IN_STEPS, learning_rate=3e-4, rise_steps=4,
                        init_from=str(start), validation_pairs=0, data=frames, files=FileOptions())  # fmt: skip
        Trainer(short, folder / "stand_in" / phase, device).fit()
        start = folder / "stand_in" / phase / "checkpoint.safetensors"
    origin = f"the shipped {config.network!r} weights" if shipped.is_file() else "random weights"
    wanted = f"STAND-IN for {NOTEBOOKS[previous[-1]]}, of which no run with {config.network!r} at {config.data.size_px} px was found"
    return start, f"{wanted}:\n{STAND_IN_STEPS} steps of {', '.join(phases)} from {origin}"


def _short(path: Path) -> str:
    return str(path.relative_to(project_root())) if path.is_relative_to(project_root()) else str(path)


def defaults(phase: str) -> dict:
    """Parameters of a phase's notebook as they stand in its file."""
    return notebook_parameters(project_root() / "notebooks" / f"{NOTEBOOKS[phase]}.ipynb")


def pke_run(run: str, s: Settings, folder: Path) -> tuple[Path, str]:
    """The folder of the PKE run to diagnose, and a sentence about it: the given one, or that of a stand-in, trained here by the settings
    unless that has been done already."""
    if run:
        return in_project(run), f"diagnosed: {run}"
    config, start = starting_weights(training_config("pke", s), s, folder)
    Trainer(config, folder / "stand_in" / "pke", s.device, workers=s.workers).fit()
    said = f"STAND-IN for a run of {NOTEBOOKS['pke']}: {config.total_steps} steps, too few to judge the method by; it {start}"
    return folder / "stand_in" / "pke", said


def train(trainer: Trainer, log_to_tensorboard: bool = False, processes: int = 1) -> list[dict]:
    """Fit with a live figure and a line per epoch, in this process or in several of their own; a complete run is shown, not trained.
    Returns the history."""
    losses = [name for name in trainer.objective.phase.losses if getattr(trainer.config, WEIGHT_OF[name])]
    figure, trained = live_figure(losses), []
    callbacks = [figure, lines(), *([tensorboard(trainer.run_dir)] if log_to_tensorboard else [])]
    on_epoch = combine(*callbacks, trained.append)
    if processes > 1:
        kind = "cpu" if trainer.device.type == "cpu" else "cuda"
        config_file = write_json(trainer.run_dir / "config.json", to_dict(trainer.config))
        launch(config_file, trainer.run_dir, processes, kind, trainer.workers, on_epoch)
    history = trainer.fit(on_epoch) if processes == 1 else trainer.load()
    if not trained:
        figure(history)
    return history


def pseudo_real_folder(count: int, seed: int) -> str:
    """A folder of pseudo-real pairs in data/pseudo_real, drawn once by each version of `pseudo_real`. The points of the last pair are put
    into the wrong order on purpose: the annotation report has to find it."""
    folder = project_root() / "data" / "pseudo_real" / f"{count}_pairs_seed_{seed}"
    complete, drawn_by = folder / "complete", hashlib.sha256(Path(pseudo_real.__file__).read_bytes()).hexdigest()
    if not complete.is_file() or complete.read_text() != drawn_by:
        pseudo_real.write_pseudo_real(folder, count, seed)
        points = sorted(folder.rglob("*_02.txt"))[-1]
        write_text(points, "\n".join(reversed(points.read_text().split("\n"))))
        write_text(complete, drawn_by)
    return str(folder)
