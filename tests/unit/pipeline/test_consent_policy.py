"""The policy for consent is a setting: where it changes, the profiles that said anything are published again."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline_driver import START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.profiles.consent import policy_in_force
from profilelake.semantics.consent import Policy


def stating(number: int, device: str, **allowed: bool) -> Message:
    return {
        "type": "identify",
        "messageId": f"m{number}",
        "userId": "u1",
        "anonymousId": device,
        "context": {"consent": {"categoryPreferences": allowed}},
    }


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    log = LogBuilder("00000000000000aa")
    made.apply([log.record(START, [stating(1, "a1", Ads=False)])])
    made.apply([log.record(START + 1, [stating(2, "a2", Ads=True)])])
    yield made
    made.close()


def start_with(desk: Desk, policy: Policy | None) -> None:
    desk.setup = replace(desk.setup, consent_policy=policy)
    desk.restart()


def shown(desk: Desk) -> list[object]:
    return [json.loads(row[4]) for row in desk.lake_tables("profiles")["profiles"]]


def test_another_policy_shows_at_the_next_publication(desk: Desk) -> None:
    assert desk.verify() == []
    assert shown(desk) == [{"Ads": "false"}]
    start_with(desk, "latest")
    assert desk.publish(whole=False)
    assert shown(desk) == [{"Ads": "true"}]
    assert desk.verify() == []


def test_who_names_no_policy_keeps_the_one_in_force(desk: Desk) -> None:
    start_with(desk, "conflict")
    sequence = desk.applied().sequence
    start_with(desk, None)
    with desk.state.read(WORKSPACE) as tx:
        assert policy_in_force(tx, WORKSPACE) == "conflict"
    assert desk.applied().sequence == sequence


def test_a_rebuild_keeps_the_policy(desk: Desk) -> None:
    start_with(desk, "latest")
    desk.publish()
    desk.rebuild()
    assert shown(desk) == [{"Ads": "true"}]
    assert desk.verify() == []


def test_what_is_said_again_on_one_device_shows_under_a_policy_of_times(desk: Desk) -> None:
    """Its own answers stay as they were, so only their order among those of the profile changes."""
    start_with(desk, "latest")
    desk.publish()
    desk.apply([LogBuilder("00000000000000bb").record(START + 2, [stating(3, "a1", Ads=False)])])
    desk.publish(whole=False)
    assert shown(desk) == [{"Ads": "false"}]
    assert desk.verify() == []
