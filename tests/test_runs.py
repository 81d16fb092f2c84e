"""The training notebooks' common ground: strict parameters, run folders, starting weights, the full-scale file, all four in a chain."""

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

from retina_kp import chain, report, runs
from retina_kp.checkpoints import SHIPPED, save_network
from retina_kp.config import from_dict, to_dict
from retina_kp.networks import build_network
from retina_kp.processes import read_history, worker_pool
from retina_kp.trainer import Trainer

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
FULL = yaml.safe_load((NOTEBOOKS / "params" / "full.yaml").read_text(encoding="utf-8"))
DEFAULTS = {phase: report.notebook_parameters(NOTEBOOKS / f"{stem}.ipynb") for phase, stem in runs.NOTEBOOKS.items()}
OWN = "epochs = 2  # how many\nseed = 0  # of all"
TINY = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 2, "image_size": 64, "pool_size": 2, "validation_pairs": 2}
ROOTS = {phase: {"data_root": "x"} if phase == "sim2real" else {} for phase in runs.NOTEBOOKS}  # phase 4 has real pairs
PROMISED = {"01_warmup": 4, "02_geometric": 3, "03_pke": 3, "04_sim2real": 4}


def settings(phase: str = "geometric", **changes) -> runs.Settings:
    return replace(from_dict(runs.Settings, DEFAULTS[phase]), **changes)


# ------------------------------------------------------------------ parameters


@pytest.mark.parametrize("phase", runs.NOTEBOOKS)
def test_a_notebooks_parameters_are_settings(phase):
    s = runs.read_settings(DEFAULTS[phase] | ROOTS[phase])
    assert to_dict(s).items() >= (DEFAULTS[phase] | ROOTS[phase]).items()
    config = runs.training_config(phase, s)
    assert config.phase == phase and config.data.size_px == s.image_size


@pytest.mark.parametrize("phase", runs.NOTEBOOKS)
def test_full_scale_fits_every_notebook(phase):
    unknown = set(FULL) - set(DEFAULTS[phase])
    assert not unknown, f"notebooks/params/full.yaml has keys that {runs.NOTEBOOKS[phase]} does not know: {unknown}"
    wrong = {key: value for key, value in FULL.items() if type(value) is not type(DEFAULTS[phase][key])}
    assert not wrong, f"of another type than the notebook's default: {wrong}"
    config = runs.training_config(phase, settings(phase, **FULL | ROOTS[phase]))
    assert config.data.size_px == 768 and config.epochs == {"warmup": 20, "geometric": 20, "pke": 60, "sim2real": 40}[phase]
    assert 0 < config.learning_rate <= 1e-3


