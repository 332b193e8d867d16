"""What a destination is told: changes, snapshots, identifiers that come later, consent that is taken back."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from activate_world import SECOND, START, WORKSPACE, World
from profilelake.activate import people, resync, retention, telling
from profilelake.activate.feed import Gone
from profilelake.activate.journal import Journal
from profilelake.activate.people import Person
from profilelake.semantics.destinations import Destination, IdSync
from profilelake.workspaces.destinations import Held

HOOK = Destination("hook", "webhook", "https://example.org/", secret="s", parallel=1)


class Desk:
    """A world and a journal; `tell` takes turns until there is nothing to tell, and gives what was told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.world = World(directory / "state")
        self.journal = Journal.open(directory / "activations.sqlite")

    def tell(self, destination: Destination, *, most: int = 1000) -> list[dict[str, Any]]:
        held = Held(destination, None, START, START)
        told: list[dict[str, Any]] = []
        for _ in range(200):
            with self.world.state.read(WORKSPACE) as tx:
                try:
                    if not told:
                        telling.begin(tx, WORKSPACE, self.journal, held, START)
                    turn = telling.turn(tx, WORKSPACE, self.journal, destination, most=most)
                except Gone:
                    continue
            if turn is None:
                return told
            self.journal.put(destination.name, turn, seen=self.world.at)
            for batch in self.journal.waiting(destination.name):
                told += [json.loads(record.body) for record in batch.records]
                self.journal.delivered(destination.name, batch, len(batch.records), now=START)
        raise AssertionError("it never ends")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.journal.close()
    made.world.close()


def lines(told: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (
            one["event"],
            one["definition"],
            sorted(id["id"] for id in one["external_ids"]),
            one["value"],
            one["cause"],
        )
        for one in told
    ]


def test_a_new_destination_hears_what_holds_and_then_what_changes(desk: Desk) -> None:
    world = desk.world
    world.define("vip")
    world.profile(1, ["user_id:u1"])
    world.profile(2, ["user_id:u2"])
    world.change("vip", {1: "true"})
    assert lines(desk.tell(HOOK)) == [("audience_entered", "vip", ["u1"], True, "resync")]
    world.change("vip", {2: "true", 1: None})
    told = desk.tell(HOOK)
    assert lines(told) == [
        ("audience_entered", "vip", ["u2"], True, "event"),
        ("audience_exited", "vip", ["u1"], False, "event"),
    ]
    assert told[0]["idempotency_key"] == f"vip-2-true-{world.sequence}"
    assert told[1]["previous"] is True
    assert desk.tell(HOOK) == []


def test_without_backfill_only_changes_are_heard(desk: Desk) -> None:
    desk.world.define("vip")
    desk.world.profile(1, ["user_id:u1"])
    desk.world.change("vip", {1: "true"})
    quiet = replace(HOOK, backfill=False)
    assert desk.tell(quiet) == []
    desk.world.profile(1, ["user_id:u1", "email:e1"], touched=True)
    assert desk.tell(quiet) == []
    desk.world.change("vip", {1: None})
    assert lines(desk.tell(quiet)) == [("audience_exited", "vip", ["e1", "u1"], False, "event")]


@pytest.mark.parametrize("most", [1, 2, 3, 1000])
def test_a_snapshot_in_parts_misses_nothing_and_tells_nothing_old(desk: Desk, most: int) -> None:
    """Between any two parts values change on both sides of the sweep; what is told last is what holds."""
    world = desk.world
    world.define("score", "trait")
    for number in range(1, 9):
        world.profile(number, [f"user_id:u{number}"])
    world.change("score", dict.fromkeys(range(1, 9), "1"))
    told: list[dict[str, Any]] = []
    held = Held(HOOK, None, START, START)
    for round in range(60):
        with world.state.read(WORKSPACE) as tx:
            if round == 0:
                telling.begin(tx, WORKSPACE, desk.journal, held, START)
            turn = telling.turn(tx, WORKSPACE, desk.journal, HOOK, most=most)
        if turn is not None:
            desk.journal.put("hook", turn, seen=0)
        for batch in desk.journal.waiting("hook"):
            told += [json.loads(record.body) for record in batch.records]
            desk.journal.delivered("hook", batch, len(batch.records), now=0)
        if round < 6:
            world.change(
                "score", {1 + (round * 5) % 8: str(10 + round), 8 - round: None if round % 2 else "99"}
            )
    with world.state.read(WORKSPACE) as tx:
        assert telling.turn(tx, WORKSPACE, desk.journal, HOOK, most=most) is None
    last = {one["external_ids"][0]["id"]: one["value"] for one in told}
    wanted = dict.fromkeys(range(1, 9), 1)
    for round in range(6):
        wanted[1 + (round * 5) % 8] = 10 + round
        wanted[8 - round] = None if round % 2 else 99
    assert {name: value for name, value in last.items() if value is not None} == {
        f"u{number}": value for number, value in wanted.items() if value is not None
    }
    for name in last:  # nobody hears of an older value after a newer one
        times = [one["at"] for one in told if one["external_ids"][0]["id"] == name]
        assert times == sorted(times)


