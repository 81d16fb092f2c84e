"""Looking into a PKE run: a label history that is bounded and goes on after a break, tables and curves by hand, figures
that keep their word."""

import io
import math
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from test_pke import LATTICE, OPTIONS, SEEN, batch_of, scene  # noqa: E402
from test_scale import TINY as SHARED  # noqa: E402

from retina_kp.core.config import from_dict  # noqa: E402
from retina_kp.networks import DenseOutput  # noqa: E402
from retina_kp.notebook import (
    report,  # noqa: E402
    runs,  # noqa: E402
)
from retina_kp.training import diagnosis  # noqa: E402
from retina_kp.training.diagnosis import lives, telling_lives  # noqa: E402
from retina_kp.training.memory import LabelHistory, Page, ValueMap  # noqa: E402
from retina_kp.training.pke import STAGES, content_ratio  # noqa: E402
from retina_kp.training.trainer import Trainer  # noqa: E402
from retina_kp.viz import pke as viz_pke  # noqa: E402
from retina_kp.viz.network import colour_basis, plot_descriptors  # noqa: E402
from retina_kp.viz.pke import REASONS  # noqa: E402

NAN = math.nan
TINY = replace(SHARED, phase="pke", epochs=3, steps_per_epoch=4, micro_batches=1)  # two samples, labels after one find
FIGURES = 7


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished PKE run on two easy samples."""
    folder = tmp_path_factory.mktemp("run")
    Trainer(TINY, folder).fit()
    return folder


@pytest.fixture(scope="module")
def run(folder) -> Trainer:
    return diagnosis.open_run(folder)


def page(visit: int, *places, step: int | None = None) -> Page:
    """A page with places (x, value, promoted) at y = 7."""
    record = torch.tensor([[x, 7.0, value, up] for x, value, up in places]).reshape(-1, 4)
    return Page(visit, visit - 1 if step is None else step, record)


# ------------------------------------------------------------------ the label history


def test_the_history_watches_the_first_samples_and_is_bounded():
    label_history = LabelHistory(samples=2, max_pages=4)
    for step in range(12):
        for sample_id in ("", "a", "b", "c")[: 2 + (step > 3) + (step > 5)]:
            label_history.note(sample_id, step, torch.full((1, 4), float(step)))
    assert list(label_history.pages) == ["a", "b"]
    assert [p.visit for p in label_history.pages["a"]] == [1, 5, 9] and [p.step for p in label_history.pages["b"]] == [
        4,
        6,
        8,
        10,
    ]
    assert all(p.record[0, 0] == p.step for p in label_history.pages["a"])


@pytest.mark.parametrize("breaks", [1, 4, 7])
def test_a_history_goes_on_after_a_break(breaks):
    whole, first, second = (LabelHistory(max_pages=4) for _ in range(3))
    for step in range(9):
        whole.note("a", step, torch.ones(step, 4))
        (first if step < breaks else second).note("a", step, torch.ones(step, 4))
        if step == breaks - 1:
            torch.save(first.state_dict(), file := io.BytesIO())
            second.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert [(p.visit, p.step, len(p.record)) for p in second.pages["a"]] == [
        (p.visit, p.step, len(p.record)) for p in whole.pages["a"]
    ]


def test_a_run_keeps_its_history(run):
    seen = [batch["sample_ids"] for k in range(TINY.total_steps) for batch in diagnosis.step_batches(run, k)]
    label_history, value_map = run.objective.label_history, run.objective.value_map
    assert set(label_history.pages) == {"0.0", "1.0"}
    for name in label_history.pages:
        pages = label_history.pages[name]
        assert [p.step for p in pages] == [step for step, ids in enumerate(seen) for _ in range(ids.count(name))]
        assert torch.equal(pages[-1].record, value_map.record(name).float())
    assert any(len(p.record) for name in label_history.pages for p in label_history.pages[name])


# ------------------------------------------------------------------ opening a run


def test_an_interrupted_run_is_diagnosed_as_it_stands(tmp_path):
    def stop(history):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(TINY, tmp_path).fit(stop)
    run = diagnosis.open_run(tmp_path)
    assert run.step_index == 4 and len(run.history) == 1 and not run.network.training
    (tmp_path / "checkpoint.safetensors").unlink()  # the state decides
    assert diagnosis.open_run(tmp_path).step_index == 4


def test_a_run_that_has_not_taken_a_step_can_be_looked_at(tmp_path, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        Trainer(TINY, tmp_path).fit()
    run = diagnosis.open_run(tmp_path)
    assert (run.step_index, run.history, diagnosis.watched_samples(run)) == (0, [], {})


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no state.pt: give the folder of a run of 03_pke"):
        diagnosis.open_run(tmp_path)
    Trainer(replace(TINY, phase="warmup", epochs=1, steps_per_epoch=1), tmp_path).fit()
    with pytest.raises(ValueError, match="'warmup', which has no PKE"):
        diagnosis.open_run(tmp_path)


def test_without_a_run_a_stand_in_is_trained_once(tmp_path):
    tiny = {
        "epochs": 1,
        "steps_per_epoch": 2,
        "batch_size": 2,
        "image_size": 64,
        "pool_size": 2,
        "validation_pairs": 1,
        "init_from": "lite",
    }
    s = from_dict(runs.Settings, tiny)
    folder, said = runs.pke_run("", s, tmp_path)
    written = (folder / "state.pt").stat().st_mtime_ns
    assert said.startswith("STAND-IN for a run of 03_pke: 2 steps") and diagnosis.open_run(folder).step_index == 2
    again, said = runs.pke_run("", s, tmp_path)
    assert (
        again == folder and "its own, after step 2 of 2" in said and (folder / "state.pt").stat().st_mtime_ns == written
    )
    assert runs.pke_run(str(folder), s, tmp_path)[0] == folder
    assert (
        runs.pke_run("outputs/runs/03_pke/x", s, tmp_path)[0]
        == report.project_root() / "outputs" / "runs" / "03_pke" / "x"
    )


# ------------------------------------------------------------------ one look


def test_every_peak_has_its_fate_and_its_truth():
    mask = torch.zeros(1, 1, 192, 192)
    mask[..., :96] = 1
    true = torch.cat([LATTICE[:20] + 3, torch.full((1, 2), NAN)])[None]
    batch = batch_of(annotated=SEEN[:1].tolist(), vessel_mask0=mask, true_keypoints=true)
    found, points = diagnosis.judge(*scene(), batch, OPTIONS)
    fates = dict(zip(*np.unique(points["reason"], return_counts=True), strict=True))
    assert fates == {"mined": len(found.points0_xy[0])} | {k: len(v) for k, v in found.rejected[0].items() if len(v)}
    assert points["true"].sum() == 20 and set(points["image"]) == {0}
    mined = points["reason"] == "mined"
    assert (points["ratio"][mined] < 1e-3).all() and (
        (points["probability"][mined] > 0.6) & (points["probability"][mined] <= 0.9)
    ).all()
    rows = {row["stage"]: row for row in diagnosis.stage_rows(points, [LATTICE[:4]], batch)}
    assert [row["points"] for row in rows.values()] == [36, *found.funnel.values(), 4]
    assert rows["peaks"]["true"] == 20 and rows["promoted labels"]["true"] == 4
    table = {row["peaks"]: row for row in viz_pke.reason_table(points, 2).to_dict("records")}
    assert table["rejected: annotated already"] == {
        "peaks": "rejected: annotated already",
        "per image": 0.5,
        "of them true": "100%",
    }
    assert table["rejected: over the budget"]["of them true"] is None


def test_nobody_knows_the_truth_of_pairs_from_files():
    found, points = diagnosis.judge(*scene(), batch_of(), OPTIONS)
    assert np.isnan(points["true"]).all() and math.isnan(diagnosis.vessel_chance(batch_of(), OPTIONS))
    assert all(math.isnan(row["true"]) for row in diagnosis.stage_rows(points, [LATTICE[:0] + 1], batch_of())[:-1])
    assert set(viz_pke.reason_table(points, 1)["of them true"]) == {None}


def test_an_empty_look():
    out0, out1 = scene()
    found, points = diagnosis.judge(replace(out0, detector=0 * out0.detector), out1, batch_of(), OPTIONS)
    assert (
        len(points["reason"]) == 0
        and [row["points"] for row in diagnosis.stage_rows(points, [LATTICE[:0]], batch_of())] == [0] * 8
    )
    viz_pke.plot_funnel(diagnosis.stage_rows(points, [LATTICE[:0]], batch_of()), []).savefig(io.BytesIO())


def test_the_ratio_by_hand():
    """Descriptors at angles; the chord of an angle a is 2 sin(a / 2)."""
    points = torch.tensor([[[10.0, 0], [40, 0], [60, 0]]])

    def output_of(degrees):
        line, radians = torch.zeros(2, 128), torch.deg2rad(torch.tensor(degrees))
        line[:, [10, 40, 60]] = torch.stack([radians.cos(), radians.sin()])
        return DenseOutput(torch.zeros(1, 1, 1, 128), line[None, :, None], 1, 1)

    outputs = output_of([0.0, 90.0, 200.0]), output_of([10.0, 50.0, 200.0])
    wanted = [math.sin(math.radians(own)) / math.sin(math.radians(baseline)) for own, baseline in ((5, 25), (20, 40))]
    everybody, first = torch.ones(1, 3, dtype=torch.bool), torch.tensor([[True, False, False]])
    assert content_ratio(*outputs, points, points, everybody, OPTIONS)[0].tolist() == pytest.approx(
        [*wanted, 0], abs=1e-3
    )
    assert content_ratio(*outputs, points, points, first, OPTIONS)[0].tolist() == pytest.approx(
        [math.inf, wanted[1], 0], abs=1e-3
    )


def test_labels_of_a_look_are_the_promoted_ones_in_view():
    value_map, batch = (
        ValueMap(replace(OPTIONS, promotion_value=1.0, demotion_value=0.0)),
        batch_of(2, annotated=SEEN[:1].tolist()),
    )
    value_map.visit(1, SEEN[:5], torch.zeros(0) > 0)
    none, four = diagnosis.current_labels(value_map, batch)
    assert none.shape == (0, 2) and four.tolist() == SEEN[1:5].tolist()


def test_a_blind_guess_by_hand():
    mask = torch.zeros(1, 1, 50, 50)
    mask[..., 25, 0:21] = 1  # 21 px of vessel
    batch = {
        "vessel_mask0": mask,
        "vessel_keypoints": torch.full((1, 1, 2), NAN),
        "true_keypoints": torch.tensor([[[10.0, 25.0]]]),
    }
    assert diagnosis.vessel_chance(batch, OPTIONS) == pytest.approx(11 / 21)
    batch["vessel_keypoints"] = torch.tensor([[[0.0, 25.0]]])  # takes the pixels 0 to 8
    assert diagnosis.vessel_chance(batch, OPTIONS) == pytest.approx(7 / 12)


def test_precision_curves_by_hand():
    values, true = [0.1, 0.2, 0.3, 0.4, 0.5], [1, 1, 0, NAN, 1]
    below, above = (diagnosis.precision_curve(values, true, [0.05, 0.2, 0.35, 1], way) for way in (True, False))
    assert below["points"].tolist() == [0, 1, 3, 4] and below["precision"].tolist() == pytest.approx(
        [NAN, 1, 2 / 3, 3 / 4], nan_ok=True
    )
    assert above["points"].tolist() == [4, 3, 1, 0] and above["precision"].tolist() == pytest.approx(
        [3 / 4, 2 / 3, 1, NAN], nan_ok=True
    )
    wilson = diagnosis.precision_curve([0] * 10, [1] * 8 + [0] * 2, [1], True)  # a textbook's example
    assert (wilson["low"][0], wilson["high"][0]) == pytest.approx((0.490, 0.943), abs=5e-4)


# ------------------------------------------------------------------ samples and places over time


def sample_of(*pages: Page, true=((10.0, 7.0),), seen_to: int = 64) -> diagnosis.WatchedSample:
    seen = torch.zeros(64, 64, dtype=torch.bool)
    seen[:, :seen_to] = True
    return diagnosis.WatchedSample(
        list(pages), np.zeros((64, 64)), torch.zeros(0, 2), torch.tensor(true).reshape(-1, 2), seen
    )


def test_growth_by_hand():
    pages = [
        page(1, (10, 1, 0)),
        page(2, (10, 3, 1), (30, 3, 1)),
        page(3, (10, 3, 1), step=1),
        page(4, (10, 4, 1), (50, 3, 1)),
    ]
    sample = sample_of(*pages, seen_to=40)  # visits 2 and 3 fell into one step
    grown = diagnosis.growth(sample, 2)
    assert (
        grown["epoch"].tolist() == [0.5, 1, 2]
        and grown["labels"].tolist() == [0, 1, 2]
        and grown["places"].tolist() == [1, 1, 2]
    )
    assert grown["judged"].tolist() == [0, 1, 1] and grown["true"].tolist() == [0, 1, 1]  # nobody looked where x is 50
    assert np.isnan(sample_of(true=()).truth(torch.tensor([[10.0, 7.0]]))).all()


def test_label_precision_needs_some_labels():
    one, two = (
        pd.DataFrame({"epoch": e, **dict(zip(("labels", "judged", "true"), rows, strict=True))})
        for e, rows in (([0.5, 2.0], ([4, 6], [4, 6], [2, 3])), ([1.5], ([2], [2], [1])))
    )
    rows = diagnosis.label_precision([one, two], 3)
    assert rows["points"].tolist() == [2, 4, 4] and rows["precision"].tolist() == pytest.approx(
        [NAN, 0.5, 0.5], nan_ok=True
    )
    (empty,) = diagnosis.label_precision([], 1).to_dict("records")
    assert (empty["epoch"], empty["points"]) == (1, 0) and math.isnan(empty["precision"])


def test_lives_are_told_from_find_to_oblivion():
    told = lives([page(1, (1, 1, 0)), page(2, (1, 2, 0), (2, 1, 0)), page(3, (2, 2, 0)), page(4, (1, 1, 0), (2, 3, 1))])
    each = [life for _, life in told.groupby("life")]
    assert [(k["x"].iloc[0], k["visit"].tolist(), k["value"].tolist(), k["forgotten"].iloc[0]) for k in each] == [
        (1, [1, 2], [1, 2], True),
        (2, [2, 3, 4], [1, 2, 3], False),
        (1, [4], [1], False),
    ]
    assert each[1]["is_label"].tolist() == [False, False, True] and lives([]).empty


def test_the_lives_worth_a_look():
    def life(name, *is_label, value=1.0, forgotten=False):
        columns = {
            "life": name,
            "x": name,
            "value": value,
            "forgotten": forgotten,
            "is_label": np.array(is_label, bool),
        }
        return pd.DataFrame({"visit": np.arange(len(is_label)), **columns})

    told = [
        life(1, 1, 1),
        life(2, 0, 1, 1, 1),
        life(3, 1, 0),
        life(4, 1, 1, 1, forgotten=True),
        life(5, 0, 0),
        life(6, 0, value=2.0),
    ]
    assert {name: life["x"].iloc[0] for name, life in telling_lives(pd.concat(told)).items()} == {
        "kept": 2,
        "label lost": 4,
        "never a label": 6,
    }
    assert telling_lives(lives([])) == {}


def test_watched_samples_are_seen_again(run):
    batches = [batch for k in range(TINY.total_steps) for batch in diagnosis.step_batches(run, k)]
    for name, sample in diagnosis.watched_samples(run, visits=2).items():
        views = [
            (b["image0"][i, 0], b["valid0"][i, 0]) for b in batches for i, k in enumerate(b["sample_ids"]) if k == name
        ]
        assert any(np.array_equal(sample.image, image) for image, _ in views)
        assert torch.equal(sample.seen | views[0][1] | views[1][1], sample.seen) and len(sample.true)
        truth = sample.truth(sample.true)
        assert np.isfinite(truth).any() and np.nanmin(truth) == 1


# ------------------------------------------------------------------ figures


def test_bars_are_as_long_as_the_funnel_is_wide():
    rows = [{"stage": "peaks", "points": 10.0, "true": 4.0}, {"stage": "mined", "points": 2.0, "true": 2.0}]
    left, right = viz_pke.plot_funnel(rows, []).axes
    assert [bar.get_width() for bar in left.patches] == [10, 2, 4, 2] and not right.lines[0].get_xdata().size
    assert [text.get_text() for text in left.texts] == ["10.0, 40% true", "2.0, 100% true"]
    unknown = viz_pke.plot_funnel([row | {"true": NAN} for row in rows], []).axes[0]
    assert len(unknown.patches) == 2 and unknown.texts[1].get_text() == "2.0"


def test_the_strip_shows_pages_and_tells_true_labels_from_others():
    pages = [page(k, (10, 3, 1), (30, 3, 1), *[(50, 1, 0)] * (k > 3)) for k in range(1, 8)]
    axes = viz_pke.plot_label_strip(sample_of(*pages)).axes
    assert [ax.get_title() for ax in axes] == [
        f"visit {k}: 2 labels, {n} places" for k, n in ((1, 2), (3, 2), (5, 3), (7, 3))
    ]
    rings, remembered, right, wrong, unknown = (c.get_offsets() for c in axes[-1].collections)
    assert (
        right.tolist() == [[10, 7]]
        and wrong.tolist() == [[30, 7]]
        and remembered.tolist() == [[50, 7]]
        and not len(rings) + len(unknown)
    )
    assert [ax.get_title() for ax in viz_pke.plot_label_strip(sample_of(page(1))).axes] == [
        "visit 1: 0 labels, 0 places",
        "",
        "",
        "",
    ]
    legend = {text.get_text() for text in viz_pke.plot_label_strip(sample_of(*pages, true=())).legends[0].get_texts()}
    assert "label, truth unknown" in legend


def test_values_over_visits_with_both_thresholds():
    pages = [page(1, (1, 1, 0)), page(2, (1, 3, 1)), page(3)]
    left, right = viz_pke.plot_lives(sample_of(*pages), telling_lives(lives(pages)), OPTIONS).axes
    curve, *levels = right.lines
    assert curve.get_xydata().tolist() == [[1, 1], [2, 3]] and curve.get_label() == "label lost"
    assert [line.get_ydata()[0] for line in levels] == [OPTIONS.promotion_value, OPTIONS.demotion_value]
    assert right.collections[-1].get_offsets().tolist() == [[3, 0]] and left.collections[-1].get_offsets().tolist() == [
        [1, 7]
    ]
    viz_pke.plot_lives(sample_of(page(1)), {}, OPTIONS).savefig(io.BytesIO())


def test_precision_over_thresholds_is_drawn_where_there_are_points():
    n = 20
    points = pd.DataFrame(
        {
            "reason": ["mined"] * n + ["content"] * n,
            "ratio": np.r_[np.full(n, 0.5), np.full(n, 0.9)],
            "probability": np.full(2 * n, 0.6),
            "true": np.r_[np.ones(n), np.zeros(n)],
        }
    )
    history = [{"epoch": 1, "pke_after_budget": 4.0, "pke_precision": 0.5}, {"epoch": 2}]
    axes = viz_pke.plot_precision(history, [], points, 10, OPTIONS, 0.25).axes
    by_ratio, by_probability = (ax.lines[0].get_xydata() for ax in axes[1:3])
    assert by_ratio[by_ratio[:, 0] == 1][0, 1] == 0.5 and np.isnan(by_ratio[0, 1])
    assert np.nanmin(by_ratio[by_ratio[:, 0] < 0.89][:, 1]) == 1
    assert by_probability[0].tolist() == [OPTIONS.pke_min_probability, 1] and np.isnan(by_probability[-1, 1])
    assert axes[4].lines[0].get_ydata()[-1] == 2 * n / 10 and axes[0].lines[0].get_ydata()[0] == 0.5
    unknown = points.assign(true=NAN)
    viz_pke.plot_precision([], [], unknown, 10, OPTIONS, NAN).savefig(io.BytesIO())


def test_one_basis_gives_one_descriptor_one_colour():
    axes = torch.eye(5)[torch.arange(400) % 4]
    to_colours, share = colour_basis(torch.cat([axes, -axes]))
    assert share == pytest.approx(3 / 4) and torch.equal(to_colours(axes[:8])[:4], to_colours(axes[:8])[4:])
    flat, share = colour_basis(torch.cat([axes[:, :3], -axes[:, :3]]) @ torch.eye(3, 16))
    assert share == pytest.approx(1) and 0 <= flat(torch.randn(9, 16)).min() and flat(torch.randn(9, 16)).max() <= 1


def test_descriptors_of_the_same_spot_have_the_same_colour():
    """Image 1 is image 0 moved by two cells: seen in the fixed frame, its colours are those of image 0."""
    maps = torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    outputs = [DenseOutput(torch.zeros(1, 1, 12, 12), m, 8, 8) for m in (maps, maps.roll(2, 3))]
    image, valid = torch.rand(1, 1, 96, 96), torch.zeros(1, 1, 96, 96, dtype=torch.bool)
    valid[..., 20:76, 20:76] = True
    H = torch.eye(3, dtype=torch.float64)[None].clone()
    H[0, 0, 2] = 16
    batch = {
        "image0": image,
        "image1": image.roll(16, 3),
        "valid0": valid,
        "valid1": valid.roll(16, 3),
        "H_0to1": H,
        "modalities": [("CF", "FA")],
    }
    axes = plot_descriptors(batch, outputs).axes
    fixed, moved, as_it_is = (np.asarray(ax.images[0].get_array()) for ax in axes[3:])
    assert (
        np.allclose(fixed, moved, atol=1e-5)
        and np.allclose(np.roll(fixed, 16, 1), as_it_is, atol=1e-5)
        and fixed[30:60, 30:60].std() > 0.1
    )
    assert (
        axes[4].get_title().startswith("cosine: same spot 1.00")
        and axes[1].get_title() == "moving (FA) in the fixed frame"
    )


def test_every_reason_of_mining_has_a_stage_and_a_colour():
    found = diagnosis.judge(*scene(), batch_of(), OPTIONS)[0]
    assert list(STAGES) == list(found.rejected[0]) == list(REASONS)


# ------------------------------------------------------------------ the notebook


def test_the_notebook_diagnoses_a_given_run_from_any_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = report.run_notebook(
        "05_pke_diagnostics", {"run": str(folder), "runs_root": str(tmp_path / "runs"), "run_name": "a"}
    )
    assert report.count_figures(result.executed) == FIGURES and "STAND-IN" not in result.html.read_text(
        encoding="utf-8"
    )
    assert result.html.with_name("metrics.json") == tmp_path / "runs" / "05_pke_diagnostics" / "a" / "metrics.json"
    assert result.html.with_name("metrics.json").is_file()
