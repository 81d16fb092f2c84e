"""The command line: what a pair leaves behind, exit codes, what is carried along, and that nothing heavy is loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from retina_kp import Registration
from retina_kp.cli import commands, main
from retina_kp.core import files
from retina_kp.core.geometry import similarity, warp_points
from retina_kp.core.images import read_image, write_image
from retina_kp.data.annotation import read_number_rows
from retina_kp.data.layouts.pairs_csv import write_pairs_csv
from retina_kp.data.records import PairRecord
from retina_kp.mapping.transforms import Fit
from retina_kp.notebook import report
from retina_kp.notebook.report import NotebookError
from retina_kp.synthetic.pairs import PairOptions, draw_pair

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = {"registered.png", "overlay.png", "result.json", "result.tfm", "result_transformation.txt", "report.html"}


def command(*arguments) -> int:
    """The exit code of retina-kp with these arguments."""
    with pytest.raises(SystemExit) as ended:
        main.cli.main([str(argument) for argument in arguments], prog_name="retina-kp")
    return ended.value.code or 0


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Files of a synthetic pair, and its truth."""
    folder, drawn = tmp_path_factory.mktemp("pair"), draw_pair(7, 3, ("CF", "FA"), PairOptions(size_px=384))
    write_image(folder / "cf.png", drawn.fixed)
    write_image(folder / "fa.png", drawn.moving)
    return folder, drawn


@pytest.fixture(scope="module")
def registered(pair) -> Path:
    """The folder of a registered pair."""
    folder, _ = pair
    assert command("register", folder / "cf.png", folder / "fa.png", "-o", folder / "out", "--device", "cpu") == 0
    return folder / "out"


