"""Collects the identifiers of one event, as `semantics.extraction` does: same places, same order."""

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
AS_SENT, TRIMMED, LOWER, COMPOSED = range(4)
"""What `semantics.rules.Normaliser` says, by number; ASCII is composed already."""
TRAITS_ROOT, PROPERTIES_ROOT, CONTEXT_ROOT = range(3)
"""Parts of an event in which a path begins, by number: `semantics.extraction.PATH_ROOTS`."""
_EVERYDAY_IDENTIFIERS: Final = 16
"""At least as many as an event can name outside of custom types, paths and external ids."""


@borrowing
def add_identifiers(
    kind: int,
    hint: int,
    tape: Tape,
    context: Ints,
    own_context: int,
    batch_context: int,
    traits: int,
    properties: int,
    text: Bytes,
    known: Words,
    starts: Ints,
    custom: Ints,
    paths: Ints,
    normalisers: Ints,
    cursor: Longs,
    rows: Longs,
    names: Tape,
) -> int:
    """Add what the next row names; return how many, -1 where one is unusual or there is no room.

    `context` holds the entries of the known keys of the event's context. `custom`, `paths` and
    `normalisers` are those of `landing._vocabulary`. `hint`: an alias names its previousId.
    """
    row = cursor[to.ROWS]
    first = cursor[to.IDENTIFIERS]
    if first + _EVERYDAY_IDENTIFIERS + custom.shape[0] + paths.shape[0] > names.size:
        return -1
    about = context[words.TRAITS_KEY]
    if not _add_fields(
        kind == words.ALIAS and hint != 0, about, tape, traits, properties, text, starts, normalisers, cursor,
        rows, names, first,
    ) or not _add_devices(context, tape, text, known, starts, normalisers, cursor, names, first):  # fmt: skip
        return -1

    own = traits if kind == words.IDENTIFY or kind == words.GROUP else properties
    if kind == words.ALIAS:
        own = -1
    for type in range(custom.shape[0]):
        found = _add_custom(custom[type], own, tape, text, starts, normalisers, cursor, names, first)
        if found == 0:
            found = _add_custom(custom[type], about, tape, text, starts, normalisers, cursor, names, first)
        if found < 0:
            return -1
    if not _add_external(
        context[words.EXTERNAL_KEY], paths.shape[0], tape, text, known, normalisers, cursor, names, first
    ):
        return -1
    if _add_column(words.GROUP_ID, 1, to.GROUP_ID, text, starts, normalisers, cursor, rows, names, first) < 0:
        return -1
    if not _add_paths(
        paths, own_context, batch_context, tape, traits, properties, text, starts, normalisers, cursor, names,
        first,
    ):  # fmt: skip
        return -1
    last = cursor[to.IDENTIFIERS]
    _users_first(names, first, last)
    for place in range(first, last):
        names[place].row = row
    return int(last - first)


@borrowing
def _add_fields(
    hint: bool,
    about: int,
    tape: Tape,
    traits: int,
    properties: int,
    text: Bytes,
    starts: Ints,
    normalisers: Ints,
    cursor: Longs,
    rows: Longs,
    names: Tape,
    first: int,
) -> bool:
    """Add user id, e-mail and anonymous ids; False where one is unusual."""
    user = _add_column(words.USER_ID, 0, to.USER_ID, text, starts, normalisers, cursor, rows, names, first)
    email = member(tape, traits, words.EMAIL)
    found = _add(words.EMAIL, 0, email, tape, text, starts, normalisers, cursor, names, first)
    if found == 0:
        email = member(tape, about, words.EMAIL)
        found = _add(words.EMAIL, 0, email, tape, text, starts, normalisers, cursor, names, first)
    if found == 0:
        email = member(tape, properties, words.EMAIL)
        found = _add(words.EMAIL, 0, email, tape, text, starts, normalisers, cursor, names, first)
    anonymous = _add_column(
        words.ANONYMOUS_ID, 0, to.ANONYMOUS_ID, text, starts, normalisers, cursor, rows, names, first
    )
    previous = 0
    if hint:
        previous = _add_column(
            words.ANONYMOUS_ID, 0, to.PREVIOUS_ID, text, starts, normalisers, cursor, rows, names, first
        )
    return bool(user >= 0 and found >= 0 and anonymous >= 0 and previous >= 0)


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
def _add_paths(
    paths: Ints,
    own_context: int,
    batch_context: int,
    tape: Tape,
    traits: int,
    properties: int,
    text: Bytes,
    starts: Ints,
    normalisers: Ints,
    cursor: Longs,
    names: Tape,
    first: int,
) -> bool:
    """Add what stands at paths of types that the event has not named yet; False where it is unusual."""
    for row in range(paths.shape[0]):
        path = paths[row]
        entry = _at_path(path, tape, traits, properties, own_context, batch_context)
        if (
            entry >= 0
            and not _is_named(path, text, starts, cursor, names, first)
            and _add(path[0], path[1], entry, tape, text, starts, normalisers, cursor, names, first) < 0
        ):
            return False
    return True


@borrowing
def _at_path(
    path: Ints, tape: Tape, traits: int, properties: int, own_context: int, batch_context: int
) -> int:
    """Return the entry at a path, -1 where there is none; what the event says itself wins over its batch."""
    if path[2] == TRAITS_ROOT:
        entry = member(tape, traits, path[3])
    elif path[2] == PROPERTIES_ROOT:
        entry = member(tape, properties, path[3])
    else:
        entry = member(tape, own_context, path[3])
        if entry < 0:
            entry = member(tape, batch_context, path[3])
    for place in range(4, path.size):
        if path[place] >= 0:
            entry = member(tape, entry, path[place])
    return int(entry)


