"""What is read of the past: rows of the lake and, behind them, what micro-batches have left for it.

A transaction of the state comes first, the newest snapshot of a table after it. The snapshot says how
far it reaches; what is behind that is in the recent runs and the outbox of the transaction, so every
row is found once, whatever is published meanwhile.
"""

import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.errors import Invalid, NotFound, Unavailable
from profilelake.lake import lookup, sql
from profilelake.lake.catalog import Lake, PublishedTable
from profilelake.lake.lookup import Slice
from profilelake.lake.reading import damage_told
from profilelake.lake.tables import TableDef
from profilelake.landing.tables import EVENT_COPIES, EVENTS
from profilelake.semantics.rules import Collection as Kind
from profilelake.state import outbox, recent
from profilelake.state.recent import RunReader
from profilelake.state.store import Tx

MEMORY_LIMIT: Final = "512MB"
"""What all questions about the past may use together; larger sorts spill to disk."""
THREADS: Final = 2
QUESTION_SECONDS_MAX: Final = 30.0
FILES_MAX: Final = 4_096
"""Files that one page may have to look into."""
RECENT_ROWS_MAX: Final = 200_000
"""Rows of a profile that are not in the lake yet."""
SET_COLUMN: Final[dict[Kind, str]] = {"users": "set_id", "accounts": "account_set_id"}
WAITING: Final = "waiting_rows"


@dataclass(frozen=True, slots=True)
class Found:
    """Where rows of some keys are: files of one snapshot, and a table of rows that are behind it."""

    published: PublishedTable | None
    slices: list[Slice]
    waiting: pa.Table


class Past:
    """Reads the tables of one lake, for one process. Questions may be asked by several threads."""

    def __init__(
        self, lake: Callable[[], Lake], recent_directory: Callable[[str], Path], spill: Path
    ) -> None:
        """Read `lake`, opened when it is first asked; DuckDB spills into `spill`, which nobody else uses."""
        self._open = lake
        self._recent_directory = recent_directory
        self._spill = spill
        self._lock = threading.Lock()
        self._lake: Lake | None = None
        self._connection: duckdb.DuckDBPyConnection | None = None

    def start(self) -> None:
        """Throw away what an earlier process spilled: rows of people, which a kill leaves behind."""
        shutil.rmtree(self._spill, ignore_errors=True)
        self._spill.mkdir(mode=0o700, parents=True)

    def close(self) -> None:
        """Give memory and files back."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            if self._lake is not None:
                self._lake.close()
            self._connection = self._lake = None

    @contextmanager
    def asking(
        self, what: str, seconds_max: float = QUESTION_SECONDS_MAX
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection for one question, ended when it takes too long.

        Raises:
            Unavailable: it took too long, or more memory than there is.
            Corrupt: a file of a table is missing or damaged.
        """
        with self._lock:
            if self._connection is None:
                self._spill.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._connection = sql.connect(MEMORY_LIMIT, str(self._spill), self._opened().storage)
                self._connection.execute(f"SET threads={THREADS}")
            cursor = self._connection.cursor()
        cursor.execute("SET TimeZone='UTC'")
        timer = threading.Timer(seconds_max, cursor.interrupt)
        timer.start()
        try:
            with damage_told():
                yield cursor
        except duckdb.InterruptException as error:
            raise Unavailable(
                f"{what}: it took more than {seconds_max:g} s; ask for a shorter time, or with SQL"
            ) from error
        except duckdb.OutOfMemoryException as error:
            raise Unavailable(
                f"{what}: it needs more than {MEMORY_LIMIT}; ask for less, or with SQL"
            ) from error
        finally:
            timer.cancel()
            cursor.close()

    def lake(self) -> Lake:
        """Return the lake."""
        with self._lock:
            return self._opened()

    def _opened(self) -> Lake:
        if self._lake is None:
            self._lake = self._open()
        return self._lake

    def events(
        self,
        tx: Tx,
        workspace: str,
        collection: Kind,
        keys: Collection[bytes],
        *,
        received_from: int | None = None,
        received_to: int | None = None,
    ) -> Found:
        """Return where the events of these sets are.

        Raises:
            FileNotFoundError: a run was merged away since the transaction began; begin another one.
            Invalid: there are too many files or rows to look through.
        """
        runs = recent.load(tx, workspace)
        published = self._published(workspace, EVENTS)
        reached = _reached(published)
        column = SET_COLUMN[collection]
        # A reader of its own: one that is kept between questions belongs to one thread.
        batches = RunReader(self._recent_directory(workspace)).rows(
            [run for run in runs if run.sequence_max > reached],
            sorted(keys),
            EVENTS.schema().names,
            RECENT_ROWS_MAX,
        )
        waiting = EVENTS.shape(pa.Table.from_batches(batches)) if batches else EVENTS.schema().empty_table()
        return _found(published, column, keys, waiting, received_from, received_to)

    def copies(
        self, tx: Tx, workspace: str, collection: Kind, keys: Collection[bytes], received_to: int
    ) -> Found:
        """Return where earlier copies of events of these sets are that came late."""
        return self._appended(
            tx, workspace, EVENT_COPIES, SET_COLUMN[collection], keys, received_to=received_to
        )

    def has_copies(
        self, tx: Tx, workspace: str, collection: Kind, keys: Collection[bytes], received_to: int
    ) -> bool:
        """Tell whether there can be any."""
        found = self.copies(tx, workspace, collection, keys, received_to)
        return bool(found.slices or found.waiting.num_rows)

    def appended(
        self,
        tx: Tx,
        workspace: str,
        definition: TableDef,
        keys: Collection[bytes],
        received_to: int | None = None,
    ) -> Found:
        """Return where the rows of these sets are in a table that is filled from the outbox."""
        return self._appended(tx, workspace, definition, "set_id", keys, received_to=received_to)

    def _appended(
        self,
        tx: Tx,
        workspace: str,
        definition: TableDef,
        column: str,
        keys: Collection[bytes],
        *,
        received_to: int | None,
    ) -> Found:
        published = self._published(workspace, definition)
        wanted = pa.array(sorted(keys), definition.schema().field(column).type)
        parts = [definition.schema().empty_table()]
        rows = 0
        for part in outbox.parts(tx, workspace, definition.name, _reached(published)):
            parts.append(part.filter(pc.is_in(part.column(column), wanted)))
            rows += parts[-1].num_rows
            if rows > RECENT_ROWS_MAX:
                raise Invalid(
                    f"reading more than {RECENT_ROWS_MAX:,} recent rows of one profile: ask with SQL"
                )
        waiting = definition.shape(pa.concat_tables(parts, promote_options="default"))
        return _found(published, column, keys, waiting, None, received_to)

    def _published(self, workspace: str, definition: TableDef) -> PublishedTable | None:
        try:
            with self._lock_for_lake() as lake:
                return lake.load(workspace, definition.name)
        except NotFound:
            return None

    @contextmanager
    def _lock_for_lake(self) -> Iterator[Lake]:
        lake = self.lake()
        with self._lock:
            yield lake


