"""The notebook runner: strict about parameters, honest about failures; result files; pictures and offline HTML."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from retina_kp.cli.main import cli
from retina_kp.core import compute, files
from retina_kp.notebook import report

PARAMETERS = """epochs = 2  # how many
rate: float = 0.1  # step
name = "a"  # label
flag = False  # switch
angles = [0, 30]  # degrees"""


def command(*arguments: str) -> int:
    """The exit code of retina-kp report with these arguments."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", *arguments], prog_name="retina-kp")
    return ended.value.code or 0


@pytest.fixture(scope="module")
def notebook(tmp_path_factory) -> Path:
    """A tiny notebook: a figure, a widget, and a cell that fails for epochs 0."""
    cells = [
        new_markdown_cell("# Tiny\n$x^2$"),
        new_code_cell(
            "import os, sys\nimport ipywidgets\nimport matplotlib.pyplot as plt\n"
            "from retina_kp.core import compute, files\nfrom retina_kp.notebook import report"
        ),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(
            "print('ran with', [sys.executable, os.getcwd(), report.__file__, epochs, rate, name, flag, angles])"
        ),
        new_code_cell("plt.plot([1, 2]);"),
        new_code_cell("ipywidgets.IntSlider(3)"),
        new_code_cell("# the check\nassert epochs > 0, 'too few epochs'"),
    ]
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = tmp_path_factory.mktemp("somewhere") / "tiny.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernelspec}), path)
    return path


@pytest.fixture(scope="module")
def finished(notebook) -> report.RunResult:
    """The tiny notebook run from the root folder, with a backend in the environment that draws nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(notebook.anchor))
        patch.setenv("MPLBACKEND", "Agg")
        parameters = {"epochs": np.int64(3), "rate": 1, "name": Path("b"), "flag": np.True_, "angles": (0, 90)}
        result = report.run_notebook(notebook, parameters, notebook.parent / "out")
        assert os.environ["MPLBACKEND"] == "Agg"
    return result


def test_runs_with_this_interpreter_in_the_notebooks_folder(finished, notebook):
    text = "".join(
        output.get("text", "")
        for cell in nbformat.read(finished.executed, 4).cells
        for output in cell.get("outputs", [])
    )
    assert str([sys.executable, str(notebook.parent), report.__file__, 3, 1.0, "b", True, [0, 90]]) in text
    assert (finished.executed, finished.html) == (
        notebook.parent / "out/executed.ipynb",
        notebook.parent / "out/report.html",
    )
    assert finished.seconds > 0


def test_figures_survive_an_inherited_backend(finished):
    assert report.count_figures(finished.executed) == 1


def test_html_needs_no_network(finished):
    html = finished.html.read_text(encoding="utf-8")
    assert "<title>Tiny</title>" in html and "ran with" in html and 'src="data:image/png;base64,' in html
    assert not re.search(r"<script|<link|@import|(?:src|href)=[\"']?(?:https?:)?//|url\([\"']?http", html)
    assert "plt.plot" not in html and "IntSlider" not in html


def test_html_is_made_for_mail_and_paper(tmp_path):
    """Pictures say what they show, links to notebooks that no reader has are words, tables keep their columns on
    paper."""
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
    outputs = [
        new_output("display_data", {"image/png": pixel}, metadata={"image/png": {"alt": "bars & more"}}),
        new_output("display_data", {"image/jpeg": pixel}),
    ]
    cells = [
        new_markdown_cell("# T\n[the next](01_next.ipynb), [a page](https://x.org/y.ipynb)"),
        new_code_cell("1", outputs=outputs),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "executed.ipynb")
    html = report.to_html(tmp_path / "executed.ipynb", tmp_path / "r.html").read_text(encoding="utf-8")
    assert 'alt="bars &amp; more"' in html and 'alt="a figure"' in html and html.count('src="data:image/') == 2
    assert "01_next.ipynb" not in html and "the next" in html and 'href="https://x.org/y.ipynb"' in html
    assert re.search(r"@media print \{.*overflow: visible.*font-size: 7pt", html, re.DOTALL)
    assert ".jp-OutputArea-output td:first-child {white-space: nowrap" in html, (
        "a kind is one word; the title's table may wrap"
    )


