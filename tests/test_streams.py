"""Worker processes that prepare batches: what runs in them, and what comes out of them."""

import cv2
import numpy as np
import pytest
import torch

from retina_kp.core.images import ImageError
from retina_kp.data.sources import stream


class Telling:
    """A source whose batches tell of the process that made them."""

    def batch(self, index: int, batch_size: int, strength: float) -> dict:
        cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (0, 0), 5)  # runs on threads where there are several
        threads = [cv2.getNumThreads(), torch.get_num_threads()]
        return {"index": index, "threads": threads, "modalities": [("CF", "FA")] * batch_size}


class Broken:
    """A source that fails at batch 1."""

    def batch(self, index: int, batch_size: int, strength: float) -> dict:
        if index == 1:
            raise ImageError("eye 7, cf.png: the file is empty")
        return {"modalities": []}


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_worker_has_one_thread_and_the_main_process_keeps_its_own(threads):
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (0, 0), 5)  # threads that a forked worker does not have
    batches = list(stream(Telling(), [0, 1, 2], 2, [1.0] * 3, workers=2))
    kept = cv2.getNumThreads()
    cv2.setNumThreads(before)
    assert kept == threads and [b["threads"] for b in batches] == [[1, 1]] * 3
    assert [b["index"] for b in batches] == [0, 1, 2] and batches[0]["modalities"] == [("CF", "FA")] * 2


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_arrives_with_its_message(workers):
    batches = stream(Broken(), [0, 1], 1, [1.0] * 2, workers)
    next(batches)
    with pytest.raises(ImageError, match="eye 7, cf.png: the file is empty"):
        next(batches)
