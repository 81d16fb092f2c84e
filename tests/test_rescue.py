"""Rescue by clicks: known places in, known transform out; clicks that cannot be right are told, and what the images do
not confirm is not claimed."""

import cv2
import numpy as np
import pytest

from retina_kp import PairOptions, Registrar, Registration, draw_pair
from retina_kp.cli import main
from retina_kp.core.geometry import corner_error, inside, resize_matrix, similarity, warp_points
from retina_kp.core.images import write_image
from retina_kp.evaluation.batch import Job, run_jobs
from retina_kp.mapping.transforms import Fit
from retina_kp.registration.options import SearchOptions
from retina_kp.registration.rescue import NOT_CONFIRMED, contradiction, points_only
from retina_kp.registration.search import Hypothesis, starts

HW = (480, 640)
H_1TO0 = similarity(70, 0.8, (320, 240), (300, 250))
PLACES = np.array([[250, 160], [420, 180], [300, 330], [400, 300]], float)
TURNED = PairOptions(size_px=512, min_rotation_deg=70, rotation_deg=160, scale=(0.9, 1.2), min_overlap=0.6)


def clicked(count=4, noise_px=0.0, seed=0):
    rng = np.random.default_rng(seed)
    places1 = PLACES[:count]
    return tuple(p + rng.normal(0, noise_px, p.shape) for p in (warp_points(places1, H_1TO0), places1))


# ------------------------------------------------------------------ the points alone


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_plain_fit_is_that_of_the_points_and_claims_nothing(count, tmp_path):
    result = points_only(*clicked(count), HW, HW)
    assert result.ok and np.isnan(result.confidence) and result.evidence == {"points_given": count}
    assert np.allclose(result.H_1to0, H_1TO0) and result.angle_deg == pytest.approx(70)
    result.save(tmp_path / "r.json")
    assert np.isnan(Registration.load(tmp_path / "r.json").confidence)


def test_six_points_tell_an_affine():
    A, points1 = np.array([[1.1, 0.02, 5], [0.05, 0.95, -8], [0, 0, 1]]), np.array([*PLACES, [350, 200], [280, 260]])
    result = points_only(warp_points(points1, A), points1, HW, HW)
    assert result.model == "affine" and np.allclose(result.H_1to0, A)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_hands_that_tremble_do_not_contradict(count):
    told = [contradiction(*clicked(count, 5.0, seed), HW, HW) for seed in range(300)]
    assert sum(map(bool, told)) <= 1


def moved(k, by, count=4):
    points0, points1 = clicked(count, 2.0)
    points0[k] += by
    return points0, points1


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (clicked(1), "only 1 point pairs, at least 2 are needed"),
        ((clicked(4)[0], clicked(3)[1]), "unequal point counts: 4 in image 0, 3 in image 1"),
        (moved(0, (900, 0)), "1 points outside image 0"),
        ((PLACES[:2], PLACES[:1].repeat(2, 0)), "2 points lie on one spot"),
        ((PLACES[:2], PLACES[:1] + [[0, 0], [20, 9]]), "in the moving image lie 22 px apart at most"),
        ((np.array([[5, 9], [600, 9]]), PLACES[:1] + [[0, 0], [66, 0]]), "scale 9.02 is not within"),
        (moved(2, (0, 90)), "point 3 contradicts the others, which put it (8|9|10)"),
        (moved(1, (90, 90), 3), "click another one, which tells which of them is wrong"),
        ((clicked()[0], clicked()[1][[1, 0, 2, 3]]), "the points contradict each other: at best they are"),
        ((clicked(3)[0], clicked(3)[1] * [-1, 1] + [639, 0]), "the points mirror the image"),
    ],
)
def test_points_that_cannot_be_right_are_told(points, message):
    with pytest.raises(ValueError, match=message):
        points_only(*points, HW, HW)


def test_three_matches_that_agree_prove_little(monkeypatch):
    """Any similarity agrees with two; two different eyes were once told apart no better than by a third one."""
    for inliers, matches, share in ((3, 3, 1 / 3), (20, 25, 18 / 25)):
        found = Hypothesis(Fit("similarity", np.eye(3), np.arange(matches) < inliers), 0.6, matches, 3)
        monkeypatch.setattr("retina_kp.registration.search.settle", lambda *given, found=found: found)
        assert [start.share for start in starts(None, None, SearchOptions(), np.eye(3))] == pytest.approx([share] * 3)


# ------------------------------------------------------------------ with the images


@pytest.fixture(scope="module")
def hasty():
    """A registrar that does not look for turns, so that turned pairs need help."""
    return Registrar.from_pretrained("lite", device="cpu", stages=0)


@pytest.fixture(scope="module")
def pair():
    return draw_pair(3, 1, ("CF", "FA"), TURNED)


def clicks_on(pair, count, noise_px=7.0, seed=0):
    """Places that both images show, well apart, as a hand clicks them at 768 px."""
    rng, both = np.random.default_rng(seed), pair.shown_by_both(24)
    noise_px *= max(pair.fixed.shape) / 768
    while True:
        points0 = both[rng.choice(len(both), count, replace=False)]
        places = (
            points0 + rng.normal(0, noise_px, (count, 2)),
            pair.to_moving(points0) + rng.normal(0, noise_px, (count, 2)),
        )
        apart = np.linalg.norm(points0[:, None] - points0, axis=-1)[np.triu_indices(count, 1)].min()
        if apart > 100 and all(inside(p, pair.fixed.shape[:2]).all() for p in places):
            return places


