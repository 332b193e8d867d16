"""What belongs to one moment of a data directory that is at work, found without stopping anybody.

The order makes it whole. The log is pinned first: whatever the state says later that it has read is in
it, or was published. Then state and tables are taken as of one moment: the catalog is read, a read
transaction of the state begun, the catalog read again; when it says the same, no table moved in between,
so every table stands between what the state has let go of and what it holds, as after a power cut. The
files that both name are pinned by second names at once, since compaction and expiry may remove them a
few minutes later; an object store has no second names, so there all that is not in the backup yet is fetched
before the moment, and again, until little is new, and the moment has to wait for that little only. Then the log again, for what came meanwhile, and the control database last, so that
it knows every source in the log and every suppression. Journals of what was sent again come before the
log: they may know less than it, never more.
"""

import hashlib
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from profilelake.backup.manifest import Standing
from profilelake.errors import Conflict, Corrupt, NotFound, Unavailable
from profilelake.eventlog import LogEnd
from profilelake.eventlog.copying import copies, pin, pin_file
from profilelake.eventlog.embedded import ends
from profilelake.lake.catalog import Lake
from profilelake.lake.file_io import StorageFileIO, properties_of
from profilelake.lake.files import is_remote, local_path
from profilelake.lake.reachable import Listed, MovedOn, Reachable, reachable
from profilelake.lake.storage import Storage
from profilelake.landing.dedup import run_names
from profilelake.ops.failpoints import reach
from profilelake.pipeline.progress import load_applied, load_published
from profilelake.settings import Layout
from profilelake.state import recent
from profilelake.state.store import State, Tx

ATTEMPTS_MAX: Final = 20
"""How often the moment is looked for again, when tables moved or files went while it was taken."""
MOMENT_TRIES_MAX: Final = 500
MOMENT_WAIT_SECONDS: Final = 0.01
PASSES_MAX: Final = 8
"""How often what is new on an object store is fetched before the moment."""
PASS_SECONDS: Final = 30.0
"""A pass that took no longer has left so little to the next that the moment can come: files of a snapshot that
another has followed stay for `maintenance.SNAPSHOT_AGE_MIN_MS` at least."""

_JOURNALS: Final = ("imports.sqlite", "replays.sqlite", "activations.sqlite")
_BUSY_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Found:
    """One file of the moment: its path below the data directory, where it can be read for as long as the
    capture lasts, and how much of it counts.

    A `lasting` one never changes, so what is known of it from an earlier backup still holds; a `made` one
    was written for this backup, into the folder given for that.
    """

    path: str
    source: Path
    bytes: int
    lasting: bool = False
    made: bool = False


@dataclass(frozen=True, slots=True)
class Distant:
    """One file of a table on an object store: its path as in `Found`, where it lies, its size, and `seen`, which
    tells it from another one of its name."""

    path: str
    location: str
    bytes: int
    seen: tuple[int, ...]


Fetch = Callable[[Storage, Sequence[Distant]], None]
"""Brings files into the backup that are not there yet. Raises FileNotFoundError where one is gone."""


@dataclass(slots=True)
class Captured:
    """Everything that belongs to the moment."""

    files: list[Found] = field(default_factory=list)
    distant: list[Distant] = field(default_factory=list)
    """Files of an object store, which are in the backup already."""
    secrets: list[Found] = field(default_factory=list)
    tables: list[tuple[str, str, Reachable]] = field(default_factory=list)
    standing: list[Standing] = field(default_factory=list)
    accepted: dict[str, int] = field(default_factory=dict)


