"""Rows of a few keys out of many files: the right ones, and no more files than may hold them."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from profilelake.lake import catalog, lookup
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.table import LakeTable
from profilelake.lake.tables import Column, TableDef

TIME = pa.timestamp("us", tz="UTC")
ROWS = TableDef(
    name="rows",
    doc="rows of keys",
    columns=(
        Column("key", pa.binary(16), "key"),
        Column("number", pa.int64(), "number", required=True),
        Column("received_at", TIME, "when", required=True),
    ),
    day="received_at",
    sort=("key", "number"),
)
DAY = 86_400_000_000


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture
def table(tmp_path: Path) -> LakeTable:
    lake = Lake.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}", tmp_path / "lake")
    return lake.table("w", ROWS)


@pytest.fixture
def lake(tmp_path: Path, table: LakeTable) -> Lake:
    return Lake.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}", tmp_path / "lake")


def add(table: LakeTable, sequence: int, keys: list[int | None], at: int) -> None:
    rows = {
        "key": [None if one is None else key(one) for one in keys],
        "number": range(len(keys)),
        "received_at": [at + place for place in range(len(keys))],
    }
    table.append(pa.table(rows, schema=ROWS.schema()), Progress("0", sequence))


def numbers(lake: Lake, wanted: list[int], **bounds: int) -> tuple[int, list[int]]:
    """Return how many files are looked into, and the keys of the rows that are found there."""
    published = lake.load("w", "rows")
    keys = [key(one) for one in wanted]
    slices = lookup.candidates(published, "key", keys, **bounds)
    with duckdb.connect() as connection:
        select = lookup.select_keys(connection, published, [one.file for one in slices], "key", keys)
        found = connection.sql(select).to_arrow_table().column("key").to_pylist()
    return len(slices), sorted(int.from_bytes(one, "big") for one in found)


def test_only_files_whose_bounds_hold_a_key(table: LakeTable, lake: Lake) -> None:
    add(table, 0, [1, 2, 3], 0)
    add(table, 1, [3, 5, 9], DAY)
    add(table, 2, [None, None], 2 * DAY)
    assert numbers(lake, [3]) == (2, [3, 3])
    assert numbers(lake, [2]) == (1, [2])
    assert numbers(lake, [4]) == (1, [])
    assert numbers(lake, [10, 0]) == (0, [])
    assert numbers(lake, [1, 9, 10]) == (2, [1, 9])


def test_only_files_of_the_time(table: LakeTable, lake: Lake) -> None:
    for number in range(3):
        add(table, number, [1], number * DAY)
    assert numbers(lake, [1], received_from=DAY) == (2, [1, 1])
    assert numbers(lake, [1], received_to=DAY) == (2, [1, 1])
    assert numbers(lake, [1], received_from=DAY, received_to=DAY) == (1, [1])
    published = lake.load("w", "rows")
    slices = lookup.candidates(published, "key", [key(1)])
    assert [one.received_max for one in slices] == [2 * DAY, DAY, 0]


def test_many_keys_are_joined(table: LakeTable, lake: Lake) -> None:
    add(table, 0, list(range(500)), 0)
    wanted = list(range(0, 500, 3))
    assert len(wanted) > lookup.KEYS_SPELT_MAX
    assert numbers(lake, wanted) == (1, wanted)
    assert numbers(lake, []) == (0, [])


def test_a_manifest_is_read_once(table: LakeTable, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    entries = catalog.live_entries

    def counted(of: object, manifests: list[object]) -> object:
        read.extend(manifest.manifest_path for manifest in manifests)  # type: ignore[attr-defined]
        return entries(of, manifests)  # type: ignore[arg-type]

    monkeypatch.setattr(catalog, "live_entries", counted)
    for number in range(4):
        add(table, number, [number], 0)
        assert len(lake.load("w", "rows").files) == number + 1
    assert len(read) == len(set(read)) == 4
    progress = lake.load("w", "rows").progress
    assert progress is not None
    assert progress.sequence == 3