def test_an_identifier_that_comes_later_is_told_once(desk: Desk) -> None:
    """Vectors E1 and E2: one emission per identifier value; a new one enters by itself."""
    segment = replace(
        HOOK, type="segment", send=("track",), ids=(IdSync("user_id", "all"), IdSync("email", "all"))
    )
    world = desk.world
    world.define("vip")
    world.profile(1, ["user_id:u1", "email:e1", "email:e2"])
    world.change("vip", {1: "true"})
    told = desk.tell(segment)
    assert [one["event"] for one in told] == ["Audience Entered"] * 3
    world.profile(1, ["user_id:u1", "email:e1", "email:e2", "email:e3"], touched=True)
    told = desk.tell(segment)
    assert [one["context"].get("traits") for one in told] == [{"email": "e3"}]
    world.profile(1, ["user_id:u1", "email:e1", "email:e2", "email:e3"], touched=True)
    assert desk.tell(segment) == []
    world.change("vip", {1: None})
    assert [one["event"] for one in desk.tell(segment)] == ["Audience Exited"] * 4


def test_one_emission_with_the_last_user_id(desk: Desk) -> None:
    segment = replace(HOOK, type="segment", send=("track",), ids=(IdSync("user_id"),))
    desk.world.define("vip")
    desk.world.profile(1, ["user_id:u1", "email:e1", "email:e2"])
    desk.world.change("vip", {1: "true"})
    assert [one["userId"] for one in desk.tell(segment)] == ["u1"]


@pytest.mark.parametrize(("strategy", "ids"), [("first", ["a"]), ("last", ["c"]), ("all", ["a", "b", "c"])])
def test_strategies(desk: Desk, strategy: Any, ids: list[str]) -> None:
    desk.world.define("vip")
    desk.world.profile(1, ["email:a", "email:b", "email:c"])
    desk.world.change("vip", {1: "true"})
    told = desk.tell(replace(HOOK, ids=(IdSync("email", strategy, "mail"),)))
    assert [(one["id"], one["name"]) for one in told[0]["external_ids"]] == [(id, "mail") for id in ids]
    desk.world.change("vip", {1: None})
    told = desk.tell(replace(HOOK, ids=(IdSync("email", strategy, "mail"),)))
    assert [one["id"] for one in told[0]["external_ids"]] == ["a", "b", "c"]


def test_consent_lets_in_and_takes_back(desk: Desk) -> None:
    asking = replace(HOOK, consent=("ads", "mail"))
    world = desk.world
    world.define("vip")
    world.profile(1, ["user_id:u1"])
    world.profile(2, ["user_id:u2"], consent={"ads": True})
    world.change("vip", {1: "true", 2: "true"})
    assert desk.tell(asking) == []
    world.profile(1, ["user_id:u1"], consent={"ads": True, "mail": True}, touched=True)
    assert lines(desk.tell(asking)) == [("audience_entered", "vip", ["u1"], True, "consent")]
    world.profile(1, ["user_id:u1"], consent={"ads": True, "mail": False}, touched=True)
    first = desk.tell(asking)
    assert lines(first) == [("audience_exited", "vip", ["u1"], False, "consent")]
    world.change("vip", {1: None})
    assert desk.tell(asking) == []
    world.change("vip", {1: "true"})
    assert desk.tell(asking) == []
    world.profile(1, ["user_id:u1"], consent={"ads": True, "mail": True}, touched=True)
    world.profile(1, ["user_id:u1"], consent={}, touched=True)
    assert desk.tell(asking) == []


