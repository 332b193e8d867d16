"""The compiled form of `semantics.events`: strict, clean documents to slices of text and numbers.

A document that holds anything unusual (equal keys, odd times, a boolean where an id belongs ...) is
refused whole, and `parse` asks the reference. So everything here may be short: what it accepts,
it must understand exactly as the reference does, and a property test holds it to that.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from profilelake.kernels.json_tape import (
    ARRAY,
    ESCAPED,
    NULL,
    NUMBER,
    OBJECT,
    REFUSED,
    STRING,
    TRUE,
    Bytes,
    Ints,
    Tape,
    Words,
    borrowing,
    has_key,
    member,
    read,
    word_at,
)
from profilelake.landing import _scan_rows as to
from profilelake.landing import _scan_words as words
from profilelake.landing._scan_names import add_identifiers, value_at
from profilelake.landing._scan_rows import Longs
from profilelake.landing._scan_times import NO_TIME, ODD_TIME, first_time, time_at
from profilelake.semantics.events import EVENT_BYTES_MAX, INHERITED_BYTES_MAX
from profilelake.semantics.times import TIME_MIN

_TYPES = words.ALIAS + 1
_TEXT_KEYS = np.array(
    [
        words.MESSAGE_ID_KEY,
        words.EVENT_KEY,
        words.NAME_KEY,
        words.USER_ID_KEY,
        words.ANONYMOUS_ID_KEY,
        words.GROUP_ID_KEY,
        words.PREVIOUS_ID_KEY,
    ]
)
"""The keys behind the first text columns."""
_EMPTY_OBJECT_BYTES = 2


@borrowing
def scan(
    source: Bytes,
    documents: Tape,
    known: Words,
    starts: Ints,
    custom: Ints,
    paths: Ints,
    normalisers: Ints,
    tape: Tape,
    room: Ints,
    fields: Ints,
    text: Bytes,
    cursor: Longs,
    rows: Longs,
    names: Tape,
    failures: Tape,
    refused: npt.NDArray[np.bool_],
) -> None:
    """Read every document; mark those left to the reference in `refused`, which add nothing.

    The text begins with the words of the vocabulary and `{}`; `starts` says where each word
    begins, its last element where the words end. `custom`, `paths` and `normalisers` are those of
    `landing._vocabulary`. `fields` is room for the entries of known keys.
    """
    for document in range(documents.size):
        row, name, failure, patch = (
            cursor[to.ROWS],
            cursor[to.IDENTIFIERS],
            cursor[to.FAILURES],
            cursor[to.PATCH],
        )
        done = False
        if documents[document].type > to.UNREADABLE:
            begin, end = documents[document].start, documents[document].stop
            written = read(source[begin:end], 0, end - begin, text, cursor[to.TEXT], tape, room, known)
            if written != REFUSED:
                cursor[to.TEXT] = written
                done = _document(
                    documents,
                    document,
                    known,
                    starts,
                    custom,
                    paths,
                    normalisers,
                    tape,
                    fields,
                    text,
                    cursor,
                    rows,
                    names,
                    failures,
                )
        if not done:
            cursor[to.ROWS], cursor[to.IDENTIFIERS], cursor[to.FAILURES] = row, name, failure
            cursor[to.PATCH] = patch
            refused[document] = True


@borrowing
def _document(
    documents: Tape,
    document: int,
    known: Words,
    starts: Ints,
    custom: Ints,
    paths: Ints,
    normalisers: Ints,
    tape: Tape,
    fields: Ints,
    text: Bytes,
    cursor: Longs,
    rows: Longs,
    names: Tape,
    failures: Tape,
) -> bool:
    """Read the events of the document on the tape; False where one of them is unusual."""
    context, integrations, sent = -1, -1, NO_TIME
    item, end = 0, 1
    if documents[document].type == to.BATCH:
        batch = member(tape, 0, words.BATCH_KEY)
        if batch < 0 or tape[batch].kind != ARRAY:
            return False
        context, fine = _object(tape, member(tape, 0, words.CONTEXT_KEY))
        integrations, fine_too = _object(tape, member(tape, 0, words.INTEGRATIONS_KEY))
        if not fine or not fine_too or not _can_inherit(tape, context, integrations):
            return False
        sent = time_at(tape, text, member(tape, 0, words.SENT_AT_KEY))
        if sent == ODD_TIME:
            return False
        item, end = batch + 1, tape[batch].after
    index = 0
    while item < end:
        if index == documents[document].events:
            return False
        kind = tape[item].kind
        if kind != OBJECT and kind != ARRAY:
            # Where a bare value stood in the source is not on the tape.
            return False
        status = to.NOT_AN_OBJECT
        row, first_name = cursor[to.ROWS], cursor[to.IDENTIFIERS]
        _put(rows, row, to.MESSAGE_ID, -1, -1)
        if kind == OBJECT:
            status = _event(
                documents, document, item, known, starts, custom, paths, normalisers, tape, fields, text,
                cursor, rows, names, context, integrations, sent,
            )  # fmt: skip
        if status == to.UNUSUAL:
            return False
        if status == to.ACCEPTED:
            rows[row, to.ROW_DOCUMENT] = document
            rows[row, to.ROW_INDEX] = index
            cursor[to.ROWS] += 1
        else:
            cursor[to.IDENTIFIERS] = first_name
            failure = failures[cursor[to.FAILURES]]
            failure.document = document
            failure.index = index
            failure.status = status
            failure.id_start = rows[row, 2 * to.MESSAGE_ID]
            failure.id_stop = rows[row, 2 * to.MESSAGE_ID + 1]
            failure.start = documents[document].start + tape[item].source_start
            failure.stop = documents[document].start + tape[item].source_stop
            cursor[to.FAILURES] += 1
        index += 1
        item = tape[item].after if documents[document].type == to.BATCH else end
    return bool(index == documents[document].events)


@borrowing
def _can_inherit(tape: Tape, context: int, integrations: int) -> bool:
    """Tell whether what a batch hands down is plain: small, and naming nobody."""
    size = 0
    if context >= 0:
        size += tape[context].source_stop - tape[context].source_start
        key = context + 1
        while key < tape[context].after:
            # Identifiers, consent and addresses in a batch's context are left to the reference.
            if tape[key].word >= 0 and tape[key].word != words.LIBRARY_KEY:
                return False
            key = tape[key + 1].after
    if integrations >= 0:
        size += tape[integrations].source_stop - tape[integrations].source_start
    # The reference counts the four bytes of a null too: so near the limit, it decides.
    return size + 8 <= INHERITED_BYTES_MAX


# ---- one event -------------------------------------------------------------------------------


@borrowing
def _event(  # noqa: C901 - the steps of the reference, in its order
    documents: Tape,
    document: int,
    item: int,
    known: Words,
    starts: Ints,
    custom: Ints,
    paths: Ints,
    normalisers: Ints,
    tape: Tape,
    fields: Ints,
    text: Bytes,
    cursor: Longs,
    rows: Longs,
    names: Tape,
    batch_context: int,
    batch_integrations: int,
    batch_sent: int,
) -> int:
    """Fill the next row; return the status, `UNUSUAL` to leave the document to the reference."""
    facts = documents[document]
    row = cursor[to.ROWS]
    message, context = fields[0], fields[1]
    _collect(tape, item, message)
    size = tape[item].source_stop - tape[item].source_start
    # All an event can add to the text: its parts once more with what they inherit, an address,
    # and each of its values unescaped and in lower case for every type that reads it.
    copies = 4 + 2 * (1 + custom.shape[0] + paths.shape[0])
    address = facts.address_stop - facts.address_start
    if cursor[to.PATCH] + copies * size + 2 * INHERITED_BYTES_MAX + address + 256 > text.size:
        return to.UNUSUAL
    for column in range(_TEXT_KEYS.size):
        if not _put_text(tape, message[_TEXT_KEYS[column]], text, cursor, rows, row, column):
            return to.UNUSUAL
    if size > EVENT_BYTES_MAX:
        return to.TOO_LARGE
    kind = facts.type
    if kind < 0:
        kind = _type(tape, message[words.TYPE_KEY], text, known, facts.default_type)
        if kind < 0:
            return to.UNKNOWN_TYPE
    _put(rows, row, to.TYPE, starts[kind], starts[kind + 1])

    own_context, fine_context = _object(tape, message[words.CONTEXT_KEY])
    properties, fine_properties = _object(tape, message[words.PROPERTIES_KEY])
    traits, fine_traits = _object(tape, message[words.TRAITS_KEY])
    integrations, fine_integrations = _object(tape, message[words.INTEGRATIONS_KEY])
    if not (fine_context and fine_properties and fine_traits and fine_integrations):
        return to.UNUSUAL
    _collect(tape, own_context, context)
    if kind == words.IDENTIFY and traits < 0:
        traits = _inner(tape, context[words.TRAITS_KEY])

    if kind == words.TRACK and rows[row, 2 * to.EVENT] < 0:
        return to.NO_EVENT
    if kind == words.GROUP and rows[row, 2 * to.GROUP_ID] < 0:
        return to.NO_GROUP
    if kind == words.ALIAS and rows[row, 2 * to.PREVIOUS_ID] < 0:
        return to.NO_PREVIOUS
    named = add_identifiers(
        kind, facts.hint, tape, context, own_context, batch_context, traits, properties, text, known, starts,
        custom, paths, normalisers, cursor, rows, names,
    )  # fmt: skip
    if named <= 0:
        return to.NO_IDENTIFIER if named == 0 else to.UNUSUAL

    if not _put_times(facts, tape, message, text, rows, row, batch_sent):
        return to.UNUSUAL

    empty = starts[-1]
    if not _put_context(facts, own_context, batch_context, tape, context, text, cursor, rows, row, empty):
        return to.UNUSUAL
    category = message[words.CATEGORY_KEY]
    if (
        (kind == words.PAGE or kind == words.SCREEN)
        and category >= 0
        and not _is_absent(tape, category)
        and member(tape, properties, words.CATEGORY_KEY) < 0
    ):
        start = _open_copy(tape, properties, text, cursor)
        _add(text, start, tape[category - 1].start, tape[category].stop, cursor)
        _close_copy(text, start, cursor, rows, row, to.PROPERTIES)
    else:
        _put_part(tape, properties, rows, row, to.PROPERTIES, empty)
    _put_part(tape, traits, rows, row, to.TRAITS, empty)
    _put_inherited(tape, integrations, batch_integrations, text, cursor, rows, row, to.INTEGRATIONS, empty)
    return to.ACCEPTED


@borrowing
def _put_times(
    facts: Any, tape: Tape, message: Ints, text: Bytes, rows: Longs, row: int, batch_sent: int
) -> bool:
    """Fill the times; False where one is spelt unusually."""
    own, first = message[words.TIMESTAMP_KEY], message[words.ORIGINAL_KEY]
    sent = batch_sent
    if sent == NO_TIME:
        sent = time_at(tape, text, message[words.SENT_AT_KEY])
    if sent == NO_TIME:
        sent = facts.sent_at
    happened = first_time(tape, text, own, first)
    original = happened
    correcting = sent
    if facts.type == to.LINE:
        if happened == NO_TIME:
            happened = time_at(tape, text, message[words.RECEIVED_AT_KEY])
        original = first_time(tape, text, first, own)
        correcting = NO_TIME
    if happened == ODD_TIME or original == ODD_TIME or sent == ODD_TIME:
        return False
    rows[row, to.ORIGINAL] = original
    rows[row, to.SENT] = sent
    rows[row, to.TIMESTAMP] = _happened_at(facts.received_at, happened, correcting)
    return True


@borrowing
def _happened_at(received_at: int, original: int, sent: int) -> int:
    if original == NO_TIME:
        return received_at
    happened = original
    if sent != NO_TIME:
        happened = received_at - (sent - original)
        if happened < TIME_MIN:
            happened = original
    return min(happened, received_at)


@borrowing
def _collect(tape: Tape, mapping: int, entries: Ints) -> None:
    """Note the entry of the value of each known key of an object, -1 for those it has not."""
    entries[:] = -1
    if mapping < 0:
        return
    key = mapping + 1
    end = tape[mapping].after
    while key < end:
        word = tape[key].word
        if word >= 0:
            entries[word] = key + 1
        key = tape[key + 1].after


@borrowing
def _is_absent(tape: Tape, entry: int) -> bool:
    """Tell whether a value is null or the empty string."""
    if tape[entry].kind == STRING:
        return bool(tape[entry].stop - tape[entry].start == 2)
    return bool(tape[entry].kind == NULL)


@borrowing
def _object(tape: Tape, entry: int) -> tuple[int, bool]:
    """Return the entry of a part that must be an object, -1 where absent; False where it is none."""
    if entry < 0 or _is_absent(tape, entry):
        return -1, True
    if tape[entry].kind == OBJECT or (tape[entry].kind == ARRAY and tape[entry].after == entry + 1):
        return entry, True
    return -1, False


@borrowing
def _inner(tape: Tape, entry: int) -> int:
    """Return the entry of an object inside a part, -1 where there is none."""
    found, _ = _object(tape, entry)
    return found


@borrowing
def _type(tape: Tape, entry: int, text: Bytes, known: Words, default: int) -> int:
    if entry < 0 or _is_absent(tape, entry):
        return default
    if tape[entry].kind != STRING:
        return -1
    word = word_at(text, tape[entry].start + 1, tape[entry].stop - 1, known)
    return word if word < _TYPES else -1


# ---- columns of a row ------------------------------------------------------------------------


@borrowing
def _put(rows: Longs, row: int, column: int, start: int, stop: int) -> None:
    rows[row, 2 * column] = start
    rows[row, 2 * column + 1] = stop


@borrowing
def _put_text(tape: Tape, entry: int, text: Bytes, cursor: Longs, rows: Longs, row: int, column: int) -> bool:
    """Fill a text column; False where the field holds what is neither text nor a number."""
    if entry >= 0:
        kind = tape[entry].kind
        if kind != NULL and kind != STRING and kind != ESCAPED and kind != NUMBER:
            return False
    start, stop = value_at(tape, entry, text, cursor)
    if start == stop:
        start, stop = -1, -1
    _put(rows, row, column, start, stop)
    return True


@borrowing
def _put_part(tape: Tape, entry: int, rows: Longs, row: int, column: int, empty: int) -> None:
    """Fill a JSON column with a part as it stands in the text, `[]` as the object it is meant to be."""
    if entry < 0:
        _put(rows, row, column, -1, -1)
    elif tape[entry].kind == ARRAY:
        _put(rows, row, column, empty, empty + _EMPTY_OBJECT_BYTES)
    else:
        _put(rows, row, column, tape[entry].start, tape[entry].stop)


@borrowing
def _put_inherited(
    tape: Tape,
    own: int,
    batch: int,
    text: Bytes,
    cursor: Longs,
    rows: Longs,
    row: int,
    column: int,
    empty: int,
) -> None:
    """Fill a JSON column with the event's own part and what it inherits from the batch's."""
    if own < 0 or batch < 0:
        _put_part(tape, max(own, batch), rows, row, column, empty)
        return
    start = _open_copy(tape, own, text, cursor)
    _add_inherited(tape, own, batch, text, start, cursor)
    _close_copy(text, start, cursor, rows, row, column)


@borrowing
def _put_context(
    facts: Any,
    own: int,
    batch: int,
    tape: Tape,
    context: Ints,
    text: Bytes,
    cursor: Longs,
    rows: Longs,
    row: int,
    empty: int,
) -> bool:
    """Fill context, consent and library; False where an address must be put in another one's place."""
    _put_part(tape, _inner(tape, context[words.CONSENT_KEY]), rows, row, to.CONSENT, empty)
    library = context[words.LIBRARY_KEY]
    if library < 0 and batch >= 0:
        library = member(tape, batch, words.LIBRARY_KEY)
    name = member(tape, library, words.NAME_KEY)
    if name >= 0 and tape[name].kind == NUMBER:
        name = -1
    start, stop = value_at(tape, name, text, cursor)
    if start == stop:
        start, stop = -1, -1
    _put(rows, row, to.LIBRARY, start, stop)

    direct, ip = context[words.DIRECT_KEY], context[words.IP_KEY]
    wanted = facts.browser != 0 or (direct >= 0 and tape[direct].kind == TRUE)
    if wanted and ip >= 0 and _is_absent(tape, ip):
        return False
    if not wanted or ip >= 0 or facts.address_start == facts.address_stop:
        _put_inherited(tape, own, batch, text, cursor, rows, row, to.CONTEXT, empty)
        return True
    start = _open_copy(tape, own if own >= 0 else batch, text, cursor)
    if own >= 0 and batch >= 0:
        _add_inherited(tape, own, batch, text, start, cursor)
    _add(text, start, facts.address_start, facts.address_stop, cursor)
    _close_copy(text, start, cursor, rows, row, to.CONTEXT)
    return True


