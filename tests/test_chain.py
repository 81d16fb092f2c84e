"""All four phases, one after the other: checked ahead, on synthetic pairs and on one's own folders of every layout,
interrupted or not."""

import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_trees import fire_tree, octa_tree, operation_pair

from retina_kp.cli.main import cli
from retina_kp.core.config import from_dict
from retina_kp.data.layouts import load_layout
from retina_kp.data.layouts.pairs_csv import write_pairs_csv
from retina_kp.networks import build_network
from retina_kp.networks.checkpoints import read_metadata, save_network
from retina_kp.notebook import chain, report, runs
from retina_kp.notebook.runs import plan
from retina_kp.synthetic.pairs import write_aligned_folder
from retina_kp.training.losses import PHASES
from retina_kp.training.processes import read_history
from retina_kp.training.settings import Settings

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
PROMISED = {"01_warmup": 6, "02_geometric": 3, "03_pke": 3, "04_sim2real": 5}  # figures
TINY = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 2, "image_size": 64, "pool_size": 2, "validation_pairs": 2}


@pytest.mark.parametrize("name", ["02_geometric", "04_sim2real", "05_pke_diagnostics"])
def test_papermill_runs_a_training_notebook_from_any_folder(tmp_path, name):
    """As README says, without our runner; pictures are counted in the executed copy."""
    small = {
        "steps_per_epoch": 2,
        "image_size": 96,
        "pool_size": 2,
        "run_name": "a",
        "runs_root": str(tmp_path / "runs"),
    }
    words = [word for key, value in ({"epochs": 1} | small).items() for word in ("-p", key, str(value))]
    if name == "05_pke_diagnostics":
        words += ["-p", "pairs", "4", "-p", "pair_index", "0"]
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(NOTEBOOKS / f"{name}.ipynb"),
        "out.ipynb",
        *words,
        "--no-progress-bar",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert report.count_figures(tmp_path / "out.ipynb") >= {**PROMISED, "05_pke_diagnostics": 5}[name]


def test_the_chain_sorts_out_parameters():
    given = {"real_share": "0.5", "init_from": "lite", "epochs": "3", "mode": "cffa,cfoct", "workers": "2"}
    chosen = chain.parameters_of(given, "x", "/aligned", "/real")
    assert [chosen[phase].get("epochs") for phase in runs.NOTEBOOKS] == [3] * 4
    assert chosen["sim2real"]["real_share"] == 0.5 and chosen["pke"]["workers"] == 2
    assert chosen["pke"]["mode"] == ["cffa", "cfoct"]
    assert chosen["warmup"]["init_from"] == "lite" and "init_from" not in chosen["geometric"]
    assert [c["data_root"] for c in chosen.values()] == ["/aligned"] * 3 + ["/real"]
    assert [c.get("replay_root") for c in chosen.values()] == [None] * 3 + ["/aligned"]
    for key in ("run_name", "resume", "data_root", "replay_root"):
        with pytest.raises(ValueError, match=f"{key} belongs to one notebook; for all four give --"):
            chain.parameters_of({key: "x"}, "x", "", "")
    with pytest.raises(ValueError, match="no training notebook has a parameter 'epoch'"):
        chain.parameters_of({"epoch": 3}, "x", "", "")


@pytest.fixture(scope="module")
def aligned(tmp_path_factory) -> str:
    """Four generated eyes, in a folder with a blank and Chinese signs."""
    return str(write_aligned_folder(tmp_path_factory.mktemp("g") / "我的 generated", 4, size_px=128))


