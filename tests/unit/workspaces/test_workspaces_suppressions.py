"""The list of suppressed identifiers: what is kept of them, and how processes follow it."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from profilelake.errors import Conflict, Invalid, NotFound, Unavailable
from profilelake.semantics.identifiers import Identifier, ident_id
from profilelake.semantics.rules import IdentityRules, TypeRule, segment_defaults
from profilelake.workspaces import suppressions
from profilelake.workspaces.control import CONTROL_FILE, Control
from profilelake.workspaces.suppressions import (
    Digests,
    Following,
    Hashed,
    SuppressionRing,
    Suppressions,
    hash_identifier,
)

KEY = bytes(range(16))
RULES = segment_defaults()


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with Control.open(tmp_path / CONTROL_FILE, os.urandom) as opened:
        opened.ensure_default(now=1)
        yield opened


@pytest.fixture
def listed(control: Control) -> Suppressions:
    return control.suppressions()


def user(name: str) -> Hashed:
    return hash_identifier(KEY, RULES, "users", "user_id", name)


def test_an_identifier_is_known_by_two_keyed_hashes_of_its_normalised_form() -> None:
    hashed = hash_identifier(KEY, RULES, "users", "email", "  ANA@Example.org ")
    assert hashed.ident_id == ident_id(KEY, "users", Identifier("email", "ana@example.org"))
    assert hashed.digest == Digests(KEY).digest("users", "email", "ana@example.org")
    assert hashed.digest == Digests(KEY).of_type("users", "email")("ana@example.org")
    others = [
        hash_identifier(KEY, RULES, "accounts", "email", "ana@example.org"),
        hash_identifier(KEY, RULES, "users", "user_id", "ana@example.org"),
        hash_identifier(bytes(16), RULES, "users", "email", "ana@example.org"),
    ]
    assert not {one.digest for one in others} & {hashed.digest, hashed.ident_id}
    lower = IdentityRules(2, (TypeRule("user_id", 1, normaliser="lower"),))
    assert hash_identifier(KEY, lower, "users", "user_id", " Ana") == user("ana")
    assert hash_identifier(KEY, RULES, "users", "user_id", " Ana") != user("ana")


def test_the_database_never_holds_an_identifier(
    control: Control, listed: Suppressions, tmp_path: Path
) -> None:
    listed.suppress("default", [user("somebody-known")], reason="reg_1", now=5)
    control.close()
    assert not [path for path in tmp_path.iterdir() if b"somebody-known" in path.read_bytes()]


def test_suppressing_twice_keeps_the_first_entry(listed: Suppressions) -> None:
    assert listed.suppress("default", [user("a"), user("b"), user("a")], reason="reg_1", now=5) == 2
    assert listed.suppress("default", [user("a"), user("c")], reason="reg_2", now=6) == 1
    found = listed.find("default", user("a"))
    assert found is not None
    assert (found.reason, found.created_at) == ("reg_1", 5)
    assert listed.count("default") == 3
    assert listed.unsuppress("default", [user("a"), user("x")]) == 1
    assert listed.unsuppress("default", [user("a")]) == 0
    assert listed.find("default", user("a")) is None


def test_pages_follow_one_another(listed: Suppressions) -> None:
    listed.suppress("default", [user(str(number)) for number in range(25)], now=5)
    seen, after = [], b""
    while page := listed.page("default", after=after, rows=10):
        seen += page
        after = page[-1].hashed.ident_id
    assert len(seen) == 25
    assert [one.hashed.ident_id for one in seen] == sorted(user(str(number)).ident_id for number in range(25))


def test_limits_are_kept_and_named(listed: Suppressions, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Invalid, match="give 1 to 5000 at once"):
        listed.suppress("default", [user("a")] * 5001, now=1)
    with pytest.raises(Invalid, match="give 1 to 5000 at once"):
        listed.unsuppress("default", [])
    with pytest.raises(Invalid, match="reason"):
        listed.suppress("default", [user("a")], reason="x" * 201, now=1)
    with pytest.raises(NotFound):
        listed.suppress("elsewhere", [user("a")], now=1)
    monkeypatch.setattr(suppressions, "SUPPRESSIONS_MAX", 2)
    listed.suppress("default", [user("a"), user("b")], now=1)
    with pytest.raises(Conflict, match="the most is 2"):
        listed.suppress("default", [user("c")], now=1)
    assert listed.count("default") == 2


@pytest.mark.parametrize(
    ("type", "value"),
    [
        ("", "x"),
        ("t" * 201, "x"),
        ("a\0b", "x"),
        ("user_id", ""),
        ("email", " \t"),
        ("user_id", "\ud83d"),
        ("user_id", "é" * 16_385),
    ],
)
def test_what_no_event_can_name_is_refused_without_being_repeated(type: str, value: str) -> None:
    with pytest.raises(Invalid) as refused:
        hash_identifier(KEY, RULES, "users", type, value)
    assert len(value) < 2 or value not in str(refused.value)


def test_followers_see_every_change_at_their_next_look(listed: Suppressions, tmp_path: Path) -> None:
    following = Following(tmp_path / CONTROL_FILE, "ident_id")
    assert following.now("default") == (0, frozenset())
    listed.suppress("default", [user("a")], now=1)
    first, ids = following.now("default")
    assert ids == {user("a").ident_id}
    listed.suppress("default", [user("a")], now=1)
    assert following.now("default")[0] == first  # nothing has changed
    listed.suppress("default", [user("b")], now=1)
    second, ids = following.now("default")
    assert second > first
    assert ids == {user("a").ident_id, user("b").ident_id}
    listed.unsuppress("default", [user("a")])
    listed.suppress("default", [user("c")], now=1)
    assert following.now("default")[1] == {user("b").ident_id, user("c").ident_id}
    listed.unsuppress("default", [user("b"), user("c")])
    assert following.now("default")[1] == set()
    fresh = Following(tmp_path / CONTROL_FILE, "digest")
    listed.suppress("default", [user("d")], now=1)
    assert fresh.now("default")[1] == {user("d").digest}
    fresh.close()
    following.close()


def test_a_change_is_read_alone_and_not_the_whole_list_again(listed: Suppressions, tmp_path: Path) -> None:
    following = Following(tmp_path / CONTROL_FILE, "digest")
    listed.suppress("default", [user(str(number)) for number in range(50)], now=1)
    _, before = following.now("default")
    listed.suppress("default", [user("new")], now=1)
    _, after = following.now("default")
    assert after is before  # added to in place
    assert len(after) == 51
    following.close()


def test_without_a_database_landing_waits_and_collect_goes_on(listed: Suppressions, tmp_path: Path) -> None:
    missing = Following(tmp_path / "missing.sqlite", "ident_id")
    with pytest.raises(Unavailable, match="reading the suppressions"):
        missing.now("default")
    clock = [0.0]
    ring = SuppressionRing(tmp_path / CONTROL_FILE, monotonic=lambda: clock[0])
    listed.suppress("default", [user("a")], now=1)
    assert ring.digests("default") == {user("a").digest}
    listed.suppress("default", [user("b")], now=1)
    assert len(ring.digests("default")) == 1  # not looked yet
    clock[0] += suppressions.REFRESH_SECONDS
    assert len(ring.digests("default")) == 2
    with sqlite3.connect(tmp_path / CONTROL_FILE) as connection:
        connection.execute("DROP TABLE suppression_versions")
    connection.close()
    assert not ring.refresh()
    assert len(ring.digests("default")) == 2  # the last good list stays
    ring.close()
