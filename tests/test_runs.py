"""The training notebooks' common ground: strict parameters, what a run builds on, recipes, all four in a chain."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from retina_kp.core.compute import worker_pool
from retina_kp.core.config import from_dict, to_dict
from retina_kp.networks import NETWORKS, build_network
from retina_kp.networks.checkpoints import SHIPPED, save_network
from retina_kp.notebook import report, runs
from retina_kp.notebook.runs import Settings, find_checkpoint, plan, training_config
from retina_kp.synthetic.pairs import write_aligned_folder
from retina_kp.training.config import RATES, RECIPES, get_recipe, rate_of
from retina_kp.training.losses import PHASES
from retina_kp.training.processes import REASON, read_history, write_state
from retina_kp.training.settings import check_parameters
from retina_kp.training.trainer import Trainer

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
FULL = yaml.safe_load((NOTEBOOKS / "params" / "full.yaml").read_text(encoding="utf-8"))
DEFAULTS = {phase: report.notebook_parameters(NOTEBOOKS / f"{stem}.ipynb") for phase, stem in runs.NOTEBOOKS.items()}
OWN = "epochs = 2  # how many\nrun_name = ''  # of the folder"
TINY = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 2, "image_size": 64, "pool_size": 2, "validation_pairs": 2}


def settings(**changes) -> Settings:
    return Settings(**changes)


def config_of(phase: str, before=None, **changes):
    roots = {"data_root": "x"} if phase == "sim2real" else {}  # phase 4 has real pairs
    return training_config(phase, Settings(**roots | changes), before)


# ------------------------------------------------------------------ parameters


@pytest.mark.parametrize("phase", runs.NOTEBOOKS)
def test_a_notebooks_parameters_are_settings_and_few(phase):
    s = runs.read_settings(DEFAULTS[phase])
    assert to_dict(s).items() >= DEFAULTS[phase].items() and s == Settings(), "the defaults leave all to the recipe"
    assert len(DEFAULTS[phase]) <= 15
    taken = report.accepted_parameters(NOTEBOOKS / f"{runs.NOTEBOOKS[phase]}.ipynb")
    assert set(taken) == set(to_dict(Settings())), "the rest is taken by -p and -f"


@pytest.mark.parametrize("phase", runs.NOTEBOOKS)
def test_full_scale_fits_every_notebook(phase):
    s = from_dict(Settings, FULL | ({"data_root": "x"} if phase == "sim2real" else {}))
    config = training_config(phase, s)
    assert (
        config.data.size_px == 768
        and config.epochs == {"warmup": 20, "geometric": 20, "pke": 60, "sim2real": 40}[phase]
    )
    assert config.network == "superretina" and 0 < config.learning_rate <= 1e-4 and not config.shortfalls()


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("# Parameters\nepoch = 3\n", "no parameter 'epoch' here; did you mean 'epochs'?"),
        ("# Parameters\nzzz = 3\n", "no parameter 'zzz' here; there are epochs, run_name, recipe"),
    ],
)
def test_what_papermill_injects_must_be_a_parameter(injected, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        runs.read_settings(DEFAULTS["warmup"] | {"In": ["", "import os", OWN, injected, "settings = ..."]})


SHOWN = 'fixed = ""  # image\nbaselines = []\nturn_deg = 60.0\n'


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        (
            "fixed = 1",
            "fixed: takes str, got 1; text that looks like a number is quoted: with papermill -y 'fixed: \"1\"'",
        ),
        ("fixed = 1e5", "-y 'fixed: \"100000.0\"'"),
        (
            'baselines = "SIFT"',
            "baselines: takes list, got 'SIFT'; a list is written in brackets: with papermill -y 'baselines: [SIFT]'",
        ),
        ("fixd = ''", "no parameter 'fixd' here; did you mean 'fixed'?"),
    ],
)
def test_notebooks_without_settings_name_the_parameter_and_the_remedy(injected, message):
    namespace = {}
    exec(f"{SHOWN}{injected}", namespace)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_parameters(namespace | {"In": ["", SHOWN, f"# Parameters\n{injected}\n"]})


def test_parameters_of_the_right_type_pass():
    injected = '# Parameters\nfixed = "001"\nturn_deg = 3\n'
    check_parameters({"fixed": "001", "turn_deg": 3, "In": ["", SHOWN, injected, "check_parameters(globals())"]})
    check_parameters({"In": [SHOWN, "check_parameters(globals())"]})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("weights", '{"loss_mov": 0}', {"loss_mov": 0}),
        ("mode", '["cffa", "cfoct"]', ["cffa", "cfoct"]),
        ("mode", "cffa,cfoct", "cffa,cfoct"),
    ],
)
def test_lists_as_plain_papermill_hands_them_over(name, text, value):
    s = runs.read_settings(DEFAULTS["geometric"] | {name: text})
    assert getattr(s, name) == value and (name != "mode" or s.modes == ("cffa", "cfoct"))
    with pytest.raises(ValueError, match="weights: .* is no JSON"):
        runs.read_settings(DEFAULTS["geometric"] | {"weights": "{loss_mov"})


def test_parameters_that_the_notebook_does_not_show_may_be_injected():
    namespace = DEFAULTS["warmup"] | {"workers": 5, "In": ["", OWN, "# Parameters\nworkers = 5\n"], "later": 1}
    assert runs.read_settings(namespace).workers == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": "3"}, "epochs: takes int, got '3'"),
        ({"resume": 1}, "resume: takes bool"),
        ({"weights": 2.0}, "weights: takes dict"),
        ({"mode": 3}, "mode: takes"),
    ],
)
def test_a_wrong_type_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        runs.read_settings(DEFAULTS["pke"] | changes)


@pytest.mark.parametrize("mode", ["cffa", ["cffa"], ["cffa", "cfoct"]])
def test_mode_is_a_name_or_several(mode):
    config = config_of("warmup", data_root="x", mode=mode)
    assert config.files.mode == (("cffa", "cfoct") if len(mode) == 2 else ("cffa",))
    assert report.typed("cffa, cfoct", []) == ["cffa", "cfoct"] and report.typed('["cffa"]', []) == ["cffa"]


# ------------------------------------------------------------------ recipes


def test_there_is_one_recipe_and_the_shipped_weights_tell_of_it():
    """The stages that the model card names, as the notebooks read them."""
    lite = RECIPES["lite"]
    assert [(c.total_steps, c.seed, c.pool_size) for c in lite.values()][:3] == [
        (500, 0, 1200),
        (11000, 1, 1200),
        (1000, 2, 300),
    ]
    with open(SHIPPED / "lite.csv", encoding="utf-8", newline="") as file:
        log = list(csv.DictReader(file))
    for place, config in enumerate(list(lite.values())[:3], 1):
        own = [row for row in log if row["stage"] == f"{place}_{config.phase}"]
        assert len(own) == config.epochs and int(own[-1]["step"]) == config.total_steps
        assert max(float(row["learning_rate"]) for row in own) == pytest.approx(config.learning_rate, rel=0.2)
    for phase in PHASES:
        assert config_of(phase, recipe="lite").losses == lite[phase].losses
    assert [loss.name for loss in lite["geometric"].losses] == ["loss_det", "loss_des", "loss_geo", "loss_mov"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_complete(name):
    recipe = get_recipe(name)
    assert list(recipe) == list(PHASES) and all(c.phase == phase and c.recipe == name for phase, c in recipe.items())
    assert all(bool(c.shortfalls()) == (name == "try") for c in recipe.values())


def test_every_network_has_a_rate_and_keeps_it():
    assert set(RATES) == set(NETWORKS) and rate_of("one of my own") == min(RATES.values())
    assert config_of("warmup", recipe="full").learning_rate == 1e-4
    assert config_of("warmup", recipe="lite", network="superretina").learning_rate == pytest.approx(1e-4)
    assert config_of("warmup", recipe="full", network="lite").learning_rate == pytest.approx(1e-3)
    assert config_of("warmup", recipe="lite", network="superretina", learning_rate=3e-4).learning_rate == 3e-4
    before = config_of("warmup", recipe="lite", network="superretina")
    for given in ({}, {"network": "superretina"}, {"recipe": "lite"}):
        assert config_of("geometric", before, **given).network == "superretina", (
            "the next phase has the network of the one before"
        )
        assert config_of("geometric", before, **given).learning_rate == pytest.approx(1e-4)
        assert config_of("pke", before, **given).learning_rate == pytest.approx(3e-5)


def test_small_images_show_less_and_large_ones_are_not_blurred():
    zooms = [config_of("warmup", image_size=size).data.zoom for size in (64, 256, 768)]
    assert zooms[0][0] == pytest.approx(0.304) and zooms[1] == (0.38, 1.5) and zooms[2] == pytest.approx((1.14, 2.28))


def test_weights_go_to_the_phases_that_have_the_loss():
    given = {"loss_geo": 1.0, "loss_explore": 0.0}
    assert config_of("warmup", weights=given).weights == {}
    assert config_of("geometric", weights=given).weights == {"loss_geo": 1.0}
    assert "loss_explore" not in [loss.name for loss in config_of("sim2real", weights=given).losses]
    with pytest.raises(ValueError, match="no loss is called 'loss_geometric'; there are loss_des, "):
        config_of("warmup", weights={"loss_geometric": 1.0})


def test_half_of_the_junctions_are_hidden_in_a_try_only():
    tried, real = config_of("pke"), config_of("pke", epochs=60, steps_per_epoch=50, image_size=256, pool_size=100)
    assert (tried.data.annotated_share, real.data.annotated_share) == (0.5, 1.0) and not real.shortfalls()
    assert config_of("pke", annotated_share=0.7).data.annotated_share == 0.7
    assert (tried.data.round_share, config_of("pke", round_share=0.5).data.round_share) == (0.0, 0.5)


# ------------------------------------------------------------------ folders


def test_one_folder_is_one_folder_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "big" / "mine").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "big")
    monkeypatch.chdir(tmp_path)
    names = ("data/mine", str(tmp_path / "data" / "mine"), "big/../data/mine", str(tmp_path / "big" / "mine"))
    assert {config_of("warmup", data_root=name).files.root for name in names} == {
        str((tmp_path / "big" / "mine").resolve())
    }


def test_what_is_said_of_files_reaches_inherited_folders(tmp_path):
    before = config_of("geometric", data_root="/aligned", mode="cffa")
    files = config_of("pke", before, prealign=True, max_residual_px=9.0, layout="pairs_csv", mode="cfoct").files
    assert (files.root, files.prealign, files.max_residual_px, files.layout, files.mode) == (
        "/aligned",
        True,
        9.0,
        "pairs_csv",
        ("cfoct",),
    )


def test_phases_1_to_3_train_on_files_alone_and_phase_4_replays_what_they_were_trained_on():
    before = config_of("pke", data_root="/aligned", mode="cffa")
    assert before.files.share == 1.0 and before.synthetic_share == 0
    config = config_of("sim2real", before, data_root="/real")
    assert (config.files.root, config.files.share) == ("/real", 0.8)
    assert (config.replay.root, config.replay.share, config.replay.mode) == ("/aligned", 0.2, ("cffa",))
    assert config.synthetic_share == 0 and config.files.mode == ()
    named = config_of("sim2real", before, data_root="/real", replay_root="/aligned")
    assert named.replay == config.replay, "the same folder by name keeps its kinds"
    other = config_of("sim2real", before, data_root="/real", replay_root="/else", real_share=0.6)
    assert (other.replay.root, other.replay.share) == ("/else", 0.4)
    drawn = config_of("sim2real", before, data_root="/real", replay_root="synthetic")
    assert drawn.replay.share == 0 and drawn.synthetic_share == pytest.approx(0.2)
    alone = config_of("sim2real", before, data_root="/real", real_share=1.0)
    assert alone.replay.share == alone.synthetic_share == 0 and alone.replay.root == "/aligned", "watched all the same"


def test_phase_4_needs_real_pairs():
    for changes in ({"real_share": 1.2, "data_root": "x"}, {"data_root": ""}, {"data_root": "synthetic"}):
        with pytest.raises(ValueError, match="phase 4 needs a folder of real pairs, and a share"):
            config_of("sim2real", **changes)


# ------------------------------------------------------------------ what a run builds on


def test_a_begun_run_is_continued_only_when_asked(tmp_path):
    s = settings(run_name="a", runs_root=str(tmp_path))
    folder = runs.run_folder("geometric", s)
    assert folder == tmp_path / "02_geometric" / "a" and not folder.exists(), "named, not made"
    folder.mkdir(parents=True)
    (folder / "state.pt").touch()
    with pytest.raises(ValueError, match="set resume = True"):
        runs.run_folder("geometric", s)
    assert runs.run_folder("geometric", replace(s, resume=True)) == folder
    with pytest.raises(ValueError, match="resume = True needs run_name"):
        runs.run_folder("geometric", replace(s, resume=True, run_name=""))


def write_checkpoint(
    root: Path, name: str, age: int, phase="warmup", steps: int = 500, init_from="", config=None, **changes
) -> Path:
    """A checkpoint as a run of 500 steps at 256 px leaves it."""
    path = root / runs.NOTEBOOKS[phase] / name / "checkpoint.safetensors"
    scale = {"recipe": "lite", "epochs": 5, "steps_per_epoch": 100, "image_size": 256}
    config = config or to_dict(replace(config_of(phase, **scale | changes), init_from=init_from))
    save_network(path, build_network("lite", width=0.25), {"phase": phase, "step": steps, "config": config})
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_the_newest_real_run_is_built_upon(tmp_path):
    s = settings(runs_root=str(tmp_path))
    assert find_checkpoint("warmup", s) is None
    write_checkpoint(tmp_path, "older", 90)
    right = write_checkpoint(tmp_path, "right", 80)
    write_checkpoint(tmp_path, "interrupted", 70, steps=400)
    write_checkpoint(tmp_path, "few steps", 60, epochs=1, steps=100)
    write_checkpoint(tmp_path, "small", 50, image_size=160)
    write_checkpoint(tmp_path, "few retinas", 40, pool_size=4)
    write_checkpoint(
        tmp_path, "on a stand-in", 30, init_from=str(tmp_path / "stand_in" / "warmup" / "checkpoint.safetensors")
    )
    write_checkpoint(tmp_path, "of another version", 20, config={"detector_weight": 1.0})
    assert find_checkpoint("warmup", s) == right
    with pytest.raises(ValueError, match="gone 400 of 500 steps: finish it first"):
        find_checkpoint("warmup", replace(s, run_name="interrupted"))
    with pytest.raises(ValueError, match="of another version of retina_kp .*detector_weight"):
        find_checkpoint("warmup", replace(s, run_name="of another version"))
    assert find_checkpoint("warmup", replace(s, network="superretina")) is None
    assert find_checkpoint("warmup", replace(s, image_size=384)) is None
    for name in ("older", "small", str(tmp_path / "02_geometric" / "older")):  # as a user and as the runner gives it
        assert find_checkpoint("warmup", replace(s, run_name=name)).parent.name == Path(name).name


def test_the_users_own_command_goes_on_at_the_scale_and_on_the_data_of_the_run_before(tmp_path):
    """papermill 03_pke.ipynb out.ipynb -p epochs 60"""
    scale = {"image_size": 320, "batch_size": 3, "pool_size": 77, "data_root": "/aligned", "mode": "cffa"}
    before = write_checkpoint(tmp_path, "mine", 10, "geometric", **scale)
    found = plan("pke", settings(epochs=60, runs_root=str(tmp_path)))
    c = found.config
    assert c.init_from == str(before) and not c.shortfalls() and c.recipe == "lite"
    assert (c.epochs, c.steps_per_epoch, c.size_px, c.batch_size, c.pool_size) == (60, 100, 320, 3, 77)
    assert (c.files.root, c.files.share, c.files.mode) == ("/aligned", 1.0, ("cffa",))
    assert "A TRY" not in repr(found) and "500 steps of 02_geometric" in repr(found) and "100% /aligned" in repr(found)
    other = plan("pke", settings(data_root="/elsewhere", runs_root=str(tmp_path)))
    assert "STAND-IN" in other.start, "a run on other data is no run of this data's phase 2"
    drawn = plan("pke", settings(data_root="synthetic", runs_root=str(tmp_path)))
    assert "STAND-IN" in drawn.start and drawn.config.files.share == 0


def test_with_nothing_to_build_on_the_first_line_says_a_try_and_no_later_phase_takes_it(tmp_path):
    found = plan("pke", settings(epochs=60, runs_root=str(tmp_path)))
    assert found.config.total_steps == 300 and found.config.size_px == 160
    first = found.words()[0]
    assert (
        first.startswith("A TRY, no training: images of 160 px")
        and "4 synthetic retinas" in first
        and "stand-in" in first
    )
    assert repr(found).startswith("A TRY") and "<b>A TRY" in found._repr_html_()
    save_network(
        found.folder / "checkpoint.safetensors",
        build_network("lite", width=0.25),
        {"step": 300, "config": to_dict(found.config)},
    )
    assert find_checkpoint("pke", settings(runs_root=str(tmp_path))) is None


def test_what_is_begun_from_a_try_is_a_try(tmp_path):
    write_checkpoint(tmp_path, "mine", 10, "geometric", steps=20, epochs=4, steps_per_epoch=5)
    large = {"run_name": "mine", "epochs": 60, "steps_per_epoch": 100, "image_size": 256, "pool_size": 100}
    found = plan("pke", settings(runs_root=str(tmp_path), **large))
    assert found.words()[0].startswith("A TRY, no training: begun from a try")


def test_a_larger_phase_4_builds_on_a_phase_3_of_any_size(tmp_path):
    before = write_checkpoint(tmp_path, "mine", 10, "pke")
    for size in (0, 384, 256):
        c = plan("sim2real", settings(data_root="/real", image_size=size, runs_root=str(tmp_path))).config
        assert c.init_from == str(before) and c.size_px == (size or 384)


def test_a_run_without_a_recipe_keeps_its_scale(tmp_path):
    """One that was trained from a run.yaml."""
    before = replace(config_of("warmup", recipe="lite", batch_size=3, image_size=320, pool_size=66), recipe="")
    c = config_of("geometric", before)
    assert (c.recipe, c.batch_size, c.size_px, c.pool_size) == ("lite", 3, 320, 66)


def test_phase_4_replays_the_folder_of_the_run_it_builds_on(tmp_path):
    write_checkpoint(tmp_path, "mine", 10, "pke", data_root="/aligned")
    c = plan("sim2real", settings(data_root="/real", runs_root=str(tmp_path))).config
    assert (c.files.root, c.replay.root, c.replay.share) == ("/real", "/aligned", 0.2)
    assert c.size_px == c.replay.size_px == c.data.size_px == 384, "the recipe's own, which the run before kept to"


def test_weights_can_be_named(tmp_path):
    s = settings(init_from="lite", runs_root=str(tmp_path))
    found = plan("geometric", s)
    assert found.config.init_from == str(SHIPPED / "lite.safetensors") and found.start == "lite, as asked"
    with pytest.raises(FileNotFoundError):
        plan("geometric", replace(s, init_from="no/such/file"))
    fresh = plan("warmup", settings(runs_root=str(tmp_path)))
    assert (fresh.config.init_from, fresh.start) == ("", "random ones")


def test_the_recipe_for_ones_own_folders_begins_with_the_shipped_weights(tmp_path):
    """In phase 1, in phase 4 alone, and from phase to phase where there is one to build on."""
    s = settings(recipe="finetune", runs_root=str(tmp_path))
    for phase, roots in (("warmup", {}), ("sim2real", {"data_root": "/real"})):
        found = plan(phase, replace(s, **roots))
        assert found.config.init_from == str(SHIPPED / "lite.safetensors") and found.start == "lite, as the recipe says"
        assert not found.config.shortfalls()
    before = write_checkpoint(tmp_path, "mine", 10, "pke", recipe="finetune")
    assert plan("sim2real", replace(s, data_root="/real")).config.init_from == str(before)
    fresh = plan("sim2real", settings(recipe="lite", data_root="/real", runs_root=str(tmp_path / "none")))
    assert "STAND-IN" in fresh.start


def test_a_stand_in_is_trained_and_a_continued_run_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "STAND_IN_STEPS", 1)
    s = settings(runs_root=str(tmp_path), run_name="a", resume=True, **TINY)
    first = plan("geometric", s)
    assert first.start.startswith("a STAND-IN for 01_warmup") and not first.folder.exists(), "nothing is trained yet"
    first.open().fit()
    assert (
        Path(first.config.init_from).is_relative_to(first.folder / "stand_in")
        and Path(first.config.init_from).is_file()
    )
    again = plan("geometric", s)
    assert again.config == first.config and again.start == "its own, after step 2 of 2"
    assert plan("geometric", settings(runs_root=str(tmp_path), run_name="a", resume=True)).config == first.config, (
        "as it was begun"
    )


def test_a_continued_run_keeps_its_weights_and_refuses_others(tmp_path):
    s = settings(runs_root=str(tmp_path), run_name="a", resume=True, **TINY)
    plan("warmup", s).open().fit()
    with pytest.raises(ValueError, match="init_from: '' → '.*lite.safetensors'"):
        plan("warmup", replace(s, init_from="lite")).open().fit()
    with pytest.raises(ValueError, match="learning_rate: 0.002 → 0.001"):
        plan("warmup", replace(s, learning_rate=0.001)).open().fit()
    with pytest.raises(ValueError, match="was begun by recipe 'try', not 'lite'"):
        plan("warmup", replace(s, recipe="lite"))
    halved = plan("warmup", replace(s, batch_size=1, micro_batches=2, epochs=1)).open()
    assert halved.resume(), "the same pairs a step, in other portions"


def test_a_run_of_another_version_is_told_as_such(tmp_path):
    s = settings(runs_root=str(tmp_path), run_name="a", resume=True)
    (tmp_path / "01_warmup" / "a").mkdir(parents=True)
    write_state(
        tmp_path / "01_warmup" / "a" / "state.pt", {"config": {"phase": "warmup", "detector_weight": 1.0}, "step": 3}
    )
    with pytest.raises(
        ValueError, match="a was begun by another version of retina_kp .*detector_weight.* take another run_name"
    ):
        plan("warmup", s)


def test_phase_4_goes_on_with_the_same_words(tmp_path):
    write_aligned_folder(tmp_path / "眼 aligned", 3, size_px=96)
    real = runs.pseudo_real_folder(8, 0)
    s = settings(
        runs_root=str(tmp_path / "runs"),
        run_name="a",
        resume=True,
        data_root=real,
        init_from="lite",
        replay_root=str(tmp_path / "眼 aligned"),
        **TINY | {"batch_size": 5},
    )
    first = plan("sim2real", s)
    trainer = first.open()
    trainer.fit()
    assert plan("sim2real", s).config == first.config
    assert plan("sim2real", settings(runs_root=s.runs_root, run_name="a", resume=True)).config == first.config
    row = trainer.history[-1]
    assert {"gt_matched_right", "replay_gt_matched_right", "replay_repeatability"} <= set(row)
    assert len(trainer.replay.validation) >= 1 and trainer.replay.counts()[0]["kind"] == "CF–FA"
    write_aligned_folder(tmp_path / "other", 3, size_px=96)
    with pytest.raises(ValueError, match="replay.root: .*aligned' → .*other'"):
        plan("sim2real", replace(s, replay_root=str(tmp_path / "other"))).open().fit()


# ------------------------------------------------------------------ several processes


def test_two_processes_of_a_notebook_take_the_steps_of_one(tmp_path):
    config = config_of("warmup", **TINY | {"micro_batches": 2, "batch_size": 1, "epochs": 2})
    folders = (tmp_path / "two", tmp_path / "one")
    for folder in folders:
        folder.mkdir()
    trainers = [Trainer(config, folder) for folder in folders]
    histories = [runs.train(trainer, processes=n) for trainer, n in zip(trainers, (2, 1), strict=True)]
    assert [[row["step"] for row in history] for history in histories] == [[2, 4]] * 2
    # float32; test_scale compares in float64
    assert histories[0][0]["total"] == pytest.approx(histories[1][0]["total"], rel=0.02)
    assert [row["epoch"] for row in read_history(folders[0] / "history.csv")] == [1, 2]
    assert trainers[0].step_index == 4


def test_processes_that_fail_say_why(tmp_path):
    trainer = Trainer(config_of("warmup", **TINY), tmp_path)
    words = r"2 processes failed \(exit code 1\): ValueError: .* cannot be shared out among 2 processes.*launch\.log"
    with pytest.raises(RuntimeError, match=words):
        runs.train(trainer, processes=2)


@pytest.mark.parametrize(
    "line",
    [
        "retina_kp.training.objective.TrainingStopped: the fixed detector has gone silent",
        "[rank1]: retina_kp.core.images.ImageError: a.png is damaged",
        "ValueError: no such folder",
    ],
)
def test_the_reason_of_processes_that_fail_is_their_last_line(line):
    said = f"Traceback (most recent call last):\n  File x\n{line}\nroot cause of the launcher"
    (reason,) = re.findall(REASON, said, re.MULTILINE)
    assert line.endswith(reason) and reason.split(":")[0] in ("TrainingStopped", "ImageError", "ValueError")


POOL = """
import os, time
from retina_kp.core.compute import worker_pool
if __name__ == "__main__":
    with worker_pool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


def test_an_error_drops_the_jobs_that_have_not_begun(tmp_path):
    with pytest.raises(ZeroDivisionError), worker_pool(1) as pool:
        jobs = [
            pool.submit(time.sleep, 0.2),
            pool.submit(divmod, 1, 0),
            *(pool.submit(Path.touch, tmp_path / str(k)) for k in range(40)),
        ]
        jobs[1].result()
    assert len(list(tmp_path.iterdir())) < 40 and jobs[-1].cancelled()
    with pytest.raises(ValueError, match="whole number from 1, not 0"), worker_pool(0):
        pass


def test_a_pools_worker_ends_with_its_killed_parent(tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    env = os.environ | {"PYTHONPATH": str(NOTEBOOKS.parent)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "pool.py")], stdout=subprocess.PIPE, text=True, env=env)
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)  # alive
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not running(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlives its parent")


def running(pid: int) -> bool:
    """Whether a process is there and no zombie that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
