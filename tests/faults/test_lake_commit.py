"""Commits to the lake with crashes, lost answers and repeated answers in every place they can be."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog.sql import SqlCatalog

from lake_examples import MEMBERS, VISITS, Clock, changes, members, open_lake, upto, visits
from profilelake.errors import Conflict, Unavailable
from profilelake.lake.catalog import Lake
from profilelake.lake.current import CurrentTable
from profilelake.lake.table import COMMIT_ATTEMPTS_MAX, LakeTable

FAR_FUTURE = 5_000_000_000


class Crash(BaseException):
    """The process ends here: nothing of ours may run after it that a kill would not let run."""


class Swaps:
    """Stands before the catalog and does to chosen swaps what networks and crashes do.

    A plan maps the number of a swap, from 1, to what happens to it; other swaps pass.
    """

    def __init__(self, lake: Lake, plan: dict[int, Callable[[Callable[[], Any]], Any]]) -> None:
        self.seen = 0
        catalog = lake._catalog
        swap = catalog.commit_table

        def intercepted(*args: Any) -> Any:
            self.seen += 1
            return plan.get(self.seen, lambda go: go())(lambda: swap(*args))

        catalog.commit_table = intercepted  # type: ignore[method-assign]


def crash_before(_go: Callable[[], Any]) -> Any:
    raise Crash


def crash_after(go: Callable[[], Any]) -> Any:
    go()
    raise Crash


def lost_request(_go: Callable[[], Any]) -> Any:
    raise TimeoutError("no answer")


def lost_answer(go: Callable[[], Any]) -> Any:
    go()
    raise TimeoutError("no answer")


def _parquet(folder: Path) -> set[Path]:
    return set(folder.rglob("*.parquet"))


def _same(table: LakeTable, count: int) -> None:
    ids = table.scan(["visit_id"]).column("visit_id").to_pylist()
    assert sorted(ids) == sorted(f"v{i}" for i in range(count))


def test_crash_between_data_files_and_commit_leaves_orphans_and_no_rows(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    table = lake.table("w", VISITS)
    table.append(visits(0, 2), upto(1))
    Swaps(lake, {1: crash_before})
    with pytest.raises(Crash):
        table.append(visits(2, 2), upto(2))

    clock = Clock()
    clock.now = FAR_FUTURE * 10**9
    again = open_lake(tmp_path, clock).table("w", VISITS)
    assert again.progress() == upto(1)
    _same(again, 2)
    orphans = [f for f in again.sweep(min_age_seconds=60, dry_run=True) if f.location.endswith(".parquet")]
    assert len(orphans) == 1
    assert again.append(visits(2, 2), upto(2))
    again.sweep(min_age_seconds=60, dry_run=False)
    assert not any(Path(f.location).exists() for f in orphans)
    assert len(_parquet(tmp_path)) == 2
    _same(again, 4)


def test_crash_between_commit_and_knowing_of_it(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    table = lake.table("w", VISITS)
    Swaps(lake, {1: crash_after})
    with pytest.raises(Crash):
        table.append(visits(0, 2), upto(1))
    again = open_lake(tmp_path).table("w", VISITS)
    before = _parquet(tmp_path)
    assert not again.append(visits(0, 2), upto(1))
    assert _parquet(tmp_path) == before
    _same(again, 2)


@pytest.mark.parametrize("fault", [lost_request, lost_answer])
@pytest.mark.parametrize("times", [1, 2])
def test_an_unknown_outcome_is_looked_up(
    tmp_path: Path, fault: Callable[[Callable[[], Any]], Any], times: int
) -> None:
    lake = open_lake(tmp_path)
    table = lake.table("w", VISITS)
    swaps = Swaps(lake, dict.fromkeys(range(1, times + 1), fault))
    assert table.append(visits(0, 2), upto(1))
    assert swaps.seen == (times + 1 if fault is lost_request else 1)
    assert table.append(visits(2, 1), upto(2))
    _same(table, 3)
    assert len(_parquet(tmp_path)) == 2  # Another attempt takes the files of the first.


@pytest.mark.parametrize("fault", [lost_request, lost_answer])
def test_without_an_answer_to_the_look_up_the_call_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Callable[[], Any]], Any]
) -> None:
    lake = open_lake(tmp_path)
    table = lake.table("w", VISITS)
    table.append(visits(0, 1), upto(1))
    Swaps(lake, {1: fault})
    with monkeypatch.context() as patched:
        patched.setattr(SqlCatalog, "load_table", lambda *_: lost_request(lambda: None))
        with pytest.raises(Unavailable, match="repeat the same call"):
            table.append(visits(1, 1), upto(2))
    assert len(_parquet(tmp_path)) == 2  # Kept: the commit may have been, or may yet be, done.
    assert table.append(visits(1, 1), upto(2)) is (fault is lost_request)
    _same(table, 2)


def test_a_swap_that_arrives_late_is_not_repeated(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    table = lake.table("w", VISITS)
    table.append(visits(0, 1), upto(1))
    under_way: list[Callable[[], Any]] = []

    def delayed(go: Callable[[], Any]) -> Any:
        under_way.append(go)
        raise TimeoutError("no answer")

    def overtaken(go: Callable[[], Any]) -> Any:
        under_way[0]()
        return go()

    Swaps(lake, {1: delayed, 2: overtaken})
    assert not table.append(visits(1, 1), upto(2))  # It is there, though not by the attempt we saw.
    assert table.progress() == upto(2)
    _same(table, 2)
    assert all(Path(f.location.removeprefix("file://")).exists() for f in table.files())


def test_the_late_swap_fails_if_ours_was_first(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    table = lake.table("w", VISITS)
    under_way: list[Callable[[], Any]] = []

    def delayed(go: Callable[[], Any]) -> Any:
        under_way.append(go)
        raise TimeoutError("no answer")

    Swaps(lake, {1: delayed})
    assert table.append(visits(0, 2), upto(1))
    with pytest.raises(Exception, match=r"no longer at|branch main"):
        under_way[0]()
    _same(open_lake(tmp_path).table("w", VISITS), 2)


def test_a_table_that_moves_at_every_attempt_is_a_conflict(tmp_path: Path) -> None:
    lake, other = open_lake(tmp_path), open_lake(tmp_path).table("w", VISITS)
    table = lake.table("w", VISITS)
    moves = iter(range(100))

    def beaten(go: Callable[[], Any]) -> Any:
        other.refresh()
        other.append(visits(0, 0), upto(next(moves)), always=True)
        return go()

    swaps = Swaps(lake, dict.fromkeys(range(1, 100), beaten))
    with pytest.raises(Conflict, match="see whether another process writes"):
        table.append(visits(0, 2), upto(1_000))
    assert swaps.seen == COMMIT_ATTEMPTS_MAX
    assert _parquet(tmp_path) == set()


def test_a_full_disk_commits_nothing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = open_lake(tmp_path).table("w", VISITS)
    table.append(visits(0, 1), upto(1))
    fsync, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:  # The data file and its folder are down, a manifest is being written.
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match="free space and retry"):
            table.append(visits(1, 1), upto(2))
    assert len(_parquet(tmp_path)) == 1
    assert table.append(visits(1, 1), upto(2))
    _same(table, 2)


_KILLED = """
    import os, sys
    from pathlib import Path
    from lake_examples import VISITS, open_lake, upto, visits
    lake = open_lake(Path(sys.argv[1]))
    table = lake.table("w", VISITS)
    table.append(visits(0, 2), upto(1))
    swap = lake._catalog.commit_table
    def killed(*args):
        if sys.argv[2] == "after":
            swap(*args)
        os.kill(os.getpid(), 9)
    lake._catalog.commit_table = killed
    table.append(visits(2, 2), upto(2))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_process_leaves_a_table_that_knows_where_to_go_on(tmp_path: Path, when: str) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_KILLED), str(tmp_path), when],
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
        check=False,
    )
    assert killed.returncode == -9
    table = open_lake(tmp_path).table("w", VISITS)
    assert table.append(visits(2, 2), upto(2)) is (when == "before")
    _same(table, 4)


