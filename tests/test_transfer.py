"""What phase 4 brings and forgets: one clinic per seed, arms that differ in replay alone, and figures counted by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from retina_kp import transfer
from retina_kp.config import from_dict
from retina_kp.report import project_root
from retina_kp.runs import Settings, defaults, training_config
from retina_kp.transfer import ARMS, START, arm_config, measure, run_arm


def test_arms_differ_in_replay_alone(tmp_path):
    plan, control = (arm_config(ARMS[name], 1, 400, "lite", tmp_path) for name in ("phase 4", "phase 4 without replay"))
    assert (plan.files.share, control.files.share) == (0.8, 1.0)
    assert plan.total_steps == 400 and replace(plan, files=replace(plan.files, share=1.0)) == control


def test_the_laptops_parameters_are_what_is_measured_here(tmp_path):
    given = yaml.safe_load((project_root() / "notebooks" / "params" / "laptop.yaml").read_text(encoding="utf-8"))
    known = defaults("sim2real")
    assert {key: type(value) for key, value in given.items()} == {key: type(known[key]) for key in given}
    laptop = training_config("sim2real", from_dict(Settings, known | given | {"data_root": str(tmp_path)}))
    assert replace(laptop, init_from="lite") == arm_config(ARMS["phase 4"], 0, 300, "lite", tmp_path)


def test_success_is_counted_by_hand(monkeypatch):
    errors = {"clinic": [1.0, 3.0, 6.0, np.inf], "drawn": [np.inf, 9.0, 7.0]}
    told = iter(errors["clinic"])
    registrar = SimpleNamespace()
    monkeypatch.setattr(transfer.Registrar, "from_pretrained", lambda *_, **__: registrar)
    monkeypatch.setattr(transfer, "pseudo_real_pair", lambda seed, index: (seed, index))
    monkeypatch.setattr(transfer, "run_trial", lambda registrar, pair: SimpleNamespace(would_be_px=next(told)))
    monkeypatch.setattr(transfer, "run_trials", lambda *_: [SimpleNamespace(would_be_px=e) for e in errors["drawn"]])
    assert measure("", 0, 4, {"bias": 1.0}) == {"clinic": 0.5, "clinic_px": 2.0, "drawn": 0.0, "drawn_px": None}
    assert registrar.calibration == {"bias": 1.0}


@pytest.mark.parametrize(("arguments", "told"), [(["--steps", "250"], "epochs of 100"), (["--weights", "nowhere"], "nowhere")])
def test_wrong_arguments_are_told(monkeypatch, capsys, arguments, told):
    monkeypatch.setattr("sys.argv", ["transfer", *arguments])
    with pytest.raises(SystemExit):
        transfer.main()
    assert told in capsys.readouterr().err


def test_a_run_trains_on_its_own_clinic_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "EYES", 3)
    monkeypatch.setattr(transfer, "SIZE_PX", 64)
    monkeypatch.setattr(transfer, "measure", lambda checkpoint, seed, pairs, calibration: {"clinic": float(checkpoint.is_file())})
    found = run_arm("phase 4", 2, 1, 1, "lite", tmp_path)
    assert found == {"arm": "phase 4", "seed": 2, "clinic": 1.0}
    assert len(list((tmp_path / "clinic 2").rglob("*.png"))) == 12
    monkeypatch.setattr(transfer, "Trainer", None)
    assert run_arm("phase 4", 2, 1, 1, "lite", tmp_path) == json.loads((tmp_path / "phase 4, seed 2.json").read_text())
    assert run_arm(START, 2, 1, 1, "lite", tmp_path)["clinic"] == 1.0
    with pytest.raises(TypeError):
        run_arm("phase 4", 3, 1, 1, "lite", tmp_path)
