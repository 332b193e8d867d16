"""What events say of account links and consent must be in the tables that outlive them."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from pipeline_driver import START, WORKSPACE, Desk, LogBuilder, tight_rules
from profilelake.identity.facts import Leave
from profilelake.lake.reading import attach
from profilelake.pipeline import batch
from profilelake.pipeline.rebuild import standing_of
from profilelake.pipeline.told_by_events import consent_untold, links_untold
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES
from profilelake.semantics.identifiers import Identifier, ident_id


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    log = LogBuilder("00000000000000aa")
    said = {"consent": {"categoryPreferences": {}}}
    call = {"type": "group", "groupId": "g1", "userId": "u1", "context": said}
    user, account = (
        ident_id(desk.setup.identifier_key, collection, Identifier(type, value)).hex()
        for collection, type, value in (("users", "user_id", "u1"), ("accounts", "group_id", "g1"))
    )
    desk.apply([log.record(START, [{**call, "messageId": "m1"}])])
    desk.apply([log.decision(START + 1, Leave(by="test", user=user, account=account))])
    desk.apply([log.record(START + 2, [{**call, "messageId": "m2"}])])
    assert desk.verify() == []
    with duckdb.connect() as opened:
        attach(opened, desk.lake, WORKSPACE)
        yield opened
    desk.close()


@pytest.mark.parametrize(
    ("kept", "missing"), [("m1", ["m2"]), ("m2", ["m1"]), ("m1', 'm2", []), ("", ["m1", "m2"])]
)
def test_a_spell_that_is_not_written_is_named(
    connection: duckdb.DuckDBPyConnection, kept: str, missing: list[str]
) -> None:
    standing = standing_of(connection, tight_rules())
    assert links_untold(connection, standing).num_rows == 0
    rows = connection.table(ACCOUNT_LINKS.name).to_arrow_table()
    chosen = [row for row in rows.to_pylist() if f"'{row['message_id']}'" in f"'{kept}'"]
    connection.register(ACCOUNT_LINKS.name, pa.Table.from_pylist(chosen, schema=rows.schema))
    try:
        untold = links_untold(connection, standing)
        assert untold.column("message_id").to_pylist() == missing
    finally:
        connection.unregister(ACCOUNT_LINKS.name)


def test_a_copy_before_a_decision_is_named_where_only_its_event_is_written(tmp_path: Path) -> None:
    """Somebody was in an account, left it, and is in it again by the second event behind that, not by the first."""
    desk, call = Desk(tmp_path), {"type": "group", "groupId": "g1", "userId": "u1"}
    log, late = LogBuilder("00000000000000aa"), LogBuilder("00000000000000bb")
    user, account = (
        ident_id(desk.setup.identifier_key, collection, Identifier(type, value)).hex()
        for collection, type, value in (("users", "user_id", "u1"), ("accounts", "group_id", "g1"))
    )
    desk.apply([log.record(START, [{**call, "messageId": "m1"}])])
    desk.apply([log.decision(START + 2, Leave(by="test", user=user, account=account))])
    desk.apply([log.record(START + 3, [{**call, "messageId": "m2"}, {**call, "messageId": "m3"}])])
    desk.apply([late.record(START + 1, [{**call, "messageId": "m2"}])])
    assert desk.verify() == []
    with duckdb.connect() as opened:
        attach(opened, desk.lake, WORKSPACE)
        standing = standing_of(opened, tight_rules())
        ((copied,),) = opened.sql("SELECT position FROM event_copies").fetchall()
        rows = opened.table(ACCOUNT_LINKS.name).to_arrow_table()
        places = rows.column("message_id").to_pylist()
        assert sorted(places) == ["m1", "m2", "m2", "m3"]
        for lost in (["m2 early"], ["m2 early", "m3"]):
            chosen = [
                row
                for row in rows.to_pylist()
                if row["message_id"] + " early" * (row["position"] == copied) not in lost
            ]
            opened.register(ACCOUNT_LINKS.name, pa.Table.from_pylist(chosen, schema=rows.schema))
            untold = links_untold(opened, standing)
            assert untold.column("message_id").to_pylist() == [one.partition(" ")[0] for one in lost]
            assert untold.column("position").to_pylist()[0] == copied
            opened.unregister(ACCOUNT_LINKS.name)
    desk.close()


def test_a_statement_that_is_not_written_is_named(connection: duckdb.DuckDBPyConnection) -> None:
    assert consent_untold(connection).num_rows == 0
    rows = connection.table(CONSENT_WRITES.name).to_arrow_table()
    connection.register(CONSENT_WRITES.name, rows.slice(0, 0))
    try:
        assert consent_untold(connection).column("message_id").to_pylist() == ["m2"]
    finally:
        connection.unregister(CONSENT_WRITES.name)


def test_a_rebuild_writes_what_an_older_program_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, message = LogBuilder("00000000000000aa"), {"type": "group", "groupId": "g1", "userId": "u1"}
    said = [{"consent": {"categoryPreferences": {"Ads": allowed}}} for allowed in (True, False, True)]
    calls = [{**message, "messageId": f"m{n}", "context": context} for n, context in enumerate(said)]
    desk, right = Desk(tmp_path / "older"), Desk(tmp_path / "right")
    with monkeypatch.context() as older:
        older.setattr(batch, "fold_links", lambda *_: ACCOUNT_LINKS.schema().empty_table())
        older.setattr(batch, "fold_consent", lambda *_: CONSENT_WRITES.schema().empty_table())
        desk.apply([log.record(START, calls)])
    right.apply([LogBuilder("00000000000000aa").record(START, calls)])
    assert [line.partition(":")[0] for line in desk.verify()] == [
        "table account_links",
        "table consent_writes",
    ]
    desk.rebuild()
    assert desk.verify() == right.verify() == []
    assert desk.state_tables() == right.state_tables()
    assert desk.lake_tables("account_links") == right.lake_tables("account_links")
    desk.close()
    right.close()
