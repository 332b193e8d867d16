"""The control database: the one place where workspaces, sources, write keys and tokens are changed.

One small SQLite file in WAL mode. A write is durable when its method returns, and the key rings of
all HTTP processes see it at their next look.
"""

import hashlib
import sqlite3
import string
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from profilelake.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from profilelake.workspaces import Source, Token, TokenKind, WriteKey, destinations, once, suppressions
from profilelake.workspaces.identifier_key import create_identifier_key, key_fingerprint
from profilelake.workspaces.scopes import SCOPE_CHARACTERS_MAX, Scope

CONTROL_FILE: Final = "control.sqlite"
DEFAULT_WORKSPACE: Final = "default"
DEFAULT_SOURCE: Final = "default"
KEY_CHARACTERS_MAX: Final = 512
"""Characters of a write key or token."""
NAME_CHARACTERS_MAX: Final = 200
"""Characters of a source's name or an id."""
LIVE_KEYS_MAX: Final = 100
"""Write keys of one source that are good at the same time."""
EVENTS_PER_SECOND_MAX: Final = 1_000_000
"""The greatest quota of a source; without one it is limited by the machine only."""
BUSY_SECONDS: Final = 5.0
"""How long a write waits for another one to end."""
OPENING_LOOK_SECONDS: Final = 0.01
"""How long it is waited between two attempts to open a database that another program makes just now."""

_SECRET_BYTES: Final = 24
_PREFIXES: Final = {TokenKind.READ: "rk_", TokenKind.ADMIN: "adm_"}
_ID_CHARACTERS: Final = frozenset(string.ascii_letters + string.digits + "_-")

_FIRST_TABLES: Final = """
CREATE TABLE workspaces (
    id TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE sources (
    id TEXT PRIMARY KEY,
    workspace TEXT NOT NULL REFERENCES workspaces (id),
    name TEXT NOT NULL,
    trusted INTEGER NOT NULL,
    disabled INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE write_keys (
    key TEXT PRIMARY KEY,
    source_id TEXT NOT NULL REFERENCES sources (id),
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX write_keys_of_source ON write_keys (source_id);
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    workspace TEXT NOT NULL REFERENCES workspaces (id),
    scope TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE facts (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""
_QUOTAS: Final = """
ALTER TABLE sources ADD COLUMN events_per_second INTEGER NOT NULL DEFAULT 0;
"""
_MIGRATIONS: Final = (_FIRST_TABLES, _QUOTAS + once.TABLES + suppressions.TABLES, destinations.TABLES)
"""The statements that bring each format to the next; the format of a file is how many it has seen.
What is here has run on the files of users: add to the end, change nothing."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What `ensure_default` made up: shown once, kept by the caller. None was there already or given."""

    write_key: str | None
    read_token: str | None
    admin_token: str | None


