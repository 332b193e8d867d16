"""The embedded store: LMDB, one writer, readers in any process.

Each workspace has its own named databases, so one workspace's keys cannot be reached through
another's. Everything a micro-batch changes is one transaction.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast

import lmdb

from profilelake.errors import Conflict, Corrupt, Internal, NotFound, Unavailable
from profilelake.state.records import (
    ActivityRecord,
    IdentRecord,
    ProfileRecord,
    SetRecord,
    TraitRecord,
    decode_activity,
    decode_ident,
    decode_profile,
    decode_set,
    decode_traits,
    encode,
)

MAP_BYTES: Final = 256 << 30
"""Upper bound of the sparse memory map; the file grows only as pages are used."""
DATABASES_MAX: Final = 32_768
"""Named databases: enough for more than a thousand workspaces."""
READERS_MAX: Final = 512
COPY_ROWS: Final = 20_000
"""Entries that one transaction of a copy takes."""
FORMAT: Final = 3
_FORMAT_KEY: Final = b"profilelake.format"
_Record = TypeVar("_Record")


class Db(StrEnum):
    """The named databases of a workspace."""

    IDENT = "ident"
    """ident_id -> IdentRecord"""
    SET = "set"
    """set_id -> SetRecord"""
    PROFILE = "profile"
    """founding set -> ProfileRecord"""
    TRAITS = "traits"
    """set_id -> last trait writes of the set"""
    ACTIVITY = "activity"
    """set_id -> ActivityRecord, as far as `state.activity` has settled it"""
    ACCOUNTS_OF = "accounts_of"
    """a person's set_id and an account's set_id -> MembershipRecord"""
    MEMBERS = "members"
    """an account's set_id and a person's set_id -> nothing: the way back"""
    LEFT = "left"
    """a person's ident_id and an account's ident_id -> positions of the decisions that ended it, in order"""
    CONSENT = "consent"
    """set_id -> ConsentRecord"""
    REFUSALS = "refusals"
    """set_id -> identifiers of the set that were not joined"""
    LINKS = "links"
    """ident_id -> every set that contains it (duplicates sorted): the way from evidence to evidence"""
    FACT = "fact"
    """position -> one decision about identity, as JSON"""
    QUARANTINE = "quarantine"
    """ident_id -> QuarantineRecord of an identifier that met very many others"""
    SIGHTING = "sighting"
    """set_id and window -> first sighting of the set in that window; only where rules have windows"""
    ISSUED = "issued"
    """what was announced of ids and identifiers, where it is not the plain case: see `identity.sync`"""
    DIRTY = "dirty"
    """kind and key of what the published tables do not show yet -> sequence of its last change"""
    OUTBOX = "outbox"
    """sequence and table -> rows still to be committed to the lake"""
    SEEN = "seen"
    """sequence -> message ids not yet in a run file of the de-duplication index"""
    DEFINITION_FACT = "definition_fact"
    """position -> one decision about a definition, as JSON"""
    DEFINITION = "definition"
    """key of a computed trait or audience -> DefinitionRecord"""
    STEP = "step"
    """digest of a step -> StepRecord"""
    STEP_ROWS = "step_rows"
    """set_id -> partials of counts, sums and distinct values, see `state.computed`"""
    STEP_ENTRY = "step_entry"
    """set_id and day -> single events at the edges of windows"""
    STEP_EVENT = "step_event"
    """set_id and day -> events cut down to what funnels ask of them; set_id -> these days"""
    STEP_PENDING = "step_pending"
    """sequence -> partials of steps whose older events are not in yet"""
    ENTITY = "entity"
    """number of an entity's definition and founding set of a profile -> its linked rows, JSON text of an array"""
    COMPUTED = "computed"
    """founding set of a profile -> ComputedRecord"""
    TIMER = "timer"
    """time and profile -> nothing: when an answer may change with no new event"""
    CHANGE = "change"
    """sequence and number -> ChangeRecord: the feed"""
    TOUCHED = "touched"
    """sequence and founding set -> nothing: profiles with values whose identifiers or consent have changed"""
    META = "meta"
    """name -> progress, manifests"""


