"""Figures that judge the registrar: hand-made trials in, known tables out."""

from dataclasses import replace

import numpy as np
import pytest

from retina_kp import PairOptions, Registrar
from retina_kp.evaluation import calibration
from retina_kp.evaluation import trials as evaluation
from retina_kp.evaluation.calibration import calibration_error, fit_calibration, risk_coverage
from retina_kp.evaluation.trials import Trial, gather_trials, run_trial, run_trials, summarise_trials
from retina_kp.registration.confidence import DEFAULT_CALIBRATION, confidence
from retina_kp.registration.result import Registration
from retina_kp.synthetic.pairs import draw_pair


def trial(error=1.0, ok=True, genuine=True, share=0.4, moving="FA"):
    shares = {"settled_share": share, "inlier_share": share, "keypoint_share": 0.2, "map_correlation": share}
    evidence = {"inliers": 50.0} | shares
    return Trial(moving, ok, error if ok else np.inf, error, 0.9, 0.5, genuine, evidence)


def test_table_of_known_trials():
    trials = [trial(1), trial(10), trial(5), trial(30), trial(2, ok=False), trial(np.inf, genuine=False)]
    (row,) = summarise_trials(trials)
    shares = {"success": 0.4, "within_2px": 0.2, "wrong_accepted": 0.4, "far_accepted": 0.2, "refused": 0.2}
    shares["auc25"] = 0.472  # below 2…25, 11…25, 6…25 px
    assert row == {"pair": "CF-FA", "n": 5, **shares, "median_px": 10.0, "median_s": 0.5}
    assert [row["pair"] for row in summarise_trials([*trials, trial(1, moving="OCT-FA")])] == ["CF-FA", "OCT-FA"]


def test_calibration_separates_what_can_be_separated():
    good = [trial(1, share=0.3 + 0.01 * i) for i in range(20)]
    bad = [trial(200, share=0.1 + 0.005 * i) for i in range(20)]
    weights = fit_calibration(good + bad)
    assert (
        min(confidence(t.evidence, weights) for t in good)
        > 0.7
        > 0.3
        > max(confidence(t.evidence, weights) for t in bad)
    )


def test_evidence_never_speaks_against_a_transform():
    good = [trial(1, share=0.5 + 0.01 * i) for i in range(20)]
    bad = [
        replace(t, would_be_px=200.0, evidence=t.evidence | {"inlier_share": 0.9, "map_correlation": 0.1}) for t in good
    ]
    weights = fit_calibration(good + bad)
    assert weights["inlier_share"] == 0 and weights["log_correlation"] > 1 and min(list(weights.values())[1:]) >= 0
    assert confidence(good[0].evidence, weights) > 0.9 > 0.1 > confidence(bad[0].evidence, weights)


def test_a_calibration_to_other_evidence_is_refused():
    """Terms that no longer exist would count as nothing, and every transform be refused."""
    with pytest.raises(ValueError, match="another version .*map_correlation.*retina_kp.evaluation.calibration"):
        confidence(trial(1).evidence, DEFAULT_CALIBRATION | {"map_correlation": 18.4})


def test_a_calibration_that_lacks_a_term_is_refused_when_loaded():
    """It would let a transform pass whose maps hardly correlate."""
    network = Registrar.from_pretrained("lite", device="cpu").network
    with pytest.raises(ValueError, match="another version .log_correlation."):
        Registrar(
            network, device="cpu", calibration={k: v for k, v in DEFAULT_CALIBRATION.items() if k != "log_correlation"}
        )


def test_calibration_of_a_coin_is_one_half():
    trials = [trial(1 if i % 2 else 99) for i in range(40)]
    assert confidence(trials[0].evidence, fit_calibration(trials)) == pytest.approx(0.5, abs=0.01)


