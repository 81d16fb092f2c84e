"""Charts say what the rows say: lengths, places and counts are read back from the drawn figures; galleries are ordered
and small."""

import io
from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from evaluation_trees import operation_pair
from matplotlib.collections import LineCollection, PolyCollection
from PIL import Image

from retina_kp.core.overlays import GREEN_MAGENTA, MODALITY_COLORS, overlay
from retina_kp.data.layouts import load_layout
from retina_kp.evaluation import summary
from retina_kp.evaluation.baselines import identity
from retina_kp.evaluation.methods import Function
from retina_kp.evaluation.metrics import error_columns
from retina_kp.evaluation.pairs import FIT
from retina_kp.evaluation.real_pairs import Stress
from retina_kp.evaluation.runner import evaluate
from retina_kp.viz import difficulty, gallery, pictures
from retina_kp.viz import evaluation as charts
from retina_kp.viz.registrations import BLACK

matplotlib.use("Agg")


def row(pair, method, outcome, mean=None, confidence=np.nan, factors=None, **more):
    names = {"pair": pair, "eye": pair, "kind": "CF-FA", "category": "", "method": method, "status": "ok"}
    names |= {"factors": factors or {}, "stress": Stress(**factors or {}).label, "seconds": 1.0, "dice": np.nan}
    errors = error_columns(None if mean is None else np.array([mean, mean]))
    tried = np.nan if mean is None else mean
    told = {"outcome": outcome, "confidence": confidence, "true_turn_deg": 10.0, "true_scale": 1.2, "tried_px": tried}
    return names | errors | told | more


FACTS = [row(f"p{k}", FIT, "acceptable", 1.0, residual_px=3.0 if k < 2 else 40.0) for k in range(4)]
OURS = [
    row("p0", "ours", "acceptable", 2.0, 0.99),
    row("p1", "ours", "acceptable", 6.0, 0.95),
    row("p2", "ours", "refused", None, 0.2, tried_px=9.0),
    row("p3", "ours", "inaccurate", 80.0, 0.6),
    *(row(f"p{k}", "ours", "acceptable" if k else "failed", 4.0 if k else None, 0.9, {"gamma": 2.0}) for k in range(4)),
]
OTHER = [
    row("p0", "other", "inaccurate", 30.0),
    row("p1", "other", "failed"),
    row("p2", "other", "acceptable", 8.0),
    row("p3", "other", "failed"),
]
ROWS = pd.DataFrame([*FACTS, *OURS, *OTHER])


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_bars_add_up_and_keep_the_outcomes_apart():
    (ax,) = charts.plot_outcomes(ROWS, accept_confidence=0.7).axes
    widths = np.array([bar.get_width() for bar in ax.patches]).reshape(3, 5)  # oracle, ours, other × outcomes
    assert widths.sum(1) == pytest.approx([1, 1, 1])
    assert widths[1] == pytest.approx([0.5, 0.25, 0, 0.25, 0]) and widths[2] == pytest.approx([0.25, 0, 0.25, 0, 0.5])
    assert len({bar.get_hatch() for bar in ax.patches[:4]}) == 4  # told apart in print too


def test_curves_hold_all_pairs_and_the_floor():
    (ax,) = charts.plot_cdf(ROWS).axes
    ends = {line.get_label().split(":")[0]: line.get_ydata()[-1] for line in ax.lines[:3]}
    assert ends == {FIT: 1.0, "ours": 0.5, "other": 0.25}
    assert len({(line.get_linestyle(), line.get_color()) for line in ax.lines}) == 4
    floor = ax.lines[3]  # a curve: half of the clicked pairs lie up to 3 px, the others at 40
    assert floor.get_label() == "annotation residual: 50% of 4" and floor.get_ydata().tolist() == [0, 0.25, 0.5, 0.5]


def test_differences_stand_where_the_table_says():
    table = summary.differences(ROWS, "ours")
    ax = charts.plot_differences(table, "ours").axes[0]
    assert (
        ax.lines[2].get_xdata()[0] == pytest.approx(0.25)
        and ax.lines[1].get_xdata().tolist() == table.acceptable[0][1:]
    )


