"""Collects the identifiers of one event, as `semantics.events` does: same places, same order."""

from typing import Final, TypeAlias

from profilelake.kernels.json_tape import (
    ARRAY,
    ESCAPED,
    NUMBER,
    STRING,
    TRUE,
    Bytes,
    Ints,
    Tape,
    Words,
    borrowing,
    member,
    same,
    unescape,
    word_at,
)
from profilelake.landing import _scan_rows as to
from profilelake.landing import _scan_words as words
from profilelake.landing._scan_rows import Longs

Span: TypeAlias = tuple[int, int]
_EVERYDAY_IDENTIFIERS: Final = 16
"""At least as many as an event can name outside of custom types and external ids."""


@borrowing
def add_identifiers(
    kind: int,
    tape: Tape,
    context: Ints,
    traits: int,
    properties: int,
    text: Bytes,
    known: Words,
    starts: Ints,
    custom: Ints,
    cursor: Longs,
    rows: Longs,
    names: Tape,
) -> int:
    """Add what the next row names; return how many, -1 where one is unusual or there is no room.

    `context` holds the entries of the known keys of the event's context, `custom` a row per
    custom type: word, collection, and the words of its keys (-1: none).
    """
    row = cursor[to.ROWS]
    first = cursor[to.IDENTIFIERS]
    if first + _EVERYDAY_IDENTIFIERS + custom.shape[0] > names.size:
        return -1
    about = context[words.TRAITS_KEY]
    _add_column(words.USER_ID, 0, to.USER_ID, text, starts, cursor, rows, names, first)
    found = _add(words.EMAIL, 0, member(tape, traits, words.EMAIL), tape, text, starts, cursor, names, first)
    if found == 0:
        email = member(tape, about, words.EMAIL)
        found = _add(words.EMAIL, 0, email, tape, text, starts, cursor, names, first)
    if found == 0:
        email = member(tape, properties, words.EMAIL)
        found = _add(words.EMAIL, 0, email, tape, text, starts, cursor, names, first)
    if found < 0:
        return -1
    _add_column(words.ANONYMOUS_ID, 0, to.ANONYMOUS_ID, text, starts, cursor, rows, names, first)
    _add_device(context[words.DEVICE_KEY], tape, text, known, starts, cursor, names, first)
    analytics = member(tape, context[words.INTEGRATIONS_KEY], words.ANALYTICS_KEY)
    client = member(tape, analytics, words.CLIENT_ID_KEY)
    _add(words.GA_CLIENT_ID, 0, client, tape, text, starts, cursor, names, first)

    own = traits if kind == words.IDENTIFY or kind == words.GROUP else properties
    if kind == words.ALIAS:
        own = -1
    for type in range(custom.shape[0]):
        found = _add_custom(custom[type], own, tape, text, starts, cursor, names, first)
        if found == 0:
            found = _add_custom(custom[type], about, tape, text, starts, cursor, names, first)
        if found < 0:
            return -1
    if not _add_external(context[words.EXTERNAL_KEY], tape, text, known, cursor, names, first):
        return -1
    _add_column(words.GROUP_ID, 1, to.GROUP_ID, text, starts, cursor, rows, names, first)
    last = cursor[to.IDENTIFIERS]
    _users_first(names, first, last)
    for place in range(first, last):
        names[place].row = row
    return int(last - first)


@borrowing
def value_at(tape: Tape, entry: int, text: Bytes, cursor: Longs) -> Span:
    """Return where the characters of a string or number stand, an empty slice for anything else."""
    if entry < 0:
        return 0, 0
    kind = tape[entry].kind
    if kind == STRING:
        return tape[entry].start + 1, tape[entry].stop - 1
    if kind == NUMBER:
        return tape[entry].start, tape[entry].stop
    if kind == ESCAPED:
        begin = cursor[to.PATCH]
        cursor[to.PATCH] = unescape(text, tape[entry].start + 1, tape[entry].stop - 1, begin)
        return begin, cursor[to.PATCH]
    return 0, 0


@borrowing
def _add_custom(
    custom: Ints, part: int, tape: Tape, text: Bytes, starts: Ints, cursor: Longs, names: Tape, first: int
) -> int:
    """Add the identifier a part holds under one of the keys of a custom type."""
    found = 0
    for place in range(2, custom.size):
        if found == 0 and custom[place] >= 0:
            entry = member(tape, part, custom[place])
            found = _add(custom[0], custom[1], entry, tape, text, starts, cursor, names, first)
    return found


@borrowing
def _add_device(
    device: int, tape: Tape, text: Bytes, known: Words, starts: Ints, cursor: Longs, names: Tape, first: int
) -> None:
    system = _word_of(tape, member(tape, device, words.TYPE_KEY), text, known)
    if system != words.ANDROID and system != words.IOS:
        return
    # The three types of a system follow each other in the list of words.
    type = words.ANDROID_ID if system == words.ANDROID else words.IOS_ID
    _add(type, 0, member(tape, device, words.ID_KEY), tape, text, starts, cursor, names, first)
    tracking = member(tape, device, words.TRACKING_KEY)
    if tracking >= 0 and tape[tracking].kind == TRUE:
        advertising = member(tape, device, words.ADVERTISING_KEY)
        _add(type + 1, 0, advertising, tape, text, starts, cursor, names, first)
    _add(type + 2, 0, member(tape, device, words.TOKEN_KEY), tape, text, starts, cursor, names, first)


