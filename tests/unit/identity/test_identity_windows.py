"""The first event of each set in each window, as the state keeps it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from profilelake.identity import windows
from profilelake.identity.rows import Sighting
from profilelake.semantics.positions import Position
from profilelake.state.records import decode_sighting
from profilelake.state.store import Db, State
from profilelake.state.working import Working

HOUR = 3_600_000_000
ONE, OTHER = b"1" * 16, b"2" * 16


def seen(at: int) -> Sighting:
    return Sighting(Position(at, "eu", "00" * 8, 0, 0).to_bytes(), f"m{at}", "web")


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Working]:
    state = State.open(tmp_path, writable=True)
    state.ensure(["w"])
    with state.write() as tx:
        yield Working(tx, "w", 1)
    state.close()


def kept(work: Working) -> list[tuple[bytes, str]]:
    return [
        (place[:16], decode_sighting(value).message_id)
        for place, value in work.tx.items(work.workspace, Db.SIGHTING)
    ]


def test_only_the_earliest_of_a_window_is_noted_and_each_window_has_its_own(work: Working) -> None:
    noted = [windows.note_first(work, ONE, seen(at), HOUR) for at in (20, 30, 10, HOUR - 1, HOUR)]
    assert noted == [True, False, True, False, True]
    assert kept(work) == [(ONE, "m10"), (ONE, f"m{HOUR}")]


def test_what_counts_no_more_leaves_the_windows_of_its_set_alone(work: Working) -> None:
    for key in (ONE, OTHER):
        for at in (10, HOUR, 2 * HOUR):
            windows.note_first(work, key, seen(at), HOUR)
    windows.note_again(work, ONE, [seen(20), seen(HOUR)], HOUR)
    assert kept(work) == [(ONE, "m20"), (ONE, f"m{HOUR}")] + [
        (OTHER, f"m{at}") for at in (10, HOUR, 2 * HOUR)
    ]


def test_under_other_rules_nothing_of_the_old_windows_is_left(work: Working) -> None:
    windows.note_first(work, ONE, seen(5 * HOUR), HOUR)
    windows.replace_all(work, [(OTHER, 0, seen(7)), (OTHER, 1, seen(2 * HOUR))])
    assert kept(work) == [(OTHER, "m7"), (OTHER, f"m{2 * HOUR}")]
    # In windows of two hours this event belongs to the second, and the first of that is later.
    assert windows.note_first(work, OTHER, seen(2 * HOUR - 1), 2 * HOUR) is False
    windows.replace_all(work, [])
    assert kept(work) == []