def test_differences_are_told_by_modality_and_drawn_for_all():
    """Only on the CF-OCT pair is the first method better."""
    cases = (
        ("a", "CF-FA", "ours", 2.0),
        ("a", "CF-FA", "other", 2.0),
        ("b", "CF-OCT", "ours", 2.0),
        ("b", "CF-OCT", "other", None),
    )
    rows = [row(pair, method, "acceptable" if px else "failed", px, kind=kind) for pair, kind, method, px in cases]
    table = summary.differences(pd.DataFrame(rows), "ours")
    assert [(line["kind"], line["pairs"], line["acceptable"][0]) for line in table.to_dict("records")] == [
        ("CF-FA", 1, 0),
        ("CF-OCT", 1, 1),
        ("all", 2, 0.5),
    ]
    ax = charts.plot_differences(table, "ours").axes[0]
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"] == [0.5]


def test_dice_is_compared_on_pairs_that_both_have():
    facts = [fact | {"dice": dice} for fact, dice in zip(FACTS, (0.6, 0.8, np.nan, 0.4), strict=True)]
    rows = [row(f"p{k}", "ours", "acceptable", 1.0, dice=dice) for k, dice in enumerate((0.5, 0.7, 0.9, np.nan))]
    fit, ours = summary.dice_table(pd.DataFrame(facts + rows)).to_dict("records")
    assert (fit["compared"], fit["dice"][0], ours["pairs"], ours["compared"]) == (3, pytest.approx(0.6), 4, 2)
    assert ours["dice"][0] == pytest.approx(0.6) and ours["dice_fit"][0] == pytest.approx(0.7)
    (alone,) = summary.dice_table(pd.DataFrame(rows)).to_dict("records")
    assert alone["compared"] == 3 and alone["dice"][0] == pytest.approx(0.7) and alone["dice_fit"] is None


def test_errors_without_transform_stand_on_the_rail():
    figure = charts.plot_against_pose(ROWS, "ours")
    heights = np.concatenate(
        [dots.get_offsets()[:, 1] for dots in figure.axes[0].collections if dots.get_label() == "CF-FA"]
    )
    assert sorted(heights) == pytest.approx([2, 4, 4, 4, 6, 80, 400, 400])


def test_stress_curves_include_the_untouched_pairs():
    table = summary.stress_table(ROWS)
    found = [
        (line["method"], line["factor"], line["value"], line["acceptable"][0]) for line in table.to_dict("records")
    ]
    assert found == [
        ("ours", "gamma", 1.0, 0.5),
        ("ours", "gamma", 2.0, 0.75),
    ]
    (ax,) = difficulty.plot_stress(table, 1.0).axes
    oracle, curve = ax.lines
    assert curve.get_ydata().tolist() == [0.5, 0.75] and ax.collections and set(oracle.get_ydata()) == {1.0}
    assert oracle.get_zorder() < curve.get_zorder(), "an oracle hides no curve"


def test_only_the_first_method_has_a_band_under_stress():
    rows = pd.concat([ROWS, ROWS[ROWS.method == "ours"].assign(method="second")], ignore_index=True)
    ax = difficulty.plot_stress(summary.stress_table(rows)).axes[0]
    bands, bars = ([c for c in ax.collections if isinstance(c, kind)] for kind in (PolyCollection, LineCollection))
    assert len(bands) == len(bars) == 1 and len(bars[0].get_segments()) == 2


def test_methods_that_stand_apart_stay_within_the_axes():
    rows = pd.DataFrame([r | {"method": name} for r in OURS for name in ("ours", *(f"m{k}" for k in range(11)))])
    figure = difficulty.plot_stress(summary.stress_table(rows))
    figure.canvas.draw()
    ax = figure.axes[0]
    ends = [line.get_transform().transform(line.get_xydata())[-1, 0] for line in ax.lines if len(line.get_xdata()) == 2]
    assert len(ends) >= 12 and max(ends) < ax.bbox.x1 and len({round(end, 1) for end in ends}) >= 12


