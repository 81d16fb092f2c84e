"""Synthetic eyes measured beside real anatomy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .vasculature import ARTERY, BIFURCATION, VEIN, Retina

# What is measured → what is known of real eyes, with its source
REAL = {
    "fovea to disc centre, °": "15.5 ± 1.1 (Rohrschneider 2004)",
    "optic disc, diameter, °": "6.0 to 6.4: 1.75 × 1.86 mm (Kolb et al., Webvision)",
    "avascular zone of the fovea, diameter, °": "about 1.7: 0.5 mm (AAO, Basic and Clinical Science Course)",
    "widest vein, °": "",
    "artery over vein, width": "about 0.85 (Hubbard et al. 1999, six largest of each)",
    "bifurcations": "",
    "crossings": "",
}


def measure_anatomy(retinas: Sequence[Retina]) -> pd.DataFrame:
    """One row per fact: mean, lowest and highest of these retinas, and what is known of real eyes."""
    values = pd.DataFrame([_facts(retina) for retina in retinas])
    table = values.agg(["mean", "min", "max"]).T.round(2)
    return table.assign(real=[REAL[name] for name in table.index]).reset_index(names="what")


def _facts(retina: Retina) -> dict[str, float]:
    widest = {kind: np.percentile(retina.segment_width_deg[retina.segment_kind == kind], 99) for kind in (ARTERY, VEIN)}
    forks = int((retina.junction_kind == BIFURCATION).sum())
    return dict(
        zip(
            REAL,
            (
                np.linalg.norm(retina.disc_xy),
                2 * retina.disc_radius_deg,
                2 * retina.foveal_zone_deg,
                widest[VEIN],
                widest[ARTERY] / widest[VEIN],
                forks,
                len(retina.junction_kind) - forks,
            ),
            strict=True,
        )
    )
