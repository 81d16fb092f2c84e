"""A simulated user's folders: their look and truth, the four phases in order, figures counted by hand, and nothing done
twice."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from retina_kp.core.geometry import describe
from retina_kp.core.vessels import skeleton_junctions
from retina_kp.data.layouts import load_layout
from retina_kp.notebook.runs import NOTEBOOKS, plan, training_config
from retina_kp.studies import phases
from retina_kp.studies.phases import (
    ARMS,
    BEFORE,
    SHOWN_LOOK,
    generated_pair,
    held_out_pairs,
    measure_look,
    run_own_look,
    settings_of,
    summarise,
)
from retina_kp.synthetic.pseudo_real import aligned_images, write_pseudo_generated
from retina_kp.training.config import get_recipe
from retina_kp.training.losses import PHASES


def test_generated_eyes_are_layout_1_and_of_eyes_that_no_pair_shows(tmp_path):
    found = load_layout(write_pseudo_generated(tmp_path, 2, seed=3, size_px=160))
    assert [r.pair_id for r in found.records] == ["cffa_1_N", "cffa_2_N"] and not found.problems
    fixed, moving, mask = aligned_images(3, 0, 160)
    assert (
        fixed.shape == (160, 160, 3) and moving.shape == mask.shape == (160, 160) and set(np.unique(mask)) == {0, 255}
    )
    assert len(skeleton_junctions(mask > 0)[0]) > 10
    dark = cv2.GaussianBlur(fixed[..., 1].astype(float), (0, 0), 8) - fixed[..., 1]
    assert dark[mask > 0].mean() > dark[(mask == 0) & (fixed[..., 1] > 40)].mean() + 1, (
        "the mask lies on the fundus's vessels"
    )


def test_a_turned_generated_eye_has_its_truth(monkeypatch):
    pair = generated_pair(0, 1)
    back = cv2.warpPerspective(pair.moving, np.linalg.inv(pair.H_0to1), pair.moving.shape[::-1])
    aligned = aligned_images(phases.SEEDS["generated held out"], 1)[1]
    middle = np.s_[200:312, 200:312]
    assert np.corrcoef(back[middle].ravel(), aligned[middle].ravel())[0, 1] > 0.9
    assert abs(describe(pair.H_0to1, (512, 512)).angle_deg) > 5, "this one is turned"


def test_real_pairs_are_turned_by_15_to_30_degrees(monkeypatch):
    monkeypatch.setattr(phases, "HELD_OUT", 4)
    turns = [abs(describe(pair.H_0to1, pair.fixed.shape[:2]).angle_deg) for pair in held_out_pairs(0)]
    assert len(turns) == 4 and all(13 < turn < 32 for turn in turns)


@pytest.mark.parametrize(
    ("arm", "steps"), [("from nothing", [300, 1800, 300, 300]), ("from shipped", [200, 300, 200, 300])]
)
def test_the_arms_are_what_a_user_would_give_the_notebooks(tmp_path, arm, steps):
    before, configs = None, []
    for phase in PHASES:
        s = settings_of(arm, phase, 1, tmp_path, tmp_path / "generated", tmp_path / "real", 1.0)
        configs.append(training_config(phase, s, before))
        before = configs[-1]
    recipe = get_recipe(ARMS[arm][0])
    assert [c.total_steps for c in configs] == steps and len({c.seed for c in configs}) == 4
    assert [(c.learning_rate, c.losses, c.size_px) for c in configs] == [
        (recipe[p].learning_rate, recipe[p].losses, recipe[p].size_px) for p in PHASES
    ]
    assert [c.files.root for c in configs] == [str(tmp_path / name) for name in ("generated",) * 3 + ("real",)]
    assert [c.replay.share for c in configs] == [0, 0, 0, 0.2] and configs[3].replay.root == str(tmp_path / "generated")
    start = plan(
        "warmup", settings_of(arm, "warmup", 1, tmp_path, tmp_path / "generated", tmp_path / "real", 1.0)
    ).start
    assert start == ("random ones" if arm == "from nothing" else "lite, as the recipe says")


def test_success_is_counted_by_hand(monkeypatch):
    errors = {"real": [1.0, 3.0, 6.0, np.inf], "generated": [0.5, 21.0], "synthetic": [np.inf, 9.0, 7.0]}
    told = iter(errors.values())
    registrar = SimpleNamespace()
    monkeypatch.setattr(phases.Registrar, "from_pretrained", lambda *_, **__: registrar)
    monkeypatch.setattr(phases, "held_out_pairs", lambda seed: range(4))
    monkeypatch.setattr(phases, "generated_pair", lambda seed, index: index)
    monkeypatch.setattr(phases, "measure", lambda *_: pd.DataFrame({"tried_px": next(told)}))
    found = measure_look("", 0, 2)
    assert (found["real"], found["real found"], found["real px"]) == (0.5, 0.75, 2.0)
    assert (found["generated"], found["generated found"], found["generated px"]) == (0.5, 0.5, 0.5)
    assert (found["synthetic"], found["synthetic found"], found["synthetic px"]) == (0.0, pytest.approx(2 / 3), None)
    assert registrar.calibration["bias"] and registrar.steerers is None


def test_a_run_goes_through_the_phases_and_nothing_is_done_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "GENERATED_EYES", 3)
    monkeypatch.setattr(phases, "REAL_PAIRS", 4)
    monkeypatch.setattr(phases, "SIZE_PX", 64)
    monkeypatch.setattr(phases, "REAL_SIZE_PX", 64)
    measured = []
    monkeypatch.setattr(
        phases, "measure_look", lambda path, seed, pairs: measured.append(path.parent.parent.name) or {"real": 0.5}
    )
    rows = run_own_look("from shipped", 0, 0.001, 1, tmp_path)
    assert [row["after"] for row in rows] == [BEFORE, *PHASES] and measured[1:] == list(NOTEBOOKS.values())
    monkeypatch.setattr(phases, "measure_look", None)
    assert run_own_look("from shipped", 0, 0.001, 1, tmp_path) == rows
    history = tmp_path / "seed 0" / "from shipped" / "04_sim2real" / "run" / "history.csv"
    assert "replay_gt_matched_right" in history.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "seed 0" / "from shipped, pke.json").read_text(encoding="utf-8"))["real"] == 0.5


def test_the_table_tells_mean_and_spread():
    one = {"arm": "a", "after": "pke", **dict.fromkeys(SHOWN_LOOK, 0.5)}
    rows = [one, one | {"real": 1.0, "synthetic px": None}]
    (row,) = summarise(rows, ["arm", "after"], SHOWN_LOOK, "{:.3f} ± {:.3f}").to_dict("records")
    assert (row["seeds"], row["real"], row["synthetic px"]) == (2, "0.750 ± 0.250", "0.500 ± 0.000")


@pytest.mark.parametrize("share", ["0", "1.5"])
def test_wrong_arguments_are_told(monkeypatch, capsys, share):
    monkeypatch.setattr("sys.argv", ["phases", "own-look", "--shorten", share])
    with pytest.raises(SystemExit):
        phases.main()
    assert "--shorten: takes a fraction" in capsys.readouterr().err
