"""Why a profile is in an audience, from its facts, now and as of a time; and computed values as of a time."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from past_examples import World, identify, track, world
from pipeline_driver import SECOND, START
from profilelake.audiences.facts import Define, Drop
from profilelake.errors import Invalid
from profilelake.semantics.definitions import Definition
from profilelake.serve import lived
from profilelake.serve._answer import Refused
from profilelake.serve._request import Query
from profilelake.serve._resources import traits
from profilelake.serve.explaining import explained

BUYERS = Definition("buyers", "audience", "event('Bought').where(property('price') >= 30).count() >= 2")
SPENT = Definition("spent", "trait", "event('Bought').sum(property('price'))")
RICH = Definition("rich", "audience", "trait('spent') > 50 AND trait('plan') = 'pro'")


def define(made: World, second: int, definition: Definition | str) -> None:
    """Let a definition hold from a second on, or drop the one of a key."""
    fact = (
        Drop(by="somebody", key=definition)
        if isinstance(definition, str)
        else Define(by="somebody", definition=definition)
    )
    made.desk.apply([made.log.definition(START + second * SECOND, fact)])


def shopping(made: World) -> None:
    made.feed(1, identify("m1", "u1", "a1", {"plan": "pro"}))
    made.feed(2, track("m2", "a1", {"price": 30}))
    made.feed(4, track("m3", "a1", {"price": "31.5"}))
    made.feed(6, track("m4", "a1", {"price": 5}))


def why(made: World, key: str, second: float = 10, *, then: bool = False) -> dict[str, Any]:
    if then:
        with made.found_then("user_id:u1", second) as past:
            return explained(past, key, START + int(second * SECOND), made.past, rules_now=False)
    with made.found("user_id:u1") as found:
        return explained(found, key, START + int(second * SECOND), made.past)


def test_a_member_is_shown_what_counts(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        define(made, 0, BUYERS)
        shopping(made)
        for _ in range(2):  # from the recent runs, then from the lake
            told = why(made, "buyers")
            assert (told["value"], told["has_external_id"], told["version"]) == (True, True, 1)
            assert told["explanation"]["holds"] is True
            assert told["explanation"]["value"] == 2
            made.desk.publish()


def test_values_that_a_definition_reads_are_computed_too(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        define(made, 0, SPENT)
        define(made, 0, RICH)
        shopping(made)
        told = why(made, "rich")
        assert told["value"] is True
        parts = told["explanation"]["parts"]
        assert [part["value"] for part in parts] == [66.5, "pro"]
        assert [part["holds"] for part in parts] == [True, True]


def test_as_of_a_time_only_what_was_received_by_then_counts(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        define(made, 0, BUYERS)
        shopping(made)
        assert why(made, "buyers", 3, then=True)["value"] is False
        assert why(made, "buyers", 4, then=True)["value"] is True


def test_the_definition_of_then_is_explained_and_one_that_was_not_there_is_not_found(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        shopping(made)
        define(made, 7, SPENT)
        define(made, 8, "spent")
        with pytest.raises(Refused) as none_now:
            why(made, "spent")
        assert none_now.value.status == 404
        assert why(made, "spent", 7.5, then=True)["value"] == 66.5
        with pytest.raises(Refused):
            why(made, "spent", 6.5, then=True)


def test_computed_values_of_then_stand_among_the_traits_of_then(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        for definition in (BUYERS, SPENT, RICH):
            define(made, 0, definition)
        shopping(made)
        shown = []
        for second in (1.5, 3, 5):
            with made.found_then("user_id:u1", second) as found:
                shown.append(traits(found, Query(b"")).traits)
        assert [sorted(one) for one in shown] == [
            ["plan"],
            ["plan", "spent"],
            ["buyers", "plan", "rich", "spent"],
        ]


def test_what_is_not_explained_is_said(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        define(made, 0, Definition("tier", "sql_trait", "SELECT 'u1' AS user_id, 'gold' AS tier"))
        define(made, 0, Definition("big", "audience", "event('Bought').count() > 1", target="accounts"))
        shopping(made)
        for key, said in (("tier", "is a query"), ("big", "about accounts"), ("nothing", "not found")):
            with pytest.raises(Refused, match=said):
                why(made, key)


def test_too_many_events_that_ask_for_each_other_are_refused_with_what_to_do(tmp_path: Path) -> None:
    again = "event('Bought').where(event('Bought').within(parent: 1 day).count() >= 1).count() >= 1"
    with world(tmp_path) as made, mock.patch.object(lived, "EVENTS_LOOKED_AT_MAX", 17):
        define(made, 0, BUYERS)
        define(made, 0, Definition("again", "audience", again))
        shopping(made)
        assert why(made, "buyers")["value"] is True
        with pytest.raises(
            Invalid, match=r"looked at 18 times .* most of it for again, and the limit is 17; read"
        ):
            why(made, "again")
