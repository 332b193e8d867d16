"""Every case of what the warehouse shows of calls: columns and types are found in the events."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from pipeline_driver import SECOND, START, WORKSPACE, Desk, LogBuilder
from profilelake.semantics.rules import segment_defaults
from profilelake.views.attach import attach

CASES = [
    pytest.param(case, id=case["about"].replace(" ", "_"))
    for case in yaml.safe_load((Path(__file__).parent / "warehouse" / "columns.yaml").read_text())["cases"]
]
SHOWN_ANYWAY = ("received_at", "sent_at", "timestamp", "original_timestamp", "uuid_ts")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, rules=segment_defaults())
    yield made
    made.close()


@pytest.mark.parametrize("case", CASES)
def test_case(case: dict[str, Any], desk: Desk) -> None:
    log = LogBuilder("00000000000000aa")
    messages = [{**event, "messageId": f"m{number}"} for number, event in enumerate(case["events"])]
    desk.apply([log.record(START + n * SECOND, [message]) for n, message in enumerate(messages)])
    desk.publish()
    with duckdb.connect() as connection:
        attach(connection, desk.lake, WORKSPACE)
        for table, rows in case["tables"].items():
            order = "id" if table in ("users", "accounts") else "timestamp"
            name = json.dumps(table, ensure_ascii=False)
            found = connection.sql(f"FROM ws_default_warehouse.{name} ORDER BY {order}")
            columns = found.columns
            assert not set(columns) & set(case.get("columns_absent", {}).get(table, ()))
            assert [_shown(columns, row) for row in found.fetchall()] == [
                {name: value for name, value in row.items() if value is not None} for row in rows
            ]


def _shown(columns: list[str], row: tuple[Any, ...]) -> dict[str, Any]:
    values = {
        name: value
        for name, value in zip(columns, row, strict=True)
        if value is not None and name not in SHOWN_ANYWAY
    }
    if str(values.get("id", "")).startswith("m"):
        del values["id"]
    return values
