"""`profilelake source` and `token` on a directory whose server does not run."""

import os
from pathlib import Path

import pytest

from command_line import run, told
from profilelake.settings import Layout
from profilelake.workspaces.control import Control
from profilelake.workspaces.keyring import KeyRing


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    layout = Layout(tmp_path / "data")
    layout.create()
    with Control.open(layout.control, os.urandom) as control:
        control.ensure_default(now=1, write_key="wk_default", read_token="r", admin_token="a")
    return layout.directory


def test_a_source_is_added_shown_and_changed(directory: Path) -> None:
    added = run("source", "add", "web", "--browser", "--quota", "500", "--dir", directory, "--json")
    assert added.code == 0, added
    (key,) = added.json["write_keys"]
    assert key.startswith("wk_")
    expected = {"id": "web", "name": "web", "enabled": True, "trusted": False, "events_per_second": 500}
    assert {name: added.json[name] for name in expected} == expected
    changed = run("source", "set", "web", "--trusted", "--name", "Shop", "--dir", directory, "--json").json
    assert (changed["name"], changed["trusted"], changed["events_per_second"]) == ("Shop", True, 500)
    assert (
        run("source", "set", "web", "--quota", "0", "--dir", directory, "--json").json["events_per_second"]
        == 0
    )
    listed = run("source", "list", "--dir", directory, "--json").json
    assert [source["id"] for source in listed] == ["default", "web"]
    table = run("source", "list", "--dir", directory).out.decode()
    assert "Shop" in table
    assert "no limit" in table
    shown = run("source", "show", "web", "--dir", directory).out.decode()
    assert key in shown


def test_a_key_is_rotated_without_a_gap(directory: Path) -> None:
    ring = KeyRing(Layout(directory).control)
    rotated = run("source", "rotate", "default", "--dir", directory)
    assert rotated.code == 0
    keys = run("source", "show", "default", "--dir", directory, "--json").json["write_keys"]
    new = next(key for key in keys if key != "wk_default")
    assert new in rotated.err
    assert "revoke-key wk_default" in rotated.err
    assert all(ring.source(key) is not None for key in keys)
    revoked = run("source", "revoke-key", "wk_default", "--dir", directory, "--json")
    assert revoked.json["write_keys"] == [new]
    past = {key["key"]: key["revoked_at"] for key in revoked.json["keys"]}
    assert past["wk_default"] is not None
    assert past[new] is None
    ring.refresh()
    assert ring.source("wk_default") is None
    last = run("source", "revoke-key", new, "--dir", directory)
    assert "no live key left" in last.err


def test_a_source_is_disabled_and_enabled_again(directory: Path) -> None:
    assert run("source", "disable", "default", "--dir", directory, "--json").json["enabled"] is False
    ring = KeyRing(Layout(directory).control)
    source = ring.source("wk_default")
    assert source is not None
    assert source.disabled
    assert run("source", "enable", "default", "--dir", directory, "--json").json["enabled"] is True


def test_a_token_is_shown_once_listed_and_revoked(directory: Path) -> None:
    issued = run("token", "issue", "read", "--days", "2", "--dir", directory, "--json").json
    assert issued["secret"].startswith("rk_")
    assert issued["expires_at"] is not None
    listed = run("token", "list", "--dir", directory)
    assert issued["secret"] not in listed.out.decode()
    assert run("token", "list", "--dir", directory, "--json").json[-1]["state"] == "live"
    plain = run("token", "issue", "admin", "--dir", directory)
    assert plain.out.decode().strip().startswith("adm_")
    ring = KeyRing(Layout(directory).control)
    assert ring.token(issued["secret"], now=2) is not None
    assert run("token", "revoke", issued["id"], "--dir", directory, "--json").json["state"] == "revoked"
    ring.refresh()
    assert ring.token(issued["secret"], now=2) is None


def test_a_read_token_is_issued_for_less_than_everything(directory: Path) -> None:
    scope = "collection:users trait:plan rate:50"
    issued = run("token", "issue", "read", "--scope", scope, "--dir", directory, "--json").json
    assert issued["scope"] == scope
    listed = run("token", "list", "--dir", directory, "--json").json
    assert sorted(token["scope"] for token in listed) == ["", "", scope]
    told(run("token", "issue", "read", "--scope", "traits:plan", "--dir", directory), 2, "means nothing")
    told(
        run("token", "issue", "admin", "--scope", scope, "--dir", directory), 2, "admin tokens have no scope"
    )


def test_what_cannot_be_is_told_in_words(directory: Path) -> None:
    told(run("source", "add", "default", "--dir", directory), 4, "exists")
    told(run("source", "add", "a b", "--dir", directory), 2, "letters, digits")
    told(run("source", "add", "x", "--write-key", "wk_default", "--dir", directory), 4, "belongs to")
    told(run("source", "set", "web", "--quota", "1", "--dir", directory), 3, "there is none")
    told(run("source", "set", "default", "--quota", "-1", "--dir", directory), 2, "quota")
    told(run("source", "revoke-key", "nothing", "--dir", directory), 3, "no such key")
    told(run("source", "show", "nothing", "--dir", directory), 3, "there is none")
    told(run("token", "issue", "both", "--dir", directory), 2, "read, admin")
    told(run("token", "issue", "read", "--days", "0", "--dir", directory), 2, "--days 0")
    told(run("token", "revoke", "tok_nothing", "--dir", directory), 3, "no such token")
    told(run("source", "list", "--dir", directory / "nowhere"), 2, "not a profilelake data directory")
