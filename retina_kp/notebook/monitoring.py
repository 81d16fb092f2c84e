"""Watching a run: callbacks for `Trainer.fit(on_epoch)`, each called with the whole history after every epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..core.images import read_image
from ..viz.curves import plot_run
from ..viz.pictures import as_png

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
# TensorBoard groups by what stands before the slash: by the first beginning that fits
GROUPS = {"loss_": "loss", "total": "loss", "pke_": "pke", "replay_": "validation on replay"}
GROUPS |= dict.fromkeys(
    ("gt_", "det_", "repeatability", "matching_score", "inlier_rate", "points0", "points1"), "validation"
)


def live_figure(losses: Sequence[str] = ()) -> OnEpoch:
    """`plot_run` as one picture that is replaced in place, a single figure in an executed notebook. Outside of
    notebooks nothing is drawn."""
    shown = None

    def on_epoch(history: list[dict]) -> None:
        nonlocal shown
        if not _in_notebook() or not history:
            return
        from IPython.display import display

        # Finished: a live figure would be drawn a second time by the notebook at the cell's end
        picture = as_png(plot_run(history, losses), "curves of the run", 90)
        if shown is None:
            shown = display(picture, display_id=True)
        else:
            shown.update(picture)

    return on_epoch


def tensorboard(run_dir: str | Path) -> OnEpoch:
    """Scalars of each epoch and the pictures of run_dir/figures, written to run_dir/tensorboard. ImportError says what
    to install."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        words = 'TensorBoard is not installed: pip install "retina_kp[tensorboard]", or set tensorboard = False'
        raise ImportError(words) from error
    writer, figures = SummaryWriter(str(Path(run_dir) / "tensorboard")), Path(run_dir) / "figures"

    def on_epoch(history: list[dict]) -> None:
        row = history[-1]
        for name, value in row.items():
            if name != "epoch" and math.isfinite(value):
                group = next((group for start, group in GROUPS.items() if name.startswith(start)), "run")
                writer.add_scalar(f"{group}/{name}", value, row["epoch"])
        for path in sorted(figures.glob("*.png")):
            writer.add_image(path.stem, read_image(path), row["epoch"], dataformats="HWC")
        writer.flush()

    return on_epoch


def in_short(row: Mapping[str, float]) -> str:
    """The metrics of an epoch that matter most, in one line, for logs and executed notebooks."""
    told = [f"{name} {row[key]:.3g}" for key, name in SHORT.items() if math.isfinite(row.get(key, math.nan))]
    return " · ".join([f"epoch {row['epoch']:>3}", *told])


def _in_notebook() -> bool:
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")