@borrowing
def _add_external(
    listed: int, tape: Tape, text: Bytes, known: Words, cursor: Longs, names: Tape, first: int
) -> bool:
    """Add the identifiers of `context.externalIds`; False where one is unusual or they are too many."""
    if listed < 0 or tape[listed].kind != ARRAY:
        return True
    entry = listed + 1
    end = tape[listed].after
    while entry < end:
        type = member(tape, entry, words.TYPE_KEY)
        collection = _word_of(tape, member(tape, entry, words.COLLECTION_KEY), text, known)
        encoding = _word_of(tape, member(tape, entry, words.ENCODING_KEY), text, known)
        if (
            type >= 0
            and encoding == words.NONE
            and (collection == words.USERS or collection == words.ACCOUNTS)
        ):
            if tape[type].kind == ESCAPED:
                return False
            start, stop = tape[type].start + 1, tape[type].stop - 1
            if tape[type].kind == STRING and stop > start:
                email = word_at(text, start, stop, known) == words.EMAIL
                value = member(tape, entry, words.ID_KEY)
                place = 0 if collection == words.USERS else 1
                if _add_value(email, start, stop, place, value, tape, text, cursor, names, first) < 0:
                    return False
        entry = tape[entry].after
    # One more may follow: the group.
    return bool(cursor[to.IDENTIFIERS] + 1 < names.size)


@borrowing
def _word_of(tape: Tape, entry: int, text: Bytes, known: Words) -> int:
    """Return the number of the word a string holds, -1 where it is no string or not known."""
    if entry < 0 or tape[entry].kind != STRING:
        return -1
    return word_at(text, tape[entry].start + 1, tape[entry].stop - 1, known)


@borrowing
def _add(
    type: int,
    collection: int,
    entry: int,
    tape: Tape,
    text: Bytes,
    starts: Ints,
    cursor: Longs,
    names: Tape,
    first: int,
) -> int:
    """Add the identifier at an entry of the tape; 1 if it is one, 0 if not, -1 if unusual."""
    if entry < 0:
        return 0
    return _add_value(
        type == words.EMAIL,
        starts[type],
        starts[type + 1],
        collection,
        entry,
        tape,
        text,
        cursor,
        names,
        first,
    )


@borrowing
def _add_value(
    email: bool,
    type_start: int,
    type_stop: int,
    collection: int,
    entry: int,
    tape: Tape,
    text: Bytes,
    cursor: Longs,
    names: Tape,
    first: int,
) -> int:
    start, stop = value_at(tape, entry, text, cursor)
    if email and stop > start:
        start, stop = _email(text, start, stop, cursor)
        if start < 0:
            return -1
    if stop == start:
        return 0
    return _add_span(type_start, type_stop, collection, start, stop, text, cursor, names, first)


@borrowing
def _add_column(
    type: int,
    collection: int,
    column: int,
    text: Bytes,
    starts: Ints,
    cursor: Longs,
    rows: Longs,
    names: Tape,
    first: int,
) -> None:
    """Add what stands in a column of the next row already."""
    start = rows[cursor[to.ROWS], 2 * column]
    stop = rows[cursor[to.ROWS], 2 * column + 1]
    if start >= 0:
        _add_span(starts[type], starts[type + 1], collection, start, stop, text, cursor, names, first)


@borrowing
def _add_span(
    type_start: int,
    type_stop: int,
    collection: int,
    start: int,
    stop: int,
    text: Bytes,
    cursor: Longs,
    names: Tape,
    first: int,
) -> int:
    last = cursor[to.IDENTIFIERS]
    if last == names.size:
        return -1
    for other in range(first, last):
        if (
            names[other].collection == collection
            and same(text, names[other].start, names[other].stop, start, stop)
            and same(text, names[other].type_start, names[other].type_stop, type_start, type_stop)
        ):
            return 1
    names[last].collection = collection
    names[last].type_start = type_start
    names[last].type_stop = type_stop
    names[last].start = start
    names[last].stop = stop
    cursor[to.IDENTIFIERS] = last + 1
    return 1


@borrowing
def _users_first(names: Tape, first: int, last: int) -> None:
    """Move the accounts behind the users, each in their order: an insertion, for they are few."""
    for place in range(first + 1, last):
        other = place
        while other > first and names[other - 1].collection > names[other].collection:
            _swap(names, other)
            other -= 1


@borrowing
def _swap(names: Tape, place: int) -> None:
    """Swap an identifier with the one before."""
    one, two = names[place - 1], names[place]
    one.collection, two.collection = two.collection, one.collection
    one.type_start, two.type_start = two.type_start, one.type_start
    one.type_stop, two.type_stop = two.type_stop, one.type_stop
    one.start, two.start = two.start, one.start
    one.stop, two.stop = two.stop, one.stop


@borrowing
def _email(text: Bytes, start: int, stop: int, cursor: Longs) -> Span:
    """Return a trimmed, lower-case ASCII e-mail; -1 where it is not ASCII."""
    while start < stop and _is_blank(text[start]):
        start += 1
    while start < stop and _is_blank(text[stop - 1]):
        stop -= 1
    upper = False
    for place in range(start, stop):
        if text[place] >= 128:
            return -1, -1
        upper |= 65 <= text[place] <= 90
    if not upper:
        return start, stop
    begin = cursor[to.PATCH]
    for place in range(stop - start):
        byte = text[start + place]
        text[begin + place] = byte + 32 if 65 <= byte <= 90 else byte
    cursor[to.PATCH] = begin + stop - start
    return begin, cursor[to.PATCH]


@borrowing
def _is_blank(byte: int) -> bool:
    """Tell whether Python's `str.strip` takes this ASCII character away."""
    return byte == 32 or 9 <= byte <= 13 or 28 <= byte <= 31
