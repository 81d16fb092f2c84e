"""Training on round eyes: labels, descriptors, PKE and pictures follow the dense map of a batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from retina_kp.core.dense import BEND, bend_nodes, carry, moving_in_fixed_frame
from retina_kp.core.geometry import corners, inside, known_points, similarity, warp_points
from retina_kp.data.sources import join_batches
from retina_kp.networks import DenseOutput
from retina_kp.synthetic.cameras import RoundOptions
from retina_kp.synthetic.shown import Shown, true_map
from retina_kp.synthetic.training_pairs import SyntheticOptions, SyntheticPairs
from retina_kp.training.config import TrainConfig
from retina_kp.training.losses import LossContext, in_fixed_frame
from retina_kp.training.memory import ValueMap, visits_of
from retina_kp.training.objective import anchor_points
from retina_kp.training.pke import PkeOptions, mine
from retina_kp.training.run_data import ValidationSet
from retina_kp.training.trainer import Trainer

FLAT = SyntheticOptions(size_px=160, field_deg=(40.0, 60.0))
ROUND = replace(FLAT, round_share=1.0, eye=RoundOptions(deformation_px=(2.0, 6.0)))
ODD_HW = (61, 83)


def truth(H=None, bend=None, hw=ODD_HW, count=1) -> dict:
    H = torch.eye(3, dtype=torch.float64) if H is None else torch.from_numpy(H)
    batch = {"H_0to1": H.expand(count, 3, 3), "image0": torch.rand(count, 1, *hw), "image1": torch.rand(count, 1, *hw)}
    return batch if bend is None else batch | {BEND: bend}


# ------------------------------------------------------------------ the dense map


def test_a_map_that_is_linear_on_the_nodes_is_read_exactly_up_to_the_corners():
    nodes = bend_nodes(ODD_HW)
    batch = truth(bend=(0.1 * nodes + 3).float().permute(2, 0, 1)[None])
    points = torch.tensor(np.vstack([corners(ODD_HW), [[-0.5, -0.5], [12.3, 45.6]]]))[None]
    assert torch.allclose(carry(points, batch), (points + 0.1 * points + 3).float(), atol=1e-4)


def test_points_without_a_partner_stay_nan():
    bend = torch.zeros(1, 2, *bend_nodes(ODD_HW).shape[:2])
    bend[..., 0:4, 0:4] = torch.nan  # image 1's camera sees nothing there
    points = torch.tensor([[[torch.nan, 3.0], [5.0, 5.0], [70.0, 50.0]]])
    assert torch.isfinite(carry(points, truth(bend=bend))).all(-1).tolist() == [[False, False, True]]
    assert carry(torch.zeros(1, 0, 2), truth(bend=bend)).shape == (1, 0, 2)


def test_without_a_bend_the_matrix_tells_all():
    H, points = similarity(30, 1.2, (20, 20), (25, 30)), torch.rand(1, 7, 2) * 50
    assert torch.equal(carry(points, truth(H)), warp_points(points.double(), torch.from_numpy(H)).float())


def test_some_pairs_of_a_batch_are_carried_by_their_own_bend():
    bend = torch.zeros(3, 2, *bend_nodes(ODD_HW).shape[:2])
    bend[1] = 4.0
    points, batch = torch.tensor([[[10.0, 20.0]]]), truth(bend=bend, count=3)
    assert carry(points, batch)[:, 0].tolist() == [[10, 20], [14, 24], [10, 20]]
    assert carry(points, batch, slice(1, 2))[:, 0].tolist() == [[14, 24]]


# ------------------------------------------------------------------ batches


@pytest.fixture(scope="module")
def batch():
    return SyntheticPairs(3, 4, ROUND).batch(1, 6)


def junctions_apart(batch) -> np.ndarray:
    """From junctions that image 1 shows to the nearest carried one of image 0, for those that both show."""
    found = []
    for k in range(len(batch["image0"])):
        own = known_points(batch["true_keypoints"][k])
        carried = carry(own[None], batch, slice(k, k + 1))[0]
        labels = known_points(batch["vessel_keypoints1"][k])
        if len(labels) and len(own):
            apart = (labels[:, None].double() - carried[None].double()).norm(dim=-1).amin(1)
            found.append(apart[apart < 5].numpy())
    return np.concatenate(found)


def test_labels_of_both_images_are_one_spot_under_the_dense_map(batch):
    exact, affine = junctions_apart(batch), junctions_apart({k: v for k, v in batch.items() if k != BEND})
    assert len(exact) > 30 and np.median(exact) < 0.03 and np.percentile(exact, 90) < 0.1
    assert np.median(affine) > 0.3


def test_the_matrix_of_a_round_pair_is_the_best_affine_one(batch):
    nodes = bend_nodes((160, 160)).reshape(1, -1, 2)
    for k in range(6):
        true = carry(nodes, batch, slice(k, k + 1))[0]
        both = inside(nodes[0], (160, 160)) & inside(true, (160, 160))
        assert batch[BEND][k].flatten(1)[:, both].mean(1).abs().max() < 1e-3


def test_flat_pairs_among_round_ones_stay_as_they_are():
    flat, mixed = (SyntheticPairs(5, 3, o).batch(0, 8) for o in (FLAT, replace(ROUND, round_share=0.5)))
    straight = mixed[BEND].flatten(1).abs().amax(1) == 0
    assert 0 < straight.sum() < 8 and BEND not in flat
    for key in ("image0", "image1", "H_0to1", "vessel_mask0"):
        assert torch.equal(flat[key][straight], mixed[key][straight])
        assert not torch.equal(flat[key], mixed[key])
    joined = join_batches([flat, mixed])
    assert joined[BEND][:8].abs().max() == 0 and torch.equal(joined[BEND][8:], mixed[BEND])


def test_layers_of_two_views_agree_under_the_dense_map():
    data = SyntheticPairs(3, 4, replace(ROUND, size_px=400))
    view = data.view(1)
    H = np.stack([similarity(turn, 0.7, (320, 320), (199.5, 199.5)) for turn in (10, 60)])
    cameras = data._round_cameras(0, [view], H, [(1, 0)])
    shown = [Shown(view, m, (400, 400), camera) for m, camera in zip(H, cameras, strict=True)]
    drawn = [torch.from_numpy(np.maximum(*s.layers()[0][:2]))[None, None].float() for s in shown]
    relative = torch.from_numpy(H[1] @ np.linalg.inv(H[0]))[None]
    H_0to1, bend = true_map(relative, shown[:1], shown[1:])
    batch = {"image0": drawn[0], "image1": drawn[1], "H_0to1": H_0to1}

    def dice(batch) -> float:
        moved, covered = moving_in_fixed_frame(batch)
        a, b = ((x > 127) & covered for x in (moved, drawn[0]))
        return float(2 * (a & b).sum() / (a.sum() + b.sum()))

    assert dice(batch | bend) > 0.8 > dice(batch) + 0.1


def test_a_frame_that_comes_back_is_seen_by_the_same_camera():
    data = SyntheticPairs(3, 1, replace(ROUND, frames_per_retina=1))
    first, again = (data.batch(k, 1) for k in (0, 1))
    assert first["sample_ids"] == again["sample_ids"] != [""]
    known = (known_points(b["true_keypoints"][0]) for b in (first, again))
    a, b = sorted(known, key=len)
    both = torch.cdist(a.double(), b.double()).amin(1) < 1e-4
    assert both.float().mean() > 0.5 and not torch.equal(first[BEND], again[BEND])


# ------------------------------------------------------------------ all who map points

SHIFT = 8.0  # px to the right, so that a bend may stand for a translation


def outputs() -> tuple[DenseOutput, DenseOutput]:
    """Image 1's maps are those of image 0, SHIFT to the right."""
    g = torch.Generator().manual_seed(0)
    detector, descriptors = torch.rand(1, 1, 40, 48, generator=g), torch.randn(1, 8, 20, 24, generator=g)
    return DenseOutput(detector, descriptors, 4, 8), DenseOutput(detector.roll(2, 3), descriptors.roll(1, 3), 4, 8)


