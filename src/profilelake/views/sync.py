"""Profiles Sync as views: what models written for Segment's tables of that name read.

The journals `id_graph_updates` and `external_id_mapping_updates` are tables of their own; all else is
here. Queries find the tables and the journals in the schemas that they are given.
"""

from collections.abc import Iterator
from typing import Final

from profilelake.views.discover import Known
from profilelake.views.fields import choose, read, rest, show
from profilelake.views.places import Places, View

SEQ_OF_TIME: Final = "printf('%019d', epoch_us({time}))"
"""The order of writes of a trait, in the spelling of `seq`: when they happened."""

JOURNAL_COLUMNS: Final = (
    "segment_id",
    "seq",
    "uuid_ts",
    "timestamp",
    "received_at",
    "triggering_event_id",
    "triggering_event_name",
    "triggering_event_type",
    "triggering_event_source_id",
    "triggering_event_source_name",
    "triggering_event_source_slug",
)
"""Columns of `profile_traits_updates` besides those of traits."""
PROFILE_COLUMNS: Final = (
    "canonical_segment_id",
    "segment_id",
    "merged_to",
    "seq",
    "uuid_ts",
    "timestamp",
    "etl_ts",
)
"""Columns of `profile_traits` besides those of traits."""
TAKEN: Final = frozenset(
    {*JOURNAL_COLUMNS, *PROFILE_COLUMNS, "id", "user_id", "anonymous_id", "sent_at", "last_record"}
)
"""Names that models keep for themselves, or pass over: traits of such names are in `_rest`."""


def sync__id_graph(sync: str) -> str:
    """Which profile each id is part of now: its last row, whatever happened after it to its target."""
    return f"""
        SELECT segment_id, last.canonical_segment_id, last.uuid_ts, last.uuid_ts AS etl_ts,
               last.timestamp, last.seq
        FROM (
            SELECT segment_id, arg_max(
                {{'canonical_segment_id': canonical_segment_id, 'uuid_ts': uuid_ts,
                  'timestamp': timestamp, 'seq': seq}}, seq) AS last
            FROM {sync}.id_graph_updates
            GROUP BY segment_id
        )
    """  # noqa: S608 - quoted names here and below


def sync__external_id_mapping(sync: str) -> str:
    """Which profile each identifier belongs to now; none of those that belong to nobody."""
    return f"""
        SELECT coalesce(canonical_segment_id, last.segment_id) AS canonical_segment_id, external_id_value,
               external_id_type, external_id_hash, last.timestamp, last.uuid_ts, last.seq, last.received_at
        FROM (
            SELECT external_id_type, external_id_value, external_id_hash, arg_max(
                {{'segment_id': segment_id, 'timestamp': timestamp, 'uuid_ts': uuid_ts, 'seq': seq,
                  'received_at': received_at, 'operation': __operation}}, seq) AS last
            FROM {sync}.external_id_mapping_updates
            GROUP BY ALL
        ) LEFT JOIN (SELECT segment_id, canonical_segment_id FROM {sync}.id_graph) AS graph
          ON last.segment_id = graph.segment_id
        WHERE last.operation = 'CREATED'
    """  # noqa: S608


def sync__user_identifiers(sync: str) -> str:
    """One row per identifier of a person."""
    return f"""
        SELECT canonical_segment_id, external_id_type AS type, external_id_value AS value, seq, received_at,
               uuid_ts, timestamp
        FROM {sync}.external_id_mapping
    """  # noqa: S608


def sync__profile_merges(sync: str) -> str:
    """One row per id that was ever given out."""
    return f"""
        SELECT canonical_segment_id, segment_id, seq, uuid_ts AS received_at, uuid_ts, timestamp
        FROM {sync}.id_graph
    """  # noqa: S608


def sync__traits(tables: str, collection: str) -> str:
    """One row per profile and trait: its last write over the sets of the profile, unless it removed it."""
    return f"""
        SELECT canonical_segment_id, name, json_extract_string(last.value, '$') AS value,
               {SEQ_OF_TIME.format(time="last.timestamp")} AS seq, last.received_at,
               last.received_at AS uuid_ts, last.timestamp
        FROM (
            SELECT profile_id AS canonical_segment_id, trait AS name, arg_max(
                {{'value': value, 'timestamp': timestamp, 'received_at': received_at}},
                (timestamp, position)) AS last
            FROM {tables}.trait_writes AS writes
            JOIN {tables}.set_map AS sets ON sets.set_id = writes.set_id
            WHERE writes.collection = '{collection}' AND profile_id IS NOT NULL
            GROUP BY ALL
        )
        WHERE last.value IS NOT NULL
    """  # noqa: S608


def sync__account_identifiers(tables: str) -> str:
    """One row per identifier of an organisation."""
    return f"""
        SELECT profile_id AS canonical_segment_id, type, value,
               {SEQ_OF_TIME.format(time="created_at")} AS seq, created_at AS received_at,
               created_at AS uuid_ts, created_at AS timestamp
        FROM {tables}.identity_map AS map JOIN {tables}.identifiers AS known ON known.ident_id = map.ident_id
        WHERE known.collection = 'accounts'
    """  # noqa: S608