def test_maps_that_do_not_correlate_prove_a_transform_wrong():
    good, bad = (
        [trial(1, share=0.3 + 0.01 * i) for i in range(20)],
        [trial(200, share=0.1 + 0.005 * i) for i in range(20)],
    )
    weights, unlaid = (
        fit_calibration(good + bad),
        replace(bad[0], evidence=good[-1].evidence | {"map_correlation": 0.0}),
    )
    assert confidence(good[-1].evidence, weights) > 0.9 and confidence(unlaid.evidence, weights) == 0
    assert fit_calibration([*good, *bad, unlaid]) == weights


def test_calibration_needs_both_outcomes():
    with pytest.raises(ValueError, match="right and wrong"):
        fit_calibration([trial(1), trial(2)])


def test_trials_are_kept_for_equal_weights_and_code_alone(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(calibration, "gather_trials", lambda *args, **how: drawn.append(1) or [trial(1.0)])
    (checkpoint := tmp_path / "weights").write_bytes(b"a")
    first, again = (calibration._kept_trials(tmp_path, checkpoint, 2, "cpu") for _ in range(2))
    assert first == again and len(drawn) == len(calibration.CALIBRATION_SETS)
    monkeypatch.setattr(evaluation, "code_version", lambda: "another search")
    calibration._kept_trials(tmp_path, checkpoint, 2, "cpu")
    assert len(list(tmp_path.glob("calibration trials *.json"))) == 2
    assert len(drawn) == 2 * len(calibration.CALIBRATION_SETS)


def test_calibration_error_by_hand():
    sure, right = np.array([0.95, 0.95, 0.05, 0.05]), np.array([1.0, 0.0, 0.0, 0.0])
    assert calibration_error(sure, right) == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)
    assert calibration_error(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0


def test_processes_change_nothing_but_the_time():
    options = PairOptions(size_px=256, rotation_deg=10, scale=(0.95, 1.05), min_overlap=0.8)
    here = list(
        run_trials(Registrar.from_pretrained("lite", device="cpu"), 3, 2, options, impostors=True, moving=("FA",))
    )
    assert [t.genuine for t in here] == [True, True, False]
    there = gather_trials("lite", 3, 2, options, impostors=True, moving=("FA",), processes=2, chunk=1)
    assert [t.genuine for t in there] == [True, True]  # the first pair of a chunk has no impostor
    assert [t.would_be_px for t in there] == pytest.approx([t.would_be_px for t in here[:2]], rel=1e-6)


def test_risk_and_coverage_by_hand():
    """Sure, wrong among two equals, right, wrong: given from the surest down, equals together."""
    coverage, risk = risk_coverage(np.array([0.2, 0.9, 0.6, 0.6, 0.4]), np.array([0, 1, 0, 1, 1]))
    assert coverage == pytest.approx([0.2, 0.6, 0.8, 1.0]) and risk == pytest.approx([0, 1 / 3, 1 / 4, 2 / 5])
    assert [part.shape for part in risk_coverage(np.zeros(0), np.zeros(0))] == [(0,), (0,)]


def test_a_quadratic_answer_is_judged_with_what_bends_it():
    """Its matrix is right and its bend moves every corner by (6, 8) px; refused, the matrix is what was tried."""
    pair = draw_pair(3, 0, ("CF", "FA"), PairOptions(size_px=96))
    H, terms = np.linalg.inv(pair.H_0to1), np.zeros((6, 2))
    terms[0], terms[1, 0], terms[2, 1] = (6, 8), 100, 100
    one = Registration(
        "ok", H, 1.0, *[np.zeros((0, 2))] * 2, np.zeros(0, bool), (96, 96), (96, 96), "quadratic", H_tried=H
    )
    bent = replace(
        one,
        quadratic={"forward": terms, "backward": terms, "frame_from_original1": H, "original0_from_frame": np.eye(3)},
    )
    found = [run_trial(lambda fixed, moving, result=result: result, pair) for result in (one, bent, bent.refuse("no"))]
    assert [(t.error_px, t.would_be_px) for t in found] == [
        pytest.approx(p, abs=1e-6) for p in ((0, 0), (80, 80), (np.inf, 0))
    ]
