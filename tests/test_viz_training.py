"""Tables and pictures of training: numbers by hand, a network's picture from what it really does, and nothing changed
by looking."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from retina_kp import viz  # noqa: E402
from retina_kp.core.images import write_image  # noqa: E402
from retina_kp.data.records import Problem  # noqa: E402
from retina_kp.data.training_files import FileOptions, FileSplit  # noqa: E402
from retina_kp.networks import DenseOutput, build_network  # noqa: E402
from retina_kp.synthetic.pairs import write_aligned_folder  # noqa: E402
from retina_kp.training.config import get_recipe, sized  # noqa: E402
from retina_kp.training.diagnosis import first_pairs  # noqa: E402
from retina_kp.training.run_data import ValidationSet  # noqa: E402
from retina_kp.training.trainer import Trainer  # noqa: E402
from retina_kp.viz import training as viz_training  # noqa: E402
from retina_kp.viz import training_tables  # noqa: E402
from retina_kp.viz.curves import plot_course, shipped_course  # noqa: E402
from retina_kp.viz.network import (  # noqa: E402
    network_parts,
    plot_descriptors,  # noqa: E402
    plot_network,
)
from retina_kp.viz.training import save_keypoint_figures  # noqa: E402

NAN = float("nan")
TRY = get_recipe("try")["pke"]
SMALL = replace(sized(TRY.data, 96), annotated_share=1.0)
TINY = replace(TRY, batch_size=2, pool_size=2, validation_pairs=2, data=SMALL, files=FileOptions(size_px=96))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory) -> Trainer:
    """Of phase 3, on synthetic pairs, not trained."""
    return Trainer(TINY, tmp_path_factory.mktemp("run"))


# ------------------------------------------------------------------ the network's picture


class Forked(torch.nn.Module):
    """image → a (1/2) → b (1/4) → c (1/4); the detector reads a and c, the descriptors read c."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 2, 2), torch.nn.BatchNorm2d(8), torch.nn.ReLU(inplace=True))
        self.b, self.c = torch.nn.Conv2d(8, 16, 2, 2), torch.nn.Conv2d(16, 16, 1)
        self.lift, self.detect = torch.nn.Conv2d(16, 8, 1), torch.nn.Conv2d(8, 1, 1)
        self.describe = torch.nn.Conv2d(16, 32, 1)

    def forward(self, image, valid=None):
        fine = self.a(image)
        coarse = torch.relu(self.c(torch.relu(self.b(fine))))
        lifted = torch.nn.functional.interpolate(self.lift(coarse), scale_factor=2)
        descriptors = torch.nn.functional.normalize(self.describe(coarse))
        return DenseOutput(torch.sigmoid(self.detect(fine + lifted)), descriptors, 2, 4)


def test_a_networks_parts_are_found_by_running_it():
    network = Forked().train()
    before = copy.deepcopy(network.state_dict())
    parts = network_parts(network)
    told = [(p.names, p.stride, p.channels, [parts[k].names[0] for k in sorted(p.reads)], p.head) for p in parts]
    assert told == [
        (["image"], 1, 1, [], ""),
        (["a"], 2, 8, ["image"], ""),
        (["b", "c"], 4, 16, ["a"], ""),
        (["lift"], 4, 8, ["b"], ""),
        (["describe"], 4, 32, ["b"], "descriptors"),
        (["detect"], 2, 1, ["a", "lift"], "detector"),
    ]
    assert [p.column for p in parts] == [0, 1, 2, 3, 3, 4]
    assert [sorted(p.serves) for p in parts[3:]] == [["detector"], ["descriptors"], ["detector"]]
    assert parts[2].serves == {"detector", "descriptors"}
    assert network.training and not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(("name", "skips"), [("lite", 4), ("superretina", 3)])
def test_both_networks_show_their_heads_and_skips(name, skips):
    network = build_network(name)
    parts, figure = network_parts(network), plot_network(network)
    heads = {part.head: part for part in parts if part.head}
    assert (heads["detector"].stride, heads["detector"].channels) == (network.detector_stride, 1)
    assert heads["descriptors"].stride == network.descriptor_stride == 8
    assert sum(len(part.reads) == 2 for part in parts) == skips
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"detector ▸", "descriptors ▸", "full size", "1/8"} <= set(texts)
    assert sum("map" in text for text in texts) == len(parts)
    places = [(part.column, part.stride) for part in parts]
    assert len(set(places)) == len(places), "two boxes lie on each other"
    named = {module for part in parts[1:] for module in part.names}
    assert named == {module for module, _ in network.named_children()}


# ------------------------------------------------------------------ the shipped weights' course


def test_the_shipped_course_has_its_three_stages():
    rows = shipped_course()
    assert rows["stage"].unique().tolist() == ["1_warmup", "2_geometric", "3_pke"]
    assert len(rows) == 50 and rows["step"].iloc[-1] == 1000