def told(by: str) -> dict:
    """A batch that says so by its matrix, by its bend, or not at all."""
    hw, g = (160, 192), torch.Generator().manual_seed(1)
    H = similarity(0, 1, (0, 0), (SHIFT if by == "matrix" else 0, 0))
    bend = torch.zeros(1, 2, *bend_nodes(hw).shape[:2])
    bend[:, 0] = SHIFT
    points = torch.rand(1, 30, 2, generator=g) * 120 + 20
    whole = torch.ones(1, 1, *hw, dtype=torch.bool)
    seen = {f"{name}{k}": whole for name in ("valid", "vessel_mask") for k in (0, 1)}
    clicked = points + torch.tensor([SHIFT, 0.5])
    found = {"vessel_keypoints": points[:, :5], "points0": points, "points1": clicked, "sample_ids": [7]}
    return truth(H, bend if by == "bend" else None, hw) | seen | found


def geometric(batch):
    out0, out1 = outputs()
    return torch.cat([part.float().flatten() for part in in_fixed_frame(out1.detector, batch, out0)])


def descriptors(batch):
    return LossContext(*outputs(), batch, batch["points0"]).describe(batch["points0"]).value


def clicked(batch):
    return torch.nan_to_num(anchor_points(batch, clicked_px=2.0)[1])


