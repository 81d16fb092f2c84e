"""Phases as lists of losses: what each weighs, what a loss may look at, and that a new one needs a function and a
line."""

from dataclasses import replace

import pytest
import torch

from retina_kp.core.geometry import similarity, warp_points
from retina_kp.networks import build_network
from retina_kp.synthetic.training_pairs import SyntheticOptions
from retina_kp.training import losses
from retina_kp.training.config import TrainConfig
from retina_kp.training.losses import PHASES, Loss, Term, weighted_losses
from retina_kp.training.objective import Objective, anchor_points, annotated_points
from retina_kp.training.run_data import RunFiles

NAN = torch.nan
TINY = TrainConfig(batch_size=2, pool_size=2, extra_points=8, data=SyntheticOptions(size_px=64, frames_per_retina=1))


def judge(config: TrainConfig):
    torch.manual_seed(0)
    network = build_network("lite", width=0.25, descriptor_dim=16)
    batch = RunFiles.of(config).source(config).batch(0, config.batch_size)
    return Objective(config)(network, batch, 0), network


def test_the_plan_is_what_the_phases_hold():
    """../shared/spec/training-plan.md, and the moving detector's own labels, which SuperRetina does not use."""
    names = {phase: [loss.name for loss in p.losses] for phase, p in PHASES.items()}
    assert names == {
        "warmup": ["loss_det", "loss_des"],
        "geometric": ["loss_det", "loss_des", "loss_geo", "loss_mov"],
        "pke": ["loss_det", "loss_des", "loss_geo_pke"],
        "sim2real": ["loss_det", "loss_des", "loss_geo_pke", "loss_explore"],
    }
    assert [p.pke for p in PHASES.values()] == [False, False, True, True] and PHASES["sim2real"].real
    weights = {loss.name: loss.weight for loss in PHASES["geometric"].losses}
    assert weights["loss_det"] == weights["loss_des"] == 1 and 0.5 <= weights["loss_geo"] <= 1
    for loss in {loss.name: loss for p in PHASES.values() for loss in p.losses}.values():
        assert loss.formula and loss.about


def test_weights_are_changed_by_name_and_nothing_else_is():
    changed = weighted_losses("sim2real", {"loss_det": 2.0, "loss_explore": 0.0})
    assert {loss.name: loss.weight for loss in changed} == {"loss_det": 2.0, "loss_des": 1.0, "loss_geo_pke": 0.2}
    assert PHASES["sim2real"].losses[0].weight == 0.2


def test_a_new_loss_is_a_function_and_a_line(monkeypatch):
    def quiet_moving(context: losses.LossContext) -> Term:
        return Term(context.out1.detector.mean(), len(context.out1.detector))

    mine = Loss("loss_quiet", quiet_moving, 0.25, r"\overline{P_1}", "the moving detector says little")
    monkeypatch.setitem(PHASES, "pke", replace(PHASES["pke"], losses=(*PHASES["pke"].losses, mine)))
    judged, network = judge(replace(TINY, phase="pke"))
    values = {name: value.item() for name, value in judged.metrics.items() if name.startswith("loss_")}
    assert values["loss_quiet"] == pytest.approx(float(judged.metrics["mean_det1"]))
    weights = {loss.name: loss.weight for loss in PHASES["pke"].losses}
    assert float(judged.total) == pytest.approx(sum(weights[name] * value for name, value in values.items()), rel=1e-5)
    without, _ = judge(replace(TINY, phase="pke", weights={"loss_quiet": 0.0}))
    assert "loss_quiet" not in without.metrics


def test_every_layer_keeps_a_gradient_whichever_losses_count():
    """Several processes wait for the gradients of all."""
    judged, network = judge(replace(TINY, phase="warmup", weights={"loss_det": 0.0}))
    judged.total.backward()
    assert all(p.grad is not None for p in network.parameters())
    assert network.detect.weight.grad.abs().max() == 0


# ------------------------------------------------------------------ clicked points

H = torch.from_numpy(similarity(30.0, 1.0, (32.0, 32.0), (30.0, 33.0)))[None]
CLICKED0 = torch.tensor([[[20.0, 20.0], [40.0, 25.0], [30.0, 44.0]]])
JUNCTIONS = torch.tensor([[[10.0, 50.0]]])


def clicked_batch() -> dict:
    """Three clicked points, whose partners lie 0, 3 and 12 px from where H puts them."""
    points1 = warp_points(CLICKED0.double(), H).float() + torch.tensor([[[0.0, 0], [3, 0], [0, 12]]])
    return {"vessel_keypoints": JUNCTIONS, "points0": CLICKED0, "points1": points1, "H_0to1": H}


def test_anchors_are_the_clicked_points_and_the_labels_both():
    anchors, partners = anchor_points(clicked_batch())
    assert torch.equal(anchors[0, :3], CLICKED0[0]) and anchors[0, 3:].isnan().all() and partners is None
    assert torch.equal(annotated_points(clicked_batch())[0], torch.cat([JUNCTIONS[0], CLICKED0[0]]))
    drawn = clicked_batch() | {"points0": torch.full((1, 2, 2), NAN), "points1": torch.full((1, 2, 2), NAN)}
    assert torch.equal(anchor_points(drawn)[0][0, 2:], JUNCTIONS[0]), "junctions where nobody clicked"


def test_partners_are_as_clicked_where_the_click_is_near():
    batch = clicked_batch()
    partners = anchor_points(batch, clicked_px=5.0)[1]
    assert torch.equal(partners[0, :2], batch["points1"][0, :2]) and partners[0, 2:].isnan().all()
    assert anchor_points({"vessel_keypoints": JUNCTIONS}, 5.0)[1] is None
