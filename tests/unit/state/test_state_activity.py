"""How often sets were seen: the same answer however far it is settled, and after a crash at any place."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from profile_examples import BEGIN, SECOND, SPACE, Profiles, position, row
from profilelake.state import activity
from profilelake.state.recent import RunReader
from profilelake.state.records import ActivityRecord

SETS = [bytes([number * 20]) + b"\x01" * 15 for number in range(12)]
NO_SET = bytes(16)


class Killed(Exception):
    """Stands for the end of the process at a failpoint."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settle in many parts and transactions."""
    monkeypatch.setattr(activity, "PART_ROWS", 7)
    monkeypatch.setattr(activity, "CHUNK", 2)


class Seen:
    """Profiles with runs of events, and what their sets' activity must be."""

    def __init__(self, directory: Path) -> None:
        self.profiles = Profiles(directory)
        self.truth: dict[bytes, ActivityRecord] = {}
        self._events = 0

    def run(self, *sets: bytes) -> None:
        """Add one run with an event of each of these sets, in the order given."""
        rows = []
        for key in sets:
            self._events += 1
            at, message_id = BEGIN + self._events * SECOND, f"m{self._events}"
            rows.append(row(key, at, message_id, self._events))
            before = self.truth.get(key)
            count = 1 if before is None else before.count + 1
            self.truth[key] = ActivityRecord(count, position(at, self._events), message_id, "src_web")
        self.profiles.remember(sorted(rows, key=lambda r: (r["key"], r["position"])))

    def settle(self) -> int:
        return activity.settle(self.profiles.state, SPACE, self.profiles.recent(SPACE))

    def read(self) -> dict[bytes, ActivityRecord]:
        with self.profiles.state.read(SPACE) as tx:
            return activity.read(tx, SPACE, RunReader(self.profiles.recent(SPACE)), SETS)

    def settled(self) -> dict[bytes, ActivityRecord]:
        with self.profiles.state.read(SPACE) as tx:
            return tx.activity(SPACE, [NO_SET, *SETS])


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[Seen]:
    seen = Seen(tmp_path)
    yield seen
    seen.profiles.state.close()


def settle_on_and_on(seen: Seen) -> None:
    while True:
        seen.settle()
        seen.run(SETS[4])


def test_the_answer_is_the_same_before_and_after_it_is_settled(seen: Seen) -> None:
    assert seen.read() == {}
    seen.run(*SETS, SETS[3], SETS[3])
    seen.run(SETS[3], SETS[0])
    assert seen.read() == seen.truth
    assert seen.settled() == {}
    assert seen.settle() == 2
    assert seen.read() == seen.settled() == seen.truth
    seen.run(SETS[5], SETS[5])
    assert seen.read() == seen.truth
    assert seen.settle() == 3
    assert seen.settled() == seen.truth


def test_settling_twice_counts_once(seen: Seen) -> None:
    seen.run(*SETS)
    assert seen.settle() == seen.settle() == 1
    assert seen.settled() == seen.truth


def test_events_of_no_set_are_nobodys(seen: Seen) -> None:
    seen.run(NO_SET, SETS[1], NO_SET)
    seen.settle()
    assert NO_SET not in seen.settled()


@pytest.mark.parametrize("reached", range(1, 9))
def test_killed_while_it_settles_nothing_is_counted_twice_or_not_at_all(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, reached: int
) -> None:
    seen.run(*SETS, SETS[2])
    left = [reached]

    def reach(_name: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    monkeypatch.setattr(activity, "reach", reach)
    with pytest.raises(Killed):
        settle_on_and_on(seen)
    assert seen.read() == seen.truth
    # More events come before anybody settles again.
    seen.run(SETS[0], SETS[11], SETS[11])
    assert seen.read() == seen.truth
    monkeypatch.setattr(activity, "reach", lambda _name: None)
    seen.settle()
    seen.settle()
    assert seen.settled() == seen.read() == seen.truth
