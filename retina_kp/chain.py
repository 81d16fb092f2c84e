"""``make train``: the four training notebooks one after the other, each from the checkpoint of the one before it, with reports."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from .report import NotebookError, count_figures, notebook_parameters, project_root, run_notebook, typed
from .runs import NOTEBOOKS


def parameters_of(given: Mapping[str, Any], name: str, folders: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The parameters of each notebook: of the given ones those that it has, texts converted to its types; init_from goes to the first
    notebook only. ValueError for one that no notebook has."""
    taken = {"run_name": "--name", "resume": "--name", "data_root": "--generated or --real"}
    clash = next((key for key in given if key in taken), "")
    if clash:
        raise ValueError(f"{clash} belongs to one notebook; for all four give {taken[clash]}")
    known = {phase: notebook_parameters(project_root() / "notebooks" / f"{stem}.ipynb") for phase, stem in NOTEBOOKS.items()}
    unknown = sorted(set(given) - {key for has in known.values() for key in has})
    if unknown:
        raise ValueError(f"no training notebook has a parameter {unknown[0]!r}; see the third cell of notebooks/01_warmup.ipynb")
    chosen = {}
    for place, (phase, has) in enumerate(known.items()):
        own = {key: typed(value, has[key]) if isinstance(value, str) else value for key, value in given.items() if key in has}
        if place:
            own.pop("init_from", None)
        chosen[phase] = own | {"run_name": name, "resume": True} | ({"data_root": folders[phase]} if folders.get(phase) else {})
    return chosen


def run_all(name: str, given: Mapping[str, Any], folders: Mapping[str, str], tell=print) -> list[Path]:
    """Run the notebooks under one run name, which continues what is there already; returns the reports. folders: data_root by phase."""
    reports = []
    for phase, parameters in parameters_of(given, name, folders).items():
        result = run_notebook(NOTEBOOKS[phase], parameters)
        tell(f"{NOTEBOOKS[phase]}: {result.seconds:.0f} s, {count_figures(result.executed)} figures, {result.html}")
        reports.append(result.html)
    return reports


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or 2 after a short account of what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m retina_kp.chain", description="Train all four phases, each by its notebook.")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter, for notebooks that have it"
    )
    parser.add_argument("-f", metavar="FILE", help="YAML file of parameters, e.g. notebooks/params/full.yaml; -p overrules it")
    parser.add_argument("--generated", default="", metavar="FOLDER", help="aligned pairs for phases 1 to 3 (default: drawn)")
    parser.add_argument("--real", default="", metavar="FOLDER", help="pairs with point files for phase 4 (default: drawn)")
    parser.add_argument("--name", default="", help="run name; the same name again continues (default: the time)")
    options = parser.parse_args(argv)
    name = options.name or f"{datetime.now():train_%Y-%m-%d_%H%M%S}"
    folders = {phase: options.real if phase == "sim2real" else options.generated for phase in NOTEBOOKS}
    print(f"run {name}; to continue after an interruption: the same command with --name {name}", flush=True)
    if options.f and not options.real:
        print("phase 4 takes a few pseudo-real pairs, a rehearsal; name your own with --real FOLDER", flush=True)
    try:
        given = import_module("papermill.iorw").read_yaml_file(options.f) if options.f else {}
        run_all(name, given | dict(options.p), {phase: str(Path(folder).resolve()) for phase, folder in folders.items() if folder})
    except NotebookError as error:
        print(f"{error}\nTo continue: the same command with --name {name}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