def test_ten_methods_and_more_are_told_apart_in_print():
    """No two share colour, marker and dash, markers alone already tell them, black is left to the oracles, and curves
    carry markers."""
    names = [f"m{k}" for k in range(12)]
    styles = list(charts.looks(names).values())
    assert len({str(style) for style in styles}) == len({marker for _, marker, _ in styles}) == 12
    assert len({str((color, dash)) for color, _, dash in styles}) == 12 and all(
        color != BLACK for color, _, _ in styles
    )
    rows = FACTS + [row(f"p{k}", name, "acceptable", 2.0) for name in names for k in range(4)]
    ax = charts.plot_cdf(pd.DataFrame(rows)).axes[0]
    assert len({line.get_marker() for line in ax.lines[1:13]}) == 12 and all(
        line.get_markevery() for line in ax.lines[1:13]
    )
    assert ax.lines[0].get_zorder() < min(line.get_zorder() for line in ax.lines[1:13]) and ax.get_axisbelow()


def test_reliability_counts_refused_answers_as_they_would_have_been():
    table = summary.reliability(ROWS)  # the altered pairs among them do not count
    bins = table.to_dict("records")
    assert [(b["from"], b["n"], b["right"]) for b in bins] == [
        (0.1, 1, 1.0),
        (0.5, 1, 0.0),
        (0.9, 1, 1.0),
        (0.97, 1, 1.0),
    ]
    # one of one: exact limits
    assert (bins[0]["low"], bins[0]["high"], bins[1]["high"]) == pytest.approx((0.025, 1, 0.975))
    left, right, risk = charts.plot_reliability(table, ROWS).axes
    assert [tick.get_text() for tick in left.get_xticklabels()] == [
        "0.1–0.5\nn = 1",
        "0.5–0.9\nn = 1",
        "0.9–0.97\nn = 1",
        "0.97–1\nn = 1",
    ]
    assert [tick.get_text() for tick in right.get_yticklabels()] == ["wrong (1)", "right (3)"]
    assert sum(len(dots.get_offsets()) for dots in right.collections) == 4
    by_hand = [(0.25, 0), (0.5, 0), (0.75, 1 / 3), (1, 1 / 4)]  # sure .99 right, .95 right, .6 wrong, .2 right
    assert np.allclose(risk.lines[0].get_xydata(), by_hand) and np.allclose(risk.lines[1].get_xydata(), [by_hand[2]])


def test_without_truth_every_chart_says_so_in_text():
    none = ROWS.assign(mean_px=np.nan)
    said = [
        charts.plot_outcomes(none),
        charts.plot_cdf(none),
        charts.plot_differences(summary.differences(none, "ours"), "ours"),
        charts.plot_against_pose(none, "ours"),
        difficulty.plot_stress(summary.stress_table(none)),
        charts.plot_reliability(summary.reliability(none), none),
    ]
    assert all(text.startswith("No ") for text in said) and not plt.get_fignums()
    assert pictures.as_png(said[0], "bars").data == f"<p><i>{said[0]}</i></p>"


def test_charts_are_pictures_with_an_alt_text_whatever_the_backend():
    picture = pictures.as_png(charts.plot_outcomes(ROWS), "what became of the pairs")
    data, metadata = picture._repr_mimebundle_()
    assert Image.open(io.BytesIO(picture.data)).format == "PNG" and not plt.get_fignums()
    assert metadata["image/png"]["alt"] == "what became of the pairs" and set(data) == {"image/png"}


def test_overlays_are_white_where_vessels_agree_whatever_the_colours():
    image = np.full((240, 320), 0.7, np.float32)
    image[30::60], image[:, 40::80] = 0.2, 0.2
    for colors in (GREEN_MAGENTA, (MODALITY_COLORS["CF"], MODALITY_COLORS["FA"])):
        same = overlay(image, image, colors=colors)
        assert np.ptp(same, axis=-1).max() < 0.02 and same[30].mean() > same[60].mean() + 0.3
    only_fixed = overlay(image, np.full_like(image, 0.7), colors=(MODALITY_COLORS["CF"], MODALITY_COLORS["FA"]))
    assert only_fixed[30, 10, 1] > only_fixed[30, 10, 0] + 0.3  # green


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    root = tmp_path_factory.mktemp("clinic")
    for name, shift in (("001_01", (0, 0)), ("001_02", (6, 8)), ("002_01", (3, 0))):
        operation_pair(root, name, shift)
    return evaluate(load_layout(root).records, [Function("identity", identity)])