# ---- copies with more members ----------------------------------------------------------------


@borrowing
def _open_copy(tape: Tape, part: int, text: Bytes, cursor: Longs) -> int:
    """Begin a copy of an object, or of nothing, to which members can be added; return its start."""
    start = cursor[to.PATCH]
    text[start] = 123
    cursor[to.PATCH] = start + 1
    if part >= 0:
        _copy(text, tape[part].start + 1, tape[part].stop - 1, cursor)
    return int(start)


@borrowing
def _add(text: Bytes, start: int, begin: int, end: int, cursor: Longs) -> None:
    """Add the member `text[begin:end]` to the copy that began at `start`."""
    if cursor[to.PATCH] > start + 1:
        text[cursor[to.PATCH]] = 44
        cursor[to.PATCH] += 1
    _copy(text, begin, end, cursor)


@borrowing
def _add_inherited(tape: Tape, own: int, batch: int, text: Bytes, start: int, cursor: Longs) -> None:
    """Add the members of the batch's part that the event's own has not."""
    key = batch + 1
    end = tape[batch].after
    while key < end:
        if not has_key(tape, own, key, text):
            _add(text, start, tape[key].start, tape[key + 1].stop, cursor)
        key = tape[key + 1].after


@borrowing
def _close_copy(text: Bytes, start: int, cursor: Longs, rows: Longs, row: int, column: int) -> None:
    text[cursor[to.PATCH]] = 125
    cursor[to.PATCH] += 1
    _put(rows, row, column, start, cursor[to.PATCH])


@borrowing
def _copy(text: Bytes, start: int, stop: int, cursor: Longs) -> None:
    begin = cursor[to.PATCH]
    for place in range(stop - start):
        text[begin + place] = text[start + place]
    cursor[to.PATCH] = begin + stop - start
