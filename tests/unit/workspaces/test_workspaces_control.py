import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from profilelake.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from profilelake.workspaces import TokenKind, WriteKey, once
from profilelake.workspaces import control as control_module
from profilelake.workspaces.control import (
    DEFAULT_SOURCE,
    EVENTS_PER_SECOND_MAX,
    LIVE_KEYS_MAX,
    Control,
    Credentials,
)
from profilelake.workspaces.keyring import KeyRing


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


def test_whoever_opens_a_database_that_another_makes_just_now_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "control.sqlite"
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("CREATE TABLE theirs (a)")
    holder.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.1, holder.execute, ["ROLLBACK"])
    end.start()
    with Control.open(path, os.urandom) as control:
        control.ensure_default(now=1)
    end.join()
    holder.close()


def test_a_database_that_somebody_holds_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "BUSY_SECONDS", 0.05)
    path = tmp_path / "control.sqlite"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("CREATE TABLE theirs (a)")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="try again"):
        Control.open(path, os.urandom)
    holder.close()


@pytest.fixture
def first_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a control database as the first version of the program made it, with a source and a key."""
    path = tmp_path / "control.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(control_module._FIRST_TABLES)
    connection.execute("INSERT INTO workspaces VALUES ('default', 1)")
    connection.execute("INSERT INTO sources VALUES ('default', 'default', 'default', 1, 0, 1)")
    connection.execute("INSERT INTO write_keys VALUES ('wk_old', 'default', 1, NULL)")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    return path


def test_a_database_of_the_first_format_is_brought_forward(first_format: Path) -> None:
    with Control.open(first_format, os.urandom) as control:
        (source,) = control.sources()
        assert (source.id, source.write_keys, source.events_per_second) == ("default", ("wk_old",), 0)
        assert control.ensure_default(now=2).write_key is None
    ring = KeyRing(first_format)
    assert ring.source("wk_old") == source


def test_an_interrupted_migration_leaves_the_database_as_it_was(
    first_format: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, whole = control_module._MIGRATIONS[0], control_module._MIGRATIONS[1]
    broken = whole + "CREATE TABLE sources (id TEXT);\n"
    monkeypatch.setattr(control_module, "_MIGRATIONS", (before, broken))
    with pytest.raises(Unavailable, match="nothing changed"):
        Control.open(first_format, os.urandom)
    connection = sqlite3.connect(first_format)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert "events_per_second" not in [row[1] for row in connection.execute("PRAGMA table_info(sources)")]
    connection.close()
    monkeypatch.setattr(control_module, "_MIGRATIONS", (before, whole))
    with Control.open(first_format, os.urandom) as control:
        assert control.source("default").write_keys == ("wk_old",)


def test_a_source_has_a_quota(control: Control) -> None:
    control.ensure_default(now=1)
    source = control.add_source("default", "web", name="W", trusted=False, now=1, events_per_second=50)
    assert source.events_per_second == 50
    assert control.change_source("web", name="V").events_per_second == 50
    assert control.change_source("web", events_per_second=0).events_per_second == 0
    for quota in (-1, EVENTS_PER_SECOND_MAX + 1):
        with pytest.raises(Invalid, match="quota"):
            control.change_source("web", events_per_second=quota)
        with pytest.raises(Invalid, match="quota"):
            control.add_source("default", "x", name="X", trusted=True, now=1, events_per_second=quota)


def test_a_key_keeps_its_past(control: Control) -> None:
    control.ensure_default(now=1, write_key="k1")
    control.add_write_key(DEFAULT_SOURCE, now=2, write_key="k2")
    control.revoke_write_key("k1", now=3)
    assert control.write_keys(DEFAULT_SOURCE) == [WriteKey("k1", 1, 3), WriteKey("k2", 2, None)]
    assert control.source_of("k1").id == DEFAULT_SOURCE
    with pytest.raises(NotFound):
        control.source_of("k3")
    with pytest.raises(NotFound):
        control.write_keys("nothing")


def test_a_request_is_carried_out_once(control: Control) -> None:
    control.ensure_default(now=1)

    def add() -> str:
        return control.add_write_key(DEFAULT_SOURCE, now=1)

    first = control.once("key", b"request", add, now=1)
    assert first[1] is False
    assert control.once("key", b"request", add, now=2) == (first[0], True)
    with pytest.raises(Invalid, match="another request"):
        control.once("key", b"other", add, now=2)
    assert len(control.write_keys(DEFAULT_SOURCE)) == 2
    later = 1 + once.KEPT_SECONDS * 1_000_000 + 1
    assert control.once("key", b"other", add, now=later)[1] is False


def test_what_fails_is_not_remembered_and_changes_nothing(control: Control) -> None:
    control.ensure_default(now=1)

    def fail() -> str:
        control.add_source("default", "web", name="W", trusted=True, now=1)
        raise Conflict("half way")

    with pytest.raises(Conflict, match="half way"):
        control.once("key", b"request", fail, now=1)
    assert [source.id for source in control.sources()] == [DEFAULT_SOURCE]
    assert control.once("key", b"request", lambda: "done", now=1) == ("done", False)


def test_there_is_an_end_to_what_is_remembered(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "REQUESTS_MAX", 2)
    for key in ("a", "b"):
        control.once(key, b"", lambda: "", now=1)
    with pytest.raises(Unavailable, match="remembered"):
        control.once("c", b"", lambda: "", now=1)
    assert control.once("a", b"", lambda: "", now=1)[1] is True


def test_a_locked_database_is_no_broken_one(
    control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control.ensure_default(now=1)
    monkeypatch.setattr(control_module, "BUSY_SECONDS", 0.01)
    other = sqlite3.connect(tmp_path / "control.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Control.open(tmp_path / "control.sqlite", os.urandom) as second:
        assert len(second.sources()) == 1
        with pytest.raises(Unavailable, match="locked"):
            second.add_write_key(DEFAULT_SOURCE, now=1)
    other.close()
