"""``python -m retina_kp.cli.train``: one phase from a file, a recipe, and the same under ``accelerate launch``."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
import yaml

from retina_kp.cli import train
from retina_kp.core.compute import code_version
from retina_kp.core.config import to_dict
from retina_kp.core.files import write_json
from retina_kp.evaluation import calibration
from retina_kp.evaluation.calibration import fit_steerers
from retina_kp.networks.checkpoints import find_weights, load_network, read_metadata
from retina_kp.synthetic.training_pairs import SyntheticOptions
from retina_kp.training.config import RECIPES, TrainConfig

TINY = TrainConfig(
    network_options={"width": 0.25, "descriptor_dim": 16},
    epochs=2,
    steps_per_epoch=1,
    batch_size=1,
    micro_batches=2,
    pool_size=1,
    extra_points=8,
    validation_pairs=1,
    data=SyntheticOptions(size_px=64),
)


@pytest.fixture
def config_file(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(to_dict(TINY)))
    return path


@pytest.fixture
def board(monkeypatch) -> list:
    """Stands in for monitoring.tensorboard: collects what it is called with."""
    calls, module = [], ModuleType("retina_kp.notebook.monitoring")

    def tensorboard(run_dir):
        calls.append(run_dir)
        return lambda history: calls.append(len(history))

    module.tensorboard = tensorboard
    monkeypatch.setitem(sys.modules, "retina_kp.notebook.monitoring", module)
    return calls


def refusal(capsys, *arguments) -> str:
    """What the command says as it ends with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        train.main(list(map(str, arguments)))
    assert ended.value.code == 2
    return capsys.readouterr().err


# ------------------------------------------------------------------ reading a file


