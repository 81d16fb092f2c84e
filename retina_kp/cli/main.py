"""The command ``retina-kp``. What a command needs is imported when it runs: ``--help`` and one pair should not wait."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

import click

from .commands import SETTINGS, Command, Commands


@click.group(cls=Commands, context_settings=SETTINGS)
@click.version_option(package_name="retina-kp")
def cli() -> None:
    """Register retinal images across modalities (colour fundus, FA, OCT, OCTA).

    Start with `retina-kp register fundus.png angiogram.png -o out`: it writes the registered image, the matrix and a
    page to look at. Exit codes: 0 done, 1 refused or nothing usable, 2 bad input.
    """


# ------------------------------------------------------------------ register


@cli.command()
@click.option("--picture", type=click.Path(), help="Only draw the README's picture, into this file.")
def demo(picture: str | None) -> None:
    """Register sample pairs on the CPU and write an HTML report."""
    from ..notebook.demo import draw_overview, run_demo

    draw_overview(picture) if picture else run_demo(click.echo)


@cli.command()
@click.argument("fixed", type=click.Path())
@click.argument("moving", type=click.Path())
@click.option("-o", "--out", default="out", show_default=True, type=click.Path(), help="Folder for the files.")
@click.option(
    "--model", default="auto", show_default=True, help="Or elastic, similarity, affine, homography, quadratic."
)
@click.option("--weights", default="lite", show_default=True, help="A shipped name or a checkpoint.")
@click.option("--device", default="auto", show_default=True, help="Or cpu, cuda, cuda:1.")
@click.option("--points", type=click.Path(), help="Places to begin with: rows x0 y0 x1 y1, px in FIXED and in MOVING.")
@click.option("--points-alone", is_flag=True, help="Fit the points and look at no image.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as JSON.")
def register(fixed: str, moving: str, out: str, as_json: bool, **options) -> None:
    """Register one pair: image MOVING into the frame of image FIXED.

    Writes registered.png, overlay.png, result.json, result.tfm (ITK), result_transformation.txt (3 x 3, moving pixel to
    fixed pixel) and report.html. A refused pair has only result.json and report.html, and exit code 1; points may help.
    """
    from ..core.files import to_plain
    from .pair import register_pair, told

    result, files = register_pair(fixed, moving, out, **options)
    if as_json:
        click.echo(json.dumps(to_plain(result.to_dict(), lambda not_finite: None)))
    else:
        click.echo(told(result))
        click.echo("".join(f"  {path}\n" for path in files), nl=False)
    if not result.ok:
        raise click.exceptions.Exit(1)


@cli.command()
@click.argument("result", type=click.Path())
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option("--to", type=click.Choice(["fixed", "moving"]), default="fixed", show_default=True, help="Whose frame.")
@click.option("--mask", is_flag=True, help="Take the nearest pixel, so that labels keep their values.")
@click.option(
    "-o", "--out", type=click.Path(), help="File to write, or of several their folder; default: beside RESULT."
)
def apply(result: str, files: tuple[str, ...], to: str, mask: bool, out: str | None) -> None:
    """Carry images, masks, points, boxes or polygons by a saved result.

    RESULT is a result.json, or its folder. A FILE is an image of the size of the other frame, or holds places in pixels:
    a .txt or .csv with x y or x0 y0 x1 y1 in each row or in columns of these names, or a .json with "points", "boxes",
    "polygons", or a GeoJSON. A box becomes the upright box around what it holds.
    """
    from .carry import carry_files

    for line in carry_files(result, files, to, mask, out):
        click.echo(line)


# ------------------------------------------------------------------ your data


@cli.command()
@click.argument("folder", type=click.Path())
@click.option("--layout", default="auto", show_default=True, help="A name out of data/README.md.")
@click.option("--all", "everything", is_flag=True, help="Name every problem, not only the first 20.")
def inspect(folder: str, layout: str, everything: bool) -> None:
    """Say what a folder holds: layout, pairs, truth, problems."""
    import pandas as pd

    from ..core.files import in_project
    from ..data.layouts import detect_layout, load_layout

    root = in_project(folder)
    found = load_layout(root, layout)
    click.echo(f"{root}: layout {detect_layout(root) if layout == 'auto' else layout}")
    if found.records:
        click.echo(pd.DataFrame(found.summary()).to_string(index=False))
        splits = pd.Series([record.split or "none" for record in found.records]).value_counts()
        click.echo("split: " + ", ".join(f"{name} {count}" for name, count in splits.items()))
    click.echo(f"problems: {len(found.problems)}")
    shown = found.problems if everything else found.problems[:20]
    click.echo("".join(f"  {problem}\n" for problem in shown), nl=False)
    if len(shown) < len(found.problems):
        click.echo(f"  … and {len(found.problems) - len(shown)} more; --all names them")
    if not found.records:
        raise click.exceptions.Exit(1)


def notebook_options(command):
    """The options of a command that runs a notebook."""
    for option in (
        click.option("--timeout", type=int, metavar="SECONDS", help="Limit per cell."),
        click.option(
            "-o", "out", metavar="FOLDER", help="Where all goes; default: outputs/runs/NOTEBOOK/NAME or time."
        ),
        click.option("-f", "file", metavar="FILE", help="YAML file of parameters, or its name in notebooks/params."),
        click.option("-p", "given", nargs=2, multiple=True, metavar="NAME VALUE", help="One parameter; overrules -f."),
    ):
        command = option(command)
    return command


@cli.command()
@click.argument("folder")
@notebook_options
@click.pass_context
def evaluate(context: click.Context, folder: str, given, **options) -> None:
    """Measure registration on your pairs, beside other methods.

    Runs notebook 06; its parameters go after -p, such as -p baselines SIFT+MAGSAC -p hide_names true.
    """
    from ..core.files import in_project

    root = in_project(folder).resolve()
    if not root.exists():
        raise ValueError(f"{root}: no such file or folder")
    context.invoke(report, notebook="06_real_evaluation", given=(("root", str(root)), *given), **options)


# ------------------------------------------------------------------ commands that stand beside what they do


def defined_in(module: str, name: str, about: str) -> None:
    """Add a command that a module of the package defines under this name; it is loaded when it runs."""

    def run(arguments: tuple[str, ...]) -> None:
        command = getattr(import_module(module, __package__), name.replace("-", "_"))
        sys.exit(command.main(arguments, f"retina-kp {name}", standalone_mode=False, **SETTINGS))

    arguments = click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)
    settings = {"ignore_unknown_options": True, "help_option_names": []}
    cli.add_command(Command(name, callback=run, params=[arguments], help=about, context_settings=settings))


defined_in(".series", "register-series", "Register several images of one eye: visits, or fields of a mosaic.")
defined_in("..notebook.chain", "finetune", "Train on from the shipped weights with your own pairs.")
defined_in("..evaluation.calibration", "calibrate", "Fit the confidence of new weights, once after training.")
defined_in("..notebook.chain", "train", "Train a network of your own in four phases.")
defined_in("..evaluation.benchmark", "benchmark", "Measure success and time on synthetic pairs.")


# ------------------------------------------------------------------ notebooks


@cli.command()
@click.argument("notebook")
@click.option(
    "--pair-by", type=click.Choice(["name", "order"]), help="How 07 pairs two folders; default: name. The same as -p."
)
@notebook_options
def report(notebook: str, pair_by: str | None, given, file: str | None, out: str | None, timeout: int | None) -> None:
    """Run a notebook and write its HTML report.

    NOTEBOOK is a name in notebooks/, such as 07_register or 7, or a path. Exit code 1: 07 has registered no pair.
    """
    from ..core.files import read_json
    from ..notebook import report as runner

    if pair_by:
        given = (*given, ("pair_by", pair_by))
    result = runner.run_notebook(notebook, runner.read_parameters(notebook, given, file), out, timeout=timeout)
    figures = runner.count_figures(result.executed)
    click.echo(f"{result.html}\n{figures} figures, {result.seconds:.0f} s; executed copy: {result.executed}")
    metrics = result.html.with_name("metrics.json")
    if metrics.is_file() and read_json(metrics).get("registered") == 0:
        click.echo("no pair was registered: the report says why", err=True)
        raise click.exceptions.Exit(1)


@cli.command()
def lab() -> None:
    """Open the notebooks in JupyterLab.

    Outside a clone these are copies in ./notebooks; those that are there already stay as they are.
    """
    import shutil
    import subprocess

    from ..core.files import PROJECT, notebooks_folder, project_root

    source, folder = notebooks_folder(), project_root() / "notebooks"
    for path in source.rglob("*.*"):
        copy = folder / path.relative_to(source)
        if path.suffix in (".ipynb", ".yaml") and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    environment = os.environ | {PROJECT: str(project_root())}
    sys.exit(subprocess.run([sys.executable, "-m", "jupyterlab"], cwd=folder, env=environment).returncode)
