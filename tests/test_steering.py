"""A matrix does to descriptors what turning the picture does, nearly, and the search believes it."""

import numpy as np
import pytest

from retina_kp import PairOptions, Registrar, draw_pair
from retina_kp.evaluation.calibration import fit_steerers
from retina_kp.networks.checkpoints import load_network, save_network
from retina_kp.registration.keypoints import STEERED_DEG, Features
from retina_kp.registration.search import try_view


@pytest.fixture(scope="module")
def pair():
    return draw_pair(
        5, 2, ("CF", "FA"), PairOptions(size_px=512, rotation_deg=0.0, scale=(0.95, 1.05), min_overlap=0.8)
    )


def described_by(descriptors) -> Features:
    return Features(np.zeros((len(descriptors), 2), np.float32), np.zeros(len(descriptors)), descriptors, (8, 8))


def test_turns_the_other_way_undo_each_other():
    rng = np.random.default_rng(0)
    steerers = np.stack([np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in STEERED_DEG]).astype(np.float32)
    upright = described_by(rng.normal(size=(9, 6)).astype(np.float32))
    for turn in (45.0, 90.0, 135.0):
        there = upright.steered(steerers, turn)
        assert not np.allclose(there.descriptors, upright.descriptors, atol=0.1)
        assert np.allclose(there.steered(steerers, -turn).descriptors, upright.descriptors, atol=1e-5)
        assert np.array_equal(
            upright.steered(steerers, 360 - turn).descriptors, upright.steered(steerers, -turn).descriptors
        )
    assert upright.steered(steerers, 360.0) is upright
    assert np.array_equal(upright.steered(steerers, -180.0).descriptors, upright.steered(steerers, 180.0).descriptors)
    assert described_by(upright.descriptors[:0]).steered(steerers, 90.0).descriptors.shape == (0, 6)
    with pytest.raises(ValueError, match="30"):
        upright.steered(steerers, 30.0)


@pytest.mark.parametrize("turn", [45.0, 135.0, 180.0, -90.0, -45.0])
def test_steered_descriptors_are_those_of_the_picture_turned(registrar, pair, turn):
    views, drawn, scale = registrar.views(pair.fixed), registrar.views(pair.fixed), registrar.options.search.coarse
    drawn.steerers = None
    upright, steered, turned = views.features(0.0, scale), views.features(turn, scale), drawn.features(turn, scale)
    assert np.array_equal(steered.keypoints_xy, upright.keypoints_xy) and not np.array_equal(
        turned.keypoints_xy, upright.keypoints_xy
    )
    assert np.linalg.norm(steered.descriptors, axis=1) == pytest.approx(1, abs=0.01)
    distance = np.linalg.norm(steered.keypoints_xy[:, None] - turned.keypoints_xy, axis=-1)
    same, nearest = distance.min(1) < 1.5, distance.argmin(1)
    before, after = ((f.descriptors * turned.descriptors[nearest]).sum(1)[same].mean() for f in (upright, steered))
    assert same.sum() > 20 and after > 0.75 and after > before + 0.05


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_pair_is_found_with_and_without(registrar, pair, quarters):
    moving, supports, scale = np.ascontiguousarray(np.rot90(pair.moving, quarters)), [], registrar.options.search.coarse
    for steerers in (registrar.steerers, None):
        views0, views1 = registrar.views(pair.fixed), registrar.views(moving)
        views0.steerers = views1.steerers = steerers
        drawn, picture = [], views1.picture
        views1.picture = lambda *where, drawn=drawn, picture=picture: drawn.append(1) or picture(*where)
        found = [try_view(views0, views1, registrar.options.search, 90.0 * turn, scale, scale) for turn in range(4)]
        best = max(range(4), key=lambda turn: found[turn].support if found[turn] else 0)
        assert best == quarters and len(drawn) == (4 if steerers is None else 1)
        supports.append(found[best].support)
    assert min(supports) > 0.5 * max(supports)


def test_a_few_pairs_give_steerers_and_a_file_keeps_them(registrar, tmp_path):
    steerers = fit_steerers(registrar, pairs=1)
    assert steerers.shape == (len(STEERED_DEG), 128, 128) and steerers.dtype == np.float32
    assert np.abs(steerers @ steerers.transpose(0, 2, 1) - np.eye(128)).max() < 1e-4
    # of other pictures than those that ship
    assert np.mean(steerers * registrar.steerers) > 0.5 * np.mean(registrar.steerers**2)
    network, metadata = load_network("lite")
    again, _ = load_network(
        save_network(tmp_path / "with.safetensors", network, metadata, half=True, steerers=steerers)
    )
    assert np.abs(again.steerers - steerers).max() < 1e-3
    assert load_network(save_network(tmp_path / "without.safetensors", network, metadata))[0].steerers is None
    assert Registrar.from_pretrained(tmp_path / "without.safetensors").steerers is None