@contextmanager
def captured(
    layout: Layout, staging: Path, making: Path, workspaces: Sequence[str], fetch: Fetch
) -> Iterator[Captured]:
    """Give what belongs to one moment of now.

    `staging` is a new folder on the file system of the data directory, where files get second names;
    `making` one where there is room for copies of state and databases. `fetch` is given files of an object store.

    Raises:
        Unavailable: the directory changes faster than it can be looked at, the disk is full, or the object store
            does not answer.
        Conflict: there is no state to what the tables hold.
        Corrupt: a file is not as its table has it.
    """
    attempt = 0
    listed: Listed = {}
    while True:
        for folder in (staging, making):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700, parents=True)
        try:
            found = _Capture(layout, staging, making, workspaces, fetch, listed).run()
            break
        except (FileNotFoundError, MovedOn) as error:
            attempt += 1
            if attempt == ATTEMPTS_MAX:
                raise Unavailable(
                    f"backing up {layout.directory}: {error}; {ATTEMPTS_MAX} attempts failed, retry later"
                ) from error
            time.sleep(MOMENT_WAIT_SECONDS * attempt)
    try:
        yield found
    finally:
        for folder in (staging, making):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class _Capture:
    """One attempt."""

    layout: Layout
    staging: Path
    making: Path
    workspaces: Sequence[str]
    fetch: Fetch
    listed: Listed
    found: Captured = field(default_factory=Captured)

    def run(self) -> Captured:
        layout, found = self.layout, self.found
        self._fetch_ahead()
        for name in _JOURNALS:
            self._copy_database(layout.directory / name)
        self._pin_log()
        reach("backup.log_pinned")
        with _moment(layout, self.workspaces) as (tx, lake, pointers):
            if tx is not None:
                for workspace in self.workspaces:
                    self._take_workspace(tx, workspace)
            if lake is not None:
                self._take_tables(lake, pointers)
            reach("backup.files_pinned")
            if tx is not None:
                # After the files: they may go, this view of the state stays as long as it is looked at.
                self._copy_state(tx)
        self._pin_log()
        reach("backup.log_pinned_again")
        found.files += [
            Found(f"{layout.log.name}/{copy.name}", copy.path, copy.bytes)
            for copy in copies(self.staging / layout.log.name, _reached(found.standing))
        ]
        found.accepted = _accepted(self.staging / layout.log.name, found.standing)
        self._copy_database(layout.control)
        for path in (layout.directory / "profilelake.toml", *_below(layout.definitions)):
            if path.is_file():
                self._copy(path)
        for path in (*_below(layout.secrets), layout.credentials):
            if path.is_file() and not path.name.startswith("."):
                # Not copied here: where the key is to be left out it must not touch that disk at all.
                below = str(path.relative_to(layout.directory))
                found.secrets.append(Found(below, path, path.stat().st_size))
        return found

    def _pin_log(self) -> None:
        if self.layout.log.exists():
            pin(self.layout.log, self.staging / self.layout.log.name)

    def _take_workspace(self, tx: Tx, workspace: str) -> None:
        applied, published = load_applied(tx, workspace, ""), load_published(tx, workspace)
        self.found.standing.append(
            Standing(
                workspace=workspace,
                epoch=applied.epoch,
                sequence=applied.sequence,
                vector=dict(applied.vector),
                totals=dict(applied.totals),
                published=dict(published.vector),
            )
        )
        for run in recent.load(tx, workspace):
            self._pin(self.layout.recent(workspace) / run.name)
        for name in run_names(tx, workspace):
            self._pin(self.layout.dedup(workspace) / name)

    def _fetch_ahead(self) -> None:
        """Have nearly all files of an object store in the backup before anything waits for them."""
        lake = Lake.of(self.layout) if self.layout.has_lake else None
        try:
            if lake is None or not is_remote(lake.warehouse):
                return
            for _ in range(PASSES_MAX):
                began = time.monotonic()
                try:
                    self.fetch(lake.storage, self._distant(lake, self._reachable(lake, lake.pointers())))
                except (FileNotFoundError, MovedOn):
                    continue  # the next pass has what took their place
                if time.monotonic() - began < PASS_SECONDS:
                    return
        finally:
            if lake is not None:
                lake.close()

    def _take_tables(self, lake: Lake, pointers: "Pointers") -> None:
        tables = self._reachable(lake, pointers)
        self.found.tables += tables
        if is_remote(lake.warehouse):
            self.found.distant = self._distant(lake, tables)
            self.fetch(lake.storage, self.found.distant)
            return
        for namespace, name, table in tables:
            for file in (table.metadata_file, *table.files):
                self._pin(local_path(file.location), self._path(namespace, name, file.below))

    def _reachable(self, lake: Lake, pointers: "Pointers") -> list[tuple[str, str, Reachable]]:
        io = StorageFileIO(properties_of(lake.warehouse, lake.place.storage))
        found = []
        for (namespace, name), location in sorted(pointers.items()):
            if is_remote(location) != is_remote(lake.warehouse):
                raise Conflict(
                    f"backing up {self.layout.directory}: table {namespace}.{name} lies at {location}, the others in "
                    f"{lake.warehouse}; drop it there, or write it anew"
                )
            found.append((namespace, name, reachable(location, io, self.listed, f"{namespace}.{name}")))
        return found

    def _distant(self, lake: Lake, tables: Sequence[tuple[str, str, Reachable]]) -> list[Distant]:
        """Return the files of tables as the store has them.

        Raises:
            FileNotFoundError: one is gone: the table has moved on.
            Corrupt: one has not the size that the table says it has.
        """
        found: list[Distant] = []
        for namespace, name, table in tables:
            wanted = {file.location: file for file in (table.metadata_file, *table.files)}
            # One listing costs less than a question for each file.
            for stored in lake.storage.list(table.location):
                file = wanted.pop(stored.location, None)
                if file is None:
                    continue
                if file.bytes is not None and file.bytes != stored.bytes:
                    raise Corrupt(
                        f"backing up {stored.location}: it has {stored.bytes:,} bytes, its table says {file.bytes:,}: it "
                        "was cut off; see docs/lake-repair.md, or keep the backups there are"
                    )
                spelt = hashlib.blake2b(stored.location.encode(), digest_size=7).digest()
                seen = (stored.modified_at, int.from_bytes(spelt, "big"))
                path = self._path(namespace, name, file.below)
                found.append(Distant(path, stored.location, stored.bytes, seen))
            lost = next((location for location in wanted if lake.storage.size(location) is None), None)
            if lost is None and wanted:
                raise Unavailable(
                    f"backing up {next(iter(wanted))}: the object store has it and does not list it; retry later"
                )
            if lost is not None and lake.pointers().get((namespace, name)) != table.metadata_file.location:
                raise FileNotFoundError(f"{lost} is gone")
            if lost is not None:
                # No file goes that the newest metadata name, so it did not go with the table moving on.
                raise Corrupt(
                    f"backing up {lost}: it is missing; see docs/lake-repair.md, or restore an earlier backup"
                )
        return found

    def _path(self, namespace: str, name: str, below: str) -> str:
        return f"{self.layout.warehouse.name}/{namespace}/{name}/{below}"

    def _copy_state(self, tx: Tx) -> None:
        copy = self.making / self.layout.state.name
        tx.copy(copy)
        self._add_made(f"{self.layout.state.name}/data.mdb", copy / "data.mdb")

    def _copy_database(self, path: Path) -> None:
        """Copy a SQLite database as of one moment, whoever writes to it."""
        if not path.exists():
            return
        copy = self.making / path.name
        source = f"{path.absolute().as_uri()}?mode=rw"
        try:
            with (
                closing(sqlite3.connect(source, uri=True, timeout=_BUSY_SECONDS)) as database,
                closing(sqlite3.connect(copy)) as target,
            ):
                database.backup(target)
        except sqlite3.OperationalError as error:
            raise Unavailable(f"copying {path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise Corrupt(f"copying {path}: {error}; restore it from an earlier backup") from error
        self._add_made(path.name, copy)

    def _copy(self, path: Path) -> None:
        """Copy a small file that somebody may be writing."""
        below = str(path.relative_to(self.layout.directory))
        copy = self.making / below.replace("/", "_")
        shutil.copyfile(path, copy)
        self._add_made(below, copy)

    def _add_made(self, below: str, copy: Path) -> None:
        self.found.files.append(Found(below, copy, copy.stat().st_size, made=True))

    def _pin(self, path: Path, below: str = "") -> None:
        """Give a file that never changes a second name, so that it stays until it is copied."""
        below = below or str(path.relative_to(self.layout.directory))
        place = self.staging / below
        place.parent.mkdir(parents=True, exist_ok=True)
        pin_file(path, place)
        self.found.files.append(Found(below, place, place.stat().st_size, lasting=True))


Pointers = dict[tuple[str, str], str]


@contextmanager
def _moment(layout: Layout, workspaces: Sequence[str]) -> Iterator[tuple[Tx | None, Lake | None, Pointers]]:
    """Give a view of the state and the tables of the same moment; without a state there are no tables."""
    lake = Lake.of(layout) if layout.has_lake else None
    state = _state(layout, workspaces)
    try:
        if state is not None:
            with _same_moment(state, lake, workspaces) as (tx, pointers):
                yield tx, lake, pointers
        elif lake is not None and _holds_rows(lake):
            raise Conflict(
                f"backing up {layout.directory}: there are tables but no state; "
                f"make it first: profilelake rebuild --dir {layout.directory}"
            )
        else:
            yield None, None, {}
    finally:
        if state is not None:
            state.close()
        if lake is not None:
            lake.close()


def _holds_rows(lake: Lake) -> bool:
    io = StorageFileIO(properties_of(lake.warehouse, lake.place.storage))
    return any(reachable(location, io).snapshots for location in lake.pointers().values())


def _state(layout: Layout, workspaces: Sequence[str]) -> State | None:
    try:
        state = State.open(layout.state)
    except NotFound:
        return None
    try:
        for workspace in workspaces:
            with state.read(workspace):
                pass  # opens its databases, so that one view shows those of all workspaces
    except NotFound:
        state.close()
        return None  # the first start has not come that far
    return state


@contextmanager
def _same_moment(
    state: State, lake: Lake | None, workspaces: Sequence[str]
) -> Iterator[tuple[Tx | None, Pointers]]:
    for _ in range(MOMENT_TRIES_MAX):
        before = lake.pointers() if lake is not None else {}
        with state.read(workspaces[0]) as tx:
            if lake is None or lake.pointers() == before:
                yield tx, before
                return
        time.sleep(MOMENT_WAIT_SECONDS)
    raise MovedOn(f"tables were committed to at each of {MOMENT_TRIES_MAX} looks at them")


def _reached(standing: Sequence[Standing]) -> dict[str, LogEnd]:
    """Return how far the lake of every workspace has each log."""
    consumed: dict[str, LogEnd] = {}
    for number, each in enumerate(standing):
        for log, (offset, events) in each.published.items():
            before = consumed.get(log)
            if number == 0 or (before is not None and offset < before.offset):
                consumed[log] = LogEnd(offset, events)
        if number:
            consumed = {log: end for log, end in consumed.items() if log in each.published}
    return consumed


def _accepted(log: Path, standing: Sequence[Standing]) -> dict[str, int]:
    accepted = {name: end.events for name, end in ends(log).items()}
    for each in standing:
        for name, (_, events) in each.vector.items():
            accepted[name] = max(events, accepted.get(name, 0))
    return accepted


def _below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*")) if folder.is_dir() else []
