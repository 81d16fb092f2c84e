"""The figures hold what they claim: artists, positions, counts; at odd sizes, every dtype, and with nothing to draw."""

import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from retina_kp import viz  # noqa: E402
from retina_kp.viz import curves as viz_curves  # noqa: E402
from retina_kp.viz import registrations  # noqa: E402

HW0, HW1 = (313, 471), (200, 151)
NONE = np.zeros((0, 2))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def vessels(hw, bright: bool, shift: int = 0):
    """uint8 picture with a cross of 5 px wide vessels on mid grey noise."""
    image = np.random.default_rng(0).normal(120, 4, hw)
    mask = np.zeros(hw, bool)
    mask[hw[0] // 2 - 2 + shift : hw[0] // 2 + 3 + shift] = mask[:, hw[1] // 2 - 2 : hw[1] // 2 + 3] = True
    image[mask] += 60 if bright else -60
    return image.astype(np.uint8)


def drawn_points(ax):
    return [
        len(collection.get_offsets()) for collection in ax.collections if type(collection).__name__ == "PathCollection"
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, bool])
@pytest.mark.parametrize("shape", [HW0, (*HW0, 3), (*HW0, 1)])
def test_show_takes_every_image_kind(shape, dtype):
    image = (np.random.default_rng(0).random(shape) * {np.float32: 1, bool: 2}.get(dtype, 200)).astype(dtype)
    ax = viz.show(image, title="odd")
    assert ax.images[0].get_array().shape[:2] == HW0 and ax.get_title() == "odd"
    assert ax.get_xlim() == (-0.5, 470.5) and ax.get_ylim() == (312.5, -0.5)
    assert 0 <= ax.images[0].get_array().min() and ax.images[0].get_array().max() <= 1


def test_dark_uint8_stays_dark_and_uint16_is_stretched():
    dark = np.tile(np.arange(64, dtype=np.uint8), (10, 1))
    assert viz.show(dark).images[0].get_array().max() == pytest.approx(63 / 255)
    assert viz.show(dark.astype(np.uint16)).images[0].get_array().max() == 1


@pytest.mark.parametrize("shape", [(5,), (5, 5, 4), (3, 5, 5), (0, 5)])
def test_other_shapes_are_refused_with_their_shape(shape):
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        viz.show(np.zeros(shape))


def test_contrast_stretch():
    stretched = viz.contrast_stretch(np.arange(101.0).reshape(1, 101), 10, 90)
    assert stretched[0, [0, 10, 50, 90, 100]] == pytest.approx([0, 0, 0.5, 1, 1])
    assert stretched.dtype == np.float32
    assert not viz.contrast_stretch(np.full((4, 5), 7)).any()
    assert np.isfinite(viz.contrast_stretch(np.array([[np.nan, np.inf, 1.0, 2.0]]))).all()


@pytest.mark.parametrize("bright", [True, False])
def test_overlay_is_white_on_agreement_and_coloured_elsewhere(bright):
    fixed = vessels(HW0, bright=False)
    r, g, b = viz.overlay(fixed, vessels(HW0, bright))[156, 100]  # on the horizontal vessel
    assert min(r, g, b) > 0.6 and abs(r - g) < 0.2
    apart = viz.overlay(fixed, vessels(HW0, bright, shift=20))
    assert apart[156, 100, 1] > apart[156, 100, 0] + 0.4  # only the fixed vessel: green
    assert apart[176, 100, 0] > apart[176, 100, 1] + 0.4  # only the warped vessel: magenta
    assert (
        np.array_equal(apart[..., 0], apart[..., 2])
        and apart.shape == (*HW0, 3)
        and 0 <= apart.min()
        and apart.max() <= 1
    )


def test_overlay_outside_the_warped_image_shows_the_fixed_one_only():
    valid = np.zeros(HW0, bool)
    picture = viz.overlay(np.dstack([vessels(HW0, False)] * 3), vessels(HW0, True), valid)
    assert (picture[..., 1] >= picture[..., 0]).all() and 0 < picture.max() <= 0.45 + 1e-6


def test_checkerboard_takes_tiles_in_turn():
    fixed, warped = np.tile([0.0, 1.0], (8, 4)), np.tile([1.0, 0.0], (8, 4))
    board = viz.checkerboard(fixed, warped, tiles=4)  # tiles of 2 x 2
    assert np.array_equal(board[:2, :2], fixed[:2, :2]) and np.array_equal(board[:2, 2:4], warped[:2, 2:4])
    assert np.array_equal(board[2:4, :2], warped[2:4, :2]) and np.array_equal(board[2:4, 2:4], fixed[2:4, 2:4])
    assert np.array_equal(viz.checkerboard(fixed, warped, np.zeros((8, 8), bool)), fixed)
    assert viz.checkerboard(vessels(HW0, True), np.dstack([vessels(HW0, True)] * 3)).shape == (*HW0, 3)


