"""Whole tables as one stream: Arrow, Parquet, NDJSON or CSV, a batch at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from profilelake.errors import Invalid, NotFound
from profilelake.lake import sql
from profilelake.lake.maintenance import SNAPSHOT_AGE_MIN_MS
from profilelake.lake.reading import select
from profilelake.semantics.rules import Collection
from profilelake.serve import _visible
from profilelake.serve._past import Past
from profilelake.serve._visible import Allowed

BATCH_ROWS: Final = 8_192
EXPORT_SECONDS_MAX: Final = SNAPSHOT_AGE_MIN_MS / 1000 * 0.8
"""Files of a snapshot are kept at least a little longer than that; more is read from the tables directly."""
TABLES: Final[Mapping[str, str]] = {"profiles": "last_seen_at", "events": "received_at"}
"""What can be exported, and the column that `since` is about."""
MEDIA_TYPES: Final[Mapping[str, str]] = {
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
}

_OURS: Final = frozenset({"slot"})
"""Columns that only say where a row lies."""
_DOCUMENTS: Final = frozenset({"identifiers", "traits", "consent", "context", "properties", "integrations"})
"""Columns with JSON text: part of a line of NDJSON as they are."""
_RESOURCES: Final = {"identifiers": "external_ids", "traits": "traits", "consent": "consent"}
"""Which resource of the Profile API a column of `profiles` shows."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is wanted. `resources` and `traits` are what a scoped token may see, None for all.

    `since` (microseconds) leaves out what was not seen, or received, from then on.
    """

    table: str
    format: str
    collection: Collection | None = None
    since: int | None = None
    resources: frozenset[str] | None = None
    traits: Allowed = None

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            raise Invalid(f"exporting {self.table!r}: it is one of {', '.join(TABLES)}")
        if self.format not in MEDIA_TYPES:
            raise Invalid(f"exporting as {self.format!r}: it is one of {', '.join(MEDIA_TYPES)}")


def export(past: Past, workspace: str, wanted: Export) -> Iterator[bytes]:
    """Yield a table as it is published, as bytes of a format.

    The snapshot is chosen before the first byte; whatever is committed meanwhile changes nothing.

    Raises:
        NotFound: there are no tables yet.
        Unavailable: it took longer than files are kept.
        Corrupt: a file of a table is missing or damaged.
    """
    with past.asking(f"exporting {wanted.table}", EXPORT_SECONDS_MAX) as connection:
        lake = past.lake()
        try:
            rows = select(lake, workspace, wanted.table)
        except NotFound as error:
            raise NotFound(
                f"exporting {wanted.table}: nothing was published yet; start the server once"
            ) from error
        yield from _encoded(_reader(connection, rows, wanted), wanted)


def _reader(connection: duckdb.DuckDBPyConnection, rows: str, wanted: Export) -> pa.RecordBatchReader:
    relation = connection.sql(f"SELECT * FROM ({rows})")  # noqa: S608 - made of names of files and columns
    columns = []
    for name, type in zip(relation.columns, map(str, relation.types), strict=True):
        if name not in _OURS:
            columns.append(f"{_shown(name, type, wanted)} AS {sql.identifier(name)}")
    conditions = ["true"]
    parameters: dict[str, Any] = {}
    if wanted.collection is not None:
        conditions.append("collection = $collection")
        parameters["collection"] = wanted.collection
    if wanted.since is not None:
        conditions.append(f"{TABLES[wanted.table]} >= make_timestamptz($since)")
        parameters["since"] = wanted.since
    question = f"SELECT {', '.join(columns)} FROM ({rows}) WHERE {' AND '.join(conditions)}"  # noqa: S608
    reader: pa.RecordBatchReader = connection.sql(question, params=parameters).to_arrow_reader(BATCH_ROWS)
    return reader


def _shown(name: str, type: str, wanted: Export) -> str:
    """Return a column as it goes out: binary in hex, and times as text where the format has none."""
    column = sql.identifier(name)
    resource = _RESOURCES.get(name) if wanted.table == "profiles" else None
    if resource is not None and wanted.resources is not None and resource not in wanted.resources:
        return "NULL::VARCHAR"
    if type == "BLOB":
        return f"lower(hex({column}))"
    if wanted.format in ("ndjson", "csv") and type.startswith("TIMESTAMP"):
        return f"strftime({column}, '%Y-%m-%dT%H:%M:%S.%fZ')"
    return column


def _encoded(reader: pa.RecordBatchReader, wanted: Export) -> Iterator[bytes]:
    sink = _Sink()
    with _WRITERS[wanted.format](sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(_visible_rows(batch, wanted))
            yield from sink.taken()
    yield from sink.taken()


def _visible_rows(batch: pa.RecordBatch, wanted: Export) -> pa.RecordBatch:
    consents = wanted.resources is None or "consent" in wanted.resources
    if (consents and wanted.traits is None) or "traits" not in batch.schema.names:
        return batch
    place = batch.schema.get_field_index("traits")
    texts = (
        None if text is None else bytes(_visible.traits(text, wanted.traits, consents=consents)).decode()
        for text in batch.column(place).to_pylist()
    )
    return batch.set_column(place, batch.schema.field(place), pa.array(texts, pa.string()))


class _Sink:
    """A file for writers, whose bytes are taken away piece by piece."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True

    def taken(self) -> Iterable[bytes]:
        """Return what was written since."""
        parts, self._parts = self._parts, []
        return [b"".join(parts)] if parts else []


class _Lines:
    """Writes each row as one line of JSON; documents stand in it digit by digit as they were stored."""

    def __init__(self, sink: _Sink, schema: pa.Schema) -> None:
        self._sink = sink
        self._connection = duckdb.connect()
        self._connection.execute("SET enable_progress_bar=false")
        members = " || ',' || ".join(f"'{_json_text(name)}:' || {_json_value(name)}" for name in schema.names)
        self._question = f"SELECT '{{' || {members} || '}}\n' AS line FROM batch"  # noqa: S608

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Write some rows."""
        self._connection.register("batch", pa.Table.from_batches([batch]))
        lines = self._connection.sql(self._question).to_arrow_table().column("line")
        self._sink.write("".join(lines.to_pylist()).encode())


def _json_text(name: str) -> str:
    return '"' + name.replace("'", "''") + '"'


def _json_value(name: str) -> str:
    column = sql.identifier(name)
    return f"coalesce({column if name in _DOCUMENTS else f'to_json({column})::VARCHAR'}, 'null')"


_WRITERS: Final[Mapping[str, Callable[[_Sink, pa.Schema], Any]]] = {
    "arrow": lambda sink, schema: pa.ipc.new_stream(pa.PythonFile(sink, "w"), schema),
    "parquet": lambda sink, schema: pa.parquet.ParquetWriter(
        pa.PythonFile(sink, "w"), schema, compression="zstd"
    ),
    "csv": lambda sink, schema: pa.csv.CSVWriter(pa.PythonFile(sink, "w"), schema),
    "ndjson": _Lines,
}