@pytest.mark.parametrize(("injected", "message"), [
    ("# Parameters\nepoch = 3\n", "no parameter 'epoch' here; did you mean 'epochs'?"),
    ("# Parameters\nzzz = 3\n", "no parameter 'zzz' here; there are epochs, seed"),
])  # fmt: skip
def test_what_papermill_injects_must_be_a_parameter(injected, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        runs.read_settings(DEFAULTS["warmup"] | {"In": ["", "import os", OWN, injected, "settings = ..."]})


def test_known_parameters_may_be_injected():
    namespace = DEFAULTS["warmup"] | {"seed": 5, "In": ["", OWN, "# Parameters\nseed = 5\n"], "later": 1}
    assert runs.read_settings(namespace).seed == 5


@pytest.mark.parametrize(("changes", "message"), [({"epochs": "3"}, "epochs: takes int, got '3'"), ({"resume": 1}, "resume: takes bool")])
def test_a_wrong_type_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        runs.read_settings(DEFAULTS["pke"] | changes)


def test_a_missing_parameter_is_named():
    with pytest.raises(ValueError, match="batch_size: Settings needs a value"):
        runs.read_settings({k: v for k, v in DEFAULTS["pke"].items() if k != "batch_size"})


def test_small_images_show_less_and_large_ones_are_not_blurred():
    zooms = [runs.training_config("warmup", settings("warmup", image_size=size)).data.zoom for size in (64, 256, 768)]
    assert zooms[0][0] == pytest.approx(0.304) and zooms[1] == (0.38, 1.5) and zooms[2] == pytest.approx((1.14, 2.28))


# ------------------------------------------------------------------ folders and weights


def test_a_begun_run_is_continued_only_when_asked(tmp_path):
    s = settings(run_name="a", runs_root=str(tmp_path))
    folder = runs.open_folder("geometric", s)
    assert folder == tmp_path / "02_geometric" / "a" and runs.open_folder("geometric", s) == folder
    (folder / "state.pt").touch()
    with pytest.raises(ValueError, match="set resume = True"):
        runs.open_folder("geometric", s)
    assert runs.open_folder("geometric", replace(s, resume=True)) == folder
    with pytest.raises(ValueError, match="resume = True needs run_name"):
        runs.open_folder("geometric", replace(s, resume=True, run_name=""))


def write_checkpoint(root: Path, name: str, age: int, steps: int = 500, size_px: int = 160, width: float = 0.25) -> Path:
    """A checkpoint of phase 1 as a run of 500 steps leaves it."""
    path = root / "01_warmup" / name / "checkpoint.safetensors"
    config = runs.training_config("warmup", settings("warmup", epochs=5, steps_per_epoch=100, image_size=size_px))
    save_network(path, build_network("lite", width=width), {"phase": "warmup", "step": steps, "config": to_dict(config)})
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_the_newest_complete_run_of_our_kind_is_built_upon(tmp_path):
    s = settings(runs_root=str(tmp_path))
    assert runs.find_checkpoint("warmup", s) is None
    write_checkpoint(tmp_path, "older", 50)
    right = write_checkpoint(tmp_path, "right", 40)
    write_checkpoint(tmp_path, "interrupted", 30, steps=400)
    write_checkpoint(tmp_path, "other size", 20, size_px=768)
    assert runs.find_checkpoint("warmup", s) == right
    assert runs.find_checkpoint("warmup", replace(s, network="superretina")) is None
    for name in ("older", str(tmp_path / "02_geometric" / "older")):  # as a user and as the runner gives it
        assert runs.find_checkpoint("warmup", replace(s, run_name=name)).parent.name == "older"
    config, said = runs.starting_weights(runs.training_config("geometric", s), s, tmp_path / "new")
    assert config.init_from == str(right) and "starts from" in said and "500 steps of 01_warmup" in said


def test_a_try_is_not_built_upon(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, "short", 0)
    monkeypatch.setattr(runs, "MIN_STEPS", 501)
    assert runs.find_checkpoint("warmup", settings(runs_root=str(tmp_path))) is None


def test_weights_can_be_named(tmp_path):
    s = settings(init_from="lite", runs_root=str(tmp_path))
    config, said = runs.starting_weights(runs.training_config("geometric", s), s, tmp_path)
    assert config.init_from == str(SHIPPED / "lite.safetensors") and "as asked" in said
    with pytest.raises(FileNotFoundError):
        runs.starting_weights(config, replace(s, init_from="no/such/file"), tmp_path)
    fresh = runs.training_config("warmup", settings("warmup"))
    assert runs.starting_weights(fresh, settings("warmup"), tmp_path) == (fresh, "starts from random weights")


def test_a_stand_in_is_trained_and_a_continued_run_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "STAND_IN_STEPS", 1)
    s = settings(runs_root=str(tmp_path), run_name="a", **TINY)
    folder = runs.open_folder("geometric", s)
    config, said = runs.starting_weights(runs.training_config("geometric", s), s, folder)
    assert said.startswith("STAND-IN for 01_warmup") and Path(config.init_from).is_relative_to(folder / "stand_in")
    Trainer(config, folder).fit()
    again, said = runs.starting_weights(runs.training_config("geometric", s), s, folder)
    assert again == config and said == "continues at step 2 of 2"


def test_a_continued_run_keeps_its_weights_and_refuses_others(tmp_path):
    s = settings("warmup", runs_root=str(tmp_path), run_name="a", **TINY)
    folder = runs.open_folder("warmup", s)
    config, _ = runs.starting_weights(runs.training_config("warmup", s), s, folder)
    Trainer(config, folder).fit()
    other = replace(s, init_from="lite", resume=True)
    config, _ = runs.starting_weights(runs.training_config("warmup", other), other, folder)
    with pytest.raises(ValueError, match="init_from: '' → '.*lite.safetensors'"):
        Trainer(config, folder).fit()


def test_phase_4_needs_real_pairs():
    for changes in ({"real_share": 0.0, "data_root": "x"}, {"data_root": ""}):
        with pytest.raises(ValueError, match="real_share: phase 4 needs real pairs"):
            runs.training_config("sim2real", settings("sim2real", **changes))


def test_half_of_the_junctions_are_hidden_in_a_try_only():
    shares = [runs.training_config("pke", settings("pke", epochs=n, **given)).data.annotated_share
              for n, given in ((4, {}), (60, {}), (60, {"annotated_share": 0.7}))]  # fmt: skip
    assert shares == [0.5, 1.0, 0.7]


