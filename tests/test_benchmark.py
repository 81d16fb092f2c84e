"""The benchmark measures what it says: pairs lie in their bins, figures agree with a hand's, stages add up, a second call goes on."""

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import yaml  # noqa: E402

from retina_kp import PairOptions, Registrar, benchmark, grids, viz_benchmark  # noqa: E402
from retina_kp.evaluation import Trial  # noqa: E402
from retina_kp.files import write_csv  # noqa: E402
from retina_kp.report import notebook_parameters, project_root  # noqa: E402
from retina_kp.samples import draw_pair  # noqa: E402
from retina_kp.timing import STAGES, Stopwatch, cold_start, timed_call  # noqa: E402

SMALL = replace(grids.EASY, size_px=96)
CELLS = grids.angle_cells(easy=SMALL) + grids.scale_cells(easy=SMALL) + grids.overlap_cells(easy=SMALL)


def row(error, method="retina_kp", label="0°", factor="angle", pair="CF-FA", index=0, seconds=1.0):
    stages = {f"{stage}_s": seconds / len(STAGES) for stage in STAGES} if method == "retina_kp" else {}
    return {"factor": factor, "bin": label, "pair": pair, "index": index, "method": method, "error_px": error, "seconds": seconds} | stages


@pytest.fixture
def easy_pair():
    return draw_pair(3, 0, ("CF", "FA"), PairOptions(size_px=256, rotation_deg=10, scale=(0.95, 1.05), min_overlap=0.8))


# ------------------------------------------------------------------ grids


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.factor} {cell.label}")
def test_every_drawn_pair_lies_in_its_bin(cell):
    (measured,) = grids.measure_pair(None, {"nothing": lambda fixed, moving: None}, cell, "FA", 1, seed=5)
    assert grids.fits(measured, cell.options) and measured["error_px"] == np.inf
    asked = {"angle": "rotation_deg", "scale": "scale", "overlap": "min_overlap"}.pop(cell.factor)
    others = [o for o in CELLS if o.factor == cell.factor and getattr(o.options, asked) != getattr(cell.options, asked)]
    assert not any(grids.fits(measured, other.options) for other in others)


def test_bins_have_the_names_that_people_use():
    names = {factor: [cell.label for cell in CELLS if cell.factor == factor] for factor in grids.FACTORS}
    assert names["angle"] == ["0°", "15°", "30°", "60°", "90°", "135°", "180°"]
    assert names["scale"] == ["1/3", "1/2", "1/1.5", "1", "1.5", "2", "3"]
    assert names["overlap"] == ["25–50 %", "50–75 %", "75–100 %"]


def test_the_wider_image_keeps_its_field():
    third, triple = (cell.options for cell in grids.scale_cells((1 / 3, 3)))
    assert third.fixed_field_deg == pytest.approx((15, 55 / 3)) and triple.fixed_field_deg == (45, 55)


def test_unknown_modality_is_refused():
    with pytest.raises(ValueError, match="'XY'; there are FA, OCT, OCTA"):
        grids.grid_jobs(CELLS, 1, ["XY"])


def test_the_truth_has_no_error_and_one_eye_is_seen_in_all_cells():
    pairs = [draw_pair(5, 2, ("CF", "FA"), cell.options) for cell in grids.angle_cells((0, 90), SMALL)]
    assert np.array_equal(pairs[0].fixed, pairs[1].fixed) and not np.array_equal(pairs[0].moving, pairs[1].moving)
    assert grids.error_px(np.linalg.inv(pairs[0].H_0to1), pairs[0]) == pytest.approx(0, abs=1e-9)


def test_figures_by_hand():
    rows = [row(e, seconds=s) for e, s in ((0.5, 1), (3, 2), (30, 4), (np.inf, 9))]
    found = grids.figures(rows)
    assert {k: found[k] for k in ("n", "success", "within_2px", "wrong", "none")} == {
        "n": 4, "success": 0.5, "within_2px": 0.25, "wrong": 0.25, "none": 0.25}  # fmt: skip
    assert found["auc25"] == pytest.approx((25 + 22 + 0 + 0) / 25 / 4)  # below i px for i = 1…25: always, from 4 on, never, never
    assert found["median_px"] == 16.5 and found["median_s"] == 3


