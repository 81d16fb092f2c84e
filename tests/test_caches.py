"""What is kept in memory: within its bytes, the same when it comes back."""

import numpy as np
import pytest

from retina_kp.data.sources import ByteCache, pack, pack_gray, size_of, unpack, unpack_gray


def test_a_cache_stays_within_its_bytes_and_drops_what_was_not_used_for_longest():
    made, cache = [], ByteCache(3 * (100 + 64))

    def value(key):
        return cache.get(key, lambda: made.append(key) or bytes(100))

    for key in "abcabdab":  # c is the oldest when d comes; then all that is asked for is there
        assert value(key) == bytes(100) and cache.bytes <= cache.max_bytes
    assert made == list("abcd") and len(cache) == 3 and cache.bytes == 3 * 164
    value("c")
    assert made == list("abcdc")


def test_what_is_larger_than_the_cache_is_not_kept():
    cache = ByteCache(10)
    assert cache.get(1, lambda: bytes(100)) == bytes(100) and len(cache) == cache.bytes == 0


def test_sizes_count_every_array():
    assert size_of(([b"12", np.zeros(1000)], 3)) > 8000 and size_of(np.zeros((2, 3), np.uint16)) < 200
    assert size_of(np.zeros(1000)[:1]) > 8000  # a slice keeps the whole array alive


def test_layers_come_back_as_they_were():
    layers = np.random.default_rng(0).integers(0, 256, (4, 31, 47)).astype(np.uint8)
    layers[1:3] = 0
    packed = [pack(layer) for layer in layers]
    assert packed[1][0] == packed[2][0] == b"" and np.array_equal([unpack(*each) for each in packed], layers)


def test_masks_come_back_as_they_were():
    masks = np.random.default_rng(0).random((3, 1, 31, 47)) < 0.5
    back = unpack(*pack(masks))
    assert back.dtype == bool and np.array_equal(back, masks)


@pytest.mark.parametrize("white", [255, 65535])
def test_gray_levels_of_files_come_back_exactly(white):
    levels = np.arange(white + 1, dtype=np.float32) / np.float32(white)
    assert np.array_equal(unpack_gray(pack_gray(levels)), levels)


def test_other_gray_levels_come_back_within_16_bits():
    gray = np.random.default_rng(0).random(10000).astype(np.float32)
    back = unpack_gray(pack_gray(gray))
    assert back.dtype == np.float32 and np.abs(back - gray).max() < 1e-5 and back.min() >= 0 and back.max() <= 1
