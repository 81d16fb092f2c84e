"""What "Extend it in 30 lines" says works: each section is carried out in a copy of the package, and used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "retina_kp"
USES = {
    "network": """
        import torch
        from retina_kp import build_network
        from retina_kp.networks.checkpoints import load_network, save_network
        from retina_kp.notebook.runs import Settings, training_config
        out = build_network("tiny")(torch.rand(2, 1, 64, 80))
        assert out.detector.shape == (2, 1, 64, 80) and out.descriptors.shape == (2, 32, 8, 10)
        save_network("w.safetensors", build_network("tiny", width=16))
        network, about = load_network("w.safetensors")
        assert about["network"] == network.name == "tiny" and network.options == {"width": 16}
        assert training_config("warmup", Settings(network="tiny")).network == "tiny"
    """,
    "loss": """
        from dataclasses import replace
        from retina_kp import Trainer
        from retina_kp.training.config import get_recipe, sized
        config = get_recipe("try")["pke"]
        small = replace(sized(config.data, 96), annotated_share=1.0)
        trainer = Trainer(replace(config, batch_size=2, pool_size=2, validation_pairs=0, data=small), "run")
        row = trainer.step()
        assert 0 < row["loss_sharp"] < 0.25 and [one.name for one in config.losses][-1] == "loss_sharp"
    """,
    "layout": """
        from pathlib import Path
        from retina_kp import draw_pair, PairOptions
        from retina_kp.core.images import write_image
        from retina_kp.data.layouts import detect_layout, load_layout
        pair = draw_pair(1, 0, options=PairOptions(size_px=64, min_overlap=0.1))
        for name in ("a_cf", "a_fa", "b_cf"):
            write_image(f"mine/{name}.png", pair.fixed)
        found = load_layout("mine")
        assert detect_layout(Path("mine")) == "side_by_side" and [r.pair_id for r in found.records] == ["a"]
        assert [p.reason for p in found.problems] == ["no b_fa.png beside it"]
    """,
    "baseline": """
        import numpy as np
        from retina_kp.evaluation.methods import choose_baselines
        from retina_kp.evaluation.pairs import SyntheticPair
        from retina_kp.evaluation.runner import measure
        from retina_kp import PairOptions
        methods, missing = choose_baselines(["ORB"])
        easy = PairOptions(size_px=256, rotation_deg=2, scale=(1, 1), min_overlap=0.9)
        rows = measure([SyntheticPair(3, 0, "FA", easy)], methods)
        assert not missing and rows.method.tolist() == ["ORB"] and not rows.status[0].startswith("error")
    """,
    "metric": """
        import pandas as pd
        from retina_kp.evaluation.documents import TABLES
        from retina_kp.evaluation.summary import summarise
        rows = pd.DataFrame({"method": "x", "pair": ["a", "b"], "eye": ["a", "b"], "kind": "CF-FA", "mean_px": [1.0, 9.0],
                             "max_px": [3.0, 30.0], "median_px": [1.0, 8.0], "outcome": "acceptable", "confidence": 1.0,
                             "seconds": 1.0, "inlier_rate": 1.0, "stress": "as taken"})
        rows["factors"] = [{}, {}]
        assert summarise(rows, ["method"]).worst_10px[0] == 0.5
        assert any("within 10 px" in str(text) for table in TABLES.values() for text in table.values())
    """,
}


def carry_out(section: str, package: Path) -> None:
    """Write the files of a section, and change the lines that it says: a diff's lines without + are there already."""
    for kind, block in re.findall(r"```(python|diff)\n(.*?)```", section, re.S):
        if kind == "python":
            path = package / re.match(r"# (\S+)\n", block)[1]
            assert not path.exists()
            path.write_text(block, encoding="utf-8")
            continue
        name, _, lines = block.partition("\n")
        path = package / name.strip()
        text = path.read_text(encoding="utf-8")
        for hunk in re.findall(r"(?:^(?:[ ][^\n]*|[-][^\n]*)\n)?(?:^[+][^\n]*\n|^\+\n)+(?:^[ ][^\n]*\n)?", lines, re.M):
            kept = [line for line in hunk.splitlines() if not line.startswith("+")]
            old = "\n".join(line[1:] for line in kept)
            new = "\n".join(line[1:] for line in hunk.splitlines() if not line.startswith("-"))
            assert text.count(old) == 1, f"{path.name} has no single {old!r}"
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", USES)
def test_a_section_does_what_it_says(name, tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "retina_kp", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PACKAGE.parent / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"<!-- extend: {name} -->\n(.*?)<!-- /extend: {name} -->", text, re.S)[1]
    assert sum(line.startswith(("+", " ")) or bool(line) for line in section.splitlines()) <= 60
    carry_out(section, tmp_path / "retina_kp")
    use = "\n".join(line.removeprefix(" " * 8) for line in USES[name].splitlines())
    env = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", use], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
