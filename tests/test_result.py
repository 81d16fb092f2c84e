"""Oracles for results: a known transform draws a known picture, maps there and back, and survives the disk."""

import json
import re
import struct
import zlib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from retina_kp.core.geometry import as_homography, inside, lattice, resize_matrix, similarity, warp_points
from retina_kp.core.images import write_image
from retina_kp.mapping.result import Registration, refused
from retina_kp.mapping.saving import itk_spacing
from retina_kp.mapping.transforms import fit_transform

FIXED_HW, MOVING_HW = (340, 500), (313, 471)
AFFINE = np.array([[1.1, 0.25, -20], [-0.1, 0.9, 35], [0, 0, 1.0]])  # moving → fixed
TILT = np.array([[1.02, 0.05, 8], [-0.04, 0.98, -6], [2e-4, -1e-4, 1]])
BENT = np.array([[30, -20], [105, 6], [-4, 97], [0.5, -0.3], [0.2, 0.4], [-0.3, 0.4]])
POINTS = np.array([[0, 0], [470, 312], [100.25, 200.75], [300, 40]])


def registered(H=AFFINE, **changes):
    matches1 = np.random.default_rng(0).uniform(0, 300, (9, 2)).round(3)
    matches0 = warp_points(matches1, H).round(3)
    result = Registration("ok", H, 0.875, matches0, matches1, np.arange(9) < 7, FIXED_HW, MOVING_HW)
    return replace(result, **{"angle_deg": -5.25, "evidence": {"inliers": 7.0}, **changes})


def bent():
    """A quadratic result, worked out in frames that differ from the pixels of both images."""
    points1 = np.random.default_rng(0).uniform(0, 500, (300, 2))
    x, y = points1.T / 100
    points0 = np.stack([np.ones(300), x, y, x * x, x * y, y * y], 1) @ BENT
    fit = fit_transform(points0, points1, "quadratic", 3.0)
    out, into = similarity(0, 0.8, (0, 0), (-30, 5)), similarity(5, 1.2, (0, 0), (20, 0))
    return Registration.from_fit(fit, out, into, points0, points1, FIXED_HW, MOVING_HW)


def picture(hw):
    y, x = np.mgrid[: hw[0], : hw[1]]
    return np.rint(127 + 60 * np.sin(x / 9) + 60 * np.cos(y / 7)).astype(np.uint8)


# ------------------------------------------------------------------ maps


@pytest.mark.parametrize("H", [np.eye(3), AFFINE, TILT])
def test_maps_follow_the_matrix_and_undo_each_other(H):
    result = registered(H)
    assert result.map_to_fixed(POINTS) == pytest.approx(warp_points(POINTS, H))
    assert result.map_to_moving(result.map_to_fixed(POINTS)) == pytest.approx(POINTS, abs=1e-9)
    assert result.H_0to1 @ H / (result.H_0to1 @ H)[2, 2] == pytest.approx(np.eye(3), abs=1e-9)


def test_maps_undo_each_other_when_the_fixed_origin_lies_behind_the_horizon():
    result = registered(np.array([[1.2, 0, 1500], [0, 1, 0], [0.0009, 0, 1]]))
    assert result.map_to_moving(result.map_to_fixed(POINTS)) == pytest.approx(POINTS)


def test_quadratic_maps_meet_the_matches():
    result = bent()
    assert result.model == "quadratic" and result.inliers.all()
    off = np.linalg.norm(result.map_to_fixed(result.matches1) - result.matches0, axis=1)  # the inverse is no quadratic
    assert off.mean() < 0.03 and off.max() < 0.2


def test_maps_that_bend_undo_each_other_everywhere():
    result = bent()
    everywhere = np.random.default_rng(1).uniform(-300, 900, (500, 2))
    assert result.map_to_moving(result.map_to_fixed(everywhere)) == pytest.approx(everywhere, abs=1e-6)
    assert result.map_to_fixed(result.map_to_moving(everywhere)) == pytest.approx(everywhere, abs=1e-6)


def test_the_inverse_of_a_map_that_bends_is_its_inverse():
    result = bent()
    turned, inner = result.inverse(), result.matches1[inside(result.matches0, FIXED_HW)]
    assert (turned.fixed_hw, turned.moving_hw) == (MOVING_HW, FIXED_HW)
    assert turned.map_to_moving(inner) == pytest.approx(result.map_to_fixed(inner), abs=0.01)


