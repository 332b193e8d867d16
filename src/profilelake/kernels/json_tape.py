"""Reads strict JSON into a tape: one entry per value, found again without reading the text twice.

Beside the tape it writes the canonical text of the document (that of `semantics.json_text`), so a
part of it is a slice. What is not strict JSON, has equal keys in one object, half a surrogate pair,
a number near the end of a double's range, or too many levels is refused: the caller then asks the
tolerant reader. The caller has checked that the bytes are UTF-8.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import numba
import numpy as np
import numpy.typing as npt

Bytes: TypeAlias = npt.NDArray[np.uint8]
Ints: TypeAlias = npt.NDArray[np.int32]
Words: TypeAlias = npt.NDArray[np.int32]

OBJECT: Final = 0
ARRAY: Final = 1
STRING: Final = 2
ESCAPED: Final = 3
"""A string whose text still holds escapes."""
NUMBER: Final = 4
TRUE: Final = 5
FALSE: Final = 6
NULL: Final = 7

REFUSED: Final = -1
NUMBER_BYTES_MAX: Final = 200
"""With at most two digits of exponent, a number this long is far from the end of a double."""
KEYS_MAX: Final = 512
"""Keys of one object that are compared with each other."""

_OPTIONS: Final[dict[str, Any]] = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
_F = TypeVar("_F", bound=Callable[..., object])


def borrowing(function: _F) -> _F:
    """Compile a loop that owns no array: counting references at every call took two thirds of the time."""
    compiled: _F = numba.njit(**_OPTIONS)(function)
    return compiled


_VALUE, _KEY, _NEXT, _FIRST_ITEM, _FIRST_KEY = 0, 1, 2, 3, 4
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = 123, 125, 91, 93
_QUOTE, _BACKSLASH, _COMMA, _COLON, _MINUS, _DOT, _ZERO, _NINE = 34, 92, 44, 58, 45, 46, 48, 57
_FNV_START, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)
_SLOTS: Final = 256


ENTRY: Final = np.dtype(
    [
        ("start", np.int32),
        ("stop", np.int32),
        ("after", np.int32),
        ("source_start", np.int32),
        ("source_stop", np.int32),
        ("word", np.int16),
        ("kind", np.int16),
    ],
    align=True,
)
"""One entry of a tape; values stand in the order they are written, a key right before its value.

