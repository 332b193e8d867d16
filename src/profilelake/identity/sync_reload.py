"""Take up the journals of Profiles Sync with a state that was made again.

A journal is not made again: what it says was announced. So what it said last is remembered, and what
the state says otherwise is announced as of now.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.errors import Corrupt
from profilelake.identity.sync import REMOVED, USERS, Announced, Announcer, load_time, remember_load_time
from profilelake.identity.sync_plan import sync__last_ids, sync__last_mappings, sync__loaded_at
from profilelake.kernels.base62 import ID_BYTES, parse62
from profilelake.landing.tables import EVENTS
from profilelake.semantics.identifiers import PREFIX, PUBLIC_ID_DIGITS, parse_public_id
from profilelake.state.records import NOBODY, encode
from profilelake.state.store import Db, State
from profilelake.state.working import Working

ROWS_AT_ONCE: Final = 50_000
_PUBLIC_ID_BYTES: Final = 31
"""Of every profile id: both prefixes are of one length."""


def load_ids(state: State, workspace: str, connection: duckdb.DuckDBPyConnection, schema: str) -> list[bytes]:
    """Remember what was announced last of ids; return those of which it is not, or no longer, right.

    `connection` has the journals in `schema`.
    """
    wrong = []
    for rows in _parts(connection, sync__last_ids(schema)):
        wrong += _load_ids(state, workspace, rows)
    loaded_at = connection.sql(sync__loaded_at(schema)).fetchall()[0][0]
    if loaded_at is not None:
        with state.write() as tx:
            remember_load_time(tx, workspace, loaded_at)
    return wrong + _never_announced(state, workspace)


def load_mappings(
    state: State, workspace: str, connection: duckdb.DuckDBPyConnection, schema: str
) -> list[bytes]:
    """Do the same for identifiers, once what was announced of ids is right; `connection` has `identifiers` too."""
    wrong = []
    for rows in _parts(connection, sync__last_mappings(schema)):
        wrong += _load_mappings(state, workspace, rows)
    return wrong


def corrected(work: Working, ids: Sequence[bytes], idents: Sequence[bytes], now: int) -> Announced:
    """Return rows that say what is of these ids and identifiers, in whatever order these come; `now` is pipeline time."""
    work.load_sets(ids)
    work.load_idents(idents)
    announcer = Announcer(work, load_time(work.tx, work.workspace, now))
    announcer.settle_ids({})
    # Journals are read in no order, and `seq` numbers the rows.
    announcer.announce_mappings(sorted(idents))
    return announcer.rows(EVENTS.schema().empty_table())


def _parts(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    yield from connection.sql(query).to_arrow_reader(ROWS_AT_ONCE)


def _load_ids(state: State, workspace: str, rows: pa.RecordBatch) -> list[bytes]:
    """Remember where ids were announced to be; return those that are elsewhere."""
    places = dict(zip(*(founding_sets(column) for column in rows.columns), strict=True))
    moved = {segment: profile for segment, profile in places.items() if segment != profile}
    with state.write() as tx:
        sets = tx.sets(workspace, sorted(places))
        for record in sets.values():
            record.issued = True
        tx.put_many(workspace, Db.SET, [(key, encode(record)) for key, record in sets.items()])
        tx.put_many(workspace, Db.ISSUED, [(b"p" + segment, profile) for segment, profile in moved.items()])
        tx.put_many(
            workspace, Db.ISSUED, [(b"m" + profile + segment, b"") for segment, profile in moved.items()]
        )
    return [key for key, record in sets.items() if record.profile not in (NOBODY, places[key])]


def _never_announced(state: State, workspace: str) -> list[bytes]:
    with state.read(workspace) as tx:
        keys = iter(tx.keys(workspace, Db.PROFILE))
        found: list[bytes] = []
        while some := list(islice(keys, ROWS_AT_ONCE)):
            sets = tx.sets(workspace, some)
            found += [key for key, record in sets.items() if not record.issued and record.collection == USERS]
        return found


def _load_mappings(state: State, workspace: str, rows: pa.RecordBatch) -> list[bytes]:
    """Remember the ids that identifiers were announced with; return those of other profiles by now."""
    idents_told, segments, operations = rows.columns
    removed = pc.and_(pc.equal(operations, REMOVED), segments.is_valid())
    stamped = founding_sets(pc.if_else(removed, pa.scalar(None, segments.type), segments))
    last = {
        ident: NOBODY if gone else stamp
        for ident, stamp, gone in zip(idents_told.to_pylist(), stamped, removed.to_pylist(), strict=True)
    }
    wrong = []
    with state.write() as tx:
        idents = tx.idents(workspace, sorted(last))
        stamps = {ident: stamp for ident, stamp in last.items() if stamp and ident in idents}
        announced = tx.get_many(workspace, Db.ISSUED, {b"p" + stamp for stamp in stamps.values()})
        items = []
        for ident, record in idents.items():
            stamp = last[ident]
            if stamp is None:
                if record.profile != NOBODY:
                    wrong.append(ident)
                continue
            if stamp != record.profile or stamp == NOBODY:
                items.append((b"i" + ident, stamp))
            if announced.get(b"p" + stamp, stamp) != record.profile:
                wrong.append(ident)
        tx.put_many(workspace, Db.ISSUED, items)
    return wrong


def founding_sets(texts: pa.Array) -> list[bytes | None]:
    """Return what `founding_set` does of each profile id, None where there is none."""
    told = texts.drop_null()
    try:
        fixed = told.cast(pa.binary()).cast(pa.binary(_PUBLIC_ID_BYTES))
    except pa.ArrowInvalid:
        return [None if text is None else founding_set(text) for text in texts.to_pylist()]
    start = _PUBLIC_ID_BYTES * fixed.offset
    body = np.frombuffer(fixed.buffers()[1], dtype=np.uint8)[start : start + _PUBLIC_ID_BYTES * len(fixed)]
    rows = body.reshape(-1, _PUBLIC_ID_BYTES)
    ids, good = parse62(np.ascontiguousarray(rows[:, -PUBLIC_ID_DIGITS:]))
    known = np.zeros(len(rows), dtype=np.bool_)
    for prefix in PREFIX.values():
        known |= (rows[:, :-PUBLIC_ID_DIGITS] == np.frombuffer(prefix.encode(), dtype=np.uint8)).all(axis=1)
    for row in np.flatnonzero(~(known & good)):
        founding_set(told[int(row)].as_py())  # says what is wrong with it
    found = iter(
        pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(ID_BYTES), len(ids), [None, pa.py_buffer(ids)]
        ).to_pylist()
    )
    return [next(found) if there else None for there in texts.is_valid().to_pylist()]


def founding_set(text: str) -> bytes:
    """Return the key of the profile that a journal calls so."""
    parsed = parse_public_id(text)
    if parsed is None:
        raise Corrupt(f"reading the journals of Profiles Sync: {text!r} is no profile id; restore the tables")
    return parsed[1]
