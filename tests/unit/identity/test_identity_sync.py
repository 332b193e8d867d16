"""The identity journals of Profiles Sync, through the real pipeline."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline_driver import KEY, SECOND, START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.identity import facts
from profilelake.identity.sync import Announced, external_id_hash, sequence_texts
from profilelake.identity.sync_tables import EXTERNAL_ID_MAPPING_UPDATES, ID_GRAPH_UPDATES
from profilelake.pipeline import batch
from profilelake.profiles.journal import REGROUPED, TRAIT_UPDATES
from profilelake.semantics.identifiers import Identifier, ident_id, public_id, set_id
from profilelake.semantics.rules import segment_defaults
from profilelake.state import outbox
from sync_laws import journals_in_the_lake, journals_say_what_is
from sync_models import EXTERNAL_ID_MAPPING, ID_GRAPH, LAST_ROWS, ask

CUTS = {"one micro-batch": False, "one each": True}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, rules=segment_defaults())
    yield made
    made.close()


def send(desk: Desk, messages: list[Message], *, apart: bool) -> None:
    log = LogBuilder("00000000000000aa")
    records = [log.record(START + n * SECOND, [message]) for n, message in enumerate(messages)]
    for applied in [[record] for record in records] if apart else [records]:
        desk.apply(applied)
    desk.publish()


def profile(**named: str) -> str:
    """Return the id of the profile that this set founded."""
    ids = [ident_id(KEY, "users", Identifier(type, value)) for type, value in named.items()]
    return public_id("users", set_id(KEY, "users", ids))


def call(
    type: str, message_id: str, device: str | None = None, email: str | None = None, **more: Any
) -> Message:
    message: Message = {"type": type, "messageId": message_id, **more}
    if device is not None:
        message["anonymousId"] = device
    if email is not None:
        message["traits"] = {"email": email}
    return message


GRAPH = """
    SELECT segment_id, canonical_segment_id, triggering_event_type, triggering_event_id, timestamp
    FROM ws_default_sync.id_graph_updates ORDER BY seq
"""
MAPPINGS = """
    SELECT segment_id, external_id_type, external_id_value, triggering_event_id, __operation
    FROM ws_default_sync.external_id_mapping_updates ORDER BY seq
