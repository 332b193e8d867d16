"""The index of message ids: exact verdicts, however the ids lie between state and run files."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profilelake.errors import Corrupt, Unavailable
from profilelake.landing import _dedup_runs, dedup
from profilelake.landing.dedup import ENTRY, DedupIndex, Entries, Verdict, message_key
from profilelake.state.store import Db, State

W = "default"
PAGE = 4096
Spec = tuple[int, int, int]
"""Message, time received, content."""
Load = Callable[[], DedupIndex]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    made = State.open(tmp_path / "state", writable=True)
    made.ensure([W])
    yield made
    made.close()


@pytest.fixture
def load(state: State, tmp_path: Path) -> Load:
    def from_disk() -> DedupIndex:
        with state.read(W) as tx:
            return DedupIndex.load(tx, W, tmp_path / "dedup")

    return from_disk


@pytest.fixture
def spill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make run files of so many rows; merge four of them."""

    def set_limit(rows: int) -> None:
        monkeypatch.setattr(dedup, "MEMORY_ROWS_MAX", rows)

    return set_limit


def entries(*specs: Spec) -> Entries:
    made = np.zeros(len(specs), dtype=ENTRY)
    for row, (message, at, content) in enumerate(specs):
        # Equal first words now and then, so that the second ones decide too.
        made[row] = (message // 3, message, at, 7, 1, 0, content)
    return made


def even(numbers: np.ndarray[Any, Any], at: int = 1) -> Entries:
    """Return entries whose hashes are spread evenly, as keyed ones are."""
    made = np.zeros(len(numbers), dtype=ENTRY)
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    made["first"], made["second"] = mixed, mixed * np.uint64(0x94D049BB133111EB)
    made["received_at"], made["index"] = at, np.arange(len(numbers))
    return made


def verdicts(index: DedupIndex, *specs: Spec) -> list[Verdict]:
    return [Verdict(verdict) for verdict in index.judge(entries(*specs)).verdicts]


def add(state: State, index: DedupIndex, sequence: int, *specs: Spec) -> None:
    add_entries(state, index, sequence, entries(*specs))


def add_entries(state: State, index: DedupIndex, sequence: int, arrived: Entries) -> None:
    with state.write() as tx:
        index.add(tx, sequence, index.judge(arrived))
    index.sweep()


def nothing(state: State, index: DedupIndex, sequence: int) -> None:
    """Commit a micro-batch in which nothing arrives."""
    add(state, index, sequence)


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "dedup").iterdir())


def test_the_first_of_a_batch_is_accepted_and_the_others_are_held_against_it(load: Load) -> None:
    assert verdicts(load(), (1, 10, 0), (2, 11, 0), (1, 12, 0), (1, 13, 9)) == [
        Verdict.ACCEPTED,
        Verdict.ACCEPTED,
        Verdict.DUPLICATE,
        Verdict.CONFLICT,
    ]


@pytest.mark.parametrize("held_in", ["memory", "state", "run file"])
def test_what_came_before_is_known_wherever_it_is_held(
    held_in: str, state: State, load: Load, spill_at: Callable[[int], None]
) -> None:
    if held_in == "run file":
        spill_at(1)
    index = load()
    add(state, index, 1, (1, 10, 0))
    nothing(state, index, 2)
    assert index.runs() == (held_in == "run file")
    if held_in != "memory":
        index = load()
    assert verdicts(index, (1, 9, 0), (1, 10, 0), (1, 11, 0), (1, 9, 5), (2, 12, 0)) == [
        Verdict.EARLIER_COPY,
        Verdict.ACCEPTED,
        Verdict.DUPLICATE,
        Verdict.CONFLICT,
        Verdict.ACCEPTED,
    ]


def test_an_event_met_again_at_its_own_position_is_the_same_event(state: State, load: Load) -> None:
    index = load()
    batch = ((1, 10, 0), (1, 12, 0), (2, 12, 0), (1, 13, 4))
    add(state, index, 1, *batch)
    for held in (index, load()):
        assert verdicts(held, *batch) == [
            Verdict.ACCEPTED,
            Verdict.DUPLICATE,
            Verdict.ACCEPTED,
            Verdict.CONFLICT,
        ]
        assert verdicts(held, (1, 10, 0), (1, 10, 0)) == [Verdict.ACCEPTED, Verdict.DUPLICATE]
        assert not len(held.judge(entries(*batch)).rows)


