"""The benchmark measures what it says: pairs lie in their bins, figures agree with a hand's, stages add up, a second
call goes on."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import yaml  # noqa: E402

from retina_kp import PairOptions, Registrar  # noqa: E402
from retina_kp.core.config import from_dict  # noqa: E402
from retina_kp.core.files import write_csv  # noqa: E402
from retina_kp.evaluation import (
    benchmark,  # noqa: E402
    grid_run,  # noqa: E402
    grid_tables,  # noqa: E402
    grids,  # noqa: E402
)
from retina_kp.evaluation.baselines.classical import BASELINES  # noqa: E402
from retina_kp.evaluation.timing import STAGES, Stopwatch, cold_start, timed_call  # noqa: E402
from retina_kp.evaluation.trials import VALIDATION_SEED, Trial, error_px, summarise_trials  # noqa: E402
from retina_kp.notebook.report import notebook_parameters, project_root  # noqa: E402
from retina_kp.synthetic.pairs import draw_pair  # noqa: E402
from retina_kp.viz import benchmark as viz_benchmark  # noqa: E402

SMALL = replace(grids.EASY, size_px=96)
CELLS = grids.angle_cells(easy=SMALL) + grids.scale_cells(easy=SMALL) + grids.overlap_cells(easy=SMALL)
CROSSED = grids.crossed_cells(easy=SMALL)


def row(error, method="retina_kp", label="0°", factor="angle", pair="CF-FA", index=0, seconds=1.0):
    stages = {f"{stage}_s": seconds / len(STAGES) for stage in STAGES} if method == "retina_kp" else {}
    return {
        "factor": factor,
        "bin": label,
        "pair": pair,
        "index": index,
        "method": method,
        "error_px": error,
        "seconds": seconds,
    } | stages


@pytest.fixture
def easy_pair():
    return draw_pair(3, 0, ("CF", "FA"), PairOptions(size_px=256, rotation_deg=10, scale=(0.95, 1.05), min_overlap=0.8))


# ------------------------------------------------------------------ grids


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.factor} {cell.label}")
def test_every_drawn_pair_lies_in_its_bin(cell):
    (measured,) = grids.measure_pair(None, {"nothing": lambda fixed, moving: None}, (cell, "FA", 1), seed=5)
    assert grids.fits(measured, cell.options) and measured["error_px"] == np.inf
    asked = {"angle": "rotation_deg", "scale": "scale", "overlap": "min_overlap"}.pop(cell.factor)
    others = [o for o in CELLS if o.factor == cell.factor and getattr(o.options, asked) != getattr(cell.options, asked)]
    assert not any(grids.fits(measured, other.options) for other in others)


@pytest.mark.parametrize("cell", CROSSED[::3], ids=lambda cell: cell.label)
def test_every_pair_of_the_crossed_grid_lies_in_its_cell_alone(cell):
    (measured,) = grids.measure_pair(None, {"nothing": lambda fixed, moving: None}, (cell, "OCTA", 1), seed=5)
    assert [other.label for other in CROSSED if grids.fits(measured, other.options)] == [cell.label]


def test_bins_have_the_names_that_people_use():
    names = {factor: [cell.label for cell in CELLS if cell.factor == factor] for factor in grids.FACTORS}
    assert names["angle"] == ["0°", "15°", "30°", "60°", "90°", "135°", "180°"]
    assert names["scale"] == ["1/3", "1/2", "1/1.5", "1", "1.5", "2", "3"]
    assert names["overlap"] == ["25–50 %", "50–75 %", "75–100 %"]


def test_the_wider_image_keeps_its_field():
    third, triple = (cell.options for cell in grids.scale_cells((1 / 3, 3)))
    assert third.fixed_field_deg == pytest.approx((15, 55 / 3)) and triple.fixed_field_deg == (45, 55)


def test_unknown_modality_is_refused():
    for kind in ("XY", "XY-FA", "CF-"):
        with pytest.raises(ValueError, match="no modality '(XY)?'; there are CF, FA, OCT, OCTA"):
            grids.grid_jobs(CELLS, 1, [kind])


def test_pairs_without_a_fundus_image_are_drawn_too():
    (measured,) = grids.measure_pair(None, {"nothing": lambda fixed, moving: None}, (CELLS[0], "OCT-FA", 0), seed=5)
    assert measured["pair"] == "OCT-FA" and grids.place_of((CELLS[0], "OCT-FA", 0)) == ("angle", "0°", "OCT-FA", 0)
    assert grids.place_of((CELLS[0], "deep OCTA", 3))[2:] == ("CF-deep OCTA", 3)


def test_the_truth_has_no_error_and_one_eye_is_seen_in_all_cells():
    pairs = [draw_pair(5, 2, ("CF", "FA"), cell.options) for cell in grids.angle_cells((0, 90), SMALL)]
    assert np.array_equal(pairs[0].fixed, pairs[1].fixed) and not np.array_equal(pairs[0].moving, pairs[1].moving)
    assert error_px(np.linalg.inv(pairs[0].H_0to1), pairs[0]) == pytest.approx(0, abs=1e-9)


def test_figures_by_hand():
    rows = [row(e, seconds=s) for e, s in ((0.5, 1), (3, 2), (30, 4), (np.inf, 9))]
    found = grid_tables.figures(rows)
    assert {k: found[k] for k in ("n", "success", "within_2px", "wrong", "none")} == {
        "n": 4,
        "success": 0.5,
        "within_2px": 0.25,
        "wrong": 0.25,
        "none": 0.25,
    }
    # below i px for i = 1…25: always, from 4 on, never, never
    assert found["auc25"] == pytest.approx((25 + 22 + 0 + 0) / 25 / 4)
    assert found["median_px"] == 16.5 and found["median_s"] == 3


def test_tables():
    rows = [
        row(1),
        row(9, "ECC", seconds=0.5),
        row(1, label="90°"),
        row(np.inf, "ECC", label="90°"),
        row(2, factor="scale", label="3"),
    ]
    cells = grid_tables.summarise(rows, "factor", "bin", "pair", "method")
    assert grid_tables.pivot(cells, "angle") == [
        {"pair": "CF-FA", "method": "retina_kp", "0°": "1.00 (0.96)", "90°": "1.00 (0.96)"},
        {"pair": "CF-FA", "method": "ECC", "0°": "0.00 (0.64)", "90°": "0.00 (0.00)"},
    ]
    ours, ecc, absent = grid_tables.method_rows(rows, {"other": "no such package"})
    assert (ours["pairs"], ours["success, angle"], ours["success, scale"]) == (3, 1.0, 1.0)
    assert (ecc["success, angle"], ecc["wrong"], ecc["none"]) == (0.0, 0.5, 0.5)
    assert absent["method"] == "other" and absent["auc25"] is None and absent["note"] == "left out: no such package"
    assert grid_tables.stage_rows(rows)[0] == {"factor": "angle", "bin": "0°", "n": 1} | dict.fromkeys(STAGES, 0.25)


def test_the_crossed_grid_is_a_row_per_method_overlap_and_turn():
    def at(error, turn, scale, overlap, **how):
        return row(error, factor="all three", label=f"{turn}, {scale}, {overlap}", **how)

    low = "25–50 %"
    rows = [
        at(1, "0°", "1", low),
        at(9, "0°", "1", low),
        at(1, "0°", "1", low, pair="CF-OCT"),
        at(9, "0°", "2", low),
        at(1, "90°", "1", "50–100 %", method="ECC"),
        row(1),
    ]
    cells = grid_tables.summarise(rows, "factor", "bin", "pair", "method")
    assert grid_tables.crossed_rows(cells) == [
        {"method": "retina_kp", "overlap": "25–50 %", "turn": "0°", "1": 0.667, "2": 0.0},
        {"method": "ECC", "overlap": "50–100 %", "turn": "90°", "1": 1.0},
    ]
    stages = grid_tables.stage_rows(rows)
    assert [(r["factor"], r["bin"], r["n"]) for r in stages] == [("all three", "all", 4), ("angle", "0°", 1)]


def test_rows_survive_the_file(tmp_path):
    rows = [row(np.inf), row(2.5, "ECC", index=7)]
    assert grid_tables.read_rows(write_csv(tmp_path / "trials.csv", rows)) == rows


# ------------------------------------------------------------------ time


def test_stages_add_up_to_the_whole():
    ticks = iter([0, 1, 3, 7, 15, 31, 63, 127])
    watch = Stopwatch(lambda: next(ticks))
    with watch.stage("outer"):  # 0–1, 3–7, 63–127
        with watch.stage("inner"):  # 1–3
            pass
        watch.around("inner", watch.around("deep", lambda: None))()  # inner 7–15, deep 15–31, inner 31–63
    assert (
        watch.seconds == {"outer": 1 + 4 + 64, "inner": 2 + 8 + 32, "deep": 16} and sum(watch.seconds.values()) == 127
    )


def test_a_timed_call_answers_alike_and_leaves_no_trace(easy_pair):
    registrar = Registrar.from_pretrained("lite", device="cpu")
    plain = registrar(easy_pair.fixed, easy_pair.moving)
    timed, seconds = timed_call(registrar, easy_pair.fixed, easy_pair.moving)
    assert np.allclose(timed.H_1to0, plain.H_1to0)
    assert list(seconds) == list(STAGES) and min(seconds.values()) > 0
    assert not {"_find", "_look_closely", "_refine"} & set(vars(registrar))


def test_cold_start_tells_time_and_memory(easy_pair):
    found = cold_start("lite", easy_pair.fixed, easy_pair.moving, np.zeros((256, 256), np.uint8))
    assert list(found) == ["load_s", "first_call_s", "later_call_s", "2000_px_s", "two_eyes_s", "peak_memory_gb"]
    assert min(found.values()) > 0 and 0.05 < found["peak_memory_gb"] < 4


# ------------------------------------------------------------------ commands


def test_a_table_holds_ours_beside_the_baselines():
    options = PairOptions(size_px=256, rotation_deg=10, scale=(0.95, 1.05), min_overlap=0.8)
    baselines = {"none": lambda fixed, moving: None, "identity": lambda fixed, moving: np.eye(3)}
    trials = benchmark.compare(Registrar.from_pretrained("lite", device="cpu"), options, 2, 3, "FA", baselines)
    ours, none, identity = (summarise_trials(own)[0] for own in trials.values())
    assert list(trials) == ["retina_kp", "none", "identity"] and ours["success"] == 1
    assert (none["refused"], none["success"]) == (1, 0) and (identity["wrong_accepted"], identity["refused"]) == (1, 0)


def test_a_second_call_measures_what_is_missing_and_loses_nothing(tmp_path, monkeypatch):
    """Killed after 20 of 28 pairs, with one more baseline than before: what was measured stays, and is not measured
    again."""
    jobs, measured = grids.grid_jobs(CELLS[:7], 4, ["FA"]), []

    def run(weights, work, seed, processes):
        for job, methods in work:
            if len(measured) == limit:
                raise KeyboardInterrupt
            measured.append((job[2], *methods))
            factor, label, pair, index = grids.place_of(job)
            yield [row(1, name, label, factor, pair, index) for name in methods]

    monkeypatch.setattr(grid_run, "run_grid", run)
    limit = 28
    first = grid_run.measure_grids(tmp_path, jobs, "lite", ["ECC"], 1, 1)
    assert [r["method"] for r in first] == ["retina_kp", "ECC"] * 28 and len(measured) == 28
    limit, measured[:] = 20, []
    with pytest.raises(KeyboardInterrupt):
        grid_run.measure_grids(tmp_path, jobs, "lite", ["ECC", "identity"], 1, 1)
    assert set(measured) == {(index, "identity") for index in range(4)}
    assert len(grid_tables.read_rows(tmp_path / "trials.csv")) == 56 + 20
    limit, measured[:] = 99, []
    rows = grid_run.measure_grids(tmp_path, jobs[:6], "lite", ["identity"], 1, 1)
    assert measured == [] and [(*grid_run._place(r)[1::2], r["method"]) for r in rows] == [
        (job[0].label, job[2], name) for job in jobs[:6] for name in ("retina_kp", "identity")
    ]
    with pytest.raises(ValueError, match="seed: 1 → 2.*--out"):
        grid_run.measure_grids(tmp_path, jobs, "lite", ["ECC"], 2, 1)


def test_trials_of_unknown_origin_are_not_continued(tmp_path):
    write_csv(tmp_path / "trials.csv", [row(1)])
    with pytest.raises(ValueError, match="another run .code: None → 'a'"):
        grid_run.resume(tmp_path, {"code": "a"})


def test_an_earlier_run_is_shown_with_its_own_cold_start(tmp_path):
    write_csv(tmp_path / "trials.csv", [row(1)])
    assert grid_run.earlier_run(tmp_path / "trials.csv") == (grid_tables.read_rows(tmp_path / "trials.csv"), {})
    grid_run.save_figures(tmp_path, [row(1)], {}, {"load_s": 0.5})
    assert grid_run.earlier_run(tmp_path / "trials.csv")[1] == {"load_s": 0.5}


def test_the_command_measures_prints_and_keeps(tmp_path, monkeypatch, capsys):
    """A second call with another baseline and another grid goes on, and loses nothing."""
    easy = replace(grids.EASY, size_px=192)
    monkeypatch.setitem(benchmark.FACTORS, "overlap", lambda: grids.overlap_cells((0.5, 1), easy))
    monkeypatch.setitem(benchmark.FACTORS, "all three", lambda: grids.crossed_cells((0.0,), (1.0,), (0.5, 1), easy))
    monkeypatch.setattr(benchmark, "start_figures", lambda *args: {"load_s": 0.5})
    command = ["benchmark", "--pairs", "1", "--moving", "FA", "--out", str(tmp_path)]
    runs = (
        ("overlap", "ECC", "1 pairs, 0 of them measured before", "50–100 %"),
        ("overlap", "ECC", "1 pairs, 1 of them", "50–100 %"),
        ("all three", "identity", "1 pairs, 0 of them", "turn, scale and overlap together"),
    )
    for grid, baseline, *told in runs:
        monkeypatch.setattr(sys, "argv", [*command, "--grid", grid, "--baselines", baseline])
        benchmark.main()
        said = capsys.readouterr().out
        assert all(words in said for words in (*told, "load_s 0.50"))
    assert {p.name for p in tmp_path.iterdir()} == {"settings.json", "trials.csv", "cells.csv", "figures.json"}
    found = [(r["factor"], r["method"]) for r in grid_tables.read_rows(tmp_path / "trials.csv")]
    assert found == [
        ("overlap", "retina_kp"),
        ("overlap", "ECC"),
        ("all three", "retina_kp"),
        ("all three", "identity"),
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--grid", "angel"], "--grid: no 'angel'; there are angle, scale, overlap"),
        (["--tables", "upside"], "--tables: no 'upside'"),
        (["--baselines", "SURF"], "no baseline 'SURF'"),
        (["--moving", "XY"], "no modality 'XY'"),
        (["--weights", "nowhere"], "nowhere"),
        (["--pairs", "-1"], "whole numbers"),
        (["--moving", ","], "at least one"),
        (["--grid", ","], "at least one"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_measured(arguments, told, capsys):
    with pytest.raises(SystemExit):
        benchmark.read_arguments(arguments)
    assert told in capsys.readouterr().err


def test_without_arguments_the_grids_are_measured_with_all_baselines():
    args = benchmark.read_arguments([])
    assert (
        args.grid == list(grids.FACTORS)
        and args.baselines == list(BASELINES)
        and (args.pairs, args.seed) == (2, grids.GRID_SEED)
    )
    assert benchmark.read_arguments(["--moving", "FA,CF-FA,OCT-FA", "--grid", "angle, angle"]).moving == [
        "FA",
        "OCT-FA",
    ]
    args = benchmark.read_arguments(["--tables", "usual,wide", "--ours-only"])
    assert (
        args.tables == ["usual", "wide"] and args.baselines == [] and (args.pairs, args.seed) == (12, VALIDATION_SEED)
    )


def test_settings_of_the_notebook_are_checked(tmp_path):
    known = notebook_parameters(project_root() / "notebooks" / "09_benchmark.ipynb")
    cells = from_dict(grid_run.BenchmarkSettings, known).cells()
    assert {cell.options.size_px for cell in cells} == {512} and {cell.factor for cell in cells} == set(grids.FACTORS)
    assert not any(
        c.factor == "all three" for c in from_dict(grid_run.BenchmarkSettings, known | {"together": []}).cells()
    )
    wrong = (
        ({"measure": "sucess"}, "no 'sucess'"),
        ({"together": [[1.0]]}, "three lists"),
        ({"pairs_per_cell": 0}, "from 1"),
        ({"trials": str(tmp_path / "none.csv")}, "no file"),
    )
    for given, told in wrong:
        with pytest.raises(ValueError, match=told):
            from_dict(grid_run.BenchmarkSettings, known | given)


def test_tables_tell_how_far_confidence_is_off_and_keep_their_trials(tmp_path, monkeypatch, capsys):
    """A second call measures nothing again; with other pairs it does."""
    made_up = [Trial("FA", e < np.inf, e, e, 0.9, 0.5, True, {"inliers": 9.0}) for e in (1.0, 1.0, 6.0, np.inf)]
    measured = []
    monkeypatch.setattr(benchmark, "gather_trials", lambda *args, **how: measured.append(args[2]) or made_up)
    monkeypatch.setattr(benchmark, "start_figures", lambda *args: {"load_s": 0.5})
    for pairs in ("4", "4", "5"):
        command = [
            "benchmark",
            "--tables",
            "wide",
            "--ours-only",
            "--moving",
            "FA",
            "--pairs",
            pairs,
            "--out",
            str(tmp_path),
        ]
        monkeypatch.setattr(sys, "argv", command)
        benchmark.main()
        said = capsys.readouterr().out
        assert "scale 0.33–3" in said and "CF-FA  4  0.5 " in said and "over these 4 pairs: 0.150" in said
    assert measured == [4, 5]
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "tables").glob("wide CF-FA *.json")]
    assert sorted(one["about"]["pairs"] for one in kept) == [4, 5]
    assert all([t["error_px"] for t in one["trials"]["retina_kp"]] == [1, 1, 6, None] for one in kept)


def test_the_full_parameters_exist_in_the_notebook():
    folder = project_root() / "notebooks"
    full = yaml.safe_load(Path(folder / "params" / "benchmark.yaml").read_text(encoding="utf-8"))
    known = notebook_parameters(folder / "09_benchmark.ipynb")
    assert {key: type(value) for key, value in full.items()} == {key: type(known[key]) for key in full}
    labels = {
        f: [c.label for c in cells(full[key])]
        for f, cells, key in (("angle", grids.angle_cells, "angles"), ("scale", grids.scale_cells, "scales"))
    }
    assert labels == {"angle": [c.label for c in grids.angle_cells()], "scale": [c.label for c in grids.scale_cells()]}
    assert [c.label for c in grids.crossed_cells(*full["together"])] == [c.label for c in grids.crossed_cells()]


# ------------------------------------------------------------------ pictures


def test_pictures_show_every_method_and_stage():
    rows = [
        row(e, m, b, pair=p)
        for e, m in ((1, "retina_kp"), (9, "ECC"), (2, "SIFT+MAGSAC"))
        for b in ("0°", "90°")
        for p in ("CF-FA", "CF-OCT")
    ]
    figure = viz_benchmark.plot_grid(grid_tables.summarise(rows, "factor", "bin", "pair", "method"), "angle")
    assert len(figure.axes) == 2 and "1 pair per point" in figure.axes[0].get_title()
    for ax in figure.axes:
        lines = {line.get_label(): line for line in ax.lines}
        assert {name: list(line.get_ydata()) for name, line in lines.items()} == {
            "retina_kp": [1, 1],
            "ECC": [0, 0],
            "SIFT+MAGSAC": [1, 1],
        }
        assert (
            list(lines["retina_kp"].get_xdata()) == [0, 1]
            and len({tuple(line.get_xdata()) for line in lines.values()}) == 3
        )
    rows += [
        row(e, m, f"{turn}, 1, 50–100 %", "all three")
        for e, m in ((1, "retina_kp"), (9, "ECC"))
        for turn in ("0°", "90°")
    ]
    unfinished = [
        row(1, label="0°, 1, 25–50 %", factor="all three"),
        row(1, "ECC", label="90°, 2, 50–100 %", factor="all three"),
    ]
    some = viz_benchmark.plot_crossed(grid_tables.summarise(unfinished, "factor", "bin", "pair", "method"))
    assert [[text.get_text() for text in ax.texts] for ax in some.axes] == [["100"], [], [], ["100"]]
    crossed = viz_benchmark.plot_crossed(grid_tables.summarise(rows, "factor", "bin", "pair", "method"))
    assert [ax.get_title() for ax in crossed.axes] == ["retina_kp", "ECC"]
    assert [[text.get_text() for text in ax.texts] for ax in crossed.axes] == [["100", "100"], ["0", "0"]]
    stages = viz_benchmark.plot_stages(grid_tables.stage_rows(rows))
    assert [patch.get_height() for patch in stages.axes[0].patches] == [0.25] * 2 * len(STAGES)
    bars = viz_benchmark.plot_seconds(grid_tables.method_rows(rows, {"absent": "why"}))
    assert len(bars.axes[0].patches) == 3
    empty = viz_benchmark.plot_grid(grid_tables.summarise(rows, "factor", "bin", "pair", "method"), "scale")
    assert "nothing about the scale" in empty.axes[0].texts[0].get_text()
    plt.close("all")


def test_confidence_is_drawn_with_its_limit():
    """Two of the three given answers are right; without confidences there is nothing to draw, and no crash."""
    told = [
        row(1.0) | {"confidence": sure, "tried_px": px}
        for sure, px in ((0.95, 1.0), (0.9, 30.0), (0.6, 4.0), (0.1, 900.0))
    ]
    figure = viz_benchmark.plot_confidence(told)
    left, right = figure.axes
    assert left.get_title().startswith("4 pairs, calibration error") and [t.get_text() for t in left.texts] == [
        "1",
        "1",
        "2",
    ]
    ((x, y),) = [line.get_xydata()[0] for line in right.lines if line.get_marker() == "o"]
    assert (x, y) == (0.75, pytest.approx(1 / 3))
    assert viz_benchmark.plot_confidence([row(1.0)]).axes
    plt.close("all")
