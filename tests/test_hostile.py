"""Short versions of the campaign of damaged files and of the random kills."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retina_kp.core.files import held

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