def token_digest(secret: str) -> bytes:
    """Return what is stored and compared in place of a token.

    Generated tokens have 192 random bits, so a plain digest cannot be searched. `surrogatepass`
    because a request may carry any bytes, and an odd token is wrong, not an error.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class Control:
    """Reads and changes who may send and read. Not for use by several threads at once.

    Every change may raise Unavailable: another program changes things for long, or the disk is full.
    """

    def __init__(self, connection: sqlite3.Connection, random_bytes: Callable[[int], bytes]) -> None:
        """Take an open connection; callers use `open`."""
        self._connection = connection
        self._random_bytes = random_bytes

    @classmethod
    def open(cls, path: Path, random_bytes: Callable[[int], bytes]) -> Self:
        """Open the control database, made new where there is none, readable to its owner only.

        Raises:
            Corrupt: the file is not a control database, or one of a newer program.
            Unavailable: another program holds it for long, or the system does not let it be opened now.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        control = cls(connection, random_bytes)
        try:
            _use_wal(connection)
            # The default of WAL mode forgets the last commits when power fails, and with them a revocation.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            control._migrate(path)
        except sqlite3.OperationalError as error:
            connection.close()
            raise Unavailable(
                f"opening the control database {path}: {error}; see that its disk works and that nobody holds"
                " it for long, then try again"
            ) from error
        except sqlite3.DatabaseError as error:
            connection.close()
            raise Corrupt(f"opening the control database {path}: {error}; restore it from backup") from error
        except BaseException:
            connection.close()
            raise
        return control

    def close(self) -> None:
        """Close the file. What was written stays."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ensure_default(
        self,
        *,
        now: int,
        write_key: str | None = None,
        read_token: str | None = None,
        admin_token: str | None = None,
    ) -> Credentials:
        """Make sure that the default workspace has a source, a write key and both kinds of token.

        What is given is good from now on, at every start: a given write key is added to those that
        are live, since old ones are built into apps; a given token takes the place of the one given
        at an earlier start, since whoever changes a secret wants the old one gone. What is not given
        and not there is made up and returned, once.

        Raises:
            Conflict: the write key belongs to another source.
        """
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO workspaces VALUES (?, ?)", (DEFAULT_WORKSPACE, now))
            connection.execute(
                "INSERT OR IGNORE INTO sources VALUES (?, ?, ?, 1, 0, ?, 0)",
                (DEFAULT_SOURCE, DEFAULT_WORKSPACE, DEFAULT_SOURCE, now),
            )
            made_key = None
            if write_key is not None:
                self._put_write_key(DEFAULT_SOURCE, write_key, now)
            elif not self._any("SELECT 1 FROM write_keys WHERE source_id = ?", DEFAULT_SOURCE):
                made_key = self._secret("wk_")
                self._put_write_key(DEFAULT_SOURCE, made_key, now)
            return Credentials(
                made_key,
                self._ensure_token(TokenKind.READ, read_token, now),
                self._ensure_token(TokenKind.ADMIN, admin_token, now),
            )

    def bind_identifier_key(self, secrets_dir: Path) -> None:
        """Create the identifier key at the first start; later only check that it is still the same.

        Raises:
            Corrupt: the key this database was made with is gone or another one lies in its place.
        """
        with self._transaction() as connection:
            row = connection.execute("SELECT value FROM facts WHERE name = 'identifier_key'").fetchone()
            if row is None:
                create_identifier_key(secrets_dir, self._random_bytes)
                connection.execute(
                    "INSERT INTO facts VALUES ('identifier_key', ?)", (key_fingerprint(secrets_dir),)
                )
                return
        try:
            found = key_fingerprint(secrets_dir)
        except NotFound as error:
            raise Corrupt(f"checking the identifier key: {error}") from error
        if found != row[0]:
            raise Corrupt(
                f"checking the identifier key in {secrets_dir}: its fingerprint is {found}, all stored data"
                f" was hashed under {row[0]}; restore that key from backup"
            )

    def add_workspace(self, workspace: str, *, now: int) -> None:
        """Add a workspace. Raises Conflict where it exists, Invalid where it cannot be a name."""
        _check_id(workspace, "workspace")
        with self._transaction() as connection:
            if self._any("SELECT 1 FROM workspaces WHERE id = ?", workspace):
                raise Conflict(f"adding workspace {workspace!r}: it exists")
            connection.execute("INSERT INTO workspaces VALUES (?, ?)", (workspace, now))

    def workspaces(self) -> list[str]:
        """Return the ids of all workspaces, sorted."""
        return [row[0] for row in self._connection.execute("SELECT id FROM workspaces ORDER BY id")]

    def add_source(
        self,
        workspace: str,
        source_id: str,
        *,
        name: str,
        trusted: bool,
        now: int,
        write_key: str | None = None,
        events_per_second: int = 0,
        disabled: bool = False,
    ) -> Source:
        """Add a source with one write key, the given one or a new one, and return it.

        Raises:
            NotFound: there is no such workspace.
            Conflict: the id or the key is taken.
        """
        _check_id(source_id, "source")
        _check_text(name, "the name of a source", NAME_CHARACTERS_MAX)
        _check_quota(events_per_second)
        with self._transaction() as connection:
            self._check_workspace(workspace)
            if self._any("SELECT 1 FROM sources WHERE id = ?", source_id):
                raise Conflict(f"adding source {source_id!r}: it exists")
            connection.execute(
                "INSERT INTO sources VALUES (?, ?, ?, ?, ?, ?, ?)",
                (source_id, workspace, name, int(trusted), int(disabled), now, events_per_second),
            )
            self._put_write_key(source_id, write_key or self._secret("wk_"), now)
            return self.source(source_id)

    def change_source(
        self,
        source_id: str,
        *,
        name: str | None = None,
        trusted: bool | None = None,
        disabled: bool | None = None,
        events_per_second: int | None = None,
    ) -> Source:
        """Change what is given of a source and return it as it is now. Raises NotFound."""
        if name is not None:
            _check_text(name, "the name of a source", NAME_CHARACTERS_MAX)
        if events_per_second is not None:
            _check_quota(events_per_second)
        with self._transaction() as connection:
            source = self.source(source_id)
            connection.execute(
                "UPDATE sources SET name = ?, trusted = ?, disabled = ?, events_per_second = ? WHERE id = ?",
                (
                    source.name if name is None else name,
                    int(source.trusted if trusted is None else trusted),
                    int(source.disabled if disabled is None else disabled),
                    source.events_per_second if events_per_second is None else events_per_second,
                    source_id,
                ),
            )
            return self.source(source_id)

    def sources(self, workspace: str | None = None) -> list[Source]:
        """Return the sources of one workspace, or all, by id."""
        return read_sources(self._connection, workspace)

    def source(self, source_id: str) -> Source:
        """Return one source. Raises NotFound."""
        for source in read_sources(self._connection, None):
            if source.id == source_id:
                return source
        raise NotFound(f"looking for source {source_id!r}: there is none; list the sources to see all")

    def write_keys(self, source_id: str) -> list[WriteKey]:
        """Return all write keys of a source in order of creation, revoked ones too. Raises NotFound."""
        self.source(source_id)
        return [
            WriteKey(*row)
            for row in self._connection.execute(
                "SELECT key, created_at, revoked_at FROM write_keys WHERE source_id = ? ORDER BY created_at, key",
                (source_id,),
            )
        ]

    def source_of(self, write_key: str) -> Source:
        """Return the source a write key belongs to, live or revoked. Raises NotFound."""
        row = self._connection.execute(
            "SELECT source_id FROM write_keys WHERE key = ?", (write_key,)
        ).fetchone()
        if row is None:
            raise NotFound("looking for a write key: there is no such key; list the sources to see them all")
        return self.source(row[0])

    def add_write_key(self, source_id: str, *, now: int, write_key: str | None = None) -> str:
        """Add a write key, the given one or a new one, and return it. The others stay good.

        Raises:
            NotFound: there is no such source.
            Conflict: the key belongs to another source, or the source has too many.
        """
        with self._transaction():
            self.source(source_id)
            key = write_key or self._secret("wk_")
            self._put_write_key(source_id, key, now)
            return key

    def revoke_write_key(self, write_key: str, *, now: int) -> None:
        """Make a write key bad. Doing it again changes nothing. Raises NotFound."""
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE write_keys SET revoked_at = coalesce(revoked_at, ?) WHERE key = ?", (now, write_key)
            )
            if not changed.rowcount:
                raise NotFound("revoking a write key: there is no such key; list the sources to see them all")

    def issue_token(
        self, kind: TokenKind, workspace: str, *, now: int, scope: str = "", expires_at: int | None = None
    ) -> tuple[Token, str]:
        """Return a new token and its secret, which nobody can ask for again.

        Raises:
            NotFound: there is no such workspace.
            Invalid: the scope means nothing or is not one of a read token, or it would have expired already.
        """
        _check_text(scope, "the scope of a token", SCOPE_CHARACTERS_MAX, empty=True)
        Scope.parse(scope)
        if scope and kind is not TokenKind.READ:
            raise Invalid(
                f"issuing a token: {kind} tokens have no scope; leave it out, or issue a read token"
            )
        if expires_at is not None and expires_at <= now:
            raise Invalid(f"issuing a token: it expires at {expires_at}, which is not after now ({now})")
        with self._transaction():
            self._check_workspace(workspace)
            token = Token(
                f"tok_{self._random_bytes(8).hex()}", kind, workspace, scope, expires_at, False, now
            )
            secret = self._secret(_PREFIXES[kind])
            self._put_token(token, secret, now)
            return token, secret

    def revoke_token(self, token_id: str, *, now: int) -> None:
        """Make a token bad. Doing it again changes nothing. Raises NotFound."""
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?", (now, token_id)
            )
            if not changed.rowcount:
                raise NotFound(
                    f"revoking token {token_id!r}: there is no such token; list the tokens to see all"
                )

    def tokens(self, workspace: str | None = None) -> list[Token]:
        """Return the tokens of one workspace, or all, by id, revoked and expired ones included."""
        return [token for token, _ in read_tokens(self._connection, workspace)]

    def suppressions(self) -> suppressions.Suppressions:
        """Return the list of suppressed identifiers; it lives as long as this database is open."""
        return suppressions.Suppressions(self._connection, self._transaction)

    def data_version(self) -> int:
        """Return a number that differs once another connection has changed something."""
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return version

    def destinations(self, workspace: str) -> destinations.Destinations:
        """Return the destinations of a workspace; they live as long as this database is open."""
        return destinations.Destinations(self._connection, self._transaction, workspace)

    def once(self, key: str, request: bytes, action: Callable[[], str], *, now: int) -> tuple[str, bool]:
        """Run `action` unless this request was carried out under `key` before; see `once.once`.

        What `action` changes and the memory of it are one transaction. Answers are stored readable:
        leave secrets out of them.
        """
        with self._transaction() as connection:
            return once.once(connection, key, request, action, now)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        nested = self._connection.in_transaction
        if nested:
            yield self._connection  # what is done `once` changes things by methods that are whole alone
            return
        try:
            # IMMEDIATE takes the write lock first: nothing read here can be stale when it is written back.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk ends it by itself
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise Unavailable(
                f"changing the control database: {error}; nothing changed, try again"
            ) from error

    def _migrate(self, path: Path) -> None:
        # The first look takes no lock: most programs that open the file find it as they know it.
        if self._version(path) == len(_MIGRATIONS):
            return
        with self._transaction() as connection:
            for migration in _MIGRATIONS[self._version(path) :]:
                for statement in migration.split(";\n"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    def _version(self, path: Path) -> int:
        version: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if not 0 <= version <= len(_MIGRATIONS):
            raise Corrupt(
                f"opening the control database {path}: it has format {version}, this program knows up to"
                f" {len(_MIGRATIONS)}; use the newer program"
            )
        return version

    def _any(self, statement: str, *values: object) -> bool:
        return self._connection.execute(statement, values).fetchone() is not None

    def _secret(self, prefix: str) -> str:
        return prefix + self._random_bytes(_SECRET_BYTES).hex()

    def _check_workspace(self, workspace: str) -> None:
        if not self._any("SELECT 1 FROM workspaces WHERE id = ?", workspace):
            raise NotFound(
                f"looking for workspace {workspace!r}: there is none; list the workspaces to see all"
            )

    def _put_write_key(self, source_id: str, key: str, now: int) -> None:
        _check_text(key, "a write key", KEY_CHARACTERS_MAX)
        row = self._connection.execute("SELECT source_id FROM write_keys WHERE key = ?", (key,)).fetchone()
        if row is not None and row[0] != source_id:
            raise Conflict(f"adding a write key to source {source_id!r}: it belongs to source {row[0]!r}")
        live = self._connection.execute(
            "SELECT count(*) FROM write_keys WHERE source_id = ? AND revoked_at IS NULL AND key <> ?",
            (source_id, key),
        ).fetchone()[0]
        if live >= LIVE_KEYS_MAX:
            raise Conflict(
                f"adding a write key to source {source_id!r}: it has {live} live ones, the most it may have;"
                " revoke some first"
            )
        self._connection.execute(
            "INSERT INTO write_keys VALUES (?, ?, ?, NULL) ON CONFLICT (key) DO UPDATE SET revoked_at = NULL",
            (key, source_id, now),
        )

    def _ensure_token(self, kind: TokenKind, given: str | None, now: int) -> str | None:
        if given is not None:
            _check_text(given, f"the {kind} token", KEY_CHARACTERS_MAX)
            self._put_token(
                Token(f"tok_given_{kind}", kind, DEFAULT_WORKSPACE, "", None, revoked=False), given, now
            )
            return None
        if self._any("SELECT 1 FROM tokens WHERE kind = ? AND workspace = ?", kind, DEFAULT_WORKSPACE):
            return None
        secret = self._secret(_PREFIXES[kind])
        self._put_token(
            Token(f"tok_first_{kind}", kind, DEFAULT_WORKSPACE, "", None, revoked=False), secret, now
        )
        return secret

    def _put_token(self, token: Token, secret: str, now: int) -> None:
        digest = token_digest(secret)
        if self._any(
            "SELECT 1 FROM tokens WHERE digest = ? AND id <> ? AND kind <> ?", digest, token.id, token.kind
        ):
            raise Conflict(f"storing the {token.kind} token: a token of the other kind has the same value")
        # The same value may come back under another id, for instance when a generated token is given
        # by the environment at the next start.
        self._connection.execute("DELETE FROM tokens WHERE id = ? OR digest = ?", (token.id, digest))
        self._connection.execute(
            "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
            (token.id, digest, token.kind, token.workspace, token.scope, now, token.expires_at),
        )


def _use_wal(connection: sqlite3.Connection) -> None:
    """Write ahead from now on. The first to do so needs the file alone, and SQLite does not wait for that."""
    give_up_at = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up_at:
                raise
        time.sleep(OPENING_LOOK_SECONDS)


def read_sources(connection: sqlite3.Connection, workspace: str | None) -> list[Source]:
    """Return the sources of one workspace, or all, with their live write keys in order of creation."""
    keys: dict[str, list[str]] = {}
    for key, source_id in connection.execute(
        "SELECT key, source_id FROM write_keys WHERE revoked_at IS NULL ORDER BY created_at, key"
    ):
        keys.setdefault(source_id, []).append(key)
    return [
        Source(source_id, of, name, bool(trusted), bool(disabled), tuple(keys.get(source_id, ())), quota)
        for source_id, of, name, trusted, disabled, quota in connection.execute(
            "SELECT id, workspace, name, trusted, disabled, events_per_second FROM sources"
            " WHERE ?1 IS NULL OR workspace = ?1 ORDER BY id",
            (workspace,),
        )
    ]


def read_tokens(connection: sqlite3.Connection, workspace: str | None) -> list[tuple[Token, bytes]]:
    """Return the tokens of one workspace, or all, each with its digest."""
    return [
        (Token(token_id, TokenKind(kind), of, scope, expires_at, revoked_at is not None, created_at), digest)
        for token_id, kind, of, scope, expires_at, revoked_at, created_at, digest in connection.execute(
            "SELECT id, kind, workspace, scope, expires_at, revoked_at, created_at, digest FROM tokens"
            " WHERE ?1 IS NULL OR workspace = ?1 ORDER BY id",
            (workspace,),
        )
    ]


def _check_id(text: str, what: str) -> None:
    _check_text(text, f"the id of a {what}", NAME_CHARACTERS_MAX)
    if not _ID_CHARACTERS.issuperset(text):
        raise Invalid(f"the id of a {what} is {text!r}: use letters, digits, '_' and '-'")


def _check_quota(events_per_second: int) -> None:
    if not 0 <= events_per_second <= EVENTS_PER_SECOND_MAX:
        raise Invalid(
            f"the quota of a source is {events_per_second} events per second: give 1 to"
            f" {EVENTS_PER_SECOND_MAX:,}, or 0 for none"
        )


def _check_text(text: str, what: str, characters_max: int, *, empty: bool = False) -> None:
    if (not text and not empty) or len(text) > characters_max:
        raise Invalid(f"{what} has {len(text)} characters: use 1 to {characters_max}")
    if not text.isprintable():
        raise Invalid(f"{what} has characters that cannot be printed: leave them out")
