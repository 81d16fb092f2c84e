"""Oracles for the second look: a map is judged by what it lays on each other."""

from dataclasses import replace

import numpy as np
import pytest

from retina_kp import Registrar
from retina_kp.core.geometry import translation
from retina_kp.registration import bending
from retina_kp.registration.confidence import AGAIN, DEFAULT_CALIBRATION, checked
from retina_kp.registration.judging import looked_at_again
from retina_kp.synthetic.pairs import PairOptions, draw_pair


@pytest.fixture(scope="module")
def seen():
    registrar = Registrar.from_pretrained("lite", device="cpu")
    pair = draw_pair(5, 1, ("CF", "FA"), PairOptions(size_px=512, rotation_deg=20))
    views = registrar.views(pair.fixed), registrar.views(pair.moving)
    return registrar, views, registrar(pair.fixed, pair.moving)


def again(seen, result):
    registrar, views, _ = seen
    return looked_at_again(result, *views, registrar.options.closeup, registrar.calibration[AGAIN])


def test_a_right_map_is_confirmed_by_matches_of_its_own(seen):
    result = seen[2]
    told = again(seen, replace(result, confidence=0.01))
    assert told.confidence > 0.97 and told.inliers.sum() > 20
    off_px = np.linalg.norm(told.map_to_fixed(told.matches1) - told.matches0, axis=1)
    assert np.median(off_px[told.inliers]) < 2 and np.allclose(told.H_1to0, result.H_1to0)


def test_a_map_that_is_off_is_not(seen):
    off = translation(60, -45) @ seen[2].H_1to0
    told = again(seen, replace(seen[2], H_1to0=off, H_tried=off))
    assert told.confidence < 0.05 and told.inliers.mean() < 0.3


def test_images_that_share_next_to_nothing_are_left_as_they_were(seen):
    away = translation(5000, 0) @ seen[2].H_1to0
    result = replace(seen[2], H_1to0=away, confidence=0.3)
    assert again(seen, result) is result


def test_the_second_look_has_terms_of_its_own_or_those_of_the_first():
    assert checked(None) == {**DEFAULT_CALIBRATION, AGAIN: DEFAULT_CALIBRATION}
    own = {**DEFAULT_CALIBRATION, AGAIN: DEFAULT_CALIBRATION | {"bias": -3.0}}
    assert checked(own) == own and checked(checked(own)) == own
    with pytest.raises(ValueError, match="another version .luck"):
        checked(DEFAULT_CALIBRATION | {AGAIN: DEFAULT_CALIBRATION | {"luck": 1.0}})
    with pytest.raises(ValueError, match="bias is nan, no finite number"):
        checked(DEFAULT_CALIBRATION | {AGAIN: DEFAULT_CALIBRATION | {"bias": float("nan")}})


def test_a_second_start_that_loses_the_overlap_leaves_the_first(seen, monkeypatch):
    """Moved freely, images may share too little to be compared."""
    begun, climb = [], bending.climb

    def poor_then_none(*given):
        begun.append(given)
        return climb(*given)._replace(correlation=0.1) if len(begun) % 2 else None

    monkeypatch.setattr(bending, "climb", poor_then_none)
    registrar, views, result = seen
    told = bending.bend(*views, replace(result, displacement=None), bending.SMOOTH)
    assert len(begun) >= 2 and told.ok and told.expected is not None
