"""A table as it was at one moment, as values that other processes read it by, a share at a time.

`reading` shows tables to this process; here the driver of a batch plan notes which files a table has, and
tasks read them wherever they run. Files of a base are read without what the change log has newer, and the
log is a share of its own.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from pyiceberg.schema import Schema

from profilelake.errors import Unavailable
from profilelake.lake import sql
from profilelake.lake.catalog import Lake, PublishedTable
from profilelake.lake.current import Generation
from profilelake.lake.reading import PLAN_ATTEMPTS_MAX
from profilelake.lake.schema import KEY, KIND
from profilelake.lake.sql import LiveFile
from profilelake.lake.tables import Part


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A data file."""

    location: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Share:
    """Some files of a table that are read together.

    Of a current table these are files of the base, with the whole log for the keys that changed since; or no
    files, and then what the log says itself.
    """

    table: str
    files: tuple[str, ...]
    log: tuple[str, ...] = ()
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """How the files of a table are read; schemas are Iceberg's as JSON. A table without `key` has no log."""

    schema: str
    key: str | None = None
    log_schema: str = ""
    through: int = -1

    def select(self, share: Share, place: Callable[[str], str]) -> str:
        """Return a SELECT of the rows of a share; `place` gives the name by which a file is opened."""
        schema = Schema.model_validate_json(self.schema)
        if self.key is None or not share.log:
            return sql.select_locations(schema, share.files, place)
        changes = sql.select_locations(Schema.model_validate_json(self.log_schema), share.log, place)
        if not share.files:
            names = [field.name for field in schema.fields]
            return sql.select_upserts(sql.select_newest(changes, self.key, self.through), names)
        return sql.select_unchanged(
            sql.select_locations(schema, share.files, place), changes, self.key, self.through
        )


@dataclass(frozen=True)
class PinnedTable:
    """The files a table had; they exist for as long as snapshots are kept (`maintenance.SNAPSHOT_AGE_MIN_MS`)."""

    name: str
    shape: Shape
    files: tuple[PinnedFile, ...]
    log: tuple[PinnedFile, ...]
    snapshots: tuple[int, ...]
    """Ids of the snapshots of base and log: what names the table's content."""

    @classmethod
    def of(cls, lake: Lake, workspace: str, name: str, part: Part = "") -> "PinnedTable":
        """Return a table as the catalog has it now.

        Raises:
            NotFound: there is no such table.
            Unavailable: it is merged faster than it can be read.
        """
        base = lake.load(workspace, name, part)
        if base.table.properties.get(KIND) != "current":
            return cls(name, Shape(_json(base)), _pinned(base.files), (), _snapshots(base))
        for _ in range(PLAN_ATTEMPTS_MAX):
            # The base first: changes the log has lost since are in a later base, never in neither.
            generation = Generation.of_base(base.table.properties)
            log = lake.load(workspace, f"{name}_changes", part)
            if Generation.cut(log.table.properties) <= generation:
                pending = [file for file in log.files if file.sequence > generation.files_through]
                shape = Shape(_json(base), base.table.properties[KEY], _json(log), generation.through)
                return cls(name, shape, _pinned(base.files), _pinned(pending), _snapshots(base, log))
            base = lake.load(workspace, name, part)
        raise Unavailable(
            f"reading {name} of workspace {workspace}: it is merged faster than read; retry later"
        )

    def adding(self, files: Iterable[PinnedFile]) -> "PinnedTable":
        """Return the table with more files, which no snapshot names yet."""
        return replace(self, files=(*self.files, *files))

    @property
    def rows(self) -> int:
        """How many rows there are; of a current table at most."""
        return sum(file.rows for file in (*self.files, *self.log))

    @property
    def bytes(self) -> int:
        """How large the files are."""
        return sum(file.bytes for file in (*self.files, *self.log))

    def shares(self, bytes_max: int) -> list[Share]:
        """Return shares of about this size (one file at least) that together are the table."""
        log = tuple(file.location for file in self.log)
        found = [
            Share(self.name, tuple(file.location for file in files), log, sum(file.bytes for file in files))
            for files in _grouped(self.files, bytes_max)
        ]
        return [*found, Share(self.name, (), log, sum(file.bytes for file in self.log))] if log else found


def _grouped(files: Sequence[PinnedFile], bytes_max: int) -> list[list[PinnedFile]]:
    groups: list[list[PinnedFile]] = []
    room = 0
    for file in files:
        if not groups or file.bytes > room:
            groups.append([])
            room = bytes_max
        groups[-1].append(file)
        room -= file.bytes
    return groups


def _pinned(files: Sequence[LiveFile]) -> tuple[PinnedFile, ...]:
    return tuple(PinnedFile(file.location, file.rows, file.bytes) for file in files)


def _json(published: PublishedTable) -> str:
    return str(published.table.schema().model_dump_json())


def _snapshots(*tables: PublishedTable) -> tuple[int, ...]:
    found = (published.table.current_snapshot() for published in tables)
    return tuple(-1 if snapshot is None else snapshot.snapshot_id for snapshot in found)
