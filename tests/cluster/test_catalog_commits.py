"""Commits, crashes, lost answers and current tables, on every kind of catalog and storage."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from pyiceberg.table.snapshots import Operation

from cluster.lake_places import KINDS, Placed, placed
from lake_examples import MEMBERS, VISITS, changes, members, upto, visits
from profilelake.errors import Conflict, Unavailable
from profilelake.lake.catalog import Lake, register_tables
from profilelake.lake.commit import Change
from profilelake.lake.reading import attach
from profilelake.lake.table import LakeTable


@pytest.fixture(params=KINDS)
def at(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Placed]:
    with placed(request.param, tmp_path, request, monkeypatch) as found:
        yield found


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def swaps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Return what puts itself before the commits of a lake; a plan says what happens to which, from 1."""

    def intercept(lake: Lake, plan: dict[int, Callable[[Callable[[], Any]], Any]]) -> list[int]:
        seen: list[int] = []
        swap = lake._catalog.commit_table

        def intercepted(*args: Any) -> Any:
            seen.append(1)
            return plan.get(len(seen), lambda go: go())(lambda: swap(*args))

        monkeypatch.setattr(lake._catalog, "commit_table", intercepted)
        return seen

    return intercept


def lost_request(_go: Callable[[], Any]) -> Any:
    raise TimeoutError("no answer")


def lost_answer(go: Callable[[], Any]) -> Any:
    go()
    raise TimeoutError("no answer")


def crash_before(_go: Callable[[], Any]) -> Any:
    raise Crash


def crash_after(go: Callable[[], Any]) -> Any:
    go()
    raise Crash


def same(table: LakeTable, count: int) -> None:
    ids = table.scan(["visit_id"]).column("visit_id").to_pylist()
    assert sorted(ids) == sorted(f"v{number}" for number in range(count))