@pytest.mark.parametrize("compose", [viz.overlay, viz.checkerboard])
def test_composites_need_one_frame(compose):
    with pytest.raises(ValueError, match="one size"):
        compose(np.zeros(HW0), np.zeros(HW1))


def test_matches_end_where_the_points_are():
    matches0, matches1 = np.array([[0.0, 0], [470, 312], [10, 20]]), np.array([[0.0, 0], [150, 199], [75, 99.5]])
    ax = viz.plot_matches(np.zeros(HW0), np.zeros(HW1), matches0, matches1, [True, False, True])
    assert len(ax.images) == 2 and len(ax.lines) == 3 and ax.get_title() == "3 matches, 2 inliers"
    assert [line.get_color() for line in ax.lines] == [viz.YELLOW, viz.GREEN, viz.GREEN]
    left, right, bottom, top = ax.images[1].get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(HW1[1] / HW1[0])  # the aspect survives the common height
    (x0, x1), (y0, y1) = ax.lines[2].get_data()
    assert (x0, y0) == (10, 20) and x1 == pytest.approx((left + right) / 2) and y1 == pytest.approx((bottom + top) / 2)


def test_matches_are_thinned_and_may_be_none():
    points = np.random.default_rng(0).random((400, 2)) * 150
    ax = viz.plot_matches(np.zeros(HW0), np.zeros((*HW1, 3), np.uint8), points, points, max_lines=30)
    assert len(ax.lines) == 30 and ax.get_title() == "400 matches (30 drawn)"
    assert viz.plot_matches(np.zeros(HW0), np.zeros(HW1), NONE, NONE, []).get_title() == "0 matches, 0 inliers"
    with pytest.raises(ValueError, match="do not make matches"):
        viz.plot_matches(np.zeros(HW0), np.zeros(HW1), points, points[:5])


def test_points_on_images():
    points = np.array([[10.0, 20], [30, 40], [5, 6]])
    ax = viz.plot_keypoints(viz.show(np.zeros(HW0)), points)
    assert np.array_equal(ax.collections[0].get_offsets(), points) and ax.get_xlim() == (-0.5, 470.5)
    ax = viz.plot_predictions(None, vessels(HW0, True), points[:2], points)
    assert drawn_points(ax) == [3, 2]
    assert ax.get_title() == "2 predicted •  3 true ○"
    assert drawn_points(viz.plot_predictions(None, vessels(HW0, True), NONE, NONE)) == [0, 0]


def test_residual_arrows_are_magnified_errors():
    true = np.array([[10.0, 20], [30, 40], [50, 60]])
    predicted = np.array([[13.0, 24], [30, 40], [np.nan, np.nan]])
    ax = viz.plot_residuals(None, np.zeros(HW0), predicted, true, magnify=8)
    quiver = next(c for c in ax.collections if hasattr(c, "U"))
    assert quiver.U.tolist() == [3, 0] and quiver.V.tolist() == [4, 0] and quiver.scale == 1 / 8
    assert ax.get_title() == "residuals ×8: mean 2.5 px, max 5.0 px, 1 not mapped"
    assert "no points" in viz.plot_residuals(None, np.zeros(HW0), NONE, NONE).get_title()


def test_detector_heat_covers_the_image_at_any_stride():
    ax = viz.plot_detector(np.zeros((*HW0, 3), np.uint8), np.full((40, 59), 0.25))
    assert ax.images[1].get_extent() == [-0.5, 470.5, 312.5, -0.5] and "0.25" in ax.get_title()
    assert ax.images[1].get_alpha().max() == 0.5 and ax.get_xlim() == (-0.5, 470.5)


def test_gallery_is_as_wide_as_the_report_and_wastes_no_height():
    images = [np.zeros(HW0), np.zeros((*HW1, 3)), np.zeros(HW1, np.uint16)]
    figure = viz.image_grid(images, ["a", "b", "c"], columns=2)
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c"] and all(len(ax.images) == 1 for ax in figure.axes)
    tall = 5 * HW1[0] / HW1[1]
    assert figure.get_size_inches() == pytest.approx([10, 2 * tall + 0.6])
    with pytest.raises(ValueError, match="at least one"):
        viz.image_grid([])