def test_formulas_are_pictures_since_no_script_draws_them(tmp_path):
    """In the text, not in code; one that matplotlib cannot read stays as it is written."""
    text = "# T\n$\\tfrac1N\\sum_k e^{x_k}$ beside `$y$`, 5 $ or 6 $; $\\nosuchword$"
    nbformat.write(new_notebook(cells=[new_markdown_cell(text)]), tmp_path / "executed.ipynb")
    html = report.to_html(tmp_path / "executed.ipynb", tmp_path / "r.html").read_text(encoding="utf-8")
    assert re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,', html) == [r"\tfrac1N\sum_k e^{x_k}"]
    assert "<code>$y$</code>" in html and "5 $ or 6 $; $\\nosuchword$" in html


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 1}, "epoch: tiny.ipynb has no such field; did you mean epochs?"),
        ({"zzz": 1}, "zzz: tiny.ipynb has no such field; it has ['angles', 'epochs', 'flag', 'name', 'rate']"),
        ({"epochs": "many"}, "epochs: takes int, got 'many'"),
        ({"epochs": True}, "epochs: takes int, got True"),
        ({"flag": 1}, "flag: takes bool, got 1"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(notebook, tmp_path, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        report.run_notebook(notebook, given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_how_far_a_run_is_comes_through_and_stays_out_of_the_copy(tmp_path, capfd):
    work = """import sys
from retina_kp.core import compute
compute.EVERY_S = 0
bar = compute.progress(4, 1, 'pairs')
for k in range(3):
    bar.update()
bar.close()
written = sys.stderr.write('mind the gap\\n')"""
    nbformat.write(new_notebook(cells=[new_code_cell(work)]), tmp_path / "long.ipynb")
    result = report.run_notebook(tmp_path / "long.ipynb", {}, tmp_path / "out")
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("progress: ")] == [
        f"progress: pairs {k} of 4, 00:00 left" for k in (2, 3, 4)
    ]
    assert [output.text for output in nbformat.read(result.executed, 4).cells[0].outputs] == ["mind the gap\n"]


def test_time_left_is_that_of_the_work_still_to_do(monkeypatch, capsys):
    """Of 10 pieces 4 were done before; each of the next takes 30 s, so after one 5 are left: 150 s. Lines come every 10
    s at most."""
    clock = iter([0.0, 30.0, 33.0, 62.0])
    monkeypatch.setattr(compute.time, "monotonic", lambda: next(clock))
    monkeypatch.setenv(compute.HEADLESS, "1")
    bar = compute.progress(10, 4, "pairs")
    for _ in range(3):
        bar.update()
    assert capsys.readouterr().err.splitlines() == [
        "progress: pairs 5 of 10, 02:30 left",
        "progress: pairs 7 of 10, 01:02 left",
    ]


def test_notebook_without_parameters_cell_takes_none(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "bare.ipynb")
    with pytest.raises(ValueError, match="no cell tagged 'parameters'"):
        report.run_notebook(tmp_path / "bare.ipynb", {"epochs": 1}, tmp_path / "out")


def test_failing_cell_is_named_and_what_ran_is_kept(notebook, tmp_path, capsys):
    assert command(str(notebook), "-p", "epochs", "0", "-p", "flag", "true", "-o", str(tmp_path)) == 2
    message = capsys.readouterr().err
    assert (
        "tiny.ipynb, cell In [7] (assert epochs > 0, 'too few epochs') stopped with AssertionError: too few epochs"
        in message
    )
    assert str(tmp_path / "executed.ipynb") in message and "Traceback" not in message
    assert report.count_figures(tmp_path / "executed.ipynb") == 1 and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("code", "message"), [("os._exit(3)", "DeadKernelError"), ("while True: pass", "CellTimeoutError")]
)
def test_dead_and_endless_cells_are_named(tmp_path, code, message):
    nbformat.write(new_notebook(cells=[new_code_cell("import os"), new_code_cell(code)]), tmp_path / "ends.ipynb")
    with pytest.raises(
        report.NotebookError, match=re.escape(f"ends.ipynb, cell In [2] ({code}) stopped with {message}")
    ):
        report.run_notebook(tmp_path / "ends.ipynb", {}, tmp_path, timeout=1)


WRITER = """from pathlib import Path
from retina_kp.core import files
from retina_kp.notebook import report"""
RUN = """run_name = ""  # folder
runs_root = ""  # folder of folders
resume = False  # continue"""


@pytest.fixture
def writer(tmp_path) -> Path:
    """A notebook that writes one file into its run folder, and fails before it for run names in "bad"."""
    cells = [
        new_code_cell(WRITER),
        new_code_cell(RUN, metadata={"tags": ["parameters"]}),
        new_code_cell("out = files.new_run_folder('writer', run_name, Path(runs_root) if runs_root else None)"),
        new_code_cell("assert not run_name.endswith('bad')"),
        new_code_cell("files.write_text(out / 'result.txt', 'here')"),
    ]
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernelspec}), tmp_path / "writer.ipynb")
    return tmp_path / "writer.ipynb"