def test_register_writes_what_it_says(registered, pair):
    folder, drawn = pair
    assert {path.name for path in registered.iterdir()} == WRITTEN
    result = Registration.load(registered / "result.json")
    corners = np.array([[50, 50], [300, 60], [200, 300]], float)
    assert np.abs(result.map_to_moving(corners) - warp_points(corners, drawn.H_0to1)).max() < 5
    assert (read_image(registered / "registered.png") == result.warp(read_image(folder / "fa.png"))).all()
    page = (registered / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 2 and "registered: confidence" in page and "fa.png on cf.png" in page
    assert page.count("<script") == 1 and '"warped":' in page and len(page) < 4e6
    assert not re.search(
        r"""<link|@import|\bimport |(?:src|href)=(?!"data:)|url\(|fetch\(|https?:(?!//www.w3.org/2000/svg")""", page
    )
    text = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    assert "$" not in text


def test_the_page_says_what_auto_came_to(tmp_path):
    """A flat pair keeps its affine; of a curved one the page says how far it bends."""
    drawn = draw_pair(5, 1, ("CF", "FA"), PairOptions(size_px=384, rotation_deg=20, min_overlap=0.8))
    x, y = np.meshgrid(*[np.linspace(-1, 1, 384, dtype=np.float32)] * 2)
    places = np.stack(np.meshgrid(*[np.arange(384, dtype=np.float32)] * 2)) + np.stack([6 * x * y, 6 * x**2 - 3])
    write_image(tmp_path / "cf.png", drawn.fixed)
    for name, moving in {"flat": drawn.moving, "bent": cv2.remap(drawn.moving, *places, cv2.INTER_LINEAR)}.items():
        write_image(tmp_path / f"{name}.png", moving)
        assert command("register", tmp_path / "cf.png", tmp_path / f"{name}.png", "-o", tmp_path / name) == 0
    flat, bent = ((tmp_path / name / "report.html").read_text(encoding="utf-8") for name in ("flat", "bent"))
    assert "auto: affine was chosen" in flat and "auto: bends by up to " in bent


def test_a_refusal_has_a_reason_exit_code_1_and_no_old_files(tmp_path, pair, capsys):
    folder, _ = pair
    other = draw_pair(8, 4, ("CF", "FA"), PairOptions(size_px=384)).moving
    write_image(tmp_path / "other.png", other)
    (tmp_path / "registered.png").touch()
    (tmp_path / "result.tfm").touch()
    assert command("register", folder / "cf.png", tmp_path / "other.png", "-o", tmp_path, "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False and said["H_1to0"] is None
    assert {path.name for path in tmp_path.iterdir()} == {"other.png", "result.json", "report.html"}
    assert said["status"] in (tmp_path / "report.html").read_text(encoding="utf-8").replace("&gt;", ">")
    assert command("apply", tmp_path / "result.json", tmp_path / "other.png") == 2
    assert "this registration was refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("register", "cf.png", "nothing.png"), "no such file"),
        (("register", "cf.png", "."), "is no image file; many pairs"),
        (("register", "cf.png", "fa.png", "--model", "rigid"), "there are auto, elastic, similarity"),
        (("register", "cf.png", "fa.png", "--weights", "heavy"), "a shipped name (lite)"),
        (("register", "cf.png", "fa.png", "--device", "tpu3"), "takes 'auto', 'cpu'"),
        (("register", "cf.png"), "Missing argument 'MOVING'"),
        (("apply", "cf.png", "fa.png"), "give the result.json"),
        (("apply", "cf.png"), "Missing argument 'FILE...'"),
        (("inspect", "."), "the shapes looked for"),
        (("inspect", "."), "two folders of plain images need none: retina-kp report 07_register -p fixed FOLDER"),
        (("report", "nothing"), "give a path to an .ipynb file"),
        (("report", "07_register", "-f", "nothing"), "nothing"),
        (("evaluate", "nothing"), "nothing: no such file or folder"),
        (("evaluate", ".", "-o", "not_made", "-p", "baselines", "FOO"), "no baseline 'FOO'; there are ECC"),
        (("report", "07_register", "-o", "not_made", "-p", "fixed", "cf.png"), "which image is to be registered to"),
        (("report", "00_data_inspection", "--pair-by", "order"), "pair_by: "),
        (("report", "07_register", "--pair-by", "size"), "'size' is not one of 'name', 'order'"),
        (("calibrate", "--weights", "heavy", "--target", "x"), "a shipped name (lite)"),
        (("benchmark", "--tables", "none"), "no 'none'; there are"),
        (("train", "-p", "epoch", "1"), "has a parameter 'epoch'"),
    ],
)
def test_bad_input_is_told_in_a_line_with_exit_code_2(pair, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(pair[0])
    assert command(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not Path("not_made").exists()


@pytest.mark.parametrize("order", [False, True])
def test_two_folders_are_paired_by_order_on_request(pair, monkeypatch, capsys, order):
    def seen(notebook, parameters, *_, **__):
        assert parameters == {"fixed": str(pair[0])} | ({"pair_by": "order"} if order else {})
        raise NotebookError("that is all")

    monkeypatch.setattr(report, "run_notebook", seen)
    assert command("report", "07_register", *["--pair-by", "order"][: 2 * order], "-p", "fixed", pair[0]) == 2
    assert "that is all" in capsys.readouterr().err


# ------------------------------------------------------------------ apply


@pytest.fixture(params=["affine", "bent"])
def saved(request, tmp_path) -> tuple[Path, Registration]:
    """A saved result between images of different sizes."""
    fit = Fit("affine", np.eye(3), np.ones(3, bool))
    H, sizes, points = similarity(20, 0.8, (60, 50), (70, 55)), ((120, 150), (100, 140)), np.zeros((3, 2))
    result = Registration.from_fit(fit, H, np.eye(3), points, points, *sizes)
    if request.param == "bent":
        result = result.bent(lambda p: result.map_to_moving(p + 3 * np.sin(p[:, ::-1] / 30)), (0, 0), (149, 119))
    result.save(tmp_path / "r.json")
    return tmp_path / "r.json", result


def test_points_go_there_and_back(saved, tmp_path):
    path, result = saved
    points = np.array([[40, 40], [80.5, 60.25], [100, 30]])
    (tmp_path / "p.csv").write_text("\n".join(f"{x},{y}" for x, y in points))
    assert command("apply", path, tmp_path / "p.csv") == 0
    assert np.allclose(read_number_rows(tmp_path / "p_in_fixed.csv", 2), result.map_to_fixed(points), atol=1e-3)
    assert command("apply", path, tmp_path / "p_in_fixed.csv", "--to", "moving", "-o", tmp_path / "back.txt") == 0
    back = result.map_to_moving(result.map_to_fixed(points))
    assert np.allclose(read_number_rows(tmp_path / "back.txt", 2), back, atol=2e-3)


def test_images_are_interpolated_and_masks_keep_their_labels(saved, tmp_path, capsys):
    path, result = saved
    mask = np.zeros(result.moving_hw, np.uint16)
    mask[20:70, 30:90], mask[40:60, 50:70] = 3, 700
    write_image(tmp_path / "mask.png", mask)
    assert command("apply", path, tmp_path / "mask.png", "--mask") == 0
    carried = read_image(tmp_path / "mask_in_fixed.png")
    assert carried.shape == result.fixed_hw and carried.dtype == np.uint16 and {*np.unique(carried)} == {0, 3, 700}
    x, y = np.rint(result.map_to_fixed(np.array([[60.0, 50.0]]))[0]).astype(int)
    assert carried[y, x] == 700
    assert command("apply", path, tmp_path / "mask.png", "-o", tmp_path / "smooth.png") == 0
    assert (read_image(tmp_path / "smooth.png") == result.warp(mask)).all()
    assert (
        command("apply", path, tmp_path / "mask_in_fixed.png", "--to", "moving", "--mask", "-o", tmp_path / "b.png")
        == 0
    )
    assert read_image(tmp_path / "b.png").shape == result.moving_hw
    assert (read_image(tmp_path / "b.png") != mask).mean() < 0.05
    assert command("apply", path, tmp_path / "mask_in_fixed.png") == 2
    assert "150 x 120 px, but the result is for an image of 140 x 100 px" in capsys.readouterr().err


def test_tables_and_annotations_are_carried_at_once_and_keep_the_rest(saved, tmp_path, capsys):
    path, result = saved
    points, box = np.array([[40, 40], [80.5, 60.25]]), [20.0, 20.0, 60.0, 50.0]
    (tmp_path / "p.csv").write_text("name;x;y\nfovea;40;40\ndisc;80.5;60.25\n")
    (tmp_path / "b.txt").write_text("20 20 60 50\n")
    tree = {"eye": "7", "boxes": [box], "shapes": [{"polygons": [points.tolist(), [[1, 2], [3, 4], [5, 6]]]}]}
    tree["features"] = [{"geometry": {"type": "Point", "coordinates": [40, 40]}}]
    (tmp_path / "a.json").write_text(json.dumps(tree))
    write_image(tmp_path / "m.tif", np.full(result.moving_hw, 9, np.uint16))
    files = [tmp_path / name for name in ("p.csv", "b.txt", "a.json", "m.tif")]
    assert command("apply", path, *files, "-o", tmp_path / "there") == 0
    assert "2 points, 0 of them outside" in capsys.readouterr().out
    there, moved = tmp_path / "there", result.map_to_fixed(points)
    rows = (there / "p_in_fixed.csv").read_text().splitlines()
    assert rows[0] == "name,x,y" and rows[2] == "disc," + ",".join(f"{number:.3f}".rstrip("0") for number in moved[1])
    around = read_number_rows(there / "b_in_fixed.txt", 4)[0]
    carried = json.loads((there / "a_in_fixed.json").read_text())
    assert np.allclose(carried["boxes"], [around], atol=1e-3) and carried["eye"] == "7"
    assert np.allclose(carried["shapes"][0]["polygons"][0], moved, atol=1e-3)
    assert np.allclose(carried["features"][0]["geometry"]["coordinates"], moved[0], atol=1e-3)
    assert read_image(there / "m_in_fixed.tif").max() == 9


def test_a_carried_box_is_the_upright_one_around_it(saved):
    _, result = saved
    box = np.array([20.0, 20.0, 60.0, 50.0])
    x, y = np.meshgrid(np.linspace(20, 60, 81), np.linspace(20, 50, 61))
    held = result.map_to_fixed(np.column_stack([x.ravel(), y.ravel()]))
    around = result.apply_to(box[None])
    assert np.allclose(around, [[*held.min(0), *held.max(0)]], atol=0.05)
    assert result.apply_to(np.zeros((0, 4))).shape == (0, 4) and result.apply_to(np.zeros((0, 2))).shape == (0, 2)


def test_apply_to_knows_what_it_is_given(saved, tmp_path):
    _, result = saved
    polygons = [np.array([[10, 10], [40, 12], [30, 50.0]]), np.array([[20, 20], [40, 40.0]])]
    for to, move in (("fixed", result.map_to_fixed), ("moving", result.map_to_moving)):
        carried = result.apply_to(polygons, to)
        assert all(np.allclose(got, move(given)) for got, given in zip(carried, polygons, strict=True))
    picture = np.arange(14000, dtype=np.uint16).reshape(result.moving_hw)
    assert (result.apply_to(picture, labels=True) == result.warp(picture, labels=True)).all()
    assert result.apply_to(result.warp(picture), "moving").shape == result.moving_hw
    with pytest.raises(ValueError, match="places are looked for under points"):
        result.apply_to({"annotations": [{"bbox": [1, 2, 3, 4]}]})
    with pytest.raises(ValueError, match="a place is x y"):
        result.apply_to({"points": [[1, 2, 3]]})
    with pytest.raises(ValueError, match="takes 'fixed' or 'moving'"):
        result.apply_to(polygons, "left")


# ------------------------------------------------------------------ inspect, and commands that are passed on


def test_inspect_counts_and_names_problems(pair, tmp_path, capsys):
    folder, drawn = pair
    records = [
        PairRecord(name, "7", "CF", "FA", folder / "cf.png", folder / "fa.png", H_0to1=drawn.H_0to1) for name in "ab"
    ]
    write_pairs_csv(tmp_path / "pairs.csv", records)
    with open(tmp_path / "pairs.csv", "a", encoding="utf-8") as table:
        table.write("c,7,CF,FA,gone.png,gone.png,,,,,\n")
    assert command("inspect", tmp_path) == 0
    said = capsys.readouterr().out
    assert "layout pairs_csv" in said and "CF-FA" in said and "problems: 1" in said and "gone.png" in said


def test_finetuning_is_training_by_its_recipe(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("retina_kp.notebook.chain.run_all", lambda *given: seen.append(given))
    arguments = ("--name", "a", "--real", tmp_path, "-p", "epochs", "3")
    assert command("finetune", *arguments) == command("train", *arguments) == 0
    assert seen == [("a", more | {"epochs": "3"}, "", str(tmp_path)) for more in ({"recipe": "finetune"}, {})]


@pytest.mark.parametrize("name", main.cli.commands)
def test_every_command_tells_of_itself_in_one_style(name, capsys):
    assert command(name, "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    about = " ".join((main.cli.commands[name].help or "").partition("\n")[0].split())
    assert said.startswith(f"Usage: retina-kp {name} ") and f" {about}" in said and "-h, --help Show this" in said


def test_every_command_is_in_a_section_with_a_line_about_it(capsys):
    assert {name for names in commands.SECTIONS.values() for name in names} == set(main.cli.commands)
    assert command("--help") == 0
    help_text = capsys.readouterr().out
    assert not re.search(r"\w\.\.\.", help_text) and [help_text.index(f"\n{title}:") for title in commands.SECTIONS]


# ------------------------------------------------------------------ what is loaded, and what a wheel holds


def test_help_and_one_pair_load_nothing_heavy():
    """Names of modules that would cost a newcomer seconds."""
    code = "import sys\nfrom retina_kp.cli import main{}\nprint(*sys.modules)"
    for more, unwanted in (("", {"torch", "cv2", "numpy"}), (", pair", {"matplotlib", "IPython", "accelerate"})):
        done = subprocess.run([sys.executable, "-c", code.format(more)], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0 and not unwanted & set(done.stdout.split()), done.stderr


def test_without_a_clone_the_present_folder_is_the_project(tmp_path, monkeypatch):
    assert (files.project_root(), files.notebooks_folder()) == (ROOT, ROOT / "notebooks")
    (tmp_path / "package" / "notebooks").mkdir(parents=True)
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    assert (files.project_root(), files.notebooks_folder()) == (tmp_path, tmp_path / "package" / "notebooks")
    monkeypatch.setenv(files.PROJECT, "/elsewhere")  # as the runner tells a notebook
    assert files.runs_root("mine") == Path("/elsewhere/mine")


def test_lab_opens_copies_outside_a_clone_and_keeps_those_that_are_there(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "notebooks", tmp_path / "package" / "notebooks")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "07_register.ipynb").write_text("mine")
    opened = []
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(subprocess, "run", lambda *words, **how: opened.append(how) or done)
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    assert command("lab") == 0
    assert opened[0]["cwd"] == tmp_path / "notebooks" and opened[0]["env"][files.PROJECT] == str(tmp_path)
    assert (tmp_path / "notebooks" / "07_register.ipynb").read_text() == "mine"
    assert (tmp_path / "notebooks" / "params" / "full.yaml").is_file()


def test_a_locale_without_signs_stops_nothing(tmp_path):
    """What ASCII cannot say is escaped, in a folder with a Chinese name too."""
    folder = tmp_path / "眼底"
    folder.mkdir()
    picture = np.zeros((40, 40), np.uint8)
    write_image(folder / "图.png", picture)
    (folder / "pairs.csv").write_text(
        "pair_id,eye_id,modality0,modality1,image0,image1\n甲,e,CF,FA,图.png,没有.png\n", encoding="utf-8"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    how = {"env": os.environ | plain, "cwd": ROOT, "capture_output": True}
    done = subprocess.run([sys.executable, "-m", "retina_kp", "inspect", str(folder)], **how)
    assert done.returncode == 1 and not done.stderr, done.stderr.decode()
    assert b"no such file" in done.stdout and b"Traceback" not in done.stdout


def test_a_wheel_works_outside_a_clone(tmp_path):
    """It holds notebooks and weights, and runs a notebook by its name; what it writes lies in the present folder."""
    pytest.importorskip("setuptools", "77")
    for name in ("retina_kp", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    flags = ("-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-w", str(tmp_path))
    command = [sys.executable, "-m", "pip", "wheel", *flags, "."]
    built = subprocess.run(command, cwd=tmp_path / "source", capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(tmp_path / "site")
    (tmp_path / "here").mkdir()
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "from retina_kp.core.files import notebooks_folder, project_root\n"
        "from retina_kp.notebook.report import accepted_parameters, find_notebook, read_parameter_file\n"
        "from retina_kp.networks.checkpoints import find_weights\n"
        "path = find_notebook('07_register'); accepted_parameters(path); find_weights('lite')\n"
        "print(path.parent, project_root(), read_parameter_file('full')['recipe'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True)
    assert done.stdout.split() == [str(tmp_path / "site/retina_kp/notebooks"), str(tmp_path / "here"), "full"], (
        done.stderr
    )
