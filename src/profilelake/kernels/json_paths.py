"""Finds the values of a few paths in many JSON objects: one pass over each text, whatever the number of paths.

The texts are JSON as landing writes it. Of what is no JSON at all nothing is found behind the place where it
breaks. What a plain reader has to look at (a path that leads through an array, a key with escapes) is told as
`ASK`.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from profilelake.kernels._compiled import compiled, read_only
from profilelake.kernels._words import eight_bytes, first_byte, past_string
from profilelake.kernels.json_tape import Bytes, borrowing

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]
Kinds = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
Path = tuple[str, ...]

MISSING, NULL, FALSE, TRUE, NUMBER, DIGITS, STRING, OBJECT, ARRAY, ASK = range(10)
"""What was found. Of a `NUMBER` the double is known; of `DIGITS` only the text, which has very many of them."""
DEPTH_MAX: Final = 32
"""Keys of a path."""

_QUOTE, _BACKSLASH, _COLON, _MINUS, _DOT, _ZERO, _NINE, _COMMA = 34, 92, 58, 45, 46, 48, 57, 44
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = 123, 125, 91, 93
_BACKSLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_EXACT_MAX = np.uint64(1 << 53)
_POWER_MAX: Final = 22
"""A whole number below 2**53 and a power of ten up to this are exact doubles, and so is rounding once."""
_TRUE, _NULL = np.uint64(int.from_bytes(b"true", "little")), np.uint64(int.from_bytes(b"null", "little"))
_FALSE = np.uint64(int.from_bytes(b"false", "little"))
_DIGITS_MAX: Final = 18
_POWERS: Final = read_only(np.array([10.0**power for power in range(_POWER_MAX + 1)]), np.float64)
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)


class Trie(NamedTuple):
    """Paths as a tree of keys. Node 0 is the object itself; a path's number is its place among all, sorted.

    So the paths that lead through a node are those from `first` until before `stop`. `word` has the first eight
    bytes of its key.
    """

    child: Ints
    sibling: Ints
    path: Ints
    first: Ints
    stop: Ints
    key_start: Ints
    key_stop: Ints
    word: Words
    keys: Bytes


class Found(NamedTuple):
    """What lies at each path (row) in each text (column): what kind of value, and where its text stands."""

    kinds: Kinds
    starts: Ints
    stops: Ints
    numbers: Floats


def trie(paths: Sequence[Path]) -> Trie:
    """Return the tree of paths, which must be sorted and distinct."""
    nodes: list[list[int]] = [[-1, -1, -1, 0, len(paths), 0, 0]]
    keys = bytearray()
    for number, path in enumerate(paths):
        at = 0
        for key in path:
            below = nodes[at][0]
            wanted = key.encode(errors="replace")
            while below >= 0 and keys[nodes[below][5] : nodes[below][6]] != wanted:
                below = nodes[below][1]
            if below < 0:
                below = len(nodes)
                nodes.append([-1, nodes[at][0], -1, number, number, len(keys), len(keys) + len(wanted)])
                nodes[at][0] = below
                keys += wanted
            at = below
            nodes[at][4] = number + 1
        nodes[at][2] = number
    table = np.array(nodes, dtype=np.int32)
    child, sibling, path_of, first, stop, key_start, key_stop = (
        read_only(column, np.int32) for column in table.T
    )
    text = read_only(np.frombuffer(bytes(keys) or b"\0", dtype=np.uint8), np.uint8)
    words = [
        int.from_bytes(keys[start:stop][:8], "little")
        for start, stop in zip(key_start.tolist(), key_stop.tolist(), strict=True)
    ]
    word = read_only(np.array(words, dtype=np.uint64), np.uint64)
    return Trie(child, sibling, path_of, first, stop, key_start, key_stop, word, text)


def find(data: Bytes, offsets: Ints, rows: Longs, order: Longs, paths: Trie) -> Found:
    """Find the paths in `rows` of a column of texts, as Arrow has it; a null is an empty text.

    They are read in `order`: in that of the column it is twice as fast as in any other.
    """
    shape = (int(paths.stop[0]), len(rows))
    found = Found(
        np.zeros(shape, np.int8), np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape)
    )
    stack = np.empty(DEPTH_MAX + 1, dtype=np.int32)
    _find(
        read_only(data, np.uint8),
        read_only(offsets, np.int32),
        read_only(rows, np.int64),
        read_only(order, np.int64),
        paths,
        _POWERS,
        stack,
        found.kinds,
        found.starts,
        found.stops,
        found.numbers,
    )
    return found


def encode(
    data: Bytes, starts: Ints, stops: Ints, wanted: npt.NDArray[np.bool_], order: Longs
) -> tuple[Ints, Longs]:
    """Number the distinct texts of wanted slices as they come in `order`; return codes and where each came first.

    A slice that is not wanted has code -1.
    """
    codes = np.empty(len(starts), dtype=np.int32)
    firsts = np.empty(len(starts), dtype=np.int64)
    slots = np.full(2 << max(4, (len(starts) - 1).bit_length()), -1, dtype=np.int32)
    hashes = np.empty(len(starts), dtype=np.uint64)
    count = _encode(
        read_only(data, np.uint8),
        read_only(starts, np.int32),
        read_only(stops, np.int32),
        read_only(wanted, np.bool_),
        read_only(order, np.int64),
        slots,
        hashes,
        codes,
        firsts,
    )
    return codes, firsts[:count]


def warm() -> None:
    """Compile (or load from the cache) everything here, so that no event waits for it."""
    text = np.frombuffer(b'{"a":1}', dtype=np.uint8)
    one = np.zeros(1, dtype=np.int64)
    found = find(text, np.array([0, len(text)], dtype=np.int32), one, one, trie([("a",)]))
    encode(text, found.starts[0], found.stops[0], np.ones(1, dtype=np.bool_), one)


@borrowing
def _find(  # noqa: C901 - one loop with one state is how this is best followed
    text: Bytes,
    offsets: Ints,
    rows: Longs,
    order: Longs,
    paths: Trie,
    powers: Floats,
    stack: Ints,
    kinds: Kinds,
    starts: Ints,
    stops: Ints,
    numbers: Floats,
) -> None:
    for turn in range(order.size):
        column = order[turn]
        row = rows[column]
        at, end = offsets[row], offsets[row + 1]
        at = _past_space(text, at, end)
        if at >= end or text[at] != _OPEN_OBJECT:
            continue
        at += 1
        depth = 0
        stack[0] = 0
        while at < end:
            byte = text[at]
            if byte == _CLOSE_OBJECT:
                if depth == 0:
                    break
                depth -= 1
                at += 1
                continue
            if byte != _QUOTE:
                at += 1  # a comma, or space
                continue
            start = at + 1
            at = past_string(text, at, end)
            if at > end:
                break
            node = _child(text, start, at - 1, end, paths, stack[depth])
            if node == -ASK:
                for path in range(kinds.shape[0]):
                    kinds[path, column] = ASK
                break
            at = _past_space(text, at, end)
            if at >= end or text[at] != _COLON:
                break
            at = _past_space(text, at + 1, end)
            if at >= end:
                break
            byte = text[at]
            if node < 0:
                at = _past_value(text, at, end)
                continue
            # Of two equal keys the last counts, so what was found below the first is forgotten.
            first = paths.first[node]
            for path in range(first, paths.stop[node]):
                kinds[path, column] = MISSING
            path = paths.path[node]
            begin = at
            if path >= 0:
                kind, at, number = _value(text, at, end, powers)
                if at > end:
                    break
                kinds[path, column] = kind
                starts[path, column] = begin
                stops[path, column] = at
                numbers[path, column] = number
                first += 1
                if first == paths.stop[node] or (byte not in (_OPEN_OBJECT, _OPEN_ARRAY)):
                    continue
            if byte == _OPEN_OBJECT:
                depth += 1
                stack[depth] = node
                at = begin + 1
                continue
            if byte == _OPEN_ARRAY:
                for path in range(first, paths.stop[node]):
                    kinds[path, column] = ASK
            at = _past_value(text, begin, end)


@borrowing
def _encode(
    text: Bytes,
    starts: Ints,
    stops: Ints,
    wanted: npt.NDArray[np.bool_],
    order: Longs,
    slots: Ints,
    hashes: Words,
    codes: Ints,
    firsts: Longs,
) -> int:
    count = 0
    mask = np.uint64(slots.size - 1)
    for turn in range(order.size):
        row = order[turn]
        if not wanted[row]:
            codes[row] = -1
            continue
        start, stop = starts[row], stops[row]
        hashed = _hashed(text, start, stop)
        slot = hashed & mask
        while slots[slot] >= 0:
            code = slots[slot]
            other = firsts[code]
            if hashes[code] == hashed and _same(text, start, stop, starts[other], stops[other]):
                break
            slot = (slot + np.uint64(1)) & mask
        if slots[slot] < 0:
            slots[slot] = count
            hashes[count] = hashed
            firsts[count] = row
            count += 1
        codes[row] = slots[slot]
    return count


@compiled
def _child(text: Bytes, start: int, stop: int, end: int, paths: Trie, node: int) -> int:
    """Return the node of a key below another; -1 where it leads nowhere, `-ASK` where the key has escapes."""
    size = stop - start
    word = _first_word(text, start, size, end)
    below = paths.child[node]
    while below >= 0:
        if paths.word[below] == word and paths.key_stop[below] - paths.key_start[below] == size:
            key, place = paths.key_start[below], 8
            while place < size and paths.keys[key + place] == text[start + place]:
                place += 1
            if place >= size:
                return int(below)
        below = paths.sibling[below]
    place = start
    while place + 8 <= stop:
        first = first_byte(eight_bytes(text, place), _BACKSLASHES, _BACKSLASHES)
        if first < 8:
            return -ASK
        place += 8
    while place < stop:
        if text[place] == _BACKSLASH:
            return -ASK
        place += 1
    return -1


@compiled
def _first_word(text: Bytes, start: int, size: int, end: int) -> np.uint64:
    """Return the first eight bytes of a slice as a word, zeros behind a shorter one; text may be read up to `end`."""
    if size >= 8:
        return eight_bytes(text, start)
    if start + 8 <= end:
        return eight_bytes(text, start) & ((np.uint64(1) << np.uint64(8 * size)) - np.uint64(1))
    word = np.uint64(0)
    for place in range(size):
        word |= np.uint64(text[start + place]) << np.uint64(8 * place)
    return word


@compiled
def _value(text: Bytes, at: int, end: int, powers: Floats) -> tuple[int, int, float]:
    """Return kind, end and double of the value that begins here; the end is beyond `end` where it is none."""
    byte = text[at]
    if byte == _QUOTE:
        return STRING, past_string(text, at, end), 0.0
    if byte == _OPEN_OBJECT:
        return OBJECT, _past_nested(text, at, end), 0.0
    if byte == _OPEN_ARRAY:
        return ARRAY, _past_nested(text, at, end), 0.0
    if byte == _MINUS or _ZERO <= byte <= _NINE:
        return _number(text, at, end, powers)
    if byte == 116 and _first_word(text, at, min(4, end - at), end) == _TRUE:
        return TRUE, at + 4, 0.0
    if byte == 110 and _first_word(text, at, min(4, end - at), end) == _NULL:
        return NULL, at + 4, 0.0
    if byte == 102 and _first_word(text, at, min(5, end - at), end) == _FALSE:
        return FALSE, at + 5, 0.0
    return MISSING, end + 1, 0.0


@compiled
def _number(text: Bytes, at: int, end: int, powers: Floats) -> tuple[int, int, float]:
    negative = text[at] == _MINUS
    at += negative
    whole = np.uint64(0)
    digits = 0
    power = 0
    while at < end and _ZERO <= text[at] <= _NINE:
        whole = whole * np.uint64(10) + np.uint64(text[at] - _ZERO)
        digits += 1
        at += 1
    if at < end and text[at] == _DOT:
        at += 1
        while at < end and _ZERO <= text[at] <= _NINE:
            whole = whole * np.uint64(10) + np.uint64(text[at] - _ZERO)
            digits += 1
            power -= 1
            at += 1
    exact = 0 < digits <= _DIGITS_MAX
    if at < end and (text[at] | 32) == 101:
        at += 1
        below = at < end and text[at] == _MINUS
        if at < end and (text[at] == 43 or text[at] == _MINUS):
            at += 1
        exponent = 0
        while at < end and _ZERO <= text[at] <= _NINE:
            exponent = min(exponent * 10 + (text[at] - _ZERO), 10_000)
            at += 1
        power += -exponent if below else exponent
    if digits == 0:
        return MISSING, end + 1, 0.0
    if not exact or whole > _EXACT_MAX or abs(power) > _POWER_MAX:
        return DIGITS, at, 0.0
    number = np.float64(whole)
    number = number / powers[-power] if power < 0 else number * powers[power]
    return NUMBER, at, -number if negative else number


@compiled
def _past_value(text: Bytes, at: int, end: int) -> int:
    """Return the place behind the value that begins here."""
    byte = text[at]
    if byte == _QUOTE:
        return past_string(text, at, end)
    if byte in (_OPEN_OBJECT, _OPEN_ARRAY):
        return _past_nested(text, at, end)
    while at < end and text[at] != _COMMA and text[at] != _CLOSE_OBJECT:
        at += 1
    return at


@borrowing
def _past_nested(text: Bytes, at: int, end: int) -> int:
    """Return the place behind the brackets that open here, whatever they hold; beyond `end` if they do not close."""
    open = 0
    while at < end:
        byte = text[at]
        if byte == _QUOTE:
            at = past_string(text, at, end)
            continue
        at += 1
        if byte in (_OPEN_OBJECT, _OPEN_ARRAY):
            open += 1
        elif byte in (_CLOSE_OBJECT, _CLOSE_ARRAY):
            open -= 1
            if open == 0:
                return at
    return end + 1


@compiled
def _past_space(text: Bytes, at: int, end: int) -> int:
    while at < end and text[at] <= 32:
        at += 1
    return at


@compiled
def _hashed(text: Bytes, start: int, stop: int) -> np.uint64:
    hashed = _ODD ^ np.uint64(stop - start)
    while start + 8 <= stop:
        hashed = (hashed ^ eight_bytes(text, start)) * _MIX
        hashed ^= hashed >> np.uint64(32)
        start += 8
    hashed = (hashed ^ _first_word(text, start, stop - start, text.size)) * _MIX
    hashed ^= hashed >> np.uint64(29)
    hashed *= _ODD
    return hashed ^ (hashed >> np.uint64(32))


@compiled
def _same(text: Bytes, start: int, stop: int, other_start: int, other_stop: int) -> bool:
    if stop - start != other_stop - other_start:
        return False
    place = 0
    while place < stop - start and text[start + place] == text[other_start + place]:
        place += 1
    return place == stop - start
