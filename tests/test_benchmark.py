"""The benchmark measures what it says: pairs lie in their bins, tables agree with a hand's, a second call goes on."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import click
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
import yaml  # noqa: E402

from retina_kp import PairOptions, Registrar  # noqa: E402
from retina_kp.cli.main import SETTINGS  # noqa: E402
from retina_kp.core.config import from_dict  # noqa: E402
from retina_kp.evaluation import benchmark, pairs, timing  # noqa: E402
from retina_kp.evaluation.methods import BASELINES, Ours  # noqa: E402
from retina_kp.evaluation.metrics import judge  # noqa: E402
from retina_kp.evaluation.pairs import (  # noqa: E402
    AS_TAKEN,  # noqa: E402
    EASY,
    FACTORS,
    SyntheticPair,
    fits,
    grid_pairs,
    synthetic_pairs,
)
from retina_kp.evaluation.runner import measure, read_ledger  # noqa: E402
from retina_kp.evaluation.summary import SYNTHETIC, summarise  # noqa: E402
from retina_kp.evaluation.timing import STAGES, TimedRegistrar, cold_start  # noqa: E402
from retina_kp.notebook.report import notebook_parameters, project_root  # noqa: E402
from retina_kp.synthetic.pairs import draw_pair  # noqa: E402
from retina_kp.viz import difficulty  # noqa: E402

SMALL = replace(EASY, size_px=96)
CELLS = pairs.angle_cells(easy=SMALL) + pairs.scale_cells(easy=SMALL) + pairs.overlap_cells(easy=SMALL)
CROSSED = pairs.crossed_cells(easy=SMALL)


def row(error, method="retina_kp", label="0°", factor="angle", kind="CF-FA", index=0, seconds=1.0):
    stages = {f"{stage}_s": seconds / len(STAGES) for stage in STAGES} if method == "retina_kp" else {}
    names = {"factor": factor, "bin": label, "kind": kind, "index": index, "eye": str(index), "method": method}
    outcome = judge(np.array([error])) if error < np.inf else "failed"
    return names | {"outcome": outcome, "mean_px": error, "confidence": np.nan, "seconds": seconds} | stages


def nothing(fixed, moving):
    return None


def drawn(cell, kind, index):
    """The row of a pair of a cell."""
    pair = SyntheticPair(5, index, kind, cell.options, (cell.factor, cell.label))
    return measure([pair], [nothing]).to_dict("records")[0]


def cells_of(rows):
    return summarise(pd.DataFrame(rows), ["factor", "bin", "kind", "method"], SYNTHETIC)


@pytest.fixture
def easy_pair():
    return draw_pair(3, 0, ("CF", "FA"), PairOptions(size_px=256, rotation_deg=10, scale=(0.95, 1.05), min_overlap=0.8))


# ------------------------------------------------------------------ grids


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.factor} {cell.label}")
def test_every_drawn_pair_lies_in_its_bin(cell):
    measured = drawn(cell, "FA", 1)
    assert fits(measured, cell.options) and measured["mean_px"] == np.inf
    asked = {"angle": "rotation_deg", "scale": "scale", "overlap": "min_overlap"}.pop(cell.factor)
    others = [o for o in CELLS if o.factor == cell.factor and getattr(o.options, asked) != getattr(cell.options, asked)]
    assert not any(fits(measured, other.options) for other in others)


@pytest.mark.parametrize("cell", CROSSED[::3], ids=lambda cell: cell.label)
def test_every_pair_of_the_crossed_grid_lies_in_its_cell_alone(cell):
    measured = drawn(cell, "OCTA", 1)
    assert [other.label for other in CROSSED if fits(measured, other.options)] == [cell.label]


def test_bins_have_the_names_that_people_use():
    names = {factor: [cell.label for cell in CELLS if cell.factor == factor] for factor in FACTORS}
    assert names["angle"] == ["0°", "15°", "30°", "60°", "90°", "135°", "180°"]
    assert names["scale"] == ["1/3", "1/2", "1/1.5", "1", "1.5", "2", "3"]
    assert names["overlap"] == ["25–50 %", "50–75 %", "75–100 %"]


def test_the_wider_image_keeps_its_field():
    third, triple = (cell.options for cell in pairs.scale_cells((1 / 3, 3)))
    assert third.fixed_field_deg == pytest.approx((15, 55 / 3)) and triple.fixed_field_deg == (45, 55)


def test_unknown_modality_is_refused():
    for kind in ("XY", "XY-FA", "CF-"):
        with pytest.raises(ValueError, match="no modality '(XY)?'; there are CF, FA, OCT, OCTA"):
            grid_pairs(CELLS, 1, [kind])


def test_pairs_without_a_fundus_image_are_drawn_too():
    measured = drawn(CELLS[0], "OCT-FA", 0)
    assert [measured[name] for name in ("factor", "bin", "kind", "index")] == ["angle", "0°", "OCT-FA", 0]
    assert SyntheticPair(5, 3, "deep OCTA").about()["kind"] == "CF-deep OCTA"


def test_the_truth_has_no_error_and_one_eye_is_seen_in_all_cells():
    one, two = (SyntheticPair(5, 2, "FA", cell.options).load() for cell in pairs.angle_cells((0, 90), SMALL))
    assert np.array_equal(one.fixed, two.fixed) and not np.array_equal(one.moving, two.moving)
    true = np.linalg.inv(one.truth.H_0to1)
    rows = measure([SyntheticPair(5, 2, "FA", pairs.angle_cells((0,), SMALL)[0].options)], [lambda f, m: true])
    assert rows.mean_px[0] == pytest.approx(0, abs=1e-9)


def test_scores_by_hand():
    rows = pd.DataFrame([row(e, seconds=s) for e, s in ((0.5, 1), (3, 2), (30, 4), (np.inf, 9))])
    (found,) = summarise(rows, scores=SYNTHETIC).to_dict("records")
    assert found == {
        "pairs": 4,
        "eyes": 1,
        "success": 0.5,
        "within_2px": 0.25,
        # below i px for i = 1…25: always, from 4 on, never, never
        "auc25": pytest.approx((25 + 22 + 0 + 0) / 25 / 4),
        "wrong": 0.25,
        "far": 0.25,
        "failed": 0.25,
        "median_px": 16.5,
        "seconds": 3,
    }


def test_tables():
    rows = [
        row(1),
        row(9, "ECC", seconds=0.5),
        row(1, label="90°"),
        row(np.inf, "ECC", label="90°"),
        row(2, factor="scale", label="3"),
    ]
    assert benchmark.pivot(cells_of(rows), "angle").to_dict("records") == [
        {"kind": "CF-FA", "method": "retina_kp", "0°": "1.00 (0.96)", "90°": "1.00 (0.96)"},
        {"kind": "CF-FA", "method": "ECC", "0°": "0.00 (0.64)", "90°": "0.00 (0.00)"},
    ]
    table = benchmark.method_table(pd.DataFrame(rows), {"other": "no such package"})
    ours, ecc, absent = table.to_dict("records")
    assert (ours["pairs"], ours["success, angle"], ours["success, scale"]) == (3, 1.0, 1.0)
    assert (ecc["success, angle"], ecc["wrong"], ecc["failed"]) == (0.0, 0.5, 0.5)
    assert absent["method"] == "other" and np.isnan(absent["auc25"]) and absent["note"] == "left out: no such package"
    stages = benchmark.stage_table(pd.DataFrame(rows)).to_dict("records")
    assert stages[0] == {"factor": "angle", "bin": "0°", "pairs": 1} | dict.fromkeys(STAGES, 0.25)


def test_the_crossed_grid_is_a_row_per_method_overlap_and_turn():
    def at(error, turn, scale, overlap, **how):
        return row(error, factor="all three", label=f"{turn}, {scale}, {overlap}", **how)

    low = "25–50 %"
    rows = [
        at(1, "0°", "1", low),
        at(9, "0°", "1", low),
        at(1, "0°", "1", low, kind="CF-OCT"),
        at(9, "0°", "2", low),
        at(1, "90°", "1", "50–100 %", method="ECC"),
        row(1),
    ]
    ours, ecc = benchmark.crossed_table(cells_of(rows)).to_dict("records")
    assert ours == {"method": "retina_kp", "overlap": "25–50 %", "turn": "0°", "1": 0.667, "2": 0.0}
    assert (ecc["method"], ecc["overlap"], ecc["turn"], ecc["1"]) == ("ECC", "50–100 %", "90°", 1) and ecc["2"] != 0
    stages = benchmark.stage_table(pd.DataFrame(rows))
    assert stages[["factor", "bin", "pairs"]].to_numpy().tolist() == [["all three", "all", 4], ["angle", "0°", 1]]


# ------------------------------------------------------------------ time


def test_stages_add_up_to_the_whole(monkeypatch):
    ticks = iter([0, 1, 3, 7, 15, 31, 63, 127])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    one = SimpleNamespace(within=0.0, seconds=Counter())
    deep = timing.staged("deep", lambda self: None)  # 15–31
    quick, slow = timing.staged("inner", lambda self: None), timing.staged("inner", deep)  # 1–3; 7–15, 31–63
    timing.staged("outer", lambda self: (quick(self), slow(self)))(one)  # 0–1, 3–7, 63–127
    assert one.seconds == {"outer": 1 + 4 + 64, "inner": 2 + 8 + 32, "deep": 16} and one.seconds.total() == 127


def test_a_timed_call_answers_alike(easy_pair):
    plain, timed = (kind.from_pretrained("lite", device="cpu") for kind in (Registrar, TimedRegistrar))
    results = [registrar(easy_pair.fixed, easy_pair.moving) for registrar in (plain, timed)]
    assert np.allclose(results[0].H_1to0, results[1].H_1to0)
    assert list(timed.seconds) == list(STAGES) and min(timed.seconds.values()) > 0


def test_cold_start_tells_time_and_memory(easy_pair):
    found = cold_start("lite", easy_pair.fixed, easy_pair.moving, np.zeros((256, 256), np.uint8))
    assert list(found) == ["load_s", "first_call_s", "later_call_s", "2000_px_s", "two_eyes_s", "peak_memory_gb"]
    assert min(found.values()) > 0 and 0.05 < found["peak_memory_gb"] < 4


# ------------------------------------------------------------------ commands


def identity(fixed, moving):
    return np.eye(3)


def test_a_table_holds_ours_beside_others():
    options = PairOptions(size_px=256, rotation_deg=10, scale=(0.95, 1.05), min_overlap=0.8)
    rows = measure(synthetic_pairs(3, 2, options, ["FA"]), [Ours("ours", device="cpu"), nothing, identity])
    assert set(rows.confidence[rows.method == "identity"].isna()) == {True} and rows.seconds.min() > 0
    table = summarise(rows, ["method"], SYNTHETIC).set_index("method")
    assert list(table.index) == ["ours", "nothing", "identity"] and table.success["ours"] == 1
    assert table.loc["nothing", ["failed", "success"]].tolist() == [1, 0]
    assert table.loc["identity", ["wrong", "failed"]].tolist() == [1, 0]


def test_a_second_call_measures_what_is_missing_and_loses_nothing(tmp_path, monkeypatch):
    """Killed after 20 of 28 pairs, with one more method than before: what was measured stays, and is not measured
    again."""
    drawn, measured, limit = grid_pairs(CELLS[:7], 4, ["FA"], 1), [], 28

    def run(pair, method, key, how):
        if len(measured) == limit:
            raise KeyboardInterrupt
        measured.append(method.name)
        return {"key": key, "status": "ok", **pair.about(), "mean_px": 1.0}

    monkeypatch.setattr("retina_kp.evaluation.runner.run_unit", run)
    first = measure(drawn, [identity], tmp_path)
    assert len(first) == 28 == len(measured) and list(first.bin[:5]) == ["0°"] * 4 + ["15°"]
    limit, measured[:] = 20, []
    with pytest.raises(KeyboardInterrupt):
        measure(drawn, [identity, nothing], tmp_path / "rows.jsonl")
    assert set(measured) == {"nothing"} and len(read_ledger(tmp_path / "rows.jsonl")) == 28 + 20
    limit, measured[:] = 99, []
    rows = measure(drawn[:6], [identity, nothing], tmp_path / "rows.jsonl")
    assert measured == [] and list(rows.method) == ["identity", "nothing"] * 6
    measure(grid_pairs(CELLS[:1], 1, ["FA"], 2), [identity], tmp_path / "rows.jsonl")
    assert measured == ["identity"], "another seed is another pair"


def test_an_earlier_run_is_shown_with_its_own_cold_start(tmp_path):
    rows = pd.DataFrame([row(np.inf), row(2.5, "ECC", index=7, label="1")])
    benchmark.save_tables(tmp_path, rows, {}, {"load_s": 0.5})
    again, start = benchmark.earlier_run(tmp_path / "trials.csv")
    assert start == {"load_s": 0.5} and set(again.stress) == {AS_TAKEN}
    pd.testing.assert_frame_equal(again[rows.columns], rows, check_dtype=False)
    (tmp_path / "summary.json").unlink()
    assert benchmark.earlier_run(tmp_path / "trials.csv")[1] == {}


def options(*arguments):
    """What the command reads out of its arguments."""
    return benchmark.checked(benchmark.benchmark.make_context("benchmark", list(arguments), **SETTINGS).params)


def run(*arguments) -> None:
    benchmark.benchmark.main(list(arguments), standalone_mode=False, **SETTINGS)


def test_the_command_measures_prints_and_keeps(tmp_path, monkeypatch, capsys):
    """A second call with another baseline and another grid goes on, and loses nothing."""
    easy = replace(EASY, size_px=192)
    monkeypatch.setitem(benchmark.FACTORS, "overlap", lambda: pairs.overlap_cells((0.5, 1), easy))
    monkeypatch.setitem(benchmark.FACTORS, "all three", lambda: pairs.crossed_cells((0.0,), (1.0,), (0.5, 1), easy))
    monkeypatch.setattr(benchmark, "start_seconds", lambda *args: {"load_s": 0.5})
    command = ["--pairs", "1", "--moving", "FA", "--out", str(tmp_path)]
    runs = (("overlap", "ECC", 2, "50–100 %"), ("overlap", "ECC", 2, "50–100 %"), ("all three", "identity", 4, "turn"))
    for grid, baseline, kept, told in runs:
        run(*command, "--grid", grid, "--baselines", baseline)
        said = capsys.readouterr().out
        assert told in said and "load_s 0.50" in said and len(read_ledger(tmp_path / "rows.jsonl")) == kept
    assert {p.name for p in tmp_path.iterdir()} == {"rows.jsonl", "trials.csv", "cells.csv", "summary.json"}
    rows, _ = benchmark.earlier_run(tmp_path / "trials.csv")
    assert rows[["factor", "method"]].to_numpy().tolist() == [["all three", "retina_kp"], ["all three", "identity"]]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--grid", "angel"], "--grid: no 'angel'; there are angle, scale, overlap"),
        (["--tables", "upside"], "--tables: no 'upside'"),
        (["--baselines", "SURF"], "no baseline 'SURF'"),
        (["--moving", "XY"], "no modality 'XY'"),
        (["--weights", "nowhere"], "nowhere"),
        (["--pairs", "-1"], "not in the range"),
        (["--moving", ","], "at least one"),
        (["--grid", ","], "at least one"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_measured(arguments, told):
    with pytest.raises((ValueError, OSError, click.UsageError), match=re.escape(told)):
        options(*arguments)


def test_without_arguments_the_grids_are_measured_with_all_baselines():
    args = options()
    assert (
        args.grid == list(FACTORS)
        and args.baselines == list(BASELINES)
        and (args.pairs, args.seed) == (2, pairs.GRID_SEED)
    )
    assert options("--moving", "FA,CF-FA,OCT-FA", "--grid", "angle, angle").moving == ["FA", "OCT-FA"]
    args = options("--tables", "usual,wide", "--ours-only")
    assert (
        args.tables == ["usual", "wide"]
        and args.baselines == []
        and (args.pairs, args.seed) == (12, benchmark.VALIDATION_SEED)
    )


def test_settings_of_the_notebook_are_checked(tmp_path):
    known = notebook_parameters(project_root() / "notebooks" / "09_benchmark.ipynb")
    cells = from_dict(benchmark.BenchmarkSettings, known).cells()
    assert {cell.options.size_px for cell in cells} == {512} and {cell.factor for cell in cells} == set(FACTORS)
    assert not any(
        c.factor == "all three" for c in from_dict(benchmark.BenchmarkSettings, known | {"together": []}).cells()
    )
    wrong = (
        ({"measure": "sucess"}, "no 'sucess'"),
        ({"together": [[1.0]]}, "three lists"),
        ({"pairs_per_cell": 0}, "from 1"),
        ({"trials": str(tmp_path / "none.csv")}, "no file"),
    )
    for given, told in wrong:
        with pytest.raises(ValueError, match=told):
            from_dict(benchmark.BenchmarkSettings, known | given)


def test_tables_tell_how_far_confidence_is_off(tmp_path, monkeypatch, capsys):
    made_up = pd.DataFrame([row(e, index=k) | {"tried_px": e} for k, e in enumerate((1.0, 1.0, 6.0, np.inf))])
    monkeypatch.setattr(benchmark, "measure", lambda *args: made_up.assign(confidence=0.9))
    monkeypatch.setattr(benchmark, "start_seconds", lambda *args: {"load_s": 0.5})
    run("--tables", "wide", "--ours-only", "--moving", "FA", "--pairs", "4", "--out", str(tmp_path))
    said = capsys.readouterr().out
    assert "scale 0.33–3" in said and "over these 4 pairs: 0.150" in said
    assert said.split("CF-FA retina_kp")[1].split()[:2] == ["4", "0.5"]


def test_the_full_parameters_exist_in_the_notebook():
    folder = project_root() / "notebooks"
    full = yaml.safe_load(Path(folder / "params" / "benchmark.yaml").read_text(encoding="utf-8"))
    known = notebook_parameters(folder / "09_benchmark.ipynb")
    assert {key: type(value) for key, value in full.items()} == {key: type(known[key]) for key in full}
    labels = {
        f: [c.label for c in cells(full[key])]
        for f, cells, key in (("angle", pairs.angle_cells, "angles"), ("scale", pairs.scale_cells, "scales"))
    }
    assert labels == {"angle": [c.label for c in pairs.angle_cells()], "scale": [c.label for c in pairs.scale_cells()]}
    assert [c.label for c in pairs.crossed_cells(*full["together"])] == [c.label for c in pairs.crossed_cells()]


# ------------------------------------------------------------------ pictures


def test_pictures_show_every_method_and_stage():
    methods = ((1, "retina_kp"), (9, "ECC"), (2, "SIFT+MAGSAC"))
    rows = [row(e, m, b, kind=k) for e, m in methods for b in ("0°", "90°") for k in ("CF-FA", "CF-OCT")]
    figure = difficulty.plot_grid(cells_of(rows), "angle")
    assert len(figure.axes) == 2 and "1 pair per point" in figure.axes[0].get_title()
    for ax in figure.axes:
        lines = {line.get_label(): line for line in ax.lines}
        heights = {name: list(line.get_ydata()) for name, line in lines.items()}
        assert heights == {"retina_kp": [1, 1], "ECC": [0, 0], "SIFT+MAGSAC": [1, 1]}
        assert list(lines["retina_kp"].get_xdata()) == [0, 1]
        assert len({tuple(line.get_xdata()) for line in lines.values()}) == 3
    turns = ("0°", "90°")
    rows += [row(e, m, f"{turn}, 1, 50–100 %", "all three") for e, m in methods[:2] for turn in turns]
    unfinished = [
        row(1, label="0°, 1, 25–50 %", factor="all three"),
        row(1, "ECC", label="90°, 2, 50–100 %", factor="all three"),
    ]
    some = difficulty.plot_crossed(cells_of(unfinished))
    assert [[text.get_text() for text in ax.texts] for ax in some.axes] == [["100"], [], [], ["100"]]
    crossed = difficulty.plot_crossed(cells_of(rows))
    assert [ax.get_title() for ax in crossed.axes] == ["retina_kp", "ECC"]
    assert [[text.get_text() for text in ax.texts] for ax in crossed.axes] == [["100", "100"], ["0", "0"]]
    stages = difficulty.plot_stages(benchmark.stage_table(pd.DataFrame(rows)))
    assert [patch.get_height() for patch in stages.axes[0].patches] == [0.25] * 2 * len(STAGES)
    bars = difficulty.plot_seconds(benchmark.method_table(pd.DataFrame(rows), {"absent": "why"}))
    assert len(bars.axes[0].patches) == 3
    assert "nothing about the scale" in difficulty.plot_grid(cells_of(rows), "scale").axes[0].texts[0].get_text()
    plt.close("all")