@pytest.mark.parametrize(
    ("given", "folders", "words"),
    [
        ({"recipe": "big"}, {}, "01_warmup: unknown recipe 'big'; there are lite, finetune, full, try"),
        ({"batch_size": 4}, {}, "04_sim2real: synthetic pairs: 0.2 of 4 pairs leaves updates without one kind of pair"),
        ({"device": "cuda"}, {}, "01_warmup: device 'cuda': no CUDA device"),
        ({"processes": 2}, {}, "01_warmup: micro_batches: 1 cannot be shared out among 2 processes"),
        ({}, {"real": "/no/such/folder"}, "04_sim2real: /no/such/folder: no such file or folder"),
        ({}, {"generated": "/no/such/folder"}, "01_warmup: /no/such/folder: no such file or folder"),
        ({}, {"real": str(NOTEBOOKS)}, "04_sim2real: .*nothing known is in here"),
        ({"mode": "cfcf"}, {}, "files.mode: 'cfcf' is unknown; name some of cffa"),
        ({"network": "unet"}, {}, "01_warmup: network: takes lite or superretina"),
        (
            {"init_from": "lite", "network": "superretina"},
            {},
            "01_warmup: .*lite.safetensors holds network 'lite', not 'superretina'",
        ),
    ],
)
def test_all_four_are_checked_before_the_first_step(tmp_path, aligned, monkeypatch, given, folders, words):
    monkeypatch.setattr(chain, "run_notebook", lambda *_: pytest.fail("a notebook ran"))
    given = {"runs_root": str(tmp_path / "runs")} | given
    with pytest.raises(ValueError, match=words):
        chain.run_all("x", given, tell=lambda text: None, **{"generated": ""} | folders)
    assert not (tmp_path / "runs").exists(), "and nothing is left behind"


def test_all_phases_have_the_network_of_the_weights_that_are_begun_with(tmp_path, aligned):
    start = save_network(tmp_path / "mine.safetensors", build_network("superretina"))
    given = {"runs_root": str(tmp_path / "runs"), "recipe": "finetune", "init_from": str(start)}
    plans = chain.rehearse(chain.parameters_of(given, "x", aligned, ""), lambda text: None)
    assert [p.config.network for p in plans] == ["superretina"] * 4
    assert [p.config.learning_rate for p in plans] == pytest.approx([1e-5, 3e-5, 1e-5, 1e-5])


def test_a_stopped_chain_is_not_told_to_go_on(monkeypatch, capsys, tmp_path):
    """It would stop at the same place again."""

    def stopped(*_):
        raise report.NotebookError(
            "01_warmup.ipynb, cell In [9] stopped with TrainingStopped: the detector has gone silent"
        )

    monkeypatch.setattr(chain, "run_notebook", stopped)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "-p", "runs_root", str(tmp_path)])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "gone silent" in said and "To continue" not in said


def test_the_check_tells_what_each_phase_trains_on(tmp_path, aligned):
    said = []
    chosen = chain.parameters_of({"runs_root": str(tmp_path), "recipe": "lite"}, "x", aligned, "")
    plans = chain.rehearse(chosen, said.append)
    assert [p.phase for p in plans] == list(PHASES) and len(said) > 8
    text = "\n".join(said)
    assert text.count("CF–FA: 3 pairs of 3 eyes train, 1 of 1 validate") == 4, "three phases, and replay in the fourth"
    assert "4 OCT–FA pairs left out" in text and "cffa_004_02" in text
    assert plans[1].config.init_from == str(tmp_path / "01_warmup" / "x" / "checkpoint.safetensors")


def test_all_four_in_a_chain_on_drawn_pairs_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = TINY | {"runs_root": str(tmp_path / "runs"), "tensorboard": True, "real_share": 0.5}
    reports = chain.run_all("tiny", given, tell=lambda text: None)
    for html, (name, figures) in zip(reports, PROMISED.items(), strict=True):
        folder = tmp_path / "runs" / name / "tiny"
        text = html.read_text(encoding="utf-8")
        assert html == folder / "report.html" and "STAND-IN" not in text and "A TRY, no training" in text
        assert report.count_figures(folder / "executed.ipynb") == figures
        assert {"checkpoint.safetensors", "history.csv", "metrics.json", "figures", "tensorboard"} <= {
            p.name for p in folder.iterdir()
        }
    assert (
        "replay_repeatability"
        in (tmp_path / "runs" / "04_sim2real" / "tiny" / "history.csv").read_text().partition("\n")[0]
    )