"""


@pytest.mark.parametrize("apart", CUTS.values(), ids=CUTS.keys())
def test_the_case_study_of_profiles_sync(desk: Desk, apart: bool) -> None:
    first, second, jane = "5285bc35-05ef-4d21", "b50e18a5-1b8d-451c", "jane.kim@segment.com"
    at = ["2022-05-02T14:01:00Z", "2022-05-02T14:01:47Z", "2022-06-22T10:47:15Z", "2022-06-22T10:48:00Z"]
    send(
        desk,
        [
            call("page", "event_1", first, timestamp=at[0]),
            call("identify", "event_2", first, jane, timestamp=at[1]),
            call("page", "event_3", second, timestamp=at[2]),
            call("identify", "event_4", second, jane, timestamp=at[3]),
        ],
        apart=apart,
    )
    graph, mappings, folded, mapped = ask(desk, GRAPH, MAPPINGS, ID_GRAPH, EXTERNAL_ID_MAPPING)
    one, two = profile(anonymous_id=first), profile(anonymous_id=second)
    assert graph == [
        (one, one, "page", "event_1", datetime.fromisoformat(at[0])),
        (two, two, "page", "event_3", datetime.fromisoformat(at[2])),
        (two, one, "identify", "event_4", datetime.fromisoformat(at[3])),
    ]
    assert mappings == [
        (one, "anonymous_id", first, "event_1", "CREATED"),
        (one, "email", jane, "event_2", "CREATED"),
        (two, "anonymous_id", second, "event_3", "CREATED"),
    ]
    assert sorted(folded) == sorted([(one, one), (two, one)])
    assert {row[1:] for row in mapped} == {
        ("anonymous_id", first, one, "CREATED"),
        ("anonymous_id", second, one, "CREATED"),
        ("email", jane, one, "CREATED"),
    }


@pytest.mark.parametrize("apart", CUTS.values(), ids=CUTS.keys())
def test_every_merge_says_so_of_all_that_are_part_of_the_merged(desk: Desk, apart: bool) -> None:
    send(
        desk,
        [
            *(call("track", f"m{n}", f"a{n}", event="Seen") for n in (1, 2, 3)),
            *(call("identify", f"m{7 - n}", f"a{n}", "e1") for n in (3, 2, 1)),
        ],
        apart=apart,
    )
    one, two, three = (profile(anonymous_id=f"a{n}") for n in (1, 2, 3))
    graph, folded = ask(desk, GRAPH, ID_GRAPH)
    assert [row[:4] for row in graph] == [
        (one, one, "track", "m1"),
        (two, two, "track", "m2"),
        (three, three, "track", "m3"),
        (three, two, "identify", "m5"),
        (two, one, "identify", "m6"),
        (three, one, "identify", "m6"),
    ]
    assert sorted(folded) == sorted([(one, one), (two, one), (three, one)])


def test_a_row_names_the_event_and_its_source(desk: Desk) -> None:
    send(desk, [call("track", "m1", "a1", event="Signed Up", timestamp="2026-01-02T03:04:05Z")], apart=False)
    (row,) = ask(desk, "SELECT * FROM ws_default_sync.external_id_mapping_updates")[0]
    received = datetime.fromtimestamp(START / SECOND, UTC)
    assert row == (
        external_id_hash("anonymous_id", "a1"),
        "anonymous_id",
        "a1",
        "0000000001000000000",
        received,
        profile(anonymous_id="a1"),
        "0000000001000000000",
        datetime.fromisoformat("2026-01-02T03:04:05Z"),
        "m1",
        "Signed Up",
        "shop",
        None,
        "shop",
        "track",
        received,
        "CREATED",
    )


def test_organisations_have_no_rows(desk: Desk) -> None:
    send(desk, [call("group", "m1", groupId="g1")], apart=False)
    assert ask(desk, GRAPH, MAPPINGS) == [[], []]


def test_a_late_event_that_moves_an_identifier_is_announced(tmp_path: Path) -> None:
    desk = Desk(tmp_path)  # two devices for a person, no more
    prompt, tardy = LogBuilder("00000000000000aa"), LogBuilder("00000000000000bb")

    def seen(user: str, device: str) -> Message:
        return call("track", f"{user}-{device}", device, event="Seen", userId=user)

    for second, user in ((10, "u1"), (20, "u2")):
        desk.apply([prompt.record(START + second * SECOND, [seen(user, "a1")])])
    desk.publish()
    # It was u2 who used the device first: the profile of u1 loses it.
    desk.apply([tardy.record(START + 5 * SECOND, [seen("u2", "a1")])])
    desk.publish()
    graph, mappings, folded, mapped, owners = ask(
        desk,
        GRAPH,
        MAPPINGS,
        LAST_ROWS,
        EXTERNAL_ID_MAPPING,
        "SELECT type, value, profile_id FROM identity_map JOIN identifiers USING (ident_id)",
    )
    desk.close()
    assert {row[1:4] for row in mapped} == set(owners)
    one, two = profile(user_id="u1", anonymous_id="a1"), profile(user_id="u2", anonymous_id="a1")
    assert folded == [(one, one), (two, two)] or folded == [(two, two), (one, one)]
    assert [row[:2] for row in graph] == [(one, one), (two, two)]
    assert (two, "anonymous_id", "a1") in [row[:3] for row in mappings]


def test_what_decisions_take_apart_is_announced(desk: Desk) -> None:
    log = LogBuilder("00000000000000aa")
    one, two = profile(anonymous_id="a1"), profile(anonymous_id="a2")
    messages = [
        call("track", "m1", "a1", event="Seen"),
        call("track", "m2", "a2", event="Seen"),
        call("identify", "m3", "a1", "e1"),
        call("identify", "m4", "a2", "e1"),
    ]
    desk.apply([log.record(START, messages)])
    devices = [ident_id(KEY, "users", Identifier("anonymous_id", device)).hex() for device in ("a1", "a2")]
    for second, apart in ((1, True), (2, False)):
        fact = facts.Unlink(by="somebody", collection="users", one=devices[0], other=devices[1], apart=apart)
        desk.apply([log.decision(START + second * SECOND, fact)])
    desk.publish()
    graph, mappings = ask(desk, GRAPH, MAPPINGS)
    assert [row[:2] for row in graph] == [(one, one), (two, two), (two, one), (two, two), (two, one)]
    decided_at = [datetime.fromtimestamp((START + n * SECOND) / SECOND, UTC) for n in (1, 2)]
    assert [row[2:] for row in graph[3:]] == [(None, None, at) for at in decided_at]
    # The device was announced with its own id, which leads to the right profile all along.
    assert [row[1:] for row in mappings] == [
        ("anonymous_id", "a1", "m1", "CREATED"),
        ("anonymous_id", "a2", "m2", "CREATED"),
        ("email", "e1", "m3", "CREATED"),
    ]


def test_an_identifier_that_is_taken_out_and_put_back_has_a_row_for_each(desk: Desk) -> None:
    log = LogBuilder("00000000000000aa")
    desk.apply([log.record(START, [call("identify", "m1", "a1", "e1")])])
    address = ident_id(KEY, "users", Identifier("email", "e1")).hex()
    for second, held in ((1, True), (2, False)):
        fact = facts.Quarantine(by="somebody", collection="users", ident=address, quarantined=held)
        desk.apply([log.decision(START + second * SECOND, fact)])
    desk.publish()
    rows, (mapped,) = ask(
        desk,
        """
            SELECT __operation, timestamp, uuid_ts, triggering_event_id
            FROM ws_default_sync.external_id_mapping_updates WHERE external_id_type = 'email' ORDER BY seq
        """,
        f"FROM ({EXTERNAL_ID_MAPPING}) WHERE external_id_type = 'email'",
    )
    at = [datetime.fromtimestamp((START + n * SECOND) / SECOND, UTC) for n in (1, 2)]
    assert rows[1:] == [("REMOVED", at[0], at[0], None), ("CREATED", at[1], at[1], None)]
    assert mapped[1:] == ("email", "e1", profile(email="e1", anonymous_id="a1"), "CREATED")


def test_an_id_of_which_nothing_is_left_stays_where_it_was(desk: Desk) -> None:
    log = LogBuilder("00000000000000aa")
    one, two = profile(anonymous_id="a1"), profile(email="e1")
    desk.apply(
        [log.record(START, [call("track", "m1", "a1", event="Seen"), call("identify", "m2", None, "e1")])]
    )
    desk.apply([log.record(START + SECOND, [call("identify", "m3", "a1", "e1")])])
    address = ident_id(KEY, "users", Identifier("email", "e1")).hex()
    fact = facts.Quarantine(by="somebody", collection="users", ident=address)
    desk.apply([log.decision(START + 2 * SECOND, fact)])
    desk.publish()
    (folded,) = ask(desk, LAST_ROWS)
    assert sorted(folded) == sorted([(one, one), (two, one)])
    journals_say_what_is(desk, *journals_in_the_lake(desk))


def test_a_rebuild_goes_on_with_the_journals(desk: Desk) -> None:
    messages = [
        *(call("track", f"m{n}", f"a{n}", event="Seen") for n in (1, 2, 3)),
        *(call("identify", f"m{7 - n}", f"a{n}", "e1") for n in (3, 2)),
    ]
    send(desk, messages, apart=True)
    before = ask(desk, GRAPH, MAPPINGS)
    desk.rebuild()
    desk.publish()
    assert ask(desk, GRAPH, MAPPINGS) == before
    log = LogBuilder("00000000000000bb")
    desk.apply([log.record(START + 60 * SECOND, [call("identify", "m6", "a1", "e1")])])
    desk.publish()
    one, two, three = (profile(anonymous_id=f"a{n}") for n in (1, 2, 3))
    graph, mappings = ask(desk, GRAPH, MAPPINGS)
    assert [row[:2] for row in graph[len(before[0]) :]] == [(two, one), (three, one)]
    assert mappings == before[1]
    assert desk.verify() == []


def test_a_rebuild_announces_what_the_journals_lack(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is where the program that wrote the tables knew no journals yet."""
    nothing = Announced(
        ID_GRAPH_UPDATES.schema().empty_table(), EXTERNAL_ID_MAPPING_UPDATES.schema().empty_table()
    )
    with monkeypatch.context() as older:
        older.setattr(batch, "announce", lambda *_: nothing)
        send(desk, [call("track", f"m{n}", f"a{n}", event="Seen") for n in (1, 2)], apart=True)
    desk.rebuild()
    desk.publish()
    one, two = profile(anonymous_id="a1"), profile(anonymous_id="a2")
    graph, mappings = ask(desk, GRAPH, MAPPINGS)
    assert [row[:4] for row in graph] == [(one, one, None, "m1"), (two, two, None, "m2")]
    assert sorted(mappings) == sorted(
        (profile(anonymous_id=device), "anonymous_id", device, event, "CREATED")
        for device, event in (("a1", "m1"), ("a2", "m2"))
    )
    journals_say_what_is(desk, *journals_in_the_lake(desk))
    assert desk.verify() == []