def test_missing_fields_take_their_defaults(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("phase: geometric\nlearning_rate: 1.0e-5\ndata: {size_px: 128}\n")
    assert train.read_config(path) == TrainConfig(
        phase="geometric", learning_rate=1e-5, data=SyntheticOptions(size_px=128)
    )


def test_the_config_of_a_run_can_be_run_again(tmp_path):
    config = replace(TINY, learning_rate=1e-5, weight_decay=1e-07)  # JSON writes 1e-05, which YAML takes for text
    assert train.read_config(write_json(tmp_path / "config.json", to_dict(config))) == config


def test_the_example_of_the_readme_runs(tmp_path):
    """As it stands it is read, and made tiny it trains superretina, its precision included."""
    text = (
        (Path(__file__).resolve().parents[1] / "notebooks" / "README.md")
        .read_text(encoding="utf-8")
        .split("```yaml\n")[1]
        .split("```")[0]
    )
    (tmp_path / "run.yaml").write_text(text)
    config = train.read_config(tmp_path / "run.yaml")
    assert (config.network, config.precision, config.data.size_px, config.files.size_px) == (
        "superretina",
        "bf16",
        768,
        768,
    )
    tiny = yaml.safe_load(text) | {
        "epochs": 1,
        "steps_per_epoch": 1,
        "batch_size": 1,
        "pool_size": 1,
        "validation_pairs": 1,
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny | {"data": {"size_px": 64}}))
    train.main(["--config", str(tmp_path / "tiny.yaml"), "--run-dir", str(tmp_path / "run"), "--device", "cpu"])
    about = read_metadata(tmp_path / "run" / "checkpoint.safetensors")
    assert (about["network"], about["phase"], about["step"]) == ("superretina", "warmup", 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat: 0.1", "run.yaml: learning_rat: TrainConfig has no such field; did you mean learning_rate?"),
        ("pke: {max_new_point: 3}", "pke.max_new_point: PkeOptions has no such field; did you mean max_new_points?"),
        ("epochs: many", "epochs: takes int, got 'many'"),
        ("learning_rate: 1e-3", "write 1.0e-3"),
        ("phase: warm", "there are warmup, geometric"),
        ("- 1", "TrainConfig: takes dict"),
        ("[", "run.yaml: while parsing"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, capsys, text, words):
    (tmp_path / "run.yaml").write_text(text)
    said = refusal(capsys, "--config", tmp_path / "run.yaml")
    assert words in said and "Traceback" not in said


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert "No such file" in refusal(capsys, "--config", tmp_path / "none.yaml")


# ------------------------------------------------------------------ the command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "required"),
        (("lite", "--config", "a.yaml"), "not allowed with"),
        (("heavy",), "choose from"),
        (("--config", "a.yaml", "--shorten", "0.5"), "--shorten belongs to a recipe"),
        (("--config", "a.yaml", "--device", "tpu"), "choose from"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(capsys, arguments, words):
    assert words in refusal(capsys, *arguments)


def test_cuda_that_is_not_there_is_not_replaced_by_the_cpu(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'cuda'.*no CUDA device"):
        train.main(["--config", str(config_file), "--run-dir", str(tmp_path), "--device", "cuda"])


def test_one_phase_is_trained_and_not_twice(config_file, tmp_path, board, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    train.main(["--config", str(config_file), "--device", "cpu", "--tensorboard"])
    folder = Path("outputs/runs/train-tiny")
    assert read_metadata(folder / "checkpoint.safetensors")["step"] == 2
    assert board == [folder, 1, 2] and "epoch 2/2" in caplog.text
    state = (folder / "state.pt").read_bytes()
    train.main(["--config", str(config_file), "--device", "cpu"])
    assert (folder / "state.pt").read_bytes() == state and board == [folder, 1, 2]


def test_only_the_main_process_monitors(config_file, tmp_path, board, monkeypatch):
    monkeypatch.setattr(train, "is_main", lambda: False)
    train.main(["--config", str(config_file), "--run-dir", str(tmp_path / "x"), "--device", "cpu", "--tensorboard"])
    assert board == []


def test_a_recipe_runs_its_phases_and_publishes_in_one_process(tmp_path, board, monkeypatch, capsys):
    published = []
    monkeypatch.setitem(RECIPES, "lite", {phase: replace(TINY, phase=phase) for phase in ("warmup", "geometric")})
    monkeypatch.setattr(train, "STAGES", ("warmup", "geometric"))
    monkeypatch.setitem(train.LAST, "lite", ())
    monkeypatch.setattr(train, "publish", lambda checkpoint, *rest: published.append(checkpoint) or {})
    arguments = ["lite", "--run-dir", str(tmp_path), "--device", "cpu", "--tensorboard"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        train.main(arguments)
    assert "one process" in capsys.readouterr().err and published == [] and not list(tmp_path.glob("1_*"))
    monkeypatch.delenv("WORLD_SIZE")
    train.main(arguments)
    assert published == [tmp_path / "2_geometric" / "checkpoint.safetensors"]
    assert [told for told in board if isinstance(told, Path)] == [tmp_path / "1_warmup", tmp_path / "2_geometric"]
    assert json.loads((tmp_path / "published.json").read_text())["recipe"] == "lite"


def test_a_short_run_of_the_recipe_goes_on_where_it_was_killed_and_leaves_the_shipped_weights_alone(
    tmp_path, monkeypatch
):
    """The stages of `lite` as they are but for size and number of steps; its trials are made up, minutes otherwise."""
    tiny = {"epochs": 1, "batch_size": 2, "pool_size": 3, "validation_pairs": 2, "precision": "fp32"}
    stages = {phase: replace(c, **tiny, data=replace(c.data, size_px=64)) for phase, c in RECIPES["lite"].items()}
    monkeypatch.setitem(RECIPES, "lite", stages)
    monkeypatch.setitem(
        train.LAST, "lite", [replace(c, **tiny, data=replace(c.data, size_px=64)) for c in train.LAST["lite"]]
    )
    evidence = [
        dict.fromkeys(("inliers", "settled_share", "inlier_share", "keypoint_share", "map_correlation"), k / 9)
        for k in range(10)
    ]
    told = {"expected_px": [k / 9 for k in range(10)], "errors_px": [0.5] * 10}
    made_up = [{"tried_px": 1.0 if k > 4 else 99.0, "evidence": e, **told} for k, e in enumerate(evidence)] * 3
    made_up = [row | {"method": method} for row in made_up for method in ("first", "again")]
    monkeypatch.setattr(calibration, "measure", lambda *a, **how: pd.DataFrame(made_up))
    monkeypatch.setattr(calibration, "fit_steerers", partial(fit_steerers, pairs=1))
    shipped, trained, phase = find_weights("lite").read_bytes(), [], train.train_phase

    def killed(config, run_dir, *rest, **how):
        if len(trained) == 2 and run_dir.name.startswith("3"):
            trained.append("killed")
            raise KeyboardInterrupt
        trained.append(run_dir.name)
        return phase(config, run_dir, *rest, **how)

    monkeypatch.setattr(train, "train_phase", killed)
    arguments = [
        "lite",
        "--shorten",
        "0.008",
        "--run-dir",
        str(tmp_path),
        "--device",
        "cpu",
        "--calibration-pairs",
        "1",
    ]
    with pytest.raises(KeyboardInterrupt):
        train.main(arguments)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/state.pt")}
    train.main(arguments)
    names = ["1_warmup", "2_geometric", "3_pke", "4_geometric"]
    assert trained == [*names[:2], "killed", *names] and len(before) == 2
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in names]
    assert [c["phase"] for c in configs] == [name[2:] for name in names] and {
        c["steps_per_epoch"] for c in configs
    } == {1, 2}
    assert [Path(c["init_from"]).parent.name for c in configs] == ["", *names[:-1]]
    header = read_metadata(tmp_path / "lite.safetensors")
    epochs = list(csv.DictReader((tmp_path / "history.csv").open(encoding="utf-8")))
    assert [(e["stage"], e["epoch"]) for e in epochs] == [(name, "1") for name in names] and all(
        float(e["total"]) > 0 for e in epochs
    )
    assert header["code"] == code_version() and header["recipe"] == "lite" and header["shortened_to"] == 0.008
    assert header["calibration_figures"]["again"]["right"] == 15 and len(header["bounds"]) == 2
    assert find_weights("lite").read_bytes() == shipped
    network, _ = load_network(tmp_path / "lite.safetensors")
    last, _ = load_network(tmp_path / "4_geometric" / "checkpoint.safetensors")
    assert network.steerers.shape == (4, 128, 128) and last.steerers is None
    assert all(
        torch.equal(v, last.state_dict()[k].half().float())
        for k, v in network.state_dict().items()
        if v.is_floating_point()
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_begins_with_the_weights_that_it_names(tmp_path, monkeypatch, name):
    begun = []
    monkeypatch.setattr(
        train, "train_phase", lambda config, *rest, **how: begun.append(config.init_from) or tmp_path / config.phase
    )
    train.run_recipe(name, tmp_path)
    first = "lite" if name == "finetune" else ""
    last = [str(tmp_path / "pke")] * len(train.LAST.get(name, ()))
    assert begun == [first, str(tmp_path / "warmup"), str(tmp_path / "geometric"), *last]


@pytest.mark.parametrize("share", ["0", "-1", "1.5"])
def test_a_fraction_that_is_none_is_refused(share, capsys):
    with pytest.raises(SystemExit):
        train.main(["lite", "--shorten", share])
    assert "--shorten: takes a fraction" in capsys.readouterr().err


def test_accelerate_launch_gives_what_one_process_gives(config_file, tmp_path):
    """Two processes on the CPU, found by their launcher; every line is logged once."""
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
        "-m",
        "retina_kp.cli.train",
        "--config",
        str(config_file),
        "--run-dir",
        str(tmp_path / "two"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 1/2") == done.stderr.count("warmup after 2 steps") == 1
    train.main(["--config", str(config_file), "--run-dir", str(tmp_path / "one"), "--device", "cpu"])
    one, two = (torch.load(tmp_path / name / "state.pt") for name in ("one", "two"))
    assert two["step"] == 2
    for name, wanted in one["network"].items():
        assert torch.allclose(two["network"][name].double(), wanted.double(), rtol=1e-3, atol=1e-3), name
