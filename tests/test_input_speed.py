"""The command that measures how fast training pairs are prepared."""

from contextlib import nullcontext
from types import SimpleNamespace

import cv2
import pytest
import torch

from retina_kp.core.compute import worker_pool
from retina_kp.studies import input_speed
from retina_kp.studies.input_speed import count_cost, main
from retina_kp.synthetic.training_pairs import SyntheticOptions, SyntheticPairs


def test_every_source_has_a_row(capsys, monkeypatch):
    threads = torch.get_num_threads(), cv2.getNumThreads()
    here = SimpleNamespace(submit=lambda call, *given: SimpleNamespace(result=lambda: call(*given)))
    monkeypatch.setattr(input_speed, "worker_pool", lambda count: nullcontext(here))  # without a new process each
    main(["--size", "64", "--batch", "2", "--batches", "1", "--workers", "0"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["synthetic", "files", "mix"] and "steps/s, 0 workers" in head
    assert all(float(number) > 0 for row in rows for number in row.split()[1:-1])
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


def test_a_source_tells_its_cost_from_a_process_of_its_own():
    with worker_pool(1) as pool:
        cost = pool.submit(count_cost, SyntheticPairs(0, 4, SyntheticOptions(size_px=64)), 2, 2).result()
    assert cost["later"] > 0 and cost["first"] > 0 and cost["memory_mb"] > 0  # which is less is for the command to tell


def test_a_folder_that_is_not_there_is_named(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["--root", str(tmp_path / "nowhere"), "--workers", "0"])
    assert "nowhere" in capsys.readouterr().err
