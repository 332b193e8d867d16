"""Base62 text of 128-bit ids; `semantics.identifiers.public_id` says what it is, digit by digit."""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from profilelake.kernels._compiled import compiled, read_only

Bytes: TypeAlias = npt.NDArray[np.uint8]

ID_BYTES: Final = 16
DIGITS: Final = 27
_LIMBS: Final = ID_BYTES // 4
_AT_ONCE: Final = 5
"""Digits of one long division: 62^5 leaves a remainder that fits beside the next 32 bits."""
_ALPHABET: Final = read_only(
    np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", dtype=np.uint8), np.uint8
)
_NO_DIGIT: Final = 255


def _places() -> Bytes:
    """Return for each byte the digit that it is."""
    places = np.full(256, _NO_DIGIT, dtype=np.uint8)
    places[_ALPHABET] = np.arange(len(_ALPHABET))
    return read_only(places, np.uint8)


_PLACES: Final = _places()


def base62(ids: Bytes) -> Bytes:
    """Return the digits of ids (rows of 16 bytes, big-endian), zero-padded: rows of 27 bytes of ASCII."""
    digits = np.empty((len(ids), DIGITS), dtype=np.uint8)
    limbs = read_only(np.ascontiguousarray(ids).view(">u4").reshape(-1, _LIMBS), np.uint64)
    _write_digits(limbs, _ALPHABET, digits)
    return digits


def parse62(digits: Bytes) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """Return the ids that rows of 27 bytes of ASCII say, and which rows say one: the inverse of `base62`."""
    limbs = np.empty((len(digits), _LIMBS), dtype=np.uint64)
    good = np.empty(len(digits), dtype=np.bool_)
    _read_digits(read_only(digits, np.uint8), _PLACES, limbs, good)
    ids = np.ascontiguousarray(limbs.astype(">u4")).view(np.uint8).reshape(-1, ID_BYTES)
    return ids, good


@compiled
def _read_digits(
    digits: Bytes, places: Bytes, limbs: npt.NDArray[np.uint64], good: npt.NDArray[np.bool_]
) -> None:
    base, low = np.uint64(62), np.uint64(0xFFFFFFFF)
    for row in range(len(digits)):
        first = second = third = fourth = np.uint64(0)
        whole = True
        at = 0
        while at < DIGITS:
            # The first block is the short one, as the others then end at the last digit.
            stop = at + (DIGITS - at - 1) % _AT_ONCE + 1
            block, times = np.uint64(0), np.uint64(1)
            while at < stop:
                place = places[digits[row, at]]
                if place == _NO_DIGIT:
                    whole = False
                block = block * base + np.uint64(place)
                times *= base
                at += 1
            block += fourth * times
            fourth = block & low
            block = third * times + (block >> np.uint64(32))
            third = block & low
            block = second * times + (block >> np.uint64(32))
            second = block & low
            block = first * times + (block >> np.uint64(32))
            first = block & low
            if block > low:
                whole = False
        limbs[row, 0], limbs[row, 1], limbs[row, 2], limbs[row, 3] = first, second, third, fourth
        good[row] = whole


@compiled
def _write_digits(limbs: npt.NDArray[np.uint64], alphabet: Bytes, digits: Bytes) -> None:
    base, divisor = np.uint64(62), np.uint64(62**_AT_ONCE)
    for row in range(len(limbs)):
        first, second, third, fourth = limbs[row, 0], limbs[row, 1], limbs[row, 2], limbs[row, 3]
        place = DIGITS
        while place > 0:
            rest, first = first % divisor, first // divisor
            second |= rest << np.uint64(32)
            rest, second = second % divisor, second // divisor
            third |= rest << np.uint64(32)
            rest, third = third % divisor, third // divisor
            fourth |= rest << np.uint64(32)
            rest, fourth = fourth % divisor, fourth // divisor
            for _ in range(min(place, _AT_ONCE)):
                place -= 1
                digits[row, place] = alphabet[np.int64(rest % base)]
                rest //= base
