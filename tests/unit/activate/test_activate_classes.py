"""Vector R1: what differs between two moments, by class."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from profilelake.activate import classes
from profilelake.audiences.tables import AUDIENCE_CHANGES

HOUR = 3_600_000_000


def row(at: int, profile: str, previous: str | None, value: str | None) -> dict[str, Any]:
    return {
        "sequence": at, "number": 0, "changed_at": datetime.fromtimestamp(at * 3600, UTC), "definition": "model",
        "kind": "trait", "version": 1, "collection": "users", "profile_id": profile, "value": value,
        "previous": previous, "cause": "event", "position": None, "idempotency_key": f"{at}{profile}",
    }  # fmt: skip


ROWS = [
    row(1, "1", None, "a"),
    row(1, "2", None, "b"),
    row(3, "2", "b", "x"),
    row(4, "2", "x", "c"),
    row(4, "3", None, "d"),
    row(5, "4", None, "gone"),
    row(6, "4", "gone", None),
    row(8, "1", "a", None),
]


@pytest.mark.parametrize(
    ("after", "until", "found"),
    [
        (0, 2, [("added", "1", "a"), ("added", "2", "b")]),
        (2, 7, [("updated", "2", "c"), ("added", "3", "d")]),
        (7, 9, [("deleted", "1", None)]),
        (0, 9, [("added", "2", "c"), ("added", "3", "d")]),
        (9, 10, []),
    ],
)
def test_classes(
    monkeypatch: pytest.MonkeyPatch, after: int, until: int, found: list[tuple[str, str, str | None]]
) -> None:
    table = pa.Table.from_pylist(ROWS, AUDIENCE_CHANGES.schema())

    def attach(connection: duckdb.DuckDBPyConnection, *_: Any) -> list[str]:
        connection.register("audience_changes", table)
        return ["audience_changes"]

    monkeypatch.setattr(classes, "attach", attach)
    shown: list[tuple[Any, ...]] = []
    classes.write_changes(
        Path(),
        "default",
        "model",
        after * HOUR,
        until * HOUR,
        lambda rows: shown.extend(rows.fetchall()),  # type: ignore[arg-type]
    )
    assert [(kind, profile, value) for kind, profile, _, _, value, _ in shown] == found