def test_a_copy_is_held_against_the_smallest_position_not_the_one_that_landed(
    state: State, load: Load
) -> None:
    index = load()
    add(state, index, 1, (1, 20, 0))
    add(state, index, 2, (1, 10, 0))
    for held in (index, load()):
        assert verdicts(held, (1, 15, 0)) == [Verdict.DUPLICATE]
        assert verdicts(held, (1, 5, 0), (1, 7, 0)) == [Verdict.EARLIER_COPY, Verdict.DUPLICATE]
        assert verdicts(held, (1, 20, 0)) == [Verdict.ACCEPTED]
        assert verdicts(held, (1, 10, 0), (1, 10, 0)) == [Verdict.EARLIER_COPY, Verdict.DUPLICATE]


@pytest.mark.parametrize(
    ("region", "log", "index", "verdict"),
    [
        (1, 6, 5, Verdict.EARLIER_COPY),
        (0, 9, 9, Verdict.EARLIER_COPY),
        (1, 7, 1, Verdict.EARLIER_COPY),
        (1, 7, 2, Verdict.ACCEPTED),
        (1, 7, 3, Verdict.DUPLICATE),
        (1, 8, 0, Verdict.DUPLICATE),
        (2, 0, 0, Verdict.DUPLICATE),
        (1, 7 + (1 << 63), 2, Verdict.DUPLICATE),
    ],
)
@pytest.mark.parametrize("spilled", [False, True])
def test_region_log_and_place_in_the_record_decide_between_equal_times(
    region: int,
    log: int,
    index: int,
    verdict: Verdict,
    spilled: bool,
    state: State,
    load: Load,
    spill_at: Callable[[int], None],
) -> None:
    if spilled:
        spill_at(1)
    held = load()
    first = entries((1, 10, 0))
    first["index"] = 2
    add_entries(state, held, 1, first)
    nothing(state, held, 2)
    other = entries((1, 10, 0))
    other["region"], other["log"], other["index"] = region, log, index
    assert load().judge(other).verdicts.tolist() == [verdict]


def test_run_files_are_merged_and_only_listed_ones_stay(
    state: State, load: Load, tmp_path: Path, spill_at: Callable[[int], None]
) -> None:
    spill_at(4)
    index = load()
    seen: list[Spec] = []
    levels: set[str] = set()
    for sequence in range(1, 80):
        batch = [(sequence * 10 + n, sequence, 0) for n in range(sequence % 4)]
        seen += batch
        add(state, index, sequence, *batch)
        assert index.rows() == len(seen)
        levels |= {name[0] for name in files(tmp_path)}
        if sequence % 9 == 0:
            index = load()
            assert index.rows() == len(seen)
            assert set(verdicts(index, *[(message, 99, 0) for message, _, _ in seen])) == {Verdict.DUPLICATE}
            assert verdicts(index, (9999, 1, 0)) == [Verdict.ACCEPTED]
    assert levels == {"0", "1", "2"}
    assert index.runs() < 8


def test_many_pages_hold_what_was_put_into_them(
    state: State, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spill_at: Callable[[int], None]
) -> None:
    spill_at(3_000)
    monkeypatch.setattr(_dedup_runs, "STEP_ROWS", 700)
    monkeypatch.setattr(_dedup_runs, "READ_PAGES", 2)
    monkeypatch.setattr(_dedup_runs, "_WINDOW_PAGES", 1)
    monkeypatch.setattr(_dedup_runs, "WRITEBACK_BYTES", 10_000)
    index = load()
    for sequence in range(1, 30):
        add_entries(
            state, index, sequence, even(np.arange(sequence * 1_000, sequence * 1_000 + 1_000), sequence)
        )
    nothing(state, index, 30)
    index = load()
    assert any(name.startswith("1-") for name in files(tmp_path))
    known = index.judge(even(np.arange(1_000, 30_000), 99))
    assert known.verdicts.tolist() == [Verdict.DUPLICATE] * 29_000
    unknown = index.judge(even(np.arange(30_000, 60_000), 99))
    assert unknown.verdicts.tolist() == [Verdict.ACCEPTED] * 30_000
    assert index.memory_bytes() < 4_000_000


