import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profile_examples import BEGIN, DAY, SECOND, row, rows_table
from profilelake.errors import Corrupt, Invalid
from profilelake.state import _run_file, recent
from profilelake.state.recent import EventKey, EventQuery, RecentEvent, Run, RunReader
from profilelake.state.store import State

ALWAYS = {"start": -(1 << 62), "end": 1 << 62}


def key(number: int) -> bytes:
    return number.to_bytes(8, "big") + b"\0" * 8


def write(directory: Path, rows: Sequence[dict[str, Any]], sequence: int) -> Run:
    return recent.write(directory, rows_table(rows), sequence_min=sequence, sequence_max=sequence)


def plainly(rows: Sequence[dict[str, Any]], keys: Sequence[bytes], query: EventQuery) -> list[str]:
    """Return message ids of what `find` must give: filter and sort, nothing else."""
    fits = [
        row
        for row in rows
        if row["key"] in keys
        and row["type"] in ("track", "page", "screen")
        and query.start <= row["timestamp"] < query.end
        and recent.shown_name(row["type"], row["event"]) not in query.exclude
        and (not query.include or recent.shown_name(row["type"], row["event"]) in query.include)
    ]
    fits.sort(key=lambda row: (row["timestamp"], row["message_id"]), reverse=query.descending)
    if query.after is not None:
        after = tuple(query.after)
        places = [(row["timestamp"], row["message_id"]) for row in fits]
        fits = [
            r for r, p in zip(fits, places, strict=True) if (p < after if query.descending else p > after)
        ]
    return [row["message_id"] for row in fits[: query.limit + 1]]


def ids(found: list[RecentEvent]) -> list[str]:
    return [event.message_id for event in found]


@st.composite
def histories(draw: st.DrawFn) -> list[list[dict[str, Any]]]:
    """Micro-batches of events of a few sets; what happened may have happened long before it came."""
    batches = []
    number = 0
    for _ in range(draw(st.integers(1, 5))):
        rows = []
        for _ in range(draw(st.integers(0, 12))):
            number += 1
            received = BEGIN + number * SECOND
            kind = draw(st.sampled_from(["track", "track", "page", "screen", "identify", "group"]))
            rows.append(
                row(
                    key(draw(st.integers(0, 4))),
                    received,
                    f"m{draw(st.integers(0, 99)):02}-{number}",
                    number,
                    type=kind,
                    event=draw(st.sampled_from(["A", "B"])) if kind == "track" else None,
                    timestamp=received - draw(st.sampled_from([0, 0, 1, 7, 7, 1000])) * SECOND,
                )
            )
        batches.append(rows)
    return batches


NAMES = st.frozensets(st.sampled_from(["A", "B", "Page Viewed", "nothing"]), max_size=2)


@settings(max_examples=60)
@given(
    history=histories(),
    merged=st.integers(0, 5),
    keys=st.sets(st.integers(0, 5)),
    limit=st.integers(1, 8),
    descending=st.booleans(),
    include=NAMES,
    exclude=NAMES,
    bounds=st.tuples(st.integers(-50, 80), st.integers(-50, 80)) | st.none(),
)
def test_pages_of_find_are_the_filtered_and_sorted_list(
    history: list[list[dict[str, Any]]],
    merged: int,
    keys: set[int],
    limit: int,
    descending: bool,
    include: frozenset[str],
    exclude: frozenset[str],
    bounds: tuple[int, int] | None,
) -> None:
    wanted = [key(number) for number in keys]
    within = (
        ALWAYS if bounds is None else {"start": BEGIN + bounds[0] * SECOND, "end": BEGIN + bounds[1] * SECOND}
    )
    everything = [row for batch in history for row in batch]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent, "MERGE_ROWS", 5)
        patch.setattr(recent, "BATCH_ROWS", 4)
        patch.setattr(_run_file, "BATCH_ROWS", 4)
        patch.setattr(_run_file, "sync", lambda _: None)
        directory = Path(name)
        runs = [write(directory, rows, number) for number, rows in enumerate(history)]
        if merged > 1:
            runs = [recent.merge(directory, runs[:merged]), *runs[merged:]]
        assert sum(run.rows for run in runs) == len(everything)
        reader = RunReader(directory)
        after: EventKey | None = None
        while True:
            query = EventQuery(
                **within, limit=limit, descending=descending, include=include, exclude=exclude, after=after
            )
            found = reader.find(runs, wanted, query)
            assert ids(found) == plainly(everything, wanted, query)
            if len(found) <= limit:
                break
            after = EventKey(found[limit - 1].timestamp, found[limit - 1].message_id)