def _reached(published: PublishedTable | None) -> int:
    """Return through which micro-batch the snapshot has all rows."""
    progress = None if published is None else published.progress
    return -1 if progress is None else progress.sequence


def _found(
    published: PublishedTable | None,
    column: str,
    keys: Collection[bytes],
    waiting: pa.Table,
    received_from: int | None,
    received_to: int | None,
) -> Found:
    if published is None:
        return Found(None, [], waiting)
    slices = lookup.candidates(published, column, keys, received_from=received_from, received_to=received_to)
    if len(slices) > FILES_MAX:
        raise Invalid(
            f"reading the past of a profile: it may lie in {len(slices):,} files, more than {FILES_MAX:,}; ask for a"
            " shorter time (`start`), or compact the table: profilelake lake compact"
        )
    return Found(published, slices, waiting)


def select(
    connection: duckdb.DuckDBPyConnection,
    found: Found,
    column: str,
    keys: Collection[bytes],
    slices: Sequence[Slice] | None = None,
    *,
    waiting: bool = True,
    name: str = WAITING,
) -> str:
    """Return a SELECT of what was found: rows of some of the files, or all, and those that wait.

    `name` is that under which waiting rows stand on the connection.
    """
    parts = []
    chosen = found.slices if slices is None else slices
    if found.published is not None and chosen:
        files = [one.file for one in chosen]
        parts.append(lookup.select_keys(connection, found.published, files, column, keys))
    if waiting or not parts:
        connection.register(name, found.waiting if waiting else found.waiting.slice(0, 0))
        parts.append(f"SELECT * FROM {name}")  # noqa: S608 - a constant
    return " UNION ALL BY NAME ".join(f"({part})" for part in parts)
