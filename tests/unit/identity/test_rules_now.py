"""Which rules a process that only reads goes by: those in force, a second late at most."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from profilelake.errors import Unavailable
from profilelake.identity.rules_now import REFRESH_SECONDS, RulesNow
from profilelake.identity.standing import store_rules
from profilelake.semantics.rules import segment_defaults
from profilelake.state.store import State

DEFAULT = segment_defaults()
OTHER = replace(segment_defaults(custom=("crm_id",)), version=2)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State.open(tmp_path, writable=True)
    opened.ensure(["w"])
    yield opened
    opened.close()


class Readings:
    """A clock that is moved by hand, and a state that may be missing."""

    def __init__(self, state: State) -> None:
        self.at = 0.0
        self.there = True
        self._state = state
        self.rules = RulesNow(self.state, DEFAULT, monotonic=lambda: self.at)

    def state(self) -> State:
        if not self.there:
            raise Unavailable("no state")
        return self._state


def test_new_rules_are_taken_up_after_a_second(state: State) -> None:
    readings = Readings(state)
    assert readings.rules("w") is DEFAULT
    with state.write() as tx:
        store_rules(tx, "w", OTHER)
    assert readings.rules("w") is DEFAULT
    readings.at += REFRESH_SECONDS
    assert readings.rules("w") == OTHER


def test_rules_that_did_not_change_stay_the_same_object(state: State) -> None:
    readings = Readings(state)
    with state.write() as tx:
        store_rules(tx, "w", OTHER)
    first = readings.rules("w")
    readings.at += REFRESH_SECONDS
    assert first == OTHER
    assert readings.rules("w") is first


def test_the_last_rules_stay_while_the_state_cannot_be_read(state: State) -> None:
    readings = Readings(state)
    readings.there = False
    assert readings.rules("w") is DEFAULT
    readings.there = True
    with state.write() as tx:
        store_rules(tx, "w", OTHER)
    assert readings.rules("w") is DEFAULT
    readings.at += REFRESH_SECONDS
    assert readings.rules("w") == OTHER
    readings.there = False
    readings.at += REFRESH_SECONDS
    assert readings.rules("w") == OTHER


def test_a_workspace_without_state_has_the_default(state: State) -> None:
    assert Readings(state).rules("nobody") is DEFAULT
