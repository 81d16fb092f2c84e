"""Short versions of the campaign of damaged files and of the random kills; disks that are full, and closed folders."""

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from retina_kp.core.files import held, write_csv
from retina_kp.core.images import write_image
from retina_kp.mapping.result import Registration
from retina_kp.networks import build_network
from retina_kp.networks.checkpoints import save_network
from retina_kp.training.processes import write_state

resource = pytest.importorskip("resource", reason="limits of processes need Unix")
ROOT = Path(__file__).resolve().parents[1]
fork = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="the tools need fork and /proc")


def tool(*words: str) -> subprocess.CompletedProcess:
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", *words], cwd=ROOT, env=env, capture_output=True, text=True)


@fork
def test_damaged_files_are_told_or_right():
    done = tool("tests.campaign", "--cases", "35", "--seed", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout and "told" in done.stdout and "right" in done.stdout


@fork
def test_killed_runs_leave_whole_files_and_end_as_if_nothing_had_been():
    done = tool(
        "tests.kills", "--kills", "6", "--seed", "3", "--kinds", "training", "table of trials", "folder of pairs"
    )
    assert done.returncode == 0, done.stdout + done.stderr


@fork
def test_a_second_run_at_one_place_says_so(tmp_path):
    """Also in another process; who has died, or is done, has let go."""
    code = "import sys; from retina_kp.core.files import held\nwith held(sys.argv[1]): print('in')"
    other = [sys.executable, "-c", code, str(tmp_path)]
    with held(tmp_path):
        refused = subprocess.run(other, cwd=ROOT, capture_output=True, text=True)
        with pytest.raises(ValueError, match="another run is at work here"), held(tmp_path):
            pass
    assert "another run is at work here; wait for its end" in refused.stderr and not refused.stdout
    assert subprocess.run(other, cwd=ROOT, capture_output=True, text=True).stdout == "in\n"


# ------------------------------------------------------------------ a disk that is full, a folder that is read-only

PICTURE = np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8)
RESULT = Registration(
    "ok", np.eye(3), 1.0, np.ones((4000, 2)) / 3, np.ones((4000, 2)) / 7, np.ones(4000, bool), (300, 300), (300, 300)
)
WRITERS = {
    "a.png": lambda path: write_image(path, PICTURE),
    "a.json": RESULT.save,
    "a.csv": lambda path: write_csv(path, [{"pair": "p" * 99}] * 999),
    "a.safetensors": lambda path: save_network(path, build_network("lite")),
    "a.pt": lambda path: write_state(path, {"weights": torch.zeros(99999)}),
}


@contextmanager
def full_disk():
    """No file may grow beyond 20 kB, as on a disk that has no more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only(folder):
    """Without rights to write there, which root would have anyway."""
    folder.chmod(0o555)
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_what_cannot_be_written_is_told_with_its_path(name, trouble):
    with tempfile.TemporaryDirectory() as place:  # pytest's own is closed to others than its user
        folder = Path(place) / "run"
        folder.mkdir()
        Path(place).chmod(0o755)
        (folder / name).write_text("of before", encoding="utf-8")
        with full_disk() if trouble == "full" else read_only(folder), pytest.raises(OSError) as told:
            WRITERS[name](folder / name)
        assert str(folder / name) in str(told.value)
        assert [path.name for path in folder.iterdir()] == [name]
        assert (folder / name).read_text(encoding="utf-8") == "of before"