def test_the_worst_pair_comes_first(clinic):
    pairs = gallery.worst_first(clinic.records, clinic.rows, "identity")
    assert [gallery.title(pair) for pair in pairs] == [
        "cffa_001_02 · wrongly accepted · mean 60.0 px",
        "cffa_002_01 · acceptable · mean 18.0 px",
        "cffa_001_01 · acceptable · mean 0.0 px",
    ]


def test_arrows_are_enlarged_by_what_the_title_says(clinic):
    pair = gallery.worst_first(clinic.records, clinic.rows, "identity")[1]  # 3 px of 128
    ax = gallery.plot_pair(pair).axes[3]
    (arrows,) = [artist for artist in ax.collections if hasattr(artist, "U")]
    assert arrows.U == pytest.approx(-3, abs=0.01) and arrows.V == pytest.approx(0, abs=0.01)
    assert "×2" in ax.get_title() and arrows.scale == pytest.approx(1 / 2) and "mean 18.0" in ax.get_title()


def test_long_arrows_stay_in_the_frame(clinic):
    """One of twelve points is 300 px off: the others decide; were all so far off, arrows would be drawn smaller than
    they are."""
    pair = gallery.worst_first(clinic.records, clinic.rows, "identity")[1]
    for moved, magnification in ((0, 2), (300, 0.1)):
        result = pair.row["registration"] | {"H_1to0": [[1, 0, moved], [0, 1, 0], [0, 0, 1]]}
        ax = gallery.plot_pair(replace(pair, row=pair.row | {"registration": result})).axes[3]
        assert f"×{magnification:g}:" in ax.get_title() and "dot: truth" in ax.get_title()


def test_frames_tell_outcomes_by_colour_dash_and_word(clinic):
    pairs = gallery.worst_first(clinic.records, clinic.rows, "identity")
    unknown = replace(pairs[0], name="x", row=pairs[0].row | {"errors_px": None}, outcome="answered")
    axes = gallery.plot_contact_sheet([*pairs[:2], unknown]).axes
    frames = [(ax.spines["left"].get_edgecolor(), str(ax.spines["left"].get_linestyle())) for ax in axes]
    assert len(set(frames)) == 3 and len({dash for _, dash in frames}) == 3
    assert (
        "wrongly accepted" in axes[0].get_title()
        and "acceptable, 18.0 px" in axes[1].get_title()
        and "answered" in axes[2].get_title()
    )
    assert frames[2][0][:3] == (0.6, 0.6, 0.6), "nothing is acceptable that was not judged"
    assert len({str(dash) for _, _, dash, _ in charts.OUTCOME_LOOKS.values()}) == len(summary.OUTCOMES)


def test_pictures_of_pairs_are_jpeg_of_limited_size(clinic):
    pairs = gallery.worst_first(clinic.records, clinic.rows, "identity")
    for figure in (gallery.plot_contact_sheet(pairs), gallery.plot_before_after(pairs), gallery.plot_pair(pairs[0])):
        content = pictures.as_jpeg(figure, "a pair").data
        assert Image.open(io.BytesIO(content)).format == "JPEG" and not plt.fignum_exists(figure.number)
    small = pictures.as_jpeg(gallery.plot_pair(pairs[0]), "a pair", share=180).data
    assert len(small) < 1.15 * pictures.REPORT_BYTES / 180 < len(content)


def test_a_refused_pair_shows_its_images_and_the_reason(clinic):
    pair = gallery.worst_first(clinic.records, clinic.rows, "identity")[0]
    empty = pair.row["registration"] | {"status": "low confidence: 0.20", "H_1to0": None}
    refused = replace(pair, row=pair.row | {"errors_px": None, "registration": empty}, outcome="refused")
    figure = gallery.plot_pair(refused)
    assert (
        len(figure.axes) == 2 and "low confidence: 0.20" in figure.get_suptitle() and "refused" in figure.get_suptitle()
    )
