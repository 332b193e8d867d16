"""Step 0 of a rebuild: whether the facts are all there, part by part of set ids.

Account links and consent outlive events and are tables of their own. What an older program did not write of
them, and is still to be had from events, becomes files that a plan reads with the tables and commits at its end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import duckdb
import msgspec
import numpy as np
import pyarrow as pa

from profilelake.engines.engine import Cut, Engine
from profilelake.engines.jobs import Job
from profilelake.engines.keys import parts_by_id, power_of_two
from profilelake.identity.facts import Standing
from profilelake.identity.tables import IDENTIFIER_SETS
from profilelake.lake.handover import HandedFile, TableFiles
from profilelake.lake.pinned import PinnedFile, Shape, Share
from profilelake.lake.storage import Storage
from profilelake.landing.tables import EVENT_COPIES, EVENTS
from profilelake.pipeline.told_by_events import add_untold
from profilelake.plans.facts import FactFiles, Read, read_share
from profilelake.plans.rows import ID, LINKS, POSITION
from profilelake.plans.sizes import Sizes
from profilelake.plans.written import ids_of, places
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES

TIME: Final = pa.timestamp("us", tz="UTC")
_SET: Final = pa.schema([("set_id", ID)])
INPUTS: Final = {
    "shown": _SET,
    "known": _SET,
    "met": LINKS,
    "linked": LINKS,
    "said": pa.schema(
        [
            ("set_id", ID),
            ("timestamp", TIME),
            ("position", POSITION),
            ("received_at", TIME),
            ("source_id", pa.string()),
            ("message_id", pa.string()),
            ("consent", pa.string()),
        ]
    ),
    "written": pa.schema([("set_id", ID), ("position", POSITION)]),
}
_MET: Final = """
    SELECT set_id, account_set_id, position, message_id, source_id FROM {table}
    WHERE type = 'group' AND set_id IS NOT NULL AND account_set_id IS NOT NULL
"""
_QUERIES: Final[Mapping[str, Mapping[str, str]]] = {
    EVENTS.name: {
        "shown": "SELECT DISTINCT unnest([set_id, account_set_id]) AS set_id FROM events",
        "met": _MET.format(table=EVENTS.name),
        "said": """
            SELECT set_id, timestamp, position, received_at, source_id, message_id, consent FROM events
            WHERE set_id IS NOT NULL AND consent IS NOT NULL
        """,
    },
    EVENT_COPIES.name: {"met": _MET.format(table=EVENT_COPIES.name)},
    IDENTIFIER_SETS.name: {"known": "SELECT set_id FROM identifier_sets"},
    ACCOUNT_LINKS.name: {
        "linked": "SELECT set_id, account_set_id, position, message_id, source_id FROM account_links"
    },
    CONSENT_WRITES.name: {"written": "SELECT DISTINCT set_id, position FROM consent_writes"},
}
"""What is read of each table, by input."""


class Checked(msgspec.Struct, frozen=True):
    """What was found: sets of events that are not known, and files of what was not written."""

    missing: int
    untold: dict[str, list[HandedFile]]

    def added_to(self, files: FactFiles) -> FactFiles:
        """Return the tables with what they lacked."""
        for name, some in self.untold.items():
            files = files.adding(name, [PinnedFile(file.location, file.rows, file.size) for file in some])
        return files


def check_facts(
    engine: Engine,
    job: Job,
    files: FactFiles,
    tables: Mapping[str, TableFiles],
    held: Standing,
    sizes: Sizes,
) -> Checked:
    """Hold what is written of sets, account links and consent against all events.

    `tables` write the files of `account_links` and `consent_writes`. A step that the job remembers is not run again.
    """
    units = [share for name in sorted(_QUERIES) for share in files.tables[name].shares(sizes.share_bytes)]
    parts = power_of_two(sum(share.bytes for share in units) / sizes.part_bytes, least=engine.tasks)
    shapes = {name: files.tables[name].shape for name in _QUERIES}
    answers = job.step(
        "checked",
        lambda: engine.spread(
            "checked",
            units,
            _CutEvents(job.storage, shapes, parts),
            INPUTS,
            parts,
            _GatherUntold(tables[ACCOUNT_LINKS.name], tables[CONSENT_WRITES.name], held),
        ),
    )
    found = [msgspec.msgpack.decode(body, type=Checked) for _, body in sorted(answers.items())]
    untold = {
        name: [file for one in found for file in one.untold.get(name, ())]
        for name in (ACCOUNT_LINKS.name, CONSENT_WRITES.name)
    }
    return Checked(sum(one.missing for one in found), {name: some for name, some in untold.items() if some})


@dataclass(frozen=True)
class _CutEvents:
    """Cuts shares of tables by their sets: what events tell, and what is written of it."""

    storage: Storage
    shapes: dict[str, Shape]
    parts: int

    def __call__(self, share: Share) -> Iterator[Cut]:
        """Yield the rows of a share."""
        for name, query in _QUERIES[share.table].items():
            for rows in read_share(self.storage, self.shapes, share, Read(name, query)):
                mine = rows.filter(rows.column("set_id").is_valid()).cast(INPUTS[name])
                yield Cut(name, mine, parts_by_id(mine.column("set_id"), self.parts))


@dataclass(frozen=True)
class _GatherUntold:
    """Finds what is missing of one part, with the same queries as a lake in memory."""

    links: TableFiles
    consent: TableFiles
    held: Standing

    def __call__(self, part: int, rows: Mapping[str, pa.Table]) -> bytes:  # noqa: ARG002 - as in `Gather`
        """Return what was found, as `Checked`."""
        shown = ids_of(rows["shown"].combine_chunks(), "set_id")
        unknown = shown[places(ids_of(rows["known"].combine_chunks(), "set_id"), shown) < 0]
        added = self._untold(rows) if rows["met"].num_rows or rows["said"].num_rows else {}
        written = {
            files.definition.name: files.write(added[files.definition.name])
            for files in (self.links, self.consent)
            if files.definition.name in added and added[files.definition.name].num_rows
        }
        return msgspec.msgpack.encode(Checked(len(np.unique(unknown, axis=0)), written))

    def _untold(self, rows: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone='UTC'; SET threads=1; SET enable_progress_bar=false")
            for name, table in rows.items():
                connection.register(f"{name}_rows", table)
            connection.execute(
                """
                CREATE VIEW events AS
                SELECT 'group' AS type, set_id, account_set_id, position, message_id, source_id,
                       NULL::TIMESTAMPTZ AS timestamp, NULL::TIMESTAMPTZ AS received_at, NULL::VARCHAR AS consent
                FROM met_rows
                UNION ALL BY NAME
                SELECT 'said' AS type, set_id, position, message_id, source_id, timestamp, received_at, consent
                FROM said_rows
                """
            )
            connection.execute("CREATE VIEW event_copies AS FROM events LIMIT 0")
            connection.execute("CREATE VIEW account_links AS FROM linked_rows")
            connection.execute("CREATE VIEW consent_writes AS FROM written_rows")
            return add_untold(connection, self.held)
