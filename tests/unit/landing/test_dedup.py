"""The index of message ids: exact verdicts, however the ids lie between state and run files."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from profilelake.errors import Corrupt
from profilelake.landing import dedup
from profilelake.landing.dedup import ENTRY, DedupIndex, Entries, Verdict
from profilelake.state.store import State

W = "default"
Spec = tuple[int, int, int]
"""Message, time received, content."""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    made = State.open(tmp_path / "state", writable=True)
    made.ensure([W])
    yield made
    made.close()


@pytest.fixture
def load(state: State, tmp_path: Path) -> Callable[[], DedupIndex]:
    def from_disk() -> DedupIndex:
        with state.read(W) as tx:
            return DedupIndex.load(tx, W, tmp_path / "dedup")

    return from_disk


def entries(*specs: Spec) -> Entries:
    made = np.zeros(len(specs), dtype=ENTRY)
    for row, (message, at, content) in enumerate(specs):
        # Equal first words now and then, so that the second ones decide too.
        made[row] = (message // 3, message, at, content, 7, 0)
    return made


def verdicts(index: DedupIndex, *specs: Spec) -> list[Verdict]:
    return [Verdict(verdict) for verdict in index.judge(entries(*specs))]


def add(state: State, index: DedupIndex, sequence: int, *specs: Spec) -> None:
    with state.write() as tx:
        index.add(tx, sequence, entries(*specs))
    index.sweep()


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "dedup").iterdir())


def test_the_first_of_a_batch_is_accepted_and_the_others_are_held_against_it(
    load: Callable[[], DedupIndex],
) -> None:
    assert verdicts(load(), (1, 10, 0), (2, 11, 0), (1, 12, 0), (1, 13, 9)) == [
        Verdict.ACCEPTED,
        Verdict.ACCEPTED,
        Verdict.DUPLICATE,
        Verdict.CONFLICT,
    ]


@pytest.mark.parametrize("held_in", ["memory", "state", "run file"])
def test_what_came_before_is_known_wherever_it_is_held(
    held_in: str, state: State, load: Callable[[], DedupIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    if held_in == "run file":
        monkeypatch.setattr(dedup, "MEMORY_ROWS_MAX", 1)
    index = load()
    add(state, index, 1, (1, 10, 0))
    if held_in != "memory":
        index = load()
    assert verdicts(index, (1, 9, 0), (1, 10, 0), (1, 11, 0), (1, 9, 5), (2, 12, 0)) == [
        Verdict.EARLIER_COPY,
        Verdict.DUPLICATE,
        Verdict.DUPLICATE,
        Verdict.CONFLICT,
        Verdict.ACCEPTED,
    ]


def test_place_in_the_record_and_log_decide_between_equal_times(
    state: State, load: Callable[[], DedupIndex]
) -> None:
    index = load()
    add(state, index, 1, (1, 10, 0))
    again = entries((1, 10, 0), (1, 10, 0), (1, 10, 0), (1, 10, 0))
    again["log"] = [6, 7, 7, 8]
    again["index"] = [5, 0, 1, 0]
    assert index.judge(again).tolist() == [
        Verdict.EARLIER_COPY,
        Verdict.DUPLICATE,
        Verdict.DUPLICATE,
        Verdict.DUPLICATE,
    ]


def test_run_files_are_merged_and_only_listed_ones_stay(
    state: State, load: Callable[[], DedupIndex], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup, "MEMORY_ROWS_MAX", 4)
    monkeypatch.setattr(dedup, "FAN_IN", 3)
    index = load()
    seen: list[Spec] = []
    for sequence in range(1, 60):
        batch = [(sequence * 10 + n, sequence, 0) for n in range(sequence % 4)]
        seen += batch
        add(state, index, sequence, *batch)
        again = load()
        assert index.rows() == again.rows() == len(seen)
        for held in (index, again):
            assert set(verdicts(held, *seen)) <= {Verdict.DUPLICATE}
            assert verdicts(held, (9999, 1, 0)) == [Verdict.ACCEPTED]
    assert 0 < len(files(tmp_path)) < 8


def test_a_transaction_that_failed_leaves_nothing(
    state: State, load: Callable[[], DedupIndex], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup, "MEMORY_ROWS_MAX", 2)
    index = load()
    add(state, index, 1, (1, 1, 0), (2, 1, 0))
    kept = files(tmp_path)
    with contextlib.suppress(RuntimeError), state.write() as tx:
        index.add(tx, 2, entries((3, 2, 0), (4, 2, 0)))
        raise RuntimeError("power cut")
    assert files(tmp_path) != kept
    assert verdicts(load(), (1, 5, 0), (3, 5, 0)) == [Verdict.DUPLICATE, Verdict.ACCEPTED]
    assert files(tmp_path) == kept


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_rebuilt_index_holds_exactly_what_it_was_given(
    count: int, state: State, load: Callable[[], DedupIndex]
) -> None:
    index = load()
    add(state, index, 1, (90, 1, 0))
    specs = [(message, 1, 0) for message in range(count)]
    with state.write() as tx:
        index.rebuild(tx, entries(*specs), "00000000000000000007")
    for held in (index, load()):
        assert held.rows() == count
        assert verdicts(held, *specs) == [Verdict.DUPLICATE] * count
        assert verdicts(held, (90, 2, 0)) == [Verdict.ACCEPTED]


def _cut(data: bytes) -> bytes:
    return data[:-1]


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _other(data: bytes) -> bytes:
    return b"X" + data[1:]


@pytest.mark.parametrize("damage", [_cut, _flip, _other, lambda _: b""])
def test_a_damaged_run_file_is_named(
    damage: Callable[[bytes], bytes],
    state: State,
    load: Callable[[], DedupIndex],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dedup, "MEMORY_ROWS_MAX", 1)
    add(state, load(), 1, (1, 1, 0), (2, 1, 0))
    path = tmp_path / "dedup" / files(tmp_path)[0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Corrupt, match=path.name):
        load()


def test_a_missing_run_file_is_named(
    state: State, load: Callable[[], DedupIndex], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup, "MEMORY_ROWS_MAX", 1)
    add(state, load(), 1, (1, 1, 0))
    (tmp_path / "dedup" / files(tmp_path)[0]).unlink()
    with pytest.raises(Corrupt, match="rebuild"):
        load()