def test_the_matrix_of_a_map_that_bends_is_its_best_affine():
    result = bent()
    grid = lattice(FIXED_HW, 40)
    there = result.map_to_moving(grid)
    seen = inside(there, MOVING_HW)
    terms = np.column_stack([grid, np.ones(len(grid))])[seen]
    best = np.linalg.lstsq(terms, there[seen], rcond=None)[0].T
    assert result.H_0to1[:2, :2] == pytest.approx(best[:, :2], abs=2e-3)


def test_a_map_that_folds_is_not_taken():
    result = registered()
    assert result.bent(lambda p: result.map_to_moving(p + 60 * np.sin(p / 20)), (0, 0), (499, 339)) is None
    assert result.bent(lambda p: np.full_like(p, np.nan), (0, 0), (499, 339)) is None


def test_the_pixel_map_is_what_every_pixel_shows():
    for result in (registered(TILT), bent()):
        whole = result.pixel_map()
        assert whole.shape == (*FIXED_HW, 2)
        assert whole[::50, ::70].reshape(-1, 2) == pytest.approx(
            result.map_to_moving(np.stack(np.meshgrid(np.arange(0, 500, 70), np.arange(0, 340, 50)), -1).reshape(-1, 2))
        )


def test_from_fit_chains_the_frames():
    points1 = np.random.default_rng(0).uniform(0, 400, (50, 2))
    points0 = warp_points(points1, AFFINE)
    out, into = np.diag([2.0, 2, 1]), similarity(30, 0.5, (0, 0), (5, 6))
    result = Registration.from_fit(
        fit_transform(points0, points1, "affine", 3.0), out, into, points0, points1, FIXED_HW, MOVING_HW
    )
    assert result.H_1to0 == pytest.approx(as_homography(out @ AFFINE @ into), abs=1e-6)
    assert warp_points(result.matches1, result.H_1to0) == pytest.approx(result.matches0, abs=1e-5)


# ------------------------------------------------------------------ pictures


@pytest.mark.parametrize("H", [AFFINE, TILT])
def test_warp_reproduces_the_fixed_image(H):
    fixed = picture(FIXED_HW)
    moving = cv2.warpPerspective(fixed, np.linalg.inv(H), MOVING_HW[::-1], flags=cv2.INTER_LINEAR)
    known = cv2.warpPerspective(np.full(FIXED_HW, 255, np.uint8), np.linalg.inv(H), MOVING_HW[::-1]) > 254
    result = registered(H)
    seen = result.covered() & (result.warp(known.astype(np.float32)) == 1)
    assert seen.mean() > 0.5 and np.abs(result.warp(moving).astype(int) - fixed)[seen].max() <= 4


BEHIND = np.array([[2.1, 0, 0], [0, 2.5, 0], [0.0045, 0, 1]])  # its horizon crosses the fixed image


@pytest.mark.parametrize("result", [registered(), registered(TILT), registered(BEHIND), bent()], ids=list("atfb"))
def test_warp_shows_what_the_pixel_map_says(result):
    """Affine maps, tilts and bends are warped on ways of their own."""
    moving = cv2.GaussianBlur(picture(MOVING_HW), (0, 0), 3)
    x, y = np.float32(np.nan_to_num(result.pixel_map(), nan=-1e6)).transpose(2, 0, 1)
    expected = cv2.remap(moving, x, y, cv2.INTER_LINEAR)
    assert np.abs(result.warp(moving).astype(int) - expected).max() <= 1 and expected.any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_identity_warp_is_the_image_itself(dtype, channels):
    white = 1 if dtype == np.float32 else np.iinfo(dtype).max
    image = (np.random.default_rng(0).random((*MOVING_HW, *channels)) * white).astype(dtype)
    warped = registered(np.eye(3), fixed_hw=MOVING_HW).warp(image)
    assert warped.dtype == dtype and (warped == image).all()


