"""Recognises the shapes of JSON objects, column by column: which paths they have, and of which types.

The fast form of `semantics.shapes`. A shape that is known costs a hash of its keys and one look into a
table; only what was never seen before is noted for the caller to describe. The text is canonical JSON; what
is not JSON at all is left at the place where it breaks.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from profilelake.kernels._compiled import compiled
from profilelake.kernels._words import eight_bytes, past_string
from profilelake.kernels.json_tape import Bytes, borrowing
from profilelake.semantics.shapes import DEPTH_MAX, PATH_BYTES_MAX

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint64]

STRING, INTEGER, NUMBER, BOOLEAN, OBJECT, ARRAY = range(6)
"""Places in `semantics.shapes.JSON_TYPES`."""
NULL: Final = -1
TYPES: Final = 6
PARTS: Final = 3

SHAPES, GROUPS, FRESH, ROWS, SEED, SHAPES_MAX, PER_PART_MAX, GROUPS_MAX, NAME_BYTES_MAX = range(9)
CURSORS: Final = 9
"""What `Known.cursor` holds: shapes and groups so far, new shapes of this call, the number of the first row,
the seed of all hashes, and the limits of the table."""

COUNT: Final = np.dtype(
    [("events", np.int64), ("first", np.int64), ("last", np.int64), ("row", np.int64)], align=True
)
"""Events with a shape, when the first and the last of them were received, and the last row it was in."""
NEW: Final = np.dtype(
    [
        ("row", np.int64),
        ("place", np.int64),
        ("kind", np.int64),
        ("start", np.int64),
        ("stop", np.int64),
        ("depth", np.int64),
    ],
    align=True,
)
"""A shape that was not known: its row in the columns, place (group * `PARTS` + part), type, where its value
stands, and how many keys lead to it (0: it is one of those that are not listed)."""

KEY_END: Final = 0xFF
"""No byte of UTF-8."""
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_UNLISTED = np.uint64(0x6A09E667F3BCC909)
_QUOTE, _COLON, _MINUS, _DOT, _ZERO, _NINE = 34, 58, 45, 46, 48, 57
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = 123, 125, 91, 93
_LONGEST_INTEGER: Final = 19
_INTEGER_MAX = np.uint64((1 << 63) - 1)
_COUNTED, _NOT_LISTED, _NO_ROOM = 0, 1, 2


class Known(NamedTuple):
    """All shapes that are known. `keys` and `numbers` are slots of one hash table, a power of two.

    So are `group_keys` and `group_numbers`, of the groups: one per type and name of events. `group_rows`
    says which row brought a group (-1 - row, where its name is not listed), `per_place` how many shapes are
    listed of each part of a group. `keys` is never more than half full when `observe` is called, and `counts`
    has room for as many more as `new` has. `spans` says where the keys of new shapes stand in the text; `stack`
    and `path` are room for the objects that are open.
    """

    cursor: Longs
    keys: Words
    numbers: Ints
    counts: npt.NDArray[np.void]
    group_keys: Words
    group_numbers: Ints
    group_rows: Longs
    per_place: Longs
    new: npt.NDArray[np.void]
    spans: Longs
    stack: Words
    path: Longs


class Texts(NamedTuple):
    """One column of text as Arrow has it: row r is `data[offsets[r]:offsets[r + 1]]`, null is empty."""

    data: Bytes
    offsets: Ints


@borrowing
def observe(
    known: Known,
    types: Texts,
    names: Texts,
    context: Texts,
    properties: Texts,
    traits: Texts,
    received_at: Longs,
    row: int,
) -> int:
    """Count the shapes of events from `row` on; return the row behind the last.

    Where there is no room for more new shapes, return the row that brings them: describe those that are
    there, make room, and go on with that row. No event counts twice.
    """
    while row < received_at.size:
        place = PARTS * _group(known, types, names, row)
        time = received_at[row]
        if not (
            _walk(known, context, row, place, time)
            and _walk(known, properties, row, place + 1, time)
            and _walk(known, traits, row, place + 2, time)
        ):
            return row
        row += 1
    return row


@borrowing
def enter_groups(known: Known, types: Texts, names: Texts, unlisted: npt.NDArray[np.bool_]) -> None:
    """Take up groups in the order of their numbers."""
    for row in range(unlisted.size):
        key = _group_key(known, types, names, row, unlisted[row])
        _add_group(known, _find(known.group_keys, key), key, row)


@borrowing
def enter_shapes(known: Known, paths: Texts, places: Longs, kinds: Longs, depths: Longs) -> None:
    """Take up shapes in the order of their numbers; `paths` holds the text of keys, `KEY_END` after each."""
    for row in range(places.size):
        hashed = np.uint64(known.cursor[SEED])
        start, end = paths.offsets[row], paths.offsets[row + 1]
        for at in range(start, end):
            if paths.data[at] == KEY_END:
                hashed = _hashed(hashed, paths.data, start, at, end)
                start = at + 1
        if depths[row] == 0:
            hashed = _UNLISTED
        else:
            known.per_place[places[row]] += 1
        key = _shape_key(hashed, places[row], kinds[row])
        slot = _find(known.keys, key)
        known.keys[slot] = key
        known.numbers[slot] = known.cursor[SHAPES]
        known.cursor[SHAPES] += 1


@borrowing
def move(keys: Words, numbers: Ints, to_keys: Words, to_numbers: Ints) -> None:
    """Move a hash table into a larger one."""
    for slot in range(keys.size):
        if keys[slot] != 0:
            to = _find(to_keys, keys[slot])
            to_keys[to] = keys[slot]
            to_numbers[to] = numbers[slot]


@borrowing
def rename(known: Known, number: int, other: int) -> None:
    """Let what was found to be shape `number` be shape `other`: the same path, written in another way."""
    for slot in range(known.keys.size):
        if known.keys[slot] != 0 and known.numbers[slot] == number:
            known.numbers[slot] = other


# ---- groups ------------------------------------------------------------------------------------


@compiled
def _group(known: Known, types: Texts, names: Texts, row: int) -> int:
    size = names.offsets[row + 1] - names.offsets[row]
    unlisted = size > known.cursor[NAME_BYTES_MAX]
    key = _group_key(known, types, names, row, unlisted)
    slot = _find(known.group_keys, key)
    if known.group_keys[slot] == key:
        return int(known.group_numbers[slot])
    if size > 0 and not unlisted and known.cursor[GROUPS] >= known.cursor[GROUPS_MAX]:
        key = _group_key(known, types, names, row, True)
        slot = _find(known.group_keys, key)
        if known.group_keys[slot] == key:
            return int(known.group_numbers[slot])
        unlisted = True
    return _add_group(known, slot, key, -1 - row if unlisted else row)


@borrowing
def _add_group(known: Known, slot: int, key: np.uint64, row: int) -> int:
    number = known.cursor[GROUPS]
    known.group_keys[slot] = key
    known.group_numbers[slot] = number
    known.group_rows[number] = row
    known.cursor[GROUPS] = number + 1
    return int(number)


@borrowing
def _group_key(known: Known, types: Texts, names: Texts, row: int, unlisted: bool) -> np.uint64:
    hashed = np.uint64(known.cursor[SEED])
    start, end = types.offsets[row], types.offsets[row + 1]
    hashed = _hashed(hashed, types.data, start, end, end)
    if unlisted:
        return _mixed(hashed ^ _UNLISTED)
    start, end = names.offsets[row], names.offsets[row + 1]
    return _mixed(_hashed(hashed, names.data, start, end, end))


# ---- shapes ------------------------------------------------------------------------------------


@compiled
def _walk(known: Known, texts: Texts, row: int, place: int, time: int) -> bool:  # noqa: C901 - one loop
    """Count the shapes of one document; False where there is no room for a new one."""
    text, end = texts.data, texts.offsets[row + 1]
    at = _past_space(text, texts.offsets[row], end)
    if at >= end or text[at] != _OPEN_OBJECT:
        return True
    at += 1
    stack, path, keys, numbers, counts = known.stack, known.path, known.keys, known.numbers, known.counts
    id = known.cursor[ROWS] + row
    depth = 0
    stack[0] = np.uint64(known.cursor[SEED])
    size = 0
    while at < end:
        byte = text[at]
        if byte == _CLOSE_OBJECT:
            if depth == 0:
                return True
            depth -= 1
            size -= path[2 * depth + 1] - path[2 * depth]
            at += 1
            continue
        if byte != _QUOTE:
            at += 1  # a comma, or space
            continue
        start = at + 1
        at = past_string(text, at, end)
        if at > end:
            return True
        hashed = _hashed(stack[depth], text, start, at - 1, end)
        path[2 * depth] = start
        path[2 * depth + 1] = at - 1
        at = _past_space(text, at, end)
        if at >= end or text[at] != _COLON:
            return True
        at = _past_space(text, at + 1, end)
        if at >= end:
            return True
        begin = at
        kind, at = _past_value(text, at, end)
        if kind == NULL:
            continue
        if at > end:
            return True
        long = size + path[2 * depth + 1] - start > PATH_BYTES_MAX
        if not long:
            # Nearly all shapes are known; the call that can note a new one has ninety arguments when compiled.
            key = _shape_key(hashed, place, kind)
            slot = _find(keys, key)
            if keys[slot] == key:
                _add(counts, numbers[slot], id, time)
                done = _COUNTED
            else:
                done = _count(known, hashed, row, place, kind, time, begin, at, depth + 1)
        else:
            done = _NOT_LISTED
        if done == _NOT_LISTED:
            done = _count(known, _UNLISTED, row, place, kind, time, 0, 0, 0)
        if done == _NO_ROOM:
            return False
        if kind == OBJECT:
            if not long and depth + 1 < DEPTH_MAX:
                size += path[2 * depth + 1] - start
                depth += 1
                stack[depth] = hashed
                continue
            inside = _past_space(text, at, end)
            empty = inside < end and text[inside] == _CLOSE_OBJECT
            if (
                not long
                and not empty
                and _count(known, _UNLISTED, row, place, OBJECT, time, 0, 0, 0) == _NO_ROOM
            ):
                return False
            at = _past_nested(text, begin, end)
    return True


@borrowing
def _count(
    known: Known,
    hashed: np.uint64,
    row: int,
    place: int,
    kind: int,
    time: int,
    begin: int,
    end: int,
    depth: int,
) -> int:
    """Count an event for a shape, and note it where it is new; depth 0 is the shape of what is not listed."""
    key = _shape_key(hashed, place, kind)
    slot = _find(known.keys, key)
    cursor = known.cursor
    id = cursor[ROWS] + row
    if known.keys[slot] == key:
        _add(known.counts, known.numbers[slot], id, time)
        return _COUNTED
    if depth and (known.per_place[place] >= cursor[PER_PART_MAX] or cursor[SHAPES] >= cursor[SHAPES_MAX]):
        return _NOT_LISTED
    new = cursor[FRESH]
    if new == known.new.size:
        return _NO_ROOM
    number = cursor[SHAPES]
    known.keys[slot] = key
    known.numbers[slot] = number
    known.counts[number].events = 1
    known.counts[number].first = time
    known.counts[number].last = time
    known.counts[number].row = id
    known.new[new].row = row
    known.new[new].place = place
    known.new[new].kind = kind
    known.new[new].start = begin
    known.new[new].stop = end
    known.new[new].depth = depth
    for level in range(2 * depth):
        known.spans[2 * DEPTH_MAX * new + level] = known.path[level]
    if depth:
        known.per_place[place] += 1
    cursor[SHAPES] = number + 1
    cursor[FRESH] = new + 1
    return _COUNTED


@compiled
def _add(counts: npt.NDArray[np.void], number: int, id: int, time: int) -> None:
    if counts[number].row != id:
        counts[number].row = id
        counts[number].events += 1
        counts[number].first = min(counts[number].first, time)
        counts[number].last = max(counts[number].last, time)


@compiled
def _shape_key(hashed: np.uint64, place: int, kind: int) -> np.uint64:
    return _mixed(hashed + np.uint64(place * TYPES + kind + 1) * _ODD)


@compiled
def _hashed(hashed: np.uint64, text: Bytes, start: int, stop: int, end: int) -> np.uint64:
    """Return the hash of a path, whose hash so far this is, with one more key; the text may be read up to `end`."""
    size = np.uint64(stop - start)
    while start + 8 <= stop:
        hashed = (hashed ^ eight_bytes(text, start)) * _MIX
        hashed ^= hashed >> np.uint64(29)
        start += 8
    rest = np.uint64(stop - start)
    if start + 8 <= end:
        word = eight_bytes(text, start) & ((np.uint64(1) << (np.uint64(8) * rest)) - np.uint64(1))
    else:
        word = np.uint64(0)
        for place in range(stop - start):
            word |= np.uint64(text[start + place]) << np.uint64(8 * place)
    # The size tells a key of zero bytes from a shorter one, and where one key of a path ends.
    hashed = (hashed ^ word ^ (size << np.uint64(56))) * _MIX
    return hashed ^ (hashed >> np.uint64(32))


@compiled
def _mixed(hashed: np.uint64) -> np.uint64:
    hashed = (hashed ^ (hashed >> np.uint64(32))) * _MIX
    hashed = (hashed ^ (hashed >> np.uint64(32))) * _MIX
    hashed ^= hashed >> np.uint64(32)
    return hashed if hashed != 0 else _ODD  # an empty slot is 0


@compiled
def _find(keys: Words, key: np.uint64) -> int:
    """Return the slot of a key, or the empty one where it belongs."""
    mask = np.uint64(keys.size - 1)
    slot = key & mask
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return int(slot)


# ---- JSON --------------------------------------------------------------------------------------


@compiled
def _past_value(text: Bytes, at: int, end: int) -> tuple[int, int]:
    """Return the type of the value that begins here and the place behind it; of an object, behind its bracket."""
    byte = text[at]
    if byte == _QUOTE:
        return STRING, past_string(text, at, end)
    if byte == _OPEN_OBJECT:
        return OBJECT, at + 1
    if byte == _OPEN_ARRAY:
        return ARRAY, _past_nested(text, at, end)
    if byte == _MINUS or _ZERO <= byte <= _NINE:
        return _past_number(text, at, end)
    if byte == 116:  # t
        return BOOLEAN, at + 4
    if byte == 102:  # f
        return BOOLEAN, at + 5
    return NULL, at + 1  # what follows of `null` is passed over like a comma


@borrowing
def _past_nested(text: Bytes, at: int, end: int) -> int:
    """Return the place behind the brackets that open here, whatever they hold."""
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
    return at


@compiled
def _past_number(text: Bytes, at: int, end: int) -> tuple[int, int]:
    """Tell a whole number that fits 64 bits from all others."""
    negative = text[at] == _MINUS
    at += negative
    first = at
    value = np.uint64(0)
    while at < end and _ZERO <= text[at] <= _NINE:
        value = value * np.uint64(10) + np.uint64(text[at] - _ZERO)
        at += 1
    fits = at - first <= _LONGEST_INTEGER and value <= _INTEGER_MAX + np.uint64(negative)
    kind = INTEGER if fits else NUMBER
    while at < end and (_ZERO <= text[at] <= _NINE or text[at] in (_DOT, 101, 69, 43, _MINUS)):
        kind = NUMBER
        at += 1
    return kind, at


@compiled
def _past_space(text: Bytes, at: int, end: int) -> int:
    while at < end and text[at] <= 32:
        at += 1
    return at
