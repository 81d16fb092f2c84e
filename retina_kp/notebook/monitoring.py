"""Watching a run: callbacks for `Trainer.fit(on_epoch)`, each called with the whole history after every epoch."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

OnEpoch = Callable[[list[dict]], None]
# What one line tells, in this order, where the history has it.
SHORT = {
    "total": "loss",
    "gt_matched_right": "oracle",
    "det_success": "registered",
    "repeatability": "repeatability",
    "pke_promoted": "promoted",
    "replay_det_success": "replay registered",
}


def combine(*callbacks: OnEpoch) -> OnEpoch:
    """One callback that calls several, in order."""

    def on_epoch(history: list[dict]) -> None:
        for callback in callbacks:
            callback(history)

    return on_epoch


def live_figure(losses: Sequence[str] = ()) -> OnEpoch:
    """`plot_run` as one picture that is replaced in place: live in JupyterLab, and a single final figure in a notebook
    that papermill, nbconvert or nbval has executed. Outside of notebooks nothing is drawn. losses: which ones to
    plot."""
    shown = None

    def on_epoch(history: list[dict]) -> None:
        nonlocal shown
        if not _in_notebook() or not history:
            return
        from IPython.display import display

        if shown is None:
            shown = display(_picture(history, losses), display_id=True)
        else:
            shown.update(_picture(history, losses))

    return on_epoch


def lines(write: Callable[[str], None] = print) -> OnEpoch:
    """One short line per epoch, for logs and executed notebooks."""

    def on_epoch(history: list[dict]) -> None:
        write(in_short(history[-1]))

    return on_epoch


def tensorboard(run_dir: str | Path) -> OnEpoch:
    """Scalars of each epoch and the pictures of run_dir/figures, written to run_dir/tensorboard. ImportError says what
    to install."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            'TensorBoard is not installed: pip install "retina_kp[tensorboard]", or set tensorboard = False'
        ) from error
    from ..core.images import read_image

    writer, figures = SummaryWriter(str(Path(run_dir) / "tensorboard")), Path(run_dir) / "figures"

    def on_epoch(history: list[dict]) -> None:
        row = history[-1]
        for name, value in row.items():
            if name != "epoch" and math.isfinite(value):
                writer.add_scalar(_scalar_name(name), value, row["epoch"])
        for path in sorted(figures.glob("*.png")):
            writer.add_image(path.stem, read_image(path), row["epoch"], dataformats="HWC")
        writer.flush()

    return on_epoch


def in_short(row: Mapping[str, float]) -> str:
    """The figures of an epoch that matter most, in one line."""
    told = [f"{name} {row[key]:.3g}" for key, name in SHORT.items() if math.isfinite(row.get(key, math.nan))]
    return " · ".join([f"epoch {row['epoch']:>3}", *told])


def _scalar_name(column: str) -> str:
    """TensorBoard groups by what stands before the slash."""
    for prefix, group in (
        ("loss_", "loss"),
        ("pke_", "pke"),
        ("replay_", "validation on replay"),
        ("gt_", "validation"),
        ("det_", "validation"),
    ):
        if column.startswith(prefix):
            return f"{group}/{column}"
    if column == "total":
        return "loss/total"
    return (
        f"validation/{column}"
        if column in ("repeatability", "matching_score", "inlier_rate", "points0", "points1")
        else f"run/{column}"
    )


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def _picture(history: Sequence[Mapping], losses: Sequence[str]):
    """The figure as finished PNG: a live one would be drawn a second time by the notebook at the cell's end."""
    import matplotlib.pyplot as plt
    from IPython.display import Image

    from ..viz.history import plot_run

    figure, png = plot_run(history, losses), io.BytesIO()
    figure.savefig(png, format="png", dpi=90)
    plt.close(figure)
    return Image(png.getvalue(), format="png")