def sync__account_links(tables: str, *, published: bool) -> str:
    """One row per person and organisation that an event showed together, with the first such event.

    `published` says that there is a table of such sightings; else they are looked for in the events.
    """
    columns = "set_id, account_set_id, position, message_id, source_id"
    links = f"SELECT {columns}, linked_at FROM {tables}.account_links"  # noqa: S608
    if not published:
        links = f"""
            SELECT {columns}, received_at AS linked_at FROM {tables}.events
            WHERE set_id IS NOT NULL AND account_set_id IS NOT NULL
        """  # noqa: S608
    return f"""
        SELECT canonical_segment_id, account_segment_id, {SEQ_OF_TIME.format(time="first.linked_at")} AS seq,
               first.linked_at AS received_at, first.linked_at AS uuid_ts,
               first.message_id AS triggering_event_id, first.source_id AS triggering_event_source_id
        FROM (
            SELECT people.profile_id AS canonical_segment_id, accounts.profile_id AS account_segment_id,
                   arg_min({{'linked_at': linked_at, 'message_id': message_id, 'source_id': source_id}},
                           position) AS first
            FROM ({links}) AS links
            JOIN {tables}.set_map AS people ON people.set_id = links.set_id
            JOIN {tables}.set_map AS accounts ON accounts.set_id = links.account_set_id
            WHERE people.profile_id IS NOT NULL AND accounts.profile_id IS NOT NULL
            GROUP BY ALL
        )
    """  # noqa: S608


def sync__profile_traits_updates(tables: str, known: Known) -> str:
    """The journal of traits, each in a column."""
    traits = choose("traits", known.fields("identify", "traits"), TAKEN)
    inner = [
        """profile_id AS segment_id, seq, uuid_ts, timestamp, received_at, message_id AS triggering_event_id,
           name AS triggering_event_name, type AS triggering_event_type,
           source_id AS triggering_event_source_id, NULL::VARCHAR AS triggering_event_source_name,
           source_id AS triggering_event_source_slug""",
        *read(traits, "_t"),
        rest({"traits": traits}),
    ]
    outer = [*JOURNAL_COLUMNS, *show(traits, "_t"), "_rest"]
    return f"SELECT {', '.join(outer)} FROM (SELECT {', '.join(inner)} FROM {tables}.trait_updates)"  # noqa: S608


def sync__profile_traits(tables: str, sync: str, known: Known) -> str:
    """The traits of each profile now, and each id that is part of another with nothing but that."""
    traits = choose("last.traits", known.fields("identify", "traits"), TAKEN)
    inner = [
        """graph.segment_id AS canonical_segment_id, graph.segment_id,
           CASE WHEN graph.segment_id <> graph.canonical_segment_id THEN graph.canonical_segment_id END
           AS merged_to, greatest(graph.seq, last.seq) AS seq,
           greatest(graph.uuid_ts, last.uuid_ts) AS uuid_ts, last.timestamp,
           greatest(graph.uuid_ts, last.uuid_ts) AS etl_ts""",
        *read(traits, "_t"),
        rest({"traits": traits}),
    ]
    outer = [*PROFILE_COLUMNS, *show(traits, "_t"), "_rest"]
    return f"""
        SELECT {", ".join(outer)}
        FROM (
            SELECT {", ".join(inner)}
            FROM {sync}.id_graph AS graph LEFT JOIN (
                SELECT profile_id, arg_max(
                    {{'traits': traits, 'seq': seq, 'uuid_ts': uuid_ts, 'timestamp': timestamp}}, seq) AS last
                FROM {tables}.trait_updates
                GROUP BY profile_id
            ) ON profile_id = graph.segment_id AND graph.segment_id = graph.canonical_segment_id
        )
    """  # noqa: S608


def sync_views(places: Places, known: Known, tables: frozenset[str]) -> Iterator[View]:
    """Yield the views of what is now, and the journal of traits; each after those that it reads."""
    base, sync = places.schema("tables"), places.schema("sync")
    yield View("sync", "id_graph", sync__id_graph(sync))
    yield View("sync", "external_id_mapping", sync__external_id_mapping(sync))
    yield View("sync", "user_identifiers", sync__user_identifiers(sync))
    yield View("sync", "user_identifier", sync__user_identifiers(sync))
    yield View("sync", "profile_merges", sync__profile_merges(sync))
    yield View("sync", "user_traits", sync__traits(base, "users"))
    yield View("sync", "account_traits", sync__traits(base, "accounts"))
    yield View("sync", "account_identifiers", sync__account_identifiers(base))
    yield View("sync", "account_links", sync__account_links(base, published="account_links" in tables))
    if "trait_updates" in tables:
        yield View("sync", "profile_traits_updates", sync__profile_traits_updates(base, known))
        yield View("sync", "profile_traits", sync__profile_traits(base, sync, known))
