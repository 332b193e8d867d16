"""Digests of rows: the same for the same rows however they were read, another one for others."""

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_driver import START, WORKSPACE, Desk, LogBuilder
from pipeline_history import batches, history
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.errors import Invalid, NotFound
from profilelake.plans import digests
from profilelake.plans.digests import Digest, digest, digest_tables
from profilelake.profiles.tables import PROFILES

UTC = datetime.UTC
ROW: dict[str, Any] = {
    "id": b"0" * 16,
    "at": datetime.datetime(2026, 3, 1, 10, 0, 0, 7, UTC),
    "day": datetime.date(1969, 12, 31),
    "events": 7,
    "share": 0.5,
    "known": True,
    "text": "é",
    "listed": [{"a": 1, "b": None}, None],
}
NARROW = pa.schema(
    [
        ("id", pa.binary(16)),
        ("at", pa.timestamp("us", "UTC")),
        ("day", pa.date32()),
        ("events", pa.int16()),
        ("share", pa.float32()),
        ("known", pa.bool_()),
        ("text", pa.string()),
        ("listed", pa.list_(pa.struct([("a", pa.int32()), ("b", pa.string())]))),
    ]
)
WIDE = pa.schema(
    [
        ("listed", pa.large_list(pa.struct([("a", pa.int64()), ("b", pa.large_string())]))),
        ("text", pa.dictionary(pa.int32(), pa.string())),
        ("known", pa.bool_()),
        ("share", pa.float64()),
        ("events", pa.int64()),
        ("day", pa.date64()),
        ("at", pa.timestamp("ms", "Europe/Berlin")),
        ("id", pa.large_binary()),
    ]
)


def rows(*some: dict[str, Any], schema: pa.Schema = NARROW) -> pa.Table:
    return pa.Table.from_pylist(list(some), schema=schema)


def test_types_that_hold_the_same_are_the_same() -> None:
    round_row = ROW | {"at": datetime.datetime(2026, 3, 1, 10, 0, 0, 7000, UTC)}
    nothing = dict.fromkeys(ROW)
    assert digest([rows(round_row, nothing)]) == digest([rows(nothing, round_row, schema=WIDE)])


@pytest.mark.parametrize("name", sorted(ROW))
def test_any_other_value_is_another_digest(name: str) -> None:
    other = {
        "id": b"1" * 16,
        "at": datetime.datetime(2026, 3, 1, 10, 0, 0, 8, UTC),
        "day": datetime.date(1970, 1, 1),
        "events": -7,
        "share": 0.25,
        "known": False,
        "text": "e\u0301",
        "listed": [{"a": 1, "b": ""}, None],
    }
    found = {str(digest([rows(ROW | {name: value})])) for value in (ROW[name], other[name], None)}
    assert len(found) == 3


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | st.text(max_size=3)), max_size=12), st.randoms())
def test_neither_order_nor_parts_matter_but_how_often_a_row_is_there_does(
    values: list[tuple[int, str | None]], rng: Any
) -> None:
    def table(some: list[tuple[int, str | None]]) -> pa.Table:
        return pa.table(
            {
                "n": pa.array([n for n, _ in some], pa.int64()),
                "t": pa.array([t for _, t in some], pa.string()),
            }
        )

    whole = digest([table(values)])
    shuffled = rng.sample(values, len(values))
    cut = rng.randint(0, len(values))
    assert digest([table(shuffled[:cut]), table(shuffled[cut:])]) == whole
    assert digest([table(shuffled[:cut])]) + digest([table(shuffled[cut:])]) == whole
    assert whole.rows == len(values)
    if values:
        assert str(digest([table([*values, values[0]])])) != str(whole)
        assert digest([table(values[1:])]) != whole


def test_a_digest_stays_what_it_is() -> None:
    """Digests of different programs are compared: another one here breaks that."""
    assert str(digest([rows(ROW)])) == "01e088a5b8343e32e2c24422bc21cbcc"
    assert str(Digest()) == "0" * 32


def test_what_has_no_one_form_is_refused() -> None:
    assert digest([pa.table({"x": [Decimal("1.50")]})]).rows == 1
    with pytest.raises(Invalid, match="no one form"):
        digest([pa.table({"x": pa.array([datetime.timedelta(1)])})])


def test_tables_have_the_digest_of_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "SHARE_BYTES", 2_000)
    desk = Desk(tmp_path)
    log = LogBuilder("00000000000000aa")
    some = list(batches(1, [message for _, message in history(7, 30)]))
    for number, batch in enumerate(some):
        desk.apply([log.record(START + number * 1_000_000, batch)])
        if number in (len(some) // 2, len(some) - 1):
            desk.publish()
    engine = EmbeddedEngine(tmp_path / "engine")
    found = digest_tables(engine, desk.lake, WORKSPACE)
    assert [one.table for one in found] == desk.lake.names(WORKSPACE)
    by_name = {one.table: one for one in found}
    profiles = desk.lake.current_table(WORKSPACE, PROFILES).scan()
    assert by_name["profiles"].digest == digest([profiles])
    assert by_name["profiles"].columns == tuple(sorted(profiles.column_names))
    assert by_name["events"].digest.rows == len(desk.lake_tables("events")["events"])
    desk.publisher.merge()
    assert digest_tables(engine, desk.lake, WORKSPACE, ["profiles"])[0] == by_name["profiles"]
    with pytest.raises(NotFound):
        digest_tables(engine, desk.lake, WORKSPACE, ["nothing"])
    desk.close()
