"""What is done to the tables of a workspace besides publishing: compaction, expiry, sweeping.

Every step is bounded, may be killed anywhere and repeated, and leaves a line in the record of maintenance.
When it is done is decided elsewhere: by `tending` in the lake process, by a command without one.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from profilelake.errors import Conflict, NotFound
from profilelake.lake.catalog import Lake
from profilelake.lake.compaction import Compacted, next_step
from profilelake.lake.files import sync_directory
from profilelake.lake.maintenance import Swept
from profilelake.lake.schema import FILE_BYTES_TARGET, KIND
from profilelake.lake.table import DEFAULT_POLICY, LakeTable
from profilelake.lake.tables import TableDef
from profilelake.ops.clock import Clock
from profilelake.ops.failpoints import reach
from profilelake.pipeline.lake_metrics import TableSize
from profilelake.pipeline.lake_requests import Request
from profilelake.pipeline.register import TABLES

RECORD_BYTES_MAX: Final = 16 << 20
"""Of the record of maintenance; at this size it is put aside, and the one put aside before goes."""
SWEEP_FILES_MAX: Final = 10_000
"""Files that one sweep removes at most; the next goes on."""
DAY_CLOSED_SECONDS: Final = 900
"""A day counts as over this long after its end: until then its last events may still arrive."""
_DAY_SECONDS: Final = 86_400

_log = logging.getLogger(__name__)


class Record:
    """What maintenance did, one line of JSON each: which table, which files, when. No personal data."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def write(self, step: str, table: str, **facts: Any) -> None:
        """Add a line; it is on disk before this returns."""
        line = json.dumps({"at": self._clock(), "step": step, "table": table, **facts}) + "\n"
        if self._path.exists() and self._path.stat().st_size > RECORD_BYTES_MAX:
            self._path.replace(self._path.with_suffix(".1"))
        with self._path.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(self._path.parent)


