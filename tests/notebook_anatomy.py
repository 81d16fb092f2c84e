"""The anatomy of our notebooks, one function per rule: each takes a Subject and returns what is wrong with it, or
nothing.

A message says where (the cell's number counted from 1, as JupyterLab shows them from top to bottom), what, and what to
do.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from papermill.translators import papermill_translators

KERNELSPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}
MAX_CODE_LINES = 15
MAX_BYTES = 300 * 1024
CHECKED_TAGS = {"nbval-check-output", "keep_output"}
Rule = Callable[["Subject"], Iterator[str]]


@dataclass(frozen=True)
class Subject:
    """One notebook under test; neighbours are the file names before and after it in reading order."""

    nb: nbformat.NotebookNode
    n_bytes: int
    neighbours: tuple[str, ...] = ()

    def code(self) -> Iterator[tuple[int, Any]]:
        """Code cells with their number."""
        return ((number, cell) for number, cell in enumerate(self.nb.cells, 1) if cell.cell_type == "code")


def read_subject(path: Path) -> Subject:
    """Notebook file with its neighbours in the same folder."""
    names = sorted(other.name for other in path.parent.glob("*.ipynb"))
    place = names.index(path.name)
    neighbours = tuple(names[max(place - 1, 0) : place] + names[place + 1 : place + 2])
    return Subject(nbformat.read(path, nbformat.NO_CONVERT), path.stat().st_size, neighbours)


def tags(cell: Any) -> set[str]:
    """Tags of a cell."""
    return set(cell.metadata.get("tags", []))


def syntax(cell: Any) -> ast.Module:
    """Syntax tree of a code cell, empty when it does not parse (plain_python reports that)."""
    try:
        return ast.parse(cell.source)
    except SyntaxError:
        return ast.Module([], [])


def is_heading(cell: Any, text: str = "") -> bool:
    """Whether a cell is markdown that starts with an H2, of exactly this text if given."""
    first = cell.source.strip().partition("\n")[0].strip()
    return cell.cell_type == "markdown" and (first == f"## {text}" if text else first.startswith("## "))


def valid_format(subject: Subject) -> Iterator[str]:
    if (subject.nb.nbformat, subject.nb.nbformat_minor) < (4, 5):
        yield "older than nbformat 4.5, so cells have no ids: open and save it in JupyterLab"
        return
    try:
        nbformat.validate(subject.nb)
    except nbformat.ValidationError as error:
        yield f"not a valid notebook: {str(error).splitlines()[0]}"


def kernelspec(subject: Subject) -> Iterator[str]:
    if subject.nb.metadata.get("kernelspec") != KERNELSPEC:
        yield f"kernelspec is {json.dumps(subject.nb.metadata.get('kernelspec'))}, make it {json.dumps(KERNELSPEC)}"


def title_cell(subject: Subject) -> Iterator[str]:
    first = subject.nb.cells[0] if subject.nb.cells else None
    lines = first.source.strip().splitlines() if first is not None and first.cell_type == "markdown" else []
    if not lines or not lines[0].startswith("# "):
        yield "cell 1: start with markdown: `# Title`, a one-line subtitle, the table, the links"
        return
    if not any(
        line.strip() and not line.lstrip().startswith(("|", "#")) and ".ipynb)" not in line for line in lines[1:]
    ):
        yield "cell 1: no subtitle: say in one line under the title what the notebook does"
    table = " ".join(line.lower() for line in lines if line.lstrip().startswith("|"))
    missing = [word for word in ("question", "inputs", "outputs", "runtime") if word not in table]
    if missing:
        yield f"cell 1: the table lacks {', '.join(missing)}"
    links = set(re.findall(r"\]\((?:\./)?([\w.-]+\.ipynb)\)", first.source))
    for name in subject.neighbours:
        if name not in links:
            yield f"cell 1: no link to its neighbour: add [...]({name})"


def opening_cells(subject: Subject) -> Iterator[str]:
    cells = subject.nb.cells
    if len(cells) < 4 or [cell.cell_type for cell in cells[1:4]] != ["code"] * 3:
        yield "cells 2 to 4: must be code: imports, parameters, config"
        return
    if not any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in syntax(cells[1]).body):
        yield "cell 2: no import: all imports go here"
    if "parameters" not in tags(cells[2]):
        yield "cell 3: tag it `parameters`"
    if sum("parameters" in tags(cell) for cell in cells) > 1:
        yield "more than one cell is tagged `parameters`: keep one, cell 3"
    if len(cells) > 4 and not is_heading(cells[4]):
        yield "cell 5: must be markdown starting with `## `: sections begin after the config"


def imports_in_one_place(subject: Subject) -> Iterator[str]:
    for number, cell in subject.code():
        if number != 2 and any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(syntax(cell))):
            yield f"cell {number}: imports: move them to cell 2"


def parameter_problem(line: str) -> str:
    """What is wrong with one line of the parameters cell, or nothing."""
    code, _, comment = line.partition("  #")
    try:
        (node,) = ast.parse(code).body
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        value = ast.literal_eval(node.value)
    except (SyntaxError, ValueError, AttributeError):
        return "expected `name = literal  # help` on one line"
    if not isinstance(target, ast.Name) or type(value) not in (int, float, str, bool, list):
        return "the default must be int, float, str, bool or list"
    if not comment.strip():
        return "add a comment as help, two spaces before the #"
    try:
        (seen,) = papermill_translators.find_translator("python3", "python").inspect({"source": line})
        understood = seen.name == target.id and ast.literal_eval(seen.default) == value
    except (SyntaxError, ValueError):
        understood = False
    return "" if understood else "papermill misreads it: plain annotation or none, no = or # in value or comment"


def literal_parameters(subject: Subject) -> Iterator[str]:
    for number, cell in subject.code():
        if "parameters" in tags(cell):
            lines = [line for line in cell.source.splitlines() if line.strip()]
            if not lines:
                yield f"cell {number}: the parameters cell is empty"
            for line in lines:
                if problem := parameter_problem(line):
                    yield f"cell {number}: {line!r}: {problem}"


def plain_python(subject: Subject) -> Iterator[str]:
    for number, cell in subject.code():
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            yield f"cell {number}: not plain Python ({error.msg}): no magics, no shell lines"


def no_definitions(subject: Subject) -> Iterator[str]:
    for number, cell in subject.code():
        for node in ast.walk(syntax(cell)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield f"cell {number}: defines {node.name}: move it to retina_kp and import it"


def short_code(subject: Subject) -> Iterator[str]:
    for number, cell in subject.code():
        n_lines = sum(bool(line.strip()) for line in cell.source.splitlines())
        if n_lines == 0:
            yield f"cell {number}: empty: remove it"
        if n_lines > MAX_CODE_LINES and "parameters" not in tags(cell):
            yield f"cell {number}: {n_lines} lines of code, at most {MAX_CODE_LINES}: split it, or move work to retina_kp"


def nothing_fragile(subject: Subject) -> Iterator[str]:
    pattern = r"MPLBACKEND|matplotlib\.use\(|switch_backend|os\.getcwd|Path\.cwd|os\.chdir"
    for number, cell in subject.code():
        for word in re.findall(pattern, cell.source):
            yield f"cell {number}: {word}: set no backend, and find files from project_root(), not from the working directory"
        if "raises-exception" in tags(cell):
            yield f"cell {number}: tagged raises-exception, where papermill stops: show the error with try/except"


def why_before_how(subject: Subject) -> Iterator[str]:
    cells = subject.nb.cells
    start = next((index for index, cell in enumerate(cells) if is_heading(cell)), len(cells))
    for index in range(start + 1, len(cells)):
        if cells[index].cell_type == "code" and cells[index - 1].cell_type != "markdown":
            yield f"cell {index + 1}: code follows code: put a markdown cell before it that says why"


def checks_section(subject: Subject) -> Iterator[str]:
    cells = subject.nb.cells
    start = next((index for index, cell in enumerate(cells) if is_heading(cell, "Checks")), None)
    if start is None:
        yield "no markdown cell starting with `## Checks`"
        return
    stop = next((index for index in range(start + 1, len(cells)) if is_heading(cells[index])), len(cells))
    checked = [cell for cell in cells[start:stop] if cell.cell_type == "code" and CHECKED_TAGS <= tags(cell)]
    if not checked:
        yield "## Checks: no code cell with both tags nbval-check-output and keep_output"
    if not any(isinstance(node, ast.Assert) for cell in checked for node in ast.walk(syntax(cell))):
        yield "## Checks: the tagged cell asserts nothing"
    for cell in checked:
        if not any(output.get("text", "").strip() for output in cell.outputs):
            yield "## Checks: the tagged cell has no printed output in the file: run it, save, commit (nbval compares nothing otherwise)"
        elif not cell.execution_count:
            yield "## Checks: the tagged cell lost its execution count, which nbval needs: run it and save; nbstripout takes --keep-count"


def lesson_learned(subject: Subject) -> Iterator[str]:
    cells = subject.nb.cells
    heads = [index for index, cell in enumerate(cells) if is_heading(cell)]
    if not heads or not is_heading(cells[heads[-1]], "What we learned"):
        yield "the last section must be markdown starting with `## What we learned`"
        return
    rest = cells[heads[-1] :]
    if any(cell.cell_type == "code" for cell in rest) or len(" ".join(cell.source for cell in rest)) < 80:
        yield "## What we learned: markdown only, and at least a sentence or two"


def outputs_only_where_kept(subject: Subject) -> Iterator[str]:
    for number, cell in subject.code():
        if cell.outputs and "keep_output" not in tags(cell):
            yield f"cell {number}: has committed output: run `pre-commit run nbstripout`, or tag it keep_output if nbval compares it"
        if "keep_output" in tags(cell) and "nbval-check-output" not in tags(cell):
            yield f"cell {number}: keep_output without nbval-check-output: output that nobody compares does not stay"
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"cell {number}: the committed output is an error: mend the cell and run it again"


def no_pictures(subject: Subject) -> Iterator[str]:
    for number, cell in enumerate(subject.nb.cells, 1):
        in_outputs = any(
            mime.startswith("image/") for output in cell.get("outputs", []) for mime in output.get("data", {})
        )
        if in_outputs or cell.get("attachments") or "data:image" in cell.source:
            yield f"cell {number}: holds a picture: executed copies and pictures stay out of git"


def small_file(subject: Subject) -> Iterator[str]:
    if subject.n_bytes > MAX_BYTES:
        yield f"{subject.n_bytes / 1024:.0f} KB, at most {MAX_BYTES // 1024}: strip outputs (pre-commit run nbstripout)"


RULES: tuple[Rule, ...] = (
    valid_format,
    kernelspec,
    title_cell,
    opening_cells,
    imports_in_one_place,
    literal_parameters,
    plain_python,
    no_definitions,
    short_code,
    nothing_fragile,
    why_before_how,
    checks_section,
    lesson_learned,
    outputs_only_where_kept,
    no_pictures,
    small_file,
)
