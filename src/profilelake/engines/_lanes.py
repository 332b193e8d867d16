"""Keys by which Spark's hash partitioning puts rows exactly where they are wanted.

Spark sends a row to `pmod(murmur3(key), partitions)`. Parts as keys would fall on each other: of as many
partitions as parts a third would be empty, and some have three or more. So each partition is given a key
that falls on it, found by trying. Only the balance depends on this, never the result.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

_SEED: Final = 42
_TRIED: Final = 1 << 16


def spark_hash(keys: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return Spark's hash of integers of 32 bits (murmur3, seed 42)."""
    with np.errstate(over="ignore"):
        k = keys.astype(np.uint32) * np.uint32(0xCC9E2D51)
        k = (k << np.uint32(15) | k >> np.uint32(17)) * np.uint32(0x1B873593)
        h = np.uint32(_SEED) ^ k
        h = (h << np.uint32(13) | h >> np.uint32(19)) * np.uint32(5) + np.uint32(0xE6546B64)
        h ^= np.uint32(4)
        h = (h ^ h >> np.uint32(16)) * np.uint32(0x85EBCA6B)
        h = (h ^ h >> np.uint32(13)) * np.uint32(0xC2B2AE35)
        h ^= h >> np.uint32(16)
    return h.view(np.int32)


def lanes(parts: int, partitions: int) -> npt.NDArray[np.int32]:
    """Return the key of each part: neighbours share a partition, and each has as many of them as the next."""
    keys = np.full(partitions, -1, np.int32)
    begin = 0
    while (keys < 0).any():
        tried = np.arange(begin, begin + _TRIED, dtype=np.int32)
        # The first key that falls on a partition is taken, hence written last.
        keys_found = np.full(partitions, -1, np.int32)
        keys_found[np.mod(spark_hash(tried[::-1]), partitions)] = tried[::-1]
        keys = np.where(keys < 0, keys_found, keys)
        begin += _TRIED
    return keys[np.arange(parts, dtype=np.int64) * partitions // parts]
