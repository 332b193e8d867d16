"""Files of activations that older and newer programs left."""

import sqlite3
from functools import partial
from pathlib import Path

import msgspec
import pytest

from profilelake.activate import _database
from profilelake.activate._database import FORMAT
from profilelake.activate.journal import Announced, Journal, Place, Turn
from profilelake.activate.letters import state_of
from profilelake.activate.packing import packed
from profilelake.activate.people import Person, Told
from profilelake.activate.shapes import Notice, shaped
from profilelake.errors import Corrupt
from profilelake.semantics.destinations import Destination
from profilelake.semantics.identifiers import public_id

HOOK = Destination("hook", "webhook", "https://hook.example.org/", secret="hook", parallel=1)

# As the program of then made it: this never follows what the tables are today.
FORMAT_1 = """
CREATE TABLE places (
    destination TEXT PRIMARY KEY, epoch TEXT NOT NULL, cursor BLOB NOT NULL, touched BLOB NOT NULL,
    delivered INTEGER NOT NULL DEFAULT 0, delivered_at INTEGER NOT NULL DEFAULT 0,
    failing_since INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, trouble TEXT NOT NULL DEFAULT '',
    sees_to INTEGER NOT NULL DEFAULT 0, decisions BLOB NOT NULL DEFAULT x''
) STRICT, WITHOUT ROWID;
CREATE TABLE sweeps (
    id INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, definition TEXT NOT NULL,
    through BLOB NOT NULL, again INTEGER NOT NULL, began_at INTEGER NOT NULL,
    UNIQUE (destination, definition)
) STRICT;
CREATE TABLE known (
    destination TEXT NOT NULL, definition TEXT NOT NULL, PRIMARY KEY (destination, definition)
) STRICT, WITHOUT ROWID;
CREATE TABLE batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, lane INTEGER NOT NULL, records BLOB NOT NULL,
    size INTEGER NOT NULL, first_at INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX batches_of ON batches (destination, id);
CREATE TABLE announced (
    destination TEXT NOT NULL, profile BLOB NOT NULL, definition TEXT NOT NULL, value BLOB NOT NULL,
    version INTEGER NOT NULL, ids BLOB NOT NULL, PRIMARY KEY (destination, profile, definition)
) STRICT, WITHOUT ROWID;
CREATE TABLE dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, idempotency_key TEXT NOT NULL,
    definition TEXT NOT NULL, profile_id TEXT NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL,
    status INTEGER NOT NULL, attempts INTEGER NOT NULL, at INTEGER NOT NULL
) STRICT;
CREATE INDEX dead_of ON dead (destination, id);
PRAGMA user_version = 1;
"""


def subject(number: int) -> bytes:
    return number.to_bytes(16, "big")


def again(journal: Journal) -> tuple[int, int]:
    became = journal.send_again("hook", 1_000, partial(packed, HOOK))
    return became.replayed, became.outdated


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a file as an older program left it: letters and batches that do not say what they are about."""
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(FORMAT_1)
        connection.execute(
            "INSERT INTO places (destination, epoch, cursor, touched) VALUES ('hook', '1', x'', x'')"
        )
        for number, (kind, value, now) in enumerate(
            [
                ("audience", "true", "true"),
                ("audience", None, None),
                ("trait", '{"a":1}', '{"a":2}'),
                ("trait", "false", "false"),
                ("audience", None, "true"),
            ]
        ):
            for type in ("webhook", "segment"):
                key = number + (100 if type == "segment" else 0)
                destination = Destination(type[:4], type, "https://x.example.org/", secret="s")
                person = Person(subject(key))
                told = Told(b"i" * 16, "user_id", "u1", "user_id")
                notice = Notice(
                    "vip", kind, 1, "users", person, (told,), value, None, 1, "event", f"key{key}"
                )
                for _, calls in shaped(destination, "default", [notice]):
                    for one in calls:
                        connection.execute(
                            "INSERT INTO dead (destination, idempotency_key, definition, profile_id, body, reason,"
                            " status, attempts, at) VALUES ('hook', ?, 'vip', ?, ?, 'refused', 422, 1, 7)",
                            (one.key, one.profile_id, one.body),
                        )
                if now is not None:
                    connection.execute(
                        "INSERT INTO announced VALUES ('hook', ?, 'vip', ?, 1, x'')",
                        (subject(key), state_of(now)),
                    )
        waiting = msgspec.msgpack.encode([["k", "vip", public_id("users", subject(7)), b'{"value":true}']])
        connection.execute(
            "INSERT INTO batches (destination, lane, records, size) VALUES ('hook', 0, ?, 1)", (waiting,)
        )
    connection.close()
    return path


def test_a_file_of_an_older_program_is_upgraded_and_its_letters_are_understood(old: Path) -> None:
    with Journal.open(old) as journal:
        letters = journal.letters.of("hook")
        assert letters.taken == letters.held == 15  # a record of the webhook and two calls for each
        assert journal.letters.ask_replay("hook", None) == 15
        assert again(journal) == (9, 6)
        (batch, *_) = journal.waiting("hook")
        assert batch.records[0].key == "k"
        assert journal.bury("hook", batch, 1, "refused", 422, now=1, most=10).records == []
        journal.put("hook", Turn(Place("1", b"", b""), [], {(subject(7), "vip"): Announced(state_of("true"), 1, b"")}), seen=0)  # fmt: skip
        journal.letters.ask_replay("hook", None)
        assert again(journal) == (1, 0)
    with Journal.open(old) as journal:
        assert journal.letters.of("hook").held == 0


def test_an_upgrade_that_is_cut_short_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {1: (_database._LETTERS, "INSERT INTO nowhere VALUES (1)")}
    monkeypatch.setattr(_database, "_UPGRADES", broken)
    with pytest.raises(Exception, match="nowhere"):
        Journal.open(old)
    monkeypatch.undo()
    with Journal.open(old) as journal:
        assert journal.letters.of("hook").held == 15


def test_a_file_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.close()
    with pytest.raises(Corrupt, match=f"has format {FORMAT + 1}"):
        Journal.open(path)
