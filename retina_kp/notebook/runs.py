"""What the notebooks 01 to 05 share: what a run builds on, its folder, and how it is watched."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.config import from_dict, to_dict
from ..core.files import in_project, new_run_folder, project_root, runs_root, write_json, write_text
from ..data.training_files import FileOptions
from ..evaluation.methods import PHASE_NOTEBOOKS
from ..networks import NETWORKS
from ..networks.checkpoints import SHIPPED, find_weights, read_metadata
from ..synthetic import pseudo_real
from ..training.config import STAND_IN, TrainConfig, rate_of
from ..training.losses import PHASES
from ..training.processes import launch, read_state
from ..training.settings import Settings, folder_of, of_data, of_scale, read_settings, training_config, with_given
from ..training.trainer import Trainer
from ..viz.training import keep_keypoint_figures
from .monitoring import in_short, live_figure, tensorboard

PREVIOUS = dict(zip(list(PHASES)[1:], PHASES, strict=False))
NOTEBOOKS = dict(zip(PHASES, PHASE_NOTEBOOKS, strict=True))
SHIPPED_NETWORKS = [path.stem for path in SHIPPED.glob("*.safetensors")]
STAND_IN_STEPS, CHECKPOINT = 8, "checkpoint.safetensors"


@dataclass(frozen=True)
class Plan:
    """A run that is about to begin or to go on. start: what its weights are, in words."""

    phase: str
    settings: Settings
    config: TrainConfig
    folder: Path
    start: str

    def open(self) -> Trainer:
        """The run's trainer. Where the phase before has left nothing, a stand-in for it is trained first."""
        s = self.settings
        self.folder.mkdir(parents=True, exist_ok=True)
        if not Path(self.config.init_from or ".").exists():
            _train_stand_in(self.config, self.folder, s.device)
        return Trainer(self.config, self.folder, s.device, workers=s.workers, on_validation=keep_keypoint_figures)

    def words(self) -> list[str]:
        """What will happen, a sentence each; the first one says so where it is but a try."""
        c, said = self.config, []
        if short := "; ".join(c.shortfalls()):
            said.append(f"A TRY, no training: {short}. No later phase builds on it unless it has the same run_name.")
        steps = f"{c.epochs} epochs of {c.steps_per_epoch} steps, {c.pairs_per_step} pairs of {c.size_px} px a step"
        said.append(f"{steps}; {c.network}, recipe {c.recipe}, learning rate {c.learning_rate:g}.")
        parts = [(o.share, o.root) for o in (c.files, c.replay)]
        parts.append((c.synthetic_share, f"{c.pool_size} synthetic retinas"))
        said.append("Pairs: " + ", ".join(f"{share:.0%} {name}" for share, name in parts if share > 0) + ".")
        return [*said, f"Weights: {self.start}.", f"Results: {self.folder}"]

    def _repr_html_(self) -> str:
        lines = [html.escape(line) for line in self.words()]
        if self.config.shortfalls():
            style = "background:#fff3cd;border-left:6px solid #d39e00;padding:.6em 1em;color:#3d2f00"
            lines[0] = f'<div style="{style}"><b>{lines[0]}</b></div>'
        return "<br>".join(lines)

    def __repr__(self) -> str:
        return "\n".join(self.words())


def plan(phase: str, settings: Settings | Mapping, before: TrainConfig | None = None) -> Plan:
    """What a notebook's variables (or settings) stand for. A begun run goes on as it was begun. A new one starts from
    init_from, or builds on the newest run of the phase before, or on a stand-in. Nothing is written yet. before: the
    configuration of the phase before, where that is still to be run. ValueError for settings that cannot be."""
    s = settings if isinstance(settings, Settings) else read_settings(settings)
    folder, planned, found = run_folder(phase, s), before is not None, None
    if (folder / "state.pt").is_file():
        return _continued(phase, s, folder)
    if not planned and not s.init_from and phase != "warmup":
        found = find_checkpoint(PREVIOUS[phase], s)
        before = config_of(found) if found else None
    config = training_config(phase, s, before)
    if s.init_from:
        start, said = find_weights(s.init_from).resolve(), f"{s.init_from}, as asked"
        network = read_metadata(start)["network"]
        if not s.network and network in NETWORKS:
            config = training_config(phase, replace(s, network=network))
    elif config.init_from and not planned and not found:
        start, said = find_weights(config.init_from), f"{config.init_from}, as the recipe says"
    else:
        start, said = _start(phase, config.network, folder, planned, found)
    return Plan(phase, s, replace(config, init_from=str(start)), folder, said)