def test_consent_taken_back_twice_is_told_under_two_keys(desk: Desk) -> None:
    asking = replace(HOOK, consent=("ads",))
    desk.world.define("vip")
    desk.world.profile(1, ["user_id:u1"], consent={"ads": True})
    desk.world.change("vip", {1: "true"})
    told = desk.tell(asking)
    for allowed in (False, True, False):
        desk.world.profile(1, ["user_id:u1"], consent={"ads": allowed}, touched=True)
        told += desk.tell(asking)
    assert [one["value"] for one in told] == [True, False, True, False]
    assert len({one["idempotency_key"] for one in told}) == 4


def test_a_resync_tells_all_anew_and_only_its_definitions(desk: Desk) -> None:
    world = desk.world
    world.define("vip")
    world.define("score", "trait")
    world.profile(1, ["user_id:u1"])
    world.change("vip", {1: "true"})
    world.change("score", {1: "7"})
    before = desk.tell(HOOK)
    assert len(before) == 2
    assert resync.ask(world.state, WORKSPACE, desk.journal, HOOK, ["vip"], now=0) == ["vip"]
    again = desk.tell(HOOK)
    assert lines(again) == [("audience_entered", "vip", ["u1"], True, "resync")]
    assert again[0]["idempotency_key"] not in {one["idempotency_key"] for one in before}
    assert resync.ask(world.state, WORKSPACE, desk.journal, HOOK, [], now=0) == ["score", "vip"]
    assert len(desk.tell(HOOK)) == 2


def test_who_fell_behind_hears_the_differences(desk: Desk) -> None:
    """The feed was trimmed meanwhile: members added, removed and changed are told from what holds."""
    world = desk.world
    world.define("score", "trait")
    for number in (1, 2, 3, 4):
        world.profile(number, [f"user_id:u{number}"])
    world.change("score", {1: "1", 2: "2", 3: "3"})
    desk.tell(HOOK)
    world.change("score", {1: None, 2: "20", 4: "4"})
    assert retention.trim(world.state, WORKSPACE, world.at + SECOND, bool) == 6
    told = desk.tell(HOOK)
    assert sorted(
        (one["external_ids"][0]["id"], one["value"]) for one in told if one["value"] is not None
    ) == [
        ("u2", 20),
        ("u4", 4),
    ]
    assert [one["external_ids"][0]["id"] for one in told if one["value"] is None] == ["u1"]
    assert desk.tell(HOOK) == []


def test_a_state_built_anew_is_told_as_differences(desk: Desk, tmp_path: Path) -> None:
    desk.world.define("vip")
    desk.world.profile(1, ["user_id:u1"])
    desk.world.change("vip", {1: "true"})
    assert len(desk.tell(HOOK)) == 1
    desk.world.close()
    desk.world = World(tmp_path / "rebuilt", epoch=2)
    desk.world.define("vip")
    desk.world.profile(1, ["user_id:u1"])
    desk.world.profile(2, ["user_id:u2"])
    desk.world.change("vip", {1: "true", 2: "true"}, silent=True)
    assert lines(desk.tell(HOOK)) == [("audience_entered", "vip", ["u2"], True, "resync")]


def test_only_the_definitions_it_wants(desk: Desk) -> None:
    world = desk.world
    world.define("vip")
    world.define("score", "trait")
    world.profile(1, ["user_id:u1"])
    world.change("vip", {1: "true"})
    world.change("score", {1: "7"})
    some = replace(HOOK, definitions=("score",))
    assert [one["definition"] for one in desk.tell(some)] == ["score"]
    world.change("vip", {1: None})
    assert desk.tell(some) == []
    # One that is added to the list is told from its beginning.
    world.change("vip", {1: "true"})
    assert [one["definition"] for one in desk.tell(HOOK)] == ["vip"]


def test_a_definition_that_comes_later_is_told_by_the_feed(desk: Desk) -> None:
    assert desk.tell(HOOK) == []
    desk.world.define("vip")
    desk.world.profile(1, ["user_id:u1"])
    desk.world.change("vip", {1: "true"})
    assert lines(desk.tell(HOOK)) == [("audience_entered", "vip", ["u1"], True, "event")]
    assert desk.journal.sweeps("hook") == []