`start` and `stop` delimit the entry in the canonical text (strings with their quotes). `after` is
the entry behind a value and all it holds; for a key it is the key's hash. `word` is a key's number
in the vocabulary, -1 for other keys. `source_start` and `source_stop` delimit objects and arrays in
the text as it was sent.
"""
Tape: TypeAlias = npt.NDArray[Any]


def new_tape(document_bytes_max: int) -> Tape:
    """Return a tape that holds any document of that many bytes."""
    # Each entry takes at least one byte of text.
    return np.empty(document_bytes_max + 1, ENTRY)


def new_room(depth_max: int) -> Ints:
    """Return what `read` needs besides: room for the open brackets and for the keys of one object."""
    return np.empty(depth_max + KEYS_MAX, np.int32)


def vocabulary(words: Sequence[str]) -> Words:
    """Return a look-up table of distinct words; a word's number is its place in `words`.

    Its rows are slots of a hash table: number, start and stop of the word in the text buffer,
    which must begin with the words, laid end to end.
    """
    slots = max(_SLOTS, 1 << (4 * len(words)).bit_length())
    table = np.full((slots, 3), -1, np.int32)
    start = 0
    for number, word in enumerate(words):
        encoded = word.encode()
        hashed = 2166136261
        for byte in encoded:
            hashed = (hashed ^ byte) * 16777619 & 0xFFFFFFFF
        slot = hashed & (slots - 1)
        while table[slot, 0] >= 0:
            slot = (slot + 1) & (slots - 1)
        table[slot] = number, start, start + len(encoded)
        start += len(encoded)
    return table


@borrowing
def read(  # noqa: C901 - one loop with one state is how this is best followed
    source: Bytes, at: int, end: int, text: Bytes, to: int, tape: Tape, room: Ints, known: Words
) -> int:
    """Read the object `source[at:end]`; return where its canonical text ends, or `REFUSED`.

    The text is written from `text[to]` on and is never longer than the source.
    """
    entries = 0
    depth = 0
    expect = _VALUE
    while True:
        at = _past_space(source, at, end)
        if at >= end:
            return REFUSED
        byte = source[at]
        if expect == _FIRST_ITEM:
            expect = _NEXT if byte == _CLOSE_ARRAY else _VALUE
        elif expect == _FIRST_KEY:
            expect = _NEXT if byte == _CLOSE_OBJECT else _KEY

        if expect == _KEY:
            if byte != _QUOTE:
                return REFUSED
            begin = to
            at, to, kind = _string(source, at, end, text, to)
            if at < 0:
                return REFUSED
            hashed = _hash(text, begin + 1, to - 1)
            tape[entries].kind = kind
            tape[entries].start = begin
            tape[entries].stop = to
            tape[entries].after = np.int32(hashed)
            tape[entries].word = _find(text, begin + 1, to - 1, hashed, known)
            entries += 1
            at = _past_space(source, at, end)
            if at >= end or source[at] != _COLON:
                return REFUSED
            text[to] = _COLON
            to += 1
            at += 1
            expect = _VALUE
        elif expect == _NEXT:
            holder = room[depth - 1]
            mapping = tape[holder].kind == OBJECT
            text[to] = byte
            to += 1
            at += 1
            if byte == _COMMA:
                expect = _KEY if mapping else _VALUE
                continue
            if byte != (_CLOSE_OBJECT if mapping else _CLOSE_ARRAY):
                return REFUSED
            tape[holder].stop = to
            tape[holder].after = entries
            tape[holder].source_stop = at
            if mapping and not _distinct_keys(tape, holder, entries, room[room.size - KEYS_MAX :]):
                return REFUSED
            depth -= 1
            if depth == 0:
                return to if _past_space(source, at, end) == end else REFUSED
        elif byte in (_OPEN_OBJECT, _OPEN_ARRAY):
            if depth == room.size - KEYS_MAX:
                return REFUSED
            tape[entries].kind = OBJECT if byte == _OPEN_OBJECT else ARRAY
            tape[entries].start = to
            tape[entries].source_start = at
            room[depth] = entries
            entries += 1
            depth += 1
            text[to] = byte
            to += 1
            at += 1
            expect = _FIRST_KEY if byte == _OPEN_OBJECT else _FIRST_ITEM
        else:
            begin = to
            if byte == _QUOTE:
                at, to, kind = _string(source, at, end, text, to)
            elif byte == _MINUS or _is_digit(byte):
                kind = NUMBER
                at, to = _number(source, at, end, text, to)
            else:
                at, to, kind = _literal(source, at, end, text, to)
            # A document is an object, so a bare value outside of one is refused too.
            if at < 0 or depth == 0:
                return REFUSED
            tape[entries].kind = kind
            tape[entries].start = begin
            tape[entries].stop = to
            entries += 1
            tape[entries - 1].after = entries
            expect = _NEXT


@borrowing
def member(tape: Tape, mapping: int, word: int) -> int:
    """Return the entry of the value an object holds under a known word, -1 where it has none."""
    if mapping < 0 or tape[mapping].kind != OBJECT:
        return -1
    key = mapping + 1
    end = tape[mapping].after
    while key < end:
        if tape[key].word == word:
            return key + 1
        key = tape[key + 1].after
    return -1


@borrowing
def has_key(tape: Tape, mapping: int, key: int, text: Bytes) -> bool:
    """Tell whether an object has the key that stands at entry `key` of the same tape."""
    other = mapping + 1
    end = tape[mapping].after
    while other < end:
        if tape[other].after == tape[key].after and same(
            text, tape[other].start, tape[other].stop, tape[key].start, tape[key].stop
        ):
            return True
        other = tape[other + 1].after
    return False


@borrowing
def word_at(text: Bytes, start: int, stop: int, known: Words) -> int:
    """Return the number of the word `text[start:stop]`, -1 where it is none of the vocabulary."""
    return _find(text, start, stop, _hash(text, start, stop), known)


@borrowing
def same(text: Bytes, start: int, stop: int, other_start: int, other_stop: int) -> bool:
    """Tell whether two slices of the text are equal."""
    if stop - start != other_stop - other_start:
        return False
    place = 0
    while place < stop - start and text[start + place] == text[other_start + place]:
        place += 1
    return place == stop - start


@borrowing
def unescape(text: Bytes, start: int, stop: int, to: int) -> int:
    """Write the characters a canonical string stands for to `text[to:]`; return where they end."""
    while start < stop:
        byte = text[start]
        start += 1
        if byte == _BACKSLASH:
            byte = text[start]
            start += 1
            if byte == 117:
                # The canonical text escapes only control characters this way: two digits tell all.
                byte = _hex(text[start + 2]) * 16 + _hex(text[start + 3])
                start += 4
            else:
                byte = _meaning(byte)
        text[to] = byte
        to += 1
    return to


@borrowing
def _past_space(source: Bytes, at: int, end: int) -> int:
    while at < end and (source[at] == 32 or 9 <= source[at] <= 10 or source[at] == 13):
        at += 1
    return at


@borrowing
def _is_digit(byte: int) -> bool:
    return _ZERO <= byte <= _NINE


@borrowing
def _hash(text: Bytes, start: int, stop: int) -> np.uint32:
    hashed = _FNV_START
    for place in range(start, stop):
        hashed = np.uint32((hashed ^ np.uint32(text[place])) * _FNV_PRIME)
    return hashed


@borrowing
def _find(text: Bytes, start: int, stop: int, hashed: np.uint32, known: Words) -> int:
    mask = known.shape[0] - 1
    slot = np.int64(hashed) & mask
    while known[slot, 0] >= 0:
        if same(text, known[slot, 1], known[slot, 2], start, stop):
            return int(known[slot, 0])
        slot = (slot + 1) & mask
    return -1


@borrowing
def _distinct_keys(tape: Tape, mapping: int, end: int, hashes: Ints) -> bool:
    """Tell whether all keys of an object differ; False also where they are too many to compare."""
    count = 0
    seen = np.uint64(0)
    key = mapping + 1
    while key < end:
        hashed = tape[key].after
        bit = np.uint64(1) << np.uint64(hashed & 63)
        if seen & bit:
            for place in range(count):
                if hashes[place] == hashed:
                    # Equal hashes of different keys are too rare to be told apart here.
                    return False
        if count == hashes.size:
            return False
        hashes[count] = hashed
        seen |= bit
        count += 1
        key = tape[key + 1].after
    return True


@borrowing
def _string(source: Bytes, at: int, end: int, text: Bytes, to: int) -> tuple[int, int, int]:
    """Copy the string at `source[at]`, unescaped as far as JSON allows; return its end, ours, its kind."""
    text[to] = _QUOTE
    to += 1
    at += 1
    while at < end:
        byte = source[at]
        if byte == _QUOTE:
            text[to] = _QUOTE
            return at + 1, to + 1, STRING
        if byte == _BACKSLASH:
            return _string_with_escapes(source, at, end, text, to)
        if byte < 32:
            return REFUSED, to, STRING
        text[to] = byte
        to += 1
        at += 1
    return REFUSED, to, STRING


@borrowing
def _string_with_escapes(source: Bytes, at: int, end: int, text: Bytes, to: int) -> tuple[int, int, int]:
    """Copy the rest of a string from its first escape on."""
    kind = STRING
    while at < end:
        byte = source[at]
        if byte == _QUOTE:
            text[to] = _QUOTE
            return at + 1, to + 1, kind
        if byte < 32:
            return REFUSED, to, kind
        if byte == _BACKSLASH:
            code, at = _escape(source, at + 1, end)
            if code < 0:
                return REFUSED, to, kind
            if _must_escape(code):
                kind = ESCAPED
            to = _put(text, to, code)
        else:
            text[to] = byte
            to += 1
            at += 1
    return REFUSED, to, kind


@borrowing
def _escape(source: Bytes, at: int, end: int) -> tuple[int, int]:
    """Return the character an escape stands for, -1 where it is none, and where the escape ends."""
    if at >= end:
        return -1, at
    if source[at] == 47:
        return 47, at + 1
    if source[at] != 117:
        code = _meaning(source[at])
        return code or -1, at + 1
    code = _code_unit(source, at + 1, end)
    at += 5
    if 0xDC00 <= code <= 0xDFFF:
        return -1, at
    if 0xD800 <= code < 0xDC00:
        if at + 1 >= end or source[at] != _BACKSLASH or source[at + 1] != 117:
            return -1, at
        low = _code_unit(source, at + 2, end)
        at += 6
        if low < 0xDC00 or low > 0xDFFF:
            return -1, at
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
    return code, at


@borrowing
def _must_escape(code: int) -> bool:
    return code < 32 or code in (_QUOTE, _BACKSLASH)


@borrowing
def _meaning(byte: int) -> int:
    """Return the character a one-letter escape stands for, 0 where there is no such escape."""
    if byte == 110:
        return 10
    if byte in (_QUOTE, _BACKSLASH):
        return int(byte)
    if byte == 116:
        return 9
    if byte == 114:
        return 13
    if byte == 98:
        return 8
    if byte == 102:
        return 12
    return 0


@borrowing
def _put(text: Bytes, to: int, code: int) -> int:
    """Write one character as canonical text: UTF-8, or the escape JSON demands."""
    if _must_escape(code):
        text[to] = _BACKSLASH
        letter = 0
        if code in (_QUOTE, _BACKSLASH):
            letter = code
        elif code == 10:
            letter = 110
        elif code == 9:
            letter = 116
        elif code == 13:
            letter = 114
        elif code == 8:
            letter = 98
        elif code == 12:
            letter = 102
        if letter:
            text[to + 1] = letter
            return to + 2
        text[to + 1] = 117
        text[to + 2] = _ZERO
        text[to + 3] = _ZERO
        text[to + 4] = _ZERO + (code >> 4)
        digit = code & 15
        text[to + 5] = digit + (_ZERO if digit < 10 else 87)
        return to + 6
    if code < 0x80:
        text[to] = code
        return to + 1
    if code < 0x800:
        text[to] = 0xC0 | (code >> 6)
        text[to + 1] = 0x80 | (code & 63)
        return to + 2
    if code < 0x10000:
        text[to] = 0xE0 | (code >> 12)
        text[to + 1] = 0x80 | ((code >> 6) & 63)
        text[to + 2] = 0x80 | (code & 63)
        return to + 3
    text[to] = 0xF0 | (code >> 18)
    text[to + 1] = 0x80 | ((code >> 12) & 63)
    text[to + 2] = 0x80 | ((code >> 6) & 63)
    text[to + 3] = 0x80 | (code & 63)
    return to + 4


@borrowing
def _code_unit(source: Bytes, at: int, end: int) -> int:
    if at + 4 > end:
        return -1
    code = 0
    for place in range(at, at + 4):
        digit = _hex(source[place])
        if digit < 0:
            return -1
        code = code * 16 + digit
    return code


@borrowing
def _hex(byte: int) -> int:
    if _is_digit(byte):
        return int(byte) - _ZERO
    if 97 <= byte <= 102:
        return int(byte) - 87
    if 65 <= byte <= 70:
        return int(byte) - 55
    return -1


@borrowing
def _digits(source: Bytes, at: int, end: int) -> int:
    while at < end and _is_digit(source[at]):
        at += 1
    return at


@borrowing
def _number(source: Bytes, at: int, end: int, text: Bytes, to: int) -> tuple[int, int]:
    """Copy a number with its very digits; refuse what is none, or may lie beyond a double."""
    begin = at
    if source[at] == _MINUS:
        at += 1
    whole = at
    at = _digits(source, at, end)
    if at == whole or (source[whole] == _ZERO and at - whole > 1):
        return REFUSED, to
    if at < end and source[at] == _DOT:
        fraction = at + 1
        at = _digits(source, fraction, end)
        if at == fraction:
            return REFUSED, to
    if at < end and (source[at] | 32) == 101:
        at += 1
        if at < end and (source[at] == 43 or source[at] == _MINUS):
            at += 1
        exponent = at
        at = _digits(source, exponent, end)
        if at == exponent or at - exponent > 2:
            return REFUSED, to
    if at - begin > NUMBER_BYTES_MAX:
        return REFUSED, to
    for place in range(begin, at):
        text[to] = source[place]
        to += 1
    return at, to


@borrowing
def _literal(source: Bytes, at: int, end: int, text: Bytes, to: int) -> tuple[int, int, int]:
    first = source[at]
    if first == 116:
        kind, size, rest = TRUE, 4, 0x65757274
    elif first == 102:
        kind, size, rest = FALSE, 5, 0x65736C6166
    elif first == 110:
        kind, size, rest = NULL, 4, 0x6C6C756E
    else:
        return REFUSED, to, NULL
    if at + size > end:
        return REFUSED, to, NULL
    for place in range(size):
        byte = source[at + place]
        if byte != (rest >> (8 * place)) & 255:
            return REFUSED, to, NULL
        text[to] = byte
        to += 1
    return at + size, to, kind
