"""The strict runner of notebooks: papermill underneath, an executed copy and one HTML file as result."""

from __future__ import annotations

import ast
import dataclasses
import os
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from ..core.compute import HEADLESS, MARK
from ..core.config import from_dict
from ..core.files import (
    PACKAGE,
    PROJECT,
    held,
    new_run_folder,
    notebooks_folder,
    project_root,
    runs_root,
    to_plain,
)
from .html import to_html
from .parameters import from_here, read_parameter_file, typed
from .privacy import share_notebook

WORDS = (
    "run_name",
    "recipe",
    "network",
    "layout",
    "precision",
    "device",
    "mode",
    "pair_by",
)  # parameters that are no paths
PRIVATE = "private-paths"  # cell tag of notebooks whose executed copies are passed on


class NotebookError(RuntimeError):
    """A notebook stopped; the message names notebook, cell, exception and the partly executed copy."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a finished run left: the executed notebook, its HTML file, and the wall time with the kernel's start."""

    executed: Path
    html: Path
    seconds: float


class _Kernel(AsyncKernelManager):
    """This interpreter with this package, whatever kernels are registered. Pictures go into the notebook."""

    @property
    def kernel_spec(self) -> KernelSpec:
        path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH", ""))))
        # an inherited MPLBACKEND=Agg would leave the notebook without pictures
        given = {"PYTHONPATH": path, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        # a kernel's log is about sockets; what cells do is in the notebook
        about = get_kernel_dict(["--log-level=CRITICAL"])
        return KernelSpec(**about | {"env": {HEADLESS: "1", PROJECT: str(project_root()), **given}})


def notebook_parameters(path: str | Path) -> dict[str, Any]:
    """Names and defaults in the cell tagged `parameters`, {} without one; ValueError for what is no literal."""
    tagged = [cell for cell in nbformat.read(path, 4).cells if "parameters" in cell.metadata.get("tags", [])]
    try:
        nodes = ast.parse(tagged[0].source).body if tagged else []
        targets = [node.targets[0] if isinstance(node, ast.Assign) else node.target for node in nodes]
        return {target.id: ast.literal_eval(node.value) for target, node in zip(targets, nodes, strict=True)}
    except (AttributeError, SyntaxError, ValueError) as error:
        expected = "expected only `name = literal  # help`, one per line"
        raise ValueError(f"{Path(path).name}, parameters cell: {expected} ({error})") from error


def accepted_parameters(path: str | Path) -> dict[str, Any]:
    """Names and defaults of all that a notebook takes: its parameters cell, and the fields of the settings that its
    metadata name ("retina_kp": {"settings": "module:class"})."""
    module, _, name = nbformat.read(path, 4).metadata.get("retina_kp", {}).get("settings", "").partition(":")
    rest = dataclasses.asdict(getattr(import_module(module), name)()) if module else {}
    return rest | notebook_parameters(path)


def _checked_parameters(given: Mapping[str, Any], known: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Given parameters of a notebook as papermill can inject them; ValueError for an unknown name or a wrong type."""
    if given and not known:
        raise ValueError(f"{name} has no cell tagged 'parameters': tag the cell that holds its settings")
    plain = to_plain(dict(given))
    for key, value in plain.items():
        if isinstance(value, str) and isinstance(known.get(key), list):
            plain[key] = typed(value, known[key])
    fields = [(key, type(default), dataclasses.field(default=None)) for key, default in known.items()]
    checked = from_dict(dataclasses.make_dataclass(name, fields), plain)
    return {key: getattr(checked, key) for key in plain}


def _run_folder(source: Path, wanted: Mapping[str, Any], out_dir: str | Path | None) -> Path:
    """The folder of a run, which is that of its report; ValueError where two are named, or none to go on with."""
    name = wanted.get("run_name", "")
    if name and out_dir is not None:
        both = f"give run_name ({name!r}) or the folder ({str(out_dir)!r}), not both"
        raise ValueError(f"{source.name}: a run has one folder; {both}")
    if wanted.get("resume") and not name and out_dir is None:
        raise ValueError(f"{source.name}: resume = True needs run_name or the folder: which run is to be continued?")
    folder = new_run_folder(source, name, runs_root(wanted.get("runs_root", ""))) if out_dir is None else Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def find_notebook(name_or_path: str | Path) -> Path:
    """A path that exists, or a name in notebooks/ with or without .ipynb, of which the number will do; FileNotFoundError
    lists the names there."""
    folder, number = notebooks_folder(), f"{name_or_path}".zfill(2)
    numbered = folder.glob(f"{number}_*.ipynb") if number.isdecimal() else ()
    for path in (Path(name_or_path), folder / name_or_path, folder / f"{name_or_path}.ipynb", *numbered):
        if path.is_file():
            return path.resolve()
    names = ", ".join(sorted(path.stem for path in folder.glob("*.ipynb"))) or "nothing yet"
    how = f"give a path to an .ipynb file, or a name in {folder}: {names}"
    raise FileNotFoundError(f"no notebook {str(name_or_path)!r}: {how}")


def _stopped(source: Path, executed: Path, error: Exception) -> NotebookError:
    """Short account of a run that stopped: notebook, cell, exception, where the partly executed copy is."""
    if hasattr(error, "ename"):
        count, code, what = error.exec_count, error.source, f"{error.ename}: {error.evalue}"
    else:  # time limit or dead kernel: blame the last code cell that was started
        code_cells = [cell for cell in nbformat.read(executed, 4).cells if cell.cell_type == "code"]
        begun = [cell for cell in code_cells if cell.metadata.papermill.start_time]
        count, code, what = len(begun), begun[-1].source, f"{type(error).__name__}: {error}".partition("\n")[0]
    line = next((line for line in code.splitlines() if line.strip() and not line.startswith("#")), "")
    where = f"{source.name}, cell In [{count}] ({line:.80})"
    return NotebookError(f"{where} stopped with {what:.1500}\nExecuted so far: {executed}")


def run_notebook(
    name_or_path: str | Path,
    parameters: Mapping[str, Any],
    out_dir: str | Path | None = None,
    timeout: int | None = None,
) -> RunResult:
    """Run a notebook with the given parameters and write executed.ipynb and report.html.

    They go to out_dir, and so does what the notebook writes; by default to the folder that run_name and runs_root say,
    or to a new one. timeout: seconds per cell. ValueError for wrong parameters, also where the cell below them tells,
    FileNotFoundError for no such notebook, NotebookError when another cell raises, or one takes too long or kills its
    kernel. A copy with a cell tagged PRIVATE keeps of every path the last part alone.
    """
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook

    source = find_notebook(name_or_path)
    known = accepted_parameters(source)
    parameters = _checked_parameters(parameters, known, source.name)
    out_dir = _run_folder(source, known | parameters, out_dir)
    parameters |= {"run_name": str(out_dir)} if "run_name" in known else {}
    executed, start = out_dir / "executed.ipynb", time.monotonic()
    # a wheel's notebooks lie where nobody should write
    here = project_root() if source.parent == PACKAGE / "notebooks" else source.parent
    how = {"kernel_name": "python3", "kernel_manager_class": _Kernel, "execution_timeout": timeout}
    executed.touch()
    try:
        with held(executed):
            execute_notebook(source, executed, parameters, cwd=here, progress_bar=False, stderr_file=sys.stderr, **how)
    except (PapermillExecutionError, CellTimeoutError, DeadKernelError) as error:
        if getattr(error, "ename", "") in ("ValueError", "FileNotFoundError") and error.source == _settings_cell(
            source
        ):
            executed.unlink()
            raise ValueError(f"{source.stem}: {error.evalue}") from None
        raise _stopped(source, executed, error) from None
    finally:
        if executed.is_file() and not executed.stat().st_size:  # it has not begun
            executed.unlink()
        if not any(out_dir.iterdir()):
            out_dir.rmdir()
    _forget_progress(executed)
    if any(PRIVATE in cell.metadata.get("tags", []) for cell in nbformat.read(source, 4).cells):
        share_notebook(executed, executed)
    return RunResult(executed, to_html(executed, out_dir / "report.html"), time.monotonic() - start)


def _settings_cell(source: Path) -> str:
    """The code cell below the parameters, which checks them."""
    code = [cell for cell in nbformat.read(source, 4).cells if cell.cell_type == "code"]
    after = [below for cell, below in pairwise(code) if "parameters" in cell.metadata.get("tags", [])]
    return after[0].source if after else ""


def _forget_progress(executed: Path) -> None:
    """Take the lines of `progress` out of an executed copy; what else was written to stderr stays."""
    notebook = nbformat.read(executed, 4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                lines = output.text.splitlines(keepends=True)
                output.text = "".join(line for line in lines if not line.startswith(MARK))
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr" or output.text]
    nbformat.write(notebook, executed)


def count_figures(notebook: str | Path) -> int:
    """Number of pictures among the outputs of a notebook file."""
    outputs = [output for cell in nbformat.read(notebook, 4).cells for output in cell.get("outputs", [])]
    return sum(any(mime.startswith("image/") for mime in output.get("data", {})) for output in outputs)


def read_parameters(notebook: str | Path, given: Iterable[tuple[str, str]], file: str | None = None) -> dict[str, Any]:
    """Parameters as people type them, (name, text) and a file that they overrule, in the types of the notebook's."""
    known = accepted_parameters(find_notebook(notebook)) if given else {}
    parameters = read_parameter_file(file) if file else {}
    for name, text in given:
        default = known.get(name, "")
        parameters[name] = typed(text if name in WORDS else from_here(text, default), default)
    return parameters