def test_tables():
    rows = [row(1), row(9, "ECC", seconds=0.5), row(1, label="90°"), row(np.inf, "ECC", label="90°"), row(2, factor="scale", label="3")]
    cells = grids.summarise(rows, "factor", "bin", "pair", "method")
    assert grids.pivot(cells, "angle") == [{"pair": "CF-FA", "method": "retina_kp", "0°": "1.00 (0.96)", "90°": "1.00 (0.96)"},
                                           {"pair": "CF-FA", "method": "ECC", "0°": "0.00 (0.64)", "90°": "0.00 (0.00)"}]  # fmt: skip
    ours, ecc, absent = grids.method_rows(rows, {"other": "no such package"})
    assert (ours["pairs"], ours["success, angle"], ours["success, scale"]) == (3, 1.0, 1.0)
    assert (ecc["success, angle"], ecc["wrong"], ecc["none"]) == (0.0, 0.5, 0.5)
    assert absent["method"] == "other" and absent["auc25"] is None and absent["note"] == "left out: no such package"
    assert grids.stage_rows(rows)[0] == {"factor": "angle", "bin": "0°", "n": 1} | dict.fromkeys(STAGES, 0.25)


def test_rows_survive_the_file(tmp_path):
    rows = [row(np.inf), row(2.5, "ECC", index=7)]
    assert grids.read_rows(write_csv(tmp_path / "trials.csv", rows)) == rows


# ------------------------------------------------------------------ time


def test_stages_add_up_to_the_whole():
    ticks = iter([0, 1, 3, 7, 15, 31, 63, 127])
    watch = Stopwatch(lambda: next(ticks))
    with watch.stage("outer"):  # 0–1, 3–7, 63–127
        with watch.stage("inner"):  # 1–3
            pass
        watch.around("inner", watch.around("deep", lambda: None))()  # inner 7–15, deep 15–31, inner 31–63
    assert watch.seconds == {"outer": 1 + 4 + 64, "inner": 2 + 8 + 32, "deep": 16} and sum(watch.seconds.values()) == 127


def test_a_timed_call_answers_alike_and_leaves_no_trace(easy_pair):
    registrar = Registrar.from_pretrained("lite", device="cpu")
    plain = registrar(easy_pair.fixed, easy_pair.moving)
    timed, seconds = timed_call(registrar, easy_pair.fixed, easy_pair.moving)
    assert np.allclose(timed.H_1to0, plain.H_1to0)
    assert list(seconds) == list(STAGES) and min(seconds.values()) > 0
    assert not {"_find", "_look_closely", "_polish"} & set(vars(registrar))


def test_cold_start_tells_time_and_memory(easy_pair):
    found = cold_start("lite", easy_pair.fixed, easy_pair.moving)
    assert min(found["load_s"], found["first_call_s"], found["later_call_s"]) > 0
    assert 0.05 < found["peak_memory_gb"] < 4


# ------------------------------------------------------------------ commands


def test_a_table_holds_ours_beside_the_rivals():
    options = PairOptions(size_px=256, rotation_deg=10, scale=(0.95, 1.05), min_overlap=0.8)
    rivals = {"none": lambda fixed, moving: None, "identity": lambda fixed, moving: np.eye(3)}
    ours, none, identity = benchmark.compare(Registrar.from_pretrained("lite", device="cpu"), options, 2, 3, ["FA"], rivals)
    assert [r["method"] for r in (ours, none, identity)] == ["retina_kp", "none", "identity"] and ours["success"] == 1
    assert (none["refused"], none["success"]) == (1, 0) and (identity["wrong_accepted"], identity["refused"]) == (1, 0)


def test_a_second_call_goes_on(tmp_path):
    jobs, settings = grids.grid_jobs(CELLS[:2], 2, ["FA"]), {"weights": "a", "seed": 1}
    assert benchmark.resume(tmp_path, settings, ["ECC"], jobs) == ([], jobs)
    rows = [row(1), row(2, "ECC"), row(1, index=1)]  # pair 1 lacks the rival: again
    write_csv(tmp_path / "trials.csv", rows)
    assert benchmark.resume(tmp_path, settings, ["ECC"], jobs) == (rows[:2], jobs[1:])
    with pytest.raises(ValueError, match="another folder"):
        benchmark.resume(tmp_path, settings | {"seed": 2}, ["ECC"], jobs)


