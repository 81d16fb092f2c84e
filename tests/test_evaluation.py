"""Figures that judge the registrar: hand-made trials in, known tables out."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from retina_kp import PairOptions, Registrar
from retina_kp.evaluation import runner
from retina_kp.evaluation.calibration import (
    CALIBRATION_SETS,
    KINDS,
    ImpostorPair,
    calibration_error,
    calibration_pairs,
    fit_calibration,
    risk_coverage,
)
from retina_kp.evaluation.methods import Ours
from retina_kp.evaluation.metrics import judge
from retina_kp.evaluation.pairs import SyntheticPair, synthetic_pairs
from retina_kp.evaluation.runner import measure
from retina_kp.evaluation.summary import SYNTHETIC, summarise
from retina_kp.mapping.displacement import Displacement
from retina_kp.mapping.result import Registration
from retina_kp.registration.confidence import DEFAULT_CALIBRATION, checked, confidence
from retina_kp.synthetic.pairs import draw_pair


def trial(error=1.0, ok=True, share=0.4, kind="CF-FA"):
    shares = {"settled_share": share, "inlier_share": share, "keypoint_share": 0.2, "map_correlation": share}
    names = {"pair": "p", "eye": "e", "kind": kind, "method": "m", "confidence": 0.9, "seconds": 0.5}
    outcome = judge(np.array([error])) if ok else "refused"
    evidence = {"inliers": 50.0} | shares
    return names | {
        "outcome": outcome,
        "mean_px": error if ok else np.inf,
        "tried_px": error,
        "evidence": evidence,
    }


def fitted(trials):
    return fit_calibration(pd.DataFrame(trials))


def test_table_of_known_trials():
    impostor = trial() | {"mean_px": np.nan}
    trials = [trial(1), trial(10), trial(5), trial(30), trial(2, ok=False), impostor]
    (row,) = summarise(pd.DataFrame(trials), ["kind"], SYNTHETIC).to_dict("records")
    shares = {"success": 0.4, "within_2px": 0.2, "wrong": 0.4, "far": 0.2, "failed": 0.2}
    shares["auc25"] = pytest.approx(0.472)  # below 2…25, 11…25, 6…25 px
    assert row == {"kind": "CF-FA", "pairs": 5, "eyes": 1, **shares, "median_px": 10.0, "seconds": 0.5}
    kinds = summarise(pd.DataFrame([*trials, trial(1, kind="OCT-FA")]), ["kind"], SYNTHETIC).kind
    assert list(kinds) == ["CF-FA", "OCT-FA"]


def test_calibration_separates_what_can_be_separated():
    good = [trial(1, share=0.3 + 0.01 * i) for i in range(20)]
    bad = [trial(200, share=0.1 + 0.005 * i) for i in range(20)]
    weights = fitted(good + bad)
    assert (
        min(confidence(t["evidence"], weights) for t in good)
        > 0.7
        > 0.3
        > max(confidence(t["evidence"], weights) for t in bad)
    )


def test_evidence_never_speaks_against_a_transform():
    good = [trial(1, share=0.5 + 0.01 * i) for i in range(20)]
    bad = [
        t | {"tried_px": 200.0, "evidence": t["evidence"] | {"inlier_share": 0.9, "map_correlation": 0.1}} for t in good
    ]
    weights = fitted(good + bad)
    assert weights["inlier_share"] == 0 and weights["log_correlation"] > 1 and min(list(weights.values())[1:]) >= 0
    assert confidence(good[0]["evidence"], weights) > 0.9 > 0.1 > confidence(bad[0]["evidence"], weights)


def test_a_calibration_to_other_evidence_is_refused():
    """Terms that no longer exist would count as nothing, and every transform be refused."""
    with pytest.raises(ValueError, match="another version .*map_correlation.*retina-kp calibrate"):
        checked(DEFAULT_CALIBRATION | {"map_correlation": 18.4})


def test_a_calibration_that_lacks_a_term_is_refused_when_loaded():
    """It would let a transform pass whose maps hardly correlate."""
    network = Registrar.from_pretrained("lite", device="cpu").network
    with pytest.raises(ValueError, match="another version .log_correlation."):
        Registrar(
            network, device="cpu", calibration={k: v for k, v in DEFAULT_CALIBRATION.items() if k != "log_correlation"}
        )


def test_calibration_of_a_coin_is_one_half():
    trials = [trial(1 if i % 2 else 99) for i in range(40)]
    assert confidence(trials[0]["evidence"], fitted(trials)) == pytest.approx(0.5, abs=0.01)


def test_maps_that_do_not_correlate_prove_a_transform_wrong():
    good, bad = (
        [trial(1, share=0.3 + 0.01 * i) for i in range(20)],
        [trial(200, share=0.1 + 0.005 * i) for i in range(20)],
    )
    weights, unlaid = (
        fitted(good + bad),
        bad[0] | {"evidence": good[-1]["evidence"] | {"map_correlation": 0.0}},
    )
    assert confidence(good[-1]["evidence"], weights) > 0.9 and confidence(unlaid["evidence"], weights) == 0
    assert fitted([*good, *bad, unlaid]) == weights


def test_calibration_needs_both_outcomes():
    with pytest.raises(ValueError, match="right and wrong"):
        fitted([trial(1), trial(2)])


def test_impostors_meet_the_pair_before_of_their_kind_and_set():
    found = calibration_pairs(12)
    assert len(found) == len(CALIBRATION_SETS) * len(KINDS) * (12 + 10), (
        "of twelve pairs all but the first and the eleventh have one"
    )
    for before, pair in zip(found, found[1:], strict=False):
        if isinstance(pair, ImpostorPair):
            assert pair.fixed == before and pair.moving.index == before.index - 1
            assert (pair.moving.kind, pair.moving.options) == (before.kind, before.options)


def test_rows_are_kept_for_equal_weights_and_code_alone(tmp_path, monkeypatch):
    found, pairs = [], synthetic_pairs(1, 2, PairOptions(size_px=96), ["FA"])
    monkeypatch.setattr(
        runner, "run_unit", lambda pair, method, key, how: found.append(1) or trial() | {"key": key, "status": "ok"}
    )
    first, again = (measure(pairs, [Ours("lite")], tmp_path / "rows.jsonl") for _ in range(2))
    assert first.equals(again) and len(found) == 2
    measure(pairs, [Ours("lite", model="homography")], tmp_path / "rows.jsonl")
    assert len(found) == 4
    monkeypatch.setattr(runner, "code_version", lambda wings: "another search")
    measure(pairs, [Ours("lite")], tmp_path / "rows.jsonl")
    assert len(found) == 6


def test_calibration_error_by_hand():
    sure, right = np.array([0.95, 0.95, 0.05, 0.05]), np.array([1.0, 0.0, 0.0, 0.0])
    assert calibration_error(sure, right) == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)
    assert calibration_error(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0


def test_processes_change_nothing_but_the_time():
    options = PairOptions(size_px=256, rotation_deg=10, scale=(0.95, 1.05), min_overlap=0.8)
    one, two = synthetic_pairs(3, 2, options, ["FA"])
    pairs, method = [one, two, ImpostorPair(two, one)], Ours("lite", device="cpu")
    here, there = measure(pairs, [method]), measure(pairs, [method], processes=2)
    assert list(here.genuine) == list(there.genuine) == [True, True, False] and here.tried_px.isna()[2]
    assert list(there.tried_px[:2]) == pytest.approx(list(here.tried_px[:2]), rel=1e-6)
    assert here.evidence[0].keys() >= {"inliers", "map_correlation"}


def test_risk_and_coverage_by_hand():
    """Sure, wrong among two equals, right, wrong: given from the surest down, equals together."""
    coverage, risk = risk_coverage(np.array([0.2, 0.9, 0.6, 0.6, 0.4]), np.array([0, 1, 0, 1, 1]))
    assert coverage == pytest.approx([0.2, 0.6, 0.8, 1.0]) and risk == pytest.approx([0, 1 / 3, 1 / 4, 2 / 5])
    assert [part.shape for part in risk_coverage(np.zeros(0), np.zeros(0))] == [(0,), (0,)]


def test_a_bent_answer_is_judged_with_what_bends_it():
    """Its matrix is right and its bend moves every corner by (6, 8) px; refused, the matrix is what was tried."""
    pair = draw_pair(3, 0, ("CF", "FA"), PairOptions(size_px=96))
    H = np.linalg.inv(pair.H_0to1)
    one = Registration("ok", H, 1.0, *[np.zeros((0, 2))] * 2, np.zeros(0, bool), (96, 96), (96, 96), "auto", H_tried=H)
    moved = Displacement.fitted(lambda points0: points0 - (6, 8), (0, 0), (95, 95), (1, 1))
    bent = replace(one, displacement=moved)
    answers = (one, bent, bent.refuse("no"))
    found = [measure([SyntheticPair(given=pair)], [lambda fixed, moving, r=result: r]).iloc[0] for result in answers]
    assert [(t.mean_px, t.tried_px) for t in found] == [
        pytest.approx(p, abs=1e-6) for p in ((0, 0), (80, 80), (np.inf, 0))
    ]
