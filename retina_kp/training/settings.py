"""The parameters of the training notebooks, and the configuration of a run that they stand for."""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import TypeVar

from ..core.config import from_dict
from ..core.files import in_project
from ..data.training_files import FileOptions
from ..networks import NETWORKS
from .config import REAL_SHARE, TrainConfig, framed, get_recipe, rate_of, sized
from .losses import PHASES

SYNTHETIC = "synthetic"  # as a folder's name: no folder, but synthetic pairs
SCALE = ("epochs", "steps_per_epoch", "batch_size", "micro_batches", "precision", "pool_size", "validation_pairs")
S = TypeVar("S")


@dataclass(frozen=True)
class Settings:
    """The parameters of a training notebook: its parameters cell and the rest, which `-p` and `-f` take as well. 0 and
    "" stand for what the recipe says, or the run that is built on."""

    recipe: str = ""
    epochs: int = 0
    steps_per_epoch: int = 0
    batch_size: int = 0
    image_size: int = 0
    learning_rate: float = 0.0
    network: str = ""
    data_root: str = ""
    mode: str | list[str] = field(default_factory=list)
    device: str = "auto"
    init_from: str = ""
    run_name: str = ""
    resume: bool = False
    # phase 4
    replay_root: str = ""
    real_share: float = 0.0
    prealign: bool = False
    max_residual_px: float = 0.0
    clicked_anchor_px: float = 0.0
    # PKE
    min_probability: float = 0.0
    content_ratio_max: float = 0.0
    max_new_points: int = 0
    annotated_share: float = 0.0
    # the rest
    round_share: float = 0.0  # of synthetic pairs, of round eyes
    layout: str = ""
    weights: dict[str, float] = field(default_factory=dict)
    extra_points: int = -1  # -1 takes the recipe's
    micro_batches: int = 0
    pool_size: int = 0
    validation_pairs: int = 0
    precision: str = ""
    processes: int = 1
    workers: int = 0
    seed: int = -1
    runs_root: str = ""
    tensorboard: bool = False

    @property
    def modes(self) -> tuple[str, ...]:
        """The kinds of pairs, of a list or of a text with commas between."""
        names = self.mode.split(",") if isinstance(self.mode, str) else self.mode
        return tuple(name.strip() for name in names if name.strip())


def read_settings(namespace: Mapping, kind: type[S] = Settings) -> S:
    """The settings among a notebook's variables. ValueError names one of the wrong type, or an unknown one that
    papermill has injected."""
    known = [f.name for f in fields(kind)]
    _check_names(namespace, known)
    return from_dict(kind, {name: _parsed(name, namespace[name]) for name in known if name in namespace})


def check_parameters(namespace: Mapping) -> None:
    """ValueError for a variable of a notebook without settings that plain papermill has injected under an unknown name,
    or in another type than its default: papermill takes 001 and 1e5 for numbers."""
    for own, injected in _check_names(namespace):
        defaults = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(own).body}
        kinds = [(name, type(default), field(default=None)) for name, default in defaults.items()]
        given = {name: namespace[name] for name in _assigned(injected)}
        from_dict(make_dataclass("Parameters", kinds), given)


