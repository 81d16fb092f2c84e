"""Every notebook keeps our anatomy, the linter can go red, and nbval sees a wrong edit even after stripping."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papermill.translators import papermill_translators

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KERNELSPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}
MAX_CODE_LINES, MAX_KB = 15, 300
CHECKED = {"nbval-check-output", "keep_output"}
FRAGILE = r"MPLBACKEND|matplotlib\.use\(|switch_backend|os\.getcwd|Path\.cwd|os\.chdir|^\s*[%!]"
DEFINITIONS, IMPORTS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef), (ast.Import, ast.ImportFrom)


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def is_heading(cell, text: str = "") -> bool:
    """Whether a cell is markdown that starts with an H2, of exactly this text if given."""
    first = cell.source.strip().partition("\n")[0].strip()
    return cell.cell_type == "markdown" and (first == f"## {text}" if text else first.startswith("## "))


def tree(cell) -> ast.Module:
    try:
        return ast.parse(cell.source)
    except SyntaxError:  # told as a problem of its own
        return ast.Module([], [])


def lint(nb: nbformat.NotebookNode, neighbours: tuple[str, ...] = ()) -> Iterator[str]:
    """What is wrong with a notebook: where (cells counted from 1), what, what to do."""
    cells = nb.cells
    if (nb.nbformat, nb.nbformat_minor) < (4, 5) or nb.metadata.get("kernelspec") != KERNELSPEC:
        yield f"save it in JupyterLab as nbformat 4.5 with kernelspec {KERNELSPEC}"
    if len(nbformat.writes(nb)) > MAX_KB * 1024:
        yield f"more than {MAX_KB} KB: strip outputs (pre-commit run nbstripout)"
    yield from lint_title(cells[0], neighbours)
    if [cell.cell_type for cell in cells[1:4]] != ["code"] * 3 or "parameters" not in tags(cells[2]):
        yield "cells 2 to 4 are code: imports, parameters (tagged so), config"
    if sum("parameters" in tags(cell) for cell in cells) != 1 or not is_heading(cells[4]):
        yield "one cell is tagged `parameters`, and sections begin with `## ` in cell 5"
    for line in filter(str.strip, cells[2].source.splitlines()):
        if problem := parameter_problem(line):
            yield f"cell 3: {line!r}: {problem}"
    for number, cell in enumerate(cells, 1):
        yield from (f"cell {number}: {problem}" for problem in lint_cell(number, cell))
        if number > 5 and cell.cell_type == "code" == cells[number - 2].cell_type:
            yield f"cell {number}: code follows code: put a markdown cell before it that says why"
    yield from lint_end(cells)


def lint_title(cell, neighbours: tuple[str, ...]) -> Iterator[str]:
    lines = cell.source.strip().splitlines()
    plain = [line for line in lines[1:] if line.strip() and line.lstrip()[0] not in "|#" and ".ipynb)" not in line]
    if cell.cell_type != "markdown" or not lines[0].startswith("# ") or not plain:
        yield "cell 1: start with markdown: `# Title`, a one-line subtitle, the table, the links"
    table = " ".join(line.lower() for line in lines if line.lstrip().startswith("|"))
    if missing := [word for word in ("question", "inputs", "outputs", "runtime") if word not in table]:
        yield f"cell 1: the table lacks {', '.join(missing)}"
    links = re.findall(r"\]\((?:\./)?([\w.-]+\.ipynb)\)", cell.source)
    yield from (f"cell 1: link to its neighbour: [...]({name})" for name in neighbours if name not in links)


def parameter_problem(line: str) -> str:
    """What is wrong with one line of the parameters cell, or nothing."""
    code, _, comment = line.partition("  #")
    try:
        (node,) = ast.parse(code).body
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        value = ast.literal_eval(node.value)
        (seen,) = papermill_translators.find_translator("python3", "python").inspect({"source": line})
        understood = seen.name == target.id and ast.literal_eval(seen.default) == value
    except (SyntaxError, ValueError, AttributeError):
        return "expected `name = literal  # help` on one line, as papermill reads it: no = or # in value or comment"
    if type(value) not in (int, float, str, bool, list) or not understood or not comment.strip():
        return "the default must be int, float, str, bool or list; help follows two spaces and a #"
    return ""


def lint_cell(number: int, cell) -> Iterator[str]:
    if cell.get("attachments") or "data:image" in cell.source:
        yield "holds a picture: pictures stay out of git"
    if cell.cell_type != "code":
        return
    lines = [line for line in cell.source.splitlines() if line.strip()]
    if not lines or (len(lines) > MAX_CODE_LINES and "parameters" not in tags(cell)):
        yield f"{len(lines)} lines of code, 1 to {MAX_CODE_LINES}: split it, or move work to retina_kp"
    if found := re.findall(FRAGILE, cell.source, re.MULTILINE):
        yield f"{found[0].strip()}: no magics, no backend, and files from project_root(), not the working directory"
    try:
        ast.parse(cell.source)
    except SyntaxError as error:
        yield f"not plain Python ({error.msg})"
    nodes = list(ast.walk(tree(cell)))
    if any(isinstance(node, DEFINITIONS) for node in nodes):
        yield "defines a function or class: move it to retina_kp and import it"
    if any(isinstance(node, IMPORTS) for node in nodes) != (number == 2):
        yield "imports are in cell 2, all of them"
    if "raises-exception" in tags(cell) or any(output.output_type == "error" for output in cell.outputs):
        yield "stops with an error, where papermill would stop: show it with try/except"
    if cell.outputs and "keep_output" not in tags(cell):
        yield "has committed output: run `pre-commit run nbstripout`, or tag it for nbval to compare"
    if "keep_output" in tags(cell) and not tags(cell) >= CHECKED:
        yield "keep_output without nbval-check-output: output that nobody compares does not stay"
    if any(mime.startswith("image/") for output in cell.outputs for mime in output.get("data", {})):
        yield "holds a picture: pictures stay out of git"


def lint_end(cells: list) -> Iterator[str]:
    heads = [index for index, cell in enumerate(cells) if is_heading(cell)]
    start = next((index for index in heads if is_heading(cells[index], "Checks")), len(cells))
    stop = next((index for index in heads if index > start), len(cells))
    checked = [cell for cell in cells[start:stop] if cell.cell_type == "code" and tags(cell) >= CHECKED]
    if not any(isinstance(node, ast.Assert) for cell in checked for node in ast.walk(tree(cell))):
        yield f"a section `## Checks` has a code cell that asserts, tagged {' and '.join(sorted(CHECKED))}"
    for cell in checked:
        if not cell.execution_count or not any(output.get("text", "").strip() for output in cell.outputs):
            yield "## Checks: without printed output and its count nbval compares nothing: run it and save"
    last = cells[heads[-1] :] if heads else []
    words = " ".join(cell.source for cell in last if cell.cell_type == "markdown")
    if (
        not last
        or not is_heading(last[0], "What we learned")
        or len(words) < 80
        or "code" in {c.cell_type for c in last}
    ):
        yield "the last section is `## What we learned`: markdown only, and at least a sentence or two"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_anatomy(path):
    nb, place = nbformat.read(path, nbformat.NO_CONVERT), NOTEBOOKS.index(path)
    nbformat.validate(nb)
    neighbours = NOTEBOOKS[max(place - 1, 0) : place] + NOTEBOOKS[place + 1 : place + 2]
    problems = list(lint(nb, tuple(other.name for other in neighbours)))
    assert not problems, "\n  ".join(problems)


# ------------------------------------------------------------------ the linter itself

TITLE = """# A title
What it does, in a line.

