"""What the views of Profiles Sync and of the warehouse must say after any history."""

import json
from collections import Counter
from typing import Any, Final

import duckdb
from hypothesis import strategies as st

from pipeline_arrivals import late
from pipeline_driver import WORKSPACE, Desk
from pipeline_laws import desk
from profilelake.eventlog import Record
from profilelake.identity.tables import IDENTIFIERS, IDENTITY_MAP
from profilelake.profiles.tables import PROFILES
from profilelake.views.attach import attach
from sync_laws import journals_in_the_lake, journals_say_what_is, with_decisions

CALLS: Final = {
    "identify": "identifies",
    "track": "tracks",
    "page": "pages",
    "screen": "screens",
    "group": "groups",
    "alias": "aliases",
}
Row = tuple[Any, ...]


def text(value: Any) -> str | None:
    """Return a trait as the views write it: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def traits_of_now(live: Desk, collection: str) -> dict[str, dict[str, Any]]:
    """Return the traits of each profile, from the state."""
    return {row[0]: json.loads(row[3]) for row in live.state_tables()[PROFILES.name] if row[1] == collection}


def written(row: dict[str, Any]) -> dict[str, str | None]:
    """Return the traits that a wide row shows, an object put together from its columns again."""
    rest = row.pop("_rest")
    assert rest is None or set(json.loads(rest)) == {"context"}, "an empty consent has no column"
    for name in ("x", "y"):
        deep = row.pop(f"{name}_deep", None)
        if deep is not None:
            row[name] = f'{{"deep":{deep}}}'
    return {
        name: text(value)
        for name, value in row.items()
        if value is not None and not name.startswith("context_")
    }


class Views:
    """The views over what a desk has published."""

    def __init__(self, live: Desk) -> None:
        self.connection = duckdb.connect()
        attach(self.connection, live.lake, WORKSPACE)

    def __enter__(self) -> "Views":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, query: str) -> list[Row]:
        rows: list[Row] = self.connection.sql(query).fetchall()
        return rows


def views_say_what_is(live: Desk) -> None:
    """Hold every view against the state; everything is published."""
    with Views(live) as views:
        graph = dict(views.ask("SELECT segment_id, canonical_segment_id FROM ws_default_sync.id_graph"))
        assert graph == journals_say_what_is(live, *journals_in_the_lake(live))
        assert graph == dict(
            views.ask("SELECT segment_id, canonical_segment_id FROM ws_default_sync.profile_merges")
        )
        _identifiers(live, views)
        _traits(live, views, graph)
        _events(views, graph)
        _latest(views)


def _identifiers(live: Desk, views: Views) -> None:
    tables = live.state_tables()
    owners = {row[0]: row[2] for row in tables[IDENTITY_MAP.name]}
    for collection, table in (("users", "user_identifiers"), ("accounts", "account_identifiers")):
        assert sorted(
            views.ask(f"SELECT canonical_segment_id, type, value FROM ws_default_sync.{table}")  # noqa: S608
        ) == sorted(
            (owners[row[0]], row[2], row[3])
            for row in tables[IDENTIFIERS.name]
            if row[1] == collection and row[0] in owners
        )


def _traits(live: Desk, views: Views, graph: dict[str, str]) -> None:
    for collection, table in (("users", "user_traits"), ("accounts", "account_traits")):
        found = views.ask(f"SELECT canonical_segment_id, name, value FROM ws_default_sync.{table}")  # noqa: S608
        now = traits_of_now(live, collection)
        assert sorted(found) == sorted(
            (profile, name, text(value)) for profile, traits in now.items() for name, value in traits.items()
        )
    people = traits_of_now(live, "users")
    told = views.ask("SELECT profile_id, traits, seq, uuid_ts FROM trait_updates ORDER BY seq")
    assert len({row[2] for row in told}) == len(told)
    assert [row[3] for row in told] == sorted(row[3] for row in told)
    last = {row[0]: json.loads(row[1]) for row in told}
    for profile, traits in people.items():
        assert last.get(profile, {}) == traits, "the last row of a profile is what is so"
    assert last.keys() <= graph.keys()
    wide = views.ask("SELECT * EXCLUDE (seq, uuid_ts, timestamp, etl_ts) FROM ws_default_sync.profile_traits")
    names = views.connection.sql(
        "SELECT * EXCLUDE (seq, uuid_ts, timestamp, etl_ts) FROM ws_default_sync.profile_traits"
    ).columns
    for row in (dict(zip(names, row, strict=True)) for row in wide):
        profile, merged_to = row.pop("canonical_segment_id"), row.pop("merged_to")
        assert row.pop("segment_id") == profile
        assert merged_to == (None if graph[profile] == profile else graph[profile])
        expected = people.get(profile, {}) if merged_to is None else {}
        # Of `x`, which is a number here and an object there, the column is text.
        assert written(row) == {name: text(value) for name, value in expected.items()}


def _events(views: Views, graph: dict[str, str]) -> None:
    now = dict(views.ask("SELECT message_id, profile_id FROM events_resolved"))
    kept = Counter(CALLS[type] for (type,) in views.ask("SELECT type FROM events"))
    for table in CALLS.values():
        stamped = views.ask(f"SELECT id, segment_id FROM ws_default_sync.{table}")  # noqa: S608
        ids = views.ask(f"SELECT id FROM ws_default_warehouse.{table}")  # noqa: S608
        assert len(stamped) == len(ids) == kept[table]
        for message, segment in stamped:
            profile = now[message]
            assert (None if segment is None else graph[segment]) == profile, "id_graph leads to the owner"
    bought = views.ask("SELECT event FROM events WHERE type = 'track'")
    if bought:
        assert len(views.ask("SELECT id FROM ws_default_warehouse.bought")) == len(bought)


def _latest(views: Views) -> None:
    for type, id, table in (("identify", "user_id", "users"), ("group", "group_id", "accounts")):
        calls = views.ask(
            f"SELECT {id}, traits, epoch_us(timestamp), position FROM events "  # noqa: S608
            f"WHERE type = '{type}' AND {id} IS NOT NULL"
        )
        folded: dict[str, dict[str, Any]] = {row[0]: {} for row in calls}
        for who, traits, _, _ in sorted(calls, key=lambda row: row[2:]):
            folded[who].update(json.loads(traits or "{}"))
        shown = f"SELECT * EXCLUDE (received_at, uuid_ts) FROM ws_default_warehouse.{table}"  # noqa: S608
        names = views.connection.sql(shown).columns
        assert {row[0]: written(dict(zip(names[1:], row[1:], strict=True))) for row in views.ask(shown)} == {
            who: {name: text(value) for name, value in traits.items() if value is not None}
            for who, traits in folded.items()
        }


def histories_with_decisions(records: list[Record], data: st.DataObject) -> None:
    """The views are right after late events and decisions, whenever the tables were published."""
    with desk() as live:
        for batch in data.draw(with_decisions(data.draw(late(records)))).batches:
            live.apply(batch)
            if data.draw(st.booleans()):
                live.publish(whole=data.draw(st.booleans()))
        live.publish()
        views_say_what_is(live)


def restarts_and_rebuilds(records: list[Record], data: st.DataObject) -> None:
    """They are after a restart and after a rebuild too, which announces no traits again."""
    with desk() as live:
        for batch in data.draw(with_decisions(data.draw(late(records)))).batches:
            live.apply(batch)
            data.draw(st.sampled_from([Desk.publish, Desk.restart, Desk.rebuild]))(live)
        live.publish()
        views_say_what_is(live)
        with Views(live) as views:
            before = views.ask("SELECT * FROM trait_updates ORDER BY seq")
        live.rebuild()
        live.publish()
        with Views(live) as views:
            assert views.ask("SELECT * FROM trait_updates ORDER BY seq") == before
