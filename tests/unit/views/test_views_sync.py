"""Profiles Sync as views, through the real pipeline."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline_driver import KEY, SECOND, START, WORKSPACE, Desk, LogBuilder
from profilelake.identity import facts
from profilelake.lake.reading import attach as attach_tables
from profilelake.pipeline import publish
from profilelake.profiles.journal import TRAIT_UPDATES
from profilelake.semantics.identifiers import Identifier, ident_id
from profilelake.semantics.rules import segment_defaults
from profilelake.views.attach import attach
from profilelake.views.sync import sync__account_links
from sync_models import PROFILE_TRAITS
from sync_vectors import CASE_STUDY, FIRST, JANE, REMOVAL, SECOND_DEVICE, TWO_PLANS, Sender, profile

Rows = list[tuple[Any, ...]]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, rules=segment_defaults())
    yield made
    made.close()


def ask(desk: Desk, *queries: str) -> list[Rows]:
    with duckdb.connect() as connection:
        attach(connection, desk.lake, WORKSPACE, " ".join(queries))
        return [connection.sql(query).fetchall() for query in queries]


def test_the_case_study(desk: Desk) -> None:
    Sender(desk).send(CASE_STUDY)
    one, two = profile(anonymous_id=FIRST), profile(anonymous_id=SECOND_DEVICE)
    pages, identifies, graph, merges, traits, wide, mapping, updates, model = ask(
        desk,
        "SELECT id, segment_id, event_source_id FROM ws_default_sync.pages ORDER BY id",
        "SELECT id, segment_id, email FROM ws_default_sync.identifies ORDER BY id",
        "SELECT segment_id, canonical_segment_id FROM ws_default_sync.id_graph",
        "SELECT segment_id, canonical_segment_id FROM ws_default_sync.profile_merges",
        "SELECT canonical_segment_id, name, value FROM ws_default_sync.user_traits",
        "SELECT canonical_segment_id, email, merged_to FROM ws_default_sync.profile_traits",
        "SELECT type, value, canonical_segment_id FROM ws_default_sync.user_identifiers",
        "SELECT segment_id, email, triggering_event_id FROM ws_default_sync.profile_traits_updates ORDER BY seq",
        PROFILE_TRAITS.format(after="0", trait="email"),
    )
    assert pages == [("event_1", one, "shop"), ("event_3", two, "shop")]
    assert identifies == [("event_2", one, JANE), ("event_4", two, JANE)]
    assert sorted(graph) == sorted(merges) == sorted([(one, one), (two, one)])
    assert traits == [(one, "email", JANE)]
    assert (
        sorted(wide, key=str)
        == sorted(model, key=str)
        == sorted([(one, JANE, None), (two, None, one)], key=str)
    )
    assert sorted(mapping) == sorted(
        [("anonymous_id", FIRST, one), ("anonymous_id", SECOND_DEVICE, one), ("email", JANE, one)]
    )
    assert updates == [(one, JANE, "event_2"), (one, JANE, "event_4")]


def test_a_trait_of_two_people_who_are_one(desk: Desk) -> None:
    sender = Sender(desk)
    sender.send(TWO_PLANS)
    one, two = profile(anonymous_id="a1"), profile(anonymous_id="a2")
    updates = """
        SELECT segment_id, plan, triggering_event_id, triggering_event_type, triggering_event_name, seq
        FROM ws_default_sync.profile_traits_updates ORDER BY seq
    """
    told, traits, model = ask(
        desk,
        updates,
        "SELECT canonical_segment_id, name, value, seq FROM ws_default_sync.user_traits",
        PROFILE_TRAITS.format(after="0", trait="plan"),
    )
    assert [row[:5] for row in told] == [
        (one, "free", "p1", "identify", None),
        (two, "pro", "p2", "identify", None),
        (one, "pro", "p4", "track", "Signed In"),
    ]
    assert [row[:3] for row in traits] == [(one, "plan", "pro")]
    assert sorted(model, key=str) == sorted([(one, "pro", None), (two, None, one)], key=str)
    sender.send([REMOVAL])
    removed, none, later, whole, wide = ask(
        desk,
        updates,
        "SELECT * FROM ws_default_sync.user_traits",
        PROFILE_TRAITS.format(after=told[-1][-1], trait="plan"),
        PROFILE_TRAITS.format(after="0", trait="plan"),
        "SELECT canonical_segment_id, plan, merged_to FROM ws_default_sync.profile_traits",
    )
    assert removed[-1][:3] == (one, None, "p5")
    assert none == []
    # What an incremental run finds has no value, so COALESCE(new, old) keeps the old one; and a whole
    # run finds that of the merged profile again. The view tells what is.
    assert (one, None, None) in later
    assert (one, "pro", None) in whole
    assert sorted(wide, key=str) == sorted([(one, None, None), (two, None, one)], key=str)


def test_a_profile_that_is_taken_apart_has_its_own_traits_again(desk: Desk) -> None:
    Sender(desk).send(TWO_PLANS)
    one, two = profile(anonymous_id="a1"), profile(anonymous_id="a2")
    devices = [ident_id(KEY, "users", Identifier("anonymous_id", device)).hex() for device in ("a1", "a2")]
    fact = facts.Unlink(by="somebody", collection="users", one=devices[0], other=devices[1])
    desk.apply([LogBuilder("00000000000000cc").decision(START + 60 * SECOND, fact)])
    desk.publish()
    traits, told, stamped, graph = ask(
        desk,
        "SELECT canonical_segment_id, value FROM ws_default_sync.user_traits",
        """
            SELECT segment_id, plan, triggering_event_id FROM ws_default_sync.profile_traits_updates
            QUALIFY row_number() OVER (PARTITION BY segment_id ORDER BY seq DESC) = 1
        """,
        "SELECT id, segment_id FROM ws_default_sync.identifies ORDER BY id",
        "SELECT segment_id, canonical_segment_id FROM ws_default_sync.id_graph",
    )
    assert sorted(traits) == sorted([(one, "free"), (two, "pro")])
    assert {row[0]: row[1] for row in told} == {one: "free", two: "pro"}
    assert stamped == [("p1", one), ("p2", two)]
    assert dict(graph)[one] == one
    assert dict(graph)[two] == two


def test_organisations(desk: Desk) -> None:
    group = {"type": "group", "groupId": "g1", "userId": "u1"}
    Sender(desk).send(
        [
            {**group, "messageId": "g_1", "traits": {"name": "Acme", "seats": 3}},
            {**group, "messageId": "g_2", "traits": {"seats": None}, "anonymousId": "a1"},
        ]
    )
    traits, identifiers, links, people = ask(
        desk,
        "SELECT canonical_segment_id, name, value FROM ws_default_sync.account_traits",
        "SELECT canonical_segment_id, type, value FROM ws_default_sync.account_identifiers",
        "SELECT canonical_segment_id, account_segment_id, triggering_event_id FROM ws_default_sync.account_links",
        "SELECT * FROM ws_default_sync.profile_traits_updates",
    )
    account = traits[0][0]
    assert account.startswith("acc_")
    assert traits == [(account, "name", "Acme")]
    assert identifiers == [(account, "group_id", "g1")]
    assert links == [(profile(user_id="u1"), account, "g_1")]
    assert people == []


def test_links_are_those_that_were_published(desk: Desk) -> None:
    """Once there is a table of them; where there is none they are looked for in the events."""
    Sender(desk).send([{"type": "group", "messageId": "g_1", "groupId": "g1", "userId": "u1"}])
    with duckdb.connect() as connection:
        attach_tables(connection, desk.lake, WORKSPACE)
        links = "SELECT set_id, account_set_id, position, received_at AS linked_at, message_id, source_id"
        connection.execute(f"CREATE TABLE links AS {links} FROM events WHERE false")
        connection.execute("CREATE SCHEMA t; CREATE VIEW t.set_map AS FROM main.set_map")
        connection.execute("CREATE VIEW t.account_links AS FROM main.links")
        assert connection.sql(sync__account_links("t", published=True)).fetchall() == []
        connection.execute(f"INSERT INTO links {links} FROM events")
        found = connection.sql(sync__account_links("t", published=True)).fetchall()
    assert [row[-2:] for row in found] == [("g_1", "shop")]


def test_a_rebuild_announces_no_traits_again_and_corrects_what_is_wrong(desk: Desk) -> None:
    Sender(desk).send(TWO_PLANS)
    told = "SELECT profile_id, traits, seq, uuid_ts, message_id FROM trait_updates ORDER BY seq"
    before = ask(desk, told)
    desk.rebuild()
    desk.publish()
    assert ask(desk, told) == before
    assert desk.verify() == []


def test_a_rebuild_announces_traits_that_never_were(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is where the program that wrote the tables knew no such journal yet."""
    with monkeypatch.context() as older:
        older.setattr(publish, "trait_updates", lambda *_, **__: TRAIT_UPDATES.schema().empty_table())
        Sender(desk).send(TWO_PLANS)
    desk.rebuild()
    desk.publish()
    (told,) = ask(desk, "SELECT profile_id, traits, type, timestamp FROM trait_updates")
    assert told == [(profile(anonymous_id="a1"), '{"plan":"pro"}', None, None)]


def test_several_changes_between_two_publications_are_one_row(desk: Desk) -> None:
    log = LogBuilder("00000000000000aa")
    for number, plan in enumerate(("free", "pro", "free")):
        message = {
            "type": "identify",
            "messageId": f"m{number}",
            "anonymousId": "a1",
            "traits": {"plan": plan},
        }
        desk.apply([log.record(START + number * SECOND, [message])])
    desk.publish()
    desk.apply(
        [
            log.record(
                START + 9 * SECOND,
                [{"type": "identify", "messageId": "m9", "anonymousId": "a1", "traits": {"plan": "free"}}],
            )
        ]
    )
    desk.publish()
    (told,) = ask(desk, "SELECT profile_id, traits, message_id FROM trait_updates")
    assert told == [(profile(anonymous_id="a1"), '{"plan":"free"}', "m2")]