# ------------------------------------------------------------------ several processes


def test_two_processes_of_a_notebook_take_the_steps_of_one(tmp_path):
    config = runs.training_config("warmup", settings("warmup", **TINY | {"micro_batches": 2, "batch_size": 1, "epochs": 2}))
    folders = (tmp_path / "two", tmp_path / "one")
    for folder in folders:
        folder.mkdir()
    trainers = [Trainer(config, folder) for folder in folders]
    histories = [runs.train(trainer, processes=n) for trainer, n in zip(trainers, (2, 1), strict=True)]
    assert [[row["step"] for row in history] for history in histories] == [[2, 4]] * 2
    assert histories[0][0]["total"] == pytest.approx(histories[1][0]["total"], rel=1e-3)
    assert [row["epoch"] for row in read_history(folders[0] / "history.csv")] == [1, 2]
    assert trainers[0].step_index == 4


def test_processes_that_fail_say_why(tmp_path):
    trainer = Trainer(runs.training_config("warmup", settings("warmup", **TINY)), tmp_path)
    words = r"2 processes failed \(exit code 1\): ValueError: .* cannot be shared out among 2 processes.*launch\.log"
    with pytest.raises(RuntimeError, match=words):
        runs.train(trainer, processes=2)


POOL = """
import os, time
from retina_kp.processes import worker_pool
if __name__ == "__main__":
    with worker_pool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


def test_an_error_drops_the_jobs_that_have_not_begun(tmp_path):
    with pytest.raises(ZeroDivisionError), worker_pool(1) as pool:
        jobs = [pool.submit(time.sleep, 0.2), pool.submit(divmod, 1, 0), *(pool.submit(Path.touch, tmp_path / str(k)) for k in range(40))]
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
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ------------------------------------------------------------------ all four


@pytest.mark.parametrize("name", ["02_geometric", "04_sim2real", "05_pke_diagnostics"])
def test_papermill_runs_a_training_notebook_from_any_folder(tmp_path, name):
    """As README says, without our runner; pictures are counted in the executed copy."""
    small = {"steps_per_epoch": 2, "image_size": 96, "pool_size": 2, "run_name": "a", "runs_root": str(tmp_path / "runs")}
    words = [word for key, value in ({"epochs": 1} | small).items() for word in ("-p", key, str(value))]
    if name == "05_pke_diagnostics":
        words += ["-p", "pairs", "4", "-p", "pair_index", "0"]
    command = [sys.executable, "-m", "papermill", str(NOTEBOOKS / f"{name}.ipynb"), "out.ipynb", *words, "--no-progress-bar"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert report.count_figures(tmp_path / "out.ipynb") >= {**PROMISED, "05_pke_diagnostics": 5}[name]


def test_the_chain_sorts_out_parameters():
    chosen = chain.parameters_of({"real_share": "0.5", "init_from": "lite", "epochs": "3"}, "x", {"sim2real": "/real"})
    assert [chosen[phase].get("epochs") for phase in runs.NOTEBOOKS] == [3] * 4
    assert chosen["sim2real"]["real_share"] == 0.5 and "real_share" not in chosen["pke"]
    assert chosen["warmup"]["init_from"] == "lite" and "init_from" not in chosen["geometric"]
    for key in ("run_name", "resume", "data_root"):
        with pytest.raises(ValueError, match=f"{key} belongs to one notebook; for all four give --"):
            chain.parameters_of({key: "x"}, "x", {})
    assert chosen["sim2real"]["data_root"] == "/real" and "data_root" not in chosen["pke"]
    with pytest.raises(ValueError, match="no training notebook has a parameter 'epoch'"):
        chain.parameters_of({"epoch": 3}, "x", {})


def test_all_four_in_a_chain_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = TINY | {"runs_root": str(tmp_path / "runs"), "tensorboard": True, "real_share": 0.5}
    reports = chain.run_all("tiny", given, {}, tell=lambda text: None)
    for html, (name, figures) in zip(reports, PROMISED.items(), strict=True):
        folder = tmp_path / "runs" / name / "tiny"
        assert html == folder / "report.html" and "STAND-IN" not in html.read_text(encoding="utf-8")
        assert report.count_figures(folder / "executed.ipynb") == figures
        assert {"checkpoint.safetensors", "history.csv", "metrics.json", "figures", "tensorboard"} <= {p.name for p in folder.iterdir()}
    assert "files_repeatability" in (tmp_path / "runs" / "04_sim2real" / "tiny" / "history.csv").read_text().partition("\n")[0]