def test_a_found_event_is_what_was_written(tmp_path: Path) -> None:
    runs = [
        write(
            tmp_path,
            [row(key(1), BEGIN, "m1", event="Ünïcode", context='{"a": 1.0}', properties=None, source_id="s")],
            1,
        )
    ]
    (found,) = RunReader(tmp_path).find(runs, [key(1)], EventQuery(**ALWAYS, limit=1))
    assert found == RecentEvent(key(1), BEGIN, "m1", "track", "Ünïcode", "s", '{"a": 1.0}', None)


def test_newest_first_reads_no_more_batches_than_can_hold_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 20 * _run_file.BATCH_ROWS
    rows = [row(key(1), BEGIN + n * SECOND, f"m{n:06}", n) for n in range(count)]
    rows.append(row(key(2), BEGIN, "other"))
    runs = [write(tmp_path, rows, 1)]
    offered: list[int] = []
    add = recent._Best.add

    def counted(best: recent._Best, candidates: list[Any]) -> None:
        offered.append(len(candidates))
        add(best, candidates)

    monkeypatch.setattr(recent._Best, "add", counted)
    reader = RunReader(tmp_path)
    found = reader.find(runs, [key(1)], EventQuery(**ALWAYS, limit=3))
    assert ids(found) == [f"m{n:06}" for n in range(count - 1, count - 5, -1)]
    assert len(offered) == 1
    offered.clear()
    assert ids(reader.find(runs, [key(1)], EventQuery(**ALWAYS, limit=1, descending=False))) == [
        "m000000",
        "m000001",
    ]
    assert len(offered) == 20


def test_a_look_up_through_too_many_events_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "SCAN_ROWS_MAX", 1200)
    runs = [write(tmp_path, [row(key(1), BEGIN + n * SECOND, f"m{n:04}", n) for n in range(2000)], 1)]
    reader = RunReader(tmp_path)
    with pytest.raises(Invalid, match="more than 1200 events"):
        reader.find(runs, [key(1)], EventQuery(**ALWAYS, limit=2, descending=False))
    late = EventQuery(start=BEGIN + 1990 * SECOND, end=1 << 62, limit=1, descending=False)
    assert ids(reader.find(runs, [key(1)], late)) == ["m1990", "m1991"]
    assert len(reader.find(runs, [key(1)], EventQuery(**ALWAYS, limit=2))) == 3


def test_runs_received_before_the_start_are_not_opened(tmp_path: Path) -> None:
    old = Run("not-there.run", 0, 1, 1, BEGIN, 5)
    new = write(tmp_path, [row(key(1), BEGIN + DAY, "m1")], 2)
    query = EventQuery(start=BEGIN + 1, end=1 << 62, limit=5)
    assert ids(RunReader(tmp_path).find([old, new], [key(1)], query)) == ["m1"]


def test_a_run_that_went_away_is_told_and_one_that_is_open_stays_readable(tmp_path: Path) -> None:
    runs = [write(tmp_path, [row(key(1), BEGIN, "m1")], 1)]
    reader, late = RunReader(tmp_path), RunReader(tmp_path)
    query = EventQuery(**ALWAYS, limit=5)
    assert ids(reader.find(runs, [key(1)], query)) == ["m1"]
    (tmp_path / runs[0].name).unlink()
    assert ids(reader.find(runs, [key(1)], query)) == ["m1"]
    with pytest.raises(FileNotFoundError):
        late.find(runs, [key(1)], query)
    assert reader.find([], [key(1)], query) == []


def test_a_cut_file_is_called_corrupt(tmp_path: Path) -> None:
    run = write(tmp_path, [row(key(1), BEGIN, "m1")], 1)
    path = tmp_path / run.name
    whole = path.read_bytes()
    for size in (len(whole) - 1, 20, 1):
        path.write_bytes(whole[:size])
        with pytest.raises(Corrupt, match="does not fit"):
            RunReader(tmp_path).find([run], [key(1)], EventQuery(**ALWAYS, limit=1))


def test_group_events_stand_twice_and_are_read_once(tmp_path: Path) -> None:
    group = row(key(1), BEGIN, "g1", type="group", account_set_id=key(2))
    rows = [group, {**group, "key": key(2), "copy": True}, row(key(1), BEGIN + 1, "m1")]
    run = write(tmp_path, rows, 1)
    whole = recent.read_whole(tmp_path, run)
    assert whole.column("message_id").to_pylist() == ["g1", "m1"]
    assert "copy" not in whole.column_names
    assert recent.read_whole(tmp_path, run, ["event", "position"]).column_names == ["event", "position"]
    assert recent.read_keys(tmp_path, run, ["position", "key"]).num_rows == 3