def mined(batch):
    options = PkeOptions(candidate_min_probability=0.5, pke_min_probability=0.5, content_ratio_max=0.99)
    found = mine(*outputs(), batch, options)
    memory = ValueMap(options)
    memory.book(visits_of(memory, found, batch))
    [visit] = visits_of(memory, found, batch)
    return torch.cat([found.points0_xy[0].double(), found.points1_xy[0].double(), visit.could_xy])


class Known(torch.nn.Module):
    """Answers a white image with the maps of image 1."""

    def forward(self, image, valid):
        return outputs()[int(image.mean() > 0.5)]


def validated(batch):
    images = {"image0": torch.zeros(1, 1, 160, 192), "image1": torch.ones(1, 1, 160, 192)}
    junctions = {f"vessel_keypoints{k}": torch.full((1, 1, 2), torch.nan) for k in ("", "1")}
    found = ValidationSet([batch | images | junctions]).evaluate(Known())
    return torch.tensor([found["gt_matched_right"], found["gt_match_px"]])


@pytest.mark.parametrize("user", [geometric, descriptors, clicked, mined, validated])
def test_a_bend_that_is_a_translation_is_as_good_as_the_matrix(user):
    by_matrix, by_bend, untold = (user(told(by)) for by in ("matrix", "bend", "nothing"))
    assert torch.allclose(by_bend, by_matrix, atol=1e-3) and by_bend.numel()
    assert untold.shape != by_matrix.shape or not torch.allclose(untold, by_matrix, atol=0.01)


@pytest.mark.parametrize("phase", ["geometric", "pke"])
def test_a_run_trains_on_a_mix_of_flat_and_round_pairs(phase, tmp_path):
    data = replace(ROUND, size_px=96, round_share=0.5, frames_per_retina=1)
    tiny = {"network_options": {"width": 0.25, "descriptor_dim": 16}, "pool_size": 4, "validation_pairs": 4}
    trainer = Trainer(TrainConfig(phase=phase, epochs=1, steps_per_epoch=2, batch_size=4, data=data, **tiny), tmp_path)
    assert any(BEND in b and (b[BEND].flatten(1).amax(1) == 0).any() for b in trainer.validations[""].batches)
    metrics = trainer.step()
    assert all(np.isfinite(metrics[name]) for name in ("loss_det", "loss_des"))
    assert np.isfinite(trainer.validations[""].evaluate(trainer.network)["repeatability"])
