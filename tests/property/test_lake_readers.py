"""Whoever reads the tables with no server of ours: the same rows in every engine, at every moment.

What other engines rely on: a current table's base is right as of `profilelake.merged-through`; base and log
together, by the anti-join of docs/reading-the-lake.md, are right as of now.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import StaticTable, Table

from lake_examples import MEMBERS, VISITS, changes, open_lake, upto, visits
from profilelake.lake.current import CurrentTable
from profilelake.lake.files import local_path
from profilelake.lake.reading import attach

pytestmark = pytest.mark.usefixtures("planner")
MERGED = "profilelake.merged-through"
Rows = dict[str, int]


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Polars plan with PyIceberg: its own planner is another package."""
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")


def catalog(folder: Path) -> SqlCatalog:
    """Open the catalog as somebody else's program does: its file, and nothing of ours."""
    return SqlCatalog("profilelake", uri=f"sqlite:///{folder}/catalog.db")


def newest_metadata(folder: Path, table: str) -> Path:
    """Find the newest metadata file by its number, as one finds it without a catalog."""
    return max((folder / "warehouse" / "ws_w" / table / "metadata").glob("*.metadata.json"))


# ---- three engines, from the catalog or from the metadata file alone ------------------------------


def by_pyiceberg(table: Table) -> list[dict[str, Any]]:
    return list(table.scan().to_arrow().to_pylist())


def by_polars(table: Table) -> list[dict[str, Any]]:
    return list(pl.scan_iceberg(table).collect().to_arrow().to_pylist())


def by_duckdb(table: Table) -> list[dict[str, Any]]:
    paths = [str(local_path(task.file.file_path)) for task in table.scan().plan_files()]
    if not paths:
        return []
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        rows = connection.read_parquet(paths, hive_partitioning=False)
        return list(rows.to_arrow_table().to_pylist())


ENGINES: dict[str, Callable[[Table], list[dict[str, Any]]]] = {
    "pyiceberg": by_pyiceberg,
    "polars": by_polars,
    "duckdb": by_duckdb,
}
OPENED: dict[str, Callable[[Path, str], Table]] = {
    "catalog": lambda folder, name: catalog(folder).load_table(f"ws_w.{name}"),
    "metadata": lambda folder, name: StaticTable.from_metadata(str(newest_metadata(folder, name))),
}


def points(rows: list[dict[str, Any]]) -> Rows:
    found = {row["member_id"]: row["points"] for row in rows}
    assert len(found) == len(rows), "a key twice"
    return found


def exact(base: Table, log: Table, read: Callable[[Table], list[dict[str, Any]]]) -> Rows:
    """Do what the documentation tells a reader to do: the newest change of each key, and base rows without one."""
    through = int(base.properties.get(MERGED, "-1"))
    newest: dict[str, dict[str, Any]] = {}
    for row in sorted(read(log), key=lambda row: row["seq"]):
        if row["seq"] > through:
            newest[row["member_id"]] = row
    rows = {key: row["points"] for key, row in newest.items() if row["op"] == "upsert"}
    return rows | {key: value for key, value in points(read(base)).items() if key not in newest}


def change(table: CurrentTable, sequence: int, rows: dict[str, int | None]) -> None:
    made = changes(table.log.definition.schema(), [(sequence, m, p) for m, p in rows.items()])
    table.append_changes(made, upto(sequence))


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_reads_the_same(tmp_path: Path, opened: str, engine: str) -> None:
    lake = open_lake(tmp_path)
    events = lake.table("w", VISITS)
    for i in range(3):
        events.append(visits(10 * i, 10), upto(i + 1))
    events.compact(None)
    events.append(visits(30, 1), upto(4))
    open_, read = OPENED[opened], ENGINES[engine]
    found = sorted(read(open_(tmp_path, "visits")), key=lambda row: row["visit_id"])
    assert found == events.scan().sort_by("visit_id").to_pylist()

    table = lake.current_table("w", MEMBERS)
    change(table, 1, {"m1": 1, "m2": 2, "m3": 3})
    table.merge()
    change(table, 2, {"m1": 10, "m2": None, "m4": 4})
    base, log = open_(tmp_path, "members"), open_(tmp_path, "members_changes")
    assert base.properties[MERGED] == "1"
    assert points(read(base)) == {"m1": 1, "m2": 2, "m3": 3}
    assert exact(base, log, read) == {"m1": 10, "m3": 3, "m4": 4}
    table.merge()
    base = open_(tmp_path, "members")
    assert base.properties[MERGED] == "2"
    assert points(read(base)) == {"m1": 10, "m3": 3, "m4": 4}


def test_the_metadata_file_alone_says_how_to_read(tmp_path: Path) -> None:
    """No library at all: JSON says the bound, so any language can do it."""
    table = open_lake(tmp_path).current_table("w", MEMBERS)
    change(table, 7, {"m1": 1})
    table.merge()
    said = json.loads(newest_metadata(tmp_path, "members").read_text())
    assert said["format-version"] == 2
    assert said["properties"][MERGED] == "7"
    assert said["properties"]["profilelake.key"] == "member_id"
    by_id = {s["snapshot-id"]: s for s in said["snapshots"]}
    assert by_id[said["current-snapshot-id"]]["summary"][MERGED] == "7"