def _start(phase: str, network: str, folder: Path, planned: bool, found: Path | None):
    """The weights that a run begins with where nothing names them, and a sentence about them."""
    if phase == "warmup":
        return "", "random ones"
    earlier = NOTEBOOKS[PREVIOUS[phase]]
    if planned:
        return folder.parents[1] / earlier / folder.name / CHECKPOINT, f"those of {earlier}"
    if found:
        short = found.relative_to(project_root()) if found.is_relative_to(project_root()) else found
        return found, f"{short}, {read_metadata(found)['step']} steps of {earlier}"
    weights = f"the shipped {network!r} weights" if network in SHIPPED_NETWORKS else "random weights"
    said = f"a STAND-IN for {earlier}, of which no run to build on was found: {STAND_IN_STEPS} steps from {weights}"
    return folder / STAND_IN / PREVIOUS[phase] / CHECKPOINT, said


def config_of(checkpoint: Path) -> TrainConfig:
    """The configuration that a checkpoint was trained with; ValueError for one of another version."""
    try:
        return from_dict(TrainConfig, read_metadata(checkpoint)["config"])
    except (ValueError, KeyError) as error:
        words = f"is of another version of retina_kp ({error}): give it as init_from, or train it anew"
        raise ValueError(f"{checkpoint} {words}") from None


def _continued(phase: str, s: Settings, folder: Path) -> Plan:
    """A run as it was begun, with what the settings give now; the trainer refuses what may not change."""
    begun = read_state(folder / "state.pt")
    try:
        config = from_dict(TrainConfig, begun["config"])
    except ValueError as error:
        words = f"was begun by another version of retina_kp ({error}): take another run_name"
        raise ValueError(f"{folder} {words}") from None
    if s.recipe not in ("", config.recipe):
        words = f"was begun by recipe {config.recipe!r}, not {s.recipe!r}: leave recipe out, or take another run_name"
        raise ValueError(f"{folder} {words}")
    changed, files = of_scale(config, s), config.files
    if s.data_root or s.replay_root or s.real_share:
        given = replace(s, real_share=s.real_share or files.share, data_root=s.data_root or files.root)
        named = of_data(phase, changed, given, _trained_on_what_is_replayed(config))
        files = replace(files, root=named.files.root, share=named.files.share)
        changed = replace(changed, files=files, replay=named.replay)
    changed = replace(changed, files=with_given(files, s)) if files.root else changed
    start = str(find_weights(s.init_from).resolve()) if s.init_from else config.init_from
    said = f"its own, after step {begun['step']} of {changed.total_steps}"
    return Plan(phase, s, replace(changed, init_from=start), folder, said)


def _trained_on_what_is_replayed(config: TrainConfig) -> TrainConfig:
    """A configuration whose files are those that this one replays, as if of the run before."""
    files = replace(config.replay, share=1.0) if config.replay.root else FileOptions()
    return replace(config, phase="geometric", weights={}, files=files, replay=FileOptions())


def run_folder(phase: str, s: Settings) -> Path:
    """The folder of this run. ValueError for a begun run that is not to be continued, or when nothing says which."""
    if s.resume and not s.run_name:
        raise ValueError("resume = True needs run_name: which run of this notebook is to be continued?")
    folder = new_run_folder(NOTEBOOKS[phase], s.run_name, runs_root(s.runs_root), make=False)
    if (folder / "state.pt").is_file() and not s.resume:
        raise ValueError(f"{folder} holds a run already: set resume = True to continue it, or take another run_name")
    return folder