def test_all_four_in_a_chain_on_ones_own_folders_interrupted_in_every_phase(tmp_path, aligned, monkeypatch):
    """The main promise, tiny: generated eyes and real pairs in, four reports and a network out, each phase stopped once
    on the way."""
    root, stopped = str(tmp_path / "runs 结果"), []
    given = TINY | {"runs_root": root, "epochs": 2, "batch_size": 5, "mode": ["cffa"]}
    real, run_notebook = runs.pseudo_real_folder(8, 0), chain.run_notebook

    def interrupted(name, parameters):
        phase = next(p for p, stem in runs.NOTEBOOKS.items() if stem == name)
        s = from_dict(Settings, {k: v for k, v in parameters.items()})
        with pytest.raises(KeyboardInterrupt):
            plan(phase, s).open().fit(lambda history: (_ for _ in ()).throw(KeyboardInterrupt))
        stopped.append(name)
        return run_notebook(name, parameters)

    monkeypatch.setattr(chain, "run_notebook", interrupted)
    reports = chain.run_all("my run", given, aligned, real, tell=lambda text: None)
    assert stopped == list(PROMISED) and len(reports) == 4
    for html, name in zip(reports, PROMISED, strict=True):
        folder = Path(root) / name / "my run"
        text = html.read_text(encoding="utf-8")
        assert read_metadata(folder / "checkpoint.safetensors")["step"] == 4 and "after step 2 of 4" in text
        assert "CF–FA" in text, "the report shows what was trained on"
    history = read_history(Path(root) / "04_sim2real" / "my run" / "history.csv")
    assert [row["epoch"] for row in history] == [1, 2] and "replay_gt_matched_right" in history[-1]
    config = read_metadata(Path(root) / "04_sim2real" / "my run" / "checkpoint.safetensors")["config"]
    assert config["replay"]["root"] == aligned and config["replay"]["share"] == 0.2


# ------------------------------------------------------------------ every layout


def tree(layout: str, root: Path) -> Path:
    """A few pairs in a layout."""
    if layout == "generated":
        return write_aligned_folder(root, 3, size_px=96)
    if layout == "operation":
        for eye in range(3):
            operation_pair(root, f"{eye:03d}_01", shift=(3, 2), seed=eye)
    if layout == "fire":
        return fire_tree(root, {f"P{k:02d}": 40.0 for k in range(1, 4)})
    if layout == "cf_octa_v2":
        octa_tree(root, numbers=(1, 2, 3))
        for path in (root / "CF_ts", root / "OCTA_ts"):
            path.rename(root / path.name.replace("_ts", "_train"))  # what is marked as test is not trained on
    if layout == "pairs_csv":
        write_pairs_csv(root / "pairs.csv", load_layout(tree("generated", root / "images"), mode="cfoct").records)
    return root


@pytest.mark.parametrize("layout", ["generated", "operation", "cf_octa_v2", "fire", "pairs_csv"])
def test_every_layout_goes_through_all_four_phases_resumed_and_not(tmp_path, layout):
    """As phases 1 to 3's data, as phase 4's real pairs, and as what phase 4 replays."""
    root = str(tree(layout, tmp_path / "own folder"))
    for phase in PHASES:
        words = {"data_root": root} | ({"replay_root": root} if phase == "sim2real" else {})
        s = Settings(
            **TINY | {"batch_size": 5, "epochs": 2}, **words, runs_root=str(tmp_path), run_name="a", resume=True
        )
        with pytest.raises(KeyboardInterrupt):
            plan(phase, s).open().fit(lambda history: (_ for _ in ()).throw(KeyboardInterrupt))
        trainer = plan(phase, s).open()
        assert trainer.resume() and trainer.step_index == 2
        history = trainer.fit()
        assert len(history) == 2 and history[-1]["total"] > 0 and history[-1]["points_used"] > 0
        assert trainer.files.train and trainer.files.validation
        judged = history[-1]["gt_matched_right"]  # of cf_octa_v2 not at this size: its labels come from a vessel filter
        assert judged == judged or layout == "cf_octa_v2"