def rows(at: Placed, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        attach(connection, at.open(), at.workspace)
        return connection.execute(query).fetchall()


def test_a_table_is_made_written_and_read_by_another_process(at: Placed) -> None:
    lake = at.open()
    table = lake.table(at.workspace, VISITS)
    for number in range(3):
        assert table.append(visits(number * 2, 2), upto(number + 1))
        assert not table.append(visits(number * 2, 2), upto(number + 1))
    again = at.open()
    assert again.names(at.workspace) == ["visits"]
    opened = again.table(at.workspace, VISITS)
    assert opened.progress() == upto(3)
    same(opened, 6)
    assert rows(at, "SELECT count(*), sum(amount) FROM visits") == [(6, 60)]
    pointer = lake.pointers()[f"ws_{at.workspace}", "visits"]
    assert pointer == table.metadata_location()


@pytest.mark.parametrize("fault", [lost_request, lost_answer])
@pytest.mark.parametrize("times", [1, 2])
def test_an_unknown_outcome_is_looked_up(
    at: Placed, swaps: Callable[..., list[int]], fault: Callable[[Callable[[], Any]], Any], times: int
) -> None:
    lake = at.open()
    table = lake.table(at.workspace, VISITS)
    seen = swaps(lake, dict.fromkeys(range(1, times + 1), fault))
    assert table.append(visits(0, 2), upto(1))
    assert len(seen) == (times + 1 if fault is lost_request else 1)
    assert table.append(visits(2, 1), upto(2))
    same(table, 3)


@pytest.mark.parametrize("crash", [crash_before, crash_after])
def test_a_crash_at_the_swap_neither_loses_nor_doubles(
    at: Placed, swaps: Callable[..., list[int]], crash: Callable[[Callable[[], Any]], Any]
) -> None:
    lake = at.open()
    table = lake.table(at.workspace, VISITS)
    table.append(visits(0, 2), upto(1))
    swaps(lake, {1: crash})
    with pytest.raises(Crash):
        table.append(visits(2, 2), upto(2))
    again = at.open().table(at.workspace, VISITS)
    assert again.append(visits(2, 2), upto(2)) is (crash is crash_before)
    same(again, 4)


def test_a_second_committer_is_noticed_and_taken_into_account(at: Placed) -> None:
    one = at.open().table(at.workspace, VISITS)
    two = at.open().table(at.workspace, VISITS)
    one.append(visits(0, 1), upto(1))
    two.append(visits(1, 1), upto(2))
    assert not one.append(visits(1, 1), upto(2))
    with pytest.raises(Conflict, match="has ended"):
        one.append(visits(2, 1), upto(1, "e0"))
    same(two, 2)


def test_committers_at_once_lose_no_rows(at: Placed) -> None:
    tables = [at.open().table(at.workspace, VISITS) for _ in range(3)]
    failed: list[Exception] = []

    def write(number: int, table: LakeTable) -> None:
        try:
            for turn in range(4):
                place = number * 4 + turn
                done = False
                while not done:
                    try:
                        change = table.write(visits(place, 1))
                        done = table.commit(lambda change=change: _appending(change), change)
                    except Conflict:
                        continue
        except Exception as error:  # noqa: BLE001 - a thread tells the test
            failed.append(error)

    threads = [threading.Thread(target=write, args=pair) for pair in enumerate(tables)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    tables[0].refresh()
    same(tables[0], 12)


def _appending(files: Any) -> Change:
    return Change(Operation.APPEND, added=files)


def test_a_current_table_is_published_and_read(at: Placed) -> None:
    lake = at.open()
    table = lake.current_table(at.workspace, MEMBERS)
    table.replace(members({f"m{number}": number for number in range(20)}), upto(1))
    schema = table.log.definition.schema()
    table.append_changes(changes(schema, [(2, "m1", 100), (2, "m2", None)]), upto(2))
    query = "SELECT count(*), max(points) FROM members"
    assert rows(at, query) == [(19, 100)]
    assert table.merge(upto(2))
    assert rows(at, query) == [(19, 100)]


def test_old_files_go_and_nothing_that_is_needed(at: Placed) -> None:
    table = at.open().table(at.workspace, VISITS)
    for number in range(6):
        table.append(visits(number, 1), upto(number + 1))
    assert table.compact(None) is not None
    assert table.expire() > 0
    assert table.sweep(min_age_seconds=-60, dry_run=False)
    same(at.open().table(at.workspace, VISITS), 6)
    assert table.append(visits(6, 1), upto(7))
    same(at.open().table(at.workspace, VISITS), 7)


def test_a_linked_table_is_put_and_replaced(at: Placed) -> None:
    lake = at.open()
    for values in ([1, 2, 3], [4]):
        lake.put_linked(at.workspace, "orders", pa.table({"number": values}))
        assert linked(at) == [(value,) for value in values]
    lake.put_linked(at.workspace, "orders", pa.table({"other": ["x"]}))
    assert linked(at) == [("x",)]


def linked(at: Placed) -> list[tuple[Any, ...]]:
    return sorted(rows(at, f"FROM ws_{at.workspace}_linked.orders"))


def test_without_an_answer_to_the_look_up_the_call_can_be_repeated(
    at: Placed, swaps: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = at.open()
    table = lake.table(at.workspace, VISITS)
    swaps(lake, {1: lost_answer})
    with monkeypatch.context() as patched:
        patched.setattr(type(lake._catalog), "load_table", lambda *_: lost_request(lambda: None))
        with pytest.raises(Unavailable, match="repeat the same call"):
            table.append(visits(0, 1), upto(1))
    assert not table.append(visits(0, 1), upto(1))
    same(table, 1)


def test_tables_are_registered_again(at: Placed) -> None:
    lake = at.open()
    lake.table(at.workspace, VISITS).append(visits(0, 2), upto(1))
    known = [(*key, location) for key, location in lake.pointers().items() if key[0] == f"ws_{at.workspace}"]
    register_tables(at.place, at.place.warehouse, known)
    with pytest.raises(Conflict):
        register_tables(at.place, at.place.warehouse, [(*known[0][:2], f"{known[0][2]}.other")])