def test_stages_follow_each_other_on_one_axis():
    rows = [
        {"stage": "1_warmup", "step": 10.0, "loss_det": 0.9, "loss_geo": 5.0, "repeatability": 0.1},
        {"stage": "1_warmup", "step": 20.0, "loss_det": 0.8, "loss_geo": 5.0, "repeatability": 0.2},
        {"stage": "3_pke", "step": 5.0, "loss_det": 0.7, "loss_geo_pke": 0.6, "repeatability": 0.3},
    ]
    left, right = plot_course(pd.DataFrame(rows)).axes
    borders = [line for line in left.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in borders] == [20]
    detector = [line for line in left.lines if line.get_label() == "loss_det"]
    assert [list(line.get_xdata()) for line in detector] == [[10, 20], [25]]
    assert "loss_geo" not in {line.get_label() for line in left.lines}, "it did not count in phase 1"
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert legend == ["loss_det", "loss_geo_pke"], "loss_des is not in this history"
    assert {text.get_text() for text in right.texts} == {"1", "3"}


# ------------------------------------------------------------------ tables


def test_losses_are_called_on_a_batch_and_nothing_changes(trainer):
    batches = (trainer.data.batch(k, 2) for k in range(20))
    batch = next(batch for batch in batches if torch.isfinite(batch["vessel_keypoints"]).any())
    network, state = copy.deepcopy(trainer.network.state_dict()), copy.deepcopy(trainer.objective.state_dict())
    rows = training_tables.loss_table(trainer, batch).to_dict("records")
    names = [loss.name for loss in trainer.config.losses]
    assert [row["loss"] for row in rows] == [*names, "total"]
    assert [row["it asks that"] for row in rows[:-1]] == [loss.about for loss in trainer.config.losses]
    total = sum(float(row["weight"]) * float(row["value"]) for row in rows[:-1])
    assert float(rows[-1]["value"]) == pytest.approx(total, abs=2e-3)
    assert trainer.network.training and str(trainer.objective.state_dict()) == str(state)
    assert all(torch.equal(value, network[key]) for key, value in trainer.network.state_dict().items())

    trainer.network.eval()
    with torch.no_grad():
        out0, out1 = trainer.network(
            torch.cat([batch["image0"], batch["image1"]]), torch.cat([batch["valid0"], batch["valid1"]])
        ).split(2)
        term = trainer.config.losses[0].term(
            SimpleNamespace(
                out0=out0,
                out1=out1,
                labels_xy=batch["vessel_keypoints"],
                label_map=lambda xy: viz_training.gaussian_labels(
                    xy, out0.detector.shape[-2:], out0.detector_stride, TINY.label_sigma_px
                ),
            )
        )
    trainer.network.train()
    assert float(rows[0]["value"]) == pytest.approx(float(term.value), abs=6e-4)
    assert rows[0]["images or points used"] == term.n_used > 0


def test_a_loss_without_anything_to_look_at_is_a_dash(trainer):
    silent = replace(trainer.config.losses[0], name="loss_mov", term=lambda context: None)
    stub = SimpleNamespace(
        network=trainer.network, device="cpu", objective=SimpleNamespace(losses=[silent], look=trainer.objective.look)
    )
    row, total = training_tables.loss_table(stub, trainer.data.batch(0, 1)).to_dict("records")
    assert row["value"] is None and row["images or points used"] is None and total["value"] == "0.000"


def test_drawn_pairs_are_counted_in_one_row(trainer):
    (row,) = training_tables.pair_table(trainer).to_dict("records")
    assert row["from"] == "synthetic retinas" and row["share of a batch"] == "100%"
    assert row["their eyes"] == TINY.pool_size and row["pairs to validate on"] == TINY.validation_pairs
    assert row["kind"].endswith(" – " + "/".join(dict.fromkeys(TINY.data.moving)))
    assert training_tables.problem_table(trainer).to_dict("records") == [{"left out": "nothing", "why": None}]


def test_files_are_counted_by_kind_and_what_is_left_out_is_named(tmp_path):
    root = write_aligned_folder(tmp_path / "eyes", 3, size_px=128)
    write_image(root / "3_N" / "3_N_fa.png", np.zeros((128, 128), np.uint8))
    files = FileOptions(str(root), mode=("cffa", "cfoct"), share=1.0, size_px=TINY.size_px)
    run = Trainer(replace(TINY, files=files), tmp_path / "run")
    first, second = training_tables.pair_table(run).to_dict("records")
    assert (first["from"], first["kind"], first["share of a batch"]) == ("eyes", "CF–FA", "100%")
    assert (second["kind"], second["share of a batch"]) == ("CF–OCT", "")
    assert first["pairs to train on"] + first["pairs to validate on"] == 2
    assert second["pairs to train on"] + second["pairs to validate on"] == 3
    (problem,) = training_tables.problem_table(run).to_dict("records")
    assert (
        problem["left out"] == "3_N_fa.png"
        and "one gray level" in problem["why"]
        and str(tmp_path) not in problem["why"]
    )
    expected = {k for k, v in run.validations[""].evaluate(run.network).items()}
    assert set(training_tables.validation_metrics(run)) == expected