@pytest.mark.parametrize("result", [registered(BEHIND), bent()], ids=["horizon", "quadratic"])
def test_strips_join_without_a_seam(result, monkeypatch):
    """Rows by sevens, against coordinates of all pixels at once."""
    x, y = np.meshgrid(np.arange(FIXED_HW[1]), np.arange(FIXED_HW[0]))
    source = result.map_to_moving(np.stack([x, y], -1).reshape(-1, 2)).astype(np.float32).reshape(*FIXED_HW, 2)
    whole = cv2.remap(picture(MOVING_HW), source[..., 0], source[..., 1], cv2.INTER_LINEAR)
    monkeypatch.setattr("retina_kp.mapping.warping.STRIP_PX", 7 * FIXED_HW[1] + 3)
    assert (result.warp(picture(MOVING_HW)) == whole).mean() > 0.9999 and whole.any()


@pytest.mark.parametrize("result", [registered(TILT), bent()], ids=["homography", "quadratic"])
def test_a_resized_result_maps_resized_points(result):
    small = result.resized((170, 250), (626, 157))
    to0, to1 = (resize_matrix(a, b) for a, b in ((FIXED_HW, (170, 250)), (MOVING_HW, (626, 157))))
    assert small.map_to_fixed(warp_points(POINTS, to1)) == pytest.approx(warp_points(result.map_to_fixed(POINTS), to0))
    assert small.map_to_moving(warp_points(POINTS, to0)) == pytest.approx(
        warp_points(result.map_to_moving(POINTS), to1)
    )
    assert small.matches0 == pytest.approx(warp_points(result.matches0, to0)) and small.warp(
        np.zeros((626, 157))
    ).shape == (170, 250)


def test_a_resized_refusal_stays_one():
    small = registered().refuse("too few matches").resized((170, 250), MOVING_HW)
    assert not small.ok and small.H_1to0 is None and len(small.matches0) == 9


def test_warp_is_zero_where_there_is_no_data():
    result = registered(np.array([[1, 0, 100], [0, 1, 0], [0, 0, 1.0]]))
    warped, covered = result.warp(np.full(MOVING_HW, 200, np.uint8)), result.covered()
    assert covered[:313, 100:].all() and not covered[:, :100].any() and not covered[313:].any()
    assert (warped == 200 * covered).all()


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_finer_image_is_averaged_and_stays_in_its_place(channels):
    """Lines one pixel wide, a quarter of the size: gray everywhere, not stripes. A soft spot keeps its centre, to a
    hundredth px."""
    H = similarity(20, 0.25, (0, 0), (150, 60))
    lines = np.zeros((804, 1001, *channels), np.uint8)
    lines[:, ::2] = 200
    result = registered(H, moving_hw=(804, 1001))
    warped, covered = result.warp(lines), cv2.erode(result.covered().astype(np.uint8), np.ones((5, 5))) > 0
    assert warped.dtype == np.uint8 and covered.sum() > 30_000 and np.abs(warped[covered].astype(int) - 100).max() <= 3
    spot_xy = np.array([[430.0, 377.0]])
    y, x = np.mgrid[:804, :1001]
    spot = np.exp(-((x - spot_xy[0, 0]) ** 2 + (y - spot_xy[0, 1]) ** 2) / 2 / 16**2).astype(np.float32)
    drawn = result.warp(spot)
    y, x = np.mgrid[: FIXED_HW[0], : FIXED_HW[1]]
    centre = np.array([(x * drawn).sum(), (y * drawn).sum()]) / drawn.sum()
    assert np.abs(centre - warp_points(spot_xy, H)[0]).max() < 0.01


def test_a_slim_image_that_is_averaged_to_a_few_px_is_drawn_all_the_same():
    hw = (1200, 290)
    result = registered(similarity(0, 0.1, (0, 0), (20, 30)), moving_hw=hw)
    warped = result.warp(np.full(hw, 200, np.uint8))
    assert (warped[35:145, 25:45] == 200).all() and result.covered().sum() == pytest.approx(120 * 29, rel=0.05)


def test_an_image_smaller_than_a_pixel_is_drawn_as_nothing():
    assert (
        not registered(similarity(0, 0.005, (0, 0), (20.3, 30.3)), moving_hw=(64, 64))
        .warp(np.full((64, 64), 200, np.uint8))
        .any()
    )