def _check_names(namespace: Mapping, known: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The parameters cells that papermill has put one of its own behind, both as text, once their names are known."""
    cells = list(namespace.get("In", ()))
    pairs = [(own, after) for own, after in zip(cells, cells[1:], strict=False) if after.startswith("# Parameters")]
    for own, injected in pairs:
        for name in _assigned(injected):
            if name not in (allowed := dict.fromkeys([*_assigned(own), *known])):
                near = difflib.get_close_matches(name, allowed, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(allowed)}"
                raise ValueError(f"no parameter {name!r} here; {hint}")
    return pairs


def _parsed(name: str, value):
    """A list or dict that plain papermill hands over as the text it was given."""
    if name not in ("mode", "weights") or not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value[:1] in ("[", "{") else value
    except ValueError as error:
        raise ValueError(f"{name}: {value!r} is no JSON ({error})") from None


def _assigned(source: str) -> list[str]:
    nodes = ast.walk(ast.parse(source))
    return [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


# ------------------------------------------------------------------ the configuration they stand for


def training_config(phase: str, s: Settings, before: TrainConfig | None = None) -> TrainConfig:
    """The configuration of a new run; init_from is left open. before: of the run of the previous phase. Its network is
    kept; where the settings name no recipe, its recipe and scale, too; and its data, where they name no other.
    ValueError names what cannot be."""
    config = get_recipe(s.recipe or _recipe_of(before))[phase]
    if before and not s.recipe:
        own = get_recipe(before.recipe)[before.phase] if before.recipe else None
        changed = [k for k in SCALE if k != "epochs" and (not own or getattr(before, k) != getattr(own, k))]
        config = replace(config, **{k: getattr(before, k) for k in changed})
        if own is None or before.size_px != own.size_px:
            config = replace(config, data=sized(config.data, before.size_px))
    network = s.network or (before.network if before else "")
    config = of_data(phase, of_scale(config, replace(s, network=network)), s, before)
    if before and before.network == config.network:
        config = replace(config, network_options=before.network_options)
    if not config.shortfalls() and config.recipe == "try" and not s.annotated_share:
        config = replace(config, data=replace(config.data, annotated_share=1.0))  # only a try needs something to find
    return replace(config, built_on_try=bool(before and before.shortfalls()))


def _recipe_of(before: TrainConfig | None) -> str:
    """What a run was made from; of one without a recipe, the one that trains its network from nothing."""
    if before is None:
        return "try"
    return before.recipe or ("full" if before.network == "superretina" else "lite")


def _given(s: Settings, *names: str) -> dict:
    return {name: value for name in names if (value := getattr(s, name))}


def of_scale(config: TrainConfig, s: Settings) -> TrainConfig:
    """The configuration with what the settings give but for data. The learning rate suits the network."""
    network, same = s.network or config.network, s.network in ("", config.network)
    if network not in NETWORKS:
        raise ValueError(f"network: takes {' or '.join(NETWORKS)}, not {network!r}")
    suited = config.learning_rate if same else config.learning_rate * rate_of(network) / rate_of(config.network)
    given = _given(s, *SCALE, "clicked_anchor_px")
    given |= {name: getattr(s, name) for name in ("extra_points", "seed") if getattr(s, name) >= 0}
    given |= {"network": network, "network_options": config.network_options if same else {}}
    config = replace(config, learning_rate=s.learning_rate or suited, weights=_weights(config, s), **given)
    steps = {"rise_steps": min(config.rise_steps, max(config.total_steps // 5, 1))}
    steps["curriculum_steps"] = min(config.curriculum_steps, config.total_steps)
    data = sized(config.data, s.image_size) if s.image_size else config.data
    data, pke = (
        replace(data, **_given(s, "annotated_share", "round_share")),
        _given(s, "content_ratio_max", "max_new_points"),
    )
    if s.min_probability:
        pke |= dict.fromkeys(("candidate_min_probability", "pke_min_probability"), s.min_probability)
    return replace(config, data=data, pke=replace(config.pke, **pke), **steps)


def _weights(config: TrainConfig, s: Settings) -> dict[str, float]:
    """The given weights of losses that this phase has; ValueError for a loss that no phase has."""
    named = {phase: {loss.name for loss in PHASES[phase].losses} for phase in PHASES}
    known = sorted(set().union(*named.values()))
    if unknown := sorted(set(s.weights) - set(known)):
        raise ValueError(f"weights: no loss is called {unknown[0]!r}; there are {', '.join(known)}")
    return config.weights | {name: value for name, value in s.weights.items() if name in named[config.phase]}


def of_data(phase: str, config: TrainConfig, s: Settings, before: TrainConfig | None) -> TrainConfig:
    """The configuration with its folders: files alone in phases 1 to 3, in phase 4 beside what is replayed."""
    nothing = FileOptions(size_px=config.data.size_px, frames=framed(config.data.size_px, PHASES[phase].pke))
    kept = nothing  # what was trained on before
    if before and before.files.share:
        kept = replace(before.files, size_px=nothing.size_px, frames=nothing.frames)
    files = with_given(replace(nothing, root=folder_of(s.data_root)), s)
    if not PHASES[phase].real:
        files = with_given(kept, s) if not s.data_root and kept.root else files
        return replace(config, files=replace(files, share=1.0) if files.root else nothing, replay=nothing)
    share = s.real_share or REAL_SHARE
    if not files.root or not 0 < share <= 1:
        raise ValueError("data_root, real_share: phase 4 needs a folder of real pairs, and a share above 0 and up to 1")
    replay = replace(nothing, root=folder_of(s.replay_root), mode=s.modes)
    if kept.root and (not s.replay_root or replay.root == kept.root):
        replay = replace(kept, mode=s.modes or kept.mode)
    # with share 0 it is watched all the same
    replay = replace(replay, share=round(1 - share, 9)) if replay.root else nothing
    return replace(config, files=replace(files, share=share), replay=replay)


def with_given(files: FileOptions, s: Settings) -> FileOptions:
    """File options with what the settings say of how pairs are read."""
    given = _given(s, "layout", "prealign", "max_residual_px")
    return replace(files, **given, **({"mode": s.modes} if s.modes else {}))


def folder_of(root: str) -> str:
    """A folder as it is kept in configurations: one text per folder, however it was named."""
    return "" if root in ("", SYNTHETIC) else str(in_project(root).resolve())
