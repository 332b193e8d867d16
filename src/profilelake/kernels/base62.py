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


def base62(ids: Bytes) -> Bytes:
    """Return the digits of ids (rows of 16 bytes, big-endian), zero-padded: rows of 27 bytes of ASCII."""
    digits = np.empty((len(ids), DIGITS), dtype=np.uint8)
    limbs = read_only(np.ascontiguousarray(ids).view(">u4").reshape(-1, _LIMBS), np.uint64)
    _write_digits(limbs, _ALPHABET, digits)
    return digits


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
