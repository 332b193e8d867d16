import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from profilelake.errors import Conflict, Corrupt, Invalid, NotFound
from profilelake.workspaces import TokenKind
from profilelake.workspaces.control import DEFAULT_SOURCE, LIVE_KEYS_MAX, Control, Credentials


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with Control.open(tmp_path / "control.sqlite", os.urandom) as opened:
        yield opened


def test_the_first_start_makes_up_what_is_not_given_and_shows_it_once(control: Control) -> None:
    made = control.ensure_default(now=1)
    assert made.write_key is not None
    assert made.write_key.startswith("wk_")
    assert str(made.read_token).startswith("rk_")
    assert str(made.admin_token).startswith("adm_")
    assert control.workspaces() == ["default"]
    assert [source.write_keys for source in control.sources()] == [(made.write_key,)]
    assert control.ensure_default(now=2) == Credentials(None, None, None)
    assert len(control.tokens()) == 2


def test_given_secrets_are_good_at_every_start_and_a_token_takes_the_place_of_the_one_before(
    control: Control,
) -> None:
    given = {"write_key": "any string", "read_token": "r1", "admin_token": "a1"}
    assert control.ensure_default(now=1, **given) == Credentials(None, None, None)
    control.ensure_default(now=2, **given | {"write_key": "another", "read_token": "r2"})
    assert control.sources()[0].write_keys == ("any string", "another")
    assert sorted(token.kind for token in control.tokens()) == ["admin", "read"]
    control.revoke_write_key("another", now=3)
    assert control.sources()[0].write_keys == ("any string",)
    control.ensure_default(now=4, **given | {"write_key": "another"})
    assert set(control.sources()[0].write_keys) == {"any string", "another"}


def test_a_generated_token_may_be_given_back_at_the_next_start(control: Control) -> None:
    made = control.ensure_default(now=1)
    assert made.read_token is not None
    control.ensure_default(now=2, read_token=made.read_token)
    assert sorted(token.kind for token in control.tokens()) == ["admin", "read"]
    with pytest.raises(Conflict, match="same value"):
        control.ensure_default(now=3, admin_token=made.read_token)


def test_no_secret_of_a_token_is_stored(control: Control, tmp_path: Path) -> None:
    made = control.ensure_default(now=1, read_token="given-secret")
    control.add_workspace("w", now=1)
    _, secret = control.issue_token(TokenKind.READ, "w", now=1)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"given-secret" not in stored
    assert str(made.admin_token).encode() not in stored
    assert secret.encode() not in stored
    assert str(made.write_key).encode() in stored


def test_the_file_is_for_its_owner_only(control: Control, tmp_path: Path) -> None:
    control.ensure_default(now=1)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_source_is_added_changed_and_gets_more_keys(control: Control) -> None:
    control.add_workspace("shop", now=1)
    source = control.add_source("shop", "web", name="Web", trusted=False, now=1, write_key="k1")
    assert (source.workspace, source.trusted, source.disabled, source.write_keys) == (
        "shop",
        False,
        False,
        ("k1",),
    )
    made = control.add_write_key("web", now=2)
    assert control.sources("shop")[0].write_keys == ("k1", made)
    control.revoke_write_key("k1", now=3)
    changed = control.change_source("web", disabled=True, name="Old web")
    assert (changed.name, changed.disabled, changed.trusted, changed.write_keys) == (
        "Old web",
        True,
        False,
        (made,),
    )
    assert control.sources("default") == []


def test_what_cannot_be_is_refused_and_changes_nothing(control: Control) -> None:
    control.ensure_default(now=1, write_key="k")
    control.add_workspace("w", now=1)
    with pytest.raises(Conflict):
        control.add_workspace("w", now=1)
    with pytest.raises(NotFound):
        control.add_source("nowhere", "s", name="S", trusted=True, now=1)
    with pytest.raises(Conflict, match="belongs to source 'default'"):
        control.add_source("w", "s", name="S", trusted=True, now=1, write_key="k")
    with pytest.raises(Conflict, match="exists"):
        control.add_source("w", DEFAULT_SOURCE, name="S", trusted=True, now=1)
    with pytest.raises(Invalid):
        control.add_source("w", "a/b", name="S", trusted=True, now=1)
    with pytest.raises(Invalid, match="cannot be printed"):
        control.add_write_key(DEFAULT_SOURCE, now=1, write_key="a\nb")
    with pytest.raises(NotFound):
        control.add_write_key("nothing", now=1)
    with pytest.raises(NotFound):
        control.revoke_write_key("nothing", now=1)
    with pytest.raises(NotFound):
        control.revoke_token("nothing", now=1)
    with pytest.raises(NotFound):
        control.issue_token(TokenKind.READ, "nowhere", now=1)
    with pytest.raises(Invalid, match="expires"):
        control.issue_token(TokenKind.READ, "w", now=5, expires_at=5)
    assert [source.id for source in control.sources()] == [DEFAULT_SOURCE]


def test_a_source_has_a_limit_of_live_keys(control: Control) -> None:
    control.ensure_default(now=1)
    for _ in range(LIVE_KEYS_MAX - 1):
        control.add_write_key(DEFAULT_SOURCE, now=1)
    with pytest.raises(Conflict, match="revoke some"):
        control.add_write_key(DEFAULT_SOURCE, now=1)


def test_a_newer_format_and_a_strange_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "control.sqlite"
    Control.open(path, os.urandom).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Corrupt, match="newer program"):
        Control.open(path, os.urandom)
    strange = tmp_path / "strange"
    strange.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(Corrupt, match="restore"):
        Control.open(strange, os.urandom)
