"""Every notebook keeps our anatomy, every anatomy rule can go red, and nbval sees a wrong edit even after stripping."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import notebook_anatomy as anatomy
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEIGHBOUR = "01_next.ipynb"
TITLE = f"""# A title
What it does, in a line.

| question | inputs | outputs | runtime (smoke, full) |
|---|---|---|---|
| does it? | pairs | a table | 1 s, 2 s |

Next: [the next]({NEIGHBOUR})"""
LEARNED = "## What we learned\nThat one and one are two, whichever way you add them up, and that nbval compares text."


def good_notebook() -> nbformat.NotebookNode:
    """A notebook that breaks no rule."""
    kept = {"metadata": {"tags": ["nbval-check-output", "keep_output"]}, "execution_count": 5}
    parameters = "count = 1  # how many\nrate: float = -0.5  # per second\nangles = [0, 30]  # degrees"
    cells = [
        new_markdown_cell(TITLE),
        new_code_cell("import math"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new_code_cell("total = count + 1"),
        new_markdown_cell("## Sum\nWhy we add."),
        new_code_cell("math.sqrt(total);"),
        new_markdown_cell("## Checks\nWhat must hold."),
        new_code_cell(
            "assert total > 1\nprint(total)", outputs=[new_output("stream", name="stdout", text="2\n")], **kept
        ),
        new_markdown_cell(LEARNED),
    ]
    return new_notebook(cells=cells, metadata={"kernelspec": dict(anatomy.KERNELSPEC)})


def picture() -> nbformat.NotebookNode:
    """An output that is a picture."""
    return new_output("display_data", {"image/png": "aGVsbG8="})


def source(number: int, text: str) -> Callable[[Any], None]:
    """Edit that replaces the text of a cell, counted from 1."""
    return lambda nb: nb.cells[number - 1].update(source=text)


def tagged(number: int, *tags: str) -> Callable[[Any], None]:
    """Edit that replaces the tags of a cell, counted from 1."""
    return lambda nb: nb.cells[number - 1].metadata.update(tags=list(tags))


def outputs(number: int, *given: Any) -> Callable[[Any], None]:
    """Edit that replaces the outputs of a cell, counted from 1."""
    return lambda nb: nb.cells[number - 1].update(outputs=list(given))


BROKEN = [
    (anatomy.valid_format, lambda nb: nb.update(nbformat_minor=4), "open and save"),
    (anatomy.valid_format, lambda nb: nb.cells[0].update(id="no spaces allowed"), "not a valid notebook"),
    (anatomy.kernelspec, lambda nb: nb.metadata.kernelspec.update(name="my-venv"), "my-venv"),
    (anatomy.title_cell, source(1, "A title"), "start with markdown"),
    (anatomy.title_cell, source(1, TITLE.replace("What it does, in a line.", "")), "subtitle"),
    (anatomy.title_cell, source(1, TITLE.replace("runtime", "time")), "lacks runtime"),
    (anatomy.title_cell, source(1, TITLE.replace(NEIGHBOUR, "02_x.ipynb")), NEIGHBOUR),
    (anatomy.opening_cells, lambda nb: nb.cells.insert(1, new_markdown_cell("wait")), "cells 2 to 4"),
    (anatomy.opening_cells, source(2, "print()"), "no import"),
    (anatomy.opening_cells, tagged(3), "tag it"),
    (anatomy.opening_cells, tagged(4, "parameters"), "more than one"),
    (anatomy.opening_cells, source(5, "Why we add."), "cell 5"),
    (anatomy.imports_in_one_place, source(6, "for k in 1, 2:\n    import os"), "cell 6"),
    (anatomy.literal_parameters, source(3, ""), "empty"),
    (anatomy.literal_parameters, source(3, "count = 1"), "add a comment"),
    (anatomy.literal_parameters, source(3, "count = 1 + 1  # sum"), "literal"),
    (anatomy.literal_parameters, source(3, "size = (1, 2)  # tuple"), "must be int"),
    (anatomy.literal_parameters, source(3, "name = None  # nothing"), "must be int"),
    (anatomy.literal_parameters, source(3, "print(1)  # no"), "name = literal"),
    (anatomy.literal_parameters, source(3, "angles = [  # many\n  1]  # of them"), "one line"),
    (anatomy.literal_parameters, source(3, "name: str | None = 'a'  # union"), "papermill"),
    (anatomy.literal_parameters, source(3, "count = 1  # such as count=3"), "papermill"),
    (anatomy.literal_parameters, source(3, "colour = '#fff'  # hex"), "papermill"),
    (anatomy.plain_python, source(6, "%matplotlib inline"), "magics"),
    (anatomy.no_definitions, source(6, "def helper():\n    return 1"), "helper"),
    (anatomy.no_definitions, source(6, "if total:\n    class Thing:\n        a = 1"), "Thing"),
    (anatomy.short_code, source(6, "\n".join(f"a{k} = {k}" for k in range(16))), "16 lines"),
    (anatomy.short_code, source(6, "  \n"), "empty"),
    (anatomy.nothing_fragile, source(6, "matplotlib.use('Agg')"), "backend"),
    (anatomy.nothing_fragile, source(6, "here = os.getcwd()"), "project_root"),
    (anatomy.nothing_fragile, tagged(6, "raises-exception"), "try/except"),
    (anatomy.why_before_how, lambda nb: nb.cells.insert(6, new_code_cell("total")), "cell 7"),
    (anatomy.checks_section, source(7, "## Tests\nWhat must hold."), "## Checks"),
    (anatomy.checks_section, tagged(8, "keep_output"), "both tags"),
    (anatomy.checks_section, source(8, "print(total)"), "asserts nothing"),
    (anatomy.checks_section, outputs(8), "no printed output"),
    (anatomy.checks_section, lambda nb: nb.cells[7].update(execution_count=None), "--keep-count"),
    (anatomy.lesson_learned, source(9, "## The end\nThat one and one are two."), "What we learned"),
    (anatomy.lesson_learned, source(9, "## What we learned\nTo do."), "sentence"),
    (anatomy.lesson_learned, lambda nb: nb.cells.append(new_code_cell("total")), "markdown only"),
    (anatomy.outputs_only_where_kept, outputs(6, new_output("stream", text="1.41")), "cell 6: has committed output"),
    (anatomy.outputs_only_where_kept, tagged(6, "keep_output"), "nobody compares"),
    (
        anatomy.outputs_only_where_kept,
        outputs(8, new_output("error", ename="E", evalue="", traceback=[])),
        "is an error",
    ),
    (anatomy.no_pictures, outputs(8, picture()), "picture"),
    (anatomy.no_pictures, source(5, "## Sum\n![](data:image/png;base64,aGVsbG8=)"), "picture"),
    (anatomy.no_pictures, lambda nb: nb.cells[4].update(attachments={"a.png": {"image/png": "aGVsbG8="}}), "picture"),
    (anatomy.small_file, lambda nb: nb.metadata.update(filler="x" * anatomy.MAX_BYTES), "at most"),
]


def subject(nb: nbformat.NotebookNode) -> anatomy.Subject:
    """Notebook in memory as the rules take it."""
    return anatomy.Subject(nb, len(nbformat.writes(nb)), (NEIGHBOUR,))


@pytest.mark.parametrize("rule", anatomy.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_anatomy(path, rule):
    problems = list(rule(anatomy.read_subject(path)))
    assert not problems, f"{path.name}:\n  " + "\n  ".join(problems)


def test_good_notebook_breaks_no_rule():
    assert [problem for rule in anatomy.RULES for problem in rule(subject(good_notebook()))] == []


@pytest.mark.filterwarnings("ignore:.*:nbformat.warnings.MissingIDFieldWarning")
@pytest.mark.parametrize(
    ("rule", "edit", "message"), BROKEN, ids=[f"{rule.__name__}-{message}" for rule, _, message in BROKEN]
)
def test_rule_sees_what_is_broken(rule, edit, message):
    nb = good_notebook()
    edit(nb)
    assert any(message in problem for problem in rule(subject(nb))), list(rule(subject(nb)))


def test_every_rule_has_a_broken_example():
    assert {rule for rule, _, _ in BROKEN} == set(anatomy.RULES)


def test_neighbours_in_reading_order(tmp_path):
    for name in ("00_a", "01_b", "02_c"):
        nbformat.write(good_notebook(), tmp_path / f"{name}.ipynb")
    found = [anatomy.read_subject(path).neighbours for path in sorted(tmp_path.glob("*.ipynb"))]
    assert found == [("01_b.ipynb",), ("00_a.ipynb", "02_c.ipynb"), ("01_b.ipynb",)]


def nbval(path: Path) -> subprocess.CompletedProcess:
    """Outcome of replaying one notebook as `make test` does."""
    flags = ["-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", "-c", os.devnull]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *flags, str(path)], capture_output=True, text=True, cwd=path.parent, timeout=60
    )


def test_nbval_sees_a_wrong_edit_after_the_pre_commit_strip(tmp_path):
    path = tmp_path / "tiny.ipynb"
    nb = good_notebook()
    nb.cells[5].outputs = [picture()]
    nbformat.write(nb, path)
    hook = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    command = " ".join(re.search(r"exec (nbstripout .*?) \"\$@\"", hook, re.DOTALL).group(1).split()).replace('"', "'")
    flags = re.findall(r"'[^']*'|\S+", command)[1:]
    subprocess.run(
        [sys.executable, "-m", "nbstripout", *(flag.strip("'") for flag in flags), str(path)], check=True, timeout=60
    )
    stripped = nbformat.read(path, 4)
    assert stripped.cells[5].outputs == [] and stripped.cells[7].outputs[0].text == "2\n"
    assert [cell.id for cell in stripped.cells] == [cell.id for cell in nb.cells]
    right = nbval(path)
    assert right.returncode == 0, right.stdout

    stripped.cells[3].source = "total = count + 2"
    nbformat.write(stripped, path)
    wrong = nbval(path)
    assert wrong.returncode == 1 and "mismatch" in wrong.stdout, wrong.stdout
