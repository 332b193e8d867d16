import os
import stat
import threading
from pathlib import Path

import pytest

from profilelake.errors import Corrupt, NotFound
from profilelake.workspaces.control import Control
from profilelake.workspaces.identifier_key import IDENTIFIER_KEY_FILE, create_identifier_key, identifier_key


def test_each_workspace_has_its_own_key_and_always_the_same(tmp_path: Path) -> None:
    assert create_identifier_key(tmp_path / "secrets", os.urandom)
    first = identifier_key(tmp_path / "secrets", "a")
    assert len(first) == 16
    assert identifier_key(tmp_path / "secrets", "a") == first
    assert identifier_key(tmp_path / "secrets", "b") != first
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == [IDENTIFIER_KEY_FILE]
    assert stat.S_IMODE((tmp_path / "secrets" / IDENTIFIER_KEY_FILE).stat().st_mode) == 0o600


def test_the_key_of_a_workspace_never_changes_between_versions(tmp_path: Path) -> None:
    (tmp_path / IDENTIFIER_KEY_FILE).write_bytes(bytes(range(16)))
    assert identifier_key(tmp_path, "default").hex() == "d4b5767681c5dd53b046caebc824d63e"


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    create_identifier_key(tmp_path, os.urandom)
    before = (tmp_path / IDENTIFIER_KEY_FILE).read_bytes()
    assert not create_identifier_key(tmp_path, os.urandom)
    assert (tmp_path / IDENTIFIER_KEY_FILE).read_bytes() == before


def test_of_several_that_create_it_at_once_one_wins(tmp_path: Path) -> None:
    start = threading.Barrier(8)
    won: list[bool] = []

    def create() -> None:
        start.wait(5)
        won.append(create_identifier_key(tmp_path, os.urandom))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert sorted(won) == [False] * 7 + [True]
    assert [path.name for path in tmp_path.iterdir()] == [IDENTIFIER_KEY_FILE]


def test_a_missing_or_broken_key_is_an_error_and_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="restore it from backup"):
        identifier_key(tmp_path, "a")
    (tmp_path / IDENTIFIER_KEY_FILE).write_bytes(b"short")
    with pytest.raises(Corrupt):
        identifier_key(tmp_path, "a")


def test_the_control_database_knows_its_key_again(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    with Control.open(tmp_path / "control.sqlite", os.urandom) as control:
        control.bind_identifier_key(secrets)
        control.bind_identifier_key(secrets)
        key = (secrets / IDENTIFIER_KEY_FILE).read_bytes()
        (secrets / IDENTIFIER_KEY_FILE).write_bytes(bytes(16))
        with pytest.raises(Corrupt, match="fingerprint"):
            control.bind_identifier_key(secrets)
        (secrets / IDENTIFIER_KEY_FILE).unlink()
        with pytest.raises(Corrupt, match="restore"):
            control.bind_identifier_key(secrets)
        assert not (secrets / IDENTIFIER_KEY_FILE).exists()
        (secrets / IDENTIFIER_KEY_FILE).write_bytes(key)
        control.bind_identifier_key(secrets)