def test_many_problems_are_cut_short_and_each_is_told_once():
    problems = [Problem(f"/data/set/{k % 4}.png", f"/data/set/{k % 4}.png: damaged") for k in range(8)]
    config = SimpleNamespace(files=FileOptions("/data/set", share=1.0), replay=FileOptions())
    run = SimpleNamespace(config=config, files=FileSplit(problems=problems), replay=FileSplit())
    assert training_tables.problem_table(run)["why"].tolist() == [f"{k}.png: damaged" for k in range(4)]
    rows = training_tables.problem_table(run, at_most=3).to_dict("records")
    assert len(rows) == 4 and rows[-1]["left out"] == "and 1 more"


def test_what_was_not_measured_is_a_dash_before_and_after():
    before, after = (
        {"repeatability": NAN},
        {"repeatability": 0.25, "replay_repeatability": 0.5, "replay_gt_success": 1.0},
    )
    row = training_tables.before_after_table(before, after).to_dict("records")[1]
    assert row == {
        "": "repeatability",
        "pairs before": None,
        "pairs after": "0.25",
        "replay before": None,
        "replay after": "0.50",
    }
    assert list(training_tables.before_after_table(before, before)) == ["", "before", "after"]


# ------------------------------------------------------------------ pictures of pairs


def test_where_nothing_validates_a_training_batch_is_watched(trainer):
    assert viz_training.watched_batch(trainer) is trainer.validations[""].batches[0]
    empty = SimpleNamespace(validations={"": ValidationSet([])}, data=trainer.data, config=trainer.config)
    assert len(viz_training.watched_batch(empty)["image0"]) == trainer.config.batch_size


def clicked_batch(trainer) -> dict:
    """Two pairs; the first has ten clicked points, one of them outside image 1, the second none."""
    batch = trainer.data.batch(0, 2)
    points = torch.full((2, 10, 2), NAN)
    points[0] = torch.linspace(5, 40, 10)[:, None].expand(10, 2)
    batch["points0"], batch["points1"] = points, points.clone()
    batch["points1"][0, 0] = -9
    return batch


def test_clicked_points_are_labels(trainer):
    batch = clicked_batch(trainer)
    junctions = [int(torch.isfinite(points).all(-1).sum()) for points in batch["vessel_keypoints"]]
    titles = [ax.get_title() for ax in viz_training.plot_labels(batch, 2.0).axes]
    assert f"{batch['modalities'][0][0]}, fixed: {junctions[0] + 10} labels" in titles
    assert f"{batch['modalities'][1][0]}, fixed: {junctions[1]} labels" in titles


def test_clicked_points_are_the_truth_of_the_saved_figures(trainer, tmp_path, monkeypatch):
    seen, batch = [], clicked_batch(trainer)
    monkeypatch.setattr(viz_training, "plot_predictions", lambda ax, image, found, known: seen.append(len(known)))
    save_keypoint_figures(trainer.network, ValidationSet([batch]), tmp_path)
    known = [int(torch.isfinite(batch[key][0]).all(-1).sum()) for key in ("vessel_keypoints", "vessel_keypoints1")]
    assert [seen[0], seen[2]] == [known[0] + 10, known[1] + 9], "the one outside of image 1 cannot be found there"


def test_the_moving_detector_is_shown_where_both_images_see_most(trainer):
    batch = trainer.data.batch(0, 3)
    points = torch.full((3, 4, 2), NAN)
    points[2], points[1, :2] = 20.0, 20.0
    batch["vessel_keypoints1"] = points
    outputs = viz_training.dense_outputs(trainer.network, batch)
    figure = viz_training.plot_moving_detector(batch, outputs, outputs, count=2)
    peaks = [float(outputs[0].detector[i].max()) for i in (2, 1)]
    assert [figure.axes[k].get_title() for k in (0, 3)] == [f"fixed detector: peak {peak:.2f}" for peak in peaks]


def test_a_pair_that_is_not_there_is_told_in_words(trainer):
    batch = trainer.data.batch(0, 2)
    outputs = viz_training.dense_outputs(trainer.network, batch)
    with pytest.raises(ValueError, match="of 2 pairs it takes 0 to 1, not 2"):
        plot_descriptors(batch, outputs, 2)
    with pytest.raises(ValueError, match="pairs: takes a whole number from 1, not 0"):
        first_pairs(SimpleNamespace(), 0)


def test_a_missing_picture_is_a_sentence(tmp_path):
    assert "no fixed_kps.png" in viz.picture(tmp_path / "fixed_kps.png").data
    write_image(tmp_path / "a.png", np.zeros((4, 5), np.uint8))
    assert viz.picture(tmp_path / "a.png").data.startswith(b"\x89PNG")
