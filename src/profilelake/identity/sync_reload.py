"""Take up the journals of Profiles Sync with a state that was made again.

A journal is not made again: what it says was announced. So what it said last is remembered, and what
the state says otherwise is announced as of now.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import duckdb
import pyarrow as pa

from profilelake.errors import Corrupt
from profilelake.identity.sync import REMOVED, USERS, Announced, Announcer, load_time, remember_load_time
from profilelake.identity.sync_plan import sync__last_ids, sync__last_mappings, sync__loaded_at
from profilelake.landing.tables import EVENTS
from profilelake.semantics.identifiers import parse_public_id
from profilelake.state.records import NOBODY, encode
from profilelake.state.store import Db, State
from profilelake.state.working import Working

ROWS_AT_ONCE: Final = 50_000


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
    places = {
        founding_set(segment): founding_set(profile)
        for segment, profile in zip(*(column.to_pylist() for column in rows.columns), strict=True)
    }
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
    last = {
        ident: None if segment is None else NOBODY if operation == REMOVED else founding_set(segment)
        for ident, segment, operation in zip(*(column.to_pylist() for column in rows.columns), strict=True)
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


def founding_set(text: str) -> bytes:
    """Return the key of the profile that a journal calls so."""
    parsed = parse_public_id(text)
    if parsed is None:
        raise Corrupt(f"reading the journals of Profiles Sync: {text!r} is no profile id; restore the tables")
    return parsed[1]
