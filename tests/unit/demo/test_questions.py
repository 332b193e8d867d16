"""What the demo asks of a small lake with known answers, and the lines it prints for other readers."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from profilelake.demo import questions
from profilelake.demo.report import duckdb_lines
from profilelake.identity import tables as identity
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.tables import TableDef
from profilelake.landing.tables import EVENTS
from profilelake.profiles.tables import PROFILES
from profilelake.semantics.identifiers import Identifier
from profilelake.settings import Layout

PROFILE = "use_" + "0" * 27


def ident(number: int) -> bytes:
    return bytes(15) + bytes([number])


def position(number: int) -> bytes:
    return bytes(31) + bytes([number])


def day(number: int) -> datetime:
    return datetime(2026, 2, number, 10, tzinfo=UTC)


def rows(table: TableDef, *given: dict[str, Any]) -> pa.Table:
    """Fill in what a case does not care about."""
    blank = {
        "string": "",
        "int32": 0,
        "int64": 0,
        "fixed_size_binary[16]": ident(0),
        "fixed_size_binary[32]": position(0),
    }
    schema = table.schema()
    complete = [
        {
            field.name: row.get(field.name, None if field.nullable else blank.get(str(field.type), day(1)))
            for field in schema
        }
        for row in given
    ]
    return pa.Table.from_pylist(complete, schema=schema)


def event(number: int, type: str, set_number: int, **columns: Any) -> dict[str, Any]:
    return {
        "position": position(number),
        "message_id": f"m{number}",
        "type": type,
        "timestamp": day(number),
        "received_at": day(20),
        "set_id": ident(set_number),
        **columns,
    }


ROWS = {
    EVENTS: (
        event(1, "page", 1, name="Home"),
        event(2, "track", 2, event="Order Completed", properties=json.dumps({"revenue": 12.5})),
        event(9, "track", 2, event="Order Completed", properties=json.dumps({"revenue": 30})),
        event(10, "track", 9, event="Order Completed", properties=json.dumps({"revenue": 0.25})),
    ),
    identity.SET_MAP: (
        {"set_id": ident(1), "profile_id": PROFILE},
        {"set_id": ident(2), "profile_id": PROFILE},
        {"set_id": ident(9)},
    ),
    identity.IDENTIFIERS: (
        {"ident_id": ident(1), "collection": "users", "type": "anonymous_id", "value": "a1"},
        {"ident_id": ident(2), "collection": "users", "type": "user_id", "value": "u1"},
        {"ident_id": ident(3), "collection": "users", "type": "email", "value": "refused@example.org"},
        {"ident_id": ident(4), "collection": "accounts", "type": "group_id", "value": "org"},
    ),
    identity.IDENTITY_MAP: (
        {"ident_id": ident(1), "collection": "users", "profile_id": PROFILE},
        {"ident_id": ident(2), "collection": "users", "profile_id": PROFILE},
        {"ident_id": ident(4), "collection": "accounts", "profile_id": "acc_" + "0" * 27},
    ),
    identity.IDENTITY_UPDATES: (
        {
            "ident_id": ident(2),
            "cause": "joined",
            "set_id": ident(2),
            "message_id": "m2",
            "position": position(2),
        },
        {
            "ident_id": ident(1),
            "cause": "created",
            "set_id": ident(1),
            "message_id": "m1",
            "position": position(1),
        },
    ),
    PROFILES: (
        {"profile_id": PROFILE, "collection": "users"},
        {"profile_id": "acc_x", "collection": "accounts"},
    ),
}


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        opened.execute("SET TimeZone='UTC'")
        for table, given in ROWS.items():
            opened.register(table.name, rows(table, *given))
        yield opened


def test_profiles_of_identifiers(connection: duckdb.DuckDBPyConnection) -> None:
    assert questions.profiles_of_identifiers(connection) == {
        Identifier("anonymous_id", "a1"): PROFILE,
        Identifier("user_id", "u1"): PROFILE,
    }


def test_counts(connection: duckdb.DuckDBPyConnection) -> None:
    assert questions.counts(connection) == questions.Counts(
        events=4, profiles=1, organisations=1, merged_identifiers=0
    )


def test_links_come_in_the_order_of_arrival_with_their_events(connection: duckdb.DuckDBPyConnection) -> None:
    assert questions.links(connection, PROFILE) == [
        questions.Link("2026-02-01 10:00", "page Home", "created", ("anonymous_id:a1",), "m1"),
        questions.Link("2026-02-02 10:00", "track Order Completed", "joined", ("user_id:u1",), "m2"),
    ]


def test_revenue_by_week(connection: duckdb.DuckDBPyConnection) -> None:
    names, found = questions.revenue_by_week(connection)
    assert names == ["week", "orders", "buyers", "revenue"]
    assert found == [("2026-02-02", 1, 1, 12.5), ("2026-02-09", 2, 1, 30.25)]


def test_the_duckdb_lines_read_the_tables_without_profilelake(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    lake = Lake.of(layout)
    lake.table("default", EVENTS).append(rows(EVENTS, *ROWS[EVENTS]), Progress(epoch="1", sequence=1))
    lake.close()
    lines = duckdb_lines(layout)
    assert not any("profilelake." in line for line in lines)
    program = "\n".join(lines)
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "Order Completed" in found.stdout