def test_clicks_rescue_a_pair_that_was_refused(hasty, pair, tmp_path):
    assert not hasty(pair.fixed, pair.moving).ok
    for count in (2, 3, 4):
        result = hasty(pair.fixed, pair.moving, *clicks_on(pair, count, seed=count))
        assert result.ok and result.confidence > 0.9 and result.evidence["points_given"] == count
        assert corner_error(result.H_1to0, np.linalg.inv(pair.H_0to1), pair.moving.shape[:2]) < 3
    result.save(tmp_path / "r.json")
    assert Registration.load(tmp_path / "r.json").evidence == result.evidence


def test_what_the_images_do_not_confirm_is_refused(hasty, pair):
    """Two different eyes, and clicks that agree with each other: the plain fit is at hand, and nothing is claimed."""
    other = draw_pair(4, 2, ("CF", "FA"), TURNED).moving
    points = clicks_on(pair, 3)
    result = hasty(pair.fixed, other, *points)
    plain = points_only(*points, pair.fixed.shape[:2], other.shape[:2])
    assert result.status.startswith(NOT_CONFIRMED) and result.H_1to0 is None and result.confidence < 0.5
    assert np.allclose(result.H_tried, plain.H_1to0) and np.allclose(result.matches1, points[1])
    blank = hasty(pair.fixed, np.full_like(other, 9), *points)
    assert "no structure visible" in blank.status and blank.evidence["points_given"] == 3


def test_clicks_on_a_scan_of_few_lines_are_understood(hasty, pair):
    """Its pixels are 4 times as long as wide, so that no similarity fits its clicks; errors are told in square px."""
    squeeze = resize_matrix((512, 512), (128, 512))
    scan = cv2.resize(pair.moving, (512, 128), interpolation=cv2.INTER_AREA)
    points0, points1 = clicks_on(pair, 4)
    clicks = points0, warp_points(points1, squeeze)
    with pytest.raises(ValueError, match="contradict"):
        points_only(*clicks, pair.fixed.shape[:2], scan.shape[:2])
    result = hasty(pair.fixed, scan, *clicks)
    assert result.ok and result.moving_hw == (128, 512) and result.evidence["points_given"] == 4
    assert corner_error(result.H_1to0 @ squeeze, np.linalg.inv(pair.H_0to1), (512, 512)) < 5
    other = hasty(np.full_like(pair.fixed, 9), scan, *clicks)
    assert other.status.startswith(NOT_CONFIRMED) and np.allclose(other.matches1, clicks[1])
    with pytest.raises(ValueError, match="the points contradict each other"):
        hasty(pair.fixed, scan, clicks[0], clicks[1][[1, 0, 2, 3]])


def test_a_call_without_points_is_as_before(registrar):
    pair = draw_pair(11, 4, ("CF", "FA"), PairOptions(size_px=384, rotation_deg=5, scale=(1, 1), min_overlap=0.8))
    result = registrar(pair.fixed, pair.moving)
    assert result.ok and "points_given" not in result.evidence
    with pytest.raises(ValueError, match="points belong to both images"):
        registrar(pair.fixed, pair.moving, points0=np.zeros((3, 2)))


# ------------------------------------------------------------------ files


@pytest.fixture(scope="module")
def folder(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rescue")
    write_image(folder / "cf.png", pair.fixed)
    write_image(folder / "fa.png", pair.moving)
    np.savetxt(folder / "clicks.txt", np.hstack(clicks_on(pair, 3)))
    return folder


def command(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        main.cli.main([str(argument) for argument in arguments], prog_name="retina-kp")
    return ended.value.code or 0


def test_the_command_begins_with_a_file_of_points(folder, capsys):
    given = ("register", folder / "cf.png", folder / "fa.png", "-o", folder / "out", "--device", "cpu")
    assert command(*given, "--points", folder / "clicks.txt") == 0
    assert "registered from 3 points: confidence" in capsys.readouterr().out
    assert command(*given, "--points", folder / "clicks.txt", "--points-alone") == 0
    assert "fitted from 3 points alone, which no image confirms" in capsys.readouterr().out
    assert "which no image confirms" in (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert command(*given, "--points-alone") == 2 and "needs a file of --points" in capsys.readouterr().err
    (folder / "one.txt").write_text("100 100 90 90")
    assert command(*given, "--points", folder / "one.txt") == 2
    assert "only 1 point pairs" in capsys.readouterr().err


def test_many_pairs_take_their_points_from_a_folder(hasty, folder, tmp_path):
    jobs = [Job(name, folder / "cf.png", folder / "fa.png") for name in ("helped", "wrong", "alone")]
    for name, rows in (("helped", (folder / "clicks.txt").read_text()), ("wrong", "10 10 20 20")):
        (tmp_path / f"{name}.txt").write_text(rows)
    helped, wrong, alone = run_jobs(hasty, jobs, tmp_path / "out", tmp_path)
    assert helped.ok and helped.row()["points"] == 3
    assert wrong.result is None and "at least 2 are needed" in wrong.row()["status"]
    assert not alone.ok and "points" not in alone.row()
