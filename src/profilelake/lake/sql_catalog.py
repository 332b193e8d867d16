"""Catalogs in a SQL database: a SQLite file beside the tables, or PostgreSQL for several machines.

Both are what other engines call a JDBC catalog: two tables, and a commit is one UPDATE of a row that asks for
the metadata file it was planned from.
"""

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.update import TableRequirement, TableUpdate
from sqlalchemy import ColumnElement, Engine, create_engine, event, or_, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, NoSuchModuleError, OperationalError, ProgrammingError

from profilelake.errors import Corrupt, Invalid, Unavailable
from profilelake.lake.catalog_answers import LOCKED, NotCommitted, answering, told
from profilelake.lake.file_io import storage_behind
from profilelake.lake.place import LakePlace

BUSY_TIMEOUT_SECONDS: Final = 10
"""How long a statement waits for another process that is writing to the catalog."""
CONNECT_SECONDS: Final = 10
"""How long connecting to PostgreSQL may take."""
STATEMENT_SECONDS: Final = 30
"""How long PostgreSQL may take for one statement; ours touch a few rows."""
CONNECTIONS_MAX: Final = 8
"""Connections of one process: a commit or a look-up holds one for some milliseconds."""
CONNECTIONS_KEPT: Final = 2
"""Of these stay open while nothing is asked."""
CONNECTION_AGE_SECONDS: Final = 1_800
"""Age at which a connection is made anew: proxies between forget those that last for ever."""

_LOCAL: Final = frozenset({"", "localhost", "127.0.0.1", "::1"})