def test_error_cdf_keeps_failures_in_the_denominator():
    ax = viz_curves.plot_error_cdf(None, {"ours": [1, 25, np.inf, None], "none": [None], "nothing": []})
    assert ax.lines[0].get_xdata().tolist() == [0, 1, 25, 25] and ax.lines[0].get_ydata().tolist() == [
        0,
        0.25,
        0.5,
        0.5,
    ]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "ours: 50% of 4",
        "none: 0% of 1",
        "nothing: 0% of 0",
    ]


def test_history_bridges_gaps_and_marks_phases():
    rows = [
        {
            "epoch": str(k),
            "phase": "a" if k < 3 else "b",
            "loss_det": "0.5",
            "total": str(5 - k),
            "auc": "" if k % 2 else k,
        }
        for k in range(5)
    ]
    ax = viz_curves.plot_history(None, rows, ["auc"])
    assert ax.lines[0].get_xdata().tolist() == [0, 2, 4] and ax.lines[0].get_ydata().tolist() == [0, 2, 4]
    assert ax.lines[1].get_xdata() == [2.5, 2.5] and ax.get_xlabel() == "epoch"
    ax = viz_curves.plot_loss(None, rows)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["loss_det", "total"] and ax.get_yscale() == "log"
    assert viz_curves.plot_loss(None, [{"loss": 0.0}, {"loss": 1.0}]).get_yscale() == "linear"
    assert not viz_curves.plot_loss(None, []).lines


def test_given_axes_are_used_and_no_figure_is_added():
    figure, axes = plt.subplots(2, 4)
    image, points = vessels(HW0, True), np.array([[10.0, 20]])
    a = axes.ravel()
    returned = [
        viz.show(image, a[0]),
        viz.plot_matches(image, image, points, points, ax=a[1]),
        viz.plot_detector(image, image / 255, a[2]),
        viz.plot_predictions(a[3], image, points, points),
        viz.plot_residuals(a[4], image, points, points),
        viz_curves.plot_error_cdf(a[5], {"x": [1]}),
        viz_curves.plot_loss(a[6], [{"loss": 1}]),
        viz_curves.plot_history(a[7], [{"k": 1}], ["k"]),
    ]
    assert all(got is given for got, given in zip(returned, a, strict=True)) and plt.get_fignums() == [figure.number]
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3)), (6, (2, 3)), (7, (3, 3))]
)
def test_a_gallery_fills_its_rows(count, shape):
    figure = viz.image_grid([np.zeros((8, 8))] * count, columns=3)
    assert figure.axes[0].get_gridspec().get_geometry() == shape


def test_what_is_not_known_is_a_dash_in_a_table():
    shown = viz.table([{"a": None, "b": float("nan"), "c": 0.0}]).data
    assert shown.count(">–</td>") == 2 and ">0.0</td>" in shown and "nan" not in shown
    assert "nothing to list" in viz.table([]).data


def test_file_table_rounds_up_and_leaves_notebooks_out(tmp_path):
    for name, size in (("b.json", 1), ("a.png", 2049), ("report.ipynb", 10)):
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "folder").mkdir()
    shown = viz.file_table(tmp_path).data
    assert shown.index("a.png") < shown.index("b.json") and ">3</td>" in shown and ">1</td>" in shown
    assert "report.ipynb" not in shown and "folder" not in shown


@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.parametrize("name", ["$a$_$\\frac{", "{$}$x", "cost $5", "a\\$b$"])
def test_names_out_of_data_are_never_formulas(name):
    ax = viz.show(np.zeros(HW0), title=name)
    errors = viz_curves.plot_error_cdf(None, {name: [1.0, 2.0]})
    for text in (ax.title, errors.get_legend().get_texts()[0]):
        told, is_formula = text._preprocess_math(text.get_text())  # what matplotlib draws
        assert told.startswith(name) and is_formula is False
        text.figure.canvas.draw()


def test_signs_that_no_font_has_are_escaped(monkeypatch):
    words = "眼底_é_한"
    monkeypatch.setitem(plt.rcParams, "font.family", ["sans-serif"])
    registrations._signs.cache_clear()
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error")
        ax = viz.show(np.zeros(HW0), title=words)
        ax.figure.canvas.draw()
    assert ax.get_title() == "\\u773c\\u5e95_é_\\ud55c"
    registrations._signs.cache_clear()
    monkeypatch.setattr(registrations, "_signs", lambda: {ord(sign) for sign in words})
    assert registrations.plain(words) == words
