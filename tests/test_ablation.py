"""The ablation's bookkeeping: shared stages, the control's setting, means and spreads by hand."""

import json

import pytest

from retina_kp.studies import phases
from retina_kp.studies.phases import BASE, SHOWN, STAGES, run_ablation, stage_config, summarise


def test_every_arm_has_three_equal_stages_and_falls_in_the_last():
    for stages in STAGES.values():
        configs = [stage_config(stages[:n], 1, 400, "") for n in (1, 2, 3)]
        assert [c.total_steps for c in configs] == [400] * 3 and [c.final_rate_ratio for c in configs] == [
            1.0,
            1.0,
            0.05,
        ]
        assert len({c.seed for c in configs}) == 3 and {c.data.annotated_share for c in configs} == {0.5}


def test_the_control_differs_in_the_content_filter_alone():
    plan, control = (stage_config(STAGES[name], 0, 400, "x") for name in ("P1+2+3", "P1+2+3, content 0.95"))
    assert (plan.pke.content_ratio_max, control.pke.content_ratio_max) == (BASE.pke.content_ratio_max, 0.95)
    assert plan.phase == control.phase == "pke"


def test_table_by_hand():
    rows = [{"arm": "P1", "seed": s, **dict.fromkeys(SHOWN, v)} for s, v in enumerate((0.2, 0.4))]
    (row,) = summarise(rows, ["arm"], SHOWN, "{:.3g} ± {:.2g}").to_dict("records")
    assert row["arm"] == "P1" and row["seeds"] == 2 and row["success"] == "0.3 ± 0.1"


def test_a_measured_arm_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "Trainer", None)
    (tmp_path / "P1, seed 0.json").write_text(json.dumps({"arm": "P1", "seed": 0}))
    assert run_ablation(0, 1, 1, tmp_path, ["P1"]) == [{"arm": "P1", "seed": 0}]
    with pytest.raises(TypeError):
        run_ablation(1, 1, 1, tmp_path, ["P1"])
