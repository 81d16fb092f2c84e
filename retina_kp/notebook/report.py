"""Run folders, result files and the strict notebook runner (papermill underneath, nbconvert for the HTML)."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from ..core.compute import HEADLESS, forget_progress
from ..core.files import new_run_folder, project_root, runs_root, to_plain
from .html import to_html
from .privacy import share_notebook

WORDS = ("run_name", "recipe", "network", "layout", "precision", "device", "mode")  # parameters that are no paths
PRIVATE = "private-paths"  # cell tag of notebooks whose executed copies are passed on


class NotebookError(RuntimeError):
    """A notebook stopped; the message names notebook, cell, exception and the partly executed copy."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a finished notebook run left behind."""

    executed: Path  # a notebook
    html: Path  # one file, no network needed
    seconds: float  # wall time, kernel start included


class _Kernel(AsyncKernelManager):
    """Kernels as the runner needs them: this interpreter for "python3", this package, and pictures inside the
    notebook."""

    @property
    def kernel_spec(self) -> KernelSpec:
        # its log is about sockets; what cells do is in the notebook
        this = KernelSpec(**get_kernel_dict(["--log-level=CRITICAL"]))
        spec = this if self.kernel_name == "python3" else self.kernel_spec_manager.get_kernel_spec(self.kernel_name)
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        # an inherited MPLBACKEND=Agg would leave the notebook without pictures
        inline = "module://matplotlib_inline.backend_inline"
        spec.env = {**spec.env, HEADLESS: "1", "MPLBACKEND": inline, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        return spec


def _read(path: str | Path) -> Any:
    """Notebook at path as nbformat reads it (imported here: it takes a second, and most callers only write files)."""
    import nbformat

    return nbformat.read(path, 4)


def notebook_parameters(path: str | Path) -> dict[str, Any]:
    """Names and defaults in the cell tagged `parameters`; ValueError when there is none, or something that is no
    literal."""
    cells = [cell for cell in _read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    if not cells:
        raise ValueError(f"{Path(path).name} has no cell tagged 'parameters': tag the cell that holds its settings")
    try:
        nodes = ast.parse(cells[0].source).body
        targets = [node.targets[0] if isinstance(node, ast.Assign) else node.target for node in nodes]
        return {target.id: ast.literal_eval(node.value) for target, node in zip(targets, nodes, strict=True)}
    except (AttributeError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{Path(path).name}, parameters cell: expected only `name = literal  # help`, one per line ({error})"
        ) from error


def accepted_parameters(path: str | Path) -> dict[str, Any]:
    """Names and defaults of all that a notebook takes: its parameters cell, and the fields of the settings that its
    metadata name ("retina_kp": {"settings": "module:class"}), of which the cell shows those that people turn."""
    module, _, name = _read(path).metadata.get("retina_kp", {}).get("settings", "").partition(":")
    rest = dataclasses.asdict(getattr(import_module(module), name)()) if module else {}
    return rest | notebook_parameters(path)


def _checked_parameters(given: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Given parameters as papermill can inject them; ValueError for a name or a type that the notebook does not
    have."""
    known, checked = accepted_parameters(source) if given else {}, {}
    for key, value in to_plain(dict(given)).items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{source.name} has no parameter {key!r}: {hint}It has: {', '.join(known)}")
        kind = type(known[key])
        checked[key] = float(value) if kind is float and type(value) is int else value
        if kind is list and isinstance(value, str):
            checked[key] = typed(value, known[key])
        if type(checked[key]) is not kind:
            raise ValueError(
                f"{source.name}: {key} must be {kind.__name__}, like {known[key]!r}; got {type(value).__name__} {value!r}"
            )
    return checked


def _one_folder(source: Path, parameters: Mapping[str, Any], out_dir: str | Path | None) -> tuple[Path, dict[str, Any]]:
    """The folder of a run, which is that of its report, and the parameters with it as run_name where the notebook has
    one."""
    try:
        known = accepted_parameters(source)
    except ValueError:  # a notebook without parameters
        known = {}
    wanted = known | dict(parameters)
    name, root = wanted.get("run_name", ""), wanted.get("runs_root", "")
    if name and out_dir is not None:
        raise ValueError(
            f"{source.name}: a run has one folder; give run_name ({name!r}) or the folder ({str(out_dir)!r}), not both"
        )
    if wanted.get("resume") and not name and out_dir is None:
        raise ValueError(f"{source.name}: resume = True needs run_name or the folder: which run is to be continued?")
    if out_dir is None:
        out_dir = new_run_folder(source, name, runs_root(root))
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    out_dir = Path(out_dir).resolve()
    return out_dir, dict(parameters) | ({"run_name": str(out_dir)} if "run_name" in known else {})


def _find_notebook(name_or_path: str | Path) -> Path:
    """A path that exists, or a name in notebooks/ with or without .ipynb; FileNotFoundError lists the names there."""
    folder = project_root() / "notebooks"
    for path in (Path(name_or_path), folder / name_or_path, folder / f"{name_or_path}.ipynb"):
        if path.is_file():
            return path.resolve()
    names = ", ".join(sorted(path.stem for path in folder.glob("*.ipynb"))) or "nothing yet"
    raise FileNotFoundError(
        f"no notebook {str(name_or_path)!r}: give a path to an .ipynb file, or a name in {folder}: {names}"
    )


def _stopped(source: Path, executed: Path, error: Exception) -> NotebookError:
    """Short account of a run that stopped: notebook, cell, exception, where the partly executed copy is."""
    if hasattr(error, "ename"):
        count, code, what = error.exec_count, error.source, f"{error.ename}: {error.evalue}"
    else:  # time limit or dead kernel: blame the last code cell that was started
        cells = [
            cell for cell in _read(executed).cells if cell.cell_type == "code" and cell.metadata.papermill.start_time
        ]
        count, code, what = len(cells), cells[-1].source, f"{type(error).__name__}: {error}".partition("\n")[0]
    line = next((line for line in code.splitlines() if line.strip() and not line.startswith("#")), "")
    return NotebookError(
        f"{source.name}, cell In [{count}] ({line:.80}) stopped with {what:.1500}\nExecuted so far: {executed}"
    )


def run_notebook(
    name_or_path: str | Path,
    parameters: Mapping[str, Any],
    out_dir: str | Path | None = None,
    kernel: str = "python3",
    timeout: int | None = None,
) -> RunResult:
    """Run a notebook with the given parameters; the working directory is the notebook's own folder.

    Writes executed.ipynb and report.html to out_dir, and so does the notebook with what it writes; without it to the
    folder that its run_name and runs_root say, or to a new one. Kernel "python3" means this interpreter, another name a
    registered kernel; `timeout` is seconds per cell. ValueError for an unknown or ill-typed parameter and for two
    folders before anything runs, FileNotFoundError for no such notebook, NotebookError when a cell raises, takes too
    long or kills its kernel. The executed copy of a notebook with a cell tagged PRIVATE keeps no path but the last part
    of each. What cells write to stderr, such as how far they are, is passed on as they run.
    """
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook

    source = _find_notebook(name_or_path)
    out_dir, parameters = _one_folder(source, _checked_parameters(parameters, source), out_dir)
    executed, start = out_dir / "executed.ipynb", time.monotonic()
    how = {"kernel_name": kernel, "kernel_manager_class": _Kernel, "execution_timeout": timeout}
    how |= {"progress_bar": False, "stderr_file": sys.stderr}
    try:
        execute_notebook(source, executed, parameters, cwd=source.parent, **how)
    except (PapermillExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise _stopped(source, executed, error) from None
    finally:
        if not any(out_dir.iterdir()):
            out_dir.rmdir()
    forget_progress(executed)
    if any(PRIVATE in cell.metadata.get("tags", []) for cell in _read(source).cells):
        share_notebook(executed, executed)
    return RunResult(executed, to_html(executed, out_dir / "report.html"), time.monotonic() - start)


def count_figures(notebook: str | Path) -> int:
    """Number of pictures among the outputs of a notebook file."""
    outputs = [output for cell in _read(notebook).cells for output in cell.get("outputs", [])]
    return sum(any(mime.startswith("image/") for mime in output.get("data", {})) for output in outputs)


def typed(text: str, default: Any) -> Any:
    """Command-line text as the type of the parameter's default, a list's items parted by commas; left as text when it
    cannot be, for the check to refuse."""
    try:
        return text if isinstance(default, str) else json.loads({"True": "true", "False": "false"}.get(text, text))
    except ValueError:
        return [item.strip() for item in text.split(",")] if isinstance(default, list) else text


def from_here(text: str, default) -> str:
    """A parameter as typed; the path of something that exists, as seen from the present folder, becomes absolute, since
    notebooks run in their own folder. A bare word is taken for a path only where the default is empty: "lite" names
    weights, whatever lies here."""
    path = Path(text).expanduser()
    looks_so = default == "" or path.suffix or len(path.parts) > 1
    return str(path.resolve()) if text and isinstance(default, str) and looks_so and path.exists() else text


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the runner; returns 0, or 2 after a short account of what went wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m retina_kp.notebook.report", description="Run a notebook and write its HTML report."
    )
    parser.add_argument("notebook", help="a name in notebooks/ or a path")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="one parameter")
    parser.add_argument("-f", metavar="FILE", help="YAML file of parameters; -p overrules it")
    parser.add_argument(
        "-o", metavar="FOLDER", help="where everything goes (default: outputs/runs/NOTEBOOK/RUN_NAME or the time)"
    )
    parser.add_argument("--timeout", type=int, metavar="SECONDS", help="limit per cell")
    options = parser.parse_args(argv)
    try:
        known = accepted_parameters(_find_notebook(options.notebook)) if options.p else {}
        given = import_module("papermill.iorw").read_yaml_file(options.f) if options.f else {}
        given |= {
            name: typed(text if name in WORDS else from_here(text, known.get(name, "")), known.get(name, ""))
            for name, text in options.p
        }
        result = run_notebook(options.notebook, given, options.o, timeout=options.timeout)
    except (OSError, ValueError, NotebookError) as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{result.html}\n{count_figures(result.executed)} figures, {result.seconds:.0f} s; executed copy: {result.executed}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