def find_checkpoint(phase: str, s: Settings) -> Path | None:
    """Checkpoint of a phase to build on: that of a run with our name, else the newest that went to its end, is no try
    and fits what the settings name. ValueError when the run with our name has not gone to its end."""
    folder = runs_root(s.runs_root) / NOTEBOOKS[phase]
    name = Path(s.run_name).name  # the runner gives the whole path
    if name and (named := folder / name / CHECKPOINT).is_file():
        step, total = read_metadata(named)["step"], config_of(named).total_steps
        if step < total:
            raise ValueError(f"{named.parent} has gone {step} of {total} steps: finish it first, or give init_from")
        return named
    wanted = s.replay_root if phase == "pke" else s.data_root
    for path in sorted(folder.glob(f"*/{CHECKPOINT}"), key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            step, config = read_metadata(path)["step"], config_of(path)
        except (ValueError, KeyError):  # of an older version, or damaged
            continue
        fits = step == config.total_steps and not config.shortfalls()
        fits &= s.network in ("", config.network) and s.recipe in ("", config.recipe)
        fits &= s.image_size in (0, config.size_px) or phase == "pke"  # phase 4 is larger by design
        if fits and (not wanted or folder_of(wanted) == config.files.root):
            return path
    return None


def _train_stand_in(config: TrainConfig, folder: Path, device: str) -> None:
    """A few steps of the previous phase on synthetic pairs; of all phases before where no weights are shipped."""
    previous = list(PHASES)[: list(PHASES).index(config.phase)]
    start = SHIPPED / f"{config.network}.safetensors" if config.network in SHIPPED_NETWORKS else ""
    rate = {"learning_rate": 0.3 * rate_of(config.network), "rise_steps": 4, "weights": {}}
    rate |= {"epochs": 1, "steps_per_epoch": STAND_IN_STEPS, "validation_pairs": 0}
    for phase in previous[-1:] if start else previous:
        data = replace(config.data, frames_per_retina=1 if PHASES[phase].pke else 0)
        pairs = {"data": data, "files": FileOptions(), "replay": FileOptions()}
        short = replace(config, phase=phase, init_from=str(start), **rate, **pairs)
        Trainer(short, folder / STAND_IN / phase, device).fit()
        start = folder / STAND_IN / phase / CHECKPOINT


def pke_run(run: str, s: Settings, folder: Path) -> tuple[Path, str]:
    """The folder of the PKE run to diagnose, and a sentence about it. A stand-in is trained where none is given."""
    if run:
        return in_project(run), f"diagnosed: {run}"
    stand_in = plan("pke", replace(s, run_name=str(folder / STAND_IN / "pke"), resume=True))
    stand_in.open().fit()
    steps = f"{stand_in.config.total_steps} steps, too few to judge the method by"
    return stand_in.folder, f"STAND-IN for a run of {NOTEBOOKS['pke']}: {steps}; weights: {stand_in.start}"


def train(trainer: Trainer, log_to_tensorboard: bool = False, processes: int = 1) -> list[dict]:
    """Fit with a live figure and a line per epoch, here or in several processes of their own; returns the history."""
    figure = live_figure([loss.name for loss in trainer.config.losses])
    board, trained = tensorboard(trainer.run_dir) if log_to_tensorboard else None, []

    def on_epoch(history: list[dict]) -> None:
        figure(history)
        print(in_short(history[-1]))
        if board:
            board(history)
        trained.append(len(history))

    if processes > 1:
        kind = "cpu" if trainer.device.type == "cpu" else "cuda"
        config_file = write_json(trainer.run_dir / "config.json", to_dict(trainer.config))
        launch(config_file, trainer.run_dir, processes, kind, trainer.workers, on_epoch)
        trainer.resume()
    else:
        trainer.fit(on_epoch)
    if not trained:
        figure(trainer.history)
    return trainer.history


def phase_4_settings(namespace: Mapping) -> Settings:
    """The settings of notebook 04. Pseudo-real pairs stand in where they name no real ones and go on with no run."""
    s = read_settings(namespace)
    folder = new_run_folder(NOTEBOOKS["sim2real"], s.run_name, runs_root(s.runs_root), make=False)
    known = s.data_root or (s.run_name and (folder / "state.pt").is_file())
    return s if known else replace(s, data_root=pseudo_real_folder(8, 0))


def pseudo_real_folder(count: int, seed: int) -> str:
    """A folder of pseudo-real pairs, drawn once by each version of `pseudo_real`. The points of the last pair are in
    the wrong order on purpose: the annotation report has to find it."""
    folder = project_root() / "data" / "pseudo_real" / f"{count}_pairs_seed_{seed}"
    complete, drawn_by = folder / ".complete", hashlib.sha256(Path(pseudo_real.__file__).read_bytes()).hexdigest()
    if not complete.is_file() or complete.read_text() != drawn_by:
        pseudo_real.write_pseudo_real(folder, count, seed)
        points = sorted(folder.rglob("*_02.txt"))[-1]
        write_text(points, "\n".join(reversed(points.read_text().split("\n"))))
        write_text(complete, drawn_by)
    return str(folder)
