"""Rarer looks of synthetic retinas: infants, ultra-wide fields, reflectance, laser scars; and pairs of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from retina_kp.core.config import from_dict, to_dict
from retina_kp.evaluation.pairs import modalities
from retina_kp.synthetic.drawing import view_matrix
from retina_kp.synthetic.pairs import PairOptions, draw_pair
from retina_kp.synthetic.render import make_scene
from retina_kp.synthetic.training_pairs import SyntheticOptions, SyntheticPairs
from retina_kp.synthetic.vasculature import REACH_DEG, GrowthOptions, grow_retina
from retina_kp.synthetic.wide_looks import WIDE_LOOKS, _degrees, _streaks, wide_field

USUAL = SyntheticOptions(size_px=96)
LOOKS = (("RetCam", "RetCam"), ("UWF", "FA"), ("IR", "SLO"))
POOL = 3


def field_deg(view) -> float:
    """Degrees across a cached view."""
    return view.layers.shape[-1] / np.sqrt(np.linalg.det(view.px_from_deg[:2, :2]))


# ------------------------------------------------------------------ the eye


@pytest.mark.parametrize("reach_deg", [REACH_DEG, 60.0])
def test_laser_scars_lie_around_the_macula_and_leave_the_vessels_as_they_were(reach_deg):
    options = GrowthOptions(reach_deg=reach_deg, lesion_probability=0.0)
    plain, treated = (grow_retina(np.random.default_rng(4), replace(options, laser_probability=p)) for p in (0.0, 1.0))
    assert np.array_equal(plain.segments, treated.segments) and len(plain.lesions) == 0
    away = np.hypot(*treated.lesions[:, 1:3].T)
    assert len(away) > 100 and away.min() > 7 and 0.8 * reach_deg < away.max() < reach_deg


def test_the_wider_look_of_a_pair_decides_what_is_in_view():
    assert wide_field(("CF", "FA")) is None and wide_field(()) is None
    assert wide_field(("CF", "RetCam")) == WIDE_LOOKS["RetCam"]
    assert wide_field(("RetCam", "UWF")) == wide_field(("UWF", "RetCam")) == WIDE_LOOKS["UWF"]


# ------------------------------------------------------------------ training pairs


def test_some_pairs_are_of_the_rarer_kinds_and_each_has_its_field():
    data = SyntheticPairs(2, POOL, replace(USUAL, looks=LOOKS, looks_share=0.5))
    batch = data.batch(0, 12)
    kinds = batch["modalities"]
    assert 2 <= sum(kind in LOOKS for kind in kinds) <= 10 and {k for k in kinds if k in LOOKS} == set(LOOKS)
    assert batch["image0"].shape == batch["image1"].shape == (12, 1, 96, 96)
    for kind in (None, *LOOKS):
        low, high = wide.field_deg if (wide := wide_field(kind or ())) else USUAL.field_deg
        assert low <= field_deg(data.view(1, kind)) <= high


def test_named_looks_change_nothing_until_they_have_a_share():
    plain, named = (SyntheticPairs(2, POOL, o).batch(1, 4) for o in (USUAL, replace(USUAL, looks=LOOKS)))
    assert plain["modalities"] == named["modalities"]
    assert all(torch.equal(plain[k], named[k]) for k in ("image0", "image1", "H_0to1", "vessel_mask0"))


def test_a_frame_that_comes_back_is_of_the_same_kind():
    data = SyntheticPairs(2, POOL, replace(USUAL, looks=LOOKS, looks_share=0.5, frames_per_retina=2))
    seen: dict[str, set] = {}
    for batch in (data.batch(i, 6) for i in range(4)):
        for name, kind in zip(batch["sample_ids"], batch["modalities"], strict=True):
            seen.setdefault(name, set()).add(kind if kind in LOOKS else None)
    assert all(len(kinds) == 1 for kinds in seen.values()) and len(set.union(*seen.values())) > 1


def test_options_with_looks_survive_as_plain_values_and_need_names():
    options = replace(USUAL, looks=LOOKS, looks_share=0.5)
    assert from_dict(SyntheticOptions, to_dict(options)) == options
    with pytest.raises(ValueError, match="looks: takes pairs of names"):
        replace(USUAL, looks_share=0.1)


# ------------------------------------------------------------------ sample pairs


@pytest.mark.parametrize(("kind", "channels"), [("RetCam-RetCam", (3, 3)), ("UWF-FA", (3, 1)), ("IR-SLO", (1, 1))])
def test_truth_of_a_pair_of_looks_fits_its_images(kind, channels):
    options = PairOptions(size_px=320, rotation_deg=90, scale=(0.8, 1.25), laser_probability=0.5)
    for index in range(2):
        pair = draw_pair(6, index, modalities(kind), options)
        assert tuple(1 if image.ndim == 2 else image.shape[2] for image in (pair.fixed, pair.moving)) == channels
        assert pair.modalities == modalities(kind) and pair.overlap >= options.min_overlap
        y, x = np.nonzero(pair.vessel_mask0)
        vessels = np.rint(pair.to_moving(np.column_stack([x, y]))).astype(int)
        vessels = vessels[(vessels >= 0).all(1) & (vessels < 305).all(1)]
        vessels = vessels[pair.valid1[vessels[:, 1], vessels[:, 0]] & pair.valid1[vessels[:, 1], vessels[:, 0] + 15]]
        moving = pair.moving if pair.moving.ndim == 2 else pair.moving[..., 1]
        beside = moving[vessels[:, 1], vessels[:, 0] + 15].mean()
        darker = beside - moving[vessels[:, 1], vessels[:, 0]].mean()
        assert len(vessels) > 500 and darker * (-1 if kind == "UWF-FA" else 1) > 1


def test_pictures_of_an_eye_show_one_choroid():
    eyes = [grow_retina(np.random.default_rng(k), GrowthOptions(lesion_probability=0)) for k in (1, 2)]
    bare = [replace(eye, segments=eye.segments[:0], segment_kind=eye.segment_kind[:0]) for eye in eyes]
    bare = [replace(eye, segment_width_deg=eye.segment_width_deg[:0]) for eye in bare]
    scene = make_scene([bare[0], bare[0], bare[1]], [view_matrix((160, 160), 60.0)] * 3, (160, 160))
    streaks = _streaks(scene, _degrees(scene), torch.Generator().manual_seed(3)).flatten(1)
    same, other = (float(torch.corrcoef(streaks[list(pair)])[0, 1]) for pair in ((0, 1), (0, 2)))
    assert same > 0.6 > 0.3 > other
