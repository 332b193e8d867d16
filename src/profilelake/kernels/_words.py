"""Text eight bytes at a time, which numba has no words for."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from profilelake.kernels._compiled import compiled
from profilelake.kernels.json_tape import Bytes

_QUOTE, _BACKSLASH = 34, 92
_QUOTES, _BACKSLASHES = np.uint64(0x2222222222222222), np.uint64(0x5C5C5C5C5C5C5C5C)
_ONES, _TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


def _load_typed(_typing: Any, array: Any, _at: Any) -> Any:
    def make(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(array, types.intp), make


def _trailing_zeros_typed(_typing: Any, _word: Any) -> Any:
    def make(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], cgutils.false_bit)

    return types.uint64(types.uint64), make


_load: Any = intrinsic(_load_typed)
_trailing_zeros: Any = intrinsic(_trailing_zeros_typed)


@compiled
def eight_bytes(text: Bytes, at: int) -> np.uint64:
    """Return the eight bytes from `at` on as a little-endian word; all of them must be there."""
    word: np.uint64 = _load(text, at)
    return word


@compiled
def first_byte(word: np.uint64, one: np.uint64, other: np.uint64) -> int:
    """Return the place in a word of the first byte that is one of two (given eight times each), 8 if none is."""
    of_one, of_other = word ^ one, word ^ other
    found = ((of_one - _ONES) & ~of_one | (of_other - _ONES) & ~of_other) & _TOPS
    return np.int64(_trailing_zeros(found) >> np.uint64(3))  # type: ignore[return-value]


@compiled
def past_string(text: Bytes, at: int, end: int) -> int:
    """Return the place behind the string that begins here; beyond `end` where it does not end."""
    at += 1
    while True:
        while at + 8 <= end:
            place = first_byte(eight_bytes(text, at), _QUOTES, _BACKSLASHES)
            at += place
            if place < 8:
                break
        if at >= end:
            return end + 1
        if text[at] == _QUOTE:
            return at + 1
        at += 2 if text[at] == _BACKSLASH else 1
