"""What `serve` does before its processes start: the lock, the port, the keys."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from profilelake.app import directory, server
from profilelake.errors import Conflict, Corrupt, Unavailable
from profilelake.settings import Layout
from profilelake.workspaces import TokenKind
from profilelake.workspaces.keyring import KeyRing


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "data")
    made.create()
    return made


def opens(layout: Layout, secret: str) -> TokenKind | None:
    keys = KeyRing(layout.control)
    token = keys.token(secret, now=time.time_ns() // 1_000)
    keys.close()
    return token.kind if token else None


def takes(layout: Layout, key: str) -> bool:
    keys = KeyRing(layout.control)
    source = keys.source(key)
    keys.close()
    return source is not None


def test_generated_keys_are_shown_once_and_kept_privately(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    directory.set_up(layout, {})
    shown = dict(line.split(": ") for line in capsys.readouterr().err.splitlines())
    assert json.loads(layout.credentials.read_text()) == shown
    assert {name: value.partition("_")[0] for name, value in shown.items()} == {
        "write_key": "wk",
        "read_token": "rk",
        "admin_token": "adm",
    }
    assert layout.credentials.stat().st_mode & 0o777 == 0o600
    assert [path.stat().st_mode & 0o777 for path in layout.secrets.iterdir()] == [0o600]
    assert layout.control.stat().st_mode & 0o777 == 0o600
    assert takes(layout, shown["write_key"])
    assert opens(layout, shown["read_token"]) is TokenKind.READ
    assert opens(layout, shown["admin_token"]) is TokenKind.ADMIN
    directory.set_up(layout, {})
    assert capsys.readouterr().err == ""
    assert json.loads(layout.credentials.read_text()) == shown


def test_given_keys_are_good_at_each_start_and_written_nowhere(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    directory.set_up(layout, {"PROFILELAKE_ADMIN_TOKEN": "first", "PROFILELAKE_READ_TOKEN": ""})
    shown = dict(line.split(": ") for line in capsys.readouterr().err.splitlines())
    assert shown.keys() == {"write_key", "read_token"}
    assert opens(layout, "first") is TokenKind.ADMIN
    directory.set_up(layout, {"PROFILELAKE_ADMIN_TOKEN": "second", "PROFILELAKE_WRITE_KEY": "any text"})
    assert opens(layout, "second") is TokenKind.ADMIN
    assert opens(layout, "first") is None
    assert takes(layout, "any text")
    assert takes(layout, shown["write_key"])
    assert capsys.readouterr().err == ""
    assert json.loads(layout.credentials.read_text()) == shown


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"'])
def test_a_damaged_file_of_keys_is_named_and_kept(layout: Layout, text: str) -> None:
    layout.credentials.write_text(text)
    with pytest.raises(Corrupt, match=r"credentials\.json: it is not JSON as we wrote it; move it away"):
        directory.set_up(layout, {})
    assert layout.credentials.read_text() == text


def test_a_directory_has_one_owner_who_is_named(layout: Layout) -> None:
    lock = directory.DirectoryLock(layout)
    with pytest.raises(Conflict, match=f"in use by process {os.getpid()} since 2"):
        directory.DirectoryLock(layout)
    lock.release()
    layout.server.write_text("left behind by a killed server")
    directory.DirectoryLock(layout).release()
    assert not layout.server.exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_is_held_against_other_servers_and_shared_by_our_processes(host: str) -> None:
    with server.hold_port(host, 0) as holder:
        port = holder.getsockname()[1]
        # Though nobody listens yet.
        with pytest.raises(Unavailable, match=f"listening on {host}:{port}: Address already in use; choose"):
            server.hold_port(host, port)
        with socket.socket(holder.family) as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            ours.bind((host, port))
            ours.listen()
            with pytest.raises(Unavailable):
                server.hold_port(host, port)
            with socket.create_connection((host, port), timeout=5):
                pass
    # Connections that have just ended do not keep the next start waiting.
    server.hold_port(host, port).close()


def test_an_address_that_is_not_ours_is_told(layout: Layout) -> None:
    with pytest.raises(Unavailable, match=r"listening on 203\.0\.113\.1:0: .*; choose another"):
        server.hold_port("203.0.113.1", 0)


def test_kernels_are_kept_with_the_user_or_else_in_the_directory(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert directory.kernel_cache(layout).parent == tmp_path / "cache" / "profilelake"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert directory.kernel_cache(layout).parent == layout.run