def test_a_profile_that_was_merged_away_leaves_without_identifiers(desk: Desk) -> None:
    desk.world.define("vip")
    desk.world.profile(1, ["user_id:u1"])
    desk.world.change("vip", {1: "true"})
    desk.tell(HOOK)
    desk.world.gone(1)
    desk.world.change("vip", {1: None})
    assert lines(desk.tell(HOOK)) == [("audience_exited", "vip", [], False, "event")]


def test_calls_are_as_segment_sends_them(desk: Desk) -> None:
    segment = replace(
        HOOK, type="segment", traits=("plan",), ids=(IdSync("user_id"), IdSync("email"), IdSync("ios.idfa"))
    )
    desk.world.define("vip")
    desk.world.profile(1, ["user_id:u1", "email:e1", "ios.idfa:dev"], traits={"plan": '"gold"'})
    desk.world.change("vip", {1: "true"})
    told = desk.tell(segment)
    personas = told[0]["context"]["personas"]
    assert personas["computation_id"].startswith("aud_")
    assert personas == personas | {
        "computation_class": "audience",
        "computation_key": "vip",
        "namespace": "spa_default",
        "space_id": "spa_default",
    }
    identify, track, by_mail, _, by_device, _ = told
    assert (identify["type"], identify["userId"], identify["traits"]) == (
        "identify",
        "u1",
        {"plan": "gold", "vip": True},
    )
    assert track["event"] == "Audience Entered"
    assert track["properties"] == {"audience_key": "vip", "plan": "gold", "vip": True}
    assert by_mail["traits"] == {"plan": "gold", "vip": True, "email": "e1"}
    assert by_device["context"]["device"]["advertisingId"] == "dev"
    assert by_device["context"]["externalIds"][0]["type"] == "ios.idfa"
    assert len({one["messageId"] for one in told}) == 6
    assert all("sentAt" not in one for one in told)


def test_a_computed_trait_is_identified_and_tracked(desk: Desk) -> None:
    segment = replace(HOOK, type="segment", ids=(IdSync("email"),))
    desk.world.define("score", "trait")
    desk.world.profile(1, ["anonymous_id:a1", "email:e1"])
    desk.world.change("score", {1: "7.5"})
    identify, track = desk.tell(segment)
    assert identify["anonymousId"] == "a1"
    assert identify["traits"] == {"score": 7.5, "email": "e1"}
    assert (track["event"], track["properties"]) == ("Trait Computed", {"trait_key": "score", "score": 7.5})
    assert track["context"]["personas"]["computation_class"] == "trait"
    desk.world.change("score", {1: None})
    assert desk.tell(segment)[0]["traits"] == {"score": None, "email": "e1"}


def test_a_decision_to_resync_is_taken_up_once(desk: Desk) -> None:
    world = desk.world
    world.define("vip")
    world.profile(1, ["user_id:u1"])
    world.change("vip", {1: "true"})
    assert len(desk.tell(HOOK)) == 1
    world.resync("vip", "another")
    world.resync("vip", "hook")
    for count in (1, 0):
        with world.state.read(WORKSPACE) as tx:
            telling.follow(tx, WORKSPACE, desk.journal, HOOK, START)
        assert len(desk.tell(HOOK)) == count


def test_accounts_are_told_a_few_at_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comes with its people, who are in memory together with it."""
    asked: list[int] = []

    def load(*arguments: Any, accounts: frozenset[bytes], **more: Any) -> dict[bytes, Person]:
        asked.append(len(accounts))
        return people.load(*arguments, accounts=accounts, **more)

    monkeypatch.setattr(telling, "ACCOUNTS_MAX", 2)
    monkeypatch.setattr(telling, "load", load)
    world = desk.world
    world.define("big", target="accounts")
    world.define("vip")
    for number in range(1, 8):
        world.profile(number, [f"group_id:g{number}"])
    world.change("big", dict.fromkeys(range(1, 6), "true"))
    assert len(desk.tell(HOOK)) == 5  # what holds
    world.profile(9, ["user_id:u9"])
    world.change("big", {6: "true", 7: "true", 1: None})
    world.change("vip", {9: "true"})
    assert [(one["definition"], one["value"]) for one in desk.tell(HOOK)] == [
        ("big", True),
        ("big", True),
        ("big", False),
        ("vip", True),
    ]
    assert max(asked) == 2