def test_warp_reads_a_path(tmp_path):
    write_image(tmp_path / "moving.png", picture(MOVING_HW))
    assert (registered().warp(tmp_path / "moving.png") == registered().warp(picture(MOVING_HW))).all()


def test_warp_refuses_an_image_of_another_size():
    with pytest.raises(ValueError, match="of 471 x 313 px"):
        registered().warp(np.zeros((471, 313), np.uint8))


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "result", [registered().refuse("too few matches: 3"), refused("too few matches: 3", FIXED_HW, MOVING_HW)]
)
def test_a_refused_result_has_no_transform_and_says_why(result):
    assert not result.ok and result.H_1to0 is None and result.H_0to1 is None and result.displacement is None
    for use, value in (
        (result.warp, picture(MOVING_HW)),
        (result.map_to_fixed, POINTS),
        (result.map_to_moving, POINTS),
    ):
        with pytest.raises(ValueError, match="refused .too few matches: 3"):
            use(value)


def test_refusing_keeps_matches_and_evidence():
    result = registered().refuse("low confidence")
    assert len(result.matches0) == 9 and result.evidence == {"inliers": 7.0}


# ------------------------------------------------------------------ files


RESULTS = {
    "affine": registered(),
    "homography": registered(TILT, model="homography"),
    "quadratic": bent(),
    "low confidence": registered().refuse("low confidence: 0.2"),
    "blank": refused("no structure visible", FIXED_HW, MOVING_HW),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_save_and_load_round_trip(result, tmp_path):
    result.save(tmp_path / "pair.json")
    loaded = Registration.load(tmp_path / "pair.json")
    for name in ("status", "ok", "model", "confidence", "fixed_hw", "moving_hw", "evidence"):
        assert getattr(loaded, name) == getattr(result, name)
    assert loaded.angle_deg == pytest.approx(result.angle_deg, nan_ok=True) and (loaded.inliers == result.inliers).all()
    assert (
        loaded.matches0 == pytest.approx(result.matches0, abs=1e-3) and loaded.matches1.shape == result.matches1.shape
    )
    if result.ok:
        assert (loaded.H_1to0 == result.H_1to0).all() and (
            loaded.map_to_moving(POINTS) == result.map_to_moving(POINTS)
        ).all()


def test_json_has_no_nan(tmp_path):
    refused("no structure visible", FIXED_HW, MOVING_HW).save(tmp_path / "pair.json")
    registered(evidence={"share": float("nan")}).save(tmp_path / "two.json")
    for name in ("pair.json", "two.json"):
        json.loads((tmp_path / name).read_text(), parse_constant=pytest.fail)


def test_itk_maps_a_fixed_point_to_the_moving_point(tmp_path):
    """SimpleITK reads what is written and agrees, also outside of what the moving image covers."""
    sitk = pytest.importorskip("SimpleITK")
    for name, result in {"affine": registered(), "homography": registered(TILT), "bent": bent()}.items():
        result.save(tmp_path / f"{name}.json")
        transform = sitk.ReadTransform(str(tmp_path / f"{name}.tfm"))
        found = np.array([transform.TransformPoint(p) for p in lattice(FIXED_HW, 9)])
        assert found == pytest.approx(
            result.map_to_moving(lattice(FIXED_HW, 9)), abs=0.02 if name == "homography" else 1e-6
        )


def test_itk_resamples_as_warp_does(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    result, moving = bent(), picture(MOVING_HW)
    result.save(tmp_path / "pair.json")
    images = (sitk.GetImageFromArray(each) for each in (moving, picture(FIXED_HW)))
    warped = sitk.GetArrayFromImage(sitk.Resample(*images, sitk.ReadTransform(str(tmp_path / "pair.tfm"))))
    seen = cv2.erode(result.covered().astype(np.uint8), np.ones((3, 3))) > 0
    assert np.abs(warped.astype(int) - result.warp(moving))[seen].max() <= 2 and seen.mean() > 0.3


def files_with_a_resolution(folder):
    """Image files, as cameras and SimpleITK write them, with what says how large a pixel is; noise would hide shifts."""
    image, files = Image.fromarray(picture(MOVING_HW)), []

    def save(name, **how):
        files.append(folder / name)
        image.save(files[-1], **how)
        return files[-1]

    for unit, x, y in ((None, 96, 96), (1, 96, 96), (2, 96, 96), (2, 300, 200), (3, 100, 50), (2, 0, 5), (7, 9, 9)):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[282], tags[283] = float(x), float(y)
        if unit is not None:
            tags[296] = unit
        save(f"unit {unit} {x} {y}.tif", tiffinfo=tags)
    save("one of two.tif", tiffinfo={282: 300.0, 296: 2})
    plain = save("plain.jpg").read_bytes()
    for unit, x, y in ((0, 96, 48), (1, 96, 48), (2, 40, 40), (1, 0, 5), (3, 9, 9)):
        start = plain.index(b"JFIF\0") + 7
        files.append(folder / f"jfif {unit} {x} {y}.jpg")
        files[-1].write_bytes(plain[:start] + struct.pack(">BHH", unit, x, y) + plain[start + 5 :])
    exif = Image.Exif()
    exif.update({282: 300.0, 283: 300.0, 296: 2})
    save("exif.jpg", exif=exif)
    save("resolution.png", dpi=(96, 96))
    save("resolution.bmp", dpi=(96, 96))
    plain = save("plain.png").read_bytes()
    for number, content in enumerate(
        (b"\1.3\0.4", b"\0019e-3\0.02", b"\2.3\0.4", b"\0.3\0.4", b"\1-1\0.4", b"\1x\0.4")
    ):
        chunk = b"sCAL" + content
        chunk = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        files.append(folder / f"scale {number}.png")
        files[-1].write_bytes(plain[:33] + chunk + plain[33:])
    return files


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # of the broken ones
def test_the_spacing_of_a_file_is_what_simpleitk_takes_it_for(tmp_path):
    sitk, found = pytest.importorskip("SimpleITK"), set()
    for path in files_with_a_resolution(tmp_path):
        image = sitk.ReadImage(str(path))
        assert itk_spacing(path) == pytest.approx(image.GetSpacing(), rel=1e-6), path.name
        assert image.GetOrigin() == (0, 0) and image.GetDirection() == (1, 0, 0, 1)
        found.add(image.GetSpacing())
    assert len(found) >= 8  # the test would be idle if all were 1
    assert itk_spacing(np.zeros(MOVING_HW)) == (1, 1)
    for broken in (b"", b"II*\0\xff\xff\xff\xff", b"II+\0", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0"):
        (tmp_path / "broken").write_bytes(broken)
        assert itk_spacing(tmp_path / "broken") == (1, 1)


@pytest.mark.parametrize("moving_file", ["m.tif", "m.jpg", "m.png", "m.bmp"])
@pytest.mark.parametrize("make", [registered, bent], ids=["affine", "bent"])
def test_three_lines_of_simpleitk_work_on_files_with_a_resolution(make, moving_file, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    fixed, moving, result = tmp_path / "f.tif", tmp_path / moving_file, make()
    Image.fromarray(picture(FIXED_HW)).save(fixed, dpi=(200, 96))
    Image.fromarray(picture(MOVING_HW)).save(moving, dpi=(96, 300))
    result = replace(result, fixed_spacing=itk_spacing(fixed), moving_spacing=itk_spacing(moving))
    result.save(tmp_path / "pair.json")
    result = Registration.load(tmp_path / "pair.json")
    result.inverse().save(tmp_path / "back.json")
    for name, way, *files in (("pair", result, moving, fixed), ("back", result.inverse(), fixed, moving)):
        images = [sitk.ReadImage(str(path)) for path in files]
        warped = sitk.GetArrayFromImage(sitk.Resample(*images, sitk.ReadTransform(str(tmp_path / f"{name}.tfm"))))
        gray = warped.reshape(*warped.shape[:2], -1)[..., 0].astype(int)  # ITK reads a gray BMP as RGB
        seen = cv2.erode(way.covered().astype(np.uint8), np.ones((3, 3))) > 0
        assert np.abs(gray - way.warp(files[0]))[seen].max() <= 2 and seen.mean() > 0.3


def test_the_lines_for_other_tools_in_readme_work(tmp_path, monkeypatch):
    """Each gives the picture that `warp` gives; what is not installed here is passed over."""
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(import cv2, .*?)```", readme, re.DOTALL)[1]
    block = re.sub(r"^(cv2|skimage|kornia)\.(.*)", r"pictures.append(\1.\2", block, flags=re.M)
    block = re.sub(r"^(pictures\.append\(.*?)( +#.*)$", r"\1)", block, flags=re.M)
    if not find_spec("kornia"):
        block = re.sub(r"kornia, |^.*kornia\..*$", "", block, flags=re.M)
    pytest.importorskip("SimpleITK")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(FIXED_HW)).save("fundus.png")
    Image.fromarray(picture(MOVING_HW)).save("angiogram.tif", dpi=(96, 300))
    result = replace(bent(), moving_spacing=itk_spacing("angiogram.tif"))
    result.save("out/result.json")
    seen, wanted = cv2.erode(result.covered().astype(np.uint8), np.ones((3, 3))) > 0, result.warp("angiogram.tif")
    names = {"result": result, "pictures": []}
    exec(block, names)
    pictures = [255 * np.asarray(found).reshape(wanted.shape) for found in names["pictures"]]
    for found in (*pictures, names["sitk"].GetArrayFromImage(names["registered"]).astype(float)):
        assert np.abs(found - wanted)[seen].max() <= 2
    assert len(pictures) >= 2
    rows = [line.split(",") for line in Path("landmarks.csv").read_text(encoding="utf-8").splitlines()]
    assert [float(cell.strip('"')) for cell in rows[0][2:]] == pytest.approx(
        [*result.matches1[0], *result.matches0[0]], abs=1e-3
    )


def test_a_result_written_before_spacings_were_kept_is_read(tmp_path):
    registered(fixed_spacing=(0.5, 0.5)).save(tmp_path / "pair.json")
    old = {k: v for k, v in json.loads((tmp_path / "pair.json").read_text()).items() if "spacing" not in k}
    assert Registration.from_dict(old).fixed_spacing == (1, 1)


def test_transformation_txt_is_the_matrix_moving_to_fixed(tmp_path):
    registered(TILT).save(tmp_path / "pair.json")
    assert np.loadtxt(tmp_path / "pair_transformation.txt") == pytest.approx(TILT)


def test_save_returns_what_it_wrote(tmp_path):
    written = registered().save(tmp_path / "new" / "pair.json")
    assert sorted(written) == sorted((tmp_path / "new").iterdir()) and len(written) == 3


def test_a_dot_in_the_name_is_no_ending(tmp_path):
    registered().save(tmp_path / "pair_1.5deg")
    registered(TILT).save(tmp_path / "pair_1.7deg")
    endings = (".json", ".tfm", "_transformation.txt")
    assert {p.name for p in tmp_path.iterdir()} == {
        f"pair_{angle}deg{ending}" for angle in ("1.5", "1.7") for ending in endings
    }
    assert Registration.load(tmp_path / "pair_1.7deg.json").H_1to0 == pytest.approx(TILT)


@pytest.mark.parametrize("name", ["pair.tfm", "pair_transformation.txt"])
def test_save_wants_the_name_of_the_json(name, tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        registered().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_refusal_leaves_no_older_transform_beside_it(tmp_path):
    registered().save(tmp_path / "pair.json")
    registered().refuse("low confidence").save(tmp_path / "pair.json")
    assert [path.name for path in tmp_path.iterdir()] == ["pair.json"]


def test_a_failure_before_writing_leaves_the_old_result(tmp_path):
    registered().save(tmp_path / "pair.json")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        registered(TILT, evidence={"inliers": object()}).save(tmp_path / "pair.json")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_failure_in_the_middle_leaves_whole_files_only(tmp_path):
    (tmp_path / "pair_transformation.txt" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError):
        registered().save(tmp_path / "pair.json")
    assert {path.name for path in tmp_path.iterdir()} <= {"pair.json", "pair.tfm", "pair_transformation.txt"}
    assert Registration.load(tmp_path / "pair.json").ok


def test_load_refuses_another_file(tmp_path):
    (tmp_path / "other.json").write_text('{"status": "ok"}')
    with pytest.raises(ValueError, match="other.json.*H_1to0"):
        Registration.load(tmp_path / "other.json")