class TableRowsCatalog(SqlCatalog):
    """A SQL catalog, committing from the table the caller holds instead of a fresh load.

    Metadata files never change, so if the location is still the same, so is everything planned
    from it; if it is not, nothing happens and the commit has failed. Saves reading and parsing the
    metadata, about a third of a small commit.
    """

    owns_metadata: Final = True
    """Metadata files are written, and removed, by whoever commits."""

    def __init__(self, name: str, engine: Engine, **properties: str) -> None:
        # Not the constructor between: it makes an engine of its own, without limits and time-outs.
        MetastoreCatalog.__init__(self, name, **properties)
        self.engine = engine
        self._init_catalog()

    @property
    def is_old(self) -> bool:
        """Whether its tables are of schema V0, as catalogs made them that know no views."""
        return self._schema_version == "v0"

    def pointers(self) -> dict[tuple[str, str], str]:
        """Return the current metadata file of every table, all of one moment."""
        statement = select(
            IcebergTables.table_namespace, IcebergTables.table_name, IcebergTables.metadata_location
        ).where(*self._ours(), IcebergTables.metadata_location.is_not(None))
        with self.engine.connect() as connection:
            rows = connection.execute(statement).all()
        return {(namespace, name): str(location) for namespace, name, location in rows}

    def metadata_location(self, namespace: str, name: str) -> str | None:
        """Return the current metadata file of a table, None where there is no such table."""
        statement = select(IcebergTables.metadata_location).where(
            *self._ours(), IcebergTables.table_namespace == namespace, IcebergTables.table_name == name
        )
        with self.engine.connect() as connection:
            return connection.execute(statement).scalar()

    def newer(self, key: tuple[str, str], held: str | None) -> Table | None:
        """Load a table, or return None while its metadata file is still `held`. Raises NoSuchTableError."""
        if held is not None and self.metadata_location(*key) == held:
            return None
        return self.load_table(key)

    def _ours(self) -> list[ColumnElement[bool]]:
        named = IcebergTables.catalog_name == self.name
        if self.is_old:
            return [named]
        # Other engines keep their views in the same rows.
        return [named, or_(IcebergTables.iceberg_type.is_(None), IcebergTables.iceberg_type == "TABLE")]

    def commit_table(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        """Commit, or fail, as PyIceberg's catalogs do.

        Raises:
            CommitFailedException: another commit came first.
            NotCommitted: somebody else has the row locked; nothing was changed.
        """
        staged = self._update_and_stage_table(table, table.name(), requirements, updates)
        if staged.metadata == table.metadata:
            return _response(table)
        self._write_metadata(staged.metadata, staged.io, staged.metadata_location)
        *namespace, name = table.name()
        statement = (
            update(IcebergTables)
            .where(
                IcebergTables.catalog_name == self.name,
                IcebergTables.table_namespace == ".".join(namespace),
                IcebergTables.table_name == name,
                IcebergTables.metadata_location == table.metadata_location,
            )
            .values(
                metadata_location=staged.metadata_location, previous_metadata_location=table.metadata_location
            )
        )
        try:
            with self.engine.begin() as connection:
                swapped = connection.execute(statement).rowcount
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in LOCKED:
                raise
            # The statement itself was refused, so the transaction is gone and nothing can come of it.
            storage_behind(table).remove([staged.metadata_location])
            raise NotCommitted(str(told(f"committing to {'.'.join(table.name())}", error))) from error
        if swapped != 1:
            storage_behind(table).remove([staged.metadata_location])
            raise CommitFailedException(
                f"table {'.'.join(table.name())} is no longer at {table.metadata_location}"
            )
        return _response(staged)


def _response(table: Table) -> CommitTableResponse:
    # Not the library's constructor: it would validate, and so copy, metadata we have just made.
    values: dict[str, Any] = {"metadata": table.metadata, "metadata_location": table.metadata_location}
    return CommitTableResponse.model_construct(None, **values)


def open_sql_catalog(name: str, place: LakePlace, properties: dict[str, str]) -> TableRowsCatalog:
    """Open the catalog of a place, made where the database has none yet.

    A SQLite catalog is put into WAL mode, so that readers in other processes neither wait for the committer
    nor keep it waiting. Open it after forking, connections are not shared.

    Raises: as `answering`.
    """
    doing = f"opening the catalog {place.catalog}"
    with answering(doing, opening=True):
        engine = _sqlite(doing, place.catalog) if place.kind == "sqlite" else _postgresql(place)
        try:
            return _opened(name, place, engine, properties)
        except BaseException:
            engine.dispose()
            raise


def _opened(name: str, place: LakePlace, engine: Engine, properties: dict[str, str]) -> TableRowsCatalog:
    try:
        catalog = TableRowsCatalog(name, engine, uri=place.catalog, **properties)
    except (OperationalError, ProgrammingError, IntegrityError) as error:
        if "already exists" not in str(error):
            raise
        # Another process made the catalog's tables between our look and our try.
        catalog = TableRowsCatalog(name, engine, uri=place.catalog, **properties)
    if catalog.is_old and place.kind == "postgresql":
        raise Invalid(
            f"opening the catalog {place.catalog}: iceberg_tables is of schema V0, and other engines are told V1; "
            "run there: ALTER TABLE iceberg_tables ADD COLUMN iceberg_type VARCHAR(5)"
        )
    return catalog


def _sqlite(doing: str, url: str) -> Engine:
    path = Path(make_url(url).database or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{doing}: it does not answer: {error}; retry later") from error
    except sqlite3.DatabaseError as error:
        raise Corrupt(f"{doing}: it cannot be read: {error}; restore it from backup") from error
    engine = create_engine(url)
    event.listen(engine, "connect", _configure_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}")
    # WAL syncs at each commit only at FULL; a swap that a power cut undoes would be a lost commit.
    connection.execute("PRAGMA synchronous=FULL")


def _postgresql(place: LakePlace) -> Engine:
    url = make_url(place.catalog).set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": f"profilelake-{os.getpid()}",
        # A commit that waits for a lock must end before the watchdogs of the processes do.
        "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={BUSY_TIMEOUT_SECONDS}s "
        f"-c idle_in_transaction_session_timeout={2 * STATEMENT_SECONDS}s",
        # A peer that vanished without a word is found in about a minute, not after two hours.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": STATEMENT_SECONDS * 1_000,
    }
    if leaves_machine(url, os.environ):
        options["sslmode"] = "require"
    for given in options.keys() & url.query.keys():
        del options[given]
    try:
        engine = create_engine(
            url,
            connect_args=options,
            pool_size=CONNECTIONS_KEPT,
            max_overflow=CONNECTIONS_MAX - CONNECTIONS_KEPT,
            pool_timeout=STATEMENT_SECONDS,
            pool_recycle=CONNECTION_AGE_SECONDS,
            # One round trip before each use; the connections of a database that was started anew are
            # found dead there, not in the midst of a commit.
            pool_pre_ping=True,
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise Invalid(
            f"opening the catalog {place.catalog}: {error}; run: pip install 'profilelake[postgres]'"
        ) from error
    event.listen(engine, "do_connect", _with_secret(place))
    return engine


def leaves_machine(url: URL, environment: Mapping[str, str]) -> bool:
    """Tell whether libpq may connect to another machine: it takes hosts from the query and its variables too.

    A service may name any host, in a file that only libpq reads.
    """
    if url.query.get("service") or environment.get("PGSERVICE"):
        return True
    hosts = [url.host or ""]
    for key, variable in (("host", "PGHOST"), ("hostaddr", "PGHOSTADDR")):
        given = url.query.get(key)
        if given is None and (key == "hostaddr" or not url.host):
            given = environment.get(variable)
        hosts += [given] if isinstance(given, str) else given or ()
    named = [host for part in hosts for host in part.split(",")]
    return not all(host in _LOCAL or host.startswith("/") for host in named)


def _with_secret(place: LakePlace) -> Callable[[object, object, list[Any], dict[str, Any]], None]:
    def give(_dialect: object, _record: object, _arguments: list[Any], named: dict[str, Any]) -> None:
        # Read at each connection: a password that was changed is good at once, and none is kept.
        secret = place.secret()
        if secret is not None:
            named["password"] = secret

    return give
