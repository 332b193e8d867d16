"""Whether a catalog does what tables need of it: tried in a namespace of its own, which goes again."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import pyarrow as pa
import requests
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table
from pyiceberg.table.update import AssertRefSnapshotId, SetPropertiesUpdate
from sqlalchemy import text

from profilelake.lake.catalog_answers import answering
from profilelake.lake.catalogs import LakeCatalog, close_catalog, open_catalog
from profilelake.lake.file_io import storage_behind
from profilelake.lake.place import LakePlace
from profilelake.lake.rest_catalog import ANSWER_SECONDS, CONNECT_SECONDS

_SCHEMA = pa.schema([("number", pa.int64())])
_HOLDERS = text(
    "SELECT DISTINCT a.pid, extract(epoch FROM clock_timestamp() - a.xact_start)::bigint FROM pg_locks l "
    "JOIN pg_stat_activity a USING (pid) WHERE l.relation = to_regclass('iceberg_tables') "
    "AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') "
    "AND a.pid <> pg_backend_pid() AND a.xact_start < clock_timestamp() - interval '5 seconds'"
)


@dataclass(frozen=True, slots=True)
class Probed:
    """What a catalog is, and how its clock stands to ours; `encrypted` is None where nothing passes a network."""

    version: str
    clock_ahead_seconds: float
    encrypted: bool | None
    holders: tuple[tuple[int, int], ...]
    """Transactions of PostgreSQL that keep others from committing: process, and for how many seconds."""
    commit_seconds: float
    stale_commit_refused: bool


def probe(place: LakePlace) -> Probed:
    """Make a table, commit to it, see a stale commit refused, and drop it.

    Raises:
        Invalid: the catalog refuses us.
        Unavailable: it does not answer, is locked, or lacks rights for one of these.
    """
    catalog = open_catalog(place)
    try:
        with answering(f"asking the catalog {place.catalog}"):
            version, ahead, encrypted, holders = _of_server(place, catalog)
        doing = f"trying a table in the catalog {place.catalog}"
        with answering(doing), _scratch(catalog) as key:
            location = f"{place.warehouse}/_doctor/{key[0]}/{key[1]}"
            table = catalog.create_table(
                key, _SCHEMA, location=None if place.table_locations == "catalog" else location
            )
            stale = catalog.load_table(key)
            begun = time.monotonic()
            table.append(pa.table({"number": [1]}, _SCHEMA))
            took = time.monotonic() - begun
            return Probed(version, ahead, encrypted, holders, took, _refused(stale))
    finally:
        close_catalog(catalog)


def _refused(stale: Table) -> bool:
    # Not by a transaction of the library, which would load the table again and commit after all.
    requirement = AssertRefSnapshotId.model_validate({"ref": "main", "snapshot-id": None})
    try:
        stale.catalog.commit_table(stale, (requirement,), (SetPropertiesUpdate(updates={"late": "yes"}),))
    except CommitFailedException:
        return True
    return False


@contextmanager
def _scratch(catalog: LakeCatalog) -> Iterator[tuple[str, str]]:
    namespace, name = f"profilelake_doctor_{uuid.uuid4().hex[:12]}", "probe"
    catalog.create_namespace(namespace)
    try:
        yield namespace, name
    finally:
        with suppress(Exception):
            table = catalog.load_table((namespace, name))
            storage, location = storage_behind(table), table.location()
            catalog.drop_table((namespace, name))
            storage.remove([file.location for file in storage.list(location)])
        with suppress(Exception):
            catalog.drop_namespace(namespace)


def _of_server(
    place: LakePlace, catalog: LakeCatalog
) -> tuple[str, float, bool | None, tuple[tuple[int, int], ...]]:
    if place.kind == "rest":
        answer = requests.head(place.catalog, timeout=(CONNECT_SECONDS, ANSWER_SECONDS))
        now, stamped = time.time(), answer.headers.get("Date")
        ahead = parsedate_to_datetime(stamped).timestamp() - now if stamped else 0.0
        # To a second only, and the way takes its time too.
        ahead = 0.0 if abs(ahead) < 2 else ahead
        version = answer.headers.get("Server", "Iceberg REST")
        return version, ahead, place.catalog.startswith("https://"), ()
    with catalog.engine.connect() as connection:  # type: ignore[union-attr]
        if place.kind == "sqlite":
            return f"SQLite {connection.execute(text('SELECT sqlite_version()')).scalar()}", 0.0, None, ()
        version = str(connection.execute(text("SHOW server_version")).scalar())
        stamped = connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar()
        secure = connection.execute(
            text(
                "SELECT ssl OR client_addr IS NULL FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
                "WHERE pid = pg_backend_pid()"
            )
        ).scalar()
        holders = tuple((int(pid), int(seconds)) for pid, seconds in connection.execute(_HOLDERS))
        return f"PostgreSQL {version}", float(stamped or 0) - time.time(), secure, holders
