"""What the lake process tells of the tables: freshness, files, and what maintenance did."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge

from profilelake.pipeline.metrics import gauge


@dataclass(frozen=True, slots=True)
class TableSize:
    """How large a table is; `small` files are those that compaction will gather some day."""

    files: int = 0
    small: int = 0
    bytes: int = 0
    snapshots: int = 0

    def plus(self, other: "TableSize") -> "TableSize":
        """Return both together: the same table of two workspaces."""
        return TableSize(
            self.files + other.files,
            self.small + other.small,
            self.bytes + other.bytes,
            self.snapshots + other.snapshots,
        )


class LakeMetrics:
    """Gauges and counters of the lake process. Tables of all workspaces count as one: labels stay few."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._age = gauge(
            "profilelake_lake_age_seconds",
            "Age of the oldest event of the last commit when it was committed; more while one waits longer",
            registry,
        )
        self._maintained = gauge(
            "profilelake_lake_maintained_at_seconds", "When maintenance last finished a step (Unix)", registry
        )
        self._sizes: dict[str, Gauge] = {
            name: Gauge(
                f"profilelake_lake_{name}",
                about,
                ("table",),
                registry=registry,
                multiprocess_mode="mostrecent",
            )
            for name, about in (
                ("files", "Data files of the newest snapshots"),
                ("small_files", "Data files that compaction will gather"),
                ("bytes", "Bytes of the data files of the newest snapshots"),
                ("snapshots", "Snapshots that are kept"),
            )
        }
        self._steps = Counter(
            "profilelake_lake_maintenance_steps",
            "Steps of maintenance that changed something",
            ("step",),
            registry=registry,
        )
        self._failures = Counter(
            "profilelake_lake_maintenance_failures",
            "Steps of maintenance that failed and are tried again",
            registry=registry,
        )
        self._rows_expired = Counter(
            "profilelake_failed_events_expired",
            "Failed events that were older than pipeline.failed_retention_days and are gone",
            registry=registry,
        )
        self._compacted = Counter(
            "profilelake_lake_compacted_bytes", "Bytes of small files gathered", registry=registry
        )
        self._swept_bytes = Counter(
            "profilelake_lake_swept_bytes", "Bytes of unreachable files removed", registry=registry
        )
        self._swept_files = Counter(
            "profilelake_lake_swept_files", "Unreachable files removed", registry=registry
        )

    def age(self, seconds: float) -> None:
        """Tell how old the oldest event was that a commit brought, or that waits for one."""
        self._age.set(seconds)

    def sizes(self, tables: Mapping[str, TableSize]) -> None:
        """Tell how large tables are."""
        for table, size in tables.items():
            self._sizes["files"].labels(table).set(size.files)
            self._sizes["small_files"].labels(table).set(size.small)
            self._sizes["bytes"].labels(table).set(size.bytes)
            self._sizes["snapshots"].labels(table).set(size.snapshots)

    def rows_expired(self, rows: int) -> None:
        """Count failed events whose time was over."""
        self._rows_expired.inc(rows)

    def done(self, step: str, now: int) -> None:
        """Count a step that changed something, at `now` in microseconds."""
        self._steps.labels(step).inc()
        self._maintained.set(now / 1_000_000)

    def failed(self) -> None:
        """Count a step that did not come to its end."""
        self._failures.inc()

    def compacted(self, size: int) -> None:
        """Count bytes of files that were gathered."""
        self._compacted.inc(size)

    def swept(self, files: int, size: int) -> None:
        """Count files that were removed."""
        self._swept_files.inc(files)
        self._swept_bytes.inc(size)