def test_the_command_measures_prints_and_keeps(tmp_path, monkeypatch, capsys):
    easy = replace(grids.EASY, size_px=192)
    monkeypatch.setitem(benchmark.FACTORS, "overlap", lambda: grids.overlap_cells((0.5, 1), easy))
    monkeypatch.setattr(benchmark, "cold_start", lambda *args: {"load_s": 0.5})
    command = ["benchmark", "--grid", "overlap", "--pairs", "1", "--moving", "FA", "--rivals", "ECC", "--out", str(tmp_path)]
    for told in ("1 pairs, 0 of them measured before", "1 pairs, 1 of them measured before"):
        monkeypatch.setattr(sys, "argv", command)
        benchmark.main()
        said = capsys.readouterr().out
        assert told in said and "50–100 %" in said and "load_s 0.50" in said
    assert {p.name for p in tmp_path.iterdir()} == {"settings.json", "trials.csv", "cells.csv", "figures.json"}
    assert [r["method"] for r in grids.read_rows(tmp_path / "trials.csv")] == ["retina_kp", "ECC"]


def test_tables_of_ours_alone_tell_how_far_confidence_is_off(monkeypatch, capsys):
    made_up = [Trial("FA", True, error, error, 0.9, 0.5, True, {}) for error in (1.0, 1.0, 6.0, 99.0)]
    monkeypatch.setattr(benchmark, "gather_trials", lambda *args, **how: made_up)
    monkeypatch.setattr(sys, "argv", ["benchmark", "--tables", "wide", "--ours-only", "--moving", "FA"])
    benchmark.main()
    said = capsys.readouterr().out
    assert "scale 0.33–3" in said and "CF-FA  4  0.5 " in said and "over these 4 pairs: 0.150" in said


def test_the_full_parameters_exist_in_the_notebook():
    folder = project_root() / "notebooks"
    full = yaml.safe_load(Path(folder / "params" / "benchmark.yaml").read_text(encoding="utf-8"))
    known = notebook_parameters(folder / "09_benchmark.ipynb")
    assert {key: type(value) for key, value in full.items()} == {key: type(known[key]) for key in full}
    labels = {f: [c.label for c in cells(full[key])] for f, cells, key in (("angle", grids.angle_cells, "angles"),
                                                                           ("scale", grids.scale_cells, "scales"))}  # fmt: skip
    assert labels == {"angle": [c.label for c in grids.angle_cells()], "scale": [c.label for c in grids.scale_cells()]}


# ------------------------------------------------------------------ pictures


def test_pictures_show_every_method_and_stage():
    rows = [row(e, m, b, pair=p) for e, m in ((1, "retina_kp"), (9, "ECC"), (2, "SIFT+MAGSAC")) for b in ("0°", "90°")
            for p in ("CF-FA", "CF-OCT")]  # fmt: skip
    figure = viz_benchmark.plot_grid(grids.summarise(rows, "factor", "bin", "pair", "method"), "angle")
    assert len(figure.axes) == 2 and "1 pair per point" in figure.axes[0].get_title()
    for ax in figure.axes:
        lines = {line.get_label(): line for line in ax.lines}
        assert {name: list(line.get_ydata()) for name, line in lines.items()} == {"retina_kp": [1, 1], "ECC": [0, 0], "SIFT+MAGSAC": [1, 1]}
        assert list(lines["retina_kp"].get_xdata()) == [0, 1] and len({tuple(line.get_xdata()) for line in lines.values()}) == 3
    stages = viz_benchmark.plot_stages(grids.stage_rows(rows))
    assert [patch.get_height() for patch in stages.axes[0].patches] == [0.25] * 2 * len(STAGES)
    bars = viz_benchmark.plot_seconds(grids.method_rows(rows, {"absent": "why"}))
    assert len(bars.axes[0].patches) == 3
    empty = viz_benchmark.plot_grid(grids.summarise(rows, "factor", "bin", "pair", "method"), "scale")
    assert "nothing about the scale" in empty.axes[0].texts[0].get_text()
    plt.close("all")


def test_confidence_is_drawn_with_its_limit():
    """Two of the three given answers are right; without confidences there is nothing to draw, and no crash."""
    told = [row(1.0) | {"confidence": sure, "tried_px": px} for sure, px in ((0.95, 1.0), (0.9, 30.0), (0.6, 4.0), (0.1, 900.0))]
    figure = viz_benchmark.plot_confidence(told)
    left, right = figure.axes
    assert left.get_title().startswith("4 pairs, calibration error") and [t.get_text() for t in left.texts] == ["1", "1", "2"]
    ((x, y),) = [line.get_xydata()[0] for line in right.lines if line.get_marker() == "o"]
    assert (x, y) == (0.75, pytest.approx(1 / 3))
    assert viz_benchmark.plot_confidence([row(1.0)]).axes
    plt.close("all")