| question | inputs | outputs | runtime |
|---|---|---|---|
| does it? | pairs | a table | 1 s |

Next: [the next](01_next.ipynb)"""


def good_notebook() -> nbformat.NotebookNode:
    """A notebook that breaks no rule."""
    parameters = "count = 1  # how many\nrate: float = -0.5  # per second\nangles = [0, 30]  # degrees"
    printed = {"execution_count": 5, "outputs": [new_output("stream", name="stdout", text="2\n")]}
    cells = [
        new_markdown_cell(TITLE),
        new_code_cell("import math"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new_code_cell("total = count + 1"),
        new_markdown_cell("## Sum\nWhy we add."),
        new_code_cell("math.sqrt(total);"),
        new_markdown_cell("## Checks\nWhat must hold."),
        new_code_cell("assert total > 1\nprint(total)", metadata={"tags": sorted(CHECKED)}, **printed),
        new_markdown_cell(
            "## What we learned\nThat one and one are two, whichever way you add them up, time after time."
        ),
    ]
    return new_notebook(cells=cells, metadata={"kernelspec": dict(KERNELSPEC)})


def test_a_good_notebook_has_no_problem():
    assert list(lint(good_notebook(), ("01_next.ipynb",))) == []


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (1, {"source": TITLE.replace("01_next", "02_x")}, "link to its neighbour"),
        (3, {"source": "count = 1  # such as count=3"}, "papermill reads it"),
        (6, {"source": "def helper():\n    return 1"}, "defines a function"),
        (6, {"outputs": [new_output("display_data", {"image/png": "aGVsbG8="})]}, "holds a picture"),
        (8, {"source": "print(total)"}, "code cell that asserts"),
    ],
)
def test_the_linter_sees_what_is_broken(number, changes, message):
    nb = good_notebook()
    nb.cells[number - 1].update(changes)
    assert any(message in problem for problem in lint(nb, ("01_next.ipynb",)))


def nbval(path: Path) -> subprocess.CompletedProcess:
    """Outcome of replaying one notebook as `make test` does."""
    flags = ["-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", "-c", os.devnull]
    command = [sys.executable, "-m", "pytest", *flags, str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=path.parent, timeout=60)


def test_nbval_sees_a_wrong_edit_after_the_pre_commit_strip(tmp_path):
    path, nb = tmp_path / "tiny.ipynb", good_notebook()
    nb.cells[5].outputs = [new_output("display_data", {"image/png": "aGVsbG8="})]
    nbformat.write(nb, path)
    hook = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    command = " ".join(re.search(r"exec nbstripout (.*?) \"\$@\"", hook, re.DOTALL).group(1).split())
    flags = [flag.strip('"') for flag in re.findall(r"\"[^\"]*\"|\S+", command)]
    subprocess.run([sys.executable, "-m", "nbstripout", *flags, str(path)], check=True, timeout=60)
    stripped = nbformat.read(path, 4)
    assert stripped.cells[5].outputs == [] and stripped.cells[7].outputs[0].text == "2\n"
    assert [cell.id for cell in stripped.cells] == [cell.id for cell in nb.cells]
    assert nbval(path).returncode == 0

    stripped.cells[3].source = "total = count + 2"
    nbformat.write(stripped, path)
    wrong = nbval(path)
    assert wrong.returncode == 1 and "mismatch" in wrong.stdout, wrong.stdout
