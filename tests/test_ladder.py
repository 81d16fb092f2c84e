"""The ladder: every variant leaves out what it says, and nothing is measured twice."""

import json
from dataclasses import replace

import numpy as np
import pytest

from retina_kp.core.config import to_dict
from retina_kp.core.geometry import describe
from retina_kp.evaluation.trials import run_trial
from retina_kp.networks.checkpoints import read_metadata
from retina_kp.registration.options import RegistrarOptions, registrar_options
from retina_kp.studies import ladder
from retina_kp.studies.ladder import INGREDIENTS, SHORT, VARIANTS, WHOLE, Variant, VariantRegistrar, variants
from retina_kp.synthetic.pairs import PairOptions, draw_pair
from retina_kp.synthetic.training_pairs import SyntheticOptions

TURNED = PairOptions(
    size_px=512, rotation_deg=180.0, min_rotation_deg=150.0, scale=(0.9, 1.1), min_overlap=0.7, shear=0.15
)


@pytest.fixture(scope="module")
def pair():
    return draw_pair(3, 1, ("CF", "FA"), TURNED)


def test_upright_search_does_not_find_an_upside_down_pair(pair):
    errors = {}
    for variant in (WHOLE, Variant("every turn", options={"stages": 1}), Variant("upright", options={"stages": 0})):
        errors[variant.name] = run_trial(VariantRegistrar.standing_on(variant), pair).would_be_px
    assert errors[WHOLE.name] < 5 and errors["every turn"] < 5 and errors["upright"] > 50


def test_accuracy_is_what_the_rung_says(pair):
    found = {}
    for name in ("search", "close matches", "maps"):
        found[name] = VariantRegistrar.standing_on(Variant(name, accuracy=name))(pair.fixed, pair.moving).H_1to0
    assert describe(found["search"], pair.moving.shape[:2]).anisotropy == pytest.approx(1)  # a similarity
    sheared = describe(np.linalg.inv(pair.H_0to1), pair.moving.shape[:2]).anisotropy
    assert sheared > 1.03 and describe(found["maps"], pair.moving.shape[:2]).anisotropy == pytest.approx(
        sheared, abs=0.01
    )
    assert not np.allclose(found["close matches"], found["maps"], rtol=0, atol=1e-9)


def test_rungs_differ_from_the_whole_in_one_respect_but_for_brute_force():
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    for variant in VARIANTS:
        parts = (variant.turned != WHOLE.turned, variant.accuracy != WHOLE.accuracy, bool(variant.options))
        assert sum(parts) == 1 or variant.options == ladder.BRUTE
        assert RegistrarOptions() != registrar_options(**variant.options) or not variant.options


def test_a_rung_turns_what_it_says():
    assert VariantRegistrar.standing_on(WHOLE).steerers is not None
    assert VariantRegistrar.standing_on(Variant("drawn", turned="pictures")).steerers is None


def test_an_ingredient_is_trained_as_told_and_measured(tmp_path, monkeypatch):
    tiny = replace(
        SHORT,
        epochs=1,
        steps_per_epoch=1,
        batch_size=2,
        pool_size=2,
        validation_pairs=2,
        data=SyntheticOptions(size_px=64),
    )
    monkeypatch.setitem(INGREDIENTS, "tiny", replace(tiny, extra_points=0, precision="fp32"))
    monkeypatch.setattr(
        ladder, "measure", lambda variant, *rest: (variant.name, read_metadata(variant.weights)["step"], *rest)
    )
    assert ladder.train_and_measure("tiny", 3, tmp_path, None) == ("tiny", 1, 3, tmp_path, None)
    assert all(
        config == SHORT or len(differences(config, SHORT)) == 1
        for name, config in INGREDIENTS.items()
        if name != "tiny"
    )


def differences(config, other) -> list[str]:
    values, others = to_dict(config), to_dict(other)
    return [key for key in values if values[key] != others[key]]


def test_checkpoints_of_a_recipe_come_first_in_their_order(tmp_path):
    for name in ("2_geometric", "1_warmup"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint.safetensors").touch()
    assert [variant.name for variant in variants(tmp_path)[:2]] == [
        "weights: after 1_warmup",
        "weights: after 2_geometric",
    ]
    assert variants()[-1] == WHOLE and variants(weights="x")[0].weights == "x"
    with pytest.raises(ValueError, match="empty.*holds no"):
        variants(tmp_path / "empty")


def test_a_rung_is_measured_once_and_anew_for_other_pairs(tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(
        ladder,
        "run_trials",
        lambda registrar, seed, pairs, options, moving: counted.append(pairs) or run_two(registrar),
    )
    trial = run_trial(
        VariantRegistrar.from_pretrained("lite", device="cpu"), draw_pair(3, 1, ("CF", "FA"), PairOptions(size_px=256))
    )
    run_two = lambda registrar: [trial, trial]  # noqa: E731
    monkeypatch.setattr(ladder, "SETS", {name: (options, ("FA",)) for name, (options, _) in ladder.SETS.items()})
    row = ladder.measure(WHOLE, 2, tmp_path, None)
    assert row == ladder.measure(WHOLE, 2, tmp_path, None) and counted == [2, 2]
    assert set(row) == {"variant", *(f"{s} {what}" for s in ladder.SETS for what in ("FA", "≤ 2 px", "s"))}
    assert row["usual FA"] == float(trial.would_be_px <= 5)
    ladder.measure(WHOLE, 3, tmp_path, None)
    assert (
        counted == [2, 2, 3, 3]
        and json.loads((tmp_path / "all, as shipped.json").read_text())["belongs_to"]["pairs"] == 3
    )