def test_corrections_of_a_rebuild_are_ordered_by_what_they_are_of(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Journals are read in no order; every engine leaves the same state all the same."""
    nothing = Announced(
        ID_GRAPH_UPDATES.schema().empty_table(), EXTERNAL_ID_MAPPING_UPDATES.schema().empty_table()
    )
    people = [(f"a{n}", f"e{n}") for n in range(16)]
    with monkeypatch.context() as older:
        older.setattr(batch, "announce", lambda *_: nothing)
        send(desk, [call("identify", f"m{device}", device, email) for device, email in people], apart=False)
    told = desk.lake.table(WORKSPACE, TRAIT_UPDATES)
    none = TRAIT_UPDATES.schema().empty_table()
    told.rewrite([file.location for file in told.files()], none, same_rows=False)
    desk.rebuild()
    with desk.state.read(WORKSPACE) as tx:
        ids, mappings, moved = (
            pa.concat_tables(outbox.parts(tx, WORKSPACE, table.name))
            for table in (ID_GRAPH_UPDATES, EXTERNAL_ID_MAPPING_UPDATES, REGROUPED)
        )
    assert ids.column("triggering_event_id").to_pylist() == [f"m{device}" for device, _ in people]
    idents = [
        ident_id(KEY, "users", Identifier(type, value))
        for type, value in zip(
            mappings.column("external_id_type").to_pylist(),
            mappings.column("external_id_value").to_pylist(),
            strict=True,
        )
    ]
    assert len(idents) == 2 * len(people)
    assert idents == sorted(idents)
    profiles = moved.column("profile").to_pylist()
    assert len(profiles) == len(people)
    assert profiles == sorted(profiles)


def test_a_rebuild_corrects_what_the_journals_say(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is where a state was lost with decisions that came after the tables were last written."""
    nothing = Announced(
        ID_GRAPH_UPDATES.schema().empty_table(), EXTERNAL_ID_MAPPING_UPDATES.schema().empty_table()
    )
    log = LogBuilder("00000000000000aa")
    messages = [
        *(call("track", f"m{n}", f"a{n}", event="Seen") for n in (1, 2, 3)),
        *(call("identify", f"m{7 - n}", f"a{n}", "e1") for n in (3, 2, 1)),
    ]
    desk.apply([log.record(START, messages)])
    address = ident_id(KEY, "users", Identifier("email", "e1")).hex()
    with monkeypatch.context() as silent:
        silent.setattr(batch, "announce", lambda *_: nothing)
        fact = facts.Quarantine(by="somebody", collection="users", ident=address)
        desk.apply([log.decision(START + SECOND, fact)])
    desk.publish()
    desk.rebuild()
    desk.publish()
    journals_say_what_is(desk, *journals_in_the_lake(desk))
    (folded,) = ask(desk, LAST_ROWS)
    assert sorted(folded) == sorted((profile(anonymous_id=f"a{n}"),) * 2 for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("type", "value", "digest"),
    [
        ("email", "jane.kim@segment.com", "bc269125e7a325f844980b80d7084928bbcaf304"),
        ("user_id", "Zoë-東京", "e47bc9ee0d1af88debaf5700028a167cf2e12b13"),
    ],
)
def test_the_hash_is_that_of_type_and_value(type: str, value: str, digest: str) -> None:
    assert external_id_hash(type, value) == digest


def test_seq_orders_as_text_and_as_a_number() -> None:
    texts = [*sequence_texts(9, 11).to_pylist(), *sequence_texts(10, 1).to_pylist()]
    assert texts == sorted(texts)
    assert [int(text) for text in texts] == sorted(map(int, texts))
    assert {len(text) for text in texts} == {19}
