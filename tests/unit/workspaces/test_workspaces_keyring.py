import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from profilelake.errors import Unavailable
from profilelake.workspaces import TokenKind
from profilelake.workspaces.control import Control
from profilelake.workspaces.keyring import FAILED_SECONDS, REFRESH_SECONDS, KeyRing


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sqlite"


@pytest.fixture
def control(path: Path) -> Iterator[Control]:
    with Control.open(path, os.urandom) as opened:
        opened.ensure_default(now=1, write_key="k", read_token="r", admin_token="a")
        yield opened


def test_a_ring_knows_keys_and_tokens(path: Path, control: Control) -> None:
    ring = KeyRing(path)
    source = ring.source("k")
    assert source is not None
    assert (source.id, source.workspace) == ("default", "default")
    assert ring.source("K") is None
    token = ring.token("r", now=1)
    assert token is not None
    assert token.kind is TokenKind.READ
    assert ring.token("k", now=1) is None
    assert ring.token("\ud800", now=1) is None
    ring.close()


def test_a_new_key_works_at_once_and_a_revoked_one_stops_within_the_refresh(
    path: Path, control: Control
) -> None:
    clock = Clock()
    ring = KeyRing(path, monotonic=clock)
    assert ring.source("k") is not None
    control.add_write_key("default", now=2, write_key="new")
    assert ring.source("new") is not None
    version = ring.version
    control.revoke_write_key("k", now=3)
    assert ring.poll() == version
    clock.seconds += REFRESH_SECONDS
    assert ring.poll() == version + 1
    assert ring.source("k") is None
    ring.close()


def test_nothing_is_loaded_again_while_nothing_changes(path: Path, control: Control) -> None:
    ring = KeyRing(path)
    ring.refresh()
    version = ring.version
    for _ in range(3):
        assert ring.refresh()
        assert ring.source("unknown") is None
    assert ring.version == version
    ring.close()


def test_expired_and_revoked_tokens_open_nothing(path: Path, control: Control) -> None:
    ring = KeyRing(path)
    token, secret = control.issue_token(
        TokenKind.READ, "default", now=1, scope="resource:profiles", expires_at=10
    )
    assert ring.token(secret, now=9) == token
    assert ring.token(secret, now=10) is None
    control.revoke_token(token.id, now=5)
    ring.refresh()
    assert ring.token(secret, now=9) is None
    ring.close()


def test_a_ring_without_a_database_judges_nobody(path: Path) -> None:
    clock = Clock()
    ring = KeyRing(path, monotonic=clock)
    with pytest.raises(Unavailable):
        ring.source("k")
    assert not ring.loaded
    assert ring.failing
    assert not path.exists()
    with Control.open(path, os.urandom) as control:
        control.ensure_default(now=1, write_key="k")
    with pytest.raises(Unavailable):
        ring.source("k")
    clock.seconds += FAILED_SECONDS
    assert ring.source("k") is not None
    assert ring.loaded
    ring.close()


def test_the_last_good_ring_stays_when_the_database_breaks(path: Path, control: Control) -> None:
    clock = Clock()
    ring = KeyRing(path, monotonic=clock)
    assert ring.source("k") is not None
    ring.close()
    control.close()
    for file in path.parent.iterdir():
        file.rename(file.with_name("moved-" + file.name))
    clock.seconds += REFRESH_SECONDS
    ring.poll()
    assert ring.failing
    assert ring.source("k") is not None
    assert ring.token("r", now=1) is not None
    with pytest.raises(Unavailable):
        ring.source("perhaps-new")
    with pytest.raises(Unavailable):
        ring.token("perhaps-new", now=1)
    path.write_bytes(b"no database" * 500)
    assert not ring.refresh()
    assert ring.source("k") is not None
    ring.close()
