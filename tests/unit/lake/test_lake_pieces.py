"""A current table in pieces that are read apart: together they have each row once, as it is now."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from lake_examples import MEMBERS, open_lake
from profilelake.lake import reading
from profilelake.lake.progress import Progress
from profilelake.lake.schema import BUCKET_WIDTH, SLOTS, changes_definition

SLOT_STEP = 97


def members(points: int, slots: range) -> pa.Table:
    rows = [{"member_id": f"m{slot}", "slot": slot, "points": points, "address": "x" * 50} for slot in slots]
    return pa.Table.from_pylist(rows, schema=MEMBERS.schema())


@pytest.mark.parametrize("piece_bytes", [500, 5_000, 1 << 30])
@pytest.mark.parametrize("logged", [False, True])
def test_each_row_is_in_one_piece(tmp_path: Path, piece_bytes: int, logged: bool) -> None:
    lake = open_lake(tmp_path)
    table = lake.current_table("default", MEMBERS)
    slots = range(0, SLOTS, SLOT_STEP)
    table.replace(members(1, slots), Progress("0", 1))
    if logged:
        changed = members(2, range(0, SLOTS, 10 * SLOT_STEP)).to_pylist()
        schema = changes_definition(MEMBERS).schema()
        rows = [{"seq": 2, "op": "upsert", **row} for row in changed]
        rows[0] = {"seq": 2, "op": "delete", "member_id": "m0", "slot": 0}
        table.append_changes(pa.Table.from_pylist(rows, schema=schema), Progress("0", 2))
    pieces = reading.pieces(lake, "default", MEMBERS.name, piece_bytes=piece_bytes)
    whole = reading.select(lake, "default", MEMBERS.name)
    connection = duckdb.connect()
    found = [row for one in pieces.selects for row in connection.sql(one).fetchall()]
    assert sorted(found) == sorted(connection.sql(whole).fetchall())
    assert len(found) == len(slots) - logged
    if piece_bytes == 500:
        assert len(pieces.selects) >= SLOTS // BUCKET_WIDTH
    if piece_bytes == 1 << 30:
        assert len(pieces.selects) == 1
    lake.close()


def test_another_state_has_another_name(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    table = lake.current_table("default", MEMBERS)
    table.replace(members(1, range(3)), Progress("0", 1))
    before = reading.pieces(lake, "default", MEMBERS.name)
    assert reading.pieces(lake, "default", MEMBERS.name) == before
    table.replace(members(2, range(3)), Progress("0", 2))
    assert reading.pieces(lake, "default", MEMBERS.name).snapshot != before.snapshot
    lake.close()
