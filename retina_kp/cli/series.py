"""``retina-kp register-series``: several images of one eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ..core.images import as_array
from ..data.layouts.files import images_in
from ..registration.registrar import Registrar
from ..series import register
from ..series.agreement import Series
from ..series.files import write_series


def register_files(
    images: Sequence[str],
    folder: str,
    reference: str = "",
    weights: str = "lite",
    device: str = "auto",
    model: str = "auto",
) -> Series:
    """Register image files, or those of one folder, and write into a folder what `write_series` does.

    ImageError, ValueError or OSError for what cannot be used.
    """
    files = [Path(image).expanduser() for image in images]
    if len(files) == 1 and files[0].is_dir():
        files = list(images_in(files[0]).values())
    pictures, names = [as_array(file) for file in files], [file.stem for file in files]
    registrar = Registrar.from_pretrained(weights, device=device, model=model)
    reference = reference if reference in names else Path(reference).stem
    series = register.register_series(registrar, pictures, names, reference)
    write_series(series, pictures, folder)
    return series


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--out", default="out", show_default=True, type=click.Path(), help="Folder for the files.")
@click.option("--reference", default="", help="Image in whose frame all are wanted; default: the best linked.")
@click.option("--model", default="auto", show_default=True, help="Or affine, where no map shall bend.")
@click.option("--weights", default="lite", show_default=True, help="A shipped name or a checkpoint.")
@click.option("--device", default="auto", show_default=True, help="Or cpu, cuda, cuda:1.")
def register_series(images: tuple[str, ...], out: str, **options) -> None:
    """Register several images of one eye: visits, or fields of a mosaic.

    Every IMAGE (or those of one folder) is registered to every other; then all are brought to one of them so that loops
    close. Writes mosaic.png, series.json and a folder for each image, with its result.json and registered.png. Exit
    code 1: an image is not connected to the reference.
    """
    found = register_files(images, out, **options)
    for row in found.rows():
        drift = "" if "drift_px" not in row else f", {row['pairs']} pairs, drift of the chain {row['drift_px']:.1f} px"
        click.echo(f"{row['image']}: {row['status']}{drift}")
    click.echo(f"  {Path(out) / 'mosaic.png'}")
    if not all(result.ok for result in found.results):
        raise click.exceptions.Exit(1)
