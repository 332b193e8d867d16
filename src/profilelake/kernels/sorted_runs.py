"""Exact look-up of 128-bit keys in sorted runs, with a bloom filter in front of each run.

A key is two uint64 words. A run is sorted by the first word (then the second). The filter is
register-blocked: the six bits of a key lie in one 64-bit word, so a miss costs one memory access.
"""

from typing import Final

import numba
import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

BLOOM_KEYS_PER_WORD: Final = 5
"""About 13 bits a key: near one false hit in a thousand, and a false hit costs one binary search."""
_BITS: Final = 6


@numba.njit("void(uint64[::1], uint64[::1])", cache=True, nogil=True)
def _bloom_add(bloom: Words, first: Words) -> None:
    mask = np.uint64(bloom.size - 1)
    for row in range(first.size):
        key = first[row]
        word = np.uint64(0)
        bits = key >> np.uint64(28)
        for _ in range(6):
            word |= np.uint64(1) << (bits & np.uint64(63))
            bits >>= np.uint64(6)
        bloom[np.int64(key & mask)] |= word


@numba.njit(
    "void(uint64[::1], uint64[::1], uint64[::1], uint64[::1], uint64[::1], int64[::1])",
    cache=True,
    nogil=True,
)
def _probe(
    bloom: Words, first: Words, second: Words, want_first: Words, want_second: Words, found: Rows
) -> None:
    mask = np.uint64(bloom.size - 1)
    for row in range(want_first.size):
        if found[row] >= 0:
            continue
        key = want_first[row]
        bits = key >> np.uint64(28)
        word = np.uint64(0)
        for _ in range(6):
            word |= np.uint64(1) << (bits & np.uint64(63))
            bits >>= np.uint64(6)
        if bloom[np.int64(key & mask)] & word != word:
            continue
        low, high = 0, first.size
        while low < high:
            middle = (low + high) >> 1
            if first[middle] < key:
                low = middle + 1
            else:
                high = middle
        while low < first.size and first[low] == key:
            if second[low] == want_second[row]:
                found[row] = low
                break
            low += 1


def bloom_of(first: Words) -> Words:
    """Return the filter over the first words of a run's keys."""
    words = 64
    while words * BLOOM_KEYS_PER_WORD < first.size:
        words *= 2
    bloom = np.zeros(words, dtype=np.uint64)
    _bloom_add(bloom, np.ascontiguousarray(first))
    return bloom


def probe(bloom: Words, first: Words, second: Words, want_first: Words, want_second: Words) -> Rows:
    """Return for each wanted key its row in the run, -1 where the run does not hold it."""
    found = np.full(want_first.size, -1, dtype=np.int64)
    _probe(bloom, first, second, want_first, want_second, found)
    return found
