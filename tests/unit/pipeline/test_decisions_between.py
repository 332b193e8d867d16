"""What comes between a decision and its effect, and beside it: nothing is lost, and the tables become right."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_driver import KEY, SECOND, START, Desk, LogBuilder, Message
from profilelake.eventlog import Damage
from profilelake.identity import resolve
from profilelake.identity.facts import NewRules, Quarantine, Retract, Unlink
from profilelake.semantics import identifiers
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.positions import Position
from profilelake.semantics.rules import IdentityRules, TypeRule

DAY = 86_400 * SECOND
WITHOUT_LIMITS = IdentityRules(
    version=1,
    types=tuple(
        TypeRule(name, place, limit=None)
        for place, name in enumerate(("user_id", "email", "anonymous_id"), start=1)
    ),
)


@pytest.fixture
def open_desk(tmp_path: Path) -> Iterator[Any]:
    """Give a function that opens a desk under some rules; all are closed at the end."""
    opened: list[Desk] = []

    def opening(rules: IdentityRules = WITHOUT_LIMITS) -> Desk:
        opened.append(Desk(tmp_path / str(len(opened)), rules=rules))
        return opened[-1]

    yield opening
    for desk in opened:
        desk.close()


def seen(id: str, **named: str) -> Message:
    message: Message = {"type": "track", "event": "Seen", "messageId": id, **named}
    email = message.pop("email", None)
    return message | ({"context": {"traits": {"email": email}}} if email else {})


def ident(type: str, value: str) -> bytes:
    return identifiers.ident_id(KEY, "users", Identifier(type, value))


def settle(desk: Desk) -> list[str]:
    """Wait for what is left to the background; return how state and tables differ from the facts."""
    for _ in range(100):
        if not desk.batcher.tend_replays(wait_seconds=1.0):
            assert desk.applied().totals.get("failed", 0) == 0
            return desk.verify()
    raise AssertionError("the replays never end")


def test_events_of_a_profile_that_waits_to_fall_apart_are_applied(
    open_desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "REPLAY_SETS_MAX", 3)
    desk, log, other = open_desk(), LogBuilder("00" * 7 + "01"), LogBuilder("00" * 7 + "02")
    late = other.record(START + 7 * SECOND, [seen("late", anonymousId="a3", userId="u3")])
    desk.apply(
        [
            log.record(START + n * SECOND, [seen(f"m{n}", anonymousId=f"a{n}", email="x@x.org")])
            for n in range(1, 7)
        ]
    )
    desk.apply([log.record(START + 10 * SECOND, [seen("m10", anonymousId="a10")])])
    poison = Quarantine(by="test", collection="users", ident=ident("email", "x@x.org").hex())
    desk.apply([log.decision(START + 20 * SECOND, poison)])
    assert list(desk.batcher.waiting())
    desk.apply([late])
    desk.apply([log.record(START + 30 * SECOND, [seen("after", anonymousId="a4", userId="u4")])])
    assert settle(desk) == []


def test_members_of_a_type_that_new_rules_do_not_know_stop_nobody(
    open_desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "REPLAY_SETS_MAX", 3)
    desk, log = open_desk(), LogBuilder("00" * 7 + "01")
    desk.apply(
        [
            log.record(START + n * SECOND, [seen(f"m{n}", anonymousId="a", email=f"e{n}@x.org")])
            for n in range(1, 7)
        ]
    )
    one, two = (ident("email", f"e{n}@x.org").hex() for n in (1, 2))
    desk.apply([log.decision(START + 15 * SECOND, Unlink(by="test", collection="users", one=one, other=two))])
    assert settle(desk) == []
    without = replace(WITHOUT_LIMITS, version=2, types=WITHOUT_LIMITS.types[::2])
    desk.apply([log.decision(START + 20 * SECOND, NewRules(by="test", rules=without))])
    desk.apply([log.record(START + 30 * SECOND, [seen("after", anonymousId="a", userId="u")])])
    assert settle(desk) == []


def test_refusals_name_the_new_rules_where_those_took_effect_in_the_background(
    open_desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "REPLAY_SETS_MAX", 3)
    rules = IdentityRules(
        version=1, types=(TypeRule("user_id", 1, limit=1), TypeRule("anonymous_id", 2, limit=None))
    )
    desk, log = open_desk(rules), LogBuilder("00" * 7 + "01")
    desk.apply(
        [
            log.record(START + n * SECOND, [seen(f"m{n}", anonymousId="a", userId=f"u{n}")])
            for n in range(1, 7)
        ]
    )
    desk.publish()
    desk.apply([log.decision(START + 20 * SECOND, NewRules(by="test", rules=replace(rules, version=2)))])
    assert settle(desk) == []


def test_many_late_events_of_one_component_wait_together(
    open_desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "REPLAY_SETS_MAX", 3)
    desk, log, other = open_desk(), LogBuilder("00" * 7 + "01"), LogBuilder("00" * 7 + "02")
    desk.apply(
        [
            log.record(START + n * SECOND, [seen(f"m{n}", anonymousId=f"a{n}", email="x@x.org")])
            for n in (1, 2, 3, 4, 5, 100)
        ]
    )
    for n in range(8):
        desk.apply(
            [other.record(START + (20 + n) * SECOND, [seen(f"l{n}", anonymousId=f"b{n}", email="x@x.org")])]
        )
    assert len(list(desk.batcher.waiting())) == 1
    assert settle(desk) == []


def test_damage_before_a_decision_is_counted(open_desk: Any) -> None:
    desk, log = open_desk(), LogBuilder("00" * 7 + "01")
    desk.apply([log.record(START, [seen("m0", anonymousId="a0")])])
    lost = log.record(START + SECOND, [seen("m1", anonymousId="a1"), seen("m2", anonymousId="a2")])
    one, other = ident("anonymous_id", "a0").hex(), ident("anonymous_id", "a1").hex()
    fact = log.decision(START + 2 * SECOND, Unlink(by="test", collection="users", one=one, other=other))
    stretch = Damage(f"/x/{lost.log_id}/segment", lost.offset, lost.next_offset, 2, "checksum differs")
    desk.apply([fact], [stretch])
    assert desk.applied().totals["failed"] == 2
    assert desk.verify() == []


def test_a_window_whose_first_event_was_retracted_begins_with_the_next(open_desk: Any) -> None:
    rules = IdentityRules(
        version=1, types=(TypeRule("user_id", 1, limit=1), TypeRule("anonymous_id", 2, limit=2))
    )
    desk, log = open_desk(rules), LogBuilder("00" * 7 + "01")
    records = [
        log.record(START + at, [seen(f"m{n}", anonymousId="a0", userId="u")])
        for n, at in enumerate((0, DAY, DAY + SECOND))
    ]
    desk.apply(records)
    gone = records[1]
    position = Position(gone.received_at, "local", gone.log_id, gone.offset, 0).to_bytes().hex()
    key = identifiers.set_id(KEY, "users", [ident("user_id", "u"), ident("anonymous_id", "a0")]).hex()
    retract = Retract(by="test", message_id="m1", position=position, sets=[("users", key)])
    daily = replace(rules, version=2, types=(rules.types[0], replace(rules.types[1], window_seconds=86_400)))
    desk.apply([log.decision(START + DAY + 5 * SECOND, retract)])
    desk.apply([log.decision(START + DAY + 6 * SECOND, NewRules(by="test", rules=daily))])
    assert settle(desk) == []


def test_who_is_trusted_may_be_others_after_a_start(open_desk: Any) -> None:
    desk, log = open_desk(replace(WITHOUT_LIMITS, degree_max=2)), LogBuilder("00" * 7 + "01")
    desk.apply([log.record(START, [seen("m", userId="boss", anonymousId="a0")])])
    desk.apply(
        [
            log.record(
                START + n * SECOND, [seen(f"m{n}", userId="boss", anonymousId=f"a{n}")], source_id="browser"
            )
            for n in range(1, 6)
        ]
    )
    assert desk.batcher.quarantined() == 1
    desk.setup = replace(desk.setup, untrusted=lambda: frozenset({"browser"}))
    desk.restart()
    desk.apply([log.record(START + 10 * SECOND, [seen("more", userId="somebody", anonymousId="c")])])
    assert desk.batcher.quarantined() == 0
    assert settle(desk) == []
