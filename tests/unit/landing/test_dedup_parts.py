"""The index of message ids made in parts: the same answers as one that was filled in one go."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from profilelake.errors import Corrupt
from profilelake.kernels.sorted_runs import ROW_WORDS
from profilelake.landing import _dedup_runs, dedup
from profilelake.landing.dedup import ENTRY, DedupIndex, Entries, Verdict, rows_of
from profilelake.landing.dedup_parts import ROWS, Packing, Reach, part_of, read_part, written
from profilelake.semantics.positions import Position
from profilelake.state.store import State

W = "default"
LOGS = tuple((1).to_bytes(4, "big") + log.to_bytes(8, "big") for log in (7, 9))
NUMBERS = {log: number for number, log in enumerate(LOGS)}


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


def entries(numbers: np.ndarray[Any, Any], at: int = 5) -> Entries:
    made = np.zeros(len(numbers), dtype=ENTRY)
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    made["first"], made["second"] = mixed, mixed * np.uint64(0x94D049BB133111EB)
    made["received_at"], made["index"] = at + numbers % 3, numbers % 1000
    made["region"], made["log"] = 1, np.where(numbers % 2, 7, 9)
    return made


def table(some: Entries) -> pa.Table:
    rows = rows_of(some, NUMBERS)
    return pa.table([pa.array(rows[:, word]) for word in range(ROW_WORDS)], names=ROWS.names).cast(ROWS)


def packing(some: Entries) -> Packing:
    times = some["received_at"]
    reach = Reach(len(some), int(times.min()), int(times.max()), int(some["index"].max()), list(LOGS))
    return Packing(b"", LOGS, reach.bounds())


def packed(some: Entries, parts: int) -> Iterator[bytes]:
    """Yield the parts of the index of these entries, in order, as they are written."""
    how, rows = packing(some), table(some)
    of = part_of(rows, parts)
    for part in range(parts):
        mine = rows.filter(pa.array(of == part))
        if mine.num_rows:
            yield written(how.pack(mine, parts))


@pytest.mark.parametrize("parts", [1, 2, 64, 1024])
def test_parts_put_together_know_what_an_index_knows(
    parts: int,
    state: State,
    load: Callable[[], DedupIndex],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_dedup_runs, "_WINDOW_PAGES", 1)
    some = entries(np.arange(20_000))
    with state.write() as tx:
        bodies = packed(some, parts)
        (tmp_path / "dedup").mkdir()
        index = DedupIndex(tmp_path / "dedup", W)
        index.take_over(tx, "label", LOGS, packing(some).bounds, (read_part(body) for body in bodies))
    for held in (index, load()):
        assert (held.rows(), held.runs()) == (20_000, 1)
        assert set(held.judge(some).verdicts.tolist()) == {Verdict.ACCEPTED}, "each at its own place"
        later = entries(np.arange(20_000), 99)
        assert set(held.judge(later).verdicts.tolist()) == {Verdict.DUPLICATE}
        others = entries(np.arange(20_000, 40_000))
        assert set(held.judge(others).verdicts.tolist()) == {Verdict.ACCEPTED}


def test_what_comes_later_is_merged_with_it(
    state: State, load: Callable[[], DedupIndex], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup, "MEMORY_ROWS_MAX", 500)
    (tmp_path / "dedup").mkdir()
    some = entries(np.arange(3_000))
    with state.write() as tx:
        parts = (read_part(body) for body in packed(some, 8))
        DedupIndex(tmp_path / "dedup", W).take_over(tx, "label", LOGS, packing(some).bounds, parts)
    (name,) = [path.name for path in (tmp_path / "dedup").iterdir()]
    assert name.startswith("1-"), "a run of the size that merges of the smallest have"
    index = load()
    for sequence in range(1, 40):
        with state.write() as tx:
            numbers = np.arange(3_000 + 250 * sequence, 3_250 + 250 * sequence)
            index.add(tx, sequence, index.judge(entries(numbers)))
        index.sweep()
    assert not (tmp_path / "dedup" / name).exists(), "it was merged with three others of its size"
    assert set(load().judge(entries(np.arange(3_000), 99)).verdicts.tolist()) == {Verdict.DUPLICATE}


def test_the_order_in_which_rows_come_does_not_matter() -> None:
    some = entries(np.arange(3_000))
    copies = some[:200].copy()
    copies["received_at"] -= 1
    both = np.concatenate([some, copies])
    shuffled = both[np.random.default_rng(7).permutation(len(both))]
    assert list(packed(both, 8)) == list(packed(shuffled, 8))


def test_rows_name_the_log_and_region_that_they_are_of() -> None:
    """Of the same id in two regions, and of two ids in one, in any order."""
    some = entries(np.arange(2_000))
    mixed = np.random.default_rng(5)
    some["region"], some["log"] = (
        mixed.choice([1, 2], len(some)),
        mixed.choice(np.array([7, 9, 2**64 - 1], dtype=np.uint64), len(some)),
    )
    of = [
        region.to_bytes(4, "big") + log.to_bytes(8, "big")
        for region, log in zip(some["region"].tolist(), some["log"].tolist(), strict=True)
    ]
    numbers = {key: number for number, key in enumerate(sorted(set(of)))}
    assert len(numbers) == 6
    assert (rows_of(some, numbers)[:, 3] >> np.uint64(32)).tolist() == [numbers[key] for key in of]


def test_nothing_is_no_run(state: State, tmp_path: Path) -> None:
    (tmp_path / "dedup").mkdir()
    index = DedupIndex(tmp_path / "dedup", W)
    with state.write() as tx:
        index.take_over(tx, "label", [], Reach().bounds(), [])
    assert (index.rows(), index.runs()) == (0, 0)


def test_parts_that_are_cut_short_or_missing_are_refused(state: State, tmp_path: Path) -> None:
    some = entries(np.arange(3_000))
    bodies = list(packed(some, 8))
    for damaged in (bodies[0][:-8], bodies[0][:16], b""):
        with pytest.raises(Corrupt, match="a part of the de-duplication index"):
            read_part(damaged)
    (tmp_path / "dedup").mkdir()
    with state.write() as tx, pytest.raises(Corrupt, match="wanted are 3000"):
        DedupIndex(tmp_path / "dedup", W).take_over(
            tx, "label", LOGS, packing(some).bounds, (read_part(body) for body in bodies[1:])
        )
    assert list((tmp_path / "dedup").iterdir()) == []


def test_positions_say_how_far_they_reach() -> None:
    places = [Position(3, "eu", "00000000000000aa", 9, 1), Position(8, "us", "00000000000000bb", 0, 7)]
    more = [Position(8, "us", "00000000000000bb", 256, 0)]
    found = Reach.together([Reach.of(_column(places)), Reach(), Reach.of(_column(more))])
    assert (found.rows, found.time_min, found.time_max, found.index_max) == (3, 3, 8, 7)
    assert found.last == max(place.to_bytes() for place in (*places, *more))
    assert found.logs == sorted({place.to_bytes()[8:20] for place in (*places, *more)})
    assert Reach.together([]) == Reach.of(_column([])) == Reach()


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(Packing(b"secret of sixteen", LOGS, Reach().bounds()))


def _column(places: list[Position]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([place.to_bytes() for place in places], pa.binary(32))])