class Tx:
    """One transaction. Keys and values are bytes; the typed methods know the records."""

    def __init__(self, env: lmdb.Environment, txn: lmdb.Transaction, handles: dict[str, Any]) -> None:
        self._env = env
        self._txn = txn
        self._handles = handles

    def _db(self, workspace: str, db: Db) -> Any:
        name = f"{workspace}/{db}"
        handle = self._handles.get(name)
        if handle is None:
            raise NotFound(f"opening the state of workspace {workspace!r}: no database {db}")
        return handle

    def get(self, workspace: str, db: Db, key: bytes) -> bytes | None:
        """Return the value of a key, None where there is none."""
        return cast("bytes | None", self._txn.get(key, db=self._db(workspace, db)))

    def get_many(self, workspace: str, db: Db, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that have one."""
        with self._txn.cursor(self._db(workspace, db)) as cursor:
            return dict(cast("list[tuple[bytes, bytes]]", cursor.getmulti(list(keys))))

    def decoded(
        self, workspace: str, db: Db, keys: Iterable[bytes], decode: Callable[[bytes], _Record]
    ) -> dict[bytes, _Record]:
        """Return what `decode` (such as one of `state.heads`) reads in the values of those keys."""
        return {key: decode(value) for key, value in self.get_many(workspace, db, keys).items()}

    def put_many(self, workspace: str, db: Db, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Store all items, replacing what was there. Sorted keys are cheaper."""
        with self._txn.cursor(self._db(workspace, db)) as cursor:
            cursor.putmulti(sorted(items), overwrite=True)

    def append_many(self, workspace: str, db: Db, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Store items whose keys ascend and come after all that are there: pages are filled, none is looked for.

        Raises:
            Internal: a key does not ascend; nothing of the transaction may be kept.
        """
        with self._txn.cursor(self._db(workspace, db)) as cursor:
            try:
                _, added = cursor.putmulti(items, dupdata=True, append=True)
            except lmdb.KeyExistsError:
                added = -1
        if added != len(items):
            raise Internal(f"loading the state of workspace {workspace!r}: keys of {db} do not ascend")

    def put(self, workspace: str, db: Db, key: bytes, value: bytes) -> None:
        """Store one value."""
        self._txn.put(key, value, db=self._db(workspace, db))

    def delete(self, workspace: str, db: Db, key: bytes, value: bytes = b"") -> None:
        """Remove a key (in a database with duplicates: one value of it, if given)."""
        self._txn.delete(key, value, db=self._db(workspace, db))

    def items(self, workspace: str, db: Db, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values in key order, from `start` on."""
        with self._txn.cursor(self._db(workspace, db)) as cursor:
            found = cursor.set_range(start) if start else cursor.first()
            if found:
                yield from cast("Iterator[tuple[bytes, bytes]]", cursor.iternext())

    def keys(self, workspace: str, db: Db, start: bytes = b"") -> Iterator[bytes]:
        """Yield keys in order, from `start` on; values are not read."""
        with self._txn.cursor(self._db(workspace, db)) as cursor:
            found = cursor.set_range(start) if start else cursor.first()
            if found:
                yield from cast("Iterator[bytes]", cursor.iternext(values=False))

    def last_key(self, workspace: str, db: Db) -> bytes | None:
        """Return the greatest key, None where there is none."""
        with self._txn.cursor(self._db(workspace, db)) as cursor:
            return bytes(cursor.key()) if cursor.last() else None

    def count(self, workspace: str, db: Db) -> int:
        """Return how many entries a database holds."""
        entries: int = self._txn.stat(self._db(workspace, db))["entries"]
        return entries

    def bytes_used(self, workspace: str, db: Db) -> int:
        """Return how many bytes the pages of a database take."""
        stat = self._txn.stat(self._db(workspace, db))
        pages: int = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        size: int = stat["psize"]
        return pages * size

    def clear(self, workspace: str, db: Db) -> None:
        """Remove everything from a database."""
        self._txn.drop(self._db(workspace, db), delete=False)

    def linked_sets(self, workspace: str, ident: bytes) -> list[bytes]:
        """Return the sets that contain an identifier, in id order."""
        with self._txn.cursor(self._db(workspace, Db.LINKS)) as cursor:
            return list(cast("Iterator[bytes]", cursor.iternext_dup())) if cursor.set_key(ident) else []

    def link_counts(self, workspace: str, idents: Iterable[bytes]) -> list[int]:
        """Return how many sets contain each identifier."""
        with self._txn.cursor(self._db(workspace, Db.LINKS)) as cursor:
            return [cursor.count() if cursor.set_key(ident) else 0 for ident in idents]

    def put_links(self, workspace: str, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Add (identifier, set) pairs; a pair that is there already stays one pair."""
        with self._txn.cursor(self._db(workspace, Db.LINKS)) as cursor:
            cursor.putmulti(sorted(items), dupdata=True)

    def ident(self, workspace: str, key: bytes) -> IdentRecord | None:
        """Return an identifier's record."""
        value = self.get(workspace, Db.IDENT, key)
        return None if value is None else decode_ident(value)

    def set(self, workspace: str, key: bytes) -> SetRecord | None:
        """Return an identifier set's record."""
        value = self.get(workspace, Db.SET, key)
        return None if value is None else decode_set(value)

    def profile(self, workspace: str, key: bytes) -> ProfileRecord | None:
        """Return the profile founded by a set; None also where that set lives on in another profile."""
        value = self.get(workspace, Db.PROFILE, key)
        return None if value is None else decode_profile(value)

    def sets(self, workspace: str, keys: Iterable[bytes]) -> dict[bytes, SetRecord]:
        """Return the records of those sets that are known."""
        return {key: decode_set(value) for key, value in self.get_many(workspace, Db.SET, keys).items()}

    def idents(self, workspace: str, keys: Iterable[bytes]) -> dict[bytes, IdentRecord]:
        """Return the records of those identifiers that are known."""
        return {key: decode_ident(value) for key, value in self.get_many(workspace, Db.IDENT, keys).items()}

    def profiles(self, workspace: str, keys: Iterable[bytes]) -> dict[bytes, ProfileRecord]:
        """Return the records of those profiles that exist."""
        return {
            key: decode_profile(value) for key, value in self.get_many(workspace, Db.PROFILE, keys).items()
        }

    def set_traits(self, workspace: str, keys: Iterable[bytes]) -> dict[bytes, dict[str, TraitRecord]]:
        """Return the last trait writes of those sets that have any."""
        return {key: decode_traits(value) for key, value in self.get_many(workspace, Db.TRAITS, keys).items()}

    def activity(self, workspace: str, keys: Iterable[bytes]) -> dict[bytes, ActivityRecord]:
        """Return the settled activity of those sets that have any; `state.activity` has all of it."""
        found = self.get_many(workspace, Db.ACTIVITY, keys)
        return {key: decode_activity(value) for key, value in found.items()}

    def meta(self, workspace: str, name: str) -> bytes | None:
        """Return what is kept under a name, such as progress or a manifest."""
        return self.get(workspace, Db.META, name.encode())

    def copy(self, path: Path) -> None:
        """Write the whole state as this transaction sees it into the new folder `path`, for a backup.

        Writers go on meanwhile; only pages they free are not used again before this ends. The library's
        own copy is not used: of a transaction that has read while writers go on, it ends the process.

        Raises:
            Unavailable: the disk does not take it.
        """
        path.mkdir(parents=True)
        copied = lmdb.open(str(path), map_size=MAP_BYTES, max_dbs=DATABASES_MAX, sync=False, lock=False)
        try:
            with self._txn.cursor() as names:
                listed = [(bytes(name), bytes(value)) for name, value in names.iternext()]
            for name, value in listed:
                if name == _FORMAT_KEY:
                    with copied.begin(write=True) as txn:
                        txn.put(name, value)
                else:
                    self._copy_database(copied, name)
            copied.sync(True)
        except lmdb.Error as error:
            raise Unavailable(f"copying the state to {path}: {error}; see that there is room") from error
        finally:
            copied.close()

    def _copy_database(self, copied: lmdb.Environment, name: bytes) -> None:
        source = self._env.open_db(name, txn=self._txn, create=False)
        kind = source.flags()
        target = copied.open_db(name, dupsort=kind["dupsort"], dupfixed=kind["dupfixed"])
        with self._txn.cursor(source) as cursor:
            rows = cursor.iternext()
            while items := list(islice(rows, COPY_ROWS)):
                with copied.begin(write=True) as txn, txn.cursor(target) as sink:
                    sink.putmulti(items, dupdata=True, append=True)

    def put_meta(self, workspace: str, name: str, value: object) -> None:
        """Keep a value (anything MessagePack can hold) under a name."""
        self.put(workspace, Db.META, name.encode(), encode(value))


class State:
    """The state of one data directory. `writable` belongs to the pipeline process alone."""

    def __init__(self, env: lmdb.Environment, *, writable: bool) -> None:
        self._env = env
        self._writable = writable
        self._handles: dict[str, Any] = {}
        self._opened: set[str] = set()

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> Self:
        """Open the state below `path`; a reader needs a state that a writer made.

        Raises:
            NotFound: there is no state yet.
            Corrupt: the files are not a state, or of a newer format.
        """
        if writable:
            path.mkdir(parents=True, exist_ok=True)
        elif not (path / "data.mdb").exists():
            raise NotFound(f"opening the state in {path}: nothing there yet; start the server once")
        try:
            env = lmdb.open(
                str(path),
                map_size=MAP_BYTES,
                max_dbs=DATABASES_MAX,
                max_readers=READERS_MAX,
                readonly=not writable,
                create=writable,
                metasync=True,
                sync=True,
            )
        except lmdb.LockError as error:
            raise Unavailable(f"opening the state in {path}: {error}") from error
        except lmdb.Error as error:
            raise Corrupt(
                f"opening the state in {path}: {error}; make it again: profilelake rebuild --dir {path.parent}"
            ) from error
        if writable:
            env.reader_check()
        try:
            _check_format(env, path, writable=writable)
        except BaseException:
            env.close()
            raise
        return cls(env, writable=writable)

    def ensure(self, workspaces: Sequence[str]) -> None:
        """Create the databases of these workspaces where they are missing."""
        if not self._writable:
            raise Conflict("creating state databases: this process only reads")
        missing = [(f"{workspace}/{db}", db) for workspace in workspaces for db in Db]
        missing = [(name, db) for name, db in missing if name not in self._handles]
        if not missing:
            return
        opened: dict[str, Any] = {}
        # One transaction for all: each would be a sync of its own.
        with self._env.begin(write=True) as txn:
            for name, db in missing:
                duplicates = db is Db.LINKS
                opened[name] = self._env.open_db(
                    name.encode(), txn=txn, create=True, dupsort=duplicates, dupfixed=duplicates
                )
        self._handles |= opened

    def _open_handles(self, workspace: str) -> None:
        if workspace in self._opened:
            return
        for db in Db:
            name = f"{workspace}/{db}"
            if name not in self._handles:
                try:
                    self._handles[name] = self._env.open_db(name.encode(), create=False)
                except lmdb.NotFoundError as error:
                    raise NotFound(
                        f"opening the state of workspace {workspace!r}: nothing there yet"
                    ) from error
        self._opened.add(workspace)

    @contextmanager
    def read(self, workspace: str) -> Iterator[Tx]:
        """Give a consistent view of the last committed transaction; keep it short.

        Raises:
            NotFound: this workspace has no state yet.
            Unavailable: too many read at once.
        """
        self._open_handles(workspace)
        try:
            begun = self._env.begin(buffers=False)
        except lmdb.ReadersFullError as error:
            raise Unavailable(f"reading the state: all {READERS_MAX} reader slots are taken") from error
        with begun as txn:
            yield Tx(self._env, txn, self._handles)

    @contextmanager
    def write(self) -> Iterator[Tx]:
        """Give the one write transaction: durable when the block ends, undone when it raises.

        Raises:
            Unavailable: the disk or the map is full; nothing was changed.
        """
        try:
            with self._env.begin(write=True) as txn:
                yield Tx(self._env, txn, self._handles)
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise Unavailable(f"writing the state: {error}; free space, it goes on by itself") from error

    def bytes_used(self) -> int:
        """Return how many bytes of the map hold pages in use."""
        info, stat = self._env.info(), self._env.stat()
        used: int = (info["last_pgno"] + 1) * stat["psize"]
        return used

    def close(self) -> None:
        """Give the map back; the data are durable already."""
        self._env.close()


def _check_format(env: lmdb.Environment, path: Path, *, writable: bool) -> None:
    """Note the format in a new state; refuse one that this program cannot read."""
    with env.begin(write=writable) as txn:
        found = txn.get(_FORMAT_KEY)
        if found is None and writable:
            txn.put(_FORMAT_KEY, str(FORMAT).encode())
        elif found is None:
            raise NotFound(f"opening the state in {path}: nothing there yet; start the server once")
        elif found != str(FORMAT).encode():
            raise Corrupt(
                f"opening the state in {path}: format {found.decode(errors='replace')}, this program reads"
                f" {FORMAT}; use the program that wrote it, or make it again from the lake and the log:"
                f" profilelake rebuild --dir {path.parent}"
            )