def test_an_entry_takes_28_bytes_with_filter_and_fences_however_long_the_history(
    state: State, load: Load, tmp_path: Path, spill_at: Callable[[int], None]
) -> None:
    spill_at(200_000)
    index = load()
    arrived = even(np.arange(200_000))
    arrived["received_at"] = 1_772_359_210_000_000 + np.arange(200_000) * 150_000_000  # most of a year
    arrived["index"] %= 64
    add_entries(state, index, 1, arrived)
    nothing(state, index, 2)
    (name,) = files(tmp_path)
    assert (tmp_path / "dedup" / name).stat().st_size < 28 * 200_000


def test_rows_in_a_run_file_are_removed_from_the_state_bit_by_bit(
    state: State, load: Load, monkeypatch: pytest.MonkeyPatch, spill_at: Callable[[int], None]
) -> None:
    spill_at(10)
    monkeypatch.setattr(dedup, "SEEN_DELETES_MAX", 3)
    index = load()
    left = []
    for sequence in range(1, 16):
        add(state, index, sequence, (sequence, sequence, 0))
        with state.read(W) as tx:
            left.append(tx.count(W, Db.SEEN))
        if sequence > 10:
            index = load()
        assert index.rows() == sequence
    assert left == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 8, 6, 4, 4, 5]


def test_a_transaction_that_failed_leaves_nothing(
    state: State, load: Load, tmp_path: Path, spill_at: Callable[[int], None]
) -> None:
    spill_at(2)
    index = load()
    add(state, index, 1, (1, 1, 0), (2, 1, 0))
    made = files(tmp_path)
    assert made
    with contextlib.suppress(RuntimeError), state.write() as tx:
        index.add(tx, 2, index.judge(entries((3, 2, 0), (4, 2, 0))))
        raise RuntimeError("power cut")
    index = load()
    assert files(tmp_path) == []  # made, and never listed
    assert verdicts(index, (1, 5, 0), (3, 5, 0)) == [Verdict.DUPLICATE, Verdict.ACCEPTED]


def test_a_given_up_index_does_not_remove_what_its_successor_writes(
    state: State, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spill_at: Callable[[int], None]
) -> None:
    spill_at(4)
    for module in (dedup, _dedup_runs):
        monkeypatch.setattr(module, "STEP_ROWS", 1)
    monkeypatch.setattr(dedup, "WORK_PER_ROW", 0)
    index = load()
    add(state, index, 1, *[(n, 1, 0) for n in range(4)])
    index._work_due = 1
    index.sweep()
    (part,) = files(tmp_path)
    assert part.endswith(".part")
    successor = load()
    successor._work_due = 100
    successor.sweep()
    del index
    nothing(state, successor, 2)
    assert successor.runs() == 1
    assert set(verdicts(load(), *[(n, 9, 0) for n in range(4)])) == {Verdict.DUPLICATE}


def test_a_full_disk_stops_nobody_until_memory_is_full(
    state: State, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spill_at: Callable[[int], None]
) -> None:
    spill_at(4)
    index = load()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        add(state, index, 1, *[(n, 1, 0) for n in range(4)])
        add(state, index, 2, *[(n, 1, 0) for n in range(4, 8)])
        assert files(tmp_path) == []
        with pytest.raises(Unavailable, match="free space"):
            add(state, index, 3, (8, 1, 0))
    index = load()
    assert index.rows() == 8
    add(state, index, 3, (8, 1, 0))
    nothing(state, index, 4)
    assert index.runs() == 1
    assert set(verdicts(index, *[(n, 2, 0) for n in range(9)])) == {Verdict.DUPLICATE}


@pytest.mark.parametrize("parts", [[0], [1], [5], [3, 0, 4, 30]])
def test_a_rebuilt_index_holds_exactly_what_it_was_given(
    parts: list[int], state: State, load: Load, tmp_path: Path, spill_at: Callable[[int], None]
) -> None:
    spill_at(3)
    index = load()
    add(state, index, 1, (90, 1, 0))
    count = sum(parts)
    rest = iter(range(count))
    batches = [entries(*[(next(rest), 1, 0) for _ in range(part)]) for part in parts]
    with state.write() as tx:
        index.rebuild(tx, batches, "00000000000000000007")
    for held in (index, load()):
        assert held.rows() == count
        assert verdicts(held, *[(n, 2, 0) for n in range(count)]) == [Verdict.DUPLICATE] * count
        assert verdicts(held, (90, 2, 0)) == [Verdict.ACCEPTED]
    assert len(files(tmp_path)) == index.runs()


