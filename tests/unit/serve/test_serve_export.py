"""Whole tables as one stream, in each format."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from past_examples import World, identify, track, world
from pipeline_driver import SECOND, START, WORKSPACE
from profilelake.errors import Invalid
from profilelake.serve import export as exporting
from profilelake.serve.export import MEDIA_TYPES, Export, export

TRAITS = {"plan": "pro", "big": 12345678901234567890123, "quote": 'a "b", c', "email": "ana@example.org"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("export")) as made:
        made.feed(0, identify("m1", "u1", "a1", TRAITS), track("m2", "a2"))
        made.feed(1, {"type": "group", "groupId": "g1", "messageId": "m3", "traits": {"name": "ACME"}})
        made.desk.publish()
        made.desk.publisher.merge()
        made.feed(9, track("m4", "a1"))
        made.desk.publish()
        yield made


def exported(shop: World, table: str = "profiles", format: str = "ndjson", **options: Any) -> bytes:
    return b"".join(export(shop.past, WORKSPACE, Export(table, format, **options)))


def read(format: str, data: bytes) -> list[dict[str, Any]]:
    match format:
        case "arrow":
            rows: list[dict[str, Any]] = pa.ipc.open_stream(data).read_all().to_pylist()
            return rows
        case "parquet":
            return pyarrow.parquet.read_table(pa.BufferReader(data)).to_pylist()  # type: ignore[no-any-return]
        case "csv":
            return list(csv.DictReader(io.StringIO(data.decode())))
        case _:
            return [json.loads(line) for line in data.decode().splitlines()]


@pytest.mark.parametrize("format", MEDIA_TYPES)
@pytest.mark.parametrize("batch_rows", [1, 8_192])
def test_every_profile_is_there_once_in_every_format(
    shop: World, format: str, batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "BATCH_ROWS", batch_rows)
    rows = {row["profile_id"]: row for row in read(format, exported(shop, format=format))}
    (ana,) = [row for row in rows.values() if "ana@example.org" in str(row["identifiers"])]
    assert len(rows) == 3
    assert str(ana["event_count"]) == "2"
    assert "slot" not in ana
    traits = ana["traits"] if format == "ndjson" else json.loads(ana["traits"])
    assert traits == TRAITS
    if format in ("ndjson", "csv"):
        assert ana["last_seen_at"] == "2026-03-01T10:00:19.000000Z"


def test_numbers_stay_digit_by_digit(shop: World) -> None:
    assert b'"big":12345678901234567890123' in exported(shop)


@pytest.mark.parametrize(("collection", "count"), [("users", 2), ("accounts", 1), (None, 3)])
def test_one_collection(shop: World, collection: Any, count: int) -> None:
    assert len(read("ndjson", exported(shop, collection=collection))) == count


def test_only_what_was_seen_since(shop: World) -> None:
    (row,) = read("ndjson", exported(shop, since=START + 5 * SECOND))
    assert row["event_count"] == 2
    assert read("ndjson", exported(shop, since=START + 99 * SECOND)) == []
    ids = [row["message_id"] for row in read("ndjson", exported(shop, "events", since=START + SECOND))]
    assert sorted(ids) == ["m3", "m4"]


@pytest.mark.parametrize("format", MEDIA_TYPES)
def test_a_token_for_some_traits_sees_no_others(shop: World, format: str) -> None:
    data = exported(
        shop, format=format, traits=frozenset({"plan"}), resources=frozenset({"traits", "export"})
    )
    rows = read(format, data)
    shown = [row["traits"] if format == "ndjson" else json.loads(row["traits"]) for row in rows]
    assert sorted(map(str, shown)) == ["{'plan': 'pro'}", "{}", "{}"]
    assert [row["identifiers"] or None for row in rows] == [None] * 3
    assert b"ana@example.org" not in data


def test_a_token_that_opens_no_consent_sees_none_among_the_traits(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        traits = {"plan": "pro", "segment_consent_preference_ads": True}
        made.feed(0, identify("m1", "u1", None, traits))
        made.desk.publish()
        for resources, shown in (
            (frozenset({"traits", "export"}), {"plan": "pro"}),
            (frozenset({"traits", "consent", "export"}), traits),
            (None, traits),
        ):
            (row,) = read("ndjson", exported(made, resources=resources))
            assert row["traits"] == shown


def test_events_with_ids_in_hex(shop: World) -> None:
    rows = read("ndjson", exported(shop, "events"))
    assert sorted(row["message_id"] for row in rows) == ["m1", "m2", "m3", "m4"]
    (first,) = [row for row in rows if row["message_id"] == "m1"]
    assert len(bytes.fromhex(first["set_id"])) == 16
    assert first["traits"] == TRAITS
    assert first["context"] is None


@pytest.mark.parametrize(("table", "format"), [("cats", "csv"), ("profiles", "xml")])
def test_what_there_is_not(table: str, format: str) -> None:
    with pytest.raises(Invalid, match="it is one of"):
        Export(table, format)
