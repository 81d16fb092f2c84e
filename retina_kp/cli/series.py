"""Register several images of one eye to one of them, and write what people want of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click

from ..core.files import write_json
from ..core.images import as_array, write_image
from ..data.layouts.files import images_in
from ..registration.registrar import Registrar
from ..registration.saving import saved_files
from ..series import register
from ..series.agreement import Series
from ..series.mosaic import mosaic


def register_files(
    images: Sequence[str],
    folder: str,
    reference: str = "",
    weights: str = "lite",
    device: str = "auto",
    model: str = "auto",
) -> Series:
    """Register image files, or those of one folder, and write into a folder a mosaic, series.json, and for every image
    a folder of its name with its result and, where it was placed, itself in the reference's frame.

    ImageError, ValueError or OSError for what cannot be used.
    """
    files = [Path(image).expanduser() for image in images]
    if len(files) == 1 and files[0].is_dir():
        files = list(images_in(files[0]).values())
    reference, out = Path(reference).stem if Path(reference).suffix else reference, Path(folder).expanduser()
    pictures = [as_array(file) for file in files]
    registrar = Registrar.from_pretrained(weights, device=device, model=model)
    series = register.register_series(registrar, pictures, [file.stem for file in files], reference)
    write_series(series, pictures, out)
    return series


def write_series(series: Series, images: Sequence, out: Path) -> None:
    """The files of `register_files`, in place of those of an earlier run."""
    for name, image, result in zip(series.names, images, series.results, strict=True):
        own = out / re.sub(r"[^\w.+ -]+", "_", name)
        for old in (*saved_files(own / "result.json"), own / "registered.png"):
            old.unlink(missing_ok=True)
        result.save(own / "result.json")
        if result.ok:
            write_image(own / "registered.png", result.warp(image))
    whole = mosaic(series, images)
    write_image(out / "mosaic.png", whole.picture)
    pairs = [
        {"fixed": series.names[i], "moving": series.names[j], "status": found.status, "confidence": found.confidence}
        | {"misfit_px": series.misfit_px.get((i, j))}
        for (i, j), found in series.pairs.items()
    ]
    told = {
        "reference": series.names[series.reference],
        "images": series.rows(),
        "pairs": pairs,
        "loops": series.loops(),
    }
    where = {"scale": whole.scale, "shift_xy": whole.shift_xy, "convention": "reference px times scale, less shift_xy"}
    write_json(out / "series.json", told | {"mosaic": where})


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