@dataclass(slots=True)
class Upkeep:
    """The tables of one workspace, to be tended by one thread of the process that commits to them."""

    workspace: str
    lake: Lake
    clock: Clock
    record: Record
    stopping: Callable[[], bool] = lambda: False
    _unreachable: dict[str, dict[str, int]] = field(default_factory=dict)
    """Per table the files that nothing reached at the last look, and since when."""

    def tables(self, names: Sequence[str] = ()) -> list[LakeTable]:
        """Return every table on disk, base and log of current ones; only those of some names if given.

        Raises:
            NotFound: there is no table of that name.
        """
        tables = [table for definition in TABLES for table in self._parts(definition)]
        known = {shown_name(table) for table in tables}
        for name in names:
            if name not in known:
                raise NotFound(f"tending table {name}: no such table; there are {', '.join(sorted(known))}")
        return [table for table in tables if not names or shown_name(table) in names]

    def _parts(self, definition: TableDef) -> list[LakeTable]:
        if definition.kind != "current":
            return [self.lake.table(self.workspace, definition)]
        table = self.lake.current_table(self.workspace, definition)
        return [table.base, table.log]

    def compact(self, table: LakeTable, *, everything: bool = False) -> Compacted | None:
        """Do one step of compaction; with `everything` days that are not over are treated as if they were."""
        if table.definition.kind == "current" or _is_log(table):
            return None
        open_from = None if everything else (self.clock() // 1_000_000 - DAY_CLOSED_SECONDS) // _DAY_SECONDS
        try:
            done = table.compact(open_from, stopping=self.stopping)
        except Conflict as error:
            _log.info("compaction begins anew: %s", error)
            return None
        if done is not None:
            self.record.write(
                "compact",
                table.name,
                files_before=done.files_before,
                files_after=done.files_after,
                rows=done.rows,
                bytes_before=done.bytes_before,
                bytes_after=done.bytes_after,
            )
        return done

    def expire(self, table: LakeTable, age_seconds: float) -> int:
        """Forget snapshots older than that which nothing needs; return how many."""
        expired = table.expire_old(age_seconds)
        if expired:
            self.record.write("expire", table.name, snapshots=expired)
        return expired

    def sweep(
        self, table: LakeTable, min_age_seconds: float, seen_for_seconds: float, *, dry_run: bool = False
    ) -> list[Swept]:
        """Remove files that nothing reaches, and return them.

        A file goes when it is older than `min_age_seconds` (more than the longest write takes) and has been
        seen unreachable for `seen_for_seconds` by this process (so that whoever planned a read of it before
        has finished). With `dry_run` it is only returned.
        """
        now = self.clock() // 1_000_000
        before = self._unreachable.get(table.name, {})
        found = table.unreachable()
        since = {f.location: before.get(f.location, now) for f in found}
        gone = [
            f
            for f in found
            if f.modified_at < now - min_age_seconds and since[f.location] <= now - seen_for_seconds
        ][:SWEEP_FILES_MAX]
        if not dry_run:
            self._unreachable[table.name] = since
        if gone and not dry_run:
            root = table.storage.place(self.lake.warehouse)
            # What is to go is on record before it goes: a crash in between leaves no file missing untold.
            self.record.write(
                "sweep",
                table.name,
                files=len(gone),
                bytes=sum(f.bytes for f in gone),
                removed=[_below(root, table.storage.place(f.location)) for f in gone],
            )
            reach("sweep.recorded")
            table.storage.remove(f.location for f in gone)
            reach("sweep.removed")
        return gone

    def carry_out(
        self, request: Request, monotonic: Callable[[], float] = time.monotonic
    ) -> list[dict[str, Any]]:
        """Do what a command asks for; return a row for each table that it concerned.

        Raises:
            NotFound: there is no table of that name.
            Errors of the step that failed; what was done before stays done.
        """
        until = monotonic() + request.seconds_max
        rows: list[dict[str, Any]] = []
        for table in self.tables(request.tables):
            if request.action == "expire":
                rows.append(self._expired(table, request))
            elif table.definition.kind != "current" and not _is_log(table):
                rows.append(self._compacted(table, request, lambda: monotonic() < until))
        return rows

    def _compacted(self, table: LakeTable, request: Request, in_time: Callable[[], bool]) -> dict[str, Any]:
        row: dict[str, Any] = {
            "table": shown_name(table),
            "steps": 0,
            "files_before": len(table.files()),
            "files_after": 0,
            "rows": 0,
            "bytes_before": 0,
            "bytes_after": 0,
            "finished": True,
        }
        if request.dry_run:
            group = next_step(table.files(), None, DEFAULT_POLICY)
            row |= {"files_after": row["files_before"], "finished": not group}
            return row | {"rows": sum(f.rows for f in group), "bytes_before": sum(f.bytes for f in group)}
        while (done := self.compact(table, everything=True)) is not None:
            row["steps"] += 1
            row["rows"] += done.rows
            row["bytes_before"] += done.bytes_before
            row["bytes_after"] += done.bytes_after
            if not in_time():
                row["finished"] = False
                break
        row["files_after"] = len(table.files())
        return row

    def _expired(self, table: LakeTable, request: Request) -> dict[str, Any]:
        if request.dry_run:
            expired = table.expire_old(request.age_seconds, dry_run=True)
        else:
            expired = self.expire(table, request.age_seconds)
        swept = self.sweep(table, request.orphan_seconds, 0.0, dry_run=request.dry_run)
        return {
            "table": shown_name(table),
            "snapshots_expired": expired,
            "snapshots": len(table.snapshots()),
            "files_swept": len(swept),
            "bytes_swept": sum(f.bytes for f in swept),
        }


def size_of(table: LakeTable) -> TableSize:
    """Return how large a table is now."""
    files = table.files()
    return TableSize(
        files=len(files),
        small=sum(f.bytes < FILE_BYTES_TARGET // 2 for f in files),
        bytes=sum(f.bytes for f in files),
        snapshots=len(table.snapshots()),
    )


def shown_name(table: LakeTable) -> str:
    """Return the name by which SQL and the commands know a table: bare where it lies in `ws_W` itself."""
    return table.name if table.definition.part else table.definition.name


def _below(root: str, place: str) -> str:
    """Return a place as seen from the warehouse; whole where the table lies elsewhere."""
    return place.removeprefix(f"{root}/")


def _is_log(table: LakeTable) -> bool:
    return table.properties()[KIND] == "changes"
