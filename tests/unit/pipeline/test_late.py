"""Facts that come late, one by one: what they move back, what they undo, what stays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline_driver import KEY, START, Desk, LogBuilder, Message
from profilelake.semantics.identifiers import Identifier, ident_id, public_id, set_id


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


class Arrivals:
    """Two logs, so that one may be late."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._prompt, self._late = LogBuilder("00000000000000aa"), LogBuilder("00000000000000bb")

    def at(self, moment: int, *messages: Message) -> None:
        self._desk.apply([self._prompt.record(START + moment, messages)])

    def late_at(self, moment: int, *messages: Message) -> None:
        self._desk.apply([self._late.record(START + moment, messages)])


@pytest.fixture
def arrivals(desk: Desk) -> Arrivals:
    return Arrivals(desk)


def track(message_id: str, user: str, device: str) -> Message:
    return {
        "type": "track",
        "event": "Bought",
        "userId": user,
        "anonymousId": device,
        "messageId": message_id,
    }


def set_of(user: str, device: str) -> bytes:
    named = [Identifier("user_id", user), Identifier("anonymous_id", device)]
    return set_id(KEY, "users", [ident_id(KEY, "users", identifier) for identifier in named])


def refused(desk: Desk) -> dict[bytes, list[str]]:
    rows = desk.lake_tables("identity_refusals")["identity_refusals"]
    return {row[0]: [one["type"] for one in row[2]] for row in rows}


def test_a_late_fact_undoes_a_refusal_that_was_published(desk: Desk, arrivals: Arrivals) -> None:
    arrivals.at(10, track("m1", "u1", "a"))
    arrivals.at(20, track("m2", "u2", "a"))
    assert desk.verify() == []
    assert refused(desk) == {set_of("u2", "a"): ["anonymous_id"]}
    arrivals.late_at(5, track("m3", "u2", "a"))
    assert desk.verify() == []
    assert refused(desk) == {set_of("u1", "a"): ["anonymous_id"]}
    owner = {row[0]: row[2] for row in desk.lake_tables("identity_map")["identity_map"]}
    assert owner[ident_id(KEY, "users", Identifier("anonymous_id", "a"))] == public_id(
        "users", set_of("u2", "a")
    )


def test_a_late_first_sighting_is_that_of_its_identifiers_too(desk: Desk, arrivals: Arrivals) -> None:
    arrivals.at(10, track("m1", "u", "a"))
    assert desk.verify() == []
    arrivals.late_at(5, track("m0", "u", "a"))
    assert desk.verify() == []
    assert {row[5] for row in desk.lake_tables("identifiers")["identifiers"]} == {"m0"}


@pytest.mark.parametrize(
    "message",
    [
        track("m", "u", "a"),
        {"type": "group", "groupId": "g", "userId": "u", "messageId": "m", "traits": {"x": 1}},
        {"type": "group", "groupId": "g", "messageId": "m", "traits": {"x": 1}},
    ],
    ids=["user", "user and organisation", "organisation"],
)
def test_an_earlier_copy_is_kept_apart_and_moves_first_sightings_back(
    message: dict[str, Any], desk: Desk, arrivals: Arrivals
) -> None:
    arrivals.at(10, message)
    assert desk.verify() == []
    arrivals.late_at(5, message)
    assert desk.verify() == []
    tables = desk.lake_tables("events", "event_copies", "profiles")
    assert (len(tables["events"]), len(tables["event_copies"])) == (1, 1)
    assert {row[5].microsecond for row in tables["profiles"]} == {(START + 5) % 1_000_000}
    assert {row[7] for row in tables["profiles"]} == {1}
    assert desk.applied().totals["duplicates"] == 1
    before = desk.state_tables()
    desk.rebuild()
    assert desk.state_tables() == before


def test_an_earlier_copy_may_change_who_came_first(desk: Desk, arrivals: Arrivals) -> None:
    arrivals.at(10, track("m1", "u1", "a"))
    arrivals.at(20, track("m2", "u2", "a"))
    arrivals.late_at(5, track("m2", "u2", "a"))
    assert desk.verify() == []
    assert refused(desk) == {set_of("u1", "a"): ["anonymous_id"]}