def _points(table: CurrentTable) -> dict[str, int]:
    return {row["member_id"]: row["points"] for row in table.scan().to_pylist()}


def _change(table: CurrentTable, sequence: int, rows: dict[str, int | None], epoch: str = "e1") -> bool:
    made = changes(table.log.definition.schema(), [(sequence, m, p) for m, p in rows.items()])
    return table.append_changes(made, upto(sequence, epoch))


@pytest.mark.parametrize("fault", [crash_before, crash_after, lost_request, lost_answer])
@pytest.mark.parametrize("at", [1, 2])
def test_merge_stopped_anywhere_changes_no_answer(
    tmp_path: Path, fault: Callable[[Callable[[], Any]], Any], at: int
) -> None:
    first = open_lake(tmp_path).current_table("w", MEMBERS)
    _change(first, 1, {"m1": 1, "m2": 2})
    first.merge()
    _change(first, 2, {"m1": 10, "m3": 3})
    _change(first, 3, {"m2": None, "m13": 4})
    expected = {"m1": 10, "m3": 3, "m13": 4}

    lake = open_lake(tmp_path)
    table = lake.current_table("w", MEMBERS)
    swaps = Swaps(lake, {at: fault})  # The first commit is of the base, the second cuts the log.
    try:
        table.merge()
    except Crash:
        assert fault in (crash_before, crash_after)
    assert swaps.seen >= at
    again = open_lake(tmp_path).current_table("w", MEMBERS)
    assert _points(again) == expected
    again.merge()
    assert _points(again) == expected
    assert again.base.scan().num_rows == 3
    # Cut is what two bases contain: the change of seq 1, and nothing more.
    assert sorted(again.log.scan(["seq"]).column("seq").to_pylist()) == [2, 2, 3, 3]
    assert _change(again, 4, {"m1": None})
    assert _points(again) == {"m3": 3, "m13": 4}


@pytest.mark.parametrize("fault", [crash_before, crash_after, lost_answer])
@pytest.mark.parametrize("at", [1, 2])
def test_replace_stopped_anywhere_is_done_or_not_done(
    tmp_path: Path, fault: Callable[[Callable[[], Any]], Any], at: int
) -> None:
    _change(open_lake(tmp_path).current_table("w", MEMBERS), 90, {"m1": 1, "m2": 2})
    lake = open_lake(tmp_path)
    table = lake.current_table("w", MEMBERS)
    Swaps(lake, {at: fault})
    try:
        table.replace(members({"m5": 5}), upto(3, "e2"))
    except Crash:
        assert fault in (crash_before, crash_after)
    again = open_lake(tmp_path).current_table("w", MEMBERS)
    done = not (at == 1 and fault is crash_before)
    assert _points(again) == ({"m5": 5} if done else {"m1": 1, "m2": 2})
    assert again.replace(members({"m5": 5}), upto(3, "e2")) is not done
    assert _points(again) == {"m5": 5}
    assert again.log.files() == []
    assert _change(again, 4, {"m6": 6}, epoch="e2")
    assert _points(again) == {"m5": 5, "m6": 6}