@borrowing
def _is_named(path: Ints, text: Bytes, starts: Ints, cursor: Longs, names: Tape, first: int) -> bool:
    """Tell whether the event names an identifier of the path's type already."""
    start, stop = starts[path[0]], starts[path[0] + 1]
    for other in range(first, cursor[to.IDENTIFIERS]):
        if names[other].collection == path[1] and same(
            text, names[other].type_start, names[other].type_stop, start, stop
        ):
            return True
    return False


@borrowing
def _add_custom(
    custom: Ints,
    part: int,
    tape: Tape,
    text: Bytes,
    starts: Ints,
    normalisers: Ints,
    cursor: Longs,
    names: Tape,
    first: int,
) -> int:
    """Add the identifier a part holds under one of the keys of a custom type."""
    found = 0
    for place in range(2, custom.size):
        if found == 0 and custom[place] >= 0:
            entry = member(tape, part, custom[place])
            found = _add(custom[0], custom[1], entry, tape, text, starts, normalisers, cursor, names, first)
    return found


@borrowing
def _add_devices(
    context: Ints,
    tape: Tape,
    text: Bytes,
    known: Words,
    starts: Ints,
    normalisers: Ints,
    cursor: Longs,
    names: Tape,
    first: int,
) -> bool:
    """Add the identifiers of device and browser; False where one is unusual."""
    device = context[words.DEVICE_KEY]
    system = _word_of(tape, member(tape, device, words.TYPE_KEY), text, known)
    worst = 0
    if system == words.ANDROID or system == words.IOS:
        # The three types of a system follow each other in the list of words.
        type = words.ANDROID_ID if system == words.ANDROID else words.IOS_ID
        id = member(tape, device, words.ID_KEY)
        worst = min(worst, _add(type, 0, id, tape, text, starts, normalisers, cursor, names, first))
        tracking = member(tape, device, words.TRACKING_KEY)
        if tracking >= 0 and tape[tracking].kind == TRUE:
            idfa = member(tape, device, words.ADVERTISING_KEY)
            found = _add(type + 1, 0, idfa, tape, text, starts, normalisers, cursor, names, first)
            worst = min(worst, found)
        token = member(tape, device, words.TOKEN_KEY)
        worst = min(worst, _add(type + 2, 0, token, tape, text, starts, normalisers, cursor, names, first))
    analytics = member(tape, context[words.INTEGRATIONS_KEY], words.ANALYTICS_KEY)
    client = member(tape, analytics, words.CLIENT_ID_KEY)
    found = _add(words.GA_CLIENT_ID, 0, client, tape, text, starts, normalisers, cursor, names, first)
    return bool(min(worst, found) >= 0)


@borrowing
def _add_external(
    listed: int,
    to_follow: int,
    tape: Tape,
    text: Bytes,
    known: Words,
    normalisers: Ints,
    cursor: Longs,
    names: Tape,
    first: int,
) -> bool:
    """Add the identifiers of `context.externalIds`; False where one is unusual or they are too many.

    A group and `to_follow` others may follow them.
    """
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
                word = word_at(text, start, stop, known)
                value = member(tape, entry, words.ID_KEY)
                place = 0 if collection == words.USERS else 1
                normaliser = normalisers[place, word] if word >= 0 else AS_SENT
                if _add_value(normaliser, start, stop, place, value, tape, text, cursor, names, first) < 0:
                    return False
        entry = tape[entry].after
    return bool(cursor[to.IDENTIFIERS] + 1 + to_follow < names.size)


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
    normalisers: Ints,
    cursor: Longs,
    names: Tape,
    first: int,
) -> int:
    """Add the identifier at an entry of the tape; 1 if it is one, 0 if not, -1 if unusual."""
    if entry < 0:
        return 0
    return _add_value(
        normalisers[collection, type],
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
    normaliser: int,
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
    start, stop = _written(normaliser, text, start, stop, cursor)
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
    normalisers: Ints,
    cursor: Longs,
    rows: Longs,
    names: Tape,
    first: int,
) -> int:
    """Add what stands in a column of the next row already; 1 if it is one, 0 if not, -1 if unusual."""
    start = rows[cursor[to.ROWS], 2 * column]
    stop = rows[cursor[to.ROWS], 2 * column + 1]
    if start < 0:
        return 0
    start, stop = _written(normalisers[collection, type], text, start, stop, cursor)
    if start < 0:
        return -1
    if stop == start:
        return 0
    return _add_span(starts[type], starts[type + 1], collection, start, stop, text, cursor, names, first)


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
def _written(normaliser: int, text: Bytes, start: int, stop: int, cursor: Longs) -> Span:
    """Return a value as its normaliser writes it; -1 where only the reference knows, beyond ASCII."""
    if normaliser == AS_SENT:
        return start, stop
    while start < stop and _is_blank(text[start]):
        start += 1
    while start < stop and _is_blank(text[stop - 1]):
        stop -= 1
    upper = False
    for place in range(start, stop):
        if text[place] >= 128 and (normaliser != TRIMMED or place == start or place == stop - 1):
            return -1, -1
        upper |= 65 <= text[place] <= 90
    if normaliser == TRIMMED or not upper:
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
