"""All events that were ever applied, for the few questions about identity that the state cannot answer.

They are in the lake or in the runs of recent events, and copies that came late wait in the outbox; read
inside a transaction of the state, these together have every event before it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.identity.rows import Sighting
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach, damage_told
from profilelake.landing.tables import EVENT_COPIES
from profilelake.pipeline.publish import waiting_rows
from profilelake.state import recent
from profilelake.state.heads import decode_set_head
from profilelake.state.store import Db, Tx

_COLUMNS: Final = ("key", "position", "message_id", "source_id")
_SCHEMA: Final = pa.schema(
    [("key", pa.binary()), ("position", pa.binary()), ("message_id", pa.string()), ("source_id", pa.string())]
)

_EVENTS: Final = """
    SELECT set_id AS key, position, message_id, source_id FROM events WHERE set_id IS NOT NULL
    UNION ALL
    SELECT account_set_id, position, message_id, source_id FROM events WHERE account_set_id IS NOT NULL
    UNION ALL
    SELECT set_id, position, message_id, source_id FROM event_copies WHERE set_id IS NOT NULL
    UNION ALL
    SELECT account_set_id, position, message_id, source_id FROM event_copies
    WHERE account_set_id IS NOT NULL
"""
_GROUPS: Final = ("set_id", "account_set_id", "position", "message_id", "source_id", "type")
_BEHIND: Final = """
    WITH every AS (
        FROM lake_groups
        UNION ALL BY NAME
        FROM recent_groups
    )
    SELECT set_id, account_set_id, position, message_id, source_id, type
    FROM every
    QUALIFY row_number() OVER (PARTITION BY message_id ORDER BY position) = 1 AND position > $position
"""
_GROUPS_IN_LAKE: Final = """
    CREATE TEMP VIEW lake_groups AS
    SELECT set_id, account_set_id, position, message_id, source_id, type FROM events WHERE type = 'group'
    UNION ALL
    SELECT set_id, account_set_id, position, message_id, source_id, type FROM event_copies
    WHERE type = 'group'
"""
_NO_GROUPS: Final = "CREATE TEMP VIEW lake_groups AS FROM recent_groups LIMIT 0"
_NO_EVENTS: Final = """
    SELECT ''::BLOB AS key, ''::BLOB AS position, '' AS message_id, '' AS source_id WHERE false
"""
_ALL: Final = "CREATE TEMP VIEW all_events AS (FROM lake_events) UNION ALL BY NAME (FROM recent_events)"
_SIGHTINGS: Final = """
    SELECT DISTINCT key, position, message_id, source_id
    FROM all_events JOIN wanted USING (key)
    ORDER BY position
"""
_WINDOWS: Final = """
    WITH seen AS (
        SELECT key, position, message_id, source_id,
               ('0x' || substr(hex(position), 1, 16))::BIGINT // wanted.length AS number
        FROM all_events JOIN wanted USING (key) ANTI JOIN retracted USING (key, position)
    )
    SELECT key, number, min(position) AS position,
           arg_min(message_id, position) AS message_id, arg_min(source_id, position) AS source_id
    FROM seen
    GROUP BY key, number
"""


class EventHistory:
    """Every event of a workspace, by the sets it shows. Opens the lake when it is first asked."""

    def __init__(self, lake: Callable[[], Lake], recent_directory: Path) -> None:
        """Look in the tables of `lake` and in the runs in that directory."""
        self._open = lake
        self._lake: Lake | None = None
        self._recent = recent_directory

    def sightings(self, tx: Tx, workspace: str, keys: Sequence[bytes]) -> list[tuple[bytes, Sighting]]:
        """Return every event that shows one of these sets, in order of position.

        Raises:
            Unavailable, Corrupt: the tables cannot be read.
        """
        with self._all(tx, workspace) as connection:
            connection.register("wanted", pa.table({"key": pa.array(keys, pa.binary())}))
            found = connection.sql(_SIGHTINGS).fetchall()
        return [(key, Sighting(*seen)) for key, *seen in found]

    def windows(
        self, tx: Tx, workspace: str, lengths: Mapping[int, int], retracted: Mapping[bytes, Collection[bytes]]
    ) -> Iterable[tuple[bytes, int, Sighting]]:
        """Return, per set and window, the first event; `lengths` in microseconds by collection number.

        Events at the positions `retracted`, by set, are passed over.

        Raises:
            Unavailable, Corrupt: the tables cannot be read.
        """
        wanted = [
            (key, lengths[head.collection])
            for key, head in tx.decoded(
                workspace, Db.SET, list(tx.keys(workspace, Db.SET)), decode_set_head
            ).items()
            if head.collection in lengths
        ]
        keys = pa.array([key for key, _ in wanted], pa.binary())
        with self._all(tx, workspace) as connection:
            connection.register(
                "wanted", pa.table({"key": keys, "length": pa.array([n for _, n in wanted], pa.int64())})
            )
            gone = [(key, place) for key, places in retracted.items() for place in places]
            connection.register(
                "retracted",
                pa.table(
                    {
                        "key": pa.array([key for key, _ in gone], pa.binary()),
                        "position": pa.array([place for _, place in gone], pa.binary()),
                    }
                ),
            )
            found = connection.sql(_WINDOWS).fetchall()
        return [(key, number, Sighting(*seen)) for key, number, *seen in found]

    def behind(self, tx: Tx, workspace: str, position: bytes) -> pa.Table:
        """Return the group events behind a position, each where its first copy stands.

        Raises:
            Unavailable, Corrupt: the tables cannot be read.
        """
        schema = pa.schema([EVENT_COPIES.schema().field(name) for name in _GROUPS])
        parts = [recent.read_keys(self._recent, run, _GROUPS) for run in recent.load(tx, workspace)]
        parts.append(waiting_rows(tx, workspace, EVENT_COPIES).select(_GROUPS))
        groups = pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in parts)])
        # After the runs: what left them since is in the lake by now.
        with duckdb.connect() as connection, damage_told():
            names = attach(connection, self._opened(), workspace)
            connection.register("recent_groups", groups.filter(pc.field("type") == "group"))
            known = "events" in names and "event_copies" in names
            connection.execute(_GROUPS_IN_LAKE if known else _NO_GROUPS)
            return connection.sql(_BEHIND, params={"position": position}).to_arrow_table().cast(schema)

    def _opened(self) -> Lake:
        if self._lake is None:
            self._lake = self._open()
        return self._lake

    @contextmanager
    def _all(self, tx: Tx, workspace: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection with the view `all_events`; an event may stand in it twice."""
        runs = [
            recent.read_keys(self._recent, run, _COLUMNS).cast(_SCHEMA) for run in recent.load(tx, workspace)
        ]
        copies = waiting_rows(tx, workspace, EVENT_COPIES)
        for column in ("set_id", "account_set_id"):
            keyed = copies.select([column, *_COLUMNS[1:]]).rename_columns(_COLUMNS)
            runs.append(keyed.filter(pc.is_valid(keyed.column("key"))).cast(_SCHEMA))
        # After the runs: what left them since is in the lake by now.
        with duckdb.connect() as connection, damage_told():
            names = attach(connection, self._opened(), workspace)
            events = _EVENTS if "events" in names and "event_copies" in names else _NO_EVENTS
            connection.execute(f"CREATE TEMP VIEW lake_events AS {events}")  # one of two constants
            connection.register("recent_events", pa.concat_tables([_SCHEMA.empty_table(), *runs]))
            connection.execute(_ALL)
            yield connection