# ---- any history of changes, merges and maintenance ------------------------------------------------

ONE = st.one_of(
    st.tuples(
        st.just("change"),
        st.dictionaries(
            st.sampled_from(["m1", "m2", "m13", "m40"]), st.one_of(st.none(), st.integers(0, 9)), min_size=1
        ),
    ),
    st.tuples(st.just("merge"), st.just({})),
    st.tuples(st.just("manifests"), st.just({})),
    st.tuples(st.just("expire"), st.just({})),
)


@settings(max_examples=12)
@given(st.lists(ONE, max_size=9))
def test_base_and_log_are_exact_after_any_history(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, dict[str, int | None]]]
) -> None:
    folder = tmp_path_factory.mktemp("history")
    table = open_lake(folder).current_table("w", MEMBERS)
    now: Rows = {}
    at: dict[int, Rows] = {-1: {}}
    sequence = 0
    for step, rows in steps:
        if step == "change":
            sequence += 1
            change(table, sequence, rows)
            now = {k: v for k, v in (now | rows).items() if v is not None}
            at[sequence] = now
        elif step == "merge":
            table.merge()
        elif step == "manifests":
            table.base.merge_manifests()
            table.log.merge_manifests()
        else:
            table.base.expire()
            table.log.expire()
        base, log = (OPENED["metadata"](folder, name) for name in ("members", "members_changes"))
        assert points(by_pyiceberg(base)) == at[int(base.properties.get(MERGED, "-1"))]
        assert exact(base, log, by_pyiceberg) == now


# ---- a reader that never stops while everything is rewritten under it ----------------------------------

PEOPLE = [f"m{n}" for n in range(1, 30)]


class Reader(threading.Thread):
    """Reads as processes of others would, over and over; `failures` tells of every gap and every old row.

    Every change sets all members to its number, so a mixture of two moments shows at once; numbers and
    counts of events may never go back.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.done = threading.Event()
        self.failures: list[str] = []
        self.newest = {"members": 0, "events": 0, "base": -1}
        self.reads = 0
        self._lake, self._foreign = open_lake(folder), catalog(folder)

    def run(self) -> None:
        try:
            while not self.done.is_set() or self.reads < 3:
                self._by_views()
                self._by_pyiceberg()
                self.reads += 1
            self._by_views()
            self._by_pyiceberg()
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failures.append(repr(error))

    def _saw(self, what: str, value: int) -> None:
        if value < self.newest[what]:
            self.failures.append(f"{what} went back from {self.newest[what]} to {value}")
        self.newest[what] = max(self.newest[what], value)

    def _by_views(self) -> None:
        with duckdb.connect() as connection:
            attach(connection, self._lake, "w")
            found = connection.sql("SELECT member_id, points FROM members").fetchall()
            count = connection.sql("SELECT count(*), count(DISTINCT visit_id) FROM visits").fetchall()[0]
        numbers = {number for _, number in found}
        if len(found) != len(PEOPLE) or len(numbers) != 1:
            self.failures.append(f"members: {len(found)} rows of {sorted(numbers)}")
        if count[0] != count[1]:
            self.failures.append(f"events: {count}")
        self._saw("members", max(numbers, default=0))
        self._saw("events", count[0])

    def _by_pyiceberg(self) -> None:
        # The base first: what the log loses afterwards is in a later base.
        base = self._foreign.load_table("ws_w.members")
        log = self._foreign.load_table("ws_w.members_changes")
        bound = int(base.properties.get(MERGED, "-1"))
        found = points(by_pyiceberg(base))
        if found != (dict.fromkeys(PEOPLE, bound) if bound > 0 else {}):
            self.failures.append(f"base at {bound} shows {len(found)} rows of {sorted(set(found.values()))}")
        self._saw("base", bound)
        both = exact(base, log, by_pyiceberg)
        if len(both) != len(PEOPLE) or len(set(both.values())) != 1 or max(both.values()) < bound:
            self.failures.append(f"base at {bound} with its log shows {sorted(set(both.values()))}")


def test_a_reader_sees_neither_a_gap_nor_an_old_row_while_all_is_rewritten(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    table, events = lake.current_table("w", MEMBERS), lake.table("w", VISITS)
    change(table, 1, dict.fromkeys(PEOPLE, 1))
    events.append(visits(0, 1), upto(1))
    reader = Reader(tmp_path)
    reader.start()
    try:
        for number in range(2, 15):
            change(table, number, dict.fromkeys(PEOPLE, number))
            events.append(visits(number, 1), upto(number))
            if number % 2 == 0:
                table.merge()
            if number % 3 == 0:
                events.compact(None)
            if number % 6 == 0:
                table.base.merge_manifests()
                events.expire_old(0)
    finally:
        reader.done.set()
        reader.join()
    assert reader.failures == []
    assert reader.reads >= 3
    assert reader.newest == {"members": 14, "events": 14, "base": 14}