# ---- damage ------------------------------------------------------------------------------------


def _run_path(state: State, load: Load, tmp_path: Path, spill_at: Callable[[int], None]) -> Path:
    spill_at(500)
    index = load()
    add_entries(state, index, 1, even(np.arange(500)))
    nothing(state, index, 2)
    (name,) = files(tmp_path)
    return tmp_path / "dedup" / name


def test_a_flipped_bit_anywhere_is_found_before_it_can_answer(
    state: State, load: Load, tmp_path: Path, spill_at: Callable[[int], None]
) -> None:
    path = _run_path(state, load, tmp_path, spill_at)
    whole = path.read_bytes()
    for at in [*range(0, len(whole), 509), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(Corrupt, match=rf"{path.name}.*run: profilelake rebuild"):
            load().judge(even(np.arange(500), 2))
    path.write_bytes(whole)
    assert load().judge(even(np.arange(500), 2)).verdicts.tolist() == [Verdict.DUPLICATE] * 500


def test_a_damaged_page_stops_a_merge(
    state: State, load: Load, tmp_path: Path, spill_at: Callable[[int], None]
) -> None:
    spill_at(10)
    index = load()
    for sequence in range(1, 5):
        numbers = np.arange(sequence * 10, sequence * 10 + 10)
        add_entries(state, index, sequence, even(numbers))
    path = tmp_path / "dedup" / files(tmp_path)[0]
    body = bytearray(path.read_bytes())
    body[2 * PAGE + 100] ^= 4
    path.write_bytes(body)
    more = even(np.arange(1000, 1007))  # work enough to begin with the merge, too few to fill another run
    add_entries(state, index, 5, more[:1])
    with pytest.raises(Corrupt, match=path.name):
        add_entries(state, index, 6, more[1:])


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body[:-1],
        lambda body: body + b"\0" * PAGE,
        lambda body: body[:0],
        lambda body: body[:PAGE] + body[2 * PAGE :],
        lambda body: body[:PAGE] + body[2 * PAGE : 3 * PAGE] + body[PAGE : 2 * PAGE] + body[3 * PAGE :],
    ],
    ids=["cut", "longer", "empty", "a page short", "pages changed"],
)
def test_a_file_of_another_shape_is_named(
    damage: Callable[[bytes], bytes],
    state: State,
    load: Load,
    tmp_path: Path,
    spill_at: Callable[[int], None],
) -> None:
    path = _run_path(state, load, tmp_path, spill_at)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Corrupt, match=path.name):
        load().judge(even(np.arange(500), 2))


def test_another_run_under_the_listed_name_is_refused(
    state: State, load: Load, tmp_path: Path, spill_at: Callable[[int], None]
) -> None:
    spill_at(5)
    index = load()
    for sequence in (1, 2, 3):
        add_entries(state, index, sequence, even(np.arange(sequence * 5, sequence * 5 + 5)))
    one, other = files(tmp_path)[:2]
    (tmp_path / "dedup" / one).write_bytes((tmp_path / "dedup" / other).read_bytes())
    with pytest.raises(Corrupt, match="another file"):
        load()


def test_a_missing_run_file_is_named(
    state: State, load: Load, tmp_path: Path, spill_at: Callable[[int], None]
) -> None:
    path = _run_path(state, load, tmp_path, spill_at)
    path.unlink()
    with pytest.raises(Corrupt, match=r"rebuild"):
        load()


# ---- formats -----------------------------------------------------------------------------------


def test_an_index_of_a_newer_format_is_refused(state: State, load: Load) -> None:
    with state.write() as tx:
        tx.put_meta(W, "dedup", [4, "whatever"])
    with pytest.raises(Corrupt, match="format 4, this program reads 3"):
        load()


def test_an_index_of_before_keeps_its_key_until_it_is_rebuilt(state: State, load: Load) -> None:
    identifier_key = b"0123456789abcdef"
    assert load().key(identifier_key) == message_key(identifier_key) != identifier_key
    with state.write() as tx:
        tx.put_meta(W, "dedup", [2, 0, [], [b"log of twelve"]])
    index = load()
    add(state, index, 1, (1, 1, 0))
    index = load()
    assert index.key(identifier_key) == identifier_key
    with state.write() as tx:
        index.rebuild(tx, [], "00000000000000000007")
    assert index.key(identifier_key) == load().key(identifier_key) == message_key(identifier_key)
