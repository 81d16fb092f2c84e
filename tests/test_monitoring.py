"""What watches a run: one picture however many epochs, the panels a history calls for, short lines, TensorBoard
files."""

import math
import sys

import matplotlib

matplotlib.use("Agg")

import IPython.display  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from retina_kp.core.images import write_image  # noqa: E402
from retina_kp.notebook import monitoring  # noqa: E402
from retina_kp.viz.curves import FUNNEL, plot_run  # noqa: E402
from retina_kp.viz.training_tables import detector_table, funnel_table  # noqa: E402

ROW = {
    "step": 8,
    "total": 2.5,
    "loss_det": 0.7,
    "loss_des": 1.8,
    "loss_geo": 0.5,
    "gt_success": 0.5,
    "det_success": 0.25,
    "gt_corner_px": 3.0,
    "det_corner_px": math.nan,
    "gt_matched_right": 0.6,
    "repeatability": 0.4,
    "matching_score": 0.1,
    "inlier_rate": 0.3,
    "points0": 50.0,
    "points1": 40.0,
    "seconds_per_step": 0.25,
}
PKE = {key: 12.0 - k for k, key in enumerate(FUNNEL)} | {"pke_precision": 0.8, "pke_active": 1.0}
REPLAY = {f"replay_{key}": ROW[key] for key in ("gt_success", "det_success", "gt_matched_right", "repeatability")}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def history(count: int = 3, **extra) -> list[dict]:
    return [{"epoch": k + 1, **ROW, **extra, "total": 2.5 / (k + 1)} for k in range(count)]


def titles(figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


@pytest.mark.parametrize(("extra", "panels"), [({}, 4), (PKE, 5), (PKE | REPLAY, 6)])
def test_a_run_has_the_panels_that_its_columns_call_for(extra, panels):
    figure = plot_run(history(**extra))
    assert len(titles(figure)) == panels and titles(figure)[0] == "losses"
    assert ("PKE funnel" in titles(figure)) == bool(extra)
    figure.savefig("/dev/null", format="png")


def test_only_the_named_losses_are_drawn():
    drawn = {line.get_label() for line in plot_run(history(), ("loss_det",)).axes[0].lines}
    assert drawn == {"total", "loss_det"}
    assert "loss_geo" in {line.get_label() for line in plot_run(history()).axes[0].lines}


def test_an_epoch_that_the_guard_paused_is_grey():
    rows = history(**PKE)
    rows[0]["pke_active"] = 0.0  # decided after epoch 1, so epoch 2 had no PKE
    for key in FUNNEL:
        del rows[1][key]
    funnel = plot_run(rows).axes[4]
    assert "paused" in funnel.get_title() and funnel.patches[0].get_x() == 1.5
    assert funnel_table(rows)["epoch"].tolist() == [1, 3]


def test_nothing_is_drawn_outside_of_notebooks(monkeypatch):
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: pytest.fail("displayed"))
    monitoring.live_figure()(history())


def test_a_notebook_gets_one_picture_that_is_replaced(monkeypatch):
    shown, updates = [], []

    class Handle:
        def update(self, picture):
            updates.append(picture)

    monkeypatch.setattr(monitoring, "_in_notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", lambda picture, display_id: shown.append(picture) or Handle())
    watch, rows = monitoring.live_figure(), history()
    for k in range(len(rows)):
        watch(rows[: k + 1])
    assert len(shown) == 1 and len(updates) == 2 and updates[-1].data.startswith(b"\x89PNG")
    assert plt.get_fignums() == [], "an open figure would be drawn again at the end of the cell"


def test_lines_are_short_and_leave_out_what_is_not_known():
    told = monitoring.in_short({"epoch": 7, "total": 1.0, "det_success": math.nan, "seconds_per_step": 0.5})
    assert told == "epoch   7 · loss 1"
    assert len(monitoring.in_short({"epoch": 100, **ROW, **PKE, **REPLAY})) < 130


def test_tables_show_a_dash_for_what_was_not_measured():
    rows = detector_table(ROW).to_dict("records")
    assert rows[0] == {"": "pairs registered", "perfect detector (oracle)": "50%", "own detector": "25%"}
    assert rows[1]["perfect detector (oracle)"] == "3.0" and rows[1]["own detector"] is None
    assert detector_table(REPLAY, "replay_")["own detector"][0] == "25%" and funnel_table(history()).empty


def test_tensorboard_gets_scalars_and_pictures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_image(tmp_path / "figures" / "fixed_kps.png", np.zeros((8, 9, 3), np.uint8))
    watch, rows = monitoring.tensorboard(tmp_path), history(2, **PKE)
    for k in range(len(rows)):
        watch(rows[: k + 1])
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("loss/total")] == [(1, 2.5), (2, 1.25)]
    assert {"loss/loss_det", "validation/repeatability", "pke/pke_promoted", "run/seconds_per_step"} <= set(
        events.Tags()["scalars"]
    )
    assert "validation/det_corner_px" not in events.Tags()["scalars"] and len(events.Images("fixed_kps")) == 2


def test_missing_tensorboard_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r'pip install "retina_kp\[tensorboard\]"'):
        monitoring.tensorboard(tmp_path)
