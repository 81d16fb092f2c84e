"""The ladder: every variant leaves out what it says, and nothing is measured twice."""

from dataclasses import replace

import numpy as np
import pytest

from retina_kp.core.config import to_dict
from retina_kp.core.geometry import describe
from retina_kp.evaluation.pairs import SyntheticPair
from retina_kp.evaluation.runner import measure
from retina_kp.networks.checkpoints import find_weights, read_metadata
from retina_kp.registration.options import RegistrarOptions, registrar_options
from retina_kp.studies import ladder
from retina_kp.studies.ladder import (
    INGREDIENTS,
    SHORT,
    VARIANTS,
    WHOLE,
    Variant,
    VariantRegistrar,
    variants,
)
from retina_kp.synthetic.pairs import PairOptions, draw_pair
from retina_kp.synthetic.training_pairs import SyntheticOptions

TURNED = PairOptions(
    size_px=512, rotation_deg=180.0, min_rotation_deg=150.0, scale=(0.9, 1.1), min_overlap=0.7, shear=0.15
)


@pytest.fixture(scope="module")
def pair():
    return draw_pair(3, 1, ("CF", "FA"), TURNED)


def test_upright_search_does_not_find_an_upside_down_pair(pair):
    calibration = read_metadata(find_weights("lite"))["calibration"]
    chosen = (WHOLE, Variant("every turn", options={"stages": 1}), Variant("upright", options={"stages": 0}))
    rows = measure([SyntheticPair(given=pair)], [replace(variant, calibration=calibration) for variant in chosen])
    errors = dict(zip(rows.method, rows.tried_px, strict=True))
    assert errors[WHOLE.name] < 5 and errors["every turn"] < 5 and not errors["upright"] <= 50


def test_accuracy_is_what_the_variant_says(pair):
    found = {}
    for name in ("search", "close matches", "maps"):
        found[name] = VariantRegistrar.standing_on(Variant(name, accuracy=name))(pair.fixed, pair.moving).H_1to0
    assert describe(found["search"], pair.moving.shape[:2]).anisotropy == pytest.approx(1)  # a similarity
    sheared = describe(np.linalg.inv(pair.H_0to1), pair.moving.shape[:2]).anisotropy
    assert sheared > 1.03 and describe(found["maps"], pair.moving.shape[:2]).anisotropy == pytest.approx(
        sheared, abs=0.01
    )
    assert not np.allclose(found["close matches"], found["maps"], rtol=0, atol=1e-9)


def test_variants_differ_from_the_whole_in_one_respect_but_for_brute_force():
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    for variant in VARIANTS:
        parts = (variant.turned != WHOLE.turned, variant.accuracy != WHOLE.accuracy, bool(variant.options))
        assert sum(parts) == 1 or variant.options == ladder.BRUTE
        assert RegistrarOptions() != registrar_options(**variant.options) or not variant.options


def test_the_last_stage_of_a_variant_has_the_windows_it_says():
    windows = {
        name: len(VariantRegistrar.standing_on(Variant(name, accuracy=name)).levels)
        for name in ("maps", "first window", "close matches", "search")
    }
    assert windows == {"maps": 2, "first window": 1, "close matches": 0, "search": 0}


def test_variants_can_be_picked_by_name():
    assert [v.name for v in VARIANTS if ladder.named(v, "full size,quadratic")] == [
        "search: pictures of full size",
        "search: brute force, every turn and scale drawn at full size",
        "model: quadratic",
    ]
    assert all(ladder.named(v, "") for v in VARIANTS)


def test_a_variant_turns_what_it_says():
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
    variant = ladder.train_ingredient("tiny", tmp_path)
    assert (variant.name, variant.turned) == ("tiny", "pictures") and read_metadata(variant.weights)["step"] == 1
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


def test_a_variant_is_measured_once_and_anew_for_other_pairs(tmp_path, monkeypatch):
    found = []

    def run(pair, method, key, how):
        found.append(method.name)
        return {"key": key, "status": "ok", "tried_px": 3.0, "seconds": 0.5}

    monkeypatch.setattr("retina_kp.evaluation.runner.run_unit", run)
    monkeypatch.setattr(ladder, "SETS", {name: (options, ("FA",)) for name, (options, _) in ladder.SETS.items()})
    chosen = [VARIANTS[0], WHOLE]
    table = ladder.measure_variants(chosen, 2, tmp_path, None)
    assert table.equals(ladder.measure_variants(chosen, 2, tmp_path, None)) and len(found) == 2 * 2 * len(ladder.SETS)
    (row, whole) = table.to_dict("records")
    assert set(row) == {"variant", *(f"{s} {what}" for s in ladder.SETS for what in ("CF-FA", "≤ 2 px", "s"))}
    assert whole["variant"] == WHOLE.name and (row["usual CF-FA"], row["usual ≤ 2 px"], row["usual s"]) == (1, 0, 0.5)
    ladder.measure_variants([WHOLE], 3, tmp_path, None)
    assert found[12:] == [WHOLE.name] * 3, "one pair more of each set"
    ladder.measure_variants([WHOLE], 3, tmp_path, {"bias": 1.0})
    assert found[15:] == [WHOLE.name] * 9, "another calibration"