def written(folder: Path) -> list[str]:
    """All files and empty folders below a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() or not any(p.iterdir()))


ALL = ["executed.ipynb", "report.html", "result.txt"]


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (("-o", "here"), "here"),
        (("-p", "run_name", "first", "-p", "runs_root", "ROOT"), "runs/writer/first"),
        (("-o", "here", "-p", "runs_root", "ROOT", "-p", "resume", "true"), "here"),
    ],
)
def test_a_run_has_one_folder(writer, tmp_path, monkeypatch, arguments, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first").mkdir()  # a run name is no path, even where something is called so
    assert command(str(writer), *(str(tmp_path / "runs") if a == "ROOT" else a for a in arguments)) == 0
    assert written(tmp_path) == ["first", *(f"{place}/{name}" for name in ALL), "writer.ipynb"]


def test_a_run_without_a_name_has_one_folder(writer, tmp_path):
    result = report.run_notebook(writer, {"runs_root": str(tmp_path / "runs")})
    assert result.html.parent.parent == tmp_path / "runs" / "writer" and written(result.html.parent) == ALL
    assert len(written(tmp_path / "runs")) == 3


def test_a_failed_run_leaves_what_ran_and_no_empty_folder(writer, tmp_path, capsys):
    assert command(str(writer), "-p", "run_name", "bad", "-p", "runs_root", str(tmp_path / "runs")) == 2
    assert written(tmp_path) == ["runs/writer/bad/executed.ipynb", "writer.ipynb"]
    assert (
        "AssertionError" in (tmp_path / "runs/writer/bad/executed.ipynb").read_text()
        and "bad/executed.ipynb" in capsys.readouterr().err
    )


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path):
    """Papermill does not know in which language to write the parameters."""
    nbformat.write(
        new_notebook(cells=[new_code_cell(RUN, metadata={"tags": ["parameters"]})]), tmp_path / "no_language.ipynb"
    )
    with pytest.raises(ValueError, match="language"):
        report.run_notebook(tmp_path / "no_language.ipynb", {}, tmp_path / "out")
    assert written(tmp_path) == ["no_language.ipynb"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "OUT", "-p", "run_name", "first"), "a run has one folder; give run_name ('first') or the folder"),
        (("-p", "resume", "true"), "resume = True needs run_name or the folder"),
        (("-p", "run_name", "a/b"), "use letters"),
    ],
)
def test_a_run_of_two_folders_or_none_is_refused(writer, tmp_path, capsys, arguments, message):
    assert command(str(writer), *(str(tmp_path / "out") if a == "OUT" else a for a in arguments)) == 2
    assert message in capsys.readouterr().err and written(tmp_path) == ["writer.ipynb"]


def test_a_notebook_goes_by_its_name_or_number():
    for name in ("06_real_evaluation", "06_real_evaluation.ipynb", "06", "6"):
        assert report.find_notebook(name).name == "06_real_evaluation.ipynb"


def test_unknown_notebook_is_refused(capsys):
    assert command("99") == command("no_such_notebook") == 2
    assert "no notebook 'no_such_notebook': give a path" in capsys.readouterr().err


def test_project_root_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report.project_root() == Path(__file__).resolve().parents[1]


def test_run_folders(tmp_path):
    named = report.new_run_folder("03_pke.ipynb", "first try", tmp_path)
    assert (
        report.new_run_folder("03_pke", str(tmp_path / "any where")) == tmp_path / "any where"
        and (tmp_path / "any where").is_dir()
    )
    assert named == tmp_path / "03_pke" / "first try" and named == report.new_run_folder(
        "03_pke", "first try", tmp_path
    )
    assert len({report.new_run_folder(Path("x/03_pke.ipynb"), root=tmp_path) for _ in range(5)}) == 5
    for name in ("../up", "a/b", ".hidden", " "):
        with pytest.raises(ValueError, match="run name"):
            report.new_run_folder("03_pke", name, tmp_path)


@dataclass
class Point:
    """A dataclass to write."""

    x: float
    where: Path


def test_json_takes_numpy_and_has_no_nan(tmp_path):
    obj = {
        "a": np.float32(0.5),
        "b": [np.nan, np.inf, 1.0],
        "c": np.arange(3),
        "d": Point(1.5, Path("p")),
        "e": np.bool_(True),
        "中": (1,),
    }
    path = files.write_json(tmp_path / "new" / "m.json", obj)
    expected = {"a": 0.5, "b": [None, None, 1.0], "c": [0, 1, 2], "d": {"x": 1.5, "where": "p"}, "e": True, "中": [1]}
    assert json.loads(path.read_text(encoding="utf-8")) == expected


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = files.write_json(tmp_path / "m.json", {"a": 1})
    with pytest.raises(TypeError, match="cannot write object"):
        files.write_json(path, {"a": object()})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["m.json"]


def test_csv(tmp_path):
    rows = [
        {"epoch": np.int64(1), "loss": np.float64(0.25)},
        {"epoch": 2, "loss": np.nan, "note": "a,b"},
        {"epoch": 3, "loss": np.inf},
    ]
    assert files.write_csv(tmp_path / "h.csv", rows).read_bytes() == b'epoch,loss,note\n1,0.25,\n2,,"a,b"\n3,inf,\n'


def test_parameters_that_name_what_lies_here_become_absolute(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pairs.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert report.from_here("mine/pairs.csv", "") == str(tmp_path / "mine" / "pairs.csv") and report.from_here(
        "mine", ""
    ) == str(tmp_path / "mine")
    assert report.from_here("mine", "lite") == "mine" and report.from_here("elsewhere/a.png", "") == "elsewhere/a.png"
    assert report.from_here("", "") == "" and report.from_here("3", 1) == "3"


def test_no_cell_of_a_table_is_a_formula(tmp_path):
    cells = ["=HYPERLINK(0)", "+1+1", "-x", "@a", "'=x", "-0.5", "+3", "a=b", "it's", "-", ""]
    files.write_csv(tmp_path / "t.csv", [{"id": cell, "n": -1} for cell in cells])
    written = [row[0] for row in csv.reader((tmp_path / "t.csv").open(encoding="utf-8", newline=""))][1:]
    assert written == ["'=HYPERLINK(0)", "'+1+1", "'-x", "'@a", "''=x", "-0.5", "+3", "a=b", "it's", "-", ""]
    assert [files.without_apostrophe(cell) for cell in written] == cells
    table = pd.DataFrame({"id": ["=1"], "n": [-1.5]})
    assert files.write_csv(tmp_path / "t.csv", table).read_text(encoding="utf-8") == "id,n\n'=1,-1.5\n"
    assert table.id[0] == "=1"


def test_what_cannot_be_written_is_named(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match="No space left on device: .*kept.txt"), files.replacing(tmp_path / "kept.txt"):
        with full.open("wb", buffering=0) as device:
            device.write(b"x")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        files.write_text(tmp_path / "file" / "below.txt", "x")


def test_text_is_utf_8(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "t.csv").write_bytes("眼,é\n".encode(encoding))
        assert files.read_text(tmp_path / "t.csv") == "眼,é\n"
    for content in (b"\xff\xfe\0\1", b"a\0b", "a,b".encode("utf-16"), "a,b".encode("utf-16-le")):
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(ValueError, match="t.csv: not a plain text file"):
            files.read_text(tmp_path / "t.csv")