def test_merging_keeps_every_row_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MERGE_ROWS", 700)
    spread = [(n * 0x9E3779B97F4A7C15) % (1 << 64) for n in range(3_000)]
    parts = [
        [row(key(spread[n % 1000]), BEGIN + n * SECOND, f"m{n}", n) for n in range(start, 3_000, 3)]
        for start in range(3)
    ]
    runs = [write(tmp_path, rows, number) for number, rows in enumerate(parts)]
    merged = recent.merge(tmp_path, runs)
    assert (merged.sequence_min, merged.sequence_max, merged.level) == (0, 2, 1)
    assert (merged.rows, merged.received_max) == (3_000, BEGIN + 2_999 * SECOND)
    expected = rows_table([row for rows in parts for row in rows]).drop_columns(["copy"])
    assert recent.read_whole(tmp_path, merged).equals(expected)


def test_runs_are_merged_by_level_and_only_when_there_are_enough() -> None:
    def runs(level: int, count: int) -> list[Run]:
        return [Run(f"{level}-{n}", level, n, n, 0, 1) for n in range(count)]

    assert recent.merge_due(runs(0, recent.FAN_IN - 1)) == []
    assert recent.merge_due(runs(0, recent.FAN_IN + 1)) == runs(0, recent.FAN_IN)
    assert recent.merge_due([*runs(1, recent.FAN_IN), *runs(0, 3)]) == runs(1, recent.FAN_IN)
    assert recent.merge_due(runs(recent.LEVEL_TOP, 100)) == []


def test_sweep_leaves_the_file_of_a_transaction_under_way(tmp_path: Path) -> None:
    listed = write(tmp_path, [row(key(1), BEGIN, "m1")], 5)
    write(tmp_path, [row(key(1), BEGIN, "m0")], 4)
    write(tmp_path, [row(key(1), BEGIN, "m2")], 6)
    assert recent.sweep(tmp_path, [listed]) == 1
    assert sorted(int(path.name.split("-")[0]) for path in tmp_path.iterdir()) == [5, 6]
    assert recent.sweep(tmp_path, []) == 0


def test_the_list_of_runs_is_kept_in_the_state(tmp_path: Path) -> None:
    state = State.open(tmp_path / "state", writable=True)
    state.ensure(["default"])
    runs = [Run("a.run", 0, 1, 1, 5, 2), Run("b.run", 1, 2, 9, 7, 3)]
    with state.write() as tx:
        assert recent.load(tx, "default") == []
        recent.store(tx, "default", runs)
    with state.read("default") as tx:
        assert recent.load(tx, "default") == runs
    state.close()


def test_an_empty_run_is_a_run(tmp_path: Path) -> None:
    run = write(tmp_path, [], 1)
    assert (run.rows, run.received_max) == (0, 0)
    assert recent.read_whole(tmp_path, run).num_rows == 0
    assert RunReader(tmp_path).find([run], [key(1)], EventQuery(**ALWAYS, limit=1)) == []
    other = write(tmp_path, [row(key(1), BEGIN, "m1")], 2)
    assert recent.merge(tmp_path, [run, other]).rows == 1
    assert recent.merge(tmp_path, [run, run]).rows == 0


def test_a_page_and_a_screen_have_the_names_clients_know() -> None:
    assert recent.shown_name("page", None) == "Page Viewed"
    assert recent.shown_name("screen", None) == "Screen Viewed"
    assert recent.shown_name("track", "Clicked") == "Clicked"
    assert recent.shown_name("track", None) == ""


def test_keys_that_share_a_high_word_are_told_apart(tmp_path: Path) -> None:
    twins = [b"\1" * 8 + n.to_bytes(8, "big") for n in range(4)]
    run = write(tmp_path, [row(twin, BEGIN, f"m{n}") for n, twin in enumerate(twins) if n != 2], 1)
    query = EventQuery(**ALWAYS, limit=5)
    assert [ids(RunReader(tmp_path).find([run], [twin], query)) for twin in twins] == [
        ["m0"],
        ["m1"],
        [],
        ["m3"],
    ]


def test_rows_of_a_sliced_column_keep_their_keys(tmp_path: Path) -> None:
    rows = rows_table([row(key(n), BEGIN, f"m{n}") for n in range(10)]).slice(3, 4)
    run = recent.write(tmp_path, rows, sequence_min=1, sequence_max=1)
    assert isinstance(rows.column("key"), pa.ChunkedArray)
    query = EventQuery(**ALWAYS, limit=20)
    found = RunReader(tmp_path).find([run], [key(n) for n in range(10)], query)
    assert sorted(ids(found)) == ["m3", "m4", "m5", "m6"]
