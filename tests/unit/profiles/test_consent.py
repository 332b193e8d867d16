from collections.abc import Iterator
from pathlib import Path

import pytest

from profilelake.profiles.consent import profile_consent
from profilelake.semantics.consent import Policy
from profilelake.state.records import ConsentRecord, IdentRecord, ProfileRecord, SetRecord, encode
from profilelake.state.store import Db, State

W = "default"


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State.open(tmp_path / "state", writable=True)
    opened.ensure([W])
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("policy", "value", "said_by"),
    [("most_restrictive", "false", "m1"), ("latest", "true", "m2"), ("conflict", "true", "m2")],
)
def test_two_devices_of_one_person(state: State, policy: Policy, value: str, said_by: str) -> None:
    user, *devices = key(100), key(101), key(102)
    with state.write() as tx:
        tx.put(W, Db.IDENT, user, encode(IdentRecord(0, "user_id", "u", "shop", "m", 1, bytes(32), key(1))))
        for number, device in enumerate(devices, 1):
            ident = IdentRecord(0, "anonymous_id", f"a{number}", "shop", "m", 1, bytes(32), key(1))
            tx.put(W, Db.IDENT, device, encode(ident))
            record = SetRecord(0, user + device, user, key(1), key(1), bytes(32), "m", "shop")
            tx.put(W, Db.SET, key(number), encode(record))
            told = ConsentRecord(number, key(number) * 2, "shop", f"m{number}", {"Ads": number == 2})
            tx.put(W, Db.CONSENT, key(number), encode(told))
    profile = ProfileRecord(0, bytes(32), [], [key(1), key(2), key(3)])
    with state.read(W) as tx:
        found = profile_consent(tx, W, profile, policy)
    assert {name: (one.value, one.message_id) for name, one in found.items()} == {"Ads": (value, said_by)}


def test_nothing_said_is_nothing_allowed_or_denied(state: State) -> None:
    with state.read(W) as tx:
        assert profile_consent(tx, W, ProfileRecord(0, bytes(32), [], [key(1)]), "latest") == {}
